/*
 * totp.c
 *	  Time-based one-time passwords (RFC 6238) by liboath, and how an app gets to know
 *	  the secret.
 *
 * Runs in any backend.  Codes have six digits of HMAC-SHA1 and change every 30 s: the
 * only ones that all apps know.  The step before and the one after count as well
 * (RFC 6238, 5.2), and never one that was used.  The secret is sealed for its user.
 */
#include "postgres.h"

#include <liboath/oath.h>
#include <sodium.h>

#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "core/compat.h"
#include "core/error.h"
#include "mfa/mfa.h"
#include "mfa/qr.h"
#include "seal/seal.h"

#define SECRET_BYTES	20		/* RFC 4226, 4, R6 */
#define STEP_SECONDS	30
#define DIGITS			6
#define MAX_DIGITS		8
#define SKEW_STEPS		1

PG_FUNCTION_INFO_V1(orion_totp_code);
PG_FUNCTION_INFO_V1(orion_totp_setup);
PG_FUNCTION_INFO_V1(orion_totp_step);

static char *
seal_context(Datum user)
{
	return psprintf("totp:%s", DatumGetCString(DirectFunctionCall1(uuid_out, user)));
}

static void
generate(const bytea *secret, int64 seconds, int digits, int flags, char *code)
{
	int			rc = oath_totp_generate2(VARDATA_ANY(secret), VARSIZE_ANY_EXHDR(secret), (time_t) seconds,
										 STEP_SECONDS, 0, digits, flags, code);

	if (rc != OATH_OK)
		ereport(ERROR,
				(errcode(ERRCODE_ORION_UNAVAILABLE),
				 errmsg("could not compute a one-time password: %s", oath_strerror(rc))));
}

static int
hash_flag(const char *algorithm)
{
	if (strcmp(algorithm, "SHA1") == 0)
		return 0;
	if (strcmp(algorithm, "SHA256") == 0)
		return OATH_TOTP_HMAC_SHA256;
	if (strcmp(algorithm, "SHA512") == 0)
		return OATH_TOTP_HMAC_SHA512;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("\"%s\" is none of SHA1, SHA256, SHA512", algorithm)));
}

/*
 * orion_private.totp_code(secret bytea, at timestamptz, digits int, algorithm text)
 *
 * The code of RFC 6238: what the library is held against the RFC's vectors with.
 */
