# A subscription is changed while events flow: another number of workers, another function,
# pattern, limits. Each event has effect once, and those of a key in their order.
use strict;
use warnings;
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('alter');
$node->init;
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'orion'
max_worker_processes = 24
orion.http_port = 0
orion.outbox_max_attempts = 20
orion.outbox_handler_timeout = '10min'
log_statement = none
});
$node->start;

sub value { return $node->safe_psql('postgres', $_[0]); }

sub becomes
{
	my ($condition, $name) = @_;
	ok($node->poll_query_until('postgres', "SELECT $condition"), $name) or diag(join "\n", map { value("SELECT * FROM $_") }
		'orion.sinks', "orion.workers WHERE kind = 'relay'", 'orion_private.cursors', '(SELECT part, count(*) FROM orion_private.parked GROUP BY 1) x');
}

value(q{
CREATE EXTENSION orion;
CREATE ROLE app IN ROLE orion_service;
CREATE ROLE neighbour IN ROLE orion_service;
CREATE ROLE boss IN ROLE orion_admin;
GRANT ALL ON SCHEMA public TO app, boss;
CREATE TABLE counters (key text PRIMARY KEY, n int NOT NULL);
INSERT INTO counters SELECT 'k' || i, 0 FROM generate_series(1, 40) i;
CREATE TABLE go AS SELECT 1 AS i;
-- what each writer does: one event a transaction, numbered by key, some rolled back
CREATE PROCEDURE write(events int) LANGUAGE plpgsql AS $$
DECLARE
	at record;
	chosen text;
BEGIN
	FOR i IN 1 .. events LOOP
		EXIT WHEN NOT EXISTS (SELECT FROM go);
		chosen := 'k' || 1 + floor(random() * 40)::int;
		UPDATE counters SET n = n + 1 WHERE key = chosen RETURNING * INTO at;
		PERFORM orion_publish('step.made', to_jsonb(at), 'walk', at.key);
		IF random() < 0.05 THEN ROLLBACK; ELSE COMMIT; END IF;
		PERFORM pg_sleep(0.002);
	END LOOP;
END $$;
SET ROLE app;
CREATE TABLE effects (id uuid, who text, event jsonb);
CREATE TABLE seen (key text PRIMARY KEY, n int NOT NULL);
CREATE TABLE wrong (key text, n int, seen int);
CREATE FUNCTION follow(event jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	this record;
	last int;
BEGIN
	SELECT * INTO this FROM jsonb_to_record(event -> 'payload') AS x (key text, n int);
	INSERT INTO effects VALUES ((event ->> 'eventId')::uuid, current_user, event);
	INSERT INTO seen VALUES (this.key, 0) ON CONFLICT DO NOTHING;
	SELECT s.n INTO last FROM seen s WHERE s.key = this.key FOR UPDATE;
	IF this.n <> last + 1 THEN INSERT INTO wrong VALUES (this.key, this.n, last); END IF;
	UPDATE seen s SET n = this.n WHERE s.key = this.key;
	IF random() < 0.002 THEN RAISE EXCEPTION 'bad luck'; END IF;
END $$;
SELECT orion_subscribe('walk', 'step.#', 'follow(jsonb)', batch => 20);
});

# ---- another number of workers ----

my @writers;
sub write_events
{
	my ($events) = @_;
	push @writers, IPC::Run::start([ 'psql', '-X', '-q', '-d', $node->connstr('postgres'), '-c', "CALL write($events)" ]) foreach 1 .. 4;
}

sub all_done
{
	is(scalar(grep { !$_->finish } @writers), 0, 'the writers are done');
	@writers = ();
}

sub handled_all
{
	my ($name) = @_;
	my $published = value("SELECT count(*) FROM orion_private.outbox WHERE type = 'step.made'");
	becomes("count(*) >= $published FROM effects", "$name: all have effect");
	is(value('SELECT count(*) || \' \' || count(DISTINCT id) FROM effects'), "$published $published", "$name: once");
	is(value('SELECT count(*) FROM wrong'), '0', "$name: those of a key in their order");
	is(value('SELECT count(*) FROM counters c LEFT JOIN seen s USING (key) WHERE c.n > 0 AND c.n IS DISTINCT FROM s.n'), '0', "$name: to the end");
}

write_events(1_000_000);
foreach my $workers (4, 3, 8, 1, 2)
{
	my $count = value('SELECT count(*) FROM effects');
	becomes("count(*) > $count + 300 FROM effects", 'events flow');
	value("SELECT orion_subscribe_alter('walk', workers => $workers)");
	value("SELECT pg_terminate_backend(pid) FROM orion.workers WHERE kind = 'relay' AND pid IS NOT NULL") if $workers == 3;
	becomes("count(*) = $workers AND bool_and(state = 'running' AND pid IS NOT NULL) FROM orion.workers WHERE kind = 'relay' AND name ~ '^walk(/|\$)'", "$workers workers");
}
value('DELETE FROM go');
all_done();
handled_all('under load');
value('INSERT INTO go VALUES (1)');
is(value("SELECT delivered = (SELECT count(*) FROM effects) FROM orion.sinks"), 't', 'the count of delivered events goes on');

# with a backlog, and workers that are not equally far
my ($lock, $unlock) = ('', '');
my $blocker = IPC::Run::start([ 'psql', '-X', '-q', '-A', '-t', '-d', $node->connstr('postgres') ], '<', \$lock, '>', \$unlock);
$lock = "BEGIN; SELECT n FROM public.seen WHERE key = 'k1' FOR UPDATE;\n\\echo held\n";
$blocker->pump until $unlock =~ /held/;
write_events(400);
all_done();
becomes("count(*) >= 1 FROM pg_stat_activity WHERE backend_type = 'orion relay' AND wait_event_type = 'Lock'", 'one worker is held up');
becomes("(SELECT max(n) FROM seen) > (SELECT n FROM seen WHERE key = 'k1')", 'the other is ahead');
my $altered = IPC::Run::start([ 'psql', '-X', '-q', '-d', $node->connstr('postgres'), '-c', "SELECT orion_subscribe_alter('walk', workers => 5)" ]);
becomes("count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%orion_subscribe_alter%' AND wait_event_type = 'Lock'", 'the change waits for the batch under way');
$lock = "ROLLBACK;\n\\q\n";
$blocker->finish;
ok($altered->finish, 'and is made when that is over');
handled_all('with a backlog');

value("SELECT orion_sink_pause('walk')");
write_events(200);
all_done();
value("SELECT orion_subscribe_alter('walk', workers => 2)");
value("SELECT orion_sink_resume('walk')");
handled_all('while paused');

# ---- parked events and dead letters ----

value(q{SET ROLE app;
CREATE TABLE mended ();
CREATE FUNCTION picky(event jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF event -> 'payload' ->> 'n' IN ('1', '3') AND NOT EXISTS (SELECT FROM mended) THEN RAISE EXCEPTION 'not mended'; END IF;
	INSERT INTO effects VALUES ((event ->> 'eventId')::uuid, current_user, event);
END $$;
ALTER TABLE mended ADD COLUMN i int;
SELECT orion_subscribe('picky', 'pick.#', 'picky(jsonb)', workers => 3, max_attempts => 1);
});
sub pick { value("SELECT orion_publish('pick.one', jsonb_build_object('key', k, 'n', n), 'pick', k) FROM generate_series($_[0], $_[1]) n, unnest('{a,b,c,d,e,f}'::text[]) k"); }
pick(1, 2);
becomes("count(*) = 6 FROM orion.dead_letters WHERE sink = 'picky'", 'dead letters');
value("SELECT orion_subscribe_alter('picky', max_attempts => 100)");
pick(3, 4);
becomes("count(*) = 12 FROM orion.parked_events WHERE sink = 'picky'", 'parked events');
value("SELECT orion_subscribe_alter('picky', workers => 2)");
is(value("SELECT count(*) || ' ' || max(part) FROM orion_private.parked"), '12 1', 'stay, with their workers of now');
value('INSERT INTO mended VALUES (1)');
becomes("count(*) = 0 FROM orion.parked_events", 'the parked ones are called again');
is(value("SELECT orion_redrive('picky')"), '6', 'dead ones, too');
becomes("count(*) = 24 FROM effects WHERE event ->> 'eventType' = 'pick.one'", 'all have effect');
is(value("SELECT count(*) FROM (SELECT event -> 'payload' ->> 'key', string_agg(event -> 'payload' ->> 'n', '' ORDER BY ctid) AS ns FROM effects
	WHERE event ->> 'eventType' = 'pick.one' AND event -> 'payload' ->> 'n' IN ('3', '4') GROUP BY 1) x WHERE ns <> '34'"), '0', 'in the order of their keys');

# ---- function, pattern, batch, timeout; and who may ----

my ($status, $out, $error) = $node->psql('postgres', "SET ROLE neighbour; SELECT orion_subscribe_alter('picky', pattern => '#')");
like($error, qr/there is no subscription named "picky" of yours/, 'not for strangers');
value(q{SET ROLE app;
CREATE FUNCTION other(event jsonb) RETURNS void LANGUAGE sql AS
	$$ INSERT INTO effects VALUES ((event ->> 'eventId')::uuid, 'other ' || current_user, event); SELECT pg_sleep((event -> 'payload' ->> 'sleep')::float) $$;
GRANT INSERT ON effects TO boss;
SELECT orion_subscribe_alter('picky', pattern => 'chosen.*', handler => 'other(jsonb)', batch => 1, timeout => '200 ms')});
value("SELECT orion_publish('pick.no', '{}'), orion_publish('chosen.one', '{}')");
becomes("count(*) = 1 FROM effects WHERE event ->> 'eventType' = 'chosen.one' AND who = 'other app'", 'another function for another pattern');
is(value("SELECT count(*) FROM effects WHERE event ->> 'eventType' = 'pick.no'"), '0', 'and no more for the old one');
is(value("SELECT handler || ' ' || handler_role || ' ' || batch || ' ' || max_attempts || ' ' || timeout_ms || ' ' || workers FROM orion_private.sinks WHERE name = 'picky'"),
	'public.other(pg_catalog.jsonb) app 1 100 200 2', 'what was not given stays');
value("SELECT orion_publish('chosen.slow', '{\"sleep\": 60}')");
becomes("count(*) = 1 FROM orion.parked_events WHERE last_error LIKE '%statement timeout%'", 'the new timeout holds');
value("SET ROLE boss; SELECT orion_subscribe_alter('picky', batch => 10)");
value("SELECT orion_publish('chosen.two', '{}')");
becomes("count(*) = 1 FROM effects WHERE event ->> 'eventType' = 'chosen.two' AND who = 'other app'", 'an administrator changes numbers, not whom it runs as');
value("SET ROLE boss; SELECT orion_subscribe_alter('picky', handler => 'other(jsonb)')");
value("SELECT orion_publish('chosen.three', '{}')");
becomes("count(*) = 1 FROM effects WHERE event ->> 'eventType' = 'chosen.three' AND who = 'other boss'", 'a function that an administrator gives runs as the administrator');
like(value("SELECT string_agg(new::text, ' ' ORDER BY id) FROM orion_private.audit_log WHERE action = 'sink.alter' AND target_id = 'picky'"), qr/"workers": 2.*"batch": 10.*"role": "boss"/, 'all of it is on record');
unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/TRAP:|panic/i, 'nothing crashed');

$node->stop;
done_testing();
