/*
 * relay.c
 *	  The relay process: carries the events of the outbox to one sink.
 *
 * One process for each sink.  A commit that published sets its latch; a poll every
 * ORION_SAFETY_POLL_MS finds what prepared transactions committed.  SQL sinks are
 * served here, the others through the program orion-courier (relay_courier.c).
 *
 * An error ends the process; the launcher starts another, which goes on from the
 * stored cursor.
 */
#include "postgres.h"

#include <math.h>

#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/listen.h"
#include "core/wake.h"
#include "pool.h"
#include "relay.h"

PGDLLEXPORT void orion_relay_main(Datum arg);

static OrionSink *sink = NULL;
static OrionCacheRules *rules = NULL;	/* of a Redis sink */
static OrionCursor *cursor = NULL;
static uint32 generation = 0;	/* of the sinks, when sink was read */
static TimestampTz loaded_at = 0;

static OrionWorkerState reported_state = ORION_STATE_STOPPED;	/* nothing yet */
static char reported_text[ORION_ERROR_LEN] = "";

uint32
orion_relay_wait(const OrionCursor *waiting, int fd, bool want_write, long timeout_ms)
{
	long		pause = orion_cursor_pause(waiting);

	return orion_pool_wait(fd, want_write, pause >= 0 ? Min(pause, timeout_ms) : timeout_ms);
}

void
orion_relay_report(OrionWorkerState state, const char *text)
{
	if (text == NULL)
		text = "";

	if (state == reported_state && strncmp(text, reported_text, ORION_ERROR_LEN - 1) == 0)
		return;
	reported_state = state;
	strlcpy(reported_text, text, ORION_ERROR_LEN);
	orion_pool_report(state, text);
}

void
orion_relay_scratch(MemoryContext context)
{
	MemoryContextReset(context);
	MemoryContextSwitchTo(context);
}

void
orion_relay_lag(int64 events, TimestampTz since)
{
	pg_atomic_write_u64(&orion_my_slot->lag_events, events);
	pg_atomic_write_u64(&orion_my_slot->lag_since, events > 0 ? since : 0);
}

void
orion_relay_attempts(uint64 attempts)
{
	pg_atomic_write_u64(&orion_my_slot->attempts, attempts);
}

/* An average in which an event counts less the longer ago it was. */
void
orion_relay_progress(uint64 delivered)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz at = (TimestampTz) pg_atomic_read_u64(&orion_my_slot->rate_at);
	uint64		bits = pg_atomic_read_u64(&orion_my_slot->rate);
	double		rate;

	if (delivered == 0)
		return;
	memcpy(&rate, &bits, sizeof(rate));
	rate = rate * exp(-(double) (now - at) / USECS_PER_SEC / ORION_RATE_SECONDS) + (double) delivered / ORION_RATE_SECONDS;
	memcpy(&bits, &rate, sizeof(bits));
	pg_atomic_write_u64(&orion_my_slot->rate, bits);
	pg_atomic_write_u64(&orion_my_slot->rate_at, now);
}

static bool
rules_differ(const OrionCacheRules *a, const OrionCacheRules *b)
{
	return (a == NULL) != (b == NULL) || (a && strcmp(orion_cache_json(a), orion_cache_json(b)) != 0);
}

/* True when what the courier was told has changed. */
static bool
differs(const OrionSink *a, const OrionSink *b)
{
	return b == NULL || strcmp(a->name, b->name) != 0 || strcmp(a->kind, b->kind) != 0 ||
		(a->config == NULL) != (b->config == NULL) ||
		(a->config && strcmp(a->config, b->config) != 0);
}

/* Either of the two: a relay has one at most. */
static void
stop_courier(void)
{
	orion_relay_courier_stop(cursor);
	orion_relay_webhook_stop();
}

