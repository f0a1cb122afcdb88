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
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <gnutls/gnutls.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "gateway/gateway.h"

typedef ssize_t (*Receive) (int, void *, size_t, int);
typedef enum MHD_Result (*QueueResponse) (struct MHD_Connection *, unsigned int, struct MHD_Response *);

static QueueResponse queue_response;
static bool ours;				/* the response that is being queued */
static Receive receive;
static bool *busy;				/* by descriptor */
static int	nbusy;

bool
orion_gateway_library_init(void)
{
	queue_response = (QueueResponse) dlsym(RTLD_NEXT, "MHD_queue_response");
	return queue_response != NULL;
}

bool
orion_gateway_library_busy(int fd, bool is_busy)
{
	if (fd >= nbusy && is_busy)
	{
		int			n = fd < 512 ? 1024 : fd * 2;
		bool	   *more = realloc(busy, n * sizeof(bool));

		if (more == NULL)
			return false;
		memset(more + nbusy, 0, (n - nbusy) * sizeof(bool));
		busy = more;
		nbusy = n;
	}
	if (fd >= 0 && fd < nbusy)
		busy[fd] = is_busy;
	return true;
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
	if (fd >= 0 && fd < nbusy && busy[fd])
	{
		errno = EAGAIN;
		return -1;
	}
	if (receive == NULL)
		receive = (Receive) dlsym(RTLD_NEXT, "recv");
	return receive(fd, buf, len, flags);
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
		gnutls_record_send(tls->tls_session, answer, len);
	else
		(void) !send(fd, answer, len, MSG_DONTWAIT | MSG_NOSIGNAL);
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
