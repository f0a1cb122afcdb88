-- The outbox: publishing, its errors, subscriptions, sinks and who may use them.
\pset null '(null)'
\set SHOW_CONTEXT never
SET client_min_messages = warning;

-- publish
SELECT orion_publish('user.created', '{"email": "a@b.c"}', 'user', '42', 'corr', 'cause', '{"ip": "::1"}', 2) AS id \gset
SELECT segment, seq > 0 AS seq, xid <= pg_snapshot_xmax(pg_current_snapshot()) AS xid, id = :'id' AS id, aggregatetype, aggregateid, type, payload,
	version, correlation_id, causation_id, metadata, occurred_at <= clock_timestamp() AS occurred_at
	FROM orion_private.outbox WHERE id = :'id';
SELECT substr(:'id', 15, 1) AS version, substr(:'id', 20, 1) IN ('8', '9', 'a', 'b') AS variant;
SELECT count(DISTINCT orion_publish('user.same', '{}')) FROM generate_series(1, 1000);

-- publish many
SELECT array_length(orion_publish_batch('[{"type": "batch.one", "payload": {"n": 1}}, {"type": "batch.two", "payload": null, "aggregatetype": "a",
	"aggregateid": "7", "correlation_id": "c", "causation_id": "d", "metadata": {"m": [1, 2]}, "version": 3}]'), 1);
SELECT type, payload, aggregatetype, aggregateid, correlation_id, causation_id, metadata, version FROM orion_private.outbox WHERE type LIKE 'batch.%' ORDER BY seq;
SELECT orion_publish_batch('[]');
SELECT orion_publish_batch(NULL);
-- more than a page and more than a group of rows: ids in order, rows reachable by both indexes, big ones among them
WITH published AS MATERIALIZED (SELECT orion_publish_batch((SELECT jsonb_agg(jsonb_build_object('type', 'batch.many', 'payload',
		CASE WHEN i % 100 = 0 THEN (SELECT to_jsonb(string_agg(md5(j::text), '')) FROM generate_series(1, 1000) j) ELSE to_jsonb(i) END) ORDER BY i)
	FROM generate_series(1, 1000) i)) AS ids)
	SELECT array_length(ids, 1) AS length, (SELECT count(DISTINCT u) FROM unnest(ids) u) AS different FROM published;
SELECT count(*), count(*) FILTER (WHERE payload::text::int IS DISTINCT FROM n) AS out_of_order
	FROM (SELECT payload, row_number() OVER (ORDER BY seq) AS n FROM orion_private.outbox WHERE type = 'batch.many') o WHERE n % 100 <> 0;
SELECT count(*) FROM orion_private.outbox WHERE type = 'batch.many' AND length(payload #>> '{}') = 32000;
BEGIN;
SET LOCAL enable_seqscan = off;
SELECT o.type, count(*) FROM orion_private.outbox o
	WHERE o.xid = (SELECT max(xid) FROM orion_private.outbox) GROUP BY 1;
ROLLBACK;
SELECT orion_publish_batch('[{"type": "batch.x", "payload": 1}, {"type": "batch.y", "payload": 2}, {"type": "batch.z", "payload": 3}]') AS ids \gset
SELECT o.type, o.payload FROM unnest(:'ids'::uuid[]) WITH ORDINALITY AS u (id, n) JOIN orion_private.outbox o USING (id) ORDER BY n;
-- all or none
SELECT orion_publish_batch('[{"type": "batch.bad", "payload": 1}, {"type": "batch..bad", "payload": 1}]');
SELECT orion_publish_batch('[{"type": "batch.bad", "payload": 1}, {"type": "batch.bad"}]');
SELECT orion_publish_batch('[{"type": "batch.bad", "payload": 1}, 7]');
SELECT orion_publish_batch('[{"type": "batch.bad", "payload": 1}, [1]]');
SELECT orion_publish_batch('[{"type": "batch.bad", "payload": 1, "agregateid": "1"}]');
SELECT orion_publish_batch('[{"type": "batch.bad", "payload": 1, "aggregateid": 1}]');
SELECT orion_publish_batch('[{"type": "batch.bad", "payload": 1, "version": 1.5}]');
SELECT orion_publish_batch('[{"type": "batch.bad", "payload": 1, "version": "1"}]');
SELECT orion_publish_batch('[{"type": "batch.bad", "payload": 1, "version": null}]');
SELECT orion_publish_batch('[{"type": "batch.bad", "payload": 1, "version": 3000000000}]');
SELECT orion_publish_batch('{"type": "batch.bad", "payload": 1}');
SELECT orion_publish_batch('7');
BEGIN READ ONLY;
SELECT orion_publish_batch('[{"type": "batch.bad", "payload": 1}]');
ROLLBACK;
SELECT count(*) FROM orion_private.outbox WHERE type = 'batch.bad';

-- what the transaction belongs to, unless the publisher says otherwise
BEGIN;
SET LOCAL orion.outbox_correlation_id = 'request-1';
SET LOCAL orion.outbox_causation_id = 'command-1';
SELECT orion_publish('origin.of', '1') IS NOT NULL AND orion_publish('origin.of', '2', correlation_id => 'own') IS NOT NULL
	AND array_length(orion_publish_batch('[{"type": "origin.of", "payload": 3}, {"type": "origin.of", "payload": 4, "causation_id": "own"}]'), 1) = 2 AS published;
COMMIT;
SELECT payload, correlation_id, causation_id FROM orion_private.outbox WHERE type = 'origin.of' ORDER BY seq;
SELECT set_config('orion.outbox_correlation_id', repeat('x', 256), false);

-- rows go the way of their transaction and subtransaction
BEGIN;
SELECT orion_publish('tx.kept', '{}') IS NOT NULL AS published;
SAVEPOINT s;
SELECT orion_publish('tx.undone', '{}') IS NOT NULL AS published;
SELECT count(*) FROM orion_private.outbox WHERE type LIKE 'tx.%';
ROLLBACK TO s;
COMMIT;
SELECT type FROM orion_private.outbox WHERE type LIKE 'tx.%';

-- large values are stored like any others
SELECT orion_publish('big.one', jsonb_build_object('t', (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 20000) i))) IS NOT NULL AS published;
SELECT length(payload ->> 't') FROM orion_private.outbox WHERE type = 'big.one';

