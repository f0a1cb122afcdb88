/*
 * wanted.c
 *	  Which relays want an event: what a publisher announces (see core/listen.h).
 *
 * Runs in every backend that publishes.  It keeps a copy of the relays' patterns, and of
 * the types it has met lately what they came to, until a sink changes.  Local; nothing to
 * lock but while the patterns are copied.
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "utils/builtins.h"

#include "codec/topic.h"
#include "core/listen.h"
#include "core/wake.h"
#include "outbox/outbox.h"
#include "outbox/outbox_private.h"

PG_FUNCTION_INFO_V1(orion_outbox_inserted);

#define TYPES		32			/* remembered, a power of two */

typedef struct KnownType
{
	char		type[ORION_TOPIC_MAX + 1];	/* empty: none */
	OrionSlotSet wanting;
} KnownType;

static uint32 generation = 0;	/* of what follows; 0: nothing yet */
static int	npatterns;
static OrionSlotPattern patterns[ORION_MAX_SINKS];
static KnownType types[TYPES];

static void
refresh(void)
{
	uint32		now = orion_listen_generation();

	if (now == generation)
		return;
	npatterns = orion_listen_patterns(patterns);
	memset(types, 0, sizeof(types));
	generation = now;
}

/* All that are not known to want no such event. */
static void
match(const char *type, OrionSlotSet *wanting)
{
	memset(wanting, 0xff, sizeof(*wanting));
	for (int i = 0; i < npatterns; i++)
	{
		int			slot = patterns[i].slot;

		if (!orion_topic_match(patterns[i].pattern, type))
			wanting->words[slot / 64] &= ~(UINT64CONST(1) << (slot % 64));
	}
}

static const OrionSlotSet *
wanting(const char *type)
{
	KnownType  *known = &types[hash_bytes((const unsigned char *) type, strlen(type)) % TYPES];

	if (strcmp(known->type, type) != 0)
	{
		match(type, &known->wanting);
		strlcpy(known->type, type, sizeof(known->type));
	}
	return &known->wanting;
}

/*
 * BEFORE INSERT ON the outbox and its segments, for rows that do not come from
 * orion_events_append(): somebody writes them by hand, or restores a dump.
 */
Datum
orion_outbox_inserted(PG_FUNCTION_ARGS)
{
	OrionSlotSet all;

	memset(&all, 0xff, sizeof(all));
	orion_announce(&all, orion_listen_generation(), GetTopFullTransactionId());
	orion_wake_at_commit(ORION_WAKE_EVENTS);
	PG_RETURN_POINTER(NULL);
}

void
orion_outbox_announce(const OrionNewEvent *events, int n)
{
	refresh();
	for (int i = 0; i < n; i++)
	{
		char	   *type = TextDatumGetCString(events[i].field[ORION_EVENT_TYPE].value);

		orion_announce(wanting(type), generation, GetTopFullTransactionId());
		pfree(type);
	}
	orion_announce_numbers(n);
	orion_wake_at_commit(ORION_WAKE_EVENTS);
}
