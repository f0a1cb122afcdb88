/*
 * amqp_topology.c
 *	  Exchanges, queues and bindings; see amqp_topology.h.
 *
 * Declaring is idempotent as long as the properties agree.  Where a queue exists
 * with others the broker closes the channel (PRECONDITION_FAILED); an operator
 * must delete the queue or change the sink, so the text names it.
 */
#include "amqp_topology.h"

#include <stdio.h>
#include <string.h>

#define NAME_MAX_BYTES	255		/* AMQP 0-9-1: short string */
#define DEFAULT_TTL		86400000	/* ms: 24 h */
#define DEAD_LETTER		"orion.dead"

static const char *const defaults =
"{\"exchanges\": [\"auth.events\", \"user.events\", \"notification.events\", \"system.events\"],"
" \"queues\": [\"user.queue\", \"notification.queue\", \"analytics.queue\", \"audit.queue\", \"webhook.queue\"],"
" \"bindings\": ["
"  {\"exchange\": \"auth.events\", \"queue\": \"notification.queue\"},"
"  {\"exchange\": \"auth.events\", \"queue\": \"audit.queue\"},"
"  {\"exchange\": \"auth.events\", \"queue\": \"analytics.queue\"},"
"  {\"exchange\": \"user.events\", \"queue\": \"user.queue\"},"
"  {\"exchange\": \"user.events\", \"queue\": \"notification.queue\"},"
"  {\"exchange\": \"user.events\", \"queue\": \"audit.queue\"},"
"  {\"exchange\": \"user.events\", \"queue\": \"analytics.queue\"},"
"  {\"exchange\": \"user.events\", \"queue\": \"webhook.queue\"},"
"  {\"exchange\": \"notification.events\", \"queue\": \"audit.queue\"},"
"  {\"exchange\": \"notification.events\", \"queue\": \"analytics.queue\"},"
"  {\"exchange\": \"system.events\", \"queue\": \"audit.queue\"},"
"  {\"exchange\": \"system.events\", \"queue\": \"analytics.queue\"}]}";

/* ---- reading ---- */

/* A required name, short enough for the protocol. */
static bool
read_name(OrionSink *sink, json_t *object, const char *key, const char *dflt, const char **value)
{
	if (!orion_config_string(sink, object, key, dflt, value))
		return false;
	return strlen(*value) <= NAME_MAX_BYTES ||
		orion_sink_fail(sink, "config: key \"%s\" is longer than %d bytes", key, NAME_MAX_BYTES);
}

static bool
read_choice(OrionSink *sink, json_t *object, const char *key, const char *const *choices, const char **value)
{
	if (!orion_config_string(sink, object, key, choices[0], value))
		return false;
	for (int i = 0; choices[i]; i++)
	{
		if (strcmp(choices[i], *value) == 0)
			return true;
	}
	return orion_sink_fail(sink, "config: key \"%s\" has an unknown value", key);
}

/* "name" stands for {"name": "name"}; *object is a new reference. */
static bool
as_object(OrionSink *sink, json_t *item, const char *key, json_t **object)
{
	if (json_is_string(item))
		*object = json_pack("{sO}", "name", item);
	else
		*object = json_is_object(item) ? json_incref(item) : NULL;
	return *object != NULL || orion_sink_fail(sink, "config: key \"%s\" must hold names or objects", key);
}

static bool
read_exchange(OrionSink *sink, json_t *object, OrionTopology *topology)
{
	static const char *const known[] = {"name", "type", NULL};
	static const char *const types[] = {"topic", "direct", "fanout", "headers", NULL};
	int			n = topology->nexchanges++;

	return orion_config_known(sink, object, known) &&
		read_name(sink, object, "name", NULL, &topology->exchanges[n].name) &&
		read_choice(sink, object, "type", types, &topology->exchanges[n].type);
}

