/*
 * amqp_connection.c
 *	  Connects to RabbitMQ; see amqp_connection.h.
 */
#include "amqp_connection.h"

#include <stdio.h>
#include <string.h>

#include "amqp_topology.h"

#define FRAME_SIZE		131072	/* what brokers offer */

/* "host", "host:port" or "[address]:port" */
static bool
add_host(OrionSink *sink, OrionAmqpServer *server, const char *host)
{
	char		url[300];
	char		why[200];
	OrionUrl   *parsed = &server->hosts[server->nhosts];

	if (host == NULL || *host == '\0' || strpbrk(host, "/@?#") || snprintf(url, sizeof(url), "amqp://%s", host) >= sizeof(url) ||
		!orion_url_parse(url, "amqp", 5672, parsed, why, sizeof(why)))
		return orion_sink_fail(sink, "config: key \"hosts\" must hold texts such as \"rabbit2:5672\"");
	server->nhosts++;
	return true;
}

bool
orion_amqp_configure(OrionSink *sink, json_t *config, OrionAmqpServer *server)
{
	json_t	   *hosts;

	if (!orion_config_url(sink, config, "amqp", 5672, &server->url) || !orion_config_array(sink, config, "hosts", &hosts))
		return false;
	sink->secret = server->url.password;
	server->hosts[server->nhosts++] = server->url;
	if (json_array_size(hosts) >= ORION_AMQP_HOSTS)
		return orion_sink_fail(sink, "config: key \"hosts\" may hold %d hosts", ORION_AMQP_HOSTS - 1);
	for (size_t i = 0; i < json_array_size(hosts); i++)
	{
		if (!add_host(sink, server, json_string_value(json_array_get(hosts, i))))
			return false;
	}
	server->vhost = strdup(server->url.has_path ? server->url.path : "/");
	return server->vhost || orion_sink_fail(sink, "out of memory");
}

static bool
open_socket(OrionSink *sink, const OrionUrl *url, amqp_connection_state_t conn)
{
	struct timeval timeout = {ORION_CONNECT_TIMEOUT, 0};
	amqp_socket_t *socket = conn ? amqp_tcp_socket_new(conn) : NULL;
	int			status;

	if (socket == NULL)
		return orion_sink_fail(sink, "out of memory");
	amqp_set_handshake_timeout(conn, &timeout);
	amqp_set_rpc_timeout(conn, &timeout);
	status = amqp_socket_open_noblock(socket, url->host, url->port, &timeout);
	if (status != AMQP_STATUS_OK)
		return orion_sink_fail(sink, "rabbitmq %s:%d: could not connect: %s", url->host, url->port, amqp_error_string2(status));
	return true;
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

/*
 * Without these capabilities the broker would just stop reading when it blocks
 * publishers, and just stop sending when a queue is deleted, and not say why.
 */
static amqp_rpc_reply_t
login(const OrionUrl *url, const char *vhost, amqp_connection_state_t conn)
{
	amqp_table_entry_t capabilities[] = {capability("connection.blocked"), capability("consumer_cancel_notify")};
	amqp_table_entry_t property = {
		.key = amqp_cstring_bytes("capabilities"),
		.value = {.kind = AMQP_FIELD_KIND_TABLE,.value = {.table = {2, capabilities}}}
	};
	amqp_table_t properties = {1, &property};

	return amqp_login_with_properties(conn, vhost, 16, FRAME_SIZE, ORION_AMQP_HEARTBEAT, &properties,
									  AMQP_SASL_METHOD_PLAIN, url->user ? url->user : "guest",
									  url->password ? url->password : "guest");
}

bool
orion_amqp_accepted(OrionSink *sink, amqp_connection_state_t conn, const char *what)
{
	amqp_rpc_reply_t reply = amqp_get_rpc_reply(conn);

	return reply.reply_type == AMQP_RESPONSE_NORMAL || orion_amqp_fail(sink, what, reply);
}

static bool
open_one(OrionSink *sink, const OrionAmqpServer *server, amqp_connection_state_t *conn)
{
	amqp_rpc_reply_t reply;

	*conn = amqp_new_connection();
	if (!open_socket(sink, &server->hosts[server->current], *conn))
		return false;
	reply = login(&server->url, server->vhost, *conn);
	if (reply.reply_type != AMQP_RESPONSE_NORMAL)
		return orion_amqp_fail(sink, "rabbitmq: login", reply);
	amqp_channel_open(*conn, ORION_AMQP_CHANNEL);
	return orion_amqp_accepted(sink, *conn, "rabbitmq: channel");
}

bool
orion_amqp_open(OrionSink *sink, OrionAmqpServer *server, amqp_connection_state_t *conn)
{
	if (open_one(sink, server, conn))
		return true;
	server->current = (server->current + 1) % server->nhosts;
	return false;
}

int
orion_amqp_take_over(amqp_connection_state_t conn)
{
	int			heartbeat = amqp_get_heartbeat(conn);

	amqp_tune_connection(conn, amqp_get_channel_max(conn), amqp_get_frame_max(conn), 0);
	return heartbeat;
}
