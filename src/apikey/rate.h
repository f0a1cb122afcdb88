/*
 * rate.h
 *	  How often each API key was used, in shared memory.
 */
#ifndef ORION_APIKEY_RATE_H
#define ORION_APIKEY_RATE_H

#include "postgres.h"

#include "utils/uuid.h"

/*
 * Counts one use; 0 when it is within the limit (uses a minute, above 0), else the
 * seconds to wait.
 */
extern int	orion_api_key_rate(const pg_uuid_t *key, int limit);

extern void orion_api_key_rate_init(void);

#endif							/* ORION_APIKEY_RATE_H */
