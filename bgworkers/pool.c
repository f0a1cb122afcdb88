/*
 * pool.c
 *	  The life of a worker process: attach, connect, run, detach.
 *
 * Runs in every worker but the launcher.  The slot belongs to the launcher while
 * no process is attached and to the attached process afterwards; its fields are
 * changed under OrionShared.lock only.  A worker that fails leaves its reason in
 * the slot; the launcher decides when to start the next.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/wake.h"
#include "pool.h"
#include "pool_private.h"

OrionWorkerSlot *orion_my_slot = NULL;

static emit_log_hook_type prev_emit_log = NULL;
static WaitEventSet *wait_set = NULL;
static int	wait_fds[ORION_POOL_FDS];	/* the sockets in wait_set, from
										 * position 2 */
static int	wait_nfds = 0;

/* Launch n after a failure waits 0.1 s, 0.2 s, ... up to a minute. */
long
orion_pool_backoff_ms(int failures)
{
	long		ms = 100;

	for (int i = 1; i < failures && ms < ORION_BACKOFF_MAX_MS; i++)
		ms *= 2;
	return Min(ms, ORION_BACKOFF_MAX_MS);
}

static void
set_state(OrionWorkerSlot *slot, OrionWorkerState state)
{
	if (slot->state != state)
		slot->since = GetCurrentTimestamp();
	slot->state = state;
}

void
orion_pool_report(OrionWorkerState state, const char *error)
{
	LWLockAcquire(orion_shared->lock, LW_EXCLUSIVE);
	set_state(orion_my_slot, state);
	strlcpy(orion_my_slot->last_error, error ? error : "", ORION_ERROR_LEN);
	LWLockRelease(orion_shared->lock);
}

void
orion_pool_report_program(pid_t pid)
{
	LWLockAcquire(orion_shared->lock, LW_EXCLUSIVE);
	orion_my_slot->program_pid = pid;
	LWLockRelease(orion_shared->lock);
}

void
orion_pool_count_restart(void)
{
	LWLockAcquire(orion_shared->lock, LW_EXCLUSIVE);
	orion_my_slot->restarts++;
	LWLockRelease(orion_shared->lock);
}

static void
remember_error(const char *message)
{
	LWLockAcquire(orion_shared->lock, LW_EXCLUSIVE);
	strlcpy(orion_my_slot->last_error, message, ORION_ERROR_LEN);
	LWLockRelease(orion_shared->lock);
}

/* A FATAL error reaches no PG_CATCH; this hook is the only place to see it. */
static void
remember_fatal(ErrorData *edata)
{
	if (edata->elevel == FATAL && edata->message && orion_my_slot &&
		!LWLockHeldByMe(orion_shared->lock))
		remember_error(edata->message);
	if (prev_emit_log)
		prev_emit_log(edata);
}

static void
record_failure(OrionWorkerSlot *slot)
{
	TimestampTz now = GetCurrentTimestamp();

	if (TimestampDifferenceExceeds(slot->launched_at, now, ORION_HEALTHY_MS))
		slot->failures = 0;
	slot->failures++;
	slot->restarts++;
	slot->not_before = TimestampTzPlusMilliseconds(now, orion_pool_backoff_ms(slot->failures));
	set_state(slot, ORION_STATE_BACKOFF);
}

static void
detach(int code, Datum arg)
{
	OrionWorkerSlot *slot = orion_my_slot;

	LWLockAcquire(orion_shared->lock, LW_EXCLUSIVE);
	slot->proc = NULL;
	slot->pid = 0;
	slot->program_pid = 0;
	if (code == 0)
	{
		slot->failures = 0;
		set_state(slot, ORION_STATE_STOPPED);
	}
	else
		record_failure(slot);
	LWLockRelease(orion_shared->lock);
	orion_my_slot = NULL;
	orion_wake_launcher();
}

/* False when the slot has been given to somebody else meanwhile. */
static bool
attach(Datum arg)
{
	OrionWorkerSlot *slot = &orion_shared->slots[DatumGetInt32(arg)];
	uint32		generation;
	bool		mine;

	memcpy(&generation, MyBgworkerEntry->bgw_extra, sizeof(generation));
	LWLockAcquire(orion_shared->lock, LW_EXCLUSIVE);
	mine = slot->in_use && slot->generation == generation && slot->proc == NULL;
	if (mine)
	{
		slot->proc = MyProc;
		slot->pid = MyProcPid;
		/* whoever delivers says itself when it has come so far */
		if (slot->kind != ORION_WORKER_RELAY && slot->kind != ORION_WORKER_CONSUMER)
			set_state(slot, ORION_STATE_RUNNING);
	}
	LWLockRelease(orion_shared->lock);
	if (mine)
	{
		orion_my_slot = slot;
		before_shmem_exit(detach, 0);
	}
	return mine;
}

