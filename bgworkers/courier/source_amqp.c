/*
 * source_amqp.c
 *	  Messages from a queue of RabbitMQ to the consumer's worker.
 *
 * Of the loop's point of view a sink that is given no events.  Each delivery goes to
 * the worker as a MESSAGE with a number of ours, and stays unacknowledged until the
 * worker has committed what its handler did: DONE.  At most "prefetch" of them are
 * under way.  RETRY holds a delivery for a pause and then gives it back to the queue;
 * meanwhile it counts in the prefetch.
 *
 * A lost connection gives back to the queue whatever was not acknowledged; what the
 * worker says about deliveries of an older connection is ignored, as its inbox knows
 * them when they come again.
 *
 * Reading stops while the worker has UNREAD_MAX bytes to take.  Bodies longer than
 * "max_body" are not kept.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "amqp_connection.h"
#include "amqp_message.h"
#include "amqp_topology.h"

#define PREFETCH		50
#define PREFETCH_MAX	1000
#define BODY_MAX		(16 * 1024 * 1024)
#define BODY_MOST		(64 * 1024 * 1024)
#define UNREAD_MAX		(8 * 1024 * 1024)
#define FRAMES_A_TURN	1000	/* then it is the worker's turn */
#define TABLE_DEPTH		16		/* of headers in headers */

typedef struct Delivery
{
	uint64_t	number;			/* ours; 0: free */
	uint64_t	tag;
	bool		held;			/* goes back at release_at */
	long		release_at;
} Delivery;

/* The message that is being read. */
typedef struct Incoming
{
	bool		open;
	uint64_t	tag;
	bool		redelivered;
	bool		has_id;
	bool		too_long;
	char	   *exchange;
	size_t		exchange_len;
	char	   *routing_key;
	size_t		routing_key_len;
	char	   *id;
	size_t		id_len;
	char	   *properties;		/* JSON; NULL: the header has not come */
	char	   *body;
	size_t		body_size;		/* as announced */
	size_t		body_len;		/* so far */
} Incoming;

typedef struct Source
{
	OrionAmqpConnection conn;
	const char *queue;
	const char *declare;		/* classic, quorum; NULL: the queue must be
								 * there */
	long long	prefetch;
	long long	max_body;

	uint64_t	last_number;	/* over all connections */
	Delivery	deliveries[PREFETCH_MAX];
	Incoming	incoming;
} Source;

/* ---- settings ---- */

static bool
configure(OrionSink *sink, json_t *config)
{
	static const char *const known[] = {"url", "hosts", "tls", "queue", "prefetch", "declare", "max_body", "no_message_id", NULL};
	Source	   *source = calloc(1, sizeof(*source));

	if (source == NULL)
		return orion_sink_fail(sink, "out of memory");
	sink->state = source;
	if (!orion_config_known(sink, config, known) ||
		!orion_amqp_configure(sink, config, &source->conn) ||
		!orion_config_string(sink, config, "queue", NULL, &source->queue) ||
		!orion_config_integer(sink, config, "prefetch", 1, PREFETCH_MAX, PREFETCH, &source->prefetch) ||
		!orion_config_integer(sink, config, "max_body", 1, BODY_MOST, BODY_MAX, &source->max_body) ||
		!orion_config_optional(sink, config, "declare", &source->declare))
		return false;
	return true;
}

/* ---- connecting: calls that wait, each with a timeout ---- */

static bool
declare_queue(OrionSink *sink, Source *source)
{
	amqp_table_entry_t entry = {
		.key = amqp_cstring_bytes("x-queue-type"),
		.value = {.kind = AMQP_FIELD_KIND_UTF8,.value = {.bytes = amqp_cstring_bytes("quorum")}}
	};
	amqp_queue_declare_t declare = {
		.queue = amqp_cstring_bytes(source->queue),
		.durable = 1,
		.arguments = {source->declare && strcmp(source->declare, "quorum") == 0, &entry}
	};

	return source->declare == NULL ||
		orion_amqp_call(sink, &source->conn, "the queue cannot be declared",
						AMQP_QUEUE_DECLARE_METHOD, &declare, AMQP_QUEUE_DECLARE_OK_METHOD);
}

