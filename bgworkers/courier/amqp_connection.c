/*
 * amqp_connection.c
 *	  Connects to RabbitMQ; see amqp_connection.h.
 *
 * What a broker sends is not believed: frames are as long as agreed at most, on our
 * channel, and whole before they are decoded.
 */
#include "amqp_connection.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "amqp_frame.h"
#include "amqp_message.h"

#define FRAME_SIZE		131072	/* what brokers offer */
#define FRAME_LEAST		4096	/* AMQP 0-9-1: frame-min-size */
#define READ_CHUNK		65536
#define PAGE			16384	/* of the pool */

/* ---- settings ---- */

/* "host", "host:port" or "[address]:port" */
static bool
add_host(OrionSink *sink, OrionAmqpConnection *conn, const char *host, int default_port)
{
	char		url[300];
	char		why[200];
	OrionUrl   *parsed = &conn->hosts[conn->nhosts];

	if (host == NULL || *host == '\0' || strpbrk(host, "/@?#") || snprintf(url, sizeof(url), "amqp://%s", host) >= sizeof(url) ||
		!orion_url_parse(url, "amqp", default_port, parsed, why, sizeof(why)))
		return orion_sink_fail(sink, "config: key \"hosts\" must hold texts such as \"rabbit2:5672\"");
	conn->nhosts++;
	return true;
}

static bool
configure_hosts(OrionSink *sink, json_t *config, OrionAmqpConnection *conn, int default_port)
{
	json_t	   *hosts;

	if (!orion_config_array(sink, config, "hosts", &hosts))
		return false;
	conn->hosts[conn->nhosts++] = conn->url;
	if (json_array_size(hosts) >= ORION_AMQP_HOSTS)
		return orion_sink_fail(sink, "config: key \"hosts\" may hold %d hosts", ORION_AMQP_HOSTS - 1);
	for (size_t i = 0; i < json_array_size(hosts); i++)
	{
		if (!add_host(sink, conn, json_string_value(json_array_get(hosts, i)), default_port))
			return false;
	}
	return true;
}

bool
orion_amqp_configure(OrionSink *sink, json_t *config, OrionAmqpConnection *conn)
{
	const char *url = json_string_value(json_object_get(config, "url"));
	json_t	   *tls = json_object_get(config, "tls");
	int			default_port;

	conn->link.fd = -1;
	init_amqp_pool(&conn->pool, PAGE);
	conn->secure = url && strncmp(url, "amqps://", 8) == 0;
	default_port = conn->secure ? 5671 : 5672;
	if (!orion_config_url(sink, config, conn->secure ? "amqps" : "amqp", default_port, &conn->url))
		return false;
	sink->secret = conn->url.password;
	if (!configure_hosts(sink, config, conn, default_port))
		return false;
	if (tls && !conn->secure)
		return orion_sink_fail(sink, "config: key \"tls\" needs a \"url\" that begins with amqps://");
	if (conn->secure && !orion_tls_configure(sink, tls, &conn->tls))
		return false;
	conn->vhost = strdup(conn->url.has_path ? conn->url.path : "/");
	return conn->vhost || orion_sink_fail(sink, "out of memory");
}

/* ---- frames ---- */

/* Says which broker it was that sink->why speaks of. */
static bool
fail_at(OrionSink *sink, const OrionAmqpConnection *conn)
{
	const OrionUrl *host = &conn->hosts[conn->current];
	char		why[sizeof(sink->why)];

	snprintf(why, sizeof(why), "%s", sink->why);
	return orion_sink_fail(sink, "rabbitmq %.100s:%d: %.350s", host->host, host->port, why);
}

/* A broker without memory says so at once, and again when it is over. */
static void
note_blocking(OrionAmqpConnection *conn, const amqp_method_t *method)
{
	if (method->id == AMQP_CONNECTION_UNBLOCKED_METHOD)
		conn->blocked[0] = '\0';
	else if (method->id == AMQP_CONNECTION_BLOCKED_METHOD)
	{
		amqp_bytes_t reason = ((const amqp_connection_blocked_t *) method->decoded)->reason;

		if (reason.len == 0)
			reason = amqp_cstring_bytes("no reason given");
		snprintf(conn->blocked, sizeof(conn->blocked), "%.*s", (int) reason.len, (const char *) reason.bytes);
	}
}

