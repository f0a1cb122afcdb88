/*
 * relay_webhook.c
 *	  The part of a relay that sends webhooks through the program orion-courier.
 *
 * One cursor for all endpoints.  Each event that is read becomes a delivery for each
 * endpoint that wants it, in memory (webhook_book.h).  A delivery leaves in one of
 * three ways: it succeeds; it fails and waits in orion_private.webhook_pending for its
 * next attempt; or, because its endpoint is slow, failing or has too many, it waits there
 * for its first one.  The cursor passes an event when all its deliveries are in one of
 * these states, and what is in the table is recorded in the transaction that stores the
 * cursor.  So nothing is lost by a crash of anything, and what was delivered since the last
 * of these transactions, a fraction of a second, is sent again.
 *
 * Nobody waits for a slow endpoint: at the end of a window its deliveries under way get
 * a row, so that the next window can be opened; its newer events go to the table at
 * once; and slow and failing endpoints together take at most half of the attempts that
 * may be under way.  While an endpoint fails it is tried with one delivery at a time.
 *
 * No transaction is open while anything is sent.  What the courier says is checked as
 * if it were hostile.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "child.h"
#include "core/listen.h"
#include "core/wake.h"
#include "pool.h"
#include "relay.h"
#include "webhook_book.h"

#define READ_ROWS		100		/* of one transaction */
#define QUEUE_SECOND	4		/* deliveries in memory, unsent, for a slow
								 * endpoint */
#define SPILL_MAX		2000	/* rows of one transaction, or a few more */
#define BEHIND_MAX		2000	/* events read since the oldest that is under
								 * way */
#define GRACE_MS		50		/* for answers, before a window is closed
								 * without them */
#define FLUSH_MS		100		/* outcomes are recorded so soon */
#define FLUSH_COUNT		200		/* or when there are so many */
#define RELOAD_MS		30000
#define LOAD_MAX		64		/* deliveries taken from the table at a time */
#define LOAD_ENDPOINTS	64		/* for so many endpoints */
#define LOSSES_MAX		3		/* couriers that may end with a delivery
								 * before that is a failed attempt */
#define HOLD_FREE		3		/* failures in a row without a pause */
#define HOLD_MAX_MS		30000
#define UNIX_TO_POSTGRES_MS ((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY * 1000)
#define MAX_FRAME		65536	/* the courier sends nothing longer */
#define MAX_EXCERPT		1024

static OrionChild child = {.fd = -1};
static TimestampTz not_before = 0;	/* no start of a courier earlier */
static char *told = NULL;		/* the settings that the courier runs with */
static bool ready = false;
static OrionBookDelivery *slots[ORION_BOOK_SLOTS];
static int	in_flight = 0;
static uint64 counter = 0;
static uint32 generation = 0;	/* of the sinks, when the endpoints were read */
static TimestampTz loaded_at = 0;
static TimestampTz flushed_at = 0;
static int64 stored_seq = 0;
static int	spilled = 0;		/* rows, in this transaction */
static int64 reread_to = -1;	/* nothing is taken from the table until this
								 * is read again; 0: nothing to wait for, -1:
								 * not known yet */
static int64 delivered = 0;		/* since the last flush */
static bool events_wait = true; /* something was committed since the cursor
								 * looked */
static TimestampTz looked_at = 0;
static int	rotor = 0;			/* which endpoint is served first */
static TimestampTz lag_checked_at = 0;

/* ---- the courier ---- */

static void
requeue(OrionBookDelivery *delivery)
{
	delivery->endpoint->in_flight--;
	if (delivery->endpoint->config == NULL && delivery->stored)
		orion_book_remove(delivery);
	else if (delivery->endpoint->config == NULL)
		orion_book_settle(delivery, NULL, NULL);
	else
		orion_book_requeue(delivery);
}

/* Attempts under way begin again with the next courier. */
static void
forget_courier(bool lost)
{
	for (int i = ORION_BOOK_SLOTS - 1; i >= 0; i--)
	{
		if (slots[i] == NULL)
			continue;
		if (lost)
			slots[i]->losses++;
		requeue(slots[i]);
		slots[i] = NULL;
	}
	in_flight = 0;
	ready = false;
}

void
orion_relay_webhook_stop(void)
{
	events_wait = true;			/* the wake-ups of a pause are not seen here */
	if (child.pid == 0)
		return;
	orion_child_stop(&child, NULL, 0);
	child.failures = 0;
	not_before = 0;
	forget_courier(false);
}

static void
lose_courier(const char *problem)
{
	char		report[ORION_ERROR_LEN];

	not_before = orion_child_lose(&child, problem, report, sizeof(report));
	forget_courier(true);
	orion_relay_report(ORION_STATE_DEGRADED, report);
}

