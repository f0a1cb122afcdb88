/*
 * contract.h
 *	  Contracts of event types: what their payloads must look like.
 *
 * orion_private.event_types has them, a JSON Schema for each version of a type.
 * Each backend keeps those it has used in compiled form (cache.c); a change is
 * seen by everybody from its commit on.
 */
#ifndef ORION_CONTRACT_H
#define ORION_CONTRACT_H

#include "postgres.h"

/*
 * Errors when the payload (a jsonb) breaks the contract of that version of the
 * type, when the type has contracts but none of that version, and when it has
 * none and orion.contract_required_types asks for one.  Needs a transaction.
 */
extern void orion_contract_check(const char *type, int32 version, Datum payload);

extern void orion_contract_init(void);

#endif							/* ORION_CONTRACT_H */
