/*
 * outbox.h
 *	  The transactional outbox: events, segments, cursors, sinks.
 */
#ifndef ORION_OUTBOX_H
#define ORION_OUTBOX_H

/* Rotates and truncates segments; in transactions of its own. */
extern void orion_outbox_maintain(void);

extern void orion_outbox_init(void);

#endif							/* ORION_OUTBOX_H */
