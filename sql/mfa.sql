-- Second factors: codes, the sign-ins that wait for them, backup codes, trusted devices.
-- All in one transaction, rolled back.
\set ON_ERROR_ROLLBACK on
\set VERBOSITY terse
\pset null '(null)'

-- RFC 6238, appendix B
SELECT seconds, algorithm, orion_private.totp_code(convert_to(left(repeat('1234567890', 7), bytes), 'UTF8'), to_timestamp(seconds), 8, algorithm) AS code,
	orion_private.totp_code(convert_to(left(repeat('1234567890', 7), bytes), 'UTF8'), to_timestamp(seconds), 8, algorithm) = wanted AS right
	FROM (VALUES (59, 'SHA1', '94287082'), (59, 'SHA256', '46119246'), (59, 'SHA512', '90693936'),
		(1111111109, 'SHA1', '07081804'), (1111111109, 'SHA256', '68084774'), (1111111109, 'SHA512', '25091201'),
		(1111111111, 'SHA1', '14050471'), (1111111111, 'SHA256', '67062674'), (1111111111, 'SHA512', '99943326'),
		(1234567890, 'SHA1', '89005924'), (1234567890, 'SHA256', '91819424'), (1234567890, 'SHA512', '93441116'),
		(2000000000, 'SHA1', '69279037'), (2000000000, 'SHA256', '90698825'), (2000000000, 'SHA512', '38618901'),
		(20000000000, 'SHA1', '65353130'), (20000000000, 'SHA256', '77737706'), (20000000000, 'SHA512', '47863826')) AS v (seconds, algorithm, wanted),
	LATERAL (SELECT CASE algorithm WHEN 'SHA1' THEN 20 WHEN 'SHA256' THEN 32 ELSE 64 END) AS b (bytes);
SELECT orion_private.totp_code('x', now(), 9, 'SHA1');
SELECT orion_private.totp_code('x', now(), 6, 'MD5');

-- for the tests: base 32 (RFC 4648, 6), and the code of a secret as the app shows it
CREATE FUNCTION pg_temp.unbase32(secret text) RETURNS bytea LANGUAGE sql AS $$
	SELECT string_agg(set_byte('\x00', 0, substr(bits, 8 * i + 1, 8)::bit(8)::int), '' ORDER BY i)
	FROM (SELECT string_agg((strpos('ABCDEFGHIJKLMNOPQRSTUVWXYZ234567', c) - 1)::bit(5)::text, '' ORDER BY n)
		FROM regexp_split_to_table(secret, '') WITH ORDINALITY AS r (c, n)) AS b (bits), generate_series(0, length(bits) / 8 - 1) AS i $$;
CREATE FUNCTION pg_temp.app(secret text, at timestamptz DEFAULT clock_timestamp()) RETURNS text LANGUAGE sql AS
	$$ SELECT orion_private.totp_code(pg_temp.unbase32(secret), at, 6, 'SHA1') $$;
SELECT convert_from(pg_temp.unbase32('MZXW6YTB'), 'UTF8') AS rfc_4648;

-- what an app is given
SELECT id, length(sealed) AS sealed_bytes, secret ~ '^[A-Z2-7]{32}$' AS base32, regexp_replace(uri, secret, 'SECRET') AS uri,
	qr_code ~ '^<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 (\d+) \1" .* d="M4 4h7v1h-7z.*</svg>$' AS svg, xmlparse(document qr_code) IS NOT NULL AS xml
	FROM (VALUES ('11111111-1111-1111-1111-111111111111'::uuid)) AS v (id), orion_private.totp_setup(id, 'ann+x@example.com');
SELECT length(uri) FROM orion_private.totp_setup('11111111-1111-1111-1111-111111111111', repeat('+', 254));
SELECT orion_private.totp_setup('11111111-1111-1111-1111-111111111111', repeat('x', 3000));

-- the step before and the one after, and none that was used
SELECT sealed, secret FROM orion_private.totp_setup('11111111-1111-1111-1111-111111111111', 'ann') \gset
SELECT off, orion_private.totp_step('11111111-1111-1111-1111-111111111111', :'sealed', pg_temp.app(:'secret', to_timestamp(1000 * 30 + off)), to_timestamp(1000 * 30), 0)
	FROM unnest(ARRAY[-31, -30, -1, 0, 29, 30, 59, 60]) AS off;
SELECT at, orion_private.totp_step('11111111-1111-1111-1111-111111111111', :'sealed', pg_temp.app(:'secret', to_timestamp(1000 * 30)), to_timestamp(at), 0)
	FROM unnest(ARRAY[29969.999, 29970, 30000, 30029.999, 30030, 30059.999, 30060]) AS at;
