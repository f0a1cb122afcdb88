-- Passwords, registration, login, the profile. All in one transaction, rolled back.
\set ON_ERROR_ROLLBACK on
\pset null '(null)'
BEGIN;

-- passwords
SELECT orion_hash_password('correct horse') ~ '^\$argon2id\$v=19\$m=19456,t=2,p=1\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}$' AS phc,
	orion_hash_password('correct horse') <> orion_hash_password('correct horse') AS salted;
SELECT orion_verify_password('correct horse', orion_hash_password('correct horse')) AS good,
	orion_verify_password('wrong horse', orion_hash_password('correct horse')) AS bad,
	orion_verify_password('', orion_hash_password('')) AS empty;
SELECT orion_verify_password(NULL, 'x'), orion_hash_password(NULL);
SELECT orion_hash_password(repeat('x', 1025));
SELECT orion_verify_password(repeat('x', 1024), orion_hash_password(repeat('x', 1024))) AS longest;
SELECT orion_verify_password('x', stored) FROM unnest(ARRAY['', 'x', '$argon2id$', '$argon2id$v=19$m=4294967295,t=4294967295,p=1$c2FsdHNhbHRzYWx0MTIzNA$AAAA',
	'$argon2id$v=19$m=-1,t=1,p=1$c2FsdHNhbHRzYWx0MTIzNA$AAAA', '$2b$31$abcdefghijklmnopqrstuuD3mHdCr44zlIZ.VZCaYRpfQhXMYnEo.', '$1$salt$hash',
	'$2b$05$abcdefghijklmnopqrstu:D3mHdCr44zlIZ.VZCaYRpfQhXMYnEo.']) AS stored;

-- registration
SELECT status, token_type, expires_in, orion_jwt_verify(access_token) ->> 'email' AS email, user_id IS NOT NULL AS has_id, length(refresh_token)
	FROM orion_register('  Ann@Example.COM ', 'correct horse', 'Ann', '{"theme": "dark"}');
SELECT status, access_token FROM orion_register('ann@example.com', 'another horse');
SELECT address, (orion_register(address, 'correct horse')).status FROM unnest(ARRAY['', 'ann', 'a b@example.com', 'ann@', 'ann@nodot', '@example.com',
	'ann@exa..mple.com', 'ann@-x.com', E'ann@example.com\r\nBcc: x@example.com', repeat('a', 65) || '@example.com', repeat('a', 300) || '@example.com']) AS address;
SELECT status FROM orion_register(NULL, 'correct horse');
SELECT status FROM orion_register('bob@example.com', 'short');
SELECT status FROM orion_register('bob@example.com', NULL);
SELECT p, (orion_register('bob@example.com', p)).status FROM unnest(ARRAY['password', 'PASSWORD1', 'Letmein2024', 'abcdefgh', '87654321', 'aaaaaaaa', 'bob@example.com', 'unpassword']) AS p WHERE p <> 'unpassword';
SELECT status FROM orion_register('bob@example.com', repeat('x', 1025));
SELECT status FROM orion_register('bob@example.com', 'correct horse', repeat('x', 201));
SELECT status FROM orion_register('bob@example.com', 'correct horse', 'Bob', '[]');
SELECT status FROM orion_register('bob@example.com', 'battery staple', 'Bob');

-- login
SELECT status, token_type, expires_in, access_token AS ann FROM orion_login('ANN@example.com', 'correct horse', '192.0.2.7', 'psql') \gset
\echo :status :token_type :expires_in
SELECT access_token AS bob FROM orion_login('bob@example.com', 'battery staple') \gset
SELECT status, access_token, refresh_token, user_id FROM orion_login('ann@example.com', 'battery staple');
SELECT status, access_token, refresh_token, user_id FROM orion_login('carl@example.com', 'battery staple');
SELECT status FROM orion_login('ann@example.com', NULL);
SELECT status FROM orion_login(NULL, NULL);
SELECT status FROM orion_login('my password', repeat('x', 2000));
SELECT c ->> 'iss' AS iss, c ->> 'aud' AS aud, c ->> 'role' AS role, c ->> 'aal' AS aal, c #>> '{amr,0,method}' AS amr,
	(c ->> 'exp')::int - (c ->> 'iat')::int AS ttl, c -> 'user_metadata' AS user_metadata, c -> 'app_metadata' AS app_metadata,
	EXISTS (SELECT FROM orion_private.sessions AS s WHERE s.id::text = c ->> 'session_id' AND s.user_id::text = c ->> 'sub') AS session
	FROM orion_jwt_verify(:'ann') AS c;
SELECT email, outcome, user_id IS NOT NULL AS known, address, user_agent FROM orion_private.login_attempts ORDER BY id;
SELECT email, last_login_at IS NOT NULL AS logged_in, version FROM orion_private.users ORDER BY email;
SELECT count(*) AS sessions, count(DISTINCT refresh_key) AS keys, min(length(refresh_key)) AS sealed_bytes,
	bool_and(expires_at - created_at = '7 days') AS a_week FROM orion_private.sessions;

