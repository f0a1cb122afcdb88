/*
 * rest.c
 *	  HTTP requests over tables, views, functions and named routes: the way of
 *	  a request.
 *
 * Runs in executors, one request at a time, in one transaction a request; reads may
 * share one (joint.h).  What writes is answered only after its commit.  Whatever goes wrong
 * inside is caught here, aborted and answered; nothing of a request reaches the next one.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "apikey/apikey.h"
#include "rest/batch.h"
#include "rest/closed.h"
#include "rest/compress.h"
#include "rest/cors.h"
#include "rest/error.h"
#include "rest/etag.h"
#include "rest/idempotency.h"
#include "rest/joint.h"
#include "rest/media.h"
#include "rest/openapi.h"
#include "rest/position.h"
#include "rest/relation.h"
#include "rest/response.h"
#include "rest/rest.h"
#include "rest/result.h"
#include "rest/route.h"
#include "rest/session.h"
#include "rest/settings.h"
#include "rest/standby.h"

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

void
orion_call_serves(OrionCall *call, const char *prefix, const char *middle, const char *name)
{
	char	   *route = arena_alloc(call->arena.context, strlen(prefix) + strlen(middle) + strlen(name) + 1);

	strcpy(stpcpy(stpcpy(route, prefix), middle), name);
	call->response->route = route;
}

void
orion_call_enter(OrionCall *call, struct ArrayType *hoisted)
{
	orion_call_mark(call, ORION_STAGE_TRANSACTION);
	if (call->operation)
		return;					/* the batch has */
	orion_session_enter(hoisted);
	orion_session_pre_request(call);
	orion_idempotency_begin(call);
}

/* What may make the answer another one. */
#define VARY "Accept, Prefer, Range"

/* Content-Profile, where a schema was chosen, or could have been; Vary; what was preferred of rows. */
static void
put_headers(OrionCall *call)
{
	if (list_length(orion_rest_schema_list()) > 1 || orion_relation_profile(call))
		orion_response_header(call->response, "Content-Profile", call->schema);
	orion_response_header(call->response, "Vary", VARY);
	if (!call->media.plan && (OidIsValid(call->relid) || call->rpc))
		orion_prefer_applied(call);
	else
		orion_position_applied(call);
}

static void
refuse_method(const OrionCall *call)
{
	if (call->rpc)
		orion_refuse(405, "PGRST101", psprintf("Cannot use the %s method on RPC", call->request->method), NULL, NULL);
	orion_refuse(405, "PGRST117", psprintf("Unsupported HTTP method: %s", call->request->method), NULL, NULL);
}

/* The name of the function behind the path; NULL when it is no function's. */
static const char *
function_name(OrionCall *call, const char *path)
{
	if (strncmp(path, "rpc/", 4) == 0)
		return decode_name(call, path + 4);
	return path[0] == '\0' && orion_rest_root_spec[0] && orion_openapi_mode != ORION_OPENAPI_DISABLED ?
		orion_rest_root_spec : NULL;
}

/* OPTIONS aside. */
static bool
takes_method(const OrionCall *call, bool root)
{
	if (call->method == ORION_OTHER)
		return false;
	return orion_call_reads(call) || (call->rpc ? call->method == ORION_POST : !root);
}

static void
refuse_disabled_root(void)
{
	if (orion_openapi_mode == ORION_OPENAPI_DISABLED)
		orion_refuse(404, "PGRST126", "Root endpoint metadata is disabled", NULL, NULL);
}

/* Behind the prefix: neither the root nor a function. */
static bool
is_table(const char *path)
{
	return path[0] != '\0' && strchr(path, '/') == NULL;
}

static void
serve_resource(OrionCall *call, const char *path)
{
	const char *function = function_name(call, path);
	bool		rpc = function != NULL;
	bool		root = path[0] == '\0' && !rpc;
	bool		reads_table = !root && !rpc && orion_call_reads(call);
	const char *name = root ? NULL : rpc ? function : decode_name(call, path);
	OrionQueryError error;

	orion_call_mark(call, ORION_STAGE_PARSE);
	call->rpc = rpc ? name : NULL;
	if (root)
		refuse_disabled_root();
	call->schema = orion_relation_schema(call);
	if (!takes_method(call, root))
		refuse_method(call);
	if (!rpc && !orion_call_reads(call))
	{
		call->standby_allows = "OPTIONS,GET,HEAD";
		orion_standby_refuse();
	}
	orion_prefer_read(call);
	if (!root)
		orion_media_read(call);
	if (!orion_query_parse(&call->arena, call->request->query, strlen(call->request->query),
						   &call->query, &error))
		orion_refuse_query(&error);
	orion_call_range(call);
	orion_call_mark(call, ORION_STAGE_PLAN);
	if (call->operation)
	{
		orion_session_schema(call->schema);
		call->prefer.timezone = NULL;	/* the batch's counts */
	}
	else if (reads_table)
		orion_session_assume_untold(call, call->schema);
	else
		orion_session_assume(call, call->schema);
	if (root)
		orion_openapi_serve(call);
	else if (rpc)
		orion_rpc_serve(call, name);
	else
		orion_table_serve(call, name);
	orion_call_mark(call, ORION_STAGE_RESPONSE);
	put_headers(call);
	if (orion_call_reads(call) && !call->response->streamed)
		orion_etag_answer(call);
}