SELECT used, orion_private.totp_step('11111111-1111-1111-1111-111111111111', :'sealed', pg_temp.app(:'secret', to_timestamp(1000 * 30)), to_timestamp(1000 * 30), used)
	FROM unnest(ARRAY[998, 999, 1000, 1001]) AS used;
SELECT typed, orion_private.totp_step('11111111-1111-1111-1111-111111111111', :'sealed', regexp_replace(pg_temp.app(:'secret', to_timestamp(30000)), '(...)(...)', typed), to_timestamp(30000), 0)
	FROM unnest(ARRAY['\1 \2', '  \1\2 ', '\1-\2', '\1\2\2', '\1', '', 'x\1\2']) AS typed;
SELECT orion_private.totp_step('22222222-2222-2222-2222-222222222222', :'sealed', '123456', now(), 0);

-- backup codes
SELECT code ~ '^[0-9a-hjkmnp-tv-z]{5}-[0-9a-hjkmnp-tv-z]{5}$' AS form, length(digest) FROM orion_private.backup_code('11111111-1111-1111-1111-111111111111');
SELECT typed, orion_private.backup_code_digest('11111111-1111-1111-1111-111111111111', typed) = orion_private.backup_code_digest('11111111-1111-1111-1111-111111111111', '01abc-defgh') AS same
	FROM unnest(ARRAY['01abcdefgh', ' 01ABC DEFGH', 'OIabc-defgh', 'oLabc-defgh', '01abc-defgj', '01abc-defg', '01abc-defghh', 'u1abc-defgh', '', '01abc_defgh']) AS typed;
SELECT orion_private.backup_code_digest('22222222-2222-2222-2222-222222222222', '01abc-defgh') = orion_private.backup_code_digest('11111111-1111-1111-1111-111111111111', '01abc-defgh') AS same_for_another;
SELECT orion_private.amr_without('[{"method": "password"}, {"method": "totp"}, {"method": "backup_code"}]', '{totp,backup_code}');

BEGIN;
SELECT user_id AS ann, access_token AS token FROM orion_register('ann@example.com', 'correct horse') \gset
SELECT orion_register('bob@example.com', 'correct horse') IS NOT NULL;
-- clocks may stand just before a step ends, so the tests wait for none
CREATE FUNCTION pg_temp.forget_steps() RETURNS void LANGUAGE sql AS 'UPDATE orion_private.two_factors SET last_step = 0';
CREATE FUNCTION pg_temp.claims(token text) RETURNS TABLE (aal text, amr text) LANGUAGE sql AS $$
	SELECT c ->> 'aal', (SELECT string_agg(m ->> 'method', ',') FROM jsonb_array_elements(c -> 'amr') AS m) FROM orion_jwt_verify(token) AS c $$;

-- nobody signed in
SELECT orion_two_factor_setup();
SELECT orion_two_factor_verify('123456');
SELECT orion_two_factor_disable('123456');
SELECT orion_backup_codes_regenerate('123456');
SELECT orion_two_factor_status();
SELECT orion_trusted_devices_revoke();

-- set-up
SELECT orion_authenticate(:'token') ->> 'aal' AS aal;
SELECT status, access_token FROM orion_two_factor_verify('123456');
SELECT status FROM orion_two_factor_disable('123456');
SELECT status FROM orion_backup_codes_regenerate('123456');
SELECT status, secret IS NOT NULL, uri IS NOT NULL, qr_code IS NOT NULL FROM orion_two_factor_setup('wrong horse');
SELECT status FROM orion_two_factor_setup('correct horse');
UPDATE orion_private.sessions SET amr = '[{"method": "password", "timestamp": 1}]';
SELECT status, secret FROM orion_two_factor_setup();
SELECT status, secret FROM orion_two_factor_setup('correct horse') \gset
SELECT * FROM orion_two_factor_status();
SELECT status FROM orion_login('ann@example.com', 'correct horse');
SELECT status FROM orion_two_factor_verify('no');
SELECT status, access_token FROM orion_two_factor_verify(backup_code => '01abc-defgh');
SELECT orion_two_factor_verify();
SELECT orion_two_factor_verify('123456', '01abc-defgh');
SELECT status, access_token AS token, array_to_string(backup_codes, ' ') AS codes, cardinality(backup_codes), device_token FROM orion_two_factor_verify(pg_temp.app(:'secret')) \gset
\echo :status :cardinality
SELECT * FROM pg_temp.claims(:'token');
SELECT enabled, enabled_at IS NOT NULL AS since, backup_codes_left, trusted_devices FROM orion_two_factor_status();
SELECT count(*) AS codes, count(DISTINCT digest) AS digests, min(length(digest)) FROM orion_private.backup_codes;
SELECT s.revoke_reason, count(*) FROM orion_private.sessions AS s WHERE s.user_id = :'ann' GROUP BY 1 ORDER BY 1;
SELECT status FROM orion_two_factor_setup('correct horse');
SELECT status FROM orion_two_factor_verify('no');

