/*
 * email_token.c
 *	  Tokens that confirm a new mail address.
 *
 * Runs in any backend.  A token is 32 random bytes in base64url; the table keeps
 * SHA-256 of the text.  Events, which go through brokers, carry it sealed for the
 * user, and whoever sends the mail opens it by SQL.
 */
#include "postgres.h"

#include <sodium.h>

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "core/compat.h"
#include "core/error.h"
#include "seal/seal.h"

#define TOKEN_BYTES		32
#define VARIANT			sodium_base64_VARIANT_URLSAFE_NO_PADDING
#define TOKEN_ROOM		sodium_base64_ENCODED_LEN(TOKEN_BYTES, VARIANT)
#define SEALED_MAX		1024	/* a sealed token has about 130 characters */

PG_FUNCTION_INFO_V1(orion_email_token_make);
PG_FUNCTION_INFO_V1(orion_email_token_open);

static char *
seal_context(Datum user)
{
	return psprintf("email_token:%s", DatumGetCString(DirectFunctionCall1(uuid_out, user)));
}

/*
 * orion_private.email_token_make(user_id uuid, OUT digest bytea, OUT sealed text)
 */
Datum
orion_email_token_make(PG_FUNCTION_ARGS)
{
	unsigned char bytes[TOKEN_BYTES];
	char		token[TOKEN_ROOM];
	bytea	   *digest = palloc(VARHDRSZ + crypto_hash_sha256_BYTES);
	bytea	   *sealed;
	char	   *encoded;
	size_t		room;
	TupleDesc	desc;
	Datum		values[2];
	bool		nulls[2] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (!pg_strong_random(bytes, sizeof(bytes)))
		ereport(ERROR, (errmsg("could not draw random bytes for a token")));
	sodium_bin2base64(token, sizeof(token), bytes, sizeof(bytes), VARIANT);
	SET_VARSIZE(digest, VARHDRSZ + crypto_hash_sha256_BYTES);
	crypto_hash_sha256((unsigned char *) VARDATA(digest), (unsigned char *) token, strlen(token));
	sealed = orion_seal(token, strlen(token), seal_context(PG_GETARG_DATUM(0)));
	explicit_bzero(bytes, sizeof(bytes));
	explicit_bzero(token, sizeof(token));

	room = sodium_base64_ENCODED_LEN(VARSIZE_ANY_EXHDR(sealed), VARIANT);
	encoded = palloc(room);
	sodium_bin2base64(encoded, room, (unsigned char *) VARDATA_ANY(sealed), VARSIZE_ANY_EXHDR(sealed), VARIANT);
	values[0] = PointerGetDatum(digest);
	values[1] = CStringGetTextDatum(encoded);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/*
 * orion_email_token_open(user_id uuid, sealed text): the token.  ORION_SEAL_BROKEN
 * when it was sealed for another user, or by no Orion.
 */
Datum
orion_email_token_open(PG_FUNCTION_ARGS)
{
	text	   *encoded = PG_GETARG_TEXT_PP(1);
	size_t		len = VARSIZE_ANY_EXHDR(encoded);
	bytea	   *sealed = palloc(VARHDRSZ + SEALED_MAX);
	size_t		sealed_len;
	bytea	   *token;

	if (len > SEALED_MAX ||
		sodium_base642bin((unsigned char *) VARDATA(sealed), SEALED_MAX, VARDATA_ANY(encoded), len,
						  NULL, &sealed_len, NULL, VARIANT) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("this is no sealed token")));
	SET_VARSIZE(sealed, VARHDRSZ + sealed_len);
	token = orion_unseal(sealed, seal_context(PG_GETARG_DATUM(0)));
	PG_RETURN_TEXT_P(cstring_to_text_with_len(VARDATA_ANY(token), VARSIZE_ANY_EXHDR(token)));
}
