/*
 * gateway_worker.c
 *	  Runs the program orion-gateway and defines the settings of HTTP.
 *
 * One worker process.  The program is started with the settings as JSON and again
 * when one of them changes.  It says READY once it listens, or TROUBLE with a
 * text for operators before it gives up (a port that is taken); either way the
 * end of the program shows as end of file.  A start after a failure waits longer
 * each time; a program that was well for HEALTHY_MS starts with a clean record.
 */
#include "postgres.h"

#include <sys/stat.h>

#include "common/file_perm.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "child.h"
#include "core/compat.h"
#include "frame.h"
#include "gateway_worker.h"
#include "pool.h"

#define PROGRAM		"orion-gateway"
#define VERSION		"1.0"
#define MAX_FRAME	8192		/* the program's texts are short */
#define HEALTHY_MS	10000

PGDLLEXPORT void orion_gateway_main(Datum arg);

int			orion_http_port = 8080;
int			orion_http_max_body_size = 10240;
static char *http_listen_addresses = NULL;
static int	http_max_header_size = 16384;
static int	http_idle_timeout = 60000;
static int	http_queue_size = 1024;
static int	http_queue_timeout = 10000;
static int	http_max_connections = 1000;
static int	http_max_connections_per_address = 0;

static OrionChild child = {.fd = -1};
static char *running_config = NULL; /* what the program was started with */
static char trouble[ORION_ERROR_LEN];	/* its last words */
static TimestampTz started_at;

