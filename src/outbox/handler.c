/*
 * handler.c
 *	  SQL sinks: calls a function for each event, in the database.
 *
 * Runs in the relays of the sink, which are connected as the bootstrap superuser.  A
 * sink with several workers has a relay and a cursor for each; each reads everything
 * and serves the keys (aggregatetype and aggregateid) whose hash falls to it.
 *
 * The cursor moves in the transaction in which the handlers work, so an event takes
 * effect exactly once.  The calls of a batch share a subtransaction; when it fails, each
 * has one of its own.  An event that fails is parked with its envelope and called again
 * later.  Later events of the same key wait behind it, so that a key's order holds; the
 * rest flow on.  What fails too often becomes a dead letter, and its key goes on.
 *
 * call.c sees to it that a handler does not become more than its role.  Constraints are
 * made immediate, so that no trigger of its making waits for a commit by a superuser.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "outbox/outbox.h"

#define BATCH_RETRIES	20

static bool parked_known = false;	/* last_look holds: nothing was parked
									 * since */

/* What is given to the handler in one subtransaction. */
typedef struct Batch
{
	const OrionSink *sink;
	SPITupleTable *rows;		/* of the outbox; NULL: event is all there is */
	const bool *call;			/* which of the rows */
	int			first;
	int			last;
	bool		replayed;
	Datum		event;
} Batch;

static void
call_for_batch(void *arg)
{
	const Batch *batch = arg;
	const OrionSink *sink = batch->sink;
	OrionHandlerCall call = {sink->handler, sink->handler_role, sink->timeout_ms, false};
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "orion event", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = CurrentMemoryContext;
	FmgrInfo	handler;

	fmgr_info(call.function, &handler);
	if (batch->rows == NULL)
		orion_handler_invoke(&call, &handler, batch->event, NULL);
	for (int i = batch->first; batch->rows && i <= batch->last; i++)
	{
		if (!batch->call[i])
			continue;
		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(context);
		orion_handler_invoke(&call, &handler,
							 orion_event_jsonb(batch->rows->vals[i], batch->rows->tupdesc, batch->replayed), NULL);
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
	}
	MemoryContextDelete(context);
}

/* In a subtransaction; NULL, or the message of the error that undid it. */
static char *
try_batch(const Batch *batch)
{
	return orion_handler_try(call_for_batch, unconstify(Batch *, batch), false);
}

/* ---- queries; their plans are kept ---- */

typedef enum HandlerQuery
{
	ANY_PARKED,					/* $1 sink, $2 part: an event with a key */
	KEY_PARKED,					/* $1 sink, $2 part, $3 key */
	SINK_EXISTS,				/* $1 sink */
	PARK,						/* $1 sink .. $9 seconds */
	UNPARK,						/* $1 sink, $2 part, $3 window, $4 seq */
	BURY,						/* as a dead letter */
	DUE,						/* $1 sink, $2 part, $3 max */
	LANE,						/* $1 sink, $2 part, $3 key, $4 max: in order */
	CALL_LANE,					/* $1 sink, $2 part, $3 key */
	NEXT_DUE,					/* $1 sink, $2 part */
	NOT_YET,					/* $1 sink, $2 part, $3 window, $4 seq: waits
								 * for its key */
	QUERIES,
} HandlerQuery;

#define MAX_ARGUMENTS	9

