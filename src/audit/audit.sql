-- The audit log: who did what to what, and what was refused. Rows are only added.

CREATE SEQUENCE orion_private.audit_log_seq AS bigint;

CREATE TABLE orion_private.audit_log (
	id bigint NOT NULL DEFAULT pg_catalog.nextval('orion_private.audit_log_seq'),
	occurred_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	actor uuid,
	session_id uuid,
	db_user name NOT NULL DEFAULT SESSION_USER,
	action text NOT NULL,
	target_type text,
	target_id text,
	outcome text NOT NULL DEFAULT 'ok',
	address inet,
	user_agent text,
	old jsonb,
	new jsonb,
	metadata jsonb
) PARTITION BY RANGE (occurred_at);
COMMENT ON TABLE orion_private.audit_log IS 'Every change of users, roles, keys and permissions, and every refused attempt; append-only, a partition a month (UTC)';
COMMENT ON COLUMN orion_private.audit_log.actor IS 'The signed-in user, or who tried to be; null for SQL clients without a token';
COMMENT ON COLUMN orion_private.audit_log.db_user IS 'The database user that was connected; of an HTTP request the role it ran as';
COMMENT ON COLUMN orion_private.audit_log.outcome IS '"ok", or why it was refused';
SELECT pg_catalog.pg_extension_config_dump('orion_private.audit_log_seq', '');

-- Always: also where session_replication_role keeps ordinary triggers quiet.
CREATE FUNCTION orion_private.audit_refuse() RETURNS trigger
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	RAISE EXCEPTION 'the audit log is append-only: % is not allowed', lower(TG_OP)
		USING ERRCODE = 'insufficient_privilege',
			HINT = 'Detach the partition of an old month to archive it.';
END
$function$;
COMMENT ON FUNCTION orion_private.audit_refuse() IS 'Refuses every change of what is in the audit log';
REVOKE ALL ON FUNCTION orion_private.audit_refuse() FROM PUBLIC;
-- each partition has its own copy of the first, and needs one of the second
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON orion_private.audit_log
	FOR EACH ROW EXECUTE FUNCTION orion_private.audit_refuse();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON orion_private.audit_log
	FOR EACH STATEMENT EXECUTE FUNCTION orion_private.audit_refuse();

-- Indexes belong to partitions. If the table had them, attaching a partition of a dump
-- would make them, and the dump would make them once more.
CREATE FUNCTION orion_private.audit_indexes(partition text) RETURNS void
	LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	EXECUTE format('ALTER TABLE orion_private.%1$I ADD PRIMARY KEY (occurred_at, id)', partition);
	EXECUTE format('CREATE INDEX ON orion_private.%1$I (actor, occurred_at) WHERE actor IS NOT NULL', partition);
	EXECUTE format('CREATE INDEX ON orion_private.%1$I (target_type, target_id, occurred_at)', partition);
	EXECUTE format('CREATE INDEX ON orion_private.%1$I (occurred_at) WHERE outcome <> ''ok'' OR action ^@ ''security.''', partition);
END
$function$;
COMMENT ON FUNCTION orion_private.audit_indexes(text) IS 'Makes the indexes of a partition of the audit log';
REVOKE ALL ON FUNCTION orion_private.audit_indexes(text) FROM PUBLIC;

CREATE TABLE orion_private.audit_log_default PARTITION OF orion_private.audit_log DEFAULT;
SELECT orion_private.audit_indexes('audit_log_default'::pg_catalog.text);
COMMENT ON TABLE orion_private.audit_log_default IS 'Audit rows of months that had no partition in time';
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON orion_private.audit_log_default
	FOR EACH STATEMENT EXECUTE FUNCTION orion_private.audit_refuse();
