# SQL handlers: what they may do, what happens when they fail; and the ring of segments.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('handlers');
$node->init;
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'orion'
max_worker_processes = 16
orion.http_port = 0
orion.outbox_max_attempts = 2
orion.outbox_handler_timeout = 1000
orion.outbox_segment_size = 1MB
});
$node->start;

sub value { return $node->safe_psql('postgres', $_[0]); }
sub becomes { ok($node->poll_query_until('postgres', "SELECT $_[0]"), $_[1]); }

value(q{
CREATE EXTENSION orion;
CREATE ROLE chief SUPERUSER;
CREATE ROLE app IN ROLE orion_service;
GRANT ALL ON SCHEMA public TO app;
SET ROLE app;
CREATE TABLE effects (type text, what text);
CREATE TABLE checked (i int);
CREATE FUNCTION check_late() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO public.effects VALUES ('trigger', current_user); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON checked DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION check_late();
CREATE FUNCTION handle(event jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE type text := event ->> 'eventType';
BEGIN
	INSERT INTO effects VALUES (type, current_user || ' ' || current_setting('search_path') || ' ' || current_setting('enable_seqscan'));
	CASE type
		WHEN 'do.deferred' THEN INSERT INTO checked VALUES (1);
		WHEN 'do.reset' THEN RESET ROLE;
		WHEN 'do.role' THEN SET ROLE chief;
		WHEN 'do.session' THEN SET SESSION AUTHORIZATION chief;
		WHEN 'do.temporary' THEN CREATE TEMPORARY TABLE pg_temp.x ();
		WHEN 'do.sleep' THEN PERFORM pg_sleep(100);
		WHEN 'do.setting' THEN PERFORM set_config('search_path', 'nowhere', false);
		WHEN 'do.publish' THEN PERFORM public.orion_publish('do.nested', '{}');
		WHEN 'do.fail' THEN RAISE EXCEPTION 'broken';
		WHEN 'do.recover' THEN
			IF NOT EXISTS (SELECT FROM public.checked WHERE i = 2) THEN RAISE EXCEPTION 'not yet'; END IF;
		ELSE NULL;
	END CASE;
END $$;
SELECT orion_subscribe('app', 'do.*', 'handle(jsonb)');
});
value("SELECT orion_publish('do.' || t, '{}') FROM unnest('{plain,deferred,reset,role,session,temporary,sleep,setting,publish,fail,after}'::text[]) t");
value("SELECT orion_publish('undo.this', '{}')");

becomes("count(*) = 1 FROM effects WHERE type = 'do.after'", 'failing events hold nobody up');
becomes("count(*) = 1 FROM effects WHERE type = 'do.nested'", 'a handler publishes');
is(value("SELECT n.causation_id = p.id::text AND n.correlation_id = p.id::text FROM orion_private.outbox n, orion_private.outbox p
	WHERE n.type = 'do.nested' AND p.type = 'do.publish'"), 't', 'what it publishes says which event caused it');
is(value("SELECT count(*) FROM orion_private.outbox WHERE causation_id IS NOT NULL"), '1', 'and nothing else does');
is(value("SELECT what FROM effects WHERE type = 'do.plain'"), 'app "$user", public on', 'a handler runs as who subscribed, with ordinary settings');
is(value("SELECT what FROM effects WHERE type = 'trigger'"), 'app', 'and so do deferred triggers');
is(value("SELECT what FROM effects WHERE type = 'do.publish'"), 'app "$user", public on', 'what a handler sets is undone');
is(value("SELECT count(*) FROM effects WHERE type IN ('undo.this', 'do.fail', 'do.reset', 'do.role', 'do.temporary', 'do.sleep')"), '0',
	'nothing of other types, or of calls that failed');
becomes("string_agg(event ->> 'eventType', ' ' ORDER BY event ->> 'eventType') = 'do.fail do.reset do.role do.session do.sleep do.temporary' FROM orion.dead_letters",
	'what cannot be done ends as a dead letter');
is(value("SELECT string_agg(DISTINCT attempts::text, ' ') FROM orion.dead_letters"), '2', 'after the attempts');
is(value("SELECT error FROM orion.dead_letters WHERE event ->> 'eventType' = 'do.fail'"), 'P0001: broken', 'with the reason');
like(value("SELECT error FROM orion.dead_letters WHERE event ->> 'eventType' = 'do.sleep'"), qr/statement timeout/, 'a slow handler is stopped');

value('UPDATE orion_private.sinks SET paused = paused');
value("ALTER SYSTEM SET orion.outbox_max_attempts = 50");
$node->reload;
value("SELECT orion_publish('do.recover', '{}')");
becomes("count(*) = 1 FROM orion.parked_events WHERE last_error = 'P0001: not yet'", 'a failed event is parked');
value('INSERT INTO checked VALUES (2)');
becomes("count(*) = 0 FROM orion.parked_events", 'and called again');
is(value("SELECT count(*) FROM effects WHERE type = 'do.recover'"), '1', 'with effect once');

# privileges are looked at again
value('REVOKE EXECUTE ON FUNCTION handle(jsonb) FROM PUBLIC, app; ALTER FUNCTION handle(jsonb) OWNER TO chief');
becomes("state = 'degraded' AND last_error LIKE '%may not execute%' FROM orion.sinks", 'a handler that its role may not execute is not called');
value("SELECT orion_publish('do.later', '{}')");
value('GRANT EXECUTE ON FUNCTION handle(jsonb) TO app');
becomes("count(*) = 1 FROM effects WHERE type = 'do.later'", 'and its events wait');

# the ring: rotated by size, truncated when every cursor has passed and the time is over
sub fill { value("SELECT count(orion_publish('do.fill', to_jsonb(repeat(md5(i::text), 30)))) FROM generate_series(1, 1500) i"); }
sub segments { return value("SELECT string_agg(segment::text, ' ' ORDER BY segment) FROM orion_private.outbox_state WHERE opened_at IS NOT NULL"); }
fill();
becomes('count(*) = 1 FROM orion_private.outbox_state WHERE segment = 1 AND sealed_xid IS NOT NULL', 'a full segment is left and sealed');
value("SELECT orion_publish('do.next', '{}')");
is(value("SELECT segment FROM orion_private.outbox WHERE type = 'do.next'"), '2', 'new events go to the next one');
becomes("count(*) = 1 FROM effects WHERE type = 'do.next'", 'and are read there');
is(segments(), '1 2', 'within the retention a segment stays');
value("SELECT orion_sink_pause('app')");
value("SELECT orion_publish('do.wait', '{}')");
fill();
becomes('count(*) = 1 FROM orion_private.outbox_state WHERE segment = 2 AND sealed_xid IS NOT NULL', 'the second is left');
value("UPDATE orion_private.outbox_state SET closed_at = closed_at - interval '2 days' WHERE sealed_xid IS NOT NULL");
becomes('count(*) = 1 FROM orion_private.outbox_state WHERE segment = 1 AND opened_at IS NULL', 'an old one that every sink has passed is truncated');
is(value('SELECT count(*) FROM orion_private.outbox_1'), '0', 'and empty');
is(segments(), '2 3', 'one that a paused sink has not passed is kept');
value("SELECT orion_sink_resume('app')");
becomes("count(*) = 1 FROM effects WHERE type = 'do.wait'", 'its events are delivered');
becomes('count(*) = 1 FROM orion_private.outbox_state WHERE segment = 2 AND opened_at IS NULL', 'and then it is truncated as well');

# A handler that ends its own subscription, in the middle of several events, and one
# whose error is long.
value(q{SET ROLE app;
CREATE FUNCTION once(event jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM orion_unsubscribe('once'); INSERT INTO effects VALUES ('once', ''); END $$;
CREATE FUNCTION talks(event jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '%', repeat('x', 1000000); END $$;
SELECT orion_subscribe('once', 'last.#', 'once(jsonb)'), orion_subscribe('talks', 'last.#', 'talks(jsonb)');
SELECT orion_publish('last.one', '{}'), orion_publish('last.two', '{}')});
becomes(q{count(*) = 1 FROM effects WHERE type = 'once'}, 'a handler may end its own subscription');
becomes(q{NOT EXISTS (SELECT FROM orion.workers WHERE name = 'once')}, '... and its relay ends');
becomes(q{max(length(last_error)) < 2000 AND count(*) = 2 FROM orion.parked_events WHERE sink = 'talks'}, 'a long error is cut');

# A handler that catches being cancelled does not keep its relay, and locks, for ever.
value(q{SET ROLE app;
CREATE FUNCTION stays(event jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN LOOP BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$;
SELECT orion_subscribe('stays', 'stay.#', 'stays(jsonb)');
SELECT orion_publish('stay.here', '{}')});
becomes(q{restarts > 0 FROM orion.workers WHERE name = 'stays'}, 'a handler that does not stop is stopped');

$node->stop;
done_testing();
