-- Confirming the address, resetting and changing the password: statuses, clock edges,
-- what is on record. In one transaction, rolled back.
\set ON_ERROR_ROLLBACK on
\pset null '(null)'
BEGIN;

-- Somebody with CREATE in the schema of the extension puts functions there that fit
-- the calls of Orion's own functions better than Orion's. None of them is called.
CREATE FUNCTION orion_publish(text, jsonb, text, text) RETURNS uuid LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'hijacked'; END $$;
CREATE FUNCTION orion_publish(unknown_type varchar, payload jsonb, a varchar, b text) RETURNS uuid LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'hijacked'; END $$;
CREATE FUNCTION orion_jwt_sign(json) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'hijacked'; END $$;
CREATE FUNCTION orion_hash_password(varchar) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'hijacked'; END $$;
CREATE FUNCTION orion_verify_password(varchar, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'hijacked'; END $$;
CREATE FUNCTION orion_key_create(varchar) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'hijacked'; END $$;
CREATE FUNCTION orion_key_publish(varchar) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'hijacked'; END $$;
CREATE FUNCTION orion_has_permission(varchar) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'hijacked'; END $$;
CREATE FUNCTION orion_logout(int DEFAULT 1) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'hijacked'; END $$;
CREATE FUNCTION orion_login(text, text, inet, text) RETURNS record LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'hijacked'; END $$;
CREATE FUNCTION orion_refresh(text, inet) RETURNS record LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'hijacked'; END $$;
CREATE FUNCTION orion_claims(VARIADIC int[] DEFAULT '{}') RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'hijacked'; END $$;
CREATE FUNCTION orion_uid(VARIADIC int[] DEFAULT '{}') RETURNS uuid LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'hijacked'; END $$;
SELECT orion_role_create('everybody', NULL::text, true);
SELECT orion_private.route_register('{"body": {"email": "ann@example.com", "password": "correct horse"}}') ? 'accessToken' AS registered;
SELECT orion_private.route_login('{"body": {"email": "ann@example.com", "password": "correct horse"}}') AS answer \gset
SELECT orion_private.route_refresh(jsonb_build_object('body', jsonb_build_object('refreshToken', :'answer'::jsonb ->> 'refreshToken'))) ? 'accessToken' AS refreshed;
SELECT orion_authenticate(:'answer'::jsonb ->> 'accessToken') IS NOT NULL AS signed_in;
SELECT orion_private.route_profile('{}') ->> 'email' AS profile;
SELECT orion_private.route_profile_update('{"body": {"version": 1, "displayName": "Ann", "email": "ann2@example.com"}}') ->> 'pendingEmail' AS pending;
SELECT orion_private.route_preferences_update('{"body": {"preferences": {"a": 1}}}') ->> 'version' AS preferences;
SELECT orion_private.route_api_key_create('{"body": {"name": "k"}}') ? 'key' AS key;
SELECT orion_private.route_password_change('{"body": {"currentPassword": "correct horse", "newPassword": "another horse"}}') AS changed;
SELECT orion_private.route_password_reset('{"body": {"email": "ann@example.com"}}') AS reset;
SELECT orion_private.route_user_list('{}') ->> 'code' AS list;
SELECT orion_private.route_logout('{"body": {"everywhere": true}}') AS logout;
SELECT string_agg(type, ' ' ORDER BY seq) AS events FROM orion_private.outbox WHERE xid = pg_current_xact_id();
DO $$
DECLARE planted regprocedure;
BEGIN
	FOR planted IN SELECT oid FROM pg_proc WHERE prosrc ~ 'hijacked' LOOP
		EXECUTE 'DROP FUNCTION ' || planted;
	END LOOP;
END $$;
ROLLBACK;

BEGIN;
SELECT user_id AS ann, access_token AS token FROM orion_register('ann@example.com', 'correct horse') \gset
CREATE FUNCTION pg_temp.mailed(wanted text) RETURNS text LANGUAGE sql AS $$
	SELECT orion_email_token_open((payload ->> 'id')::uuid, payload ->> 'sealedToken') FROM orion_private.outbox WHERE type = wanted ORDER BY seq DESC LIMIT 1 $$;

-- the address: unknown, for another purpose, changed meanwhile, at its end, right, again
SELECT pg_temp.mailed('user.created') AS verify \gset
SELECT length(:'verify') AS letters, digest = sha256(:'verify'::bytea) AS hashed, round(extract(epoch FROM expires_at - created_at)) AS seconds FROM orion_private.one_time_tokens WHERE user_id = :'ann';
SELECT * FROM orion_verify_email('x');
SELECT * FROM orion_verify_email(NULL);
SELECT * FROM orion_password_reset(:'verify', 'another horse');
SAVEPOINT s;
UPDATE orion_private.users SET email = 'other@example.com' WHERE id = :'ann';
SELECT status FROM orion_verify_email(:'verify');
ROLLBACK TO s;
UPDATE orion_private.one_time_tokens SET expires_at = clock_timestamp();
SELECT status FROM orion_verify_email(:'verify');
ROLLBACK TO s;
UPDATE orion_private.one_time_tokens SET expires_at = clock_timestamp() + interval '10 seconds';
SELECT status, user_id = :'ann' AS ann FROM orion_verify_email(:'verify');
SELECT status FROM orion_verify_email(:'verify');
SELECT email_verified_at IS NOT NULL AS verified FROM orion_private.users WHERE id = :'ann';

-- reset: nothing is said; three in 15 minutes; of several one uses up all
SELECT orion_password_reset_request('nobody@example.com', '192.0.2.1', 'psql'), orion_password_reset_request('no address'), orion_password_reset_request(NULL);
SELECT orion_password_reset_request('ANN@example.com', '192.0.2.1', 'psql');
SELECT pg_temp.mailed('auth.password_reset_requested') AS older \gset
SELECT orion_password_reset_request('ann@example.com');
SELECT pg_temp.mailed('auth.password_reset_requested') AS newer \gset
SELECT orion_password_reset_request('ann@example.com'), orion_password_reset_request('ann@example.com');
SELECT email, user_id IS NOT NULL AS known, count(*), round(max(extract(epoch FROM expires_at - created_at))) AS seconds
	FROM orion_private.one_time_tokens WHERE purpose = 'reset_password' AND email ~ '^(ann|nobody)@' GROUP BY 1, 2 ORDER BY 1;
SELECT payload - '{id,sealedToken,expiresAt}'::text[] AS payload FROM orion_private.outbox WHERE type = 'auth.password_reset_requested' AND xid = pg_current_xact_id() ORDER BY seq;
SELECT status FROM orion_password_reset(:'newer', 'short');
SELECT status FROM orion_password_reset(:'newer', 'password1');
SELECT status FROM orion_password_reset(:'newer', repeat('x', 1025));
SELECT status FROM orion_password_reset(:'newer', NULL);
SELECT status FROM orion_password_reset(:'newer', 'Ann@Example.com');
SELECT status, user_id = :'ann' AS ann FROM orion_password_reset(:'newer', 'the second horse');
SELECT status FROM orion_password_reset(:'newer', 'the third horse');
SELECT status FROM orion_password_reset(:'older', 'the third horse');
SELECT count(*) FILTER (WHERE revoked_at IS NULL) AS live, string_agg(DISTINCT revoke_reason, ' ') AS why FROM orion_private.sessions WHERE user_id = :'ann';
-- the moment a reset token ends
UPDATE orion_private.one_time_tokens SET used_at = NULL, expires_at = clock_timestamp() WHERE digest = sha256(:'older'::bytea);
SELECT status FROM orion_password_reset(:'older', 'the third horse');

-- change: nobody, wrong, refused, right; the one that asks stays
SELECT status FROM orion_password_change('the second horse', 'the third horse');
SELECT access_token AS here FROM orion_login('ann@example.com', 'the second horse', '192.0.2.1') \gset
SELECT access_token AS there FROM orion_login('ann@example.com', 'the second horse', '192.0.2.2') \gset
SELECT orion_authenticate(:'here') IS NOT NULL AS signed_in;
SELECT * FROM orion_password_change('wrong', 'the third horse');
SELECT * FROM orion_password_change(NULL, 'the third horse');
SELECT * FROM orion_password_change('the second horse', 'ann@example.com');
SELECT * FROM orion_password_change('the second horse', NULL);
SELECT * FROM orion_password_change('the second horse', 'the third horse');
SELECT host(address) AS live FROM orion_private.sessions WHERE revoked_at IS NULL AND user_id = :'ann';
SELECT status FROM orion_login('ann@example.com', 'the third horse');

-- events and the audit log
SELECT type, payload - '{id}'::text[] AS payload FROM orion_private.outbox WHERE type = 'auth.password_changed' AND xid = pg_current_xact_id() ORDER BY seq;
SELECT action, outcome, metadata - 'email' AS metadata FROM orion_private.audit_log WHERE occurred_at >= now() AND action ~ '^(auth.password|user.email_v|user.created)' ORDER BY id;
SELECT status FROM orion_register('Ann@example.com', 'the fourth horse');
SELECT action, outcome, target_id = :'ann' AS ann FROM orion_private.audit_log WHERE occurred_at >= now() AND outcome = 'email_exists';

-- default roles come with their events, after the user's own
SELECT orion_role_create('member', is_default => true), orion_role_create('reader', is_default => true);
SELECT user_id AS bob FROM orion_register('bob@example.com', 'battery staple') \gset
SELECT type, payload ->> 'role' AS role, payload ->> 'userId' = :'bob' AS bob FROM orion_private.outbox WHERE aggregateid = :'bob' ORDER BY seq;
SELECT action, new ->> 'role' AS role, metadata FROM orion_private.audit_log WHERE target_id = :'bob' ORDER BY id;
ROLLBACK;
