/*
 * redis_config.c
 *	  The settings of a Redis sink; see docs/redis.md.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "redis_state.h"
#include "template.h"

#define SEEDS_MAX 32

static bool
check_template(OrionSink *sink, const char *key, const char *string, bool *fixed)
{
	char		err[240];

	if (orion_template_check(string, fixed, err, sizeof(err)))
		return true;
	return orion_sink_fail(sink, "config: key \"%s\": %s", key, err);
}

/* The database number: the URL's path. */
static bool
configure_db(OrionSink *sink, OrionRedisSettings *settings)
{
	const char *path = settings->login.url.path;

	if (strspn(path, "0123456789") != strlen(path) || strlen(path) > 5)
		return orion_sink_fail(sink, "config: key \"url\" must end in a database number");
	settings->login.db = atoi(path);
	if (settings->cluster && settings->login.db != 0)
		return orion_sink_fail(sink, "config: key \"url\": a cluster has database 0 only");
	return true;
}

static bool
configure_login(OrionSink *sink, json_t *config, OrionRedisSettings *settings)
{
	const char *url = json_string_value(json_object_get(config, "url"));
	json_t	   *tls = json_object_get(config, "tls");

	settings->login.secure = url && strncmp(url, "rediss://", 9) == 0;
	if (!orion_config_url(sink, config, settings->login.secure ? "rediss" : "redis", 6379, &settings->login.url) ||
		!orion_config_bool(sink, config, "cluster", false, &settings->cluster) ||
		!configure_db(sink, settings))
		return false;
	if (tls && !settings->login.secure)
		return orion_sink_fail(sink, "config: key \"tls\" needs a \"url\" that begins with rediss://");
	return !settings->login.secure || orion_tls_configure(sink, tls, &settings->login.tls);
}

bool
orion_redis_seed_parse(const char *seed, char *host, size_t size, int *port)
{
	const char *end = *seed == '[' ? strchr(seed, ']') : NULL;
	const char *begin = end ? seed + 1 : seed;
	const char *rest = end ? end + 1 : seed + strcspn(seed, ":");
	size_t		len = (end ? end : rest) - begin;

	if (len == 0 || len >= size || (*seed == '[' && end == NULL))
		return false;
	memcpy(host, begin, len);
	host[len] = '\0';
	if (*rest == '\0')
		return true;
	if (*rest != ':' || strspn(rest + 1, "0123456789") != strlen(rest + 1) || strlen(rest) > 6)
		return false;
	*port = atoi(rest + 1);
	return *port >= 1 && *port <= 65535;
}

static bool
configure_seeds(OrionSink *sink, json_t *config, OrionRedisSettings *settings)
{
	if (!orion_config_array(sink, config, "nodes", &settings->seeds))
		return false;
	if (settings->seeds && !settings->cluster)
		return orion_sink_fail(sink, "config: key \"nodes\" needs \"cluster\": true");
	if (json_array_size(settings->seeds) > SEEDS_MAX)
		return orion_sink_fail(sink, "config: key \"nodes\" names more than %d nodes", SEEDS_MAX);
	for (size_t i = 0; i < json_array_size(settings->seeds); i++)
	{
		const char *seed = json_string_value(json_array_get(settings->seeds, i));
		char		host[256];
		int			port = 6379;

		if (seed == NULL || !orion_redis_seed_parse(seed, host, sizeof(host), &port))
			return orion_sink_fail(sink, "config: key \"nodes\" must hold strings \"host:port\"");
	}
	return true;
}

/* The stream's name is a template, or false for none. */
static bool
configure_stream(OrionSink *sink, json_t *config, OrionRedisSettings *settings)
{
	settings->stream_fixed = false;
	if (!orion_config_integer(sink, config, "maxlen", 1, 1LL << 52, 1000000, &settings->maxlen))
		return false;
	if (json_is_false(json_object_get(config, "stream")))
		return json_object_get(config, "maxlen") == NULL ||
			orion_sink_fail(sink, "config: key \"maxlen\" goes with a \"stream\"");
	return orion_config_string(sink, config, "stream", settings->cluster ? "{{orion}:events" : "orion:events", &settings->stream) &&
		check_template(sink, "stream", settings->stream, &settings->stream_fixed);
}

