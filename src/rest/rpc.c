/*
 * rpc.c
 *	  GET, HEAD and POST on functions.
 *
 * Calls the function with named arguments, all of them parameters.  Whether the role
 * may execute it Postgres decides.  GET and HEAD, and functions that are not
 * volatile, run read-only.  A function is called once, also when its rows are counted.
 */
#include "postgres.h"

#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "rest/body.h"
#include "rest/error.h"
#include "rest/function.h"
#include "rest/media.h"
#include "rest/read.h"
#include "rest/response.h"
#include "rest/result.h"
#include "rest/settings.h"
#include "rest/session.h"
#include "rest/standby.h"
#include "rest/statement.h"

typedef struct RpcCall
{
	OrionCall  *call;
	OrionFunction f;
	List	   *given;			/* char *: argument names */
	const OrionParam *params;	/* arguments as text: of the query string or a
								 * form */
	const char *object;			/* arguments as one JSON object, or NULL */
	bool		none;			/* columns= of no object at all: there is no
								 * call */
	OrionWhole	whole;			/* what the body is, if the function takes it
								 * whole */
	const char *body;			/* then its text */
} RpcCall;

static bool
has_name(List *names, const char *name)
{
	ListCell   *lc;

	foreach(lc, names)
		if (strcmp(lfirst(lc), name) == 0)
		return true;
	return false;
}

static void
begin_argument(OrionStatement *st, const OrionFunction *f, int i, bool first)
{
	if (!first)
		orion_statement_add(st, ", ");
	if (orion_function_is_variadic(f, i))
		orion_statement_add(st, "VARIADIC ");
	orion_statement_name(st, f->names[i]);
	orion_statement_add(st, " => ");
}

/* The values that are given for a variadic argument, as its array. */
static void
add_variadic(OrionStatement *st, const RpcCall *rpc, int i)
{
	Oid			element = get_element_type(rpc->f.types[i]);
	ArrayBuildState *array;
	Oid			input;
	Oid			param;

	if (!OidIsValid(element))
		orion_refuse(400, "PGRST102", "An argument of this type cannot be given in a query string", NULL, NULL);
	getTypeInputInfo(element, &input, &param);
	array = initArrayResult(element, CurrentMemoryContext, false);
	for (const OrionParam *p = rpc->params; p; p = p->next)
		if (strcmp(p->name, rpc->f.names[i]) == 0)
			accumArrayResult(array, OidInputFunctionCall(input, unconstify(char *, p->value), param, -1),
							 false, element, CurrentMemoryContext);
	orion_statement_param(st, rpc->f.types[i], makeArrayResult(array, CurrentMemoryContext));
}

/* "name" => $n; of a name given twice the last value counts. */
static void
add_text_arguments(OrionStatement *st, const RpcCall *rpc)
{
	ListCell   *lc;

	foreach(lc, rpc->given)
	{
		int			i = orion_function_argument(&rpc->f, lfirst(lc));
		const char *value = NULL;

		begin_argument(st, &rpc->f, i, foreach_current_index(lc) == 0);
		if (orion_function_is_variadic(&rpc->f, i))
		{
			add_variadic(st, rpc, i);
			continue;
		}
		for (const OrionParam *p = rpc->params; p; p = p->next)
			if (strcmp(p->name, lfirst(lc)) == 0)
				value = p->value;
		orion_statement_input(st, rpc->f.types[i], value);
	}
}

/* The whole body as the one argument, which has no name. */
static void
add_whole(OrionStatement *st, const RpcCall *rpc)
{
	const OrionRequest *request = rpc->call->request;

	if (rpc->f.types[0] == BYTEAOID)
	{
		bytea	   *bytes = palloc(VARHDRSZ + request->body_len);

		SET_VARSIZE(bytes, VARHDRSZ + request->body_len);
		memcpy(VARDATA(bytes), request->body, request->body_len);
		orion_statement_param(st, BYTEAOID, PointerGetDatum(bytes));
	}
	else
		orion_statement_input(st, rpc->f.types[0], rpc->body);
}

