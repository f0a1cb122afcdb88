/*
 * telemetry.c
 *	  What operators see of requests: /metrics and the access log.
 *
 * /metrics needs what only Postgres knows (workers, lags), so the request waits
 * while the worker is asked over descriptor 3, and the other gateways, when there are
 * several, over their doors; after ASK_MS it is answered without
 * the parts that are missing.  The access log is a line of JSON a request.  It has the path, never
 * the query, bodies or headers, which may hold what is nobody's business.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "gateway/gateway.h"
#include "gateway/metrics.h"

#define MAX_ASKING	16
#define ASK_MS		1000
#define MAX_TEXT	(64u * 1024 * 1024) /* of another gateway's metrics */
#define LOG_BUFFER	65536		/* lines are written at the end of a turn, or
								 * when there is so much */

/* Another gateway. */
typedef struct Peer
{
	Source		source;			/* -1 in it: not asked, or it has answered */
	OrionBuffer in;
	OrionBuffer text;
} Peer;

static Request *asking[MAX_ASKING];
static int	nasking;
static int64_t asked_at;
static bool server_said;		/* the worker has answered */
static OrionBuffer server_text;
static Peer peers[ORION_GATEWAY_MAX_PROCESSES];
static int	log_fd = -1;
static OrionBuffer log_lines;
static uint64_t log_lost;		/* lines that could not be written */
static uint64_t body_bytes;
static uint64_t answer_bytes;

/* --- /metrics ---------------------------------------------------------------------- */

/* Only who connects to this machine's own addresses, and through no proxy. */
static bool
is_local(const Request *request)
{
	const char *address = request->client->address;

	return !request->proxied &&
		(address[0] == '\0' || strncmp(address, "127.", 4) == 0 || strcmp(address, "::1") == 0);
}

bool
orion_gateway_telemetry_serves(const Request *request)
{
	switch (orion_gateway.config.metrics)
	{
		case METRICS_OFF:
			return false;
		case METRICS_LOCAL:
			return is_local(request);
		case METRICS_ON:
			return true;
	}
	return false;
}

static void
gauge(OrionBuffer *out, const char *name, const char *help, uint64_t value)
{
	orion_metrics_type(out, name, "gauge", help);
	orion_metrics_add(out, "%s%s %" PRIu64 "\n", name, orion_metrics_alone(), value);
}

static void
counter(OrionBuffer *out, const char *name, const char *help, uint64_t value)
{
	orion_metrics_type(out, name, "counter", help);
	orion_metrics_add(out, "%s%s %" PRIu64 "\n", name, orion_metrics_alone(), value);
}

static void
add_memory(OrionBuffer *out)
{
	unsigned long size,
				resident;
	FILE	   *file = fopen("/proc/self/statm", "re");

	if (file && fscanf(file, "%lu %lu", &size, &resident) == 2)
		gauge(out, "orion_gateway_resident_memory_bytes", "Memory of orion-gateway.", (uint64_t) resident * sysconf(_SC_PAGESIZE));
	if (file)
		fclose(file);
}

static void
add_state(OrionBuffer *out)
{
	int			busy = orion_gateway_handoff_busy();

	orion_metrics_type(out, "orion_build_info", "gauge", "Version of Orion.");
	orion_metrics_add(out, "orion_build_info{%sversion=\"%s\"} 1\n", orion_metrics_label(), orion_gateway.config.version);
	gauge(out, "orion_http_connections", "Connections of clients.", orion_gateway.nclients);
	gauge(out, "orion_http_queue_length", "Requests that wait for an executor.", orion_gateway_handoff_waiting());
	gauge(out, "orion_http_requests_parked", "Requests that wait for a standby's replay.", orion_gateway_park_count());
	gauge(out, "orion_executors_connected", "Executors that serve this gateway.", orion_gateway.nexecutors);
	gauge(out, "orion_executors_busy", "Executors that run a request.", busy);
	counter(out, "orion_http_connections_total", "Connections accepted.", orion_gateway.total_clients);
	counter(out, "orion_http_request_body_bytes_total", "Bytes of request bodies.", body_bytes);
	counter(out, "orion_http_response_body_bytes_total", "Bytes of answers' bodies.", answer_bytes);
	counter(out, "orion_access_log_lines_lost_total", "Lines of the access log that could not be written.", log_lost);
	add_memory(out);
}

/* This process' part. */
void
orion_gateway_telemetry_add_own(OrionBuffer *out)
{
	add_state(out);
	orion_metrics_requests(out);
}

