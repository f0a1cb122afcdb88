/*
 * error.h
 *	  Orion's own SQLSTATEs: the whole table.
 *
 * PTxyz follows PostgREST: over HTTP the answer's status is xyz.  Class OR is
 * for errors no HTTP status describes.  Everything else uses PostgreSQL's own
 * codes.  Outcomes that must survive (a failed login) are returned, not raised.
 */
#ifndef ORION_ERROR_H
#define ORION_ERROR_H

#include "utils/elog.h"

#define ERRCODE_ORION_BAD_REQUEST		MAKE_SQLSTATE('P','T','4','0','0')
#define ERRCODE_ORION_UNAUTHORIZED		MAKE_SQLSTATE('P','T','4','0','1')
#define ERRCODE_ORION_NOT_FOUND			MAKE_SQLSTATE('P','T','4','0','4')
#define ERRCODE_ORION_CONFLICT			MAKE_SQLSTATE('P','T','4','0','9')
#define ERRCODE_ORION_UNPROCESSABLE		MAKE_SQLSTATE('P','T','4','2','2')
#define ERRCODE_ORION_TOO_MANY			MAKE_SQLSTATE('P','T','4','2','9')

/* a key, library or program that Orion needs is missing or unusable */
#define ERRCODE_ORION_UNAVAILABLE		MAKE_SQLSTATE('O','R','0','0','1')
/* sealed data that does not open: wrong master key, or altered */
#define ERRCODE_ORION_SEAL_BROKEN		MAKE_SQLSTATE('O','R','0','0','2')

#endif							/* ORION_ERROR_H */
