/*
 * refresh.c
 *	  Refresh tokens: a counter per session, authenticated by a key per session.
 *
 * One row a session and none a token.  The token is base64url of
 *
 *	  version (1 byte) | session id (16) | counter (unsigned varint, LEB128)
 *	  | HMAC-SHA256 of all before under the session's key, first 16 bytes
 *	  | keyed digest of all before under the master key (8)
 *
 * The last digest lets whatever this server did not make be refused without a
 * look at the table; the counter tells a token used twice from one whose answer
 * was lost.  The key of the session is sealed in its row, so a copy of the table
 * refreshes nothing.
 */
#include "postgres.h"

#include <sodium.h>

#include "access/htup_details.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/uuid.h"

#include "auth/session.h"
#include "core/compat.h"
#include "seal/seal.h"

#define REFRESH_VERSION		1
#define REFRESH_MAC_LEN		16
#define REFRESH_SUM_LEN		8
#define REFRESH_SUM_CONTEXT "refresh_token"
#define VARINT_MAX_LEN		10	/* 64 bits, 7 a byte */
#define REFRESH_MAX_LEN		(1 + UUID_LEN + VARINT_MAX_LEN + REFRESH_MAC_LEN + REFRESH_SUM_LEN)

PG_FUNCTION_INFO_V1(orion_refresh_key);
PG_FUNCTION_INFO_V1(orion_refresh_parse);
PG_FUNCTION_INFO_V1(orion_refresh_token);
PG_FUNCTION_INFO_V1(orion_refresh_valid);

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
	unsigned char sum[ORION_SEAL_MAC_LEN];
	char		encoded[sodium_base64_ENCODED_LEN(REFRESH_MAX_LEN, sodium_base64_VARIANT_URLSAFE_NO_PADDING)];
	size_t		len = 0;

	token[len++] = REFRESH_VERSION;
	memcpy(token + len, session->data, UUID_LEN);
	len += UUID_LEN;
	len += put_varint(token + len, counter);
	crypto_auth_hmacsha256(digest, token, len, key);
	memcpy(token + len, digest, REFRESH_MAC_LEN);
	len += REFRESH_MAC_LEN;
	orion_seal_mac(token, len, REFRESH_SUM_CONTEXT, sum);
	memcpy(token + len, sum, REFRESH_SUM_LEN);
	len += REFRESH_SUM_LEN;
	sodium_bin2base64(encoded, sizeof(encoded), token, len, sodium_base64_VARIANT_URLSAFE_NO_PADDING);
	return cstring_to_text(encoded);
}

bytea *
orion_refresh_start(const pg_uuid_t *session, text **token)
{
	unsigned char key[crypto_auth_hmacsha256_KEYBYTES];
	bytea	   *sealed;

	randombytes_buf(key, sizeof(key));
	sealed = orion_seal(key, sizeof(key), refresh_context(UUIDPGetDatum(session)));
	*token = encode_token(session, 1, key);
	explicit_bzero(key, sizeof(key));
	return sealed;
}

/*
 * orion_private.refresh_key(session uuid): another key for a session. Tests need it, to see
 * its tokens refused.
 */
Datum
orion_refresh_key(PG_FUNCTION_ARGS)
{
	text	   *token;

	PG_RETURN_BYTEA_P(orion_refresh_start(PG_GETARG_UUID_P(0), &token));
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

/* False when the varint does not end in time. */
static bool
get_varint(const unsigned char **at, const unsigned char *end, uint64 *number)
{
	*number = 0;
	for (int shift = 0; shift < 64 && *at < end; shift += 7)
	{
		unsigned char byte = *(*at)++;

		*number |= (uint64) (byte & 0x7f) << shift;
		if (!(byte & 0x80))
			return true;
	}
	return false;
}

/* The bytes of a token this server made, with the right form; 0 when it did not. */
static size_t
decode_token(text *encoded, unsigned char *token, uint64 *counter)
{
	unsigned char sum[ORION_SEAL_MAC_LEN];
	const unsigned char *at = token + 1 + UUID_LEN;
	size_t		len;

	if (sodium_base642bin(token, REFRESH_MAX_LEN, VARDATA_ANY(encoded), VARSIZE_ANY_EXHDR(encoded),
						  NULL, &len, NULL, sodium_base64_VARIANT_URLSAFE_NO_PADDING) != 0 ||
		len <= 1 + UUID_LEN + REFRESH_MAC_LEN + REFRESH_SUM_LEN || token[0] != REFRESH_VERSION)
		return 0;
	orion_seal_mac(token, len - REFRESH_SUM_LEN, REFRESH_SUM_CONTEXT, sum);
	if (sodium_memcmp(sum, token + len - REFRESH_SUM_LEN, REFRESH_SUM_LEN) != 0 ||
		!get_varint(&at, token + len, counter) || *counter > PG_INT64_MAX ||
		at != token + len - REFRESH_SUM_LEN - REFRESH_MAC_LEN)
		return 0;
	return len;
}

/*
 * orion_private.refresh_parse(token text, OUT session uuid, OUT counter bigint)
 *
 * Both null for a token that this server did not make.
 */
Datum
orion_refresh_parse(PG_FUNCTION_ARGS)
{
	unsigned char token[REFRESH_MAX_LEN];
	pg_uuid_t	session;
	uint64		counter;
	TupleDesc	desc;
	Datum		values[2] = {0};
	bool		nulls[2] = {true, true};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (decode_token(PG_GETARG_TEXT_PP(0), token, &counter) > 0)
	{
		memcpy(session.data, token + 1, UUID_LEN);
		values[0] = UUIDPGetDatum(&session);
		values[1] = Int64GetDatum((int64) counter);
		nulls[0] = nulls[1] = false;
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* orion_private.refresh_valid(token text, session uuid, key bytea): the session's own digest */
Datum
orion_refresh_valid(PG_FUNCTION_ARGS)
{
	unsigned char token[REFRESH_MAX_LEN];
	unsigned char digest[crypto_auth_hmacsha256_BYTES];
	uint64		counter;
	size_t		len = decode_token(PG_GETARG_TEXT_PP(0), token, &counter);
	bytea	   *key;
	bool		right;

	if (len == 0 || memcmp(token + 1, PG_GETARG_UUID_P(1)->data, UUID_LEN) != 0)
		PG_RETURN_BOOL(false);
	key = orion_unseal(PG_GETARG_BYTEA_PP(2), refresh_context(PG_GETARG_DATUM(1)));
	len -= REFRESH_SUM_LEN + REFRESH_MAC_LEN;
	crypto_auth_hmacsha256(digest, token, len, (unsigned char *) VARDATA_ANY(key));
	right = sodium_memcmp(digest, token + len, REFRESH_MAC_LEN) == 0;
	explicit_bzero(VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key));
	PG_RETURN_BOOL(right);
}
