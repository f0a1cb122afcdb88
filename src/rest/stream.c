/*
 * stream.c
 *	  Rows as lines (NDJSON, CSV), sent while they are read.
 *
 * A cursor gives some rows at a time, each becomes a line, and a buffer full of lines
 * goes to the sink, which waits while the client is slow.  What fits into the first
 * buffer is answered like anything else, with everything a header can tell.  An error
 * further on breaks the answer off: the gateway then ends the connection.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

#include "core/plan.h"
#include "rest/media.h"
#include "rest/response.h"
#include "rest/result.h"
#include "rest/stream.h"

#define ROWS_AT_ONCE	100
#define CHUNK			(64 * 1024)

typedef struct Streamer
{
	OrionCall  *call;
	StringInfoData lines;
	int64		rows;
	bool		begun;
} Streamer;

bool
orion_stream_wanted(const OrionCall *call)
{
	return call->request->sink && call->method == ORION_GET && !call->operation && !call->media.plan &&
		call->prefer.count == ORION_COUNT_NONE &&
		(call->media.format == ORION_FORMAT_NDJSON || call->media.format == ORION_FORMAT_CSV);
}

static void
append_name(StringInfo out, const char *name)
{
	if (strpbrk(name, "\",\n\r") == NULL)
	{
		appendStringInfoString(out, name);
		return;
	}
	appendStringInfoChar(out, '"');
	for (; *name; name++)
	{
		if (*name == '"')
			appendStringInfoChar(out, '"');
		appendStringInfoChar(out, *name);
	}
	appendStringInfoChar(out, '"');
}

/* The names of the columns of a row. */
static void
append_names(StringInfo out, Datum row)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(row);
	TupleDesc	desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(header), HeapTupleHeaderGetTypMod(header));
	const char *joint = "";

	for (int i = 0; i < desc->natts; i++)
	{
		if (TupleDescAttr(desc, i)->attisdropped)
			continue;
		appendStringInfoString(out, joint);
		append_name(out, NameStr(TupleDescAttr(desc, i)->attname));
		joint = ",";
	}
	ReleaseTupleDesc(desc);
}

/* One row: as JSON with its line end, or in CSV behind the line before. */
static void
append_row(Streamer *streamer, Datum row)
{
	StringInfo	out = &streamer->lines;

	if (streamer->call->media.format == ORION_FORMAT_NDJSON)
	{
		text	   *json = DatumGetTextPP(DirectFunctionCall1(row_to_json, row));

		appendBinaryStringInfo(out, VARDATA_ANY(json), VARSIZE_ANY_EXHDR(json));
		appendStringInfoChar(out, '\n');
	}
	else
	{
		char	   *line = OidOutputFunctionCall(F_RECORD_OUT, row);

		if (streamer->rows == 0)
			append_names(out, row);
		appendStringInfoChar(out, '\n');
		appendBinaryStringInfo(out, line + 1, strlen(line) - 2);	/* without its
																	 * parentheses */
	}
	streamer->rows++;
}

static void
put_head(OrionCall *call)
{
	orion_response_header(call->response, "Content-Type", orion_media_type(call));
	call->response->status = 200;
}

static void
send_lines(Streamer *streamer)
{
	OrionCall  *call = streamer->call;

	if (!streamer->begun)
	{
		streamer->begun = true;
		put_head(call);
		orion_call_begin_stream(call);
	}
	call->request->sink->write(streamer->lines.data, streamer->lines.len);
	resetStringInfo(&streamer->lines);
}

/* The rows at hand; memory of values lasts for one of them. */
static void
take_rows(Streamer *streamer, MemoryContext scratch)
{
	MemoryContext old = MemoryContextSwitchTo(scratch);

	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		Datum		row = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull);

		append_row(streamer, row);
		MemoryContextReset(scratch);
		if (streamer->lines.len >= CHUNK)
			send_lines(streamer);
	}
	MemoryContextSwitchTo(old);
	SPI_freetuptable(SPI_tuptable);
}

/* All of it fits into one buffer. */
static void
answer_at_once(Streamer *streamer)
{
	OrionCall  *call = streamer->call;

	put_head(call);
	orion_result_range(call, orion_result_offset(call), streamer->rows, -1);
	appendBinaryStringInfo(&call->response->body, streamer->lines.data, streamer->lines.len);
	if (streamer->rows == 0)
		appendStringInfoString(&call->response->body, orion_media_empty(call));
}

void
orion_stream_rows(OrionCall *call, const OrionRead *read)
{
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "orion stream", ALLOCSET_DEFAULT_SIZES);
	Streamer	streamer = {.call = call};
	OrionStatement st;
	Portal		portal;

	orion_statement_init(&st);
	orion_statement_add(&st, "SELECT w FROM (");
	orion_read_begin(&st, read);
	orion_statement_add(&st, read->source->quoted);
	orion_read_end(&st, read);
	orion_statement_add(&st, ") AS w");
	initStringInfo(&streamer.lines);
	portal = SPI_cursor_open(NULL, orion_plan_get(st.text.data, st.text.len, st.nparams, st.types),
							 st.values, st.nulls, false);
	do
	{
		CHECK_FOR_INTERRUPTS();
		SPI_cursor_fetch(portal, true, ROWS_AT_ONCE);
		if (SPI_processed == 0)
			break;
		take_rows(&streamer, scratch);
	} while (true);
	SPI_cursor_close(portal);
	if (!streamer.begun)
	{
		answer_at_once(&streamer);
		return;
	}
	if (streamer.lines.len > 0)
		send_lines(&streamer);
	call->response->streamed = true;
}
