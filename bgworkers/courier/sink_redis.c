/*
 * sink_redis.c
 *	  Events into a Redis stream, cache keys out of the way, and the position, all
 *	  in one MULTI ... EXEC.
 *
 * Because the position is stored with the effect, nothing is doubled: after a
 * lost connection the stored position tells whether the last batch was applied.
 * Two things keep that true.
 *
 * One batch is in flight, never two: if the first were refused (-OOM) and the
 * second applied, the position would lie behind events that are not there.  What
 * arrives meanwhile makes up the next batch.
 *
 * The position key is watched, from before it is read and again right after each
 * EXEC of ours.  A batch of a courier that was killed, still on its way through a
 * socket buffer, is dropped by Redis when its successor has written, and the
 * successor's is when the straggler was first (EXEC answers nil; read again).
 *
 * Errors: WRONGTYPE and ERR of one event's command refuse that event.  Anything
 * else (OOM, LOADING, READONLY, MISCONF, NOPERM, and whatever is unknown) is
 * trouble of the server: hang up, back off, try again.  Redis undoes nothing when
 * a command fails inside EXEC, so there a failed command always means REJECT.  The
 * position is stored by then: if this process is killed before the relay has read
 * the REJECT, that event is in neither place.  It takes a template that leads to a
 * key of another type; a stream of our own is watched, and cannot fail there.
 *
 * A Redis that is killed may come back with less than it had confirmed: under
 * appendfsync everysec it answers up to two seconds before it even calls write(),
 * when the disk is behind.  The position goes back together with the events, so the
 * courier leaves and the relay begins again from there.
 *
 * It may also come back with a torn file.  When the kill cuts a command of our
 * MULTI short, Redis (7.0 at least) removes that command but keeps the MULTI and
 * what came before the cut.  Nothing of it is applied, we send it all again; but the
 * next time that file is loaded, the dangling MULTI swallows the next one, and its
 * events are applied as well.  Therefore entries have ids made of their positions:
 * the second time Redis refuses them.  And the stream is trimmed by a command of its
 * own, because XADD MAXLEN ~ is logged with the exact length, which in such a load
 * would cut off the oldest entries.
 *
 * That needs a stream of our own, and one.  If others write to it too, or it is not
 * always the same, Redis numbers the entries and a torn file makes duplicates.  To
 * know, the stream is watched like the position.
 *
 * A Redis that evicts the position key makes duplicates, not losses.
 */
#include <errno.h>
#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "codec/topic.h"
#include "config.h"
#include "sink.h"
#include "template.h"

#define BATCH_EVENTS	1000
#define BATCH_BYTES		(1024 * 1024)	/* an event larger than that goes
										 * alone */
#define MAX_RULES		64
#define MAX_KEYS		16
#define OVERTAKEN_LIMIT	5		/* lost races in a row before an operator
								 * hears of it */

typedef struct CacheRule
{
	const char *pattern;
	const char *keys[MAX_KEYS];
	int			nkeys;
} CacheRule;

typedef struct Batch
{
	bool		active;
	uint64_t	first;
	uint64_t	end;			/* first event behind it */
	uint64_t   *owner;			/* event of each queued command; 0: the
								 * position */
	size_t		ncommands;
	size_t		room;
	size_t		replies;		/* received so far */
	bool		refused;		/* some command was not queued: EXEC will
								 * abort */
	char		position[128];	/* what it sets the key to */
	long		sent_at;
} Batch;

typedef struct RedisState
{
	OrionUrl	url;
	int			db;
	const char *stream;
	bool		stream_fixed;
	bool		shared;			/* somebody else changes the stream */
	bool		top_known;		/* what follows is the last id in the stream */
	uint64_t	top_ms;
	uint64_t	top_seq;
	long long	maxlen;
	char	   *position_key;
	CacheRule	rules[MAX_RULES];
	int			nrules;

	redisContext *ctx;
	Batch		batch;
	OrionBuffer key;			/* scratch for expansions */
	int			overtaken;
	bool		unwritten;		/* some of the batch waits for the socket */
	bool		known;			/* the position has been read before */
	char		floor[128];		/* events up to here were delivered by another
								 * courier */
} RedisState;

/* ---- settings ---- */

