/*
 * mfa.c
 *	  Settings of second factors, the random texts they hand out, and their upkeep.
 *
 * Runs in any backend, orion_mfa_maintain() in the maintenance worker.  Tokens are 32
 * random bytes, so SHA-256 of one tells nothing of it.  A backup code is short enough to be
 * typed: its digest is keyed by the master key, so that a copy of the table alone cannot
 * be searched.
 */
#include "postgres.h"

#include <limits.h>
#include <sodium.h>

#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "pgstat.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "core/compat.h"
#include "mfa/mfa.h"
#include "seal/seal.h"

#define TOKEN_BYTES		32
#define TOKEN_VARIANT	sodium_base64_VARIANT_URLSAFE_NO_PADDING
#define CODE_CHARS		10		/* 50 bits: far more than the limits let
								 * anybody try */
#define CODE_CONTEXT	"backup_code"
#define ISSUER_MAX_LEN	64
#define EXPIRE_SECONDS	60

/* Crockford's base 32: no letter is taken for a digit, or for another letter */
static const char code_alphabet[] = "0123456789abcdefghjkmnpqrstvwxyz";

char	   *orion_mfa_issuer = NULL;
static int	pending_ttl = 900;
static int	trusted_device_ttl = 2592000;
static int	recent_sign_in = 900;
static int	lock_after = 10;

PG_FUNCTION_INFO_V1(orion_mfa_settings);
PG_FUNCTION_INFO_V1(orion_mfa_token);
PG_FUNCTION_INFO_V1(orion_backup_code);
PG_FUNCTION_INFO_V1(orion_backup_code_digest);

