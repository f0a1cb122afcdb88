/*
 * inbound.h
 *	  Messages of queues, given to SQL functions: consumers and the inbox.
 *
 * Everything here but the settings wants a transaction with SPI and a snapshot
 * (orion_pool_begin) in a process that may read and write orion_private.
 */
#ifndef ORION_INBOUND_H
#define ORION_INBOUND_H

#include "postgres.h"

/* A consumer as its worker needs it; strings live in its own memory. */
typedef struct OrionConsumer
{
	MemoryContext context;
	int32		id;
	char	   *name;
	char	   *config;			/* unsealed JSON; holds passwords */
	bool		paused;
	int32		max_body;		/* bytes */
	int32		max_attempts;
	int32		timeout_ms;		/* 0 = none */
	Oid			handler;		/* InvalidOid when it is gone */
	Oid			handler_role;	/* whom it runs as */
	const char *problem;		/* why it cannot run, or NULL */
} OrionConsumer;

/* NULL when the consumer is gone. */
extern OrionConsumer *orion_consumer_load(int32 id);
extern void orion_consumer_free(OrionConsumer *consumer);	/* wipes the
															 * configuration */

typedef struct OrionInboundBytes
{
	const char *str;
	size_t		len;
} OrionInboundBytes;

/* A message as the courier has read it; any bytes may be in it. */
typedef struct OrionInboundMessage
{
	bool		has_id;
	bool		redelivered;
	bool		too_long;		/* body was left out */
	OrionInboundBytes id;
	OrionInboundBytes exchange;
	OrionInboundBytes routing_key;
	OrionInboundBytes properties;	/* JSON */
	OrionInboundBytes body;
} OrionInboundMessage;

typedef enum OrionInboundVerdict
{
	ORION_INBOUND_CALL,			/* the handler; what was done is undone with
								 * it */
	ORION_INBOUND_SETTLED,		/* handled before, or a dead letter now */
	ORION_INBOUND_WAIT,			/* its time has not come */
	ORION_INBOUND_REFUSE,		/* a dead letter, without its body */
} OrionInboundVerdict;

/*
 * What to do with a message.  Puts it into the inbox: commit that with the handler's
 * work, or abort both.  *event is the handler's argument, *pause_ms is for WAIT.
 */
extern OrionInboundVerdict orion_inbound_take(const OrionConsumer *consumer, const OrionInboundMessage *message,
											  Datum *event, int64 *pause_ms);

/*
 * After a failed attempt.  Returns the pause in ms before the next one, or -1: it is a
 * dead letter now.  count: the attempt is not counted yet.  over false: it is only about
 * to begin and is counted ahead, because it may end the process.
 */
extern int64 orion_inbound_failed(const OrionConsumer *consumer, const OrionInboundMessage *message,
								  const char *error, bool count, bool over);

/*
 * A dead letter that somebody wants to be handled once more.  next: which one, 0 for none;
 * commit it before the attempt, which it counts.  take: *event is the handler's argument,
 * false when it is gone; commit that with the handler's work, or abort both and say why.
 */
extern int64 orion_inbound_redrive_next(const OrionConsumer *consumer);
extern bool orion_inbound_redrive_take(const OrionConsumer *consumer, int64 letter, Datum *event);
extern void orion_inbound_redrive_failed(const OrionConsumer *consumer, int64 letter, const char *error);

/* For the maintenance worker: forgets what is older than the retention. */
extern void orion_inbound_maintain(void);

extern void orion_inbound_init(void);

#endif							/* ORION_INBOUND_H */
