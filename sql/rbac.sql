-- Roles, permissions, and who has them.
\pset null '(null)'
\set VERBOSITY terse

-- new users get default roles
SELECT orion_role_create('member', 'Everybody', is_default => true), orion_permission_grant('member', 'self:read');
SELECT status FROM orion_register('rbac-ann@example.com', 'correct horse battery');
SELECT id AS ann FROM orion_private.users WHERE email = 'rbac-ann@example.com' \gset
SELECT orion_jwt_sign(jsonb_build_object('sub', :'ann', 'role', 'orion_user')) AS token \gset
SELECT orion_jwt_sign(jsonb_build_object('sub', :'ann', 'role', 'orion_user', 'scopes', '["docs:read", "*:list"]'::jsonb)) AS scoped \gset
SELECT orion_jwt_sign(jsonb_build_object('sub', :'ann', 'scopes', '[]'::jsonb)) AS unscoped \gset

-- made once; names and permissions have a form
SELECT orion_role_create('reader', 'Reads'), orion_role_create('reader') AS again;
SELECT orion_role_create('editor'), orion_role_create('chief');
SELECT orion_role_create('Chief');
SELECT orion_role_create(NULL);
SELECT orion_permission_grant('reader', 'docs:read'), orion_permission_grant('reader', 'docs:read') AS again;
SELECT orion_permission_grant('editor', 'docs:write'), orion_permission_grant('chief', 'docs:*');
SELECT orion_permission_grant('nobody', 'docs:read');
SELECT p, orion_private.permission_valid(p) FROM unnest(ARRAY['docs:read', '*:*', 'docs:*', '*:read', 'docs', 'docs:', ':read', 'docs:re*', 'Docs:read', 'a:b:c', 'docs:read ', NULL]) AS p;
SELECT orion_permission_grant('reader', 'docs');

-- inheritance, without cycles
SELECT orion_role_inherit('editor', 'reader'), orion_role_inherit('chief', 'editor'), orion_role_inherit('chief', 'editor') AS again;
SELECT orion_role_inherit('reader', 'chief');
SELECT orion_role_inherit('reader', 'reader');
SELECT orion_role_inherit('reader', 'nobody');
SELECT name, is_default, parents, permissions FROM orion.roles ORDER BY name;

-- nobody signed in
SELECT orion_has_permission('docs:read'), orion_permissions(), orion_roles();

-- grants are seen at once, by the user in the token
BEGIN;
SELECT orion_authenticate(:'token') IS NOT NULL AS signed_in;
SELECT orion_has_permission('docs:read') AS before, orion_has_permission(NULL) AS nothing, orion_has_permission('docs') AS malformed;
SELECT orion_role_grant(:'ann', 'editor'), orion_role_grant(:'ann', 'editor') AS again;
SELECT orion_has_permission('docs:read') AS inherited, orion_has_permission('docs:write') AS own, orion_has_permission('docs:delete') AS other;
SELECT orion_permissions(), orion_roles();
SELECT orion_user_permission_grant(:'ann', '*:list'), orion_user_permission_grant(:'ann', 'x'||':*');
SELECT orion_has_permission('docs:list') AS any_list, orion_has_permission('x:y') AS any_x, orion_has_permission('x') AS x, orion_has_permission('docs:*') AS all_docs;
-- what a client sets changes nothing
SET LOCAL request.jwt.claims = '{"sub": "00000000-0000-0000-0000-000000000000", "scopes": []}';
SELECT orion_has_permission('docs:read');
-- the scopes of a token narrow
SELECT orion_authenticate(:'scoped') IS NOT NULL AS scoped;
SELECT orion_permissions(), orion_has_permission('docs:read') AS in_scope, orion_has_permission('docs:write') AS out_of_scope, orion_has_permission('docs:list') AS by_wildcard;
SELECT orion_authenticate(:'unscoped') IS NOT NULL AS unscoped;
SELECT orion_permissions(), orion_has_permission('docs:read');
SELECT g, s, orion_private.permissions_within(g, s) FROM (VALUES
	('{docs:*,a:b}'::text[], '["docs:read", "*:b", "x:y"]'::jsonb), ('{docs:*}', NULL), ('{docs:*}', 'null'), ('{docs:*}', '"docs:*"'), ('{*:*}', '["docs:*", "bad"]')) AS t (g, s);
