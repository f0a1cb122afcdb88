/*
 * relationship.c
 *	  Finds relationships: over foreign keys, through views and junction tables,
 *	  and those that functions compute.
 *
 * Foreign keys come from the relcache: a table's own from its list of foreign keys,
 * those that point at it from its triggers.  What a view's columns are is in its
 * rule, which the relcache keeps as well.  Only views as junctions of tables of
 * other schemas are looked up by an index of the catalog.  Nothing is kept here, and a change is seen by the next request.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_rewrite.h"
#include "commands/trigger.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/primnodes.h"
#include "rewrite/prs2lock.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/catcache.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/syscache.h"

#include "rest/error.h"
#include "rest/hint.h"
#include "rest/relationship.h"
#include "rest/settings.h"

/* Views over views: far more than anybody writes. */
#define MAX_VIEW_DEPTH	32

/* Ways in which one view shows one key. */
#define MAX_CHOICES		64

/* A base table and where its columns are in the relation looked at. */
typedef struct Origin
{
	Oid			base;
	bool		self;			/* is the table itself */
	List	   *attributes;		/* AttrNumber in the base ... */
	List	   *columns;		/* ... char * in the view, of the same length */
} Origin;

/* A foreign key, as its table declares it. */
typedef struct Link
{
	Oid			from;
	Oid			to;
	const char *name;
	bool		unique;			/* at most one row of from for one of to */
	int			n;
	AttrNumber	from_columns[INDEX_MAX_KEYS];
	AttrNumber	to_columns[INDEX_MAX_KEYS];
} Link;

typedef struct Search
{
	const char *schema;
	Oid			namespace;
	const OrionSource *origin;
	List	   *origins;		/* Origin *, of the origin; of the target: */
	Oid			target;			/* of that name, or InvalidOid */
	List	   *target_origins;
	const char *name;
	const char *hint;
	List	   *found;			/* OrionRelationship * */
} Search;

/* The columns (char *) of the relation that show an attribute of the base; a view may have several. */
static List *
origin_columns(const Origin *origin, Oid relid, AttrNumber attribute)
{
	List	   *columns = NIL;
	ListCell   *a;
	ListCell   *c;

	if (origin->self)
		return list_make1(get_attname(relid, attribute, false));
	forboth(a, origin->attributes, c, origin->columns)
		if (lfirst_int(a) == attribute)
		columns = lappend(columns, lfirst(c));
	return columns;
}

static void
add_origin(List **origins, Oid base, AttrNumber attribute, const char *column)
{
	Origin	   *origin = NULL;
	ListCell   *lc;

	foreach(lc, *origins)
		if (((Origin *) lfirst(lc))->base == base)
		origin = lfirst(lc);
	if (origin == NULL)
	{
		origin = palloc0(sizeof(Origin));
		origin->base = base;
		*origins = lappend(*origins, origin);
	}
	origin->attributes = lappend_int(origin->attributes, attribute);
	origin->columns = lappend(origin->columns, unconstify(char *, column));
}

static List *origins_below(Oid relid, List *above);

/* One column of a view that shows column attribute of a view with these origins. */
static void
add_inner(List **origins, List *inner_origins, Oid shown, AttrNumber attribute, const char *column)
{
	char	   *inner = get_attname(shown, attribute, true);
	ListCell   *o;

	foreach(o, inner_origins)
	{
		Origin	   *origin = lfirst(o);
		ListCell   *a;
		ListCell   *c;

		forboth(a, origin->attributes, c, origin->columns)
			if (inner && strcmp(lfirst(c), inner) == 0)
			add_origin(origins, origin->base, lfirst_int(a), column);
	}
}

/* Of one view shown by another, looked up once for all its columns. */
typedef struct Inner
{
	Oid			shown;
	List	   *origins;
} Inner;

static List *
inner_origins(List **known, Oid shown, List *above)
{
	Inner	   *inner;
	ListCell   *lc;

	foreach(lc, *known)
		if (((Inner *) lfirst(lc))->shown == shown)
		return ((Inner *) lfirst(lc))->origins;
	inner = palloc(sizeof(Inner));
	inner->shown = shown;
	inner->origins = origins_below(shown, above);
	*known = lappend(*known, inner);
	return inner->origins;
}

