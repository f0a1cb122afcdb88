/*
 * secret.h
 *	  The setting orion.jwt_secret: a secret shared with another issuer.
 */
#ifndef ORION_SECRET_H
#define ORION_SECRET_H

#include "postgres.h"

#define ORION_SECRET_MIN_LEN	32	/* RFC 7518 3.2: at least the size of the
									 * hash */

typedef struct OrionSecret
{
	int			len;
	bool		jwk;			/* bytes are JSON: a key or a set of keys, NUL
								 * at the end */
	unsigned char bytes[FLEXIBLE_ARRAY_MEMBER];
} OrionSecret;

/* NULL when the setting is empty. Valid until the next reload. */
extern const OrionSecret *orion_secret_get(void);

/* Changes with every change of the setting. */
extern uint64 orion_secret_generation(void);

extern void orion_secret_init(void);

#endif							/* ORION_SECRET_H */
