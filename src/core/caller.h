/*
 * caller.h
 *	  Who calls, for functions that run as their owner.
 */
#ifndef ORION_CORE_CALLER_H
#define ORION_CORE_CALLER_H

#include "postgres.h"

/*
 * This process calls a user's function on behalf of the role, until told otherwise;
 * InvalidOid: no more.
 */
extern void orion_caller_set(Oid role);

#endif							/* ORION_CORE_CALLER_H */