/* The columns of a view's rule; above: the views that show it, and itself. */
static List *
view_origins(Relation view, List *above)
{
	List	   *origins = NIL;
	List	   *known = NIL;

	for (int i = 0; view->rd_rules && i < view->rd_rules->numLocks; i++)
	{
		RewriteRule *rule = view->rd_rules->rules[i];
		ListCell   *lc;

		if (rule->event != CMD_SELECT)
			continue;
		foreach(lc, linitial_node(Query, rule->actions)->targetList)
		{
			TargetEntry *entry = lfirst_node(TargetEntry, lc);
			char	   *column;
			char		relkind;

			if (entry->resjunk || !OidIsValid(entry->resorigtbl) || entry->resorigcol <= 0 ||
				entry->resno > RelationGetNumberOfAttributes(view))
				continue;
			column = pstrdup(NameStr(TupleDescAttr(RelationGetDescr(view), entry->resno - 1)->attname));
			relkind = get_rel_relkind(entry->resorigtbl);
			if (relkind == RELKIND_VIEW || relkind == RELKIND_MATVIEW)
				add_inner(&origins, inner_origins(&known, entry->resorigtbl, above),
						  entry->resorigtbl, entry->resorigcol, column);
			else
				add_origin(&origins, entry->resorigtbl, entry->resorigcol, column);
		}
	}
	return origins;
}

/* A view may be made to show itself by CREATE OR REPLACE. */
static List *
origins_below(Oid relid, List *above)
{
	Relation	relation;
	List	   *origins;

	if (list_length(above) > MAX_VIEW_DEPTH || list_member_oid(above, relid) ||
		(relation = try_relation_open(relid, AccessShareLock)) == NULL)
		return NIL;
	if (relation->rd_rel->relkind == RELKIND_VIEW || relation->rd_rel->relkind == RELKIND_MATVIEW)
		origins = view_origins(relation, lappend_oid(list_copy(above), relid));
	else
	{
		Origin	   *self = palloc0(sizeof(Origin));

		self->base = relid;
		self->self = true;
		origins = list_make1(self);
	}
	relation_close(relation, AccessShareLock);
	return origins;
}

/* The tables behind a relation; for a table itself. */
static List *
find_origins(Oid relid)
{
	return origins_below(relid, NIL);
}

/* Is there a unique index on just these columns? */
static bool
columns_unique(Relation relation, const AttrNumber *columns, int n)
{
	ListCell   *lc;
	bool		unique = false;

	foreach(lc, RelationGetIndexList(relation))
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);
		Form_pg_index form = index->rd_index;
		bool		same = form->indisunique && form->indnkeyatts == n &&
		RelationGetIndexPredicate(index) == NIL;

		for (int i = 0; same && i < n; i++)
		{
			bool		has = false;

			for (int k = 0; k < n; k++)
				has |= form->indkey.values[i] == columns[k];
			same = has;
		}
		index_close(index, AccessShareLock);
		unique |= same;
	}
	return unique;
}

/* The foreign keys of a table, but those it has as a partition. */
static List *
outgoing(Oid table)
{
	Relation	relation = try_relation_open(table, AccessShareLock);
	List	   *links = NIL;
	ListCell   *lc;

	if (relation == NULL)
		return NIL;
	foreach(lc, copyObject(RelationGetFKeyList(relation)))
	{
		ForeignKeyCacheInfo *info = lfirst(lc);
		HeapTuple	tuple = SearchSysCache1(CONSTROID, ObjectIdGetDatum(info->conoid));
		Form_pg_constraint form;

		if (!HeapTupleIsValid(tuple))
			continue;
		form = (Form_pg_constraint) GETSTRUCT(tuple);
		if (!OidIsValid(form->conparentid))
		{
			Link	   *link = palloc0(sizeof(Link));

			link->from = table;
			link->to = info->confrelid;
			link->name = pstrdup(NameStr(form->conname));
			link->n = info->nkeys;
			memcpy(link->from_columns, info->conkey, info->nkeys * sizeof(AttrNumber));
			memcpy(link->to_columns, info->confkey, info->nkeys * sizeof(AttrNumber));
			link->unique = columns_unique(relation, link->from_columns, link->n);
			links = lappend(links, link);
		}
		ReleaseSysCache(tuple);
	}
	relation_close(relation, AccessShareLock);
	return links;
}

