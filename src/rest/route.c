/*
 * route.c
 *	  Named routes: orion_private.routes, matched by method and path pattern.
 *
 * The table is read as its owner, before the role of the request is taken and
 * under a restricted security context, and kept until
 * orion_shared->routes_generation moves, an invalidation of the table comes (the
 * replay of a change, on a standby) or a function changes.  The function is called as the role of the request.  A transaction's
 * abort restores the user, so an error cannot leave the owner's rights on.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "core/compat.h"
#include "core/shmem.h"
#include "core/wake.h"
#include "rest/body.h"
#include "rest/error.h"
#include "rest/idempotency.h"
#include "rest/position.h"
#include "rest/response.h"
#include "rest/result.h"
#include "rest/route.h"
#include "rest/session.h"
#include "rest/standby.h"

PG_FUNCTION_INFO_V1(orion_routes_changed);

typedef struct Route
{
	char	   *method;
	char	   *pattern;		/* begins with a slash; segments may be {name} */
	Oid			function;		/* jsonb to jsonb; InvalidOid: is gone */
	char	   *role;			/* that the caller must be a member of, or
								 * NULL */
	bool		unkeyed;		/* takes no Idempotency-Key */
} Route;

static MemoryContext routes_context = NULL;
static Route *routes = NULL;
static int	nroutes = 0;
static uint32 routes_generation = 0;	/* of what is loaded; 0: nothing */
static Oid	routes_relid = InvalidOid;
static uint32 function_changes = 0; /* or of the table */
static uint32 loaded_changes = 0;

/*
 * Where passwords come in and tokens go out, no answer is kept, and nobody can try
 * passwords by asking whether a request is the same as one before.
 *
 * The order puts fixed paths in front of patterns, so the first match is the best.
 * 3802 is jsonb.
 */
static const char read_routes[] =
"SELECT r.method, r.path, p.oid, r.role_required::pg_catalog.text,"
" r.path OPERATOR(pg_catalog.~) '^/api/(auth|user/(api-keys|email|password))(/|$)'"
" FROM orion_private.routes r LEFT JOIN pg_catalog.pg_proc p"
" ON p.oid OPERATOR(pg_catalog.=) pg_catalog.to_regprocedure(r.function)"
" AND p.prokind OPERATOR(pg_catalog.=) 'f' AND NOT p.proretset"
" AND p.prorettype OPERATOR(pg_catalog.=) 3802 AND p.pronargs OPERATOR(pg_catalog.=) 1"
" AND p.proargtypes[0] OPERATOR(pg_catalog.=) 3802"
" WHERE r.function OPERATOR(pg_catalog.<>) 'orion_private.removed(jsonb)'"
" ORDER BY pg_catalog.replace(r.path, '{', '~') COLLATE \"C\", r.method";

/* A copy in the current context; NULL for null. */
static char *
field(int row, int column)
{
	char	   *text = SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);

	return text ? MemoryContextStrdup(routes_context, text) : NULL;
}

static void
keep_routes(void)
{
	MemoryContextReset(routes_context);
	nroutes = 0;
	routes = MemoryContextAllocZero(routes_context, Max(SPI_processed, 1) * sizeof(Route));
	for (int i = 0; i < SPI_processed; i++)
	{
		char	   *function = field(i, 3);

		routes[i].method = field(i, 1);
		routes[i].pattern = field(i, 2);
		routes[i].function = function ? atooid(function) : InvalidOid;
		routes[i].role = field(i, 4);
		routes[i].unkeyed = field(i, 5)[0] == 't';
	}
	nroutes = SPI_processed;
}

