/*
 * cache.h
 *	  Tokens this process has verified, by digest.
 */
#ifndef ORION_TOKEN_CACHE_H
#define ORION_TOKEN_CACHE_H

#include "postgres.h"

#include "utils/jsonb.h"

#include "token/revocation.h"

#define ORION_TOKEN_DIGEST_LEN	32	/* SHA-256 */

typedef struct OrionCachedToken
{
	unsigned char digest[ORION_TOKEN_DIGEST_LEN];	/* hash key, first */
	int64		expires;		/* exp, seconds since 1970 */
	OrionTokenSubject subject;
	Jsonb	   *claims;
} OrionCachedToken;

/* orion.jwt_cache_entries: most tokens remembered; 0: none. */
extern int	orion_jwt_cache_entries;

/* NULL when not known. Valid until the cache is next changed. */
extern const OrionCachedToken *orion_token_cache_find(const unsigned char *digest);
extern void orion_token_cache_add(const unsigned char *digest, int64 expires,
								  const OrionTokenSubject *subject, const Jsonb *claims);
extern void orion_token_cache_clear(void);

#endif							/* ORION_TOKEN_CACHE_H */
