/*
 * handoff.c
 *	  Gives requests to executors and their answers back.
 *
 * Requests lie in a ring of shared memory (ring.h) from which executors take one
 * when they are done with the last, so that none waits behind a slow one while an
 * executor is free.  What does not fit into a slot goes over the executor's
 * socket: it says WANT once it has claimed the request.  The gateway knows at every
 * moment who owns a slot.  An executor whose socket breaks is dropped at once,
 * which gives its requests to others or refuses them, and freed at the end of the
 * turn, for an event about it may still be in the list at hand.  A socket that takes nothing
 * any more is not broken yet: it may still hold answers, and is read to its end.
 * An executor that talks nonsense may still write to the ring: its lane and slots are not used again.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "gateway/gateway.h"
#include "gateway/stream.h"

#define MAX_ANSWER	(1024u * 1024 * 1024)	/* as PostgreSQL's longest value */
#define MAX_NONSENSE	16		/* executors given up before the program is */

/* What the gateway believes about a slot of the ring. */
typedef struct Slot
{
	uint64_t	id;				/* of its request; 0 = free */
	Request    *request;		/* NULL when its client has gone, or gets a
								 * stream */
	Stream	   *stream;			/* that its executor feeds, or NULL */
	bool		streams;		/* what comes is a stream, wanted or not */
} Slot;

static Slot slots[ORION_RING_SLOTS];
static int	free_slots[ORION_RING_SLOTS];
static int	nfree;
static bool lane_taken[ORION_RING_LANES];
static int	nonsense;

static void answer(Request *request, OrionFrame *frame);
static bool collect(Executor *executor);

/* --- slots --------------------------------------------------------------------- */

bool
orion_gateway_handoff_start(void)
{
	orion_gateway.ring = orion_ring_create(&orion_gateway.ring_memory);
	orion_gateway.bell = (Source)
	{
		SOURCE_BELL, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
	};
	for (int i = 0; i < ORION_RING_SLOTS; i++)
		free_slots[nfree++] = i;
	/* edge-triggered: it need not be read */
	return orion_gateway.ring && orion_gateway.bell.fd >= 0 && orion_gateway_watch(&orion_gateway.bell, EPOLLIN | EPOLLET);
}

static void
release(int slot)
{
	slots[slot] = (Slot)
	{
		0, NULL, NULL, false
	};
	free_slots[nfree++] = slot;
}

static int
owner(int slot)
{
	return orion_ring_owner(orion_gateway.ring, slot, slots[slot].id);
}

/* False when the ring is full, or nobody is there to empty it. */
static bool
place(Request *request)
{
	size_t		len = request->frame.end;
	int			slot;

	if (nfree == 0 || orion_gateway.nexecutors == 0)
		return false;
	slot = free_slots[nfree - 1];
	if (len <= ORION_RING_ROOM)
		memcpy(orion_ring_data(orion_gateway.ring, slot), request->frame.data, len);
	if (!orion_ring_push(orion_gateway.ring, slot, request->id, len <= ORION_RING_ROOM ? len : ORION_RING_ON_SOCKET))
		return false;
	nfree--;
	slots[slot] = (Slot)
	{
		request->id, request, NULL, false
	};
	request->slot = slot;
	request->sent = 0;
	request->state = REQUEST_OUT;
	return true;
}

static void
place_queued(void)
{
	Request    *request;

	while ((request = (Request *) orion_gateway.queue.first) != NULL && place(request))
		orion_queue_remove(&orion_gateway.queue, &request->item);
}

/* The request leaves its slot, whose executor is through with it. */
static Request *
take_out(int slot)
{
	Request    *request = slots[slot].request;

	release(slot);
	if (request == NULL)
		return NULL;
	request->slot = -1;
	if (request->executor)
		request->executor->request = NULL;
	request->executor = NULL;
	return request;
}

/* --- executors come and go --------------------------------------------------------- */

static void
watch(Executor *executor)
{
	struct epoll_event event = {
		.events = (executor->paused ? 0 : EPOLLIN) | (executor->want_write ? EPOLLOUT : 0),
		.data.ptr = executor
	};

	epoll_ctl(orion_gateway.epoll, EPOLL_CTL_MOD, executor->source.fd, &event);
}

static void
want_write(Executor *executor, bool want)
{
	if (executor->want_write == want)
		return;
	executor->want_write = want;
	watch(executor);
}

