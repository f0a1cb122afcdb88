/*
 * rest.c
 *	  HTTP requests over tables, views, functions and named routes: the settings
 *	  and the way of a request.
 *
 * Runs in executors, one request at a time, in one transaction a request.  An
 * answer is given only after its commit.  Whatever goes wrong inside is caught
 * here, aborted and answered; nothing of a request reaches the next one.
 */
#include "postgres.h"

#include <limits.h>

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "rest/error.h"
#include "rest/relation.h"
#include "rest/response.h"
#include "rest/rest.h"
#include "rest/route.h"
#include "rest/session.h"
#include "rest/settings.h"

char	   *orion_rest_prefix = NULL;
char	   *orion_rest_schemas = NULL;
char	   *orion_rest_anon_role = NULL;
int			orion_rest_max_rows = -1;

static void *
arena_alloc(void *context, size_t size)
{
	return MemoryContextAlloc((MemoryContext) context, size);
}

const char *
orion_call_header(const OrionCall *call, const char *name)
{
	for (int i = 0; i < call->request->nheaders; i++)
		if (strcmp(call->request->headers[i].name, name) == 0)
			return call->request->headers[i].value;
	return NULL;
}

static OrionMethod
method_of(const char *method)
{
	static const char *const names[] = {
		[ORION_GET] = "GET",
		[ORION_HEAD] = "HEAD",
		[ORION_POST] = "POST",
		[ORION_PATCH] = "PATCH",
		[ORION_PUT] = "PUT",
		[ORION_DELETE] = "DELETE",
	};

	for (int i = 0; i < lengthof(names); i++)
		if (strcmp(names[i], method) == 0)
			return (OrionMethod) i;
	return ORION_OTHER;
}

/* Prefer (RFC 7240): several in a header, several headers. */
static void
read_prefer(OrionCall *call, const char *header)
{
	char	   *rest = pstrdup(header);
	char	   *one;

	while ((one = strsep(&rest, ",;")) != NULL)
	{
		one += strspn(one, " \t");
		one[strcspn(one, " \t")] = '\0';
		if (strcmp(one, "return=minimal") == 0)
			call->returns = ORION_RETURN_MINIMAL;
		else if (strcmp(one, "return=headers-only") == 0)
			call->returns = ORION_RETURN_HEADERS;
		else if (strcmp(one, "return=representation") == 0)
			call->returns = ORION_RETURN_REPRESENTATION;
		else if (strcmp(one, "count=exact") == 0)
			call->count_exact = true;
	}
}

/* The first media type of Accept that can be made; the quality is not weighed. */
static void
read_accept(OrionCall *call)
{
	const char *header = orion_call_header(call, "accept");
	char	   *rest;
	char	   *type;

	if (header == NULL || header[0] == '\0' || strcmp(header, "*/*") == 0)
		return;
	rest = pstrdup(header);
	while ((type = strsep(&rest, ",")) != NULL)
	{
		type += strspn(type, " \t");
		type[strcspn(type, "; \t")] = '\0';
		if (pg_strcasecmp(type, "application/json") == 0 || strcmp(type, "*/*") == 0 ||
			pg_strcasecmp(type, "application/*") == 0)
			return;
		if (pg_strcasecmp(type, "application/vnd.pgrst.object+json") == 0 ||
			pg_strcasecmp(type, "application/vnd.pgrst.object") == 0)
		{
			call->one = true;
			return;
		}
	}
	orion_refuse(406, "PGRST107", psprintf("None of these media types are available: %s", header),
				 NULL, NULL);
}

size_t
orion_rest_prefix_length(void)
{
	size_t		len = strlen(orion_rest_prefix);

	while (len > 0 && orion_rest_prefix[len - 1] == '/')
		len--;
	return len;
}

/* What is behind the prefix and its slash; NULL when the path is elsewhere. */
static const char *
rest_path(const char *path)
{
	size_t		len = orion_rest_prefix_length();

	if (strncmp(path, orion_rest_prefix, len) != 0 || path[len] != '/')
		return NULL;
	return path + len + 1;
}

static void
refuse_path(void)
{
	orion_refuse(404, "PGRST125", "Invalid path specified in request URL", NULL, NULL);
}

static char *
decode_name(OrionCall *call, const char *text)
{
	char	   *name;

	if (*text == '\0' || strchr(text, '/'))
		refuse_path();
	name = orion_percent_decode(&call->arena, text, strlen(text), false);
	if (name == NULL)
		orion_refuse(400, "PGRST100", "failed to parse path",
					 "broken percent-encoding, a NUL byte or invalid UTF-8", NULL);
	return name;
}

static void
serve_rest(OrionCall *call, const char *path)
{
	bool		rpc = strncmp(path, "rpc/", 4) == 0;
	char	   *name = decode_name(call, rpc ? path + 4 : path);
	OrionQueryError error;

	for (int i = 0; i < call->request->nheaders; i++)
		if (strcmp(call->request->headers[i].name, "prefer") == 0)
			read_prefer(call, call->request->headers[i].value);
	read_accept(call);
	if (!orion_query_parse(&call->arena, call->request->query, strlen(call->request->query),
						   &call->query, &error))
		orion_refuse_query(&error);
	call->schema = orion_relation_schema(call);
	orion_session_enter(call, call->schema);
	if (rpc)
		orion_rpc_serve(call, name);
	else
		orion_table_serve(call, name);
}

static void
serve(OrionCall *call)
{
	const char *path = rest_path(call->request->path);

	orion_session_begin(call);
	if ((path == NULL || orion_rest_prefix_length() == 0) && orion_route_serve(call))
		;						/* without a prefix, routes come first */
	else if (path)
		serve_rest(call, path);
	else
		refuse_path();
	orion_response_settings(call->response);
	orion_session_commit();
	if (call->method == ORION_HEAD || call->response->status == 204)
		resetStringInfo(&call->response->body);
}

void
orion_rest_serve(const OrionRequest *request, OrionResponse *response)
{
	MemoryContext context = CurrentMemoryContext;
	OrionCall	call = {
		.request = request,
		.response = response,
		.arena = {.alloc = arena_alloc,.context = context},
		.method = method_of(request->method),
	};

	memset(response, 0, sizeof(OrionResponse));
	initStringInfo(&response->body);
	response->status = 200;
	PG_TRY();
	{
		serve(&call);
	}
	PG_CATCH();
	{
		orion_error_answer(response, call.authenticated, context);
	}
	PG_END_TRY();
	orion_session_end(response->status >= 400);
	MemoryContextSwitchTo(context);
}

void
orion_rest_init(void)
{
	DefineCustomStringVariable("orion.rest_prefix",
							   "Path in front of tables, views and functions.",
							   "A single slash leaves no prefix.",
							   &orion_rest_prefix, "/rest/v1",
							   PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("orion.rest_schemas",
							   "Schemas whose tables, views and functions are served.",
							   "The first is the default; clients choose with Accept-Profile and Content-Profile.",
							   &orion_rest_schemas, "public, orion",
							   PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("orion.rest_anon_role",
							   "Role of requests without a token.",
							   "Empty: they are refused.",
							   &orion_rest_anon_role, "orion_anon",
							   PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("orion.rest_max_rows",
							"Most rows in one answer.",
							"-1 sets no limit.",
							&orion_rest_max_rows, -1, -1, INT_MAX,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
}
