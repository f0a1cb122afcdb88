/*
 * webhook.c
 *	  Sends webhooks with libcurl; see webhook.h.
 *
 * One thread, one poll over the relay's socket and all transfers.  The address of each
 * socket is judged before it is connected, and once more before the request is written,
 * because a connection kept alive may have been opened for somebody with other rights.
 * No redirect is followed, no proxy, cookie, netrc or compression is used.
 *
 * The status line decides: with a status the answer counts as received, whatever
 * becomes of its body, of which only the beginning is kept.  Headers and bodies longer
 * than the limits below end the transfer, and so does its timeout.
 *
 * Texts for operators name hosts and addresses, but never a path or query of a URL nor a
 * secret.  Memory: what the relay has in flight, which it bounds, and TRANSFERS_MAX.
 */
#include "webhook.h"

#include <curl/curl.h>
#include <poll.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "sink.h"
#include "webhook_address.h"
#include "webhook_message.h"

#define FRAME_MAX		(256 * 1024 * 1024)
#define TRANSFERS_MAX	2048
#define IDLE_MAX		128		/* connections kept alive */
#define IDLE_SECONDS	55L
#define CONNECT_MS		10000L	/* resolving, connecting and TLS */
#define HEADERS_MAX		(64 * 1024)
#define BODY_MAX		(64 * 1024)
#define EXCERPT_MAX		1024
#define TURN_MS			1000

#if CURL_AT_LEAST_VERSION(7, 80, 0) == 0
#error libcurl is older than 7.80: kept connections could not be checked
#endif

typedef struct Transfer
{
	uint64_t	number;
	CURL	   *easy;
	struct curl_slist *headers;
	CURLU	   *url;
	char	   *body;
	OrionNetworks networks;		/* of the endpoint */
	const char *refusal;		/* why an address was refused, or NULL */
	size_t		header_bytes;
	size_t		body_bytes;
	bool		answered;		/* the head of the answer is complete */
	char		error[CURL_ERROR_SIZE];
	size_t		excerpt_len;
	char		excerpt[EXCERPT_MAX];
} Transfer;

typedef struct Delivery
{
	uint64_t	number;
	OrionText	id;
	OrionText	url;
	OrionText	secrets;
	OrionText	networks;
	uint64_t	plain;
	uint64_t	timeout;
	OrionText	body;
} Delivery;

static CURLM *multi;
static OrionNetworks everywhere;	/* allowed for every endpoint */
static const char *ca_file;
static size_t transfers;
static OrionBuffer *to_relay;

/* ---- words for the relay ---- */

static void
say(uint64_t number, long status, int64_t retry_after, int64_t ms, const char *error, const char *excerpt, size_t len)
{
	char		words[CURL_ERROR_SIZE + 64];
	char		clean[EXCERPT_MAX];

	orion_sink_blot(error, NULL, words, sizeof(words));
	orion_frame_begin(to_relay, ORION_FRAME_DELIVERED, number);
	orion_frame_put_u64(to_relay, status > 0 ? (uint64_t) status : 0);
	orion_frame_put_u64(to_relay, retry_after > 0 ? (uint64_t) retry_after : 0);
	orion_frame_put_u64(to_relay, ms > 0 ? (uint64_t) ms : 0);
	orion_frame_put_str(to_relay, words);
	orion_frame_put(to_relay, clean, orion_webhook_clean(excerpt, len, clean, sizeof(clean)));
	orion_frame_end(to_relay);
}

/* ---- what libcurl asks ---- */

/* Whether one of the two lists allows it: NULL, or why not. */
static const char *
refuse(const char *for_all, const char *for_endpoint)
{
	return for_endpoint ? for_all : NULL;
}

