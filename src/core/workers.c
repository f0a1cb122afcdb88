/*
 * workers.c
 *	  orion_workers(): the slots of shared memory as rows, behind orion.workers;
 *	  and the same for Prometheus.
 *
 * Runs in any backend.  Slots are copied under OrionShared.lock and turned into
 * rows after it is released.
 */
#include "postgres.h"

#include <math.h>

#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "replication/walreceiver.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/listen.h"
#include "core/shmem.h"
#include "core/workers.h"

#define WORKERS_COLUMNS	15

PG_FUNCTION_INFO_V1(orion_workers);

static const char *const kind_names[] = {
	[ORION_WORKER_MAINTENANCE] = "maintenance",
	[ORION_WORKER_GATEWAY] = "gateway",
	[ORION_WORKER_EXECUTOR] = "executor",
	[ORION_WORKER_RELAY] = "relay",
	[ORION_WORKER_CONSUMER] = "consumer",
};

static const char *const state_names[] = {
	[ORION_STATE_STOPPED] = "stopped",
	[ORION_STATE_STARTING] = "starting",
	[ORION_STATE_RUNNING] = "running",
	[ORION_STATE_BACKOFF] = "backoff",
	[ORION_STATE_DEGRADED] = "degraded",
	[ORION_STATE_PAUSED] = "paused",
};

static Datum
slot_name(const OrionWorkerSlot *slot)
{
	if (slot->name[0] && slot->part > 0)
		return CStringGetTextDatum(psprintf("%s/%d", slot->name, slot->part + 1));
	if (slot->name[0])
		return CStringGetTextDatum(slot->name);
	if (slot->kind == ORION_WORKER_EXECUTOR || slot->kind == ORION_WORKER_GATEWAY)
		return CStringGetTextDatum(psprintf("%d", slot->index));
	return CStringGetTextDatum("");
}

static Datum
lag_interval(TimestampTz oldest)
{
	return DirectFunctionCall2(timestamp_mi,
							   TimestampTzGetDatum(GetCurrentTimestamp()),
							   TimestampTzGetDatum(oldest));
}

/* Events a second, on average over the last seconds: what happened longer ago counts less. */
static double
rate_now(OrionWorkerSlot *slot)
{
	uint64		bits = pg_atomic_read_u64(&slot->rate);
	TimestampTz at = (TimestampTz) pg_atomic_read_u64(&slot->rate_at);
	double		rate;

	memcpy(&rate, &bits, sizeof(rate));
	return rate * exp(-(double) (GetCurrentTimestamp() - at) / USECS_PER_SEC / ORION_RATE_SECONDS);
}

static void
put_slot(ReturnSetInfo *rsinfo, OrionWorkerSlot *slot, int number)
{
	TimestampTz oldest = (TimestampTz) pg_atomic_read_u64(&slot->lag_since);
	bool		is_relay = slot->kind == ORION_WORKER_RELAY;
	Datum		values[WORKERS_COLUMNS];
	bool		nulls[WORKERS_COLUMNS] = {0};

	values[0] = CStringGetTextDatum(kind_names[slot->kind]);
	values[1] = slot_name(slot);
	values[2] = Int32GetDatum(slot->pid);
	nulls[2] = slot->pid == 0;
	values[3] = Int32GetDatum(slot->program_pid);
	nulls[3] = slot->program_pid == 0;
	values[4] = CStringGetTextDatum(state_names[slot->state]);
	values[5] = TimestampTzGetDatum(slot->since);
	values[6] = Int64GetDatum(slot->restarts);
	values[7] = CStringGetTextDatum(slot->last_error);
	nulls[7] = slot->last_error[0] == '\0';
	values[8] = Int64GetDatum((int64) pg_atomic_read_u64(&slot->lag_events));
	nulls[8] = !is_relay;
	nulls[9] = !is_relay || oldest == 0;
	values[9] = nulls[9] ? (Datum) 0 : lag_interval(oldest);
	values[10] = Int32GetDatum(slot->index);
	values[11] = Int32GetDatum(slot->part);
	values[12] = Int64GetDatum((int64) pg_atomic_read_u64(&slot->attempts));
	values[13] = Float8GetDatum(rint(rate_now(slot) * 100) / 100);
	values[14] = BoolGetDatum(slot->pid != 0 && orion_slot_is_caught_up(number));
	nulls[10] = nulls[11] = nulls[12] = nulls[13] = nulls[14] = !is_relay;
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

static OrionWorkerSlot *
copy_slots(void)
{
	OrionWorkerSlot *copy = palloc(sizeof(orion_shared->slots));

	LWLockAcquire(orion_shared->lock, LW_SHARED);
	memcpy(copy, orion_shared->slots, sizeof(orion_shared->slots));
	LWLockRelease(orion_shared->lock);
	return copy;
}

Datum
orion_workers(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	OrionWorkerSlot *copy = copy_slots();

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < ORION_MAX_SLOTS; i++)
		if (copy[i].in_use)
			put_slot(rsinfo, &copy[i], i);
	return (Datum) 0;
}

