# Bad input through the real stack: every refusal is a clear error of four fields, no
# worker dies of any, and what is secret is seen nowhere afterwards.
use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;

use Digest::SHA qw(hmac_sha256);
use JSON::PP ();
use MIME::Base64 qw(encode_base64url decode_base64url);
use OrionStack;
use PostgreSQL::Test::Utils;
use Test::More;

my $jwt_secret = 'planted: the secret that signs tokens';
my $password = 'planted: the password of ann';
my $libraries = grep({ -e "$_/pg_stat_statements.so" && -e "$_/auto_explain.so" } pkglibdir())
  ? 'orion, pg_stat_statements, auto_explain' : 'orion';

sub pkglibdir
{
	my ($dir) = run_command([ 'pg_config', '--pkglibdir' ]);
	return $dir // '';
}

# The log tells as much as it can.
my $stack = OrionStack->new('input', conf => qq{
shared_preload_libraries = '$libraries'
orion.jwt_secret = '$jwt_secret'
orion.http_max_body_size = '64kB'
orion.http_max_header_size = '8kB'
orion.rest_schemas = 'public, orion'
log_statement = all
log_min_duration_statement = 0
log_min_messages = debug1
log_min_error_statement = debug1
log_parameter_max_length_on_error = -1
} . ($libraries eq 'orion' ? '' : q{
pg_stat_statements.track = all
pg_stat_statements.track_utility = on
auto_explain.log_min_duration = 0
auto_explain.log_nested_statements = on
}));
my $node = $stack->node;
$stack->sql(q{
CREATE TABLE things (id int PRIMARY KEY, name varchar(20) NOT NULL, price numeric(6,2) CHECK (price >= 0), day date, doc jsonb, parent int REFERENCES things);
INSERT INTO things VALUES (1, 'one', 1, '2026-01-01', '{}', NULL);
GRANT SELECT, INSERT, UPDATE, DELETE ON things TO orion_anon, orion_user;
CREATE TABLE mine (id int PRIMARY KEY, owner uuid DEFAULT orion_uid());
GRANT SELECT ON mine TO orion_user;
CREATE FUNCTION half(n int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT n / 2';
CREATE FUNCTION fails(why text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '%', why USING ERRCODE = 'XX000'; END $$;
CREATE FUNCTION private_one() RETURNS int LANGUAGE sql AS 'SELECT 1';
REVOKE ALL ON FUNCTION private_one() FROM PUBLIC;
CREATE TABLE seen (query text PRIMARY KEY);
-- what pg_stat_activity shows of others, looked at without pause
CREATE PROCEDURE look() LANGUAGE plpgsql AS $$
BEGIN
	LOOP
		INSERT INTO seen SELECT DISTINCT query || ' ' || application_name FROM pg_stat_activity
			WHERE pid <> pg_backend_pid() AND query <> '' ON CONFLICT DO NOTHING;
		COMMIT;
		PERFORM pg_stat_clear_snapshot();
		PERFORM pg_sleep(0.003);
	END LOOP;
END $$;
});
$stack->sql('CREATE EXTENSION pg_stat_statements') if $libraries ne 'orion';
my $looker = OrionStack::spawn(sub {
	open(STDERR, '>', '/dev/null');
	exec('psql', '-X', '-q', '-h', $node->host, '-p', $node->port, '-d', 'postgres', '-c', 'CALL look()');
});

sub pids { return $stack->sql("SELECT string_agg(kind || ' ' || pid || ' ' || coalesce(program_pid, 0), ', ' ORDER BY kind, pid) FROM orion.workers"); }
my $pids = pids();

# --- what a refusal looks like

my $refusals = 0;

sub is_refused
{
	my ($answer, $status, $what) = @_;
	my $error = $answer->{json};
	my @statuses = split /\|/, $status;
	my $form = ref $error eq 'HASH' ? join(' ', sort keys %$error) : "no JSON object: $answer->{body}";

	subtest $what => sub {
		ok(scalar(grep { $_ == $answer->{status} } @statuses), "$answer->{status} is $status");
		is($form, 'code details hint message', 'the fields of an error');
		return if ref $error ne 'HASH';
		ok(defined $error->{$_} && !ref $error->{$_} && $error->{$_} ne '', "its $_: " . ($error->{$_} // 'null')) for qw(code message);
		ok(!ref $error->{$_}, "its $_") for qw(details hint);
	};
	$refusals++;
}

sub refused { my ($status, $what, @request) = @_; is_refused($stack->http(@request), $status, $what); }
sub refused_bytes { my ($status, $what, $bytes) = @_; is_refused(OrionStack::parse($stack->talk($bytes)), $status, $what); }

# --- HTTP
my $end = "Host: x\r\nConnection: close\r\n\r\n";
refused_bytes(@$_) foreach (
	[ 400, 'no version', "GET /rest/v1/things\r\n$end" ],
	[ '400|505', 'another version', "GET /rest/v1/things HTTP/3.7\r\n$end" ],
	[ 400, 'no host', "GET /rest/v1/things HTTP/1.1\r\nConnection: close\r\n\r\n" ],
	[ 400, 'a header without a colon', "GET /rest/v1/things HTTP/1.1\r\nplanted\r\n$end" ],
	[ 400, 'a NUL in a header', "GET /rest/v1/things HTTP/1.1\r\nX: a\0b\r\n$end" ],
	[ 400, 'invalid UTF-8 in a header', "GET /rest/v1/things HTTP/1.1\r\nX: \xc3(\r\n$end" ],
	[ 400, 'two lengths', "POST /rest/v1/things HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n$end\{}" ],
	[ 400, 'a length and chunks', "POST /rest/v1/things HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n${end}0\r\n\r\n" ],
	[ 400, 'a length that is no number', "POST /rest/v1/things HTTP/1.1\r\nContent-Length: two\r\n$end\{}" ],
	[ '400|413', 'a length beyond all numbers', "POST /rest/v1/things HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n$end" ],
	[ 400, 'a broken chunk', "POST /rest/v1/things HTTP/1.1\r\nTransfer-Encoding: chunked\r\n${end}xyz\r\n" ],
	[ 413, 'chunks beyond the limit', "POST /rest/v1/things HTTP/1.1\r\nTransfer-Encoding: chunked\r\n${end}20000\r\n" . 'x' x 0x20000 . "\r\n0\r\n\r\n" ],
	[ 405, 'an unknown method', "PLANT /rest/v1/things HTTP/1.1\r\n$end" ],
	[ '405|501', 'a method that nobody serves', "TRACE /rest/v1/things HTTP/1.1\r\n$end" ]);
# upon these the library, or a version of it, hangs up
foreach ([ 'no HTTP at all', "planted nonsense\r\n\r\n" ], [ 'a request line of one word', "GET\r\n$end" ],
	[ 'a NUL in the target', "GET /rest/v1/th\0ings HTTP/1.1\r\n$end" ])
{
	my ($what, $bytes) = @$_;
	my $answer = $stack->talk($bytes, 5);
	$answer eq '' ? pass("$what: no answer") : is_refused(OrionStack::parse($answer), 400, $what);
}
my @post = ('POST', '/rest/v1/things');
refused(413, 'a body over the limit', @post, body => '{"id":2,"name":"' . 'x' x 70_000 . '"}');
refused(413, 'a length over the limit, without a body', @post, body => '', headers => { 'Content-Length' => 1_000_000_000 });
refused(414, 'a target over the limit', 'GET', '/rest/v1/things?name=eq.' . 'x' x 9000);
refused(431, 'headers over the limit', 'GET', '/rest/v1/things', headers => { map { ("X-$_" => 'x' x 1000) } 1 .. 9 });
refused(431, 'a token over the limit', 'GET', '/rest/v1/things', token => 'x' x 9000);
refused('400|415', 'a body of another type', @post, body => '<xml/>', headers => { 'Content-Type' => 'text/xml' });
refused(406, 'an answer of another type', 'GET', '/rest/v1/things', headers => { Accept => 'image/png' });

# --- bytes
foreach my $bytes ('%00', 'a%00', '%ff', '%c0%80', '%ed%a0%80', '%f5%80%80%80', '%', '%4', '%zz')
{
	refused(400, "$bytes in the path", 'GET', "/rest/v1/$bytes");
	refused(400, "$bytes in the name of a function", 'POST', "/rest/v1/rpc/$bytes", body => '{}');
	# where a % is no escape it stands for itself
	refused(400, "$bytes in a value", 'GET', "/rest/v1/things?name=eq.$bytes") unless $bytes =~ /^%(4|zz)?$/;
	refused(400, "$bytes in a column", 'GET', "/rest/v1/things?$bytes=eq.1");
	refused(400, "$bytes in select", 'GET', "/rest/v1/things?select=$bytes");
}
refused(400, "a body with $_->[0]", @post, body => $_->[1]) foreach (
	[ 'a NUL', "{\"id\":2,\"name\":\"a\0\"}" ], [ 'invalid UTF-8', "{\"id\":2,\"name\":\"\xff\"}" ],
	[ 'half a character', "{\"id\":2,\"name\":\"\xe2\x82\"}" ], [ 'an escaped NUL', '{"id":2,"name":"\u0000"}' ],
	[ 'an escaped NUL in a name', '{"id":2,"\u0000":"x"}' ], [ 'an escaped NUL inside a value', '{"id":2,"name":"x","doc":{"a":["\u0000"]}}' ],
	[ 'half a surrogate', '{"id":2,"name":"\ud800"}' ]);

# --- JSON
foreach my $body ('', '{', '}', '{"id":2,"name":"x"', '{"id":2,"name":"x"}}', '{"id":2 "name":"x"}', "{'id':2}", '{id:2}', '[{"id":2},]', 'NaN', '{"id":2,"name":"x"} {}', '[1,2]', '[[]]',
	'[' x 50_000, '{"a":' x 10_000, '{"id":1e99999}', '{"id":--1}')
{
	refused(400, 'a body like ' . substr($body, 0, 25), @post, body => $body);
}
refused(400, "register with $_", 'POST', '/api/auth/register', body => $_)
  foreach ('', '{', '[]', '17', 'null', qq({"email":"bad\@example.com","password":"$password"), qq({"email":5,"password":"$password"}), qq({"email":"bad\@example.com","password":["$password"]}),
	qq({"email":"bad","password":"$password"}), qq({"email":"bad\@example.com","password":"$password\\u0000"}), qq({"email":"bad\@example.com"}), '{"email":"bad@example.com","password":"short"}');
refused(401, 'a login with a wrong password', 'POST', '/api/auth/login', json => { email => 'nobody@example.com', password => "$password, but wrong" });
refused(400, 'a password for an address', 'POST', '/api/auth/login', json => { email => { a => $password }, password => $password });

# --- names and types
refused(@$_) foreach (
	[ 404, 'an unknown table', 'GET', '/rest/v1/nothing' ],
	[ 404, 'a table of another schema', 'GET', '/rest/v1/users' ],
	[ '404|406', 'a schema that is not served', 'GET', '/rest/v1/users', headers => { 'Accept-Profile' => 'orion_private' } ],
	[ '404|406', 'the catalog', 'GET', '/rest/v1/pg_authid', headers => { 'Accept-Profile' => 'pg_catalog' } ],
	[ 404, 'a name with a quote', 'GET', '/rest/v1/th"ings' ],
	[ 404, 'a name that is SQL', 'GET', '/rest/v1/things;%20DROP%20TABLE%20things' ],
	[ 404, 'an unknown function', 'POST', '/rest/v1/rpc/nothing', body => '{}' ],
	[ 404, 'a function of the catalog', 'POST', '/rest/v1/rpc/pg_read_file', json => { filename => 'postgresql.conf' } ],
	[ 404, 'unknown arguments', 'POST', '/rest/v1/rpc/half', json => { m => 1 } ],
	[ 404, 'missing arguments', 'POST', '/rest/v1/rpc/half', body => '{}' ],
	[ 401, 'a function without the privilege', 'POST', '/rest/v1/rpc/private_one', body => '{}' ],
	[ 401, 'a table without the privilege', 'GET', '/rest/v1/mine' ],
	[ '401|404', 'a function that signs tokens', 'POST', '/rest/v1/rpc/orion_jwt_sign', json => { claims => { role => 'orion_admin' } } ],
	[ 404, 'an unknown path', 'GET', '/api/nothing' ],
	[ 404, 'a path out of the tree', 'GET', '/rest/v1/../../etc/passwd' ],
	[ 405, 'another method of a route', 'GET', '/api/auth/login' ],
	[ 400, 'an unknown column in a filter', 'GET', '/rest/v1/things?nothing=eq.1' ],
	[ 400, 'an unknown column in select', 'GET', '/rest/v1/things?select=nothing' ],
	[ 400, 'an unknown column in a body', @post, json => { id => 2, name => 'x', nothing => 1 } ],
	[ 400, 'an unknown column in an update', 'PATCH', '/rest/v1/things?id=eq.1', json => { nothing => 1 } ],
	[ 400, 'an unknown operator', 'GET', '/rest/v1/things?id=plant.1' ],
	[ 400, 'text for a number', 'GET', '/rest/v1/things?id=eq.one' ],
	[ 400, 'a number out of range', 'GET', '/rest/v1/things?id=eq.99999999999' ],
	[ 416, 'a limit that is none', 'GET', '/rest/v1/things?limit=-1' ],
	[ 400, 'text for a number in a body', @post, json => { id => 'two', name => 'x' } ],
	[ 400, 'an object for a number', @post, json => { id => {}, name => 'x' } ],
	[ 400, 'a date that is none', @post, json => { id => 2, name => 'x', day => '2026-02-30' } ],
	[ 400, 'a text that is too long', @post, json => { id => 2, name => 'x' x 21 } ],
	[ 400, 'a number with too many digits', @post, json => { id => 2, name => 'x', price => 99999 } ],
	[ 400, 'a broken check', @post, json => { id => 2, name => 'x', price => -1 } ],
	[ 400, 'a missing value', @post, json => { id => 2 } ],
	[ 409, 'a key that exists', @post, json => { id => 1, name => 'x' } ],
	[ 409, 'a reference to nothing', @post, json => { id => 2, name => 'x', parent => 99 } ],
	[ 400, 'text for an argument', 'POST', '/rest/v1/rpc/half', json => { n => 'four' } ],
	[ 400, 'a relation that is none', 'POST', '/rest/v1/rpc/orion_update', json => { relation => 'no such table', id => 1, expected_version => 1, changes => {} } ],
	[ 500, 'an internal error', 'POST', '/rest/v1/rpc/fails', json => { why => 'on purpose' } ]);

# --- tokens: one user whose tokens are good
is($stack->http('POST', '/api/auth/register', json => { email => 'ann@example.com', password => $password })->{status}, 201, 'ann registers');
my $login = $stack->http('POST', '/api/auth/login', json => { email => 'ann@example.com', password => $password });
my ($token, $refresh_token) = @{ $login->{json} // {} }{qw(accessToken refreshToken)};
my ($ann, $now) = ($login->{json}{user}{id}, time);
my @get = ('GET', '/rest/v1/mine');
is($stack->http(@get, token => $token)->{status}, 200, 'her token is good');
is($stack->http('POST', '/rest/v1/rpc/half', token => $token, json => { n => 4 })->{body}, '2', 'for a function as well');

sub encoded { my ($value) = @_; return encode_base64url(ref $value ? JSON::PP->new->canonical->encode($value) : $value); }

sub signed
{
	my ($header, $claims, $key) = @_;
	my $text = encoded($header) . '.' . encoded($claims);
	return "$text." . encode_base64url(defined $key ? hmac_sha256($text, $key) : '');
}

# A token that the server itself signed.
sub own { my ($claims) = @_; return $stack->sql("SELECT orion_jwt_sign(\$\$" . JSON::PP::encode_json($claims) . "\$\$)"); }

my $hs = { alg => 'HS256', typ => 'JWT' };
my %good = (sub => $ann, role => 'orion_user', exp => $now + 600);
my ($head, $body, $signature) = split /\./, $token;
my $kid = JSON::PP::decode_json(decode_base64url($head))->{kid};
is($stack->http(@get, token => signed($hs, \%good, $jwt_secret))->{status}, 200, 'a token signed with the shared secret is good');

my $es = $stack->sql("SELECT orion_key_create('ES256')");
my $rs = $stack->sql("SELECT orion_key_create('RS256')");
my %public = map { ($_ => $stack->sql("SELECT public_key FROM orion_private.signing_keys WHERE kid = '$_'") . "\n") } $es, $rs;
like($public{$es}, qr/BEGIN PUBLIC KEY/, 'there are keys with a public part');
is($stack->http(@get, token => own(\%good))->{status}, 200, 'their tokens are good');

my @tokens = (
	[ 'an expired token', signed($hs, { %good, exp => $now - 3600 }, $jwt_secret) ],
	[ 'an expired token of our own', own({ %good, exp => $now - 3600 }) ],
	[ 'a token for later', own({ %good, nbf => $now + 3600 }) ],
	[ 'a token of another key', signed($hs, \%good, 'another secret that is long enough, too') ],
	[ 'a token of another key with our kid', signed({ %$hs, kid => $kid }, \%good, 'another secret that is long enough, too') ],
	[ 'the shared secret with our kid', signed({ %$hs, kid => $kid }, \%good, $jwt_secret) ],
	[ 'an empty key', signed($hs, \%good, '') ],
	[ 'other claims under a good signature', "$head." . encoded({ %good, role => 'orion_admin' }) . ".$signature" ],
	[ 'a changed signature', "$head.$body." . ($signature =~ /^A/ ? 'B' : 'A') . substr($signature, 1) ],
	[ 'a cut signature', "$head.$body." . substr($signature, 0, -2) ],
	[ 'no signature', "$head.$body." ],
	[ 'two parts', "$head.$body" ],
	[ 'four parts', "$token.$signature" ],
	[ 'a token with a space', "$head. $body.$signature" ],
	[ 'not base64', '!!!.???.***' ],
	[ 'not JSON', signed('{"alg":"HS256"', '{', $jwt_secret) ],
	[ 'a refresh token', $refresh_token ],
	[ 'nothing', '' ],
	[ 'an embedded key', signed({ %$hs, jwk => { kty => 'oct', k => encode_base64url('x' x 32) } }, \%good, 'x' x 32) ],
	(map { [ "alg $_", signed({ alg => $_, typ => 'JWT' }, \%good) ] } 'none', 'None', 'NONE', 'nOnE', ''),
	(map { [ "alg none, signed and with kid, as $_", signed({ alg => $_, kid => $kid }, \%good, $jwt_secret) ] } 'none', 'None'),
	[ 'no alg', signed({ typ => 'JWT' }, \%good, $jwt_secret) ],
	(map { [ 'a public key as an HMAC secret', signed({ %$hs, kid => $_ }, \%good, $public{$_}) ] } $es, $rs),
	(map { [ 'the same without its last line end', signed({ %$hs, kid => $_ }, \%good, $public{$_} =~ s/\n\z//r) ] } $es, $rs),
	[ 'one asymmetric algorithm for another', signed({ alg => 'RS256', kid => $es }, \%good, $public{$es}) ],
	(map { [ 'a kid like ' . substr($_, 0, 20), signed({ %$hs, kid => $_ }, \%good, '') ] } '../../../../dev/null', "' OR 1=1 --", 'x' x 3000, ''));
foreach (@tokens)
{
	my ($what, $bad) = @$_;
	my $answer = $stack->http(@get, token => $bad);
	is_refused($answer, 401, $what);
	like($answer->{headers}{'www-authenticate'} // '', qr/^Bearer/, 'asks for a token');
	unlike($answer->{body}, qr/\Q$bad\E/, 'without showing it') if length $bad > 20;
}
refused(403, "the role $_", @get, token => own({ %good, role => $_ }))
  foreach ($stack->sql('SELECT current_user'), 'pg_read_all_data', 'orion_authenticator', 'none');
refused(401, "the role $_", @get, token => own({ %good, role => $_ }))
  foreach ('nobody_has_this_name', "orion_admin'; SET ROLE postgres; --", 'x' x 100);
refused('401|403', 'a role that is no text', @get, token => own({ %good, role => $_ })) foreach (5, ['orion_user'], { a => 'orion_user' });
refused(403, 'a token whose role has not the privilege', 'POST', '/rest/v1/rpc/private_one', token => $token, body => '{}');

# --- bytes changed at random in good requests: anything but a fault of the server's
my @good = (OrionStack::request_bytes('GET', '/rest/v1/things?select=id,name&id=gte.1&order=name.desc&limit=5', token => $token),
	OrionStack::request_bytes('POST', '/rest/v1/rpc/half', json => { n => 4 }, token => $token),
	OrionStack::request_bytes('PATCH', '/rest/v1/things?id=eq.1', json => { doc => { a => [1] }, price => 2.5 }, token => $token));
my ($faults, $answered) = (0, 0);
srand 20261121;
foreach my $n (1 .. 400)
{
	my $bytes = $good[ $n % @good ];
	substr($bytes, int rand length $bytes, 1) = chr int rand 256 foreach 0 .. int rand 3;
	my $answer = OrionStack::parse($stack->talk($bytes, 1));
	$answered++ if $answer->{status};
	next unless $answer->{status} >= 500 && $answer->{status} != 501 && $answer->{status} != 505;
	$faults++;
	diag("$answer->{status} $answer->{body} for " . $bytes =~ s/[^ -~]/sprintf('\\x%02x', ord $&)/ger);
}
is($faults, 0, "none of 400 requests with changed bytes is the server's fault");
cmp_ok($answered, '>', 200, "$answered of them are answered");

# --- afterwards
ok($stack->is_ready, 'it serves on');
is($stack->http(@get, token => $token)->{status}, 200, 'a good token is still good');
is(pids(), $pids, 'the same processes as before');
is($stack->sql('SELECT sum(restarts) FROM orion.workers'), 0, 'none was restarted');
is($stack->sql("SELECT count(*) || ' ' || min(name) FROM things"), '1 one', 'the table is as it was');
note("$refusals refusals");

# --- secrets
kill 'KILL', $looker;
waitpid($looker, 0);
my %secrets = (password => $password, 'secret of tokens' => $jwt_secret, token => $token, 'refresh token' => $refresh_token,
	'signature of a token' => $signature, planted => 'planted');
my %places = (
	pg_stat_activity => $stack->sql('SELECT query FROM seen'),
	'the log' => slurp_file($node->logfile),
	'orion.workers' => $stack->workers,
	'pg_stat_statements' => $libraries eq 'orion' ? '' : $stack->sql('SELECT query FROM pg_stat_statements'));
like($places{pg_stat_activity}, qr/orion: request/, 'requests were seen in pg_stat_activity');
like($places{'the log'}, qr/statement: SELECT orion_key_create/, 'statements were logged');
foreach my $place (sort keys %places)
{
	# what this test itself has said to the server in SQL does not count
	my $text = join "\n", grep { !/orion_jwt_sign\(/ } split /\n/, $places{$place};
	foreach my $secret (sort keys %secrets)
	{
		my $at = index($text, $secrets{$secret});
		ok($at < 0, "no $secret in $place") or diag(substr($text, $at > 200 ? $at - 200 : 0, 400));
	}
}
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal|server process .* exited with exit code [^01]/, 'no crash in the log');
done_testing();
