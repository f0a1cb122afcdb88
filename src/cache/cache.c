/*
 * cache.c
 *	  Cache rules: creating them, and the values of their functions.
 *
 * A function runs as the role that created the rule, read-only, in a subtransaction
 * of the relay's reading transaction and with a time limit (outbox/call.c).  When it
 * fails, the value is unknown and the key is removed, which is always right; the
 * rule's row shows the error.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"

#include "cache/cache.h"
#include "codec/topic.h"

PG_FUNCTION_INFO_V1(orion_cache_rule_create);

#define MAX_VALUE	(64 * 1024 * 1024)	/* bytes of a value */

typedef struct Rule
{
	int64		id;
	char	   *name;
	char	   *pattern;
	OrionHandlerCall call;
	int64		failures;		/* not stored yet */
	char	   *last_error;
} Rule;

struct OrionCacheRules
{
	MemoryContext context;
	char	   *json;
	Rule	   *rules;			/* those with a function */
	int			n;
	bool		failed;
};

int			orion_cache_function_timeout = 1000;

void
orion_cache_init(void)
{
	DefineCustomIntVariable("orion.cache_function_timeout",
							"How long the function of a cache rule may take; its key is then removed.",
							NULL,
							&orion_cache_function_timeout, 1000, 0, 600000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
}

/* ---- creating ---- */

static void
check_function(Oid function)
{
	const char *problem = orion_handler_problem(function, GetUserId());
	Oid			type = problem ? InvalidOid : get_func_rettype(function);

	if (problem == NULL && type != TEXTOID && type != JSONOID && type != JSONBOID)
		problem = "it does not return text, json or jsonb";
	if (problem)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot make cached values with %s", format_procedure(function)),
				 errdetail_internal("%s", problem)));
}

Datum
orion_cache_rule_create(PG_FUNCTION_ARGS)
{
	Oid			types[] = {TEXTOID, TEXTOID, TEXTOID, JSONBOID, TEXTOID, OIDOID};
	Datum		values[lengthof(types)];
	char		nulls[lengthof(types)];
	bool		has_function = !PG_ARGISNULL(4);
	OrionUser	caller;

	for (int i = 0; i < 4; i++)
	{
		values[i] = PG_GETARG_DATUM(i);
		nulls[i] = PG_ARGISNULL(i) ? 'n' : ' ';
	}
	nulls[4] = nulls[5] = has_function ? ' ' : 'n';
	if (has_function)
	{
		check_function(PG_GETARG_OID(4));
		values[4] = CStringGetTextDatum(format_procedure_qualified(PG_GETARG_OID(4)));
		values[5] = ObjectIdGetDatum(GetUserId());
	}
	caller = orion_become_owner();
	SPI_connect();
	if (SPI_execute_with_args("SELECT orion_private.cache_rule_add($1, $2, $3, $4, $5, $6::pg_catalog.regrole)",
							  lengthof(types), types, values, nulls, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not add a cache rule");
	SPI_finish();
	orion_become_again(caller);
	PG_RETURN_VOID();
}

/* ---- reading ---- */

static Datum
column(int row, int number)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number, &isnull);

	return isnull ? (Datum) 0 : value;
}

static char *
copy_text(OrionCacheRules *rules, Datum value)
{
	char	   *string = TextDatumGetCString(value);

	return MemoryContextStrdup(rules->context, string);
}

static void
load_functions(OrionCacheRules *rules, int32 sink_id)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(sink_id)};

	if (SPI_execute_with_args("SELECT id, name, pattern, pg_catalog.to_regprocedure(function)::pg_catalog.oid, function_role::pg_catalog.oid"
							  " FROM orion_private.cache_rules"
							  " WHERE sink_id OPERATOR(pg_catalog.=) $1 AND function IS NOT NULL ORDER BY id",
							  1, types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the cache rules");
	rules->n = (int) SPI_processed;
	rules->rules = MemoryContextAllocZero(rules->context, Max(1, rules->n) * sizeof(Rule));
	for (int i = 0; i < rules->n; i++)
	{
		Rule	   *rule = &rules->rules[i];

		rule->id = DatumGetInt64(column(i, 1));
		rule->name = copy_text(rules, column(i, 2));
		rule->pattern = copy_text(rules, column(i, 3));
		rule->call.function = DatumGetObjectId(column(i, 4));
		rule->call.role = DatumGetObjectId(column(i, 5));
		rule->call.timeout_ms = orion_cache_function_timeout;
		rule->call.read_only = true;
	}
}

static void
load_json(OrionCacheRules *rules, int32 sink_id)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(sink_id)};
	char	   *json;

	if (SPI_execute_with_args("SELECT pg_catalog.jsonb_build_object("
							  "'rules', coalesce((SELECT pg_catalog.jsonb_agg(r.rule"
							  " OPERATOR(pg_catalog.||) pg_catalog.jsonb_build_object('pattern', r.pattern)"
							  " OPERATOR(pg_catalog.||) CASE WHEN r.function IS NULL THEN '{}'::pg_catalog.jsonb"
							  " ELSE pg_catalog.jsonb_build_object('value', r.id) END ORDER BY r.id)"
							  " FROM orion_private.cache_rules r WHERE r.sink_id OPERATOR(pg_catalog.=) $1), '[]'),"
							  "'dependencies', coalesce((SELECT pg_catalog.jsonb_object_agg(e.key, e.list) FROM ("
							  "SELECT d.key, pg_catalog.jsonb_agg(d.dependent ORDER BY d.dependent) AS list"
							  " FROM orion_private.cache_dependencies d WHERE d.sink_id OPERATOR(pg_catalog.=) $1"
							  " GROUP BY d.key) e), '{}'))::pg_catalog.text",
							  1, types, values, NULL, true, 1) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not read the cache rules");
	json = TextDatumGetCString(column(0, 1));
	rules->json = MemoryContextStrdup(rules->context, pg_server_to_any(json, strlen(json), PG_UTF8));
}

