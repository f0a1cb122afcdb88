/*
 * write.c
 *	  POST, PATCH, PUT and DELETE on a table or view.
 *
 * Every method is one statement: the change as a CTE "w", and a row around it
 * with the number of rows, the body as json, and what headers need.  Rows of a
 * body come in through one json parameter, so that a statement's text depends on
 * its columns only.
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/pg_cast.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"

#include "rest/body.h"
#include "rest/error.h"
#include "rest/etag.h"
#include "rest/media.h"
#include "rest/nested.h"
#include "rest/read.h"
#include "rest/response.h"
#include "rest/result.h"
#include "rest/settings.h"
#include "rest/statement.h"
#include "rest/write.h"

/*
 * Counts the rows that an upsert found there already: evaluated for each of them,
 * on any kind of relation.  The setting lives in the transaction only.
 */
#define COUNT_UPDATED \
	" WHERE pg_catalog.set_config('request.updated', (COALESCE(NULLIF(" \
	"pg_catalog.current_setting('request.updated', true), ''), '0')::pg_catalog.int8" \
	" OPERATOR(pg_catalog.+) 1)::pg_catalog.text, true) IS NOT NULL"

void
orion_write_refuse_column(const OrionSource *source, const char *name)
{
	orion_refuse(400, "PGRST204",
				 psprintf("Could not find the '%s' column of '%s' in the schema cache", name, source->name),
				 NULL, NULL);
}

/* The columns a body sets: those of columns=, else its keys. */
static void
find_columns(OrionWrite *w)
{
	OrionColumn column;
	ListCell   *lc;

	const OrionColumnName *columns = w->call->method == ORION_PUT ? NULL : w->call->query.columns;

	if (columns == NULL)
		w->names = w->body.keys;
	for (const OrionColumnName *c = columns; c; c = c->next)
		w->names = lappend(w->names, unconstify(char *, c->name));
	foreach(lc, w->names)
		if (!orion_source_find_column(w->source, lfirst(lc), &column))
		orion_write_refuse_column(w->source, lfirst(lc));
}

/* "a", "b" with a prefix each */
static void
add_names(OrionStatement *st, List *names, const char *prefix)
{
	ListCell   *lc;

	foreach(lc, names)
	{
		orion_statement_add(st, foreach_current_index(lc) > 0 ? ", " : "");
		orion_statement_add(st, prefix);
		orion_statement_name(st, lfirst(lc));
	}
}

/*
 * The default of a column as an expression, also an identity's or a domain's; NULL
 * when it has none.  From the catalog, where its owner put it.
 */
static char *
default_of(const OrionWrite *w, const char *name)
{
	Relation	relation = relation_open(w->source->relid, AccessShareLock);
	AttrNumber	attno = get_attnum(w->source->relid, name);
	Node	   *expression = NULL;

	if (TupleDescAttr(RelationGetDescr(relation), attno - 1)->attgenerated == '\0')
		expression = build_column_default(relation, attno);
	relation_close(relation, AccessShareLock);
	return expression ? deparse_expression(expression, NIL, false, false) : NULL;
}

/* The value of a column: r."name", through its parser, or its default where the key is missing. */
static void
add_value(OrionWrite *w, const char *name)
{
	OrionStatement *st = &w->st;
	OrionColumn column;
	char	   *expression = NULL;
	char	   *parser;

	orion_source_column(w->source, name, &column);
	parser = orion_type_cast_function(JSONOID, column.type);
	if (w->call->prefer.missing == ORION_MISSING_DEFAULT)
		expression = default_of(w, name);
	if (expression)
	{
		orion_statement_add(st, "CASE WHEN (e.v OPERATOR(pg_catalog.->) ");
		orion_statement_param(st, TEXTOID, CStringGetTextDatum(name));
		orion_statement_add(st, ") IS NULL THEN ");
		orion_statement_add(st, expression);
		orion_statement_add(st, " ELSE ");
	}
	if (parser)
	{
		orion_statement_add(st, parser);
		orion_statement_add(st, "(");
	}
	orion_statement_add(st, "r.");
	orion_statement_name(st, name);
	orion_statement_add(st, parser ? ")" : "");
	orion_statement_add(st, expression ? " END" : "");
}

