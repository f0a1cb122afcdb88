/*
 * redis_side.c
 *	  Cache work outside of the transaction; see redis_side.h.
 *
 * A job is a list of commands that depend on each other's answers; jobs do not
 * depend on each other.  At most WALKS_AT_ONCE of those that walk are under way.
 *
 * A tag is a set of keys.  To empty it, the set is renamed first (RENAMENX, within
 * its slot), then walked, then removed: a key added meanwhile is in a new set and
 * survives with its tag, and a crash leaves the renamed set to whoever comes next.
 * The name of the renamed set holds the sink's, so that two sinks do not take each
 * other's away.
 *
 * A pattern is walked by SCAN on every node, never by KEYS.
 *
 * In a cluster keys lie on several nodes, so keys are removed one a command, and
 * answers MOVED and ASK are followed: to nodes that are known; one that is new
 * ends the connection, and the next one reads the slots again.
 *
 * Values written in a cluster are not in the transaction that WATCH protects.  A
 * killed courier's may still be on their way when its successor connects, and an
 * old value must not overwrite a newer one.  So the connections carry the sink's
 * name, and a new one first ends those with the same name (the fence).
 */
#define _GNU_SOURCE				/* memmem */

#include "redis_side.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WALKS_AT_ONCE	16
#define WALK_STEP		"500"	/* keys asked for, and removed, at a time */
#define REDIRECTS_MAX	8

typedef enum JobKind
{
	JOB_FREE,
	JOB_COMMAND,
	JOB_TAG,
	JOB_SCAN,
} JobKind;

typedef enum Step
{
	STEP_COMMAND,
	STEP_ASKING,
	STEP_RENAME,				/* the tag's set to the doomed one */
	STEP_SSCAN,
	STEP_SCAN,
	STEP_FINISH,				/* the doomed set is removed */
} Step;

typedef struct Job
{
	JobKind		kind;
	uint64_t	event;
	int			parent;			/* index of the walk that it removes keys for,
								 * -1: none */
	int			children;		/* commands that a walk waits for */
	bool		started;
	bool		again;			/* the doomed set was an older one */
	Step		next;			/* of a walk, when its children are done */
	int			node;
	int			redirects;
	unsigned	slot;
	char		cursor[24];
	char	   *bytes;			/* command as sent; name of the tag's set;
								 * pattern */
	size_t		len;
} Job;

typedef struct Expected
{
	int			job;
	Step		step;
} Expected;

typedef struct Node
{
	OrionRedisServer server;
	Expected   *expected;		/* a ring of answers that are due */
	size_t		room;			/* a power of two */
	size_t		first;
	size_t		end;
} Node;

struct OrionRedisSide
{
	const OrionRedisSideSettings *settings;
	OrionRedisMap map;
	Node		nodes[ORION_REDIS_NODES];
	Job		   *jobs;
	int			njobs;
	int			room;
	int			first_free;		/* jobs below are taken */
	int			active;			/* not done */
	int			walks;			/* started and not done */
	int			next_walk;		/* jobs below have been started */
	int			late;			/* commands held back until nothing else is
								 * left */
	OrionBuffer scratch;
};

/* ---- jobs ---- */

OrionRedisSide *
orion_redis_side_new(const OrionRedisSideSettings *settings)
{
	OrionRedisSide *side = calloc(1, sizeof(*side));

	if (side)
		side->settings = settings;
	return side;
}

static Job *
add_job(OrionRedisSide *side, JobKind kind, uint64_t event, size_t len)
{
	Job		   *job;

	while (side->first_free < side->njobs && side->jobs[side->first_free].kind != JOB_FREE)
		side->first_free++;
	if (side->first_free == side->room)
	{
		int			room = side->room ? side->room * 2 : 64;
		Job		   *grown = realloc(side->jobs, room * sizeof(*grown));

		if (grown == NULL)
			return NULL;
		side->jobs = grown;
		side->room = room;
	}
	job = &side->jobs[side->first_free];
	memset(job, 0, sizeof(*job));
	job->bytes = malloc(len + 1);
	if (job->bytes == NULL)
		return NULL;
	if (side->first_free == side->njobs)
		side->njobs++;
	job->kind = kind;
	job->event = event;
	job->parent = -1;
	job->len = len;
	side->active++;
	return job;
}

