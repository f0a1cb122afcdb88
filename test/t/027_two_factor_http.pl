# Second factors over HTTP: set-up, sign-in, step-up, backup codes, trusted devices, removal;
# every refusal, replays, races, clock edges, locks, and no secret where it could be read.
use strict;
use warnings;
use Digest::SHA qw(hmac_sha1);
use JSON::PP ();
use OrionStack;
use PostgreSQL::Test::Utils;
use Test::More;

# the limits of sign-ins are out of the way until they are what is tested
my $stack = OrionStack->new('two_factor_http', conf => q{
log_statement = 'all'
log_min_error_statement = 'error'
compute_query_id = on
shared_preload_libraries = 'orion, pg_stat_statements'
pg_stat_statements.track = 'all'
orion.auth_login_max_account = 0
orion.auth_login_max_address = 0
orion.auth_login_max_pair = 0
orion.mfa_lock_after = 0
orion.mfa_issuer = 'Ten & Ten'
orion.auth_password_memory = 7168
});
$stack->sql('CREATE EXTENSION pg_stat_statements');
my $password = 'a quite secret horse';
my @planted = ($password);

sub post { my ($path, $json, $token) = @_; return $stack->http('POST', "/api/auth/$path", json => $json, token => $token); }

sub answers
{
	my ($answer, $status, $code, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($answer->{status} . ' ' . ($answer->{json}{code} // ''), "$status " . ($code // ''), $name) or diag($answer->{body});
	return $answer->{json};
}

sub works { my ($token) = @_; return $stack->http('GET', '/api/auth/sessions', token => $token)->{status} == 200; }
sub set { my ($name, $value) = @_; $stack->sql("ALTER SYSTEM SET $name = $value"); $stack->node->reload; $stack->until_true(sub { $stack->sql("SHOW $name") eq $value }); }

# An authenticator app of our own (RFC 6238 over RFC 4226): the code of a step.
sub app
{
	my ($secret, $step) = @_;
	my %value = map { substr('ABCDEFGHIJKLMNOPQRSTUVWXYZ234567', $_, 1) => $_ } 0 .. 31;
	my $key = pack 'B*', join '', map { sprintf '%05b', $value{$_} } split //, $secret;
	my $digest = hmac_sha1(pack('Q>', $step), $key);
	my $offset = ord(substr $digest, -1) & 15;
	return sprintf '%06d', (unpack('N', substr $digest, $offset, 4) & 0x7fffffff) % 1000000;
}
is(app('GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ', 1), '287082', 'the app of this test (RFC 6238, appendix B)');

sub step { return int(time / 30); }
# The next code: steps that were used are forgotten, so that no test waits 30 s.
sub fresh { my ($secret) = @_; $stack->sql('UPDATE orion_private.two_factors SET last_step = 0'); return app($secret, step()); }

# A code that is none of those which count now or soon.
sub wrong
{
	my ($secret) = @_;
	my %right = map { app($secret, step() + $_) => 1 } -2 .. 3;
	return (grep { !$right{$_} } map { sprintf '%06d', $_ * 111111 } 0 .. 9)[0];
}

sub claims
{
	my ($token) = @_;
	my $payload = (split /\./, $token)[1] =~ tr{-_}{+/}r;
	require MIME::Base64;
	my $claims = JSON::PP::decode_json(MIME::Base64::decode_base64($payload));
	return "$claims->{aal} " . join ',', map { $_->{method} } @{ $claims->{amr} };
}

sub register { my ($email) = @_; return answers(post('register', { email => $email, password => $password }), 201, undef, "$email registers"); }
sub sign_in { my ($email, %more) = @_; return post('login', { email => $email, password => $password, %more }); }
sub pending { my ($email, %more) = @_; return sign_in($email, %more)->{json}{sessionId}; }

# A user with a second factor: (secret, answer to the confirmation).
sub enable
{
	my ($token) = @_;
	my $setup = post('2fa/setup', {}, $token)->{json};
	my $done = post('2fa/verify', { code => app($setup->{secret}, step()) }, $token)->{json};
	push @planted, $setup->{secret}, @{ $done->{backupCodes} }, $done->{accessToken}, $done->{refreshToken};
	return ($setup->{secret}, $done);
}

# --- who may not --------------------------------------------------------------------------

my $ann = register('ann@example.com');
my $bob = register('bob@example.com');
my $other = sign_in('ann@example.com')->{json};
my ($key) = split /\|/, $stack->sql(qq{SELECT key FROM orion_api_key_create('$ann->{user}{id}', 'key')});
my @routes = ([ 'GET', '' ], [ 'POST', '/setup' ], [ 'POST', '/verify' ], [ 'POST', '/verify-backup' ], [ 'POST', '/disable' ],
	[ 'POST', '/backup-codes' ], [ 'GET', '/trusted-devices' ], [ 'DELETE', '/trusted-devices' ], [ 'DELETE', "/trusted-devices/$ann->{user}{id}" ]);
for my $route (@routes)
{
	my ($method, $path) = @$route;
	my @body = $method eq 'POST' ? (json => { code => '123456', $path eq '/verify-backup' ? (backupCode => 'x') : () }) : ();
	answers($stack->http($method, "/api/auth/2fa$path", @body), 401, 'not_signed_in', "$method $path without a token");
	answers($stack->http($method, "/api/auth/2fa$path", @body, token => $key), 403, 'session_required', "$method $path with an API key");
}

# --- set-up ---------------------------------------------------------------------------------

answers(post('2fa/setup', { password => 7 }, $ann->{accessToken}), 400, 'invalid_request', 'setup: a field of another type');
answers(post('2fa/setup', { password => 'wrong' }, $ann->{accessToken}), 403, 'invalid_credentials', 'setup: a wrong password');
answers(post('2fa/verify', { code => '123456' }, $ann->{accessToken}), 409, 'not_enabled', 'verify: nothing was set up');
answers(post('2fa/disable', { code => '123456' }, $ann->{accessToken}), 409, 'not_enabled', 'disable: nothing was set up');
answers(post('2fa/backup-codes', { code => '123456' }, $ann->{accessToken}), 409, 'not_enabled', 'backup-codes: nothing was set up');
$stack->sql(q{UPDATE orion_private.sessions SET amr = jsonb_set(amr, '{0,timestamp}', to_jsonb(extract(epoch FROM now())::int - 901)) WHERE user_id = (SELECT id FROM orion_private.users WHERE email = 'ann@example.com')});
answers(post('2fa/setup', undef, $ann->{accessToken}), 403, 'password_required', 'setup: the sign-in is 15 minutes ago');
my $first = answers(post('2fa/setup', { password => $password }, $ann->{accessToken}), 200, undef, 'setup with the password');
my $setup = post('2fa/setup', { password => $password }, $ann->{accessToken});
is($setup->{headers}{'cache-control'}, 'no-store', 'the secret is kept by no cache');
$setup = $setup->{json};
my $secret = $setup->{secret};
push @planted, $first->{secret}, $secret;
isnt($secret, $first->{secret}, 'again: another secret');
like($secret, qr/^[A-Z2-7]{32}$/, '160 bits in base 32');
is($setup->{uri}, "otpauth://totp/Ten%20%26%20Ten:ann%40example.com?secret=$secret&issuer=Ten%20%26%20Ten&algorithm=SHA1&digits=6&period=30", 'the URI');
like($setup->{qrCode}, qr{^<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 \d+ \d+"[^>]*><path[^<]*/><path[^<]*/></svg>$}, 'the QR code is SVG');
is($stack->sql("SELECT count(*) FROM orion_private.two_factors AS f WHERE f::text LIKE '%$secret%' OR position('$secret' IN encode(secret, 'escape')) > 0"), 0, 'the secret is sealed');
is(sign_in('ann@example.com')->{status}, 200, 'what was set up is asked for by nobody');
answers(post('2fa/verify', { code => app($first->{secret}, step()) }, $ann->{accessToken}), 403, 'invalid_code', 'confirm: the former secret');
$stack->sql(q{UPDATE orion_private.two_factors SET created_at = now() - interval '61 minutes'});
answers(post('2fa/verify', { code => app($secret, step()) }, $ann->{accessToken}), 409, 'not_enabled', 'confirm: an hour later');
$stack->sql(q{UPDATE orion_private.two_factors SET created_at = now()});
answers(post('2fa/verify', {}, $ann->{accessToken}), 400, 'invalid_request', 'confirm: no code');
answers(post('2fa/verify', { code => 123456 }, $ann->{accessToken}), 400, 'invalid_request', 'confirm: a number');
answers(post('2fa/verify', { code => '123456', trustDevice => 'yes' }, $ann->{accessToken}), 400, 'invalid_request', 'confirm: trustDevice is no boolean');
my $code = app($secret, step());
my @confirmed = OrionStack::at_once(3, sub { my $answer = post('2fa/verify', { code => $code }, $ann->{accessToken}); return "$answer->{status} $answer->{body}" });
is(join(' ', sort map { substr $_, 0, 3 } @confirmed), '200 403 403', 'of three confirmations at once one wins');
my $done = JSON::PP::decode_json((grep { s/^200 // } @confirmed)[0]);
push @planted, @{ $done->{backupCodes} }, $done->{accessToken}, $done->{refreshToken};
is(scalar(@{ $done->{backupCodes} }), 10, 'ten backup codes');
is(scalar(grep { /^[0-9a-hjkmnp-tv-z]{5}-[0-9a-hjkmnp-tv-z]{5}$/ } @{ $done->{backupCodes} }), 10, 'of their form');
is(claims($done->{accessToken}), 'aal2 password,totp', 'the session is raised');
ok(works($ann->{accessToken}), 'its former token goes on');
is($stack->http('GET', '/api/auth/sessions', token => $other->{accessToken})->{status}, 401, 'other sessions have ended') for 1 .. 3;
answers(post('2fa/setup', {}, $done->{accessToken}), 409, 'already_enabled', 'setup: again');
my $state = answers($stack->http('GET', '/api/auth/2fa', token => $done->{accessToken}), 200, undef, 'the state');
is($stack->sql("SELECT last_login_at IS NULL FROM orion_private.users WHERE email = 'bob\@example.com'"), 't', 'registration is no login');
ok($state->{enabled} && $state->{backupCodesLeft} == 10 && $state->{trustedDevices} == 0 && $state->{enabledAt} && $state->{lastUsedAt}, 'is told');
ok(!$stack->http('GET', '/api/auth/2fa', token => $bob->{accessToken})->{json}{enabled}, 'that of others is not');
is($stack->sql("SELECT (secret <> '') || ' ' || (SELECT count(*) FROM orion_private.backup_codes AS b WHERE b::text ~ '$done->{backupCodes}[0]') FROM orion_private.two_factors"), 'true 0', 'backup codes are kept as digests');

# --- signing in -------------------------------------------------------------------------------

my $login = sign_in('ann@example.com');
is("$login->{status} " . join(',', sort keys %{ $login->{json} }), '202 sessionId,twoFactorRequired', 'login: 202, and nothing else');
ok($login->{json}{twoFactorRequired}, 'twoFactorRequired');
is($login->{headers}{'cache-control'}, 'no-store', 'kept by no cache');
my $pending = $login->{json}{sessionId};
push @planted, $pending;
is($stack->sql(q{SELECT count(*) FROM orion_private.outbox WHERE type = 'user.login' AND payload ->> 'id' = (SELECT id::text FROM orion_private.users WHERE email = 'ann@example.com') AND payload ? 'secondFactor'}), 0, 'nobody has signed in');
is(scalar(@{ $stack->http('GET', '/api/auth/sessions', token => $done->{accessToken})->{json}{sessions} }), 1, 'a pending session is in no list');
ok(!works($pending), 'and no access token');
answers(post('refresh', { refreshToken => $pending }), 401, 'invalid_token', 'no refresh token');
answers(post('password-reset/confirm', { token => $pending, newPassword => 'another good horse' }), 400, 'invalid_token', 'no token of any kind');
is($stack->http('DELETE', "/api/auth/sessions/$pending", token => $done->{accessToken})->{status}, 404, 'and nothing to revoke');
answers(sign_in('ann@example.com', password => 'wrong'), 401, 'invalid_credentials', 'a wrong password is told before');

answers(post('2fa/verify', { sessionId => $pending }), 400, 'invalid_request', 'verify: no code');
answers(post('2fa/verify', { sessionId => 7, code => '123456' }), 400, 'invalid_request', 'verify: sessionId of another type');
answers(post('2fa/verify', 'x'), 400, 'invalid_request', 'verify: no object');
answers(post('2fa/verify-backup', { sessionId => $pending, code => '123456' }), 400, 'invalid_request', 'verify-backup: no backup code');
answers(post('2fa/verify', { sessionId => $_, code => fresh($secret) }), 401, 'invalid_session', "verify: unknown sessionId '$_'")
  for '', 'x' x 43, '00000000-0000-0000-0000-000000000000', $stack->sql('SELECT id FROM orion_private.sessions WHERE revoked_at IS NULL LIMIT 1');
answers(post('2fa/verify', { sessionId => $pending, code => $_ }), 401, 'invalid_code', 'verify: a wrong code of ' . length . ' characters')
  for wrong($secret), '', 'x' x 100_000, "\x{661}\x{662}\x{663}\x{664}\x{665}\x{666}";
answers(post('2fa/verify', { sessionId => $pending, code => $done->{backupCodes}[0] }), 401, 'invalid_code', 'verify: a backup code');
answers(post('2fa/verify-backup', { sessionId => $pending, backupCode => fresh($secret) }), 401, 'invalid_code', 'verify-backup: a code of the app');
# another user with a second factor: neither the own code nor the own token helps
my ($bobs, $bob_done) = enable($bob->{accessToken});
answers(post('2fa/verify', { sessionId => $pending, code => fresh($bobs) }), 401, 'invalid_code', 'another user\'s code');
answers(post('2fa/verify-backup', { sessionId => $pending, backupCode => $bob_done->{backupCodes}[0] }, $bob_done->{accessToken}), 401, 'invalid_code', 'another user\'s backup code and token');

# clock edges: the step before and the one after count, two steps do not
for my $case ([ -2, '401' ], [ -1, '200' ], [ 0, '200' ], [ 1, '200' ], [ 2, '401' ])
{
	my ($offset, $wanted) = @$case;
	my ($from, $answer);
	do
	{
		fresh($secret);
		my $id = pending('ann@example.com');
		$from = step();
		$answer = post('2fa/verify', { sessionId => $id, code => app($secret, $from + $offset) });
	} while (step() != $from);
	is($answer->{status}, $wanted, "a code $offset steps off");
}

$pending = pending('ann@example.com');
$code = fresh($secret);
my $session = answers(post('2fa/verify', { sessionId => $pending, code => substr($code, 0, 3) . ' ' . substr($code, 3) }), 200, undef, 'verify: as the app shows it');
push @planted, $session->{accessToken}, $session->{refreshToken};
is(join(',', sort keys %$session), 'accessToken,expiresIn,refreshToken,tokenType,user', 'the answer is that of a login');
is($session->{user}{email}, 'ann@example.com', 'with the user');
is(claims($session->{accessToken}), 'aal2 password,totp', 'aal2 by both');
my $refreshed = answers(post('refresh', { refreshToken => $session->{refreshToken} }), 200, undef, 'refreshed');
is(claims($refreshed->{accessToken}), 'aal2 password,totp', 'it stays so');
answers(post('2fa/verify', { sessionId => $pending, code => app($secret, step() + 1) }), 401, 'invalid_session', 'the pending session is gone');
answers(post('2fa/verify', { sessionId => pending('ann@example.com'), code => $code }), 401, 'invalid_code', 'the code is used up');
$stack->sql('UPDATE orion_private.two_factors SET last_step = ' . (step() + 1));
answers(post('2fa/verify', { sessionId => pending('ann@example.com'), code => app($secret, step() - 1) }), 401, 'invalid_code', 'so are those before a used one');
is($stack->sql(q{SELECT payload - '{id,sessionId,address,userAgent}'::text[] FROM orion_private.outbox WHERE type = 'user.login' ORDER BY seq DESC LIMIT 1}), '{"method": "password", "secondFactor": "totp"}', 'the event tells both');

my $late = pending('ann@example.com');
$stack->sql(q{UPDATE orion_private.pending_sessions SET expires_at = expires_at - interval '899 seconds'});
my $left = $stack->sql(q{SELECT max(expires_at) - clock_timestamp() < '1 second' FROM orion_private.pending_sessions});
is($left, 't', 'a pending session lives 15 minutes');
$stack->sql(q{UPDATE orion_private.pending_sessions SET expires_at = clock_timestamp()});
answers(post('2fa/verify', { sessionId => $late, code => fresh($secret) }), 401, 'invalid_session', 'and not longer');

# --- races ----------------------------------------------------------------------------------------

my @ids = map { pending('ann@example.com') } 1 .. 4;
$code = fresh($secret);
my @race = sort(OrionStack::at_once(4, sub { my ($i) = @_; post('2fa/verify', { sessionId => $ids[ $i - 1 ], code => $code })->{status} }));
is("@race", '200 401 401 401', 'one code in four sign-ins at once: one wins');
$pending = pending('ann@example.com');
my $now = step();
fresh($secret);
@race = sort(OrionStack::at_once(3, sub { my ($i) = @_; post('2fa/verify', { sessionId => $pending, code => app($secret, $now + $i - 2) })->{status} }));
is("@race", '200 401 401', 'three codes for one sign-in at once: one wins');
@ids = map { pending('ann@example.com') } 1 .. 4;
@race = sort(OrionStack::at_once(4, sub { my ($i) = @_; post('2fa/verify-backup', { sessionId => $ids[ $i - 1 ], backupCode => $done->{backupCodes}[1] })->{status} }));
is("@race", '200 401 401 401', 'one backup code in four sign-ins at once: one wins');
is($stack->sql('SELECT count(*) FROM orion_private.backup_codes WHERE used_at IS NOT NULL'), 1, 'and one is used');

# --- backup codes ------------------------------------------------------------------------------------

my $by_backup = answers(post('2fa/verify-backup', { sessionId => pending('ann@example.com'), backupCode => uc $done->{backupCodes}[2] }), 200, undef, 'a backup code');
is(claims($by_backup->{accessToken}), 'aal2 password,backup_code', 'aal2 by it');
answers(post('2fa/verify-backup', { sessionId => pending('ann@example.com'), backupCode => $done->{backupCodes}[2] }), 401, 'invalid_code', 'works once');
is($stack->sql(q{SELECT payload ->> 'left' FROM orion_private.outbox WHERE type = 'auth.backup_code_used' ORDER BY seq DESC LIMIT 1}), 8, 'an event says how many are left');
answers(post('2fa/backup-codes', { }, $by_backup->{accessToken}), 400, 'invalid_request', 'regenerate: nothing shown');
answers(post('2fa/backup-codes', { code => '1', password => '1' }, $by_backup->{accessToken}), 400, 'invalid_request', 'regenerate: two things shown');
answers(post('2fa/backup-codes', { code => wrong($secret) }, $by_backup->{accessToken}), 403, 'invalid_code', 'regenerate: a wrong code');
answers(post('2fa/backup-codes', { password => 'wrong' }, $by_backup->{accessToken}), 403, 'invalid_credentials', 'regenerate: a wrong password');
my $newer = answers(post('2fa/backup-codes', { backupCode => $done->{backupCodes}[3] }, $by_backup->{accessToken}), 200, undef, 'regenerate')->{backupCodes};
push @planted, @$newer;
is(scalar(@$newer), 10, 'ten new ones');
answers(post('2fa/verify-backup', { sessionId => pending('ann@example.com'), backupCode => $done->{backupCodes}[4] }), 401, 'invalid_code', 'the former ones are none');
answers(post('2fa/verify-backup', { sessionId => pending('ann@example.com'), backupCode => $newer->[0] }), 200, undef, 'the new ones are');

# --- trusted devices -------------------------------------------------------------------------------------

my $trusted = answers(post('2fa/verify', { sessionId => pending('ann@example.com', deviceId => 'laptop'), code => fresh($secret), trustDevice => JSON::PP::true }), 200, undef, 'verify and trust the device');
my $device = $trusted->{deviceToken};
push @planted, $device;
like($device, qr/^[A-Za-z0-9_-]{43}$/, 'it gets a token');
is($stack->sql(q{SELECT expires_at - created_at BETWEEN '29 days 23:59:59' AND '30 days 00:00:01' FROM orion_private.trusted_devices}), 't', 'for 30 days');
is($stack->sql("SELECT count(*) FROM orion_private.trusted_devices WHERE digest = sha256('$device')"), 1, 'of which SHA-256 is kept');
my $direct = answers(sign_in('ann@example.com', deviceId => 'laptop', deviceToken => $device), 200, undef, 'the next login asks for no second factor');
is(claims($direct->{accessToken}), 'aal1 password,trusted_device', 'and claims none');
is($stack->sql(q{SELECT last_login_at > now() - interval '20 seconds' FROM orion_private.users WHERE email = 'ann@example.com'}), 't', 'it is a login');
is(claims(post('refresh', { refreshToken => $direct->{refreshToken} })->{json}{accessToken}), 'aal1 password,trusted_device', 'refreshed neither');
answers(sign_in('ann@example.com', deviceToken => $device, password => 'wrong'), 401, 'invalid_credentials', 'it is no password');
answers(sign_in('ann@example.com', deviceToken => 'x'), 202, undef, 'another token is none');
answers(sign_in('ann@example.com', deviceToken => 7), 400, 'invalid_request', 'a token of another type');
answers(sign_in('bob@example.com', deviceToken => $device), 202, undef, 'it is nobody else\'s');
my $list = $stack->http('GET', '/api/auth/2fa/trusted-devices', token => $direct->{accessToken})->{json}{trustedDevices};
is(scalar(@$list), 1, 'it is listed');
ok($list->[0]{current} && $list->[0]{lastUsedAt} && $list->[0]{expiresAt}, 'as the one of this session');
is($stack->http('DELETE', "/api/auth/2fa/trusted-devices/$list->[0]{id}", token => $bob_done->{accessToken})->{status}, 404, 'others cannot revoke it');
is($stack->http('DELETE', '/api/auth/2fa/trusted-devices/x', token => $direct->{accessToken})->{status}, 404, 'nor is there x');
is($stack->http('DELETE', "/api/auth/2fa/trusted-devices/$list->[0]{id}", token => $direct->{accessToken})->{status}, 200, 'revoked');
answers(sign_in('ann@example.com', deviceToken => $device), 202, undef, 'it is trusted no more');

sub trust { my ($device) = @_; return post('2fa/verify', { sessionId => pending('ann@example.com', deviceId => $device), code => fresh($secret), trustDevice => JSON::PP::true })->{json}; }
my @devices = map { trust($_) } 'one', 'two';
push @planted, map { $_->{deviceToken} } @devices;
is($stack->http('DELETE', '/api/auth/2fa/trusted-devices', token => $devices[0]{accessToken})->{json}{revoked}, 2, 'all revoked');
answers(sign_in('ann@example.com', deviceToken => $_->{deviceToken}), 202, undef, 'none is trusted') for @devices;
$trusted = trust('three');
my ($three) = grep { $_->{current} } @{ $stack->http('GET', '/api/auth/devices', token => $trusted->{accessToken})->{json}{devices} };
is($stack->http('DELETE', "/api/auth/devices/$three->{id}", token => $direct->{accessToken})->{status}, 200, 'a device is forgotten');
answers(sign_in('ann@example.com', deviceToken => $trusted->{deviceToken}), 202, undef, 'and with it its trust');
$trusted = trust('four');
$stack->sql(q{UPDATE orion_private.trusted_devices SET expires_at = clock_timestamp()});
answers(sign_in('ann@example.com', deviceToken => $trusted->{deviceToken}), 202, undef, 'it ends after its time');
set('orion.mfa_trusted_device_ttl', '0');
ok($stack->until_true(sub { !exists trust('five')->{deviceToken} }), 'with 0 no device is trusted');
$stack->sql('ALTER SYSTEM RESET orion.mfa_trusted_device_ttl'); $stack->node->reload;
ok($stack->until_true(sub { exists trust('five')->{deviceToken} }), 'and with a time again');

# a new password, by change or by mail, ends trust and what is pending
$trusted = trust('six');
$pending = pending('ann@example.com');
answers(post('password-change', { currentPassword => $password, newPassword => "$password 2" }, $trusted->{accessToken}), 200, undef, 'the password is changed');
answers(sign_in('ann@example.com', password => "$password 2", deviceToken => $trusted->{deviceToken}), 202, undef, 'no device is trusted any more');
answers(post('2fa/verify', { sessionId => $pending, code => fresh($secret) }), 401, 'invalid_session', 'and nothing pending');
answers(post('password-change', { currentPassword => "$password 2", newPassword => $password }, $trusted->{accessToken}), 200, undef, 'and back');
$trusted = trust('seven');
$pending = pending('ann@example.com');
post('password-reset', { email => 'ann@example.com' });
my $reset = $stack->sql(q{SELECT orion_email_token_open((payload ->> 'id')::uuid, payload ->> 'sealedToken') FROM orion_private.outbox WHERE type = 'auth.password_reset_requested' ORDER BY seq DESC LIMIT 1});
answers(post('password-reset/confirm', { token => $reset, newPassword => $password }), 200, undef, 'the password is reset');
answers(sign_in('ann@example.com', deviceToken => $trusted->{deviceToken}), 202, undef, 'no device is trusted any more');
answers(post('2fa/verify', { sessionId => $pending, code => fresh($secret) }), 401, 'invalid_session', 'and nothing pending');

# --- step-up, and its end -------------------------------------------------------------------------------

$trusted = trust('eight');
my $low = sign_in('ann@example.com', deviceToken => $trusted->{deviceToken})->{json};
answers(post('2fa/disable', { password => $password }, $low->{accessToken}), 403, 'second_factor_required', 'disable: the password is not enough without a second factor');
answers(post('2fa/backup-codes', { password => $password }, $low->{accessToken}), 403, 'second_factor_required', 'backup-codes: neither');
answers(post('2fa/verify', { code => wrong($secret) }, $low->{accessToken}), 403, 'invalid_code', 'step-up: a wrong code');
my $high = answers(post('2fa/verify', { code => fresh($secret) }, $low->{accessToken}), 200, undef, 'step-up');
is(claims($high->{accessToken}), 'aal2 password,trusted_device,totp', 'the session is aal2 now');
is(claims(post('refresh', { refreshToken => $low->{refreshToken} })->{json}{accessToken}), 'aal2 password,trusted_device,totp', 'refreshed, too');
is(claims(post('2fa/verify-backup', { backupCode => $newer->[1] }, $low->{accessToken})->{json}{accessToken}), 'aal2 password,trusted_device,totp,backup_code', 'a backup code does it as well');
is($stack->sql(q{SELECT count(*) FROM orion_private.outbox WHERE type = 'auth.session_raised'}), 2, 'with events');

my $second = post('2fa/verify', { sessionId => pending('ann@example.com'), code => fresh($secret) })->{json};
$pending = pending('ann@example.com');
answers(post('2fa/disable', { code => wrong($secret) }, $high->{accessToken}), 403, 'invalid_code', 'disable: a wrong code');
answers(post('2fa/disable', { password => 'wrong' }, $high->{accessToken}), 403, 'invalid_credentials', 'disable: a wrong password');
answers(post('2fa/disable', {}, $high->{accessToken}), 400, 'invalid_request', 'disable: nothing shown');
my $disabled = answers(post('2fa/disable', { password => $password }, $high->{accessToken}), 200, undef, 'disable: with the password in an aal2 session');
is(claims($disabled->{accessToken}), 'aal1 password,trusted_device', 'the session falls back');
for (1 .. 2)
{
	ok(!works($high->{accessToken}) && !works($second->{accessToken}), 'tokens of aal2 are dead');
	ok(works($low->{accessToken}) && works($disabled->{accessToken}), 'those of aal1 are not');
}
is(claims(post('refresh', { refreshToken => $second->{refreshToken} })->{json}{accessToken}), 'aal1 password', 'another session falls back, too, and goes on');
answers(sign_in('ann@example.com'), 200, undef, 'login asks for no second factor');
answers(post('2fa/verify', { sessionId => $pending, code => app($secret, step()) }), 401, 'invalid_session', 'what was pending is gone');
answers(sign_in('ann@example.com', deviceToken => $trusted->{deviceToken}), 200, undef, 'a token of a device that was trusted is ignored');
($secret, $done) = enable($disabled->{accessToken});
ok(works($done->{accessToken}), 'enabled again: the new token of aal2 lives');
ok(works(post('refresh', { refreshToken => $done->{refreshToken} })->{json}{accessToken}), 'and the next one');
ok(!works($high->{accessToken}), 'the former is still dead');

# an administrator helps who has lost everything
$stack->sql("SELECT orion_two_factor_remove('$ann->{user}{id}')");
ok(!works($done->{accessToken}), 'removed: tokens of aal2 are dead');
my $again = answers(sign_in('ann@example.com'), 200, undef, 'login asks for no second factor');
is($stack->sql(q{SELECT string_agg(metadata ->> 'method', ' ' ORDER BY id) FROM orion_private.audit_log WHERE action = 'auth.two_factor_disabled'}), 'password administrator', 'both are on record');

# a user who is banned gets no further
$pending = pending('bob@example.com');
$stack->sql("SELECT orion_user_ban('$bob->{user}{id}')");
answers(post('2fa/verify', { sessionId => $pending, code => fresh($bobs) }), 401, 'invalid_session', 'a ban ends what is pending');
$stack->sql("SELECT orion_user_unban('$bob->{user}{id}')");
$pending = pending('bob@example.com');
$stack->sql("ALTER TABLE orion_private.users DISABLE TRIGGER users_banned; UPDATE orion_private.users SET banned_until = 'infinity' WHERE email = 'bob\@example.com'; ALTER TABLE orion_private.users ENABLE TRIGGER users_banned");
answers(post('2fa/verify', { sessionId => $pending, code => fresh($bobs) }), 403, 'banned', 'who comes through is told');
$stack->sql("SELECT orion_user_unban('$bob->{user}{id}')");
$pending = pending('bob@example.com');
answers(post('2fa/verify', { sessionId => $pending, code => fresh($bobs) }), 200, undef, 'and back');

# --- guessing ----------------------------------------------------------------------------------------------

$stack->sql("ALTER SYSTEM SET orion.$_ = 5") for qw(auth_login_max_account auth_login_max_pair);
$stack->node->reload;
$stack->until_true(sub { $stack->sql('SHOW orion.auth_login_max_pair') eq '5' });
# the executors are other processes; an address nobody knows is bounded by them at once
$stack->until_true(sub { post('login', { email => 'probe@example.com', password => 'x' })->{status} == 429 });
my @guesses;
@ids = map { pending('bob@example.com') } 1 .. 6;
push @guesses, post('2fa/verify', { sessionId => $ids[0], code => wrong($bobs) })->{status};
push @guesses, sign_in('bob@example.com')->{status};
push @guesses, post('2fa/verify-backup', { sessionId => $ids[1], backupCode => '00000-00000' })->{status};
push @guesses, sign_in('bob@example.com', password => 'wrong')->{status};
push @guesses, post('2fa/verify', { sessionId => $ids[2], code => wrong($bobs) })->{status};
push @guesses, sign_in('bob@example.com')->{status};
push @guesses, post('2fa/verify', { sessionId => $ids[3], code => wrong($bobs) })->{status};
is("@guesses", '401 202 401 401 401 202 401', 'failures of all kinds are counted together, and a right password forgets none');
my @locked = (post('2fa/verify', { sessionId => $ids[4], code => fresh($bobs) }), post('2fa/verify-backup', { sessionId => $ids[5], backupCode => $bob_done->{backupCodes}[5] }), sign_in('bob@example.com'));
answers($_, 429, 'locked', 'then all is locked, even the right ones') for @locked;
cmp_ok($_->{headers}{'retry-after'}, '>', 700, 'Retry-After') for @locked;
is($stack->sql(q{SELECT count(*) FROM orion_private.outbox WHERE type = 'auth.login_locked' AND payload ->> 'email' = 'bob@example.com'}), 1, 'an event tells it');
is($stack->sql(q{SELECT count(*) FROM orion_private.backup_codes WHERE used_at IS NOT NULL}), 0, 'and nothing was used up');
$stack->sql(q{SELECT orion_private.throttle_clear('bob@example.com', inet '127.0.0.1'::text)});
my %race;
@ids = map { pending('bob@example.com') } 1 .. 12;
$race{$_}++ for OrionStack::at_once(12, sub { my ($i) = @_; post('2fa/verify', { sessionId => $ids[ $i - 1 ], code => wrong($bobs) })->{status} });
is("$race{401} $race{429}", '5 7', 'of twelve guesses at once five get an answer');
$stack->sql(q{SELECT orion_private.throttle_clear('bob@example.com', inet '127.0.0.1'::text)});

set('orion.mfa_lock_after', '3');
$stack->sql(q{UPDATE orion_private.sessions SET address = '198.51.100.1'});
$stack->sql(q{UPDATE orion_private.two_factors SET failures = 0});
$pending = pending('bob@example.com');
answers(post('2fa/verify', { sessionId => $pending, code => wrong($bobs) }), 401, 'invalid_code', 'three in a row') for 1 .. 3;
$stack->sql(q{SELECT orion_private.throttle_clear('bob@example.com', inet '127.0.0.1'::text)});
my $row = post('2fa/verify', { sessionId => $pending, code => fresh($bobs) });
answers($row, 429, 'locked', 'lock the factors by themselves');
cmp_ok($row->{headers}{'retry-after'}, '<=', 900, 'for a window');
answers(sign_in('bob@example.com'), 202, undef, 'the password does not');
$stack->sql(q{UPDATE orion_private.two_factors SET locked_until = clock_timestamp()});
answers(post('2fa/verify', { sessionId => $pending, code => fresh($bobs) }), 200, undef, 'and when it is over');
is($stack->sql(q{SELECT failures FROM orion_private.two_factors}), 0, 'the row begins anew');

# ids of pending sessions that are none count as failures of the address
set('orion.auth_login_max_address', '3');
$stack->until_true(sub { post('2fa/verify', { sessionId => 'guess', code => '123456' })->{status} == 429 });
my @unknown = map { post('2fa/verify', { sessionId => "guess $_", code => '123456' })->{status} } 1 .. 5;
is($unknown[-1], 429, 'guessed ids lock the address');
ok(!grep({ $_ != 401 && $_ != 429 } @unknown), 'after failures');
$stack->sql('ALTER SYSTEM SET orion.auth_login_max_address = 0');

# --- upkeep ---------------------------------------------------------------------------------------------------

post('2fa/setup', {}, $again->{accessToken});
pending('bob@example.com');
$stack->sql(q{UPDATE orion_private.pending_sessions SET expires_at = now() - interval '1 second'; UPDATE orion_private.two_factors SET created_at = now() - interval '2 hours' WHERE confirmed_at IS NULL});
$stack->node->restart;
ok($stack->until_true(sub { ($stack->try_sql('SELECT (SELECT count(*) FROM orion_private.pending_sessions) + (SELECT count(*) FROM orion_private.two_factors WHERE confirmed_at IS NULL)') // '') eq '0' }), 'what has expired is forgotten');
ok($stack->until_true(sub { $stack->is_ready }), 'ready again');
ok(!works($done->{accessToken}) && works($again->{accessToken}), 'tokens of aal2 are dead after a restart, too');

# --- no secret where it could be read ----------------------------------------------------------------------------

my $seen = $stack->sql(q{SELECT string_agg(query, E'\n') FROM pg_stat_statements}) . $stack->sql(q{SELECT string_agg(row_to_json(a)::text, E'\n') FROM pg_stat_activity a});
like($seen, qr/pending_sessions/, 'pg_stat_statements has our statements');
my $records = $stack->sql(q{SELECT string_agg(a::text, E'\n') FROM orion_private.audit_log AS a}) . $stack->sql(q{SELECT string_agg(o::text, E'\n') FROM orion_private.outbox AS o})
  . $stack->sql(q{SELECT string_agg(a::text, E'\n') FROM orion_private.login_attempts AS a});
is($stack->sql('SELECT count(*) FROM orion.workers WHERE restarts > 0'), 0, 'no worker was restarted');
$stack->node->stop;
# our own statements above name the device token and a backup code: theirs are not those of HTTP
my $log = join "\n", grep { !/sha256\('|b::text ~|f::text LIKE/ } split /\n/, slurp_file($stack->node->logfile);
like($log, qr/statement: /, 'the log has statements');
for my $place ([ 'pg_stat_statements', $seen ], [ 'audit log, events and attempts', $records ], [ 'log', $log ])
{
	my @found = grep { defined && index($place->[1], $_) >= 0 } @planted, map { tr/-//dr } grep { defined && /^\w{5}-\w{5}$/ } @planted;
	is("@found", '', "no secret in: $place->[0]");
}
cmp_ok(scalar(@planted), '>', 40, 'of many');

done_testing();
