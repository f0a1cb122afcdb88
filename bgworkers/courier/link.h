/*
 * link.h
 *	  A connection to a server: TCP, with or without TLS, bytes out of a buffer
 *	  and into a function.
 *
 * Opening waits, up to a deadline; everything else does not block.
 */
#ifndef ORION_COURIER_LINK_H
#define ORION_COURIER_LINK_H

#include "sink.h"
#include "tls.h"

typedef struct OrionLink
{
	int			fd;				/* -1: closed */
	SSL		   *ssl;			/* NULL: plain */
	OrionBuffer out;
	bool		wants_write;	/* poll for writing, too */
} OrionLink;

extern long orion_now_ms(void); /* monotonic */

/* Waits for the events on fd; false when the deadline passes first. */
extern bool orion_link_wait(int fd, short events, long deadline);

/* tls NULL: plain. False: sink->why, nothing is left open. */
extern bool orion_link_open(OrionSink *sink, OrionLink *link, const char *host, int port,
							const OrionTls *tls, long deadline);
extern void orion_link_close(OrionLink *link);

/* Writes what the socket takes. False: the connection is lost; sink->why. */
extern bool orion_link_flush(OrionSink *sink, OrionLink *link);

/* Bytes read, 0: none are there now, -1: the connection is lost; sink->why. */
extern long orion_link_read(OrionSink *sink, OrionLink *link, void *bytes, size_t size);

#endif							/* ORION_COURIER_LINK_H */
