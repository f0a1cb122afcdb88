# What an administrator does: altering, skipping, sending again, several workers; what
# orion.sinks says of sinks that are paused or fail; the outbox full. Real Redis.
use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;

use OrionServices;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $redis = OrionServices->start_redis();
my $node = PostgreSQL::Test::Cluster->new('operate');
$node->init;
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'orion'
max_worker_processes = 20
max_prepared_transactions = 5
orion.http_port = 0
orion.outbox_segment_size = 1MB
});
$node->start;

sub value { return $node->safe_psql('postgres', $_[0]); }
sub becomes { ok($node->poll_query_until('postgres', "SELECT $_[0]"), $_[1]); }
sub refused { my ($sql, $like, $what) = @_; my (undef, undef, $error) = $node->psql('postgres', $sql); like($error, $like, $what); }
sub publish { my ($type, $id, $n) = @_; return value("SELECT orion_publish('$type', jsonb_build_object('n', $n), 'order', '$id')"); }
sub stream { my ($key) = @_; return map { $_->{event} =~ /"n": ?(\d+)/ ? $1 : '?' } @{ $redis->stream($key) }; }
sub arrives { my ($key, $count, $what) = @_; ok(OrionServices::poll_until(sub { $redis->command('XLEN', $key) >= $count }), $what); }

value('CREATE EXTENSION orion');
my $url = $redis->url;
value("SELECT orion_sink_create('r', 'redis', '{\"url\": \"$url\", \"stream\": \"a\"}', 'order.*')");

# altering while events flow: nothing is lost, nothing comes twice
publish('order.new', 1, 1);
arrives('a', 1, 'an event arrives');
my $position = value("SELECT window_no FROM orion.sinks WHERE name = 'r'");
value("SELECT orion_sink_alter('r', pattern => 'bill.*')");
publish('order.new', 1, 2);
publish('bill.new', 1, 3);
arrives('a', 2, 'the new pattern holds at once');
is(join(' ', stream('a')), '1 3', 'and the old one no more');
value("SELECT orion_sink_alter('r', 'order.*', '{\"url\": \"$url\", \"stream\": \"b\"}')");
publish('order.new', 1, 4);
arrives('b', 1, 'another configuration is used from the commit on');
is(join(' ', stream('a'), stream('b')), '1 3 4', 'without loss or double');
cmp_ok(value("SELECT window_no FROM orion.sinks WHERE name = 'r'"), '>', $position, 'the position was kept');
refused("SELECT orion_sink_alter('r', config => '{\"url\": 5}')", qr/must be an object with a "url"/, 'nonsense is refused');
value("SELECT orion_sink_alter('r', config => '{\"url\": \"redis://127.0.0.1:1/\", \"stream\": \"b\"}')");
publish('order.new', 1, 5);
becomes("state = 'degraded' AND last_error <> '' AND attempts > 0 AND lag_events > 0 AND lag > '0' FROM orion.sinks", 'a wrong address is seen in the view');
value("SELECT orion_sink_alter('r', config => '{\"url\": \"$url\", \"stream\": \"b\"}')");
arrives('b', 2, 'a right one mends it');
becomes("state = 'running' AND attempts = 0 AND lag_events = 0 AND lag = '0' AND rate > 0 FROM orion.sinks", 'and the view says so');

# paused: the lag is seen although no relay reports it
value("SELECT orion_sink_pause('r')");
publish('order.new', 1, $_) foreach 6 .. 8;
becomes("state = 'paused' AND lag_events = 3 AND lag > '0' FROM orion.sinks", 'the lag of a paused sink');
is(value(q{BEGIN; SELECT count(orion_publish('order.new', '{}')) FROM generate_series(1, 10); ROLLBACK; SELECT lag_events > 0 AND position LIKE '%:%' FROM orion.sinks}) =~ /t$/ ? 1 : 0, 1,
	'with what was rolled back');
is(value("SELECT orion_skip('r', 'now') IS NULL"), 't', 'all until now is skipped');
is(value("SELECT lag_events FROM orion.sinks"), '0', 'nothing waits then');
publish('order.new', 1, 9);
value("SELECT orion_sink_resume('r')");
arrives('b', 3, 'what comes later is sent');
is(join(' ', stream('b')), '4 5 9', 'what was skipped is not');

