/*
 * handoff.c
 *	  Gives requests to executors and their answers back.
 *
 * An executor has one request at a time, because one queued behind a slow one
 * would wait for it while another executor is free.  The moment an answer is
 * there, the executor gets the next request, before the answer is even looked at.
 * An executor whose socket breaks is dropped at once and freed at the end of the
 * turn, for an event about it may still be in the list at hand.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "gateway/gateway.h"

#define MAX_ANSWER	(1024u * 1024 * 1024)	/* as PostgreSQL's longest value */
#define VALUE_SIZE	8192

static void give_next(Executor *executor);

static void
want_write(Executor *executor, bool want)
{
	struct epoll_event event = {.events = EPOLLIN | (want ? EPOLLOUT : 0),.data.ptr = executor};

	if (executor->want_write == want)
		return;
	executor->want_write = want;
	epoll_ctl(orion_gateway.epoll, EPOLL_CTL_MOD, executor->source.fd, &event);
}

static void
leave_idle(Executor *executor)
{
	Executor  **link = &orion_gateway.idle;

	if (!executor->idle)
		return;
	while (*link != executor)
		link = &(*link)->next_idle;
	*link = executor->next_idle;
	executor->idle = false;
}

static void
drop(Executor *executor)
{
	Request    *request = executor->request;

	if (executor->dead)
		return;
	executor->dead = true;
	executor->next_dead = orion_gateway.dead;
	orion_gateway.dead = executor;
	leave_idle(executor);
	if (executor->prev)
		executor->prev->next = executor->next;
	else
		orion_gateway.executors = executor->next;
	if (executor->next)
		executor->next->prev = executor->prev;
	if (executor->greeted)
		orion_gateway.nexecutors--;
	close(executor->source.fd);
	executor->request = NULL;
	if (request == NULL)
		return;
	request->executor = NULL;
	if (request->safe && !request->retried)
	{
		request->retried = true;
		request->sent = 0;
		request->state = REQUEST_QUEUED;
		orion_queue_push_front(&orion_gateway.queue, &request->item);
		if (orion_gateway.idle)
			give_next(orion_gateway.idle);
	}
	else
		orion_gateway_server_refuse(request, &orion_http_executor_lost);
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

/* Writes what is due; true unless the socket is broken. */
static bool
push(Executor *executor)
{
	Request    *request = executor->request;

	if (request && !send_request(executor, request))
		return false;
	if (!request && !orion_buffer_flush(&executor->out, executor->source.fd))
		return false;
	want_write(executor, (request && request->sent < request->frame.end) || orion_buffer_len(&executor->out) > 0);
	return true;
}

static void
give(Executor *executor, Request *request)
{
	leave_idle(executor);
	request->state = REQUEST_OUT;
	request->executor = executor;
	executor->request = request;
	executor->out_id = request->id;
	if (!push(executor))
		drop(executor);			/* which gives the request to another one */
}

/* Gives an executor without work the first request, or makes it idle. */
static void
give_next(Executor *executor)
{
	Request    *request = (Request *) orion_queue_pop(&orion_gateway.queue);

	if (request)
		give(executor, request);
	else if (!executor->idle)
	{
		executor->idle = true;
		executor->next_idle = orion_gateway.idle;
		orion_gateway.idle = executor;
	}
}

/* False when the queue is full. */
bool
orion_gateway_handoff_submit(Request *request)
{
	if (orion_gateway.idle)
	{
		request->item.deadline = orion_gateway.now + orion_gateway.config.queue_timeout;
		give(orion_gateway.idle, request);
		return true;
	}
	request->state = REQUEST_QUEUED;
	return orion_queue_push(&orion_gateway.queue, &request->item, orion_gateway.now + orion_gateway.config.queue_timeout);
}

/*
 * The client has gone.  What is left of a half-sent request must still be sent,
 * since frames cannot be broken off; CANCEL follows it.
 */
void
orion_gateway_handoff_cancel(Request *request)
{
	Executor   *executor = request->executor;

	orion_queue_remove(&orion_gateway.queue, &request->item);
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
	orion_frame_begin(&executor->out, ORION_FRAME_CANCEL, request->id);
	orion_frame_end(&executor->out);
	if (executor->out.failed || !push(executor))
		drop(executor);
}

/* 503 for those who have waited too long. */
void
orion_gateway_handoff_expire(void)
{
	Request    *request;

	while ((request = (Request *) orion_queue_pop_expired(&orion_gateway.queue, orion_gateway.now)) != NULL)
		orion_gateway_server_refuse(request, orion_gateway.nexecutors > 0 ? &orion_http_queue_timeout : &orion_http_not_ready);
}

static bool
add_headers(struct MHD_Response *response, OrionFrame *frame)
{
	char		name[ORION_HTTP_MAX_NAME + 1];
	char		value[VALUE_SIZE];
	const char *n,
			   *v;
	size_t		nlen,
				vlen;

	while (orion_frame_get(frame, &n, &nlen))
	{
		if (!orion_frame_get(frame, &v, &vlen))
			return false;
		if (orion_http_response_header(n, nlen, v, vlen, name, sizeof(name), value, sizeof(value)))
			MHD_add_response_header(response, name, value);
	}
	return orion_frame_done(frame);
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
	if (response && add_headers(response, frame))
	{
		orion_gateway_server_add_own_headers(response, request->request_id);
		orion_gateway_server_answer(request, status, response);
		return;
	}
	if (response)
		MHD_destroy_response(response);
	orion_gateway_server_refuse(request, &orion_http_bad_answer);
}

static bool
take_hello(Executor *executor, OrionFrame *frame)
{
	uint64_t	protocol;

	if (executor->greeted || !orion_frame_get_u64(frame, &protocol) ||
		protocol != ORION_PROTOCOL || frame->id != (uint64_t) executor->pid)
		return false;
	executor->greeted = true;
	orion_gateway.nexecutors++;
	give_next(executor);
	return true;
}

static bool
take_response(Executor *executor, OrionFrame *frame)
{
	Request    *request = executor->request;

	if (executor->out_id == 0 || frame->id != executor->out_id)
		return false;
	if (request && request->sent < request->frame.end)
		return false;			/* answered before it was asked */
	executor->out_id = 0;
	executor->request = NULL;
	if (request)
		request->executor = NULL;
	if (orion_buffer_len(&executor->out) == 0)
		give_next(executor);
	if (request)
		answer(request, frame);
	return true;
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
		else if (frame.type == ORION_FRAME_RESPONSE && executor->greeted)
			ok = take_response(executor, &frame);
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
	bool		ok = true;

	if (executor->dead)
		return;
	if (events & EPOLLOUT)
	{
		ok = push(executor);
		if (ok && executor->out_id == 0 && !executor->idle && executor->greeted && orion_buffer_len(&executor->out) == 0)
			give_next(executor);
	}
	if (ok && !executor->dead && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
	{
		long		n = orion_buffer_fill(&executor->in, executor->source.fd);

		ok = n == -1 || (n > 0 && take_frames(executor));
	}
	if (!ok)
		drop(executor);
	else if (executor->in.cap > 1024 * 1024 && orion_buffer_len(&executor->in) == 0)
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
			drop(executor);
	}
}