static bool
check_template(OrionSink *sink, const char *key, const char *string, bool *fixed)
{
	char		err[200];

	if (orion_template_check(string, fixed, err, sizeof(err)))
		return true;
	return orion_sink_fail(sink, "config: key \"%s\": %s", key, err);
}

static bool
configure_rule(OrionSink *sink, json_t *item, CacheRule *rule)
{
	static const char *const known[] = {"pattern", "del", NULL};
	json_t	   *keys;
	bool		fixed;

	if (!json_is_object(item))
		return orion_sink_fail(sink, "config: key \"cache\" must be an array of objects {\"pattern\", \"del\"}");
	if (!orion_config_known(sink, item, known) ||
		!orion_config_string(sink, item, "pattern", NULL, &rule->pattern) ||
		!orion_config_array(sink, item, "del", &keys))
		return false;
	if (keys == NULL || json_array_size(keys) == 0 || json_array_size(keys) > MAX_KEYS)
		return orion_sink_fail(sink, "config: key \"del\" must be an array of 1 to %d keys", MAX_KEYS);
	for (size_t i = 0; i < json_array_size(keys); i++)
	{
		const char *string = json_string_value(json_array_get(keys, i));

		if (string == NULL || *string == '\0')
			return orion_sink_fail(sink, "config: key \"del\" must hold strings that are not empty");
		if (!check_template(sink, "del", string, &fixed))
			return false;
		rule->keys[rule->nkeys++] = string;
	}
	return true;
}

static bool
configure_rules(OrionSink *sink, RedisState *state, json_t *config)
{
	json_t	   *cache;

	if (!orion_config_array(sink, config, "cache", &cache))
		return false;
	if (json_array_size(cache) > MAX_RULES)
		return orion_sink_fail(sink, "config: key \"cache\" has more than %d rules", MAX_RULES);
	for (size_t i = 0; i < json_array_size(cache); i++)
	{
		if (!configure_rule(sink, json_array_get(cache, i), &state->rules[state->nrules++]))
			return false;
	}
	return true;
}

/* The database number: the URL's path. */
static bool
configure_db(OrionSink *sink, RedisState *state)
{
	const char *path = state->url.path;

	if (strspn(path, "0123456789") != strlen(path) || strlen(path) > 5)
		return orion_sink_fail(sink, "config: key \"url\" must end in a database number");
	state->db = atoi(path);
	return true;
}

static bool
configure(OrionSink *sink, json_t *config)
{
	static const char *const known[] = {"url", "stream", "maxlen", "position_key", "cache", NULL};
	RedisState *state = calloc(1, sizeof(*state));
	char		dflt[256];
	const char *key;

	if (state == NULL)
		return orion_sink_fail(sink, "out of memory");
	sink->state = state;
	snprintf(dflt, sizeof(dflt), "orion:position:%.200s", sink->name);
	if (!orion_config_known(sink, config, known) ||
		!orion_config_url(sink, config, "redis", 6379, &state->url) ||
		!configure_db(sink, state) ||
		!orion_config_string(sink, config, "stream", "orion:events", &state->stream) ||
		!check_template(sink, "stream", state->stream, &state->stream_fixed) ||
		!orion_config_integer(sink, config, "maxlen", 1, 1LL << 52, 1000000, &state->maxlen) ||
		!orion_config_string(sink, config, "position_key", dflt, &key) ||
		!configure_rules(sink, state, config))
		return false;
	state->position_key = strdup(key);
	sink->secret = state->url.password;
	return state->position_key != NULL || orion_sink_fail(sink, "out of memory");
}

/* ---- connecting: blocking calls, each with a timeout ---- */

/* Runs one command; the reply is the caller's. NULL: sink->why is set. */
static redisReply *
ask(OrionSink *sink, const char *what, int argc, const char **argv)
{
	RedisState *state = sink->state;
	redisReply *reply = redisCommandArgv(state->ctx, argc, argv, NULL);

	if (reply == NULL)
	{
		orion_sink_fail(sink, "redis %s:%d: %s: %s", state->url.host, state->url.port, what,
						state->ctx->err == REDIS_ERR_IO && errno == EAGAIN ? "no answer in time" : state->ctx->errstr);
		return NULL;
	}
	if (reply->type == REDIS_REPLY_ERROR)
	{
		orion_sink_fail(sink, "redis %s:%d: %s: %.300s", state->url.host, state->url.port, what, reply->str);
		freeReplyObject(reply);
		return NULL;
	}
	return reply;
}