void
orion_call_operation(OrionCall *call, const char *path)
{
	call->method = method_of(call->request->method);
	if (path[0] == '\0')
		refuse_path();
	/* what it is not to write is refused as it would be alone */
	XactReadOnly |= orion_call_reads(call);
	serve_resource(call, path);
}

static void
serve_batch(OrionCall *call)
{
	orion_call_mark(call, ORION_STAGE_JWT);
	orion_session_identify(call);
	orion_call_mark(call, ORION_STAGE_PARSE);
	orion_prefer_read(call);
	orion_prefer_check(call);
	call->schema = orion_relation_schema(call);
	orion_call_mark(call, ORION_STAGE_PLAN);
	orion_session_assume(call, call->schema);
	orion_call_serves(call, "", "", "/batch");
	call->standby_allows = "OPTIONS,POST";	/* for one that reads */
	orion_call_enter(call, NULL);
	orion_batch_serve(call);
	orion_position_applied(call);
	orion_call_mark(call, ORION_STAGE_RESPONSE);
}

/* Which methods a resource has; done without a statement. */
static void
serve_options(OrionCall *call, const char *path)
{
	const char *function = function_name(call, path);
	OrionQueryError error;

	orion_call_mark(call, ORION_STAGE_PARSE);
	if (path[0] == '\0' && function == NULL)
		refuse_disabled_root();
	call->schema = orion_relation_schema(call);
	if (!orion_query_parse(&call->arena, call->request->query, strlen(call->request->query), &call->query, &error))
		orion_refuse_query(&error);
	if (function)
		orion_rpc_options(call, function);
	else if (path[0] == '\0')
		orion_response_header(call->response, "Allow", "OPTIONS,GET,HEAD");
	else
		orion_table_options(call, decode_name(call, path));
	orion_response_header(call->response, "Vary", VARY);
	orion_call_mark(call, ORION_STAGE_RESPONSE);
	orion_session_enter(NULL);
}

static void
serve_rest(OrionCall *call, const char *path)
{
	orion_call_mark(call, ORION_STAGE_JWT);
	orion_session_identify(call);
	if (strcmp(call->request->method, "OPTIONS") == 0)
		serve_options(call, path);
	else
		serve_resource(call, path);
}

static void
serve(OrionCall *call)
{
	const char *path = rest_path(call->request->path);
	bool		maybe_route = path == NULL || orion_rest_prefix_length() == 0;	/* these come first */

	orion_session_begin(call, !maybe_route && is_table(path) && orion_call_reads(call));
	if (maybe_route && orion_route_serve(call))
		;
	else if (orion_batch_asked(call, path))
		serve_batch(call);
	else if (path)
		serve_rest(call, path);
	else
		refuse_path();
	if (orion_session_is_untold())
		call->response->pristine = true;
	else
		orion_response_settings(call->response);
	orion_idempotency_store(call);
	orion_position_before_commit();
	orion_session_commit(call, call->schema && orion_prefer_rolls_back(call));
	if (!orion_call_reads(call))
		orion_position_committed(call->response);
}

/* What browsers and operators want of every answer, errors too. */
static void
finish(OrionCall *call)
{
	orion_cors_put(call);
	if (orion_http_server_timing)
		orion_timing_put(call);
	orion_trace_put(call);
	if (call->method == ORION_HEAD || call->response->status == 204)
		resetStringInfo(&call->response->body);
	orion_compress(call);
}

void
orion_call_begin_stream(OrionCall *call)
{
	put_headers(call);
	orion_response_settings(call->response);
	finish(call);
	call->request->sink->begin(call->response);
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
		if (!orion_cors_preflight(&call) && orion_position_reached(&call))
			serve(&call);
	}
	PG_CATCH();
	{
		response->broken = true;
		orion_error_answer(&call, context);
		orion_batch_blame(&call);
	}
	PG_END_TRY();
	if (response->wait_ms > 0)
		return;
	orion_api_key_record_use(request->peer, orion_call_header(&call, "user-agent"));
	orion_session_end(response->status >= 400);
	MemoryContextSwitchTo(context);
	finish(&call);
}

bool
orion_rest_is_open(void)
{
	return orion_joint_is_open();
}

void
orion_rest_settle(void)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		orion_session_settle();
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		EmitErrorReport();
		AbortOutOfAnyTransaction();
		FlushErrorState();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
}

void
orion_rest_init(void)
{
	orion_joint_init();
	orion_session_init();
	orion_closed_init();
	orion_rest_settings_init();
	orion_standby_init();
	orion_position_init();
	orion_idempotency_init();
}
