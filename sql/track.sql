-- Tracked tables: which events their changes make, what is kept out of them, who may.
\pset null '(null)'
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA regress_track;
SET search_path = regress_track, public;
TRUNCATE orion_private.outbox;
CREATE FUNCTION events(OUT type text, OUT id text, OUT payload jsonb) RETURNS SETOF record LANGUAGE plpgsql AS $$
BEGIN
	-- as text and back: a large value is not to be fetched after the TRUNCATE
	RETURN QUERY SELECT o.type, o.aggregateid, o.payload::text::jsonb FROM orion_private.outbox o ORDER BY seq;
	TRUNCATE orion_private.outbox;
END $$;

-- the events of a table
CREATE TABLE orders (id bigint PRIMARY KEY, name text, secret text, total numeric(10,2));
SELECT orion_track('orders', private => '{secret}', prefix => 'order');
INSERT INTO orders VALUES (1, 'one', 'hush', 1.50), (2, 'two', NULL, NULL);
UPDATE orders SET name = 'uno', secret = 'hush hush' WHERE id = 1;
UPDATE orders SET secret = 'hush';
UPDATE orders SET name = name, total = total;
UPDATE orders SET total = 1.500 WHERE id = 1;
UPDATE orders SET id = 3 WHERE id = 2;
DELETE FROM orders WHERE id = 3;
TRUNCATE orders;
SELECT aggregatetype, version, metadata - ARRAY['transaction', 'role'] AS metadata, metadata ->> 'role' = current_user AS role,
	metadata ->> 'transaction' = xid::text AS transaction
	FROM orion_private.outbox ORDER BY seq LIMIT 2;
SELECT * FROM events();
SELECT * FROM orion.tracked_tables;

-- events go the way of their transaction and subtransaction
BEGIN;
INSERT INTO orders VALUES (1, 'kept', NULL, 0);
SAVEPOINT s;
INSERT INTO orders VALUES (2, 'undone', NULL, 0);
ROLLBACK TO s;
COMMIT;
BEGIN;
DELETE FROM orders;
ROLLBACK;
SELECT * FROM events();

-- whatever changes a row: ON CONFLICT, MERGE, COPY, a foreign key's cascade, a function's owner
INSERT INTO orders VALUES (1, 'again', NULL, 0), (4, 'four', NULL, 0) ON CONFLICT (id) DO UPDATE SET name = excluded.name;
INSERT INTO orders VALUES (1, 'never', NULL, 0) ON CONFLICT DO NOTHING;
MERGE INTO orders o USING (VALUES (1), (4), (5)) v (id) ON o.id = v.id
	WHEN MATCHED AND v.id = 1 THEN DELETE WHEN MATCHED THEN UPDATE SET total = 4 WHEN NOT MATCHED THEN INSERT VALUES (v.id, 'merged');
COPY orders (id, name) FROM stdin;
6	copied
7	copied, too
\.
CREATE TABLE lines (order_id bigint REFERENCES orders ON DELETE CASCADE ON UPDATE CASCADE, n int, PRIMARY KEY (order_id, n));
SELECT orion_track('lines', operations => '{delete,UPDATE}');
INSERT INTO lines VALUES (6, 1), (7, 1);
DELETE FROM orders WHERE id = 6;
UPDATE orders SET id = 8 WHERE id = 7;
SELECT type, id, payload ->> 'changed' AS changed, payload #>> '{new,name}' AS name FROM events();
SELECT relation, operations FROM orion.tracked_tables ORDER BY 1;
DROP TABLE lines;

-- values are what to_jsonb makes of them
CREATE TYPE mood AS ENUM ('glad', 'sad');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN money_amount AS numeric(12, 2);
CREATE DOMAIN document AS jsonb;
CREATE DOMAIN stamp AS timestamptz;
CREATE TABLE kinds (id uuid PRIMARY KEY, b bool, i2 int2, i4 int4, i8 int8, f4 float4, f8 float8, n numeric, t text, v varchar(9), c char(5), nm name, ch "char",
	d date, ts timestamp, tz timestamptz, tm time, ttz timetz, iv interval, j json, jb jsonb, ba bytea, ia int[], ta text[], em mood, ed mood[], cp pair, ca pair[],
	r int4range, mr nummultirange, ip inet, x xml, p point, o oid, rc regclass, bt bit(3), dp positive, dm money_amount, dj document, ds stamp, da positive[], tv tsvector, mn money);
