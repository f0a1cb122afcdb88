# Settings of the REST module, each switched by a reload, and the keys and claims of
# other issuers' tokens.
use strict;
use warnings;
use JSON::PP;
use MIME::Base64 qw(encode_base64url encode_base64);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);
use OrionHttp;

my $secret = 'a secret of more than thirty-two bytes';
my ($node, $port) = OrionHttp::server('rest_settings', qq{
orion.executor_count = 1
orion.rest_schemas = 'public'
orion.jwt_secret = '$secret'
});
$node->safe_psql('postgres', q{
CREATE EXTENSION orion;
CREATE ROLE guest;
CREATE ROLE member;
GRANT guest, member TO orion_authenticator;
CREATE SCHEMA other;
CREATE FUNCTION other.helper() RETURNS text LANGUAGE sql AS $$ SELECT 'helped' $$;
GRANT USAGE ON SCHEMA other TO PUBLIC;
CREATE FUNCTION who() RETURNS text LANGUAGE sql STABLE AS 'SELECT current_user::text';
CREATE FUNCTION claim(name text) RETURNS text LANGUAGE sql STABLE AS $$ SELECT current_setting('request.jwt.claims')::json ->> name $$;
CREATE FUNCTION setting(name text) RETURNS text LANGUAGE sql STABLE AS 'SELECT current_setting(name, true)';
CREATE FUNCTION needs_path() RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN helper(); END $$;
CREATE FUNCTION before() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('response.headers', '[{"X-Before":"yes"}]', true);
	IF current_setting('request.headers')::json ->> 'x-as' IS NOT NULL THEN
		EXECUTE format('SET LOCAL ROLE %I', current_setting('request.headers')::json ->> 'x-as');
	END IF;
	IF current_setting('request.headers')::json ->> 'x-stop' IS NOT NULL THEN
		RAISE EXCEPTION 'stopped';
	END IF;
END $$;
CREATE FUNCTION escapes() RETURNS text LANGUAGE plpgsql AS $$ BEGIN SET LOCAL ROLE member; RETURN current_user; END $$;
CREATE TABLE stamp (t timestamptz);
INSERT INTO stamp VALUES ('2024-01-01 00:00Z');
GRANT SELECT ON stamp TO PUBLIC;
ALTER ROLE member SET statement_timeout = '7s';
ALTER ROLE member SET my.colour = 'red';
ALTER ROLE member IN DATABASE postgres SET work_mem = '5MB';
ALTER ROLE member SET default_transaction_isolation = 'repeatable read';
ALTER ROLE member SET log_min_duration_statement = 0;
});
ok(OrionHttp::await($port, '/ready', 200), 'ready');

