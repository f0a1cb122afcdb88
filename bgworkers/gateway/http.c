/*
 * http.c
 *	  Checks of requests and cleaning of answers; see http.h.
 */
#include "gateway/http.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "codec/hex.h"

const OrionHttpError orion_http_bad_request =
{400, "ORH400", "the request is malformed", "Send one valid HTTP/1.1 request with at most one Content-Length or Transfer-Encoding: chunked."};
const OrionHttpError orion_http_bad_target =
{400, "ORH400", "the request target is malformed", "Percent-encode the path and the query; they must be valid UTF-8 without NUL."};
const OrionHttpError orion_http_method_refused = {405, "ORH405", "the method is not allowed", NULL};
const OrionHttpError orion_http_method_unknown = {501, "ORH501", "the method is not known", NULL};
const OrionHttpError orion_http_body_too_large =
{413, "ORH413", "the body is too large", "The limit is the setting orion.http_max_body_size."};
const OrionHttpError orion_http_target_too_long =
{414, "ORH414", "the request target is too long", "The limit is the setting orion.http_max_header_size."};
const OrionHttpError orion_http_headers_too_large =
{431, "ORH431", "the headers are too large or too many", "The limit is the setting orion.http_max_header_size."};
const OrionHttpError orion_http_bad_version = {505, "ORH505", "the HTTP version is not supported", "Send HTTP/1.1."};
const OrionHttpError orion_http_bad_answer = {500, "ORH500", "the server gave an answer that cannot be sent", NULL};
const OrionHttpError orion_http_queue_full = {503, "ORH503", "too many requests are waiting", "Try again later."};
const OrionHttpError orion_http_no_memory = {503, "ORH503", "too many large bodies are being received", "Try again later."};
const OrionHttpError orion_http_no_answer_memory =
{503, "ORH503", "too many large answers are being sent", "Check whether the request took effect before sending it again."};
const OrionHttpError orion_http_queue_timeout = {503, "ORH503", "no server process became free in time", "Try again later."};
const OrionHttpError orion_http_executor_lost =
{503, "ORH503", "the process serving the request ended", "Check whether the request took effect before sending it again."};
const OrionHttpError orion_http_not_ready = {503, "ORH503", "no server process is connected yet", "Try again later."};

