/*
 * filter.c
 *	  WHERE and ORDER BY: filters, groups of them, JSON paths, text search.
 *
 * Runs as the role of the request: input functions of types may be anybody's.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "nodes/value.h"
#include "parser/parse_oper.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "rest/closed.h"
#include "rest/error.h"
#include "rest/keyset.h"
#include "rest/read.h"
#include "rest/session.h"

/* SQL of each operator, in the order of OrionOperator. */
static const char *const operator_sql[] = {
	[ORION_OP_EQ] = "=",
	[ORION_OP_NEQ] = "<>",
	[ORION_OP_GT] = ">",
	[ORION_OP_GTE] = ">=",
	[ORION_OP_LT] = "<",
	[ORION_OP_LTE] = "<=",
	[ORION_OP_LIKE] = "LIKE",
	[ORION_OP_ILIKE] = "ILIKE",
	[ORION_OP_MATCH] = "~",
	[ORION_OP_IMATCH] = "~*",
	[ORION_OP_CS] = "@>",
	[ORION_OP_CD] = "<@",
	[ORION_OP_OV] = "&&",
	[ORION_OP_SL] = "<<",
	[ORION_OP_SR] = ">>",
	[ORION_OP_NXR] = "&<",
	[ORION_OP_NXL] = "&>",
	[ORION_OP_ADJ] = "-|-",
	[ORION_OP_ISDISTINCT] = "IS DISTINCT FROM",
	[ORION_OP_IN] = "=",
	[ORION_OP_IS] = "IS",
	[ORION_OP_FTS] = "@@ pg_catalog.to_tsquery(",
	[ORION_OP_PLFTS] = "@@ pg_catalog.plainto_tsquery(",
	[ORION_OP_PHFTS] = "@@ pg_catalog.phraseto_tsquery(",
	[ORION_OP_WFTS] = "@@ pg_catalog.websearch_to_tsquery(",
};

static void
add_column(OrionStatement *st, const OrionRead *read, const char *column)
{
	orion_statement_add(st, read->alias);
	orion_statement_add(st, ".");
	orion_statement_name(st, column);
}

static Oid	operand_type(const char *operator, Oid left, Oid right);

static void
add_steps(OrionStatement *st, const OrionStep *step)
{
	for (; step; step = step->next)
	{
		/* text has no such operator; Postgres says it best */
		if (step->text &&step->next)
			(void) operand_type(step->next->text ? "->>" : "->", TEXTOID, step->next->index ? INT4OID : UNKNOWNOID);
		orion_statement_add(st, step->text ? " ->> " : " -> ");
		if (step->index)
			orion_statement_param(st, INT4OID, Int32GetDatum(step->number));
		else
			orion_statement_param(st, TEXTOID, CStringGetTextDatum(step->key));
	}
}

/* Paths into what is no JSON go through its JSON form: composites, arrays. */
Oid
orion_filter_field(OrionStatement *st, const OrionRead *read, const OrionName *name)
{
	OrionColumn column;
	const OrionStep *last = name->steps;
	Oid			type;

	orion_source_column(read->source, name->column, &column);
	if (last == NULL)
	{
		add_column(st, read, column.name);
		return column.type;
	}
	type = getBaseType(column.type);
	if (type != JSONOID && type != JSONBOID)
		orion_statement_add(st, "pg_catalog.to_jsonb(");
	else
		orion_statement_add(st, "(");
	add_column(st, read, column.name);
	orion_statement_add(st, ")");
	add_steps(st, name->steps);
	while (last->next)
		last = last->next;
	return last->text ? TEXTOID : type == JSONOID ? JSONOID : JSONBOID;
}

static bool
is_pattern(OrionOperator op)
{
	return op == ORION_OP_LIKE || op == ORION_OP_ILIKE || op == ORION_OP_MATCH || op == ORION_OP_IMATCH;
}

/* Of these types a value of the same type stands on the other side, or text as a pattern; of others Postgres is asked. */
static bool
is_plain(OrionOperator op, Oid type)
{
	if (is_pattern(op))
		return type == TEXTOID || type == VARCHAROID || type == BPCHAROID || type == NAMEOID;
	return type < FirstNormalObjectId && type != CIDROID && type != JSONOID && type != XMLOID;
}

