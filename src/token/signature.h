/*
 * signature.h
 *	  RS256 and ES256 (RFC 7518 section 3) with keys that stay open.
 */
#ifndef ORION_SIGNATURE_H
#define ORION_SIGNATURE_H

#include "postgres.h"

typedef struct evp_pkey_st OrionOpenKey;

/*
 * Opens a PEM for an algorithm.  NULL when it is no key of that kind, or an RSA key
 * of less than 2048 bits (RFC 7518 3.3).  Not palloc'ed: the caller closes it.
 */
extern OrionOpenKey *orion_signature_open(const char *alg, const char *pem, int len, bool private);
extern void orion_signature_close(OrionOpenKey *key);

/*
 * Signs the claims (UTF-8 JSON object, as the server prints it) as a compact JWS with
 * "kid" in its header.  Palloc'ed; NULL when OpenSSL cannot.
 */
extern char *orion_signature_sign(const char *alg, OrionOpenKey *key, const char *kid, const char *claims);

/* Whether the signature of the token is right under exactly this algorithm. */
extern bool orion_signature_verify(const char *alg, OrionOpenKey *key, const char *token);

#endif							/* ORION_SIGNATURE_H */
