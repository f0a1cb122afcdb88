/*
 * sink.c
 *	  Sinks: what relays read of them, and subscriptions of SQL handlers.
 *
 * A handler runs as the role that subscribed it, with that role's privileges and
 * no more.  Who that is must not be said by an argument, so orion_subscribe takes
 * the current user of its caller.  A superuser's subscription of a function that
 * somebody else could replace is refused.
 *
 * The configuration of the other sinks is sealed; its context is the sink's name.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include "codec/placeholder.h"
#include "codec/topic.h"
#include "core/compat.h"
#include "core/wake.h"
#include "outbox/outbox.h"
#include "outbox/outbox_private.h"
#include "seal/seal.h"

PG_FUNCTION_INFO_V1(orion_sinks_changed);
PG_FUNCTION_INFO_V1(orion_sink_seal);
PG_FUNCTION_INFO_V1(orion_topic_pattern_error_sql);
PG_FUNCTION_INFO_V1(orion_template_error);
PG_FUNCTION_INFO_V1(orion_topic_matches);
PG_FUNCTION_INFO_V1(orion_sink_part);
PG_FUNCTION_INFO_V1(orion_subscribe);
PG_FUNCTION_INFO_V1(orion_subscribe_alter);
PG_FUNCTION_INFO_V1(orion_unsubscribe);

Datum
orion_sinks_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("orion_sinks_changed must be called as a trigger")));
	orion_wake_at_commit(ORION_WAKE_SINKS);
	return PointerGetDatum(NULL);
}

Datum
orion_topic_pattern_error_sql(PG_FUNCTION_ARGS)
{
	const char *error = orion_topic_pattern_error(text_to_cstring(PG_GETARG_TEXT_PP(0)));

	if (error == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(error));
}

/* orion_private.template_error(template text): null when it is one */
Datum
orion_template_error(PG_FUNCTION_ARGS)
{
	char	   *template = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char		error[256];
	bool		fixed;

	if (template[0] == '\0')
		PG_RETURN_TEXT_P(cstring_to_text("it is empty"));
	if (orion_template_check(template, &fixed, error, sizeof(error)))
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(error));
}

Datum
orion_topic_matches(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(orion_topic_match(text_to_cstring(PG_GETARG_TEXT_PP(0)), text_to_cstring(PG_GETARG_TEXT_PP(1))));
}

Datum
orion_sink_part(PG_FUNCTION_ARGS)
{
	int32		workers = PG_GETARG_INT32(1);

	if (workers < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the number of workers must be 1 or more, not %d", workers)));
	PG_RETURN_INT32(orion_event_part(text_to_cstring(PG_GETARG_TEXT_PP(0)), workers));
}

static char *
seal_context(const char *name)
{
	return psprintf("sink:%s", name);
}

Datum
orion_sink_seal(PG_FUNCTION_ARGS)
{
	Jsonb	   *config = PG_GETARG_JSONB_P(0);
	char	   *json = JsonbToCString(NULL, &config->root, VARSIZE(config));
	size_t		len = strlen(json);
	bytea	   *sealed = orion_seal(json, len, seal_context(text_to_cstring(PG_GETARG_TEXT_PP(1))));

	explicit_bzero(json, len);
	PG_RETURN_BYTEA_P(sealed);
}

const char *
orion_handler_problem(Oid function, Oid role)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	const char *problem = NULL;
	Form_pg_proc proc;

	if (!HeapTupleIsValid(tuple))
		return "the function does not exist";
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	if (proc->prokind != PROKIND_FUNCTION || proc->proretset || proc->pronargs != 1 ||
		proc->proargtypes.values[0] != JSONBOID)
		problem = "the function does not take one jsonb argument and return one value";
	else if (isAnyTempNamespace(proc->pronamespace))
		problem = "it is temporary: its schema is somebody else's the next time";
	else if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(role)))
		problem = "the role that it would run as does not exist";
	else if (orion_acl_function(function, role) != ACLCHECK_OK)
		problem = "the role that it would run as may not execute it";
	else if (superuser_arg(role) && !superuser_arg(proc->proowner))
		problem = "the role that it would run as is a superuser, but its owner is not";
	ReleaseSysCache(tuple);
	return problem;
}

