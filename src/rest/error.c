/*
 * error.c
 *	  From errors to answers: PostgREST's table of SQLSTATEs and statuses.
 *
 * Only what is the server's fault goes to the server's log; what a client
 * caused is told to the client.
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/elog.h"
#include "utils/memutils.h"

#include "core/error.h"
#include "rest/error.h"
#include "rest/response.h"

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

static struct
{
	int			status;
	const char *code;
	char	   *message;
	char	   *details;
	char	   *hint;
	int			retry_after;	/* seconds; 0: not said */
}			refusal;

static char *
keep(const char *text)
{
	/* ErrorContext survives the abort and is reset once the error is flushed */
	return text ? MemoryContextStrdup(ErrorContext, text) : NULL;
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
	errstart(ERROR, NULL);
	errcode(ERRCODE_REFUSED);
	errmsg_internal("the request was refused");
	errfinish(__FILE__, __LINE__, __func__);
	pg_unreachable();
}

void
orion_refuse_for_now(const char *code, const char *message, int retry_after)
{
	refusal.retry_after = retry_after;
	orion_refuse(429, code, message, NULL, NULL);
}

void
orion_refuse_query(const OrionQueryError *error)
{
	if (error->text == NULL)
		orion_refuse(400, "PGRST100", psprintf("failed to parse %s", error->what),
					 psprintf("%s at byte %zu", error->problem, error->at + 1), NULL);
	orion_refuse(400, "PGRST100",
				 psprintf("\"failed to parse %s (%s)\" (line 1, column %zu)",
						  error->what, error->text, error->at + 1),
				 error->problem, NULL);
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
	for (int i = 0; i < lengthof(rules); i++)
		if (strncmp(state, rules[i].state, strlen(rules[i].state)) == 0)
			return rules[i].status;
	return 400;
}

static void
answer_error(OrionResponse *response, const ErrorData *error, bool authenticated)
{
	int			status = status_of(error, authenticated);

	orion_response_error(response, status, unpack_sql_state(error->sqlerrcode),
						 error->message, error->detail, error->hint);
}

void
orion_error_answer(OrionResponse *response, bool authenticated, MemoryContext context)
{
	ErrorData  *error;

	/* a signal must not interrupt the cleaning up */
	HOLD_INTERRUPTS();
	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	if (error->sqlerrcode == ERRCODE_REFUSED && refusal.message)
		orion_response_error(response, refusal.status, refusal.code, refusal.message,
							 refusal.details, refusal.hint);
	else
	{
		answer_error(response, error, authenticated);
		if (response->status >= 500)
			EmitErrorReport();
	}
	if (response->status == 429 && refusal.retry_after > 0)
		orion_response_header(response, "Retry-After", psprintf("%d", refusal.retry_after));
	memset(&refusal, 0, sizeof(refusal));
	if (response->status == 401)
		orion_response_header(response, "WWW-Authenticate", "Bearer");
	AbortOutOfAnyTransaction();
	MemoryContextSwitchTo(context);
	FlushErrorState();
	RESUME_INTERRUPTS();
}
