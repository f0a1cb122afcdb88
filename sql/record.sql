-- orion_update(): optimistic locking as the caller, on tables and views.
\pset null '(null)'

CREATE FUNCTION try(relation regclass, id text, version bigint, changes jsonb) RETURNS text
	LANGUAGE plpgsql AS $$
DECLARE
	why text;
BEGIN
	RETURN orion_update(relation, id, version, changes);
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS why = PG_EXCEPTION_DETAIL;
	RETURN SQLSTATE || ': ' || SQLERRM || CASE WHEN why <> '' THEN ' (' || why || ')' ELSE '' END;
END
$$;

-- without a trigger the version is counted by the statement
CREATE TABLE plain (
	id int PRIMARY KEY,
	name varchar(10) NOT NULL,
	tags text[],
	doc jsonb,
	secret text,
	version int NOT NULL DEFAULT 1
);
INSERT INTO plain VALUES (1, 'one', NULL, NULL, 's'), (2, 'two', NULL, NULL, 's');
SELECT try('plain', '1', 1, '{"name": "uno", "tags": ["a", "b"], "doc": {"n": [1, null]}}');
SELECT try('plain', '1', 1, '{"name": "late"}');
SELECT try('plain', '1', 2, '{"name": null}');
SELECT try('plain', '1', 2, '{"name": "much too long a name"}');
SELECT try('plain', '1', 2, '{"tags": null}');
SELECT try('plain', '3', 1, '{"name": "x"}');
SELECT try('plain', 'x', 1, '{"name": "x"}');
SELECT try('plain', '1 or true', 1, '{"name": "x"}');
SELECT * FROM plain ORDER BY id;

-- arguments
SELECT try('plain', '1', NULL, '{"name": "x"}');
SELECT try('plain', NULL, 3, '{"name": "x"}');
SELECT try(NULL, '1', 3, '{"name": "x"}');
SELECT try('plain', '1', 3, NULL);
SELECT try('plain', '1', 3, '{}');
SELECT try('plain', '1', 3, '[]');
SELECT try('plain', '1', 3, '"name"');
SELECT try('plain', '1', 3, '{"id": 9}');
SELECT try('plain', '1', 3, '{"version": 9}');
SELECT try('plain', '1', 3, '{"nope": 9}');
SELECT try('plain', '1', 3, '{"": 9}');
SELECT try('plain', '1', 3, '{"ctid": "(0,1)"}');
SELECT try('plain', '1', 3, '{"name\" = (SELECT ''x''), \"name": "x"}');

