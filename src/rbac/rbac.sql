-- Roles and permissions of the application's users. Not roles of the database: those
-- say what SQL a request may run, these what a user may do.
--
-- permission.c keeps what users have been granted; the triggers "changed" drop it.

CREATE FUNCTION orion_private.permission_valid(permission text) RETURNS boolean
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
	SELECT coalesce(octet_length(permission) <= 128
		AND permission ~ '^(\*|[a-z][a-z0-9_.-]*):(\*|[a-z][a-z0-9_.-]*)$', false);
$function$;
COMMENT ON FUNCTION orion_private.permission_valid(text) IS 'Whether this is "resource:action"; either may be "*"';
REVOKE ALL ON FUNCTION orion_private.permission_valid(text) FROM PUBLIC;

CREATE TABLE orion_private.roles (
	name text COLLATE "C" PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_.-]{0,62}$'),
	description text CHECK (char_length(description) <= 500),
	is_default boolean NOT NULL DEFAULT false,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE orion_private.roles IS 'Roles that users can have';
COMMENT ON COLUMN orion_private.roles.is_default IS 'Who registers gets it';
CREATE TABLE orion_private.role_parents (
	role text COLLATE "C" NOT NULL REFERENCES orion_private.roles ON DELETE CASCADE,
	parent text COLLATE "C" NOT NULL REFERENCES orion_private.roles ON DELETE CASCADE,
	PRIMARY KEY (role, parent)
);
COMMENT ON TABLE orion_private.role_parents IS 'A role has all permissions of its parents; there are no cycles';
CREATE INDEX role_parents_parent ON orion_private.role_parents (parent);
CREATE TABLE orion_private.role_permissions (
	role text COLLATE "C" NOT NULL REFERENCES orion_private.roles ON DELETE CASCADE,
	permission text COLLATE "C" NOT NULL CHECK (orion_private.permission_valid(permission)),
	PRIMARY KEY (role, permission)
);
COMMENT ON TABLE orion_private.role_permissions IS 'What a role may do';
CREATE TABLE orion_private.user_roles (
	user_id uuid NOT NULL REFERENCES orion_private.users ON DELETE CASCADE,
	role text COLLATE "C" NOT NULL REFERENCES orion_private.roles ON DELETE CASCADE,
	granted_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	granted_by uuid,
	PRIMARY KEY (user_id, role)
);
COMMENT ON TABLE orion_private.user_roles IS 'Who has which role';
CREATE INDEX user_roles_role ON orion_private.user_roles (role);
CREATE TABLE orion_private.user_permissions (
	user_id uuid NOT NULL REFERENCES orion_private.users ON DELETE CASCADE,
	permission text COLLATE "C" NOT NULL CHECK (orion_private.permission_valid(permission)),
	granted_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	granted_by uuid,
	PRIMARY KEY (user_id, permission)
);
COMMENT ON TABLE orion_private.user_permissions IS 'What users may do beside their roles';

CREATE FUNCTION orion_private.permissions_changed() RETURNS trigger
	LANGUAGE c VOLATILE
	AS 'MODULE_PATHNAME', 'orion_permissions_changed';
COMMENT ON FUNCTION orion_private.permissions_changed() IS 'Tells every process at commit to forget the permissions it knows';
REVOKE ALL ON FUNCTION orion_private.permissions_changed() FROM PUBLIC;

DO $do$
DECLARE
	relation text;
BEGIN
	FOREACH relation IN ARRAY ARRAY['roles', 'role_parents', 'role_permissions', 'user_roles', 'user_permissions'] LOOP
		PERFORM pg_catalog.pg_extension_config_dump(pg_catalog.format('orion_private.%I', relation)::pg_catalog.regclass, '');
		EXECUTE pg_catalog.format('CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON orion_private.%I'
			' FOR EACH STATEMENT EXECUTE FUNCTION orion_private.permissions_changed()', relation);
		EXECUTE pg_catalog.format('ALTER TABLE orion_private.%I ENABLE ALWAYS TRIGGER changed', relation);
	END LOOP;
END
$do$;

-- Reading

