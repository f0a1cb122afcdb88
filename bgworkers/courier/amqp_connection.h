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

/*
 * Connects, logs in and opens the channel; blocking calls, each bounded by
 * ORION_CONNECT_TIMEOUT.  *conn is set also on failure: destroy it.  False: sink->why.
 */
extern bool orion_amqp_open(OrionSink *sink, const OrionUrl *url, const char *vhost, amqp_connection_state_t *conn);

/* After a synchronous call: did it work?  False: sink->why. */
extern bool orion_amqp_accepted(OrionSink *sink, amqp_connection_state_t conn, const char *what);

/*
 * From now on the caller writes frames and heartbeats by itself; the library only reads.
 * Returns the seconds of the heartbeat agreed on, 0: none.
 */
extern int	orion_amqp_take_over(amqp_connection_state_t conn);

#endif							/* ORION_COURIER_AMQP_CONNECTION_H */
