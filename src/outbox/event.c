/*
 * event.c
 *	  Turns a row of the outbox into what sinks get: attributes and envelope, as
 *	  text or as jsonb.
 *
 * The columns are those of cursor.c's QUERY_ROWS.  Sinks get UTF-8 whatever the
 * encoding of the database.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"
#include "utils/numeric.h"
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

/* Most strings need no escape: those are copied as they are. */
static void
append_escaped(StringInfo json, const char *value)
{
	size_t		len = 0;

	while ((unsigned char) value[len] >= 0x20 && value[len] != '"' && value[len] != '\\')
		len++;
	if (value[len])
	{
		escape_json(json, value);
		return;
	}
	appendStringInfoChar(json, '"');
	appendBinaryStringInfo(json, value, len);
	appendStringInfoChar(json, '"');
}

/* before: the comma, the key and the colon. */
static void
append_string(StringInfo json, const char *before, const char *value)
{
	appendStringInfoString(json, before);
	if (value)
		append_escaped(json, value);
	else
		appendStringInfoString(json, "null");
}

/* The payload or the metadata, NULL where there is none. */
static Jsonb *
jsonb_column(HeapTuple row, TupleDesc desc, int number)
{
	bool		isnull;
	Datum		value = SPI_getbinval(row, desc, number, &isnull);

	return isnull ? NULL : DatumGetJsonbP(value);
}

/* A replayed event has "replayed": true in its metadata. */
static Jsonb *
metadata_column(HeapTuple row, TupleDesc desc, bool replayed)
{
	Jsonb	   *metadata = jsonb_column(row, desc, COL_METADATA);
	Datum		mark;

	if (!replayed)
		return metadata;
	mark = DirectFunctionCall1(jsonb_in, CStringGetDatum("{\"replayed\": true}"));
	if (metadata == NULL)
		return DatumGetJsonbP(mark);
	return DatumGetJsonbP(DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(metadata), mark));
}

static void
append_jsonb(StringInfo json, const char *before, Jsonb *value)
{
	appendStringInfoString(json, before);
	if (value)
		JsonbToCString(json, &value->root, VARSIZE(value));
	else
		appendStringInfoString(json, "null");
}

static char *
make_envelope(const OrionEvent *event, HeapTuple row, TupleDesc desc, bool replayed)
{
	StringInfoData json;
	char		version[MAXINT8LEN + 1];
	bool		isnull;

	initStringInfo(&json);
	append_string(&json, "{\"eventId\":", event->id);
	append_string(&json, ",\"eventType\":", event->type);
	pg_ltoa(DatumGetInt32(SPI_getbinval(row, desc, COL_VERSION, &isnull)), version);
	appendStringInfoString(&json, ",\"version\":");
	appendStringInfoString(&json, version);
	append_string(&json, ",\"timestamp\":", event->occurred_at);
	append_string(&json, ",\"correlationId\":", event->correlation_id);
	append_string(&json, ",\"causationId\":", text_column(row, desc, COL_CAUSATION_ID));
	append_string(&json, ",\"aggregateType\":", event->aggregatetype);
	append_string(&json, ",\"aggregateId\":", event->aggregateid);
	append_jsonb(&json, ",\"metadata\":", metadata_column(row, desc, replayed));
	append_jsonb(&json, ",\"payload\":", jsonb_column(row, desc, COL_PAYLOAD));
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

/* ---- the same as jsonb, for handlers: in the encoding of the database ---- */

static void
push_key(JsonbParseState **state, const char *key)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.val = unconstify(char *, key);
	value.val.string.len = strlen(key);
	pushJsonbValue(state, WJB_KEY, &value);
}

static void
push_string(JsonbParseState **state, const char *key, const char *str)
{
	JsonbValue	value;

	push_key(state, key);
	value.type = str ? jbvString : jbvNull;
	if (str)
	{
		value.val.string.val = unconstify(char *, str);
		value.val.string.len = strlen(str);
	}
	pushJsonbValue(state, WJB_VALUE, &value);
}