static const char *const served_methods[] = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"};
static const char *const refused_methods[] = {"TRACE", "CONNECT", "PROPFIND", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK"};

typedef struct Name
{
	const char *str;
	size_t		len;
} Name;

#define NAME(str) {str, sizeof(str) - 1}

/* RFC 9110 section 7.6.1, and what RFC 2616 had besides */
static const Name hop_by_hop[] = {
	NAME("connection"), NAME("keep-alive"), NAME("proxy-connection"), NAME("proxy-authenticate"),
	NAME("proxy-authorization"), NAME("te"), NAME("trailer"), NAME("transfer-encoding"), NAME("upgrade"), NAME("expect")
};

/* the gateway or the HTTP library writes these itself */
static const Name own_headers[] = {
	NAME("content-length"), NAME("date"), NAME("server"), NAME("x-request-id"), NAME("x-content-type-options")
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static bool
is_one_of(const char *name, size_t len, const Name *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
	{
		if (list[i].len == len && strncasecmp(list[i].str, name, len) == 0)
			return true;
	}
	return false;
}

/* Length of the UTF-8 sequence at str, 0 when it is not valid. */
static size_t
utf8_sequence(const unsigned char *s, size_t len)
{
	size_t		n;
	uint32_t	cp;

	if (s[0] < 0x80)
		return s[0] != 0;
	if (s[0] >= 0xC2 && s[0] <= 0xDF)
		n = 2, cp = s[0] & 0x1F;
	else if ((s[0] & 0xF0) == 0xE0)
		n = 3, cp = s[0] & 0x0F;
	else if (s[0] >= 0xF0 && s[0] <= 0xF4)
		n = 4, cp = s[0] & 0x07;
	else
		return 0;
	if (len < n)
		return 0;
	for (size_t i = 1; i < n; i++)
	{
		if ((s[i] & 0xC0) != 0x80)
			return 0;
		cp = cp << 6 | (s[i] & 0x3F);
	}
	if (n == 3 && (cp < 0x800 || (cp >= 0xD800 && cp <= 0xDFFF)))
		return 0;
	if (n == 4 && (cp < 0x10000 || cp > 0x10FFFF))
		return 0;
	return n;
}

bool
orion_http_utf8_valid(const char *str, size_t len)
{
	const unsigned char *s = (const unsigned char *) str;

	while (len > 0)
	{
		size_t		n = utf8_sequence(s, len);

		if (n == 0)
			return false;
		s += n;
		len -= n;
	}
	return true;
}

/* RFC 9110 section 5.6.2 */
static const bool token_chars[256] = {
	['a'...'z'] = true,['A'...'Z'] = true,['0'...'9'] = true,
	['!'] = true,['#'] = true,['$'] = true,['%'] = true,['&'] = true,['\''] = true,['*'] = true,['+'] = true,
	['-'] = true,['.'] = true,['^'] = true,['_'] = true,['`'] = true,['|'] = true,['~'] = true
};

bool
orion_http_name_valid(const char *name, size_t len)
{
	if (len == 0 || len > ORION_HTTP_MAX_NAME)
		return false;
	for (size_t i = 0; i < len; i++)
	{
		if (!token_chars[(unsigned char) name[i]])
			return false;
	}
	return true;
}

static bool
is_control(unsigned char c)
{
	return c < 0x20 || c == 0x7F;
}

#define EACH(byte) (UINT64_MAX / 255 * (byte))

/* Printable ASCII and nothing else: looked at eight bytes at a time. */
static bool
is_plain(const char *bytes, size_t len)
{
	const unsigned char *str = (const unsigned char *) bytes;
	uint64_t	odd = 0;
	uint64_t	word;

	for (; len >= sizeof(word); str += sizeof(word), len -= sizeof(word))
	{
		memcpy(&word, str, sizeof(word));
		/* below 0x20, above 0x7F, and 0x7F */
		odd |= (word - EACH(0x20)) | word | ((word ^ EACH(0x7F)) - EACH(1));
	}
	for (; len > 0; str++, len--)
		odd |= *str < 0x20 || *str >= 0x7F ? EACH(0x80) : 0;
	return (odd & EACH(0x80)) == 0;
}

bool
orion_http_value_valid(const char *value, size_t len)
{
	bool		ascii = true;

	if (is_plain(value, len))
		return true;
	for (size_t i = 0; i < len; i++)
	{
		if (is_control(value[i]) && value[i] != '\t')
			return false;
		ascii &= (unsigned char) value[i] < 0x80;
	}
	return ascii || orion_http_utf8_valid(value, len);
}

bool
orion_http_request_id_valid(const char *id, size_t len)
{
	if (len == 0 || len > ORION_HTTP_MAX_REQUEST_ID)
		return false;
	for (size_t i = 0; i < len; i++)
	{
		char		c = id[i];

		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
			  c == '-' || c == '_' || c == '.'))
			return false;
	}
	return true;
}

OrionHttpMethod
orion_http_method(const char *method)
{
	for (size_t i = 0; i < COUNT(served_methods); i++)
	{
		if (strcmp(method, served_methods[i]) == 0)
			return ORION_HTTP_METHOD_SERVED;
	}
	for (size_t i = 0; i < COUNT(refused_methods); i++)
	{
		if (strcmp(method, refused_methods[i]) == 0)
			return ORION_HTTP_METHOD_REFUSED;
	}
	return ORION_HTTP_METHOD_UNKNOWN;
}

/*
 * Are the bytes, percent-decoded, valid UTF-8 without NUL?  In the query (behind
 * the first ?) a % in front of no two hexadecimal digits stands for itself, as
 * like.%abc% typed by hand; in the path it is refused.
 */
static bool
decodes_to_utf8(const char *str, size_t len)
{
	const char *mark = memchr(str, '?', len);
	size_t		query = mark ? (size_t) (mark - str) : len;
	unsigned char window[4];	/* one sequence, decoded */
	size_t		have = 0;
	size_t		at = 0;

	while (at < len || have > 0)
	{
		size_t		n;

		while (have < sizeof(window) && at < len)
		{
			bool		escape = str[at] == '%' && len - at >= 3 &&
			orion_hex_digit(str[at + 1]) >= 0 && orion_hex_digit(str[at + 2]) >= 0;

			if (str[at] == '%' && !escape && at < query)
				return false;
			if (!escape)
				window[have++] = str[at++];
			else
			{
				window[have++] = orion_hex_digit(str[at + 1]) << 4 | orion_hex_digit(str[at + 2]);
				at += 3;
			}
		}
		n = utf8_sequence(window, have);
		if (n == 0)
			return false;
		memmove(window, window + n, have - n);
		have -= n;
	}
	return true;
}

