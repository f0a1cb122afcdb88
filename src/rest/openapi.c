/*
 * openapi.c
 *	  The root path: a description of the schema as OpenAPI 2.0, or the function that
 *	  orion.rest_root_spec names.
 *
 * The description is one statement over the catalog, run as the role of the request;
 * texts come from COMMENTs: the first line is the summary.  Not a hot path.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "rest/error.h"
#include "rest/media.h"
#include "rest/openapi.h"
#include "rest/response.h"
#include "rest/result.h"
#include "rest/settings.h"
#include "rest/statement.h"

#define OPENAPI_JSON	"application/openapi+json"

/* $1 schema, $2 whether privileges are ignored */
static const char definitions[] =
"WITH rel AS (SELECT c.oid, c.relname AS name, obj_description(c.oid, 'pg_class') AS note,"
" pg_relation_is_updatable(c.oid, true) AS can FROM pg_class c"
" WHERE c.relnamespace = $1 AND c.relkind IN ('r', 'v', 'm', 'f', 'p') AND NOT c.relispartition"
" AND ($2 OR has_table_privilege(c.oid, 'SELECT, INSERT, UPDATE, DELETE')"
" OR has_any_column_privilege(c.oid, 'SELECT, INSERT, UPDATE'))),"
" col AS (SELECT rel.oid, rel.name AS relation, a.attnum, a.attname AS name, a.attnotnull,"
" t.typtype, t.typcategory, coalesce(nullif(t.typbasetype, 0), t.oid) AS base, e.typcategory AS item,"
" format_type(a.atttypid, NULL) AS type, format_type(t.typelem, NULL) AS item_type, a.atttypid,"
" CASE WHEN a.atttypid IN (1042, 1043) AND a.atttypmod > 4 THEN a.atttypmod - 4 END AS longest,"
" pg_get_expr(d.adbin, d.adrelid) AS preset,"
" concat_ws(E'\\n\\n', col_description(a.attrelid, a.attnum), nullif(concat("
" CASE WHEN a.attnum = ANY (p.conkey) THEN E'Note:\\nThis is a Primary Key.<pk/>' END,"
" (SELECT format(E'Note:\\nThis is a Foreign Key to `%s.%s`.<fk table=''%s'' column=''%s''/>', r.relname, ra.attname, r.relname, ra.attname)"
" FROM pg_constraint f JOIN pg_class r ON r.oid = f.confrelid JOIN pg_attribute ra ON ra.attrelid = f.confrelid AND ra.attnum = f.confkey[1]"
" WHERE f.conrelid = a.attrelid AND f.contype = 'f' AND f.conkey = ARRAY[a.attnum] ORDER BY f.oid LIMIT 1)), '')) AS note"
" FROM rel JOIN pg_attribute a ON a.attrelid = rel.oid AND a.attnum > 0 AND NOT a.attisdropped"
" JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'"
" LEFT JOIN pg_attrdef d ON d.adrelid = rel.oid AND d.adnum = a.attnum"
" LEFT JOIN pg_constraint p ON p.conrelid = rel.oid AND p.contype = 'p'),"
" kind(base, type) AS (VALUES (16::oid, 'boolean'), (20, 'integer'), (21, 'integer'), (23, 'integer'), (700, 'number'),"
" (701, 'number'), (1700, 'number'), (114, NULL), (3802, NULL)),"
" prop AS (SELECT col.oid, json_object_agg(col.name, json_strip_nulls(json_build_object("
" 'description', nullif(col.note, ''), 'format', CASE col.base WHEN 23 THEN 'int32' WHEN 21 THEN 'int32' WHEN 20 THEN 'int64' ELSE"
" CASE WHEN col.typtype = 'e' THEN (SELECT format('%s.%s', n.nspname, t.typname) FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace"
" WHERE t.oid = col.atttypid) ELSE col.type END END,"
" 'type', CASE WHEN col.item IS NOT NULL THEN 'array' WHEN kind.base IS NOT NULL THEN kind.type ELSE 'string' END,"
" 'items', CASE WHEN col.item IS NOT NULL THEN json_build_object('type', CASE col.item WHEN 'N' THEN"
" CASE WHEN col.item_type IN ('integer', 'bigint', 'smallint') THEN 'integer' ELSE 'number' END WHEN 'B' THEN 'boolean' ELSE 'string' END) END,"
" 'maxLength', col.longest, 'enum', (SELECT json_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = col.atttypid),"
" 'default', CASE WHEN kind.type IN ('number', 'integer') THEN CASE WHEN col.preset ~ '^-?[0-9]+(\\.[0-9]+)?$' THEN col.preset::json END"
" WHEN kind.type = 'boolean' THEN CASE WHEN col.preset IN ('true', 'false') THEN col.preset::json END"
" WHEN col.preset ~ '^''([^'']|'''')*''::' THEN to_json(replace(substring(col.preset from '^''((?:[^'']|'''')*)''::'), '''''', '''')) END"
" )) ORDER BY col.attnum) AS properties, json_agg(col.name ORDER BY col.attnum) FILTER (WHERE col.attnotnull) AS required"
" FROM col LEFT JOIN kind USING (base) GROUP BY col.oid) ";

