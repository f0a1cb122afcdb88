/*
 * throttle.h
 *	  Bounds what sign-in may cost and how often it may fail; settings of both.
 *	  Inside of the module but for orion_auth_maintain (auth.h).
 */
#ifndef ORION_THROTTLE_H
#define ORION_THROTTLE_H

#include "postgres.h"

#include "datatype/timestamp.h"

extern int	orion_auth_login_window;	/* seconds */
extern int	orion_auth_login_max_account;	/* failures; 0: no limit */
extern int	orion_auth_login_max_address;
extern int	orion_auth_login_max_pair;
extern int	orion_auth_hash_memory_limit;	/* kB */
extern int	orion_auth_hash_timeout;	/* ms */
extern int	orion_auth_attempt_retention;	/* minutes */

/* Failures by account and network, in shared memory. NULL: not known. */
extern void orion_throttle_failed(const char *account, const char *network, TimestampTz at);
extern void orion_throttle_clear(const char *account, const char *network);

/*
 * Whether one more attempt that was refused unseen goes on record: so many of a network,
 * lest a client that goes on fills the disk.
 */
extern bool orion_throttle_records(const char *network);

/* Only what happened before must be loaded; the rest counts itself. */
extern TimestampTz orion_throttle_started(void);
extern bool orion_throttle_loaded(void);
extern void orion_throttle_set_loaded(void);
extern void orion_throttle_expire(void);

/*
 * Waits until this much memory may be used for a hash, and gives it back.  What is
 * between must not raise.  ERRCODE_INSUFFICIENT_RESOURCES after
 * orion.auth_hash_timeout.
 */
extern void orion_hash_memory_acquire(int kilobytes);
extern void orion_hash_memory_release(int kilobytes);

extern void orion_throttle_init(void);
extern void orion_attempt_init(void);
extern void orion_hash_memory_init(void);

#endif							/* ORION_THROTTLE_H */
