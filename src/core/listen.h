/*
 * listen.h
 *	  Which relays a commit wakes, and what lets an idle relay pass over events.
 *
 * A relay says which types its sink takes and that it listens.  A publisher announces
 * before it commits which relays want what it published, and wakes after the commit
 * those of them that listen.  So a relay that listens still, while no announcement for
 * it is open, knows without reading that nothing visible now is for its sink.
 */
#ifndef ORION_LISTEN_H
#define ORION_LISTEN_H

#include "core/shmem.h"
#include "utils/snapshot.h"

typedef struct OrionSlotSet
{
	uint64		words[ORION_LISTENING_WORDS];
} OrionSlotSet;

/* What the relay in a slot takes. */
typedef struct OrionSlotPattern
{
	int			slot;
	char		pattern[ORION_PATTERN_LEN];
} OrionSlotPattern;

/* ---- for publishers ---- */

/* Changes whenever what is copied by orion_listen_patterns may have. Read it first. */
extern uint32 orion_listen_generation(void);

/* The patterns that are known to hold now, at most ORION_MAX_SINKS; whoever has none wants everything. */
extern int	orion_listen_patterns(OrionSlotPattern *patterns);

/*
 * This transaction, xid, publishes what these want, as of that generation.  Wakes them when it
 * commits.
 */
extern void orion_announce(const OrionSlotSet *wanting, uint32 generation, FullTransactionId xid);

/* After that: it is about to draw so many numbers. */
extern void orion_announce_numbers(uint64 n);

/* Something is about to be committed of which nothing is known. */
extern void orion_announce_anything(void);

/* At the end of the transaction, in this order; the first only if anything may have become visible. */
extern void orion_announce_wake(void);
extern void orion_announce_end(void);
extern bool orion_announced_anything(void);

/* ---- for relays ---- */

/* slot is its index in shared memory. */
extern void orion_listen_as(int slot);

/* Its sink's pattern, and the sinks_generation before it was read. */
extern void orion_listen_declare(const char *pattern, uint32 sinks_generation);

/* Before a look for events: whoever commits some that are wanted from now on wakes it, once. */
extern void orion_listen(void);

/*
 * True when the relay has listened without a pause since it last looked, and nothing
 * visible in the snapshot is for it that was not when it looked.
 */
extern bool orion_listen_is_quiet(Snapshot snapshot);

/*
 * How many numbers open transactions have drawn for their events, or are about to: of all that were
 * drawn before the call, at most so many belong to transactions that had not ended by then.
 * Prepared ones are not counted.
 */
extern uint64 orion_listen_undecided(void);

/* Nothing that was found is left to deliver or to store. Void as soon as it listens anew. */
extern void orion_listen_idle(bool idle);

/* For views: a relay that is idle and was not woken has nothing to do. In any process. */
extern bool orion_slot_is_caught_up(int slot);

/* ---- for shmem.c ---- */
extern Size orion_listen_shmem_size(void);
extern void orion_listen_shmem_startup(void);

#endif							/* ORION_LISTEN_H */