static void
read_table(Oid relid)
{
	Relation	relation = relation_open(relid, AccessShareLock);
	Oid			owner = relation->rd_rel->relowner;
	Oid			user;
	int			context;

	relation_close(relation, AccessShareLock);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	PushActiveSnapshot(GetTransactionSnapshot());
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(owner, context | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	if (SPI_execute(read_routes, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "reading the routes failed");
	SetUserIdAndSecContext(user, context);
	keep_routes();
	PopActiveSnapshot();
	SPI_finish();
}

/* A function was made, changed or dropped: names may mean others now. */
static void
function_changed(Datum arg, int cache, uint32 hash)
{
	function_changes++;
}

static void
relation_changed(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == routes_relid)
		function_changes++;
}

/* Loads the table anew when it changed. Without the extension there are no routes. */
static void
refresh(void)
{
	uint32		generation = pg_atomic_read_u32(&orion_shared->routes_generation);
	uint32		changes = function_changes;
	Oid			namespace;
	Oid			relid;

	if (generation == routes_generation && changes == loaded_changes)
		return;
	if (routes_context == NULL)
	{
		routes_context = AllocSetContextCreate(TopMemoryContext, "orion routes", ALLOCSET_SMALL_SIZES);
		CacheRegisterSyscacheCallback(PROCOID, function_changed, 0);
		CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
	}
	nroutes = 0;
	routes_generation = 0;
	namespace = get_namespace_oid("orion_private", true);
	relid = OidIsValid(namespace) ? get_relname_relid("routes", namespace) : InvalidOid;
	routes_relid = relid;
	if (OidIsValid(relid))
		read_table(relid);
	routes_generation = generation;
	loaded_changes = changes;
}

/*
 * Matches path (percent-encoded) against a pattern, segment by segment.  The
 * parameters are appended to json, which may be NULL.
 */
static bool
matches(const OrionCall *call, const char *pattern, const char *path, StringInfo json)
{
	while (*pattern == '/' && *path == '/')
	{
		size_t		want = strcspn(++pattern, "/");
		size_t		have = strcspn(++path, "/");

		if (want > 2 && pattern[0] == '{' && pattern[want - 1] == '}')
		{
			char	   *value;

			if (have == 0)
				return false;
			value = orion_percent_decode(&call->arena, path, have, false);
			if (value == NULL)
				return false;
			if (json)
			{
				appendStringInfoString(json, json->len > 1 ? "," : "");
				escape_json(json, pnstrdup(pattern + 1, want - 2));
				appendStringInfoChar(json, ':');
				escape_json(json, value);
			}
		}
		else if (want != have || memcmp(pattern, path, want) != 0)
			return false;
		pattern += want;
		path += have;
	}
	return *pattern == '\0' && *path == '\0';
}

static const Route *
find_route(OrionCall *call)
{
	StringInfoData allowed;
	const char *method = call->method == ORION_HEAD ? "GET" : call->request->method;

	initStringInfo(&allowed);
	for (int i = 0; i < nroutes; i++)
	{
		if (!matches(call, routes[i].pattern, call->request->path, NULL))
			continue;
		if (strcmp(routes[i].method, method) == 0)
			return &routes[i];
		appendStringInfo(&allowed, "%s%s", allowed.len > 0 ? ", " : "", routes[i].method);
	}
	if (allowed.len > 0)
		orion_refuse(405, "PGRST117", psprintf("Unsupported HTTP method: %s", call->request->method),
					 NULL, psprintf("Allowed: %s", allowed.data));
	return NULL;
}

static void
append_member(StringInfo json, const char *name, const char *value)
{
	appendStringInfoString(json, name);
	escape_json(json, value);
}

/* Repeated names keep the last value, as jsonb does. */
static void
append_query(OrionCall *call, StringInfo json)
{
	OrionParam *param;
	OrionQueryError error;
	const char *query = call->request->query;

	if (!orion_query_split(&call->arena, query, strlen(query), &param, &error))
		orion_refuse_query(&error);
	appendStringInfoString(json, ",\"query\":{");
	for (; param; param = param->next)
	{
		escape_json(json, param->name);
		append_member(json, ":", param->value);
		appendStringInfoString(json, param->next ? "," : "");
	}
	appendStringInfoChar(json, '}');
}

static void
append_headers(const OrionCall *call, StringInfo json)
{
	appendStringInfoString(json, ",\"headers\":{");
	for (int i = 0; i < call->request->nheaders; i++)
	{
		appendStringInfoString(json, i > 0 ? "," : "");
		escape_json(json, call->request->headers[i].name);
		append_member(json, ":", call->request->headers[i].value);
	}
	appendStringInfoChar(json, '}');
}

/* The one argument of a route's function. */
static char *
request_json(OrionCall *call, const Route *route)
{
	StringInfoData json;
	StringInfoData params;
	char	   *body = orion_body_json(call);

	initStringInfo(&json);
	initStringInfo(&params);
	appendStringInfoChar(&params, '{');
	matches(call, route->pattern, call->request->path, &params);
	append_member(&json, "{\"method\":", call->request->method);
	append_member(&json, ",\"path\":", call->request->path);
	append_member(&json, ",\"peer\":", call->request->peer);
	append_query(call, &json);
	append_headers(call, &json);
	appendStringInfo(&json, ",\"params\":%s},\"body\":", params.data);
	appendStringInfoString(&json, body ? body : "null");
	appendStringInfoChar(&json, '}');
	return json.data;
}

static void
check_role(const OrionCall *call, const Route *route)
{
	Oid			role;

	if (route->role == NULL)
		return;
	role = get_role_oid(route->role, true);
	if (!OidIsValid(role) || !has_privs_of_role(GetUserId(), role))
		orion_refuse(call->authenticated ? 403 : 401, "42501", "permission denied for this route", NULL, NULL);
}

/*
 * Calls the function itself and not a statement: Orion's own lie in a schema that
 * nobody has USAGE on.  EXECUTE is checked here, as the executor would.
 */
static void
call_function(OrionCall *call, Oid function, const char *request)
{
	LOCAL_FCINFO(fcinfo, 1);
	FmgrInfo	info;
	Datum		result;

	if (!OidIsValid(function) || !SearchSysCacheExists1(PROCOID, ObjectIdGetDatum(function)))
		orion_refuse(404, "PGRST202", "The function of this route does not exist", NULL, NULL);
	if (orion_acl_function(function, GetUserId()) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FUNCTION, get_func_name(function));
	fmgr_info(function, &info);
	InitFunctionCallInfoData(*fcinfo, &info, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = DirectFunctionCall1(jsonb_in, CStringGetDatum(request));
	fcinfo->args[0].isnull = false;
	result = FunctionCallInvoke(fcinfo);
	orion_response_header(call->response, "Content-Type", ORION_JSON);
	if (fcinfo->isnull)
		appendStringInfoString(&call->response->body, "null");
	else
	{
		Jsonb	   *json = DatumGetJsonbP(result);

		JsonbToCString(&call->response->body, &json->root, VARSIZE(json));
	}
}

/* One that is gone is answered as such. */
static bool
may_write(Oid function)
{
	return OidIsValid(function) && SearchSysCacheExists1(PROCOID, ObjectIdGetDatum(function)) &&
		func_volatile(function) == PROVOLATILE_VOLATILE;
}

/* Of this path; for a standby. */
static const char *
reading_methods(const OrionCall *call)
{
	for (int i = 0; i < nroutes; i++)
		if (strcmp(routes[i].method, "GET") == 0 && matches(call, routes[i].pattern, call->request->path, NULL))
			return "GET,HEAD";
	return NULL;
}

bool
orion_route_serve(OrionCall *call)
{
	const Route *route;

	refresh();
	route = find_route(call);
	if (route == NULL)
		return false;
	orion_call_serves(call, "", "", route->pattern);
	if (!orion_call_reads(call) && may_write(route->function))
	{
		call->standby_allows = reading_methods(call);
		orion_standby_refuse();
	}
	orion_session_identify(call);
	orion_session_assume(call, NULL);
	orion_session_enter(NULL);
	check_role(call, route);
	call->unkeyed = route->unkeyed;
	orion_idempotency_begin(call);
	call_function(call, route->function, request_json(call, route));
	orion_position_applied(call);
	return true;
}

/* Trigger of orion_private.routes */
PGDLLEXPORT Datum
orion_routes_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("orion_routes_changed must be called as a trigger")));
	orion_wake_at_commit(ORION_WAKE_ROUTES);
	/* standbys know of no commit, but replay its invalidations */
	CacheInvalidateRelcache(((TriggerData *) fcinfo->context)->tg_relation);
	PG_RETURN_POINTER(NULL);
}
