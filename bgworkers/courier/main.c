/*
 * main.c
 *	  orion-courier: carries events from one relay to one sink.
 *
 * A relay (a worker in Postgres) starts it with a socketpair as descriptor 3,
 * writes one CONFIG frame and then EVENT frames.  The courier answers READY once,
 * with the position kept by the sink; ACK(n) when all events up to n are settled;
 * REJECT(n) before the ACK that covers n, when the sink will never take it;
 * TROUBLE with a text while the sink is unreachable or slow, without one when all
 * is well again.  When the sink has lost what it had confirmed, the courier
 * leaves: its successor says READY with the older position, and the relay goes back.
 *
 * One thread, one poll over two sockets.  Memory is bounded: at 8192 events or
 * 16 MB unconfirmed it stops reading, and the relay waits.  It leaves at end of
 * file on descriptor 3; what was unconfirmed the relay sends to its successor.
 *
 * No Postgres header: a crash here costs a restart of this program.  Secrets come
 * by the socket only, never in arguments or environment; the process cannot be
 * traced or dumped by other users, and every text that leaves is blotted.
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "sink.h"
#include "webhook.h"

#define RELAY_FD		3
#define FRAME_MAX		(256 * 1024 * 1024) /* more than a jsonb can print */
#define BUFFER_KEEP		(1024 * 1024)	/* a buffer grown past this is given
										 * back */
#define FILLS_A_TURN	16		/* reads from the relay before the sink gets
								 * its turn */
#define BACKOFF_MIN		100		/* ms */
#define BACKOFF_MAX		10000
#define TURN_MAX		1000	/* ms; timers are looked at this often */

static const OrionSinkOps *const kinds[] = {&orion_sink_redis, &orion_sink_amqp, &orion_sink_kafka, &orion_source_amqp};

typedef struct Courier
{
	OrionSink	sink;
	json_t	   *config;			/* the sink's strings point into it */
	OrionBuffer in;
	OrionBuffer out;
	bool		held_back;		/* frames may be left in the buffer for want
								 * of room */
	bool		configured;
	bool		broken;			/* the settings are wrong: only wait for the
								 * end */
	bool		connected;
	bool		ready;			/* READY was sent */
	bool		troubled;
	json_t	   *webhooks;		/* settings of the sink of webhooks, which has
								 * a loop of its own */
	char		trouble[512];	/* last text sent */
	uint64_t	head_at_connect;
	int			failures;		/* in a row */
	long		retry_at;
} Courier;

static Courier courier;

static long
now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000L + ts.tv_nsec / 1000000L;
}

/* ---- words for the relay ---- */

static void
say_trouble(const char *string)
{
	char		words[512];

	orion_sink_blot(string, courier.sink.secret, words, sizeof(words));
	if (courier.troubled && strcmp(words, courier.trouble) == 0)
		return;
	strcpy(courier.trouble, words);
	courier.troubled = true;
	orion_frame_begin(&courier.out, ORION_FRAME_TROUBLE, 0);
	orion_frame_put_str(&courier.out, words);
	orion_frame_end(&courier.out);
}

static void
say_well(void)
{
	if (!courier.troubled)
		return;
	courier.troubled = false;
	orion_frame_begin(&courier.out, ORION_FRAME_TROUBLE, 0);
	orion_frame_put_str(&courier.out, "");
	orion_frame_end(&courier.out);
}

static void
say_ready(void)
{
	if (courier.ready)
		return;
	courier.ready = true;
	orion_frame_begin(&courier.out, ORION_FRAME_READY, 0);
	orion_frame_put_str(&courier.out, courier.sink.position);
	orion_frame_end(&courier.out);
}

static void
say_settled(void)
{
	if (orion_queue_drop_settled(&courier.sink.queue) == 0)
		return;
	orion_frame_begin(&courier.out, ORION_FRAME_ACK, courier.sink.queue.head - 1);
	orion_frame_end(&courier.out);
}

/* ---- the connection to the sink ---- */

static long
backoff(int failures)
{
	long		wait = BACKOFF_MIN;
	uint32_t	random = 0;

	for (int i = 1; i < failures && wait < BACKOFF_MAX; i++)
		wait *= 2;
	if (wait > BACKOFF_MAX)
		wait = BACKOFF_MAX;
	if (getrandom(&random, sizeof(random), GRND_NONBLOCK) != sizeof(random))
		random = (uint32_t) getpid();
	return wait / 2 + random % (wait / 2 + 1);
}

