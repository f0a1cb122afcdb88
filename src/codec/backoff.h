/*
 * backoff.h
 *	  When a failed delivery is tried again.
 *
 * A schedule is the list of pauses behind the first, second, ... attempt, such as
 * "5s, 5min, 30min, 2h": one attempt more than it has pauses.  Pure C.
 */
#ifndef ORION_BACKOFF_H
#define ORION_BACKOFF_H

#include <stdbool.h>
#include <stdint.h>

#define ORION_SCHEDULE_MAX		32
#define ORION_RETRY_AFTER_MAX	(24 * 60 * 60)	/* s; what a receiver may ask
												 * for */

typedef struct OrionSchedule
{
	int			count;
	int64_t		pauses[ORION_SCHEDULE_MAX]; /* ms */
} OrionSchedule;

/*
 * Reads pauses separated by commas: a whole number and a unit (ms, s, min, h, d), up to
 * 30 days each.  False when it is anything else; the schedule is then undefined.
 * Empty text is a schedule without pauses: one attempt.
 */
extern bool orion_schedule_parse(const char *string, OrionSchedule *schedule);

/*
 * Milliseconds to wait after this many attempts (1, 2, ...), or -1 when that was the
 * last.  random is any 32 bits: the pause grows by up to a fifth with it, so that what
 * failed together is not tried together.  retry_after (s, 0: none) is what the receiver
 * asked for; the longer one counts, up to ORION_RETRY_AFTER_MAX.
 */
extern int64_t orion_schedule_pause(const OrionSchedule *schedule, int attempts, uint32_t random, int64_t retry_after);

#endif							/* ORION_BACKOFF_H */
