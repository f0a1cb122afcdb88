// uses: bgworkers/courier/template.c bgworkers/courier/config.c bgworkers/courier/sink.c bgworkers/courier/queue.c bgworkers/courier/amqp_topology.c bgworkers/courier/amqp_message.c bgworkers/courier/amqp_frame.c bgworkers/courier/amqp_connection.c bgworkers/courier/link.c bgworkers/courier/tls.c -ljansson -lrabbitmq -lssl -lcrypto
/*
 * test_courier.c
 *	  The courier's pure parts: templates, URLs, settings, positions, topology,
 *	  messages, and the words that leave the process.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "courier/amqp_frame.h"
#include "courier/amqp_message.h"
#include "courier/amqp_topology.h"
#include "courier/config.h"
#include "courier/template.h"

#define TEXT(s) orion_text(s, strlen(s))

static OrionEvent *
make_event(void)
{
	OrionEvent *event = calloc(1, sizeof(*event));

	event->position = TEXT("3:9");
	event->id = TEXT("id-1");
	event->type = TEXT("user.created");
	event->aggregatetype = TEXT("user");
	event->aggregateid = TEXT("42");
	event->correlationid = TEXT("c");
	event->occurredat = TEXT("2026-01-02T03:04:05.678901+00:00");
	event->envelope = TEXT("{\"a\":1}");
	return event;
}

static void
test_template(void **state)
{
	static const struct
	{
		const char *string;
		const char *expansion;
	}			cases[] = {
		{"plain", "plain"},
		{"user:{aggregateid}", "user:42"},
		{"{type}", "user.created"},
		{"{aggregatetype}/{aggregateid}/{id}{correlationid}!", "user/42/id-1c!"},
		{"}{id}}", "}id-1}"},
		{"{{orion}:{id}", "{orion}:id-1"},
		{"user:{{{aggregateid}}}:profile", "user:{42}:profile"},
		{"{{}}", "{}"},
	};
	OrionEvent *event = make_event();
	char		err[200];
	bool		fixed;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		OrionBuffer out = {0};

		assert_true(orion_template_check(cases[i].string, &fixed, err, sizeof(err)));
		assert_int_equal(fixed, strcmp(cases[i].string, "plain") == 0 || strcmp(cases[i].string, "{{}}") == 0);
		assert_true(orion_template_expand(cases[i].string, event, &out));
		assert_int_equal(orion_buffer_len(&out), strlen(cases[i].expansion));
		assert_memory_equal(out.data + out.start, cases[i].expansion, strlen(cases[i].expansion));
		orion_buffer_free(&out);
	}
	assert_false(orion_template_check("a{nobody}", &fixed, err, sizeof(err)));
	assert_non_null(strstr(err, "{nobody}"));
	assert_false(orion_template_check("{", &fixed, err, sizeof(err)));
	/* what is shown ends between two characters */
	assert_false(orion_template_check("{xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\xc3\xa9", &fixed, err, sizeof(err)));
	assert_non_null(strstr(err, "x\" (known"));
	assert_false(orion_template_check("{{{id", &fixed, err, sizeof(err)));
	assert_false(orion_template_check("{{{{{nobody}", &fixed, err, sizeof(err)));
	free(event);
}

/* A value that looks like a placeholder is not expanded again. */
static void
test_template_is_not_recursive(void **state)
{
	OrionEvent *event = make_event();
	OrionBuffer out = {0};

	event->aggregateid = TEXT("{id}");
	assert_true(orion_template_expand("{aggregateid}", event, &out));
	assert_int_equal(orion_buffer_len(&out), 4);
	assert_memory_equal(out.data, "{id}", 4);
	orion_buffer_free(&out);
	free(event);
}

/* What an event brings in must not match more than itself. */
static void
test_template_in_a_glob(void **state)
{
	OrionEvent *event = make_event();
	OrionBuffer out = {0};
	static const char expected[] = "list:\\*\\?\\[a\\-b\\]\\\\x:*";

	event->aggregateid = TEXT("*?[a-b]\\x");
	assert_true(orion_template_expand_glob("list:{aggregateid}:*", event, &out));
	assert_int_equal(orion_buffer_len(&out), strlen(expected));
	assert_memory_equal(out.data, expected, strlen(expected));
	orion_buffer_free(&out);
	free(event);
}

