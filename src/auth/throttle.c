/*
 * throttle.c
 *	  Counts failed logins by account, by network and by both, in shared memory.
 *
 * The truth is the table login_attempts: the maintenance worker fills the counters
 * from it after a start (attempt.c), and until then, when they are full, and in
 * databases other than orion.database, auth.sql asks the table.  A counter is a
 * ring of buckets over orion.auth_login_window, found by a digest of its name, so
 * names of any length and bytes take the same room.  ORION_LOCK_ATTEMPTS guards
 * all of it; nothing under it can raise.
 */
#include "postgres.h"

#include <sodium.h>

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/plan.h"
#include "core/shmem.h"
#include "auth/throttle.h"

#define MAX_COUNTERS	65536	/* 5 MB; three for each network that guesses */
#define BUCKETS			15
#define KEY_LEN			crypto_generichash_BYTES_MIN
#define MAX_RECORDS		1000	/* of attempts that were refused unseen, by
								 * network and window */

typedef struct Counter
{
	unsigned char key[KEY_LEN]; /* hash key, first */
	int64		last;			/* number of the newest bucket */
	uint16		failures[BUCKETS];	/* bucket b is at b % BUCKETS */
} Counter;

typedef struct ThrottleState
{
	Oid			database;		/* whose attempts are all counted */
	bool		full;			/* some were not */
	TimestampTz started;		/* of this shared memory */
} ThrottleState;

typedef enum CounterKind
{
	BY_ACCOUNT = 'a',
	BY_NETWORK = 'n',
	BY_PAIR = 'p',
	RECORDED = 'r',				/* no failures: rows of a network */
} CounterKind;

static ThrottleState *state = NULL;
static HTAB *counters = NULL;

PG_FUNCTION_INFO_V1(orion_login_wait);
PG_FUNCTION_INFO_V1(orion_throttle_check);
PG_FUNCTION_INFO_V1(orion_throttle_forget);

static void
startup(void)
{
	HASHCTL		control = {.keysize = KEY_LEN,.entrysize = sizeof(Counter)};
	bool		found;

	state = ShmemInitStruct("orion throttle state", sizeof(ThrottleState), &found);
	if (!found)
	{
		memset(state, 0, sizeof(ThrottleState));
		state->started = GetCurrentTimestamp();
	}
	counters = ShmemInitHash("orion login failures", MAX_COUNTERS, MAX_COUNTERS, &control, HASH_ELEM | HASH_BLOBS);
}

/* Seconds of a bucket; at least one. */
static int64
bucket_seconds(void)
{
	return Max(orion_auth_login_window / BUCKETS, 1);
}

static int64
bucket_of(TimestampTz at)
{
	return at / USECS_PER_SEC / bucket_seconds();
}

/* False when the kind has no counter for this attempt. */
static bool
make_key(CounterKind kind, const char *account, const char *network, unsigned char *key)
{
	crypto_generichash_state digest;
	int64		length = bucket_seconds();	/* other buckets after a reload:
											 * other counters */
	unsigned char byte = kind;
	bool		by_account = kind == BY_ACCOUNT || kind == BY_PAIR;

	if ((by_account && !account) || (kind != BY_ACCOUNT && !network))
		return false;
	crypto_generichash_init(&digest, NULL, 0, KEY_LEN);
	crypto_generichash_update(&digest, &byte, 1);
	crypto_generichash_update(&digest, (unsigned char *) &length, sizeof(length));
	if (by_account)
		crypto_generichash_update(&digest, (const unsigned char *) account, strlen(account) + 1);
	if (kind != BY_ACCOUNT)
		crypto_generichash_update(&digest, (const unsigned char *) network, strlen(network));
	crypto_generichash_final(&digest, key, KEY_LEN);
	return true;
}

/* Empties the buckets between the newest and the one of now. */
static void
advance(Counter *counter, int64 now)
{
	if (now - counter->last >= BUCKETS)
		memset(counter->failures, 0, sizeof(counter->failures));
	else
		for (int64 b = counter->last + 1; b <= now; b++)
			counter->failures[b % BUCKETS] = 0;
	counter->last = Max(counter->last, now);
}

