# What bounds guessing: limits by account, network and both, kept over rollbacks and
# restarts; the memory of concurrent hashes; the time an answer takes.
use strict;
use warnings;
use JSON::PP ();
use OrionStack;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $stack = OrionStack->new('login_limits');
my $password = 'a quite secret horse';

sub post { my ($path, $json) = @_; return $stack->http('POST', $path, json => $json); }
sub login { my ($email, $pass) = @_; return post('/api/auth/login', { email => $email, password => $pass }); }
sub sql_login { my ($email, $pass, $address) = @_; return $stack->sql("SELECT status FROM orion_login('$email', '$pass', '$address')"); }
sub register { $stack->sql("SELECT orion_register('$_', '$password')") for @_; }
sub statuses { return join ' ', map { $_->{status} } @_; }

register(map { "$_\@example.com" } qw(ann bob carl dora eve fay gus));

# --- five failures, then 429 --------------------------------------------------------

is(statuses(map { login('ann@example.com', "wrong $_") } 1 .. 5), '401 401 401 401 401', 'five failures are answered');
my @locked = (login('ann@example.com', 'wrong'), login('ann@example.com', $password));
is(statuses(@locked), '429 429', 'then the account is locked, whatever the password');
is($locked[0]{json}{code}, 'locked', 'and says so');
cmp_ok($locked[0]{headers}{'retry-after'}, '>', 800, 'Retry-After: about 15 minutes');
cmp_ok($locked[0]{headers}{'retry-after'}, '<=', 900, 'and no more');
is(join(',', sort keys %{ $locked[0]{json} }), join(',', sort keys %{ $locked[1]{json} }), 'the two answers are alike');
is($locked[0]{json}{message}, $locked[1]{json}{message}, 'in words, too');
is(statuses(map { login('unknown@example.com', "guess $_") } 1 .. 6), '401 401 401 401 401 429', 'an unknown account is locked alike');
is(login('bob@example.com', $password)->{status}, 200, 'another account is not');
is($stack->sql(q{SELECT count(*) FROM orion_private.outbox WHERE type = 'auth.login_locked'}), 1, 'one event, for the account that exists');
is(sql_login('ann@example.com', $password, '198.51.100.1'), 'locked', 'from elsewhere, too');
is(sql_login('ann@example.com', $password, '::1'), 'locked', 'from nowhere known');

# An imported user may have what is no mail address: counted all the same, and not kept.
$stack->sql(q{INSERT INTO orion_private.users (email, password_hash) SELECT 'root', password_hash FROM orion_private.users WHERE email = 'bob@example.com'});
is(statuses(map { login($_, "guess $_") } ('root') x 6), '401 401 401 401 401 429', 'a user without a mail address is locked alike');
is(statuses(map { login($_, "guess $_") } ('toor') x 6), '401 401 401 401 401 429', 'and one who is not there');
is(sql_login('root', $password, '198.51.100.1'), 'locked', 'from elsewhere, too');

# Who goes on although the account is locked does not fill the disk.
sub locked_rows { return $stack->sql("SELECT count(*) FROM orion_private.login_attempts WHERE address = '198.51.100.200' AND outcome = 'locked'"); }
is($stack->sql(q{SELECT count(*) FROM generate_series(1, 1200) AS i WHERE (orion_login('ann@example.com', 'x', '198.51.100.200')).status = 'locked'}), 1200, 'many attempts more');
ok($stack->until_true(sub { locked_rows() == 1000 }, 60), 'a thousand of them are on record');
sql_login('bob@example.com', 'x', '198.51.100.201');
ok($stack->until_true(sub { $stack->sql(q{SELECT count(*) FROM orion_private.login_attempts WHERE address = '198.51.100.201'}) == 1 }), 'a later attempt is written');
is(locked_rows(), 1000, 'and no more of those');

# Who has signed in from an address before is not locked out by others.
is(sql_login('carl@example.com', $password, '192.0.2.1'), 'ok', 'a login from an address');
sql_login('carl@example.com', 'wrong', "198.51.100.$_") for 1 .. 5;
is(sql_login('carl@example.com', $password, '198.51.100.9'), 'locked', 'strangers lock the account');
is(sql_login('carl@example.com', $password, '192.0.2.1'), 'ok', 'but not for the address it has signed in from');

# IPv6 by /64; a mapped IPv4 address is itself.
sql_login('dora@example.com', 'wrong', "2001:db8::$_") for 1 .. 5;
$stack->sql(q{ALTER SYSTEM SET orion.auth_login_max_account = 0}); $stack->node->reload;
$stack->until_true(sub { $stack->sql('SHOW orion.auth_login_max_account') eq '0' });
is(sql_login('dora@example.com', $password, '2001:db8::ffff:1'), 'locked', 'the same /64');
is(sql_login('dora@example.com', $password, '2001:db8:0:1::1'), 'ok', 'another /64');
sql_login('eve@example.com', 'wrong', "::ffff:203.0.113.$_") for 1 .. 5;
is(sql_login('eve@example.com', $password, '::ffff:203.0.113.1'), 'ok', 'mapped IPv4 addresses are no common network');
$stack->sql(q{ALTER SYSTEM RESET orion.auth_login_max_account});
$stack->sql(q{ALTER SYSTEM SET orion.auth_login_max_address = 8}); $stack->node->reload;
$stack->until_true(sub { $stack->sql('SHOW orion.auth_login_max_address') eq '8' });
sql_login("n$_\@example.com", 'wrong', '203.0.113.77') for 1 .. 8;
is(sql_login('gus@example.com', $password, '203.0.113.77'), 'locked', 'one address that tries many accounts');
is(sql_login('gus@example.com', $password, '203.0.113.78'), 'ok', 'does not lock its neighbour');
$stack->sql(q{ALTER SYSTEM RESET orion.auth_login_max_address}); $stack->node->reload;
$stack->until_true(sub { $stack->sql('SHOW orion.auth_login_max_address') eq '50' });

