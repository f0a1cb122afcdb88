/*
 * redis_server.c
 *	  Connections to Redis servers; see redis_server.h.
 *
 * What a server sends is not believed: the reader refuses what is no reply and
 * nests more than seven deep, a reply may be REPLY_MAX long, and who announces
 * more than comes is given up by its deadline.
 */
#include "redis_server.h"

#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define READ_CHUNK	65536
#define READS_A_TURN 64
#define REPLY_MAX	(1024UL * 1024 * 1024)	/* XINFO STREAM brings two whole
											 * entries, each up to 512 MB */

static void
put_bytes(OrionBuffer *out, const void *bytes, size_t len)
{
	memcpy(out->data + out->end, bytes, len);
	out->end += len;
}

static void
put_length(OrionBuffer *out, char kind, size_t number)
{
	char		digits[24];
	char	   *at = digits + sizeof(digits);

	*--at = '\n';
	*--at = '\r';
	do
		*--at = '0' + number % 10;
	while ((number /= 10) > 0);
	*--at = kind;
	put_bytes(out, at, digits + sizeof(digits) - at);
}

void
orion_redis_put(OrionBuffer *out, size_t n, const OrionText *words)
{
	size_t		room = 24;

	for (size_t i = 0; i < n; i++)
		room += words[i].len + 26;
	if (!orion_buffer_reserve(out, room))
		return;
	put_length(out, '*', n);
	for (size_t i = 0; i < n; i++)
	{
		put_length(out, '$', words[i].len);
		if (words[i].len > 0)
			put_bytes(out, words[i].str, words[i].len);
		put_bytes(out, "\r\n", 2);
	}
}

void
orion_redis_put_words(OrionBuffer *out, const char *word,...)
{
	OrionText	words[8];
	size_t		n = 0;
	va_list		args;

	va_start(args, word);
	for (; word && n < 8; word = va_arg(args, const char *))
		words[n++] = orion_text_of(word);
	va_end(args);
	orion_redis_put(out, n, words);
}

/* Says which server it was that sink->why speaks of. */
static bool
fail_at(OrionSink *sink, const OrionRedisServer *server, const char *what)
{
	char		why[sizeof(sink->why)];

	snprintf(why, sizeof(why), "%s", sink->why);
	return orion_sink_fail(sink, "redis %.100s:%d: %s%s%.350s", server->host, server->port, what, *what ? ": " : "", why);
}

bool
orion_redis_flush(OrionSink *sink, OrionRedisServer *server)
{
	return orion_link_flush(sink, &server->link) || fail_at(sink, server, "");
}

bool
orion_redis_fill(OrionSink *sink, OrionRedisServer *server)
{
	static char chunk[READ_CHUNK];

	/*
	 * TLS may hold bytes back that poll does not see, so it is read to the
	 * end
	 */
	for (int i = 0; i < READS_A_TURN || server->link.ssl; i++)
	{
		long		n = orion_link_read(sink, &server->link, chunk, sizeof(chunk));

		if (n < 0)
			return fail_at(sink, server, "");
		if (n == 0)
			return true;
		server->unparsed += n;
		if (server->unparsed > REPLY_MAX)
			return orion_sink_fail(sink, "redis %.100s:%d: an answer is too long", server->host, server->port);
		if (redisReaderFeed(server->reader, chunk, n) != REDIS_OK)
			return orion_sink_fail(sink, "redis %.100s:%d: broken answer: %s", server->host, server->port, server->reader->errstr);
		if (n < (long) sizeof(chunk) && server->link.ssl == NULL)
			return true;
	}
	return true;
}

bool
orion_redis_next(OrionSink *sink, OrionRedisServer *server, redisReply **reply)
{
	void	   *found;

	if (redisReaderGetReply(server->reader, &found) != REDIS_OK)
		return orion_sink_fail(sink, "redis %.100s:%d: broken answer: %s", server->host, server->port, server->reader->errstr);
	*reply = found;
	if (found)
		server->unparsed = 0;
	return true;
}

redisReply *
orion_redis_wait(OrionSink *sink, OrionRedisServer *server, const char *what)
{
	long		deadline = orion_now_ms() + ORION_CONNECT_TIMEOUT * 1000;
	redisReply *reply = NULL;

	for (;;)
	{
		if (!orion_redis_flush(sink, server) || !orion_redis_next(sink, server, &reply))
			return NULL;
		if (reply)
			return reply;
		if (!orion_link_wait(server->link.fd, POLLIN | (server->link.wants_write ? POLLOUT : 0), deadline))
		{
			orion_sink_fail(sink, "redis %.100s:%d: %s: no answer in time", server->host, server->port, what);
			return NULL;
		}
		if (!orion_redis_fill(sink, server))
			return NULL;
	}
}

bool
orion_redis_worked(OrionSink *sink, OrionRedisServer *server, const char *what, redisReply *reply)
{
	bool		good = reply && reply->type != REDIS_REPLY_ERROR;

	if (reply && !good)
		orion_sink_fail(sink, "redis %.100s:%d: %s: %.300s", server->host, server->port, what, reply->str);
	if (reply)
		freeReplyObject(reply);
	return good;
}

static bool
authenticate(OrionSink *sink, OrionRedisServer *server, const OrionRedisLogin *login)
{
	const OrionUrl *url = &login->url;
	char		db[12];
	redisReply *reply;

	if (url->password)
	{
		if (url->user && *url->user)
			reply = orion_redis_ask(sink, server, "authentication", "AUTH", url->user, url->password);
		else
			reply = orion_redis_ask(sink, server, "authentication", "AUTH", url->password);
		if (!orion_redis_worked(sink, server, "authentication", reply))
			return false;
	}
	if (login->db == 0)
		return true;
	snprintf(db, sizeof(db), "%d", login->db);
	return orion_redis_worked(sink, server, "SELECT", orion_redis_ask(sink, server, "SELECT", "SELECT", db));
}

bool
orion_redis_open(OrionSink *sink, OrionRedisServer *server, const OrionRedisLogin *login,
				 const char *host, int port)
{
	long		deadline = orion_now_ms() + ORION_CONNECT_TIMEOUT * 1000;

	snprintf(server->host, sizeof(server->host), "%s", host);
	server->port = port;
	server->unparsed = 0;
	if (!orion_link_open(sink, &server->link, host, port, login->secure ? &login->tls : NULL, deadline))
	{
		char		why[sizeof(sink->why)];

		snprintf(why, sizeof(why), "%s", sink->why);
		return orion_sink_fail(sink, "redis %.500s", why);
	}
	server->reader = redisReaderCreate();
	if (server->reader == NULL)
	{
		orion_sink_fail(sink, "out of memory");
		orion_redis_close(server);
		return false;
	}
	if (authenticate(sink, server, login))
		return true;
	orion_redis_close(server);
	return false;
}

void
orion_redis_close(OrionRedisServer *server)
{
	if (server->reader == NULL)
		return;
	redisReaderFree(server->reader);
	server->reader = NULL;
	orion_link_close(&server->link);
}

bool
orion_redis_is_open(const OrionRedisServer *server)
{
	return server->reader != NULL;
}