void
orion_pool_run(Datum arg, const char *role, void (*body) (void))
{
	if (!attach(arg))
		proc_exit(0);
	prev_emit_log = emit_log_hook;
	emit_log_hook = remember_fatal;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(orion_database, role, ORION_WORKER_CONNECT_FLAGS);
	pgstat_report_appname(MyBgworkerEntry->bgw_name);

	PG_TRY();
	{
		body();
	}
	PG_CATCH();
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		remember_error(CopyErrorData()->message);
		MemoryContextSwitchTo(old);
		PG_RE_THROW();
	}
	PG_END_TRY();
	proc_exit(0);
}

bool
orion_pool_continue(void)
{
	bool		stop;

	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	LWLockAcquire(orion_shared->lock, LW_SHARED);
	stop = orion_my_slot->stop;
	LWLockRelease(orion_shared->lock);
	return !stop;
}

/*
 * A WaitEventSet cannot drop an event, so it is made anew when the sockets
 * change, which is when a program or connection was restarted.
 */
static void
build_wait_set(const int *fds, int n)
{
	if (wait_set)
		FreeWaitEventSet(wait_set);
	wait_set = ORION_WAIT_SET(2 + ORION_POOL_FDS);
	AddWaitEventToSet(wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	for (int i = 0; i < n; i++)
	{
		if (fds[i] >= 0)
			AddWaitEventToSet(wait_set, WL_SOCKET_READABLE, fds[i], NULL, NULL);
	}
	memcpy(wait_fds, fds, n * sizeof(int));
	wait_nfds = n;
}

void
orion_pool_forget_fd(void)
{
	if (wait_set)
		FreeWaitEventSet(wait_set);
	wait_set = NULL;
	wait_nfds = 0;
}

static int
wait_for(const int *fds, int n, bool want_write, long timeout_ms, WaitEvent *events)
{
	if (wait_set == NULL || n != wait_nfds || memcmp(fds, wait_fds, n * sizeof(int)) != 0)
		build_wait_set(fds, n);
	if (n == 1 && fds[0] >= 0)
		ModifyWaitEvent(wait_set, 2, WL_SOCKET_READABLE | (want_write ? WL_SOCKET_WRITEABLE : 0), NULL);
	n = WaitEventSetWait(wait_set, timeout_ms, events, 2 + ORION_POOL_FDS, PG_WAIT_EXTENSION);
	for (int i = 0; i < n; i++)
	{
		if (events[i].events & WL_LATCH_SET)
			ResetLatch(MyLatch);
	}
	return n;
}

uint32
orion_pool_wait(int fd, bool want_write, long timeout_ms)
{
	WaitEvent	events[2 + ORION_POOL_FDS];
	uint32		seen = 0;
	int			n = wait_for(&fd, 1, want_write, timeout_ms, events);

	for (int i = 0; i < n; i++)
		seen |= events[i].events;
	return seen;
}

void
orion_pool_wait_many(const int *fds, int n, long timeout_ms, bool *readable)
{
	WaitEvent	events[2 + ORION_POOL_FDS];
	int			nevents = wait_for(fds, n, false, timeout_ms, events);

	for (int i = 0; i < n; i++)
	{
		readable[i] = false;
		for (int k = 0; k < nevents; k++)
			readable[i] |= fds[i] >= 0 && events[k].fd == fds[i] && (events[k].events & WL_SOCKET_READABLE);
	}
}

void
orion_pool_pin_settings(bool delivers)
{
	static const char *const settings[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"statement_timeout", "0"},
		{"jit", "off"},			/* tables without statistics look costly: 60
								 * ms of compiling a round */
		/* these for workers that deliver */
		{"lock_timeout", "0"},
		{"enable_seqscan", "off"},
		{"enable_sort", "off"},
	};
	int			n = delivers ? lengthof(settings) : 5;

	for (int i = 0; i < n; i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_SESSION);
	if (delivers && strcmp(GetConfigOption("synchronous_commit", false, false), "off") == 0)
		SetConfigOption("synchronous_commit", "on", PGC_SUSET, PGC_S_SESSION);
}

void
orion_pool_begin(const char *activity)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	pgstat_report_activity(STATE_RUNNING, activity);
}

void
orion_pool_commit(void)
{
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
}

bool
orion_pool_extension_exists(void)
{
	return OidIsValid(get_extension_oid("orion", true));
}
