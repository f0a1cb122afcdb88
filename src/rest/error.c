/*
 * error.c
 *	  From errors to answers: PostgREST's table of SQLSTATEs and statuses.
 *
 * Only what is the server's fault goes to the server's log; what a client
 * caused is told to the client.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "access/xact.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/elog.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

#include "core/error.h"
#include "rest/error.h"
#include "rest/explain.h"
#include "rest/response.h"
#include "rest/standby.h"

/* Marks an ERROR whose answer is in "refusal"; never shown to anybody. */
#define ERRCODE_REFUSED		MAKE_SQLSTATE('O','R','9','9','9')

typedef struct StatusRule
{
	const char *state;			/* SQLSTATE or the beginning of one; first
								 * match counts */
	int			status;
} StatusRule;

static const StatusRule rules[] = {
	{"08", 503},
	{"09", 500},
	{"0L", 403},
	{"0P", 403},
	{"21000", 500},
	{"23503", 409},
	{"23505", 409},
	{"25006", 405},
	{"25", 500},
	{"28", 403},
	{"2D", 500},
	{"38", 500},
	{"39", 500},
	{"3B", 500},
	{"40", 500},
	{"42883", 404},
	{"42P01", 404},
	{"42P17", 500},
	{"53400", 500},
	{"53", 503},
	{"54", 500},
	{"55", 500},
	{"57P01", 503},
	{"57", 500},
	{"58", 500},
	{"F0", 500},
	{"HV", 500},
	{"OR", 500},
	{"P0001", 400},
	{"P0", 500},
	{"XX", 500},
};

typedef struct Refusal
{
	int			status;
	const char *code;
	char	   *message;
	char	   *details;
	char	   *hint;
	bool		token;			/* a bearer token is at fault */
	bool		standby;		/* another server could */
	int			retry_after;	/* seconds; 0: not said */
	bool		as_is;			/* the answer is there already */
} Refusal;

static Refusal refusal;

static char *
keep(const char *text)
{
	/* ErrorContext survives the abort and is reset once the error is flushed */
	return text ? MemoryContextStrdup(ErrorContext, text) : NULL;
}

static void
refuse(void)
{
	errstart(ERROR, NULL);
	errcode(ERRCODE_REFUSED);
	errmsg_internal("the request was refused");
	errfinish(__FILE__, __LINE__, __func__);
}

void
orion_refuse(int status, const char *code, const char *message,
			 const char *details, const char *hint)
{
	refusal.status = status;
	refusal.code = code;
	refusal.message = keep(message);
	refusal.details = keep(details);
	refusal.hint = keep(hint);
	refusal.token = false;
	refuse();
	pg_unreachable();
}

void
orion_refuse_token(const char *code, const char *message, const char *details)
{
	refusal.status = 401;
	refusal.code = code;
	refusal.message = keep(message);
	refusal.details = keep(details);
	refusal.hint = NULL;
	refusal.token = true;
	refuse();
	pg_unreachable();
}

void
orion_refuse_for_now(const char *code, const char *message, int retry_after)
{
	orion_refuse_later(429, code, message, retry_after);
}

void
orion_refuse_later(int status, const char *code, const char *message, int retry_after)
{
	refusal.retry_after = retry_after;
	orion_refuse(status, code, message, NULL, NULL);
}

void
orion_refuse_standby(int status, const char *code, const char *message, const char *hint)
{
	refusal.standby = true;
	orion_refuse(status, code, message, NULL, hint);
}

void
orion_refuse_as_is(void)
{
	refusal.as_is = true;
	refuse();
	pg_unreachable();
}

static void *
alloc(void *context, size_t size)
{
	return palloc(size);
}

void
orion_refuse_query(const OrionQueryError *error)
{
	OrionArena	arena = {.alloc = alloc};
	char	   *details;
	int			column;

	if (error->text == NULL)
		orion_refuse(400, "PGRST100", psprintf("failed to parse %s", error->what),
					 psprintf("%s at byte %zu", error->problem, error->at + 1), NULL);
	if (!orion_query_explain(&arena, error->rule, psprintf("%s%s", error->before, error->text), &column, &details))
	{
		column = error->at + 1;
		details = pstrdup(error->problem);
	}
	orion_refuse(400, "PGRST100",
				 psprintf("\"failed to parse %s (%s)\" (line 1, column %d)", error->what, error->text, column),
				 details, NULL);
}