-- errors
SELECT orion_publish('', '{}');
SELECT orion_publish('user..created', '{}');
SELECT orion_publish('user.*', '{}');
SELECT orion_publish('user created', '{}');
SELECT orion_publish(repeat('a', 256), '{}');
SELECT orion_publish(NULL, '{}');
SELECT orion_publish('user.created', NULL);
SELECT orion_publish('user.created', '{}', version => 0);
SELECT orion_publish('user.created', '{}', aggregateid => repeat('x', 256));
SET orion.outbox_max_payload = '1kB';
SELECT orion_publish('user.created', to_jsonb(repeat('x', 1100)));
SELECT orion_publish('user.created', to_jsonb(repeat('x', 600)), metadata => to_jsonb(repeat('x', 600)));
RESET orion.outbox_max_payload;
BEGIN READ ONLY;
SELECT orion_publish('user.created', '{}');
ROLLBACK;

-- who may publish
CREATE ROLE regress_outbox_nobody;
CREATE ROLE regress_outbox_app IN ROLE orion_service;
SET ROLE regress_outbox_nobody;
SELECT orion_publish('user.created', '{}');
SELECT orion_publish_batch('[]');
SELECT * FROM orion_private.outbox;
SELECT * FROM orion.sinks;
SELECT orion_subscribe('x', '#', 'now()');
SELECT orion_sink_create('x', 'redis', '{"url": "redis://localhost"}');
SET orion.outbox_max_payload = 1;
SET ROLE regress_outbox_app;
SELECT orion_publish('app.created', '{}') IS NOT NULL AS published;
SELECT orion_sink_create('x', 'redis', '{"url": "redis://localhost"}');
SELECT * FROM orion_private.outbox;
RESET ROLE;

-- sinks
SELECT orion_sink_create('x', 'carrier pigeon', '{"url": "x"}');
SELECT orion_sink_create('x', 'redis', '{}');
SELECT orion_sink_create('x', 'redis', NULL);
SELECT orion_sink_create('bad name', 'redis', '{"url": "redis://localhost"}');
SELECT orion_sink_create('x', 'redis', '{"url": "redis://localhost"}', 'user.c*');
BEGIN;	-- not committed: no relay is started for it
SELECT orion_sink_create('x', 'redis', '{"url": "redis://u:secret-word@localhost"}', 'user.*') > 0 AS created;
SELECT orion_sink_pause('x');
SET LOCAL ROLE orion_admin;
SELECT name, kind, pattern, paused, window_no, delivered FROM orion.sinks;
SELECT config FROM orion_private.sinks;
ROLLBACK;
SELECT position('secret-word'::bytea IN orion_private.sink_seal('{"url": "redis://u:secret-word@localhost"}', 'x')) AS found;
-- altering: what is not given stays, and the position too
BEGIN;
SELECT orion_sink_create('x', 'redis', '{"url": "redis://u:secret-word@localhost"}', 'user.*') > 0 AS created;
SELECT config AS config, (SELECT seq FROM orion_private.cursors) AS seq FROM orion_private.sinks \gset
SELECT orion_sink_alter('x', pattern => 'order.#');
SELECT pattern, config = :'config' AS same_config FROM orion_private.sinks;
SELECT orion_sink_alter('x', config => '{"url": "redis://u:other-word@localhost"}');
SELECT pattern, config = :'config' AS same_config, (SELECT seq FROM orion_private.cursors) = :seq AS same_position,
	position('other-word'::bytea IN config) AS found FROM orion_private.sinks;
SELECT action, target_id, old, new FROM orion_private.audit_log WHERE action LIKE 'sink.%' ORDER BY id;
SAVEPOINT s;
SELECT orion_sink_alter('x', pattern => 'a..b');
ROLLBACK TO s;
SELECT orion_sink_alter('x', config => '{"url": 1}');
ROLLBACK;
SELECT orion_sink_alter('nix', 'a.b');
SELECT orion_sink_pause('nix');
SELECT orion_sink_resume('nix');
SELECT orion_sink_drop('nix');

