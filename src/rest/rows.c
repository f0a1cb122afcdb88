/*
 * rows.c
 *	  Rows of a statement straight into the body of the answer.
 *
 * An aggregate would copy each row into its state and the whole once more into the
 * result; its start alone is a tenth of the cost of a GET by key.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "executor/tuptable.h"
#include "nodes/params.h"
#include "tcop/dest.h"

#include "rest/error.h"
#include "rest/media.h"
#include "rest/result.h"
#include "rest/rows.h"
#include "rest/settings.h"

typedef struct RowsReceiver
{
	DestReceiver pub;			/* first */
	StringInfo	body;
	Size		max;
	bool		one;
	int64		n;
} RowsReceiver;

static void
ignore_startup(DestReceiver *self, int operation, TupleDesc desc)
{
}

static void
ignore(DestReceiver *self)
{
}

static bool
receive(TupleTableSlot *slot, DestReceiver *self)
{
	RowsReceiver *rows = (RowsReceiver *) self;
	bool		isnull;
	struct varlena *json = PG_DETOAST_DATUM_PACKED(slot_getattr(slot, 1, &isnull));

	if (rows->n++ > 0 && rows->one)
		return true;			/* counted, for the refusal */
	if (rows->body->len + VARSIZE_ANY_EXHDR(json) > rows->max)
		orion_result_refuse_size();
	if (!rows->one)
		appendStringInfoString(rows->body, rows->n == 1 ? "[" : ", \n ");
	appendBinaryStringInfo(rows->body, VARDATA_ANY(json), VARSIZE_ANY_EXHDR(json));
	return true;
}

bool
orion_rows_possible(const OrionCall *call)
{
	return call->media.format == ORION_FORMAT_JSON && !call->media.stripped && !call->media.plan;
}

static void
run(OrionStatement *st, SPIExecuteOptions *options)
{
	int			result;

	options->read_only = true;
	if (st->nparams > 0)
	{
		options->params = makeParamList(st->nparams);
		for (int i = 0; i < st->nparams; i++)
			options->params->params[i] = (ParamExternData)
		{
			.value = st->values[i],.isnull = st->nulls[i] != ' ',.pflags = PARAM_FLAG_CONST,.ptype = st->types[i]
		};
	}
	if (orion_rest_prepared_statements)
		result = SPI_execute_plan_extended(orion_statement_plan(st), options);
	else
		result = SPI_execute_extended(st->text.data, options);
	if (result < 0)
		elog(ERROR, "SPI_execute_plan_extended failed: %s", SPI_result_code_string(result));
}

int64
orion_rows_run(OrionCall *call, OrionStatement *st)
{
	RowsReceiver rows = {
		.pub = {
			.receiveSlot = receive,
			.rStartup = ignore_startup,
			.rShutdown = ignore,
			.rDestroy = ignore,
			.mydest = DestNone,
		},
		.body = &call->response->body,
		.max = (Size) orion_rest_max_answer_size * 1024,
		.one = call->one,
	};
	SPIExecuteOptions options = {.dest = &rows.pub};

	run(st, &options);
	if (!call->one)
		appendStringInfoString(rows.body, rows.n == 0 ? "[]" : "]");
	return rows.n;
}