static bool
read_queue(OrionSink *sink, json_t *object, OrionTopology *topology)
{
	static const char *const known[] = {"name", "type", "ttl", "dead_letter", NULL};
	static const char *const types[] = {"classic", "quorum", NULL};
	int			n = topology->nqueues++;

	if (!orion_config_known(sink, object, known) ||
		!read_name(sink, object, "name", NULL, &topology->queues[n].name) ||
		!read_choice(sink, object, "type", types, &topology->queues[n].type) ||
		!orion_config_integer(sink, object, "ttl", 0, 1LL << 31, DEFAULT_TTL, &topology->queues[n].ttl))
		return false;
	topology->queues[n].dead_letter = NULL;
	if (json_is_null(json_object_get(object, "dead_letter")))
		return true;
	return read_name(sink, object, "dead_letter", DEAD_LETTER, &topology->queues[n].dead_letter);
}

static bool
read_binding(OrionSink *sink, json_t *object, OrionTopology *topology)
{
	static const char *const known[] = {"exchange", "queue", "key", NULL};
	int			n = topology->nbindings++;

	return orion_config_known(sink, object, known) &&
		read_name(sink, object, "exchange", NULL, &topology->bindings[n].exchange) &&
		read_name(sink, object, "queue", NULL, &topology->bindings[n].queue) &&
		read_name(sink, object, "key", "#", &topology->bindings[n].key);
}

static bool
read_list(OrionSink *sink, json_t *config, const char *key, size_t max, OrionTopology *topology,
		  bool (*read) (OrionSink *, json_t *, OrionTopology *))
{
	json_t	   *list;

	if (!orion_config_array(sink, config, key, &list))
		return false;
	if (json_array_size(list) > max)
		return orion_sink_fail(sink, "config: key \"%s\" has more than %zu entries", key, max);
	for (size_t i = 0; i < json_array_size(list); i++)
	{
		json_t	   *object;
		bool		good;

		if (!as_object(sink, json_array_get(list, i), key, &object))
			return false;
		good = read(sink, object, topology);
		json_decref(object);	/* its strings belong to the item */
		if (!good)
			return false;
	}
	return true;
}

bool
orion_topology_configure(OrionSink *sink, json_t *config, OrionTopology *topology)
{
	memset(topology, 0, sizeof(*topology));
	if (!json_object_get(config, "exchanges") && !json_object_get(config, "queues") &&
		!json_object_get(config, "bindings"))
	{
		topology->defaults = json_loads(defaults, 0, NULL);
		config = topology->defaults;
	}
	if (!read_list(sink, config, "exchanges", ORION_TOPOLOGY_EXCHANGES, topology, read_exchange) ||
		!read_list(sink, config, "queues", ORION_TOPOLOGY_QUEUES, topology, read_queue) ||
		!read_list(sink, config, "bindings", ORION_TOPOLOGY_BINDINGS, topology, read_binding))
		return false;
	return topology->nexchanges > 0 ||
		orion_sink_fail(sink, "config: key \"exchanges\" must name at least one exchange");
}

const char *
orion_topology_exchange(const OrionTopology *topology, OrionText type)
{
	static const char suffix[] = ".events";
	const char *dot = memchr(type.str, '.', type.len);
	size_t		len = dot ? (size_t) (dot - type.str) : type.len;
	const char *fallback = topology->exchanges[0].name;

	for (int i = 0; i < topology->nexchanges; i++)
	{
		const char *name = topology->exchanges[i].name;

		if (strlen(name) == len + strlen(suffix) && memcmp(name, type.str, len) == 0 &&
			strcmp(name + len, suffix) == 0)
			return name;
		if (strcmp(name, "system.events") == 0)
			fallback = name;
	}
	return fallback;
}

/* ---- declaring ---- */

static bool
declare(OrionSink *sink, OrionAmqpConnection *conn, const char *kind, const char *name,
		uint32_t id, void *method, uint32_t answer)
{
	char		what[400];

	snprintf(what, sizeof(what), "%s \"%s\" cannot be declared", kind, name);
	if (orion_amqp_call(sink, conn, what, id, method, answer))
		return true;
	return conn->close_code == AMQP_PRECONDITION_FAILED &&
		orion_sink_fail(sink, "rabbitmq: %s \"%s\" exists with other properties: %s", kind, name, conn->close_text);
}

