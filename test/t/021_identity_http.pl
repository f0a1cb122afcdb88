# Identity over HTTP, route by route: every success, every refusal, replays and races.
use strict;
use warnings;
use JSON::PP ();
use MIME::Base64 qw(decode_base64url encode_base64url);
use OrionStack;
use PostgreSQL::Test::Utils;
use Test::More;

my $stack = OrionStack->new('identity_http');
my $password = 'a quite secret horse';

sub post { my ($path, $json, $token) = @_; return $stack->http('POST', $path, json => $json, token => $token); }
sub get { my ($path, $token) = @_; return $stack->http('GET', $path, token => $token); }
sub del { my ($path, $token) = @_; return $stack->http('DELETE', $path, token => $token); }

sub answers
{
	my ($answer, $status, $code, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($answer->{status} . ' ' . ($answer->{json}{code} // ''), "$status " . ($code // ''), $name) or diag($answer->{body});
	return $answer->{json};
}

sub sign_in
{
	my ($email, %more) = @_;
	return post('/api/auth/login', { email => $email, password => $password, %more })->{json};
}

# A token is refused by every executor: more requests than there are executors.
sub refused_everywhere
{
	my ($token, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my %seen;
	$seen{ get('/api/auth/sessions', $token)->{status} }++ for 1 .. 12;
	is(join(' ', %seen), '401 12', $name);
}

sub works { my ($token) = @_; return get('/api/auth/sessions', $token)->{status} == 200; }

# --- registration and login ------------------------------------------------------

my $ann = answers(post('/api/auth/register', { email => 'Ann@Example.com', password => $password, displayName => 'Ann' }), 201, undef, 'register');
is(join(' ', sort keys %$ann), 'accessToken expiresIn refreshToken tokenType user', 'the answer is in camelCase');
is($ann->{user}{email}, 'ann@example.com', 'the address is normalised');
answers(post('/api/auth/register', { email => 'ann@example.com', password => $password }), 409, 'email_exists', 'register: twice');
answers(post('/api/auth/register', { email => 'ann', password => $password }), 400, 'invalid_email', 'register: no address');
answers(post('/api/auth/register', { email => 'bob@example.com', password => 'short' }), 400, 'weak_password', 'register: short');
answers(post('/api/auth/register', { email => 'bob@example.com' }), 400, 'invalid_request', 'register: field missing');
answers(post('/api/auth/login', { email => 'ann@example.com', password => 'wrong' }), 401, 'invalid_credentials', 'login: wrong');
answers(post('/api/auth/login', { email => 'nobody@example.com', password => 'wrong' }), 401, 'invalid_credentials', 'login: unknown');
answers(post('/api/auth/login', { email => 7, password => 'x' }), 400, 'invalid_request', 'login: not a string');
my $second = answers(post('/api/auth/login', { email => 'ann@example.com', password => $password, deviceId => 'phone' }), 200, undef, 'login');
is($second->{expiresIn}, 900, 'access tokens live for 15 minutes');

# --- sessions and devices --------------------------------------------------------

my $sessions = answers(get('/api/auth/sessions', $second->{accessToken}), 200, undef, 'sessions')->{sessions};
is(scalar @$sessions, 2, 'two sessions');
is(scalar(grep { $_->{current} } @$sessions), 1, 'one of them asks');
answers(get('/api/auth/sessions'), 401, 'not_signed_in', 'sessions: without a token');
my $devices = answers(get('/api/auth/devices', $second->{accessToken}), 200, undef, 'devices')->{devices};
is(scalar @$devices, 2, 'two devices');
answers(get('/api/auth/devices'), 401, 'not_signed_in', 'devices: without a token');
is($stack->sql(q{SELECT count(*) FROM orion_private.outbox WHERE type = 'auth.new_device'}), 1, 'the second device is news, the first is not');
my ($first_id) = map { $_->{id} } grep { !$_->{current} } @$sessions;
answers(del('/api/auth/sessions/no-uuid', $second->{accessToken}), 404, 'not_found', 'revoke: not a session');
answers(del("/api/auth/sessions/$first_id"), 401, 'not_signed_in', 'revoke: without a token');
my $eve = answers(post('/api/auth/register', { email => 'eve@example.com', password => $password }), 201, undef, 'another user');
answers(del("/api/auth/sessions/$first_id", $eve->{accessToken}), 404, 'not_found', 'revoke: of somebody else');
ok(works($ann->{accessToken}), 'the first session works');
answers(del("/api/auth/sessions/$first_id", $second->{accessToken}), 200, undef, 'revoke one');
refused_everywhere($ann->{accessToken}, 'its access token is dead on every executor');
answers(del("/api/auth/sessions/$first_id", $second->{accessToken}), 404, 'not_found', 'revoke: again');
answers(post('/api/auth/refresh', { refreshToken => $ann->{refreshToken} }), 401, 'session_ended', 'and it cannot be refreshed');
my @others = map { sign_in('ann@example.com') } 1 .. 3;
is(answers(del('/api/auth/sessions', $second->{accessToken}), 200, undef, 'revoke all others')->{revoked}, 3, 'three');
refused_everywhere($others[1]{accessToken}, 'the others are dead');
ok(works($second->{accessToken}), 'the one that asked works');
answers(del('/api/auth/sessions'), 401, 'not_signed_in', 'revoke others: without a token');
my ($phone) = map { $_->{id} } grep { $_->{current} } @$devices;
answers(del("/api/auth/devices/$phone", $eve->{accessToken}), 404, 'not_found', 'forget a device: of somebody else');
answers(del("/api/auth/devices/$phone"), 401, 'not_signed_in', 'forget a device: without a token');
answers(del("/api/auth/devices/$phone", $second->{accessToken}), 200, undef, 'forget a device');
refused_everywhere($second->{accessToken}, 'its sessions are dead');

# --- refresh -----------------------------------------------------------------------

my $session = sign_in('ann@example.com');
my @chain = ($session->{refreshToken});
sub refresh { return post('/api/auth/refresh', { refreshToken => $_[0] }); }
my $next = answers(refresh($chain[0]), 200, undef, 'refresh');
push @chain, $next->{refreshToken};
isnt($chain[1], $chain[0], 'gives another refresh token');
ok(works($next->{accessToken}), 'and an access token');
is(refresh($chain[0])->{json}{refreshToken}, $chain[1], 'the answer was lost: the same again');
my $lost = answers(refresh($chain[0]), 200, undef, 'and again');
is($lost->{accessToken}, $next->{accessToken}, 'with the same access token');
push @chain, answers(refresh($chain[1]), 200, undef, 'on to the third')->{refreshToken};
answers(refresh($chain[0]), 401, 'token_reused', 'the first one is a replay now');
answers(refresh($chain[2]), 401, 'session_ended', 'it has ended the session');
refused_everywhere($next->{accessToken}, 'with its access tokens');
is($stack->sql(q{SELECT count(*) FROM orion_private.outbox WHERE type = 'auth.token_reused'}), 1, 'and is an event');
answers(post('/api/auth/refresh', {}), 400, 'invalid_request', 'refresh: field missing');

my $live = sign_in('ann@example.com');
my $bytes = decode_base64url($live->{refreshToken});
for my $at (0, 1, 17, 18, length($bytes) - 9, length($bytes) - 1)
{
	my $forged = $bytes;
	substr($forged, $at, 1) ^= "\x01";
	answers(refresh(encode_base64url($forged)), 401, 'invalid_token', "a bit changed in byte $at");
}
answers(refresh($_), 401, 'invalid_token', 'junk of ' . length($_) . ' characters') for ('', 'x', 'x' x 60, 'x' x 10000);
answers(refresh($live->{refreshToken}), 200, undef, 'which does not hurt the session');

# Two clients with one token, at the same moment, ten times.
sub at_once
{
	my ($n, $code) = @_;
	return map { JSON::PP->new->decode($_) } OrionStack::at_once($n, sub {
		my $answer = $code->(@_);
		return JSON::PP->new->encode([ $answer->{status}, $answer->{json} ]);
	});
}

my $token = sign_in('ann@example.com')->{refreshToken};
my $same = 0;
for (1 .. 10)
{
	my ($one, $two) = at_once(2, sub { refresh($token) });
	$same++ if $one->[0] == 200 && $two->[0] == 200 && $one->[1]{refreshToken} eq $two->[1]{refreshToken} && $one->[1]{accessToken} eq $two->[1]{accessToken};
	$token = $one->[1]{refreshToken};
}
is($same, 10, 'two refreshes at once get the same tokens');

# --- logout, ban, deletion -----------------------------------------------------------

my @three = map { sign_in('ann@example.com') } 1 .. 3;
answers(post('/api/auth/logout', {}), 401, 'not_signed_in', 'logout: without a token');
answers(post('/api/auth/logout', { everywhere => 'yes' }, $three[0]{accessToken}), 400, 'invalid_request', 'logout: not a boolean');
is(answers(post('/api/auth/logout', undef, $three[0]{accessToken}), 200, undef, 'logout')->{revoked}, 1, 'one session');
refused_everywhere($three[0]{accessToken}, 'its token is dead');
ok(works($three[1]{accessToken}), 'the others are not');
ok(answers(post('/api/auth/logout', { everywhere => JSON::PP::true }, $three[1]{accessToken}), 200, undef, 'logout everywhere')->{revoked} >= 2, 'all sessions');
refused_everywhere($_->{accessToken}, 'dead') for @three;
my $after = sign_in('ann@example.com');
ok(works($after->{accessToken}), 'who signs in again in the same second is in');

$stack->sql("BEGIN; SELECT orion_user_ban('$ann->{user}{id}'); ROLLBACK");
$stack->sql("BEGIN; SAVEPOINT s; SELECT orion_user_ban('$ann->{user}{id}'); ROLLBACK TO s; COMMIT");
ok(works($after->{accessToken}), 'a ban that is rolled back is none');
my $key = answers(post('/api/user/api-keys', { name => 'k' }, $after->{accessToken}), 201, undef, 'an API key')->{key};
is(get('/api/user/profile', $key)->{status}, 200, 'works');
my ($current) = map { $_->{id} } grep { $_->{current} } @{ get('/api/auth/sessions', $after->{accessToken})->{json}{sessions} };
my ($device) = map { $_->{id} } grep { $_->{current} } @{ get('/api/auth/devices', $after->{accessToken})->{json}{devices} };
for my $route ([ 'GET', 'sessions' ], [ 'GET', 'devices' ], [ 'DELETE', 'sessions' ], [ 'DELETE', "sessions/$current" ], [ 'DELETE', "devices/$device" ],
	[ 'POST', 'logout', {} ], [ 'POST', 'logout', { everywhere => JSON::PP::true } ], [ 'POST', 'password-change', { currentPassword => $password, newPassword => 'another horse' } ])
{
	my ($method, $path, $json) = @$route;
	answers($stack->http($method, "/api/auth/$path", token => $key, $json ? (json => $json) : ()), 403, 'session_required', "an API key is not enough for $method $path");
}
for my $call ([ 'orion_logout', {} ], [ 'orion_session_revoke', { session_id => $current } ], [ 'orion_device_forget', { device_id => $device } ])
{
	is(post("/rest/v1/rpc/$call->[0]", $call->[1], $key)->{status}, 403, "nor for /rpc/$call->[0]");
}
is(post('/rest/v1/rpc/orion_sessions_revoke_others', {}, $key)->{status}, 401, 'nor to end others');
ok(works($after->{accessToken}), 'nothing has ended');
my $narrow = post('/api/user/api-keys', { name => 'n', scopes => ['docs:read'] }, $after->{accessToken})->{json}{key};
is(post('/rest/v1/rpc/orion_preferences_update', { patch => { x => 1 } }, $narrow)->{status}, 403, 'a key without the scope changes no preferences over /rpc');
is(post('/rest/v1/rpc/orion_follow', { user_id => $eve->{user}{id} }, $narrow)->{status}, 403, 'nor follows');
is(post('/rest/v1/rpc/orion_preferences_update', { patch => { x => 1 } }, $key)->{status}, 200, 'a key without scopes does');
$stack->sql("SELECT orion_user_ban('$ann->{user}{id}')");
refused_everywhere($key, 'the API key of a banned user is refused');
refused_everywhere($after->{accessToken}, 'a banned user is out at once');
answers(post('/api/auth/login', { email => 'ann@example.com', password => $password }), 403, 'banned', 'and not let in');
answers(post('/api/auth/login', { email => 'ann@example.com', password => 'wrong' }), 401, 'invalid_credentials', 'which only the password tells');
answers(refresh($after->{refreshToken}), 401, 'session_ended', 'nor refreshed');
$stack->sql("SELECT orion_user_unban('$ann->{user}{id}')");
refused_everywhere($after->{accessToken}, 'lifting the ban revives no token');
$after = sign_in('ann@example.com');
ok(works($after->{accessToken}), 'but lets the user sign in');
my $gone = sign_in('eve@example.com');
$stack->sql("SELECT orion_user_delete('$eve->{user}{id}')");
refused_everywhere($gone->{accessToken}, 'a deleted user is out at once');
answers(post('/api/auth/login', { email => 'eve@example.com', password => $password }), 401, 'invalid_credentials', 'and unknown');

my ($status, $out, $err) = $stack->node->psql('postgres', "BEGIN; SELECT orion_user_sign_out('$ann->{user}{id}'); PREPARE TRANSACTION 'x'");
like($err, qr/cannot PREPARE/, 'a prepared transaction cannot end sessions');

# --- after a restart, clean or not ---------------------------------------------------

for my $how ('fast', 'immediate')
{
	my $dead = sign_in('ann@example.com');
	my $alive = sign_in('ann@example.com');
	answers(post('/api/auth/logout', {}, $dead->{accessToken}), 200, undef, "logout before a stop ($how)");
	$stack->node->stop($how);
	$stack->node->start;
	$stack->until_true(sub { (eval { get('/api/auth/health')->{status} } // 0) == 200 }) or die 'not up again';
	refused_everywhere($dead->{accessToken}, 'what was revoked stays dead');
	ok(works($alive->{accessToken}), 'what was not, works');
	$stack->until_true(sub { $stack->is_ready }) or die 'not ready again';
	refused_everywhere($dead->{accessToken}, 'and so once shared memory is filled');
}

# --- health and keys -----------------------------------------------------------------

is(answers(get('/api/auth/health'), 200, undef, 'health')->{status}, 'ok', 'says ok');
is_deeply(answers(get('/.well-known/jwks.json'), 200, undef, 'JWKS')->{keys}, [], 'an HS256 key is not shown');
$stack->sql(q{SELECT orion_key_publish('RS256')});
my $kid = $stack->sql(q{SELECT orion_key_publish('ES256')});
is(scalar @{ get('/.well-known/jwks.json')->{json}{keys} }, 2, 'published keys are');
my $before = sign_in('ann@example.com');
$stack->sql("SELECT orion_key_activate('$kid')");
my $signed = sign_in('ann@example.com');
like(decode_base64url((split /\./, $signed->{accessToken})[0]), qr/"kid": ?"$kid"/, 'an activated key signs');
ok(works($signed->{accessToken}) && works($before->{accessToken}), 'and the former one verifies');
$stack->sql("SELECT orion_key_retire('$kid')");
refused_everywhere($signed->{accessToken}, 'a retired key does not');
is(scalar @{ get('/.well-known/jwks.json')->{json}{keys} }, 1, 'nor is it shown');

done_testing();