/*
 * What stands on the other side of an operator: an untyped literal, and Postgres
 * decides of which type it is, or says that there is no such operator.
 */
static Oid
operand_type(const char *operator, Oid left, Oid right)
{
	Operator	found = oper(NULL, list_make1(makeString(pstrdup(operator))), left, right, false, -1);

	right = ((Form_pg_operator) GETSTRUCT(found))->oprright;

	ReleaseSysCache(found);
	return IsPolymorphicType(right) || right == RECORDOID ? getBaseType(left) : getBaseType(right);
}

/* The operators by name: =, @>, ~~ for LIKE; NULL for what is none. */
static const char *
operator_name(OrionOperator op)
{
	switch (op)
	{
		case ORION_OP_LIKE:
			return "~~";
		case ORION_OP_ILIKE:
			return "~~*";
		case ORION_OP_IS:
			return NULL;
		case ORION_OP_ISDISTINCT:
			return "=";
		default:
			return operator_sql[op];
	}
}

static Oid
array_of(Oid type)
{
	Oid			array = get_array_type(type);

	if (!OidIsValid(array))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("could not find array type for data type %s", format_type_be(type))));
	return array;
}

/* in.(...): one array, so that the plan is the same for any number of values */
static void
add_list(OrionStatement *st, const OrionFilter *filter, Oid type)
{
	Datum	   *values = palloc(Max(filter->nvalues, 1) * sizeof(Datum));
	Oid			input;
	Oid			param;
	FmgrInfo	function;
	int16		len;
	bool		byval;
	char		align;

	if (orion_type_is_open(type))
		orion_session_tell();
	getTypeInputInfo(type, &input, &param);
	fmgr_info(input, &function);
	get_typlenbyvalalign(type, &len, &byval, &align);
	for (int i = 0; i < filter->nvalues; i++)
		values[i] = InputFunctionCall(&function, unconstify(char *, filter->values[i]), param, -1);
	orion_statement_add(st, "ANY (");
	orion_statement_param(st, array_of(type),
						  PointerGetDatum(construct_array(values, filter->nvalues, type, len, byval, align)));
	orion_statement_add(st, ")");
}

/* A value, or values, in the form that the column's domain has in an API. */
static void
add_represented(OrionStatement *st, const OrionFilter *filter, const char *function)
{
	bool		list = filter->op == ORION_OP_IN;

	orion_statement_add(st, list ? "ANY (ARRAY[" : "");
	for (int i = 0; i < (list ? filter->nvalues : 1); i++)
	{
		orion_statement_add(st, i > 0 ? ", " : "");
		orion_statement_add(st, function);
		orion_statement_add(st, "(");
		orion_statement_param(st, TEXTOID, CStringGetTextDatum(list ? filter->values[i] : filter->value));
		orion_statement_add(st, ")");
	}
	orion_statement_add(st, list ? "])" : "");
}

/* The function that reads values for such a column; NULL: the type's own input does. */
static const char *
representation(const OrionFilter *filter, Oid type)
{
	switch (filter->op)
	{
		case ORION_OP_IS:
		case ORION_OP_LIKE:
		case ORION_OP_ILIKE:
		case ORION_OP_MATCH:
		case ORION_OP_IMATCH:
			return NULL;
		case ORION_OP_IN:
			if (filter->nvalues == 0)
				return NULL;
			break;
		default:
			break;
	}
	return filter->quantifier == ORION_QUANTIFIER_NONE ? orion_type_cast_function(TEXTOID, type) : NULL;
}

static void
add_is(OrionStatement *st, const char *word)
{
	orion_statement_add(st, strcmp(word, "not_null") == 0 ? "NOT NULL" :
						strcmp(word, "null") == 0 ? "NULL" :
						strcmp(word, "true") == 0 ? "TRUE" :
						strcmp(word, "false") == 0 ? "FALSE" : "UNKNOWN");
}

