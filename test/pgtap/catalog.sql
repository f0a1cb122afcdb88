-- What every object of the extension owes its users: a comment, a pinned search_path,
-- and nothing granted to PUBLIC. New functions are covered without being named here.
\set ON_ERROR_STOP on
BEGIN;
SELECT plan(11);

CREATE TEMP VIEW ours AS
	SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
	WHERE d.refclassid = 'pg_extension'::regclass AND e.extname = 'orion' AND d.deptype = 'e';
CREATE TEMP VIEW functions AS
	SELECT p.*, n.nspname, l.lanname FROM pg_proc p JOIN ours ON ours.classid = 'pg_proc'::regclass AND ours.objid = p.oid
		JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang;
CREATE TEMP VIEW relations AS
	SELECT c.*, n.nspname FROM pg_class c JOIN ours ON ours.classid = 'pg_class'::regclass AND ours.objid = c.oid
		JOIN pg_namespace n ON n.oid = c.relnamespace;

SELECT cmp_ok((SELECT count(*) FROM functions)::int, '>', 10, 'the extension has functions');

SELECT is_empty($$ SELECT oid::regprocedure FROM functions WHERE obj_description(oid, 'pg_proc') IS NULL $$,
	'every function has a comment');
SELECT is_empty($$ SELECT oid::regprocedure FROM functions
	WHERE has_function_privilege('public', oid, 'EXECUTE') AND proname <> 'orion_version_bump' $$,
	'no function may be executed by PUBLIC, but the trigger function for everybody''s tables');
SELECT is_empty($$ SELECT oid::regprocedure FROM functions
	WHERE lanname IN ('sql', 'plpgsql') AND prosqlbody IS NULL AND coalesce(array_to_string(proconfig, ' '), '') !~ 'search_path=pg_catalog, pg_temp' $$,
	'every function in SQL or PL/pgSQL has a pinned search_path');
SELECT is_empty($$ SELECT oid::regprocedure FROM functions
	WHERE lanname IN ('sql', 'plpgsql') AND prosrc ~ 'orion_(publish|uid|claims)\s*\(' $$,
	'functions call orion_private.publish, uid and claims: what somebody planted in the schema of the extension could fit better than orion_publish');
SELECT is_empty($$ SELECT oid::regprocedure FROM functions WHERE nspname NOT IN ('orion_private', 'orion') AND proname !~ '^orion_' $$,
	'public functions are named orion_*');
SELECT is_empty($$ SELECT oid::regprocedure FROM functions
	WHERE lanname = 'c' AND prosrc !~ '^orion_' $$,
	'C symbols are named orion_*');

SELECT is_empty($$ SELECT oid::regclass FROM relations
	WHERE relkind IN ('r', 'p', 'v') AND obj_description(oid, 'pg_class') IS NULL AND NOT relispartition $$,
	'every table and view has a comment');
SELECT is_empty($$ SELECT oid::regclass FROM relations WHERE nspname = 'orion' AND relkind <> 'v' $$,
	'schema orion holds views only');
SELECT is_empty($$ SELECT r.oid::regclass, a.privilege_type FROM relations r, aclexplode(r.relacl) a
	WHERE a.grantee = 0 $$,
	'nothing is granted to PUBLIC on a table, view or sequence');
SELECT is_empty($$ SELECT rolname FROM pg_roles
	WHERE rolname LIKE 'orion\_%' AND has_schema_privilege(rolname, 'orion_private', 'USAGE, CREATE') $$,
	'no role of ours may use schema orion_private');

SELECT * FROM finish();
ROLLBACK;
