/*
 * handler.h
 *	  Media types that the schema makes itself: domains of their names, and the
 *	  functions and aggregates that return them.
 */
#ifndef ORION_REST_HANDLER_H
#define ORION_REST_HANDLER_H

#include "postgres.h"

typedef struct OrionHandler
{
	const char *media;			/* what the answer is, without parameters */
	const char *function;		/* the aggregate, quoted */
	const char *row;			/* the row type it takes, quoted; NULL: any */
	const char *cast;			/* makes text or bytea of it: "cast(", without
								 * its end */
	const char *cast_end;
} OrionHandler;

/* Whether there is any domain that stands for a type Orion makes by itself. Cached. */
extern bool orion_handler_overrides(void);

/* Is the type of a scalar a domain for the media type accepted, or for all of them? */
extern bool orion_handler_scalar(Oid type, const char *accept, OrionHandler *handler);

/*
 * An aggregate of the exposed schemas for the media type: over this row type
 * (InvalidOid: not looked for), or over any.
 */
extern bool orion_handler_rows(Oid row, const char *accept, OrionHandler *handler);

/* ST_AsGeoJSON of PostGIS, over rows; quoted, or NULL where it is not installed. */
extern const char *orion_handler_geojson(void);

#endif							/* ORION_REST_HANDLER_H */
