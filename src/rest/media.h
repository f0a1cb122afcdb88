/*
 * media.h
 *	  Accept: which form the answer has, and the SQL that makes it.
 */
#ifndef ORION_REST_MEDIA_H
#define ORION_REST_MEDIA_H

#include "postgres.h"

#include "rest/call.h"
#include "rest/statement.h"

/* Reads Accept (RFC 9110, section 12.5.1) into call->media and call->one; refuses what cannot be made. */
extern void orion_media_read(OrionCall *call);

/* The value of Content-Type. */
extern const char *orion_media_type(const OrionCall *call);

/* The body's text where there are no rows. */
extern const char *orion_media_empty(const OrionCall *call);

/* Appends the aggregate over the rows "w" that is the body. */
extern void orion_media_body(OrionStatement *st, const OrionCall *call);

/*
 * Instead of orion_statement_run where call->media.plan is set: the plan of the
 * statement is the answer.  Executes it only for options=analyze.
 */
extern void orion_media_explain(OrionCall *call, const OrionStatement *st);

#endif							/* ORION_REST_MEDIA_H */
