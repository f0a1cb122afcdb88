-- API keys through SQL: form, form errors, lookup, scopes, limits, revocation, who sees what.
\pset null '(null)'
\set VERBOSITY terse
SELECT user_id AS ann FROM orion_register('key-ann@example.com', 'correct horse battery') \gset
SELECT user_id AS bob FROM orion_register('key-bob@example.com', 'correct horse battery') \gset

-- the form: prefix, digits, checksum; all different
SELECT count(DISTINCT g.key) AS keys, bool_and(g.key ~ '^ork_[0-9A-Za-z]{44}$') AS form, bool_and(g.prefix = left(g.key, 10)) AS prefix,
	bool_and(g.digest = sha256(g.key::bytea)) AS digest, count(DISTINCT substr(g.key, 5, 1)) > 50 AS spread
	FROM (SELECT (made).* FROM (SELECT orion_private.api_key_generate() AS made FROM generate_series(1, 1000) OFFSET 0) AS m) AS g;

-- what is refused
SELECT status FROM orion_api_key_create('00000000-0000-0000-0000-000000000000', 'x');
SELECT status FROM orion_api_key_create(:'ann', ' ');
SELECT status FROM orion_api_key_create(:'ann', repeat('x', 101));
SELECT status FROM orion_api_key_create(:'ann', 'x', '{docs}');
SELECT status FROM orion_api_key_create(:'ann', 'x', expires_at => now() - interval '1 second');
SELECT status FROM orion_api_key_create(:'ann', 'x', expires_at => 'infinity');
SELECT status FROM orion_api_key_create(:'ann', 'x', rate_limit => 0);

SELECT id, key FROM orion_api_key_create(:'ann', 'all of it') \gset all_
SELECT id, key FROM orion_api_key_create(:'ann', 'some', '{docs:read}', now() + interval '1 hour', 2) \gset some_
SELECT name, prefix ~ '^ork_.{6}$' AS prefix, scopes, rate_limit, expires_at > now() AS lasts, last_used_at FROM orion.api_keys WHERE user_id = :'ann' ORDER BY created_at;
-- the key itself is nowhere
SELECT count(*) FROM orion_private.api_keys AS k WHERE k::text ~ substr(:'all_key', 12, 20);
SELECT count(*) FROM orion_private.audit_log AS a WHERE a::text ~ substr(:'all_key', 12, 20);
SELECT count(*) FROM orion_private.outbox AS o WHERE o::text ~ substr(:'all_key', 12, 20);

-- used
SELECT orion_role_create('key-reader'), orion_permission_grant('key-reader', 'docs:*'), orion_role_grant(:'ann', 'key-reader');
BEGIN;
SELECT c - '{sub,api_key_id}'::text[] #- '{amr,0,timestamp}' AS claims, c ->> 'sub' = :'ann' AS sub, c ->> 'api_key_id' = :'all_id' AS id FROM orion_api_key_authenticate(:'all_key') AS c;
SELECT orion_uid() = :'ann' AS ann, orion_role(), orion_has_permission('docs:write');
COMMIT;
BEGIN;
SELECT orion_api_key_authenticate(:'some_key') -> 'scopes' AS scopes;
SELECT orion_has_permission('docs:read') AS read, orion_has_permission('docs:write') AS write, orion_permissions();
COMMIT;
-- what a request leaves: noted once a minute
SELECT orion_private.api_key_record(:'all_id', NULL);
SELECT last_used_at > now() - interval '1 minute' AS noted FROM orion.api_keys WHERE user_id = :'ann' ORDER BY created_at;
SELECT xmin AS before FROM orion_private.api_keys WHERE id = :'all_id' \gset
SELECT orion_private.api_key_record(:'all_id', NULL);
SELECT xmin = :'before' AS same FROM orion_private.api_keys WHERE id = :'all_id';
UPDATE orion_private.api_keys SET last_used_at = now() - interval '61 seconds' WHERE id = :'all_id';
SELECT orion_private.api_key_record(:'all_id', NULL);
SELECT last_used_at > now() - interval '1 minute' AS noted FROM orion_private.api_keys WHERE id = :'all_id';

-- the limit of the second key is 2 a minute
SELECT orion_api_key_authenticate(:'some_key') IS NOT NULL AS second;
SELECT orion_api_key_authenticate(:'some_key');

-- what is no key is not looked up; one letter off is noise
SELECT orion_api_key_authenticate('ork_');
SELECT orion_api_key_authenticate('');
SELECT orion_api_key_authenticate(:'all_key' || 'x');
SELECT orion_api_key_authenticate(overlay(:'all_key' PLACING CASE substr(:'all_key', 20, 1) WHEN 'a' THEN 'b' ELSE 'a' END FROM 20 FOR 1));
SELECT orion_api_key_authenticate(g.key) FROM orion_private.api_key_generate() AS g;
SELECT orion_jwt_verify(:'all_key');

