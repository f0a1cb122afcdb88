/*
 * redis_side.h
 *	  Cache work that does not fit into the transaction: walks through tags and
 *	  patterns, and in a cluster whatever belongs to other slots.
 *
 * It is done before the transaction that stores the position, and all of it may be
 * done twice: a crash in between repeats it.  Connections of its own, because an
 * EXEC there would end the WATCH of the transaction's.
 */
#ifndef ORION_COURIER_REDIS_SIDE_H
#define ORION_COURIER_REDIS_SIDE_H

#include "redis_cluster.h"
#include "redis_server.h"

typedef struct OrionRedisSide OrionRedisSide;

typedef struct OrionRedisSideSettings
{
	const OrionRedisLogin *login;
	const char *sink;			/* its name: part of the key of a tag that is
								 * being emptied */
	const char *position_key;	/* never removed by a pattern */
	const char *stream;			/* the same; NULL: none, or a template */
	const char *tag_prefix;
	bool		cluster;
	bool		fence;			/* values are written here: see redis_side.c */
} OrionRedisSideSettings;

/* NULL: no memory. settings must live as long. */
extern OrionRedisSide *orion_redis_side_new(const OrionRedisSideSettings *settings);

/* Connects to every node of map, or to the one server. Waits. */
extern bool orion_redis_side_open(OrionSink *sink, OrionRedisSide *side, const OrionRedisMap *map);
extern void orion_redis_side_close(OrionRedisSide *side);	/* what was asked is
															 * forgotten */

/*
 * Each adds work on behalf of the event with that number. False: no memory.
 * late: not before everything else that was asked for is done.
 */
extern bool orion_redis_side_command(OrionRedisSide *side, uint64_t event, bool late, OrionText key,
									 size_t n, const OrionText *words);
extern bool orion_redis_side_tag(OrionRedisSide *side, uint64_t event, const char *tag, size_t len);
extern bool orion_redis_side_scan(OrionRedisSide *side, uint64_t event, const char *pattern, size_t len);

/* The key of the set with a tag's keys. */
extern bool orion_redis_tag_key(const char *prefix, const char *tag, size_t len, OrionBuffer *out);

/* Is there work that is not done? */
extern bool orion_redis_side_busy(const OrionRedisSide *side);

/* Sends what can be sent and takes in what has arrived. Refuses events through the sink. */
extern bool orion_redis_side_run(OrionSink *sink, OrionRedisSide *side);

/* The connections, for poll. */
extern size_t orion_redis_side_servers(const OrionRedisSide *side);
extern OrionRedisServer *orion_redis_side_server(OrionRedisSide *side, size_t number);

/* WRONGTYPE and the like: this command will never work. */
extern bool orion_redis_error_is_permanent(const char *error);

#endif							/* ORION_COURIER_REDIS_SIDE_H */
