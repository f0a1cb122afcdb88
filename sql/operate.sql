-- Operating the outbox: who may, errors, dead letters back to their sink, skipping.
\pset null '(null)'
\set SHOW_CONTEXT never
SET client_min_messages = warning;

CREATE ROLE regress_operate_admin IN ROLE orion_admin;
CREATE ROLE regress_operate_app IN ROLE orion_service;
CREATE FUNCTION public.regress_operate(event jsonb) RETURNS void LANGUAGE sql AS 'SELECT';

-- who may
SET ROLE regress_operate_app;
SELECT orion_skip('x');
SELECT orion_redrive(1);
SELECT orion_redrive('x');
SELECT orion_replay('x', now());
SELECT * FROM orion.outbox;
RESET ROLE;

-- errors
SELECT orion_skip('nix');
SELECT orion_redrive(0);
SELECT orion_redrive('nix');
SELECT orion_replay('nix', now());
SELECT orion_subscribe('h', '#', 'regress_operate(jsonb)', workers => 17);
SELECT orion_subscribe('h', '#', 'regress_operate(jsonb)', batch => 0);
SELECT orion_subscribe('h', '#', 'regress_operate(jsonb)', max_attempts => 0);
SELECT orion_subscribe('h', '#', 'regress_operate(jsonb)', timeout => '-1 s');

-- No worker runs in this database: these are the effects on the tables.
BEGIN;
SELECT orion_subscribe('h', 'order.#', 'regress_operate(jsonb)', workers => 3, batch => 10, max_attempts => 2, timeout => '1500 ms') > 0 AS subscribed;
SELECT workers, batch, max_attempts, timeout_ms FROM orion_private.sinks;
SELECT part, passed_seq = (SELECT last_value FROM orion_private.outbox_seq) AS at_the_end FROM orion_private.cursors ORDER BY part;
SELECT orion_private.sink_part('user/' || i, 3) AS part, count(*) > 50 AS many FROM generate_series(1, 300) i GROUP BY 1 ORDER BY 1;
SAVEPOINT s;
SELECT orion_skip('h', 'nonsense');
ROLLBACK TO s;
SELECT orion_skip('h', '1:1');
ROLLBACK TO s;
SELECT orion_skip('h');
ROLLBACK TO s;
SELECT orion_redrive('h', 'a..b');
ROLLBACK TO s;
SELECT orion_replay('h', now(), now());
ROLLBACK TO s;
SELECT orion_subscribe_alter('h', workers => 0);
ROLLBACK TO s;
SELECT orion_subscribe_alter('h', batch => 1001);
ROLLBACK TO s;
SELECT orion_subscribe_alter('h', pattern => 'a..b');
ROLLBACK TO s;
SELECT orion_subscribe_alter('h', handler => 'lower(text)');
ROLLBACK TO s;
SELECT orion_subscribe_alter(NULL);
ROLLBACK TO s;
SET LOCAL ROLE regress_operate_app;
SELECT orion_subscribe_alter('h', batch => 5);
ROLLBACK TO s;
INSERT INTO orion_private.replays (sink_id, part, pattern, from_time, to_time, from_seq, next_seq, to_seq, upto_snapshot)
	SELECT s.id, 0, '#', now(), now(), 1, 1, 2, pg_current_snapshot() FROM orion_private.sinks s;
SELECT orion_subscribe_alter('h', workers => 2);
ROLLBACK TO s;
SELECT orion_subscribe_alter('h', 'order.*', workers => 2, batch => 20, timeout => '2 s');
SELECT pattern, handler, workers, batch, max_attempts, timeout_ms FROM orion_private.sinks;
SELECT part, epoch FROM orion_private.cursors ORDER BY part;
SELECT old - 'role' AS old, new - 'role' AS new FROM orion_private.audit_log WHERE action = 'sink.alter';
ROLLBACK TO s;
UPDATE orion_private.outbox_retained SET since = '2020-01-01 00:00+00';
SELECT orion_replay('h', '2001-01-01', pattern => 'order.#');
ROLLBACK TO s;

-- the first of a key is due, the others wait; skipping it lets the next one go
INSERT INTO orion_private.parked (sink_id, part, window_no, seq, key, event, attempts, next_try_at, last_error)
	SELECT s.id, 1, 7, v.seq, v.key, jsonb_build_object('eventId', lpad(v.seq::text, 32, '0')::uuid, 'eventType', 'order.' || v.seq),
		v.attempts, CASE WHEN v.attempts > 0 THEN now() + interval '1 minute' END, CASE WHEN v.attempts > 0 THEN 'P0001: broken' END
	FROM orion_private.sinks s, (VALUES (11, 'order/1', 3), (12, 'order/1', 0), (13, 'order/2', 1), (14, 'order/1', 0)) AS v (seq, key, attempts);
SELECT orion_skip('h');
SELECT seq, key, attempts, next_try_at <= now() AS due FROM orion_private.parked ORDER BY seq;
SELECT position, key, event ->> 'eventType' AS type, attempts, error FROM orion_private.dead_letters;
SELECT orion_redrive('h', 'order.nothing'), orion_redrive('h', 'order.*');
SELECT seq, key, attempts, next_try_at <= now() AS due FROM orion_private.parked ORDER BY seq;
SELECT count(*) FROM orion.dead_letters;

-- everything until now
SELECT count(orion_publish('order.new', '{}')) FROM generate_series(1, 5);
SELECT orion_skip('h', 'now');
SELECT DISTINCT epoch, upto_snapshot::text, passed_seq = (SELECT last_value FROM orion_private.outbox_seq) AS at_the_end FROM orion_private.cursors;
SELECT action, target_id, metadata - 'role' AS metadata, metadata ? 'role' AS role FROM orion_private.audit_log WHERE action LIKE 'sink.%' ORDER BY id;
SET LOCAL ROLE orion_admin;
SELECT name, workers, state, delivered, lag_events, rate, attempts, parked, dead_letters FROM orion.sinks;
SELECT segment, state, held_by, retained_since, bytes > 0 AS has_size FROM orion.outbox;
SELECT * FROM orion.replays;
SET LOCAL ROLE pg_monitor;
SELECT name, parked FROM orion.sinks;
SAVEPOINT m;
SELECT event FROM orion.parked_events;
ROLLBACK TO m;
SELECT orion_skip('h', 'now');
ROLLBACK;

-- dead letters of a sink with a courier wait in a table of their own, the oldest first
BEGIN;
SELECT orion_sink_create('r', 'redis', '{"url": "redis://localhost"}') > 0 AS created;
INSERT INTO orion_private.dead_letters (sink_id, position, event, attempts, error)
	SELECT s.id, '1:' || i, jsonb_build_object('eventType', 'order.' || i), 1, 'refused' FROM orion_private.sinks s, generate_series(1, 4) i;
SELECT orion_redrive(min(id)) FROM orion_private.dead_letters;
SELECT orion_redrive('r', max => 2);
SELECT event, window_no FROM orion_private.redrives ORDER BY seq;
SELECT event FROM orion_private.dead_letters;
SELECT orion_skip('r', 'now');
SELECT count(*) FROM orion_private.redrives;
SELECT event, error FROM orion_private.dead_letters ORDER BY id;
ROLLBACK;

DROP FUNCTION public.regress_operate(jsonb);
DROP ROLE regress_operate_admin, regress_operate_app;
