/*
 * amqp_frame.c
 *	  Decodes frames; see amqp_frame.h.
 *
 * The library decodes tables in tables by recursion without a limit (0.11), and a
 * frame of 128 kB has room for 20,000 of them, so tables are looked at before.
 */
#include "amqp_frame.h"

#include <stdbool.h>
#include <string.h>

#define FRAME_HEADER	7
#define FRAME_EXTRA		(FRAME_HEADER + 1)
#define CONTENT_HEADER	12		/* class, weight and size of the body */
#define CHANNEL_MAX		1		/* the connection's own, and the one we open */
#define DEPTH_MAX		32
#define FLAGS_GO_ON		1		/* more words of flags; 0-9-1 needs none */

typedef struct Cursor
{
	const uint8_t *at;
	const uint8_t *end;
} Cursor;

static uint32_t
get_u16(const uint8_t *at)
{
	return (uint32_t) at[0] << 8 | at[1];
}

static uint32_t
get_u32(const uint8_t *at)
{
	return get_u16(at) << 16 | get_u16(at + 2);
}

static bool
skip(Cursor *cursor, size_t n)
{
	if ((size_t) (cursor->end - cursor->at) < n)
		return false;
	cursor->at += n;
	return true;
}

static bool
skip_short(Cursor *cursor)
{
	return cursor->at < cursor->end && skip(cursor, 1 + (size_t) *cursor->at);
}

/* What a length of four bytes announces, as a cursor of its own. */
static bool
enter_long(Cursor *cursor, Cursor *inside)
{
	uint32_t	len;

	if (cursor->end - cursor->at < 4)
		return false;
	len = get_u32(cursor->at);
	inside->at = cursor->at += 4;
	if (!skip(cursor, len))
		return false;
	inside->end = cursor->at;
	return true;
}

/* Bytes of a value, -1: a length is in front of it, -2: unknown. */
static int
value_size(uint8_t kind)
{
	switch (kind)
	{
		case AMQP_FIELD_KIND_VOID:
			return 0;
		case AMQP_FIELD_KIND_BOOLEAN:
		case AMQP_FIELD_KIND_I8:
		case AMQP_FIELD_KIND_U8:
			return 1;
		case AMQP_FIELD_KIND_I16:
		case AMQP_FIELD_KIND_U16:
			return 2;
		case AMQP_FIELD_KIND_I32:
		case AMQP_FIELD_KIND_U32:
		case AMQP_FIELD_KIND_F32:
			return 4;
		case AMQP_FIELD_KIND_DECIMAL:
			return 5;
		case AMQP_FIELD_KIND_I64:
		case AMQP_FIELD_KIND_U64:
		case AMQP_FIELD_KIND_F64:
		case AMQP_FIELD_KIND_TIMESTAMP:
			return 8;
		case AMQP_FIELD_KIND_UTF8:
		case AMQP_FIELD_KIND_BYTES:
		case AMQP_FIELD_KIND_TABLE:
		case AMQP_FIELD_KIND_ARRAY:
			return -1;
		default:
			return -2;
	}
}

/* Is a table (or, unnamed, an array) whole, and not nested too deep? */
static bool
table_is_sound(Cursor inside, bool named, int depth)
{
	while (inside.at < inside.end)
	{
		uint8_t		kind;
		int			size;
		Cursor		value;

		if ((named && !skip_short(&inside)) || inside.at == inside.end)
			return false;
		kind = *inside.at++;
		size = value_size(kind);
		if (size >= 0 && !skip(&inside, size))
			return false;
		if (size >= 0)
			continue;
		if (size == -2 || !enter_long(&inside, &value))
			return false;
		if ((kind == AMQP_FIELD_KIND_TABLE || kind == AMQP_FIELD_KIND_ARRAY) &&
			(depth == 0 || !table_is_sound(value, kind == AMQP_FIELD_KIND_TABLE, depth - 1)))
			return false;
	}
	return true;
}

/* Of the methods with a table a broker sends one only. */
static bool
method_is_sound(uint32_t id, Cursor arguments)
{
	Cursor		table;

	switch (id)
	{
		case AMQP_CONNECTION_START_METHOD:
			return skip(&arguments, 2) && enter_long(&arguments, &table) && table_is_sound(table, true, DEPTH_MAX);
		case AMQP_CONNECTION_START_OK_METHOD:
		case AMQP_EXCHANGE_DECLARE_METHOD:
		case AMQP_EXCHANGE_BIND_METHOD:
		case AMQP_EXCHANGE_UNBIND_METHOD:
		case AMQP_QUEUE_DECLARE_METHOD:
		case AMQP_QUEUE_BIND_METHOD:
		case AMQP_QUEUE_UNBIND_METHOD:
		case AMQP_BASIC_CONSUME_METHOD:
			return false;
		default:
			return true;
	}
}

