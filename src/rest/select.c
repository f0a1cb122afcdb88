/*
 * select.c
 *	  Writes the statement of a tree of relations: columns, embedded relations as
 *	  lateral joins, aggregates.
 *
 * A child is a lateral subquery.  A to-one child is a row of it, so that its
 * columns can be sorted by and spread; a to-many child is its rows as one JSON array
 * and their number.  The columns of a spread child are named c0, c1, ... in there, as
 * names may come twice.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/tupdesc.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "rest/error.h"
#include "rest/read.h"
#include "rest/settings.h"

/* A column of what a relation gives. */
typedef struct Output
{
	const char *name;
	const OrionSelect *item;	/* a column, maybe aggregated; or */
	bool		star;			/* all columns; or */
	const OrionRead *child;		/* an embedded relation; if it is spread ... */
	const struct Output *sub;	/* ... this column of it ... */
	int			position;		/* ... that has this number there */
} Output;

static const char *const aggregates[] = {
	[ORION_AGGREGATE_NONE] = "",
	[ORION_AGGREGATE_COUNT] = "count",
	[ORION_AGGREGATE_SUM] = "sum",
	[ORION_AGGREGATE_AVG] = "avg",
	[ORION_AGGREGATE_MAX] = "max",
	[ORION_AGGREGATE_MIN] = "min",
};

/* Aggregates of a row that there is at most once are those of its parent. */
static bool
hoists(const OrionRead *read)
{
	return read->spread && read->link->to_one;
}

static const char *
item_name(const OrionSelect *item)
{
	const char *name = item->name;

	if (item->alias)
		return item->alias;
	if (item->aggregate != ORION_AGGREGATE_NONE)
		return aggregates[item->aggregate];
	for (const OrionStep *step = item->steps; step; step = step->next)
		if (!step->index)
			name = step->key;
	return name;
}

static List *
add_item(List *outputs, const OrionSelect *item)
{
	Output	   *output = palloc0(sizeof(Output));

	output->item = item;
	output->name = item_name(item);
	return lappend(outputs, output);
}

/* Every column of the source by its name. */
static List *
expand_star(List *outputs, const OrionSource *source)
{
	Relation	relation;

	if (!OidIsValid(source->relid))
	{
		for (int i = 0; i < source->ncolumns; i++)
		{
			OrionSelect *item = palloc0(sizeof(OrionSelect));

			item->name = source->columns[i].name;
			outputs = add_item(outputs, item);
		}
		return outputs;
	}
	relation = relation_open(source->relid, AccessShareLock);
	for (int i = 0; i < RelationGetNumberOfAttributes(relation); i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(relation), i);
		OrionSelect *item = palloc0(sizeof(OrionSelect));

		item->name = pstrdup(NameStr(att->attname));
		if (!att->attisdropped)
			outputs = add_item(outputs, item);
	}
	relation_close(relation, AccessShareLock);
	return outputs;
}

static bool
has_aggregate(const OrionRead *read)
{
	const OrionRead *child = read->first;

	for (const OrionSelect *item = read->select; item; item = item->next)
	{
		if (item->aggregate != ORION_AGGREGATE_NONE)
			return true;
		if (!item->embed)
			continue;
		if (hoists(child) && has_aggregate(child))
			return true;
		child = child->next;
	}
	return false;
}

static List *
add_star(List *outputs, const OrionRead *read)
{
	Output	   *output;

	if (read->spread || has_aggregate(read) ||
		(OidIsValid(read->source->relid) && !read->typed && orion_relation_represents(read->source->relid)))
		return expand_star(outputs, read->source);
	output = palloc0(sizeof(Output));
	output->star = true;
	return lappend(outputs, output);
}

static bool
is_empty(const OrionRead *read)
{
	for (const OrionSelect *item = read->select; item; item = item->next)
		if (!item->embed)
			return false;
	for (const OrionRead *child = read->first; child; child = child->next)
		if (!is_empty(child))
			return false;
	return true;
}

static List *list_outputs(const OrionRead *read);

