# A standby with two gateways: who waits for the replay waits at either; whose statement stands
# in the way of the replay is told to come again, and keeps the connection.
use strict;
use warnings;
use IO::Select;
use IO::Socket::INET;
use OrionStack;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $stack = OrionStack->new('primary', conf => "wal_level = replica\nmax_wal_senders = 4\nhot_standby = on\nautovacuum = off\n");
my $primary = $stack->node;
$stack->sql(q{
CREATE TABLE things (id int PRIMARY KEY, v text);
INSERT INTO things SELECT i, 'v' || i FROM generate_series(1, 10) i;
CREATE FUNCTION slow_count(seconds float8) RETURNS bigint LANGUAGE plpgsql STABLE AS
	$$ BEGIN PERFORM count(*) FROM things; PERFORM pg_sleep(seconds); RETURN (SELECT count(*) FROM things); END $$;
GRANT SELECT, INSERT, DELETE ON things TO orion_anon;
});
$primary->backup('base');
my $port = PostgreSQL::Test::Cluster::get_free_port();
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', qq{
orion.http_port = $port
orion.executor_count = 2
orion.gateway_count = 2
orion.standby_wait_timeout = '60s'
hot_standby_feedback = off
max_standby_streaming_delay = '100ms'
});
chmod 0600, $standby->data_dir . '/orion_master.key';
$standby->start;
my $there = bless { %$stack, http_port => $port, node => $standby }, ref $stack;
sub metrics { return $there->http('GET', '/metrics')->{body}; }
ok($stack->until_true(sub { 2 == (() = metrics() =~ /^orion_executors_connected\{process="\d"\} 2$/mg) }, 60), 'two gateways, and each executor serves both') or diag($there->workers);
local $SIG{PIPE} = 'IGNORE';

