/*
 * reference.h
 *	  References of a batch's operation to the answers of earlier ones: $1.id, $name.id.
 */
#ifndef ORION_REST_REFERENCE_H
#define ORION_REST_REFERENCE_H

#include "rest/call.h"

typedef struct OrionOperation
{
	const char *id;				/* or NULL */
	const char *method;
	const char *path;			/* behind the prefix; as given */
	const char *body;			/* JSON text, or NULL */
	bool		literal;		/* nothing in the body is a reference */
	bool		referred;		/* a later one refers to it */
	int			nheaders;
	OrionHeader *headers;
	OrionResponse response;		/* once it is done */
	bool		json;			/* its body is one valid JSON text */
} OrionOperation;

/* Marks the operations that number "at" (from 0) refers to; refuses those not before it. */
extern void orion_reference_mark(OrionOperation *operations, int at);

/*
 * With each reference replaced by its value: in JSON by the value as it is, in a query
 * string by its text, escaped so that it stays one value.
 */
extern char *orion_reference_body(const OrionOperation *operations, int at);
extern char *orion_reference_query(const OrionOperation *operations, int at, const char *query);

#endif							/* ORION_REST_REFERENCE_H */
