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
