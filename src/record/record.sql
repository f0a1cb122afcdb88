-- Optimistic locking for any table with a column "version".

-- Runs as the caller, without any right of its own: what the caller may not
-- update by SQL cannot be updated here. Its statements name everything with its
-- schema, so no search_path is pinned, which the triggers of the table would see.
CREATE FUNCTION @extschema@.orion_update(relation regclass, id text, expected_version bigint, changes jsonb)
	RETURNS jsonb
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_update';
COMMENT ON FUNCTION @extschema@.orion_update(regclass, text, bigint, jsonb) IS
	'Updates the row of that key if its version is still the expected one, and returns the new row; PT409 when the version is another, PT404 when there is no such row';
REVOKE ALL ON FUNCTION @extschema@.orion_update(regclass, text, bigint, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_update(regclass, text, bigint, jsonb)
	TO orion_anon, orion_user, orion_service, orion_admin;