/* What the courier is to be told; palloc'ed in the top context. */
static char *
settings(const OrionSink *sink)
{
	StringInfoData config;
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	initStringInfo(&config);
	appendStringInfoString(&config, "{\"sink\":");
	escape_json(&config, sink->name);
	appendStringInfoString(&config, ",\"kind\":\"webhook\",\"config\":{\"networks\":");
	escape_json(&config, orion_webhook_allowed_networks);
	appendStringInfoString(&config, ",\"ca_file\":");
	escape_json(&config, orion_webhook_ca_file);
	appendStringInfoString(&config, "}}");
	MemoryContextSwitchTo(old);
	return config.data;
}

static void
keep_courier(const OrionSink *sink)
{
	char	   *now = settings(sink);

	if (told && strcmp(now, told) != 0)
		orion_relay_webhook_stop();
	if (told)
		pfree(told);
	told = now;
	if (child.pid == 0 && GetCurrentTimestamp() >= not_before)
		orion_child_start(&child, "orion-courier", told);
}

/* ---- what became of an attempt ---- */

/* The courier's words: UTF-8 or nothing, in the encoding of the database. */
static char *
take_text(const char *str, size_t len)
{
	char	   *copy;

	len = Min(len, MAX_EXCERPT);
	if (!pg_verify_mbstr(PG_UTF8, str, len, true))
		return pstrdup("");
	copy = pnstrdup(str, len);
	if (GetDatabaseEncoding() != PG_UTF8)
	{
		for (char *c = copy; *c; c++)
		{
			if (IS_HIGHBIT_SET(*c))
				*c = '?';
		}
	}
	return copy;
}

static void
remember(OrionBookEndpoint *endpoint, const OrionBookDelivery *delivery, TimestampTz now)
{
	OrionWebhookState *state = &endpoint->state;

	endpoint->dirty = true;
	state->failing_since = endpoint->failing_since;
	state->hold_until = endpoint->hold_until;
	state->last_attempt_at = now;
	state->last.status = delivery->attempt.status;
	orion_book_text(&state->last.error, delivery->attempt.error);
	orion_book_text(&state->last.excerpt, delivery->attempt.excerpt);
}

static void
succeed(OrionBookEndpoint *endpoint, TimestampTz now)
{
	endpoint->failures = 0;
	endpoint->proven = true;
	endpoint->failing_since = endpoint->hold_until = 0;
	if (endpoint->config)
		endpoint->window = Min(endpoint->window * 2, endpoint->config->concurrency);
	endpoint->state.last_success_at = now;
	endpoint->state.delivered++;
	delivered++;
}

/* Pause of the whole endpoint: what it asks for, or longer the more attempts failed. */
static int64
hold_ms(const OrionBookEndpoint *endpoint, int status, int64 retry_after)
{
	int64		ms = 0;

	if (endpoint->failures > HOLD_FREE)
		ms = Min(HOLD_MAX_MS, INT64CONST(100) << Min(endpoint->failures - HOLD_FREE, 10));
	if (status == 429 || status == 502 || status == 504)
		ms = Max(ms, 1000);
	if (status == 429 || status == 503)
		ms = Max(ms, Min(retry_after, ORION_RETRY_AFTER_MAX) * 1000);
	return ms;
}

static void
fail(OrionBookEndpoint *endpoint, OrionBookDelivery *delivery, int64 retry_after, TimestampTz now)
{
	int			status = delivery->attempt.status;
	int64		ms;

	endpoint->failures++;
	endpoint->window = 1;
	endpoint->state.failed++;
	if (endpoint->failing_since == 0)
		endpoint->failing_since = now;
	ms = hold_ms(endpoint, status, retry_after);
	endpoint->hold_until = ms > 0 ? TimestampTzPlusMilliseconds(now, ms) : 0;
	if (status == 410)
		endpoint->disable = "gone";
	else if (orion_webhook_disable_after > 0 &&
			 TimestampDifferenceExceeds(endpoint->failing_since, now, orion_webhook_disable_after * INT64CONST(1000)))
		endpoint->disable = "failing";
	if (endpoint->disable)
		endpoint->hold_until = TimestampTzPlusMilliseconds(now, HOLD_MAX_MS);	/* until that is known */
	if (status == 410)
		delivery->pause_ms = 0; /* waits for orion_webhook_enable */
	else
		delivery->pause_ms = orion_schedule_pause(orion_webhook_schedule(), delivery->attempt.number,
												  pg_prng_uint32(&pg_global_prng_state), retry_after);
}

static void
end_attempt(OrionBookDelivery *delivery, uint64 status, uint64 retry_after, uint64 ms, const char *error, const char *excerpt)
{
	OrionBookEndpoint *endpoint = delivery->endpoint;
	TimestampTz now = GetCurrentTimestamp();

	endpoint->progress_at = now;
	endpoint->usual_ms = (endpoint->usual_ms * 3 + (long) Min(ms, 120000)) / 4;
	delivery->attempt.number = delivery->attempts + 1;
	delivery->attempt.status = status >= 100 && status <= 999 ? (int) status : 0;
	delivery->attempt.duration_ms = (int) Min(ms, INT_MAX);
	delivery->delivered = status >= 200 && status <= 299;
	orion_book_settle(delivery, error, excerpt);
	if (delivery->delivered)
		succeed(endpoint, now);
	else
		fail(endpoint, delivery, Min(retry_after, INT_MAX), now);
	remember(endpoint, delivery, now);
}