static void
add_record_columns(OrionWrite *w)
{
	ListCell   *lc;

	orion_statement_add(&w->st, ") AS r(");
	foreach(lc, w->names)
	{
		OrionColumn column;

		orion_source_column(w->source, lfirst(lc), &column);
		orion_statement_add(&w->st, foreach_current_index(lc) > 0 ? ", " : "");
		orion_statement_name(&w->st, lfirst(lc));
		orion_statement_add(&w->st, " ");
		orion_statement_add(&w->st, orion_type_cast_function(JSONOID, column.type) ? "pg_catalog.json" :
							orion_type_name(column.type, column.typmod));
	}
	orion_statement_add(&w->st, ")");
}

/* " FROM ...": the rows of the body as r, and where defaults are looked for each object as e.v */
static void
add_record(OrionWrite *w, const char *text, bool array)
{
	OrionStatement *st = &w->st;

	if (w->call->prefer.missing == ORION_MISSING_DEFAULT)
	{
		orion_statement_add(st, array ? " FROM pg_catalog.json_array_elements(" : " FROM (SELECT ");
		orion_statement_param(st, JSONOID, CStringGetTextDatum(text));
		orion_statement_add(st, array ? ") AS e(v), LATERAL pg_catalog.json_to_record(e.v" :
							") AS e(v), LATERAL pg_catalog.json_to_record(e.v");
	}
	else
	{
		orion_statement_add(st, array ? " FROM pg_catalog.json_to_recordset(" : " FROM pg_catalog.json_to_record(");
		orion_statement_param(st, JSONOID, CStringGetTextDatum(text));
	}
	add_record_columns(w);
}

/*
 * The columns of the representation, computed ones among them: what is returned
 * needs the privilege to be read, so no column more.
 */
void
orion_write_add_represented(OrionWrite *w)
{
	OrionStatement *st = &w->st;
	const char *joint = "";
	bool		all;
	ListCell   *lc;
	List	   *names = orion_read_columns(w->read, &all);

	if (all || names == NIL)
	{
		orion_statement_add(st, "t.*");
		joint = ", ";
	}
	foreach(lc, names)
	{
		if (all && get_attnum(w->source->relid, lfirst(lc)) > 0)
			continue;
		orion_statement_add(st, joint);
		orion_statement_add(st, "t.");
		orion_statement_name(st, lfirst(lc));
		joint = ", ";
	}
}

/* RETURNING what the answer needs. */
static void
add_returning(OrionWrite *w)
{
	orion_statement_add(&w->st, " RETURNING ");
	if (w->read)
		orion_write_add_represented(w);
	else if (w->location != NIL)
		add_names(&w->st, w->location, "t.");
	else
		orion_statement_add(&w->st, "1");
}

/* The row of the answer around a statement in "WITH w AS (". */
void
orion_write_add_answer(OrionWrite *w)
{
	OrionStatement *st = &w->st;
	ListCell   *lc;

	if (w->read)
	{
		orion_statement_add(st, ") SELECT (SELECT pg_catalog.count(*) FROM w), ");
		orion_media_body(st, w->call);
		orion_statement_add(st, " FROM (");
		orion_read_begin(st, w->read);
		orion_statement_add(st, "w");
		orion_read_end(st, w->read);
		orion_statement_add(st, ") AS w");
		return;
	}
	orion_statement_add(st, ") SELECT pg_catalog.count(*), NULL::pg_catalog.json");
	foreach(lc, w->location)
	{
		/* as the column is written in JSON: times in ISO 8601 */
		orion_statement_add(st, ", (pg_catalog.array_agg(pg_catalog.to_json(w.");
		orion_statement_name(st, lfirst(lc));
		orion_statement_add(st, ") OPERATOR(pg_catalog.#>>) '{}'))[1]");
	}
	orion_statement_add(st, " FROM w");
}

