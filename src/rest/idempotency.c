/*
 * idempotency.c
 *	  Idempotency-Key: a write that is sent again is not done again.
 *
 * Runs in executors.  The key's row is inserted in the request's own transaction,
 * before its work, and gets the answer before the commit: either both are there or
 * neither.  A second request with the key waits for the first at the unique index,
 * for orion.idempotency_wait at most, and then finds the answer, or an empty place
 * when the first one failed.
 *
 * The table has no secret in clear: ids and requests are keyed digests, since a
 * plain one of a short body could be guessed, and answers are sealed for their row.
 * It is reached as its owner, in a restricted security context; an abort gives the
 * request's user back.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/plan.h"
#include "rest/error.h"
#include "rest/idempotency.h"
#include "rest/position.h"
#include "rest/response.h"
#include "rest/session.h"
#include "seal/seal.h"

#define MAX_KEY			255
#define FORGET_AT_ONCE	"10000"

int			orion_idempotency_wait;
int			orion_idempotency_retention;
int			orion_idempotency_max_answer;

static const char take_key[] =
"INSERT INTO orion_private.idempotency_keys AS k (id, request, expires_at) VALUES ($1, $2, $3)"
" ON CONFLICT (id) DO UPDATE SET request = EXCLUDED.request, answer = NULL, expires_at = EXCLUDED.expires_at"
" WHERE k.expires_at OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp()";

static const char find_key[] =
"SELECT k.request, k.answer FROM orion_private.idempotency_keys AS k WHERE k.id OPERATOR(pg_catalog.=) $1";

static const char store_answer[] =
"UPDATE orion_private.idempotency_keys AS k SET answer = $2 WHERE k.id OPERATOR(pg_catalog.=) $1";

static const char forget_keys[] =
"DELETE FROM orion_private.idempotency_keys WHERE id OPERATOR(pg_catalog.=) ANY (ARRAY("
"SELECT k.id FROM orion_private.idempotency_keys AS k WHERE k.expires_at OPERATOR(pg_catalog.<=) pg_catalog.now()"
" ORDER BY k.expires_at LIMIT " FORGET_AT_ONCE " FOR UPDATE SKIP LOCKED))";

/* --- the key ----------------------------------------------------------------------- */

static void
refuse_key(const char *details)
{
	orion_refuse(400, "ORION400", "Invalid Idempotency-Key", details, NULL);
}

/*
 * The header's value: a string in quotes, as the draft of the IETF has it, or the bare
 * text that most clients send.  NULL when there is none.
 */
static char *
read_key(const OrionCall *call)
{
	const char *value = NULL;
	size_t		len;

	for (int i = 0; i < call->request->nheaders; i++)
	{
		if (strcmp(call->request->headers[i].name, "idempotency-key") != 0)
			continue;
		if (value)
			refuse_key("There is more than one.");
		value = call->request->headers[i].value;
	}
	if (value == NULL)
		return NULL;
	len = strlen(value);
	if (len >= 2 && value[0] == '"' && value[len - 1] == '"')
	{
		value++;
		len -= 2;
	}
	if (len == 0 || len > MAX_KEY)
		refuse_key(psprintf("A key has 1 to %d characters.", MAX_KEY));
	for (size_t i = 0; i < len; i++)
		if (value[i] <= ' ' || value[i] > '~' || value[i] == '"' || value[i] == '\\')
			refuse_key("A key has visible ASCII characters without quotes and backslashes.");
	return pnstrdup(value, len);
}

/* A field that cannot run into the next one. */
static void
append_field(StringInfo out, const void *data, size_t len)
{
	pq_sendint32(out, (uint32) len);
	appendBinaryStringInfo(out, data, (int) len);
}

static void
append_text(StringInfo out, const char *text)
{
	append_field(out, text ? text : "", text ? strlen(text) : 0);
	pq_sendbyte(out, text !=NULL);
}

static bytea *
digest(const StringInfo data, const char *context)
{
	bytea	   *result = palloc(VARHDRSZ + ORION_SEAL_MAC_LEN);

	SET_VARSIZE(result, VARHDRSZ + ORION_SEAL_MAC_LEN);
	orion_seal_mac(data->data, data->len, context, (unsigned char *) VARDATA(result));
	return result;
}

/* Whose key it is, and which. */
static bytea *
key_id(const OrionCall *call, const char *key)
{
	StringInfoData data;

	initStringInfo(&data);
	append_text(&data, orion_session_subject(call));
	append_text(&data, key);
	return digest(&data, "idempotency key");
}

