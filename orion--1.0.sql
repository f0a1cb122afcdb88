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
	sealed_xid xid8
);
COMMENT ON TABLE orion_private.outbox_state IS 'What each segment of the outbox holds';

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

-- Which cluster the transaction ids in these tables belong to.  The name sorts
-- behind the other tables, so a restore fills it last.
CREATE TABLE orion_private.system_origin (
	system_identifier bigint NOT NULL
);
COMMENT ON TABLE orion_private.system_origin IS 'Whose transaction ids the outbox and the cursors hold; a second row appears when a dump is restored';

CREATE TABLE orion_private.sinks (
	id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name text NOT NULL UNIQUE CHECK (name ~ '^[A-Za-z0-9_.-]{1,63}$'),
	kind text NOT NULL CHECK (kind IN ('redis', 'rabbitmq', 'sql')),
	pattern text NOT NULL DEFAULT '#',
	paused bool NOT NULL DEFAULT false,
	config bytea,
	handler text,
	handler_role regrole,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	CHECK ((kind = 'sql') = (handler IS NOT NULL AND handler_role IS NOT NULL)),
	CHECK ((kind = 'sql') = (config IS NULL))
);
COMMENT ON TABLE orion_private.sinks IS 'Where events are sent to';
COMMENT ON COLUMN orion_private.sinks.config IS 'Sealed JSON: it holds passwords';
COMMENT ON COLUMN orion_private.sinks.handler IS 'kind sql: the function''s signature, qualified';
COMMENT ON COLUMN orion_private.sinks.handler_role IS 'kind sql: who subscribed, and as whom the function runs';

-- How far a sink is.  The window from_snapshot .. upto_snapshot is being delivered in
-- the order of seq, up to and including seq; upto_snapshot is null between windows.
-- A low fillfactor keeps the updates in their page.
CREATE TABLE orion_private.cursors (
	sink_id int PRIMARY KEY REFERENCES orion_private.sinks ON DELETE CASCADE,
	from_snapshot pg_snapshot NOT NULL,
	upto_snapshot pg_snapshot,
	window_no bigint NOT NULL DEFAULT 0,
	seq bigint NOT NULL DEFAULT 0,
	delivered bigint NOT NULL DEFAULT 0,
	updated_at timestamptz NOT NULL DEFAULT pg_catalog.now()
) WITH (fillfactor = 20, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE orion_private.cursors IS 'How far each sink is in the outbox';

CREATE TABLE orion_private.parked (
	sink_id int NOT NULL REFERENCES orion_private.sinks ON DELETE CASCADE,
	seq bigint NOT NULL,
	window_no bigint NOT NULL,
	event jsonb NOT NULL,
	attempts int NOT NULL,
	next_try_at timestamptz NOT NULL,
	last_error text,
	PRIMARY KEY (sink_id, seq)
);
CREATE INDEX parked_next_try ON orion_private.parked (sink_id, next_try_at);
COMMENT ON TABLE orion_private.parked IS 'Events whose SQL handler failed and will be called again';

CREATE TABLE orion_private.dead_letters (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	sink_id int NOT NULL REFERENCES orion_private.sinks ON DELETE CASCADE,
	position text NOT NULL,
	event jsonb NOT NULL,
	attempts int NOT NULL,
	error text NOT NULL,
	dead_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE orion_private.dead_letters IS 'Events that a sink refused for good';

DO $do$
DECLARE
	relation text;
BEGIN
	FOREACH relation IN ARRAY ARRAY['outbox_seq', 'system_origin', 'sinks', 'sinks_id_seq', 'cursors', 'parked', 'dead_letters', 'dead_letters_id_seq'] LOOP
		PERFORM pg_catalog.pg_extension_config_dump(pg_catalog.format('orion_private.%I', relation)::pg_catalog.regclass, '');
	END LOOP;
END
$do$;

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
