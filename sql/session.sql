-- Sessions after the sign-in: refresh, its answers and its clock edges; signing out;
-- what administrators do. In one transaction, rolled back.
\set ON_ERROR_ROLLBACK on
\pset null '(null)'
BEGIN;
SELECT user_id AS ann, access_token, refresh_token AS first FROM orion_register('ann@example.com', 'correct horse') \gset
SELECT user_id AS bob, access_token AS bob_token FROM orion_register('bob@example.com', 'battery staple') \gset
SELECT orion_jwt_verify(:'access_token') ->> 'session_id' AS session \gset

-- a chain of three; the parent of the current token gives it again
SELECT status, new_refresh_token AS second, new_refresh_token <> :'first' AS another, token_type, expires_in, user_id = :'ann' AS same_user
	FROM orion_refresh(:'first', '192.0.2.1', 'psql') \gset
\echo :status :another :token_type :expires_in :same_user
SELECT status, new_refresh_token = :'second' AS same FROM orion_refresh(:'first');
SELECT status, new_refresh_token AS third FROM orion_refresh(:'second') \gset
SELECT status, new_refresh_token = :'third' AS same FROM orion_refresh(:'second');
SELECT refresh_counter, expires_at - refreshed_at AS lasts, access_expires_at - refreshed_at >= '15 minutes' AS covers_access FROM orion_private.sessions WHERE id = :'session';

-- the same claims within ten seconds; later new ones, that the session's end still covers
SELECT orion_jwt_verify(a.access_token) = orion_jwt_verify(b.access_token) AS same_claims FROM orion_refresh(:'second') AS a, orion_refresh(:'second') AS b;
UPDATE orion_private.sessions SET refreshed_at = refreshed_at - interval '11 seconds', access_expires_at = access_expires_at - interval '11 seconds' WHERE id = :'session';
SELECT status, orion_jwt_verify(access_token) ->> 'exp' AS exp FROM orion_refresh(:'second') \gset
SELECT :'status' AS status, to_timestamp(:exp) <= access_expires_at AS covered FROM orion_private.sessions WHERE id = :'session';

-- no tokens of this server, or of a counter that was not given out
SELECT what, (orion_refresh(token)).status FROM (VALUES ('empty', ''), ('junk', 'AQ'), ('padding', :'third' || '='), ('cut', left(:'third', -4)), ('null', NULL),
	('an access token', :'access_token'), ('a later counter', (SELECT orion_private.refresh_token(id, refresh_key, refresh_counter + 1) FROM orion_private.sessions WHERE id = :'session')),
	('another key', (SELECT orion_private.refresh_token(:'session', refresh_key, 1) FROM (SELECT orion_private.refresh_key(:'session') AS refresh_key) AS k))) AS v (what, token);

-- the edge of the session: not at its end, and before
SAVEPOINT s;
UPDATE orion_private.sessions SET expires_at = now() WHERE id = :'session';
SELECT status FROM orion_refresh(:'third');
UPDATE orion_private.sessions SET expires_at = now() + interval '1 microsecond' WHERE id = :'session';
SELECT status FROM orion_refresh(:'third');
ROLLBACK TO s;

-- used twice: the session ends, and says so
SELECT status, access_token, new_refresh_token FROM orion_refresh(:'first', '198.51.100.7', 'thief');
SELECT status FROM orion_refresh(:'third');
SELECT revoke_reason FROM orion_private.sessions WHERE id = :'session';
SELECT type, payload ->> 'sessionId' = :'session' AS this, payload ->> 'address' AS address, payload ->> 'userAgent' AS agent FROM orion_private.outbox WHERE type = 'auth.token_reused' AND xid = pg_current_xact_id();
SELECT action, metadata ->> 'reason' AS reason FROM orion_private.audit_log WHERE target_id = :'session' ORDER BY id;
SELECT id = :'session' AS this, epoch FROM orion_private.revocations WHERE id = :'session';

-- signing out: nobody, one, others, all
SELECT orion_logout();
SELECT orion_sessions_revoke_others();
SELECT orion_session_revoke(:'session'), orion_device_forget(gen_random_uuid());
SELECT access_token AS one FROM orion_login('ann@example.com', 'correct horse', '192.0.2.1', 'one', 'phone') \gset
SELECT access_token AS two FROM orion_login('ann@example.com', 'correct horse', '192.0.2.1', 'two') \gset
SELECT access_token AS three FROM orion_login('ann@example.com', 'correct horse', '192.0.2.1', 'three') \gset
SELECT orion_authenticate(:'two') IS NOT NULL AS signed_in;
SELECT orion_session_revoke((orion_jwt_verify(:'bob_token') ->> 'session_id')::uuid) AS of_another, orion_session_revoke(NULL) AS none;
SELECT orion_session_revoke((orion_jwt_verify(:'one') ->> 'session_id')::uuid) AS own;
SELECT orion_sessions_revoke_others() AS others, orion_logout() AS this, orion_logout() AS again, orion_logout(true) AS everywhere;
SELECT user_agent, revoke_reason FROM orion_private.sessions WHERE user_id = :'ann' ORDER BY user_agent COLLATE "C";
SELECT payload - '{id,sessionId}'::text[] AS payload FROM orion_private.outbox WHERE type = 'user.logout' AND xid = pg_current_xact_id() ORDER BY seq;
SELECT user_agent, metadata ->> 'deviceId' IS NOT NULL AS device FROM orion_private.audit_log WHERE action = 'security.new_device' AND occurred_at >= now() ORDER BY id;

-- administrators
SELECT orion_user_sign_out(:'bob') AS sessions, orion_user_sign_out(:'bob') AS again;
SELECT orion_user_ban(gen_random_uuid()) AS nobody, orion_user_ban(:'bob', now() + interval '1 hour') AS banned;
SELECT status FROM orion_login('bob@example.com', 'battery staple');
SELECT orion_user_unban(:'bob') AS lifted, orion_user_unban(:'bob') AS again;
SELECT status FROM orion_login('bob@example.com', 'battery staple');
-- a ban that is over is none: at its end, not after
UPDATE orion_private.users SET banned_until = now() WHERE id = :'bob';
SELECT status FROM orion_login('bob@example.com', 'battery staple');
SELECT orion_user_delete(:'bob') AS deleted, orion_user_delete(:'bob') AS again;
SELECT action, target_type, outcome FROM orion_private.audit_log WHERE action ~ '^user\.' AND target_id = :'bob' ORDER BY id;

-- roles of the database
SET LOCAL ROLE orion_user;
SELECT status FROM orion_refresh('x');
SELECT orion_user_ban(:'ann');
SELECT count(*) FROM orion.sessions;
RESET ROLE;
ROLLBACK;
