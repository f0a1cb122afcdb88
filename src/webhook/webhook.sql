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