ALTER TABLE orion_private.audit_log ENABLE ALWAYS TRIGGER append_only;
ALTER TABLE orion_private.audit_log ENABLE ALWAYS TRIGGER no_truncate;
ALTER TABLE orion_private.audit_log_default ENABLE ALWAYS TRIGGER append_only;
ALTER TABLE orion_private.audit_log_default ENABLE ALWAYS TRIGGER no_truncate;
SELECT pg_catalog.pg_extension_config_dump('orion_private.audit_log_default', '');

-- Months are not made by the install script: pg_dump would then take them for part of
-- the extension, and a restore in another month would not find them. As ordinary
-- tables they are dumped and restored like any.
CREATE FUNCTION orion_private.audit_partitions(ahead int DEFAULT 3) RETURNS boolean
	LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	SET lock_timeout = '1s'
	SET timezone = 'UTC'
	AS $function$
DECLARE
	month timestamptz;
	partition text;
BEGIN
	FOR i IN 0 .. ahead LOOP
		month := date_trunc('month', now()) + make_interval(months => i);
		partition := 'audit_log_' || to_char(month, 'YYYY_MM');
		CONTINUE WHEN to_regclass('orion_private.' || partition) IS NOT NULL;
		-- rows that went to the default partition stay there, and so does their month;
		-- nobody is kept waiting to find that out
		CONTINUE WHEN EXISTS (SELECT FROM orion_private.audit_log_default AS d
			WHERE d.occurred_at >= month AND d.occurred_at < month + interval '1 month');
		BEGIN
			-- A row on its way to the default partition would be refused if its month
			-- were attached meanwhile, and with it what it records. So nobody is on the
			-- way: who has written to the log holds a lock until the transaction ends.
			LOCK TABLE orion_private.audit_log IN SHARE ROW EXCLUSIVE MODE;
			CONTINUE WHEN EXISTS (SELECT FROM orion_private.audit_log_default AS d
				WHERE d.occurred_at >= month AND d.occurred_at < month + interval '1 month');
			EXECUTE format('CREATE TABLE orion_private.%I (LIKE orion_private.audit_log INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', partition);
			EXECUTE format('CREATE TRIGGER no_truncate BEFORE TRUNCATE ON orion_private.%I'
				' FOR EACH STATEMENT EXECUTE FUNCTION orion_private.audit_refuse()', partition);
			PERFORM orion_private.audit_indexes(partition);
			EXECUTE format('ALTER TABLE orion_private.%I ENABLE ALWAYS TRIGGER no_truncate', partition);
			EXECUTE format('ALTER TABLE orion_private.audit_log ATTACH PARTITION orion_private.%I FOR VALUES FROM (%L) TO (%L)',
				partition, month, month + interval '1 month');
		EXCEPTION
			WHEN lock_not_available THEN
				RETURN false;
			WHEN check_violation OR duplicate_table OR unique_violation THEN
				NULL;	-- somebody was faster
		END;
	END LOOP;
	RETURN true;
END
$function$;
COMMENT ON FUNCTION orion_private.audit_partitions(int) IS 'Makes the audit log''s partitions of this month and the next ones; false when a lock was not to be had';
REVOKE ALL ON FUNCTION orion_private.audit_partitions(int) FROM PUBLIC;

CREATE FUNCTION orion_private.request_origin(OUT address inet, OUT user_agent text)
	LANGUAGE c STABLE PARALLEL RESTRICTED
	AS 'MODULE_PATHNAME', 'orion_request_origin';
COMMENT ON FUNCTION orion_private.request_origin() IS 'Where the HTTP request, or the SQL client, of this transaction comes from; no setting can forge it';
REVOKE ALL ON FUNCTION orion_private.request_origin() FROM PUBLIC;

-- For Orion's own functions. Never pass a password, a token or a hash.
CREATE FUNCTION orion_private.audit(action text, target_type text DEFAULT NULL, target_id text DEFAULT NULL,
	outcome text DEFAULT 'ok', old jsonb DEFAULT NULL, new jsonb DEFAULT NULL, metadata jsonb DEFAULT NULL,
	actor uuid DEFAULT NULL, session_id uuid DEFAULT NULL, address inet DEFAULT NULL, user_agent text DEFAULT NULL)
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
DECLARE
	origin record := orion_private.request_origin();
	claimed text := orion_private.claims() ->> 'session_id';
