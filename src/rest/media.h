/*
 * media.h
 *	  Accept: which form the answer has, and the SQL that makes it.
 */
#ifndef ORION_REST_MEDIA_H
#define ORION_REST_MEDIA_H

#include "postgres.h"

#include "rest/call.h"
#include "rest/statement.h"

/* Reads Accept (RFC 9110, section 12.5.1) into call->media and call->one. */
extern void orion_media_read(OrionCall *call);

/*
 * Asks the database for types that Orion does not make itself: a domain of that name
 * which the function returns (scalar), or which an aggregate over rows of the
 * relation (or of any) returns.  Refuses when nothing is left to answer with.
 */
extern void orion_media_resolve(OrionCall *call, Oid relid, Oid scalar);

/* Whether Accept names the type, or there is none. */
extern bool orion_media_wants(const OrionCall *call, const char *type);

/* Refuses (406) all that Accept names. */
extern void orion_media_refuse(const OrionCall *call) pg_attribute_noreturn();

/* A media type as messages name it: of those that are known without parameters. */
extern const char *orion_media_name(const char *type);

/* The value of Content-Type; refuses when orion_media_resolve was needed and not called. */
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
