/*
 * result.c
 *	  Takes what a statement returned into the answer: body, range, status.
 *
 * Bodies are made in SQL, as one json value of one row; here they are only
 * copied out of the transaction's memory.
 */
#include "postgres.h"

#include <ctype.h>

#include "access/detoast.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "core/compat.h"
#include "rest/error.h"
#include "rest/media.h"
#include "rest/response.h"
#include "rest/result.h"
#include "rest/settings.h"

static Datum
value(int n, bool *isnull)
{
	if (SPI_tuptable == NULL || SPI_processed != 1)
		elog(ERROR, "a statement of the REST module returned %llu rows",
			 (unsigned long long) SPI_processed);
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, n + 1, isnull);
}

int64
orion_result_int(int n, int64 absent)
{
	bool		isnull;
	Datum		datum = value(n, &isnull);

	return isnull ? absent : DatumGetInt64(datum);
}

char *
orion_result_text(int n)
{
	bool		isnull;
	Datum		datum = value(n, &isnull);

	return isnull ? NULL : TextDatumGetCString(datum);
}

void
orion_result_refuse_size(void)
{
	orion_refuse(500, "54000", psprintf("the answer has more than %d kB", orion_rest_max_answer_size), NULL,
				 "Ask for fewer rows or columns, or raise orion.rest_max_answer_size.");
}

void
orion_result_body(OrionCall *call, int n, const char *instead)
{
	bool		isnull;
	Datum		datum = value(n, &isnull);
	struct varlena *json;

	orion_response_header(call->response, "Content-Type", orion_media_type(call));
	if (isnull)
	{
		appendStringInfoString(&call->response->body, instead);
		return;
	}
	/* each copy on the way to the client takes as much memory again */
	if (toast_raw_datum_size(datum) > (Size) orion_rest_max_answer_size * 1024)
		orion_result_refuse_size();
	json = PG_DETOAST_DATUM_PACKED(datum);
	appendBinaryStringInfo(&call->response->body, VARDATA_ANY(json), VARSIZE_ANY_EXHDR(json));
}

void
orion_result_check_one(const OrionCall *call, int64 rows)
{
	if (call->one && rows != 1)
		orion_refuse(406, "PGRST116", "Cannot coerce the result to a single JSON object",
					 psprintf("The result contains " INT64_FORMAT " rows", rows), NULL);
}

/* RFC 3986, section 2.3 */
static bool
is_unreserved(unsigned char c)
{
	return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
		c == '-' || c == '.' || c == '_' || c == '~';
}

bool
orion_result_is_unreserved(const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (!is_unreserved(text[i]))
			return false;
	return true;
}

/* The unreserved stay. */
void
orion_result_escape(StringInfo out, const char *text)
{
	for (; *text; text ++)
	{
		unsigned char c = *text;

		if (is_unreserved(c))
			appendStringInfoChar(out, c);
		else
			appendStringInfo(out, "%%%02X", c);
	}
}

void
orion_result_range(OrionCall *call, int64 offset, int64 rows, int64 total)
{
	char text[	3 * MAXINT8LEN + 3];
	char	   *end = text;

	if (rows > 0)
	{
		end += pg_lltoa(offset, end);
		*end++ = '-';
		end += pg_lltoa(offset + rows - 1, end);
	}
	else
		*end++ = '*';
	*end++ = '/';
	if (total >= 0)
		(void) pg_lltoa(total, end);
	else
		strcpy(end, "*");
	orion_response_header(call->response, "Content-Range", text);
}

static void
refuse_range(const char *details)
{
	orion_refuse(416, "PGRST103", "Requested range not satisfiable", details, NULL);
}

/* An answer that tells how many there are; a write is not to be kept, though. */
static void
answer_behind(OrionCall *call, int64 offset, int64 total)
{
	char	   *details = psprintf("An offset of " INT64_FORMAT " was requested, but there are only "
								   INT64_FORMAT " rows.", offset, total);

	if (!orion_call_reads(call))
		refuse_range(details);
	orion_response_error(call->response, 416, "PGRST103", "Requested range not satisfiable", details, NULL);
	orion_result_range(call, 0, 0, total);
}

int64
orion_result_offset(const OrionCall *call)
{
	return call->query.has_offset ? call->query.offset : 0;
}

bool
orion_result_is_behind(OrionCall *call, int64 total)
{
	int64		offset = orion_result_offset(call);

	if (total < 0 || offset <= total)
		return false;
	answer_behind(call, offset, total);
	return true;
}

/* Status and Content-Range of a page; false when it is behind the last row: answered. */
static bool
put_page(OrionCall *call, int64 rows, int64 total)
{
	orion_result_check_one(call, rows);
	if (orion_result_is_behind(call, total))
		return false;
	call->response->status = total >= 0 && rows < total ? 206 : 200;
	orion_result_range(call, orion_result_offset(call), rows, total);
	return true;
}

void
orion_result_page_of(OrionCall *call, int64 total)
{
	if (put_page(call, orion_result_int(0, 0), total))
		orion_result_body(call, 1, orion_media_empty(call));
}

void
orion_result_page_written(OrionCall *call, int64 rows, int64 total)
{
	if (put_page(call, rows, total))
		orion_response_header(call->response, "Content-Type", orion_media_type(call));
}

/* first-last or first-; false for any other text, which is ignored (RFC 9110, section 14.2) */
static bool
read_range(const char *text, int64 *first, int64 *last)
{
	char	   *end;

	if (strncmp(text, "items=", 6) == 0)
		text	  +=6;

	if (!isdigit((unsigned char) *text))
		return false;
	errno = 0;
	*first = strtoll(text, &end, 10);
	if (*end++ != '-' || errno != 0)
		return false;
	*last = PG_INT64_MAX;
	if (*end == '\0')
		return true;
	if (!isdigit((unsigned char) *end))
		return false;
	*last = strtoll(end, &end, 10);
	return *end == '\0' && errno == 0;
}

void
orion_call_range(OrionCall *call)
{
	OrionQuery *query = &call->query;
	const char *header = call->method == ORION_GET ? orion_call_header(call, "range") : NULL;
	int64		first;
	int64		last;
	int64		skipped = query->has_offset ? Max(query->offset, 0) : 0;

	if (query->has_limit && query->limit < 0)
		refuse_range("Limit should be greater than or equal to zero.");
	query->offset = skipped;
	if (header == NULL || !read_range(header, &first, &last))
		return;
	if (first > last && !(query->has_limit && query->limit == 0))
		refuse_range("The lower boundary must be lower than or equal to the upper boundary in the Range header.");
	if (query->has_limit && query->limit < PG_INT64_MAX - skipped)
		last = Min(last, skipped + query->limit - 1);
	first = Max(first, skipped);
	if (last < first && !(query->has_limit && query->limit == 0))
		refuse_range("Limit should be greater than or equal to zero.");
	query->has_offset = first > 0;
	query->offset = first;
	query->has_limit = last != PG_INT64_MAX;
	query->limit = query->has_limit ? Max(last - first + 1, 0) : 0;
}

void
orion_call_filters(OrionCall *call, bool (*skip) (void *context, const char *name), void *context)
{
	OrionQueryError error;

	for (OrionParam *param = call->query.params; param; param = param->next)
		if ((skip == NULL || !skip(context, param->name)) &&
			!orion_query_filter(&call->arena, param, &call->query, &error))
			orion_refuse_query(&error);
}
