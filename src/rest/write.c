/*
 * write.c
 *	  POST, PATCH, PUT and DELETE on a table or view.
 *
 * Every method is one statement: the change as a CTE "w", and a row around it
 * with the number of rows, the body as json, and what headers need.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"

#include "rest/body.h"
#include "rest/error.h"
#include "rest/response.h"
#include "rest/result.h"
#include "rest/settings.h"
#include "rest/statement.h"

/* "a", "b" with a prefix each; or with the types of the source's columns */
static void
add_names(OrionStatement *st, List *names, const char *prefix, const OrionSource *typed)
{
	ListCell   *lc;

	foreach(lc, names)
	{
		OrionColumn column;

		if (foreach_current_index(lc) > 0)
			orion_statement_add(st, ", ");
		orion_statement_add(st, prefix);
		orion_statement_name(st, lfirst(lc));
		if (typed == NULL)
			continue;
		orion_source_column(typed, lfirst(lc), &column);
		orion_statement_add(st, " ");
		orion_statement_add(st, orion_type_name(column.type, column.typmod));
	}
}

/* " FROM json_to_record($1) AS r(name type, ...)" */
static void
add_record(OrionStatement *st, const OrionSource *source, const OrionBody *body, List *names)
{
	orion_statement_add(st, body->array ? " FROM pg_catalog.json_to_recordset(" :
						" FROM pg_catalog.json_to_record(");
	orion_statement_param(st, JSONOID, CStringGetTextDatum(body->text));
	orion_statement_add(st, ") AS r(");
	add_names(st, names, "", source);
	orion_statement_add(st, ")");
}

/* The columns a body sets: those of columns=, else its keys. */
static List *
body_columns(const OrionCall *call, const OrionBody *body)
{
	List	   *names = NIL;

	if (call->query.columns == NULL)
		return body->keys;
	for (const OrionColumnName *c = call->query.columns; c; c = c->next)
		names = lappend(names, unconstify(char *, c->name));
	return names;
}

/* RETURNING what the answer needs, and no column more: they need privileges. */
static void
add_returning(OrionStatement *st, const OrionCall *call, const OrionSource *source, List *keys)
{
	orion_statement_add(st, " RETURNING");
	if (call->prefer.returns == ORION_RETURN_REPRESENTATION)
		orion_statement_select(st, source, call->query.select);
	else if (keys != NIL)
	{
		orion_statement_add(st, " ");
		add_names(st, keys, "t.", NULL);
	}
	else
		orion_statement_add(st, " 1");
}

/* The row of the answer around a statement in "WITH w AS (". */
static void
add_answer(OrionStatement *st, const OrionCall *call, List *keys)
{
	ListCell   *lc;

	orion_statement_add(st, ") SELECT pg_catalog.count(*), ");
	if (call->prefer.returns != ORION_RETURN_REPRESENTATION)
		orion_statement_add(st, "NULL::pg_catalog.json");
	else
		orion_statement_add(st, call->one ? "pg_catalog.json_agg(w.*) OPERATOR(pg_catalog.->) 0" : "pg_catalog.json_agg(w.*)");
	foreach(lc, keys)
	{
		orion_statement_add(st, ", (pg_catalog.array_agg(w.");
		orion_statement_name(st, lfirst(lc));
		orion_statement_add(st, "::pg_catalog.text))[1]");
	}
	orion_statement_add(st, " FROM w");
}

static void
append_escaped(StringInfo out, const char *text)
{
	for (; *text; text ++)
	{
		unsigned char c = *text;

		if (isalnum(c) && c < 0x80 ? true : strchr("-._~", c) != NULL)
			appendStringInfoChar(out, c);
		else
			appendStringInfo(out, "%%%02X", c);
	}
}

/* Location of the one row inserted: <prefix>/<table>?key=eq.value&... */
static void
put_location(OrionCall *call, const OrionSource *source, List *keys)
{
	StringInfoData url;
	ListCell   *lc;
	char		joint = '?';

	initStringInfo(&url);
	appendBinaryStringInfo(&url, orion_rest_prefix, orion_rest_prefix_length());
	appendStringInfoChar(&url, '/');
	append_escaped(&url, source->name);
	foreach(lc, keys)
	{
		char	   *value = orion_result_text(2 + foreach_current_index(lc));

		appendStringInfoChar(&url, joint);
		append_escaped(&url, lfirst(lc));
		if (value)
		{
			appendStringInfoString(&url, "=eq.");
			append_escaped(&url, value);
		}
		else
			appendStringInfoString(&url, "=is.null");
		joint = '&';
	}
	orion_response_header(call->response, "Location", url.data);
}

