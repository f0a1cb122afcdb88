/*
 * idempotency.h
 *	  Idempotency-Key: a write that is sent again is not done again.
 */
#ifndef ORION_REST_IDEMPOTENCY_H
#define ORION_REST_IDEMPOTENCY_H

#include "rest/call.h"

extern int	orion_idempotency_wait; /* milliseconds */
extern int	orion_idempotency_retention;	/* seconds */
extern int	orion_idempotency_max_answer;	/* kB */

/*
 * In the transaction, before the request's own work: takes the key, or does not return
 * because the stored answer (or a refusal) is this one's answer.  Nothing without the header.
 */
extern void orion_idempotency_begin(OrionCall *call);

/* Before the commit, when the answer is complete: stores it. */
extern void orion_idempotency_store(OrionCall *call);

/* For maintenance, in a transaction with SPI connected: deletes what has expired. */
extern void orion_idempotency_forget(void);

extern void orion_idempotency_init(void);

#endif							/* ORION_REST_IDEMPOTENCY_H */
