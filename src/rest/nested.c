/*
 * nested.c
 *	  POST of rows together with the rows that belong to them, in the shape that
 *	  select= embeds them.
 *
 * One row after the other, each by a statement that insertion alone would use,
 * so that privileges, policies and triggers are asked as ever.  What a row refers
 * to goes before it, what refers to it behind it, and of a junction last; the
 * foreign key's columns are taken from what the statement before returned.  The
 * representation is read at the end, by the primary keys.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/lsyscache.h"

#include "rest/error.h"
#include "rest/json_text.h"
#include "rest/media.h"
#include "rest/nested.h"
#include "rest/response.h"
#include "rest/result.h"

/* A row that was inserted: the columns asked for, as text. */
typedef struct Row
{
	List	   *names;
	char	  **values;
} Row;

static Row *insert_object(OrionWrite *root, const OrionRead *read, char *text, List *constants, List *returning);

static const OrionSelect *
embedded(const OrionCall *call, const char *key)
{
	for (const OrionSelect *item = call->query.select; item; item = item->next)
		if (item->embed && !item->spread && strcmp(item->alias ? item->alias : item->name, key) == 0)
			return item;
	return NULL;
}

bool
orion_nested_asked(const OrionWrite *w)
{
	OrionColumn column;
	ListCell   *lc;

	if (w->call->query.select == NULL || w->call->query.columns)
		return false;
	foreach(lc, w->body.keys)
		if (embedded(w->call, lfirst(lc)) && !orion_source_find_column(w->source, lfirst(lc), &column))
		return true;
	return false;
}

static void
refuse_shape(const char *key, const char *details)
{
	orion_refuse(400, "PGRST102", psprintf("Invalid value of the embedded resource \"%s\"", key), details, NULL);
}

static const OrionRead *
child_of(const OrionRead *read, const char *key)
{
	for (const OrionRead *child = read->first; child; child = child->next)
		if (!child->spread && strcmp(child->key, key) == 0)
			return child;
	return NULL;
}

/* --- one row -------------------------------------------------------------------------- */

static bool
has_name(List *names, const char *name)
{
	ListCell   *lc;

	foreach(lc, names)
		if (strcmp(lfirst(lc), name) == 0)
		return true;
	return false;
}

static List *
add_column_names(List *names, int n, const char *const *columns)
{
	for (int i = 0; i < n; i++)
		if (!has_name(names, columns[i]))
			names = lappend(names, unconstify(char *, columns[i]));
	return names;
}

static const char *
value_of(const Row *row, const char *name)
{
	ListCell   *lc;

	foreach(lc, row->names)
		if (strcmp(lfirst(lc), name) == 0)
		return row->values[foreach_current_index(lc)];
	elog(ERROR, "column \"%s\" was not returned", name);
	return NULL;
}

/* columns of source := columns of the row */
static List *
add_constants(List *constants, const OrionSource *source, int n, const char *const *columns,
			  const Row *row, const char *const *from)
{
	for (int i = 0; i < n; i++)
	{
		OrionConstant *constant = palloc(sizeof(OrionConstant));
		OrionColumn column;

		orion_source_column(source, columns[i], &column);
		constant->name = columns[i];
		constant->type = column.type;
		constant->value = value_of(row, from[i]);
		constants = lappend(constants, constant);
	}
	return constants;
}

/* What goes into the statement twice is a contradiction. */
static void
check_constants(List *names, List *constants)
{
	ListCell   *lc;

	foreach(lc, constants)
	{
		const OrionConstant *constant = lfirst(lc);

		if (has_name(names, constant->name))
			orion_refuse(400, "PGRST102", psprintf("The column \"%s\" is set by the relationship", constant->name),
						 NULL, "Leave it out of the body.");
	}
}