/* "s"."f"(arguments); those of a JSON object are columns of r */
static void
add_call(OrionStatement *st, const RpcCall *rpc)
{
	ListCell   *lc;

	orion_statement_add(st, rpc->f.quoted);
	orion_statement_add(st, "(");
	if (rpc->whole != ORION_WHOLE_NONE)
		add_whole(st, rpc);
	else if (rpc->object == NULL)
		add_text_arguments(st, rpc);
	else
		foreach(lc, rpc->given)
	{
		begin_argument(st, &rpc->f, orion_function_argument(&rpc->f, lfirst(lc)), foreach_current_index(lc) == 0);
		orion_statement_add(st, "r.");
		orion_statement_name(st, lfirst(lc));
	}
	orion_statement_add(st, ")");
}

/* json_to_record($1) AS r(name type, ...); false when no argument comes that way */
static bool
add_record(OrionStatement *st, const RpcCall *rpc, const char *before, const char *after)
{
	ListCell   *lc;

	if (rpc->object == NULL || rpc->given == NIL || rpc->whole != ORION_WHOLE_NONE)
		return false;
	orion_statement_add(st, before);
	orion_statement_add(st, rpc->none ? "pg_catalog.json_to_recordset(" : "pg_catalog.json_to_record(");
	orion_statement_param(st, JSONOID, CStringGetTextDatum(rpc->none ? "[]" : rpc->object));
	orion_statement_add(st, ") AS r(");
	foreach(lc, rpc->given)
	{
		orion_statement_add(st, foreach_current_index(lc) > 0 ? ", " : "");
		orion_statement_name(st, lfirst(lc));
		orion_statement_add(st, " ");
		orion_statement_add(st, orion_type_name(rpc->f.types[orion_function_argument(&rpc->f, lfirst(lc))], -1));
	}
	orion_statement_add(st, ")");
	orion_statement_add(st, after);
	return true;
}

static void
add_source(OrionStatement *st, const RpcCall *rpc)
{
	(void) add_record(st, rpc, "", ", LATERAL ");
	add_call(st, rpc);
}

/* What one value affects cannot be told. */
static void
check_limit(const RpcCall *rpc)
{
	if (!rpc->f.set && orion_prefer_limits_affected(rpc->call))
		orion_refuse(400, "PGRST128",
					 "Function must return SETOF or TABLE when max-affected preference is used with handling=strict",
					 NULL, NULL);
}

/* Of a function that gives one value or row: it is one, though limit, offset or a filter may hide it. */
static void
finish_single(RpcCall *rpc, bool counted)
{
	OrionCall  *call = rpc->call;
	int64		total = counted ? orion_result_int(2, -1) : orion_prefer_counts(call) ? 1 : -1;

	if (orion_result_is_behind(call, total))
		return;
	orion_result_range(call, orion_result_offset(call), total == 0 ? 0 : 1, total);
	orion_result_body(call, 1, call->media.format == ORION_FORMAT_JSON ? "null" : orion_media_empty(call));
}

/* Of one whose value goes out as it is, when there is none. */
static void
finish_hidden(RpcCall *rpc)
{
	if (orion_result_is_behind(rpc->call, 0))
		return;
	orion_result_range(rpc->call, 0, 0, 0);
	orion_response_header(rpc->call->response, "Content-Type", orion_media_type(rpc->call));
}

static void
finish_set(RpcCall *rpc, bool counted)
{
	int64		rows = orion_result_int(0, 0);

	orion_prefer_check_affected(rpc->call, rows);
	orion_result_page_of(rpc->call, counted ? orion_result_int(2, -1) : orion_prefer_counts(rpc->call) ? rows : -1);
}

/* Whether the rows of the answer may be fewer than those that are asked to be counted. */
static bool
counts_apart(const RpcCall *rpc)
{
	const OrionQuery *query = &rpc->call->query;

	return orion_prefer_counts(rpc->call) &&
		(query->has_limit || query->has_offset || orion_rest_max_rows >= 0);
}

