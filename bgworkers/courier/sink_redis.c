/*
 * sink_redis.c
 *	  Events into a Redis stream or channel, cache keys out of the way or renewed,
 *	  and the position, all in one MULTI ... EXEC.
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
 * else (OOM, LOADING, READONLY, MISCONF, NOPERM, MOVED, and whatever is unknown) is
 * trouble of the server: hang up, back off, try again.
 *
 * A refused event holds the position back until the relay has stored the refusal
 * (orion_sink_refuse); a crash in between refuses it once more.  For that it must
 * be known before EXEC, which undoes nothing when a command fails in it: our own
 * stream is watched, and of streams that are named by a template the keys are
 * watched and their types asked for, before the transaction is sent.  Inside
 * EXEC nothing can fail then but the set of a tag or the generation of a namespace
 * that somebody made another type; the event has reached the stream all the same.
 *
 * What does not fit into the transaction, walks and keys on other nodes of a
 * cluster, is done before it, by redis_side.c.
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
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "codec/topic.h"
#include "redis_state.h"
#include "template.h"

#define BATCH_EVENTS	1000
#define BATCH_BYTES		(1024 * 1024)	/* an event larger than that goes
										 * alone */
#define OVERTAKEN_LIMIT	5		/* lost races in a row before an operator
								 * hears of it */
#define SILENCE_MS		2000	/* without an answer that is due, before an
								 * operator hears of it */
#define PING_MS			3000	/* idle for so long: ask whether it is alive */
#define NOBODY			0		/* owner of commands that are no event's */

typedef enum Phase
{
	PHASE_IDLE,
	PHASE_PING,
	PHASE_SIDE,					/* cache work outside of the transaction */
	PHASE_CHECK,				/* WATCH and TYPE of the streams */
	PHASE_SENT,					/* the transaction is under way */
} Phase;

typedef struct Batch
{
	uint64_t	first;
	uint64_t	end;			/* first event behind it */
	OrionBuffer commands;		/* MULTI ... EXEC and what follows */
	uint64_t   *owner;			/* event of each queued command, or NOBODY */
	size_t		ncommands;
	size_t		room;
	OrionBuffer checks;			/* WATCH and TYPE, if the streams are to be
								 * looked at */
	uint64_t	checked[BATCH_EVENTS];	/* events whose TYPE was asked for */
	size_t		nchecks;
	size_t		replies;		/* received so far in this phase */
	bool		refused;		/* some command was not queued: EXEC will
								 * abort */
	bool		sent;			/* EXEC may have happened */
	char		position[128];	/* what it sets the key to */
} Batch;

typedef struct RedisState
{
	OrionRedisSettings settings;
	OrionRedisServer home;		/* where stream and position are */
	OrionRedisMap map;
	OrionRedisSide *side;		/* NULL: not needed */
	unsigned	home_slot;
	int			poller;			/* an epoll of all connections */

	bool		shared;			/* somebody else changes the stream */
	bool		top_known;		/* what follows is the last id in the stream */
	uint64_t	top_ms;
	uint64_t	top_seq;

	Phase		phase;
	Batch		batch;
	OrionBuffer key;			/* scratch for expansions */
	OrionBuffer tag;			/* the same for the key of a tag */
	long		asked_at;		/* of the oldest answer that is due, or
								 * progress since */
	long		idle_since;
	int			overtaken;
	bool		known;			/* the position has been read before */
	char		floor[128];		/* events up to here were delivered by another
								 * courier */
} RedisState;

static bool
configure(OrionSink *sink, json_t *config)
{
	RedisState *state = calloc(1, sizeof(*state));

	if (state == NULL)
		return orion_sink_fail(sink, "out of memory");
	sink->state = state;
	state->poller = -1;
	if (!orion_redis_configure(sink, config, &state->settings))
		return false;
	state->home_slot = orion_redis_slot(state->settings.position_key, strlen(state->settings.position_key));
	if (state->settings.needs_side)
		state->side = orion_redis_side_new(&state->settings.side);
	return state->side || !state->settings.needs_side || orion_sink_fail(sink, "out of memory");
}

