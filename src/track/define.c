/*
 * define.c
 *	  orion_track() and orion_untrack(): put the triggers on a table and take them off.
 *
 * Only the table's owner may, who must also be allowed to publish: the grants of
 * orion_track see to that.  The trigger function itself may be executed by nobody, or an
 * owner of any table could make triggers that forge events of any type; so the trigger
 * is made as Orion's owner.  Everything is done by OID under the lock that CREATE
 * TRIGGER takes: no name can come to mean another table meanwhile.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/catalog.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/seclabel.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parse_func.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"

#include "codec/topic.h"
#include "core/compat.h"
#include "outbox/outbox.h"
#include "track/track.h"
#include "track/track_private.h"

PG_FUNCTION_INFO_V1(orion_track);
PG_FUNCTION_INFO_V1(orion_untrack);

#define ROW_TRIGGER			"orion_track"
#define TRUNCATE_TRIGGER	"orion_track_truncate"

/* Arguments of orion_track. */
enum
{
	ARG_RELATION,
	ARG_COLUMNS,
	ARG_PRIVATE,
	ARG_PREFIX,
	ARG_OPERATIONS,
	ARG_VERSION,
};

static Oid
trigger_function(void)
{
	return LookupFuncName(list_make2(makeString("orion_private"), makeString(ORION_TRACK_FUNCTION)), 0, NULL, false);
}

/* Opens and locks the table, for its owner. */
static Relation
open_own_table(Oid relid)
{
	Relation	relation = try_table_open(relid, ShareRowExclusiveLock);

	if (relation == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("there is no table with OID %u", relid)));
	if (!orion_owns_relation(relid))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, RelationGetRelationName(relation));
	return relation;
}

static void
check_table(Relation relation)
{
	char		kind = relation->rd_rel->relkind;
	const char *name = RelationGetRelationName(relation);

	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a table", name)));
	if (relation->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("\"%s\" is a temporary table", name)));
	if (IsSystemRelation(relation) ||
		RelationGetNamespace(relation) == get_namespace_oid("orion_private", false))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("\"%s\" is a table of the system and cannot be tracked", name)));
}

/* The triggers of ours on the table, as OIDs. */
static List *
own_triggers(Relation relation)
{
	Oid			function = trigger_function();
	TriggerDesc *desc = relation->trigdesc;
	List	   *triggers = NIL;

	for (int i = 0; desc && i < desc->numtriggers; i++)
	{
		Trigger    *trigger = &desc->triggers[i];

		if (trigger->tgfoid != function)
			continue;
		if (trigger->tgisclone)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("\"%s\" is tracked as a partition", RelationGetRelationName(relation)),
					 errhint("Call the function with the partitioned table.")));
		triggers = lappend_oid(triggers, trigger->tgoid);
	}
	return triggers;
}

static void
drop_triggers(List *triggers)
{
	ListCell   *lc;

	foreach(lc, triggers)
	{
		ObjectAddress address = {TriggerRelationId, lfirst_oid(lc), 0};

		performDeletion(&address, DROP_RESTRICT, 0);
	}
	CommandCounterIncrement();
}

/* The elements of a text[], as C strings; an error when one is null. */
static List *
strings_of(FunctionCallInfo fcinfo, int arg, const char *name)
{
	Datum	   *values;
	bool	   *nulls;
	int			n;
	List	   *strings = NIL;

	if (PG_ARGISNULL(arg))
		return NIL;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(arg), TEXTOID, -1, false, TYPALIGN_INT, &values, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("argument \"%s\" of orion_track must not contain null", name)));
		strings = lappend(strings, TextDatumGetCString(values[i]));
	}
	return strings;
}

static bool
is_in(List *strings, const char *string)
{
	ListCell   *lc;

	foreach(lc, strings)
		if (strcmp(lfirst(lc), string) == 0)
		return true;
	return false;
}

static void
check_columns(Relation relation, List *columns)
{
	ListCell   *lc;

	foreach(lc, columns)
		if (get_attnum(RelationGetRelid(relation), lfirst(lc)) <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist",
						(char *) lfirst(lc), RelationGetRelationName(relation))));
}

/* A private column must not be asked for, and not tell itself by the aggregate's id. */
static void
check_private(Relation relation, List *private, List *columns)
{
	Bitmapset  *key = RelationGetIndexAttrBitmap(relation, INDEX_ATTR_BITMAP_PRIMARY_KEY);
	ListCell   *lc;

	check_columns(relation, private);
	foreach(lc, private)
	{
		char	   *name = lfirst(lc);
		AttrNumber	attnum = get_attnum(RelationGetRelid(relation), name);

		if (is_in(columns, name))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("column \"%s\" cannot be both tracked and private", name)));
		if (bms_is_member(attnum - FirstLowInvalidHeapAttributeNumber, key))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("column \"%s\" of the primary key cannot be private", name),
					 errdetail("The key is the aggregate id of each event.")));
	}
}

static char *
get_prefix(FunctionCallInfo fcinfo, Relation relation)
{
	char	   *prefix = PG_ARGISNULL(ARG_PREFIX) ? RelationGetRelationName(relation) :
	text_to_cstring(PG_GETARG_TEXT_PP(ARG_PREFIX));
	const char *error = orion_topic_type_error(prefix);

	if (!error)
		error = orion_topic_type_error(psprintf("%s.truncated", prefix));
	if (error)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" cannot begin event types: %s", prefix, error),
				 errhint("Give a prefix, for example orion_track('...', prefix => 'order').")));
	return prefix;
}

