/*
 * attempt.c
 *	  Keeps attempts to log in on record although their transaction rolls back.
 *
 * A login writes its attempt into a ring in shared memory; the maintenance worker,
 * woken by that, writes it into the table in a transaction of its own.  When the
 * ring is full, and where no worker serves the database, the login writes the row
 * itself, and a rollback takes it along.  A crash loses what was not written yet:
 * some thirty milliseconds (maintenance.c).  ORION_LOCK_ATTEMPTS guards the ring; only the worker moves its tail,
 * after its commit, so an error there writes the same attempts again.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "core/compat.h"
#include "core/shmem.h"
#include "core/wake.h"
#include "auth/auth.h"
#include "auth/throttle.h"

#define RING_SLOTS		1024
#define BATCH			128
#define EXPIRE_SECONDS	60

typedef struct Attempt
{
	TimestampTz at;
	bool		has_user;
	pg_uuid_t	user;
	char		email[256];		/* longest address and its NUL; empty: null */
	char		outcome[24];
	char		address[64];	/* empty: null */
	char		agent[256];		/* cut; empty: null */
} Attempt;

typedef struct AttemptRing
{
	uint64		head;			/* number of the next one to write */
	uint64		tail;			/* of the oldest one not in the table */
	Attempt		slots[RING_SLOTS];
} AttemptRing;

static AttemptRing *ring = NULL;

PG_FUNCTION_INFO_V1(orion_attempt_log);

static void
startup(void)
{
	bool		found;

	ring = ShmemInitStruct("orion login attempts", sizeof(AttemptRing), &found);
	if (!found)
		ring->head = ring->tail = 0;
}

static void
copy_text(FunctionCallInfo fcinfo, int n, char *to, size_t room)
{
	text	   *from;
	int			len;

	to[0] = '\0';
	if (PG_ARGISNULL(n))
		return;
	from = PG_GETARG_TEXT_PP(n);
	len = pg_mbcliplen(VARDATA_ANY(from), VARSIZE_ANY_EXHDR(from), room - 1);
	memcpy(to, VARDATA_ANY(from), len);
	to[len] = '\0';
}

/*
 * orion_private.attempt_log(email text, user_id uuid, outcome text, address text,
 * user_agent text): false when the caller must write the row itself.
 */
Datum
orion_attempt_log(PG_FUNCTION_ARGS)
{
	Attempt		attempt = {.at = GetCurrentTimestamp()};
	bool		taken = false;

	if (RecoveryInProgress() || !orion_throttle_loaded())
		PG_RETURN_BOOL(false);
	copy_text(fcinfo, 0, attempt.email, sizeof(attempt.email));
	attempt.has_user = !PG_ARGISNULL(1);
	if (attempt.has_user)
		attempt.user = *PG_GETARG_UUID_P(1);
	copy_text(fcinfo, 2, attempt.outcome, sizeof(attempt.outcome));
	copy_text(fcinfo, 3, attempt.address, sizeof(attempt.address));
	copy_text(fcinfo, 4, attempt.agent, sizeof(attempt.agent));

	LWLockAcquire(orion_shmem_lock(ORION_LOCK_ATTEMPTS), LW_EXCLUSIVE);
	if (ring->head - ring->tail < RING_SLOTS)
	{
		ring->slots[ring->head++ % RING_SLOTS] = attempt;
		taken = true;
	}
	LWLockRelease(orion_shmem_lock(ORION_LOCK_ATTEMPTS));
	if (taken)
		orion_wake_kind(ORION_WORKER_MAINTENANCE);
	PG_RETURN_BOOL(taken);
}

/* --- maintenance ---------------------------------------------------------------- */

static void
begin(const char *activity)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	PushActiveSnapshot(GetTransactionSnapshot());
	pgstat_report_activity(STATE_RUNNING, activity);
}

static void
commit(void)
{
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
	pgstat_report_activity(STATE_IDLE, NULL);
}

