/*
 * apikey.c
 *	  Makes API keys and verifies them.
 *
 * Runs in any backend.  The table holds SHA-256 of each key: a key has 190 random
 * bits, so nothing slower is needed.  It is read anew at each use, as the owner of
 * the table and with the latest snapshot, so that a revoked key stops with the
 * commit.  The use of a key, and a refusal, is put on record at most once a minute,
 * in a transaction of its own after the request: a lock held for as long as the
 * request takes would keep the revocation waiting, and a failed request rolls back.
 * No key is in any statement or message.
 */
#include "postgres.h"

#include <sodium.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/pg_crc.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "apikey/apikey.h"
#include "apikey/rate.h"
#include "audit/audit.h"
#include "core/compat.h"
#include "core/error.h"
#include "core/storage.h"
#include "token/token.h"

#define PREFIX			"ork_"
#define PREFIX_LEN		4
#define VISIBLE_LEN		6
#define BODY_LEN		38
#define CHECKSUM_LEN	6		/* 62^6 > 2^32 */
#define KEY_LEN			(PREFIX_LEN + BODY_LEN + CHECKSUM_LEN)
#define DIGEST_LEN		crypto_hash_sha256_BYTES

static const char digits[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/* What is to be recorded of the last use of a known key. */
static enum
{
	NOTHING,
	USE,
	REFUSAL,
}			pending = NOTHING;
static pg_uuid_t pending_key;
static char pending_why[64];	/* of a refusal */

PG_FUNCTION_INFO_V1(orion_api_key_generate);
PG_FUNCTION_INFO_V1(orion_api_key_authenticate);

static void
append_checksum(char *key)
{
	pg_crc32	crc;

	INIT_TRADITIONAL_CRC32(crc);
	COMP_TRADITIONAL_CRC32(crc, key, PREFIX_LEN + BODY_LEN);
	FIN_TRADITIONAL_CRC32(crc);
	for (int i = CHECKSUM_LEN - 1; i >= 0; i--)
	{
		key[PREFIX_LEN + BODY_LEN + i] = digits[crc % 62];
		crc /= 62;
	}
	key[KEY_LEN] = '\0';
}

static bool
well_formed(const char *key)
{
	char		expected[KEY_LEN + 1];

	if (strlen(key) != KEY_LEN || strspn(key + PREFIX_LEN, digits) != BODY_LEN + CHECKSUM_LEN)
		return false;
	memcpy(expected, key, KEY_LEN);
	append_checksum(expected);
	return memcmp(expected, key, KEY_LEN) == 0;
}

static bytea *
digest_of(const char *key)
{
	bytea	   *digest = palloc(VARHDRSZ + DIGEST_LEN);

	SET_VARSIZE(digest, VARHDRSZ + DIGEST_LEN);
	crypto_hash_sha256((unsigned char *) VARDATA(digest), (const unsigned char *) key, strlen(key));
	return digest;
}

/*
 * orion_private.api_key_generate(OUT key text, OUT visible text, OUT digest bytea)
 */
Datum
orion_api_key_generate(PG_FUNCTION_ARGS)
{
	char		key[KEY_LEN + 1] = PREFIX;
	TupleDesc	desc;
	Datum		values[3];
	bool		nulls[3] = {false};
	Datum		result;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	for (int i = 0; i < BODY_LEN;)
	{
		unsigned char byte;

		if (!pg_strong_random(&byte, 1))
			ereport(ERROR, (errmsg("could not draw random bytes for an API key")));
		/* 4 * 62: beyond it some digits would be likelier */
		if (byte < 248)
			key[PREFIX_LEN + i++] = digits[byte % 62];
	}
	append_checksum(key);
	values[0] = CStringGetTextDatum(key);
	values[1] = PointerGetDatum(cstring_to_text_with_len(key, PREFIX_LEN + VISIBLE_LEN));
	values[2] = PointerGetDatum(digest_of(key));
	result = HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
	explicit_bzero(key, sizeof(key));
	return result;
}

bool
orion_api_key_looks(const char *token)
{
	return strncmp(token, PREFIX, PREFIX_LEN) == 0;
}

static Oid
owner_of_keys(void)
{
	return orion_storage_owner(orion_storage_table("api_keys"));
}

/* What api_key_find says of a key. */
typedef struct KeyRow
{
	bool		found;
	pg_uuid_t	id;
	char	   *refusal;		/* NULL: good */
	int			limit;			/* 0: none */
	bool		stale;			/* note the use */
	Jsonb	   *claims;			/* in the context given */
} KeyRow;

static SPIPlanPtr
kept_plan(SPIPlanPtr *plan, const char *text, Oid type)
{
	if (*plan == NULL)
	{
		SPIPlanPtr	made = SPI_prepare(text, 1, &type);

		if (made == NULL || SPI_keepplan(made) != 0)
			elog(ERROR, "could not prepare a statement for API keys");
		*plan = made;
	}
	return *plan;
}

static void
read_row(KeyRow *row, MemoryContext context)
{
	HeapTuple	tuple = SPI_tuptable->vals[0];
	TupleDesc	desc = SPI_tuptable->tupdesc;
	bool		isnull;
	Datum		value;

	value = SPI_getbinval(tuple, desc, 1, &isnull);
	row->found = !isnull;
	if (isnull)
		return;
	row->id = *DatumGetUUIDP(value);
	row->refusal = SPI_getvalue(tuple, desc, 2);
	if (row->refusal)
		row->refusal = MemoryContextStrdup(context, row->refusal);
	value = SPI_getbinval(tuple, desc, 3, &isnull);
	row->limit = isnull ? 0 : DatumGetInt32(value);
	value = SPI_getbinval(tuple, desc, 4, &isnull);
	row->stale = !isnull && DatumGetBool(value);
	value = SPI_getbinval(tuple, desc, 5, &isnull);
	if (!isnull)
	{
		MemoryContext caller = MemoryContextSwitchTo(context);

		row->claims = DatumGetJsonbPCopy(value);
		MemoryContextSwitchTo(caller);
	}
}

static void
find(const bytea *digest, KeyRow *row, MemoryContext context)
{
	static SPIPlanPtr plan = NULL;
	Datum		values[] = {PointerGetDatum(digest)};

	kept_plan(&plan, "SELECT f.key_id, f.refusal, f.rate_limit, f.stale, f.claims FROM orion_private.api_key_find($1) AS f", BYTEAOID);
	if (SPI_execute_plan(plan, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look up an API key");
	if (SPI_processed == 1)
		read_row(row, context);
}

/* Looks up as the owner of the table, and counts. */
static int
look_up(const char *key, KeyRow *row)
{
	MemoryContext context = CurrentMemoryContext;
	bytea	   *digest = digest_of(key);
	int			retry_after = 0;
	Oid			caller;
	int			security;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	PushActiveSnapshot(GetLatestSnapshot());
	GetUserIdAndSecContext(&caller, &security);
	SetUserIdAndSecContext(owner_of_keys(), security | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	find(digest, row, context);
	if (row->found && !row->refusal && row->limit > 0)
		retry_after = orion_api_key_rate(&row->id, row->limit);
	SetUserIdAndSecContext(caller, security);
	PopActiveSnapshot();
	SPI_finish();
	return retry_after;
}

OrionApiKeyStatus
orion_api_key_verify(const char *key, Jsonb **claims, const char **why, int *retry_after)
{
	KeyRow		row = {0};

	*claims = NULL;
	*why = NULL;
	pending = NOTHING;
	if (!well_formed(key))
	{
		*why = "malformed API key";
		return ORION_API_KEY_INVALID;
	}
	*retry_after = look_up(key, &row);
	if (!row.found)
	{
		*why = "unknown API key";
		return ORION_API_KEY_INVALID;
	}
	if (row.refusal || *retry_after > 0)
	{
		pending = REFUSAL;
		pending_key = row.id;
		strlcpy(pending_why, row.refusal ? row.refusal : "rate_limited", sizeof(pending_why));
		if (!row.refusal)
			return ORION_API_KEY_LIMITED;
		*why = strcmp(row.refusal, "expired") == 0 ? "the API key has expired" :
			strcmp(row.refusal, "revoked") == 0 ? "the API key was revoked" : "the user is banned";
		return ORION_API_KEY_INVALID;
	}
	if (row.stale)
	{
		pending = USE;
		pending_key = row.id;
	}
	*claims = row.claims;
	return ORION_API_KEY_VALID;
}

static void
record(const char *peer, const char *user_agent)
{
	Oid			types[] = {UUIDOID, TEXTOID};
	Datum		values[] = {UUIDPGetDatum(&pending_key), (Datum) 0};
	char		nulls[] = {' ', 'n', '\0'};

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	orion_audit_origin_set(peer, user_agent);
	PushActiveSnapshot(GetTransactionSnapshot());
	SetUserIdAndSecContext(owner_of_keys(), SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (pending == REFUSAL)
	{
		values[1] = CStringGetTextDatum(pending_why);
		nulls[1] = ' ';
	}
	if (SPI_execute_with_args("SELECT orion_private.api_key_record($1, $2)", 2, types, values, nulls, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not record the use of an API key");
	SPI_finish();
	SetUserIdAndSecContext(GetSessionUserId(), 0);
	PopActiveSnapshot();
	CommitTransactionCommand();
}

void
orion_api_key_record_use(const char *peer, const char *user_agent)
{
	MemoryContext context = CurrentMemoryContext;

	if (pending == NOTHING)
		return;
	PG_TRY();
	{
		if (!RecoveryInProgress())
			record(peer, user_agent);
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(context);
		EmitErrorReport();
		AbortOutOfAnyTransaction();
		MemoryContextSwitchTo(context);
		FlushErrorState();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	pending = NOTHING;
	MemoryContextSwitchTo(context);
}

/*
 * orion_api_key_authenticate(key text): like orion_authenticate, for API keys.
 */
Datum
orion_api_key_authenticate(PG_FUNCTION_ARGS)
{
	Jsonb	   *claims;
	const char *why;
	int			retry_after = 0;

	OrionApiKeyStatus status = orion_api_key_verify(text_to_cstring(PG_GETARG_TEXT_PP(0)), &claims, &why, &retry_after);

	pending = NOTHING;			/* that is for requests */
	if (status == ORION_API_KEY_LIMITED)
		ereport(ERROR,
				(errcode(ERRCODE_ORION_TOO_MANY),
				 errmsg("the API key was used too often"),
				 errhint("Try again in %d s.", retry_after)));
	if (status == ORION_API_KEY_INVALID)
		ereport(ERROR,
				(errcode(ERRCODE_ORION_UNAUTHORIZED),
				 errmsg("token refused: %s", why)));
	orion_claims_set(claims);
	PG_RETURN_JSONB_P(claims);
}

void
orion_api_key_init(void)
{
	orion_api_key_rate_init();
}