/* 1: bytes have come, 0: none are there, -1: lost. */
static int
receive(OrionSink *sink, OrionAmqpConnection *conn)
{
	long		n;

	if (!orion_buffer_reserve(&conn->in, READ_CHUNK))
	{
		orion_sink_fail(sink, "out of memory");
		return -1;
	}
	n = orion_link_read(sink, &conn->link, conn->in.data + conn->in.end, READ_CHUNK);
	if (n < 0)
	{
		fail_at(sink, conn);
		return -1;
	}
	conn->in.end += n;
	if (n > 0)
		conn->last_received = sink->now;
	return n > 0;
}

int
orion_amqp_next(OrionSink *sink, OrionAmqpConnection *conn, amqp_frame_t *frame)
{
	orion_buffer_consume(&conn->in, conn->taken);
	conn->taken = 0;
	recycle_amqp_pool(&conn->pool);
	for (;;)
	{
		long		n = 0;
		int			come;

		if (orion_buffer_len(&conn->in) > 0)
			n = orion_amqp_frame_parse(conn->in.data + conn->in.start, orion_buffer_len(&conn->in), conn->frame_max, &conn->pool, frame);
		if (n < 0)
		{
			orion_sink_fail(sink, "broken answer: no frame of AMQP 0-9-1");
			fail_at(sink, conn);
			return -1;
		}
		conn->taken = n;
		conn->more = n > 0;
		if (n > 0 && frame->frame_type == AMQP_FRAME_METHOD)
			note_blocking(conn, &frame->payload.method);
		if (n > 0)
			return 1;
		come = receive(sink, conn);
		if (come <= 0)
			return come;
	}
}

bool
orion_amqp_flush(OrionSink *sink, OrionAmqpConnection *conn)
{
	size_t		before = orion_buffer_len(&conn->link.out);

	if (!orion_link_flush(sink, &conn->link))
		return fail_at(sink, conn);
	if (orion_buffer_len(&conn->link.out) < before)
		conn->last_sent = sink->now;
	return true;
}

bool
orion_amqp_surprise(OrionSink *sink, OrionAmqpConnection *conn, const amqp_method_t *method)
{
	bool		channel = method->id == AMQP_CHANNEL_CLOSE_METHOD;
	const char *name = amqp_method_name(method->id);
	amqp_bytes_t reason;

	if (!channel && method->id != AMQP_CONNECTION_CLOSE_METHOD)
		return orion_sink_fail(sink, "rabbitmq: unexpected %s", name ? name : "method");
	if (channel)
	{
		const amqp_channel_close_t *closed = method->decoded;

		conn->close_code = closed->reply_code;
		reason = closed->reply_text;
	}
	else
	{
		const amqp_connection_close_t *closed = method->decoded;

		conn->close_code = closed->reply_code;
		reason = closed->reply_text;
	}
	snprintf(conn->close_text, sizeof(conn->close_text), "%.*s", (int) reason.len, reason.len ? (const char *) reason.bytes : "");
	return orion_sink_fail(sink, "rabbitmq closed the %s: %s", channel ? "channel" : "connection", conn->close_text);
}

/* ---- connecting ---- */

/* Waits for a method, which is left in *method.  False: sink->why. */
static bool
expect(OrionSink *sink, OrionAmqpConnection *conn, const char *what, uint32_t answer, amqp_method_t *method)
{
	long		deadline = orion_now_ms() + ORION_CONNECT_TIMEOUT * 1000;
	amqp_frame_t frame;
	int			come;

	while (orion_amqp_flush(sink, conn) && (come = orion_amqp_next(sink, conn, &frame)) >= 0)
	{
		*method = frame.payload.method;
		if (come > 0 && frame.frame_type == AMQP_FRAME_METHOD && method->id == answer)
			return true;
		if (come > 0 && frame.frame_type == AMQP_FRAME_METHOD &&
			method->id != AMQP_CONNECTION_BLOCKED_METHOD && method->id != AMQP_CONNECTION_UNBLOCKED_METHOD)
		{
			orion_amqp_surprise(sink, conn, method);
			orion_sink_fail(sink, "%s: %s", what, conn->close_code ? conn->close_text : "unexpected answer");
			return fail_at(sink, conn);
		}
		if (orion_now_ms() > deadline ||
			(come == 0 && !orion_link_wait(conn->link.fd, POLLIN | (conn->link.wants_write ? POLLOUT : 0), deadline)))
		{
			orion_sink_fail(sink, "%s: no answer in time", what);
			return fail_at(sink, conn);
		}
	}
	return false;
}

