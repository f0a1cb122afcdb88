// uses: -lcurl
/*
 * raw_webhook.c
 *	  What the figure "drain" compares webhooks with.
 *
 * raw_webhook PORT serve						a receiver: answers each POST with 204, in one thread
 * raw_webhook PORT reset						makes it count from 0
 * raw_webhook PORT await COUNT SECONDS			waits until it has had COUNT; prints the time of day
 *												at which it had, in seconds
 * raw_webhook PORT copy CONCURRENCY COUNT		posts the last request it had, with its headers, as
 *												often; prints requests a second
 *
 * copy is what a sender at its best does: libcurl's multi interface, connections kept open, so
 * many requests under way at any time, and nothing to read, sign or store.
 */
#define _GNU_SOURCE				/* memmem */

#include <arpa/inet.h>
#include <curl/curl.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#define MAX_FD		1024
#define MAX_REQUEST 65536

typedef struct Client
{
	size_t		len;
	char		in[MAX_REQUEST];
} Client;

static Client *clients[MAX_FD];
static long count = 0;
static double last_at = 0;
static char sample[MAX_REQUEST];
static size_t sample_len = 0;

static void
die(const char *what)
{
	fprintf(stderr, "raw_webhook: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double
now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static struct sockaddr_in
address(int port)
{
	struct sockaddr_in a = {.sin_family = AF_INET,.sin_port = htons(port),.sin_addr = {htonl(INADDR_LOOPBACK)}};

	return a;
}

/* ---- the receiver ---- */

static bool
put(int fd, const char *bytes, size_t len)
{
	return send(fd, bytes, len, MSG_NOSIGNAL) == (ssize_t) len;
}

/* One whole request of len bytes. */
static bool
answer(int fd, const char *request, size_t len)
{
	static const char taken[] = "HTTP/1.1 204 No Content\r\n\r\n";
	char		out[MAX_REQUEST + 200];
	int			n;

	if (strncmp(request, "POST ", 5) == 0)
	{
		count++;
		last_at = now();
		memcpy(sample, request, len);
		sample_len = len;
		return put(fd, taken, sizeof(taken) - 1);
	}
	if (strncmp(request, "GET /reset", 10) == 0)
		count = 0;
	if (strncmp(request, "GET /sample", 11) == 0)
	{
		n = snprintf(out, sizeof(out), "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", sample_len);
		memcpy(out + n, sample, sample_len);
		return put(fd, out, n + sample_len);
	}
	n = snprintf(out, sizeof(out), "HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n%15ld %24.6f", count, last_at);
	return put(fd, out, n);
}

/* The length of the request at the beginning of the bytes; 0: there is more to come. */
static size_t
request_len(const char *bytes, size_t len)
{
	const char *end = memmem(bytes, len, "\r\n\r\n", 4);
	size_t		body = 0;

	if (end == NULL)
		return 0;
	for (const char *line = bytes; line < end; line = (const char *) memchr(line, '\n', len) + 1)
	{
		if (strncasecmp(line, "content-length:", 15) == 0)
			body = strtoul(line + 15, NULL, 10);
	}
	return (size_t) (end + 4 - bytes) + body <= len ? (size_t) (end + 4 - bytes) + body : 0;
}

static bool
serve_client(int fd)
{
	Client	   *client = clients[fd];
	ssize_t		n = recv(fd, client->in + client->len, sizeof(client->in) - client->len, 0);
	size_t		size;

	if (n <= 0)
		return false;
	client->len += n;
	while ((size = request_len(client->in, client->len)) > 0)
	{
		if (!answer(fd, client->in, size))
			return false;
		client->len -= size;
		memmove(client->in, client->in + size, client->len);
	}
	return client->len < sizeof(client->in);
}

static void
take_client(int listener, int poll)
{
	int			fd = accept(listener, NULL, NULL);
	int			one = 1;
	struct epoll_event event = {.events = EPOLLIN,.data = {.fd = fd}};

	if (fd < 0 || fd >= MAX_FD)
		die("accept");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	clients[fd] = calloc(1, sizeof(Client));
	if (clients[fd] == NULL || epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event) < 0)
		die("client");
}

static void
serve(int port)
{
	int			listener = socket(AF_INET, SOCK_STREAM, 0);
	int			poll = epoll_create1(0);
	int			one = 1;
	struct sockaddr_in a = address(port);
	struct epoll_event event = {.events = EPOLLIN,.data = {.fd = listener}};
	struct epoll_event events[64];

	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (struct sockaddr *) &a, sizeof(a)) < 0 || listen(listener, 512) < 0)
		die("listen");
	epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
	for (;;)
	{
		int			n = epoll_wait(poll, events, 64, -1);

		for (int i = 0; i < n; i++)
		{
			int			fd = events[i].data.fd;

			if (fd == listener)
				take_client(listener, poll);
			else if (!serve_client(fd))
			{
				close(fd);
				free(clients[fd]);
			}
		}
	}
}

