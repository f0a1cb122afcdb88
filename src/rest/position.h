/*
 * position.h
 *	  Positions in the write-ahead log: told with each write, waited for on a standby.
 */
#ifndef ORION_REST_POSITION_H
#define ORION_REST_POSITION_H

#include "rest/call.h"

extern int	orion_standby_wait_timeout; /* setting orion.standby_wait_timeout,
										 * ms */

/*
 * Before the transaction: whether the server has all up to the position that the client
 * prefers to wait for, or there is none.  False: response->wait says how long the request
 * is to be put aside.  Refuses what is malformed, lost or, once it was put
 * aside for that long, still not there.
 */
extern bool orion_position_reached(OrionCall *call);

/* "wait-lsn=..." and so on, for Preference-Applied; NULL without that preference. */
extern const char *orion_position_preference(const OrionCall *call);

/* Does Preference-Applied itself, for answers that are not of a resource. */
extern void orion_position_applied(OrionCall *call);

/* Is this (one of Prefer) about positions? */
extern bool orion_position_is_preference(const char *text);

/* Right before a commit and right after: Orion-LSN, where something was written. */
extern void orion_position_before_commit(void);
extern void orion_position_committed(OrionResponse *response);

/* Orion-LSN of what was written before, by an earlier request. */
extern void orion_position_of_replay(OrionResponse *response);

extern void orion_position_init(void);

#endif							/* ORION_REST_POSITION_H */