static bool
source_connect(OrionSink *sink)
{
	Source	   *source = sink->state;
	amqp_basic_qos_t qos = {.prefetch_count = source->prefetch};
	amqp_basic_consume_t consume = {.queue = amqp_cstring_bytes(source->queue)};

	return orion_amqp_open(sink, &source->conn) && declare_queue(sink, source) &&
		orion_amqp_call(sink, &source->conn, "prefetch", AMQP_BASIC_QOS_METHOD, &qos, AMQP_BASIC_QOS_OK_METHOD) &&
		orion_amqp_call(sink, &source->conn, "the queue cannot be consumed",
						AMQP_BASIC_CONSUME_METHOD, &consume, AMQP_BASIC_CONSUME_OK_METHOD);
}

/* ---- AMQP's properties as JSON ---- */

static json_t *table_json(const amqp_table_t *table, int depth);

/* What is not UTF-8, or holds a zero byte, as {"hex": ...}. */
static json_t *
bytes_json(amqp_bytes_t bytes)
{
	static const char digits[] = "0123456789abcdef";
	json_t	   *value = memchr(bytes.bytes ? bytes.bytes : "", 0, bytes.len) ? NULL : json_stringn(bytes.bytes ? bytes.bytes : "", bytes.len);
	char	   *hex;

	if (value)
		return value;
	hex = malloc(bytes.len * 2 + 1);
	if (hex == NULL)
		return NULL;
	for (size_t i = 0; i < bytes.len; i++)
	{
		hex[2 * i] = digits[((uint8_t *) bytes.bytes)[i] >> 4];
		hex[2 * i + 1] = digits[((uint8_t *) bytes.bytes)[i] & 15];
	}
	value = json_pack("{s:s%}", "hex", hex, bytes.len * 2);
	free(hex);
	return value;
}

static json_t *
decimal_json(amqp_decimal_t decimal)
{
	return json_pack("{s:i,s:I}", "decimals", (int) decimal.decimals, "value", (json_int_t) decimal.value);
}

static json_t *array_json(const amqp_array_t *array, int depth);

static json_t *
field_json(const amqp_field_value_t *field, int depth)
{
	switch (field->kind)
	{
		case AMQP_FIELD_KIND_BOOLEAN:
			return json_boolean(field->value.boolean);
		case AMQP_FIELD_KIND_I8:
			return json_integer(field->value.i8);
		case AMQP_FIELD_KIND_U8:
			return json_integer(field->value.u8);
		case AMQP_FIELD_KIND_I16:
			return json_integer(field->value.i16);
		case AMQP_FIELD_KIND_U16:
			return json_integer(field->value.u16);
		case AMQP_FIELD_KIND_I32:
			return json_integer(field->value.i32);
		case AMQP_FIELD_KIND_U32:
			return json_integer(field->value.u32);
		case AMQP_FIELD_KIND_I64:
			return json_integer(field->value.i64);
		case AMQP_FIELD_KIND_U64:
		case AMQP_FIELD_KIND_TIMESTAMP:
			return json_integer((json_int_t) field->value.u64);
		case AMQP_FIELD_KIND_F32:
			return json_real(field->value.f32);
		case AMQP_FIELD_KIND_F64:
			return json_real(field->value.f64);
		case AMQP_FIELD_KIND_DECIMAL:
			return decimal_json(field->value.decimal);
		case AMQP_FIELD_KIND_UTF8:
		case AMQP_FIELD_KIND_BYTES:
			return bytes_json(field->value.bytes);
		case AMQP_FIELD_KIND_TABLE:
			return table_json(&field->value.table, depth + 1);
		case AMQP_FIELD_KIND_ARRAY:
			return array_json(&field->value.array, depth + 1);
		default:
			return json_null();
	}
}

static json_t *
array_json(const amqp_array_t *array, int depth)
{
	json_t	   *result = depth < TABLE_DEPTH ? json_array() : json_null();

	for (int i = 0; depth < TABLE_DEPTH && i < array->num_entries; i++)
	{
		json_t	   *value = field_json(&array->entries[i], depth);

		json_array_append_new(result, value ? value : json_null()); /* NaN is no JSON */
	}
	return result;
}

