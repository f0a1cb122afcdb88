/*
 * storage.h
 *	  Tables of schema orion_private, for code that reads them without SQL.
 */
#ifndef ORION_STORAGE_H
#define ORION_STORAGE_H

#include "postgres.h"

/* Raises ERRCODE_ORION_UNAVAILABLE where the extension is not installed. */
extern Oid	orion_storage_table(const char *name);

/* Who may read all of it. */
extern Oid	orion_storage_owner(Oid table);

#endif							/* ORION_STORAGE_H */
