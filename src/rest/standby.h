/*
 * standby.h
 *	  What a hot standby answers to those who want to write.
 */
#ifndef ORION_REST_STANDBY_H
#define ORION_REST_STANDBY_H

#include "rest/call.h"

#define ORION_RETRY_SECONDS	"5" /* when the server lacks something, and may
								 * have it soon */

/* Refuses the request, which is going to write, on a standby. */
extern void orion_standby_refuse(void);

/* Do the methods that write not exist here? */
extern bool orion_standby_has_no_writes(void);

/* The same as an answer, of a statement that has tried. */
extern void orion_standby_answer(const OrionCall *call, OrionResponse *response);

/* Adds where else, or what else. */
extern void orion_standby_headers(const OrionCall *call, OrionResponse *response);

extern void orion_standby_init(void);

#endif							/* ORION_REST_STANDBY_H */
