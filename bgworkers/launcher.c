/*
 * launcher.c
 *	  The launcher: the one static worker.  It keeps the wanted workers running.
 *
 * It compares what is wanted (settings, and what maintenance put into shared
 * memory) with the slots and starts what is missing.  It connects to no database
 * and runs no SQL, so there is little that could stop it.  It alone decides when
 * a worker is started again.  Should it die, the workers stay and the next
 * launcher finds them in their slots.
 *
 * OrionShared.lock is held while slots are looked at, and never while a worker is
 * registered: the slots to start are collected first.
 */
#include "postgres.h"

#include <signal.h>

#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/procsignal.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/wake.h"
#include "launcher.h"
#include "pool.h"
#include "pool_private.h"

PGDLLEXPORT void orion_launcher_main(Datum arg);

#define ABSENT_RETRY_MS		30000	/* look again for a missing extension */
#define NO_SLOT_RETRY_MS	5000	/* max_worker_processes used up */

typedef struct Wanted
{
	OrionWorkerKind kind;
	int32		index;
	int32		part;
	const char *name;
} Wanted;

static const struct
{
	const char *type;			/* in pg_stat_activity.backend_type */
	const char *function;
}			kinds[] = {
	[ORION_WORKER_MAINTENANCE] = {"orion maintenance", "orion_maintenance_main"},
	[ORION_WORKER_GATEWAY] = {"orion gateway", "orion_gateway_main"},
	[ORION_WORKER_EXECUTOR] = {"orion executor", "orion_executor_main"},
	[ORION_WORKER_RELAY] = {"orion relay", "orion_relay_main"},
	[ORION_WORKER_CONSUMER] = {"orion consumer", "orion_consumer_main"},
};

static TimestampTz last_no_slot_warning = 0;

/* ---- with OrionShared.lock held ---- */

typedef struct WantedList
{
	Wanted		items[ORION_MAX_SLOTS];
	int			count;
} WantedList;

static void
want(WantedList *list, OrionWorkerKind kind, int32 index, int32 part, const char *name)
{
	Wanted	   *item = &list->items[list->count++];

	item->kind = kind;
	item->index = index;
	item->part = part;
	item->name = name;
}

static void
list_wanted(WantedList *list, TimestampTz now)
{
	list->count = 0;
	if (orion_database == NULL || orion_database[0] == '\0' || orion_shared->hold_until > now)
		return;
	want(list, ORION_WORKER_MAINTENANCE, 0, 0, "");
	if (!orion_shared->extension_ready)
		return;
	for (int i = 0; i < orion_gateway_count; i++)
		want(list, ORION_WORKER_GATEWAY, i, 0, "");
	for (int i = 0; i < orion_executor_count; i++)
		want(list, ORION_WORKER_EXECUTOR, i, 0, "");
	if (RecoveryInProgress())
		return;
	for (int i = 0; i < orion_shared->nsinks; i++)
		want(list, ORION_WORKER_RELAY, orion_shared->sinks[i].id, orion_shared->sinks[i].part, orion_shared->sinks[i].name);
	for (int i = 0; i < orion_shared->nconsumers; i++)
		want(list, ORION_WORKER_CONSUMER, orion_shared->consumers[i].id, 0, orion_shared->consumers[i].name);
}

static OrionWorkerSlot *
find_slot(const Wanted *wanted)
{
	for (int i = 0; i < ORION_MAX_SLOTS; i++)
	{
		OrionWorkerSlot *slot = &orion_shared->slots[i];

		if (slot->in_use && slot->kind == wanted->kind && slot->index == wanted->index && slot->part == wanted->part)
			return slot;
	}
	return NULL;
}