-- banned, expired, revoked
SELECT user_id AS cat FROM orion_register('key-cat@example.com', 'correct horse battery') \gset
SELECT key FROM orion_api_key_create(:'cat', 'of cat') \gset cat_
SELECT orion_user_ban(:'cat');
SELECT orion_api_key_authenticate(:'cat_key');
SELECT orion_user_unban(:'cat');
SELECT orion_api_key_authenticate(:'cat_key') IS NOT NULL AS good_again;
SELECT orion_user_delete(:'cat');
SELECT orion_api_key_authenticate(:'cat_key');
UPDATE orion_private.api_keys SET expires_at = now() WHERE id = :'some_id';
SELECT orion_api_key_authenticate(:'some_key');
SELECT orion_api_key_revoke(:'all_id'), orion_api_key_revoke(:'all_id') AS again, orion_api_key_revoke('00000000-0000-0000-0000-000000000000') AS none;
SELECT orion_api_key_authenticate(:'all_key');
SELECT action, outcome, actor, old - 'userId' - 'prefix' AS old, new - '{userId,prefix,expiresAt}'::text[] AS new FROM orion.audit_log WHERE action ~ 'api_key' ORDER BY id;
SELECT type, payload - '{id,userId,prefix,expiresAt}'::text[] AS payload FROM orion_private.outbox WHERE type ~ 'api_key' ORDER BY seq;
-- a refused use is put on record once a minute
SELECT orion_private.api_key_record(:'all_id', 'revoked') FROM generate_series(1, 3);
SELECT action, outcome, actor = :'ann' AS ann FROM orion.security_events WHERE action ~ 'api_key';

-- who sees what
BEGIN;
SELECT orion_authenticate(orion_jwt_sign(jsonb_build_object('sub', :'bob'))) IS NOT NULL AS bob;
SET LOCAL ROLE orion_user;
SELECT count(*) AS of_bob FROM orion.api_keys;
RESET ROLE;
SELECT orion_authenticate(orion_jwt_sign(jsonb_build_object('sub', :'ann'))) IS NOT NULL AS ann;
SET LOCAL ROLE orion_user;
SELECT count(*) AS of_ann FROM orion.api_keys;
SAVEPOINT s;
UPDATE orion.api_keys SET name = 'x';
ROLLBACK TO s;
SELECT status FROM orion_api_key_create(:'ann', 'x');
ROLLBACK TO s;
SELECT orion_api_key_revoke(:'some_id');
ROLLBACK TO s;
SET LOCAL ROLE orion_anon;
SELECT count(*) FROM orion.api_keys;
ROLLBACK;

-- a key sees no sessions, devices, keys or factors, and of the profile what its scopes say
SELECT key FROM orion_api_key_create(:'ann', 'docs', '{docs:read}') \gset docs_
SELECT key FROM orion_api_key_create(:'ann', 'reads', '{profile:read}') \gset reads_
SELECT key FROM orion_api_key_create(:'ann', 'all') \gset any_
BEGIN;
INSERT INTO orion_private.two_factors (user_id, secret, confirmed_at) VALUES (:'ann', '', now());
INSERT INTO orion_private.trusted_devices (user_id, device_id, digest, expires_at) SELECT user_id, id, sha256(''), 'infinity' FROM orion_private.devices WHERE user_id = :'ann' LIMIT 1;
SELECT orion_authenticate(orion_jwt_sign(jsonb_build_object('sub', :'ann'))) IS NOT NULL AS ann;
SET LOCAL ROLE orion_user;
SELECT (SELECT count(*) FROM orion.two_factors) AS factors, (SELECT count(*) FROM orion.trusted_devices) AS trusted, (SELECT count(*) FROM orion.profile) AS profiles;
SELECT orion_api_key_authenticate(:'docs_key') IS NOT NULL AS docs;
SELECT (SELECT count(*) FROM orion.profile) AS profiles, (SELECT count(*) FROM orion.sessions) AS sessions, (SELECT count(*) FROM orion.devices) AS devices,
	(SELECT count(*) FROM orion.api_keys) AS keys, (SELECT count(*) FROM orion.two_factors) AS factors, (SELECT count(*) FROM orion.trusted_devices) AS trusted;
SELECT orion_api_key_authenticate(:'reads_key') IS NOT NULL AS reads;
SELECT count(*) FROM orion.profile;
UPDATE orion.profile SET display_name = 'x' RETURNING display_name;
SELECT orion_api_key_authenticate(:'any_key') IS NOT NULL AS any_scope;
UPDATE orion.profile SET display_name = 'x' RETURNING display_name;
SELECT (SELECT count(*) FROM orion.sessions) AS sessions, (SELECT count(*) FROM orion.api_keys) AS keys;
ROLLBACK;

-- a hundred are enough
SELECT status, count(*) FROM generate_series(1, 102) AS i, LATERAL orion_api_key_create(:'bob', 'key ' || i) GROUP BY status ORDER BY 2;
DELETE FROM orion_private.users WHERE id IN (:'ann', :'bob');
SELECT count(*) FROM orion_private.api_keys;
SELECT orion_role_delete('key-reader');
