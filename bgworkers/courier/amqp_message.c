/*
 * amqp_message.c
 *	  Encodes messages; see amqp_message.h. The library encodes the method and the
 *	  properties, so only the frames around them are made here.
 */
#include "amqp_message.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "rabbitmq_c.h"

#define FRAME_HEADER	7
#define FRAME_EXTRA		(FRAME_HEADER + 1)
#define ROOM			8192	/* a method, or one and properties: a dozen
								 * short strings */

static amqp_bytes_t
as_bytes(OrionText string)
{
	amqp_bytes_t result = {string.len, (void *) string.str};

	return result;
}

static void
put_u16(uint8_t *at, uint16_t value)
{
	at[0] = value >> 8;
	at[1] = value;
}

static void
put_u32(uint8_t *at, uint32_t value)
{
	put_u16(at, value >> 16);
	put_u16(at + 2, value);
}

/* Header and end of a frame whose payload of that length is in place at out->end. */
static void
wrap_frame(OrionBuffer *out, uint8_t type, uint16_t channel, size_t len)
{
	uint8_t    *at = out->data + out->end;

	at[0] = type;
	put_u16(at + 1, channel);
	put_u32(at + 3, len);
	at[FRAME_HEADER + len] = AMQP_FRAME_END;
	out->end += FRAME_EXTRA + len;
}

/* All digits? Then their value. */
static bool
digits(const char *at, int n, int *value)
{
	*value = 0;
	for (int i = 0; i < n; i++)
	{
		if (at[i] < '0' || at[i] > '9')
			return false;
		*value = *value * 10 + at[i] - '0';
	}
	return true;
}

bool
orion_rfc3339_seconds(OrionText string, uint64_t *seconds)
{
	struct tm	tm = {0};
	const char *at = string.str;
	const char *end = string.str + string.len;
	int			hours = 0,
				minutes = 0;
	time_t		value;

	if (string.len < 20 || !digits(at, 4, &tm.tm_year) || at[4] != '-' || !digits(at + 5, 2, &tm.tm_mon) ||
		at[7] != '-' || !digits(at + 8, 2, &tm.tm_mday) || (at[10] != 'T' && at[10] != 't' && at[10] != ' ') ||
		!digits(at + 11, 2, &tm.tm_hour) || at[13] != ':' || !digits(at + 14, 2, &tm.tm_min) ||
		at[16] != ':' || !digits(at + 17, 2, &tm.tm_sec))
		return false;
	at += 19;
	if (*at == '.')
		for (at++; at < end && *at >= '0' && *at <= '9';)
			at++;
	if (at == end)
		return false;
	if ((*at == '+' || *at == '-') &&
		(end - at != 6 || !digits(at + 1, 2, &hours) || at[3] != ':' || !digits(at + 4, 2, &minutes)))
		return false;
	if (*at != '+' && *at != '-' && ((*at != 'Z' && *at != 'z') || end - at != 1))
		return false;
	tm.tm_year -= 1900;
	tm.tm_mon--;
	value = timegm(&tm) - (*at == '-' ? -1 : 1) * (hours * 3600 + minutes * 60);
	if (value < 0)
		return false;
	*seconds = value;
	return true;
}

/* Headers with a value that is missing or overlong are left out. */
static void
add_header(amqp_table_t *headers, const char *name, OrionText value)
{
	amqp_table_entry_t *entry = &headers->entries[headers->num_entries];

	if (value.len == 0 || value.len > ORION_AMQP_SHORT)
		return;
	entry->key = amqp_cstring_bytes(name);
	entry->value.kind = AMQP_FIELD_KIND_UTF8;
	entry->value.value.bytes = as_bytes(value);
	headers->num_entries++;
}

static void
fill_properties(const OrionEvent *event, const char *source, amqp_basic_properties_t *properties)
{
	amqp_table_t *headers = &properties->headers;

	properties->_flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG |
		AMQP_BASIC_HEADERS_FLAG | AMQP_BASIC_MESSAGE_ID_FLAG | AMQP_BASIC_TYPE_FLAG;
	properties->content_type = amqp_cstring_bytes("application/json");
	properties->delivery_mode = AMQP_DELIVERY_PERSISTENT;
	properties->message_id = as_bytes(event->id);
	properties->type = as_bytes(event->type);
	if (event->correlationid.len > 0 && event->correlationid.len <= ORION_AMQP_SHORT)
	{
		properties->_flags |= AMQP_BASIC_CORRELATION_ID_FLAG;
		properties->correlation_id = as_bytes(event->correlationid);
	}
	if (orion_rfc3339_seconds(event->occurredat, &properties->timestamp))
		properties->_flags |= AMQP_BASIC_TIMESTAMP_FLAG;
	add_header(headers, "cloudEvents:specversion", orion_text("1.0", 3));
	add_header(headers, "cloudEvents:id", event->id);
	add_header(headers, "cloudEvents:type", event->type);
	add_header(headers, "cloudEvents:source", orion_text(source, strlen(source)));
	add_header(headers, "cloudEvents:time", event->occurredat);
	add_header(headers, "cloudEvents:subject", event->aggregateid);
	add_header(headers, "x-orion-position", event->position);
}

