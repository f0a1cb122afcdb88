/*
 * wake.h
 *	  Wakes workers at commit: what a backend needs to know about workers.
 *
 * Nobody polls for work.  A transaction that makes work says so here; after its
 * commit is visible to others the latches are set.  A rollback wakes nobody.
 * What a prepared transaction (2PC) has done is not known when it is committed:
 * COMMIT PREPARED counts as if it had done everything.
 */
#ifndef ORION_WAKE_H
#define ORION_WAKE_H

#include "core/shmem.h"

#define ORION_SAFETY_POLL_MS	2000

typedef enum OrionWakeReason
{
	ORION_WAKE_EVENTS = 1 << 0, /* rows in the outbox: wakes the relays that
								 * listen for them, see listen.h */
	ORION_WAKE_SINKS = 1 << 1,	/* sinks, subscriptions or consumers changed:
								 * maintenance, relays and consumers */
	ORION_WAKE_ROUTES = 1 << 2, /* route table changed */
	ORION_WAKE_EXTENSION = 1 << 3,	/* CREATE or DROP EXTENSION: launcher and
									 * maintenance */
	ORION_WAKE_ROLES = 1 << 4,	/* settings of roles changed: nobody, but
								 * caches look at the generation */
} OrionWakeReason;

/* Wake the workers concerned when this transaction commits. Cheap, idempotent. */
extern void orion_wake_at_commit(OrionWakeReason reason);

/* Wake at once. Safe in any process; never errors. */
extern void orion_wake_launcher(void);
extern void orion_wake_kind(OrionWorkerKind kind);

extern void orion_wake_init(void);

#endif							/* ORION_WAKE_H */