Datum
orion_totp_code(PG_FUNCTION_ARGS)
{
	int			digits = PG_GETARG_INT32(2);
	char		code[MAX_DIGITS + 1];

	if (digits < DIGITS || digits > MAX_DIGITS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a code has %d to %d digits", DIGITS, MAX_DIGITS)));
	generate(PG_GETARG_BYTEA_PP(0), timestamptz_to_time_t(PG_GETARG_TIMESTAMPTZ(1)), digits,
			 hash_flag(text_to_cstring(PG_GETARG_TEXT_PP(3))), code);
	PG_RETURN_TEXT_P(cstring_to_text(code));
}

/* --- verifying ------------------------------------------------------------------- */

/* Six digits; apps show them in groups, so spaces between are nothing. */
static bool
read_code(text *typed, char *code)
{
	int			n = 0;

	for (size_t i = 0; i < VARSIZE_ANY_EXHDR(typed); i++)
	{
		char		c = VARDATA_ANY(typed)[i];

		if (c == ' ')
			continue;
		if (n == DIGITS || c < '0' || c > '9')
			return false;
		code[n++] = c;
	}
	return n == DIGITS;
}

/*
 * orion_private.totp_step(user_id uuid, secret bytea, typed text, at timestamptz, used bigint)
 *
 * The time step whose code this is; NULL for a wrong code, and for that of a step which is not
 * after the one used last.  All steps are computed and compared in constant time.
 */
Datum
orion_totp_step(PG_FUNCTION_ARGS)
{
	int64		now = timestamptz_to_time_t(PG_GETARG_TIMESTAMPTZ(3)) / STEP_SECONDS;
	int64		used = PG_GETARG_INT64(4);
	int64		found = -1;
	char		typed[DIGITS];
	bytea	   *secret;

	if (!read_code(PG_GETARG_TEXT_PP(2), typed))
		PG_RETURN_NULL();
	secret = orion_unseal(PG_GETARG_BYTEA_PP(1), seal_context(PG_GETARG_DATUM(0)));
	for (int64 step = Max(now - SKEW_STEPS, 0); step <= now + SKEW_STEPS; step++)
	{
		char		code[DIGITS + 1];

		generate(secret, step * STEP_SECONDS, DIGITS, 0, code);
		if (sodium_memcmp(code, typed, DIGITS) == 0 && step > used)
			found = step;
		explicit_bzero(code, sizeof(code));
	}
	explicit_bzero(VARDATA_ANY(secret), VARSIZE_ANY_EXHDR(secret));
	explicit_bzero(typed, sizeof(typed));
	if (found < 0)
		PG_RETURN_NULL();
	PG_RETURN_INT64(found);
}

/* --- setting up ------------------------------------------------------------------ */

/* RFC 3986, 2.1: all but unreserved characters. */
static void
append_encoded(StringInfo out, const char *server_text)
{
	const char *utf8 = pg_server_to_any(server_text, strlen(server_text), PG_UTF8);

	for (const unsigned char *at = (const unsigned char *) utf8; *at; at++)
	{
		bool		plain = (*at >= '0' && *at <= '9') || (*at >= 'A' && *at <= 'Z') || (*at >= 'a' && *at <= 'z') ||
		strchr("-._~", *at);

		if (plain)
			appendStringInfoChar(out, *at);
		else
			appendStringInfo(out, "%%%02X", *at);
	}
}

/* github.com/google/google-authenticator/wiki/Key-Uri-Format */
static char *
make_uri(const char *secret, const char *account)
{
	StringInfoData uri;

	initStringInfo(&uri);
	appendStringInfoString(&uri, "otpauth://totp/");
	append_encoded(&uri, orion_mfa_issuer);
	appendStringInfoChar(&uri, ':');
	append_encoded(&uri, account);
	appendStringInfo(&uri, "?secret=%s&issuer=", secret);
	append_encoded(&uri, orion_mfa_issuer);
	appendStringInfo(&uri, "&algorithm=SHA1&digits=%d&period=%d", DIGITS, STEP_SECONDS);
	return uri.data;
}

static char *
base32(const unsigned char *bytes, size_t len)
{
	char	   *encoded = NULL;
	size_t		encoded_len;
	int			rc = oath_base32_encode((const char *) bytes, len, &encoded, &encoded_len);
	char	   *copy;

	if (rc != OATH_OK)
		ereport(ERROR,
				(errcode(ERRCODE_ORION_UNAVAILABLE),
				 errmsg("could not encode a secret: %s", oath_strerror(rc))));
	copy = MemoryContextAllocExtended(CurrentMemoryContext, encoded_len + 1, MCXT_ALLOC_NO_OOM);
	if (copy)
		memcpy(copy, encoded, encoded_len + 1);
	explicit_bzero(encoded, encoded_len);
	free(encoded);
	if (!copy)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	return copy;
}

/*
 * orion_private.totp_setup(user_id uuid, account text,
 *		OUT sealed bytea, OUT secret text, OUT uri text, OUT qr_code text)
 *
 * A new secret: as it is kept, for typing (base 32), as otpauth:// URI, and that as
 * an image (SVG).
 */
Datum
orion_totp_setup(PG_FUNCTION_ARGS)
{
	unsigned char secret[SECRET_BYTES];
	char	   *encoded;
	char	   *uri;
	TupleDesc	desc;
	Datum		values[4];
	bool		nulls[4] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (!pg_strong_random(secret, sizeof(secret)))
		ereport(ERROR, (errmsg("could not draw random bytes for a secret")));
	values[0] = PointerGetDatum(orion_seal(secret, sizeof(secret), seal_context(PG_GETARG_DATUM(0))));
	encoded = base32(secret, sizeof(secret));
	explicit_bzero(secret, sizeof(secret));
	uri = make_uri(encoded, text_to_cstring(PG_GETARG_TEXT_PP(1)));
	values[1] = CStringGetTextDatum(encoded);
	values[2] = CStringGetTextDatum(uri);
	values[3] = CStringGetTextDatum(orion_qr_svg(uri));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

void
orion_totp_init(void)
{
	int			rc = oath_init();

	if (rc != OATH_OK)
		ereport(ERROR, (errmsg("could not initialize liboath: %s", oath_strerror(rc))));
}
