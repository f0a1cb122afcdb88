/*
 * webhook_book.h
 *	  What the relay of webhooks has in memory: endpoints, and deliveries to them.
 *
 * A delivery is one event for one endpoint.  It is in the book from being read (from the
 * outbox, or from webhook_pending) until its attempt is over and recorded.  The
 * book is bounded: what it has no room for waits in webhook_pending.
 */
#ifndef ORION_WEBHOOK_BOOK_H
#define ORION_WEBHOOK_BOOK_H

#include "lib/ilist.h"

#include "webhook/webhook.h"

#define ORION_BOOK_DELIVERIES	4096
#define ORION_BOOK_BYTES		(8 * 1024 * 1024)
#define ORION_BOOK_QUEUE		256 /* unsent, for one endpoint */
#define ORION_BOOK_SLOTS		1024	/* attempts under way; a power of two */

/* The text sent, shared by the deliveries of an event. */
typedef struct OrionBody
{
	int			refs;
	size_t		len;
	char		data[FLEXIBLE_ARRAY_MEMBER];
} OrionBody;

typedef struct OrionBookEndpoint
{
	int32		id;
	OrionWebhook *config;		/* NULL: disabled or dropped */
	dlist_head	all;			/* its deliveries */
	dlist_head	queue;			/* those of them not yet sent */
	int			ndeliveries;
	int			queued;
	int			in_flight;
	int			window;			/* how many may be: grows with success up to
								 * the concurrency, one after a failure */
	int			failures;		/* in a row */
	TimestampTz failing_since;	/* 0: not */
	TimestampTz hold_until;		/* no attempt earlier */
	TimestampTz progress_at;	/* last answer, or begin of the first attempt */
	TimestampTz next_due;		/* of what waits in the table; DT_NOEND:
								 * nothing */
	TimestampTz loaded_at;		/* all that waited there up to this time, and */
	int64		loaded_seq;		/* this event, was loaded; 0: not known */
	bool		proven;			/* has had a success in this process */
	bool		spilled;		/* first attempts wait there too, so newer
								 * events go behind them */
	long		usual_ms;		/* of an attempt */
	double		tokens;			/* for the rate */
	TimestampTz tokens_at;
	bool		dirty;
	const char *disable;		/* reason, to be recorded */
	OrionWebhookState state;	/* to be recorded when dirty; texts are the
								 * book's */
} OrionBookEndpoint;

typedef struct OrionBookDelivery
{
	dlist_node	in_all;
	dlist_node	in_queue;		/* of the endpoint, then of what is settled */
	dlist_node	in_window;
	OrionBookEndpoint *endpoint;
	int64		seq;
	char		message_id[ORION_WEBHOOK_ID_LEN + 1];
	char	   *type;
	OrionBody  *body;
	int			attempts;		/* before this one */
	int			losses;			/* couriers that ended with it */
	bool		queued;
	bool		stored;			/* has a row in webhook_pending */
	bool		of_window;		/* has none, and the cursor must not pass it */
	bool		settled;
	bool		delivered;
	uint64		number;			/* of the attempt under way, 0: none */
	TimestampTz since;			/* read */
	TimestampTz sent_at;
	OrionWebhookAttempt attempt;	/* when settled; texts are the book's */
	int64		pause_ms;		/* when settled and not delivered */
} OrionBookDelivery;

extern OrionBookEndpoint **orion_book_endpoints;	/* by id */
extern int	orion_book_nendpoints;
extern int	orion_book_ndeliveries;
extern size_t orion_book_bytes;
extern dlist_head orion_book_window;	/* deliveries that are of_window, in
										 * the order of seq */
extern dlist_head orion_book_settled;
extern int	orion_book_nsettled;

extern void orion_book_init(void);

/*
 * Reads the endpoints anew, in a transaction.  What was queued for one that is gone
 * is settled: it waits in the table until the endpoint is enabled again.
 */
extern void orion_book_reload(void);

extern OrionBody *orion_book_body(const char *data, size_t len);	/* refs = 1 */
extern void orion_book_unref(OrionBody *body);

/* Queues a delivery; takes a reference of its own to the body. */
extern OrionBookDelivery *orion_book_add(OrionBookEndpoint *endpoint, int64 seq, const char *message_id,
										 const char *type, OrionBody *body, int attempts, bool stored);

/* It has a row now: the cursor may pass it. */
extern void orion_book_mark_stored(OrionBookDelivery *delivery);

/* Back to the front of its queue, after a courier was lost. */
extern void orion_book_requeue(OrionBookDelivery *delivery);
extern void orion_book_unqueue(OrionBookDelivery *delivery);

/* Its attempt is over: to be recorded.  Texts are copied. */
extern void orion_book_settle(OrionBookDelivery *delivery, const char *error, const char *excerpt);
extern void orion_book_remove(OrionBookDelivery *delivery);

/* Forgets unsent deliveries that are in the table anyway, of endpoints that cannot take them now. */
extern void orion_book_make_room(void);

extern bool orion_book_is_full(void);

/* Fails, or does not answer soon. */
extern bool orion_book_is_slow(const OrionBookEndpoint *endpoint, TimestampTz now);

/* Sets a text of the book. */
extern void orion_book_text(const char **place, const char *value);

#endif							/* ORION_WEBHOOK_BOOK_H */
