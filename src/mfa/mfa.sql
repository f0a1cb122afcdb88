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
