/*
 * token.h
 *	  JSON Web Tokens (RFC 7519) and the verified claims of the transaction.
 */
#ifndef ORION_TOKEN_H
#define ORION_TOKEN_H

#include "postgres.h"

#include "fmgr.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

typedef enum OrionTokenStatus
{
	ORION_TOKEN_VALID,
	/* a good signature, but claims that do not let it in now */
	ORION_TOKEN_EXPIRED,
	ORION_TOKEN_NOT_YET,		/* before nbf */
	ORION_TOKEN_FROM_FUTURE,	/* before iat */
	ORION_TOKEN_BAD_TIME,		/* a time that is no number */
	ORION_TOKEN_BAD_AUDIENCE,	/* aud is neither a string nor an array of
								 * them */
	ORION_TOKEN_OTHER_AUDIENCE,
	ORION_TOKEN_BAD_CLAIMS,		/* no JSON object */
	ORION_TOKEN_ENDED,			/* its session ended, its user is banned or
								 * deleted */
	/* nothing in it can be believed */
	ORION_TOKEN_MALFORMED,
	ORION_TOKEN_UNREADABLE,		/* three parts that are no base64url, no JSON */
	ORION_TOKEN_UNSECURED,		/* alg none */
	ORION_TOKEN_UNKNOWN_KEY,	/* or a wrong signature, or another algorithm */
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

/* Is it one of the functions that give these claims to SQL, and look at nothing else? */
extern bool orion_claims_gives(PGFunction function);

/* The claim "sub"; false when nobody is signed in or it is no UUID. */
extern bool orion_claims_user(pg_uuid_t *user);

/* The claims of a token as they stand, of whoever wrote it: for messages only. NULL when unreadable. */
extern Jsonb *orion_token_peek(const char *token, size_t len);

/* Whether orion.jwt_audience lets the claims in: VALID or one of the _AUDIENCE. */
extern OrionTokenStatus orion_claims_audience(const Jsonb *claims);

/* The role, where orion.jwt_role_claim_key says it is; palloc'ed, or NULL. */
extern char *orion_claims_role(const Jsonb *claims);

/* A top-level string claim, palloc'ed, or NULL. */
extern char *orion_claims_string(const Jsonb *claims, const char *key);

/* Whether uuid_in takes it without an error. */
extern bool orion_looks_like_uuid(const char *text);

/*
 * Signs exactly these claims, a JSON object in the encoding of the database, with
 * the active key.  NULL when there is none.
 */
extern char *orion_token_make(const char *claims);

extern void orion_token_init(void);

#endif							/* ORION_TOKEN_H */