static const char paths[] =
", common AS (SELECT rel.*, split_part(rel.note, E'\\n', 1) AS summary,"
" nullif(ltrim(substring(rel.note from position(E'\\n' in rel.note || E'\\n')), E'\\n'), '') AS description,"
" (SELECT json_agg(json_build_object('$ref', format('#/parameters/rowFilter.%s.%s', rel.name, col.name)) ORDER BY col.attnum)"
" FROM col WHERE col.oid = rel.oid) AS filters FROM rel),"
" path AS (SELECT name, json_strip_nulls(json_build_object("
" 'get', json_build_object('tags', json_build_array(name), 'summary', summary, 'description', description,"
" 'parameters', (SELECT json_agg(x) FROM (SELECT json_array_elements(filters) AS x UNION ALL SELECT json_build_object('$ref', '#/parameters/' || r)"
" FROM unnest(ARRAY['select', 'order', 'range', 'rangeUnit', 'offset', 'limit', 'preferCount']) r) p),"
" 'responses', json_build_object('200', json_build_object('description', 'OK', 'schema', json_build_object('type', 'array',"
" 'items', json_build_object('$ref', '#/definitions/' || name))), '206', json_build_object('description', 'Partial Content'))),"
" 'post', CASE WHEN can & 8 > 0 THEN json_build_object('tags', json_build_array(name), 'summary', summary, 'description', description,"
" 'parameters', (SELECT json_agg(json_build_object('$ref', '#/parameters/' || r)) FROM unnest(ARRAY['body.' || name, 'select', 'preferPost']) r),"
" 'responses', json_build_object('201', json_build_object('description', 'Created'))) END,"
" 'patch', CASE WHEN can & 4 > 0 THEN json_build_object('tags', json_build_array(name), 'summary', summary, 'description', description,"
" 'parameters', (SELECT json_agg(x) FROM (SELECT json_array_elements(filters) AS x UNION ALL SELECT json_build_object('$ref', '#/parameters/' || r)"
" FROM unnest(ARRAY['body.' || name, 'preferReturn']) r) p), 'responses', json_build_object('204', json_build_object('description', 'No Content'))) END,"
" 'delete', CASE WHEN can & 16 > 0 THEN json_build_object('tags', json_build_array(name), 'summary', summary, 'description', description,"
" 'parameters', (SELECT json_agg(x) FROM (SELECT json_array_elements(filters) AS x UNION ALL SELECT json_build_object('$ref', '#/parameters/preferReturn')) p),"
" 'responses', json_build_object('204', json_build_object('description', 'No Content'))) END)) AS item FROM common),"
" func AS (SELECT f.proname AS name, min(f.provolatile::text) AS volatility, min(obj_description(f.oid, 'pg_proc')) AS note FROM pg_proc f"
" WHERE f.pronamespace = $1 AND f.prokind = 'f' AND f.prorettype NOT IN (2279, 3838, 2281) AND ($2 OR has_function_privilege(f.oid, 'EXECUTE'))"
" GROUP BY f.proname),"
" rpc AS (SELECT name, json_strip_nulls(json_build_object('get', CASE WHEN volatility <> 'v' THEN o.operation END, 'post', o.operation)) AS item"
" FROM func, LATERAL (SELECT json_build_object('tags', json_build_array('(rpc) ' || name), 'summary', split_part(note, E'\\n', 1),"
" 'description', nullif(ltrim(substring(note from position(E'\\n' in note || E'\\n')), E'\\n'), ''),"
" 'produces', json_build_array('application/json', 'application/vnd.pgrst.object+json'),"
" 'responses', json_build_object('200', json_build_object('description', 'OK'))) AS operation) o) ";

