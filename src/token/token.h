/*
 * token.h
 *	  JSON Web Tokens (RFC 7519) and the verified claims of the transaction.
 */
#ifndef ORION_TOKEN_H
#define ORION_TOKEN_H

#include "postgres.h"

#include "utils/jsonb.h"
#include "utils/uuid.h"

typedef enum OrionTokenStatus
{
	ORION_TOKEN_VALID,
	ORION_TOKEN_EXPIRED,		/* good signature, but past exp or before nbf */
	ORION_TOKEN_INVALID,		/* malformed, alg none, unknown key, wrong
								 * signature */
} OrionTokenStatus;

/*
 * Verifies a compact JWS. *claims is palloc'ed in the current context when
 * VALID; *why is a constant text without any part of the token otherwise.
 * Verified tokens are remembered by digest until exp.  Needs a transaction.
 */
extern OrionTokenStatus orion_token_verify(const char *token, size_t len,
										   Jsonb **claims, const char **why);

/*
 * The verified claims of this transaction: kept in C, so that SQL cannot forge
 * them; gone at its end.  NULL when nobody is signed in.
 */
extern void orion_claims_set(const Jsonb *claims);
extern const Jsonb *orion_claims_get(void);

/* Another number whenever the claims are others: for what is worked out of them. */
extern uint64 orion_claims_generation(void);

/* The claim "sub"; false when nobody is signed in or it is no UUID. */
extern bool orion_claims_user(pg_uuid_t *user);

/* A top-level string claim, palloc'ed, or NULL. */
extern char *orion_claims_string(const Jsonb *claims, const char *key);

extern void orion_token_init(void);

#endif							/* ORION_TOKEN_H */