/* ---- connecting: waits, each step with a timeout ---- */

/* The answer to a command of two words; an error in it is a failure. NULL: sink->why. */
static redisReply *
ask_about(OrionSink *sink, RedisState *state, const char *command, const char *key)
{
	redisReply *reply = orion_redis_ask(sink, &state->home, command, command, key);

	if (reply == NULL || reply->type != REDIS_REPLY_ERROR)
		return reply;
	orion_redis_worked(sink, &state->home, command, reply);
	if (strstr(sink->why, ": MOVED ") && !state->settings.cluster)
		orion_sink_fail(sink, "redis %.100s:%d: this is a cluster: the sink needs \"cluster\": true", state->home.host, state->home.port);
	return NULL;
}

static bool
worked(redisReply *reply)
{
	if (reply)
		freeReplyObject(reply);
	return reply != NULL;
}

/* WRONGTYPE would show only inside EXEC, when the position is stored already; later read_top watches. */
static bool
check_stream(OrionSink *sink, RedisState *state)
{
	redisReply *reply;
	bool		good;

	if (!state->settings.stream_fixed)
		return true;
	reply = ask_about(sink, state, "TYPE", state->settings.side.stream);
	if (reply == NULL)
		return false;
	good = reply->type == REDIS_REPLY_STATUS &&
		(strcmp(reply->str, "stream") == 0 || strcmp(reply->str, "none") == 0);
	freeReplyObject(reply);
	return good || orion_sink_fail(sink, "redis: key \"%.100s\" exists and is not a stream", state->settings.side.stream);
}

static bool
read_position(OrionSink *sink, RedisState *state)
{
	const char *key = state->settings.position_key;
	redisReply *reply;
	int			order;
	bool		good = true;

	if (!worked(ask_about(sink, state, "WATCH", key)))
		return false;
	reply = ask_about(sink, state, "GET", key);
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
		good = orion_sink_fail(sink, "redis: key \"%.100s\" does not hold a position", key);
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
	return state->settings.stream_fixed && !state->shared;
}

static bool
read_top(OrionSink *sink, RedisState *state)
{
	redisReply *reply;

	state->top_known = false;
	if (!numbers_entries(state))
		return true;
	if (!worked(ask_about(sink, state, "WATCH", state->settings.side.stream)))
		return false;
	reply = orion_redis_ask(sink, &state->home, "XINFO", "XINFO", "STREAM", state->settings.side.stream);
	if (reply == NULL)
		return false;
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
	bool		applied = batch->sent && strcmp(sink->position, batch->position) == 0;
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
	batch->sent = false;
	state->phase = PHASE_IDLE;
}

/* One of the servers that the settings name; the first is the url's. */
static bool
open_seed(OrionSink *sink, RedisState *state, size_t number)
{
	const OrionRedisLogin *login = &state->settings.login;
	char		host[256];
	int			port = login->url.port;

	if (number == 0)
		return orion_redis_open(sink, &state->home, login, login->url.host, port);
	return orion_redis_seed_parse(json_string_value(json_array_get(state->settings.seeds, number - 1)), host, sizeof(host), &port) &&
		orion_redis_open(sink, &state->home, login, host, port);
}

static bool
read_slots(OrionSink *sink, RedisState *state)
{
	redisReply *reply = orion_redis_ask(sink, &state->home, "CLUSTER SLOTS", "CLUSTER", "SLOTS");
	bool		good;

	if (reply == NULL)
		return false;
	if (reply->type == REDIS_REPLY_ERROR)
		return orion_redis_worked(sink, &state->home, "CLUSTER SLOTS", reply);
	good = orion_redis_map_read(&state->map, reply, state->home.host);
	freeReplyObject(reply);
	return good || orion_sink_fail(sink, "redis %.100s:%d: the cluster's slots make no sense, or are not assigned",
								   state->home.host, state->home.port);
}