/* The slot of the stream's name when every field of the event is that text. */
static bool
slot_with(const char *stream, OrionText field, unsigned *slot)
{
	OrionEvent	event = {
		.id = field,.type = field,.aggregatetype = field,.aggregateid = field,.correlationid = field
	};
	OrionBuffer key = {0};
	bool		good = orion_template_expand(stream, &event, &key);

	*slot = orion_redis_slot((const char *) key.data, orion_buffer_len(&key));
	orion_buffer_free(&key);
	return good;
}

/* Stream and position are written in one transaction, so they must be in one slot, whatever the event. */
static bool
check_slots(OrionSink *sink, const OrionRedisSettings *settings)
{
	unsigned	position = orion_redis_slot(settings->position_key, strlen(settings->position_key));
	unsigned	one;
	unsigned	other;

	if (!settings->cluster || settings->stream == NULL)
		return true;
	if (!slot_with(settings->stream, orion_text("a", 1), &one) ||
		!slot_with(settings->stream, orion_text("b{c}d", 5), &other))
		return orion_sink_fail(sink, "out of memory");
	return (one == position && other == position) ||
		orion_sink_fail(sink, "config: keys \"stream\" and \"position_key\" must be in one slot: begin them with the same hash tag, as in \"{{orion}:events\" and \"{orion}:position\"");
}

static bool
configure_position(OrionSink *sink, json_t *config, OrionRedisSettings *settings)
{
	char		dflt[256];
	const char *key;

	snprintf(dflt, sizeof(dflt), settings->cluster ? "{orion}:position:%.200s" : "orion:position:%.200s", sink->name);
	if (!orion_config_string(sink, config, "position_key", dflt, &key))
		return false;
	settings->position_key = strdup(key);
	if (settings->position_key == NULL)
		return orion_sink_fail(sink, "out of memory");
	return check_slots(sink, settings);
}

static bool
configure_channel(OrionSink *sink, json_t *config, OrionRedisSettings *settings)
{
	bool		fixed;

	return orion_config_optional(sink, config, "channel", &settings->channel) &&
		(settings->channel == NULL || check_template(sink, "channel", settings->channel, &fixed));
}

/* The name of the fixed stream as it is in Redis: braces are doubled in a template. */
static const char *
plain_stream(const OrionRedisSettings *settings)
{
	OrionEvent	event = {0};
	OrionBuffer name = {0};

	if (!settings->stream_fixed || !orion_template_expand(settings->stream, &event, &name) ||
		!orion_buffer_reserve(&name, 1))
		return NULL;
	name.data[name.end] = '\0';
	return (const char *) name.data;	/* kept for the life of the process */
}

bool
orion_redis_configure(OrionSink *sink, json_t *config, OrionRedisSettings *settings)
{
	static const char *const known[] = {"url", "tls", "cluster", "nodes", "stream", "maxlen", "channel", "position_key",
	"cache", "dependencies", "tag_prefix", "namespace_prefix", NULL};
	OrionRedisSideSettings *side = &settings->side;

	if (!orion_config_known(sink, config, known) ||
		!configure_login(sink, config, settings) ||
		!configure_seeds(sink, config, settings) ||
		!configure_stream(sink, config, settings) ||
		!configure_channel(sink, config, settings) ||
		!configure_position(sink, config, settings) ||
		!orion_config_string(sink, config, "tag_prefix", "orion:tag:", &side->tag_prefix) ||
		!orion_config_string(sink, config, "namespace_prefix", "orion:namespace:", &settings->namespace_prefix) ||
		!orion_redis_rules_configure(sink, config, sink->relay, &settings->rules))
		return false;
	if (strpbrk(side->tag_prefix, "{}"))
		return orion_sink_fail(sink, "config: key \"tag_prefix\" must hold no braces");
	sink->secret = settings->login.url.password;
	side->login = &settings->login;
	side->sink = sink->name;
	side->position_key = settings->position_key;
	side->stream = plain_stream(settings);
	side->cluster = settings->cluster;
	side->fence = settings->rules.has_sets;
	settings->needs_side = settings->rules.has_walks || (settings->cluster && settings->rules.n > 0);
	return side->stream != NULL || !settings->stream_fixed || orion_sink_fail(sink, "out of memory");
}