/* basic.publish and the content header; false when the library cannot encode them. */
static bool
put_head(OrionBuffer *out, const OrionEvent *event, uint16_t channel, const char *exchange, const char *source)
{
	amqp_table_entry_t entries[8];
	amqp_basic_properties_t properties = {.headers = {0, entries}};
	amqp_basic_publish_t publish = {.exchange = amqp_cstring_bytes(exchange),.routing_key = as_bytes(event->type),.mandatory = 1};
	uint8_t    *at = out->data + out->end + FRAME_HEADER;
	amqp_bytes_t room = {ROOM / 2 - 32, at + 4};
	int			len;

	put_u32(at, AMQP_BASIC_PUBLISH_METHOD);
	len = amqp_encode_method(AMQP_BASIC_PUBLISH_METHOD, &publish, room);
	if (len < 0)
		return false;
	wrap_frame(out, AMQP_FRAME_METHOD, channel, 4 + len);

	at = out->data + out->end + FRAME_HEADER;
	fill_properties(event, source, &properties);
	put_u16(at, AMQP_BASIC_CLASS);
	put_u16(at + 2, 0);			/* weight: unused */
	put_u32(at + 4, (uint64_t) event->envelope.len >> 32);
	put_u32(at + 8, event->envelope.len);
	room.bytes = at + 12;
	len = amqp_encode_properties(AMQP_BASIC_CLASS, &properties, room);
	if (len < 0)
		return false;
	wrap_frame(out, AMQP_FRAME_HEADER, channel, 12 + len);
	return true;
}

const char *
orion_amqp_message(OrionBuffer *out, const OrionEvent *event, uint16_t channel,
				   const char *exchange, const char *source, size_t frame_max)
{
	size_t		most = (frame_max ? frame_max : 131072) - FRAME_EXTRA;
	size_t		before;

	if (event->type.len > ORION_AMQP_SHORT)
		return "the type is longer than 255 bytes, AMQP's limit for a routing key";
	if (event->id.len > ORION_AMQP_SHORT)
		return "the event id is longer than 255 bytes, AMQP's limit for a message id";
	if (!orion_buffer_reserve(out, ROOM + event->envelope.len + (event->envelope.len / most + 1) * FRAME_EXTRA))
		return NULL;
	before = out->end - out->start;
	if (!put_head(out, event, channel, exchange, source))
	{
		out->end = out->start + before;
		return "the event cannot be encoded as an AMQP message";
	}
	for (size_t done = 0; done < event->envelope.len;)
	{
		size_t		len = event->envelope.len - done < most ? event->envelope.len - done : most;

		memcpy(out->data + out->end + FRAME_HEADER, event->envelope.str + done, len);
		wrap_frame(out, AMQP_FRAME_BODY, channel, len);
		done += len;
	}
	return NULL;
}

void
orion_amqp_heartbeat(OrionBuffer *out)
{
	if (orion_buffer_reserve(out, FRAME_EXTRA))
		wrap_frame(out, AMQP_FRAME_HEARTBEAT, 0, 0);
}

bool
orion_amqp_method(OrionBuffer *out, uint16_t channel, uint32_t id, void *method)
{
	uint8_t    *at;
	amqp_bytes_t room = {ROOM - FRAME_EXTRA - 4};
	int			len;

	if (!orion_buffer_reserve(out, ROOM))
		return false;
	at = out->data + out->end + FRAME_HEADER;
	put_u32(at, id);
	room.bytes = at + 4;
	len = amqp_encode_method(id, method, room);
	if (len < 0)
		return false;
	wrap_frame(out, AMQP_FRAME_METHOD, channel, 4 + len);
	return true;
}

void
orion_amqp_ack(OrionBuffer *out, uint16_t channel, uint64_t tag)
{
	amqp_basic_ack_t ack = {.delivery_tag = tag};

	orion_amqp_method(out, channel, AMQP_BASIC_ACK_METHOD, &ack);
}

void
orion_amqp_reject(OrionBuffer *out, uint16_t channel, uint64_t tag, bool requeue)
{
	amqp_basic_reject_t reject = {.delivery_tag = tag,.requeue = requeue};

	orion_amqp_method(out, channel, AMQP_BASIC_REJECT_METHOD, &reject);
}