static void
free_job(OrionRedisSide *side, Job *job)
{
	if (job->started && job->kind != JOB_COMMAND)
		side->walks--;
	free(job->bytes);
	job->kind = JOB_FREE;
	side->active--;
	if (job - side->jobs < side->first_free)
		side->first_free = (int) (job - side->jobs);
	if (side->active == 0)
		side->njobs = side->first_free = side->next_walk = 0;
}

static void
forget_jobs(OrionRedisSide *side)
{
	for (int i = 0; i < side->njobs; i++)
	{
		if (side->jobs[i].kind != JOB_FREE)
			free(side->jobs[i].bytes);
	}
	side->njobs = side->active = side->walks = side->next_walk = side->first_free = side->late = 0;
}

bool
orion_redis_side_busy(const OrionRedisSide *side)
{
	return side && side->active > 0;
}

/* ---- sending ---- */

/* Of a slot that nobody serves any node knows best what has become. */
static int
node_of_slot(const OrionRedisSide *side, unsigned slot)
{
	return side->settings->cluster && side->map.owner[slot] >= 0 ? side->map.owner[slot] : 0;
}

static bool
expect(Node *node, int job, Step step)
{
	if (node->end - node->first == node->room)
	{
		size_t		room = node->room ? node->room * 2 : 256;
		Expected   *grown = malloc(room * sizeof(*grown));

		if (grown == NULL)
			return false;
		for (size_t i = node->first; i < node->end; i++)
			grown[i & (room - 1)] = node->expected[i & (node->room - 1)];
		free(node->expected);
		node->expected = grown;
		node->room = room;
	}
	node->expected[node->end & (node->room - 1)].job = job;
	node->expected[node->end++ & (node->room - 1)].step = step;
	return true;
}

static bool
send_put(OrionRedisSide *side, Job *job, Step step, size_t n, const OrionText *words)
{
	Node	   *node = &side->nodes[job->node];

	orion_redis_put(&node->server.link.out, n, words);
	return expect(node, (int) (job - side->jobs), step);
}

static bool
send_bytes(OrionRedisSide *side, Job *job)
{
	Node	   *node = &side->nodes[job->node];
	OrionBuffer *out = &node->server.link.out;

	if (!orion_buffer_reserve(out, job->len))
		return false;
	memcpy(out->data + out->end, job->bytes, job->len);
	out->end += job->len;
	return expect(node, (int) (job - side->jobs), STEP_COMMAND);
}

/* parent: the walk it belongs to, or -1.  Jobs may move. */
static bool
add_command(OrionRedisSide *side, uint64_t event, int parent, bool late, OrionText key,
			size_t n, const OrionText *words)
{
	OrionBuffer *scratch = &side->scratch;
	Job		   *job;

	orion_buffer_consume(scratch, orion_buffer_len(scratch));
	orion_redis_put(scratch, n, words);
	if (scratch->failed)
		return false;
	job = add_job(side, JOB_COMMAND, event, orion_buffer_len(scratch));
	if (job == NULL)
		return false;
	memcpy(job->bytes, scratch->data + scratch->start, job->len);
	job->slot = orion_redis_slot(key.str, key.len);
	job->node = node_of_slot(side, job->slot);
	job->parent = parent;
	job->started = !late;
	side->late += late;
	return late || send_bytes(side, job);
}

bool
orion_redis_side_command(OrionRedisSide *side, uint64_t event, bool late, OrionText key,
						 size_t n, const OrionText *words)
{
	return add_command(side, event, -1, late, key, n, words);
}

static bool
same_job(const Job *job, JobKind kind, const char *bytes, size_t len)
{
	return job->kind == kind && !job->started && job->len == len && memcmp(job->bytes, bytes, len) == 0;
}

/* One walk is enough for events of one batch; the work is the same. */
static bool
is_asked_for(const OrionRedisSide *side, JobKind kind, const char *bytes, size_t len)
{
	for (int i = 0; i < side->njobs; i++)
	{
		if (same_job(&side->jobs[i], kind, bytes, len))
			return true;
	}
	return false;
}

static bool
add_walk(OrionRedisSide *side, JobKind kind, uint64_t event, int node, const char *bytes, size_t len)
{
	Job		   *job = add_job(side, kind, event, len);

	if (job == NULL)
		return false;
	memcpy(job->bytes, bytes, len);
	strcpy(job->cursor, "0");
	job->next = kind == JOB_TAG ? STEP_RENAME : STEP_SCAN;
	job->node = node;
	if (job - side->jobs < side->next_walk)
		side->next_walk = (int) (job - side->jobs);
	return true;
}

