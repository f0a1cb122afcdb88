/*
 * session.h
 *	  What opening a session takes from elsewhere in the module.
 */
#ifndef ORION_AUTH_SESSION_H
#define ORION_AUTH_SESSION_H

#include "postgres.h"

#include "utils/uuid.h"

/* A new key for the refresh tokens of a session, sealed, and the first of these tokens. */
extern bytea *orion_refresh_start(const pg_uuid_t *session, text **token);

#endif							/* ORION_AUTH_SESSION_H */
