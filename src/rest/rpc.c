/*
 * rpc.c
 *	  GET, HEAD and POST on functions.
 *
 * Finds the function by name and argument names, calls it with named arguments,
 * all of them parameters.  Whether the role may execute it Postgres decides.
 * GET and HEAD, and functions that are not volatile, run read-only.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "rest/body.h"
#include "rest/error.h"
#include "rest/media.h"
#include "rest/read.h"
#include "rest/response.h"
#include "rest/result.h"
#include "rest/session.h"
#include "rest/statement.h"

typedef struct Function
{
	const char *quoted;			/* schema-qualified */
	const char *name;
	int			nargs;			/* all: in, out, variadic, table */
	Oid		   *types;
	char	  **names;			/* NULL: none is named */
	char	   *modes;			/* NULL: all are in */
	int			ninputs;
	int			ndefaults;
	Oid			result;
	bool		set;
	bool		columns;		/* has out or table arguments */
	char		volatility;
	ArrayType  *config;			/* settings it is declared with, or NULL */
} Function;

static bool
is_input(const Function *f, int i)
{
	return f->modes == NULL || f->modes[i] == PROARGMODE_IN ||
		f->modes[i] == PROARGMODE_INOUT || f->modes[i] == PROARGMODE_VARIADIC;
}

/* Index of an input argument, or -1. */
static int
find_input(const Function *f, const char *name)
{
	for (int i = 0; i < f->nargs && f->names; i++)
		if (is_input(f, i) && f->names[i] && f->names[i][0] && strcmp(f->names[i], name) == 0)
			return i;
	return -1;
}

static bool
has_name(List *names, const char *name)
{
	ListCell   *lc;

	foreach(lc, names)
		if (strcmp(lfirst(lc), name) == 0)
		return true;
	return false;
}

/* Every argument without a default is given; nothing unknown where strict. */
static bool
accepts(const Function *f, List *given, bool strict)
{
	ListCell   *lc;
	int			required = f->ninputs - f->ndefaults;
	int			input = 0;

	for (int i = 0; i < f->nargs; i++)
	{
		if (!is_input(f, i))
			continue;
		if (input++ < required && !(f->modes && f->modes[i] == PROARGMODE_VARIADIC) &&
			(f->names == NULL || f->names[i] == NULL || !has_name(given, f->names[i])))
			return false;
	}
	if (strict)
		foreach(lc, given)
			if (find_input(f, lfirst(lc)) < 0)
			return false;
	return true;
}

/* Takes over what a call needs; false for what is no function to call. */
static bool
read_function(HeapTuple tuple, Function *f)
{
	Form_pg_proc proc = (Form_pg_proc) GETSTRUCT(tuple);
	Datum		config;
	bool		isnull;

	if (proc->prokind != PROKIND_FUNCTION || proc->prorettype == TRIGGEROID ||
		proc->prorettype == EVENT_TRIGGEROID || proc->prorettype == INTERNALOID)
		return false;
	memset(f, 0, sizeof(Function));
	f->nargs = get_func_arg_info(tuple, &f->types, &f->names, &f->modes);
	f->name = pstrdup(NameStr(proc->proname));
	f->quoted = quote_qualified_identifier(get_namespace_name(proc->pronamespace), f->name);
	f->ninputs = proc->pronargs;
	f->ndefaults = proc->pronargdefaults;
	f->result = proc->prorettype;
	f->set = proc->proretset;
	f->volatility = proc->provolatile;
	config = SysCacheGetAttr(PROCNAMEARGSNSP, tuple, Anum_pg_proc_proconfig, &isnull);
	if (!isnull)
		f->config = DatumGetArrayTypePCopy(config);
	for (int i = 0; i < f->nargs && f->modes; i++)
		f->columns |= f->modes[i] != PROARGMODE_IN && f->modes[i] != PROARGMODE_VARIADIC;
	return true;
}

static bool
takes_whole_body(const Function *f)
{
	return f->ninputs == 1 && f->nargs == 1 && (f->names == NULL || f->names[0][0] == '\0') &&
		(f->types[0] == JSONOID || f->types[0] == JSONBOID);
}