-- signing in
SELECT status, access_token, refresh_token, user_id, length(session_id) FROM orion_login('ann@example.com', 'correct horse');
SELECT session_id AS pending FROM orion_login('ann@example.com', 'correct horse', '192.0.2.1', 'phone') \gset
SELECT count(*) AS pending, count(DISTINCT digest), bool_and(expires_at - created_at BETWEEN '899 s' AND '901 s') AS a_quarter FROM orion_private.pending_sessions;
SELECT count(*) AS plain FROM orion_private.pending_sessions AS p WHERE p::text LIKE '%' || :'pending' || '%';
SELECT status FROM orion_refresh(:'pending');
SELECT orion_authenticate(:'pending');
SELECT orion_two_factor_login(:'pending');
SELECT orion_two_factor_login(:'pending', '123456', '01abc-defgh');
SELECT status FROM orion_two_factor_login('unknown', pg_temp.app(:'secret'));
SELECT status FROM orion_two_factor_login(NULL, pg_temp.app(:'secret'));
SELECT pg_temp.forget_steps();
SELECT pg_temp.app(:'secret') AS code \gset
SELECT status, access_token AS token, refresh_token AS refresh, token_type, expires_in FROM orion_two_factor_login(:'pending', :'code', address => '192.0.2.1', user_agent => 'phone') \gset
\echo :status :token_type :expires_in
SELECT * FROM pg_temp.claims(:'token');
SELECT r.status, c.* FROM orion_refresh(:'refresh') AS r, pg_temp.claims(r.access_token) AS c;
SELECT status FROM orion_two_factor_login(:'pending', :'code');
SELECT session_id AS pending FROM orion_login('ann@example.com', 'correct horse', '192.0.2.1') \gset
SELECT status FROM orion_two_factor_login(:'pending', :'code', address => '192.0.2.1');
UPDATE orion_private.pending_sessions SET expires_at = clock_timestamp();
SELECT pg_temp.forget_steps();
SELECT status FROM orion_two_factor_login(:'pending', pg_temp.app(:'secret'), address => '192.0.2.1');
SELECT count(orion_login('ann@example.com', 'correct horse')) FROM generate_series(1, 25);
SELECT count(*) AS at_most FROM orion_private.pending_sessions;

-- backup codes: once
SELECT session_id AS pending FROM orion_login('ann@example.com', 'correct horse', '192.0.2.1') \gset
SELECT status FROM orion_two_factor_login(:'pending', backup_code => split_part(:'codes', ' ', 1), address => '192.0.2.1');
SELECT session_id AS pending FROM orion_login('ann@example.com', 'correct horse', '192.0.2.1') \gset
SELECT status FROM orion_two_factor_login(:'pending', backup_code => split_part(:'codes', ' ', 1), address => '192.0.2.1');
SELECT status, c.* FROM orion_two_factor_login(:'pending', backup_code => upper(replace(split_part(:'codes', ' ', 2), '-', '')), address => '192.0.2.1') AS l, pg_temp.claims(l.access_token) AS c;
SELECT orion_authenticate(:'token') ->> 'aal' AS aal;
SELECT backup_codes_left FROM orion_two_factor_status();
SELECT status, cardinality(backup_codes), array_to_string(backup_codes, ' ') AS newer FROM orion_backup_codes_regenerate(password => 'correct horse') \gset
\echo :status :cardinality
SELECT status FROM orion_backup_codes_regenerate(password => 'wrong horse');
SELECT status FROM orion_two_factor_verify(backup_code => split_part(:'codes', ' ', 3), address => '192.0.2.1');
SELECT status FROM orion_two_factor_verify(backup_code => split_part(:'newer', ' ', 3), address => '192.0.2.1');
SELECT backup_codes_left FROM orion_two_factor_status();

