/*
 * handler.c
 *	  SQL sinks: calls a function for each event, in the database.
 *
 * Runs in the relay of the sink, which is connected as the bootstrap superuser.
 * The cursor moves in the transaction in which the handlers work, so an event
 * takes effect exactly once.  Each call has a subtransaction: what fails is
 * parked with its envelope and called again later, and the rest flow on.
 *
 * The handler must not become more than its role.  It runs as that role in a
 * security-restricted operation: it cannot change the role, make temporary
 * objects, or leave behind a trigger that would fire at commit, when the process
 * is a superuser again.  Constraints are made immediate for that reason.  Its
 * settings are undone after the call.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "codec/topic.h"
#include "outbox/outbox.h"

#define BATCH_EVENTS	200		/* events of one transaction */
#define BATCH_RETRIES	20
#define PATIENCE_MS		5000	/* for a handler that was told to stop */
#define MAX_MESSAGE		1000	/* bytes kept of a handler's error */

static TimeoutId last_timeout = STATEMENT_TIMEOUT;	/* until it is registered */

/* In a signal handler. A function may catch a cancelled statement, but not this. */
static void
end_process(void)
{
	ProcDiePending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
}

static void
start_timeout(void)
{
	if (orion_outbox_handler_timeout == 0)
		return;
	if (last_timeout == STATEMENT_TIMEOUT)
		last_timeout = RegisterTimeout(USER_TIMEOUT, end_process);
	enable_timeout_after(STATEMENT_TIMEOUT, orion_outbox_handler_timeout);
	enable_timeout_after(last_timeout, orion_outbox_handler_timeout + PATIENCE_MS);
}

static void
stop_timeout(void)
{
	disable_timeout(STATEMENT_TIMEOUT, false);
	if (last_timeout != STATEMENT_TIMEOUT)
		disable_timeout(last_timeout, false);
	QueryCancelPending = false;
}

/* What the relay sets for its own queries (see relay.c) is not for handlers. */
static void
restore_settings(void)
{
	static const char *const names[] = {"search_path", "enable_seqscan", "enable_sort", "jit"};

	for (int i = 0; i < lengthof(names); i++)
	{
		const char *value = GetConfigOptionResetString(names[i]);

		(void) set_config_option(names[i], value ? value : "", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	}
}

static void
call_handler(const OrionSink *sink, Datum event)
{
	Oid			save_user;
	int			save_context;
	int			nest_level = NewGUCNestLevel();
	FmgrInfo	handler;

	LOCAL_FCINFO(call, 1);

	GetUserIdAndSecContext(&save_user, &save_context);
	restore_settings();
	SetUserIdAndSecContext(sink->handler_role, save_context |
						   SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	PushActiveSnapshot(GetTransactionSnapshot());
	start_timeout();
	orion_event_set_cause(DatumGetJsonbP(event));
	fmgr_info(sink->handler, &handler);
	InitFunctionCallInfoData(*call, &handler, 1, InvalidOid, NULL, NULL);
	call->args[0].value = event;
	call->args[0].isnull = false;
	(void) FunctionCallInvoke(call);	/* may well return null */
	orion_event_set_cause(NULL);
	stop_timeout();
	PopActiveSnapshot();
	AtEOXact_GUC(false, nest_level);
	SetUserIdAndSecContext(save_user, save_context);
}

/* Calls the handler in a subtransaction; NULL, or the error's message. */
static char *
try_handler(const OrionSink *sink, Datum event)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	char	   *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		call_handler(sink, event);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		orion_event_set_cause(NULL);
		stop_timeout();
		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		error = psprintf("%s: %.*s", unpack_sql_state(edata->sqlerrcode),
						 pg_mbcliplen(edata->message, strlen(edata->message), MAX_MESSAGE), edata->message);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return error;
}

/* The envelope is UTF-8 for sinks outside; here it is in the database's encoding again. */
static Datum
envelope_jsonb(const OrionEvent *event)
{
	char	   *json = pg_any_to_server(event->envelope, strlen(event->envelope), PG_UTF8);

	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json));
}

static void
execute(const char *query, int nargs, Oid *types, Datum *values)
{
	if (SPI_execute_with_args(query, nargs, types, values, NULL, false, 0) < 0)
		elog(ERROR, "could not record the fate of an event");
}

void
orion_dead_letter(int32 sink_id, int64 window, const OrionEvent *event, const char *error)
{
	Oid			types[] = {INT4OID, TEXTOID, JSONBOID, TEXTOID};
	Datum		values[] = {Int32GetDatum(sink_id),
		CStringGetTextDatum(psprintf(INT64_FORMAT ":" INT64_FORMAT, window, event->seq)),
	envelope_jsonb(event), CStringGetTextDatum(error)};

	execute("INSERT INTO orion_private.dead_letters (sink_id, position, event, attempts, error)"
			" VALUES ($1, $2, $3, 1, $4) ON CONFLICT (sink_id, position) DO NOTHING", lengthof(types), types, values);
}

/* 1 s, 2 s, 4 s, ... up to 5 minutes, each times 0.5 .. 1.5; $4 counts from 1. */
#define NEXT_TRY \
	"pg_catalog.now() + pg_catalog.make_interval(secs =>" \
	" least(300, pg_catalog.power(2, $4 - 1)) * (0.5 + pg_catalog.random()))"