static const struct
{
	const char *text;
	Oid			types[MAX_ARGUMENTS + 1];	/* up to 0 */
}			queries[QUERIES] = {

	[ANY_PARKED] = {"SELECT FROM orion_private.parked WHERE sink_id = $1 AND part = $2 AND key IS NOT NULL LIMIT 1",
	{INT4OID, INT4OID}},
	[KEY_PARKED] = {"SELECT FROM orion_private.parked WHERE sink_id = $1 AND part = $2 AND key = $3 LIMIT 1",
	{INT4OID, INT4OID, TEXTOID}},
	[SINK_EXISTS] = {"SELECT FROM orion_private.sinks WHERE id = $1", {INT4OID}},

	/*
	 * 1 s, 2 s, 4 s, ... up to 5 minutes, each times 0.5 .. 1.5; without
	 * attempts it waits for its key
	 */
	[PARK] = {"INSERT INTO orion_private.parked AS p"
		" (sink_id, part, window_no, seq, key, event, attempts, last_error, next_try_at)"
		" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, CASE WHEN $7 > 0 THEN pg_catalog.now() + pg_catalog.make_interval(secs =>"
		" least(300, pg_catalog.power(2, $7 - 1)) * (0.5 + pg_catalog.random())) END)"
		" ON CONFLICT (sink_id, part, window_no, seq) DO UPDATE SET attempts = excluded.attempts,"
		" last_error = excluded.last_error, next_try_at = excluded.next_try_at",
	{INT4OID, INT4OID, INT8OID, INT8OID, TEXTOID, JSONBOID, INT4OID, TEXTOID}},
	[UNPARK] = {"DELETE FROM orion_private.parked WHERE sink_id = $1 AND part = $2 AND window_no = $3 AND seq = $4",
	{INT4OID, INT4OID, INT8OID, INT8OID}},
	[BURY] = {"INSERT INTO orion_private.dead_letters (sink_id, part, position, key, event, attempts, error)"
		" VALUES ($1, $2, pg_catalog.format('%s:%s', $3, $4), $5, $6, $7, $8)"
		" ON CONFLICT (sink_id, part, position) DO UPDATE SET attempts = excluded.attempts, error = excluded.error",
	{INT4OID, INT4OID, INT8OID, INT8OID, TEXTOID, JSONBOID, INT4OID, TEXTOID}},
	[DUE] = {"SELECT window_no, seq, attempts, key, event FROM orion_private.parked"
		" WHERE sink_id = $1 AND part = $2 AND next_try_at <= pg_catalog.now() ORDER BY next_try_at LIMIT $3",
	{INT4OID, INT4OID, INT4OID}},
	[LANE] = {"SELECT window_no, seq, attempts, key, event FROM orion_private.parked"
		" WHERE sink_id = $1 AND part = $2 AND key = $3 ORDER BY window_no, seq LIMIT $4",
	{INT4OID, INT4OID, TEXTOID, INT4OID}},
	[CALL_LANE] = {"UPDATE orion_private.parked p SET next_try_at = pg_catalog.now() FROM"
		" (SELECT window_no, seq FROM orion_private.parked WHERE sink_id = $1 AND part = $2 AND key = $3"
		" ORDER BY window_no, seq LIMIT 1) f"
		" WHERE p.sink_id = $1 AND p.part = $2 AND p.window_no = f.window_no AND p.seq = f.seq",
	{INT4OID, INT4OID, TEXTOID}},
	[NOT_YET] = {"UPDATE orion_private.parked SET next_try_at = NULL"
		" WHERE sink_id = $1 AND part = $2 AND window_no = $3 AND seq = $4",
	{INT4OID, INT4OID, INT8OID, INT8OID}},
	[NEXT_DUE] = {"SELECT next_try_at, attempts, last_error FROM orion_private.parked"
		" WHERE sink_id = $1 AND part = $2 AND next_try_at IS NOT NULL ORDER BY next_try_at LIMIT 1",
	{INT4OID, INT4OID}},
};

/* Returns the number of rows. */
static uint64
run_query(HandlerQuery query, Datum *values, const char *nulls)
{
	static SPIPlanPtr plans[QUERIES];
	int			nargs = 0;

	if (plans[query] == NULL)
	{
		while (queries[query].types[nargs])
			nargs++;
		plans[query] = SPI_prepare(queries[query].text, nargs, (Oid *) queries[query].types);
		if (plans[query] == NULL || SPI_keepplan(plans[query]) != 0)
			elog(ERROR, "could not prepare a query of parked events: %s", SPI_result_code_string(SPI_result));
	}
	if (SPI_execute_plan(plans[query], values, nulls, false, 0) < 0)
		elog(ERROR, "could not record the fate of an event");
	return SPI_processed;
}

