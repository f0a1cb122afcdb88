/*
 * server.c
 *	  The HTTP side: clients, their requests, and the limits put on them.
 *
 * libmicrohttpd reads and writes; it is run from the gateway's own loop.  Facts
 * about 0.9 (0.9.75 was read) that the code leans on: the target is only seen whole by the URI
 * callback; method, target, version and headers lie one behind the other in its
 * read buffer with their separators overwritten by NUL, so any other distance
 * between them means a NUL, a folded line or a bare line feed, which it does not
 * report; an answer queued before the body is read closes the connection; a
 * suspended connection is left alone, so that a client's hanging up meanwhile is
 * seen by an epoll entry of ours.
 *
 * A slow client keeps its connection no longer than idle_timeout from the end of
 * the last answer to the end of its headers; a body must come at MIN_RATE.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "codec/origin.h"
#include "gateway/gateway.h"
#include "gateway/stream.h"

#define LIBRARY_IS_STRICT	(MHD_VERSION >= 0x01000000) /* see daemon.c */
#define MIN_RATE		16		/* bytes of a body per millisecond; a modem's
								 * 128 kbit/s */
#define HALF_CLOSED_MS	1000	/* how long one who sent FIN may wait for an
								 * answer */
#define IDLE_MS			1000	/* then a connection's memory is given back */
#define IDLE_BATCH		1000	/* and of no more at a time */
#define KEEP_REQUESTS	256		/* free requests kept for reuse */
#define KEEP_FRAME		65536	/* bytes of frame buffer kept with them */
#define BODY_MEMORY		(256u * 1024 * 1024)	/* of all bodies held, or four
												 * of the largest allowed */
#define ANSWER_MEMORY	(256u * 1024 * 1024)	/* of all large answers held,
												 * or one of any size */
#define LARGE_ANSWER	65536
#define MAX_METHOD		32		/* of a method that is none of HTTP's */

static Request *free_requests;
static int	nfree;
static uint64_t held;			/* bytes of bodies in memory */
static uint64_t answers_held;	/* and of large answers */
static uint64_t last_id;
static char id_prefix[18];		/* of request ids: 16 digits and a dash */
static struct MHD_Response *health;
static struct MHD_Response *ready;

/* --- requests -------------------------------------------------------------- */

static Request *
request_new(void)
{
	Request    *request = free_requests;
	OrionBuffer frame = {0};

	if (request)
	{
		free_requests = request->next_free;
		nfree--;
		frame = request->frame;
		frame.start = frame.end = 0;
	}
	else if ((request = malloc(sizeof(*request))) == NULL)
		return NULL;
	memset(request, 0, offsetof(Request, short_target));	/* next_free is set when
															 * freed */
	request->target = request->short_target;
	request->target[0] = '\0';
	request->frame = frame;
	request->id = ++last_id;
	request->slot = -1;
	return request;
}

static void
request_free(Request *request)
{
	held -= request->held;
	answers_held -= request->answer_held;
	if (request->target != request->short_target)
		free(request->target);
	if (request->frame.cap > KEEP_FRAME || request->frame.failed)
		orion_buffer_free(&request->frame);
	if (nfree >= KEEP_REQUESTS)
	{
		orion_buffer_free(&request->frame);
		free(request);
		return;
	}
	request->next_free = free_requests;
	free_requests = request;
	nfree++;
}

/* --- clients ----------------------------------------------------------------- */

static void
client_leave(Client *client)
{
	if (client->list == NULL)
		return;
	if (client->prev)
		client->prev->next = client->next;
	else
		client->list->first = client->next;
	if (client->next)
		client->next->prev = client->prev;
	else
		client->list->last = client->prev;
	client->list = NULL;
}

static void
client_enter(Client *client, ClientList *list)
{
	client_leave(client);
	client->list = list;
	client->since = orion_gateway.now;
	client->next = NULL;
	client->prev = list->last;
	if (client->prev)
		client->prev->next = client;
	else
		list->first = client;
	list->last = client;
}

void
orion_gateway_server_resume(Client *client)
{
	orion_gateway_library_resume(client->connection, client->source.fd);
	client->server->run = orion_gateway.run_http = true;
}

static bool
is_underway(const Request *request)
{
	return request && (request->state == REQUEST_QUEUED || request->state == REQUEST_OUT ||
					   request->state == REQUEST_ASKING || request->state == REQUEST_PARKED);
}

