/*
 * session.c
 *	  Opens sessions: the device, the row, the tokens.
 *
 * Runs in the backend of who signs in, in the transaction and as the owner of the
 * functions that call it.  In C because every sign-in ends here, right after a hash
 * that has driven everything else out of the processor's caches: what counts then is
 * how little code and data is touched.  Rows are written by plans that stay for the
 * life of the process, so constraints and triggers are PostgreSQL's own.  Tokens are
 * made here and are never the parameter of a query (auth.h).
 */
#include "postgres.h"

#include <sodium.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"
#include "utils/uuid.h"

#include "auth/auth.h"
#include "auth/session.h"
#include "core/compat.h"
#include "token/token.h"

#define METADATA_MAX_LEN	4096	/* in a token; a larger one would not fit
									 * into a header */

/* attribute numbers of users and sessions, in the order of auth.sql */
#define USER_ID				1
#define USER_EMAIL			2
#define USER_ROLE			4
#define USER_USER_METADATA	7
#define USER_APP_METADATA	8
#define USER_VERIFIED_AT	9
#define SESSION_ID			1
#define SESSION_AAL			6
#define SESSION_AMR			7
#define SESSION_DOWNGRADED	14

/* What a token says, besides the settings. */
typedef struct Claims
{
	HeapTupleHeader user;
	TupleDesc	user_desc;
	const char *session;
	const char *aal;
	const char *amr;			/* JSON */
	int64		issued_at;		/* seconds since 1970 */
} Claims;

PG_FUNCTION_INFO_V1(orion_access_token);
PG_FUNCTION_INFO_V1(orion_session_open);

static int64
unix_seconds(TimestampTz at)
{
	return (at + (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY) / USECS_PER_SEC;
}

static char *
uuid_text(const pg_uuid_t *uuid)
{
	return DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(uuid)));
}

/* --- rows -------------------------------------------------------------------------- */

static TupleDesc
row_desc(HeapTupleHeader row)
{
	return lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(row), HeapTupleHeaderGetTypMod(row));
}

static Datum
row_column(HeapTupleHeader row, TupleDesc desc, AttrNumber column, bool *isnull)
{
	HeapTupleData tuple = {.t_len = HeapTupleHeaderGetDatumLength(row),.t_data = row};

	return heap_getattr(&tuple, column, desc, isnull);
}

/* Of a column that is not null. */
static Datum
row_value(HeapTupleHeader row, TupleDesc desc, AttrNumber column)
{
	bool		isnull;
	Datum		value = row_column(row, desc, column, &isnull);

	if (isnull)
		elog(ERROR, "column %d of a row is null", column);
	return value;
}

static char *
jsonb_text(Datum value)
{
	Jsonb	   *json = DatumGetJsonbP(value);

	return JsonbToCString(NULL, &json->root, VARSIZE(json));
}

/* --- access tokens ------------------------------------------------------------------ */

static void
add_member(StringInfo json, const char *name, const char *value)
{
	appendStringInfo(json, "%s\"%s\": %s", json->len > 1 ? ", " : "", name, value);
}

static void
add_string(StringInfo json, const char *name, const char *value)
{
	StringInfoData quoted;

	initStringInfo(&quoted);
	escape_json(&quoted, value);
	add_member(json, name, quoted.data);
}

static void
add_number(StringInfo json, const char *name, int64 value)
{
	appendStringInfo(json, ", \"%s\": " INT64_FORMAT, name, value);
}

static void
add_metadata(StringInfo json, const char *name, const Claims *claims, AttrNumber column)
{
	char	   *metadata = jsonb_text(row_value(claims->user, claims->user_desc, column));

	add_member(json, name, strlen(metadata) <= METADATA_MAX_LEN ? metadata : "{}");
}