/* Goes to the node that serves the position. */
static bool
go_home(OrionSink *sink, RedisState *state)
{
	int			owner = state->map.owner[state->home_slot];
	const OrionRedisNode *node;

	if (owner < 0)
		return orion_sink_fail(sink, "redis: nobody in the cluster serves slot %u, where the position is", state->home_slot);
	node = &state->map.nodes[owner];
	if (strcmp(node->host, state->home.host) == 0 && node->port == state->home.port)
		return true;
	orion_redis_close(&state->home);
	return orion_redis_open(sink, &state->home, &state->settings.login, node->host, node->port);
}

static bool
open_home(OrionSink *sink, RedisState *state)
{
	size_t		n = 1 + json_array_size(state->settings.seeds);

	if (!state->settings.cluster)
		return open_seed(sink, state, 0);
	for (size_t i = 0; i < n; i++)
	{
		if (open_seed(sink, state, i) && read_slots(sink, state) && go_home(sink, state))
			return true;
		orion_redis_close(&state->home);
	}
	return false;
}

static void
watch_events(RedisState *state, OrionRedisServer *server, bool known)
{
	struct epoll_event event = {.events = EPOLLIN | (server->link.wants_write ? EPOLLOUT : 0)};

	if (orion_redis_is_open(server))
		epoll_ctl(state->poller, known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, server->link.fd, &event);
}

static void
watch_all(RedisState *state, bool known)
{
	watch_events(state, &state->home, known);
	for (size_t i = 0; i < orion_redis_side_servers(state->side); i++)
		watch_events(state, orion_redis_side_server(state->side, i), known);
}

static bool
redis_connect(OrionSink *sink)
{
	RedisState *state = sink->state;
	char		before[sizeof(sink->position)];

	memcpy(before, sink->position, sizeof(before));
	if (!open_home(sink, state) || !check_stream(sink, state) || !read_position(sink, state) ||
		!check_grown(sink, before))
		return false;
	if (state->overtaken > 0 && strcmp(before, sink->position) == 0)
		state->shared = true;	/* then it was the stream that had changed */
	if (!read_top(sink, state) ||
		(state->side && !orion_redis_side_open(sink, state->side, &state->map)))
		return false;
	resolve_batch(sink, state, before);
	state->poller = epoll_create1(EPOLL_CLOEXEC);
	if (state->poller < 0)
		return orion_sink_fail(sink, "no descriptor for epoll is left");
	watch_all(state, false);
	state->idle_since = sink->now;
	return true;
}

/* ---- making a batch ---- */

static void
empty(OrionBuffer *buffer)
{
	orion_buffer_consume(buffer, orion_buffer_len(buffer));
}

static bool
add_command(RedisState *state, uint64_t owner, size_t n, const OrionText *words)
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
	orion_redis_put(&batch->commands, n, words);
	return !batch->commands.failed;
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
expand(RedisState *state, const char *string, const OrionEvent *event, OrionText *key)
{
	empty(&state->key);
	if (!orion_template_expand(string, event, &state->key))
		return false;
	*key = orion_text((const char *) state->key.data + state->key.start, orion_buffer_len(&state->key));
	return true;
}

static bool
add_trim(RedisState *state, uint64_t owner, OrionText stream)
{
	char		maxlen[24];
	OrionText	words[] = {orion_text_of("XTRIM"), stream, orion_text_of("MAXLEN"), orion_text_of("~"), {maxlen, 0}};

	words[4].len = snprintf(maxlen, sizeof(maxlen), "%lld", state->settings.maxlen);
	return add_command(state, owner, 5, words);
}

/* Streams of templates: see the head of this file. */
static void
add_check(RedisState *state, const OrionEvent *event, OrionText stream)
{
	Batch	   *batch = &state->batch;
	OrionText	watch[] = {orion_text_of("WATCH"), stream};
	OrionText	type[] = {orion_text_of("TYPE"), stream};

	if (!state->shared)
		orion_redis_put(&batch->checks, 2, watch);
	orion_redis_put(&batch->checks, 2, type);
	batch->checked[batch->nchecks++] = event->number;
}

