/*
 * closed.h
 *	  Statements that cannot look at the session, nor change it.
 */
#ifndef ORION_REST_CLOSED_H
#define ORION_REST_CLOSED_H

#include "postgres.h"

#include "nodes/pg_list.h"

/*
 * Does the statement (its queries after parse analysis and rewriting, policies
 * included, and their plans) run nothing but functions of PostgreSQL itself that ask for
 * no setting of a request and change none, over types of PostgreSQL itself and enums?
 * Its relations must be locked.
 */
extern bool orion_statement_is_closed(List *queries, List *plans);

/* Another number after a change that may make another answer, though no relation was changed. */
extern uint64 orion_closed_generation(void);

/* May making a value of this type run somebody's function? */
extern bool orion_type_is_open(Oid type);

extern void orion_closed_init(void);

#endif							/* ORION_REST_CLOSED_H */
