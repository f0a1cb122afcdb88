/*
 * sink_amqp.c
 *	  Events to RabbitMQ: declared topology, persistent messages, publisher confirms
 *	  in flight by the thousand.
 *
 * A broker with a resource alarm stops reading, for hours if need be, so nothing here
 * waits for it but the declarations while connecting, each call bounded.
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

#include "amqp_connection.h"
#include "amqp_message.h"
#include "amqp_topology.h"
#include "sink.h"

#define WINDOW			4096	/* messages in flight; a power of two */
#define UNWRITTEN_MAX	(1024 * 1024)	/* bytes encoded ahead of the socket */
#define NACK_LIMIT		5
#define NACK_PAUSE		100		/* ms, doubled with each try */
#define SLOW_AFTER		5000	/* ms without a confirm: tell the operator */
#define FRAMES_A_TURN	10000	/* then it is the relay's turn */

typedef struct AmqpState
{
	OrionAmqpConnection conn;
	const char *source;
	OrionTopology topology;

	uint64_t	flight[WINDOW]; /* event of each delivery tag; 0: confirmed */
	uint64_t	low_tag;		/* oldest unconfirmed */
	uint64_t	next_tag;
	uint64_t	retry[WINDOW];	/* events that came back with basic.nack */
	int			nretry;
	long		retry_at;
	long		last_confirm;	/* or when messages went out with none in
								 * flight */
	bool		returned;		/* the line about it has been written */
	uint64_t	careful_until;	/* one at a time up to this event */
} AmqpState;

/* ---- settings ---- */

static bool
configure(OrionSink *sink, json_t *config)
{
	static const char *const known[] = {"url", "hosts", "tls", "source", "exchanges", "queues", "bindings", NULL};
	AmqpState  *state = calloc(1, sizeof(*state));
	char		source[200];

	if (state == NULL)
		return orion_sink_fail(sink, "out of memory");
	sink->state = state;
	snprintf(source, sizeof(source), "/orion/%.150s", sink->name);
	if (!orion_config_known(sink, config, known) ||
		!orion_amqp_configure(sink, config, &state->conn) ||
		!orion_config_string(sink, config, "source", source, &state->source) ||
		!orion_topology_configure(sink, config, &state->topology))
		return false;
	if (strlen(state->source) > ORION_AMQP_SHORT)
		return orion_sink_fail(sink, "config: key \"source\" is longer than %d bytes", ORION_AMQP_SHORT);
	state->source = strdup(state->source);
	return state->source || orion_sink_fail(sink, "out of memory");
}

/* ---- connecting: calls that wait, each with a timeout ---- */

static void
tell_blocking(OrionSink *sink, const AmqpState *state)
{
	if (state->conn.blocked[0])
		snprintf(sink->slow, sizeof(sink->slow), "rabbitmq: broker blocks publishers (resource alarm: %.100s)", state->conn.blocked);
	else
		sink->slow[0] = '\0';
}

static bool
amqp_connect(OrionSink *sink)
{
	AmqpState  *state = sink->state;
	amqp_confirm_select_t confirm = {0};

	if (!orion_amqp_open(sink, &state->conn) ||
		!orion_topology_declare(sink, &state->topology, &state->conn) ||
		!orion_amqp_call(sink, &state->conn, "confirms", AMQP_CONFIRM_SELECT_METHOD, &confirm, AMQP_CONFIRM_SELECT_OK_METHOD))
		return false;
	state->low_tag = state->next_tag = 1;
	state->last_confirm = sink->now;
	tell_blocking(sink, state);
	return true;
}

/* ---- publishing ---- */

static bool
amqp_flush(OrionSink *sink)
{
	return orion_amqp_flush(sink, &((AmqpState *) sink->state)->conn);
}

