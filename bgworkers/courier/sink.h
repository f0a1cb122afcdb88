/*
 * sink.h
 *	  What the courier's loop asks of a sink driver.
 *
 * A driver takes events from the queue in order, settles them when its broker
 * has confirmed them, and never blocks except in connect, where each step is
 * bounded by ORION_CONNECT_TIMEOUT.  Functions that return bool return false when
 * the connection is of no use any more; sink->why then says why, for operators,
 * without secrets.  The loop closes, backs off, connects again, and rewinds the
 * queue so that whatever is unsettled is published once more.
 */
#ifndef ORION_COURIER_SINK_H
#define ORION_COURIER_SINK_H

#include <jansson.h>

#include "queue.h"

#define ORION_CONNECT_TIMEOUT	5	/* seconds, for each step of connecting */
#define ORION_STALL_TIMEOUT		60000	/* ms without any confirmation while
										 * some are due */

typedef struct OrionSink OrionSink;

typedef struct OrionSinkOps
{
	const char *kind;

	/*
	 * Takes the sink's settings; false: sink->why names the wrong key. Called
	 * once.
	 */
	bool		(*configure) (OrionSink *sink, json_t *config);

	/*
	 * Connects, authenticates, prepares. Fills sink->position where the sink
	 * keeps one, and settles the events it proves to have been delivered.
	 */
	bool		(*connect) (OrionSink *sink);

	/* Hands over events from queue->next on, as many as may be in flight. */
	bool		(*publish) (OrionSink *sink);

	/* Writes what is waiting to be written; wants_write: there is some left. */
	bool		(*flush) (OrionSink *sink);
	bool		(*wants_write) (OrionSink *sink);
	int			(*fd) (OrionSink *sink);
	bool		(*on_readable) (OrionSink *sink);

	/*
	 * NULL, or: has read what on_readable has not looked at, which makes no
	 * socket readable.
	 */
	bool		(*wants_turn) (OrionSink *sink);

	/*
	 * At least once a second: heartbeats, stalls, retries. now is monotonic,
	 * ms.
	 */
	bool		(*tick) (OrionSink *sink, long now);

	/* Drops the connection without a word; also after a failed connect. */
	void		(*close) (OrionSink *sink);

	/*
	 * For sources, NULL for sinks.  take: a frame from the worker, false when
	 * it makes no sense; called also without a connection.  wants_read: the
	 * worker can take more.
	 */
	bool		(*take) (OrionSink *sink, OrionFrame *frame);
	bool		(*wants_read) (OrionSink *sink);
} OrionSinkOps;

struct OrionSink
{
	const OrionSinkOps *ops;
	void	   *state;			/* the driver's own */
	const char *name;
	const char *secret;			/* password: blotted out of every text; may be
								 * NULL */
	json_t	   *relay;			/* what the relay knows besides the settings:
								 * {"rules", "dependencies"}; may be NULL */
	OrionQueue	queue;
	OrionBuffer *out;			/* frames for the relay */
	char		position[128];	/* stored at the sink, or empty */
	bool		gone_back;		/* position is older than one told to the
								 * relay: a successor must tell it anew */
	int			refusals;		/* events refused and not noted yet */
	char		why[512];		/* last failure */
	char		slow[256];		/* connected, but the sink holds us up; empty:
								 * no */
	long		now;			/* monotonic ms, at the start of this turn */
};

extern const OrionSinkOps orion_sink_redis;
extern const OrionSinkOps orion_sink_amqp;
extern const OrionSinkOps orion_sink_kafka;
extern const OrionSinkOps orion_source_amqp;

/* sink->why = text; returns false. */
extern bool orion_sink_fail(OrionSink *sink, const char *format,...) __attribute__((format(printf, 2, 3)));

/* The event is refused for good: REJECT to the relay, settled here. NULL: gone already. */
extern void orion_sink_reject(OrionSink *sink, OrionEvent *event, const char *reason);

/*
 * The same for a sink that stores the position, which must not pass this event
 * before the relay has stored the refusal: after a crash both would be gone.  The
 * event stays in the queue, refused; when it is noted, the driver settles it
 * together with those around it.
 */
extern void orion_sink_refuse(OrionSink *sink, OrionEvent *event, const char *reason);
extern void orion_sink_noted(OrionSink *sink, uint64_t number);

/* A line for the server's log, through the same blotting. */
extern void orion_sink_log(OrionSink *sink, const char *string);

/*
 * Makes text printable ASCII in out (size > 0), with every occurrence of secret
 * replaced: brokers' words go to logs and to views.
 */
extern void orion_sink_blot(const char *string, const char *secret, char *out, size_t size);

#endif							/* ORION_COURIER_SINK_H */