/* The same for a command of two words. */
static redisReply *
ask_about(OrionSink *sink, const char *command, const char *key)
{
	const char *argv[2] = {command, key};

	return ask(sink, command, 2, argv);
}

/* An answer that says no more than that it worked. */
static bool
worked(redisReply *reply)
{
	if (reply)
		freeReplyObject(reply);
	return reply != NULL;
}

static bool
authenticate(OrionSink *sink, RedisState *state)
{
	const char *argv[3] = {"AUTH"};
	int			argc = 1;
	char		db[12];

	if (state->url.user && *state->url.user && state->url.password)
		argv[argc++] = state->url.user;
	if (state->url.password)
	{
		argv[argc++] = state->url.password;
		if (!worked(ask(sink, "authentication", argc, argv)))
			return false;
	}
	if (state->db == 0)
		return true;
	snprintf(db, sizeof(db), "%d", state->db);
	return worked(ask_about(sink, "SELECT", db));
}

/* WRONGTYPE would show only inside EXEC, when the position is stored already; later read_top watches. */
static bool
check_stream(OrionSink *sink, RedisState *state)
{
	redisReply *reply;
	bool		good;

	if (!state->stream_fixed)
		return true;
	reply = ask_about(sink, "TYPE", state->stream);
	if (reply == NULL)
		return false;
	good = reply->type == REDIS_REPLY_STATUS &&
		(strcmp(reply->str, "stream") == 0 || strcmp(reply->str, "none") == 0);
	freeReplyObject(reply);
	return good || orion_sink_fail(sink, "redis: key \"%.100s\" exists and is not a stream", state->stream);
}

static bool
read_position(OrionSink *sink, RedisState *state)
{
	redisReply *reply;
	int			order;
	bool		good = true;

	if (!worked(ask_about(sink, "WATCH", state->position_key)))
		return false;
	reply = ask_about(sink, "GET", state->position_key);
	if (reply == NULL)
		return false;
	if (reply->type == REDIS_REPLY_NIL)
		sink->position[0] = '\0';
	else if (reply->type == REDIS_REPLY_STRING && reply->len < sizeof(sink->position) &&
			 orion_position_compare(orion_text(reply->str, reply->len),
									orion_text(reply->str, reply->len), &order))
	{
		memcpy(sink->position, reply->str, reply->len);
		sink->position[reply->len] = '\0';
	}
	else
		good = orion_sink_fail(sink, "redis: key \"%.100s\" does not hold a position", state->position_key);
	freeReplyObject(reply);
	return good;
}

/* Learns the last id of the stream from the answer to XINFO STREAM. */
static void
learn_top(RedisState *state, const redisReply *reply)
{
	state->top_ms = state->top_seq = 0;
	state->top_known = reply->type == REDIS_REPLY_ERROR && strcmp(reply->str, "ERR no such key") == 0;
	if (reply->type != REDIS_REPLY_ARRAY)
		return;
	for (size_t i = 0; i + 1 < reply->elements; i += 2)
	{
		const redisReply *name = reply->element[i];
		const redisReply *value = reply->element[i + 1];
		unsigned long long ms;
		unsigned long long seq;

		if (name->type != REDIS_REPLY_STRING || strcmp(name->str, "last-generated-id") != 0 ||
			value->type != REDIS_REPLY_STRING || sscanf(value->str, "%llu-%llu", &ms, &seq) != 2)
			continue;
		state->top_ms = ms;
		state->top_seq = seq;
		state->top_known = true;
	}
}

static bool
numbers_entries(const RedisState *state)
{
	return state->stream_fixed && !state->shared;
}

static bool
read_top(OrionSink *sink, RedisState *state)
{
	redisReply *reply;

	state->top_known = false;
	if (!numbers_entries(state))
		return true;
	if (!worked(ask_about(sink, "WATCH", state->stream)))
		return false;
	reply = redisCommand(state->ctx, "XINFO STREAM %s", state->stream);
	if (reply == NULL)
		return orion_sink_fail(sink, "redis %s:%d: XINFO: %s", state->url.host, state->url.port, state->ctx->errstr);
	learn_top(state, reply);
	freeReplyObject(reply);
	return true;
}