/* Encodes one event; false when memory is out. */
static bool
put_event(OrionSink *sink, AmqpState *state, OrionEvent *event)
{
	const char *exchange = orion_topology_exchange(&state->topology, event->type);
	const char *refusal = orion_amqp_message(&state->conn.link.out, event, ORION_AMQP_CHANNEL, exchange, state->source, state->conn.frame_max);

	if (refusal)
	{
		orion_sink_reject(sink, event, refusal);
		return true;
	}
	if (state->conn.link.out.failed)
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

	return !state->conn.blocked[0] && state->next_tag - state->low_tag < window &&
		orion_buffer_len(&state->conn.link.out) < UNWRITTEN_MAX;
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
	if (!state->conn.blocked[0])
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
on_channel_close(OrionSink *sink, AmqpState *state, const amqp_method_t *method)
{
	uint64_t	inflight = state->next_tag - state->low_tag;

	orion_amqp_surprise(sink, &state->conn, method);
	if (state->conn.close_code != AMQP_PRECONDITION_FAILED || inflight == 0)
		return false;
	if (inflight == 1)
		orion_sink_reject(sink, orion_queue_at(&sink->queue, state->flight[state->low_tag & (WINDOW - 1)]), sink->why);
	else if (state->careful_until < sink->queue.next)
		state->careful_until = sink->queue.next - 1;
	return false;
}

static bool
on_method(OrionSink *sink, AmqpState *state, const amqp_method_t *method)
{
	const amqp_basic_ack_t *ack = method->decoded;
	const amqp_basic_nack_t *nack = method->decoded;

	switch (method->id)
	{
		case AMQP_BASIC_ACK_METHOD:
			return on_confirm(sink, state, ack->delivery_tag, ack->multiple, true);
		case AMQP_BASIC_NACK_METHOD:
			return on_confirm(sink, state, nack->delivery_tag, nack->multiple, false);
		case AMQP_BASIC_RETURN_METHOD:
			on_return(sink, state, method->decoded);
			return true;
		case AMQP_CONNECTION_UNBLOCKED_METHOD:
			state->last_confirm = sink->now;
			tell_blocking(sink, state);
			return true;
		case AMQP_CONNECTION_BLOCKED_METHOD:
			tell_blocking(sink, state);
			return true;
		case AMQP_CHANNEL_CLOSE_METHOD:
			return on_channel_close(sink, state, method);
		default:
			return orion_amqp_surprise(sink, &state->conn, method);
	}
}

static bool
amqp_readable(OrionSink *sink)
{
	AmqpState  *state = sink->state;
	amqp_frame_t frame;

	for (int i = 0; i < FRAMES_A_TURN; i++)
	{
		int			come = orion_amqp_next(sink, &state->conn, &frame);

		if (come <= 0)
			return come == 0;
		/* a returned message's header and body are of no interest */
		if (frame.frame_type == AMQP_FRAME_METHOD && !on_method(sink, state, &frame.payload.method))
			return false;
	}
	return true;
}

static bool
amqp_wants_turn(OrionSink *sink)
{
	return ((AmqpState *) sink->state)->conn.more;
}

/* ---- timers and the rest ---- */

static bool
check_stall(OrionSink *sink, AmqpState *state)
{
	uint64_t	inflight = state->next_tag - state->low_tag;
	long		waited = sink->now - state->last_confirm;

	if (inflight == 0 || state->conn.blocked[0])
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

	if (!orion_amqp_tick(sink, &state->conn, now))
		return false;
	return check_stall(sink, state);
}

static bool
amqp_wants_write(OrionSink *sink)
{
	const OrionLink *link = &((AmqpState *) sink->state)->conn.link;

	return link->wants_write || orion_buffer_len(&link->out) > 0;
}

static int
amqp_fd(OrionSink *sink)
{
	return ((AmqpState *) sink->state)->conn.link.fd;
}

static void
amqp_close(OrionSink *sink)
{
	AmqpState  *state = sink->state;

	orion_amqp_close(&state->conn);
	state->nretry = 0;
	state->low_tag = state->next_tag = 1;
	state->returned = false;
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
	.wants_turn = amqp_wants_turn,
	.tick = amqp_tick,
	.close = amqp_close,
};
