/*
 * body.h
 *	  The body of a request as JSON text and the names in it.
 */
#ifndef ORION_REST_BODY_H
#define ORION_REST_BODY_H

#include "postgres.h"

#include "nodes/pg_list.h"

#include "rest/call.h"

typedef struct OrionBody
{
	char	   *text;			/* valid JSON; forms are made into an object
								 * of strings */
	bool		array;			/* an array of objects, else one object */
	bool		object;
	char	   *first;			/* text of the array's first object, or NULL */
	List	   *keys;			/* char *: of the object, or of each object of
								 * the array */
} OrionBody;

/*
 * Reads an object or, where arrays is set, an array of objects with the same
 * keys each; refuses anything else.  An absent body is {} where optional.
 */
extern void orion_body_read(const OrionCall *call, bool arrays, bool optional, OrionBody *body);

/*
 * Of JSON text of any shape: the object it is, or the first of the array it is, as
 * body->first with its keys; first is NULL when there is none.
 */
extern void orion_body_first(char *text, OrionBody *body);

/* Refuses, of JSON text of any shape, what is neither an object nor an array; also none (NULL). */
extern void orion_body_check_kind(const OrionCall *call, const char *text);

/* Refuses an array, in JSON text of any shape, that is not of objects with the same keys each. */
extern void orion_body_check_objects(const OrionCall *call, const char *text);

/* The body as text; refuses what is not UTF-8 or has a NUL.  NULL when it is empty. */
extern char *orion_body_text(const OrionCall *call);

/* Whether Content-Type says so, parameters aside. */
extern bool orion_body_is(const OrionCall *call, const char *type);

/* The body as JSON text of any shape; NULL when there is none. */
extern char *orion_body_json(const OrionCall *call);

/* Whether a buffer, which ends in a NUL byte behind len, is one valid JSON text. */
extern bool orion_body_is_json(const char *text, size_t len);

#endif							/* ORION_REST_BODY_H */
