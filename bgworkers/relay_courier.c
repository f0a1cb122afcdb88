/*
 * relay_courier.c
 *	  The part of a relay that feeds the program orion-courier.
 *
 * The courier connects to the sink and says READY with the position stored
 * there, if it stores one.  Then events go to it, up to MAX_EVENTS and MAX_BYTES
 * unacknowledged, and ACKs come back.  No transaction is open while anything is
 * sent: rows become frames in memory, the transaction (which stored the window)
 * commits, then the frames go out.  Positions are stored a few times a second, and
 * after STORE_EVENTS; a crash sends again what was delivered since (at least once).
 *
 * Where the sink stores the position with the effect, its word counts: what it has
 * is skipped, and what it had confirmed and lost (a Redis killed between two
 * fsyncs) is sent again.
 *
 * When the courier ends, the unacknowledged events go to the next one.  What it
 * sends is checked as if it were hostile; nonsense ends it.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "child.h"
#include "codec/topic.h"
#include "core/listen.h"
#include "core/wake.h"
#include "pool.h"
#include "relay.h"

#define MAX_EVENTS	4096		/* unacknowledged, a power of two */
#define MAX_BYTES	(8 * 1024 * 1024)
#define READ_ROWS	1000		/* rows of one transaction */
#define STORE_EVENTS 2048		/* acknowledged, of which no stored position
								 * tells */
#define MAX_READING_MS 1000		/* calling functions of cache rules */
#define MAX_FRAME	65536		/* the courier sends nothing longer */
#define LAST_WINDOW (INT64CONST(1) << 62)	/* room to go on numbering behind
											 * it */

typedef struct Sent
{
	int64		seq;
	size_t		bytes;
	TimestampTz occurred_at;
} Sent;

static OrionChild child = {.fd = -1};
static TimestampTz not_before = 0;	/* no start of a courier earlier */
static TimestampTz stalled_since = 0;	/* the sink takes nothing since; 0 =
										 * it does */
static bool ready = false;
static Sent in_flight[MAX_EVENTS];
static uint64 sent = 0;			/* number of the last event sent to this
								 * courier */
static uint64 acked = 0;
static size_t bytes = 0;		/* of the events in flight */
static int64 acked_seq = 0;		/* of the window: all up to here is delivered */
static int64 stored_seq = 0;
static uint64 unstored = 0;		/* events acknowledged since */
static int64 highest_seq = 0;	/* ever delivered or skipped, for the lag */
static TimestampTz stored_at = 0;
static TimestampTz lag_checked_at = 0;

/* What it did not acknowledge will be read again. */
static void
forget_courier(OrionCursor *cursor)
{
	ready = false;
	sent = acked = bytes = 0;
	if (cursor && orion_cursor_is_open(cursor))
		orion_cursor_seek(cursor, acked_seq);
}

void
orion_relay_courier_forget(void)
{
	acked_seq = stored_seq = highest_seq = 0;
}

void
orion_relay_courier_stop(OrionCursor *cursor)
{
	if (child.pid == 0)
		return;
	orion_child_stop(&child, NULL, 0);
	child.failures = 0;
	not_before = 0;
	forget_courier(cursor);
}

static void
lose_courier(OrionCursor *cursor, const char *problem)
{
	char		report[ORION_ERROR_LEN];

	not_before = orion_child_lose(&child, problem, report, sizeof(report));
	forget_courier(cursor);
	if (stalled_since == 0)
		stalled_since = GetCurrentTimestamp();
	orion_relay_attempts(pg_atomic_read_u64(&orion_my_slot->attempts) + 1);
	orion_relay_report(ORION_STATE_DEGRADED, report);
}

