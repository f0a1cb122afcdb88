/*
 * hash_memory.c
 *	  Bounds the memory of all password hashes at once, so that a flood of logins
 *	  waits and does not exhaust the machine, and their number to that of the
 *	  processors.
 *
 * A hash does nothing but compute: more of them than processors only take turns, and
 * each turn begins by reading back from memory what the others' drove out of the
 * caches (measured with eight on two processors: a fifth of the processor time).
 *
 * Counters in shared memory under a spinlock, and a condition variable for those
 * who wait.  Who holds memory is in libsodium and cannot be interrupted, so it
 * is always given back; a process that is killed there takes the server's shared
 * memory with it.  A hash that needs more than the limit runs alone.
 */
#include "postgres.h"

#include <unistd.h>

#include "pgstat.h"
#include "storage/condition_variable.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/shmem.h"
#include "auth/throttle.h"

/* Who was chosen may have been cancelled and told nobody: the others look again. */
#define LOOK_AGAIN_MS	200

typedef struct HashMemory
{
	int			processors;
	slock_t		mutex;
	int64		used;			/* kB, guarded by mutex */
	int			running;		/* hashes, guarded by mutex */
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
	memory->running = 0;
	memory->processors = Max((int) sysconf(_SC_NPROCESSORS_ONLN), 1);
	ConditionVariableInit(&memory->released);
}

static bool
try_acquire(int kilobytes)
{
	bool		ok;

	SpinLockAcquire(&memory->mutex);
	ok = memory->running == 0 ||
		(memory->running < memory->processors && memory->used + kilobytes <= orion_auth_hash_memory_limit);
	if (ok)
	{
		memory->running++;
		memory->used += kilobytes;
	}
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
			ConditionVariableSignal(&memory->released);
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
					 errmsg("too many passwords are being hashed"),
					 errhint("Try again later, or raise orion.auth_hash_memory_limit.")));
		}
		ConditionVariableTimedSleep(&memory->released, Min(left, LOOK_AGAIN_MS), PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
	ConditionVariableSignal(&memory->released); /* there may be room for the
												 * next, too */
}

void
orion_hash_memory_release(int kilobytes)
{
	SpinLockAcquire(&memory->mutex);
	memory->running--;
	memory->used -= kilobytes;
	SpinLockRelease(&memory->mutex);
	ConditionVariableSignal(&memory->released);
}

void
orion_hash_memory_init(void)
{
	orion_shmem_add(MAXALIGN(sizeof(HashMemory)), startup);
}