-- names and values that want to be SQL
CREATE TABLE "Robert'); DROP TABLE plain; --" (
	"the ""key""" text PRIMARY KEY,
	"a'b\c" text,
	version bigint
);
INSERT INTO "Robert'); DROP TABLE plain; --" VALUES (''' OR 1=1 --', 'x', 1);
SELECT try('"Robert''); DROP TABLE plain; --"', ''' OR 1=1 --', 1, $${"a'b\\c": "'; DROP TABLE plain; --\\"}$$);
SELECT try('"Robert''); DROP TABLE plain; --"', ''' OR 1=1 --', 1, '{"a''b\\c": "y"}');

-- the trigger counts, and the caller need not be able to write the version
CREATE TABLE counted (id uuid PRIMARY KEY, owner name DEFAULT current_user, body text, hidden text, version bigint NOT NULL DEFAULT 1, changed timestamptz);
CREATE TRIGGER bump BEFORE UPDATE ON counted FOR EACH ROW EXECUTE FUNCTION orion_version_bump('changed');
INSERT INTO counted VALUES ('6f1c7a52-0b1d-4b3e-9d4e-0a1b2c3d4e5f', 'orion_user', 'mine', 'h'),
	('00000000-0000-0000-0000-000000000001', 'orion_admin', 'theirs', 'h'),
	('00000000-0000-0000-0000-000000000002', 'orion_service', 'shown', 'h');
ALTER TABLE counted ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON counted FOR UPDATE USING (owner = current_user);
CREATE POLICY seen ON counted FOR SELECT USING (owner <> 'orion_admin');
GRANT SELECT (id, owner, body, version), UPDATE (body) ON counted TO orion_user;
CREATE VIEW counted_view AS SELECT id, owner, body, version FROM counted;
GRANT SELECT, UPDATE (body) ON counted_view TO orion_user;
SET ROLE orion_user;
SELECT try('counted', '6f1c7a52-0b1d-4b3e-9d4e-0a1b2c3d4e5f', 1, '{"body": "new"}');
SELECT try('counted', '6f1c7a52-0b1d-4b3e-9d4e-0a1b2c3d4e5f', 1, '{"body": "stale"}');
SELECT try('counted', '6f1c7a52-0b1d-4b3e-9d4e-0a1b2c3d4e5f', 2, '{"hidden": "x"}');
SELECT try('counted', '6f1c7a52-0b1d-4b3e-9d4e-0a1b2c3d4e5f', 2, '{"owner": "orion_admin"}');
SELECT try('counted', '00000000-0000-0000-0000-000000000001', 1, '{"body": "not mine"}');
SELECT try('counted', '00000000-0000-0000-0000-000000000002', 1, '{"body": "only to read"}');
SELECT try('counted_view', '6f1c7a52-0b1d-4b3e-9d4e-0a1b2c3d4e5f', 2, '{"body": "by the view"}');
SELECT try('plain', '1', 3, '{"name": "x"}');
SELECT try('orion_private.users', '00000000-0000-0000-0000-000000000001', 1, '{"email": "x"}');
RESET ROLE;
SELECT owner, body, hidden, version, changed IS NOT NULL AS changed FROM counted ORDER BY owner;

-- a disabled trigger does not count
ALTER TABLE counted DISABLE TRIGGER bump;
SELECT try('counted', '00000000-0000-0000-0000-000000000001', 1, '{"body": "x"}');

-- one on some columns counts their updates only; a view's columns are what they stand for
DROP TRIGGER bump ON counted;
CREATE TRIGGER bump BEFORE UPDATE OF body ON counted FOR EACH ROW EXECUTE FUNCTION orion_version_bump('changed');
CREATE VIEW counted_turned AS SELECT version, hidden, body AS words, id FROM counted WHERE owner <> 'orion_admin';
GRANT SELECT (id, words, version), UPDATE (words) ON counted_turned TO orion_user;
SET ROLE orion_user;
SELECT try('counted_turned', '6f1c7a52-0b1d-4b3e-9d4e-0a1b2c3d4e5f', 3, '{"words": "by a trigger"}');
RESET ROLE;
SELECT try('counted_turned', '6f1c7a52-0b1d-4b3e-9d4e-0a1b2c3d4e5f', 4, '{"hidden": "by the statement"}');
SELECT try('counted', '6f1c7a52-0b1d-4b3e-9d4e-0a1b2c3d4e5f', 5, '{"hidden": "x", "body": "once for both"}')::jsonb - 'changed';

-- what it does not work on
CREATE TABLE unversioned (id int PRIMARY KEY, version text);
CREATE TABLE two_keys (a int, b int, version int, PRIMARY KEY (a, b));
CREATE TABLE keyless (a int, version int);
CREATE TABLE by_id (id int, a int, version int);
INSERT INTO by_id VALUES (1, 1, 1), (2, 1, NULL), (3, 1, 1), (3, 2, 1);
SELECT try('unversioned', '1', 1, '{"version": 1}');
SELECT try('two_keys', '1', 1, '{"version": 1}');
SELECT try('keyless', '1', 1, '{"a": 1}');
SELECT try('by_id', '1', 1, '{"a": 5}');
SELECT try('by_id', '2', 1, '{"a": 5}');
SELECT try('by_id', '3', 1, '{"a": 5}');
SELECT try('plain_pkey', '1', 1, '{"a": 1}');
SELECT * FROM by_id ORDER BY id, a;

-- a hostile search_path changes nothing; a changed table is seen at once
CREATE SCHEMA evil;
CREATE FUNCTION evil.lies(int, int) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE OPERATOR evil.= (LEFTARG = int, RIGHTARG = int, FUNCTION = evil.lies);
SET search_path = evil, public, pg_catalog;
SELECT try('plain', '2', 1, '{"name": "due"}');
RESET search_path;
ALTER TABLE plain ALTER COLUMN version TYPE bigint;
ALTER TABLE plain RENAME COLUMN name TO title;
SELECT try('plain', '2', 2, '{"title": "deux"}');
SELECT id, title, version FROM plain ORDER BY id;
