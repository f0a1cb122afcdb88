/*
 * response.c
 *	  Puts an answer together; reads response.status and response.headers.
 *
 * Header values come from SQL as well, so control characters are refused: no
 * function can split an answer.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "rest/error.h"
#include "rest/response.h"
#include "rest/settings.h"

/* Far more than any answer needs; bounds response.headers too. */
#define MAX_HEADERS	64

/* jsonb_in holds nothing but memory, so its error can be dropped. */
Jsonb *
orion_json_parse(const char *text)
{
	MemoryContext context = CurrentMemoryContext;
	Jsonb	   *volatile parsed = NULL;

	PG_TRY();
	{
		parsed = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
	}
	PG_CATCH();
	{
		if (ERRCODE_TO_CATEGORY(geterrcode()) != ERRCODE_DATA_EXCEPTION &&
			ERRCODE_TO_CATEGORY(geterrcode()) != ERRCODE_PROGRAM_LIMIT_EXCEEDED)
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
	}
	PG_END_TRY();
	return parsed;
}

void
orion_response_reset(OrionResponse *response)
{
	response->status = 200;
	response->nheaders = 0;
	resetStringInfo(&response->body);
}

/* The headers live beside the body, whatever the current context is. */
void
orion_response_header(OrionResponse *response, const char *name, const char *value)
{
	MemoryContext context = GetMemoryChunkContext(response->body.data);
	OrionHeader *header;

	if (response->nheaders >= MAX_HEADERS)
		return;
	if (response->headers == NULL)
		response->headers = MemoryContextAlloc(context, MAX_HEADERS * sizeof(OrionHeader));
	header = &response->headers[response->nheaders++];
	header->name = MemoryContextStrdup(context, name);
	header->value = MemoryContextStrdup(context, value);
}

void
orion_response_vary(OrionResponse *response, const char *name)
{
	for (int i = 0; i < response->nheaders; i++)
		if (pg_strcasecmp(response->headers[i].name, "Vary") == 0)
		{
			response->headers[i].value = MemoryContextStrdup(GetMemoryChunkContext(response->body.data),
															 psprintf("%s, %s", response->headers[i].value, name));
			return;
		}
	orion_response_header(response, "Vary", name);
}

static bool
valid_name(const char *name)
{
	return name[0] != '\0' &&
		name[strspn(name, "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")] == '\0';
}

static bool
valid_value(const char *value)
{
	for (; *value; value++)
		if (((unsigned char) *value < 0x20 && *value != '\t') || *value == 0x7F)
			return false;
	return true;
}

static void
append_member(StringInfo body, const char *name, const char *value)
{
	appendStringInfoString(body, name);
	if (value)
		escape_json(body, value);
	else
		appendStringInfoString(body, "null");
}

void
orion_response_error(OrionResponse *response, int status, const char *code,
					 const char *message, const char *details, const char *hint)
{
	orion_response_reset(response);
	response->status = status;
	append_member(&response->body, "{\"code\":", code);
	if (orion_rest_error_verbosity == ORION_ERRORS_VERBOSE)
	{
		if (details && strcmp(code, "PGRST201") == 0)
			appendStringInfo(&response->body, ",\"details\":%s", details);	/* JSON already */
		else
			append_member(&response->body, ",\"details\":", details);
		append_member(&response->body, ",\"hint\":", hint);
	}
	append_member(&response->body, ",\"message\":", message);
	appendStringInfoChar(&response->body, '}');
	orion_response_header(response, "Content-Type", ORION_JSON);
	/* RFC 9209; clients look for this name */
	if (valid_value(code))
		orion_response_header(response, "Proxy-Status", psprintf("PostgREST; error=%s", code));
}

static void
apply_status(OrionResponse *response)
{
	const char *text = GetConfigOption("response.status", true, false);
	char	   *end;
	long		status;

	if (text == NULL || text[0] == '\0')
		return;
	status = strtol(text, &end, 10);
	if (*end != '\0' || status < 200 || status > 599)
		orion_refuse(500, "PGRST112", "response.status guc must be a valid status code", NULL, NULL);
	response->status = (int) status;
}

bool
orion_response_put(OrionResponse *response, const char *name, const char *value)
{
	if (!valid_name(name) || !valid_value(value))
		return false;
	for (int i = 0; i < response->nheaders; i++)
		if (pg_strcasecmp(response->headers[i].name, name) == 0 &&
			pg_strcasecmp(name, "Set-Cookie") != 0)
		{
			response->headers[i].value =
				MemoryContextStrdup(GetMemoryChunkContext(response->body.data), value);
			return true;
		}
	orion_response_header(response, name, value);
	return true;
}

static void
bad_headers(void)
{
	orion_refuse(500, "PGRST111",
				 "response.headers guc must be a JSON array composed of objects with a single key and a string value",
				 NULL, NULL);
}

/* Takes those of the name out of the first n headers; how many are left of them. */
static int
drop_own(OrionResponse *response, int n, const char *name)
{
	int			kept = 0;

	if (pg_strcasecmp(name, "Set-Cookie") == 0)
		return n;
	for (int i = 0; i < response->nheaders; i++)
	{
		if (i < n && pg_strcasecmp(response->headers[i].name, name) == 0)
			continue;
		response->headers[kept++] = response->headers[i];
	}
	n -= response->nheaders - kept;
	response->nheaders = kept;
	return n;
}

/* True for [{"name": "value"}, ...]; applies it as it goes.  A name may be repeated. */
static bool
walk_headers(OrionResponse *response, Jsonb *headers)
{
	int			own = response->nheaders;
	char	   *value;
	JsonbIterator *it = JsonbIteratorInit(&headers->root);
	JsonbIteratorToken token;
	JsonbValue	v;
	char	   *name = NULL;

	if (!JB_ROOT_IS_ARRAY(headers) || JB_ROOT_IS_SCALAR(headers))
		return false;
	JsonbIteratorNext(&it, &v, false);
	while ((token = JsonbIteratorNext(&it, &v, false)) != WJB_END_ARRAY)
	{
		if (token != WJB_BEGIN_OBJECT || v.val.object.nPairs != 1)
			return false;
		JsonbIteratorNext(&it, &v, false);
		name = pnstrdup(v.val.string.val, v.val.string.len);
		token = JsonbIteratorNext(&it, &v, true);
		if (token != WJB_VALUE || v.type != jbvString)
			return false;
		value = pnstrdup(v.val.string.val, v.val.string.len);
		if (!valid_name(name) || !valid_value(value))
			return false;
		own = drop_own(response, own, name);
		orion_response_header(response, name, value);
		JsonbIteratorNext(&it, &v, false);
	}
	return true;
}

static void
apply_headers(OrionResponse *response)
{
	const char *text = GetConfigOption("response.headers", true, false);
	Jsonb	   *headers;

	if (text == NULL || text[0] == '\0')
		return;
	headers = orion_json_parse(text);
	if (headers == NULL || !walk_headers(response, headers))
		bad_headers();
}

void
orion_response_settings(OrionResponse *response)
{
	apply_status(response);
	apply_headers(response);
}