bool
orion_redis_tag_key(const char *prefix, const char *tag, size_t len, OrionBuffer *out)
{
	size_t		prefix_len = strlen(prefix);

	if (!orion_buffer_reserve(out, prefix_len + len + 2))
		return false;
	memcpy(out->data + out->end, prefix, prefix_len);
	out->end += prefix_len;
	out->data[out->end++] = '{';
	if (len > 0)
		memcpy(out->data + out->end, tag, len);
	out->end += len;
	out->data[out->end++] = '}';
	return true;
}

bool
orion_redis_side_tag(OrionRedisSide *side, uint64_t event, const char *tag, size_t len)
{
	OrionBuffer *scratch = &side->scratch;
	const char *key;
	size_t		key_len;

	orion_buffer_consume(scratch, orion_buffer_len(scratch));
	if (!orion_redis_tag_key(side->settings->tag_prefix, tag, len, scratch))
		return false;
	key = (const char *) scratch->data + scratch->start;
	key_len = orion_buffer_len(scratch);
	if (is_asked_for(side, JOB_TAG, key, key_len))
		return true;
	return add_walk(side, JOB_TAG, event, node_of_slot(side, orion_redis_slot(key, key_len)), key, key_len);
}

bool
orion_redis_side_scan(OrionRedisSide *side, uint64_t event, const char *pattern, size_t len)
{
	if (is_asked_for(side, JOB_SCAN, pattern, len))
		return true;
	for (int node = 0; node < (side->settings->cluster ? side->map.n : 1); node++)
	{
		if (!add_walk(side, JOB_SCAN, event, node, pattern, len))
			return false;
	}
	return true;
}

/* ---- walks ---- */

/* The set that a tag's keys are in while they are removed. */
static bool
make_doomed(OrionRedisSide *side, const Job *job, OrionText *key)
{
	static const char infix[] = ":doomed:";
	OrionBuffer *scratch = &side->scratch;
	size_t		name_len = strlen(side->settings->sink);

	orion_buffer_consume(scratch, orion_buffer_len(scratch));
	if (!orion_buffer_reserve(scratch, job->len + sizeof(infix) + name_len))
		return false;
	memcpy(scratch->data, job->bytes, job->len);
	memcpy(scratch->data + job->len, infix, sizeof(infix) - 1);
	memcpy(scratch->data + job->len + sizeof(infix) - 1, side->settings->sink, name_len);
	scratch->end = job->len + sizeof(infix) - 1 + name_len;
	*key = orion_text((const char *) scratch->data, scratch->end);
	return true;
}

/* The next command of a walk. */
static bool
send_step(OrionRedisSide *side, Job *job)
{
	OrionText	words[6];
	OrionText	own = orion_text(job->bytes, job->len);
	OrionText	doomed;
	size_t		n = 0;

	if (job->kind == JOB_SCAN)
	{
		words[n++] = orion_text_of("SCAN");
		words[n++] = orion_text_of(job->cursor);
		words[n++] = orion_text_of("MATCH");
		words[n++] = own;
	}
	else if (!make_doomed(side, job, &doomed))
		return false;
	else if (job->next == STEP_RENAME)
	{
		words[n++] = orion_text_of("RENAMENX");
		words[n++] = own;
		words[n++] = doomed;
	}
	else
	{
		words[n++] = orion_text_of(job->next == STEP_SSCAN ? "SSCAN" : "UNLINK");
		words[n++] = doomed;
		if (job->next == STEP_SSCAN)
			words[n++] = orion_text_of(job->cursor);
	}
	if (job->next == STEP_SCAN || job->next == STEP_SSCAN)
	{
		words[n++] = orion_text_of("COUNT");
		words[n++] = orion_text_of(WALK_STEP);
	}
	return send_put(side, job, job->next, n, words);
}

static bool
send_late(OrionRedisSide *side)
{
	side->late = 0;
	for (int i = 0; i < side->njobs; i++)
	{
		Job		   *job = &side->jobs[i];

		if (job->kind != JOB_COMMAND || job->started)
			continue;
		job->started = true;
		if (!send_bytes(side, job))
			return false;
	}
	return true;
}

