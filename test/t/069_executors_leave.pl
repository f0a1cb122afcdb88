# Executors leave all the time: what was answered arrives, what was not begun is done by
# another one, and nothing is done twice.
use strict;
use warnings;
use IO::Select;
use IO::Socket::INET;
use OrionStack;
use POSIX ();
use Socket;
use Test::More;
use Time::HiRes qw(time);

my $stack = OrionStack->new('leave', conf => "orion.executor_count = 1\norion.http_queue_timeout = '60s'\n");
my $port = $stack->{http_port};
$stack->sql(q{
CREATE TABLE done (n int);
CREATE FUNCTION note(n int, fill text) RETURNS text LANGUAGE sql VOLATILE SECURITY DEFINER AS $$ INSERT INTO public.done VALUES (n); SELECT n || ' ' || fill $$;
CREATE FUNCTION long_text(n int) RETURNS text LANGUAGE sql STABLE AS $$ SELECT repeat('x', n) $$;
-- until the test lets go of the lock
CREATE FUNCTION held(n int) RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT repeat('x', n) FROM pg_advisory_xact_lock_shared(7) $$;
});
local $SIG{PIPE} = 'IGNORE';

sub dial { return IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Timeout => 20) // die "cannot connect: $@"; }
sub gateway { return $stack->sql("SELECT program_pid FROM orion.workers WHERE kind = 'gateway'"); }
sub executors { return $stack->sql("SELECT string_agg(pid::text, ' ') FROM orion.workers WHERE kind = 'executor'"); }

# --- one that asks for a long request, and leaves or cannot even ask

