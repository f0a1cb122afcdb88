-- Contracts of event types: what the payloads of events must look like.

-- Collation C: the extension looks types up by it.
CREATE TABLE orion_private.event_types (
	type text COLLATE "C" NOT NULL,
	version int NOT NULL CHECK (version >= 1),
	schema jsonb NOT NULL,
	description text,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	updated_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	PRIMARY KEY (type, version)
);
COMMENT ON TABLE orion_private.event_types IS 'Contracts: a JSON Schema for each version of an event type';
SELECT pg_catalog.pg_extension_config_dump('orion_private.event_types', '');

CREATE FUNCTION orion_private.event_types_changed() RETURNS trigger
	LANGUAGE c
	AS 'MODULE_PATHNAME', 'orion_event_types_changed';
COMMENT ON FUNCTION orion_private.event_types_changed() IS 'Lets every backend forget the contracts it keeps';
REVOKE ALL ON FUNCTION orion_private.event_types_changed() FROM PUBLIC;
CREATE TRIGGER event_types_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON orion_private.event_types
	FOR EACH STATEMENT EXECUTE FUNCTION orion_private.event_types_changed();
ALTER TABLE orion_private.event_types ENABLE ALWAYS TRIGGER event_types_changed;

CREATE FUNCTION orion_private.event_schema_check(type text, schema jsonb) RETURNS void
	LANGUAGE c VOLATILE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_event_schema_check';
COMMENT ON FUNCTION orion_private.event_schema_check(text, jsonb) IS 'Refuses what is no event type and what is no schema that can be checked';
REVOKE ALL ON FUNCTION orion_private.event_schema_check(text, jsonb) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_event_type_set(type text, schema jsonb, version int DEFAULT 1, description text DEFAULT NULL)
	RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	former orion_private.event_types;
BEGIN
	IF type IS NULL OR schema IS NULL OR version IS NULL OR version < 1 THEN
		RAISE EXCEPTION 'a contract needs a type, a schema and a version of 1 or more'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM orion_private.event_schema_check(type, schema);
	LOCK TABLE orion_private.event_types IN SHARE ROW EXCLUSIVE MODE;
	SELECT * INTO former FROM orion_private.event_types t
		WHERE t.type = orion_event_type_set.type AND t.version = orion_event_type_set.version;
	IF NOT FOUND THEN
		INSERT INTO orion_private.event_types (type, version, schema, description)
			VALUES (type, version, schema, description);
	ELSIF (former.schema, former.description) IS NOT DISTINCT FROM (schema, coalesce(description, former.description)) THEN
		RETURN;
	ELSE
		UPDATE orion_private.event_types t
			SET schema = orion_event_type_set.schema, updated_at = now(),
				description = coalesce(orion_event_type_set.description, t.description)
			WHERE t.type = orion_event_type_set.type AND t.version = orion_event_type_set.version;
	END IF;
	PERFORM orion_private.audit('event_type.set', 'event_type', format('%s %s', type, version), old => former.schema, new => schema);
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_event_type_set(text, jsonb, int, text)
	IS 'Gives a version of an event type a contract, a JSON Schema that the payload must keep to, or changes it';

CREATE FUNCTION @extschema@.orion_event_type_drop(type text, version int DEFAULT NULL) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	former orion_private.event_types;
	found_one boolean := false;
BEGIN
	FOR former IN DELETE FROM orion_private.event_types t
		WHERE t.type = orion_event_type_drop.type
			AND (orion_event_type_drop.version IS NULL OR t.version = orion_event_type_drop.version)
		RETURNING *
	LOOP
		found_one := true;
		PERFORM orion_private.audit('event_type.drop', 'event_type', format('%s %s', former.type, former.version), old => former.schema);
	END LOOP;
	IF NOT found_one THEN
		RAISE EXCEPTION 'event type "%" has no contract%', type, coalesce(' of version ' || version, '')
			USING ERRCODE = 'undefined_object';
	END IF;
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_event_type_drop(text, int)
	IS 'Takes the contract from a version of an event type, or from all; its events are not checked any more';

-- No SET search_path: the C function resolves no name through it.
CREATE FUNCTION @extschema@.orion_event_type_check(type text, payload jsonb, version int DEFAULT 1) RETURNS text
	LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED
	AS 'MODULE_PATHNAME', 'orion_event_type_check';
COMMENT ON FUNCTION @extschema@.orion_event_type_check(text, jsonb, int)
	IS 'How the payload would break the contract of its event type, or null; publishes nothing';

REVOKE ALL ON FUNCTION
	@extschema@.orion_event_type_set(text, jsonb, int, text),
	@extschema@.orion_event_type_drop(text, int),
	@extschema@.orion_event_type_check(text, jsonb, int)
	FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
	@extschema@.orion_event_type_set(text, jsonb, int, text),
	@extschema@.orion_event_type_drop(text, int)
	TO orion_admin;
GRANT EXECUTE ON FUNCTION @extschema@.orion_event_type_check(text, jsonb, int) TO orion_service, orion_admin;

CREATE VIEW orion.event_types WITH (security_invoker = true) AS
	SELECT type, version, description, schema, created_at, updated_at FROM orion_private.event_types;
COMMENT ON VIEW orion.event_types IS 'Contracts of event types: the JSON Schema of each version';
GRANT SELECT ON orion_private.event_types, orion.event_types TO orion_admin, orion_service;