# A request on a connection that is kept.
sub begin
{
	my ($target, $headers, $socket) = @_;
	$socket //= IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) or die "cannot connect: $@";
	syswrite($socket, OrionStack::request_bytes('GET', $target, headers => { Connection => 'keep-alive', %{ $headers // {} } }));
	return $socket;
}
sub answer
{
	my ($socket) = @_;
	my ($heard, $end) = ('', time + 60);
	while (time < $end && $heard !~ /\r\n\r\n/ || $heard =~ /^Content-Length: (\d+)\r.*?\r\n\r\n(.*)/msi && length $2 < $1)
	{
		next unless IO::Select->new($socket)->can_read(1);
		last unless sysread($socket, $heard, 65536, length $heard);
	}
	return OrionStack::parse($heard);
}
sub seen { my ($answer) = @_; return join ' ', $answer->{status}, $answer->{json} && ref $answer->{json} eq 'HASH' ? $answer->{json}{code} : $answer->{body}; }

# --- waiting for the replay, at both

$standby->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
ok($standby->poll_query_until('postgres', "SELECT pg_get_wal_replay_pause_state() = 'paused'"), 'the replay pauses');
my $lsn = $stack->http('POST', '/rest/v1/things', json => { id => 100, v => 'w' })->{headers}{'orion-lsn'};
my $target = '/rest/v1/things?id=eq.100&select=id';
my %parked;
my @waiting;
sub look { my $text = metrics(); %parked = map { $_ => $text =~ /^orion_http_requests_parked\{process="$_"\} (\d+)/m } 0, 1; return $parked{0} + $parked{1}; }
for (1 .. 60)
{
	push @waiting, begin($target, { Prefer => "wait-lsn=$lsn" }) for 1 .. 5;
	last if $stack->until_true(sub { look() == @waiting }, 20) && $parked{0} >= 3 && $parked{1} >= 3;
}
look();
cmp_ok($parked{$_}, '>=', 3, "requests wait at gateway $_") foreach 0, 1;
close shift @waiting for 1 .. 2;
ok($stack->until_true(sub { look() == @waiting }), 'who leaves waits no more');
my $short = begin($target, { Prefer => "wait-lsn=$lsn, wait=1" });
is(seen(answer($short)), '504 ORION504', 'who has waited long enough is told so, while others wait');
is(seen(answer(begin('/rest/v1/things?id=eq.1&select=id', {}, $short))), '200 [{"id":1}]', 'and served on the same connection');
$standby->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
is(scalar(grep { seen(answer($_)) eq '200 [{"id":100}]' } @waiting), scalar(@waiting), 'all are answered when the replay goes on');
ok($stack->until_true(sub { look() == 0 }), 'nobody waits any more');

# --- statements in the way of the replay

sub conflicting
{
	my ($what, $sql) = @_;
	my $before = $stack->sql('SELECT count(*) FROM things');
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));
	my $socket = begin('/rest/v1/rpc/slow_count?seconds=600');
	ok($standby->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"), "$what: a long request reads at the standby");
	$stack->sql($_) foreach @$sql;
	my $answer = answer($socket);
	is(seen($answer), '503 40001', '... and is cancelled by the replay, with a code that says: again');
	ok($answer->{headers}{'retry-after'}, '... and when');
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));
	is(seen(answer(begin('/rest/v1/rpc/slow_count?seconds=0', {}, $socket))), '200 ' . $stack->sql('SELECT count(*) FROM things'), '... on the same connection, by the same executor');
}
my $pids = $standby->safe_psql('postgres', "SELECT string_agg(pid::text, ' ' ORDER BY pid) FROM orion.workers WHERE kind = 'executor'");
conflicting('dead rows', [ 'DELETE FROM things WHERE id = 1', 'VACUUM things' ]);
conflicting('a lock', ['ALTER TABLE things ADD COLUMN w int']);
is($standby->safe_psql('postgres', "SELECT string_agg(pid::text, ' ' ORDER BY pid) FROM orion.workers WHERE kind = 'executor'"), $pids, 'no executor was restarted');
unlike(slurp_file($standby->logfile), qr/PANIC|TRAP|is not understood/, 'nothing went wrong on the way');

$standby->stop;
$primary->stop;

# --- the replay of DROP DATABASE ends the executors; their clients are told

my ($main_port, $other_port) = map { PostgreSQL::Test::Cluster::get_free_port() } 1, 2;
my $conf = "shared_preload_libraries = 'orion'\nmax_worker_processes = 16\norion.database = 'app'\norion.http_listen_addresses = '127.0.0.1'\norion.http_queue_timeout = '60s'\n";
my $main = PostgreSQL::Test::Cluster->new('main');
$main->init(allows_streaming => 1);
$main->append_conf('postgresql.conf', "${conf}orion.http_port = $main_port\n");
$main->start;
$main->safe_psql('postgres', 'CREATE DATABASE app');
$main->safe_psql('app', q{CREATE EXTENSION orion; CREATE FUNCTION slow(seconds float8) RETURNS text LANGUAGE sql STABLE AS $$ SELECT 'slept' FROM pg_sleep(seconds) $$; CREATE TABLE items (id int)});
$main->backup('base');
my $other = PostgreSQL::Test::Cluster->new('other');
$other->init_from_backup($main, 'base', has_streaming => 1);
$other->append_conf('postgresql.conf', "orion.http_port = $other_port\n");
chmod 0600, $other->data_dir . '/orion_master.key';
$other->start;
$there = bless { %$stack, http_port => $other_port, node => $other }, ref $stack;
$port = $other_port;
ok($stack->until_true(sub { $there->is_ready }, 60), 'a standby of another database');
my $socket = begin('/rest/v1/rpc/slow?seconds=600');
ok($other->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"), 'a long request reads there');
$main->safe_psql('postgres', 'DROP DATABASE app');
is(seen(answer($socket)), '503 ORH503', 'the database is dropped: there is nobody to answer any more, and its client is told');
$main->wait_for_catchup($other, 'replay', $main->lsn('flush'));
is($other->safe_psql('postgres', "SELECT count(*) FROM pg_database WHERE datname = 'app'"), '0', 'the replay did not have to wait');
unlike(slurp_file($other->logfile), qr/PANIC|TRAP|is not understood/, 'nothing went wrong on the way');
$other->stop;
$main->stop;
done_testing();
