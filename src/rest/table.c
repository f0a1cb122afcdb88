/*
 * table.c
 *	  Requests on a table or view; GET and HEAD themselves.
 *
 * Reading is one statement that ends in one row: the number of rows, the body as
 * json, and what headers need.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "nodes/nodes.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"

#include "rest/response.h"
#include "rest/result.h"
#include "rest/read.h"

static void
read_rows(OrionCall *call, const OrionSource *source)
{
	OrionStatement st;
	OrionRead  *read = orion_read_make(call, source);

	orion_statement_init(&st);
	orion_statement_add(&st, call->one ?
						"SELECT pg_catalog.count(*), pg_catalog.json_agg(w.*) OPERATOR(pg_catalog.->) 0" :
						"SELECT pg_catalog.count(*), pg_catalog.json_agg(w.*)");
	if (call->prefer.count == ORION_COUNT_EXACT)
	{
		orion_statement_add(&st, ", (SELECT pg_catalog.count(*) FROM (");
		orion_read_begin_count(&st);
		orion_statement_add(&st, source->quoted);
		orion_read_end_count(&st, read);
		orion_statement_add(&st, ") AS c)");
	}
	orion_statement_add(&st, " FROM (");
	orion_read_begin(&st, read);
	orion_statement_add(&st, source->quoted);
	orion_read_end(&st, read);
	orion_statement_add(&st, ") AS w");
	orion_statement_run(&st, true);
	orion_result_page(call);
}

void
orion_table_serve(OrionCall *call, const char *name)
{
	OrionSource source;

	orion_relation_find(call->schema, name, &source);
	orion_call_enter(call, NULL);
	if (!orion_call_reads(call))
	{
		orion_write_serve(call, &source);
		return;
	}
	orion_call_filters(call, NULL, NULL);
	read_rows(call, &source);
}

/* The commands (bits 1 << CmdType) that the relation takes, by itself, rules or triggers. */
static bool
takes(int commands, CmdType command)
{
	return (commands & (1 << command)) != 0;
}

void
orion_table_options(OrionCall *call, const char *name)
{
	OrionSource source;
	StringInfoData allow;
	int			commands;

	orion_relation_find(call->schema, name, &source);
	commands = relation_is_updatable(source.relid, NIL, true, NULL);
	initStringInfo(&allow);
	appendStringInfoString(&allow, "OPTIONS,GET,HEAD");
	if (takes(commands, CMD_INSERT))
		appendStringInfoString(&allow, ",POST");
	if (takes(commands, CMD_INSERT) && takes(commands, CMD_UPDATE) &&
		orion_relation_primary_key(source.relid) != NIL)
		appendStringInfoString(&allow, ",PUT");
	if (takes(commands, CMD_UPDATE))
		appendStringInfoString(&allow, ",PATCH");
	if (takes(commands, CMD_DELETE))
		appendStringInfoString(&allow, ",DELETE");
	orion_response_header(call->response, "Allow", allow.data);
}