/* Names that are not UTF-8 are left out. */
static json_t *
table_json(const amqp_table_t *table, int depth)
{
	json_t	   *result = depth < TABLE_DEPTH ? json_object() : json_null();

	for (int i = 0; depth < TABLE_DEPTH && i < table->num_entries; i++)
	{
		amqp_bytes_t key = table->entries[i].key;
		json_t	   *value = field_json(&table->entries[i].value, depth);
		char		name[256];

		if (key.len >= sizeof(name) || memchr(key.bytes ? key.bytes : "", 0, key.len))
		{
			json_decref(value);
			continue;
		}
		memcpy(name, key.bytes ? key.bytes : "", key.len);
		name[key.len] = '\0';
		(void) json_object_set_new(result, name, value ? value : json_null());
	}
	return result;
}

static void
set_bytes(json_t *object, const char *name, bool present, amqp_bytes_t bytes)
{
	if (present)
		(void) json_object_set_new(object, name, bytes_json(bytes));
}

/* malloc'ed; NULL when memory is out. */
static char *
properties_json(const amqp_basic_properties_t *p)
{
	amqp_flags_t flags = p->_flags;
	json_t	   *object = json_object();
	char	   *result;

	set_bytes(object, "contentType", flags & AMQP_BASIC_CONTENT_TYPE_FLAG, p->content_type);
	set_bytes(object, "contentEncoding", flags & AMQP_BASIC_CONTENT_ENCODING_FLAG, p->content_encoding);
	set_bytes(object, "correlationId", flags & AMQP_BASIC_CORRELATION_ID_FLAG, p->correlation_id);
	set_bytes(object, "replyTo", flags & AMQP_BASIC_REPLY_TO_FLAG, p->reply_to);
	set_bytes(object, "expiration", flags & AMQP_BASIC_EXPIRATION_FLAG, p->expiration);
	set_bytes(object, "type", flags & AMQP_BASIC_TYPE_FLAG, p->type);
	set_bytes(object, "userId", flags & AMQP_BASIC_USER_ID_FLAG, p->user_id);
	set_bytes(object, "appId", flags & AMQP_BASIC_APP_ID_FLAG, p->app_id);
	if (flags & AMQP_BASIC_PRIORITY_FLAG)
		(void) json_object_set_new(object, "priority", json_integer(p->priority));
	if (flags & AMQP_BASIC_TIMESTAMP_FLAG)
		(void) json_object_set_new(object, "timestamp", json_integer((json_int_t) p->timestamp));
	if (flags & AMQP_BASIC_HEADERS_FLAG)
		(void) json_object_set_new(object, "headers", table_json(&p->headers, 0));
	result = json_dumps(object, JSON_COMPACT);
	json_decref(object);
	return result;
}

/* ---- what the broker sends ---- */

static void
forget_incoming(Incoming *incoming)
{
	free(incoming->exchange);
	free(incoming->routing_key);
	free(incoming->id);
	free(incoming->properties);
	free(incoming->body);
	memset(incoming, 0, sizeof(*incoming));
}

/* Never NULL but when memory is out. */
static char *
copy_bytes(amqp_bytes_t bytes, size_t *len)
{
	char	   *copy = malloc(bytes.len + 1);

	*len = bytes.len;
	if (copy && bytes.len > 0)
		memcpy(copy, bytes.bytes, bytes.len);
	return copy;
}

static bool
on_deliver(OrionSink *sink, Source *source, const amqp_basic_deliver_t *deliver)
{
	Incoming   *incoming = &source->incoming;

	if (incoming->open)
		return orion_sink_fail(sink, "rabbitmq: a message begins within another");
	incoming->open = true;
	incoming->tag = deliver->delivery_tag;
	incoming->redelivered = deliver->redelivered;
	incoming->exchange = copy_bytes(deliver->exchange, &incoming->exchange_len);
	incoming->routing_key = copy_bytes(deliver->routing_key, &incoming->routing_key_len);
	return (incoming->exchange && incoming->routing_key) || orion_sink_fail(sink, "out of memory");
}