/* The foreign keys that point at a table. */
static List *
incoming(Oid table)
{
	Relation	relation = try_relation_open(table, AccessShareLock);
	List	   *tables = NIL;
	List	   *links = NIL;
	ListCell   *t;
	ListCell   *l;

	if (relation == NULL)
		return NIL;
	for (int i = 0; relation->trigdesc && i < relation->trigdesc->numtriggers; i++)
	{
		Trigger    *trigger = &relation->trigdesc->triggers[i];

		if (OidIsValid(trigger->tgconstrrelid) && RI_FKey_trigger_type(trigger->tgfoid) == RI_TRIGGER_PK)
			tables = list_append_unique_oid(tables, trigger->tgconstrrelid);
	}
	relation_close(relation, AccessShareLock);
	foreach(t, tables)
		foreach(l, outgoing(lfirst_oid(t)))
		if (((Link *) lfirst(l))->to == table)
		links = lappend(links, lfirst(l));
	return links;
}

/*
 * The columns of a link's side in a relation (const char **), as many ways as a view
 * shows them; NIL when it does not show them all.
 */
static List *
side_choices(const Origin *origin, Oid relid, const AttrNumber *attributes, int n)
{
	List	   *choices = list_make1(palloc0(n * sizeof(char *)));

	for (int i = 0; i < n; i++)
	{
		List	   *columns = origin_columns(origin, relid, attributes[i]);
		List	   *longer = NIL;
		ListCell   *lc;
		ListCell   *c;

		foreach(lc, choices)
			foreach(c, columns)
		{
			const char **choice = palloc(n * sizeof(char *));

			memcpy(choice, lfirst(lc), n * sizeof(char *));
			choice[i] = lfirst(c);
			if (list_length(longer) < MAX_CHOICES)
				longer = lappend(longer, choice);
		}
		choices = longer;
	}
	return choices;
}

/* The first of them; NULL when there is none. */
static const char **
side_columns(const Origin *origin, Oid relid, const AttrNumber *attributes, int n)
{
	List	   *choices = side_choices(origin, relid, attributes, n);

	return choices ? linitial(choices) : NULL;
}

static bool
single(int n, const char *const *columns, const char *name)
{
	return n == 1 && strcmp(columns[0], name) == 0;
}

/* Does a relationship between a relation and itself go by the name asked for? */
static bool
self_matches(const Search *search, const OrionRelationship *rel, bool named)
{
	bool		many = !rel->from_key && !rel->to_one;

	if (OidIsValid(rel->junction))
		return false;
	if (search->hint)
		return named && many && single(rel->n, rel->far, search->hint);
	return (named && many) || (rel->from_key && single(rel->n, rel->near, search->name));
}

static bool
hint_matches(const char *hint, const OrionRelationship *rel)
{
	if (OidIsValid(rel->junction))
		return strcmp(get_rel_name(rel->junction), hint) == 0;
	return strcmp(rel->constraint, hint) == 0 || single(rel->n, rel->near, hint) || single(rel->n, rel->far, hint);
}

static void
consider(Search *search, const OrionRelationship *rel)
{
	bool		named = rel->target == search->target;
	bool		matches;

	if (rel->target == search->origin->relid)
		matches = self_matches(search, rel, named);
	else if (search->hint)
		matches = named && hint_matches(search->hint, rel);
	else
		matches = named || (rel->legacy && (strcmp(rel->constraint, search->name) == 0 ||
											single(rel->n, rel->near, search->name)));
	if (matches)
	{
		OrionRelationship *copy = palloc(sizeof(OrionRelationship));

		*copy = *rel;
		search->found = lappend(search->found, copy);
	}
}

