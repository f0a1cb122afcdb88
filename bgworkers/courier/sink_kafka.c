/*
 * sink_kafka.c
 *	  Events to Apache Kafka by librdkafka's idempotent producer.
 *
 * The library has threads of its own for the brokers; it hands reports to this one
 * through a queue that rings an eventfd.  A message counts when all in-sync replicas
 * have it (acks=all).  Keys are aggregate ids, so that an aggregate's events share a
 * partition, in order: by the partitioner that Java's clients use.
 *
 * The producer numbers its messages, so the library's own retries double nothing.
 * A new producer (after a failure that the library gives up on, or a crash of this
 * program) sends what was not confirmed again: consumers may see those twice,
 * with the same id in the header ce_id (CloudEvents 1.0, Kafka binding).
 *
 * Brokers that are away for less than MESSAGE_TIMEOUT are the library's business;
 * then the loop begins anew, and events wait in the outbox.
 */
#include <errno.h>
#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "config.h"
#include "sink.h"
#include "template.h"

#define MESSAGE_TIMEOUT		"30000" /* ms until an unconfirmed message is
									 * given up */
#define BUFFERED_MESSAGES	"20000" /* more than the queue holds */
#define BUFFERED_KB			"65536"
#define LARGEST_MESSAGE		"1000000000"	/* the broker's own limit decides */
#define SLOW_AFTER			5000	/* ms without a confirmation: tell the
									 * operator */
#define TOPIC_MAX			249 /* bytes, as Kafka's own limit */
#define LOG_EVERY			10000	/* ms between two lines of the library's */

typedef struct KafkaState
{
	rd_kafka_conf_t *conf;		/* copied for each producer */
	const char *topic;
	bool		topic_fixed;
	const char *key;
	char	   *source;
	rd_kafka_t *producer;
	int			bell;			/* rung when there is something to poll for */
	bool		full;			/* the producer takes no more now */
	bool		broken;			/* a report says that we must begin anew */
	int			inflight;
	long		last_confirm;
	long		last_log;
	OrionBuffer text;			/* expanded templates */
} KafkaState;

/* ---- settings ---- */

static bool
set(OrionSink *sink, KafkaState *state, const char *name, const char *value, const char *key)
{
	char		err[256];

	if (rd_kafka_conf_set(state->conf, name, value, err, sizeof(err)) == RD_KAFKA_CONF_OK)
		return true;
	/* the library's text may repeat the value, which may be a secret */
	return orion_sink_fail(sink, "config: key \"%s\" is not understood", key);
}

/* Text under one name, a path under another. */
static bool
set_pem(OrionSink *sink, KafkaState *state, json_t *tls, const char *key, const char *as_text, const char *as_path)
{
	const char *value;

	if (!orion_config_optional(sink, tls, key, &value))
		return false;
	if (value == NULL)
		return true;
	return set(sink, state, strncmp(value, "-----", 5) == 0 ? as_text : as_path, value, key);
}

static bool
configure_tls(OrionSink *sink, KafkaState *state, json_t *tls)
{
	static const char *const known[] = {"ca", "cert", "key", "verify", NULL};
	bool		verify;

	if (!json_is_object(tls))
		return orion_sink_fail(sink, "config: key \"tls\" must be an object; {} verifies with the system's authorities");
	return orion_config_known(sink, tls, known) &&
		set_pem(sink, state, tls, "ca", "ssl.ca.pem", "ssl.ca.location") &&
		set_pem(sink, state, tls, "cert", "ssl.certificate.pem", "ssl.certificate.location") &&
		set_pem(sink, state, tls, "key", "ssl.key.pem", "ssl.key.location") &&
		orion_config_bool(sink, tls, "verify", true, &verify) &&
		set(sink, state, "enable.ssl.certificate.verification", verify ? "true" : "false", "verify") &&
		set(sink, state, "ssl.endpoint.identification.algorithm", verify ? "https" : "none", "verify");
}