-- trusted devices
SELECT session_id AS pending FROM orion_login('ann@example.com', 'correct horse', '192.0.2.1', 'laptop', 'the laptop') \gset
SELECT pg_temp.forget_steps();
SELECT status, length(device_token), device_token AS device, device_token_expires_at - now() > '29 days' AS a_month
	FROM orion_two_factor_login(:'pending', pg_temp.app(:'secret'), trust_device => true, address => '192.0.2.1', user_agent => 'laptop') \gset
\echo :status :length :a_month
SELECT status, c.* FROM orion_login('ann@example.com', 'correct horse', '192.0.2.1', 'laptop', 'the laptop', :'device') AS l, pg_temp.claims(l.access_token) AS c;
SELECT status FROM orion_login('ann@example.com', 'wrong horse', '192.0.2.1', 'laptop', 'the laptop', :'device');
SELECT status FROM orion_login('ann@example.com', 'correct horse', '192.0.2.1', 'laptop', 'the laptop', 'another token');
SELECT status FROM orion_login('bob@example.com', 'correct horse', '192.0.2.1', 'laptop', 'the laptop', :'device');
SET LOCAL ROLE orion_user;
SELECT user_id = :'ann' AS own, last_used_at IS NOT NULL AS used FROM orion.trusted_devices;
SELECT user_id = :'ann' AS own FROM orion.two_factors;
SELECT secret FROM orion_private.two_factors;
SELECT orion_trusted_device_revoke('11111111-1111-1111-1111-111111111111');
SELECT orion_two_factor_remove(:'ann');
SELECT orion_trusted_device_revoke(id) FROM orion.trusted_devices;
RESET ROLE;
SELECT status FROM orion_login('ann@example.com', 'correct horse', '192.0.2.1', 'laptop', 'the laptop', :'device');

-- who shows no second factor does not get rid of it
SELECT status, access_token AS weak FROM orion_login('bob@example.com', 'correct horse') \gset
UPDATE orion_private.sessions AS s SET user_id = :'ann' WHERE s.id::text = orion_jwt_verify(:'weak') ->> 'session_id';
SELECT orion_jwt_sign(orion_jwt_verify(:'weak') || jsonb_build_object('sub', :'ann')) AS weak \gset
SELECT orion_authenticate(:'weak') ->> 'aal' AS aal;
SELECT status FROM orion_two_factor_disable(password => 'correct horse');
SELECT status FROM orion_backup_codes_regenerate(password => 'correct horse');
SELECT status FROM orion_two_factor_disable();

-- disabled: sessions fall back, tokens of aal2 die, those of aal1 do not
SELECT orion_authenticate(:'token') ->> 'aal' AS aal;
SELECT status, access_token AS after FROM orion_two_factor_disable(password => 'correct horse') \gset
\echo :status
SELECT * FROM pg_temp.claims(:'after');
SELECT aal, count(*) FROM orion_private.sessions WHERE user_id = :'ann' AND revoked_at IS NULL GROUP BY aal;
SELECT orion_authenticate(:'weak') ->> 'aal' AS aal;
SELECT orion_authenticate(:'token');
SELECT (SELECT count(*) FROM orion_private.two_factors) + (SELECT count(*) FROM orion_private.backup_codes) + (SELECT count(*) FROM orion_private.trusted_devices)
	+ (SELECT count(*) FROM orion_private.pending_sessions) AS rows_left;
SELECT status FROM orion_login('ann@example.com', 'correct horse', '192.0.2.1');

-- and up again within the same second
SELECT orion_authenticate(:'after') ->> 'aal' AS aal;
SELECT secret FROM orion_two_factor_setup() \gset
SELECT v.status, c.* FROM orion_two_factor_verify(pg_temp.app(:'secret')) AS v, pg_temp.claims(v.access_token) AS c;

-- by an administrator
SELECT orion_two_factor_remove(:'ann'), orion_two_factor_remove(:'ann') AS again, orion_two_factor_remove('11111111-1111-1111-1111-111111111111') AS nobody;

-- on record
SELECT action, outcome, metadata - '{deviceId,expiresAt}'::text[] AS metadata, count(*) FROM orion_private.audit_log
	WHERE action ~ 'two_factor|backup|trusted|raised' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;
SELECT type, string_agg(DISTINCT k.keys, ' | ') AS keys, count(*) FROM orion_private.outbox AS o,
	LATERAL (SELECT string_agg(key, ',' ORDER BY key) FROM jsonb_object_keys(o.payload) AS key) AS k (keys)
	WHERE type ~ 'two_factor|backup|trusted|raised|login' AND o.aggregateid = :'ann' GROUP BY type ORDER BY type;
SELECT outcome, count(*) FROM orion_private.login_attempts WHERE email = 'ann@example.com' GROUP BY outcome ORDER BY outcome;
ROLLBACK;

