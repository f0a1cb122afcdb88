/*
 * listen.c
 *	  Opens the addresses clients connect to and the door of the executors.
 *
 * A port that is taken is an error for the operator: no other port is tried.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "gateway/gateway.h"

#define BACKLOG 1024			/* the kernel cuts it to net.core.somaxconn */

static int
open_listener(const struct addrinfo *ai)
{
	int			fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int			one = 1;

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	/* inherited by accepted sockets: answers are written whole */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (ai->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0)
	{
		int			save = errno;

		close(fd);
		errno = save;
		return -1;
	}
	return fd;
}

/* optional: the address family may be missing on this machine */
static bool
listen_on(const char *host, bool optional, char *why, size_t size)
{
	struct addrinfo hints = {.ai_flags = AI_PASSIVE,.ai_socktype = SOCK_STREAM};
	struct addrinfo *list;
	char		port[16];
	int			rc;

	snprintf(port, sizeof(port), "%d", orion_gateway.config.port);
	rc = getaddrinfo(host, port, &hints, &list);
	if (rc != 0)
	{
		snprintf(why, size, "could not resolve listen address \"%s\": %s", host, gai_strerror(rc));
		return optional;
	}
	for (struct addrinfo *ai = list; ai; ai = ai->ai_next)
	{
		int			fd;

		if (orion_gateway.nlisteners == ORION_GATEWAY_MAX_LISTENERS)
		{
			snprintf(why, size, "too many listen addresses");
			freeaddrinfo(list);
			return false;
		}
		fd = open_listener(ai);
		if (fd < 0 && (!optional || (errno != EAFNOSUPPORT && errno != EADDRNOTAVAIL)))
		{
			snprintf(why, size, "could not listen on address \"%s\", port %d: %s",
					 host, orion_gateway.config.port, strerror(errno));
			freeaddrinfo(list);
			return false;
		}
		if (fd >= 0)
			orion_gateway.listeners[orion_gateway.nlisteners++] = (Source)
		{
			SOURCE_LISTENER, fd
		};
	}
	freeaddrinfo(list);
	return true;
}

static bool
listen_on_name(const char *name, char *why, size_t size)
{
	if (strcmp(name, "*") == 0)
		return listen_on("0.0.0.0", false, why, size) && listen_on("::", true, why, size);
	if (strcasecmp(name, "localhost") == 0)
		return listen_on("127.0.0.1", false, why, size) && listen_on("::1", true, why, size);
	return listen_on(name, false, why, size);
}

bool
orion_gateway_listen(char *why, size_t size)
{
	char		names[sizeof(orion_gateway.config.listen_addresses)];
	char	   *save = NULL;

	strcpy(names, orion_gateway.config.listen_addresses);
	for (char *name = strtok_r(names, ", \t", &save); name; name = strtok_r(NULL, ", \t", &save))
	{
		if (!listen_on_name(name, why, size))
			return false;
	}
	if (orion_gateway.nlisteners == 0)
		snprintf(why, size, "no listen address is given");
	return orion_gateway.nlisteners > 0;
}

/*
 * The directory was made by the worker, mode 0700; a socket left by a gateway
 * that was killed is in the way.
 */
bool
orion_gateway_open_door(char *why, size_t size)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int			fd;

	strcpy(addr.sun_path, ORION_GATEWAY_SOCKET);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	unlink(addr.sun_path);
	if (fd < 0 || bind(fd, (struct sockaddr *) &addr, sizeof(addr)) < 0 ||
		chmod(addr.sun_path, 0600) < 0 || listen(fd, 128) < 0)
	{
		snprintf(why, size, "could not open socket \"%s\": %s", addr.sun_path, strerror(errno));
		return false;
	}
	orion_gateway.door = (Source)
	{
		SOURCE_DOOR, fd
	};
	return true;
}
