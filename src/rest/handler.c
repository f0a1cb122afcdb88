/*
 * handler.c
 *	  Finds what makes an answer of a media type that Orion does not know: domains
 *	  named like the type, and who returns them.
 *
 * Runs in executors.  Through syscache and indexes only; the one thing kept is whether
 * there are domains for types that every request may ask for, until a type changes.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/fmgroids.h"
#include "utils/formatting.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "rest/handler.h"
#include "rest/relation.h"
#include "rest/settings.h"

static const char any_media[] = "*/*";

static bool overrides_known = false;
static bool overrides = false;

/* The domains of that name in any schema. */
static List *
domains(const char *name)
{
	CatCList   *members;
	List	   *found = NIL;

	if (strlen(name) >= NAMEDATALEN)
		return NIL;
	members = SearchSysCacheList1(TYPENAMENSP, CStringGetDatum(name));
	for (int i = 0; i < members->n_members; i++)
	{
		Form_pg_type form = (Form_pg_type) GETSTRUCT(&members->members[i]->tuple);

		if (form->typtype == TYPTYPE_DOMAIN)
			found = lappend_oid(found, form->oid);
	}
	ReleaseSysCacheList(members);
	return found;
}

static void
types_changed(Datum arg, int cache, uint32 hash)
{
	overrides_known = false;
}

bool
orion_handler_overrides(void)
{
	static const char *const names[] = {any_media, "application/json", "text/csv", "application/geo+json"};
	static bool registered = false;

	if (overrides_known)
		return overrides;
	if (!registered)
		CacheRegisterSyscacheCallback(TYPEOID, types_changed, (Datum) 0);
	registered = true;
	/* a change that comes in while we look must not be lost */
	overrides_known = true;
	overrides = false;
	for (int i = 0; i < lengthof(names); i++)
		if (domains(names[i]) != NIL)
			overrides = true;
	return overrides;
}

static bool
same_media(const char *a, const char *b)
{
	return pg_strcasecmp(a, b) == 0;
}

static const char *
media_of(const char *name)
{
	return strcmp(name, any_media) == 0 ? "application/octet-stream" : pstrdup(name);
}

/* Bodies are copied as text or bytea, whatever type the domain is over. */
static void
set_text(OrionHandler *handler, Oid domain)
{
	Oid			base = getBaseType(domain);

	handler->cast = base == BYTEAOID || base == TEXTOID ? "CAST (" : "pg_catalog.format('%s', ";
	handler->cast_end = base == BYTEAOID ? " AS pg_catalog.bytea)" : base == TEXTOID ? " AS pg_catalog.text)" : ")";
}

bool
orion_handler_scalar(Oid type, const char *accept, OrionHandler *handler)
{
	HeapTuple	tuple;
	Form_pg_type form;
	bool		fits;

	if (type < FirstNormalObjectId)
		return false;
	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_type) GETSTRUCT(tuple);
	fits = form->typtype == TYPTYPE_DOMAIN &&
		(strcmp(NameStr(form->typname), any_media) == 0 ||
		 (strchr(accept, '/') && same_media(NameStr(form->typname), accept)));
	memset(handler, 0, sizeof(OrionHandler));
	if (fits)
	{
		handler->media = media_of(NameStr(form->typname));
		set_text(handler, type);
	}
	ReleaseSysCache(tuple);
	return fits;
}

static bool
is_exposed(Oid namespace)
{
	char	   *name = get_namespace_name(namespace);
	ListCell   *lc;

	foreach(lc, orion_rest_schema_list())
		if (name && strcmp(lfirst(lc), name) == 0)
		return true;
	return false;
}

/* An aggregate that makes the type of one argument of that type. */
static Oid
find_aggregate(Oid type, Oid argument)
{
	Relation	depend = table_open(DependRelationId, AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			found = InvalidOid;

	ScanKeyInit(&keys[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(TypeRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(type));
	scan = systable_beginscan(depend, DependReferenceIndexId, true, NULL, 2, keys);
	while (!OidIsValid(found) && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend entry = (Form_pg_depend) GETSTRUCT(tuple);
		HeapTuple	function;
		Form_pg_proc proc;

		if (entry->classid != ProcedureRelationId)
			continue;
		function = SearchSysCache1(PROCOID, ObjectIdGetDatum(entry->objid));
		if (!HeapTupleIsValid(function))
			continue;
		proc = (Form_pg_proc) GETSTRUCT(function);
		if (proc->prokind == PROKIND_AGGREGATE && proc->prorettype == type && proc->pronargs == 1 &&
			proc->proargtypes.values[0] == argument && is_exposed(proc->pronamespace))
			found = entry->objid;
		ReleaseSysCache(function);
	}
	systable_endscan(scan);
	table_close(depend, AccessShareLock);
	return found;
}

/* By a domain of that name, over that type. */
static bool
find_handler(const char *name, Oid argument, OrionHandler *handler)
{
	ListCell   *lc;

	foreach(lc, domains(name))
	{
		Oid			function = find_aggregate(lfirst_oid(lc), argument);

		if (!OidIsValid(function))
			continue;
		handler->media = media_of(name);
		handler->function = quote_qualified_identifier(get_namespace_name(get_func_namespace(function)),
													   get_func_name(function));
		handler->row = argument == ANYELEMENTOID ? NULL : orion_type_name(argument, -1);
		set_text(handler, lfirst_oid(lc));
		return true;
	}
	return false;
}

bool
orion_handler_rows(Oid row, const char *accept, OrionHandler *handler)
{
	memset(handler, 0, sizeof(OrionHandler));
	if (OidIsValid(row) && find_handler(any_media, row, handler))
		return true;
	if (strchr(accept, '/') == NULL || strlen(accept) >= NAMEDATALEN)
		return false;
	accept = asc_tolower(accept, strlen(accept));
	return (OidIsValid(row) && find_handler(accept, row, handler)) ||
		find_handler(accept, ANYELEMENTOID, handler);
}

const char *
orion_handler_geojson(void)
{
	CatCList   *members = SearchSysCacheList1(PROCNAMEARGSNSP, CStringGetDatum("st_asgeojson"));
	const char *found = NULL;

	for (int i = 0; i < members->n_members && found == NULL; i++)
	{
		Form_pg_proc proc = (Form_pg_proc) GETSTRUCT(&members->members[i]->tuple);

		if (proc->pronargs > 0 && proc->proargtypes.values[0] == RECORDOID && proc->pronargdefaults >= proc->pronargs - 1)
			found = quote_qualified_identifier(get_namespace_name(proc->pronamespace), NameStr(proc->proname));
	}
	ReleaseSysCacheList(members);
	return found;
}
