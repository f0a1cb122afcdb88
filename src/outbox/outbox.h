/*
 * outbox.h
 *	  The transactional outbox: events, segments, cursors, sinks.
 *
 * orion_publish() appends a row to the current segment of orion_private.outbox.
 * Each sink has a cursor and a relay process of its own; see cursor.c for how a
 * cursor finds every committed event once without waiting for open transactions.
 */
#ifndef ORION_OUTBOX_H
#define ORION_OUTBOX_H

#include "postgres.h"

#include "fmgr.h"

#include "access/htup.h"
#include "access/tupdesc.h"
#include "datatype/timestamp.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#define ORION_OUTBOX_SEGMENTS	8	/* tables outbox_1 .. outbox_8 */

extern int	orion_outbox_max_payload;	/* kB */
extern int	orion_outbox_retention; /* minutes */
extern int	orion_outbox_segment_size;	/* MB */
extern int	orion_outbox_hold_limit;	/* MB, 0 = none */
extern int	orion_outbox_max_attempts;
extern int	orion_outbox_handler_timeout;	/* ms, 0 = none */
extern char *orion_outbox_correlation_id;	/* of events that come without */
extern char *orion_outbox_causation_id;

#define ORION_EVENT_MAX_ATTRIBUTE	255 /* bytes: AMQP carries them as short
										 * strings */

/* The arguments of orion_publish, in its order. */
typedef enum OrionEventField
{
	ORION_EVENT_TYPE,
	ORION_EVENT_PAYLOAD,
	ORION_EVENT_AGGREGATETYPE,
	ORION_EVENT_AGGREGATEID,
	ORION_EVENT_CORRELATION_ID,
	ORION_EVENT_CAUSATION_ID,
	ORION_EVENT_METADATA,
	ORION_EVENT_VERSION,
	ORION_EVENT_FIELDS,
} OrionEventField;

typedef struct OrionNewEvent
{
	NullableDatum field[ORION_EVENT_FIELDS];
} OrionNewEvent;

/* Errors when the event may not be published; fills in what the transaction gives it. */
extern void orion_event_check(OrionNewEvent *event);

/*
 * The envelope of the event that is being handled, or NULL: events published
 * meanwhile are caused by it and belong to what it belongs to.  Must stay until
 * the next call.
 */
extern void orion_event_set_cause(const Jsonb *envelope);

/*
 * Appends n >= 1 checked events to the outbox, in their order, in one command of the
 * transaction.  Gives back their ids.  Checks no privilege.
 */
extern void orion_events_append(const OrionNewEvent *events, int n, pg_uuid_t *ids);

/*
 * Keeps the ring of segments turning: publishes the current one in shared
 * memory, rotates by time and size, seals what was left, truncates what every
 * cursor has passed.  The maintenance worker calls it every few seconds outside
 * of a transaction.  Errors are the caller's.  Returns what an administrator should
 * know, in static memory, or NULL.
 */
extern const char *orion_outbox_maintain(void);

typedef struct OrionCursor OrionCursor;

/* An event as sinks get it: UTF-8, palloc'ed; NULL where the publisher gave none. */
typedef struct OrionEvent
{
	int64		seq;
	char	   *type;
	char	   *id;
	char	   *aggregatetype;
	char	   *aggregateid;
	char	   *correlation_id;
	char	   *occurred_at;	/* RFC 3339, UTC */
	char	   *envelope;		/* JSON */
} OrionEvent;

/* A sink as its relay needs it; strings live in the sink's own memory. */
typedef struct OrionSink
{
	MemoryContext context;
	int32		id;
	char	   *name;
	char	   *kind;			/* redis, rabbitmq, sql, webhook */
	char	   *pattern;
	bool		paused;
	int32		part;			/* which of its workers this is, from 0 */
	int32		workers;
	int32		batch;			/* sql: events of one transaction at most */
	int32		max_attempts;
	int32		timeout_ms;		/* sql: of one event, 0 = none */
	int64		epoch;			/* of the stored cursor */
	char	   *config;			/* unsealed JSON; holds passwords; NULL for
								 * sql */
	Oid			handler;		/* sql: the function, InvalidOid when it is
								 * gone */
	Oid			handler_role;	/* sql: whom it runs as */
	const char *problem;		/* sql: why it cannot run, or NULL */
} OrionSink;

