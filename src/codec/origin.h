/*
 * origin.h
 *	  Lists of origins, as orion.http_cors_allowed_origins is one.
 *
 * Pure C; shared by the executors and the gateway.
 */
#ifndef ORION_ORIGIN_H
#define ORION_ORIGIN_H

#include <stdbool.h>

/* Is the origin one of the list, whose members have commas or blanks between them?  Compared byte by byte. */
extern bool orion_origin_listed(const char *list, const char *origin);

#endif							/* ORION_ORIGIN_H */