static bool
add_entry(RedisState *state, OrionEvent *event)
{
	char		id[48];
	OrionText	stream;
	OrionText	words[] = {
		orion_text_of("XADD"), {NULL, 0}, {NULL, 0},
		orion_text_of("id"), event->id, orion_text_of("type"), event->type,
		orion_text_of("aggregatetype"), event->aggregatetype, orion_text_of("aggregateid"), event->aggregateid,
		orion_text_of("correlationid"), event->correlationid, orion_text_of("occurredat"), event->occurredat,
		orion_text_of("event"), event->envelope
	};

	if (!expand(state, state->settings.stream, event, &stream))
		return false;
	make_id(state, event, id, sizeof(id));
	words[1] = stream;
	words[2] = orion_text_of(id);
	if (!state->settings.stream_fixed)
		add_check(state, event, stream);
	return add_command(state, event->number, sizeof(words) / sizeof(words[0]), words) &&
		(state->settings.stream_fixed || add_trim(state, event->number, stream));
}

static bool
add_message(RedisState *state, OrionEvent *event)
{
	OrionText	words[] = {orion_text_of("PUBLISH"), {NULL, 0}, event->envelope};

	return expand(state, state->settings.channel, event, &words[1]) &&
		add_command(state, event->number, 3, words);
}

/* A command about one key: in the transaction where the key is in its slot, beside it elsewhere. */
static bool
add_about(RedisState *state, OrionEvent *event, bool late, size_t n, const OrionText *words)
{
	OrionText	key = words[1];

	if (state->settings.cluster && orion_redis_slot(key.str, key.len) != state->home_slot)
		return orion_redis_side_command(state->side, event->number, late, key, n, words);
	return add_command(state, event->number, n, words);
}

static bool
add_unlink(RedisState *state, OrionEvent *event, const char *string)
{
	OrionText	words[] = {orion_text_of("UNLINK"), {NULL, 0}};

	return expand(state, string, event, &words[1]) && add_about(state, event, false, 2, words);
}

/* A hash tag ends at its first brace, so a tag that begins with one would have none. */
static bool
tag_is_usable(OrionText tag)
{
	return tag.len > 0 && tag.str[0] != '}';
}

static bool
add_to_tag(RedisState *state, OrionEvent *event, const char *string, OrionText key)
{
	OrionBuffer tag = {0};
	OrionText	words[] = {orion_text_of("SADD"), {NULL, 0}, key};
	OrionText	name;
	bool		good = orion_template_expand(string, event, &tag);

	name = orion_text((const char *) tag.data, orion_buffer_len(&tag));
	empty(&state->tag);
	if (good && tag_is_usable(name))
	{
		good = orion_redis_tag_key(state->settings.side.tag_prefix, name.str, name.len, &state->tag);
		words[1] = orion_text((const char *) state->tag.data + state->tag.start, orion_buffer_len(&state->tag));
		good = good && add_about(state, event, true, 3, words);
	}
	orion_buffer_free(&tag);
	return good;
}

/* The fresh value, or where there is none the key's removal. */
static bool
add_set(RedisState *state, OrionEvent *event, const OrionRedisRule *rule)
{
	char		ttl[24];
	OrionText	words[] = {orion_text_of("SET"), {NULL, 0}, {NULL, 0}, orion_text_of("EX"), {ttl, 0}};

	words[4].len = snprintf(ttl, sizeof(ttl), "%lld", rule->ttl);
	if (!orion_redis_value(event, rule->value, &words[2]))
		return add_unlink(state, event, rule->set);
	if (!expand(state, rule->set, event, &words[1]))
		return false;
	for (size_t i = 0; i < rule->set_tags.n; i++)
	{
		if (!add_to_tag(state, event, rule->set_tags.items[i], words[1]))
			return false;
	}
	return add_about(state, event, true, rule->ttl ? 5 : 3, words);
}

