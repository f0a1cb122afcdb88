/*
 * error.h
 *	  From errors to answers.
 */
#ifndef ORION_REST_ERROR_H
#define ORION_REST_ERROR_H

#include "postgres.h"

#include "rest/call.h"

/*
 * Ends the request with an answer that no SQLSTATE stands for (PGRSTnnn codes).
 * An ERROR, so the transaction rolls back.  details and hint may be NULL.
 */
extern void orion_refuse(int status, const char *code, const char *message,
						 const char *details, const char *hint) pg_attribute_noreturn();

/* Likewise with Retry-After, in seconds; the first with 429. */
extern void orion_refuse_for_now(const char *code, const char *message,
								 int retry_after) pg_attribute_noreturn();
extern void orion_refuse_later(int status, const char *code, const char *message,
							   int retry_after) pg_attribute_noreturn();

/*
 * What another server could do: with Retry-After, and Location where the primary's address
 * is known (405: with Allow).
 */
extern void orion_refuse_standby(int status, const char *code, const char *message,
								 const char *hint) pg_attribute_noreturn();

/* Rolls back, and the response as it is now is the answer. */
extern void orion_refuse_as_is(void) pg_attribute_noreturn();

/* The same with 401 for a token; the WWW-Authenticate header says why. */
extern void orion_refuse_token(const char *code, const char *message,
							   const char *details) pg_attribute_noreturn();
extern void orion_refuse_query(const OrionQueryError *error) pg_attribute_noreturn();

/*
 * In PG_CATCH: makes the current error the answer of the call and clears it.  Aborts any
 * transaction.
 */
extern void orion_error_answer(OrionCall *call, MemoryContext context);

/* The same within a subtransaction, which alone is rolled back; the answer is another one. */
extern void orion_error_answer_part(const OrionCall *call, OrionResponse *response, MemoryContext context);

#endif							/* ORION_REST_ERROR_H */