static void
lose_connection(void)
{
	courier.sink.ops->close(&courier.sink);
	courier.connected = false;
	courier.sink.slow[0] = '\0';
	orion_queue_rewind(&courier.sink.queue);
	courier.failures++;
	courier.retry_at = now_ms() + backoff(courier.failures);
	say_trouble(courier.sink.why);
}

static void
try_connect(void)
{
	if (!courier.sink.ops->connect(&courier.sink))
	{
		lose_connection();
		return;
	}
	courier.connected = true;
	courier.head_at_connect = courier.sink.queue.head;
	say_ready();
}

/* Is the connection proven?  Either it has carried something, or nothing waits. */
static void
judge_health(void)
{
	OrionQueue *queue = &courier.sink.queue;

	if (courier.sink.slow[0])
		say_trouble(courier.sink.slow);
	else if (queue->head == queue->tail || queue->head > courier.head_at_connect)
	{
		courier.failures = 0;
		say_well();
	}
}

static bool
wants_turn(void)
{
	return courier.connected && courier.sink.ops->wants_turn && courier.sink.ops->wants_turn(&courier.sink);
}

/* The sink's part of a turn. revents is what poll saw on its socket. */
static void
serve_sink(short revents)
{
	OrionSink  *sink = &courier.sink;
	const OrionSinkOps *ops = sink->ops;
	bool		good = true;

	if (!courier.connected)
	{
		if (sink->now >= courier.retry_at)
			try_connect();
		if (!courier.connected)
			return;
		revents = 0;			/* they were the old socket's */
	}
	if ((revents & (POLLIN | POLLERR | POLLHUP)) || wants_turn())
		good = ops->on_readable(sink);
	if (good && (revents & POLLOUT))
		good = ops->flush(sink);
	good = good && ops->tick(sink, sink->now) && ops->publish(sink);
	if (!good)
		lose_connection();
}

/* ---- the relay's frames ---- */

static void
refuse_config(const char *why)
{
	courier.broken = true;
	say_trouble(why);
}

/* {"sink": name, "kind": "redis", "config": {...}} */
static void
take_config(const char *string, size_t len)
{
	json_error_t error;
	const char *kind;
	json_t	   *settings;
	OrionSink  *sink = &courier.sink;

	courier.configured = true;
	courier.config = json_loadb(string, len, JSON_REJECT_DUPLICATES, &error);
	sink->name = json_string_value(json_object_get(courier.config, "sink"));
	kind = json_string_value(json_object_get(courier.config, "kind"));
	settings = json_object_get(courier.config, "config");
	sink->relay = json_object_get(courier.config, "relay");
	if (courier.config == NULL || sink->name == NULL || kind == NULL || !json_is_object(settings))
	{
		refuse_config("config: must be a JSON object with the keys \"sink\", \"kind\" and \"config\"");
		return;
	}
	if (strcmp(kind, "webhook") == 0)
	{
		courier.webhooks = settings;
		return;
	}
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
	{
		if (strcmp(kinds[i]->kind, kind) == 0)
			sink->ops = kinds[i];
	}
	if (sink->ops == NULL)
		refuse_config("config: unknown \"kind\"");
	else if (!sink->ops->configure(sink, settings))
		refuse_config(sink->why);
}

/* False: the relay cannot be understood. */
static bool
take_frame(OrionFrame *frame)
{
	const char *string;
	size_t		len;

	if (!courier.configured)
	{
		if (frame->type != ORION_FRAME_CONFIG || !orion_frame_get(frame, &string, &len))
			return false;
		take_config(string, len);
		explicit_bzero((char *) string, len);
		return true;
	}
	if (courier.sink.ops && courier.sink.ops->take)
		return courier.broken || courier.sink.ops->take(&courier.sink, frame);
	if (frame->type == ORION_FRAME_NOTED)
	{
		orion_sink_noted(&courier.sink, frame->id);
		return true;
	}
	if (frame->type != ORION_FRAME_EVENT)
		return false;
	return courier.broken || orion_queue_add(&courier.sink.queue, frame);
}

/*
 * With a full queue only the word that a refusal is stored is waited for.  The
 * relay keeps fewer bytes in flight than the queue takes, but for the event that
 * filled it, so nothing else comes then.
 */
