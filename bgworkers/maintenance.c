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
#include "mfa/mfa.h"
#include "outbox/outbox.h"
#include "pool.h"
#include "rest/idempotency.h"
#include "token/revocation.h"
#include "webhook/webhook.h"

#define REST_MS		200
#define COLLECT_MS	30			/* what a crash may lose of attempts to log in */

PGDLLEXPORT void orion_maintenance_main(Datum arg);

static void
publish_sinks(const OrionSinkName *sinks, int nsinks, bool ready)
{
	bool		changed;

	LWLockAcquire(orion_shared->lock, LW_EXCLUSIVE);
	changed = orion_shared->extension_ready != ready || orion_shared->nsinks != nsinks ||
		memcmp(orion_shared->sinks, sinks, nsinks * sizeof(OrionSinkName)) != 0;
	orion_shared->extension_ready = ready;
	orion_shared->nsinks = nsinks;
	memcpy(orion_shared->sinks, sinks, nsinks * sizeof(OrionSinkName));
	LWLockRelease(orion_shared->lock);
	if (changed)
		orion_wake_launcher();
}

static int
read_sinks(OrionSinkName *sinks)
{
	int			nsinks;

	if (SPI_execute("SELECT id, part, name FROM orion_private.sinks,"
					" LATERAL pg_catalog.generate_series(0, workers - 1) AS part ORDER BY id, part", true, ORION_MAX_SINKS) != SPI_OK_SELECT)
		elog(ERROR, "could not read the sinks");
	nsinks = (int) SPI_processed;
	memset(sinks, 0, nsinks * sizeof(OrionSinkName));
	for (int i = 0; i < nsinks; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		bool		isnull;

		sinks[i].id = DatumGetInt32(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &isnull));
		sinks[i].part = DatumGetInt32(SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &isnull));
		strlcpy(sinks[i].name, SPI_getvalue(row, SPI_tuptable->tupdesc, 3), NAMEDATALEN);
	}
	return nsinks;
}

/* One look at the database; false when the extension is not installed. */
static bool
look(void)
{
	OrionSinkName *sinks = palloc(sizeof(OrionSinkName) * ORION_MAX_SINKS);
	int			nsinks = 0;
	bool		exists;

	orion_pool_begin("orion: looking for sinks");
	exists = orion_pool_extension_exists();
	if (exists)
		nsinks = read_sinks(sinks);
	orion_pool_commit();
	publish_sinks(sinks, nsinks, exists);
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
forget_idempotency_keys(void)
{
	orion_pool_begin("orion: forgetting idempotency keys");
	orion_idempotency_forget();
	orion_pool_commit();
}

static void
maintain_webhooks(void)
{
	if (!orion_webhook_maintenance_is_due())
		return;
	orion_pool_begin("orion: forgetting old webhooks");
	orion_webhook_maintain();
	orion_pool_commit();
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
		forget_idempotency_keys();
		maintain_webhooks();
	}
	return true;
}

/* As in relay.c: what the database's owner gives to every session is not meant for us. */
static void
pin_settings(void)
{
	static const char *const settings[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"statement_timeout", "0"},
	};

	for (int i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_SESSION);
}

/*
 * Every login wakes this worker.  So after a round the others of the work have a
 * rest, and in between only attempts to log in are written, those of a moment in
 * one transaction; whatever else somebody woke it for is done when the rest is over.
 */
static void
maintain(void)
{
	MemoryContext round = AllocSetContextCreate(TopMemoryContext, "orion maintenance", ALLOCSET_DEFAULT_SIZES);
	TimestampTz next = 0;

	pin_settings();
	while (orion_pool_continue())
	{
		long		timeout = next ? TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next) : 0;

		MemoryContextSwitchTo(round);
		if (timeout == 0)
		{
			if (!do_all())
				break;
			next = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), REST_MS);
			timeout = ORION_SAFETY_POLL_MS;
		}
		else if (!RecoveryInProgress())
			orion_auth_maintain();
		MemoryContextReset(round);
		(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, COLLECT_MS, PG_WAIT_EXTENSION);
		orion_pool_wait(-1, false, timeout);
	}
}

void
orion_maintenance_main(Datum arg)
{
	orion_pool_run(arg, NULL, maintain);
}