sub ask { my ($method, $path, $headers, $body) = @_; return OrionHttp::request($port, $method, "/rest/v1/$path", $headers // {}, $body) }
sub short { my $answer = ask(@_); my $code = $answer->{body} =~ /"code":"(\w+)"/ && $answer->{status} >= 300 ? $1 : $answer->{body}; return "$answer->{status} $code" }

# Sets and reloads; then asks until the answer is the one wanted, or for 30 s.
sub switch
{
	my ($settings, $want, $name, @request) = @_;
	$node->safe_psql('postgres', "ALTER SYSTEM SET $_") for @$settings;
	$node->reload;
	my $got = '';
	for (1 .. 300)
	{
		$got = ref $request[0] ? $request[0]->() : short(@request);
		last if $got eq $want;
		sleep 0.1;
	}
	return is($got, $want, $name);
}

sub token { my ($claims, $key, $header) = @_; return { Authorization => 'Bearer ' . OrionHttp::token($claims, $key // $secret, $header) }; }

# --- tokens
my $member = token('{"role":"member"}');
is(short('GET', 'rpc/who', $member), '200 "member"', 'a role');
is(short('GET', 'rpc/claim?name=role', token('{"sub":"x"}')), '200 "orion_anon"', 'claims without a role are told the one in use');
my $now = time;
my @refused = (
	[ token("{\"exp\":@{[$now - 60]}}"), 'PGRST303', 'JWT expired' ],
	[ token("{\"nbf\":@{[$now + 60]}}"), 'PGRST303', 'JWT not yet valid' ],
	[ token("{\"iat\":@{[$now + 60]}}"), 'PGRST303', 'JWT issued at future' ],
	[ token('{"iat":"now"}'), 'PGRST303', "The JWT 'iat' claim must be a number" ],
	[ token('{"aud":7}'), 'PGRST303', "The JWT 'aud' claim must be a string or an array of strings" ],
	[ token('{}', 'x' x 40), 'PGRST301', 'No suitable key or wrong key type' ],
	[ token('{}', $secret, '{"alg":"none"}'), 'PGRST301', 'Wrong or unsupported encoding algorithm' ],
	[ { Authorization => 'Bearer a.b' }, 'PGRST301', 'Expected 3 parts in JWT; got 2' ],
	[ { Authorization => 'Bearer a.b.c' }, 'PGRST301', 'JWT cryptographic operation failed' ],
	[ { Authorization => 'Bearer ' }, 'PGRST301', 'Empty JWT is sent in Authorization header' ],
);
for (@refused)
{
	my ($headers, $code, $message) = @$_;
	my $answer = ask('GET', 'rpc/who', $headers);
	my $body = decode_json($answer->{body});
	is("$answer->{status} $body->{code} $body->{message}", "401 $code $message", $message);
	is($answer->{headers}{'www-authenticate'}, "Bearer error=\"invalid_token\", error_description=\"$message\"", 'in the header too');
}
switch(["orion.jwt_audience = 'me'"], '401 PGRST303', 'another audience', 'GET', 'rpc/who', token('{"role":"member","aud":"you"}'));
is(short('GET', 'rpc/who', token('{"role":"member","aud":["you","me"]}')), '200 "member"', 'an audience among several');
is(short('GET', 'rpc/who', $member), '200 "member"', 'a token for all');
for my $function ('orion_authenticate', 'orion_jwt_verify')
{
	my ($others) = token('{"role":"member","aud":"you"}')->{Authorization} =~ /(\S+)$/;
	my ($all) = $member->{Authorization} =~ /(\S+)$/;
	my ($status, $out, $error) = $node->psql('postgres', "SELECT $function('$others')");
	like($error, qr/token refused: it is for another audience/, "$function: another audience");
	is($node->safe_psql('postgres', "SELECT $function('$all') ->> 'role'"), 'member', '... and a token for all');
}
switch(["orion.jwt_role_claim_key = '\$.app[''the roles''][1]'"], '200 "member"', 'a path to the role', 'GET', 'rpc/who', token('{"app":{"the roles":["x","member"]}}'));
switch(["orion.jwt_role_claim_key = '.roles[?(@ == ''member'')]'"], '200 "member"', 'a role among several', 'GET', 'rpc/who', token('{"roles":["x","member"]}'));
is(short('GET', 'rpc/who', token('{"roles":"member"}')), '200 "orion_anon"', 'not where the path says');
isnt($node->psql('postgres', "ALTER SYSTEM SET orion.jwt_role_claim_key = '$_'"), 0, "no path: $_") for 'role', '$.', '$.a[', '$[x]';
switch([ 'orion.jwt_role_claim_key = DEFAULT', 'orion.jwt_audience = DEFAULT' ], '200 "member"', 'back', 'GET', 'rpc/who', $member);
my $key = 'k' x 32;
my $k = encode_base64url($key);
switch(["orion.jwt_secret = '{\"keys\":[{\"kty\":\"oct\",\"kid\":\"one\",\"k\":\"$k\"},{\"kty\":\"nonsense\"}]}'"],
	'200 "member"', 'a set of keys', 'GET', 'rpc/who', token('{"role":"member"}', $key));
is(short('GET', 'rpc/who', token('{"role":"member"}', $key, '{"alg":"HS256","kid":"one"}')), '200 "member"', 'the key named');
is(short('GET', 'rpc/who', token('{"role":"member"}', $key, '{"alg":"HS256","kid":"two"}')), '401 PGRST301', 'a key that is not there');
is(short('GET', 'rpc/who', $member), '401 PGRST301', 'the former secret');
switch(['orion.jwt_secret = \'base64:' . encode_base64($key, '') . "'"], '200 "member"', 'base64', 'GET', 'rpc/who', token('{"role":"member"}', $key));
switch([ "orion.jwt_secret = '$secret'", 'orion.jwt_cache_entries = 0' ], '200 "member"', 'without a cache', 'GET', 'rpc/who', $member);

# --- what a role brings along
is(short('GET', 'rpc/setting?name=statement_timeout', $member), '200 "7s"', 'a setting of the role');
is(short('GET', 'rpc/setting?name=my.colour', $member), '200 "red"', 'of its own making');
is(short('GET', 'rpc/setting?name=work_mem', $member), '200 "5MB"', 'of the role in this database');
is(short('GET', 'rpc/setting?name=transaction_isolation', $member), '200 "repeatable read"', 'the isolation');
is(short('GET', 'rpc/setting?name=log_min_duration_statement', $member), '200 "-1"', 'not what only superusers set');
is(short('GET', 'rpc/setting?name=statement_timeout'), '200 "0"', 'and not for others');
$node->safe_psql('postgres', "ALTER ROLE member SET my.colour = 'blue'");
is(short('GET', 'rpc/setting?name=my.colour', $member), '200 "blue"', 'the next request sees a change');
is(short('GET', 'stamp', { Prefer => 'timezone=Asia/Tokyo' }), '200 [{"t":"2024-01-01T09:00:00+09:00"}]', 'a time zone');
is(short('GET', 'stamp', { Prefer => 'timezone=No/where' }), '400 22023', 'a place without one');

# --- around the statement
is(short('GET', 'rpc/needs_path'), '404 42883', 'a function that is not in the path');
switch(["orion.rest_extra_search_path = 'public, other'"], '200 "helped"', 'rest_extra_search_path', 'GET', 'rpc/needs_path');
switch(["orion.rest_pre_request = 'public.before'"], '400 P0001', 'rest_pre_request stops', 'GET', 'rpc/who', { 'X-Stop' => 1 });
is(ask('GET', 'rpc/who')->{headers}{'x-before'}, 'yes', 'sets headers');
is(short('GET', 'rpc/who', { 'X-As' => 'guest' }), '200 "guest"', 'and the role');
is(short('POST', 'rpc/escapes', { 'X-As' => 'guest' }), '401 42501', 'nobody else does');
switch(["orion.rest_pre_request = ''"], '200 "orion_anon"', 'without it', 'GET', 'rpc/who', { 'X-As' => 'guest' });
switch(["orion.rest_anon_role = ''"], '401 PGRST302', 'rest_anon_role empty', 'GET', 'rpc/who');
switch(["orion.rest_anon_role = 'guest'"], '200 "guest"', 'another rest_anon_role', 'GET', 'rpc/who');
is(decode_json(ask('GET', 'nothing')->{body})->{code}, 'PGRST205', 'an error');
switch(["orion.rest_error_verbosity = 'minimal'"], 'code message', 'rest_error_verbosity', sub { join ' ', sort keys %{ decode_json(ask('GET', 'nothing')->{body}) } });
switch(["orion.rest_prepared_statements = off"], '200 "guest"', 'rest_prepared_statements', 'GET', 'rpc/who');

# --- headers
is(ask('GET', 'rpc/who', { Origin => 'https://a.example' })->{headers}{'access-control-allow-origin'}, '*', 'CORS for all');
my %preflight = (Origin => 'https://a.example', 'Access-Control-Request-Method' => 'PUT', 'Access-Control-Request-Headers' => 'x-one, X-Two');
my $answer = ask('OPTIONS', 'stamp', \%preflight);
is("$answer->{status} $answer->{headers}{'access-control-allow-headers'}", '200 Authorization, x-one, X-Two, Accept, Accept-Language, Content-Language', 'a preflight');
switch(["orion.http_cors_allowed_origins = 'https://a.example, https://b.example'"], 'https://a.example true', 'http_cors_allowed_origins',
	sub { join ' ', map { $_ // '' } @{ ask('GET', 'rpc/who', { Origin => 'https://a.example' })->{headers} }{qw(access-control-allow-origin access-control-allow-credentials)} });
is(ask('GET', $_->[0])->{headers}{vary}, $_->[1], "the answer depends on the origin, also without one: $_->[0]")
  for ['rpc/who', 'Accept, Prefer, Range, Origin'], ['nothing', 'Origin'];
is(ask('GET', 'rpc/who', { Origin => 'https://a.example.evil' })->{headers}{'access-control-allow-origin'}, undef, 'another origin');
switch([], 'https://b.example true Origin', 'errors of the gateway itself say the same',
	sub { join ' ', map { $_ // '' } @{ ask('GET', '%zz', { Origin => 'https://b.example' })->{headers} }{qw(access-control-allow-origin access-control-allow-credentials vary)} });
is(ask('GET', '%zz', { Origin => 'https://c' })->{headers}{'access-control-allow-origin'}, undef, '... to these origins only');
is(ask('OPTIONS', 'stamp', { %preflight, Origin => 'https://c' })->{headers}{'access-control-allow-methods'}, undef, 'a preflight of another origin');
switch(["orion.http_server_timing = on"], 'jwt parse plan transaction response', 'http_server_timing',
	sub { join ' ', (ask('GET', 'rpc/who')->{headers}{'server-timing'} // '') =~ /(\w+);dur=[\d.]+/g });
switch(["orion.http_trace_header = 'X-Trace'"], 'abc', 'http_trace_header', sub { ask('GET', 'rpc/who', { 'X-Trace' => 'abc' })->{headers}{'x-trace'} // '' });
is(ask('GET', 'rpc/who')->{headers}{'x-trace'}, undef, 'only what was sent');
is(ask('GET', 'rpc/who')->{headers}{'content-profile'}, undef, 'one schema needs no name');
switch(["orion.rest_schemas = 'public, other'"], 'other', 'rest_schemas', sub { ask('GET', 'rpc/helper', { 'Accept-Profile' => 'other' })->{headers}{'content-profile'} // '' });

# --- the root path
$node->safe_psql('postgres', q{
COMMENT ON TABLE stamp IS E'Stamps\nof time';
CREATE TABLE private_one (id int PRIMARY KEY);
CREATE DOMAIN "text/html" AS text;
CREATE FUNCTION front(name text DEFAULT 'you') RETURNS "text/html" LANGUAGE sql STABLE AS $$ SELECT ('<p>' || name)::"text/html" $$;
CREATE FUNCTION welcome() RETURNS json LANGUAGE sql STABLE AS $$ SELECT '{"hello":"there"}'::json $$;
});
$answer = ask('GET', '');
is($answer->{headers}{'content-type'}, 'application/openapi+json; charset=utf-8', 'OpenAPI');
my $description = decode_json($answer->{body});
is("$description->{swagger} $description->{paths}{'/stamp'}{get}{summary} $description->{paths}{'/stamp'}{get}{description}", '2.0 Stamps of time', 'with comments');
is(join(' ', sort keys %{ $description->{paths}{'/rpc/who'} }), 'get post', 'and functions');
is($description->{definitions}{private_one}, undef, 'nothing the role may not use');
switch(["orion.openapi_mode = 'ignore-privileges'"], 'integer', 'openapi_mode',
	sub { decode_json(ask('GET', '')->{body})->{definitions}{private_one}{properties}{id}{type} // '' });
switch(["orion.openapi_security_active = on"], 'apiKey', 'openapi_security_active',
	sub { decode_json(ask('GET', '')->{body})->{securityDefinitions}{JWT}{type} // '' });
switch(["orion.openapi_server_proxy_uri = 'https://api.example/v1'"], 'https api.example:443 /v1', 'openapi_server_proxy_uri',
	sub { my $d = decode_json(ask('GET', '')->{body}); join ' ', $d->{schemes}[0], $d->{host} // '', $d->{basePath} });
switch(["orion.openapi_server_proxy_uri = 'HTTP://[::1]:8080'"], 'http [::1]:8080 /', '... with a port',
	sub { my $d = decode_json(ask('GET', '')->{body}); join ' ', $d->{schemes}[0], $d->{host} // '', $d->{basePath} });
isnt($node->psql('postgres', "ALTER SYSTEM SET orion.openapi_server_proxy_uri = '$_'"), 0, "no address: $_")
	for 'api.example', 'ftp://api.example', 'https://', 'https:///v1', 'https://me@api.example', 'https://api.example/?v=1', 'http://a:0', 'http://a:65536', 'http://a:x', 'http://[::1';
switch(["orion.rest_root_spec = 'welcome'"], '200 {"hello":"there"}', 'rest_root_spec', 'GET', '');
is(ask('GET', '')->{headers}{'content-type'}, 'application/json; charset=utf-8', 'which is no description');
switch(["orion.rest_root_spec = 'front'"], '200 <p>me', 'a page', 'GET', '?name=me', { Accept => 'text/html' });
is(ask('GET', '', { Accept => 'text/html' })->{headers}{'content-type'}, 'text/html', '... of its type');
is(short('DELETE', ''), '405 PGRST101', '... is a function');
is(ask('OPTIONS', '')->{headers}{allow}, 'OPTIONS,GET,HEAD,POST', '... and takes what one takes');
switch([ "orion.rest_root_spec = ''", "orion.openapi_mode = 'disabled'" ], '404 PGRST126', 'openapi_mode disabled', 'GET', '');
is(short($_, ''), '404 PGRST126', "... to $_ as well") for 'OPTIONS', 'POST';

$node->stop;
done_testing();
