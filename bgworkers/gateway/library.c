/*
 * library.c
 *	  Stands in for the answers that libmicrohttpd would give by itself, and for
 *	  its reading at the wrong time.
 *
 * What it cannot parse it answers with HTML of its own, for which it has no
 * setting; version 0.9.75 even sends the head twice when it refuses a
 * Content-Length.  Such an answer goes, as everybody's, to MHD_queue_response,
 * and finds the function below: the dynamic linker prefers a program's functions
 * to those of its libraries.  It writes an error like all others to the socket
 * and returns MHD_NO, upon which the library closes the connection.
 *
 * The socket is free for that: a request is read when the answers to those
 * before it were sent.
 *
 * It reads chunked bodies with more patience than RFC 9112 allows.  Bodies pass by here on their
 * way to it, and one that is not in the grammar gets no further (chunked.c).  It reads
 * ahead, so when a head is complete some of what follows has passed by already:
 * as much as was received of the connection and belongs to nothing so far.
 *
 * It also takes a connection that is suspended out of its epoll and puts it back
 * afterwards, two system calls for each request.  Here it stays in: what happens to it
 * meanwhile is kept from the library, and it is told anew once the connection is
 * back, as it would be had it been put in again.
 *
 * And it takes a short read for the last one.  Where the end of what a client sends came
 * together with the bytes before it, the epoll, which reports changes only, says nothing more; the
 * library would keep the connection until it has been idle for too long.  It is made
 * to look again.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <gnutls/gnutls.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "gateway/chunked.h"
#include "gateway/gateway.h"

#define IS_CONNECTION	(UINT64_C(1) << 63) /* in an event's data: not a
											 * pointer, but its descriptor */

#define DRAIN		16			/* blocks of what a refused client still sends */

typedef ssize_t (*Receive) (int, void *, size_t, int);
typedef ssize_t (*ReceiveRecord) (gnutls_session_t, void *, size_t);
typedef enum MHD_Result (*QueueResponse) (struct MHD_Connection *, unsigned int, struct MHD_Response *);

static QueueResponse queue_response;
static bool ours;				/* the response that is being queued */
static Receive receive;
static ReceiveRecord receive_record;

/* By descriptor. */
typedef struct Socket
{
	void	   *connection;		/* what the library calls it */
	bool		busy;			/* a request is underway */
	bool		kept;			/* in the epoll, unknown to the library */
	bool		parked;			/* and suspended */
	uint32_t	resumed;		/* in which run of the library; else 0 */
	bool		missed;			/* something came while it was parked, or was
								 * looked for in vain while it was busy */
	bool		told;			/* the library knows of something that came
								 * and has not looked for it yet */
	bool		drained;		/* the last look found less than there was
								 * room for */
	bool		ended;			/* the client will send no more */
	bool		again;			/* it has to look again, at the end at least */
	bool		tls;
	int			epoll;			/* the library's, and what it wants to hear of */
	uint32_t	events;
	uint64_t	received;		/* bytes, ever, without TLS's own */
	uint64_t	read;			/* of them, up to the end of the last head or
								 * body */
	Request    *chunked;		/* whose body is being read, or NULL */
	OrionChunks chunks;
} Socket;

static Socket *sockets;
static int	nsockets;
static int *look_again;			/* descriptors of sockets; some may be others'
								 * by now */
static int	nlook_again;
static int	look_again_room;
static bool parking;			/* the library suspends a connection */
static uint32_t run = 1;
static int	(*control) (int, int, int, struct epoll_event *);
static int	(*wait_for) (int, struct epoll_event *, int, int);

bool
orion_gateway_library_init(void)
{
	queue_response = (QueueResponse) dlsym(RTLD_NEXT, "MHD_queue_response");
	return queue_response != NULL;
}

/* Room for the descriptor; false when memory is out. */
static bool
have_socket(int fd)
{
	int			n = fd < 512 ? 1024 : fd * 2;
	Socket	   *more;

	if (fd < nsockets)
		return true;
	more = realloc(sockets, n * sizeof(Socket));
	if (more == NULL)
		return false;
	memset(more + nsockets, 0, (n - nsockets) * sizeof(Socket));
	sockets = more;
	nsockets = n;
	return true;
}

void
orion_gateway_library_suspend(struct MHD_Connection *connection, int fd)
{
	if (have_socket(fd))
		sockets[fd].busy = true;
	parking = true;
	MHD_suspend_connection(connection);
	parking = false;
	if (fd < nsockets && sockets[fd].kept)
	{
		sockets[fd].parked = true;
		sockets[fd].resumed = 0;
	}
}

/* The library resumes what was to be resumed when it runs the next time. */
void
orion_gateway_library_resume(struct MHD_Connection *connection, int fd)
{
	MHD_resume_connection(connection);
	if (fd < nsockets)
		sockets[fd].resumed = run;
}