/* While it is paused, what an executor sends waits in its socket, and then the executor. */
void
orion_gateway_handoff_pause(Executor *executor, bool pause)
{
	if (executor->paused == pause || executor->dead)
		return;
	executor->paused = pause;
	watch(executor);
}

/* To another executor; it has waited long enough to be the first. */
static void
requeue(Request *request)
{
	request->state = REQUEST_QUEUED;
	orion_queue_push_front(&orion_gateway.queue, &request->item);
}

/* Its executor is lost: a safe request gets a second try, one that it did not have whole any number. */
static void
lose(Request *request)
{
	bool		begun = request->frame.end <= ORION_RING_ROOM || request->sent == request->frame.end;

	if (begun && (!request->safe || request->retried))
	{
		orion_gateway_server_refuse(request, &orion_http_executor_lost);
		return;
	}
	request->retried |= begun;
	requeue(request);
}

static void
lose_slots(Executor *executor, bool gone)
{
	for (int i = 0; i < ORION_RING_SLOTS; i++)
	{
		Request    *request;

		if (slots[i].id == 0 || owner(i) != executor->lane)
			continue;
		if (slots[i].stream)
			orion_gateway_stream_end(slots[i].stream, false);
		request = take_out(i);
		if (!gone)
			nfree--;			/* it may still write there */
		if (request)
			lose(request);
	}
}

/* gone: its end of the socket is closed, so it has let go of the ring. */
static void
drop(Executor *executor, bool gone)
{
	if (executor->dead)
		return;
	executor->dead = true;
	executor->next_dead = orion_gateway.dead;
	orion_gateway.dead = executor;
	if (executor->prev)
		executor->prev->next = executor->next;
	else
		orion_gateway.executors = executor->next;
	if (executor->next)
		executor->next->prev = executor->prev;
	close(executor->source.fd);
	if (!executor->greeted)
		return;
	orion_gateway.nexecutors--;
	if (gone)
		collect(executor);		/* what it answered before */
	else
	{
		orion_gateway_complain("executor %d is not understood", (int) executor->pid);
		if (++nonsense > MAX_NONSENSE)
			exit(1);
	}
	lane_taken[executor->lane] = !gone;
	lose_slots(executor, gone);
	executor->request = NULL;
	place_queued();
}

void
orion_gateway_handoff_bury(void)
{
	while (orion_gateway.dead)
	{
		Executor   *executor = orion_gateway.dead;

		orion_gateway.dead = executor->next_dead;
		orion_buffer_free(&executor->in);
		orion_buffer_free(&executor->out);
		free(executor);
	}
}

static bool
send_request(Executor *executor, Request *request)
{
	while (request->sent < request->frame.end)
	{
		ssize_t		n = send(executor->source.fd, request->frame.data + request->sent,
							 request->frame.end - request->sent, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n >= 0)
			request->sent += n;
		else if (errno == EAGAIN)
			break;
		else if (errno != EINTR)
			return false;
	}
	return true;
}

/* Writes what is due; false when that cannot be done though the other end is there. */
static bool
push(Executor *executor)
{
	Request    *request = executor->request;

	if (executor->deaf)
		return true;
	if (!orion_buffer_flush(&executor->out, executor->source.fd) ||
		(request && orion_buffer_len(&executor->out) == 0 && !send_request(executor, request)))
	{
		executor->deaf = errno == EPIPE || errno == ECONNRESET;
		want_write(executor, false);
		return executor->deaf;
	}
	want_write(executor, (request && request->sent < request->frame.end) || orion_buffer_len(&executor->out) > 0);
	return true;
}

/* Requests that an executor has. */
int
orion_gateway_handoff_busy(void)
{
	int			n = 0;

	for (int i = 0; i < ORION_RING_SLOTS; i++)
		n += slots[i].id != 0 && owner(i) >= 0;
	return n;
}

int
orion_gateway_handoff_waiting(void)
{
	return orion_gateway.queue.count + ORION_RING_SLOTS - nfree - orion_gateway_handoff_busy();
}

/*
 * Can no more requests be taken?  Those that an executor is free for do not count.
 */
