/*
 * cors.c
 *	  Headers of every answer that are nobody's resource: CORS, timing, trace.
 *
 * An origin that orion.http_cors_allowed_origins does not name gets no such header:
 * the browser then keeps the answer from the page.  Only named origins may send
 * credentials, so that a page of a stranger never acts with somebody's cookies.
 */
#include "postgres.h"

#include "utils/formatting.h"

#include "codec/origin.h"
#include "rest/call.h"
#include "rest/cors.h"
#include "rest/response.h"
#include "rest/settings.h"

#define PREFLIGHT_SECONDS	"86400" /* browsers remember no longer anyway */

/* Access-Control-Allow-Origin and what goes with it; false: this origin may not. */
static bool
allow_origin(OrionCall *call, const char *origin)
{
	if (orion_http_cors_allowed_origins[0] == '\0')
	{
		orion_response_header(call->response, "Access-Control-Allow-Origin", "*");
		return true;
	}
	if (origin == NULL || !orion_origin_listed(orion_http_cors_allowed_origins, origin))
		return false;
	orion_response_header(call->response, "Access-Control-Allow-Origin", origin);
	orion_response_header(call->response, "Access-Control-Allow-Credentials", "true");
	return true;
}

bool
orion_cors_preflight(OrionCall *call)
{
	const char *origin = orion_call_header(call, "origin");
	const char *headers = orion_call_header(call, "access-control-request-headers");
	StringInfoData allowed;

	if (origin == NULL || strcmp(call->request->method, "OPTIONS") != 0 ||
		orion_call_header(call, "access-control-request-method") == NULL)
		return false;
	call->preflight = true;
	if (!allow_origin(call, origin))
		return true;
	initStringInfo(&allowed);
	appendStringInfoString(&allowed, "Authorization, ");
	for (const char *c = headers ? headers : ""; *c;)
	{
		size_t		n;

		c += strspn(c, ", \t");
		n = strcspn(c, ", \t");
		if (n > 0)
			appendStringInfo(&allowed, "%.*s, ", (int) n, c);
		c += n;
	}
	appendStringInfoString(&allowed, "Accept, Accept-Language, Content-Language");
	orion_response_header(call->response, "Access-Control-Allow-Methods",
						  "GET, POST, PATCH, PUT, DELETE, OPTIONS, HEAD");
	orion_response_header(call->response, "Access-Control-Allow-Headers", allowed.data);
	orion_response_header(call->response, "Access-Control-Max-Age", PREFLIGHT_SECONDS);
	return true;
}

/* Headers beyond those of PostgREST, as far as the answer has them. */
static const char *
more_headers(const OrionResponse *response)
{
	static const char *const names[] = {"ETag", "Link", "Idempotency-Replayed", "Orion-LSN", "Retry-After"};
	char	   *more = "";

	for (int i = 0; i < response->nheaders; i++)
		for (int k = 0; k < lengthof(names); k++)
			if (pg_strcasecmp(response->headers[i].name, names[k]) == 0)
				more = psprintf("%s, %s", more, names[k]);
	return more;
}

void
orion_cors_put(OrionCall *call)
{
	const char *origin = orion_call_header(call, "origin");

	if (orion_http_cors_allowed_origins[0] && !call->preflight)
		orion_response_vary(call->response, "Origin");
	if (call->preflight || (origin == NULL && strcmp(call->request->method, "OPTIONS") != 0))
		return;
	if (allow_origin(call, origin) && origin)
		orion_response_header(call->response, "Access-Control-Expose-Headers",
							  psprintf("Content-Encoding, Content-Location, Content-Range, Content-Type, Date, "
									   "Location, Server, Transfer-Encoding, Range-Unit%s", more_headers(call->response)));
}

void
orion_timing_put(OrionCall *call)
{
	static const char *const names[] = {
		[ORION_STAGE_JWT] = "jwt",
		[ORION_STAGE_PARSE] = "parse",
		[ORION_STAGE_PLAN] = "plan",
		[ORION_STAGE_TRANSACTION] = "transaction",
		[ORION_STAGE_RESPONSE] = "response",
	};
	StringInfoData text;
	instr_time	end;

	initStringInfo(&text);
	INSTR_TIME_SET_CURRENT(end);
	for (int i = ORION_STAGES - 1; i >= 0; i--)
	{
		instr_time	spent = end;
		char	   *rest = pstrdup(text.data);

		if (INSTR_TIME_IS_ZERO(call->marks[i]))
			continue;
		INSTR_TIME_SUBTRACT(spent, call->marks[i]);
		resetStringInfo(&text);
		appendStringInfo(&text, "%s;dur=%.1f%s%s", names[i], INSTR_TIME_GET_MILLISEC(spent),
						 rest[0] ? ", " : "", rest);
		end = call->marks[i];
	}
	if (text.len > 0)
		orion_response_header(call->response, "Server-Timing", text.data);
}

/* The gateway itself repeats X-Request-Id. */
void
orion_trace_put(OrionCall *call)
{
	const char *value;

	if (orion_http_trace_header[0] == '\0' || pg_strcasecmp(orion_http_trace_header, "X-Request-Id") == 0)
		return;
	value = orion_call_header(call, asc_tolower(orion_http_trace_header, strlen(orion_http_trace_header)));
	if (value)
		(void) orion_response_put(call->response, orion_http_trace_header, value);
}