/* The same link with its far end at each table behind a relation. */
static void
consider_ends(Search *search, Oid target, List *origins, Oid table, const AttrNumber *attributes, OrionRelationship *rel)
{
	ListCell   *lc;

	foreach(lc, origins)
	{
		const Origin *far = lfirst(lc);
		ListCell   *choice;

		if (far->base != table)
			continue;
		rel->target = target;
		foreach(choice, side_choices(far, target, attributes, rel->n))
		{
			rel->far = lfirst(choice);
			consider(search, rel);
		}
	}
}

/* A link seen from the origin, with its far end at each relation it may mean. */
static void
consider_link(Search *search, const Origin *near, const Link *link, bool forward)
{
	Oid			far_table = forward ? link->to : link->from;
	const AttrNumber *near_attributes = forward ? link->from_columns : link->to_columns;
	const AttrNumber *far_attributes = forward ? link->to_columns : link->from_columns;
	ListCell   *lc;
	OrionRelationship rel = {
		.to_one = forward || link->unique,
		.from_key = forward,
		.unique = link->unique,
		.constraint = link->name,
		.n = link->n,
	};

	foreach(lc, side_choices(near, search->origin->relid, near_attributes, link->n))
	{
		rel.near = lfirst(lc);
		rel.legacy = false;
		consider_ends(search, search->target, search->target_origins, far_table, far_attributes, &rel);
		rel.legacy = true;
		if (!near->self && search->target != search->origin->relid)
			consider_ends(search, search->origin->relid, search->origins, far_table, far_attributes, &rel);
		if (far_table != search->target && get_rel_namespace(far_table) == search->namespace)
		{
			Origin		self = {.self = true};

			rel.target = far_table;
			rel.far = side_columns(&self, far_table, far_attributes, link->n);
			consider(search, &rel);
		}
	}
}

/* Are the columns of both keys part of the junction's primary key? */
static bool
is_junction(Oid table, const char *const *a, int n, const char *const *b, int m)
{
	List	   *key = orion_relation_primary_key(table);

	for (int i = 0; i < n + m; i++)
	{
		const char *column = i < n ? a[i] : b[i - n];
		ListCell   *lc;
		bool		has = false;

		foreach(lc, key)
			has |= strcmp(lfirst(lc), column) == 0;
		if (!has)
			return false;
	}
	return true;
}

/* Two keys of one table, seen at a relation that shows it: the table or a view. */
static void
consider_junction(Search *search, const Origin *near, const Link *first, Oid junction, const Origin *shown)
{
	OrionRelationship rel = {.constraint = first->name,.junction = junction,.target = search->target,.n = first->n};
	Origin		self = {.self = true};
	ListCell   *l;
	ListCell   *o;

	rel.near = side_columns(near, search->origin->relid, first->to_columns, first->n);
	rel.far = side_columns(shown, junction, first->from_columns, first->n);
	if (rel.near == NULL || rel.far == NULL)
		return;
	foreach(l, outgoing(first->from))
	{
		const Link *second = lfirst(l);

		if (strcmp(second->name, first->name) == 0 ||
			!is_junction(first->from, side_columns(&self, first->from, first->from_columns, first->n), first->n,
						 side_columns(&self, first->from, second->from_columns, second->n), second->n))
			continue;
		rel.second = second->name;
		rel.m = second->n;
		rel.junction_columns = side_columns(shown, junction, second->from_columns, second->n);
		foreach(o, rel.junction_columns ? search->target_origins : NIL)
		{
			const Origin *far = lfirst(o);

			if (far->base != second->to)
				continue;
			rel.target_columns = side_columns(far, search->target, second->to_columns, second->n);
			if (rel.target_columns)
				consider(search, &rel);
		}
	}
}

