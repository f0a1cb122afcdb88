/*
 * stream.h
 *	  Answers that are sent while an executor still makes them.
 */
#ifndef ORION_GATEWAY_STREAM_H
#define ORION_GATEWAY_STREAM_H

#include "gateway/gateway.h"

struct Stream
{
	OrionBuffer data;			/* not taken by the client yet */
	Request    *request;		/* NULL when it is over */
	Client	   *client;
	Executor   *executor;		/* NULL when it has ended, or was lost */
	int			slot;			/* of the ring; -1: likewise */
	bool		ended;
	bool		broken;			/* ended before it was complete */
	bool		waiting;		/* the connection is suspended for lack of
								 * data */
	int64_t		since;			/* of the last look at its progress */
	uint64_t	taken;			/* bytes, since then */
	Stream	   *prev;
	Stream	   *next;
};

/* The response whose bytes come from the stream, which lives as long as the response. */
extern struct MHD_Response *orion_gateway_stream_begin(Request *request, Executor *executor, int slot, Stream **stream);

/* How many executors are at it. */
extern int	orion_gateway_stream_count(void);

/* False when there is no memory.  Stops reading from the executor when there is enough. */
extern bool orion_gateway_stream_add(Stream *stream, const char *bytes, size_t len);

/* The executor is through with it, well or not. */
extern void orion_gateway_stream_end(Stream *stream, bool complete);

/* Its client has gone. */
extern void orion_gateway_stream_abandon(Stream *stream);

/* Hangs up on clients that take too little. */
extern void orion_gateway_stream_sweep(void);

#endif							/* ORION_GATEWAY_STREAM_H */
