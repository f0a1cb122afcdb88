/*
 * settings.h
 *	  The settings orion.rest_*, as last loaded.
 */
#ifndef ORION_REST_SETTINGS_H
#define ORION_REST_SETTINGS_H

#include "postgres.h"

extern char *orion_rest_prefix;
extern char *orion_rest_schemas;
extern char *orion_rest_anon_role;
extern int	orion_rest_max_rows;	/* -1: no limit */

/* Bytes of orion_rest_prefix without trailing slashes. */
extern size_t orion_rest_prefix_length(void);

#endif							/* ORION_REST_SETTINGS_H */
