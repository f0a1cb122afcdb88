/*
 * write.h
 *	  What write.c and nested.c share.
 */
#ifndef ORION_REST_WRITE_H
#define ORION_REST_WRITE_H

#include "rest/body.h"
#include "rest/etag.h"
#include "rest/read.h"
#include "rest/statement.h"

/* A column that does not come from the body. */
typedef struct OrionConstant
{
	const char *name;
	Oid			type;
	const char *value;			/* as text; NULL: null */
} OrionConstant;

typedef struct OrionWrite
{
	OrionCall  *call;
	const OrionSource *source;
	OrionBody	body;
	List	   *names;			/* char *: columns that the body sets */
	List	   *constants;		/* OrionConstant *: columns beside them */
	List	   *conflict;		/* char *: what tells that a row is there
								 * already */
	List	   *location;		/* char *: primary key that Location is made
								 * of */
	OrionRead  *read;			/* of the representation, or NULL */
	OrionMatch	match;			/* If-Match and If-None-Match */
	OrionStatement st;
} OrionWrite;

/* "WITH w AS (INSERT INTO ... SELECT ... FROM the body", and nothing after it. */
extern void orion_write_add_insert(OrionWrite *w);

/* The columns of "t" that the representation needs; the row of the answer around "w". */
extern void orion_write_add_represented(OrionWrite *w);
extern void orion_write_add_answer(OrionWrite *w);

/* Status and Content-Range of a write that touched rows. */
extern void orion_write_finish(OrionWrite *w, int64 rows);

/* Location, of the columns from the third of the row SPI holds. */
extern void orion_write_put_location(OrionWrite *w);

extern void orion_write_refuse_column(const OrionSource *source, const char *name) pg_attribute_noreturn();

#endif							/* ORION_REST_WRITE_H */
