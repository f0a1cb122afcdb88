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