static void
test_url(void **state)
{
	OrionUrl	url;
	char		err[160];

	assert_true(orion_url_parse("redis://h", "redis", 6379, &url, err, sizeof(err)));
	assert_string_equal(url.host, "h");
	assert_int_equal(url.port, 6379);
	assert_null(url.user);
	assert_null(url.password);
	assert_string_equal(url.path, "");
	assert_false(url.has_path);
	orion_url_free(&url);

	assert_true(orion_url_parse("amqp://us%65r:p%40%3A%2fs@h.example:1234/%2f", "amqp", 5672, &url, err, sizeof(err)));
	assert_string_equal(url.user, "user");
	assert_string_equal(url.password, "p@:/s");
	assert_string_equal(url.host, "h.example");
	assert_int_equal(url.port, 1234);
	assert_string_equal(url.path, "/");
	assert_true(url.has_path);
	orion_url_free(&url);

	assert_true(orion_url_parse("redis://:a:b@[::1]:7/3", "redis", 6379, &url, err, sizeof(err)));
	assert_string_equal(url.user, "");
	assert_string_equal(url.password, "a:b");
	assert_string_equal(url.host, "::1");
	assert_int_equal(url.port, 7);
	assert_string_equal(url.path, "3");
	orion_url_free(&url);

	assert_true(orion_url_parse("redis://u@[fe80::1]", "redis", 6379, &url, err, sizeof(err)));
	assert_string_equal(url.host, "fe80::1");
	assert_null(url.password);
	orion_url_free(&url);
}

static void
test_wrong_urls(void **state)
{
	static const char *const wrong[] = {
		"", "redis", "redis:", "redis:/", "redis://", "redis:///0", "http://sesame@h/", "rediss://sesame@h",
		"redis://sesame:%@h", "redis://sesame%0@h", "redis://sesame:x%00y@h", "redis://u:sesame%zz@h",
		"redis://h:", "redis://h:0", "redis://h:65536", "redis://h:99999999999999999999", "redis://h:-1",
		"redis://h:1x", "redis://h: 1", "redis://[::1", "redis://[::1]x", "redis://[]:1", "redis://u:sesame@",
		"redis://h/0?x=sesame", "redis://h/0#sesame", "redis://h/%", "redis://u:sesame@@:5", "Redis://h"
	};
	OrionUrl	url;
	char		err[160];

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
	{
		memset(err, 0, sizeof(err));
		if (orion_url_parse(wrong[i], "redis", 6379, &url, err, sizeof(err)))
			fail_msg("accepted: %s", wrong[i]);
		assert_true(strlen(err) > 0);
		assert_null(strstr(err, "sesame"));
	}
}

#define TAG			"00000000000000a1"
#define OTHER_TAG	"00000000000000a2"

