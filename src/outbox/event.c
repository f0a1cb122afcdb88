/*
 * event.c
 *	  Turns a row of the outbox into what sinks get: attributes and envelope, as
 *	  text or as jsonb.
 *
 * The columns are ROW_COLUMNS of query.c.  Sinks get UTF-8 whatever the
 * encoding of the database.
 */
#include "postgres.h"

#include "access/htup_details.h"
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
	COLUMNS = COL_OCCURRED_AT,
};

/* All columns of a row, by number. */
typedef struct Row
{
	Datum		values[1 + COLUMNS];
	bool		isnull[1 + COLUMNS];
} Row;

/* One by one they would each be searched for from the row's beginning. */
static void
read_row(Row *columns, HeapTuple row, TupleDesc desc)
{
	Assert(desc->natts == COLUMNS);
	heap_deform_tuple(row, desc, columns->values + 1, columns->isnull + 1);
}

static char *
text_of(const Row *row, int number)
{
	return row->isnull[number] ? NULL : TextDatumGetCString(row->values[number]);
}

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
append_escape(StringInfo json, unsigned char c)
{
	static const char *const shorts = "\bb\ff\nn\rr\tt\"\"\\\\";

	for (const char *s = shorts; *s; s += 2)
	{
		if (*s == c)
		{
			appendStringInfoChar(json, '\\');
			appendStringInfoChar(json, s[1]);
			return;
		}
	}
	appendStringInfo(json, "\\u%04x", (int) c);
}

/* As escape_json() does it, but most bytes need no escape: those are copied in one go. */
static void
append_escaped(StringInfo json, const char *value, size_t len)
{
	size_t		done = 0;

	appendStringInfoChar(json, '"');
	while (done < len)
	{
		size_t		begin = done;
		unsigned char c;

		while (done < len && (c = value[done]) >= 0x20 && c != '"' && c != '\\')
			done++;
		appendBinaryStringInfo(json, value + begin, done - begin);
		if (done == len)
			break;
		append_escape(json, value[done++]);
	}
	appendStringInfoChar(json, '"');
}

/* before: the comma, the key and the colon. */
static void
append_string(StringInfo json, const char *before, const char *value)
{
	appendStringInfoString(json, before);
	if (value)
		append_escaped(json, value, strlen(value));
	else
		appendStringInfoString(json, "null");
}

/* The payload or the metadata, NULL where there is none. */
static Jsonb *
jsonb_of(const Row *row, int number)
{
	return row->isnull[number] ? NULL : DatumGetJsonbP(row->values[number]);
}

/* A replayed event has "replayed": true in its metadata. */
static Jsonb *
metadata_of(const Row *row, bool replayed)
{
	Jsonb	   *metadata = jsonb_of(row, COL_METADATA);
	Datum		mark;

	if (!replayed)
		return metadata;
	mark = DirectFunctionCall1(jsonb_in, CStringGetDatum("{\"replayed\": true}"));
	if (metadata == NULL)
		return DatumGetJsonbP(mark);
	return DatumGetJsonbP(DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(metadata), mark));
}

static void
append_scalar(StringInfo json, const JsonbValue *value)
{
	if (value->type == jbvString)
		append_escaped(json, value->val.string.val, value->val.string.len);
	else if (value->type == jbvNumeric)
		appendStringInfoString(json, DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric))));
	else if (value->type == jbvBool)
		appendStringInfoString(json, value->val.boolean ? "true" : "false");
	else
		appendStringInfoString(json, "null");
}

/* The text of a jsonb, as its output function gives it; that one goes byte by byte through the strings. */
static void
append_document(StringInfo json, Jsonb *document)
{
	JsonbIterator *it = JsonbIteratorInit(&document->root);
	JsonbIteratorToken token;
	JsonbValue	v;
	bool		raw = JB_ROOT_IS_SCALAR(document);	/* stored as an array of
													 * one */
	bool		first = true;	/* nothing before it that wants a comma */

	while ((token = JsonbIteratorNext(&it, &v, false)) != WJB_DONE)
	{
		bool		ends = token == WJB_END_ARRAY || token == WJB_END_OBJECT;

		if (!first && !ends)
			appendBinaryStringInfo(json, ", ", 2);
		first = token == WJB_BEGIN_ARRAY || token == WJB_BEGIN_OBJECT || token == WJB_KEY;
		if (token == WJB_BEGIN_OBJECT || token == WJB_END_OBJECT)
			appendStringInfoChar(json, ends ? '}' : '{');
		else if (token == WJB_BEGIN_ARRAY || token == WJB_END_ARRAY)
		{
			if (!raw)
				appendStringInfoChar(json, ends ? ']' : '[');
		}
		else
		{
			append_scalar(json, &v);
			if (token == WJB_KEY)
				appendBinaryStringInfo(json, ": ", 2);
		}
	}
}