/* A label's value; sinks may have any name. */
static void
append_label(StringInfo out, const char *name)
{
	for (; *name; name++)
	{
		if (*name == '"' || *name == '\\')
			appendStringInfoChar(out, '\\');
		appendStringInfoChar(out, (unsigned char) *name < 0x20 ? ' ' : *name);
	}
}

static void
append_sample(StringInfo out, const char *metric, const OrionWorkerSlot *slot, const char *state, double value)
{
	appendStringInfo(out, "%s{kind=\"%s\",name=\"", metric, kind_names[slot->kind]);
	append_label(out, TextDatumGetCString(slot_name(slot)));
	appendStringInfo(out, "\"%s%s%s} %.15g\n", state ? ",state=\"" : "", state ? state : "", state ? "\"" : "", value);
}

static double
lag_seconds(OrionWorkerSlot *slot)
{
	TimestampTz oldest = (TimestampTz) pg_atomic_read_u64(&slot->lag_since);

	return oldest == 0 ? 0 : Max(0, (GetCurrentTimestamp() - oldest) / 1000000.0);
}

static void
append_slot(StringInfo states, StringInfo restarts, StringInfo events, StringInfo seconds, OrionWorkerSlot *slot)
{
	append_sample(states, "orion_worker_state", slot, state_names[slot->state], 1);
	append_sample(restarts, "orion_worker_restarts_total", slot, NULL, slot->restarts);
	if (slot->kind != ORION_WORKER_RELAY)
		return;
	append_sample(events, "orion_relay_lag_events", slot, NULL, pg_atomic_read_u64(&slot->lag_events));
	append_sample(seconds, "orion_relay_lag_seconds", slot, NULL, lag_seconds(slot));
}

static void
append_standby(StringInfo out)
{
	bool		standby = RecoveryInProgress();

	appendStringInfo(out, "# HELP orion_standby Whether the server is a standby.\n# TYPE orion_standby gauge\norion_standby %d\n", standby);
	if (!standby)
		return;
	appendStringInfo(out, "# HELP orion_standby_received_bytes Position of the log up to which it has been received.\n# TYPE orion_standby_received_bytes gauge\n"
					 "orion_standby_received_bytes " UINT64_FORMAT "\n", (uint64) GetWalRcvFlushRecPtr(NULL, NULL));
	appendStringInfo(out, "# HELP orion_standby_replayed_bytes Position of the log up to which it has been replayed.\n# TYPE orion_standby_replayed_bytes gauge\n"
					 "orion_standby_replayed_bytes " UINT64_FORMAT "\n", (uint64) GetXLogReplayRecPtr(NULL));
}

void
orion_workers_metrics(StringInfo out)
{
	OrionWorkerSlot *copy = copy_slots();
	StringInfoData restarts,
				events,
				seconds;

	initStringInfo(&restarts);
	initStringInfo(&events);
	initStringInfo(&seconds);
	appendStringInfoString(out, "# HELP orion_worker_state The state each worker is in.\n# TYPE orion_worker_state gauge\n");
	for (int i = 0; i < ORION_MAX_SLOTS; i++)
		if (copy[i].in_use)
			append_slot(out, &restarts, &events, &seconds, &copy[i]);
	appendStringInfo(out, "# HELP orion_worker_restarts_total Restarts of the worker or its program.\n# TYPE orion_worker_restarts_total counter\n%s", restarts.data);
	appendStringInfo(out, "# HELP orion_relay_lag_events Events that a sink has not taken yet, as last seen.\n# TYPE orion_relay_lag_events gauge\n%s", events.data);
	appendStringInfo(out, "# HELP orion_relay_lag_seconds Age of the oldest of them.\n# TYPE orion_relay_lag_seconds gauge\n%s", seconds.data);
	append_standby(out);
	pfree(copy);
	pfree(restarts.data);
	pfree(events.data);
	pfree(seconds.data);
}
