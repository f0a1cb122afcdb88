/*
 * closed.c
 *	  Statements that cannot look at the session, nor change it.
 *
 * Everything is refused that is not known: a node that is not listed here, a function
 * or type that PostgreSQL did not bring along.  What is mistaken for open costs some
 * microseconds; what is mistaken for closed would see no claims, or leave something to
 * the next request.
 *
 * Of PostgreSQL's own functions the immutable ones depend on their arguments alone.  Of
 * the others those are listed that everyday statements call, after a look at each: they
 * ask for formats (TimeZone, DateStyle), the time or the current user, which are right
 * also for a statement that is closed.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_class.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "nodes/plannodes.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "rest/closed.h"
#include "token/token.h"

static uint64 generation = 0;

/* Stable functions of PostgreSQL that ask for nothing a request sets. */
static const Oid harmless[] = {
	F_ARRAY_OUT, F_ARRAY_TO_JSON_ANYARRAY, F_DATE_OUT, F_INTERVAL_OUT, F_JSON_AGG, F_JSON_BUILD_ARRAY_ANY,
	F_JSON_BUILD_OBJECT_ANY, F_JSON_OBJECT_AGG, F_JSONB_AGG, F_JSONB_BUILD_ARRAY_ANY,
	F_JSONB_BUILD_OBJECT_ANY, F_JSONB_OBJECT_AGG, F_NOW, F_ROW_TO_JSON_RECORD, F_TEXTANYCAT, F_ANYTEXTCAT,
	F_TIMESTAMP_OUT, F_TIMESTAMPTZ_OUT, F_TO_JSON, F_TO_JSONB,
};

uint64
orion_closed_generation(void)
{
	return generation;
}

/* PostgreSQL's JSON functions call a type's own cast. */
static bool
has_json_cast(Oid type)
{
	return SearchSysCacheExists2(CASTSOURCETARGET, ObjectIdGetDatum(type), ObjectIdGetDatum(JSONOID)) ||
		SearchSysCacheExists2(CASTSOURCETARGET, ObjectIdGetDatum(type), ObjectIdGetDatum(JSONBOID));
}

bool
orion_type_is_open(Oid type)
{
	if (type < FirstUnpinnedObjectId)
		return type == ANYARRAYOID; /* in statistics: of anything */
	return get_typtype(type) != TYPTYPE_ENUM || has_json_cast(type);
}

/* Ours that give the claims of the request, which it has in any case. */
static bool
asks_for_claims(Oid function)
{
	FmgrInfo	info;

	fmgr_info(function, &info);
	return orion_claims_gives(info.fn_addr);
}

static bool
is_open_function(Oid function, void *context)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc proc;
	bool		immutable;
	bool		loaded;

	if (!HeapTupleIsValid(tuple))
		return true;
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	immutable = proc->provolatile == PROVOLATILE_IMMUTABLE;
	loaded = proc->prolang == ClanguageId;
	ReleaseSysCache(tuple);
	if (function >= FirstUnpinnedObjectId)
		return !loaded || !asks_for_claims(function);
	for (int i = 0; i < lengthof(harmless) && !immutable; i++)
		immutable = harmless[i] == function;
	return !immutable;
}

static bool
is_open_relation(const RangeTblEntry *rte)
{
	switch (rte->rtekind)
	{
		case RTE_RELATION:
			return rte->tablesample != NULL;
		case RTE_SUBQUERY:
		case RTE_JOIN:
		case RTE_FUNCTION:
		case RTE_VALUES:
		case RTE_CTE:
		case RTE_RESULT:
			return false;
		default:
			return true;
	}
}

static bool is_open(Node *node, void *context);

static bool
is_open_query(Query *query)
{
	return query->commandType != CMD_SELECT || query->hasModifyingCTE || query->rowMarks != NIL ||
		query_tree_walker(query, is_open, NULL, QTW_EXAMINE_RTES_BEFORE);
}

static bool
is_open(Node *node, void *context)
{
	if (node == NULL)
		return false;
	switch (nodeTag(node))
	{
		case T_Query:
			return is_open_query((Query *) node);
		case T_RangeTblEntry:
			return is_open_relation((RangeTblEntry *) node);	/* the walker goes on
																 * into it */
		case T_List:
		case T_TargetEntry:
		case T_FromExpr:
		case T_JoinExpr:
		case T_RangeTblRef:
		case T_RangeTblFunction:
		case T_CommonTableExpr:
		case T_SetOperationStmt:
		case T_SortGroupClause:
		case T_WindowClause:
			break;
		case T_Var:
		case T_Const:
		case T_Param:
		case T_Aggref:
		case T_GroupingFunc:
		case T_WindowFunc:
		case T_SubscriptingRef:
		case T_FuncExpr:
		case T_NamedArgExpr:
		case T_OpExpr:
		case T_DistinctExpr:
		case T_NullIfExpr:
		case T_ScalarArrayOpExpr:
		case T_BoolExpr:
		case T_SubLink:
		case T_FieldSelect:
		case T_RelabelType:
		case T_CoerceViaIO:
		case T_ArrayCoerceExpr:
		case T_CollateExpr:
		case T_CaseExpr:
		case T_CaseTestExpr:
		case T_ArrayExpr:
		case T_RowExpr:
		case T_RowCompareExpr:
		case T_CoalesceExpr:
		case T_MinMaxExpr:
		case T_SQLValueFunction:
		case T_NullTest:
		case T_BooleanTest:
			if (orion_type_is_open(exprType(node)) || check_functions_in_node(node, is_open_function, context))
				return true;
			break;
		case T_CaseWhen:
			break;
		default:
			return true;
	}
	return expression_tree_walker(node, is_open, context);
}

/* Partitions and children are found by the planner. */
static bool
has_foreign_table(const PlannedStmt *plan)
{
	ListCell   *lc;

	foreach(lc, plan->rtable)
	{
		const RangeTblEntry *rte = lfirst(lc);

		if (rte->rtekind == RTE_RELATION && rte->relkind == RELKIND_FOREIGN_TABLE)
			return true;
	}
	return false;
}

bool
orion_statement_is_closed(List *queries, List *plans)
{
	return list_length(queries) == 1 && !is_open(linitial(queries), NULL) &&
		!has_foreign_table(linitial_node(PlannedStmt, plans));
}

static void
count_change(Datum arg, int cache, uint32 hash)
{
	generation++;
}

void
orion_closed_init(void)
{
	CacheRegisterSyscacheCallback(CASTSOURCETARGET, count_change, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, count_change, (Datum) 0);
}
