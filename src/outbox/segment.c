/*
 * segment.c
 *	  The ring of segments: which one is current, rotation, truncation.
 *
 * orion_outbox_maintain() runs in the maintenance worker only, so that nobody
 * else rotates.  orion_private.outbox_state says what each segment holds:
 *
 *	  empty		opened_at is null
 *	  current	opened, not closed
 *	  closed	no new row goes there, but a transaction may have one there
 *	  sealed	sealed_xid is set: all its rows have lower xids and are settled
 *
 * Rotation commits the new state first, then changes OrionShared.outbox_segment,
 * and seals the old segment when it gets a lock that no writer of it holds (see
 * publish.c for the other half).  A sealed segment is truncated when the
 * retention is over and every cursor is past it.  Both locks are only taken when
 * they are free at once: nobody ever queues behind them.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/lmgr.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "core/shmem.h"
#include "outbox/outbox.h"
#include "outbox/outbox_private.h"

/* A segment gets a sixth of the retention: 6 kept, 1 current, 1 free. */
#define SEGMENTS_PER_RETENTION	6
#define ALARM_REPEAT_MS			(10 * 60 * 1000)	/* in the log */

static bool is_full = false;	/* the next segment is needed and not empty */

static Oid
private_relation(const char *name)
{
	return get_relname_relid(name, get_namespace_oid("orion_private", false));
}

static Oid
segment_relation(int segment)
{
	char		name[NAMEDATALEN];

	snprintf(name, sizeof(name), "outbox_%d", segment);
	return private_relation(name);
}

static Oid
relation_owner(Oid relation)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "relation orion_private.outbox_state does not exist");
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/* The value of a query's only column in its only row; errors when there is none. */
static Datum
query_value(const char *query, int nargs, Oid *types, Datum *values, bool *isnull)
{
	int			result = SPI_execute_with_args(query, nargs, types, values, NULL, false, 1);

	if ((result != SPI_OK_SELECT && result != SPI_OK_UPDATE_RETURNING) || SPI_processed != 1)
		elog(ERROR, "unexpected result of a query of the outbox's state");
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, isnull);
}

static int
current_segment(void)
{
	bool		isnull;

	return DatumGetInt32(query_value("SELECT segment::pg_catalog.int4 FROM orion_private.outbox_state"
									 " WHERE opened_at IS NOT NULL AND closed_at IS NULL"
									 " ORDER BY opened_at DESC LIMIT 1", 0, NULL, NULL, &isnull));
}

static bool
adopt(void)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum((int64) GetSystemIdentifier())};
	bool		isnull;

	return DatumGetBool(query_value("SELECT orion_private.outbox_adopt($1)", 1, types, values, &isnull));
}

OrionUser
orion_become_owner(void)
{
	OrionUser	save;

	GetUserIdAndSecContext(&save.user, &save.context);
	SetUserIdAndSecContext(relation_owner(private_relation("outbox_state")),
						   save.context | SECURITY_LOCAL_USERID_CHANGE);
	return save;
}

void
orion_become_again(OrionUser user)
{
	SetUserIdAndSecContext(user.user, user.context);
}

int
orion_segment_of_table(void)
{
	OrionUser	save = orion_become_owner();
	int			segment;

	SPI_connect();
	adopt();
	segment = current_segment();
	SPI_finish();
	orion_become_again(save);
	return segment;
}

int
orion_segments_since(Datum snapshot)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {PG_SNAPSHOTOID};
	uint32		current = pg_atomic_read_u32(&orion_shared->outbox_segment);
	int			mask;
	bool		isnull;

	if (plan == NULL)
	{
		plan = SPI_prepare("SELECT coalesce(pg_catalog.bit_or(1 << (segment - 1)), 0)"
						   " FROM orion_private.outbox_state WHERE opened_at IS NOT NULL"
						   " AND (sealed_xid IS NULL OR sealed_xid > pg_catalog.pg_snapshot_xmin($1))",
						   1, types);
		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare a query of the outbox: %s", SPI_result_code_string(SPI_result));
	}
	if (SPI_execute_plan(plan, &snapshot, NULL, false, 1) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not read orion_private.outbox_state");
	mask = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	if (current)
		mask |= 1 << (current - 1);
	return mask;
}

static void
begin(const char *activity)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	pgstat_report_activity(STATE_RUNNING, activity);
}

static void
commit(void)
{
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
}

/* True when the time or the size of the segment is up, and it has a row. */
static bool
is_due(int segment)
{
	char		query[512];
	bool		isnull;

	snprintf(query, sizeof(query),
			 "SELECT EXISTS (SELECT FROM orion_private.outbox_%d) AND"
			 " (s.opened_at < pg_catalog.now() - pg_catalog.make_interval(secs => %f)"
			 " OR pg_catalog.pg_table_size('orion_private.outbox_%d'::pg_catalog.regclass) >= " INT64_FORMAT ")"
			 " FROM orion_private.outbox_state s WHERE s.segment = %d",
			 segment, orion_outbox_retention * 60.0 / SEGMENTS_PER_RETENTION,
			 segment, (int64) orion_outbox_segment_size * 1024 * 1024, segment);
	return DatumGetBool(query_value(query, 0, NULL, NULL, &isnull));
}

