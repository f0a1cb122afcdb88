/*
 * executor.c
 *	  A process that serves HTTP requests, one at a time.
 *
 * Connected to the database as orion_authenticator and to each gateway through
 * its socket: it serves them in turn, so that a request waits at none of them while an executor is
 * free.  A gateway may be away at any time: the executor connects again.
 * Gateways are trusted for nothing but the bytes of requests.  These are copied
 * from the ring (ring.h) before they are looked at, or come over the socket when
 * they are long; answers take the same ways.
 *
 * While a request runs, a timer looks at its slot and the socket now and then: a
 * mark there or end of file means that nobody waits for the answer, and the
 * statement is cancelled like any other.  After a request everything that could outlive its
 * transaction is put back, so that no request sees another's session.  An ERROR
 * that gets out of the REST layer is answered with 500.
 *
 * PostgreSQL keeps some things for the life of a process, the shape of every row
 * that had no type of its own above all, and clients choose shapes.  So an executor
 * that has gathered much leaves between two requests, and the launcher starts another
 * one at once.
 */
#include "postgres.h"

#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/prepare.h"
#include "commands/sequence.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "core/compat.h"
#include "core/shmem.h"
#include "frame.h"
#include "gateway_worker.h"
#include "pool.h"
#include "rest/rest.h"
#include "ring.h"

#define RECONNECT_MS	100
#define PEEK_MS			250		/* how late a client's leaving may be noticed */
#define MAX_HEADERS		256		/* the gateway lets 100 through and adds a few */
#define HEADER_ROOM		(4 * 1024 * 1024)	/* a frame beyond its body;
											 * orion.http_max_header_size is
											 * at most 1 MB */
#define KEEP_BUFFER		(1024 * 1024)	/* larger buffers are freed after use */
#define KEEP_MEMORY		(32 * 1024) /* of a request: most need no more */
#define MAX_ROW_TYPES	2000	/* kept by PostgreSQL until the process ends;
								 * one of 1,600 columns takes 180 kB */
#define LOOK_AT_AGE		16		/* requests between two looks at what is kept */
#define LOOK_AT_MEMORY	64		/* of these between two at all memory */
#define LOOKS			20		/* for work, before it sleeps: some 10 us */
#define TOGETHER_US		5000	/* of requests one after the other; then
								 * something else may be to do */

PGDLLEXPORT void orion_executor_main(Datum arg);

/* A connection to a gateway. */
typedef struct Link
{
	int			fd;				/* -1: none */
	int			bell;			/* wakes the gateway */
	OrionRing  *ring;			/* NULL until the gateway has given it */
	int			lane;
	bool		readable;		/* the socket may have something */
	TimestampTz tried_at;		/* to connect */
	OrionBuffer in;
	OrionBuffer out;
} Link;

static Link links[ORION_MAX_GATEWAYS];
static int	nlinks;				/* up to the last that is connected */
static Link *at = links;		/* that is being served, or was the last */
static int	slot = -1;			/* claimed and not answered */
static uint64 slot_id;			/* the request in it */
static bool streaming;			/* the answer has begun, and goes in parts */
static bool wanted;				/* it comes over the socket */
static bool draining;			/* parts of its answer wait there for a slow
								 * client, and so would the next answer */
static MemoryContext request_context;
static TimeoutId peek_timeout;
static bool used_temp_tables;	/* a transaction since the last clean-up did */
static bool joins;				/* see OrionRequest */
static bool others_wait;
static bool old_age;			/* another executor is to take its place */

/* --- the socket ---------------------------------------------------------------- */

static void
disconnect(void)
{
	/*
	 * the gateway believes that a closed socket means: it has let go of the
	 * ring
	 */
	if (at->ring)
		orion_ring_detach(at->ring);
	at->ring = NULL;
	slot = -1;
	if (at->bell >= 0)
		close(at->bell);
	at->bell = -1;
	if (at->fd >= 0)
	{
		orion_pool_forget_fd();
		close(at->fd);
	}
	at->fd = -1;
	while (nlinks > 0 && links[nlinks - 1].fd < 0)
		nlinks--;
	wanted = draining = false;
	orion_buffer_free(&at->in);
	orion_buffer_free(&at->out);
}

/* Is the other end a process of the server's own user? */
static bool
peer_is_ours(int fd)
{
	struct ucred cred;
	socklen_t	len = sizeof(cred);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0 && cred.uid == geteuid();
}

