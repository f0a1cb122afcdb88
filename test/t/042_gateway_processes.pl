# Several gateways on one port: who serves, what adds up, and the death of one.
use strict;
use warnings;
use lib '.';
use IO::Socket::INET;
use OrionHttp;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

my ($node, $port) = OrionHttp::server('processes', qq{
orion.http_unix_socket = 'http.sock'
orion.http_access_log = 'access.log'
orion.executor_count = 2
});
$node->safe_psql('postgres', q{
CREATE EXTENSION orion;
CREATE FUNCTION slow(seconds float8) RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT 'slept' FROM pg_sleep(seconds) $$;
CREATE FUNCTION one() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE FUNCTION held() RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT 'let go' FROM pg_advisory_xact_lock_shared(7) $$;
GRANT EXECUTE ON FUNCTION slow(float8), one(), held() TO orion_anon;
});

sub set
{
	my (%settings) = @_;
	$node->safe_psql('postgres', "ALTER SYSTEM SET $_ = '$settings{$_}'") for sort keys %settings;
	$node->reload;
}

sub becomes_true
{
	my ($what, $name) = @_;
	my $end = time + 60;
	while (time < $end)
	{
		return ok(1, $name) if eval { $what->() };
		sleep 0.05;
	}
	diag($node->safe_psql('postgres', 'TABLE orion.workers'));
	return ok(0, $name);
}

# Asks on a connection that is kept; the answer, or the empty text when it was closed.
sub ask
{
	my ($socket, $target, $body) = @_;
	local $SIG{PIPE} = 'IGNORE';
	syswrite($socket, defined $body
		? "POST $target HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: " . length($body) . "\r\n\r\n$body"
		: "GET $target HTTP/1.1\r\nHost: x\r\n\r\n") or return '';
	return hear($socket);
}

sub hear
{
	my ($socket) = @_;
	return OrionHttp::receive(
		$socket,
		sub {
			my ($head, $body) = split /\r\n\r\n/, $_[0], 2;
			return defined $body && $head =~ /^Content-Length: (\d+)\r?$/mi && length $body >= $1;
		});
}

my $metrics;    # a connection for them

sub metrics
{
	$metrics = OrionHttp::connection($port) unless $metrics;
	my $answer = ask($metrics, '/metrics');
	return $answer if $answer =~ m{^HTTP/1\.1 200};
	undef $metrics;
	die "no metrics: $answer\n";
}