/* ---- asking it ---- */

/* The body of its answer, terminated. */
static size_t
ask(int port, const char *path, char *out, size_t size)
{
	int			fd = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in a = address(port);
	char		request[100];
	size_t		len = 0;
	char	   *body;

	if (connect(fd, (struct sockaddr *) &a, sizeof(a)) < 0)
		die("connect");
	put(fd, request, snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\n\r\n", path));
	do
	{
		ssize_t		n = recv(fd, out + len, size - 1 - len, 0);

		if (n <= 0)
			die("no answer");
		len += n;
	} while (request_len(out, len) == 0);
	close(fd);
	body = (char *) memmem(out, len, "\r\n\r\n", 4) + 4;
	len -= body - out;
	memmove(out, body, len);
	out[len] = '\0';
	return len;
}

static void
await(int port, long wanted, int seconds)
{
	double		end = now() + seconds;
	char		out[200];

	for (;;)
	{
		long		had;
		double		at;

		ask(port, "/count", out, sizeof(out));
		if (sscanf(out, "%ld %lf", &had, &at) != 2)
			die("a strange answer");
		if (had > wanted || now() > end)
		{
			fprintf(stderr, "raw_webhook: %ld requests, not %ld\n", had, wanted);
			exit(1);
		}
		if (had == wanted)
		{
			printf("%.6f\n", at);
			return;
		}
		usleep(5000);
	}
}

/* ---- posting ---- */

static size_t
drop(char *bytes, size_t size, size_t n, void *opaque)
{
	(void) bytes;
	(void) opaque;
	return size * n;
}

/* The headers of the sample that libcurl does not make itself. */
static struct curl_slist *
headers_of(char *request, char *end)
{
	struct curl_slist *list = curl_slist_append(NULL, "Expect:");
	char	   *line = strstr(request, "\r\n") + 2;

	*end = '\0';
	while (line < end)
	{
		char	   *next = strstr(line, "\r\n");

		if (next)
			*next = '\0';
		if (strncasecmp(line, "host:", 5) != 0 && strncasecmp(line, "content-length:", 15) != 0)
			list = curl_slist_append(list, line);
		line = next ? next + 2 : end;
	}
	return list;
}

static CURL *
new_request(int port, struct curl_slist *headers, const char *body, size_t len)
{
	CURL	   *easy = curl_easy_init();
	char		url[64];

	snprintf(url, sizeof(url), "http://127.0.0.1:%d/bench", port);
	curl_easy_setopt(easy, CURLOPT_URL, url);
	curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body);
	curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, (long) len);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, drop);
	return easy;
}

static void
copy(int port, int concurrency, long wanted)
{
	static char request[MAX_REQUEST];
	size_t		len = ask(port, "/sample", request, sizeof(request));
	char	   *end = memmem(request, len, "\r\n\r\n", 4);
	struct curl_slist *headers;
	CURLM	   *multi = curl_multi_init();
	long		begun = 0;
	long		done = 0;
	double		begin;

	if (end == NULL)
		die("no sample");
	headers = headers_of(request, end);
	curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long) concurrency);
	begin = now();
	while (begun < concurrency && begun < wanted)
	{
		curl_multi_add_handle(multi, new_request(port, headers, end + 4, len - (end + 4 - request)));
		begun++;
	}
	while (done < wanted)
	{
		int			running;
		int			left;
		CURLMsg    *message;

		curl_multi_perform(multi, &running);
		while ((message = curl_multi_info_read(multi, &left)))
		{
			CURL	   *easy = message->easy_handle;
			long		status = 0;

			curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
			if (message->data.result != CURLE_OK || status != 204)
				die(curl_easy_strerror(message->data.result));
			curl_multi_remove_handle(multi, easy);
			done++;
			if (begun < wanted)
			{
				curl_multi_add_handle(multi, easy);
				begun++;
			}
		}
		if (done < wanted)
			curl_multi_poll(multi, NULL, 0, 1000, NULL);
	}
	printf("%.1f\n", wanted / (now() - begin));
}

int
main(int argc, char **argv)
{
	char		out[200];

	const char *what = argc > 2 ? argv[2] : "";
	int			port = argc > 2 ? atoi(argv[1]) : 0;

	if (argc == 3 && strcmp(what, "serve") == 0)
		serve(port);
	else if (argc == 3 && strcmp(what, "reset") == 0)
		ask(port, "/reset", out, sizeof(out));
	else if (argc == 5 && strcmp(what, "await") == 0)
		await(port, atol(argv[3]), atoi(argv[4]));
	else if (argc == 5 && strcmp(what, "copy") == 0)
		copy(port, atoi(argv[3]), atol(argv[4]));
	else
	{
		fprintf(stderr, "usage: raw_webhook PORT serve|reset|await|copy ...\n");
		return 1;
	}
	return 0;
}