/* False when the courier talks nonsense. */
static bool
on_delivered(OrionFrame *frame)
{
	OrionBookDelivery *delivery = slots[frame->id % ORION_BOOK_SLOTS];
	uint64		status;
	uint64		retry_after;
	uint64		ms;
	const char *error;
	const char *excerpt;
	size_t		error_len;
	size_t		excerpt_len;
	char	   *error_text;
	char	   *excerpt_text;

	if (delivery == NULL || delivery->number != frame->id ||
		!orion_frame_get_u64(frame, &status) || !orion_frame_get_u64(frame, &retry_after) ||
		!orion_frame_get_u64(frame, &ms) || !orion_frame_get(frame, &error, &error_len) ||
		!orion_frame_get(frame, &excerpt, &excerpt_len))
		return false;
	slots[frame->id % ORION_BOOK_SLOTS] = NULL;
	in_flight--;
	delivery->endpoint->in_flight--;
	error_text = take_text(error, error_len);
	excerpt_text = take_text(excerpt, excerpt_len);
	end_attempt(delivery, status, retry_after, ms, error_text, excerpt_text);
	pfree(error_text);
	pfree(excerpt_text);
	return true;
}

static bool
handle_frame(OrionFrame *frame)
{
	const char *str;
	size_t		len;
	char	   *words;

	switch (frame->type)
	{
		case ORION_FRAME_READY:
			if (ready)
				return false;
			ready = true;
			child.failures = 0;
			orion_relay_report(ORION_STATE_RUNNING, NULL);
			return true;
		case ORION_FRAME_TROUBLE:
			if (!orion_frame_get(frame, &str, &len))
				return false;
			words = take_text(str, len);
			orion_relay_report(len > 0 ? ORION_STATE_DEGRADED : ORION_STATE_RUNNING, words);
			pfree(words);
			return true;
		case ORION_FRAME_DELIVERED:
			return on_delivered(frame);
		default:
			return false;
	}
}

/* Reads and handles what the courier sent. Returns NULL, or why it must go. */
static const char *
receive(void)
{
	long		n = orion_buffer_fill(&child.in, child.fd);
	OrionFrame	frame;
	long		size;

	while ((size = orion_frame_parse(child.in.data + child.in.start, orion_buffer_len(&child.in), MAX_FRAME, &frame)) > 0)
	{
		if (!handle_frame(&frame))
			return "sent an unexpected frame";
		orion_buffer_consume(&child.in, size);
	}
	if (size < 0)
		return "sent an oversized frame";
	return n == 0 || n == -2 ? "" : NULL;
}

/* ---- recording ---- */

/*
 * When what is read now was due first.  All of a window has the time when it was opened,
 * which outlives a crash: what waits without an attempt is taken in the order of this time
 * and seq, the order of the outbox, whichever of it came to the table first.
 */
static TimestampTz
due_since(OrionCursor *cursor)
{
	TimestampTz opened_at = (orion_cursor_window(cursor) - UNIX_TO_POSTGRES_MS) * 1000;

	return Min(opened_at, GetCurrentTimestamp());	/* unless the clock was
													 * set back */
}

static OrionWebhookDelivery
row_of(const OrionBookDelivery *delivery, TimestampTz first_at)
{
	OrionWebhookDelivery row = {
		.endpoint = delivery->endpoint->id,
		.seq = delivery->seq,
		.message_id = delivery->message_id,
		.type = delivery->type,
		.body = delivery->body->data,
		.body_len = delivery->body->len,
		.first_at = first_at,
	};

	return row;
}

static OrionWebhookAttempt
without_nulls(OrionWebhookAttempt attempt)
{
	attempt.error = attempt.error ? attempt.error : "";
	attempt.excerpt = attempt.excerpt ? attempt.excerpt : "";
	return attempt;
}

static void
record_settled(OrionBookDelivery *delivery, TimestampTz first_at)
{
	OrionWebhookDelivery row = row_of(delivery, first_at);
	OrionWebhookAttempt attempt = without_nulls(delivery->attempt);

	if (attempt.number == 0)
	{
		if (!delivery->stored)
			orion_webhook_keep(&row);	/* its endpoint is disabled */
		return;
	}
	if (delivery->delivered && delivery->stored)
		orion_webhook_forget(row.endpoint, row.seq);
	else if (!delivery->delivered)
	{
		orion_webhook_keep_failed(&row, &attempt, delivery->pause_ms);
		if (delivery->pause_ms >= 0)
			delivery->endpoint->next_due = Min(delivery->endpoint->next_due,
											   TimestampTzPlusMilliseconds(GetCurrentTimestamp(), delivery->pause_ms));
	}
	if (!delivery->delivered || orion_webhook_log_successes)
		orion_webhook_log(&row, &attempt, GetCurrentTimestamp());
}