/* An event that is parked, or is to be. */
typedef struct Parked
{
	int64		window;
	int64		seq;
	char	   *key;			/* NULL when it has no order */
	Datum		event;
	int			attempts;		/* 0: waits for an earlier one of its key */
} Parked;

static void
park_or_bury(const OrionSink *sink, const Parked *parked, const char *error)
{
	Datum		values[] = {Int32GetDatum(sink->id), Int32GetDatum(sink->part), Int64GetDatum(parked->window),
		Int64GetDatum(parked->seq), parked->key ? CStringGetTextDatum(parked->key) : (Datum) 0, parked->event,
	Int32GetDatum(parked->attempts), error ? CStringGetTextDatum(error) : (Datum) 0};
	char		nulls[] = {' ', ' ', ' ', ' ', parked->key ? ' ' : 'n', ' ', ' ', error ? ' ' : 'n'};

	parked_known = false;
	/* A handler may end its own subscription; then there is nothing to keep. */
	if (run_query(SINK_EXISTS, values, NULL) == 0)
		return;
	if (parked->attempts < sink->max_attempts)
		run_query(PARK, values, nulls);
	else
	{
		run_query(UNPARK, values, NULL);
		run_query(BURY, values, nulls);
	}
}

void
orion_dead_letter(int32 sink_id, int64 window, const OrionEvent *event, const char *error)
{
	char	   *json = pg_any_to_server(event->envelope, strlen(event->envelope), PG_UTF8);
	Datum		values[] = {Int32GetDatum(sink_id), Int32GetDatum(0), Int64GetDatum(window), Int64GetDatum(event->seq),
	(Datum) 0, DirectFunctionCall1(jsonb_in, CStringGetDatum(json)), Int32GetDatum(1), CStringGetTextDatum(error)};
	char		nulls[] = {' ', ' ', ' ', ' ', 'n', ' ', ' ', ' '};

	run_query(BURY, values, nulls);
}

/* ---- new events ---- */

/* Events of one key have one worker, so that they keep their order; others go anywhere. */
static bool
is_mine(const OrionSink *sink, const char *key, HeapTuple row, TupleDesc desc)
{
	if (sink->workers == 1)
		return true;
	if (key == NULL)
		key = orion_event_id(row, desc);
	return orion_event_part(key, sink->workers) == sink->part;
}

static bool
key_is_parked(const OrionSink *sink, const char *key)
{
	Datum		values[] = {Int32GetDatum(sink->id), Int32GetDatum(sink->part), (Datum) 0};

	if (key == NULL)
		return false;
	values[2] = CStringGetTextDatum(key);
	return run_query(KEY_PARKED, values, NULL) > 0;
}

static void
park_row(const OrionSink *sink, const OrionCursor *cursor, const Batch *batch, int row, const char *error)
{
	HeapTuple	tuple = batch->rows->vals[row];
	TupleDesc	desc = batch->rows->tupdesc;
	Parked		parked = {
		.window = orion_cursor_window(cursor),
		.seq = orion_event_seq(tuple, desc),
		.key = orion_event_key(tuple, desc),
		.event = orion_event_jsonb(tuple, desc, batch->replayed),
		.attempts = error ? 1 : 0,
	};

	park_or_bury(sink, &parked, error);
}

/* One by one, after the batch as a whole has failed. Returns how many went well. */
static int
handle_each(const OrionSink *sink, const OrionCursor *cursor, const Batch *all, int n, bool *held)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "orion event", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	bool		any_failed = false;
	int			handled = 0;

	for (int i = 0; i < n; i++)
	{
		Batch		one = *all;
		char	   *error;

		MemoryContextReset(context);
		if (held[i] || !all->call[i])
			continue;
		held[i] = any_failed && key_is_parked(sink, orion_event_key(all->rows->vals[i], all->rows->tupdesc));
		if (held[i])
		{
			park_row(sink, cursor, all, i, NULL);
			continue;
		}
		one.first = one.last = i;
		error = try_batch(&one);
		if (error)
			park_row(sink, cursor, all, i, error);
		else
			handled++;
		any_failed |= error != NULL;
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return handled;
}

