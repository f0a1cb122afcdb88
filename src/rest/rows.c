/*
 * rows.c
 *	  Rows of a statement straight into the body of the answer.
 *
 * An aggregate would copy each row into its state and the whole once more into the
 * result; its start alone is a tenth of the cost of a GET by key.
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "nodes/params.h"
#include "tcop/dest.h"
#include "utils/plancache.h"
#include "utils/snapmgr.h"

#include "core/compat.h"
#include "core/plan.h"
#include "rest/closed.h"
#include "rest/error.h"
#include "rest/json_row.h"
#include "rest/media.h"
#include "rest/result.h"
#include "rest/rows.h"
#include "rest/session.h"
#include "rest/settings.h"

typedef struct RowsReceiver
{
	DestReceiver pub;			/* first */
	StringInfo	body;
	Size		max;
	bool		one;
	int64		n;
	OrionJsonRow *row;
	MemoryContext memory;		/* for one row after the other; the first does
								 * without */
} RowsReceiver;

static void
startup(DestReceiver *self, int operation, TupleDesc desc)
{
	((RowsReceiver *) self)->row = orion_json_row_make(desc);
}

static void
ignore(DestReceiver *self)
{
}

/* Most answers are a row. */
static void
write_row(RowsReceiver *rows, TupleTableSlot *slot)
{
	MemoryContext old;

	if (rows->n == 1)
	{
		orion_json_row_write(rows->row, slot, rows->body);
		return;
	}
	if (rows->memory == NULL)
		rows->memory = AllocSetContextCreate(CurrentMemoryContext, "orion row", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(rows->memory);
	orion_json_row_write(rows->row, slot, rows->body);
	MemoryContextSwitchTo(old);
	MemoryContextReset(rows->memory);
}

static bool
receive(TupleTableSlot *slot, DestReceiver *self)
{
	RowsReceiver *rows = (RowsReceiver *) self;

	if (rows->n++ > 0 && rows->one)
		return true;			/* counted, for the refusal */
	if (!rows->one)
		appendStringInfoString(rows->body, rows->n == 1 ? "[" : ", \n ");
	write_row(rows, slot);
	if (rows->body->len > rows->max)
		orion_result_refuse_size();
	return true;
}

bool
orion_rows_possible(const OrionCall *call)
{
	return call->media.format == ORION_FORMAT_JSON && !call->media.stripped && !call->media.plan;
}

static ParamListInfo
list_params(const OrionStatement *st)
{
	ParamListInfo params;

	if (st->nparams == 0)
		return NULL;
	params = makeParamList(st->nparams);
	for (int i = 0; i < st->nparams; i++)
		params->params[i] = (ParamExternData)
	{
		.value = st->values[i],.isnull = st->nulls[i] != ' ',.pflags = PARAM_FLAG_CONST,.ptype = st->types[i]
	};
	return params;
}

static bool
is_closed(OrionPlanNote *note, const CachedPlanSource *source, const CachedPlan *plan)
{
	if (note->plan != plan->generation || note->generation != orion_closed_generation())
	{
		note->closed = orion_statement_is_closed(source->query_list, plan->stmt_list);
		note->plan = plan->generation;
		note->generation = orion_closed_generation();
	}
	return note->closed;
}

/* For the server's log. */
static void
name_statement(void *text)
{
	errcontext("SQL statement \"%s\"", (const char *) text);
}

/*
 * The one at hand is from before the locks and would see no rows of a table that was
 * rewritten while we waited.  Its successor serves what else is asked of the page.  A batch
 * has renewed it itself, and not in the subtransaction.
 */
static void
renew_snapshot(void)
{
	if (GetCurrentTransactionNestLevel() > 1)
		return;
	PopActiveSnapshot();
	PushActiveSnapshot(GetTransactionSnapshot());
}

/*
 * Without SPI: it would take the plan, and with it the locks under which it is what it
 * is, only when it is too late to tell the session.
 */
static void
run_kept(CachedPlanSource *source, OrionPlanNote *note, ParamListInfo params, DestReceiver *dest)
{
	CachedPlan *plan;
	QueryDesc  *query;
	ErrorContextCallback named = {error_context_stack, name_statement, unconstify(char *, source->query_string)};

	error_context_stack = &named;
	plan = GetCachedPlan(source, params, CurrentResourceOwner, NULL);	/* one made anew tells */
	if (orion_session_is_untold() && !is_closed(note, source, plan))
		orion_session_tell();
	renew_snapshot();
	query = CreateQueryDesc(linitial_node(PlannedStmt, plan->stmt_list), source->query_string,
							GetActiveSnapshot(), InvalidSnapshot, dest, params, NULL, 0);
	ExecutorStart(query, 0);
	orion_executor_run(query);
	ExecutorFinish(query);
	ExecutorEnd(query);
	FreeQueryDesc(query);
	ReleaseCachedPlan(plan, CurrentResourceOwner);
	error_context_stack = named.previous;
}

static void
run_spi(OrionStatement *st, ParamListInfo params, DestReceiver *dest)
{
	SPIExecuteOptions options = {.dest = dest,.read_only = true,.params = params};
	int			result;

	orion_session_tell();
	result = SPI_execute_extended(st->text.data, &options);
	if (result < 0)
		elog(ERROR, "SPI_execute_extended failed: %s", SPI_result_code_string(result));
}

static void
run(OrionStatement *st, DestReceiver *dest)
{
	ParamListInfo params = list_params(st);
	OrionPlanNote *note = NULL;
	SPIPlanPtr	plan = NULL;

	if (orion_rest_prepared_statements)
		plan = orion_plan_find(st->text.data, st->text.len, st->nparams, st->types, &note);
	if (note)
		run_kept(linitial(SPI_plan_get_plan_sources(plan)), note, params, dest);
	else
		run_spi(st, params, dest);
}

int64
orion_rows_run(OrionCall *call, OrionStatement *st)
{
	RowsReceiver rows = {
		.pub = {
			.receiveSlot = receive,
			.rStartup = startup,
			.rShutdown = ignore,
			.rDestroy = ignore,
			.mydest = DestNone,
		},
		.body = &call->response->body,
		.max = (Size) orion_rest_max_answer_size * 1024,
		.one = call->one,
	};

	run(st, &rows.pub);
	if (!call->one)
		appendStringInfoString(rows.body, rows.n == 0 ? "[]" : "]");
	return rows.n;
}