static Datum
make_row(FunctionCallInfo fcinfo, Datum *values)
{
	bool		nulls[4] = {false};
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	Assert(desc->natts <= lengthof(nulls));
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

/* orion_private.mfa_settings(): one row; times in seconds */
Datum
orion_mfa_settings(PG_FUNCTION_ARGS)
{
	Datum		values[] = {
		Int32GetDatum(pending_ttl), Int32GetDatum(trusted_device_ttl),
		Int32GetDatum(recent_sign_in), Int32GetDatum(lock_after)
	};

	PG_RETURN_DATUM(make_row(fcinfo, values));
}

static void
draw(unsigned char *bytes, size_t len)
{
	if (!pg_strong_random(bytes, len))
		ereport(ERROR, (errmsg("could not draw random bytes")));
}

/* orion_private.mfa_token(OUT token text, OUT digest bytea) */
Datum
orion_mfa_token(PG_FUNCTION_ARGS)
{
	unsigned char bytes[TOKEN_BYTES];
	char		token[sodium_base64_ENCODED_LEN(TOKEN_BYTES, TOKEN_VARIANT)];
	bytea	   *digest = palloc(VARHDRSZ + crypto_hash_sha256_BYTES);
	Datum		values[2];

	draw(bytes, sizeof(bytes));
	sodium_bin2base64(token, sizeof(token), bytes, sizeof(bytes), TOKEN_VARIANT);
	SET_VARSIZE(digest, VARHDRSZ + crypto_hash_sha256_BYTES);
	crypto_hash_sha256((unsigned char *) VARDATA(digest), (unsigned char *) token, strlen(token));
	values[0] = CStringGetTextDatum(token);
	values[1] = PointerGetDatum(digest);
	explicit_bzero(bytes, sizeof(bytes));
	explicit_bzero(token, sizeof(token));
	PG_RETURN_DATUM(make_row(fcinfo, values));
}

/* --- backup codes ---------------------------------------------------------------- */

/* A code counts for one user: the same one of another has another digest. */
static bytea *
code_digest(const pg_uuid_t *user, const char *code)
{
	unsigned char data[UUID_LEN + CODE_CHARS];
	bytea	   *digest = palloc(VARHDRSZ + ORION_SEAL_MAC_LEN);

	memcpy(data, user->data, UUID_LEN);
	memcpy(data + UUID_LEN, code, CODE_CHARS);
	SET_VARSIZE(digest, VARHDRSZ + ORION_SEAL_MAC_LEN);
	orion_seal_mac(data, sizeof(data), CODE_CONTEXT, (unsigned char *) VARDATA(digest));
	explicit_bzero(data, sizeof(data));
	return digest;
}

/* The character that was meant; NUL when there is none such in a code. */
static char
code_char(char c)
{
	if (c >= 'A' && c <= 'Z')
		c += 'a' - 'A';
	if (c == 'o')
		return '0';
	if (c == 'i' || c == 'l')
		return '1';
	return c != '\0' && strchr(code_alphabet, c) ? c : '\0';
}

/* False when what was typed cannot be a code. */
static bool
read_code(text *typed, char *code)
{
	int			n = 0;

	for (size_t i = 0; i < VARSIZE_ANY_EXHDR(typed); i++)
	{
		char		c = VARDATA_ANY(typed)[i];

		if (c == ' ' || c == '-')
			continue;
		if (n == CODE_CHARS || (c = code_char(c)) == '\0')
			return false;
		code[n++] = c;
	}
	return n == CODE_CHARS;
}

/* orion_private.backup_code(user_id uuid, OUT code text, OUT digest bytea) */
Datum
orion_backup_code(PG_FUNCTION_ARGS)
{
	unsigned char bytes[CODE_CHARS];
	char		code[CODE_CHARS];
	char		shown[CODE_CHARS + 2];
	Datum		values[2];

	draw(bytes, sizeof(bytes));
	for (int i = 0; i < CODE_CHARS; i++)
		code[i] = code_alphabet[bytes[i] % 32];
	snprintf(shown, sizeof(shown), "%.5s-%.5s", code, code + 5);
	values[0] = CStringGetTextDatum(shown);
	values[1] = PointerGetDatum(code_digest(PG_GETARG_UUID_P(0), code));
	explicit_bzero(bytes, sizeof(bytes));
	explicit_bzero(code, sizeof(code));
	explicit_bzero(shown, sizeof(shown));
	PG_RETURN_DATUM(make_row(fcinfo, values));
}

/* orion_private.backup_code_digest(user_id uuid, typed text): NULL when it cannot be a code */
Datum
orion_backup_code_digest(PG_FUNCTION_ARGS)
{
	char		code[CODE_CHARS];
	bytea	   *digest;

	if (!read_code(PG_GETARG_TEXT_PP(1), code))
		PG_RETURN_NULL();
	digest = code_digest(PG_GETARG_UUID_P(0), code);
	explicit_bzero(code, sizeof(code));
	PG_RETURN_BYTEA_P(digest);
}

/* --- maintenance and settings ------------------------------------------------------ */

static void
execute_delete(const char *query)
{
	if (SPI_execute(query, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not delete what has expired of second factors");
}

void
orion_mfa_maintain(void)
{
	static TimestampTz next = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (now < next)
		return;
	next = TimestampTzPlusMilliseconds(now, EXPIRE_SECONDS * 1000);
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	PushActiveSnapshot(GetTransactionSnapshot());
	pgstat_report_activity(STATE_RUNNING, "orion: forgetting pending sessions");
	execute_delete("DELETE FROM orion_private.pending_sessions WHERE expires_at OPERATOR(pg_catalog.<) pg_catalog.now()");
	execute_delete("DELETE FROM orion_private.trusted_devices WHERE expires_at OPERATOR(pg_catalog.<) pg_catalog.now()");
	execute_delete("DELETE FROM orion_private.two_factors WHERE confirmed_at IS NULL"
				   " AND created_at OPERATOR(pg_catalog.<) (pg_catalog.now() OPERATOR(pg_catalog.-) '1 hour'::pg_catalog.interval)");
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
	pgstat_report_activity(STATE_IDLE, NULL);
}

/* Authenticator apps split "issuer:account" at the colon. */
static bool
check_issuer(char **newval, void **extra, GucSource source)
{
	size_t		len = strlen(*newval);

	if (len == 0 || len > ISSUER_MAX_LEN || strpbrk(*newval, ":\t\r\n"))
	{
		GUC_check_errdetail("It has 1 to %d bytes, and no colon.", ISSUER_MAX_LEN);
		return false;
	}
	return true;
}

void
orion_mfa_init(void)
{
	orion_totp_init();
	DefineCustomStringVariable("orion.mfa_issuer",
							   "What authenticator apps show as the name of this service.", NULL,
							   &orion_mfa_issuer, "Orion",
							   PGC_SIGHUP, 0, check_issuer, NULL, NULL);
	DefineCustomIntVariable("orion.mfa_pending_ttl",
							"How long a sign-in waits for the second factor.", NULL,
							&pending_ttl, 900, 10, 86400,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("orion.mfa_trusted_device_ttl",
							"How long a trusted device needs no second factor.", "0: no device can be trusted.",
							&trusted_device_ttl, 2592000, 0, 366 * 86400,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("orion.mfa_recent_sign_in",
							"How old a sign-in may be to set up a second factor without the password.", NULL,
							&recent_sign_in, 900, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("orion.mfa_lock_after",
							"Wrong codes in a row until second factors of the user are locked.", "0: never.",
							&lock_after, 10, 0, 1000,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
}