void
orion_gateway_library_run(struct MHD_Daemon *daemon)
{
	if (++run == 0)
		run = 1;
	MHD_run(daemon);
}

void
orion_gateway_library_start(int fd, bool tls)
{
	if (!have_socket(fd))
		return;
	memset(&sockets[fd], 0, sizeof(Socket));
	sockets[fd].tls = tls;
}

void
orion_gateway_library_end_request(int fd)
{
	if (fd >= nsockets)
		return;
	sockets[fd].busy = false;
	sockets[fd].chunked = NULL;
}

static void
add_look_again(int fd)
{
	int		   *more = look_again;

	if (sockets[fd].again)
		return;
	if (nlook_again == look_again_room)
		more = realloc(look_again, (look_again_room += 64) * sizeof(int));
	if (more == NULL)
	{
		look_again_room -= 64;	/* it waits for its time limit */
		return;
	}
	look_again = more;
	look_again[nlook_again++] = fd;
	sockets[fd].again = true;
}

/* What was read last may have been all: under TLS that is not known. */
void
orion_gateway_library_ended(int fd)
{
	if (fd >= nsockets)
		return;
	sockets[fd].ended = true;
	if (sockets[fd].drained || sockets[fd].tls)
		add_look_again(fd);
}

/* Those that are gone since have found the end by themselves. */
void
orion_gateway_library_look_again(void)
{
	for (int i = 0; i < nlook_again; i++)
	{
		int			fd = look_again[i];
		Socket	   *socket = &sockets[fd];
		struct epoll_event event = {.events = socket->events,.data.u64 = IS_CONNECTION | fd};

		if (socket->again && socket->connection && !socket->kept)
			control(socket->epoll, EPOLL_CTL_MOD, fd, &event);
		socket->again = false;
	}
	nlook_again = 0;
}

static bool
check_chunks(Socket *socket, const char *bytes, size_t len)
{
	socket->read += orion_chunks_check(&socket->chunks, bytes, len);
	if (socket->chunks.state >= CHUNKS_DONE)
		socket->chunked = NULL;
	return socket->chunks.state != CHUNKS_BAD;
}

bool
orion_gateway_library_body(Request *request, size_t head_len, const OrionHttpHead *head, const char *rest)
{
	int			fd = request->client->source.fd;
	Socket	   *socket;

	if (fd >= nsockets)
		return false;
	socket = &sockets[fd];
	socket->read += head_len + head->length;
	if (!head->chunked)
		return true;
	if (socket->read > socket->received)
		return false;
	socket->chunked = request;
	memset(&socket->chunks, 0, sizeof(socket->chunks));
	return check_chunks(socket, rest, socket->received - socket->read);
}