static bool
add_flush(RedisState *state, OrionEvent *event, const char *string)
{
	const char *prefix = state->settings.namespace_prefix;
	OrionText	words[] = {orion_text_of("INCR"), {NULL, 0}};

	empty(&state->key);
	if (!orion_buffer_reserve(&state->key, strlen(prefix)))
		return false;
	memcpy(state->key.data + state->key.end, prefix, strlen(prefix));
	state->key.end += strlen(prefix);
	if (!orion_template_expand(string, event, &state->key))
		return false;
	words[1] = orion_text((const char *) state->key.data + state->key.start, orion_buffer_len(&state->key));
	return add_about(state, event, false, 2, words);
}

static bool
add_walks(RedisState *state, OrionEvent *event, const OrionRedisRule *rule)
{
	OrionText	tag;

	for (size_t i = 0; i < rule->tags.n; i++)
	{
		if (!expand(state, rule->tags.items[i], event, &tag))
			return false;
		if (tag_is_usable(tag) && !orion_redis_side_tag(state->side, event->number, tag.str, tag.len))
			return false;
	}
	for (size_t i = 0; i < rule->scan.n; i++)
	{
		empty(&state->key);
		if (!orion_template_expand_glob(rule->scan.items[i], event, &state->key) ||
			!orion_redis_side_scan(state->side, event->number, (const char *) state->key.data + state->key.start,
								   orion_buffer_len(&state->key)))
			return false;
	}
	return true;
}

static bool
add_rule(RedisState *state, OrionEvent *event, const OrionRedisRule *rule)
{
	for (size_t i = 0; i < rule->del.n; i++)
	{
		if (!add_unlink(state, event, rule->del.items[i]))
			return false;
	}
	for (size_t i = 0; i < rule->flush.n; i++)
	{
		if (!add_flush(state, event, rule->flush.items[i]))
			return false;
	}
	return add_walks(state, event, rule) && (rule->set == NULL || add_set(state, event, rule));
}

static bool
add_cache_work(RedisState *state, OrionEvent *event)
{
	const OrionRedisRules *rules = &state->settings.rules;
	char		type[ORION_TOPIC_MAX + 1];

	if (rules->n == 0 || event->type.len >= sizeof(type))
		return true;
	memcpy(type, event->type.str, event->type.len);
	type[event->type.len] = '\0';
	for (size_t i = 0; i < rules->n; i++)
	{
		if (orion_topic_match(rules->rules[i].pattern, type) && !add_rule(state, event, &rules->rules[i]))
			return false;
	}
	return true;
}

static bool
add_event(RedisState *state, OrionEvent *event)
{
	return (state->settings.stream == NULL || add_entry(state, event)) &&
		(state->settings.channel == NULL || add_message(state, event)) &&
		add_cache_work(state, event);
}

/* Has another courier delivered it, as far as that is known? */
static bool
is_below_floor(RedisState *state, const OrionEvent *event)
{
	if (state->floor[0] && !event->settled && !is_behind(event, state->floor))
		state->floor[0] = '\0';
	return state->floor[0] != '\0';
}

/*
 * Adds events from queue->next on until the batch is full, or one is met whose
 * refusal is not stored yet.
 */
static bool
fill_batch(OrionSink *sink, RedisState *state, OrionEvent **last)
{
	OrionQueue *queue = &sink->queue;
	size_t		bytes = 0;
	int			n = 0;

	*last = NULL;
	for (; queue->next < queue->tail && n < BATCH_EVENTS; queue->next++)
	{
		OrionEvent *event = orion_queue_at(queue, queue->next);

		if (!event->settled && is_below_floor(state, event))
			event->settled = true;
		if (event->settled)
			continue;
		if (event->refused && !event->noted)
			break;
		if (event->position.len == 0 || event->position.len >= sizeof(state->batch.position))
		{
			orion_sink_reject(sink, event, "the event has no position");
			continue;
		}
		if (n > 0 && bytes + event->size > BATCH_BYTES)
			break;
		if (!event->refused && !add_event(state, event))
			return false;
		bytes += event->size;
		n++;
		*last = event;
	}
	state->batch.end = queue->next;
	return true;
}

