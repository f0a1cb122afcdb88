/*
 * record.c
 *	  orion_update(): a compare-and-set of one row by its version.
 *
 * Runs in the caller's backend and transaction as the caller; privileges and row
 * level security are Postgres' own.  One UPDATE tests and changes, so of two
 * concurrent calls the second waits for the first, sees another version and
 * changes nothing.  Only then is the row looked at, to say why.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relation.h"
#include "catalog/pg_class.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteHandler.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "core/error.h"
#include "core/plan.h"
#include "record/record.h"

#define VIEW_DEPTH	16			/* views over views looked through for a
								 * trigger */

PG_FUNCTION_INFO_V1(orion_update);

typedef struct Target
{
	Relation	relation;
	const char *quoted;
	AttrNumber	key;
	AttrNumber	version;
	Oid			equals;			/* = of the key's type */
	Oid			key_type;		/* what that operator takes */
	bool		bumped;			/* a trigger counts the version of this update */
} Target;

static Form_pg_attribute
attribute(Relation relation, AttrNumber attnum)
{
	return TupleDescAttr(RelationGetDescr(relation), attnum - 1);
}

/* A column by name, or 0. */
static AttrNumber
find_column(Relation relation, const char *name)
{
	for (AttrNumber i = 1; i <= RelationGetNumberOfAttributes(relation); i++)
	{
		Form_pg_attribute att = attribute(relation, i);

		if (!att->attisdropped && strcmp(NameStr(att->attname), name) == 0)
			return i;
	}
	return 0;
}

/* The only column of the primary key; without one, the column "id". */
static AttrNumber
key_column(Relation relation)
{
	AttrNumber	key = 0;
	int			n = 0;

	list_free(RelationGetIndexList(relation));
	if (OidIsValid(relation->rd_pkindex))
	{
		Relation	pk = index_open(relation->rd_pkindex, AccessShareLock);

		n = IndexRelationGetNumberOfKeyAttributes(pk);
		key = pk->rd_index->indkey.values[0];
		index_close(pk, AccessShareLock);
	}
	if (n > 1)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the primary key of \"%s\" has %d columns", RelationGetRelationName(relation), n),
				 errhint("orion_update needs a key of one column.")));
	if (n == 0)
		key = find_column(relation, "id");
	if (key == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("\"%s\" has neither a primary key nor a column \"id\"", RelationGetRelationName(relation))));
	return key;
}

static AttrNumber
version_column(Relation relation)
{
	AttrNumber	version = find_column(relation, "version");
	Oid			type = version ? attribute(relation, version)->atttypid : InvalidOid;

	if (type != INT8OID && type != INT4OID)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("\"%s\" has no column \"version\" of type bigint or integer",
						RelationGetRelationName(relation)),
				 errhint("Add one: ALTER TABLE ... ADD COLUMN version bigint NOT NULL DEFAULT 1.")));
	return version;
}

/* UPDATE OF: an update of any of its columns fires the trigger. */
static bool
fires_for(const Trigger *trigger, const Bitmapset *columns)
{
	for (int i = 0; i < trigger->tgnattr; i++)
		if (bms_is_member(trigger->tgattr[i], columns))
			return true;
	return trigger->tgnattr == 0;
}

/*
 * Does a BEFORE UPDATE row trigger of this table call orion_version_bump of the
 * schema when these columns are updated?
 */
static bool
has_bump(Relation relation, const Bitmapset *columns, Oid schema)
{
	TriggerDesc *desc = relation->trigdesc;

	for (int i = 0; desc && i < desc->numtriggers; i++)
	{
		Trigger    *trigger = &desc->triggers[i];
		char	   *name;

		if (!TRIGGER_FOR_BEFORE(trigger->tgtype) || !TRIGGER_FOR_ROW(trigger->tgtype) ||
			!TRIGGER_FOR_UPDATE(trigger->tgtype) || trigger->tgenabled == TRIGGER_DISABLED ||
			trigger->tgqual != NULL || !fires_for(trigger, columns))
			continue;			/* may not fire for this change */
		name = get_func_name(trigger->tgfoid);
		if (name && strcmp(name, "orion_version_bump") == 0 && get_func_namespace(trigger->tgfoid) == schema)
			return true;
	}
	return false;
}