static bool
wants_frames(void)
{
	return orion_queue_has_room(&courier.sink.queue) || courier.sink.refusals > 0;
}

/* Reads what there is, as long as there is room. False: leave. */
static bool
serve_relay(void)
{
	int			fills = 0;

	courier.held_back = false;
	while (wants_frames())
	{
		OrionFrame	frame;
		long		n = orion_frame_parse(courier.in.data + courier.in.start,
										  orion_buffer_len(&courier.in), FRAME_MAX, &frame);

		if (n < 0 || (n > 0 && !take_frame(&frame)))
		{
			fprintf(stderr, "orion-courier: the relay sent a frame that makes no sense\n");
			exit(EXIT_FAILURE);
		}
		if (n > 0)
		{
			orion_buffer_consume(&courier.in, n);
			if (courier.webhooks)
				return true;
			continue;
		}
		if (orion_buffer_len(&courier.in) == 0 && courier.in.cap > BUFFER_KEEP)
			orion_buffer_free(&courier.in);
		if (fills++ == FILLS_A_TURN)
			return true;
		n = orion_buffer_fill(&courier.in, RELAY_FD);
		if (n == 0 || n == -2)
			return false;
		if (n < 0)
			return true;
	}
	courier.held_back = true;
	return true;
}

/* ---- the loop ---- */

static int
turn_length(void)
{
	long		wait = TURN_MAX;

	if ((courier.held_back && wants_frames()) || wants_turn())
		wait = 0;
	else if (courier.configured && !courier.broken && !courier.connected)
		wait = courier.retry_at - now_ms();
	return wait < 0 ? 0 : wait > TURN_MAX ? TURN_MAX : (int) wait;
}

/* Waits for either socket; returns what happened on the sink's. */
static short
wait_for_either(void)
{
	struct pollfd fds[2] = {{.fd = RELAY_FD}, {.fd = -1}};
	bool		room = wants_frames();

	if (room)
		fds[0].events |= POLLIN;
	if (orion_buffer_len(&courier.out) > 0)
		fds[0].events |= POLLOUT;
	if (courier.connected)
	{
		const OrionSinkOps *ops = courier.sink.ops;

		fds[1].events = (ops->wants_read == NULL || ops->wants_read(&courier.sink) ? POLLIN : 0) |
			(ops->wants_write(&courier.sink) ? POLLOUT : 0);
		fds[1].fd = fds[1].events ? ops->fd(&courier.sink) : -1;
	}
	if (poll(fds, 2, turn_length()) <= 0)
		return 0;
	/* a full queue does not read, so end of file must show some other way */
	if (!room && (fds[0].revents & (POLLHUP | POLLERR)))
		exit(EXIT_SUCCESS);
	return fds[1].revents;
}

static void
run(void)
{
	short		revents = 0;

	for (;;)
	{
		courier.sink.now = now_ms();
		if (!serve_relay())
			return;
		if (courier.webhooks)
		{
			orion_webhook_run(courier.webhooks, &courier.in, &courier.out, RELAY_FD);
			return;
		}
		if (courier.configured && !courier.broken)
		{
			serve_sink(revents);
			if (courier.sink.gone_back)
				return;
			say_settled();
			if (courier.connected)
				judge_health();
		}
		if (!orion_buffer_flush(&courier.out, RELAY_FD))
			return;
		revents = wait_for_either();
	}
}

/* Secrets are in memory: no core files, no tracing by others of the same user. */
static void
harden(void)
{
	struct rlimit none = {0, 0};

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setrlimit(RLIMIT_CORE, &none);
#ifndef __SANITIZE_ADDRESS__	/* the leak checker traces */
	prctl(PR_SET_DUMPABLE, 0);
#endif
	signal(SIGPIPE, SIG_IGN);	/* the libraries write without MSG_NOSIGNAL */
}

int
main(int argc, char **argv)
{
	harden();
	if (argc == 2 && strcmp(argv[1], "--version") == 0)
	{
		printf("orion-courier (protocol %d)\n", ORION_PROTOCOL);
		return EXIT_SUCCESS;
	}
	courier.sink.out = &courier.out;
	orion_queue_init(&courier.sink.queue);
	run();
	return EXIT_SUCCESS;
}
