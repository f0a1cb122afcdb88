/*
 * ring.h
 *	  Shared memory between the gateway and its executors: requests and answers.
 *
 * Pure C, no Postgres header; its memory is a sealed memfd of the gateway, which
 * each executor maps.  The gateway puts a request into a free slot and its number
 * into the queue.  An executor claims a request by changing the slot's state from
 * "waiting" to its own lane with one compare-and-swap, so that at every moment
 * exactly one side owns a request, also when an executor dies.  It writes the
 * answer into the same slot and the slot's number into its lane.
 *
 *	  state of a slot: request id << 8 | cancelled << 7 | owner
 *	  owner: 0 = waiting, 1 .. 64 = lane + 1, ORION_RING_NOBODY
 *
 * Ids are never used twice, so a stale entry of the queue fits no state.  A side
 * that finds nothing to do says so before it looks a last time and sleeps; the
 * other one rings only then.  Everything read here is the other side's word:
 * numbers are checked, and bytes copied before they are parsed.
 */
#ifndef ORION_RING_H
#define ORION_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ORION_RING_SLOTS	64
#define ORION_RING_QUEUE	128 /* entries; some may be of requests withdrawn */
#define ORION_RING_LANES	64	/* executors at a time */
#define ORION_RING_ROOM		16320	/* bytes of a slot; longer frames take the
									 * socket */
#define ORION_RING_NOBODY	127
#define ORION_RING_CANCELLED 128

#define ORION_RING_ON_SOCKET UINT32_MAX /* length of a request that is to be
										 * asked for with WANT */

typedef struct OrionRingLane
{
	uint32_t	asleep __attribute__((aligned(64)));
	uint32_t	done_tail;		/* answers given, ever */
	uint32_t	done[ORION_RING_SLOTS]; /* numbers of slots */
} OrionRingLane;

typedef struct OrionRingSlot
{
	uint32_t	len __attribute__((aligned(64)));
	uint8_t		data[ORION_RING_ROOM];
} OrionRingSlot;

typedef struct OrionRing
{
	uint32_t	magic;
	uint32_t	size;
	uint32_t	gateway_asleep __attribute__((aligned(64)));
	uint32_t	tail __attribute__((aligned(64)));	/* moved by the gateway */
	uint32_t	head __attribute__((aligned(64)));	/* moved by executors */
	uint64_t	queue[ORION_RING_QUEUE] __attribute__((aligned(64)));	/* id << 8 | slot */
	uint64_t	state[ORION_RING_SLOTS] __attribute__((aligned(64)));
	OrionRingLane lanes[ORION_RING_LANES];
	OrionRingSlot slots[ORION_RING_SLOTS];
} OrionRing;

/* The memory, and how it gets to an executor: memory and bell ride on bytes. */
extern OrionRing *orion_ring_create(int *memory);
extern OrionRing *orion_ring_attach(int memory);
extern void orion_ring_detach(OrionRing *ring);
extern bool orion_ring_pass(int sock, const void *bytes, size_t len, int memory, int bell);

/* As recv; the descriptors are -1 when none came. */
extern long orion_ring_receive(int sock, void *bytes, size_t len, int *memory, int *bell);

/* The gateway's side. A slot given to push must be free: not pushed, or finished or withdrawn. */
extern void orion_ring_init(OrionRing *ring);
extern void orion_ring_lane_init(OrionRing *ring, int lane);
extern uint8_t *orion_ring_data(OrionRing *ring, int slot);
extern bool orion_ring_push(OrionRing *ring, int slot, uint64_t id, uint32_t len);
extern int	orion_ring_owner(const OrionRing *ring, int slot, uint64_t id); /* lane, or -1 */
extern bool orion_ring_withdraw(OrionRing *ring, int slot, uint64_t id);	/* false: an executor
																			 * has it */
extern void orion_ring_cancel(OrionRing *ring, int slot);
extern uint32_t orion_ring_waiting(const OrionRing *ring);	/* at most so many
															 * requests */
extern bool orion_ring_has_done(const OrionRing *ring, int lane, uint32_t done_head);

/* The next answered slot; -1 none, -2 the lane is corrupt. */
extern int	orion_ring_take_done(const OrionRing *ring, int lane, uint32_t *done_head);

/* Copies what a slot holds; false when its length is not to be believed. */
extern bool orion_ring_copy(const OrionRing *ring, int slot, uint8_t *out, uint32_t *len);

/* True when the lane slept: its bell must be rung now. */
extern bool orion_ring_wake(OrionRing *ring, int lane);
extern bool orion_ring_is_asleep(const OrionRing *ring, int lane);
extern void orion_ring_gateway_sleep(OrionRing *ring, bool asleep);

/*
 * The executor's side. claim: a slot, -1 none, -2 the ring is corrupt.  place: its number
 * among all requests ever, modulo 2^32; end: that of the next one to come.
 */
extern int	orion_ring_claim(OrionRing *ring, int lane, uint64_t *id, uint32_t *place);
extern uint32_t orion_ring_end(const OrionRing *ring);
extern bool orion_ring_is_cancelled(const OrionRing *ring, int slot, uint64_t id, int lane);

/* True when the gateway sleeps: its bell must be rung now. */
extern bool orion_ring_done(OrionRing *ring, int lane, int slot, const uint8_t *data, uint32_t len);

/* False when there is something to claim after all. */
extern bool orion_ring_sleep(OrionRing *ring, int lane);
extern void orion_ring_wake_up(OrionRing *ring, int lane);

#endif							/* ORION_RING_H */
