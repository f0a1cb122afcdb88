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
