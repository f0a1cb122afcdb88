/*
 * jwt_library.h
 *	  libjwt behind two functions.  See jwt_library.c for why it is not linked.
 */
#ifndef ORION_JWT_LIBRARY_H
#define ORION_JWT_LIBRARY_H

#include "postgres.h"

/*
 * Signs the claims (UTF-8 JSON object) as a compact JWS with "kid" in its header.
 * alg is the JWA name; key is the HMAC secret or the PEM of the private key.
 * Palloc'ed; NULL when libjwt refuses the claims or the key.
 */
extern char *orion_jwt_library_sign(const char *alg, const char *kid, const char *claims,
									const unsigned char *key, int keylen);

/*
 * Whether the signature of the token is right under exactly this algorithm.
 * key is the HMAC secret or the PEM of the public key; a PEM must end with NUL.
 */
extern bool orion_jwt_library_verify(const char *alg, const char *token,
									 const unsigned char *key, int keylen);

#endif							/* ORION_JWT_LIBRARY_H */