/*
 * A plain target needs no decoding: the usual case, without a look at each byte.  A backslash, which some
 * take for a slash, may stand in the query: it escapes there, and curl sends it as it is.
 */
static bool
target_bytes_valid(const char *str, size_t len)
{
	bool		plain = true;
	bool		in_query = false;

	if (is_plain(str, len) && !memchr(str, ' ', len) && !memchr(str, '#', len) && !memchr(str, '\\', len) &&
		!memchr(str, '%', len))
		return true;
	for (size_t i = 0; i < len; i++)
	{
		unsigned char c = str[i];

		in_query |= c == '?';
		if (is_control(c) || c == ' ' || c == '#' || (c == '\\' && !in_query))
			return false;
		plain &= c < 0x80 && c != '%';
	}
	return plain || decodes_to_utf8(str, len);
}

#define IN_NAME		1			/* or in an IPv4 address */
#define IN_BRACKETS	2			/* where IPv6 addresses are, zones included */

static const uint8_t host_chars[256] = {
	['a'...'z'] = IN_NAME | IN_BRACKETS,['A'...'Z'] = IN_NAME | IN_BRACKETS,['0'...'9'] = IN_NAME | IN_BRACKETS,
	['-'] = IN_NAME | IN_BRACKETS,['.'] = IN_NAME | IN_BRACKETS,['_'] = IN_NAME | IN_BRACKETS,
	['~'] = IN_NAME | IN_BRACKETS,['%'] = IN_NAME | IN_BRACKETS,[':'] = IN_BRACKETS,['!'] = IN_NAME,
	['$'] = IN_NAME,['&'] = IN_NAME,['\''] = IN_NAME,['('] = IN_NAME,[')'] = IN_NAME,['*'] = IN_NAME,
	['+'] = IN_NAME,[','] = IN_NAME,[';'] = IN_NAME,['='] = IN_NAME
};

bool
orion_http_authority_valid(const char *str, size_t len)
{
	size_t		at = 0;
	bool		in_brackets = len > 0 && str[0] == '[';

	if (in_brackets)
		at++;
	while (at < len && (host_chars[(unsigned char) str[at]] & (in_brackets ? IN_BRACKETS : IN_NAME)))
		at++;
	if (in_brackets && (at == len || str[at++] != ']' || at == 2))
		return false;
	if (at == len)
		return true;
	if (str[at++] != ':' || len - at > 5)
		return false;
	while (at < len && str[at] >= '0' && str[at] <= '9')
		at++;
	return at == len;
}

/* The length of "http://" or "https://" in front, or 0. */
static size_t
scheme_len(const char *target, size_t len)
{
	if (len > 7 && strncasecmp(target, "http://", 7) == 0)
		return 7;
	return len > 8 && strncasecmp(target, "https://", 8) == 0 ? 8 : 0;
}

bool
orion_http_target_split(const char *target, size_t len, OrionHttpTarget *out)
{
	const char *mark;
	size_t		scheme;

	if (!target_bytes_valid(target, len))
		return false;
	scheme = len > 0 && target[0] == '/' ? 0 : scheme_len(target, len);
	if (scheme > 0)
	{
		const char *host = target + scheme;
		const char *slash = memchr(host, '/', len - scheme);

		if (slash == NULL || slash == host || !orion_http_authority_valid(host, slash - host))
			return false;
		len -= slash - target;
		target = slash;
	}
	if (len == 0 || target[0] != '/')
		return false;
	mark = memchr(target, '?', len);
	out->path = target;
	out->path_len = mark ? (size_t) (mark - target) : len;
	out->query = mark ? mark + 1 : target + len;
	out->query_len = mark ? len - out->path_len - 1 : 0;
	return true;
}