/* True when the stored position, or the floor, proves this event delivered. */
static bool
is_behind(const OrionEvent *event, const char *position)
{
	return orion_position_covers(orion_text(position, strlen(position)), event->position);
}

/*
 * Has the server forgotten what it had confirmed, or did somebody else write the
 * position?  The relay has moved on and must hear of it.
 */
static bool
check_grown(OrionSink *sink, const char *before)
{
	char		line[400];
	int			order = -1;

	if (before[0] == '\0' || strcmp(before, sink->position) == 0)
		return true;
	if (orion_position_compare(orion_text(sink->position, strlen(sink->position)),
							   orion_text(before, strlen(before)), &order) && order >= 0)
		return true;
	snprintf(line, sizeof(line), "redis lost confirmed events: its position went back from %s to %s",
			 before, sink->position[0] ? sink->position : "none");
	orion_sink_log(sink, line);
	sink->gone_back = true;
	return orion_sink_fail(sink, "%s", line);
}

/*
 * What became of the events in flight?  before is the position known when the
 * batch was sent.  If it still stands, nothing was applied; if it is what the
 * batch would set, all of it was.  Anything else was written by a predecessor of
 * ours whose last batch came late: it may reach further than our batch, so what
 * is still to come is compared too, until the first event beyond it.
 */
static void
resolve_batch(OrionSink *sink, RedisState *state, const char *before)
{
	Batch	   *batch = &state->batch;
	bool		applied = batch->active && strcmp(sink->position, batch->position) == 0;
	bool		foreign = !applied && strcmp(sink->position, before) != 0;

	for (uint64_t i = sink->queue.head; i < sink->queue.tail; i++)
	{
		OrionEvent *event = orion_queue_at(&sink->queue, i);

		if (applied && strcmp(sink->position, before) != 0 && i >= batch->first && i < batch->end)
			event->settled = true;
		else if (foreign && is_behind(event, sink->position))
			event->settled = true;
	}
	if (foreign && state->known)
		memcpy(state->floor, sink->position, sizeof(state->floor));
	state->known = true;
	batch->active = false;
}

static bool
redis_connect(OrionSink *sink)
{
	RedisState *state = sink->state;
	struct timeval timeout = {ORION_CONNECT_TIMEOUT, 0};
	char		before[sizeof(sink->position)];

	memcpy(before, sink->position, sizeof(before));
	state->ctx = redisConnectWithTimeout(state->url.host, state->url.port, timeout);
	if (state->ctx == NULL || state->ctx->err)
		return orion_sink_fail(sink, "redis %s:%d: %s", state->url.host, state->url.port,
							   state->ctx ? state->ctx->errstr : "out of memory");
	redisSetTimeout(state->ctx, timeout);
	redisEnableKeepAlive(state->ctx);
	if (!authenticate(sink, state) || !check_stream(sink, state) || !read_position(sink, state) ||
		!check_grown(sink, before))
		return false;
	if (state->overtaken > 0 && strcmp(before, sink->position) == 0)
		state->shared = true;	/* then it was the stream that had changed */
	if (!read_top(sink, state))
		return false;
	resolve_batch(sink, state, before);
	state->ctx->flags &= ~REDIS_BLOCK;
	fcntl(state->ctx->fd, F_SETFL, fcntl(state->ctx->fd, F_GETFL) | O_NONBLOCK);
	return true;
}

/* ---- publishing ---- */

static bool
add_command(RedisState *state, uint64_t owner, int argc, const char **argv, const size_t *lengths)
{
	Batch	   *batch = &state->batch;

	if (batch->ncommands == batch->room)
	{
		size_t		room = batch->room ? batch->room * 2 : 1024;
		uint64_t   *grown = realloc(batch->owner, room * sizeof(*grown));

		if (grown == NULL)
			return false;
		batch->owner = grown;
		batch->room = room;
	}
	batch->owner[batch->ncommands++] = owner;
	return redisAppendCommandArgv(state->ctx, argc, argv, lengths) == REDIS_OK;
}

/* The entry's id, made of the position; "*" where that would not be the stream's greatest. */
static void
make_id(const RedisState *state, const OrionEvent *event, char *id, size_t size)
{
	OrionPosition p;

	if (numbers_entries(state) && state->top_known && orion_position_parse(event->position, &p) &&
		(p.window > state->top_ms || (p.window == state->top_ms && p.seq > state->top_seq)))
		snprintf(id, size, "%" PRIu64 "-%" PRIu64, p.window, p.seq);
	else
		snprintf(id, size, "*");
}