bool
orion_gateway_handoff_is_full(void)
{
	int			waiting = orion_gateway.queue.count + ORION_RING_SLOTS - nfree;
	int			unoccupied = orion_gateway.nexecutors;

	if (waiting < orion_gateway.queue.max)
		return false;			/* the usual case, without a look */
	waiting = orion_gateway.queue.count;
	for (int i = 0; i < ORION_RING_SLOTS; i++)
	{
		if (slots[i].id == 0)
			continue;
		if (owner(i) < 0)
			waiting++;
		else
			unoccupied--;
	}
	return waiting >= orion_gateway.queue.max + (unoccupied > 0 ? unoccupied : 0);
}

void
orion_gateway_handoff_submit(Request *request)
{
	int64_t		deadline = orion_gateway.now + orion_gateway.config.queue_timeout;

	request->item.deadline = deadline;
	if (orion_gateway.queue.count == 0 && place(request))
		return;
	request->state = REQUEST_QUEUED;
	if (!orion_queue_push(&orion_gateway.queue, &request->item, deadline))
		orion_gateway_server_refuse(request, &orion_http_queue_full);
}

/*
 * The client has gone.  What is left of a half-sent request must still be sent,
 * since frames cannot be broken off.
 */
void
orion_gateway_handoff_cancel(Request *request)
{
	Executor   *executor = request->executor;
	int			slot = request->slot;

	if (request->state == REQUEST_PARKED)
	{
		orion_gateway_park_leave(request);
		return;
	}
	orion_queue_remove(&orion_gateway.queue, &request->item);
	if (slot < 0)
		return;
	request->slot = -1;
	if (orion_ring_withdraw(orion_gateway.ring, slot, request->id))
	{
		release(slot);
		return;
	}
	orion_ring_cancel(orion_gateway.ring, slot);
	slots[slot].request = NULL;
	if (executor == NULL)
		return;
	request->executor = NULL;
	executor->request = NULL;
	if (request->sent < request->frame.end &&
		orion_buffer_reserve(&executor->out, request->frame.end - request->sent))
	{
		memcpy(executor->out.data + executor->out.end, request->frame.data + request->sent,
			   request->frame.end - request->sent);
		executor->out.end += request->frame.end - request->sent;
	}
	if (executor->out.failed || !push(executor))
		drop(executor, false);
}

static void
refuse_late(Request *request)
{
	orion_gateway_server_refuse(request, orion_gateway.nexecutors > 0 ? &orion_http_queue_timeout : &orion_http_not_ready);
}

/* 503 for those who have waited too long. */
void
orion_gateway_handoff_expire(void)
{
	Request    *request;
	bool		in_vain = orion_gateway.leave_at && orion_gateway.nexecutors == 0;

	/* when the server stops, executors leave first and none comes back */
	while (in_vain && (request = (Request *) orion_queue_pop(&orion_gateway.queue)) != NULL)
		refuse_late(request);
	while ((request = (Request *) orion_queue_pop_expired(&orion_gateway.queue, orion_gateway.now)) != NULL)
		refuse_late(request);
	for (int i = 0; i < ORION_RING_SLOTS; i++)
	{
		request = slots[i].request;
		if (request && (in_vain || request->item.deadline <= orion_gateway.now) &&
			orion_ring_withdraw(orion_gateway.ring, i, request->id))
			refuse_late(take_out(i));
	}
}

static bool
tell(Executor *executor, OrionFrameType type, uint64_t id)
{
	orion_frame_begin(&executor->out, type, id);
	orion_frame_end(&executor->out);
	return !executor->out.failed && push(executor);
}

/*
 * At the end of a turn: wakes one executor when requests wait.  Should that not
 * be enough, the next turn, at most WAKE_MS away, wakes another.
 */
void
orion_gateway_handoff_wake(void)
{
	Executor   *next;
	bool		woken = false;

	place_queued();
	orion_gateway.wake_due = false;
	if (orion_ring_waiting(orion_gateway.ring) == 0)
		return;
	for (Executor *executor = orion_gateway.executors; executor; executor = next)
	{
		next = executor->next;
		if (!executor->greeted || executor->deaf || executor->request || orion_buffer_len(&executor->out) > 0 ||
			!orion_ring_is_asleep(orion_gateway.ring, executor->lane))
			continue;
		if (woken)
		{
			orion_gateway.wake_due = true;
			return;
		}
		woken = true;
		if (orion_ring_wake(orion_gateway.ring, executor->lane) && !tell(executor, ORION_FRAME_WAKE, 0))
			drop(executor, false);
	}
}

