/*
 * redis_rules.c
 *	  Cache rules; see redis_rules.h.
 */
#include "redis_rules.h"

#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "template.h"

#define DEPENDENTS_MAX 1024		/* keys of one rule with all that depends on
								 * them */

/* ---- lists of templates ---- */

static bool
add_item(OrionSink *sink, OrionTemplates *list, const char *item)
{
	const char **grown;

	for (size_t i = 0; i < list->n; i++)
	{
		if (strcmp(list->items[i], item) == 0)
			return true;
	}
	if (list->n == DEPENDENTS_MAX)
		return orion_sink_fail(sink, "config: a cache rule with its dependencies removes more than %d keys", DEPENDENTS_MAX);
	grown = realloc(list->items, (list->n + 1) * sizeof(*grown));
	if (grown == NULL)
		return orion_sink_fail(sink, "out of memory");
	list->items = grown;
	list->items[list->n++] = item;
	return true;
}

static bool
check_item(OrionSink *sink, const char *key, const char *item)
{
	char		err[240];
	bool		fixed;

	if (item == NULL || *item == '\0')
		return orion_sink_fail(sink, "config: key \"%s\" must hold strings that are not empty", key);
	if (!orion_template_check(item, &fixed, err, sizeof(err)))
		return orion_sink_fail(sink, "config: key \"%s\": %s", key, err);
	return true;
}

static bool
take_list(OrionSink *sink, json_t *object, const char *key, OrionTemplates *list)
{
	json_t	   *array;
	size_t		n;

	if (!orion_config_array(sink, object, key, &array))
		return false;
	n = json_array_size(array); /* 0 when there is none */
	if (array && (n == 0 || n > ORION_REDIS_LIST))
		return orion_sink_fail(sink, "config: key \"%s\" must be an array of 1 to %d strings", key, ORION_REDIS_LIST);
	for (size_t i = 0; i < n; i++)
	{
		const char *item = json_string_value(json_array_get(array, i));

		if (!check_item(sink, key, item) || !add_item(sink, list, item))
			return false;
	}
	return true;
}

/* ---- one rule ---- */

static bool
take_set(OrionSink *sink, json_t *object, OrionRedisRule *rule)
{
	static const char *const known[] = {"key", "ttl", "tags", NULL};
	json_t	   *set = json_object_get(object, "set");
	json_t	   *value = json_object_get(object, "value");

	if (set == NULL)
		return value == NULL || orion_sink_fail(sink, "config: key \"value\" goes with \"set\"");
	if (!json_is_object(set))
		return orion_sink_fail(sink, "config: key \"set\" must be an object {\"key\", \"ttl\", \"tags\"}");
	if (!json_is_integer(value) || json_integer_value(value) < 0)
		return orion_sink_fail(sink, "config: key \"value\" must be an integer");
	rule->value = json_integer_value(value);
	return orion_config_known(sink, set, known) &&
		orion_config_string(sink, set, "key", NULL, &rule->set) &&
		check_item(sink, "key", rule->set) &&
		orion_config_integer(sink, set, "ttl", 1, ORION_REDIS_TTL_MAX, 0, &rule->ttl) &&
		take_list(sink, set, "tags", &rule->set_tags);
}

/* values: the relay may send values for this rule. */
static bool
take_rule(OrionSink *sink, json_t *object, bool values, OrionRedisRules *rules)
{
	static const char *const known[] = {"pattern", "del", "tags", "scan", "flush", "set", "value", NULL};
	OrionRedisRule *rule = &rules->rules[rules->n];

	if (rules->n == ORION_REDIS_RULES)
		return orion_sink_fail(sink, "config: there are more than %d cache rules", ORION_REDIS_RULES);
	if (!json_is_object(object))
		return orion_sink_fail(sink, "config: key \"cache\" must be an array of objects");
	if (!values && json_object_get(object, "set"))
		return orion_sink_fail(sink, "config: key \"set\" is for rules of orion_cache_rule_create(), which have a function");
	if (!orion_config_known(sink, object, known) ||
		!orion_config_string(sink, object, "pattern", NULL, &rule->pattern) ||
		!take_list(sink, object, "del", &rule->del) ||
		!take_list(sink, object, "tags", &rule->tags) ||
		!take_list(sink, object, "scan", &rule->scan) ||
		!take_list(sink, object, "flush", &rule->flush) ||
		!take_set(sink, object, rule))
		return false;
	if (rule->del.n + rule->tags.n + rule->scan.n + rule->flush.n == 0 && rule->set == NULL)
		return orion_sink_fail(sink, "config: a cache rule needs one of the keys \"del\", \"tags\", \"scan\", \"flush\"");
	rules->has_walks |= rule->tags.n + rule->scan.n > 0;
	rules->has_sets |= rule->set != NULL;
	rules->n++;
	return true;
}

static bool
take_rules(OrionSink *sink, json_t *object, const char *key, bool values, OrionRedisRules *rules)
{
	json_t	   *array;

	if (!orion_config_array(sink, object, key, &array))
		return false;
	for (size_t i = 0; i < json_array_size(array); i++)
	{
		if (!take_rule(sink, json_array_get(array, i), values, rules))
			return false;
	}
	return true;
}

