/*
 * relay.h
 *	  What the files of the relay process share.
 */
#ifndef ORION_RELAY_H
#define ORION_RELAY_H

#include "outbox/outbox.h"

/* How often at most the position is stored while a window is being delivered. */
#define ORION_STORE_MS	200

/* Reports a state when it is new. text may be NULL. */
extern void orion_relay_report(OrionWorkerState state, const char *text);

/* What orion.workers shows as lag; since 0 means none. */
extern void orion_relay_lag(int64 events, TimestampTz since);

/* One round of a sink served by orion-courier, including the wait. */
extern void orion_relay_courier(OrionSink *sink, OrionCursor *cursor);

/* Stops the courier, if one runs: the sink was paused, changed or dropped. */
extern void orion_relay_courier_stop(OrionCursor *cursor);

/* The same for the sink of webhooks, whose courier works in another way. */
extern void orion_relay_webhook(OrionSink *sink, OrionCursor *cursor);
extern void orion_relay_webhook_stop(void);

#endif							/* ORION_RELAY_H */