SELECT orion_track('kinds', prefix => 'kinds');
INSERT INTO kinds VALUES ('00000000-0000-0000-0000-000000000001', true, -1, 2147483647, 9223372036854775807, 0.1, 1e300, 12345678901234567890.123456789000, 'a "q" \ é',
	'v', 'c', 'nm', 'x', '2026-02-28', '2026-02-28 23:59:59.123456', '2026-02-28 12:00+05', '12:00:01', '12:00+02', '1 mon 2 days 03:00', '{"b": 1,  "a": [1.0]}',
	'{"z": [1, {"y": null}], "n": 1.10}', '\xdeadbeef', '{1,NULL,3}', '{{a,b},{c,"d,e"}}', 'sad', '{glad,sad}', '(1,"x y")', '{"(1,a)","(,)"}', '[1,5)', '{[1,2),(3,4]}',
	'192.0.2.1/24', '<a>b</a>', '(1,2)', 42, 'orders', '101', 7, 1.5, '"scalar"', '2026-01-01 00:00Z', '{1,2}', 'a:1 b', '12.34');
INSERT INTO kinds (id, f4, f8, n, d, ts, tz, jb, dj, ia, t) VALUES ('00000000-0000-0000-0000-000000000002', 'NaN', '-Infinity', 'NaN', 'infinity', '-infinity', 'infinity',
	'null', '[]', '{}', '');
INSERT INTO kinds (id, n, d, j, jb) VALUES ('00000000-0000-0000-0000-000000000003', '-Infinity', '0044-03-15 BC', 'null', '7');
INSERT INTO kinds (id) VALUES ('00000000-0000-0000-0000-000000000004');
SELECT k.id, (e.payload -> 'new')::text = to_jsonb(k)::text AS same, (SELECT count(*) FROM jsonb_object_keys(e.payload -> 'new')) AS columns
	FROM events() AS e JOIN kinds k ON k.id::text = e.id ORDER BY 1;
UPDATE kinds SET n = 12345678901234567890.123456789 WHERE id = '00000000-0000-0000-0000-000000000001';	-- the same number, shown otherwise
SELECT payload -> 'changed' AS changed, payload #> '{old,n}' AS old, payload #> '{new,n}' AS new FROM events();
DROP TABLE kinds;