/* The view that a rule belongs to. */
static Oid
rule_view(Oid rule)
{
	Relation	rewrite = table_open(RewriteRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			view = InvalidOid;

	ScanKeyInit(&key, Anum_pg_rewrite_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(rule));
	scan = systable_beginscan(rewrite, RewriteOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		view = ((Form_pg_rewrite) GETSTRUCT(tuple))->ev_class;
	systable_endscan(scan);
	table_close(rewrite, AccessShareLock);
	return view;
}

/* The views of the schema that are made of a table, by what they depend on. */
static List *
views_over(Oid table, Oid namespace)
{
	Relation	depend = table_open(DependRelationId, AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	List	   *views = NIL;

	ScanKeyInit(&keys[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(RelationRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(table));
	scan = systable_beginscan(depend, DependReferenceIndexId, true, NULL, 2, keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend entry = (Form_pg_depend) GETSTRUCT(tuple);
		Oid			view = entry->classid == RewriteRelationId ? rule_view(entry->objid) : InvalidOid;

		if (OidIsValid(view) && get_rel_namespace(view) == namespace)
			views = list_append_unique_oid(views, view);
	}
	systable_endscan(scan);
	table_close(depend, AccessShareLock);
	return views;
}

/* Does the table of a key have another one to what is behind the target? */
static bool
may_join(const Search *search, const Link *first)
{
	ListCell   *l;
	ListCell   *o;

	foreach(l, outgoing(first->from))
		foreach(o, search->target_origins)
		if (((Link *) lfirst(l))->to == ((Origin *) lfirst(o))->base &&
			strcmp(((Link *) lfirst(l))->name, first->name) != 0)
		return true;
	return false;
}

/* A junction is a table of the schema, or a view of it over one anywhere. */
static void
consider_junctions(Search *search, const Origin *near, const Link *first)
{
	Origin		self = {.self = true};
	ListCell   *v;
	ListCell   *o;

	/*
	 * views are looked for in the catalog, so only where there is a point in
	 * it
	 */
	if (!may_join(search, first))
		return;
	if (get_rel_namespace(first->from) == search->namespace)
		consider_junction(search, near, first, first->from, &self);
	foreach(v, views_over(first->from, search->namespace))
		foreach(o, find_origins(lfirst_oid(v)))
		if (((Origin *) lfirst(o))->base == first->from)
		consider_junction(search, near, first, lfirst_oid(v), lfirst(o));
}

/* A function of the schema that makes rows of the origin's row. */
static OrionRelationship *
find_computed(const Search *search)
{
	CatCList   *list;
	OrionRelationship *rel = NULL;
	Oid			row = OidIsValid(search->origin->relid) ? get_rel_type_id(search->origin->relid) : InvalidOid;

	if (!OidIsValid(row) || strlen(search->name) >= NAMEDATALEN)
		return NULL;
	list = SearchSysCacheList1(PROCNAMEARGSNSP, CStringGetDatum(search->name));
	for (int i = 0; i < list->n_members && rel == NULL; i++)
	{
		Form_pg_proc proc = (Form_pg_proc) GETSTRUCT(&list->members[i]->tuple);
		Oid			result = get_typ_typrelid(proc->prorettype);

		if (proc->pronamespace != search->namespace || proc->pronargs != 1 ||
			proc->proargtypes.values[0] != row || !OidIsValid(result) || proc->prokind != PROKIND_FUNCTION)
			continue;
		rel = palloc0(sizeof(OrionRelationship));
		rel->function = quote_qualified_identifier(search->schema, search->name);
		rel->target = result;
		rel->to_one = !proc->proretset || proc->prorows == 1;
	}
	ReleaseSysCacheList(list);
	return rel;
}

static void
append_columns(StringInfo out, int n, const char *const *columns)
{
	for (int i = 0; i < n; i++)
		appendStringInfo(out, "%s%s", i > 0 ? ", " : "(", columns[i]);
	appendStringInfoChar(out, ')');
}

/* "a_b_fkey using a(b) and c(d)" */
static char *
describe(const Search *search, const OrionRelationship *rel)
{
	StringInfoData out;

	initStringInfo(&out);
	if (OidIsValid(rel->junction))
	{
		appendStringInfo(&out, "%s using %s", get_rel_name(rel->junction), rel->constraint);
		append_columns(&out, rel->n, rel->far);
		appendStringInfo(&out, " and %s", rel->second);
		append_columns(&out, rel->m, rel->junction_columns);
		return out.data;
	}
	appendStringInfo(&out, "%s using %s", rel->constraint, search->origin->name);
	append_columns(&out, rel->n, rel->near);
	appendStringInfo(&out, " and %s", get_rel_name(rel->target));
	append_columns(&out, rel->n, rel->far);
	return out.data;
}

static void
refuse_ambiguous(const Search *search)
{
	StringInfoData details;
	StringInfoData hint;
	ListCell   *lc;

	initStringInfo(&details);
	initStringInfo(&hint);
	appendStringInfo(&hint, "Try changing '%s' to one of the following: ", search->name);
	foreach(lc, search->found)
	{
		const OrionRelationship *rel = lfirst(lc);
		const char *target = get_rel_name(rel->target);

		appendStringInfoString(&details, details.len > 0 ? ",{\"cardinality\":" : "[{\"cardinality\":");
		escape_json(&details, OidIsValid(rel->junction) ? "many-to-many" :
					rel->unique ? "one-to-one" : rel->from_key ? "many-to-one" : "one-to-many");
		appendStringInfoString(&details, ",\"embedding\":");
		escape_json(&details, psprintf("%s with %s", search->origin->name, target));
		appendStringInfoString(&details, ",\"relationship\":");
		escape_json(&details, describe(search, rel));
		appendStringInfoChar(&details, '}');
		appendStringInfo(&hint, "%s'%s!%s'", lc == list_head(search->found) ? "" : ", ", target,
						 OidIsValid(rel->junction) ? get_rel_name(rel->junction) : rel->constraint);
	}
	appendStringInfoChar(&details, ']');
	appendStringInfoString(&hint, ". Find the desired relationship in the 'details' key.");
	orion_refuse(300, "PGRST201",
				 psprintf("Could not embed because more than one relationship was found for '%s' and '%s'",
						  search->origin->name, search->name), details.data, hint.data);
}

/* Of a view: the primary keys of the tables behind it, as far as it shows all their columns. */
List *
orion_relationship_key(Oid relid)
{
	char		relkind = get_rel_relkind(relid);
	List	   *key = NIL;
	ListCell   *o;
	ListCell   *k;

	if (relkind != RELKIND_VIEW && relkind != RELKIND_MATVIEW)
		return orion_relation_primary_key(relid);
	foreach(o, find_origins(relid))
	{
		const Origin *origin = lfirst(o);
		List	   *shown = NIL;
		List	   *wanted = orion_relation_primary_key(origin->base);

		foreach(k, wanted)
		{
			List	   *columns = origin_columns(origin, relid, get_attnum(origin->base, lfirst(k)));

			if (columns != NIL)
				shown = lappend(shown, linitial(columns));
		}
		if (list_length(shown) == list_length(wanted))
			key = list_concat(key, shown);
	}
	return key;
}

/* Where a column of a table is in a schema: in the table itself, or in a view; NULL when nowhere. */
static OrionLink *
find_shown(Oid table, AttrNumber attribute, Oid namespace)
{
	OrionLink  *link = palloc0(sizeof(OrionLink));
	ListCell   *v;
	ListCell   *o;

	link->target = get_rel_name(table);
	link->target_column = get_attname(table, attribute, false);
	if (get_rel_namespace(table) == namespace)
		return link;
	foreach(v, views_over(table, namespace))
		foreach(o, find_origins(lfirst_oid(v)))
	{
		const Origin *origin = lfirst(o);
		List	   *columns = origin->base == table ? origin_columns(origin, lfirst_oid(v), attribute) : NIL;

		if (columns == NIL)
			continue;
		link->target = get_rel_name(lfirst_oid(v));
		link->target_column = linitial(columns);
		return link;
	}
	return NULL;
}

List *
orion_relationship_links(Oid relid)
{
	List	   *links = NIL;
	ListCell   *o;
	ListCell   *l;
	ListCell   *c;

	foreach(o, find_origins(relid))
	{
		const Origin *origin = lfirst(o);

		foreach(l, outgoing(origin->base))
		{
			const Link *key = lfirst(l);
			OrionLink  *shown = key->n == 1 ?
			find_shown(key->to, key->to_columns[0], get_rel_namespace(relid)) : NULL;

			foreach(c, shown ? origin_columns(origin, relid, key->from_columns[0]) : NIL)
			{
				OrionLink  *link = palloc(sizeof(OrionLink));

				*link = *shown;
				link->column = lfirst(c);
				links = lappend(links, link);
			}
		}
	}
	return links;
}

/* Adds the relation of the schema that shows this column, if the role may know of it. */
static List *
add_related(const Search *search, List *names, Oid table, AttrNumber attribute)
{
	OrionLink  *shown = find_shown(table, attribute, search->namespace);

	if (shown && orion_hint_may_tell(get_relname_relid(shown->target, search->namespace)))
		names = lappend(names, unconstify(char *, shown->target));
	return names;
}

/* What the origin is related to and goes by a name like the one asked for. */
static const char *
suggest(const Search *search)
{
	List	   *names = NIL;
	const char *best;
	ListCell   *o;
	ListCell   *l;
	ListCell   *m;

	foreach(o, search->origins)
	{
		Oid			base = ((Origin *) lfirst(o))->base;

		foreach(l, outgoing(base))
			names = add_related(search, names, ((Link *) lfirst(l))->to, ((Link *) lfirst(l))->to_columns[0]);
		foreach(l, incoming(base))
		{
			const Link *link = lfirst(l);

			names = add_related(search, names, link->from, link->from_columns[0]);
			foreach(m, outgoing(link->from))
				if (((Link *) lfirst(m))->to != base)
				names = add_related(search, names, ((Link *) lfirst(m))->to, ((Link *) lfirst(m))->to_columns[0]);
		}
	}
	best = orion_hint_best(names, search->name, ORION_HINT_ARGUMENTS);
	return best ? psprintf("Perhaps you meant '%s' instead of '%s'.", best, search->name) : NULL;
}

static void
refuse_none(const Search *search)
{
	orion_refuse(400, "PGRST200",
				 psprintf("Could not find a relationship between '%s' and '%s' in the schema cache",
						  search->origin->name, search->name),
				 psprintf("Searched for a foreign key relationship between '%s' and '%s'%s in the schema '%s', but no matches were found.",
						  search->origin->name, search->name,
						  search->hint ? psprintf(" using the hint '%s'", search->hint) : "", search->schema),
				 suggest(search));
}

OrionRelationship *
orion_relationship_find(const char *schema, const OrionSource *origin, const char *target, const char *hint)
{
	Search		search = {
		.schema = schema,
		.namespace = get_namespace_oid(schema, true),
		.origin = origin,
		.name = target,
		.hint = hint,
	};
	OrionRelationship *computed = find_computed(&search);
	ListCell   *o;
	ListCell   *l;

	if (computed)
		return computed;
	if (get_rel_relispartition(origin->relid))
		orion_refuse(404, "PGRST205",
					 psprintf("Could not find the table '%s.%s' in the schema cache", schema, origin->name), NULL, NULL);
	if (strlen(target) < NAMEDATALEN)
		search.target = get_relname_relid(target, search.namespace);
	if (OidIsValid(search.target))
		search.target_origins = find_origins(search.target);
	if (OidIsValid(origin->relid))
		search.origins = find_origins(origin->relid);
	foreach(o, search.origins)
	{
		const Origin *near = lfirst(o);

		List	   *pointing = incoming(near->base);

		foreach(l, pointing)
			consider_link(&search, near, lfirst(l), false);
		foreach(l, outgoing(near->base))
			consider_link(&search, near, lfirst(l), true);
		if (OidIsValid(search.target))
			foreach(l, pointing)
				consider_junctions(&search, near, lfirst(l));
	}
	if (search.found == NIL)
		refuse_none(&search);
	if (list_length(search.found) > 1)
		refuse_ambiguous(&search);
	return linitial(search.found);
}