static List *
add_child(List *outputs, const OrionRead *child)
{
	Output	   *output;
	ListCell   *lc;

	if (is_empty(child))
		return outputs;
	if (!child->spread)
	{
		output = palloc0(sizeof(Output));
		output->name = child->key;
		output->child = child;
		return lappend(outputs, output);
	}
	foreach(lc, list_outputs(child))
	{
		output = palloc0(sizeof(Output));
		output->sub = lfirst(lc);
		output->name = output->sub->name;
		output->child = child;
		output->position = foreach_current_index(lc);
		outputs = lappend(outputs, output);
	}
	return outputs;
}

static List *
list_outputs(const OrionRead *read)
{
	const OrionRead *child = read->first;
	List	   *outputs = NIL;

	if (read->select == NULL && read->link == NULL)
		return add_star(NIL, read);
	for (const OrionSelect *item = read->select; item; item = item->next)
	{
		if (item->embed)
		{
			outputs = add_child(outputs, child);
			child = child->next;
		}
		else if (item->name && strcmp(item->name, "*") == 0)
			outputs = add_star(outputs, read);
		else
			outputs = add_item(outputs, item);
	}
	return outputs;
}

int
orion_read_position(const OrionRead *read, const char *name)
{
	ListCell   *lc;

	if (read->spread)
		foreach(lc, list_outputs(read))
	{
		const Output *output = lfirst(lc);

		if (strcmp(output->name, name) == 0 || (output->item && output->item->name && strcmp(output->item->name, name) == 0))
			return foreach_current_index(lc);
	}
	return -1;
}

static bool
shows_column(const OrionRead *read, const Output *output, const char *column)
{
	const OrionSelect *item = output->item;
	OrionColumn found;

	if (output->star)
		return get_attnum(read->source->relid, column) > 0;
	return item && item->name && strcmp(item->name, column) == 0 && item->steps == NULL && item->cast == NULL &&
		item->aggregate == ORION_AGGREGATE_NONE && orion_source_find_column(read->source, column, &found) &&
		orion_type_cast_function(found.type, JSONOID) == NULL;
}

const char *
orion_read_shown(const OrionRead *child, const OrionName *name)
{
	List	   *outputs = child->spread || name->steps ? NIL : list_outputs(child);
	const char *shown = NULL;
	int			n = 0;
	ListCell   *lc;

	foreach(lc, outputs)
	{
		const Output *output = lfirst(lc);

		if (shown == NULL && shows_column(child, output, name->column))
			shown = output->star ? name->column : output->name;
	}
	foreach(lc, shown ? outputs : NIL)
	{
		const Output *output = lfirst(lc);

		n += output->star ? get_attnum(child->source->relid, shown) > 0 : strcmp(output->name, shown) == 0;
	}
	return n == 1 ? shown : NULL;
}

/* Is the output of type json? (columns of that type aside) */
static bool
is_json(const Output *output)
{
	if (output->item)
		return false;
	return output->sub == NULL || !output->child->link->to_one || is_json(output->sub);
}

/* The aggregate that is still to be applied where the output is written; or NULL. */
static const OrionSelect *
pending(const Output *output)
{
	if (output->item)
		return output->item->aggregate != ORION_AGGREGATE_NONE ? output->item : NULL;
	return output->sub && hoists(output->child) ? pending(output->sub) : NULL;
}

static void
add_field(OrionStatement *st, const OrionRead *read, const OrionSelect *item)
{
	OrionName	name = {.column = item->name,.steps = item->steps};
	OrionColumn column;
	const char *represent;

	if (item->name == NULL)
	{
		orion_statement_add(st, "1");
		return;
	}
	if (item->cast)
		orion_statement_add(st, "CAST (");
	represent = item->steps || read->typed || !orion_source_find_column(read->source, item->name, &column) ? NULL :
		orion_type_cast_function(column.type, JSONOID);
	if (represent)
	{
		orion_statement_add(st, represent);
		orion_statement_add(st, "(");
	}
	orion_filter_field(st, read, &name);
	if (represent)
		orion_statement_add(st, ")");
	if (item->cast)
	{
		orion_statement_add(st, " AS ");
		orion_statement_type(st, item->cast);
		orion_statement_add(st, ")");
	}
}

