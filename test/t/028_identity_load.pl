# Many logins at once: over HTTP a thousand, over SQL as many as there are connections.
# All get in or are told to come again, and the memory of hashes stays inside its bound.
# How long an answer takes does not tell who is registered.
use strict;
use warnings;
use IO::Select;
use IO::Socket::INET;
use JSON::PP ();
use OrionStack;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

# Cheap hashes, and a bound of four of them: what is tested is who waits, not Argon2.
my $hash_kb = 7168;
my $hashes = 4;
my $stack = OrionStack->new('identity_load', conf => qq{
max_connections = 80
orion.auth_password_memory = '${hash_kb}kB'
orion.auth_password_time = 1
orion.auth_hash_memory_limit = '@{[ $hash_kb * $hashes ]}kB'
orion.auth_hash_timeout = '60s'
orion.auth_login_max_address = 0
orion.executor_count = 8
});
my $password = 'a quite secret horse';
my $users = 20;
$stack->sql("SELECT orion_register('u' || i || '\@example.com', '$password') FROM generate_series(1, $users) AS i");

# --- memory: what all processes of the server have that is not shared, at its highest

my $postmaster = $stack->node->data_dir . '/postmaster.pid';
$postmaster = (split /\n/, slurp_file($postmaster))[0];

sub private_kb
{
	my $sum = 0;
	foreach my $pid (OrionStack::children_of($postmaster))
	{
		my $status = eval { OrionServices::slurp("/proc/$pid/status") } // '';
		$sum += $1 if $status =~ /^RssAnon:\s+(\d+) kB/m;
	}
	return $sum;
}

# Runs code beside a process that looks at the memory; returns (kB over what it was, what code returned).
sub watched
{
	my ($code) = @_;
	my $before = private_kb();
	pipe(my $out, my $in) or die "pipe: $!";
	my $pid = fork // die "fork: $!";
	if ($pid == 0)
	{
		my ($peak, $over) = (0, 0);
		local $SIG{TERM} = sub { $over = 1 };
		until ($over)
		{
			my $now = private_kb();
			$peak = $now if $now > $peak;
			sleep 0.01;
		}
		syswrite($in, "$peak\n");
		POSIX::_exit(0);
	}
	close $in;
	my @result = $code->();
	kill 'TERM', $pid;
	my $peak = <$out>;
	waitpid($pid, 0);
	return ($peak - $before, @result);
}

# n requests at once over connections of their own; statuses and how long the last one took.
sub flood
{
	my ($n, $request) = @_;
	my (%waiting, %status, @heads);
	my $select = IO::Select->new;
	my $began = time;
	for my $i (1 .. $n)
	{
		my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $stack->{http_port}, Timeout => 20) or do { $status{'no connection'}++; next; };
		syswrite($socket, $request->($i));
		$waiting{ fileno $socket } = '';
		$select->add($socket);
	}
	my $end = $began + 100;
	while ($select->count && time < $end)
	{
		foreach my $socket ($select->can_read(1))
		{
			my $n = sysread($socket, $waiting{ fileno $socket }, 65536, length $waiting{ fileno $socket });
			next if $n;
			my $answer = OrionStack::parse(delete $waiting{ fileno $socket });
			$status{ $answer->{status} }++;
			push @heads, $answer if $answer->{status} != 200;
			$select->remove($socket);
			close $socket;
		}
	}
	$status{'no answer'} = $select->count if $select->count;
	return (\%status, \@heads, time - $began);
}

sub login_bytes
{
	my ($i) = @_;
	return OrionStack::request_bytes('POST', '/api/auth/login', json => { email => 'u' . ($i % $users + 1) . '@example.com', password => $password });
}

# executors warm up, so that what they keep is not counted
flood(32, \&login_bytes);