static void
add_subscription(FunctionCallInfo fcinfo, const char *signature, Oid role, Datum *id)
{
	Oid			types[] = {TEXTOID, TEXTOID, TEXTOID, OIDOID, INT4OID, INT4OID, INT4OID, INTERVALOID};
	Datum		values[] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1), CStringGetTextDatum(signature), ObjectIdGetDatum(role),
	PG_GETARG_DATUM(3), PG_GETARG_DATUM(4), PG_GETARG_DATUM(5), PG_GETARG_DATUM(6)};
	char		nulls[] = {' ', ' ', ' ', ' ', ' ', ' ', ' ', ' '};
	bool		isnull;

	for (int i = 0; i < lengthof(values); i++)
	{
		int			arg = i < 2 ? i : i - 1;

		if (i != 2 && i != 3 && PG_ARGISNULL(arg))
			nulls[i] = 'n';
	}

	SPI_connect();
	if (SPI_execute_with_args("SELECT orion_private.sink_add($1, 'sql', $2, NULL, $3, $4::pg_catalog.regrole,"
							  " $5, $6, $7, $8)",
							  lengthof(types), types, values, nulls, false, 1) != SPI_OK_SELECT ||
		SPI_processed != 1)
		elog(ERROR, "could not add a sink");
	*id = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	SPI_finish();
}

/* May the caller have it called for events? */
static void
check_handler(Oid handler)
{
	const char *problem = orion_handler_problem(handler, GetUserId());

	if (problem)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot subscribe %s", format_procedure(handler)),
				 errdetail_internal("%s", problem)));
}

Datum
orion_subscribe(PG_FUNCTION_ARGS)
{
	OrionUser	caller;
	Datum		id;

	if (PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the handler must not be null")));
	check_handler(PG_GETARG_OID(2));
	caller = orion_become_owner();
	add_subscription(fcinfo, format_procedure_qualified(PG_GETARG_OID(2)), caller.user, &id);
	orion_become_again(caller);
	return id;
}

static bool
may_change(Oid caller, Oid subscriber)
{
	Oid			admin = get_role_oid("orion_admin", true);

	return has_privs_of_role(caller, subscriber) ||
		(OidIsValid(admin) && has_privs_of_role(caller, admin));
}

/* The subscription with the name that is the first argument, if the caller may change it. */
static int32
find_subscription(FunctionCallInfo fcinfo, Oid caller)
{
	Oid			types[] = {TEXTOID};
	Datum		name;
	bool		isnull;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the name of a subscription must not be null")));
	name = PG_GETARG_DATUM(0);
	if (SPI_execute_with_args("SELECT id, handler_role::pg_catalog.oid FROM orion_private.sinks"
							  " WHERE name OPERATOR(pg_catalog.=) $1 AND kind OPERATOR(pg_catalog.=) 'sql'",
							  1, types, &name, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the sinks");
	if (SPI_processed == 0 ||
		!may_change(caller, DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull))))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("there is no subscription named \"%s\" of yours", TextDatumGetCString(name))));
	return DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

/*
 * A handler that is given here runs as the caller, as with orion_subscribe: else who may
 * change a subscription could have a function of theirs run as who subscribed.
 */
