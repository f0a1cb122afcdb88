/*
 * jwks.c
 *	  Public keys as JSON Web Keys (RFC 7517; RFC 7518 section 6 for the members).
 *
 * Runs in any backend; OpenSSL's objects are freed before anything can raise.
 */
#include "postgres.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <sodium.h>

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"

#include "core/compat.h"
#include "core/error.h"

#define P256_LEN		32		/* bytes of a coordinate (RFC 7518 6.2.1.2) */
#define NUMBER_MAX_LEN	2048	/* 16384-bit RSA, what OpenSSL takes at most */

PG_FUNCTION_INFO_V1(orion_key_jwk);

/* A number of a key as base64url, left-filled to width bytes (0: as short as it is). */
static bool
get_number(EVP_PKEY *pkey, const char *name, int width, char *encoded, size_t room)
{
	unsigned char bytes[NUMBER_MAX_LEN];
	BIGNUM	   *number = NULL;
	int			len;
	bool		ok = false;

	if (EVP_PKEY_get_bn_param(pkey, name, &number) != 1)
		return false;
	len = width > 0 ? width : BN_num_bytes(number);
	if (len <= (int) sizeof(bytes) && BN_bn2binpad(number, bytes, len) == len)
		ok = sodium_bin2base64(encoded, room, bytes, len, sodium_base64_VARIANT_URLSAFE_NO_PADDING) != NULL;
	BN_free(number);
	return ok;
}

static EVP_PKEY *
read_pem(const char *pem)
{
	BIO		   *bio = BIO_new_mem_buf(pem, -1);
	EVP_PKEY   *pkey = bio ? PEM_read_bio_PUBKEY(bio, NULL, NULL, NULL) : NULL;

	BIO_free(bio);
	return pkey;
}

/* orion_private.key_jwk(public_key text) */
Datum
orion_key_jwk(PG_FUNCTION_ARGS)
{
	static char first[sodium_base64_ENCODED_LEN(NUMBER_MAX_LEN, sodium_base64_VARIANT_URLSAFE_NO_PADDING)];
	static char second[sizeof(first)];
	EVP_PKEY   *pkey = read_pem(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	const char *format = NULL;

	if (pkey && EVP_PKEY_is_a(pkey, "RSA") &&
		get_number(pkey, OSSL_PKEY_PARAM_RSA_N, 0, first, sizeof(first)) &&
		get_number(pkey, OSSL_PKEY_PARAM_RSA_E, 0, second, sizeof(second)))
		format = "{\"kty\": \"RSA\", \"n\": \"%s\", \"e\": \"%s\"}";
	else if (pkey && EVP_PKEY_is_a(pkey, "EC") &&
			 get_number(pkey, OSSL_PKEY_PARAM_EC_PUB_X, P256_LEN, first, sizeof(first)) &&
			 get_number(pkey, OSSL_PKEY_PARAM_EC_PUB_Y, P256_LEN, second, sizeof(second)))
		format = "{\"kty\": \"EC\", \"crv\": \"P-256\", \"x\": \"%s\", \"y\": \"%s\"}";
	EVP_PKEY_free(pkey);
	if (!format)
		ereport(ERROR,
				(errcode(ERRCODE_ORION_UNAVAILABLE),
				 errmsg("a signing key has no public key of a known kind")));
	PG_RETURN_DATUM(DirectFunctionCall1(jsonb_in, CStringGetDatum(psprintf(format, first, second))));
}