static bool
ends_in(const char *text, const char *end)
{
	size_t		len = strlen(text);
	size_t		n = strlen(end);

	return len >= n && strcmp(text +len - n, end) == 0;
}

static int
status_of(const ErrorData *error, bool authenticated)
{
	const char *state = unpack_sql_state(error->sqlerrcode);

	if (strncmp(state, "PT", 2) == 0)
	{
		int			status = atoi(state + 2);

		return status >= 200 && status <= 599 ? status : 500;
	}
	if (error->sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE)
		return authenticated ? 403 : 401;
	/* the replay needed what the statement read, or locked */
	if ((error->sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE ||
		 error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED) && RecoveryInProgress())
		return 503;

	/*
	 * pg_safeupdate, and XML that cannot be made of a column: the client
	 * asked for it
	 */
	if (error->sqlerrcode == ERRCODE_CARDINALITY_VIOLATION && ends_in(error->message, "requires a WHERE clause"))
		return 400;
	if (error->sqlerrcode == ERRCODE_UNDEFINED_FUNCTION && strncmp(error->message, "function xmlagg(", 16) == 0)
		return 406;
	if (error->sqlerrcode == ERRCODE_INVALID_PARAMETER_VALUE && strncmp(error->message, "role", 4) == 0 &&
		ends_in(error->message, "does not exist"))
		return 401;
	for (int i = 0; i < lengthof(rules); i++)
		if (strncmp(state, rules[i].state, strlen(rules[i].state)) == 0)
			return rules[i].status;
	return 400;
}

static char *
string_of(Jsonb *object, const char *key)
{
	JsonbValue	buffer;
	JsonbValue *value = getKeyJsonValueFromContainer(&object->root, key, strlen(key), &buffer);

	return value && value->type == jbvString ? pnstrdup(value->val.string.val, value->val.string.len) : NULL;
}

/* A string, null, or not there. */
static bool
is_text(Jsonb *object, const char *key)
{
	JsonbValue	buffer;
	JsonbValue *value = getKeyJsonValueFromContainer(&object->root, key, strlen(key), &buffer);

	return value == NULL || value->type == jbvString || value->type == jbvNull;
}

static int
number_of(Jsonb *object, const char *key)
{
	JsonbValue	buffer;
	JsonbValue *value = getKeyJsonValueFromContainer(&object->root, key, strlen(key), &buffer);

	if (value == NULL || value->type != jbvNumeric)
		return -1;
	return atoi(numeric_normalize(value->val.numeric));
}

/* Puts {"name":"value",...}; false when that is not what the object's "headers" are. */
static bool
put_headers(OrionResponse *response, Jsonb *object)
{
	JsonbValue	buffer;
	JsonbValue *headers = getKeyJsonValueFromContainer(&object->root, "headers", 7, &buffer);
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;

	if (headers == NULL || headers->type != jbvBinary || !JsonContainerIsObject(headers->val.binary.data))
		return false;
	it = JsonbIteratorInit(headers->val.binary.data);
	JsonbIteratorNext(&it, &v, false);
	while ((token = JsonbIteratorNext(&it, &v, true)) == WJB_KEY)
	{
		char	   *name = pnstrdup(v.val.string.val, v.val.string.len);

		JsonbIteratorNext(&it, &v, true);
		if (v.type != jbvString ||
			!orion_response_put(response, name, pnstrdup(v.val.string.val, v.val.string.len)))
			return false;
	}
	return true;
}

static void
refuse_raised(OrionResponse *response, const char *details, const char *hint)
{
	orion_response_error(response, 500, "PGRST121",
						 "Could not parse JSON in the \"RAISE SQLSTATE 'PGRST'\" error", details, hint);
}

/*
 * SQLSTATE PGRST: the message is {"code","message","details","hint"}, the detail
 * {"status","headers"}, both JSON.
 */
