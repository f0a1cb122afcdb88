/*
 * session.h
 *	  The transaction of a request: who it runs as and what it can ask for.
 */
#ifndef ORION_REST_SESSION_H
#define ORION_REST_SESSION_H

#include "rest/call.h"

/* Begins the transaction, as the session user still. */
extern void orion_session_begin(OrionCall *call);

/*
 * Verifies the token, becomes the role, sets request.* and search_path (schema may
 * be NULL) and connects to SPI.
 */
extern void orion_session_enter(OrionCall *call, const char *search_schema);

/* Ends the transaction. */
extern void orion_session_commit(bool roll_back);

/* From now on the transaction may only read. */
extern void orion_session_read_only(void);

/* After the transaction, also a failed one. */
extern void orion_session_end(bool failed);

/* Once, when the server starts. */
extern void orion_session_init(void);

#endif							/* ORION_REST_SESSION_H */