static bool
connect_gateway(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int			fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return false;
	orion_gateway_path(at - links, ".sock", addr.sun_path, sizeof(addr.sun_path));
	if (connect(fd, (struct sockaddr *) &addr, sizeof(addr)) < 0 || !peer_is_ours(fd))
	{
		close(fd);
		return false;
	}
	at->fd = fd;
	nlinks = Max(nlinks, at - links + 1);
	at->readable = false;
	orion_frame_begin(&at->out, ORION_FRAME_HELLO, MyProcPid);
	orion_frame_put_u64(&at->out, ORION_PROTOCOL);
	orion_frame_end(&at->out);
	return orion_buffer_flush(&at->out, at->fd);
}

/* The gateway's first word; 0 when it is not there yet, -1 when it is nonsense. */
static int
receive_ring(void)
{
	uint8		bytes[ORION_FRAME_HEADER];
	OrionFrame	frame;
	int			memory;
	long		n = orion_ring_receive(at->fd, bytes, sizeof(bytes), &memory, &at->bell);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (memory >= 0 && at->bell >= 0 && orion_frame_parse(bytes, n, 0, &frame) > 0 &&
		frame.type == ORION_FRAME_RING && frame.id < ORION_RING_LANES)
	{
		at->lane = (int) frame.id;
		at->ring = orion_ring_attach(memory);
	}
	if (memory >= 0)
		close(memory);
	return at->ring ? 1 : -1;
}

static bool
socket_is_closed(void)
{
	struct pollfd pfd = {.fd = at->fd,.events = POLLRDHUP};

	return poll(&pfd, 1, 0) > 0;
}

/* Runs in a signal handler: looks whether the client is still there. */
static void
peek(void)
{
	int			save_errno = errno;

	if (at->fd >= 0 && at->ring && slot >= 0 &&
		(orion_ring_is_cancelled(at->ring, slot, slot_id, at->lane) || socket_is_closed()))
	{
		QueryCancelPending = true;
		InterruptPending = true;
		SetLatch(MyLatch);
	}
	errno = save_errno;
}

/* Gives the slot back with its answer; without one when nobody wants it. */
static void
finish_slot(const uint8 *data, uint32 len)
{
	uint64		one = 1;

	if (orion_ring_done(at->ring, at->lane, slot, data, len) && write(at->bell, &one, sizeof(one)) < 0)
		elog(DEBUG1, "could not ring for the gateway: %m");
	slot = -1;
}

/* Writes all of "out", waiting for the gateway where it must; false when it is gone. */
static bool
flush_out(void)
{
	if (at->out.failed || !orion_buffer_flush(&at->out, at->fd))
		return false;
	while (orion_buffer_len(&at->out) > 0)
	{
		uint32		seen = orion_pool_wait(at->fd, true, -1);

		CHECK_FOR_INTERRUPTS();
		if (seen & WL_SOCKET_READABLE)
		{
			long		n = orion_buffer_fill(&at->in, at->fd); /* a late WAKE */

			if (n == 0 || n == -2)
				return false;
		}
		if (!orion_buffer_flush(&at->out, at->fd))
			return false;
	}
	return true;
}

/* Writes the answer; false when the gateway is gone. */
static bool
send_answer(void)
{
	if (at->out.failed)
		return false;
	if (!streaming && orion_buffer_len(&at->out) <= ORION_RING_ROOM)
	{
		finish_slot(at->out.data + at->out.start, orion_buffer_len(&at->out));
		orion_buffer_consume(&at->out, orion_buffer_len(&at->out));
		return true;
	}
	slot = -1;					/* the gateway frees it when it has the answer */
	draining = streaming;
	streaming = false;
	orion_rest_settle();		/* the gateway may be slow */
	if (!flush_out())
		return false;
	if (at->out.cap > KEEP_BUFFER)
		orion_buffer_free(&at->out);
	return true;
}

/* --- answers in parts ------------------------------------------------------------- */

static void put_headers(const OrionResponse *response);

/* The REST layer's error then, which ends the request. */
static void
flush_stream(void)
{
	if (!flush_out())
		ereport(ERROR, (errcode(ERRCODE_CONNECTION_FAILURE), errmsg("the gateway is gone")));
}

