/*
 * token.c
 *	  Signs and verifies JSON Web Tokens (RFC 7519; RFC 8725 for the rules).
 *
 * Runs in any backend.  What a token says about its algorithm is compared, never
 * obeyed: the algorithm belongs to the key that "kid" names, or is HS256 for the
 * shared secret when there is no "kid".  Order of the checks: size and form,
 * header, key, signature, and only then the claims.  Outcomes are returned; raised
 * are only failures of our own side (no key table, a seal that does not open, no
 * libjwt).  No message holds a part of a token.
 */
#include "postgres.h"

#include <sodium.h>
#include <time.h>

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "core/compat.h"
#include "core/error.h"
#include "token/cache.h"
#include "token/claims.h"
#include "token/jwt_library.h"
#include "token/jwk.h"
#include "token/key.h"
#include "token/revocation.h"
#include "token/secret.h"
#include "token/signature.h"
#include "token/token.h"

#define TOKEN_MAX_LEN	16384	/* twice what common servers take as one
								 * header */
#define HEADER_MAX_LEN	2048	/* encoded JOSE header */
#define LEEWAY_SECONDS	30		/* clocks differ; RFC 7519 4.1.4 */
#define NO_EXPIRY		PG_INT64_MAX

PG_FUNCTION_INFO_V1(orion_token_sign);
PG_FUNCTION_INFO_V1(orion_jwt_verify);
PG_FUNCTION_INFO_V1(orion_authenticate);

/* The three parts of a compact JWS, within the token. */
typedef struct TokenParts
{
	const char *header;
	size_t		header_len;
	const char *payload;
	size_t		payload_len;
	const char *signature;
	size_t		signature_len;
} TokenParts;

static bool
split_token(const char *token, size_t len, TokenParts *parts)
{
	const char *end = token + len;
	const char *first = memchr(token, '.', len);
	const char *second = first ? memchr(first + 1, '.', end - first - 1) : NULL;

	if (!second || memchr(second + 1, '.', end - second - 1))
		return false;
	parts->header = token;
	parts->header_len = first - token;
	parts->payload = first + 1;
	parts->payload_len = second - first - 1;
	parts->signature = second + 1;
	parts->signature_len = end - second - 1;
	return parts->header_len > 0 && parts->header_len <= HEADER_MAX_LEN &&
		parts->payload_len > 0 && parts->signature_len > 0;
}

/*
 * Strict base64url (RFC 7515 section 2: no padding, nothing else between, no
 * stray bits at the end).  Palloc'ed with a NUL behind; NULL when it is not.
 */
static char *
decode_part(const char *part, size_t len, size_t *decoded_len)
{
	size_t		room = len / 4 * 3 + 3;
	char	   *decoded = palloc(room + 1);

	if (sodium_base642bin((unsigned char *) decoded, room, part, len, NULL, decoded_len, NULL,
						  sodium_base64_VARIANT_URLSAFE_NO_PADDING) != 0)
		return NULL;
	decoded[*decoded_len] = '\0';
	return decoded;
}

/*
 * JSON bytes as jsonb, or NULL.  The input functions of PostgreSQL 15 can only
 * raise; they hold nothing but memory, so catching their errors needs no
 * subtransaction.  Other errors (out of memory, cancel) go on.
 */
static Jsonb *
parse_json(char *bytes, size_t len)
{
	MemoryContext context = CurrentMemoryContext;
	Jsonb	   *volatile parsed = NULL;

	if (memchr(bytes, '\0', len) || !pg_verify_mbstr(PG_UTF8, bytes, len, true))
		return NULL;
	PG_TRY();
	{
		char	   *text = pg_any_to_server(bytes, len, PG_UTF8);

		parsed = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
	}
	PG_CATCH();
	{
		int			category = ERRCODE_TO_CATEGORY(geterrcode());

		if (category != ERRCODE_DATA_EXCEPTION && category != ERRCODE_PROGRAM_LIMIT_EXCEEDED)
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
	}
	PG_END_TRY();
	return parsed && JB_ROOT_IS_OBJECT(parsed) ? parsed : NULL;
}

static Jsonb *
parse_part(const char *part, size_t len)
{
	size_t		decoded_len;
	char	   *decoded = decode_part(part, len, &decoded_len);

	return decoded ? parse_json(decoded, decoded_len) : NULL;
}