static void
record_endpoints(void)
{
	for (int i = 0; i < orion_book_nendpoints; i++)
	{
		OrionBookEndpoint *endpoint = orion_book_endpoints[i];
		OrionWebhookState state = endpoint->state;

		if (!endpoint->dirty)
			continue;
		state.last = without_nulls(state.last);
		orion_webhook_store_state(endpoint->id, &state);
		endpoint->state.delivered = endpoint->state.failed = 0;
		endpoint->dirty = false;
		if (endpoint->disable)
			orion_webhook_disable(endpoint->id, endpoint->disable);
		endpoint->disable = NULL;
	}
}

/* What orion.sinks shows: the failures in a row of the endpoint that has most of them. */
static void
report_attempts(void)
{
	int			most = 0;

	for (int i = 0; i < orion_book_nendpoints; i++)
	{
		if (orion_book_endpoints[i]->config)
			most = Max(most, orion_book_endpoints[i]->failures);
	}
	orion_relay_attempts(most);
}

/* A window at its end waits a moment for answers; not for those who are never so fast. */
static bool
is_ripe(const OrionBookDelivery *delivery, TimestampTz now)
{
	return !delivery->settled &&
		(delivery->endpoint->usual_ms > GRACE_MS || delivery->endpoint->failing_since != 0 ||
		 TimestampDifferenceExceeds(delivery->since, now, GRACE_MS));
}

/* All up to here is delivered or in the table. */
static int64
passed_seq(OrionCursor *cursor)
{
	if (!dlist_is_empty(&orion_book_window))
		return dlist_head_element(OrionBookDelivery, in_window, &orion_book_window)->seq - 1;
	return orion_cursor_read_seq(cursor);
}

/*
 * A few deliveries that take long must not hold the cursor far behind: all that is read since
 * would be read, and in part sent, again after a crash.
 */
static bool
wants_to_go_on(OrionCursor *cursor)
{
	return orion_book_is_full() ||
		(orion_cursor_is_open(cursor) && orion_cursor_read_seq(cursor) - passed_seq(cursor) > BEHIND_MAX) ||
		(events_wait && orion_cursor_is_open(cursor) && orion_cursor_at_end(cursor));
}

/* Is there something of the window to be given a row? */
static bool
has_ripe(OrionCursor *cursor)
{
	TimestampTz now = GetCurrentTimestamp();
	dlist_iter	iter;

	if (!wants_to_go_on(cursor))
		return false;
	dlist_foreach(iter, &orion_book_window)
	{
		if (is_ripe(dlist_container(OrionBookDelivery, in_window, iter.cur), now))
			return true;
	}
	return false;
}

static void
store_ripe(MemoryContext context, TimestampTz first_at)
{
	TimestampTz now = GetCurrentTimestamp();
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &orion_book_window)
	{
		OrionBookDelivery *delivery = dlist_container(OrionBookDelivery, in_window, iter.cur);
		OrionWebhookDelivery row = row_of(delivery, first_at);

		if (!is_ripe(delivery, now))
			continue;
		orion_relay_scratch(context);
		orion_webhook_keep(&row);
		orion_book_mark_stored(delivery);
	}
}

/*
 * Records what became of attempts, and the cursor.  To lose the whole of it to a crash
 * means to send again, so it need not reach the disk.
 */
static void
flush(OrionCursor *cursor, bool go_on)
{
	MemoryContext context;
	MemoryContext old;
	dlist_mutable_iter iter;
	TimestampTz first_at = due_since(cursor);
	int64		seq;

	orion_pool_begin("orion: recording webhooks");
	(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	context = AllocSetContextCreate(CurrentMemoryContext, "orion webhook", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	dlist_foreach_modify(iter, &orion_book_settled)
	{
		OrionBookDelivery *delivery = dlist_container(OrionBookDelivery, in_queue, iter.cur);

		orion_relay_scratch(context);
		record_settled(delivery, first_at);
		orion_book_remove(delivery);
	}
	if (go_on)
		store_ripe(context, first_at);
	record_endpoints();
	MemoryContextSwitchTo(old);
	seq = passed_seq(cursor);
	orion_cursor_count(cursor, delivered);
	orion_relay_progress(delivered);
	report_attempts();
	delivered = 0;
	if (orion_cursor_is_dirty(cursor) || (orion_cursor_is_open(cursor) && seq != stored_seq))
		orion_cursor_store(cursor, seq);
	orion_pool_commit();
	stored_seq = seq;
	flushed_at = GetCurrentTimestamp();
	if (orion_book_is_full())
		orion_book_make_room();
}

static void
flush_if_due(OrionCursor *cursor)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		go_on = has_ripe(cursor);
	bool		pending = orion_book_nsettled > 0 || orion_cursor_is_dirty(cursor) ||
	(orion_cursor_is_open(cursor) && passed_seq(cursor) != stored_seq);

	if (go_on || orion_book_nsettled >= FLUSH_COUNT ||
		(pending && TimestampDifferenceExceeds(flushed_at, now, FLUSH_MS)))
		flush(cursor, go_on);
}

/* ---- reading ---- */

/* An event on its way to the endpoints; made as far as they want it. */
typedef struct Event
{
	HeapTuple	row;
	TupleDesc	desc;
	OrionEvent *event;
	Jsonb	   *envelope;
	OrionBody  *bodies[2];		/* standard, envelope */
	int32	   *spilled[2];		/* endpoints with these that get it through
								 * the table */
	int			nspilled[2];
} Event;

static bool
passes_filter(const OrionWebhook *config, Event *event)
{
	if (config->filter == NULL)
		return true;
	if (event->envelope == NULL)
	{
		char	   *json = pg_any_to_server(event->event->envelope, strlen(event->event->envelope), PG_UTF8);

		event->envelope = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json)));
	}
	return DatumGetBool(DirectFunctionCall2(jsonb_contains, JsonbPGetDatum(event->envelope), JsonbPGetDatum(config->filter)));
}

