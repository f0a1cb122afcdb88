/*
 * gateway_worker.c
 *	  Runs the program orion-gateway and defines the settings of HTTP.
 *
 * One worker process for each of orion.gateway_count programs.  The program is started with the settings as JSON and told
 * when one of them changes.  It says READY once it has them, or TROUBLE with a
 * text for operators (a port that is taken): at its start it then ends, which shows as
 * end of file; later it goes on with the old settings and is told the new ones
 * again every RETRY_MS.  A start after a failure waits longer each time; a program
 * that was well for HEALTHY_MS starts with a clean record.  One that is not wanted
 * any more may finish what clients have asked for.
 */
#include "postgres.h"

#include <sys/stat.h>

#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "common/file_perm.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "child.h"
#include "core/compat.h"
#include "core/workers.h"
#include "frame.h"
#include "gateway_worker.h"
#include "pool.h"
#include "rest/settings.h"

#define PROGRAM		"orion-gateway"
#define VERSION		"1.0"
#define MAX_FRAME	8192		/* the program's texts are short */
#define HEALTHY_MS	10000
#define RETRY_MS	2000		/* until settings are offered again */
#define FIRST_LOOK_MS	1		/* at the replay, while requests wait for it */
#define LAST_LOOK_MS	16		/* and when it takes longer */
#define LEAVE_MS	3000		/* for the program to leave by itself; it
								 * takes 2 s at most */

PGDLLEXPORT void orion_gateway_main(Datum arg);

int			orion_http_port = 8080;
int			orion_http_max_body_size = 10240;
int			orion_http_tls_port = 0;
static char *http_listen_addresses = NULL;
static char *http_tls_cert_file = NULL;
static char *http_tls_key_file = NULL;
static int	http_tls_min_version = 2;
static char *http_unix_socket = NULL;
static int	http_unix_socket_permissions = 0777;
static char *http_trusted_proxies = NULL;
static int	http_metrics = 1;
static char *http_access_log = NULL;
static int	http_max_header_size = 16384;
static int	http_idle_timeout = 60000;
static int	http_queue_size = 1024;
static int	http_queue_timeout = 10000;
static int	standby_max_waiting = 256;
static int	http_max_connections = 1000;
static int	http_max_connections_per_address = 0;

static OrionChild child = {.fd = -1};
static char *running_config = NULL; /* what the program was told last */
static char trouble[ORION_ERROR_LEN];	/* its last words */
static TimestampTz started_at;
static bool listening;			/* it has listened since its start */
static long look_ms;			/* at the replay; 0: nobody waits for it */
static TimestampTz refused_at;	/* when it did not take new settings; else 0 */

static const struct config_enum_entry tls_versions[] = {
	{"TLSv1.2", 2, false},
	{"TLSv1.3", 3, false},
	{NULL, 0, false}
};

/* as the program counts them: METRICS_OFF and so on */
static const struct config_enum_entry metrics_options[] = {
	{"off", 0, false},
	{"local", 1, false},
	{"on", 2, false},
	{NULL, 0, false}
};

