-- Named routes: adding, replacing, removing, and who may. What they answer is
-- tested over HTTP in test/t/050_rest.pl.
\pset null '(null)'
\set SHOW_CONTEXT never

SELECT path, method, comment FROM orion_private.routes WHERE comment IS NULL OR to_regprocedure(function) IS NULL ORDER BY path, method;

CREATE FUNCTION good(request jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT request';
CREATE FUNCTION "odd ""name""; --"(request jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT request';
CREATE FUNCTION no_argument() RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb';
CREATE FUNCTION of_text(request text) RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb';
CREATE FUNCTION to_text(request jsonb) RETURNS text LANGUAGE sql AS 'SELECT NULL::text';
CREATE FUNCTION to_set(request jsonb) RETURNS SETOF jsonb LANGUAGE sql AS 'SELECT NULL::jsonb';
CREATE PROCEDURE proc(request jsonb) LANGUAGE sql AS '';

SELECT orion_route_add('get', '/x/{id}', 'good(jsonb)');
SELECT orion_route_add('GET', '/x/{id}', 'good(jsonb)', 'orion_admin', 'once more');
SELECT orion_route_add('POST', '/x/y.z~1-2_3', '"odd ""name""; --"(jsonb)');
SELECT method, path, function, role_required, comment FROM orion_private.routes WHERE path LIKE '/x%' ORDER BY path, method;

SELECT orion_route_add('GET', '/x', 'no_argument()');
SELECT orion_route_add('GET', '/x', 'of_text(text)');
SELECT orion_route_add('GET', '/x', 'to_text(jsonb)');
SELECT orion_route_add('GET', '/x', 'to_set(jsonb)');
SELECT orion_route_add('GET', '/x', 'proc(jsonb)');
SELECT orion_route_add('GET', '/x', 0);
SELECT orion_route_add('GET', '/x', NULL);
SELECT orion_route_add('BREW', '/x', 'good(jsonb)');
SELECT orion_route_add('GET', 'x', 'good(jsonb)');
SELECT orion_route_add('GET', '/', 'good(jsonb)');
SELECT orion_route_add('GET', '/x/', 'good(jsonb)');
SELECT orion_route_add('GET', '/x//y', 'good(jsonb)');
SELECT orion_route_add('GET', '/x/{}', 'good(jsonb)');
SELECT orion_route_add('GET', '/x/{a}b', 'good(jsonb)');
SELECT orion_route_add('GET', '/x?y', 'good(jsonb)');

SELECT orion_route_remove('get', '/x/{id}');
SELECT orion_route_remove('GET', '/x/{id}');

SET ROLE orion_user;
SELECT orion_route_add('GET', '/x', 'good(jsonb)');
SELECT orion_route_remove('POST', '/x/y.z~1-2_3');
SELECT * FROM orion_private.routes;
SET ROLE orion_admin;
SELECT orion_route_add('GET', '/x', 'good(jsonb)');
SELECT orion_route_remove('GET', '/x');
RESET ROLE;

-- only a trigger may call it
SELECT orion_private.routes_changed();

SHOW orion.rest_prefix;
SHOW orion.rest_schemas;
SHOW orion.rest_anon_role;
SHOW orion.rest_max_rows;