static OrionBody *
body_of(Event *event, bool envelope)
{
	StringInfoData json;

	if (event->bodies[envelope])
		return event->bodies[envelope];
	if (envelope)
		event->bodies[1] = orion_book_body(event->event->envelope, strlen(event->event->envelope));
	else
	{
		initStringInfo(&json);
		appendStringInfoString(&json, "{\"type\":");
		escape_json(&json, event->event->type);
		appendStringInfo(&json, ",\"timestamp\":\"%s\",\"data\":", event->event->occurred_at);
		appendStringInfoString(&json, orion_event_payload(event->row, event->desc));
		appendStringInfoChar(&json, '}');
		event->bodies[0] = orion_book_body(json.data, json.len);
		pfree(json.data);
	}
	return event->bodies[envelope];
}

/*
 * Endpoints that are slow, or not seen to be well yet, share one half of what may be
 * under way, and one half of the book.
 */
static bool
is_second_class(const OrionBookEndpoint *endpoint, TimestampTz now)
{
	return (!endpoint->proven && orion_book_nendpoints > 1) || orion_book_is_slow(endpoint, now);
}

static bool
has_place(const OrionBookEndpoint *endpoint, TimestampTz now)
{
	if (is_second_class(endpoint, now))
		return endpoint->queued < QUEUE_SECOND && orion_book_ndeliveries < ORION_BOOK_DELIVERIES / 2 &&
			orion_book_bytes < ORION_BOOK_BYTES / 2;
	return endpoint->queued < ORION_BOOK_QUEUE && !orion_book_is_full();
}

/* Into the book, or into the table where the endpoint has enough to do. */
static void
place(OrionBookEndpoint *endpoint, Event *event)
{
	bool		envelope = endpoint->config->envelope;
	OrionBody  *body = body_of(event, envelope);

	if (!endpoint->spilled && endpoint->failing_since == 0 && has_place(endpoint, GetCurrentTimestamp()))
	{
		orion_book_add(endpoint, event->event->seq, event->event->id, event->event->type, body, 0, false);
		return;
	}
	if (event->spilled[envelope] == NULL)
		event->spilled[envelope] = palloc(orion_book_nendpoints * sizeof(int32));
	event->spilled[envelope][event->nspilled[envelope]++] = endpoint->id;
	endpoint->spilled = true;
	endpoint->next_due = Min(endpoint->next_due, GetCurrentTimestamp());
}

static void
spill(Event *event, TimestampTz first_at)
{
	for (int i = 0; i < lengthof(event->bodies); i++)
	{
		OrionWebhookDelivery row;

		if (event->nspilled[i] == 0)
			continue;
		row.seq = event->event->seq;
		row.message_id = event->event->id;
		row.type = event->event->type;
		row.body = event->bodies[i]->data;
		row.body_len = event->bodies[i]->len;
		row.first_at = first_at;
		orion_webhook_keep_many(&row, event->spilled[i], event->nspilled[i]);
		spilled += event->nspilled[i];
	}
}

static void
take_event(HeapTuple row, TupleDesc desc, bool replayed, TimestampTz first_at)
{
	Event		event = {.row = row,.desc = desc};
	char	   *type = orion_event_type(row, desc);
	TimestampTz occurred_at = orion_event_occurred_at(row, desc);

	for (int i = 0; i < orion_book_nendpoints; i++)
	{
		OrionBookEndpoint *endpoint = orion_book_endpoints[i];

		if (endpoint->config == NULL || occurred_at < endpoint->config->created_at || !orion_webhook_wants(endpoint->config, type))
			continue;
		if (event.event == NULL)
			event.event = orion_event_from_row(row, desc, replayed);
		if (passes_filter(endpoint->config, &event))
			place(endpoint, &event);
	}
	spill(&event, first_at);
	orion_book_unref(event.bodies[0]);
	orion_book_unref(event.bodies[1]);
}