/* What can be sent now and was not. */
static bool
start_walks(OrionRedisSide *side)
{
	if (side->late > 0 && side->active == side->late && !send_late(side))
		return false;
	for (; side->next_walk < side->njobs && side->walks < WALKS_AT_ONCE; side->next_walk++)
	{
		Job		   *job = &side->jobs[side->next_walk];

		if (job->started || (job->kind != JOB_TAG && job->kind != JOB_SCAN))
			continue;
		job->started = true;
		side->walks++;
		if (!send_step(side, job))
			return false;
	}
	return true;
}

/* What we live by is not for patterns to remove. */
static bool
is_ours(const OrionRedisSide *side, const redisReply *key)
{
	const OrionRedisSideSettings *settings = side->settings;

	return (key->len == strlen(settings->position_key) && memcmp(key->str, settings->position_key, key->len) == 0) ||
		(settings->stream && key->len == strlen(settings->stream) && memcmp(key->str, settings->stream, key->len) == 0);
}

static bool
unlink_keys(OrionRedisSide *side, int parent, size_t n, const OrionText *words)
{
	if (n == 1)
		return true;
	side->jobs[parent].children++;
	return add_command(side, side->jobs[parent].event, parent, false, words[1], n, words);
}

static bool
remove_found(OrionRedisSide *side, int parent, const redisReply *keys)
{
	OrionText  *words = malloc((keys->elements + 1) * sizeof(*words));
	size_t		n = 1;
	bool		good = words != NULL;

	if (good)
		words[0] = orion_text_of("UNLINK");
	for (size_t i = 0; good && i < keys->elements; i++)
	{
		const redisReply *key = keys->element[i];

		if (key->type != REDIS_REPLY_STRING || is_ours(side, key))
			continue;
		words[n++] = orion_text(key->str, key->len);
		if (side->settings->cluster)
		{
			good = unlink_keys(side, parent, n, words);
			n = 1;
		}
	}
	good = good && unlink_keys(side, parent, n, words);
	free(words);
	return good;
}

/* ---- answers ---- */

/* A walk goes on when nothing of its last step is under way. */
static bool
go_on(OrionRedisSide *side, int number)
{
	Job		   *job = &side->jobs[number];

	if (job->children > 0)
		return true;
	if (job->next != STEP_COMMAND)
		return send_step(side, job);
	free_job(side, job);
	return true;
}

static bool
end_job(OrionRedisSide *side, int number)
{
	Job		   *job = &side->jobs[number];
	int			parent = job->parent;

	if (job->kind != JOB_COMMAND)
	{
		job->next = STEP_COMMAND;
		return go_on(side, number);
	}
	free_job(side, job);
	if (parent < 0)
		return true;
	side->jobs[parent].children--;
	return go_on(side, parent);
}

static bool
follow(OrionSink *sink, OrionRedisSide *side, const Expected *expected, const OrionRedisRedirect *redirect)
{
	Job		   *job = &side->jobs[expected->job];
	OrionText	asking = orion_text_of("ASKING");
	int			node = side->settings->cluster ?
	orion_redis_map_find(&side->map, redirect->host_len ? redirect->host : side->nodes[job->node].server.host,
						 redirect->host_len ? redirect->host_len : strlen(side->nodes[job->node].server.host), redirect->port) : -1;

	if (node < 0 && !side->settings->cluster)
		return orion_sink_fail(sink, "redis: this is a cluster: the sink needs \"cluster\": true");
	if (node < 0 || !orion_redis_is_open(&side->nodes[node].server))
		return orion_sink_fail(sink, "redis: the cluster has changed; reading its slots again");
	if (++job->redirects > REDIRECTS_MAX)
		return orion_sink_fail(sink, "redis: the cluster's nodes name each other for slot %u", redirect->slot);
	job->node = node;
	if (!redirect->ask)
		side->map.owner[redirect->slot] = (int16_t) node;
	else if (!send_put(side, job, STEP_ASKING, 1, &asking))
		return false;
	if (job->kind == JOB_COMMAND)
		return send_bytes(side, job);
	job->next = expected->step;
	return send_step(side, job);
}

bool
orion_redis_error_is_permanent(const char *error)
{
	static const char *const passing[] = {
		"ERR unknown command", "ERR max number of clients", "ERR This instance has cluster support", NULL
	};

	for (int i = 0; passing[i]; i++)
	{
		if (strncmp(error, passing[i], strlen(passing[i])) == 0)
			return false;
	}
	return strncmp(error, "ERR ", 4) == 0 || strncmp(error, "WRONGTYPE ", 10) == 0;
}