/* A handler may end its own subscription; then there is nothing to keep. */
static bool
sink_exists(const OrionSink *sink)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(sink->id)};

	if (SPI_execute_with_args("SELECT FROM orion_private.sinks WHERE id = $1",
							  1, types, values, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the sinks");
	return SPI_processed == 1;
}

static void
park(const OrionSink *sink, int64 window, int64 seq, Datum event, int attempts, const char *error)
{
	Oid			types[] = {INT4OID, INT8OID, INT8OID, INT4OID, TEXTOID, JSONBOID};
	Datum		values[] = {Int32GetDatum(sink->id), Int64GetDatum(seq), Int64GetDatum(window),
	Int32GetDatum(attempts), CStringGetTextDatum(error), event};

	if (!sink_exists(sink))
		return;
	if (attempts >= orion_outbox_max_attempts)
	{
		execute("WITH gone AS (DELETE FROM orion_private.parked WHERE sink_id = $1 AND seq = $2)"
				" INSERT INTO orion_private.dead_letters (sink_id, position, event, attempts, error)"
				" VALUES ($1, pg_catalog.format('%s:%s', $3, $2), $6, $4, $5)",
				lengthof(types), types, values);
		return;
	}
	execute("INSERT INTO orion_private.parked AS p (sink_id, seq, window_no, attempts, last_error, event, next_try_at)"
			" VALUES ($1, $2, $3, $4, $5, $6, " NEXT_TRY ")"
			" ON CONFLICT (sink_id, seq) DO UPDATE SET attempts = excluded.attempts,"
			" last_error = excluded.last_error, next_try_at = excluded.next_try_at",
			lengthof(types), types, values);
}

/* Calls the handler for the rows of one read; returns how many matched. */
static int
handle_rows(const OrionSink *sink, OrionCursor *cursor, int n)
{
	SPITupleTable *rows = SPI_tuptable;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "orion event", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	int			matched = 0;

	for (int i = 0; i < n; i++)
	{
		OrionEvent *event;
		Datum		jsonb;
		char	   *error;

		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(context);
		if (!orion_topic_match(sink->pattern, orion_event_type(rows->vals[i], rows->tupdesc)))
			continue;
		event = orion_event_from_row(rows->vals[i], rows->tupdesc);
		jsonb = envelope_jsonb(event);
		error = try_handler(sink, jsonb);
		if (error)
			park(sink, orion_cursor_window(cursor), event->seq, jsonb, 1, error);
		matched++;
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	SPI_freetuptable(rows);
	return matched;
}

static void
retry_row(const OrionSink *sink, HeapTuple row, TupleDesc desc)
{
	bool		isnull;
	int64		seq = DatumGetInt64(SPI_getbinval(row, desc, 1, &isnull));
	int64		window = DatumGetInt64(SPI_getbinval(row, desc, 2, &isnull));
	int			attempts = DatumGetInt32(SPI_getbinval(row, desc, 3, &isnull));
	Datum		event = PointerGetDatum(PG_DETOAST_DATUM_COPY(SPI_getbinval(row, desc, 4, &isnull)));
	char	   *error = try_handler(sink, event);
	Oid			types[] = {INT4OID, INT8OID};
	Datum		values[] = {Int32GetDatum(sink->id), Int64GetDatum(seq)};

	if (error)
		park(sink, window, seq, event, attempts + 1, error);
	else
		execute("DELETE FROM orion_private.parked WHERE sink_id = $1 AND seq = $2",
				lengthof(types), types, values);
}

/* Calls the handler for parked events that are due. */
static void
retry_parked(const OrionSink *sink)
{
	Oid			types[] = {INT4OID, INT4OID};
	Datum		values[] = {Int32GetDatum(sink->id), Int32GetDatum(BATCH_RETRIES)};
	SPITupleTable *rows;
	uint64		n;

	if (SPI_execute_with_args("SELECT seq, window_no, attempts, event FROM orion_private.parked"
							  " WHERE sink_id = $1 AND next_try_at <= pg_catalog.now()"
							  " ORDER BY next_try_at LIMIT $2",
							  lengthof(types), types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the parked events");
	rows = SPI_tuptable;
	n = SPI_processed;
	for (uint64 i = 0; i < n; i++)
		retry_row(sink, rows->vals[i], rows->tupdesc);
	SPI_freetuptable(rows);
}

/* Milliseconds until a parked event is due, -1 when none is parked. */
static long
next_retry(const OrionSink *sink)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(sink->id)};
	TimestampTz due;
	bool		isnull;

	if (SPI_execute_with_args("SELECT pg_catalog.min(next_try_at) FROM orion_private.parked WHERE sink_id = $1",
							  1, types, values, NULL, false, 1) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not read the parked events");
	due = DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	return isnull ? -1 : TimestampDifferenceMilliseconds(GetCurrentTimestamp(), due) + 1;
}

bool
orion_handler_run(OrionSink *sink, OrionCursor *cursor, long *wait_ms)
{
	static int64 retry_at = 0;	/* skip the look at parked events until then */
	TimestampTz now = GetCurrentTimestamp();
	bool		more = orion_cursor_open(cursor);
	int			n = 0;

	if (SPI_execute("SET CONSTRAINTS ALL IMMEDIATE", false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not make constraints immediate");
	if (more)
	{
		n = orion_cursor_read(cursor, BATCH_EVENTS);
		if (n > 0)
			orion_cursor_count(cursor, handle_rows(sink, cursor, n));
		if (n == 0 || orion_cursor_at_end(cursor))
			orion_cursor_close(cursor);
	}
	if (more || orion_cursor_is_dirty(cursor))
		orion_cursor_store(cursor, orion_cursor_read_seq(cursor));
	if (n > 0 || now >= retry_at)
	{
		retry_parked(sink);
		*wait_ms = next_retry(sink);
		retry_at = *wait_ms < 0 ? DT_NOEND : TimestampTzPlusMilliseconds(now, *wait_ms);
	}
	else
		*wait_ms = retry_at == DT_NOEND ? -1 : TimestampDifferenceMilliseconds(now, retry_at) + 1;
	return more;
}