# An answer of this many bytes goes into the socket whole and leaves no room in it.
sub filling
{
	my @full;
	for (my $n = 1000; $n < 4_000_000 && (!@full || $n - $full[-1] < 20_000); $n += 1000)
	{
		socketpair(my $one, my $other, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die "socketpair: $!";
		next if (send($one, 'x' x $n, MSG_DONTWAIT) // 0) < $n;
		push @full, $n unless defined send($one, 'y' x 16, MSG_DONTWAIT);
	}
	return $full[ @full / 2 ] // die 'a socket takes any number of bytes';
}

my $full = filling() - 300;	# and the head of the answer
my $fill = 'y' x 40_000;
my $note = OrionStack::request_bytes('POST', '/rest/v1/rpc/note', json => { n => -1, fill => $fill });
my $lock = $stack->node->background_psql('postgres');
sub hear { my ($socket) = @_; my $text = ''; while (IO::Select->new($socket)->can_read(60)) { sysread($socket, $text, 1 << 18, length $text) or last; } return $text; }

foreach my $case ([ $full, 'abs' ], [ $full, 'pg_terminate_backend' ], [ 1, 'pg_terminate_backend' ], [ 1, 'pg_cancel_backend' ])
{
	my ($length, $how) = @$case;
	my $what = "$how, after $length bytes";
	my $executor;
	ok($stack->until_true(sub { ($executor = executors()) =~ /^\d+$/ }), 'an executor');
	my ($first, $second) = (dial(), dial());
	$lock->query_safe('SELECT pg_advisory_lock(7)');
	syswrite($first, OrionStack::request_bytes('POST', '/rest/v1/rpc/held', json => { n => $length }));
	ok($stack->until_true(sub { $stack->sql("SELECT count(*) FROM pg_stat_activity WHERE pid = $executor AND wait_event = 'advisory'") == 1 }), 'is busy');
	syswrite($second, $note);
	ok($stack->until_true(sub { $stack->http('GET', '/metrics')->{body} =~ /^orion_http_queue_length 1$/m }), 'a long request waits');
	my $gateway = gateway();
	kill STOP => $gateway;
	$lock->query_safe('SELECT pg_advisory_unlock(7)');
	ok($stack->until_true(sub { $stack->sql("SELECT count(*) FROM pg_stat_activity WHERE pid = $executor AND wait_event_type = 'Extension'") == 1 }), 'the executor asks for it, and the gateway does not hear it');
	$stack->sql("SELECT $how($executor)");
	ok($stack->until_true(sub { $stack->sql("SELECT count(*) FROM pg_stat_activity WHERE pid = $executor") == 0 }), 'it ends') if $how =~ /terminate/;
	kill CONT => $gateway;
	my $answer = hear($first);
	ok($answer =~ m{^HTTP/1.1 200 .*\r\n\r\n"(x+)"\z}s && length $1 == $length, "$what: what was answered before arrives") or diag(substr($answer, 0, 500));
	like(hear($second), qr{^HTTP/1.1 200 .*-1 y}s, "$what: what was not begun is done");
}
$lock->quit;
is($stack->sql("SELECT string_agg(n::text, ' ') FROM done"), '-1 -1 -1 -1', 'once each');
is($stack->worker('restarts', 'executor'), '2', 'to cancel what does not run ends no executor');

# --- many clients, pipelined requests and answers of all sizes, while executors come and go

my ($clients, $rounds) = (6, 60);
my @children;
foreach my $client (1 .. $clients)
{
	push @children, OrionStack::spawn(sub { srand($client); POSIX::_exit(ask_much($client) ? 0 : 3) });
}

# Four requests at a time; true when all answers are good.
sub ask_much
{
	my ($client) = @_;
	my $socket = dial();
	my $n = $client * 1_000_000;
	my $heard = '';
	foreach my $round (1 .. $rounds)
	{
		my ($out, @want) = ('');
		foreach (1 .. 4)
		{
			my $kind = rand;
			$n++;
			# answers that fill the socket between executor and gateway, and requests that take it
			my $length = $kind < 0.7 ? int rand(24_000) : 0;
			push @want, $kind < 0.7 ? qr/^"$n y{$length}"$/ : qr/^"x+"$/;
			$out .= $kind < 0.7 ? OrionStack::request_bytes('POST', '/rest/v1/rpc/note', json => { n => $n, fill => 'y' x $length }, headers => { Connection => 'keep-alive' })
			  : OrionStack::request_bytes('GET', '/rest/v1/rpc/long_text?n=' . (150_000 + int rand 400_000), headers => { Connection => 'keep-alive' });
		}
		$socket->blocking(0);
		while (@want)
		{
			my $sent = length $out ? syswrite($socket, $out) : 0;
			substr($out, 0, $sent, '') if $sent;
			IO::Select->new($socket)->can_read(length $out ? 0.001 : 60) or length $out or die 'no answer';
			my $got = sysread($socket, $heard, 1 << 18, length $heard);
			die 'the connection ended' if defined $got && $got == 0;
			while ((my $end = index($heard, "\r\n\r\n")) > 0)
			{
				my ($size) = substr($heard, 0, $end) =~ /^Content-Length: (\d+)/m;
				last if length($heard) < $end + 4 + $size;
				my $head = substr($heard, 0, $end + 4, '');
				my $body = substr($heard, 0, $size, '');
				my $want = shift @want;
				next if $head =~ m{^HTTP/1\.1 200 } && $body =~ $want;
				print STDERR "# client $client, round $round: ", substr("$head$body", 0, 500), "\n";
				return 0;
			}
		}
	}
	return 1;
}

my ($changes, %seen) = (0);
my $running = $clients;
my $bad = 0;
while ($running > 0)
{
	$stack->sql('ALTER SYSTEM SET orion.executor_count = ' . ($changes++ % 3 + 1));
	$stack->sql('SELECT pg_reload_conf()');
	$seen{$_} = 1 foreach split ' ', executors();
	while ((my $pid = waitpid(-1, POSIX::WNOHANG())) > 0)
	{
		next unless grep { $_ == $pid } @children;
		$running--;
		$bad ||= $?;
	}
	select(undef, undef, undef, 0.02);
}
is($bad, 0, 'every request got its answer');
cmp_ok(scalar(keys %seen), '>', 3, 'from many executors') or diag("$changes changes");
is($stack->sql('SELECT count(*) - count(DISTINCT n) FROM done WHERE n > 0'), '0', 'nothing was done twice');
is($stack->worker('sum(restarts)', 'executor'), '2', 'no executor failed');
unlike(PostgreSQL::Test::Utils::slurp_file($stack->node->logfile), qr/is not understood|PANIC|TRAP/, 'gateway and executors understood each other');
$stack->node->stop;
done_testing();
