-- A policy of orion_has_permission() over 100,000 rows against one of a plain column.
-- psql -X -q -f test/bench/rls.sql, in a database with the extension; medians of 21 runs
-- in ms, each kind in turn within each run.
\set ON_ERROR_STOP on
\pset pager off
BEGIN;
CREATE TABLE rls_bench (id int PRIMARY KEY, tenant int NOT NULL, body text NOT NULL);
INSERT INTO rls_bench SELECT i, 1, 'row ' || i FROM generate_series(1, 100000) AS i;
ANALYZE rls_bench;
ALTER TABLE rls_bench ENABLE ROW LEVEL SECURITY;
GRANT SELECT ON rls_bench TO orion_user;
CREATE TABLE rls_times (kind text, ms float8);
GRANT INSERT ON rls_times TO orion_user;
SELECT user_id FROM orion_register('rls-bench@example.com', 'a password for a benchmark') \gset
SELECT orion_role_create('rls-a'), orion_role_create('rls-b'), orion_role_inherit('rls-b', 'rls-a'),
	orion_permission_grant('rls-a', 'bench:read'), orion_role_grant(:'user_id', 'rls-b');
SELECT orion_user_permission_grant(:'user_id', 'thing' || i || ':write') FROM generate_series(1, 50) AS i;
SELECT orion_authenticate(orion_jwt_sign(jsonb_build_object('sub', :'user_id'))) IS NOT NULL;
\o
CREATE FUNCTION rls_count(role name) RETURNS float8 LANGUAGE plpgsql AS $$
DECLARE
	began timestamptz;
	took float8;
	n bigint;
BEGIN
	EXECUTE format('SET LOCAL ROLE %I', role);
	began := clock_timestamp();
	EXECUTE 'SELECT count(*) FROM rls_bench' INTO n;
	took := extract(epoch FROM clock_timestamp() - began) * 1000;
	RESET ROLE;
	IF n <> 100000 THEN
		RAISE EXCEPTION 'the policy let % rows through', n;
	END IF;
	RETURN took;
END $$;
SET LOCAL max_parallel_workers_per_gather = 0;
SET LOCAL jit = off;
DO $$
BEGIN
	FOR i IN 1 .. 21 LOOP
		EXECUTE 'CREATE POLICY p ON rls_bench USING (true)';
		INSERT INTO rls_times VALUES ('no condition', rls_count('orion_user'));
		EXECUTE 'DROP POLICY p ON rls_bench';
		EXECUTE 'CREATE POLICY p ON rls_bench USING (tenant = 1)';
		INSERT INTO rls_times VALUES ('plain column', rls_count('orion_user'));
		EXECUTE 'DROP POLICY p ON rls_bench';
		EXECUTE 'CREATE POLICY p ON rls_bench USING (orion_has_permission(''bench:read''))';
		INSERT INTO rls_times VALUES ('orion_has_permission(...)', rls_count('orion_user'));
		EXECUTE 'DROP POLICY p ON rls_bench';
		EXECUTE 'CREATE POLICY p ON rls_bench USING ((SELECT orion_has_permission(''bench:read'')))';
		INSERT INTO rls_times VALUES ('(SELECT orion_has_permission(...))', rls_count('orion_user'));
		EXECUTE 'DROP POLICY p ON rls_bench';
	END LOOP;
END $$;
SELECT kind, round(percentile_cont(0.5) WITHIN GROUP (ORDER BY ms)::numeric, 2) AS median_ms,
	round(min(ms)::numeric, 2) AS min_ms, round(max(ms)::numeric, 2) AS max_ms,
	round((percentile_cont(0.5) WITHIN GROUP (ORDER BY ms) / (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY ms) FROM rls_times WHERE kind = 'plain column'))::numeric, 2) AS ratio
FROM rls_times GROUP BY kind ORDER BY 2;
ROLLBACK;
