/*
 * statement.c
 *	  Builds a statement from the parse tree and the catalog, and runs it.
 *
 * Runs as the role of the request: input functions of types may be anybody's.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"
#include "parser/parse_type.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "core/compat.h"
#include "core/plan.h"
#include "rest/closed.h"
#include "rest/error.h"
#include "rest/session.h"
#include "rest/settings.h"
#include "rest/statement.h"

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

void
orion_statement_name(OrionStatement *st, const char *identifier)
{
	orion_append_name(&st->text, identifier);
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

	if (orion_type_is_open(type))
		orion_session_tell();
	getTypeInputInfo(type, &input, &param);
	orion_statement_param(st, type, OidInputFunctionCall(input, unconstify(char *, value), param, -1));
}

/* The name is parsed as a type and nothing else, then written anew. */
void
orion_statement_type(OrionStatement *st, const char *name)
{
	Oid			type;
	int32		typmod;

	orion_parse_type(name, &type, &typmod);
	orion_statement_add(st, orion_type_name(type, typmod));
}

void
orion_statement_run(OrionStatement *st, bool read_only)
{
	int			result;

	orion_session_tell();
	if (orion_rest_prepared_statements)
		result = SPI_execute_plan(orion_plan_get(st->text.data, st->text.len, st->nparams, st->types),
								  st->values, st->nulls, read_only, 0);
	else
		result = SPI_execute_with_args(st->text.data, st->nparams, st->types, st->values, st->nulls,
									   read_only, 0);
	if (result < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(result));
}