static JsonbValue *
find_member(const Jsonb *object, const char *name, JsonbValue *buffer)
{
	return getKeyJsonValueFromContainer(unconstify(JsonbContainer *, &object->root),
										name, strlen(name), buffer);
}

/*
 * A NumericDate (RFC 7519 section 2) in seconds.  Leaves *seconds alone when the
 * claim is missing; false when it is not a number in the range of a year 9999.
 */
static bool
numeric_date(const Jsonb *claims, const char *name, int64 *seconds)
{
	JsonbValue	buffer;
	JsonbValue *value = find_member(claims, name, &buffer);
	Datum		number;

	if (!value || value->type == jbvNull)
		return true;
	if (value->type != jbvNumeric)
		return false;
	number = NumericGetDatum(value->val.numeric);
	if (DatumGetBool(DirectFunctionCall2(numeric_lt, number, NumericGetDatum(int64_to_numeric(0)))) ||
		DatumGetBool(DirectFunctionCall2(numeric_gt, number, NumericGetDatum(int64_to_numeric(INT64CONST(253402300799))))))
		return false;
	*seconds = DatumGetInt64(DirectFunctionCall1(numeric_int8, number));
	return true;
}

/* What a signature is checked with: an open key, or bytes for libjwt. */
typedef struct VerifyKey
{
	const char *alg;
	OrionOpenKey *open;
	const unsigned char *bytes;
	int			len;
} VerifyKey;

static bool
named_key(const char *kid, VerifyKey *verify)
{
	const OrionKey *key = orion_key_find(kid);

	if (!key)
		return false;
	*verify = (VerifyKey)
	{
		.alg = key->alg
	};
	if (key->public_key)
		verify->open = orion_key_public(key);
	else
	{
		const bytea *secret = orion_key_secret(key);

		if (!secret)
			return false;
		verify->bytes = (const unsigned char *) VARDATA_ANY(secret);
		verify->len = VARSIZE_ANY_EXHDR(secret);
	}
	return true;
}

static bool
shared_key(VerifyKey *verify)
{
	const OrionSecret *secret = orion_secret_get();

	if (!secret || secret->jwk)
		return false;
	*verify = (VerifyKey)
	{
		.alg = "HS256",.bytes = secret->bytes,.len = secret->len
	};
	return true;
}

static bool
signed_with(const char *token, const VerifyKey *key)
{
	if (key->open)
		return orion_signature_verify(key->alg, key->open, token);
	return key->bytes && orion_jwt_library_verify(key->alg, token, key->bytes, key->len);
}

/* Tries the keys of orion.jwt_secret that a token of this kid and alg may be signed with. */
static bool
signed_with_set(const char *token, const char *kid, const char *alg)
{
	for (const OrionJwk *jwk = orion_jwk_first(); jwk; jwk = jwk->next)
	{
		VerifyKey	key = {.alg = alg,.bytes = jwk->bytes,.len = jwk->len};

		if ((!kid || (jwk->kid && strcmp(jwk->kid, kid) == 0)) &&
			orion_jwk_allows(jwk, alg) && signed_with(token, &key))
			return true;
	}
	return false;
}

/* VALID when the signature is right. */
static OrionTokenStatus
check_signature(const char *token, const Jsonb *header, const char **why)
{
	JsonbValue	buffer;
	VerifyKey	key;
	char	   *alg = orion_claims_string(header, "alg");
	char	   *kid = orion_claims_string(header, "kid");

	/* a critical extension must be understood, and none is (RFC 7515 4.1.11) */
	*why = "critical header parameters are not supported";
	if (find_member(header, "crit", &buffer))
		return ORION_TOKEN_MALFORMED;
	*why = "malformed header";
	if (!alg || (!kid && find_member(header, "kid", &buffer)))
		return ORION_TOKEN_MALFORMED;
	if (signed_with_set(token, kid, alg))
		return ORION_TOKEN_VALID;
	*why = "unknown key";
	if (!(kid ? named_key(kid, &key) : shared_key(&key)))
	{
		if (orion_jwk_first() == NULL)
			return ORION_TOKEN_UNKNOWN_KEY;
		*why = "wrong signature";
		return strcmp(alg, "none") == 0 ? ORION_TOKEN_UNSECURED : ORION_TOKEN_UNKNOWN_KEY;
	}
	*why = "the algorithm is not the one of the key";
	if (strcmp(alg, key.alg) != 0)
		return strcmp(alg, "none") == 0 ? ORION_TOKEN_UNSECURED : ORION_TOKEN_UNKNOWN_KEY;
	*why = "wrong signature";
	return signed_with(token, &key) ? ORION_TOKEN_VALID : ORION_TOKEN_UNKNOWN_KEY;
}