static void
stream_begin(const OrionResponse *response)
{
	streaming = true;
	orion_frame_begin(&at->out, ORION_FRAME_STREAM, slot_id);
	orion_frame_put_u64(&at->out, response->status);
	put_headers(response);
	orion_frame_end(&at->out);
}

static void
stream_write(const char *bytes, size_t len)
{
	orion_frame_begin(&at->out, ORION_FRAME_CHUNK, slot_id);
	orion_frame_put(&at->out, bytes, len);
	orion_frame_end(&at->out);
	flush_stream();
}

static const OrionOutlet sink = {stream_begin, stream_write};

/* --- requests ------------------------------------------------------------------- */

/* A terminated copy, or NULL unless it is UTF-8 without NUL. */
static const char *
copy_text(const char *bytes, size_t len)
{
	if (memchr(bytes, '\0', len) != NULL ||
		pg_encoding_verifymbstr(PG_UTF8, bytes, (int) len) != (int) len)
		return NULL;
	return pnstrdup(bytes, len);
}

static bool
get_text(OrionFrame *frame, const char **text)
{
	const char *bytes;
	size_t		len;

	if (!orion_frame_get(frame, &bytes, &len))
		return false;
	*text = copy_text(bytes, len);
	return *text !=NULL;
}

/* False when the frame is not what a gateway of this version sends. */
static bool
parse_request(OrionFrame *frame, OrionRequest *request)
{
	OrionHeader *headers = palloc(MAX_HEADERS * sizeof(OrionHeader));
	int			n = 0;

	if (!get_text(frame, &request->method) || !get_text(frame, &request->path) ||
		!get_text(frame, &request->query) || !get_text(frame, &request->peer) ||
		!orion_frame_get(frame, &request->body, &request->body_len))
		return false;
	while (!orion_frame_done(frame))
	{
		if (n == MAX_HEADERS || !get_text(frame, &headers[n].name) || !get_text(frame, &headers[n].value))
			return false;
		n++;
	}
	request->headers = headers;
	request->nheaders = n;
	return true;
}

static void
answer_error(OrionResponse *response)
{
	response->status = 500;
	initStringInfo(&response->body);
	appendStringInfoString(&response->body,
						   "{\"code\":\"XX000\",\"message\":\"the request could not be served\",\"details\":null,"
						   "\"hint\":\"The server log has the reason.\"}");
	response->nheaders = 1;
	response->headers = palloc(sizeof(OrionHeader));
	response->headers[0] = (OrionHeader)
	{
		"content-type", "application/json; charset=utf-8"
	};
}

/* The REST layer lets no error out; should one come, the process goes on. */
static void
serve_guarded(const OrionRequest *request, OrionResponse *response)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		orion_rest_serve(request, response);
		if (IsTransactionOrTransactionBlock() && !orion_rest_is_open())
			elog(ERROR, "a request left its transaction open");
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		error_context_stack = NULL;
		EmitErrorReport();
		AbortOutOfAnyTransaction();
		MemoryContextSwitchTo(context);
		FlushErrorState();
		memset(response, 0, sizeof(*response));
		answer_error(response);
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
}

/* For metrics and the access log; the gateway keeps it to itself. */
static void
put_note(const char *name, const char *value)
{
	if (value == NULL)
		return;
	orion_frame_put_str(&at->out, name);
	orion_frame_put_str(&at->out, value);
}

static void
put_headers(const OrionResponse *response)
{
	put_note(":route", response->route);
	put_note(":role", response->role);
	for (int i = 0; i < response->nheaders; i++)
	{
		orion_frame_put_str(&at->out, response->headers[i].name);
		orion_frame_put_str(&at->out, response->headers[i].value);
	}
}

/* Of an answer that has gone in parts only whether it is complete. */
static void
put_answer(uint64 id, const OrionResponse *response)
{
	if (streaming)
	{
		orion_frame_begin(&at->out, ORION_FRAME_STREAM_END, id);
		orion_frame_put_u64(&at->out, response->streamed && !response->broken);
		orion_frame_end(&at->out);
		return;
	}
	if (response->wait_ms > 0)
	{
		orion_frame_begin(&at->out, ORION_FRAME_LATER, id);
		orion_frame_put_u64(&at->out, response->wait_timeline);
		orion_frame_put_u64(&at->out, response->wait_lsn);
		orion_frame_put_u64(&at->out, response->wait_ms);
		orion_frame_end(&at->out);
		return;
	}
	orion_frame_begin(&at->out, ORION_FRAME_RESPONSE, id);
	orion_frame_put_u64(&at->out, response->status);
	orion_frame_put(&at->out, response->body.data, response->body.data ? response->body.len : 0);
	put_headers(response);
	orion_frame_end(&at->out);
}