CREATE FUNCTION orion_private.roles_of(user_id uuid) RETURNS SETOF text
	LANGUAGE sql STABLE STRICT PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
	WITH RECURSIVE held (role) AS (
		SELECT u.role FROM orion_private.user_roles AS u WHERE u.user_id = roles_of.user_id
		UNION
		SELECT p.parent FROM held JOIN orion_private.role_parents AS p ON p.role = held.role)
	SELECT role FROM held;
$function$;
COMMENT ON FUNCTION orion_private.roles_of(uuid) IS 'The roles of a user with those they inherit from';

CREATE FUNCTION orion_private.permissions_of(user_id uuid) RETURNS text[]
	LANGUAGE sql STABLE STRICT PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
	SELECT coalesce(array_agg(g.permission ORDER BY g.permission), '{}')
	FROM (
		SELECT r.permission FROM orion_private.roles_of(permissions_of.user_id) AS held (role)
			JOIN orion_private.role_permissions AS r ON r.role = held.role
		UNION
		SELECT u.permission FROM orion_private.user_permissions AS u WHERE u.user_id = permissions_of.user_id) AS g;
$function$;
COMMENT ON FUNCTION orion_private.permissions_of(uuid) IS 'Everything a user was granted, by a role or directly';

CREATE FUNCTION orion_private.permissions_within(permissions text[], scopes jsonb) RETURNS text[]
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
	SELECT CASE
		WHEN coalesce(jsonb_typeof(scopes), 'null') = 'null' THEN permissions
		WHEN jsonb_typeof(scopes) <> 'array' THEN '{}'
		ELSE (
			-- each segment of the narrower of the two
			SELECT coalesce(array_agg(DISTINCT
				CASE split_part(p, ':', 1) WHEN '*' THEN split_part(s, ':', 1) ELSE split_part(p, ':', 1) END || ':' ||
				CASE split_part(p, ':', 2) WHEN '*' THEN split_part(s, ':', 2) ELSE split_part(p, ':', 2) END), '{}')
			FROM unnest(permissions) AS p, jsonb_array_elements_text(scopes) AS s
			WHERE orion_private.permission_valid(s)
				AND (split_part(p, ':', 1) = split_part(s, ':', 1) OR '*' IN (split_part(p, ':', 1), split_part(s, ':', 1)))
				AND (split_part(p, ':', 2) = split_part(s, ':', 2) OR '*' IN (split_part(p, ':', 2), split_part(s, ':', 2))))
	END;
$function$;
COMMENT ON FUNCTION orion_private.permissions_within(text[], jsonb) IS 'The permissions that the scopes of a token leave; null leaves all';
REVOKE ALL ON FUNCTION orion_private.roles_of(uuid), orion_private.permissions_of(uuid),
	orion_private.permissions_within(text[], jsonb) FROM PUBLIC;

-- No pinned search_path: it takes no name from it, and policies call it for each row.
CREATE FUNCTION @extschema@.orion_has_permission(permission text) RETURNS boolean
	LANGUAGE c STABLE STRICT PARALLEL RESTRICTED
	AS 'MODULE_PATHNAME', 'orion_has_permission';
