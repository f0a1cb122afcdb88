/*
 * listen.c
 *	  Opens the addresses clients connect to and the door of the executors.
 *
 * A port that is taken is an error for the operator: no other port is tried.  At
 * a change of settings the addresses that stay are not touched, so that nobody
 * who is connecting to them is turned away.
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
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "gateway/gateway.h"

#define BACKLOG 1024			/* the kernel cuts it to net.core.somaxconn */
#define ACCEPT_BATCH 64			/* connections taken before others get their
								 * turn */

#define START_MS 3000			/* for the other gateways, at the start */
#define STEP_MS 50

/* The listeners that the settings ask for, as far as they are known. */
typedef struct Plan
{
	const GatewayConfig *config;
	Listener	listeners[ORION_GATEWAY_MAX_LISTENERS];
	int			n;
	char	   *why;
	size_t		size;
} Plan;

/* Alone, or together with the other gateways of this server; see sharing.c. */
static int
bind_socket(const GatewayConfig *config, int fd, const Listener *listener)
{
	const struct sockaddr *addr = (const struct sockaddr *) &listener->addr;
	int			one = 1;
	bool		shared = config->processes > 1 && addr->sa_family != AF_UNIX;
	int			rc = bind(fd, addr, listener->len);

	if (rc < 0 && errno == EADDRINUSE && shared)
	{
		if (orion_gateway_sharing_with(config, listener) &&
			setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)) == 0)
			rc = bind(fd, addr, listener->len);
		else
			errno = EADDRINUSE;
	}
	if (rc == 0 && shared)
		rc = setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one));
	return rc;
}