/* Marks which of the rows are to be called for now, and which wait for an earlier one of their key. */
static int
sort_rows(const OrionSink *sink, const OrionCursor *cursor, SPITupleTable *rows, int n, bool *call, bool *held)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "orion event", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Datum		values[] = {Int32GetDatum(sink->id), Int32GetDatum(sink->part)};
	bool		any_parked = run_query(ANY_PARKED, values, NULL) > 0;
	int			calls = 0;

	for (int i = 0; i < n; i++)
	{
		char	   *key;

		MemoryContextReset(context);
		if (!orion_cursor_wants(cursor, sink->pattern, rows->vals[i], rows->tupdesc))
			continue;
		key = sink->workers > 1 || any_parked ? orion_event_key(rows->vals[i], rows->tupdesc) : NULL;
		if (!is_mine(sink, key, rows->vals[i], rows->tupdesc))
			continue;
		held[i] = any_parked && key_is_parked(sink, key);
		call[i] = !held[i];
		calls += call[i];
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return calls;
}

/*
 * Calls the handler for the rows of one read; returns how many calls went well.  All of
 * them in one subtransaction: only when that fails each has its own, to find which it was.
 */
static int
handle_rows(const OrionSink *sink, const OrionCursor *cursor, int n)
{
	bool	   *call = palloc0(n);
	bool	   *held = palloc0(n);
	Batch		batch = {.sink = sink,.rows = SPI_tuptable,.call = call,.last = n - 1,
	.replayed = orion_cursor_replays(cursor)};
	int			calls = sort_rows(sink, cursor, batch.rows, n, call, held);

	for (int i = 0; i < n; i++)
	{
		if (held[i])
			park_row(sink, cursor, &batch, i, NULL);
	}
	if (calls > 0 && try_batch(&batch) != NULL)
		calls = handle_each(sink, cursor, &batch, n, held);
	SPI_freetuptable(batch.rows);
	pfree(call);
	pfree(held);
	return calls;
}

/* ---- parked events ---- */

static void
read_parked(Parked *parked, int row)
{
	HeapTuple	tuple = SPI_tuptable->vals[row];
	TupleDesc	desc = SPI_tuptable->tupdesc;
	bool		isnull;
	Datum		key;

	parked->window = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull));
	parked->seq = DatumGetInt64(SPI_getbinval(tuple, desc, 2, &isnull));
	parked->attempts = DatumGetInt32(SPI_getbinval(tuple, desc, 3, &isnull));
	key = SPI_getbinval(tuple, desc, 4, &isnull);
	parked->key = isnull ? NULL : TextDatumGetCString(key);
	parked->event = PointerGetDatum(PG_DETOAST_DATUM_COPY(SPI_getbinval(tuple, desc, 5, &isnull)));
}

/* False when it failed and is to be tried again. */
static bool
retry(const OrionSink *sink, Parked *parked, int *handled)
{
	Batch		batch = {.sink = sink,.event = parked->event};
	char	   *error = try_batch(&batch);
	Datum		values[] = {Int32GetDatum(sink->id), Int32GetDatum(sink->part),
	Int64GetDatum(parked->window), Int64GetDatum(parked->seq)};

	if (error == NULL)
	{
		run_query(UNPARK, values, NULL);
		(*handled)++;
		return true;
	}
	parked->attempts++;
	park_or_bury(sink, parked, error);
	return parked->attempts >= sink->max_attempts;
}

/* The parked events of one key, in their order, up to one that fails. Returns how many were tried. */
static int
retry_lane(const OrionSink *sink, const char *key, int64 *window, int64 *seq, int *handled)
{
	Datum		values[] = {Int32GetDatum(sink->id), Int32GetDatum(sink->part), CStringGetTextDatum(key), Int32GetDatum(1)};
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "orion event", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	bool		go_on = true;
	int			tried = 0;

	while (go_on && tried < sink->batch)
	{
		Parked		parked;

		MemoryContextReset(context);
		if (run_query(LANE, values, NULL) == 0)
			break;
		read_parked(&parked, 0);
		go_on = retry(sink, &parked, handled);
		*window = parked.window;
		*seq = parked.seq;
		tried++;
	}
	if (go_on)
		run_query(CALL_LANE, values, NULL);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return tried;
}

