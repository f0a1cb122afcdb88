/*
 * jwk.h
 *	  JSON Web Keys (RFC 7517) in orion.jwt_secret.
 */
#ifndef ORION_JWK_H
#define ORION_JWK_H

#include "postgres.h"

typedef struct OrionJwk
{
	const char *kid;			/* or NULL */
	const char *alg;			/* the only one allowed, or NULL */
	const char *family;			/* "HS", "RS" or "ES" */
	const char *curve;			/* bits that an ES algorithm must have, or
								 * NULL */
	const unsigned char *bytes; /* secret, or PEM of the public key */
	int			len;
	struct OrionJwk *next;
} OrionJwk;

/* The keys, when orion.jwt_secret holds a key or a set of them; else NULL. */
extern const OrionJwk *orion_jwk_first(void);

/* Whether a token signed with this algorithm may be tried with the key. */
extern bool orion_jwk_allows(const OrionJwk *jwk, const char *alg);

#endif							/* ORION_JWK_H */