/* --- leaving nothing behind ------------------------------------------------------- */

static void
note_transaction(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT && (MyXactFlags & XACT_FLAGS_ACCESSEDTEMPNAMESPACE))
		used_temp_tables = true;
}

static void
drop_temp_tables(void)
{
	used_temp_tables = false;
	StartTransactionCommand();
	ResetTempTableNamespace();
	CommitTransactionCommand();
	used_temp_tables = false;	/* that transaction set it again */
}

/*
 * What DISCARD ALL does, without the cost where there is nothing to discard.
 * LISTEN cannot happen: PostgreSQL refuses it in background workers.
 */
static void
restore_session(void)
{
	if (OidIsValid(GetCurrentRoleId()))
		SetConfigOption("role", "none", PGC_USERSET, PGC_S_SESSION);
	if (GetSessionUserId() != GetAuthenticatedUserId())
		elog(ERROR, "a request changed the session user");
	ResetAllOptions();
	PortalHashTableDeleteAll();
	DropAllPreparedStatements();
	LockReleaseSession(USER_LOCKMETHOD);
	ResetSequenceCaches();
	if (used_temp_tables)
		drop_temp_tables();
}

/* --- growing old ------------------------------------------------------------------- */

/*
 * Are there so many types of rows without a name?  They are numbered from 0; asked for the
 * identifier of one that is not there, PostgreSQL makes up a new one each time.
 */
static bool
has_many_row_types(void)
{
	return assign_record_type_identifier(RECORDOID, MAX_ROW_TYPES) ==
		assign_record_type_identifier(RECORDOID, MAX_ROW_TYPES);
}

static bool
has_much_memory(void)
{
	static int	looks = 0;
	Size		limit = (Size) orion_executor_max_memory * 1024;

	if (MemoryContextMemAllocated(CacheMemoryContext, false) > limit)
		return true;
	return looks++ % LOOK_AT_MEMORY == 0 && MemoryContextMemAllocated(TopMemoryContext, true) > limit;
}

static bool
is_old(void)
{
	static int	requests = 0;
	const char *why;

	if (requests++ % LOOK_AT_AGE != 0)
		return false;
	why = has_many_row_types() ? "row types" : has_much_memory() ? "memory" : NULL;

	if (why)
		ereport(DEBUG1, (errmsg_internal("executor leaves: it has gathered much: %s", why)));
	return why != NULL;
}

/* False when the connection to the gateway is of no more use. */
static bool
serve(OrionFrame *frame)
{
	MemoryContext old = MemoryContextSwitchTo(request_context);
	OrionRequest request = {0};
	OrionResponse response = {0};
	bool		ok = false;

	streaming = false;
	if (parse_request(frame, &request))
	{
		request.sink = &sink;
		request.joins = joins;
		request.others_wait = others_wait;
		request.waited = (frame->flags & ORION_REQUEST_WAITED) != 0;
		QueryCancelPending = false; /* was meant for an earlier request */
		RESUME_CANCEL_INTERRUPTS();
		enable_timeout_every(peek_timeout, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), PEEK_MS), PEEK_MS);
		serve_guarded(&request, &response);
		disable_timeout(peek_timeout, false);
		HOLD_CANCEL_INTERRUPTS();
		put_answer(slot_id, &response);
		ok = send_answer();
		if (!response.pristine)
		{
			orion_rest_settle();
			restore_session();
		}
		if (!orion_rest_is_open())
			pgstat_report_stat(false);
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(request_context);
	old_age |= is_old();
	return ok;
}

/* The request in the claimed slot, or the wish for it; false when the gateway is lost. */
static bool
serve_slot(void)
{
	static uint8 bytes[ORION_RING_ROOM];
	OrionFrame	frame;
	uint32		len;

	if (orion_ring_copy(at->ring, slot, bytes, &len))
		return orion_frame_parse(bytes, len, ORION_RING_ROOM, &frame) == len &&
			frame.type == ORION_FRAME_REQUEST && frame.id == slot_id && serve(&frame);
	if (len != ORION_RING_ON_SOCKET)
		return false;
	wanted = true;
	orion_rest_settle();
	orion_frame_begin(&at->out, ORION_FRAME_WANT, slot_id);
	orion_frame_end(&at->out);
	return flush_out();			/* a long answer may fill the socket still */
}

