/*
 * refresh.c
 *	  Refresh tokens: a counter per session, authenticated by a key per session.
 *
 * One row a session and none a token.  The token is base64url of
 *
 *	  version (1 byte) | session id (16) | counter (unsigned varint, LEB128)
 *	  | HMAC-SHA256 of all before under the session's key, first 16 bytes
 *	  | SHA-256 of all before, first 4 bytes
 *
 * The checksum lets junk be refused without a look at the table; the counter tells
 * a token used twice from one whose answer was lost.  The key is sealed in the
 * session's row, so a copy of the table refreshes nothing.
 */
#include "postgres.h"

#include <sodium.h>

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/uuid.h"

#include "core/compat.h"
#include "seal/seal.h"

#define REFRESH_VERSION		1
#define REFRESH_MAC_LEN		16
#define REFRESH_SUM_LEN		4
#define VARINT_MAX_LEN		10	/* 64 bits, 7 a byte */
#define REFRESH_MAX_LEN		(1 + UUID_LEN + VARINT_MAX_LEN + REFRESH_MAC_LEN + REFRESH_SUM_LEN)

PG_FUNCTION_INFO_V1(orion_refresh_key);
PG_FUNCTION_INFO_V1(orion_refresh_token);

static char *
refresh_context(Datum session)
{
	return psprintf("session:%s", DatumGetCString(DirectFunctionCall1(uuid_out, session)));
}

static size_t
put_varint(unsigned char *out, uint64 number)
{
	size_t		len = 0;

	while (number >= 0x80)
	{
		out[len++] = (number & 0x7f) | 0x80;
		number >>= 7;
	}
	out[len++] = number;
	return len;
}

static text *
encode_token(const pg_uuid_t *session, uint64 counter, const unsigned char *key)
{
	unsigned char token[REFRESH_MAX_LEN];
	unsigned char digest[crypto_auth_hmacsha256_BYTES];
	char		encoded[sodium_base64_ENCODED_LEN(REFRESH_MAX_LEN, sodium_base64_VARIANT_URLSAFE_NO_PADDING)];
	size_t		len = 0;

	token[len++] = REFRESH_VERSION;
	memcpy(token + len, session->data, UUID_LEN);
	len += UUID_LEN;
	len += put_varint(token + len, counter);
	crypto_auth_hmacsha256(digest, token, len, key);
	memcpy(token + len, digest, REFRESH_MAC_LEN);
	len += REFRESH_MAC_LEN;
	crypto_hash_sha256(digest, token, len);
	memcpy(token + len, digest, REFRESH_SUM_LEN);
	len += REFRESH_SUM_LEN;
	sodium_bin2base64(encoded, sizeof(encoded), token, len, sodium_base64_VARIANT_URLSAFE_NO_PADDING);
	return cstring_to_text(encoded);
}

/* orion_private.refresh_key(session uuid): a new key, sealed for this session. */
Datum
orion_refresh_key(PG_FUNCTION_ARGS)
{
	unsigned char key[crypto_auth_hmacsha256_KEYBYTES];
	bytea	   *sealed;

	randombytes_buf(key, sizeof(key));
	sealed = orion_seal(key, sizeof(key), refresh_context(PG_GETARG_DATUM(0)));
	explicit_bzero(key, sizeof(key));
	PG_RETURN_BYTEA_P(sealed);
}

/* orion_private.refresh_token(session uuid, key bytea, counter bigint) */
Datum
orion_refresh_token(PG_FUNCTION_ARGS)
{
	bytea	   *key = orion_unseal(PG_GETARG_BYTEA_PP(1), refresh_context(PG_GETARG_DATUM(0)));
	text	   *token;

	Assert(VARSIZE_ANY_EXHDR(key) == crypto_auth_hmacsha256_KEYBYTES);
	token = encode_token(PG_GETARG_UUID_P(0), PG_GETARG_INT64(2), (unsigned char *) VARDATA_ANY(key));
	explicit_bzero(VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key));
	PG_RETURN_TEXT_P(token);
}
