/*
 * nested.h
 *	  POST of rows together with the rows that belong to them.
 */
#ifndef ORION_REST_NESTED_H
#define ORION_REST_NESTED_H

#include "rest/write.h"

/*
 * Has the body a key that is no column, but names a relation embedded by select=?
 */
extern bool orion_nested_asked(const OrionWrite *w);

/* Inserts all rows of the body and answers. */
extern void orion_nested_insert(OrionWrite *w);

#endif							/* ORION_REST_NESTED_H */