static const char *
show_permissions(void)
{
	static char text[12];

	snprintf(text, sizeof(text), "%04o", http_unix_socket_permissions);
	return text;
}

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
	DefineCustomIntVariable("orion.standby_max_waiting",
							"Requests of a standby that may wait for its replay; more are answered with 503.",
							NULL,
							&standby_max_waiting, 256, 0, 10000,
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

static void
define_telemetry(void)
{
	DefineCustomEnumVariable("orion.http_metrics",
							 "Who gets /metrics.",
							 "\"local\" stands for clients on this machine that come through no proxy.",
							 &http_metrics, 1, metrics_options,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("orion.http_access_log",
							   "File to which a line of JSON is written for each request.",
							   "Relative to the data directory, opened anew at a reload; \"stderr\" stands for the server log. Empty means none.",
							   &http_access_log, "",
							   PGC_SIGHUP, 0, NULL, NULL, NULL);
}

static void
define_addresses(void)
{
	DefineCustomIntVariable("orion.http_tls_port",
							"Port that the HTTP server listens on with TLS.",
							"0 switches TLS off.",
							&orion_http_tls_port, 0, 0, 65535,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("orion.http_tls_cert_file",
							   "File with the certificate of the HTTP server and its chain, PEM.",
							   "Relative to the data directory. Read again at a reload.",
							   &http_tls_cert_file, "",
							   PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("orion.http_tls_key_file",
							   "File with the private key of the HTTP server, PEM, without a password.",
							   "Relative to the data directory. Read again at a reload.",
							   &http_tls_key_file, "",
							   PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomEnumVariable("orion.http_tls_min_version",
							 "Oldest version of TLS that clients of the HTTP server may use.",
							 NULL,
							 &http_tls_min_version, 2, tls_versions,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("orion.http_unix_socket",
							   "Unix socket that the HTTP server listens on as well.",
							   "Relative to the data directory. Empty means none.",
							   &http_unix_socket, "",
							   PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("orion.http_unix_socket_permissions",
							"Permissions of the HTTP server's Unix socket.",
							"As of chmod; clients need write permission.",
							&http_unix_socket_permissions, 0777, 0, 0777,
							PGC_SIGHUP, 0, NULL, NULL, show_permissions);
	DefineCustomStringVariable("orion.http_trusted_proxies",
							   "Addresses and networks whose field X-Forwarded-For is believed.",
							   "Separated by commas; \"unix\" stands for clients of the Unix socket.",
							   &http_trusted_proxies, "",
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
	define_addresses();
	define_telemetry();
	define_limits();
}

/* The first one has the Unix socket: the kernel spreads only connections to ports. */
bool
orion_gateway_is_on(int gateway)
{
	return gateway < orion_gateway_count &&
		(orion_http_port > 0 || orion_http_tls_port > 0 || (gateway == 0 && http_unix_socket && http_unix_socket[0]));
}

/* This process' part of what is allowed to all gateways together. */
static int
share(int all)
{
	return (all + orion_gateway_count - 1) / orion_gateway_count;
}

/* Tells one state of a file from another, as one that was renewed. */
static void
append_stamp(StringInfo str, const char *path)
{
	struct stat st;

	if (path[0] && stat(path, &st) == 0)
		appendStringInfo(str, "%lx.%lx.%lx.%lx ", (long) st.st_ino, (long) st.st_size,
						 (long) st.st_mtim.tv_sec, (long) st.st_mtim.tv_nsec);
}

static ino_t
file_number(const char *path)
{
	struct stat st;

	return path[0] && stat(path, &st) == 0 ? st.st_ino : 0;
}

static void
append_text(StringInfo json, const char *name, const char *value)
{
	appendStringInfo(json, ",\"%s\":", name);
	escape_json(json, value);
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
					 ",\"port\":%d,\"tls_port\":%d,\"tls_old\":%s,\"unix_socket_mode\":%d,\"max_body_size\":" INT64_FORMAT ",\"max_header_size\":%d,\"idle_timeout\":%d"
					 ",\"queue_size\":%d,\"queue_timeout\":%d,\"max_connections\":%d,\"max_connections_per_address\":%d,\"max_parked\":%d",
					 orion_http_port, orion_http_tls_port, http_tls_min_version == 2 ? "true" : "false",
					 http_unix_socket_permissions, (int64) orion_http_max_body_size * 1024, http_max_header_size, http_idle_timeout,
					 share(http_queue_size), http_queue_timeout, share(http_max_connections), http_max_connections_per_address, share(standby_max_waiting));
	appendStringInfo(&json, ",\"process\":%d,\"processes\":%d", orion_my_slot->index, orion_gateway_count);
	append_text(&json, "tls_cert_file", http_tls_cert_file);
	append_text(&json, "tls_key_file", http_tls_key_file);
	append_text(&json, "unix_socket", orion_my_slot->index == 0 ? http_unix_socket : "");
	append_text(&json, "trusted_proxies", http_trusted_proxies);
	append_text(&json, "access_log", http_access_log);
	append_text(&json, "cors_origins", orion_http_cors_allowed_origins);
	appendStringInfo(&json, ",\"metrics\":%d", http_metrics);
	appendStringInfoString(&json, ",\"tls_stamp\":\"");
	append_stamp(&json, http_tls_cert_file);
	append_stamp(&json, http_tls_key_file);
	/* the log's changes when it was moved away, so that it is opened anew */
	appendStringInfo(&json, "\",\"log_stamp\":%llu}", (unsigned long long) file_number(http_access_log));
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
	listening = false;
	look_ms = 0;
	refused_at = 0;
	orion_pool_report(ORION_STATE_STARTING, NULL);
	orion_child_start(&child, PROGRAM, config);
}

static void
tell_program(char *config)
{
	pfree(running_config);
	running_config = config;
	refused_at = 0;
	orion_frame_begin(&child.out, ORION_FRAME_CONFIG, 0);
	orion_frame_put_str(&child.out, config);
	orion_frame_end(&child.out);
	orion_buffer_flush(&child.out, child.fd);
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

/* The server's part of /metrics. */
static void
tell_metrics(void)
{
	StringInfoData text;

	initStringInfo(&text);
	orion_workers_metrics(&text);
	orion_frame_begin(&child.out, ORION_FRAME_METRICS, 0);
	orion_frame_put(&child.out, text.data, text.len);
	orion_frame_end(&child.out);
	orion_buffer_flush(&child.out, child.fd);
	pfree(text.data);
}

/* There is no signal for it; so it is looked at, ever less often. */
static void
tell_replayed(void)
{
	TimeLineID	timeline = PG_UINT32_MAX;
	XLogRecPtr	lsn = PG_UINT64_MAX;

	/* after a promotion executors say what is to be said */
	if (RecoveryInProgress())
		lsn = GetXLogReplayRecPtr(&timeline);
	orion_frame_begin(&child.out, ORION_FRAME_REPLAYED, 0);
	orion_frame_put_u64(&child.out, timeline);
	orion_frame_put_u64(&child.out, lsn);
	orion_frame_end(&child.out);
	orion_buffer_flush(&child.out, child.fd);
	look_ms = Min(look_ms * 2, LAST_LOOK_MS);
}

static void
take_frame(OrionFrame *frame)
{
	const char *text;
	size_t		len;

	if (frame->type == ORION_FRAME_ASK)
		tell_metrics();
	else if (frame->type == ORION_FRAME_AWAIT)
		look_ms = FIRST_LOOK_MS;
	else if (frame->type == ORION_FRAME_ENOUGH)
		look_ms = 0;
	else if (frame->type == ORION_FRAME_READY)
	{
		listening = true;
		orion_pool_report(ORION_STATE_RUNNING, NULL);
	}
	else if (frame->type == ORION_FRAME_TROUBLE && orion_frame_get(frame, &text, &len))
	{
		snprintf(trouble, sizeof(trouble), "%.*s", (int) len, text);
		if (!listening)
			return;				/* it ends */
		refused_at = GetCurrentTimestamp();
		orion_pool_report(ORION_STATE_DEGRADED, trouble);
	}
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

/* A running program and new settings, or NULL: it is not wanted any more. */
static long
reconcile_running(char *config)
{
	bool		same = config && strcmp(config, running_config) == 0;

	if (config == NULL)
	{
		orion_child_leave(&child, LEAVE_MS);
		stop_program(NULL, 0);
		child.failures = 0;
		orion_pool_report(ORION_STATE_PAUSED, NULL);
		return -1;
	}
	if (same && refused_at == 0)
		pfree(config);
	else if (same && !TimestampDifferenceExceeds(refused_at, GetCurrentTimestamp(), RETRY_MS))
		pfree(config);
	else
		tell_program(config);
	return refused_at ? RETRY_MS : -1;
}

/* Starts, tells or ends the program as the settings ask; the time until it is to be asked again. */
static long
reconcile(void)
{
	char	   *config = orion_gateway_is_on(orion_my_slot->index) ? current_config() : NULL;
	long		wait_ms;

	if (child.pid != 0)
		return reconcile_running(config);
	if (config == NULL)
		return -1;
	wait_ms = orion_child_backoff(&child) - TimestampDifferenceMilliseconds(started_at, GetCurrentTimestamp());
	if (wait_ms > 0)
	{
		pfree(config);
		return wait_ms;
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
	child.leave_ms = LEAVE_MS;
	while (orion_pool_continue())
	{
		long		timeout_ms = reconcile();
		uint32		seen;

		if (look_ms > 0)
			timeout_ms = timeout_ms < 0 ? look_ms : Min(timeout_ms, look_ms);
		seen = orion_pool_wait(child.fd, orion_buffer_len(&child.out) > 0, timeout_ms);
		if ((seen & WL_SOCKET_WRITEABLE))
			orion_buffer_flush(&child.out, child.fd);
		if ((seen & WL_SOCKET_READABLE) && !read_program())
			program_ended();
		if (look_ms > 0 && orion_buffer_len(&child.out) == 0)
			tell_replayed();
	}
	orion_child_leave(&child, LEAVE_MS);
	stop_program(NULL, 0);
}

void
orion_gateway_main(Datum arg)
{
	orion_pool_run(arg, NULL, run);
}
