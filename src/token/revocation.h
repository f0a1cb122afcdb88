/*
 * revocation.h
 *	  Sessions and users whose access tokens are dead before they expire.
 */
#ifndef ORION_REVOCATION_H
#define ORION_REVOCATION_H

#include "postgres.h"

#include "utils/jsonb.h"
#include "utils/uuid.h"

/* What of a token can be revoked. */
typedef struct OrionTokenSubject
{
	bool		has_session;
	bool		has_user;
	pg_uuid_t	session;		/* claim "session_id" */
	pg_uuid_t	user;			/* claim "sub" */
	int64		issued_at;		/* claim "iat", seconds since 1970; 0: not
								 * given */
	bool		raised;			/* claim "aal" is "aal2" */
} OrionTokenSubject;

/* Leaves out what is no UUID: tokens of another issuer. */
extern void orion_token_subject(const Jsonb *claims, OrionTokenSubject *subject);

/*
 * Whether the session or the user was revoked by a committed transaction, or by
 * the own one.  Two hash look-ups; reads the table while shared memory does not hold
 * all of it (after a start, on a standby, when it is full, in other databases).
 * Needs a transaction.
 */
extern bool orion_token_revoked(const OrionTokenSubject *subject);

/*
 * For the maintenance worker, outside of a transaction: fills shared memory
 * after a start, and forgets what no token lives for any more.
 */
extern void orion_token_maintain(void);

extern void orion_revocation_init(void);

#endif							/* ORION_REVOCATION_H */
