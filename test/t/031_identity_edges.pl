# The edges of identity over HTTP: every route without a token and with bodies of the
# wrong kind, tokens that expire or belong to no session, and a standby, which cannot write.
use strict;
use warnings;
use JSON::PP ();
use OrionStack;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $stack = OrionStack->new('identity_edges', conf => "wal_level = replica\nmax_wal_senders = 4\nhot_standby = on\norion.auth_password_memory = '7168kB'\norion.auth_password_time = 1\n");
my $node = $stack->node;
my $password = 'a quite secret horse';
my $id = '00000000-0000-4000-8000-000000000001';

sub call { my ($method, $path, @rest) = @_; return $stack->http($method, $path =~ s/\{id\}/$id/r, @rest); }
sub seen { my ($answer) = @_; return join ' ', $answer->{status}, $answer->{json}{code} // (); }

# --- every route: without a token or a body, and with a body that is no object
# (2FA has a test of its own.)

my %route = (
	'POST /api/auth/register' => [ '400 invalid_request', '400 invalid_request' ],
	'POST /api/auth/login' => [ '400 invalid_request', '400 invalid_request' ],
	'POST /api/auth/refresh' => [ '400 invalid_request', '400 invalid_request' ],
	'POST /api/auth/verify-email' => [ '400 invalid_request', '400 invalid_request' ],
	'POST /api/auth/password-reset' => [ '400 invalid_request', '400 invalid_request' ],
	'POST /api/auth/password-reset/confirm' => [ '400 invalid_request', '400 invalid_request' ],
	'POST /api/auth/password-change' => [ '401 not_signed_in', '401 not_signed_in' ],
	'POST /api/auth/logout' => [ '401 not_signed_in', '401 not_signed_in' ],
	'GET /api/auth/sessions' => ['401 not_signed_in'],
	'DELETE /api/auth/sessions' => ['401 not_signed_in'],
	'DELETE /api/auth/sessions/{id}' => ['401 not_signed_in'],
	'GET /api/auth/devices' => ['401 not_signed_in'],
	'DELETE /api/auth/devices/{id}' => ['401 not_signed_in'],
	'GET /api/auth/health' => ['200'],
	'GET /.well-known/jwks.json' => ['200'],
	'GET /api/user/api-keys' => ['401 unauthorized'],
	'POST /api/user/api-keys' => [ '401 unauthorized', '401 unauthorized' ],
	'DELETE /api/user/api-keys' => ['401 unauthorized'],
	'DELETE /api/user/api-keys/{id}' => ['401 unauthorized'],
	'GET /api/user/profile' => ['401 unauthorized'],
	'PATCH /api/user/profile' => [ '401 unauthorized', '401 unauthorized' ],
	'POST /api/user/email/confirm' => [ '400 invalid_request', '400 invalid_request' ],
	'GET /api/user/preferences' => ['401 unauthorized'],
	'PATCH /api/user/preferences' => [ '401 unauthorized', '401 unauthorized' ],
	'POST /api/user/{id}/follow' => ['401 unauthorized'],
	'DELETE /api/user/{id}/follow' => ['401 unauthorized'],
	'GET /api/user/list' => ['401 unauthorized'],
	'GET /api/user/health' => ['200']);
is(join("\n", sort keys %route), $stack->sql(q{SELECT string_agg(method || ' ' || path, E'\n' ORDER BY (method || ' ' || path) COLLATE "C") FROM orion_private.routes WHERE path ~ '^/(api/(auth|user)/|\.well-known/jwks)' AND path !~ '/(2fa|trusted-devices)'}),
	'each route of identity is in this list');
foreach my $route (sort keys %route)
{
	my ($method, $path) = split / /, $route;
	my ($bare, $odd) = @{ $route{$route} };
	is(seen(call($method, $path)), $bare, "$route: nothing given");
	next unless $odd;
	is(seen(call($method, $path, json => $_)), $odd, "$route: a body that is " . (ref $_ || 'a string')) for 'x', [ 1 ];
	is(call($method, $path, body => '{"a":')->{status}, 400, "$route: no JSON");
	is(call($method, $path, body => 'a=1', headers => { 'Content-Type' => 'application/x-www-form-urlencoded' })->{status}, ($bare =~ /^401/ ? 401 : 400), "$route: a form")
	  if $path =~ /login|register/;
}
is(call('PUT', '/api/auth/login', json => {})->{status}, 405, 'a method that a path does not have');

# --- fields of the wrong length or kind

sub register { return call('POST', '/api/auth/register', json => { email => 'ann@example.com', password => $password, @_ }); }
is(seen(register(displayName => 'x' x 201)), '400 invalid_display_name', 'register: a long name');
is(seen(register(displayName => "x\r\nBcc: everybody\@example.com")), '400 invalid_display_name', 'register: a name of two lines');
is(seen(register(displayName => 7)), '400 invalid_request', 'register: a number for a name');
is(seen(register(userMetadata => [1])), '400 invalid_user_metadata', 'register: metadata that is no object');
is(seen(register(userMetadata => { a => 'x' x 20000 })), '400 invalid_user_metadata', 'register: metadata over 16 kB');
is(seen(register(email => 'x' x 300 . '@example.com')), '400 invalid_email', 'register: a long address');
my $ann = register();
is($ann->{status}, 201, 'register');
$ann = $ann->{json};
is(seen(call('POST', '/api/auth/login', json => { email => 'ann@example.com', password => 'x' x 5000 })), '401 invalid_credentials', 'login: a long password');
is(seen(call('POST', '/api/auth/login', json => { email => 'ann@example.com', password => $password, deviceId => 'd' x 5000 })), '200', 'login: a long device');
is(seen(call('POST', '/api/auth/password-change', json => { currentPassword => $password, newPassword => 'x' x 1025 }, token => $ann->{accessToken})), '400 password_too_long', 'password-change: too long');
is(seen(call('POST', '/api/auth/password-change', json => { currentPassword => $password, newPassword => 'x' }, token => $ann->{accessToken})), '400 weak_password', 'password-change: too short');

# --- as many keys as there may be

$stack->sql("SELECT count(orion_api_key_create('$ann->{user}{id}', 'k' || i)) FROM generate_series(1, 100) AS i");
is(seen(call('POST', '/api/user/api-keys', json => { name => 'one more' }, token => $ann->{accessToken})), '409 too_many_keys', 'api-keys: too many');

# --- tokens: expired, just before, of the future, without a session, of nobody

sub signed { my ($claims) = @_; return $stack->sql("SELECT orion_jwt_sign(jsonb_build_object('sub', '$ann->{user}{id}', 'role', 'orion_user') || '$claims')"); }
my $now = time;
sub profile { my ($token) = @_; return call('GET', '/api/user/profile', token => $token)->{status}; }
is(profile(signed("{\"exp\": @{[ $now + 60 ]}}")), 200, 'a token that lasts another minute');
is(profile(signed("{\"exp\": @{[ $now - 10 ]}}")), 200, 'expired ten seconds ago: clocks may differ by thirty');
is(profile(signed("{\"exp\": @{[ $now - 31 ]}}")), 401, 'expired 31 seconds ago');
is(profile(signed("{\"nbf\": @{[ $now + 20 ]}}")), 200, 'not valid for another twenty seconds');
is(profile(signed("{\"nbf\": @{[ $now + 60 ]}}")), 401, 'not valid for another minute');
my $free = signed('{}');
is(seen(call('DELETE', '/api/auth/sessions', token => $free)), '401 not_signed_in', 'without a session there are no others');
is(seen(call('POST', '/api/auth/password-change', json => {}, token => $free)), '401 not_signed_in', 'nor is the password changed');
is(call('POST', '/api/auth/logout', json => {}, token => $free)->{json}{revoked}, 0, 'nor is there one to end');
is(seen(call('DELETE', '/api/auth/sessions/{id}', token => $free)), '404 not_found', 'but it may end others by their id');
is(profile(signed('{"session_id": "no uuid"}')), 200, 'a session id of another issuer is none of ours');

# --- a standby: it knows who is signed in, and says that it cannot write

$node->backup('base');
my $port = PostgreSQL::Test::Cluster::get_free_port();
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "orion.http_port = $port\n");
chmod 0600, $standby->data_dir . '/orion_master.key';	# what the test's copying has made of it would be refused
$standby->start;
my $there = bless { %$stack, http_port => $port, node => $standby }, ref $stack;
ok($stack->until_true(sub { $there->is_ready }), 'a standby answers');
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
my $health = $there->http('GET', '/api/auth/health');
is("$health->{status} $health->{json}{status}", '503 read_only', 'health: 503');
is($there->http('GET', '/api/user/health')->{json}{writable}, JSON::PP::false, 'and says so');
is($there->http('GET', '/api/user/profile', token => $ann->{accessToken})->{status}, 200, 'an access token is good there');
my $refused = $there->http('POST', '/api/auth/register', json => { email => 'no@example.com', password => $password });
is(seen($refused), '503 25006', 'register: 503');
ok($refused->{headers}{'retry-after'}, 'with Retry-After');
for my $case ([ 'login', { email => 'ann@example.com', password => $password } ], [ 'refresh', { refreshToken => $ann->{refreshToken} } ], [ 'logout', {} ])
{
	my $answer = $there->http('POST', "/api/auth/$case->[0]", json => $case->[1], token => $ann->{accessToken});
	is($answer->{status}, 503, "$case->[0]: 503, as another server can");
	ok($answer->{headers}{'retry-after'}, 'with Retry-After');
}
is(call('POST', '/api/auth/logout', json => {}, token => $ann->{accessToken})->{json}{revoked}, 1, 'signed out at the primary');
ok($stack->until_true(sub { $there->http('GET', '/api/user/profile', token => $ann->{accessToken})->{status} == 401 }), 'the token dies at the standby, too');
$standby->stop;

done_testing();