/* All of what is counted comes out of one call, kept as s. */
static void
add_kept(OrionStatement *st, const RpcCall *rpc, const OrionRead *read)
{
	orion_statement_add(st, "WITH s AS MATERIALIZED (SELECT t.* FROM ");
	add_source(st, rpc);
	orion_statement_add(st, " AS t) SELECT pg_catalog.count(*), ");
	orion_media_body(st, rpc->call);
	orion_statement_add(st, ", (SELECT pg_catalog.count(*) FROM (");
	orion_read_begin_count(st);
	orion_statement_add(st, "s");
	orion_read_end_count(st, read);
	orion_statement_add(st, ") AS c)");
}

/* Runs it; false where its plan is the answer already. */
static bool
run(RpcCall *rpc, OrionStatement *st)
{
	if (rpc->call->media.plan)
	{
		orion_media_explain(rpc->call, st);
		return false;
	}
	orion_statement_run(st, false);
	return true;
}

/* Rows with columns: select, filters, order and limit apply. */
static void
call_rows(RpcCall *rpc, const OrionSource *source)
{
	OrionCall  *call = rpc->call;
	OrionStatement st;
	OrionRead  *read;
	bool		counted = counts_apart(rpc);
	bool		one = call->one;

	if (!rpc->f.set)
		call->one = call->media.format == ORION_FORMAT_JSON;
	orion_media_resolve(call, rpc->f.columns ? InvalidOid : source->relid, InvalidOid);
	read = orion_read_make(call, source);
	read->typed = call->media.row != NULL;
	orion_statement_init(&st);
	if (counted)
		add_kept(&st, rpc, read);
	else
	{
		orion_statement_add(&st, "SELECT pg_catalog.count(*), ");
		orion_media_body(&st, call);
	}
	orion_statement_add(&st, " FROM (");
	orion_read_begin(&st, read);
	if (counted)
		orion_statement_add(&st, "s");
	else
		add_source(&st, rpc);
	orion_read_end(&st, read);
	orion_statement_add(&st, ") AS w");
	call->one = one;
	if (!run(rpc, &st))
		return;
	if (rpc->f.set)
		finish_set(rpc, counted);
	else
		finish_single(rpc, counted);
}

/* The name that PostgREST gives the values of a function that returns no rows with columns. */
#define SCALAR "pgrst_scalar"

static void
add_value_body(OrionStatement *st, const RpcCall *rpc)
{
	const OrionMedia *media = &rpc->call->media;
	bool		first = !rpc->f.set || rpc->call->one;

	orion_statement_add(st, media->stripped ? "pg_catalog.json_strip_nulls(" : "");
	/* of a set the one object is a row, not its value */
	orion_statement_add(st, rpc->f.set && rpc->call->one ? "pg_catalog.json_agg(w.*)" : "pg_catalog.json_agg(w." SCALAR ")");
	orion_statement_add(st, first ? " OPERATOR(pg_catalog.->) 0" : "");
	orion_statement_add(st, media->stripped ? ")" : "");
}

/* The number of values and the body, of rows w(pgrst_scalar). */
static void
add_scalars(OrionStatement *st, const RpcCall *rpc)
{
	const OrionMedia *media = &rpc->call->media;

	orion_statement_add(st, !rpc->f.set ? ") SELECT 1::pg_catalog.int8, " : ") SELECT pg_catalog.count(*), ");
	if (media->format == ORION_FORMAT_CUSTOM)
	{
		orion_statement_add(st, media->cast);
		orion_statement_add(st, media->handler);
		/* of a set it aggregates rows */
		orion_statement_add(st, rpc->f.set ? "(w)" : "(w." SCALAR ")");
		orion_statement_add(st, media->cast_end);
	}
	else if (media->format == ORION_FORMAT_RAW)
	{
		orion_statement_add(st, media->cast);
		orion_statement_add(st, "w." SCALAR);
		orion_statement_add(st, media->cast_end);
	}
	else if (media->format == ORION_FORMAT_JSON)
		add_value_body(st, rpc);
	else
		orion_media_body(st, rpc->call);
}