/* The table that a view over one relation reads, or InvalidOid. */
static Oid
view_base(Relation view)
{
	Query	   *query = get_view_query(view);
	Node	   *from;
	RangeTblEntry *rte;

	if (list_length(query->jointree->fromlist) != 1)
		return InvalidOid;
	from = linitial(query->jointree->fromlist);
	if (!IsA(from, RangeTblRef))
		return InvalidOid;
	rte = rt_fetch(((RangeTblRef *) from)->rtindex, query->rtable);
	return rte->rtekind == RTE_RELATION ? rte->relid : InvalidOid;
}

/* The columns of the table under a view that an update of these columns of it sets. */
static Bitmapset *
base_columns(Relation view, const Bitmapset *columns)
{
	Bitmapset  *base = NULL;
	ListCell   *lc;

	foreach(lc, get_view_query(view)->targetList)
	{
		TargetEntry *entry = lfirst(lc);

		if (bms_is_member(entry->resno, columns) && IsA(entry->expr, Var) &&
			((Var *) entry->expr)->varattno > 0)
			base = bms_add_member(base, ((Var *) entry->expr)->varattno);
	}
	return base;
}

/*
 * Is the version counted by a trigger when these columns are updated, on the
 * table or on the one under the view?
 */
static bool
is_bumped(Oid relid, Bitmapset *columns, Oid schema)
{
	for (int depth = 0; depth < VIEW_DEPTH && OidIsValid(relid); depth++)
	{
		Relation	relation = relation_open(relid, AccessShareLock);
		bool		found = has_bump(relation, columns, schema);
		bool		view = relation->rd_rel->relkind == RELKIND_VIEW;

		relid = view ? view_base(relation) : InvalidOid;
		if (view)
			columns = base_columns(relation, columns);
		relation_close(relation, AccessShareLock);
		if (found)
			return true;
	}
	return false;
}

static void
find_equals(Target *target)
{
	Form_pg_attribute att = attribute(target->relation, target->key);
	TypeCacheEntry *type = lookup_type_cache(getBaseType(att->atttypid), TYPECACHE_EQ_OPR);
	Oid			left;
	Oid			right;

	if (!OidIsValid(type->eq_opr))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("the key's type %s has no equality operator", format_type_be(att->atttypid))));
	target->equals = type->eq_opr;
	op_input_types(type->eq_opr, &left, &right);
	/* varchar is compared as text; arrays and enums by operators of any type */
	target->key_type = IsPolymorphicType(right) ? type->type_id : right;
}

static void
open_target(Target *target, Oid relid)
{
	char		relkind;

	memset(target, 0, sizeof(Target));
	target->relation = relation_open(relid, AccessShareLock);
	relkind = target->relation->rd_rel->relkind;
	if (relkind != RELKIND_RELATION && relkind != RELKIND_PARTITIONED_TABLE &&
		relkind != RELKIND_VIEW && relkind != RELKIND_FOREIGN_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a table or view", RelationGetRelationName(target->relation))));
	target->quoted = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(target->relation)),
												RelationGetRelationName(target->relation));
	target->key = key_column(target->relation);
	target->version = version_column(target->relation);
	find_equals(target);
}

static const char *
column_name(const Target *target, AttrNumber attnum)
{
	return quote_identifier(NameStr(attribute(target->relation, attnum)->attname));
}

