/*
 * webhook.h
 *	  Webhooks: endpoints as the relay needs them, and what it records.
 *
 * Everything here but the settings wants a transaction with SPI and a snapshot
 * (orion_pool_begin) in a process that may read and write orion_private.
 */
#ifndef ORION_WEBHOOK_H
#define ORION_WEBHOOK_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/jsonb.h"

#include "codec/backoff.h"

extern int	orion_webhook_timeout;	/* ms */
extern int	orion_webhook_disable_after;	/* s, 0 = never */
extern int	orion_webhook_max_in_flight;
extern int	orion_webhook_retention;	/* min */
extern bool orion_webhook_allow_http;
extern bool orion_webhook_log_successes;
extern char *orion_webhook_allowed_networks;
extern char *orion_webhook_ca_file;

/* The pauses of orion.webhook_retry_schedule. */
extern const OrionSchedule *orion_webhook_schedule(void);

extern void orion_webhook_init(void);

#define ORION_WEBHOOK_SECRETS	8
#define ORION_WEBHOOK_ID_LEN	36

/* An endpoint; lives in memory of its own. Texts are UTF-8. */
typedef struct OrionWebhook
{
	MemoryContext context;
	int32		id;
	char	   *url;			/* may hold a token: never to a log */
	char	   *networks;		/* "10.0.0.0/8,..." */
	int			npatterns;
	char	  **patterns;
	Jsonb	   *filter;			/* NULL: none */
	bool		envelope;		/* body: the envelope instead of the
								 * standard's */
	int			concurrency;
	int			rate;			/* attempts a second, 0: any */
	bool		plain_http;
	TimestampTz created_at;
	int			nsecrets;
	char	   *secrets[ORION_WEBHOOK_SECRETS]; /* the newest first */
	TimestampTz expires[ORION_WEBHOOK_SECRETS]; /* DT_NOEND: never */
	/* as stored; the relay knows better about those it has */
	TimestampTz failing_since;	/* 0: not */
	TimestampTz hold_until;		/* 0: not */
	TimestampTz next_at;		/* of the first delivery that waits; DT_NOEND:
								 * none */
} OrionWebhook;

/* All endpoints that are not disabled, by id; *endpoints is palloc'ed. */
extern int	orion_webhook_load(OrionWebhook ***endpoints);
extern void orion_webhook_free(OrionWebhook *webhook);	/* wipes the secrets */

/* Does an event of that type go there, its filter aside? */
extern bool orion_webhook_wants(const OrionWebhook *webhook, const char *type);

/* A delivery that is to wait, or has waited; texts are UTF-8. */
typedef struct OrionWebhookDelivery
{
	int32		endpoint;
	int64		seq;
	const char *message_id;
	const char *type;
	const char *body;
	size_t		body_len;
	TimestampTz first_at;		/* when it was due first: no attempt was made */
} OrionWebhookDelivery;

/* What became of an attempt; texts are in the server's encoding, "" for none. */
typedef struct OrionWebhookAttempt
{
	int			number;			/* 1, 2, ... */
	int			status;			/* 0: no answer */
	int			duration_ms;
	const char *error;
	const char *excerpt;
} OrionWebhookAttempt;

/* Lets a delivery wait, due since first_at, unless it waits already or the endpoint is gone. */
extern void orion_webhook_keep(const OrionWebhookDelivery *delivery);

/* The same for several endpoints. */
extern void orion_webhook_keep_many(const OrionWebhookDelivery *delivery, const int32 *endpoints, int n);

/*
 * Lets a delivery wait after a failed attempt, for pause_ms, or for good (-1: dead), unless
 * the endpoint is gone.
 */
extern void orion_webhook_keep_failed(const OrionWebhookDelivery *delivery, const OrionWebhookAttempt *attempt, int64 pause_ms);

/* It waits no more: it was delivered. */
extern void orion_webhook_forget(int32 endpoint, int64 seq);

extern void orion_webhook_log(const OrionWebhookDelivery *delivery, const OrionWebhookAttempt *attempt, TimestampTz at);

/* How an endpoint fares; delivered and failed are added. */
typedef struct OrionWebhookState
{
	TimestampTz failing_since;	/* 0: not */
	TimestampTz hold_until;		/* 0: not */
	TimestampTz last_attempt_at;
	TimestampTz last_success_at;	/* 0: leave it */
	OrionWebhookAttempt last;
	int64		delivered;
	int64		failed;
} OrionWebhookState;

extern void orion_webhook_store_state(int32 endpoint, const OrionWebhookState *state);
extern void orion_webhook_disable(int32 endpoint, const char *reason);

/*
 * Deliveries that are due, at most max, in the order of time and seq, behind these two and
 * without those in except; they are in SPI_tuptable: seq, message_id, type, body, attempts,
 * next_at.
 */
extern int	orion_webhook_due(int32 endpoint, int max, TimestampTz behind, int64 behind_seq, const int64 *except, int nexcept);

/* When the next one that is not due yet will be, DT_NOEND: there is none. */
extern TimestampTz orion_webhook_next(int32 endpoint);

/* The last event that waits without an attempt since first_at, for any endpoint; 0: none. */
extern int64 orion_webhook_last_of(TimestampTz first_at);

/* For the maintenance worker: forgets what is older than the retention. */
extern void orion_webhook_maintain(void);

#endif							/* ORION_WEBHOOK_H */
