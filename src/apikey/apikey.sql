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
