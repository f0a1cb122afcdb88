/*
 * pool_private.h
 *	  What the launcher and the workers agree on about slots; nobody else.
 */
#ifndef ORION_POOL_PRIVATE_H
#define ORION_POOL_PRIVATE_H

#define ORION_BACKOFF_MAX_MS	60000L
#define ORION_HEALTHY_MS		60000	/* a worker that ran this long has no
										 * record of failures */
#define ORION_START_LIMIT_MS	10000	/* registered but not attached by
										 * then: lost */

extern long orion_pool_backoff_ms(int failures);

#endif							/* ORION_POOL_PRIVATE_H */
