/*
 * result.h
 *	  Takes what a statement returned into the answer.
 */
#ifndef ORION_REST_RESULT_H
#define ORION_REST_RESULT_H

#include "postgres.h"

#include "rest/call.h"

/* Column n (from 0) of the only row SPI holds. The second: text or json, NULL if null. */
extern int64 orion_result_int(int n, int64 absent);
extern char *orion_result_text(int n);

/* Makes column n (json) the body of the answer; instead is for null. */
extern void orion_result_body(OrionCall *call, int n, const char *instead);

/* The answer is longer than orion.rest_max_answer_size. */
extern void orion_result_refuse_size(void) pg_attribute_noreturn();

/* Refuses (406) when one object was asked for and there is not one row. */
extern void orion_result_check_one(const OrionCall *call, int64 rows);

/* Content-Range; total -1: not known. */
extern void orion_result_range(OrionCall *call, int64 offset, int64 rows, int64 total);

/* How many rows the query skips. */
extern int64 orion_result_offset(const OrionCall *call);

/* Skips the query more rows than there are? Then that is answered, with 416. */
extern bool orion_result_is_behind(OrionCall *call, int64 total);

/*
 * Of a page of rows: body from column 1, number of rows in 0; status 200, 206 or a
 * refusal with 416.  total: of all pages; -1: not known.
 */
extern void orion_result_page_of(OrionCall *call, int64 total);

/* The same with so many rows, whose body is written already. */
extern void orion_result_page_written(OrionCall *call, int64 rows, int64 total);

/* Range: narrows limit and offset of the query; refuses (416) what no range can be. */
extern void orion_call_range(OrionCall *call);

/* Reads parameters as filters, but those that skip says are something else. */
extern void orion_call_filters(OrionCall *call, bool (*skip) (void *context, const char *name), void *context);

/* Appends the text, percent-encoded as a name or value of a query string. */
extern void orion_result_escape(StringInfo out, const char *text);

/* Would it be left as it is? */
extern bool orion_result_is_unreserved(const char *text, size_t len);

#endif							/* ORION_REST_RESULT_H */