static Row *
insert_row(const OrionWrite *root, const OrionSource *source, char *text, List *names, List *constants, List *returning)
{
	OrionWrite	w = {.call = root->call,.source = source,.names = names,.constants = constants};
	Row		   *row = palloc0(sizeof(Row));
	ListCell   *lc;

	CHECK_FOR_INTERRUPTS();
	check_constants(names, constants);
	w.body.text = text;

	orion_write_add_insert(&w);
	orion_statement_add(&w.st, " RETURNING ");
	orion_statement_add(&w.st, returning == NIL ? "1" : "");
	foreach(lc, returning)
	{
		orion_statement_add(&w.st, foreach_current_index(lc) > 0 ? ", t." : "t.");
		orion_statement_name(&w.st, lfirst(lc));
	}
	orion_statement_add(&w.st, ") SELECT * FROM w");
	orion_statement_run(&w.st, false);
	if (SPI_processed != 1)
		orion_refuse(409, "ORION409", psprintf("A row of \"%s\" was not inserted", source->name),
					 "A trigger or a rule kept it out.", NULL);
	row->names = returning;
	row->values = palloc0(Max(list_length(returning), 1) * sizeof(char *));
	for (int i = 0; i < list_length(returning); i++)
		row->values[i] = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1);
	SPI_freetuptable(SPI_tuptable);
	return row;
}

/* --- what belongs to it ----------------------------------------------------------------- */

/* The junction's own row, between two others. */
static void
insert_junction(OrionWrite *root, const OrionRead *child, const Row *parent, const Row *target)
{
	const OrionRelationship *link = child->link;
	OrionSource source = {.relid = link->junction,.relkind = get_rel_relkind(link->junction)};
	List	   *constants;

	source.name = get_rel_name(link->junction);
	source.quoted = quote_qualified_identifier(get_namespace_name(get_rel_namespace(link->junction)), source.name);
	constants = add_constants(NIL, &source, link->n, link->far, parent, link->near);
	constants = add_constants(constants, &source, link->m, link->junction_columns, target, link->target_columns);
	(void) insert_row(root, &source, "{}", NIL, constants, NIL);
}

/* One object of a child that refers to the parent, or is joined to it. */
static void
insert_behind(OrionWrite *root, const OrionRead *child, char *text, const Row *parent)
{
	const OrionRelationship *link = child->link;

	if (OidIsValid(link->junction))
	{
		List	   *returning = add_column_names(NIL, link->m, link->target_columns);
		Row		   *target = insert_object(root, child, text, NIL, returning);

		insert_junction(root, child, parent, target);
		return;
	}
	(void) insert_object(root, child, text,
						 add_constants(NIL, child->source, link->n, link->far, parent, link->near), NIL);
}

/* An object, or an array of them. */
static void
insert_all_behind(OrionWrite *root, const OrionRead *child, const char *value, const Row *parent)
{
	const char *c = value;

	if (child->link->to_one)
	{
		if (*c == '{')
			insert_behind(root, child, pnstrdup(c, orion_json_skip_value(c) - c), parent);
		else if (*c != 'n')
			refuse_shape(child->key, "An object or null was expected.");
		return;
	}
	if (*c != '[')
		refuse_shape(child->key, "An array of objects was expected.");
	for (c = orion_json_skip_space(c + 1); *c != ']';)
	{
		const char *end = orion_json_skip_value(c);

		if (*c != '{')
			refuse_shape(child->key, "An array of objects was expected.");
		insert_behind(root, child, pnstrdup(c, end - c), parent);
		c = orion_json_skip_space(end);
		if (*c == ',')
			c = orion_json_skip_space(c + 1);
	}
}

/* Does the parent refer to the child, so that the child must be there first? */
static bool
goes_before(const OrionRead *child)
{
	return child->link->to_one && child->link->from_key && !OidIsValid(child->link->junction);
}

/* A member of an object by its name; the last one, as json_to_record has it. */
static const char *
member(const char *object, const char *name)
{
	const char *c = orion_json_skip_space(object + 1);
	const char *found = NULL;

	while (*c != '}')
	{
		const char *end = orion_json_skip_string(c);
		char	   *key = orion_json_key_text(c, end);

		c = orion_json_skip_space(orion_json_skip_space(end) + 1);
		if (strcmp(key, name) == 0)
			found = c;
		c = orion_json_skip_space(orion_json_skip_value(c));
		if (*c == ',')
			c = orion_json_skip_space(c + 1);
	}
	return found;
}

