/*
 * outbox_private.h
 *	  What the files of the outbox share among themselves.
 */
#ifndef ORION_OUTBOX_PRIVATE_H
#define ORION_OUTBOX_PRIVATE_H

#include "postgres.h"

#include "outbox/outbox.h"

/*
 * The current segment as orion_private.outbox_state has it.  For the time before
 * the maintenance worker has told shared memory; also adopts a restored dump.
 */
extern int	orion_segment_of_table(void);

/*
 * Tells the relays, before and after the commit, of events that this transaction is about to
 * append.  Before their numbers are drawn (see core/listen.c).
 */
extern void orion_outbox_announce(const OrionNewEvent *events, int n);

/*
 * The segments that can hold rows not visible in a snapshot (pg_snapshot), bit 0
 * is segment 1.  To find the rows of a later snapshot that must be taken first.
 */
extern int	orion_segments_since(Datum snapshot);

#endif							/* ORION_OUTBOX_PRIVATE_H */
