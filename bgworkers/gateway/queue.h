/*
 * queue.h
 *	  Requests waiting for an executor: bounded, first in first out, each with a
 *	  deadline.  Intrusive, so that nothing is allocated; pure, no clock.
 */
#ifndef ORION_GATEWAY_QUEUE_H
#define ORION_GATEWAY_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct OrionQueueItem
{
	struct OrionQueueItem *prev;
	struct OrionQueueItem *next;
	int64_t		deadline;		/* milliseconds on the caller's clock */
	bool		queued;
} OrionQueueItem;

typedef struct OrionQueue
{
	OrionQueueItem *first;
	OrionQueueItem *last;
	int			count;
	int			max;
} OrionQueue;

/* False when the queue is full. */
extern bool orion_queue_push(OrionQueue *queue, OrionQueueItem *item, int64_t deadline);

/* Back to the front with its old deadline; the limit does not apply. */
extern void orion_queue_push_front(OrionQueue *queue, OrionQueueItem *item);

extern OrionQueueItem *orion_queue_pop(OrionQueue *queue);

/* Does nothing to an item that is not queued. */
extern void orion_queue_remove(OrionQueue *queue, OrionQueueItem *item);

/*
 * Takes out one item whose deadline is at or before now, or NULL.  Deadlines rise
 * along the queue (one time limit for all), so only the first is looked at.
 */
extern OrionQueueItem *orion_queue_pop_expired(OrionQueue *queue, int64_t now);

#endif							/* ORION_GATEWAY_QUEUE_H */