/* The endpoint, if it is the only one, and well: then the outbox is where its events wait. */
static OrionBookEndpoint *
lone_endpoint(void)
{
	if (orion_book_nendpoints != 1 || orion_book_endpoints[0]->config == NULL ||
		orion_book_is_slow(orion_book_endpoints[0], GetCurrentTimestamp()))
		return NULL;
	return orion_book_endpoints[0];
}

static bool
has_room(void)
{
	OrionBookEndpoint *lone = lone_endpoint();

	if (lone && !lone->spilled && lone->queued + READ_ROWS > ORION_BOOK_QUEUE)
		return false;
	return !orion_book_is_full();
}

static void
take_rows(OrionCursor *cursor, int n)
{
	SPITupleTable *rows = SPI_tuptable;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "orion event", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	TimestampTz first_at = due_since(cursor);

	spilled = 0;
	for (int i = 0; i < n; i++)
	{
		if (spilled >= SPILL_MAX || (orion_book_is_full() && lone_endpoint() && !lone_endpoint()->spilled))
		{
			orion_cursor_seek(cursor, orion_event_seq(rows->vals[i], rows->tupdesc) - 1);
			break;
		}
		orion_relay_scratch(context);
		if (orion_cursor_wants(cursor, "#", rows->vals[i], rows->tupdesc))
			take_event(rows->vals[i], rows->tupdesc, orion_cursor_replays(cursor), first_at);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* Reads the next events. False when there is nothing to read now. */
static bool
read_more(OrionCursor *cursor)
{
	TimestampTz now = GetCurrentTimestamp();
	int			n = 0;

	if (orion_cursor_is_open(cursor) && orion_cursor_at_end(cursor))
	{
		if (!dlist_is_empty(&orion_book_window))
			return false;		/* the next window begins when this one is
								 * passed */
		orion_cursor_close(cursor);
	}
	if (!orion_cursor_is_open(cursor))
	{
		if (!events_wait && !TimestampDifferenceExceeds(looked_at, now, ORION_SAFETY_POLL_MS))
			return false;
		events_wait = false;
		looked_at = now;
	}
	orion_pool_begin("orion: reading events");
	if (!orion_cursor_open(cursor))
		reread_to = 0;
	else
	{
		if (reread_to < 0)
			reread_to = orion_webhook_last_of(due_since(cursor));
		n = orion_cursor_read(cursor, READ_ROWS);
		if (n > 0)
			take_rows(cursor, n);
		else if (dlist_is_empty(&orion_book_window))
			orion_cursor_close(cursor);
	}
	orion_pool_commit();
	return n > 0;
}

/* ---- what waits in the table ---- */

static bool
may_load(const OrionBookEndpoint *endpoint, TimestampTz now)
{
	return endpoint->config && endpoint->next_due <= now && endpoint->hold_until <= now &&
		endpoint->queued < endpoint->window && has_place(endpoint, now);
}

/* Its bodies may be large: a row at a time, as far as the book has room. */
static bool
has_bytes(const OrionBookEndpoint *endpoint)
{
	return orion_book_bytes < (is_second_class(endpoint, GetCurrentTimestamp()) ? ORION_BOOK_BYTES / 2 : ORION_BOOK_BYTES);
}

static void
load_row(OrionBookEndpoint *endpoint, HeapTuple row, TupleDesc desc)
{
	bool		isnull;
	char	   *body = TextDatumGetCString(SPI_getbinval(row, desc, 4, &isnull));
	char	   *utf8 = pg_server_to_any(body, strlen(body), PG_UTF8);
	char	   *type = SPI_getvalue(row, desc, 3);
	OrionBody  *shared = orion_book_body(utf8, strlen(utf8));

	endpoint->loaded_at = DatumGetTimestampTz(SPI_getbinval(row, desc, 6, &isnull));
	endpoint->loaded_seq = DatumGetInt64(SPI_getbinval(row, desc, 1, &isnull));
	orion_book_add(endpoint, endpoint->loaded_seq, SPI_getvalue(row, desc, 2),
				   pg_server_to_any(type, strlen(type), PG_UTF8), shared,
				   DatumGetInt32(SPI_getbinval(row, desc, 5, &isnull)), true);
	orion_book_unref(shared);
}

/* Returns how many of the rows there was room for. */
static int
load_rows(OrionBookEndpoint *endpoint, SPITupleTable *rows, int n)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "orion webhook", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	int			i;

	for (i = 0; i < n && has_bytes(endpoint); i++)
	{
		orion_relay_scratch(context);
		load_row(endpoint, rows->vals[i], rows->tupdesc);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return i;
}

static void
load_endpoint(OrionBookEndpoint *endpoint)
{
	int64	   *except = palloc(Max(endpoint->ndeliveries, 1) * sizeof(int64));
	int			nexcept = 0;
	int			max = is_second_class(endpoint, GetCurrentTimestamp()) ? Min(endpoint->window * 4, LOAD_MAX) : LOAD_MAX;
	SPITupleTable *rows;
	dlist_iter	iter;
	int			loaded;
	int			n;

	dlist_foreach(iter, &endpoint->all)
		except[nexcept++] = dlist_container(OrionBookDelivery, in_all, iter.cur)->seq;
	n = orion_webhook_due(endpoint->id, max, endpoint->loaded_at, endpoint->loaded_seq, except, nexcept);
	rows = SPI_tuptable;
	loaded = load_rows(endpoint, rows, n);
	SPI_freetuptable(rows);
	pfree(except);
	if (n == max || loaded < n)
		return;
	endpoint->spilled = false;
	endpoint->next_due = orion_webhook_next(endpoint->id);
}

/*
 * What a window that a crash interrupted has in the table already comes after what of
 * it has to be read again.
 */
static bool
has_to_read_first(OrionCursor *cursor)
{
	if (reread_to > 0 && (!orion_cursor_is_open(cursor) || orion_cursor_at_end(cursor) || orion_cursor_read_seq(cursor) >= reread_to))
		reread_to = 0;
	return reread_to != 0;
}

static void
load_due(OrionCursor *cursor)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		begun = false;
	int			loaded = 0;

	if (has_to_read_first(cursor))
		return;

	for (int i = 0; i < orion_book_nendpoints && loaded < LOAD_ENDPOINTS; i++)
	{
		OrionBookEndpoint *endpoint = orion_book_endpoints[(rotor + i) % orion_book_nendpoints];

		if (!may_load(endpoint, now))
			continue;
		if (!begun)
			orion_pool_begin("orion: reading webhooks that wait");
		begun = true;
		load_endpoint(endpoint);
		loaded++;
	}
	if (begun)
		orion_pool_commit();
}

/* ---- sending ---- */

/* Those that sign now, separated by spaces. */
static void
put_secrets(const OrionWebhook *config, TimestampTz now)
{
	StringInfoData secrets;

	initStringInfo(&secrets);
	for (int i = 0; i < config->nsecrets; i++)
	{
		if (config->expires[i] <= now)
			continue;
		if (secrets.len > 0)
			appendStringInfoChar(&secrets, ' ');
		appendStringInfoString(&secrets, config->secrets[i]);
	}
	orion_frame_put(&child.out, secrets.data, secrets.len);
	explicit_bzero(secrets.data, secrets.len);
	pfree(secrets.data);
}

static void
send_delivery(OrionBookDelivery *delivery, TimestampTz now)
{
	OrionBookEndpoint *endpoint = delivery->endpoint;
	const OrionWebhook *config = endpoint->config;
	uint64		number;

	do
		number = ++counter;
	while (slots[number % ORION_BOOK_SLOTS] != NULL);
	slots[number % ORION_BOOK_SLOTS] = delivery;
	orion_book_unqueue(delivery);
	delivery->number = number;
	delivery->sent_at = now;
	if (endpoint->in_flight++ == 0)
		endpoint->progress_at = now;
	in_flight++;
	orion_frame_begin(&child.out, ORION_FRAME_DELIVER, number);
	orion_frame_put_str(&child.out, delivery->message_id);
	orion_frame_put_str(&child.out, config->url);
	put_secrets(config, now);
	orion_frame_put_str(&child.out, config->networks);
	orion_frame_put_u64(&child.out, config->plain_http || orion_webhook_allow_http);
	orion_frame_put_u64(&child.out, orion_webhook_timeout);
	orion_frame_put(&child.out, delivery->body->data, delivery->body->len);
	orion_frame_end(&child.out);
}

/* Takes a token of the endpoint's rate; without one *when says when to ask again. */
static bool
take_token(OrionBookEndpoint *endpoint, TimestampTz now, TimestampTz *when)
{
	int			rate = endpoint->config->rate;

	if (rate == 0)
		return true;
	endpoint->tokens = Min(Max(1.0, rate / 10.0), endpoint->tokens + (now - endpoint->tokens_at) / 1000000.0 * rate);
	endpoint->tokens_at = now;
	if (endpoint->tokens >= 1)
	{
		endpoint->tokens -= 1;
		return true;
	}
	*when = Min(*when, now + (TimestampTz) ((1 - endpoint->tokens) / rate * 1000000) + 1000);
	return false;
}

/*
 * The other half is for those who are well; its last quarter is given out in twos, so
 * that those who turn slow just now do not have all of it.
 */
static int
allowance(const OrionBookEndpoint *endpoint, int slow_in_flight)
{
	return in_flight - slow_in_flight < orion_webhook_max_in_flight * 3 / 8 ? endpoint->window : Min(endpoint->window, 2);
}

static void
send_of(OrionBookEndpoint *endpoint, int *slow_in_flight, TimestampTz now, TimestampTz *when)
{
	bool		slow = is_second_class(endpoint, now);

	while (endpoint->queued > 0 && endpoint->in_flight < allowance(endpoint, *slow_in_flight) && in_flight < orion_webhook_max_in_flight &&
		   (!slow || *slow_in_flight < orion_webhook_max_in_flight / 2))
	{
		OrionBookDelivery *delivery = dlist_head_element(OrionBookDelivery, in_queue, &endpoint->queue);

		if (delivery->losses >= LOSSES_MAX)
		{
			delivery->losses = 0;
			end_attempt(delivery, 0, 0, 0, "the program that sends webhooks ended during the attempt", "");
			continue;
		}
		if (!take_token(endpoint, now, when))
			return;
		send_delivery(delivery, now);
		if (slow)
			(*slow_in_flight)++;
	}
}

/* Sends what may be sent; returns when to look again at the latest. */
static TimestampTz
send_all(void)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz when = DT_NOEND;
	int			slow_in_flight = 0;

	for (int i = 0; i < orion_book_nendpoints; i++)
	{
		if (orion_book_endpoints[i]->in_flight > 0 && is_second_class(orion_book_endpoints[i], now))
			slow_in_flight += orion_book_endpoints[i]->in_flight;
	}
	for (int i = 0; i < orion_book_nendpoints; i++)
	{
		OrionBookEndpoint *endpoint = orion_book_endpoints[(rotor + i) % orion_book_nendpoints];

		if (endpoint->config == NULL)
			continue;
		if (endpoint->hold_until <= now)
			send_of(endpoint, &slow_in_flight, now, &when);
		else if (endpoint->queued > 0 || endpoint->next_due != DT_NOEND)
			when = Min(when, endpoint->hold_until);
		if (endpoint->next_due > now)
			when = Min(when, endpoint->next_due);
	}
	rotor++;
	return when;
}

