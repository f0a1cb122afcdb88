// uses: bgworkers/courier/redis_rules.c bgworkers/courier/redis_cluster.c bgworkers/courier/redis_config.c bgworkers/courier/template.c bgworkers/courier/config.c bgworkers/courier/sink.c bgworkers/courier/queue.c bgworkers/courier/tls.c bgworkers/courier/link.c -ljansson -lhiredis -lssl -lcrypto
/*
 * test_redis.c
 *	  The pure parts of the Redis driver: settings, cache rules, dependencies,
 *	  values, and the slots of a cluster.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "courier/redis_state.h"

/* ---- slots ---- */

static void
test_slots(void **state)
{
	/*
	 * the examples of the Redis Cluster specification, and CLUSTER KEYSLOT's
	 * word on others
	 */
	assert_int_equal(orion_redis_slot("123456789", 9), 0x31C3 % 16384);
	assert_int_equal(orion_redis_slot("foo", 3), 12182);
	assert_int_equal(orion_redis_slot("{user1000}.following", 20), orion_redis_slot("user1000", 8));
	assert_int_equal(orion_redis_slot("foo{}{bar}", 10), 8363);
	assert_int_equal(orion_redis_slot("foo{{bar}}zap", 13), orion_redis_slot("{bar", 4));
	assert_int_equal(orion_redis_slot("foo{bar}{zap}", 13), orion_redis_slot("bar", 3));
	assert_int_equal(orion_redis_slot("foo{bar", 7), orion_redis_slot("foo{bar", 7));
	assert_int_equal(orion_redis_slot("", 0), 0);
}

static void
test_redirections(void **state)
{
	static const char *const wrong[] = {
		"", "MOVED", "MOVED ", "MOVED 16384 h:1", "MOVED x h:1", "MOVED 1", "MOVED 1 h", "MOVED 1 h:", "MOVED 1 h:0",
		"MOVED 1 h:65536", "MOVED -1 h:1", "moved 1 h:1", "ASKING", "ERR MOVED 1 h:1", "MOVED 99999999999999999999 h:1"
	};
	OrionRedisRedirect r;

	assert_true(orion_redis_redirect_read("MOVED 3999 127.0.0.1:6381", &r));
	assert_false(r.ask);
	assert_int_equal(r.slot, 3999);
	assert_int_equal(r.port, 6381);
	assert_int_equal(r.host_len, 9);
	assert_memory_equal(r.host, "127.0.0.1", 9);
	assert_true(orion_redis_redirect_read("ASK 0 ::1:6381", &r));
	assert_true(r.ask);
	assert_memory_equal(r.host, "::1", 3);
	assert_true(orion_redis_redirect_read("MOVED 7 :6381", &r));
	assert_int_equal(r.host_len, 0);	/* the host that said so */
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
	{
		if (orion_redis_redirect_read(wrong[i], &r))
			fail_msg("accepted: %s", wrong[i]);
	}
}

/* Reads protocol text as an answer to CLUSTER SLOTS. */
static bool
read_map(OrionRedisMap *map, const char *protocol)
{
	redisReader *reader = redisReaderCreate();
	void	   *reply = NULL;
	bool		good;

	assert_int_equal(redisReaderFeed(reader, protocol, strlen(protocol)), REDIS_OK);
	assert_int_equal(redisReaderGetReply(reader, &reply), REDIS_OK);
	assert_non_null(reply);
	good = orion_redis_map_read(map, reply, "asked");
	freeReplyObject(reply);
	redisReaderFree(reader);
	return good;
}

