/*
 * raw_http.c
 *	  HTTP without Orion: answers every request with the same bytes, from memory.
 *
 * raw_http FILE	listens on a free port of 127.0.0.1, prints it, and answers each
 *					request without a body with what FILE holds, until it is killed or
 *					its parent ends
 *
 * One recv, one send and a search for the empty line: what any server pays.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS	64

static void
fail(const char *what)
{
	perror(what);
	exit(1);
}

static void
watch(int poller, int fd)
{
	struct epoll_event event = {.events = EPOLLIN,.data.fd = fd};

	if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0)
		fail("epoll_ctl");
}

static int
listen_anywhere(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET,.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t	len = sizeof(address);
	int			fd = socket(AF_INET, SOCK_STREAM, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *) &address, len) < 0 || listen(fd, 128) < 0 ||
		getsockname(fd, (struct sockaddr *) &address, &len) < 0)
		fail("listen");
	printf("%d\n", ntohs(address.sin_port));
	fflush(stdout);
	return fd;
}

static void
welcome(int poller, int listener)
{
	int			one = 1;
	int			fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);

	if (fd < 0)
		return;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	watch(poller, fd);
}

/* A request is small and comes in one piece: it is its sender's only one. */
static void
serve(int fd, const char *answer, size_t len)
{
	char		request[16384];
	ssize_t		n = recv(fd, request, sizeof(request), 0);

	if (n <= 0 || memmem(request, n, "\r\n\r\n", 4) == NULL ||
		send(fd, answer, len, MSG_NOSIGNAL) != (ssize_t) len)
		close(fd);
}

int
main(int argc, char **argv)
{
	struct epoll_event events[EVENTS];
	char		answer[65536];
	FILE	   *file = argc == 2 ? fopen(argv[1], "r") : NULL;
	size_t		len;
	int			listener;
	int			poller = epoll_create1(0);

	if (file == NULL || poller < 0)
		fail("raw_http FILE");
	len = fread(answer, 1, sizeof(answer), file);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	listener = listen_anywhere();
	watch(poller, listener);
	for (;;)
	{
		int			n = epoll_wait(poller, events, EVENTS, -1);

		for (int i = 0; i < n; i++)
		{
			if (events[i].data.fd == listener)
				welcome(poller, listener);
			else
				serve(events[i].data.fd, answer, len);
		}
	}
}