/* Checks the times; *expires is exp, or NO_EXPIRY. */
static OrionTokenStatus
check_times(const Jsonb *claims, int64 *expires, int64 *issued_at, const char **why)
{
	int64		now = time(NULL);
	int64		not_before = 0;

	*expires = NO_EXPIRY;
	*issued_at = 0;
	*why = "malformed times";
	if (!numeric_date(claims, "exp", expires) || !numeric_date(claims, "nbf", &not_before) ||
		!numeric_date(claims, "iat", issued_at))
		return ORION_TOKEN_BAD_TIME;
	*why = "the token has expired";
	if (*expires != NO_EXPIRY && now >= *expires + LEEWAY_SECONDS)
		return ORION_TOKEN_EXPIRED;
	*why = "the token is not valid yet";
	if (now < not_before - LEEWAY_SECONDS)
		return ORION_TOKEN_NOT_YET;
	if (now < *issued_at - LEEWAY_SECONDS)
		return ORION_TOKEN_FROM_FUTURE;
	return ORION_TOKEN_VALID;
}

/* The whole verification, without the cache. */
static OrionTokenStatus
verify_anew(const char *token, size_t len, Jsonb **claims, int64 *expires,
			OrionTokenSubject *subject, const char **why)
{
	TokenParts	parts;
	OrionTokenStatus status;
	int64		issued_at;
	size_t		signature_len;
	Jsonb	   *header;

	*why = "malformed token";
	if (!split_token(token, len, &parts))
		return ORION_TOKEN_MALFORMED;
	if (!decode_part(parts.signature, parts.signature_len, &signature_len))
		return ORION_TOKEN_UNREADABLE;
	header = parse_part(parts.header, parts.header_len);
	if (!header)
		return ORION_TOKEN_UNREADABLE;
	status = check_signature(token, header, why);
	if (status != ORION_TOKEN_VALID)
		return status;
	*why = "malformed claims";
	*claims = parse_part(parts.payload, parts.payload_len);
	if (!*claims)
		return ORION_TOKEN_BAD_CLAIMS;
	status = check_times(*claims, expires, &issued_at, why);
	if (status == ORION_TOKEN_VALID)
	{
		orion_token_subject(*claims, subject);
		subject->issued_at = issued_at;
	}
	return status;
}

Jsonb *
orion_token_peek(const char *token, size_t len)
{
	TokenParts	parts;

	return split_token(token, len, &parts) ? parse_part(parts.payload, parts.payload_len) : NULL;
}

/* Forgets verified tokens when a key or the shared secret has changed. */
static void
refresh(void)
{
	static uint64 seen_generation = 0;

	if (orion_keys_refresh() || seen_generation != orion_secret_generation())
	{
		seen_generation = orion_secret_generation();
		orion_token_cache_clear();
	}
}

static Jsonb *
copy_jsonb(const Jsonb *source)
{
	Jsonb	   *copy = palloc(VARSIZE(source));

	memcpy(copy, source, VARSIZE(source));
	return copy;
}

/* The last check, made for every use of a token. */
static OrionTokenStatus
check_revoked(const OrionTokenSubject *subject, const char **why)
{
	if (!orion_token_revoked(subject))
		return ORION_TOKEN_VALID;
	*why = "the session has ended";
	return ORION_TOKEN_ENDED;
}

OrionTokenStatus
orion_token_verify(const char *token, size_t len, Jsonb **claims, const char **why)
{
	unsigned char digest[ORION_TOKEN_DIGEST_LEN];
	const OrionCachedToken *cached;
	OrionTokenStatus status;
	OrionTokenSubject subject;
	int64		expires;

	*claims = NULL;
	*why = NULL;
	if (len == 0 || len > TOKEN_MAX_LEN || memchr(token, '\0', len))
	{
		*why = len > TOKEN_MAX_LEN ? "the token is too long" : "malformed token";
		return ORION_TOKEN_MALFORMED;
	}
	refresh();
	crypto_hash_sha256(digest, (const unsigned char *) token, len);
	cached = orion_token_cache_find(digest);
	if (cached && (cached->expires == NO_EXPIRY || time(NULL) < cached->expires))
	{
		/* the check may read tables, and with that new keys: copy first */
		*claims = copy_jsonb(cached->claims);
		subject = cached->subject;
		status = check_revoked(&subject, why);
	}
	else
	{
		status = verify_anew(pnstrdup(token, len), len, claims, &expires, &subject, why);
		if (status == ORION_TOKEN_VALID)
		{
			*why = NULL;
			orion_token_cache_add(digest, expires, &subject, *claims);
			status = check_revoked(&subject, why);
		}
	}
	if (status != ORION_TOKEN_VALID)
		*claims = NULL;
	return status;
}