bool
orion_http_hop_by_hop(const char *name, size_t len)
{
	return is_one_of(name, len, hop_by_hop, COUNT(hop_by_hop));
}

bool
orion_http_names_proxy(const char *name, size_t len)
{
	static const Name names[] = {NAME("forwarded"), NAME("via"), NAME("x-forwarded-for"), NAME("x-real-ip")};

	return (name[0] == 'f' || name[0] == 'F' || name[0] == 'v' || name[0] == 'V' || name[0] == 'x' || name[0] == 'X') &&
		is_one_of(name, len, names, COUNT(names));
}

/* RFC 9112 section 6.2: digits only; no sign, no list. */
static bool
parse_length(const char *value, size_t len, uint64_t *out)
{
	uint64_t	n = 0;

	if (len == 0 || len > 18)
		return false;
	for (size_t i = 0; i < len; i++)
	{
		if (value[i] < '0' || value[i] > '9')
			return false;
		n = n * 10 + (value[i] - '0');
	}
	*out = n;
	return true;
}

static bool
name_is(const char *name, size_t len, const char *lower)
{
	return strlen(lower) == len && strncasecmp(name, lower, len) == 0;
}

void
orion_http_head_add(OrionHttpHead *head, const char *name, size_t name_len,
					const char *value, size_t value_len)
{
	head->nheaders++;
	while (value_len > 0 && (value[value_len - 1] == ' ' || value[value_len - 1] == '\t'))
		value_len--;
	if (!orion_http_name_valid(name, name_len) || !orion_http_value_valid(value, value_len))
		head->malformed = true;
	else if (name_is(name, name_len, "host"))
	{
		head->nhost++;
		if (!orion_http_authority_valid(value, value_len))
			head->malformed = true;
	}
	else if (name_is(name, name_len, "content-length"))
	{
		head->nlength++;
		if (!parse_length(value, value_len, &head->length))
			head->malformed = true;
	}
	else if (name_is(name, name_len, "transfer-encoding"))
	{
		head->nencoding++;
		head->chunked = name_is(value, value_len, "chunked");
	}
	else if (name_is(name, name_len, "x-request-id") && orion_http_request_id_valid(value, value_len))
	{
		head->request_id = value;
		head->request_id_len = value_len;
	}
}

const OrionHttpError *
orion_http_head_check(const OrionHttpHead *head, uint64_t max_body)
{
	if (head->nheaders > ORION_HTTP_MAX_HEADERS)
		return &orion_http_headers_too_large;
	if (head->malformed || head->nhost > 1 || head->nlength > 1 || head->nencoding > 1 ||
		(head->nlength > 0 && head->nencoding > 0) ||
		(head->nencoding > 0 && !head->chunked))
		return &orion_http_bad_request;
	if (head->length > max_body)
		return &orion_http_body_too_large;
	return NULL;
}

static void
blank_controls(char *str, size_t len)
{
	for (size_t i = 0; i < len; i++)
	{
		if (is_control(str[i]))
			str[i] = ' ';
	}
}

size_t
orion_http_response_header(const char *name, size_t name_len, const char *value, size_t value_len, char *out)
{
	if (!orion_http_name_valid(name, name_len) || value_len == 0 || value_len > ORION_HTTP_MAX_VALUE ||
		orion_http_hop_by_hop(name, name_len) ||
		is_one_of(name, name_len, own_headers, COUNT(own_headers)))
		return 0;
	memcpy(out, name, name_len);
	out += name_len;
	*out++ = ':';
	*out++ = ' ';
	memcpy(out, value, value_len);
	if (!is_plain(value, value_len))
		blank_controls(out, value_len);
	out += value_len;
	*out++ = '\r';
	*out++ = '\n';
	return name_len + value_len + ORION_HTTP_HEADER_ROOM;
}

int
orion_http_error_body(const OrionHttpError *error, const char *details, char *out, size_t size)
{
	const char *dq = details ? "\"" : "";
	const char *hq = error->hint ? "\"" : "";

	return snprintf(out, size, "{\"code\":\"%s\",\"message\":\"%s\",\"details\":%s%s%s,\"hint\":%s%s%s}",
					error->code, error->message,
					dq, details ? details : "null", dq,
					hq, error->hint ? error->hint : "null", hq);
}
