/*
 * sink_amqp.c
 *	  Events to RabbitMQ: declared topology, persistent messages, publisher confirms
 *	  in flight by the thousand.
 *
 * The library connects, logs in, declares (each call bounded) and decodes what the
 * broker sends.  Messages and heartbeats are written here, without blocking: a
 * broker with a resource alarm stops reading, for hours if need be, and the
 * library's publish would wait in the kernel that long.  So its own heartbeats are
 * switched off after the login; it must never write between our frames.
 *
 * A message counts when the broker confirms it (basic.ack).  Confirms may come out
 * of order; the queue acknowledges to the relay in order.  basic.nack is tried
 * again with growing pauses and refused after NACK_LIMIT; such an event, and only
 * such, can be overtaken by later ones of its aggregate.  After a lost connection
 * whatever was not confirmed is sent again: consumers see a message twice, with
 * the same message id.
 *
 * A message that no queue is bound for comes back (basic.return) and is confirmed
 * all the same.  It counts as delivered: with topics, an exchange nobody listens to
 * is normal.  The log gets one line per connection.
 *
 * When the broker closes the channel over a message (406, larger than it allows),
 * events go one at a time until the culprit is found and refused.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "amqp_connection.h"
#include "amqp_message.h"
#include "amqp_topology.h"
#include "sink.h"

#define CHANNEL			ORION_AMQP_CHANNEL
#define WINDOW			4096	/* messages in flight; a power of two */
#define UNWRITTEN_MAX	(1024 * 1024)	/* bytes encoded ahead of the socket */
#define NACK_LIMIT		5
#define NACK_PAUSE		100		/* ms, doubled with each try */
#define SLOW_AFTER		15000	/* ms without a confirm: tell the operator */

typedef struct AmqpState
{
	OrionAmqpServer server;
	const char *source;
	OrionTopology topology;

	amqp_connection_state_t conn;
	OrionBuffer out;
	size_t		frame_max;
	int			heartbeat;		/* seconds agreed on; 0: none */
	uint64_t	flight[WINDOW]; /* event of each delivery tag; 0: confirmed */
	uint64_t	low_tag;		/* oldest unconfirmed */
	uint64_t	next_tag;
	uint64_t	retry[WINDOW];	/* events that came back with basic.nack */
	int			nretry;
	long		retry_at;
	long		last_confirm;	/* or when messages went out with none in
								 * flight */
	long		last_received;
	long		last_sent;
	bool		blocked;
	bool		returned;		/* the line about it has been written */
	uint64_t	careful_until;	/* one at a time up to this event */
} AmqpState;

/* ---- settings ---- */

static bool
configure(OrionSink *sink, json_t *config)
{
	static const char *const known[] = {"url", "hosts", "source", "exchanges", "queues", "bindings", NULL};
	AmqpState  *state = calloc(1, sizeof(*state));
	char		source[200];

	if (state == NULL)
		return orion_sink_fail(sink, "out of memory");
	sink->state = state;
	snprintf(source, sizeof(source), "/orion/%.150s", sink->name);
	if (!orion_config_known(sink, config, known) ||
		!orion_amqp_configure(sink, config, &state->server) ||
		!orion_config_string(sink, config, "source", source, &state->source) ||
		!orion_topology_configure(sink, config, &state->topology))
		return false;
	if (strlen(state->source) > ORION_AMQP_SHORT)
		return orion_sink_fail(sink, "config: key \"source\" is longer than %d bytes", ORION_AMQP_SHORT);
	state->source = strdup(state->source);
	return state->source || orion_sink_fail(sink, "out of memory");
}

/* ---- connecting: blocking calls, each with a timeout ---- */

static bool amqp_readable(OrionSink *sink);

static bool
amqp_connect(OrionSink *sink)
{
	AmqpState  *state = sink->state;

	if (!orion_amqp_open(sink, &state->server, &state->conn) ||
		!orion_topology_declare(sink, &state->topology, state->conn, CHANNEL))
		return false;
	amqp_confirm_select(state->conn, CHANNEL);
	if (!orion_amqp_accepted(sink, state->conn, "rabbitmq: confirms"))
		return false;
	state->frame_max = amqp_get_frame_max(state->conn);
	state->heartbeat = orion_amqp_take_over(state->conn);
	state->low_tag = state->next_tag = 1;
	state->last_confirm = state->last_received = state->last_sent = sink->now;
	return amqp_readable(sink); /* what came behind an answer waits in the
								 * library */
}

/* ---- publishing ---- */

static bool
amqp_flush(OrionSink *sink)
{
	AmqpState  *state = sink->state;
	size_t		before = orion_buffer_len(&state->out);

	if (!orion_buffer_flush(&state->out, amqp_get_sockfd(state->conn)))
		return orion_sink_fail(sink, state->out.failed ? "out of memory" : "rabbitmq: connection lost while writing");
	if (orion_buffer_len(&state->out) < before)
		state->last_sent = sink->now;
	return true;
}

