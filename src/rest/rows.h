/*
 * rows.h
 *	  Rows of a statement straight into the body of the answer.
 */
#ifndef ORION_REST_ROWS_H
#define ORION_REST_ROWS_H

#include "rest/call.h"
#include "rest/statement.h"

/* Can the answer be made row by row, without an aggregate in SQL? */
extern bool orion_rows_possible(const OrionCall *call);

/*
 * Runs a statement; its rows become a JSON array of objects in the body, as json_agg
 * writes one, or the first of them the body when one object was asked
 * for.  Returns their number.  Refuses (500) what is longer than
 * orion.rest_max_answer_size.
 */
extern int64 orion_rows_run(OrionCall *call, OrionStatement *st);

/* The same for a request of which orion_joint_repeats is true. */
extern int64 orion_rows_repeat(OrionCall *call);

#endif							/* ORION_REST_ROWS_H */
