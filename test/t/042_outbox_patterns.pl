# A sink reads only what it may want: while others publish what its pattern does not
# match, its relay opens no window, shows no lag and holds no segment; and whatever does
# match arrives, whichever way it was published and whatever becomes of the pattern.
use strict;
use warnings;
use OrionPsql;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('patterns');
$node->init;
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'orion'
max_worker_processes = 16
max_prepared_transactions = 10
orion.http_port = 0
orion.outbox_segment_size = 1MB
restart_after_crash = on
});
$node->start;

sub value { return $node->safe_psql('postgres', $_[0]); }

$node->safe_psql('postgres', q{
CREATE EXTENSION orion;
CREATE TABLE published (id uuid PRIMARY KEY, type text, at timestamptz DEFAULT clock_timestamp());
CREATE TABLE seen (sink text, id uuid, type text);
CREATE FUNCTION see_rare(event jsonb) RETURNS void LANGUAGE sql AS $$
	INSERT INTO public.seen VALUES ('rare', (event ->> 'eventId')::uuid, event ->> 'eventType') $$;
CREATE FUNCTION see_later(event jsonb) RETURNS void LANGUAGE sql AS $$
	INSERT INTO public.seen VALUES ('later', (event ->> 'eventId')::uuid, event ->> 'eventType') $$;
CREATE FUNCTION publish(type text) RETURNS uuid LANGUAGE sql AS $$
	INSERT INTO public.published (id, type) SELECT public.orion_publish(type, '{}'), type RETURNING id $$;
SELECT orion_subscribe('rare', 'rare.#', 'see_rare(jsonb)');
});

# What somebody who looks at a failure on another machine needs to know.
sub state_of_things
{
	return value(q{SELECT string_agg(s::text, E'\n') FROM (SELECT s.name, s.pattern, s.state, s.position, s.lag_events, s.lag, s.last_error,
		c.from_snapshot, c.upto_snapshot, c.passed_seq, c.updated_at, w.caught_up, n.last_value, now() FROM orion.sinks s
		JOIN orion_private.cursors c ON c.sink_id = s.id CROSS JOIN orion_private.outbox_seq n
		LEFT JOIN orion_private.workers() w ON w.sink_id = s.id AND w.kind = 'relay') s});
}

sub becomes
{
	my ($query, $what) = @_;
	ok($node->poll_query_until('postgres', "SELECT $query"), $what) or diag(state_of_things());
}

sub caught_up { return "coalesce(bool_and(caught_up), false) FROM orion_private.workers() WHERE kind = 'relay' AND name = '$_[0]'"; }
sub window { return value("SELECT window_no FROM orion_private.cursors c JOIN orion_private.sinks s ON s.id = c.sink_id WHERE s.name = 'rare'"); }
sub seen { return "count(*) = 1 FROM seen WHERE sink = '$_[0]' AND id = '$_[1]'"; }