static void
test_positions(void **state)
{
	static const struct
	{
		const char *a;
		const char *b;
		int			order;
	}			cases[] = {
		{"1:1:" TAG, "1:1:" TAG, 0}, {"1:2:" TAG, "1:10:" TAG, -1}, {"2:1:" TAG, "1:99:" TAG, 1}, {"0:0:" TAG, "0:1:" TAG, -1},
		{"18446744073709551615:1:" TAG, "18446744073709551614:2:" TAG, 1}, {"007:1:" TAG, "7:1:" TAG, 0},
		{"2:1:" TAG, "1:99:" OTHER_TAG, 1},
	};
	static const char *const wrong[] = {"", ":", "1", "1:", ":1", "1:1", "1:1:", "1:1:1", "1:1:" TAG "0", "1:1:" TAG ":", "a:1:" TAG,
		"1:b:" TAG, "-1:1:" TAG, "1: 1:" TAG, "18446744073709551616:1:" TAG, "1:1:00000000000000A1", "1:1:" OTHER_TAG
	};
	int			order;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		assert_true(orion_position_compare(TEXT(cases[i].a), TEXT(cases[i].b), &order));
		assert_int_equal(order, cases[i].order);
		assert_true(orion_position_compare(TEXT(cases[i].b), TEXT(cases[i].a), &order));
		assert_int_equal(order, -cases[i].order);
	}
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
	{
		assert_false(orion_position_compare(TEXT(wrong[i]), TEXT("1:1:" TAG), &order));
		assert_false(orion_position_covers(TEXT("1:1:" TAG), TEXT(wrong[i])));
		assert_false(orion_position_covers(TEXT(wrong[i]), TEXT("1:1:" TAG)));
	}
	assert_true(orion_position_covers(TEXT("1:5:" TAG), TEXT("1:5:" TAG)));
	assert_true(orion_position_covers(TEXT("1:5:" TAG), TEXT("1:4:" TAG)));
	assert_false(orion_position_covers(TEXT("1:5:" TAG), TEXT("1:6:" TAG)));
	/* a later window need not be of this database */
	assert_false(orion_position_covers(TEXT("2:5:" TAG), TEXT("1:4:" TAG)));
}

static void
test_blot(void **state)
{
	char		out[32];

	orion_sink_blot("pass pa55 pa55pa55\n\x80", "pa55", out, sizeof(out));
	assert_string_equal(out, "pass *** ******??");
	orion_sink_blot("plain", NULL, out, sizeof(out));
	assert_string_equal(out, "plain");
	orion_sink_blot("plain", "", out, sizeof(out));
	assert_string_equal(out, "plain");
	orion_sink_blot("a text that is far longer than the room for it", "text", out, sizeof(out));
	assert_true(strlen(out) < sizeof(out));
	assert_null(strstr(out, "text"));
}

/* ---- the queue ---- */

static bool
add(OrionQueue *queue, uint64_t id, int nfields, const char *field)
{
	OrionBuffer buf = {0};
	OrionFrame	frame;
	bool		added;

	orion_frame_begin(&buf, ORION_FRAME_EVENT, id);
	for (int i = 0; i < nfields; i++)
		orion_frame_put_str(&buf, field);
	orion_frame_end(&buf);
	assert_true(orion_frame_parse(buf.data, buf.end, 1 << 25, &frame) > 0);
	added = orion_queue_add(queue, &frame);
	orion_buffer_free(&buf);	/* the event holds a copy */
	return added;
}

static void
test_queue(void **state)
{
	OrionQueue *queue = malloc(sizeof(*queue));

	orion_queue_init(queue);
	assert_false(add(queue, 2, 8, "x"));
	assert_false(add(queue, 1, 7, "x"));
	assert_false(add(queue, 1, 9, "x"));
	assert_false(add(queue, 1, 8, ""));
	for (uint64_t n = 1; n <= ORION_QUEUE_EVENTS; n++)
	{
		assert_true(orion_queue_has_room(queue));
		assert_true(add(queue, n, 8, "x"));
	}
	assert_false(orion_queue_has_room(queue));
	assert_false(add(queue, ORION_QUEUE_EVENTS + 1, 8, "x"));
	assert_null(orion_queue_at(queue, 0));
	assert_null(orion_queue_at(queue, ORION_QUEUE_EVENTS + 1));
	assert_memory_equal(orion_queue_at(queue, 5)->envelope.str, "x", 1);

	queue->next = 10;
	orion_queue_at(queue, 2)->settled = true;
	assert_int_equal(orion_queue_drop_settled(queue), 0);
	orion_queue_at(queue, 1)->settled = true;
	assert_int_equal(orion_queue_drop_settled(queue), 2);
	assert_null(orion_queue_at(queue, 2));
	orion_queue_rewind(queue);
	assert_int_equal(queue->next, 3);
	for (uint64_t n = 3; n <= ORION_QUEUE_EVENTS; n++)
		orion_queue_at(queue, n)->settled = true;
	assert_int_equal(orion_queue_drop_settled(queue), ORION_QUEUE_EVENTS - 2);
	assert_int_equal(queue->bytes, 0);
	assert_int_equal(queue->next, queue->tail);
	free(queue);
}