static void
test_map(void **state)
{
	static const char *const wrong[] = {
		"+OK\r\n", "*0\r\n", "*1\r\n:1\r\n", "*1\r\n*2\r\n:0\r\n:1\r\n", "*1\r\n*3\r\n:0\r\n:16384\r\n*2\r\n$1\r\nh\r\n:1\r\n",
		"*1\r\n*3\r\n:-1\r\n:1\r\n*2\r\n$1\r\nh\r\n:1\r\n", "*1\r\n*3\r\n:0\r\n:1\r\n*2\r\n$1\r\nh\r\n:0\r\n",
		"*1\r\n*3\r\n:0\r\n:1\r\n*2\r\n$1\r\nh\r\n$1\r\n1\r\n", "*1\r\n*3\r\n:0\r\n:1\r\n$1\r\nh\r\n", "*1\r\n*3\r\n+a\r\n:1\r\n*2\r\n$1\r\nh\r\n:1\r\n",
		"-ERR no\r\n"
	};
	OrionRedisMap map;

	assert_true(read_map(&map, "*2\r\n*3\r\n:0\r\n:5\r\n*2\r\n$1\r\na\r\n:7000\r\n*4\r\n:6\r\n:7\r\n*3\r\n$-1\r\n:7001\r\n$2\r\nid\r\n*2\r\n$1\r\nr\r\n:7002\r\n"));
	assert_int_equal(map.n, 2);
	assert_string_equal(map.nodes[0].host, "a");
	assert_string_equal(map.nodes[1].host, "asked");
	assert_int_equal(map.nodes[1].port, 7001);
	assert_int_equal(map.owner[5], 0);
	assert_int_equal(map.owner[6], 1);
	assert_int_equal(map.owner[8], -1);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
	{
		if (read_map(&map, wrong[i]))
			fail_msg("accepted: %s", wrong[i]);
	}
}

/* ---- settings ---- */

typedef struct Try
{
	OrionSink	sink;
	OrionRedisSettings settings;
	json_t	   *config;
	json_t	   *relay;
}			Try;

static Try *
try_config(const char *config, const char *relay, bool *good)
{
	Try		   *try = calloc(1, sizeof(*try));

	try->sink.name = "test";
	try->config = json_loads(config, 0, NULL);
	assert_non_null(try->config);
	try->relay = relay ? json_loads(relay, 0, NULL) : NULL;
	assert_true(relay == NULL || try->relay);
	try->sink.relay = try->relay;
	*good = orion_redis_configure(&try->sink, try->config, &try->settings);
	return try;
}

static void
free_try(Try * try)
{
	OrionRedisRules *rules = &try->settings.rules;

	for (size_t i = 0; i < ORION_REDIS_RULES; i++)
	{
		free(rules->rules[i].del.items);
		free(rules->rules[i].tags.items);
		free(rules->rules[i].scan.items);
		free(rules->rules[i].flush.items);
		free(rules->rules[i].set_tags.items);
	}
	free(try->settings.position_key);
	free((char *) try->settings.side.stream);
	SSL_CTX_free(try->settings.login.tls.context);
	orion_url_free(&try->settings.login.url);
	json_decref(try->config);
	json_decref(try->relay);
	free(try);
}

#define URL "\"url\": \"redis://h/0\""

