/*
 * statement.c
 *	  Builds a statement from the parse tree and the catalog, and runs it.
 *
 * Runs as the role of the request: input functions of types may be anybody's.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "parser/parse_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "core/compat.h"
#include "core/plan.h"
#include "rest/error.h"
#include "rest/settings.h"
#include "rest/statement.h"

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
};

void
orion_statement_init(OrionStatement *st)
{
	initStringInfo(&st->text);
	st->nparams = 0;
	st->room = 8;
	st->types = palloc(st->room * sizeof(Oid));
	st->values = palloc(st->room * sizeof(Datum));
	st->nulls = palloc(st->room);
}

void
orion_statement_add(OrionStatement *st, const char *constant)
{
	appendStringInfoString(&st->text, constant);
}

/* Always quoted: a name is never mistaken for a key word or a function. */
void
orion_statement_name(OrionStatement *st, const char *identifier)
{
	appendStringInfoChar(&st->text, '"');
	for (const char *c = identifier; *c; c++)
	{
		if (*c == '"')
			appendStringInfoChar(&st->text, '"');
		appendStringInfoChar(&st->text, *c);
	}
	appendStringInfoChar(&st->text, '"');
}

void
orion_statement_param(OrionStatement *st, Oid type, Datum value)
{
	char		number[16] = "$";

	if (st->nparams == st->room)
	{
		st->room *= 2;
		st->types = repalloc(st->types, st->room * sizeof(Oid));
		st->values = repalloc(st->values, st->room * sizeof(Datum));
		st->nulls = repalloc(st->nulls, st->room);
	}
	st->types[st->nparams] = type;
	st->values[st->nparams] = value;
	st->nulls[st->nparams] = ' ';
	pg_ltoa(++st->nparams, number + 1);
	appendStringInfoString(&st->text, number);
}

void
orion_statement_input(OrionStatement *st, Oid type, const char *value)
{
	Oid			input;
	Oid			param;

	getTypeInputInfo(type, &input, &param);
	orion_statement_param(st, type, OidInputFunctionCall(input, unconstify(char *, value), param, -1));
}

static void
add_column(OrionStatement *st, const char *column)
{
	orion_statement_add(st, "t.");
	orion_statement_name(st, column);
}

