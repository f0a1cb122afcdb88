/*
 * inbound.c
 *	  Consumers of queues: how they are made, and what their workers read and record.
 *
 * A handler runs as the role that made the consumer, with that role's privileges and no
 * more.  Who that is must not be said by an argument, so orion_consume takes the current
 * user of its caller, as orion_subscribe does.
 *
 * Messages come from strangers: nothing in them is believed, and bytes become text or
 * JSON in the functions of inbound.sql only, which catch what cannot be converted.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/timestamp.h"

#include "inbound/inbound.h"
#include "outbox/outbox.h"
#include "seal/seal.h"

PG_FUNCTION_INFO_V1(orion_consume);
PG_FUNCTION_INFO_V1(orion_consumer_seal);


static int	max_attempts = 8;
static int	handler_timeout = 30000;	/* ms, 0 = none */
static int	retention = 10080;	/* minutes */

static char *
seal_context(const char *name)
{
	return psprintf("consumer:%s", name);
}

Datum
orion_consumer_seal(PG_FUNCTION_ARGS)
{
	Jsonb	   *config = PG_GETARG_JSONB_P(0);
	char	   *json = JsonbToCString(NULL, &config->root, VARSIZE(config));
	size_t		len = strlen(json);
	bytea	   *sealed = orion_seal(json, len, seal_context(text_to_cstring(PG_GETARG_TEXT_PP(1))));

	explicit_bzero(json, len);
	PG_RETURN_BYTEA_P(sealed);
}

static Datum
add_consumer(FunctionCallInfo fcinfo, const char *signature, Oid role)
{
	Oid			types[] = {TEXTOID, JSONBOID, TEXTOID, OIDOID, INT4OID, INTERVALOID};
	Datum		values[] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1), CStringGetTextDatum(signature), ObjectIdGetDatum(role),
	PG_GETARG_DATUM(3), PG_GETARG_DATUM(4)};
	char		nulls[] = {PG_ARGISNULL(0) ? 'n' : ' ', PG_ARGISNULL(1) ? 'n' : ' ', ' ', ' ',
	PG_ARGISNULL(3) ? 'n' : ' ', PG_ARGISNULL(4) ? 'n' : ' '};
	bool		isnull;
	Datum		id;

	SPI_connect();
	if (SPI_execute_with_args("SELECT orion_private.consumer_add($1, $2, $3, $4::pg_catalog.regrole, $5, $6)",
							  lengthof(types), types, values, nulls, false, 1) != SPI_OK_SELECT ||
		SPI_processed != 1)
		elog(ERROR, "could not add a consumer");
	id = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	SPI_finish();
	return id;
}

Datum
orion_consume(PG_FUNCTION_ARGS)
{
	const char *problem;
	OrionUser	caller;
	Datum		id;

	if (PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the handler must not be null")));
	problem = orion_handler_problem(PG_GETARG_OID(2), GetUserId());
	if (problem)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot give messages to %s", format_procedure(PG_GETARG_OID(2))),
				 errdetail_internal("%s", problem)));
	caller = orion_become_owner();
	id = add_consumer(fcinfo, format_procedure_qualified(PG_GETARG_OID(2)), caller.user);
	orion_become_again(caller);
	return id;
}

/* ---- for the worker ---- */

static int32
int32_column(int number, int32 if_null)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, number, &isnull);

	return isnull ? if_null : DatumGetInt32(value);
}

static Oid
oid_column(int number)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, number, &isnull);

	return isnull ? InvalidOid : DatumGetObjectId(value);
}

static void
load_config(OrionConsumer *consumer, int number)
{
	bool		isnull;
	Datum		sealed = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, number, &isnull);
	bytea	   *config = orion_unseal(DatumGetByteaPP(sealed), seal_context(consumer->name));

	consumer->config = MemoryContextAllocZero(consumer->context, VARSIZE_ANY_EXHDR(config) + 1);
	memcpy(consumer->config, VARDATA_ANY(config), VARSIZE_ANY_EXHDR(config));
	explicit_bzero(VARDATA_ANY(config), VARSIZE_ANY_EXHDR(config));
}

