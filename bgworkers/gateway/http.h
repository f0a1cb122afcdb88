/*
 * http.h
 *	  What the gateway believes about bytes from outside: pure functions.
 *
 * No socket, no allocation, no library: unit-tested and fuzzed alone.  They follow
 * RFC 9110 and RFC 9112; where those leave a choice, the stricter one is taken,
 * because a proxy in front may read the same bytes in another way.
 */
#ifndef ORION_GATEWAY_HTTP_H
#define ORION_GATEWAY_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ORION_HTTP_MAX_HEADERS	100 /* as Apache's LimitRequestFields */
#define ORION_HTTP_MAX_NAME		256 /* of a header; the longest registered one
									 * has 36 */
#define ORION_HTTP_MAX_VALUE	8191	/* of a header of an answer */
#define ORION_HTTP_HEADER_ROOM	4	/* colon, space and end of a header's line */
#define ORION_HTTP_SHORT_TARGET 8192	/* of a request target: longer ones
										 * take memory of their own */
#define ORION_HTTP_MAX_REQUEST_ID	128

/* An error answer; all texts are constant and free of the client's bytes. */
typedef struct OrionHttpError
{
	int			status;
	const char *code;			/* ORH and the status */
	const char *message;
	const char *hint;			/* may be NULL */
} OrionHttpError;

/* Lengths into the target as it came; nothing is decoded. */
typedef struct OrionHttpTarget
{
	const char *path;
	size_t		path_len;
	const char *query;			/* behind '?'; empty when there is none */
	size_t		query_len;
} OrionHttpTarget;

typedef enum OrionHttpMethod
{
	ORION_HTTP_METHOD_SERVED,	/* GET HEAD POST PUT PATCH DELETE OPTIONS */
	ORION_HTTP_METHOD_REFUSED,	/* known, but never allowed here: 405 */
	ORION_HTTP_METHOD_UNKNOWN,	/* 501 */
} OrionHttpMethod;

/* What the headers of one request add up to. Zero-initialise, then add each. */
typedef struct OrionHttpHead
{
	int			nheaders;
	int			nhost;
	int			nlength;
	int			nencoding;
	bool		chunked;		/* Transfer-Encoding is exactly "chunked" */
	bool		malformed;		/* a name or value that is not allowed */
	uint64_t	length;			/* of Content-Length */
	const char *request_id;		/* a sane X-Request-Id, not terminated; NULL
								 * when none */
	size_t		request_id_len;
} OrionHttpHead;

/* True for UTF-8 without NUL, overlong forms, surrogates and values over 10FFFF. */
extern bool orion_http_utf8_valid(const char *str, size_t len);

/* RFC 9110 section 5.6.2 token, at most ORION_HTTP_MAX_NAME bytes. */
extern bool orion_http_name_valid(const char *name, size_t len);

/* Valid UTF-8 without control characters but tab. */
extern bool orion_http_value_valid(const char *value, size_t len);

extern bool orion_http_request_id_valid(const char *id, size_t len);

extern OrionHttpMethod orion_http_method(const char *method);

/* RFC 3986 section 3.2, without a user: a host, which may be empty, and perhaps a port. */
extern bool orion_http_authority_valid(const char *str, size_t len);

/*
 * Splits a request target in origin or absolute form.  False when it is no such
 * form, has a control character, space, fragment or backslash, invalid UTF-8 raw
 * or percent-encoded, or an encoded NUL.
 */
extern bool orion_http_target_split(const char *target, size_t len, OrionHttpTarget *out);

/* Is the name (any case) one of the headers that end at this hop? */
extern bool orion_http_hop_by_hop(const char *name, size_t len);

/* Is the name (any case) one that proxies put in: Forwarded, Via, X-Forwarded-For? */
extern bool orion_http_names_proxy(const char *name, size_t len);

extern void orion_http_head_add(OrionHttpHead *head, const char *name, size_t name_len,
								const char *value, size_t value_len);

/*
 * Judges the headers: NULL when they are fine, else the answer, after which the
 * connection must be closed, for it is not known where the request ends.
 */
extern const OrionHttpError *orion_http_head_check(const OrionHttpHead *head, uint64_t max_body);

/*
 * A response header from an executor, made safe and written as it is sent, "Name: value" CR LF:
 * its length, or 0 when it must not be sent (hop-by-hop, set by the gateway itself, no
 * token, too long, empty).  Control characters in values become spaces, so that no header can
 * be split.  out has room for name, value and ORION_HTTP_HEADER_ROOM.
 */
extern size_t orion_http_response_header(const char *name, size_t name_len, const char *value, size_t value_len,
										 char *out);

/*
 * Writes the JSON body of an error to out; returns its length (snprintf's rule).
 * details may be NULL.  The texts must need no escaping.
 */
extern int	orion_http_error_body(const OrionHttpError *error, const char *details, char *out, size_t size);

extern const OrionHttpError orion_http_bad_request;
extern const OrionHttpError orion_http_bad_target;
extern const OrionHttpError orion_http_method_refused;
extern const OrionHttpError orion_http_method_unknown;
extern const OrionHttpError orion_http_body_too_large;
extern const OrionHttpError orion_http_target_too_long;
extern const OrionHttpError orion_http_headers_too_large;
extern const OrionHttpError orion_http_bad_version;
extern const OrionHttpError orion_http_bad_answer;
extern const OrionHttpError orion_http_queue_full;
extern const OrionHttpError orion_http_no_memory;
extern const OrionHttpError orion_http_no_answer_memory;
extern const OrionHttpError orion_http_queue_timeout;
extern const OrionHttpError orion_http_executor_lost;
extern const OrionHttpError orion_http_not_ready;

#endif							/* ORION_GATEWAY_HTTP_H */