# Has the stored cursor passed all that was published up to now? But for what is open.
sub passes
{
	my ($what, $open) = @_;
	my $drawn = value('SELECT last_value FROM orion_private.outbox_seq') - ($open // 0);
	becomes("bool_and(passed_seq >= $drawn) FROM orion_private.cursors", $what);
}

my $noise = $node->basedir . '/noise.sql';
PostgreSQL::Test::Utils::append_to_file($noise, "SELECT orion_publish('noise.made', '{}');\n");

sub make_noise
{
	my ($transactions) = @_;
	$node->command_ok([ 'pgbench', '-n', '-c', 4, '-j', 2, '-t', $transactions / 4, '-f', $noise, $node->connstr('postgres') ],
		"$transactions events of no interest");
}

#---- the work that is not done

becomes(caught_up('rare'), 'the relay is ready');
my $window = window();
make_noise(2000);
is(value("SELECT lag_events || ' ' || (lag = '0') FROM orion.sinks"), '0 true', 'they are no lag') or diag(state_of_things());
is(value('SELECT ' . caught_up('rare')), 't', 'the relay was not woken for them');
passes('the cursor passes over them');
is(window(), $window, 'without a window') or diag(state_of_things());
is(value("SELECT count(*) FROM orion_private.outbox o JOIN orion_private.cursors c ON NOT pg_visible_in_snapshot(o.xid, c.from_snapshot)"),
	0, 'and none of them is left to be read');
my $id = value("SELECT publish('rare.first')");
becomes(seen('rare', $id), 'the next that matches arrives');
cmp_ok(window(), '>', $window, 'in a window');

value(q{SELECT count(orion_publish('noise.large', jsonb_build_object('i', repeat(md5(i::text), 20)))) FROM generate_series(1, 3000) i});
becomes('count(*) = 1 FROM orion_private.outbox_state WHERE segment = 1 AND sealed_xid IS NOT NULL', 'a segment is full');
becomes("segments_held = 0 FROM orion.sinks", 'the sink does not hold it');
value("UPDATE orion_private.outbox_state SET closed_at = closed_at - interval '2 days' WHERE sealed_xid IS NOT NULL");
becomes('count(*) = 1 FROM orion_private.outbox_state WHERE segment = 1 AND opened_at IS NULL', 'and it is truncated when the retention is over');

#---- transactions that were under way while the cursor went past

my $open = $node->background_psql('postgres');
my $late = $open->query_safe(q{BEGIN; SELECT publish('rare.late')});
($late) = $late =~ /([0-9a-f-]{36})/;
my $two = value(q{BEGIN; SELECT publish('rare.prepared'); PREPARE TRANSACTION 'p'});
make_noise(400);
passes('open transactions hold nobody up', 1);
value("COMMIT PREPARED 'p'");
becomes(seen('rare', $two), 'an event of a prepared transaction arrives');
make_noise(400);
passes('the cursor goes on', 1);
$open->query_safe('COMMIT');
becomes(seen('rare', $late), 'the event of the open transaction arrives');
$open->query_safe(q{BEGIN; SAVEPOINT a; SELECT publish('rare.undone'); ROLLBACK TO a; SELECT orion_publish('noise.kept', '{}'); COMMIT});
$id = value("SELECT publish('rare.after')");
becomes(seen('rare', $id), 'and one after it');
is(value("SELECT count(*) FROM seen WHERE type = 'rare.undone'"), 0, 'a subtransaction that was rolled back sends nothing');

# Rows that do not come from orion_publish(); with a relay that listens and otherwise need not look.
foreach my $table ('outbox', 'outbox_' . value('SELECT segment FROM orion_private.outbox_state WHERE opened_at IS NOT NULL AND closed_at IS NULL'))
{
	becomes(caught_up('rare'), "$table: the relay has nothing to do");
	$id = value(qq{SET session_replication_role = replica;
		WITH made AS (
			INSERT INTO orion_private.$table (segment, seq, xid, id, type, payload, version, occurred_at)
			SELECT segment, nextval('orion_private.outbox_seq'), pg_current_xact_id(), gen_random_uuid(), 'rare.by_hand', '{}', 1, now()
			FROM orion_private.outbox_state WHERE opened_at IS NOT NULL AND closed_at IS NULL RETURNING id, type)
		INSERT INTO published (id, type) SELECT id, type FROM made RETURNING id});
	becomes(seen('rare', $id), "$table: what is inserted by hand arrives");
}

#---- patterns change

becomes(caught_up('rare'), 'the relay has nothing to do');
my $before = value("SELECT publish('other.before')");
value("SELECT orion_sink_alter('rare', 'other.#')");
$id = $open->query_safe(q{SELECT publish('other.after')});	# a session that knew the old pattern
($id) = $id =~ /([0-9a-f-]{36})/;
becomes(seen('rare', $id), 'what is published after an alteration goes by the new pattern');
is(value("SELECT count(*) FROM seen WHERE id = '$before'"), 0, 'what had no taker before it stays where it is') or diag(state_of_things());
value("SELECT orion_sink_pause('rare')");
becomes("state = 'paused' FROM orion.sinks", 'paused');
my $waits = value("SELECT publish('rare.waits')");
value("SELECT orion_sink_alter('rare', 'rare.#'); SELECT orion_sink_resume('rare')");
becomes(seen('rare', $waits), 'what waits for a paused sink goes by the pattern that holds when it goes on');

my $script = $node->basedir . '/write.sql';
PostgreSQL::Test::Utils::append_to_file($script, q{
\set what random(1, 100)
BEGIN;
SELECT orion_publish('noise.made', '{}');
SAVEPOINT a;
\if :what % 3 = 0
SELECT orion_publish('rare.undone', '{}');
ROLLBACK TO a;
\endif
\if :what > 90
SELECT publish('rare.made');
\elif :what > 50
SELECT publish('other.made');
\endif
\if :what % 10 = 0
ROLLBACK;
\else
COMMIT;
\endif
});

# Writers that go on until they are stopped, or the server is.
sub start_writers
{
	return IPC::Run::start([ 'pgbench', '-n', '-c', 6, '-j', 2, '-T', 600, '-f', $script, $node->connstr('postgres') ],
		'>', '/dev/null', '2>', \my $errors);
}

# Everything of a type published since then and until now is seen by a sink, once.
sub all_seen
{
	my ($sink, $type, $since, $what) = @_;
	my $mark = value('SELECT clock_timestamp()');
	becomes("NOT EXISTS (SELECT id FROM published WHERE type LIKE '$type' AND at BETWEEN '$since' AND '$mark' EXCEPT SELECT id FROM seen WHERE sink = '$sink')",
		"$what: all arrive");
	is(value("SELECT count(*) - count(DISTINCT (sink, id)) FROM seen"), 0, "$what: none twice");
}

my $start = value('SELECT clock_timestamp()');
my $writers = start_writers();
becomes("count(*) > 20 FROM published WHERE type = 'rare.made'", 'writers write');
all_seen('rare', 'rare.%', $start, 'while others publish');
for my $round (1 .. 3)
{
	value("SELECT orion_sink_alter('rare', 'other.#')");
	my $since = value('SELECT clock_timestamp()');
	becomes("count(*) > 20 FROM seen WHERE type = 'other.made' AND id IN (SELECT id FROM published WHERE at > '$since')", "round $round: the new pattern holds");
	my $mark = value('SELECT clock_timestamp()');
	becomes("NOT EXISTS (SELECT id FROM published WHERE type = 'other.made' AND at BETWEEN '$since' AND '$mark' EXCEPT SELECT id FROM seen)",
		"round $round: nothing published under it was passed over");
	value("SELECT orion_sink_alter('rare', 'rare.#')");
}
my $since = value("SELECT orion_subscribe('later', 'rare.made', 'see_later(jsonb)'); SELECT clock_timestamp()");
$since =~ s/.*\n//s;
becomes("count(*) > 20 FROM published WHERE type = 'rare.made' AND at > '$since'", 'writers still write');
$writers->signal('TERM');
$writers->finish;
all_seen('later', 'rare.%', $since, 'a sink created while events flow');
all_seen('rare', 'rare.made', $since, 'the other one');
is(value("SELECT count(*) FROM seen WHERE type = 'rare.undone'"), 0, 'nothing that was rolled back');

#---- and a crash of the whole server in the middle

$start = value('SELECT clock_timestamp()');
$writers = start_writers();
$node->poll_query_until('postgres', "SELECT count(*) > 50 FROM published WHERE type = 'rare.made' AND at > '$start'");
$node->stop('immediate');
$writers->finish;
$node->start;
all_seen($_, 'rare.made', $start, "$_: a crash of the server") foreach 'rare', 'later';
is(value("SELECT count(*) FROM seen WHERE id NOT IN (SELECT id FROM published)"), 0, 'nothing that was rolled back');
make_noise(400);
passes('the cursors go on');
is(value("SELECT sum(lag_events) FROM orion.sinks"), 0, 'without lag') or diag(state_of_things());

$open->quit;
$node->stop;
done_testing();