/* Is there a row of the child? (a row of nothing but nulls is one as well) */
static void
add_child_test(OrionStatement *st, const OrionRead *child, const OrionFilter *filter)
{
	bool		null = filter->value && strcmp(filter->value, "null") == 0;
	bool		counts = child->parent->counting && orion_read_by_exists(child);

	if (filter->op != ORION_OP_IS || !(null || strcmp(filter->value, "not_null") == 0))
		orion_refuse(400, "PGRST120", psprintf("Bad operator on the '%s' embedded resource", filter->name.column),
					 "Only is null or not is null filters are allowed on embedded resources", NULL);
	/* a NOT of its own would keep the planner from making a join of it */
	if (filter->negated)
		null = !null;
	orion_statement_add(st, !counts ? child->lateral : null ? "NOT " : "");
	if (counts)
		orion_read_exists(st, child);
	else if (child->link->to_one)
		orion_statement_add(st, null ? " IS NOT DISTINCT FROM NULL" : " IS DISTINCT FROM NULL");
	else
		orion_statement_add(st, null ? ".n = 0" : ".n > 0");
}

/* column @@ to_tsquery('config', value); text and json become a tsvector first */
static void
add_search(OrionStatement *st, const OrionRead *read, const OrionFilter *filter)
{
	OrionStatement probe;
	Oid			config = filter->config ?
	DatumGetObjectId(DirectFunctionCall1(regconfigin, CStringGetDatum(filter->config))) : InvalidOid;
	Oid			type;

	orion_statement_init(&probe);
	type = getBaseType(orion_filter_field(&probe, read, &filter->name));
	if (type != TSVECTOROID)
	{
		orion_statement_add(st, "to_tsvector(");
		if (OidIsValid(config))
		{
			orion_statement_param(st, REGCONFIGOID, ObjectIdGetDatum(config));
			orion_statement_add(st, ", ");
		}
	}
	orion_filter_field(st, read, &filter->name);
	orion_statement_add(st, type == TSVECTOROID ? " " : ") ");
	orion_statement_add(st, operator_sql[filter->op]);
	if (OidIsValid(config))
	{
		orion_statement_param(st, REGCONFIGOID, ObjectIdGetDatum(config));
		orion_statement_add(st, ", ");
	}
	orion_statement_param(st, TEXTOID, CStringGetTextDatum(filter->value));
	orion_statement_add(st, ")");
}

/* The embedded relation that is tested; one may go by the name of its column. */
static OrionRead *
tested_child(const OrionRead *read, const OrionFilter *filter)
{
	OrionRead  *child = filter->name.steps ? NULL : orion_read_named(read, filter->name.column);
	OrionColumn column;

	if (child && filter->op != ORION_OP_IS && orion_source_find_column(read->source, filter->name.column, &column))
		return NULL;
	return child;
}

static void
add_test(OrionStatement *st, const OrionRead *read, const OrionFilter *filter)
{
	const char *function;
	Oid			type;

	if (filter->op >= ORION_OP_FTS)
	{
		add_search(st, read, filter);
		return;
	}
	type = orion_filter_field(st, read, &filter->name);
	function = representation(filter, type);
	if (function == NULL && operator_name(filter->op) && !is_plain(filter->op, type))
		type = operand_type(operator_name(filter->op), type, UNKNOWNOID);
	else
		type = is_pattern(filter->op) ? TEXTOID : getBaseType(type);
	orion_statement_add(st, " ");
	orion_statement_add(st, operator_sql[filter->op]);
	orion_statement_add(st, " ");
	if (function)
		add_represented(st, filter, function);
	else if (filter->op == ORION_OP_IS)
		add_is(st, filter->value);
	else if (filter->op == ORION_OP_IN)
		add_list(st, filter, type);
	else if (filter->quantifier == ORION_QUANTIFIER_NONE)
		orion_statement_input(st, type, filter->value);
	else
	{
		orion_statement_add(st, filter->quantifier == ORION_QUANTIFIER_ANY ? "ANY (" : "ALL (");
		orion_statement_input(st, array_of(type), filter->value);
		orion_statement_add(st, ")");
	}
}