/* Seconds until there are fewer failures than the limit; 0 when there are. */
static int
seconds_locked(const Counter *counter, int limit, TimestampTz at)
{
	int64		now = bucket_of(at);
	int64		sum = 0;

	for (int64 b = Max(counter->last, now) - BUCKETS + 1; b <= counter->last; b++)
		sum += counter->failures[b % BUCKETS];
	for (int64 b = Max(counter->last, now) - BUCKETS + 1; b <= counter->last; b++)
	{
		if (sum < limit)
			break;
		sum -= counter->failures[b % BUCKETS];
		if (sum < limit)
			return Max((int) ((b + BUCKETS) * bucket_seconds() - at / USECS_PER_SEC), 1);
	}
	return 0;
}

/* Lock held. */
static int
locked_for(CounterKind kind, int limit, const char *account, const char *network, TimestampTz at)
{
	unsigned char key[KEY_LEN];
	const Counter *counter;

	if (limit == 0 || !make_key(kind, account, network, key))
		return 0;
	counter = hash_search(counters, key, HASH_FIND, NULL);
	return counter ? seconds_locked(counter, limit, at) : 0;
}

/* Lock held. */
static void
count_failure(CounterKind kind, const char *account, const char *network, TimestampTz at)
{
	unsigned char key[KEY_LEN];
	int64		now = bucket_of(at);
	Counter    *counter;
	bool		found;

	if (!make_key(kind, account, network, key))
		return;
	counter = hash_search(counters, key, hash_get_num_entries(counters) < MAX_COUNTERS ? HASH_ENTER_NULL : HASH_FIND, &found);
	if (!counter)
	{
		state->full = true;
		return;
	}
	if (!found)
	{
		memset(counter->failures, 0, sizeof(counter->failures));
		counter->last = now;
	}
	advance(counter, now);
	if (now > counter->last - BUCKETS && counter->failures[now % BUCKETS] < PG_UINT16_MAX)
		counter->failures[now % BUCKETS]++;
}

/* Lock held. */
static void
count_all(const char *account, const char *network, TimestampTz at)
{
	count_failure(BY_ACCOUNT, account, network, at);
	count_failure(BY_NETWORK, account, network, at);
	count_failure(BY_PAIR, account, network, at);
}

void
orion_throttle_failed(const char *account, const char *network, TimestampTz at)
{
	LWLockAcquire(orion_shmem_lock(ORION_LOCK_ATTEMPTS), LW_EXCLUSIVE);
	count_all(account, network, at);
	LWLockRelease(orion_shmem_lock(ORION_LOCK_ATTEMPTS));
}

/* A success says nothing about what else the network tries. */
void
orion_throttle_clear(const char *account, const char *network)
{
	unsigned char key[KEY_LEN];

	LWLockAcquire(orion_shmem_lock(ORION_LOCK_ATTEMPTS), LW_EXCLUSIVE);
	if (make_key(BY_ACCOUNT, account, network, key))
		(void) hash_search(counters, key, HASH_REMOVE, NULL);
	if (make_key(BY_PAIR, account, network, key))
		(void) hash_search(counters, key, HASH_REMOVE, NULL);
	LWLockRelease(orion_shmem_lock(ORION_LOCK_ATTEMPTS));
}

bool
orion_throttle_records(const char *network)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		records;

	LWLockAcquire(orion_shmem_lock(ORION_LOCK_ATTEMPTS), LW_EXCLUSIVE);
	records = locked_for(RECORDED, MAX_RECORDS, NULL, network, now) == 0;
	if (records)
		count_failure(RECORDED, NULL, network, now);
	LWLockRelease(orion_shmem_lock(ORION_LOCK_ATTEMPTS));
	return records;
}

static char *
text_argument(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(n));
}

/*
 * Seconds until the next attempt may be made; 0: now.  When failed, and not
 * locked, counts a failure, in one step: of guesses at the same time no more than
 * the limit get an answer.  Who is known from this network is not locked by what
 * others do to the account.  False: ask the table.
 */
static bool
check(const char *account, const char *network, bool known, bool failed, int *seconds)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		complete;
	int			wait;

	LWLockAcquire(orion_shmem_lock(ORION_LOCK_ATTEMPTS), failed ? LW_EXCLUSIVE : LW_SHARED);
	complete = state->database == MyDatabaseId && !state->full;
	wait = Max(locked_for(BY_PAIR, orion_auth_login_max_pair, account, network, now),
			   locked_for(BY_NETWORK, orion_auth_login_max_address, account, network, now));
	if (!known)
		wait = Max(wait, locked_for(BY_ACCOUNT, orion_auth_login_max_account, account, network, now));
	if (failed && wait == 0)
		count_all(account, network, now);
	LWLockRelease(orion_shmem_lock(ORION_LOCK_ATTEMPTS));
	*seconds = wait;
	return complete;
}

