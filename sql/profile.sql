-- Profiles, preferences and following through SQL.
\pset null '(null)'
\set VERBOSITY terse

-- JSON Merge Patch: the test cases of RFC 7396, appendix A
SELECT t, p, orion_private.merge_patch(t, p) AS result, orion_private.merge_patch(t, p) = r AS right FROM (VALUES
	('{"a":"b"}'::jsonb, '{"a":"c"}'::jsonb, '{"a":"c"}'::jsonb),
	('{"a":"b"}', '{"b":"c"}', '{"a":"b","b":"c"}'),
	('{"a":"b"}', '{"a":null}', '{}'),
	('{"a":"b","b":"c"}', '{"a":null}', '{"b":"c"}'),
	('{"a":["b"]}', '{"a":"c"}', '{"a":"c"}'),
	('{"a":"c"}', '{"a":["b"]}', '{"a":["b"]}'),
	('{"a":{"b":"c"}}', '{"a":{"b":"d","c":null}}', '{"a":{"b":"d"}}'),
	('{"a":[{"b":"c"}]}', '{"a":[1]}', '{"a":[1]}'),
	('["a","b"]', '["c","d"]', '["c","d"]'),
	('{"a":"b"}', '["c"]', '["c"]'),
	('{"a":"foo"}', 'null', 'null'),
	('{"a":"foo"}', '"bar"', '"bar"'),
	('{"e":null}', '{"a":1}', '{"e":null,"a":1}'),
	('[1,2]', '{"a":"b","c":null}', '{"a":"b"}'),
	('{}', '{"a":{"bb":{"ccc":null}}}', '{"a":{"bb":{}}}')) AS v (t, p, r);

-- the form of bodies
SELECT b, orion_private.shape_errors(b, '{"n": ["integer"], "s": ["string", "null"]}', '{n}') FROM (VALUES
	('{"n": 1}'::jsonb), ('{"n": 1, "s": null}'), ('{"n": 1, "s": "x"}'), ('{}'), ('{"n": null}'), ('{"n": 1.5}'), ('{"n": 1e20}'),
	('{"n": 1, "s": 2, "x": 3}'), ('[]'), ('null'), (NULL)) AS v (b);

SELECT user_id AS ann FROM orion_register('profile-ann@example.com', 'correct horse battery', 'Ann') \gset
SELECT user_id AS bob FROM orion_register('profile-bob@example.com', 'correct horse battery') \gset
SELECT orion_jwt_sign(jsonb_build_object('sub', :'ann', 'role', 'orion_user')) AS token \gset
SELECT preferences, version FROM orion_private.preferences WHERE user_id = :'ann';

-- nobody signed in
SELECT orion_follow(:'bob'), orion_unfollow(:'bob'), orion_preferences_update('{}');
BEGIN;
SELECT orion_authenticate(:'token') IS NOT NULL AS signed_in;
SET LOCAL ROLE orion_user;
SELECT orion_follow(:'bob'), orion_follow(:'bob') AS again, orion_follow(:'ann') AS self, orion_follow('00000000-0000-0000-0000-000000000000') AS nobody;
SELECT orion_unfollow(:'bob'), orion_unfollow(:'bob') AS again;
SELECT * FROM orion_preferences_update('{"theme": "dark"}');
SELECT * FROM orion_preferences_update('{"theme": null, "a": {"b": null}}', 2);
SELECT * FROM orion_preferences_update('{"theme": 1}', 2);
SELECT * FROM orion_preferences_update('[]');
SELECT status FROM orion_preferences_update(jsonb_build_object('x', repeat('x', 16400)));
-- a change through the view is on record too
UPDATE orion.profile SET display_name = 'Änn';
SAVEPOINT s;
SELECT orion_email_confirm('x');
ROLLBACK TO s;
SELECT orion_email_token_open(:'ann', 'x');
ROLLBACK TO s;
COMMIT;
SELECT action, outcome, old, new, metadata FROM orion.audit_log WHERE actor = :'ann' ORDER BY id;

-- a token opens for its user only
SELECT (orion_private.email_token_make(:'ann')).sealed AS sealed \gset
SELECT orion_email_token_open(:'ann', :'sealed') ~ '^[A-Za-z0-9_-]{43}$' AS opens;
SELECT orion_email_token_open(:'bob', :'sealed');
SELECT orion_email_token_open(:'ann', 'no base64!');
SELECT orion_email_token_open(:'ann', repeat('A', 2000));
SELECT bool_and(m.digest = sha256(orion_email_token_open(:'ann', m.sealed)::bytea)) AS digest, count(DISTINCT m.sealed)
	FROM (SELECT (made).* FROM (SELECT orion_private.email_token_make(:'ann') AS made FROM generate_series(1, 10) OFFSET 0) AS t) AS m;
SELECT status FROM orion_email_confirm('nothing');

-- what else is on record of an account
SELECT status FROM orion_login('profile-ann@example.com', 'wrong', '192.0.2.7', 'an agent');
SELECT status FROM orion_login('profile-nobody@example.com', 'wrong', '192.0.2.7');
SELECT status FROM orion_login('profile-ann@example.com', 'correct horse battery', '192.0.2.7');
SELECT orion_user_sign_out(:'ann'), orion_user_ban(:'ann'), orion_user_unban(:'ann'), orion_user_delete(:'ann');
SELECT action, target_type, outcome, actor = :'ann' AS ann, address, user_agent, old - 'until' AS old, new, metadata - 'userId' AS metadata FROM orion.audit_log
	WHERE action ~ '^auth' AND occurred_at > (SELECT max(occurred_at) FROM orion.audit_log WHERE action = 'user.email_changed') OR target_id = :'ann' AND action ~ 'ed$' AND action !~ 'preferences|follow|updated'
	ORDER BY id;
SELECT action, outcome FROM orion.security_events WHERE action = 'auth.login' ORDER BY id DESC LIMIT 2;
DELETE FROM orion_private.users WHERE id IN (:'ann', :'bob');