static void
append_jsonb(StringInfo json, const char *before, Jsonb *value)
{
	appendStringInfoString(json, before);
	if (value)
		append_document(json, value);
	else
		appendStringInfoString(json, "null");
}

static char *
make_envelope(const OrionEvent *event, const Row *row, bool replayed)
{
	StringInfoData json;
	char		version[MAXINT8LEN + 1];

	initStringInfo(&json);
	append_string(&json, "{\"eventId\":", event->id);
	append_string(&json, ",\"eventType\":", event->type);
	pg_ltoa(DatumGetInt32(row->values[COL_VERSION]), version);
	appendStringInfoString(&json, ",\"version\":");
	appendStringInfoString(&json, version);
	append_string(&json, ",\"timestamp\":", event->occurred_at);
	append_string(&json, ",\"correlationId\":", event->correlation_id);
	append_string(&json, ",\"causationId\":", text_of(row, COL_CAUSATION_ID));
	append_string(&json, ",\"aggregateType\":", event->aggregatetype);
	append_string(&json, ",\"aggregateId\":", event->aggregateid);
	append_jsonb(&json, ",\"metadata\":", metadata_of(row, replayed));
	append_jsonb(&json, ",\"payload\":", jsonb_of(row, COL_PAYLOAD));
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
timestamp_of(const Row *row)
{
	char	   *timestamp = palloc(MAXDATELEN + 1);
	int			utc = 0;

	return JsonEncodeDateTime(timestamp, row->values[COL_OCCURRED_AT], TIMESTAMPTZOID, &utc);
}

static char *
id_of(const Row *row)
{
	static const char digits[] = "0123456789abcdef";
	const pg_uuid_t *id = DatumGetUUIDP(row->values[COL_ID]);
	char	   *text = palloc(2 * UUID_LEN + 5);
	char	   *p = text;

	for (int i = 0; i < UUID_LEN; i++)
	{
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*p++ = '-';
		*p++ = digits[id->data[i] >> 4];
		*p++ = digits[id->data[i] & 0xf];
	}
	*p = '\0';
	return text;
}

Datum
orion_event_jsonb(HeapTuple tuple, TupleDesc desc, bool replayed)
{
	JsonbParseState *state = NULL;
	Row			row;

	read_row(&row, tuple, desc);
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_string(&state, "eventId", id_of(&row));
	push_string(&state, "eventType", text_of(&row, COL_TYPE));
	push_version(&state, DatumGetInt32(row.values[COL_VERSION]));
	push_string(&state, "timestamp", timestamp_of(&row));
	push_string(&state, "correlationId", text_of(&row, COL_CORRELATION_ID));
	push_string(&state, "causationId", text_of(&row, COL_CAUSATION_ID));
	push_string(&state, "aggregateType", text_of(&row, COL_AGGREGATETYPE));
	push_string(&state, "aggregateId", text_of(&row, COL_AGGREGATEID));
	push_jsonb(&state, "metadata", metadata_of(&row, replayed));
	push_jsonb(&state, "payload", jsonb_of(&row, COL_PAYLOAD));
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
orion_event_from_row(HeapTuple tuple, TupleDesc desc, bool replayed)
{
	OrionEvent *event = palloc(sizeof(OrionEvent));
	Row			row;

	read_row(&row, tuple, desc);
	event->seq = DatumGetInt64(row.values[COL_SEQ]);
	event->type = text_of(&row, COL_TYPE);
	event->id = id_of(&row);
	event->aggregatetype = text_of(&row, COL_AGGREGATETYPE);
	event->aggregateid = text_of(&row, COL_AGGREGATEID);
	event->correlation_id = text_of(&row, COL_CORRELATION_ID);
	event->occurred_at = timestamp_of(&row);
	event->envelope = make_envelope(event, &row, replayed);
	event->type = to_utf8(event->type);
	event->aggregatetype = to_utf8(event->aggregatetype);
	event->aggregateid = to_utf8(event->aggregateid);
	event->correlation_id = to_utf8(event->correlation_id);
	return event;
}
