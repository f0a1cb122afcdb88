/*
 * redis_cluster.h
 *	  Slots of a Redis Cluster: which key belongs to which, and who serves them.
 *
 * Pure C; the rules are those of the Redis Cluster specification (keys
 * distribution model, hash tags, redirection).
 */
#ifndef ORION_COURIER_REDIS_CLUSTER_H
#define ORION_COURIER_REDIS_CLUSTER_H

#include <hiredis/hiredis.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ORION_REDIS_SLOTS	16384
#define ORION_REDIS_NODES	128 /* masters */

typedef struct OrionRedisNode
{
	char		host[256];
	int			port;
} OrionRedisNode;

typedef struct OrionRedisMap
{
	OrionRedisNode nodes[ORION_REDIS_NODES];
	int			n;
	int16_t		owner[ORION_REDIS_SLOTS];	/* index of nodes, -1: nobody */
} OrionRedisMap;

/* The slot of a key: of what is between its first '{' and the next '}', if that is not empty. */
extern unsigned orion_redis_slot(const char *key, size_t len);

/*
 * Reads the answer to CLUSTER SLOTS.  asked is the host it came from, for nodes
 * that do not know their own address.  False when it makes no sense.
 */
extern bool orion_redis_map_read(OrionRedisMap *map, const redisReply *reply, const char *asked);

/* The node with that address, added if there is room; -1: there is not. */
extern int	orion_redis_map_find(OrionRedisMap *map, const char *host, size_t len, long long port);

typedef struct OrionRedisRedirect
{
	bool		ask;			/* for this command only */
	unsigned	slot;
	const char *host;			/* not terminated */
	size_t		host_len;
	int			port;
} OrionRedisRedirect;

/* "MOVED 3999 127.0.0.1:6381", "ASK ..."; false for any other error. */
extern bool orion_redis_redirect_read(const char *error, OrionRedisRedirect *redirect);

#endif							/* ORION_COURIER_REDIS_CLUSTER_H */
