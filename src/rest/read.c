/*
 * read.c
 *	  The tree of relations a request reads: made from the query and the catalog.
 *
 * Each embedded relation is found here, with its relationship to its parent, before
 * any statement is written; select.c writes it.
 */
#include "postgres.h"

#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "rest/error.h"
#include "rest/read.h"
#include "rest/response.h"
#include "rest/settings.h"

typedef struct Maker
{
	const OrionCall *call;
	int			number;			/* of the relation made last */
} Maker;

OrionRead *
orion_read_named(const OrionRead *read, const char *name)
{
	for (OrionRead *child = read->first; child; child = child->next)
		if (strcmp(child->key, name) == 0)
			return child;
	return NULL;
}

OrionRead *
orion_read_child(const OrionRead *read, const char *name)
{
	OrionRead  *named = orion_read_named(read, name);

	if (named)
		return named;
	for (OrionRead *child = read->first; child && orion_rest_legacy_target_names; child = child->next)
		if (strcmp(child->relation, name) == 0)
			return child;
	return NULL;
}

static void
refuse_aggregate(const OrionSelect *item)
{
	if (item->aggregate != ORION_AGGREGATE_NONE && !orion_rest_aggregates_enabled)
		orion_refuse(400, "PGRST123", "Use of aggregate functions is not allowed", NULL, NULL);
}

/* As PostgREST once had it: "count" that is no column counts the rows. */
static void
read_count(const OrionRead *read, OrionSelect *item)
{
	OrionColumn column;

	if (item->embed || item->steps || item->aggregate != ORION_AGGREGATE_NONE || item->name == NULL ||
		strcmp(item->name, "count") != 0 || !OidIsValid(read->source->relid) ||
		orion_source_find_column(read->source, item->name, &column))
		return;
	item->aggregate = ORION_AGGREGATE_COUNT;
	item->name = NULL;
	if (item->cast)
		item->aggregate_cast = item->cast;
	item->cast = NULL;
}

static OrionSource *
target_source(const OrionRelationship *link)
{
	OrionSource *source = palloc0(sizeof(OrionSource));

	source->relid = link->target;
	source->relkind = get_rel_relkind(link->target);
	source->name = get_rel_name(link->target);
	source->quoted = link->function ? link->function :
		quote_qualified_identifier(get_namespace_name(get_rel_namespace(link->target)), source->name);
	return source;
}

static void make_children(Maker *maker, OrionRead *read);

static OrionRead *
make_child(Maker *maker, OrionRead *parent, const OrionSelect *item)
{
	OrionRead  *child = palloc0(sizeof(OrionRead));

	maker->number++;
	child->link = orion_relationship_find(maker->call->schema, parent->source, item->name, item->hint);
	child->source = target_source(child->link);
	child->alias = psprintf("t%d", maker->number);
	child->lateral = psprintf("e%d", maker->number);
	child->relation = item->name;
	child->key = item->alias ? item->alias : item->name;
	child->select = item->first;
	child->inner = item->inner;
	child->spread = item->spread;
	child->parent = parent;
	make_children(maker, child);
	for (const OrionSelect *field = item->first; field && item->spread && !child->link->to_one; field = field->next)
		if (field->aggregate != ORION_AGGREGATE_NONE)
			orion_refuse(400, "PGRST127", "Feature not implemented",
						 "Aggregates are not implemented for one-to-many or many-to-many spreads.", NULL);
	return child;
}

static void
make_children(Maker *maker, OrionRead *read)
{
	OrionRead **tail = &read->first;

	for (const OrionSelect *item = read->select; item; item = item->next)
	{
		refuse_aggregate(item);
		read_count(read, unconstify(OrionSelect *, item));
		if (!item->embed)
			continue;
		*tail = make_child(maker, read, item);
		tail = &(*tail)->next;
	}
}

static void
refuse_absent(const char *name)
{
	orion_refuse(400, "PGRST108", psprintf("'%s' is not an embedded resource in this request", name), NULL,
				 psprintf("Verify that '%s' is included in the 'select' query parameter.", name));
}

static void
refuse_embed(const OrionRead *read, const char *name)
{
	for (const OrionRead *child = read->first; child; child = child->next)
		if (strcmp(child->relation, name) == 0)
			orion_refuse(400, "PGRST108", psprintf("'%s' is not an embedded resource in this request", name),
						 "Target names are not allowed in filters if they have an alias",
						 psprintf("Change '%s' to '%s' in filters, orders or limits.", name, child->key));
	refuse_absent(name);
}

