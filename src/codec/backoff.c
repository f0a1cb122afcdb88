/*
 * backoff.c
 *	  Schedules of retries; see backoff.h.
 */
#include "codec/backoff.h"

#include <stdlib.h>
#include <string.h>

#define PAUSE_MAX	((int64_t) 30 * 24 * 60 * 60 * 1000)

static const struct
{
	const char *name;
	int64_t		ms;
}			units[] = {{"ms", 1}, {"s", 1000}, {"min", 60000}, {"h", 3600000}, {"d", 86400000}};

static const char *
skip_space(const char *string)
{
	return string + strspn(string, " \t\n");
}

/* Reads one pause; NULL when there is none. */
static const char *
read_pause(const char *string, int64_t *pause)
{
	char	   *end;
	long		number;
	size_t		len;

	if (*string < '0' || *string > '9')
		return NULL;
	number = strtol(string, &end, 10);
	string = skip_space(end);
	len = strspn(string, "abcdefghijklmnopqrstuvwxyz");
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
	{
		if (strlen(units[i].name) != len || strncmp(units[i].name, string, len) != 0)
			continue;
		if (number > PAUSE_MAX / units[i].ms)
			return NULL;
		*pause = number * units[i].ms;
		return skip_space(string + len);
	}
	return NULL;
}

bool
orion_schedule_parse(const char *string, OrionSchedule *schedule)
{
	schedule->count = 0;
	string = skip_space(string);
	if (*string == '\0')
		return true;
	for (;;)
	{
		if (schedule->count == ORION_SCHEDULE_MAX)
			return false;
		string = read_pause(string, &schedule->pauses[schedule->count++]);
		if (string == NULL)
			return false;
		if (*string == '\0')
			return true;
		if (*string != ',')
			return false;
		string = skip_space(string + 1);
	}
}

int64_t
orion_schedule_pause(const OrionSchedule *schedule, int attempts, uint32_t random, int64_t retry_after)
{
	int64_t		pause;

	if (attempts < 1 || attempts > schedule->count)
		return -1;
	pause = schedule->pauses[attempts - 1];
	pause += pause / 5 * (random % 1000) / 1000;
	if (retry_after > ORION_RETRY_AFTER_MAX)
		retry_after = ORION_RETRY_AFTER_MAX;
	return pause < retry_after * 1000 ? retry_after * 1000 : pause;
}
