/*
 * seal.h
 *	  Encryption at rest: secrets in tables are sealed with the master key.
 *
 * Sealed form: 1 byte version, 8 bytes key id, 24 bytes nonce, then
 * XChaCha20-Poly1305 (libsodium crypto_aead_xchacha20poly1305_ietf) over the
 * secret with the context as additional data.  The context names the place
 * ("signing_key:" || kid), so that a sealed value copied to another row does not
 * open there.
 */
#ifndef ORION_SEAL_H
#define ORION_SEAL_H

#include "postgres.h"

/*
 * Both return palloc'ed varlena. Errors: ERRCODE_ORION_UNAVAILABLE without a
 * master key, ERRCODE_ORION_SEAL_BROKEN when a value does not open.
 */
extern bytea *orion_seal(const void *secret, size_t len, const char *context);
extern bytea *orion_unseal(const bytea *sealed, const char *context);

#define ORION_SEAL_MAC_LEN	16

/*
 * Writes a keyed digest of the data (BLAKE2b under a key derived from the master
 * key and the context).  Errors as orion_seal.
 */
extern void orion_seal_mac(const void *data, size_t len, const char *context,
						   unsigned char *mac);

/* Settings, and in the postmaster: reads or creates the master key file. */
extern void orion_seal_init(void);

#endif							/* ORION_SEAL_H */
