/*
 * record.h
 *	  Optimistic locking: orion_update() changes a row of any table or view, if it
 *	  still has the version its editor saw.
 *
 * The functions callable by SQL are in record.sql.
 */
#ifndef ORION_RECORD_H
#define ORION_RECORD_H

#include "postgres.h"

/*
 * Has the relation a column "version" that the trigger orion_version_bump of the
 * schema counts at every update, whatever columns it sets?
 */
extern bool orion_record_counts_versions(Oid relid, Oid schema);

#endif							/* ORION_RECORD_H */
