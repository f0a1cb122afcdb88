/*
 * cursor.c
 *	  How a sink finds every committed event exactly once.
 *
 * The order of seq is not the order of commit: "seq > last" would lose events,
 * and waiting for the oldest open transaction would stall behind it.  So a
 * cursor moves from snapshot to snapshot.  Its window is the rows visible in
 * upto and not in from; they are delivered in the order of seq, then from := upto
 * and a fresh snapshot becomes upto.  Who commits late is in a later window.
 *
 * The rows of a window are found by xid: those in progress in from, and those at
 * or above its xmax.  A floor under seq would not do: a transaction at or above
 * xmax may have drawn its numbers before from was taken.
 *
 * Both snapshots are stored before anything of the window is sent.  A window that
 * is read again after a crash has the same rows, so that window and seq are a
 * position that only grows, and a sink that stores it can drop what it has.
 *
 * The number of a window says nothing in another life of the database (created
 * anew, or restored to an earlier time), where it may come again with other rows.
 * So each window has a random tag, and a position counts only with its tag.
 *
 * A sink may come back with an older position than it had confirmed: it has lost
 * the rest.  The windows of the last minutes are kept for that; the cursor goes
 * back to the one the position is in and walks through the following again, with
 * their numbers, tags and rows as they were.
 *
 * Besides what is new, a window may hold what an administrator asked for again: a
 * range of the outbox (orion_private.replays, a chunk a window) or dead letters
 * (orion_private.redrives).  Such windows lie between those of the live cursor, which
 * they do not move; they have numbers, tags and a stored range like others.
 *
 * orion_skip() moves a stored cursor from outside and counts up its epoch.  A relay
 * that still works by the old one fails when it stores, together with what its SQL
 * handlers did.
 *
 * A relay that was woken by no commit since it last looked knows that nothing of what came
 * is for its sink, and passes over it unread (core/listen.h).  Which pattern held when is
 * the publishers' word: a relay whose sink got another one first passes over what came
 * under the old one, if it can, and reads all that came after.
 *
 * A window may hold millions of rows.  When it is opened, one sorted scan turns
 * its seqs into at most MAX_RUNS runs; gaps are closed as far as needed to stay
 * below that, which is harmless because the rows of a run are tested again when
 * they are read.  Batches are then read from the index on seq.  Where the last window had
 * few rows, the rows themselves are taken at once, and that is not needed.
 *
 * Only the segments that can hold rows of the window are read, never the parent
 * table, whose readers would queue behind a TRUNCATE of an old segment.
 *
 * Runs in the relays.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "codec/topic.h"
#include "core/listen.h"
#include "core/shmem.h"
#include "core/wake.h"
#include "outbox/outbox.h"
#include "outbox/outbox_private.h"

#define MAX_RUNS		16384
#define FIRST_GAP		16		/* numbers of others' rows that a run may span
								 * at first */
#define MOVED_MS		60000	/* how stale the stored from of an idle sink
								 * may get */
#define PASSED_MS		5000	/* the same, when events were passed over:
								 * they keep segments */
#define KEEP_MS			600000	/* how long delivered windows are kept */
#define KEEP_TEXT		"10 minutes"
#define SCAN_CHUNK		10000	/* rows fetched at a time while looking for
								 * runs */
#define FEW_ROWS		1000	/* are taken with the look that finds them */
#define SEGMENTS_MS		1000	/* how long the list of segments is believed */
#define BETWEEN_MS		1		/* between the openings of two windows, for
								 * each sink there is */
#define BETWEEN_MANY_MS	4		/* the same, when events come all the time */
#define BETWEEN_MAX_MS	25
#define EVENTS_A_MS		4		/* when more come, the pause grows to the most */
#define AGAIN_ROWS		1000	/* of a window with what was asked for again:
								 * what is new waits for it */

typedef struct Run
{
	int64		first;
	int64		last;
} Run;

typedef enum WindowKind
{
	WINDOW_LIVE,
	WINDOW_REPLAY,				/* rows first .. last of the outbox, for
								 * replay_id */
	WINDOW_REDRIVE,				/* rows first .. last of redrives */
} WindowKind;

struct OrionCursor
{
	MemoryContext context;
	int32		sink_id;
	int32		part;
	int64		epoch;			/* as loaded */
	Datum		from;			/* pg_snapshot; of the live cursor */
	Datum		upto;			/* pg_snapshot, 0 when no window is open */
	int64		window;			/* number of the open window, or of the last
								 * one */
	int64		tag;			/* of the same; 0: there was none */
	WindowKind	kind;			/* of the same */
	int64		first;			/* of windows that are not live */
	int64		last;
	int64		replay_id;
	char	   *replay_pattern;
	TimestampTz replay_from;
	TimestampTz replay_to;
	bool		look_for_again; /* something may have been asked for */
	int64		confirmed_window;	/* what the sink confirmed last */
	int64		confirmed_seq;
	bool		keeps_windows;
	bool		replaying;		/* the next window may be a kept one */
	TimestampTz cleaned_at;
	int64		seq;			/* rows up to here have been read */
	int64		passed;			/* highest seq of live windows that were
								 * closed, or how many numbers were passed
								 * over */
	int64		drawn;			/* numbers, when it last passed over something */
	int64		delivered;		/* events not yet added to the stored count */
	int			mask;			/* segments of the window, bit 0 is segment 1 */
	int			new_mask;		/* segments that may hold what is new, */
	uint32		new_mask_segment;	/* as long as this one is current; 0:
									 * unknown */
	TimestampTz new_mask_at;
	bool		dirty;			/* window or number differ from what is stored */
	bool		moved;			/* from does, but only over nothing */
	bool		overtook;		/* or over events of no interest */
	bool		listened;		/* since before from was taken */
	TimestampTz stored_at;