-- an imported hash is replaced at the first login
UPDATE orion_private.users SET password_hash = '$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW' WHERE email = 'bob@example.com';
SELECT status FROM orion_login('bob@example.com', 'U*V');
SELECT status FROM orion_login('bob@example.com', 'U*U');
SELECT left(password_hash, 30) FROM orion_private.users WHERE email = 'bob@example.com';
SELECT status FROM orion_login('bob@example.com', 'U*U');

-- the profile: the own row only
SET LOCAL ROLE orion_user;
SELECT count(*) AS not_signed_in FROM orion.profile;
SELECT orion_authenticate(:'ann') ->> 'email' AS signed_in;
SELECT email, display_name, user_metadata, version FROM orion.profile;
UPDATE orion.profile SET display_name = 'Annie' RETURNING email, display_name, version, updated_at >= created_at AS touched;
UPDATE orion.profile SET display_name = 'x' WHERE email = 'bob@example.com';
UPDATE orion.profile SET version = 99;
UPDATE orion.profile SET email = 'bob@example.com';
UPDATE orion.profile SET avatar_url = 'javascript:alert(1)';
UPDATE orion.profile SET avatar_url = E'https://example.com/\r\nX: y';
UPDATE orion.profile SET display_name = E'x\r\nBcc: everybody@example.com';
DELETE FROM orion.profile;
SELECT password_hash FROM orion_private.users;
SELECT status FROM orion_login('ann@example.com', 'correct horse');
RESET ROLE;
SET LOCAL ROLE orion_anon;
SELECT count(*) FROM orion.profile;
RESET ROLE;
SET LOCAL ROLE orion_admin;
SELECT email, display_name, version FROM orion.profile ORDER BY email;
RESET ROLE;

-- events, without secrets
SELECT type, aggregatetype, aggregateid = payload ->> 'id' AS keyed, payload - '{id,sessionId,createdAt,sealedToken,tokenExpiresAt}'::text[] AS payload
	FROM orion_private.outbox WHERE type LIKE 'user.%' ORDER BY seq;

-- the HTTP routes
CREATE FUNCTION pg_temp.answer(body jsonb) RETURNS TABLE (status text, keys text, code text, message text) LANGUAGE sql AS $$
	SELECT current_setting('response.status', true), (SELECT string_agg(k, ',' ORDER BY k) FROM jsonb_object_keys(body) AS k), body ->> 'code', body ->> 'message' $$;
SET LOCAL ROLE orion_anon;
SELECT orion_private.route_login('{}');
RESET ROLE;
SELECT a.* FROM pg_temp.answer(orion_private.route_register('{"body": {"email": "dan@example.com", "password": "correct horse", "displayName": "Dan"}, "peer": "[2001:db8::1]:4711", "headers": {"user-agent": "curl"}}')) AS a;
SELECT a.* FROM pg_temp.answer(orion_private.route_register('{"body": {"email": "dan@example.com", "password": "correct horse"}}')) AS a;
SELECT a.* FROM pg_temp.answer(orion_private.route_register('{"body": {"email": "dan", "password": "correct horse"}}')) AS a;
SELECT a.* FROM pg_temp.answer(orion_private.route_register('{"body": {"email": "dan@example.com"}}')) AS a;
SELECT a.* FROM pg_temp.answer(orion_private.route_register('{"body": {"email": ["dan@example.com"], "password": "correct horse"}}')) AS a;
SELECT a.* FROM pg_temp.answer(orion_private.route_register('{"body": {"email": "dan@example.com", "password": "correct horse", "displayName": 7}}')) AS a;
SELECT a.* FROM pg_temp.answer(orion_private.route_register('{"body": {"email": "eve@example.com", "password": "correct horse", "userMetadata": 7}}')) AS a;
SELECT a.* FROM pg_temp.answer(orion_private.route_login('{"body": null}')) AS a;
SELECT a.* FROM pg_temp.answer(orion_private.route_login('{"body": "x"}')) AS a;
SELECT a.* FROM pg_temp.answer(orion_private.route_login('{"body": {"email": "dan@example.com", "password": "wrong"}, "peer": "999.1.1.1"}')) AS a;
SELECT set_config('response.status', '', true);
SELECT a.* FROM pg_temp.answer(orion_private.route_login('{"body": {"email": "dan@example.com", "password": "correct horse"}, "peer": "192.0.2.9:5000"}')) AS a;
SELECT orion_private.route_login('{"body": {"email": "dan@example.com", "password": "correct horse"}}') -> 'user' ->> 'displayName' AS display_name;
SELECT current_setting('response.headers', true);
SELECT outcome, address FROM orion_private.login_attempts WHERE email = 'dan@example.com' ORDER BY id;
SELECT address, user_agent FROM orion_private.sessions ORDER BY created_at DESC, address LIMIT 1;

