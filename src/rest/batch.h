/*
 * batch.h
 *	  POST /batch: several operations in one transaction.
 */
#ifndef ORION_REST_BATCH_H
#define ORION_REST_BATCH_H

#include "rest/call.h"

extern int	orion_batch_max_operations;

/*
 * Is this a batch?  Below the prefix only if the exposed schema has no relation of that
 * name.  path: behind the prefix, or NULL.
 */
extern bool orion_batch_asked(const OrionCall *call, const char *path);

/* Within the transaction of the session, with the role taken: runs all, or fails with one. */
extern void orion_batch_serve(OrionCall *call);

/* Of an error's answer: adds which operation it was. */
extern void orion_batch_blame(OrionCall *call);

#endif							/* ORION_REST_BATCH_H */
