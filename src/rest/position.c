/*
 * position.c
 *	  Reading on a standby what one has written on the primary.
 *
 * A write is answered with the end of its commit record, "Orion-LSN: 1-0/16B3748": the
 * timeline and the position.  A request that prefers wait-lsn with that value is put
 * aside by the gateway until the standby has replayed so much, for no executor is to
 * stand idle and no snapshot is to hold up the replay meanwhile.  Nothing here needs a
 * transaction.  The timeline tells a write that a failover has lost from one that is
 * still to come: the history of the server's own timeline says where it left each
 * earlier one.
 */
#include "postgres.h"

#include <ctype.h>
#include <limits.h>

#include "access/timeline.h"
#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "rest/error.h"
#include "rest/position.h"
#include "rest/response.h"
#include "rest/standby.h"

#define NAME			"wait-lsn="
#define SECONDS			"wait="
#define MAX_SECONDS		86400	/* what is asked beyond is cut down anyway */

int			orion_standby_wait_timeout = 5000;

/* --- what the client prefers ------------------------------------------------------- */

static void
refuse_position(const char *details)
{
	orion_refuse(400, "ORION400", "Invalid preference wait-lsn", details,
				 "Give the value of Orion-LSN, such as 1-0/16B3748.");
}

/* "[timeline-]X/X"; the text may be in quotes. */
static void
parse_position(OrionPosition *position, const char *text)
{
	size_t		len = strlen(text);
	unsigned	high;
	unsigned	low;
	int			used = 0;

	if (len >= 2 && text[0] == '"' && text[len - 1] == '"')
		text = pnstrdup(text +1, len - 2);
	position->text = text;

	if (strchr(text, '-'))
	{
		char	   *end;
		unsigned long timeline = strtoul(text, &end, 10);

		if (!isdigit((unsigned char) text[0]) || *end != '-' || timeline == 0 || timeline > INT_MAX)
			refuse_position("The timeline is no number.");
		position->timeline = timeline;
		text = end + 1;
	}
	if (text[strspn(text, "0123456789abcdefABCDEF/")] != '\0' ||
		sscanf(text, "%8X/%8X%n", &high, &low, &used) != 2 || text[used] != '\0')
		refuse_position("It is no position in the write-ahead log.");
	position->lsn = ((uint64) high << 32) | low;
}

/* RFC 7240, section 4.3; what is no number is ignored, as there. */
static void
parse_seconds(OrionPosition *position, const char *text)
{
	size_t		len = strlen(text);

	if (len > 0 && strspn(text, "0123456789") == len)
		position->seconds = len > 5 ? MAX_SECONDS : Min(atoi(text), MAX_SECONDS);
}

bool
orion_position_is_preference(const char *text)
{
	return pg_strncasecmp(text, NAME, strlen(NAME)) == 0 || pg_strncasecmp(text, SECONDS, strlen(SECONDS)) == 0;
}

static void
read_one(OrionPosition *position, char *text)
{
	text	  +=strspn(text, " \t");

	for (size_t len = strlen(text); len > 0 && strchr(" \t", text[len - 1]); len--)
		text[		len - 1] = '\0';

	/* the first mention counts */
	if (pg_strncasecmp(text, NAME, strlen(NAME)) == 0 && position->text == NULL)
		parse_position(position, text +strlen(NAME));
	else if (pg_strncasecmp(text, SECONDS, strlen(SECONDS)) == 0 && position->seconds < 0)
		parse_seconds(position, text +strlen(SECONDS));
}

static void
read_preferences(OrionCall *call)
{
	call->position.seconds = -1;
	for (int i = 0; i < call->request->nheaders; i++)
	{
		char	   *rest;
		char	   *one;

		if (strcmp(call->request->headers[i].name, "prefer") != 0 ||
			strcasestr(call->request->headers[i].value, "wait") == NULL)
			continue;
		rest = pstrdup(call->request->headers[i].value);
		while ((one = strsep(&rest, ",")) != NULL)
			read_one(&call->position, one);
	}
}

const char *
orion_position_preference(const OrionCall *call)
{
	const OrionPosition *position = &call->position;

	if (position->text == NULL)
		return NULL;
	return position->seconds >= 0 ? psprintf(NAME "%s, " SECONDS "%d", position->text, position->seconds) :
		psprintf(NAME "%s", position->text);
}