static bool
is_empty(int segment)
{
	char		query[256];
	bool		isnull;

	snprintf(query, sizeof(query),
			 "SELECT s.opened_at IS NULL AND NOT EXISTS (SELECT FROM orion_private.outbox_%d)"
			 " FROM orion_private.outbox_state s WHERE s.segment = %d", segment, segment);
	return DatumGetBool(query_value(query, 0, NULL, NULL, &isnull));
}

static void
move_to(int from, int to)
{
	Oid			types[] = {INT4OID, INT4OID};
	Datum		values[] = {Int32GetDatum(from), Int32GetDatum(to)};

	if (SPI_execute_with_args("UPDATE orion_private.outbox_state SET"
							  " opened_at = CASE WHEN segment = $2 THEN pg_catalog.now() ELSE opened_at END,"
							  " closed_at = CASE WHEN segment = $1 THEN pg_catalog.now() END"
							  " WHERE segment = $1 OR segment = $2",
							  2, types, values, NULL, false, 0) != SPI_OK_UPDATE || SPI_processed != 2)
		elog(ERROR, "could not move the outbox from segment %d to %d", from, to);
}

/* Returns the current segment after a rotation, if one was due and possible. */
static int
rotate(int segment)
{
	int			next = segment % ORION_OUTBOX_SEGMENTS + 1;

	is_full = false;
	if (!is_due(segment))
		return segment;
	is_full = !is_empty(next);
	if (is_full)
		return segment;
	move_to(segment, next);
	return next;
}

/* Segments for which a condition on outbox_state s holds, as a mask. */
static int
segments_where(const char *condition)
{
	char		query[640];
	bool		isnull;

	snprintf(query, sizeof(query),
			 "SELECT coalesce(pg_catalog.bit_or(1 << (s.segment - 1)), 0)"
			 " FROM orion_private.outbox_state s WHERE %s", condition);
	return DatumGetInt32(query_value(query, 0, NULL, NULL, &isnull));
}

