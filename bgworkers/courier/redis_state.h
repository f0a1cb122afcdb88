/*
 * redis_state.h
 *	  What the files of the Redis driver share: settings and connections.
 */
#ifndef ORION_COURIER_REDIS_STATE_H
#define ORION_COURIER_REDIS_STATE_H

#include "redis_cluster.h"
#include "redis_rules.h"
#include "redis_server.h"
#include "redis_side.h"

typedef struct OrionRedisSettings
{
	OrionRedisLogin login;
	bool		cluster;
	json_t	   *seeds;			/* "host:port" of further nodes; NULL: none */
	const char *stream;			/* NULL: none */
	bool		stream_fixed;	/* its name is no template */
	long long	maxlen;
	const char *channel;		/* NULL: none */
	char	   *position_key;
	const char *namespace_prefix;
	OrionRedisRules rules;
	OrionRedisSideSettings side;
	bool		needs_side;
} OrionRedisSettings;

/* False: sink->why names the wrong key. */
extern bool orion_redis_configure(OrionSink *sink, json_t *config, OrionRedisSettings *settings);

/* "host:port", "[v6]:port", "host"; port is left as it is where there is none. */
extern bool orion_redis_seed_parse(const char *seed, char *host, size_t size, int *port);

#endif							/* ORION_COURIER_REDIS_STATE_H */
