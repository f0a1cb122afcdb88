/*
 * head.c
 *	  The fields of an answer's head, given to the library as one.
 *
 * It takes them one by one, makes three copies in memory of each, and frees them
 * after the answer: with ten fields more work than reading the request.  So all of them are
 * made here as they go over the wire, and go to it as the value of the first, Date.  It
 * refuses line feeds in a value; it is given as many other characters, and the text is put over
 * its copy (0.9.75 and 1.0.1 were read).  What comes from elsewhere is made safe before, so that no field can
 * begin another.
 */
#define _GNU_SOURCE
#include <string.h>
#include <time.h>

#include "gateway/gateway.h"

#define FILLER	'x'
#define KEEP	65536			/* bytes of memory kept for the next answer */

static OrionBuffer fields;		/* from 0: the fields, but for "Date: " and
								 * the last line feed */
static OrionBuffer filler;		/* nothing but FILLER */

static void
add(const char *bytes, size_t len)
{
	if (!orion_buffer_reserve(&fields, len))
		return;
	memcpy(fields.data + fields.end, bytes, len);
	fields.end += len;
}

/* RFC 9110 section 5.6.7 */
static void
add_date(void)
{
	static time_t made_at = -1;
	static char date[64];
	static size_t len;
	struct timespec now;
	struct tm	tm;

	clock_gettime(CLOCK_REALTIME_COARSE, &now);
	if (now.tv_sec != made_at)
	{
		made_at = now.tv_sec;
		len = strftime(date, sizeof(date), "%a, %d %b %Y %H:%M:%S GMT\r\n", gmtime_r(&made_at, &tm));
	}
	add(date, len);
}

void
orion_gateway_head_begin(const char *request_id)
{
	static const char own[] = "X-Content-Type-Options: nosniff\r\nX-Request-Id: ";

	if (fields.cap > KEEP || fields.failed)
		orion_buffer_free(&fields);
	if (filler.cap > KEEP || filler.failed)
		orion_buffer_free(&filler);
	fields.end = 0;

	add_date();
	add(own, sizeof(own) - 1);
	add(request_id, strlen(request_id));
	add("\r\n", 2);
}

void
orion_gateway_head_add(const char *name, size_t name_len, const char *value, size_t value_len)
{
	if (orion_buffer_reserve(&fields, name_len + value_len + ORION_HTTP_HEADER_ROOM))
		fields.end += orion_http_response_header(name, name_len, value, value_len, (char *) fields.data + fields.end);
}

static bool
make_filler(size_t len)
{
	size_t		had = filler.cap;

	if (filler.cap > len)
		return true;
	if (!orion_buffer_reserve(&filler, len + 1))
		return false;
	memset(filler.data + had, FILLER, filler.cap - had);
	return true;
}

bool
orion_gateway_head_set(struct MHD_Response *response)
{
	size_t		len = fields.end - 2;
	char	   *copy;
	bool		ok;

	if (fields.failed || !make_filler(len))
		return false;
	filler.data[len] = '\0';
	ok = MHD_add_response_header(response, "Date", (char *) filler.data) == MHD_YES;
	filler.data[len] = FILLER;
	copy = ok ? (char *) MHD_get_response_header(response, "Date") : NULL;
	if (copy)
		memcpy(copy, fields.data, len);
	return copy != NULL;
}