static curl_socket_t
open_socket(void *clientp, curlsocktype purpose, struct curl_sockaddr *address)
{
	Transfer   *transfer = clientp;
	const char *why = refuse(orion_address_refusal(&address->addr, &everywhere),
							 orion_address_refusal(&address->addr, &transfer->networks));

	if (why)
	{
		transfer->refusal = why;
		return CURL_SOCKET_BAD;
	}
	return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

static int
before_request(void *clientp, char *remote, char *local, int remote_port, int local_port)
{
	Transfer   *transfer = clientp;
	const char *why = refuse(orion_address_text_refusal(remote, &everywhere),
							 orion_address_text_refusal(remote, &transfer->networks));

	if (why)
		transfer->refusal = why;
	return why ? CURL_PREREQFUNC_ABORT : CURL_PREREQFUNC_OK;
}

static size_t
take_header(char *bytes, size_t size, size_t n, void *clientp)
{
	Transfer   *transfer = clientp;
	long		status = 0;

	transfer->header_bytes += n;
	if (transfer->header_bytes > HEADERS_MAX)
		return 0;
	if (n <= 2 && (bytes[0] == '\r' || bytes[0] == '\n'))
	{
		curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
		transfer->answered = status >= 200;
	}
	return n;
}

static size_t
take_body(char *bytes, size_t size, size_t n, void *clientp)
{
	Transfer   *transfer = clientp;
	size_t		keep = EXCERPT_MAX - transfer->excerpt_len;

	memcpy(transfer->excerpt + transfer->excerpt_len, bytes, n < keep ? n : keep);
	transfer->excerpt_len += n < keep ? n : keep;
	transfer->body_bytes += n;
	return transfer->body_bytes > BODY_MAX ? 0 : n;
}

/* ---- the beginning and the end of a transfer ---- */

static void
end_transfer(Transfer *transfer)
{
	if (transfer->easy)
	{
		curl_multi_remove_handle(multi, transfer->easy);
		curl_easy_cleanup(transfer->easy);
		transfers--;
	}
	curl_slist_free_all(transfer->headers);
	curl_url_cleanup(transfer->url);
	free(transfer->body);
	free(transfer);
}

static bool
add_header(Transfer *transfer, const char *name, const char *value)
{
	char		line[ORION_WEBHOOK_SIGNATURE_MAX + 64];
	struct curl_slist *longer;

	snprintf(line, sizeof(line), "%s: %s", name, value);
	longer = curl_slist_append(transfer->headers, line);
	if (longer == NULL)
		return false;
	transfer->headers = longer;
	return true;
}

static bool
add_headers(Transfer *transfer, const Delivery *delivery, char *id)
{
	char		signature[ORION_WEBHOOK_SIGNATURE_MAX];
	char		timestamp[32];
	long long	now = (long long) time(NULL);

	if (!orion_webhook_sign(delivery->secrets.str, delivery->secrets.len, id, now,
							delivery->body.str, delivery->body.len, signature, sizeof(signature)))
		return false;
	snprintf(timestamp, sizeof(timestamp), "%lld", now);
	return add_header(transfer, "webhook-id", id) &&
		add_header(transfer, "webhook-timestamp", timestamp) &&
		add_header(transfer, "webhook-signature", signature) &&
		add_header(transfer, "Content-Type", "application/json") &&
		curl_slist_append(transfer->headers, "Expect:") != NULL &&
		curl_slist_append(transfer->headers, "Accept: */*") != NULL;
}

/* Reads the URL with the parser that will be used to connect. NULL, or what is wrong. */
static const char *
read_url(Transfer *transfer, const Delivery *delivery)
{
	char	   *string = strndup(delivery->url.str, delivery->url.len);
	char	   *part = NULL;
	const char *problem = NULL;
	bool		secure = false;

	transfer->url = curl_url();
	if (string == NULL || transfer->url == NULL ||
		curl_url_set(transfer->url, CURLUPART_URL, string, CURLU_NON_SUPPORT_SCHEME) != CURLUE_OK)
		problem = "the URL cannot be read";
	else if (curl_url_get(transfer->url, CURLUPART_SCHEME, &part, 0) == CURLUE_OK)
	{
		secure = strcmp(part, "https") == 0;
		if (!secure && strcmp(part, "http") != 0)
			problem = "the URL is neither http nor https";
		else if (!secure && !delivery->plain)
			problem = "plain http is not allowed";
	}
	curl_free(part);
	part = NULL;
	if (problem == NULL && (curl_url_get(transfer->url, CURLUPART_USER, &part, 0) == CURLUE_OK ||
							curl_url_get(transfer->url, CURLUPART_PASSWORD, &part, 0) == CURLUE_OK))
		problem = "the URL holds a user or password";
	curl_free(part);
	part = NULL;
	if (problem == NULL && (curl_url_get(transfer->url, CURLUPART_PORT, &part, CURLU_DEFAULT_PORT) != CURLUE_OK ||
							!orion_port_is_allowed(strtol(part, NULL, 10))))
		problem = "the port is not allowed";
	curl_free(part);
	free(string);
	return problem;
}

/* Returns false when the library refuses an option: it cannot be used then. */
static bool
set_options(Transfer *transfer, const Delivery *delivery)
{
	CURL	   *easy = transfer->easy;
	CURLcode	bad = 0;

	bad |= curl_easy_setopt(easy, CURLOPT_PRIVATE, transfer);
	bad |= curl_easy_setopt(easy, CURLOPT_CURLU, transfer->url);
	bad |= curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, delivery->plain ? "http,https" : "https");
	bad |= curl_easy_setopt(easy, CURLOPT_PROXY, "");
	bad |= curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
	bad |= curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_1_1);
	bad |= curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	bad |= curl_easy_setopt(easy, CURLOPT_USERAGENT, "Orion-Webhooks/1.0");
	bad |= curl_easy_setopt(easy, CURLOPT_HTTPHEADER, transfer->headers);
	bad |= curl_easy_setopt(easy, CURLOPT_POST, 1L);
	bad |= curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) delivery->body.len);
	bad |= curl_easy_setopt(easy, CURLOPT_POSTFIELDS, transfer->body);
	bad |= curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long) delivery->timeout);
	bad |= curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS,
							(long) (delivery->timeout < CONNECT_MS ? delivery->timeout : CONNECT_MS));
	bad |= curl_easy_setopt(easy, CURLOPT_MAXAGE_CONN, IDLE_SECONDS);
	bad |= curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
	bad |= curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L);
	bad |= curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L);
	if (ca_file)
		bad |= curl_easy_setopt(easy, CURLOPT_CAINFO, ca_file);
	bad |= curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, transfer->error);
	bad |= curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
	bad |= curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, transfer);
	bad |= curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, before_request);
	bad |= curl_easy_setopt(easy, CURLOPT_PREREQDATA, transfer);
	bad |= curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, take_header);
	bad |= curl_easy_setopt(easy, CURLOPT_HEADERDATA, transfer);
	bad |= curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_body);
	bad |= curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer);
	return bad == 0;
}

