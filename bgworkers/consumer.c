/*
 * consumer.c
 *	  The consumer process: gives the messages of one queue to a SQL function.
 *
 * One process for each consumer.  It runs orion-courier, which reads the queue and hands
 * over messages; each has a transaction of its own: a row in the inbox, the function's
 * work, COMMIT, and then DONE to the courier, which acknowledges.  A crash anywhere
 * before that brings the message again; a crash behind the commit brings it again to an
 * inbox that knows it.
 *
 * When the function fails, all is undone, the attempt is counted in a transaction of its
 * own, and the courier gives the message back to the queue after a pause.  A function
 * that ends the process (it does not let itself be stopped) fails as well: after such an
 * end, attempts at messages that come again are counted before they begin.
 *
 * Dead letters that somebody asked for (orion_inbox_redrive) are given to the function between
 * messages, each in a transaction that takes it away; when that fails it is there again.
 *
 * What the courier sends is checked as if it were hostile; nonsense ends it.  Any other
 * error ends this process; the launcher starts another.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "child.h"
#include "core/wake.h"
#include "inbound/inbound.h"
#include "outbox/outbox.h"
#include "pool.h"

PGDLLEXPORT void orion_consumer_main(Datum arg);

#define FRAME_ROOM	(2 * 1024 * 1024)	/* of a message besides its body: an
										 * AMQP frame as JSON */

#define MAX_MESSAGE	1000		/* bytes kept of an error */
#define REDRIVES_A_TURN	20		/* dead letters, then it is the queue's turn */

static OrionChild child = {.fd = -1};
static OrionConsumer *consumer = NULL;
static MemoryContext message_context;
static TimestampTz not_before = 0;	/* no start of a courier earlier */
static bool ready = false;
static uint32 generation = 0;	/* of the consumers, when ours was read */
static TimestampTz loaded_at = 0;
static bool fresh = false;		/* it has just been read */

static OrionWorkerState reported_state = ORION_STATE_STOPPED;	/* nothing yet */
static char reported_text[ORION_ERROR_LEN] = "";

static void
report(OrionWorkerState state, const char *text)
{
	if (text == NULL)
		text = "";

	if (state == reported_state && strncmp(text, reported_text, ORION_ERROR_LEN - 1) == 0)
		return;
	reported_state = state;
	strlcpy(reported_text, text, ORION_ERROR_LEN);
	orion_pool_report(state, text);
}

/* ---- one message ---- */

static void
roll_back(void)
{
	AbortCurrentTransaction();
	MemoryContextSwitchTo(message_context);
	pgstat_report_activity(STATE_IDLE, NULL);
}

/* What one transaction is about: a message, or a dead letter. */
typedef struct Work
{
	const OrionInboundMessage *message; /* NULL: letter */
	int64		letter;
	OrionInboundVerdict verdict;
	int64		pause_ms;
} Work;