/* Body, status and Content-Range of a write that touched rows. */
static void
finish_write(OrionCall *call, int64 rows)
{
	bool		represented = call->prefer.returns == ORION_RETURN_REPRESENTATION;

	orion_result_check_one(call, rows);
	call->response->status = call->method == ORION_POST ? 201 : represented ? 200 : 204;
	orion_result_range(call, 0, call->method == ORION_PATCH ? rows : 0,
					   call->prefer.count == ORION_COUNT_EXACT ? rows : -1);
}

/* Runs a write whose text in st begins with "WITH w AS (" and lacks its end. */
static void
run_write(OrionCall *call, OrionStatement *st, const OrionSource *source, List *keys)
{
	int64		rows;

	add_returning(st, call, source, keys);
	add_answer(st, call, keys);
	orion_statement_run(st, false);
	rows = orion_result_int(0, 0);
	finish_write(call, rows);
	if (call->prefer.returns == ORION_RETURN_REPRESENTATION)
		orion_result_body(call, 1, "[]");
	if (keys != NIL && rows == 1)
		put_location(call, source, keys);
}

static void
answer_nothing_done(OrionCall *call)
{
	finish_write(call, 0);
	if (call->prefer.returns == ORION_RETURN_REPRESENTATION)
	{
		orion_response_header(call->response, "Content-Type", ORION_JSON);
		appendStringInfoString(&call->response->body, "[]");
	}
}

static void
insert_rows(OrionCall *call, const OrionSource *source)
{
	OrionStatement st;
	OrionBody	body;
	List	   *names;
	List	   *keys = NIL;

	orion_body_read(call, true, false, &body);
	names = body_columns(call, &body);
	if (body.array && !body.object)
	{
		answer_nothing_done(call);
		return;
	}
	if (call->prefer.returns == ORION_RETURN_HEADERS)
		keys = orion_relation_primary_key(source->relid);
	orion_statement_init(&st);
	orion_statement_add(&st, "WITH w AS (INSERT INTO ");
	orion_statement_add(&st, source->quoted);
	orion_statement_add(&st, " AS t");
	if (names != NIL)
	{
		orion_statement_add(&st, " (");
		add_names(&st, names, "", NULL);
		orion_statement_add(&st, ") SELECT ");
		add_names(&st, names, "r.", NULL);
		add_record(&st, source, &body, names);
	}
	else if (body.array)
		orion_refuse(400, "PGRST102", "Empty or invalid json", "The objects have no keys.", NULL);
	else
		orion_statement_add(&st, " DEFAULT VALUES");
	run_write(call, &st, source, keys);
}

static void
update_rows(OrionCall *call, const OrionSource *source)
{
	OrionStatement st;
	OrionBody	body;
	List	   *names;
	ListCell   *lc;

	orion_body_read(call, false, false, &body);
	names = body_columns(call, &body);
	if (names == NIL)
	{
		answer_nothing_done(call);
		return;
	}
	orion_statement_init(&st);
	orion_statement_add(&st, "WITH w AS (UPDATE ");
	orion_statement_add(&st, source->quoted);
	orion_statement_add(&st, " AS t SET ");
	foreach(lc, names)
	{
		if (foreach_current_index(lc) > 0)
			orion_statement_add(&st, ", ");
		orion_statement_name(&st, lfirst(lc));
		orion_statement_add(&st, " = r.");
		orion_statement_name(&st, lfirst(lc));
	}
	add_record(&st, source, &body, names);
	orion_statement_where(&st, source, call->query.filters);
	run_write(call, &st, source, NIL);
}

static void
delete_rows(OrionCall *call, const OrionSource *source)
{
	OrionStatement st;

	orion_statement_init(&st);
	orion_statement_add(&st, "WITH w AS (DELETE FROM ");
	orion_statement_add(&st, source->quoted);
	orion_statement_add(&st, " AS t");
	orion_statement_where(&st, source, call->query.filters);
	run_write(call, &st, source, NIL);
}

void
orion_write_serve(OrionCall *call, const OrionSource *source)
{
	switch (call->method)
	{
		case ORION_POST:
			insert_rows(call, source);
			break;
		case ORION_PATCH:
			update_rows(call, source);
			break;
		case ORION_DELETE:
			delete_rows(call, source);
			break;
		default:
			orion_refuse(405, "PGRST117", psprintf("Unsupported HTTP method: %s", call->request->method),
						 NULL, NULL);
	}
}
