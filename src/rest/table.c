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

#include "rest/error.h"
#include "rest/joint.h"
#include "rest/keyset.h"
#include "rest/media.h"
#include "rest/response.h"
#include "rest/read.h"
#include "rest/result.h"
#include "rest/rows.h"
#include "rest/session.h"
#include "rest/settings.h"
#include "rest/standby.h"
#include "rest/stream.h"

/* "SELECT 1 FROM ..." of the rows that count= counts; at most that many, -1: all */
static void
add_counted(OrionStatement *st, const OrionSource *source, const OrionRead *read, int64 limit)
{
	orion_read_begin_count(st);
	orion_statement_add(st, source->quoted);
	orion_read_end_count(st, read);
	if (limit >= 0)
	{
		orion_statement_add(st, " LIMIT ");
		orion_statement_param(st, INT8OID, Int64GetDatum(limit));
	}
}

/* How many rows the planner expects. */
static int64
planned_count(const OrionSource *source, const OrionRead *read)
{
	OrionStatement st;
	char	   *plan;
	char	   *rows;

	orion_statement_init(&st);
	orion_statement_add(&st, "EXPLAIN (FORMAT JSON) ");
	add_counted(&st, source, read, -1);
	if (SPI_execute_with_args(st.text.data, st.nparams, st.types, st.values, st.nulls, false, 0) < 0 || SPI_processed != 1)
		elog(ERROR, "EXPLAIN failed");
	plan = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	rows = strstr(plan, "\"Plan Rows\":");	/* the first is the topmost node's */
	return rows ? strtoll(rows + strlen("\"Plan Rows\":"), NULL, 10) : -1;
}

/* How many there are, counted no further than rest_max_rows and one; then as planned. */
static int64
estimated_count(const OrionSource *source, const OrionRead *read)
{
	OrionStatement st;
	int64		counted;

	if (orion_rest_max_rows < 0)
		return planned_count(source, read);
	orion_statement_init(&st);
	orion_statement_add(&st, "SELECT pg_catalog.count(*) FROM (");
	add_counted(&st, source, read, (int64) orion_rest_max_rows + 1);
	orion_statement_add(&st, ") AS c");
	orion_statement_run(&st, false);
	counted = orion_result_int(0, 0);
	return counted <= orion_rest_max_rows ? counted : Max(counted, planned_count(source, read));
}

/* What is there is no less than what the answer shows of it. */
static int64
total_of(const OrionCall *call, int64 total, int64 rows)
{
	if (call->prefer.count != ORION_COUNT_ESTIMATED || rows == 0)
		return total;
	return Max(total, rows + (call->query.has_offset ? call->query.offset : 0));
}

/* One parameter that escaping would leave as it is? */
static bool
is_plain(const char *query)
{
	const char *equals = strchr(query, '=');

	return equals > query && orion_result_is_unreserved(query, equals - query) &&
		orion_result_is_unreserved(equals + 1, strlen(equals + 1));
}

/* The address of these rows, with the parameters by name and escaped in one way only. */
static void
put_location(OrionCall *call)
{
	OrionParam *param;
	OrionParam *next;
	OrionParam *sorted = NULL;
	OrionQueryError error;
	StringInfoData url;

	if (call->request->query[0] == '\0')
	{
		orion_response_header(call->response, "Content-Location", call->request->path);
		return;
	}
	initStringInfo(&url);
	appendStringInfoString(&url, call->request->path);
	if (is_plain(call->request->query))
	{
		appendStringInfoChar(&url, '?');
		appendStringInfoString(&url, call->request->query);
		orion_response_header(call->response, "Content-Location", url.data);
		return;
	}
	if (!orion_query_split(&call->arena, call->request->query, strlen(call->request->query), &param, &error))
		orion_refuse_query(&error);
	for (; param; param = next)
	{
		OrionParam **place = &sorted;

		next = param->next;
		while (*place && strcmp((*place)->name, param->name) <= 0)
			place = &(*place)->next;
		param->next = *place;
		*place = param;
	}
	for (param = sorted; param; param = param->next)
	{
		appendStringInfoChar(&url, param == sorted ? '?' : '&');
		orion_result_escape(&url, param->name);
		appendStringInfoChar(&url, '=');
		orion_result_escape(&url, param->value);
	}
	orion_response_header(call->response, "Content-Location", url.data);
}