static bool
configure_sasl(OrionSink *sink, KafkaState *state, json_t *sasl)
{
	static const char *const known[] = {"mechanism", "username", "password", NULL};
	const char *mechanism,
			   *username,
			   *password;

	if (!json_is_object(sasl))
		return orion_sink_fail(sink, "config: key \"sasl\" must be an object");
	if (!orion_config_known(sink, sasl, known) ||
		!orion_config_string(sink, sasl, "mechanism", "SCRAM-SHA-256", &mechanism) ||
		!orion_config_string(sink, sasl, "username", NULL, &username) ||
		!orion_config_string(sink, sasl, "password", NULL, &password))
		return false;
	if (strcmp(mechanism, "PLAIN") != 0 && strncmp(mechanism, "SCRAM-SHA-", 10) != 0)
		return orion_sink_fail(sink, "config: key \"mechanism\" must be PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512");
	sink->secret = password;
	return set(sink, state, "sasl.mechanism", mechanism, "mechanism") &&
		set(sink, state, "sasl.username", username, "username") &&
		set(sink, state, "sasl.password", password, "password");
}

static bool
configure_security(OrionSink *sink, KafkaState *state, json_t *config)
{
	json_t	   *tls = json_object_get(config, "tls");
	json_t	   *sasl = json_object_get(config, "sasl");
	const char *protocol = tls ? (sasl ? "sasl_ssl" : "ssl") : (sasl ? "sasl_plaintext" : "plaintext");

	return set(sink, state, "security.protocol", protocol, "tls") &&
		(tls == NULL || configure_tls(sink, state, tls)) &&
		(sasl == NULL || configure_sasl(sink, state, sasl));
}

static bool
check_template(OrionSink *sink, const char *key, const char *string, bool *fixed)
{
	char		err[240];

	return orion_template_check(string, fixed, err, sizeof(err)) ||
		orion_sink_fail(sink, "config: key \"%s\": %s", key, err);
}

static bool
is_topic(const char *name, size_t len)
{
	if (len == 0 || len > TOPIC_MAX || (len == 1 && name[0] == '.') || (len == 2 && memcmp(name, "..", 2) == 0))
		return false;
	for (size_t i = 0; i < len; i++)
	{
		char		c = name[i];

		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-'))
			return false;
	}
	return true;
}

static bool
configure_templates(OrionSink *sink, KafkaState *state, json_t *config)
{
	bool		key_fixed;

	if (!orion_config_string(sink, config, "topic", "orion.events", &state->topic) ||
		!orion_config_string(sink, config, "key", "{aggregateid}", &state->key) ||
		!check_template(sink, "topic", state->topic, &state->topic_fixed) ||
		!check_template(sink, "key", state->key, &key_fixed))
		return false;
	if (state->topic_fixed && !is_topic(state->topic, strlen(state->topic)))
		return orion_sink_fail(sink, "config: key \"topic\" is no name of a topic: letters, digits, dots, hyphens and underscores, at most %d", TOPIC_MAX);
	return true;
}

/* What the sink promises is not for the settings to change. */
static bool
configure_promises(OrionSink *sink, KafkaState *state)
{
	return set(sink, state, "enable.idempotence", "true", "brokers") &&
		set(sink, state, "acks", "all", "brokers") &&
		set(sink, state, "partitioner", "murmur2_random", "key") &&
		set(sink, state, "message.timeout.ms", MESSAGE_TIMEOUT, "brokers") &&
		set(sink, state, "queue.buffering.max.messages", BUFFERED_MESSAGES, "brokers") &&
		set(sink, state, "queue.buffering.max.kbytes", BUFFERED_KB, "brokers") &&
		set(sink, state, "message.max.bytes", LARGEST_MESSAGE, "brokers") &&
		set(sink, state, "log.queue", "true", "brokers") &&
		set(sink, state, "log_level", "4", "brokers");
}

static void on_report(rd_kafka_t *producer, const rd_kafka_message_t *message, void *opaque);
static void on_error(rd_kafka_t *producer, int code, const char *reason, void *opaque);
static void on_log(const rd_kafka_t *producer, int level, const char *facility, const char *text);