static void
test_queue_bytes(void **state)
{
	OrionQueue *queue = malloc(sizeof(*queue));
	char	   *big = malloc(ORION_QUEUE_BYTES + 1);

	memset(big, 'x', ORION_QUEUE_BYTES);
	big[ORION_QUEUE_BYTES / 8] = '\0';
	orion_queue_init(queue);
	assert_true(add(queue, 1, 8, big));
	assert_false(orion_queue_has_room(queue));
	orion_queue_at(queue, 1)->settled = true;
	assert_int_equal(orion_queue_drop_settled(queue), 1);
	assert_true(orion_queue_has_room(queue));
	free(big);
	free(queue);
}

/* ---- RabbitMQ ---- */

static void
test_topology_default(void **state)
{
	OrionSink  *sink = calloc(1, sizeof(*sink));
	OrionTopology *topology = malloc(sizeof(*topology));
	json_t	   *config = json_object();

	assert_true(orion_topology_configure(sink, config, topology));
	assert_int_equal(topology->nexchanges, 4);
	assert_int_equal(topology->nqueues, 5);
	assert_int_equal(topology->nbindings, 12);
	for (int i = 0; i < topology->nqueues; i++)
	{
		assert_int_equal(topology->queues[i].ttl, 86400000);
		assert_string_equal(topology->queues[i].dead_letter, "orion.dead");
		assert_string_equal(topology->queues[i].type, "classic");
	}
	assert_string_equal(topology->exchanges[0].type, "topic");
	assert_string_equal(topology->bindings[0].key, "#");
	assert_string_equal(orion_topology_exchange(topology, TEXT("user.created")), "user.events");
	assert_string_equal(orion_topology_exchange(topology, TEXT("auth")), "auth.events");
	assert_string_equal(orion_topology_exchange(topology, TEXT("use.r")), "system.events");
	assert_string_equal(orion_topology_exchange(topology, TEXT("order.paid")), "system.events");
	assert_string_equal(orion_topology_exchange(topology, TEXT("")), "system.events");
	json_decref(topology->defaults);
	json_decref(config);
	free(topology);
	free(sink);
}

static void
test_topology_own(void **state)
{
	OrionSink  *sink = calloc(1, sizeof(*sink));
	OrionTopology *topology = malloc(sizeof(*topology));
	json_t	   *config = json_loads("{\"exchanges\": [{\"name\": \"a\", \"type\": \"fanout\"}, \"b\"],"
									" \"queues\": [{\"name\": \"q\", \"type\": \"quorum\", \"ttl\": 0, \"dead_letter\": null}, \"r\"],"
									" \"bindings\": [{\"exchange\": \"a\", \"queue\": \"q\", \"key\": \"x.*\"}]}", 0, NULL);

	assert_true(orion_topology_configure(sink, config, topology));
	assert_string_equal(topology->exchanges[0].type, "fanout");
	assert_string_equal(topology->exchanges[1].name, "b");
	assert_string_equal(topology->queues[0].type, "quorum");
	assert_int_equal(topology->queues[0].ttl, 0);
	assert_null(topology->queues[0].dead_letter);
	assert_string_equal(topology->queues[1].dead_letter, "orion.dead");
	assert_string_equal(topology->bindings[0].key, "x.*");
	assert_string_equal(orion_topology_exchange(topology, TEXT("order.paid")), "a");
	json_decref(config);
	free(topology);
	free(sink);
}