static void
suspend(Request *request)
{
	orion_gateway_library_suspend(request->connection, request->client->source.fd);
}

/* Gives up a request that waits or is out, and with it the connection. */
static void
abort_request(Request *request)
{
	orion_gateway_handoff_cancel(request);
	orion_gateway_telemetry_forget(request);
	client_leave(request->client);
	request->state = REQUEST_ABORTED;
	orion_gateway_server_resume(request->client);
}

/* A body that came at the least rate since the last look may go on. */
static bool
makes_progress(Client *client)
{
	Request    *request = client->request;
	uint64_t	before = client->seen;

	if (request == NULL || request->state != REQUEST_READING)
		return false;
	client->seen = request->body_len;
	return request->body_len - before >= (uint64_t) (orion_gateway.now - client->since) * MIN_RATE;
}

/* Those who have taken as long as they may. */
static void
hang_up_slow(ClientList *list)
{
	Client	   *client;

	while ((client = list->first) != NULL &&
		   orion_gateway.now - client->since >= orion_gateway.config.idle_timeout)
	{
		if (makes_progress(client))
			client_enter(client, &orion_gateway.reading);
		else
		{
			client_leave(client);
			shutdown(client->source.fd, SHUT_RDWR);
		}
	}
}

/* Most of those who have asked for nothing for a while will go on so. */
static void
trim_idle(void)
{
	Client	   *client;

	for (int i = 0; i < IDLE_BATCH && (client = orion_gateway.reading.first) != NULL &&
		 orion_gateway.now - client->since >= IDLE_MS; i++)
	{
		int64_t		since = client->since;

		client_enter(client, &orion_gateway.idle);
		client->since = since;
		orion_gateway_memory_trim(client->pool, client->request == NULL);
	}
}

/* Hangs up on slow clients and gives up for those who left. */
void
orion_gateway_server_sweep(void)
{
	Client	   *client;

	hang_up_slow(&orion_gateway.idle);
	hang_up_slow(&orion_gateway.reading);
	trim_idle();
	while ((client = orion_gateway.leaving.first) != NULL &&
		   orion_gateway.now - client->since >= HALF_CLOSED_MS)
		abort_request(client->request);
	orion_gateway_stream_sweep();
}

/*
 * A client hung up.  One that only closed its sending side may still want the
 * answer: whether it does cannot be seen, so it gets HALF_CLOSED_MS.
 */
void
orion_gateway_server_client_event(Client *client, uint32_t events)
{
	client->half_closed = true;
	orion_gateway_library_ended(client->source.fd);
	if (client->request && client->request->stream && (events & (EPOLLHUP | EPOLLERR)))
		orion_gateway_stream_abandon(client->request->stream);
	if (!is_underway(client->request))
		return;
	if (events & (EPOLLHUP | EPOLLERR))
		abort_request(client->request);
	else if (client->list != &orion_gateway.leaving)
		client_enter(client, &orion_gateway.leaving);
}

static Client *
client_of(struct MHD_Connection *connection)
{
	return MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
}

/* Of a Unix socket: the empty text. */
static void
format_address(const struct sockaddr *sa, char *out, size_t size)
{
	const void *addr = sa->sa_family == AF_INET6
	? (const void *) &((const struct sockaddr_in6 *) sa)->sin6_addr
	: (const void *) &((const struct sockaddr_in *) sa)->sin_addr;

	if (sa->sa_family == AF_UNIX || inet_ntop(sa->sa_family, addr, out, size) == NULL)
		out[0] = '\0';
}

/* False when its address has more connections than it may. */
static bool
count_address(Client *client, const struct sockaddr *sa)
{
	int			limit = orion_gateway.config.max_connections_per_address;

	if (limit == 0 || sa->sa_family == AF_UNIX)
		return true;
	client->is_counted = true;
	client->counted = orion_gateway_address_of(sa);
	return orion_gateway_addresses_enter(&client->counted) <= (uint32_t) limit;
}

