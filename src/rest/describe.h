/*
 * describe.h
 *	  The statements that describe a schema.
 */
#ifndef ORION_REST_DESCRIBE_H
#define ORION_REST_DESCRIBE_H

#include "postgres.h"

/* OpenAPI 2.0 or 3.1; needs search_path to be pg_catalog. Parameters: see describe.c. */
extern char *orion_describe(bool version_three);

#endif							/* ORION_REST_DESCRIBE_H */