/* ---- the round ---- */

static void
reload_if_stale(OrionCursor *cursor)
{
	uint32		current = pg_atomic_read_u32(&orion_shared->sinks_generation);

	if (loaded_at != 0 && generation == current && !TimestampDifferenceExceeds(loaded_at, GetCurrentTimestamp(), RELOAD_MS))
		return;
	generation = current;
	loaded_at = GetCurrentTimestamp();
	orion_pool_begin("orion: reading webhooks");
	orion_book_reload();
	orion_pool_commit();
	report_attempts();
	if (rotor >= orion_book_nendpoints)
		rotor = 0;
}

static void
report_lag(OrionCursor *cursor)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		idle = ready && dlist_is_empty(&orion_book_window) && !orion_cursor_is_open(cursor);
	int64		backlog;

	orion_listen_idle(idle && !orion_cursor_is_dirty(cursor));
	if (idle)
		orion_relay_lag(0, 0);
	if (idle || !TimestampDifferenceExceeds(lag_checked_at, now, 1000))
		return;
	lag_checked_at = now;
	orion_pool_begin("orion: looking at the backlog");
	backlog = orion_outbox_backlog(passed_seq(cursor));
	orion_pool_commit();
	orion_relay_lag(backlog, dlist_is_empty(&orion_book_window) ? now :
					dlist_head_element(OrionBookDelivery, in_window, &orion_book_window)->since);
}

