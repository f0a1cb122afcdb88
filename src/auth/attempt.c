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
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "core/compat.h"
#include "core/plan.h"
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

extern Datum orion_address_network(PG_FUNCTION_ARGS);

PG_FUNCTION_INFO_V1(orion_attempt_record);

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

/* False when the ring is full or nobody empties it. */
static bool
log_attempt(const Attempt *attempt)
{
	bool		taken = false;

	if (RecoveryInProgress() || !orion_throttle_loaded())
		return false;
	LWLockAcquire(orion_shmem_lock(ORION_LOCK_ATTEMPTS), LW_EXCLUSIVE);
	if (ring->head - ring->tail < RING_SLOTS)
	{
		ring->slots[ring->head++ % RING_SLOTS] = *attempt;
		taken = true;
	}
	LWLockRelease(orion_shmem_lock(ORION_LOCK_ATTEMPTS));
	if (taken)
		orion_wake_kind(ORION_WORKER_MAINTENANCE);
	return taken;
}

/* In this transaction, with all there is of the user agent. */
static void
insert_attempt(FunctionCallInfo fcinfo)
{
	static const char insert[] =
	"INSERT INTO orion_private.login_attempts (email, user_id, outcome, address, user_agent) VALUES ($1, $2, $3, $4, $5)";
	static const Oid types[] = {TEXTOID, UUIDOID, TEXTOID, INETOID, TEXTOID};
	Datum		values[lengthof(types)];
	char		nulls[lengthof(types) + 1] = {'\0'};

	for (int i = 0; i < lengthof(types); i++)
	{
		values[i] = PG_GETARG_DATUM(i);
		nulls[i] = PG_ARGISNULL(i) ? 'n' : ' ';
	}
	SPI_connect();
	if (SPI_execute_plan(orion_plan_get(insert, strlen(insert), lengthof(types), types), values, nulls, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not write an attempt to log in");
	SPI_finish();
}

/* Does it add anything to what is known of this network? */
static bool
is_news(const Attempt *attempt, FunctionCallInfo fcinfo)
{
	Datum		network;

	if (strcmp(attempt->outcome, "locked") != 0 || PG_ARGISNULL(3))
		return true;
	network = DirectFunctionCall1(network_show, DirectFunctionCall1(orion_address_network, PG_GETARG_DATUM(3)));
	return orion_throttle_records(TextDatumGetCString(network));
}

/*
 * orion_private.attempt_record(email text, user_id uuid, outcome text, address inet,
 * user_agent text)
 */
Datum
orion_attempt_record(PG_FUNCTION_ARGS)
{
	Attempt		attempt = {.at = GetCurrentTimestamp()};

	copy_text(fcinfo, 0, attempt.email, sizeof(attempt.email));
	attempt.has_user = !PG_ARGISNULL(1);
	if (attempt.has_user)
		attempt.user = *PG_GETARG_UUID_P(1);
	copy_text(fcinfo, 2, attempt.outcome, sizeof(attempt.outcome));
	if (!PG_ARGISNULL(3))
		text_to_cstring_buffer(DatumGetTextPP(DirectFunctionCall1(network_host, PG_GETARG_DATUM(3))),
							   attempt.address, sizeof(attempt.address));
	copy_text(fcinfo, 4, attempt.agent, sizeof(attempt.agent));
	if (is_news(&attempt, fcinfo) && !log_attempt(&attempt))
		insert_attempt(fcinfo);
	PG_RETURN_VOID();
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

/* Columns of what is written, in the order of the statement's parameters. */
enum
{
	ATTEMPTED_AT,
	EMAIL,
	USER_ID,
	OUTCOME,
	ADDRESS,
	USER_AGENT,
	COLUMNS,
};

/* Prepared once: only the worker comes here. */
static SPIPlanPtr
kept_plan(void)
{
	static const char insert[] =
	"INSERT INTO orion_private.login_attempts (attempted_at, email, user_id, outcome, address, user_agent)"
	" SELECT a.at, a.email, a.user_id, a.outcome, a.address::pg_catalog.inet, a.user_agent"
	" FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4),"
	" pg_catalog.unnest($5), pg_catalog.unnest($6)) AS a (at, email, user_id, outcome, address, user_agent)";
	static SPIPlanPtr plan = NULL;

	if (!plan)
	{
		Oid			types[COLUMNS] = {TIMESTAMPTZARRAYOID, TEXTARRAYOID, UUIDARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID};

		plan = SPI_prepare(insert, COLUMNS, types);
		if (!plan || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare how to write attempts to log in");
	}
	return plan;
}

/* Empty: null. */
static void
set_text(NullableDatum *value, const char *string)
{
	value->isnull = string[0] == '\0';
	value->value = value->isnull ? (Datum) 0 : CStringGetTextDatum(string);
}

static void
set_row(NullableDatum *row, const Attempt *attempt)
{
	row[ATTEMPTED_AT].value = TimestampTzGetDatum(attempt->at);
	row[USER_ID].value = UUIDPGetDatum(&attempt->user);
	row[USER_ID].isnull = !attempt->has_user;
	set_text(&row[EMAIL], attempt->email);
	set_text(&row[OUTCOME], attempt->outcome);
	set_text(&row[ADDRESS], attempt->address);
	set_text(&row[USER_AGENT], attempt->agent);
}

/* One statement: the indexes and the partition of the audit log are opened once. */
static void
write_attempts(const Attempt *batch, int n)
{
	static const Oid types[COLUMNS] = {TIMESTAMPTZOID, TEXTOID, UUIDOID, TEXTOID, TEXTOID, TEXTOID};
	NullableDatum (*rows)[COLUMNS] = palloc0(n * sizeof(*rows));
	Datum	   *values = palloc(n * sizeof(Datum));
	bool	   *nulls = palloc(n * sizeof(bool));
	Datum		arrays[COLUMNS];

	for (int i = 0; i < n; i++)
		set_row(rows[i], &batch[i]);
	for (int column = 0; column < COLUMNS; column++)
	{
		int16		length;
		bool		by_value;
		char		alignment;
		int			lower = 1;

		for (int i = 0; i < n; i++)
		{
			values[i] = rows[i][column].value;
			nulls[i] = rows[i][column].isnull;
		}
		get_typlenbyvalalign(types[column], &length, &by_value, &alignment);
		arrays[column] = PointerGetDatum(construct_md_array(values, nulls, 1, &n, &lower, types[column],
															length, by_value, alignment));
	}
	if (SPI_execute_plan(kept_plan(), arrays, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not write attempts to log in");
}

/* How many there were; BATCH: perhaps more. */
static int
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
		return 0;
	begin("orion: recording attempts to log in");
	write_attempts(batch, n);
	commit();
	LWLockAcquire(orion_shmem_lock(ORION_LOCK_ATTEMPTS), LW_EXCLUSIVE);
	ring->tail += n;
	LWLockRelease(orion_shmem_lock(ORION_LOCK_ATTEMPTS));
	return n;
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

bool
orion_auth_maintain(void)
{
	static TimestampTz next = 0;
	TimestampTz now = GetCurrentTimestamp();
	int			n;
	int			written = 0;

	if (!orion_throttle_loaded())
		load();
	do
	{
		CHECK_FOR_INTERRUPTS();
		n = drain();
		written += n;
	} while (n == BATCH);
	if (now >= next)
	{
		next = TimestampTzPlusMilliseconds(now, EXPIRE_SECONDS * 1000);
		orion_throttle_expire();
		forget_old();
	}
	return written > 0;
}

void
orion_attempt_init(void)
{
	orion_shmem_add(MAXALIGN(sizeof(AttemptRing)), startup);
}
