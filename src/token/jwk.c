/*
 * jwk.c
 *	  JSON Web Keys (RFC 7517, 7518) in orion.jwt_secret: symmetric, RSA and EC.
 *
 * Read once after each change of the setting, at the first token, because the
 * setting itself is also checked in the postmaster, where JSON cannot be parsed.
 * A key that is not understood is left out: no token is let in by it.
 */
#include "postgres.h"

#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/pem.h>
#include <sodium.h>

#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "token/jwk.h"
#include "token/secret.h"
#include "token/token.h"

#define MAX_KEYS	100

static MemoryContext context = NULL;
static OrionJwk *keys = NULL;
static uint64 seen = 0;

/* A member that is base64url; NULL when it is missing or is not. */
static unsigned char *
member_bytes(const Jsonb *jwk, const char *name, size_t *len)
{
	char	   *text = orion_claims_string(jwk, name);
	unsigned char *bytes;

	if (text == NULL)
		return NULL;
	bytes = palloc(strlen(text) + 1);
	if (sodium_base642bin(bytes, strlen(text), text, strlen(text), NULL, len, NULL,
						  sodium_base64_VARIANT_URLSAFE_NO_PADDING) != 0 &&
		sodium_base642bin(bytes, strlen(text), text, strlen(text), "=", len, NULL,
						  sodium_base64_VARIANT_URLSAFE_NO_PADDING) != 0)
		return NULL;
	return bytes;
}

/* The public key as PEM, palloc'ed with its NUL; NULL when OpenSSL refuses it. */
static char *
write_pem(EVP_PKEY *key)
{
	BIO		   *bio = BIO_new(BIO_s_mem());
	char	   *data;
	char	   *pem = NULL;
	long		len;

	if (bio && PEM_write_bio_PUBKEY(bio, key) == 1 && (len = BIO_get_mem_data(bio, &data)) > 0)
		pem = pnstrdup(data, len);
	BIO_free(bio);
	return pem;
}

static char *
make_pem(const char *type, OSSL_PARAM_BLD *build)
{
	OSSL_PARAM *params = OSSL_PARAM_BLD_to_param(build);
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, type, NULL);
	EVP_PKEY   *key = NULL;
	char	   *pem = NULL;

	if (params && ctx && EVP_PKEY_fromdata_init(ctx) == 1 &&
		EVP_PKEY_fromdata(ctx, &key, EVP_PKEY_PUBLIC_KEY, params) == 1)
		pem = write_pem(key);
	EVP_PKEY_free(key);
	EVP_PKEY_CTX_free(ctx);
	OSSL_PARAM_free(params);
	return pem;
}

static char *
rsa_pem(const Jsonb *jwk)
{
	size_t		n_len,
				e_len;
	unsigned char *n = member_bytes(jwk, "n", &n_len);
	unsigned char *e = member_bytes(jwk, "e", &e_len);
	OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
	BIGNUM	   *modulus = n ? BN_bin2bn(n, (int) n_len, NULL) : NULL;
	BIGNUM	   *exponent = e ? BN_bin2bn(e, (int) e_len, NULL) : NULL;
	char	   *pem = NULL;

	if (build && modulus && exponent &&
		OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_N, modulus) == 1 &&
		OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_E, exponent) == 1)
		pem = make_pem("RSA", build);
	BN_free(modulus);
	BN_free(exponent);
	OSSL_PARAM_BLD_free(build);
	return pem;
}

/* curve: "P-256", ...; the point is uncompressed (SEC 1, section 2.3.3) */
static char *
ec_pem(const Jsonb *jwk, const char *curve)
{
	size_t		x_len,
				y_len;
	unsigned char *x = member_bytes(jwk, "x", &x_len);
	unsigned char *y = member_bytes(jwk, "y", &y_len);
	OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
	char	   *pem = NULL;

	if (build && x && y && x_len == y_len)
	{
		unsigned char *point = palloc(1 + x_len + y_len);

		point[0] = 4;
		memcpy(point + 1, x, x_len);
		memcpy(point + 1 + x_len, y, y_len);
		if (OSSL_PARAM_BLD_push_utf8_string(build, OSSL_PKEY_PARAM_GROUP_NAME, curve, 0) == 1 &&
			OSSL_PARAM_BLD_push_octet_string(build, OSSL_PKEY_PARAM_PUB_KEY, point, 1 + x_len + y_len) == 1)
			pem = make_pem("EC", build);
	}
	OSSL_PARAM_BLD_free(build);
	return pem;
}