/* Functions of that name in the schema that accept the arguments. */
static int
candidates(Oid namespace, const char *name, List *given, bool strict, Function *best, bool *whole)
{
	CatCList   *list = SearchSysCacheList1(PROCNAMEARGSNSP, CStringGetDatum(name));
	Function	single;
	bool		has_single = false;
	int			n = 0;

	for (int i = 0; i < list->n_members; i++)
	{
		HeapTuple	tuple = &list->members[i]->tuple;
		Function	f;

		if (((Form_pg_proc) GETSTRUCT(tuple))->pronamespace != namespace || !read_function(tuple, &f))
			continue;
		if (takes_whole_body(&f))
		{
			single = f;
			has_single = true;
		}
		else if (accepts(&f, given, strict))
		{
			*best = f;
			n++;
		}
	}
	ReleaseSysCacheList(list);
	*whole = n == 0 && has_single;
	if (*whole)
		*best = single;
	return *whole ? 1 : n;
}

static char *
list_names(List *names)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	foreach(lc, names)
		appendStringInfo(&text, "%s%s", foreach_current_index(lc) > 0 ? ", " : "", (char *) lfirst(lc));
	return text.data;
}

static void
refuse_function(OrionCall *call, const char *name, List *given)
{
	orion_refuse(404, "PGRST202",
				 given == NIL ?
				 psprintf("Could not find the function %s.%s without parameters in the schema cache",
						  call->schema, name) :
				 psprintf("Could not find the function %s.%s(%s) in the schema cache",
						  call->schema, name, list_names(given)),
				 NULL, NULL);
}

/* The exposed schema first, then Orion's own functions. */
static bool
find_function(OrionCall *call, const char *name, List *given, bool strict, Function *f)
{
	Oid			namespace = get_namespace_oid(call->schema, true);
	bool		whole = false;
	int			n = 0;

	if (strlen(name) < NAMEDATALEN)
	{
		if (OidIsValid(namespace))
			n = candidates(namespace, name, given, strict, f, &whole);
		if (n == 0 && strncmp(name, "orion_", 6) == 0)
		{
			Oid			own = orion_relation_extension_schema();

			if (OidIsValid(own) && own != namespace)
				n = candidates(own, name, given, strict, f, &whole);
		}
	}
	if (n == 0)
		refuse_function(call, name, given);
	if (n > 1)
		orion_refuse(300, "PGRST203",
					 psprintf("Could not choose the best candidate function between several of the name %s.%s",
							  call->schema, name), NULL,
					 "Try renaming the parameters or the function itself in the database so function overloading can be resolved");
	return whole;
}

/* The columns of the result; false: one scalar. */
static bool
result_source(const Function *f, OrionSource *source)
{
	memset(source, 0, sizeof(OrionSource));
	source->name = f->name;
	if (f->columns)
	{
		source->columns = palloc(f->nargs * sizeof(OrionColumn));
		for (int i = 0; i < f->nargs; i++)
			if (f->modes[i] != PROARGMODE_IN && f->modes[i] != PROARGMODE_VARIADIC)
				source->columns[source->ncolumns++] =
					(OrionColumn)
			{
				f->names ? f->names[i] : "", f->types[i], -1
			};
		return true;
	}
	source->relid = get_typ_typrelid(f->result);
	return OidIsValid(source->relid);
}

static void
begin_argument(OrionStatement *st, const Function *f, int i, bool first)
{
	if (!first)
		orion_statement_add(st, ", ");
	if (f->modes && f->modes[i] == PROARGMODE_VARIADIC)
		orion_statement_add(st, "VARIADIC ");
	orion_statement_name(st, f->names[i]);
	orion_statement_add(st, " => ");
}

/* "s"."f"("a" => r."a", ...) for JSON, "a" => $n for query arguments */
static void
add_call(OrionStatement *st, const OrionCall *call, const Function *f, List *given, const char *whole)
{
	ListCell   *lc;
	bool		first = true;

	orion_statement_add(st, f->quoted);
	orion_statement_add(st, "(");
	if (whole)
		orion_statement_input(st, f->types[0], whole);
	else if (!orion_call_reads(call))
		foreach(lc, given)
	{
		begin_argument(st, f, find_input(f, lfirst(lc)), foreach_current_index(lc) == 0);
		orion_statement_add(st, "r.");
		orion_statement_name(st, lfirst(lc));
	}
	else
		for (const OrionParam *p = call->query.params; p; p = p->next)
		{
			int			i = find_input(f, p->name);

			if (i < 0)
				continue;
			begin_argument(st, f, i, first);
			orion_statement_input(st, f->types[i], p->value);
			first = false;
		}
	orion_statement_add(st, ")");
}