/* As bits of TRIGGER_TYPE. */
static int16
get_operations(FunctionCallInfo fcinfo)
{
	static const struct
	{
		const char *name;
		int16		bit;
	}			known[] = {
		{"insert", TRIGGER_TYPE_INSERT}, {"update", TRIGGER_TYPE_UPDATE},
		{"delete", TRIGGER_TYPE_DELETE}, {"truncate", TRIGGER_TYPE_TRUNCATE},
	};
	int16		bits = 0;
	ListCell   *lc;

	foreach(lc, strings_of(fcinfo, ARG_OPERATIONS, "operations"))
	{
		int16		bit = 0;

		for (int i = 0; i < lengthof(known); i++)
			if (pg_strcasecmp(lfirst(lc), known[i].name) == 0)
				bit = known[i].bit;
		if (!bit)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("unknown operation \"%s\"", (char *) lfirst(lc)),
					 errhint("The operations are insert, update, delete and truncate.")));
		bits |= bit;
	}
	if (!bits)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("at least one operation must be tracked")));
	return bits;
}

static void
push_names(JsonbParseState **state, const char *key, List *names)
{
	ListCell   *lc;

	orion_track_push_key(state, key);
	pushJsonbValue(state, WJB_BEGIN_ARRAY, NULL);
	foreach(lc, names)
		orion_track_push_string(state, WJB_ELEM, lfirst(lc));
	pushJsonbValue(state, WJB_END_ARRAY, NULL);
}

/* The second argument of the triggers; see track_private.h. */
static char *
make_settings(bool listed, List *columns, List *private, int32 version)
{
	JsonbParseState *state = NULL;
	JsonbValue	number = {.type = jbvNumeric,.val.numeric = int64_to_numeric(version)};
	Jsonb	   *settings;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	if (listed)
		push_names(&state, "columns", columns);
	push_names(&state, "private", private);
	orion_track_push_key(&state, "version");
	pushJsonbValue(&state, WJB_VALUE, &number);
	settings = JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
	return JsonbToCString(NULL, &settings->root, VARSIZE(settings));
}

/* Labels of columns neither tracked nor private are taken away. */
static void
set_labels(Relation relation, List *columns, List *private)
{
	TupleDesc	desc = RelationGetDescr(relation);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		ObjectAddress address = {RelationRelationId, RelationGetRelid(relation), att->attnum};
		const char *name = NameStr(att->attname);
		const char *label = is_in(private, name) ? ORION_TRACK_PRIVATE : is_in(columns, name) ? ORION_TRACK_TRACKED : NULL;

		if (!att->attisdropped && (label || GetSecurityLabel(&address, ORION_TRACK_PROVIDER)))
			SetSecurityLabel(&address, ORION_TRACK_PROVIDER, label);
	}
	CommandCounterIncrement();
}

static void
create_trigger(Oid relid, char *name, bool row, int16 events, char *prefix, char *settings)
{
	CreateTrigStmt *stmt = makeNode(CreateTrigStmt);

	stmt->trigname = name;
	stmt->args = list_make2(makeString(prefix), makeString(settings));
	stmt->row = row;
	stmt->timing = TRIGGER_TYPE_AFTER;
	stmt->events = events;
	(void) CreateTrigger(stmt, NULL, relid, InvalidOid, InvalidOid, InvalidOid,
						 trigger_function(), InvalidOid, NULL, false, false);
	CommandCounterIncrement();
}

static void
refuse_nulls(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(ARG_RELATION) || PG_ARGISNULL(ARG_OPERATIONS) || PG_ARGISNULL(ARG_VERSION))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("relation, operations and version must not be null")));
	if (PG_GETARG_INT32(ARG_VERSION) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("version of an event must be 1 or more, not %d", PG_GETARG_INT32(ARG_VERSION))));
}

Datum
orion_track(PG_FUNCTION_ARGS)
{
	List	   *columns = strings_of(fcinfo, ARG_COLUMNS, "columns");
	List	   *private = strings_of(fcinfo, ARG_PRIVATE, "private");
	Relation	relation;
	char	   *prefix;
	char	   *settings;
	int16		events;
	OrionUser	caller;

	refuse_nulls(fcinfo);
	PreventCommandIfReadOnly("orion_track()");
	relation = open_own_table(PG_GETARG_OID(ARG_RELATION));
	check_table(relation);
	check_columns(relation, columns);
	check_private(relation, private, columns);
	prefix = get_prefix(fcinfo, relation);
	events = get_operations(fcinfo);
	settings = make_settings(!PG_ARGISNULL(ARG_COLUMNS), columns, private, PG_GETARG_INT32(ARG_VERSION));

	caller = orion_become_owner();
	drop_triggers(own_triggers(relation));
	set_labels(relation, columns, private);
	if (events & ~TRIGGER_TYPE_TRUNCATE)
		create_trigger(RelationGetRelid(relation), ROW_TRIGGER, true, events & ~TRIGGER_TYPE_TRUNCATE, prefix, settings);
	if (events & TRIGGER_TYPE_TRUNCATE)
		create_trigger(RelationGetRelid(relation), TRUNCATE_TRIGGER, false, TRIGGER_TYPE_TRUNCATE, prefix, settings);
	orion_become_again(caller);
	table_close(relation, NoLock);
	PG_RETURN_VOID();
}

Datum
orion_untrack(PG_FUNCTION_ARGS)
{
	Relation	relation;
	List	   *triggers;
	OrionUser	caller;

	PreventCommandIfReadOnly("orion_untrack()");
	relation = open_own_table(PG_GETARG_OID(0));
	triggers = own_triggers(relation);
	if (triggers == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("\"%s\" is not tracked", RelationGetRelationName(relation))));
	caller = orion_become_owner();
	drop_triggers(triggers);
	set_labels(relation, NIL, NIL);
	orion_become_again(caller);
	table_close(relation, NoLock);
	PG_RETURN_VOID();
}

void
orion_track_init(void)
{
	orion_tracking_init();
}
