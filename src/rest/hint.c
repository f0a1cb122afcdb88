/*
 * hint.c
 *	  Finds what is most like a name that is not there.
 *
 * Runs in executors as the role of the request, on the way to a refusal.  Names come
 * from anybody, so the work has a limit: the objects of a schema are read by an
 * index, so many and no more.  Likeness is that of PostgREST: two names have a group
 * of three letters in common, or else of two, and then the fewest changes count.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/formatting.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#include "core/compat.h"
#include "rest/hint.h"

/* Larger schemas get no hints (PostgREST's limit), and longer texts are not compared. */
#define MAX_OBJECTS		500
#define MAX_COMPARED	250

/* In lower case, letters and digits only, between dashes. */
static char *
simplify(const char *name)
{
	char	   *simple = palloc(strlen(name) + 3);
	char	   *out = simple;

	*out++ = '-';
	for (const char *c = name; *c; c++)
		if (isalnum((unsigned char) *c) || *c == ' ' || *c == ',' || (unsigned char) *c >= 0x80)
			*out++ = pg_tolower((unsigned char) *c);
	*out++ = '-';
	*out = '\0';
	return simple;
}

/* Have both a run of that many bytes in common? */
static bool
shares(const char *a, const char *b, size_t size)
{
	for (; strlen(a) >= size; a++)
	{
		char		gram[4] = {0};

		memcpy(gram, a, size);
		if (strstr(b, gram))
			return true;
	}
	return false;
}

static double
alike(const char *a, const char *b)
{
	int			n = strlen(a);
	int			m = strlen(b);

	return 1 - (double) varstr_levenshtein(a, n, b, m, 1, 1, 1, true) / Max(n, m);
}

const char *
orion_hint_best(List *candidates, const char *wanted, double least)
{
	char	   *lower = asc_tolower(wanted, strlen(wanted));
	char	   *simple = simplify(wanted);

	if (wanted[0] == '\0' || strlen(wanted) > MAX_COMPARED)
		return NULL;
	for (size_t size = 3; size >= 2; size--)
	{
		const char *best = NULL;
		double		most = least;
		ListCell   *lc;

		foreach(lc, candidates)
		{
			const char *name = lfirst(lc);
			double		score;

			if (strcmp(name, wanted) == 0)
				return NULL;	/* the name was right */
			if (name[0] == '\0' || strlen(name) > MAX_COMPARED || !shares(simple, simplify(name), size))
				continue;
			score = alike(asc_tolower(name, strlen(name)), lower);
			if (score < most || (best && score == most))
				continue;
			most = score;
			best = name;
		}
		if (best)
			return best;
	}
	return NULL;
}

bool
orion_hint_may_tell(Oid relid)
{
	return pg_class_aclmask(relid, GetUserId(), ACL_SELECT | ACL_INSERT | ACL_UPDATE | ACL_DELETE, ACLMASK_ANY) != 0 ||
		pg_attribute_aclcheck_all(relid, GetUserId(), ACL_SELECT, ACLMASK_ANY) == ACLCHECK_OK;
}

static char *
table_name(Oid oid)
{
	char		kind = get_rel_relkind(oid);

	if ((kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE && kind != RELKIND_VIEW &&
		 kind != RELKIND_MATVIEW && kind != RELKIND_FOREIGN_TABLE) || get_rel_relispartition(oid) || !orion_hint_may_tell(oid))
		return NULL;
	return get_rel_name(oid);
}

/* A dependency may be left of what is no more. */
static char *
function_name(Oid oid)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(oid));
	char	   *name = NULL;

	if (!HeapTupleIsValid(tuple))
		return NULL;
	if (((Form_pg_proc) GETSTRUCT(tuple))->prokind == PROKIND_FUNCTION &&
		orion_acl_function(oid, GetUserId()) == ACLCHECK_OK)
		name = pstrdup(NameStr(((Form_pg_proc) GETSTRUCT(tuple))->proname));
	ReleaseSysCache(tuple);
	return name;
}

/* The names of a schema's objects of one catalog; NIL when there are too many. */
static List *
names_of(Oid namespace, Oid catalog, char *(*name_of) (Oid oid))
{
	Relation	depend = table_open(DependRelationId, AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	List	   *names = NIL;
	int			n = 0;

	ScanKeyInit(&keys[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(NamespaceRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(namespace));
	scan = systable_beginscan(depend, DependReferenceIndexId, true, NULL, 2, keys);
	while (n <= MAX_OBJECTS && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend entry = (Form_pg_depend) GETSTRUCT(tuple);
		char	   *name = entry->classid == catalog && entry->objsubid == 0 ? name_of(entry->objid) : NULL;

		if (name == NULL)
			continue;
		names = lappend(names, name);
		n++;
	}
	systable_endscan(scan);
	table_close(depend, AccessShareLock);
	return n > MAX_OBJECTS ? NIL : names;
}

static const char *
best_of(const char *schema, const char *wanted, Oid catalog, char *(*name_of) (Oid oid))
{
	Oid			namespace = get_namespace_oid(schema, true);

	return OidIsValid(namespace) && strlen(wanted) < NAMEDATALEN ?
		orion_hint_best(names_of(namespace, catalog, name_of), wanted, ORION_HINT_NAME) : NULL;
}

const char *
orion_hint_table(const char *schema, const char *wanted)
{
	const char *best = best_of(schema, wanted, RelationRelationId, table_name);

	return best ? psprintf("Perhaps you meant the table '%s.%s'", schema, best) : NULL;
}

const char *
orion_hint_function(const char *schema, const char *wanted)
{
	const char *best = best_of(schema, wanted, ProcedureRelationId, function_name);

	return best ? psprintf("Perhaps you meant to call the function %s.%s", schema, best) : NULL;
}