static struct MHD_Response *
make_answer(void)
{
	OrionBuffer texts[ORION_GATEWAY_MAX_PROCESSES] = {{0}};
	OrionBuffer out = {0};
	struct MHD_Response *response = NULL;
	int			n = 1;

	orion_gateway_telemetry_add_own(&texts[0]);
	for (int i = 0; i < ORION_GATEWAY_MAX_PROCESSES; i++)
	{
		if (peers[i].text.end > 0)
			texts[n++] = peers[i].text;
	}
	orion_metrics_merge(&out, texts, n);
	orion_metrics_type(&out, "orion_server_answers", "gauge", "1 when the PostgreSQL server gave its part of these figures.");
	orion_metrics_add(&out, "orion_server_answers %d\n", server_said);
	if (orion_buffer_reserve(&out, server_text.end))
	{
		memcpy(out.data + out.end, server_text.data, server_text.end);
		out.end += server_text.end;
	}
	if (!out.failed && !texts[0].failed)
		response = MHD_create_response_from_buffer(out.end, out.data, MHD_RESPMEM_MUST_COPY);
	orion_buffer_free(&out);
	orion_buffer_free(&texts[0]);
	if (response)
		MHD_add_response_header(response, "Content-Type", "text/plain; version=0.0.4; charset=utf-8");
	return response;
}

static void
hang_up(Peer *peer)
{
	if (peer->source.fd >= 0)
		close(peer->source.fd);
	peer->source.fd = -1;
	orion_buffer_free(&peer->in);
}

static void
ask_peer(Peer *peer, int process)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	OrionBuffer frame = {0};

	orion_buffer_free(&peer->text);
	peer->source = (Source)
	{
		SOURCE_PEER, -1
	};
	if (process == orion_gateway.config.process || process >= orion_gateway.config.processes)
		return;
	orion_gateway_path(process, ".sock", addr.sun_path, sizeof(addr.sun_path));
	orion_frame_begin(&frame, ORION_FRAME_ASK, 0);
	orion_frame_end(&frame);
	peer->source.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (peer->source.fd < 0 || connect(peer->source.fd, (struct sockaddr *) &addr, sizeof(addr)) < 0 ||
		!orion_buffer_flush(&frame, peer->source.fd) || !orion_gateway_watch(&peer->source, EPOLLIN))
		hang_up(peer);
	orion_buffer_free(&frame);
}

/* Answers all who ask, with what is there. */
static void
answer_all(void)
{
	for (int i = 0; i < ORION_GATEWAY_MAX_PROCESSES; i++)
		hang_up(&peers[i]);
	while (nasking > 0)
	{
		Request    *request = asking[--nasking];
		struct MHD_Response *response = make_answer();

		if (response)
			orion_gateway_server_add_own_headers(response, request->request_id);
		orion_gateway_server_answer(request, 200, response);
	}
}

static void
answer_when_whole(void)
{
	for (int i = 0; i < ORION_GATEWAY_MAX_PROCESSES; i++)
	{
		if (peers[i].source.fd >= 0)
			return;
	}
	if (server_said)
		answer_all();
}

/* Takes over a request whose connection is suspended. False: there are too many. */
bool
orion_gateway_telemetry_ask(Request *request)
{
	if (nasking == MAX_ASKING)
		return false;
	if (nasking == 0)
	{
		asked_at = orion_gateway.now;
		server_said = false;
		orion_buffer_free(&server_text);
		for (int i = 0; i < ORION_GATEWAY_MAX_PROCESSES; i++)
			ask_peer(&peers[i], i);
		orion_gateway_ask_parent(ORION_FRAME_ASK);
	}
	asking[nasking++] = request;
	return true;
}

/* The client has gone. */
void
orion_gateway_telemetry_forget(Request *request)
{
	for (int i = 0; i < nasking; i++)
	{
		if (asking[i] == request)
			asking[i--] = asking[--nasking];
	}
}

/* The worker's answer. */
void
orion_gateway_telemetry_answer(const char *server, size_t len)
{
	server_said = true;
	orion_buffer_free(&server_text);
	if (orion_buffer_reserve(&server_text, len))
	{
		memcpy(server_text.data, server, len);
		server_text.end = len;
	}
	answer_when_whole();
}

/* Another gateway's answer, or its end. */
void
orion_gateway_telemetry_peer(Source *source)
{
	Peer	   *peer = (Peer *) source;
	OrionFrame	frame;
	const char *text;
	size_t		len;
	long		n;
	long		size;

	if (source->fd < 0)
		return;					/* given up in this turn */
	n = orion_buffer_fill(&peer->in, source->fd);
	size = orion_frame_parse(peer->in.data + peer->in.start, orion_buffer_len(&peer->in), MAX_TEXT, &frame);
	if (size == 0 && (n > 0 || n == -1))
		return;					/* there is more to come */
	if (size > 0 && frame.type == ORION_FRAME_METRICS && orion_frame_get(&frame, &text, &len) &&
		orion_buffer_reserve(&peer->text, len))
	{
		memcpy(peer->text.data, text, len);
		peer->text.end = len;
	}
	hang_up(peer);
	answer_when_whole();
}

