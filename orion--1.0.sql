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

CREATE FUNCTION orion_private.key_seal(kid text, alg text, key bytea, OUT secret bytea, OUT public_key text)
	LANGUAGE c VOLATILE STRICT PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'orion_key_seal';
COMMENT ON FUNCTION orion_private.key_seal(text, text, bytea) IS 'A key made elsewhere, sealed for the row with this key id';
REVOKE ALL ON FUNCTION orion_private.key_seal(text, text, bytea) FROM PUBLIC;

CREATE FUNCTION orion_private.token_sign(claims jsonb) RETURNS text
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_token_sign';
COMMENT ON FUNCTION orion_private.token_sign(jsonb) IS 'Signs with the active key; null when there is none';
REVOKE ALL ON FUNCTION orion_private.token_sign(jsonb) FROM PUBLIC;

-- Rotation: publish, sign (activate), retire.

CREATE FUNCTION @extschema@.orion_key_publish(alg text DEFAULT 'ES256') RETURNS text
	LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	new_kid text := replace(gen_random_uuid()::text, '-', '');
	pair record;
BEGIN
	pair := orion_private.key_generate(new_kid, alg);
	INSERT INTO orion_private.signing_keys (kid, alg, secret, public_key, status)
	VALUES (new_kid, orion_key_publish.alg, pair.secret, pair.public_key, 'published');
	PERFORM orion_private.audit('key.published', 'signing_key', new_kid, new => jsonb_build_object('alg', alg));
	RETURN new_kid;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_key_publish(text) IS 'Makes a new signing key (HS256, RS256 or ES256) that verifies and is in the JWKS but does not sign yet; returns its id';
REVOKE ALL ON FUNCTION @extschema@.orion_key_publish(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_key_publish(text) TO orion_admin;

CREATE FUNCTION @extschema@.orion_key_import(alg text, key bytea) RETURNS text
	LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	new_kid text := replace(gen_random_uuid()::text, '-', '');
	pair record := orion_private.key_seal(new_kid, alg, key);
BEGIN
	INSERT INTO orion_private.signing_keys (kid, alg, secret, public_key, status)
	VALUES (new_kid, orion_key_import.alg, pair.secret, pair.public_key, 'published');
	PERFORM orion_private.audit('key.published', 'signing_key', new_kid, new => jsonb_build_object('alg', alg, 'imported', true));
	RETURN new_kid;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_key_import(text, bytea) IS 'Publishes a key made elsewhere: a secret of 32 bytes or more (HS256), or a private key as PEM (RS256, ES256); returns its id. Pass the key as a bind parameter: statements may be logged';
REVOKE ALL ON FUNCTION @extschema@.orion_key_import(text, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_key_import(text, bytea) TO orion_admin;

CREATE FUNCTION @extschema@.orion_key_activate(kid text) RETURNS boolean
	LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	-- two at once would both be active for a moment
	LOCK TABLE orion_private.signing_keys IN SHARE ROW EXCLUSIVE MODE;
	IF NOT EXISTS (SELECT FROM orion_private.signing_keys AS k
		WHERE k.kid = orion_key_activate.kid AND k.status <> 'retired' AND k.secret IS NOT NULL) THEN
		RETURN false;
	END IF;
	UPDATE orion_private.signing_keys AS k SET status = 'published' WHERE k.status = 'active' AND k.kid <> orion_key_activate.kid;
	UPDATE orion_private.signing_keys AS k SET status = 'active' WHERE k.kid = orion_key_activate.kid AND k.status <> 'active';
	IF FOUND THEN
		PERFORM orion_private.audit('key.activated', 'signing_key', kid);
	END IF;
	RETURN true;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_key_activate(text) IS 'Signs with this key from the commit on; the former one still verifies. False when there is no such key that could';
REVOKE ALL ON FUNCTION @extschema@.orion_key_activate(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_key_activate(text) TO orion_admin;

CREATE FUNCTION @extschema@.orion_key_create(alg text DEFAULT 'ES256') RETURNS text
	LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	new_kid text := @extschema@.orion_key_publish(alg);
BEGIN
	PERFORM @extschema@.orion_key_activate(new_kid);
	RETURN new_kid;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_key_create(text) IS 'Makes a new signing key (HS256, RS256 or ES256) the active one and returns its id; tokens of the former key stay valid';
REVOKE ALL ON FUNCTION @extschema@.orion_key_create(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_key_create(text) TO orion_admin;

CREATE FUNCTION @extschema@.orion_key_retire(kid text) RETURNS boolean
	LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	UPDATE orion_private.signing_keys AS k SET status = 'retired'
	WHERE k.kid = orion_key_retire.kid AND k.status <> 'retired';
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM orion_private.audit('key.retired', 'signing_key', kid);
	RETURN true;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_key_retire(text) IS 'Refuses all tokens of this signing key from the commit on; false when there is no such key in use';
REVOKE ALL ON FUNCTION @extschema@.orion_key_retire(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_key_retire(text) TO orion_admin;

CREATE FUNCTION orion_private.key_jwk(public_key text) RETURNS jsonb
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_key_jwk';
COMMENT ON FUNCTION orion_private.key_jwk(text) IS 'The members of a JSON Web Key (RFC 7517, RFC 7518) that describe this public key in PEM';
REVOKE ALL ON FUNCTION orion_private.key_jwk(text) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_jwks() RETURNS jsonb
	LANGUAGE sql STABLE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
	SELECT jsonb_build_object('keys', coalesce(jsonb_agg(orion_private.key_jwk(k.public_key)
		|| jsonb_build_object('kid', k.kid, 'alg', k.alg, 'use', 'sig') ORDER BY k.created_at DESC, k.kid), '[]'))
	FROM orion_private.signing_keys AS k WHERE k.public_key IS NOT NULL AND k.status <> 'retired';
$function$;
COMMENT ON FUNCTION @extschema@.orion_jwks() IS 'The JSON Web Key Set (RFC 7517) of the public keys in use; HS256 keys are secrets and not in it';
REVOKE ALL ON FUNCTION @extschema@.orion_jwks() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_jwks() TO orion_anon, orion_user, orion_service, orion_admin;

CREATE FUNCTION orion_private.token_sign_first(claims jsonb) RETURNS text
	LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	token text;
BEGIN
	LOCK TABLE orion_private.signing_keys IN SHARE ROW EXCLUSIVE MODE;
	token := orion_private.token_sign(claims);
	IF token IS NULL THEN
		PERFORM @extschema@.orion_key_create('HS256');
		token := orion_private.token_sign(claims);
	END IF;
	RETURN token;
END
$function$;
COMMENT ON FUNCTION orion_private.token_sign_first(jsonb) IS 'Signs where there is no active key, at first or after the last was retired: one session makes one';
REVOKE ALL ON FUNCTION orion_private.token_sign_first(jsonb) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_jwt_sign(claims jsonb) RETURNS text
	LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	RETURN coalesce(orion_private.token_sign(claims), orion_private.token_sign_first(claims));
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
-- For Orion's own functions: an overload in that schema could make the calls above ambiguous.
CREATE FUNCTION orion_private.claims() RETURNS jsonb
	LANGUAGE c STABLE PARALLEL RESTRICTED
	AS 'MODULE_PATHNAME', 'orion_claims';
COMMENT ON FUNCTION orion_private.claims() IS 'See orion_claims';
CREATE FUNCTION orion_private.uid() RETURNS uuid
	LANGUAGE c STABLE PARALLEL RESTRICTED
	AS 'MODULE_PATHNAME', 'orion_uid';
COMMENT ON FUNCTION orion_private.uid() IS 'See orion_uid';
REVOKE ALL ON FUNCTION orion_private.claims(), orion_private.uid() FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.orion_claims(), @extschema@.orion_uid(), @extschema@.orion_role() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_claims(), @extschema@.orion_uid(), @extschema@.orion_role()
	TO orion_anon, orion_user, orion_service, orion_admin;

-- Revocations: what ends tokens before they expire.

CREATE TABLE orion_private.revocations (
	id uuid PRIMARY KEY,
	epoch timestamptz NOT NULL,
	until timestamptz NOT NULL
);
-- revocation.c reads the columns by their number
COMMENT ON TABLE orion_private.revocations IS 'Sessions that ended (epoch infinity) or fell back to aal1, and users that were signed out: access tokens issued before epoch, of a downgraded session those of aal2, are dead; the row is needed until the last of them would have expired';
SELECT pg_catalog.pg_extension_config_dump('orion_private.revocations', '');

CREATE FUNCTION orion_private.revocation_note(id uuid, epoch timestamptz, until timestamptz) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_revocation_note';
COMMENT ON FUNCTION orion_private.revocation_note(uuid, timestamptz, timestamptz) IS 'Tells every process at commit; a null epoch takes a revocation back';

CREATE FUNCTION orion_private.revoke(id uuid, epoch timestamptz, until timestamptz) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	INSERT INTO orion_private.revocations AS r (id, epoch, until)
	VALUES (revoke.id, revoke.epoch, revoke.until)
	ON CONFLICT ON CONSTRAINT revocations_pkey DO UPDATE
		SET epoch = greatest(r.epoch, excluded.epoch), until = greatest(r.until, excluded.until)
	RETURNING r.epoch, r.until INTO epoch, until;
	PERFORM orion_private.revocation_note(revoke.id, revoke.epoch, revoke.until);
END
$function$;
COMMENT ON FUNCTION orion_private.revoke(uuid, timestamptz, timestamptz) IS 'From the commit on, refuses access tokens of this session or user issued before epoch (infinity: all); forgotten after until';

CREATE FUNCTION orion_private.unrevoke(id uuid) RETURNS void
	LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	DELETE FROM orion_private.revocations AS r WHERE r.id = unrevoke.id;
	PERFORM orion_private.revocation_note(unrevoke.id, NULL, NULL);
END
$function$;
COMMENT ON FUNCTION orion_private.unrevoke(uuid) IS 'Takes a revocation back from the commit on';
REVOKE ALL ON FUNCTION orion_private.revocation_note(uuid, timestamptz, timestamptz),
	orion_private.revoke(uuid, timestamptz, timestamptz), orion_private.unrevoke(uuid) FROM PUBLIC;

-- src/audit/audit.sql

-- The audit log: who did what to what, and what was refused. Rows are only added.

CREATE SEQUENCE orion_private.audit_log_seq AS bigint;

CREATE TABLE orion_private.audit_log (
	id bigint NOT NULL DEFAULT pg_catalog.nextval('orion_private.audit_log_seq'),
	occurred_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	actor uuid,
	session_id uuid,
	db_user name NOT NULL DEFAULT SESSION_USER,
	action text NOT NULL,
	target_type text,
	target_id text,
	outcome text NOT NULL DEFAULT 'ok',
	address inet,
	user_agent text,
	old jsonb,
	new jsonb,
	metadata jsonb
) PARTITION BY RANGE (occurred_at);
COMMENT ON TABLE orion_private.audit_log IS 'Every change of users, roles, keys and permissions, and every refused attempt; append-only, a partition a month (UTC)';
COMMENT ON COLUMN orion_private.audit_log.actor IS 'The signed-in user, or who tried to be; null for SQL clients without a token';
COMMENT ON COLUMN orion_private.audit_log.db_user IS 'The database user that was connected; of an HTTP request the role it ran as';
COMMENT ON COLUMN orion_private.audit_log.outcome IS '"ok", or why it was refused';
SELECT pg_catalog.pg_extension_config_dump('orion_private.audit_log_seq', '');

-- Always: also where session_replication_role keeps ordinary triggers quiet.
CREATE FUNCTION orion_private.audit_refuse() RETURNS trigger
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	RAISE EXCEPTION 'the audit log is append-only: % is not allowed', lower(TG_OP)
		USING ERRCODE = 'insufficient_privilege',
			HINT = 'Detach the partition of an old month to archive it.';
END
$function$;
COMMENT ON FUNCTION orion_private.audit_refuse() IS 'Refuses every change of what is in the audit log';
REVOKE ALL ON FUNCTION orion_private.audit_refuse() FROM PUBLIC;
-- each partition has its own copy of the first, and needs one of the second
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON orion_private.audit_log
	FOR EACH ROW EXECUTE FUNCTION orion_private.audit_refuse();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON orion_private.audit_log
	FOR EACH STATEMENT EXECUTE FUNCTION orion_private.audit_refuse();

-- Indexes belong to partitions. If the table had them, attaching a partition of a dump
-- would make them, and the dump would make them once more.
CREATE FUNCTION orion_private.audit_indexes(partition text) RETURNS void
	LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	EXECUTE format('ALTER TABLE orion_private.%1$I ADD PRIMARY KEY (occurred_at, id)', partition);
	EXECUTE format('CREATE INDEX ON orion_private.%1$I (actor, occurred_at) WHERE actor IS NOT NULL', partition);
	EXECUTE format('CREATE INDEX ON orion_private.%1$I (target_type, target_id, occurred_at)', partition);
	EXECUTE format('CREATE INDEX ON orion_private.%1$I (occurred_at) WHERE outcome <> ''ok'' OR action ^@ ''security.''', partition);
END
$function$;
COMMENT ON FUNCTION orion_private.audit_indexes(text) IS 'Makes the indexes of a partition of the audit log';
REVOKE ALL ON FUNCTION orion_private.audit_indexes(text) FROM PUBLIC;

CREATE TABLE orion_private.audit_log_default PARTITION OF orion_private.audit_log DEFAULT;
SELECT orion_private.audit_indexes('audit_log_default'::pg_catalog.text);
COMMENT ON TABLE orion_private.audit_log_default IS 'Audit rows of months that had no partition in time';
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON orion_private.audit_log_default
	FOR EACH STATEMENT EXECUTE FUNCTION orion_private.audit_refuse();
ALTER TABLE orion_private.audit_log ENABLE ALWAYS TRIGGER append_only;
ALTER TABLE orion_private.audit_log ENABLE ALWAYS TRIGGER no_truncate;
ALTER TABLE orion_private.audit_log_default ENABLE ALWAYS TRIGGER append_only;
ALTER TABLE orion_private.audit_log_default ENABLE ALWAYS TRIGGER no_truncate;
SELECT pg_catalog.pg_extension_config_dump('orion_private.audit_log_default', '');

-- Months are not made by the install script: pg_dump would then take them for part of
-- the extension, and a restore in another month would not find them. As ordinary
-- tables they are dumped and restored like any.
CREATE FUNCTION orion_private.audit_partitions(ahead int DEFAULT 3) RETURNS boolean
	LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	SET lock_timeout = '1s'
	SET timezone = 'UTC'
	AS $function$
DECLARE
	month timestamptz;
	partition text;
BEGIN
	FOR i IN 0 .. ahead LOOP
		month := date_trunc('month', now()) + make_interval(months => i);
		partition := 'audit_log_' || to_char(month, 'YYYY_MM');
		CONTINUE WHEN to_regclass('orion_private.' || partition) IS NOT NULL;
		-- rows that went to the default partition stay there, and so does their month;
		-- nobody is kept waiting to find that out
		CONTINUE WHEN EXISTS (SELECT FROM orion_private.audit_log_default AS d
			WHERE d.occurred_at >= month AND d.occurred_at < month + interval '1 month');
		BEGIN
			-- A row on its way to the default partition would be refused if its month
			-- were attached meanwhile, and with it what it records. So nobody is on the
			-- way: who has written to the log holds a lock until the transaction ends.
			LOCK TABLE orion_private.audit_log IN SHARE ROW EXCLUSIVE MODE;
			CONTINUE WHEN EXISTS (SELECT FROM orion_private.audit_log_default AS d
				WHERE d.occurred_at >= month AND d.occurred_at < month + interval '1 month');
			EXECUTE format('CREATE TABLE orion_private.%I (LIKE orion_private.audit_log INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', partition);
			EXECUTE format('CREATE TRIGGER no_truncate BEFORE TRUNCATE ON orion_private.%I'
				' FOR EACH STATEMENT EXECUTE FUNCTION orion_private.audit_refuse()', partition);
			PERFORM orion_private.audit_indexes(partition);
			EXECUTE format('ALTER TABLE orion_private.%I ENABLE ALWAYS TRIGGER no_truncate', partition);
			EXECUTE format('ALTER TABLE orion_private.audit_log ATTACH PARTITION orion_private.%I FOR VALUES FROM (%L) TO (%L)',
				partition, month, month + interval '1 month');
		EXCEPTION
			WHEN lock_not_available THEN
				RETURN false;
			WHEN check_violation OR duplicate_table OR unique_violation THEN
				NULL;	-- somebody was faster
		END;
	END LOOP;
	RETURN true;
END
$function$;
COMMENT ON FUNCTION orion_private.audit_partitions(int) IS 'Makes the audit log''s partitions of this month and the next ones; false when a lock was not to be had';
REVOKE ALL ON FUNCTION orion_private.audit_partitions(int) FROM PUBLIC;

CREATE FUNCTION orion_private.request_origin(OUT address inet, OUT user_agent text)
	LANGUAGE c STABLE PARALLEL RESTRICTED
	AS 'MODULE_PATHNAME', 'orion_request_origin';
COMMENT ON FUNCTION orion_private.request_origin() IS 'Where the HTTP request, or the SQL client, of this transaction comes from; no setting can forge it';
REVOKE ALL ON FUNCTION orion_private.request_origin() FROM PUBLIC;

-- For Orion's own functions. Never pass a password, a token or a hash.
CREATE FUNCTION orion_private.audit(action text, target_type text DEFAULT NULL, target_id text DEFAULT NULL,
	outcome text DEFAULT 'ok', old jsonb DEFAULT NULL, new jsonb DEFAULT NULL, metadata jsonb DEFAULT NULL,
	actor uuid DEFAULT NULL, session_id uuid DEFAULT NULL, address inet DEFAULT NULL, user_agent text DEFAULT NULL)
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	origin record := orion_private.request_origin();
	claimed text := orion_private.claims() ->> 'session_id';
BEGIN
	INSERT INTO orion_private.audit_log (db_user, actor, session_id, action, target_type, target_id, outcome,
		address, user_agent, old, new, metadata)
	VALUES (CASE session_user WHEN 'orion_authenticator' THEN coalesce(pg_get_userbyid(orion_private.caller()), session_user) ELSE session_user END,
		coalesce(audit.actor, orion_private.uid()),
		-- tokens of another issuer may have anything there
		coalesce(audit.session_id, CASE WHEN claimed ~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' THEN claimed::uuid END),
		audit.action, audit.target_type, left(audit.target_id, 512), coalesce(audit.outcome, 'ok'),
		coalesce(audit.address, origin.address), left(coalesce(audit.user_agent, origin.user_agent), 512),
		orion_private.audit_bounded(audit.old), orion_private.audit_bounded(audit.new),
		orion_private.audit_bounded(audit.metadata));
END
$function$;
COMMENT ON FUNCTION orion_private.audit(text, text, text, text, jsonb, jsonb, jsonb, uuid, uuid, inet, text) IS
	'Adds a row to the audit log; actor, session, address and user agent are those of the transaction unless given';

CREATE FUNCTION orion_private.audit_bounded(value jsonb) RETURNS jsonb
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
	SELECT CASE WHEN octet_length(value::text) <= 65536 THEN value
		ELSE jsonb_build_object('omitted', 'larger than 64 kB', 'bytes', octet_length(value::text)) END;
$function$;
COMMENT ON FUNCTION orion_private.audit_bounded(jsonb) IS 'The value, or a note of its size when it has more than 64 kB';
REVOKE ALL ON FUNCTION orion_private.audit(text, text, text, text, jsonb, jsonb, jsonb, uuid, uuid, inet, text),
	orion_private.audit_bounded(jsonb) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_audit(action text, target_type text DEFAULT NULL, target_id text DEFAULT NULL,
	outcome text DEFAULT 'ok', old jsonb DEFAULT NULL, new jsonb DEFAULT NULL, metadata jsonb DEFAULT NULL)
	RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	IF action IS NULL OR action !~ '^[a-z][a-z0-9_]*(\.[a-z0-9_]+)+$' OR char_length(action) > 100 THEN
		RAISE EXCEPTION 'an action is named like "order.cancelled"'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM orion_private.audit(action, target_type, target_id, outcome, old, new, metadata);
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_audit(text, text, text, text, jsonb, jsonb, jsonb) IS
	'Adds a row of the application to the audit log; who and where from are taken from the transaction';
REVOKE ALL ON FUNCTION @extschema@.orion_audit(text, text, text, text, jsonb, jsonb, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_audit(text, text, text, text, jsonb, jsonb, jsonb) TO orion_service, orion_admin;

CREATE VIEW orion.audit_log WITH (security_invoker = true) AS
	SELECT id, occurred_at, actor, session_id, db_user, action, target_type, target_id, outcome,
		address, user_agent, old, new, metadata
	FROM orion_private.audit_log;
COMMENT ON VIEW orion.audit_log IS 'Who did what to what, with the values before and after; for administrators';
CREATE VIEW orion.security_events WITH (security_invoker = true) AS
	SELECT id, occurred_at, actor, session_id, db_user, action, target_type, target_id, outcome,
		address, user_agent, metadata
	FROM orion_private.audit_log
	WHERE outcome <> 'ok' OR action ^@ 'security.';
COMMENT ON VIEW orion.security_events IS 'What was refused, and actions named "security."; for administrators';
-- the views check the caller's right on the table; nobody can name the table itself
GRANT SELECT ON orion_private.audit_log, orion.audit_log, orion.security_events TO orion_admin;

-- src/auth/auth.sql

-- Users, sessions, registration and login.
--
-- What may be in a query: ids, mail addresses, hashes, sealed keys. What may not:
-- passwords and tokens. They only pass through assignments, which no log of nested
-- statements, no plan and no error message shows.

CREATE TABLE orion_private.users (
	id uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
	email text COLLATE "C" NOT NULL UNIQUE CHECK (email = lower(email) AND octet_length(email) <= 254),
	password_hash text,
	role name NOT NULL DEFAULT 'orion_user',
	display_name text CHECK (char_length(display_name) <= 200 AND display_name !~ '[\x01-\x1f\x7f]'),
	avatar_url text CHECK (octet_length(avatar_url) <= 2048 AND avatar_url ~ '^https?://[^\x01-\x20\x7f]+$'),
	user_metadata jsonb NOT NULL DEFAULT '{}'
		CHECK (jsonb_typeof(user_metadata) = 'object' AND octet_length(user_metadata::text) <= 16384),
	app_metadata jsonb NOT NULL DEFAULT '{}'
		CHECK (jsonb_typeof(app_metadata) = 'object' AND octet_length(app_metadata::text) <= 16384),
	email_verified_at timestamptz,
	last_login_at timestamptz,
	banned_until timestamptz,
	version bigint NOT NULL DEFAULT 1,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	updated_at timestamptz NOT NULL DEFAULT pg_catalog.now()
) WITH (fillfactor = 90);
COMMENT ON TABLE orion_private.users IS 'Who can sign in; email is normalised to lower case';
COMMENT ON COLUMN orion_private.users.user_metadata IS 'What users say about themselves; they can change it';
COMMENT ON COLUMN orion_private.users.app_metadata IS 'What the application says about users; they cannot change it';
SELECT pg_catalog.pg_extension_config_dump('orion_private.users', '');

CREATE TABLE orion_private.devices (
	id uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
	user_id uuid NOT NULL REFERENCES orion_private.users ON DELETE CASCADE,
	fingerprint bytea NOT NULL CHECK (length(fingerprint) = 32),
	user_agent text,
	last_address inet,
	first_seen_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	last_seen_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	UNIQUE (user_id, fingerprint)
);
COMMENT ON TABLE orion_private.devices IS 'What users signed in from; the fingerprint is the SHA-256 of what the client says of itself: its device id or else its user agent';
SELECT pg_catalog.pg_extension_config_dump('orion_private.devices', '');

CREATE TABLE orion_private.sessions (
	id uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
	user_id uuid NOT NULL REFERENCES orion_private.users ON DELETE CASCADE,
	device_id uuid REFERENCES orion_private.devices ON DELETE SET NULL,
	refresh_key bytea NOT NULL,
	refresh_counter bigint NOT NULL DEFAULT 1,
	aal text NOT NULL DEFAULT 'aal1' CHECK (aal IN ('aal1', 'aal2')),
	amr jsonb NOT NULL DEFAULT '[]',
	address inet,
	user_agent text,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	refreshed_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	access_expires_at timestamptz NOT NULL,
	expires_at timestamptz NOT NULL,
	downgraded_at timestamptz,
	revoked_at timestamptz,
	revoke_reason text
);
COMMENT ON TABLE orion_private.sessions IS 'One row a sign-in; refresh tokens follow from the sealed key and the counter and are not stored';
COMMENT ON COLUMN orion_private.sessions.access_expires_at IS 'When the last of its access tokens expires';
COMMENT ON COLUMN orion_private.sessions.downgraded_at IS 'When it fell back to aal1; aal2 tokens issued up to then are dead';
CREATE INDEX sessions_user_id ON orion_private.sessions (user_id);
CREATE INDEX sessions_device_id ON orion_private.sessions (device_id);
SELECT pg_catalog.pg_extension_config_dump('orion_private.sessions', '');

CREATE FUNCTION orion_private.address_network(address inet) RETURNS inet
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_address_network';
COMMENT ON FUNCTION orion_private.address_network(inet) IS 'What one client may choose from: the address itself, or the /64 of an IPv6 address';
REVOKE ALL ON FUNCTION orion_private.address_network(inet) FROM PUBLIC;

CREATE TABLE orion_private.login_attempts (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	attempted_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	email text COLLATE "C",
	user_id uuid,
	outcome text NOT NULL CHECK (outcome IN ('ok', 'two_factor_required', 'invalid_credentials', 'invalid_code', 'banned', 'locked',
		'invalid_token', 'email_exists', 'reset_requested')),
	address inet,
	network inet GENERATED ALWAYS AS (orion_private.address_network(address)) STORED,
	user_agent text
);
COMMENT ON TABLE orion_private.login_attempts IS 'Every attempt to log in, and what else counts for an address: tokens of mails that were none, registrations of known mail addresses, requests for a reset. Of what was locked 1,000 of a network in a window. email is null when what was given is no mail address (it may be a mistyped password)';
CREATE INDEX login_attempts_email ON orion_private.login_attempts (email, attempted_at);
CREATE INDEX login_attempts_address ON orion_private.login_attempts (network, attempted_at);
CREATE INDEX login_attempts_attempted_at ON orion_private.login_attempts (attempted_at);
SELECT pg_catalog.pg_extension_config_dump('orion_private.login_attempts', '');
SELECT pg_catalog.pg_extension_config_dump('orion_private.login_attempts_id_seq', '');

-- Primitives

CREATE FUNCTION @extschema@.orion_hash_password(password text) RETURNS text
	LANGUAGE c VOLATILE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_hash_password';
COMMENT ON FUNCTION @extschema@.orion_hash_password(text) IS 'Argon2id hash in the PHC string format, with the parameters of orion.auth_password_memory and orion.auth_password_time';
CREATE FUNCTION @extschema@.orion_verify_password(password text, hash text) RETURNS boolean
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_verify_password';
COMMENT ON FUNCTION @extschema@.orion_verify_password(text, text) IS 'Whether the password has this Argon2id or bcrypt ($2a$, $2b$, $2y$) hash; false for other kinds and for absurd costs';
REVOKE ALL ON FUNCTION @extschema@.orion_hash_password(text), @extschema@.orion_verify_password(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_hash_password(text), @extschema@.orion_verify_password(text, text)
	TO orion_service, orion_admin;

CREATE FUNCTION orion_private.password_stale(hash text) RETURNS boolean
	LANGUAGE c STABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_password_stale';
COMMENT ON FUNCTION orion_private.password_stale(text) IS 'Whether a new hash would have other parameters';
CREATE FUNCTION orion_private.refresh_key(session uuid) RETURNS bytea
	LANGUAGE c VOLATILE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_refresh_key';
COMMENT ON FUNCTION orion_private.refresh_key(uuid) IS 'A new key for the refresh tokens of a session, sealed; for tests, sign-ins make it in C';
CREATE FUNCTION orion_private.refresh_token(session uuid, key bytea, counter bigint) RETURNS text
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_refresh_token';
COMMENT ON FUNCTION orion_private.refresh_token(uuid, bytea, bigint) IS 'The refresh token of a session for this count';
CREATE FUNCTION orion_private.password_common(password text) RETURNS boolean
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_password_common';
COMMENT ON FUNCTION orion_private.password_common(text) IS 'Whether the password is among those tried first, by a list that comes with Orion';
REVOKE ALL ON FUNCTION orion_private.password_common(text) FROM PUBLIC;
CREATE FUNCTION orion_private.refresh_parse(token text, OUT session uuid, OUT counter bigint)
	LANGUAGE c STABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_refresh_parse';
COMMENT ON FUNCTION orion_private.refresh_parse(text) IS 'What a refresh token says; nulls when this server did not make it';
CREATE FUNCTION orion_private.refresh_valid(token text, session uuid, key bytea) RETURNS boolean
	LANGUAGE c STABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_refresh_valid';
COMMENT ON FUNCTION orion_private.refresh_valid(text, uuid, bytea) IS 'Whether a refresh token was made with the key of this session';
CREATE FUNCTION orion_private.auth_settings(
	OUT access_token_ttl int, OUT refresh_token_ttl int, OUT password_min_length int,
	OUT issuer text, OUT audience text, OUT uniform_answers boolean,
	OUT login_window int, OUT login_max_account int, OUT login_max_address int, OUT login_max_pair int)
	LANGUAGE c STABLE PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_auth_settings';
COMMENT ON FUNCTION orion_private.auth_settings() IS 'Settings of this module as values; times in seconds';

CREATE FUNCTION orion_private.email_normalize(email text) RETURNS text
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_email_normalize';
COMMENT ON FUNCTION orion_private.email_normalize(text) IS 'Lower case (ASCII, whatever the locale) without spaces around; null when longer than 254 bytes (RFC 5321 4.5.3.1.3)';

CREATE FUNCTION orion_private.email_valid(email text) RETURNS boolean
	LANGUAGE c IMMUTABLE PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_email_valid';
COMMENT ON FUNCTION orion_private.email_valid(text) IS 'Whether this has the form of a mail address: dotted domain, no quoted local part, no space or control character';
REVOKE ALL ON FUNCTION orion_private.password_stale(text),
	orion_private.refresh_key(uuid), orion_private.refresh_token(uuid, bytea, bigint),
	orion_private.refresh_parse(text), orion_private.refresh_valid(text, uuid, bytea), orion_private.auth_settings(), orion_private.email_normalize(text), orion_private.email_valid(text) FROM PUBLIC;

-- Sessions

CREATE FUNCTION orion_private.access_token(u orion_private.users, session orion_private.sessions, issued_at timestamptz) RETURNS text
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_access_token';
COMMENT ON FUNCTION orion_private.access_token(orion_private.users, orion_private.sessions, timestamptz) IS 'The access token of a user in a session; metadata over 4 kB is left out';
REVOKE ALL ON FUNCTION orion_private.access_token(orion_private.users, orion_private.sessions, timestamptz) FROM PUBLIC;

CREATE FUNCTION orion_private.device_new(u orion_private.users, device uuid, address inet, user_agent text) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	IF EXISTS (SELECT FROM orion_private.devices AS d WHERE d.user_id = u.id AND d.id <> device) THEN
		PERFORM orion_private.publish('auth.new_device', jsonb_build_object('id', u.id, 'email', u.email,
			'deviceId', device, 'address', host(address), 'userAgent', user_agent), 'user', u.id::text);
		PERFORM orion_private.audit('security.new_device', 'user', u.id::text, metadata => jsonb_build_object('deviceId', device),
			actor => u.id, address => device_new.address, user_agent => device_new.user_agent);
	END IF;
END
$function$;
COMMENT ON FUNCTION orion_private.device_new(orion_private.users, uuid, inet, text) IS 'Publishes auth.new_device when the user is known from other devices';
REVOKE ALL ON FUNCTION orion_private.device_new(orion_private.users, uuid, inet, text) FROM PUBLIC;

CREATE FUNCTION orion_private.session_open(u orion_private.users, method text, device text, address inet, user_agent text,
	earlier jsonb DEFAULT '[]', aal text DEFAULT 'aal1',
	OUT session_id uuid, OUT access_token text, OUT refresh_token text, OUT expires_in int)
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_session_open';
COMMENT ON FUNCTION orion_private.session_open(orion_private.users, text, text, inet, text, jsonb, text) IS 'A new session and its tokens; earlier: entries of amr for the methods before';
REVOKE ALL ON FUNCTION orion_private.session_open(orion_private.users, text, text, inet, text, jsonb, text) FROM PUBLIC;

-- Registration and login

CREATE TABLE orion_private.one_time_tokens (
	digest bytea PRIMARY KEY CHECK (length(digest) = 32),
	user_id uuid REFERENCES orion_private.users ON DELETE CASCADE,
	purpose text NOT NULL CHECK (purpose IN ('verify_email', 'reset_password')),
	email text COLLATE "C" NOT NULL,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	expires_at timestamptz NOT NULL,
	used_at timestamptz
);
COMMENT ON TABLE orion_private.one_time_tokens IS 'Tokens sent by mail, as SHA-256; those of unknown addresses have no user and open nothing';
CREATE INDEX one_time_tokens_user_id ON orion_private.one_time_tokens (user_id);
CREATE INDEX one_time_tokens_email ON orion_private.one_time_tokens (email, created_at);
SELECT pg_catalog.pg_extension_config_dump('orion_private.one_time_tokens', '');

CREATE FUNCTION orion_private.one_time_token(user_id uuid, purpose text, email text, lifetime interval,
	OUT sealed text, OUT expires_at timestamptz)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	made record := orion_private.email_token_make(coalesce(user_id, '00000000-0000-0000-0000-000000000000'));
BEGIN
	expires_at := clock_timestamp() + lifetime;
	sealed := made.sealed;
	INSERT INTO orion_private.one_time_tokens (digest, user_id, purpose, email, expires_at)
	VALUES (made.digest, one_time_token.user_id, one_time_token.purpose, one_time_token.email, one_time_token.expires_at);
END
$function$;
COMMENT ON FUNCTION orion_private.one_time_token(uuid, text, text, interval) IS 'A new token, sealed for whoever sends the mail (orion_email_token_open)';

-- Assignments only: no query may have the password as its parameter.
CREATE FUNCTION orion_private.password_problem(password text, email text) RETURNS text
	LANGUAGE plpgsql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	s record := orion_private.auth_settings();
BEGIN
	RETURN CASE
		WHEN password IS NULL OR char_length(password) < s.password_min_length THEN 'weak_password'
		WHEN octet_length(password) > 1024 THEN 'password_too_long'
		WHEN orion_private.password_common(password) OR lower(password COLLATE "C") = email
			OR lower(password COLLATE "C") = split_part(email, '@', 1) THEN 'common_password' END;
END
$function$;
COMMENT ON FUNCTION orion_private.password_problem(text, text) IS 'Why this may not be the password of this address; null when it may';

CREATE FUNCTION orion_private.password_message(problem text) RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
	SELECT CASE problem WHEN 'weak_password' THEN 'the password is too short'
		WHEN 'password_too_long' THEN 'the password is longer than 1024 bytes'
		WHEN 'common_password' THEN 'the password is one of those that are tried first' END;
$function$;
COMMENT ON FUNCTION orion_private.password_message(text) IS 'What an answer says about a password that is refused';
REVOKE ALL ON FUNCTION orion_private.one_time_token(uuid, text, text, interval), orion_private.password_problem(text, text),
	orion_private.password_message(text) FROM PUBLIC;

-- Nobody's mailbox is flooded. What led to a mail is in the audit log.
CREATE FUNCTION orion_private.mail_wait(user_id uuid, action text, outcome text) RETURNS int
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	oldest timestamptz := clock_timestamp() - interval '15 minutes';
	fifth timestamptz := (SELECT a.occurred_at FROM orion_private.audit_log AS a
		WHERE a.target_type = 'user' AND a.target_id = mail_wait.user_id::text AND a.occurred_at > oldest
			AND a.action = mail_wait.action AND a.outcome = mail_wait.outcome
		ORDER BY a.occurred_at DESC OFFSET 4 LIMIT 1);
BEGIN
	RETURN coalesce(ceil(extract(epoch FROM fifth - oldest))::int, 0);
END
$function$;
COMMENT ON FUNCTION orion_private.mail_wait(uuid, text, text) IS 'Seconds until another mail may go out for this action of, or upon, a user; 0: now. Five in 15 minutes may';
REVOKE ALL ON FUNCTION orion_private.mail_wait(uuid, text, text) FROM PUBLIC;

CREATE FUNCTION orion_private.register(email text, password text, display_name text, user_metadata jsonb,
	address inet, user_agent text,
	OUT status text, OUT access_token text, OUT refresh_token text, OUT token_type text, OUT expires_in int, OUT user_id uuid)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	s record := orion_private.auth_settings();
	normalized text := orion_private.email_normalize(email);
	problem text := orion_private.password_problem(password, normalized);
	new_hash text;
	verification record;
	u orion_private.users;
	opened record;
BEGIN
	status := CASE
		WHEN NOT orion_private.email_valid(normalized) THEN 'invalid_email'
		WHEN problem IS NOT NULL THEN problem
		-- it goes into mails: no line of theirs
		WHEN char_length(display_name) > 200 OR display_name ~ '[[:cntrl:]]' THEN 'invalid_display_name'
		WHEN jsonb_typeof(user_metadata) <> 'object' OR octet_length(user_metadata::text) > 16384 THEN 'invalid_user_metadata'
	END;
	IF status IS NOT NULL THEN
		RETURN;
	END IF;
	SELECT known.* INTO u FROM orion_private.users AS known WHERE known.email = normalized;
	IF u.id IS NOT NULL AND s.uniform_answers THEN
		-- the same answer and work; the owner of the address is told
		new_hash := @extschema@.orion_hash_password(password);
		IF orion_private.mail_wait(u.id, 'user.created', 'email_exists') = 0 THEN
			PERFORM orion_private.publish('auth.registration_repeated', jsonb_build_object('id', u.id, 'email', u.email,
				'address', host(address), 'userAgent', user_agent), 'user', u.id::text);
		END IF;
		PERFORM orion_private.audit('user.created', 'user', u.id::text, 'email_exists', address => register.address, user_agent => register.user_agent);
		status := 'accepted';
		RETURN;
	ELSIF u.id IS NOT NULL THEN
		status := 'email_exists';
		PERFORM orion_private.audit('user.created', 'user', u.id::text, status, address => register.address, user_agent => register.user_agent);
		RETURN;
	END IF;

	new_hash := @extschema@.orion_hash_password(password);
	INSERT INTO orion_private.users AS new (email, password_hash, display_name, user_metadata)
	VALUES (normalized, new_hash, register.display_name, coalesce(register.user_metadata, '{}'))
	ON CONFLICT ON CONSTRAINT users_email_key DO NOTHING
	RETURNING new.* INTO u;
	IF u.id IS NULL THEN
		status := CASE WHEN s.uniform_answers THEN 'accepted' ELSE 'email_exists' END;
		RETURN;
	END IF;

	verification := orion_private.one_time_token(u.id, 'verify_email', normalized, interval '1 day');
	PERFORM orion_private.publish('user.created', jsonb_build_object(
		'id', u.id, 'email', u.email, 'displayName', u.display_name, 'role', u.role,
		'version', u.version, 'createdAt', u.created_at,
		'sealedToken', verification.sealed, 'tokenExpiresAt', verification.expires_at), 'user', u.id::text);
	PERFORM orion_private.user_made(u.id);
	IF s.uniform_answers THEN
		status := 'accepted';
		RETURN;
	END IF;
	opened := orion_private.session_open(u, 'password', NULL, address, user_agent);
	status := 'ok';
	access_token := opened.access_token;
	refresh_token := opened.refresh_token;
	token_type := 'bearer';
	expires_in := opened.expires_in;
	user_id := u.id;
END
$function$;
COMMENT ON FUNCTION orion_private.register(text, text, text, jsonb, inet, text) IS 'See orion_register';
REVOKE ALL ON FUNCTION orion_private.register(text, text, text, jsonb, inet, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_register(email text, password text, display_name text DEFAULT NULL, user_metadata jsonb DEFAULT NULL,
	OUT status text, OUT access_token text, OUT refresh_token text, OUT token_type text, OUT expires_in int, OUT user_id uuid)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	done record;
BEGIN
	done := orion_private.register(email, password, display_name, user_metadata, inet_client_addr(), NULL);
	status := done.status;
	access_token := done.access_token;
	refresh_token := done.refresh_token;
	token_type := done.token_type;
	expires_in := done.expires_in;
	user_id := done.user_id;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_register(text, text, text, jsonb) IS 'Makes a user and signs in. Status: ok, accepted (orion.auth_uniform_answers: no tokens, and the same for a known address), email_exists, invalid_email, weak_password, common_password, password_too_long, invalid_display_name, invalid_user_metadata';

CREATE FUNCTION orion_private.attempt_record(email text, user_id uuid, outcome text, address inet, user_agent text) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_attempt_record';
COMMENT ON FUNCTION orion_private.attempt_record(text, uuid, text, inet, text) IS 'Puts an attempt on record, if possible beyond a rollback';
CREATE FUNCTION orion_private.throttle_check(account text, network text, known boolean, failed boolean) RETURNS int
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_throttle_check';
COMMENT ON FUNCTION orion_private.throttle_check(text, text, boolean, boolean) IS 'Seconds until the next attempt; counts a failure when there is none to wait; null: ask the table';
CREATE FUNCTION orion_private.throttle_clear(account text, network text) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_throttle_forget';
COMMENT ON FUNCTION orion_private.throttle_clear(text, text) IS 'Forgets the failures of an account after a success';

-- What shared memory would say, from the table: the failure that has to age before
-- there are fewer than the limit, for each of the three limits.
CREATE FUNCTION orion_private.login_wait_table(account text, network inet, known boolean) RETURNS int
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	s record := orion_private.auth_settings();
	oldest timestamptz := clock_timestamp() - make_interval(secs => s.login_window);
	since timestamptz := greatest(oldest, (SELECT max(a.attempted_at) FROM orion_private.login_attempts AS a
		WHERE a.email = account AND a.outcome = 'ok' AND a.attempted_at > oldest));
	last timestamptz;
BEGIN
	last := greatest(
		CASE WHEN s.login_max_pair > 0 THEN (SELECT a.attempted_at FROM orion_private.login_attempts AS a
			WHERE a.email = account AND a.network = login_wait_table.network AND a.outcome IN ('invalid_credentials', 'invalid_code', 'banned') AND a.attempted_at > since
			ORDER BY a.attempted_at DESC OFFSET s.login_max_pair - 1 LIMIT 1) END,
		CASE WHEN s.login_max_account > 0 AND NOT known THEN (SELECT a.attempted_at FROM orion_private.login_attempts AS a
			WHERE a.email = account AND a.outcome IN ('invalid_credentials', 'invalid_code', 'banned') AND a.attempted_at > since
			ORDER BY a.attempted_at DESC OFFSET s.login_max_account - 1 LIMIT 1) END,
		CASE WHEN s.login_max_address > 0 THEN (SELECT a.attempted_at FROM orion_private.login_attempts AS a
			WHERE a.network = login_wait_table.network AND a.outcome IN ('invalid_credentials', 'invalid_code', 'banned', 'invalid_token', 'email_exists', 'reset_requested') AND a.attempted_at > oldest
			ORDER BY a.attempted_at DESC OFFSET s.login_max_address - 1 LIMIT 1) END);
	RETURN CASE WHEN last IS NULL THEN 0 ELSE greatest(ceil(extract(epoch FROM last - oldest))::int, 1) END;
END
$function$;
COMMENT ON FUNCTION orion_private.login_wait_table(text, inet, boolean) IS 'Seconds until the next attempt, by the table of attempts';

-- first: what shared memory said without a look at who is known, or null.
CREATE FUNCTION orion_private.login_wait_known(account text, network inet, failed boolean, first int) RETURNS int
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	wait int := coalesce(first, orion_private.login_wait_table(account, network, false));
BEGIN
	-- strangers cannot lock out who has signed in from here before
	IF wait > 0 AND EXISTS (SELECT FROM orion_private.users AS u JOIN orion_private.sessions AS s ON s.user_id = u.id
		WHERE u.email = account AND orion_private.address_network(s.address) = network) THEN
		wait := coalesce(orion_private.throttle_check(account, network::text, true, failed),
			orion_private.login_wait_table(account, network, true));
	END IF;
	RETURN wait;
END
$function$;
COMMENT ON FUNCTION orion_private.login_wait_known(text, inet, boolean, int) IS 'The rest of login_wait, where shared memory does not tell or says to wait';

CREATE FUNCTION orion_private.login_wait(account text, network inet, failed boolean) RETURNS int
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_login_wait';
COMMENT ON FUNCTION orion_private.login_wait(text, inet, boolean) IS 'Seconds until the next attempt may be made; 0: now. Counts a failure then';

-- Tokens of mails have 256 random bits: nobody guesses one. What is bounded is the work
-- and the rows that somebody who has none can cause, and how many mail addresses one can
-- try whether they are known.
CREATE FUNCTION orion_private.token_wait(request jsonb, failed boolean, outcome text DEFAULT 'invalid_token') RETURNS int
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	address inet := orion_private.request_address(request);
	wait int := orion_private.login_wait(NULL, orion_private.address_network(address), failed);
BEGIN
	IF failed AND wait = 0 THEN
		PERFORM orion_private.attempt_record(NULL, NULL, outcome, address, left(request #>> '{headers,user-agent}', 512));
	END IF;
	RETURN wait;
END
$function$;
COMMENT ON FUNCTION orion_private.token_wait(jsonb, boolean, text) IS 'Seconds until the address of this request may try again; 0: now. Counts a failure of the address, by default a token that was none';
REVOKE ALL ON FUNCTION orion_private.token_wait(jsonb, boolean, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION orion_private.login_wait_known(text, inet, boolean, int), orion_private.throttle_check(text, text, boolean, boolean),
	orion_private.throttle_clear(text, text), orion_private.login_wait_table(text, inet, boolean),
	orion_private.login_wait(text, inet, boolean), orion_private.attempt_record(text, uuid, text, inet, text) FROM PUBLIC;

CREATE FUNCTION orion_private.password_status(u orion_private.users, password text) RETURNS text
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_password_status';
COMMENT ON FUNCTION orion_private.password_status(orion_private.users, text) IS 'ok, invalid_credentials, or banned, which only who knows the password is told';
REVOKE ALL ON FUNCTION orion_private.password_status(orion_private.users, text) FROM PUBLIC;

CREATE FUNCTION orion_private.login_locked(u orion_private.users, account text, network inet, address inet, user_agent text) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	IF u.id IS NOT NULL AND orion_private.login_wait(account, network, false) > 0 THEN
		PERFORM orion_private.publish('auth.login_locked', jsonb_build_object('id', u.id, 'email', u.email,
			'address', host(address), 'userAgent', user_agent), 'user', u.id::text);
	END IF;
END
$function$;
COMMENT ON FUNCTION orion_private.login_locked(orion_private.users, text, inet, inet, text) IS 'Publishes auth.login_locked after the failure that used up a limit';
REVOKE ALL ON FUNCTION orion_private.login_locked(orion_private.users, text, inet, inet, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_login(email text, password text, address inet DEFAULT NULL, user_agent text DEFAULT NULL, device text DEFAULT NULL,
	device_token text DEFAULT NULL,
	OUT status text, OUT access_token text, OUT refresh_token text, OUT token_type text, OUT expires_in int, OUT user_id uuid,
	OUT retry_after int, OUT session_id text)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	normalized text := orion_private.email_normalize(email);
	from_address inet := coalesce(address, inet_client_addr());
	network inet := orion_private.address_network(from_address);
	-- what is no address may be a mistyped password: it is not kept, only counted, by a digest
	-- (throttle.c), for somebody may have imported users who have no address
	account text := CASE WHEN orion_private.email_valid(normalized) THEN normalized END;
	agent text := left(user_agent, 512);
	new_hash text;
	second_factor boolean;
	trusted uuid;
	u orion_private.users;
	current orion_private.users;
	opened record;
BEGIN
	retry_after := orion_private.login_wait(normalized, network, false);
	IF retry_after > 0 THEN
		-- the password is not even looked at
		status := 'locked';
		PERFORM orion_private.attempt_record(account, NULL, status, from_address, agent);
		RETURN;
	END IF;
	-- twice when the hash changes between the look and the update
	FOR round IN 1 .. 2 LOOP
		SELECT known.* INTO u FROM orion_private.users AS known WHERE known.email = normalized;
		status := orion_private.password_status(u, password);
		-- others may have used the limit up meanwhile: then this answer tells nothing either
		retry_after := orion_private.login_wait(normalized, network, status <> 'ok');
		IF retry_after > 0 THEN
			status := 'locked';
		END IF;
		EXIT WHEN status <> 'ok';
		new_hash := u.password_hash;
		IF orion_private.password_stale(new_hash) THEN
			new_hash := @extschema@.orion_hash_password(password);
		END IF;
		-- Waits for whoever changes the password or bans the user, and then finds no row.
		-- Not columns of the profile: neither the version nor user.updated.
		UPDATE orion_private.users AS known SET password_hash = new_hash,
			last_login_at = CASE WHEN EXISTS (SELECT FROM orion_private.two_factors AS f WHERE f.user_id = known.id AND f.confirmed_at IS NOT NULL)
				THEN known.last_login_at ELSE clock_timestamp() END
		WHERE known.id = u.id AND known.password_hash = u.password_hash AND coalesce(known.banned_until, '-infinity') <= now()
		RETURNING known.* INTO current;
		EXIT WHEN current.id IS NOT NULL;
		status := 'invalid_credentials';
	END LOOP;

	-- the row of the user is locked, so nobody sets a second factor up or drops it meanwhile
	second_factor := status = 'ok' AND orion_private.two_factor_enabled(current.id);
	IF second_factor THEN
		trusted := orion_private.trusted_device_find(current.id, device_token);
		IF trusted IS NULL THEN
			status := 'two_factor_required';
		END IF;
	END IF;
	PERFORM orion_private.attempt_record(account, u.id, status, from_address, agent);
	IF status = 'two_factor_required' THEN
		-- The failures stay counted: who has the password and no code gains no guesses by
		-- signing in again.
		retry_after := NULL;
		session_id := orion_private.pending_session_open(current.id, 'password', left(device, 200));
		RETURN;
	ELSIF status <> 'ok' THEN
		IF status <> 'locked' THEN
			retry_after := NULL;
			PERFORM orion_private.login_locked(u, normalized, network, from_address, agent);
		END IF;
		RETURN;
	END IF;
	retry_after := NULL;
	PERFORM orion_private.throttle_clear(normalized, network::text);
	IF second_factor THEN
		-- aal1: the second factor was not shown in this session
		opened := orion_private.session_open(current, 'trusted_device', left(device, 200), from_address, agent,
			jsonb_build_array(jsonb_build_object('method', 'password', 'timestamp', floor(extract(epoch FROM clock_timestamp())))));
		PERFORM orion_private.trusted_device_used(trusted, opened.session_id);
	ELSE
		opened := orion_private.session_open(current, 'password', left(device, 200), from_address, agent);
	END IF;
	PERFORM orion_private.publish('user.login', jsonb_build_object(
		'id', current.id, 'sessionId', opened.session_id, 'method', 'password',
		'address', host(from_address), 'userAgent', agent)
		|| CASE WHEN second_factor THEN '{"secondFactor": "trusted_device"}' ELSE '{}' END::jsonb, 'user', current.id::text);
	access_token := opened.access_token;
	refresh_token := opened.refresh_token;
	token_type := 'bearer';
	expires_in := opened.expires_in;
	user_id := current.id;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_login(text, text, inet, text, text, text) IS 'Signs in with a password. Status ok, two_factor_required (go on with session_id: orion_two_factor_login), invalid_credentials, banned or locked (try again after retry_after seconds): returned and not raised, so that the attempt stays on record. Pass the address of the client, not of the application server';

-- For those who may say which address a request comes from; others use the HTTP routes.
REVOKE ALL ON FUNCTION @extschema@.orion_register(text, text, text, jsonb), @extschema@.orion_login(text, text, inet, text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_register(text, text, text, jsonb), @extschema@.orion_login(text, text, inet, text, text, text)
	TO orion_service, orion_admin;

-- The profile: version, event, and what users see of themselves

-- Signing in changes no profile: all columns but those that it sets. An update that
-- names those among others counts by what it changes.
CREATE TRIGGER users_version BEFORE UPDATE OF id, email, role, display_name, avatar_url, user_metadata, app_metadata,
	email_verified_at, version, created_at, updated_at ON orion_private.users
	FOR EACH ROW EXECUTE FUNCTION @extschema@.orion_version_bump('updated_at', '!last_login_at', '!password_hash', '!banned_until');

CREATE FUNCTION orion_private.user_updated() RETURNS trigger
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	changed text[] := array_remove(ARRAY[
		CASE WHEN NEW.email IS DISTINCT FROM OLD.email THEN 'email' END,
		CASE WHEN NEW.role IS DISTINCT FROM OLD.role THEN 'role' END,
		CASE WHEN NEW.display_name IS DISTINCT FROM OLD.display_name THEN 'display_name' END,
		CASE WHEN NEW.avatar_url IS DISTINCT FROM OLD.avatar_url THEN 'avatar_url' END,
		CASE WHEN NEW.user_metadata IS DISTINCT FROM OLD.user_metadata THEN 'user_metadata' END,
		CASE WHEN NEW.app_metadata IS DISTINCT FROM OLD.app_metadata THEN 'app_metadata' END,
		CASE WHEN NEW.email_verified_at IS DISTINCT FROM OLD.email_verified_at THEN 'email_verified_at' END], NULL);
BEGIN
	IF cardinality(changed) > 0 THEN
		PERFORM orion_private.publish('user.updated',
			jsonb_build_object('id', NEW.id, 'version', NEW.version, 'changed', to_jsonb(changed)),
			'user', NEW.id::text);
	END IF;
	RETURN NULL;
END
$function$;
COMMENT ON FUNCTION orion_private.user_updated() IS 'Publishes user.updated with the names of the changed columns';
REVOKE ALL ON FUNCTION orion_private.user_updated() FROM PUBLIC;
CREATE TRIGGER users_updated AFTER UPDATE OF email, role, display_name, avatar_url, user_metadata, app_metadata, email_verified_at
	ON orion_private.users FOR EACH ROW EXECUTE FUNCTION orion_private.user_updated();

ALTER TABLE orion_private.users ENABLE ROW LEVEL SECURITY;
CREATE POLICY users_self ON orion_private.users TO orion_user
	USING (id = @extschema@.orion_uid());
CREATE POLICY users_trusted ON orion_private.users TO orion_service, orion_admin
	USING (true);

CREATE VIEW orion.profile WITH (security_invoker = true) AS
	SELECT id, email, display_name, avatar_url, user_metadata, version, created_at, updated_at
	FROM orion_private.users;
COMMENT ON VIEW orion.profile IS 'A signed-in user sees and changes the own row; services and administrators all rows';
-- the view checks the caller's rights on the table too; nobody can name the table itself
GRANT SELECT (id, email, display_name, avatar_url, user_metadata, version, created_at, updated_at),
	UPDATE (display_name, avatar_url, user_metadata)
	ON orion_private.users TO orion_user, orion_service, orion_admin;
GRANT SELECT, UPDATE (display_name, avatar_url, user_metadata)
	ON orion.profile TO orion_user, orion_service, orion_admin;

-- HTTP: POST /api/auth/register and /api/auth/login (registered in rest.sql)

CREATE FUNCTION orion_private.route_error(status int, code text, message text, details text DEFAULT NULL, hint text DEFAULT NULL)
	RETURNS jsonb
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	PERFORM set_config('response.status', status::text, true);
	RETURN jsonb_build_object('code', code, 'message', message, 'details', details, 'hint', hint);
END
$function$;
COMMENT ON FUNCTION orion_private.route_error(int, text, text, text, text) IS 'Sets the HTTP status and returns the body of an error';
REVOKE ALL ON FUNCTION orion_private.route_error(int, text, text, text, text) FROM PUBLIC;

CREATE FUNCTION orion_private.route_invalid(status int, errors jsonb) RETURNS jsonb
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
	SELECT orion_private.route_error(route_invalid.status,
		CASE route_invalid.status WHEN 400 THEN 'invalid_request' ELSE 'validation_failed' END,
		errors #>> '{0,message}') || jsonb_build_object('errors', errors);
$function$;
COMMENT ON FUNCTION orion_private.route_invalid(int, jsonb) IS
	'The body of an error about fields: a list of {"field", "code", "message"}; 400 for their form, 422 for what a rule refuses';
REVOKE ALL ON FUNCTION orion_private.route_invalid(int, jsonb) FROM PUBLIC;

CREATE FUNCTION orion_private.field_error(field text, code text, message text) RETURNS jsonb
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
	SELECT jsonb_build_array(jsonb_build_object('field', field, 'code', code, 'message', message));
$function$;
COMMENT ON FUNCTION orion_private.field_error(text, text, text) IS 'A list of one error, for route_invalid; lists are joined with ||';
REVOKE ALL ON FUNCTION orion_private.field_error(text, text, text) FROM PUBLIC;

-- Assignments only: the body holds passwords, and a query's parameters can be logged
-- (auto_explain of PostgreSQL 16 and later).
CREATE FUNCTION orion_private.body_problem(body jsonb, required text[], optional text[]) RETURNS text
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	name text;
	kind text;
BEGIN
	IF jsonb_typeof(body) IS DISTINCT FROM 'object' THEN
		RETURN 'the body must be a JSON object';
	END IF;
	FOREACH name IN ARRAY required || optional LOOP
		kind := coalesce(jsonb_typeof(body -> name), 'null');
		IF kind = 'null' AND name = ANY (required) THEN
			RETURN format('field "%s" is missing', name);
		ELSIF kind NOT IN ('string', 'null') THEN
			RETURN format('field "%s" must be a string', name);
		END IF;
	END LOOP;
	RETURN NULL;
END
$function$;
COMMENT ON FUNCTION orion_private.body_problem(jsonb, text[], text[]) IS 'What is wrong with the fields of a request, or null';
REVOKE ALL ON FUNCTION orion_private.body_problem(jsonb, text[], text[]) FROM PUBLIC;

CREATE FUNCTION orion_private.route_locked(retry_after int, message text DEFAULT 'too many failed attempts') RETURNS jsonb
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	PERFORM set_config('response.headers', format('[{"Retry-After": "%s"}]', retry_after), true);
	RETURN orion_private.route_error(429, 'locked', message, format('Try again in %s seconds.', retry_after));
END
$function$;
COMMENT ON FUNCTION orion_private.route_locked(int, text) IS 'The answer after too many failures, or mails: 429';
REVOKE ALL ON FUNCTION orion_private.route_locked(int, text) FROM PUBLIC;

CREATE FUNCTION orion_private.request_address(request jsonb) RETURNS inet
	LANGUAGE c STABLE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_request_address';
COMMENT ON FUNCTION orion_private.request_address(jsonb) IS 'The address a request came from, or null';
REVOKE ALL ON FUNCTION orion_private.request_address(jsonb) FROM PUBLIC;

-- PL/pgSQL where SQL would do: it keeps its plan from one request to the next.
CREATE FUNCTION orion_private.profile_json(user_id uuid) RETURNS jsonb
	LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	RETURN (SELECT jsonb_build_object('id', u.id, 'email', u.email, 'displayName', u.display_name, 'avatarUrl', u.avatar_url,
			'role', u.role, 'userMetadata', u.user_metadata, 'emailVerified', u.email_verified_at IS NOT NULL,
			'version', u.version, 'createdAt', u.created_at, 'updatedAt', u.updated_at)
		FROM orion_private.users AS u WHERE u.id = profile_json.user_id);
END
$function$;
COMMENT ON FUNCTION orion_private.profile_json(uuid) IS 'A user as HTTP answers show it';
REVOKE ALL ON FUNCTION orion_private.profile_json(uuid) FROM PUBLIC;

CREATE FUNCTION orion_private.route_register(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	body jsonb := request -> 'body';
	problem text := orion_private.body_problem(body, '{email,password}', '{displayName}');
	wait int := orion_private.token_wait(request, false);
	done record;
BEGIN
	IF wait > 0 THEN
		RETURN orion_private.route_locked(wait);
	ELSIF problem IS NOT NULL THEN
		RETURN orion_private.route_error(400, 'invalid_request', problem);
	END IF;
	BEGIN
		done := orion_private.register(body ->> 'email', body ->> 'password', body ->> 'displayName',
			nullif(body -> 'userMetadata', 'null'), orion_private.request_address(request),
			left(request #>> '{headers,user-agent}', 512));
	EXCEPTION
		-- a standby, a full disk, too many hashes, a lock or a conflict that does not go away, no master key
		WHEN read_only_sql_transaction OR insufficient_resources OR lock_not_available OR serialization_failure
			OR deadlock_detected OR SQLSTATE 'OR001' THEN
			PERFORM set_config('response.headers', '[{"Retry-After": "10"}]', true);
			RETURN orion_private.route_error(503, 'unavailable', 'registration is not possible at the moment');
	END;
	IF done.status = 'email_exists' THEN
		wait := orion_private.token_wait(request, true, done.status);
		RETURN orion_private.route_error(409, done.status, 'a user with this email exists');
	ELSIF done.status = 'accepted' THEN
		PERFORM set_config('response.status', '202', true);
		RETURN jsonb_build_object('status', done.status);
	ELSIF done.status <> 'ok' THEN
		RETURN orion_private.route_error(400, done.status, coalesce(orion_private.password_message(done.status), CASE done.status
			WHEN 'invalid_email' THEN 'field "email" is not a mail address'
			WHEN 'invalid_display_name' THEN 'field "displayName" may have 200 characters and no control characters'
			ELSE 'field "userMetadata" must be an object of at most 16 kB' END));
	END IF;
	PERFORM set_config('response.status', '201', true);
	PERFORM set_config('response.headers', '[{"Cache-Control": "no-store"}]', true);
	RETURN jsonb_build_object('accessToken', done.access_token, 'refreshToken', done.refresh_token,
		'tokenType', done.token_type, 'expiresIn', done.expires_in, 'user', orion_private.profile_json(done.user_id));
END
$function$;
COMMENT ON FUNCTION orion_private.route_register(jsonb) IS 'POST /api/auth/register {"email", "password", "displayName"?, "userMetadata"?}: 201 (202 with orion.auth_uniform_answers), 400, 409, 429 or 503';

CREATE FUNCTION orion_private.route_login(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	body jsonb := request -> 'body';
	problem text := orion_private.body_problem(body, '{email,password}', '{deviceId,deviceToken}');
	done record;
BEGIN
	IF problem IS NOT NULL THEN
		RETURN orion_private.route_error(400, 'invalid_request', problem);
	END IF;
	done := @extschema@.orion_login(body ->> 'email', body ->> 'password',
		orion_private.request_address(request), request #>> '{headers,user-agent}', body ->> 'deviceId', body ->> 'deviceToken');
	IF done.status = 'locked' THEN
		RETURN orion_private.route_locked(done.retry_after);
	ELSIF done.status = 'two_factor_required' THEN
		PERFORM set_config('response.status', '202', true);
		PERFORM set_config('response.headers', '[{"Cache-Control": "no-store"}]', true);
		RETURN jsonb_build_object('sessionId', done.session_id, 'twoFactorRequired', true);
	ELSIF done.status = 'banned' THEN
		RETURN orion_private.route_error(403, done.status, 'the user is banned');
	ELSIF done.status <> 'ok' THEN
		RETURN orion_private.route_error(401, done.status, 'email or password is wrong');
	END IF;
	PERFORM set_config('response.headers', '[{"Cache-Control": "no-store"}]', true);
	RETURN jsonb_build_object('accessToken', done.access_token, 'refreshToken', done.refresh_token,
		'tokenType', done.token_type, 'expiresIn', done.expires_in, 'user', orion_private.profile_json(done.user_id));
END
$function$;
COMMENT ON FUNCTION orion_private.route_login(jsonb) IS 'POST /api/auth/login {"email", "password", "deviceId"?, "deviceToken"?}: 200, 202 with a second factor, 400, 401, 403 or 429';
REVOKE ALL ON FUNCTION orion_private.route_register(jsonb), orion_private.route_login(jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION orion_private.route_register(jsonb), orion_private.route_login(jsonb)
	TO orion_anon, orion_user, orion_service, orion_admin;

-- src/session/session.sql

-- Sessions after the sign-in: refresh, sign-out, devices, bans and deletion.
--
-- However a session ends (a function here, an UPDATE or DELETE by an administrator,
-- the deletion of its user), a trigger revokes its access tokens.

CREATE FUNCTION orion_private.session_ended() RETURNS trigger
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	-- a minute for clocks that differ (token.c)
	IF OLD.access_expires_at > now() - interval '1 minute' THEN
		PERFORM orion_private.revoke(OLD.id, 'infinity', OLD.access_expires_at + interval '1 minute');
	END IF;
	RETURN NULL;
END
$function$;
COMMENT ON FUNCTION orion_private.session_ended() IS 'Revokes the access tokens of a session that ended';
CREATE TRIGGER sessions_deleted AFTER DELETE ON orion_private.sessions
	FOR EACH ROW EXECUTE FUNCTION orion_private.session_ended();
CREATE TRIGGER sessions_ended AFTER UPDATE OF revoked_at ON orion_private.sessions
	FOR EACH ROW WHEN (OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL)
	EXECUTE FUNCTION orion_private.session_ended();

CREATE FUNCTION orion_private.sessions_end(user_id uuid, spared uuid, reason text) RETURNS int
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	ended int;
BEGIN
	-- a login under way holds the user's row: after it, its session is seen
	PERFORM FROM orion_private.users AS u WHERE u.id = sessions_end.user_id FOR NO KEY UPDATE;
	UPDATE orion_private.sessions AS s SET revoked_at = now(), revoke_reason = reason
	WHERE s.user_id = sessions_end.user_id AND s.revoked_at IS NULL AND s.expires_at > now()
		AND s.id IS DISTINCT FROM spared;
	GET DIAGNOSTICS ended = ROW_COUNT;
	PERFORM orion_private.pending_sessions_drop(sessions_end.user_id);
	IF spared IS NULL THEN
		-- tokens without a session: orion.auth_access_token_ttl is at most a day
		PERFORM orion_private.revoke(sessions_end.user_id, clock_timestamp(), now() + interval '1 day 1 minute');
	END IF;
	RETURN ended;
END
$function$;
COMMENT ON FUNCTION orion_private.sessions_end(uuid, uuid, text) IS 'Ends the sessions of a user, but the spared one, and returns how many';

CREATE FUNCTION orion_private.user_gone() RETURNS trigger
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	IF TG_OP = 'DELETE' THEN
		PERFORM orion_private.revoke(OLD.id, 'infinity', now() + interval '1 day 1 minute');
		PERFORM orion_private.publish('user.deleted', jsonb_build_object('id', OLD.id, 'email', OLD.email), 'user', OLD.id::text);
	ELSIF NEW.banned_until > now() THEN
		PERFORM orion_private.sessions_end(NEW.id, NULL, 'banned');
		PERFORM orion_private.revoke(NEW.id, 'infinity', NEW.banned_until);
		PERFORM orion_private.publish('user.banned', jsonb_build_object('id', NEW.id,
			'until', nullif(NEW.banned_until, 'infinity')), 'user', NEW.id::text);
	ELSIF OLD.banned_until > now() THEN
		PERFORM orion_private.unrevoke(NEW.id);
		PERFORM orion_private.revoke(NEW.id, clock_timestamp(), now() + interval '1 day 1 minute');
		PERFORM orion_private.publish('user.unbanned', jsonb_build_object('id', NEW.id), 'user', NEW.id::text);
	END IF;
	RETURN NULL;
END
$function$;
COMMENT ON FUNCTION orion_private.user_gone() IS 'Signs out a user who was banned or deleted, and publishes it';
CREATE TRIGGER users_deleted AFTER DELETE ON orion_private.users
	FOR EACH ROW EXECUTE FUNCTION orion_private.user_gone();
CREATE TRIGGER users_banned AFTER UPDATE OF banned_until ON orion_private.users
	FOR EACH ROW WHEN (NEW.banned_until IS DISTINCT FROM OLD.banned_until)
	EXECUTE FUNCTION orion_private.user_gone();

CREATE FUNCTION orion_private.current_session() RETURNS uuid
	LANGUAGE sql STABLE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
	AS $function$
	SELECT substring(orion_private.claims() ->> 'session_id' FROM '^[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$')::uuid;
$function$;
COMMENT ON FUNCTION orion_private.current_session() IS 'The session of the verified claims; null without one';

CREATE FUNCTION orion_private.require_session() RETURNS void
	LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	IF orion_private.claims() ? 'api_key_id' THEN
		RAISE EXCEPTION 'an API key is not enough for this' USING ERRCODE = 'PT403';
	END IF;
END
$function$;
COMMENT ON FUNCTION orion_private.require_session() IS 'Raises PT403 when the user is signed in by an API key';
REVOKE ALL ON FUNCTION orion_private.require_session() FROM PUBLIC;
REVOKE ALL ON FUNCTION orion_private.session_ended(), orion_private.sessions_end(uuid, uuid, text),
	orion_private.user_gone(), orion_private.current_session() FROM PUBLIC;

-- Refresh

CREATE FUNCTION @extschema@.orion_refresh(refresh_token text, address inet DEFAULT NULL, user_agent text DEFAULT NULL,
	OUT status text, OUT access_token text, OUT new_refresh_token text, OUT token_type text, OUT expires_in int, OUT user_id uuid)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	s record := orion_private.auth_settings();
	parsed record := orion_private.refresh_parse(coalesce(refresh_token, ''));
	from_address inet := coalesce(orion_refresh.address, inet_client_addr());
	issued_at timestamptz := clock_timestamp();
	session orion_private.sessions;
	u orion_private.users;
BEGIN
	status := 'invalid_token';
	IF parsed.session IS NULL THEN
		RETURN;
	END IF;
	-- who comes second waits here and then gets what the first one got
	SELECT t.* INTO session FROM orion_private.sessions AS t WHERE t.id = parsed.session FOR UPDATE;
	IF session.id IS NULL OR orion_private.refresh_valid(refresh_token, session.id, session.refresh_key) IS NOT TRUE
		OR parsed.counter > session.refresh_counter THEN
		RETURN;
	END IF;
	SELECT k.* INTO u FROM orion_private.users AS k WHERE k.id = session.user_id;
	IF session.revoked_at IS NOT NULL OR session.expires_at <= now() OR u.banned_until > now() THEN
		status := 'session_ended';
		RETURN;
	END IF;

	IF parsed.counter < session.refresh_counter - 1 THEN
		-- used before, and its successor too: one of the two holders is a thief
		status := 'token_reused';
		UPDATE orion_private.sessions AS t SET revoked_at = now(), revoke_reason = 'token_reused' WHERE t.id = session.id;
		PERFORM orion_private.publish('auth.token_reused', jsonb_build_object('id', u.id, 'email', u.email, 'sessionId', session.id,
			'address', host(from_address), 'userAgent', left(orion_refresh.user_agent, 512)), 'user', u.id::text);
		RETURN;
	END IF;
	IF parsed.counter = session.refresh_counter THEN
		UPDATE orion_private.sessions AS t SET refresh_counter = t.refresh_counter + 1, refreshed_at = issued_at,
			access_expires_at = greatest(t.access_expires_at, issued_at + make_interval(secs => s.access_token_ttl)),
			expires_at = issued_at + make_interval(secs => s.refresh_token_ttl)
		WHERE t.id = session.id RETURNING t.* INTO session;
	ELSIF session.refreshed_at > issued_at - interval '10 seconds' THEN
		-- the answer may be on its way, or lost: the same claims again
		issued_at := session.refreshed_at;
	ELSE
		UPDATE orion_private.sessions AS t
		SET access_expires_at = greatest(t.access_expires_at, issued_at + make_interval(secs => s.access_token_ttl))
		WHERE t.id = session.id RETURNING t.* INTO session;
	END IF;
	status := 'ok';
	access_token := orion_private.access_token(u, session, issued_at);
	new_refresh_token := orion_private.refresh_token(session.id, session.refresh_key, session.refresh_counter);
	token_type := 'bearer';
	expires_in := s.access_token_ttl;
	user_id := u.id;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_refresh(text, inet, text) IS 'New tokens for a refresh token. Status ok, invalid_token, session_ended, or token_reused, which ends the session: returned and not raised, so that it stays ended. The token before the current one gives the current one again';
REVOKE ALL ON FUNCTION @extschema@.orion_refresh(text, inet, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_refresh(text, inet, text) TO orion_service, orion_admin;

-- Sign-out

CREATE FUNCTION @extschema@.orion_logout(everywhere boolean DEFAULT false) RETURNS int
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	uid uuid := orion_private.uid();
	session uuid := orion_private.current_session();
	ended int;
BEGIN
	IF uid IS NULL THEN
		RAISE EXCEPTION 'nobody is signed in' USING ERRCODE = 'PT401';
	END IF;
	PERFORM orion_private.require_session();
	IF everywhere THEN
		ended := orion_private.sessions_end(uid, NULL, 'logout');
	ELSE
		UPDATE orion_private.sessions AS s SET revoked_at = now(), revoke_reason = 'logout'
		WHERE s.id = session AND s.user_id = uid AND s.revoked_at IS NULL;
		GET DIAGNOSTICS ended = ROW_COUNT;
	END IF;
	IF ended > 0 THEN
		PERFORM orion_private.publish('user.logout', jsonb_build_object('id', uid, 'sessionId', session,
			'everywhere', coalesce(everywhere, false)), 'user', uid::text);
	END IF;
	RETURN ended;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_logout(boolean) IS 'Ends the session of the verified claims, or all of the user''s; access tokens are refused everywhere from the commit on. Returns how many ended';

CREATE FUNCTION @extschema@.orion_session_revoke(session_id uuid) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	uid uuid := orion_private.uid();
BEGIN
	PERFORM orion_private.require_session();
	UPDATE orion_private.sessions AS s SET revoked_at = now(), revoke_reason = 'revoked'
	WHERE s.id = session_id AND s.user_id = uid AND s.revoked_at IS NULL AND s.expires_at > now();
	IF FOUND THEN
		PERFORM orion_private.publish('user.logout', jsonb_build_object('id', uid, 'sessionId', session_id, 'everywhere', false),
			'user', uid::text);
		RETURN true;
	END IF;
	RETURN false;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_session_revoke(uuid) IS 'Ends one session of the signed-in user; false when there is no such live session';

CREATE FUNCTION @extschema@.orion_sessions_revoke_others() RETURNS int
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	uid uuid := orion_private.uid();
	session uuid := orion_private.current_session();
BEGIN
	IF uid IS NULL OR session IS NULL THEN
		RAISE EXCEPTION 'nobody is signed in with a session' USING ERRCODE = 'PT401';
	END IF;
	RETURN orion_private.sessions_end(uid, session, 'revoked');
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_sessions_revoke_others() IS 'Ends all sessions of the signed-in user but the one that asks; returns how many';

CREATE FUNCTION @extschema@.orion_device_forget(device_id uuid) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	uid uuid := orion_private.uid();
BEGIN
	PERFORM orion_private.require_session();
	UPDATE orion_private.sessions AS s SET revoked_at = now(), revoke_reason = 'device'
	WHERE s.device_id = orion_device_forget.device_id AND s.user_id = uid AND s.revoked_at IS NULL;
	DELETE FROM orion_private.devices AS d WHERE d.id = orion_device_forget.device_id AND d.user_id = uid;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM orion_private.audit('device.forgotten', 'device', device_id::text);
	RETURN true;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_device_forget(uuid) IS 'Forgets a device of the signed-in user and ends its sessions; false when there is no such device';
REVOKE ALL ON FUNCTION @extschema@.orion_logout(boolean), @extschema@.orion_session_revoke(uuid),
	@extschema@.orion_sessions_revoke_others(), @extschema@.orion_device_forget(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_logout(boolean), @extschema@.orion_session_revoke(uuid),
	@extschema@.orion_sessions_revoke_others(), @extschema@.orion_device_forget(uuid)
	TO orion_user, orion_service, orion_admin;

-- Administration

CREATE FUNCTION @extschema@.orion_user_sign_out(user_id uuid) RETURNS int
	LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	ended int := orion_private.sessions_end(user_id, NULL, 'administrator');
BEGIN
	PERFORM orion_private.audit('user.signed_out', 'user', user_id::text, metadata => jsonb_build_object('sessions', ended));
	RETURN ended;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_user_sign_out(uuid) IS 'Ends all sessions of a user; returns how many';

CREATE FUNCTION @extschema@.orion_user_ban(user_id uuid, until timestamptz DEFAULT 'infinity') RETURNS boolean
	LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	UPDATE orion_private.users AS u SET banned_until = until WHERE u.id = user_id;
	RETURN FOUND;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_user_ban(uuid, timestamptz) IS 'Signs a user out everywhere and lets nobody in until then; false when there is no such user';

CREATE FUNCTION @extschema@.orion_user_unban(user_id uuid) RETURNS boolean
	LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	UPDATE orion_private.users AS u SET banned_until = NULL WHERE u.id = user_id AND u.banned_until IS NOT NULL;
	RETURN FOUND;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_user_unban(uuid) IS 'Lets a banned user sign in again; false when there is no such user';

CREATE FUNCTION @extschema@.orion_user_delete(user_id uuid) RETURNS boolean
	LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	DELETE FROM orion_private.users AS u WHERE u.id = user_id;
	RETURN FOUND;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_user_delete(uuid) IS 'Deletes a user and all that belongs to the user alone; access tokens are refused from the commit on';
REVOKE ALL ON FUNCTION @extschema@.orion_user_sign_out(uuid), @extschema@.orion_user_ban(uuid, timestamptz),
	@extschema@.orion_user_unban(uuid), @extschema@.orion_user_delete(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_user_sign_out(uuid), @extschema@.orion_user_ban(uuid, timestamptz),
	@extschema@.orion_user_unban(uuid), @extschema@.orion_user_delete(uuid) TO orion_admin;

-- What users see of their sessions and devices

ALTER TABLE orion_private.sessions ENABLE ROW LEVEL SECURITY;
CREATE POLICY sessions_self ON orion_private.sessions FOR SELECT TO orion_user USING (user_id = @extschema@.orion_uid());
CREATE POLICY sessions_trusted ON orion_private.sessions FOR SELECT TO orion_service, orion_admin USING (true);
ALTER TABLE orion_private.devices ENABLE ROW LEVEL SECURITY;
CREATE POLICY devices_self ON orion_private.devices FOR SELECT TO orion_user USING (user_id = @extschema@.orion_uid());
CREATE POLICY devices_trusted ON orion_private.devices FOR SELECT TO orion_service, orion_admin USING (true);

CREATE VIEW orion.sessions WITH (security_invoker = true) AS
	SELECT id, user_id, device_id, aal, amr, address, user_agent, created_at, refreshed_at, expires_at
	FROM orion_private.sessions WHERE revoked_at IS NULL AND expires_at > pg_catalog.now();
COMMENT ON VIEW orion.sessions IS 'Live sessions: users see their own, services and administrators all';
CREATE VIEW orion.devices WITH (security_invoker = true) AS
	SELECT id, user_id, user_agent, last_address, first_seen_at, last_seen_at FROM orion_private.devices;
COMMENT ON VIEW orion.devices IS 'Devices that users signed in from: users see their own, services and administrators all';
GRANT SELECT (id, user_id, device_id, aal, amr, address, user_agent, created_at, refreshed_at, expires_at, revoked_at)
	ON orion_private.sessions TO orion_user, orion_service, orion_admin;
GRANT SELECT (id, user_id, user_agent, last_address, first_seen_at, last_seen_at)
	ON orion_private.devices TO orion_user, orion_service, orion_admin;
GRANT SELECT ON orion.sessions, orion.devices TO orion_user, orion_service, orion_admin;

-- HTTP (registered in rest.sql)

CREATE FUNCTION orion_private.route_unauthorized() RETURNS jsonb
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	PERFORM set_config('response.headers', '[{"WWW-Authenticate": "Bearer"}]', true);
	RETURN orion_private.route_error(401, 'not_signed_in', 'this needs an access token of a user');
END
$function$;
COMMENT ON FUNCTION orion_private.route_unauthorized() IS 'The answer to a request without a user''s token';

-- An API key stands for its user, but with the scopes it has: it neither sees nor ends
-- the sessions of the user.
CREATE FUNCTION orion_private.route_session_only() RETURNS jsonb
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	IF orion_private.uid() IS NULL THEN
		RETURN orion_private.route_unauthorized();
	ELSIF orion_private.claims() ? 'api_key_id' THEN
		RETURN orion_private.route_error(403, 'session_required', 'an API key is not enough for this');
	END IF;
	RETURN NULL;
END
$function$;
COMMENT ON FUNCTION orion_private.route_session_only() IS 'Null when a user is signed in otherwise than by an API key, else the answer 401 or 403';
REVOKE ALL ON FUNCTION orion_private.route_session_only() FROM PUBLIC;

CREATE FUNCTION orion_private.param_uuid(request jsonb, name text) RETURNS uuid
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
	SELECT substring(request #>> ARRAY['params', name] FROM '^[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$')::uuid;
$function$;
COMMENT ON FUNCTION orion_private.param_uuid(jsonb, text) IS 'A parameter of the path as uuid; null when it is none';

CREATE FUNCTION orion_private.route_refresh(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	body jsonb := request -> 'body';
	problem text := orion_private.body_problem(body, '{refreshToken}', '{}');
	done record;
BEGIN
	IF problem IS NOT NULL THEN
		RETURN orion_private.route_error(400, 'invalid_request', problem);
	END IF;
	done := @extschema@.orion_refresh(body ->> 'refreshToken', orion_private.request_address(request),
		request #>> '{headers,user-agent}');
	IF done.status <> 'ok' THEN
		RETURN orion_private.route_error(401, done.status, CASE done.status
			WHEN 'session_ended' THEN 'the session has ended'
			WHEN 'token_reused' THEN 'the refresh token was used before; the session was ended'
			ELSE 'the refresh token is not valid' END);
	END IF;
	PERFORM set_config('response.headers', '[{"Cache-Control": "no-store"}]', true);
	RETURN jsonb_build_object('accessToken', done.access_token, 'refreshToken', done.new_refresh_token,
		'tokenType', done.token_type, 'expiresIn', done.expires_in, 'user', orion_private.profile_json(done.user_id));
END
$function$;
COMMENT ON FUNCTION orion_private.route_refresh(jsonb) IS 'POST /api/auth/refresh {"refreshToken"}: 200, 400 or 401';

CREATE FUNCTION orion_private.route_logout(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	everywhere jsonb := coalesce(nullif(request -> 'body', 'null') -> 'everywhere', 'false');
	refusal jsonb := orion_private.route_session_only();
BEGIN
	IF jsonb_typeof(everywhere) <> 'boolean' THEN
		RETURN orion_private.route_error(400, 'invalid_request', 'field "everywhere" must be true or false');
	ELSIF refusal IS NOT NULL THEN
		RETURN refusal;
	END IF;
	RETURN jsonb_build_object('revoked', @extschema@.orion_logout(everywhere::boolean));
END
$function$;
COMMENT ON FUNCTION orion_private.route_logout(jsonb) IS 'POST /api/auth/logout {"everywhere"?}: 200, 400, 401 or 403';

CREATE FUNCTION orion_private.route_sessions(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	uid uuid := orion_private.uid();
	refusal jsonb := orion_private.route_session_only();
BEGIN
	IF refusal IS NOT NULL THEN
		RETURN refusal;
	END IF;
	RETURN jsonb_build_object('sessions', coalesce((
		SELECT jsonb_agg(jsonb_build_object('id', s.id, 'current', s.id IS NOT DISTINCT FROM orion_private.current_session(),
			'deviceId', s.device_id, 'address', host(s.address), 'userAgent', s.user_agent, 'aal', s.aal, 'amr', s.amr,
			'createdAt', s.created_at, 'refreshedAt', s.refreshed_at, 'expiresAt', s.expires_at) ORDER BY s.refreshed_at DESC, s.id)
		FROM orion_private.sessions AS s WHERE s.user_id = uid AND s.revoked_at IS NULL AND s.expires_at > now()), '[]'));
END
$function$;
COMMENT ON FUNCTION orion_private.route_sessions(jsonb) IS 'GET /api/auth/sessions: 200, 401 or 403';

CREATE FUNCTION orion_private.route_session_end(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	refusal jsonb := orion_private.route_session_only();
BEGIN
	IF refusal IS NOT NULL THEN
		RETURN refusal;
	ELSIF @extschema@.orion_session_revoke(orion_private.param_uuid(request, 'id')) THEN
		RETURN jsonb_build_object('revoked', 1);
	END IF;
	RETURN orion_private.route_error(404, 'not_found', 'there is no such session');
END
$function$;
COMMENT ON FUNCTION orion_private.route_session_end(jsonb) IS 'DELETE /api/auth/sessions/{id}: 200, 401, 403 or 404';

CREATE FUNCTION orion_private.route_sessions_end(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	refusal jsonb := orion_private.route_session_only();
BEGIN
	IF refusal IS NOT NULL THEN
		RETURN refusal;
	ELSIF orion_private.current_session() IS NULL THEN
		RETURN orion_private.route_unauthorized();
	END IF;
	RETURN jsonb_build_object('revoked', @extschema@.orion_sessions_revoke_others());
END
$function$;
COMMENT ON FUNCTION orion_private.route_sessions_end(jsonb) IS 'DELETE /api/auth/sessions: all but the one that asks; 200, 401 or 403';

CREATE FUNCTION orion_private.route_devices(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	uid uuid := orion_private.uid();
	refusal jsonb := orion_private.route_session_only();
BEGIN
	IF refusal IS NOT NULL THEN
		RETURN refusal;
	END IF;
	RETURN jsonb_build_object('devices', coalesce((
		SELECT jsonb_agg(jsonb_build_object('id', d.id, 'userAgent', d.user_agent, 'lastAddress', host(d.last_address),
			'firstSeenAt', d.first_seen_at, 'lastSeenAt', d.last_seen_at,
			'current', EXISTS (SELECT FROM orion_private.sessions AS s WHERE s.id = orion_private.current_session() AND s.device_id = d.id),
			'sessions', (SELECT count(*) FROM orion_private.sessions AS s
				WHERE s.device_id = d.id AND s.revoked_at IS NULL AND s.expires_at > now())) ORDER BY d.last_seen_at DESC, d.id)
		FROM orion_private.devices AS d WHERE d.user_id = uid), '[]'));
END
$function$;
COMMENT ON FUNCTION orion_private.route_devices(jsonb) IS 'GET /api/auth/devices: 200, 401 or 403';

CREATE FUNCTION orion_private.route_device_forget(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	refusal jsonb := orion_private.route_session_only();
BEGIN
	IF refusal IS NOT NULL THEN
		RETURN refusal;
	ELSIF @extschema@.orion_device_forget(orion_private.param_uuid(request, 'id')) THEN
		RETURN jsonb_build_object('forgotten', 1);
	END IF;
	RETURN orion_private.route_error(404, 'not_found', 'there is no such device');
END
$function$;
COMMENT ON FUNCTION orion_private.route_device_forget(jsonb) IS 'DELETE /api/auth/devices/{id}: 200, 401, 403 or 404';

CREATE FUNCTION orion_private.route_auth_health(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	writable boolean := NOT pg_is_in_recovery();
	keys boolean := EXISTS (SELECT FROM orion_private.signing_keys AS k WHERE k.status = 'active');
BEGIN
	-- without a key the first sign-in makes one
	IF NOT writable THEN
		PERFORM set_config('response.status', '503', true);
	END IF;
	RETURN jsonb_build_object('status', CASE WHEN writable THEN 'ok' ELSE 'read_only' END, 'signingKey', keys);
END
$function$;
COMMENT ON FUNCTION orion_private.route_auth_health(jsonb) IS 'GET /api/auth/health: 200, or 503 on a server that cannot write';

CREATE FUNCTION orion_private.route_jwks(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	PERFORM set_config('response.headers', '[{"Cache-Control": "public, max-age=300"}]', true);
	RETURN @extschema@.orion_jwks();
END
$function$;
COMMENT ON FUNCTION orion_private.route_jwks(jsonb) IS 'GET /.well-known/jwks.json';

REVOKE ALL ON FUNCTION orion_private.route_unauthorized(), orion_private.param_uuid(jsonb, text),
	orion_private.route_refresh(jsonb), orion_private.route_logout(jsonb), orion_private.route_sessions(jsonb),
	orion_private.route_session_end(jsonb), orion_private.route_sessions_end(jsonb), orion_private.route_devices(jsonb),
	orion_private.route_device_forget(jsonb), orion_private.route_auth_health(jsonb), orion_private.route_jwks(jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION orion_private.route_refresh(jsonb), orion_private.route_logout(jsonb),
	orion_private.route_sessions(jsonb), orion_private.route_session_end(jsonb), orion_private.route_sessions_end(jsonb),
	orion_private.route_devices(jsonb), orion_private.route_device_forget(jsonb), orion_private.route_auth_health(jsonb),
	orion_private.route_jwks(jsonb) TO orion_anon, orion_user, orion_service, orion_admin;

-- src/rbac/rbac.sql

-- Roles and permissions of the application's users. Not roles of the database: those
-- say what SQL a request may run, these what a user may do.
--
-- permission.c keeps what users have been granted; the triggers "changed" drop it.

CREATE FUNCTION orion_private.permission_valid(permission text) RETURNS boolean
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
	SELECT coalesce(octet_length(permission) <= 128
		AND permission ~ '^(\*|[a-z][a-z0-9_.-]*):(\*|[a-z][a-z0-9_.-]*)$', false);
$function$;
COMMENT ON FUNCTION orion_private.permission_valid(text) IS 'Whether this is "resource:action"; either may be "*"';
REVOKE ALL ON FUNCTION orion_private.permission_valid(text) FROM PUBLIC;

CREATE TABLE orion_private.roles (
	name text COLLATE "C" PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_.-]{0,62}$'),
	description text CHECK (char_length(description) <= 500),
	is_default boolean NOT NULL DEFAULT false,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE orion_private.roles IS 'Roles that users can have';
COMMENT ON COLUMN orion_private.roles.is_default IS 'Who registers gets it';
CREATE TABLE orion_private.role_parents (
	role text COLLATE "C" NOT NULL REFERENCES orion_private.roles ON DELETE CASCADE,
	parent text COLLATE "C" NOT NULL REFERENCES orion_private.roles ON DELETE CASCADE,
	PRIMARY KEY (role, parent)
);
COMMENT ON TABLE orion_private.role_parents IS 'A role has all permissions of its parents; there are no cycles';
CREATE INDEX role_parents_parent ON orion_private.role_parents (parent);
CREATE TABLE orion_private.role_permissions (
	role text COLLATE "C" NOT NULL REFERENCES orion_private.roles ON DELETE CASCADE,
	permission text COLLATE "C" NOT NULL CHECK (orion_private.permission_valid(permission)),
	PRIMARY KEY (role, permission)
);
COMMENT ON TABLE orion_private.role_permissions IS 'What a role may do';
CREATE TABLE orion_private.user_roles (
	user_id uuid NOT NULL REFERENCES orion_private.users ON DELETE CASCADE,
	role text COLLATE "C" NOT NULL REFERENCES orion_private.roles ON DELETE CASCADE,
	granted_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	granted_by uuid,
	PRIMARY KEY (user_id, role)
);
COMMENT ON TABLE orion_private.user_roles IS 'Who has which role';
CREATE INDEX user_roles_role ON orion_private.user_roles (role);
CREATE TABLE orion_private.user_permissions (
	user_id uuid NOT NULL REFERENCES orion_private.users ON DELETE CASCADE,
	permission text COLLATE "C" NOT NULL CHECK (orion_private.permission_valid(permission)),
	granted_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	granted_by uuid,
	PRIMARY KEY (user_id, permission)
);
COMMENT ON TABLE orion_private.user_permissions IS 'What users may do beside their roles';

CREATE FUNCTION orion_private.permissions_changed() RETURNS trigger
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'orion_permissions_changed';
COMMENT ON FUNCTION orion_private.permissions_changed() IS 'Tells every process at commit to forget the permissions it knows';
REVOKE ALL ON FUNCTION orion_private.permissions_changed() FROM PUBLIC;

DO $do$
DECLARE
	relation text;
BEGIN
	FOREACH relation IN ARRAY ARRAY['roles', 'role_parents', 'role_permissions', 'user_roles', 'user_permissions'] LOOP
		PERFORM pg_catalog.pg_extension_config_dump(pg_catalog.format('orion_private.%I', relation)::pg_catalog.regclass, '');
		EXECUTE pg_catalog.format('CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON orion_private.%I'
			' FOR EACH STATEMENT EXECUTE FUNCTION orion_private.permissions_changed()', relation);
		EXECUTE pg_catalog.format('ALTER TABLE orion_private.%I ENABLE ALWAYS TRIGGER changed', relation);
	END LOOP;
END
$do$;

-- Reading

CREATE FUNCTION orion_private.roles_of(user_id uuid) RETURNS SETOF text
	LANGUAGE sql STABLE STRICT PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
	WITH RECURSIVE held (role) AS (
		SELECT u.role FROM orion_private.user_roles AS u WHERE u.user_id = roles_of.user_id
		UNION
		SELECT p.parent FROM held JOIN orion_private.role_parents AS p ON p.role = held.role)
	SELECT role FROM held;
$function$;
COMMENT ON FUNCTION orion_private.roles_of(uuid) IS 'The roles of a user with those they inherit from';

CREATE FUNCTION orion_private.permissions_of(user_id uuid) RETURNS text[]
	LANGUAGE sql STABLE STRICT PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
	SELECT coalesce(array_agg(g.permission ORDER BY g.permission), '{}')
	FROM (
		SELECT r.permission FROM orion_private.roles_of(permissions_of.user_id) AS held (role)
			JOIN orion_private.role_permissions AS r ON r.role = held.role
		UNION
		SELECT u.permission FROM orion_private.user_permissions AS u WHERE u.user_id = permissions_of.user_id) AS g;
$function$;
COMMENT ON FUNCTION orion_private.permissions_of(uuid) IS 'Everything a user was granted, by a role or directly';

CREATE FUNCTION orion_private.permissions_within(permissions text[], scopes jsonb) RETURNS text[]
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
	SELECT CASE
		WHEN coalesce(jsonb_typeof(scopes), 'null') = 'null' THEN permissions
		WHEN jsonb_typeof(scopes) <> 'array' THEN '{}'
		ELSE (
			-- each segment of the narrower of the two
			SELECT coalesce(array_agg(DISTINCT
				CASE split_part(p, ':', 1) WHEN '*' THEN split_part(s, ':', 1) ELSE split_part(p, ':', 1) END || ':' ||
				CASE split_part(p, ':', 2) WHEN '*' THEN split_part(s, ':', 2) ELSE split_part(p, ':', 2) END), '{}')
			FROM unnest(permissions) AS p, jsonb_array_elements_text(scopes) AS s
			WHERE orion_private.permission_valid(s)
				AND (split_part(p, ':', 1) = split_part(s, ':', 1) OR '*' IN (split_part(p, ':', 1), split_part(s, ':', 1)))
				AND (split_part(p, ':', 2) = split_part(s, ':', 2) OR '*' IN (split_part(p, ':', 2), split_part(s, ':', 2))))
	END;
$function$;
COMMENT ON FUNCTION orion_private.permissions_within(text[], jsonb) IS 'The permissions that the scopes of a token leave; null leaves all';
REVOKE ALL ON FUNCTION orion_private.roles_of(uuid), orion_private.permissions_of(uuid),
	orion_private.permissions_within(text[], jsonb) FROM PUBLIC;

-- No pinned search_path: it takes no name from it, and policies call it for each row.
CREATE FUNCTION @extschema@.orion_has_permission(permission text) RETURNS boolean
	LANGUAGE c STABLE STRICT PARALLEL RESTRICTED
	AS 'MODULE_PATHNAME', 'orion_has_permission';
COMMENT ON FUNCTION @extschema@.orion_has_permission(text) IS 'Whether the signed-in user has this permission ("resource:action") by a role or directly, within the scopes of the token';
REVOKE ALL ON FUNCTION @extschema@.orion_has_permission(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_has_permission(text) TO orion_anon, orion_user, orion_service, orion_admin;

CREATE FUNCTION orion_private.caller_is_trusted() RETURNS boolean
	LANGUAGE sql STABLE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
	AS $function$
	SELECT coalesce(pg_has_role(c.caller, 'orion_admin', 'USAGE') OR pg_has_role(c.caller, 'orion_service', 'USAGE'), false)
	FROM (SELECT orion_private.caller()) AS c (caller);
$function$;
COMMENT ON FUNCTION orion_private.caller_is_trusted() IS 'Whether the database role of the caller is an administrator or a service';
REVOKE ALL ON FUNCTION orion_private.caller_is_trusted() FROM PUBLIC;

CREATE FUNCTION orion_private.check_may_read_roles(user_id uuid) RETURNS void
	LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	IF user_id IS DISTINCT FROM orion_private.uid() AND NOT orion_private.caller_is_trusted()
		AND NOT @extschema@.orion_has_permission('roles:read') THEN
		RAISE EXCEPTION 'permission denied to see the roles of other users'
			USING ERRCODE = 'insufficient_privilege';
	END IF;
END
$function$;
COMMENT ON FUNCTION orion_private.check_may_read_roles(uuid) IS 'Raises unless the user is the caller, or the caller may see others'' roles';
REVOKE ALL ON FUNCTION orion_private.check_may_read_roles(uuid) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_permissions(user_id uuid DEFAULT @extschema@.orion_uid()) RETURNS text[]
	LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	PERFORM orion_private.check_may_read_roles(user_id);
	RETURN orion_private.permissions_within(coalesce(orion_private.permissions_of(user_id), '{}'),
		CASE WHEN user_id = orion_private.uid() THEN orion_private.claims() -> 'scopes' END);
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_permissions(uuid) IS 'The effective permissions of a user: of all roles with what they inherit, and direct grants; the caller''s own within the scopes of the token. Others'' for orion_service, orion_admin and with permission roles:read';

CREATE FUNCTION @extschema@.orion_roles(user_id uuid DEFAULT @extschema@.orion_uid()) RETURNS text[]
	LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	PERFORM orion_private.check_may_read_roles(user_id);
	RETURN (SELECT coalesce(array_agg(held.role ORDER BY held.role), '{}') FROM orion_private.roles_of(user_id) AS held (role));
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_roles(uuid) IS 'The roles of a user with those they inherit from; who may ask is as with orion_permissions';
REVOKE ALL ON FUNCTION @extschema@.orion_permissions(uuid), @extschema@.orion_roles(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_permissions(uuid), @extschema@.orion_roles(uuid)
	TO orion_anon, orion_user, orion_service, orion_admin;

-- Administration. Each returns whether it changed anything, and records a change.

CREATE FUNCTION orion_private.role_check(role text) RETURNS void
	LANGUAGE plpgsql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	IF NOT EXISTS (SELECT FROM orion_private.roles AS r WHERE r.name = role_check.role) THEN
		RAISE EXCEPTION 'role "%" does not exist', role USING ERRCODE = 'PT404';
	END IF;
END
$function$;
COMMENT ON FUNCTION orion_private.role_check(text) IS 'Raises PT404 when there is no such role';

CREATE FUNCTION orion_private.user_check(user_id uuid) RETURNS void
	LANGUAGE plpgsql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	IF NOT EXISTS (SELECT FROM orion_private.users AS u WHERE u.id = user_check.user_id) THEN
		RAISE EXCEPTION 'user "%" does not exist', user_id USING ERRCODE = 'PT404';
	END IF;
END
$function$;
COMMENT ON FUNCTION orion_private.user_check(uuid) IS 'Raises PT404 when there is no such user';

CREATE FUNCTION orion_private.permission_check(permission text) RETURNS void
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	IF NOT orion_private.permission_valid(permission) THEN
		RAISE EXCEPTION '"%" is not a permission', left(permission, 200)
			USING ERRCODE = 'PT422', HINT = 'A permission is "resource:action", lower case; either may be "*".';
	END IF;
END
$function$;
COMMENT ON FUNCTION orion_private.permission_check(text) IS 'Raises PT422 when this is no permission';
REVOKE ALL ON FUNCTION orion_private.role_check(text), orion_private.user_check(uuid), orion_private.permission_check(text) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_role_create(name text, description text DEFAULT NULL, is_default boolean DEFAULT false) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	IF name IS NULL OR name !~ '^[a-z][a-z0-9_.-]{0,62}$' THEN
		RAISE EXCEPTION '"%" is not a name for a role', left(name, 200)
			USING ERRCODE = 'PT422', HINT = 'A name is 1 to 63 of a-z, 0-9 and _.- and begins with a letter.';
	END IF;
	INSERT INTO orion_private.roles AS r (name, description, is_default)
	VALUES (orion_role_create.name, orion_role_create.description, coalesce(orion_role_create.is_default, false))
	ON CONFLICT ON CONSTRAINT roles_pkey DO NOTHING;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM orion_private.audit('role.created', 'role', name,
		new => jsonb_build_object('description', description, 'isDefault', coalesce(is_default, false)));
	PERFORM orion_private.publish('role.created', jsonb_build_object('role', name), 'role', name);
	RETURN true;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_role_create(text, text, boolean) IS 'Makes a role; who registers gets default roles. False when it exists';

CREATE FUNCTION @extschema@.orion_role_delete(name text) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	granted text[] := ARRAY(SELECT p.permission FROM orion_private.role_permissions AS p WHERE p.role = orion_role_delete.name ORDER BY 1);
	holders bigint := (SELECT count(*) FROM orion_private.user_roles AS u WHERE u.role = orion_role_delete.name);
BEGIN
	DELETE FROM orion_private.roles AS r WHERE r.name = orion_role_delete.name;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM orion_private.audit('role.deleted', 'role', name,
		old => jsonb_build_object('permissions', granted, 'users', holders));
	PERFORM orion_private.publish('role.deleted', jsonb_build_object('role', name), 'role', name);
	RETURN true;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_role_delete(text) IS 'Deletes a role and takes it from everybody; false when there is none';

CREATE FUNCTION @extschema@.orion_role_inherit(role text, parent text) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	PERFORM orion_private.role_check(role), orion_private.role_check(parent);
	-- two sessions could otherwise close a cycle together
	LOCK TABLE orion_private.role_parents IN SHARE ROW EXCLUSIVE MODE;
	IF EXISTS (
		WITH RECURSIVE above (role) AS (
			SELECT orion_role_inherit.parent COLLATE "C"
			UNION
			SELECT p.parent FROM above JOIN orion_private.role_parents AS p ON p.role = above.role)
		SELECT FROM above WHERE above.role = orion_role_inherit.role) THEN
		RAISE EXCEPTION 'role "%" cannot inherit from role "%", which inherits from it', role, parent
			USING ERRCODE = 'PT422';
	END IF;
	INSERT INTO orion_private.role_parents AS p (role, parent)
	VALUES (orion_role_inherit.role, orion_role_inherit.parent) ON CONFLICT ON CONSTRAINT role_parents_pkey DO NOTHING;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM orion_private.audit('role.inherited', 'role', role, new => jsonb_build_object('parent', parent));
	RETURN true;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_role_inherit(text, text) IS 'Gives a role all permissions of a parent, now and later; refuses cycles with PT422';

CREATE FUNCTION @extschema@.orion_role_disinherit(role text, parent text) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	DELETE FROM orion_private.role_parents AS p WHERE p.role = orion_role_disinherit.role AND p.parent = orion_role_disinherit.parent;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM orion_private.audit('role.disinherited', 'role', role, old => jsonb_build_object('parent', parent));
	RETURN true;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_role_disinherit(text, text) IS 'Takes the permissions of a parent from a role';

CREATE FUNCTION @extschema@.orion_role_grant(user_id uuid, role text) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	PERFORM orion_private.user_check(user_id), orion_private.role_check(role);
	INSERT INTO orion_private.user_roles AS u (user_id, role, granted_by)
	VALUES (orion_role_grant.user_id, orion_role_grant.role, orion_private.uid())
	ON CONFLICT ON CONSTRAINT user_roles_pkey DO NOTHING;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM orion_private.audit('role.assigned', 'user', user_id::text, new => jsonb_build_object('role', role));
	PERFORM orion_private.publish('role.assigned', jsonb_build_object('userId', user_id, 'role', role,
		'assignedBy', orion_private.uid()), 'user', user_id::text);
	RETURN true;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_role_grant(uuid, text) IS 'Gives a user a role; publishes role.assigned. False when the user has it';

CREATE FUNCTION @extschema@.orion_role_revoke(user_id uuid, role text) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	DELETE FROM orion_private.user_roles AS u WHERE u.user_id = orion_role_revoke.user_id AND u.role = orion_role_revoke.role;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM orion_private.audit('role.revoked', 'user', user_id::text, old => jsonb_build_object('role', role));
	PERFORM orion_private.publish('role.revoked', jsonb_build_object('userId', user_id, 'role', role,
		'revokedBy', orion_private.uid()), 'user', user_id::text);
	RETURN true;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_role_revoke(uuid, text) IS 'Takes a role from a user; publishes role.revoked. False when the user has it not';

CREATE FUNCTION @extschema@.orion_permission_grant(role text, permission text) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	PERFORM orion_private.role_check(role), orion_private.permission_check(permission);
	INSERT INTO orion_private.role_permissions AS p (role, permission)
	VALUES (orion_permission_grant.role, orion_permission_grant.permission)
	ON CONFLICT ON CONSTRAINT role_permissions_pkey DO NOTHING;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM orion_private.audit('permission.granted', 'role', role, new => jsonb_build_object('permission', permission));
	PERFORM orion_private.publish('permission.granted', jsonb_build_object('role', role, 'permission', permission), 'role', role);
	RETURN true;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_permission_grant(text, text) IS 'Gives a role a permission ("resource:action"; either may be "*")';

CREATE FUNCTION @extschema@.orion_permission_revoke(role text, permission text) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	DELETE FROM orion_private.role_permissions AS p
	WHERE p.role = orion_permission_revoke.role AND p.permission = orion_permission_revoke.permission;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM orion_private.audit('permission.revoked', 'role', role, old => jsonb_build_object('permission', permission));
	PERFORM orion_private.publish('permission.revoked', jsonb_build_object('role', role, 'permission', permission), 'role', role);
	RETURN true;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_permission_revoke(text, text) IS 'Takes a permission from a role, as it was granted';

CREATE FUNCTION @extschema@.orion_user_permission_grant(user_id uuid, permission text) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	PERFORM orion_private.user_check(user_id), orion_private.permission_check(permission);
	INSERT INTO orion_private.user_permissions AS p (user_id, permission, granted_by)
	VALUES (orion_user_permission_grant.user_id, orion_user_permission_grant.permission, orion_private.uid())
	ON CONFLICT ON CONSTRAINT user_permissions_pkey DO NOTHING;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM orion_private.audit('permission.granted', 'user', user_id::text, new => jsonb_build_object('permission', permission));
	PERFORM orion_private.publish('permission.granted', jsonb_build_object('userId', user_id, 'permission', permission), 'user', user_id::text);
	RETURN true;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_user_permission_grant(uuid, text) IS 'Gives one user a permission beside the roles';

CREATE FUNCTION @extschema@.orion_user_permission_revoke(user_id uuid, permission text) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	DELETE FROM orion_private.user_permissions AS p
	WHERE p.user_id = orion_user_permission_revoke.user_id AND p.permission = orion_user_permission_revoke.permission;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM orion_private.audit('permission.revoked', 'user', user_id::text, old => jsonb_build_object('permission', permission));
	PERFORM orion_private.publish('permission.revoked', jsonb_build_object('userId', user_id, 'permission', permission), 'user', user_id::text);
	RETURN true;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_user_permission_revoke(uuid, text) IS 'Takes a direct grant from a user';

DO $do$
DECLARE
	signature text;
BEGIN
	FOREACH signature IN ARRAY ARRAY['orion_role_create(text, text, boolean)', 'orion_role_delete(text)', 'orion_role_inherit(text, text)',
		'orion_role_disinherit(text, text)', 'orion_role_grant(uuid, text)', 'orion_role_revoke(uuid, text)',
		'orion_permission_grant(text, text)', 'orion_permission_revoke(text, text)',
		'orion_user_permission_grant(uuid, text)', 'orion_user_permission_revoke(uuid, text)'] LOOP
		EXECUTE 'REVOKE ALL ON FUNCTION @extschema@.' || signature || ' FROM PUBLIC';
		EXECUTE 'GRANT EXECUTE ON FUNCTION @extschema@.' || signature || ' TO orion_admin';
	END LOOP;
END
$do$;

CREATE VIEW orion.roles WITH (security_invoker = true) AS
	SELECT r.name, r.description, r.is_default,
		ARRAY(SELECT p.parent FROM orion_private.role_parents AS p WHERE p.role = r.name ORDER BY 1) AS parents,
		ARRAY(SELECT p.permission FROM orion_private.role_permissions AS p WHERE p.role = r.name ORDER BY 1) AS permissions,
		r.created_at
	FROM orion_private.roles AS r;
COMMENT ON VIEW orion.roles IS 'Roles, what they inherit from and what they may do themselves';
GRANT SELECT ON orion_private.roles, orion_private.role_parents, orion_private.role_permissions, orion.roles
	TO orion_service, orion_admin;

-- src/apikey/apikey.sql

-- API keys: see apikey.h for what one looks like.
--
-- A key passes only through assignments, like passwords and tokens: it is in no query.

CREATE TABLE orion_private.api_keys (
	id uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
	user_id uuid NOT NULL REFERENCES orion_private.users ON DELETE CASCADE,
	name text NOT NULL CHECK (name ~ '\S' AND char_length(name) <= 100),
	prefix text COLLATE "C" NOT NULL,
	digest bytea NOT NULL UNIQUE CHECK (octet_length(digest) = 32),
	scopes text[],
	rate_limit int CHECK (rate_limit BETWEEN 1 AND 1000000),
	expires_at timestamptz,
	last_used_at timestamptz,
	last_refused_at timestamptz,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	revoked_at timestamptz
) WITH (fillfactor = 80);
COMMENT ON TABLE orion_private.api_keys IS 'API keys of users; of a key only SHA-256 and the first letters are kept';
COMMENT ON COLUMN orion_private.api_keys.scopes IS 'Permissions that the key is good for, of those of the user; null: all';
COMMENT ON COLUMN orion_private.api_keys.rate_limit IS 'Uses a minute; null: no limit';
COMMENT ON COLUMN orion_private.api_keys.last_used_at IS 'Over HTTP, to the minute';
CREATE INDEX api_keys_user_id ON orion_private.api_keys (user_id);
SELECT pg_catalog.pg_extension_config_dump('orion_private.api_keys', '');

ALTER TABLE orion_private.api_keys ENABLE ROW LEVEL SECURITY;
CREATE POLICY api_keys_own ON orion_private.api_keys FOR SELECT TO orion_user
	USING (user_id = @extschema@.orion_uid());
CREATE POLICY api_keys_trusted ON orion_private.api_keys FOR SELECT TO orion_service, orion_admin
	USING (true);
-- What an API key may not ask for over HTTP it does not see in views either. The
-- policies of mfa.sql say the same of second factors.
CREATE POLICY api_keys_session ON orion_private.api_keys AS RESTRICTIVE FOR SELECT TO orion_user
	USING (NOT coalesce(@extschema@.orion_claims() ? 'api_key_id', false));
CREATE POLICY sessions_session ON orion_private.sessions AS RESTRICTIVE FOR SELECT TO orion_user
	USING (NOT coalesce(@extschema@.orion_claims() ? 'api_key_id', false));
CREATE POLICY devices_session ON orion_private.devices AS RESTRICTIVE FOR SELECT TO orion_user
	USING (NOT coalesce(@extschema@.orion_claims() ? 'api_key_id', false));
CREATE VIEW orion.api_keys WITH (security_invoker = true) AS
	SELECT id, user_id, name, prefix, scopes, rate_limit, expires_at, last_used_at, created_at, revoked_at
	FROM orion_private.api_keys;
COMMENT ON VIEW orion.api_keys IS 'A signed-in user sees the own API keys; services and administrators all';
GRANT SELECT (id, user_id, name, prefix, scopes, rate_limit, expires_at, last_used_at, created_at, revoked_at)
	ON orion_private.api_keys TO orion_user, orion_service, orion_admin;
GRANT SELECT ON orion.api_keys TO orion_user, orion_service, orion_admin;

CREATE FUNCTION orion_private.api_key_generate(OUT key text, OUT prefix text, OUT digest bytea)
	LANGUAGE c VOLATILE PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_api_key_generate';
COMMENT ON FUNCTION orion_private.api_key_generate() IS 'A new API key, what may be shown of it, and its SHA-256';
REVOKE ALL ON FUNCTION orion_private.api_key_generate() FROM PUBLIC;

-- What apikey.c asks

CREATE FUNCTION orion_private.api_key_find(digest bytea, OUT key_id uuid, OUT refusal text, OUT rate_limit int, OUT stale boolean, OUT claims jsonb)
	LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	-- PL/pgSQL keeps the plan
	SELECT k.id,
		CASE WHEN k.revoked_at IS NOT NULL THEN 'revoked' WHEN k.expires_at <= clock_timestamp() THEN 'expired'
			WHEN u.banned_until > clock_timestamp() THEN 'banned' END,
		k.rate_limit,
		k.last_used_at IS NULL OR k.last_used_at < clock_timestamp() - interval '1 minute',
		jsonb_build_object('sub', u.id, 'role', u.role, 'email', u.email, 'email_verified', u.email_verified_at IS NOT NULL, 'aal', 'aal1',
			'amr', jsonb_build_array(jsonb_build_object('method', 'api_key', 'timestamp', floor(extract(epoch FROM k.created_at)))),
			'api_key_id', k.id, 'scopes', to_jsonb(k.scopes))
	INTO key_id, refusal, rate_limit, stale, claims
	FROM orion_private.api_keys AS k JOIN orion_private.users AS u ON u.id = k.user_id
	WHERE k.digest = api_key_find.digest;
END
$function$;
COMMENT ON FUNCTION orion_private.api_key_find(bytea) IS 'The key of this digest: why it is refused, or the claims it stands for; nulls when there is none';

CREATE FUNCTION orion_private.api_key_record(id uuid, refusal text) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	owner uuid;
BEGIN
	-- once a minute and key: a client that goes on does not fill the disk; who is
	-- noting the same does it for all
	IF refusal IS NULL THEN
		UPDATE orion_private.api_keys AS k SET last_used_at = clock_timestamp()
		WHERE k.id = (SELECT f.id FROM orion_private.api_keys AS f WHERE f.id = api_key_record.id
			AND (f.last_used_at IS NULL OR f.last_used_at < clock_timestamp() - interval '1 minute') FOR NO KEY UPDATE SKIP LOCKED);
		RETURN;
	END IF;
	UPDATE orion_private.api_keys AS k SET last_refused_at = clock_timestamp()
	WHERE k.id = (SELECT f.id FROM orion_private.api_keys AS f WHERE f.id = api_key_record.id
		AND (f.last_refused_at IS NULL OR f.last_refused_at < clock_timestamp() - interval '1 minute') FOR NO KEY UPDATE SKIP LOCKED)
	RETURNING k.user_id INTO owner;
	IF FOUND THEN
		PERFORM orion_private.audit('security.api_key_refused', 'api_key', id::text, refusal, actor => owner);
	END IF;
END
$function$;
COMMENT ON FUNCTION orion_private.api_key_record(uuid, text) IS 'Puts on record that a key was used, or why it was refused; each at most once a minute';
REVOKE ALL ON FUNCTION orion_private.api_key_find(bytea), orion_private.api_key_record(uuid, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_api_key_authenticate(key text) RETURNS jsonb
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'orion_api_key_authenticate';
COMMENT ON FUNCTION @extschema@.orion_api_key_authenticate(text) IS 'Verifies an API key and makes its claims those of this transaction, for SQL clients; the database role stays. Raises PT401, or PT429 when the key was used too often';
REVOKE ALL ON FUNCTION @extschema@.orion_api_key_authenticate(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_api_key_authenticate(text) TO orion_anon, orion_user, orion_service, orion_admin;

-- Making and revoking

CREATE FUNCTION orion_private.api_key_create(user_id uuid, name text, scopes text[], expires_at timestamptz, rate_limit int,
	OUT status text, OUT id uuid, OUT key text)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	made record;
BEGIN
	-- keys of a user are counted by one session at a time
	PERFORM FROM orion_private.users AS u WHERE u.id = api_key_create.user_id FOR NO KEY UPDATE;
	status := CASE
		WHEN NOT FOUND THEN 'unknown_user'
		WHEN name IS NULL OR name !~ '\S' OR char_length(name) > 100 THEN 'invalid_name'
		WHEN cardinality(scopes) > 100 OR EXISTS (SELECT FROM unnest(scopes) AS s WHERE NOT orion_private.permission_valid(s)) THEN 'invalid_scopes'
		WHEN expires_at <= now() OR expires_at = 'infinity' THEN 'invalid_expiry'
		WHEN rate_limit NOT BETWEEN 1 AND 1000000 THEN 'invalid_rate_limit'
		WHEN (SELECT count(*) FROM orion_private.api_keys AS k WHERE k.user_id = api_key_create.user_id AND k.revoked_at IS NULL) >= 100 THEN 'too_many_keys'
		ELSE 'ok'
	END;
	IF status <> 'ok' THEN
		RETURN;
	END IF;
	made := orion_private.api_key_generate();
	id := gen_random_uuid();
	INSERT INTO orion_private.api_keys (id, user_id, name, prefix, digest, scopes, rate_limit, expires_at)
	VALUES (api_key_create.id, api_key_create.user_id, api_key_create.name, made.prefix, made.digest,
		api_key_create.scopes, api_key_create.rate_limit, api_key_create.expires_at);
	PERFORM orion_private.audit('api_key.created', 'api_key', id::text,
		new => jsonb_build_object('userId', user_id, 'name', name, 'prefix', made.prefix, 'scopes', scopes,
			'rateLimit', rate_limit, 'expiresAt', expires_at));
	PERFORM orion_private.publish('api_key.created', jsonb_build_object('id', id, 'userId', user_id, 'name', name,
		'prefix', made.prefix, 'scopes', scopes, 'expiresAt', expires_at), 'user', user_id::text);
	key := made.key;
END
$function$;
COMMENT ON FUNCTION orion_private.api_key_create(uuid, text, text[], timestamptz, int) IS 'See orion_api_key_create';

CREATE FUNCTION orion_private.api_key_revoke(id uuid, of_user uuid) RETURNS boolean
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	revoked orion_private.api_keys;
BEGIN
	UPDATE orion_private.api_keys AS k SET revoked_at = now()
	WHERE k.id = api_key_revoke.id AND k.revoked_at IS NULL AND (of_user IS NULL OR k.user_id = of_user)
	RETURNING k.* INTO revoked;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM orion_private.audit('api_key.revoked', 'api_key', id::text,
		old => jsonb_build_object('userId', revoked.user_id, 'name', revoked.name, 'prefix', revoked.prefix));
	PERFORM orion_private.publish('api_key.revoked', jsonb_build_object('id', id, 'userId', revoked.user_id,
		'name', revoked.name), 'user', revoked.user_id::text);
	RETURN true;
END
$function$;
COMMENT ON FUNCTION orion_private.api_key_revoke(uuid, uuid) IS 'Revokes a key, of this user if given; false when there is none in use';
REVOKE ALL ON FUNCTION orion_private.api_key_create(uuid, text, text[], timestamptz, int), orion_private.api_key_revoke(uuid, uuid) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_api_key_create(user_id uuid, name text, scopes text[] DEFAULT NULL,
	expires_at timestamptz DEFAULT NULL, rate_limit int DEFAULT NULL, OUT status text, OUT id uuid, OUT key text)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	made record;
BEGIN
	made := orion_private.api_key_create(user_id, name, scopes, expires_at, rate_limit);
	status := made.status;
	id := made.id;
	key := made.key;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_api_key_create(uuid, text, text[], timestamptz, int) IS 'Makes an API key for a user and returns it, this once. Status: ok, unknown_user, invalid_name, invalid_scopes, invalid_expiry, invalid_rate_limit, too_many_keys (100)';

CREATE FUNCTION @extschema@.orion_api_key_revoke(id uuid) RETURNS boolean
	LANGUAGE sql VOLATILE STRICT SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
	SELECT orion_private.api_key_revoke(id, NULL);
$function$;
COMMENT ON FUNCTION @extschema@.orion_api_key_revoke(uuid) IS 'Revokes an API key: refused from the commit on. False when there is none in use';
REVOKE ALL ON FUNCTION @extschema@.orion_api_key_create(uuid, text, text[], timestamptz, int),
	@extschema@.orion_api_key_revoke(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_api_key_create(uuid, text, text[], timestamptz, int),
	@extschema@.orion_api_key_revoke(uuid) TO orion_service, orion_admin;

-- HTTP: /api/user/api-keys (registered in rest.sql)

-- A key with few scopes must not make one with more, so keys are for sessions only.
CREATE FUNCTION orion_private.session_problem() RETURNS jsonb
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	IF orion_private.uid() IS NULL THEN
		PERFORM set_config('response.headers', '[{"WWW-Authenticate": "Bearer"}]', true);
		RETURN orion_private.route_error(401, 'unauthorized', 'sign in first');
	ELSIF orion_private.claims() ? 'api_key_id' THEN
		RETURN orion_private.route_error(403, 'session_required', 'an API key is not enough for this');
	END IF;
	RETURN NULL;
END
$function$;
COMMENT ON FUNCTION orion_private.session_problem() IS 'Null when a user is signed in by a session, else the answer 401 or 403';
REVOKE ALL ON FUNCTION orion_private.session_problem() FROM PUBLIC;

CREATE FUNCTION orion_private.api_key_json(key_id uuid) RETURNS jsonb
	LANGUAGE sql STABLE STRICT PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
	SELECT jsonb_build_object('id', k.id, 'name', k.name, 'prefix', k.prefix, 'scopes', k.scopes, 'rateLimit', k.rate_limit,
		'expiresAt', k.expires_at, 'lastUsedAt', k.last_used_at, 'createdAt', k.created_at)
	FROM orion_private.api_keys AS k WHERE k.id = key_id;
$function$;
COMMENT ON FUNCTION orion_private.api_key_json(uuid) IS 'An API key as HTTP answers show it';
REVOKE ALL ON FUNCTION orion_private.api_key_json(uuid) FROM PUBLIC;

CREATE FUNCTION orion_private.route_api_key_list(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	problem jsonb := orion_private.session_problem();
BEGIN
	IF problem IS NOT NULL THEN
		RETURN problem;
	END IF;
	RETURN jsonb_build_object('apiKeys', (
		SELECT coalesce(jsonb_agg(orion_private.api_key_json(k.id) ORDER BY k.created_at, k.id), '[]')
		FROM orion_private.api_keys AS k WHERE k.user_id = orion_private.uid() AND k.revoked_at IS NULL));
END
$function$;
COMMENT ON FUNCTION orion_private.route_api_key_list(jsonb) IS 'GET /api/user/api-keys: 200, 401 or 403';

CREATE FUNCTION orion_private.api_key_body_errors(body jsonb) RETURNS jsonb
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
	SELECT CASE WHEN jsonb_typeof(body) IS DISTINCT FROM 'object'
		THEN orion_private.field_error('', 'not_an_object', 'the body must be a JSON object')
		ELSE
			CASE WHEN NOT body ? 'name' OR jsonb_typeof(body -> 'name') = 'null' THEN orion_private.field_error('name', 'missing', 'field "name" is missing')
				WHEN jsonb_typeof(body -> 'name') <> 'string' THEN orion_private.field_error('name', 'not_a_string', 'field "name" must be a string')
				ELSE '[]' END
			|| CASE WHEN coalesce(jsonb_typeof(body -> 'scopes'), 'null') = 'null' THEN '[]'
				WHEN jsonb_typeof(body -> 'scopes') <> 'array' OR jsonb_path_exists(body, '$.scopes[*] ? (@.type() != "string")')
				THEN orion_private.field_error('scopes', 'not_a_list_of_strings', 'field "scopes" must be a list of strings') ELSE '[]' END
			|| CASE WHEN coalesce(jsonb_typeof(body -> 'expiresAt'), 'null') = 'null' THEN '[]'
				WHEN NOT coalesce(body ->> 'expiresAt' ~ '^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?(Z|[+-](0\d|1[0-4]):[0-5]\d)$', false)
				THEN orion_private.field_error('expiresAt', 'not_a_time', 'field "expiresAt" must be a time (RFC 3339)') ELSE '[]' END
			|| CASE WHEN coalesce(jsonb_typeof(body -> 'rateLimit'), 'null') = 'null' THEN '[]'
				WHEN jsonb_typeof(body -> 'rateLimit') <> 'number' OR body ->> 'rateLimit' !~ '^-?\d{1,9}$'
				THEN orion_private.field_error('rateLimit', 'not_an_integer', 'field "rateLimit" must be an integer') ELSE '[]' END
		END;
$function$;
COMMENT ON FUNCTION orion_private.api_key_body_errors(jsonb) IS 'What is wrong with the form of a request for an API key';
REVOKE ALL ON FUNCTION orion_private.api_key_body_errors(jsonb) FROM PUBLIC;

CREATE FUNCTION orion_private.route_api_key_create(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	body jsonb := request -> 'body';
	problem jsonb := orion_private.session_problem();
	scopes text[];
	expires_at timestamptz;
	made record;
BEGIN
	IF problem IS NOT NULL THEN
		RETURN problem;
	END IF;
	problem := orion_private.api_key_body_errors(body);
	IF problem <> '[]' THEN
		RETURN orion_private.route_invalid(400, problem);
	END IF;
	IF jsonb_typeof(body -> 'scopes') = 'array' THEN
		scopes := ARRAY(SELECT s FROM jsonb_array_elements_text(body -> 'scopes') AS s);
	END IF;
	BEGIN
		expires_at := (body ->> 'expiresAt')::timestamptz;
	EXCEPTION WHEN datetime_field_overflow OR invalid_datetime_format THEN
		RETURN orion_private.route_invalid(400, orion_private.field_error('expiresAt', 'not_a_time', 'field "expiresAt" must be a time (RFC 3339)'));
	END;
	made := orion_private.api_key_create(orion_private.uid(), body ->> 'name', scopes, expires_at, (body ->> 'rateLimit')::int);
	IF made.status = 'unknown_user' THEN
		RETURN orion_private.route_error(401, 'unauthorized', 'the user does not exist any more');
	ELSIF made.status = 'too_many_keys' THEN
		RETURN orion_private.route_error(409, made.status, 'there are 100 API keys already');
	ELSIF made.status <> 'ok' THEN
		RETURN orion_private.route_invalid(422, CASE made.status
			WHEN 'invalid_name' THEN orion_private.field_error('name', made.status, 'field "name" must have 1 to 100 characters')
			WHEN 'invalid_scopes' THEN orion_private.field_error('scopes', made.status, 'field "scopes" may hold 100 permissions like "resource:action"')
			WHEN 'invalid_expiry' THEN orion_private.field_error('expiresAt', made.status, 'field "expiresAt" must lie in the future')
			ELSE orion_private.field_error('rateLimit', made.status, 'field "rateLimit" must be from 1 to 1000000') END);
	END IF;
	PERFORM set_config('response.status', '201', true);
	PERFORM set_config('response.headers', '[{"Cache-Control": "no-store"}]', true);
	problem := orion_private.api_key_json(made.id);
	RETURN problem || jsonb_build_object('key', made.key);
END
$function$;
COMMENT ON FUNCTION orion_private.route_api_key_create(jsonb) IS 'POST /api/user/api-keys {"name", "scopes"?, "expiresAt"?, "rateLimit"?}: 201 with the key, this once; 400, 401, 403, 409 or 422';

CREATE FUNCTION orion_private.route_api_key_revoke(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	problem jsonb := orion_private.session_problem();
	wanted text := coalesce(request #>> '{params,id}', request #>> '{query,id}', request #>> '{body,id}');
BEGIN
	IF problem IS NOT NULL THEN
		RETURN problem;
	ELSIF wanted IS NULL THEN
		RETURN orion_private.route_invalid(400, orion_private.field_error('id', 'missing', 'field "id" is missing'));
	ELSIF wanted !~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$'
		OR NOT orion_private.api_key_revoke(wanted::uuid, orion_private.uid()) THEN
		RETURN orion_private.route_error(404, 'not_found', 'there is no such API key');
	END IF;
	PERFORM set_config('response.status', '204', true);
	RETURN NULL;
END
$function$;
COMMENT ON FUNCTION orion_private.route_api_key_revoke(jsonb) IS 'DELETE /api/user/api-keys/{id}, or with the id in the query or the body: 204, 400, 401, 403 or 404';
REVOKE ALL ON FUNCTION orion_private.route_api_key_list(jsonb), orion_private.route_api_key_create(jsonb),
	orion_private.route_api_key_revoke(jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION orion_private.route_api_key_list(jsonb), orion_private.route_api_key_create(jsonb),
	orion_private.route_api_key_revoke(jsonb) TO orion_anon, orion_user, orion_service, orion_admin;

-- src/profile/profile.sql

-- What users say about themselves: profile, mail address, preferences, whom they
-- follow; and the list of users for those who may see it.

CREATE TABLE orion_private.email_changes (
	user_id uuid PRIMARY KEY REFERENCES orion_private.users ON DELETE CASCADE,
	email text COLLATE "C" NOT NULL CHECK (email = lower(email) AND octet_length(email) <= 254),
	digest bytea NOT NULL UNIQUE,
	requested_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	expires_at timestamptz NOT NULL
);
COMMENT ON TABLE orion_private.email_changes IS 'Mail addresses that wait for their confirmation; of the token SHA-256 is kept';
CREATE TABLE orion_private.preferences (
	user_id uuid PRIMARY KEY REFERENCES orion_private.users ON DELETE CASCADE,
	preferences jsonb NOT NULL DEFAULT '{}'
		CHECK (jsonb_typeof(preferences) = 'object' AND octet_length(preferences::text) <= 16384),
	version bigint NOT NULL DEFAULT 1,
	updated_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE orion_private.preferences IS 'What users have chosen; the application says what is in it';
CREATE TRIGGER preferences_version BEFORE UPDATE ON orion_private.preferences
	FOR EACH ROW EXECUTE FUNCTION @extschema@.orion_version_bump('updated_at');
CREATE TABLE orion_private.follows (
	follower_id uuid NOT NULL REFERENCES orion_private.users ON DELETE CASCADE,
	user_id uuid NOT NULL REFERENCES orion_private.users ON DELETE CASCADE,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	PRIMARY KEY (follower_id, user_id),
	CHECK (follower_id <> user_id)
);
COMMENT ON TABLE orion_private.follows IS 'Who follows whom';
CREATE INDEX follows_user_id ON orion_private.follows (user_id);
CREATE INDEX users_created_at ON orion_private.users (created_at, id);
SELECT pg_catalog.pg_extension_config_dump('orion_private.email_changes', '');
SELECT pg_catalog.pg_extension_config_dump('orion_private.preferences', '');
SELECT pg_catalog.pg_extension_config_dump('orion_private.follows', '');

CREATE FUNCTION orion_private.user_audit() RETURNS trigger
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	columns text[] := '{email,role,display_name,avatar_url,user_metadata,app_metadata,email_verified_at}';
	before jsonb;
	after jsonb;
BEGIN
	SELECT jsonb_object_agg(o.key, o.value), jsonb_object_agg(o.key, n.value) INTO before, after
	FROM jsonb_each(to_jsonb(OLD)) AS o JOIN jsonb_each(to_jsonb(NEW)) AS n ON n.key = o.key
	WHERE o.key = ANY (columns) AND o.value <> n.value;
	IF before IS NOT NULL THEN
		PERFORM orion_private.audit('user.updated', 'user', NEW.id::text, old => before, new => after,
			metadata => jsonb_build_object('version', NEW.version));
	END IF;
	RETURN NULL;
END
$function$;
COMMENT ON FUNCTION orion_private.user_audit() IS 'Adds changed columns of a user to the audit log, before and after, however they were changed';
REVOKE ALL ON FUNCTION orion_private.user_audit() FROM PUBLIC;
CREATE TRIGGER users_audit AFTER UPDATE OF email, role, display_name, avatar_url, user_metadata, app_metadata, email_verified_at
	ON orion_private.users FOR EACH ROW EXECUTE FUNCTION orion_private.user_audit();

CREATE FUNCTION orion_private.account_audit() RETURNS trigger
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	IF TG_TABLE_NAME = 'sessions' THEN
		PERFORM orion_private.audit(
			CASE NEW.revoke_reason WHEN 'token_reused' THEN 'security.token_reused' ELSE 'auth.session_ended' END,
			'session', NEW.id::text, actor => CASE NEW.revoke_reason WHEN 'token_reused' THEN NEW.user_id END,
			metadata => jsonb_build_object('userId', NEW.user_id, 'reason', NEW.revoke_reason));
	ELSIF TG_OP = 'DELETE' THEN
		PERFORM orion_private.audit('user.deleted', 'user', OLD.id::text,
			old => jsonb_build_object('email', OLD.email, 'role', OLD.role));
	ELSE
		PERFORM orion_private.audit(CASE WHEN NEW.banned_until > now() THEN 'user.banned' ELSE 'user.unbanned' END, 'user', NEW.id::text,
			old => jsonb_build_object('until', OLD.banned_until), new => jsonb_build_object('until', NEW.banned_until));
	END IF;
	RETURN NULL;
END
$function$;
COMMENT ON FUNCTION orion_private.account_audit() IS 'Adds ended sessions, bans and deletions to the audit log';
REVOKE ALL ON FUNCTION orion_private.account_audit() FROM PUBLIC;

-- Attempts are written by who makes them or, when that may roll back, by the
-- maintenance worker. What COPY brings was on record when it was dumped; it names the
-- table, or COPY (SELECT orion_login(...)) would leave no trace.
CREATE FUNCTION orion_private.login_audit() RETURNS trigger
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	IF coalesce(current_query(), '') !~* '^\s*copy\s+orion_private\.login_attempts\M' THEN
		PERFORM orion_private.audit('auth.login', 'user', a.user_id::text, a.outcome, actor => a.user_id,
			address => a.address, user_agent => a.user_agent)
		FROM added AS a WHERE a.outcome NOT IN ('invalid_token', 'email_exists', 'reset_requested');
	END IF;
	RETURN NULL;
END
$function$;
COMMENT ON FUNCTION orion_private.login_audit() IS 'Adds attempts to log in to the audit log';
REVOKE ALL ON FUNCTION orion_private.login_audit() FROM PUBLIC;
CREATE TRIGGER login_audit AFTER INSERT ON orion_private.login_attempts
	REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION orion_private.login_audit();
CREATE TRIGGER account_audit AFTER DELETE ON orion_private.users
	FOR EACH ROW EXECUTE FUNCTION orion_private.account_audit();
CREATE TRIGGER account_audit_ban AFTER UPDATE OF banned_until ON orion_private.users
	FOR EACH ROW WHEN (NEW.banned_until IS DISTINCT FROM OLD.banned_until)
	EXECUTE FUNCTION orion_private.account_audit();
CREATE TRIGGER account_audit AFTER UPDATE OF revoked_at ON orion_private.sessions
	FOR EACH ROW WHEN (OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL)
	EXECUTE FUNCTION orion_private.account_audit();

-- Called and not a trigger: restoring a dump must not give back what was taken.
-- Who keeps books of roles by role.assigned must not miss those that come with the user.
CREATE FUNCTION orion_private.user_made(user_id uuid) RETURNS void
	LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	given text;
BEGIN
	INSERT INTO orion_private.preferences AS p (user_id) VALUES (user_made.user_id) ON CONFLICT ON CONSTRAINT preferences_pkey DO NOTHING;
	PERFORM orion_private.audit('user.created', 'user', user_id::text, actor => user_id,
		new => (SELECT jsonb_build_object('email', u.email, 'role', u.role) FROM orion_private.users AS u WHERE u.id = user_made.user_id));
	FOR given IN
		INSERT INTO orion_private.user_roles AS r (user_id, role)
		SELECT user_made.user_id, known.name FROM orion_private.roles AS known WHERE known.is_default ORDER BY known.name
		ON CONFLICT ON CONSTRAINT user_roles_pkey DO NOTHING
		RETURNING r.role
	LOOP
		PERFORM orion_private.audit('role.assigned', 'user', user_id::text, actor => user_id,
			new => jsonb_build_object('role', given), metadata => '{"default": true}');
		PERFORM orion_private.publish('role.assigned', jsonb_build_object('userId', user_id, 'role', given,
			'assignedBy', NULL), 'user', user_id::text);
	END LOOP;
END
$function$;
COMMENT ON FUNCTION orion_private.user_made(uuid) IS 'Gives a new user preferences and the default roles, and puts the user on record';
REVOKE ALL ON FUNCTION orion_private.user_made(uuid) FROM PUBLIC;

-- A new mail address counts once the token that was sent there comes back

CREATE FUNCTION orion_private.email_token_make(user_id uuid, OUT digest bytea, OUT sealed text)
	LANGUAGE c VOLATILE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_email_token_make';
COMMENT ON FUNCTION orion_private.email_token_make(uuid) IS 'A new token: its SHA-256, and itself sealed for the user';
REVOKE ALL ON FUNCTION orion_private.email_token_make(uuid) FROM PUBLIC;
CREATE FUNCTION @extschema@.orion_email_token_open(user_id uuid, sealed text) RETURNS text
	LANGUAGE c STABLE STRICT PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'orion_email_token_open';
COMMENT ON FUNCTION @extschema@.orion_email_token_open(uuid, text) IS 'The token of an event with a sealedToken (user.created, user.email_change_requested, auth.password_reset_requested), for who sends the mail';
REVOKE ALL ON FUNCTION @extschema@.orion_email_token_open(uuid, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_email_token_open(uuid, text) TO orion_service, orion_admin;

CREATE FUNCTION orion_private.email_change(u orion_private.users, new_email text) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	made record := orion_private.email_token_make(u.id);
	until timestamptz := now() + interval '1 hour';
BEGIN
	-- also when somebody has this address: that shows when the token comes back
	INSERT INTO orion_private.email_changes AS c (user_id, email, digest, expires_at)
	VALUES (u.id, new_email, made.digest, until)
	ON CONFLICT ON CONSTRAINT email_changes_pkey DO UPDATE
		SET email = excluded.email, digest = excluded.digest, requested_at = now(), expires_at = excluded.expires_at;
	PERFORM orion_private.audit('user.email_change_requested', 'user', u.id::text,
		old => jsonb_build_object('email', u.email), new => jsonb_build_object('email', new_email));
	PERFORM orion_private.publish('user.email_change_requested', jsonb_build_object('id', u.id, 'email', u.email,
		'newEmail', new_email, 'sealedToken', made.sealed, 'expiresAt', until), 'user', u.id::text);
END
$function$;
COMMENT ON FUNCTION orion_private.email_change(orion_private.users, text) IS 'Asks for the confirmation of a new mail address; replaces an earlier request';
REVOKE ALL ON FUNCTION orion_private.email_change(orion_private.users, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_email_confirm(token text, OUT status text, OUT user_id uuid, OUT email text)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	sent bytea := sha256(convert_to(token, 'UTF8'));
	change orion_private.email_changes;
BEGIN
	-- of two at once one finds the row
	DELETE FROM orion_private.email_changes AS c WHERE c.digest = sent RETURNING c.* INTO change;
	IF change.user_id IS NULL OR change.expires_at <= clock_timestamp() THEN
		status := CASE WHEN change.user_id IS NULL THEN 'invalid_token' ELSE 'expired_token' END;
		PERFORM orion_private.audit('user.email_changed', 'user', change.user_id::text, status, actor => change.user_id);
		RETURN;
	END IF;
	BEGIN
		UPDATE orion_private.users AS u SET email = change.email, email_verified_at = now() WHERE u.id = change.user_id;
	EXCEPTION WHEN unique_violation THEN
		status := 'email_exists';
		PERFORM orion_private.audit('user.email_changed', 'user', change.user_id::text, status, actor => change.user_id);
		RETURN;
	END;
	PERFORM orion_private.audit('user.email_changed', 'user', change.user_id::text,
		new => jsonb_build_object('email', change.email), actor => change.user_id);
	status := 'ok';
	user_id := change.user_id;
	email := change.email;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_email_confirm(text) IS 'Makes the mail address of a request the user''s. Status ok, invalid_token, expired_token or email_exists; a token works once';
REVOKE ALL ON FUNCTION @extschema@.orion_email_confirm(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_email_confirm(text) TO orion_service, orion_admin;

CREATE FUNCTION orion_private.scope_allows(scope text) RETURNS boolean
	LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	RETURN orion_private.permissions_within(ARRAY[scope], orion_private.claims() -> 'scopes') <> '{}';
END
$function$;
COMMENT ON FUNCTION orion_private.scope_allows(text) IS 'Whether the token has no scopes, or this one among them';
REVOKE ALL ON FUNCTION orion_private.scope_allows(text) FROM PUBLIC;
-- for the policies, which users evaluate
GRANT EXECUTE ON FUNCTION orion_private.scope_allows(text) TO orion_user;
CREATE POLICY users_scope_read ON orion_private.users AS RESTRICTIVE FOR SELECT TO orion_user
	USING (orion_private.scope_allows('profile:read'));
CREATE POLICY users_scope_write ON orion_private.users AS RESTRICTIVE FOR UPDATE TO orion_user
	USING (orion_private.scope_allows('profile:write'));

-- The routes answer before they call; this is for /rpc and SQL.
CREATE FUNCTION orion_private.require_scope(scope text) RETURNS void
	LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	IF NOT orion_private.scope_allows(scope) THEN
		RAISE EXCEPTION 'this needs the scope "%"', scope USING ERRCODE = 'PT403';
	END IF;
END
$function$;
COMMENT ON FUNCTION orion_private.require_scope(text) IS 'Raises PT403 when the token has scopes and this is not among them';
REVOKE ALL ON FUNCTION orion_private.require_scope(text) FROM PUBLIC;

-- Preferences

CREATE FUNCTION orion_private.merge_patch(target jsonb, patch jsonb) RETURNS jsonb
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	result jsonb;
	name text;
	value jsonb;
BEGIN
	IF jsonb_typeof(patch) <> 'object' THEN
		RETURN patch;
	END IF;
	result := CASE WHEN jsonb_typeof(target) = 'object' THEN target ELSE '{}' END;
	FOR name, value IN SELECT e.key, e.value FROM jsonb_each(patch) AS e LOOP
		IF jsonb_typeof(value) = 'null' THEN
			result := result - name;
		ELSE
			result := result || jsonb_build_object(name, orion_private.merge_patch(result -> name, value));
		END IF;
	END LOOP;
	RETURN result;
END
$function$;
COMMENT ON FUNCTION orion_private.merge_patch(jsonb, jsonb) IS 'JSON Merge Patch (RFC 7396)';
REVOKE ALL ON FUNCTION orion_private.merge_patch(jsonb, jsonb) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_preferences_update(patch jsonb, expected_version bigint DEFAULT NULL,
	OUT status text, OUT preferences jsonb, OUT version bigint)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	me uuid := orion_private.uid();
	before orion_private.preferences;
BEGIN
	PERFORM orion_private.require_scope('preferences:write');
	-- users who were not registered, but imported, have none yet
	INSERT INTO orion_private.preferences AS p (user_id) SELECT u.id FROM orion_private.users AS u WHERE u.id = me
	ON CONFLICT ON CONSTRAINT preferences_pkey DO NOTHING;
	SELECT p.* INTO before FROM orion_private.preferences AS p WHERE p.user_id = me FOR UPDATE;
	status := CASE
		WHEN NOT FOUND THEN 'unknown_user'
		WHEN jsonb_typeof(patch) IS DISTINCT FROM 'object' THEN 'invalid_preferences'
		WHEN jsonb_path_exists(patch, '$.**{51}') THEN 'preferences_too_deep'
		WHEN expected_version <> before.version THEN 'version_conflict'
	END;
	preferences := before.preferences;
	version := before.version;
	IF status IS NULL THEN
		preferences := orion_private.merge_patch(before.preferences, patch);
		status := CASE WHEN octet_length(preferences::text) > 16384 THEN 'preferences_too_large' ELSE 'ok' END;
	END IF;
	IF status = 'version_conflict' THEN
		PERFORM orion_private.audit('user.preferences_updated', 'user', me::text, status,
			metadata => jsonb_build_object('expected', expected_version, 'current', before.version));
	ELSIF status = 'ok' AND preferences <> before.preferences THEN
		UPDATE orion_private.preferences AS p SET preferences = orion_preferences_update.preferences
		WHERE p.user_id = me RETURNING p.version INTO version;
		PERFORM orion_private.audit('user.preferences_updated', 'user', me::text, old => before.preferences, new => preferences);
		PERFORM orion_private.publish('user.preferences_updated', jsonb_build_object('id', me, 'version', version,
			'preferences', preferences), 'user', me::text);
	END IF;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_preferences_update(jsonb, bigint) IS 'Changes preferences of the signed-in user by a JSON Merge Patch. Status ok, version_conflict, invalid_preferences, preferences_too_large (16 kB), preferences_too_deep (50 levels) or unknown_user';

-- Following

CREATE FUNCTION @extschema@.orion_follow(user_id uuid) RETURNS text
	LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	me uuid := orion_private.uid();
BEGIN
	PERFORM orion_private.require_scope('follows:write');
	IF user_id = me THEN
		RETURN 'self';
	END IF;
	-- neither goes away meanwhile
	IF (SELECT count(*) FROM (SELECT FROM orion_private.users AS u WHERE u.id IN (me, orion_follow.user_id) FOR KEY SHARE) AS both_users) <> 2 THEN
		RETURN 'unknown_user';
	END IF;
	INSERT INTO orion_private.follows AS f (follower_id, user_id) VALUES (me, orion_follow.user_id)
	ON CONFLICT ON CONSTRAINT follows_pkey DO NOTHING;
	IF NOT FOUND THEN
		RETURN 'already';
	END IF;
	PERFORM orion_private.audit('user.followed', 'user', user_id::text);
	PERFORM orion_private.publish('user.followed', jsonb_build_object('id', user_id, 'followerId', me), 'user', user_id::text);
	RETURN 'ok';
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_follow(uuid) IS 'Follows a user as the signed-in one: ok, already, self or unknown_user';

CREATE FUNCTION @extschema@.orion_unfollow(user_id uuid) RETURNS boolean
	LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	me uuid := orion_private.uid();
BEGIN
	PERFORM orion_private.require_scope('follows:write');
	DELETE FROM orion_private.follows AS f WHERE f.follower_id = me AND f.user_id = orion_unfollow.user_id;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM orion_private.audit('user.unfollowed', 'user', user_id::text);
	PERFORM orion_private.publish('user.unfollowed', jsonb_build_object('id', user_id, 'followerId', me), 'user', user_id::text);
	RETURN true;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_unfollow(uuid) IS 'Follows a user no more; false when the signed-in one did not';
REVOKE ALL ON FUNCTION @extschema@.orion_preferences_update(jsonb, bigint), @extschema@.orion_follow(uuid), @extschema@.orion_unfollow(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_preferences_update(jsonb, bigint), @extschema@.orion_follow(uuid), @extschema@.orion_unfollow(uuid)
	TO orion_user, orion_service, orion_admin;

-- HTTP: /api/user/... (registered in rest.sql)

CREATE FUNCTION orion_private.user_problem(scope text) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	IF orion_private.uid() IS NULL THEN
		PERFORM set_config('response.headers', '[{"WWW-Authenticate": "Bearer"}]', true);
		RETURN orion_private.route_error(401, 'unauthorized', 'sign in first');
	ELSIF NOT orion_private.scope_allows(scope) THEN
		RETURN orion_private.route_error(403, 'insufficient_scope', format('this needs the scope "%s"', scope));
	ELSIF NOT EXISTS (SELECT FROM orion_private.users AS u WHERE u.id = orion_private.uid()) THEN
		RETURN orion_private.route_error(404, 'not_found', 'the user does not exist any more');
	END IF;
	RETURN NULL;
END
$function$;
COMMENT ON FUNCTION orion_private.user_problem(text) IS 'Null when a user is signed in and the token has this scope or no scopes, else the answer 401, 403 or 404';

-- One list of what is wrong, in the order of the fields: {field: kinds of JSON}.
CREATE FUNCTION orion_private.shape_errors(body jsonb, fields jsonb, required text[]) RETURNS jsonb
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
	SELECT CASE WHEN jsonb_typeof(body) IS DISTINCT FROM 'object'
		THEN orion_private.field_error('', 'not_an_object', 'the body must be a JSON object')
		ELSE (
			SELECT coalesce(jsonb_agg(e.error ORDER BY e.field COLLATE "C"), '[]')
			FROM (
				SELECT b.key AS field, jsonb_build_object('field', left(b.key, 100), 'code', 'unknown_field',
					'message', format('field "%s" is not known', left(b.key, 100))) AS error
				FROM jsonb_each(body) AS b WHERE NOT fields ? b.key
				UNION ALL
				SELECT f.key, jsonb_build_object('field', f.key, 'code', 'wrong_type',
					'message', format('field "%s" must be %s', f.key, (SELECT string_agg(k, ' or ') FROM jsonb_array_elements_text(f.value) AS k)))
				FROM jsonb_each(fields) AS f
				WHERE body ? f.key AND NOT f.value ? (CASE
					WHEN jsonb_typeof(body -> f.key) = 'number' AND body ->> f.key ~ '^\d{1,18}$' THEN 'integer'
					ELSE jsonb_typeof(body -> f.key) END)
				UNION ALL
				SELECT r, jsonb_build_object('field', r, 'code', 'missing', 'message', format('field "%s" is missing', r))
				FROM unnest(required) AS r WHERE NOT body ? r) AS e)
		END;
$function$;
COMMENT ON FUNCTION orion_private.shape_errors(jsonb, jsonb, text[]) IS 'What is wrong with the form of a body: a list for route_invalid, empty when nothing is; integers are from 0 to 10^18';
REVOKE ALL ON FUNCTION orion_private.user_problem(text), orion_private.shape_errors(jsonb, jsonb, text[]) FROM PUBLIC;

CREATE FUNCTION orion_private.own_profile_json() RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
	AS $function$
	SELECT orion_private.profile_json(me.id) || jsonb_build_object(
		'pendingEmail', (SELECT c.email FROM orion_private.email_changes AS c WHERE c.user_id = me.id AND c.expires_at > now()),
		'followers', (SELECT count(*) FROM orion_private.follows AS f WHERE f.user_id = me.id),
		'following', (SELECT count(*) FROM orion_private.follows AS f WHERE f.follower_id = me.id))
	FROM (SELECT orion_private.uid()) AS me (id);
$function$;
COMMENT ON FUNCTION orion_private.own_profile_json() IS 'The profile of the signed-in user as HTTP answers show it';
REVOKE ALL ON FUNCTION orion_private.own_profile_json() FROM PUBLIC;

CREATE FUNCTION orion_private.route_profile(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	RETURN coalesce(orion_private.user_problem('profile:read'), orion_private.own_profile_json());
END
$function$;
COMMENT ON FUNCTION orion_private.route_profile(jsonb) IS 'GET /api/user/profile: 200, 401, 403 or 404';

CREATE FUNCTION orion_private.profile_rule_errors(body jsonb) RETURNS jsonb
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
	SELECT CASE WHEN octet_length(body ->> 'avatarUrl') > 2048 OR body ->> 'avatarUrl' !~ '^https?://[^[:space:][:cntrl:]]+$'
			THEN orion_private.field_error('avatarUrl', 'invalid_url', 'field "avatarUrl" must be an http or https URL of at most 2048 bytes') ELSE '[]' END
		|| CASE WHEN char_length(body ->> 'displayName') > 200 OR body ->> 'displayName' ~ '[[:cntrl:]]'
			THEN orion_private.field_error('displayName', 'invalid_display_name', 'field "displayName" may have 200 characters and no control characters') ELSE '[]' END
		|| CASE WHEN body ? 'email' AND NOT coalesce(orion_private.email_valid(orion_private.email_normalize(body ->> 'email')), false)
			THEN orion_private.field_error('email', 'invalid_email', 'field "email" is not a mail address') ELSE '[]' END
		|| CASE WHEN octet_length((body -> 'userMetadata')::text) > 16384
			THEN orion_private.field_error('userMetadata', 'too_large', 'field "userMetadata" may have 16 kB') ELSE '[]' END;
$function$;
COMMENT ON FUNCTION orion_private.profile_rule_errors(jsonb) IS 'What rules refuse in a change of a profile, whose form is right';
REVOKE ALL ON FUNCTION orion_private.profile_rule_errors(jsonb) FROM PUBLIC;

CREATE FUNCTION orion_private.route_profile_update(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	body jsonb := request -> 'body';
	problem jsonb := orion_private.user_problem('profile:write');
	password text := body ->> 'password';
	errors jsonb;
	u orion_private.users;
	asked record;
	new_email text;
	wait int;
BEGIN
	IF problem IS NOT NULL THEN
		RETURN problem;
	END IF;
	-- the password is no parameter of a query
	IF jsonb_typeof(body -> 'password') = 'string' THEN
		body := jsonb_set(body, '{password}', '""');
	END IF;
	errors := orion_private.shape_errors(body, '{"version": ["integer"], "displayName": ["string", "null"], "avatarUrl": ["string", "null"],
		"userMetadata": ["object"], "email": ["string"], "password": ["string"]}', '{version}');
	IF errors = '[]' AND body - '{version,password}'::text[] = '{}' THEN
		errors := orion_private.field_error('', 'nothing_to_change', 'the body names no field to change');
	END IF;
	IF errors <> '[]' THEN
		RETURN orion_private.route_invalid(400, errors);
	END IF;
	errors := orion_private.profile_rule_errors(body);
	IF errors <> '[]' THEN
		RETURN orion_private.route_invalid(422, errors);
	END IF;
	IF body ? 'email' AND orion_private.claims() ? 'api_key_id' THEN
		RETURN orion_private.session_problem();
	END IF;

	SELECT known.* INTO u FROM orion_private.users AS known WHERE known.id = orion_private.uid() FOR NO KEY UPDATE;
	-- an access token that leaked must not take the account over: who reads the mail sets the password
	IF body ? 'email' AND orion_private.email_normalize(body ->> 'email') <> u.email THEN
		asked := orion_private.signed_in_recently(u, password, orion_private.request_address(request),
			left(request #>> '{headers,user-agent}', 512));
		IF asked.status <> 'ok' THEN
			RETURN orion_private.two_factor_error(asked.status, asked.retry_after, true);
		END IF;
	END IF;
	IF u.version <> (body ->> 'version')::bigint THEN
		PERFORM orion_private.audit('user.updated', 'user', u.id::text, 'version_conflict',
			metadata => jsonb_build_object('expected', body -> 'version', 'current', u.version));
		RETURN orion_private.route_error(409, 'version_conflict', 'the profile was changed meanwhile')
			|| jsonb_build_object('currentVersion', u.version);
	END IF;
	new_email := orion_private.email_normalize(body ->> 'email');
	IF new_email <> u.email THEN
		wait := orion_private.mail_wait(u.id, 'user.email_change_requested', 'ok');
		IF wait > 0 THEN
			RETURN orion_private.route_locked(wait, 'too many other addresses were asked for');
		END IF;
	END IF;
	IF body ?| '{displayName,avatarUrl,userMetadata}' THEN
		UPDATE orion_private.users AS known SET
			display_name = CASE WHEN body ? 'displayName' THEN body ->> 'displayName' ELSE known.display_name END,
			avatar_url = CASE WHEN body ? 'avatarUrl' THEN body ->> 'avatarUrl' ELSE known.avatar_url END,
			user_metadata = CASE WHEN body ? 'userMetadata' THEN body -> 'userMetadata' ELSE known.user_metadata END
		WHERE known.id = u.id;
	END IF;
	IF new_email = u.email THEN
		DELETE FROM orion_private.email_changes AS c WHERE c.user_id = u.id;
	ELSIF new_email IS NOT NULL THEN
		PERFORM orion_private.email_change(u, new_email);
	END IF;
	RETURN orion_private.own_profile_json();
END
$function$;
COMMENT ON FUNCTION orion_private.route_profile_update(jsonb) IS 'PATCH /api/user/profile {"version", "displayName"?, "avatarUrl"?, "userMetadata"?, "email"?, "password"?}: 200, 400, 401, 403, 404, 409, 422 or 429';

CREATE FUNCTION orion_private.route_email_confirm(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	body jsonb := request -> 'body';
	wait int := orion_private.token_wait(request, false);
	done record;
	errors jsonb;
BEGIN
	IF wait > 0 THEN
		RETURN orion_private.route_locked(wait);
	END IF;
	-- assignments only: the token is no parameter of a query
	errors := orion_private.shape_errors(CASE WHEN jsonb_typeof(body -> 'token') = 'string'
		THEN jsonb_set(body, '{token}', '""') ELSE body END, '{"token": ["string"]}', '{token}');
	IF errors <> '[]' THEN
		RETURN orion_private.route_invalid(400, errors);
	END IF;
	done := @extschema@.orion_email_confirm(body ->> 'token');
	IF done.status = 'invalid_token' THEN
		wait := orion_private.token_wait(request, true);
	END IF;
	IF done.status = 'email_exists' THEN
		RETURN orion_private.route_error(409, done.status, 'another user has this mail address');
	ELSIF done.status <> 'ok' THEN
		RETURN orion_private.route_error(400, done.status, CASE done.status WHEN 'expired_token' THEN 'the token has expired'
			ELSE 'the token is not valid' END);
	END IF;
	RETURN jsonb_build_object('email', done.email);
END
$function$;
COMMENT ON FUNCTION orion_private.route_email_confirm(jsonb) IS 'POST /api/user/email/confirm {"token"}: 200, 400, 409 or 429';

CREATE FUNCTION orion_private.route_preferences(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	RETURN coalesce(orion_private.user_problem('preferences:read'), (
		SELECT jsonb_build_object('preferences', coalesce(p.preferences, '{}'), 'version', coalesce(p.version, 1),
			'updatedAt', coalesce(p.updated_at, u.created_at))
		FROM orion_private.users AS u LEFT JOIN orion_private.preferences AS p ON p.user_id = u.id
		WHERE u.id = orion_private.uid()));
END
$function$;
COMMENT ON FUNCTION orion_private.route_preferences(jsonb) IS 'GET /api/user/preferences: 200, 401, 403 or 404';

CREATE FUNCTION orion_private.route_preferences_update(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	body jsonb := request -> 'body';
	problem jsonb := orion_private.user_problem('preferences:write');
	errors jsonb;
	done record;
BEGIN
	IF problem IS NOT NULL THEN
		RETURN problem;
	END IF;
	errors := orion_private.shape_errors(body, '{"version": ["integer"], "preferences": ["object"]}', '{preferences}');
	IF errors <> '[]' THEN
		RETURN orion_private.route_invalid(400, errors);
	END IF;
	done := @extschema@.orion_preferences_update(body -> 'preferences', (body ->> 'version')::bigint);
	IF done.status = 'version_conflict' THEN
		RETURN orion_private.route_error(409, done.status, 'the preferences were changed meanwhile')
			|| jsonb_build_object('currentVersion', done.version);
	ELSIF done.status <> 'ok' THEN
		RETURN orion_private.route_invalid(422, orion_private.field_error('preferences', done.status, 'field "preferences" may have 16 kB and 50 levels'));
	END IF;
	RETURN jsonb_build_object('preferences', done.preferences, 'version', done.version);
END
$function$;
COMMENT ON FUNCTION orion_private.route_preferences_update(jsonb) IS 'PATCH /api/user/preferences {"preferences", "version"?}, a JSON Merge Patch: 200, 400, 401, 403, 404, 409 or 422';

CREATE FUNCTION orion_private.route_follow(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	problem jsonb := orion_private.user_problem('follows:write');
	wanted text := request #>> '{params,id}';
	done text := 'unknown_user';
BEGIN
	IF problem IS NOT NULL THEN
		RETURN problem;
	END IF;
	IF wanted ~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' THEN
		done := @extschema@.orion_follow(wanted::uuid);
	END IF;
	IF done = 'unknown_user' THEN
		RETURN orion_private.route_error(404, 'not_found', 'there is no such user');
	ELSIF done = 'self' THEN
		RETURN orion_private.route_invalid(422, orion_private.field_error('id', 'self', 'nobody follows themselves'));
	ELSIF done = 'ok' THEN
		PERFORM set_config('response.status', '201', true);
	END IF;
	RETURN jsonb_build_object('following', true,
		'followers', (SELECT count(*) FROM orion_private.follows AS f WHERE f.user_id = wanted::uuid));
END
$function$;
COMMENT ON FUNCTION orion_private.route_follow(jsonb) IS 'POST /api/user/{id}/follow: 201, 200 when it was so already, 401, 403, 404 or 422';

CREATE FUNCTION orion_private.route_unfollow(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	problem jsonb := orion_private.user_problem('follows:write');
	wanted text := request #>> '{params,id}';
BEGIN
	IF problem IS NOT NULL THEN
		RETURN problem;
	ELSIF wanted !~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' OR NOT @extschema@.orion_unfollow(wanted::uuid) THEN
		RETURN orion_private.route_error(404, 'not_found', 'you do not follow this user');
	END IF;
	PERFORM set_config('response.status', '204', true);
	RETURN NULL;
END
$function$;
COMMENT ON FUNCTION orion_private.route_unfollow(jsonb) IS 'DELETE /api/user/{id}/follow: 204, 401, 403 or 404';

-- The list of users. A cursor is the place after a row: what is sorted by, its value,
-- and the id. It says nothing that the row did not, so it is not signed.

CREATE FUNCTION orion_private.user_list_errors(query jsonb) RETURNS jsonb
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
	SELECT CASE WHEN query ->> 'cursor' IS NOT NULL AND query ? 'page'
			THEN orion_private.field_error('cursor', 'conflict', 'give "cursor" or "page"') ELSE '[]' END
		|| CASE WHEN query ->> 'limit' !~ '^[1-9]\d{0,2}$' OR (query ->> 'limit' ~ '^\d{1,3}$' AND (query ->> 'limit')::int > 100)
			THEN orion_private.field_error('limit', 'out_of_range', '"limit" must be from 1 to 100') ELSE '[]' END
		|| CASE WHEN query ->> 'page' !~ '^[1-9]\d{0,6}$'
			THEN orion_private.field_error('page', 'out_of_range', '"page" must be from 1 to 9999999') ELSE '[]' END
		|| CASE WHEN query ->> 'sort' !~ '^-?(createdAt|email|displayName|lastLoginAt)$'
			THEN orion_private.field_error('sort', 'unknown', '"sort" must be createdAt, email, displayName or lastLoginAt, with "-" in front for the other way') ELSE '[]' END;
$function$;
COMMENT ON FUNCTION orion_private.user_list_errors(jsonb) IS 'What is wrong with the query of the list of users';

CREATE FUNCTION orion_private.user_list_cursor(token text, sort text, OUT valid boolean, OUT value text, OUT id uuid)
	LANGUAGE plpgsql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	place jsonb;
BEGIN
	valid := false;
	IF token IS NULL OR octet_length(token) > 2048 OR token !~ '^[A-Za-z0-9_-]+$' THEN
		RETURN;
	END IF;
	place := convert_from(decode(rpad(translate(token, '-_', '+/'), (octet_length(token) + 3) / 4 * 4, '='), 'base64'), 'UTF8')::jsonb;
	IF place ->> 0 = sort AND jsonb_typeof(place -> 1) = 'string' AND jsonb_array_length(place) = 3 THEN
		id := (place ->> 2)::uuid;
		value := place ->> 1;
		-- the query will read it as this type
		valid := id IS NOT NULL AND (sort !~ 'At$' OR value::timestamptz IS NOT NULL);
	END IF;
EXCEPTION WHEN data_exception THEN
	valid := false;
END
$function$;
COMMENT ON FUNCTION orion_private.user_list_cursor(text, text) IS 'What a cursor of the list of users says, if it is one for this order';

CREATE FUNCTION orion_private.user_list_page(sort text, at_value text, at_id uuid, skip bigint, take int) RETURNS SETOF jsonb
	LANGUAGE plpgsql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	-- nulls come first, and have a value that a cursor can hold
	key text := CASE ltrim(sort, '-') WHEN 'createdAt' THEN 'u.created_at' WHEN 'email' THEN 'u.email'
		WHEN 'displayName' THEN 'coalesce(u.display_name, '''')' ELSE 'coalesce(u.last_login_at, ''-infinity'')' END;
	type text := CASE WHEN sort ~ 'At$' THEN 'timestamptz' ELSE 'text' END;
	down boolean := sort ^@ '-';
BEGIN
	RETURN QUERY EXECUTE format(
		'SELECT jsonb_build_object(''user'', orion_private.profile_json(u.id) || jsonb_build_object(''lastLoginAt'', u.last_login_at),'
		' ''place'', jsonb_build_array($1, to_jsonb(%1$s), u.id))'
		' FROM orion_private.users AS u'
		|| CASE WHEN at_id IS NULL THEN '' ELSE ' WHERE (%1$s, u.id) %2$s ($2::%3$s, $3)' END ||
		' ORDER BY %1$s %4$s, u.id %4$s LIMIT $5 OFFSET $4',
		key, CASE WHEN down THEN '<' ELSE '>' END, type, CASE WHEN down THEN 'DESC' ELSE 'ASC' END)
		USING sort, at_value, at_id, skip, take;
END
$function$;
COMMENT ON FUNCTION orion_private.user_list_page(text, text, uuid, bigint, int) IS 'Users in this order, each with its place; after a place, or skipping some';
REVOKE ALL ON FUNCTION orion_private.user_list_errors(jsonb), orion_private.user_list_cursor(text, text),
	orion_private.user_list_page(text, text, uuid, bigint, int) FROM PUBLIC;

CREATE FUNCTION orion_private.route_user_list(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	query jsonb := coalesce(request -> 'query', '{}');
	errors jsonb := orion_private.user_list_errors(query);
	sort text := coalesce(query ->> 'sort', '-createdAt');
	page bigint := 1;
	take int := 20;
	place record;
	found_rows jsonb[];
	answer jsonb;
BEGIN
	IF NOT orion_private.caller_is_trusted() AND NOT @extschema@.orion_has_permission('users:read') THEN
		IF orion_private.claims() IS NULL THEN
			PERFORM set_config('response.headers', '[{"WWW-Authenticate": "Bearer"}]', true);
			RETURN orion_private.route_error(401, 'unauthorized', 'sign in first');
		END IF;
		RETURN orion_private.route_error(403, 'forbidden', 'this needs the permission "users:read"');
	END IF;
	IF errors <> '[]' THEN
		RETURN orion_private.route_invalid(400, errors);
	END IF;
	place := orion_private.user_list_cursor(query ->> 'cursor', sort);
	IF query ? 'cursor' AND NOT place.valid THEN
		RETURN orion_private.route_invalid(400, orion_private.field_error('cursor', 'invalid_cursor', '"cursor" is none of this list and order'));
	END IF;
	page := coalesce((query ->> 'page')::bigint, 1);
	take := coalesce((query ->> 'limit')::int, 20);
	-- one more, to know whether there is more
	found_rows := ARRAY(SELECT p FROM orion_private.user_list_page(sort, place.value, place.id, (page - 1) * take, take + 1) AS p);
	answer := jsonb_build_object('limit', take, 'hasMore', cardinality(found_rows) > take,
		'users', (SELECT coalesce(jsonb_agg(r -> 'user'), '[]') FROM unnest(found_rows[1:take]) AS r),
		'nextCursor', CASE WHEN cardinality(found_rows) > take
			THEN translate(encode(convert_to((found_rows[take] -> 'place')::text, 'UTF8'), 'base64'), E'+/=\n', '-_') END);
	IF query ? 'cursor' THEN
		RETURN answer;
	END IF;
	RETURN answer || jsonb_build_object('page', page, 'total', (SELECT count(*) FROM orion_private.users));
END
$function$;
COMMENT ON FUNCTION orion_private.route_user_list(jsonb) IS 'GET /api/user/list?page&limit&sort or ?cursor&limit&sort: 200, 400, 401 or 403';

CREATE FUNCTION orion_private.route_user_health(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	-- reads what every other route needs; an error is answered as one
	PERFORM FROM orion_private.users AS u JOIN orion_private.preferences AS p ON p.user_id = u.id LIMIT 1;
	RETURN jsonb_build_object('status', 'ok', 'writable', NOT pg_is_in_recovery(), 'time', clock_timestamp());
END
$function$;
COMMENT ON FUNCTION orion_private.route_user_health(jsonb) IS 'GET /api/user/health: 200';

DO $do$
DECLARE
	name text;
BEGIN
	FOREACH name IN ARRAY ARRAY['profile', 'profile_update', 'email_confirm', 'preferences', 'preferences_update',
		'follow', 'unfollow', 'user_list', 'user_health'] LOOP
		EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION orion_private.route_%s(jsonb) FROM PUBLIC', name);
		EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION orion_private.route_%s(jsonb) TO orion_anon, orion_user, orion_service, orion_admin', name);
	END LOOP;
END
$do$;

-- src/account/account.sql

-- What a user does by mail or with the current password: confirm the address, reset
-- and change the password.

CREATE FUNCTION orion_private.token_take(token text, purpose text) RETURNS orion_private.one_time_tokens
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	-- computed here: a query has only the digest as its parameter
	sent bytea := sha256(convert_to(token, 'UTF8'));
	taken orion_private.one_time_tokens;
BEGIN
	-- of two at once the second waits, and finds it used
	UPDATE orion_private.one_time_tokens AS t SET used_at = clock_timestamp()
	WHERE t.digest = sent AND t.purpose = token_take.purpose AND t.used_at IS NULL
		AND t.user_id IS NOT NULL AND t.expires_at > clock_timestamp()
		-- whoever reads a mailbox that is the user's no more gets no password
		AND (t.purpose <> 'reset_password' OR EXISTS (SELECT FROM orion_private.users AS u WHERE u.id = t.user_id AND u.email = t.email))
	RETURNING t.* INTO taken;
	RETURN taken;
END
$function$;
COMMENT ON FUNCTION orion_private.token_take(text, text) IS 'Uses a token up; nulls when it is unknown, used or expired';

CREATE FUNCTION orion_private.token_email(token text, purpose text) RETURNS text
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	sent bytea := sha256(convert_to(token, 'UTF8'));
BEGIN
	RETURN (SELECT t.email FROM orion_private.one_time_tokens AS t WHERE t.digest = sent AND t.purpose = token_email.purpose);
END
$function$;
COMMENT ON FUNCTION orion_private.token_email(text, text) IS 'The mail address that a token was sent to; null when there is no such token';
REVOKE ALL ON FUNCTION orion_private.token_email(text, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_verify_email(token text, OUT status text, OUT user_id uuid)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	taken orion_private.one_time_tokens := orion_private.token_take(token, 'verify_email');
BEGIN
	-- an address that was changed since is confirmed by another token
	UPDATE orion_private.users AS u SET email_verified_at = coalesce(u.email_verified_at, now())
	WHERE u.id = taken.user_id AND u.email = taken.email RETURNING u.id INTO user_id;
	status := CASE WHEN user_id IS NULL THEN 'invalid_token' ELSE 'ok' END;
	PERFORM orion_private.audit('user.email_verified', 'user', user_id::text, status, actor => user_id);
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_verify_email(text) IS 'Confirms the mail address of a registration by the token of user.created. Status ok or invalid_token; a token works once';

CREATE FUNCTION @extschema@.orion_password_reset_request(email text, address inet DEFAULT NULL, user_agent text DEFAULT NULL) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	normalized text := orion_private.email_normalize(email);
	from_address inet := coalesce(address, inet_client_addr());
	known uuid;
	made record;
BEGIN
	IF NOT orion_private.email_valid(normalized) THEN
		RETURN;
	END IF;
	-- nobody's mailbox is flooded
	IF (SELECT count(*) FROM orion_private.one_time_tokens AS t WHERE t.email = normalized AND t.purpose = 'reset_password'
			AND t.created_at > clock_timestamp() - interval '15 minutes') >= 3 THEN
		RETURN;
	END IF;
	-- an unknown address gets a token, too, that nobody has: the same work and the same limit
	SELECT u.id INTO known FROM orion_private.users AS u WHERE u.email = normalized;
	made := orion_private.one_time_token(known, 'reset_password', normalized, interval '1 hour');
	PERFORM orion_private.audit('auth.password_reset_requested', 'user', known::text, metadata => jsonb_build_object('email', normalized),
		address => from_address, user_agent => left(orion_password_reset_request.user_agent, 512));
	IF known IS NOT NULL THEN
		PERFORM orion_private.publish('auth.password_reset_requested', jsonb_build_object('id', known, 'email', normalized,
			'sealedToken', made.sealed, 'expiresAt', made.expires_at, 'address', host(from_address),
			'userAgent', left(orion_password_reset_request.user_agent, 512)), 'user', known::text);
	END IF;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_password_reset_request(text, inet, text) IS 'Publishes auth.password_reset_requested with a sealed token (1 hour, one use) when the address is known; says nothing either way';

-- password and others: the new hash; only the session given stays.
CREATE FUNCTION orion_private.password_set(user_id uuid, new_hash text, spared uuid, method text, revoke_api_keys boolean) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	u orion_private.users;
	keys uuid[];
BEGIN
	UPDATE orion_private.users AS k SET password_hash = new_hash WHERE k.id = password_set.user_id RETURNING k.* INTO u;
	UPDATE orion_private.one_time_tokens AS t SET used_at = clock_timestamp()
	WHERE t.user_id = u.id AND t.purpose = 'reset_password' AND t.used_at IS NULL;
	-- nor does a new address come true that somebody asked for who had the account
	DELETE FROM orion_private.email_changes AS c WHERE c.user_id = u.id;
	PERFORM orion_private.sessions_end(u.id, spared, 'password');
	PERFORM orion_private.trusted_devices_drop(u.id);
	-- programs go on with their keys, unless the user says that somebody else may have made some
	keys := ARRAY(SELECT k.id FROM orion_private.api_keys AS k
		WHERE k.user_id = u.id AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now()) ORDER BY k.id);
	IF revoke_api_keys THEN
		PERFORM orion_private.api_key_revoke(k, u.id) FROM unnest(keys) AS k;
		keys := '{}';
	END IF;
	PERFORM orion_private.audit('auth.password_changed', 'user', u.id::text,
		metadata => jsonb_build_object('method', method, 'apiKeys', cardinality(keys)), actor => u.id);
	PERFORM orion_private.publish('auth.password_changed', jsonb_build_object('id', u.id, 'email', u.email, 'method', method,
		'apiKeys', cardinality(keys)), 'user', u.id::text);
END
$function$;
COMMENT ON FUNCTION orion_private.password_set(uuid, text, uuid, text, boolean) IS 'Sets the hash of a password, ends the sessions but the spared one, trusts no device any more, uses up other reset tokens, drops a change of the mail address, revokes API keys if asked to, and publishes it';

CREATE FUNCTION @extschema@.orion_password_reset(token text, new_password text, revoke_api_keys boolean DEFAULT false, OUT status text, OUT user_id uuid)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	taken orion_private.one_time_tokens;
	new_hash text;
BEGIN
	-- before the token: it is not used up by a password that is refused
	status := orion_private.password_problem(new_password, orion_private.token_email(token, 'reset_password'));
	IF status IS NOT NULL THEN
		RETURN;
	END IF;
	taken := orion_private.token_take(token, 'reset_password');
	IF taken.user_id IS NULL THEN
		status := 'invalid_token';
		PERFORM orion_private.audit('auth.password_changed', NULL, NULL, status);
		RETURN;
	END IF;
	new_hash := @extschema@.orion_hash_password(new_password);
	PERFORM orion_private.password_set(taken.user_id, new_hash, NULL, 'reset', coalesce(revoke_api_keys, false));
	-- the token came by mail
	UPDATE orion_private.users AS u SET email_verified_at = now()
	WHERE u.id = taken.user_id AND u.email = taken.email AND u.email_verified_at IS NULL;
	PERFORM orion_private.throttle_clear(taken.email, NULL);
	status := 'ok';
	user_id := taken.user_id;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_password_reset(text, text, boolean) IS 'Sets a password by a token and ends all sessions; API keys stay unless they are to be revoked. Status ok, invalid_token, weak_password, common_password or password_too_long';

CREATE FUNCTION @extschema@.orion_password_change(current_password text, new_password text, address inet DEFAULT NULL, user_agent text DEFAULT NULL,
	revoke_api_keys boolean DEFAULT false,
	OUT status text, OUT retry_after int)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	from_address inet := coalesce(address, inet_client_addr());
	network inet := orion_private.address_network(from_address);
	agent text := left(user_agent, 512);
	session uuid := orion_private.current_session();
	u orion_private.users;
	new_hash text;
BEGIN
	-- a session, not an API key: a key that leaked must not take the account over
	IF session IS NULL OR orion_private.uid() IS NULL THEN
		RAISE EXCEPTION 'nobody is signed in with a session' USING ERRCODE = 'PT401';
	END IF;
	-- of two at once the second sees the password of the first
	SELECT k.* INTO u FROM orion_private.users AS k WHERE k.id = orion_private.uid() FOR NO KEY UPDATE;
	status := orion_private.password_problem(new_password, u.email);
	IF status IS NOT NULL THEN
		RETURN;
	END IF;
	retry_after := orion_private.login_wait(u.email, network, false);
	IF retry_after > 0 THEN
		status := 'locked';
		PERFORM orion_private.attempt_record(u.email, u.id, status, from_address, agent);
		RETURN;
	END IF;
	status := orion_private.password_status(u, current_password);
	IF status <> 'ok' THEN
		retry_after := orion_private.login_wait(u.email, network, true);
		status := CASE WHEN retry_after > 0 THEN 'locked' ELSE 'invalid_credentials' END;
		retry_after := nullif(retry_after, 0);
		PERFORM orion_private.attempt_record(u.email, u.id, status, from_address, agent);
		PERFORM orion_private.audit('auth.password_changed', 'user', u.id::text, status);
		RETURN;
	END IF;
	retry_after := NULL;
	new_hash := @extschema@.orion_hash_password(new_password);
	PERFORM orion_private.password_set(u.id, new_hash, session, 'change', coalesce(revoke_api_keys, false));
	status := 'ok';
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_password_change(text, text, inet, text, boolean) IS 'Changes the password of the signed-in user and ends the other sessions; API keys stay unless they are to be revoked. Status ok, invalid_credentials, locked, weak_password, common_password or password_too_long; failures count like those of logins';

REVOKE ALL ON FUNCTION orion_private.token_take(text, text), orion_private.password_set(uuid, text, uuid, text, boolean),
	@extschema@.orion_verify_email(text), @extschema@.orion_password_reset_request(text, inet, text),
	@extschema@.orion_password_reset(text, text, boolean), @extschema@.orion_password_change(text, text, inet, text, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_verify_email(text), @extschema@.orion_password_reset_request(text, inet, text),
	@extschema@.orion_password_reset(text, text, boolean), @extschema@.orion_password_change(text, text, inet, text, boolean) TO orion_service, orion_admin;

-- HTTP (registered in rest.sql)

CREATE FUNCTION orion_private.route_verify_email(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	problem text := orion_private.body_problem(request -> 'body', '{token}', '{}');
	wait int := orion_private.token_wait(request, false);
	done record;
BEGIN
	IF wait > 0 THEN
		RETURN orion_private.route_locked(wait);
	ELSIF problem IS NOT NULL THEN
		RETURN orion_private.route_error(400, 'invalid_request', problem);
	END IF;
	done := @extschema@.orion_verify_email(request #>> '{body,token}');
	IF done.status <> 'ok' THEN
		wait := orion_private.token_wait(request, true);
		RETURN orion_private.route_error(400, done.status, 'the token is unknown, used or expired');
	END IF;
	RETURN jsonb_build_object('verified', true);
END
$function$;
COMMENT ON FUNCTION orion_private.route_verify_email(jsonb) IS 'POST /api/auth/verify-email {"token"}: 200, 400 or 429';

CREATE FUNCTION orion_private.route_password_reset(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	problem text := orion_private.body_problem(request -> 'body', '{email}', '{}');
	wait int;
BEGIN
	IF problem IS NOT NULL THEN
		RETURN orion_private.route_error(400, 'invalid_request', problem);
	END IF;
	-- known or not, each counts for the address it comes from
	wait := orion_private.token_wait(request, true, 'reset_requested');
	IF wait > 0 THEN
		RETURN orion_private.route_locked(wait);
	END IF;
	PERFORM @extschema@.orion_password_reset_request(request #>> '{body,email}', orion_private.request_address(request),
		request #>> '{headers,user-agent}');
	PERFORM set_config('response.status', '202', true);
	RETURN jsonb_build_object('status', 'accepted');
END
$function$;
COMMENT ON FUNCTION orion_private.route_password_reset(jsonb) IS 'POST /api/auth/password-reset {"email"}: 202 whether the address is known or not, 400 or 429';

CREATE FUNCTION orion_private.revoke_api_keys_problem(body jsonb) RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
	SELECT 'field "revokeApiKeys" must be true or false' WHERE coalesce(jsonb_typeof(body -> 'revokeApiKeys'), 'null') NOT IN ('boolean', 'null');
$function$;
COMMENT ON FUNCTION orion_private.revoke_api_keys_problem(jsonb) IS 'What is wrong with the field "revokeApiKeys" of a request, or null';
REVOKE ALL ON FUNCTION orion_private.revoke_api_keys_problem(jsonb) FROM PUBLIC;

CREATE FUNCTION orion_private.route_password_reset_confirm(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	body jsonb := request -> 'body';
	problem text := coalesce(orion_private.body_problem(body, '{token,newPassword}', '{}'), orion_private.revoke_api_keys_problem(body));
	wait int := orion_private.token_wait(request, false);
	done record;
BEGIN
	IF wait > 0 THEN
		RETURN orion_private.route_locked(wait);
	ELSIF problem IS NOT NULL THEN
		RETURN orion_private.route_error(400, 'invalid_request', problem);
	END IF;
	done := @extschema@.orion_password_reset(body ->> 'token', body ->> 'newPassword', (body ->> 'revokeApiKeys')::boolean);
	IF done.status = 'invalid_token' THEN
		wait := orion_private.token_wait(request, true);
	END IF;
	IF done.status <> 'ok' THEN
		RETURN orion_private.route_error(400, done.status,
			coalesce(orion_private.password_message(done.status), 'the token is unknown, used or expired'));
	END IF;
	RETURN jsonb_build_object('status', done.status);
END
$function$;
COMMENT ON FUNCTION orion_private.route_password_reset_confirm(jsonb) IS 'POST /api/auth/password-reset/confirm {"token", "newPassword", "revokeApiKeys"?}: 200, 400 or 429';

CREATE FUNCTION orion_private.route_password_change(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	body jsonb := request -> 'body';
	refusal jsonb := orion_private.route_session_only();
	problem text := coalesce(orion_private.body_problem(body, '{currentPassword,newPassword}', '{}'), orion_private.revoke_api_keys_problem(body));
	done record;
BEGIN
	IF refusal IS NOT NULL THEN
		RETURN refusal;
	ELSIF orion_private.uid() IS NULL OR orion_private.current_session() IS NULL THEN
		RETURN orion_private.route_unauthorized();
	ELSIF problem IS NOT NULL THEN
		RETURN orion_private.route_error(400, 'invalid_request', problem);
	END IF;
	done := @extschema@.orion_password_change(body ->> 'currentPassword', body ->> 'newPassword',
		orion_private.request_address(request), request #>> '{headers,user-agent}', (body ->> 'revokeApiKeys')::boolean);
	IF done.status = 'locked' THEN
		RETURN orion_private.route_locked(done.retry_after);
	ELSIF done.status = 'invalid_credentials' THEN
		RETURN orion_private.route_error(403, done.status, 'the current password is wrong');
	ELSIF done.status <> 'ok' THEN
		RETURN orion_private.route_error(400, done.status, orion_private.password_message(done.status));
	END IF;
	RETURN jsonb_build_object('status', done.status);
END
$function$;
COMMENT ON FUNCTION orion_private.route_password_change(jsonb) IS 'POST /api/auth/password-change {"currentPassword", "newPassword", "revokeApiKeys"?}: 200, 400, 401, 403 or 429';
REVOKE ALL ON FUNCTION orion_private.route_verify_email(jsonb), orion_private.route_password_reset(jsonb),
	orion_private.route_password_reset_confirm(jsonb), orion_private.route_password_change(jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION orion_private.route_verify_email(jsonb), orion_private.route_password_reset(jsonb),
	orion_private.route_password_reset_confirm(jsonb), orion_private.route_password_change(jsonb)
	TO orion_anon, orion_user, orion_service, orion_admin;

-- src/mfa/mfa.sql

-- Second factors: codes of an authenticator app, backup codes, trusted devices, and the
-- sign-ins that wait for them.
--
-- Whatever changes or tries a factor first locks the row of the user, as a sign-in and the
-- end of sessions do: for one user these happen one after the other. A code, a secret or a
-- token is in no query, only what is made of it (a digest, a time step, a sealed value).

CREATE TABLE orion_private.two_factors (
	user_id uuid PRIMARY KEY REFERENCES orion_private.users ON DELETE CASCADE,
	secret bytea NOT NULL,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	confirmed_at timestamptz,
	last_used_at timestamptz,
	last_step bigint NOT NULL DEFAULT 0,
	failures int NOT NULL DEFAULT 0,
	locked_until timestamptz
) WITH (fillfactor = 80);
COMMENT ON TABLE orion_private.two_factors IS 'The authenticator app of a user; its secret is sealed';
COMMENT ON COLUMN orion_private.two_factors.confirmed_at IS 'Null: set up, and asked for nothing until the first code has come';
COMMENT ON COLUMN orion_private.two_factors.last_step IS 'Time step (30 s) of the last code that was used: no code of it or of an earlier one counts again';
COMMENT ON COLUMN orion_private.two_factors.failures IS 'Wrong codes, of any kind, from addresses that never had a right one, since the last right one from such an address';
CREATE INDEX two_factors_unconfirmed ON orion_private.two_factors (created_at) WHERE confirmed_at IS NULL;
SELECT pg_catalog.pg_extension_config_dump('orion_private.two_factors', '');

CREATE TABLE orion_private.backup_codes (
	user_id uuid NOT NULL REFERENCES orion_private.two_factors ON DELETE CASCADE,
	digest bytea NOT NULL CHECK (length(digest) = 16),
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	used_at timestamptz,
	PRIMARY KEY (user_id, digest)
);
COMMENT ON TABLE orion_private.backup_codes IS 'Codes for who has lost the app, as digests under the master key; each works once';
SELECT pg_catalog.pg_extension_config_dump('orion_private.backup_codes', '');

CREATE TABLE orion_private.trusted_devices (
	id uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
	user_id uuid NOT NULL REFERENCES orion_private.two_factors ON DELETE CASCADE,
	device_id uuid NOT NULL REFERENCES orion_private.devices ON DELETE CASCADE,
	digest bytea NOT NULL UNIQUE CHECK (length(digest) = 32),
	created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	last_used_at timestamptz,
	expires_at timestamptz NOT NULL
);
COMMENT ON TABLE orion_private.trusted_devices IS 'Devices whose sign-ins need no second factor, by the SHA-256 of a token they keep';
CREATE INDEX trusted_devices_user_id ON orion_private.trusted_devices (user_id);
CREATE INDEX trusted_devices_expires_at ON orion_private.trusted_devices (expires_at);
CREATE INDEX trusted_devices_device_id ON orion_private.trusted_devices (device_id);
SELECT pg_catalog.pg_extension_config_dump('orion_private.trusted_devices', '');

CREATE TABLE orion_private.pending_sessions (
	digest bytea PRIMARY KEY CHECK (length(digest) = 32),
	user_id uuid NOT NULL REFERENCES orion_private.two_factors ON DELETE CASCADE,
	method text NOT NULL,
	device text,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	expires_at timestamptz NOT NULL
);
COMMENT ON TABLE orion_private.pending_sessions IS 'Sign-ins that wait for the second factor, by the SHA-256 of what HTTP calls sessionId: no sessions yet, and good for nothing else';
CREATE INDEX pending_sessions_user_id ON orion_private.pending_sessions (user_id, created_at);
CREATE INDEX pending_sessions_expires_at ON orion_private.pending_sessions (expires_at);
SELECT pg_catalog.pg_extension_config_dump('orion_private.pending_sessions', '');

-- Primitives

CREATE FUNCTION orion_private.mfa_settings(OUT pending_ttl int, OUT trusted_device_ttl int, OUT recent_sign_in int, OUT lock_after int)
	LANGUAGE c STABLE PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_mfa_settings';
COMMENT ON FUNCTION orion_private.mfa_settings() IS 'Settings of this module as values; times in seconds';
CREATE FUNCTION orion_private.mfa_token(OUT token text, OUT digest bytea)
	LANGUAGE c VOLATILE PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_mfa_token';
COMMENT ON FUNCTION orion_private.mfa_token() IS 'A new token of 32 random bytes and its SHA-256';
CREATE FUNCTION orion_private.backup_code(user_id uuid, OUT code text, OUT digest bytea)
	LANGUAGE c VOLATILE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_backup_code';
COMMENT ON FUNCTION orion_private.backup_code(uuid) IS 'A new backup code of a user and its digest';
CREATE FUNCTION orion_private.backup_code_digest(user_id uuid, typed text) RETURNS bytea
	LANGUAGE c STABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_backup_code_digest';
COMMENT ON FUNCTION orion_private.backup_code_digest(uuid, text) IS 'The digest of what a user typed as backup code; null when it cannot be one';
CREATE FUNCTION orion_private.totp_code(secret bytea, at timestamptz, digits int, algorithm text) RETURNS text
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_totp_code';
COMMENT ON FUNCTION orion_private.totp_code(bytea, timestamptz, int, text) IS 'The code of a secret at a time (RFC 6238): 6 to 8 digits; SHA1, SHA256 or SHA512';
CREATE FUNCTION orion_private.totp_setup(user_id uuid, account text, OUT sealed bytea, OUT secret text, OUT uri text, OUT qr_code text)
	LANGUAGE c VOLATILE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_totp_setup';
COMMENT ON FUNCTION orion_private.totp_setup(uuid, text) IS 'A new secret: sealed for the user, in base 32, as otpauth:// URI, and that as QR code (SVG)';
CREATE FUNCTION orion_private.totp_step(user_id uuid, secret bytea, typed text, at timestamptz, used bigint) RETURNS bigint
	LANGUAGE c STABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_totp_step';
COMMENT ON FUNCTION orion_private.totp_step(uuid, bytea, text, timestamptz, bigint) IS 'The time step, after the used one and at most one from now, whose code this is; else null';
REVOKE ALL ON FUNCTION orion_private.mfa_settings(), orion_private.mfa_token(), orion_private.backup_code(uuid),
	orion_private.backup_code_digest(uuid, text), orion_private.totp_code(bytea, timestamptz, int, text),
	orion_private.totp_setup(uuid, text), orion_private.totp_step(uuid, bytea, text, timestamptz, bigint) FROM PUBLIC;

-- What orion_login, and the end of sessions, ask

CREATE FUNCTION orion_private.two_factor_enabled(user_id uuid) RETURNS boolean
	LANGUAGE plpgsql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	-- PL/pgSQL keeps the plan
	RETURN EXISTS (SELECT FROM orion_private.two_factors AS f
		WHERE f.user_id = two_factor_enabled.user_id AND f.confirmed_at IS NOT NULL);
END
$function$;
COMMENT ON FUNCTION orion_private.two_factor_enabled(uuid) IS 'Whether sign-ins of this user need a second factor';

CREATE FUNCTION orion_private.pending_session_open(user_id uuid, method text, device text) RETURNS text
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	s record := orion_private.mfa_settings();
	made record := orion_private.mfa_token();
BEGIN
	-- who signs in again and again does not fill the table
	DELETE FROM orion_private.pending_sessions AS p WHERE p.user_id = pending_session_open.user_id
		AND (p.expires_at < clock_timestamp() OR p.digest IN (SELECT o.digest FROM orion_private.pending_sessions AS o
			WHERE o.user_id = pending_session_open.user_id ORDER BY o.created_at DESC OFFSET 19));
	INSERT INTO orion_private.pending_sessions (digest, user_id, method, device, expires_at)
	VALUES (made.digest, pending_session_open.user_id, pending_session_open.method, pending_session_open.device,
		clock_timestamp() + make_interval(secs => s.pending_ttl));
	RETURN made.token;
END
$function$;
COMMENT ON FUNCTION orion_private.pending_session_open(uuid, text, text) IS 'A sign-in that waits for the second factor: its id, which only the client gets; 20 a user at a time';

CREATE FUNCTION orion_private.pending_sessions_drop(user_id uuid) RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
	DELETE FROM orion_private.pending_sessions AS p WHERE p.user_id = pending_sessions_drop.user_id;
$function$;
COMMENT ON FUNCTION orion_private.pending_sessions_drop(uuid) IS 'Ends the sign-ins of a user that wait for the second factor';

CREATE FUNCTION orion_private.trusted_device_find(user_id uuid, token text) RETURNS uuid
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	-- computed here: a query has only the digest as its parameter
	sent bytea := sha256(convert_to(token, 'UTF8'));
BEGIN
	RETURN (SELECT t.id FROM orion_private.trusted_devices AS t
		WHERE t.digest = sent AND t.user_id = trusted_device_find.user_id AND t.expires_at > clock_timestamp());
END
$function$;
COMMENT ON FUNCTION orion_private.trusted_device_find(uuid, text) IS 'The trusted device of the user that has this token, or null';

CREATE FUNCTION orion_private.trusted_device_used(id uuid, session_id uuid) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	UPDATE orion_private.users AS u SET last_login_at = clock_timestamp()
	FROM orion_private.sessions AS s WHERE s.id = trusted_device_used.session_id AND u.id = s.user_id;
	UPDATE orion_private.trusted_devices AS t SET last_used_at = clock_timestamp(), device_id = s.device_id
	FROM orion_private.sessions AS s WHERE s.id = trusted_device_used.session_id AND t.id = trusted_device_used.id;
END
$function$;
COMMENT ON FUNCTION orion_private.trusted_device_used(uuid, uuid) IS 'Notes a sign-in by a trusted device, which is from now on the one of this session';

CREATE FUNCTION orion_private.trusted_devices_drop(user_id uuid) RETURNS int
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	dropped int;
BEGIN
	DELETE FROM orion_private.trusted_devices AS t WHERE t.user_id = trusted_devices_drop.user_id;
	GET DIAGNOSTICS dropped = ROW_COUNT;
	IF dropped > 0 THEN
		PERFORM orion_private.audit('auth.trusted_devices_revoked', 'user', user_id::text, actor => coalesce(orion_private.uid(), user_id),
			metadata => jsonb_build_object('count', dropped));
		PERFORM orion_private.publish('auth.trusted_devices_revoked', jsonb_build_object('id', user_id, 'count', dropped),
			'user', user_id::text);
	END IF;
	RETURN dropped;
END
$function$;
COMMENT ON FUNCTION orion_private.trusted_devices_drop(uuid) IS 'Trusts no device of a user any more; returns how many were';
REVOKE ALL ON FUNCTION orion_private.two_factor_enabled(uuid), orion_private.pending_session_open(uuid, text, text),
	orion_private.pending_sessions_drop(uuid), orion_private.trusted_device_find(uuid, text),
	orion_private.trusted_device_used(uuid, uuid), orion_private.trusted_devices_drop(uuid) FROM PUBLIC;

-- Sessions go up and down

-- However a session falls back to aal1, its tokens of aal2 die.
CREATE FUNCTION orion_private.session_downgraded() RETURNS trigger
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	-- a token made right after the last time bears the next second (access_token)
	NEW.downgraded_at := greatest(clock_timestamp(), date_trunc('second', OLD.downgraded_at) + interval '1 second');
	-- a minute for clocks that differ (token.c)
	PERFORM orion_private.revoke(OLD.id, NEW.downgraded_at, OLD.access_expires_at + interval '1 minute');
	RETURN NEW;
END
$function$;
COMMENT ON FUNCTION orion_private.session_downgraded() IS 'Revokes the aal2 tokens of a session that falls back to aal1';
REVOKE ALL ON FUNCTION orion_private.session_downgraded() FROM PUBLIC;
CREATE TRIGGER sessions_downgraded BEFORE UPDATE OF aal ON orion_private.sessions
	FOR EACH ROW WHEN (OLD.aal = 'aal2' AND NEW.aal = 'aal1')
	EXECUTE FUNCTION orion_private.session_downgraded();

-- The user of the verified claims, locked, when they are those of a live session.
CREATE FUNCTION orion_private.session_user_lock() RETURNS orion_private.users
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	u orion_private.users;
BEGIN
	SELECT k.* INTO u FROM orion_private.users AS k WHERE k.id = orion_private.uid() FOR NO KEY UPDATE;
	-- a session, not an API key: a key that leaked must not take the account over
	IF NOT EXISTS (SELECT FROM orion_private.sessions AS s WHERE s.id = orion_private.current_session()
			AND s.user_id = u.id AND s.revoked_at IS NULL AND s.expires_at > now()) THEN
		RAISE EXCEPTION 'nobody is signed in with a session' USING ERRCODE = 'PT401';
	END IF;
	RETURN u;
END
$function$;
COMMENT ON FUNCTION orion_private.session_user_lock() IS 'The user who is signed in with a session, and a lock on the row; raises PT401 when nobody is';

-- method null: the tokens of the session as it is.
CREATE FUNCTION orion_private.session_raise(u orion_private.users, session uuid, method text,
	OUT access_token text, OUT refresh_token text, OUT expires_in int)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	s record := orion_private.auth_settings();
	issued_at timestamptz := clock_timestamp();
	raised orion_private.sessions;
BEGIN
	UPDATE orion_private.sessions AS t
	SET aal = CASE WHEN method IS NULL THEN t.aal ELSE 'aal2' END,
		amr = CASE WHEN method IS NULL THEN t.amr
			ELSE orion_private.amr_without(t.amr, ARRAY[method]) || jsonb_build_array(jsonb_build_object('method', method,
				'timestamp', floor(extract(epoch FROM issued_at)))) END,
		access_expires_at = greatest(t.access_expires_at, issued_at + make_interval(secs => s.access_token_ttl))
	WHERE t.id = session_raise.session AND t.revoked_at IS NULL
	RETURNING t.* INTO raised;
	IF raised.id IS NULL THEN
		-- it has ended meanwhile
		RAISE EXCEPTION 'nobody is signed in with a session' USING ERRCODE = 'PT401';
	END IF;
	access_token := orion_private.access_token(u, raised, issued_at);
	refresh_token := orion_private.refresh_token(raised.id, raised.refresh_key, raised.refresh_counter);
	expires_in := s.access_token_ttl;
END
$function$;
COMMENT ON FUNCTION orion_private.session_raise(orion_private.users, uuid, text) IS 'Makes a session aal2 by a method, and returns its tokens';

CREATE FUNCTION orion_private.amr_without(amr jsonb, methods text[]) RETURNS jsonb
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
	SELECT coalesce(jsonb_agg(m.entry ORDER BY m.n), '[]') FROM jsonb_array_elements(amr) WITH ORDINALITY AS m (entry, n)
	WHERE m.entry ->> 'method' <> ALL (methods);
$function$;
COMMENT ON FUNCTION orion_private.amr_without(jsonb, text[]) IS 'The methods of a session without these';
REVOKE ALL ON FUNCTION orion_private.session_user_lock(), orion_private.session_raise(orion_private.users, uuid, text),
	orion_private.amr_without(jsonb, text[]) FROM PUBLIC;

-- Trying a factor. The caller holds the lock on the row of the user.

-- The window of the limits is over after minutes, and then there are as many guesses
-- again. Whoever guesses here has the password, so each lock is twice as long. Strangers
-- cannot lock out who has shown a second factor from here before, and the successes of
-- this one give the strangers no new guesses: what comes from here is not counted.
CREATE FUNCTION orion_private.two_factor_known(factor orion_private.two_factors, network inet) RETURNS boolean
	LANGUAGE plpgsql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	-- sessions from before the factor prove nothing: somebody else may have had the password
	RETURN EXISTS (SELECT FROM orion_private.sessions AS s WHERE s.user_id = factor.user_id
		AND (s.created_at >= factor.confirmed_at OR s.aal = 'aal2')
		AND orion_private.address_network(s.address) = network);
END
$function$;
COMMENT ON FUNCTION orion_private.two_factor_known(orion_private.two_factors, inet) IS 'Whether the second factor was shown from this network before';

CREATE FUNCTION orion_private.two_factor_failed(user_id uuid) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	after int := (orion_private.mfa_settings()).lock_after;
	first_lock int := (orion_private.auth_settings()).login_window;
BEGIN
	UPDATE orion_private.two_factors AS f SET failures = least(f.failures, 1000000) + 1,
		locked_until = CASE WHEN after > 0 AND (f.failures + 1) % after = 0
			THEN clock_timestamp() + make_interval(secs => least(first_lock * power(2, least((f.failures + 1) / after - 1, 20)), 86400))
			ELSE f.locked_until END
	WHERE f.user_id = two_factor_failed.user_id;
END
$function$;
COMMENT ON FUNCTION orion_private.two_factor_failed(uuid) IS 'Counts a wrong code: each orion.mfa_lock_after in a row lock the factors, twice as long each time, a day at most';

-- Of code and typed one is null.
CREATE FUNCTION orion_private.second_factor(u orion_private.users, code text, typed text, address inet, user_agent text,
	OUT status text, OUT method text, OUT retry_after int)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	network inet := orion_private.address_network(address);
	factor orion_private.two_factors;
	known boolean;
	step bigint;
	sent bytea;
	codes_left int;
BEGIN
	method := CASE WHEN code IS NULL THEN 'backup_code' ELSE 'totp' END;
	SELECT f.* INTO factor FROM orion_private.two_factors AS f WHERE f.user_id = u.id AND f.confirmed_at IS NOT NULL FOR NO KEY UPDATE;
	IF factor.user_id IS NULL THEN
		status := 'not_enabled';
		RETURN;
	END IF;
	known := orion_private.two_factor_known(factor, network);
	retry_after := greatest(orion_private.login_wait(u.email, network, false),
		CASE WHEN NOT known THEN ceil(extract(epoch FROM factor.locked_until - clock_timestamp()))::int END);
	IF retry_after > 0 THEN
		-- the code is not even looked at
		status := 'locked';
		PERFORM orion_private.attempt_record(u.email, u.id, status, address, user_agent);
		RETURN;
	END IF;
	IF code IS NOT NULL THEN
		step := orion_private.totp_step(u.id, factor.secret, code, clock_timestamp(), factor.last_step);
		status := CASE WHEN step IS NULL THEN 'invalid_code' ELSE 'ok' END;
	ELSE
		sent := orion_private.backup_code_digest(u.id, typed);
		status := CASE WHEN EXISTS (SELECT FROM orion_private.backup_codes AS b
			WHERE b.user_id = u.id AND b.digest = sent AND b.used_at IS NULL) THEN 'ok' ELSE 'invalid_code' END;
	END IF;
	-- others may have used the limit up meanwhile: then this answer tells nothing either
	retry_after := orion_private.login_wait(u.email, network, status <> 'ok');
	IF retry_after > 0 THEN
		status := 'locked';
	END IF;
	IF status <> 'ok' THEN
		IF status = 'invalid_code' THEN
			retry_after := NULL;
			IF NOT known THEN
				PERFORM orion_private.two_factor_failed(u.id);
			END IF;
		END IF;
		PERFORM orion_private.attempt_record(u.email, u.id, status, address, user_agent);
		PERFORM orion_private.audit('auth.two_factor_tried', 'user', u.id::text, status, metadata => jsonb_build_object('method', method),
			actor => u.id, address => second_factor.address, user_agent => second_factor.user_agent);
		IF status = 'invalid_code' THEN
			PERFORM orion_private.login_locked(u, u.email, network, address, user_agent);
		END IF;
		RETURN;
	END IF;
	retry_after := NULL;
	UPDATE orion_private.two_factors AS f SET last_step = coalesce(step, f.last_step), last_used_at = clock_timestamp(),
		failures = CASE WHEN known THEN f.failures ELSE 0 END, locked_until = CASE WHEN known THEN f.locked_until END
	WHERE f.user_id = u.id;
	IF code IS NULL THEN
		UPDATE orion_private.backup_codes AS b SET used_at = clock_timestamp() WHERE b.user_id = u.id AND b.digest = sent;
		SELECT count(*) INTO codes_left FROM orion_private.backup_codes AS b WHERE b.user_id = u.id AND b.used_at IS NULL;
		PERFORM orion_private.audit('auth.backup_code_used', 'user', u.id::text, metadata => jsonb_build_object('left', codes_left),
			actor => u.id, address => second_factor.address, user_agent => second_factor.user_agent);
		PERFORM orion_private.publish('auth.backup_code_used', jsonb_build_object('id', u.id, 'email', u.email, 'left', codes_left,
			'address', host(address), 'userAgent', user_agent), 'user', u.id::text);
	END IF;
END
$function$;
COMMENT ON FUNCTION orion_private.second_factor(orion_private.users, text, text, inet, text) IS 'Uses a code of the app, or a backup code, up. Status ok, invalid_code, locked or not_enabled; wrong ones count like wrong passwords';
REVOKE ALL ON FUNCTION orion_private.two_factor_known(orion_private.two_factors, inet), orion_private.two_factor_failed(uuid),
	orion_private.second_factor(orion_private.users, text, text, inet, text) FROM PUBLIC;

-- The password counts in a session that has shown a second factor; else whoever has
-- the password and somebody's session would need none.
CREATE FUNCTION orion_private.both_factors(u orion_private.users, code text, typed text, password text, address inet, user_agent text,
	OUT status text, OUT method text, OUT retry_after int)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	done record;
BEGIN
	IF NOT orion_private.two_factor_enabled(u.id) THEN
		status := 'not_enabled';
	ELSIF code IS NOT NULL OR typed IS NOT NULL THEN
		done := orion_private.second_factor(u, code, CASE WHEN code IS NULL THEN typed END, address, user_agent);
		status := done.status;
		method := done.method;
		retry_after := done.retry_after;
	ELSIF NOT EXISTS (SELECT FROM orion_private.sessions AS s
			WHERE s.id = orion_private.current_session() AND s.aal = 'aal2') THEN
		status := 'second_factor_required';
	ELSIF password IS NULL THEN
		status := 'second_factor_required';
	ELSE
		method := 'password';
		done := orion_private.password_again(u, password, address, user_agent);
		status := done.status;
		retry_after := done.retry_after;
	END IF;
END
$function$;
COMMENT ON FUNCTION orion_private.both_factors(orion_private.users, text, text, text, inet, text) IS 'Whether who asks has the second factor: by a code, or by the password in an aal2 session. Status ok, invalid_code, invalid_credentials, second_factor_required, locked or not_enabled';

CREATE FUNCTION orion_private.password_again(u orion_private.users, password text, address inet, user_agent text,
	OUT status text, OUT retry_after int)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	network inet := orion_private.address_network(address);
BEGIN
	retry_after := orion_private.login_wait(u.email, network, false);
	IF retry_after = 0 THEN
		status := orion_private.password_status(u, password);
		retry_after := orion_private.login_wait(u.email, network, status <> 'ok');
	END IF;
	IF retry_after > 0 THEN
		status := 'locked';
	END IF;
	retry_after := nullif(retry_after, 0);
	IF status <> 'ok' THEN
		PERFORM orion_private.attempt_record(u.email, u.id, status, address, user_agent);
	END IF;
END
$function$;
COMMENT ON FUNCTION orion_private.password_again(orion_private.users, text, inet, text) IS 'Asks a signed-in user for the password. Status ok, invalid_credentials, banned or locked; failures count like those of sign-ins';

CREATE FUNCTION orion_private.signed_in_recently(u orion_private.users, password text, address inet, user_agent text,
	OUT status text, OUT retry_after int)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	recent int := (orion_private.mfa_settings()).recent_sign_in;
	asked record;
BEGIN
	IF password IS NOT NULL THEN
		asked := orion_private.password_again(u, password, address, user_agent);
		status := asked.status;
		retry_after := asked.retry_after;
	ELSE
		status := CASE WHEN EXISTS (SELECT FROM orion_private.sessions AS t, jsonb_array_elements(t.amr) AS m
			WHERE t.id = orion_private.current_session() AND t.user_id = u.id
				AND to_timestamp((m ->> 'timestamp')::double precision) > clock_timestamp() - make_interval(secs => recent))
			THEN 'ok' ELSE 'password_required' END;
	END IF;
END
$function$;
COMMENT ON FUNCTION orion_private.signed_in_recently(orion_private.users, text, inet, text) IS 'Whether who is signed in gave the password now, or in this session within orion.mfa_recent_sign_in. Status ok, password_required, invalid_credentials, banned or locked';
REVOKE ALL ON FUNCTION orion_private.both_factors(orion_private.users, text, text, text, inet, text),
	orion_private.password_again(orion_private.users, text, inet, text),
	orion_private.signed_in_recently(orion_private.users, text, inet, text) FROM PUBLIC;

-- Setting up, confirming, removing

CREATE FUNCTION @extschema@.orion_two_factor_setup(password text DEFAULT NULL, address inet DEFAULT NULL, user_agent text DEFAULT NULL,
	OUT status text, OUT secret text, OUT uri text, OUT qr_code text, OUT retry_after int)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	u orion_private.users := orion_private.session_user_lock();
	asked record;
	made record;
BEGIN
	IF orion_private.two_factor_enabled(u.id) THEN
		status := 'already_enabled';
		RETURN;
	END IF;
	-- an access token that leaked must not lock the user out
	asked := orion_private.signed_in_recently(u, password, coalesce(orion_two_factor_setup.address, inet_client_addr()), left(user_agent, 512));
	IF asked.status <> 'ok' THEN
		status := asked.status;
		retry_after := asked.retry_after;
		RETURN;
	END IF;
	made := orion_private.totp_setup(u.id, u.email);
	INSERT INTO orion_private.two_factors AS f (user_id, secret) VALUES (u.id, made.sealed)
	ON CONFLICT ON CONSTRAINT two_factors_pkey DO UPDATE
		SET secret = excluded.secret, created_at = clock_timestamp(), failures = 0, last_step = 0, locked_until = NULL
		WHERE f.confirmed_at IS NULL;
	PERFORM orion_private.audit('auth.two_factor_setup', 'user', u.id::text);
	status := 'ok';
	secret := made.secret;
	uri := made.uri;
	qr_code := made.qr_code;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_two_factor_setup(text, inet, text) IS 'A new secret for the authenticator app of the signed-in user: nothing changes until orion_two_factor_verify gets its first code, within an hour. Status ok, already_enabled, password_required (the sign-in is older than orion.mfa_recent_sign_in), invalid_credentials or locked';

CREATE FUNCTION orion_private.backup_codes_make(user_id uuid) RETURNS text[]
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	codes text[] := '{}';
	made record;
BEGIN
	DELETE FROM orion_private.backup_codes AS b WHERE b.user_id = backup_codes_make.user_id;
	WHILE cardinality(codes) < 10 LOOP
		made := orion_private.backup_code(user_id);
		INSERT INTO orion_private.backup_codes (user_id, digest) VALUES (backup_codes_make.user_id, made.digest)
		ON CONFLICT ON CONSTRAINT backup_codes_pkey DO NOTHING;
		IF FOUND THEN
			codes := codes || (made.code)::text;
		END IF;
	END LOOP;
	RETURN codes;
END
$function$;
COMMENT ON FUNCTION orion_private.backup_codes_make(uuid) IS 'Ten new backup codes of a user, instead of the former ones';

-- The first code of an app: from now on sign-ins need one.
CREATE FUNCTION orion_private.two_factor_confirm(u orion_private.users, code text, OUT status text, OUT backup_codes text[])
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	factor orion_private.two_factors;
	step bigint;
BEGIN
	SELECT f.* INTO factor FROM orion_private.two_factors AS f WHERE f.user_id = u.id AND f.confirmed_at IS NULL FOR UPDATE;
	IF factor.user_id IS NULL OR factor.created_at < clock_timestamp() - interval '1 hour' THEN
		status := 'not_enabled';
		RETURN;
	END IF;
	step := orion_private.totp_step(u.id, factor.secret, code, clock_timestamp(), factor.last_step);
	IF step IS NULL THEN
		status := 'invalid_code';
		-- no guess at anything that is in force: it locks nobody, but it ends
		UPDATE orion_private.two_factors AS f SET failures = f.failures + 1 WHERE f.user_id = u.id;
		DELETE FROM orion_private.two_factors AS f WHERE f.user_id = u.id AND f.failures >= 10;
		PERFORM orion_private.audit('auth.two_factor_enabled', 'user', u.id::text, status);
		RETURN;
	END IF;
	UPDATE orion_private.two_factors AS f SET confirmed_at = clock_timestamp(), last_used_at = clock_timestamp(), last_step = step, failures = 0
	WHERE f.user_id = u.id;
	backup_codes := orion_private.backup_codes_make(u.id);
	-- A sign-in with an older snapshot (REPEATABLE READ) would not see the factor; now it
	-- fails at the row of the user.
	UPDATE orion_private.users AS k SET last_login_at = k.last_login_at WHERE k.id = u.id;
	-- the others were opened without a second factor
	PERFORM orion_private.sessions_end(u.id, orion_private.current_session(), 'two_factor');
	PERFORM orion_private.audit('auth.two_factor_enabled', 'user', u.id::text);
	PERFORM orion_private.publish('auth.two_factor_enabled', jsonb_build_object('id', u.id, 'email', u.email, 'method', 'totp'),
		'user', u.id::text);
	status := 'ok';
END
$function$;
COMMENT ON FUNCTION orion_private.two_factor_confirm(orion_private.users, text) IS 'Puts a factor that was set up into force by its first code; ends the other sessions. Status ok, invalid_code or not_enabled';

CREATE FUNCTION orion_private.two_factor_drop(u orion_private.users, method text) RETURNS boolean
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	was_confirmed boolean;
BEGIN
	-- backup codes, trusted devices and pending sessions go along
	DELETE FROM orion_private.two_factors AS f WHERE f.user_id = u.id RETURNING f.confirmed_at IS NOT NULL INTO was_confirmed;
	IF was_confirmed IS NOT TRUE THEN
		RETURN was_confirmed IS NOT NULL;
	END IF;
	UPDATE orion_private.sessions AS s SET aal = 'aal1', amr = orion_private.amr_without(s.amr, '{totp,backup_code}')
	WHERE s.user_id = u.id AND s.revoked_at IS NULL AND s.aal = 'aal2';
	PERFORM orion_private.audit('auth.two_factor_disabled', 'user', u.id::text, metadata => jsonb_build_object('method', method));
	PERFORM orion_private.publish('auth.two_factor_disabled', jsonb_build_object('id', u.id, 'email', u.email, 'method', method),
		'user', u.id::text);
	RETURN true;
END
$function$;
COMMENT ON FUNCTION orion_private.two_factor_drop(orion_private.users, text) IS 'Removes the factors of a user: the sessions go on at aal1, their access tokens of aal2 are dead. False when there was none';
REVOKE ALL ON FUNCTION orion_private.backup_codes_make(uuid), orion_private.two_factor_confirm(orion_private.users, text),
	orion_private.two_factor_drop(orion_private.users, text) FROM PUBLIC;

CREATE FUNCTION orion_private.device_trust(u orion_private.users, session uuid, OUT token text, OUT expires_at timestamptz)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	s record := orion_private.mfa_settings();
	made record;
	device uuid;
	new_id uuid := gen_random_uuid();
BEGIN
	SELECT t.device_id INTO device FROM orion_private.sessions AS t WHERE t.id = session;
	IF s.trusted_device_ttl = 0 OR device IS NULL THEN
		RETURN;
	END IF;
	-- of one device one token; and 20 devices
	DELETE FROM orion_private.trusted_devices AS t WHERE t.user_id = u.id AND (t.device_id = device
		OR t.id IN (SELECT o.id FROM orion_private.trusted_devices AS o WHERE o.user_id = u.id
			ORDER BY coalesce(o.last_used_at, o.created_at) DESC OFFSET 19));
	made := orion_private.mfa_token();
	expires_at := clock_timestamp() + make_interval(secs => s.trusted_device_ttl);
	INSERT INTO orion_private.trusted_devices (id, user_id, device_id, digest, expires_at)
	VALUES (new_id, u.id, device, made.digest, device_trust.expires_at);
	PERFORM orion_private.audit('auth.device_trusted', 'trusted_device', new_id::text, actor => u.id,
		metadata => jsonb_build_object('deviceId', device, 'expiresAt', expires_at));
	PERFORM orion_private.publish('auth.device_trusted', jsonb_build_object('id', u.id, 'email', u.email, 'trustedDeviceId', new_id,
		'deviceId', device, 'expiresAt', expires_at), 'user', u.id::text);
	token := made.token;
END
$function$;
COMMENT ON FUNCTION orion_private.device_trust(orion_private.users, uuid) IS 'Trusts the device of a session: the token, this once, with which its sign-ins need no second factor; nulls when orion.mfa_trusted_device_ttl is 0';
REVOKE ALL ON FUNCTION orion_private.device_trust(orion_private.users, uuid) FROM PUBLIC;

-- Signing in with a second factor, and raising a session

CREATE FUNCTION @extschema@.orion_two_factor_login(session_id text, code text DEFAULT NULL, backup_code text DEFAULT NULL,
	trust_device boolean DEFAULT false, address inet DEFAULT NULL, user_agent text DEFAULT NULL,
	OUT status text, OUT access_token text, OUT refresh_token text, OUT token_type text, OUT expires_in int, OUT user_id uuid,
	OUT retry_after int, OUT device_token text, OUT device_token_expires_at timestamptz)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	sent bytea := sha256(convert_to(session_id, 'UTF8'));
	from_address inet := coalesce(address, inet_client_addr());
	agent text := left(user_agent, 512);
	pending orion_private.pending_sessions;
	u orion_private.users;
	tried record;
	opened record;
	trusted record;
BEGIN
	IF num_nonnulls(code, backup_code) <> 1 THEN
		RAISE EXCEPTION 'either a code or a backup code is needed' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	status := 'invalid_session';
	SELECT p.* INTO pending FROM orion_private.pending_sessions AS p WHERE p.digest = sent;
	SELECT k.* INTO u FROM orion_private.users AS k WHERE k.id = pending.user_id FOR NO KEY UPDATE;
	-- again, now that whoever was faster is done
	SELECT p.* INTO pending FROM orion_private.pending_sessions AS p
	WHERE p.digest = sent AND p.user_id = u.id AND p.expires_at > clock_timestamp() FOR UPDATE;
	IF pending.user_id IS NULL THEN
		RETURN;
	END IF;
	tried := orion_private.second_factor(u, code, backup_code, from_address, agent);
	IF tried.status = 'ok' AND u.banned_until > now() THEN
		status := 'banned';
		PERFORM orion_private.attempt_record(u.email, u.id, status, from_address, agent);
		RETURN;
	ELSIF tried.status <> 'ok' THEN
		status := tried.status;
		retry_after := tried.retry_after;
		RETURN;
	END IF;

	DELETE FROM orion_private.pending_sessions AS p WHERE p.digest = sent;
	UPDATE orion_private.users AS k SET last_login_at = clock_timestamp() WHERE k.id = u.id;
	PERFORM orion_private.attempt_record(u.email, u.id, 'ok', from_address, agent);
	PERFORM orion_private.throttle_clear(u.email, orion_private.address_network(from_address)::text);
	opened := orion_private.session_open(u, tried.method, pending.device, from_address, agent,
		jsonb_build_array(jsonb_build_object('method', pending.method, 'timestamp', floor(extract(epoch FROM pending.created_at)))), 'aal2');
	PERFORM orion_private.publish('user.login', jsonb_build_object(
		'id', u.id, 'sessionId', opened.session_id, 'method', pending.method, 'secondFactor', tried.method,
		'address', host(from_address), 'userAgent', agent), 'user', u.id::text);
	IF trust_device THEN
		trusted := orion_private.device_trust(u, opened.session_id);
		device_token := trusted.token;
		device_token_expires_at := trusted.expires_at;
	END IF;
	status := 'ok';
	access_token := opened.access_token;
	refresh_token := opened.refresh_token;
	token_type := 'bearer';
	expires_in := opened.expires_in;
	user_id := u.id;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_two_factor_login(text, text, text, boolean, inet, text) IS 'Completes a sign-in that orion_login answered with two_factor_required, by a code or a backup code. Status ok, invalid_session (unknown, used, or too old), invalid_code, banned or locked (try again after retry_after seconds)';

CREATE FUNCTION @extschema@.orion_two_factor_verify(code text DEFAULT NULL, backup_code text DEFAULT NULL,
	trust_device boolean DEFAULT false, address inet DEFAULT NULL, user_agent text DEFAULT NULL,
	OUT status text, OUT access_token text, OUT refresh_token text, OUT token_type text, OUT expires_in int, OUT user_id uuid,
	OUT retry_after int, OUT device_token text, OUT device_token_expires_at timestamptz, OUT backup_codes text[])
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	u orion_private.users := orion_private.session_user_lock();
	session uuid := orion_private.current_session();
	tried record;
	raised record;
	trusted record;
BEGIN
	IF num_nonnulls(code, backup_code) <> 1 THEN
		RAISE EXCEPTION 'either a code or a backup code is needed' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	IF code IS NOT NULL AND NOT orion_private.two_factor_enabled(u.id) THEN
		tried := orion_private.two_factor_confirm(u, code);
		status := tried.status;
		backup_codes := tried.backup_codes;
		IF status = 'ok' THEN
			raised := orion_private.session_raise(u, session, 'totp');
		END IF;
	ELSE
		tried := orion_private.second_factor(u, code, backup_code, coalesce(orion_two_factor_verify.address, inet_client_addr()),
			left(user_agent, 512));
		status := tried.status;
		retry_after := tried.retry_after;
		IF status = 'ok' THEN
			raised := orion_private.session_raise(u, session, tried.method);
			PERFORM orion_private.audit('auth.session_raised', 'session', session::text, metadata => jsonb_build_object('method', tried.method));
			PERFORM orion_private.publish('auth.session_raised', jsonb_build_object('id', u.id, 'sessionId', session,
				'method', tried.method), 'user', u.id::text);
		END IF;
	END IF;
	IF status <> 'ok' THEN
		RETURN;
	END IF;
	IF trust_device THEN
		trusted := orion_private.device_trust(u, session);
		device_token := trusted.token;
		device_token_expires_at := trusted.expires_at;
	END IF;
	access_token := raised.access_token;
	refresh_token := raised.refresh_token;
	token_type := 'bearer';
	expires_in := raised.expires_in;
	user_id := u.id;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_two_factor_verify(text, text, boolean, inet, text) IS 'For the signed-in user: the first code puts what was set up into force and returns ten backup codes, this once; later ones raise the session to aal2. Status ok, invalid_code, not_enabled or locked';

CREATE FUNCTION @extschema@.orion_two_factor_disable(code text DEFAULT NULL, backup_code text DEFAULT NULL, password text DEFAULT NULL,
	address inet DEFAULT NULL, user_agent text DEFAULT NULL,
	OUT status text, OUT access_token text, OUT refresh_token text, OUT token_type text, OUT expires_in int, OUT user_id uuid,
	OUT retry_after int)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	u orion_private.users := orion_private.session_user_lock();
	tried record;
	lowered record;
BEGIN
	tried := orion_private.both_factors(u, code, backup_code, password, coalesce(orion_two_factor_disable.address, inet_client_addr()),
		left(user_agent, 512));
	status := tried.status;
	retry_after := tried.retry_after;
	IF status <> 'ok' THEN
		RETURN;
	END IF;
	PERFORM orion_private.two_factor_drop(u, tried.method);
	lowered := orion_private.session_raise(u, orion_private.current_session(), NULL);
	access_token := lowered.access_token;
	refresh_token := lowered.refresh_token;
	token_type := 'bearer';
	expires_in := lowered.expires_in;
	user_id := u.id;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_two_factor_disable(text, text, text, inet, text) IS 'Removes the factors of the signed-in user, who shows one: a code, a backup code, or in an aal2 session the password. Sessions fall back to aal1, aal2 tokens die, the new one of this session is returned. Status ok, not_enabled, second_factor_required, invalid_code, invalid_credentials or locked';

CREATE FUNCTION @extschema@.orion_backup_codes_regenerate(code text DEFAULT NULL, backup_code text DEFAULT NULL, password text DEFAULT NULL,
	address inet DEFAULT NULL, user_agent text DEFAULT NULL,
	OUT status text, OUT backup_codes text[], OUT retry_after int)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	u orion_private.users := orion_private.session_user_lock();
	tried record;
BEGIN
	tried := orion_private.both_factors(u, code, backup_code, password, coalesce(orion_backup_codes_regenerate.address, inet_client_addr()),
		left(user_agent, 512));
	status := tried.status;
	retry_after := tried.retry_after;
	IF status <> 'ok' THEN
		RETURN;
	END IF;
	backup_codes := orion_private.backup_codes_make(u.id);
	PERFORM orion_private.audit('auth.backup_codes_regenerated', 'user', u.id::text, metadata => jsonb_build_object('method', tried.method));
	PERFORM orion_private.publish('auth.backup_codes_regenerated', jsonb_build_object('id', u.id, 'email', u.email), 'user', u.id::text);
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_backup_codes_regenerate(text, text, text, inet, text) IS 'Ten new backup codes of the signed-in user, this once; the former ones work no more. Asks for what orion_two_factor_disable asks for';
REVOKE ALL ON FUNCTION @extschema@.orion_two_factor_setup(text, inet, text),
	@extschema@.orion_two_factor_login(text, text, text, boolean, inet, text),
	@extschema@.orion_two_factor_verify(text, text, boolean, inet, text),
	@extschema@.orion_two_factor_disable(text, text, text, inet, text),
	@extschema@.orion_backup_codes_regenerate(text, text, text, inet, text) FROM PUBLIC;
-- for those who may say which address a request comes from; others use the HTTP routes
GRANT EXECUTE ON FUNCTION @extschema@.orion_two_factor_setup(text, inet, text),
	@extschema@.orion_two_factor_login(text, text, text, boolean, inet, text),
	@extschema@.orion_two_factor_verify(text, text, boolean, inet, text),
	@extschema@.orion_two_factor_disable(text, text, text, inet, text),
	@extschema@.orion_backup_codes_regenerate(text, text, text, inet, text) TO orion_service, orion_admin;

-- What users see and revoke, and what administrators do

CREATE FUNCTION @extschema@.orion_two_factor_status(OUT enabled boolean, OUT enabled_at timestamptz, OUT last_used_at timestamptz,
	OUT backup_codes_left int, OUT trusted_devices int)
	LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	uid uuid := orion_private.uid();
BEGIN
	IF uid IS NULL THEN
		RAISE EXCEPTION 'nobody is signed in' USING ERRCODE = 'PT401';
	END IF;
	PERFORM orion_private.require_session();
	SELECT f.confirmed_at, f.last_used_at INTO enabled_at, last_used_at
	FROM orion_private.two_factors AS f WHERE f.user_id = uid AND f.confirmed_at IS NOT NULL;
	enabled := enabled_at IS NOT NULL;
	SELECT count(*) INTO backup_codes_left FROM orion_private.backup_codes AS b WHERE b.user_id = uid AND b.used_at IS NULL;
	SELECT count(*) INTO trusted_devices FROM orion_private.trusted_devices AS t WHERE t.user_id = uid AND t.expires_at > now();
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_two_factor_status() IS 'Whether the signed-in user has a second factor, and how many backup codes are left';

CREATE FUNCTION @extschema@.orion_trusted_device_revoke(trusted_device_id uuid) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	u orion_private.users := orion_private.session_user_lock();
BEGIN
	DELETE FROM orion_private.trusted_devices AS t WHERE t.id = trusted_device_id AND t.user_id = u.id;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM orion_private.audit('auth.trusted_device_revoked', 'trusted_device', trusted_device_id::text);
	PERFORM orion_private.publish('auth.trusted_device_revoked', jsonb_build_object('id', u.id, 'trustedDeviceId', trusted_device_id),
		'user', u.id::text);
	RETURN true;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_trusted_device_revoke(uuid) IS 'Trusts a device of the signed-in user no more; false when there is no such';

CREATE FUNCTION @extschema@.orion_trusted_devices_revoke() RETURNS int
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	u orion_private.users := orion_private.session_user_lock();
BEGIN
	RETURN orion_private.trusted_devices_drop(u.id);
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_trusted_devices_revoke() IS 'Trusts no device of the signed-in user any more; returns how many were';

CREATE FUNCTION @extschema@.orion_two_factor_remove(user_id uuid) RETURNS boolean
	LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	u orion_private.users;
BEGIN
	SELECT k.* INTO u FROM orion_private.users AS k WHERE k.id = orion_two_factor_remove.user_id FOR NO KEY UPDATE;
	RETURN coalesce(orion_private.two_factor_drop(u, 'administrator'), false);
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_two_factor_remove(uuid) IS 'Removes the factors of a user who has lost them; the user signs in with the password alone then. False when there are none';
REVOKE ALL ON FUNCTION @extschema@.orion_two_factor_status(), @extschema@.orion_trusted_device_revoke(uuid),
	@extschema@.orion_trusted_devices_revoke(), @extschema@.orion_two_factor_remove(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_two_factor_status(), @extschema@.orion_trusted_device_revoke(uuid),
	@extschema@.orion_trusted_devices_revoke() TO orion_user, orion_service, orion_admin;
GRANT EXECUTE ON FUNCTION @extschema@.orion_two_factor_remove(uuid) TO orion_admin;

ALTER TABLE orion_private.two_factors ENABLE ROW LEVEL SECURITY;
CREATE POLICY two_factors_self ON orion_private.two_factors FOR SELECT TO orion_user USING (user_id = @extschema@.orion_uid());
CREATE POLICY two_factors_trusted ON orion_private.two_factors FOR SELECT TO orion_service, orion_admin USING (true);
ALTER TABLE orion_private.trusted_devices ENABLE ROW LEVEL SECURITY;
CREATE POLICY trusted_devices_self ON orion_private.trusted_devices FOR SELECT TO orion_user USING (user_id = @extschema@.orion_uid());
CREATE POLICY trusted_devices_trusted ON orion_private.trusted_devices FOR SELECT TO orion_service, orion_admin USING (true);
-- no API key sees them (apikey.sql)
CREATE POLICY two_factors_session ON orion_private.two_factors AS RESTRICTIVE FOR SELECT TO orion_user
	USING (NOT coalesce(@extschema@.orion_claims() ? 'api_key_id', false));
CREATE POLICY trusted_devices_session ON orion_private.trusted_devices AS RESTRICTIVE FOR SELECT TO orion_user
	USING (NOT coalesce(@extschema@.orion_claims() ? 'api_key_id', false));

CREATE VIEW orion.two_factors WITH (security_invoker = true) AS
	SELECT user_id, confirmed_at AS enabled_at, last_used_at FROM orion_private.two_factors WHERE confirmed_at IS NOT NULL;
COMMENT ON VIEW orion.two_factors IS 'Who has a second factor: users see their own, services and administrators all';
CREATE VIEW orion.trusted_devices WITH (security_invoker = true) AS
	SELECT id, user_id, device_id, created_at, last_used_at, expires_at
	FROM orion_private.trusted_devices WHERE expires_at > pg_catalog.now();
COMMENT ON VIEW orion.trusted_devices IS 'Devices that need no second factor: users see their own, services and administrators all';
GRANT SELECT (user_id, confirmed_at, last_used_at) ON orion_private.two_factors TO orion_user, orion_service, orion_admin;
GRANT SELECT (id, user_id, device_id, created_at, last_used_at, expires_at)
	ON orion_private.trusted_devices TO orion_user, orion_service, orion_admin;
GRANT SELECT ON orion.two_factors, orion.trusted_devices TO orion_user, orion_service, orion_admin;

-- HTTP (registered in rest.sql)

CREATE FUNCTION orion_private.two_factor_error(status text, retry_after int, signed_in boolean) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	-- 401 would tell a client that is signed in to sign in
	RETURN CASE status
		WHEN 'locked' THEN orion_private.route_locked(retry_after)
		WHEN 'invalid_session' THEN orion_private.route_error(401, status, 'the sign-in is unknown, completed or too old', hint => 'Sign in again.')
		WHEN 'invalid_code' THEN orion_private.route_error(CASE WHEN signed_in THEN 403 ELSE 401 END, status, 'the code is wrong, or was used')
		WHEN 'invalid_credentials' THEN orion_private.route_error(403, status, 'the password is wrong')
		WHEN 'banned' THEN orion_private.route_error(403, status, 'the user is banned')
		WHEN 'password_required' THEN orion_private.route_error(403, status, 'the sign-in is too old for this',
			hint => 'Send field "password", or sign in again.')
		WHEN 'second_factor_required' THEN orion_private.route_error(403, status, 'this needs a second factor',
			hint => 'Send field "code" or "backupCode"; "password" is enough in a session of aal2.')
		WHEN 'already_enabled' THEN orion_private.route_error(409, status, 'a second factor is set up already', hint => 'Disable it first.')
		ELSE orion_private.route_error(409, status, 'no second factor is set up') END;
END
$function$;
COMMENT ON FUNCTION orion_private.two_factor_error(text, int, boolean) IS 'The answer for what is not ok with a second factor';

CREATE FUNCTION orion_private.session_json(access_token text, refresh_token text, expires_in int, user_id uuid) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	PERFORM set_config('response.headers', '[{"Cache-Control": "no-store"}]', true);
	RETURN jsonb_build_object('accessToken', access_token, 'refreshToken', refresh_token, 'tokenType', 'bearer',
		'expiresIn', expires_in, 'user', orion_private.profile_json(user_id));
END
$function$;
COMMENT ON FUNCTION orion_private.session_json(text, text, int, uuid) IS 'The answer to a sign-in';

-- The body of POST /api/auth/2fa/verify and verify-backup; the field is the one of the code.
CREATE FUNCTION orion_private.two_factor_verify_answer(request jsonb, field text) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	body jsonb := request -> 'body';
	problem text := orion_private.body_problem(body, ARRAY[field], '{sessionId}');
	trust jsonb := coalesce(nullif(CASE WHEN problem IS NULL THEN body -> 'trustDevice' END, 'null'), 'false');
	pending boolean;
	code text;
	typed text;
	codes text[];
	wait int;
	answer jsonb;
	done record;
BEGIN
	IF problem IS NULL AND jsonb_typeof(trust) <> 'boolean' THEN
		problem := 'field "trustDevice" must be true or false';
	END IF;
	IF problem IS NOT NULL THEN
		RETURN orion_private.route_error(400, 'invalid_request', problem);
	END IF;
	IF field = 'code' THEN
		code := body ->> 'code';
	ELSE
		typed := body ->> field;
	END IF;
	pending := body ->> 'sessionId' IS NOT NULL;
	IF pending THEN
		wait := orion_private.token_wait(request, false);
		IF wait > 0 THEN
			RETURN orion_private.route_locked(wait);
		END IF;
		done := @extschema@.orion_two_factor_login(body ->> 'sessionId', code, typed, trust::boolean,
			orion_private.request_address(request), request #>> '{headers,user-agent}');
	ELSE
		answer := orion_private.route_session_only();
		IF answer IS NOT NULL THEN
			RETURN answer;
		END IF;
		done := @extschema@.orion_two_factor_verify(code, typed, trust::boolean,
			orion_private.request_address(request), request #>> '{headers,user-agent}');
		codes := done.backup_codes;
	END IF;
	IF done.status = 'invalid_session' THEN
		wait := orion_private.token_wait(request, true);
	END IF;
	IF done.status <> 'ok' THEN
		RETURN orion_private.two_factor_error(done.status, done.retry_after, NOT pending);
	END IF;
	answer := orion_private.session_json(done.access_token, done.refresh_token, done.expires_in, done.user_id);
	IF done.device_token IS NOT NULL THEN
		answer := answer || jsonb_build_object('deviceToken', done.device_token, 'deviceTokenExpiresAt', done.device_token_expires_at);
	END IF;
	IF codes IS NOT NULL THEN
		answer := answer || jsonb_build_object('backupCodes', to_jsonb(codes));
	END IF;
	RETURN answer;
END
$function$;
COMMENT ON FUNCTION orion_private.two_factor_verify_answer(jsonb, text) IS 'Completes a sign-in, or raises the session, by what stands in this field';

CREATE FUNCTION orion_private.route_two_factor(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	answer jsonb := orion_private.route_session_only();
	known record;
BEGIN
	IF answer IS NOT NULL THEN
		RETURN answer;
	END IF;
	known := @extschema@.orion_two_factor_status();
	RETURN jsonb_build_object('enabled', known.enabled, 'enabledAt', known.enabled_at, 'lastUsedAt', known.last_used_at,
		'backupCodesLeft', known.backup_codes_left, 'trustedDevices', known.trusted_devices);
END
$function$;
COMMENT ON FUNCTION orion_private.route_two_factor(jsonb) IS 'GET /api/auth/2fa: 200, 401 or 403';

CREATE FUNCTION orion_private.route_two_factor_setup(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	body jsonb := coalesce(nullif(request -> 'body', 'null'), '{}');
	problem text := orion_private.body_problem(body, '{}', '{password}');
	answer jsonb := orion_private.route_session_only();
	done record;
BEGIN
	IF answer IS NOT NULL THEN
		RETURN answer;
	ELSIF problem IS NOT NULL THEN
		RETURN orion_private.route_error(400, 'invalid_request', problem);
	END IF;
	done := @extschema@.orion_two_factor_setup(body ->> 'password', orion_private.request_address(request),
		request #>> '{headers,user-agent}');
	IF done.status <> 'ok' THEN
		RETURN orion_private.two_factor_error(done.status, done.retry_after, true);
	END IF;
	PERFORM set_config('response.headers', '[{"Cache-Control": "no-store"}]', true);
	RETURN jsonb_build_object('secret', done.secret, 'uri', done.uri, 'qrCode', done.qr_code);
END
$function$;
COMMENT ON FUNCTION orion_private.route_two_factor_setup(jsonb) IS 'POST /api/auth/2fa/setup {"password"?}: 200, 400, 401, 403, 409 or 429';

CREATE FUNCTION orion_private.route_two_factor_verify(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	RETURN orion_private.two_factor_verify_answer(request, 'code');
END
$function$;
COMMENT ON FUNCTION orion_private.route_two_factor_verify(jsonb) IS 'POST /api/auth/2fa/verify {"sessionId"?, "code", "trustDevice"?}: 200, 400, 401, 403, 409 or 429';

CREATE FUNCTION orion_private.route_two_factor_verify_backup(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	RETURN orion_private.two_factor_verify_answer(request, 'backupCode');
END
$function$;
COMMENT ON FUNCTION orion_private.route_two_factor_verify_backup(jsonb) IS 'POST /api/auth/2fa/verify-backup {"sessionId"?, "backupCode", "trustDevice"?}: 200, 400, 401, 403, 409 or 429';

-- Null when the body of disable or backup-codes has one of the three, else the answer.
CREATE FUNCTION orion_private.proof_problem(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	body jsonb := request -> 'body';
	problem text := orion_private.body_problem(body, '{}', '{code,backupCode,password}');
	answer jsonb := orion_private.route_session_only();
BEGIN
	IF answer IS NULL AND problem IS NULL AND num_nonnulls(body ->> 'code', body ->> 'backupCode', body ->> 'password') <> 1 THEN
		problem := 'one of the fields "code", "backupCode" and "password" is needed';
	END IF;
	IF answer IS NULL AND problem IS NOT NULL THEN
		answer := orion_private.route_error(400, 'invalid_request', problem);
	END IF;
	RETURN answer;
END
$function$;
COMMENT ON FUNCTION orion_private.proof_problem(jsonb) IS 'What is wrong with a request that needs a second factor, as answer, or null';

CREATE FUNCTION orion_private.route_two_factor_disable(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	body jsonb := request -> 'body';
	answer jsonb := orion_private.proof_problem(request);
	done record;
BEGIN
	IF answer IS NOT NULL THEN
		RETURN answer;
	END IF;
	done := @extschema@.orion_two_factor_disable(body ->> 'code', body ->> 'backupCode', body ->> 'password',
		orion_private.request_address(request), request #>> '{headers,user-agent}');
	IF done.status <> 'ok' THEN
		RETURN orion_private.two_factor_error(done.status, done.retry_after, true);
	END IF;
	RETURN orion_private.session_json(done.access_token, done.refresh_token, done.expires_in, done.user_id);
END
$function$;
COMMENT ON FUNCTION orion_private.route_two_factor_disable(jsonb) IS 'POST /api/auth/2fa/disable {"code" | "backupCode" | "password"}: 200, 400, 401, 403, 409 or 429';

CREATE FUNCTION orion_private.route_backup_codes(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	body jsonb := request -> 'body';
	answer jsonb := orion_private.proof_problem(request);
	done record;
BEGIN
	IF answer IS NOT NULL THEN
		RETURN answer;
	END IF;
	done := @extschema@.orion_backup_codes_regenerate(body ->> 'code', body ->> 'backupCode', body ->> 'password',
		orion_private.request_address(request), request #>> '{headers,user-agent}');
	IF done.status <> 'ok' THEN
		RETURN orion_private.two_factor_error(done.status, done.retry_after, true);
	END IF;
	PERFORM set_config('response.headers', '[{"Cache-Control": "no-store"}]', true);
	RETURN jsonb_build_object('backupCodes', to_jsonb(done.backup_codes));
END
$function$;
COMMENT ON FUNCTION orion_private.route_backup_codes(jsonb) IS 'POST /api/auth/2fa/backup-codes {"code" | "backupCode" | "password"}: 200, 400, 401, 403, 409 or 429';

CREATE FUNCTION orion_private.route_trusted_devices(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	answer jsonb := orion_private.route_session_only();
BEGIN
	IF answer IS NOT NULL THEN
		RETURN answer;
	END IF;
	RETURN jsonb_build_object('trustedDevices', coalesce((
		SELECT jsonb_agg(jsonb_build_object('id', t.id, 'deviceId', d.id, 'userAgent', d.user_agent, 'lastAddress', host(d.last_address),
			'createdAt', t.created_at, 'lastUsedAt', t.last_used_at, 'expiresAt', t.expires_at,
			'current', EXISTS (SELECT FROM orion_private.sessions AS s WHERE s.id = orion_private.current_session() AND s.device_id = d.id))
			ORDER BY t.created_at DESC, t.id)
		FROM orion_private.trusted_devices AS t JOIN orion_private.devices AS d ON d.id = t.device_id
		WHERE t.user_id = orion_private.uid() AND t.expires_at > now()), '[]'));
END
$function$;
COMMENT ON FUNCTION orion_private.route_trusted_devices(jsonb) IS 'GET /api/auth/2fa/trusted-devices: 200, 401 or 403';

CREATE FUNCTION orion_private.route_trusted_device_revoke(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	answer jsonb := orion_private.route_session_only();
BEGIN
	IF answer IS NOT NULL THEN
		RETURN answer;
	ELSIF request -> 'params' ->> 'id' IS NULL THEN
		RETURN jsonb_build_object('revoked', @extschema@.orion_trusted_devices_revoke());
	ELSIF @extschema@.orion_trusted_device_revoke(orion_private.param_uuid(request, 'id')) THEN
		RETURN jsonb_build_object('revoked', 1);
	END IF;
	RETURN orion_private.route_error(404, 'not_found', 'there is no such trusted device');
END
$function$;
COMMENT ON FUNCTION orion_private.route_trusted_device_revoke(jsonb) IS 'DELETE /api/auth/2fa/trusted-devices, or /{id}: 200, 401, 403 or 404';

REVOKE ALL ON FUNCTION orion_private.two_factor_error(text, int, boolean), orion_private.session_json(text, text, int, uuid),
	orion_private.two_factor_verify_answer(jsonb, text), orion_private.proof_problem(jsonb), orion_private.route_two_factor(jsonb),
	orion_private.route_two_factor_setup(jsonb), orion_private.route_two_factor_verify(jsonb),
	orion_private.route_two_factor_verify_backup(jsonb), orion_private.route_two_factor_disable(jsonb),
	orion_private.route_backup_codes(jsonb), orion_private.route_trusted_devices(jsonb),
	orion_private.route_trusted_device_revoke(jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION orion_private.route_two_factor(jsonb), orion_private.route_two_factor_setup(jsonb),
	orion_private.route_two_factor_verify(jsonb), orion_private.route_two_factor_verify_backup(jsonb),
	orion_private.route_two_factor_disable(jsonb), orion_private.route_backup_codes(jsonb),
	orion_private.route_trusted_devices(jsonb), orion_private.route_trusted_device_revoke(jsonb)
	TO orion_anon, orion_user, orion_service, orion_admin;

-- src/record/record.sql

-- Optimistic locking for any table with a column "version".

-- Runs as the caller, without any right of its own: what the caller may not
-- update by SQL cannot be updated here. Its statements name everything with its
-- schema, so no search_path is pinned, which the triggers of the table would see.
CREATE FUNCTION @extschema@.orion_update(relation regclass, id text, expected_version bigint, changes jsonb)
	RETURNS jsonb
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_update';
COMMENT ON FUNCTION @extschema@.orion_update(regclass, text, bigint, jsonb) IS
	'Updates the row of that key if its version is still the expected one, and returns the new row; PT409 when the version is another, PT404 when there is no such row';
REVOKE ALL ON FUNCTION @extschema@.orion_update(regclass, text, bigint, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_update(regclass, text, bigint, jsonb)
	TO orion_anon, orion_user, orion_service, orion_admin;

-- src/contract/contract.sql

-- Contracts of event types: what the payloads of events must look like.

-- Collation C: the extension looks types up by it.
CREATE TABLE orion_private.event_types (
	type text COLLATE "C" NOT NULL,
	version int NOT NULL CHECK (version >= 1),
	schema jsonb NOT NULL,
	description text,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	updated_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	PRIMARY KEY (type, version)
);
COMMENT ON TABLE orion_private.event_types IS 'Contracts: a JSON Schema for each version of an event type';
SELECT pg_catalog.pg_extension_config_dump('orion_private.event_types', '');

CREATE FUNCTION orion_private.event_types_changed() RETURNS trigger
	LANGUAGE c
	AS 'MODULE_PATHNAME', 'orion_event_types_changed';
COMMENT ON FUNCTION orion_private.event_types_changed() IS 'Lets every backend forget the contracts it keeps';
REVOKE ALL ON FUNCTION orion_private.event_types_changed() FROM PUBLIC;
CREATE TRIGGER event_types_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON orion_private.event_types
	FOR EACH STATEMENT EXECUTE FUNCTION orion_private.event_types_changed();
ALTER TABLE orion_private.event_types ENABLE ALWAYS TRIGGER event_types_changed;

CREATE FUNCTION orion_private.event_schema_check(type text, schema jsonb) RETURNS void
	LANGUAGE c VOLATILE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_event_schema_check';
COMMENT ON FUNCTION orion_private.event_schema_check(text, jsonb) IS 'Refuses what is no event type and what is no schema that can be checked';
REVOKE ALL ON FUNCTION orion_private.event_schema_check(text, jsonb) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_event_type_set(type text, schema jsonb, version int DEFAULT 1, description text DEFAULT NULL)
	RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	former orion_private.event_types;
BEGIN
	IF type IS NULL OR schema IS NULL OR version IS NULL OR version < 1 THEN
		RAISE EXCEPTION 'a contract needs a type, a schema and a version of 1 or more'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM orion_private.event_schema_check(type, schema);
	LOCK TABLE orion_private.event_types IN SHARE ROW EXCLUSIVE MODE;
	SELECT * INTO former FROM orion_private.event_types t
		WHERE t.type = orion_event_type_set.type AND t.version = orion_event_type_set.version;
	IF NOT FOUND THEN
		INSERT INTO orion_private.event_types (type, version, schema, description)
			VALUES (type, version, schema, description);
	ELSIF (former.schema, former.description) IS NOT DISTINCT FROM (schema, coalesce(description, former.description)) THEN
		RETURN;
	ELSE
		UPDATE orion_private.event_types t
			SET schema = orion_event_type_set.schema, updated_at = now(),
				description = coalesce(orion_event_type_set.description, t.description)
			WHERE t.type = orion_event_type_set.type AND t.version = orion_event_type_set.version;
	END IF;
	PERFORM orion_private.audit('event_type.set', 'event_type', format('%s %s', type, version), old => former.schema, new => schema);
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_event_type_set(text, jsonb, int, text)
	IS 'Gives a version of an event type a contract, a JSON Schema that the payload must keep to, or changes it';

CREATE FUNCTION @extschema@.orion_event_type_drop(type text, version int DEFAULT NULL) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	former orion_private.event_types;
	found_one boolean := false;
BEGIN
	FOR former IN DELETE FROM orion_private.event_types t
		WHERE t.type = orion_event_type_drop.type
			AND (orion_event_type_drop.version IS NULL OR t.version = orion_event_type_drop.version)
		RETURNING *
	LOOP
		found_one := true;
		PERFORM orion_private.audit('event_type.drop', 'event_type', format('%s %s', former.type, former.version), old => former.schema);
	END LOOP;
	IF NOT found_one THEN
		RAISE EXCEPTION 'event type "%" has no contract%', type, coalesce(' of version ' || version, '')
			USING ERRCODE = 'undefined_object';
	END IF;
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_event_type_drop(text, int)
	IS 'Takes the contract from a version of an event type, or from all; its events are not checked any more';

-- No SET search_path: the C function resolves no name through it.
CREATE FUNCTION @extschema@.orion_event_type_check(type text, payload jsonb, version int DEFAULT 1) RETURNS text
	LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED
	AS 'MODULE_PATHNAME', 'orion_event_type_check';
COMMENT ON FUNCTION @extschema@.orion_event_type_check(text, jsonb, int)
	IS 'How the payload would break the contract of its event type, or null; publishes nothing';

REVOKE ALL ON FUNCTION
	@extschema@.orion_event_type_set(text, jsonb, int, text),
	@extschema@.orion_event_type_drop(text, int),
	@extschema@.orion_event_type_check(text, jsonb, int)
	FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
	@extschema@.orion_event_type_set(text, jsonb, int, text),
	@extschema@.orion_event_type_drop(text, int)
	TO orion_admin;
GRANT EXECUTE ON FUNCTION @extschema@.orion_event_type_check(text, jsonb, int) TO orion_service, orion_admin;

CREATE VIEW orion.event_types WITH (security_invoker = true) AS
	SELECT type, version, description, schema, created_at, updated_at FROM orion_private.event_types;
COMMENT ON VIEW orion.event_types IS 'Contracts of event types: the JSON Schema of each version';
GRANT SELECT ON orion_private.event_types, orion.event_types TO orion_admin, orion_service;

-- src/outbox/outbox.sql

-- The transactional outbox: events, segments, cursors, sinks, SQL handlers.
--
-- Events are rows of a ring of eight tables that only grow and are truncated:
-- no row is ever updated or deleted (but see orion_private.outbox_adopt).

CREATE SEQUENCE orion_private.outbox_seq AS bigint CACHE 1;

CREATE TABLE orion_private.outbox (
	segment int2 NOT NULL,
	seq bigint NOT NULL,
	xid xid8 NOT NULL,
	id uuid NOT NULL,
	aggregatetype text,
	aggregateid text,
	type text NOT NULL,
	payload jsonb NOT NULL,
	version int NOT NULL,
	correlation_id text,
	causation_id text,
	metadata jsonb,
	occurred_at timestamptz NOT NULL
) PARTITION BY LIST (segment);
COMMENT ON TABLE orion_private.outbox IS 'Published events, append-only; the columns that Debezium''s outbox router knows have its names';
COMMENT ON COLUMN orion_private.outbox.seq IS 'Order of publishing; not the order of commit';
COMMENT ON COLUMN orion_private.outbox.xid IS 'The publishing transaction: cursors find new events by it';

-- By xid a cursor finds what has become visible, by seq it reads that in order.
CREATE INDEX outbox_xid ON orion_private.outbox (xid);
CREATE INDEX outbox_seq_key ON orion_private.outbox (seq);

-- One row a segment, in the ring's order.  Empty: opened_at is null.  Open: rows may
-- still come while sealed_xid is null.  Sealed: sealed_xid is above every xid in it.
-- The current one was opened and not closed.
CREATE TABLE orion_private.outbox_state (
	segment int2 PRIMARY KEY,
	opened_at timestamptz,
	closed_at timestamptz,
	sealed_xid xid8,
	sealed_at timestamptz
);
COMMENT ON TABLE orion_private.outbox_state IS 'What each segment of the outbox holds';

CREATE TABLE orion_private.outbox_retained (
	since timestamptz
);
COMMENT ON TABLE orion_private.outbox_retained IS 'One row: all events published since then are in the outbox; null: all there were';
INSERT INTO orion_private.outbox_retained VALUES (NULL);

DO $do$
BEGIN
	FOR segment IN 1 .. 8 LOOP
		EXECUTE pg_catalog.format('CREATE TABLE orion_private.outbox_%s PARTITION OF orion_private.outbox FOR VALUES IN (%s)', segment, segment);
		PERFORM pg_catalog.pg_extension_config_dump(pg_catalog.format('orion_private.outbox_%s', segment)::pg_catalog.regclass, '');
		INSERT INTO orion_private.outbox_state (segment, opened_at)
			VALUES (segment, CASE WHEN segment OPERATOR(pg_catalog.=) 1 THEN pg_catalog.now() END);
	END LOOP;
END
$do$;

-- orion_publish() writes the rows without the executor and announces them itself. For all others, whatever
-- session_replication_role is: without a word before the commit relays would pass over them.
CREATE FUNCTION orion_private.outbox_inserted() RETURNS trigger
	LANGUAGE c
	AS 'MODULE_PATHNAME', 'orion_outbox_inserted';
COMMENT ON FUNCTION orion_private.outbox_inserted() IS 'Announces rows that are inserted by hand or restored to all relays';
REVOKE ALL ON FUNCTION orion_private.outbox_inserted() FROM PUBLIC;

DO $do$
DECLARE
	relation text;
BEGIN
	FOREACH relation IN ARRAY ARRAY['outbox', 'outbox_1', 'outbox_2', 'outbox_3', 'outbox_4', 'outbox_5', 'outbox_6', 'outbox_7', 'outbox_8'] LOOP
		EXECUTE pg_catalog.format('CREATE TRIGGER inserted BEFORE INSERT ON orion_private.%I'
			' FOR EACH STATEMENT EXECUTE FUNCTION orion_private.outbox_inserted()', relation);
		EXECUTE pg_catalog.format('ALTER TABLE ONLY orion_private.%I ENABLE ALWAYS TRIGGER inserted', relation);
	END LOOP;
END
$do$;

-- Which cluster the transaction ids in these tables belong to.  The name sorts
-- behind the other tables, so a restore fills it last.
CREATE TABLE orion_private.system_origin (
	system_identifier bigint NOT NULL
);
COMMENT ON TABLE orion_private.system_origin IS 'Whose transaction ids the outbox and the cursors hold; a second row appears when a dump is restored';

CREATE TABLE orion_private.sinks (
	id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name text NOT NULL UNIQUE CHECK (name ~ '^[A-Za-z0-9_.-]{1,63}$'),
	kind text NOT NULL CHECK (kind IN ('redis', 'rabbitmq', 'kafka', 'sql', 'webhook')),
	pattern text NOT NULL DEFAULT '#',
	paused bool NOT NULL DEFAULT false,
	config bytea,
	handler text,
	handler_role regrole,
	workers int NOT NULL DEFAULT 1 CHECK (workers BETWEEN 1 AND 16),
	batch int NOT NULL DEFAULT 100 CHECK (batch BETWEEN 1 AND 1000),
	max_attempts int CHECK (max_attempts BETWEEN 1 AND 100),
	timeout_ms int CHECK (timeout_ms >= 0),
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	CHECK (kind = 'sql' OR workers = 1),
	CHECK ((kind = 'sql') = (handler IS NOT NULL AND handler_role IS NOT NULL)),
	CHECK ((kind = 'sql') = (config IS NULL))
);
COMMENT ON TABLE orion_private.sinks IS 'Where events are sent to';
COMMENT ON COLUMN orion_private.sinks.config IS 'Sealed JSON: it holds passwords';
COMMENT ON COLUMN orion_private.sinks.handler IS 'kind sql: the function''s signature, qualified';
COMMENT ON COLUMN orion_private.sinks.handler_role IS 'kind sql: who subscribed, and as whom the function runs';

COMMENT ON COLUMN orion_private.sinks.workers IS 'kind sql: relays, each with a cursor of its own; they divide the keys among them';

-- How far a sink is, or a worker of a SQL handler that has several.  The window from_snapshot .. upto_snapshot is being delivered in
-- the order of seq, up to and including seq; upto_snapshot is null between windows.
-- What the sink last confirmed is kept besides: if it restarts with less, it has lost
-- something.  A low fillfactor keeps the updates in their page.
CREATE TABLE orion_private.cursors (
	sink_id int NOT NULL REFERENCES orion_private.sinks ON DELETE CASCADE,
	part int NOT NULL DEFAULT 0,
	epoch bigint NOT NULL DEFAULT 0,
	from_snapshot pg_snapshot NOT NULL,
	upto_snapshot pg_snapshot,
	window_no bigint NOT NULL DEFAULT 0,
	tag bigint NOT NULL DEFAULT 0,
	seq bigint NOT NULL DEFAULT 0,
	passed_seq bigint NOT NULL DEFAULT 0,
	kind int NOT NULL DEFAULT 0,
	first_seq bigint NOT NULL DEFAULT 0,
	last_seq bigint NOT NULL DEFAULT 0,
	replay_id bigint NOT NULL DEFAULT 0,
	confirmed_window bigint NOT NULL DEFAULT 0,
	confirmed_seq bigint NOT NULL DEFAULT 0,
	delivered bigint NOT NULL DEFAULT 0,
	updated_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	PRIMARY KEY (sink_id, part)
) WITH (fillfactor = 20, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE orion_private.cursors IS 'How far each sink is in the outbox';
COMMENT ON COLUMN orion_private.cursors.window_no IS 'Number of the window: milliseconds since 1970 when it was opened, or one more than the last';
COMMENT ON COLUMN orion_private.cursors.epoch IS 'Counted up by whoever moves the cursor for its relay';
COMMENT ON COLUMN orion_private.cursors.passed_seq IS 'The highest seq delivered, or how many numbers were passed over; late commits may be below it';
COMMENT ON COLUMN orion_private.cursors.kind IS 'Of the window: 0 what is new, 1 a part of a replay, 2 dead letters sent again; of 1 and 2 first_seq to last_seq';
COMMENT ON COLUMN orion_private.cursors.tag IS 'Random; tells the window from one of the same number in another life of this database';

-- The last windows of sinks that store their position, to go back to when such a sink
-- has lost what it had confirmed.  Not dumped: snapshots mean nothing elsewhere.
CREATE TABLE orion_private.cursor_windows (
	sink_id int NOT NULL REFERENCES orion_private.sinks ON DELETE CASCADE,
	window_no bigint NOT NULL,
	tag bigint NOT NULL,
	from_snapshot pg_snapshot NOT NULL,
	upto_snapshot pg_snapshot NOT NULL,
	kind int NOT NULL DEFAULT 0,
	first_seq bigint NOT NULL DEFAULT 0,
	last_seq bigint NOT NULL DEFAULT 0,
	replay_id bigint NOT NULL DEFAULT 0,
	opened_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	PRIMARY KEY (sink_id, window_no)
);
COMMENT ON TABLE orion_private.cursor_windows IS 'Windows delivered in the last minutes, to go back to';

-- Events that were handled and failed, and later ones of the same key, which wait for
-- them: those have no attempts and no time.  The order of a key is window_no, seq.
CREATE TABLE orion_private.parked (
	sink_id int NOT NULL REFERENCES orion_private.sinks ON DELETE CASCADE,
	part int NOT NULL,
	window_no bigint NOT NULL,
	seq bigint NOT NULL,
	key text,
	event jsonb NOT NULL,
	attempts int NOT NULL,
	next_try_at timestamptz,
	last_error text,
	PRIMARY KEY (sink_id, part, window_no, seq)
);
CREATE INDEX parked_next_try ON orion_private.parked (sink_id, part, next_try_at);
CREATE INDEX parked_key ON orion_private.parked (sink_id, part, key, window_no, seq) WHERE key IS NOT NULL;
COMMENT ON TABLE orion_private.parked IS 'Events whose SQL handler failed and will be called again';

CREATE TABLE orion_private.dead_letters (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	sink_id int NOT NULL REFERENCES orion_private.sinks ON DELETE CASCADE,
	part int NOT NULL DEFAULT 0,
	position text NOT NULL,
	key text,
	event jsonb NOT NULL,
	attempts int NOT NULL,
	error text NOT NULL,
	dead_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	UNIQUE (sink_id, part, position)
);
COMMENT ON TABLE orion_private.dead_letters IS 'Events that a sink refused for good';

-- Dead letters that a courier is to send once more.  Their numbers come after the window's
-- in their position.  What was sent is kept for as long as windows can be gone back to.
CREATE TABLE orion_private.redrives (
	seq bigint GENERATED ALWAYS AS IDENTITY,
	sink_id int NOT NULL REFERENCES orion_private.sinks ON DELETE CASCADE,
	window_no bigint,
	event jsonb NOT NULL,
	queued_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	PRIMARY KEY (sink_id, seq)
);
COMMENT ON TABLE orion_private.redrives IS 'Dead letters on their way to their sink once more';
COMMENT ON COLUMN orion_private.redrives.window_no IS 'The window in which they are sent; null: not yet';

-- What is to be sent again from the outbox: from next_seq to to_seq, a window of rows at a
-- time.  Segments are kept until that is done.
CREATE TABLE orion_private.replays (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	sink_id int NOT NULL REFERENCES orion_private.sinks ON DELETE CASCADE,
	part int NOT NULL,
	pattern text NOT NULL,
	from_time timestamptz NOT NULL,
	to_time timestamptz NOT NULL,
	from_seq bigint NOT NULL,
	next_seq bigint NOT NULL,
	to_seq bigint NOT NULL,
	upto_snapshot pg_snapshot NOT NULL,
	requested_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
CREATE INDEX replays_waiting ON orion_private.replays (sink_id, part, id) WHERE next_seq <= to_seq;
COMMENT ON TABLE orion_private.replays IS 'Ranges of the outbox that are sent to a sink again, or were lately';

DO $do$
DECLARE
	relation text;
BEGIN
	FOREACH relation IN ARRAY ARRAY['outbox_seq', 'system_origin', 'sinks', 'sinks_id_seq', 'cursors', 'parked', 'dead_letters', 'dead_letters_id_seq',
		'redrives', 'redrives_seq_seq', 'replays', 'replays_id_seq'] LOOP
		PERFORM pg_catalog.pg_extension_config_dump(pg_catalog.format('orion_private.%I', relation)::pg_catalog.regclass, '');
	END LOOP;
END
$do$;

-- The current snapshot with the own transaction counted as in progress, as it is for
-- everybody else.
CREATE FUNCTION orion_private.outbox_now() RETURNS pg_snapshot
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
	SELECT CASE WHEN own.xid IS NULL OR own.xid >= pg_snapshot_xmax(now.snapshot) THEN now.snapshot
		ELSE format('%s:%s:%s', least(own.xid, pg_snapshot_xmin(now.snapshot)), pg_snapshot_xmax(now.snapshot),
			(SELECT string_agg(x::text, ',' ORDER BY x)
				FROM (SELECT pg_snapshot_xip(now.snapshot) UNION SELECT own.xid) AS xips (x)))::pg_snapshot
		END
	FROM (SELECT pg_current_snapshot()) AS now (snapshot),
		(SELECT pg_current_xact_id_if_assigned()) AS own (xid)
	$fn$;
COMMENT ON FUNCTION orion_private.outbox_now() IS 'The snapshot that a new cursor starts at';
REVOKE ALL ON FUNCTION orion_private.outbox_now() FROM PUBLIC;

-- Transaction ids and snapshots mean nothing in another cluster.  When a dump was
-- restored, each row gets one of the numbers from 3 on, below any transaction's, by
-- the set of sinks that wait for it, and each cursor a snapshot in which the numbers it
-- waits for are in progress.  This is the only update of the outbox there is.
CREATE FUNCTION orion_private.outbox_adopt(own_system bigint) RETURNS boolean
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	now_snapshot pg_snapshot;
	waiting_sets text[];
BEGIN
	IF NOT EXISTS (SELECT FROM orion_private.system_origin WHERE system_identifier <> own_system) THEN
		IF NOT EXISTS (SELECT FROM orion_private.system_origin) THEN
			INSERT INTO orion_private.system_origin VALUES (own_system);
		END IF;
		RETURN false;
	END IF;
	LOCK TABLE orion_private.system_origin IN ACCESS EXCLUSIVE MODE;
	IF NOT EXISTS (SELECT FROM orion_private.system_origin WHERE system_identifier <> own_system) THEN
		RETURN false;
	END IF;
	LOCK TABLE orion_private.outbox, orion_private.cursors IN SHARE ROW EXCLUSIVE MODE;
	DELETE FROM orion_private.cursor_windows;
	now_snapshot := orion_private.outbox_now();

	CREATE TEMPORARY TABLE orion_adopted ON COMMIT DROP AS
		SELECT o.segment, o.seq, ARRAY(
			SELECT DISTINCT c.sink_id * 16 + c.part FROM orion_private.cursors c
			WHERE NOT pg_visible_in_snapshot(o.xid, c.from_snapshot)
				AND NOT (c.upto_snapshot IS NOT NULL AND c.kind = 0 AND o.seq <= c.seq AND pg_visible_in_snapshot(o.xid, c.upto_snapshot))
			ORDER BY 1) AS waiting
		FROM orion_private.outbox o;
	SELECT array_agg(DISTINCT a.waiting::text ORDER BY a.waiting::text) INTO waiting_sets FROM pg_temp.orion_adopted a;
	UPDATE orion_private.outbox o
		SET xid = (2 + array_position(waiting_sets, a.waiting::text))::text::xid8
		FROM pg_temp.orion_adopted a
		WHERE o.segment = a.segment AND o.seq = a.seq
			AND (a.waiting <> '{}' OR o.xid >= pg_snapshot_xmin(now_snapshot));
	UPDATE orion_private.replays r SET upto_snapshot = now_snapshot,
		next_seq = least(r.next_seq, (SELECT min(c.first_seq) FROM orion_private.cursors c
			WHERE c.kind = 1 AND c.upto_snapshot IS NOT NULL AND c.replay_id = r.id));
	UPDATE orion_private.redrives r SET window_no = NULL
		WHERE EXISTS (SELECT FROM orion_private.cursors c
			WHERE c.kind = 2 AND c.upto_snapshot IS NOT NULL AND c.sink_id = r.sink_id AND c.window_no = r.window_no);
	UPDATE orion_private.cursors c
		SET upto_snapshot = NULL, seq = 0, kind = 0, updated_at = now(),
			from_snapshot = coalesce((
				SELECT format('%s:%s:%s', min(x), pg_snapshot_xmax(now_snapshot), string_agg(x::text, ',' ORDER BY x))
				FROM (SELECT (2 + s.number)::text::xid8 FROM unnest(waiting_sets) WITH ORDINALITY AS s (sinks, number)
						WHERE c.sink_id * 16 + c.part = ANY (s.sinks::int[])
					UNION ALL SELECT pg_snapshot_xip(now_snapshot)) AS xips (x)
				HAVING count(*) > 0)::pg_snapshot, now_snapshot);
	UPDATE orion_private.outbox_state t
		SET opened_at = coalesce(t.opened_at, now()), closed_at = now(), sealed_xid = pg_snapshot_xmax(now_snapshot)
		WHERE (t.opened_at IS NULL OR t.closed_at IS NOT NULL)
			AND EXISTS (SELECT FROM pg_temp.orion_adopted a WHERE a.segment = t.segment);
	DELETE FROM orion_private.system_origin;
	INSERT INTO orion_private.system_origin VALUES (own_system);
	DROP TABLE pg_temp.orion_adopted;
	RETURN true;
END
$fn$;
COMMENT ON FUNCTION orion_private.outbox_adopt(bigint) IS 'Makes the outbox of a restored dump readable in this cluster; true if it was one';
REVOKE ALL ON FUNCTION orion_private.outbox_adopt(bigint) FROM PUBLIC;

-- No SET search_path: the C function resolves no name through it, and setting it
-- would be a fifth of the cost of a call.
CREATE FUNCTION @extschema@.orion_publish(
	type text, payload jsonb,
	aggregatetype text DEFAULT NULL, aggregateid text DEFAULT NULL,
	correlation_id text DEFAULT NULL, causation_id text DEFAULT NULL,
	metadata jsonb DEFAULT NULL, version int DEFAULT 1)
	RETURNS uuid
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_publish';
COMMENT ON FUNCTION @extschema@.orion_publish(text, jsonb, text, text, text, text, jsonb, int)
	IS 'Publishes an event in this transaction: every sink whose pattern matches the type receives it after commit; returns the event''s id';
REVOKE ALL ON FUNCTION @extschema@.orion_publish(text, jsonb, text, text, text, text, jsonb, int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_publish(text, jsonb, text, text, text, text, jsonb, int) TO orion_service, orion_admin;

CREATE FUNCTION @extschema@.orion_publish_batch(events jsonb) RETURNS uuid[]
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_publish_batch';
COMMENT ON FUNCTION @extschema@.orion_publish_batch(jsonb)
	IS 'Publishes an array of events, objects with the arguments of orion_publish as keys, all or none; returns their ids in order';
REVOKE ALL ON FUNCTION @extschema@.orion_publish_batch(jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_publish_batch(jsonb) TO orion_service, orion_admin;

-- For Orion's own functions, which call it with fewer arguments: in the schema of the
-- extension somebody may have put a function of that name that fits such a call better.
CREATE FUNCTION orion_private.publish(
	type text, payload jsonb,
	aggregatetype text DEFAULT NULL, aggregateid text DEFAULT NULL,
	correlation_id text DEFAULT NULL, causation_id text DEFAULT NULL,
	metadata jsonb DEFAULT NULL, version int DEFAULT 1)
	RETURNS uuid
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_publish';
COMMENT ON FUNCTION orion_private.publish(text, jsonb, text, text, text, text, jsonb, int) IS 'See orion_publish';
REVOKE ALL ON FUNCTION orion_private.publish(text, jsonb, text, text, text, text, jsonb, int) FROM PUBLIC;

CREATE FUNCTION orion_private.sinks_changed() RETURNS trigger
	LANGUAGE c
	AS 'MODULE_PATHNAME', 'orion_sinks_changed';
COMMENT ON FUNCTION orion_private.sinks_changed() IS 'Wakes the workers concerned at commit';
REVOKE ALL ON FUNCTION orion_private.sinks_changed() FROM PUBLIC;
CREATE TRIGGER sinks_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON orion_private.sinks
	FOR EACH STATEMENT EXECUTE FUNCTION orion_private.sinks_changed();

CREATE FUNCTION orion_private.sink_seal(config jsonb, name text) RETURNS bytea
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_sink_seal';
COMMENT ON FUNCTION orion_private.sink_seal(jsonb, text) IS 'Seals the configuration of a sink, which holds passwords';
REVOKE ALL ON FUNCTION orion_private.sink_seal(jsonb, text) FROM PUBLIC;

CREATE FUNCTION orion_private.topic_pattern_error(pattern text) RETURNS text
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_topic_pattern_error_sql';
COMMENT ON FUNCTION orion_private.topic_pattern_error(text) IS 'Why a text is no pattern of event types, or null';
REVOKE ALL ON FUNCTION orion_private.topic_pattern_error(text) FROM PUBLIC;

CREATE FUNCTION orion_private.pattern_check(pattern text) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	IF pattern IS NULL OR orion_private.topic_pattern_error(pattern) IS NOT NULL THEN
		RAISE EXCEPTION 'invalid pattern of event types: %', coalesce(orion_private.topic_pattern_error(pattern), 'it is null')
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Examples are user.created, user.* and #.';
	END IF;
END
$fn$;
COMMENT ON FUNCTION orion_private.pattern_check(text) IS 'Refuses what is no pattern of event types';
REVOKE ALL ON FUNCTION orion_private.pattern_check(text) FROM PUBLIC;

-- What is null is not looked at.
CREATE FUNCTION orion_private.subscription_check(workers int, batch int, max_attempts int, timeout interval) RETURNS void
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	IF workers NOT BETWEEN 1 AND 16 THEN
		RAISE EXCEPTION 'the number of workers must be from 1 to 16, not %', workers USING ERRCODE = 'invalid_parameter_value';
	ELSIF batch NOT BETWEEN 1 AND 1000 THEN
		RAISE EXCEPTION 'the size of a batch must be from 1 to 1000, not %', batch USING ERRCODE = 'invalid_parameter_value';
	ELSIF max_attempts NOT BETWEEN 1 AND 100 THEN
		RAISE EXCEPTION 'the number of attempts must be from 1 to 100, not %', max_attempts USING ERRCODE = 'invalid_parameter_value';
	ELSIF timeout NOT BETWEEN interval '0' AND interval '1 day' THEN
		RAISE EXCEPTION 'the timeout must be from 0 to one day, not %', timeout USING ERRCODE = 'invalid_parameter_value';
	END IF;
END
$fn$;
COMMENT ON FUNCTION orion_private.subscription_check(int, int, int, interval) IS 'Refuses numbers that a subscription cannot have';
REVOKE ALL ON FUNCTION orion_private.subscription_check(int, int, int, interval) FROM PUBLIC;

-- The table of sinks is locked.
CREATE FUNCTION orion_private.sinks_room(more int) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	IF (SELECT coalesce(sum(s.workers), 0) + more FROM orion_private.sinks s) > 64 THEN
		RAISE EXCEPTION 'there may be 64 sinks, or workers of them' USING ERRCODE = 'program_limit_exceeded';
	END IF;
END
$fn$;
COMMENT ON FUNCTION orion_private.sinks_room(int) IS 'Refuses more sinks, or workers of them, than shared memory has room for';
REVOKE ALL ON FUNCTION orion_private.sinks_room(int) FROM PUBLIC;

-- The row and the cursor of a new sink, for orion_sink_create and orion_subscribe.
CREATE FUNCTION orion_private.sink_add(name text, kind text, pattern text, config bytea, handler text, handler_role regrole,
	workers int DEFAULT 1, batch int DEFAULT 100, max_attempts int DEFAULT NULL, timeout interval DEFAULT NULL)
	RETURNS int
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	start pg_snapshot := orion_private.outbox_now();
	new_id int;
BEGIN
	IF name IS NULL OR name !~ '^[A-Za-z0-9_.-]{1,63}$' THEN
		RAISE EXCEPTION 'invalid name of a sink: "%"', name
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Use 1 to 63 letters, digits, dots, hyphens and underscores.';
	END IF;
	PERFORM orion_private.pattern_check(pattern);
	LOCK TABLE orion_private.sinks IN SHARE ROW EXCLUSIVE MODE;
	PERFORM orion_private.subscription_check(coalesce(workers, 0), coalesce(batch, 0), max_attempts, timeout);
	PERFORM orion_private.sinks_room(workers);
	IF EXISTS (SELECT FROM orion_private.sinks s WHERE s.name = sink_add.name) THEN
		RAISE EXCEPTION 'a sink named "%" already exists', name USING ERRCODE = 'duplicate_object';
	END IF;
	INSERT INTO orion_private.sinks (name, kind, pattern, config, handler, handler_role, workers, batch, max_attempts, timeout_ms)
		VALUES (name, kind, pattern, config, handler, handler_role, workers, batch, max_attempts, extract(epoch FROM timeout) * 1000)
		RETURNING id INTO new_id;
	INSERT INTO orion_private.cursors (sink_id, part, from_snapshot, seq, passed_seq)
		SELECT new_id, p.part, start, s.last_value, s.last_value
		FROM orion_private.outbox_seq s, generate_series(0, workers - 1) AS p (part);
	RETURN new_id;
END
$fn$;
COMMENT ON FUNCTION orion_private.sink_add(text, text, text, bytea, text, regrole, int, int, int, interval) IS 'Adds a sink that starts at the present';
REVOKE ALL ON FUNCTION orion_private.sink_add(text, text, text, bytea, text, regrole, int, int, int, interval) FROM PUBLIC;

-- Redis: its keys may be templates, whose placeholders the courier fills in.
CREATE FUNCTION orion_private.template_error(template text) RETURNS text
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_template_error';
COMMENT ON FUNCTION orion_private.template_error(text) IS 'Why a text is no template of keys, or null';
REVOKE ALL ON FUNCTION orion_private.template_error(text) FROM PUBLIC;

CREATE FUNCTION orion_private.template_check(key text, templates jsonb) RETURNS void
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	item jsonb;
BEGIN
	IF templates IS NULL THEN
		RETURN;
	ELSIF jsonb_typeof(templates) <> 'array' OR jsonb_array_length(templates) NOT BETWEEN 1 AND 64 THEN
		RAISE EXCEPTION 'config: key "%" must be an array of 1 to 64 strings', key USING ERRCODE = 'invalid_parameter_value';
	END IF;
	FOR item IN SELECT * FROM jsonb_array_elements(templates) LOOP
		IF jsonb_typeof(item) <> 'string' THEN
			RAISE EXCEPTION 'config: key "%" must hold strings', key USING ERRCODE = 'invalid_parameter_value';
		ELSIF orion_private.template_error(item #>> '{}') IS NOT NULL THEN
			RAISE EXCEPTION 'config: key "%": %', key, orion_private.template_error(item #>> '{}') USING ERRCODE = 'invalid_parameter_value';
		END IF;
	END LOOP;
END
$fn$;
COMMENT ON FUNCTION orion_private.template_check(text, jsonb) IS 'Refuses what is no list of templates under a key of a configuration';
REVOKE ALL ON FUNCTION orion_private.template_check(text, jsonb) FROM PUBLIC;

-- types: {"key": "type", ...} with the names of jsonb_typeof, or several with a bar between.
CREATE FUNCTION orion_private.config_check(config jsonb, types jsonb) RETURNS void
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	item record;
BEGIN
	FOR item IN SELECT c.key, c.value, t.value #>> '{}' AS wanted
		FROM jsonb_each(config) c LEFT JOIN jsonb_each(types) t ON t.key = c.key
	LOOP
		IF item.wanted IS NULL THEN
			RAISE EXCEPTION 'config: unknown key "%"', item.key
				USING ERRCODE = 'invalid_parameter_value',
					HINT = 'The keys are ' || (SELECT string_agg(k, ', ' ORDER BY k) FROM jsonb_object_keys(types) k) || '.';
		ELSIF jsonb_typeof(item.value) <> ALL (string_to_array(item.wanted, '|')) THEN
			RAISE EXCEPTION 'config: key "%" must be of type %, not %', item.key, replace(item.wanted, '|', ' or '), jsonb_typeof(item.value)
				USING ERRCODE = 'invalid_parameter_value';
		ELSIF item.value = '""' THEN
			RAISE EXCEPTION 'config: key "%" must not be empty', item.key USING ERRCODE = 'invalid_parameter_value';
		END IF;
	END LOOP;
END
$fn$;
COMMENT ON FUNCTION orion_private.config_check(jsonb, jsonb) IS 'Refuses unknown keys and values of the wrong type';
REVOKE ALL ON FUNCTION orion_private.config_check(jsonb, jsonb) FROM PUBLIC;

-- A cache rule without its pattern; see docs/redis.md.
CREATE FUNCTION orion_private.cache_rule_check(rule jsonb, with_function bool) RETURNS void
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	list text;
BEGIN
	IF rule IS NULL OR jsonb_typeof(rule) <> 'object' THEN
		RAISE EXCEPTION 'a cache rule must be an object' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'For example {"del": ["user:profile:{aggregateid}"]}.';
	END IF;
	PERFORM orion_private.config_check(rule, '{"del": "array", "tags": "array", "scan": "array", "flush": "array", "set": "object"}');
	FOREACH list IN ARRAY ARRAY['del', 'tags', 'scan', 'flush'] LOOP
		PERFORM orion_private.template_check(list, rule -> list);
	END LOOP;
	IF rule = '{}' THEN
		RAISE EXCEPTION 'a cache rule needs one of the keys del, tags, scan, flush, set' USING ERRCODE = 'invalid_parameter_value';
	ELSIF rule ? 'set' AND NOT with_function THEN
		RAISE EXCEPTION 'config: key "set" needs a function' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Rules with a function are made with orion_cache_rule_create().';
	ELSIF with_function AND NOT rule ? 'set' THEN
		RAISE EXCEPTION 'a cache rule with a function needs the key "set"' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	IF rule ? 'set' THEN
		PERFORM orion_private.config_check(rule -> 'set', '{"key": "string", "ttl": "number", "tags": "array"}');
		IF NOT rule -> 'set' ? 'key' THEN
			RAISE EXCEPTION 'config: key "key" of "set" is missing' USING ERRCODE = 'invalid_parameter_value';
		ELSIF rule -> 'set' ? 'ttl' AND ((rule -> 'set' ->> 'ttl')::numeric NOT BETWEEN 1 AND 3153600000
				OR (rule -> 'set' ->> 'ttl') !~ '^[0-9]+$') THEN
			RAISE EXCEPTION 'config: key "ttl" must be a whole number of seconds' USING ERRCODE = 'invalid_parameter_value';
		END IF;
		PERFORM orion_private.template_check('key', jsonb_build_array(rule -> 'set' -> 'key'));
		PERFORM orion_private.template_check('tags', rule -> 'set' -> 'tags');
	END IF;
END
$fn$;
COMMENT ON FUNCTION orion_private.cache_rule_check(jsonb, bool) IS 'Refuses what is no cache rule';
REVOKE ALL ON FUNCTION orion_private.cache_rule_check(jsonb, bool) FROM PUBLIC;

-- edges: {"key": ["dependent", ...], ...}
CREATE FUNCTION orion_private.cache_dependencies_check(edges jsonb) RETURNS void
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	edge record;
	through text;
BEGIN
	FOR edge IN SELECT * FROM jsonb_each(edges) LOOP
		PERFORM orion_private.template_check('dependencies', jsonb_build_array(edge.key));
		PERFORM orion_private.template_check('dependencies', edge.value);
	END LOOP;
	WITH RECURSIVE e (key, dependent) AS (
		SELECT o.key, a.value FROM jsonb_each(edges) o, jsonb_array_elements_text(o.value) a
	), reach (key, dependent) AS (
		SELECT e.key, e.dependent FROM e
		UNION SELECT r.key, e.dependent FROM reach r JOIN e ON e.key = r.dependent
	) SELECT r.key INTO through FROM reach r WHERE r.key = r.dependent ORDER BY r.key LIMIT 1;
	IF through IS NOT NULL THEN
		RAISE EXCEPTION 'the dependencies of cache keys have a cycle through "%"', through
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
END
$fn$;
COMMENT ON FUNCTION orion_private.cache_dependencies_check(jsonb) IS 'Refuses dependencies that are malformed or have a cycle';
REVOKE ALL ON FUNCTION orion_private.cache_dependencies_check(jsonb) FROM PUBLIC;

-- The keys "url" and "tls", the same for all sinks with URLs: scheme:// is plain, schemes:// is TLS.
CREATE FUNCTION orion_private.tls_check(config jsonb, scheme text) RETURNS void
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	IF config ->> 'url' !~ ('^' || scheme || 's?://') THEN
		RAISE EXCEPTION 'config: key "url" must begin with %:// or %s://', scheme, scheme USING ERRCODE = 'invalid_parameter_value';
	ELSIF config ? 'tls' AND config ->> 'url' !~ ('^' || scheme || 's://') THEN
		RAISE EXCEPTION 'config: key "tls" needs a "url" that begins with %s://', scheme USING ERRCODE = 'invalid_parameter_value';
	ELSIF config ? 'tls' THEN
		PERFORM orion_private.config_check(config -> 'tls', '{"ca": "string", "cert": "string", "key": "string", "server_name": "string", "verify": "boolean"}');
		IF (config -> 'tls' ? 'cert') <> (config -> 'tls' ? 'key') THEN
			RAISE EXCEPTION 'config: keys "cert" and "key" go together' USING ERRCODE = 'invalid_parameter_value';
		END IF;
	END IF;
END
$fn$;
COMMENT ON FUNCTION orion_private.tls_check(jsonb, text) IS 'Refuses URLs of another scheme, and settings of TLS that cannot be right';
REVOKE ALL ON FUNCTION orion_private.tls_check(jsonb, text) FROM PUBLIC;

-- What the courier would refuse as well, said before anything is stored.
CREATE FUNCTION orion_private.redis_check(config jsonb) RETURNS void
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	item jsonb;
BEGIN
	PERFORM orion_private.config_check(config, '{"url": "string", "tls": "object", "cluster": "boolean", "nodes": "array",
		"stream": "string|boolean", "maxlen": "number", "channel": "string", "position_key": "string", "cache": "array",
		"dependencies": "object", "tag_prefix": "string", "namespace_prefix": "string"}');
	PERFORM orion_private.tls_check(config, 'redis');
	IF config ? 'nodes' AND config -> 'cluster' IS DISTINCT FROM 'true' THEN
		RAISE EXCEPTION 'config: key "nodes" needs "cluster": true' USING ERRCODE = 'invalid_parameter_value';
	ELSIF config -> 'stream' = 'true' THEN
		RAISE EXCEPTION 'config: key "stream" must be a name, or false for none' USING ERRCODE = 'invalid_parameter_value';
	ELSIF config ? 'maxlen' AND (config ->> 'maxlen' !~ '^[0-9]+$' OR (config ->> 'maxlen')::numeric NOT BETWEEN 1 AND 4503599627370496) THEN
		RAISE EXCEPTION 'config: key "maxlen" must be an integer between 1 and 4503599627370496' USING ERRCODE = 'invalid_parameter_value';
	ELSIF config ->> 'tag_prefix' ~ '[{}]' THEN
		RAISE EXCEPTION 'config: key "tag_prefix" must hold no braces' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	IF jsonb_typeof(config -> 'stream') = 'string' THEN
		PERFORM orion_private.template_check('stream', jsonb_build_array(config -> 'stream'));
	END IF;
	IF config ? 'channel' THEN
		PERFORM orion_private.template_check('channel', jsonb_build_array(config -> 'channel'));
	END IF;
	FOR item IN SELECT * FROM jsonb_array_elements(coalesce(config -> 'cache', '[]')) LOOP
		IF jsonb_typeof(item) <> 'object' OR jsonb_typeof(item -> 'pattern') IS DISTINCT FROM 'string' THEN
			RAISE EXCEPTION 'config: key "cache" must be an array of objects with a "pattern"' USING ERRCODE = 'invalid_parameter_value';
		END IF;
		PERFORM orion_private.pattern_check(item ->> 'pattern');
		PERFORM orion_private.cache_rule_check(item - 'pattern', false);
	END LOOP;
	PERFORM orion_private.cache_dependencies_check(coalesce(config -> 'dependencies', '{}'));
END
$fn$;
COMMENT ON FUNCTION orion_private.redis_check(jsonb) IS 'Refuses configurations of a Redis sink that cannot be right';
REVOKE ALL ON FUNCTION orion_private.redis_check(jsonb) FROM PUBLIC;

-- What can be said about a configuration without asking the sink.
CREATE FUNCTION orion_private.sink_check(kind text, config jsonb) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	address text;
BEGIN
	IF kind IS NULL OR kind NOT IN ('redis', 'rabbitmq', 'kafka') THEN
		RAISE EXCEPTION 'unknown kind of sink: "%"', kind
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'The kinds are redis, rabbitmq and kafka; SQL handlers are added with orion_subscribe(), webhooks with orion_webhook_create().';
	END IF;
	address := CASE kind WHEN 'kafka' THEN 'brokers' ELSE 'url' END;
	IF config IS NULL OR jsonb_typeof(config) <> 'object' OR jsonb_typeof(config -> address) IS DISTINCT FROM 'string' THEN
		RAISE EXCEPTION 'the configuration of a sink must be an object with a "%"', address
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'For example ' || CASE kind
					WHEN 'redis' THEN '{"url": "redis://localhost:6379/0"}.'
					WHEN 'rabbitmq' THEN '{"url": "amqp://user:password@localhost:5672/"}.'
					ELSE '{"brokers": "localhost:9092"}.' END;
	END IF;
	IF kind = 'redis' THEN
		PERFORM orion_private.redis_check(config);
	ELSIF kind = 'rabbitmq' THEN
		PERFORM orion_private.config_check(config, '{"url": "string", "hosts": "array", "tls": "object", "source": "string",
			"exchanges": "array", "queues": "array", "bindings": "array"}');
		PERFORM orion_private.tls_check(config, 'amqp');
	END IF;
END
$fn$;
COMMENT ON FUNCTION orion_private.sink_check(text, jsonb) IS 'Refuses kinds and configurations of sinks that cannot be right';
REVOKE ALL ON FUNCTION orion_private.sink_check(text, jsonb) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_sink_create(name text, kind text, config jsonb, pattern text DEFAULT '#')
	RETURNS int
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	id int;
BEGIN
	PERFORM orion_private.sink_check(kind, config);
	id := orion_private.sink_add(name, kind, pattern, orion_private.sink_seal(config, name), NULL, NULL);
	PERFORM orion_private.audit('sink.create', 'sink', name, new => jsonb_build_object('kind', kind, 'pattern', pattern));
	RETURN id;
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_sink_create(text, text, jsonb, text)
	IS 'Adds a sink (redis, rabbitmq, kafka) for the events from now on whose type matches the pattern; returns its id';

-- The relay reads the sink anew at commit: what it has not sent yet goes the new way.
CREATE FUNCTION @extschema@.orion_sink_alter(name text, pattern text DEFAULT NULL, config jsonb DEFAULT NULL)
	RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	sink orion_private.sinks;
BEGIN
	SELECT * INTO sink FROM orion_private.sinks s WHERE s.name = orion_sink_alter.name FOR UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no sink named "%"', name USING ERRCODE = 'undefined_object';
	END IF;
	IF pattern IS NOT NULL THEN
		PERFORM orion_private.pattern_check(pattern);
	END IF;
	IF config IS NOT NULL AND sink.kind = 'sql' THEN
		RAISE EXCEPTION 'a SQL handler has no configuration'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Subscriptions are changed with orion_subscribe_alter().';
	ELSIF config IS NOT NULL THEN
		PERFORM orion_private.sink_check(sink.kind, config);
	END IF;
	UPDATE orion_private.sinks s SET
		pattern = coalesce(orion_sink_alter.pattern, s.pattern),
		config = CASE WHEN orion_sink_alter.config IS NULL THEN s.config
			ELSE orion_private.sink_seal(orion_sink_alter.config, s.name) END
		WHERE s.id = sink.id;
	-- the configuration holds passwords: only that it changed is said
	PERFORM orion_private.audit('sink.alter', 'sink', name,
		old => jsonb_build_object('pattern', sink.pattern),
		new => jsonb_build_object('pattern', coalesce(pattern, sink.pattern), 'config', config IS NOT NULL));
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_sink_alter(text, text, jsonb)
	IS 'Gives a sink another pattern, another configuration, or both; it goes on from where it is';

CREATE FUNCTION @extschema@.orion_sink_pause(name text) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	UPDATE orion_private.sinks s SET paused = true WHERE s.name = orion_sink_pause.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no sink named "%"', name USING ERRCODE = 'undefined_object';
	END IF;
	PERFORM orion_private.audit('sink.pause', 'sink', name);
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_sink_pause(text) IS 'Stops sending events to a sink; they wait';

CREATE FUNCTION @extschema@.orion_sink_resume(name text) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	UPDATE orion_private.sinks s SET paused = false WHERE s.name = orion_sink_resume.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no sink named "%"', name USING ERRCODE = 'undefined_object';
	END IF;
	PERFORM orion_private.audit('sink.resume', 'sink', name);
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_sink_resume(text) IS 'Sends events to a paused sink again, from where it was';

CREATE FUNCTION @extschema@.orion_sink_drop(name text) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	DELETE FROM orion_private.sinks s WHERE s.name = orion_sink_drop.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no sink named "%"', name USING ERRCODE = 'undefined_object';
	END IF;
	PERFORM orion_private.audit('sink.drop', 'sink', name);
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_sink_drop(text) IS 'Removes a sink, its position and its dead letters';

-- In C, because only there the immediate caller is known: the handler runs as that role.
CREATE FUNCTION @extschema@.orion_subscribe(name text, pattern text, handler regprocedure,
	workers int DEFAULT 1, batch int DEFAULT 100, max_attempts int DEFAULT NULL, timeout interval DEFAULT NULL)
	RETURNS int
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_subscribe';
COMMENT ON FUNCTION @extschema@.orion_subscribe(text, text, regprocedure, int, int, int, interval)
	IS 'Calls handler(event jsonb) as the current role for each event from now on whose type matches the pattern, exactly once; returns the sink''s id';

CREATE FUNCTION @extschema@.orion_unsubscribe(name text) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_unsubscribe';
COMMENT ON FUNCTION @extschema@.orion_unsubscribe(text) IS 'Ends a subscription of one''s own, or of anybody for members of orion_admin';

REVOKE ALL ON FUNCTION
	@extschema@.orion_sink_create(text, text, jsonb, text),
	@extschema@.orion_sink_alter(text, text, jsonb),
	@extschema@.orion_sink_pause(text),
	@extschema@.orion_sink_resume(text),
	@extschema@.orion_sink_drop(text),
	@extschema@.orion_subscribe(text, text, regprocedure, int, int, int, interval),
	@extschema@.orion_unsubscribe(text)
	FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
	@extschema@.orion_sink_create(text, text, jsonb, text),
	@extschema@.orion_sink_alter(text, text, jsonb),
	@extschema@.orion_sink_pause(text),
	@extschema@.orion_sink_resume(text),
	@extschema@.orion_sink_drop(text)
	TO orion_admin;
GRANT EXECUTE ON FUNCTION
	@extschema@.orion_subscribe(text, text, regprocedure, int, int, int, interval),
	@extschema@.orion_unsubscribe(text)
	TO orion_admin, orion_service;

-- src/operate/operate.sql

-- Operating the outbox: what is going on, and what an administrator can do about it.
--
-- Whoever moves a cursor here counts up its epoch: the relay, which works by the cursor it
-- has read, then fails to store it and starts anew (see src/outbox/cursor.c).  Everything
-- here is on the audit log.

CREATE FUNCTION orion_private.topic_matches(pattern text, type text) RETURNS boolean
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_topic_matches';
COMMENT ON FUNCTION orion_private.topic_matches(text, text) IS 'True when the type of an event matches the pattern';
REVOKE ALL ON FUNCTION orion_private.topic_matches(text, text) FROM PUBLIC;

CREATE FUNCTION orion_private.sink_part(key text, workers int) RETURNS int
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_sink_part';
COMMENT ON FUNCTION orion_private.sink_part(text, int) IS 'Which of the workers of a SQL handler has a key';
REVOKE ALL ON FUNCTION orion_private.sink_part(text, int) FROM PUBLIC;

-- The sink with this name, locked against the other functions here.
CREATE FUNCTION orion_private.sink_named(name text) RETURNS orion_private.sinks
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	sink orion_private.sinks;
BEGIN
	SELECT * INTO sink FROM orion_private.sinks s WHERE s.name = sink_named.name FOR UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no sink named "%"', name USING ERRCODE = 'undefined_object';
	END IF;
	RETURN sink;
END
$fn$;
COMMENT ON FUNCTION orion_private.sink_named(text) IS 'The sink with this name, locked; an error when there is none';
REVOKE ALL ON FUNCTION orion_private.sink_named(text) FROM PUBLIC;

-- The relays of a sink look at it anew after the commit.
CREATE FUNCTION orion_private.sink_touch(sink_id int) RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$ UPDATE orion_private.sinks SET paused = paused WHERE id = sink_id $fn$;
COMMENT ON FUNCTION orion_private.sink_touch(int) IS 'Has the relays of a sink look at it anew';
REVOKE ALL ON FUNCTION orion_private.sink_touch(int) FROM PUBLIC;

-- Of each key with parked events the first is called next, the others wait for it.
CREATE FUNCTION orion_private.parked_order(sink int, keys text[]) RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
	UPDATE orion_private.parked p SET next_try_at = CASE WHEN (p.window_no, p.seq) = (
			SELECT f.window_no, f.seq FROM orion_private.parked f
			WHERE f.sink_id = p.sink_id AND f.part = p.part AND f.key = p.key
			ORDER BY f.window_no, f.seq LIMIT 1) THEN now() END
		WHERE p.sink_id = sink AND p.key = ANY (keys)
	$fn$;
COMMENT ON FUNCTION orion_private.parked_order(int, text[]) IS 'Makes the first parked event of each of these keys due, and no other';
REVOKE ALL ON FUNCTION orion_private.parked_order(int, text[]) FROM PUBLIC;

-- As src/outbox/event.c makes it.
CREATE FUNCTION orion_private.outbox_envelope(o orion_private.outbox) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	SET timezone = 'UTC'
	AS $fn$
	SELECT jsonb_build_object('eventId', o.id, 'eventType', o.type, 'version', o.version, 'timestamp', o.occurred_at,
		'correlationId', o.correlation_id, 'causationId', o.causation_id,
		'aggregateType', o.aggregatetype, 'aggregateId', o.aggregateid, 'metadata', o.metadata, 'payload', o.payload)
	$fn$;
COMMENT ON FUNCTION orion_private.outbox_envelope(orion_private.outbox) IS 'What handlers and sinks get of an event';
REVOKE ALL ON FUNCTION orion_private.outbox_envelope(orion_private.outbox) FROM PUBLIC;

-- The event that a cursor would send next, as an envelope; null when there is none in its
-- window.  Relays that work meanwhile are ahead of what is stored.
CREATE FUNCTION orion_private.cursor_next(sink orion_private.sinks, c orion_private.cursors, OUT seq bigint, OUT event jsonb)
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	SET timezone = 'UTC'
	AS $fn$
BEGIN
	IF c.upto_snapshot IS NULL THEN
		RETURN;
	ELSIF c.kind = 2 THEN
		SELECT r.seq, r.event INTO cursor_next.seq, cursor_next.event FROM orion_private.redrives r
			WHERE r.sink_id = sink.id AND r.window_no = c.window_no AND r.seq > c.seq
			ORDER BY r.seq LIMIT 1;
		RETURN;
	END IF;
	SELECT o.seq, orion_private.outbox_envelope(o)
		INTO cursor_next.seq, cursor_next.event
		FROM orion_private.outbox o
		WHERE o.seq > c.seq AND (c.kind = 0 OR o.seq <= c.last_seq)
			AND (c.kind = 1 OR NOT pg_visible_in_snapshot(o.xid, c.from_snapshot))
			AND pg_visible_in_snapshot(o.xid, c.upto_snapshot)
			AND orion_private.topic_matches(sink.pattern, o.type)
			AND orion_private.sink_part(coalesce(o.aggregatetype || '/' || o.aggregateid, '/' || o.aggregateid, o.id::text),
				sink.workers) = c.part
			AND (c.kind = 0 OR EXISTS (SELECT FROM orion_private.replays r WHERE r.id = c.replay_id
				AND o.occurred_at >= r.from_time AND o.occurred_at < r.to_time
				AND orion_private.topic_matches(r.pattern, o.type)))
		ORDER BY o.seq LIMIT 1;
END
$fn$;
COMMENT ON FUNCTION orion_private.cursor_next(orion_private.sinks, orion_private.cursors) IS 'The event that a cursor would send next';
REVOKE ALL ON FUNCTION orion_private.cursor_next(orion_private.sinks, orion_private.cursors) FROM PUBLIC;

-- A failing event of a SQL handler that is parked: to the dead letters with it.
CREATE FUNCTION orion_private.skip_parked(sink orion_private.sinks) RETURNS uuid
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	head orion_private.parked;
BEGIN
	SELECT * INTO head FROM orion_private.parked p WHERE p.sink_id = sink.id AND p.next_try_at IS NOT NULL
		ORDER BY p.attempts DESC, p.window_no, p.seq LIMIT 1 FOR UPDATE;
	IF NOT FOUND THEN
		RETURN NULL;
	END IF;
	DELETE FROM orion_private.parked p
		WHERE p.sink_id = head.sink_id AND p.part = head.part AND p.window_no = head.window_no AND p.seq = head.seq;
	INSERT INTO orion_private.dead_letters (sink_id, part, position, key, event, attempts, error)
		VALUES (head.sink_id, head.part, format('%s:%s', head.window_no, head.seq), head.key, head.event, head.attempts,
			concat_ws(': ', 'skipped', head.last_error))
		ON CONFLICT (sink_id, part, position) DO UPDATE SET attempts = excluded.attempts, error = excluded.error;
	PERFORM orion_private.parked_order(head.sink_id, ARRAY[head.key]);
	RETURN head.event ->> 'eventId';
END
$fn$;
COMMENT ON FUNCTION orion_private.skip_parked(orion_private.sinks) IS 'Makes the parked event with the most attempts a dead letter; null when none is parked';
REVOKE ALL ON FUNCTION orion_private.skip_parked(orion_private.sinks) FROM PUBLIC;

-- The event that is next, in a sink that does not get on.
CREATE FUNCTION orion_private.skip_next(sink orion_private.sinks) RETURNS uuid
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	c orion_private.cursors;
	next record;
BEGIN
	IF NOT sink.paused AND NOT EXISTS (SELECT FROM orion_private.workers() w
			WHERE w.kind = 'relay' AND w.sink_id = sink.id AND (w.state <> 'running' OR w.attempts > 0 OR w.last_error IS NOT NULL)) THEN
		RAISE EXCEPTION 'no event of sink "%" is failing', sink.name
			USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'To skip the next event all the same, pause the sink first.';
	END IF;
	FOR c IN SELECT * FROM orion_private.cursors x WHERE x.sink_id = sink.id ORDER BY x.window_no, x.seq FOR UPDATE LOOP
		next := orion_private.cursor_next(sink, c);
		CONTINUE WHEN next.seq IS NULL;
		INSERT INTO orion_private.dead_letters (sink_id, part, position, key, event, attempts, error)
			VALUES (sink.id, c.part, format('%s:%s', c.window_no, next.seq),
				CASE WHEN sink.kind = 'sql' THEN coalesce(next.event ->> 'aggregateType', '') || '/' || (next.event ->> 'aggregateId') END,
				next.event, 0, 'skipped')
			ON CONFLICT (sink_id, part, position) DO NOTHING;
		UPDATE orion_private.cursors x SET seq = next.seq, epoch = epoch + 1, updated_at = now(),
			passed_seq = CASE WHEN c.kind = 0 THEN greatest(passed_seq, next.seq) ELSE passed_seq END
			WHERE x.sink_id = c.sink_id AND x.part = c.part;
		RETURN next.event ->> 'eventId';
	END LOOP;
	RAISE EXCEPTION 'sink "%" is sending nothing', sink.name USING ERRCODE = 'object_not_in_prerequisite_state',
		HINT = 'To leave out all that was published until now, give "now" as the position.';
END
$fn$;
COMMENT ON FUNCTION orion_private.skip_next(orion_private.sinks) IS 'Makes the next event of a sink that does not get on a dead letter';
REVOKE ALL ON FUNCTION orion_private.skip_next(orion_private.sinks) FROM PUBLIC;

CREATE FUNCTION orion_private.skip_to_now(sink orion_private.sinks) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	start pg_snapshot := orion_private.outbox_now();
	last_drawn bigint := (SELECT s.last_value FROM orion_private.outbox_seq s);
BEGIN
	-- dead letters on their way go back to where they were
	WITH gone AS (
		DELETE FROM orion_private.redrives r USING orion_private.cursors c
			WHERE r.sink_id = sink.id AND c.sink_id = r.sink_id AND c.part = 0
				AND (r.window_no IS NULL OR r.window_no = c.window_no AND c.kind = 2 AND c.upto_snapshot IS NOT NULL AND r.seq > c.seq)
			RETURNING r.*)
	INSERT INTO orion_private.dead_letters (sink_id, position, event, attempts, error)
		SELECT g.sink_id, format('redrive:%s', g.seq), g.event, 1, 'skipped' FROM gone g;
	DELETE FROM orion_private.replays r WHERE r.sink_id = sink.id AND (r.next_seq <= r.to_seq
		OR EXISTS (SELECT FROM orion_private.cursors c WHERE c.replay_id = r.id AND c.kind = 1 AND c.upto_snapshot IS NOT NULL));
	UPDATE orion_private.cursors c SET from_snapshot = start, upto_snapshot = NULL, kind = 0, epoch = epoch + 1, updated_at = now(),
		seq = last_drawn, passed_seq = last_drawn
		WHERE c.sink_id = sink.id;
END
$fn$;
COMMENT ON FUNCTION orion_private.skip_to_now(orion_private.sinks) IS 'Leaves out all that was published until now';
REVOKE ALL ON FUNCTION orion_private.skip_to_now(orion_private.sinks) FROM PUBLIC;

CREATE FUNCTION orion_private.skip_to_position(sink orion_private.sinks, upto text) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	UPDATE orion_private.cursors c SET seq = split_part(upto, ':', 2)::bigint, epoch = epoch + 1, updated_at = now(),
		passed_seq = CASE WHEN c.kind = 0 THEN greatest(passed_seq, split_part(upto, ':', 2)::bigint) ELSE passed_seq END
		WHERE c.sink_id = sink.id AND c.upto_snapshot IS NOT NULL
			AND c.window_no = split_part(upto, ':', 1)::bigint AND c.seq < split_part(upto, ':', 2)::bigint
			AND split_part(upto, ':', 2)::bigint <= (SELECT s.last_value FROM orion_private.outbox_seq s);
	IF NOT FOUND THEN
		RAISE EXCEPTION 'position % is not ahead in what sink "%" is sending', upto, sink.name
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'orion.sinks.position tells where it is: a window and a number in it. Another form is "now".';
	END IF;
END
$fn$;
COMMENT ON FUNCTION orion_private.skip_to_position(orion_private.sinks, text) IS 'Leaves out what comes before a position of the open window, and that itself';
REVOKE ALL ON FUNCTION orion_private.skip_to_position(orion_private.sinks, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_skip(sink text, upto text DEFAULT NULL) RETURNS uuid
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	target orion_private.sinks := orion_private.sink_named(sink);
	skipped uuid;
BEGIN
	IF upto IS NULL THEN
		IF target.kind = 'sql' THEN
			skipped := orion_private.skip_parked(target);
		END IF;
		skipped := coalesce(skipped, orion_private.skip_next(target));
	ELSIF upto = 'now' THEN
		PERFORM orion_private.skip_to_now(target);
	ELSIF upto ~ '^\d{1,18}:\d{1,18}(:[0-9a-f]{16})?$' THEN
		PERFORM orion_private.skip_to_position(target, upto);
	ELSE
		RAISE EXCEPTION 'invalid position: "%"', upto
			USING ERRCODE = 'invalid_parameter_value', HINT = 'A position is <window>:<seq>, as in orion.sinks, or "now".';
	END IF;
	PERFORM orion_private.sink_touch(target.id);
	PERFORM orion_private.audit('sink.skip', 'sink', sink,
		metadata => jsonb_build_object('role', orion_private.caller()::regrole, 'event', skipped, 'upto', upto));
	RETURN skipped;
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_skip(text, text)
	IS 'Skips the event that holds up a sink, which becomes a dead letter, and returns its id; or skips all up to a position, or up to "now"';

-- Another number of workers for a SQL handler; its cursors are locked, and nobody replays.
-- Snapshots of one server lie in one another, so the largest one that any of the cursors has
-- takes in all that any of them has delivered.  It is where the new cursors begin.  What a
-- worker has not handled before it is parked, in its order, with the worker that has the key
-- now.  One cursor alone is just copied: nobody is behind it.
CREATE FUNCTION orion_private.sink_divide(sink orion_private.sinks, new_workers int) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	SET timezone = 'UTC'
	AS $fn$
DECLARE
	target pg_snapshot;
	keys text[];
BEGIN
	IF sink.workers > 1 THEN
		SELECT x.s INTO target
			FROM orion_private.cursors c, LATERAL (SELECT coalesce(c.upto_snapshot, c.from_snapshot) AS s) x
			WHERE c.sink_id = sink.id
			ORDER BY pg_snapshot_xmax(x.s) DESC, (SELECT count(*) FROM pg_snapshot_xip(x.s)) LIMIT 1;
		INSERT INTO orion_private.parked (sink_id, part, window_no, seq, key, event, attempts)
			SELECT c.sink_id, c.part, CASE WHEN pg_visible_in_snapshot(o.xid, c.upto_snapshot) THEN c.window_no ELSE c.window_no + 1 END,
				o.seq, k.key, orion_private.outbox_envelope(o), 0
			FROM orion_private.cursors c
			JOIN orion_private.outbox o ON o.xid >= pg_snapshot_xmin(c.from_snapshot) AND NOT pg_visible_in_snapshot(o.xid, c.from_snapshot)
			CROSS JOIN LATERAL (SELECT coalesce(o.aggregatetype || '/' || o.aggregateid, '/' || o.aggregateid) AS key) k
			WHERE c.sink_id = sink.id AND pg_visible_in_snapshot(o.xid, target)
				AND NOT coalesce(o.seq <= c.seq AND pg_visible_in_snapshot(o.xid, c.upto_snapshot), false)
				AND orion_private.topic_matches(sink.pattern, o.type)
				AND orion_private.sink_part(coalesce(k.key, o.id::text), sink.workers) = c.part;
	END IF;
	UPDATE orion_private.parked p SET part = orion_private.sink_part(coalesce(p.key, p.event ->> 'eventId'), new_workers),
		next_try_at = CASE WHEN p.key IS NULL THEN coalesce(p.next_try_at, now()) ELSE p.next_try_at END
		WHERE p.sink_id = sink.id;
	UPDATE orion_private.dead_letters d SET part = orion_private.sink_part(coalesce(d.key, d.event ->> 'eventId'), new_workers)
		WHERE d.sink_id = sink.id;
	-- a key whose first event waits for nothing but its turn
	SELECT array_agg(DISTINCT p.key) INTO keys FROM orion_private.parked p WHERE p.sink_id = sink.id AND p.key IS NOT NULL
		AND NOT EXISTS (SELECT FROM orion_private.parked f WHERE f.sink_id = p.sink_id AND f.key = p.key AND f.next_try_at IS NOT NULL);
	PERFORM orion_private.parked_order(sink.id, keys);
	WITH old AS (DELETE FROM orion_private.cursors c WHERE c.sink_id = sink.id RETURNING c.*)
	INSERT INTO orion_private.cursors (sink_id, part, epoch, from_snapshot, upto_snapshot, window_no, tag, seq, passed_seq, delivered)
		SELECT sink.id, p.part, max(o.epoch) + 1,
			coalesce(target, (array_agg(o.from_snapshot))[1]),
			CASE WHEN target IS NULL THEN (array_agg(o.upto_snapshot))[1] END,
			max(o.window_no) + CASE WHEN target IS NULL THEN 0 ELSE 1 END,
			max(o.tag), max(o.seq), max(o.passed_seq), CASE WHEN p.part = 0 THEN sum(o.delivered) ELSE 0 END
		FROM old o, generate_series(0, new_workers - 1) AS p (part)
		GROUP BY p.part;
END
$fn$;
COMMENT ON FUNCTION orion_private.sink_divide(orion_private.sinks, int) IS 'Divides the keys of a SQL handler among another number of workers';
REVOKE ALL ON FUNCTION orion_private.sink_divide(orion_private.sinks, int) FROM PUBLIC;

-- For orion_subscribe_alter; what is null stays.  A relay holds its cursor's row when it parks an event, which
-- refers to the sink: so no stronger lock than NO KEY UPDATE on the sink while the cursors are waited for.
CREATE FUNCTION orion_private.subscription_alter(sink_id int, pattern text, handler text, handler_role regrole,
	workers int, batch int, max_attempts int, timeout interval)
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	old orion_private.sinks;
	new orion_private.sinks;
BEGIN
	IF pattern IS NOT NULL THEN
		PERFORM orion_private.pattern_check(pattern);
	END IF;
	PERFORM orion_private.subscription_check(workers, batch, max_attempts, timeout);
	SELECT * INTO STRICT old FROM orion_private.sinks s WHERE s.id = subscription_alter.sink_id FOR NO KEY UPDATE;
	IF workers <> old.workers THEN
		PERFORM FROM orion_private.cursors c WHERE c.sink_id = old.id ORDER BY c.part FOR UPDATE;
		LOCK TABLE orion_private.sinks IN SHARE ROW EXCLUSIVE MODE;
		PERFORM orion_private.sinks_room(workers - old.workers);
		IF EXISTS (SELECT FROM orion_private.replays r WHERE r.sink_id = old.id AND r.next_seq <= r.to_seq)
			OR EXISTS (SELECT FROM orion_private.cursors c WHERE c.sink_id = old.id AND c.kind <> 0 AND c.upto_snapshot IS NOT NULL) THEN
			RAISE EXCEPTION 'a replay of "%" is under way', old.name USING ERRCODE = 'object_not_in_prerequisite_state',
				HINT = 'The number of workers can be changed when it is over; see orion.replays.';
		END IF;
	END IF;
	UPDATE orion_private.sinks s SET
		pattern = coalesce(subscription_alter.pattern, s.pattern),
		handler = coalesce(subscription_alter.handler, s.handler),
		handler_role = CASE WHEN subscription_alter.handler IS NULL THEN s.handler_role ELSE subscription_alter.handler_role END,
		workers = coalesce(subscription_alter.workers, s.workers),
		batch = coalesce(subscription_alter.batch, s.batch),
		max_attempts = coalesce(subscription_alter.max_attempts, s.max_attempts),
		timeout_ms = coalesce(extract(epoch FROM timeout) * 1000, s.timeout_ms)
		WHERE s.id = old.id
		RETURNING * INTO new;
	IF new.workers <> old.workers THEN
		-- by the new pattern, with the old division
		new.workers := old.workers;
		PERFORM orion_private.sink_divide(new, workers);
		new.workers := workers;
	END IF;
	PERFORM orion_private.audit('sink.alter', 'sink', old.name,
		old => jsonb_build_object('pattern', old.pattern, 'handler', old.handler, 'role', old.handler_role, 'workers', old.workers,
			'batch', old.batch, 'maxAttempts', old.max_attempts, 'timeoutMs', old.timeout_ms),
		new => jsonb_build_object('pattern', new.pattern, 'handler', new.handler, 'role', new.handler_role, 'workers', new.workers,
			'batch', new.batch, 'maxAttempts', new.max_attempts, 'timeoutMs', new.timeout_ms));
END
$fn$;
COMMENT ON FUNCTION orion_private.subscription_alter(int, text, text, regrole, int, int, int, interval) IS 'Changes a subscription';
REVOKE ALL ON FUNCTION orion_private.subscription_alter(int, text, text, regrole, int, int, int, interval) FROM PUBLIC;

-- In C, because only there the immediate caller is known: a new handler runs as that role.
CREATE FUNCTION @extschema@.orion_subscribe_alter(name text, pattern text DEFAULT NULL, handler regprocedure DEFAULT NULL,
	workers int DEFAULT NULL, batch int DEFAULT NULL, max_attempts int DEFAULT NULL, timeout interval DEFAULT NULL)
	RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_subscribe_alter';
COMMENT ON FUNCTION @extschema@.orion_subscribe_alter(text, text, regprocedure, int, int, int, interval)
	IS 'Changes what is given of a subscription of one''s own, or of anybody for members of orion_admin; it goes on from where it is. A new handler runs as the current role';
REVOKE ALL ON FUNCTION @extschema@.orion_subscribe_alter(text, text, regprocedure, int, int, int, interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_subscribe_alter(text, text, regprocedure, int, int, int, interval) TO orion_admin, orion_service;

-- Dead letters, in the order in which they died, to their handlers or couriers.
CREATE FUNCTION orion_private.redrive(sink orion_private.sinks, letters bigint[]) RETURNS bigint
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	redriven bigint;
	touched_keys text[];
BEGIN
	IF sink.kind = 'sql' THEN
		WITH gone AS (DELETE FROM orion_private.dead_letters d WHERE d.sink_id = sink.id AND d.id = ANY (letters) RETURNING d.*),
		back AS (INSERT INTO orion_private.parked (sink_id, part, window_no, seq, key, event, attempts, next_try_at)
			SELECT g.sink_id, g.part, split_part(g.position, ':', 1)::bigint, split_part(g.position, ':', 2)::bigint, g.key, g.event, 0, now()
			FROM gone g
			ON CONFLICT DO NOTHING
			RETURNING key)
		SELECT count(*), array_agg(DISTINCT b.key) FILTER (WHERE b.key IS NOT NULL) INTO redriven, touched_keys FROM back b;
		PERFORM orion_private.parked_order(sink.id, touched_keys);
	ELSE
		WITH gone AS (DELETE FROM orion_private.dead_letters d WHERE d.sink_id = sink.id AND d.id = ANY (letters) RETURNING d.*),
		back AS (INSERT INTO orion_private.redrives (sink_id, event)
			SELECT g.sink_id, g.event FROM (SELECT * FROM gone ORDER BY id) g RETURNING 1)
		SELECT count(*) INTO redriven FROM back;
		DELETE FROM orion_private.redrives r USING orion_private.cursors c
			WHERE r.sink_id = sink.id AND c.sink_id = r.sink_id AND r.window_no < c.window_no AND r.queued_at < now() - interval '1 hour';
	END IF;
	PERFORM orion_private.sink_touch(sink.id);
	RETURN redriven;
END
$fn$;
COMMENT ON FUNCTION orion_private.redrive(orion_private.sinks, bigint[]) IS 'Sends dead letters of a sink again; returns how many';
REVOKE ALL ON FUNCTION orion_private.redrive(orion_private.sinks, bigint[]) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_redrive(dead_letter bigint) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	sink text;
	redriven bigint;
BEGIN
	SELECT s.name INTO sink FROM orion_private.dead_letters d JOIN orion_private.sinks s ON s.id = d.sink_id WHERE d.id = dead_letter;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no dead letter %', dead_letter USING ERRCODE = 'undefined_object';
	END IF;
	redriven := orion_private.redrive(orion_private.sink_named(sink), ARRAY[dead_letter]);
	PERFORM orion_private.audit('sink.redrive', 'sink', sink,
		metadata => jsonb_build_object('role', orion_private.caller()::regrole, 'dead_letter', dead_letter, 'events', redriven));
	RETURN redriven;
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_redrive(bigint) IS 'Sends a dead letter to its sink again';

CREATE FUNCTION @extschema@.orion_redrive(sink text, pattern text DEFAULT '#', max int DEFAULT NULL) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	target orion_private.sinks := orion_private.sink_named(sink);
	redriven bigint;
BEGIN
	PERFORM orion_private.pattern_check(pattern);
	redriven := orion_private.redrive(target, ARRAY(SELECT d.id FROM orion_private.dead_letters d
		WHERE d.sink_id = target.id AND orion_private.topic_matches(pattern, d.event ->> 'eventType')
		ORDER BY d.id LIMIT max));
	PERFORM orion_private.audit('sink.redrive', 'sink', sink,
		metadata => jsonb_build_object('role', orion_private.caller()::regrole, 'pattern', pattern, 'events', redriven));
	RETURN redriven;
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_redrive(text, text, int)
	IS 'Sends the dead letters of a sink again whose type matches the pattern, the oldest first and at most max; returns how many';

-- Only what the sink was given before: what it waits for comes anyway.  The segments are
-- locked by the scan until the replay is there, which keeps them from being truncated.
CREATE FUNCTION @extschema@.orion_replay(sink text, "from" timestamptz, "to" timestamptz DEFAULT 'infinity', pattern text DEFAULT '#')
	RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	target orion_private.sinks := orion_private.sink_named(sink);
	retained timestamptz;
	c orion_private.cursors;
	range record;
	replayed bigint := 0;
BEGIN
	PERFORM orion_private.pattern_check(pattern);
	IF "from" IS NULL OR "to" IS NULL OR "from" >= "to" THEN
		RAISE EXCEPTION 'a replay goes from an earlier to a later time' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	FOR c IN SELECT * FROM orion_private.cursors x WHERE x.sink_id = target.id ORDER BY x.part LOOP
		SELECT count(*) AS events, min(o.seq) AS first, max(o.seq) AS last INTO range
			FROM orion_private.outbox o
			WHERE o.occurred_at >= "from" AND o.occurred_at < "to" AND pg_visible_in_snapshot(o.xid, c.from_snapshot)
				AND orion_private.topic_matches(target.pattern, o.type) AND orion_private.topic_matches(orion_replay.pattern, o.type)
				AND orion_private.sink_part(coalesce(o.aggregatetype || '/' || o.aggregateid, '/' || o.aggregateid, o.id::text),
					target.workers) = c.part;
		CONTINUE WHEN range.events = 0;
		INSERT INTO orion_private.replays (sink_id, part, pattern, from_time, to_time, from_seq, next_seq, to_seq, upto_snapshot)
			VALUES (target.id, c.part, pattern, "from", "to", range.first, range.first, range.last, c.from_snapshot);
		replayed := replayed + range.events;
	END LOOP;
	SELECT r.since INTO retained FROM orion_private.outbox_retained r;
	IF "from" < retained THEN
		RAISE EXCEPTION 'events of that time are no longer retained' USING ERRCODE = 'invalid_parameter_value',
			DETAIL = format('The outbox has all events since %s.', retained),
			HINT = 'orion.outbox_retention says how long events are kept.';
	END IF;
	DELETE FROM orion_private.replays r WHERE r.next_seq > r.to_seq AND r.requested_at < now() - interval '1 day'
		AND NOT EXISTS (SELECT FROM orion_private.cursors x WHERE x.replay_id = r.id);
	PERFORM orion_private.sink_touch(target.id);
	PERFORM orion_private.audit('sink.replay', 'sink', sink, metadata => jsonb_build_object(
		'role', orion_private.caller()::regrole, 'from', "from", 'to', "to", 'pattern', pattern, 'events', replayed));
	RETURN replayed;
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_replay(text, timestamptz, timestamptz, text)
	IS 'Sends events of a time to a sink once more, marked with metadata.replayed, beside what is new; returns how many';

REVOKE ALL ON FUNCTION
	@extschema@.orion_skip(text, text),
	@extschema@.orion_redrive(bigint),
	@extschema@.orion_redrive(text, text, int),
	@extschema@.orion_replay(text, timestamptz, timestamptz, text)
	FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
	@extschema@.orion_skip(text, text),
	@extschema@.orion_redrive(bigint),
	@extschema@.orion_redrive(text, text, int),
	@extschema@.orion_replay(text, timestamptz, timestamptz, text)
	TO orion_admin;

-- What administrators read.  The configuration is not in it: it holds passwords.
GRANT SELECT (id, name, kind, pattern, paused, handler, handler_role, workers, created_at) ON orion_private.sinks TO orion_admin, pg_monitor;
GRANT SELECT (sink_id, part, from_snapshot, upto_snapshot, window_no, seq, passed_seq, delivered, updated_at)
	ON orion_private.cursors TO orion_admin, pg_monitor;
GRANT SELECT (seq, occurred_at) ON orion_private.outbox TO orion_admin, pg_monitor;
GRANT SELECT ON orion_private.outbox_seq, orion_private.outbox_state, orion_private.outbox_retained TO orion_admin, pg_monitor;
GRANT SELECT ON orion_private.dead_letters, orion_private.replays TO orion_admin;
GRANT SELECT (sink_id) ON orion_private.dead_letters TO pg_monitor;
GRANT SELECT (sink_id, part, seq, window_no, key, attempts, next_try_at, last_error, event) ON orion_private.parked TO orion_admin;
GRANT SELECT (sink_id) ON orion_private.parked TO pg_monitor;

-- Positions and lag come from the tables, so that they are right when no relay runs; a running
-- relay knows more about a window in which late commits are, and whether what came since its
-- position was stored is of interest to its sink at all.  Reading this costs a few index
-- look-ups a sink: numbers are drawn, not counted, and at most 1,000 rows are.  When no segment
-- is free, those who hold some of them are not well, whatever their relay says.
CREATE VIEW orion.sinks WITH (security_invoker = true) AS
	SELECT s.id, s.name, s.kind, s.pattern, s.paused, s.handler, s.handler_role, s.workers,
		CASE WHEN s.paused THEN 'paused' WHEN pg_catalog.pg_is_in_recovery() THEN 'standby'
			WHEN h.alarm IS NOT NULL AND w.state OPERATOR(pg_catalog.=) 'running' THEN 'degraded'
			ELSE coalesce(w.state, 'stopped') END AS state,
		pg_catalog.format('%s:%s', c.window_no, c.seq) AS position, c.window_no, c.seq, c.delivered, c.updated_at,
		CASE WHEN o.seq IS NOT NULL AND w.caught_up IS NOT TRUE THEN greatest(w.lag_events, n.last_value OPERATOR(pg_catalog.-) c.passed_seq)
			ELSE coalesce(w.lag_events, 0) END AS lag_events,
		greatest(coalesce(CASE WHEN w.caught_up IS NOT TRUE THEN pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) o.occurred_at END,
				w.lag, pg_catalog.make_interval()),
			pg_catalog.make_interval()) AS lag,
		coalesce(w.rate, 0) AS rate, coalesce(w.attempts, 0) AS attempts,
		coalesce(h.alarm OPERATOR(pg_catalog.||) '; ' OPERATOR(pg_catalog.||) w.last_error, h.alarm, w.last_error) AS last_error,
		(SELECT pg_catalog.count(*) FROM (SELECT FROM orion_private.parked p
			WHERE p.sink_id OPERATOR(pg_catalog.=) s.id LIMIT 1000) x) AS parked,
		(SELECT pg_catalog.count(*) FROM (SELECT FROM orion_private.dead_letters d
			WHERE d.sink_id OPERATOR(pg_catalog.=) s.id LIMIT 1000) x) AS dead_letters,
		h.segments AS segments_held
	FROM orion_private.sinks s
	CROSS JOIN orion_private.outbox_seq n
	JOIN LATERAL (SELECT pg_catalog.sum(x.delivered) AS delivered, pg_catalog.max(x.updated_at) AS updated_at,
			pg_catalog.min(x.passed_seq) AS passed_seq,
			(pg_catalog.array_agg(x.window_no ORDER BY x.window_no, x.seq))[1] AS window_no,
			(pg_catalog.array_agg(x.seq ORDER BY x.window_no, x.seq))[1] AS seq
		FROM orion_private.cursors x WHERE x.sink_id OPERATOR(pg_catalog.=) s.id) c ON true
	JOIN LATERAL (SELECT x.from_snapshot FROM orion_private.cursors x WHERE x.sink_id OPERATOR(pg_catalog.=) s.id
		ORDER BY pg_catalog.pg_snapshot_xmin(x.from_snapshot) LIMIT 1) f ON true
	JOIN LATERAL (SELECT x.segments, CASE WHEN x.segments OPERATOR(pg_catalog.>) 0 AND x.free OPERATOR(pg_catalog.=) 0
				THEN pg_catalog.format('holds %s of the %s segments of the outbox, and none is free', x.segments, x.total) END AS alarm
			FROM (SELECT pg_catalog.count(*) FILTER (WHERE t.sealed_xid OPERATOR(pg_catalog.>) pg_catalog.pg_snapshot_xmin(f.from_snapshot)) AS segments,
				pg_catalog.count(*) FILTER (WHERE t.opened_at IS NULL) AS free, pg_catalog.count(*) AS total
				FROM orion_private.outbox_state t) x) h ON true
	LEFT JOIN LATERAL (SELECT e.seq, e.occurred_at FROM orion_private.outbox e
		WHERE e.seq OPERATOR(pg_catalog.>) c.passed_seq ORDER BY e.seq LIMIT 1) o ON true
	-- of several workers the one that is worst off
	LEFT JOIN LATERAL (SELECT
			(pg_catalog.array_agg(x.state ORDER BY x.state OPERATOR(pg_catalog.=) 'running',
				x.state OPERATOR(pg_catalog.=) 'starting', x.part))[1] AS state,
			(pg_catalog.array_agg(x.last_error ORDER BY x.state OPERATOR(pg_catalog.=) 'running', x.part)
				FILTER (WHERE x.last_error IS NOT NULL))[1] AS last_error,
			pg_catalog.max(x.lag_events) FILTER (WHERE x.pid IS NOT NULL) AS lag_events,
			pg_catalog.max(x.lag) FILTER (WHERE x.pid IS NOT NULL AND x.lag_events OPERATOR(pg_catalog.>) 0) AS lag,
			pg_catalog.round(pg_catalog.sum(x.rate)::numeric, 2)::double precision AS rate, pg_catalog.max(x.attempts) AS attempts,
			pg_catalog.bool_and(x.pid IS NOT NULL AND x.caught_up)
				AND pg_catalog.count(*) OPERATOR(pg_catalog.=) s.workers AS caught_up
		FROM orion_private.workers() x
		WHERE x.kind OPERATOR(pg_catalog.=) 'relay' AND x.sink_id OPERATOR(pg_catalog.=) s.id) w ON true;
COMMENT ON VIEW orion.sinks IS 'Sinks: state, position (<window>:<seq>), how far behind (numbers drawn, age of the oldest event), rate, failures in a row, events parked and dead (counted up to 1,000), segments held';
GRANT SELECT ON orion.sinks TO orion_admin, pg_monitor;

CREATE VIEW orion.outbox WITH (security_invoker = true) AS
	SELECT t.segment,
		CASE WHEN t.opened_at IS NULL THEN 'empty' WHEN t.closed_at IS NULL THEN 'current'
			WHEN t.sealed_xid IS NULL THEN 'closed' ELSE 'sealed' END AS state,
		t.opened_at, t.closed_at, pg_catalog.pg_total_relation_size(r.oid) AS bytes,
		ARRAY(SELECT DISTINCT s.name FROM orion_private.sinks s
			JOIN orion_private.cursors c ON c.sink_id OPERATOR(pg_catalog.=) s.id
			WHERE t.sealed_xid OPERATOR(pg_catalog.>) pg_catalog.pg_snapshot_xmin(c.from_snapshot) ORDER BY s.name) AS held_by,
		(SELECT x.since FROM orion_private.outbox_retained x) AS retained_since
	FROM orion_private.outbox_state t
	JOIN pg_catalog.pg_namespace n ON n.nspname OPERATOR(pg_catalog.=) 'orion_private'
	JOIN pg_catalog.pg_class r ON r.relnamespace OPERATOR(pg_catalog.=) n.oid
		AND r.relname OPERATOR(pg_catalog.=) pg_catalog.format('outbox_%s', t.segment);
COMMENT ON VIEW orion.outbox IS 'The segments of the outbox: state, size, the sinks that have not passed a sealed one, since when all events are retained (null: since the beginning)';
GRANT SELECT ON orion.outbox TO orion_admin, pg_monitor;

CREATE VIEW orion.dead_letters WITH (security_invoker = true) AS
	SELECT d.id, s.name AS sink, d.position, d.event, d.attempts, d.error, d.dead_at
	FROM orion_private.dead_letters d
	JOIN orion_private.sinks s ON s.id OPERATOR(pg_catalog.=) d.sink_id;
COMMENT ON VIEW orion.dead_letters IS 'Events that a sink refused for good, or that were skipped, with the reason';
GRANT SELECT ON orion.dead_letters TO orion_admin;

CREATE VIEW orion.parked_events WITH (security_invoker = true) AS
	SELECT s.name AS sink, p.window_no, p.seq, p.key, p.event, p.attempts, p.next_try_at, p.last_error
	FROM orion_private.parked p
	JOIN orion_private.sinks s ON s.id OPERATOR(pg_catalog.=) p.sink_id;
COMMENT ON VIEW orion.parked_events IS 'Events whose SQL handler failed and will be called again, and, without a time, later ones of the same key that wait for them';
GRANT SELECT ON orion.parked_events TO orion_admin;

CREATE VIEW orion.replays WITH (security_invoker = true) AS
	SELECT r.id, s.name AS sink, r.pattern, r.from_time, r.to_time, r.requested_at,
		CASE WHEN r.next_seq OPERATOR(pg_catalog.>) r.to_seq THEN 1.0
			ELSE pg_catalog.round((r.next_seq OPERATOR(pg_catalog.-) r.from_seq)
				OPERATOR(pg_catalog./) (r.to_seq OPERATOR(pg_catalog.-) r.from_seq OPERATOR(pg_catalog.+) 1)::pg_catalog.numeric, 3)
			END AS progress
	FROM orion_private.replays r
	JOIN orion_private.sinks s ON s.id OPERATOR(pg_catalog.=) r.sink_id;
COMMENT ON VIEW orion.replays IS 'Replays under way or done lately, and how much of their range was read; one row for each worker of a handler';
GRANT SELECT ON orion.replays TO orion_admin;

-- src/cache/cache.sql

-- Cache rules: which keys of a Redis the events of a sink remove, renew or tag.
--
-- Rules are rows, so that they come and go while the sink stays. The courier carries
-- them out; values are computed by the relay, in the database.

CREATE TABLE orion_private.cache_rules (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	sink_id int NOT NULL REFERENCES orion_private.sinks ON DELETE CASCADE,
	name text NOT NULL CHECK (name ~ '^[A-Za-z0-9_.-]{1,63}$'),
	pattern text NOT NULL,
	rule jsonb NOT NULL,
	function text,
	function_role regrole,
	failures bigint NOT NULL DEFAULT 0,
	last_error text,
	last_error_at timestamptz,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	UNIQUE (sink_id, name),
	CHECK ((rule ? 'set') = (function IS NOT NULL AND function_role IS NOT NULL))
);
COMMENT ON TABLE orion_private.cache_rules IS 'What the events of a sink do to the keys of a cache';
COMMENT ON COLUMN orion_private.cache_rules.function IS 'The signature, qualified, of the function that makes the value of key "set"';
COMMENT ON COLUMN orion_private.cache_rules.function_role IS 'Who created the rule, and as whom the function runs';
COMMENT ON COLUMN orion_private.cache_rules.failures IS 'Calls of the function that failed: their keys were removed';

CREATE TABLE orion_private.cache_dependencies (
	sink_id int NOT NULL REFERENCES orion_private.sinks ON DELETE CASCADE,
	key text NOT NULL,
	dependent text NOT NULL,
	PRIMARY KEY (sink_id, key, dependent)
);
COMMENT ON TABLE orion_private.cache_dependencies IS 'Who removes or sets the key removes the dependent, and what depends on that';

DO $do$
DECLARE
	relation text;
BEGIN
	FOREACH relation IN ARRAY ARRAY['cache_rules', 'cache_rules_id_seq', 'cache_dependencies'] LOOP
		PERFORM pg_catalog.pg_extension_config_dump(pg_catalog.format('orion_private.%I', relation)::pg_catalog.regclass, '');
	END LOOP;
	FOREACH relation IN ARRAY ARRAY['cache_rules', 'cache_dependencies'] LOOP
		EXECUTE pg_catalog.format('CREATE TRIGGER sinks_changed AFTER INSERT OR DELETE OR TRUNCATE ON orion_private.%I'
			' FOR EACH STATEMENT EXECUTE FUNCTION orion_private.sinks_changed()', relation);
	END LOOP;
END
$do$;

-- The sink's id. Only Redis has keys.
CREATE FUNCTION orion_private.cache_sink(sink text) RETURNS int
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	found_id int;
	found_kind text;
BEGIN
	SELECT s.id, s.kind INTO found_id, found_kind FROM orion_private.sinks s WHERE s.name = sink FOR UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no sink named "%"', sink USING ERRCODE = 'undefined_object';
	ELSIF found_kind <> 'redis' THEN
		RAISE EXCEPTION 'sink "%" is of kind %, and only redis has a cache', sink, found_kind
			USING ERRCODE = 'wrong_object_type';
	END IF;
	RETURN found_id;
END
$fn$;
COMMENT ON FUNCTION orion_private.cache_sink(text) IS 'The id of a Redis sink, locked until the end of the transaction';

CREATE FUNCTION orion_private.cache_rule_add(sink text, name text, pattern text, rule jsonb, function text, function_role regrole) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	of_sink int := orion_private.cache_sink(sink);
BEGIN
	IF name IS NULL OR name !~ '^[A-Za-z0-9_.-]{1,63}$' THEN
		RAISE EXCEPTION 'invalid name of a cache rule: "%"', name
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Use 1 to 63 letters, digits, dots, hyphens and underscores.';
	END IF;
	PERFORM orion_private.pattern_check(pattern);
	PERFORM orion_private.cache_rule_check(rule, function IS NOT NULL);
	IF (SELECT count(*) FROM orion_private.cache_rules r WHERE r.sink_id = of_sink) >= 128 THEN
		RAISE EXCEPTION 'sink "%" already has 128 cache rules', sink USING ERRCODE = 'program_limit_exceeded';
	END IF;
	INSERT INTO orion_private.cache_rules (sink_id, name, pattern, rule, function, function_role)
		VALUES (of_sink, name, pattern, rule, function, function_role)
		ON CONFLICT DO NOTHING;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'sink "%" already has a cache rule named "%"', sink, name USING ERRCODE = 'duplicate_object';
	END IF;
	PERFORM orion_private.audit('cache.rule.create', 'sink', sink,
		new => jsonb_build_object('name', name, 'pattern', pattern, 'rule', rule, 'function', function, 'role', function_role::text));
END
$fn$;
COMMENT ON FUNCTION orion_private.cache_rule_add(text, text, text, jsonb, text, regrole) IS 'Adds the row of a cache rule';
REVOKE ALL ON FUNCTION orion_private.cache_sink(text), orion_private.cache_rule_add(text, text, text, jsonb, text, regrole) FROM PUBLIC;

-- In C, because only there the immediate caller is known: the function runs as that role.
CREATE FUNCTION @extschema@.orion_cache_rule_create(sink text, name text, pattern text, rule jsonb, function regprocedure DEFAULT NULL)
	RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_cache_rule_create';
COMMENT ON FUNCTION @extschema@.orion_cache_rule_create(text, text, text, jsonb, regprocedure)
	IS 'Makes the events of a Redis sink that match the pattern remove, renew or tag keys; function(event jsonb) makes the value of "set", as the current role';

CREATE FUNCTION @extschema@.orion_cache_rule_drop(sink text, name text) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	DELETE FROM orion_private.cache_rules r
		WHERE r.sink_id = orion_private.cache_sink(sink) AND r.name = orion_cache_rule_drop.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'sink "%" has no cache rule named "%"', sink, name USING ERRCODE = 'undefined_object';
	END IF;
	PERFORM orion_private.audit('cache.rule.drop', 'sink', sink, old => jsonb_build_object('name', name));
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_cache_rule_drop(text, text) IS 'Removes a cache rule; keys stay as they are';

CREATE FUNCTION @extschema@.orion_cache_depend(sink text, key text, dependents text[]) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	of_sink int := orion_private.cache_sink(sink);
BEGIN
	PERFORM orion_private.template_check('key', jsonb_build_array(key));
	PERFORM orion_private.template_check('dependents', to_jsonb(coalesce(dependents, '{}')));
	INSERT INTO orion_private.cache_dependencies (sink_id, key, dependent)
		SELECT of_sink, orion_cache_depend.key, d FROM unnest(dependents) d ON CONFLICT DO NOTHING;
	PERFORM orion_private.cache_dependencies_check((SELECT jsonb_object_agg(e.key, e.list) FROM (
		SELECT c.key, jsonb_agg(c.dependent) AS list FROM orion_private.cache_dependencies c
		WHERE c.sink_id = of_sink GROUP BY c.key) e));
	PERFORM orion_private.audit('cache.depend', 'sink', sink, new => jsonb_build_object('key', key, 'dependents', dependents));
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_cache_depend(text, text, text[])
	IS 'Whatever removes or sets the key of a cache removes the dependents, too, and theirs; cycles are refused';

CREATE FUNCTION @extschema@.orion_cache_undepend(sink text, key text, dependents text[] DEFAULT NULL) RETURNS int
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	removed int;
BEGIN
	DELETE FROM orion_private.cache_dependencies c
		WHERE c.sink_id = orion_private.cache_sink(sink) AND c.key = orion_cache_undepend.key
			AND (dependents IS NULL OR c.dependent = ANY (dependents));
	GET DIAGNOSTICS removed = ROW_COUNT;
	PERFORM orion_private.audit('cache.undepend', 'sink', sink, old => jsonb_build_object('key', key, 'dependents', dependents));
	RETURN removed;
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_cache_undepend(text, text, text[])
	IS 'Removes dependents of a key, all of them by default; returns how many there were';

REVOKE ALL ON FUNCTION
	@extschema@.orion_cache_rule_create(text, text, text, jsonb, regprocedure),
	@extschema@.orion_cache_rule_drop(text, text),
	@extschema@.orion_cache_depend(text, text, text[]),
	@extschema@.orion_cache_undepend(text, text, text[])
	FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
	@extschema@.orion_cache_rule_create(text, text, text, jsonb, regprocedure),
	@extschema@.orion_cache_rule_drop(text, text),
	@extschema@.orion_cache_depend(text, text, text[]),
	@extschema@.orion_cache_undepend(text, text, text[])
	TO orion_admin;

GRANT SELECT ON orion_private.cache_rules, orion_private.cache_dependencies TO orion_admin;

CREATE VIEW orion.cache_rules WITH (security_invoker = true) AS
	SELECT s.name AS sink, r.name, r.pattern, r.rule, r.function, r.function_role,
		r.failures, r.last_error, r.last_error_at, r.created_at
	FROM orion_private.cache_rules r
	JOIN orion_private.sinks s ON s.id OPERATOR(pg_catalog.=) r.sink_id;
COMMENT ON VIEW orion.cache_rules IS 'Cache rules, and how often the functions that make their values have failed';
GRANT SELECT ON orion.cache_rules TO orion_admin;

CREATE VIEW orion.cache_dependencies WITH (security_invoker = true) AS
	SELECT s.name AS sink, d.key, d.dependent
	FROM orion_private.cache_dependencies d
	JOIN orion_private.sinks s ON s.id OPERATOR(pg_catalog.=) d.sink_id;
COMMENT ON VIEW orion.cache_dependencies IS 'Which keys of a cache are removed together with others';
GRANT SELECT ON orion.cache_dependencies TO orion_admin;

-- src/track/track.sql

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

-- src/webhook/webhook.sql

-- Webhooks: endpoints, their secrets and states, deliveries that wait, attempts made.
--
-- The relay of the one sink of kind webhook matches events with endpoints.  A delivery
-- that succeeds at once leaves no row but the one in the log of attempts; what
-- fails, and what an endpoint is too slow for, waits in webhook_pending.

CREATE TABLE orion_private.webhook_endpoints (
	id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name text,
	address text NOT NULL,
	url bytea NOT NULL,
	patterns text[] NOT NULL,
	filter jsonb NOT NULL,
	format text NOT NULL CHECK (format IN ('standard', 'envelope')),
	concurrency int NOT NULL CHECK (concurrency BETWEEN 1 AND 100),
	rate int NOT NULL CHECK (rate BETWEEN 0 AND 100000),
	networks cidr[] NOT NULL,
	plain_http bool NOT NULL,
	disabled_at timestamptz,
	disabled_reason text,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
COMMENT ON TABLE orion_private.webhook_endpoints IS 'Where webhooks are sent to';
COMMENT ON COLUMN orion_private.webhook_endpoints.address IS 'Scheme, host and port of the URL: path and query may hold a token';
COMMENT ON COLUMN orion_private.webhook_endpoints.url IS 'Sealed';
COMMENT ON COLUMN orion_private.webhook_endpoints.rate IS 'Attempts a second; 0: no limit';
COMMENT ON COLUMN orion_private.webhook_endpoints.networks IS 'Addresses besides those of the public Internet that it may have';

CREATE TABLE orion_private.webhook_secrets (
	id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	endpoint_id int NOT NULL REFERENCES orion_private.webhook_endpoints ON DELETE CASCADE,
	secret bytea NOT NULL,
	expires_at timestamptz,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
CREATE INDEX webhook_secrets_endpoint ON orion_private.webhook_secrets (endpoint_id);
COMMENT ON TABLE orion_private.webhook_secrets IS 'Secrets that sign webhooks, sealed; each that has not expired makes a signature';

-- A row an endpoint that was ever tried.  A low fillfactor keeps the updates in their page.
CREATE TABLE orion_private.webhook_states (
	endpoint_id int PRIMARY KEY REFERENCES orion_private.webhook_endpoints ON DELETE CASCADE,
	failing_since timestamptz,
	hold_until timestamptz,
	last_attempt_at timestamptz,
	last_success_at timestamptz,
	last_status int,
	last_error text,
	last_excerpt text,
	delivered bigint NOT NULL DEFAULT 0,
	failed bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
COMMENT ON TABLE orion_private.webhook_states IS 'How the endpoints fare';
COMMENT ON COLUMN orion_private.webhook_states.failed IS 'Attempts, not deliveries';

-- seq is the event's number in the outbox; below 0: a test.  No foreign key, which would
-- cost more than the row: inserts lock the endpoint themselves, orion_webhook_drop deletes.
CREATE TABLE orion_private.webhook_pending (
	endpoint_id int NOT NULL,
	seq bigint NOT NULL,
	message_id uuid NOT NULL,
	type text NOT NULL,
	body text NOT NULL,
	attempts int NOT NULL,
	next_at timestamptz NOT NULL,
	last_status int,
	last_error text,
	last_excerpt text,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	dead_at timestamptz,
	PRIMARY KEY (endpoint_id, seq)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX webhook_pending_due ON orion_private.webhook_pending (endpoint_id, next_at, seq) WHERE dead_at IS NULL;
CREATE INDEX webhook_pending_dead ON orion_private.webhook_pending (dead_at) WHERE dead_at IS NOT NULL;
COMMENT ON TABLE orion_private.webhook_pending IS 'Webhooks that wait for an attempt, and those that were given up (dead_at)';

CREATE SEQUENCE orion_private.webhook_test_seq;

CREATE TABLE orion_private.webhook_attempts (
	at timestamptz NOT NULL,
	endpoint_id int NOT NULL,
	message_id uuid NOT NULL,
	type text NOT NULL,
	attempt int NOT NULL,
	status int,
	duration_ms int NOT NULL,
	error text,
	excerpt text
);
CREATE INDEX webhook_attempts_endpoint ON orion_private.webhook_attempts (endpoint_id, at);
CREATE INDEX webhook_attempts_at ON orion_private.webhook_attempts USING brin (at);
COMMENT ON TABLE orion_private.webhook_attempts IS 'Log of attempts, append-only but for what is older than orion.webhook_retention';

DO $do$
DECLARE
	relation text;
BEGIN
	FOREACH relation IN ARRAY ARRAY['webhook_endpoints', 'webhook_endpoints_id_seq', 'webhook_secrets', 'webhook_secrets_id_seq',
		'webhook_states', 'webhook_pending', 'webhook_test_seq', 'webhook_attempts'] LOOP
		PERFORM pg_catalog.pg_extension_config_dump(pg_catalog.format('orion_private.%I', relation)::pg_catalog.regclass, '');
	END LOOP;
END
$do$;

CREATE TRIGGER sinks_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON orion_private.webhook_endpoints
	FOR EACH STATEMENT EXECUTE FUNCTION orion_private.sinks_changed();
CREATE TRIGGER sinks_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON orion_private.webhook_secrets
	FOR EACH STATEMENT EXECUTE FUNCTION orion_private.sinks_changed();

CREATE FUNCTION orion_private.webhook_wake() RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_webhook_wake';
COMMENT ON FUNCTION orion_private.webhook_wake() IS 'Makes the relay look at what waits, at commit';

CREATE FUNCTION orion_private.webhook_seal(secret text, endpoint_id int) RETURNS bytea
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_webhook_seal';
COMMENT ON FUNCTION orion_private.webhook_seal(text, int) IS 'Seals the URL or a secret of an endpoint';

CREATE FUNCTION orion_private.webhook_secret_new(signature text) RETURNS text
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_webhook_secret_new';
COMMENT ON FUNCTION orion_private.webhook_secret_new(text) IS 'A random secret for signatures v1 (whsec_) or v1a (whsk_)';

CREATE FUNCTION orion_private.webhook_secret_shown(secret text) RETURNS text
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_webhook_secret_shown';
COMMENT ON FUNCTION orion_private.webhook_secret_shown(text) IS 'What the receiver needs to verify: the secret, or the public key (whpk_) of a whsk_; null when it is neither';

CREATE FUNCTION orion_private.webhook_matches(patterns text[], type text) RETURNS boolean
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_webhook_matches';
COMMENT ON FUNCTION orion_private.webhook_matches(text[], text) IS 'Does an event of that type go to an endpoint with these patterns?';

REVOKE ALL ON FUNCTION orion_private.webhook_wake(), orion_private.webhook_seal(text, int), orion_private.webhook_secret_new(text),
	orion_private.webhook_secret_shown(text), orion_private.webhook_matches(text[], text) FROM PUBLIC;

-- Only administrators may open other addresses than the public Internet's to an endpoint.
-- The functions below run as their owner, so current_user does not say who calls.
CREATE FUNCTION orion_private.webhook_may_allow() RETURNS boolean
	LANGUAGE sql STABLE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
	SELECT coalesce(pg_has_role(orion_private.caller(), 'orion_admin', 'USAGE'), false)
	$fn$;
COMMENT ON FUNCTION orion_private.webhook_may_allow() IS 'Is the caller a member of orion_admin?';
REVOKE ALL ON FUNCTION orion_private.webhook_may_allow() FROM PUBLIC;

CREATE FUNCTION orion_private.webhook_check(url text, patterns text[], filter jsonb, format text, concurrency int, rate int,
	networks cidr[], plain_http bool) RETURNS void
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	pattern text;
BEGIN
	IF (coalesce(cardinality(networks), 0) > 0 OR plain_http) AND NOT orion_private.webhook_may_allow() THEN
		RAISE EXCEPTION 'only members of orion_admin may allow networks or plain http'
			USING ERRCODE = 'insufficient_privilege';
	END IF;
	IF url !~ '^[Hh][Tt][Tt][Pp][Ss]?://[^[:space:][:cntrl:]/?#@\\]+([/?][^[:space:][:cntrl:]#\\]*)?$' OR length(url) > 2048 THEN
		RAISE EXCEPTION 'this is no URL for webhooks'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'It begins with https://, has no user, password or fragment, and at most 2048 characters.';
	END IF;
	IF url ~* '^http:' AND NOT coalesce(plain_http, false) AND NOT current_setting('orion.webhook_allow_http')::bool THEN
		RAISE EXCEPTION 'webhooks are sent over https only'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'For an endpoint in your own network, a member of orion_admin may say plain_http => true.';
	END IF;
	IF cardinality(patterns) NOT BETWEEN 1 AND 100 OR array_ndims(patterns) <> 1 THEN
		RAISE EXCEPTION 'an endpoint needs between 1 and 100 patterns of event types' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	FOREACH pattern IN ARRAY coalesce(patterns, '{}') LOOP
		IF pattern IS NULL OR orion_private.topic_pattern_error(pattern) IS NOT NULL THEN
			RAISE EXCEPTION 'invalid pattern of event types: %', coalesce(orion_private.topic_pattern_error(pattern), 'it is null')
				USING ERRCODE = 'invalid_parameter_value', HINT = 'Examples are user.created, user.* and #.';
		END IF;
	END LOOP;
	IF jsonb_typeof(filter) <> 'object' THEN
		RAISE EXCEPTION 'the filter of an endpoint must be an object'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'For example {"metadata": {"tenant": "acme"}}.';
	END IF;
	IF format NOT IN ('standard', 'envelope') THEN
		RAISE EXCEPTION 'unknown format of webhooks: "%"', format
			USING ERRCODE = 'invalid_parameter_value', HINT = 'The formats are standard and envelope.';
	END IF;
	IF concurrency NOT BETWEEN 1 AND 100 THEN
		RAISE EXCEPTION 'the concurrency of an endpoint must be between 1 and 100' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	IF rate NOT BETWEEN 0 AND 100000 THEN
		RAISE EXCEPTION 'the rate of an endpoint must be between 0 and 100000' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	IF cardinality(networks) > 32 THEN
		RAISE EXCEPTION 'an endpoint may have at most 32 allowed networks' USING ERRCODE = 'invalid_parameter_value';
	END IF;
END
$fn$;
COMMENT ON FUNCTION orion_private.webhook_check(text, text[], jsonb, text, int, int, cidr[], bool) IS 'Raises an error where a property of an endpoint is wrong; null is right';
REVOKE ALL ON FUNCTION orion_private.webhook_check(text, text[], jsonb, text, int, int, cidr[], bool) FROM PUBLIC;

-- What may be shown of a URL. With many services the path is the secret.
CREATE FUNCTION orion_private.webhook_address(url text) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
	SELECT substring(url FROM '^[^/]+//[^/?]+') || CASE WHEN url ~ '^[^/]+//[^/?]+/?$' THEN '' ELSE '/...' END
	$fn$;
COMMENT ON FUNCTION orion_private.webhook_address(text) IS 'Scheme, host and port of a URL, and "/..." where there is more of it';
REVOKE ALL ON FUNCTION orion_private.webhook_address(text) FROM PUBLIC;

-- Adds a secret, made here where none is given; returns what the receiver needs.
CREATE FUNCTION orion_private.webhook_secret_add(endpoint_id int, secret text, signature text) RETURNS text
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	added text := coalesce(secret, orion_private.webhook_secret_new(signature));
	shown text := orion_private.webhook_secret_shown(added);
BEGIN
	IF shown IS NULL THEN
		RAISE EXCEPTION 'this is no secret for webhooks'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'It is whsec_ and 24 to 64 bytes in base64, or whsk_ and an Ed25519 key.';
	END IF;
	INSERT INTO orion_private.webhook_secrets (endpoint_id, secret)
		VALUES (webhook_secret_add.endpoint_id, orion_private.webhook_seal(added, webhook_secret_add.endpoint_id));
	RETURN shown;
END
$fn$;
COMMENT ON FUNCTION orion_private.webhook_secret_add(int, text, text) IS 'Adds a secret to an endpoint';
REVOKE ALL ON FUNCTION orion_private.webhook_secret_add(int, text, text) FROM PUBLIC;

-- The sink that all endpoints share comes with the first of them.
CREATE FUNCTION orion_private.webhook_sink() RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	IF EXISTS (SELECT FROM orion_private.sinks WHERE kind = 'webhook') THEN
		RETURN;
	END IF;
	LOCK TABLE orion_private.sinks IN SHARE ROW EXCLUSIVE MODE;
	IF NOT EXISTS (SELECT FROM orion_private.sinks WHERE kind = 'webhook') THEN
		PERFORM orion_private.sink_add('webhooks', 'webhook', '#', orion_private.sink_seal('{}', 'webhooks'), NULL, NULL);
	END IF;
END
$fn$;
COMMENT ON FUNCTION orion_private.webhook_sink() IS 'Makes the sink "webhooks" unless it is there';
REVOKE ALL ON FUNCTION orion_private.webhook_sink() FROM PUBLIC;

CREATE FUNCTION orion_private.webhook_find(id int) RETURNS orion_private.webhook_endpoints
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	found_row orion_private.webhook_endpoints;
BEGIN
	SELECT * INTO found_row FROM orion_private.webhook_endpoints e WHERE e.id = webhook_find.id FOR NO KEY UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no webhook with the id %', coalesce(id::text, 'null') USING ERRCODE = 'undefined_object';
	END IF;
	RETURN found_row;
END
$fn$;
COMMENT ON FUNCTION orion_private.webhook_find(int) IS 'The endpoint with that id, locked, or an error';
REVOKE ALL ON FUNCTION orion_private.webhook_find(int) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_webhook_create(
	url text, patterns text[] DEFAULT '{#}', name text DEFAULT NULL, filter jsonb DEFAULT '{}',
	secret text DEFAULT NULL, signature text DEFAULT 'v1', format text DEFAULT 'standard',
	concurrency int DEFAULT 8, rate int DEFAULT 0, networks cidr[] DEFAULT '{}', plain_http bool DEFAULT false,
	OUT id int, OUT signing_secret text)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	IF url IS NULL OR patterns IS NULL OR filter IS NULL OR signature IS NULL OR format IS NULL OR concurrency IS NULL OR rate IS NULL
		OR networks IS NULL OR plain_http IS NULL THEN
		RAISE EXCEPTION 'only the name and the secret of an endpoint may be null' USING ERRCODE = 'null_value_not_allowed';
	END IF;
	PERFORM orion_private.webhook_check(url, patterns, filter, format, concurrency, rate, networks, plain_http);
	IF signature NOT IN ('v1', 'v1a') THEN
		RAISE EXCEPTION 'unknown signature of webhooks: "%"', signature
			USING ERRCODE = 'invalid_parameter_value', HINT = 'It is v1 (HMAC-SHA256) or v1a (Ed25519).';
	END IF;
	PERFORM orion_private.webhook_sink();
	id := nextval('orion_private.webhook_endpoints_id_seq');
	INSERT INTO orion_private.webhook_endpoints (id, name, address, url, patterns, filter, format, concurrency, rate, networks, plain_http)
		OVERRIDING SYSTEM VALUE
		VALUES (orion_webhook_create.id, orion_webhook_create.name, orion_private.webhook_address(orion_webhook_create.url),
			orion_private.webhook_seal(orion_webhook_create.url, orion_webhook_create.id), orion_webhook_create.patterns,
			orion_webhook_create.filter, orion_webhook_create.format, orion_webhook_create.concurrency, orion_webhook_create.rate,
			orion_webhook_create.networks, orion_webhook_create.plain_http);
	signing_secret := orion_private.webhook_secret_add(id, secret, signature);
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_webhook_create(text, text[], text, jsonb, text, text, text, int, int, cidr[], bool)
	IS 'Sends the events from now on whose type matches a pattern, and which contain the filter, to a URL (Standard Webhooks 1.0); returns the id and, this once, what the receiver verifies signatures with';

CREATE FUNCTION @extschema@.orion_webhook_alter(
	id int, url text DEFAULT NULL, patterns text[] DEFAULT NULL, name text DEFAULT NULL, filter jsonb DEFAULT NULL,
	format text DEFAULT NULL, concurrency int DEFAULT NULL, rate int DEFAULT NULL, networks cidr[] DEFAULT NULL, plain_http bool DEFAULT NULL)
	RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	former orion_private.webhook_endpoints := orion_private.webhook_find(id);
BEGIN
	-- who may not give these permissions may not point them elsewhere either
	IF url IS NOT NULL AND cardinality(former.networks) > 0 AND NOT orion_private.webhook_may_allow() THEN
		RAISE EXCEPTION 'only members of orion_admin may change the URL of an endpoint with allowed networks'
			USING ERRCODE = 'insufficient_privilege';
	END IF;
	PERFORM orion_private.webhook_check(coalesce(url, 'https://as.before'), patterns, filter, format, concurrency, rate, networks,
		CASE WHEN url IS NULL THEN plain_http ELSE coalesce(plain_http, former.plain_http) END);
	UPDATE orion_private.webhook_endpoints e SET
		url = CASE WHEN orion_webhook_alter.url IS NULL THEN e.url ELSE orion_private.webhook_seal(orion_webhook_alter.url, e.id) END,
		address = coalesce(orion_private.webhook_address(orion_webhook_alter.url), e.address),
		patterns = coalesce(orion_webhook_alter.patterns, e.patterns),
		name = coalesce(orion_webhook_alter.name, e.name),
		filter = coalesce(orion_webhook_alter.filter, e.filter),
		format = coalesce(orion_webhook_alter.format, e.format),
		concurrency = coalesce(orion_webhook_alter.concurrency, e.concurrency),
		rate = coalesce(orion_webhook_alter.rate, e.rate),
		networks = coalesce(orion_webhook_alter.networks, e.networks),
		plain_http = coalesce(orion_webhook_alter.plain_http, e.plain_http)
		WHERE e.id = orion_webhook_alter.id;
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_webhook_alter(int, text, text[], text, jsonb, text, int, int, cidr[], bool)
	IS 'Changes what is not null of an endpoint, for the attempts from now on';

CREATE FUNCTION @extschema@.orion_webhook_rotate_secret(id int, keep interval DEFAULT '24 hours', secret text DEFAULT NULL, signature text DEFAULT 'v1')
	RETURNS text
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	PERFORM orion_private.webhook_find(id);
	IF keep IS NULL OR keep < interval '0' OR signature IS NULL OR signature NOT IN ('v1', 'v1a') THEN
		RAISE EXCEPTION 'the old secret is kept for an interval of 0 or more, and a signature is v1 or v1a' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	UPDATE orion_private.webhook_secrets s SET expires_at = least(s.expires_at, clock_timestamp() + keep)
		WHERE s.endpoint_id = orion_webhook_rotate_secret.id;
	DELETE FROM orion_private.webhook_secrets s
		WHERE s.endpoint_id = orion_webhook_rotate_secret.id
			AND (s.expires_at <= clock_timestamp()
				OR s.id NOT IN (SELECT k.id FROM orion_private.webhook_secrets k WHERE k.endpoint_id = s.endpoint_id ORDER BY k.id DESC LIMIT 4));
	RETURN orion_private.webhook_secret_add(id, secret, signature);
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_webhook_rotate_secret(int, interval, text, text)
	IS 'Gives an endpoint a new secret; the former one signs too for the interval; returns what the receiver verifies with';

-- Why: disabled, gone (it answered 410), failing (for orion.webhook_disable_after).
CREATE FUNCTION orion_private.webhook_disable(id int, reason text) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	endpoint orion_private.webhook_endpoints;
BEGIN
	UPDATE orion_private.webhook_endpoints e SET disabled_at = now(), disabled_reason = reason
		WHERE e.id = webhook_disable.id AND e.disabled_at IS NULL
		RETURNING * INTO endpoint;
	IF FOUND THEN
		PERFORM orion_private.publish('webhook.endpoint.disabled',
			jsonb_build_object('id', endpoint.id, 'name', endpoint.name, 'reason', reason,
				'failingSince', (SELECT s.failing_since FROM orion_private.webhook_states s WHERE s.endpoint_id = endpoint.id),
				'lastStatus', (SELECT s.last_status FROM orion_private.webhook_states s WHERE s.endpoint_id = endpoint.id)),
			'webhook', endpoint.id::text);
	END IF;
END
$fn$;
COMMENT ON FUNCTION orion_private.webhook_disable(int, text) IS 'Stops sending to an endpoint and publishes webhook.endpoint.disabled';
REVOKE ALL ON FUNCTION orion_private.webhook_disable(int, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_webhook_disable(id int) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	PERFORM orion_private.webhook_find(id);
	PERFORM orion_private.webhook_disable(id, 'disabled');
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_webhook_disable(int)
	IS 'Sends nothing more to an endpoint: what waits goes on waiting, and events from now on are not for it';

CREATE FUNCTION @extschema@.orion_webhook_enable(id int) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	PERFORM orion_private.webhook_find(id);
	PERFORM orion_private.webhook_sink();
	UPDATE orion_private.webhook_states s SET failing_since = NULL, hold_until = NULL WHERE s.endpoint_id = orion_webhook_enable.id;
	UPDATE orion_private.webhook_endpoints e SET disabled_at = NULL, disabled_reason = NULL WHERE e.id = orion_webhook_enable.id;
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_webhook_enable(int) IS 'Sends to a disabled endpoint again: what waited, and the events from now on';

CREATE FUNCTION @extschema@.orion_webhook_drop(id int) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	PERFORM orion_private.webhook_find(id);
	DELETE FROM orion_private.webhook_endpoints e WHERE e.id = orion_webhook_drop.id;
	-- behind the other, which has waited for whoever adds to these
	DELETE FROM orion_private.webhook_pending p WHERE p.endpoint_id = orion_webhook_drop.id;
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_webhook_drop(int) IS 'Removes an endpoint and what waits for it';

CREATE FUNCTION @extschema@.orion_webhook_test(id int) RETURNS uuid
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	SET timezone = 'UTC'
	AS $fn$
DECLARE
	message uuid := gen_random_uuid();
BEGIN
	IF (orion_private.webhook_find(id)).disabled_at IS NOT NULL THEN
		RAISE EXCEPTION 'the webhook is disabled' USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Call orion_webhook_enable() first.';
	END IF;
	PERFORM orion_private.webhook_sink();
	INSERT INTO orion_private.webhook_pending (endpoint_id, seq, message_id, type, body, attempts, next_at)
		VALUES (id, - nextval('orion_private.webhook_test_seq'), message, 'webhook.test',
			format('{"type":"webhook.test","timestamp":%s,"data":{}}', to_json(clock_timestamp())), 0, now());
	PERFORM orion_private.webhook_wake();
	RETURN message;
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_webhook_test(int) IS 'Sends an event of type webhook.test to this endpoint only; returns its webhook-id';

CREATE FUNCTION @extschema@.orion_webhook_redrive(id int, since timestamptz DEFAULT '-infinity') RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	count bigint;
BEGIN
	PERFORM orion_private.webhook_find(id);
	UPDATE orion_private.webhook_pending p SET dead_at = NULL, attempts = 0, next_at = now()
		WHERE p.endpoint_id = orion_webhook_redrive.id AND p.dead_at >= since;
	GET DIAGNOSTICS count = ROW_COUNT;
	PERFORM orion_private.webhook_wake();
	RETURN count;
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_webhook_redrive(int, timestamptz)
	IS 'Starts over with the deliveries of an endpoint that were given up since then; returns how many';

CREATE FUNCTION @extschema@.orion_webhook_replay(id int, since timestamptz, until timestamptz DEFAULT 'infinity') RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	SET timezone = 'UTC'
	AS $fn$
DECLARE
	endpoint orion_private.webhook_endpoints := orion_private.webhook_find(id);
	count bigint;
BEGIN
	INSERT INTO orion_private.webhook_pending AS p (endpoint_id, seq, message_id, type, body, attempts, next_at)
		SELECT endpoint.id, o.seq, o.id, o.type,
			CASE endpoint.format
				WHEN 'standard' THEN format('{"type":%s,"timestamp":%s,"data":%s}', to_json(o.type), to_json(o.occurred_at), o.payload)
				ELSE orion_private.webhook_envelope(o)::text END, 0, now()
		FROM orion_private.outbox o
		WHERE o.occurred_at >= since AND o.occurred_at < until
			AND orion_private.webhook_matches(endpoint.patterns, o.type)
			AND (endpoint.filter = '{}' OR orion_private.webhook_envelope(o)::jsonb @> endpoint.filter)
		ORDER BY o.seq
		ON CONFLICT (endpoint_id, seq) DO UPDATE SET attempts = 0, next_at = now(), dead_at = NULL;
	GET DIAGNOSTICS count = ROW_COUNT;
	PERFORM orion_private.webhook_wake();
	RETURN count;
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_webhook_replay(int, timestamptz, timestamptz)
	IS 'Sends the endpoint''s events of a time again, as far as the outbox still has them, with the webhook-id they had; returns how many';

-- As src/outbox/event.c makes it.
CREATE FUNCTION orion_private.webhook_envelope(o orion_private.outbox) RETURNS json
	LANGUAGE sql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
	SELECT json_build_object('eventId', o.id, 'eventType', o.type, 'version', o.version, 'timestamp', o.occurred_at,
		'correlationId', o.correlation_id, 'causationId', o.causation_id, 'aggregateType', o.aggregatetype,
		'aggregateId', o.aggregateid, 'metadata', o.metadata, 'payload', o.payload)
	$fn$;
COMMENT ON FUNCTION orion_private.webhook_envelope(orion_private.outbox) IS 'The envelope of an event, made anew';
REVOKE ALL ON FUNCTION orion_private.webhook_envelope(orion_private.outbox) FROM PUBLIC;

CREATE FUNCTION orion_private.webhook_maintain(retention interval) RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
	DELETE FROM orion_private.webhook_attempts WHERE ctid = ANY (ARRAY(
		SELECT ctid FROM orion_private.webhook_attempts WHERE at < now() - retention LIMIT 10000));
	DELETE FROM orion_private.webhook_pending WHERE ctid = ANY (ARRAY(
		SELECT ctid FROM orion_private.webhook_pending WHERE dead_at < now() - retention LIMIT 10000));
	DELETE FROM orion_private.webhook_secrets WHERE expires_at < now()
	$fn$;
COMMENT ON FUNCTION orion_private.webhook_maintain(interval) IS 'Forgets attempts and dead deliveries older than that, and expired secrets';
REVOKE ALL ON FUNCTION orion_private.webhook_maintain(interval) FROM PUBLIC;

REVOKE ALL ON FUNCTION
	@extschema@.orion_webhook_create(text, text[], text, jsonb, text, text, text, int, int, cidr[], bool),
	@extschema@.orion_webhook_alter(int, text, text[], text, jsonb, text, int, int, cidr[], bool),
	@extschema@.orion_webhook_rotate_secret(int, interval, text, text),
	@extschema@.orion_webhook_disable(int),
	@extschema@.orion_webhook_enable(int),
	@extschema@.orion_webhook_drop(int),
	@extschema@.orion_webhook_test(int),
	@extschema@.orion_webhook_redrive(int, timestamptz),
	@extschema@.orion_webhook_replay(int, timestamptz, timestamptz)
	FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
	@extschema@.orion_webhook_create(text, text[], text, jsonb, text, text, text, int, int, cidr[], bool),
	@extschema@.orion_webhook_alter(int, text, text[], text, jsonb, text, int, int, cidr[], bool),
	@extschema@.orion_webhook_rotate_secret(int, interval, text, text),
	@extschema@.orion_webhook_disable(int),
	@extschema@.orion_webhook_enable(int),
	@extschema@.orion_webhook_drop(int),
	@extschema@.orion_webhook_test(int),
	@extschema@.orion_webhook_redrive(int, timestamptz),
	@extschema@.orion_webhook_replay(int, timestamptz, timestamptz)
	TO orion_admin, orion_service;

-- What administrators and services read: neither the sealed URL nor a secret.
GRANT SELECT (id, name, address, patterns, filter, format, concurrency, rate, networks, plain_http, disabled_at, disabled_reason, created_at)
	ON orion_private.webhook_endpoints TO orion_admin, orion_service;
GRANT SELECT ON orion_private.webhook_states, orion_private.webhook_pending, orion_private.webhook_attempts TO orion_admin, orion_service;

CREATE VIEW orion.webhooks WITH (security_invoker = true) AS
	SELECT e.id, e.name, e.address, e.patterns, e.filter, e.format, e.concurrency, e.rate, e.networks, e.plain_http,
		CASE WHEN e.disabled_at IS NOT NULL THEN 'disabled'
			WHEN s.failing_since IS NOT NULL THEN 'failing'
			WHEN s.last_success_at IS NULL THEN 'new'
			ELSE 'working' END AS state,
		e.disabled_at, e.disabled_reason, s.failing_since, s.hold_until, s.last_attempt_at, s.last_success_at,
		s.last_status, s.last_error, s.last_excerpt,
		coalesce(s.delivered, 0) AS delivered, coalesce(s.failed, 0) AS failed, e.created_at
	FROM orion_private.webhook_endpoints e
	LEFT JOIN orion_private.webhook_states s ON s.endpoint_id OPERATOR(pg_catalog.=) e.id;
COMMENT ON VIEW orion.webhooks IS 'Endpoints of webhooks and how they fare';

CREATE VIEW orion.webhook_deliveries WITH (security_invoker = true) AS
	SELECT p.endpoint_id, p.message_id, p.type, p.body, p.attempts,
		CASE WHEN p.dead_at IS NULL THEN 'waiting' ELSE 'dead' END AS state,
		CASE WHEN p.dead_at IS NULL THEN p.next_at END AS next_at,
		p.last_status, p.last_error, p.last_excerpt, p.created_at, p.dead_at
	FROM orion_private.webhook_pending p;
COMMENT ON VIEW orion.webhook_deliveries IS 'Webhooks that wait for their next attempt, and those that were given up';

CREATE VIEW orion.webhook_attempts WITH (security_invoker = true) AS
	SELECT a.at, a.endpoint_id, a.message_id, a.type, a.attempt, a.status, a.duration_ms, a.error, a.excerpt
	FROM orion_private.webhook_attempts a;
COMMENT ON VIEW orion.webhook_attempts IS 'Attempts to send webhooks, with what was answered';
GRANT SELECT ON orion.webhooks, orion.webhook_deliveries, orion.webhook_attempts TO orion_admin, orion_service;

-- src/inbound/inbound.sql

-- Inbound: messages of RabbitMQ queues, given to SQL functions; an inbox tells what was handled.
--
-- The consumer's worker takes a message, calls the function and commits, and only then
-- acknowledges.  The row in the inbox commits with the function's work, so a message that
-- comes again is known.  Failures are counted in a transaction of their own.

CREATE TABLE orion_private.consumers (
	id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name text NOT NULL UNIQUE CHECK (name ~ '^[A-Za-z0-9_.-]{1,63}$'),
	queue text NOT NULL,
	config bytea NOT NULL,
	no_message_id text NOT NULL CHECK (no_message_id IN ('process', 'hash', 'refuse')),
	max_body int NOT NULL,
	handler text NOT NULL,
	handler_role regrole NOT NULL,
	paused bool NOT NULL DEFAULT false,
	max_attempts int CHECK (max_attempts BETWEEN 1 AND 100),
	timeout_ms int CHECK (timeout_ms >= 0),
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE orion_private.consumers IS 'Queues whose messages are given to SQL functions';
COMMENT ON COLUMN orion_private.consumers.config IS 'Sealed JSON: it holds passwords';
COMMENT ON COLUMN orion_private.consumers.handler IS 'The function''s signature, qualified';
COMMENT ON COLUMN orion_private.consumers.handler_role IS 'Who made the consumer, and as whom the function runs';
COMMENT ON COLUMN orion_private.consumers.no_message_id IS 'What becomes of messages without an id';

CREATE TABLE orion_private.inbox (
	consumer_id int NOT NULL REFERENCES orion_private.consumers ON DELETE CASCADE,
	message_id text NOT NULL,
	handled_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	PRIMARY KEY (consumer_id, message_id)
);
CREATE INDEX inbox_handled_at ON orion_private.inbox (handled_at);
COMMENT ON TABLE orion_private.inbox IS 'Messages that were handled: they are not handled again';

CREATE TABLE orion_private.inbox_attempts (
	consumer_id int NOT NULL REFERENCES orion_private.consumers ON DELETE CASCADE,
	message_id text NOT NULL,
	attempts int NOT NULL,
	next_try_at timestamptz NOT NULL,
	last_error text NOT NULL,
	PRIMARY KEY (consumer_id, message_id)
);
CREATE INDEX inbox_attempts_next_try_at ON orion_private.inbox_attempts (next_try_at);
COMMENT ON TABLE orion_private.inbox_attempts IS 'Messages whose handler failed; they wait in their queue for the next attempt';

CREATE TABLE orion_private.inbox_dead_letters (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	consumer_id int NOT NULL REFERENCES orion_private.consumers ON DELETE CASCADE,
	message_id text NOT NULL,
	message jsonb NOT NULL,
	attempts int NOT NULL,
	error text NOT NULL,
	dead_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	redrive_at timestamptz,
	tries int NOT NULL DEFAULT 0
);
CREATE INDEX inbox_dead_letters_consumer ON orion_private.inbox_dead_letters (consumer_id, id);
CREATE INDEX inbox_dead_letters_redrive_at ON orion_private.inbox_dead_letters (consumer_id, redrive_at) WHERE redrive_at IS NOT NULL;
COMMENT ON TABLE orion_private.inbox_dead_letters IS 'Messages that were given up';
COMMENT ON COLUMN orion_private.inbox_dead_letters.redrive_at IS 'When it is given to the handler again; null: not at all';
COMMENT ON COLUMN orion_private.inbox_dead_letters.tries IS 'Attempts since somebody asked for that; an attempt is counted before it begins';

-- A low fillfactor keeps the updates, one a message, in their page.
CREATE TABLE orion_private.consumer_counts (
	consumer_id int PRIMARY KEY REFERENCES orion_private.consumers ON DELETE CASCADE,
	received bigint NOT NULL DEFAULT 0,
	handled bigint NOT NULL DEFAULT 0,
	duplicates bigint NOT NULL DEFAULT 0,
	failures bigint NOT NULL DEFAULT 0,
	dead bigint NOT NULL DEFAULT 0,
	last_message_at timestamptz,
	last_error text,
	last_error_at timestamptz
) WITH (fillfactor = 20, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE orion_private.consumer_counts IS 'What became of the messages of each consumer';

DO $do$
DECLARE
	relation text;
BEGIN
	FOREACH relation IN ARRAY ARRAY['consumers', 'consumers_id_seq', 'inbox', 'inbox_attempts', 'inbox_dead_letters',
		'inbox_dead_letters_id_seq', 'consumer_counts'] LOOP
		PERFORM pg_catalog.pg_extension_config_dump(pg_catalog.format('orion_private.%I', relation)::pg_catalog.regclass, '');
	END LOOP;
END
$do$;

CREATE TRIGGER consumers_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON orion_private.consumers
	FOR EACH STATEMENT EXECUTE FUNCTION orion_private.sinks_changed();

CREATE FUNCTION orion_private.consumer_seal(config jsonb, name text) RETURNS bytea
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_consumer_seal';
COMMENT ON FUNCTION orion_private.consumer_seal(jsonb, text) IS 'Seals the configuration of a consumer, which holds passwords';
REVOKE ALL ON FUNCTION orion_private.consumer_seal(jsonb, text) FROM PUBLIC;

-- What the courier would refuse as well, said before anything is stored.
CREATE FUNCTION orion_private.consumer_check(config jsonb) RETURNS void
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	IF config IS NULL OR jsonb_typeof(config) <> 'object' OR NOT config ?& ARRAY['url', 'queue'] THEN
		RAISE EXCEPTION 'the configuration of a consumer must be an object with a "url" and a "queue"'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'For example {"url": "amqp://user:password@localhost:5672/", "queue": "orders"}.';
	END IF;
	PERFORM orion_private.config_check(config, '{"url": "string", "hosts": "array", "tls": "object", "queue": "string", "prefetch": "number", "declare": "string",
		"max_body": "number", "no_message_id": "string"}');
	PERFORM orion_private.tls_check(config, 'amqp');
	IF octet_length(config ->> 'queue') > 255 THEN
		RAISE EXCEPTION 'config: key "queue" is longer than 255 bytes' USING ERRCODE = 'invalid_parameter_value';
	ELSIF config ? 'prefetch' AND (config ->> 'prefetch' !~ '^[0-9]{1,4}$' OR (config ->> 'prefetch')::int NOT BETWEEN 1 AND 1000) THEN
		RAISE EXCEPTION 'config: key "prefetch" must be an integer between 1 and 1000' USING ERRCODE = 'invalid_parameter_value';
	ELSIF config ? 'max_body' AND (config ->> 'max_body' !~ '^[0-9]{1,8}$' OR (config ->> 'max_body')::int NOT BETWEEN 1 AND 67108864) THEN
		RAISE EXCEPTION 'config: key "max_body" must be an integer between 1 and 67108864' USING ERRCODE = 'invalid_parameter_value';
	ELSIF config ->> 'declare' NOT IN ('classic', 'quorum') THEN
		RAISE EXCEPTION 'config: key "declare" must be classic or quorum' USING ERRCODE = 'invalid_parameter_value';
	ELSIF config ->> 'no_message_id' NOT IN ('process', 'hash', 'refuse') THEN
		RAISE EXCEPTION 'config: key "no_message_id" must be process, hash or refuse' USING ERRCODE = 'invalid_parameter_value';
	END IF;
END
$fn$;
COMMENT ON FUNCTION orion_private.consumer_check(jsonb) IS 'Refuses configurations of consumers that cannot be right';
REVOKE ALL ON FUNCTION orion_private.consumer_check(jsonb) FROM PUBLIC;

-- For orion_consume.
CREATE FUNCTION orion_private.consumer_add(name text, config jsonb, handler text, handler_role regrole, max_attempts int, timeout interval)
	RETURNS int
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	new_id int;
BEGIN
	IF name IS NULL OR name !~ '^[A-Za-z0-9_.-]{1,63}$' THEN
		RAISE EXCEPTION 'invalid name of a consumer: "%"', name
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Use 1 to 63 letters, digits, dots, hyphens and underscores.';
	END IF;
	PERFORM orion_private.consumer_check(config);
	IF max_attempts NOT BETWEEN 1 AND 100 THEN
		RAISE EXCEPTION 'the number of attempts must be from 1 to 100, not %', max_attempts USING ERRCODE = 'invalid_parameter_value';
	ELSIF timeout NOT BETWEEN interval '0' AND interval '1 day' THEN
		RAISE EXCEPTION 'the timeout must be from 0 to one day, not %', timeout USING ERRCODE = 'invalid_parameter_value';
	END IF;
	LOCK TABLE orion_private.consumers IN SHARE ROW EXCLUSIVE MODE;
	IF EXISTS (SELECT FROM orion_private.consumers c WHERE c.name = consumer_add.name) THEN
		RAISE EXCEPTION 'a consumer named "%" already exists', name USING ERRCODE = 'duplicate_object';
	ELSIF (SELECT count(*) >= 16 FROM orion_private.consumers) THEN
		RAISE EXCEPTION 'there may be 16 consumers' USING ERRCODE = 'program_limit_exceeded';
	END IF;
	INSERT INTO orion_private.consumers (name, queue, config, no_message_id, max_body, handler, handler_role, max_attempts, timeout_ms)
		VALUES (name, config ->> 'queue', orion_private.consumer_seal(config, name), coalesce(config ->> 'no_message_id', 'process'),
			coalesce((config ->> 'max_body')::int, 16777216), handler, handler_role, max_attempts, extract(epoch FROM timeout) * 1000)
		RETURNING id INTO new_id;
	INSERT INTO orion_private.consumer_counts (consumer_id) VALUES (new_id);
	PERFORM orion_private.audit('consumer.create', 'consumer', name,
		new => jsonb_build_object('queue', config -> 'queue', 'handler', handler, 'role', handler_role));
	RETURN new_id;
END
$fn$;
COMMENT ON FUNCTION orion_private.consumer_add(text, jsonb, text, regrole, int, interval) IS 'Adds a consumer';
REVOKE ALL ON FUNCTION orion_private.consumer_add(text, jsonb, text, regrole, int, interval) FROM PUBLIC;

-- In C, because only there the immediate caller is known: the handler runs as that role.
CREATE FUNCTION @extschema@.orion_consume(name text, config jsonb, handler regprocedure,
	max_attempts int DEFAULT NULL, timeout interval DEFAULT NULL)
	RETURNS int
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_consume';
COMMENT ON FUNCTION @extschema@.orion_consume(text, jsonb, regprocedure, int, interval)
	IS 'Calls handler(message jsonb) as the current role for each message of a RabbitMQ queue, with effect once; returns the consumer''s id';

CREATE FUNCTION @extschema@.orion_consume_alter(name text, config jsonb) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	PERFORM orion_private.consumer_check(config);
	UPDATE orion_private.consumers c SET
		queue = orion_consume_alter.config ->> 'queue',
		config = orion_private.consumer_seal(orion_consume_alter.config, c.name),
		no_message_id = coalesce(orion_consume_alter.config ->> 'no_message_id', 'process'),
		max_body = coalesce((orion_consume_alter.config ->> 'max_body')::int, 16777216)
		WHERE c.name = orion_consume_alter.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no consumer named "%"', name USING ERRCODE = 'undefined_object';
	END IF;
	-- the configuration holds passwords: only that it changed is said
	PERFORM orion_private.audit('consumer.alter', 'consumer', name, new => jsonb_build_object('queue', config -> 'queue'));
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_consume_alter(text, jsonb) IS 'Gives a consumer another configuration; it keeps its inbox';

CREATE FUNCTION orion_private.consumer_pause(consumer text, pause bool) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	UPDATE orion_private.consumers c SET paused = pause WHERE c.name = consumer;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no consumer named "%"', consumer USING ERRCODE = 'undefined_object';
	END IF;
	PERFORM orion_private.audit(CASE WHEN pause THEN 'consumer.pause' ELSE 'consumer.resume' END, 'consumer', consumer);
END
$fn$;
COMMENT ON FUNCTION orion_private.consumer_pause(text, bool) IS 'Pauses a consumer, or has it go on';
REVOKE ALL ON FUNCTION orion_private.consumer_pause(text, bool) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_consume_pause(name text) RETURNS void
	LANGUAGE sql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$ SELECT orion_private.consumer_pause(name, true) $fn$;
COMMENT ON FUNCTION @extschema@.orion_consume_pause(text) IS 'Stops taking messages from a queue; they wait there';

CREATE FUNCTION @extschema@.orion_consume_resume(name text) RETURNS void
	LANGUAGE sql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$ SELECT orion_private.consumer_pause(name, false) $fn$;
COMMENT ON FUNCTION @extschema@.orion_consume_resume(text) IS 'Takes messages from the queue of a paused consumer again';

CREATE FUNCTION @extschema@.orion_consume_drop(name text) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	DELETE FROM orion_private.consumers c WHERE c.name = orion_consume_drop.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no consumer named "%"', name USING ERRCODE = 'undefined_object';
	END IF;
	PERFORM orion_private.audit('consumer.drop', 'consumer', name);
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_consume_drop(text) IS 'Removes a consumer, its inbox and its dead letters; the queue stays';

REVOKE ALL ON FUNCTION
	@extschema@.orion_consume(text, jsonb, regprocedure, int, interval),
	@extschema@.orion_consume_alter(text, jsonb),
	@extschema@.orion_consume_pause(text),
	@extschema@.orion_consume_resume(text),
	@extschema@.orion_consume_drop(text)
	FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
	@extschema@.orion_consume(text, jsonb, regprocedure, int, interval),
	@extschema@.orion_consume_alter(text, jsonb),
	@extschema@.orion_consume_pause(text),
	@extschema@.orion_consume_resume(text),
	@extschema@.orion_consume_drop(text)
	TO orion_admin;

-- ---- for the worker ----

-- UTF-8 as text, anything else as "\x" and hexadecimal digits.
CREATE FUNCTION orion_private.inbox_text(bytes bytea) RETURNS text
	LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	RETURN convert_from(bytes, 'UTF8');
EXCEPTION WHEN OTHERS THEN
	RETURN '\x' || encode(bytes, 'hex');
END
$fn$;
COMMENT ON FUNCTION orion_private.inbox_text(bytea) IS 'A text of a message, whatever bytes it has';
REVOKE ALL ON FUNCTION orion_private.inbox_text(bytea) FROM PUBLIC;

-- JSON as it is, other text as a string, other bytes as base64.
CREATE FUNCTION orion_private.inbox_body(body bytea, OUT encoding text, OUT content jsonb)
	LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	string text;
BEGIN
	BEGIN
		string := convert_from(body, 'UTF8');
	EXCEPTION WHEN OTHERS THEN
		encoding := 'base64';
		content := to_jsonb(translate(encode(body, 'base64'), E'\n', ''));
		RETURN;
	END;
	BEGIN
		encoding := 'json';
		content := string::jsonb;
	EXCEPTION WHEN OTHERS THEN
		encoding := 'text';
		content := to_jsonb(string);
	END;
END
$fn$;
COMMENT ON FUNCTION orion_private.inbox_body(bytea) IS 'The body of a message as JSON, and how it is to be read';
REVOKE ALL ON FUNCTION orion_private.inbox_body(bytea) FROM PUBLIC;

CREATE TYPE orion_private.inbox_message AS (
	has_id bool,
	redelivered bool,
	id bytea,
	exchange bytea,
	routing_key bytea,
	properties bytea,
	body bytea
);
COMMENT ON TYPE orion_private.inbox_message IS 'A message as the courier has read it; body is null when it is too long';

-- What handlers get; also of a message that cannot be shown whole.
CREATE FUNCTION orion_private.inbox_json(m orion_private.inbox_message, queue text, message_id text) RETURNS jsonb
	LANGUAGE plpgsql IMMUTABLE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	properties jsonb;
	body record;
BEGIN
	BEGIN
		properties := convert_from(m.properties, 'UTF8')::jsonb;
	EXCEPTION WHEN OTHERS THEN
		properties := '{}';
	END;
	SELECT * INTO body FROM orion_private.inbox_body(m.body);
	RETURN properties || jsonb_build_object('messageId', CASE WHEN m.has_id THEN message_id END, 'queue', queue,
		'exchange', orion_private.inbox_text(m.exchange), 'routingKey', orion_private.inbox_text(m.routing_key),
		'redelivered', m.redelivered, 'encoding', body.encoding, 'body', body.content);
END
$fn$;
COMMENT ON FUNCTION orion_private.inbox_json(orion_private.inbox_message, text, text) IS 'A message as its handler gets it';
REVOKE ALL ON FUNCTION orion_private.inbox_json(orion_private.inbox_message, text, text) FROM PUBLIC;

-- By what a message is known: its id, else what it consists of, but for the headers,
-- where brokers count deliveries.
CREATE FUNCTION orion_private.inbox_key(m orion_private.inbox_message) RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
	SELECT CASE WHEN m.has_id THEN orion_private.inbox_text(m.id)
		ELSE 'sha256:' || encode(sha256(sha256(m.exchange) || sha256(m.routing_key) || coalesce(m.body, '')), 'hex') END
	$fn$;
COMMENT ON FUNCTION orion_private.inbox_key(orion_private.inbox_message) IS 'By what a message is known: its id, else a hash of exchange, routing key and body';
REVOKE ALL ON FUNCTION orion_private.inbox_key(orion_private.inbox_message) FROM PUBLIC;

-- Given up: whatever happens, a message that cannot even be shown must not come again for ever.
CREATE FUNCTION orion_private.inbox_bury(c orion_private.consumers, m orion_private.inbox_message, message_id text, attempts int, error text)
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	message jsonb;
BEGIN
	BEGIN
		message := orion_private.inbox_json(m, c.queue, message_id);
	EXCEPTION WHEN OTHERS THEN
		message := jsonb_build_object('messageId', message_id, 'queue', c.queue, 'body', NULL);
	END;
	INSERT INTO orion_private.inbox_dead_letters (consumer_id, message_id, message, attempts, error)
		VALUES (c.id, message_id, message, attempts, error);
	IF m.has_id OR c.no_message_id = 'hash' THEN
		INSERT INTO orion_private.inbox (consumer_id, message_id) VALUES (c.id, message_id) ON CONFLICT DO NOTHING;
	END IF;
	DELETE FROM orion_private.inbox_attempts a WHERE a.consumer_id = c.id AND a.message_id = inbox_bury.message_id;
	UPDATE orion_private.consumer_counts n SET dead = dead + 1, last_error = error, last_error_at = now(), last_message_at = now()
		WHERE n.consumer_id = c.id;
END
$fn$;
COMMENT ON FUNCTION orion_private.inbox_bury(orion_private.consumers, orion_private.inbox_message, text, int, text) IS 'Keeps a message as a dead letter';
REVOKE ALL ON FUNCTION orion_private.inbox_bury(orion_private.consumers, orion_private.inbox_message, text, int, text) FROM PUBLIC;

-- The beginning of the transaction in which a message is handled.  verdict: call (the
-- handler, with message), known (was handled before), wait (pause ms), dead, refuse.
CREATE FUNCTION orion_private.inbox_take(consumer int, m orion_private.inbox_message, OUT verdict text, OUT pause bigint, OUT message jsonb)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	c orion_private.consumers;
	known_as text := orion_private.inbox_key(m);
	attempt orion_private.inbox_attempts;
BEGIN
	SELECT * INTO c FROM orion_private.consumers x WHERE x.id = consumer FOR KEY SHARE;
	IF NOT FOUND THEN
		verdict := 'wait';
		pause := 1000;
		RETURN;
	END IF;
	SELECT * INTO attempt FROM orion_private.inbox_attempts a WHERE a.consumer_id = consumer AND a.message_id = known_as;
	IF attempt.next_try_at > clock_timestamp() THEN
		verdict := 'wait';
		pause := 1 + extract(epoch FROM attempt.next_try_at - clock_timestamp()) * 1000;
		RETURN;
	END IF;
	UPDATE orion_private.consumer_counts n SET received = received + 1, last_message_at = now() WHERE n.consumer_id = consumer;
	IF m.has_id OR c.no_message_id = 'hash' THEN
		INSERT INTO orion_private.inbox (consumer_id, message_id) VALUES (consumer, known_as) ON CONFLICT DO NOTHING;
		IF NOT FOUND THEN
			verdict := 'known';
			DELETE FROM orion_private.inbox_attempts a WHERE a.consumer_id = consumer AND a.message_id = known_as;
			UPDATE orion_private.consumer_counts n SET duplicates = duplicates + 1 WHERE n.consumer_id = consumer;
			RETURN;
		END IF;
	ELSIF c.no_message_id = 'refuse' THEN
		PERFORM orion_private.inbox_bury(c, m, known_as, 0, 'the message has no message id');
		verdict := 'dead';
		RETURN;
	END IF;
	IF m.body IS NULL THEN
		PERFORM orion_private.inbox_bury(c, m, known_as, 0, format('the body is longer than %s bytes', c.max_body));
		verdict := 'refuse';
		RETURN;
	END IF;
	IF attempt.attempts > 0 THEN
		DELETE FROM orion_private.inbox_attempts a WHERE a.consumer_id = consumer AND a.message_id = known_as;
	END IF;
	UPDATE orion_private.consumer_counts n SET handled = handled + 1 WHERE n.consumer_id = consumer;
	verdict := 'call';
	message := orion_private.inbox_json(m, c.queue, known_as);
END
$fn$;
COMMENT ON FUNCTION orion_private.inbox_take(int, orion_private.inbox_message) IS 'What to do with a message; all of it is undone when its handler fails';
REVOKE ALL ON FUNCTION orion_private.inbox_take(int, orion_private.inbox_message) FROM PUBLIC;

-- Counts a failed attempt; returns the pause in ms before the next one, -1 when there is none.
-- The pauses are 1 s, 2 s, 4 s, ... up to 5 minutes, each times 0.5 .. 1.5.
CREATE FUNCTION orion_private.inbox_fail(consumer int, m orion_private.inbox_message, error text, max_attempts int, count bool, pause bool)
	RETURNS bigint
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	c orion_private.consumers;
	known_as text := orion_private.inbox_key(m);
	attempt orion_private.inbox_attempts;
BEGIN
	SELECT * INTO c FROM orion_private.consumers x WHERE x.id = consumer FOR KEY SHARE;
	IF NOT FOUND THEN
		RETURN 1000;
	END IF;
	-- counted before it begins: it may be done already, and only its acknowledgement lost
	IF NOT pause AND EXISTS (SELECT FROM orion_private.inbox i WHERE i.consumer_id = consumer AND i.message_id = known_as) THEN
		RETURN 0;
	END IF;
	INSERT INTO orion_private.inbox_attempts AS a (consumer_id, message_id, attempts, next_try_at, last_error)
		VALUES (consumer, known_as, 1, now(), error)
		ON CONFLICT (consumer_id, message_id) DO UPDATE SET attempts = a.attempts + inbox_fail.count::int, last_error = excluded.last_error
			WHERE inbox_fail.pause OR a.next_try_at <= clock_timestamp()
		RETURNING * INTO attempt;
	IF pause THEN
		UPDATE orion_private.consumer_counts n SET received = received + 1, failures = failures + 1,
			last_error = error, last_error_at = now(), last_message_at = now() WHERE n.consumer_id = consumer;
		IF attempt.attempts >= max_attempts THEN
			PERFORM orion_private.inbox_bury(c, m, known_as, attempt.attempts, error);
			RETURN -1;
		END IF;
		UPDATE orion_private.inbox_attempts a SET next_try_at = clock_timestamp() + make_interval(secs =>
				least(300, power(2, attempt.attempts - 1)) * (0.5 + random()))
			WHERE a.consumer_id = consumer AND a.message_id = known_as
			RETURNING * INTO attempt;
	ELSIF attempt.attempts > max_attempts THEN
		PERFORM orion_private.inbox_bury(c, m, known_as, max_attempts, error);
		RETURN -1;
	END IF;
	RETURN greatest(0, 1 + extract(epoch FROM attempt.next_try_at - clock_timestamp()) * 1000);
END
$fn$;
COMMENT ON FUNCTION orion_private.inbox_fail(int, orion_private.inbox_message, text, int, bool, bool) IS 'Counts a failed attempt to handle a message; after the last one it is a dead letter';
REVOKE ALL ON FUNCTION orion_private.inbox_fail(int, orion_private.inbox_message, text, int, bool, bool) FROM PUBLIC;

-- ---- dead letters once more ----

-- Counts an attempt at the dead letter that is due, and returns it; 0 when none is.  Committed before
-- the attempt begins, so that one that ends the worker is not made for ever.
CREATE FUNCTION orion_private.inbox_redrive_next(consumer int, max_attempts int) RETURNS bigint
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	letter orion_private.inbox_dead_letters;
BEGIN
	LOOP
		SELECT * INTO letter FROM orion_private.inbox_dead_letters d WHERE d.consumer_id = consumer AND d.redrive_at <= now()
			ORDER BY d.redrive_at, d.id LIMIT 1 FOR UPDATE SKIP LOCKED;
		IF NOT FOUND THEN
			RETURN 0;
		END IF;
		EXIT WHEN letter.tries < max_attempts;
		UPDATE orion_private.inbox_dead_letters d SET redrive_at = NULL, error = 'the worker ended while it handled the message'
			WHERE d.id = letter.id;
	END LOOP;
	UPDATE orion_private.inbox_dead_letters d SET tries = tries + 1, attempts = attempts + 1,
		redrive_at = now() + make_interval(secs => least(300, power(2, letter.tries)) * (0.5 + random()))
		WHERE d.id = letter.id;
	RETURN letter.id;
END
$fn$;
COMMENT ON FUNCTION orion_private.inbox_redrive_next(int, int) IS 'The dead letter to be given to its handler now; 0 when there is none';
REVOKE ALL ON FUNCTION orion_private.inbox_redrive_next(int, int) FROM PUBLIC;

-- In the transaction in which the handler works; null when somebody has dropped it meanwhile.
CREATE FUNCTION orion_private.inbox_redrive_take(consumer int, letter bigint) RETURNS jsonb
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
	WITH gone AS (DELETE FROM orion_private.inbox_dead_letters d WHERE d.id = letter AND d.consumer_id = consumer RETURNING d.message),
	counted AS (UPDATE orion_private.consumer_counts n SET handled = handled + 1 WHERE n.consumer_id = consumer AND EXISTS (SELECT FROM gone))
	SELECT g.message FROM gone g
	$fn$;
COMMENT ON FUNCTION orion_private.inbox_redrive_take(int, bigint) IS 'Takes a dead letter away and returns its message; undone when the handler fails';
REVOKE ALL ON FUNCTION orion_private.inbox_redrive_take(int, bigint) FROM PUBLIC;

CREATE FUNCTION orion_private.inbox_redrive_fail(consumer int, letter bigint, error text, max_attempts int) RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
	UPDATE orion_private.inbox_dead_letters d SET error = inbox_redrive_fail.error,
		redrive_at = CASE WHEN d.tries < max_attempts THEN d.redrive_at END
		WHERE d.id = letter AND d.consumer_id = consumer;
	UPDATE orion_private.consumer_counts n SET failures = failures + 1, last_error = inbox_redrive_fail.error, last_error_at = now()
		WHERE n.consumer_id = consumer
	$fn$;
COMMENT ON FUNCTION orion_private.inbox_redrive_fail(int, bigint, text, int) IS 'Notes why a dead letter could not be handled; after the last attempt it rests again';
REVOKE ALL ON FUNCTION orion_private.inbox_redrive_fail(int, bigint, text, int) FROM PUBLIC;

CREATE FUNCTION orion_private.inbox_letter_consumer(letter bigint) RETURNS orion_private.consumers
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	c orion_private.consumers;
BEGIN
	SELECT x.* INTO c FROM orion_private.inbox_dead_letters d JOIN orion_private.consumers x ON x.id = d.consumer_id WHERE d.id = letter;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no dead letter % of a consumer', letter USING ERRCODE = 'undefined_object';
	END IF;
	RETURN c;
END
$fn$;
COMMENT ON FUNCTION orion_private.inbox_letter_consumer(bigint) IS 'The consumer of a dead letter; an error when there is none';
REVOKE ALL ON FUNCTION orion_private.inbox_letter_consumer(bigint) FROM PUBLIC;

CREATE FUNCTION orion_private.consumer_named(name text) RETURNS orion_private.consumers
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	c orion_private.consumers;
BEGIN
	SELECT * INTO c FROM orion_private.consumers x WHERE x.name = consumer_named.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no consumer named "%"', name USING ERRCODE = 'undefined_object';
	END IF;
	RETURN c;
END
$fn$;
COMMENT ON FUNCTION orion_private.consumer_named(text) IS 'The consumer with this name; an error when there is none';
REVOKE ALL ON FUNCTION orion_private.consumer_named(text) FROM PUBLIC;

-- A message without its body (it was too long) is not the message.
CREATE FUNCTION orion_private.inbox_redrive(c orion_private.consumers, letters bigint[]) RETURNS bigint
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	redriven bigint;
BEGIN
	UPDATE orion_private.inbox_dead_letters d SET redrive_at = now(), tries = 0
		WHERE d.consumer_id = c.id AND d.id = ANY (letters) AND d.message ->> 'encoding' IS NOT NULL;
	GET DIAGNOSTICS redriven = ROW_COUNT;
	-- the worker looks at it anew after the commit
	UPDATE orion_private.consumers x SET paused = paused WHERE x.id = c.id;
	PERFORM orion_private.audit('consumer.redrive', 'consumer', c.name,
		metadata => jsonb_build_object('role', orion_private.caller()::regrole, 'messages', redriven));
	RETURN redriven;
END
$fn$;
COMMENT ON FUNCTION orion_private.inbox_redrive(orion_private.consumers, bigint[]) IS 'Has dead letters given to their handler again; returns how many';
REVOKE ALL ON FUNCTION orion_private.inbox_redrive(orion_private.consumers, bigint[]) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_inbox_redrive(dead_letter bigint) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	redriven bigint := orion_private.inbox_redrive(orion_private.inbox_letter_consumer(dead_letter), ARRAY[dead_letter]);
BEGIN
	IF redriven = 0 THEN
		RAISE EXCEPTION 'the body of dead letter % was not kept', dead_letter USING ERRCODE = 'object_not_in_prerequisite_state',
			HINT = 'orion_inbox_drop() removes it.';
	END IF;
	RETURN redriven;
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_inbox_redrive(bigint) IS 'Gives a dead letter of a consumer to its handler again';

CREATE FUNCTION @extschema@.orion_inbox_redrive(consumer text, max int DEFAULT NULL) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	c orion_private.consumers := orion_private.consumer_named(consumer);
BEGIN
	RETURN orion_private.inbox_redrive(c, ARRAY(SELECT d.id FROM orion_private.inbox_dead_letters d
		WHERE d.consumer_id = c.id AND d.redrive_at IS NULL AND d.message ->> 'encoding' IS NOT NULL ORDER BY d.id LIMIT max));
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_inbox_redrive(text, int)
	IS 'Gives the dead letters of a consumer to its handler again, the oldest first and at most max; returns how many';

CREATE FUNCTION orion_private.inbox_drop(c orion_private.consumers, letters bigint[]) RETURNS bigint
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	dropped bigint;
BEGIN
	DELETE FROM orion_private.inbox_dead_letters d WHERE d.consumer_id = c.id AND d.id = ANY (letters);
	GET DIAGNOSTICS dropped = ROW_COUNT;
	PERFORM orion_private.audit('consumer.discard', 'consumer', c.name,
		metadata => jsonb_build_object('role', orion_private.caller()::regrole, 'messages', dropped));
	RETURN dropped;
END
$fn$;
COMMENT ON FUNCTION orion_private.inbox_drop(orion_private.consumers, bigint[]) IS 'Deletes dead letters; returns how many';
REVOKE ALL ON FUNCTION orion_private.inbox_drop(orion_private.consumers, bigint[]) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_inbox_drop(dead_letter bigint) RETURNS bigint
	LANGUAGE sql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$ SELECT orion_private.inbox_drop(orion_private.inbox_letter_consumer(dead_letter), ARRAY[dead_letter]) $fn$;
COMMENT ON FUNCTION @extschema@.orion_inbox_drop(bigint) IS 'Deletes a dead letter of a consumer; its message stays known as handled';

CREATE FUNCTION @extschema@.orion_inbox_drop(consumer text, max int DEFAULT NULL) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	c orion_private.consumers := orion_private.consumer_named(consumer);
BEGIN
	RETURN orion_private.inbox_drop(c, ARRAY(SELECT d.id FROM orion_private.inbox_dead_letters d
		WHERE d.consumer_id = c.id ORDER BY d.id LIMIT max));
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_inbox_drop(text, int)
	IS 'Deletes the dead letters of a consumer, the oldest first and at most max; returns how many';

REVOKE ALL ON FUNCTION
	@extschema@.orion_inbox_redrive(bigint),
	@extschema@.orion_inbox_redrive(text, int),
	@extschema@.orion_inbox_drop(bigint),
	@extschema@.orion_inbox_drop(text, int)
	FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
	@extschema@.orion_inbox_redrive(bigint),
	@extschema@.orion_inbox_redrive(text, int),
	@extschema@.orion_inbox_drop(bigint),
	@extschema@.orion_inbox_drop(text, int)
	TO orion_admin;

CREATE FUNCTION orion_private.inbox_maintain(retention interval) RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
	DELETE FROM orion_private.inbox WHERE ctid = ANY (ARRAY(
		SELECT i.ctid FROM orion_private.inbox i WHERE i.handled_at < now() - retention ORDER BY i.handled_at LIMIT 50000));
	-- of messages that somebody has taken out of their queue
	DELETE FROM orion_private.inbox_attempts WHERE next_try_at < now() - retention;
	$fn$;
COMMENT ON FUNCTION orion_private.inbox_maintain(interval) IS 'Forgets messages that were handled long ago';
REVOKE ALL ON FUNCTION orion_private.inbox_maintain(interval) FROM PUBLIC;

-- ---- to read ----

GRANT SELECT (id, name, queue, no_message_id, max_body, handler, handler_role, paused, max_attempts, timeout_ms, created_at)
	ON orion_private.consumers TO orion_admin, pg_monitor;
GRANT SELECT ON orion_private.consumer_counts TO orion_admin, pg_monitor;
GRANT SELECT (consumer_id) ON orion_private.inbox_attempts TO pg_monitor;
GRANT SELECT ON orion_private.inbox_attempts, orion_private.inbox_dead_letters TO orion_admin;

CREATE VIEW orion.consumers WITH (security_invoker = true) AS
	SELECT c.id, c.name, c.queue, c.handler, c.handler_role,
		CASE WHEN c.paused THEN 'paused' WHEN pg_catalog.pg_is_in_recovery() THEN 'standby'
			ELSE coalesce(w.state, 'stopped') END AS state,
		n.received, n.handled, n.duplicates, n.failures, n.dead,
		(SELECT pg_catalog.count(*) FROM (SELECT FROM orion_private.inbox_attempts a
			WHERE a.consumer_id OPERATOR(pg_catalog.=) c.id LIMIT 1000) x) AS waiting,
		n.last_message_at, coalesce(w.last_error, n.last_error) AS last_error, n.last_error_at
	FROM orion_private.consumers c
	JOIN orion_private.consumer_counts n ON n.consumer_id OPERATOR(pg_catalog.=) c.id
	LEFT JOIN orion_private.workers() w ON w.kind OPERATOR(pg_catalog.=) 'consumer' AND w.name OPERATOR(pg_catalog.=) c.name;
COMMENT ON VIEW orion.consumers IS 'Consumers of queues: state, messages received, handled, known already, failed, given up; those that wait for another attempt (counted up to 1,000); last error';
GRANT SELECT ON orion.consumers TO orion_admin, pg_monitor;

CREATE VIEW orion.inbox_dead_letters WITH (security_invoker = true) AS
	SELECT d.id, c.name AS consumer, d.message_id, d.message, d.attempts, d.error, d.dead_at, d.redrive_at
	FROM orion_private.inbox_dead_letters d
	JOIN orion_private.consumers c ON c.id OPERATOR(pg_catalog.=) d.consumer_id;
COMMENT ON VIEW orion.inbox_dead_letters IS 'Messages whose handler failed too often, or that could not be given to it, with the reason; redrive_at: it is given to the handler again, then';
GRANT SELECT ON orion.inbox_dead_letters TO orion_admin;

-- src/rest/rest.sql

-- Named routes: HTTP endpoints of Orion and of the application.

-- The function is kept as text, not as regprocedure, which pg_upgrade refuses in
-- tables. A route whose function is gone answers 404.
CREATE TABLE orion_private.routes (
	method text NOT NULL CHECK (method IN ('GET', 'POST', 'PUT', 'PATCH', 'DELETE')),
	path text NOT NULL CHECK (path ~ '^(/([A-Za-z0-9._~-]+|\{[A-Za-z_][A-Za-z0-9_]*\}))+$'),
	function text NOT NULL,
	role_required name,
	comment text,
	PRIMARY KEY (method, path)
);
COMMENT ON TABLE orion_private.routes IS 'HTTP method and path pattern of each named route and the function that answers it';
-- A dump has all that the install script has not made, also what it has made and
-- somebody replaced or removed.
SELECT pg_catalog.pg_extension_config_dump('orion_private.routes', 'WHERE function !~ ''^orion_private\.route_'' OR path !~ ''^/(api/(auth|user)|\.well-known)/''');

-- A restored row takes the place of the install script's.
CREATE FUNCTION orion_private.routes_replace() RETURNS trigger
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	DELETE FROM orion_private.routes r WHERE r.method = NEW.method AND r.path = NEW.path;
	RETURN NEW;
END
$fn$;
COMMENT ON FUNCTION orion_private.routes_replace() IS 'Lets a row replace the one of the same method and path';
REVOKE ALL ON FUNCTION orion_private.routes_replace() FROM PUBLIC;
CREATE TRIGGER replace BEFORE INSERT ON orion_private.routes
	FOR EACH ROW EXECUTE FUNCTION orion_private.routes_replace();
ALTER TABLE orion_private.routes ENABLE ALWAYS TRIGGER replace;

CREATE FUNCTION orion_private.routes_changed() RETURNS trigger
	LANGUAGE c VOLATILE
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'orion_routes_changed';
COMMENT ON FUNCTION orion_private.routes_changed() IS 'Makes the executors read the routes again after this transaction';
REVOKE ALL ON FUNCTION orion_private.routes_changed() FROM PUBLIC;

CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON orion_private.routes
	FOR EACH STATEMENT EXECUTE FUNCTION orion_private.routes_changed();

CREATE FUNCTION @extschema@.orion_route_add(method text, path text, function regprocedure,
	role_required name DEFAULT NULL, comment text DEFAULT NULL)
	RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	called pg_catalog.pg_proc;
BEGIN
	SELECT * INTO called FROM pg_catalog.pg_proc p WHERE p.oid = orion_route_add.function;
	IF NOT FOUND OR called.prokind <> 'f' OR called.proretset OR called.prorettype <> 'pg_catalog.jsonb'::regtype
		OR called.pronargs <> 1 OR called.proargtypes[0] <> 'pg_catalog.jsonb'::regtype THEN
		RAISE EXCEPTION 'function % does not take and return jsonb', orion_route_add.function
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'A route''s function takes the request as one jsonb argument and returns the body as jsonb.';
	END IF;
	IF called.pronamespace::regnamespace::text ~ '^pg_temp_' THEN
		RAISE EXCEPTION 'function % is temporary', orion_route_add.function USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Its schema is somebody else''s the next time.';
	END IF;
	IF orion_route_add.path IS NULL OR orion_route_add.path !~ '^(/([A-Za-z0-9._~-]+|\{[A-Za-z_][A-Za-z0-9_]*\}))+$' THEN
		RAISE EXCEPTION '"%" is not a path of a route', orion_route_add.path
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'A path is /segment/segment...; a segment is letters, digits and ._~-, or {name}.';
	END IF;
	INSERT INTO orion_private.routes AS r (method, path, function, role_required, comment)
		VALUES (pg_catalog.upper(orion_route_add.method), orion_route_add.path,
			orion_route_add.function::text, orion_route_add.role_required, orion_route_add.comment)
		-- of two at once
		ON CONFLICT ON CONSTRAINT routes_pkey DO UPDATE
			SET function = excluded.function, role_required = excluded.role_required, comment = excluded.comment;
END
$$;
COMMENT ON FUNCTION @extschema@.orion_route_add(text, text, regprocedure, name, text) IS
	'Answers a method and path (segments may be {name}) by a function (request jsonb) returns jsonb; replaces an earlier route';
REVOKE ALL ON FUNCTION @extschema@.orion_route_add(text, text, regprocedure, name, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_route_add(text, text, regprocedure, name, text) TO orion_admin;

CREATE FUNCTION @extschema@.orion_route_remove(method text, path text)
	RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- one that the install script may have made must not come back with it: its row stays, without
	-- a function
	UPDATE orion_private.routes r SET function = 'orion_private.removed(jsonb)', role_required = NULL, comment = NULL
		WHERE r.method = pg_catalog.upper(orion_route_remove.method) AND r.path = orion_route_remove.path
			AND r.path ~ '^/(api/(auth|user)|\.well-known)/' AND r.function <> 'orion_private.removed(jsonb)';
	IF FOUND THEN
		RETURN true;
	END IF;
	DELETE FROM orion_private.routes r
		WHERE r.method = pg_catalog.upper(orion_route_remove.method) AND r.path = orion_route_remove.path
			AND r.function <> 'orion_private.removed(jsonb)';
	RETURN FOUND;
END
$$;
COMMENT ON FUNCTION @extschema@.orion_route_remove(text, text) IS 'Removes a route; false when there is none';
REVOKE ALL ON FUNCTION @extschema@.orion_route_remove(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_route_remove(text, text) TO orion_admin;

-- Answers of requests with an Idempotency-Key, see src/rest/idempotency.c. The
-- id and the request are keyed digests, the answer is sealed.
CREATE TABLE orion_private.idempotency_keys (
	id bytea PRIMARY KEY,
	request bytea NOT NULL,
	answer bytea,
	expires_at timestamptz NOT NULL
);
ALTER TABLE orion_private.idempotency_keys ALTER COLUMN answer SET STORAGE EXTERNAL;
COMMENT ON TABLE orion_private.idempotency_keys IS 'Answers that are given again when a request is sent again';
CREATE INDEX ON orion_private.idempotency_keys (expires_at);
SELECT pg_catalog.pg_extension_config_dump('orion_private.idempotency_keys', '');

-- Routes of the other modules. Rows and no calls: in the schema of the extension
-- somebody may have put a function that fits untyped arguments better.

INSERT INTO orion_private.routes (method, path, function, comment) VALUES
	('POST', '/api/auth/register', 'orion_private.route_register(jsonb)', 'Registers a user'),
	('POST', '/api/auth/login', 'orion_private.route_login(jsonb)', 'Signs a user in'),
	('POST', '/api/auth/refresh', 'orion_private.route_refresh(jsonb)', 'New tokens for a refresh token'),
	('POST', '/api/auth/logout', 'orion_private.route_logout(jsonb)', 'Ends this session or all'),
	('GET', '/api/auth/sessions', 'orion_private.route_sessions(jsonb)', 'The sessions of the user'),
	('DELETE', '/api/auth/sessions', 'orion_private.route_sessions_end(jsonb)', 'Ends all other sessions'),
	('DELETE', '/api/auth/sessions/{id}', 'orion_private.route_session_end(jsonb)', 'Ends one session'),
	('GET', '/api/auth/devices', 'orion_private.route_devices(jsonb)', 'The devices of the user'),
	('DELETE', '/api/auth/devices/{id}', 'orion_private.route_device_forget(jsonb)', 'Forgets a device and ends its sessions'),
	('GET', '/api/auth/health', 'orion_private.route_auth_health(jsonb)', 'Whether sign-in works'),
	('POST', '/api/auth/verify-email', 'orion_private.route_verify_email(jsonb)', 'Confirms the mail address of a registration'),
	('POST', '/api/auth/password-reset', 'orion_private.route_password_reset(jsonb)', 'Has a token for a new password sent'),
	('POST', '/api/auth/password-reset/confirm', 'orion_private.route_password_reset_confirm(jsonb)', 'Sets a new password by that token'),
	('POST', '/api/auth/password-change', 'orion_private.route_password_change(jsonb)', 'Changes the password'),
	('GET', '/.well-known/jwks.json', 'orion_private.route_jwks(jsonb)', 'Public keys of access tokens');
INSERT INTO orion_private.routes (method, path, function, comment) VALUES
	('GET', '/api/auth/2fa', 'orion_private.route_two_factor(jsonb)', 'The second factor of the user'),
	('POST', '/api/auth/2fa/setup', 'orion_private.route_two_factor_setup(jsonb)', 'A secret for an authenticator app'),
	('POST', '/api/auth/2fa/verify', 'orion_private.route_two_factor_verify(jsonb)', 'Confirms the app, completes a sign-in, raises a session'),
	('POST', '/api/auth/2fa/verify-backup', 'orion_private.route_two_factor_verify_backup(jsonb)', 'The same with a backup code'),
	('POST', '/api/auth/2fa/disable', 'orion_private.route_two_factor_disable(jsonb)', 'Removes the second factor'),
	('POST', '/api/auth/2fa/backup-codes', 'orion_private.route_backup_codes(jsonb)', 'New backup codes'),
	('GET', '/api/auth/2fa/trusted-devices', 'orion_private.route_trusted_devices(jsonb)', 'Devices that need no second factor'),
	('DELETE', '/api/auth/2fa/trusted-devices', 'orion_private.route_trusted_device_revoke(jsonb)', 'Trusts no device any more'),
	('DELETE', '/api/auth/2fa/trusted-devices/{id}', 'orion_private.route_trusted_device_revoke(jsonb)', 'Trusts a device no more');
INSERT INTO orion_private.routes (method, path, function, comment) VALUES
	('GET', '/api/user/api-keys', 'orion_private.route_api_key_list(jsonb)', 'API keys of the user'),
	('POST', '/api/user/api-keys', 'orion_private.route_api_key_create(jsonb)', 'Makes an API key'),
	('DELETE', '/api/user/api-keys', 'orion_private.route_api_key_revoke(jsonb)', 'Revokes an API key'),
	('DELETE', '/api/user/api-keys/{id}', 'orion_private.route_api_key_revoke(jsonb)', 'Revokes an API key');
INSERT INTO orion_private.routes (method, path, function, comment) VALUES
	('GET', '/api/user/profile', 'orion_private.route_profile(jsonb)', 'The profile of the user'),
	('PATCH', '/api/user/profile', 'orion_private.route_profile_update(jsonb)', 'Changes the profile'),
	('POST', '/api/user/email/confirm', 'orion_private.route_email_confirm(jsonb)', 'Confirms a new mail address'),
	('GET', '/api/user/preferences', 'orion_private.route_preferences(jsonb)', 'The preferences of the user'),
	('PATCH', '/api/user/preferences', 'orion_private.route_preferences_update(jsonb)', 'Changes preferences'),
	('POST', '/api/user/{id}/follow', 'orion_private.route_follow(jsonb)', 'Follows a user'),
	('DELETE', '/api/user/{id}/follow', 'orion_private.route_unfollow(jsonb)', 'Follows a user no more'),
	('GET', '/api/user/list', 'orion_private.route_user_list(jsonb)', 'The users'),
	('GET', '/api/user/health', 'orion_private.route_user_health(jsonb)', 'Whether users can be read');
