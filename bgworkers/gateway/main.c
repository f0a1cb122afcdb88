/*
 * main.c
 *	  orion-gateway: serves HTTP clients and hands their requests to executors.
 *
 * A program without Postgres memory, started by the gateway worker with the
 * server's data directory as its working directory.  One thread, one epoll; a
 * turn looks at all events, then runs the HTTP servers.  Its parent sends settings,
 * at the start and when they change; end of file on descriptor 3 asks it to leave.
 * When it cannot serve it ends with code 1, after telling why on standard error
 * and to the parent; settings that cannot be had later leave it as it is.  It decides nobody's identity:
 * the executors do.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "gateway/gateway.h"

#define PARENT_FD	3
#define MAX_EVENTS	256
#define MAX_CONFIG	(1024 * 1024)	/* settings, or metrics */
#define SWEEP_MS	250			/* how late a deadline may be noticed */
#define WAKE_MS		1			/* how long a request waits for those awake */
#define LEAVE_MS	2000		/* for requests underway when the worker says
								 * so; it waits a little longer */
#define LEAVE_POLL_MS 20
#define OTHER_FDS	256			/* executors, listeners and the like */

Gateway		orion_gateway;

static OrionBuffer parent_in;
static volatile sig_atomic_t told_to_leave;

static void
leave_soon(int signum)
{
	told_to_leave = 1;
}

void
orion_gateway_complain(const char *fmt,...)
{
	char		line[512];
	va_list		args;

	va_start(args, fmt);
	vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	fprintf(stderr, "orion-gateway: %s\n", line);
}

static void
tell_parent(OrionFrameType type, const char *text)
{
	OrionBuffer out = {0};

	orion_frame_begin(&out, type, 0);
	orion_frame_put_str(&out, text);
	orion_frame_end(&out);
	orion_buffer_flush(&out, PARENT_FD);
	orion_buffer_free(&out);
}

void
orion_gateway_ask_parent(OrionFrameType type)
{
	tell_parent(type, "");
}

static void
__attribute__((noreturn))
give_up(const char *why)
{
	orion_gateway_complain("%s", why);
	tell_parent(ORION_FRAME_TROUBLE, why);
	exit(1);
}

static void
read_clock(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	orion_gateway.now = (int64_t) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
	orion_gateway.now_us = (int64_t) ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

bool
orion_gateway_watch(Source *source, uint32_t events)
{
	struct epoll_event event = {.events = events,.data.ptr = source};

	return epoll_ctl(orion_gateway.epoll, EPOLL_CTL_ADD, source->fd, &event) == 0;
}

/* Each connection needs a descriptor. */
static void
raise_limits(GatewayConfig *config)
{
	struct rlimit limit;
	rlim_t		need = config->max_connections + OTHER_FDS;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= need)
		return;
	limit.rlim_cur = need < limit.rlim_max ? need : limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_cur < need)
	{
		config->max_connections = limit.rlim_cur > 2 * OTHER_FDS ? limit.rlim_cur - OTHER_FDS : limit.rlim_cur / 2;
		orion_gateway_complain("connections are limited to %d by the limit of open files", config->max_connections);
	}
}

/* The settings of a CONFIG frame take effect, or all stays as it is: false, with a text. */
static bool
take_config(OrionFrame *frame, char *why, size_t size)
{
	GatewayConfig config = {0};
	const char *json;
	size_t		len;

	snprintf(why, size, "the configuration is not understood");
	if (frame->type != ORION_FRAME_CONFIG || !orion_frame_get(frame, &json, &len) ||
		!orion_gateway_config_parse(json, len, &config, why, size))
		return false;
	raise_limits(&config);
	if (!orion_gateway_listen(&config, why, size))
		return false;
	if (!orion_gateway_telemetry_open(&config, why, size) || !orion_gateway_servers_start(&config, why, size))
	{
		char		again[512];

		orion_gateway_listen(&orion_gateway.config, again, sizeof(again));
		return false;
	}
	orion_gateway.queue.max = config.queue_size;
	orion_gateway.config = config;
	orion_metrics_set_process(config.process, config.processes);
	return true;
}

static void
read_first_config(char *why, size_t size)
{
	struct pollfd pfd = {.fd = PARENT_FD,.events = POLLIN};
	OrionFrame	frame;
	long		n;

	while ((n = orion_frame_parse(parent_in.data, parent_in.end, MAX_CONFIG, &frame)) == 0)
	{
		if (poll(&pfd, 1, -1) < 0 && errno != EINTR)
			exit(1);
		n = orion_buffer_fill(&parent_in, PARENT_FD);
		if (n == 0 || n == -2)
			exit(0);			/* the parent has gone, or is no socket */
	}
	if (n < 0)
		give_up("the configuration is not understood");
	if (!take_config(&frame, why, size))
		give_up(why);
	orion_buffer_consume(&parent_in, n);
}

static void
start(void)
{
	char		why[512] = "";

	signal(SIGPIPE, SIG_IGN);
	/* the postmaster signals its children's whole process groups */
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, leave_soon);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_DUMPABLE, 0);	/* requests hold passwords and tokens */
	read_clock();
	orion_gateway.epoll = epoll_create1(EPOLL_CLOEXEC);
	orion_gateway.parent = (Source)
	{
		SOURCE_PARENT, PARENT_FD
	};
	if (orion_gateway.epoll < 0)
		give_up("could not create an epoll");
	read_first_config(why, sizeof(why));
	if (!orion_gateway_open_door(why, sizeof(why)))
		give_up(why);
	if (!orion_gateway_addresses_start())
		give_up("could not count connections");
	if (!orion_gateway_handoff_start())
		give_up("could not create the memory shared with executors");
	if (!orion_gateway_watch(&orion_gateway.parent, EPOLLIN | EPOLLRDHUP) ||
		!orion_gateway_watch(&orion_gateway.door, EPOLLIN) || !orion_gateway_server_init())
		give_up("could not start the HTTP server");
	tell_parent(ORION_FRAME_READY, "");
}