static void
connection_started(Server *server, struct MHD_Connection *connection, void **context)
{
	Client	   *client = calloc(1, sizeof(*client));
	const struct sockaddr *sa = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS)->client_addr;

	*context = client;
	if (client == NULL)
		return;					/* its requests get no answer */
	client->source.kind = SOURCE_CLIENT;
	client->source.fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
	format_address(sa, client->address, sizeof(client->address));
	client->trusted = orion_proxy_trusts(&orion_gateway.config.trusted_proxies, client->address);
	orion_gateway_library_start(client->source.fd, server->tls);
	client->connection = connection;
	client->pool = orion_gateway_memory_take();
	client->server = server;
	orion_gateway_watch(&client->source, EPOLLRDHUP | EPOLLET);
	client_enter(client, &orion_gateway.reading);
	server->nclients++;
	orion_gateway.nclients++;
	orion_gateway.total_clients++;
	if (!count_address(client, sa))
		shutdown(client->source.fd, SHUT_RDWR);
}

static void
connection_closed(void **context)
{
	Client	   *client = *context;

	if (client == NULL)
		return;
	client_leave(client);
	orion_gateway_library_start(client->source.fd, false);	/* for the next one */
	epoll_ctl(orion_gateway.epoll, EPOLL_CTL_DEL, client->source.fd, NULL);
	client->server->nclients--;
	if (client->is_counted)
		orion_gateway_addresses_leave(&client->counted);
	free(client);
	orion_gateway.nclients--;
	orion_gateway_listen_watch(true);
}

void
orion_gateway_server_connection(void *cls, struct MHD_Connection *connection, void **context,
								enum MHD_ConnectionNotificationCode code)
{
	if (code == MHD_CONNECTION_NOTIFY_STARTED)
		connection_started(cls, connection, context);
	else
		connection_closed(context);
}

/* The gateway leaves: clients that have asked for nothing are let go. */
void
orion_gateway_server_hang_up_idle(void)
{
	ClientList	lists[] = {orion_gateway.idle, orion_gateway.reading};

	for (int i = 0; i < 2; i++)
	{
		for (Client *client = lists[i].first; client; client = client->next)
		{
			if (client->request == NULL)
				shutdown(client->source.fd, SHUT_RDWR);
		}
	}
}

/* --- answers ----------------------------------------------------------------- */

void
orion_gateway_server_add_own_headers(struct MHD_Response *response, const char *request_id)
{
	MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
	if (request_id && request_id[0])
		MHD_add_response_header(response, "X-Request-Id", request_id);
}

/* Without this a browser keeps the status from its page, which sees no more than that the network failed. */
static void
put_origin(const Request *request, struct MHD_Response *response)
{
	const char *origin = MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND, "Origin");
	const char *allowed = orion_gateway.config.cors_origins;

	if (allowed[0])
		MHD_add_response_header(response, "Vary", "Origin");
	if (origin == NULL || (allowed[0] && !orion_origin_listed(allowed, origin)))
		return;
	MHD_add_response_header(response, "Access-Control-Allow-Origin", allowed[0] ? origin : "*");
	if (allowed[0])
		MHD_add_response_header(response, "Access-Control-Allow-Credentials", "true");
	MHD_add_response_header(response, "Access-Control-Expose-Headers", "Retry-After");
}