/* In a transaction; returns what the handler said when it failed, in memory of the transaction. */
static char *
take(Work *work)
{
	OrionHandlerCall call = {consumer->handler, consumer->handler_role, consumer->timeout_ms, false};
	Datum		event;

	if (SPI_execute("SET CONSTRAINTS ALL IMMEDIATE", false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not make constraints immediate");
	if (work->message)
		work->verdict = orion_inbound_take(consumer, work->message, &event, &work->pause_ms);
	else
		work->verdict = orion_inbound_redrive_take(consumer, work->letter, &event) ? ORION_INBOUND_CALL : ORION_INBOUND_SETTLED;
	return work->verdict == ORION_INBOUND_CALL ? orion_handler_call(&call, event, NULL) : NULL;
}

/* NULL when it is committed, else what went wrong, in message_context. */
static char *
try_work(Work *work)
{
	char	   *volatile failure = NULL;

	PG_TRY();
	{
		char	   *error;

		orion_pool_begin("orion: handling a message");
		error = take(work);
		if (error == NULL)
			orion_pool_commit();
		else
		{
			failure = MemoryContextStrdup(message_context, error);
			roll_back();
		}
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		MemoryContextSwitchTo(message_context);
		edata = CopyErrorData();
		FlushErrorState();
		failure = psprintf("%s: %.*s", unpack_sql_state(edata->sqlerrcode),
						   pg_mbcliplen(edata->message, strlen(edata->message), MAX_MESSAGE), edata->message);
		roll_back();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(message_context);
	return failure;
}

/* In a transaction of its own; see orion_inbound_failed. */
static int64
count_attempt(const OrionInboundMessage *message, const char *error, bool count, bool over)
{
	int64		pause_ms;

	orion_pool_begin("orion: counting an attempt");
	pause_ms = orion_inbound_failed(consumer, message, error, count, over);
	orion_pool_commit();
	return pause_ms;
}

static void
answer(OrionFrameType type, uint64 number, int64 pause_ms)
{
	orion_frame_begin(&child.out, type, number);
	if (type == ORION_FRAME_RETRY)
		orion_frame_put_u64(&child.out, Min(pause_ms, 3600000));
	orion_frame_end(&child.out);
}

static void
handle_message(uint64 number, const OrionInboundMessage *message)
{
	bool		ahead = message->redelivered && orion_my_slot->failures > 0;
	Work		work = {.message = message};
	int64		pause_ms;
	char	   *error;

	if (ahead && count_attempt(message, "the worker ended while it handled the message", true, false) < 0)
	{
		answer(ORION_FRAME_DONE, number, 0);
		return;
	}
	error = try_work(&work);
	if (error)
	{
		pause_ms = count_attempt(message, error, !ahead, true);
		answer(pause_ms < 0 ? ORION_FRAME_DONE : ORION_FRAME_RETRY, number, pause_ms);
	}
	else if (work.verdict == ORION_INBOUND_WAIT)
		answer(ORION_FRAME_RETRY, number, work.pause_ms);
	else
		answer(work.verdict == ORION_INBOUND_REFUSE ? ORION_FRAME_REFUSE : ORION_FRAME_DONE, number, 0);
}

/* ---- dead letters ---- */

/* One that is due; false when there is none. */
static bool
redrive_one(void)
{
	Work		work = {0};
	char	   *error;

	orion_pool_begin("orion: looking for dead letters");
	work.letter = orion_inbound_redrive_next(consumer);
	orion_pool_commit();
	if (work.letter == 0)
		return false;
	error = try_work(&work);
	if (error == NULL)
		return true;
	orion_pool_begin("orion: noting why a message failed");
	orion_inbound_redrive_failed(consumer, work.letter, error);
	orion_pool_commit();
	return true;
}

/* True when there may be more that are due now. */
static bool
redrive(void)
{
	for (int i = 0; i < REDRIVES_A_TURN; i++)
	{
		MemoryContextReset(message_context);
		MemoryContextSwitchTo(message_context);
		CHECK_FOR_INTERRUPTS();
		if (!redrive_one())
			return false;
	}
	return true;
}

/* ---- the courier ---- */

static void
stop_courier(void)
{
	if (child.pid == 0)
		return;
	orion_child_stop(&child, NULL, 0);
	child.failures = 0;
	not_before = 0;
	ready = false;
}

static void
lose_courier(const char *problem)
{
	char		why[ORION_ERROR_LEN];

	not_before = orion_child_lose(&child, problem, why, sizeof(why));
	ready = false;
	report(ORION_STATE_DEGRADED, why);
}

static void
start_courier(void)
{
	StringInfoData config;

	initStringInfo(&config);
	appendStringInfoString(&config, "{\"sink\":");
	escape_json(&config, consumer->name);
	appendStringInfo(&config, ",\"kind\":\"rabbitmq-consumer\",\"config\":%s}", consumer->config);
	orion_child_start(&child, "orion-courier", config.data);
	explicit_bzero(config.data, config.len);
	pfree(config.data);
}

static void
on_trouble(const char *str, size_t len)
{
	char		copy[ORION_ERROR_LEN];

	if (len >= sizeof(copy))
		len = pg_encoding_mbcliplen(PG_UTF8, str, len, sizeof(copy) - 1);
	memcpy(copy, str, len);
	copy[len] = '\0';
	report(len > 0 ? ORION_STATE_DEGRADED : ORION_STATE_RUNNING, copy);
}

static bool
get_bytes(OrionFrame *frame, OrionInboundBytes *bytes)
{
	return orion_frame_get(frame, &bytes->str, &bytes->len);
}

static bool
on_message(OrionFrame *frame)
{
	OrionInboundMessage message = {0};
	uint64_t	flags;

	if (!orion_frame_get_u64(frame, &flags) || !get_bytes(frame, &message.id) || !get_bytes(frame, &message.exchange) ||
		!get_bytes(frame, &message.routing_key) || !get_bytes(frame, &message.properties) || !get_bytes(frame, &message.body))
		return false;
	message.has_id = (flags & ORION_MESSAGE_HAS_ID) != 0;
	message.redelivered = (flags & ORION_MESSAGE_REDELIVERED) != 0;
	message.too_long = (flags & ORION_MESSAGE_TOO_LONG) != 0 || message.body.len > consumer->max_body;
	handle_message(frame->id, &message);
	return true;
}

/* False when the courier talks nonsense. */
static bool
handle_frame(OrionFrame *frame)
{
	const char *str;
	size_t		len;

	switch (frame->type)
	{
		case ORION_FRAME_READY:
			ready = true;
			child.failures = 0;
			report(ORION_STATE_RUNNING, NULL);
			return true;
		case ORION_FRAME_TROUBLE:
			if (!orion_frame_get(frame, &str, &len))
				return false;
			on_trouble(str, len);
			return true;
		case ORION_FRAME_MESSAGE:
			return ready && on_message(frame);
		default:
			return false;
	}
}

static bool
is_stale(void)
{
	return consumer == NULL || generation != pg_atomic_read_u32(&orion_shared->sinks_generation) ||
		TimestampDifferenceExceeds(loaded_at, GetCurrentTimestamp(), ORION_SAFETY_POLL_MS);
}

/*
 * Handles what the courier sent, until its settings may have changed.  Reads on only when
 * no whole frame is left, so that memory is bounded.  Returns NULL, or why it must go.
 */
static const char *
receive(bool *more)
{
	OrionFrame	frame;
	long		size = 0;
	long		n;

	*more = true;
	for (;;)
	{
		while ((size = orion_frame_parse(child.in.data + child.in.start, orion_buffer_len(&child.in),
										 consumer->max_body + FRAME_ROOM, &frame)) > 0)
		{
			MemoryContextReset(message_context);
			MemoryContextSwitchTo(message_context);
			if (!handle_frame(&frame))
				return "sent an unexpected frame";
			orion_buffer_consume(&child.in, size);
			if (!orion_buffer_flush(&child.out, child.fd))
				return "";
			CHECK_FOR_INTERRUPTS();
			if (is_stale())
				return NULL;
		}
		if (size < 0)
			return "sent an oversized frame";
		n = orion_buffer_fill(&child.in, child.fd);
		if (n == 0 || n == -2)
			return "";
		if (n < 0)
			break;
	}
	if (orion_buffer_len(&child.in) == 0 && child.in.cap > FRAME_ROOM)
		orion_buffer_free(&child.in);
	*more = false;
	return NULL;
}

static void
serve(void)
{
	static bool letters = false;	/* some are due */
	const char *problem = NULL;
	bool		more = false;

	if (fresh || letters)
		letters = redrive();
	fresh = false;

	if (child.pid == 0 && GetCurrentTimestamp() >= not_before)
		start_courier();
	if (child.pid)
		problem = receive(&more);
	if (problem == NULL && child.pid && !orion_buffer_flush(&child.out, child.fd))
		problem = "";
	if (problem)
		lose_courier(problem);
	if ((more && problem == NULL) || letters)
		return;
	orion_pool_wait(child.pid ? child.fd : -1, child.pid && orion_buffer_len(&child.out) > 0,
					child.pid ? ORION_SAFETY_POLL_MS :
					Max(1, TimestampDifferenceMilliseconds(GetCurrentTimestamp(), not_before)));
}

/* ---- the loop ---- */

static void
load(void)
{
	OrionConsumer *old = consumer;

	generation = pg_atomic_read_u32(&orion_shared->sinks_generation);
	loaded_at = GetCurrentTimestamp();
	orion_pool_begin("orion: reading the consumer");
	consumer = orion_consumer_load(orion_my_slot->index);
	orion_pool_commit();
	fresh = true;
	if (old && (consumer == NULL || strcmp(old->config, consumer->config) != 0))
		stop_courier();
	orion_consumer_free(old);
}

static void
consume(void)
{
	message_context = AllocSetContextCreate(TopMemoryContext, "orion message", ALLOCSET_DEFAULT_SIZES);
	orion_pool_pin_settings(true);
	while (orion_pool_continue())
	{
		MemoryContextReset(message_context);
		MemoryContextSwitchTo(message_context);
		if (is_stale())
			load();
		MemoryContextSwitchTo(message_context);
		if (consumer && !consumer->paused && consumer->problem == NULL && !RecoveryInProgress())
		{
			serve();
			continue;
		}
		stop_courier();
		if (consumer && consumer->paused)
			report(ORION_STATE_PAUSED, NULL);
		else if (consumer && consumer->problem)
			report(ORION_STATE_DEGRADED, consumer->problem);
		orion_pool_wait(-1, false, ORION_SAFETY_POLL_MS);
	}
	stop_courier();
}

void
orion_consumer_main(Datum arg)
{
	orion_pool_run(arg, NULL, consume);
}