static void
test_topology_wrong(void **state)
{
	static const struct
	{
		const char *config;
		const char *string;
	}			cases[] = {
		{"{\"exchanges\": {}}", "\"exchanges\" must be an array"},
		{"{\"exchanges\": []}", "\"exchanges\" must name"},
		{"{\"queues\": [\"q\"]}", "\"exchanges\" must name"},
		{"{\"exchanges\": [7]}", "\"exchanges\" must hold"},
		{"{\"exchanges\": [{}]}", "\"name\" is missing"},
		{"{\"exchanges\": [\"\"]}", "\"name\" must be a string"},
		{"{\"exchanges\": [{\"name\": \"a\", \"typ\": \"b\"}]}", "unknown key \"typ\""},
		{"{\"exchanges\": [\"a\"], \"queues\": [{\"name\": \"q\", \"ttl\": -1}]}", "\"ttl\" must be an integer"},
		{"{\"exchanges\": [\"a\"], \"queues\": [{\"name\": \"q\", \"type\": \"stream\"}]}", "\"type\" has an unknown value"},
		{"{\"exchanges\": [\"a\"], \"bindings\": [{\"exchange\": \"a\"}]}", "\"queue\" is missing"},
	};
	OrionSink  *sink = calloc(1, sizeof(*sink));
	OrionTopology *topology = malloc(sizeof(*topology));

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		json_t	   *config = json_loads(cases[i].config, 0, NULL);

		assert_false(orion_topology_configure(sink, config, topology));
		if (strstr(sink->why, cases[i].string) == NULL)
			fail_msg("%s: %s", cases[i].config, sink->why);
		json_decref(config);
	}
	free(topology);
	free(sink);
}

static void
test_seconds(void **state)
{
	static const struct
	{
		const char *string;
		uint64_t	seconds;
	}			cases[] = {
		{"1970-01-01T00:00:00Z", 0}, {"2026-01-02T03:04:05Z", 1767323045},
		{"2026-01-02T03:04:05.678901+00:00", 1767323045}, {"2026-01-02T05:04:05+02:00", 1767323045},
		{"2026-01-01 22:34:05.1-04:30", 1767323045},
	};
	static const char *const wrong[] = {
		"", "2026-01-02", "2026-01-02T03:04:05", "2026-01-02T03:04:05.", "2026-01-02T03:04:05.1", "2026-01-02T03:04:05+0:00",
		"2026-01-02T03:04:05+00:000", "2026-01-02T03:04:05Zx", "x026-01-02T03:04:05Z", "1969-12-31T23:59:59Z"
	};
	uint64_t	seconds;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		assert_true(orion_rfc3339_seconds(TEXT(cases[i].string), &seconds));
		assert_int_equal(seconds, cases[i].seconds);
	}
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		assert_false(orion_rfc3339_seconds(TEXT(wrong[i]), &seconds));
}

/* Walks the frames; returns the bytes of body, and counts frames by type. */
static size_t
walk(const OrionBuffer *out, size_t frame_max, int *counts)
{
	size_t		body = 0;
	const uint8_t *at = out->data + out->start;
	const uint8_t *end = out->data + out->end;

	while (at < end)
	{
		size_t		len = (size_t) at[3] << 24 | at[4] << 16 | at[5] << 8 | at[6];

		assert_true(at[0] >= 1 && at[0] <= 3);
		assert_int_equal(at[1] << 8 | at[2], 1);
		assert_true(len + 8 <= frame_max);
		assert_int_equal(at[7 + len], 0xCE);
		counts[at[0]]++;
		if (at[0] == 3)
			body += len;
		at += len + 8;
	}
	assert_ptr_equal(at, end);
	return body;
}

static void
test_message_sizes(void **state)
{
	static const size_t sizes[] = {0, 1, 4087, 4088, 4089, 8176, 8177, 100000};
	OrionEvent *event = make_event();
	char	   *big = calloc(1, 100000);

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
	{
		OrionBuffer out = {0};
		int			counts[4] = {0};

		event->envelope = orion_text(big, sizes[i]);
		assert_null(orion_amqp_message(&out, event, 1, "user.events", "/orion/x", 4096));
		assert_int_equal(walk(&out, 4096, counts), sizes[i]);
		assert_int_equal(counts[1], 1);
		assert_int_equal(counts[2], 1);
		assert_int_equal(counts[3], (sizes[i] + 4087) / 4088);
		orion_buffer_free(&out);
	}
	free(big);
	free(event);
}