static int
open_socket(const GatewayConfig *config, const Listener *listener)
{
	const struct sockaddr *addr = (const struct sockaddr *) &listener->addr;
	int			fd = socket(addr->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int			one = 1;

	if (fd < 0)
		return -1;
	if (addr->sa_family != AF_UNIX)
	{
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		/* inherited by accepted sockets: answers are written whole */
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	}
	if (addr->sa_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	if (bind_socket(config, fd, listener) < 0 || listen(fd, BACKLOG) < 0)
	{
		int			save = errno;

		close(fd);
		errno = save;
		return -1;
	}
	return fd;
}

static bool
is_same(const Listener *a, const Listener *b)
{
	return a->tls == b->tls && a->len == b->len && memcmp(&a->addr, &b->addr, a->len) == 0;
}

/* An open listener on this address, or -1. */
static int
find_open(const Listener *wanted)
{
	for (int i = 0; i < orion_gateway.nlisteners; i++)
	{
		if (is_same(&orion_gateway.listeners[i], wanted))
			return orion_gateway.listeners[i].source.fd;
	}
	return -1;
}

/* False with errno; 0 in it says that the plan is full. */
static bool
add(Plan *plan, bool tls, const struct sockaddr *addr, socklen_t len)
{
	Listener   *listener = &plan->listeners[plan->n];

	errno = 0;
	if (plan->n == ORION_GATEWAY_MAX_LISTENERS)
		return false;
	memset(listener, 0, sizeof(*listener));
	listener->tls = tls;
	listener->len = len;
	memcpy(&listener->addr, addr, len);
	listener->source.kind = SOURCE_LISTENER;
	listener->source.fd = find_open(listener);
	if (listener->source.fd < 0)
		listener->source.fd = open_socket(plan->config, listener);
	plan->n += listener->source.fd >= 0;
	return listener->source.fd >= 0;
}

/* optional: the address family may be missing on this machine */
static bool
listen_on(Plan *plan, const char *host, int port, bool tls, bool optional)
{
	struct addrinfo hints = {.ai_flags = AI_PASSIVE,.ai_socktype = SOCK_STREAM};
	struct addrinfo *list;
	char text[	16];
	bool		ok = true;
	int			rc;

	snprintf(text, sizeof(text), "%d", port);
	rc = getaddrinfo(host, text, &hints, &list);
	if (rc != 0)
	{
		snprintf(plan->why, plan->size, "could not resolve listen address \"%s\": %s", host, gai_strerror(rc));
		return optional;
	}
	for (struct addrinfo *ai = list; ai && ok; ai = ai->ai_next)
	{
		ok = add(plan, tls, ai->ai_addr, ai->ai_addrlen) ||
			(optional && (errno == EAFNOSUPPORT || errno == EADDRNOTAVAIL));
		if (!ok)
			snprintf(plan->why, plan->size, "could not listen on address \"%s\", port %d: %s",
					 host, port, errno ? strerror(errno) : "too many addresses");
	}
	freeaddrinfo(list);
	return ok;
}

static bool
listen_on_name(Plan *plan, const char *name, int port, bool tls)
{
	if (strcmp(name, "*") == 0)
		return listen_on(plan, "0.0.0.0", port, tls, false) && listen_on(plan, "::", port, tls, true);
	if (strcasecmp(name, "localhost") == 0)
		return listen_on(plan, "127.0.0.1", port, tls, false) && listen_on(plan, "::1", port, tls, true);
	return listen_on(plan, name, port, tls, false);
}

static bool
listen_on_port(Plan *plan, int port, bool tls)
{
	char		names[sizeof(plan->config->listen_addresses)];
	char	   *save = NULL;
	int			before = plan->n;

	if (port == 0)
		return true;
	strcpy(names, plan->config->listen_addresses);
	for (char *name = strtok_r(names, ", \t", &save); name; name = strtok_r(NULL, ", \t", &save))
	{
		if (!listen_on_name(plan, name, port, tls))
			return false;
	}
	if (plan->n == before && plan->config->unix_socket[0] == '\0')
	{
		snprintf(plan->why, plan->size, "no listen address is given");
		return false;
	}
	return true;
}

/*
 * A socket file that nobody listens on is what a killed gateway left; one that
 * answers, or another kind of file, is somebody's.
 */
static bool
clear_path(const struct sockaddr_un *addr)
{
	struct stat st;
	int			fd;
	bool		stale;

	if (lstat(addr->sun_path, &st) < 0)
		return errno == ENOENT;
	errno = EEXIST;
	if (!S_ISSOCK(st.st_mode))
		return false;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	stale = fd >= 0 && connect(fd, (const struct sockaddr *) addr, sizeof(*addr)) < 0 && errno == ECONNREFUSED;
	close(fd);
	errno = EADDRINUSE;
	return stale && unlink(addr->sun_path) == 0;
}

static bool
listen_on_unix_socket(Plan *plan)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	Listener	wanted = {.len = sizeof(addr)};

	if (plan->config->unix_socket[0] == '\0')
		return true;
	strcpy(addr.sun_path, plan->config->unix_socket);
	memcpy(&wanted.addr, &addr, sizeof(addr));
	if ((find_open(&wanted) >= 0 || clear_path(&addr)) &&
		add(plan, false, (struct sockaddr *) &addr, sizeof(addr)) &&
		chmod(addr.sun_path, plan->config->unix_socket_mode) == 0)
		return true;
	snprintf(plan->why, plan->size, "could not listen on Unix socket \"%s\": %s",
			 addr.sun_path, errno ? strerror(errno) : "too many addresses");
	return false;
}

static void
close_listener(Listener *listener)
{
	close(listener->source.fd);
	if (listener->addr.ss_family == AF_UNIX)
		unlink(((struct sockaddr_un *) &listener->addr)->sun_path);
}

/* Closes those of the one list that are not in the other. */
static void
close_others(Listener *list, int n, const Listener *kept, int nkept)
{
	for (int i = 0; i < n; i++)
	{
		int			k = 0;

		while (k < nkept && kept[k].source.fd != list[i].source.fd)
			k++;
		if (k == nkept)
			close_listener(&list[i]);
	}
}

/* Whether others may join. */
static void
allow_sharing(const GatewayConfig *config)
{
	int			shared = config->processes > 1;

	for (int i = 0; i < orion_gateway.nlisteners; i++)
	{
		if (orion_gateway.listeners[i].addr.ss_family != AF_UNIX)
			setsockopt(orion_gateway.listeners[i].source.fd, SOL_SOCKET, SO_REUSEPORT, &shared, sizeof(shared));
	}
}

static bool
listen_as_asked(const GatewayConfig *config, char *why, size_t size)
{
	Plan		plan = {.config = config,.why = why,.size = size};

	if (!listen_on_port(&plan, config->port, false) || !listen_on_port(&plan, config->tls_port, true) ||
		!listen_on_unix_socket(&plan))
	{
		close_others(plan.listeners, plan.n, orion_gateway.listeners, orion_gateway.nlisteners);
		return false;
	}
	orion_gateway_listen_watch(false);
	close_others(orion_gateway.listeners, orion_gateway.nlisteners, plan.listeners, plan.n);
	memcpy(orion_gateway.listeners, plan.listeners, sizeof(plan.listeners));
	orion_gateway.nlisteners = plan.n;
	orion_gateway_listen_watch(true);
	return true;
}

bool
orion_gateway_listen(const GatewayConfig *config, char *why, size_t size)
{
	bool		ok;

	for (int tries = START_MS / STEP_MS;; tries--)
	{
		int			turn = orion_gateway_sharing_begin(config);

		ok = listen_as_asked(config, why, size);
		if (ok)
			allow_sharing(config);
		orion_gateway_sharing_end(turn);
		/* the first one may have to hear yet that it is not alone any more */
		if (ok || config->process == 0 || orion_gateway.nlisteners > 0 || tries <= 0)
			return ok;
		usleep(STEP_MS * 1000);
	}
}

/* Nobody new is let in. */
void
orion_gateway_listen_end(void)
{
	orion_gateway_listen_watch(false);
	for (int i = 0; i < orion_gateway.nlisteners; i++)
		close_listener(&orion_gateway.listeners[i]);
	orion_gateway.nlisteners = 0;
	orion_gateway_sharing_end(-1);
}

void
orion_gateway_listen_watch(bool watch)
{
	if (orion_gateway.listening == watch)
		return;
	orion_gateway.listening = watch;
	for (int i = 0; i < orion_gateway.nlisteners; i++)
	{
		Source	   *source = &orion_gateway.listeners[i].source;

		if (watch)
			orion_gateway_watch(source, EPOLLIN);
		else
			epoll_ctl(orion_gateway.epoll, EPOLL_CTL_DEL, source->fd, NULL);
	}
}

/* At the limit, connections wait in the kernel's backlog. */
void
orion_gateway_listen_accept(Listener *listener)
{
	Server	   *server = orion_gateway_servers_find(listener->tls);

	for (int i = 0; i < ACCEPT_BATCH; i++)
	{
		struct sockaddr_storage addr = {0};
		socklen_t	len = sizeof(addr);
		int			fd;

		if (orion_gateway.nclients >= orion_gateway.config.max_connections)
		{
			orion_gateway_listen_watch(false);
			return;
		}
		fd = accept4(listener->source.fd, (struct sockaddr *) &addr, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd < 0)
			return;
		MHD_add_connection(server->daemon, fd, (struct sockaddr *) &addr, len); /* closes it on failure */
		server->run = orion_gateway.run_http = true;
	}
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

	orion_gateway_path(orion_gateway.config.process, ".sock", addr.sun_path, sizeof(addr.sun_path));
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
