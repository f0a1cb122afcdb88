/*
 * function.c
 *	  Finds the function that a request calls, by its name and those of the arguments.
 *
 * Looks into the syscache only.  Whether the role may execute it Postgres decides
 * when it is called; hints name only what the role may execute.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "core/compat.h"
#include "rest/error.h"
#include "rest/function.h"
#include "rest/hint.h"

static bool
is_input(const OrionFunction *f, int i)
{
	return f->modes == NULL || f->modes[i] == PROARGMODE_IN ||
		f->modes[i] == PROARGMODE_INOUT || f->modes[i] == PROARGMODE_VARIADIC;
}

int
orion_function_argument(const OrionFunction *f, const char *name)
{
	for (int i = 0; i < f->nargs && f->names; i++)
		if (is_input(f, i) && f->names[i] && f->names[i][0] && strcmp(f->names[i], name) == 0)
			return i;
	return -1;
}

bool
orion_function_is_variadic(const OrionFunction *f, int argument)
{
	return f->modes && f->modes[argument] == PROARGMODE_VARIADIC;
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

/* Every argument without a default is given, and nothing else. */
static bool
accepts(const OrionFunction *f, List *given)
{
	ListCell   *lc;
	int			required = f->ninputs - f->ndefaults;
	int			input = 0;

	for (int i = 0; i < f->nargs; i++)
	{
		if (!is_input(f, i))
			continue;
		if (input++ < required &&
			(f->names == NULL || f->names[i] == NULL || !has_name(given, f->names[i])))
			return false;
	}
	foreach(lc, given)
		if (orion_function_argument(f, lfirst(lc)) < 0)
		return false;
	return true;
}

/* Takes over what a call needs; false for what is no function to call. */
static bool
read_function(HeapTuple tuple, OrionFunction *f)
{
	Form_pg_proc proc = (Form_pg_proc) GETSTRUCT(tuple);
	Datum		config;
	bool		isnull;

	if (proc->prokind != PROKIND_FUNCTION || proc->prorettype == TRIGGEROID ||
		proc->prorettype == EVENT_TRIGGEROID || proc->prorettype == INTERNALOID)
		return false;
	memset(f, 0, sizeof(OrionFunction));
	f->oid = proc->oid;
	f->nargs = get_func_arg_info(tuple, &f->types, &f->names, &f->modes);
	f->name = pstrdup(NameStr(proc->proname));
	f->schema = get_namespace_name(proc->pronamespace);
	f->quoted = quote_qualified_identifier(f->schema, f->name);
	f->ninputs = proc->pronargs;
	f->ndefaults = proc->pronargdefaults;
	f->result = getBaseType(proc->prorettype) != proc->prorettype && get_typ_typrelid(getBaseType(proc->prorettype)) ?
		getBaseType(proc->prorettype) : proc->prorettype;
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
takes_whole(const OrionFunction *f, OrionWhole whole)
{
	if (f->ninputs != 1 || f->nargs < 1 || !is_input(f, 0) || (f->names && f->names[0][0] != '\0'))
		return false;
	switch (whole)
	{
		case ORION_WHOLE_JSON:
			return f->types[0] == JSONOID || f->types[0] == JSONBOID;
		case ORION_WHOLE_TEXT:
			return f->types[0] == TEXTOID;
		case ORION_WHOLE_XML:
			return f->types[0] == XMLOID;
		case ORION_WHOLE_BYTEA:
			return f->types[0] == BYTEAOID;
		case ORION_WHOLE_NONE:
			break;
	}
	return false;
}

static bool
takes_any_whole(const OrionFunction *f)
{
	return takes_whole(f, ORION_WHOLE_JSON) || takes_whole(f, ORION_WHOLE_TEXT) ||
		takes_whole(f, ORION_WHOLE_XML) || takes_whole(f, ORION_WHOLE_BYTEA);
}

/* The only key of the JSON is "", as generated clients write an argument without a name: to PostgREST its name. */
static bool
names_the_unnamed(const OrionFunction *f, List *given, OrionWhole whole)
{
	return whole == ORION_WHOLE_JSON && list_length(given) == 1 && ((char *) linitial(given))[0] == '\0' &&
		takes_any_whole(f);
}

static char *signature(const OrionFunction *f, bool typed);

/* Those with fewer arguments first, then by their names and types. */
static int
by_arguments(const ListCell *a, const ListCell *b)
{
	const OrionFunction *x = lfirst(a);
	const OrionFunction *y = lfirst(b);

	return x->ninputs != y->ninputs ? x->ninputs - y->ninputs : strcmp(signature(x, true), signature(y, true));
}

/* All functions (OrionFunction *) of the name in the schema. */
static List *
functions(Oid namespace, const char *name)
{
	CatCList   *members = SearchSysCacheList1(PROCNAMEARGSNSP, CStringGetDatum(name));
	List	   *list = NIL;

	for (int i = 0; i < members->n_members; i++)
	{
		HeapTuple	tuple = &members->members[i]->tuple;
		OrionFunction f;

		if (((Form_pg_proc) GETSTRUCT(tuple))->pronamespace == namespace && read_function(tuple, &f))
		{
			list = lappend(list, palloc(sizeof(OrionFunction)));
			*(OrionFunction *) llast(list) = f;
		}
	}
	ReleaseSysCacheList(members);
	if (list_length(list) > 1)
		list_sort(list, by_arguments);
	return list;
}

/* Has it an input without a name?  PostgREST then takes it for a function of the whole body or for none. */
static bool
has_unnamed(const OrionFunction *f)
{
	for (int i = 0; i < f->nargs; i++)
		if (is_input(f, i) && (f->names == NULL || f->names[i] == NULL || f->names[i][0] == '\0'))
			return true;
	return false;
}

/* Those that take the arguments by name.  One that only its defaults make callable stands back behind others. */
static List *
fitting(List *all, List *given, OrionWhole whole)
{
	List	   *fit = NIL;
	List	   *last = NIL;
	ListCell   *lc;

	foreach(lc, all)
	{
		OrionFunction *f = lfirst(lc);

		if (names_the_unnamed(f, given, whole))
			fit = lappend(fit, f);
		else if (accepts(f, given) && has_unnamed(f) && !takes_any_whole(f))
			last = lappend(last, f);
		else if (accepts(f, given))
			fit = lappend(fit, f);
	}
	return fit != NIL ? fit : last;
}

static List *
taking_whole(List *all, OrionWhole whole)
{
	List	   *fit = NIL;
	ListCell   *lc;

	foreach(lc, all)
		if (takes_whole(lfirst(lc), whole))
		fit = lappend(fit, lfirst(lc));
	return fit;
}

static char *
join_names(List *names)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	foreach(lc, names)
		appendStringInfo(&text, "%s%s", foreach_current_index(lc) > 0 ? ", " : "", (char *) lfirst(lc));
	return text.data;
}