/* Is a place in the queue before another?  They wrap around. */
static bool
is_before(uint32 place, uint32 other)
{
	return (int32) (place - other) < 0;
}

/*
 * May one more be claimed before anything else is looked at?  Not for long: other gateways
 * wait, settings were changed, or the process is to leave, and what it has claimed dies with it.
 */
static bool
may_go_on(int served, TimestampTz began)
{
	return served < ORION_RING_QUEUE && !old_age && !InterruptPending && !ConfigReloadPending &&
		GetCurrentStatementStartTimestamp() - began < TOGETHER_US;
}

/*
 * The claimed request, and then those that it leaves its transaction to: they had come when
 * the end of the queue was looked at, which was before it began.
 */
static bool
serve_together(uint32 place)
{
	uint32		end = place;
	TimestampTz began = 0;
	bool		ok;

	for (int served = 0;; served++)
	{
		joins = orion_rest_is_open() && is_before(place, end);
		if (!joins)
		{
			orion_rest_settle();
			end = orion_ring_end(at->ring);
		}
		others_wait = is_before(place + 1, end);
		ok = serve_slot();
		joins = others_wait = false;
		if (served == 0)
			began = GetCurrentStatementStartTimestamp();
		if (!ok || wanted || !orion_rest_is_open() || !may_go_on(served, began))
			break;
		slot = orion_ring_claim(at->ring, at->lane, &slot_id, &place);
		if (slot < 0)
			break;
	}
	if (orion_rest_is_open())
	{
		orion_rest_settle();
		pgstat_report_stat(false);
	}
	return ok;
}

/* Before the process leaves, however it does: what it waits for others may serve. */
static void
give_back(int code, Datum arg)
{
	if (!wanted)
		return;
	wanted = false;
	orion_frame_begin(&at->out, ORION_FRAME_GIVE_BACK, slot_id);
	orion_frame_end(&at->out);
	(void) orion_buffer_flush(&at->out, at->fd);
}

/* A frame that came over the socket. */
static bool
take_frame(OrionFrame *frame)
{
	if (frame->type == ORION_FRAME_WAKE)
		return true;
	if (draining && frame->type == ORION_FRAME_STREAM_END && frame->id == slot_id)
	{
		draining = false;
		return true;
	}
	if (!wanted || frame->id != slot_id)
		return false;
	wanted = false;
	if (frame->type == ORION_FRAME_REQUEST)
		return serve(frame);
	if (frame->type != ORION_FRAME_CANCEL)
		return false;
	finish_slot(NULL, 0);
	return true;
}

/* Serves what has arrived; 0 when nothing more is there, -1 when the gateway is lost. */
static int
work(void)
{
	size_t		max = (size_t) orion_http_max_body_size * 1024 + HEADER_ROOM;
	OrionFrame	frame;
	long		size;
	long		n;

	if (at->ring == NULL)
		return receive_ring();
	size = orion_frame_parse(at->in.data + at->in.start, orion_buffer_len(&at->in), max, &frame);
	if (size > 0)
	{
		bool		ok = take_frame(&frame);

		orion_buffer_consume(&at->in, size);
		if (at->in.cap > KEEP_BUFFER && orion_buffer_len(&at->in) == 0)
			orion_buffer_free(&at->in);
		return ok ? 1 : -1;
	}
	if (size < 0)
		return -1;
	if (!wanted && !draining)
	{
		uint32		place;

		slot = orion_ring_claim(at->ring, at->lane, &slot_id, &place);
		if (slot != -1)
			return slot >= 0 && serve_together(place) ? 1 : -1;
	}
	if (!at->readable)
		return 0;
	n = orion_buffer_fill(&at->in, at->fd);
	at->readable = n > 0 && wanted; /* a long request is read in one go */
	return n > 0 ? 1 : n == -1 ? 0 : -1;
}