/* An error like all others, to the socket itself; the connection is to be closed then. */
static void
write_error(int fd, gnutls_session_t tls, const OrionHttpError *error)
{
	char		body[1024];
	char		answer[2048];
	int			len = orion_http_error_body(error, NULL, body, sizeof(body));

	len = snprintf(answer, sizeof(answer),
				   "HTTP/1.1 %d %s\r\nContent-Type: application/json; charset=utf-8\r\n"
				   "X-Content-Type-Options: nosniff\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s",
				   error->status, MHD_get_reason_phrase_for(error->status), len, body);

	/*
	 * it fits into the empty buffer of the socket; if not, the client is told
	 * less
	 */
	if (tls)
		gnutls_record_send(tls, answer, len);
	else
		(void) !send(fd, answer, len, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/*
 * A look at what the library gets of a connection.  The end of the connection, for it, when that
 * is no chunked body; nothing of an answer has been sent then.  What the client has sent
 * besides is read, for the kernel would take the answer back otherwise.
 */
static ssize_t
pass_on(int fd, gnutls_session_t tls, const char *bytes, size_t room, ssize_t n)
{
	Socket	   *socket = &sockets[fd];
	Request    *request = socket->chunked;
	char		block[4096];

	if (n > 0)
		socket->received += n;
	if (n > 0 && (size_t) n < room && socket->ended)
		add_look_again(fd);
	if (n <= 0 || request == NULL || check_chunks(socket, bytes, n))
		return n;
	request->status = orion_http_bad_request.status;
	write_error(fd, tls, &orion_http_bad_request);
	for (int i = 0; i < DRAIN && receive(fd, block, sizeof(block), MSG_DONTWAIT) > 0;)
		i++;
	return 0;
}

/* Stands in for GnuTLS's, as recv below. */
ssize_t
gnutls_record_recv(gnutls_session_t session, void *buf, size_t len)
{
	int			fd = gnutls_transport_get_int(session);
	ssize_t		n;

	if (receive_record == NULL)
		receive_record = (ReceiveRecord) dlsym(RTLD_NEXT, "gnutls_record_recv");
	n = receive_record(session, buf, len);
	if (n > 0)
		orion_gateway_memory_received(buf, n);
	return fd >= 0 && fd < nsockets && sockets[fd].tls ? pass_on(fd, session, buf, len, n) : n;
}

/*
 * Stands in for the C library's, for libmicrohttpd and GnuTLS: while a request of a
 * connection is underway there is nothing to read.  libmicrohttpd looks nevertheless
 * when a connection is resumed; and where the client has closed its sending side it
 * finds the end and drops the connection with the answer.
 */
ssize_t
recv(int fd, void *buf, size_t len, int flags)
{
	ssize_t		n;

	if (fd >= 0 && fd < nsockets && sockets[fd].busy)
	{
		sockets[fd].missed |= sockets[fd].told;
		sockets[fd].told = false;
		errno = EAGAIN;
		return -1;
	}
	if (receive == NULL)
		receive = (Receive) dlsym(RTLD_NEXT, "recv");
	n = receive(fd, buf, len, flags);
	if (n > 0)
		orion_gateway_memory_received(buf, n);
	if (fd < 0 || fd >= nsockets)
		return n;
	sockets[fd].told = false;
	sockets[fd].drained = n > 0 && (size_t) n < len;
	return sockets[fd].tls ? n : pass_on(fd, NULL, buf, len, n);
}

/* A connection comes back: what may have happened is reported again. */
static int
put_back(int epfd, int fd, struct epoll_event *event)
{
	Socket	   *socket = &sockets[fd];
	bool		missed = socket->missed || !socket->drained || socket->ended;

	socket->kept = socket->parked = socket->missed = false;
	return missed ? control(epfd, EPOLL_CTL_MOD, fd, event) : 0;
}

int
epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
	struct epoll_event ours;

	if (control == NULL)
		control = (int (*) (int, int, int, struct epoll_event *)) dlsym(RTLD_NEXT, "epoll_ctl");
	if (epfd == orion_gateway.epoll || fd < 0 || fd >= nsockets)
		return control(epfd, op, fd, event);
	if (op == EPOLL_CTL_DEL && parking && sockets[fd].connection)
	{
		sockets[fd].kept = true;
		sockets[fd].missed = false;
		return 0;
	}
	if (op != EPOLL_CTL_ADD || !(event->events & EPOLLOUT))
		return control(epfd, op, fd, event);
	ours = *event;
	sockets[fd].connection = event->data.ptr;
	sockets[fd].epoll = epfd;
	sockets[fd].events = event->events;
	ours.data.u64 = IS_CONNECTION | fd;
	return sockets[fd].kept ? put_back(epfd, fd, &ours) : control(epfd, op, fd, &ours);
}

/* The library waits for nobody: it is asked to look what has happened. */
int
epoll_wait(int epfd, struct epoll_event *events, int max, int timeout)
{
	int			n;
	int			kept = 0;

	if (wait_for == NULL)
		wait_for = (int (*) (int, struct epoll_event *, int, int)) dlsym(RTLD_NEXT, "epoll_wait");
	n = wait_for(epfd, events, max, timeout);
	if (epfd == orion_gateway.epoll)
		return n;
	for (int i = 0; i < n; i++)
	{
		struct epoll_event event = events[i];

		if (event.data.u64 & IS_CONNECTION)
		{
			Socket	   *socket = &sockets[event.data.u64 & ~IS_CONNECTION];
			bool		has_come = (event.events & ~EPOLLOUT) != 0;

			if (socket->parked && (socket->resumed == 0 || socket->resumed == run))
			{
				socket->missed |= has_come;
				continue;
			}
			socket->parked = false;
			socket->told |= has_come;
			event.data.ptr = socket->connection;
		}
		events[kept++] = event;
	}
	return n < 0 ? n : kept;
}

enum MHD_Result
orion_gateway_library_queue(struct MHD_Connection *connection, unsigned int status, struct MHD_Response *response)
{
	enum MHD_Result result;

	ours = true;
	result = MHD_queue_response(connection, status, response);
	ours = false;
	return result;
}

/* Answers a request that the library is about to drop with its connection. */
static void
refuse(struct MHD_Connection *connection, const OrionHttpError *error)
{
	int			fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
	const union MHD_ConnectionInfo *tls = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_GNUTLS_SESSION);

	write_error(fd, tls ? tls->tls_session : NULL, error);
}

enum MHD_Result
MHD_queue_response(struct MHD_Connection *connection, unsigned int status, struct MHD_Response *response)
{
	static const OrionHttpError *const known[] = {
		&orion_http_bad_request, &orion_http_body_too_large, &orion_http_target_too_long,
		&orion_http_headers_too_large, &orion_http_bad_version
	};
	char		code[16];
	OrionHttpError error = {status, code, "the request cannot be read", NULL};

	if (ours)
		return queue_response(connection, status, response);
	snprintf(code, sizeof(code), "ORH%u", status);
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
	{
		if (known[i]->status == (int) status)
			error = *known[i];
	}
	refuse(connection, &error);
	return MHD_NO;
}
