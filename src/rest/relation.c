/*
 * relation.c
 *	  Catalog lookups: exposed schemas, relations, columns, keys.
 *
 * Through syscache and relcache only: no scan, nothing cached of our own but the
 * parsed list of exposed schemas.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/namespace.h"
#include "access/transam.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_cast.h"
#include "catalog/pg_type.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "nodes/value.h"
#include "parser/parse_func.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/syscache.h"

#include "rest/error.h"
#include "rest/hint.h"
#include "rest/relation.h"
#include "rest/settings.h"

/* What has_json_casts found, while no cast changes. */
static bool casts_are_known = false;
static bool casts_to_json;
static uint64 cast_changes = 0;

static char *
list_names(List *names)
{
	StringInfoData text;
	ListCell   *lc;

	initStringInfo(&text);
	foreach(lc, names)
		appendStringInfo(&text, "%s%s", foreach_current_index(lc) > 0 ? ", " : "", (char *) lfirst(lc));
	return text.data;
}

const char *
orion_relation_profile(const OrionCall *call)
{
	bool		writes = call->method == ORION_POST || call->method == ORION_PATCH ||
	call->method == ORION_PUT || call->method == ORION_DELETE;

	return orion_call_header(call, writes ? "content-profile" : "accept-profile");
}

const char *
orion_relation_schema(const OrionCall *call)
{
	const char *wanted = orion_relation_profile(call);
	List	   *schemas = orion_rest_schema_list();
	ListCell   *lc;

	if (schemas == NIL)
		orion_refuse(406, "PGRST106", "No schema is exposed", NULL, "Set orion.rest_schemas.");
	if (wanted == NULL)
		return linitial(schemas);
	foreach(lc, schemas)
		if (strcmp(lfirst(lc), wanted) == 0)
		return lfirst(lc);
	orion_refuse(406, "PGRST106", psprintf("Invalid schema: %s", wanted), NULL,
				 psprintf("Only the following schemas are exposed: %s", list_names(schemas)));
}

static bool
served(char relkind)
{
	return relkind == RELKIND_RELATION || relkind == RELKIND_PARTITIONED_TABLE ||
		relkind == RELKIND_VIEW || relkind == RELKIND_MATVIEW || relkind == RELKIND_FOREIGN_TABLE;
}

static void
read_class(OrionSource *source, bool *is_partition)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(source->relid));
	Form_pg_class class;

	if (!HeapTupleIsValid(tuple))
		return;
	class = (Form_pg_class) GETSTRUCT(tuple);
	source->relkind = class->relkind;
	*is_partition = class->relispartition;
	ReleaseSysCache(tuple);
}

void
orion_append_name(StringInfo out, const char *name)
{
	appendStringInfoChar(out, '"');
	for (; *name; name++)
	{
		if (*name == '"')
			appendStringInfoChar(out, '"');
		appendStringInfoChar(out, *name);
	}
	appendStringInfoChar(out, '"');
}

static char *
quote_both(const char *schema, const char *name)
{
	StringInfoData quoted;

	initStringInfo(&quoted);
	orion_append_name(&quoted, schema);
	appendStringInfoChar(&quoted, '.');
	orion_append_name(&quoted, name);
	return quoted.data;
}

void
orion_relation_find(const char *schema, const char *name, OrionSource *source)
{
	Oid			namespace = get_namespace_oid(schema, true);

	bool		is_partition = false;

	memset(source, 0, sizeof(OrionSource));
	if (OidIsValid(namespace) && strlen(name) < NAMEDATALEN)
		source->relid = get_relname_relid(name, namespace);
	if (OidIsValid(source->relid))
		read_class(source, &is_partition);

	/* a partition may lack the policies of the table that it is part of */
	if (!served(source->relkind) || is_partition)
		orion_refuse(404, "PGRST205",
					 psprintf("Could not find the table '%s.%s' in the schema cache", schema, name),
					 NULL, orion_hint_table(schema, name));
	source->name = name;
	source->quoted = quote_both(schema, name);
}

/* A function of the row is a column as well: t.name calls name(t). */
static bool
find_computed(const OrionSource *source, const char *name, OrionColumn *column)
{
	Oid			row = get_rel_type_id(source->relid);
	Oid			function;

	if (!OidIsValid(row))
		return false;
	function = LookupFuncName(list_make1(makeString(pstrdup(name))), 1, &row, true);
	if (!OidIsValid(function) || get_func_retset(function))
		return false;
	column->name = name;
	column->type = get_func_rettype(function);
	column->typmod = -1;
	return true;
}