/* Tells all gateways that this executor sleeps; false when one has something to do. */
static bool
fall_asleep(void)
{
	for (int i = 0; i < ORION_MAX_GATEWAYS; i++)
	{
		if (links[i].ring == NULL || orion_ring_sleep(links[i].ring, links[i].lane))
			continue;
		while (--i >= 0)
		{
			if (links[i].ring)
				orion_ring_wake_up(links[i].ring, links[i].lane);
		}
		return false;
	}
	return true;
}

/*
 * To sleep and be woken costs more than to look again a few times, and lets whoever makes
 * work for this process run first.
 */
static bool
something_comes(void)
{
	for (int looks = 0; looks < LOOKS; looks++)
	{
		for (int i = 0; i < ORION_MAX_GATEWAYS; i++)
		{
			if (links[i].ring && orion_ring_waiting(links[i].ring) > 0)
				return true;
		}
		sched_yield();
	}
	return false;
}

/* Nothing to do: wait for a gateway, or first for it to appear. */
static void
rest_a_while(void)
{
	int			fds[ORION_MAX_GATEWAYS];
	bool		readable[ORION_MAX_GATEWAYS];
	int			n = 0;
	long		timeout_ms = pgstat_report_stat(false) > 0 ? 1000 : -1; /* statistics wait to be
																		 * sent */

	for (int i = 0; i < ORION_MAX_GATEWAYS; i++)
	{
		fds[i] = links[i].fd;
		if (fds[i] >= 0)
			n = i + 1;
		else if (orion_gateway_is_on(i))
			timeout_ms = RECONNECT_MS;
	}
	if (wanted || draining)
		at->readable = (orion_pool_wait(at->fd, false, timeout_ms) & WL_SOCKET_READABLE) != 0;
	if (wanted || draining)
		return;
	if (something_comes() || !fall_asleep())
		return;
	pgstat_report_activity(STATE_IDLE, NULL);
	orion_pool_wait_many(fds, n, timeout_ms, readable);
	for (int i = 0; i < n; i++)
	{
		links[i].readable = readable[i];
		if (links[i].ring)
			orion_ring_wake_up(links[i].ring, links[i].lane);
	}
}

/* The gateway of "at" is there, or could be connected to just now. */
static bool
is_connected(void)
{
	TimestampTz now;

	if (at->fd >= 0)
		return true;
	if (!orion_gateway_is_on(at - links))
		return false;
	now = GetCurrentTimestamp();
	if (!TimestampDifferenceExceeds(at->tried_at, now, RECONNECT_MS))
		return false;
	at->tried_at = now;
	return connect_gateway();
}

/* One that others keep from resting must learn all the same which of the gateways have gone. */
static void
look_around(void)
{
	static TimestampTz looked_at;
	TimestampTz now = GetCurrentTimestamp();

	if (!TimestampDifferenceExceeds(looked_at, now, RECONNECT_MS))
		return;
	looked_at = now;
	for (int i = 0; i < ORION_MAX_GATEWAYS; i++)
		links[i].readable = true;
}

/* Serves one gateway after the other; false when there is nothing to do. */
static bool
take_turns(void)
{
	static int	turn;
	int			n = Max(orion_gateway_count, nlinks);

	if (n > 1)
		look_around();
	for (int i = 0; i < n; i++)
	{
		int			done = 0;

		if (!wanted && !draining)
			at = &links[(turn + i) % n];
		if (is_connected())
			done = work();
		if (done < 0)
			disconnect();
		if (done > 0)
		{
			turn = at - links + 1;
			return true;
		}
		if (wanted || draining)
			return false;
	}
	return false;
}

static void
run(void)
{
	for (int i = 0; i < ORION_MAX_GATEWAYS; i++)
		links[i].fd = links[i].bell = -1;
	request_context = AllocSetContextCreate(TopMemoryContext, "orion request", 0,
											KEEP_MEMORY, ALLOCSET_DEFAULT_MAXSIZE);
	peek_timeout = RegisterTimeout(USER_TIMEOUT, peek);
	RegisterXactCallback(note_transaction, NULL);
	before_shmem_exit(give_back, 0);
	HOLD_CANCEL_INTERRUPTS();	/* there is nothing to cancel between two
								 * requests */
	while (orion_pool_continue() && !old_age)
	{
		if (!take_turns())
			rest_a_while();
	}
	give_back(0, 0);
	for (at = links; at < links + ORION_MAX_GATEWAYS; at++)
		disconnect();
}

void
orion_executor_main(Datum arg)
{
	orion_pool_run(arg, "orion_authenticator", run);
}
