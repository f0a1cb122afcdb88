-- Tracked tables: each change of a row becomes an event.

-- Nobody may execute it: a trigger of it can only be made by orion_track().
CREATE FUNCTION orion_private.track_row() RETURNS trigger
	LANGUAGE c
	AS 'MODULE_PATHNAME', 'orion_track_row';
COMMENT ON FUNCTION orion_private.track_row() IS 'Publishes an event for each changed row of a tracked table';
REVOKE ALL ON FUNCTION orion_private.track_row() FROM PUBLIC;

-- No SET search_path: the C functions resolve no name through it.
CREATE FUNCTION @extschema@.orion_track(relation regclass, columns text[] DEFAULT NULL, private text[] DEFAULT NULL,
	prefix text DEFAULT NULL, operations text[] DEFAULT '{insert,update,delete,truncate}', version int DEFAULT 1)
	RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_track';
COMMENT ON FUNCTION @extschema@.orion_track(regclass, text[], text[], text, text[], int)
	IS 'Publishes an event <prefix>.created, .updated, .deleted or .truncated for each change of the table from now on, without the values of private columns; for its owner';

CREATE FUNCTION @extschema@.orion_untrack(relation regclass) RETURNS void
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_untrack';
COMMENT ON FUNCTION @extschema@.orion_untrack(regclass) IS 'Ends what orion_track began; for the table''s owner';

REVOKE ALL ON FUNCTION
	@extschema@.orion_track(regclass, text[], text[], text, text[], int),
	@extschema@.orion_untrack(regclass)
	FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
	@extschema@.orion_track(regclass, text[], text[], text, text[], int),
	@extschema@.orion_untrack(regclass)
	TO orion_service, orion_admin;

-- As tracking.c has it.
CREATE FUNCTION orion_private.tracked_columns(relation regclass, settings jsonb, OUT attname name, OUT attnum int2, OUT private bool, OUT listed bool)
	RETURNS SETOF record
	LANGUAGE sql STABLE STRICT PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
	WITH c AS (
		SELECT a.attname, a.attnum,
			(l.label = 'private') IS TRUE OR settings -> 'private' ? a.attname::text AS private,
			(l.label = 'tracked') IS TRUE OR coalesce(settings -> 'columns' ? a.attname::text, false) AS named
		FROM pg_attribute a
		LEFT JOIN pg_seclabel l ON l.classoid = 'pg_class'::regclass AND l.objoid = a.attrelid AND l.objsubid = a.attnum
			AND l.provider = 'orion'
		WHERE a.attrelid = tracked_columns.relation AND a.attnum > 0 AND NOT a.attisdropped
	) SELECT c.attname, c.attnum,
		c.private OR NOT c.named AND EXISTS (
			SELECT FROM pg_attrdef d
			JOIN pg_attribute g ON g.attrelid = d.adrelid AND g.attnum = d.adnum AND g.attgenerated <> ''
			JOIN pg_depend e ON e.classid = 'pg_attrdef'::regclass AND e.objid = d.oid
				AND e.refclassid = 'pg_class'::regclass AND e.refobjid = d.adrelid
			JOIN c p ON p.attnum = e.refobjsubid AND p.private
			WHERE d.adrelid = tracked_columns.relation AND d.adnum = c.attnum AND e.refobjsubid <> d.adnum),
		c.named OR settings -> 'columns' IS NULL
	FROM c
	$fn$;
COMMENT ON FUNCTION orion_private.tracked_columns(regclass, jsonb) IS 'The columns of a tracked table: private (also when generated of private ones), and whether they are published';
REVOKE ALL ON FUNCTION orion_private.tracked_columns(regclass, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION orion_private.tracked_columns(regclass, jsonb) TO orion_admin, orion_service, pg_monitor;

-- The settings are the triggers' arguments, separated by NUL, and the columns' labels.
CREATE VIEW orion.tracked_tables WITH (security_invoker = true) AS
	SELECT t.relation, t.prefix, t.version, t.operations,
		pg_catalog.array_agg(a.attname::pg_catalog.text ORDER BY a.attnum) FILTER (WHERE NOT a.private AND a.listed) AS columns,
		pg_catalog.array_agg(a.attname::pg_catalog.text ORDER BY a.attnum) FILTER (WHERE a.private) AS private,
		t.enabled
	FROM (
		SELECT g.tgrelid::pg_catalog.regclass AS relation, s.prefix, s.settings,
			(s.settings OPERATOR(pg_catalog.->>) 'version')::pg_catalog.int4 AS version,
			pg_catalog.array_remove(ARRAY[
				CASE WHEN pg_catalog.bit_or(g.tgtype::pg_catalog.int4) OPERATOR(pg_catalog.&) 4 OPERATOR(pg_catalog.<>) 0 THEN 'insert' END,
				CASE WHEN pg_catalog.bit_or(g.tgtype::pg_catalog.int4) OPERATOR(pg_catalog.&) 16 OPERATOR(pg_catalog.<>) 0 THEN 'update' END,
				CASE WHEN pg_catalog.bit_or(g.tgtype::pg_catalog.int4) OPERATOR(pg_catalog.&) 8 OPERATOR(pg_catalog.<>) 0 THEN 'delete' END,
				CASE WHEN pg_catalog.bit_or(g.tgtype::pg_catalog.int4) OPERATOR(pg_catalog.&) 32 OPERATOR(pg_catalog.<>) 0 THEN 'truncate' END
			], NULL) AS operations,
			pg_catalog.bool_and(g.tgenabled OPERATOR(pg_catalog.<>) 'D') AS enabled
		FROM pg_catalog.pg_trigger g,
			LATERAL (SELECT pg_catalog."position"(g.tgargs, '\x00') AS first) AS nul,
			LATERAL (SELECT pg_catalog.convert_from(pg_catalog.substr(g.tgargs, 1, nul.first OPERATOR(pg_catalog.-) 1), pg_catalog.getdatabaseencoding()) AS prefix,
				pg_catalog.convert_from(pg_catalog.substr(g.tgargs, nul.first OPERATOR(pg_catalog.+) 1, pg_catalog.length(g.tgargs) OPERATOR(pg_catalog.-) nul.first OPERATOR(pg_catalog.-) 1),
					pg_catalog.getdatabaseencoding())::pg_catalog.jsonb AS settings) AS s
		WHERE g.tgfoid OPERATOR(pg_catalog.=) 'orion_private.track_row()'::pg_catalog.regprocedure
			AND g.tgparentid OPERATOR(pg_catalog.=) 0 AND g.tgnargs OPERATOR(pg_catalog.=) 2
		GROUP BY g.tgrelid, s.prefix, s.settings) AS t
	JOIN LATERAL orion_private.tracked_columns(t.relation, t.settings) AS a ON true
	GROUP BY t.relation, t.prefix, t.version, t.operations, t.enabled;
COMMENT ON VIEW orion.tracked_tables IS 'Tables whose changes become events: the event types'' prefix, the columns in the events and the private ones';
GRANT SELECT ON orion.tracked_tables TO orion_admin, orion_service, pg_monitor;