OrionConsumer *
orion_consumer_load(int32 id)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(id)};
	MemoryContext context;
	OrionConsumer *consumer;
	bool		isnull;

	if (SPI_execute_with_args("SELECT name, config, paused, max_body, max_attempts, timeout_ms,"
							  " pg_catalog.to_regprocedure(handler)::pg_catalog.oid, handler_role::pg_catalog.oid"
							  " FROM orion_private.consumers WHERE id OPERATOR(pg_catalog.=) $1",
							  1, types, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read consumer %d", id);
	if (SPI_processed == 0)
		return NULL;
	context = AllocSetContextCreate(TopMemoryContext, "orion consumer", ALLOCSET_SMALL_SIZES);
	consumer = MemoryContextAllocZero(context, sizeof(OrionConsumer));
	consumer->context = context;
	consumer->id = id;
	consumer->name = MemoryContextStrdup(context, SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
	load_config(consumer, 2);
	consumer->paused = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 3, &isnull));
	consumer->max_body = int32_column(4, 0);
	consumer->max_attempts = int32_column(5, max_attempts);
	consumer->timeout_ms = int32_column(6, handler_timeout);
	consumer->handler = oid_column(7);
	consumer->handler_role = oid_column(8);
	consumer->problem = orion_handler_problem(consumer->handler, consumer->handler_role);
	return consumer;
}

void
orion_consumer_free(OrionConsumer *consumer)
{
	if (consumer == NULL)
		return;
	explicit_bzero(consumer->config, strlen(consumer->config));
	MemoryContextDelete(consumer->context);
}

/* ---- the inbox ---- */

#define MESSAGE		"ROW($2, $3, $4, $5, $6, $7, $8)::orion_private.inbox_message"
#define MESSAGE_ARGUMENTS	8	/* with the consumer */

static const Oid argument_types[] = {INT4OID, BOOLOID, BOOLOID, BYTEAOID, BYTEAOID, BYTEAOID, BYTEAOID, BYTEAOID,
TEXTOID, INT4OID, BOOLOID, BOOLOID};

static Datum
bytea_of(const OrionInboundBytes *bytes)
{
	bytea	   *result = palloc(VARHDRSZ + bytes->len);

	SET_VARSIZE(result, VARHDRSZ + bytes->len);
	memcpy(VARDATA(result), bytes->str, bytes->len);
	return PointerGetDatum(result);
}

