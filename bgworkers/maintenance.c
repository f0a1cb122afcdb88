/*
 * maintenance.c
 *	  The maintenance worker: finds the extension in the database, tells the
 *	  launcher which sinks there are, keeps the outbox and what shared memory knows
 *	  of tables in order, and makes partitions of the audit log ahead.
 *
 * One process.  It leaves quietly when the extension is not there; the launcher
 * starts another after CREATE EXTENSION, and looks every half a minute anyway.
 * Shared memory is written under OrionShared.lock after the query is done.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "executor/spi.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "audit/audit.h"
#include "core/wake.h"
#include "auth/auth.h"
#include "inbound/inbound.h"
#include "mfa/mfa.h"
#include "outbox/outbox.h"
#include "pool.h"
#include "rest/idempotency.h"
#include "token/revocation.h"
#include "webhook/webhook.h"

#define REST_MS		200
#define COLLECT_MS	30			/* what a crash may lose of attempts to log in */
#define NOW_AND_THEN_MS	60000

PGDLLEXPORT void orion_maintenance_main(Datum arg);

/* What the database wants to run. */
typedef struct Found
{
	int			nsinks;
	OrionSinkName sinks[ORION_MAX_SINKS];
	int			nconsumers;
	OrionSinkName consumers[ORION_MAX_CONSUMERS];
} Found;

static void
publish_found(const Found *found, bool ready)
{
	bool		changed;

	LWLockAcquire(orion_shared->lock, LW_EXCLUSIVE);
	changed = orion_shared->extension_ready != ready || orion_shared->nsinks != found->nsinks ||
		memcmp(orion_shared->sinks, found->sinks, found->nsinks * sizeof(OrionSinkName)) != 0 ||
		orion_shared->nconsumers != found->nconsumers ||
		memcmp(orion_shared->consumers, found->consumers, found->nconsumers * sizeof(OrionSinkName)) != 0;
	orion_shared->extension_ready = ready;
	orion_shared->nsinks = found->nsinks;
	memcpy(orion_shared->sinks, found->sinks, found->nsinks * sizeof(OrionSinkName));
	orion_shared->nconsumers = found->nconsumers;
	memcpy(orion_shared->consumers, found->consumers, found->nconsumers * sizeof(OrionSinkName));
	LWLockRelease(orion_shared->lock);
	if (changed)
		orion_wake_launcher();
}

/* The query's columns are id, part, name. */
static int
read_names(const char *query, OrionSinkName *names, int max)
{
	int			n;

	if (SPI_execute(query, true, max) != SPI_OK_SELECT)
		elog(ERROR, "could not read the sinks and consumers");
	n = (int) SPI_processed;
	memset(names, 0, n * sizeof(OrionSinkName));
	for (int i = 0; i < n; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		bool		isnull;

		names[i].id = DatumGetInt32(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &isnull));
		names[i].part = DatumGetInt32(SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &isnull));
		strlcpy(names[i].name, SPI_getvalue(row, SPI_tuptable->tupdesc, 3), NAMEDATALEN);
	}
	return n;
}

/* One look at the database; false when the extension is not installed. */
static bool
look(void)
{
	Found	   *found = palloc0(sizeof(Found));
	bool		exists;

	orion_pool_begin("orion: looking for sinks");
	exists = orion_pool_extension_exists();
	if (exists)
	{
		found->nsinks = read_names("SELECT id, part, name FROM orion_private.sinks,"
								   " LATERAL pg_catalog.generate_series(0, workers - 1) AS part ORDER BY id, part",
								   found->sinks, ORION_MAX_SINKS);
		found->nconsumers = read_names("SELECT id, 0, name FROM orion_private.consumers ORDER BY id",
									   found->consumers, ORION_MAX_CONSUMERS);
	}
	orion_pool_commit();
	publish_found(found, exists);
	return exists;
}

/* In orion.workers for as long as it lasts. */
static void
report_alarm(const char *alarm)
{
	static bool raised = false;

	if (alarm || raised)
		orion_pool_report(alarm ? ORION_STATE_DEGRADED : ORION_STATE_RUNNING, alarm);
	raised = alarm != NULL;
}

static void
forget(const char *activity, void (*work) (void))
{
	orion_pool_begin(activity);
	work();
	orion_pool_commit();
}

/* What deletes a great deal at a time and can wait a minute. */
static void
forget_now_and_then(void)
{
	static TimestampTz done_at = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (!TimestampDifferenceExceeds(done_at, now, NOW_AND_THEN_MS))
		return;
	done_at = now;
	forget("orion: forgetting old webhooks", orion_webhook_maintain);
	forget("orion: forgetting old messages", orion_inbound_maintain);
}

/* False when the extension is not installed. */
static bool
do_all(void)
{
	static bool was_standby = false;

	if (!look())
		return false;
	if (RecoveryInProgress())
		was_standby = true;
	else
	{
		if (was_standby)
			orion_wake_launcher();	/* promoted: relays are wanted now */
		was_standby = false;
		orion_token_maintain();
		orion_auth_maintain();
		orion_mfa_maintain();
		report_alarm(orion_outbox_maintain());
		orion_audit_maintain();
		forget("orion: forgetting idempotency keys", orion_idempotency_forget);
		forget_now_and_then();
	}
	return true;
}

/*
 * Every login wakes this worker, to write the attempts of a moment in one
 * transaction.  A round of everything costs as much as a few logins: it is done when
 * somebody asked for it or woke the worker for another reason (a reload), at the
 * earliest after a rest, and else by the clock.
 */
static void
maintain(void)
{
	MemoryContext round = AllocSetContextCreate(TopMemoryContext, "orion maintenance", ALLOCSET_DEFAULT_SIZES);
	TimestampTz due = 0;
	TimestampTz rested = 0;
	uint32		answered = 0;

	orion_pool_pin_settings(false);
	while (orion_pool_continue())
	{
		uint32		asked = pg_atomic_read_u32(&orion_shared->upkeep_asked);
		bool		early = GetCurrentTimestamp() < due;

		MemoryContextSwitchTo(round);
		if (early && (RecoveryInProgress() || !orion_auth_maintain() || asked != answered))
			due = Min(due, rested);
		if (GetCurrentTimestamp() >= due)
		{
			if (!do_all())
				break;
			answered = asked;
			rested = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), REST_MS);
			due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ORION_SAFETY_POLL_MS);
		}
		MemoryContextReset(round);
		(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, COLLECT_MS, PG_WAIT_EXTENSION);
		orion_pool_wait(-1, false, TimestampDifferenceMilliseconds(GetCurrentTimestamp(), due));
	}
}

void
orion_maintenance_main(Datum arg)
{
	orion_pool_run(arg, NULL, maintain);
}