/* What the executor says about a request, for operators. */
static void
note(Request *request, const char *name, size_t name_len, const char *value, size_t len)
{
	bool		route = name_len == 6 && memcmp(name, ":route", 6) == 0;
	char	   *out = route ? request->route : request->role;
	size_t		size = route ? sizeof(request->route) : sizeof(request->role);

	if (len >= size)
		len = size - 1;
	memcpy(out, value, len);
	out[len] = '\0';
}

static bool
add_headers(Request *request, struct MHD_Response *response, OrionFrame *frame)
{
	const char *n,
			   *v;
	size_t		nlen,
				vlen;

	orion_gateway_head_begin(request->request_id);
	while (orion_frame_get(frame, &n, &nlen))
	{
		if (!orion_frame_get(frame, &v, &vlen))
			return false;
		if (nlen > 0 && n[0] == ':')
			note(request, n, nlen, v, vlen);
		else
			orion_gateway_head_add(n, nlen, v, vlen);
	}
	return orion_frame_done(frame) && orion_gateway_head_set(response);
}

static void
answer(Request *request, OrionFrame *frame)
{
	uint64_t	status;
	const char *body;
	size_t		len;
	struct MHD_Response *response;

	if (!orion_frame_get_u64(frame, &status) || !orion_frame_get(frame, &body, &len) ||
		status < 200 || status > 599)
	{
		orion_gateway_server_refuse(request, &orion_http_bad_answer);
		return;
	}
	if (!orion_gateway_server_has_room(request, len))
	{
		orion_gateway_server_refuse(request, &orion_http_no_answer_memory);
		return;
	}
	response = MHD_create_response_from_buffer(len, (void *) body, MHD_RESPMEM_MUST_COPY);
	request->answer_len = len;
	if (response && add_headers(request, response, frame))
	{
		orion_gateway_server_answer(request, status, response);
		return;
	}
	if (response)
		MHD_destroy_response(response);
	orion_gateway_server_refuse(request, &orion_http_bad_answer);
}

/* No answer: it is to come again. */
static void
put_aside(Request *request, OrionFrame *frame)
{
	uint64_t	timeline;
	uint64_t	lsn;
	uint64_t	ms;

	if (orion_frame_get_u64(frame, &timeline) && orion_frame_get_u64(frame, &lsn) &&
		orion_frame_get_u64(frame, &ms) && ms <= INT32_MAX)
		orion_gateway_park(request, timeline, lsn, ms);
	else
		orion_gateway_server_refuse(request, &orion_http_bad_answer);
}

/* --- what executors say ---------------------------------------------------------- */

static bool
give_ring(Executor *executor)
{
	OrionBuffer frame = {0};
	bool		ok;

	orion_frame_begin(&frame, ORION_FRAME_RING, executor->lane);
	orion_frame_end(&frame);
	ok = !frame.failed &&
		orion_ring_pass(executor->source.fd, frame.data, frame.end, orion_gateway.ring_memory, orion_gateway.bell.fd);
	orion_buffer_free(&frame);
	return ok;
}

static bool
take_hello(Executor *executor, OrionFrame *frame)
{
	uint64_t	protocol;
	int			lane = 0;

	if (executor->greeted || !orion_frame_get_u64(frame, &protocol) ||
		protocol != ORION_PROTOCOL || frame->id != (uint64_t) executor->pid)
		return false;
	while (lane < ORION_RING_LANES && lane_taken[lane])
		lane++;
	if (lane == ORION_RING_LANES)
		return false;
	executor->lane = lane;
	orion_ring_lane_init(orion_gateway.ring, lane);
	if (!give_ring(executor))
		return false;
	lane_taken[lane] = true;
	executor->greeted = true;
	orion_gateway.nexecutors++;
	place_queued();
	return true;
}

/* The slot of a request that the executor has claimed, or -1. */
static int
slot_of(const Executor *executor, uint64_t id)
{
	for (int i = 0; i < ORION_RING_SLOTS; i++)
	{
		if (slots[i].id == id && id != 0 && owner(i) == executor->lane)
			return i;
	}
	return -1;
}

static bool
take_want(Executor *executor, OrionFrame *frame)
{
	int			slot = slot_of(executor, frame->id);

	if (slot < 0 || executor->request)
		return false;
	if (slots[slot].request == NULL)
		return tell(executor, ORION_FRAME_CANCEL, frame->id);
	executor->request = slots[slot].request;
	executor->request->executor = executor;
	return push(executor);
}