/* The type a filter's value is read as. */
static Oid
value_type(const OrionFilter *filter, Oid column)
{
	Oid			base = getBaseType(column);

	switch (filter->op)
	{
		case ORION_OP_LIKE:
		case ORION_OP_ILIKE:
		case ORION_OP_MATCH:
		case ORION_OP_IMATCH:
			/* a text type of an extension (citext) has operators of its own */
			return base < FirstNormalObjectId ? TEXTOID : base;
		default:
			return base;
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

static void
add_is(OrionStatement *st, const char *word)
{
	orion_statement_add(st, strcmp(word, "not_null") == 0 ? "NOT NULL" :
						strcmp(word, "null") == 0 ? "NULL" :
						strcmp(word, "true") == 0 ? "TRUE" :
						strcmp(word, "false") == 0 ? "FALSE" : "UNKNOWN");
}

static void
add_test(OrionStatement *st, const OrionSource *source, const OrionFilter *filter)
{
	OrionColumn column;
	Oid			type;

	if (filter->name.embed)
		orion_refuse(400, "PGRST108",
					 psprintf("'%s' is not an embedded resource in this request", filter->name.embed),
					 NULL, NULL);
	orion_source_column(source, filter->name.column, &column);
	add_column(st, column.name);
	orion_statement_add(st, " ");
	orion_statement_add(st, operator_sql[filter->op]);
	orion_statement_add(st, " ");
	type = value_type(filter, column.type);
	if (filter->op == ORION_OP_IS)
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
add_filter(OrionStatement *st, const OrionSource *source, const OrionFilter *filter)
{
	const char *joint = "";

	if (filter->negated)
		orion_statement_add(st, "NOT ");
	if (filter->kind == ORION_FILTER_TEST && !filter->negated)
	{
		add_test(st, source, filter);
		return;
	}
	orion_statement_add(st, "(");
	if (filter->kind == ORION_FILTER_TEST)
		add_test(st, source, filter);
	for (const OrionFilter *member = filter->first; member; member = member->next)
	{
		orion_statement_add(st, joint);
		add_filter(st, source, member);
		joint = filter->kind == ORION_FILTER_AND ? " AND " : " OR ";
	}
	orion_statement_add(st, ")");
}

void
orion_statement_where(OrionStatement *st, const OrionSource *source, const OrionFilter *filters)
{
	const char *joint = " WHERE ";

	for (; filters; filters = filters->next)
	{
		orion_statement_add(st, joint);
		add_filter(st, source, filters);
		joint = " AND ";
	}
}

/* The name is parsed as a type and nothing else, then written anew. */
static char *
cast_type(const char *name)
{
	Oid			type;
	int32		typmod;

	orion_parse_type(name, &type, &typmod);
	return orion_type_name(type, typmod);
}

static void
add_item(OrionStatement *st, const OrionSource *source, const OrionSelect *item)
{
	OrionColumn column;

	if (item->embed)
		orion_refuse(400, "PGRST200",
					 psprintf("Could not find a relationship between '%s' and '%s' in the schema cache",
							  source->name, item->name), NULL, NULL);
	if (strcmp(item->name, "*") == 0)
	{
		orion_statement_add(st, "t.*");
		return;
	}
	orion_source_column(source, item->name, &column);
	if (item->cast)
	{
		orion_statement_add(st, "CAST (");
		add_column(st, column.name);
		orion_statement_add(st, " AS ");
		orion_statement_add(st, cast_type(item->cast));
		orion_statement_add(st, ")");
	}
	else
		add_column(st, column.name);
	if (item->alias || item->cast)
	{
		orion_statement_add(st, " AS ");
		orion_statement_name(st, item->alias ? item->alias : column.name);
	}
}

void
orion_statement_select(OrionStatement *st, const OrionSource *source, const OrionSelect *select)
{
	const char *joint = " ";

	if (select == NULL)
		orion_statement_add(st, " t.*");
	for (; select; select = select->next)
	{
		orion_statement_add(st, joint);
		add_item(st, source, select);
		joint = ", ";
	}
}

void
orion_statement_order(OrionStatement *st, const OrionSource *source, const OrionOrder *order)
{
	const char *joint = " ORDER BY ";

	for (; order; order = order->next)
	{
		OrionColumn column;

		orion_source_column(source, order->name.column, &column);
		orion_statement_add(st, joint);
		add_column(st, column.name);
		orion_statement_add(st, order->descending ? " DESC" : "");
		if (order->nulls != ORION_NULLS_DEFAULT)
			orion_statement_add(st, order->nulls == ORION_NULLS_FIRST ? " NULLS FIRST" : " NULLS LAST");
		joint = ", ";
	}
}

void
orion_statement_limit(OrionStatement *st, const OrionQuery *query)
{
	int64		limit = query->has_limit ? query->limit : PG_INT64_MAX;

	if (orion_rest_max_rows >= 0)
		limit = Min(limit, orion_rest_max_rows);
	if (limit != PG_INT64_MAX)
	{
		orion_statement_add(st, " LIMIT ");
		orion_statement_param(st, INT8OID, Int64GetDatum(limit));
	}
	if (query->has_offset)
	{
		orion_statement_add(st, " OFFSET ");
		orion_statement_param(st, INT8OID, Int64GetDatum(query->offset));
	}
}

void
orion_statement_run(OrionStatement *st, bool read_only)
{
	int			result;

	if (orion_rest_prepared_statements)
		result = SPI_execute_plan(orion_plan_get(st->text.data, st->text.len, st->nparams, st->types),
								  st->values, st->nulls, read_only, 0);
	else
		result = SPI_execute_with_args(st->text.data, st->nparams, st->types, st->values, st->nulls,
									   read_only, 0);
	if (result < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(result));
}