static long
wait_time(OrionCursor *cursor, TimestampTz when)
{
	TimestampTz now = GetCurrentTimestamp();
	long		ms = ORION_SAFETY_POLL_MS;

	if (child.pid == 0)
		ms = Min(ms, TimestampDifferenceMilliseconds(now, not_before) + 1);
	if (when != DT_NOEND)
		ms = Min(ms, TimestampDifferenceMilliseconds(now, when) + 1);
	if (orion_book_nsettled > 0 || orion_cursor_is_dirty(cursor))
		ms = Min(ms, FLUSH_MS);
	if (wants_to_go_on(cursor) && !dlist_is_empty(&orion_book_window))
		ms = Min(ms, GRACE_MS / 2);
	return Max(ms, 0);
}

void
orion_relay_webhook(OrionSink *sink, OrionCursor *cursor)
{
	const char *problem = NULL;
	TimestampTz when = DT_NOEND;
	bool		more = false;

	orion_book_init();
	reload_if_stale(cursor);
	keep_courier(sink);
	if (child.pid)
		problem = receive();
	if (problem == NULL && child.pid && ready)
	{
		flush_if_due(cursor);
		if (has_room())
			more = read_more(cursor);
		load_due(cursor);
		when = send_all();
	}
	if (problem == NULL && child.pid && !orion_buffer_flush(&child.out, child.fd))
		problem = "";
	if (problem)
		lose_courier(problem);
	report_lag(cursor);
	if (orion_relay_wait(cursor, child.pid ? child.fd : -1, child.pid && orion_buffer_len(&child.out) > 0,
						 more && has_room() ? 0 : wait_time(cursor, when)) & WL_LATCH_SET ||
		orion_cursor_pause(cursor) >= 0)
		events_wait = true;
}
