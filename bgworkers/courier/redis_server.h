/*
 * redis_server.h
 *	  A connection to one Redis server: commands into a buffer, replies out of it.
 *
 * Of hiredis only the reader is used: its connections have no TLS in the version
 * of Debian 12.
 */
#ifndef ORION_COURIER_REDIS_SERVER_H
#define ORION_COURIER_REDIS_SERVER_H

#include <hiredis/hiredis.h>

#include "config.h"
#include "link.h"

typedef struct OrionRedisLogin
{
	OrionUrl	url;			/* host and port: the first server */
	int			db;
	bool		secure;
	OrionTls	tls;
} OrionRedisLogin;

typedef struct OrionRedisServer
{
	OrionLink	link;
	redisReader *reader;		/* NULL: closed */
	char		host[256];
	int			port;
	size_t		unparsed;		/* bytes fed since the last whole reply */
} OrionRedisServer;

/* Writes a command in the protocol's form; failures are sticky in out->failed. */
extern void orion_redis_put(OrionBuffer *out, size_t n, const OrionText *words);

/* The same for words that end in a zero byte; the last argument is NULL. */
extern void orion_redis_put_words(OrionBuffer *out, const char *word,...) __attribute__((sentinel));

/* Connects, shakes hands, authenticates, selects the database. Waits up to ORION_CONNECT_TIMEOUT for each. */
extern bool orion_redis_open(OrionSink *sink, OrionRedisServer *server, const OrionRedisLogin *login,
							 const char *host, int port);
extern void orion_redis_close(OrionRedisServer *server);
extern bool orion_redis_is_open(const OrionRedisServer *server);

/* Takes in what has arrived. False: sink->why. */
extern bool orion_redis_fill(OrionSink *sink, OrionRedisServer *server);

/* The next whole reply, the caller's to free; NULL: none yet. False: it makes no sense. */
extern bool orion_redis_next(OrionSink *sink, OrionRedisServer *server, redisReply **reply);

extern bool orion_redis_flush(OrionSink *sink, OrionRedisServer *server);

/* Sends what was put and waits for one reply. NULL: sink->why. what names it there. */
extern redisReply *orion_redis_wait(OrionSink *sink, OrionRedisServer *server, const char *what);

/* One command of words; the reply, an error among them, is the caller's. NULL: sink->why. */
#define orion_redis_ask(sink, server, what, ...) \
	(orion_redis_put_words(&(server)->link.out, __VA_ARGS__, NULL), orion_redis_wait(sink, server, what))

/* The same, where an error is a failure and the reply of no interest. */
extern bool orion_redis_worked(OrionSink *sink, OrionRedisServer *server, const char *what, redisReply *reply);

#endif							/* ORION_COURIER_REDIS_SERVER_H */