# --- a rollback forgets nothing -----------------------------------------------------

sub attempts { my ($email) = @_; return $stack->sql("SELECT string_agg(outcome, ' ' ORDER BY id) FROM orion_private.login_attempts WHERE email = '$email'"); }
$stack->sql(q{BEGIN; SELECT orion_login('fay@example.com', 'wrong', '192.0.2.5'); ROLLBACK}) for 1 .. 5;
ok($stack->until_true(sub { attempts('fay@example.com') eq join(' ', ('invalid_credentials') x 5) }), 'attempts stay on record although their transactions rolled back');
is(sql_login('fay@example.com', $password, '192.0.2.6'), 'locked', 'and count');
ok($stack->until_true(sub { attempts('fay@example.com') =~ / locked$/ }), 'a locked attempt is on record, too');
is($stack->sql(q{SELECT count(*) FROM orion_private.login_attempts WHERE email !~ '@'}), 0, 'what is no address is not');

# --- and neither does a restart -----------------------------------------------------

for my $how ('fast', 'immediate')
{
	$stack->node->stop($how);
	$stack->node->start;
	is(sql_login('fay@example.com', $password, '192.0.2.6'), 'locked', "locked at once after a stop ($how)");
	ok($stack->until_true(sub { $stack->is_ready }), 'ready');
	is(login('fay@example.com', $password)->{status}, 429, 'and once shared memory is filled');
}

# --- guesses at once ------------------------------------------------------------------

register('hal@example.com');
my %answers;
$answers{$_}++ for OrionStack::at_once(20, sub { my ($i) = @_; my ($status, $out) = $stack->node->psql('postgres', "SELECT status FROM orion_login('hal\@example.com', 'guess $i', '192.0.2.20')"); return $out });
is($answers{invalid_credentials}, 5, 'of twenty guesses at once five get an answer') or diag(explain(\%answers));
is($answers{locked}, 15, 'the others do not');

# --- the memory of hashes -------------------------------------------------------------

$stack->sql(q{ALTER SYSTEM SET orion.auth_hash_memory_limit = '20MB'});
$stack->sql(q{ALTER SYSTEM SET orion.auth_password_time = 10}); $stack->node->reload;
$stack->until_true(sub { $stack->sql('SHOW orion.auth_password_time') eq '10' });
register('ida@example.com');
my @ok = OrionStack::at_once(8, sub { my ($status, $out) = $stack->node->psql('postgres', "SELECT status FROM orion_login('ida\@example.com', '$password', '192.0.2.30')"); return $out });
is(join(' ', @ok), join(' ', ('ok') x 8), 'logins wait for memory, and all get in');
$stack->sql(q{ALTER SYSTEM SET orion.auth_hash_timeout = '1ms'}); $stack->node->reload;
$stack->until_true(sub { $stack->sql('SHOW orion.auth_hash_timeout') eq '1ms' });
my @busy = OrionStack::at_once(8, sub { my $answer = login('ida@example.com', $password); return $answer->{status} });
like(join(' ', sort @busy), qr/^200\b.*\b503$/, 'past the deadline some are told to come again, over HTTP with 503') or diag("@busy");
is(login('ida@example.com', $password)->{status}, 200, 'and nothing is left taken');
$stack->sql("ALTER SYSTEM RESET $_") for qw(orion.auth_hash_memory_limit orion.auth_password_time orion.auth_hash_timeout);
$stack->sql(q{ALTER SYSTEM SET orion.auth_login_max_account = 0});
$stack->sql(q{ALTER SYSTEM SET orion.auth_login_max_pair = 0});
$stack->sql(q{ALTER SYSTEM SET orion.auth_login_max_address = 0}); $stack->node->reload;
$stack->until_true(sub { $stack->sql('SHOW orion.auth_login_max_address') eq '0' });

# --- time ------------------------------------------------------------------------------

register('jon@example.com');
# 200 of each in turn, the order changing from pair to pair. Load of the machine shows in
# some samples, a difference in the work in all: more of them tell the two apart.
my (%time, $known, $unknown);
for my $round (1 .. 4)
{
	for my $i (1 .. 200)
	{
		my @emails = ('jon@example.com', 'nobody@example.com');
		for my $email ($i % 2 ? @emails : reverse @emails)
		{
			my $from = time;
			my $status = login($email, 'wrong')->{status};
			push @{ $time{$email} }, time - $from;
			$status == 401 or die "login answered $status";
		}
	}
	($known, $unknown) = map { my @t = sort { $a <=> $b } @{ $time{$_} }; $t[ @t / 2 ] } 'jon@example.com', 'nobody@example.com';
	last if abs($known / $unknown - 1) < 0.05;
}
cmp_ok(abs($known / $unknown - 1), '<', 0.05,
	sprintf('an unknown user takes as long as a wrong password (medians of %d: %.1f and %.1f ms)', scalar @{ $time{'jon@example.com'} }, $unknown * 1000, $known * 1000));

done_testing();
