-- Cache rules: which keys of a Redis the events of a sink remove, renew or tag.
--
-- Rules are rows, so that they come and go while the sink stays. The courier carries
-- them out; values are computed by the relay, in the database.

CREATE TABLE orion_private.cache_rules (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	sink_id int NOT NULL REFERENCES orion_private.sinks ON DELETE CASCADE,
	name text NOT NULL CHECK (name ~ '^[A-Za-z0-9_.-]{1,63}$'),
	pattern text NOT NULL,
	rule jsonb NOT NULL,
	function text,
	function_role regrole,
	failures bigint NOT NULL DEFAULT 0,
	last_error text,
	last_error_at timestamptz,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	UNIQUE (sink_id, name),
	CHECK ((rule ? 'set') = (function IS NOT NULL AND function_role IS NOT NULL))
);
COMMENT ON TABLE orion_private.cache_rules IS 'What the events of a sink do to the keys of a cache';
COMMENT ON COLUMN orion_private.cache_rules.function IS 'The signature, qualified, of the function that makes the value of key "set"';
COMMENT ON COLUMN orion_private.cache_rules.function_role IS 'Who created the rule, and as whom the function runs';
COMMENT ON COLUMN orion_private.cache_rules.failures IS 'Calls of the function that failed: their keys were removed';

CREATE TABLE orion_private.cache_dependencies (
	sink_id int NOT NULL REFERENCES orion_private.sinks ON DELETE CASCADE,
	key text NOT NULL,
	dependent text NOT NULL,
	PRIMARY KEY (sink_id, key, dependent)
);
COMMENT ON TABLE orion_private.cache_dependencies IS 'Who removes or sets the key removes the dependent, and what depends on that';

DO $do$
DECLARE
	relation text;
BEGIN
	FOREACH relation IN ARRAY ARRAY['cache_rules', 'cache_rules_id_seq', 'cache_dependencies'] LOOP
		PERFORM pg_catalog.pg_extension_config_dump(pg_catalog.format('orion_private.%I', relation)::pg_catalog.regclass, '');
	END LOOP;
	FOREACH relation IN ARRAY ARRAY['cache_rules', 'cache_dependencies'] LOOP
		EXECUTE pg_catalog.format('CREATE TRIGGER sinks_changed AFTER INSERT OR DELETE OR TRUNCATE ON orion_private.%I'
			' FOR EACH STATEMENT EXECUTE FUNCTION orion_private.sinks_changed()', relation);
	END LOOP;
END
$do$;

-- The sink's id. Only Redis has keys.
CREATE FUNCTION orion_private.cache_sink(sink text) RETURNS int
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	found_id int;
	found_kind text;
BEGIN
	SELECT s.id, s.kind INTO found_id, found_kind FROM orion_private.sinks s WHERE s.name = sink FOR UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no sink named "%"', sink USING ERRCODE = 'undefined_object';
	ELSIF found_kind <> 'redis' THEN
		RAISE EXCEPTION 'sink "%" is of kind %, and only redis has a cache', sink, found_kind
			USING ERRCODE = 'wrong_object_type';
	END IF;
	RETURN found_id;
END
$fn$;
COMMENT ON FUNCTION orion_private.cache_sink(text) IS 'The id of a Redis sink, locked until the end of the transaction';

CREATE FUNCTION orion_private.cache_rule_add(sink text, name text, pattern text, rule jsonb, function text, function_role regrole) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	of_sink int := orion_private.cache_sink(sink);
BEGIN
	IF name IS NULL OR name !~ '^[A-Za-z0-9_.-]{1,63}$' THEN
		RAISE EXCEPTION 'invalid name of a cache rule: "%"', name
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Use 1 to 63 letters, digits, dots, hyphens and underscores.';
	END IF;
	PERFORM orion_private.pattern_check(pattern);
	PERFORM orion_private.cache_rule_check(rule, function IS NOT NULL);
	IF (SELECT count(*) FROM orion_private.cache_rules r WHERE r.sink_id = of_sink) >= 128 THEN
		RAISE EXCEPTION 'sink "%" already has 128 cache rules', sink USING ERRCODE = 'program_limit_exceeded';
	END IF;
	INSERT INTO orion_private.cache_rules (sink_id, name, pattern, rule, function, function_role)
		VALUES (of_sink, name, pattern, rule, function, function_role)
		ON CONFLICT DO NOTHING;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'sink "%" already has a cache rule named "%"', sink, name USING ERRCODE = 'duplicate_object';
	END IF;
	PERFORM orion_private.audit('cache.rule.create', 'sink', sink,
		new => jsonb_build_object('name', name, 'pattern', pattern, 'rule', rule, 'function', function, 'role', function_role::text));
END
$fn$;
COMMENT ON FUNCTION orion_private.cache_rule_add(text, text, text, jsonb, text, regrole) IS 'Adds the row of a cache rule';
REVOKE ALL ON FUNCTION orion_private.cache_sink(text), orion_private.cache_rule_add(text, text, text, jsonb, text, regrole) FROM PUBLIC;