static bool
ask(OrionSink *sink, OrionAmqpConnection *conn, const char *what, int channel,
	uint32_t id, void *method, uint32_t answer, amqp_method_t *answered)
{
	if (!orion_amqp_method(&conn->link.out, channel, id, method))
		return orion_sink_fail(sink, "rabbitmq: %s: %s", what, conn->link.out.failed ? "out of memory" : "too long for AMQP");
	return answer == 0 || expect(sink, conn, what, answer, answered);
}

bool
orion_amqp_call(OrionSink *sink, OrionAmqpConnection *conn, const char *what, uint32_t id, void *method, uint32_t answer)
{
	amqp_method_t answered;

	return ask(sink, conn, what, ORION_AMQP_CHANNEL, id, method, answer, &answered);
}

static amqp_table_entry_t
capability(const char *name)
{
	amqp_table_entry_t entry = {
		.key = amqp_cstring_bytes(name),
		.value = {.kind = AMQP_FIELD_KIND_BOOLEAN,.value = {.boolean = 1}}
	};

	return entry;
}

static amqp_table_entry_t
property(const char *name, const char *value)
{
	amqp_table_entry_t entry = {
		.key = amqp_cstring_bytes(name),
		.value = {.kind = AMQP_FIELD_KIND_UTF8,.value = {.bytes = amqp_cstring_bytes(value)}}
	};

	return entry;
}

/*
 * Without these capabilities the broker would just stop reading when it blocks
 * publishers, just stop sending when a queue is deleted, and just hang up on a wrong
 * password, and not say why.
 */
static bool
start_ok(OrionSink *sink, OrionAmqpConnection *conn, amqp_method_t *tune)
{
	amqp_table_entry_t capabilities[] = {capability("authentication_failure_close"), capability("connection.blocked"),
	capability("consumer_cancel_notify"), capability("publisher_confirms"), capability("basic.nack")};
	amqp_table_entry_t properties[] = {
		property("product", "orion-courier"),
		property("connection_name", sink->name),
		{.key = amqp_cstring_bytes("capabilities"),
		.value = {.kind = AMQP_FIELD_KIND_TABLE,.value = {.table = {sizeof(capabilities) / sizeof(capabilities[0]), capabilities}}}}
	};
	amqp_connection_start_ok_t method = {
		.client_properties = {sizeof(properties) / sizeof(properties[0]), properties},
		.mechanism = amqp_cstring_bytes("PLAIN"),
		.locale = amqp_cstring_bytes("en_US")
	};
	const char *user = conn->url.user ? conn->url.user : "guest";
	const char *password = conn->url.password ? conn->url.password : "guest";
	size_t		len = strlen(user) + strlen(password) + 2;
	char	   *response = malloc(len + 1);
	bool		good;

	if (response == NULL)
		return orion_sink_fail(sink, "out of memory");
	/* RFC 4616: no identity to act as, then the user, then the password */
	snprintf(response, len + 1, "%c%s%c%s", 0, user, 0, password);
	method.response = (amqp_bytes_t)
	{
		len, response
	};
	good = ask(sink, conn, "login", 0, AMQP_CONNECTION_START_OK_METHOD, &method, AMQP_CONNECTION_TUNE_METHOD, tune);
	explicit_bzero(response, len);
	free(response);
	return good;
}

static int
lesser(int ours, int theirs)
{
	return theirs == 0 || ours < theirs ? ours : theirs;
}