COMMENT ON FUNCTION @extschema@.orion_has_permission(text) IS 'Whether the signed-in user has this permission ("resource:action") by a role or directly, within the scopes of the token';
REVOKE ALL ON FUNCTION @extschema@.orion_has_permission(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_has_permission(text) TO orion_anon, orion_user, orion_service, orion_admin;

CREATE FUNCTION orion_private.caller_is_trusted() RETURNS boolean
	LANGUAGE sql STABLE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
	AS $function$
	SELECT coalesce(pg_has_role(c.caller, 'orion_admin', 'USAGE') OR pg_has_role(c.caller, 'orion_service', 'USAGE'), false)
	FROM (SELECT orion_private.caller()) AS c (caller);
$function$;
COMMENT ON FUNCTION orion_private.caller_is_trusted() IS 'Whether the database role of the caller is an administrator or a service';
REVOKE ALL ON FUNCTION orion_private.caller_is_trusted() FROM PUBLIC;

CREATE FUNCTION orion_private.check_may_read_roles(user_id uuid) RETURNS void
	LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	IF user_id IS DISTINCT FROM orion_private.uid() AND NOT orion_private.caller_is_trusted()
		AND NOT @extschema@.orion_has_permission('roles:read') THEN
		RAISE EXCEPTION 'permission denied to see the roles of other users'
			USING ERRCODE = 'insufficient_privilege';
	END IF;
END
$function$;
COMMENT ON FUNCTION orion_private.check_may_read_roles(uuid) IS 'Raises unless the user is the caller, or the caller may see others'' roles';
REVOKE ALL ON FUNCTION orion_private.check_may_read_roles(uuid) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_permissions(user_id uuid DEFAULT @extschema@.orion_uid()) RETURNS text[]
	LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	PERFORM orion_private.check_may_read_roles(user_id);
	RETURN orion_private.permissions_within(coalesce(orion_private.permissions_of(user_id), '{}'),
		CASE WHEN user_id = orion_private.uid() THEN orion_private.claims() -> 'scopes' END);
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_permissions(uuid) IS 'The effective permissions of a user: of all roles with what they inherit, and direct grants; the caller''s own within the scopes of the token. Others'' for orion_service, orion_admin and with permission roles:read';

CREATE FUNCTION @extschema@.orion_roles(user_id uuid DEFAULT @extschema@.orion_uid()) RETURNS text[]
	LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	PERFORM orion_private.check_may_read_roles(user_id);
	RETURN (SELECT coalesce(array_agg(held.role ORDER BY held.role), '{}') FROM orion_private.roles_of(user_id) AS held (role));
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_roles(uuid) IS 'The roles of a user with those they inherit from; who may ask is as with orion_permissions';
REVOKE ALL ON FUNCTION @extschema@.orion_permissions(uuid), @extschema@.orion_roles(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_permissions(uuid), @extschema@.orion_roles(uuid)
	TO orion_anon, orion_user, orion_service, orion_admin;

-- Administration. Each returns whether it changed anything, and records a change.

CREATE FUNCTION orion_private.role_check(role text) RETURNS void
	LANGUAGE plpgsql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	IF NOT EXISTS (SELECT FROM orion_private.roles AS r WHERE r.name = role_check.role) THEN
		RAISE EXCEPTION 'role "%" does not exist', role USING ERRCODE = 'PT404';
	END IF;
END
$function$;
COMMENT ON FUNCTION orion_private.role_check(text) IS 'Raises PT404 when there is no such role';

CREATE FUNCTION orion_private.user_check(user_id uuid) RETURNS void
	LANGUAGE plpgsql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	IF NOT EXISTS (SELECT FROM orion_private.users AS u WHERE u.id = user_check.user_id) THEN
		RAISE EXCEPTION 'user "%" does not exist', user_id USING ERRCODE = 'PT404';
	END IF;
END
$function$;
COMMENT ON FUNCTION orion_private.user_check(uuid) IS 'Raises PT404 when there is no such user';

CREATE FUNCTION orion_private.permission_check(permission text) RETURNS void
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	IF NOT orion_private.permission_valid(permission) THEN
		RAISE EXCEPTION '"%" is not a permission', left(permission, 200)
			USING ERRCODE = 'PT422', HINT = 'A permission is "resource:action", lower case; either may be "*".';
	END IF;
END
$function$;
COMMENT ON FUNCTION orion_private.permission_check(text) IS 'Raises PT422 when this is no permission';
REVOKE ALL ON FUNCTION orion_private.role_check(text), orion_private.user_check(uuid), orion_private.permission_check(text) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_role_create(name text, description text DEFAULT NULL, is_default boolean DEFAULT false) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	IF name IS NULL OR name !~ '^[a-z][a-z0-9_.-]{0,62}$' THEN
		RAISE EXCEPTION '"%" is not a name for a role', left(name, 200)
			USING ERRCODE = 'PT422', HINT = 'A name is 1 to 63 of a-z, 0-9 and _.- and begins with a letter.';
	END IF;
	INSERT INTO orion_private.roles AS r (name, description, is_default)
	VALUES (orion_role_create.name, orion_role_create.description, coalesce(orion_role_create.is_default, false))
	ON CONFLICT ON CONSTRAINT roles_pkey DO NOTHING;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM orion_private.audit('role.created', 'role', name,
		new => jsonb_build_object('description', description, 'isDefault', coalesce(is_default, false)));
	PERFORM orion_private.publish('role.created', jsonb_build_object('role', name), 'role', name);
	RETURN true;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_role_create(text, text, boolean) IS 'Makes a role; who registers gets default roles. False when it exists';

CREATE FUNCTION @extschema@.orion_role_delete(name text) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	granted text[] := ARRAY(SELECT p.permission FROM orion_private.role_permissions AS p WHERE p.role = orion_role_delete.name ORDER BY 1);
	holders bigint := (SELECT count(*) FROM orion_private.user_roles AS u WHERE u.role = orion_role_delete.name);
BEGIN
	DELETE FROM orion_private.roles AS r WHERE r.name = orion_role_delete.name;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM orion_private.audit('role.deleted', 'role', name,
		old => jsonb_build_object('permissions', granted, 'users', holders));
	PERFORM orion_private.publish('role.deleted', jsonb_build_object('role', name), 'role', name);
	RETURN true;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_role_delete(text) IS 'Deletes a role and takes it from everybody; false when there is none';

CREATE FUNCTION @extschema@.orion_role_inherit(role text, parent text) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	PERFORM orion_private.role_check(role), orion_private.role_check(parent);
	-- two sessions could otherwise close a cycle together
	LOCK TABLE orion_private.role_parents IN SHARE ROW EXCLUSIVE MODE;
	IF EXISTS (
		WITH RECURSIVE above (role) AS (
			SELECT orion_role_inherit.parent COLLATE "C"
			UNION
			SELECT p.parent FROM above JOIN orion_private.role_parents AS p ON p.role = above.role)
		SELECT FROM above WHERE above.role = orion_role_inherit.role) THEN
		RAISE EXCEPTION 'role "%" cannot inherit from role "%", which inherits from it', role, parent
			USING ERRCODE = 'PT422';
	END IF;
	INSERT INTO orion_private.role_parents AS p (role, parent)
	VALUES (orion_role_inherit.role, orion_role_inherit.parent) ON CONFLICT ON CONSTRAINT role_parents_pkey DO NOTHING;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM orion_private.audit('role.inherited', 'role', role, new => jsonb_build_object('parent', parent));
	RETURN true;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_role_inherit(text, text) IS 'Gives a role all permissions of a parent, now and later; refuses cycles with PT422';

CREATE FUNCTION @extschema@.orion_role_disinherit(role text, parent text) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	DELETE FROM orion_private.role_parents AS p WHERE p.role = orion_role_disinherit.role AND p.parent = orion_role_disinherit.parent;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM orion_private.audit('role.disinherited', 'role', role, old => jsonb_build_object('parent', parent));
	RETURN true;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_role_disinherit(text, text) IS 'Takes the permissions of a parent from a role';

CREATE FUNCTION @extschema@.orion_role_grant(user_id uuid, role text) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	PERFORM orion_private.user_check(user_id), orion_private.role_check(role);
	INSERT INTO orion_private.user_roles AS u (user_id, role, granted_by)
	VALUES (orion_role_grant.user_id, orion_role_grant.role, orion_private.uid())
	ON CONFLICT ON CONSTRAINT user_roles_pkey DO NOTHING;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM orion_private.audit('role.assigned', 'user', user_id::text, new => jsonb_build_object('role', role));
	PERFORM orion_private.publish('role.assigned', jsonb_build_object('userId', user_id, 'role', role,
		'assignedBy', orion_private.uid()), 'user', user_id::text);
	RETURN true;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_role_grant(uuid, text) IS 'Gives a user a role; publishes role.assigned. False when the user has it';

CREATE FUNCTION @extschema@.orion_role_revoke(user_id uuid, role text) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	DELETE FROM orion_private.user_roles AS u WHERE u.user_id = orion_role_revoke.user_id AND u.role = orion_role_revoke.role;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM orion_private.audit('role.revoked', 'user', user_id::text, old => jsonb_build_object('role', role));
	PERFORM orion_private.publish('role.revoked', jsonb_build_object('userId', user_id, 'role', role,
		'revokedBy', orion_private.uid()), 'user', user_id::text);
	RETURN true;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_role_revoke(uuid, text) IS 'Takes a role from a user; publishes role.revoked. False when the user has it not';

CREATE FUNCTION @extschema@.orion_permission_grant(role text, permission text) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	PERFORM orion_private.role_check(role), orion_private.permission_check(permission);
	INSERT INTO orion_private.role_permissions AS p (role, permission)
	VALUES (orion_permission_grant.role, orion_permission_grant.permission)
	ON CONFLICT ON CONSTRAINT role_permissions_pkey DO NOTHING;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM orion_private.audit('permission.granted', 'role', role, new => jsonb_build_object('permission', permission));
	PERFORM orion_private.publish('permission.granted', jsonb_build_object('role', role, 'permission', permission), 'role', role);
	RETURN true;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_permission_grant(text, text) IS 'Gives a role a permission ("resource:action"; either may be "*")';

CREATE FUNCTION @extschema@.orion_permission_revoke(role text, permission text) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	DELETE FROM orion_private.role_permissions AS p
	WHERE p.role = orion_permission_revoke.role AND p.permission = orion_permission_revoke.permission;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM orion_private.audit('permission.revoked', 'role', role, old => jsonb_build_object('permission', permission));
	PERFORM orion_private.publish('permission.revoked', jsonb_build_object('role', role, 'permission', permission), 'role', role);
	RETURN true;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_permission_revoke(text, text) IS 'Takes a permission from a role, as it was granted';

CREATE FUNCTION @extschema@.orion_user_permission_grant(user_id uuid, permission text) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	PERFORM orion_private.user_check(user_id), orion_private.permission_check(permission);
	INSERT INTO orion_private.user_permissions AS p (user_id, permission, granted_by)
	VALUES (orion_user_permission_grant.user_id, orion_user_permission_grant.permission, orion_private.uid())
	ON CONFLICT ON CONSTRAINT user_permissions_pkey DO NOTHING;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM orion_private.audit('permission.granted', 'user', user_id::text, new => jsonb_build_object('permission', permission));
	PERFORM orion_private.publish('permission.granted', jsonb_build_object('userId', user_id, 'permission', permission), 'user', user_id::text);
	RETURN true;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_user_permission_grant(uuid, text) IS 'Gives one user a permission beside the roles';

CREATE FUNCTION @extschema@.orion_user_permission_revoke(user_id uuid, permission text) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	DELETE FROM orion_private.user_permissions AS p
	WHERE p.user_id = orion_user_permission_revoke.user_id AND p.permission = orion_user_permission_revoke.permission;
	IF NOT FOUND THEN
		RETURN false;
	END IF;
	PERFORM orion_private.audit('permission.revoked', 'user', user_id::text, old => jsonb_build_object('permission', permission));
	PERFORM orion_private.publish('permission.revoked', jsonb_build_object('userId', user_id, 'permission', permission), 'user', user_id::text);
	RETURN true;
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_user_permission_revoke(uuid, text) IS 'Takes a direct grant from a user';

DO $do$
DECLARE
	signature text;
BEGIN
	FOREACH signature IN ARRAY ARRAY['orion_role_create(text, text, boolean)', 'orion_role_delete(text)', 'orion_role_inherit(text, text)',
		'orion_role_disinherit(text, text)', 'orion_role_grant(uuid, text)', 'orion_role_revoke(uuid, text)',
		'orion_permission_grant(text, text)', 'orion_permission_revoke(text, text)',
		'orion_user_permission_grant(uuid, text)', 'orion_user_permission_revoke(uuid, text)'] LOOP
		EXECUTE 'REVOKE ALL ON FUNCTION @extschema@.' || signature || ' FROM PUBLIC';
		EXECUTE 'GRANT EXECUTE ON FUNCTION @extschema@.' || signature || ' TO orion_admin';
	END LOOP;
END
$do$;

CREATE VIEW orion.roles WITH (security_invoker = true) AS
	SELECT r.name, r.description, r.is_default,
		ARRAY(SELECT p.parent FROM orion_private.role_parents AS p WHERE p.role = r.name ORDER BY 1) AS parents,
		ARRAY(SELECT p.permission FROM orion_private.role_permissions AS p WHERE p.role = r.name ORDER BY 1) AS permissions,
		r.created_at
	FROM orion_private.roles AS r;
COMMENT ON VIEW orion.roles IS 'Roles, what they inherit from and what they may do themselves';
GRANT SELECT ON orion_private.roles, orion_private.role_parents, orion_private.role_permissions, orion.roles
	TO orion_service, orion_admin;