/* The names of GoTrue's claims, and email_verified of OpenID Connect. */
static char *
claims_json(const Claims *claims)
{
	StringInfoData json;
	bool		unverified;

	(void) row_column(claims->user, claims->user_desc, USER_VERIFIED_AT, &unverified);
	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	add_string(&json, "iss", orion_auth_issuer);
	add_string(&json, "aud", orion_auth_audience);
	add_string(&json, "sub", uuid_text(DatumGetUUIDP(row_value(claims->user, claims->user_desc, USER_ID))));
	add_string(&json, "role", NameStr(*DatumGetName(row_value(claims->user, claims->user_desc, USER_ROLE))));
	add_string(&json, "email", TextDatumGetCString(row_value(claims->user, claims->user_desc, USER_EMAIL)));
	add_member(&json, "email_verified", unverified ? "false" : "true");
	add_number(&json, "iat", claims->issued_at);
	add_number(&json, "exp", claims->issued_at + orion_auth_access_token_ttl);
	add_string(&json, "session_id", claims->session);
	add_string(&json, "aal", claims->aal);
	add_member(&json, "amr", claims->amr);
	add_metadata(&json, "app_metadata", claims, USER_APP_METADATA);
	add_metadata(&json, "user_metadata", claims, USER_USER_METADATA);
	appendStringInfoChar(&json, '}');
	return json.data;
}

/* NULL when there is no key to sign with. */
static text *
sign(const Claims *claims, char **json)
{
	char	   *token;

	*json = claims_json(claims);
	token = orion_token_make(*json);
	return token ? cstring_to_text(token) : NULL;
}