static void
test_message_limits(void **state)
{
	OrionEvent *event = make_event();
	OrionBuffer out = {0};
	char		longest[300];
	int			counts[4] = {0};

	memset(longest, 'x', sizeof(longest));
	event->id = event->type = event->correlationid = event->aggregateid = event->occurredat = event->position =
		orion_text(longest, ORION_AMQP_SHORT);
	longest[255] = '\0';
	assert_null(orion_amqp_message(&out, event, 1, longest, longest, 4096));
	walk(&out, 4096, counts);
	longest[255] = 'x';
	orion_buffer_consume(&out, orion_buffer_len(&out));
	event->correlationid = event->aggregateid = event->occurredat = event->position = orion_text(longest, 300);
	assert_null(orion_amqp_message(&out, event, 1, "e", "s", 4096));
	orion_buffer_consume(&out, orion_buffer_len(&out));
	event->type = orion_text(longest, 256);
	assert_non_null(orion_amqp_message(&out, event, 1, "e", "s", 4096));
	event->type = TEXT("t");
	event->id = orion_text(longest, 256);
	assert_non_null(orion_amqp_message(&out, event, 1, "e", "s", 4096));
	assert_int_equal(orion_buffer_len(&out), 0);
	orion_buffer_free(&out);
	free(event);
}

/* ---- frames from a broker ---- */

typedef struct Wire
{
	uint8_t		bytes[140000];
	size_t		len;
}			Wire;

static void
wire_put(Wire * wire, const void *bytes, size_t len)
{
	memcpy(wire->bytes + wire->len, bytes, len);
	wire->len += len;
}

static void
wire_u32(uint8_t *at, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		at[i] = value >> (24 - 8 * i);
}

static void
wire_begin(Wire * wire, uint8_t type)
{
	uint8_t		header[] = {type, 0, 1, 0, 0, 0, 0};

	wire->len = 0;
	wire_put(wire, header, sizeof(header));
}

static void
wire_end(Wire * wire)
{
	wire_u32(wire->bytes + 3, wire->len - 7);
	wire_put(wire, "\xCE", 1);
}

static long
wire_parse(Wire * wire, amqp_pool_t *pool, amqp_frame_t *frame)
{
	return orion_amqp_frame_parse(wire->bytes, wire->len, 131072, pool, frame);
}

/* basic.deliver with its tag */
static void
make_deliver(Wire * wire)
{
	wire_begin(wire, 1);
	wire_put(wire, "\0\x3c\0\x3c\1t\0\0\0\0\0\0\0\x7\0\1e\2rk", 20);
	wire_end(wire);
}

/* The properties content type, type "t", and headers that are that many tables (F) or arrays (A) in one another. */
static void
make_header(Wire * wire, char kind, int depth)
{
	size_t		levels;
	size_t		lengths[30000];

	wire_begin(wire, 2);
	wire_put(wire, "\0\x3c\0\0\0\0\0\0\0\0\0\5\xa0\x20\4text", 19);
	lengths[0] = wire->len;
	wire_put(wire, "\0\0\0\0", 4);
	for (levels = 1; levels <= depth; levels++)
	{
		if (kind == 'F' || levels == 1)
			wire_put(wire, "\1k", 2);
		wire_put(wire, &kind, 1);
		lengths[levels] = wire->len;
		wire_put(wire, "\0\0\0\0", 4);
	}
	while (levels-- > 0)
		wire_u32(wire->bytes + lengths[levels], wire->len - lengths[levels] - 4);
	wire_put(wire, "\1t", 2);
	wire_end(wire);
}

static void
test_frame_method(void **state)
{
	Wire	   *wire = calloc(1, sizeof(*wire));
	amqp_pool_t pool;
	amqp_frame_t frame;
	amqp_basic_deliver_t *deliver;

	init_amqp_pool(&pool, 4096);
	make_deliver(wire);
	for (size_t len = wire->len; len-- > 1;)
		assert_int_equal(orion_amqp_frame_parse(wire->bytes, len, 131072, &pool, &frame), 0);
	assert_int_equal(wire_parse(wire, &pool, &frame), wire->len);
	assert_int_equal(frame.frame_type, AMQP_FRAME_METHOD);
	assert_int_equal(frame.payload.method.id, AMQP_BASIC_DELIVER_METHOD);
	deliver = frame.payload.method.decoded;
	assert_int_equal(deliver->delivery_tag, 7);
	assert_memory_equal(deliver->routing_key.bytes, "rk", 2);
	assert_int_equal(orion_amqp_frame_parse(wire->bytes, wire->len, wire->len - 1, &pool, &frame), -1); /* longer than agreed */
	empty_amqp_pool(&pool);
	free(wire);
}