/* Prepared once: only the worker comes here. */
static SPIPlanPtr
kept_plan(const char *text, int nargs, Oid *types)
{
	static SPIPlanPtr plan = NULL;

	if (!plan)
	{
		plan = SPI_prepare(text, nargs, types);
		if (!plan || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare how to write attempts to log in");
	}
	return plan;
}

static void
write_attempt(const Attempt *attempt)
{
	static const char insert[] =
	"INSERT INTO orion_private.login_attempts (attempted_at, email, user_id, outcome, address, user_agent)"
	" VALUES ($1, $2, $3, $4, $5::pg_catalog.inet, $6)";
	Oid			types[] = {TIMESTAMPTZOID, TEXTOID, UUIDOID, TEXTOID, TEXTOID, TEXTOID};
	Datum		values[] = {
		TimestampTzGetDatum(attempt->at), CStringGetTextDatum(attempt->email), UUIDPGetDatum(&attempt->user),
		CStringGetTextDatum(attempt->outcome), CStringGetTextDatum(attempt->address), CStringGetTextDatum(attempt->agent)
	};
	char		nulls[] = {
		' ', attempt->email[0] ? ' ' : 'n', attempt->has_user ? ' ' : 'n',
		' ', attempt->address[0] ? ' ' : 'n', attempt->agent[0] ? ' ' : 'n', '\0'
	};

	if (SPI_execute_plan(kept_plan(insert, lengthof(types), types), values, nulls, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not write an attempt to log in");
}

/* True when there may be more. */
static bool
drain(void)
{
	static Attempt batch[BATCH];
	int			n;

	LWLockAcquire(orion_shmem_lock(ORION_LOCK_ATTEMPTS), LW_SHARED);
	n = (int) Min(ring->head - ring->tail, BATCH);
	for (int i = 0; i < n; i++)
		batch[i] = ring->slots[(ring->tail + i) % RING_SLOTS];
	LWLockRelease(orion_shmem_lock(ORION_LOCK_ATTEMPTS));
	if (n == 0)
		return false;
	begin("orion: recording attempts to log in");
	for (int i = 0; i < n; i++)
		write_attempt(&batch[i]);
	commit();
	LWLockAcquire(orion_shmem_lock(ORION_LOCK_ATTEMPTS), LW_EXCLUSIVE);
	ring->tail += n;
	LWLockRelease(orion_shmem_lock(ORION_LOCK_ATTEMPTS));
	return n == BATCH;
}

/* Counts what the table knows from before this shared memory. */
static void
load(void)
{
	static const char query[] =
	"SELECT a.email, pg_catalog.text(a.network), a.outcome, a.attempted_at FROM orion_private.login_attempts a"
	" WHERE a.attempted_at OPERATOR(pg_catalog.>=) $1 AND a.attempted_at OPERATOR(pg_catalog.<) $2"
	" AND a.outcome OPERATOR(pg_catalog.<>) ALL ('{locked,two_factor_required}'::pg_catalog.text[]) ORDER BY a.attempted_at, a.id";
	Oid			types[] = {TIMESTAMPTZOID, TIMESTAMPTZOID};
	TimestampTz from = GetCurrentTimestamp() - orion_auth_login_window * USECS_PER_SEC;
	Datum		values[] = {TimestampTzGetDatum(from), TimestampTzGetDatum(orion_throttle_started())};

	begin("orion: counting attempts to log in");
	if (SPI_execute_with_args(query, lengthof(types), types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the attempts to log in");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		char	   *account = SPI_getvalue(row, SPI_tuptable->tupdesc, 1);
		char	   *network = SPI_getvalue(row, SPI_tuptable->tupdesc, 2);
		bool		isnull;
		TimestampTz at = DatumGetTimestampTz(SPI_getbinval(row, SPI_tuptable->tupdesc, 4, &isnull));

		if (strcmp(SPI_getvalue(row, SPI_tuptable->tupdesc, 3), "ok") == 0)
			orion_throttle_clear(account, network);
		else
			orion_throttle_failed(account, network, at);
	}
	commit();
	orion_throttle_set_loaded();
}

static void
forget_old(void)
{
	static const char query[] =
	"DELETE FROM orion_private.login_attempts WHERE attempted_at OPERATOR(pg_catalog.<) $1";
	Oid			types[] = {TIMESTAMPTZOID};
	TimestampTz before = GetCurrentTimestamp() - (int64) orion_auth_attempt_retention * SECS_PER_MINUTE * USECS_PER_SEC;
	Datum		values[] = {TimestampTzGetDatum(before)};

	begin("orion: forgetting attempts to log in");
	if (SPI_execute_with_args(query, lengthof(types), types, values, NULL, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not delete old attempts to log in");
	if (SPI_execute("DELETE FROM orion_private.one_time_tokens WHERE expires_at OPERATOR(pg_catalog.<)"
					" (pg_catalog.now() OPERATOR(pg_catalog.-) '1 day'::pg_catalog.interval)", false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not delete old one-time tokens");
	commit();
}

void
orion_auth_maintain(void)
{
	static TimestampTz next = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (!orion_throttle_loaded())
		load();
	while (drain())
		CHECK_FOR_INTERRUPTS();
	if (now < next)
		return;
	next = TimestampTzPlusMilliseconds(now, EXPIRE_SECONDS * 1000);
	orion_throttle_expire();
	forget_old();
}

void
orion_attempt_init(void)
{
	orion_shmem_add(MAXALIGN(sizeof(AttemptRing)), startup);
}