static Delivery *
free_delivery(Source *source)
{
	for (int i = 0; i < source->prefetch; i++)
	{
		if (source->deliveries[i].number == 0)
			return &source->deliveries[i];
	}
	return NULL;
}

/* The message is complete: over to the worker. */
static bool
hand_over(OrionSink *sink, Source *source)
{
	Incoming   *incoming = &source->incoming;
	Delivery   *delivery = free_delivery(source);
	uint64_t	flags = (incoming->redelivered ? ORION_MESSAGE_REDELIVERED : 0) |
	(incoming->has_id ? ORION_MESSAGE_HAS_ID : 0) | (incoming->too_long ? ORION_MESSAGE_TOO_LONG : 0);

	if (delivery == NULL)
		return orion_sink_fail(sink, "rabbitmq: sends more messages than were asked for");
	delivery->number = ++source->last_number;
	delivery->tag = incoming->tag;
	delivery->held = false;
	orion_frame_begin(sink->out, ORION_FRAME_MESSAGE, delivery->number);
	orion_frame_put_u64(sink->out, flags);
	orion_frame_put(sink->out, incoming->id, incoming->id_len);
	orion_frame_put(sink->out, incoming->exchange, incoming->exchange_len);
	orion_frame_put(sink->out, incoming->routing_key, incoming->routing_key_len);
	orion_frame_put_str(sink->out, incoming->properties);
	orion_frame_put(sink->out, incoming->body, incoming->too_long ? 0 : incoming->body_len);
	orion_frame_end(sink->out);
	forget_incoming(incoming);
	return !sink->out->failed || orion_sink_fail(sink, "out of memory");
}

static bool
on_header(OrionSink *sink, Source *source, uint64_t body_size, const amqp_basic_properties_t *properties)
{
	Incoming   *incoming = &source->incoming;

	if (!incoming->open || incoming->properties)
		return orion_sink_fail(sink, "rabbitmq: a header without a message");
	incoming->has_id = (properties->_flags & AMQP_BASIC_MESSAGE_ID_FLAG) && properties->message_id.len > 0;
	if (incoming->has_id)
		incoming->id = copy_bytes(properties->message_id, &incoming->id_len);
	incoming->properties = properties_json(properties);
	incoming->body_size = body_size;
	incoming->too_long = body_size > source->max_body;
	if (!incoming->too_long)
		incoming->body = malloc(body_size + 1);
	if (incoming->properties == NULL || (incoming->has_id && incoming->id == NULL) || (!incoming->too_long && incoming->body == NULL))
		return orion_sink_fail(sink, "out of memory");
	return body_size > 0 || hand_over(sink, source);
}

static bool
on_body(OrionSink *sink, Source *source, amqp_bytes_t fragment)
{
	Incoming   *incoming = &source->incoming;

	if (incoming->properties == NULL || fragment.len > incoming->body_size - incoming->body_len)
		return orion_sink_fail(sink, "rabbitmq: a body without a header, or longer than announced");
	if (!incoming->too_long && fragment.len > 0)
		memcpy(incoming->body + incoming->body_len, fragment.bytes, fragment.len);
	incoming->body_len += fragment.len;
	return incoming->body_len < incoming->body_size || hand_over(sink, source);
}

static bool
on_method(OrionSink *sink, Source *source, const amqp_method_t *method)
{
	switch (method->id)
	{
		case AMQP_BASIC_DELIVER_METHOD:
			return on_deliver(sink, source, method->decoded);
		case AMQP_BASIC_CANCEL_METHOD:
			return orion_sink_fail(sink, "rabbitmq: the queue was deleted, or cannot be read any more");
		case AMQP_CONNECTION_BLOCKED_METHOD:
		case AMQP_CONNECTION_UNBLOCKED_METHOD:
			return true;		/* concerns who publishes */
		default:
			return orion_amqp_surprise(sink, &source->conn, method);
	}
}

static bool
on_frame(OrionSink *sink, Source *source, const amqp_frame_t *frame)
{
	switch (frame->frame_type)
	{
		case AMQP_FRAME_METHOD:
			return on_method(sink, source, &frame->payload.method);
		case AMQP_FRAME_HEADER:
			return on_header(sink, source, frame->payload.properties.body_size, frame->payload.properties.decoded);
		case AMQP_FRAME_BODY:
			return on_body(sink, source, frame->payload.body_fragment);
		default:
			return true;
	}
}

