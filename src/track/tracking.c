/*
 * tracking.c
 *	  The settings of tracked tables, as this backend keeps them.
 *
 * Made of the trigger's arguments, the columns' labels and the catalog.  A relcache
 * invalidation of the relation (any change of its columns, its triggers or, by way
 * of the label provider here, its labels) makes them stale.  A partition has its
 * own: it has a copy of the trigger, and columns of the same names in places of its own.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/index.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/seclabel.h"
#include "nodes/bitmapset.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "core/compat.h"
#include "track/track_private.h"

typedef struct Entry
{
	Oid			relation;		/* hash key */
	bool		stale;
	OrionTracking *tracking;	/* NULL while it is made */
} Entry;

static const char *const suffixes[ORION_TRACK_OPERATIONS] = {"created", "updated", "deleted", "truncated"};

static HTAB *entries = NULL;

static void
on_invalidation(Datum arg, Oid relation)
{
	HASH_SEQ_STATUS all;
	Entry	   *entry;

	if (OidIsValid(relation))
	{
		entry = hash_search(entries, &relation, HASH_FIND, NULL);
		if (entry)
			entry->stale = true;
		return;
	}
	hash_seq_init(&all, entries);
	while ((entry = hash_seq_search(&all)) != NULL)
		entry->stale = true;
}

static void
make_entries(void)
{
	HASHCTL		ctl = {.keysize = sizeof(Oid),.entrysize = sizeof(Entry)};

	entries = hash_create("orion tracked tables", 16, &ctl, HASH_ELEM | HASH_BLOBS);
	CacheRegisterRelcacheCallback(on_invalidation, (Datum) 0);
}

/* The relation whose trigger this one is a copy of, perhaps by way of others. */
static Oid
root_of_trigger(Oid trigger)
{
	Relation	catalog = table_open(TriggerRelationId, AccessShareLock);
	Oid			root = InvalidOid;

	while (OidIsValid(trigger))
	{
		ScanKeyData key;
		SysScanDesc scan;
		HeapTuple	row;

		ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(trigger));
		scan = systable_beginscan(catalog, TriggerOidIndexId, true, NULL, 1, &key);
		row = systable_getnext(scan);
		if (!HeapTupleIsValid(row))
			elog(ERROR, "could not find trigger %u", trigger);
		root = ((Form_pg_trigger) GETSTRUCT(row))->tgrelid;
		trigger = ((Form_pg_trigger) GETSTRUCT(row))->tgparentid;
		systable_endscan(scan);
	}
	table_close(catalog, AccessShareLock);
	return root;
}

static bool
has_label(Oid relation, const char *column, const char *label)
{
	AttrNumber	attnum = get_attnum(relation, column);
	ObjectAddress address = {RelationRelationId, relation, attnum};
	char	   *found = attnum > 0 ? GetSecurityLabel(&address, ORION_TRACK_PROVIDER) : NULL;

	return found && strcmp(found, label) == 0;
}

/* Does the array of that key in the trigger's settings name the column? */
static bool
is_listed(Jsonb *settings, const char *key, const char *column)
{
	JsonbValue	buffer;
	JsonbValue	name = {.type = jbvString,.val.string = {.len = strlen(column),.val = unconstify(char *, column)}};
	JsonbValue *list = getKeyJsonValueFromContainer(&settings->root, key, strlen(key), &buffer);

	return list && list->type == jbvBinary && findJsonbValueFromContainer(list->val.binary.data, JB_FARRAY, &name) != NULL;
}

static bool
has_setting(Jsonb *settings, const char *key)
{
	JsonbValue	buffer;

	return getKeyJsonValueFromContainer(&settings->root, key, strlen(key), &buffer) != NULL;
}

static void
set_column(OrionTrackedColumn *column, Form_pg_attribute att)
{
	column->attnum = att->attnum;
	column->name = pstrdup(NameStr(att->attname));
	column->byval = att->attbyval;
	column->len = att->attlen;
	column->type = getBaseType(att->atttypid);
	orion_track_prepare_column(column);
}

/* By their offset numbers, as pull_varattnos has them. */
static Bitmapset *
private_columns(const OrionTracking *tracking, Relation relation, Jsonb *settings)
{
	TupleDesc	desc = RelationGetDescr(relation);
	Oid			self = RelationGetRelid(relation);
	Bitmapset  *private = NULL;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		const char *name = NameStr(att->attname);

		if (!att->attisdropped &&
			(is_listed(settings, "private", name) ||
			 has_label(tracking->root, name, ORION_TRACK_PRIVATE) || has_label(self, name, ORION_TRACK_PRIVATE)))
			private = bms_add_member(private, att->attnum - FirstLowInvalidHeapAttributeNumber);
	}
	return private;
}

/* Is the column generated, and of one of these? */
static bool
is_made_of(Relation relation, Form_pg_attribute att, const Bitmapset *columns)
{
	Bitmapset  *used = NULL;

	if (!att->attgenerated || columns == NULL)
		return false;
	pull_varattnos(build_column_default(relation, att->attnum), 1, &used);
	return bms_overlap(used, columns);
}

static void
add_columns(OrionTracking *tracking, Relation relation, Jsonb *settings)
{
	TupleDesc	desc = RelationGetDescr(relation);
	bool		all = !has_setting(settings, "columns");
	Bitmapset  *privates = private_columns(tracking, relation, settings);

	tracking->columns = palloc0(desc->natts * sizeof(OrionTrackedColumn));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		const char *name = NameStr(att->attname);
		bool		named;
		bool		private;

		/* a virtual generated column ('v', since 18) has no value in the row */
		if (att->attisdropped || att->attgenerated == 'v')
			continue;
		named = is_listed(settings, "columns", name) || has_label(tracking->root, name, ORION_TRACK_TRACKED);
		private = bms_is_member(att->attnum - FirstLowInvalidHeapAttributeNumber, privates) ||
			(!named && is_made_of(relation, att, privates));
		if (private || all || named)
		{
			set_column(&tracking->columns[tracking->ncolumns], att);
			tracking->columns[tracking->ncolumns++].private = private;
		}
	}
}

