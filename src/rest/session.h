/*
 * session.h
 *	  The transaction of a request: who it runs as and what it can ask for.
 */
#ifndef ORION_REST_SESSION_H
#define ORION_REST_SESSION_H

#include "rest/call.h"

struct ArrayType;

/*
 * Begins the transaction, as the session user still.  may_keep_path: the request sets
 * search_path itself before it matters.
 */
extern void orion_session_begin(OrionCall *call, bool may_keep_path);

/* Verifies the bearer token, if there is one. */
extern void orion_session_identify(OrionCall *call);

/*
 * Who asks, as text: the role with issuer and subject, or with all lasting claims of
 * a token that has no subject.  The second: all lasting claims.  Times and the
 * token's own number do not last.
 */
extern char *orion_session_subject(const OrionCall *call);
extern char *orion_session_claims(const OrionCall *call);

/*
 * Becomes the role of the token, or of nobody's, and sets what belongs to it and to
 * the request.  search_schema may be NULL.
 */
extern void orion_session_assume(OrionCall *call, const char *search_schema);

/*
 * The same for one that reads a table; but what functions could ask for (the settings of
 * role and request) is only set by orion_session_tell.  Whoever runs anything that may
 * be a user's code calls that before, and the planner does; it does nothing where nothing waits.
 */
extern void orion_session_assume_untold(OrionCall *call, const char *search_schema);
extern void orion_session_tell(void);

/* Has it not been told? Then nothing can have changed the session either. */
extern bool orion_session_is_untold(void);

/* The schema that unqualified names mean first, for one operation of a batch. */
extern void orion_session_schema(const char *schema);

/*
 * Connects to SPI, with the snapshot and under the settings that role and function
 * (hoisted: its pg_proc.proconfig, or NULL) ask for.
 */
extern void orion_session_enter(struct ArrayType *hoisted);

/* Calls orion.rest_pre_request. */
extern void orion_session_pre_request(OrionCall *call);

/* Ends the transaction, or leaves it open (joint.h). */
extern void orion_session_commit(OrionCall *call, bool roll_back);

/* Ends one that was left open, if there is one. */
extern void orion_session_settle(void);

/*
 * The request at hand goes on in a transaction left to it, and what it is about to do is not
 * for that: from here on it has one of its own.
 */
extern void orion_session_part(OrionCall *call);

/* From now on the transaction may only read. */
extern void orion_session_read_only(void);

/* After the transaction, also a failed one. */
extern void orion_session_end(bool failed);

/* Once, when the server starts. */
extern void orion_session_init(void);

#endif							/* ORION_REST_SESSION_H */
