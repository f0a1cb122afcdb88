/*
 * relay.h
 *	  What the files of the relay process share.
 */
#ifndef ORION_RELAY_H
#define ORION_RELAY_H

#include "cache/cache.h"
#include "outbox/outbox.h"

/* How often at most the position is stored while a window is being delivered. */
#define ORION_STORE_MS	200

/* orion_pool_wait, but no longer than until the next window may be opened. */
extern uint32 orion_relay_wait(const OrionCursor *cursor, int fd, bool want_write, long timeout_ms);

/* Reports a state when it is new. text may be NULL. */
extern void orion_relay_report(OrionWorkerState state, const char *text);

/* Empties the memory and makes it the current one, which after a query is SPI's. */
extern void orion_relay_scratch(MemoryContext context);

/* What orion.workers shows as lag; since 0 means none. */
extern void orion_relay_lag(int64 events, TimestampTz since);

/* What orion.sinks shows: events delivered just now, failures in a row of what is next. */
extern void orion_relay_progress(uint64 delivered);
extern void orion_relay_attempts(uint64 attempts);

/* One round of a sink served by orion-courier, including the wait. rules: NULL for none. */
extern void orion_relay_courier(OrionSink *sink, OrionCacheRules *rules, OrionCursor *cursor);

/* The cursor was loaded anew: what was known of its position is void. */
extern void orion_relay_courier_forget(void);

/* Stops the courier, if one runs: the sink was paused, changed or dropped. */
extern void orion_relay_courier_stop(OrionCursor *cursor);

/* The same for the sink of webhooks, whose courier works in another way. */
extern void orion_relay_webhook(OrionSink *sink, OrionCursor *cursor);
extern void orion_relay_webhook_stop(void);

#endif							/* ORION_RELAY_H */
