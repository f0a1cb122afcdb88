/*
 * hint.h
 *	  What somebody may have meant who named a thing that is not there.
 *
 * Only names are told that the role of the request may use.
 */
#ifndef ORION_REST_HINT_H
#define ORION_REST_HINT_H

#include "postgres.h"

#include "nodes/pg_list.h"

/*
 * Of the candidates (char *) the one most like wanted, or NULL when none is alike to
 * that degree (0 to 1).  One that is the same is no hint.
 */
extern const char *orion_hint_best(List *candidates, const char *wanted, double least);

/* A table, view or function of the schema; NULL when there is nothing like it. */
extern const char *orion_hint_table(const char *schema, const char *wanted);
extern const char *orion_hint_function(const char *schema, const char *wanted);

/* May the role use anything of the relation? */
extern bool orion_hint_may_tell(Oid relid);

/* How alike the names of things and those of arguments must be. */
#define ORION_HINT_NAME			0.75
#define ORION_HINT_ARGUMENTS	0.33

#endif							/* ORION_REST_HINT_H */
