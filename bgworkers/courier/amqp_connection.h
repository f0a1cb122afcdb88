/*
 * amqp_connection.h
 *	  A connection to RabbitMQ with its one channel, for the sink and the consumer.
 */
#ifndef ORION_COURIER_AMQP_CONNECTION_H
#define ORION_COURIER_AMQP_CONNECTION_H

#include "config.h"
#include "rabbitmq_c.h"

#define ORION_AMQP_CHANNEL		1
#define ORION_AMQP_HEARTBEAT	30	/* seconds; a peer silent for two of them
									 * is gone */

#define ORION_AMQP_HOSTS		16

/* Where to connect to: the nodes of a cluster are tried in turn. */
typedef struct OrionAmqpServer
{
	OrionUrl	url;
	char	   *vhost;
	OrionUrl	hosts[ORION_AMQP_HOSTS];	/* the URL's own is the first */
	int			nhosts;
	int			current;		/* the one to try next, or to go on with */
} OrionAmqpServer;

/* Reads the keys "url" and "hosts" (["host:port", ...]).  False: sink->why. */
extern bool orion_amqp_configure(OrionSink *sink, json_t *config, OrionAmqpServer *server);

/*
 * Connects, logs in and opens the channel; blocking calls, each bounded by
 * ORION_CONNECT_TIMEOUT.  One host a call: after a failure the next call tries the next.
 * *conn is set also on failure: destroy it.  False: sink->why.
 */
extern bool orion_amqp_open(OrionSink *sink, OrionAmqpServer *server, amqp_connection_state_t *conn);

/* After a synchronous call: did it work?  False: sink->why. */
extern bool orion_amqp_accepted(OrionSink *sink, amqp_connection_state_t conn, const char *what);

/*
 * From now on the caller writes frames and heartbeats by itself; the library only reads.
 * Returns the seconds of the heartbeat agreed on, 0: none.
 */
extern int	orion_amqp_take_over(amqp_connection_state_t conn);

#endif							/* ORION_COURIER_AMQP_CONNECTION_H */
