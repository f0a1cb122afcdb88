/*
 * shmem.h
 *	  Orion's shared memory: the worker slots and what every process must know.
 *
 * One LWLock guards all of it but the atomics.  It is held for a few
 * assignments at a time: never across I/O, SPI or anything that may ereport.
 * Modules keep theirs beside it (orion_shmem_add), each under a lock of its own.
 */
#ifndef ORION_SHMEM_H
#define ORION_SHMEM_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/lwlock.h"
#include "storage/proc.h"

#define ORION_MAX_GATEWAYS	16
#define ORION_MAX_EXECUTORS	64
#define ORION_MAX_SINKS		64	/* relays: a SQL handler may have several */
#define ORION_MAX_CONSUMERS	16
#define ORION_MAX_SLOTS		(1 + ORION_MAX_GATEWAYS + ORION_MAX_EXECUTORS + ORION_MAX_SINKS + ORION_MAX_CONSUMERS)
#define ORION_LISTENING_WORDS	((ORION_MAX_SLOTS + 63) / 64)
#define ORION_ERROR_LEN		256
#define ORION_PATTERN_LEN	256 /* codec/topic.h: 255 bytes at most */
#define ORION_RATE_SECONDS	10	/* how long an event counts in the rate: time
								 * constant of its decay */

typedef enum OrionWorkerKind
{
	ORION_WORKER_MAINTENANCE,	/* index 0; finds the extension, lists the
								 * sinks, rotates segments */
	ORION_WORKER_GATEWAY,		/* index 0 .. orion.gateway_count - 1; runs
								 * the program orion-gateway */
	ORION_WORKER_EXECUTOR,		/* index 0 .. orion.executor_count - 1 */
	ORION_WORKER_RELAY,			/* index = sink id, part */
	ORION_WORKER_CONSUMER,		/* index = consumer id */
} OrionWorkerKind;

typedef enum OrionWorkerState
{
	ORION_STATE_STOPPED,		/* no process */
	ORION_STATE_STARTING,		/* no process yet, or not in touch with its
								 * program or remote side */
	ORION_STATE_RUNNING,
	ORION_STATE_BACKOFF,		/* ended with an error, waits for its next
								 * start */
	ORION_STATE_DEGRADED,		/* runs, but its program or remote side does
								 * not: see last_error */
	ORION_STATE_PAUSED,			/* a sink that was paused */
} OrionWorkerState;

/* One desired worker; stays while desired, whether or not a process runs. */
typedef struct OrionWorkerSlot
{
	/* guarded by OrionShared.lock */
	bool		in_use;
	bool		stop;			/* leave quietly at the next look */
	OrionWorkerKind kind;
	int32		index;
	int32		part;			/* relays: which of the sink's workers, from 0 */
	char		name[NAMEDATALEN];	/* of the sink or consumer, else empty */
	uint32		generation;		/* +1 at each launch, so a late process of an
								 * older launch knows */
	PGPROC	   *proc;			/* NULL when no process is attached */
	pid_t		pid;			/* 0 likewise */
	pid_t		program_pid;	/* the child program, 0 when none */
	OrionWorkerState state;
	TimestampTz since;			/* of state */
	TimestampTz launched_at;
	TimestampTz not_before;		/* backoff: no start earlier */
	int32		failures;		/* in a row */
	int64		restarts;		/* of the worker or its program since server
								 * start */
	char		last_error[ORION_ERROR_LEN];	/* empty when none */
	char		pattern[ORION_PATTERN_LEN]; /* relays: what the sink takes */
	uint32		pattern_as_of;	/* sinks_generation when that held; 0: never */

	/* lock-free */
	pg_atomic_uint64 lag_events;	/* relays: events not yet acknowledged, as
									 * last seen */
	pg_atomic_uint64 lag_since; /* relays: TimestampTz of the oldest of them,
								 * 0 when none */
	pg_atomic_uint64 attempts;	/* relays: failures in a row of what is next */
	pg_atomic_uint64 rate;		/* relays: events a second as of rate_at, the
								 * bits of a double */
	pg_atomic_uint64 rate_at;	/* relays: TimestampTz */
	pg_atomic_uint32 idle;		/* relays: nothing that was found is left to
								 * deliver */
} OrionWorkerSlot;

typedef struct OrionSinkName
{
	int32		id;
	int32		part;
	char		name[NAMEDATALEN];
} OrionSinkName;

typedef struct OrionShared
{
	LWLock	   *lock;

	/* guarded by lock */
	PGPROC	   *launcher;		/* NULL when it is down */
	bool		extension_ready;	/* maintenance saw CREATE EXTENSION's
									 * objects */
	int32		nsinks;
	OrionSinkName sinks[ORION_MAX_SINKS];	/* the desired relays, an entry
											 * each */
	int32		nconsumers;
	OrionSinkName consumers[ORION_MAX_CONSUMERS];
	TimestampTz hold_until;		/* DROP DATABASE under way: start nothing
								 * earlier */
	OrionWorkerSlot slots[ORION_MAX_SLOTS];

	/* lock-free */
	pg_atomic_uint32 sinks_generation;	/* +1 at each committed change of a
										 * sink, subscription or consumer */
	pg_atomic_uint32 upkeep_asked;	/* +1 at each commit that wants more of
									 * the maintenance worker than a safety
									 * poll */
	pg_atomic_uint32 routes_generation; /* +1 at each committed change of the
										 * route table */
	pg_atomic_uint32 role_settings_generation;	/* +1 at each committed change
												 * of pg_db_role_setting */
	pg_atomic_uint32 patterns_generation;	/* +1 when a relay's pattern may
											 * not be what was seen of it */
	pg_atomic_uint32 outbox_segment;	/* where new events go; 0 = not known,
										 * ask the table */

	/* written all the time; those above are not, and everybody reads them */
	char		pad[PG_CACHE_LINE_SIZE];
	pg_atomic_uint64 listening[ORION_LISTENING_WORDS];	/* a bit a slot: see
														 * listen.h */
} OrionShared;

typedef enum OrionLock
{
	ORION_LOCK_CORE,			/* OrionShared */
	ORION_LOCK_REVOCATIONS,		/* token/revocation.c */
	ORION_LOCK_ATTEMPTS,		/* auth/attempt.c and auth/throttle.c */
	ORION_LOCK_COUNT,
} OrionLock;

extern OrionShared *orion_shared;	/* in every process of the cluster */

/*
 * From a module's init: size bytes more, and startup to call once they are there,
 * in the postmaster, with AddinShmemInitLock held.
 */
extern void orion_shmem_add(Size size, void (*startup) (void));
extern LWLock *orion_shmem_lock(OrionLock lock);

extern char *orion_database;	/* setting orion.database */
extern int	orion_gateway_count;	/* setting orion.gateway_count */
extern int	orion_executor_count;	/* setting orion.executor_count */
extern int	orion_executor_max_memory;	/* setting orion.executor_max_memory,
										 * kB */

extern void orion_shmem_init(void);

#endif							/* ORION_SHMEM_H */