/* Where there is no key yet; the claims are no secret. Needs an SPI connection. */
static text *
sign_first(const char *json, MemoryContext result)
{
	Oid			types[] = {JSONBOID};
	Datum		values[] = {DirectFunctionCall1(jsonb_in, CStringGetDatum(json))};
	MemoryContext caller;
	bool		isnull;
	text	   *token;

	if (SPI_execute_with_args("SELECT orion_private.token_sign_first($1)", 1, types, values, NULL, false, 1) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not make a signing key");
	caller = MemoryContextSwitchTo(result);
	token = DatumGetTextPCopy(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	MemoryContextSwitchTo(caller);
	return token;
}

/*
 * orion_private.access_token(u users, session sessions, issued_at timestamptz)
 */
Datum
orion_access_token(PG_FUNCTION_ARGS)
{
	HeapTupleHeader session = PG_GETARG_HEAPTUPLEHEADER(1);
	TupleDesc	desc = row_desc(session);
	Claims		claims = {.user = PG_GETARG_HEAPTUPLEHEADER(0)};
	bool		never;
	TimestampTz downgraded = DatumGetTimestampTz(row_column(session, desc, SESSION_DOWNGRADED, &never));
	char	   *json;
	text	   *token;

	claims.user_desc = row_desc(claims.user);
	claims.session = uuid_text(DatumGetUUIDP(row_value(session, desc, SESSION_ID)));
	claims.aal = TextDatumGetCString(row_value(session, desc, SESSION_AAL));
	claims.amr = jsonb_text(row_value(session, desc, SESSION_AMR));
	claims.issued_at = unix_seconds(PG_GETARG_TIMESTAMPTZ(2));
	/* not the second of a downgrade, whose aal2 tokens are dead */
	if (!never && strcmp(claims.aal, "aal2") == 0)
		claims.issued_at = Max(claims.issued_at, unix_seconds(downgraded) + 1);
	token = sign(&claims, &json);
	ReleaseTupleDesc(desc);
	ReleaseTupleDesc(claims.user_desc);
	if (!token)
	{
		MemoryContext result = CurrentMemoryContext;

		SPI_connect();
		token = sign_first(json, result);
		SPI_finish();
	}
	PG_RETURN_TEXT_P(token);
}

/* --- sign-in ------------------------------------------------------------------------- */

typedef struct Opening
{
	pg_uuid_t	id;
	Datum		user;			/* a row of users */
	pg_uuid_t	user_id;
	Datum		method;
	Datum		device;
	Datum		address;
	Datum		user_agent;
	bool		no_device;
	bool		no_address;
	bool		no_user_agent;
	text	   *aal;
	char	   *amr;
	bytea	   *key;			/* sealed */
	TimestampTz issued_at;
} Opening;

static SPIPlanPtr
keep(SPIPlanPtr *plan, const char *query, int nargs, Oid *types)
{
	if (!*plan)
	{
		SPIPlanPtr	made = SPI_prepare(query, nargs, types);

		if (!made || SPI_keepplan(made) != 0)
			elog(ERROR, "could not prepare how to open a session");
		*plan = made;
	}
	return *plan;
}

/* SHA-256 of what the client says of itself: its device id or else its user agent. */
static Datum
fingerprint(const Opening *open)
{
	bytea	   *digest = palloc(VARHDRSZ + crypto_hash_sha256_BYTES);
	char	   *mark = "";
	char	   *utf8;

	if (!open->no_device)
		mark = psprintf("device:%s", TextDatumGetCString(open->device));
	else if (!open->no_user_agent)
		mark = psprintf("agent:%s", TextDatumGetCString(open->user_agent));
	utf8 = pg_server_to_any(mark, strlen(mark), PG_UTF8);
	SET_VARSIZE(digest, VARHDRSZ + crypto_hash_sha256_BYTES);
	crypto_hash_sha256((unsigned char *) VARDATA(digest), (unsigned char *) utf8, strlen(utf8));
	return PointerGetDatum(digest);
}

static void
report_new_device(const Opening *open, const pg_uuid_t *device, Oid row_type)
{
	Oid			types[] = {row_type, UUIDOID, INETOID, TEXTOID};
	Datum		values[] = {open->user, UUIDPGetDatum(device), open->address, open->user_agent};
	char		nulls[] = {' ', ' ', open->no_address ? 'n' : ' ', open->no_user_agent ? 'n' : ' ', '\0'};

	if (SPI_execute_with_args("SELECT orion_private.device_new($1, $2, $3, $4)", lengthof(types), types, values, nulls, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not look at the devices of a user");
}

/* The device of this sign-in, which is told of when it is new. */
static void
see_device(const Opening *open, Oid row_type, pg_uuid_t *device)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {UUIDOID, BYTEAOID, TEXTOID, INETOID};
	Datum		values[] = {UUIDPGetDatum(&open->user_id), fingerprint(open), open->user_agent, open->address};
	char		nulls[] = {' ', ' ', open->no_user_agent ? 'n' : ' ', open->no_address ? 'n' : ' ', '\0'};
	bool		isnull;

	keep(&plan, "INSERT INTO orion_private.devices AS d (user_id, fingerprint, user_agent, last_address) VALUES ($1, $2, $3, $4)"
		 " ON CONFLICT ON CONSTRAINT devices_user_id_fingerprint_key DO UPDATE"
		 " SET user_agent = excluded.user_agent, last_address = excluded.last_address, last_seen_at = pg_catalog.now()"
		 " RETURNING d.id, d.xmax OPERATOR(pg_catalog.=) 0", lengthof(types), types);
	if (SPI_execute_plan(plan, values, nulls, false, 0) != SPI_OK_INSERT_RETURNING || SPI_processed != 1)
		elog(ERROR, "could not write the device of a sign-in");
	*device = *DatumGetUUIDP(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	if (DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull)))
		report_new_device(open, device, row_type);
}

static void
insert_session(const Opening *open, const pg_uuid_t *device)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {
		UUIDOID, UUIDOID, UUIDOID, BYTEAOID, TEXTOID, JSONBOID, INETOID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID
	};
	Datum		values[] = {
		UUIDPGetDatum(&open->id), UUIDPGetDatum(&open->user_id), UUIDPGetDatum(device), PointerGetDatum(open->key),
		PointerGetDatum(open->aal), DirectFunctionCall1(jsonb_in, CStringGetDatum(open->amr)), open->address, open->user_agent,
		TimestampTzGetDatum(open->issued_at),
		TimestampTzGetDatum(open->issued_at + orion_auth_access_token_ttl * USECS_PER_SEC),
		TimestampTzGetDatum(GetCurrentTransactionStartTimestamp() + orion_auth_refresh_token_ttl * USECS_PER_SEC)
	};
	char		nulls[] = "           ";

	nulls[6] = open->no_address ? 'n' : ' ';
	nulls[7] = open->no_user_agent ? 'n' : ' ';
	keep(&plan, "INSERT INTO orion_private.sessions (id, user_id, device_id, refresh_key, aal, amr, address, user_agent,"
		 " refreshed_at, access_expires_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
		 lengthof(types), types);
	if (SPI_execute_plan(plan, values, nulls, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not write a session");
}

/* The methods before, and this one. */
static char *
methods_json(Jsonb *earlier, Datum method, TimestampTz at)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoString(&json, JsonbToCString(NULL, &earlier->root, VARSIZE(earlier)));
	if (json.len < 2 || json.data[0] != '[')
		elog(ERROR, "the methods of a sign-in are no array");
	json.data[--json.len] = '\0';	/* its closing bracket */
	appendStringInfo(&json, "%s{\"method\": ", json.len > 1 ? ", " : "");
	escape_json(&json, TextDatumGetCString(method));
	appendStringInfo(&json, ", \"timestamp\": " INT64_FORMAT "}]", unix_seconds(at));
	return json.data;
}

/* Of what session_open gives back; made once. */
static TupleDesc
result_desc(void)
{
	static TupleDesc desc = NULL;

	if (!desc)
	{
		MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
		TupleDesc	made = CreateTemplateTupleDesc(4);

		TupleDescInitEntry(made, 1, "session_id", UUIDOID, -1, 0);
		TupleDescInitEntry(made, 2, "access_token", TEXTOID, -1, 0);
		TupleDescInitEntry(made, 3, "refresh_token", TEXTOID, -1, 0);
		TupleDescInitEntry(made, 4, "expires_in", INT4OID, -1, 0);
		desc = BlessTupleDesc(made);
		MemoryContextSwitchTo(caller);
	}
	return desc;
}

static void
read_arguments(FunctionCallInfo fcinfo, Opening *open)
{
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(5) || PG_ARGISNULL(6))
		elog(ERROR, "a session needs a user, a method, the methods before and a level");
	open->user = PG_GETARG_DATUM(0);
	open->method = PG_GETARG_DATUM(1);
	open->device = PG_GETARG_DATUM(2);
	open->no_device = PG_ARGISNULL(2);
	open->address = PG_GETARG_DATUM(3);
	open->no_address = PG_ARGISNULL(3);
	open->user_agent = PG_GETARG_DATUM(4);
	open->no_user_agent = PG_ARGISNULL(4);
	open->aal = PG_GETARG_TEXT_PP(6);
	open->id = *DatumGetUUIDP(DirectFunctionCall1(gen_random_uuid, (Datum) 0));
	open->issued_at = GetCurrentTimestamp();
	open->amr = methods_json(PG_GETARG_JSONB_P(5), open->method, open->issued_at);
}

/*
 * orion_private.session_open(u users, method text, device text, address inet, user_agent text,
 * earlier jsonb, aal text, OUT session_id uuid, OUT access_token text, OUT refresh_token text,
 * OUT expires_in int)
 */
Datum
orion_session_open(PG_FUNCTION_ARGS)
{
	MemoryContext result = CurrentMemoryContext;
	Opening		open;
	Claims		claims;
	pg_uuid_t	device;
	text	   *access;
	text	   *refresh;
	char	   *json;
	Datum		values[4];
	bool		nulls[4] = {false};

	read_arguments(fcinfo, &open);
	claims.user = DatumGetHeapTupleHeader(open.user);
	claims.user_desc = row_desc(claims.user);
	open.user_id = *DatumGetUUIDP(row_value(claims.user, claims.user_desc, USER_ID));
	open.key = orion_refresh_start(&open.id, &refresh);
	claims.session = uuid_text(&open.id);
	claims.aal = text_to_cstring(open.aal);
	claims.amr = open.amr;
	claims.issued_at = unix_seconds(open.issued_at);

	SPI_connect();
	see_device(&open, claims.user_desc->tdtypeid, &device);
	insert_session(&open, &device);
	MemoryContextSwitchTo(result);
	access = sign(&claims, &json);
	if (!access)
		access = sign_first(json, result);
	SPI_finish();
	ReleaseTupleDesc(claims.user_desc);

	values[0] = UUIDPGetDatum(&open.id);
	values[1] = PointerGetDatum(access);
	values[2] = PointerGetDatum(refresh);
	values[3] = Int32GetDatum(orion_auth_access_token_ttl);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(result_desc(), values, nulls)));
}
