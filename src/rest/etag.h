/*
 * etag.h
 *	  ETag, If-Match and If-None-Match (RFC 9110, sections 8.8.3 and 13).
 *
 * A tag is strong: a digest of the answer's bytes, and of one row whose version the
 * trigger orion_version_bump counts also that version: "v7.0123...".  Such a row
 * is known by its version alone, whatever of it was selected.
 */
#ifndef ORION_REST_ETAG_H
#define ORION_REST_ETAG_H

#include "rest/call.h"
#include "rest/statement.h"

extern bool orion_rest_require_if_match;

/* The conditions of a write. */
typedef struct OrionMatch
{
	bool		any;			/* If-Match: *, there must be a row */
	bool		none;			/* If-None-Match: *, there must be none */
	int			nversions;		/* the one row must have one of these */
	int64	   *versions;
	int64		rows;			/* that must be written, no more nor less; -1:
								 * not known */
} OrionMatch;

/* Of a complete answer to GET or HEAD: its tag, and 304 or 412 where a condition says so. */
extern void orion_etag_answer(OrionCall *call);

/* Of a representation that a write returns. */
extern void orion_etag_put(OrionCall *call);

/*
 * Before a write to the rows of the call's filters.  Conditions that are about content
 * are decided here, with the rows locked until the end of the transaction; those
 * about versions become a part of the statement.  Refuses (412, 428).
 */
extern void orion_etag_before(const OrionCall *call, const OrionSource *source, OrionMatch *match);

/* Appends the condition on "t"."version", behind joint; nothing where there is none. */
extern void orion_etag_where(OrionStatement *st, const OrionMatch *match, const char *joint);

/* After the write of so many rows, of which so many were there before.  Refuses (412). */
extern void orion_etag_after(const OrionMatch *match, int64 rows, int64 existed);

#endif							/* ORION_REST_ETAG_H */