static bool
configure(OrionSink *sink, json_t *config)
{
	static const char *const known[] = {
		"brokers", "topic", "key", "source", "client_id", "compression", "linger_ms", "tls", "sasl", NULL
	};
	KafkaState *state = calloc(1, sizeof(*state));
	char text[	200];
	const char *brokers,
			   *source,
			   *client,
			   *compression;
	long long	linger;

	if (state == NULL || (state->conf = rd_kafka_conf_new()) == NULL)
		return orion_sink_fail(sink, "out of memory");
	sink->state = state;
	state->bell = -1;
	snprintf(text, sizeof(text), "/orion/%.150s", sink->name);
	if (!orion_config_known(sink, config, known) ||
		!orion_config_string(sink, config, "brokers", NULL, &brokers) ||
		!orion_config_string(sink, config, "source", text, &source) ||
		!orion_config_string(sink, config, "client_id", "orion", &client) ||
		!orion_config_string(sink, config, "compression", "none", &compression) ||
		!orion_config_integer(sink, config, "linger_ms", 0, 1000, 1, &linger) ||
		!configure_templates(sink, state, config))
		return false;
	state->source = strdup(source); /* may point to text */
	snprintf(text, sizeof(text), "%lld", linger);
	if (!set(sink, state, "bootstrap.servers", brokers, "brokers") ||
		!set(sink, state, "client.id", client, "client_id") ||
		!set(sink, state, "compression.codec", compression, "compression") ||
		!set(sink, state, "linger.ms", text, "linger_ms") ||
		!configure_promises(sink, state) || !configure_security(sink, state, config))
		return false;
	rd_kafka_conf_set_opaque(state->conf, sink);
	rd_kafka_conf_set_dr_msg_cb(state->conf, on_report);
	rd_kafka_conf_set_error_cb(state->conf, on_error);
	rd_kafka_conf_set_log_cb(state->conf, on_log);
	return state->source != NULL || orion_sink_fail(sink, "out of memory");
}

/* ---- connecting ---- */

/* Reports ring a bell that poll can wait for. */
static bool
hang_bell(KafkaState *state)
{
	static const uint64_t one = 1;
	rd_kafka_queue_t *reports = rd_kafka_queue_get_main(state->producer);

	state->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (state->bell >= 0)
		rd_kafka_queue_io_event_enable(reports, state->bell, &one, sizeof(one));
	rd_kafka_queue_destroy(reports);
	return state->bell >= 0;
}

static bool
kafka_connect(OrionSink *sink)
{
	KafkaState *state = sink->state;
	const struct rd_kafka_metadata *metadata;
	rd_kafka_conf_t *conf = rd_kafka_conf_dup(state->conf);
	rd_kafka_resp_err_t err;
	char		why[256];

	state->producer = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof(why));
	if (state->producer == NULL)
	{
		rd_kafka_conf_destroy(conf);
		return orion_sink_fail(sink, "kafka: %s", why);
	}
	rd_kafka_set_log_queue(state->producer, NULL);	/* the main one */
	sink->why[0] = '\0';
	err = rd_kafka_metadata(state->producer, 0, NULL, &metadata, ORION_CONNECT_TIMEOUT * 1000);
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		rd_kafka_poll(state->producer, 0);	/* on_error knows more */
		if (sink->why[0] == '\0')
			orion_sink_fail(sink, "kafka: no broker answers: %s", rd_kafka_err2str(err));
		return false;
	}
	rd_kafka_metadata_destroy(metadata);
	state->inflight = 0;
	state->full = state->broken = false;
	state->last_confirm = sink->now;
	return hang_bell(state) || orion_sink_fail(sink, "could not create an eventfd");
}

/* ---- publishing ---- */

static bool
add_header(rd_kafka_headers_t *headers, const char *name, OrionText value)
{
	return value.len == 0 ||
		rd_kafka_header_add(headers, name, -1, value.str, (ssize_t) value.len) == RD_KAFKA_RESP_ERR_NO_ERROR;
}