/* Encodes one event; false when memory is out. */
static bool
put_event(OrionSink *sink, AmqpState *state, OrionEvent *event)
{
	const char *exchange = orion_topology_exchange(&state->topology, event->type);
	const char *refusal = orion_amqp_message(&state->out, event, CHANNEL, exchange, state->source, state->frame_max);

	if (refusal)
	{
		orion_sink_reject(sink, event, refusal);
		return true;
	}
	if (state->out.failed)
		return orion_sink_fail(sink, "out of memory");
	if (state->low_tag == state->next_tag)
		state->last_confirm = sink->now;
	state->flight[state->next_tag++ & (WINDOW - 1)] = event->number;
	return true;
}

static bool
may_publish(const OrionSink *sink, const AmqpState *state)
{
	uint64_t	window = state->careful_until >= sink->queue.head ? 1 : WINDOW;

	return !state->blocked && state->next_tag - state->low_tag < window &&
		orion_buffer_len(&state->out) < UNWRITTEN_MAX;
}

static bool
publish_retries(OrionSink *sink, AmqpState *state)
{
	if (sink->now < state->retry_at)
		return true;
	while (state->nretry > 0 && may_publish(sink, state))
	{
		OrionEvent *event = orion_queue_at(&sink->queue, state->retry[--state->nretry]);

		if (event && !event->settled && !put_event(sink, state, event))
			return false;
	}
	return true;
}

static bool
amqp_publish(OrionSink *sink)
{
	AmqpState  *state = sink->state;
	OrionQueue *queue = &sink->queue;

	if (state->nretry > 0 && !publish_retries(sink, state))
		return false;
	for (; queue->next < queue->tail && state->nretry < WINDOW / 2 && may_publish(sink, state); queue->next++)
	{
		OrionEvent *event = orion_queue_at(queue, queue->next);

		if (!event->settled && !put_event(sink, state, event))
			return false;
	}
	return amqp_flush(sink);
}

/* ---- what the broker says ---- */

static void
confirm_tag(OrionSink *sink, AmqpState *state, uint64_t tag, bool accepted)
{
	uint64_t   *slot = &state->flight[tag & (WINDOW - 1)];
	OrionEvent *event = orion_queue_at(&sink->queue, *slot);

	*slot = 0;
	if (event == NULL || event->settled)
		return;
	if (accepted)
		event->settled = true;
	else if (++event->tries >= NACK_LIMIT || state->nretry == WINDOW)
		orion_sink_reject(sink, event, "the broker refused the message (basic.nack)");
	else
	{
		state->retry[state->nretry++] = event->number;
		state->retry_at = sink->now + (NACK_PAUSE << event->tries);
	}
}

/* basic.ack and basic.nack; tag 0 with multiple means all so far. */
static bool
on_confirm(OrionSink *sink, AmqpState *state, uint64_t tag, bool multiple, bool accepted)
{
	if (tag == 0 && multiple)
		tag = state->next_tag - 1;
	if (tag >= state->next_tag)
		return orion_sink_fail(sink, "rabbitmq: confirms a message that was never sent");
	for (uint64_t i = multiple ? state->low_tag : tag; i <= tag && tag >= state->low_tag; i++)
		confirm_tag(sink, state, i, accepted);
	while (state->low_tag < state->next_tag && state->flight[state->low_tag & (WINDOW - 1)] == 0)
		state->low_tag++;
	state->last_confirm = sink->now;
	if (!state->blocked)
		sink->slow[0] = '\0';
	return true;
}

static void
on_return(OrionSink *sink, AmqpState *state, const amqp_basic_return_t *returned)
{
	char		string[400];

	if (state->returned)
		return;
	state->returned = true;
	snprintf(string, sizeof(string), "no queue is bound for \"%.*s\" at exchange \"%.*s\"; such events count as delivered",
			 (int) returned->routing_key.len, (char *) returned->routing_key.bytes,
			 (int) returned->exchange.len, (char *) returned->exchange.bytes);
	orion_sink_log(sink, string);
}

/* The broker gave up on the channel. Over one message? */
static bool
on_channel_close(OrionSink *sink, AmqpState *state, const amqp_channel_close_t *closed)
{
	uint64_t	inflight = state->next_tag - state->low_tag;

	orion_sink_fail(sink, "rabbitmq closed the channel: %.*s", (int) closed->reply_text.len, (char *) closed->reply_text.bytes);
	if (closed->reply_code != AMQP_PRECONDITION_FAILED || inflight == 0)
		return false;
	if (inflight == 1)
		orion_sink_reject(sink, orion_queue_at(&sink->queue, state->flight[state->low_tag & (WINDOW - 1)]), sink->why);
	else if (state->careful_until < sink->queue.next)
		state->careful_until = sink->queue.next - 1;
	return false;
}

static void
on_blocked(OrionSink *sink, AmqpState *state, amqp_bytes_t reason)
{
	state->blocked = true;
	snprintf(sink->slow, sizeof(sink->slow), "rabbitmq: broker blocks publishers (resource alarm: %.*s)",
			 (int) (reason.len < 100 ? reason.len : 100), (char *) reason.bytes);
}