/* What parameters say of embedded relations goes to them. */
static void
apply_scope(OrionRead *read, const OrionScope *scope)
{
	for (const OrionPath *step = scope->path; step; step = step->next)
	{
		OrionRead  *child = orion_read_child(read, step->name);

		if (child == NULL)
			refuse_embed(read, step->name);
		child->misnamed |= strcmp(child->key, step->name) != 0;
		read = child;
	}
	if (scope->filters)
		read->filters = lappend(read->filters, scope->filters);
	if (scope->order)
		read->order = scope->order;

	/*
	 * scopes come from the last to the first: the last limit counts, the
	 * first order
	 */
	if (scope->has_limit && !read->has_limit)
	{
		read->has_limit = true;
		read->limit = scope->limit;
	}
	if (scope->has_offset && !read->has_offset)
	{
		read->has_offset = true;
		read->offset = scope->offset;
	}
}

/* A relation sorted by a column of a to-one child has that column in the child. */
static void
apply_orders(OrionRead *read)
{
	for (const OrionOrder *order = read->order; order; order = order->next)
	{
		OrionRead  *child;

		if (order->name.embed == NULL)
			continue;
		child = orion_read_named(read, order->name.embed);
		if (child == NULL)
			refuse_absent(order->name.embed);
		if (!child->link->to_one)
			orion_refuse(400, "PGRST118", psprintf("A related order on '%s' is not possible", order->name.embed),
						 psprintf("'%s' and '%s' do not form a many-to-one or one-to-one relationship",
								  read->source->name, order->name.embed), NULL);
		if (orion_read_shown(child, &order->name) == NULL)
			child->hidden = lappend(child->hidden, unconstify(OrionOrder *, order));
	}
	for (OrionRead *child = read->first; child; child = child->next)
		apply_orders(child);
}

static void
list_misnamed(StringInfo text, const OrionRead *read)
{
	if (read->misnamed)
		appendStringInfo(text, "%s`%s` to `%s`", text->len > 0 ? ", " : "", read->relation, read->key);
	for (const OrionRead *child = read->first; child; child = child->next)
		list_misnamed(text, child);
}

/* RFC 7234, section 5.5: the names will not be understood for ever. */
static void
warn_misnamed(const OrionCall *call, const OrionRead *read)
{
	StringInfoData text;

	initStringInfo(&text);
	list_misnamed(&text, read);
	if (text.len > 0)
		(void) orion_response_put(call->response, "Warning",
								  psprintf("299 Orion \"Embedded resource was referenced by relation name even though it has an alias. "
										   "This is deprecated and will stop working in a future release. "
										   "Update %s in query string filters, orders or limits.\"", text.data));
}

OrionRead *
orion_read_make(const OrionCall *call, const OrionSource *source)
{
	const OrionQuery *query = &call->query;
	OrionRead  *read = palloc0(sizeof(OrionRead));
	Maker		maker = {.call = call};

	read->source = source;
	read->alias = "t";
	read->as_text = call->media.format == ORION_FORMAT_CSV || call->media.format == ORION_FORMAT_CUSTOM;
	read->select = query->select;
	if (query->filters)
		read->filters = list_make1(query->filters);
	read->order = query->order;
	read->has_limit = query->has_limit;
	read->limit = query->limit;
	read->has_offset = query->has_offset;
	read->offset = query->offset;
	make_children(&maker, read);
	for (const OrionScope *scope = query->scopes; scope; scope = scope->next)
		apply_scope(read, scope);
	apply_orders(read);
	warn_misnamed(call, read);
	return read;
}

static List *
add_name(List *names, const char *name)
{
	ListCell   *lc;

	foreach(lc, names)
		if (strcmp(lfirst(lc), name) == 0)
		return names;
	return lappend(names, unconstify(char *, name));
}

List *
orion_read_columns(const OrionRead *read, bool *all)
{
	List	   *names = NIL;

	*all = read->select == NULL;
	for (const OrionSelect *item = read->select; item; item = item->next)
	{
		if (item->embed || item->name == NULL)
			continue;
		if (strcmp(item->name, "*") == 0)
			*all = true;
		else
			names = add_name(names, item->name);
	}
	for (const OrionRead *child = read->first; child; child = child->next)
	{
		*all |= child->link->function != NULL;
		for (int i = 0; i < child->link->n; i++)
			names = add_name(names, child->link->near[i]);
	}
	for (const OrionOrder *order = read->order; order; order = order->next)
		if (order->name.embed == NULL)
			names = add_name(names, order->name.column);
	return names;
}