bool
orion_source_find_column(const OrionSource *source, const char *name, OrionColumn *column)
{
	HeapTuple	tuple;
	Form_pg_attribute att;
	bool		found;

	if (strlen(name) >= NAMEDATALEN)
		return false;
	if (!OidIsValid(source->relid))
	{
		for (int i = 0; i < source->ncolumns; i++)
			if (strcmp(source->columns[i].name, name) == 0)
			{
				*column = source->columns[i];
				return true;
			}
		return false;
	}
	tuple = SearchSysCacheAttName(source->relid, name);
	if (!HeapTupleIsValid(tuple))
		return find_computed(source, name, column);
	att = (Form_pg_attribute) GETSTRUCT(tuple);
	found = att->attnum > 0;	/* system columns are no part of the interface */
	column->name = name;
	column->type = att->atttypid;
	column->typmod = att->atttypmod;
	ReleaseSysCache(tuple);
	return found;
}

void
orion_source_column(const OrionSource *source, const char *name, OrionColumn *column)
{
	if (!orion_source_find_column(source, name, column))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column %s.%s does not exist", source->name, name)));
}

char *
orion_type_cast_function(Oid from, Oid to)
{
	HeapTuple	tuple;
	Oid			function = InvalidOid;
	Oid			domain = from < FirstNormalObjectId ? to : from;

	/* no type of the system has one */
	if (domain < FirstNormalObjectId || get_typtype(domain) != TYPTYPE_DOMAIN)
		return NULL;
	tuple = SearchSysCache2(CASTSOURCETARGET, ObjectIdGetDatum(from), ObjectIdGetDatum(to));
	if (HeapTupleIsValid(tuple))
	{
		function = ((Form_pg_cast) GETSTRUCT(tuple))->castfunc;
		ReleaseSysCache(tuple);
	}
	if (!OidIsValid(function))
		return NULL;
	return quote_qualified_identifier(get_namespace_name(get_func_namespace(function)), get_func_name(function));
}

static void
forget_casts(Datum arg, int cache, uint32 hash)
{
	cast_changes++;
	casts_are_known = false;
}

/* Has the database any cast from a type that somebody made to json? */
static bool
has_json_casts(void)
{
	static bool registered = false;
	Relation	casts;
	TableScanDesc scan;
	HeapTuple	tuple;
	uint64		changes;
	bool		found = false;

	if (casts_are_known)
		return casts_to_json;
	if (!registered)
		CacheRegisterSyscacheCallback(CASTSOURCETARGET, forget_casts, (Datum) 0);
	registered = true;
	changes = cast_changes;
	casts = table_open(CastRelationId, AccessShareLock);
	scan = table_beginscan_catalog(casts, 0, NULL);
	while (!found && HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_cast cast = (Form_pg_cast) GETSTRUCT(tuple);

		found = cast->casttarget == JSONOID && cast->castsource >= FirstNormalObjectId;
	}
	table_endscan(scan);
	table_close(casts, AccessShareLock);
	casts_to_json = found;
	casts_are_known = changes == cast_changes;
	return found;
}

bool
orion_relation_represents(Oid relid)
{
	Relation	relation;
	TupleDesc	desc;
	bool		represents = false;

	if (!has_json_casts())
		return false;
	relation = relation_open(relid, AccessShareLock);
	desc = RelationGetDescr(relation);
	for (int i = 0; i < desc->natts && !represents; i++)
		represents = TupleDescAttr(desc, i)->atttypid >= FirstNormalObjectId && !TupleDescAttr(desc, i)->attisdropped &&
			orion_type_cast_function(TupleDescAttr(desc, i)->atttypid, JSONOID) != NULL;
	relation_close(relation, AccessShareLock);
	return represents;
}

List *
orion_relation_primary_key(Oid relid)
{
	Relation	relation = relation_open(relid, AccessShareLock);
	List	   *names = NIL;
	Oid			index;

	list_free(RelationGetIndexList(relation));
	index = relation->rd_pkindex;
	if (OidIsValid(index))
	{
		Relation	pk = index_open(index, AccessShareLock);

		for (int i = 0; i < IndexRelationGetNumberOfKeyAttributes(pk); i++)
			names = lappend(names, get_attname(relid, pk->rd_index->indkey.values[i], false));
		index_close(pk, AccessShareLock);
	}
	relation_close(relation, AccessShareLock);
	return names;
}

char *
orion_type_name(Oid type, int32 typmod)
{
	return format_type_extended(type, typmod, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY);
}

/* A scan of a table of a few rows: there is no syscache of extensions. */
Oid
orion_relation_extension_schema(void)
{
	Relation	extensions = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			schema = InvalidOid;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum("orion"));
	scan = systable_beginscan(extensions, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		schema = ((Form_pg_extension) GETSTRUCT(tuple))->extnamespace;
	systable_endscan(scan);
	table_close(extensions, AccessShareLock);
	return schema;
}