static bool
add_trim(RedisState *state, uint64_t owner)
{
	char		maxlen[24];
	const char *argv[5] = {"XTRIM", (const char *) state->key.data, "MAXLEN", "~", maxlen};
	size_t		lengths[5] = {5, orion_buffer_len(&state->key), 6, 1};

	lengths[4] = snprintf(maxlen, sizeof(maxlen), "%lld", state->maxlen);
	return add_command(state, owner, 5, argv, lengths);
}

static bool
add_event(RedisState *state, OrionEvent *event)
{
	char		id[48];
	const char *argv[20] = {"XADD", NULL, id};
	size_t		lengths[20] = {4};
	int			argc = 3;
	const struct
	{
		const char *name;
		const OrionText *value;
	}			fields[] = {
		{"id", &event->id}, {"type", &event->type}, {"aggregatetype", &event->aggregatetype},
		{"aggregateid", &event->aggregateid}, {"correlationid", &event->correlationid},
		{"occurredat", &event->occurredat}, {"event", &event->envelope}
	};

	orion_buffer_consume(&state->key, orion_buffer_len(&state->key));
	if (!orion_template_expand(state->stream, event, &state->key))
		return false;
	argv[1] = (const char *) state->key.data;
	lengths[1] = orion_buffer_len(&state->key);
	make_id(state, event, id, sizeof(id));
	lengths[2] = strlen(id);
	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
	{
		argv[argc] = fields[i].name;
		lengths[argc++] = strlen(fields[i].name);
		argv[argc] = fields[i].value->str;
		lengths[argc++] = fields[i].value->len;
	}
	return add_command(state, event->number, argc, argv, lengths) &&
		(state->stream_fixed || add_trim(state, event->number));
}

static bool
add_cache_keys(RedisState *state, OrionEvent *event)
{
	char		type[256];

	if (state->nrules == 0 || event->type.len >= sizeof(type))
		return true;
	memcpy(type, event->type.str, event->type.len);
	type[event->type.len] = '\0';
	for (int i = 0; i < state->nrules; i++)
	{
		const CacheRule *rule = &state->rules[i];

		if (!orion_topic_match(rule->pattern, type))
			continue;
		for (int k = 0; k < rule->nkeys; k++)
		{
			const char *argv[2] = {"UNLINK"};
			size_t		lengths[2] = {6};

			orion_buffer_consume(&state->key, orion_buffer_len(&state->key));
			if (!orion_template_expand(rule->keys[k], event, &state->key))
				return false;
			argv[1] = (const char *) state->key.data;
			lengths[1] = orion_buffer_len(&state->key);
			if (!add_command(state, event->number, 2, argv, lengths))
				return false;
		}
	}
	return true;
}

/* Queues events from queue->next on until the batch is full. */
static bool
fill_batch(OrionSink *sink, RedisState *state, OrionEvent **last)
{
	OrionQueue *queue = &sink->queue;
	Batch	   *batch = &state->batch;
	size_t		bytes = 0;
	int			n = 0;

	*last = NULL;
	for (; queue->next < queue->tail && n < BATCH_EVENTS; queue->next++)
	{
		OrionEvent *event = orion_queue_at(queue, queue->next);

		if (state->floor[0] && !event->settled)
		{
			event->settled = is_behind(event, state->floor);
			if (!event->settled)
				state->floor[0] = '\0';
		}
		if (event->settled)
			continue;
		if (event->position.len == 0 || event->position.len >= sizeof(batch->position))
		{
			orion_sink_reject(sink, event, "the event has no position");
			continue;
		}
		if (n > 0 && bytes + event->size > BATCH_BYTES)
			break;
		if (!add_event(state, event) || !add_cache_keys(state, event))
			return false;
		bytes += event->size;
		n++;
		*last = event;
	}
	batch->end = queue->next;
	if (*last == NULL || !state->stream_fixed)
		return true;
	orion_buffer_consume(&state->key, orion_buffer_len(&state->key));
	return orion_template_expand(state->stream, *last, &state->key) && add_trim(state, (*last)->number);
}