-- each column of users is in the lists of its triggers, or is said here to be none of the profile's
SELECT attname AS neither_counted_nor_excepted FROM pg_attribute, pg_trigger
	WHERE attrelid = 'orion_private.users'::regclass AND attnum > 0 AND NOT attisdropped AND tgrelid = attrelid AND tgname = 'users_version'
		AND attnum <> ALL (tgattr) AND '!' || attname <> ALL (string_to_array(encode(tgargs, 'escape'), '\000'));
SELECT tgname, (SELECT array_agg(attname ORDER BY attnum) FROM pg_attribute WHERE attrelid = tgrelid AND attnum > 0 AND NOT attisdropped AND attnum <> ALL (tgattr)
		AND attname <> ALL ('{id,password_hash,last_login_at,banned_until,version,created_at,updated_at}')) AS forgotten,
	(SELECT array_agg(attname ORDER BY attnum) FROM pg_attribute WHERE attrelid = tgrelid AND attnum = ANY (tgattr) AND prosrc !~ format('\m%s\M', attname)) AS not_in_the_function
	FROM pg_trigger JOIN pg_proc AS f ON f.oid = tgfoid WHERE tgrelid = 'orion_private.users'::regclass AND tgname IN ('users_updated', 'users_audit') ORDER BY tgname;

-- no way of calling it keeps an attempt out of the audit log
COPY (SELECT status FROM orion_login('dan@example.com', 'wrong')) TO STDOUT;
SELECT count(*) FROM orion.audit_log WHERE action = 'auth.login' AND outcome = 'invalid_credentials' AND target_id = (SELECT id::text FROM orion_private.users WHERE email = 'dan@example.com');

-- what C checks is what the regular expression says: many tries of all characters that matter
SELECT setseed(0.5);
CREATE TEMP TABLE tried AS
	SELECT string_agg(CASE WHEN i % 9 = 4 THEN '@' WHEN random() < 0.2 THEN '.' WHEN random() < 0.6 THEN 'x'
		ELSE substr(E'ab0Z9-_+!é"(),:;<>\\[]\t\r\u007F ', 1 + floor(random() * 27)::int, 1) END, '') AS email
	FROM generate_series(1, 180000) AS i GROUP BY i / 9;
INSERT INTO tried SELECT repeat('l', a) || '@' || repeat('m', b) || '.' || repeat('n', c)
	FROM unnest('{0,1,63,64,65}'::int[]) AS a, unnest('{0,1,62,63,64}'::int[]) AS b, unnest('{0,1,2,62,63,64}'::int[]) AS c;
INSERT INTO tried SELECT l || '@' || r
	FROM unnest('{a,a.b,a..b,.,-,a b,"a",é}'::text[]) AS l,
		unnest('{a.bc,a.b,a.-b,-a.bc,a-.bc,a-b.bc,a..bc,.bc,bc,a.bc.,a.b.c.de,a.bc-,a.b-c,a_b.de,é.de,xn--a.de,a.bc@de.fg}'::text[]) AS r;
SELECT count(*) >= 20000 AS many, count(*) FILTER (WHERE orion_private.email_valid(email)) > 100 AS some_valid,
	count(*) FILTER (WHERE orion_private.email_valid(email) <> (email ~ '^[^@[:space:][:cntrl:]"(),:;<>\\[\]]{1,64}@([[:alnum:]]([[:alnum:]-]{0,61}[[:alnum:]])?\.)+[[:alnum:]]([[:alnum:]-]{0,61}[[:alnum:]])$')) AS differ
	FROM tried;
SELECT orion_private.email_valid(NULL), orion_private.email_valid(repeat('a.', 124) || 'b@c.de'), orion_private.email_valid(repeat('a', 60) || '@' || repeat('b.', 92) || 'c.de') AS longest;
SELECT orion_private.email_normalize('  A.B@C.DE  ') AS normal, orion_private.email_normalize(repeat(' ', 255)) IS NULL AS too_long, orion_private.email_normalize('   ') = '' AS empty;
SELECT a, orion_private.address_network(a) AS network, text(orion_private.address_network(a)) AS counted_as
	FROM unnest('{192.0.2.7,192.0.2.7/24,2001:db8:1:2:3:4:5:6,2001:db8:1:2:3:4:5:6/48,::ffff:192.0.2.7,::ffff:192.0.2.7/96,::ffff:192.0.2.0/95,::1}'::inet[]) AS a;
SELECT peer, orion_private.request_address(jsonb_build_object('peer', peer)) AS address
	FROM unnest('{192.0.2.1,192.0.2.1:40000,2001:db8::1,[2001:db8::1]:40000,[::ffff:192.0.2.1]:1,::1,"",unix:,x,999.1.1.1,[2001:db8::1,192.0.2.1/24}'::text[]) AS peer;
SELECT orion_private.request_address(NULL) IS NULL AND orion_private.request_address('{"peer": 7}') IS NULL AND orion_private.request_address('[]') IS NULL
	AND orion_private.request_address('{}') IS NULL AND orion_private.request_address(jsonb_build_object('peer', repeat('1', 1000))) IS NULL AS none;
ROLLBACK;