-- subscriptions
CREATE FUNCTION public.regress_handler(event jsonb) RETURNS void LANGUAGE sql AS 'SELECT';
CREATE FUNCTION public.regress_not_a_handler(event text) RETURNS void LANGUAGE sql AS 'SELECT';
CREATE FUNCTION public.regress_set_handler(event jsonb) RETURNS SETOF int LANGUAGE sql AS 'SELECT 1';
REVOKE ALL ON FUNCTION public.regress_handler(jsonb) FROM PUBLIC;
SELECT orion_subscribe('h', '#', NULL);
SELECT orion_subscribe('h', '#', 'regress_not_a_handler(text)');
SELECT orion_subscribe('h', '#', 'regress_set_handler(jsonb)');
SELECT orion_subscribe('h', 'a..b', 'regress_handler(jsonb)');
SELECT orion_subscribe(NULL, '#', 'regress_handler(jsonb)');
SET ROLE regress_outbox_app;
SELECT orion_subscribe('h', '#', 'public.regress_handler(jsonb)');
RESET ROLE;
GRANT EXECUTE ON FUNCTION public.regress_handler(jsonb) TO regress_outbox_app;
BEGIN;
SET LOCAL ROLE regress_outbox_app;
SELECT orion_subscribe('h', 'user.#', 'public.regress_handler(jsonb)') > 0 AS subscribed;
SAVEPOINT s;
SELECT orion_subscribe('h', 'user.#', 'public.regress_handler(jsonb)');
ROLLBACK TO s;
RESET ROLE;
SELECT name, kind, pattern, handler, handler_role FROM orion.sinks;
SELECT upto_snapshot, window_no FROM orion_private.cursors;
SET LOCAL ROLE orion_service;
SELECT orion_unsubscribe('h');
ROLLBACK;
-- a superuser's handler must not be somebody else's
ALTER FUNCTION public.regress_handler(jsonb) OWNER TO regress_outbox_app;
SELECT orion_subscribe('h', '#', 'regress_handler(jsonb)');
SELECT orion_unsubscribe('nix');

-- a cursor starts at the present: an own transaction's events are behind it
BEGIN;
SELECT orion_publish('now.before', '{}') IS NOT NULL AS published;
SELECT pg_visible_in_snapshot(pg_current_xact_id(), orion_private.outbox_now()) AS counts_as_past;
ROLLBACK;

-- a restored dump: the cursors keep what they had, in this cluster's numbers
BEGIN;
TRUNCATE orion_private.outbox;
INSERT INTO orion_private.outbox (segment, seq, xid, id, type, payload, version, occurred_at)
	SELECT 3, s, x::xid8, gen_random_uuid(), 'old.one', '{}', 1, now()
	FROM (VALUES (1, '9000000'), (2, '9000005'), (3, '9000010'), (4, '9000020')) AS v (s, x);
INSERT INTO orion_private.sinks (name, kind, pattern, handler, handler_role)
	SELECT n, 'sql', '#', 'public.regress_handler(jsonb)', 'regress_outbox_app' FROM unnest(ARRAY['between', 'within', 'new']) n;
INSERT INTO orion_private.cursors (sink_id, from_snapshot, upto_snapshot, seq)
	SELECT s.id, v.f::pg_snapshot, v.u::pg_snapshot, v.q FROM (VALUES
		('between', '9000005:9000011:9000005', NULL, 3),			-- waits for 2 and 4
		('within', '9000001:9000001:', '9000021:9000021:', 3),	-- has 1 to 3
		('new', '9000030:9000030:', NULL, 0)) AS v (n, f, u, q)	-- waits for nothing
	JOIN orion_private.sinks s ON s.name = v.n;
INSERT INTO orion_private.system_origin VALUES (1);
SELECT orion_private.outbox_adopt((SELECT system_identifier FROM pg_control_system()));
SELECT s.name, o.seq AS waits_for FROM orion_private.sinks s JOIN orion_private.cursors c ON c.sink_id = s.id
	JOIN orion_private.outbox o ON NOT pg_visible_in_snapshot(o.xid, c.from_snapshot)
		AND pg_visible_in_snapshot(o.xid, pg_current_snapshot())
		AND (o.xid >= pg_snapshot_xmax(c.from_snapshot) OR o.xid IN (SELECT pg_snapshot_xip(c.from_snapshot)))
	ORDER BY 1, 2;
SELECT count(*) FILTER (WHERE xid >= pg_snapshot_xmax(pg_current_snapshot())) AS from_the_future FROM orion_private.outbox;
SELECT opened_at IS NOT NULL AS opened, sealed_xid IS NOT NULL AS sealed FROM orion_private.outbox_state WHERE segment = 3;
SELECT orion_private.outbox_adopt((SELECT system_identifier FROM pg_control_system())) AS again;
ROLLBACK;

DROP FUNCTION public.regress_handler(jsonb), public.regress_not_a_handler(text), public.regress_set_handler(jsonb);
DROP ROLE regress_outbox_nobody, regress_outbox_app;