/* Raises PT401 when the token is refused, also for its audience. */
static Jsonb *
verify_argument(text *token)
{
	Jsonb	   *claims;
	const char *why;
	OrionTokenStatus status = orion_token_verify(VARDATA_ANY(token), VARSIZE_ANY_EXHDR(token), &claims, &why);

	if (status == ORION_TOKEN_VALID && orion_claims_audience(claims) != ORION_TOKEN_VALID)
	{
		status = ORION_TOKEN_OTHER_AUDIENCE;
		why = "it is for another audience";
	}
	if (status != ORION_TOKEN_VALID)
		ereport(ERROR,
				(errcode(ERRCODE_ORION_UNAUTHORIZED),
				 errmsg("token refused: %s", why)));
	return claims;
}

Datum
orion_jwt_verify(PG_FUNCTION_ARGS)
{
	PG_RETURN_JSONB_P(verify_argument(PG_GETARG_TEXT_PP(0)));
}

/* Verifies, and makes the claims those of the transaction. */
Datum
orion_authenticate(PG_FUNCTION_ARGS)
{
	Jsonb	   *claims = verify_argument(PG_GETARG_TEXT_PP(0));

	orion_claims_set(claims);
	PG_RETURN_JSONB_P(claims);
}

/* With the private part of a pair. */
static char *
sign_openly(const OrionKey *key, const char *json)
{
	OrionOpenKey *open = orion_key_private(key);
	char	   *token = open ? orion_signature_sign(key->alg, open, key->kid, json) : NULL;

	if (!token)
		ereport(ERROR,
				(errcode(ERRCODE_ORION_UNAVAILABLE),
				 errmsg("the active signing key has no private part, or OpenSSL cannot sign with it")));
	return token;
}

static char *
sign_shared(const OrionKey *key, const char *json)
{
	const bytea *secret = orion_key_secret(key);
	char	   *token;

	if (!secret)
		ereport(ERROR,
				(errcode(ERRCODE_ORION_UNAVAILABLE),
				 errmsg("the active signing key has no secret")));
	token = orion_jwt_library_sign(key->alg, key->kid, json,
								   (const unsigned char *) VARDATA_ANY(secret),
								   VARSIZE_ANY_EXHDR(secret));
	if (!token)
		ereport(ERROR,
				(errcode(ERRCODE_ORION_UNAVAILABLE),
				 errmsg("libjwt could not sign the claims"),
				 errhint("Numbers in claims must fit into 64 bits.")));
	return token;
}

char *
orion_token_make(const char *claims)
{
	const OrionKey *key;
	const char *json;
	char	   *token;

	refresh();
	key = orion_key_active();
	if (!key)
		return NULL;
	json = pg_server_to_any(claims, strlen(claims), PG_UTF8);
	token = key->public_key ? sign_openly(key, json) : sign_shared(key, json);
	if (strlen(token) > TOKEN_MAX_LEN)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("token would have more than %d bytes", TOKEN_MAX_LEN)));
	return token;
}

/*
 * orion_private.token_sign(claims jsonb): the token, or NULL when there is no
 * active key yet.
 */
Datum
orion_token_sign(PG_FUNCTION_ARGS)
{
	Jsonb	   *claims = PG_GETARG_JSONB_P(0);
	char	   *token;

	if (!JB_ROOT_IS_OBJECT(claims))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("claims must be a JSON object")));
	token = orion_token_make(JsonbToCString(NULL, &claims->root, VARSIZE(claims)));
	if (!token)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(token));
}

void
orion_token_init(void)
{
	orion_secret_init();
	orion_claims_init();
	orion_token_rules_init();
	orion_revocation_init();
}