static bool
redis_flush(OrionSink *sink)
{
	RedisState *state = sink->state;
	int			done = 0;

	if (redisBufferWrite(state->ctx, &done) == REDIS_OK)
		state->unwritten = !done;
	else
		return orion_sink_fail(sink, "redis %s:%d: connection lost: %s", state->url.host, state->url.port, state->ctx->errstr);
	return true;
}

/* What the next batch must know, asked for behind this one. */
static bool
append_watch(RedisState *state)
{
	if (!numbers_entries(state))
		return redisAppendCommand(state->ctx, "WATCH %s", state->position_key) == REDIS_OK;
	return redisAppendCommand(state->ctx, "WATCH %s %s", state->position_key, state->stream) == REDIS_OK &&
		redisAppendCommand(state->ctx, "XINFO STREAM %s", state->stream) == REDIS_OK;
}

static bool
redis_publish(OrionSink *sink)
{
	RedisState *state = sink->state;
	Batch	   *batch = &state->batch;
	OrionEvent *last;
	const char *set[3] = {"SET", state->position_key, batch->position};
	size_t		lengths[3] = {3, strlen(state->position_key), 0};

	if (batch->active || sink->queue.next == sink->queue.tail)
		return true;
	batch->first = sink->queue.next;
	batch->ncommands = batch->replies = 0;
	batch->refused = false;
	if (redisAppendCommand(state->ctx, "MULTI") != REDIS_OK || !fill_batch(sink, state, &last))
		return orion_sink_fail(sink, "out of memory");
	batch->active = true;		/* even when empty: MULTI and EXEC are
								 * answered */
	batch->position[0] = '\0';
	batch->sent_at = sink->now;
	if (last)
	{
		memcpy(batch->position, last->position.str, last->position.len);
		batch->position[last->position.len] = '\0';
		lengths[2] = last->position.len;
		if (!add_command(state, 0, 3, set, lengths))
			return orion_sink_fail(sink, "out of memory");
	}
	if (redisAppendCommand(state->ctx, "EXEC") != REDIS_OK || !append_watch(state))
		return orion_sink_fail(sink, "out of memory");
	return redis_flush(sink);
}

/* ---- replies ---- */

static bool
begins_with(const char *string, const char *word)
{
	return strncmp(string, word, strlen(word)) == 0;
}

/* Is this error the event's own fault, and will it be tomorrow? */
static bool
error_is_permanent(const char *string)
{
	if (begins_with(string, "ERR unknown command") || begins_with(string, "ERR max number of clients"))
		return false;
	return begins_with(string, "ERR ") || begins_with(string, "WRONGTYPE ");
}

static bool
on_queued(OrionSink *sink, RedisState *state, size_t command, redisReply *reply)
{
	Batch	   *batch = &state->batch;
	uint64_t	owner = batch->owner[command];

	if (reply->type == REDIS_REPLY_STATUS)
		return true;
	if (reply->type != REDIS_REPLY_ERROR)
		return orion_sink_fail(sink, "redis: unexpected answer inside MULTI");
	if (owner == 0 || !error_is_permanent(reply->str))
		return orion_sink_fail(sink, "redis refuses to write: %.300s", reply->str);
	orion_sink_reject(sink, orion_queue_at(&sink->queue, owner), reply->str);
	batch->refused = true;
	return true;
}

static bool
on_executed(OrionSink *sink, RedisState *state, redisReply *reply)
{
	Batch	   *batch = &state->batch;

	if (reply->elements != batch->ncommands)
		return orion_sink_fail(sink, "redis: EXEC answered %zu results for %zu commands", reply->elements, batch->ncommands);
	for (size_t i = 0; i < reply->elements; i++)
	{
		redisReply *result = reply->element[i];

		if (result->type != REDIS_REPLY_ERROR)
			continue;
		if (batch->owner[i] == 0)
			return orion_sink_fail(sink, "redis refuses to store the position: %.300s", result->str);
		orion_sink_reject(sink, orion_queue_at(&sink->queue, batch->owner[i]), result->str);
	}
	for (uint64_t i = batch->first; i < batch->end; i++)
	{
		OrionEvent *event = orion_queue_at(&sink->queue, i);

		if (event)				/* one refused earlier may have left */
			event->settled = true;
	}
	if (batch->position[0])
		memcpy(sink->position, batch->position, sizeof(sink->position));
	state->overtaken = 0;
	return true;
}