	TimestampTz opened_at;		/* when the last live window was */
	int			between_ms;		/* until the next one may be */
	TimestampTz due_at;			/* a look was put off until then; 0: none was */

	Run		   *runs;			/* of the open window; NULL when not looked up
								 * yet */
	int			nruns;
	int64		nrows;			/* found for them */
	SPITupleTable *rows;		/* all rows of the window, in the transaction
								 * that opened it and before one is read; or
								 * NULL */
	int			run;			/* where reading is */
	int64		runs_after;		/* runs hold the seqs above this */
	int64		gap;
};

/* A snapshot in which no row of the outbox is visible, restored ones included. */
#define NOTHING "3:3:"

static Datum
copy_snapshot(OrionCursor *cursor, Datum snapshot)
{
	MemoryContext old = MemoryContextSwitchTo(cursor->context);
	Datum		copy = PointerGetDatum(PG_DETOAST_DATUM_COPY(snapshot));

	MemoryContextSwitchTo(old);
	return copy;
}

static void
set_snapshot(OrionCursor *cursor, Datum *place, Datum snapshot)
{
	Datum		copy = copy_snapshot(cursor, snapshot);

	if (*place)
		pfree(DatumGetPointer(*place));
	*place = copy;
}

static Datum
column(int number, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, number, isnull);
}

static Datum
nothing(void)
{
	return OidInputFunctionCall(F_PG_SNAPSHOT_IN, NOTHING, InvalidOid, -1);
}

/* The snapshot in which the rows of the open window are not visible yet. */
static Datum
window_from(const OrionCursor *cursor)
{
	return cursor->kind == WINDOW_LIVE ? cursor->from : nothing();
}

static int64
int64_column(int number)
{
	bool		isnull;
	Datum		value = column(number, &isnull);

	return isnull ? 0 : DatumGetInt64(value);
}

/* What a replay asks for besides its range, from the columns that follow number. */
static void
set_replay(OrionCursor *cursor, int number)
{
	bool		isnull;
	Datum		pattern = column(number, &isnull);

	if (cursor->replay_pattern)
		pfree(cursor->replay_pattern);
	cursor->replay_pattern = NULL;
	if (isnull)
		return;
	cursor->replay_pattern = MemoryContextStrdup(cursor->context, TextDatumGetCString(pattern));
	cursor->replay_from = DatumGetTimestampTz(column(number + 1, &isnull));
	cursor->replay_to = DatumGetTimestampTz(column(number + 2, &isnull));
}