# The sample of a process, or undef.
sub sample
{
	my ($process, $name, $text) = @_;
	return ($text // metrics()) =~ /^$name\{process="$process"\} (\S+)$/m ? $1 : undef;
}

my $lock = $node->background_psql('postgres');
sub held_ones { return $node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'orion executor' AND wait_event = 'advisory'"); }
sub slow_ones { return $node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"); }
sub program { return $node->safe_psql('postgres', "SELECT program_pid FROM orion.workers WHERE kind = 'gateway' AND name = '$_[0]'"); }

sub both_serve
{
	my ($name) = @_;
	becomes_true(sub { my $text = metrics(); (sample(0, 'orion_executors_connected', $text) // 0) == 2 && (sample(1, 'orion_executors_connected', $text) // 0) == 2 }, $name);
}

# Connections until each process has some: two lists.
sub connections
{
	my ($n) = @_;
	my @found = ([], []);
	for (1 .. 100)
	{
		my $text = metrics();
		my @before = map { sample($_, 'orion_http_connections', $text) } 0, 1;
		my $socket = OrionHttp::connection($port);
		ask($socket, '/health') =~ /"ok"/ or die 'not served';
		$text = metrics();
		my @after = map { sample($_, 'orion_http_connections', $text) } 0, 1;
		push @{ $found[0] }, $socket if $after[0] > $before[0];
		push @{ $found[1] }, $socket if $after[1] > $before[1];
		last if @{ $found[0] } >= $n && @{ $found[1] } >= $n;
	}
	return @found;
}

# --- one becomes two --------------------------------------------------------------------------

becomes_true(sub { OrionHttp::request($port, 'GET', '/ready')->{status} == 200 }, 'one gateway');
unlike(metrics(), qr/process="/, '... whose metrics have no label for it');
my $kept = OrionHttp::connection($port);
like(ask($kept, '/rest/v1/rpc/one'), qr/^HTTP.1.1 200.*\r\n1\z/s, '... serves');
set('orion.gateway_count' => 2);
both_serve('a second one, and every executor serves both');
like(ask($kept, '/rest/v1/rpc/one'), qr/^HTTP.1.1 200.*\r\n1\z/s, 'nobody was cut off');
is($node->safe_psql('postgres', "SELECT string_agg(name || ' ' || state || ' ' || restarts, ', ' ORDER BY name) FROM orion.workers WHERE kind = 'gateway'"),
	'0 running 0, 1 running 0', 'orion.workers shows each');

my @served = connections(3);
cmp_ok(@{ $served[0] }, '>=', 3, 'the first gets connections');
cmp_ok(@{ $served[1] }, '>=', 3, '... and so does the second');

# --- metrics ------------------------------------------------------------------------------------

sub counted
{
	my ($text) = @_;
	my %n = (0 => 0, 1 => 0);
	$n{$1} += $2 while $text =~ m{^orion_http_requests_total\{process="(\d)",route="/rest/v1/rpc/one",method="GET",status="200"\} (\d+)$}mg;
	return %n;
}
my %before = counted(metrics());
ask($_, '/rest/v1/rpc/one') for @{ $served[0] }[0 .. 2], (@{ $served[1] }[0 .. 1]) x 2;
my %after = counted(metrics());
is($after{0} - $before{0}, 3, 'requests of the first');
is($after{1} - $before{1}, 4, '... and of the second, whoever is asked for them');
my $text = metrics() =~ s/^.*?\r\n\r\n//sr;
my %seen;
my $last = '';
for my $line (grep { !/^#/ } split /\n/, $text)
{
	my ($name) = $line =~ /^([a-z_]+?)(?:_bucket|_sum|_count)?[ {]/;
	$seen{$name}++ if $name ne $last;
	$last = $name;
}
is(join(' ', grep { $seen{$_} > 1 } sort keys %seen), '', 'samples of one name stand together');
is(scalar(() = $text =~ /^# TYPE orion_http_requests_total /mg), 1, '... under one heading');
is(scalar(() = $text =~ /^orion_worker_state\{kind="executor"/mg), 2, 'what the server says is there once');

kill STOP => program(1);
my $from = time;
my ($first) = @{ $served[0] };
$text = ask($first, '/metrics');
like($text, qr/^orion_http_connections\{process="0"\}/m, 'one that hangs costs its own part');
unlike($text, qr/^orion_http_connections\{process="1"\}/m, '... only');
cmp_ok(time - $from, '<', 20, '... after a second');
kill CONT => program(1);
undef $metrics;
both_serve('it goes on');

# --- executors serve whoever has something --------------------------------------------------------

my ($of_first, $of_second) = ($served[0][0], $served[1][0]);
$lock->query_safe('SELECT pg_advisory_lock(7)');
syswrite($of_first, "POST /rest/v1/rpc/held HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}");
becomes_true(sub { held_ones() == 1 }, 'one executor is busy for the first');
is(scalar(grep { ask($of_second, '/rest/v1/rpc/one') =~ m{^HTTP/1.1 200} } 1 .. 20), 20, 'the second has the other one');
is(scalar(grep { ask($served[0][1], '/rest/v1/rpc/one') =~ m{^HTTP/1.1 200} } 1 .. 20), 20, '... and so has the first');
is(held_ones(), 1, '... meanwhile');
$lock->query_safe('SELECT pg_advisory_unlock(7)');
like(hear($of_first), qr/let go/, 'the slow one ends');
my $long = 'x' x 100_000;
like(ask($_, '/rest/v1/rpc/slow', qq({"seconds":0, "$long":0})), qr{^HTTP/1.1 4\d\d}, 'long requests') for $of_first, $of_second;
like(ask($_, '/rest/v1/rpc/one'), qr{^HTTP/1.1 200}, '... and short ones after them') for $of_first, $of_second;

# --- a limit for all ----------------------------------------------------------------------------------

# How many of these connections are served; closes them all.
sub served
{
	my ($n) = @_;
	my @sockets = map { OrionHttp::connection($port) } 1 .. $n;
	return scalar grep { ask($_, '/health') =~ /"ok"/ } @sockets;
}
set('orion.http_max_connections_per_address' => 3);
my $all;
becomes_true(sub { $all = served(12); $all == 3 }, 'the limit of an address holds for both together') or diag($all);
becomes_true(sub { served(3) == 3 }, '... and closed ones do not count');
set('orion.http_max_connections_per_address' => 0);
becomes_true(sub { served(12) == 12 }, '... until it goes');

# --- death ----------------------------------------------------------------------------------------

# others keep the executors from resting
my @load = (@{ $served[0] }[0 .. 2]);
my $one = "GET /rest/v1/rpc/one HTTP/1.1\r\nHost: x\r\n\r\n";
my $pid = program(1);
kill 9, $pid;
becomes_true(sub { ask($_, '/rest/v1/rpc/one') =~ m{^HTTP/1.1 200} or die 'the other one does not serve' for @load; my $new = program(1); $new ne '' && $new ne $pid },
	'one is killed: the other goes on, the lost one comes back');
is(eval { ask($served[1][0], '/health') } // '', '', 'its clients have lost their connections');
undef $metrics;
becomes_true(sub {
	ask($_, '/rest/v1/rpc/one') =~ m{^HTTP/1.1 200} or die 'the other one does not serve' for @load;
	my $text = metrics();
	(sample(1, 'orion_executors_connected', $text) // 0) == 2; }, '... with its executors');
@served = connections(1);
like(ask($served[1][0], '/rest/v1/rpc/one'), qr{^HTTP/1.1 200}, '... and serves');
is($node->safe_psql('postgres', "SELECT string_agg(restarts::text, ' ' ORDER BY name) FROM orion.workers WHERE kind = 'gateway'"), '0 1', 'orion.workers has counted');

$pid = program(0);
kill 9, $pid;
becomes_true(sub { my $new = program(0); $new ne '' && $new ne $pid && OrionHttp::request($port, 'GET', '/ready')->{status} == 200 }, 'so does the first');
undef $metrics;
both_serve('... whole');
my $socket = $node->data_dir;    # its path may be too long for a socket's name
becomes_true(sub { qx(cd '$socket' && curl -s --unix-socket http.sock http://x/ready) =~ /ready/ }, '... with the Unix socket');

# --- ports -----------------------------------------------------------------------------------------

# a program of the same user that would share its port with anybody
my $other_port = PostgreSQL::Test::Cluster::get_free_port();
my $other = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $other_port, Listen => 5, ReuseAddr => 1, ReusePort => 1) or die "cannot listen: $!";
set('orion.http_port' => $other_port);
becomes_true(sub { $node->safe_psql('postgres', "SELECT count(*) FROM orion.workers WHERE kind = 'gateway' AND state = 'degraded' AND last_error LIKE '%Address already in use'") == 2 },
	'a port that others share is not taken');
like(ask(OrionHttp::connection($port), '/ready'), qr/ready/, '... and the old one is still served');
close $other;
becomes_true(sub { $node->safe_psql('postgres', "SELECT count(*) FROM orion.workers WHERE kind = 'gateway' AND state = 'running' AND last_error IS NULL") == 2 }, '... until it is free');
$port = $other_port;
undef $metrics;
both_serve('both have moved');
@served = connections(1);

# --- two become one ----------------------------------------------------------------------------------

($of_second) = @{ $served[1] };
becomes_true(sub {
	syswrite($of_second, "POST /rest/v1/rpc/slow HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{\"seconds\":1}");
	my $until = time + 1;
	while (time < $until) { return 1 if slow_ones() == 1; }
	hear($of_second);    # it was over before anybody looked
	return 0; }, 'a request that runs');
set('orion.gateway_count' => 1);
like(hear($of_second), qr/slept/, 'the second is to leave: it answers first');
becomes_true(sub { $node->safe_psql('postgres', "SELECT count(*) FROM orion.workers WHERE kind = 'gateway'") == 1 }, '... and is gone');
undef $metrics;
becomes_true(sub { metrics() !~ /process="/ }, 'metrics are as before');
is(scalar(grep { ask(OrionHttp::connection($port), '/rest/v1/rpc/one') =~ m{^HTTP/1.1 200} } 1 .. 20), 20, 'the first serves everybody');
my @lines = split /\n/, slurp_file($node->data_dir . '/access.log');
is(scalar(grep { !/^\{"time":.*\}$/ } @lines), 0, 'two wrote the access log, line by line');
$from = time;
$node->stop('fast');
cmp_ok(time - $from, '<', 20, 'and it stops');
done_testing();
