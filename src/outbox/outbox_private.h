/*
 * outbox_private.h
 *	  What the files of the outbox share among themselves.
 */
#ifndef ORION_OUTBOX_PRIVATE_H
#define ORION_OUTBOX_PRIVATE_H

#include "postgres.h"

/*
 * The current segment as orion_private.outbox_state has it.  For the time before
 * the maintenance worker has told shared memory; also adopts a restored dump.
 */
extern int	orion_segment_of_table(void);

#endif							/* ORION_OUTBOX_PRIVATE_H */
