/*
 * daemon.c
 *	  The HTTP servers: one in the clear, one with TLS, and those that they replaced.
 *
 * Daemons of libmicrohttpd run from the gateway's own loop, each with an epoll of
 * its own that is a source of ours.  What the library takes only at the start of a
 * daemon (sizes, time limits, the certificate) is changed by starting another one
 * and retiring the old, so that no client is cut off.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/gateway.h"

#define ANSWER_ROOM		8192	/* the library's memory for a response's
								 * headers */
#define MAX_PEM			(1024 * 1024)

/*
 * From 1.0 the library itself refuses, at discipline 1, what server.c looks for
 * in the layout of its buffer, and lays it out differently.
 */
#if MHD_VERSION >= 0x01000000
#define STRICTNESS			MHD_OPTION_CLIENT_DISCIPLINE_LVL, 1
#else
#define STRICTNESS			MHD_OPTION_STRICT_FOR_CLIENT, 0 /* 1 hangs up without an
															 * answer */
#endif

/* A certificate's chain and its key, PEM; malloc'ed. */
typedef struct Pem
{
	char	   *cert;
	char	   *key;
} Pem;

/* --- certificates ---------------------------------------------------------------- */

static void
pem_free(Pem *pem)
{
	if (pem->key)
		explicit_bzero(pem->key, strlen(pem->key));
	free(pem->cert);
	free(pem->key);
	*pem = (Pem)
	{
		0
	};
}

/* The file's text, or NULL with a reason. A key must not be readable by all. */
static char *
read_pem(const char *path, bool secret, char *why, size_t size)
{
	int			fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	char	   *data = NULL;

	if (fd < 0 || fstat(fd, &st) < 0)
		snprintf(why, size, "could not read file \"%s\": %s", path, strerror(errno));
	else if (!S_ISREG(st.st_mode) || st.st_size > MAX_PEM)
		snprintf(why, size, "\"%s\" is not a file of PEM data", path);
	else if (secret && (st.st_mode & S_IRWXO))
		snprintf(why, size, "private key file \"%s\" is accessible to everybody", path);
	else if ((data = calloc(1, st.st_size + 1)) == NULL || read(fd, data, st.st_size) != st.st_size)
	{
		snprintf(why, size, "could not read file \"%s\"", path);
		free(data);
		data = NULL;
	}
	if (fd >= 0)
		close(fd);
	return data;
}

/* The library only says whether a daemon starts: look before, for the reason. */
static bool
pem_fits(const GatewayConfig *config, const Pem *pem, char *why, size_t size)
{
	gnutls_datum_t cert = {(unsigned char *) pem->cert, strlen(pem->cert)};
	gnutls_datum_t key = {(unsigned char *) pem->key, strlen(pem->key)};
	gnutls_certificate_credentials_t credentials;
	int			rc = gnutls_certificate_allocate_credentials(&credentials);

	if (rc == GNUTLS_E_SUCCESS)
	{
		rc = gnutls_certificate_set_x509_key_mem(credentials, &cert, &key, GNUTLS_X509_FMT_PEM);
		gnutls_certificate_free_credentials(credentials);
	}
	if (rc < 0)
		snprintf(why, size, "could not use certificate \"%s\" with key \"%s\": %s",
				 config->tls_cert_file, config->tls_key_file, gnutls_strerror(rc));
	return rc >= 0;
}

static bool
pem_load(const GatewayConfig *config, Pem *pem, char *why, size_t size)
{
	if (config->tls_cert_file[0] == '\0' || config->tls_key_file[0] == '\0')
	{
		snprintf(why, size, "orion.http_tls_port needs orion.http_tls_cert_file and orion.http_tls_key_file");
		return false;
	}
	pem->cert = read_pem(config->tls_cert_file, false, why, size);
	pem->key = pem->cert ? read_pem(config->tls_key_file, true, why, size) : NULL;
	return pem->key && pem_fits(config, pem, why, size);
}

/* --- daemons ---------------------------------------------------------------------- */

/* The library's messages may quote the client: only their constant part is kept. */
static void
library_log(void *cls, const char *format, va_list args)
{
	static int64_t last = -60000;

	if (orion_gateway.now - last < 10000)
		return;
	last = orion_gateway.now;
	orion_gateway_complain("http: %.*s", (int) strcspn(format, "%\n"), format);
}

static size_t
leave_as_is(void *cls, struct MHD_Connection *connection, char *str)
{
	return strlen(str);
}