static bool
on_error(OrionSink *sink, OrionRedisSide *side, const Expected *expected, const char *error)
{
	Job		   *job = &side->jobs[expected->job];
	OrionRedisRedirect redirect;

	if (expected->step == STEP_RENAME && strncmp(error, "ERR no such key", 15) == 0)
	{
		job->next = STEP_SSCAN; /* a crash may have left the other one */
		return go_on(side, expected->job);
	}
	if (orion_redis_redirect_read(error, &redirect))
		return follow(sink, side, expected, &redirect);
	if (expected->step == STEP_ASKING || !orion_redis_error_is_permanent(error))
		return orion_sink_fail(sink, "redis refuses cache work: %.300s", error);
	orion_sink_refuse(sink, orion_queue_at(&sink->queue, job->event), error);
	return end_job(side, expected->job);
}

static bool
on_page(OrionSink *sink, OrionRedisSide *side, const Expected *expected, const redisReply *reply)
{
	Job		   *job = &side->jobs[expected->job];
	const redisReply *cursor;

	if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 2 ||
		reply->element[0]->type != REDIS_REPLY_STRING || reply->element[1]->type != REDIS_REPLY_ARRAY ||
		reply->element[0]->len == 0 || reply->element[0]->len >= sizeof(job->cursor))
		return orion_sink_fail(sink, "redis: unexpected answer to %s", expected->step == STEP_SCAN ? "SCAN" : "SSCAN");
	cursor = reply->element[0];
	memcpy(job->cursor, cursor->str, cursor->len);
	job->cursor[cursor->len] = '\0';
	if (strcmp(job->cursor, "0") != 0)
		job->next = expected->step;
	else
		job->next = expected->step == STEP_SCAN ? STEP_COMMAND : STEP_FINISH;
	return remove_found(side, expected->job, reply->element[1]) && go_on(side, expected->job);
}

/* False without a word in sink->why: memory is out. */
static bool
on_answer(OrionSink *sink, OrionRedisSide *side, const Expected *expected, const redisReply *reply)
{
	Job		   *job = &side->jobs[expected->job];

	if (reply->type == REDIS_REPLY_ERROR)
		return on_error(sink, side, expected, reply->str);
	switch (expected->step)
	{
		case STEP_ASKING:
			return true;
		case STEP_COMMAND:
			return end_job(side, expected->job);
		case STEP_RENAME:
			if (reply->type != REDIS_REPLY_INTEGER)
				return orion_sink_fail(sink, "redis: unexpected answer to RENAMENX");
			job->again = reply->integer == 0;
			strcpy(job->cursor, "0");
			job->next = STEP_SSCAN;
			return go_on(side, expected->job);
		case STEP_SSCAN:
		case STEP_SCAN:
			return on_page(sink, side, expected, reply);
		case STEP_FINISH:
			if (!job->again)
				return end_job(side, expected->job);
			job->next = STEP_RENAME;
			return go_on(side, expected->job);
	}
	return false;
}

static bool
take_answers(OrionSink *sink, OrionRedisSide *side, Node *node)
{
	redisReply *reply;

	for (;;)
	{
		Expected	expected;
		bool		good;

		if (!orion_redis_next(sink, &node->server, &reply))
			return false;
		if (reply == NULL)
			return true;
		if (node->first == node->end)
		{
			orion_sink_fail(sink, "redis %.100s:%d: an answer nobody asked for%s%.200s", node->server.host, node->server.port,
							reply->type == REDIS_REPLY_ERROR ? ": " : "", reply->type == REDIS_REPLY_ERROR ? reply->str : "");
			freeReplyObject(reply);
			return false;
		}
		expected = node->expected[node->first++ & (node->room - 1)];
		sink->why[0] = '\0';
		good = on_answer(sink, side, &expected, reply);
		freeReplyObject(reply);
		if (!good)
			return sink->why[0] ? false : orion_sink_fail(sink, "out of memory");
	}
}