/* json_to_record($1) AS r(name type, ...) */
static void
add_arguments(OrionStatement *st, const Function *f, const OrionBody *body)
{
	ListCell   *lc;

	orion_statement_add(st, "pg_catalog.json_to_record(");
	orion_statement_param(st, JSONOID, CStringGetTextDatum(body->text));
	orion_statement_add(st, ") AS r(");
	foreach(lc, body->keys)
	{
		if (foreach_current_index(lc) > 0)
			orion_statement_add(st, ", ");
		orion_statement_name(st, lfirst(lc));
		orion_statement_add(st, " ");
		orion_statement_add(st, orion_type_name(f->types[find_input(f, lfirst(lc))], -1));
	}
	orion_statement_add(st, ")");
}

typedef struct RpcCall
{
	OrionCall  *call;
	Function	f;
	OrionBody	body;
	List	   *given;			/* argument names */
	const char *whole;			/* the body, for a function of one unnamed
								 * json argument */
	bool		from_body;		/* arguments come as columns of r */
} RpcCall;

static void
add_from_record(OrionStatement *st, const RpcCall *rpc)
{
	if (!rpc->from_body)
		return;
	orion_statement_add(st, " FROM ");
	add_arguments(st, &rpc->f, &rpc->body);
}

/* The call itself, behind FROM; without its alias "t". */
static void
add_rows(OrionStatement *st, RpcCall *rpc)
{
	if (rpc->from_body)
	{
		add_arguments(st, &rpc->f, &rpc->body);
		orion_statement_add(st, ", LATERAL ");
	}
	add_call(st, rpc->call, &rpc->f, rpc->given, rpc->whole);
}

/* All of what is counted comes out of one call. */
static void
add_counted_rows(OrionStatement *st, RpcCall *rpc, const OrionRead *read)
{
	orion_statement_add(st, "WITH s AS MATERIALIZED (SELECT t.* FROM ");
	add_rows(st, rpc);
	orion_statement_add(st, " AS t) SELECT pg_catalog.count(*), ");
	orion_media_body(st, rpc->call);
	orion_statement_add(st, ", (SELECT pg_catalog.count(*) FROM (");
	orion_read_begin_count(st);
	orion_statement_add(st, "s");
	orion_read_end_count(st, read);
	orion_statement_add(st, ") AS c) FROM (");
	orion_read_begin(st, read);
	orion_statement_add(st, "s");
	orion_read_end(st, read);
	orion_statement_add(st, ") AS w");
}

/* Rows with columns: select, filters, order and limit apply. */
static void
call_rows(RpcCall *rpc, const OrionSource *source)
{
	OrionCall  *call = rpc->call;
	OrionRead  *read;
	OrionStatement st;
	bool		counted = rpc->f.set && call->prefer.count != ORION_COUNT_NONE;
	bool		one = call->one;

	if (!rpc->f.set)
	{
		call->query.has_limit = call->query.has_offset = false;
		call->one = call->media.format == ORION_FORMAT_JSON;
	}
	read = orion_read_make(call, source);
	orion_statement_init(&st);
	if (counted)
		add_counted_rows(&st, rpc, read);
	else
	{
		orion_statement_add(&st, "SELECT pg_catalog.count(*), ");
		orion_media_body(&st, call);
		orion_statement_add(&st, " FROM (");
		orion_read_begin(&st, read);
		add_rows(&st, rpc);
		orion_read_end(&st, read);
		orion_statement_add(&st, ") AS w");
	}
	call->one = one;
	if (call->media.plan)
	{
		orion_media_explain(call, &st);
		return;
	}
	orion_statement_run(&st, false);
	if (rpc->f.set)
		orion_result_page_of(call, counted ? orion_result_int(2, -1) : -1);
	else
		orion_result_body(call, 1, "null");
}