void
orion_gateway_telemetry_expire(void)
{
	if (nasking > 0 && orion_gateway.now - asked_at >= ASK_MS)
		answer_all();
}

/* --- the access log ------------------------------------------------------------------ */

/* Opens it anew, so that a file that was moved away is let go. False with a text. */
bool
orion_gateway_telemetry_open(const GatewayConfig *config, char *why, size_t size)
{
	int			fd = -1;

	if (strcmp(config->access_log, "stderr") == 0)
		fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
	else if (config->access_log[0])
		fd = open(config->access_log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 && config->access_log[0])
	{
		snprintf(why, size, "could not open access log \"%s\": %s", config->access_log, strerror(errno));
		return false;
	}
	orion_gateway_telemetry_flush();
	if (log_fd >= 0)
		close(log_fd);
	log_fd = fd;
	return true;
}

/* A full disk costs lines and nothing else; the first that fits again begins anew. */
void
orion_gateway_telemetry_flush(void)
{
	static bool torn;			/* the last line written is not whole */
	size_t		len = orion_buffer_len(&log_lines);
	ssize_t		n = -1;

	if (len == 0)
		return;
	if (log_fd >= 0 && torn)
		torn = write(log_fd, "\n", 1) != 1;
	if (log_fd >= 0 && !torn)
		n = write(log_fd, log_lines.data + log_lines.start, len);
	if (n != (ssize_t) len)
		log_lost++;
	torn |= n > 0 && n < (ssize_t) len;
	orion_buffer_consume(&log_lines, len);
}

static void
put(const char *bytes, size_t len)
{
	if (!orion_buffer_reserve(&log_lines, len))
		return;
	memcpy(log_lines.data + log_lines.end, bytes, len);
	log_lines.end += len;
}

/* As JSON; bytes beyond ASCII, which may be no UTF-8, percent-encoded as in a path. */
static void
add_text(const char *name, const char *text, size_t len)
{
	size_t		plain = 0;

	orion_metrics_add(&log_lines, ",\"%s\":\"", name);
	for (size_t i = 0; i < len; i++)
	{
		unsigned char c = text[i];

		if (c >= 0x20 && c < 0x7F && c != '"' && c != '\\')
			continue;
		put(text +plain, i - plain);
		plain = i + 1;
		if (c == '"' || c == '\\')
			orion_metrics_add(&log_lines, "\\%c", c);
		else
			orion_metrics_add(&log_lines, "%%%02X", c);
	}
	put(text +plain, len - plain);
	put("\"", 1);
}

static void
add_time(void)
{
	struct timespec ts;
	struct tm	tm;
	char text[	32];

	clock_gettime(CLOCK_REALTIME, &ts);
	gmtime_r(&ts.tv_sec, &tm);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
	orion_metrics_add(&log_lines, "{\"time\":\"%s.%03ldZ\"", text, ts.tv_nsec / 1000000);
}

static void
log_request(const Request *request, int64_t us)
{
	add_time();
	add_text("requestId", request->request_id, strlen(request->request_id));
	add_text("peer", request->peer, strlen(request->peer));
	add_text("method", request->method, strlen(request->method));
	add_text("path", request->target, strcspn(request->target, "?"));
	orion_metrics_add(&log_lines, ",\"status\":%u", request->status);
	if (request->role[0])
		add_text("role", request->role, strlen(request->role));
	orion_metrics_add(&log_lines, ",\"bodyBytes\":%" PRIu64 ",\"answerBytes\":%" PRIu64 ",\"durationMs\":%" PRId64 ".%03" PRId64 "}\n",
					  request->body_len, request->answer_len, us / 1000, us % 1000);
	if (orion_buffer_len(&log_lines) >= LOG_BUFFER)
		orion_gateway_telemetry_flush();
}

/* A request is through: its answer was sent, or the client has gone (status 499). */
void
orion_gateway_telemetry_observe(Request *request)
{
	int64_t		us = orion_gateway.now_us - request->since_us;
	const char *route = request->route[0] ? request->route : "other";

	if (request->status == 0)
		request->status = 499;
	body_bytes += request->body_len;
	answer_bytes += request->answer_len;
	orion_metrics_count(route, strlen(route), request->method, request->status, us);
	if (log_fd >= 0)
		log_request(request, us);
}
