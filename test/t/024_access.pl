# API keys, permissions and the audit log through real HTTP.
use strict;
use warnings;
use Compress::Raw::Zlib ();
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use OrionHttp;

my ($node, $port) = OrionHttp::server('access', qq{
orion.executor_count = 2
log_statement = all
log_min_error_statement = panic
});
$node->safe_psql('postgres', q{
CREATE EXTENSION orion;
CREATE TABLE docs (id int PRIMARY KEY, body text);
INSERT INTO docs VALUES (1, 'text');
ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
CREATE POLICY reads ON docs FOR SELECT USING (orion_has_permission('docs:read'));
CREATE POLICY writes ON docs FOR UPDATE USING (orion_has_permission('docs:read')) WITH CHECK (orion_has_permission('docs:write'));
GRANT SELECT, UPDATE ON docs TO orion_user, orion_anon;
});
ok(OrionHttp::await($port, '/ready', 200), 'ready');

my $json = JSON::PP->new->allow_nonref->canonical;

sub http
{
	my ($method, $path, $token, $body, %headers) = @_;
	$headers{Authorization} = "Bearer $token" if defined $token;
	$headers{'Content-Type'} = 'application/json' if defined $body;
	my $answer = OrionHttp::request($port, $method, $path, \%headers, defined $body ? ref $body ? $json->encode($body) : $body : undef);
	$answer->{json} = length $answer->{body} ? eval { $json->decode($answer->{body}) } : undef;
	return $answer;
}

sub sql { return $node->safe_psql('postgres', @_); }