static void
add_filter(OrionStatement *st, const OrionRead *read, const OrionFilter *filter)
{
	const char *joint = "";
	OrionRead  *child = filter->kind == ORION_FILTER_TEST ? tested_child(read, filter) : NULL;

	if (child)
	{
		add_child_test(st, child, filter);
		return;
	}
	if (filter->negated)
		orion_statement_add(st, "NOT ");
	if (filter->kind == ORION_FILTER_TEST && !filter->negated)
	{
		add_test(st, read, filter);
		return;
	}
	orion_statement_add(st, "(");
	if (filter->kind == ORION_FILTER_TEST)
		add_test(st, read, filter);
	for (const OrionFilter *member = filter->first; member; member = member->next)
	{
		orion_statement_add(st, joint);
		add_filter(st, read, member);
		joint = filter->kind == ORION_FILTER_AND ? " AND " : " OR ";
	}
	orion_statement_add(st, ")");
}

/* alias."column" = other."column" AND ... */
static void
add_pairs(OrionStatement *st, int n, const char *left, const char *const *left_columns,
		  const char *right, const char *const *right_columns, const char **joint)
{
	for (int i = 0; i < n; i++)
	{
		orion_statement_add(st, *joint);
		orion_statement_add(st, left);
		orion_statement_add(st, ".");
		orion_statement_name(st, left_columns[i]);
		orion_statement_add(st, " = ");
		orion_statement_add(st, right);
		orion_statement_add(st, ".");
		orion_statement_name(st, right_columns[i]);
		*joint = " AND ";
	}
}

void
orion_filter_where(OrionStatement *st, const OrionRead *read)
{
	const OrionRelationship *link = read->link;
	const char *joint = " WHERE ";
	ListCell   *lc;

	if (link && !link->function && OidIsValid(link->junction))
	{
		const char *junction = psprintf("j%s", read->alias);

		add_pairs(st, link->n, junction, link->far, read->parent->alias, link->near, &joint);
		add_pairs(st, link->m, junction, link->junction_columns, read->alias, link->target_columns, &joint);
	}
	else if (link && !link->function)
		add_pairs(st, link->n, read->alias, link->far, read->parent->alias, link->near, &joint);
	foreach(lc, read->filters)
	{
		for (const OrionFilter *filter = lfirst(lc); filter; filter = filter->next)
		{
			orion_statement_add(st, joint);
			add_filter(st, read, filter);
			joint = " AND ";
		}
	}
	for (const OrionRead *child = read->counting ? read->first : NULL; child; child = child->next)
	{
		if (!child->inner || !orion_read_by_exists(child))
			continue;
		orion_statement_add(st, joint);
		orion_read_exists(st, child);
		joint = " AND ";
	}
	if (read->keyset)
		orion_keyset_where(st, read, joint);
}

static void
add_related(OrionStatement *st, const OrionRead *read, const OrionOrder *order)
{
	OrionRead  *child = orion_read_named(read, order->name.embed);
	int			position = order->name.steps ? -1 : orion_read_position(child, order->name.column);
	const char *shown = orion_read_shown(child, &order->name);
	ListCell   *lc;

	if (shown)
	{
		orion_statement_add(st, child->lateral);
		orion_statement_add(st, ".");
		orion_statement_name(st, shown);
		return;
	}

	if (position >= 0)
	{
		orion_statement_add(st, psprintf("%s.c%d", child->lateral, position));
		return;
	}
	foreach(lc, child->hidden)
		if (lfirst(lc) == order)
	{
		orion_statement_add(st, psprintf("%s.o%d", child->lateral, foreach_current_index(lc)));
		return;
	}
	elog(ERROR, "an order has no column");
}

void
orion_filter_order(OrionStatement *st, const OrionRead *read)
{
	const char *joint = " ORDER BY ";

	for (const OrionOrder *order = read->order; order; order = order->next)
	{
		orion_statement_add(st, joint);
		if (order->name.embed)
			add_related(st, read, order);
		else
			orion_filter_field(st, read, &order->name);
		orion_statement_add(st, order->descending ? " DESC" : "");
		if (order->nulls != ORION_NULLS_DEFAULT)
			orion_statement_add(st, order->nulls == ORION_NULLS_FIRST ? " NULLS FIRST" : " NULLS LAST");
		joint = ", ";
	}
}