# replayed: marked, same id, beside what is new
becomes("lag_events = 0 FROM orion.sinks", 'nothing waits');
my $from = value("SELECT min(occurred_at) FROM orion_private.outbox");
is(value("SELECT orion_replay('r', '$from', pattern => 'order.new')"), '8', 'a replay counts its events');
arrives('b', 11, 'they are sent again, also those that had been skipped');
publish('order.new', 1, 10);
arrives('b', 12, 'new events flow');
is(join(' ', stream('b')), '4 5 9 1 2 4 5 6 7 8 9 10', 'in their order');
my @entries = @{ $redis->stream('b') };
is(scalar(grep { $_->{event} =~ /"replayed": ?true/ } @entries), 8, 'replayed events are marked in their metadata');
like($entries[3]{event}, qr/"metadata": ?\{"replayed": ?true\}/, 'like this');
my ($id4, $again4) = map { $_->{event} =~ /"eventId": ?"([^"]*)"/ } @entries[ 0, 5 ];
is($again4, $id4, 'and keep their ids');
is(value("SELECT progress FROM orion.replays"), '1.0', 'its progress is shown');
is(value("SELECT orion_replay('r', now() + interval '1 hour')"), '0', 'nothing to replay');
# across a kill of relay and courier
value("SELECT count(orion_publish('order.many', jsonb_build_object('n', 1000 + i), 'order', i::text)) FROM generate_series(1, 5000) i");
arrives('b', 5012, 'many');
becomes("lag_events = 0 FROM orion.sinks", 'and are known to have arrived');
is(value("SELECT orion_replay('r', '$from', pattern => 'order.many')"), '5000', 'all are replayed');
OrionServices::poll_until(sub { $redis->command('XLEN', 'b') > 5512 });
kill 'KILL', value("SELECT program_pid FROM orion.workers WHERE kind = 'relay'") || die 'no courier';
value("SELECT pg_terminate_backend(pid) FROM orion.workers WHERE kind = 'relay'");
publish('order.new', 1, 11);
arrives('b', 10013, 'a replay goes on after a kill');
becomes("lag_events = 0 AND state = 'running' FROM orion.sinks", 'to its end');
is($redis->command('XLEN', 'b'), 10013, 'and doubles nothing');

# dead letters: a courier's, back to it
$redis->command('DEL', 'plain');
$redis->command('SET', 'plain', 'no stream');
value("SELECT orion_sink_alter('r', config => '{\"url\": \"$url\", \"stream\": \"{aggregateid}\"}')");
publish('order.new', 'plain', 20);
publish('order.new', 'fine', 21);
publish('order.new', 'plain', 22);
becomes("count(*) = 2 FROM orion.dead_letters", 'refused events are dead letters');
$redis->command('DEL', 'plain');
is(value("SELECT orion_redrive('r')"), '2', 'sent again');
arrives('plain', 2, 'they arrive');
is(join(' ', stream('plain')), '20 22', 'in their order');
is(value('SELECT count(*) FROM orion.dead_letters'), '0', 'and are no dead letters any more');
publish('order.new', 'plain', 23);
arrives('plain', 3, 'what is new follows');
$redis->command('SET', 'worse', 'no stream');
publish('order.new', 'worse', 30);
becomes("count(*) = 1 FROM orion.dead_letters", 'one more');
value("SELECT orion_redrive(id) FROM orion.dead_letters");
becomes("count(*) = 1 FROM orion.dead_letters", 'refused again it is back');
is(value("SELECT event #>> '{payload,n}' FROM orion.dead_letters"), '30', 'the same');
value("SELECT orion_sink_drop('r')");

