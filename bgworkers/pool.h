/*
 * pool.h
 *	  What every worker process of Orion does alike: attach to its slot, connect,
 *	  leave when told, report what an operator should see.
 */
#ifndef ORION_POOL_H
#define ORION_POOL_H

#include "core/shmem.h"

extern OrionWorkerSlot *orion_my_slot;	/* this worker's slot; NULL outside of
										 * workers */

/*
 * Runs a worker: attaches to the slot named by the launcher's argument, connects
 * to orion.database as role (NULL: the bootstrap superuser), calls body, and
 * exits 0 when body returns.  An ERROR that escapes body is written to the log
 * and to the slot, and ends the process; the launcher starts another after a
 * backoff.
 */
extern void orion_pool_run(Datum arg, const char *role, void (*body) (void));

/*
 * Housekeeping for a worker's loop: interrupts, configuration reload.  False when
 * the worker should return from its body: not desired any more, extension gone,
 * or the database wanted by somebody else.
 */
extern bool orion_pool_continue(void);

/*
 * Waits for the latch, the postmaster's death, or fd (may be -1) being readable
 * or, when want_write, writable.  Returns the WL_* bits seen (0 on timeout).
 * timeout_ms -1 waits without limit.
 */
extern uint32 orion_pool_wait(int fd, bool want_write, long timeout_ms);

/*
 * The same for reading from several, at most ORION_POOL_FDS, of which some may be
 * -1; readable says which of them are.
 */
#define ORION_POOL_FDS	ORION_MAX_GATEWAYS
extern void orion_pool_wait_many(const int *fds, int n, long timeout_ms, bool *readable);

/* Call before closing a descriptor that was waited for: its number may be reused. */
extern void orion_pool_forget_fd(void);

/* What orion.workers shows. error may be NULL. Never pass a secret. */
extern void orion_pool_report(OrionWorkerState state, const char *error);
extern void orion_pool_report_program(pid_t pid);	/* 0: none */
extern void orion_pool_count_restart(void);

/*
 * The database's owner can give settings to every session in it; these must not
 * change what our queries mean.  delivers: workers that carry events, whose plans
 * go by indexes whatever the statistics say and whose commits reach the disk.
 * src/outbox/call.c undoes the latter for users' functions.
 */
extern void orion_pool_pin_settings(bool delivers);

/* One transaction, with an SPI connection and a snapshot, shown as activity. */
extern void orion_pool_begin(const char *activity);
extern void orion_pool_commit(void);

/* True when the extension is installed here; call within a transaction. */
extern bool orion_pool_extension_exists(void);

#endif							/* ORION_POOL_H */