static const char document[] =
"SELECT 1::int8, json_strip_nulls(json_build_object('swagger', '2.0', 'info', json_build_object("
" 'title', coalesce(nullif(split_part(s.note, E'\\n', 1), ''), 'Orion API'),"
" 'description', coalesce(nullif(ltrim(substring(s.note from position(E'\\n' in s.note || E'\\n')), E'\\n'), ''), 'Tables, views and functions of a schema'),"
" 'version', '1.0'), 'host', substring($3 from '^[a-z]+://([^/]+)'),"
" 'basePath', coalesce(nullif(regexp_replace($3, '^[a-z]+://[^/]+', ''), ''), CASE WHEN $3 = '' THEN $4 ELSE '/' END),"
" 'schemes', json_build_array(coalesce(substring($3 from '^([a-z]+)://'), 'http')),"
" 'consumes', json_build_array('application/json', 'application/vnd.pgrst.object+json', 'text/csv'),"
" 'produces', json_build_array('application/json', 'application/vnd.pgrst.object+json', 'text/csv'),"
" 'definitions', coalesce((SELECT json_object_agg(rel.name, json_strip_nulls(json_build_object('type', 'object', 'description', rel.note,"
" 'properties', prop.properties, 'required', prop.required)) ORDER BY rel.name) FROM rel JOIN prop USING (oid)), '{}'),"
" 'paths', coalesce((SELECT json_object_agg(key, item ORDER BY key) FROM (SELECT '/' || name AS key, item FROM path UNION ALL"
" SELECT '/rpc/' || name, item FROM rpc) p), '{}'),"
" 'parameters', (SELECT json_object_agg(key, item) FROM (SELECT format('rowFilter.%s.%s', relation, name) AS key,"
" json_build_object('name', name, 'in', 'query', 'type', 'string', 'required', false) AS item FROM col UNION ALL"
" SELECT 'body.' || name, json_build_object('name', name, 'in', 'body', 'required', false, 'schema', json_build_object('$ref', '#/definitions/' || name)) FROM rel"
" UNION ALL SELECT r, json_build_object('name', r, 'in', 'query', 'type', 'string', 'required', false) FROM unnest(ARRAY['select', 'order', 'offset', 'limit']) r"
" UNION ALL SELECT r, json_build_object('name', h, 'in', 'header', 'type', 'string', 'required', false) FROM (VALUES ('range', 'Range'),"
" ('rangeUnit', 'Range-Unit'), ('preferCount', 'Prefer'), ('preferPost', 'Prefer'), ('preferReturn', 'Prefer')) v(r, h)) q),"
" 'security', CASE WHEN $5 THEN json_build_array(json_build_object('JWT', '[]'::json)) END,"
" 'securityDefinitions', CASE WHEN $5 THEN json_build_object('JWT', json_build_object('type', 'apiKey', 'name', 'Authorization', 'in', 'header',"
" 'description', 'Add the token prepending \"Bearer \" (without quotes) to it')) END))"
" FROM (SELECT obj_description($1, 'pg_namespace') AS note) s";

static void
describe(OrionCall *call)
{
	StringInfoData text;
	Oid			types[] = {OIDOID, BOOLOID, TEXTOID, TEXTOID, BOOLOID};
	Datum		values[] = {
		ObjectIdGetDatum(get_namespace_oid(call->schema, false)),
		BoolGetDatum(orion_openapi_mode == ORION_OPENAPI_IGNORE_PRIVILEGES),
		CStringGetTextDatum(orion_openapi_server_proxy_uri),
		CStringGetTextDatum(orion_rest_prefix_length() > 0 ? orion_rest_prefix : "/"),
		BoolGetDatum(orion_openapi_security_active),
	};

	/* names of the catalog must not be anybody else's */
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	initStringInfo(&text);
	appendStringInfoString(&text, definitions);
	appendStringInfoString(&text, paths);
	appendStringInfoString(&text, document);
	if (SPI_execute_with_args(text.data, lengthof(types), types, values, NULL, true, 0) < 0)
		elog(ERROR, "the description could not be made");
	orion_result_body(call, 1, "{}");
}

void
orion_openapi_serve(OrionCall *call)
{
	const char *accept = orion_call_header(call, "accept");
	bool		openapi = accept == NULL || strstr(accept, OPENAPI_JSON) || strstr(accept, "*/*");

	if (!openapi && strstr(accept, "application/json") == NULL)
		orion_refuse(406, "PGRST107", psprintf("None of these media types are available: %s", accept), NULL, NULL);
	if (!orion_call_reads(call))
		orion_refuse(405, "PGRST117", psprintf("Unsupported HTTP method: %s", call->request->method), NULL, NULL);
	if (orion_rest_root_spec[0])
		orion_rpc_serve(call, orion_rest_root_spec);
	else if (orion_openapi_mode == ORION_OPENAPI_DISABLED)
		orion_refuse(404, "PGRST126", "Root endpoint metadata is disabled", NULL, NULL);
	else
	{
		orion_call_enter(call, NULL);
		describe(call);
	}
	if (openapi)
		(void) orion_response_put(call->response, "Content-Type", OPENAPI_JSON "; charset=utf-8");
}