/* It leaves and never got what it wanted, or never looked at it. */
static bool
take_give_back(Executor *executor, OrionFrame *frame)
{
	int			slot = slot_of(executor, frame->id);
	Request    *request = slot < 0 ? NULL : take_out(slot);

	if (request)
		requeue(request);
	return slot >= 0;
}

/* An answer over the socket, being too long for the ring. */
static bool
take_response(Executor *executor, OrionFrame *frame)
{
	Request    *request = executor->request;
	int			slot = slot_of(executor, frame->id);

	if (slot < 0 || (request && request->sent < request->frame.end))
		return false;			/* answered before it was asked */
	request = take_out(slot);
	if (request)
		answer(request, frame);
	return true;
}

/* Nobody reads it any more: the executor is told to stop, and what still comes is dropped. */
void
orion_gateway_handoff_stream_lost(int slot, Executor *executor)
{
	slots[slot].stream = NULL;
	orion_ring_cancel(orion_gateway.ring, slot);
	orion_gateway_handoff_pause(executor, false);
}

/* One executor at least is left for others, if there are several. */
static bool
may_stream(void)
{
	return orion_gateway.nexecutors < 2 || orion_gateway_stream_count() < orion_gateway.nexecutors - 1;
}

static void
begin_stream(Executor *executor, Request *request, int slot, OrionFrame *frame, uint64_t status)
{
	struct MHD_Response *response = NULL;

	if (may_stream())
		response = orion_gateway_stream_begin(request, executor, slot, &slots[slot].stream);
	if (response && add_headers(request, response, frame))
	{
		orion_gateway_server_answer(request, status, response);
		return;
	}
	if (response)
		MHD_destroy_response(response);
	else
		orion_gateway_handoff_stream_lost(slot, executor);
	orion_gateway_server_refuse(request, &orion_http_queue_full);
}

/* An answer begins whose length nobody knows. */
static bool
take_stream(Executor *executor, OrionFrame *frame)
{
	int			slot = slot_of(executor, frame->id);
	Request    *request = slot < 0 ? NULL : slots[slot].request;
	uint64_t	status;

	if (slot < 0 || slots[slot].streams || !orion_frame_get_u64(frame, &status) || status < 200 || status > 599)
		return false;
	slots[slot].streams = true;
	if (request == NULL)
		return true;
	if (request->executor)
		request->executor->request = NULL;
	request->executor = NULL;
	request->slot = -1;
	slots[slot].request = NULL;
	begin_stream(executor, request, slot, frame, status);
	return true;
}

static bool
take_chunk(Executor *executor, OrionFrame *frame)
{
	int			slot = slot_of(executor, frame->id);
	const char *bytes;
	size_t		len;

	if (slot < 0 || !slots[slot].streams || !orion_frame_get(frame, &bytes, &len))
		return false;
	if (slots[slot].stream && !orion_gateway_stream_add(slots[slot].stream, bytes, len))
		orion_gateway_stream_abandon(slots[slot].stream);
	return true;
}

static bool
take_stream_end(Executor *executor, OrionFrame *frame)
{
	int			slot = slot_of(executor, frame->id);
	uint64_t	complete;

	if (slot < 0 || !slots[slot].streams || !orion_frame_get_u64(frame, &complete))
		return false;
	if (slots[slot].stream)
		orion_gateway_stream_end(slots[slot].stream, complete == 1);
	orion_gateway_handoff_pause(executor, false);
	(void) take_out(slot);
	return tell(executor, ORION_FRAME_STREAM_END, frame->id);
}

/* False when the executor is not to be believed. */
static bool
collect(Executor *executor)
{
	static uint8_t bytes[ORION_RING_ROOM];
	OrionFrame	frame;
	uint32_t	len;
	int			slot;

	while ((slot = orion_ring_take_done(orion_gateway.ring, executor->lane, &executor->done_head)) >= 0)
	{
		Request    *request;

		if (slots[slot].id == 0 || owner(slot) != executor->lane ||
			!orion_ring_copy(orion_gateway.ring, slot, bytes, &len))
			return false;
		if (len > 0 && (orion_frame_parse(bytes, len, ORION_RING_ROOM, &frame) != len ||
						(frame.type != ORION_FRAME_RESPONSE && frame.type != ORION_FRAME_LATER) || frame.id != slots[slot].id))
			return false;
		request = take_out(slot);
		if (request && len > 0 && frame.type == ORION_FRAME_LATER)
			put_aside(request, &frame);
		else if (request && len > 0)
			answer(request, &frame);
		else if (request)
			orion_gateway_server_refuse(request, &orion_http_bad_answer);
	}
	return slot == -1;
}