static void
start_courier(const OrionSink *sink, const OrionCacheRules *rules, OrionCursor *cursor)
{
	StringInfoData config;

	if (acked_seq == 0)
	{
		acked_seq = stored_seq = orion_cursor_is_open(cursor) ? orion_cursor_read_seq(cursor) : 0;
		highest_seq = orion_cursor_read_seq(cursor);
	}
	initStringInfo(&config);
	appendStringInfoString(&config, "{\"sink\":");
	escape_json(&config, sink->name);
	appendStringInfo(&config, ",\"kind\":\"%s\",\"config\":", sink->kind);
	appendStringInfoString(&config, sink->config);
	if (rules)
		appendStringInfo(&config, ",\"relay\":%s", orion_cache_json(rules));
	appendStringInfoChar(&config, '}');
	orion_child_start(&child, "orion-courier", config.data);
	explicit_bzero(config.data, config.len);
	pfree(config.data);
}

/* Of a position that the sink has stored (see frame.h); false when it is none of ours. */
static bool
parse_position(const char *str, size_t len, int64 *window, int64 *seq, int64 *tag)
{
	char		copy[64];
	char	   *end;

	*tag = 0;

	if (len == 0 || len >= sizeof(copy))
		return false;
	memcpy(copy, str, len);
	copy[len] = '\0';
	*window = strtoll(copy, &end, 10);
	if (end == copy || *end != ':' || *window < 0 || *window > LAST_WINDOW)
		return false;
	*seq = strtoll(end + 1, &end, 10);
	if (*end == ':')
		*tag = (int64) strtoull(end + 1, &end, 16);
	return *end == '\0' && *seq >= 0;
}

static bool
stores_position(const OrionSink *sink)
{
	return strcmp(sink->kind, "redis") == 0;
}

/* Goes on where the sink says it is, as far as its word can be understood. */
static void
resume(OrionCursor *cursor, const char *position, size_t len)
{
	OrionPositionFate fate = ORION_POSITION_UNKNOWN;
	bool		had_confirmed = orion_cursor_has_confirmed(cursor);
	char		shown[ORION_ERROR_LEN] = "nothing";
	int64		window;
	int64		seq;
	int64		tag;

	if (parse_position(position, len, &window, &seq, &tag))
	{
		snprintf(shown, sizeof(shown), "position " INT64_FORMAT ":" INT64_FORMAT, window, seq);
		orion_pool_begin("orion: comparing positions");
		fate = orion_cursor_resume(cursor, window, seq, tag);
		orion_pool_commit();
	}
	if (fate == ORION_POSITION_AHEAD || fate == ORION_POSITION_LOST)
		acked_seq = seq;
	if (fate == ORION_POSITION_LOST)
		ereport(LOG, (errmsg("the sink has lost events that it had confirmed"),
					  errdetail("It is back at %s; what came behind is sent again.", shown)));
	else if (fate == ORION_POSITION_UNKNOWN && had_confirmed)
	{
		orion_relay_report(ORION_STATE_RUNNING, "the sink does not know what it had confirmed: see the log");
		ereport(WARNING, (errmsg("the sink does not know what it had confirmed"),
						  errdetail("It has %s, which is none of the last ten minutes of this database."
									" Delivery goes on behind what it last confirmed; what it may have lost is not sent again.", shown)));
	}
}

static void
on_ready(const OrionSink *sink, OrionCursor *cursor, const char *position, size_t len)
{

	ready = true;
	child.failures = 0;
	stalled_since = 0;
	orion_relay_attempts(0);
	orion_relay_report(ORION_STATE_RUNNING, NULL);
	if (!stores_position(sink))
		return;
	orion_cursor_keep_windows(cursor);
	resume(cursor, position, len);
}

static void
on_ack(const OrionSink *sink, OrionCursor *cursor, uint64 number)
{
	if (number > acked && stores_position(sink))
		orion_cursor_confirm(cursor, in_flight[number % MAX_EVENTS].seq);
	orion_cursor_count(cursor, number - acked);
	orion_relay_progress(number - acked);
	unstored += number - acked;
	while (acked < number)
		bytes -= in_flight[++acked % MAX_EVENTS].bytes;
	acked_seq = acked == sent ? orion_cursor_read_seq(cursor) : in_flight[acked % MAX_EVENTS].seq;
	highest_seq = Max(highest_seq, acked_seq);
}