static OrionWorkerSlot *
new_slot(const Wanted *wanted)
{
	for (int i = 0; i < ORION_MAX_SLOTS; i++)
	{
		OrionWorkerSlot *slot = &orion_shared->slots[i];

		if (slot->in_use)
			continue;
		slot->in_use = true;
		slot->kind = wanted->kind;
		slot->index = wanted->index;
		slot->part = wanted->part;
		strlcpy(slot->name, wanted->name, sizeof(slot->name));
		slot->proc = NULL;
		slot->pid = slot->program_pid = 0;
		slot->state = ORION_STATE_STOPPED;
		slot->since = GetCurrentTimestamp();
		slot->not_before = 0;
		slot->failures = 0;
		slot->restarts = 0;
		slot->last_error[0] = slot->pattern[0] = '\0';
		slot->pattern_as_of = 0;
		pg_atomic_write_u64(&slot->lag_events, 0);
		pg_atomic_write_u64(&slot->lag_since, 0);
		pg_atomic_write_u64(&slot->attempts, 0);
		pg_atomic_write_u64(&slot->rate, 0);
		pg_atomic_write_u32(&slot->idle, 0);
		return slot;
	}
	return NULL;
}

/* The process went away without ever attaching, or hangs before that. */
static bool
start_was_lost(const OrionWorkerSlot *slot, TimestampTz now)
{
	return slot->state == ORION_STATE_STARTING && slot->proc == NULL &&
		TimestampDifferenceExceeds(slot->launched_at, now, ORION_START_LIMIT_MS);
}

static bool
is_due(OrionWorkerSlot *slot, TimestampTz now)
{
	if (slot->proc != NULL)
		return false;
	if (slot->state == ORION_STATE_STARTING && !start_was_lost(slot, now))
		return false;
	return slot->not_before <= now;
}

static void
mark_started(OrionWorkerSlot *slot, TimestampTz now)
{
	slot->generation++;
	slot->stop = false;
	slot->state = ORION_STATE_STARTING;
	slot->since = slot->launched_at = now;
	slot->not_before = TimestampTzPlusMilliseconds(now, slot->kind == ORION_WORKER_MAINTENANCE &&
												   !orion_shared->extension_ready ? ABSENT_RETRY_MS : 0);
}

static bool
is_wanted(const OrionWorkerSlot *slot, const WantedList *wanted)
{
	for (int i = 0; i < wanted->count; i++)
	{
		if (slot->kind == wanted->items[i].kind && slot->index == wanted->items[i].index &&
			slot->part == wanted->items[i].part)
			return true;
	}
	return false;
}

/* Asks workers that nobody wants to leave, and frees the slots of those gone. */
static void
dismiss_unwanted(const WantedList *wanted, TimestampTz now)
{
	for (int i = 0; i < ORION_MAX_SLOTS; i++)
	{
		OrionWorkerSlot *slot = &orion_shared->slots[i];

		if (!slot->in_use || is_wanted(slot, wanted))
			continue;
		slot->stop = true;
		if (slot->proc)
			SetLatch(&slot->proc->procLatch);
		else if (slot->state != ORION_STATE_STARTING || start_was_lost(slot, now))
			slot->in_use = false;
	}
}

/* Fills due with the slots to start now; *next is when to look again. */
static int
reconcile(int *due, TimestampTz *next)
{
	WantedList	wanted;
	TimestampTz now = GetCurrentTimestamp();
	int			ndue = 0;

	LWLockAcquire(orion_shared->lock, LW_EXCLUSIVE);
	list_wanted(&wanted, now);
	dismiss_unwanted(&wanted, now);
	for (int i = 0; i < wanted.count; i++)
	{
		OrionWorkerSlot *slot = find_slot(&wanted.items[i]);

		if (slot == NULL)
			slot = new_slot(&wanted.items[i]);
		if (slot == NULL)
			continue;			/* a dismissed worker still holds it */
		if (slot->stop && slot->proc)
			continue;			/* on its way out: wanted again when gone */
		if (is_due(slot, now))
		{
			mark_started(slot, now);
			due[ndue++] = slot - orion_shared->slots;
		}
		else if (slot->proc == NULL && slot->not_before > now && slot->not_before < *next)
			*next = slot->not_before;
	}
	if (orion_shared->hold_until > now && orion_shared->hold_until < *next)
		*next = orion_shared->hold_until;
	LWLockRelease(orion_shared->lock);
	return ndue;
}

