/*
 * event.c
 *	  Turns a row of the outbox into what sinks get: attributes and envelope.
 *
 * The columns are those of cursor.c's QUERY_ROWS.  Sinks get UTF-8 whatever the
 * encoding of the database.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "outbox/outbox.h"

enum
{
	COL_SEQ = 1,
	COL_ID,
	COL_AGGREGATETYPE,
	COL_AGGREGATEID,
	COL_TYPE,
	COL_PAYLOAD,
	COL_VERSION,
	COL_CORRELATION_ID,
	COL_CAUSATION_ID,
	COL_METADATA,
	COL_OCCURRED_AT,
};

static char *
text_column(HeapTuple row, TupleDesc desc, int number)
{
	bool		isnull;
	Datum		value = SPI_getbinval(row, desc, number, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

int64
orion_event_seq(HeapTuple row, TupleDesc desc)
{
	bool		isnull;

	return DatumGetInt64(SPI_getbinval(row, desc, COL_SEQ, &isnull));
}

TimestampTz
orion_event_occurred_at(HeapTuple row, TupleDesc desc)
{
	bool		isnull;

	return DatumGetTimestampTz(SPI_getbinval(row, desc, COL_OCCURRED_AT, &isnull));
}

char *
orion_event_type(HeapTuple row, TupleDesc desc)
{
	return text_column(row, desc, COL_TYPE);
}

static void
append_string(StringInfo json, const char *key, const char *value)
{
	appendStringInfo(json, ",\"%s\":", key);
	if (value)
		escape_json(json, value);
	else
		appendStringInfoString(json, "null");
}

static void
append_jsonb(StringInfo json, const char *key, HeapTuple row, TupleDesc desc, int number)
{
	bool		isnull;
	Datum		value = SPI_getbinval(row, desc, number, &isnull);

	appendStringInfo(json, ",\"%s\":", key);
	if (isnull)
		appendStringInfoString(json, "null");
	else
	{
		Jsonb	   *jsonb = DatumGetJsonbP(value);

		JsonbToCString(json, &jsonb->root, VARSIZE(jsonb));
	}
}

static char *
make_envelope(const OrionEvent *event, HeapTuple row, TupleDesc desc)
{
	StringInfoData json;
	bool		isnull;

	initStringInfo(&json);
	appendStringInfo(&json, "{\"eventId\":\"%s\"", event->id);
	append_string(&json, "eventType", event->type);
	appendStringInfo(&json, ",\"version\":%d",
					 DatumGetInt32(SPI_getbinval(row, desc, COL_VERSION, &isnull)));
	append_string(&json, "timestamp", event->occurred_at);
	append_string(&json, "correlationId", event->correlation_id);
	append_string(&json, "causationId", text_column(row, desc, COL_CAUSATION_ID));
	append_string(&json, "aggregateType", event->aggregatetype);
	append_string(&json, "aggregateId", event->aggregateid);
	append_jsonb(&json, "metadata", row, desc, COL_METADATA);
	append_jsonb(&json, "payload", row, desc, COL_PAYLOAD);
	appendStringInfoChar(&json, '}');
	return pg_server_to_any(json.data, json.len, PG_UTF8);
}

static char *
to_utf8(char *str)
{
	return str ? pg_server_to_any(str, strlen(str), PG_UTF8) : NULL;
}

char *
orion_event_payload(HeapTuple row, TupleDesc desc)
{
	bool		isnull;
	Jsonb	   *jsonb = DatumGetJsonbP(SPI_getbinval(row, desc, COL_PAYLOAD, &isnull));

	return to_utf8(JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb)));
}

OrionEvent *
orion_event_from_row(HeapTuple row, TupleDesc desc)
{
	OrionEvent *event = palloc(sizeof(OrionEvent));
	char	   *timestamp = palloc(MAXDATELEN + 1);
	int			utc = 0;
	bool		isnull;

	event->seq = orion_event_seq(row, desc);
	event->type = orion_event_type(row, desc);
	event->id = DatumGetCString(DirectFunctionCall1(uuid_out, SPI_getbinval(row, desc, COL_ID, &isnull)));
	event->aggregatetype = text_column(row, desc, COL_AGGREGATETYPE);
	event->aggregateid = text_column(row, desc, COL_AGGREGATEID);
	event->correlation_id = text_column(row, desc, COL_CORRELATION_ID);
	event->occurred_at = JsonEncodeDateTime(timestamp, SPI_getbinval(row, desc, COL_OCCURRED_AT, &isnull),
											TIMESTAMPTZOID, &utc);
	event->envelope = make_envelope(event, row, desc);
	event->type = to_utf8(event->type);
	event->aggregatetype = to_utf8(event->aggregatetype);
	event->aggregateid = to_utf8(event->aggregateid);
	event->correlation_id = to_utf8(event->correlation_id);
	return event;
}
