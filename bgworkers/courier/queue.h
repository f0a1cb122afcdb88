/*
 * queue.h
 *	  Events the relay has handed over and the sink has not yet confirmed.
 *
 * Pure C over memory.  A ring of a fixed number of events, indexed by the number
 * the relay gave them (1, 2, ...).  [head, next) has been given to the sink on
 * the present connection, [next, tail) has not.  Events may be settled in any
 * order; they leave from the head only, which makes cumulative acknowledgement
 * right.
 */
#ifndef ORION_COURIER_QUEUE_H
#define ORION_COURIER_QUEUE_H

#include "frame.h"

#define ORION_QUEUE_EVENTS	8192	/* a power of two; confirms in flight by
									 * the thousand */
#define ORION_QUEUE_BYTES	(16 * 1024 * 1024)	/* more than this unconfirmed:
												 * stop reading */

/* Bytes inside an event; not terminated, may hold anything. */
typedef struct OrionText
{
	const char *str;
	size_t		len;
} OrionText;

static inline OrionText
orion_text(const char *str, size_t len)
{
	OrionText	result = {str, len};

	return result;
}

static inline OrionText
orion_text_of(const char *string)
{
	return orion_text(string, __builtin_strlen(string));
}

typedef struct OrionEvent
{
	uint64_t	number;
	OrionText	position;
	OrionText	id;
	OrionText	type;
	OrionText	aggregatetype;
	OrionText	aggregateid;
	OrionText	correlationid;
	OrionText	occurredat;
	OrionText	envelope;
	OrionText	rest;			/* fields behind these: u64 number and value,
								 * any number of times */
	size_t		size;			/* of data */
	int			tries;			/* refusals that may pass (basic.nack) */
	bool		refused;		/* REJECT was sent, see orion_sink_refuse */
	bool		noted;			/* and the relay has stored it */
	bool		settled;		/* confirmed or rejected */
	char		data[];
} OrionEvent;

typedef struct OrionQueue
{
	OrionEvent *ring[ORION_QUEUE_EVENTS];
	uint64_t	head;
	uint64_t	next;
	uint64_t	tail;
	size_t		bytes;
} OrionQueue;

extern void orion_queue_init(OrionQueue *queue);
extern bool orion_queue_has_room(const OrionQueue *queue);

/*
 * Copies an EVENT frame to the tail.  False when the frame is malformed, out of
 * sequence, or memory is out: the relay cannot be understood any more.
 */
extern bool orion_queue_add(OrionQueue *queue, OrionFrame *frame);

/* The event of that number; NULL when it has left, or has not come. */
extern OrionEvent *orion_queue_at(const OrionQueue *queue, uint64_t number);

/* Drops settled events from the head; returns how many. */
extern uint64_t orion_queue_drop_settled(OrionQueue *queue);

/* After a lost connection: everything unsettled is to be sent again. */
extern void orion_queue_rewind(OrionQueue *queue);

/* "<window>:<seq>:<tag>", see frame.h. */
typedef struct OrionPosition
{
	uint64_t	window;
	uint64_t	seq;
	OrionText	tag;
} OrionPosition;

/* False when it has another shape. tag points into string. */
extern bool orion_position_parse(OrionText string, OrionPosition *position);

/*
 * Compares two positions.  Sets *order to -1, 0, 1; false when one of them has
 * another shape, or both name a window of the same number with different tags.
 */
extern bool orion_position_compare(OrionText a, OrionText b, int *order);

/* Is everything up to b in a?  Only positions of one window can tell. */
extern bool orion_position_covers(OrionText a, OrionText b);

#endif							/* ORION_COURIER_QUEUE_H */