/* The keys of an object as columns and as children (OrionRead *). */
static void
split_keys(const OrionRead *read, char *text, List **names, List **children)
{
	OrionBody	body;
	ListCell   *lc;

	*names = *children = NIL;
	orion_body_first(text, &body);
	foreach(lc, body.keys)
	{
		const OrionRead *child = child_of(read, lfirst(lc));
		OrionColumn column;

		if (orion_source_find_column(read->source, lfirst(lc), &column))
			*names = lappend(*names, lfirst(lc));
		else if (child == NULL)
			orion_write_refuse_column(read->source, lfirst(lc));
		else if (child->link->function)
			refuse_shape(child->key, "A computed relationship cannot be written.");
		else
			*children = lappend(*children, unconstify(OrionRead *, child));
	}
}

static Row *
insert_object(OrionWrite *root, const OrionRead *read, char *text, List *constants, List *returning)
{
	List	   *names;
	List	   *children;
	ListCell   *lc;
	Row		   *row;

	check_stack_depth();
	split_keys(read, text, &names, &children);
	returning = list_copy(returning);
	foreach(lc, children)
	{
		const OrionRead *child = lfirst(lc);
		const OrionRelationship *link = child->link;
		const char *value = member(text, child->key);
		Row		   *before;

		if (!goes_before(child))
		{
			returning = add_column_names(returning, link->n, link->near);
			continue;
		}
		if (*value == 'n')
			continue;
		if (*value != '{')
			refuse_shape(child->key, "An object or null was expected.");
		before = insert_object(root, child, pnstrdup(value, orion_json_skip_value(value) - value), NIL,
							   add_column_names(NIL, link->n, link->far));
		constants = add_constants(list_copy(constants), read->source, link->n, link->near, before, link->far);
	}
	row = insert_row(root, read->source, text, names, constants, returning);
	foreach(lc, children)
		if (!goes_before(lfirst(lc)))
		insert_all_behind(root, lfirst(lc), member(text, ((OrionRead *) lfirst(lc))->key), row);
	return row;
}

/* --- the answer ---------------------------------------------------------------------------- */

/* {"id":"1"} of the row's key */
static void
append_key(StringInfo keys, const Row *row, List *key)
{
	ListCell   *lc;

	appendStringInfoString(keys, keys->len > 1 ? ",{" : "{");
	foreach(lc, key)
	{
		const char *value = value_of(row, lfirst(lc));

		appendStringInfoString(keys, foreach_current_index(lc) > 0 ? "," : "");
		escape_json(keys, lfirst(lc));
		appendStringInfoChar(keys, ':');
		if (value)
			escape_json(keys, value);
		else
			appendStringInfoString(keys, "null");
	}
	appendStringInfoChar(keys, '}');
}

/* "WITH w AS (": the rows of these keys, in their order */
static void
add_rows(OrionWrite *w, const char *keys, List *key)
{
	OrionStatement *st = &w->st;
	ListCell   *lc;

	orion_statement_init(st);
	orion_statement_add(st, "WITH w AS (SELECT ");
	orion_write_add_represented(w);
	orion_statement_add(st, " FROM ROWS FROM (pg_catalog.json_to_recordset(");
	orion_statement_param(st, JSONOID, CStringGetTextDatum(keys));
	orion_statement_add(st, ") AS (");
	foreach(lc, key)
	{
		OrionColumn column;

		orion_source_column(w->source, lfirst(lc), &column);
		orion_statement_add(st, foreach_current_index(lc) > 0 ? ", " : "");
		orion_statement_name(st, lfirst(lc));
		orion_statement_add(st, " ");
		orion_statement_add(st, orion_type_name(column.type, column.typmod));
	}
	orion_statement_add(st, ")) WITH ORDINALITY AS k(");
	for (int i = 0; i < list_length(key); i++)
		orion_statement_add(st, psprintf("k%d, ", i));
	orion_statement_add(st, "n) JOIN ");
	orion_statement_add(st, w->source->quoted);
	orion_statement_add(st, " AS t ON ");
	foreach(lc, key)
	{
		orion_statement_add(st, foreach_current_index(lc) > 0 ? " AND t." : "t.");
		orion_statement_name(st, lfirst(lc));
		orion_statement_add(st, psprintf(" = k.k%d", foreach_current_index(lc)));
	}
	orion_statement_add(st, " ORDER BY k.n");
}