static bool
decode_method(const uint8_t *payload, size_t len, amqp_pool_t *pool, amqp_method_t *method)
{
	Cursor		arguments = {payload + 4, payload + len};
	amqp_bytes_t encoded = {len - 4, (void *) (payload + 4)};

	if (len < 4)
		return false;
	method->id = get_u32(payload);
	return method_is_sound(method->id, arguments) &&
		amqp_decode_method(method->id, pool, encoded, &method->decoded) >= 0;
}

/* Takes headers that are not sound out of the properties. Returns where these begin then; NULL: they make no sense. */
static uint8_t *
without_bad_headers(uint8_t *properties, uint8_t *end)
{
	Cursor		rest = {properties + 2, end};
	Cursor		table;
	uint32_t	flags;
	size_t		before;
	size_t		cut;

	if (end - properties < 2)
		return NULL;
	flags = get_u16(properties);
	if (flags & FLAGS_GO_ON)
		return NULL;
	if (!(flags & AMQP_BASIC_HEADERS_FLAG))
		return properties;
	if ((flags & AMQP_BASIC_CONTENT_TYPE_FLAG && !skip_short(&rest)) ||
		(flags & AMQP_BASIC_CONTENT_ENCODING_FLAG && !skip_short(&rest)))
		return NULL;
	before = rest.at - properties;
	if (!enter_long(&rest, &table))
		return NULL;
	if (table_is_sound(table, true, DEPTH_MAX))
		return properties;
	cut = rest.at - properties - before;
	flags &= ~AMQP_BASIC_HEADERS_FLAG;
	memmove(properties + cut, properties, before);
	properties[cut] = flags >> 8;
	properties[cut + 1] = flags;
	return properties + cut;
}

static bool
decode_header(uint8_t *payload, size_t len, amqp_pool_t *pool, amqp_frame_t *frame)
{
	uint8_t    *properties;
	amqp_bytes_t encoded;

	if (len < CONTENT_HEADER || get_u16(payload) != AMQP_BASIC_CLASS)
		return false;
	properties = without_bad_headers(payload + CONTENT_HEADER, payload + len);
	if (properties == NULL)
		return false;
	encoded.len = payload + len - properties;
	encoded.bytes = properties;
	frame->payload.properties.class_id = AMQP_BASIC_CLASS;
	frame->payload.properties.body_size = (uint64_t) get_u32(payload + 4) << 32 | get_u32(payload + 8);
	frame->payload.properties.raw = encoded;
	return amqp_decode_properties(AMQP_BASIC_CLASS, pool, encoded, &frame->payload.properties.decoded) >= 0;
}

static bool
decode_payload(uint8_t *payload, size_t len, amqp_pool_t *pool, amqp_frame_t *frame)
{
	switch (frame->frame_type)
	{
		case AMQP_FRAME_METHOD:
			return decode_method(payload, len, pool, &frame->payload.method);
		case AMQP_FRAME_HEADER:
			return decode_header(payload, len, pool, frame);
		case AMQP_FRAME_BODY:
			frame->payload.body_fragment.len = len;
			frame->payload.body_fragment.bytes = payload;
			return true;
		case AMQP_FRAME_HEARTBEAT:
			return true;
		default:
			return false;
	}
}

long
orion_amqp_frame_parse(uint8_t *data, size_t len, size_t max, amqp_pool_t *pool, amqp_frame_t *frame)
{
	size_t		size;

	memset(frame, 0, sizeof(*frame));
	frame->frame_type = data[0];

	/*
	 * "AMQP" and a version: what a broker answers to a version it does not
	 * speak
	 */
	if (frame->frame_type == 0 || frame->frame_type > AMQP_FRAME_HEARTBEAT)
		return -1;
	if (len < FRAME_HEADER)
		return 0;
	frame->channel = get_u16(data + 1);
	size = (size_t) get_u32(data + 3) + FRAME_EXTRA;
	if (frame->channel > CHANNEL_MAX || size > max)
		return -1;
	if (len < size)
		return 0;
	if (data[size - 1] != AMQP_FRAME_END || !decode_payload(data + FRAME_HEADER, size - FRAME_EXTRA, pool, frame))
		return -1;
	return (long) size;
}