/* NULL when the transfer has begun, else why it has not. */
static const char *
begin(Transfer *transfer, const Delivery *delivery)
{
	char		id[128];
	const char *problem = read_url(transfer, delivery);

	if (problem)
		return problem;
	if (!orion_networks_add(&transfer->networks, delivery->networks.str, delivery->networks.len))
		return "the endpoint's allowed networks cannot be read";
	snprintf(id, sizeof(id), "%.*s", (int) (delivery->id.len < sizeof(id) ? delivery->id.len : 0), delivery->id.str);
	transfer->body = malloc(delivery->body.len + 1);
	if (transfer->body == NULL)
		return "out of memory";
	memcpy(transfer->body, delivery->body.str, delivery->body.len);
	if (!add_headers(transfer, delivery, id))
		return "the webhook could not be signed";
	transfer->easy = curl_easy_init();
	if (transfer->easy == NULL)
		return "out of memory";
	transfers++;
	if (!set_options(transfer, delivery) || curl_multi_add_handle(multi, transfer->easy) != CURLM_OK)
		return "libcurl cannot be used";
	return NULL;
}

static void
deliver(const Delivery *delivery)
{
	Transfer   *transfer = calloc(1, sizeof(*transfer));
	const char *problem = "out of memory";

	if (transfer)
	{
		transfer->number = delivery->number;
		problem = begin(transfer, delivery);
	}
	sodium_memzero((char *) delivery->secrets.str, delivery->secrets.len);
	if (problem == NULL)
		return;
	if (transfer)
		end_transfer(transfer);
	say(delivery->number, 0, 0, 0, problem, "", 0);
}

static void
finish(Transfer *transfer, CURLcode result)
{
	char		words[CURL_ERROR_SIZE + 64] = "";
	curl_off_t	microseconds = 0;
	curl_off_t	retry_after = 0;
	long		status = 0;

	curl_easy_getinfo(transfer->easy, CURLINFO_TOTAL_TIME_T, &microseconds);
	if (transfer->answered)
	{
		curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
		curl_easy_getinfo(transfer->easy, CURLINFO_RETRY_AFTER, &retry_after);
	}
	if (status >= 300 && status < 400)
		snprintf(words, sizeof(words), "redirects are not followed");
	else if (status == 0 && transfer->refusal)
		snprintf(words, sizeof(words), "the address is not allowed: it is %s", transfer->refusal);
	else if (status == 0 && transfer->header_bytes > HEADERS_MAX)
		snprintf(words, sizeof(words), "the headers of the answer are too long");
	else if (status == 0)
		snprintf(words, sizeof(words), "%s", transfer->error[0] ? transfer->error : curl_easy_strerror(result));
	say(transfer->number, status, retry_after, microseconds / 1000, words, transfer->excerpt, transfer->excerpt_len);
	end_transfer(transfer);
}