static void
on_reject(const OrionSink *sink, OrionCursor *cursor, uint64 number, const char *reason, size_t len)
{
	char	   *text = pnstrdup(reason, pg_encoding_mbcliplen(PG_UTF8, reason, len, 1000));

	orion_pool_begin("orion: keeping a dead letter");
	if (!pg_verify_mbstr(PG_UTF8, text, strlen(text), true))
		text = pstrdup("refused by the sink");
	text = pg_any_to_server(text, strlen(text), PG_UTF8);

	if (orion_cursor_fetch(cursor, in_flight[number % MAX_EVENTS].seq) == 1)
		orion_dead_letter(sink->id, orion_cursor_window(cursor),
						  orion_event_from_row(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, false), text);
	orion_pool_commit();
	orion_frame_begin(&child.out, ORION_FRAME_NOTED, number);
	orion_frame_end(&child.out);
}

static void
on_trouble(const char *text, size_t len)
{
	char		copy[ORION_ERROR_LEN];

	if (len >= sizeof(copy))
		len = pg_encoding_mbcliplen(PG_UTF8, text, len, sizeof(copy) - 1);
	memcpy(copy, text, len);
	copy[len] = '\0';
	if (len > 0 && stalled_since == 0)
		stalled_since = GetCurrentTimestamp();
	else if (len == 0)
		stalled_since = 0;
	orion_relay_attempts(len > 0 ? pg_atomic_read_u64(&orion_my_slot->attempts) + 1 : 0);
	orion_relay_report(len > 0 ? ORION_STATE_DEGRADED : ORION_STATE_RUNNING, copy);
}

/* False when the courier talks nonsense. */
static bool
handle_frame(const OrionSink *sink, OrionCursor *cursor, OrionFrame *frame)
{
	const char *str = "";
	size_t		len = 0;
	bool		in_window = frame->id > acked && frame->id <= sent;

	switch (frame->type)
	{
		case ORION_FRAME_READY:
			if (ready || !orion_frame_get(frame, &str, &len))
				return false;
			on_ready(sink, cursor, str, len);
			return true;
		case ORION_FRAME_ACK:
			if (in_window)
				on_ack(sink, cursor, frame->id);
			return frame->id <= sent;
		case ORION_FRAME_REJECT:
			if (!in_window || !orion_frame_get(frame, &str, &len))
				return false;
			on_reject(sink, cursor, frame->id, str, len);
			return true;
		case ORION_FRAME_TROUBLE:
			if (!orion_frame_get(frame, &str, &len))
				return false;
			on_trouble(str, len);
			return true;
		default:
			return false;
	}
}

/* Reads and handles what the courier sent. Returns NULL, or why it must go. */
static const char *
receive(const OrionSink *sink, OrionCursor *cursor)
{
	long		n = orion_buffer_fill(&child.in, child.fd);
	OrionFrame	frame;
	long		size;

	while ((size = orion_frame_parse(child.in.data + child.in.start, orion_buffer_len(&child.in), MAX_FRAME, &frame)) > 0)
	{
		if (!handle_frame(sink, cursor, &frame))
			return "sent an unexpected frame";
		orion_buffer_consume(&child.in, size);
	}
	if (size < 0)
		return "sent an oversized frame";
	return n == 0 || n == -2 ? "" : NULL;
}

/* Positions of one window: what is around seq is the same in all of them. */
typedef struct PositionText
{
	char text[	64];
	size_t		before;
	char		after[20];
} PositionText;