/* Nobody new is let in; who has asked for something gets LEAVE_MS. */
static void
leave(void)
{
	if (orion_gateway.leave_at)
		return;
	orion_gateway.leave_at = orion_gateway.now + LEAVE_MS;
	epoll_ctl(orion_gateway.epoll, EPOLL_CTL_DEL, PARENT_FD, NULL);
	orion_gateway_listen_end();
	orion_gateway_server_hang_up_idle();
	orion_gateway.run_http = true;
}

static void
take_replayed(OrionFrame *frame)
{
	uint64_t	timeline;
	uint64_t	lsn;

	if (orion_frame_get_u64(frame, &timeline) && orion_frame_get_u64(frame, &lsn) &&
		!orion_gateway_park_replayed(timeline, lsn))
		orion_gateway_ask_parent(ORION_FRAME_ENOUGH);
}

static void
take_frame(OrionFrame *frame)
{
	char		why[512];
	const char *text;
	size_t		len;

	if (frame->type == ORION_FRAME_METRICS && orion_frame_get(frame, &text, &len))
		orion_gateway_telemetry_answer(text, len);
	else if (frame->type == ORION_FRAME_REPLAYED)
		take_replayed(frame);
	else if (take_config(frame, why, sizeof(why)))
		tell_parent(ORION_FRAME_READY, "");
	else
	{
		orion_gateway_complain("%s", why);
		tell_parent(ORION_FRAME_TROUBLE, why);
	}
}

/* The worker says new settings or metrics; end of file is its wish that we leave. */
static void
parent_event(void)
{
	long		n = orion_buffer_fill(&parent_in, PARENT_FD);
	OrionFrame	frame;
	long		size;

	while ((size = orion_frame_parse(parent_in.data + parent_in.start, orion_buffer_len(&parent_in), MAX_CONFIG, &frame)) > 0)
	{
		take_frame(&frame);
		orion_buffer_consume(&parent_in, size);
	}
	if (n == 0 || n == -2 || size < 0)
		leave();
}

static void
dispatch(Source *source, uint32_t events)
{
	switch (source->kind)
	{
		case SOURCE_PARENT:
			parent_event();
			break;
		case SOURCE_HTTP:
			((Server *) source)->run = orion_gateway.run_http = true;
			break;
		case SOURCE_LISTENER:
			orion_gateway_listen_accept((Listener *) source);
			break;
		case SOURCE_DOOR:
			orion_gateway_handoff_accept();
			break;
		case SOURCE_BELL:
			break;				/* answers are looked for in each turn */
		case SOURCE_EXECUTOR:
			orion_gateway_handoff_event((Executor *) source, events);
			break;
		case SOURCE_PEER:
			orion_gateway_telemetry_peer(source);
			break;
		case SOURCE_CLIENT:
			orion_gateway_server_client_event((Client *) source, events);
			break;
	}
}

/* Milliseconds until something is due; -1 when nothing is. */
static int
time_left(void)
{
	int			left;

	if (orion_gateway.run_http)
		return 0;
	if (orion_gateway.wake_due)
		return WAKE_MS;
	left = orion_gateway_servers_timeout(SWEEP_MS);
	if (orion_gateway.leave_at)
		return left < LEAVE_POLL_MS ? left : LEAVE_POLL_MS;
	return left < SWEEP_MS || orion_gateway.nclients > 0 ? left : -1;
}

/* Executors ring only while the gateway says that it sleeps. */
static int
wait_for_events(struct epoll_event *events)
{
	int			timeout = time_left();
	int			n;

	if (timeout != 0)
	{
		orion_ring_gateway_sleep(orion_gateway.ring, true);
		if (orion_gateway_handoff_has_answers())
			timeout = 0;
	}
	n = epoll_wait(orion_gateway.epoll, events, MAX_EVENTS, timeout);
	orion_ring_gateway_sleep(orion_gateway.ring, false);
	return n;
}

static void
turn(void)
{
	struct epoll_event events[MAX_EVENTS];
	int			n = wait_for_events(events);
	static int64_t swept;

	if (n < 0 && errno != EINTR)
		give_up("could not wait for events");
	read_clock();
	for (int i = 0; i < n; i++)
		dispatch(events[i].data.ptr, events[i].events);
	orion_gateway_handoff_collect();
	if (orion_gateway.now - swept >= SWEEP_MS)
	{
		swept = orion_gateway.now;
		orion_gateway_park_expire();
		orion_gateway_handoff_expire();
		orion_gateway_telemetry_expire();
		orion_gateway_server_sweep();
	}
	if (orion_gateway.run_http)
		orion_gateway_servers_run();
	orion_gateway_library_look_again();
	orion_gateway_telemetry_flush();
	orion_gateway_handoff_wake();
	orion_gateway_handoff_bury();
	if (told_to_leave)
		leave();
	if (orion_gateway.leave_at && (orion_gateway.nclients == 0 || orion_gateway.now >= orion_gateway.leave_at))
		exit(0);
}

int
main(void)
{
	start();
	for (;;)
		turn();
}
