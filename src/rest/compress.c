/*
 * compress.c
 *	  Answers compressed with gzip.
 *
 * Done by executors, so that a large answer holds up nobody else's, and what goes
 * to the gateway is smaller.  Short answers, and bodies whose type says nothing
 * of text, stay as they are.  A secret could be guessed from the length of compressed
 * answers (BREACH) where another site can make a browser ask with the victim's
 * rights; tokens travel in a header that only the site's own scripts can set.
 */
#include "postgres.h"

#include <zlib.h>

#include "rest/compress.h"
#include "rest/response.h"

#define MIN_SIZE	1024		/* below it, packets are not saved */
#define LEVEL		1			/* of zlib: the others cost a multiple for a
								 * few percent */
#define CHUNK		(256 * 1024)	/* between two looks whether to go on */

bool		orion_http_compression = true;

static const char *
skip_blanks(const char *c)
{
	while (*c == ' ' || *c == '\t')
		c++;
	return c;
}

/* ";q=0", ";q=0.000": not wanted; anything else is taken for a yes */
static bool
is_refused(const char *c, const char *end)
{
	while ((c = memchr(c, ';', end - c)) != NULL)
	{
		c = skip_blanks(c + 1);
		if (*c != 'q' && *c != 'Q')
			continue;
		c = skip_blanks(c + 1);
		if (*c != '=')
			continue;
		c = skip_blanks(c + 1);
		return *c == '0' && strspn(c, "0.") == strspn(c, "0123456789.");
	}
	return false;
}

/*
 * Does a client that sends this Accept-Encoding (RFC 9110, section 12.5.3; NULL: it
 * sends none) take gzip?
 */
static bool
accepts_gzip(const char *accept)
{
	bool		any = false;

	for (const char *c = accept ? accept : ""; *c;)
	{
		const char *name = skip_blanks(c);
		const char *end = name + strcspn(name, ",");
		size_t		len = strcspn(name, " \t,;");

		if ((len == 4 && pg_strncasecmp(name, "gzip", 4) == 0) ||
			(len == 6 && pg_strncasecmp(name, "x-gzip", 6) == 0))
			return !is_refused(name, end);
		if (len == 1 && *name == '*')
			any = !is_refused(name, end);
		c = *end ? end + 1 : end;
	}
	return any;
}

static OrionHeader *
find_header(OrionResponse *response, const char *name)
{
	for (int i = 0; i < response->nheaders; i++)
		if (pg_strcasecmp(response->headers[i].name, name) == 0)
			return &response->headers[i];
	return NULL;
}

/* text/..., ...json, ...xml, javascript, and the like */
static bool
is_text(const char *type)
{
	size_t		len = strcspn(type, "; ");

	if (pg_strncasecmp(type, "text/", 5) == 0)
		return true;
	return (len >= 4 && pg_strncasecmp(type + len - 4, "json", 4) == 0) ||
		(len >= 3 && pg_strncasecmp(type + len - 3, "xml", 3) == 0) ||
		(len >= 10 && pg_strncasecmp(type + len - 10, "javascript", 10) == 0);
}

static void *
allocate(void *opaque, unsigned int items, unsigned int size)
{
	return palloc_extended((Size) items * size, MCXT_ALLOC_NO_OOM);
}

static void
release(void *opaque, void *pointer)
{
	if (pointer)
		pfree(pointer);
}

/* NULL when it would be no shorter, or memory is out. */
static char *
gzip(const StringInfo body, int *len)
{
	z_stream	z = {.zalloc = allocate,.zfree = release};
	char	   *out = palloc_extended(body->len, MCXT_ALLOC_HUGE | MCXT_ALLOC_NO_OOM);
	int			done = 0;
	int			rc = Z_OK;

	if (out == NULL || deflateInit2(&z, LEVEL, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)
		return NULL;
	z.next_out = (Bytef *) out;
	z.avail_out = body->len - 1;
	while (rc == Z_OK && z.avail_out > 0)
	{
		z.next_in = (Bytef *) body->data + done;
		z.avail_in = Min(CHUNK, body->len - done);
		done += z.avail_in;
		rc = deflate(&z, done == body->len ? Z_FINISH : Z_NO_FLUSH);
		done -= z.avail_in;
	}
	*len = z.total_out;
	deflateEnd(&z);
	return rc == Z_STREAM_END ? out : NULL;
}

static void
mark_tag(OrionResponse *response)
{
	OrionHeader *tag = find_header(response, "ETag");
	size_t		len = tag ? strlen(tag->value) : 0;

	if (len >= 2 && tag->value[len - 1] == '"')
		tag->value = psprintf("%.*s" ORION_GZIP_TAG "\"", (int) len - 1, tag->value);
}

void
orion_compress(OrionCall *call)
{
	OrionResponse *response = call->response;
	OrionHeader *type;
	char	   *body;
	int			len;

	if (response->body.len < MIN_SIZE || !orion_http_compression)
		return;
	type = find_header(response, "Content-Type");
	if (type == NULL || !is_text(type->value) || find_header(response, "Content-Encoding"))
		return;
	orion_response_vary(response, "Accept-Encoding");
	if (!accepts_gzip(orion_call_header(call, "accept-encoding")))
		return;
	body = gzip(&response->body, &len);
	if (body == NULL)
		return;
	pfree(response->body.data);
	response->body = (StringInfoData)
	{
		.data = body,.len = len,.maxlen = response->body.maxlen
	};
	orion_response_header(response, "Content-Encoding", "gzip");
	mark_tag(response);
}