static void
read_rows(OrionCall *call, const OrionSource *source, OrionKeyset *keyset)
{
	OrionStatement st;
	OrionRead  *read;
	int64		total = -1;
	int64		rows;

	/* without a limit the rows of the answer are all there are */
	bool		limited = call->query.has_limit || call->query.has_offset || orion_rest_max_rows >= 0;
	bool		counted = call->prefer.count == ORION_COUNT_EXACT && limited;
	bool		written;

	if (keyset || call->prefer.count != ORION_COUNT_NONE || call->media.ncandidates > 0 || !orion_rows_possible(call))
		orion_session_tell();
	orion_media_resolve(call, source->relid, InvalidOid);
	read = orion_read_make(call, source);
	read->typed = call->media.row != NULL;
	if (call->prefer.count == ORION_COUNT_PLANNED)
		total = planned_count(source, read);
	else if (call->prefer.count == ORION_COUNT_ESTIMATED)
		total = estimated_count(source, read);
	if (keyset == NULL && orion_stream_wanted(call))
	{
		put_location(call);
		orion_stream_rows(call, read);
		return;
	}
	written = !counted && orion_rows_possible(call);
	orion_statement_init(&st);
	if (!written)
	{
		orion_statement_add(&st, "SELECT pg_catalog.count(*), ");
		orion_media_body(&st, call);
	}
	if (counted)
	{
		orion_statement_add(&st, ", (SELECT pg_catalog.count(*) FROM (");
		add_counted(&st, source, read, -1);
		orion_statement_add(&st, ") AS c)");
	}
	read->keyset = keyset;		/* all that match are counted, the page begins
								 * further down */
	if (!written)
		orion_statement_add(&st, " FROM (");
	orion_read_begin(&st, read);
	orion_statement_add(&st, source->quoted);
	orion_read_end(&st, read);
	if (!written)
		orion_statement_add(&st, ") AS w");
	if (call->media.plan)
	{
		orion_media_explain(call, &st);
		return;
	}
	if (written)
	{
		rows = orion_rows_run(call, &st);
		put_location(call);
		orion_result_page_written(call, rows, call->prefer.count == ORION_COUNT_EXACT ? rows : total_of(call, total, rows));
		orion_keyset_link(call, read, rows);
		return;
	}
	orion_statement_run(&st, keyset != NULL);	/* the cursor is made with the
												 * same snapshot */
	if (call->prefer.count == ORION_COUNT_EXACT)
		total = orion_result_int(counted ? 2 : 0, -1);
	rows = orion_result_int(0, 0);
	put_location(call);
	orion_result_page_of(call, total_of(call, total, rows));
	orion_keyset_link(call, read, rows);
}

/* The rows of the request before, with another key. */
static void
repeat_rows(OrionCall *call)
{
	int64		rows = orion_rows_repeat(call);

	put_location(call);
	orion_result_page_written(call, rows, -1);
}

void
orion_table_serve(OrionCall *call, const char *name)
{
	OrionSource source;
	OrionKeyset *keyset;
	bool		repeats = orion_joint_repeats(call);

	if (!repeats)
	{
		orion_relation_find(call->schema, name, &source);
		orion_prefer_check(call);
		call->relid = source.relid;
	}
	orion_call_serves(call, orion_rest_prefix, "/", name);
	orion_call_enter(call, NULL);
	if (repeats)
	{
		repeat_rows(call);
		return;
	}
	if (!orion_call_reads(call))
	{
		orion_write_serve(call, &source);
		return;
	}
	keyset = orion_keyset_begin(call, &source);
	orion_call_filters(call, NULL, NULL);
	read_rows(call, &source, keyset);
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
	commands = orion_standby_has_no_writes() ? 0 : relation_is_updatable(source.relid, NIL, true, NULL);
	initStringInfo(&allow);
	appendStringInfoString(&allow, "OPTIONS,GET,HEAD");
	if (takes(commands, CMD_INSERT))
		appendStringInfoString(&allow, ",POST");
	if (takes(commands, CMD_INSERT) && takes(commands, CMD_UPDATE) &&
		orion_relationship_key(source.relid) != NIL)
		appendStringInfoString(&allow, ",PUT");
	if (takes(commands, CMD_UPDATE))
		appendStringInfoString(&allow, ",PATCH");
	if (takes(commands, CMD_DELETE))
		appendStringInfoString(&allow, ",DELETE");
	orion_response_header(call->response, "Allow", allow.data);
}