/* The position, EXEC, and what the next batch must know. */
static bool
finish_batch(RedisState *state, const OrionEvent *last)
{
	Batch	   *batch = &state->batch;
	const OrionRedisSettings *settings = &state->settings;
	OrionText	set[] = {orion_text_of("SET"), orion_text_of(settings->position_key), last->position};

	if (settings->stream_fixed && !add_trim(state, last->number, orion_text_of(settings->side.stream)))
		return false;
	memcpy(batch->position, last->position.str, last->position.len);
	batch->position[last->position.len] = '\0';
	if (!add_command(state, NOBODY, 3, set))
		return false;
	orion_redis_put_words(&batch->commands, "EXEC", NULL);
	if (numbers_entries(state))
	{
		orion_redis_put_words(&batch->commands, "WATCH", settings->position_key, settings->side.stream, NULL);
		orion_redis_put_words(&batch->commands, "XINFO", "STREAM", settings->side.stream, NULL);
	}
	else
		orion_redis_put_words(&batch->commands, "WATCH", settings->position_key, NULL);
	return !batch->commands.failed && !batch->checks.failed;
}

/* ---- sending it ---- */

static void
enter(OrionSink *sink, RedisState *state, Phase phase)
{
	state->phase = phase;
	state->batch.replies = 0;
	state->asked_at = state->idle_since = orion_now_ms();
}

/* Hands a buffer over without copying it. The connection has nothing to write between batches. */
static bool
send_buffer(OrionSink *sink, RedisState *state, OrionBuffer *buffer)
{
	OrionBuffer spare = state->home.link.out;

	state->home.link.out = *buffer;
	*buffer = spare;
	return orion_redis_flush(sink, &state->home);
}

static bool
send_transaction(OrionSink *sink, RedisState *state)
{
	enter(sink, state, PHASE_SENT);
	state->batch.sent = true;
	return send_buffer(sink, state, &state->batch.commands);
}

/* Some event of the batch was refused: it is made again, as far as that event, or beyond when that is noted. */
static void
drop_batch(OrionSink *sink, RedisState *state)
{
	enter(sink, state, PHASE_IDLE);
	orion_queue_rewind(&sink->queue);
}

static bool
has_refused(OrionSink *sink, const Batch *batch)
{
	for (uint64_t i = batch->first; sink->refusals > 0 && i < batch->end; i++)
	{
		OrionEvent *event = orion_queue_at(&sink->queue, i);

		if (event && event->refused && !event->noted)
			return true;
	}
	return false;
}

/* The next phase of the batch that has all the answers it waited for. */
static bool
go_on(OrionSink *sink, RedisState *state)
{
	if (has_refused(sink, &state->batch))
	{
		drop_batch(sink, state);
		return true;
	}
	if (state->phase != PHASE_CHECK && state->batch.nchecks > 0)
	{
		enter(sink, state, PHASE_CHECK);
		return send_buffer(sink, state, &state->batch.checks);
	}
	return send_transaction(sink, state);
}

static bool
begin_batch(OrionSink *sink, RedisState *state)
{
	Batch	   *batch = &state->batch;
	OrionEvent *last;

	batch->first = sink->queue.next;
	batch->ncommands = batch->nchecks = 0;
	batch->refused = batch->sent = false;
	batch->position[0] = '\0';
	empty(&batch->commands);
	empty(&batch->checks);
	orion_redis_put_words(&batch->commands, "MULTI", NULL);
	if (!fill_batch(sink, state, &last))
		return orion_sink_fail(sink, "out of memory");
	if (last == NULL)
		return true;
	if (!finish_batch(state, last))
		return orion_sink_fail(sink, "out of memory");
	if (!orion_redis_side_busy(state->side))
		return go_on(sink, state);
	enter(sink, state, PHASE_SIDE);
	return true;
}

static bool
redis_publish(OrionSink *sink)
{
	RedisState *state = sink->state;

	if (state->phase == PHASE_IDLE && sink->queue.next < sink->queue.tail && !begin_batch(sink, state))
		return false;
	if (state->phase == PHASE_SIDE)
	{
		if (!orion_redis_side_run(sink, state->side))
			return false;
		if (!orion_redis_side_busy(state->side) && !go_on(sink, state))
			return false;
	}
	watch_all(state, true);
	return true;
}