/* Location of the one row inserted: <prefix>/<table>?key=eq.value&... */
void
orion_write_put_location(OrionWrite *w)
{
	StringInfoData url;
	ListCell   *lc;
	char		joint = '?';

	initStringInfo(&url);
	appendBinaryStringInfo(&url, orion_rest_prefix, orion_rest_prefix_length());
	appendStringInfoChar(&url, '/');
	orion_result_escape(&url, w->source->name);
	foreach(lc, w->location)
	{
		char	   *value = orion_result_text(2 + foreach_current_index(lc));

		appendStringInfoChar(&url, joint);
		orion_result_escape(&url, lfirst(lc));
		if (value)
		{
			appendStringInfoString(&url, "=eq.");
			orion_result_escape(&url, value);
		}
		else
			appendStringInfoString(&url, "=is.null");
		joint = '&';
	}
	orion_response_header(w->call->response, "Location", url.data);
}

static int64
rows_updated(void)
{
	const char *text = GetConfigOption("request.updated", true, false);

	return text &&text[0] ? strtoi64(text, NULL, 10) : 0;
}

/* 201 when something is new; merging and PUT may find all there already. */
static int
write_status(const OrionWrite *w, int64 rows)
{
	OrionCall  *call = w->call;
	int			other = call->prefer.returns == ORION_RETURN_REPRESENTATION ? 200 : 204;

	if (call->method == ORION_PUT)
		return other == 200 && rows_updated() < rows ? 201 : other;
	if (call->method != ORION_POST)
		return other;
	return call->prefer.resolution == ORION_RESOLUTION_MERGE && rows_updated() >= rows ? 200 : 201;
}

/* Status and Content-Range of a write that touched rows. */
void
orion_write_finish(OrionWrite *w, int64 rows)
{
	OrionCall  *call = w->call;

	orion_result_check_one(call, rows);
	if (call->method == ORION_PATCH || call->method == ORION_DELETE)
		orion_prefer_check_affected(call, rows);
	call->response->status = write_status(w, rows);
	if (call->method != ORION_PUT)
		orion_result_range(call, 0, call->method == ORION_PATCH ? rows : 0,
						   orion_prefer_counts(call) ? rows : -1);
}

/* What the representation shows: the change chose the rows already, maybe by what is no more. */
static void
plan_representation(OrionWrite *w)
{
	orion_media_resolve(w->call, w->source->relid, InvalidOid);
	if (w->call->prefer.returns != ORION_RETURN_REPRESENTATION)
		return;
	w->read = orion_read_make(w->call, w->source);
	w->read->filters = NIL;
	w->read->uncapped = true;
	w->read->has_limit = w->read->has_offset = false;
	w->read->typed = w->call->media.row != NULL;
}

/* Runs a write whose text begins with "WITH w AS (" and lacks its end; the number of rows. */
static int64
run_write(OrionWrite *w)
{
	int64		rows;

	plan_representation(w);
	add_returning(w);
	orion_write_add_answer(w);
	if (w->call->media.plan)
	{
		orion_media_explain(w->call, &w->st);
		return 0;
	}
	orion_statement_run(&w->st, false);
	rows = orion_result_int(0, 0);
	if (w->call->method != ORION_POST)
		orion_etag_after(&w->match, rows, w->call->method == ORION_PUT ? rows_updated() : rows);
	if (w->call->method == ORION_PUT && rows == 0)
		orion_refuse(400, "PGRST115", "Payload values do not match URL in primary key column(s)", NULL, NULL);
	orion_write_finish(w, rows);
	if (w->call->prefer.returns == ORION_RETURN_REPRESENTATION)
	{
		orion_result_body(w->call, 1, orion_media_empty(w->call));
		if (rows == 1 && w->call->method != ORION_DELETE)
			orion_etag_put(w->call);
	}
	if (w->location != NIL && rows == 1)
		orion_write_put_location(w);
	return rows;
}