static void
call_scalar(RpcCall *rpc)
{
	OrionCall  *call = rpc->call;
	OrionStatement st;
	bool		rows = rpc->f.set;

	orion_statement_init(&st);
	orion_statement_add(&st, rows ? "SELECT pg_catalog.count(*), pg_catalog.json_agg(w.v)" :
						"SELECT 1::pg_catalog.int8, pg_catalog.to_json(w.v)");
	orion_statement_add(&st, " FROM (SELECT ");
	add_call(&st, call, &rpc->f, rpc->given, rpc->whole);
	orion_statement_add(&st, " AS v");
	add_from_record(&st, rpc);
	if (rows)
		orion_statement_limit(&st, &call->query);
	orion_statement_add(&st, ") AS w");
	if (call->media.plan)
	{
		orion_media_explain(call, &st);
		return;
	}
	orion_statement_run(&st, false);
	call->one = false;
	if (rows)
		orion_result_page_of(call, -1);
	else
		orion_result_body(call, 1, "null");
}

static void
call_void(RpcCall *rpc)
{
	OrionStatement st;

	orion_statement_init(&st);
	orion_statement_add(&st, "SELECT ");
	add_call(&st, rpc->call, &rpc->f, rpc->given, rpc->whole);
	add_from_record(&st, rpc);
	orion_statement_run(&st, false);
	rpc->call->response->status = 204;
}

static bool
is_argument(void *context, const char *name)
{
	return find_input(context, name) >= 0;
}

static void
read_arguments(RpcCall *rpc, const char *name)
{
	OrionCall  *call = rpc->call;
	bool		whole;

	if (orion_call_reads(call))
	{
		for (const OrionParam *p = call->query.params; p; p = p->next)
			if (!has_name(rpc->given, p->name))
				rpc->given = lappend(rpc->given, unconstify(char *, p->name));
			else
				orion_refuse(400, "PGRST100", psprintf("argument %s is given twice", p->name), NULL, NULL);
		find_function(call, name, rpc->given, false, &rpc->f);
		orion_call_filters(call, is_argument, &rpc->f);
		return;
	}
	rpc->whole = orion_body_json(call);
	if (rpc->whole && rpc->whole[strspn(rpc->whole, " \t\r\n")] != '{')
		rpc->body.text = NULL;	/* only a function of one json argument takes
								 * this */
	else
		orion_body_read(call, false, true, &rpc->body);
	rpc->given = rpc->body.keys;
	whole = find_function(call, name, rpc->given, true, &rpc->f);
	if (whole && rpc->whole == NULL)
		rpc->whole = "{}";
	else if (!whole)
	{
		if (rpc->body.text == NULL)
			orion_refuse(400, "PGRST102", "Empty or invalid json", "An object was expected.", NULL);
		rpc->whole = NULL;
	}
	rpc->from_body = rpc->given != NIL && !whole;
	orion_call_filters(call, NULL, NULL);
}

void
orion_rpc_serve(OrionCall *call, const char *name)
{
	RpcCall		rpc = {.call = call};
	OrionSource source;

	if (!orion_call_reads(call) && call->method != ORION_POST)
		orion_refuse(405, "PGRST101", psprintf("Cannot use the %s method on RPC", call->request->method),
					 NULL, NULL);
	read_arguments(&rpc, name);
	orion_call_enter(call, rpc.f.config);
	if (rpc.f.volatility != PROVOLATILE_VOLATILE)
		orion_session_read_only();
	if (rpc.f.result == VOIDOID)
		call_void(&rpc);
	else if (result_source(&rpc.f, &source))
		call_rows(&rpc, &source);
	else
		call_scalar(&rpc);
}

/* The methods of a function do not depend on which of its overloads would be called. */
void
orion_rpc_options(OrionCall *call, const char *name)
{
	Oid			namespace = get_namespace_oid(call->schema, true);
	CatCList   *list = SearchSysCacheList1(PROCNAMEARGSNSP, CStringGetDatum(name));
	char		volatility = '\0';

	for (int i = 0; i < list->n_members; i++)
	{
		Form_pg_proc proc = (Form_pg_proc) GETSTRUCT(&list->members[i]->tuple);

		if (proc->pronamespace == namespace && volatility == '\0')
			volatility = proc->provolatile;
	}
	ReleaseSysCacheList(list);
	if (volatility == '\0')
		refuse_function(call, name, NIL);
	orion_response_header(call->response, "Allow", volatility == PROVOLATILE_VOLATILE ?
						  "OPTIONS,POST" : "OPTIONS,GET,HEAD,POST");
}