static bool
on_exec(OrionSink *sink, RedisState *state, redisReply *reply)
{
	if (reply->type == REDIS_REPLY_ARRAY)
		return on_executed(sink, state, reply);
	if (reply->type == REDIS_REPLY_ERROR && state->batch.refused && begins_with(reply->str, "EXECABORT"))
	{
		orion_queue_rewind(&sink->queue);	/* again, without the refused */
		return true;
	}
	if (reply->type == REDIS_REPLY_NIL)
		return orion_sink_fail(sink, ++state->overtaken < OVERTAKEN_LIMIT ?
							   "redis: the position or the stream was changed by another connection; reading again" :
							   "redis: another courier keeps changing the position: two sinks share one position_key");
	if (reply->type == REDIS_REPLY_ERROR)
		return orion_sink_fail(sink, "redis refuses the transaction: %.300s", reply->str);
	return orion_sink_fail(sink, "redis: unexpected answer to EXEC");
}

static bool
on_reply(OrionSink *sink, RedisState *state, redisReply *reply)
{
	Batch	   *batch = &state->batch;
	size_t		at = batch->replies++;

	if (!batch->active)
		return orion_sink_fail(sink, "redis: an answer nobody asked for%s%.200s",
							   reply->type == REDIS_REPLY_ERROR ? ": " : "",
							   reply->type == REDIS_REPLY_ERROR ? reply->str : "");
	if (at > 0 && at <= batch->ncommands)
		return on_queued(sink, state, at - 1, reply);
	if (at == batch->ncommands + 1)
		return on_exec(sink, state, reply);
	if (at == batch->ncommands + 3)
	{
		if (reply->type == REDIS_REPLY_ERROR && begins_with(reply->str, "WRONGTYPE "))
			return orion_sink_fail(sink, "redis: key \"%.100s\" is no longer a stream", state->stream);
		learn_top(state, reply);
	}
	else if (reply->type != REDIS_REPLY_STATUS) /* MULTI, WATCH */
		return orion_sink_fail(sink, "redis refuses %s: %.300s", at == 0 ? "MULTI" : "WATCH",
							   reply->type == REDIS_REPLY_ERROR ? reply->str : "unexpected answer");
	if (at == batch->ncommands + (numbers_entries(state) ? 3 : 2))
		batch->active = false;
	return true;
}

static bool
redis_readable(OrionSink *sink)
{
	RedisState *state = sink->state;
	void	   *reply;

	if (redisBufferRead(state->ctx) != REDIS_OK)
		return orion_sink_fail(sink, "redis %s:%d: connection lost: %s", state->url.host, state->url.port, state->ctx->errstr);
	for (;;)
	{
		bool		good;

		if (redisGetReplyFromReader(state->ctx, &reply) != REDIS_OK)
			return orion_sink_fail(sink, "redis: broken answer: %s", state->ctx->errstr);
		if (reply == NULL)
			return true;
		good = on_reply(sink, state, reply);
		freeReplyObject(reply);
		if (!good)
			return false;
	}
}

static bool
redis_wants_write(OrionSink *sink)
{
	RedisState *state = sink->state;

	return state->unwritten;
}

static int
redis_fd(OrionSink *sink)
{
	RedisState *state = sink->state;

	return state->ctx->fd;
}

static bool
redis_tick(OrionSink *sink, long now)
{
	RedisState *state = sink->state;

	if (state->batch.active && now - state->batch.sent_at > ORION_STALL_TIMEOUT)
		return orion_sink_fail(sink, "redis %s:%d: no answer for %d s", state->url.host, state->url.port, ORION_STALL_TIMEOUT / 1000);
	return true;
}

static void
redis_close(OrionSink *sink)
{
	RedisState *state = sink->state;

	if (state->ctx)
		redisFree(state->ctx);
	state->ctx = NULL;
	state->unwritten = false;
}

const OrionSinkOps orion_sink_redis = {
	.kind = "redis",
	.configure = configure,
	.connect = redis_connect,
	.publish = redis_publish,
	.flush = redis_flush,
	.wants_write = redis_wants_write,
	.fd = redis_fd,
	.on_readable = redis_readable,
	.tick = redis_tick,
	.close = redis_close,
};
