/*
 * auth.h
 *	  Identity: passwords, users, sessions, login.
 *
 * The flow is SQL (auth.sql) over primitives in C.  A rule for that SQL: a
 * password or token is only an argument of an assignment or RETURN, never of a
 * query, so that no plan, no log of nested statements and no row in an error
 * message can show it.
 */
#ifndef ORION_AUTH_H
#define ORION_AUTH_H

extern int	orion_auth_access_token_ttl;	/* seconds */
extern int	orion_auth_refresh_token_ttl;	/* seconds */
extern char *orion_auth_issuer;
extern char *orion_auth_audience;
extern int	orion_auth_password_memory; /* kB of Argon2id */
extern int	orion_auth_password_time;	/* passes of Argon2id */
extern int	orion_auth_password_min_length; /* characters */

/* For the maintenance worker, outside of a transaction: attempts to log in. True when there were some. */
extern bool orion_auth_maintain(void);

extern void orion_auth_init(void);

#endif							/* ORION_AUTH_H */
