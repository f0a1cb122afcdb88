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
