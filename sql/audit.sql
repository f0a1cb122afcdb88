-- The audit log: what is in a row, who may read it, and that nobody changes it.
-- afresh: tests before this one have left rows
SET client_min_messages = warning;
DROP EXTENSION orion CASCADE;
CREATE EXTENSION orion;
RESET client_min_messages;
\pset null '(null)'

-- partitions are made ahead; a row finds its month
SELECT orion_private.audit_partitions() AS made, orion_private.audit_partitions() AS again;
SELECT count(*) FROM pg_inherits WHERE inhparent = 'orion_private.audit_log'::regclass;
SELECT relname = 'audit_log_' || to_char(now(), 'YYYY_MM') AS this_month
	FROM pg_class WHERE oid = (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'orion_private.audit_log'::regclass
		ORDER BY inhrelid::regclass::text COLLATE "C" LIMIT 1);

-- a row of a signed-in user, and one of nobody; the first token makes a key, which is on record, too
BEGIN;
SELECT orion_authenticate(orion_jwt_sign('{"sub": "6f1c7a52-0b1d-4b3e-9d4e-0a1b2c3d4e5f", "session_id": "11111111-0b1d-4b3e-9d4e-0a1b2c3d4e5f"}')) IS NOT NULL AS signed_in;
-- settings of the client change nothing
SET LOCAL request.jwt.claims = '{"sub": "22222222-0b1d-4b3e-9d4e-0a1b2c3d4e5f"}';
SELECT orion_private.audit('test.done', 'thing', '1', old => '{"a": 1}', new => '{"a": 2}', metadata => '{"why": "test"}');
COMMIT;
SELECT orion_private.audit('security.test', 'thing', '2', 'refused', address => '192.0.2.1', user_agent => 'psql', actor => '33333333-0b1d-4b3e-9d4e-0a1b2c3d4e5f');
SELECT orion_private.audit('test.large', new => jsonb_build_object('text', repeat('x', 70000)));
BEGIN;
SELECT orion_authenticate(orion_jwt_sign('{"sub": "somebody", "session_id": "no uuid"}')) IS NOT NULL AS foreign_token;
SELECT orion_private.audit('test.foreign');
COMMIT;
SELECT row_number() OVER (ORDER BY id) AS id, tableoid = ('orion_private.audit_log_' || to_char(now(), 'YYYY_MM'))::regclass AS in_month,
	actor, session_id, action, target_type, target_id, outcome, address, user_agent, old, new, metadata
	FROM orion_private.audit_log WHERE action !~ '^key' ORDER BY id;

-- a month without a partition: the default takes it, and the month stays there
SELECT date_trunc('month', now()) + interval '6 months' AS later \gset
INSERT INTO orion_private.audit_log (occurred_at, action) VALUES (:'later', 'test.late');
SELECT tableoid::regclass, action FROM orion_private.audit_log WHERE occurred_at >= :'later';
SELECT orion_private.audit_partitions(8);
SELECT count(*), bool_or(inhrelid::regclass::text ~ to_char(:'later'::timestamptz, 'YYYY_MM')) AS that_month
	FROM pg_inherits WHERE inhparent = 'orion_private.audit_log'::regclass;

-- nothing can be changed, not by a superuser, not in a partition, not with quiet triggers
UPDATE orion_private.audit_log SET outcome = 'ok';
DELETE FROM orion_private.audit_log;
TRUNCATE orion_private.audit_log;
DELETE FROM orion_private.audit_log_default;
TRUNCATE orion_private.audit_log_default;
SELECT 'orion_private.audit_log_' || to_char(now(), 'YYYY_MM') AS month \gset
\set VERBOSITY terse
UPDATE :month SET outcome = 'ok';
DELETE FROM :month;
TRUNCATE :month;
SET session_replication_role = replica;
UPDATE orion_private.audit_log SET outcome = 'ok';
DELETE FROM :month;
TRUNCATE :month;
TRUNCATE orion_private.audit_log;
RESET session_replication_role;
BEGIN;
CREATE ROLE regress_audit_owner;
GRANT CREATE, USAGE ON SCHEMA orion_private TO regress_audit_owner;
ALTER TABLE orion_private.audit_log OWNER TO regress_audit_owner;
SET LOCAL ROLE regress_audit_owner;
SAVEPOINT s;
DELETE FROM orion_private.audit_log;
ROLLBACK TO s;
UPDATE orion_private.audit_log SET actor = NULL;
ROLLBACK TO s;
TRUNCATE orion_private.audit_log;
ROLLBACK;
SELECT count(*) FROM orion_private.audit_log WHERE action !~ '^key';

-- who may read, and write
BEGIN;
SET LOCAL ROLE orion_admin;
SELECT action, outcome FROM orion.audit_log WHERE action !~ '^key' ORDER BY id LIMIT 2;
SELECT action, outcome, address FROM orion.security_events ORDER BY id;
SELECT orion_audit('order.cancelled', 'order', '7', metadata => '{"reason": "late"}');
SELECT action, target_id, metadata FROM orion.audit_log WHERE action = 'order.cancelled';
SAVEPOINT s;
SELECT orion_audit('x');
ROLLBACK TO s;
INSERT INTO orion.audit_log (action) VALUES ('forged');
ROLLBACK TO s;
SELECT FROM orion_private.audit_log;
ROLLBACK;
BEGIN;
SET LOCAL ROLE orion_user;
SAVEPOINT s;
SELECT FROM orion.audit_log;
ROLLBACK TO s;
SELECT FROM orion.security_events;
ROLLBACK TO s;
SELECT orion_audit('order.cancelled');
ROLLBACK;