static void
seal(int segment)
{
	char		query[256];

	if (!ConditionalLockRelationOid(segment_relation(segment), ShareLock))
		return;

	/*
	 * With the lock held, a new snapshot's xmax is above every xid in the
	 * segment.
	 */
	snprintf(query, sizeof(query),
			 "UPDATE orion_private.outbox_state"
			 " SET sealed_xid = pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot()),"
			 " sealed_at = pg_catalog.clock_timestamp()"
			 " WHERE segment = %d", segment);
	if (SPI_execute(query, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not seal segment %d", segment);
}

static int
truncatable(void)
{
	char		condition[512];

	snprintf(condition, sizeof(condition),
			 "s.sealed_xid IS NOT NULL"
			 " AND s.closed_at < pg_catalog.now() - pg_catalog.make_interval(mins => %d)"
			 " AND NOT EXISTS (SELECT FROM orion_private.cursors c"
			 " WHERE pg_catalog.pg_snapshot_xmin(c.from_snapshot) < s.sealed_xid"
			 " OR c.kind = 1 AND c.upto_snapshot IS NOT NULL)"
			 " AND NOT EXISTS (SELECT FROM orion_private.replays r WHERE r.next_seq <= r.to_seq)",
			 orion_outbox_retention);
	return segments_where(condition);
}

static void
truncate_segment(int segment)
{
	char		query[256];

	if (!ConditionalLockRelationOid(segment_relation(segment), AccessExclusiveLock))
		return;
	if (!(truncatable() & (1 << (segment - 1))))
		return;
	snprintf(query, sizeof(query), "TRUNCATE orion_private.outbox_%d", segment);
	if (SPI_execute(query, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not truncate segment %d", segment);
	snprintf(query, sizeof(query),
			 "UPDATE orion_private.outbox_retained SET since = greatest(since, s.sealed_at)"
			 " FROM orion_private.outbox_state s WHERE s.segment = %d", segment);
	if (SPI_execute(query, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not note what is retained");
	snprintf(query, sizeof(query),
			 "UPDATE orion_private.outbox_state SET opened_at = NULL, closed_at = NULL, sealed_xid = NULL, sealed_at = NULL"
			 " WHERE segment = %d", segment);
	if (SPI_execute(query, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not mark segment %d as empty", segment);
}

/* One transaction a segment, so that no lock is kept longer than needed. */
static void
each_segment(int mask, const char *activity, void (*work) (int segment))
{
	for (int segment = 1; segment <= ORION_OUTBOX_SEGMENTS; segment++)
	{
		if (!(mask & (1 << (segment - 1))))
			continue;
		begin(activity);
		work(segment);
		commit();
	}
}

/*
 * Shared memory may name a segment of an extension that was dropped meanwhile.
 * Rows may have gone there, so the table follows.
 */
static void
follow_shared(int shared)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(shared)};

	if (SPI_execute_with_args("UPDATE orion_private.outbox_state"
							  " SET opened_at = pg_catalog.clock_timestamp(), closed_at = NULL, sealed_xid = NULL"
							  " WHERE segment = $1 AND (opened_at IS NULL OR closed_at IS NOT NULL)",
							  1, types, values, NULL, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not open segment %d", shared);
	if (SPI_execute_with_args("UPDATE orion_private.outbox_state SET closed_at = pg_catalog.now()"
							  " WHERE segment <> $1 AND opened_at IS NOT NULL AND closed_at IS NULL",
							  1, types, values, NULL, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not close the other segments");
}

/*
 * The sink that holds most of the outbox: what is in sealed segments that it has not
 * passed, and in all later ones.  NULL when none holds a sealed segment.
 */
static char *
greatest_holder(int64 *held_bytes, int *held_segments)
{
	bool		isnull;

	if (SPI_execute("SELECT s.name, pg_catalog.sum(pg_catalog.pg_total_relation_size("
					"pg_catalog.format('orion_private.outbox_%s', t.segment)::pg_catalog.regclass))::pg_catalog.int8,"
					" (pg_catalog.count(*) FILTER (WHERE t.sealed_xid > pg_catalog.pg_snapshot_xmin(c.from_snapshot)))::pg_catalog.int4"
					" FROM orion_private.sinks s JOIN orion_private.cursors c ON c.sink_id = s.id"
					" JOIN orion_private.outbox_state t ON t.opened_at >="
					" (SELECT pg_catalog.min(f.opened_at) FROM orion_private.outbox_state f"
					" WHERE f.sealed_xid > pg_catalog.pg_snapshot_xmin(c.from_snapshot))"
					" GROUP BY s.name, c.part ORDER BY 2 DESC", true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look for sinks that are behind");
	if (SPI_processed == 0)
		return NULL;
	*held_bytes = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull));
	*held_segments = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 3, &isnull));
	return SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
}

/* Fills alarm; empty when all is well. */
static void
look_for_alarm(char *alarm, size_t size)
{
	int64		held = 0;
	int			segments = 0;
	char	   *holder = greatest_holder(&held, &segments);
	int64		limit = (int64) orion_outbox_hold_limit * 1024 * 1024;

	alarm[0] = '\0';
	if (is_full && holder)
		snprintf(alarm, size, "all segments of the outbox are in use: sink \"%s\" is furthest behind and holds %d of %d",
				 holder, segments, ORION_OUTBOX_SEGMENTS);
	else if (is_full)
		strlcpy(alarm, "all segments of the outbox are in use: a transaction is open for long, or the retention is not over", size);
	else if (holder && limit > 0 && held > limit)
		snprintf(alarm, size, "sink \"%s\" holds " INT64_FORMAT " MB of the outbox, the limit is %d MB",
				 holder, held / (1024 * 1024), orion_outbox_hold_limit);
}

/* In the log when it is raised, every few minutes, and when it is over. */
static void
log_alarm(const char *alarm)
{
	static TimestampTz last = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (alarm[0] == '\0')
	{
		if (last)
			ereport(LOG, (errmsg("the alarm about the outbox is over")));
		last = 0;
		return;
	}
	if (last && !TimestampDifferenceExceeds(last, now, ALARM_REPEAT_MS))
		return;
	last = now;
	ereport(WARNING,
			(errmsg("%s", alarm),
			 errdetail("The outbox grows until that sink has passed its oldest segment. Nothing is dropped."),
			 errhint("See orion.sinks and orion.outbox, and docs/operations.md for what to do.")));
}

const char *
orion_outbox_maintain(void)
{
	static char alarm[ORION_ERROR_LEN];

	int			shared = pg_atomic_read_u32(&orion_shared->outbox_segment);
	int			segment;
	int			to_seal;
	int			to_truncate;

	begin("orion: looking after the outbox");
	adopt();
	if (shared && shared != current_segment())
		follow_shared(shared);
	segment = rotate(current_segment());
	to_seal = segments_where("s.closed_at IS NOT NULL AND s.sealed_xid IS NULL");
	to_truncate = truncatable();
	look_for_alarm(alarm, sizeof(alarm));
	commit();
	log_alarm(alarm);

	pg_atomic_write_u32(&orion_shared->outbox_segment, segment);
	each_segment(to_seal, "orion: sealing a segment", seal);
	each_segment(to_truncate, "orion: truncating a segment", truncate_segment);
	return alarm[0] ? alarm : NULL;
}