/* Only the first of a key may be due: one that is not, or no more, waits for its turn. */
static int
retry_due_lane(const OrionSink *sink, const Parked *due, int *handled)
{
	int64		window = due->window;
	int64		seq = due->seq;
	int			tried = retry_lane(sink, due->key, &window, &seq, handled);
	Datum		values[] = {Int32GetDatum(sink->id), Int32GetDatum(sink->part),
	Int64GetDatum(due->window), Int64GetDatum(due->seq)};

	if (window < due->window || (window == due->window && seq < due->seq))
		run_query(NOT_YET, values, NULL);
	return Max(tried, 1);
}

/* Calls the handler for parked events that are due. Returns how many there were. */
static int
retry_parked(const OrionSink *sink, int *handled)
{
	Datum		values[] = {Int32GetDatum(sink->id), Int32GetDatum(sink->part), Int32GetDatum(1)};
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "orion event", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	int			tried = 0;

	while (tried < BATCH_RETRIES && run_query(DUE, values, NULL) > 0)
	{
		Parked		parked;

		CHECK_FOR_INTERRUPTS();
		read_parked(&parked, 0);
		if (parked.key)
			tried += retry_due_lane(sink, &parked, handled);
		else
		{
			retry(sink, &parked, handled);
			tried++;
		}
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return tried;
}

/* When the next parked event is due, and what keeps it. */
static void
look_at_next(const OrionSink *sink, OrionHandlerRun *run)
{
	Datum		values[] = {Int32GetDatum(sink->id), Int32GetDatum(sink->part)};
	TimestampTz due;
	bool		isnull;

	run->wait_ms = -1;
	run->attempts = 0;
	run->error = NULL;
	if (run_query(NEXT_DUE, values, NULL) == 0)
		return;
	due = DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	run->wait_ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), due) + 1;
	run->attempts = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull));
	run->error = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 3);
}

/* ---- */

static OrionHandlerRun last_look;	/* error: in TopMemoryContext */
static TimestampTz last_look_at;

void
orion_handler_look_again(void)
{
	parked_known = false;
}

static void
remember_look(const OrionHandlerRun *run)
{
	if (last_look.error)
		pfree(last_look.error);
	last_look = *run;
	last_look.error = run->error ? MemoryContextStrdup(TopMemoryContext, run->error) : NULL;
	last_look_at = GetCurrentTimestamp();
	parked_known = true;
}

/* Looks at the parked events, unless nothing can have become of them since the last time. */
static void
serve_parked(OrionSink *sink, OrionHandlerRun *run)
{
	TimestampTz now = GetCurrentTimestamp();
	long		since = parked_known ? TimestampDifferenceMilliseconds(last_look_at, now) : 0;

	if (parked_known && (last_look.wait_ms < 0 || since < last_look.wait_ms))
	{
		run->wait_ms = last_look.wait_ms < 0 ? -1 : last_look.wait_ms - since;
		run->attempts = last_look.attempts;
		run->error = last_look.error;
		return;
	}
	if (retry_parked(sink, &run->handled) >= BATCH_RETRIES)
		run->more = true;
	look_at_next(sink, run);
	remember_look(run);
}

void
orion_handler_run(OrionSink *sink, OrionCursor *cursor, int max, OrionHandlerRun *run)
{
	bool		is_open = orion_cursor_open(cursor);
	int			n = 0;

	memset(run, 0, sizeof(*run));
	if (SPI_execute("SET CONSTRAINTS ALL IMMEDIATE", false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not make constraints immediate");
	run->more = is_open;
	if (is_open)
	{
		n = orion_cursor_read(cursor, max);
		if (n > 0)
			run->handled = handle_rows(sink, cursor, n);
		if (n == 0 || orion_cursor_at_end(cursor))
			orion_cursor_close(cursor);
	}
	serve_parked(sink, run);
	orion_cursor_count(cursor, run->handled);
	if (is_open || orion_cursor_is_dirty(cursor))
		orion_cursor_store(cursor, orion_cursor_read_seq(cursor));
}