/* In a transaction with SPI. NULL when the sink is gone. */
extern OrionSink *orion_sink_load(int32 sink_id, int32 part);
extern void orion_sink_free(OrionSink *sink);	/* wipes the configuration */

/* A user's function of one jsonb argument, and how it is called: see call.c. */
typedef struct OrionHandlerCall
{
	Oid			function;
	Oid			role;			/* whose privileges it has */
	int			timeout_ms;		/* 0: none */
	bool		read_only;
} OrionHandlerCall;

/*
 * Calls it in a subtransaction.  NULL, or the error's text, palloc'ed.  *result
 * (result may be NULL) is what it returned, as text; NULL for null.
 */
extern char *orion_handler_call(const OrionHandlerCall *what, Datum event, char **result);

/* For several calls in one subtransaction: does work there; NULL, or the error's text. */
extern char *orion_handler_try(void (*work) (void *arg), void *arg, bool read_only);

/* One of the calls of such work. */
extern void orion_handler_invoke(const OrionHandlerCall *what, FmgrInfo *function, Datum event, char **result);

/* Why a role may not have a function of one jsonb argument called for it, or NULL. */
extern const char *orion_handler_problem(Oid function, Oid role);

/*
 * Gives the next events of a SQL sink to its handler, at most max, and parked ones that
 * are due; stores the cursor in the same transaction, which the caller commits.
 */
typedef struct OrionHandlerRun
{
	bool		more;			/* there may be more at once */
	long		wait_ms;		/* until the next parked event is due, -1:
								 * none */
	int			handled;		/* calls that came back well */
	int			attempts;		/* of the parked event with the most of them */
	char	   *error;			/* of the same; NULL: none is parked */
} OrionHandlerRun;

extern void orion_handler_run(OrionSink *sink, OrionCursor *cursor, int max, OrionHandlerRun *run);

/* Parked events may have come or gone. */
extern void orion_handler_look_again(void);

/* Records that a sink refused an event for good. */
extern void orion_dead_letter(int32 sink_id, int64 window, const OrionEvent *event, const char *error);

/*
 * Where a sink is: see cursor.c.  Lives in memory of its own across
 * transactions.  All functions but orion_cursor_close want a transaction with
 * SPI and a snapshot (orion_pool_begin).
 */
/* The sink's cursor as stored; NULL when the sink is gone. */
extern OrionCursor *orion_cursor_load(int32 sink_id, int32 part);
extern void orion_cursor_free(OrionCursor *cursor);

/*
 * Opens the next window, unless one is open, and stores it.  Must come first in
 * its transaction.  Commit durably before anything of the window is sent.
 * False when there is nothing new.
 */
extern bool orion_cursor_open(OrionCursor *cursor);

/*
 * May a window with new events be opened now?  Where not, pause says how many
 * milliseconds are left; -1 when nobody was put off.
 */
extern bool orion_cursor_is_due(OrionCursor *cursor);
extern long orion_cursor_pause(const OrionCursor *cursor);

/*
 * The next rows of the window, in the order of seq, at most max; they are in
 * SPI_tuptable.  0 at its end.
 */
extern int	orion_cursor_read(OrionCursor *cursor, int max);

/* The row with this seq, if it is in the open window. */
extern int	orion_cursor_fetch(OrionCursor *cursor, int64 seq);

/* Stores the cursor, with everything up to seq delivered. */
extern void orion_cursor_store(OrionCursor *cursor, int64 seq);

/* True when the row just read is for a sink with this pattern. */
extern bool orion_cursor_wants(const OrionCursor *cursor, const char *pattern, HeapTuple row, TupleDesc desc);

/* True in a window of events that are sent once more: they are marked. */
extern bool orion_cursor_replays(const OrionCursor *cursor);

/* Dead letters or a replay may have been asked for. */
extern void orion_cursor_look_again(OrionCursor *cursor);

/* Changes when somebody else has moved the stored cursor: load it anew. */
extern int64 orion_cursor_epoch(const OrionCursor *cursor);

