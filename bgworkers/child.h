/*
 * child.h
 *	  A program started by a worker, tied to it by a socketpair.
 *
 * The program gets its end of the socketpair as file descriptor 3 and nothing
 * else of ours: empty signal mask, default handlers, no other descriptor but the
 * standard ones (stderr is the server's log).  It leaves when the socket reaches
 * end of file, and the kernel kills it when the worker dies.
 */
#ifndef ORION_CHILD_H
#define ORION_CHILD_H

#include <sys/types.h>

#include "datatype/timestamp.h"

#include "frame.h"

#define ORION_CHILD_FD	3

typedef struct OrionChild
{
	pid_t		pid;			/* 0 when none runs */
	const char *program;		/* its name, a constant */
	int			fd;				/* our end, non-blocking; -1 when none */
	OrionBuffer in;
	OrionBuffer out;
	int			failures;		/* starts in a row that did not become healthy */
	int			leave_ms;		/* what it gets to leave by itself when the
								 * worker exits */
} OrionChild;

/*
 * Starts a program from the server's bin directory and queues one CONFIG frame
 * (config is JSON text).  Reports the pid to the pool.  Errors when fork fails;
 * a program that cannot be executed shows up as an exit.  One program a process; it
 * is killed and reaped when the worker exits.
 */
extern void orion_child_start(OrionChild *child, const char *program, const char *config);

/*
 * Asks the program to leave, by end of file on its socket, and waits until it has
 * or the time is over.  Follow with orion_child_stop.
 */
extern void orion_child_leave(OrionChild *child, int timeout_ms);

/* Kills it if it still runs, reaps it and frees the buffers. why gets "exited
 * with code 1" or "killed by signal 9". */
extern void orion_child_stop(OrionChild *child, char *why, size_t size);

/*
 * The program is of no more use: stops it, says so in the log, counts a restart.
 * problem: what it did, or NULL or empty for the way it ended.  report gets the
 * text for operators.  Returns when the next start is due.
 */
extern TimestampTz orion_child_lose(OrionChild *child, const char *problem, char *report, size_t size);

/* Milliseconds to wait before the next start: 0, then 100 doubling up to 10,000. */
extern long orion_child_backoff(const OrionChild *child);

#endif							/* ORION_CHILD_H */
