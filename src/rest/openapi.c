/*
 * openapi.c
 *	  The root path: a description of the schema as OpenAPI.
 *
 * The description is one statement over the catalog, run as the role of the request;
 * texts come from COMMENTs: the first line is the summary.  Not a hot path.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "rest/describe.h"
#include "rest/error.h"
#include "rest/media.h"
#include "rest/openapi.h"
#include "rest/relationship.h"
#include "rest/response.h"
#include "rest/result.h"
#include "rest/settings.h"
#include "rest/statement.h"

#define OPENAPI_JSON	"application/openapi+json"
#define OPENAPI_OTHER	"application/vnd.oai.openapi+json"

/* What the description says of keys; each row in arrays of one length. */
typedef struct Keys
{
	ArrayBuildState *key_relations;
	ArrayBuildState *key_columns;
	ArrayBuildState *link_relations;
	ArrayBuildState *link_columns;
	ArrayBuildState *targets;
	ArrayBuildState *target_columns;
} Keys;

static void
add_oid(ArrayBuildState **array, Oid oid)
{
	*array = accumArrayResult(*array, ObjectIdGetDatum(oid), false, OIDOID, CurrentMemoryContext);
}

static void
add_text(ArrayBuildState **array, const char *string)
{
	*array = accumArrayResult(*array, CStringGetTextDatum(string), false, TEXTOID, CurrentMemoryContext);
}

/* Keys of tables, and of views those that they show of the tables behind them. */
static void
read_keys(Oid namespace, Keys *keys)
{
	Oid			types[] = {OIDOID};
	Datum		values[] = {ObjectIdGetDatum(namespace)};
	uint64		n;
	Oid		   *relations;

	if (SPI_execute_with_args("SELECT oid FROM pg_class WHERE relnamespace = $1 AND relkind IN ('r', 'v', 'm', 'f', 'p')"
							  " AND NOT relispartition", 1, types, values, NULL, true, 0) < 0)
		elog(ERROR, "the relations could not be read");
	n = SPI_processed;
	relations = palloc((n + 1) * sizeof(Oid));
	for (uint64 i = 0; i < n; i++)
	{
		bool		isnull;

		relations[i] = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
	}
	for (uint64 i = 0; i < n; i++)
	{
		ListCell   *lc;

		foreach(lc, orion_relationship_key(relations[i]))
		{
			add_oid(&keys->key_relations, relations[i]);
			add_text(&keys->key_columns, lfirst(lc));
		}
		foreach(lc, orion_relationship_links(relations[i]))
		{
			const OrionLink *link = lfirst(lc);

			add_oid(&keys->link_relations, relations[i]);
			add_text(&keys->link_columns, link->column);
			add_text(&keys->targets, link->target);
			add_text(&keys->target_columns, link->target_column);
		}
	}
}

static Datum
array_of(ArrayBuildState *array, Oid type)
{
	return array ? makeArrayResult(array, CurrentMemoryContext) : PointerGetDatum(construct_empty_array(type));
}

static void
describe(OrionCall *call, bool version_three)
{
	Oid			namespace = get_namespace_oid(call->schema, false);
	Keys		keys = {0};
	Oid			types[] = {OIDOID, BOOLOID, TEXTOID, TEXTOID, BOOLOID, OIDARRAYOID, TEXTARRAYOID,
	OIDARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID};
	Datum		values[lengthof(types)];

	/* names of the catalog must not be anybody else's */
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	read_keys(namespace, &keys);
	values[0] = ObjectIdGetDatum(namespace);
	values[1] = BoolGetDatum(orion_openapi_mode == ORION_OPENAPI_IGNORE_PRIVILEGES);
	values[2] = CStringGetTextDatum(orion_openapi_server_proxy_uri);
	values[3] = CStringGetTextDatum(orion_rest_prefix_length() > 0 ? orion_rest_prefix : "/");
	values[4] = BoolGetDatum(orion_openapi_security_active);
	values[5] = array_of(keys.key_relations, OIDOID);
	values[6] = array_of(keys.key_columns, TEXTOID);
	values[7] = array_of(keys.link_relations, OIDOID);
	values[8] = array_of(keys.link_columns, TEXTOID);
	values[9] = array_of(keys.targets, TEXTOID);
	values[10] = array_of(keys.target_columns, TEXTOID);
	if (SPI_execute_with_args(orion_describe(version_three), lengthof(types), types, values, NULL, true, 0) < 0)
		elog(ERROR, "the description could not be made");
	orion_result_body(call, 1, "{}");
}

/* The version is a parameter of the media type; the type that is registered is of 3.x. */
static bool
wants_three(const char *accept)
{
	const char *range = strcasestr(accept, OPENAPI_JSON);

	if (strcasestr(accept, OPENAPI_OTHER))
		return true;
	return range && memmem(range, strcspn(range, ","), "version=3", 9) != NULL;
}

void
orion_openapi_serve(OrionCall *call)
{
	const char *accept = orion_call_header(call, "accept");
	bool		three = accept && wants_three(accept);

	if (!three && !orion_media_wants(call, OPENAPI_JSON) && !orion_media_wants(call, "application/json") &&
		!orion_media_wants(call, "*/*") && !orion_media_wants(call, "application/*"))
		orion_media_refuse(call);
	orion_call_enter(call, NULL);
	describe(call, three);
	(void) orion_response_put(call->response, "Content-Type",
							  three ? OPENAPI_JSON ";version=3.1; charset=utf-8" : OPENAPI_JSON "; charset=utf-8");
}
