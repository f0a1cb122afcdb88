/*
 * link.c
 *	  Connections; see link.h.
 */
#define _GNU_SOURCE				/* SOCK_NONBLOCK */

#include "link.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define KEPT_BUFFER (4 * 1024 * 1024)	/* an empty buffer grown past this is
										 * given back */

long
orion_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000L + ts.tv_nsec / 1000000L;
}

bool
orion_link_wait(int fd, short events, long deadline)
{
	for (;;)
	{
		struct pollfd poller = {.fd = fd,.events = events};
		long		left = deadline - orion_now_ms();
		int			n = left > 0 ? poll(&poller, 1, (int) left) : 0;

		if (n > 0)
			return true;
		if (n == 0 || errno != EINTR)
			return false;
	}
}

/* One address; 0 or an errno. */
static int
connect_to(const struct addrinfo *address, int *result, long deadline)
{
	int			fd = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, address->ai_protocol);
	int			error = 0;
	socklen_t	len = sizeof(error);

	if (fd < 0)
		return errno;
	if (connect(fd, address->ai_addr, address->ai_addrlen) < 0)
	{
		if (errno != EINPROGRESS)
			error = errno;
		else if (!orion_link_wait(fd, POLLOUT, deadline))
			error = ETIMEDOUT;
		else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
			error = errno;
	}
	if (error)
		close(fd);
	else
		*result = fd;
	return error;
}

static bool
connect_to_any(OrionSink *sink, OrionLink *link, const char *host, int port, long deadline)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM,.ai_flags = AI_ADDRCONFIG | AI_NUMERICSERV};
	struct addrinfo *addresses;
	char		service[12];
	int			error;
	int			failed = ENOENT;

	snprintf(service, sizeof(service), "%d", port);
	error = getaddrinfo(host, service, &hints, &addresses);
	if (error)
		return orion_sink_fail(sink, "%.200s:%d: %s", host, port, gai_strerror(error));
	for (struct addrinfo *address = addresses; address && failed; address = address->ai_next)
		failed = connect_to(address, &link->fd, deadline);
	freeaddrinfo(addresses);
	return failed == 0 || orion_sink_fail(sink, "%.200s:%d: %s", host, port, strerror(failed));
}

bool
orion_link_open(OrionSink *sink, OrionLink *link, const char *host, int port,
				const OrionTls *tls, long deadline)
{
	int			on = 1;

	link->fd = -1;
	if (!connect_to_any(sink, link, host, port, deadline))
		return false;
	setsockopt(link->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(link->fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	if (tls)
		link->ssl = orion_tls_connect(sink, tls, link->fd, host, deadline);
	if (tls == NULL || link->ssl)
		return true;
	orion_link_close(link);
	return false;
}

void
orion_link_close(OrionLink *link)
{
	if (link->ssl)
		SSL_free(link->ssl);
	link->ssl = NULL;
	if (link->fd >= 0)
		close(link->fd);
	link->fd = -1;
	orion_buffer_free(&link->out);
	link->wants_write = false;
}

/* What an SSL call means: 0 wait, -1 lost. */
static long
ssl_trouble(OrionSink *sink, OrionLink *link, int result)
{
	int			error = SSL_get_error(link->ssl, result);
	unsigned long code = ERR_peek_last_error();

	if (error == SSL_ERROR_WANT_WRITE)
		link->wants_write = true;
	if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE)
		return 0;
	if (error == SSL_ERROR_ZERO_RETURN || (error == SSL_ERROR_SYSCALL && code == 0))
		orion_sink_fail(sink, "connection lost: %s", errno && error == SSL_ERROR_SYSCALL ? strerror(errno) : "server closed the connection");
	else
		orion_sink_fail(sink, "connection lost: TLS: %s", code && ERR_reason_error_string(code) ? ERR_reason_error_string(code) : "no reason given");
	return -1;
}

/* Bytes written, 0: the socket is full, -1: lost. */
static long
link_write(OrionSink *sink, OrionLink *link)
{
	size_t		len = orion_buffer_len(&link->out);
	long		n;

	errno = 0;
	if (link->ssl)
	{
		ERR_clear_error();
		n = SSL_write(link->ssl, link->out.data + link->out.start, len > 1 << 30 ? 1 << 30 : (int) len);
		return n > 0 ? n : ssl_trouble(sink, link, (int) n);
	}
	n = send(link->fd, link->out.data + link->out.start, len, MSG_NOSIGNAL);
	if (n >= 0 || errno == EAGAIN || errno == EINTR)
		return n < 0 ? 0 : n;
	orion_sink_fail(sink, "connection lost: %s", strerror(errno));
	return -1;
}

bool
orion_link_flush(OrionSink *sink, OrionLink *link)
{
	if (link->out.failed)
		return orion_sink_fail(sink, "out of memory");
	link->wants_write = false;
	while (orion_buffer_len(&link->out) > 0)
	{
		long		n = link_write(sink, link);

		if (n < 0)
			return false;
		if (n == 0)
			break;
		orion_buffer_consume(&link->out, n);
	}
	link->wants_write |= orion_buffer_len(&link->out) > 0;
	if (orion_buffer_len(&link->out) == 0 && link->out.cap > KEPT_BUFFER)
		orion_buffer_free(&link->out);
	return true;
}

long
orion_link_read(OrionSink *sink, OrionLink *link, void *bytes, size_t size)
{
	long		n;

	errno = 0;
	if (link->ssl)
	{
		ERR_clear_error();
		n = SSL_read(link->ssl, bytes, size > 1 << 30 ? 1 << 30 : (int) size);
		return n > 0 ? n : ssl_trouble(sink, link, (int) n);
	}
	n = recv(link->fd, bytes, size, 0);
	if (n > 0)
		return n;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	orion_sink_fail(sink, "connection lost: %s", n == 0 ? "server closed the connection" : strerror(errno));
	return -1;
}