/* NULL when memory is out. */
static rd_kafka_headers_t *
make_headers(const OrionEvent *event, const char *source)
{
	rd_kafka_headers_t *headers = rd_kafka_headers_new(10);

	if (headers && add_header(headers, "content-type", orion_text_of("application/json")) &&
		add_header(headers, "ce_specversion", orion_text_of("1.0")) &&
		add_header(headers, "ce_id", event->id) &&
		add_header(headers, "ce_type", event->type) &&
		add_header(headers, "ce_source", orion_text_of(source)) &&
		add_header(headers, "ce_time", event->occurredat) &&
		add_header(headers, "ce_subject", event->aggregateid) &&
		add_header(headers, "ce_correlationid", event->correlationid) &&
		add_header(headers, "x-orion-position", event->position))
		return headers;
	if (headers)
		rd_kafka_headers_destroy(headers);
	return NULL;
}

/* The topic, terminated, and behind it the key, in state->text; false: memory is out. */
static bool
expand(KafkaState *state, const OrionEvent *event, size_t *topic_len)
{
	OrionBuffer *text = &state->text;

	text	  ->start = text->end = 0;

	if (!orion_template_expand(state->topic, event, text))
		return false;
	*topic_len = text->end;

	if (!orion_buffer_reserve(text, 1))
		return false;
	text	  ->data[text->end++] = '\0';

	return orion_template_expand(state->key, event, text);
}

/* The event's memory stays until its report, so the library need not copy it. */
static rd_kafka_resp_err_t
produce(KafkaState *state, const OrionEvent *event, size_t topic_len, rd_kafka_headers_t *headers)
{
	const OrionBuffer *text = &state->text;
	size_t		key_len = text->end - topic_len - 1;
	const void *key = key_len > 0 ? text->data + topic_len + 1 : NULL;

	return rd_kafka_producev(state->producer,
							 RD_KAFKA_V_TOPIC((const char *) text->data),
							 RD_KAFKA_V_KEY(key, key_len),
							 RD_KAFKA_V_VALUE((void *) event->envelope.str, event->envelope.len),
							 RD_KAFKA_V_HEADERS(headers),
							 RD_KAFKA_V_MSGFLAGS(0),
							 RD_KAFKA_V_OPAQUE((void *) (uintptr_t) event->number),
							 RD_KAFKA_V_END);
}

/* False: begin anew. *later: the producer is full for now. */
static bool
put_event(OrionSink *sink, KafkaState *state, OrionEvent *event, bool *later)
{
	rd_kafka_headers_t *headers;
	rd_kafka_resp_err_t err;
	size_t		topic_len;

	*later = false;
	if (!expand(state, event, &topic_len))
		return orion_sink_fail(sink, "out of memory");
	if (!is_topic((const char *) state->text.data, topic_len))
	{
		orion_sink_reject(sink, event, "\"topic\" makes no name of a Kafka topic for this event");
		return true;
	}
	headers = make_headers(event, state->source);
	if (headers == NULL)
		return orion_sink_fail(sink, "out of memory");
	err = produce(state, event, topic_len, headers);
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		if (state->inflight++ == 0)
			state->last_confirm = sink->now;
		return true;
	}
	rd_kafka_headers_destroy(headers);
	*later = err == RD_KAFKA_RESP_ERR__QUEUE_FULL;
	if (err == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE)
		orion_sink_reject(sink, event, "the event is too large for a Kafka message");
	else if (!*later)
		return orion_sink_fail(sink, "kafka: %s", rd_kafka_err2str(err));
	return true;
}

static bool
kafka_publish(OrionSink *sink)
{
	KafkaState *state = sink->state;
	OrionQueue *queue = &sink->queue;
	bool		later = false;

	for (; queue->next < queue->tail && !state->full; queue->next += !later)
	{
		OrionEvent *event = orion_queue_at(queue, queue->next);

		if (!event->settled && !put_event(sink, state, event, &later))
			return false;
		state->full = later;
	}
	return true;
}

/* ---- what the library reports ---- */

/* Refused because of what it is, and not because of where Kafka stands. */
static bool
is_refusal(const KafkaState *state, rd_kafka_resp_err_t err)
{
	switch (err)
	{
		case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
		case RD_KAFKA_RESP_ERR_INVALID_MSG:
		case RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE:
		case RD_KAFKA_RESP_ERR_INVALID_RECORD:
			return true;
			/* one topic of many: it must not hold the others up */
		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
		case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION:
			return !state->topic_fixed;
		default:
			return false;
	}
}

