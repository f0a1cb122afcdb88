/*
 * workers.c
 *	  orion_workers(): the slots of shared memory as rows, behind orion.workers.
 *
 * Runs in any backend.  Slots are copied under OrionShared.lock and turned into
 * rows after it is released.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/shmem.h"

#define WORKERS_COLUMNS	10

PG_FUNCTION_INFO_V1(orion_workers);

static const char *const kind_names[] = {
	[ORION_WORKER_MAINTENANCE] = "maintenance",
	[ORION_WORKER_GATEWAY] = "gateway",
	[ORION_WORKER_EXECUTOR] = "executor",
	[ORION_WORKER_RELAY] = "relay",
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
	if (slot->name[0])
		return CStringGetTextDatum(slot->name);
	if (slot->kind == ORION_WORKER_EXECUTOR)
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

static void
put_slot(ReturnSetInfo *rsinfo, OrionWorkerSlot *slot)
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
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

Datum
orion_workers(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	OrionWorkerSlot *copy = palloc(sizeof(orion_shared->slots));

	InitMaterializedSRF(fcinfo, 0);
	LWLockAcquire(orion_shared->lock, LW_SHARED);
	memcpy(copy, orion_shared->slots, sizeof(orion_shared->slots));
	LWLockRelease(orion_shared->lock);

	for (int i = 0; i < ORION_MAX_SLOTS; i++)
		if (copy[i].in_use)
			put_slot(rsinfo, &copy[i]);
	return (Datum) 0;
}