static void
on_unblocked(OrionSink *sink, AmqpState *state)
{
	state->blocked = false;
	state->last_confirm = sink->now;
	sink->slow[0] = '\0';
}

static bool
on_method(OrionSink *sink, AmqpState *state, const amqp_method_t *method)
{
	const amqp_basic_ack_t *ack = method->decoded;
	const amqp_basic_nack_t *nack = method->decoded;
	const amqp_connection_close_t *closed = method->decoded;

	switch (method->id)
	{
		case AMQP_BASIC_ACK_METHOD:
			return on_confirm(sink, state, ack->delivery_tag, ack->multiple, true);
		case AMQP_BASIC_NACK_METHOD:
			return on_confirm(sink, state, nack->delivery_tag, nack->multiple, false);
		case AMQP_BASIC_RETURN_METHOD:
			on_return(sink, state, method->decoded);
			return true;
		case AMQP_CONNECTION_BLOCKED_METHOD:
			on_blocked(sink, state, ((amqp_connection_blocked_t *) method->decoded)->reason);
			return true;
		case AMQP_CONNECTION_UNBLOCKED_METHOD:
			on_unblocked(sink, state);
			return true;
		case AMQP_CHANNEL_CLOSE_METHOD:
			return on_channel_close(sink, state, method->decoded);
		case AMQP_CONNECTION_CLOSE_METHOD:
			return orion_sink_fail(sink, "rabbitmq closed the connection: %.*s",
								   (int) closed->reply_text.len, (char *) closed->reply_text.bytes);
		default:
			return orion_sink_fail(sink, "rabbitmq: unexpected %s", amqp_method_name(method->id) ? amqp_method_name(method->id) : "method");
	}
}

static bool
amqp_readable(OrionSink *sink)
{
	AmqpState  *state = sink->state;

	state->last_received = sink->now;
	for (;;)
	{
		amqp_frame_t frame;
		struct timeval none = {0, 0};
		int			status = amqp_simple_wait_frame_noblock(state->conn, &frame, &none);
		bool		good = true;

		if (status == AMQP_STATUS_TIMEOUT)
			return true;
		if (status != AMQP_STATUS_OK)
			return orion_sink_fail(sink, "rabbitmq: connection lost: %s", amqp_error_string2(status));
		/* a returned message's header and body are of no interest */
		if (frame.frame_type == AMQP_FRAME_METHOD)
			good = on_method(sink, state, &frame.payload.method);
		amqp_maybe_release_buffers(state->conn);
		if (!good)
			return false;
	}
}

/* ---- timers and the rest ---- */

static bool
check_stall(OrionSink *sink, AmqpState *state)
{
	uint64_t	inflight = state->next_tag - state->low_tag;
	long		waited = sink->now - state->last_confirm;

	if (inflight == 0 || state->blocked)
		return true;
	if (waited > ORION_STALL_TIMEOUT)
		return orion_sink_fail(sink, "rabbitmq: broker has not confirmed anything for %d s", ORION_STALL_TIMEOUT / 1000);
	if (waited > SLOW_AFTER)
		snprintf(sink->slow, sizeof(sink->slow), "rabbitmq: broker does not confirm messages");
	return true;
}

static bool
amqp_tick(OrionSink *sink, long now)
{
	AmqpState  *state = sink->state;

	if (state->heartbeat > 0 && now - state->last_received > state->heartbeat * 2000L)
		return orion_sink_fail(sink, "rabbitmq: nothing heard for %d s (heartbeat)", state->heartbeat * 2);
	/* bytes that wait to be written are as good as a heartbeat once they go */
	if (state->heartbeat > 0 && now - state->last_sent >= state->heartbeat * 500L && orion_buffer_len(&state->out) == 0)
		orion_amqp_heartbeat(&state->out);
	return check_stall(sink, state);
}

static bool
amqp_wants_write(OrionSink *sink)
{
	AmqpState  *state = sink->state;

	return orion_buffer_len(&state->out) > 0;
}

static int
amqp_fd(OrionSink *sink)
{
	AmqpState  *state = sink->state;

	return amqp_get_sockfd(state->conn);
}

static void
amqp_close(OrionSink *sink)
{
	AmqpState  *state = sink->state;

	if (state->conn)
		amqp_destroy_connection(state->conn);
	state->conn = NULL;
	orion_buffer_free(&state->out);
	state->nretry = 0;
	state->low_tag = state->next_tag = 1;
	state->blocked = state->returned = false;
}

const OrionSinkOps orion_sink_amqp = {
	.kind = "rabbitmq",
	.configure = configure,
	.connect = amqp_connect,
	.publish = amqp_publish,
	.flush = amqp_flush,
	.wants_write = amqp_wants_write,
	.fd = amqp_fd,
	.on_readable = amqp_readable,
	.tick = amqp_tick,
	.close = amqp_close,
};
