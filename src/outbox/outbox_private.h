/*
 * outbox_private.h
 *	  What the files of the outbox share among themselves.
 */
#ifndef ORION_OUTBOX_PRIVATE_H
#define ORION_OUTBOX_PRIVATE_H

#include "postgres.h"

#include "executor/spi.h"
#include "outbox/outbox.h"

/* 64 random bits, cheaply; fit for ids. */
extern uint64 orion_outbox_random(void);

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

/* What cursors ask; the parameters and the result of each. */
typedef enum OrionOutboxQuery
{
	ORION_QUERY_SEQS,			/* $1 from, $2 upto, $3 seq: the seqs above $3 */
	ORION_QUERY_ROWS,			/* $1 from, $2 upto, $3 first, $4 last: rows */
	ORION_QUERY_RANGE,			/* $3 first, $4 last: the seqs between */
	ORION_QUERY_NEW,			/* $1 from, $2 upto: rows, in no order */
	ORION_QUERY_KINDS,
} OrionOutboxQuery;

/* The plan of a query of these segments, bit 0 is segment 1; at least one. */
extern SPIPlanPtr orion_outbox_query(OrionOutboxQuery kind, int mask);

#endif							/* ORION_OUTBOX_PRIVATE_H */