static void
push_jsonb(JsonbParseState **state, const char *key, Jsonb *jsonb)
{
	JsonbValue	value;

	push_key(state, key);
	if (jsonb == NULL)
		value.type = jbvNull;
	else if (JB_ROOT_IS_SCALAR(jsonb))
		(void) JsonbExtractScalar(&jsonb->root, &value);
	else
	{
		value.type = jbvBinary;
		value.val.binary.len = VARSIZE_ANY_EXHDR(jsonb);
		value.val.binary.data = &jsonb->root;
	}
	pushJsonbValue(state, WJB_VALUE, &value);
}

static void
push_version(JsonbParseState **state, int32 version)
{
	JsonbValue	value;

	push_key(state, "version");
	value.type = jbvNumeric;
	value.val.numeric = DatumGetNumeric(DirectFunctionCall1(int4_numeric, Int32GetDatum(version)));
	pushJsonbValue(state, WJB_VALUE, &value);
}

static char *
timestamp_column(HeapTuple row, TupleDesc desc)
{
	char	   *timestamp = palloc(MAXDATELEN + 1);
	int			utc = 0;
	bool		isnull;

	return JsonEncodeDateTime(timestamp, SPI_getbinval(row, desc, COL_OCCURRED_AT, &isnull), TIMESTAMPTZOID, &utc);
}

Datum
orion_event_jsonb(HeapTuple row, TupleDesc desc, bool replayed)
{
	JsonbParseState *state = NULL;
	bool		isnull;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_string(&state, "eventId", orion_event_id(row, desc));
	push_string(&state, "eventType", orion_event_type(row, desc));
	push_version(&state, DatumGetInt32(SPI_getbinval(row, desc, COL_VERSION, &isnull)));
	push_string(&state, "timestamp", timestamp_column(row, desc));
	push_string(&state, "correlationId", text_column(row, desc, COL_CORRELATION_ID));
	push_string(&state, "causationId", text_column(row, desc, COL_CAUSATION_ID));
	push_string(&state, "aggregateType", text_column(row, desc, COL_AGGREGATETYPE));
	push_string(&state, "aggregateId", text_column(row, desc, COL_AGGREGATEID));
	push_jsonb(&state, "metadata", metadata_column(row, desc, replayed));
	push_jsonb(&state, "payload", jsonb_column(row, desc, COL_PAYLOAD));
	return JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
}

char *
orion_event_id(HeapTuple row, TupleDesc desc)
{
	bool		isnull;

	return DatumGetCString(DirectFunctionCall1(uuid_out, SPI_getbinval(row, desc, COL_ID, &isnull)));
}

char *
orion_event_key(HeapTuple row, TupleDesc desc)
{
	char	   *id = text_column(row, desc, COL_AGGREGATEID);
	char	   *type = id ? text_column(row, desc, COL_AGGREGATETYPE) : NULL;

	return id ? psprintf("%s/%s", type ? type : "", id) : NULL;
}

int
orion_event_part(const char *key, int workers)
{
	return hash_bytes((const unsigned char *) key, strlen(key)) % workers;
}

OrionEvent *
orion_event_from_row(HeapTuple row, TupleDesc desc, bool replayed)
{
	OrionEvent *event = palloc(sizeof(OrionEvent));

	event->seq = orion_event_seq(row, desc);
	event->type = orion_event_type(row, desc);
	event->id = orion_event_id(row, desc);
	event->aggregatetype = text_column(row, desc, COL_AGGREGATETYPE);
	event->aggregateid = text_column(row, desc, COL_AGGREGATEID);
	event->correlation_id = text_column(row, desc, COL_CORRELATION_ID);
	event->occurred_at = timestamp_column(row, desc);
	event->envelope = make_envelope(event, row, desc, replayed);
	event->type = to_utf8(event->type);
	event->aggregatetype = to_utf8(event->aggregatetype);
	event->aggregateid = to_utf8(event->aggregateid);
	event->correlation_id = to_utf8(event->correlation_id);
	return event;
}