/* The columns named by changes; refuses what orion_update does not change. */
static List *
changed_columns(const Target *target, Jsonb *changes)
{
	JsonbIterator *it = JsonbIteratorInit(&changes->root);
	JsonbValue	v;
	JsonbIteratorToken token;
	List	   *columns = NIL;

	if (!JB_ROOT_IS_OBJECT(changes) || JB_ROOT_COUNT(changes) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("changes must be an object with at least one column")));
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		char	   *name;
		AttrNumber	column;

		if (token != WJB_KEY)
			continue;
		name = pnstrdup(v.val.string.val, v.val.string.len);
		column = find_column(target->relation, name);
		if (column == 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of relation \"%s\" does not exist",
							name, RelationGetRelationName(target->relation))));
		if (column == target->key || column == target->version)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("changes must not contain the column \"%s\"", name),
					 errdetail("It is the key or the version of the row.")));
		columns = lappend_int(columns, column);
	}
	return columns;
}

static void
append_list(StringInfo text, int *n, const char *prefix, const char *name)
{
	appendStringInfo(text, "%s%s%s", (*n)++ > 0 ? ", " : "", prefix, name);
}

/* "key = $1" by the operator of the key's own type, whatever search_path says */
static void
append_key_test(StringInfo text, const Target *target)
{
	char	   *name = get_opname(target->equals);
	Oid			namespace = InvalidOid;
	HeapTuple	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(target->equals));

	if (HeapTupleIsValid(tuple))
	{
		namespace = ((Form_pg_operator) GETSTRUCT(tuple))->oprnamespace;
		ReleaseSysCache(tuple);
	}
	appendStringInfo(text, " WHERE t.%s OPERATOR(%s.%s) $1", column_name(target, target->key),
					 quote_identifier(get_namespace_name(namespace)), name);
}

/* " RETURNING" every column the caller may read. */
static void
append_returning(StringInfo text, const Target *target)
{
	Oid			relid = RelationGetRelid(target->relation);
	bool		all = pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) == ACLCHECK_OK;
	int			n = 0;

	appendStringInfoString(text, " RETURNING ");
	for (AttrNumber i = 1; i <= RelationGetNumberOfAttributes(target->relation); i++)
		if (!attribute(target->relation, i)->attisdropped &&
			(all || pg_attribute_aclcheck(relid, i, GetUserId(), ACL_SELECT) == ACLCHECK_OK))
			append_list(text, &n, "t.", column_name(target, i));
	if (n == 0)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, RelationGetRelationName(target->relation));
}

/* $1 key, $2 expected version, $3 changes */
static char *
update_text(const Target *target, List *columns)
{
	StringInfoData text;
	ListCell   *lc;
	int			n = 0;

	initStringInfo(&text);
	appendStringInfo(&text, "WITH w AS (UPDATE %s AS t SET ", target->quoted);
	foreach(lc, columns)
	{
		const char *name = column_name(target, lfirst_int(lc));

		append_list(&text, &n, "", name);
		appendStringInfo(&text, " = r.%s", name);
	}
	if (!target->bumped)
		appendStringInfoString(&text, ", version = t.version OPERATOR(pg_catalog.+) 1");
	appendStringInfoString(&text, " FROM pg_catalog.jsonb_to_record($3) AS r(");
	n = 0;
	foreach(lc, columns)
	{
		Form_pg_attribute att = attribute(target->relation, lfirst_int(lc));

		append_list(&text, &n, "", column_name(target, lfirst_int(lc)));
		appendStringInfo(&text, " %s", format_type_extended(att->atttypid, att->atttypmod,
															FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));
	}
	appendStringInfoString(&text, ")");
	append_key_test(&text, target);
	appendStringInfoString(&text, " AND t.version OPERATOR(pg_catalog.=) $2");
	append_returning(&text, target);
	appendStringInfoString(&text, ") SELECT pg_catalog.to_jsonb(w.*) FROM w");
	return text.data;
}

static void
run(const char *text, int nargs, const Oid *types, Datum *values)
{
	SPIPlanPtr	plan = orion_plan_get(text, strlen(text), nargs, types);
	int			result = SPI_execute_plan(plan, values, NULL, false, 0);

	if (result < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(result));
}