/* ---- the relay's frames ---- */

static bool
get_text(OrionFrame *frame, OrionText *string)
{
	return orion_frame_get(frame, &string->str, &string->len);
}

static bool
take_frame(OrionFrame *frame)
{
	Delivery	delivery = {.number = frame->id};

	if (frame->type != ORION_FRAME_DELIVER || transfers >= TRANSFERS_MAX ||
		!get_text(frame, &delivery.id) || !get_text(frame, &delivery.url) ||
		!get_text(frame, &delivery.secrets) || !get_text(frame, &delivery.networks) ||
		!orion_frame_get_u64(frame, &delivery.plain) || !orion_frame_get_u64(frame, &delivery.timeout) ||
		!get_text(frame, &delivery.body) || !orion_frame_done(frame))
		return false;
	deliver(&delivery);
	return true;
}

/* False: the relay has hung up. */
static bool
serve_relay(OrionBuffer *in, int fd)
{
	long		n;

	do
	{
		OrionFrame	frame;

		while ((n = orion_frame_parse(in->data + in->start, orion_buffer_len(in), FRAME_MAX, &frame)) != 0)
		{
			if (n < 0 || !take_frame(&frame))
			{
				fprintf(stderr, "orion-courier: the relay sent a frame that makes no sense\n");
				exit(EXIT_FAILURE);
			}
			orion_buffer_consume(in, n);
		}
		if (orion_buffer_len(in) == 0)
			orion_buffer_free(in);
		n = orion_buffer_fill(in, fd);
	} while (n > 0);
	return n == -1;
}

static void
serve_transfers(void)
{
	CURLMsg    *message;
	int			count;

	curl_multi_perform(multi, &count);
	while ((message = curl_multi_info_read(multi, &count)) != NULL)
	{
		Transfer   *transfer = NULL;
		CURLcode	result = message->data.result;

		if (message->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &transfer);
		finish(transfer, result);
	}
}

/* ---- settings and the loop ---- */

/* NULL, or what is wrong. */
static const char *
configure(json_t *settings)
{
	const char *networks = json_string_value(json_object_get(settings, "networks"));

	ca_file = json_string_value(json_object_get(settings, "ca_file"));
	if (ca_file && *ca_file == '\0')
		ca_file = NULL;
	if (ca_file && access(ca_file, R_OK) != 0)
		return "the file with certificates, orion.webhook_ca_file, cannot be read";
	if (networks && !orion_networks_add(&everywhere, networks, strlen(networks)))
		return "orion.webhook_allowed_networks holds what is no network, or too many";
	if (sodium_init() < 0 || curl_global_init(CURL_GLOBAL_DEFAULT) != 0 || (multi = curl_multi_init()) == NULL)
		return "libsodium or libcurl cannot be used";
	curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long) IDLE_MAX);
	return NULL;
}

/* The settings are wrong: only waits for the end. */
static void
wait_for_end(OrionBuffer *in, OrionBuffer *out, int fd)
{
	long		n = -1;

	while (n != 0 && n != -2 && orion_buffer_flush(out, fd))
	{
		struct pollfd relay = {.fd = fd,.events = POLLIN};

		poll(&relay, 1, TURN_MS);
		n = orion_buffer_fill(in, fd);
		orion_buffer_free(in);
	}
}

void
orion_webhook_run(json_t *settings, OrionBuffer *in, OrionBuffer *out, int relay_fd)
{
	const char *problem = configure(settings);

	to_relay = out;
	orion_frame_begin(out, problem ? ORION_FRAME_TROUBLE : ORION_FRAME_READY, 0);
	orion_frame_put_str(out, problem ? problem : "");
	orion_frame_end(out);
	if (problem)
	{
		wait_for_end(in, out, relay_fd);
		return;
	}
	while (serve_relay(in, relay_fd))
	{
		struct curl_waitfd relay = {.fd = relay_fd,.events = CURL_WAIT_POLLIN};

		serve_transfers();
		if (out->failed || !orion_buffer_flush(out, relay_fd))
			return;
		if (orion_buffer_len(out) > 0)
			relay.events |= CURL_WAIT_POLLOUT;
		curl_multi_poll(multi, &relay, 1, TURN_MS, NULL);
	}
}