static void
represent(OrionWrite *w, const char *keys, List *key)
{
	w->read->filters = NIL;
	w->read->uncapped = true;
	add_rows(w, keys, key);
	orion_write_add_answer(w);
	orion_statement_run(&w->st, false);
	orion_result_body(w->call, 1, orion_media_empty(w->call));
}

/* Location, of a row that says what the answer of a plain insertion would. */
static void
locate(OrionWrite *w, const Row *row, List *key)
{
	ListCell   *lc;

	orion_statement_init(&w->st);
	orion_statement_add(&w->st, "SELECT 1::pg_catalog.int8, NULL::pg_catalog.json");
	foreach(lc, key)
	{
		orion_statement_add(&w->st, ", ");
		if (value_of(row, lfirst(lc)))
			orion_statement_param(&w->st, TEXTOID, CStringGetTextDatum(value_of(row, lfirst(lc))));
		else
			orion_statement_add(&w->st, "NULL::pg_catalog.text");
	}
	orion_statement_run(&w->st, true);
	w->location = key;
	orion_write_put_location(w);
}

static void
check_request(const OrionWrite *w, List *key)
{
	const OrionCall *call = w->call;

	if (call->prefer.resolution != ORION_RESOLUTION_DEFAULT || call->query.on_conflict)
		orion_refuse(400, "ORION400", "Rows with others in them can only be inserted",
					 "Prefer: resolution and on_conflict do not go with them.", NULL);
	if (call->media.plan)
		orion_refuse(406, "PGRST107", "There is no single plan of rows with others in them", NULL, NULL);
	if (call->prefer.returns == ORION_RETURN_REPRESENTATION && key == NIL)
		orion_refuse(400, "ORION400", psprintf("\"%s\" has no primary key to read the new rows by", w->source->name),
					 NULL, "Send Prefer: return=minimal.");
}

void
orion_nested_insert(OrionWrite *w)
{
	List	   *key = orion_relationship_key(w->source->relid);
	bool		array = w->body.array;
	bool		identified = w->call->prefer.returns == ORION_RETURN_REPRESENTATION ||
	w->call->prefer.returns == ORION_RETURN_HEADERS;
	const char *c = orion_json_skip_space(w->body.text);
	StringInfoData keys;
	Row		   *row = NULL;
	int64		rows = 0;

	orion_media_resolve(w->call, w->source->relid, InvalidOid);
	check_request(w, key);
	w->read = orion_read_make(w->call, w->source);
	initStringInfo(&keys);
	appendStringInfoChar(&keys, '[');
	if (array)
		c = orion_json_skip_space(c + 1);
	while (*c == '{')
	{
		const char *end = orion_json_skip_value(c);

		row = insert_object(w, w->read, pnstrdup(c, end - c), NIL, identified ? key : NIL);
		if (identified)
			append_key(&keys, row, key);
		rows++;
		c = orion_json_skip_space(end);
		if (*c == ',')
			c = orion_json_skip_space(c + 1);
	}
	appendStringInfoChar(&keys, ']');
	orion_write_finish(w, rows);
	if (w->call->prefer.returns == ORION_RETURN_REPRESENTATION)
		represent(w, keys.data, key);
	else if (identified && rows == 1 && key != NIL)
		locate(w, row, key);
}
