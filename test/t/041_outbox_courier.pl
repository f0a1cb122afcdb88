# From commit to a real Redis: what arrives in the stream while the relay, the courier
# and Redis itself are killed.
use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;

use OrionServices;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $redis = OrionServices->start_redis(password => 'pass-word');
my $node = PostgreSQL::Test::Cluster->new('outbox');
$node->init;
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'orion'
max_worker_processes = 16
orion.http_port = 0
restart_after_crash = on
});
$node->start;

sub value { return $node->safe_psql('postgres', $_[0]); }

value('CREATE EXTENSION orion');
value('CREATE TABLE published (n bigserial, id uuid PRIMARY KEY)');
my $config = '{"url": "' . $redis->url . '", "stream": "orion:events"}';
value("SELECT orion_sink_create('stream', 'redis', '$config', 'user.*')");
ok($node->poll_query_until('postgres', "SELECT state = 'running' AND program_pid IS NOT NULL FROM orion.workers WHERE kind = 'relay'"),
	'the relay runs a courier');
is(value("SELECT count(*) FROM orion_private.sinks WHERE position('pass-word'::bytea IN config) > 0"), '0', 'the password is sealed');

sub arrived { return $redis->command('XLEN', 'orion:events'); }

# Everything published arrives, once: positions are stored with the effect.
sub all_arrive
{
	my ($what) = @_;
	my $want = value('SELECT count(*) FROM published');
	ok(OrionServices::poll_until(sub { return arrived() >= $want }, 60), "$what: everything arrives");
	is(arrived(), $want, "$what: and nothing else");
	my @ids = $redis->command('XRANGE', 'orion:events', '-', '+') =~ /\b([0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f-]{17})\n/g;
	my %distinct = map { $_ => 1 } @ids;
	is(scalar(keys %distinct), $want, "$what: each event is there");
}

sub publish
{
	my ($count) = @_;
	value(qq{
		BEGIN; SELECT count(orion_publish('user.undone', '{}')) FROM generate_series(1, 50); ROLLBACK;
		SELECT count(orion_publish('order.other', '{}')) FROM generate_series(1, 50);
		INSERT INTO published (id) SELECT orion_publish('user.moved', jsonb_build_object('i', i), 'user', i::text) FROM generate_series(1, $count) i});
}

sub worker { return value("SELECT $_[0] FROM orion.workers WHERE kind = 'relay'"); }

publish(10);
all_arrive('ten events');

# The envelope has payload and metadata as jsonb's own output does.
my $odd = q{unnest(ARRAY['null', '-1.50', 'true', '"\u0001\b\f\n\r\t\u001f\"\\\\/ \u00e4\u007f x"', '""', '[]', '{}', '[[], {}, [[1, {"a": []}], null, true, false], "x"]',
	'{"a": {}, "b": [1e300, {"c": "d\ne", "f": {"g": [{}]}}], "": 0.10, "h": "i"}']::jsonb[])};
value("INSERT INTO published (id) SELECT orion_publish('user.odd', p, metadata => p) FROM $odd p");
all_arrive('odd payloads');
my $stream = $redis->command('XRANGE', 'orion:events', '-', '+');
ok(index($stream, qq("metadata":$_,"payload":$_})) >= 0, "the payload $_") foreach split /\n/, value("SELECT p FROM $odd p");

publish(20000);
all_arrive('20,000 events');

my $courier = worker('program_pid');
publish(5000);
kill 'KILL', $courier;
publish(5000);
all_arrive('the courier was killed');
isnt(worker('program_pid'), $courier, 'another one runs');

my $relay = worker('pid');
publish(5000);
value("SELECT pg_terminate_backend($relay)");
publish(5000);
all_arrive('the relay was terminated');

$redis->stop;
publish(5000);
ok($node->poll_query_until('postgres', "SELECT state = 'degraded' AND last_error <> '' FROM orion.sinks"), 'orion.sinks says that Redis is gone');
unlike(value('SELECT last_error FROM orion.sinks'), qr/pass-word/, 'without the password');
ok($node->poll_query_until('postgres', 'SELECT lag_events >= 5000 AND lag IS NOT NULL FROM orion.sinks'), 'and how many events wait');
$redis->start;
all_arrive('Redis was stopped');
ok($node->poll_query_until('postgres', "SELECT state = 'running' AND lag_events = 0 FROM orion.sinks"), 'and that all is well again');

