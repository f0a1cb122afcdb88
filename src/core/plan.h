/*
 * plan.h
 *	  Kept plans of statements that are built at run time.
 */
#ifndef ORION_PLAN_H
#define ORION_PLAN_H

#include "postgres.h"

#include "executor/spi.h"

/*
 * The plan of text for the current role, prepared when it is not there yet.
 * Needs an SPI connection.  Valid until the next call, at most until SPI_finish:
 * the least recently used plans are dropped, and long texts are not kept.  Values never belong into text.
 */
extern SPIPlanPtr orion_plan_get(const char *text, size_t len, int nargs, const Oid *types);

#endif							/* ORION_PLAN_H */