/* json has no equality, so groups are made by jsonb */
static void
add_embedded(OrionStatement *st, const OrionRead *child, bool grouped)
{
	const char *e = child->lateral;

	if (!child->link->to_one)
		orion_statement_add(st, psprintf(grouped ? "COALESCE(%s.j, '[]')::pg_catalog.jsonb" : "COALESCE(%s.j, '[]')", e));
	else if (child->hidden != NIL)
		orion_statement_add(st, psprintf(grouped ? "%s.j::pg_catalog.jsonb" : "%s.j", e));
	else
		orion_statement_add(st, psprintf(grouped ? "pg_catalog.to_jsonb(%s.*)" : "pg_catalog.row_to_json(%s.*)", e));
}

static void
add_expression(OrionStatement *st, const OrionRead *read, const Output *output, bool grouped)
{
	if (output->item)
		add_field(st, read, output->item);
	else if (output->sub == NULL)
		add_embedded(st, output->child, grouped);
	else if (output->child->link->to_one)
		orion_statement_add(st, psprintf("%s.c%d%s", output->child->lateral, output->position,
										 grouped && is_json(output) ? "::pg_catalog.jsonb" : ""));
	else
		orion_statement_add(st, psprintf("COALESCE(%s.c%d, '[]')%s", output->child->lateral, output->position,
										 grouped ? "::pg_catalog.jsonb" : ""));
}

static void
add_aggregate(OrionStatement *st, const OrionRead *read, const Output *output, const OrionSelect *item)
{
	if (item->aggregate_cast)
		orion_statement_add(st, "CAST (");
	/* not in pg_catalog only: extensions have their own sum() and avg() */
	orion_statement_add(st, aggregates[item->aggregate]);
	orion_statement_add(st, "(");
	if (item->name == NULL && output->item == item)
		orion_statement_add(st, "*");
	else
		add_expression(st, read, output, false);
	orion_statement_add(st, ")");
	if (item->aggregate_cast)
	{
		orion_statement_add(st, " AS ");
		orion_statement_type(st, item->aggregate_cast);
		orion_statement_add(st, ")");
	}
}

static void
add_output(OrionStatement *st, const OrionRead *read, const Output *output, int position, bool grouped)
{
	const OrionSelect *aggregate = grouped ? pending(output) : NULL;

	if (output->star)
	{
		orion_statement_add(st, read->alias);
		orion_statement_add(st, ".*");
		return;
	}
	if (aggregate)
		add_aggregate(st, read, output, aggregate);
	else
		add_expression(st, read, output, grouped || read->as_text);
	orion_statement_add(st, " AS ");
	if (read->spread)
		orion_statement_add(st, psprintf("c%d", position));
	else
		orion_statement_name(st, output->name);
}

static bool
is_grouped(const OrionRead *read)
{
	return !(read->link && hoists(read)) && has_aggregate(read);
}

static void
add_outputs(OrionStatement *st, const OrionRead *read)
{
	bool		grouped = is_grouped(read);
	const char *joint = " ";
	ListCell   *lc;

	foreach(lc, list_outputs(read))
	{
		orion_statement_add(st, joint);
		add_output(st, read, lfirst(lc), foreach_current_index(lc), grouped);
		joint = ", ";
	}
}

/* A column that a cast to json shows is what its value is, not its JSON, which knows no equality. */
static void
add_group_term(OrionStatement *st, const OrionRead *read, const Output *output, int position)
{
	const OrionSelect *item = output->item;
	OrionName	name = {.column = item ? item->name : NULL};
	OrionColumn column;

	if (item && item->steps == NULL && item->cast == NULL && !read->typed &&
		orion_source_find_column(read->source, item->name, &column) &&
		orion_type_cast_function(column.type, JSONOID))
		orion_filter_field(st, read, &name);
	else
		orion_statement_add(st, psprintf("%d", position + 1));
}