bool
orion_redis_side_run(OrionSink *sink, OrionRedisSide *side)
{
	if (!start_walks(side))
		return orion_sink_fail(sink, "out of memory");
	for (int i = 0; i < ORION_REDIS_NODES; i++)
	{
		Node	   *node = &side->nodes[i];

		if (!orion_redis_is_open(&node->server))
			continue;
		if (!orion_redis_flush(sink, &node->server) || !orion_redis_fill(sink, &node->server) ||
			!take_answers(sink, side, node))
			return false;
	}
	/* answers may have asked for more, at a node whose turn was over */
	for (int i = 0; i < ORION_REDIS_NODES; i++)
	{
		Node	   *node = &side->nodes[i];

		if (orion_redis_is_open(&node->server) && orion_buffer_len(&node->server.link.out) > 0 &&
			!orion_redis_flush(sink, &node->server))
			return false;
	}
	return start_walks(side) || orion_sink_fail(sink, "out of memory");
}

/* ---- connections ---- */

/* "id=7 addr=... name=orion:stream ...": the id, when the name is ours. */
static bool
read_client(const char *line, size_t len, const char *name, char *id, size_t size)
{
	const char *end = line + len;
	const char *at = memmem(line, len, " name=", 6);
	size_t		digits = len > 3 && memcmp(line, "id=", 3) == 0 ? strspn(line + 3, "0123456789") : 0;

	if (at == NULL || digits == 0 || digits >= size || (size_t) (end - at) < 7 + strlen(name) ||
		strncmp(at + 6, name, strlen(name)) != 0 || at[6 + strlen(name)] != ' ')
		return false;
	memcpy(id, line + 3, digits);
	id[digits] = '\0';
	return true;
}

/* Ends the connections that a predecessor of ours may have left, with what they still hold. */
static bool
fence(OrionSink *sink, OrionRedisSide *side, OrionRedisServer *server)
{
	char		name[120];
	char		own[24] = "";
	char		id[24];
	redisReply *reply;
	bool		good = true;

	snprintf(name, sizeof(name), "orion:%.100s", side->settings->sink);
	reply = orion_redis_ask(sink, server, "CLIENT ID", "CLIENT", "ID");
	if (reply && reply->type == REDIS_REPLY_INTEGER)
		snprintf(own, sizeof(own), "%lld", reply->integer);
	if (!orion_redis_worked(sink, server, "CLIENT ID", reply) ||
		!orion_redis_worked(sink, server, "CLIENT SETNAME", orion_redis_ask(sink, server, "CLIENT SETNAME", "CLIENT", "SETNAME", name)))
		return false;
	reply = orion_redis_ask(sink, server, "CLIENT LIST", "CLIENT", "LIST", "TYPE", "normal");
	for (const char *line = reply && reply->type == REDIS_REPLY_STRING ? reply->str : NULL; good && line && *line;)
	{
		size_t		len = strcspn(line, "\n");

		if (read_client(line, len, name, id, sizeof(id)) && strcmp(id, own) != 0)
			good = orion_redis_worked(sink, server, "CLIENT KILL", orion_redis_ask(sink, server, "CLIENT KILL", "CLIENT", "KILL", "ID", id));
		line += len + (line[len] == '\n');
	}
	return orion_redis_worked(sink, server, "CLIENT LIST", reply) && good;
}

static bool
open_node(OrionSink *sink, OrionRedisSide *side, int number, const char *host, int port)
{
	Node	   *node = &side->nodes[number];

	node->first = node->end = 0;
	return orion_redis_open(sink, &node->server, side->settings->login, host, port) &&
		(!side->settings->fence || !side->settings->cluster || fence(sink, side, &node->server));
}

bool
orion_redis_side_open(OrionSink *sink, OrionRedisSide *side, const OrionRedisMap *map)
{
	const OrionUrl *url = &side->settings->login->url;

	if (!side->settings->cluster)
		return open_node(sink, side, 0, url->host, url->port);
	side->map = *map;
	for (int i = 0; i < map->n; i++)
	{
		if (!open_node(sink, side, i, map->nodes[i].host, map->nodes[i].port))
			return false;
	}
	return true;
}

void
orion_redis_side_close(OrionRedisSide *side)
{
	if (side == NULL)
		return;
	for (int i = 0; i < ORION_REDIS_NODES; i++)
		orion_redis_close(&side->nodes[i].server);
	forget_jobs(side);
}

size_t
orion_redis_side_servers(const OrionRedisSide *side)
{
	if (side == NULL)
		return 0;
	return side->settings->cluster ? side->map.n : 1;
}

OrionRedisServer *
orion_redis_side_server(OrionRedisSide *side, size_t number)
{
	return &side->nodes[number].server;
}
