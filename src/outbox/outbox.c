/*
 * outbox.c
 *	  Settings of the outbox.
 */
#include "postgres.h"

#include "utils/guc.h"

#include "outbox/outbox.h"

int			orion_outbox_max_payload = 10240;
int			orion_outbox_retention = 1440;
int			orion_outbox_segment_size = 4096;
int			orion_outbox_hold_limit = 16384;
int			orion_outbox_max_attempts = 8;
int			orion_outbox_handler_timeout = 30000;
char	   *orion_outbox_correlation_id = NULL;
char	   *orion_outbox_causation_id = NULL;

static bool
check_attribute(char **value, void **extra, GucSource source)
{
	if (strlen(*value) <= ORION_EVENT_MAX_ATTRIBUTE)
		return true;
	GUC_check_errdetail("It may have %d bytes.", ORION_EVENT_MAX_ATTRIBUTE);
	return false;
}

void
orion_outbox_init(void)
{
	DefineCustomIntVariable("orion.outbox_max_payload",
							"The largest payload plus metadata of one event.",
							NULL,
							&orion_outbox_max_payload, 10240, 1, 256 * 1024,
							PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("orion.outbox_retention",
							"How long events are kept after every sink has received them.",
							NULL,
							&orion_outbox_retention, 1440, 1, 366 * 1440,
							PGC_SIGHUP, GUC_UNIT_MIN, NULL, NULL, NULL);
	DefineCustomIntVariable("orion.outbox_segment_size",
							"Size at which the outbox goes on to its next segment before the time has come.",
							"The outbox has eight segments.",
							&orion_outbox_segment_size, 4096, 1, 1024 * 1024,
							PGC_SIGHUP, GUC_UNIT_MB, NULL, NULL, NULL);
	DefineCustomIntVariable("orion.outbox_hold_limit",
							"How much of the outbox a sink that is behind may hold before an alarm is raised.",
							"Nothing is dropped. 0 turns the alarm off.",
							&orion_outbox_hold_limit, 16384, 0, 1024 * 1024 * 1024,
							PGC_SIGHUP, GUC_UNIT_MB, NULL, NULL, NULL);
	DefineCustomIntVariable("orion.outbox_max_attempts",
							"How often an event is given to a failing SQL handler before it becomes a dead letter.",
							NULL,
							&orion_outbox_max_attempts, 8, 1, 100,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("orion.outbox_handler_timeout",
							"How long a SQL handler may work on one event.",
							"0 turns the limit off.",
							&orion_outbox_handler_timeout, 30000, 0, 86400000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomStringVariable("orion.outbox_correlation_id",
							   "Correlation id of events that are published without one.",
							   NULL,
							   &orion_outbox_correlation_id, "",
							   PGC_USERSET, 0, check_attribute, NULL, NULL);
	DefineCustomStringVariable("orion.outbox_causation_id",
							   "Causation id of events that are published without one.",
							   NULL,
							   &orion_outbox_causation_id, "",
							   PGC_USERSET, 0, check_attribute, NULL, NULL);
}
