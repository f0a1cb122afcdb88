/*
 * function.h
 *	  Finds the function that a request calls.
 */
#ifndef ORION_REST_FUNCTION_H
#define ORION_REST_FUNCTION_H

#include "postgres.h"

#include "utils/array.h"

#include "rest/relation.h"

typedef struct OrionFunction
{
	Oid			oid;
	const char *schema;
	const char *name;
	const char *quoted;			/* schema-qualified */
	int			nargs;			/* all: in, out, variadic, table */
	Oid		   *types;
	char	  **names;			/* NULL: none is named */
	char	   *modes;			/* NULL: all are in */
	int			ninputs;
	int			ndefaults;
	Oid			result;
	bool		set;
	bool		columns;		/* has out or table arguments */
	char		volatility;
	ArrayType  *config;			/* settings it is declared with, or NULL */
} OrionFunction;

/* What the function may take the whole body as, when no argument has a name. */
typedef enum OrionWhole
{
	ORION_WHOLE_NONE,
	ORION_WHOLE_JSON,
	ORION_WHOLE_TEXT,
	ORION_WHOLE_XML,
	ORION_WHOLE_BYTEA,
} OrionWhole;

/*
 * The function of that name in the schema of the call, or of Orion itself, that
 * takes exactly these arguments (char *; those with defaults may be missing).
 * Where none does, or JSON with the only key "" is given, one that takes the whole
 * body; true is returned then.  Refuses none and several.  named: the body has names
 * of arguments at all; one that has none goes to a function that takes it whole, or
 * is of no interest to one that needs no argument.
 */
extern bool orion_function_find(OrionCall *call, const char *name, List *given, bool named,
								OrionWhole whole, OrionFunction *f);

/* Index of an input argument, or -1. */
extern int	orion_function_argument(const OrionFunction *f, const char *name);
extern bool orion_function_is_variadic(const OrionFunction *f, int argument);

/*
 * Whether GET may call the function, as it is not volatile: the one that takes these
 * arguments.  Where none are given and none takes none, any of the name.  Refuses
 * none and several.
 */
extern bool orion_function_is_safe(OrionCall *call, const char *name, List *given);

/* The columns of the result; false: one scalar. */
extern bool orion_function_source(const OrionFunction *f, OrionSource *source);

#endif							/* ORION_REST_FUNCTION_H */