bool
orion_gateway_handoff_has_answers(void)
{
	for (Executor *executor = orion_gateway.executors; executor; executor = executor->next)
	{
		if (executor->greeted && orion_ring_has_done(orion_gateway.ring, executor->lane, executor->done_head))
			return true;
	}
	return false;
}

void
orion_gateway_handoff_collect(void)
{
	Executor   *next;

	for (Executor *executor = orion_gateway.executors; executor; executor = next)
	{
		next = executor->next;
		if (executor->greeted && !collect(executor))
			drop(executor, false);
	}
}

/* It is another gateway, which hangs up when it has them. */
static bool
give_metrics(Executor *executor)
{
	OrionBuffer text = {0};

	orion_gateway_telemetry_add_own(&text);
	orion_frame_begin(&executor->out, ORION_FRAME_METRICS, 0);
	orion_frame_put(&executor->out, text.data, text.failed ? 0 : text.end);
	orion_frame_end(&executor->out);
	orion_buffer_free(&text);
	return !executor->out.failed && push(executor);
}

static bool
take_frames(Executor *executor)
{
	OrionFrame	frame;
	long		n;

	while ((n = orion_frame_parse(executor->in.data + executor->in.start, orion_buffer_len(&executor->in),
								  MAX_ANSWER, &frame)) > 0)
	{
		bool		ok = false;

		if (frame.type == ORION_FRAME_HELLO)
			ok = take_hello(executor, &frame);
		else if (frame.type == ORION_FRAME_ASK && !executor->greeted)
			ok = give_metrics(executor);
		else if (frame.type == ORION_FRAME_RESPONSE && executor->greeted)
			ok = take_response(executor, &frame);
		else if (frame.type == ORION_FRAME_WANT && executor->greeted)
			ok = take_want(executor, &frame);
		else if (frame.type == ORION_FRAME_GIVE_BACK && executor->greeted)
			ok = take_give_back(executor, &frame);
		else if (frame.type == ORION_FRAME_STREAM && executor->greeted)
			ok = take_stream(executor, &frame);
		else if (frame.type == ORION_FRAME_CHUNK && executor->greeted)
			ok = take_chunk(executor, &frame);
		else if (frame.type == ORION_FRAME_STREAM_END && executor->greeted)
			ok = take_stream_end(executor, &frame);
		if (!ok)
			return false;
		orion_buffer_consume(&executor->in, n);
		if (executor->dead)
			return true;
	}
	return n == 0;
}

void
orion_gateway_handoff_event(Executor *executor, uint32_t events)
{
	if (executor->dead)
		return;
	if ((events & EPOLLOUT) && !push(executor))
		drop(executor, false);
	if (!executor->dead && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
	{
		long		n = orion_buffer_fill(&executor->in, executor->source.fd);

		if (n == 0 || n == -2)
			drop(executor, true);

		/*
		 * What it says over the socket comes after what it has put into the
		 * ring: it wants the next long request when it has answered the last.
		 */
		else if (n > 0 && ((executor->greeted && !collect(executor)) || !take_frames(executor)))
			drop(executor, false);
	}
	if (executor->in.cap > 1024 * 1024 && orion_buffer_len(&executor->in) == 0)
		orion_buffer_free(&executor->in);	/* after a large answer */
}

/* Only processes of the server's own user may answer requests. */
static bool
is_ours(int fd, pid_t *pid)
{
	struct ucred cred;
	socklen_t	len = sizeof(cred);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0 || cred.uid != geteuid())
		return false;
	*pid = cred.pid;
	return true;
}

void
orion_gateway_handoff_accept(void)
{
	int			fd;

	while ((fd = accept4(orion_gateway.door.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
	{
		Executor   *executor = calloc(1, sizeof(*executor));

		if (executor == NULL || !is_ours(fd, &executor->pid))
		{
			free(executor);
			close(fd);
			continue;
		}
		executor->source = (Source)
		{
			SOURCE_EXECUTOR, fd
		};
		executor->next = orion_gateway.executors;
		if (executor->next)
			executor->next->prev = executor;
		orion_gateway.executors = executor;
		if (!orion_gateway_watch(&executor->source, EPOLLIN))
			drop(executor, true);
	}
}