my ($kb, $status, $others, $took) = watched(sub { flood(1000, \&login_bytes) });
diag(sprintf('1,000 logins at once over HTTP: %.1f s, %s, at most %.1f MB more', $took, join(' ', map { "$status->{$_} x $_" } sort keys %$status), $kb / 1024));
my $told = grep { $_->{status} == 503 && $_->{headers}{'retry-after'} } @$others;
is(($status->{200} // 0) + $told, 1000, 'of 1,000 logins at once over HTTP each gets in, or 503 with Retry-After');
cmp_ok($status->{200} // 0, '>', 500, 'most get in');
# the hashes, and a megabyte of plans and caches for each of the eight executors
cmp_ok($kb, '<=', $hash_kb * $hashes + 20 * 1024, "the memory of the server grows by no more than that of $hashes hashes");
cmp_ok($kb, '>=', $hash_kb / 2, 'but hashes were seen');
is($stack->sql(q{SELECT count(*) FROM orion.workers WHERE restarts > 0}), 0, 'no process was lost');
ok($stack->until_true(sub { $stack->sql(q{SELECT count(*) FROM orion_private.login_attempts WHERE outcome = 'ok'}) >= $status->{200} + 32 }), 'each is on record');

# --- over SQL, with sixty connections

my $script = $stack->node->basedir . '/login.sql';
OrionServices::write_file($script, "\\set id random(1, $users)\nSELECT status FROM orion_login('u' || :id || '\@example.com', '$password', '192.0.2.1');\n");
($kb, $status) = watched(sub {
	return system('pgbench', '-n', '-h', $stack->node->host, '-p', $stack->node->port, '-c', 60, '-j', 2, '-t', 5, '-f', $script, 'postgres');
});
is($status, 0, '300 logins over 60 connections all get in');
diag(sprintf('300 logins over 60 connections: at most %.1f MB more', $kb / 1024));
# a connection takes a few megabytes of its own before it hashes anything
cmp_ok($kb, '<=', $hash_kb * $hashes + 60 * 8 * 1024, 'within the bound and what connections take');

# --- the memory of a hash comes in huge pages, where the machine has any to give

SKIP:
{
	my $setting = eval { OrionServices::slurp('/sys/kernel/mm/transparent_hugepage/enabled') } // '[never]';
	skip('no huge pages on this machine', 1) if $setting =~ /\[never\]/;
	my $session = $stack->node->background_psql('postgres');
	my $pid = $session->query_safe('SELECT pg_backend_pid()') =~ s/\s//gr;
	my $faults = sub { return (split / /, OrionServices::slurp("/proc/$pid/stat") =~ s/^.*\) //sr)[7] };
	my $least;
	foreach (1 .. 100)    # memory may be fragmented for a moment
	{
		my $before = $faults->();
		$session->query_safe("SELECT orion_hash_password('$password')");
		my $taken = $faults->() - $before;
		$least = $taken if !defined $least || $taken < $least;
		last if $least < $hash_kb / 4 / 2;
	}
	$session->quit;
	cmp_ok($least, '<', $hash_kb / 4 / 2, 'a hash takes less than half as many page faults as its memory has small pages');
}

# --- past the deadline: told to come again, and nothing else goes wrong

$stack->sql("ALTER SYSTEM SET $_") for q{orion.auth_hash_timeout = '20ms'}, q{orion.auth_hash_memory_limit = '8MB'}, q{orion.auth_password_time = 10};
$stack->node->reload;
$stack->until_true(sub { $stack->sql('SHOW orion.auth_hash_timeout') eq '20ms' });
($status, $others) = flood(100, \&login_bytes);
is(($status->{200} // 0) + ($status->{503} // 0), 100, 'with a short deadline each gets in or 503: ' . join(' ', map { "$status->{$_} x $_" } sort keys %$status));
is(scalar(grep { $_->{status} == 503 && !$_->{headers}{'retry-after'} } @$others), 0, 'which says when to come again');
cmp_ok($status->{503} // 0, '>', 0, 'some are told to');
$stack->sql("ALTER SYSTEM RESET $_") for qw(orion.auth_hash_timeout orion.auth_hash_memory_limit orion.auth_password_time);
$stack->node->reload;
ok($stack->until_true(sub { ((flood(8, \&login_bytes))[0]{200} // 0) == 8 }), 'and nothing is left taken');

$stack->node->stop;
unlike(slurp_file($stack->node->logfile), qr/TRAP|PANIC|terminated by signal|out of memory/, 'nothing has crashed');
done_testing();