static void
begin_positions(const OrionCursor *cursor, PositionText *position)
{
	position->before = snprintf(position->text, sizeof(position->text), INT64_FORMAT ":", orion_cursor_window(cursor));
	snprintf(position->after, sizeof(position->after), ":%016" INT64_MODIFIER "x", orion_cursor_tag(cursor));
}

static void
put_event(PositionText *position, OrionCacheRules *rules, const OrionEvent *event)
{
	OrionCacheValue *values;
	int			nvalues = orion_cache_values(rules, event, &values);

	strcpy(position->text +position->before + pg_lltoa(event->seq, position->text +position->before), position->after);
	orion_frame_begin(&child.out, ORION_FRAME_EVENT, sent);
	orion_frame_put_str(&child.out, position->text);
	orion_frame_put_str(&child.out, event->id);
	orion_frame_put_str(&child.out, event->type);
	orion_frame_put_str(&child.out, event->aggregatetype);
	orion_frame_put_str(&child.out, event->aggregateid);
	orion_frame_put_str(&child.out, event->correlation_id);
	orion_frame_put_str(&child.out, event->occurred_at);
	orion_frame_put_str(&child.out, event->envelope);
	for (int i = 0; i < nvalues; i++)
	{
		orion_frame_put_u64(&child.out, values[i].rule);
		orion_frame_put_str(&child.out, values[i].value ? psprintf("+%s", values[i].value) : "-");
	}
	orion_frame_end(&child.out);
}

