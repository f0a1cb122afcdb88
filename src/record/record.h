/*
 * record.h
 *	  Optimistic locking: orion_update() changes a row of any table or view, if it
 *	  still has the version its editor saw.
 *
 * SQL-callable only; see record.sql.
 */
#ifndef ORION_RECORD_H
#define ORION_RECORD_H

#endif							/* ORION_RECORD_H */