/* Nothing was updated: says why. */
static void
explain_failure(const Target *target, Datum key, const char *id, int64 expected)
{
	StringInfoData text;
	bool		isnull;
	int64		current;

	initStringInfo(&text);
	appendStringInfo(&text, "SELECT t.version::pg_catalog.int8 FROM %s AS t", target->quoted);
	append_key_test(&text, target);
	run(text.data, 1, &target->key_type, &key);
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_ORION_NOT_FOUND),
				 errmsg("\"%s\" has no row with key \"%s\"", RelationGetRelationName(target->relation), id)));
	current = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	if (!isnull && current == expected)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("the row with key \"%s\" of \"%s\" may be read but not updated",
						id, RelationGetRelationName(target->relation))));
	ereport(ERROR,
			(errcode(ERRCODE_ORION_CONFLICT),
			 errmsg("the row with key \"%s\" of \"%s\" was changed meanwhile",
					id, RelationGetRelationName(target->relation)),
			 isnull ? errdetail("Its version is null.") :
			 errdetail("Its version is " INT64_FORMAT ", expected was " INT64_FORMAT ".", current, expected),
			 errhint("Read the row again and repeat the change.")));
}

bool
orion_record_counts_versions(Oid relid, Oid schema)
{
	AttrNumber	version = get_attnum(relid, "version");
	Oid			type = version > 0 ? get_atttype(relid, version) : InvalidOid;

	return (type == INT8OID || type == INT4OID) && is_bumped(relid, NULL, schema);
}

static Datum
update_row(Target *target, Oid schema, const char *id, int64 expected, Jsonb *changes)
{
	List	   *columns = changed_columns(target, changes);
	Bitmapset  *set = NULL;
	ListCell   *lc;
	Oid			types[3] = {target->key_type, INT8OID, JSONBOID};
	Datum		values[3];
	MemoryContext caller = CurrentMemoryContext;
	Oid			input;
	Oid			param;
	bool		isnull;
	Datum		row;

	foreach(lc, columns)
		set = bms_add_member(set, lfirst_int(lc));
	target->bumped = is_bumped(RelationGetRelid(target->relation), set, schema);
	getTypeInputInfo(target->key_type, &input, &param);
	values[0] = OidInputFunctionCall(input, unconstify(char *, id), param, -1);
	values[1] = Int64GetDatum(expected);
	values[2] = JsonbPGetDatum(changes);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	run(update_text(target, columns), 3, types, values);
	if (SPI_processed == 0)
		explain_failure(target, values[0], id, expected);
	if (SPI_processed > 1)
		ereport(ERROR,
				(errcode(ERRCODE_CARDINALITY_VIOLATION),
				 errmsg("\"%s\" has several rows with key \"%s\"", RelationGetRelationName(target->relation), id)));
	row = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	MemoryContextSwitchTo(caller);
	row = PointerGetDatum(PG_DETOAST_DATUM_COPY(row));
	SPI_finish();
	return row;
}

static void
refuse_null(const char *argument)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("argument \"%s\" of orion_update must not be null", argument),
			 strcmp(argument, "expected_version") == 0 ?
			 errhint("Pass the version of the row that was read before the change.") : 0));
}

PGDLLEXPORT Datum
orion_update(PG_FUNCTION_ARGS)
{
	static const char *const arguments[] = {"relation", "id", "expected_version", "changes"};
	Target		target;
	Datum		row;

	for (int i = 0; i < lengthof(arguments); i++)
		if (PG_ARGISNULL(i))
			refuse_null(arguments[i]);
	open_target(&target, PG_GETARG_OID(0));
	/* the trigger function and this one live in the same schema */
	row = update_row(&target, get_func_namespace(fcinfo->flinfo->fn_oid), text_to_cstring(PG_GETARG_TEXT_PP(1)), PG_GETARG_INT64(2), PG_GETARG_JSONB_P(3));
	relation_close(target.relation, AccessShareLock);
	PG_RETURN_DATUM(row);
}
