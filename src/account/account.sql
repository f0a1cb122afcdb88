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