static void
test_frame_wrong(void **state)
{
	static const struct
	{
		size_t		at;
		uint8_t		byte;
	}			changes[] = {
		{0, 0}, {0, 4}, {0, 'A'}, {0, 'H'}, {1, 1}, {2, 2}, {3, 0xff}, {8, 0x3d}, {10, 0xff}, {11, 0xff}, {27, 0},
	};
	Wire	   *wire = calloc(1, sizeof(*wire));
	amqp_pool_t pool;
	amqp_frame_t frame;

	init_amqp_pool(&pool, 4096);
	for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++)
	{
		make_deliver(wire);
		wire->bytes[changes[i].at] = changes[i].byte;
		if (wire_parse(wire, &pool, &frame) != -1)
			fail_msg("accepted: byte %zu is %d", changes[i].at, changes[i].byte);
	}
	/* exchange.declare: brokers do not declare anything at us */
	wire_begin(wire, 1);
	wire_put(wire, "\0\x28\0\x0a\0\0\1e\1t\0\0\0\0\0", 14);
	wire_end(wire);
	assert_int_equal(wire_parse(wire, &pool, &frame), -1);
	empty_amqp_pool(&pool);
	free(wire);
}

/* What a publisher may send: the library would go down with the recursion. */
static void
test_frame_headers(void **state)
{
	static const struct
	{
		char		kind;
		int			depth;
		bool		kept;
	}			cases[] = {
		{'F', 0, true}, {'F', 1, true}, {'A', 1, true}, {'F', 32, true}, {'A', 32, true}, {'F', 34, false}, {'A', 34, false},
		{'F', 18000, false}, {'A', 25000, false}, {'Z', 1, false},
	};
	Wire	   *wire = calloc(1, sizeof(*wire));
	amqp_pool_t pool;

	init_amqp_pool(&pool, 4096);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		amqp_frame_t frame;
		amqp_basic_properties_t *properties;

		make_header(wire, cases[i].kind, cases[i].depth);
		assert_int_equal(wire_parse(wire, &pool, &frame), wire->len);
		properties = frame.payload.properties.decoded;
		assert_int_equal(frame.payload.properties.body_size, 5);
		assert_int_equal(properties->_flags & AMQP_BASIC_HEADERS_FLAG, cases[i].kept ? AMQP_BASIC_HEADERS_FLAG : 0);
		if (cases[i].kept)
			assert_int_equal(properties->headers.num_entries, cases[i].depth > 0);
		assert_int_equal(properties->content_type.len, 4);
		assert_memory_equal(properties->content_type.bytes, "text", 4);
		assert_true(properties->_flags & AMQP_BASIC_TYPE_FLAG);
		assert_memory_equal(properties->type.bytes, "t", 1);
		recycle_amqp_pool(&pool);
	}
	empty_amqp_pool(&pool);
	free(wire);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_template),
		cmocka_unit_test(test_template_is_not_recursive),
		cmocka_unit_test(test_template_in_a_glob),
		cmocka_unit_test(test_url),
		cmocka_unit_test(test_wrong_urls),
		cmocka_unit_test(test_positions),
		cmocka_unit_test(test_blot),
		cmocka_unit_test(test_queue),
		cmocka_unit_test(test_queue_bytes),
		cmocka_unit_test(test_topology_default),
		cmocka_unit_test(test_topology_own),
		cmocka_unit_test(test_topology_wrong),
		cmocka_unit_test(test_seconds),
		cmocka_unit_test(test_message_sizes),
		cmocka_unit_test(test_message_limits),
		cmocka_unit_test(test_frame_method),
		cmocka_unit_test(test_frame_wrong),
		cmocka_unit_test(test_frame_headers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