# status, code and the fields complained about
sub is_error
{
	my ($answer, $status, $code, $fields, $name) = @_;
	my $seen = join ',', map { "$_->{field}:$_->{code}" } @{ $answer->{json}{errors} // [] };
	is("$answer->{status} $answer->{json}{code} $seen", "$status $code $fields", $name);
}

sub register
{
	my ($email) = @_;
	my $answer = http('POST', '/api/auth/register', undef, { email => $email, password => 'correct horse battery' });
	is($answer->{status}, 201, "$email registers");
	return ($answer->{json}{accessToken}, $answer->{json}{user}{id});
}
my ($ann, $ann_id) = register('ann@example.com');
my ($bob, $bob_id) = register('bob@example.com');

# --- permissions: another session grants and revokes, every executor sees it at once
sub docs { return scalar @{ http('GET', '/rest/v1/docs', @_)->{json} }; }
is(docs($ann), 0, 'no permission, no row');
sql("SELECT orion_role_create('reader'), orion_permission_grant('reader', 'docs:read'), orion_role_grant('$ann_id', 'reader')");
is(join(',', map { docs($ann) } 1 .. 8), join(',', (1) x 8), 'the role lets the row through, in each executor');
is(docs($bob), 0, 'of another user not');
is(docs(undef), 0, 'without a token not');
sql("SELECT orion_permission_revoke('reader', 'docs:read')");
is(join(',', map { docs($ann) } 1 .. 8), join(',', (0) x 8), 'taken from the role, in each executor');
sql("SELECT orion_permission_grant('reader', 'docs:*')");
is(join(',', map { docs($ann) } 1 .. 8), join(',', (1) x 8), 'given again');
is(http('POST', '/rest/v1/rpc/orion_has_permission', $ann, { permission => 'docs:write' })->{body}, 'true', 'asked over HTTP');
is(http('POST', '/rest/v1/rpc/orion_permissions', $ann, {})->{body}, '["docs:*"]', 'all in one call');
is(http('POST', '/rest/v1/rpc/orion_permissions', $ann, { user_id => $bob_id })->{status}, 403, 'those of others are not told');
is(http('POST', '/rest/v1/rpc/orion_role_grant', $ann, { user_id => $ann_id, role => 'reader' })->{status}, 403, 'nor granted');

# --- API keys: errors of each route
for my $route ([ 'GET', '/api/user/api-keys' ], [ 'POST', '/api/user/api-keys', {} ], [ 'DELETE', '/api/user/api-keys' ], [ 'DELETE', "/api/user/api-keys/$ann_id" ])
{
	my ($method, $path, $body) = @$route;
	my $answer = http($method, $path, undef, $body);
	is_error($answer, 401, 'unauthorized', '', "$method $path without a token");
	is($answer->{headers}{'www-authenticate'}, 'Bearer', 'says how');
}
is_error(http('POST', '/api/user/api-keys', $ann, '[]'), 400, 'invalid_request', ':not_an_object', 'no object');
is_error(http('POST', '/api/user/api-keys', $ann, {}), 400, 'invalid_request', 'name:missing', 'no name');
is_error(http('POST', '/api/user/api-keys', $ann, { name => 1, scopes => 'x', expiresAt => 'tomorrow', rateLimit => '5' }), 400, 'invalid_request',
	'name:not_a_string,scopes:not_a_list_of_strings,expiresAt:not_a_time,rateLimit:not_an_integer', 'all that is wrong at once');
is_error(http('POST', '/api/user/api-keys', $ann, { name => 'x', scopes => [1], rateLimit => 1.5 }), 400, 'invalid_request', 'scopes:not_a_list_of_strings,rateLimit:not_an_integer', 'lists of others');
is_error(http('POST', '/api/user/api-keys', $ann, { name => 'x', expiresAt => '2031-02-30T00:00:00Z' }), 400, 'invalid_request', 'expiresAt:not_a_time', 'no such day');
is_error(http('POST', '/api/user/api-keys', $ann, { name => ' ' }), 422, 'validation_failed', 'name:invalid_name', 'an empty name');
is_error(http('POST', '/api/user/api-keys', $ann, { name => 'x', scopes => ['docs'] }), 422, 'validation_failed', 'scopes:invalid_scopes', 'no permission');
is_error(http('POST', '/api/user/api-keys', $ann, { name => 'x', expiresAt => '2011-01-01T00:00:00Z' }), 422, 'validation_failed', 'expiresAt:invalid_expiry', 'in the past');
is_error(http('POST', '/api/user/api-keys', $ann, { name => 'x', rateLimit => 0 }), 422, 'validation_failed', 'rateLimit:invalid_rate_limit', 'no use at all');
is_error(http('DELETE', '/api/user/api-keys', $ann), 400, 'invalid_request', 'id:missing', 'delete what?');
is_error(http('DELETE', '/api/user/api-keys/x', $ann), 404, 'not_found', '', 'no id');
is_error(http('DELETE', "/api/user/api-keys/$ann_id", $ann), 404, 'not_found', '', 'no such key');
is(http('PATCH', '/api/user/api-keys', $ann, {})->{status}, 405, 'no such method');

# --- made, listed, used
my $made = http('POST', '/api/user/api-keys', $ann, { name => 'all of it' });
is($made->{status}, 201, 'made');
is($made->{headers}{'cache-control'}, 'no-store', 'not to be cached');
is(join(' ', sort keys %{ $made->{json} }), 'createdAt expiresAt id key lastUsedAt name prefix rateLimit scopes', 'with these fields');
my $key = $made->{json}{key};
like($key, qr/^ork_[0-9A-Za-z]{44}$/, 'the key');
my $crc = Compress::Raw::Zlib::crc32(substr($key, 0, 42));
my $checksum = '';
for (1 .. 6) { $checksum = (0 .. 9, 'A' .. 'Z', 'a' .. 'z')[ $crc % 62 ] . $checksum; $crc = int($crc / 62); }
is(substr($key, 42), $checksum, 'ends in the CRC-32 of the rest in base 62, as zlib counts it');
is($made->{json}{prefix}, substr($key, 0, 10), 'its prefix');
my $list = http('GET', '/api/user/api-keys', $ann);
is($list->{status}, 200, 'listed');
is(scalar @{ $list->{json}{apiKeys} }, 1, 'one');
ok(index($list->{body}, $key) < 0 && !exists $list->{json}{apiKeys}[0]{key}, 'without the key');
is(docs($key), 1, 'the key stands for its user');
is(http('PATCH', '/rest/v1/docs?id=eq.1', $key, { body => 'new' })->{status}, 204, 'and writes');
ok(http('GET', '/api/user/api-keys', $ann)->{json}{apiKeys}[0]{lastUsedAt}, 'its use was noted, by a GET');
is(scalar @{ http('GET', '/api/user/api-keys', $bob)->{json}{apiKeys} }, 0, 'others do not see it');
is_error(http('DELETE', "/api/user/api-keys/$made->{json}{id}", $bob), 404, 'not_found', '', 'and cannot revoke it');
for my $route ([ 'GET', '/api/user/api-keys' ], [ 'POST', '/api/user/api-keys', { name => 'child' } ], [ 'DELETE', "/api/user/api-keys/$made->{json}{id}" ])
{
	is_error(http($route->[0], $route->[1], $key, $route->[2]), 403, 'session_required', '', "a key is not enough for $route->[0] $route->[1]");
}

# --- scopes
my $scoped = http('POST', '/api/user/api-keys', $ann, { name => 'reads', scopes => ['docs:read'], expiresAt => '2099-01-01T00:00:00+01:00' })->{json};
is($json->encode($scoped->{scopes}), '["docs:read"]', 'a key with a scope');
is(docs($scoped->{key}), 1, 'reads');
is(http('PATCH', '/rest/v1/docs?id=eq.1', $scoped->{key}, { body => 'newer' })->{status}, 403, 'and does not write');

# --- noise, unknown keys
for my $case ([ 'ork_', 'malformed API key' ], [ "${key}x", 'malformed API key' ], [ 'ork_' . 'a' x 44, 'malformed API key' ],
	[ sql('SELECT (orion_private.api_key_generate()).key'), 'unknown API key' ])
{
	my $answer = http('GET', '/rest/v1/docs', $case->[0]);
	is("$answer->{status} $answer->{json}{code} $answer->{json}{message}", "401 api_key_invalid $case->[1]", $case->[1]);
}

# --- the limit: so many a minute, in all executors together
my $limited = http('POST', '/api/user/api-keys', $ann, { name => 'limited', rateLimit => 4 })->{json};
my @statuses = map { http('GET', '/rest/v1/docs', $limited->{key}) } 1 .. 5;
is(join(' ', map { $_->{status} } @statuses), '200 200 200 200 429', 'four a minute');
is($statuses[4]{json}{code}, 'api_key_rate_limited', 'says why');
ok($statuses[4]{headers}{'retry-after'} >= 1 && $statuses[4]{headers}{'retry-after'} <= 15, 'and when again: a quarter of a minute at most');
is(docs($key), 1, 'another key of the user has a limit of its own');

# --- expiry and revocation, at once and everywhere
sql("UPDATE orion_private.api_keys SET expires_at = now() WHERE id = '$scoped->{id}'");
is(http('GET', '/rest/v1/docs', $scoped->{key})->{json}{message}, 'the API key has expired', 'expired');
is(http('DELETE', "/api/user/api-keys?id=$limited->{id}", $ann)->{status}, 204, 'revoked by its id in the query');
my $third = http('POST', '/api/user/api-keys', $ann, { name => 'third' })->{json};
is(http('DELETE', '/api/user/api-keys', $ann, { id => $third->{id} })->{status}, 204, 'revoked by its id in the body');
my $answer = http('DELETE', "/api/user/api-keys/$made->{json}{id}", $ann);
is("$answer->{status} [$answer->{body}]", '204 []', 'revoked by its path');
is(join(' ', map { http('GET', '/rest/v1/docs', $key)->{status} } 1 .. 4), '401 401 401 401', 'and refused from then on by each executor');
is(http('GET', '/rest/v1/docs', $key)->{json}{message}, 'the API key was revoked', 'which says why');
is_error(http('DELETE', "/api/user/api-keys/$made->{json}{id}", $ann), 404, 'not_found', '', 'nothing to revoke twice');

# --- the audit log: who, from where, and what was refused
is(sql(q{SELECT count(DISTINCT relname) FROM pg_class WHERE relname ~ '^audit_log_\d{4}_\d\d$'}), 4, 'the worker has made partitions');
is(sql("SELECT actor = '$ann_id', session_id IS NOT NULL, db_user, address, user_agent, new ->> 'name' FROM orion.audit_log WHERE action = 'api_key.created' ORDER BY id LIMIT 1"),
	't|t|orion_user|127.0.0.1||all of it', 'a key made over HTTP');
http('POST', '/api/user/api-keys', $bob, { name => 'of bob' }, 'User-Agent' => 'a test', 'X-Forwarded-For' => '192.0.2.1');
is(sql("SELECT address, user_agent FROM orion.audit_log WHERE actor = '$bob_id' AND action = 'api_key.created'"), '127.0.0.1|a test', 'with the agent; the address is the connection\'s');
is(sql("SELECT string_agg(outcome, ' ' ORDER BY outcome) FROM orion.security_events WHERE action = 'security.api_key_refused' AND actor = '$ann_id' AND address = '127.0.0.1'"),
	'expired rate_limited revoked', 'refused uses are on record although the requests failed, once a minute each');
is(sql("SELECT db_user, address, actor IS NULL FROM orion.audit_log WHERE action = 'role.assigned'"), sql('SELECT current_user') . '||t', 'what was done by SQL, over a Unix socket');
is(sql("SELECT string_agg(DISTINCT type, ' ' ORDER BY type) FROM orion_private.outbox WHERE type ~ '^(api_key|role)'"), 'api_key.created api_key.revoked role.assigned role.created', 'events');

$node->stop;
my $log = slurp_file($node->logfile);
ok(index($log, substr($_, 10, 30)) < 0, 'no key in the log') for $key, $scoped->{key}, $limited->{key};
unlike($log, qr/TRAP|PANIC|terminated by signal/, 'nothing has crashed');
done_testing();