/* No column to set: no row of the relation, which the role must be allowed to read as with PostgREST. */
static void
update_nothing(OrionWrite *w)
{
	OrionStatement *st = &w->st;

	plan_representation(w);
	orion_statement_init(st);
	orion_statement_add(st, "WITH w AS (SELECT ");
	if (w->read)
		orion_write_add_represented(w);
	else
		orion_statement_add(st, "NULL");
	orion_statement_add(st, " FROM ");
	orion_statement_add(st, w->source->quoted);
	orion_statement_add(st, " AS t WHERE false");
	orion_write_add_answer(w);
	if (w->call->media.plan)
	{
		orion_media_explain(w->call, st);
		return;
	}
	orion_statement_run(st, false);
	orion_write_finish(w, 0);
	if (w->read)
		orion_result_body(w->call, 1, orion_media_empty(w->call));
}

static List *
list_names(const OrionColumnName *column)
{
	List	   *names = NIL;

	for (; column; column = column->next)
		names = lappend(names, unconstify(char *, column->name));
	return names;
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

/* " ON CONFLICT (...) DO ..." for upserts; the key itself stays as it is. */
static void
add_conflict(OrionWrite *w)
{
	OrionStatement *st = &w->st;
	List	   *changed = NIL;
	ListCell   *lc;

	if (!w->call->upserts)
		return;
	orion_statement_add(st, " ON CONFLICT (");
	add_names(st, w->conflict, "");
	orion_statement_add(st, ")");
	foreach(lc, w->names)
		if (!has_name(w->conflict, lfirst(lc)))
		changed = lappend(changed, lfirst(lc));
	if (changed == NIL)
		changed = w->names;
	if (changed == NIL || (w->call->method == ORION_POST && w->call->prefer.resolution == ORION_RESOLUTION_IGNORE))
	{
		orion_statement_add(st, " DO NOTHING");
		return;
	}
	orion_statement_add(st, " DO UPDATE SET ");
	foreach(lc, changed)
	{
		orion_statement_add(st, foreach_current_index(lc) > 0 ? ", " : "");
		orion_statement_name(st, lfirst(lc));
		orion_statement_add(st, " = EXCLUDED.");
		orion_statement_name(st, lfirst(lc));
	}
	orion_statement_add(st, COUNT_UPDATED);
	orion_etag_where(st, &w->match, " AND ");
}

/* The columns of the body, and those that are known already. */
static void
add_with_constants(OrionWrite *w)
{
	OrionStatement *st = &w->st;
	const char *joint = w->names == NIL ? "" : ", ";
	ListCell   *lc;

	orion_statement_add(st, " (");
	add_names(st, w->names, "");
	foreach(lc, w->constants)
	{
		orion_statement_add(st, foreach_current_index(lc) > 0 ? ", " : joint);
		orion_statement_name(st, ((OrionConstant *) lfirst(lc))->name);
	}
	orion_statement_add(st, ") SELECT ");
	foreach(lc, w->names)
	{
		orion_statement_add(st, foreach_current_index(lc) > 0 ? ", " : "");
		add_value(w, lfirst(lc));
	}
	foreach(lc, w->constants)
	{
		const OrionConstant *constant = lfirst(lc);

		orion_statement_add(st, foreach_current_index(lc) > 0 ? ", " : joint);
		if (constant->value)
			orion_statement_input(st, constant->type, constant->value);
		else
			orion_statement_add(st, "NULL");
	}
	if (w->names != NIL)
		add_record(w, w->body.text, false);
}

void
orion_write_add_insert(OrionWrite *w)
{
	OrionStatement *st = &w->st;
	ListCell   *lc;

	orion_statement_init(st);
	orion_statement_add(st, "WITH w AS (INSERT INTO ");
	orion_statement_add(st, w->source->quoted);
	orion_statement_add(st, " AS t");
	if (w->constants != NIL)
	{
		add_with_constants(w);
		return;
	}
	if (w->names == NIL && w->body.array)
	{
		/* as many rows of defaults as there are empty objects */
		orion_statement_add(st, " SELECT FROM pg_catalog.json_array_elements(");
		orion_statement_param(st, JSONOID, CStringGetTextDatum(w->body.text));
		orion_statement_add(st, ")");
		return;
	}
	if (w->names == NIL)
	{
		orion_statement_add(st, " DEFAULT VALUES");
		return;
	}
	orion_statement_add(st, " (");
	add_names(st, w->names, "");
	orion_statement_add(st, ") SELECT ");
	foreach(lc, w->names)
	{
		orion_statement_add(st, foreach_current_index(lc) > 0 ? ", " : "");
		add_value(w, lfirst(lc));
	}
	add_record(w, w->body.text, w->body.array);
}

static void
insert_rows(OrionWrite *w)
{
	OrionCall  *call = w->call;

	orion_body_read(call, true, false, &w->body);
	if (orion_nested_asked(w))
	{
		orion_nested_insert(w);
		return;
	}
	find_columns(w);
	if (call->prefer.resolution != ORION_RESOLUTION_DEFAULT)
		w->conflict = call->query.on_conflict ? list_names(call->query.on_conflict) :
			orion_relationship_key(w->source->relid);
	call->upserts = w->conflict != NIL;
	if (call->prefer.returns == ORION_RETURN_HEADERS)
		w->location = orion_relationship_key(w->source->relid);
	orion_write_add_insert(w);
	add_conflict(w);
	(void) run_write(w);
}

/* " WHERE ..." of the query string, over the relation that changes. */
static void
add_where(OrionWrite *w)
{
	OrionRead	target = {.source = w->source,.alias = "t"};

	if (w->call->query.filters)
		target.filters = list_make1(w->call->query.filters);
	orion_filter_where(&w->st, &target);
	orion_etag_where(&w->st, &w->match, target.filters ? " AND " : " WHERE ");
}

static void
refuse_put_filters(void)
{
	orion_refuse(405, "PGRST105",
				 "Filters must include all and only primary key columns with 'eq' operators", NULL, NULL);
}

static bool
names_key(const OrionFilter *filters, const char *key)
{
	for (; filters; filters = filters->next)
		if (strcmp(filters->name.column, key) == 0)
			return true;
	return false;
}

/* PUT names exactly one row: its whole key, and nothing else. */
static void
check_put_filters(OrionWrite *w)
{
	const OrionQuery *query = &w->call->query;
	ListCell   *lc;

	for (const OrionFilter *f = query->filters; f; f = f->next)
		if (f->kind != ORION_FILTER_TEST || f->negated || f->op != ORION_OP_EQ || f->name.steps ||
			f->quantifier != ORION_QUANTIFIER_NONE || !has_name(w->conflict, f->name.column))
			refuse_put_filters();
	for (const OrionScope *scope = query->scopes; scope; scope = scope->next)
		if (scope->filters)
			refuse_put_filters();
	foreach(lc, w->conflict)
		if (!names_key(query->filters, lfirst(lc)))
		refuse_put_filters();
	if (w->conflict == NIL)
		refuse_put_filters();
}

/* " WHERE r.key = $n AND ...", of the query string; both sides through the parsers of a domain. */
static void
add_put_where(OrionWrite *w)
{
	OrionStatement *st = &w->st;

	for (const OrionFilter *f = w->call->query.filters; f; f = f->next)
	{
		OrionColumn column;
		char	   *parser;

		orion_source_column(w->source, f->name.column, &column);
		parser = orion_type_cast_function(TEXTOID, column.type);
		orion_statement_add(st, f == w->call->query.filters ? " WHERE " : " AND ");
		add_value(w, f->name.column);
		orion_statement_add(st, " = ");
		if (parser)
		{
			orion_statement_add(st, parser);
			orion_statement_add(st, "(");
		}
		orion_statement_input(st, parser ? TEXTOID : column.type, f->value);
		orion_statement_add(st, parser ? ")" : "");
	}
}

static void
put_row(OrionWrite *w)
{
	OrionCall  *call = w->call;
	ListCell   *lc;

	if (call->query.has_limit || orion_result_offset(call) > 0)
		orion_refuse(400, "PGRST114", "limit/offset querystring parameters are not allowed for PUT", NULL, NULL);
	w->conflict = orion_relationship_key(w->source->relid);
	check_put_filters(w);
	orion_body_read(call, true, false, &w->body);
	find_columns(w);
	call->upserts = true;
	foreach(lc, w->conflict)
		if (!has_name(w->names, lfirst(lc)))
		orion_refuse(400, "PGRST115", "Payload values do not match URL in primary key column(s)", NULL, NULL);
	orion_write_add_insert(w);
	add_put_where(w);
	add_conflict(w);
	(void) run_write(w);
}

static void
update_rows(OrionWrite *w)
{
	OrionStatement *st = &w->st;
	ListCell   *lc;

	orion_body_read(w->call, true, false, &w->body);
	find_columns(w);
	if (w->names == NIL || (w->body.array && w->body.first == NULL))
	{
		update_nothing(w);
		return;
	}
	orion_statement_init(st);
	orion_statement_add(st, "WITH w AS (UPDATE ");
	orion_statement_add(st, w->source->quoted);
	orion_statement_add(st, " AS t SET ");
	foreach(lc, w->names)
	{
		orion_statement_add(st, foreach_current_index(lc) > 0 ? ", " : "");
		orion_statement_name(st, lfirst(lc));
		orion_statement_add(st, " = ");
		add_value(w, lfirst(lc));
	}
	add_record(w, w->body.array ? w->body.first : w->body.text, false);
	add_where(w);
	(void) run_write(w);
}

static void
delete_rows(OrionWrite *w)
{
	OrionStatement *st = &w->st;

	orion_statement_init(st);
	orion_statement_add(st, "WITH w AS (DELETE FROM ");
	orion_statement_add(st, w->source->quoted);
	orion_statement_add(st, " AS t");
	add_where(w);
	(void) run_write(w);
}

static bool
asks_for_embedded(const OrionQuery *query)
{
	for (const OrionSelect *item = query->select; item; item = item->next)
		if (item->embed)
			return true;
	for (const OrionOrder *order = query->order; order; order = order->next)
		if (order->name.embed)
			return true;
	return query->scopes != NULL;
}

void
orion_write_serve(OrionCall *call, const OrionSource *source)
{
	OrionWrite	w = {.call = call,.source = source};

	orion_call_filters(call, NULL, NULL);
	if (call->method == ORION_PUT)
	{
		orion_etag_before(call, source, &w.match);
		put_row(&w);
		return;
	}
	/* a filter of what is not embedded must not become none at all */
	if (call->prefer.returns != ORION_RETURN_REPRESENTATION && asks_for_embedded(&call->query))
		(void) orion_read_make(call, source);
	if (call->method == ORION_PATCH || call->method == ORION_DELETE)
		orion_etag_before(call, source, &w.match);
	switch (call->method)
	{
		case ORION_POST:
			insert_rows(&w);
			break;
		case ORION_PATCH:
			update_rows(&w);
			break;
		case ORION_DELETE:
			delete_rows(&w);
			break;
		default:
			orion_refuse(405, "PGRST117", psprintf("Unsupported HTTP method: %s", call->request->method),
						 NULL, NULL);
	}
}