# Numbers are drawn before they are committed.
my $open = $node->background_psql('postgres');
$open->query_safe(q{BEGIN; WITH e AS (SELECT i, orion_publish('user.moved', '{}') AS id FROM generate_series(1, 5000) i) INSERT INTO published (id) SELECT id FROM e});
my $xid = value("SELECT pg_current_xact_id() FROM orion_publish('order.other', '{}')");
ok($node->poll_query_until('postgres', "SELECT pg_visible_in_snapshot('$xid', from_snapshot) FROM orion_private.cursors"),
	'the relay passes over what is committed while a transaction is open that has published');
is(value("SELECT last_value - passed_seq FROM orion_private.outbox_seq, orion_private.cursors"), 5000, 'its numbers are not passed');
$redis->stop;
$open->query_safe('COMMIT');
ok($node->poll_query_until('postgres', 'SELECT lag_events >= 5000 FROM orion.sinks'), 'once it is committed, all of its events wait');
$redis->start;
all_arrive('a transaction had drawn numbers for long');

$open->quit;

publish(5000);
$node->stop('immediate');
$node->start;
all_arrive('the server crashed');

# What Redis has on its disk now, and back to that later.
sub copy_of_redis
{
	$redis->stop;
	my $copy = PostgreSQL::Test::Utils::tempdir();
	system_or_bail('cp', '-a', $redis->dir . '/appendonlydir', $copy);
	$redis->start;
	return "$copy/appendonlydir";
}

sub put_back
{
	my ($copy) = @_;
	$redis->kill9;
	system_or_bail('rm', '-r', $redis->dir . '/appendonlydir');
	system_or_bail('cp', '-a', $copy, $redis->dir);
	$redis->start;
}

my $copy = copy_of_redis();
my $lost = arrived();
foreach (1 .. 3)
{
	publish(300);
	all_arrive('after the copy was made');
}
put_back($copy);
all_arrive('Redis lost three windows that it had confirmed');
like(slurp_file($node->logfile), qr/LOG:  the sink has lost events that it had confirmed/, 'the log tells');
publish(300);
all_arrive('after that');

$node->stop('immediate');
put_back($copy);
is(arrived(), $lost, 'Redis is where it was');
$node->start;
all_arrive('the server and Redis crashed at the same time');
publish(300);
all_arrive('after that');

foreach my $part (1 .. 4)
{
	publish(8000);
	my $some = arrived() + 500 * $part;
	OrionServices::poll_until(sub { arrived() >= $some }, 5);
	$redis->kill9;
	$redis->start;
	all_arrive("Redis was killed at work ($part)");
}
$redis->restart;
all_arrive('Redis was started once more');

# A window is open, none of it delivered, when Redis shows a position of the same number
# from another life of this database.
$redis->stop;
publish(5000);
ok($node->poll_query_until('postgres', 'SELECT upto_snapshot IS NOT NULL FROM orion_private.cursors'), 'a window is open');
value("SELECT orion_sink_pause('stream')");
ok($node->poll_query_until('postgres', "SELECT state = 'paused' AND program_pid IS NULL FROM orion.workers WHERE kind = 'relay'"), 'and waits');
$redis->start;
my $window = value('SELECT window_no FROM orion_private.cursors');
$redis->command('SET', 'orion:position:stream', "$window:9999999:00000000000000a1");
value("SELECT orion_sink_resume('stream')");
all_arrive('the numbers of a foreign position coincide');
cmp_ok(value('SELECT window_no FROM orion_private.cursors'), '>', $window, 'positions go on growing');

value("SELECT orion_sink_pause('stream')");
ok($node->poll_query_until('postgres', "SELECT state = 'paused' AND program_pid IS NULL FROM orion.workers WHERE kind = 'relay'"), 'a paused sink has no courier');
my $before = arrived();
publish(100);
is(arrived(), $before, 'and takes no events');
value("SELECT orion_sink_resume('stream')");
all_arrive('the sink was resumed');

value('DROP EXTENSION orion');
value('CREATE EXTENSION orion');
value("SELECT orion_sink_create('stream', 'redis', '$config', 'user.*')");
publish(300);
all_arrive('the database was set up anew');
publish(300);
all_arrive('after that');

value("SELECT orion_sink_drop('stream')");
ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM orion.workers WHERE kind = 'relay'"), 'a dropped sink has no relay');
my $log = slurp_file($node->logfile);
unlike($log =~ s/^.*LOG:  statement: .*$//mgr, qr/pass-word/, 'the log does not show the password');

$node->stop;
done_testing();