static void
test_settings(void **state)
{
	static const struct
	{
		const char *config;
		const char *why;		/* NULL: good */
	}			cases[] = {
		{"{" URL "}", NULL},
		{"{" URL ", \"stream\": false, \"channel\": \"events:{type}\"}", NULL},
		{"{" URL ", \"stream\": false, \"maxlen\": 5}", "\"maxlen\" goes with a \"stream\""},
		{"{" URL ", \"stream\": true}", "\"stream\" must be a string"},
		{"{" URL ", \"stream\": \"{x}\"}", "\"stream\": unknown placeholder"},
		{"{" URL ", \"channel\": \"{x}\"}", "\"channel\": unknown placeholder"},
		{"{" URL ", \"streams\": \"x\"}", "unknown key \"streams\""},
		{"{" URL ", \"tls\": {}}", "rediss://"},
		{"{\"url\": \"rediss://h\"}", NULL},
		{"{\"url\": \"rediss://h\", \"tls\": {\"verify\": 1}}", "\"verify\" must be true or false"},
		{"{\"url\": \"rediss://h\", \"tls\": {\"ca\": \"relative.pem\"}}", "\"ca\" must be PEM text or the absolute path"},
		{"{\"url\": \"rediss://h\", \"tls\": {\"ca\": \"/nonexistent/ca.pem\"}}", "\"ca\": the file cannot be read"},
		{"{\"url\": \"rediss://h\", \"tls\": {\"ca\": \"-----BEGIN CERTIFICATE-----\\nAAAA\\n-----END CERTIFICATE-----\\n\"}}", "\"ca\" holds no certificate"},
		{"{\"url\": \"rediss://h\", \"tls\": {\"cert\": \"/x\"}}", "\"cert\" and \"key\" go together"},
		{"{\"url\": \"rediss://h\", \"tls\": {\"cafile\": \"/x\"}}", "unknown key \"cafile\""},
		{"{" URL ", \"nodes\": [\"h:1\"]}", "\"nodes\" needs \"cluster\""},
		{"{" URL ", \"cluster\": true}", NULL},
		{"{" URL ", \"cluster\": true, \"nodes\": [\"h\", \"h:1\", \"[::1]:7\"]}", NULL},
		{"{" URL ", \"cluster\": true, \"nodes\": [\"h:x\"]}", "\"nodes\" must hold strings"},
		{"{" URL ", \"cluster\": true, \"nodes\": [\"h:0\"]}", "\"nodes\" must hold strings"},
		{"{\"url\": \"redis://h/1\", \"cluster\": true}", "database 0 only"},
		{"{" URL ", \"cluster\": true, \"stream\": \"events\"}", "must be in one slot"},
		{"{" URL ", \"cluster\": true, \"stream\": \"{{orion}:{type}\"}", NULL},
		{"{" URL ", \"cluster\": true, \"stream\": \"{type}{{orion}\"}", "must be in one slot"},
		{"{" URL ", \"cluster\": true, \"stream\": \"{{x}:a\", \"position_key\": \"{x}:p\"}", NULL},
		{"{" URL ", \"tag_prefix\": \"a{b\"}", "\"tag_prefix\" must hold no braces"},
		{"{" URL ", \"cache\": {}}", "\"cache\" must be an array"},
		{"{" URL ", \"cache\": [1]}", "\"cache\" must be an array of objects"},
		{"{" URL ", \"cache\": [{\"del\": [\"a\"]}]}", "\"pattern\" is missing"},
		{"{" URL ", \"cache\": [{\"pattern\": \"#\"}]}", "needs one of the keys"},
		{"{" URL ", \"cache\": [{\"pattern\": \"#\", \"del\": []}]}", "\"del\" must be an array of 1 to"},
		{"{" URL ", \"cache\": [{\"pattern\": \"#\", \"del\": [\"\"]}]}", "\"del\" must hold strings"},
		{"{" URL ", \"cache\": [{\"pattern\": \"#\", \"tags\": [7]}]}", "\"tags\" must hold strings"},
		{"{" URL ", \"cache\": [{\"pattern\": \"#\", \"scan\": [\"{x}*\"]}]}", "\"scan\": unknown placeholder"},
		{"{" URL ", \"cache\": [{\"pattern\": \"#\", \"delete\": [\"x\"]}]}", "unknown key \"delete\""},
		{"{" URL ", \"cache\": [{\"pattern\": \"#\", \"set\": {\"key\": \"x\"}}]}", "orion_cache_rule_create"},
		{"{" URL ", \"cache\": [{\"pattern\": \"#\", \"del\": [\"a\"], \"value\": 1}]}", "\"value\" goes with \"set\""},
		{"{" URL ", \"dependencies\": [1]}", "\"dependencies\" must be an object of arrays"},
		{"{" URL ", \"dependencies\": {\"a\": []}}", "\"dependencies\" must be an array of 1"},
		{"{" URL ", \"dependencies\": {\"a\": \"b\"}}", "\"dependencies\" must be an array"},
		{"{" URL ", \"dependencies\": {\"a{x}\": [\"b\"]}}", "unknown placeholder"},
		{"{" URL ", \"dependencies\": {\"a\": [\"a\"]}}", "cycle through \"a\""},
		{"{" URL ", \"dependencies\": {\"a\": [\"b\"], \"b\": [\"c\"], \"c\": [\"a\"]}}", "has a cycle"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		bool		good;
		Try		   *try = try_config(cases[i].config, NULL, &good);

		if (good != (cases[i].why == NULL) || (cases[i].why && strstr(try->sink.why, cases[i].why) == NULL))
			fail_msg("%s: %s", cases[i].config, good ? "accepted" : try->sink.why);
		free_try(try);
	}
}

/* ---- rules ---- */

static void
list_is(OrionTemplates list, const char *expected)
{
	char		all[200] = "";

	for (size_t i = 0; i < list.n; i++)
		snprintf(all + strlen(all), sizeof(all) - strlen(all), "%s%s", i ? " " : "", list.items[i]);
	assert_string_equal(all, expected);
}

static void
test_rules(void **state)
{
	bool		good;
	Try		   *try = try_config("{" URL ", \"cache\": [{\"pattern\": \"user.*\", \"del\": [\"p\", \"x\", \"p\"], \"tags\": [\"t\"]}],"
								 " \"dependencies\": {\"p\": [\"q\", \"r\"], \"q\": [\"s\"], \"r\": [\"s\"]}}",
								 "{\"rules\": [{\"pattern\": \"#\", \"set\": {\"key\": \"r\", \"ttl\": 60, \"tags\": [\"u\"]}, \"value\": 7},"
								 " {\"pattern\": \"#\", \"flush\": [\"n\"]}], \"dependencies\": {\"s\": [\"z\"]}}", &good);
	OrionRedisRules *rules = &try->settings.rules;

	if (!good)
		fail_msg("%s", try->sink.why);
	assert_int_equal(rules->n, 3);
	list_is(rules->rules[0].del, "p x q s z r");
	list_is(rules->rules[0].tags, "t");
	assert_null(rules->rules[0].set);
	list_is(rules->rules[1].del, "s z");
	assert_string_equal(rules->rules[1].set, "r");
	assert_int_equal(rules->rules[1].ttl, 60);
	assert_int_equal(rules->rules[1].value, 7);
	list_is(rules->rules[1].set_tags, "u");
	list_is(rules->rules[2].flush, "n");
	assert_true(rules->has_walks);
	assert_true(rules->has_sets);
	free_try(try);

	/* a cycle that only both halves make */
	try = try_config("{" URL ", \"dependencies\": {\"a\": [\"b\"]}}", "{\"dependencies\": {\"b\": [\"a\"]}}", &good);
	assert_false(good);
	assert_non_null(strstr(try->sink.why, "cycle"));
	free_try(try);
}

/* A lattice of 40 layers has 2^40 paths, and must not be walked path by path. */
static void
test_wide_dependencies(void **state)
{
	json_t	   *edges = json_object();
	json_t	   *config = json_pack("{s:s, s:o, s:[{s:s, s:[s]}]}", "url", "redis://h", "dependencies", edges,
								   "cache", "pattern", "#", "del", "a0");
	char	   *string;
	bool		good;
	Try		   *try;

	for (int i = 0; i < 40; i++)
	{
		for (char side = 'a'; side <= 'b'; side++)
		{
			char		name[3][16];

			snprintf(name[0], sizeof(name[0]), "%c%d", side, i);
			snprintf(name[1], sizeof(name[1]), "a%d", i + 1);
			snprintf(name[2], sizeof(name[2]), "b%d", i + 1);
			json_object_set_new(edges, name[0], json_pack("[ss]", name[1], name[2]));
		}
	}
	string = json_dumps(config, 0);
	try = try_config(string, NULL, &good);
	assert_true(good);
	assert_int_equal(try->settings.rules.rules[0].del.n, 81);
	free_try(try);
	free(string);
	json_decref(config);
}

static void
test_values(void **state)
{
	OrionEvent	event = {0};
	OrionBuffer out = {0};
	OrionText	value;

	assert_false(orion_redis_value(&event, 1, &value));
	orion_frame_begin(&out, ORION_FRAME_EVENT, 1);
	orion_frame_put_u64(&out, 1);
	orion_frame_put_str(&out, "-");
	orion_frame_put_u64(&out, 2);
	orion_frame_put_str(&out, "+fresh");
	orion_frame_put_u64(&out, 3);
	orion_frame_put_str(&out, "+");
	orion_frame_end(&out);
	event.rest = orion_text((char *) out.data + ORION_FRAME_HEADER, orion_buffer_len(&out) - ORION_FRAME_HEADER);
	assert_false(orion_redis_value(&event, 1, &value));
	assert_true(orion_redis_value(&event, 2, &value));
	assert_int_equal(value.len, 5);
	assert_memory_equal(value.str, "fresh", 5);
	assert_true(orion_redis_value(&event, 3, &value));
	assert_int_equal(value.len, 0);
	assert_false(orion_redis_value(&event, 4, &value));
	event.rest.len -= 5;		/* cut short: not believed */
	assert_false(orion_redis_value(&event, 3, &value));
	orion_buffer_free(&out);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_slots),
		cmocka_unit_test(test_redirections),
		cmocka_unit_test(test_map),
		cmocka_unit_test(test_settings),
		cmocka_unit_test(test_rules),
		cmocka_unit_test(test_wide_dependencies),
		cmocka_unit_test(test_values),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
