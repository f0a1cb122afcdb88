/*
 * key.h
 *	  Signing keys: the table orion_private.signing_keys as this process knows it.
 */
#ifndef ORION_KEY_H
#define ORION_KEY_H

#include "postgres.h"

#include "token/signature.h"

typedef struct OrionKey
{
	const char *kid;
	const char *alg;			/* JWA name: HS256, RS256 or ES256 */
	bool		active;			/* signs; the others only verify */
	const bytea *sealed;		/* secret or private key; NULL: verifies only */
	const char *public_key;		/* PEM; NULL for HS256 */
	const bytea *secret;		/* what sealed holds, once it was needed */
	OrionOpenKey *open_private; /* both likewise; not for HS256 */
	OrionOpenKey *open_public;
} OrionKey;

/*
 * Brings the keys up to date; call it before the others, once an operation.
 * True when they were read anew: then keys handed out before are gone.  Errors:
 * ERRCODE_ORION_UNAVAILABLE when the extension is not in this database.
 */
extern bool orion_keys_refresh(void);

/* Valid until the next refresh. NULL when there is none. */
extern const OrionKey *orion_key_find(const char *kid);
extern const OrionKey *orion_key_active(void);

/* The opened secret of the key; see orion_unseal for the errors. */
extern const bytea *orion_key_secret(const OrionKey *key);

/* An RSA or EC key, opened at the first use; NULL when it does not fit its algorithm. */
extern OrionOpenKey *orion_key_private(const OrionKey *key);
extern OrionOpenKey *orion_key_public(const OrionKey *key);

#endif							/* ORION_KEY_H */
