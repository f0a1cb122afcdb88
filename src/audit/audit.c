/*
 * audit.c
 *	  What SQL cannot know of itself for the audit log: the origin of a request.
 *
 * Runs in any backend.  The origin is kept in this process and dropped with the
 * transaction, so that no client can say by a setting that it is somebody else.
 * The maintenance worker makes partitions ahead; when it cannot, rows go to the
 * default partition, and nothing is lost.  No locks but the tables'.
 */
#include "postgres.h"

#include <arpa/inet.h>

#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "pgstat.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "audit/audit.h"
#include "core/compat.h"

#define USER_AGENT_MAX	512		/* bytes kept of what the client calls itself */
#define LOOK_EVERY_MS	(60 * 60 * 1000)
#define RETRY_AFTER_MS	(60 * 1000) /* when a long transaction was in the way */

static bool in_request = false;
static char address[INET6_ADDRSTRLEN];	/* empty: not known */
static char user_agent[USER_AGENT_MAX + 1];

PG_FUNCTION_INFO_V1(orion_request_origin);

static void
at_transaction_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		in_request = false;
}

static bool
is_address(const char *text)
{
	struct in6_addr any;

	return inet_pton(AF_INET, text, &any) == 1 || inet_pton(AF_INET6, text, &any) == 1;
}

bool
orion_audit_peer_address(const char *peer, size_t len, char *found)
{
	char		copy[INET6_ADDRSTRLEN + 8];
	char	   *from = copy;

	found[0] = '\0';
	if (len >= sizeof(copy))
		return false;
	memcpy(copy, peer, len);
	copy[len] = '\0';
	if (copy[0] == '[')
	{
		char	   *end = strchr(copy, ']');

		if (end == NULL)
			return false;
		*end = '\0';
		from = copy + 1;
	}
	else if (strchr(copy, ':') == strrchr(copy, ':'))
		copy[strcspn(copy, ":")] = '\0';
	if (!is_address(from))
		return false;
	strlcpy(found, from, INET6_ADDRSTRLEN);
	return true;
}

void
orion_audit_origin_set(const char *peer, const char *agent)
{
	in_request = true;
	address[0] = '\0';
	if (peer)
		(void) orion_audit_peer_address(peer, strlen(peer), address);
	user_agent[0] = '\0';
	if (agent)
	{
		size_t		len = pg_mbcliplen(agent, strlen(agent), USER_AGENT_MAX);

		memcpy(user_agent, agent, len);
		user_agent[len] = '\0';
	}
}

/*
 * orion_private.request_origin(OUT address inet, OUT user_agent text): of the HTTP
 * request, else of the SQL client.
 */
Datum
orion_request_origin(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[2];
	bool		nulls[2] = {true, true};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (in_request && address[0])
	{
		values[0] = DirectFunctionCall1(inet_in, CStringGetDatum(address));
		nulls[0] = false;
	}
	if (in_request && user_agent[0])
	{
		values[1] = CStringGetTextDatum(user_agent);
		nulls[1] = false;
	}
	if (!in_request)
	{
		LOCAL_FCINFO(client, 0);

		InitFunctionCallInfoData(*client, NULL, 0, InvalidOid, NULL, NULL);
		values[0] = inet_client_addr(client);
		nulls[0] = client->isnull;
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* False when somebody was in the way. */
static bool
make_partitions(void)
{
	bool		done;
	bool		isnull;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	pgstat_report_activity(STATE_RUNNING, "orion: making partitions of the audit log");
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute("SELECT orion_private.audit_partitions()", false, 1) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not make partitions of the audit log");
	done = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull)) && !isnull;
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
	pgstat_report_activity(STATE_IDLE, NULL);
	return done;
}

void
orion_audit_maintain(void)
{
	static TimestampTz next_look = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (now < next_look)
		return;
	next_look = TimestampTzPlusMilliseconds(now, make_partitions() ? LOOK_EVERY_MS : RETRY_AFTER_MS);
}

void
orion_audit_init(void)
{
	RegisterXactCallback(at_transaction_end, NULL);
}