BEGIN
	INSERT INTO orion_private.audit_log (db_user, actor, session_id, action, target_type, target_id, outcome,
		address, user_agent, old, new, metadata)
	VALUES (CASE session_user WHEN 'orion_authenticator' THEN coalesce(pg_get_userbyid(orion_private.caller()), session_user) ELSE session_user END,
		coalesce(audit.actor, orion_private.uid()),
		-- tokens of another issuer may have anything there
		coalesce(audit.session_id, CASE WHEN claimed ~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' THEN claimed::uuid END),
		audit.action, audit.target_type, left(audit.target_id, 512), coalesce(audit.outcome, 'ok'),
		coalesce(audit.address, origin.address), left(coalesce(audit.user_agent, origin.user_agent), 512),
		orion_private.audit_bounded(audit.old), orion_private.audit_bounded(audit.new),
		orion_private.audit_bounded(audit.metadata));
END
$function$;
COMMENT ON FUNCTION orion_private.audit(text, text, text, text, jsonb, jsonb, jsonb, uuid, uuid, inet, text) IS
	'Adds a row to the audit log; actor, session, address and user agent are those of the transaction unless given';

CREATE FUNCTION orion_private.audit_bounded(value jsonb) RETURNS jsonb
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
	SELECT CASE WHEN octet_length(value::text) <= 65536 THEN value
		ELSE jsonb_build_object('omitted', 'larger than 64 kB', 'bytes', octet_length(value::text)) END;
$function$;
COMMENT ON FUNCTION orion_private.audit_bounded(jsonb) IS 'The value, or a note of its size when it has more than 64 kB';
REVOKE ALL ON FUNCTION orion_private.audit(text, text, text, text, jsonb, jsonb, jsonb, uuid, uuid, inet, text),
	orion_private.audit_bounded(jsonb) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_audit(action text, target_type text DEFAULT NULL, target_id text DEFAULT NULL,
	outcome text DEFAULT 'ok', old jsonb DEFAULT NULL, new jsonb DEFAULT NULL, metadata jsonb DEFAULT NULL)
	RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $function$
BEGIN
	IF action IS NULL OR action !~ '^[a-z][a-z0-9_]*(\.[a-z0-9_]+)+$' OR char_length(action) > 100 THEN
		RAISE EXCEPTION 'an action is named like "order.cancelled"'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM orion_private.audit(action, target_type, target_id, outcome, old, new, metadata);
END
$function$;
COMMENT ON FUNCTION @extschema@.orion_audit(text, text, text, text, jsonb, jsonb, jsonb) IS
	'Adds a row of the application to the audit log; who and where from are taken from the transaction';
REVOKE ALL ON FUNCTION @extschema@.orion_audit(text, text, text, text, jsonb, jsonb, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_audit(text, text, text, text, jsonb, jsonb, jsonb) TO orion_service, orion_admin;

CREATE VIEW orion.audit_log WITH (security_invoker = true) AS
	SELECT id, occurred_at, actor, session_id, db_user, action, target_type, target_id, outcome,
		address, user_agent, old, new, metadata
	FROM orion_private.audit_log;
COMMENT ON VIEW orion.audit_log IS 'Who did what to what, with the values before and after; for administrators';
CREATE VIEW orion.security_events WITH (security_invoker = true) AS
	SELECT id, occurred_at, actor, session_id, db_user, action, target_type, target_id, outcome,
		address, user_agent, metadata
	FROM orion_private.audit_log
	WHERE outcome <> 'ok' OR action ^@ 'security.';
COMMENT ON VIEW orion.security_events IS 'What was refused, and actions named "security."; for administrators';
-- the views check the caller's right on the table; nobody can name the table itself
GRANT SELECT ON orion_private.audit_log, orion.audit_log, orion.security_events TO orion_admin;