static bool
redis_flush(OrionSink *sink)
{
	RedisState *state = sink->state;

	return orion_redis_flush(sink, &state->home);
}

/* ---- replies ---- */

static bool
begins_with(const char *string, const char *word)
{
	return strncmp(string, word, strlen(word)) == 0;
}

static const char *
words_of(const redisReply *reply)
{
	return reply->type == REDIS_REPLY_ERROR || reply->type == REDIS_REPLY_STATUS ? reply->str : "unexpected answer";
}

static bool
on_queued(OrionSink *sink, RedisState *state, size_t command, redisReply *reply)
{
	Batch	   *batch = &state->batch;
	uint64_t	owner = batch->owner[command];

	if (reply->type == REDIS_REPLY_STATUS && strcmp(reply->str, "QUEUED") == 0)
		return true;
	if (reply->type != REDIS_REPLY_ERROR)
		return orion_sink_fail(sink, "redis: unexpected answer inside MULTI");
	if (owner == NOBODY || !orion_redis_error_is_permanent(reply->str))
		return orion_sink_fail(sink, "redis refuses to write: %.300s", reply->str);
	orion_sink_refuse(sink, orion_queue_at(&sink->queue, owner), reply->str);
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
		if (batch->owner[i] == NOBODY)
			return orion_sink_fail(sink, "redis refuses to store the position: %.300s", result->str);
		orion_sink_reject(sink, orion_queue_at(&sink->queue, batch->owner[i]), result->str);
	}
	for (uint64_t i = batch->first; i < batch->end; i++)
	{
		OrionEvent *event = orion_queue_at(&sink->queue, i);

		if (event)
			event->settled = true;
	}
	memcpy(sink->position, batch->position, sizeof(sink->position));
	batch->sent = false;
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
		state->batch.sent = false;
		return true;			/* again, without the refused */
	}
	if (reply->type == REDIS_REPLY_NIL)
		return orion_sink_fail(sink, ++state->overtaken < OVERTAKEN_LIMIT ?
							   "redis: the position or the stream was changed by another connection; reading again" :
							   "redis: another courier keeps changing the position: two sinks share one position_key");
	if (reply->type == REDIS_REPLY_ERROR)
		return orion_sink_fail(sink, "redis refuses the transaction: %.300s", reply->str);
	return orion_sink_fail(sink, "redis: unexpected answer to EXEC");
}

/* The answers to MULTI, each command, EXEC, WATCH and, perhaps, XINFO. */
static bool
on_sent(OrionSink *sink, RedisState *state, redisReply *reply)
{
	Batch	   *batch = &state->batch;
	size_t		at = batch->replies++;

	if (at > 0 && at <= batch->ncommands)
		return on_queued(sink, state, at - 1, reply);
	if (at == batch->ncommands + 1)
		return on_exec(sink, state, reply);
	if (at == batch->ncommands + 3)
	{
		if (reply->type == REDIS_REPLY_ERROR && begins_with(reply->str, "WRONGTYPE "))
			return orion_sink_fail(sink, "redis: key \"%.100s\" is no longer a stream", state->settings.side.stream);
		learn_top(state, reply);
	}
	else if (reply->type != REDIS_REPLY_STATUS) /* MULTI, WATCH */
		return orion_sink_fail(sink, "redis refuses %s: %.300s", at == 0 ? "MULTI" : "WATCH", words_of(reply));
	if (at == batch->ncommands + (numbers_entries(state) ? 3 : 2))
	{
		if (batch->refused)
			drop_batch(sink, state);
		else
			enter(sink, state, PHASE_IDLE);
	}
	return true;
}