/* Turns the n rows in SPI_tuptable into frames, as far as MAX_BYTES allows. */
static void
put_rows(const OrionSink *sink, OrionCacheRules *rules, OrionCursor *cursor, int n)
{
	SPITupleTable *rows = SPI_tuptable;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "orion event", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	TimestampTz begin = GetCurrentTimestamp();
	PositionText position;

	begin_positions(cursor, &position);
	for (int i = 0; i < n; i++)
	{
		size_t		before = orion_buffer_len(&child.out);
		Sent	   *entry;
		OrionEvent *event;

		if (bytes >= MAX_BYTES || (i > 0 && orion_cache_has_functions(rules) &&
								   TimestampDifferenceExceeds(begin, GetCurrentTimestamp(), MAX_READING_MS)))
		{
			orion_cursor_seek(cursor, orion_event_seq(rows->vals[i], rows->tupdesc) - 1);
			break;
		}
		orion_relay_scratch(context);
		if (!orion_cursor_wants(cursor, sink->pattern, rows->vals[i], rows->tupdesc))
			continue;
		event = orion_event_from_row(rows->vals[i], rows->tupdesc, orion_cursor_replays(cursor));
		entry = &in_flight[++sent % MAX_EVENTS];
		put_event(&position, rules, event);
		entry->seq = event->seq;
		entry->bytes = orion_buffer_len(&child.out) - before;
		entry->occurred_at = orion_event_occurred_at(rows->vals[i], rows->tupdesc);
		bytes += entry->bytes;
	}
	orion_cache_store_failures(rules);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

static bool
has_room(void)
{
	return bytes < MAX_BYTES && sent - acked <= MAX_EVENTS - READ_ROWS;
}

/* Reads the next rows into frames. False when there is nothing to read now. */
static bool
read_more(const OrionSink *sink, OrionCacheRules *rules, OrionCursor *cursor)
{
	bool		was_open = orion_cursor_is_open(cursor);
	int			n = 0;

	if (was_open && orion_cursor_at_end(cursor) && acked < sent)
		return false;			/* the next window begins when this one is
								 * delivered */
	if (was_open && orion_cursor_at_end(cursor))
		orion_cursor_close(cursor);
	if (!orion_cursor_is_open(cursor) && !orion_cursor_is_due(cursor))
		return false;
	orion_pool_begin("orion: reading events");
	if (orion_cursor_open(cursor))
	{
		if (!was_open || orion_cursor_read_seq(cursor) == 0)
		{
			acked_seq = stored_seq = orion_cursor_read_seq(cursor);
			unstored = 0;
		}
		n = orion_cursor_read(cursor, READ_ROWS);
		if (n > 0)
			put_rows(sink, rules, cursor, n);
		if (acked == sent)
			acked_seq = orion_cursor_read_seq(cursor);
		if (n == 0)
			orion_cursor_close(cursor);
	}
	else
		highest_seq = Max(highest_seq, Max(orion_cursor_passed(cursor), orion_cursor_read_seq(cursor)));
	orion_pool_commit();
	return n > 0;
}

static void
store_position(OrionCursor *cursor, const char *synchronous_commit)
{
	bool		is_open = orion_cursor_is_open(cursor);

	orion_pool_begin("orion: storing the position");
	(void) set_config_option("synchronous_commit", synchronous_commit, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	orion_cursor_store(cursor, is_open ? acked_seq : orion_cursor_read_seq(cursor));
	orion_pool_commit();
	stored_seq = acked_seq;
	stored_at = GetCurrentTimestamp();
	unstored = 0;
}

static bool
is_unstored(const OrionCursor *cursor)
{
	return (orion_cursor_is_open(cursor) && acked_seq != stored_seq) || orion_cursor_is_dirty(cursor);
}

/* Losing this to a crash only sends events again, so it need not reach the disk. */
static void
store_if_due(OrionCursor *cursor)
{
	if (is_unstored(cursor) && TimestampDifferenceExceeds(stored_at, GetCurrentTimestamp(), ORION_STORE_MS))
		store_position(cursor, "off");
}

/* But how many that may be does not depend on how fast the sink is, where it counts. */
static void
store_if_far(const OrionSink *sink, OrionCursor *cursor)
{
	if (unstored >= STORE_EVENTS && !stores_position(sink) && is_unstored(cursor))
		store_position(cursor, "local");
}

static void
report_lag(OrionCursor *cursor)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		idle = ready && acked == sent && !orion_cursor_is_open(cursor);
	int64		backlog;

	orion_listen_idle(idle && !orion_cursor_is_dirty(cursor));
	if (idle)
		orion_relay_lag(0, 0);
	if (idle || !TimestampDifferenceExceeds(lag_checked_at, now, 1000))
		return;
	lag_checked_at = now;
	orion_pool_begin("orion: looking at the backlog");
	backlog = orion_outbox_backlog(highest_seq);
	orion_pool_commit();
	orion_relay_lag(backlog, acked < sent ? in_flight[(acked + 1) % MAX_EVENTS].occurred_at :
					stalled_since ? stalled_since : now);
}

/* How long nothing needs to be done unless the latch or the socket says so. */
static long
wait_time(OrionCursor *cursor)
{
	if (child.pid == 0)
		return Max(1, TimestampDifferenceMilliseconds(GetCurrentTimestamp(), not_before));
	if (is_unstored(cursor))
		return ORION_STORE_MS;
	return ORION_SAFETY_POLL_MS;
}

void
orion_relay_courier(OrionSink *sink, OrionCacheRules *rules, OrionCursor *cursor)
{
	const char *problem = NULL;

	if (child.pid == 0 && GetCurrentTimestamp() >= not_before)
		start_courier(sink, rules, cursor);
	if (child.pid)
		problem = receive(sink, cursor);
	if (problem == NULL && child.pid && ready)
	{
		store_if_far(sink, cursor);
		while (has_room() && read_more(sink, rules, cursor))
		{
			if (!orion_buffer_flush(&child.out, child.fd))
				break;
		}
	}
	if (problem == NULL && child.pid && !orion_buffer_flush(&child.out, child.fd))
		problem = "";
	if (problem)
		lose_courier(cursor, problem);
	store_if_due(cursor);
	report_lag(cursor);
	orion_relay_wait(cursor, child.pid ? child.fd : -1, child.pid && orion_buffer_len(&child.out) > 0, wait_time(cursor));
}