static void
on_report(rd_kafka_t *producer, const rd_kafka_message_t *message, void *opaque)
{
	OrionSink  *sink = opaque;
	KafkaState *state = sink->state;
	OrionEvent *event = orion_queue_at(&sink->queue, (uint64_t) (uintptr_t) message->_private);

	state->inflight--;
	state->full = false;
	if (state->producer == NULL || state->broken)
		return;					/* it is being closed */
	if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		state->last_confirm = sink->now;
		sink->slow[0] = '\0';
		if (event)
			event->settled = true;
	}
	else if (is_refusal(state, message->err))
		orion_sink_reject(sink, event, rd_kafka_err2str(message->err));
	else
	{
		state->broken = true;
		orion_sink_fail(sink, "kafka: %s", rd_kafka_err2str(message->err));
	}
}

static void
on_error(rd_kafka_t *producer, int code, const char *reason, void *opaque)
{
	OrionSink  *sink = opaque;
	KafkaState *state = sink->state;

	if (code == RD_KAFKA_RESP_ERR__FATAL)
		state->broken = true;
	if (code == RD_KAFKA_RESP_ERR__FATAL || state->bell < 0)
		orion_sink_fail(sink, "kafka: %.300s", reason);
	else if (code == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN || code == RD_KAFKA_RESP_ERR__AUTHENTICATION ||
			 code == RD_KAFKA_RESP_ERR__SSL)
		snprintf(sink->slow, sizeof(sink->slow), "kafka: %.200s", reason);
}

static void
on_log(const rd_kafka_t *producer, int level, const char *facility, const char *text)
{
	OrionSink  *sink = rd_kafka_opaque(producer);
	KafkaState *state = sink->state;
	char		line[400];

	if (state->last_log && sink->now - state->last_log < LOG_EVERY)
		return;
	state->last_log = sink->now;
	snprintf(line, sizeof(line), "kafka: %.350s", text);
	orion_sink_log(sink, line);
}

static bool
kafka_readable(OrionSink *sink)
{
	KafkaState *state = sink->state;
	uint64_t	rings;

	while (read(state->bell, &rings, sizeof(rings)) > 0)
		;
	while (!state->broken && rd_kafka_poll(state->producer, 0) > 0)
		;
	return !state->broken;		/* sink->why is set */
}

/* ---- timers and the rest ---- */

static bool
kafka_tick(OrionSink *sink, long now)
{
	KafkaState *state = sink->state;

	if (!kafka_readable(sink))
		return false;
	if (state->inflight == 0)
		return true;
	if (now - state->last_confirm > ORION_STALL_TIMEOUT)
		return orion_sink_fail(sink, "kafka: nothing was confirmed for %d s", ORION_STALL_TIMEOUT / 1000);
	if (now - state->last_confirm > SLOW_AFTER && sink->slow[0] == '\0')
		snprintf(sink->slow, sizeof(sink->slow), "kafka: messages are not confirmed");
	return true;
}

static bool
kafka_flush(OrionSink *sink)
{
	return true;				/* the library's threads write */
}

static bool
kafka_wants_write(OrionSink *sink)
{
	return false;
}

static int
kafka_fd(OrionSink *sink)
{
	KafkaState *state = sink->state;

	return state->bell;
}

/* Messages point into the queue, so none may be left when this returns. */
static void
kafka_close(OrionSink *sink)
{
	KafkaState *state = sink->state;
	rd_kafka_t *producer = state->producer;

	state->producer = NULL;		/* reports from now on count for nothing */
	if (producer)
	{
		rd_kafka_purge(producer, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
		rd_kafka_poll(producer, 0);
		rd_kafka_destroy(producer);
	}
	if (state->bell >= 0)
		close(state->bell);
	state->bell = -1;
	orion_buffer_free(&state->text);
}

const OrionSinkOps orion_sink_kafka = {
	.kind = "kafka",
	.configure = configure,
	.connect = kafka_connect,
	.publish = kafka_publish,
	.flush = kafka_flush,
	.wants_write = kafka_wants_write,
	.fd = kafka_fd,
	.on_readable = kafka_readable,
	.tick = kafka_tick,
	.close = kafka_close,
};