static struct MHD_Response *
make_error(const Request *request, const OrionHttpError *error)
{
	char		body[1024];
	int			len = orion_http_error_body(error, NULL, body, sizeof(body));
	struct MHD_Response *response = MHD_create_response_from_buffer(len, body, MHD_RESPMEM_MUST_COPY);

	if (response == NULL)
		return NULL;
	MHD_add_response_header(response, "Content-Type", "application/json; charset=utf-8");
	if (error->status == 503)
		MHD_add_response_header(response, "Retry-After", "1");
	if (error->status == 405)
		MHD_add_response_header(response, "Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
	put_origin(request, response);
	orion_gateway_server_add_own_headers(response, request->request_id);
	return response;
}

/* The answer of a request that was underway; takes over the response. */
void
orion_gateway_server_answer(Request *request, unsigned int status, struct MHD_Response *response)
{
	client_leave(request->client);
	request->response = response;
	request->status = status;
	request->state = response ? REQUEST_ANSWERED : REQUEST_ABORTED;
	orion_gateway_server_resume(request->client);
}

/* An answer stays in memory until its client has taken it, however slowly. */
bool
orion_gateway_server_has_room(Request *request, size_t answer_len)
{
	if (answer_len <= LARGE_ANSWER)
		return true;
	if (answers_held > 0 && answers_held + answer_len > ANSWER_MEMORY / orion_gateway.config.processes)
		return false;
	request->answer_held = answer_len;
	answers_held += answer_len;
	return true;
}

void
orion_gateway_server_refuse(Request *request, const OrionHttpError *error)
{
	orion_gateway_server_answer(request, error->status, make_error(request, error));
}

static enum MHD_Result
reply(Request *request, unsigned int status, struct MHD_Response *response)
{
	enum MHD_Result result;

	if (response == NULL)
		return MHD_NO;
	if (request->close || request->client->server->retired || orion_gateway.leave_at)
		MHD_add_response_header(response, "Connection", "close");
	request->status = status;
	request->state = REQUEST_ANSWERED;
	result = orion_gateway_library_queue(request->connection, status, response);
	MHD_destroy_response(response);
	return result;
}

static enum MHD_Result
reply_error(Request *request, const OrionHttpError *error)
{
	return reply(request, error->status, make_error(request, error));
}

/* --- requests as they are read ------------------------------------------------ */

/*
 * Makes one parameter of the query, in the library's own buffer: it would take
 * memory for each of them, and a target of a few kilobytes could exhaust that.
 * Nobody asks the library for parameters.
 */
static void
join_parameters(const char *target)
{
	for (char *c = strchr((char *) target, '?'); c && *c; c++)
	{
		if (*c == '&')
			*c = '.';
	}
}

/* One that is longer than all headers may be is refused, and not kept. */
static bool
keep_target(Request *request, const char *uri)
{
	request->target_len = strlen(uri);
	if (request->target_len > orion_gateway.config.max_header)
		return true;
	if (request->target_len > ORION_HTTP_SHORT_TARGET)
	{
		char	   *target = malloc(request->target_len + 1);

		if (target == NULL)
			return false;
		request->target = target;
	}
	memcpy(request->target, uri, request->target_len + 1);
	return true;
}

void *
orion_gateway_server_target_seen(void *cls, const char *uri, struct MHD_Connection *connection)
{
	Client	   *client = client_of(connection);
	Request    *request = client ? request_new() : NULL;

	if (request == NULL)
		return NULL;
	if (uri && !keep_target(request, uri))
	{
		request_free(request);
		return NULL;
	}
	orion_gateway_memory_begin(client->pool);
	request->connection = connection;
	request->client = client;
	request->since_us = orion_gateway.now_us;
	client->request = request;
	client->seen = 0;
	if (uri)
		join_parameters(uri);
	return request;
}

void
orion_gateway_server_completed(void *cls, struct MHD_Connection *connection, void **context,
							   enum MHD_RequestTerminationCode code)
{
	Request    *request = *context;

	*context = NULL;
	if (request == NULL)
		return;
	if (request->stream)
		request->stream->request = NULL;
	if (is_underway(request))
		orion_gateway_handoff_cancel(request);	/* only when the daemon is
												 * stopped */
	orion_gateway_telemetry_forget(request);
	if (request->state == REQUEST_ANSWERED && request->response)
		MHD_destroy_response(request->response);
	orion_gateway_telemetry_observe(request);
	orion_gateway_library_end_request(request->client->source.fd);
	request->client->request = NULL;
	client_enter(request->client, &orion_gateway.reading);
	request_free(request);
}

typedef struct HeadScan
{
	OrionHttpHead head;
	bool		gap;			/* bytes between headers that the library hid */
	size_t		size;			/* of all headers, as on the wire */
	const char *end;			/* of the last value */
	bool		trusted;		/* from a proxy that is believed */
	bool		proxied;		/* through one, believed or not */
	size_t		forwarded_len;
} HeadScan;

/* X-Forwarded-For, its lines joined: RFC 9110 section 5.3 */
static char forwarded[2048];

static void
note_forwarded(HeadScan *scan, const char *value, size_t len)
{
	if (scan->forwarded_len + len + 1 > sizeof(forwarded))
		len = 0;				/* nonsense; an empty item makes it so */
	if (scan->forwarded_len > 0)
		forwarded[scan->forwarded_len++] = ',';
	memcpy(forwarded + scan->forwarded_len, value, len);
	scan->forwarded_len += len;
}

static bool
only_blanks(const char *from, const char *to)
{
	for (; from < to; from++)
	{
		if (*from != ' ' && *from != '\t')
			return false;
	}
	return true;
}

/* See the top of the file for what the distances mean. */
static enum MHD_Result
scan_header(void *cls, enum MHD_ValueKind kind, const char *key, size_t key_len, const char *value, size_t value_len)
{
	HeadScan   *scan = cls;

	if (value == NULL)
		value = key + key_len, value_len = 0;
	if (scan->end && key != scan->end + 2)
		scan->gap = true;
	if (value <= key + key_len || !only_blanks(key + key_len + 1, value))
		scan->gap = true;
	scan->size += value + value_len - key + 2;
	scan->end = value + value_len;
	orion_http_head_add(&scan->head, key, key_len, value, value_len);
	if (orion_http_names_proxy(key, key_len))
		scan->proxied = true;
	if (scan->trusted && key_len == 15 && strncasecmp(key, "x-forwarded-for", 15) == 0)
		note_forwarded(scan, value, value_len);
	return MHD_YES;
}

/* CR LF CR LF were overwritten by NUL; anything else is a NUL that was sent. */
static bool
ends_cleanly(const char *end)
{
	return end[0] == '\0' && end[1] == '\0' && end[2] == '\0' && end[3] == '\0';
}

static bool
request_line_is_whole(const Request *request, const char *method, const char *url, const char *version)
{
	if (strcmp(version, "HTTP/1.1") != 0 && strcmp(version, "HTTP/1.0") != 0)
		return false;
	if (LIBRARY_IS_STRICT)
		return true;
	return url == method + strlen(method) + 1 && version == url + request->target_len + 1;
}

/* Of this process, and of this request. */
static void
make_request_id(uint64_t id, char *out)
{
	static const char digits[] = "0123456789abcdef";
	size_t		len = strlen(id_prefix) + 1;

	for (uint64_t rest = id >> 4; rest > 0; rest >>= 4)
		len++;
	memcpy(out, id_prefix, strlen(id_prefix));
	out[len] = '\0';
	do
		out[--len] = digits[id & 15];
	while ((id >>= 4) > 0);
}

static void
choose_request_id(Request *request, const OrionHttpHead *head)
{
	if (head->request_id)
	{
		memcpy(request->request_id, head->request_id, head->request_id_len);
		request->request_id[head->request_id_len] = '\0';
	}
	else
		make_request_id(request->id, request->request_id);
}

/* Who asks: the client, or whom a trusted proxy speaks for. */
static void
choose_peer(Request *request, const HeadScan *scan)
{
	if (scan->forwarded_len == 0 ||
		!orion_proxy_origin(&orion_gateway.config.trusted_proxies, forwarded, scan->forwarded_len,
							request->peer, sizeof(request->peer)))
		strcpy(request->peer, request->client->address);
}

/* Begins the frame up to the body's length, which is filled in at its end. */
static void
begin_frame(Request *request, const char *method, const OrionHttpTarget *target)
{
	OrionBuffer *frame = &request->frame;

	orion_frame_begin(frame, ORION_FRAME_REQUEST, request->id);
	orion_frame_put_str(frame, method);
	orion_frame_put(frame, target->path, target->path_len);
	orion_frame_put(frame, target->query, target->query_len);
	orion_frame_put_str(frame, request->peer);
	request->body_at = frame->end;
	orion_frame_put(frame, "", 0);
}

static enum MHD_Result
put_header(void *cls, enum MHD_ValueKind kind, const char *key, size_t key_len, const char *value, size_t value_len)
{
	OrionBuffer *frame = cls;
	char		name[ORION_HTTP_MAX_NAME];

	if (orion_http_hop_by_hop(key, key_len) || (key_len == 12 && strncasecmp(key, "x-request-id", 12) == 0))
		return MHD_YES;
	for (size_t i = 0; i < key_len; i++)
		name[i] = key[i] >= 'A' && key[i] <= 'Z' ? key[i] + 32 : key[i];
	orion_frame_put(frame, name, key_len);
	while (value_len > 0 && (value[value_len - 1] == ' ' || value[value_len - 1] == '\t'))
		value_len--;
	orion_frame_put(frame, value, value_len);
	return MHD_YES;
}

/* The answer the gateway gives without an executor, or NULL. */
static struct MHD_Response *
own_response(const OrionHttpTarget *target)
{
	if (target->path_len == 7 && memcmp(target->path, "/health", 7) == 0)
		return health;
	if (target->path_len == 6 && memcmp(target->path, "/ready", 6) == 0)
		return ready;
	return NULL;
}

static bool
wants_metrics(const Request *request, const OrionHttpTarget *target)
{
	return target->path_len == 8 && memcmp(target->path, "/metrics", 8) == 0 &&
		orion_gateway_telemetry_serves(request);
}

static enum MHD_Result
reply_own(Request *request)
{
	struct MHD_Response *response = request->own;

	if (!request->safe)
		return reply_error(request, &orion_http_method_refused);
	if (response == ready && orion_gateway.nexecutors == 0)
		return reply_error(request, &orion_http_not_ready);
	strcpy(request->route, response == ready ? "/ready" : "/health");
	request->status = 200;
	request->state = REQUEST_ANSWERED;
	return orion_gateway_library_queue(request->connection, 200, response);
}

static enum MHD_Result
reply_metrics(Request *request)
{
	strcpy(request->route, "/metrics");
	if (!request->safe)
		return reply_error(request, &orion_http_method_refused);
	if (!orion_gateway_telemetry_ask(request))
		return reply_error(request, &orion_http_queue_full);
	request->state = REQUEST_ASKING;
	client_leave(request->client);
	if (request->client->half_closed)
		client_enter(request->client, &orion_gateway.leaving);
	suspend(request);
	return MHD_YES;
}

/* What is wrong with the headers so that the end of the request is not known. */
static const OrionHttpError *
judge_head(Request *request, const HeadScan *scan, const char *method, const char *url, const char *version)
{
	/* it was when it came; the limit may be another one by now */
	if (request->target_len > 0 && request->target[0] == '\0')
		return &orion_http_target_too_long;
	if (!request_line_is_whole(request, method, url, version) ||
		(!LIBRARY_IS_STRICT && (scan->gap || (scan->end && !ends_cleanly(scan->end)))))
		return &orion_http_bad_request;
	if (scan->head.nhost == 0 && strcmp(version, "HTTP/1.1") == 0)
		return &orion_http_bad_request; /* RFC 9112 section 3.2 */
	if (scan->head.nencoding > 0 && strcmp(version, "HTTP/1.1") != 0)
		return &orion_http_bad_request; /* section 6.1 */
	if (scan->size + request->target_len + strlen(method) + 12 > orion_gateway.config.max_header)
		return &orion_http_headers_too_large;
	return orion_http_head_check(&scan->head, orion_gateway.config.max_body);
}

/* What is wrong with a request that can be read to its end. */
static const OrionHttpError *
judge_request(Request *request, const char *method, OrionHttpTarget *target)
{
	OrionHttpMethod kind = orion_http_method(method);

	if (!orion_http_target_split(request->target, request->target_len, target))
		return kind == ORION_HTTP_METHOD_UNKNOWN ? &orion_http_method_unknown : &orion_http_bad_target;
	/* of a resource, what serves it says so in its own words */
	if (own_response(target) == NULL && !wants_metrics(request, target) &&
		strlen(method) <= MAX_METHOD && orion_http_name_valid(method, strlen(method)))
		return NULL;
	if (kind == ORION_HTTP_METHOD_UNKNOWN)
		return &orion_http_method_unknown;
	if (kind == ORION_HTTP_METHOD_REFUSED)
		return &orion_http_method_refused;
	return NULL;
}

/*
 * Bodies are checked as they are read.  The library's buffer begins with its pool when a request does,
 * and grows where it is: so the distance to the end of the head is what the head
 * has taken.
 */
static bool
begin_body(Request *request, const OrionHttpHead *head, const char *method)
{
	const GatewayPool *pool = &request->client->pool;
	const union MHD_ConnectionInfo *size = MHD_get_connection_info(request->connection, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
	const char *rest = size ? method + size->header_size : NULL;

	if (rest == NULL || rest < pool->base || rest > pool->base + pool->len)
		return !head->chunked;
	return orion_gateway_library_body(request, rest - pool->base, head, rest);
}

static enum MHD_Result
headers_seen(Request *request, const char *method, const char *url, const char *version)
{
	HeadScan	scan = {0};
	OrionHttpTarget target;
	const OrionHttpError *error;

	request->state = REQUEST_READING;
	request->safe = strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;
	/* none that is known is longer */
	strcpy(request->method, orion_http_method(method) == ORION_HTTP_METHOD_UNKNOWN ? "-" : method);
	scan.trusted = request->client->trusted;
	MHD_get_connection_values_n(request->connection, MHD_HEADER_KIND, scan_header, &scan);
	choose_request_id(request, &scan.head);
	choose_peer(request, &scan);
	request->proxied = scan.proxied;
	error = judge_head(request, &scan, method, url, version);
	if (error == NULL && !begin_body(request, &scan.head, method))
		error = &orion_http_bad_request;
	if (error)
	{
		request->close = true;
		return reply_error(request, error);
	}
	request->error = judge_request(request, method, &target);
	if (request->error)
		return MHD_YES;
	request->own = own_response(&target);
	request->metrics = wants_metrics(request, &target);
	if (request->own == NULL && !request->metrics)
		begin_frame(request, method, &target);
	return MHD_YES;
}

/* At twice the limit patience ends: no answer can be given in mid-body. */
static enum MHD_Result
body_seen(Request *request, const char *data, size_t len)
{
	request->body_len += len;
	if (request->body_len > orion_gateway.config.max_body * 2)
		return MHD_NO;
	if (request->body_len > orion_gateway.config.max_body)
	{
		request->error = &orion_http_body_too_large;
		request->close = true;
	}
	if (request->error || request->own || request->metrics)
		return MHD_YES;
	if (held + len > BODY_MEMORY / orion_gateway.config.processes && held + len > orion_gateway.config.max_body * 4)
	{
		request->error = &orion_http_no_memory;
		request->close = true;
		return MHD_YES;
	}
	if (!orion_buffer_reserve(&request->frame, len))
		return MHD_NO;
	held += len;
	request->held += len;
	memcpy(request->frame.data + request->frame.end, data, len);
	request->frame.end += len;
	return MHD_YES;
}

static enum MHD_Result
request_read(Request *request)
{
	uint32_t	len = request->body_len;

	if (request->error)
		return reply_error(request, request->error);
	if (request->own)
		return reply_own(request);
	if (request->metrics)
		return reply_metrics(request);
	memcpy(request->frame.data + request->body_at, &len, sizeof(len));
	MHD_get_connection_values_n(request->connection, MHD_HEADER_KIND, put_header, &request->frame);
	orion_frame_put_str(&request->frame, "x-request-id");
	orion_frame_put_str(&request->frame, request->request_id);
	orion_frame_end(&request->frame);
	if (request->frame.failed)
		return MHD_NO;
	if (orion_gateway_handoff_is_full())
		return reply_error(request, &orion_http_queue_full);
	client_leave(request->client);
	if (request->client->half_closed)
		client_enter(request->client, &orion_gateway.leaving);
	suspend(request);
	orion_gateway_handoff_submit(request);
	return MHD_YES;
}

enum MHD_Result
orion_gateway_server_handle(void *cls, struct MHD_Connection *connection, const char *url, const char *method,
							const char *version, const char *data, size_t *len, void **context)
{
	Request    *request = *context;
	enum MHD_Result result = MHD_NO;

	if (request == NULL)
		return MHD_NO;
	switch (request->state)
	{
		case REQUEST_NEW:
			return headers_seen(request, method, url, version);
		case REQUEST_READING:
			if (*len == 0)
				return request_read(request);
			result = body_seen(request, data, *len);
			*len = 0;
			return result;
		case REQUEST_ANSWERED:
			if (request->response)
			{
				struct MHD_Response *response = request->response;

				request->response = NULL;
				return reply(request, request->status, response);
			}
			return MHD_YES;
		case REQUEST_QUEUED:
		case REQUEST_OUT:
		case REQUEST_ASKING:
		case REQUEST_PARKED:
			return MHD_YES;
		case REQUEST_ABORTED:
			return MHD_NO;
	}
	return MHD_NO;
}

/* --- life of the server -------------------------------------------------------- */

static struct MHD_Response *
make_own_response(const char *body)
{
	struct MHD_Response *response = MHD_create_response_from_buffer(strlen(body), (void *) body, MHD_RESPMEM_MUST_COPY);

	MHD_add_response_header(response, "Content-Type", "application/json; charset=utf-8");
	MHD_add_response_header(response, "Cache-Control", "no-store");
	orion_gateway_server_add_own_headers(response, NULL);
	return response;
}

bool
orion_gateway_server_init(void)
{
	char		body[128];
	unsigned long long prefix;

	if (getrandom(&prefix, sizeof(prefix), 0) != sizeof(prefix))
		return false;
	snprintf(id_prefix, sizeof(id_prefix), "%016llx-", prefix);
	snprintf(body, sizeof(body), "{\"status\":\"ok\",\"version\":\"%s\"}", orion_gateway.config.version);
	health = make_own_response(body);
	ready = make_own_response("{\"status\":\"ready\"}");
	return health && ready && orion_gateway_library_init();
}
