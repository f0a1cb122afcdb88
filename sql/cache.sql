-- Cache rules: configurations of Redis sinks, rules as rows, dependencies, rights.
\pset null '(null)'
\set SHOW_CONTEXT never
SET client_min_messages = warning;

-- configurations are checked before they are stored; the errors name the key
CREATE FUNCTION pg_temp.problem(config jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM orion_private.sink_check('redis', '{"url": "redis://h/0"}' || config);
	RETURN 'good';
EXCEPTION WHEN invalid_parameter_value THEN
	RETURN SQLERRM;
END $$;
SELECT pg_temp.problem(config::jsonb), config FROM (VALUES
	('{}'),
	('{"stream": "events:{type}", "maxlen": 100, "channel": "c:{aggregateid}", "position_key": "p"}'),
	('{"url": "rediss://h", "tls": {"ca": "/etc/ssl/ca.pem", "cert": "/c", "key": "/k", "server_name": "r", "verify": false}}'),
	('{"cluster": true, "nodes": ["h:1"], "stream": "{{orion}:events"}'),
	('{"stream": false}'),
	('{"cache": [{"pattern": "user.*", "del": ["a:{id}"], "tags": ["t"], "scan": ["l:*"], "flush": ["n"]}], "dependencies": {"a:{id}": ["b"], "b": ["c"]}}'),
	('{"url": "http://h"}'), ('{"url": 5}'), ('{"maxlne": 5}'), ('{"maxlen": "5"}'), ('{"maxlen": 0}'), ('{"maxlen": 1.5}'),
	('{"stream": ""}'), ('{"stream": true}'), ('{"stream": "a{b}"}'), ('{"stream": "{"}'), ('{"channel": "{{{id}"}'),
	('{"tls": {}}'), ('{"url": "rediss://h", "tls": {"cafile": "x"}}'), ('{"url": "rediss://h", "tls": {"cert": "/c"}}'),
	('{"url": "rediss://h", "tls": {"verify": "no"}}'), ('{"nodes": ["h"]}'), ('{"cluster": 1}'), ('{"tag_prefix": "{t}"}'),
	('{"cache": {}}'), ('{"cache": [5]}'), ('{"cache": [{"del": ["a"]}]}'), ('{"cache": [{"pattern": "a..b", "del": ["a"]}]}'),
	('{"cache": [{"pattern": "#"}]}'), ('{"cache": [{"pattern": "#", "del": []}]}'), ('{"cache": [{"pattern": "#", "del": [5]}]}'),
	('{"cache": [{"pattern": "#", "del": ["{x}"]}]}'), ('{"cache": [{"pattern": "#", "delete": ["x"]}]}'),
	('{"cache": [{"pattern": "#", "set": {"key": "a"}}]}'),
	('{"dependencies": []}'), ('{"dependencies": {"a": "b"}}'), ('{"dependencies": {"a": []}}'), ('{"dependencies": {"a": ["a"]}}'),
	('{"dependencies": {"a": ["b", "x"], "b": ["c"], "c": ["a"]}}')) AS v (config);
SELECT orion_sink_create('x', 'redis', '{"url": "redis://u:secret-word@h", "chanel": "x"}');

-- rules
CREATE ROLE regress_cache_admin IN ROLE orion_admin;
CREATE ROLE regress_cache_nobody;
CREATE FUNCTION public.regress_value(event jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT event -> 'payload' $$;
CREATE FUNCTION public.regress_number(event jsonb) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION public.regress_two(event jsonb, more text) RETURNS text LANGUAGE sql AS $$ SELECT more $$;
REVOKE ALL ON FUNCTION public.regress_value(jsonb) FROM PUBLIC;
BEGIN;	-- not committed: no relay is started for it
SELECT orion_sink_create('r', 'redis', '{"url": "redis://localhost"}') > 0 AS created;
SELECT orion_sink_create('q', 'rabbitmq', '{"url": "amqp://localhost"}') > 0 AS created;
SET LOCAL ROLE regress_cache_admin;
SELECT orion_cache_rule_create('r', 'profile', 'user.*', '{"del": ["user:profile:{aggregateid}"], "tags": ["team"]}');
SAVEPOINT s;
SELECT orion_cache_rule_create('r', 'profile', 'user.*', '{"del": ["a"]}');
ROLLBACK TO s;
SELECT orion_cache_rule_create('q', 'x', '#', '{"del": ["a"]}');
ROLLBACK TO s;
SELECT orion_cache_rule_create('nix', 'x', '#', '{"del": ["a"]}');
ROLLBACK TO s;
SELECT orion_cache_rule_create('r', 'a b', '#', '{"del": ["a"]}');
ROLLBACK TO s;
SELECT orion_cache_rule_create('r', 'x', 'a..b', '{"del": ["a"]}');
ROLLBACK TO s;
SELECT orion_cache_rule_create('r', 'x', NULL, '{"del": ["a"]}');
ROLLBACK TO s;
SELECT orion_cache_rule_create('r', 'x', '#', NULL);
ROLLBACK TO s;
SELECT orion_cache_rule_create('r', 'x', '#', '{}');
ROLLBACK TO s;
SELECT orion_cache_rule_create('r', 'x', '#', '{"pattern": "#", "del": ["a"]}');
ROLLBACK TO s;
SELECT orion_cache_rule_create('r', 'x', '#', '{"set": {"key": "a"}}');
ROLLBACK TO s;
SELECT orion_cache_rule_create('r', 'x', '#', '{"del": ["a"]}', 'public.regress_number(jsonb)');
ROLLBACK TO s;
SELECT orion_cache_rule_create('r', 'x', '#', '{"set": {"key": "a"}}', 'public.regress_two(jsonb, text)');
ROLLBACK TO s;
SELECT orion_cache_rule_create('r', 'x', '#', '{"set": {"key": "a"}}', 'public.regress_value(jsonb)');
ROLLBACK TO s;
RESET ROLE;
GRANT EXECUTE ON FUNCTION public.regress_value(jsonb) TO regress_cache_admin;
SET LOCAL ROLE regress_cache_admin;
SAVEPOINT s;
SELECT orion_cache_rule_create('r', 'x', '#', '{"del": ["a"]}', 'public.regress_value(jsonb)');
ROLLBACK TO s;
SELECT orion_cache_rule_create('r', 'x', '#', '{"set": {"ttl": 5}}', 'public.regress_value(jsonb)');
ROLLBACK TO s;
SELECT orion_cache_rule_create('r', 'x', '#', '{"set": {"key": "a", "ttl": 0}}', 'public.regress_value(jsonb)');
ROLLBACK TO s;
SELECT orion_cache_rule_create('r', 'x', '#', '{"set": {"key": "a", "ttl": 1.5}}', 'public.regress_value(jsonb)');
ROLLBACK TO s;
SELECT orion_cache_rule_create('r', 'x', '#', '{"set": {"key": "a", "tag": ["t"]}}', 'public.regress_value(jsonb)');
ROLLBACK TO s;
SELECT orion_cache_rule_create('r', 'x', '#', '{"set": {"key": "{a}"}}', 'public.regress_value(jsonb)');
ROLLBACK TO s;
SELECT orion_cache_rule_create('r', 'value', 'user.*', '{"set": {"key": "user:{aggregateid}", "ttl": 60, "tags": ["team"]}}', 'public.regress_value(jsonb)');
SELECT sink, name, pattern, rule, function, function_role, failures, last_error FROM orion.cache_rules ORDER BY name;

-- dependencies
SELECT orion_cache_depend('r', 'user:profile:{aggregateid}', ARRAY['user:permissions:{aggregateid}', 'page']);
SELECT orion_cache_depend('r', 'page', ARRAY['menu']);
SELECT orion_cache_depend('r', 'page', ARRAY['menu']);
SAVEPOINT s;
SELECT orion_cache_depend('r', 'menu', ARRAY['user:profile:{aggregateid}']);
ROLLBACK TO s;
SELECT orion_cache_depend('r', 'menu', ARRAY['menu']);
ROLLBACK TO s;
SELECT orion_cache_depend('r', 'menu', NULL);
ROLLBACK TO s;
SELECT orion_cache_depend('r', 'menu', ARRAY[NULL]);
ROLLBACK TO s;
SELECT orion_cache_depend('r', '{x}', ARRAY['a']);
ROLLBACK TO s;
SELECT * FROM orion.cache_dependencies ORDER BY key, dependent;
SELECT orion_cache_undepend('r', 'user:profile:{aggregateid}', ARRAY['page']), orion_cache_undepend('r', 'page'), orion_cache_undepend('r', 'nix');
SELECT orion_cache_rule_drop('r', 'profile');
SELECT orion_cache_rule_drop('r', 'profile');
ROLLBACK TO s;

-- what is on the audit log; a sink takes its rules along
RESET ROLE;
SELECT action, target_id, new - 'rule' AS new FROM orion_private.audit_log WHERE action LIKE 'cache.%' ORDER BY occurred_at, id;
SELECT orion_sink_drop('r');
SELECT count(*) FROM orion_private.cache_rules;
ROLLBACK;

-- who may
SET ROLE regress_cache_nobody;
SELECT orion_cache_rule_create('r', 'x', '#', '{"del": ["a"]}');
SELECT orion_cache_rule_drop('r', 'x');
SELECT orion_cache_depend('r', 'a', ARRAY['b']);
SELECT orion_cache_undepend('r', 'a');
SELECT * FROM orion.cache_rules;
SELECT * FROM orion.cache_dependencies;
SELECT * FROM orion_private.cache_rules;
RESET ROLE;
DROP FUNCTION public.regress_value(jsonb), public.regress_number(jsonb), public.regress_two(jsonb, text);
DROP ROLE regress_cache_admin, regress_cache_nobody;
