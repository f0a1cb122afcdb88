/*
 * mfa.h
 *	  Second factors: codes of an authenticator app (TOTP), backup codes, trusted
 *	  devices.
 *
 * The flow is SQL (mfa.sql) over primitives in C, by the rule of auth.h: a code, a
 * secret or a token is only an argument of an assignment or RETURN, never of a query.
 */
#ifndef ORION_MFA_H
#define ORION_MFA_H

extern char *orion_mfa_issuer;	/* UTF-8 or the server's encoding; no colon */

/* For the maintenance worker, outside of a transaction: forgets what expired. */
extern void orion_mfa_maintain(void);

extern void orion_mfa_init(void);

/* Start of totp.c. */
extern void orion_totp_init(void);

#endif							/* ORION_MFA_H */