# a SQL handler: a failing event holds back its key and no other
value(q{
CREATE TABLE seen (place bigserial, key text, n int, worker int);
CREATE TABLE broken (n int);
CREATE FUNCTION see(event jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF EXISTS (SELECT FROM public.broken b WHERE b.n = (event #>> '{payload,n}')::int) THEN RAISE EXCEPTION 'broken'; END IF;
	INSERT INTO public.seen (key, n, worker) VALUES (event ->> 'aggregateId', (event #>> '{payload,n}')::int, pg_backend_pid());
END $$;
SELECT orion_subscribe('h', 'order.*', 'see(jsonb)', max_attempts => 50)});
sub seen { my ($key) = @_; return value("SELECT coalesce(string_agg(n::text, ' ' ORDER BY place), '') FROM seen WHERE key = '$key'"); }
value('INSERT INTO broken VALUES (2), (6)');
value("SELECT orion_publish('order.x', '{\"n\": 1}', 'order', 'k'), orion_publish('order.x', '{\"n\": 2}', 'order', 'k'), orion_publish('order.x', '{\"n\": 3}', 'order', 'k'), orion_publish('order.x', '{\"n\": 4}', 'order', 'l')");
becomes("count(*) = 1 FROM seen WHERE key = 'l'", 'other keys flow on');
publish('order.x', 'k', 5);
publish('order.x', 'l', 6);
publish('order.x', 'm', 7);
becomes("count(*) = 1 FROM seen WHERE key = 'm'", 'in later batches too');
is(seen('k'), '1', 'the key of a failing event waits');
is(value("SELECT string_agg(format('%s %s', seq - min, attempts > 0), ', ' ORDER BY seq) FROM orion.parked_events, (SELECT min(seq) FROM orion.parked_events) m WHERE key = 'order/k'"),
	'0 t, 1 f, 3 f', 'behind it');
becomes("parked = 4 AND attempts > 1 AND last_error LIKE '%broken%' AND state = 'running' FROM orion.sinks", 'the view shows that');
value('DELETE FROM broken WHERE n = 2');
becomes("count(*) = 4 FROM seen WHERE key = 'k'", 'all come when it goes well');
is(seen('k'), '1 2 3 5', 'in order');
is(value("SELECT orion_skip('h') = (event ->> 'eventId')::uuid FROM orion.parked_events WHERE attempts > 0"), 't', 'the other is skipped');
is(value("SELECT error FROM orion.dead_letters WHERE sink = 'h'"), 'skipped: P0001: broken', 'to the dead letters');
value('DELETE FROM broken');
is(value("SELECT orion_redrive('h', 'order.#')"), '1', 'and sent again');
becomes("count(*) = 2 FROM seen WHERE key = 'l'", 'with effect');
is(value("SELECT count(*) FROM orion.dead_letters WHERE sink = 'h'"), '0', 'none is left');
refused("SELECT orion_skip('h')", qr/no event of sink "h" is failing/, 'nothing to skip');
# rejoins its key in front of what waits there
value('INSERT INTO broken VALUES (41), (42)');
publish('order.x', 'o', $_) foreach 41 .. 43;
becomes("attempts > 0 FROM orion.parked_events WHERE event #>> '{payload,n}' = '41'", 'fails');
value("SELECT orion_skip('h')");
becomes("attempts > 0 FROM orion.parked_events WHERE event #>> '{payload,n}' = '42'", 'the next of the key is called, and fails');
value("BEGIN; DELETE FROM broken; SELECT orion_redrive('h'); COMMIT");
becomes("count(*) = 3 FROM seen WHERE key = 'o'", 'sent again');
is(seen('o'), '41 42 43', 'before later ones that had not gone');
value("SELECT orion_unsubscribe('h'); TRUNCATE seen");

# a handler that kills its relay: the event before it has gone, and it can be skipped
value(q{CREATE FUNCTION kills(event jsonb) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
	IF (event #>> '{payload,n}')::int = 3 THEN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(1); END IF;
	INSERT INTO public.seen (key, n) VALUES ('kills', (event #>> '{payload,n}')::int);
END $$;
SELECT orion_subscribe('kills', 'kill.*', 'kills(jsonb)')});
value("SELECT count(orion_publish('kill.me', jsonb_build_object('n', i))) FROM generate_series(1, 5) i");
becomes("restarts > 2 AND (SELECT count(*) FROM seen) = 2 FROM orion.workers WHERE name = 'kills'", 'a handler that kills its relay: what is before goes');
ok(OrionServices::poll_until(sub { return ($node->psql('postgres', "SELECT orion_skip('kills')"))[0] == 0 }), 'it is skipped');
becomes("count(*) = 4 FROM seen", 'and the rest goes');
is(seen('kills'), '1 2 4 5', 'all but that');
is(value("SELECT event #>> '{payload,n}' FROM orion.dead_letters WHERE sink = 'kills'"), '3', 'which is a dead letter');
value("SELECT orion_unsubscribe('kills'); TRUNCATE seen");

# several workers: each key in order, each event once; 2PC, savepoints
value("SELECT orion_subscribe('w', 'order.*', 'see(jsonb)', workers => 3, batch => 20)");
becomes("count(*) = 3 FROM orion.workers WHERE kind = 'relay' AND state = 'running'", 'three workers');
is(value("SELECT string_agg(name, ' ' ORDER BY name) FROM orion.workers WHERE kind = 'relay'"), 'w w/2 w/3', 'with names of their own');
value(q{SELECT count(orion_publish('order.y', jsonb_build_object('n', i), 'order', (i % 30)::text)) FROM generate_series(1, 3000) i});
value(q{BEGIN; SELECT orion_publish('order.y', '{"n": 3001}', 'order', '1'); SAVEPOINT s; SELECT orion_publish('order.y', '{"n": 3002}', 'order', '1');
	ROLLBACK TO s; SELECT orion_publish('order.y', '{"n": 3003}', 'order', '1'); PREPARE TRANSACTION 'p'});
value(q{BEGIN; SELECT orion_publish('order.y', '{"n": 3004}', 'order', '2'); PREPARE TRANSACTION 'q'});
value("SELECT pg_terminate_backend(pid) FROM orion.workers WHERE name = 'w/2'");
becomes('count(*) = 3000 FROM seen', 'every event');
value("COMMIT PREPARED 'p'; ROLLBACK PREPARED 'q'");
becomes('count(*) = 3002 FROM seen', 'and those of a prepared transaction once it is committed');
is(value('SELECT count(*) FROM (SELECT n, lag(n) OVER (PARTITION BY key ORDER BY place) AS before FROM seen) s WHERE n < before'), '0', 'each key in order');
is(value("SELECT string_agg(n::text, ' ' ORDER BY n) FROM seen WHERE n > 3000"), '3001 3003', 'nothing of what was rolled back');
cmp_ok(value('SELECT count(DISTINCT worker) FROM seen'), '>=', 3, 'all of them worked');
becomes("lag_events = 0 AND delivered = 3002 FROM orion.sinks", 'the view adds them up');
value("SELECT orion_replay('w', '$from', pattern => 'order.y')");
becomes('count(*) = 6004 FROM seen', 'all of them replay');
value("SELECT orion_unsubscribe('w')");

# a sink that holds the outbox: an alarm in the view and the log, and nothing is dropped
value("SELECT orion_subscribe('late', 'fill.*', 'see(jsonb)'), orion_sink_pause('late')");
sub fill { value("SELECT count(orion_publish('fill.x', jsonb_build_object('n', 1, 't', repeat(md5(i::text), 30)))) FROM generate_series(1, 1500) i"); }
my $log = -s $node->logfile;
$node->append_conf('postgresql.conf', "orion.outbox_hold_limit = 2MB\n");
$node->reload;
fill();
becomes("count(*) > 0 FROM orion.outbox WHERE state = 'sealed' AND held_by = '{late}'", 'a segment is held');
fill();
becomes("state = 'degraded' AND last_error LIKE 'sink \"late\" holds % MB of the outbox%' FROM orion.workers WHERE kind = 'maintenance'", 'an alarm');
like(slurp_file($node->logfile, $log), qr/WARNING:.*sink "late" holds \d+ MB of the outbox/, 'in the log too');
$node->append_conf('postgresql.conf', "orion.outbox_hold_limit = 0\n");
$node->reload;
becomes("state = 'running' AND last_error IS NULL FROM orion.workers WHERE kind = 'maintenance'", 'which ends when the reason does');
for (3 .. 12)
{
	my $current = value("SELECT segment FROM orion.outbox WHERE state = 'current'");
	fill();
	last if !$node->poll_query_until('postgres', "SELECT segment <> $current OR (SELECT state = 'degraded' FROM orion.workers WHERE kind = 'maintenance') FROM orion.outbox WHERE state = 'current'");
	last if value("SELECT state FROM orion.workers WHERE kind = 'maintenance'") eq 'degraded';
}
is(value("SELECT count(*) FROM orion.outbox WHERE state = 'empty'"), '0', 'all segments are full');
like(value("SELECT last_error FROM orion.workers WHERE kind = 'maintenance'"), qr/all segments of the outbox are in use: sink "late" is furthest behind and holds [4-7] of 8$/, 'which the view says');
like(value("SELECT last_error FROM orion.sinks WHERE name = 'late'"), qr/^holds [4-7] of the 8 segments of the outbox, and none is free$/, 'and that of the sinks');
fill();
my $published = value("SELECT count(*) FROM orion_private.outbox WHERE type = 'fill.x'");
value("TRUNCATE seen; SELECT orion_sink_resume('late')");
becomes("count(*) = $published FROM seen", 'publishing went on, and everything arrives');
value("UPDATE orion_private.outbox_state SET closed_at = closed_at - interval '2 days' WHERE sealed_xid IS NOT NULL");
becomes("bool_or(state = 'empty') FROM orion.outbox", 'segments are freed');
becomes("state = 'running' FROM orion.workers WHERE kind = 'maintenance'", 'the alarm is over');
refused("SELECT orion_replay('late', '$from')", qr/no longer retained/, 'what was freed cannot be replayed');
is(value("SELECT orion_replay('late', retained_since + interval '1 us') >= 0 FROM orion.outbox LIMIT 1"), 't', 'the rest can');

$node->stop;
done_testing();