static void
answer_raised(OrionResponse *response, const ErrorData *error)
{
	const char *message_keys = "MESSAGE must be a JSON object with obligatory keys: 'code', 'message' and optional keys: 'details', 'hint'.";
	const char *detail_keys = "DETAIL must be a JSON object with obligatory keys: 'status', 'headers' and optional key: 'status_text'.";
	Jsonb	   *message = orion_json_parse(error->message);
	Jsonb	   *detail = error->detail ? orion_json_parse(error->detail) : NULL;

	if (message == NULL || !JB_ROOT_IS_OBJECT(message) || string_of(message, "code") == NULL || string_of(message, "message") == NULL ||
		!is_text(message, "details") || !is_text(message, "hint"))
	{
		refuse_raised(response, psprintf("Invalid JSON value for MESSAGE: '%s'", error->message), message_keys);
		return;
	}
	if (detail && JB_ROOT_IS_OBJECT(detail) && number_of(detail, "status") >= 200 && number_of(detail, "status") <= 599)
	{
		orion_response_error(response, number_of(detail, "status"), string_of(message, "code"),
							 string_of(message, "message"), string_of(message, "details"), string_of(message, "hint"));
		if (put_headers(response, detail))
			return;
	}
	refuse_raised(response, error->detail ? psprintf("Invalid JSON value for DETAIL: '%s'", error->detail) :
				  "DETAIL is missing in the RAISE statement", detail_keys);
}

static void
answer_refusal(const OrionCall *call, OrionResponse *response, const Refusal *r)
{
	orion_response_error(response, r->status, r->code, r->message, r->details, r->hint);
	if (r->token)
		orion_response_header(response, "WWW-Authenticate",
							  psprintf("Bearer error=\"invalid_token\", error_description=\"%s\"", r->message));
	else if (r->status == 401)
		orion_response_header(response, "WWW-Authenticate", "Bearer");
	if (r->retry_after > 0)
		orion_response_header(response, "Retry-After", psprintf("%d", r->retry_after));
	if (r->standby)
		orion_standby_headers(call, response);
}

/* "Failing row contains" of tables of ours: with hashes and sealed keys. */
static bool
shows_private_row(const ErrorData *error)
{
	return error->schema_name && strcmp(error->schema_name, "orion_private") == 0;
}

/* Not the request is wrong, but the server: another one can.  GET writes nowhere. */
static bool
cannot_write_here(const OrionCall *call, const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_READ_ONLY_SQL_TRANSACTION && RecoveryInProgress() && !orion_call_reads(call);
}

static void
answer_error(const OrionCall *call, OrionResponse *response, const ErrorData *error)
{
	if (strcmp(unpack_sql_state(error->sqlerrcode), "PGRST") == 0)
	{
		answer_raised(response, error);
		return;
	}
	if (cannot_write_here(call, error))
	{
		orion_standby_answer(call, response);
		return;
	}
	orion_response_error(response, status_of(error, call->authenticated), unpack_sql_state(error->sqlerrcode),
						 error->message, shows_private_row(error) ? NULL : error->detail, error->hint);
	if (response->status == 401)
		orion_response_header(response, "WWW-Authenticate", "Bearer");
	else if (response->status == 503)
		orion_response_header(response, "Retry-After", ORION_RETRY_SECONDS);
}

/* Whether it is the server's own trouble; raised by a function it is not. */
static bool
belongs_to_log(const ErrorData *error, bool authenticated)
{
	const char *state = unpack_sql_state(error->sqlerrcode);

	return strncmp(state, "PT", 2) != 0 && strcmp(state, "PGRST") != 0 && status_of(error, authenticated) >= 500 &&
		error->sqlerrcode != ERRCODE_READ_ONLY_SQL_TRANSACTION;
}

static void
answer(const OrionCall *call, OrionResponse *response, MemoryContext context, void (*roll_back) (void))
{
	ErrorData  *error;
	Refusal		refused = refusal;

	/* a signal must not interrupt the cleaning up */
	HOLD_INTERRUPTS();
	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	if (error->sqlerrcode != ERRCODE_REFUSED)
		memset(&refused, 0, sizeof(refused));
	if (refused.message)
		answer_refusal(call, response, &refused);
	else if (!refused.as_is && belongs_to_log(error, call->authenticated))
		EmitErrorReport();
	memset(&refusal, 0, sizeof(refusal));
	roll_back();
	MemoryContextSwitchTo(context);
	FlushErrorState();
	RESUME_INTERRUPTS();
	if (refused.message == NULL && !refused.as_is)
		answer_error(call, response, error);
}

void
orion_error_answer(OrionCall *call, MemoryContext context)
{
	answer(call, call->response, context, AbortOutOfAnyTransaction);
}

void
orion_error_answer_part(const OrionCall *call, OrionResponse *response, MemoryContext context)
{
	answer(call, response, context, RollbackAndReleaseCurrentSubTransaction);
}
