/*
 * outbox.h
 *	  The transactional outbox: events, segments, cursors, sinks.
 *
 * orion_publish() appends a row to the current segment of orion_private.outbox.
 * Each sink has a cursor and a relay process of its own; see window.c for how a
 * cursor finds every committed event once without waiting for open transactions.
 */
#ifndef ORION_OUTBOX_H
#define ORION_OUTBOX_H

#include "postgres.h"

#define ORION_OUTBOX_SEGMENTS	8	/* tables outbox_1 .. outbox_8 */

extern int	orion_outbox_max_payload;	/* kB */
extern int	orion_outbox_retention; /* minutes */
extern int	orion_outbox_segment_size;	/* MB */
extern int	orion_outbox_max_attempts;
extern int	orion_outbox_handler_timeout;	/* ms, 0 = none */

/*
 * Keeps the ring of segments turning: publishes the current one in shared
 * memory, rotates by time and size, seals what was left, truncates what every
 * cursor has passed.  The maintenance worker calls it every few seconds outside
 * of a transaction.  Errors are the caller's.
 */
extern void orion_outbox_maintain(void);

extern void orion_outbox_init(void);

#endif							/* ORION_OUTBOX_H */