-- wrong codes lock, whatever their kind, and together with wrong passwords
BEGIN;
SELECT user_id AS ann, access_token AS token FROM orion_register('ann@example.com', 'correct horse') \gset
SELECT orion_authenticate(:'token') ->> 'aal' AS aal;
SELECT secret FROM orion_two_factor_setup() \gset
SELECT status, array_to_string(backup_codes, ' ') AS codes FROM orion_two_factor_verify(pg_temp.app(:'secret')) \gset
SELECT session_id AS pending FROM orion_login('ann@example.com', 'correct horse', '192.0.2.7') \gset
SELECT status FROM orion_two_factor_login(:'pending', 'no', address => '192.0.2.7');
SELECT status FROM orion_two_factor_login(:'pending', backup_code => 'no', address => '192.0.2.7');
SELECT status FROM orion_login('ann@example.com', 'correct horse', '192.0.2.7');
SELECT status FROM orion_two_factor_login(:'pending', 'no', address => '192.0.2.8');
SELECT status FROM orion_login('ann@example.com', 'wrong horse', '192.0.2.9');
SELECT status, retry_after FROM orion_two_factor_login(:'pending', 'no', address => '192.0.2.7');
UPDATE orion_private.two_factors SET last_step = 0;
SELECT status, retry_after BETWEEN 1 AND 900 AS wait FROM orion_two_factor_login(:'pending', pg_temp.app(:'secret'), address => '192.0.2.7');
SELECT status FROM orion_two_factor_login(:'pending', backup_code => split_part(:'codes', ' ', 1), address => '192.0.2.7');
SELECT status FROM orion_login('ann@example.com', 'correct horse', '192.0.2.7');
SELECT status FROM orion_two_factor_disable(password => 'correct horse', address => '192.0.2.7');
SELECT failures, locked_until, last_step FROM orion_private.two_factors;

-- a row of wrong codes locks longer each time, also when the window is over
SELECT count(orion_private.two_factor_failed(:'ann')::text) FROM generate_series(1, 6);
SELECT failures, locked_until - clock_timestamp() BETWEEN '14 min' AND '15 min' AS quarter FROM orion_private.two_factors;
DELETE FROM orion_private.login_attempts;
SELECT orion_private.throttle_clear('ann@example.com', '192.0.2.7');
SELECT status, retry_after BETWEEN 800 AND 900 AS wait FROM orion_two_factor_login(:'pending', pg_temp.app(:'secret'), address => '192.0.2.7');
SELECT count(orion_private.two_factor_failed(:'ann')::text) FROM generate_series(1, 10);
SELECT failures, locked_until - clock_timestamp() BETWEEN '29 min' AND '30 min' AS half_an_hour FROM orion_private.two_factors;
SELECT count(orion_private.two_factor_failed(:'ann')::text) FROM generate_series(1, 200);
SELECT failures, locked_until - clock_timestamp() BETWEEN '23 h' AND '24 h' AS a_day FROM orion_private.two_factors;
-- but not for an address that has shown the factor; that one's successes give others no guesses
INSERT INTO orion_private.sessions (user_id, refresh_key, address, created_at, access_expires_at, expires_at)
	VALUES (:'ann', '', '192.0.2.7', now() - interval '1 hour', now(), now());
UPDATE orion_private.two_factors SET confirmed_at = now();
UPDATE orion_private.two_factors SET last_step = 0;
SELECT status FROM orion_two_factor_login(:'pending', pg_temp.app(:'secret'), address => '192.0.2.7');
UPDATE orion_private.sessions SET address = '192.0.2.7' WHERE aal = 'aal2';
SELECT status FROM orion_two_factor_login(:'pending', 'no', address => '192.0.2.7');
SELECT status FROM orion_two_factor_login(:'pending', pg_temp.app(:'secret'), address => '192.0.2.7');
SELECT failures, locked_until > clock_timestamp() AS locked FROM orion_private.two_factors;
SELECT session_id AS pending FROM orion_login('ann@example.com', 'correct horse', '192.0.2.8') \gset
UPDATE orion_private.two_factors SET last_step = 0;
SELECT status FROM orion_two_factor_login(:'pending', pg_temp.app(:'secret'), address => '192.0.2.8');
UPDATE orion_private.two_factors SET locked_until = clock_timestamp();
SELECT status FROM orion_two_factor_login(:'pending', pg_temp.app(:'secret'), address => '192.0.2.8');
SELECT failures, locked_until FROM orion_private.two_factors;
ROLLBACK;