static void
add_group(OrionStatement *st, const OrionRead *read)
{
	const char *joint = " GROUP BY ";
	ListCell   *lc;

	if (!is_grouped(read))
		return;
	foreach(lc, list_outputs(read))
	{
		if (pending(lfirst(lc)))
			continue;
		orion_statement_add(st, joint);
		add_group_term(st, read, lfirst(lc), foreach_current_index(lc));
		joint = ", ";
	}
}

static void
add_limit(OrionStatement *st, const OrionRead *read)
{
	int64		limit = read->has_limit ? read->limit : PG_INT64_MAX;

	if (orion_rest_max_rows >= 0 && !read->uncapped && !(read->link && read->link->to_one))
		limit = Min(limit, orion_rest_max_rows);
	if (limit != PG_INT64_MAX)
	{
		orion_statement_add(st, " LIMIT ");
		orion_statement_param(st, INT8OID, Int64GetDatum(limit));
	}
	if (read->has_offset)
	{
		orion_statement_add(st, " OFFSET ");
		orion_statement_param(st, INT8OID, Int64GetDatum(read->offset));
	}
}

/* Where the rows of a child come from. */
static void
add_child_source(OrionStatement *st, const OrionRead *child)
{
	const OrionRelationship *link = child->link;

	orion_statement_add(st, child->source->quoted);
	if (link->function)
	{
		const OrionSource *row = child->parent->source;

		orion_statement_add(st, "(");
		orion_statement_add(st, child->parent->alias);
		/* the row of a CTE has no type of its own */
		orion_statement_add(st, "::");
		orion_statement_add(st, orion_type_name(get_rel_type_id(row->relid), -1));
		orion_statement_add(st, ")");
	}
	orion_statement_add(st, " AS ");
	orion_statement_add(st, child->alias);
	if (OidIsValid(link->junction))
	{
		orion_statement_add(st, " CROSS JOIN ");
		orion_statement_add(st, quote_qualified_identifier(get_namespace_name(get_rel_namespace(link->junction)),
														   get_rel_name(link->junction)));
		orion_statement_add(st, psprintf(" AS j%s", child->alias));
	}
}

static void add_laterals(OrionStatement *st, const OrionRead *read);

/* " FROM ..." and all that follows, in the subquery of a child */
static void
add_child_rest(OrionStatement *st, const OrionRead *child)
{
	orion_statement_add(st, " FROM ");
	add_child_source(st, child);
	add_laterals(st, child);
	orion_filter_where(st, child);
	add_group(st, child);
	orion_filter_order(st, child);
	add_limit(st, child);
}

static void
add_hidden(OrionStatement *st, const OrionRead *child)
{
	ListCell   *lc;

	foreach(lc, child->hidden)
	{
		const OrionOrder *order = lfirst(lc);
		OrionName	name = {.column = order->name.column,.steps = order->name.steps};

		if (!name.steps && orion_read_position(child, name.column) >= 0)
			continue;
		orion_statement_add(st, ", ");
		orion_filter_field(st, child, &name);
		orion_statement_add(st, psprintf(" AS o%d", foreach_current_index(lc)));
	}
}

static void
add_to_one(OrionStatement *st, const OrionRead *child)
{
	bool		empty = list_outputs(child) == NIL;
	bool		wrapped = child->hidden != NIL && !child->spread;

	orion_statement_add(st, wrapped ? "SELECT (SELECT pg_catalog.row_to_json(r.*) FROM (SELECT" : "SELECT");
	if (empty)
		orion_statement_add(st, " 1 AS c");
	add_outputs(st, child);
	if (wrapped)
		orion_statement_add(st, ") AS r) AS j");
	add_hidden(st, child);
	add_child_rest(st, child);
}

