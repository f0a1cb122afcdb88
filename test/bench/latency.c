// uses: -lpq -lhiredis
/*
 * latency.c
 *	  From COMMIT to the moment a consumer of the Redis stream has the event.
 *
 * latency CONNINFO PORT STREAM TYPE COUNT: publishes COUNT events one by one, each 5 to
 * 25 ms after the one before was seen.  The clock runs from the moment COMMIT is sent,
 * so the commit itself, with its flush to disk, is part of it.  Prints p50, p99 and the
 * largest in microseconds.
 */
#include <hiredis/hiredis.h>
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static PGconn *pg;
static redisContext *ctx;

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void
fail(const char *why)
{
	fprintf(stderr, "latency: %s\n", why);
	exit(1);
}

static void
execute(const char *command)
{
	PGresult   *result = PQexec(pg, command);

	if (PQresultStatus(result) != PGRES_COMMAND_OK && PQresultStatus(result) != PGRES_TUPLES_OK)
		fail(PQerrorMessage(pg));
	PQclear(result);
}

/* The id of the stream's last entry, "0-0" for none. */
static void
last_id(const char *stream, char *id, size_t size)
{
	redisReply *reply = redisCommand(ctx, "XREVRANGE %s + - COUNT 1", stream);

	if (reply == NULL || reply->type != REDIS_REPLY_ARRAY)
		fail("cannot read the stream");
	snprintf(id, size, "%s", reply->elements ? reply->element[0]->element[0]->str : "0-0");
	freeReplyObject(reply);
}

/* Sends XREAD and leaves it blocking in the server. */
static void
begin_read(const char *stream, const char *id)
{
	int			done = 0;

	redisAppendCommand(ctx, "XREAD BLOCK 10000 STREAMS %s %s", stream, id);
	while (!done)
	{
		if (redisBufferWrite(ctx, &done) != REDIS_OK)
			fail(ctx->errstr);
	}
}

/* Waits for its answer, which must be the event with this number. */
static void
end_read(char *id, size_t size, int number)
{
	redisReply *reply;
	redisReply *entries;
	redisReply *fields;
	char		wanted[40];

	if (redisGetReply(ctx, (void **) &reply) != REDIS_OK)
		fail(ctx->errstr);
	if (reply->type != REDIS_REPLY_ARRAY)
		fail("no event came within ten seconds");
	entries = reply->element[0]->element[1];
	fields = entries->element[0]->element[1];
	snprintf(wanted, sizeof(wanted), "\"number\": %d}", number);
	if (entries->elements != 1 || strstr(fields->element[fields->elements - 1]->str, wanted) == NULL)
		fail("another event came");
	snprintf(id, size, "%s", entries->element[0]->element[0]->str);
	freeReplyObject(reply);
}

static double
one(const char *stream, const char *type, char *id, size_t size, int number)
{
	char		command[300];
	double		begin;
	double		end;
	PGresult   *result;

	snprintf(command, sizeof(command), "BEGIN; SELECT orion_publish('%s', '{\"number\": %d}')", type, number);
	execute(command);
	begin_read(stream, id);
	begin = now();
	if (!PQsendQuery(pg, "COMMIT"))
		fail(PQerrorMessage(pg));
	end_read(id, size, number);
	end = now();
	while ((result = PQgetResult(pg)) != NULL)
		PQclear(result);
	return end - begin;
}

static int
compare(const void *a, const void *b)
{
	double		x = *(const double *) a,
				y = *(const double *) b;

	return (x > y) - (x < y);
}

int
main(int argc, char **argv)
{
	double	   *samples;
	char		id[64];
	int			count;

	if (argc != 6 || (count = atoi(argv[5])) < 1)
		fail("usage: latency CONNINFO PORT STREAM TYPE COUNT");
	pg = PQconnectdb(argv[1]);
	if (PQstatus(pg) != CONNECTION_OK)
		fail(PQerrorMessage(pg));
	ctx = redisConnect("127.0.0.1", atoi(argv[2]));
	if (ctx == NULL || ctx->err)
		fail(ctx ? ctx->errstr : "out of memory");
	samples = calloc(count, sizeof(double));
	last_id(argv[3], id, sizeof(id));
	srandom(time(NULL));
	for (int i = 0; i < count; i++)
	{
		struct timespec pause = {0, 5000000 + random() % 20000000};

		nanosleep(&pause, NULL);
		samples[i] = one(argv[3], argv[4], id, sizeof(id), i);
	}
	qsort(samples, count, sizeof(double), compare);
	printf("%.1f %.1f %.1f\n", samples[count / 2], samples[count * 99 / 100], samples[count - 1]);
	PQfinish(pg);
	redisFree(ctx);
	return 0;
}