-- taken away
SELECT orion_authenticate(:'token') IS NOT NULL AS signed_in;
SELECT orion_has_permission('docs:read') AS before, orion_role_disinherit('editor', 'reader'), orion_role_disinherit('editor', 'reader') AS again;
SELECT orion_has_permission('docs:read') AS after;
SELECT orion_permission_revoke('editor', 'docs:write'), orion_permission_revoke('editor', 'docs:write') AS again;
SELECT orion_has_permission('docs:write') AS after;
SELECT orion_user_permission_revoke(:'ann', '*:list'), orion_user_permission_revoke(:'ann', '*:list') AS again;
SELECT orion_role_revoke(:'ann', 'editor'), orion_role_revoke(:'ann', 'editor') AS again;
SELECT orion_permissions();
ROLLBACK;
-- the rollback is seen too, within one statement's call sites and over statements
SELECT orion_private.permissions_of(:'ann');
PREPARE ask AS SELECT orion_has_permission('self:read') AS self, orion_has_permission('docs:read') AS docs;
BEGIN; SELECT orion_authenticate(:'token') IS NOT NULL AS signed_in; EXECUTE ask; COMMIT;
EXECUTE ask;
SELECT orion_role_grant(:'ann', 'chief');
BEGIN; SELECT orion_authenticate(:'token') IS NOT NULL AS signed_in; EXECUTE ask;
SAVEPOINT s; SELECT orion_role_delete('chief'); EXECUTE ask; ROLLBACK TO s; EXECUTE ask; COMMIT;
SELECT orion_role_grant('00000000-0000-0000-0000-000000000000', 'chief');
SELECT orion_role_grant(:'ann', 'nobody');

-- one statement that changes who asks
CREATE TABLE two (token text);
INSERT INTO two VALUES (:'scoped'), (:'token');
SELECT orion_authenticate(token) ? 'scopes' AS scoped, orion_has_permission('docs:write') FROM two;
DROP TABLE two;

-- who may what
BEGIN;
SET LOCAL ROLE orion_user;
SELECT orion_authenticate(:'token') IS NOT NULL AS signed_in;
SELECT orion_permissions();
SAVEPOINT s;
SELECT orion_permissions('00000000-0000-0000-0000-000000000000');
ROLLBACK TO s;
SELECT orion_roles('00000000-0000-0000-0000-000000000000');
ROLLBACK TO s;
SELECT orion_role_grant(:'ann', 'chief');
ROLLBACK TO s;
SELECT * FROM orion.roles;
ROLLBACK TO s;
RESET ROLE;
SELECT orion_user_permission_grant(:'ann', 'roles:read');
SET LOCAL ROLE orion_user;
SELECT orion_permissions('00000000-0000-0000-0000-000000000000');
SET LOCAL ROLE orion_service;
SELECT orion_roles(:'ann');
ROLLBACK;

-- a policy
CREATE TABLE rbac_docs (id int, body text);
INSERT INTO rbac_docs SELECT i, 'text' FROM generate_series(1, 5) i;
ALTER TABLE rbac_docs ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON rbac_docs USING (orion_has_permission('docs:read'));
GRANT SELECT ON rbac_docs TO orion_user, orion_anon;
BEGIN;
SET LOCAL ROLE orion_anon;
SELECT count(*) AS nobody FROM rbac_docs;
SELECT orion_authenticate(:'token') IS NOT NULL AS signed_in;
SELECT count(*) FROM rbac_docs;
COMMIT;
DROP TABLE rbac_docs;

-- what is on record, and published
SELECT action, target_type, outcome, old, new - 'userId' AS new FROM orion.audit_log
	WHERE (action ~ '^(role|permission)\.') ORDER BY id;
SELECT type, aggregatetype, payload - 'userId' AS payload FROM orion_private.outbox WHERE type ~ '^(role|permission)\.' ORDER BY seq;
SELECT orion_role_delete('reader'), orion_role_delete('editor'), orion_role_delete('chief'), orion_role_delete('member'), orion_role_delete('member') AS again;
DELETE FROM orion_private.users WHERE id = :'ann';
