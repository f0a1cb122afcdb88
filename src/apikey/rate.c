/*
 * rate.c
 *	  Limits of API keys: a minute's uses at once, then evenly.
 *
 * The generic cell rate algorithm (ITU-T I.371): one time a key, at which all its
 * uses so far would have been paid off.  Shared by all processes under one LWLock,
 * held for one look-up; when the table is full of keys in use, more keys are not
 * limited.  A restart of the server forgets.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"

#include "apikey/rate.h"

#define MAX_KEYS	10000		/* used in one minute; 40 bytes and a bit each */

typedef struct KeyUse
{
	pg_uuid_t	key;			/* hash key, first */
	TimestampTz paid_off_at;
} KeyUse;

static HTAB *uses = NULL;
static LWLock *lock = NULL;
static shmem_request_hook_type prev_shmem_request = NULL;
static shmem_startup_hook_type prev_shmem_startup = NULL;

static void
request_shmem(void)
{
	if (prev_shmem_request)
		prev_shmem_request();
	RequestAddinShmemSpace(hash_estimate_size(MAX_KEYS, sizeof(KeyUse)));
	RequestNamedLWLockTranche("orion_api_keys", 1);
}

static void
startup_shmem(void)
{
	HASHCTL		control = {.keysize = sizeof(pg_uuid_t),.entrysize = sizeof(KeyUse)};

	if (prev_shmem_startup)
		prev_shmem_startup();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	uses = ShmemInitHash("orion API keys", MAX_KEYS, MAX_KEYS, &control, HASH_ELEM | HASH_BLOBS);
	lock = &(GetNamedLWLockTranche("orion_api_keys"))->lock;
	LWLockRelease(AddinShmemInitLock);
}

/* Forgets keys that have paid off everything. */
static void
sweep(TimestampTz now)
{
	HASH_SEQ_STATUS status;
	KeyUse	   *use;

	hash_seq_init(&status, uses);
	while ((use = hash_seq_search(&status)) != NULL)
		if (use->paid_off_at <= now)
			hash_search(uses, &use->key, HASH_REMOVE, NULL);
}

int
orion_api_key_rate(const pg_uuid_t *key, int limit)
{
	TimestampTz now = GetCurrentTimestamp();
	int64		price = USECS_PER_MINUTE / limit;
	int64		wait = 0;
	KeyUse	   *use;
	bool		found;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	use = hash_search(uses, key, HASH_FIND, NULL);
	if (!use)
	{
		if (hash_get_num_entries(uses) >= MAX_KEYS)
			sweep(now);
		if (hash_get_num_entries(uses) < MAX_KEYS)
			use = hash_search(uses, key, HASH_ENTER_NULL, &found);
		if (use)
			use->paid_off_at = now;
	}
	if (use)
	{
		TimestampTz paid_off_at = Max(use->paid_off_at, now) + price;

		wait = paid_off_at - now - price * limit;
		if (wait <= 0)
			use->paid_off_at = paid_off_at;
	}
	LWLockRelease(lock);
	return wait <= 0 ? 0 : (int) ((wait + USECS_PER_SEC - 1) / USECS_PER_SEC);
}

void
orion_api_key_rate_init(void)
{
	prev_shmem_request = shmem_request_hook;
	shmem_request_hook = request_shmem;
	prev_shmem_startup = shmem_startup_hook;
	shmem_startup_hook = startup_shmem;
}
