/*
 * park.c
 *	  Requests put aside until a standby has replayed the position they name.
 *
 * An executor says LATER instead of answering; the request then waits here, where it
 * takes neither an executor nor a place in the queue.  While there are such requests the
 * worker tells how far the replay is.  A request that may go on, and one that has waited for
 * as long as it may, is given to an executor again; the latter is marked and gets
 * an answer whatever it is.  Their number is bounded.
 */
#include <stddef.h>
#include <string.h>

#include "gateway/gateway.h"

/* Of the frame's header; see frame.h. */
#define FLAGS_AT	6

static OrionQueue parked;		/* in no order */

int
orion_gateway_park_count(void)
{
	return parked.count;
}

static void
go_on(Request *request, bool waited)
{
	uint16_t	flags = waited ? ORION_REQUEST_WAITED : 0;

	orion_queue_remove(&parked, &request->item);
	memcpy(request->frame.data + FLAGS_AT, &flags, sizeof(flags));
	orion_gateway_handoff_submit(request);
}

void
orion_gateway_park(Request *request, uint64_t timeline, uint64_t lsn, int64_t ms)
{
	parked.max = orion_gateway.config.max_parked;
	/* who comes a second time has waited for a part already */
	if (request->park_until == 0)
		request->park_until = orion_gateway.now + ms;
	request->park_timeline = timeline;
	request->park_lsn = lsn;
	request->state = REQUEST_PARKED;
	if (!orion_queue_push(&parked, &request->item, request->park_until))
		orion_gateway_server_refuse(request, &orion_http_queue_full);
	else
		orion_gateway_ask_parent(ORION_FRAME_AWAIT);
}

/* The client has gone. */
void
orion_gateway_park_leave(Request *request)
{
	orion_queue_remove(&parked, &request->item);
}

/* False when nobody waits any more. */
bool
orion_gateway_park_replayed(uint64_t timeline, uint64_t lsn)
{
	OrionQueueItem *next;

	for (OrionQueueItem *item = parked.first; item; item = next)
	{
		Request    *request = (Request *) item;

		next = item->next;
		if (request->park_lsn <= lsn && request->park_timeline <= timeline)
			go_on(request, false);
	}
	return parked.count > 0;
}

/* When the gateway leaves, all have waited long enough. */
void
orion_gateway_park_expire(void)
{
	OrionQueueItem *next;

	for (OrionQueueItem *item = parked.first; item; item = next)
	{
		next = item->next;
		if (orion_gateway.leave_at || item->deadline <= orion_gateway.now)
			go_on((Request *) item, true);
	}
}