/*
 * orion_private.throttle_check(account text, network text, known boolean, failed boolean):
 * NULL: ask the table.
 */
Datum
orion_throttle_check(PG_FUNCTION_ARGS)
{
	int			wait;

	if (!check(text_argument(fcinfo, 0), text_argument(fcinfo, 1), PG_GETARG_BOOL(2), PG_GETARG_BOOL(3), &wait))
		PG_RETURN_NULL();
	PG_RETURN_INT32(wait);
}

/* Where the table has a say; wait: what was found so far, or NULL. */
static int
wait_known(FunctionCallInfo fcinfo, const int *wait)
{
	static const char query[] = "SELECT orion_private.login_wait_known($1, $2, $3, $4)";
	static const Oid types[] = {TEXTOID, INETOID, BOOLOID, INT4OID};
	Datum		values[] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1), PG_GETARG_DATUM(2), Int32GetDatum(wait ? *wait : 0)};
	char		nulls[] = {PG_ARGISNULL(0) ? 'n' : ' ', PG_ARGISNULL(1) ? 'n' : ' ', ' ', wait ? ' ' : 'n', '\0'};
	int			seconds;
	bool		isnull;

	SPI_connect();
	if (SPI_execute_plan(orion_plan_get(query, strlen(query), lengthof(types), types), values, nulls, false, 1) != SPI_OK_SELECT ||
		SPI_processed != 1)
		elog(ERROR, "could not ask for how long logins have to wait");
	seconds = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();
	return seconds;
}

/*
 * orion_private.login_wait(account text, network inet, failed boolean)
 *
 * Most of the time shared memory says 0, and that is all.
 */
Datum
orion_login_wait(PG_FUNCTION_ARGS)
{
	char	   *network = PG_ARGISNULL(1) ? NULL : TextDatumGetCString(DirectFunctionCall1(network_show, PG_GETARG_DATUM(1)));
	int			wait;

	if (!check(text_argument(fcinfo, 0), network, false, PG_GETARG_BOOL(2), &wait))
		wait = wait_known(fcinfo, NULL);
	else if (wait > 0)
		wait = wait_known(fcinfo, &wait);
	PG_RETURN_INT32(wait);
}

/* orion_private.throttle_clear(account text, network text) */
Datum
orion_throttle_forget(PG_FUNCTION_ARGS)
{
	orion_throttle_clear(text_argument(fcinfo, 0), text_argument(fcinfo, 1));
	PG_RETURN_VOID();
}

TimestampTz
orion_throttle_started(void)
{
	return state->started;
}

bool
orion_throttle_loaded(void)
{
	bool		loaded;

	LWLockAcquire(orion_shmem_lock(ORION_LOCK_ATTEMPTS), LW_SHARED);
	loaded = state->database == MyDatabaseId;
	LWLockRelease(orion_shmem_lock(ORION_LOCK_ATTEMPTS));
	return loaded;
}

void
orion_throttle_set_loaded(void)
{
	LWLockAcquire(orion_shmem_lock(ORION_LOCK_ATTEMPTS), LW_EXCLUSIVE);
	state->database = MyDatabaseId;
	LWLockRelease(orion_shmem_lock(ORION_LOCK_ATTEMPTS));
}

/* What did not fit while all were in use is in the table, until the window is over. */
void
orion_throttle_expire(void)
{
	int64		oldest = bucket_of(GetCurrentTimestamp()) - BUCKETS;
	HASH_SEQ_STATUS walk;
	Counter    *counter;

	LWLockAcquire(orion_shmem_lock(ORION_LOCK_ATTEMPTS), LW_EXCLUSIVE);
	hash_seq_init(&walk, counters);
	while ((counter = hash_seq_search(&walk)) != NULL)
	{
		if (counter->last <= oldest)
			(void) hash_search(counters, counter->key, HASH_REMOVE, NULL);
	}
	if (hash_get_num_entries(counters) == 0)
		state->full = false;
	LWLockRelease(orion_shmem_lock(ORION_LOCK_ATTEMPTS));
}

void
orion_throttle_init(void)
{
	orion_shmem_add(add_size(MAXALIGN(sizeof(ThrottleState)), hash_estimate_size(MAX_COUNTERS, sizeof(Counter))), startup);
}