/* pem: NULL for a server in the clear */
static struct MHD_Daemon *
start_daemon(const GatewayConfig *config, Server *server, const Pem *pem)
{
	unsigned int flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ERROR_LOG;
	struct MHD_OptionItem tls[] = {
		{MHD_OPTION_HTTPS_MEM_CERT, 0, pem ? pem->cert : NULL},
		{MHD_OPTION_HTTPS_MEM_KEY, 0, pem ? pem->key : NULL},
		{MHD_OPTION_HTTPS_PRIORITIES, 0, config->tls_old
			? "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:%SERVER_PRECEDENCE"
		: "NORMAL:-VERS-ALL:+VERS-TLS1.3:%SERVER_PRECEDENCE"},
		{MHD_OPTION_END, 0, NULL}
	};
	size_t		pool = orion_gateway_memory_shelve(config->max_header * 3 / 2 + ANSWER_ROOM, config->max_connections);

	return MHD_start_daemon(flags | (pem ? MHD_USE_TLS : 0),
							0, NULL, NULL, orion_gateway_server_handle, NULL,
							MHD_OPTION_EXTERNAL_LOGGER, library_log, NULL,
							MHD_OPTION_ARRAY, pem ? tls : tls + 3,
							MHD_OPTION_CONNECTION_MEMORY_LIMIT, pool,
							MHD_OPTION_CONNECTION_LIMIT, (unsigned int) config->max_connections,
							MHD_OPTION_CONNECTION_TIMEOUT, (unsigned int) (config->idle_timeout / 1000 + 1),
							MHD_OPTION_URI_LOG_CALLBACK, orion_gateway_server_target_seen, NULL,
							MHD_OPTION_UNESCAPE_CALLBACK, leave_as_is, NULL,
							MHD_OPTION_NOTIFY_COMPLETED, orion_gateway_server_completed, NULL,
							MHD_OPTION_NOTIFY_CONNECTION, orion_gateway_server_connection, server,
							STRICTNESS,
							MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1,
							MHD_OPTION_END);
}

static Server *
start_server(const GatewayConfig *config, const Pem *pem)
{
	Server	   *server = calloc(1, sizeof(*server));

	if (server == NULL)
		return NULL;
	server->tls = pem != NULL;
	server->daemon = start_daemon(config, server, pem);
	if (server->daemon)
	{
		server->source.kind = SOURCE_HTTP;
		server->source.fd = MHD_get_daemon_info(server->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
		if (orion_gateway_watch(&server->source, EPOLLIN))
			return server;
		MHD_stop_daemon(server->daemon);
	}
	free(server);
	return NULL;
}

/* Must the servers be started again for these settings? */
static bool
have_changed(const GatewayConfig *config)
{
	const GatewayConfig *old = &orion_gateway.config;

	return orion_gateway.servers == NULL || config->max_header != old->max_header ||
		config->max_connections != old->max_connections ||
		config->idle_timeout != old->idle_timeout ||
		(config->tls_port > 0) != (orion_gateway_servers_find(true) != NULL) ||
		config->tls_old != old->tls_old ||
		strcmp(config->tls_cert_file, old->tls_cert_file) != 0 ||
		strcmp(config->tls_key_file, old->tls_key_file) != 0 ||
		strcmp(config->tls_stamp, old->tls_stamp) != 0;
}

static void
put_first(Server *server)
{
	server->next = orion_gateway.servers;
	orion_gateway.servers = server;
}

bool
orion_gateway_servers_start(const GatewayConfig *config, char *why, size_t size)
{
	Pem			pem = {0};
	Server	   *plain = NULL;
	Server	   *tls = NULL;
	bool		ok;

	if (!have_changed(config))
		return true;
	ok = (config->tls_port == 0 || pem_load(config, &pem, why, size));
	if (ok)
	{
		snprintf(why, size, "could not start the HTTP server");
		plain = start_server(config, NULL);
		tls = plain && config->tls_port > 0 ? start_server(config, &pem) : NULL;
		ok = plain && (tls || config->tls_port == 0);
	}
	pem_free(&pem);
	for (Server *server = orion_gateway.servers; server && ok; server = server->next)
		server->retired = true;
	/* one that nobody will use goes the way of the retired */
	if (plain)
		put_first(plain);
	if (plain && !ok)
		plain->retired = true;
	if (tls)
		put_first(tls);
	orion_gateway.run_http = true;	/* a retired one may go at once */
	return ok;
}

Server *
orion_gateway_servers_find(bool tls)
{
	Server	   *server = orion_gateway.servers;

	while (server && (server->retired || server->tls != tls))
		server = server->next;
	return server;
}

void
orion_gateway_servers_run(void)
{
	Server	  **link = &orion_gateway.servers;

	orion_gateway.run_http = false;
	while (*link)
	{
		Server	   *server = *link;

		if (server->run)
		{
			server->run = false;
			orion_gateway_library_run(server->daemon);
		}
		if (server->retired && server->nclients == 0)
		{
			*link = server->next;
			MHD_stop_daemon(server->daemon);	/* closes its epoll */
			free(server);
		}
		else
			link = &server->next;
	}
}

int
orion_gateway_servers_timeout(int max)
{
	int			least = max;

	for (Server *server = orion_gateway.servers; server; server = server->next)
	{
		MHD_UNSIGNED_LONG_LONG left;

		if (MHD_get_timeout(server->daemon, &left) != MHD_YES || left >= (MHD_UNSIGNED_LONG_LONG) max)
			continue;
		server->run = orion_gateway.run_http = true;
		if ((int) left < least)
			least = (int) left;
	}
	return least;
}
