/*
 * hash_memory.c
 *	  Bounds the memory of all password hashes at once, so that a flood of logins
 *	  waits and does not exhaust the machine.
 *
 * A counter in shared memory under a spinlock, and a condition variable for those
 * who wait.  Who holds memory is in libsodium and cannot be interrupted, so it
 * is always given back; a process that is killed there takes the server's shared
 * memory with it.  A hash that needs more than the limit runs alone.
 */
#include "postgres.h"

#include "pgstat.h"
#include "storage/condition_variable.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/shmem.h"
#include "auth/throttle.h"

typedef struct HashMemory
{
	slock_t		mutex;
	int64		used;			/* kB, guarded by mutex */
	ConditionVariable released;
} HashMemory;

static HashMemory *memory = NULL;

static void
startup(void)
{
	bool		found;

	memory = ShmemInitStruct("orion hash memory", sizeof(HashMemory), &found);
	if (found)
		return;
	SpinLockInit(&memory->mutex);
	memory->used = 0;
	ConditionVariableInit(&memory->released);
}

static bool
try_acquire(int kilobytes)
{
	bool		ok;

	SpinLockAcquire(&memory->mutex);
	ok = memory->used == 0 || memory->used + kilobytes <= orion_auth_hash_memory_limit;
	if (ok)
		memory->used += kilobytes;
	SpinLockRelease(&memory->mutex);
	return ok;
}

void
orion_hash_memory_acquire(int kilobytes)
{
	TimestampTz deadline;

	if (try_acquire(kilobytes))
		return;
	deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), orion_auth_hash_timeout);
	ConditionVariablePrepareToSleep(&memory->released);
	while (!try_acquire(kilobytes))
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);

		if (left <= 0)
		{
			ConditionVariableCancelSleep();
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
					 errmsg("too many passwords are being hashed"),
					 errhint("Try again later, or raise orion.auth_hash_memory_limit.")));
		}
		ConditionVariableTimedSleep(&memory->released, left, PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
}

void
orion_hash_memory_release(int kilobytes)
{
	SpinLockAcquire(&memory->mutex);
	memory->used -= kilobytes;
	SpinLockRelease(&memory->mutex);
	ConditionVariableBroadcast(&memory->released);
}

void
orion_hash_memory_init(void)
{
	orion_shmem_add(MAXALIGN(sizeof(HashMemory)), startup);
}
