/*
 * json_row.h
 *	  Rows of the executor as JSON objects, byte for byte as row_to_json writes them.
 *
 * row_to_json looks up each column's type, output function and casts anew for each
 * row, and wants the row put together as a record before.
 */
#ifndef ORION_REST_JSON_ROW_H
#define ORION_REST_JSON_ROW_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "executor/tuptable.h"
#include "lib/stringinfo.h"

typedef struct OrionJsonRow OrionJsonRow;

/* How rows of that shape are written; palloc'ed. */
extern OrionJsonRow *orion_json_row_make(TupleDesc desc);

/* Appends the row.  Needs memory, which the caller may give back afterwards. */
extern void orion_json_row_write(const OrionJsonRow *row, TupleTableSlot *slot, StringInfo out);

#endif							/* ORION_REST_JSON_ROW_H */
