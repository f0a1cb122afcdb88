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
