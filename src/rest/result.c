/*
 * result.c
 *	  Takes what a statement returned into the answer: body, range, status.
 *
 * Bodies are made in SQL, as one json value of one row; here they are only
 * copied out of the transaction's memory.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "core/compat.h"
#include "rest/error.h"
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

char	   *
orion_result_text(int n)
{
	bool		isnull;
	Datum		datum = value(n, &isnull);

	return isnull ? NULL : TextDatumGetCString(datum);
}

void
orion_result_body(OrionCall *call, int n, const char *instead)
{
	bool		isnull;
	Datum		datum = value(n, &isnull);
	struct varlena *json;

	orion_response_header(call->response, "Content-Type", call->one ? ORION_JSON_ONE : ORION_JSON);
	if (isnull)
	{
		appendStringInfoString(&call->response->body, instead);
		return;
	}
	/* each copy on the way to the client takes as much memory again */
	if (toast_raw_datum_size(datum) > (Size) orion_rest_max_answer_size * 1024)
		orion_refuse(500, "54000", psprintf("the answer has more than %d kB", orion_rest_max_answer_size), NULL,
					 "Ask for fewer rows or columns, or raise orion.rest_max_answer_size.");
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

void
orion_result_range(OrionCall *call, int64 offset, int64 rows, int64 total)
{
	char text[	80];
	int			n = rows > 0 ?
	snprintf(text, sizeof(text), INT64_FORMAT "-" INT64_FORMAT, offset, offset + rows - 1) :
	snprintf(text, sizeof(text), "*");

	if (total >= 0)
		snprintf(text +n, sizeof(text) - n, "/" INT64_FORMAT, total);
	else
		snprintf(text +n, sizeof(text) - n, "/*");
	orion_response_header(call->response, "Content-Range", text);
}

void
orion_result_page(OrionCall *call)
{
	int64		rows = orion_result_int(0, 0);
	int64		total = call->prefer.count == ORION_COUNT_EXACT ? orion_result_int(2, -1) : -1;
	int64		offset = call->query.has_offset ? call->query.offset : 0;

	orion_result_check_one(call, rows);
	if (total >= 0 && offset > total)
		orion_refuse(416, "PGRST103", "Requested range not satisfiable",
					 psprintf("An offset of " INT64_FORMAT " was requested, but there are only "
							  INT64_FORMAT " rows.", offset, total), NULL);
	call->response->status = total >= 0 && rows < total ? 206 : 200;
	orion_result_range(call, offset, rows, total);
	orion_result_body(call, 1, call->one ? "null" : "[]");
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