/* All that decides on what is done and how it is answered. */
static bytea *
request_digest(const OrionCall *call)
{
	static const char *const headers[] = {
		"accept", "content-type", "accept-profile", "content-profile", "if-match", "if-none-match",
	};
	const OrionRequest *request = call->request;
	unsigned char body[ORION_SEAL_MAC_LEN];
	StringInfoData data;

	initStringInfo(&data);
	append_text(&data, request->method);
	append_text(&data, request->path);
	append_text(&data, request->query);
	append_text(&data, orion_session_claims(call));
	for (int i = 0; i < lengthof(headers); i++)
		append_text(&data, orion_call_header(call, headers[i]));
	for (int i = 0; i < request->nheaders; i++)
		if (strcmp(request->headers[i].name, "prefer") == 0)
			append_text(&data, request->headers[i].value);
	orion_seal_mac(request->body, request->body_len, "idempotency body", body);
	append_field(&data, body, sizeof(body));
	return digest(&data, "idempotency request");
}

/* --- the answer --------------------------------------------------------------------- */

/* The place of an answer: sealed for it, it opens in no other row. */
static char *
seal_context(const bytea *id)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfoString(&text, "idempotency_key:");
	for (int i = 0; i < VARSIZE_ANY_EXHDR(id); i++)
		appendStringInfo(&text, "%02x", (unsigned char) VARDATA_ANY(id)[i]);
	return text.data;
}

static bytea *
seal_answer(const OrionResponse *response, const bytea *id)
{
	StringInfoData data;
	bytea	   *sealed;

	initStringInfo(&data);
	pq_sendint16(&data, response->status);
	pq_sendint16(&data, response->nheaders);
	for (int i = 0; i < response->nheaders; i++)
	{
		append_field(&data, response->headers[i].name, strlen(response->headers[i].name));
		append_field(&data, response->headers[i].value, strlen(response->headers[i].value));
	}
	append_field(&data, response->body.data, response->body.len);
	sealed = orion_seal(data.data, data.len, seal_context(id));
	explicit_bzero(data.data, data.len);
	pfree(data.data);
	return sealed;
}

static char *
get_text(StringInfo data)
{
	int			len = pq_getmsgint(data, 4);

	return pnstrdup(pq_getmsgbytes(data, len), len);
}

/* The reverse.  What it reads was sealed here, so pq_getmsg's errors cannot happen. */
static void
unseal_answer(OrionResponse *response, const bytea *sealed, const bytea *id)
{
	bytea	   *clear = orion_unseal(sealed, seal_context(id));
	StringInfoData data = {.data = VARDATA_ANY(clear),.len = VARSIZE_ANY_EXHDR(clear)};
	int			nheaders;
	int			len;

	orion_response_reset(response);
	response->status = pq_getmsgint(&data, 2);
	nheaders = pq_getmsgint(&data, 2);
	for (int i = 0; i < nheaders; i++)
	{
		char	   *name = get_text(&data);

		(void) orion_response_put(response, name, get_text(&data));
	}
	len = pq_getmsgint(&data, 4);
	appendBinaryStringInfo(&response->body, pq_getmsgbytes(&data, len), len);
	orion_response_header(response, "Idempotency-Replayed", "true");
}

/* --- the table ----------------------------------------------------------------------- */

typedef struct Visit
{
	Oid			user;
	int			context;
} Visit;