OrionCursor *
orion_cursor_load(int32 sink_id, int32 part)
{
	Oid			types[] = {INT4OID, INT4OID};
	Datum		values[] = {Int32GetDatum(sink_id), Int32GetDatum(part)};
	MemoryContext context;
	OrionCursor *cursor;
	Datum		upto;
	bool		isnull;

	if (SPI_execute_with_args("SELECT c.from_snapshot, c.upto_snapshot, c.window_no, c.seq, c.tag,"
							  " c.confirmed_window, c.confirmed_seq, c.epoch, c.kind::pg_catalog.int8,"
							  " c.first_seq, c.last_seq, c.replay_id, r.pattern, r.from_time, r.to_time"
							  " FROM orion_private.cursors c LEFT JOIN orion_private.replays r ON r.id = c.replay_id"
							  " WHERE c.sink_id = $1 AND c.part = $2",
							  lengthof(types), types, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the cursor of sink %d", sink_id);
	if (SPI_processed == 0)
		return NULL;
	context = AllocSetContextCreate(TopMemoryContext, "orion cursor", ALLOCSET_DEFAULT_SIZES);
	cursor = MemoryContextAllocZero(context, sizeof(OrionCursor));
	cursor->context = context;
	cursor->sink_id = sink_id;
	cursor->part = part;
	cursor->look_for_again = true;
	set_snapshot(cursor, &cursor->from, column(1, &isnull));
	upto = column(2, &isnull);
	if (!isnull)
		set_snapshot(cursor, &cursor->upto, upto);
	cursor->window = DatumGetInt64(column(3, &isnull));
	cursor->seq = DatumGetInt64(column(4, &isnull));
	cursor->tag = DatumGetInt64(column(5, &isnull));
	cursor->confirmed_window = DatumGetInt64(column(6, &isnull));
	cursor->confirmed_seq = DatumGetInt64(column(7, &isnull));
	cursor->epoch = int64_column(8);
	cursor->kind = (WindowKind) int64_column(9);
	cursor->first = int64_column(10);
	cursor->last = int64_column(11);
	cursor->replay_id = int64_column(12);
	set_replay(cursor, 13);
	return cursor;
}

void
orion_cursor_free(OrionCursor *cursor)
{
	if (cursor)
		MemoryContextDelete(cursor->context);
}

static void
forget_runs(OrionCursor *cursor)
{
	if (cursor->runs)
		pfree(cursor->runs);
	cursor->runs = NULL;
	cursor->rows = NULL;
	cursor->nruns = cursor->run = 0;
	cursor->gap = FIRST_GAP;
}

/* Halves the number of runs, or better, by closing gaps. */
static void
merge_runs(OrionCursor *cursor)
{
	while (cursor->nruns > MAX_RUNS / 2)
	{
		int			kept = 0;

		cursor->gap *= 4;
		for (int i = 1; i < cursor->nruns; i++)
		{
			if (cursor->runs[i].first - cursor->runs[kept].last <= cursor->gap)
				cursor->runs[kept].last = cursor->runs[i].last;
			else
				cursor->runs[++kept] = cursor->runs[i];
		}
		cursor->nruns = kept + 1;
	}
}

static void
add_seq(OrionCursor *cursor, int64 seq)
{
	Run		   *last = cursor->nruns > 0 ? &cursor->runs[cursor->nruns - 1] : NULL;

	if (last && seq - last->last <= cursor->gap)
	{
		last->last = seq;
		return;
	}
	if (cursor->nruns == MAX_RUNS)
		merge_runs(cursor);
	cursor->runs[cursor->nruns].first = cursor->runs[cursor->nruns].last = seq;
	cursor->nruns++;
}

/* Looks up the rows of from .. upto behind seq; in the snapshot of the caller. */
static void
find_runs(OrionCursor *cursor, Datum upto, int64 seq)
{
	Datum		values[] = {cursor->from, upto, Int64GetDatum(seq)};
	Portal		portal;

	forget_runs(cursor);
	cursor->runs_after = seq;
	cursor->nrows = 0;
	cursor->runs = MemoryContextAlloc(cursor->context, MAX_RUNS * sizeof(Run));
	portal = SPI_cursor_open(NULL, orion_outbox_query(ORION_QUERY_SEQS, cursor->mask), values, NULL, true);
	for (;;)
	{
		SPI_cursor_fetch(portal, true, SCAN_CHUNK);
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			bool		isnull;

			add_seq(cursor, DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull)));
		}
		if (SPI_processed == 0)
			break;
		cursor->nrows += SPI_processed;
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(portal);
}

static int
by_seq(const void *a, const void *b, void *desc)
{
	int64		x = orion_event_seq(*(const HeapTuple *) a, desc);
	int64		y = orion_event_seq(*(const HeapTuple *) b, desc);

	return (x > y) - (x < y);
}

/*
 * The same as find_runs for all of from .. upto, if that is few rows, which then are at hand.
 * False: it is more, or probably is.
 */
