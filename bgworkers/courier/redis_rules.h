/*
 * redis_rules.h
 *	  Cache rules: which keys of a Redis an event touches, and how.
 *
 * Pure C over JSON, without a server.  A rule is an object:
 *
 *	  pattern	type pattern of the events it is for; required
 *	  del		key templates to remove
 *	  tags		tag templates: every key of these tags is removed
 *	  scan		glob templates: every key that matches is removed
 *	  flush		namespace templates: their generation is raised
 *	  set		{"key", "ttl", "tags"}: the fresh value is written under key
 *	  value		number by which the relay sends that value; with set only
 *
 * A dependency says that whoever removes or sets the first key removes the others,
 * and theirs.  Keys are compared as templates.
 */
#ifndef ORION_COURIER_REDIS_RULES_H
#define ORION_COURIER_REDIS_RULES_H

#include "sink.h"

#define ORION_REDIS_RULES	256
#define ORION_REDIS_LIST	64	/* templates of one list, without dependents */
#define ORION_REDIS_TTL_MAX (100LL * 365 * 86400)	/* seconds */

typedef struct OrionTemplates
{
	const char **items;
	size_t		n;
} OrionTemplates;

typedef struct OrionRedisRule
{
	const char *pattern;
	OrionTemplates del;			/* with all dependents */
	OrionTemplates tags;
	OrionTemplates scan;
	OrionTemplates flush;
	const char *set;			/* NULL: none */
	OrionTemplates set_tags;
	long long	ttl;			/* seconds, 0: for ever */
	uint64_t	value;
} OrionRedisRule;

typedef struct OrionRedisRules
{
	OrionRedisRule rules[ORION_REDIS_RULES];
	size_t		n;
	bool		has_walks;		/* tags or patterns: what does not fit into
								 * the transaction */
	bool		has_sets;
} OrionRedisRules;

/*
 * Takes config's keys "cache" (rules without set) and "dependencies", and the
 * relay's {"rules", "dependencies"} (may be NULL).  Strings point into the JSON.
 * False: sink->why names the key.
 */
extern bool orion_redis_rules_configure(OrionSink *sink, json_t *config, json_t *relay, OrionRedisRules *rules);

/*
 * The value that the relay has sent with the event for that number.  False: it
 * sent none, or null, and the key is to be removed.
 */
extern bool orion_redis_value(const OrionEvent *event, uint64_t number, OrionText *value);

#endif							/* ORION_COURIER_REDIS_RULES_H */
