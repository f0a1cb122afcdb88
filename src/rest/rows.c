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
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/snapmgr.h"

#include "core/compat.h"
#include "core/plan.h"
#include "rest/closed.h"
#include "rest/error.h"
#include "rest/joint.h"
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
	MemoryContext request;		/* what a row needs goes here: the statement
								 * may run for others */
	MemoryContext memory;		/* for one row after the other; the first does
								 * without */
} RowsReceiver;

static void
startup(DestReceiver *self, int operation, TupleDesc desc)
{
	RowsReceiver *rows = (RowsReceiver *) self;

	if (rows->row == NULL)
		rows->row = orion_json_row_make(desc);
}

static void
ignore(DestReceiver *self)
{
}

/* Most answers are a row. */
static void
write_row(RowsReceiver *rows, TupleTableSlot *slot)
{
	MemoryContext old = MemoryContextSwitchTo(rows->request);

	if (rows->n > 1 && rows->memory == NULL)
		rows->memory = AllocSetContextCreate(rows->request, "orion row", ALLOCSET_DEFAULT_SIZES);
	if (rows->memory)
		MemoryContextSwitchTo(rows->memory);
	orion_json_row_write(rows->row, slot, rows->body);
	MemoryContextSwitchTo(old);
	if (rows->memory)
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
run_kept(OrionCall *call, OrionStatement *st, CachedPlanSource *source, OrionPlanNote *note, RowsReceiver *rows)
{
	OrionJointStatement run = {0};
	MemoryContext old;
	bool		shared;
	ErrorContextCallback named = {error_context_stack, name_statement, unconstify(char *, source->query_string)};

	error_context_stack = &named;

	/* what may outlive this request */
	old = MemoryContextSwitchTo(TopTransactionContext);
	run.params = list_params(st);
	run.plan = GetCachedPlan(source, run.params, CurrentResourceOwner, NULL);	/* one made anew tells */
	if (orion_session_is_untold() && !is_closed(note, source, run.plan))
		orion_session_tell();
	renew_snapshot();
	shared = orion_session_is_untold() && orion_joint_may_keep(call, source, run.plan);
	run.query = CreateQueryDesc(linitial_node(PlannedStmt, run.plan->stmt_list), source->query_string,
								GetActiveSnapshot(), InvalidSnapshot, &rows->pub, run.params, NULL, 0);
	ExecutorStart(run.query, 0);
	MemoryContextSwitchTo(old);
	orion_executor_run(run.query, !shared);
	run.row = rows->row;
	if (shared)
		orion_joint_keep(call, st, &run);
	else
		orion_joint_end_statement(&run);
	error_context_stack = named.previous;
}

static void
run_again(const OrionJointStatement *again, RowsReceiver *rows)
{
	ErrorContextCallback named = {error_context_stack, name_statement, unconstify(char *, again->query->sourceText)};

	error_context_stack = &named;
	rows->row = again->row;
	again->query->dest = &rows->pub;
	orion_executor_run(again->query, false);
	error_context_stack = named.previous;
}

/* In the transaction of an earlier request, when that ran the same; else in one of its own. */
static bool
run_joined(OrionCall *call, OrionStatement *st, RowsReceiver *rows)
{
	const OrionJointStatement *again = orion_joint_again(call, st);

	if (again)
		run_again(again, rows);
	else
		orion_session_part(call);
	return again != NULL;
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
run(OrionCall *call, OrionStatement *st, RowsReceiver *rows)
{
	OrionPlanNote *note = NULL;
	SPIPlanPtr	plan = NULL;

	if (orion_joint_is_joined() && run_joined(call, st, rows))
		return;
	if (orion_rest_prepared_statements)
		plan = orion_plan_find(st->text.data, st->text.len, st->nparams, st->types, &note);
	if (note)
		run_kept(call, st, linitial(SPI_plan_get_plan_sources(plan)), note, rows);
	else
		run_spi(st, list_params(st), &rows->pub);
}

static void
begin_rows(RowsReceiver *rows, OrionCall *call)
{
	memset(rows, 0, sizeof(RowsReceiver));
	rows->pub.receiveSlot = receive;
	rows->pub.rStartup = startup;
	rows->pub.rShutdown = ignore;
	rows->pub.rDestroy = ignore;
	rows->pub.mydest = DestNone;
	rows->body = &call->response->body;
	rows->max = (Size) orion_rest_max_answer_size * 1024;
	rows->one = call->one;
	rows->request = call->arena.context;
}

static int64
end_rows(const RowsReceiver *rows)
{
	if (!rows->one)
		appendStringInfoString(rows->body, rows->n == 0 ? "[]" : "]");
	return rows->n;
}

int64
orion_rows_run(OrionCall *call, OrionStatement *st)
{
	RowsReceiver rows;

	begin_rows(&rows, call);
	run(call, st, &rows);
	return end_rows(&rows);
}

int64
orion_rows_repeat(OrionCall *call)
{
	RowsReceiver rows;

	begin_rows(&rows, call);
	run_again(orion_joint_repeat(call), &rows);
	return end_rows(&rows);
}