static bool
has_room(const OrionSink *sink)
{
	return orion_buffer_len(sink->out) < UNREAD_MAX;
}

static bool
source_readable(OrionSink *sink)
{
	Source	   *source = sink->state;
	amqp_frame_t frame;

	for (int i = 0; i < FRAMES_A_TURN && has_room(sink); i++)
	{
		int			come = orion_amqp_next(sink, &source->conn, &frame);

		if (come <= 0)
			return come == 0;
		if (!on_frame(sink, source, &frame))
			return false;
	}
	return true;
}

static bool
source_wants_turn(OrionSink *sink)
{
	return ((Source *) sink->state)->conn.more && has_room(sink);
}

static bool
source_wants_read(OrionSink *sink)
{
	return has_room(sink);
}

/* ---- what the worker says ---- */

static bool
source_take(OrionSink *sink, OrionFrame *frame)
{
	Source	   *source = sink->state;
	Delivery   *delivery = NULL;
	uint64_t	pause;

	if (frame->type != ORION_FRAME_DONE && frame->type != ORION_FRAME_RETRY && frame->type != ORION_FRAME_REFUSE)
		return false;
	for (int i = 0; i < source->prefetch && frame->id != 0; i++)
	{
		if (source->deliveries[i].number == frame->id)
			delivery = &source->deliveries[i];
	}
	if (delivery == NULL)
		return frame->id <= source->last_number;	/* of a lost connection */
	if (frame->type == ORION_FRAME_RETRY)
	{
		if (!orion_frame_get_u64(frame, &pause) || pause > 3600000)
			return false;
		delivery->held = true;
		delivery->release_at = sink->now + (long) pause;
		return true;
	}
	if (frame->type == ORION_FRAME_DONE)
		orion_amqp_ack(&source->conn.link.out, ORION_AMQP_CHANNEL, delivery->tag);
	else
		orion_amqp_reject(&source->conn.link.out, ORION_AMQP_CHANNEL, delivery->tag, false);
	delivery->number = 0;
	return true;
}

/* ---- the rest ---- */

static void
release_held(Source *source, long now)
{
	for (int i = 0; i < source->prefetch; i++)
	{
		Delivery   *delivery = &source->deliveries[i];

		if (delivery->number == 0 || !delivery->held || delivery->release_at > now)
			continue;
		orion_amqp_reject(&source->conn.link.out, ORION_AMQP_CHANNEL, delivery->tag, true);
		delivery->number = 0;
	}
}

static bool
source_flush(OrionSink *sink)
{
	return orion_amqp_flush(sink, &((Source *) sink->state)->conn);
}

static bool
source_tick(OrionSink *sink, long now)
{
	Source	   *source = sink->state;

	if (!has_room(sink))
		source->conn.last_received = now;	/* it was not listened to */
	release_held(source, now);
	return orion_amqp_tick(sink, &source->conn, now);
}

static bool
source_wants_write(OrionSink *sink)
{
	const OrionLink *link = &((Source *) sink->state)->conn.link;

	return link->wants_write || orion_buffer_len(&link->out) > 0;
}

static int
source_fd(OrionSink *sink)
{
	return ((Source *) sink->state)->conn.link.fd;
}

static void
source_close(OrionSink *sink)
{
	Source	   *source = sink->state;

	orion_amqp_close(&source->conn);
	forget_incoming(&source->incoming);
	memset(source->deliveries, 0, sizeof(source->deliveries));
}

const OrionSinkOps orion_source_amqp = {
	.kind = "rabbitmq-consumer",
	.configure = configure,
	.connect = source_connect,
	.publish = source_flush,
	.flush = source_flush,
	.wants_write = source_wants_write,
	.fd = source_fd,
	.on_readable = source_readable,
	.wants_turn = source_wants_turn,
	.tick = source_tick,
	.close = source_close,
	.take = source_take,
	.wants_read = source_wants_read,
};
