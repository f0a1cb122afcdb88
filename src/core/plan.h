/*
 * plan.h
 *	  Kept plans of statements that are built at run time.
 */
#ifndef ORION_PLAN_H
#define ORION_PLAN_H

#include "postgres.h"

#include "executor/spi.h"

/* What a caller has found out about a kept plan: zero at first, gone with it. */
typedef struct OrionPlanNote
{
	int			plan;			/* CachedPlan.generation that it was found out
								 * of */
	uint64		generation;		/* of the rest it depends on */
	bool		closed;			/* see rest/closed.h */
} OrionPlanNote;

/*
 * The plan of text for the current role, prepared when it is not there yet.
 * Needs an SPI connection.  Valid until the next call, at most until SPI_finish:
 * the least recently used plans are dropped, and long texts are not kept.  Values never belong into text.
 */
extern SPIPlanPtr orion_plan_get(const char *text, size_t len, int nargs, const Oid *types);

/* The same, and its note; NULL when the plan is not kept. */
extern SPIPlanPtr orion_plan_find(const char *text, size_t len, int nargs, const Oid *types, OrionPlanNote **note);

#endif							/* ORION_PLAN_H */
