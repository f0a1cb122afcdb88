/*
 * explain.h
 *	  Says what is wrong with a query string that is outside of the grammar.
 */
#ifndef ORION_REST_EXPLAIN_H
#define ORION_REST_EXPLAIN_H

#include <stdbool.h>
#include <stddef.h>

#include "rest/query.h"

/*
 * Where (in characters, from 1) the text leaves the rule, and what could have stood
 * there: the words of PostgREST.  False when it does not leave it, or goes too deep.
 */
extern bool orion_query_explain(const OrionArena *arena, OrionQueryRule rule, const char *text,
								int *column, char **details);

#endif							/* ORION_REST_EXPLAIN_H */
