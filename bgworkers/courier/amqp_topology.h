/*
 * amqp_topology.h
 *	  Exchanges, queues and bindings a RabbitMQ sink declares.
 */
#ifndef ORION_COURIER_AMQP_TOPOLOGY_H
#define ORION_COURIER_AMQP_TOPOLOGY_H

#include "amqp_connection.h"

#define ORION_TOPOLOGY_EXCHANGES	64
#define ORION_TOPOLOGY_QUEUES		64
#define ORION_TOPOLOGY_BINDINGS		256

typedef struct OrionTopology
{
	json_t	   *defaults;		/* owner of the strings when nothing was
								 * configured */
	struct
	{
		const char *name;
		const char *type;		/* topic, direct, fanout, headers */
	}			exchanges[ORION_TOPOLOGY_EXCHANGES];
	int			nexchanges;
	struct
	{
		const char *name;
		const char *type;		/* classic, quorum */
		long long	ttl;		/* ms; 0: none */
		const char *dead_letter;	/* exchange and queue of that name; NULL:
									 * none */
	}			queues[ORION_TOPOLOGY_QUEUES];
	int			nqueues;
	struct
	{
		const char *exchange;
		const char *queue;
		const char *key;
	}			bindings[ORION_TOPOLOGY_BINDINGS];
	int			nbindings;
} OrionTopology;

/*
 * Reads the keys "exchanges", "queues" and "bindings" of config; with none of
 * them the default topology.  An exchange is a name or {"name", "type"}; a queue a
 * name or {"name", "type", "ttl", "dead_letter"}; a binding {"exchange", "queue",
 * "key"}.  Strings live as long as config.  False: sink->why.
 */
extern bool orion_topology_configure(OrionSink *sink, json_t *config, OrionTopology *topology);

/* Declares all of it, durable. Idempotent. False: sink->why. */
extern bool orion_topology_declare(OrionSink *sink, const OrionTopology *topology, OrionAmqpConnection *conn);

/*
 * The exchange for a type: "user.created" goes to user.events where that is
 * declared, else to system.events, else to the first one.
 */
extern const char *orion_topology_exchange(const OrionTopology *topology, OrionText type);

#endif							/* ORION_COURIER_AMQP_TOPOLOGY_H */