/* Adds to the count of delivered events; stored with the next store. */
extern void orion_cursor_count(OrionCursor *cursor, int64 delivered);

/* Ends the window: all of it is delivered.  In memory; the next store tells. */
extern void orion_cursor_close(OrionCursor *cursor);

/* Windows opened from now on can be gone back to for ten minutes. */
extern void orion_cursor_keep_windows(OrionCursor *cursor);

/* The sink has confirmed the event with this seq, of the open window. */
extern void orion_cursor_confirm(OrionCursor *cursor, int64 seq);
extern bool orion_cursor_has_confirmed(const OrionCursor *cursor);

typedef enum OrionPositionFate
{
	ORION_POSITION_EXPECTED,	/* the sink has what it confirmed: nothing was
								 * done */
	ORION_POSITION_AHEAD,		/* it has more of the open window than was
								 * heard of: skipped */
	ORION_POSITION_LOST,		/* it has less than it confirmed: the cursor
								 * went back */
	ORION_POSITION_UNKNOWN,		/* no window of ours, or too long ago: only
								 * the numbering went on */
} OrionPositionFate;

/*
 * A sink has connected and stores this position.  After AHEAD and LOST reading goes
 * on behind seq.  Only a position with the tag of a window of ours moves the cursor.
 */
extern OrionPositionFate orion_cursor_resume(OrionCursor *cursor, int64 window, int64 seq, int64 tag);

/* Go on reading behind seq: back after a lost courier, ahead of what a sink has. */
extern void orion_cursor_seek(OrionCursor *cursor, int64 seq);

extern int64 orion_cursor_window(const OrionCursor *cursor);
extern int64 orion_cursor_tag(const OrionCursor *cursor);
extern bool orion_cursor_is_open(const OrionCursor *cursor);
extern int64 orion_cursor_read_seq(const OrionCursor *cursor);	/* last row read */
extern bool orion_cursor_at_end(const OrionCursor *cursor); /* of the open window:
															 * all rows were read */

/*
 * While no window is open: passes over what is of no interest to the sink's pattern as it
 * has been until now, without reading it.  Does nothing when that is not certain.
 */
extern void orion_cursor_overtake(OrionCursor *cursor);

/* The pattern has changed: what was not passed yet must be read. */
extern void orion_cursor_must_read(OrionCursor *cursor);

/* Numbers up to here were delivered or passed over; late commits may be below. */
extern int64 orion_cursor_passed(const OrionCursor *cursor);

/* Should be stored soon: a window was closed, or from moved a good while ago. */
extern bool orion_cursor_is_dirty(const OrionCursor *cursor);

/* Numbers drawn for events since seq; some may have been rolled back. */
extern int64 orion_outbox_backlog(int64 seq);

/* Reads rows of orion_cursor_read. */
extern char *orion_event_type(HeapTuple row, TupleDesc desc);
extern int64 orion_event_seq(HeapTuple row, TupleDesc desc);
extern TimestampTz orion_event_occurred_at(HeapTuple row, TupleDesc desc);

/* Replayed events are marked in their metadata. */
extern OrionEvent *orion_event_from_row(HeapTuple row, TupleDesc desc, bool replayed);
extern Datum orion_event_jsonb(HeapTuple row, TupleDesc desc, bool replayed);

/* The text that events of one aggregate have in common, or NULL; palloc'ed. */
extern char *orion_event_key(HeapTuple row, TupleDesc desc);
extern char *orion_event_id(HeapTuple row, TupleDesc desc);

/* Which of the workers of a sink has a key, or an event that has none, by its id. */
extern int	orion_event_part(const char *key, int workers);
extern char *orion_event_payload(HeapTuple row, TupleDesc desc);	/* JSON, UTF-8 */

/*
 * Become the owner of Orion's tables, for callers that have no privilege on
 * them.  An error needs no restoring: the abort does it.
 */
typedef struct OrionUser
{
	Oid			user;
	int			context;
} OrionUser;

extern OrionUser orion_become_owner(void);
extern void orion_become_again(OrionUser user);

extern void orion_outbox_init(void);

#endif							/* ORION_OUTBOX_H */
