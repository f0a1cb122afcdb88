/*
 * storage.c
 *	  Finds tables of schema orion_private; see storage.h.
 *
 * By name each time, through the catalog caches: a DROP and CREATE EXTENSION makes
 * other tables of the same names.
 */
#include "core/storage.h"

#include "access/relation.h"
#include "catalog/namespace.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "core/error.h"

Oid
orion_storage_table(const char *name)
{
	Oid			schema = get_namespace_oid("orion_private", true);
	Oid			table = OidIsValid(schema) ? get_relname_relid(name, schema) : InvalidOid;

	if (!OidIsValid(table))
		ereport(ERROR,
				(errcode(ERRCODE_ORION_UNAVAILABLE),
				 errmsg("extension \"orion\" is not installed in this database"),
				 errhint("Run CREATE EXTENSION orion.")));
	return table;
}

Oid
orion_storage_owner(Oid table)
{
	Relation	relation = relation_open(table, AccessShareLock);
	Oid			owner = relation->rd_rel->relowner;

	relation_close(relation, AccessShareLock);
	return owner;
}
