-- What users say about themselves: profile, mail address, preferences, whom they
-- follow; and the list of users for those who may see it.

CREATE TABLE orion_private.email_changes (
	user_id uuid PRIMARY KEY REFERENCES orion_private.users ON DELETE CASCADE,
	email text COLLATE "C" NOT NULL CHECK (email = lower(email) AND octet_length(email) <= 254),
	digest bytea NOT NULL UNIQUE,
	requested_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	expires_at timestamptz NOT NULL
);
COMMENT ON TABLE orion_private.email_changes IS 'Mail addresses that wait for their confirmation; of the token SHA-256 is kept';
CREATE TABLE orion_private.preferences (
	user_id uuid PRIMARY KEY REFERENCES orion_private.users ON DELETE CASCADE,
	preferences jsonb NOT NULL DEFAULT '{}'
		CHECK (jsonb_typeof(preferences) = 'object' AND octet_length(preferences::text) <= 16384),
	version bigint NOT NULL DEFAULT 1,
	updated_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE orion_private.preferences IS 'What users have chosen; the application says what is in it';
CREATE TRIGGER preferences_version BEFORE UPDATE ON orion_private.preferences
	FOR EACH ROW EXECUTE FUNCTION @extschema@.orion_version_bump('updated_at');
CREATE TABLE orion_private.follows (
	follower_id uuid NOT NULL REFERENCES orion_private.users ON DELETE CASCADE,
	user_id uuid NOT NULL REFERENCES orion_private.users ON DELETE CASCADE,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	PRIMARY KEY (follower_id, user_id),
	CHECK (follower_id <> user_id)
);
COMMENT ON TABLE orion_private.follows IS 'Who follows whom';
CREATE INDEX follows_user_id ON orion_private.follows (user_id);
CREATE INDEX users_created_at ON orion_private.users (created_at, id);
SELECT pg_catalog.pg_extension_config_dump('orion_private.email_changes', '');
SELECT pg_catalog.pg_extension_config_dump('orion_private.preferences', '');
SELECT pg_catalog.pg_extension_config_dump('orion_private.follows', '');

CREATE FUNCTION orion_private.user_audit() RETURNS trigger
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	columns text[] := '{email,role,display_name,avatar_url,user_metadata,app_metadata,email_verified_at}';
	before jsonb;
	after jsonb;
BEGIN
	SELECT jsonb_object_agg(o.key, o.value), jsonb_object_agg(o.key, n.value) INTO before, after
	FROM jsonb_each(to_jsonb(OLD)) AS o JOIN jsonb_each(to_jsonb(NEW)) AS n ON n.key = o.key
	WHERE o.key = ANY (columns) AND o.value <> n.value;
	IF before IS NOT NULL THEN
		PERFORM orion_private.audit('user.updated', 'user', NEW.id::text, old => before, new => after,
			metadata => jsonb_build_object('version', NEW.version));
	END IF;
	RETURN NULL;
END
$function$;
COMMENT ON FUNCTION orion_private.user_audit() IS 'Adds changed columns of a user to the audit log, before and after, however they were changed';
REVOKE ALL ON FUNCTION orion_private.user_audit() FROM PUBLIC;
CREATE TRIGGER users_audit AFTER UPDATE OF email, role, display_name, avatar_url, user_metadata, app_metadata, email_verified_at
	ON orion_private.users FOR EACH ROW EXECUTE FUNCTION orion_private.user_audit();

CREATE FUNCTION orion_private.account_audit() RETURNS trigger
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	IF TG_TABLE_NAME = 'sessions' THEN
		PERFORM orion_private.audit(
			CASE NEW.revoke_reason WHEN 'token_reused' THEN 'security.token_reused' ELSE 'auth.session_ended' END,
			'session', NEW.id::text, actor => CASE NEW.revoke_reason WHEN 'token_reused' THEN NEW.user_id END,
			metadata => jsonb_build_object('userId', NEW.user_id, 'reason', NEW.revoke_reason));
	ELSIF TG_OP = 'DELETE' THEN
		PERFORM orion_private.audit('user.deleted', 'user', OLD.id::text,
			old => jsonb_build_object('email', OLD.email, 'role', OLD.role));
	ELSE
		PERFORM orion_private.audit(CASE WHEN NEW.banned_until > now() THEN 'user.banned' ELSE 'user.unbanned' END, 'user', NEW.id::text,
			old => jsonb_build_object('until', OLD.banned_until), new => jsonb_build_object('until', NEW.banned_until));
	END IF;
	RETURN NULL;
END
$function$;
COMMENT ON FUNCTION orion_private.account_audit() IS 'Adds ended sessions, bans and deletions to the audit log';
REVOKE ALL ON FUNCTION orion_private.account_audit() FROM PUBLIC;

-- Attempts are written by who makes them or, when that may roll back, by the
-- maintenance worker. What COPY brings was on record when it was dumped; it names the
-- table, or COPY (SELECT orion_login(...)) would leave no trace.
CREATE FUNCTION orion_private.login_audit() RETURNS trigger
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	IF coalesce(current_query(), '') !~* '^\s*copy\s+orion_private\.login_attempts\M' THEN
		PERFORM orion_private.audit('auth.login', 'user', a.user_id::text, a.outcome, actor => a.user_id,
			address => a.address, user_agent => a.user_agent)
		FROM added AS a WHERE a.outcome NOT IN ('invalid_token', 'email_exists', 'reset_requested');
	END IF;
	RETURN NULL;
END
$function$;
COMMENT ON FUNCTION orion_private.login_audit() IS 'Adds attempts to log in to the audit log';
REVOKE ALL ON FUNCTION orion_private.login_audit() FROM PUBLIC;
CREATE TRIGGER login_audit AFTER INSERT ON orion_private.login_attempts
	REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION orion_private.login_audit();
CREATE TRIGGER account_audit AFTER DELETE ON orion_private.users
	FOR EACH ROW EXECUTE FUNCTION orion_private.account_audit();
CREATE TRIGGER account_audit_ban AFTER UPDATE OF banned_until ON orion_private.users
	FOR EACH ROW WHEN (NEW.banned_until IS DISTINCT FROM OLD.banned_until)
	EXECUTE FUNCTION orion_private.account_audit();
CREATE TRIGGER account_audit AFTER UPDATE OF revoked_at ON orion_private.sessions
	FOR EACH ROW WHEN (OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL)
	EXECUTE FUNCTION orion_private.account_audit();

-- Called and not a trigger: restoring a dump must not give back what was taken.
-- Who keeps books of roles by role.assigned must not miss those that come with the user.
CREATE FUNCTION orion_private.user_made(user_id uuid) RETURNS void
	LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	given text;
BEGIN
	INSERT INTO orion_private.preferences AS p (user_id) VALUES (user_made.user_id) ON CONFLICT ON CONSTRAINT preferences_pkey DO NOTHING;
	PERFORM orion_private.audit('user.created', 'user', user_id::text, actor => user_id,
		new => (SELECT jsonb_build_object('email', u.email, 'role', u.role) FROM orion_private.users AS u WHERE u.id = user_made.user_id));
	FOR given IN
		INSERT INTO orion_private.user_roles AS r (user_id, role)
		SELECT user_made.user_id, known.name FROM orion_private.roles AS known WHERE known.is_default ORDER BY known.name
		ON CONFLICT ON CONSTRAINT user_roles_pkey DO NOTHING
		RETURNING r.role
	LOOP
		PERFORM orion_private.audit('role.assigned', 'user', user_id::text, actor => user_id,
			new => jsonb_build_object('role', given), metadata => '{"default": true}');
		PERFORM orion_private.publish('role.assigned', jsonb_build_object('userId', user_id, 'role', given,
			'assignedBy', NULL), 'user', user_id::text);
	END LOOP;
END
$function$;
COMMENT ON FUNCTION orion_private.user_made(uuid) IS 'Gives a new user preferences and the default roles, and puts the user on record';
REVOKE ALL ON FUNCTION orion_private.user_made(uuid) FROM PUBLIC;

-- A new mail address counts once the token that was sent there comes back

CREATE FUNCTION orion_private.email_token_make(user_id uuid, OUT digest bytea, OUT sealed text)
	LANGUAGE c VOLATILE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_email_token_make';
COMMENT ON FUNCTION orion_private.email_token_make(uuid) IS 'A new token: its SHA-256, and itself sealed for the user';
REVOKE ALL ON FUNCTION orion_private.email_token_make(uuid) FROM PUBLIC;
CREATE FUNCTION @extschema@.orion_email_token_open(user_id uuid, sealed text) RETURNS text
	LANGUAGE c STABLE STRICT PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'orion_email_token_open';
COMMENT ON FUNCTION @extschema@.orion_email_token_open(uuid, text) IS 'The token of an event with a sealedToken (user.created, user.email_change_requested, auth.password_reset_requested), for who sends the mail';
REVOKE ALL ON FUNCTION @extschema@.orion_email_token_open(uuid, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_email_token_open(uuid, text) TO orion_service, orion_admin;

CREATE FUNCTION orion_private.email_change(u orion_private.users, new_email text) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	made record := orion_private.email_token_make(u.id);
	until timestamptz := now() + interval '1 hour';
BEGIN
	-- also when somebody has this address: that shows when the token comes back
	INSERT INTO orion_private.email_changes AS c (user_id, email, digest, expires_at)
	VALUES (u.id, new_email, made.digest, until)
	ON CONFLICT ON CONSTRAINT email_changes_pkey DO UPDATE
		SET email = excluded.email, digest = excluded.digest, requested_at = now(), expires_at = excluded.expires_at;
	PERFORM orion_private.audit('user.email_change_requested', 'user', u.id::text,
		old => jsonb_build_object('email', u.email), new => jsonb_build_object('email', new_email));
	PERFORM orion_private.publish('user.email_change_requested', jsonb_build_object('id', u.id, 'email', u.email,
		'newEmail', new_email, 'sealedToken', made.sealed, 'expiresAt', until), 'user', u.id::text);
END
$function$;
COMMENT ON FUNCTION orion_private.email_change(orion_private.users, text) IS 'Asks for the confirmation of a new mail address; replaces an earlier request';
REVOKE ALL ON FUNCTION orion_private.email_change(orion_private.users, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_email_confirm(token text, OUT status text, OUT user_id uuid, OUT email text)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	sent bytea := sha256(convert_to(token, 'UTF8'));
	change orion_private.email_changes;
BEGIN
	-- of two at once one finds the row
	DELETE FROM orion_private.email_changes AS c WHERE c.digest = sent RETURNING c.* INTO change;
	IF change.user_id IS NULL OR change.expires_at <= clock_timestamp() THEN
		status := CASE WHEN change.user_id IS NULL THEN 'invalid_token' ELSE 'expired_token' END;
		PERFORM orion_private.audit('user.email_changed', 'user', change.user_id::text, status, actor => change.user_id);
		RETURN;
	END IF;
	BEGIN
		UPDATE orion_private.users AS u SET email = change.email, email_verified_at = now() WHERE u.id = change.user_id;
	EXCEPTION WHEN unique_violation THEN
		status := 'email_exists';
		PERFORM orion_private.audit('user.email_changed', 'user', change.user_id::text, status, actor => change.user_id);
		RETURN;
	END;
	PERFORM orion_private.audit('user.email_changed', 'user', change.user_id::text,
		new => jsonb_build_object('email', change.email), actor => change.user_id);
	status := 'ok';
	user_id := change.user_id;
	email := change.email;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_email_confirm(text) IS 'Makes the mail address of a request the user''s. Status ok, invalid_token, expired_token or email_exists; a token works once';
REVOKE ALL ON FUNCTION @extschema@.orion_email_confirm(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_email_confirm(text) TO orion_service, orion_admin;

CREATE FUNCTION orion_private.scope_allows(scope text) RETURNS boolean
	LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	RETURN orion_private.permissions_within(ARRAY[scope], orion_private.claims() -> 'scopes') <> '{}';
END
$function$;
COMMENT ON FUNCTION orion_private.scope_allows(text) IS 'Whether the token has no scopes, or this one among them';
REVOKE ALL ON FUNCTION orion_private.scope_allows(text) FROM PUBLIC;
-- for the policies, which users evaluate
GRANT EXECUTE ON FUNCTION orion_private.scope_allows(text) TO orion_user;
CREATE POLICY users_scope_read ON orion_private.users AS RESTRICTIVE FOR SELECT TO orion_user
	USING (orion_private.scope_allows('profile:read'));
CREATE POLICY users_scope_write ON orion_private.users AS RESTRICTIVE FOR UPDATE TO orion_user
	USING (orion_private.scope_allows('profile:write'));

-- The routes answer before they call; this is for /rpc and SQL.
CREATE FUNCTION orion_private.require_scope(scope text) RETURNS void
	LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	IF NOT orion_private.scope_allows(scope) THEN
		RAISE EXCEPTION 'this needs the scope "%"', scope USING ERRCODE = 'PT403';
	END IF;
END
$function$;
COMMENT ON FUNCTION orion_private.require_scope(text) IS 'Raises PT403 when the token has scopes and this is not among them';
REVOKE ALL ON FUNCTION orion_private.require_scope(text) FROM PUBLIC;

-- Preferences

CREATE FUNCTION orion_private.merge_patch(target jsonb, patch jsonb) RETURNS jsonb
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	result jsonb;
	name text;
	value jsonb;
BEGIN
	IF jsonb_typeof(patch) <> 'object' THEN
		RETURN patch;
	END IF;
	result := CASE WHEN jsonb_typeof(target) = 'object' THEN target ELSE '{}' END;
	FOR name, value IN SELECT e.key, e.value FROM jsonb_each(patch) AS e LOOP
		IF jsonb_typeof(value) = 'null' THEN
			result := result - name;
		ELSE
			result := result || jsonb_build_object(name, orion_private.merge_patch(result -> name, value));
		END IF;
	END LOOP;
	RETURN result;
END
$function$;
COMMENT ON FUNCTION orion_private.merge_patch(jsonb, jsonb) IS 'JSON Merge Patch (RFC 7396)';
REVOKE ALL ON FUNCTION orion_private.merge_patch(jsonb, jsonb) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_preferences_update(patch jsonb, expected_version bigint DEFAULT NULL,
	OUT status text, OUT preferences jsonb, OUT version bigint)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	me uuid := orion_private.uid();
	before orion_private.preferences;
BEGIN
	PERFORM orion_private.require_scope('preferences:write');
	-- users who were not registered, but imported, have none yet
	INSERT INTO orion_private.preferences AS p (user_id) SELECT u.id FROM orion_private.users AS u WHERE u.id = me
	ON CONFLICT ON CONSTRAINT preferences_pkey DO NOTHING;
	SELECT p.* INTO before FROM orion_private.preferences AS p WHERE p.user_id = me FOR UPDATE;
	status := CASE
		WHEN NOT FOUND THEN 'unknown_user'
		WHEN jsonb_typeof(patch) IS DISTINCT FROM 'object' THEN 'invalid_preferences'
		WHEN jsonb_path_exists(patch, '$.**{51}') THEN 'preferences_too_deep'
		WHEN expected_version <> before.version THEN 'version_conflict'
	END;
	preferences := before.preferences;
	version := before.version;
	IF status IS NULL THEN
		preferences := orion_private.merge_patch(before.preferences, patch);
		status := CASE WHEN octet_length(preferences::text) > 16384 THEN 'preferences_too_large' ELSE 'ok' END;
	END IF;
	IF status = 'version_conflict' THEN
		PERFORM orion_private.audit('user.preferences_updated', 'user', me::text, status,
			metadata => jsonb_build_object('expected', expected_version, 'current', before.version));
	ELSIF status = 'ok' AND preferences <> before.preferences THEN
		UPDATE orion_private.preferences AS p SET preferences = orion_preferences_update.preferences
		WHERE p.user_id = me RETURNING p.version INTO version;
		PERFORM orion_private.audit('user.preferences_updated', 'user', me::text, old => before.preferences, new => preferences);
		PERFORM orion_private.publish('user.preferences_updated', jsonb_build_object('id', me, 'version', version,
			'preferences', preferences), 'user', me::text);
	END IF;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_preferences_update(jsonb, bigint) IS 'Changes preferences of the signed-in user by a JSON Merge Patch. Status ok, version_conflict, invalid_preferences, preferences_too_large (16 kB), preferences_too_deep (50 levels) or unknown_user';

-- Following

CREATE FUNCTION @extschema@.orion_follow(user_id uuid) RETURNS text
	LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	me uuid := orion_private.uid();
BEGIN
	PERFORM orion_private.require_scope('follows:write');
	IF user_id = me THEN
		RETURN 'self';
	END IF;
	-- neither goes away meanwhile
	IF (SELECT count(*) FROM (SELECT FROM orion_private.users AS u WHERE u.id IN (me, orion_follow.user_id) FOR KEY SHARE) AS both_users) <> 2 THEN
		RETURN 'unknown_user';
	END IF;
	INSERT INTO orion_private.follows AS f (follower_id, user_id) VALUES (me, orion_follow.user_id)
	ON CONFLICT ON CONSTRAINT follows_pkey DO NOTHING;
	IF NOT FOUND THEN
		RETURN 'already';
	END IF;
	PERFORM orion_private.audit('user.followed', 'user', user_id::text);
	PERFORM orion_private.publish('user.followed', jsonb_build_object('id', user_id, 'followerId', me), 'user', user_id::text);
	RETURN 'ok';
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_follow(uuid) IS 'Follows a user as the signed-in one: ok, already, self or unknown_user';

CREATE FUNCTION @extschema@.orion_unfollow(user_id uuid) RETURNS boolean
	LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	me uuid := orion_private.uid();
BEGIN
	PERFORM orion_private.require_scope('follows:write');
	DELETE FROM orion_private.follows AS f WHERE f.follower_id = me AND f.user_id = orion_unfollow.user_id;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM orion_private.audit('user.unfollowed', 'user', user_id::text);
	PERFORM orion_private.publish('user.unfollowed', jsonb_build_object('id', user_id, 'followerId', me), 'user', user_id::text);
	RETURN true;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_unfollow(uuid) IS 'Follows a user no more; false when the signed-in one did not';
REVOKE ALL ON FUNCTION @extschema@.orion_preferences_update(jsonb, bigint), @extschema@.orion_follow(uuid), @extschema@.orion_unfollow(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_preferences_update(jsonb, bigint), @extschema@.orion_follow(uuid), @extschema@.orion_unfollow(uuid)
	TO orion_user, orion_service, orion_admin;

-- HTTP: /api/user/... (registered in rest.sql)

CREATE FUNCTION orion_private.user_problem(scope text) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	IF orion_private.uid() IS NULL THEN
		PERFORM set_config('response.headers', '[{"WWW-Authenticate": "Bearer"}]', true);
		RETURN orion_private.route_error(401, 'unauthorized', 'sign in first');
	ELSIF NOT orion_private.scope_allows(scope) THEN
		RETURN orion_private.route_error(403, 'insufficient_scope', format('this needs the scope "%s"', scope));
	ELSIF NOT EXISTS (SELECT FROM orion_private.users AS u WHERE u.id = orion_private.uid()) THEN
		RETURN orion_private.route_error(404, 'not_found', 'the user does not exist any more');
	END IF;
	RETURN NULL;
END
$function$;
COMMENT ON FUNCTION orion_private.user_problem(text) IS 'Null when a user is signed in and the token has this scope or no scopes, else the answer 401, 403 or 404';

-- One list of what is wrong, in the order of the fields: {field: kinds of JSON}.
CREATE FUNCTION orion_private.shape_errors(body jsonb, fields jsonb, required text[]) RETURNS jsonb
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
	SELECT CASE WHEN jsonb_typeof(body) IS DISTINCT FROM 'object'
		THEN orion_private.field_error('', 'not_an_object', 'the body must be a JSON object')
		ELSE (
			SELECT coalesce(jsonb_agg(e.error ORDER BY e.field COLLATE "C"), '[]')
			FROM (
				SELECT b.key AS field, jsonb_build_object('field', left(b.key, 100), 'code', 'unknown_field',
					'message', format('field "%s" is not known', left(b.key, 100))) AS error
				FROM jsonb_each(body) AS b WHERE NOT fields ? b.key
				UNION ALL
				SELECT f.key, jsonb_build_object('field', f.key, 'code', 'wrong_type',
					'message', format('field "%s" must be %s', f.key, (SELECT string_agg(k, ' or ') FROM jsonb_array_elements_text(f.value) AS k)))
				FROM jsonb_each(fields) AS f
				WHERE body ? f.key AND NOT f.value ? (CASE
					WHEN jsonb_typeof(body -> f.key) = 'number' AND body ->> f.key ~ '^\d{1,18}$' THEN 'integer'
					ELSE jsonb_typeof(body -> f.key) END)
				UNION ALL
				SELECT r, jsonb_build_object('field', r, 'code', 'missing', 'message', format('field "%s" is missing', r))
				FROM unnest(required) AS r WHERE NOT body ? r) AS e)
		END;
$function$;
COMMENT ON FUNCTION orion_private.shape_errors(jsonb, jsonb, text[]) IS 'What is wrong with the form of a body: a list for route_invalid, empty when nothing is; integers are from 0 to 10^18';
REVOKE ALL ON FUNCTION orion_private.user_problem(text), orion_private.shape_errors(jsonb, jsonb, text[]) FROM PUBLIC;

CREATE FUNCTION orion_private.own_profile_json() RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
	AS $function$
	SELECT orion_private.profile_json(me.id) || jsonb_build_object(
		'pendingEmail', (SELECT c.email FROM orion_private.email_changes AS c WHERE c.user_id = me.id AND c.expires_at > now()),
		'followers', (SELECT count(*) FROM orion_private.follows AS f WHERE f.user_id = me.id),
		'following', (SELECT count(*) FROM orion_private.follows AS f WHERE f.follower_id = me.id))
	FROM (SELECT orion_private.uid()) AS me (id);
$function$;
COMMENT ON FUNCTION orion_private.own_profile_json() IS 'The profile of the signed-in user as HTTP answers show it';
REVOKE ALL ON FUNCTION orion_private.own_profile_json() FROM PUBLIC;

CREATE FUNCTION orion_private.route_profile(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	RETURN coalesce(orion_private.user_problem('profile:read'), orion_private.own_profile_json());
END
$function$;
COMMENT ON FUNCTION orion_private.route_profile(jsonb) IS 'GET /api/user/profile: 200, 401, 403 or 404';

CREATE FUNCTION orion_private.profile_rule_errors(body jsonb) RETURNS jsonb
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
	SELECT CASE WHEN octet_length(body ->> 'avatarUrl') > 2048 OR body ->> 'avatarUrl' !~ '^https?://[^[:space:][:cntrl:]]+$'
			THEN orion_private.field_error('avatarUrl', 'invalid_url', 'field "avatarUrl" must be an http or https URL of at most 2048 bytes') ELSE '[]' END
		|| CASE WHEN char_length(body ->> 'displayName') > 200 OR body ->> 'displayName' ~ '[[:cntrl:]]'
			THEN orion_private.field_error('displayName', 'invalid_display_name', 'field "displayName" may have 200 characters and no control characters') ELSE '[]' END
		|| CASE WHEN body ? 'email' AND NOT coalesce(orion_private.email_valid(orion_private.email_normalize(body ->> 'email')), false)
			THEN orion_private.field_error('email', 'invalid_email', 'field "email" is not a mail address') ELSE '[]' END
		|| CASE WHEN octet_length((body -> 'userMetadata')::text) > 16384
			THEN orion_private.field_error('userMetadata', 'too_large', 'field "userMetadata" may have 16 kB') ELSE '[]' END;
$function$;
COMMENT ON FUNCTION orion_private.profile_rule_errors(jsonb) IS 'What rules refuse in a change of a profile, whose form is right';
REVOKE ALL ON FUNCTION orion_private.profile_rule_errors(jsonb) FROM PUBLIC;

CREATE FUNCTION orion_private.route_profile_update(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	body jsonb := request -> 'body';
	problem jsonb := orion_private.user_problem('profile:write');
	password text := body ->> 'password';
	errors jsonb;
	u orion_private.users;
	asked record;
	new_email text;
	wait int;
BEGIN
	IF problem IS NOT NULL THEN
		RETURN problem;
	END IF;
	-- the password is no parameter of a query
	IF jsonb_typeof(body -> 'password') = 'string' THEN
		body := jsonb_set(body, '{password}', '""');
	END IF;
	errors := orion_private.shape_errors(body, '{"version": ["integer"], "displayName": ["string", "null"], "avatarUrl": ["string", "null"],
		"userMetadata": ["object"], "email": ["string"], "password": ["string"]}', '{version}');
	IF errors = '[]' AND body - '{version,password}'::text[] = '{}' THEN
		errors := orion_private.field_error('', 'nothing_to_change', 'the body names no field to change');
	END IF;
	IF errors <> '[]' THEN
		RETURN orion_private.route_invalid(400, errors);
	END IF;
	errors := orion_private.profile_rule_errors(body);
	IF errors <> '[]' THEN
		RETURN orion_private.route_invalid(422, errors);
	END IF;
	IF body ? 'email' AND orion_private.claims() ? 'api_key_id' THEN
		RETURN orion_private.session_problem();
	END IF;

	SELECT known.* INTO u FROM orion_private.users AS known WHERE known.id = orion_private.uid() FOR NO KEY UPDATE;
	-- an access token that leaked must not take the account over: who reads the mail sets the password
	IF body ? 'email' AND orion_private.email_normalize(body ->> 'email') <> u.email THEN
		asked := orion_private.signed_in_recently(u, password, orion_private.request_address(request),
			left(request #>> '{headers,user-agent}', 512));
		IF asked.status <> 'ok' THEN
			RETURN orion_private.two_factor_error(asked.status, asked.retry_after, true);
		END IF;
	END IF;
	IF u.version <> (body ->> 'version')::bigint THEN
		PERFORM orion_private.audit('user.updated', 'user', u.id::text, 'version_conflict',
			metadata => jsonb_build_object('expected', body -> 'version', 'current', u.version));
		RETURN orion_private.route_error(409, 'version_conflict', 'the profile was changed meanwhile')
			|| jsonb_build_object('currentVersion', u.version);
	END IF;
	new_email := orion_private.email_normalize(body ->> 'email');
	IF new_email <> u.email THEN
		wait := orion_private.mail_wait(u.id, 'user.email_change_requested', 'ok');
		IF wait > 0 THEN
			RETURN orion_private.route_locked(wait, 'too many other addresses were asked for');
		END IF;
	END IF;
	IF body ?| '{displayName,avatarUrl,userMetadata}' THEN
		UPDATE orion_private.users AS known SET
			display_name = CASE WHEN body ? 'displayName' THEN body ->> 'displayName' ELSE known.display_name END,
			avatar_url = CASE WHEN body ? 'avatarUrl' THEN body ->> 'avatarUrl' ELSE known.avatar_url END,
			user_metadata = CASE WHEN body ? 'userMetadata' THEN body -> 'userMetadata' ELSE known.user_metadata END
		WHERE known.id = u.id;
	END IF;
	IF new_email = u.email THEN
		DELETE FROM orion_private.email_changes AS c WHERE c.user_id = u.id;
	ELSIF new_email IS NOT NULL THEN
		PERFORM orion_private.email_change(u, new_email);
	END IF;
	RETURN orion_private.own_profile_json();
END
$function$;
COMMENT ON FUNCTION orion_private.route_profile_update(jsonb) IS 'PATCH /api/user/profile {"version", "displayName"?, "avatarUrl"?, "userMetadata"?, "email"?, "password"?}: 200, 400, 401, 403, 404, 409, 422 or 429';

CREATE FUNCTION orion_private.route_email_confirm(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	body jsonb := request -> 'body';
	wait int := orion_private.token_wait(request, false);
	done record;
	errors jsonb;
BEGIN
	IF wait > 0 THEN
		RETURN orion_private.route_locked(wait);
	END IF;
	-- assignments only: the token is no parameter of a query
	errors := orion_private.shape_errors(CASE WHEN jsonb_typeof(body -> 'token') = 'string'
		THEN jsonb_set(body, '{token}', '""') ELSE body END, '{"token": ["string"]}', '{token}');
	IF errors <> '[]' THEN
		RETURN orion_private.route_invalid(400, errors);
	END IF;
	done := @extschema@.orion_email_confirm(body ->> 'token');
	IF done.status = 'invalid_token' THEN
		wait := orion_private.token_wait(request, true);
	END IF;
	IF done.status = 'email_exists' THEN
		RETURN orion_private.route_error(409, done.status, 'another user has this mail address');
	ELSIF done.status <> 'ok' THEN
		RETURN orion_private.route_error(400, done.status, CASE done.status WHEN 'expired_token' THEN 'the token has expired'
			ELSE 'the token is not valid' END);
	END IF;
	RETURN jsonb_build_object('email', done.email);
END
$function$;
COMMENT ON FUNCTION orion_private.route_email_confirm(jsonb) IS 'POST /api/user/email/confirm {"token"}: 200, 400, 409 or 429';

CREATE FUNCTION orion_private.route_preferences(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	RETURN coalesce(orion_private.user_problem('preferences:read'), (
		SELECT jsonb_build_object('preferences', coalesce(p.preferences, '{}'), 'version', coalesce(p.version, 1),
			'updatedAt', coalesce(p.updated_at, u.created_at))
		FROM orion_private.users AS u LEFT JOIN orion_private.preferences AS p ON p.user_id = u.id
		WHERE u.id = orion_private.uid()));
END
$function$;
COMMENT ON FUNCTION orion_private.route_preferences(jsonb) IS 'GET /api/user/preferences: 200, 401, 403 or 404';

CREATE FUNCTION orion_private.route_preferences_update(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	body jsonb := request -> 'body';
	problem jsonb := orion_private.user_problem('preferences:write');
	errors jsonb;
	done record;
BEGIN
	IF problem IS NOT NULL THEN
		RETURN problem;
	END IF;
	errors := orion_private.shape_errors(body, '{"version": ["integer"], "preferences": ["object"]}', '{preferences}');
	IF errors <> '[]' THEN
		RETURN orion_private.route_invalid(400, errors);
	END IF;
	done := @extschema@.orion_preferences_update(body -> 'preferences', (body ->> 'version')::bigint);
	IF done.status = 'version_conflict' THEN
		RETURN orion_private.route_error(409, done.status, 'the preferences were changed meanwhile')
			|| jsonb_build_object('currentVersion', done.version);
	ELSIF done.status <> 'ok' THEN
		RETURN orion_private.route_invalid(422, orion_private.field_error('preferences', done.status, 'field "preferences" may have 16 kB and 50 levels'));
	END IF;
	RETURN jsonb_build_object('preferences', done.preferences, 'version', done.version);
END
$function$;
COMMENT ON FUNCTION orion_private.route_preferences_update(jsonb) IS 'PATCH /api/user/preferences {"preferences", "version"?}, a JSON Merge Patch: 200, 400, 401, 403, 404, 409 or 422';

CREATE FUNCTION orion_private.route_follow(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	problem jsonb := orion_private.user_problem('follows:write');
	wanted text := request #>> '{params,id}';
	done text := 'unknown_user';
BEGIN
	IF problem IS NOT NULL THEN
		RETURN problem;
	END IF;
	IF wanted ~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' THEN
		done := @extschema@.orion_follow(wanted::uuid);
	END IF;
	IF done = 'unknown_user' THEN
		RETURN orion_private.route_error(404, 'not_found', 'there is no such user');
	ELSIF done = 'self' THEN
		RETURN orion_private.route_invalid(422, orion_private.field_error('id', 'self', 'nobody follows themselves'));
	ELSIF done = 'ok' THEN
		PERFORM set_config('response.status', '201', true);
	END IF;
	RETURN jsonb_build_object('following', true,
		'followers', (SELECT count(*) FROM orion_private.follows AS f WHERE f.user_id = wanted::uuid));
END
$function$;
COMMENT ON FUNCTION orion_private.route_follow(jsonb) IS 'POST /api/user/{id}/follow: 201, 200 when it was so already, 401, 403, 404 or 422';

CREATE FUNCTION orion_private.route_unfollow(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	problem jsonb := orion_private.user_problem('follows:write');
	wanted text := request #>> '{params,id}';
BEGIN
	IF problem IS NOT NULL THEN
		RETURN problem;
	ELSIF wanted !~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' OR NOT @extschema@.orion_unfollow(wanted::uuid) THEN
		RETURN orion_private.route_error(404, 'not_found', 'you do not follow this user');
	END IF;
	PERFORM set_config('response.status', '204', true);
	RETURN NULL;
END
$function$;
COMMENT ON FUNCTION orion_private.route_unfollow(jsonb) IS 'DELETE /api/user/{id}/follow: 204, 401, 403 or 404';

-- The list of users. A cursor is the place after a row: what is sorted by, its value,
-- and the id. It says nothing that the row did not, so it is not signed.

CREATE FUNCTION orion_private.user_list_errors(query jsonb) RETURNS jsonb
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
	SELECT CASE WHEN query ->> 'cursor' IS NOT NULL AND query ? 'page'
			THEN orion_private.field_error('cursor', 'conflict', 'give "cursor" or "page"') ELSE '[]' END
		|| CASE WHEN query ->> 'limit' !~ '^[1-9]\d{0,2}$' OR (query ->> 'limit' ~ '^\d{1,3}$' AND (query ->> 'limit')::int > 100)
			THEN orion_private.field_error('limit', 'out_of_range', '"limit" must be from 1 to 100') ELSE '[]' END
		|| CASE WHEN query ->> 'page' !~ '^[1-9]\d{0,6}$'
			THEN orion_private.field_error('page', 'out_of_range', '"page" must be from 1 to 9999999') ELSE '[]' END
		|| CASE WHEN query ->> 'sort' !~ '^-?(createdAt|email|displayName|lastLoginAt)$'
			THEN orion_private.field_error('sort', 'unknown', '"sort" must be createdAt, email, displayName or lastLoginAt, with "-" in front for the other way') ELSE '[]' END;
$function$;
COMMENT ON FUNCTION orion_private.user_list_errors(jsonb) IS 'What is wrong with the query of the list of users';

CREATE FUNCTION orion_private.user_list_cursor(token text, sort text, OUT valid boolean, OUT value text, OUT id uuid)
	LANGUAGE plpgsql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	place jsonb;
BEGIN
	valid := false;
	IF token IS NULL OR octet_length(token) > 2048 OR token !~ '^[A-Za-z0-9_-]+$' THEN
		RETURN;
	END IF;
	place := convert_from(decode(rpad(translate(token, '-_', '+/'), (octet_length(token) + 3) / 4 * 4, '='), 'base64'), 'UTF8')::jsonb;
	IF place ->> 0 = sort AND jsonb_typeof(place -> 1) = 'string' AND jsonb_array_length(place) = 3 THEN
		id := (place ->> 2)::uuid;
		value := place ->> 1;
		-- the query will read it as this type
		valid := id IS NOT NULL AND (sort !~ 'At$' OR value::timestamptz IS NOT NULL);
	END IF;
EXCEPTION WHEN data_exception THEN
	valid := false;
END
$function$;
COMMENT ON FUNCTION orion_private.user_list_cursor(text, text) IS 'What a cursor of the list of users says, if it is one for this order';

CREATE FUNCTION orion_private.user_list_page(sort text, at_value text, at_id uuid, skip bigint, take int) RETURNS SETOF jsonb
	LANGUAGE plpgsql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	-- nulls come first, and have a value that a cursor can hold
	key text := CASE ltrim(sort, '-') WHEN 'createdAt' THEN 'u.created_at' WHEN 'email' THEN 'u.email'
		WHEN 'displayName' THEN 'coalesce(u.display_name, '''')' ELSE 'coalesce(u.last_login_at, ''-infinity'')' END;
	type text := CASE WHEN sort ~ 'At$' THEN 'timestamptz' ELSE 'text' END;
	down boolean := sort ^@ '-';
BEGIN
	RETURN QUERY EXECUTE format(
		'SELECT jsonb_build_object(''user'', orion_private.profile_json(u.id) || jsonb_build_object(''lastLoginAt'', u.last_login_at),'
		' ''place'', jsonb_build_array($1, to_jsonb(%1$s), u.id))'
		' FROM orion_private.users AS u'
		|| CASE WHEN at_id IS NULL THEN '' ELSE ' WHERE (%1$s, u.id) %2$s ($2::%3$s, $3)' END ||
		' ORDER BY %1$s %4$s, u.id %4$s LIMIT $5 OFFSET $4',
		key, CASE WHEN down THEN '<' ELSE '>' END, type, CASE WHEN down THEN 'DESC' ELSE 'ASC' END)
		USING sort, at_value, at_id, skip, take;
END
$function$;
COMMENT ON FUNCTION orion_private.user_list_page(text, text, uuid, bigint, int) IS 'Users in this order, each with its place; after a place, or skipping some';
REVOKE ALL ON FUNCTION orion_private.user_list_errors(jsonb), orion_private.user_list_cursor(text, text),
	orion_private.user_list_page(text, text, uuid, bigint, int) FROM PUBLIC;

CREATE FUNCTION orion_private.route_user_list(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	query jsonb := coalesce(request -> 'query', '{}');
	errors jsonb := orion_private.user_list_errors(query);
	sort text := coalesce(query ->> 'sort', '-createdAt');
	page bigint := 1;
	take int := 20;
	place record;
	found_rows jsonb[];
	answer jsonb;
BEGIN
	IF NOT orion_private.caller_is_trusted() AND NOT @extschema@.orion_has_permission('users:read') THEN
		IF orion_private.claims() IS NULL THEN
			PERFORM set_config('response.headers', '[{"WWW-Authenticate": "Bearer"}]', true);
			RETURN orion_private.route_error(401, 'unauthorized', 'sign in first');
		END IF;
		RETURN orion_private.route_error(403, 'forbidden', 'this needs the permission "users:read"');
	END IF;
	IF errors <> '[]' THEN
		RETURN orion_private.route_invalid(400, errors);
	END IF;
	place := orion_private.user_list_cursor(query ->> 'cursor', sort);
	IF query ? 'cursor' AND NOT place.valid THEN
		RETURN orion_private.route_invalid(400, orion_private.field_error('cursor', 'invalid_cursor', '"cursor" is none of this list and order'));
	END IF;
	page := coalesce((query ->> 'page')::bigint, 1);
	take := coalesce((query ->> 'limit')::int, 20);
	-- one more, to know whether there is more
	found_rows := ARRAY(SELECT p FROM orion_private.user_list_page(sort, place.value, place.id, (page - 1) * take, take + 1) AS p);
	answer := jsonb_build_object('limit', take, 'hasMore', cardinality(found_rows) > take,
		'users', (SELECT coalesce(jsonb_agg(r -> 'user'), '[]') FROM unnest(found_rows[1:take]) AS r),
		'nextCursor', CASE WHEN cardinality(found_rows) > take
			THEN translate(encode(convert_to((found_rows[take] -> 'place')::text, 'UTF8'), 'base64'), E'+/=\n', '-_') END);
	IF query ? 'cursor' THEN
		RETURN answer;
	END IF;
	RETURN answer || jsonb_build_object('page', page, 'total', (SELECT count(*) FROM orion_private.users));
END
$function$;
COMMENT ON FUNCTION orion_private.route_user_list(jsonb) IS 'GET /api/user/list?page&limit&sort or ?cursor&limit&sort: 200, 400, 401 or 403';

CREATE FUNCTION orion_private.route_user_health(request jsonb) RETURNS jsonb
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	-- reads what every other route needs; an error is answered as one
	PERFORM FROM orion_private.users AS u JOIN orion_private.preferences AS p ON p.user_id = u.id LIMIT 1;
	RETURN jsonb_build_object('status', 'ok', 'writable', NOT pg_is_in_recovery(), 'time', clock_timestamp());
END
$function$;
COMMENT ON FUNCTION orion_private.route_user_health(jsonb) IS 'GET /api/user/health: 200';

DO $do$
DECLARE
	name text;
BEGIN
	FOREACH name IN ARRAY ARRAY['profile', 'profile_update', 'email_confirm', 'preferences', 'preferences_update',
		'follow', 'unfollow', 'user_list', 'user_health'] LOOP
		EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION orion_private.route_%s(jsonb) FROM PUBLIC', name);
		EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION orion_private.route_%s(jsonb) TO orion_anon, orion_user, orion_service, orion_admin', name);
	END LOOP;
END
$do$;