static bool
declare_exchange(OrionSink *sink, OrionAmqpConnection *conn, const char *name, const char *type)
{
	amqp_exchange_declare_t method = {.exchange = amqp_cstring_bytes(name),.type = amqp_cstring_bytes(type),.durable = 1};

	return declare(sink, conn, "exchange", name, AMQP_EXCHANGE_DECLARE_METHOD, &method, AMQP_EXCHANGE_DECLARE_OK_METHOD);
}

static bool
bind_queue(OrionSink *sink, OrionAmqpConnection *conn, const char *queue, const char *exchange, const char *key)
{
	amqp_queue_bind_t method = {
		.queue = amqp_cstring_bytes(queue),
		.exchange = amqp_cstring_bytes(exchange),
		.routing_key = amqp_cstring_bytes(key)
	};

	return declare(sink, conn, "binding of queue", queue, AMQP_QUEUE_BIND_METHOD, &method, AMQP_QUEUE_BIND_OK_METHOD);
}

static void
add_text(amqp_table_t *table, const char *key, const char *string)
{
	amqp_table_entry_t *entry = &table->entries[table->num_entries++];

	entry->key = amqp_cstring_bytes(key);
	entry->value.kind = AMQP_FIELD_KIND_UTF8;
	entry->value.value.bytes = amqp_cstring_bytes(string);
}

static bool
declare_queue(OrionSink *sink, OrionAmqpConnection *conn, const char *name, const char *type,
			  long long ttl, const char *dead_letter)
{
	amqp_table_entry_t entries[3];
	amqp_queue_declare_t method = {.queue = amqp_cstring_bytes(name),.durable = 1,.arguments = {0, entries}};

	if (strcmp(type, "classic") != 0)
		add_text(&method.arguments, "x-queue-type", type);
	if (dead_letter)
		add_text(&method.arguments, "x-dead-letter-exchange", dead_letter);
	if (ttl > 0)
	{
		amqp_table_entry_t *entry = &entries[method.arguments.num_entries++];

		entry->key = amqp_cstring_bytes("x-message-ttl");
		entry->value.kind = AMQP_FIELD_KIND_I64;
		entry->value.value.i64 = ttl;
	}
	return declare(sink, conn, "queue", name, AMQP_QUEUE_DECLARE_METHOD, &method, AMQP_QUEUE_DECLARE_OK_METHOD);
}

/* Expired and refused messages end in a queue of the dead-letter exchange's name. */
static bool
declare_dead_letter(OrionSink *sink, OrionAmqpConnection *conn, const char *name)
{
	return declare_exchange(sink, conn, name, "fanout") &&
		declare_queue(sink, conn, name, "classic", 0, NULL) &&
		bind_queue(sink, conn, name, name, "");
}

static bool
dead_letter_is_new(const OrionTopology *topology, int queue)
{
	const char *name = topology->queues[queue].dead_letter;

	for (int i = 0; i < queue && name; i++)
	{
		if (topology->queues[i].dead_letter && strcmp(topology->queues[i].dead_letter, name) == 0)
			return false;
	}
	return name != NULL;
}

bool
orion_topology_declare(OrionSink *sink, const OrionTopology *topology, OrionAmqpConnection *conn)
{
	for (int i = 0; i < topology->nexchanges; i++)
	{
		if (!declare_exchange(sink, conn, topology->exchanges[i].name, topology->exchanges[i].type))
			return false;
	}
	for (int i = 0; i < topology->nqueues; i++)
	{
		const char *dead_letter = topology->queues[i].dead_letter;

		if (dead_letter_is_new(topology, i) && !declare_dead_letter(sink, conn, dead_letter))
			return false;
		if (!declare_queue(sink, conn, topology->queues[i].name, topology->queues[i].type,
						   topology->queues[i].ttl, dead_letter))
			return false;
	}
	for (int i = 0; i < topology->nbindings; i++)
	{
		if (!bind_queue(sink, conn, topology->bindings[i].queue,
						topology->bindings[i].exchange, topology->bindings[i].key))
			return false;
	}
	return true;
}