OrionCacheRules *
orion_cache_load(int32 sink_id)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "orion cache rules", ALLOCSET_SMALL_SIZES);
	OrionCacheRules *rules = MemoryContextAllocZero(context, sizeof(OrionCacheRules));

	rules->context = context;
	load_json(rules, sink_id);
	load_functions(rules, sink_id);
	return rules;
}

void
orion_cache_free(OrionCacheRules *rules)
{
	if (rules)
		MemoryContextDelete(rules->context);
}

const char *
orion_cache_json(const OrionCacheRules *rules)
{
	return rules->json;
}

bool
orion_cache_has_functions(const OrionCacheRules *rules)
{
	return rules && rules->n > 0;
}

/* ---- values ---- */

/* The envelope is UTF-8 for the sink; here it is in the database's encoding again. */
static Datum
event_jsonb(const OrionEvent *event)
{
	char	   *json = pg_any_to_server(event->envelope, strlen(event->envelope), PG_UTF8);

	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json));
}

static void
keep_failure(OrionCacheRules *rules, Rule *rule, const char *error)
{
	char	   *old = rule->last_error;

	rule->last_error = MemoryContextStrdup(rules->context, error);
	if (old)
		pfree(old);
	rule->failures++;
	rules->failed = true;
}

static char *
make_value(OrionCacheRules *rules, Rule *rule, Datum event)
{
	char	   *value = NULL;
	const char *error = orion_handler_problem(rule->call.function, rule->call.role);

	if (error == NULL)
		error = orion_handler_call(&rule->call, event, &value);
	if (error == NULL && value && strlen(value) > MAX_VALUE)
		error = "the value is longer than 64 MB";
	if (error == NULL)
		return value ? pg_server_to_any(value, strlen(value), PG_UTF8) : NULL;
	keep_failure(rules, rule, error);
	return NULL;
}

int
orion_cache_values(OrionCacheRules *rules, const OrionEvent *event, OrionCacheValue **values)
{
	Datum		jsonb = (Datum) 0;
	char	   *type;
	int			n = 0;

	if (!orion_cache_has_functions(rules))
		return 0;
	type = pg_any_to_server(event->type, strlen(event->type), PG_UTF8);
	*values = palloc(rules->n * sizeof(OrionCacheValue));
	for (int i = 0; i < rules->n; i++)
	{
		Rule	   *rule = &rules->rules[i];

		if (!orion_topic_match(rule->pattern, type))
			continue;
		if (jsonb == (Datum) 0)
			jsonb = event_jsonb(event);
		(*values)[n].rule = rule->id;
		(*values)[n++].value = make_value(rules, rule, jsonb);
	}
	return n;
}

void
orion_cache_store_failures(OrionCacheRules *rules)
{
	Oid			types[] = {INT8OID, INT8OID, TEXTOID};

	if (rules == NULL || !rules->failed)
		return;
	rules->failed = false;
	for (int i = 0; i < rules->n; i++)
	{
		Rule	   *rule = &rules->rules[i];
		Datum		values[] = {Int64GetDatum(rule->id), Int64GetDatum(rule->failures), (Datum) 0};

		if (rule->failures == 0)
			continue;
		ereport(LOG,
				(errmsg("cache rule \"%s\" could not make " INT64_FORMAT " values; their keys are removed", rule->name, rule->failures),
				 errdetail_internal("%s", rule->last_error)));
		values[2] = CStringGetTextDatum(rule->last_error);
		if (SPI_execute_with_args("UPDATE orion_private.cache_rules SET failures = failures OPERATOR(pg_catalog.+) $2,"
								  " last_error = $3, last_error_at = pg_catalog.now() WHERE id OPERATOR(pg_catalog.=) $1",
								  lengthof(types), types, values, NULL, false, 0) != SPI_OK_UPDATE)
			elog(ERROR, "could not store the failures of a cache rule");
		rule->failures = 0;
	}
}