Datum
orion_subscribe_alter(PG_FUNCTION_ARGS)
{
	Oid			types[] = {INT4OID, TEXTOID, TEXTOID, OIDOID, INT4OID, INT4OID, INT4OID, INTERVALOID};
	Datum		values[lengthof(types)];
	char		nulls[lengthof(types)];
	OrionUser	caller;

	if (!PG_ARGISNULL(2))
		check_handler(PG_GETARG_OID(2));
	caller = orion_become_owner();
	SPI_connect();
	memset(nulls, ' ', sizeof(nulls));
	values[0] = Int32GetDatum(find_subscription(fcinfo, caller.user));
	for (int i = 1; i < lengthof(types); i++)
	{
		int			arg = i < 3 ? i : i - 1;

		nulls[i] = PG_ARGISNULL(arg) ? 'n' : ' ';
		values[i] = PG_GETARG_DATUM(arg);
	}
	if (!PG_ARGISNULL(2))
		values[2] = CStringGetTextDatum(format_procedure_qualified(PG_GETARG_OID(2)));
	values[3] = ObjectIdGetDatum(caller.user);
	nulls[3] = ' ';
	if (SPI_execute_with_args("SELECT orion_private.subscription_alter($1, $2, $3, $4::pg_catalog.regrole, $5, $6, $7, $8)",
							  lengthof(types), types, values, nulls, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not alter a sink");
	SPI_finish();
	orion_become_again(caller);
	PG_RETURN_VOID();
}

Datum
orion_unsubscribe(PG_FUNCTION_ARGS)
{
	Oid			types[] = {INT4OID};
	Datum		id;
	OrionUser	caller;

	caller = orion_become_owner();
	SPI_connect();
	id = Int32GetDatum(find_subscription(fcinfo, caller.user));
	if (SPI_execute_with_args("DELETE FROM orion_private.sinks WHERE id OPERATOR(pg_catalog.=) $1",
							  1, types, &id, NULL, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not delete a sink");
	SPI_finish();
	orion_become_again(caller);
	PG_RETURN_VOID();
}

static char *
copy_column(OrionSink *sink, int number)
{
	char	   *value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, number);

	return value ? MemoryContextStrdup(sink->context, value) : NULL;
}

static void
load_config(OrionSink *sink, int number)
{
	bool		isnull;
	Datum		sealed = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, number, &isnull);
	bytea	   *config;

	if (isnull)
		return;
	config = orion_unseal(DatumGetByteaPP(sealed), seal_context(sink->name));
	sink->config = MemoryContextAllocZero(sink->context, VARSIZE_ANY_EXHDR(config) + 1);
	memcpy(sink->config, VARDATA_ANY(config), VARSIZE_ANY_EXHDR(config));
	explicit_bzero(VARDATA_ANY(config), VARSIZE_ANY_EXHDR(config));
}

static int32
int32_column(int number, int32 if_null)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, number, &isnull);

	return isnull ? if_null : DatumGetInt32(value);
}

OrionSink *
orion_sink_load(int32 sink_id, int32 part)
{
	Oid			types[] = {INT4OID, INT4OID};
	Datum		values[] = {Int32GetDatum(sink_id), Int32GetDatum(part)};
	MemoryContext context;
	OrionSink  *sink;
	bool		isnull;

	if (SPI_execute_with_args("SELECT s.name, s.kind, s.pattern, s.paused, s.config,"
							  " pg_catalog.to_regprocedure(s.handler)::pg_catalog.oid, s.handler_role::pg_catalog.oid,"
							  " s.workers, s.batch, s.max_attempts, s.timeout_ms, c.epoch"
							  " FROM orion_private.sinks s JOIN orion_private.cursors c"
							  " ON c.sink_id OPERATOR(pg_catalog.=) s.id AND c.part OPERATOR(pg_catalog.=) $2"
							  " WHERE s.id OPERATOR(pg_catalog.=) $1",
							  lengthof(types), types, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read sink %d", sink_id);
	if (SPI_processed == 0)
		return NULL;
	context = AllocSetContextCreate(TopMemoryContext, "orion sink", ALLOCSET_SMALL_SIZES);
	sink = MemoryContextAllocZero(context, sizeof(OrionSink));
	sink->context = context;
	sink->id = sink_id;
	sink->name = copy_column(sink, 1);
	sink->kind = copy_column(sink, 2);
	sink->pattern = copy_column(sink, 3);
	sink->paused = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 4, &isnull));
	load_config(sink, 5);
	sink->part = part;
	sink->workers = int32_column(8, 1);
	sink->batch = int32_column(9, 1);
	sink->max_attempts = int32_column(10, orion_outbox_max_attempts);
	sink->timeout_ms = int32_column(11, orion_outbox_handler_timeout);
	sink->epoch = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 12, &isnull));
	if (strcmp(sink->kind, "sql") == 0)
	{
		sink->handler = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 6, &isnull));
		sink->handler_role = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 7, &isnull));
		sink->problem = orion_handler_problem(sink->handler, sink->handler_role);
	}
	return sink;
}

void
orion_sink_free(OrionSink *sink)
{
	if (sink == NULL)
		return;
	if (sink->config)
		explicit_bzero(sink->config, strlen(sink->config));
	MemoryContextDelete(sink->context);
}