/* Becomes the owner of the table; false without the extension. */
static bool
enter(Visit *visit)
{
	Oid			namespace = get_namespace_oid("orion_private", true);
	Oid			relid = OidIsValid(namespace) ? get_relname_relid("idempotency_keys", namespace) : InvalidOid;
	HeapTuple	tuple = OidIsValid(relid) ? SearchSysCache1(RELOID, ObjectIdGetDatum(relid)) : NULL;

	if (!HeapTupleIsValid(tuple))
		return false;
	GetUserIdAndSecContext(&visit->user, &visit->context);
	SetUserIdAndSecContext(((Form_pg_class) GETSTRUCT(tuple))->relowner,
						   visit->context | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	ReleaseSysCache(tuple);
	return true;
}

static void
leave(const Visit *visit)
{
	SetUserIdAndSecContext(visit->user, visit->context);
}

/* The number of rows; values are of the types bytea, bytea, timestamptz. */
static uint64
run(const char *text, int nargs, Datum *values)
{
	static const Oid types[] = {BYTEAOID, BYTEAOID, TIMESTAMPTZOID};
	SPIPlanPtr	plan = orion_plan_get(text, strlen(text), nargs, types);
	int			result = SPI_execute_plan(plan, values, NULL, false, 0);

	if (result < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(result));
	return SPI_processed;
}

static void
refuse_busy(void)
{
	orion_refuse_later(409, "ORION409", "A request with this Idempotency-Key is under way", 1);
}

/* The insertion; an error ends the request, so nothing needs to be undone. */
static bool
take(Datum *values)
{
	int			level = NewGUCNestLevel();
	bool		taken;

	(void) set_config_option("lock_timeout", psprintf("%dms", orion_idempotency_wait), PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	PG_TRY();
	{
		taken = run(take_key, 3, values) == 1;
	}
	PG_CATCH();
	{
		int			code = geterrcode();

		if (code != ERRCODE_LOCK_NOT_AVAILABLE && code != ERRCODE_T_R_SERIALIZATION_FAILURE)
			PG_RE_THROW();
		FlushErrorState();
		refuse_busy();
	}
	PG_END_TRY();
	AtEOXact_GUC(true, level);
	return taken;
}

static bytea *
column(int n, bool *isnull)
{
	Datum		value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, n, isnull);

	return *isnull ? NULL : DatumGetByteaPP(value);
}

/* The key was used before: its answer, if this is the same request. */
static void
replay(OrionCall *call, const bytea *id, const bytea *request)
{
	Datum		value = PointerGetDatum(id);
	bytea	   *stored;
	bytea	   *answer;
	bool		isnull;

	if (run(find_key, 1, &value) == 0)
		refuse_busy();
	stored = column(1, &isnull);
	answer = column(2, &isnull);
	if (VARSIZE_ANY_EXHDR(stored) != ORION_SEAL_MAC_LEN ||
		memcmp(VARDATA_ANY(stored), VARDATA_ANY(request), ORION_SEAL_MAC_LEN) != 0)
		orion_refuse(422, "ORION422", "This Idempotency-Key was used for another request", NULL,
					 "A new request needs a new key.");
	if (answer == NULL)
		refuse_busy();
	unseal_answer(call->response, answer, id);
	orion_position_of_replay(call->response);
	orion_refuse_as_is();
}

/* Orion's own functions take passwords and give tokens; see the routes in route.c. */
static bool
belongs_to_orion(Oid function)
{
	Oid			extension = OidIsValid(function) ? getExtensionOfObject(ProcedureRelationId, function) : InvalidOid;

	return OidIsValid(extension) && extension == get_extension_oid("orion", true);
}

void
orion_idempotency_begin(OrionCall *call)
{
	char	   *key;
	bytea	   *id;
	bytea	   *request;
	Visit		visit;
	Datum		values[3];

	if (orion_call_reads(call) || call->unkeyed || XactReadOnly)
		return;
	key = read_key(call);
	if (key == NULL || belongs_to_orion(call->function) || !enter(&visit))
		return;
	id = key_id(call, key);
	request = request_digest(call);
	values[0] = PointerGetDatum(id);
	values[1] = PointerGetDatum(request);
	values[2] = TimestampTzGetDatum(GetCurrentTimestamp() +
									(int64) orion_idempotency_retention * USECS_PER_SEC);
	if (!take(values))
		replay(call, id, request);
	leave(&visit);
	call->idempotency = id;
}

void
orion_idempotency_store(OrionCall *call)
{
	OrionResponse *response = call->response;
	Visit		visit;
	Datum		values[2];

	if (call->idempotency == NULL)
		return;
	if (response->body.len > (int64) orion_idempotency_max_answer * 1024)
		orion_refuse(413, "ORION413", psprintf("The answer has more than %d kB and cannot be kept for the Idempotency-Key",
											   orion_idempotency_max_answer), NULL,
					 "Ask for less (Prefer: return=minimal), or raise orion.idempotency_max_answer.");
	values[0] = PointerGetDatum(call->idempotency);
	values[1] = PointerGetDatum(seal_answer(response, call->idempotency));
	if (!enter(&visit) || run(store_answer, 2, values) != 1)
		elog(ERROR, "the row of an idempotency key is gone");
	leave(&visit);
	orion_response_header(response, "Idempotency-Replayed", "false");
}

void
orion_idempotency_forget(void)
{
	if (SPI_execute(forget_keys, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not delete expired idempotency keys");
}

void
orion_idempotency_init(void)
{
	DefineCustomIntVariable("orion.idempotency_retention",
							"How long the answer of a request with an Idempotency-Key is kept.", NULL,
							&orion_idempotency_retention, 86400, 1, 366 * 86400,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("orion.idempotency_wait",
							"How long a request waits for another one with the same Idempotency-Key.", NULL,
							&orion_idempotency_wait, 2000, 1, 60000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("orion.idempotency_max_answer",
							"Largest body that is kept for an Idempotency-Key.", NULL,
							&orion_idempotency_max_answer, 256, 1, 65536,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
}