static void
run(SPIPlanPtr *plan, const char *query, int nargs, Datum *values, const OrionConsumer *consumer, const OrionInboundMessage *message)
{
	char		nulls[lengthof(argument_types)];

	memset(nulls, ' ', sizeof(nulls));
	values[0] = Int32GetDatum(consumer->id);
	values[1] = BoolGetDatum(message->has_id);
	values[2] = BoolGetDatum(message->redelivered);
	values[3] = bytea_of(&message->id);
	values[4] = bytea_of(&message->exchange);
	values[5] = bytea_of(&message->routing_key);
	values[6] = bytea_of(&message->properties);
	values[7] = message->too_long ? (Datum) 0 : bytea_of(&message->body);
	if (message->too_long)
		nulls[7] = 'n';
	if (*plan == NULL)
	{
		SPIPlanPtr	prepared = SPI_prepare(query, nargs, (Oid *) argument_types);

		if (prepared == NULL || SPI_keepplan(prepared) != 0)
			elog(ERROR, "could not prepare a query of the inbox: %s", SPI_result_code_string(SPI_result));
		*plan = prepared;
	}
	if (SPI_execute_plan(*plan, values, nulls, false, 1) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not look into the inbox");
}

OrionInboundVerdict
orion_inbound_take(const OrionConsumer *consumer, const OrionInboundMessage *message, Datum *event, int64 *pause_ms)
{
	static SPIPlanPtr plan = NULL;
	Datum		values[MESSAGE_ARGUMENTS];
	HeapTuple	row;
	TupleDesc	desc;
	bool		isnull;
	char	   *verdict;

	run(&plan, "SELECT verdict, pause, message FROM orion_private.inbox_take($1, " MESSAGE ")",
		lengthof(values), values, consumer, message);
	row = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	verdict = SPI_getvalue(row, desc, 1);
	if (strcmp(verdict, "wait") == 0)
	{
		*pause_ms = DatumGetInt64(SPI_getbinval(row, desc, 2, &isnull));
		return ORION_INBOUND_WAIT;
	}
	if (strcmp(verdict, "refuse") == 0)
		return ORION_INBOUND_REFUSE;
	if (strcmp(verdict, "call") != 0)
		return ORION_INBOUND_SETTLED;
	*event = PointerGetDatum(PG_DETOAST_DATUM_COPY(SPI_getbinval(row, desc, 3, &isnull)));
	return ORION_INBOUND_CALL;
}

int64
orion_inbound_failed(const OrionConsumer *consumer, const OrionInboundMessage *message, const char *error, bool count, bool over)
{
	static SPIPlanPtr plan = NULL;
	Datum		values[lengthof(argument_types)];
	bool		isnull;

	values[8] = CStringGetTextDatum(error);
	values[9] = Int32GetDatum(consumer->max_attempts);
	values[10] = BoolGetDatum(count);
	values[11] = BoolGetDatum(over);
	run(&plan, "SELECT orion_private.inbox_fail($1, " MESSAGE ", $9, $10, $11, $12)", lengthof(values), values, consumer, message);
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

/* ---- dead letters once more ---- */

int64
orion_inbound_redrive_next(const OrionConsumer *consumer)
{
	Oid			types[] = {INT4OID, INT4OID};
	Datum		values[] = {Int32GetDatum(consumer->id), Int32GetDatum(consumer->max_attempts)};
	bool		isnull;

	if (SPI_execute_with_args("SELECT orion_private.inbox_redrive_next($1, $2)",
							  lengthof(types), types, values, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look for dead letters");
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

bool
orion_inbound_redrive_take(const OrionConsumer *consumer, int64 letter, Datum *event)
{
	Oid			types[] = {INT4OID, INT8OID};
	Datum		values[] = {Int32GetDatum(consumer->id), Int64GetDatum(letter)};
	bool		isnull;
	Datum		message;

	if (SPI_execute_with_args("SELECT orion_private.inbox_redrive_take($1, $2)",
							  lengthof(types), types, values, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not take a dead letter");
	message = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	if (!isnull)
		*event = PointerGetDatum(PG_DETOAST_DATUM_COPY(message));
	return !isnull;
}

void
orion_inbound_redrive_failed(const OrionConsumer *consumer, int64 letter, const char *error)
{
	Oid			types[] = {INT4OID, INT8OID, TEXTOID, INT4OID};
	Datum		values[] = {Int32GetDatum(consumer->id), Int64GetDatum(letter), CStringGetTextDatum(error),
	Int32GetDatum(consumer->max_attempts)};

	if (SPI_execute_with_args("SELECT orion_private.inbox_redrive_fail($1, $2, $3, $4)",
							  lengthof(types), types, values, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not note the error of a dead letter");
}

/* ---- maintenance and settings ---- */

void
orion_inbound_maintain(void)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(retention)};

	if (SPI_execute_with_args("SELECT orion_private.inbox_maintain(pg_catalog.make_interval(mins => $1))",
							  1, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not look after the inbox");
}

void
orion_inbound_init(void)
{
	DefineCustomIntVariable("orion.inbound_max_attempts",
							"How often a message is given to a failing SQL handler before it becomes a dead letter.",
							NULL,
							&max_attempts, 8, 1, 100,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("orion.inbound_handler_timeout",
							"How long a SQL handler may work on one message.",
							"0 turns the limit off.",
							&handler_timeout, 30000, 0, 86400000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("orion.inbound_retention",
							"How long the inbox remembers the ids of messages that were handled.",
							"A message that comes again later than that is handled again.",
							&retention, 10080, 1, 5256000,
							PGC_SIGHUP, GUC_UNIT_MIN, NULL, NULL, NULL);
}