/* With its schema, unless it is one of PostgreSQL's own. */
static char *
type_name(Oid type)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	Oid			namespace = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		namespace = ((Form_pg_type) GETSTRUCT(tuple))->typnamespace;
		ReleaseSysCache(tuple);
	}
	return namespace == PG_CATALOG_NAMESPACE ? format_type_be(type) : format_type_be_qualified(type);
}

/* The names of the input arguments; typed: as "name => type" */
static char *
signature(const OrionFunction *f, bool typed)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < f->nargs; i++)
	{
		if (!is_input(f, i))
			continue;
		appendStringInfo(&text, "%s%s", text.len > 0 ? ", " : "", f->names ? f->names[i] : "");
		if (typed)
			appendStringInfo(&text, " => %s", type_name(f->types[i]));
	}
	return text.data;
}

static int
by_name(const ListCell *a, const ListCell *b)
{
	return strcmp(lfirst(a), lfirst(b));
}

/* "(a, b)" in order, however they are declared or given */
static char *
in_order(List *names)
{
	names = list_copy(names);
	list_sort(names, by_name);
	return psprintf("(%s)", join_names(names));
}

static List *
input_names(const OrionFunction *f)
{
	List	   *names = NIL;

	for (int i = 0; i < f->nargs; i++)
		if (is_input(f, i))
			names = lappend(names, f->names ? f->names[i] : "");
	return names;
}

/* The overload whose arguments are most like those given, of those the role may execute; or another function. */
static const char *
hint_for(const char *schema, const char *name, List *all, List *given)
{
	List	   *candidates = NIL;
	const char *best;
	ListCell   *lc;

	foreach(lc, all)
	{
		const OrionFunction *f = lfirst(lc);

		if (orion_acl_function(f->oid, GetUserId()) == ACLCHECK_OK)
			candidates = lappend(candidates, in_order(input_names(f)));
	}
	if (all == NIL)
		return orion_hint_function(schema, name);
	best = orion_hint_best(candidates, in_order(given), ORION_HINT_ARGUMENTS);
	return best ? psprintf("Perhaps you meant to call the function %s.%s%s", schema, name, best) : NULL;
}

