-- Assembled by make from src/*/*.sql. Do not edit: change the module and run make.
\echo Use "CREATE EXTENSION orion" to load this file. \quit

-- src/core/core.sql

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
	OUT lag_events bigint, OUT lag interval)
	RETURNS SETOF record
	LANGUAGE c VOLATILE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_workers';
COMMENT ON FUNCTION orion_private.workers() IS 'What every Orion worker is doing, from shared memory';
REVOKE ALL ON FUNCTION orion_private.workers() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION orion_private.workers() TO orion_admin, pg_monitor;

CREATE VIEW orion.workers AS SELECT * FROM orion_private.workers();
COMMENT ON VIEW orion.workers IS 'Orion''s processes: state, restarts, last error; for relays the number of events not yet delivered and the age of the oldest';
GRANT SELECT ON orion.workers TO orion_admin, pg_monitor;

-- Optimistic locking for any table: a column "version" counts its updates.
-- Arguments name timestamptz columns to set to the time of the transaction.
CREATE FUNCTION @extschema@.orion_version_bump() RETURNS trigger
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	touched jsonb := '{}';
BEGIN
	NEW.version := OLD.version + 1;
	FOR i IN 0 .. TG_NARGS - 1 LOOP
		touched := touched || jsonb_build_object(TG_ARGV[i], now());
	END LOOP;
	IF TG_NARGS > 0 THEN
		NEW := jsonb_populate_record(NEW, touched);
	END IF;
	RETURN NEW;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_version_bump() IS 'BEFORE UPDATE FOR EACH ROW trigger: adds one to the column "version", which nobody can then set; its arguments name timestamptz columns to set to now()';
REVOKE ALL ON FUNCTION @extschema@.orion_version_bump() FROM PUBLIC;

-- src/token/token.sql

-- Signing keys, tokens, and who is asking.
--
-- One key is active: it signs. Published keys only verify, retired ones do nothing.
-- The first key (HS256) is made when the first token is signed.

CREATE TABLE orion_private.signing_keys (
	kid text COLLATE "C" PRIMARY KEY,
	alg text NOT NULL CHECK (alg IN ('HS256', 'RS256', 'ES256')),
	secret bytea,
	public_key text,
	status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'published', 'retired')),
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	-- a public key is never used as an HMAC secret, whatever a token says
	CHECK ((alg = 'HS256') = (public_key IS NULL)),
	CHECK (secret IS NOT NULL OR (public_key IS NOT NULL AND status <> 'active'))
);
-- key.c reads the columns by their number
COMMENT ON TABLE orion_private.signing_keys IS 'Keys of access tokens; the secret is sealed with the master key';
CREATE UNIQUE INDEX signing_keys_one_active ON orion_private.signing_keys (status) WHERE status = 'active';
SELECT pg_catalog.pg_extension_config_dump('orion_private.signing_keys', '');

CREATE FUNCTION orion_private.signing_keys_changed() RETURNS trigger
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'orion_signing_keys_changed';
COMMENT ON FUNCTION orion_private.signing_keys_changed() IS 'Tells every process at commit to read the signing keys anew';
REVOKE ALL ON FUNCTION orion_private.signing_keys_changed() FROM PUBLIC;
CREATE TRIGGER signing_keys_changed
	AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON orion_private.signing_keys
	FOR EACH STATEMENT EXECUTE FUNCTION orion_private.signing_keys_changed();

CREATE FUNCTION orion_private.key_generate(kid text, alg text, OUT secret bytea, OUT public_key text)
	LANGUAGE c VOLATILE STRICT PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'orion_key_generate';
COMMENT ON FUNCTION orion_private.key_generate(text, text) IS 'A new key; the secret is sealed for the row with this key id';
REVOKE ALL ON FUNCTION orion_private.key_generate(text, text) FROM PUBLIC;

CREATE FUNCTION orion_private.token_sign(claims jsonb) RETURNS text
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_token_sign';
COMMENT ON FUNCTION orion_private.token_sign(jsonb) IS 'Signs with the active key; null when there is none';
REVOKE ALL ON FUNCTION orion_private.token_sign(jsonb) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_key_create(alg text DEFAULT 'ES256') RETURNS text
	LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	new_kid text := replace(gen_random_uuid()::text, '-', '');
	pair record;
BEGIN
	pair := orion_private.key_generate(new_kid, alg);
	UPDATE orion_private.signing_keys SET status = 'published' WHERE status = 'active';
	INSERT INTO orion_private.signing_keys (kid, alg, secret, public_key)
	VALUES (new_kid, orion_key_create.alg, pair.secret, pair.public_key);
	RETURN new_kid;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_key_create(text) IS 'Makes a new signing key (HS256, RS256 or ES256) the active one and returns its id; tokens of the former key stay valid';
REVOKE ALL ON FUNCTION @extschema@.orion_key_create(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_key_create(text) TO orion_admin;

CREATE FUNCTION @extschema@.orion_key_retire(kid text) RETURNS boolean
	LANGUAGE sql VOLATILE STRICT SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
	WITH retired AS (
		UPDATE orion_private.signing_keys AS k SET status = 'retired'
		WHERE k.kid = orion_key_retire.kid AND k.status <> 'retired'
		RETURNING 1)
	SELECT EXISTS (SELECT FROM retired);
$function$;
COMMENT ON FUNCTION @extschema@.orion_key_retire(text) IS 'Refuses all tokens of this signing key from the commit on; false when there is no such key in use';
REVOKE ALL ON FUNCTION @extschema@.orion_key_retire(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_key_retire(text) TO orion_admin;

CREATE FUNCTION @extschema@.orion_jwt_sign(claims jsonb) RETURNS text
	LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	token text := orion_private.token_sign(claims);
BEGIN
	IF token IS NULL THEN
		-- the first token ever, or the active key was retired: one session makes a key
		LOCK TABLE orion_private.signing_keys IN SHARE ROW EXCLUSIVE MODE;
		token := orion_private.token_sign(claims);
		IF token IS NULL THEN
			PERFORM @extschema@.orion_key_create('HS256');
			token := orion_private.token_sign(claims);
		END IF;
	END IF;
	RETURN token;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_jwt_sign(jsonb) IS 'Signs exactly these claims with the active key. Whoever may call it may become any user and any role over HTTP';
REVOKE ALL ON FUNCTION @extschema@.orion_jwt_sign(jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_jwt_sign(jsonb) TO orion_service, orion_admin;

-- Safe for everybody: it says no more about a token than the HTTP interface does.
CREATE FUNCTION @extschema@.orion_jwt_verify(token text) RETURNS jsonb
	LANGUAGE c STABLE STRICT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'orion_jwt_verify';
COMMENT ON FUNCTION @extschema@.orion_jwt_verify(text) IS 'The claims of a valid token; raises PT401 with the reason otherwise';
REVOKE ALL ON FUNCTION @extschema@.orion_jwt_verify(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_jwt_verify(text) TO orion_anon, orion_user, orion_service, orion_admin;

CREATE FUNCTION @extschema@.orion_authenticate(token text) RETURNS jsonb
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'orion_authenticate';
COMMENT ON FUNCTION @extschema@.orion_authenticate(text) IS 'Verifies a token and makes its claims those of this transaction, for SQL clients; the database role stays. Raises PT401';
REVOKE ALL ON FUNCTION @extschema@.orion_authenticate(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_authenticate(text) TO orion_anon, orion_user, orion_service, orion_admin;

-- No pinned search_path: they take no name from it, and policies call them often.
CREATE FUNCTION @extschema@.orion_claims() RETURNS jsonb
	LANGUAGE c STABLE PARALLEL RESTRICTED
	AS 'MODULE_PATHNAME', 'orion_claims';
COMMENT ON FUNCTION @extschema@.orion_claims() IS 'The verified claims of this transaction; null when nobody is signed in';
CREATE FUNCTION @extschema@.orion_uid() RETURNS uuid
	LANGUAGE c STABLE PARALLEL RESTRICTED
	AS 'MODULE_PATHNAME', 'orion_uid';
COMMENT ON FUNCTION @extschema@.orion_uid() IS 'The id of the signed-in user (claim "sub"); null when nobody is signed in';
CREATE FUNCTION @extschema@.orion_role() RETURNS text
	LANGUAGE c STABLE PARALLEL RESTRICTED
	AS 'MODULE_PATHNAME', 'orion_role';
COMMENT ON FUNCTION @extschema@.orion_role() IS 'The claim "role"; null when nobody is signed in';
REVOKE ALL ON FUNCTION @extschema@.orion_claims(), @extschema@.orion_uid(), @extschema@.orion_role() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_claims(), @extschema@.orion_uid(), @extschema@.orion_role()
	TO orion_anon, orion_user, orion_service, orion_admin;

-- src/outbox/outbox.sql

CREATE TABLE orion_private.sinks (
	id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name text NOT NULL UNIQUE
);
