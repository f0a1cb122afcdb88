// uses: -lrabbitmq
/*
 * raw_amqp.c
 *	  Publishing to RabbitMQ without Orion: what a plain client reaches.
 *
 * raw_amqp PORT copy EXCHANGE QUEUE COUNT	takes one message off QUEUE, empties it, and
 *										publishes that message COUNT times to EXCHANGE, with
 *										confirms in batches of 1,000; prints messages a second
 * raw_amqp PORT await QUEUE COUNT SECONDS	waits until QUEUE has COUNT messages; prints the
 *										time of day at which it had, in seconds
 * raw_amqp PORT purge QUEUE 0 0		empties QUEUE
 *
 * The first two fail when the queue does not have exactly COUNT messages in the end.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "courier/rabbitmq_c.h"

#if __has_include(<rabbitmq-c/tcp_socket.h>)
#include <rabbitmq-c/tcp_socket.h>
#else
#include <amqp_tcp_socket.h>
#endif

#define BATCH	1000

static amqp_connection_state_t conn;

static double
now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void
fail(const char *why)
{
	fprintf(stderr, "raw_amqp: %s\n", why);
	exit(1);
}

static void
check(const char *what)
{
	if (amqp_get_rpc_reply(conn).reply_type != AMQP_RESPONSE_NORMAL)
		fail(what);
}

static void
connect_to(int port)
{
	amqp_socket_t *socket;

	conn = amqp_new_connection();
	socket = amqp_tcp_socket_new(conn);
	if (socket == NULL || amqp_socket_open(socket, "127.0.0.1", port) != AMQP_STATUS_OK)
		fail("cannot connect");
	if (amqp_login(conn, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest").reply_type != AMQP_RESPONSE_NORMAL)
		fail("cannot log in");
	amqp_channel_open(conn, 1);
	check("cannot open a channel");
}

static long
depth(const char *queue)
{
	amqp_queue_declare_ok_t *ok = amqp_queue_declare(conn, 1, amqp_cstring_bytes(queue), 1, 0, 0, 0, amqp_empty_table);

	check("there is no such queue");
	return ok->message_count;
}

static double
await(const char *queue, long count, double seconds)
{
	double		end = now(CLOCK_MONOTONIC) + seconds;
	struct timespec pause = {0, 5000000};
	double		at;
	long		n;

	while ((n = depth(queue)) < count && now(CLOCK_MONOTONIC) < end)
		nanosleep(&pause, NULL);
	at = now(CLOCK_REALTIME);
	if (n != count)
	{
		fprintf(stderr, "raw_amqp: %s has %ld messages, not %ld\n", queue, n, count);
		exit(1);
	}
	return at;
}

static void
purge(const char *queue)
{
	amqp_queue_purge(conn, 1, amqp_cstring_bytes(queue));
	check("cannot empty the queue");
}

/* Waits until the n messages behind base are confirmed, one by one or several at once. */
static void
await_confirms(uint64_t base, long n)
{
	bool		done[BATCH] = {false};

	for (long left = n; left > 0;)
	{
		amqp_frame_t frame;
		amqp_basic_ack_t *ack;

		amqp_maybe_release_buffers(conn);
		if (amqp_simple_wait_frame(conn, &frame) != AMQP_STATUS_OK)
			fail("connection lost");
		if (frame.frame_type != AMQP_FRAME_METHOD || frame.payload.method.id != AMQP_BASIC_ACK_METHOD)
			fail("a message was not confirmed");
		ack = frame.payload.method.decoded;
		for (uint64_t tag = ack->multiple ? base + 1 : ack->delivery_tag; tag <= ack->delivery_tag; tag++)
		{
			if (tag > base && tag <= base + n && !done[tag - base - 1])
			{
				done[tag - base - 1] = true;
				left--;
			}
		}
	}
}

static void
copy(const char *exchange, const char *queue, long count)
{
	amqp_message_t message;
	amqp_bytes_t key;
	amqp_rpc_reply_t reply = amqp_basic_get(conn, 1, amqp_cstring_bytes(queue), 1);
	double		begin;

	if (reply.reply_type != AMQP_RESPONSE_NORMAL || reply.reply.id != AMQP_BASIC_GET_OK_METHOD)
		fail("there is no message to copy");
	key = amqp_bytes_malloc_dup(((amqp_basic_get_ok_t *) reply.reply.decoded)->routing_key);
	if (amqp_read_message(conn, 1, &message, 0).reply_type != AMQP_RESPONSE_NORMAL)
		fail("cannot read the message");
	purge(queue);
	amqp_confirm_select(conn, 1);
	check("no confirms");
	begin = now(CLOCK_MONOTONIC);
	for (long sent = 0; sent < count;)
	{
		long		n = count - sent < BATCH ? count - sent : BATCH;

		for (long i = 0; i < n; i++)
		{
			if (amqp_basic_publish(conn, 1, amqp_cstring_bytes(exchange), key, 0, 0, &message.properties, message.body) != AMQP_STATUS_OK)
				fail("cannot publish");
		}
		await_confirms(sent, n);
		sent += n;
	}
	printf("%.3f\n", count / (now(CLOCK_MONOTONIC) - begin));
	await(queue, count, 10);
}

int
main(int argc, char **argv)
{
	if (argc != 6)
		fail("usage: raw_amqp PORT copy EXCHANGE QUEUE COUNT | PORT await QUEUE COUNT SECONDS | PORT purge QUEUE 0 0");
	connect_to(atoi(argv[1]));
	if (strcmp(argv[2], "copy") == 0)
		copy(argv[3], argv[4], atol(argv[5]));
	else if (strcmp(argv[2], "purge") == 0)
		purge(argv[3]);
	else
		printf("%.6f\n", await(argv[3], atol(argv[4]), atof(argv[5])));
	amqp_destroy_connection(conn);
	return 0;
}