/* The answers to WATCH, unless others write to the streams, and TYPE, for each event. */
static bool
on_checked(OrionSink *sink, RedisState *state, redisReply *reply)
{
	Batch	   *batch = &state->batch;
	size_t		each = state->shared ? 1 : 2;
	size_t		at = batch->replies++;

	if (reply->type != REDIS_REPLY_STATUS)
		return orion_sink_fail(sink, "redis refuses %s: %.300s", each == 2 && at % 2 == 0 ? "WATCH" : "TYPE", words_of(reply));
	if (at % each == each - 1 && strcmp(reply->str, "stream") != 0 && strcmp(reply->str, "none") != 0)
		orion_sink_refuse(sink, orion_queue_at(&sink->queue, batch->checked[at / each]),
						  "WRONGTYPE the key that the stream's template leads to is not a stream");
	return batch->replies < batch->nchecks * each || go_on(sink, state);
}

static bool
on_pong(OrionSink *sink, RedisState *state, redisReply *reply)
{
	if (reply->type != REDIS_REPLY_STATUS || strcmp(reply->str, "PONG") != 0)
		return orion_sink_fail(sink, "redis %.100s:%d: PING: %.300s", state->home.host, state->home.port, words_of(reply));
	enter(sink, state, PHASE_IDLE);
	return true;
}

static bool
on_reply(OrionSink *sink, RedisState *state, redisReply *reply)
{
	switch (state->phase)
	{
		case PHASE_PING:
			return on_pong(sink, state, reply);
		case PHASE_CHECK:
			return on_checked(sink, state, reply);
		case PHASE_SENT:
			return on_sent(sink, state, reply);
		case PHASE_IDLE:
		case PHASE_SIDE:
			break;
	}
	return orion_sink_fail(sink, "redis: an answer nobody asked for%s%.200s",
						   reply->type == REDIS_REPLY_ERROR ? ": " : "",
						   reply->type == REDIS_REPLY_ERROR ? reply->str : "");
}

static bool
redis_readable(OrionSink *sink)
{
	RedisState *state = sink->state;
	redisReply *reply;

	if (!orion_redis_flush(sink, &state->home) || !orion_redis_fill(sink, &state->home))
		return false;
	for (;;)
	{
		bool		good;

		if (!orion_redis_next(sink, &state->home, &reply))
			return false;
		if (reply == NULL)
			break;
		good = on_reply(sink, state, reply);
		freeReplyObject(reply);
		state->asked_at = orion_now_ms();
		if (!good)
			return false;
	}
	if (state->side == NULL)
		return true;
	if (state->phase == PHASE_SIDE)
		state->asked_at = orion_now_ms();	/* its connections are the only
											 * ones that speak */
	return orion_redis_side_run(sink, state->side);
}

/* All connections are in the poller, which is readable when one of them has something for us. */
static bool
redis_wants_write(OrionSink *sink)
{
	return false;
}

static int
redis_fd(OrionSink *sink)
{
	RedisState *state = sink->state;

	return state->poller;
}

static bool
redis_tick(OrionSink *sink, long now)
{
	RedisState *state = sink->state;
	long		silent = state->phase == PHASE_IDLE ? 0 : now - state->asked_at;

	if (silent > ORION_STALL_TIMEOUT)
		return orion_sink_fail(sink, "redis %.100s:%d: no answer for %d s", state->home.host, state->home.port, ORION_STALL_TIMEOUT / 1000);
	sink->slow[0] = '\0';
	if (silent > SILENCE_MS)
		snprintf(sink->slow, sizeof(sink->slow), "redis %.100s:%d does not answer", state->home.host, state->home.port);
	if (state->phase == PHASE_IDLE && sink->queue.next == sink->queue.tail && now - state->idle_since > PING_MS)
	{
		enter(sink, state, PHASE_PING);
		orion_redis_put_words(&state->home.link.out, "PING", NULL);
		return orion_redis_flush(sink, &state->home);
	}
	return true;
}

static void
redis_close(OrionSink *sink)
{
	RedisState *state = sink->state;

	orion_redis_close(&state->home);
	orion_redis_side_close(state->side);
	if (state->poller >= 0)
		close(state->poller);
	state->poller = -1;
	sink->slow[0] = '\0';
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