static bool
find_few_rows(OrionCursor *cursor, Datum upto)
{
	Datum		values[] = {cursor->from, upto};
	SPITupleTable *rows;
	int			n;

	if (cursor->nrows > FEW_ROWS)
		return false;
	if (SPI_execute_plan(orion_outbox_query(ORION_QUERY_NEW, cursor->mask), values, NULL, true, FEW_ROWS + 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the outbox");
	rows = SPI_tuptable;
	n = (int) SPI_processed;
	if (n > FEW_ROWS)
	{
		SPI_freetuptable(rows);
		return false;
	}
	forget_runs(cursor);
	cursor->runs_after = 0;
	cursor->nrows = n;
	cursor->runs = MemoryContextAlloc(cursor->context, (FEW_ROWS + 1) * sizeof(Run));
	qsort_arg(rows->vals, n, sizeof(HeapTuple), by_seq, rows->tupdesc);
	for (int i = 0; i < n; i++)
		add_seq(cursor, orion_event_seq(rows->vals[i], rows->tupdesc));
	cursor->rows = rows;
	return true;
}

/* The rows of a window that is no live one are a single run. */
static void
set_run(OrionCursor *cursor, int64 seq)
{
	forget_runs(cursor);
	cursor->runs_after = seq;
	cursor->runs = MemoryContextAlloc(cursor->context, sizeof(Run));
	cursor->runs[0].first = cursor->first;
	cursor->runs[0].last = cursor->last;
	cursor->nruns = 1;
}

static void
find_rows(OrionCursor *cursor)
{
	if (cursor->kind != WINDOW_REDRIVE)
		cursor->mask = orion_segments_since(window_from(cursor));
	if (cursor->kind == WINDOW_LIVE)
		find_runs(cursor, cursor->upto, cursor->seq);
	else
		set_run(cursor, cursor->seq);
}

static bool
same_snapshot(Datum a, Datum b)
{
	return datumIsEqual(a, b, false, -1);
}

/* No row of the cursor's epoch: another one, or the sink was dropped, which is no error. */
static void
check_moved(const OrionCursor *cursor)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(cursor->sink_id)};

	if (SPI_execute_with_args("SELECT FROM orion_private.cursors WHERE sink_id = $1",
							  1, types, values, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the cursor of sink %d", cursor->sink_id);
	if (SPI_processed > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the position was changed by an administrator")));
}

void
orion_cursor_store(OrionCursor *cursor, int64 seq)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {INT4OID, PG_SNAPSHOTOID, PG_SNAPSHOTOID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID,
	INT4OID, INT8OID, INT4OID, INT8OID, INT8OID, INT8OID, INT8OID};
	int64		passed = cursor->kind == WINDOW_LIVE ? Max(cursor->passed, seq) : cursor->passed;
	Datum		values[] = {Int32GetDatum(cursor->sink_id), cursor->from, cursor->upto,
		Int64GetDatum(cursor->window), Int64GetDatum(seq), Int64GetDatum(cursor->delivered),
		Int64GetDatum(cursor->tag), Int64GetDatum(cursor->confirmed_window), Int64GetDatum(cursor->confirmed_seq),
		Int32GetDatum(cursor->part), Int64GetDatum(cursor->epoch), Int32GetDatum(cursor->kind),
	Int64GetDatum(cursor->first), Int64GetDatum(cursor->last), Int64GetDatum(cursor->replay_id), Int64GetDatum(passed)};
	char		nulls[] = {' ', ' ', cursor->upto ? ' ' : 'n', ' ', ' ', ' ', ' ', ' ', ' ', ' ', ' ', ' ', ' ', ' ', ' ', ' '};

	if (plan == NULL)
	{
		plan = SPI_prepare("UPDATE orion_private.cursors SET from_snapshot = $2, upto_snapshot = $3,"
						   " window_no = $4, seq = $5, delivered = delivered + $6,"
						   " tag = $7, confirmed_window = $8, confirmed_seq = $9,"
						   " passed_seq = greatest(passed_seq, $16),"
						   " kind = $12, first_seq = $13, last_seq = $14, replay_id = $15,"
						   " updated_at = pg_catalog.now() WHERE sink_id = $1 AND part = $10 AND epoch = $11",
						   lengthof(types), types);
		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare the update of cursors: %s", SPI_result_code_string(SPI_result));
	}
	if (SPI_execute_plan(plan, values, nulls, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not store the cursor of sink %d", cursor->sink_id);
	if (SPI_processed == 0)
		check_moved(cursor);
	cursor->dirty = cursor->moved = cursor->overtook = false;
	cursor->delivered = 0;
	cursor->stored_at = GetCurrentTimestamp();
}

void
orion_cursor_keep_windows(OrionCursor *cursor)
{
	if (!cursor->keeps_windows)
		cursor->replaying = true;
	cursor->keeps_windows = true;
}

/* Adds the open window to those that can be gone back to, and drops what is old. */
static void
keep_window(OrionCursor *cursor)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {INT4OID, INT8OID, INT8OID, PG_SNAPSHOTOID, PG_SNAPSHOTOID, INT4OID, INT8OID, INT8OID, INT8OID};
	Datum		values[] = {Int32GetDatum(cursor->sink_id), Int64GetDatum(cursor->window),
		Int64GetDatum(cursor->tag), cursor->from, cursor->upto, Int32GetDatum(cursor->kind),
	Int64GetDatum(cursor->first), Int64GetDatum(cursor->last), Int64GetDatum(cursor->replay_id)};

	if (!cursor->keeps_windows)
		return;
	if (plan == NULL)
	{
		plan = SPI_prepare("INSERT INTO orion_private.cursor_windows AS w"
						   " (sink_id, window_no, tag, from_snapshot, upto_snapshot, kind, first_seq, last_seq, replay_id)"
						   " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (sink_id, window_no) DO UPDATE SET"
						   " tag = excluded.tag, from_snapshot = excluded.from_snapshot,"
						   " upto_snapshot = excluded.upto_snapshot, opened_at = excluded.opened_at,"
						   " kind = excluded.kind, first_seq = excluded.first_seq, last_seq = excluded.last_seq,"
						   " replay_id = excluded.replay_id",
						   lengthof(types), types);
		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare the keeping of windows: %s", SPI_result_code_string(SPI_result));
	}
	if (SPI_execute_plan(plan, values, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not keep a window of sink %d", cursor->sink_id);
	if (!TimestampDifferenceExceeds(cursor->cleaned_at, GetCurrentTimestamp(), KEEP_MS / 10))
		return;
	cursor->cleaned_at = GetCurrentTimestamp();
	if (SPI_execute_with_args("DELETE FROM orion_private.cursor_windows WHERE sink_id = $1 AND window_no < $2"
							  " AND opened_at < pg_catalog.now() - interval '" KEEP_TEXT "'",
							  2, types, values, NULL, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not drop kept windows of sink %d", cursor->sink_id);
}

#define KEPT_COLUMNS "w.kind::pg_catalog.int8, w.first_seq, w.last_seq, w.replay_id, r.pattern, r.from_time, r.to_time"
#define KEPT_TABLES \
	"orion_private.cursor_windows w LEFT JOIN orion_private.replays r ON r.id = w.replay_id"

/* From KEPT_COLUMNS, the first of which is number. */
static void
set_kept_kind(OrionCursor *cursor, int number)
{
	cursor->kind = (WindowKind) int64_column(number);
	cursor->first = int64_column(number + 1);
	cursor->last = int64_column(number + 2);
	cursor->replay_id = int64_column(number + 3);
	set_replay(cursor, number + 4);
}

/* After going back: makes the next of the kept windows the open one.  False: there is none. */
static bool
open_kept_window(OrionCursor *cursor)
{
	Oid			types[] = {INT4OID, INT8OID};
	Datum		values[] = {Int32GetDatum(cursor->sink_id), Int64GetDatum(cursor->window)};
	bool		isnull;

	if (!cursor->replaying)
		return false;
	if (SPI_execute_with_args("SELECT w.window_no, w.tag, w.upto_snapshot, " KEPT_COLUMNS " FROM " KEPT_TABLES
							  " WHERE w.sink_id = $1 AND w.window_no > $2 ORDER BY w.window_no",
							  2, types, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read kept windows of sink %d", cursor->sink_id);
	cursor->replaying = SPI_processed > 0;
	if (!cursor->replaying)
		return false;
	cursor->listened = false;
	cursor->window = DatumGetInt64(column(1, &isnull));
	cursor->tag = DatumGetInt64(column(2, &isnull));
	set_snapshot(cursor, &cursor->upto, column(3, &isnull));
	set_kept_kind(cursor, 4);
	cursor->seq = cursor->kind == WINDOW_LIVE ? 0 : cursor->first - 1;
	find_rows(cursor);
	orion_cursor_store(cursor, cursor->seq);
	return true;
}

/*
 * Number and tag of a new window.  As a time in milliseconds the number makes the
 * entry ids of a Redis stream, and grows even if the cursor was created anew.
 */
static void
name_window(OrionCursor *cursor)
{
	int64		now = GetCurrentTimestamp() / 1000 +
	(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * (USECS_PER_DAY / 1000);

	cursor->window = Max(cursor->window + 1, now);
	do
		cursor->tag = (int64) orion_outbox_random();
	while (cursor->tag == 0);
}

/* Makes first .. last the open window. */
static void
begin_again(OrionCursor *cursor, WindowKind kind, int64 first, int64 last, Datum upto)
{
	cursor->kind = kind;
	cursor->first = first;
	cursor->last = last;
	cursor->seq = first - 1;
	set_snapshot(cursor, &cursor->upto, upto);
	name_window(cursor);
	find_rows(cursor);
	keep_window(cursor);
	orion_cursor_store(cursor, cursor->seq);
}

/* Opens a window with dead letters that are to be sent again.  False: there are none. */
static bool
open_redrive(OrionCursor *cursor)
{
	Oid			types[] = {INT4OID, INT8OID, INT8OID};
	Datum		values[3] = {Int32GetDatum(cursor->sink_id), Int64GetDatum(AGAIN_ROWS)};
	int64		first;
	int64		last;

	if (SPI_execute_with_args("SELECT pg_catalog.min(seq), pg_catalog.max(seq) FROM"
							  " (SELECT seq FROM orion_private.redrives WHERE sink_id = $1 AND window_no IS NULL"
							  " ORDER BY seq LIMIT $2) s", 2, types, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read orion_private.redrives");
	first = int64_column(1);
	last = int64_column(2);
	if (first == 0)
		return false;
	begin_again(cursor, WINDOW_REDRIVE, first, last, cursor->from);
	values[1] = Int64GetDatum(cursor->window);
	values[2] = Int64GetDatum(last);
	if (SPI_execute_with_args("UPDATE orion_private.redrives SET window_no = $2"
							  " WHERE sink_id = $1 AND window_no IS NULL AND seq <= $3",
							  lengthof(types), types, values, NULL, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not take dead letters");
	return true;
}

/* Opens a window with the next part of a replay.  False: there is nothing to replay. */
static bool
open_replay(OrionCursor *cursor)
{
	Oid			types[] = {INT4OID, INT4OID, INT8OID};
	Datum		values[3] = {Int32GetDatum(cursor->sink_id), Int32GetDatum(cursor->part)};
	Datum		range[4];
	Datum		upto;
	int64		next;
	int64		end;
	bool		isnull;

	if (SPI_execute_with_args("SELECT id, pattern, from_time, to_time, next_seq, to_seq, upto_snapshot"
							  " FROM orion_private.replays"
							  " WHERE sink_id = $1 AND part = $2 AND next_seq <= to_seq ORDER BY id",
							  2, types, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read orion_private.replays");
	if (SPI_processed == 0)
		return false;
	cursor->replay_id = int64_column(1);
	set_replay(cursor, 2);
	next = int64_column(5);
	end = int64_column(6);
	upto = copy_snapshot(cursor, column(7, &isnull));
	range[0] = range[1] = upto;
	range[2] = Int64GetDatum(next);
	range[3] = Int64GetDatum(end);
	cursor->mask = orion_segments_since(nothing());
	if (SPI_execute_plan(orion_outbox_query(ORION_QUERY_RANGE, cursor->mask), range, NULL, true, AGAIN_ROWS) != SPI_OK_SELECT)
		elog(ERROR, "could not read the outbox");
	if (SPI_processed == AGAIN_ROWS)
		end = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[AGAIN_ROWS - 1], SPI_tuptable->tupdesc, 1, &isnull));
	begin_again(cursor, WINDOW_REPLAY, next, end, upto);
	pfree(DatumGetPointer(upto));
	values[0] = Int64GetDatum(cursor->replay_id);
	values[1] = Int64GetDatum(end + 1);
	types[0] = types[1] = INT8OID;
	if (SPI_execute_with_args("UPDATE orion_private.replays SET next_seq = $2 WHERE id = $1",
							  2, types, values, NULL, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not note the progress of a replay");
	return true;
}

/* What was asked for again, dead letters first. */
static bool
open_again(OrionCursor *cursor)
{
	if (!cursor->look_for_again)
		return false;
	cursor->look_for_again = open_redrive(cursor) || open_replay(cursor);
	return cursor->look_for_again;
}

static bool open_live(OrionCursor *cursor);

bool
orion_cursor_open(OrionCursor *cursor)
{
	bool		was_live = cursor->kind == WINDOW_LIVE;

	cursor->rows = NULL;		/* of an earlier transaction */
	if (cursor->upto)
	{
		if (cursor->runs == NULL)
			find_rows(cursor);
		if (cursor->dirty)
		{
			keep_window(cursor);
			orion_cursor_store(cursor, cursor->seq);
		}
		return true;
	}
	if (open_kept_window(cursor))
		return true;
	/* turn and turn about, so that neither waits for all of the other */
	if (was_live && open_again(cursor))
		return true;
	return open_live(cursor) || (!was_live && open_again(cursor));
}

/*
 * A window costs its transactions whatever it holds, and relays share the processors
 * with those who publish.  After a pause the first event goes at once; under load the
 * windows come at a pace that does not grow with the number of sinks, and hold more.
 */
bool
orion_cursor_is_due(OrionCursor *cursor)
{
	TimestampTz due = TimestampTzPlusMilliseconds(cursor->opened_at, cursor->between_ms);

	cursor->due_at = 0;
	if (cursor->opened_at == 0 || GetCurrentTimestamp() >= due)
		return true;
	cursor->due_at = due;
	return false;
}

/*
 * The pause is in proportion to what came in the last one, so it shrinks to the least or
 * grows to the most, whichever side of EVENTS_A_MS the rate is on.
 */
static void
note_opening(OrionCursor *cursor)
{
	int64		least = (cursor->nrows > 1 ? BETWEEN_MANY_MS : BETWEEN_MS) * Max(1, orion_shared->nsinks);

	cursor->opened_at = GetCurrentTimestamp();
	cursor->between_ms = (int) Min(Max(least, cursor->nrows / EVENTS_A_MS), BETWEEN_MAX_MS);
}

long
orion_cursor_pause(const OrionCursor *cursor)
{
	return cursor->due_at == 0 ? -1 : Max(1, TimestampDifferenceMilliseconds(GetCurrentTimestamp(), cursor->due_at));
}

static void
take_fresh_snapshot(void)
{
	PopActiveSnapshot();
	PushActiveSnapshot(GetTransactionSnapshot());
}

static bool
is_unmoved(const OrionCursor *cursor)
{
	return cursor->upto == 0 && cursor->listened && orion_listen_is_quiet(GetActiveSnapshot());
}

/*
 * The numbers drawn are read before the snapshot that is passed to is taken, so that no
 * event of a later one is counted as passed.  Those that transactions have drawn which are still
 * open do not count either: whether their events will have to be delivered is not decided.
 * They may be any of the last ones, but their count is right, and so is the lag that is shown.
 */
static bool
overtake(OrionCursor *cursor)
{
	int64		drawn;
	int64		undecided;
	Datum		upto;

	if (!is_unmoved(cursor))
		return false;
	drawn = orion_outbox_backlog(0);
	undecided = (int64) orion_listen_undecided();
	take_fresh_snapshot();
	if (!is_unmoved(cursor))
		return false;
	upto = OidFunctionCall0(F_PG_CURRENT_SNAPSHOT);
	if (!same_snapshot(upto, cursor->from))
		cursor->moved = true;
	if (drawn > cursor->drawn)
		cursor->overtook = cursor->moved;
	cursor->drawn = drawn;
	cursor->passed = Max(cursor->passed, drawn - undecided);
	set_snapshot(cursor, &cursor->from, upto);
	return true;
}

void
orion_cursor_overtake(OrionCursor *cursor)
{
	(void) overtake(cursor);
}

void
orion_cursor_must_read(OrionCursor *cursor)
{
	cursor->listened = false;
}

/*
 * After the snapshot was taken.  As from only grows, what held for an earlier one holds but for segments
 * opened since: then another one is current, which is told before a row goes there.
 */
static void
find_new_segments(OrionCursor *cursor)
{
	uint32		current = pg_atomic_read_u32(&orion_shared->outbox_segment);

	if (current == 0 || current != cursor->new_mask_segment ||
		TimestampDifferenceExceeds(cursor->new_mask_at, GetCurrentTimestamp(), SEGMENTS_MS))
	{
		cursor->new_mask = orion_segments_since(cursor->from);
		cursor->new_mask_segment = current;
		cursor->new_mask_at = GetCurrentTimestamp();
	}
	cursor->mask = cursor->new_mask;
}

/* Opens a window with what is new.  False: nothing is, or it is too early to look. */
static bool
open_live(OrionCursor *cursor)
{
	Datum		upto;

	if (!orion_cursor_is_due(cursor))
		return false;
	/* An own transaction id would count as visible in its own snapshot. */
	Assert(!TransactionIdIsValid(GetTopTransactionIdIfAny()));
	if (overtake(cursor))
		return false;
	orion_listen();
	take_fresh_snapshot();
	cursor->listened = true;
	upto = OidFunctionCall0(F_PG_CURRENT_SNAPSHOT);
	if (same_snapshot(upto, cursor->from))
		return false;
	find_new_segments(cursor);
	if (!find_few_rows(cursor, upto))
		find_runs(cursor, upto, 0);
	if (cursor->nruns == 0)
	{
		forget_runs(cursor);
		set_snapshot(cursor, &cursor->from, upto);
		cursor->moved = true;
		return false;
	}
	set_snapshot(cursor, &cursor->upto, upto);
	cursor->kind = WINDOW_LIVE;
	note_opening(cursor);
	name_window(cursor);
	cursor->seq = 0;
	keep_window(cursor);
	orion_cursor_store(cursor, 0);
	return true;
}

/* Dead letters as rows like those of the outbox. */
static int
read_redrives(OrionCursor *cursor, int64 first, int64 last, int max)
{
	Oid			types[] = {INT4OID, INT8OID, INT8OID, INT8OID};
	Datum		values[] = {Int32GetDatum(cursor->sink_id), Int64GetDatum(cursor->window),
	Int64GetDatum(first), Int64GetDatum(last)};

	if (SPI_execute_with_args("SELECT seq, (event ->> 'eventId')::pg_catalog.uuid, event ->> 'aggregateType',"
							  " event ->> 'aggregateId', event ->> 'eventType', event -> 'payload',"
							  " (event ->> 'version')::pg_catalog.int4, event ->> 'correlationId',"
							  " event ->> 'causationId', event -> 'metadata',"
							  " (event ->> 'timestamp')::pg_catalog.timestamptz"
							  " FROM orion_private.redrives WHERE sink_id = $1 AND window_no = $2"
							  " AND seq >= $3 AND seq <= $4 ORDER BY seq",
							  lengthof(types), types, values, NULL, false, max) != SPI_OK_SELECT)
		elog(ERROR, "could not read orion_private.redrives");
	return (int) SPI_processed;
}

static int
read_range(OrionCursor *cursor, int64 first, int64 last, int max)
{
	Datum		values[] = {window_from(cursor), cursor->upto, Int64GetDatum(first), Int64GetDatum(last)};

	if (cursor->kind == WINDOW_REDRIVE)
		return read_redrives(cursor, first, last, max);
	if (SPI_execute_plan(orion_outbox_query(ORION_QUERY_ROWS, cursor->mask), values, NULL, true, max) != SPI_OK_SELECT)
		elog(ERROR, "could not read the outbox");
	return (int) SPI_processed;
}

static int
take_rows(OrionCursor *cursor, int max)
{
	int			n = Min(max, (int) cursor->nrows);

	SPI_tuptable = cursor->rows;
	cursor->rows = NULL;
	cursor->seq = orion_event_seq(SPI_tuptable->vals[n - 1], SPI_tuptable->tupdesc);
	return n;
}

int
orion_cursor_read(OrionCursor *cursor, int max)
{
	if (cursor->rows)
		return take_rows(cursor, max);
	while (cursor->run < cursor->nruns)
	{
		Run		   *run = &cursor->runs[cursor->run];
		int			n = 0;

		if (cursor->seq < run->last)
			n = read_range(cursor, Max(run->first, cursor->seq + 1), run->last, max);
		if (n < max)
			cursor->run++;
		if (n > 0)
		{
			cursor->seq = orion_event_seq(SPI_tuptable->vals[n - 1], SPI_tuptable->tupdesc);
			return n;
		}
	}
	return 0;
}

int
orion_cursor_fetch(OrionCursor *cursor, int64 seq)
{
	return cursor->upto ? read_range(cursor, seq, seq, 1) : 0;
}

bool
orion_cursor_wants(const OrionCursor *cursor, const char *pattern, HeapTuple row, TupleDesc desc)
{
	const char *type = orion_event_type(row, desc);
	TimestampTz at;

	if (!orion_topic_match(pattern, type) && cursor->kind != WINDOW_REDRIVE)
		return false;
	if (cursor->kind != WINDOW_REPLAY || cursor->replay_pattern == NULL)
		return true;
	at = orion_event_occurred_at(row, desc);
	return at >= cursor->replay_from && at < cursor->replay_to && orion_topic_match(cursor->replay_pattern, type);
}

bool
orion_cursor_replays(const OrionCursor *cursor)
{
	return cursor->upto != 0 && cursor->kind == WINDOW_REPLAY;
}

void
orion_cursor_look_again(OrionCursor *cursor)
{
	cursor->look_for_again = true;
}

int64
orion_cursor_epoch(const OrionCursor *cursor)
{
	return cursor->epoch;
}

void
orion_cursor_count(OrionCursor *cursor, int64 delivered)
{
	cursor->delivered += delivered;
}

void
orion_cursor_close(OrionCursor *cursor)
{
	forget_runs(cursor);
	if (cursor->kind == WINDOW_LIVE)
	{
		cursor->passed = Max(cursor->passed, cursor->seq);
		pfree(DatumGetPointer(cursor->from));
		cursor->from = cursor->upto;
	}
	else
		pfree(DatumGetPointer(cursor->upto));
	cursor->upto = (Datum) 0;
	cursor->dirty = true;
}

void
orion_cursor_confirm(OrionCursor *cursor, int64 seq)
{
	cursor->confirmed_window = cursor->window;
	cursor->confirmed_seq = seq;
}

bool
orion_cursor_has_confirmed(const OrionCursor *cursor)
{
	return cursor->confirmed_window > 0;
}

/* Goes back to the window of a position that is known to be behind what was confirmed. */
static void
go_back(OrionCursor *cursor, Datum from, Datum upto, int64 window, int64 tag, int64 seq)
{
	forget_runs(cursor);
	set_snapshot(cursor, &cursor->from, from);
	set_snapshot(cursor, &cursor->upto, upto);
	cursor->window = window;
	cursor->tag = tag;
	cursor->seq = seq;
	cursor->listened = false;
	cursor->new_mask_segment = 0;
	cursor->dirty = cursor->replaying = true;
	orion_cursor_confirm(cursor, seq);
}

/* Continue numbering windows behind a number that the sink has seen. */
static void
skip_to_window(OrionCursor *cursor, int64 window)
{
	if (cursor->window < window + (cursor->upto ? 1 : 0))
	{
		cursor->window = window + (cursor->upto ? 1 : 0);
		cursor->dirty = true;
	}
}

OrionPositionFate
orion_cursor_resume(OrionCursor *cursor, int64 window, int64 seq, int64 tag)
{
	Oid			types[] = {INT4OID, INT8OID, INT8OID};
	Datum		values[] = {Int32GetDatum(cursor->sink_id), Int64GetDatum(window), Int64GetDatum(tag)};
	bool		is_behind = window < cursor->confirmed_window ||
	(window == cursor->confirmed_window && seq < cursor->confirmed_seq);
	bool		isnull;

	if (tag == cursor->tag && window == cursor->window && tag != 0)
	{
		if (!is_behind && (cursor->upto == 0 || seq <= cursor->seq))
			return ORION_POSITION_EXPECTED;
		if (cursor->upto != 0)
		{
			orion_cursor_seek(cursor, seq);
			orion_cursor_confirm(cursor, seq);
			return is_behind ? ORION_POSITION_LOST : ORION_POSITION_AHEAD;
		}
	}
	if (SPI_execute_with_args("SELECT w.from_snapshot, w.upto_snapshot, " KEPT_COLUMNS " FROM " KEPT_TABLES
							  " WHERE w.sink_id = $1 AND w.window_no = $2 AND w.tag = $3",
							  3, types, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read kept windows of sink %d", cursor->sink_id);
	if (SPI_processed == 1 && window <= cursor->window)
	{
		if (!is_behind)
			return ORION_POSITION_EXPECTED;
		go_back(cursor, column(1, &isnull), column(2, &isnull), window, tag, seq);
		set_kept_kind(cursor, 3);
		return ORION_POSITION_LOST;
	}
	skip_to_window(cursor, window);
	cursor->confirmed_window = cursor->confirmed_seq = 0;
	return ORION_POSITION_UNKNOWN;
}

void
orion_cursor_seek(OrionCursor *cursor, int64 seq)
{
	cursor->seq = seq;
	cursor->rows = NULL;
	if (cursor->runs == NULL)
		return;
	if (seq < cursor->runs_after)
		forget_runs(cursor);
	else
		while (cursor->run > 0 && cursor->runs[cursor->run - 1].last > seq)
			cursor->run--;
}

int64
orion_cursor_tag(const OrionCursor *cursor)
{
	return cursor->tag;
}

int64
orion_cursor_window(const OrionCursor *cursor)
{
	return cursor->window;
}

bool
orion_cursor_is_open(const OrionCursor *cursor)
{
	return cursor->upto != 0;
}

int64
orion_cursor_read_seq(const OrionCursor *cursor)
{
	return cursor->seq;
}

bool
orion_cursor_at_end(const OrionCursor *cursor)
{
	return cursor->runs != NULL &&
		(cursor->nruns == 0 || cursor->seq >= cursor->runs[cursor->nruns - 1].last);
}

int64
orion_cursor_passed(const OrionCursor *cursor)
{
	return cursor->passed;
}

bool
orion_cursor_is_dirty(const OrionCursor *cursor)
{
	return cursor->dirty || cursor->delivered > 0 ||
		(cursor->moved && TimestampDifferenceExceeds(cursor->stored_at, GetCurrentTimestamp(),
													 cursor->overtook ? PASSED_MS : MOVED_MS));
}

int64
orion_outbox_backlog(int64 seq)
{
	bool		isnull;

	if (SPI_execute("SELECT last_value FROM orion_private.outbox_seq", true, 1) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not read orion_private.outbox_seq");
	return Max(0, DatumGetInt64(column(1, &isnull)) - seq);
}