static bool
is_private(const OrionTracking *tracking, AttrNumber attnum)
{
	for (int i = 0; i < tracking->ncolumns; i++)
		if (tracking->columns[i].attnum == attnum)
			return tracking->columns[i].private;
	return false;
}

/* The primary key, unless a column of it is private: the aggregate's id would tell it. */
static void
add_key(OrionTracking *tracking, Relation relation)
{
	Relation	index;
	int			nkeys;

	list_free(RelationGetIndexList(relation));
	if (!OidIsValid(relation->rd_pkindex))
		return;
	index = index_open(relation->rd_pkindex, AccessShareLock);
	nkeys = IndexRelationGetNumberOfKeyAttributes(index);
	tracking->keys = palloc0(nkeys * sizeof(OrionTrackedColumn));
	for (int i = 0; i < nkeys; i++)
	{
		AttrNumber	attnum = index->rd_index->indkey.values[i];

		if (is_private(tracking, attnum))
		{
			nkeys = 0;
			break;
		}
		set_column(&tracking->keys[i], TupleDescAttr(RelationGetDescr(relation), attnum - 1));
		tracking->keys[i].canonical = true;
	}
	index_close(index, AccessShareLock);
	tracking->nkeys = nkeys;
}

static int32
version_of(Jsonb *settings)
{
	JsonbValue	buffer;
	JsonbValue *value = getKeyJsonValueFromContainer(&settings->root, "version", strlen("version"), &buffer);

	if (value == NULL || value->type != jbvNumeric)
		return 1;
	return DatumGetInt32(DirectFunctionCall1(numeric_int4, NumericGetDatum(value->val.numeric)));
}

/* In the tracking's context. */
static void
fill_tracking(OrionTracking *tracking, const TriggerData *data)
{
	Trigger    *trigger = data->tg_trigger;
	Jsonb	   *settings;

	if (trigger->tgnargs != 2)
		elog(ERROR, "trigger \"%s\" was not made by orion_track", trigger->tgname);
	settings = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(trigger->tgargs[1])));
	if (!JB_ROOT_IS_OBJECT(settings))
		elog(ERROR, "trigger \"%s\" was not made by orion_track", trigger->tgname);
	tracking->root = root_of_trigger(trigger->tgoid);
	tracking->aggregatetype = CStringGetTextDatum(trigger->tgargs[0]);
	for (int i = 0; i < ORION_TRACK_OPERATIONS; i++)
		tracking->types[i] = CStringGetTextDatum(psprintf("%s.%s", trigger->tgargs[0], suffixes[i]));
	tracking->version = version_of(settings);
	add_columns(tracking, data->tg_relation, settings);
	add_key(tracking, data->tg_relation);
}

static OrionTracking *
make_tracking(const TriggerData *data)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "orion tracked table", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	OrionTracking *tracking = palloc0(sizeof(OrionTracking));

	tracking->context = context;
	fill_tracking(tracking, data);
	MemoryContextSwitchTo(old);
	MemoryContextSetParent(context, CacheMemoryContext);	/* complete: an error
															 * would have freed it */
	return tracking;
}

const OrionTracking *
orion_tracking_find(const TriggerData *data)
{
	Oid			relation = RelationGetRelid(data->tg_relation);
	OrionTracking *made;
	Entry	   *entry;
	bool		found;

	if (!entries)
		make_entries();
	entry = hash_search(entries, &relation, HASH_FIND, NULL);
	if (entry && entry->tracking && !entry->stale)
		return entry->tracking;

	/*
	 * fresh before it is made: an invalidation meanwhile makes it stale at
	 * once
	 */
	entry = hash_search(entries, &relation, HASH_ENTER, &found);
	if (!found)
		entry->tracking = NULL;
	entry->stale = false;
	PG_TRY();
	{
		made = make_tracking(data);
	}
	PG_CATCH();
	{
		entry = hash_search(entries, &relation, HASH_FIND, NULL);
		if (entry)
			entry->stale = true;
		PG_RE_THROW();
	}
	PG_END_TRY();
	entry = hash_search(entries, &relation, HASH_FIND, NULL);
	/* a trigger further up may be at work with the former one */
	if (entry->tracking)
		MemoryContextSetParent(entry->tracking->context, TopTransactionContext);
	entry->tracking = made;
	return made;
}

/*
 * SECURITY LABEL FOR orion ON COLUMN ... IS ...: as a dump has it, or the table's owner
 * says it.
 */
static void
check_label(const ObjectAddress *object, const char *label)
{
	List	   *relations;
	ListCell   *lc;

	if (label && (object->classId != RelationRelationId || object->objectSubId == 0 ||
				  (strcmp(label, ORION_TRACK_PRIVATE) != 0 && strcmp(label, ORION_TRACK_TRACKED) != 0)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the labels of orion are \"private\" and \"tracked\", for columns"),
				 errhint("orion_track() sets them.")));
	if (object->classId != RelationRelationId)
		return;
	relations = find_all_inheritors(object->objectId, NoLock, NULL);
	foreach(lc, relations)
		CacheInvalidateRelcacheByRelid(lfirst_oid(lc));
}

void
orion_tracking_init(void)
{
	register_label_provider(ORION_TRACK_PROVIDER, check_label);
}
