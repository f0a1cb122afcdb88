-- Inbound: consumers, what their messages look like, who may make them.  Queues are tested in test/t/048.
\pset null '(null)'
\set SHOW_CONTEXT never
SET client_min_messages = warning;

CREATE FUNCTION regress_inbound(message jsonb) RETURNS void LANGUAGE sql AS '';
SELECT orion_consume('in', '{"url": "amqp://u:hush@localhost/", "queue": "q"}', 'regress_inbound(jsonb)', 3, '2 s') AS id \gset
SELECT name, queue, handler, handler_role = current_user::regrole AS mine, state, received, duplicates, dead, waiting, last_error FROM orion.consumers;
SELECT no_message_id, max_body, max_attempts, timeout_ms, position('hush'::bytea IN config) AS readable FROM orion_private.consumers;

-- what is wrong
SELECT orion_consume('in', '{"url": "amqp://localhost", "queue": "q"}', 'regress_inbound(jsonb)');
SELECT orion_consume('no/name', '{"url": "amqp://localhost", "queue": "q"}', 'regress_inbound(jsonb)');
SELECT orion_consume(NULL, '{"url": "amqp://localhost", "queue": "q"}', 'regress_inbound(jsonb)');
SELECT orion_consume('x', NULL, 'regress_inbound(jsonb)');
SELECT orion_consume('x', '{"url": "amqp://localhost", "queue": "q"}', NULL);
SELECT orion_consume('x', '{"url": "amqp://localhost", "queue": "q"}', 'lower(text)');
SELECT orion_consume('x', '{"url": "amqp://localhost"}', 'regress_inbound(jsonb)');
SELECT orion_consume('x', '{"url": "redis://localhost", "queue": "q"}', 'regress_inbound(jsonb)');
SELECT orion_consume('x', '{"url": "amqp://localhost", "queue": ""}', 'regress_inbound(jsonb)');
SELECT orion_consume('x', '{"url": "amqp://localhost", "queue": "q", "prefetch": 0}', 'regress_inbound(jsonb)');
SELECT orion_consume('x', '{"url": "amqp://localhost", "queue": "q", "max_body": 1e9}', 'regress_inbound(jsonb)');
SELECT orion_consume('x', '{"url": "amqp://localhost", "queue": "q", "declare": "stream"}', 'regress_inbound(jsonb)');
SELECT orion_consume('x', '{"url": "amqp://localhost", "queue": "q", "no_message_id": "drop"}', 'regress_inbound(jsonb)');
SELECT orion_consume('x', '{"url": "amqp://localhost", "queue": "q", "tls": {}}', 'regress_inbound(jsonb)');
SELECT orion_consume('x', '{"url": "amqps://localhost", "queue": "q", "tls": {"trust": true}}', 'regress_inbound(jsonb)');
SELECT orion_consume('x', '{"url": "amqp://localhost", "queue": "q", "ssl": {}}', 'regress_inbound(jsonb)');
SELECT orion_consume('x', '{"url": "amqp://localhost", "queue": "q"}', 'regress_inbound(jsonb)', 0);
SELECT orion_consume('x', '{"url": "amqp://localhost", "queue": "q"}', 'regress_inbound(jsonb)', 1, '-1 s');
SELECT orion_consume_pause('x');
SELECT orion_consume_alter('x', '{"url": "amqp://localhost", "queue": "q"}');
SELECT orion_consume_drop('x');
SET ROLE orion_service;
SELECT orion_consume('x', '{"url": "amqp://localhost", "queue": "q"}', 'regress_inbound(jsonb)');
SELECT count(*) FROM orion.consumers;
RESET ROLE;

-- bodies
SELECT b.body, i.encoding, i.content FROM (VALUES (1, '{"a": 1}'::bytea), (2, ''), (3, 'text'), (4, '\x00'), (5, '\xff'), (6, convert_to('"\u0000"', 'UTF8')), (7, '1,"messageId":"x"')) AS b (n, body),
	LATERAL orion_private.inbox_body(b.body) i ORDER BY n;
SELECT orion_private.inbox_json(ROW(true, false, 'id', 'x', '\xff', '{"messageId": "other", "type": "t"}', '[1]')::orion_private.inbox_message, 'q', 'id');
SELECT orion_private.inbox_json(ROW(false, false, '', '', '', 'nonsense', NULL)::orion_private.inbox_message, 'q', 'id');

-- a message's way: handled, known, failed, waits, given up
CREATE FUNCTION pg_temp.message(id text, body bytea DEFAULT '{}') RETURNS orion_private.inbox_message LANGUAGE sql
	AS $$ SELECT ROW(id <> '', false, id::bytea, '', 'q', '{}', body)::orion_private.inbox_message $$;
SELECT verdict, message ->> 'messageId' AS id FROM orion_private.inbox_take(:id, pg_temp.message('a'));
SELECT verdict, message FROM orion_private.inbox_take(:id, pg_temp.message('a'));
SELECT pause BETWEEN 400 AND 1502 AS pause FROM orion_private.inbox_fail(:id, pg_temp.message('b'), 'broken', 2, true, true) AS f (pause);
SELECT verdict, pause BETWEEN 1 AND 1502 AS pause FROM orion_private.inbox_take(:id, pg_temp.message('b'));
SELECT orion_private.inbox_fail(:id, pg_temp.message('b'), 'broken again', 2, true, true) AS pause;
SELECT verdict FROM orion_private.inbox_take(:id, pg_temp.message('b'));
SELECT verdict FROM orion_private.inbox_take(:id, pg_temp.message('c', NULL));
SELECT ahead >= 0 AS ahead FROM orion_private.inbox_fail(:id, pg_temp.message('d'), 'ended', 1, true, false) AS f (ahead);
SELECT orion_private.inbox_fail(:id, pg_temp.message('d'), 'ended', 1, true, false) AS ahead;
-- without an id: as often as it comes, or once, or never
SELECT verdict FROM orion_private.inbox_take(:id, pg_temp.message(''));
SELECT verdict FROM orion_private.inbox_take(:id, pg_temp.message(''));
SELECT orion_consume_alter('in', '{"url": "amqp://localhost", "queue": "q", "no_message_id": "hash"}');
SELECT verdict FROM orion_private.inbox_take(:id, pg_temp.message(''));
SELECT verdict FROM orion_private.inbox_take(:id, pg_temp.message(''));
SELECT verdict FROM orion_private.inbox_take(:id, pg_temp.message('', '1'));
SELECT orion_consume_alter('in', '{"url": "amqp://localhost", "queue": "q", "no_message_id": "refuse"}');
SELECT verdict FROM orion_private.inbox_take(:id, pg_temp.message('', '2'));
SELECT consumer, left(message_id, 12) AS id, message ->> 'body' AS body, attempts, error FROM orion.inbox_dead_letters ORDER BY id;
SELECT received, handled, duplicates, failures, dead, waiting, last_error FROM orion.consumers;

SELECT orion_consume_pause('in');
SELECT state FROM orion.consumers;
SELECT orion_consume_resume('in');
SELECT orion_private.inbox_maintain('-1 s');
SELECT count(*) FROM orion_private.inbox;
SELECT orion_consume_drop('in');
SELECT count(*) FROM orion_private.inbox_dead_letters;
SELECT action, target_id FROM orion.audit_log WHERE action LIKE 'consumer.%' ORDER BY id;
DROP FUNCTION regress_inbound(jsonb);