-- large values: the whole, and not "changed" when they were not
CREATE TABLE large (id int PRIMARY KEY, doc text, other text);
ALTER TABLE large ALTER doc SET STORAGE EXTERNAL;
SELECT orion_track('large');
INSERT INTO large SELECT 1, string_agg(md5(i::text), ''), 'a' FROM generate_series(1, 5000) i;
UPDATE large SET other = 'b';
UPDATE large SET doc = doc || '';
UPDATE large SET doc = left(doc, -1) || '!';
DELETE FROM large;
SELECT type, payload -> 'changed' AS changed, length(payload #>> '{old,doc}') AS old, length(payload #>> '{new,doc}') AS new,
	payload #>> '{old,doc}' = (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 5000) i) AS old_is_right FROM events();
SET orion.outbox_max_payload = '1kB';
\set VERBOSITY terse
INSERT INTO large SELECT 2, repeat('x', 2000), NULL;
\set VERBOSITY default
RESET orion.outbox_max_payload;
SELECT count(*) FROM large;
DROP TABLE large;

-- keys: composite, missing, too long, the same in every session
CREATE TABLE composite (region text, n int, v int, PRIMARY KEY (region, n));
CREATE TABLE keyless (v int);
CREATE TABLE wordy (k text PRIMARY KEY);
CREATE TABLE timed (k timestamptz PRIMARY KEY);
CREATE TABLE numbered (k numeric PRIMARY KEY);
SELECT orion_track(t::regclass) FROM unnest('{composite,keyless,wordy,timed,numbered}'::text[]) t;
INSERT INTO composite VALUES ('eu "1"', 7, 0);
INSERT INTO keyless VALUES (1);
INSERT INTO wordy VALUES (repeat('k', 255)), (repeat('k', 256));
SET timezone = 'Asia/Tokyo'; SET datestyle = 'German';
INSERT INTO timed VALUES ('2026-01-01 00:00Z');
RESET timezone; RESET datestyle;
INSERT INTO numbered VALUES (1.50);
SELECT type, length(id), left(id, 80) AS id FROM events();
DROP TABLE composite, keyless, wordy, timed, numbered;

-- a list of columns: changes of the others are nobody's business, new ones neither
CREATE TABLE listed (id int PRIMARY KEY, a text, b text, c text);
SELECT orion_track('listed', columns => '{id,a}', private => '{c}', version => 2);
INSERT INTO listed VALUES (1, 'a', 'b', 'c');
UPDATE listed SET b = 'bb';
UPDATE listed SET c = 'cc';
UPDATE listed SET a = 'aa', b = 'bbb';
ALTER TABLE listed ADD d text DEFAULT 'd';
UPDATE listed SET d = 'dd';
ALTER TABLE listed RENAME a TO renamed;
UPDATE listed SET renamed = 'aaa';
ALTER TABLE listed DROP c;
SELECT version FROM orion_private.outbox GROUP BY 1;
SELECT * FROM events();
SELECT columns, private FROM orion.tracked_tables WHERE relation = 'listed'::regclass;
SELECT orion_track('listed', columns => '{}');
UPDATE listed SET renamed = 'x';
DELETE FROM listed;
SELECT * FROM events();
DROP TABLE listed;

-- a generated column tells what it is made of: private as that is, unless it was asked for
CREATE TABLE made (id int PRIMARY KEY, card text, tail text GENERATED ALWAYS AS (right(card, 4)) STORED,
	size int GENERATED ALWAYS AS (length(card) + id) STORED, twice int GENERATED ALWAYS AS (id * 2) STORED);
SELECT orion_track('made', private => '{card}');
INSERT INTO made VALUES (1, '5555444433332222');
UPDATE made SET card = '4111111111111111';
SELECT columns, private FROM orion.tracked_tables WHERE relation = 'made'::regclass;
SELECT orion_track('made', columns => '{id,tail}', private => '{card}');
ALTER TABLE made RENAME card TO number;
UPDATE made SET number = '371449635398431';
SELECT * FROM events();
SELECT columns, private FROM orion.tracked_tables WHERE relation = 'made'::regclass;
DROP TABLE made;

-- the table changes: dropped, added, renamed and generated columns, other types, another name
CREATE TABLE moving (gone int, id int PRIMARY KEY, secret text, doubled int GENERATED ALWAYS AS (id * 2) STORED, "Odd Name" text);
SELECT orion_track('moving', private => '{secret}', prefix => 'moving');
INSERT INTO moving VALUES (0, 1, 'hush', DEFAULT, 'odd');
ALTER TABLE moving DROP gone;
ALTER TABLE moving ADD added int DEFAULT 5;
ALTER TABLE moving RENAME secret TO hidden;
UPDATE moving SET hidden = 'shh';
UPDATE moving SET id = 2;
ALTER TABLE moving ALTER added TYPE text USING added || '!';
ALTER TABLE moving RENAME TO moved;
UPDATE moved SET "Odd Name" = NULL;
SELECT metadata ->> 'table' AS name FROM orion_private.outbox GROUP BY 1 ORDER BY 1;
SELECT * FROM events();
SELECT relation, prefix, columns, private FROM orion.tracked_tables WHERE prefix = 'moving';
-- private stays private: by its label under a new name, by its name without the label
SECURITY LABEL FOR orion ON COLUMN moved.hidden IS NULL;
UPDATE moved SET hidden = 'out';
ALTER TABLE moved RENAME hidden TO secret;
UPDATE moved SET secret = 'in';
SELECT payload -> 'new' AS new FROM events();
-- the owner's label counts at once
SECURITY LABEL FOR orion ON COLUMN moved.added IS 'private';
UPDATE moved SET added = 'quiet';
SELECT payload FROM events();
SECURITY LABEL FOR orion ON COLUMN moved.added IS 'secret';
SECURITY LABEL FOR orion ON TABLE moved IS 'private';
SECURITY LABEL FOR orion ON SCHEMA regress_track IS 'private';
-- the primary key goes; a private column becomes it
ALTER TABLE moved DROP CONSTRAINT moving_pkey;
UPDATE moved SET id = 3;
ALTER TABLE moved ADD PRIMARY KEY (secret);
UPDATE moved SET id = 4;
SELECT id, payload -> 'changed' AS changed FROM events();
-- disabled and enabled as any trigger
ALTER TABLE moved DISABLE TRIGGER orion_track;
UPDATE moved SET id = 5;
SELECT enabled FROM orion.tracked_tables WHERE prefix = 'moving';
ALTER TABLE moved ENABLE TRIGGER orion_track;
SELECT * FROM events();
SELECT orion_untrack('moved');
DELETE FROM moved;
SELECT * FROM events();
SELECT count(*) FROM pg_seclabel WHERE objoid = 'moved'::regclass;
SELECT orion_untrack('moved');
DROP TABLE moved;

-- partitions: copies of the trigger, columns in other places, rows that move
CREATE TABLE parted (id int, part int, secret text, v text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
CREATE TABLE parted_2 (gone text, v text, secret text, part int NOT NULL, id int NOT NULL);
ALTER TABLE parted_2 DROP gone;
ALTER TABLE parted ATTACH PARTITION parted_2 FOR VALUES IN (2);
SELECT orion_track('parted', private => '{secret}');
CREATE TABLE parted_3 PARTITION OF parted FOR VALUES IN (3) PARTITION BY LIST (id);
CREATE TABLE parted_3_1 PARTITION OF parted_3 DEFAULT;
INSERT INTO parted VALUES (1, 1, 's', 'one'), (2, 2, 's', 'two'), (3, 3, 's', 'three');
UPDATE parted SET v = v || '!', secret = 't' WHERE part > 1;
UPDATE parted SET part = 2 WHERE id = 1;
INSERT INTO parted_2 (id, part, v, secret) VALUES (4, 2, 'direct', 's');
SELECT count(*), min(metadata ->> 'table'), max(aggregatetype) FROM orion_private.outbox;
SELECT * FROM events();
ALTER TABLE parted RENAME secret TO hidden;
UPDATE parted SET hidden = 'u' WHERE id = 2;
SECURITY LABEL FOR orion ON COLUMN parted.v IS 'private';
UPDATE parted SET v = 'u' WHERE id = 3;
SELECT * FROM events();
SELECT orion_track('parted_1');
SELECT orion_untrack('parted_1');
SELECT relation, columns, private FROM orion.tracked_tables WHERE prefix = 'parted';
TRUNCATE parted;
SELECT * FROM events();
-- a table that is tracked on its own first has to give that up; one that leaves is not tracked any more
CREATE TABLE lone (id int, part int, hidden text, v text, PRIMARY KEY (id, part));
SELECT orion_track('lone');
ALTER TABLE parted ATTACH PARTITION lone FOR VALUES IN (4);
SELECT orion_untrack('lone');
ALTER TABLE parted ATTACH PARTITION lone FOR VALUES IN (4);
INSERT INTO lone VALUES (7, 4, 'h', 'v');
ALTER TABLE parted DETACH PARTITION lone;
INSERT INTO lone VALUES (8, 4, 'h', 'v');
SELECT * FROM events();
DROP TABLE lone;
SELECT orion_untrack('parted');
INSERT INTO parted VALUES (1, 1, 's', 'one');
SELECT * FROM events();
DROP TABLE parted;

-- a contract that a change would break keeps it from happening
SELECT orion_event_type_set('order.updated', '{"properties": {"new": {"properties": {"total": {"type": ["number", "null"], "minimum": 0}}}}}');
UPDATE orders SET total = -1 WHERE id = 5;
SELECT total FROM orders WHERE id = 5;
UPDATE orders SET total = 1 WHERE id = 5;
SELECT type FROM events();
SELECT orion_event_type_drop('order.updated');

-- who: the writer needs no right to publish, and the event says who it was
CREATE ROLE regress_track_owner IN ROLE orion_service;
CREATE ROLE regress_track_plain;
GRANT USAGE ON SCHEMA regress_track TO regress_track_owner, regress_track_plain, orion_user;
GRANT CREATE ON SCHEMA regress_track TO regress_track_owner, regress_track_plain;
GRANT ALL ON orders TO regress_track_owner, regress_track_plain, orion_user WITH GRANT OPTION;
SET ROLE regress_track_owner;
SELECT orion_track('orders');
SELECT orion_untrack('orders');
CREATE TABLE own (id int PRIMARY KEY);
SELECT orion_track('own', prefix => 'own.thing');
INSERT INTO own VALUES (1);
SELECT relation, prefix FROM orion.tracked_tables ORDER BY 1;
CREATE TRIGGER mine AFTER INSERT ON own FOR EACH ROW EXECUTE FUNCTION orion_private.track_row('auth', '{}');
SET ROLE regress_track_plain;
CREATE TABLE plain (id int PRIMARY KEY);
SELECT orion_track('plain');
CREATE TRIGGER mine AFTER INSERT ON plain FOR EACH ROW EXECUTE FUNCTION orion_private.track_row('auth', '{}');
SELECT * FROM orion.tracked_tables;
RESET ROLE;
SELECT orion_key_create('HS256') IS NOT NULL AS has_key;
BEGIN;
SELECT orion_authenticate(orion_jwt_sign('{"sub": "3f2504e0-4f89-11d3-9a0c-0305e82c3301", "role": "orion_user", "session_id": "3f2504e0-4f89-11d3-9a0c-0305e82c3302"}')) IS NOT NULL AS signed_in;
SET LOCAL ROLE orion_user;
SET LOCAL request.jwt.claims = '{"sub": "somebody else"}';
SET LOCAL orion.outbox_correlation_id = 'request-7';
INSERT INTO orders VALUES (9, 'mine', NULL, 0);
SELECT orion_publish('order.created', '{}');
ROLLBACK;
BEGIN;
SELECT orion_authenticate(orion_jwt_sign('{"sub": "3f2504e0-4f89-11d3-9a0c-0305e82c3301", "role": "orion_user", "session_id": "3f2504e0-4f89-11d3-9a0c-0305e82c3302"}')) IS NOT NULL AS signed_in;
SET LOCAL ROLE orion_user;
SET LOCAL request.jwt.claims = '{"sub": "somebody else"}';
SET LOCAL orion.outbox_correlation_id = 'request-7';
INSERT INTO orders VALUES (9, 'mine', NULL, 0);
COMMIT;
SELECT type, correlation_id, metadata - 'transaction' AS metadata FROM orion_private.outbox ORDER BY seq;
TRUNCATE orion_private.outbox;

-- what cannot be tracked, or not so
CREATE VIEW a_view AS SELECT 1 AS x;
CREATE TEMP TABLE temporary (x int);
CREATE TABLE "Odd *" (x int);
SELECT orion_track('a_view');
SELECT orion_track('temporary');
SELECT orion_track('pg_class');
SELECT orion_track('orion_private.outbox');
SELECT orion_track(0);
SELECT orion_track(NULL);
SELECT orion_track('"Odd *"');
SELECT orion_track('"Odd *"', prefix => 'odd.');
SELECT orion_track('"Odd *"', prefix => repeat('x', 250));
SELECT orion_track('orders', private => '{nix}');
SELECT orion_track('orders', columns => '{id,ctid}');
SELECT orion_track('orders', private => '{id}');
SELECT orion_track('orders', columns => '{name}', private => '{name}');
SELECT orion_track('orders', private => '{NULL}');
SELECT orion_track('orders', operations => '{select}');
SELECT orion_track('orders', operations => '{}');
SELECT orion_track('orders', version => 0);
SELECT orion_private.track_row();
-- only a superuser can make such triggers, and they come to nothing
CREATE TRIGGER odd AFTER INSERT ON "Odd *" FOR EACH ROW EXECUTE FUNCTION orion_private.track_row('auth');
INSERT INTO "Odd *" VALUES (1);
DROP TRIGGER odd ON "Odd *";
CREATE TRIGGER odd BEFORE INSERT ON "Odd *" FOR EACH ROW EXECUTE FUNCTION orion_private.track_row('auth', '{}');
INSERT INTO "Odd *" VALUES (1);
DROP TRIGGER odd ON "Odd *";
BEGIN READ ONLY;
SELECT orion_track('orders');
ROLLBACK;
SELECT prefix, private FROM orion.tracked_tables WHERE relation = 'orders'::regclass;
-- again: the new settings take the place of the old ones, and a rollback brings those back
BEGIN;
SELECT orion_track('orders', private => '{name}', prefix => 'other');
UPDATE orders SET name = 'x', secret = 'y' WHERE id = 9;
ROLLBACK;
UPDATE orders SET name = 'x', secret = 'y' WHERE id = 9;
SELECT * FROM events();
SELECT tgname FROM pg_trigger WHERE tgrelid = 'orders'::regclass AND NOT tgisinternal ORDER BY 1;

-- the extension cannot go without the triggers
\set VERBOSITY terse
DROP EXTENSION orion;
\set VERBOSITY default
DROP SCHEMA regress_track CASCADE;
SELECT count(*) FROM orion.tracked_tables;
DROP ROLE regress_track_owner, regress_track_plain;
