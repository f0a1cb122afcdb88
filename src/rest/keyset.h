/*
 * keyset.h
 *	  Pages by position: ?cursor=, and the Link to the next page.
 */
#ifndef ORION_REST_KEYSET_H
#define ORION_REST_KEYSET_H

#include "rest/call.h"
#include "rest/read.h"

typedef struct OrionKey
{
	const OrionOrder *order;
	Oid			type;			/* of the position's value */
	bool		never_null;
	char	   *value;			/* of the last row seen, as text; NULL: null */
} OrionKey;

typedef struct OrionKeyset
{
	bool		started;		/* there is a position */
	int64		page;			/* rows of a page; -1: no limit */
	char	   *binding;		/* what the cursor belongs to: a digest */
	int			n;
	OrionKey   *keys;
} OrionKeyset;

/*
 * The cursor that the query asks for, taken out of its parameters; NULL when it asks
 * for none.  Makes the order a total one.  Refuses (400) a cursor that is not ours,
 * or belongs to another query or user.
 */
extern OrionKeyset *orion_keyset_begin(OrionCall *call, const OrionSource *source);

/* Appends the condition that rows come behind the position; nothing on the first page. */
extern void orion_keyset_where(OrionStatement *st, const OrionRead *read, const char *joint);

/* After the page is answered with so many rows: the Link to the next one, if there is one. */
extern void orion_keyset_link(OrionCall *call, const OrionRead *read, int64 rows);

#endif							/* ORION_REST_KEYSET_H */
