// uses: -lhiredis
/*
 * raw_redis.c
 *	  The stream of events without Orion: what a plain client reaches.
 *
 * raw_redis PORT copy FROM TO COUNT	adds FROM's first entry COUNT times to TO, pipelined,
 *										1,000 at a time; prints entries a second
 * raw_redis PORT await KEY COUNT SECONDS	waits until KEY has COUNT entries; prints the
 *										time of day at which it had, in seconds
 *
 * Both fail when the stream does not have exactly COUNT entries in the end.
 */
#include <hiredis/hiredis.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BATCH		1000
#define MAX_WORDS	64

static redisContext *ctx;

static double
now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void
fail(const char *why)
{
	fprintf(stderr, "raw_redis: %s\n", why);
	exit(1);
}

static redisReply *
ask(const char *format,...)
{
	redisReply *reply;
	va_list		args;

	va_start(args, format);
	reply = redisvCommand(ctx, format, args);
	va_end(args);
	if (reply == NULL)
		fail(ctx->errstr);
	if (reply->type == REDIS_REPLY_ERROR)
		fail(reply->str);
	return reply;
}

static long
length_of(const char *key)
{
	redisReply *reply = ask("XLEN %s", key);
	long		length = reply->integer;

	freeReplyObject(reply);
	return length;
}

static void
copy(const char *from, const char *to, long count)
{
	redisReply *sample = ask("XRANGE %s - + COUNT 1", from);
	const char *argv[MAX_WORDS] = {"XADD", to, "MAXLEN", "~", "1000000", "*"};
	size_t		lengths[MAX_WORDS];
	int			argc = 6;
	redisReply *fields;
	double		begin;

	if (sample->elements != 1)
		fail("there is no entry to copy");
	fields = sample->element[0]->element[1];
	if (argc + fields->elements > MAX_WORDS)
		fail("the entry has too many fields");
	for (int i = 0; i < argc; i++)
		lengths[i] = strlen(argv[i]);
	for (size_t i = 0; i < fields->elements; i++)
	{
		argv[argc] = fields->element[i]->str;
		lengths[argc++] = fields->element[i]->len;
	}
	freeReplyObject(ask("DEL %s", to));
	begin = now(CLOCK_MONOTONIC);
	for (long sent = 0; sent < count;)
	{
		long		n = count - sent < BATCH ? count - sent : BATCH;
		redisReply *reply;

		for (long i = 0; i < n; i++)
			redisAppendCommandArgv(ctx, argc, argv, lengths);
		for (long i = 0; i < n; i++)
		{
			if (redisGetReply(ctx, (void **) &reply) != REDIS_OK || reply->type != REDIS_REPLY_STRING)
				fail("XADD was refused");
			freeReplyObject(reply);
		}
		sent += n;
	}
	printf("%.3f\n", count / (now(CLOCK_MONOTONIC) - begin));
	freeReplyObject(sample);
	if (length_of(to) != count)
		fail("the stream has another number of entries");
	freeReplyObject(ask("DEL %s", to));
}

static void
await(const char *key, long count, double seconds)
{
	double		end = now(CLOCK_MONOTONIC) + seconds;
	struct timespec pause = {0, 1000000};
	long		length;

	while ((length = length_of(key)) < count && now(CLOCK_MONOTONIC) < end)
		nanosleep(&pause, NULL);
	printf("%.6f\n", now(CLOCK_REALTIME));
	if (length != count)
	{
		fprintf(stderr, "raw_redis: %s has %ld entries, not %ld\n", key, length, count);
		exit(1);
	}
}

int
main(int argc, char **argv)
{
	if (argc != 6)
		fail("usage: raw_redis PORT copy FROM TO COUNT | PORT await KEY COUNT SECONDS");
	ctx = redisConnect("127.0.0.1", atoi(argv[1]));
	if (ctx == NULL || ctx->err)
		fail(ctx ? ctx->errstr : "out of memory");
	if (strcmp(argv[2], "copy") == 0)
		copy(argv[3], argv[4], atol(argv[5]));
	else
		await(argv[3], atol(argv[4]), atof(argv[5]));
	redisFree(ctx);
	return 0;
}