/* Values are rows of one column; what the query says of it applies. */
static OrionRead *
read_scalars(RpcCall *rpc, OrionSource *source, OrionColumn *column)
{
	OrionRead  *read;

	column->name = SCALAR;
	column->type = rpc->f.result;
	column->typmod = -1;
	memset(source, 0, sizeof(OrionSource));
	source->name = rpc->f.name;
	source->columns = column;
	source->ncolumns = 1;
	read = orion_read_make(rpc->call, source);
	read->uncapped = !rpc->f.set;
	return read;
}

static void
call_scalar(RpcCall *rpc)
{
	OrionCall  *call = rpc->call;
	OrionStatement st;
	OrionSource source;
	OrionColumn column;
	OrionRead  *read;
	bool		counted = counts_apart(rpc);

	orion_media_resolve(call, InvalidOid, rpc->f.set ? InvalidOid : rpc->f.result);
	read = read_scalars(rpc, &source, &column);
	orion_statement_init(&st);
	orion_statement_add(&st, "WITH p AS (SELECT ");
	add_call(&st, rpc);
	orion_statement_add(&st, " AS " SCALAR);
	(void) add_record(&st, rpc, " FROM ", "");
	add_scalars(&st, rpc);
	if (counted)
	{
		orion_statement_add(&st, ", (SELECT pg_catalog.count(*) FROM (");
		orion_read_begin_count(&st);
		orion_statement_add(&st, "p");
		orion_read_end_count(&st, read);
		orion_statement_add(&st, ") AS c)");
	}
	orion_statement_add(&st, " FROM (");
	orion_read_begin(&st, read);
	orion_statement_add(&st, "p");
	orion_read_end(&st, read);
	orion_statement_add(&st, ") AS w");
	if (!run(rpc, &st))
		return;
	if (rpc->f.set)
		finish_set(rpc, counted);
	else if (SPI_processed > 0)
		finish_single(rpc, counted);
	else
		finish_hidden(rpc);
}

static void
call_void(RpcCall *rpc)
{
	OrionStatement st;

	orion_media_resolve(rpc->call, InvalidOid, InvalidOid);
	orion_statement_init(&st);
	orion_statement_add(&st, "SELECT ");
	add_call(&st, rpc);
	(void) add_record(&st, rpc, " FROM ", "");
	if (!run(rpc, &st))
		return;
	orion_result_range(rpc->call, orion_result_offset(rpc->call), 1, orion_prefer_counts(rpc->call) ? 1 : -1);
	rpc->call->response->status = 204;
}

static void
give(RpcCall *rpc, const OrionParam *param)
{
	if (!has_name(rpc->given, param->name))
		rpc->given = lappend(rpc->given, unconstify(char *, param->name));
}

/* "v[0]" and "v[]" are v: so libraries write lists. */
static const char *
without_index(const char *name)
{
	size_t		n = strcspn(name, "[");
	size_t		digits = name[n] == '[' ? strspn(name + n + 1, "0123456789") : 0;

	return n > 0 && name[n] == '[' && strcmp(name + n + 1 + digits, "]") == 0 ? pnstrdup(name, n) : name;
}

/* Of the query string: what reads as a filter is one, the rest are arguments. */
static void
read_query(RpcCall *rpc)
{
	OrionCall  *call = rpc->call;
	OrionParam *next;
	OrionParam *arguments = NULL;
	OrionParam **tail = &arguments;

	for (OrionParam *p = call->query.params; p; p = next)
	{
		OrionQueryError error;

		next = p->next;
		if (orion_query_filter(&call->arena, p, &call->query, &error))
			continue;
		p->next = NULL;
		p->name = without_index(p->name);
		*tail = p;
		tail = &p->next;
		give(rpc, p);
	}
	rpc->params = arguments;
}