static void
define_limits(void)
{
	DefineCustomIntVariable("orion.http_max_body_size",
							"Largest request body.",
							NULL,
							&orion_http_max_body_size, 10240, 1, 512 * 1024,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("orion.http_max_header_size",
							"Largest request line and headers together.",
							NULL,
							&http_max_header_size, 16384, 2048, 1024 * 1024,
							PGC_SIGHUP, GUC_UNIT_BYTE, NULL, NULL, NULL);
	DefineCustomIntVariable("orion.http_queue_size",
							"Requests that may wait for an executor; more are answered with 503.",
							NULL,
							&http_queue_size, 1024, 0, 1000000,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("orion.http_max_connections",
							"HTTP connections at a time; more wait to be accepted.",
							NULL,
							&http_max_connections, 1000, 1, 100000,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("orion.http_max_connections_per_address",
							"HTTP connections at a time from one address; more are closed.",
							"0 means no limit, as is right behind a proxy.",
							&http_max_connections_per_address, 0, 0, 100000,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
}

void
orion_gateway_init(void)
{
	DefineCustomStringVariable("orion.http_listen_addresses",
							   "Addresses that the HTTP server listens on, separated by commas.",
							   "\"localhost\" stands for both loopback addresses, \"*\" for all addresses.",
							   &http_listen_addresses, "localhost",
							   PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("orion.http_port",
							"Port that the HTTP server listens on.",
							"0 switches HTTP off.",
							&orion_http_port, 8080, 0, 65535,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("orion.http_idle_timeout",
							"How long a client may take to send a request.",
							NULL,
							&http_idle_timeout, 60000, 1000, 3600 * 1000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("orion.http_queue_timeout",
							"How long a request may wait for an executor; then it is answered with 503.",
							NULL,
							&http_queue_timeout, 10000, 1, 3600 * 1000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	define_limits();
}

/* The settings as the program wants them; palloc'ed. */
static char *
current_config(void)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"version\":\"" VERSION "\",\"listen_addresses\":");
	escape_json(&json, http_listen_addresses);
	appendStringInfo(&json,
					 ",\"port\":%d,\"max_body_size\":" INT64_FORMAT ",\"max_header_size\":%d,\"idle_timeout\":%d"
					 ",\"queue_size\":%d,\"queue_timeout\":%d,\"max_connections\":%d,\"max_connections_per_address\":%d}",
					 orion_http_port, (int64) orion_http_max_body_size * 1024, http_max_header_size, http_idle_timeout,
					 http_queue_size, http_queue_timeout, http_max_connections, http_max_connections_per_address);
	return json.data;
}

static void
make_directory(void)
{
	if (mkdir(ORION_GATEWAY_DIRECTORY, S_IRWXU) < 0 && errno != EEXIST)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create directory \"%s\": %m", ORION_GATEWAY_DIRECTORY)));
	if (chmod(ORION_GATEWAY_DIRECTORY, S_IRWXU) < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not set permissions of directory \"%s\": %m", ORION_GATEWAY_DIRECTORY)));
}

static void
start_program(char *config)
{
	trouble[0] = '\0';
	running_config = config;
	started_at = GetCurrentTimestamp();
	orion_pool_report(ORION_STATE_STARTING, NULL);
	orion_child_start(&child, PROGRAM, config);
}

static void
stop_program(char *why, size_t size)
{
	orion_child_stop(&child, why, size);
	if (running_config)
		pfree(running_config);
	running_config = NULL;
}

/* The program has ended by itself. */
static void
program_ended(void)
{
	char		why[64];

	if (TimestampDifferenceExceeds(started_at, GetCurrentTimestamp(), HEALTHY_MS))
		child.failures = 0;
	stop_program(why, sizeof(why));
	ereport(LOG,
			(errmsg("program \"%s\" %s", PROGRAM, why),
			 trouble[0] ? errdetail_internal("%s", trouble) : 0));
	orion_pool_count_restart();
	orion_pool_report(ORION_STATE_BACKOFF, trouble[0] ? trouble : psprintf("%s %s", PROGRAM, why));
}

static void
take_frame(OrionFrame *frame)
{
	const char *text;
	size_t		len;

	if (frame->type == ORION_FRAME_READY)
		orion_pool_report(ORION_STATE_RUNNING, NULL);
	else if (frame->type == ORION_FRAME_TROUBLE && orion_frame_get(frame, &text, &len))
		snprintf(trouble, sizeof(trouble), "%.*s", (int) len, text);
}

/* False when the program is gone or talks nonsense. */
static bool
read_program(void)
{
	OrionFrame	frame;
	long		n = orion_buffer_fill(&child.in, child.fd);
	long		size;

	while ((size = orion_frame_parse(child.in.data + child.in.start, orion_buffer_len(&child.in), MAX_FRAME, &frame)) > 0)
	{
		take_frame(&frame);
		orion_buffer_consume(&child.in, size);
	}
	return (n > 0 || n == -1) && size == 0;
}

/* Starts or ends the program as the settings ask; the time until a start is due. */
static long
reconcile(void)
{
	char	   *config = orion_http_port > 0 ? current_config() : NULL;
	char		why[64];
	long		wait_ms;

	if (child.pid != 0 && (config == NULL || strcmp(config, running_config) != 0))
	{
		stop_program(why, sizeof(why));
		child.failures = 0;
		orion_pool_report(ORION_STATE_PAUSED, NULL);
	}
	if (config == NULL)
		return -1;
	wait_ms = orion_child_backoff(&child) - TimestampDifferenceMilliseconds(started_at, GetCurrentTimestamp());
	if (child.pid != 0 || wait_ms > 0)
	{
		pfree(config);
		return child.pid != 0 ? -1 : wait_ms;
	}
	start_program(config);
	return -1;
}

static void
run(void)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "orion gateway", ALLOCSET_SMALL_SIZES);

	MemoryContextSwitchTo(context);
	make_directory();
	while (orion_pool_continue())
	{
		long		timeout_ms = reconcile();
		uint32		seen = orion_pool_wait(child.fd, false, timeout_ms);

		if ((seen & WL_SOCKET_MASK) && !read_program())
			program_ended();
	}
	stop_program(trouble, sizeof(trouble));
}

void
orion_gateway_main(Datum arg)
{
	orion_pool_run(arg, NULL, run);
}