void
orion_position_applied(OrionCall *call)
{
	const char *preference = orion_position_preference(call);

	if (preference)
		orion_response_header(call->response, "Preference-Applied", preference);
}

/* --- timelines ---------------------------------------------------------------------- */

/* Where the server's timeline has left an earlier one; 0: it never was on it. */
static XLogRecPtr
end_of_timeline(TimeLineID timeline, TimeLineID current)
{
	static TimeLineID known = 0;
	static List *history = NIL;
	ListCell   *lc;

	if (known != current)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		known = 0;
		list_free_deep(history);
		history = NIL;
		history = readTimeLineHistory(current);
		known = current;
		MemoryContextSwitchTo(old);
	}
	foreach(lc, history)
	{
		const TimeLineHistoryEntry *entry = lfirst(lc);

		if (entry->tli == timeline)
			return entry->end;
	}
	return InvalidXLogRecPtr;
}

/* Refuses what was written on a timeline after the server's own has left it. */
static void
check_timeline(const OrionPosition *position, TimeLineID current)
{
	if (position->timeline != 0 && position->timeline < current &&
		position->lsn > end_of_timeline(position->timeline, current))
		orion_refuse(400, "ORION400", "This position is not in the history of this server",
					 "A failover has lost what was written there, or it is of another database.", NULL);
}

static void
check_on_primary(const OrionPosition *position)
{
	TimeLineID	current = GetWALInsertionTimeLine();

	check_timeline(position, current);
	if (position->timeline > current || position->lsn > GetXLogInsertRecPtr())
		orion_refuse(400, "ORION400", "This position is in the future of this server",
					 "A failover or a crash has lost what was written there, or it is of another database.", NULL);
}

/* --- waiting ------------------------------------------------------------------------- */

/* Whether it is of use to wait: what can only write is refused here anyway. */
static bool
may_read(const OrionCall *call)
{
	return orion_call_reads(call) || call->method == ORION_POST;
}

bool
orion_position_reached(OrionCall *call)
{
	OrionPosition *position = &call->position;
	TimeLineID	current;
	XLogRecPtr	replayed;
	int			limit = orion_standby_wait_timeout;

	read_preferences(call);
	if (position->text == NULL)
		return true;
	if (!RecoveryInProgress())
	{
		check_on_primary(position);
		return true;
	}
	if (!may_read(call))
		return true;
	replayed = GetXLogReplayRecPtr(&current);
	check_timeline(position, current);
	if (position->timeline <= current && position->lsn <= replayed)
		return true;
	if (position->seconds >= 0)
		limit = Min(limit, position->seconds * 1000);
	if (limit == 0 || call->request->waited)
		orion_refuse_standby(504, "ORION504", "The standby has not replayed this position in time",
							 "Ask again later, or ask the primary.");
	call->response->wait_ms = limit;
	call->response->wait_timeline = position->timeline;
	call->response->wait_lsn = position->lsn;
	return false;
}

/* --- telling ------------------------------------------------------------------------- */

static void
put(OrionResponse *response, TimeLineID timeline, XLogRecPtr lsn)
{
	char text[	64];

	snprintf(text, sizeof(text), "%u-%X/%X", timeline, LSN_FORMAT_ARGS(lsn));
	orion_response_header(response, "Orion-LSN", text);
}

void
orion_position_before_commit(void)
{
	XactLastCommitEnd = InvalidXLogRecPtr;	/* a commit that writes nothing
											 * leaves it alone */
}

void
orion_position_committed(OrionResponse *response)
{
	if (!XLogRecPtrIsInvalid(XactLastCommitEnd) && response->status < 400)
		put(response, GetWALInsertionTimeLine(), XactLastCommitEnd);
}

void
orion_position_of_replay(OrionResponse *response)
{
	TimeLineID	timeline;
	XLogRecPtr	flushed = GetFlushRecPtr(&timeline);

	put(response, timeline, flushed);
}

void
orion_position_init(void)
{
	DefineCustomIntVariable("orion.standby_wait_timeout",
							"Longest wait of a standby for a position that a request names.",
							"0: such requests do not wait.",
							&orion_standby_wait_timeout, 5000, 0, 600000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
}