static bool
tune_ok(OrionSink *sink, OrionAmqpConnection *conn, const amqp_connection_tune_t *tune)
{
	amqp_connection_tune_ok_t method = {
		.channel_max = lesser(ORION_AMQP_CHANNEL, tune->channel_max),
		.frame_max = tune->frame_max == 0 || tune->frame_max > FRAME_SIZE ? FRAME_SIZE : tune->frame_max,
		.heartbeat = lesser(ORION_AMQP_HEARTBEAT, tune->heartbeat)
	};

	if (method.frame_max < FRAME_LEAST)
		return orion_sink_fail(sink, "rabbitmq: login: the broker takes frames of %d bytes only", (int) method.frame_max);
	conn->frame_max = method.frame_max;
	conn->heartbeat = method.heartbeat;
	return ask(sink, conn, "login", 0, AMQP_CONNECTION_TUNE_OK_METHOD, &method, 0, NULL);
}

static bool
login(OrionSink *sink, OrionAmqpConnection *conn)
{
	amqp_connection_open_t open = {.virtual_host = amqp_cstring_bytes(conn->vhost)};
	amqp_channel_open_t channel = {{0}};
	amqp_connection_tune_t tune;
	amqp_method_t answer;

	if (!orion_buffer_reserve(&conn->link.out, 8))
		return orion_sink_fail(sink, "out of memory");
	memcpy(conn->link.out.data + conn->link.out.end, "AMQP\0\0\x09\x01", 8);
	conn->link.out.end += 8;
	if (!expect(sink, conn, "login", AMQP_CONNECTION_START_METHOD, &answer) || !start_ok(sink, conn, &answer))
		return false;
	tune = *(const amqp_connection_tune_t *) answer.decoded;
	return tune_ok(sink, conn, &tune) &&
		ask(sink, conn, "login", 0, AMQP_CONNECTION_OPEN_METHOD, &open, AMQP_CONNECTION_OPEN_OK_METHOD, &answer) &&
		orion_amqp_call(sink, conn, "channel", AMQP_CHANNEL_OPEN_METHOD, &channel, AMQP_CHANNEL_OPEN_OK_METHOD);
}

static bool
open_link(OrionSink *sink, OrionAmqpConnection *conn)
{
	const OrionUrl *host = &conn->hosts[conn->current];
	char		why[sizeof(sink->why)];

	if (orion_link_open(sink, &conn->link, host->host, host->port, conn->secure ? &conn->tls : NULL,
						orion_now_ms() + ORION_CONNECT_TIMEOUT * 1000))
		return true;
	snprintf(why, sizeof(why), "%s", sink->why);
	return orion_sink_fail(sink, "rabbitmq %.500s", why);
}

bool
orion_amqp_open(OrionSink *sink, OrionAmqpConnection *conn)
{
	conn->frame_max = FRAME_SIZE;
	conn->close_code = 0;
	if (open_link(sink, conn) && login(sink, conn))
	{
		conn->more = true;
		conn->last_received = conn->last_sent = sink->now;
		return true;
	}
	conn->current = (conn->current + 1) % conn->nhosts;
	return false;
}

void
orion_amqp_close(OrionAmqpConnection *conn)
{
	orion_link_close(&conn->link);
	orion_buffer_free(&conn->in);
	empty_amqp_pool(&conn->pool);
	conn->taken = 0;
	conn->more = false;
	conn->blocked[0] = '\0';
}

/* ---- timers ---- */

bool
orion_amqp_tick(OrionSink *sink, OrionAmqpConnection *conn, long now)
{
	if (conn->heartbeat == 0)
		return true;
	if (now - conn->last_received > conn->heartbeat * 2000L)
		return orion_sink_fail(sink, "rabbitmq: nothing heard for %d s (heartbeat)", conn->heartbeat * 2);
	/* bytes that wait to be written are as good as a heartbeat once they go */
	if (now - conn->last_sent >= conn->heartbeat * 500L && orion_buffer_len(&conn->link.out) == 0)
		orion_amqp_heartbeat(&conn->link.out);
	return true;
}