static bool
read_material(OrionJwk *key, const Jsonb *jwk, const char *kty)
{
	char	   *pem = NULL;
	size_t		len;

	if (strcmp(kty, "oct") == 0)
	{
		key->family = "HS";
		key->bytes = member_bytes(jwk, "k", &len);
		key->len = key->bytes ? (int) len : 0;
		return key->bytes && len >= ORION_SECRET_MIN_LEN;
	}
	if (strcmp(kty, "RSA") == 0)
	{
		key->family = "RS";
		pem = rsa_pem(jwk);
	}
	else if (strcmp(kty, "EC") == 0)
	{
		char	   *curve = orion_claims_string(jwk, "crv");

		key->family = "ES";
		if (curve)
		{
			key->curve = strcmp(curve, "P-256") == 0 ? "256" : strcmp(curve, "P-384") == 0 ? "384" : "512";
			pem = ec_pem(jwk, curve);
		}
	}
	if (pem == NULL)
		return false;
	key->bytes = (unsigned char *) pem;
	key->len = strlen(pem) + 1;
	return true;
}

static void
add_key(const Jsonb *jwk)
{
	char	   *kty = JB_ROOT_IS_OBJECT(jwk) ? orion_claims_string(jwk, "kty") : NULL;
	char	   *use = kty ? orion_claims_string(jwk, "use") : NULL;
	OrionJwk   *key;

	/* a key for encryption verifies nothing (RFC 7517 4.2) */
	if (kty == NULL || (use && strcmp(use, "sig") != 0))
		return;
	key = palloc0(sizeof(OrionJwk));
	key->kid = orion_claims_string(jwk, "kid");
	key->alg = orion_claims_string(jwk, "alg");
	if (!read_material(key, jwk, kty))
		return;
	key->next = keys;
	keys = key;
}

static void
add_set(const Jsonb *set)
{
	JsonbValue	buffer;
	JsonbValue *list = getKeyJsonValueFromContainer(unconstify(JsonbContainer *, &set->root), "keys", 4, &buffer);
	JsonbContainer *array;

	if (list == NULL)
	{
		add_key(set);
		return;
	}
	if (list->type != jbvBinary || !JsonContainerIsArray(list->val.binary.data))
		return;
	array = list->val.binary.data;
	for (uint32 i = 0; i < Min(JsonContainerSize(array), MAX_KEYS); i++)
	{
		JsonbValue *value = getIthJsonbValueFromContainer(array, i);

		if (value->type == jbvBinary)
			add_key(JsonbValueToJsonb(value));
	}
}

static void
read_keys(const char *text)
{
	MemoryContext outer = CurrentMemoryContext;
	MemoryContext fresh = AllocSetContextCreate(TopMemoryContext, "orion jwk", ALLOCSET_SMALL_SIZES);

	MemoryContextSwitchTo(fresh);
	PG_TRY();
	{
		Jsonb	   *set = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));

		if (JB_ROOT_IS_OBJECT(set))
			add_set(set);
	}
	PG_CATCH();
	{
		/* the message would show parts of the key */
		keys = NULL;
		MemoryContextSwitchTo(outer);
		FlushErrorState();
		ereport(LOG,
				(errmsg("setting \"orion.jwt_secret\" is not a JSON Web Key"),
				 errhint("Tokens signed with it are refused until it is corrected.")));
	}
	PG_END_TRY();
	MemoryContextSwitchTo(outer);
	context = fresh;
}

const OrionJwk *
orion_jwk_first(void)
{
	const OrionSecret *secret;

	if (seen == orion_secret_generation())
		return keys;
	if (context)
		MemoryContextDelete(context);
	context = NULL;
	keys = NULL;
	secret = orion_secret_get();
	if (secret && secret->jwk)
		read_keys((const char *) secret->bytes);
	seen = orion_secret_generation();
	return keys;
}

bool
orion_jwk_allows(const OrionJwk *jwk, const char *alg)
{
	if (jwk->alg)
		return strcmp(jwk->alg, alg) == 0 && strncmp(alg, jwk->family, 2) == 0;
	return strncmp(alg, jwk->family, 2) == 0 && (jwk->curve == NULL || strcmp(alg + 2, jwk->curve) == 0);
}