/* ---- without it ---- */

/* Once a minute at most: the launcher tries again every few seconds. */
static void
warn_no_slot(const char *type, TimestampTz now)
{
	if (last_no_slot_warning != 0 &&
		!TimestampDifferenceExceeds(last_no_slot_warning, now, ORION_BACKOFF_MAX_MS))
		return;
	last_no_slot_warning = now;
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("out of background worker slots for \"%s\"", type),
			 errhint("You might need to increase max_worker_processes.")));
}

static void
no_worker_slot(OrionWorkerSlot *slot)
{
	TimestampTz now = GetCurrentTimestamp();

	warn_no_slot(kinds[slot->kind].type, now);
	LWLockAcquire(orion_shared->lock, LW_EXCLUSIVE);
	slot->state = ORION_STATE_BACKOFF;
	slot->not_before = TimestampTzPlusMilliseconds(now, NO_SLOT_RETRY_MS);
	strlcpy(slot->last_error, "no free background worker slot: raise max_worker_processes", ORION_ERROR_LEN);
	LWLockRelease(orion_shared->lock);
}

static void
start_worker(int which)
{
	OrionWorkerSlot *slot = &orion_shared->slots[which];
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	worker.bgw_main_arg = Int32GetDatum(which);
	snprintf(worker.bgw_library_name, sizeof(worker.bgw_library_name), "orion");
	snprintf(worker.bgw_function_name, sizeof(worker.bgw_function_name), "%s", kinds[slot->kind].function);
	snprintf(worker.bgw_type, sizeof(worker.bgw_type), "%s", kinds[slot->kind].type);
	if (slot->part > 0)
		snprintf(worker.bgw_name, sizeof(worker.bgw_name), "%s %s/%d", kinds[slot->kind].type, slot->name, slot->part + 1);
	else if (slot->name[0])
		snprintf(worker.bgw_name, sizeof(worker.bgw_name), "%s %s", kinds[slot->kind].type, slot->name);
	else
		snprintf(worker.bgw_name, sizeof(worker.bgw_name), "%s %d", kinds[slot->kind].type, slot->index);
	memcpy(worker.bgw_extra, &slot->generation, sizeof(slot->generation));
	if (!RegisterDynamicBackgroundWorker(&worker, NULL))
		no_worker_slot(slot);
}

static long
start_due_workers(void)
{
	TimestampTz far_off = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ORION_START_LIMIT_MS);
	TimestampTz next = far_off;
	int			due[ORION_MAX_SLOTS];
	int			ndue = reconcile(due, &next);

	for (int i = 0; i < ndue; i++)
		start_worker(due[i]);
	return TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next) + 1;
}

static void
launcher_detach(int code, Datum arg)
{
	LWLockAcquire(orion_shared->lock, LW_EXCLUSIVE);
	orion_shared->launcher = NULL;
	LWLockRelease(orion_shared->lock);
}

static void
launcher_attach(void)
{
	LWLockAcquire(orion_shared->lock, LW_EXCLUSIVE);
	orion_shared->launcher = MyProc;
	LWLockRelease(orion_shared->lock);
	before_shmem_exit(launcher_detach, 0);
}

void
orion_launcher_main(Datum arg)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);	/* to be seen in
															 * pg_stat_activity */
	launcher_attach();

	for (;;)
	{
		long		timeout;

		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		timeout = start_due_workers();
		WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, timeout, PG_WAIT_EXTENSION);
	}
}

void
orion_launcher_init(void)
{
	BackgroundWorker worker = {0};

	if (IsBinaryUpgrade)
		return;
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = 1;
	snprintf(worker.bgw_library_name, sizeof(worker.bgw_library_name), "orion");
	snprintf(worker.bgw_function_name, sizeof(worker.bgw_function_name), "orion_launcher_main");
	snprintf(worker.bgw_name, sizeof(worker.bgw_name), "orion launcher");
	snprintf(worker.bgw_type, sizeof(worker.bgw_type), "orion launcher");
	RegisterBackgroundWorker(&worker);
}