static void
read_form(RpcCall *rpc)
{
	char	   *text = orion_body_text(rpc->call);
	OrionParam *params = NULL;
	OrionQueryError error;

	if (text &&!orion_query_split(&rpc->call->arena, text, strlen(text), &params, &error))
		orion_refuse(400, "PGRST102", "invalid form data", error.problem, NULL);
	rpc->params = params;
	for (const OrionParam *p = params; p; p = p->next)
		give(rpc, p);
}

/* Arguments in JSON, or in CSV made into it: of the first object, if there are several. */
static OrionWhole
read_json(RpcCall *rpc)
{
	char	   *text = orion_body_json(rpc->call);
	OrionBody	body;

	orion_body_first(text ? text : "{}", &body);
	rpc->body = body.text;
	rpc->object = body.first ? body.first : "{}";
	rpc->given = body.keys;
	if (rpc->call->query.columns)
	{
		orion_body_check_kind(rpc->call, text);
		rpc->given = NIL;
		rpc->none = body.array && body.first == NULL;
	}
	for (const OrionColumnName *c = rpc->call->query.columns; c; c = c->next)
		rpc->given = lappend(rpc->given, unconstify(char *, c->name));
	return orion_body_is(rpc->call, "text/csv") ? ORION_WHOLE_NONE : ORION_WHOLE_JSON;
}

/* What the body is to a function of one argument without a name; named: it may have names in it. */
static OrionWhole
read_body(RpcCall *rpc, bool *named)
{
	OrionCall  *call = rpc->call;

	*named = true;
	if (orion_body_is(call, "application/x-www-form-urlencoded"))
	{
		read_form(rpc);
		return ORION_WHOLE_NONE;
	}
	*named = false;
	if (orion_body_is(call, "application/octet-stream"))
		return ORION_WHOLE_BYTEA;
	if (orion_body_is(call, "text/plain") || orion_body_is(call, "text/xml"))
	{
		rpc->body = orion_body_text(call);
		if (rpc->body == NULL)
			rpc->body = "";
		return orion_body_is(call, "text/xml") ? ORION_WHOLE_XML : ORION_WHOLE_TEXT;
	}
	*named = true;
	return read_json(rpc);
}

/* Arguments and function. */
static void
plan_call(RpcCall *rpc, const char *name)
{
	OrionCall  *call = rpc->call;
	OrionWhole	whole = ORION_WHOLE_NONE;
	bool		named = true;

	if (orion_call_reads(call))
		read_query(rpc);
	else
	{
		whole = read_body(rpc, &named);
		orion_call_filters(call, NULL, NULL);
	}
	if (orion_function_find(call, name, rpc->given, named, whole, &rpc->f))
		rpc->whole = whole;
	else if (rpc->object)
		orion_body_check_objects(call, rpc->body);
}

void
orion_rpc_serve(OrionCall *call, const char *name)
{
	RpcCall		rpc = {.call = call};
	OrionSource source;

	plan_call(&rpc, name);
	orion_prefer_check(call);
	check_limit(&rpc);
	orion_call_serves(call, orion_rest_prefix, "/rpc/", name);
	call->unkeyed = rpc.f.volatility != PROVOLATILE_VOLATILE;
	call->function = rpc.f.oid;
	if (rpc.f.volatility == PROVOLATILE_VOLATILE && !orion_call_reads(call))
		orion_standby_refuse();
	orion_call_enter(call, rpc.f.config);
	if (rpc.f.volatility != PROVOLATILE_VOLATILE)
		orion_session_read_only();
	if (rpc.f.result == VOIDOID)
		call_void(&rpc);
	else if (orion_function_source(&rpc.f, &source))
		call_rows(&rpc, &source);
	else
		call_scalar(&rpc);
}

/* What the query string does not say may be in the body. */
void
orion_rpc_options(OrionCall *call, const char *name)
{
	RpcCall		rpc = {.call = call};

	read_query(&rpc);
	orion_response_header(call->response, "Allow",
						  orion_function_is_safe(call, name, rpc.given) ?
						  "OPTIONS,GET,HEAD,POST" : orion_standby_has_no_writes() ? "OPTIONS" : "OPTIONS,POST");
}
