/*
 * webhook_message.h
 *	  Signatures of webhooks (Standard Webhooks 1.0), and what is kept of answers.
 */
#ifndef ORION_COURIER_WEBHOOK_MESSAGE_H
#define ORION_COURIER_WEBHOOK_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>

#define ORION_WEBHOOK_SECRETS_MAX	8
/* a signature: "v1a," and 64 bytes in base64, and a space */
#define ORION_WEBHOOK_SIGNATURE_MAX (ORION_WEBHOOK_SECRETS_MAX * 96)

/*
 * Writes the value of webhook-signature for "<id>.<timestamp>.<body>": one
 * signature for each of the secrets, separated by spaces as they are.  whsec_
 * secrets make v1 (HMAC-SHA256 under the decoded bytes), whsk_ ones v1a (Ed25519; 32
 * bytes of seed, or 64 of seed and public key).  False when a secret is none of
 * these, there are none or too many, or the id holds a full stop.
 */
extern bool orion_webhook_sign(const char *secrets, size_t secrets_len, const char *id,
							   long long timestamp, const char *body, size_t body_len,
							   char *out, size_t size);

/*
 * Writes at most size - 1 bytes of valid UTF-8 without control characters other than
 * tab and newline, cut between characters; what is not becomes U+FFFD.
 * Returns the length.
 */
extern size_t orion_webhook_clean(const char *bytes, size_t len, char *out, size_t size);

#endif							/* ORION_COURIER_WEBHOOK_MESSAGE_H */
