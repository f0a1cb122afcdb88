/*
 * amqp_connection.h
 *	  A connection to RabbitMQ with its one channel, for the sink and the consumer.
 *
 * Of librabbitmq only the encoding and decoding is used.  Its connections may block
 * without limit when the broker stops reading, which RabbitMQ does on purpose, and
 * hide their TLS.
 */
#ifndef ORION_COURIER_AMQP_CONNECTION_H
#define ORION_COURIER_AMQP_CONNECTION_H

#include "config.h"
#include "link.h"
#include "rabbitmq_c.h"

#define ORION_AMQP_CHANNEL		1
#define ORION_AMQP_HEARTBEAT	30	/* seconds; a peer silent for two of them
									 * is gone */
#define ORION_AMQP_HOSTS		16

typedef struct OrionAmqpConnection
{
	/* settings; the nodes of a cluster are tried in turn */
	OrionUrl	url;
	char	   *vhost;
	OrionUrl	hosts[ORION_AMQP_HOSTS];	/* the URL's own is the first */
	int			nhosts;
	int			current;		/* the one to try next, or to go on with */
	bool		secure;
	OrionTls	tls;

	OrionLink	link;			/* frames for the broker go into link.out */
	OrionBuffer in;
	size_t		taken;			/* length of the frame given out last */
	amqp_pool_t pool;			/* what it was decoded to */
	bool		more;			/* there may be frames that poll does not see */
	size_t		frame_max;
	int			heartbeat;		/* seconds agreed on; 0: none */
	long		last_received;	/* sink->now */
	long		last_sent;
	char		blocked[120];	/* why the broker blocks publishers; empty: it
								 * does not */
	int			close_code;		/* why the broker closed channel or connection
								 * in a call; 0: it did not */
	char		close_text[256];
} OrionAmqpConnection;

/* Reads the keys "url", "hosts" (["host:port", ...]) and "tls".  False: sink->why. */
extern bool orion_amqp_configure(OrionSink *sink, json_t *config, OrionAmqpConnection *conn);

/*
 * Connects, logs in and opens the channel; each step is waited for up to
 * ORION_CONNECT_TIMEOUT.  One host a call: after a failure the next call tries the next.
 * False: sink->why; close it also then.
 */
extern bool orion_amqp_open(OrionSink *sink, OrionAmqpConnection *conn);
extern void orion_amqp_close(OrionAmqpConnection *conn);

/*
 * Sends a method on the channel and waits up to ORION_CONNECT_TIMEOUT for the method
 * answer.  Only before anything else is expected.  False: sink->why, which begins with
 * what; close_code is set when the broker refused.
 */
extern bool orion_amqp_call(OrionSink *sink, OrionAmqpConnection *conn, const char *what,
							uint32_t id, void *method, uint32_t answer);

/*
 * The next frame, valid until the next call: 1; 0: none is there; -1: the connection is
 * lost, sink->why.
 */
extern int	orion_amqp_next(OrionSink *sink, OrionAmqpConnection *conn, amqp_frame_t *frame);

/* Writes what the socket takes.  False: the connection is lost; sink->why. */
extern bool orion_amqp_flush(OrionSink *sink, OrionAmqpConnection *conn);

/* Heartbeats, theirs and ours.  False: sink->why. */
extern bool orion_amqp_tick(OrionSink *sink, OrionAmqpConnection *conn, long now);

/* Methods that end a connection or its channel in sink->why, others as unexpected.  Returns false. */
extern bool orion_amqp_surprise(OrionSink *sink, OrionAmqpConnection *conn, const amqp_method_t *method);

#endif							/* ORION_COURIER_AMQP_CONNECTION_H */
