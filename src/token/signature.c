/*
 * signature.c
 *	  Signs and verifies with RSA and elliptic curves.
 *
 * libjwt reads the PEM anew for each token, which takes several times as long as
 * the signature itself; here the key is opened once a process (key.c) and OpenSSL
 * is called directly.  Runs in any backend.  OpenSSL's objects are not palloc'ed:
 * nothing between making and freeing one can raise.
 */
#include "postgres.h"

#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <sodium.h>

#include "lib/stringinfo.h"
#include "utils/json.h"

#include "token/signature.h"

#define RSA_MIN_BITS	2048
#define RSA_MAX_LEN		2048	/* bytes of a signature: 16384 bits, what
								 * OpenSSL takes at most */
#define P256_LEN		32
#define ES256_LEN		(2 * P256_LEN)	/* R and S (RFC 7518 3.4) */

static bool
is_rsa(const char *alg)
{
	return strcmp(alg, "RS256") == 0;
}

static bool
fits(const char *alg, EVP_PKEY *key)
{
	char		group[32];
	size_t		len;

	if (is_rsa(alg))
		return EVP_PKEY_is_a(key, "RSA") && EVP_PKEY_get_bits(key) >= RSA_MIN_BITS &&
			EVP_PKEY_get_size(key) <= RSA_MAX_LEN;
	return strcmp(alg, "ES256") == 0 && EVP_PKEY_is_a(key, "EC") &&
		EVP_PKEY_get_group_name(key, group, sizeof(group), &len) == 1 && strcmp(group, SN_X9_62_prime256v1) == 0;
}

/* No PEM of ours has a passphrase, and nobody is there to be asked for one. */
static int
no_passphrase(char *buffer, int size, int writing, void *unused)
{
	return -1;
}

OrionOpenKey *
orion_signature_open(const char *alg, const char *pem, int len, bool private)
{
	BIO		   *bio = BIO_new_mem_buf(pem, len);
	EVP_PKEY   *key = NULL;

	if (bio)
		key = private ? PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL) : PEM_read_bio_PUBKEY(bio, NULL, no_passphrase, NULL);
	BIO_free(bio);
	if (key && !fits(alg, key))
	{
		EVP_PKEY_free(key);
		key = NULL;
	}
	ERR_clear_error();
	return key;
}

void
orion_signature_close(OrionOpenKey *key)
{
	EVP_PKEY_free(key);
}

/* R and S from and to the ASN.1 that OpenSSL speaks; 0 or false when they are none. */
static size_t
flatten(const unsigned char *der, size_t len, unsigned char *flat)
{
	ECDSA_SIG  *pair = d2i_ECDSA_SIG(NULL, &der, len);
	bool		ok = pair && BN_bn2binpad(ECDSA_SIG_get0_r(pair), flat, P256_LEN) == P256_LEN &&
	BN_bn2binpad(ECDSA_SIG_get0_s(pair), flat + P256_LEN, P256_LEN) == P256_LEN;

	ECDSA_SIG_free(pair);
	return ok ? ES256_LEN : 0;
}

static size_t
unflatten(const unsigned char *flat, size_t len, unsigned char *der)
{
	ECDSA_SIG  *pair = len == ES256_LEN ? ECDSA_SIG_new() : NULL;
	BIGNUM	   *r = pair ? BN_bin2bn(flat, P256_LEN, NULL) : NULL;
	BIGNUM	   *s = pair ? BN_bin2bn(flat + P256_LEN, P256_LEN, NULL) : NULL;
	int			written = 0;

	if (r && s && ECDSA_SIG_set0(pair, r, s) == 1)
		written = i2d_ECDSA_SIG(pair, &der);	/* r and s are the pair's now */
	else
	{
		BN_free(r);
		BN_free(s);
	}
	ECDSA_SIG_free(pair);
	return Max(written, 0);
}

/* The length of the signature of data in out, which has RSA_MAX_LEN bytes; 0 when OpenSSL cannot. */
static size_t
sign_bytes(const char *alg, EVP_PKEY *key, const char *data, size_t data_len, unsigned char *out)
{
	unsigned char made[RSA_MAX_LEN];
	size_t		len = sizeof(made);
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	bool		ok = ctx && EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, key) == 1 &&
	EVP_DigestSign(ctx, made, &len, (const unsigned char *) data, data_len) == 1;

	EVP_MD_CTX_free(ctx);
	ERR_clear_error();
	if (!ok)
		return 0;
	if (!is_rsa(alg))
		return flatten(made, len, out);
	memcpy(out, made, len);
	return len;
}

/*
 * Appends JSON without the spaces between its members: what is in a token is sent
 * with each request.
 */
static void
append_compact(StringInfo to, const char *json)
{
	bool		quoted = false;

	for (const char *at = json; *at; at++)
	{
		if (quoted && *at == '\\')
			appendStringInfoChar(to, *at++);
		else if (*at == '"')
			quoted = !quoted;
		else if (!quoted && *at == ' ')
			continue;
		appendStringInfoChar(to, *at);
	}
}

static void
append_encoded(StringInfo to, const void *bytes, size_t len)
{
	size_t		room = sodium_base64_encoded_len(len, sodium_base64_VARIANT_URLSAFE_NO_PADDING);

	enlargeStringInfo(to, room);
	sodium_bin2base64(to->data + to->len, room, bytes, len, sodium_base64_VARIANT_URLSAFE_NO_PADDING);
	to->len += room - 1;		/* it ends with NUL */
}

char *
orion_signature_sign(const char *alg, OrionOpenKey *key, const char *kid, const char *claims)
{
	unsigned char signature[RSA_MAX_LEN];
	size_t		len;
	StringInfoData json;
	StringInfoData token;

	initStringInfo(&json);
	initStringInfo(&token);
	appendStringInfo(&json, "{\"alg\":\"%s\",\"kid\":", alg);
	escape_json(&json, kid);
	appendStringInfoString(&json, ",\"typ\":\"JWT\"}");
	append_encoded(&token, json.data, json.len);
	appendStringInfoChar(&token, '.');
	resetStringInfo(&json);
	append_compact(&json, claims);
	append_encoded(&token, json.data, json.len);
	len = sign_bytes(alg, key, token.data, token.len, signature);
	if (len == 0)
		return NULL;
	appendStringInfoChar(&token, '.');
	append_encoded(&token, signature, len);
	return token.data;
}

bool
orion_signature_verify(const char *alg, OrionOpenKey *key, const char *token)
{
	unsigned char signature[RSA_MAX_LEN];
	unsigned char der[2 * ES256_LEN];
	const unsigned char *bytes = signature;
	const char *dot = strrchr(token, '.');
	size_t		len;
	EVP_MD_CTX *ctx;
	bool		right;

	if (!dot || sodium_base642bin(signature, sizeof(signature), dot + 1, strlen(dot + 1), NULL, &len, NULL,
								  sodium_base64_VARIANT_URLSAFE_NO_PADDING) != 0)
		return false;
	if (!is_rsa(alg))
	{
		len = unflatten(signature, len, der);
		bytes = der;
	}
	if (len == 0)
		return false;
	ctx = EVP_MD_CTX_new();
	right = ctx && EVP_DigestVerifyInit(ctx, NULL, EVP_sha256(), NULL, key) == 1 &&
		EVP_DigestVerify(ctx, bytes, len, (const unsigned char *) token, dot - token) == 1;
	EVP_MD_CTX_free(ctx);
	ERR_clear_error();
	return right;
}