/* ---- dependencies: {"key": ["dependent", ...], ...} ---- */

static bool
check_edges(OrionSink *sink, json_t *edges)
{
	const char *key;
	json_t	   *dependents;

	if (edges && !json_is_object(edges))
		return orion_sink_fail(sink, "config: key \"dependencies\" must be an object of arrays");
	json_object_foreach(edges, key, dependents)
	{
		OrionTemplates scratch = {0};
		json_t	   *pair = json_pack("{sO}", "dependencies", dependents);
		bool		good = pair && check_item(sink, "dependencies", key) && take_list(sink, pair, "dependencies", &scratch);

		if (good && scratch.n == 0)
			good = orion_sink_fail(sink, "config: key \"dependencies\" must be an object of arrays");
		free(scratch.items);
		json_decref(pair);
		if (!good)
			return false;
	}
	return true;
}

typedef struct Walk
{
	OrionSink  *sink;
	json_t	   *edges[2];
	OrionTemplates path;		/* keys whose dependents are being added */
	OrionTemplates done;
} Walk;

static bool add_dependents(Walk *walk, const char *key, OrionTemplates *list);

static bool
add_dependent(Walk *walk, const char *key, OrionTemplates *list)
{
	for (size_t i = 0; i < walk->path.n; i++)
	{
		if (strcmp(walk->path.items[i], key) == 0)
			return orion_sink_fail(walk->sink, "config: key \"dependencies\" has a cycle through \"%.100s\"", key);
	}
	return add_item(walk->sink, list, key) && add_dependents(walk, key, list);
}

/* Depth first; what is done is not walked again, so that a lattice costs no more than its edges. */
static bool
add_dependents(Walk *walk, const char *key, OrionTemplates *list)
{
	for (size_t i = 0; i < walk->done.n; i++)
	{
		if (strcmp(walk->done.items[i], key) == 0)
			return true;
	}
	if (!add_item(walk->sink, &walk->path, key))
		return false;
	for (int e = 0; e < 2; e++)
	{
		json_t	   *dependents = json_object_get(walk->edges[e], key);

		for (size_t i = 0; i < json_array_size(dependents); i++)
		{
			if (!add_dependent(walk, json_string_value(json_array_get(dependents, i)), list))
				return false;
		}
	}
	walk->path.n--;
	return add_item(walk->sink, &walk->done, key);
}

static bool
walk_from(Walk *walk, const char *key, OrionTemplates *list)
{
	bool		good = add_dependents(walk, key, list);

	free(walk->path.items);
	free(walk->done.items);
	memset(&walk->path, 0, sizeof(walk->path));
	memset(&walk->done, 0, sizeof(walk->done));
	return good;
}

/* A cycle that no rule leads into is refused as well. */
static bool
refuse_cycles(Walk *walk)
{
	const char *key;
	json_t	   *dependents;

	for (int e = 0; e < 2; e++)
	{
		json_object_foreach(walk->edges[e], key, dependents)
		{
			OrionTemplates scratch = {0};
			bool		good = walk_from(walk, key, &scratch);

			free(scratch.items);
			if (!good)
				return false;
		}
	}
	return true;
}

static bool
close_rules(Walk *walk, OrionRedisRules *rules)
{
	for (size_t i = 0; i < rules->n; i++)
	{
		OrionRedisRule *rule = &rules->rules[i];
		size_t		n = rule->del.n;

		for (size_t k = 0; k < n; k++)
		{
			if (!walk_from(walk, rule->del.items[k], &rule->del))
				return false;
		}
		if (rule->set && !walk_from(walk, rule->set, &rule->del))
			return false;
	}
	return true;
}

bool
orion_redis_rules_configure(OrionSink *sink, json_t *config, json_t *relay, OrionRedisRules *rules)
{
	Walk		walk = {sink, {json_object_get(config, "dependencies"), json_object_get(relay, "dependencies")}};

	return take_rules(sink, config, "cache", false, rules) &&
		take_rules(sink, relay, "rules", true, rules) &&
		check_edges(sink, walk.edges[0]) && check_edges(sink, walk.edges[1]) &&
		refuse_cycles(&walk) && close_rules(&walk, rules);
}

/* ---- values ---- */

/* What is behind an event's fields: number, text, number, text ...; '+' before a value, '-' for none. */
bool
orion_redis_value(const OrionEvent *event, uint64_t number, OrionText *value)
{
	OrionFrame	frame = {.body = (const uint8_t *) event->rest.str,.len = event->rest.len};
	uint64_t	found;

	while (orion_frame_get_u64(&frame, &found))
	{
		const char *str;
		size_t		len;

		if (!orion_frame_get(&frame, &str, &len))
			return false;
		if (found != number)
			continue;
		if (len == 0 || *str != '+')
			return false;
		*value = orion_text(str + 1, len - 1);
		return true;
	}
	return false;
}