/* Reads the sink anew, and its cursor the first time. */
static void
load(void)
{
	OrionSink  *old = sink;
	OrionCacheRules *old_rules = rules;

	bool		changed = generation != pg_atomic_read_u32(&orion_shared->sinks_generation);

	generation = pg_atomic_read_u32(&orion_shared->sinks_generation);
	loaded_at = GetCurrentTimestamp();
	orion_pool_begin("orion: reading the sink");
	if (changed && old && cursor && !old->paused)
		orion_cursor_overtake(cursor);
	sink = orion_sink_load(orion_my_slot->index, orion_my_slot->part);
	rules = sink && strcmp(sink->kind, "redis") == 0 ? orion_cache_load(sink->id) : NULL;
	if (old && (differs(old, sink) || rules_differ(old_rules, rules) || (cursor && sink->epoch != orion_cursor_epoch(cursor))))
		stop_courier();
	if (sink && cursor && sink->epoch != orion_cursor_epoch(cursor))
	{
		if (strcmp(sink->kind, "webhook") == 0) /* it has a book of what is
												 * under way */
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("the position was changed by an administrator")));
		orion_cursor_free(cursor);
		cursor = NULL;
		orion_relay_courier_forget();
	}
	if (sink && cursor == NULL)
		cursor = orion_cursor_load(sink->id, sink->part);
	if (cursor && (old == NULL || sink == NULL || strcmp(old->pattern, sink->pattern) != 0))
		orion_cursor_must_read(cursor);

	/*
	 * what a worker of a handler may do with a cursor depends on how many
	 * workers there are
	 */
	if (sink && cursor && sink->epoch != orion_cursor_epoch(cursor))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the position was changed by an administrator")));
	if (cursor)
		orion_cursor_look_again(cursor);
	orion_handler_look_again();
	orion_pool_commit();
	if (sink)
		orion_listen_declare(strcmp(sink->kind, "webhook") == 0 ? "#" : sink->pattern, generation);
	orion_sink_free(old);
	orion_cache_free(old_rules);
}

/* Changed by a commit, or not looked at for so long that a privilege may be gone. */
static bool
is_stale(void)
{
	return sink == NULL ||
		generation != pg_atomic_read_u32(&orion_shared->sinks_generation) ||
		TimestampDifferenceExceeds(loaded_at, GetCurrentTimestamp(), ORION_SAFETY_POLL_MS);
}

/*
 * An event may be fatal for its relay (a handler that does not let itself be stopped).
 * After a failure the next events have a transaction each, so that the position comes
 * up to that event and orion_skip() finds it.
 */
#define CAREFUL_EVENTS	2000

static void
run_handler(void)
{
	static int	careful = CAREFUL_EVENTS;
	OrionHandlerRun run;
	int64		backlog = 0;

	if (sink->problem)
	{
		orion_listen_idle(false);
		orion_relay_report(ORION_STATE_DEGRADED, sink->problem);
		orion_pool_wait(-1, false, ORION_SAFETY_POLL_MS);
		return;
	}
	orion_pool_begin("orion: calling the handler");
	if (careful > 0 && orion_my_slot->failures > 0)
		careful--;
	orion_handler_run(sink, cursor, careful > 0 && orion_my_slot->failures > 0 ? 1 : sink->batch, &run);
	if (orion_cursor_is_open(cursor) && !orion_cursor_replays(cursor))
		backlog = orion_outbox_backlog(orion_cursor_read_seq(cursor));
	orion_relay_report(ORION_STATE_RUNNING, run.error);

	/*
	 * Within a window nobody waits for the disk: a crash undoes effects and
	 * position together, and what other sinks got of the effects is on disk,
	 * as they store their windows durably first.  The end of a window makes
	 * all of it durable.
	 */
	if (orion_cursor_is_open(cursor))
		(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_LOCAL, true, 0, false);
	orion_pool_commit();
	orion_relay_attempts(run.attempts);
	orion_relay_progress(run.handled);
	orion_relay_lag(backlog, GetCurrentTimestamp());
	orion_listen_idle(!run.more && !orion_cursor_is_open(cursor));
	if (!run.more)
		orion_relay_wait(cursor, -1, false, run.wait_ms < 0 ? ORION_SAFETY_POLL_MS : Min(run.wait_ms, ORION_SAFETY_POLL_MS));
}

static void
relay(void)
{
	orion_pool_pin_settings(true);
	orion_listen_as(orion_my_slot - orion_shared->slots);
	while (orion_pool_continue())
	{
		if (is_stale())
			load();
		if (sink == NULL || cursor == NULL || RecoveryInProgress())
			orion_pool_wait(-1, false, ORION_SAFETY_POLL_MS);	/* the launcher will
																 * stop us */
		else if (sink->paused)
		{
			orion_listen_idle(false);
			stop_courier();
			orion_relay_report(ORION_STATE_PAUSED, NULL);
			orion_pool_wait(-1, false, ORION_SAFETY_POLL_MS);
		}
		else if (sink->config == NULL)
			run_handler();
		else if (strcmp(sink->kind, "webhook") == 0)
			orion_relay_webhook(sink, cursor);
		else
			orion_relay_courier(sink, rules, cursor);
	}
	stop_courier();
}

void
orion_relay_main(Datum arg)
{
	orion_pool_run(arg, NULL, relay);
}