static void
refuse_none(OrionCall *call, const char *name, List *all, List *given, bool named, OrionWhole whole)
{
	static const char *const types[] = {
		[ORION_WHOLE_NONE] = NULL,
		[ORION_WHOLE_JSON] = "json/jsonb",
		[ORION_WHOLE_TEXT] = "text",
		[ORION_WHOLE_XML] = "xml",
		[ORION_WHOLE_BYTEA] = "bytea",
	};
	char	   *full = psprintf("%s.%s", call->schema, name);
	char	   *what;

	given = list_copy(given);
	list_sort(given, by_name);
	what = !named ? psprintf("with a single unnamed %s parameter", types[whole]) :
		psprintf("%s%s", given == NIL ? "without parameters" :
				 psprintf("with parameter%s %s", list_length(given) > 1 ? "s" : "", join_names(given)),
				 whole == ORION_WHOLE_JSON ? " or with a single unnamed json/jsonb parameter" : "");

	orion_refuse(404, "PGRST202",
				 !named ? psprintf("Could not find the function %s in the schema cache", full) :
				 given == NIL ? psprintf("Could not find the function %s without parameters in the schema cache", full) :
				 psprintf("Could not find the function %s(%s) in the schema cache", full, join_names(given)),
				 psprintf("Searched for the function %s %s, but no matches were found in the schema cache.", full, what),
				 named ? hint_for(call->schema, name, all, given) : NULL);
}

static void
refuse_many(List *fit)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	appendStringInfoString(&text, "Could not choose the best candidate function between: ");
	foreach(lc, fit)
	{
		const OrionFunction *f = lfirst(lc);

		appendStringInfo(&text, "%s%s.%s(%s)", foreach_current_index(lc) > 0 ? ", " : "",
						 f->schema, f->name, signature(f, true));
	}
	orion_refuse(300, "PGRST203", text.data, NULL,
				 "Try renaming the parameters or the function itself in the database so function overloading can be resolved");
}

/* All functions that may be meant by the name: of the schema, or else Orion's own. */
static List *
candidates_of(const OrionCall *call, const char *name)
{
	Oid			namespace = get_namespace_oid(call->schema, true);
	List	   *all = NIL;

	if (strlen(name) < NAMEDATALEN && OidIsValid(namespace))
		all = functions(namespace, name);
	if (all == NIL && strncmp(name, "orion_", 6) == 0 && strlen(name) < NAMEDATALEN &&
		OidIsValid(orion_relation_extension_schema()))
		all = functions(orion_relation_extension_schema(), name);
	return all;
}

/* Those with arguments, all of which may be left out: what the body says is nothing to them. */
static List *
needing_nothing(List *all)
{
	List	   *fit = NIL;
	ListCell   *lc;

	foreach(lc, all)
	{
		const OrionFunction *f = lfirst(lc);

		if (f->ninputs > 0 && accepts(f, NIL))
			fit = lappend(fit, lfirst(lc));
	}
	return fit;
}

bool
orion_function_find(OrionCall *call, const char *name, List *given, bool named,
					OrionWhole whole, OrionFunction *f)
{
	List	   *all = candidates_of(call, name);
	List	   *fit = named ? fitting(all, given, whole) : NIL;
	bool		is_whole = false;

	if (fit == NIL)
	{
		fit = taking_whole(all, whole);
		is_whole = fit != NIL;
	}
	else
		is_whole = names_the_unnamed(linitial(fit), given, whole);
	if (fit == NIL && !named)
		fit = needing_nothing(all);
	if (fit == NIL)
		refuse_none(call, name, all, given, named, whole);
	if (list_length(fit) > 1)
		refuse_many(fit);
	*f = *(OrionFunction *) linitial(fit);
	return is_whole;
}

bool
orion_function_is_safe(OrionCall *call, const char *name, List *given)
{
	List	   *all = candidates_of(call, name);
	List	   *fit = fitting(all, given, ORION_WHOLE_NONE);
	ListCell   *lc;

	if (list_length(fit) > 1)
		refuse_many(fit);
	if (fit == NIL && given == NIL)
		fit = all;
	if (fit == NIL)
		refuse_none(call, name, all, given, true, ORION_WHOLE_NONE);
	foreach(lc, fit)
		if (((OrionFunction *) lfirst(lc))->volatility != PROVOLATILE_VOLATILE)
		return true;
	return false;
}

bool
orion_function_source(const OrionFunction *f, OrionSource *source)
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
	if (!OidIsValid(source->relid))
		return false;
	source->name = get_rel_name(source->relid);
	source->relkind = get_rel_relkind(source->relid);
	return true;
}