-- In C, because only there the immediate caller is known: the function runs as that role.
CREATE FUNCTION @extschema@.orion_cache_rule_create(sink text, name text, pattern text, rule jsonb, function regprocedure DEFAULT NULL)
	RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_cache_rule_create';
COMMENT ON FUNCTION @extschema@.orion_cache_rule_create(text, text, text, jsonb, regprocedure)
	IS 'Makes the events of a Redis sink that match the pattern remove, renew or tag keys; function(event jsonb) makes the value of "set", as the current role';

CREATE FUNCTION @extschema@.orion_cache_rule_drop(sink text, name text) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	DELETE FROM orion_private.cache_rules r
		WHERE r.sink_id = orion_private.cache_sink(sink) AND r.name = orion_cache_rule_drop.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'sink "%" has no cache rule named "%"', sink, name USING ERRCODE = 'undefined_object';
	END IF;
	PERFORM orion_private.audit('cache.rule.drop', 'sink', sink, old => jsonb_build_object('name', name));
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_cache_rule_drop(text, text) IS 'Removes a cache rule; keys stay as they are';

CREATE FUNCTION @extschema@.orion_cache_depend(sink text, key text, dependents text[]) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	of_sink int := orion_private.cache_sink(sink);
BEGIN
	PERFORM orion_private.template_check('key', jsonb_build_array(key));
	PERFORM orion_private.template_check('dependents', to_jsonb(coalesce(dependents, '{}')));
	INSERT INTO orion_private.cache_dependencies (sink_id, key, dependent)
		SELECT of_sink, orion_cache_depend.key, d FROM unnest(dependents) d ON CONFLICT DO NOTHING;
	PERFORM orion_private.cache_dependencies_check((SELECT jsonb_object_agg(e.key, e.list) FROM (
		SELECT c.key, jsonb_agg(c.dependent) AS list FROM orion_private.cache_dependencies c
		WHERE c.sink_id = of_sink GROUP BY c.key) e));
	PERFORM orion_private.audit('cache.depend', 'sink', sink, new => jsonb_build_object('key', key, 'dependents', dependents));
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_cache_depend(text, text, text[])
	IS 'Whatever removes or sets the key of a cache removes the dependents, too, and theirs; cycles are refused';

CREATE FUNCTION @extschema@.orion_cache_undepend(sink text, key text, dependents text[] DEFAULT NULL) RETURNS int
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	removed int;
BEGIN
	DELETE FROM orion_private.cache_dependencies c
		WHERE c.sink_id = orion_private.cache_sink(sink) AND c.key = orion_cache_undepend.key
			AND (dependents IS NULL OR c.dependent = ANY (dependents));
	GET DIAGNOSTICS removed = ROW_COUNT;
	PERFORM orion_private.audit('cache.undepend', 'sink', sink, old => jsonb_build_object('key', key, 'dependents', dependents));
	RETURN removed;
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_cache_undepend(text, text, text[])
	IS 'Removes dependents of a key, all of them by default; returns how many there were';

REVOKE ALL ON FUNCTION
	@extschema@.orion_cache_rule_create(text, text, text, jsonb, regprocedure),
	@extschema@.orion_cache_rule_drop(text, text),
	@extschema@.orion_cache_depend(text, text, text[]),
	@extschema@.orion_cache_undepend(text, text, text[])
	FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
	@extschema@.orion_cache_rule_create(text, text, text, jsonb, regprocedure),
	@extschema@.orion_cache_rule_drop(text, text),
	@extschema@.orion_cache_depend(text, text, text[]),
	@extschema@.orion_cache_undepend(text, text, text[])
	TO orion_admin;

GRANT SELECT ON orion_private.cache_rules, orion_private.cache_dependencies TO orion_admin;

CREATE VIEW orion.cache_rules WITH (security_invoker = true) AS
	SELECT s.name AS sink, r.name, r.pattern, r.rule, r.function, r.function_role,
		r.failures, r.last_error, r.last_error_at, r.created_at
	FROM orion_private.cache_rules r
	JOIN orion_private.sinks s ON s.id OPERATOR(pg_catalog.=) r.sink_id;
COMMENT ON VIEW orion.cache_rules IS 'Cache rules, and how often the functions that make their values have failed';
GRANT SELECT ON orion.cache_rules TO orion_admin;

CREATE VIEW orion.cache_dependencies WITH (security_invoker = true) AS
	SELECT s.name AS sink, d.key, d.dependent
	FROM orion_private.cache_dependencies d
	JOIN orion_private.sinks s ON s.id OPERATOR(pg_catalog.=) d.sink_id;
COMMENT ON VIEW orion.cache_dependencies IS 'Which keys of a cache are removed together with others';
GRANT SELECT ON orion.cache_dependencies TO orion_admin;
