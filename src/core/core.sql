-- Schemas, roles and the view of the workers.
--
-- Public functions live in the schema given to CREATE EXTENSION, what people read
-- in "orion", storage in "orion_private".  Nobody has USAGE on orion_private: its
-- tables are reached through functions, or through views of schema orion, which
-- check column grants and row level security of the caller.

CREATE SCHEMA orion;
CREATE SCHEMA orion_private;
COMMENT ON SCHEMA orion IS 'Orion: views to read';
COMMENT ON SCHEMA orion_private IS 'Orion: storage, reached through functions only';
GRANT USAGE ON SCHEMA orion TO PUBLIC;

-- Roles belong to the cluster: they outlive DROP EXTENSION and are shared by databases.
DO $do$
DECLARE
	wanted text;
	existing pg_catalog.pg_roles;
BEGIN
	FOREACH wanted IN ARRAY ARRAY['orion_anon', 'orion_user', 'orion_service', 'orion_admin', 'orion_authenticator'] LOOP
		SELECT * INTO existing FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) wanted;
		IF NOT FOUND THEN
			EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN NOINHERIT', wanted);
		ELSIF existing.rolsuper OR existing.rolbypassrls OR existing.rolcreaterole OR existing.rolreplication THEN
			RAISE EXCEPTION 'role % exists and has attributes that Orion''s roles must not have', wanted
				USING HINT = 'Drop the role, or take SUPERUSER, BYPASSRLS, CREATEROLE and REPLICATION from it.';
		END IF;
	END LOOP;
END
$do$;

-- Executors connect as orion_authenticator; before PostgreSQL 17 a worker's role
-- needs LOGIN.  It has no password and no privilege but to become one of these.
ALTER ROLE orion_authenticator LOGIN NOINHERIT;
GRANT orion_anon, orion_user, orion_service, orion_admin TO orion_authenticator;
COMMENT ON ROLE orion_anon IS 'Orion: requests without a token';
COMMENT ON ROLE orion_user IS 'Orion: signed-in users';
COMMENT ON ROLE orion_service IS 'Orion: trusted application servers';
COMMENT ON ROLE orion_admin IS 'Orion: administrators of the application';
COMMENT ON ROLE orion_authenticator IS 'Orion: the role that executors connect as';

CREATE FUNCTION orion_private.workers(
	OUT kind text, OUT name text, OUT pid int, OUT program_pid int, OUT state text,
	OUT since timestamptz, OUT restarts bigint, OUT last_error text,
	OUT lag_events bigint, OUT lag interval, OUT sink_id int, OUT part int, OUT attempts bigint, OUT rate float8,
	OUT caught_up bool)
	RETURNS SETOF record
	LANGUAGE c VOLATILE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_workers';
COMMENT ON FUNCTION orion_private.workers() IS 'What every Orion worker is doing, from shared memory';
REVOKE ALL ON FUNCTION orion_private.workers() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION orion_private.workers() TO orion_admin, pg_monitor;

CREATE VIEW orion.workers AS
	SELECT kind, name, pid, program_pid, state, since, restarts, last_error, lag_events, lag
	FROM orion_private.workers();
COMMENT ON VIEW orion.workers IS 'Orion''s processes: state, restarts, last error; for relays the number of events not yet delivered and the age of the oldest';
GRANT SELECT ON orion.workers TO orion_admin, pg_monitor;

CREATE FUNCTION orion_private.caller() RETURNS oid
	LANGUAGE c STABLE PARALLEL RESTRICTED
	AS 'MODULE_PATHNAME', 'orion_caller';
COMMENT ON FUNCTION orion_private.caller() IS 'The database role that calls a function which runs as its owner: of a handler its role, else that of the session; null when nobody can say';
REVOKE ALL ON FUNCTION orion_private.caller() FROM PUBLIC;

-- Optimistic locking for any table: a column "version" counts its updates.
-- Arguments name timestamptz columns to set to the time of the transaction and, with
-- "!" in front, columns that do not count: an update of nothing else leaves the
-- version. (A list of columns at the trigger would say that too, but orion_update
-- trusts only triggers that always fire.)
CREATE FUNCTION @extschema@.orion_version_bump() RETURNS trigger
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	touched jsonb := '{}';
	ignored text[] := '{}';
BEGIN
	FOR i IN 0 .. TG_NARGS - 1 LOOP
		IF TG_ARGV[i] ^@ '!' THEN
			ignored := ignored || substr(TG_ARGV[i], 2);
		ELSE
			touched := touched || jsonb_build_object(TG_ARGV[i], now());
		END IF;
	END LOOP;
	NEW.version := OLD.version;
	IF ignored <> '{}' AND NEW IS DISTINCT FROM OLD AND to_jsonb(NEW) - ignored = to_jsonb(OLD) - ignored THEN
		RETURN NEW;
	END IF;
	NEW.version := OLD.version + 1;
	IF touched <> '{}' THEN
		NEW := jsonb_populate_record(NEW, touched);
	END IF;
	RETURN NEW;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_version_bump() IS 'BEFORE UPDATE FOR EACH ROW trigger: adds one to the column "version", which nobody can then set; arguments name timestamptz columns to set to now() and, as "!name", columns that do not count';
-- for every owner of a table: without a trigger it cannot be called
GRANT EXECUTE ON FUNCTION @extschema@.orion_version_bump() TO PUBLIC;