static void
add_to_many(OrionStatement *st, const OrionRead *child)
{
	int			columns = child->spread ? list_length(list_outputs(child)) : 0;

	orion_statement_add(st, "SELECT pg_catalog.count(*) AS n");
	if (!child->spread)
		orion_statement_add(st, ", pg_catalog.json_agg(r.*) AS j");
	for (int i = 0; i < columns; i++)
		orion_statement_add(st, psprintf(", pg_catalog.json_agg(r.c%d) AS c%d", i, i));
	orion_statement_add(st, " FROM (SELECT");
	add_outputs(st, child);
	add_child_rest(st, child);
	orion_statement_add(st, ") AS r");
}

static bool
names_child(const OrionFilter *filter, const OrionRead *read, const OrionRead *child)
{
	for (; filter; filter = filter->next)
		if (filter->kind == ORION_FILTER_TEST ?
			orion_read_named(read, filter->name.column) == child :
			names_child(filter->first, read, child))
			return true;
	return false;
}

static bool
decides_rows(const OrionRead *read, const OrionRead *child)
{
	ListCell   *lc;

	if (child->inner)
		return true;
	foreach(lc, read->filters)
		if (names_child(lfirst(lc), read, child))
		return true;
	return false;
}

/* A child that is aggregated, or of which only a part is read, may have other rows than its WHERE says. */
bool
orion_read_by_exists(const OrionRead *child)
{
	return !has_aggregate(child) && !child->has_offset && !(child->has_limit && child->limit <= 0);
}

void
orion_read_exists(OrionStatement *st, const OrionRead *child)
{
	orion_statement_add(st, "EXISTS (SELECT 1 FROM ");
	add_child_source(st, child);
	add_laterals(st, child);
	orion_filter_where(st, child);
	orion_statement_add(st, ")");
}

/* The children; to count, only those that rows depend on in a way that WHERE does not tell. */
static void
add_laterals(OrionStatement *st, const OrionRead *read)
{
	for (const OrionRead *child = read->first; child; child = child->next)
	{
		if (read->counting && (orion_read_by_exists(child) || !decides_rows(read, child)))
			continue;
		orion_statement_add(st, child->inner ? " INNER JOIN LATERAL (" : " LEFT JOIN LATERAL (");
		if (child->link->to_one)
			add_to_one(st, child);
		else
			add_to_many(st, child);
		orion_statement_add(st, ") AS ");
		orion_statement_add(st, child->lateral);
		orion_statement_add(st, child->inner && !child->link->to_one ? psprintf(" ON %s.n > 0", child->lateral) : " ON true");
	}
}

void
orion_read_begin(OrionStatement *st, const OrionRead *read)
{
	orion_statement_add(st, "SELECT");
	add_outputs(st, read);
	orion_statement_add(st, " FROM ");
}

void
orion_read_end(OrionStatement *st, const OrionRead *read)
{
	orion_statement_add(st, " AS t");
	add_laterals(st, read);
	orion_filter_where(st, read);
	add_group(st, read);
	orion_filter_order(st, read);
	add_limit(st, read);
}

void
orion_read_begin_count(OrionStatement *st)
{
	orion_statement_add(st, "SELECT 1 FROM ");
}

static void
set_counting(OrionRead *read, bool counting)
{
	read->counting = counting;
	for (OrionRead *child = read->first; child; child = child->next)
		set_counting(child, counting);
}

void
orion_read_end_count(OrionStatement *st, const OrionRead *read)
{
	set_counting(unconstify(OrionRead *, read), true);
	orion_statement_add(st, " AS t");
	add_laterals(st, read);
	orion_filter_where(st, read);
	set_counting(unconstify(OrionRead *, read), false);
}

/* Clauses alone, of a source without embedded relations. */
void
orion_statement_where(OrionStatement *st, const OrionSource *source, const OrionFilter *filters)
{
	OrionRead	read = {.source = source,.alias = "t"};

	if (filters)
		read.filters = list_make1(unconstify(OrionFilter *, filters));
	orion_filter_where(st, &read);
}

void
orion_statement_limit(OrionStatement *st, const OrionQuery *query)
{
	OrionRead	read = {
		.has_limit = query->has_limit,
		.limit = query->limit,
		.has_offset = query->has_offset,
		.offset = query->offset,
	};

	add_limit(st, &read);
}
