# Registration, the mail address and the password over HTTP: every success and refusal,
# replays, races, and no secret where it could be read.
use strict;
use warnings;
use JSON::PP ();
use OrionStack;
use PostgreSQL::Test::Utils;
use Test::More;

my $stack = OrionStack->new('account_http', conf => "log_statement = 'all'\n");
my $password = 'a quite secret horse';
my $second = 'an even better horse';

sub post { my ($path, $json, $token) = @_; return $stack->http('POST', "/api/auth/$path", json => $json, token => $token); }

sub answers
{
	my ($answer, $status, $code, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($answer->{status} . ' ' . ($answer->{json}{code} // ''), "$status " . ($code // ''), $name) or diag($answer->{body});
	return $answer->{json};
}

sub works { my ($token) = @_; return $stack->http('GET', '/api/auth/sessions', token => $token)->{status} == 200; }
sub sign_in { my ($pass) = @_; return post('login', { email => 'ann@example.com', password => $pass }); }
sub set { my ($name, $value) = @_; $stack->sql("ALTER SYSTEM SET $name = $value"); $stack->node->reload; $stack->until_true(sub { $stack->sql("SHOW $name") eq $value }); }

# The token of the newest event of a type, as who sends the mail gets it.
sub mailed
{
	my ($type) = @_;
	return $stack->sql("SELECT orion_email_token_open((payload ->> 'id')::uuid, payload ->> 'sealedToken') FROM orion_private.outbox WHERE type = '$type' ORDER BY seq DESC LIMIT 1");
}

# --- passwords that are refused --------------------------------------------------------

for my $case ([ 'short', 'weak_password' ], [ 'password', 'common_password' ], [ 'PassWord123!', 'common_password' ], [ 'qwertyuiop', 'common_password' ],
	[ '12345678', 'common_password' ], [ '98765432', 'common_password' ], [ 'zzzzzzzzzz', 'common_password' ], [ 'Sunshine2024', 'common_password' ],
	[ 'ann@example.com', 'common_password' ], [ 'x' x 1025, 'password_too_long' ])
{
	answers(post('register', { email => 'ann@example.com', password => $case->[0] }), 400, $case->[1], 'register: ' . substr($case->[0], 0, 20));
}
cmp_ok($stack->sql('SELECT count(*) FROM orion_private.users'), '==', 0, 'nobody was registered');

# --- registration and the address ---------------------------------------------------------

my $ann = answers(post('register', { email => 'ann@example.com', password => $password }), 201, undef, 'register');
ok(!$ann->{user}{emailVerified}, 'the address is not confirmed');
sub verified { return $stack->sql("SELECT orion_jwt_verify('$_[0]{accessToken}') ->> 'email_verified'"); }
is(verified($ann), 'false', '... which the token says');
my $token = mailed('user.created');
like($token, qr/^[A-Za-z0-9_-]{43}$/, 'the event carries 32 random bytes');
is($stack->sql("SELECT count(*) FROM orion_private.outbox WHERE payload::text LIKE '%$token%'"), 0, 'but not readable');
is($stack->sql("SELECT count(*) FROM orion_private.one_time_tokens WHERE digest = sha256('$token')"), 1, 'and the table its SHA-256');
answers(post('verify-email', {}), 400, 'invalid_request', 'verify: field missing');
answers(post('verify-email', { token => 'x' }), 400, 'invalid_token', 'verify: unknown');
answers(post('password-reset/confirm', { token => $token, newPassword => $second }), 400, 'invalid_token', 'a token for the address resets no password');
my @verified = sort(OrionStack::at_once(4, sub { post('verify-email', { token => $token })->{status} }));
is("@verified", '200 400 400 400', 'of four confirmations at once one wins');
answers(post('verify-email', { token => $token }), 400, 'invalid_token', 'verify: again');
my $confirmed = sign_in($password)->{json};
ok($confirmed->{user}{emailVerified}, 'the address is confirmed');
is(verified($confirmed), 'true', '... which the token says');
is(verified(post('refresh', { refreshToken => $ann->{refreshToken} })->{json}), 'true', '... and the one of an earlier session, refreshed');
answers(post('register', { email => 'old@example.com', password => $password }), 201, undef, 'another user');
$token = mailed('user.created');
$stack->sql(q{UPDATE orion_private.one_time_tokens SET expires_at = now() - interval '1 second' WHERE email = 'old@example.com'});
answers(post('verify-email', { token => $token }), 400, 'invalid_token', 'verify: a second too late');

my @registered = sort(OrionStack::at_once(4, sub { post('register', { email => 'race@example.com', password => $password })->{status} }));
is("@registered", '201 409 409 409', 'of four registrations at once one wins');

# --- the database refuses -------------------------------------------------------------------

set('default_transaction_read_only', 'on');
ok($stack->until_true(sub { post('register', { email => 'no@example.com', password => $password })->{status} == 503 }), 'register: 503 when the database refuses');
my $refused = post('register', { email => 'no@example.com', password => $password });
is($refused->{headers}{'retry-after'}, 10, 'with Retry-After');
$stack->sql('ALTER SYSTEM RESET default_transaction_read_only');
$stack->node->reload;
ok($stack->until_true(sub { sign_in($password)->{status} == 200 }), 'and back');

# --- uniform answers -------------------------------------------------------------------------

set('orion.auth_uniform_answers', 'on');
my @same;
$stack->until_true(sub { post('register', { email => 'ann@example.com', password => $password })->{status} == 202 });
push @same, post('register', { email => $_, password => $password }) for 'ann@example.com', 'new@example.com';
is($same[0]{status} . $same[0]{body}, $same[1]{status} . $same[1]{body}, 'known and unknown addresses get one answer');
is($same[0]{status}, 202, 'which is 202');
is($stack->sql(q{SELECT count(*) > 0 FROM orion_private.outbox WHERE type = 'auth.registration_repeated'}), 't', 'the owner of the address is told');
is($stack->sql(q{SELECT count(*) FROM orion_private.users WHERE email = 'new@example.com'}), 1, 'the new user exists');
answers(post('register', { email => 'x', password => $password }), 400, 'invalid_email', 'what is no address is still told');
post('register', { email => 'old@example.com', password => $password }) for 1 .. 7;
is($stack->sql(q{SELECT count(*) FROM orion_private.outbox WHERE type = 'auth.registration_repeated' AND payload ->> 'email' = 'old@example.com'}), 5, '... five times in 15 minutes, no more');
set('orion.auth_uniform_answers', 'off');

# --- reset -------------------------------------------------------------------------------------

my $events = q{SELECT count(*) FROM orion_private.outbox WHERE type = 'auth.password_reset_requested'};
my $session = sign_in($password)->{json};
answers(post('password-reset', {}), 400, 'invalid_request', 'reset: field missing');
my @answer = map { post('password-reset', { email => $_ }) } 'nobody@example.com', 'no address', 'Ann@example.com';
is($answer[$_]{status} . $answer[$_]{body}, $answer[2]{status} . $answer[2]{body}, 'an unknown address gets the same answer') for 0, 1;
is($answer[2]{status}, 202, 'which is 202');
is($stack->sql($events), 1, 'only the known one gets a token');
$token = mailed('auth.password_reset_requested');
answers(post('password-reset/confirm', { token => $token }), 400, 'invalid_request', 'confirm: field missing');
answers(post('password-reset/confirm', { token => $token, newPassword => 'password' }), 400, 'common_password', 'confirm: a password that is refused');
answers(post('password-reset/confirm', { token => 'x', newPassword => $second }), 400, 'invalid_token', 'confirm: unknown');
ok(works($session->{accessToken}), 'nothing has happened yet');
my @resets = sort(OrionStack::at_once(4, sub { my ($i) = @_; post('password-reset/confirm', { token => $token, newPassword => "$second $i" })->{status} }));
is("@resets", '200 400 400 400', 'of four resets at once one wins');
is($stack->http('GET', '/api/auth/sessions', token => $session->{accessToken})->{status}, 401, 'all sessions have ended') for 1 .. 4;
answers(post('refresh', { refreshToken => $session->{refreshToken} }), 401, 'session_ended', 'and cannot be refreshed');
answers(sign_in($password), 401, 'invalid_credentials', 'the former password is none');
answers(post('password-reset/confirm', { token => $token, newPassword => $second }), 400, 'invalid_token', 'confirm: again');
post('password-reset', { email => 'ann@example.com' }) for 1 .. 2;
my ($older, $newer) = split /\n/, $stack->sql(q{SELECT orion_email_token_open((payload ->> 'id')::uuid, payload ->> 'sealedToken') FROM orion_private.outbox WHERE type = 'auth.password_reset_requested' ORDER BY seq DESC LIMIT 2});
post('password-reset', { email => 'ann@example.com' }) for 1 .. 3;
is($stack->sql($events), 3, 'three tokens in 15 minutes, no more');
$stack->sql("UPDATE orion_private.one_time_tokens SET expires_at = now() - interval '1 second' WHERE digest = sha256('$older')");
answers(post('password-reset/confirm', { token => $older, newPassword => $second }), 400, 'invalid_token', 'confirm: a second too late');
answers(post('password-reset/confirm', { token => $newer, newPassword => $second }), 200, undef, 'confirm: the other one');
$session = answers(sign_in($second), 200, undef, 'the new password is the password');

# --- change --------------------------------------------------------------------------------------

my $other = sign_in($second)->{json};
my $third = 'the third of the horses';
sub change { my ($current, $new, $token) = @_; return post('password-change', { currentPassword => $current, newPassword => $new }, $token); }
answers(change($second, $third), 401, 'not_signed_in', 'change: without a token');
answers(post('password-change', { newPassword => $third }, $session->{accessToken}), 400, 'invalid_request', 'change: field missing');
answers(change($password, $third, $session->{accessToken}), 403, 'invalid_credentials', 'change: wrong password');
answers(change($second, 'iloveyou', $session->{accessToken}), 400, 'common_password', 'change: a password that is refused');
my $ann_id = $stack->sql(q{SELECT id FROM orion_private.users WHERE email = 'ann@example.com'});
my $key = $stack->sql("SELECT key FROM orion_api_key_create('$ann_id', 'of a program')");
$stack->sql("SELECT orion_api_key_create('$ann_id', 'long gone', expires_at => clock_timestamp() + interval '1 ms')");
sub key_works { return $stack->http('GET', '/api/user/profile', token => $key)->{status}; }
sub keys_told { return $stack->sql(q{SELECT payload ->> 'apiKeys' FROM orion_private.outbox WHERE type = 'auth.password_changed' ORDER BY seq DESC LIMIT 1}); }
answers(post('password-change', { currentPassword => $second, newPassword => $third, revokeApiKeys => 'yes' }, $session->{accessToken}), 400, 'invalid_request', 'change: a word for a boolean');
answers(change($second, $third, $session->{accessToken}), 200, undef, 'change');
is(key_works(), 200, 'an API key stays good');
is(keys_told(), 1, 'and who has it is told of it');
ok(works($session->{accessToken}), 'the session that asked goes on');
ok(!works($other->{accessToken}), 'the other has ended');
answers(sign_in($third), 200, undef, 'the new password is the password');
my @changes = sort(OrionStack::at_once(3, sub { my ($i) = @_; change($third, "$third $i", $session->{accessToken})->{status} }));
is("@changes", '200 403 403', 'of three changes at once one wins');
answers(change("wrong $_", $third, $session->{accessToken}), 403, 'invalid_credentials', 'change: guessed') for 1 .. 3;
answers(change('wrong', $third, $session->{accessToken}), 429, 'locked', 'guesses are counted as those of logins are');
answers(sign_in($third), 429, 'locked', 'and lock these');
is($stack->sql(q{SELECT count(*) FROM orion_private.outbox WHERE type = 'auth.password_changed'}), 4, 'an event for each change');
is(key_works(), 200, 'the API key is still good');
$stack->sql(q{DELETE FROM orion_private.one_time_tokens WHERE purpose = 'reset_password'});
post('password-reset', { email => 'ann@example.com' });
answers(post('password-reset/confirm', { token => mailed('auth.password_reset_requested'), newPassword => $third, revokeApiKeys => JSON::PP::true() }), 200, undef, 'a reset that revokes API keys');
is(key_works(), 401, 'it is good no more');
is(keys_told(), 0, 'which is told');
is($stack->sql(qq{SELECT count(*) FROM orion_private.outbox WHERE type = 'api_key.revoked' AND aggregateid = '$ann_id'}), 1, 'twice');

# --- what is on its way when the account changes hands -----------------------------------------

is(post('register', { email => 'cat@example.com', password => $password })->{status}, 201, 'another user');
post('password-reset', { email => 'cat@example.com' });
$token = mailed('auth.password_reset_requested');
$stack->sql("UPDATE orion_private.users SET email = 'cat2\@example.com' WHERE email = 'cat\@example.com'");
answers(post('password-reset/confirm', { token => $token, newPassword => $second }), 400, 'invalid_token', 'a token that went to a former address sets no password');
post('password-reset', { email => 'cat2@example.com' });
$token = mailed('auth.password_reset_requested');
$stack->sql(q{SELECT orion_private.email_change(u, 'thief@example.com') FROM orion_private.users AS u WHERE email = 'cat2@example.com'});
my $theft = mailed('user.email_change_requested');
answers(post('password-reset/confirm', { token => $token, newPassword => $second }), 200, undef, 'one to the address of now does');
answers($stack->http('POST', '/api/user/email/confirm', json => { token => $theft }), 400, 'invalid_token', 'a new address that was asked for before comes to nothing');
is($stack->sql(q{SELECT count(*) FROM orion_private.users WHERE email = 'cat2@example.com'}), 1, '... and the address stays');

# --- tokens that are none: by address, as failed logins -------------------------------------------

set('orion.auth_login_max_address', 4);
# the executors have the new setting once a bound shows
ok($stack->until_true(sub { post('verify-email', { token => 'junk' })->{status} == 429 }), 'after some tokens that were none the address has to wait');
for my $path ('verify-email', 'password-reset/confirm')
{
	my $answer = post($path, { token => $newer, newPassword => $second });
	answers($answer, 429, 'locked', "$path: too many");
	cmp_ok($answer->{headers}{'retry-after'}, '>', 0, 'says when again');
}
my $confirm = $stack->http('POST', '/api/user/email/confirm', json => { token => 'x' });
answers($confirm, 429, 'locked', 'email/confirm: too many');
ok($stack->until_true(sub { $stack->sql(q{SELECT count(*) FROM orion_private.login_attempts WHERE outcome = 'invalid_token' AND address IS NOT NULL AND email IS NULL}) >= 4 }), 'they are on record');
is($stack->sql(q{SELECT count(*) FROM orion.audit_log WHERE action = 'auth.login' AND outcome = 'invalid_token'}), 0, 'but not as logins');
ok($stack->sql(q{SELECT count(*) FROM orion.security_events WHERE action = 'user.email_verified' AND outcome = 'invalid_token'}) > 0, 'the audit log has them for what they are');
ok($stack->sql(q{SELECT status FROM orion_verify_email('junk')}) eq 'invalid_token', 'trusted SQL callers are not counted');
answers(post($_, { email => 'ann@example.com', password => $password }), 429, 'locked', "$_: too many") for 'register', 'password-reset';
set('orion.auth_login_max_address', 50);
ok($stack->until_true(sub { post('verify-email', { token => 'junk' })->{status} == 400 }), 'and back');

# One address tries so many mail addresses whether they are known, and no more.
sub answers_from
{
	my ($address, $route, $body) = @_;
	return $stack->sql(qq{SELECT string_agg(concat_ws(' ', answer, n), ', ' ORDER BY answer) FROM (
		SELECT coalesce(a ->> 'code', a ->> 'status') AS answer, count(*) AS n FROM (
			SELECT orion_private.route_$route(jsonb_build_object('body', $body, 'peer', '$address:1')) AS a FROM generate_series(1, 60) AS i) AS x GROUP BY 1) AS y});
}
is(answers_from('203.0.113.9', 'register', q({"email": "ann@example.com", "password": "correct staple battery"}) =~ s/(.*)/'$1'::jsonb/r), 'email_exists 50, locked 10', 'registrations of known addresses are bounded');
is(answers_from('203.0.113.10', 'password_reset', q(jsonb_build_object('email', 'nobody' || i || '@example.com'))), 'accepted 50, locked 10', 'and so are requests for resets');
ok($stack->until_true(sub { $stack->sql(q{SELECT string_agg(n::text, ' ' ORDER BY n) FROM (SELECT count(*) AS n FROM orion_private.login_attempts WHERE outcome IN ('email_exists', 'reset_requested') AND address <<= '203.0.113.0/24' GROUP BY outcome) AS x}) eq '50 50' }), 'they are on record');
is($stack->sql(q{SELECT count(*) FROM orion.audit_log WHERE action = 'auth.login' AND outcome IN ('email_exists', 'reset_requested')}), 0, 'but not as logins');

# --- no secret where it could be read -------------------------------------------------------------

my $seen = $stack->sql('SELECT string_agg(row_to_json(a)::text, E\'\n\') FROM pg_stat_activity a');
unlike($seen, qr/secret horse|better horse|the horses/, 'pg_stat_activity shows no password');
is($stack->sql('SELECT count(*) FROM orion.workers WHERE restarts > 0'), 0, 'no worker was restarted');
$stack->node->stop;
my $log = slurp_file($stack->node->logfile);
like($log, qr/statement: /, 'the log has statements');
unlike($log, qr/secret horse|better horse|the horses|\$argon2id/, 'and no password or hash of the HTTP path');
ok(index($log, $session->{refreshToken}) < 0 && index($log, $session->{accessToken}) < 0, 'and no token');

done_testing();
