/*
 * apikey.h
 *	  API keys: long-lived bearer tokens of users, looked up at each use.
 *
 * A key is "ork_", 38 letters and digits, and a checksum of six: CRC-32 of all
 * before it, in base 62.  The checksum lets scanners tell a leaked key from noise,
 * and keeps noise away from the table.  The first six of the 38 are shown in
 * lists; the other 32 are 190 random bits.
 */
#ifndef ORION_APIKEY_H
#define ORION_APIKEY_H

#include "postgres.h"

#include "utils/jsonb.h"

typedef enum OrionApiKeyStatus
{
	ORION_API_KEY_VALID,
	ORION_API_KEY_INVALID,		/* malformed, unknown, revoked or expired */
	ORION_API_KEY_LIMITED,		/* valid, but used too often */
} OrionApiKeyStatus;

/* Whether a bearer token means to be an API key. */
extern bool orion_api_key_looks(const char *token);

/*
 * Looks the key up.  VALID: *claims is palloc'ed, like those of a token.  INVALID:
 * *why is a constant text without any part of the key.  LIMITED: *retry_after in
 * seconds.  Needs a transaction, also a read-only one; no snapshot and no SPI.
 */
extern OrionApiKeyStatus orion_api_key_verify(const char *key, Jsonb **claims,
											  const char **why, int *retry_after);

/*
 * After the request, outside of any transaction: puts on record that a key was
 * used, or that a known one was refused, with where the request came from (either
 * may be NULL).  At most once a minute and key.  Never errors.
 */
extern void orion_api_key_record_use(const char *peer, const char *user_agent);

extern void orion_api_key_init(void);

#endif							/* ORION_APIKEY_H */
