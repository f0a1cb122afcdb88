/*
 * plan.c
 *	  A cache of kept plans, by role, statement text and parameter types.
 *
 * Local to a process; nothing to lock.  The role is part of the key because a
 * plan over row level security is planned again whenever the role differs
 * (measured: 33 microseconds instead of 11).  Postgres itself invalidates the
 * plans inside when an object changes; a type that changed makes another key.
 * The cache is bounded; an error while preparing leaves nothing behind.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "core/plan.h"

#define MAX_PLANS	500

/*
 * Trees and plans take some hundred times the room of the text, and texts may be
 * made by strangers: a long one is not kept, and all together stay below some
 * 30 MB.
 */
#define MAX_TEXT	(8 * 1024)
#define MAX_TEXTS	(256 * 1024)

typedef struct PlanKey
{
	uint64		hash;
	Oid			role;
	int32		nargs;
} PlanKey;

typedef struct PlanEntry
{
	PlanKey		key;			/* must be first */
	dlist_node	node;			/* most recently used first */
	char	   *text;
	Oid		   *types;			/* same allocation */
	size_t		len;
	SPIPlanPtr	plan;
	OrionPlanNote note;
} PlanEntry;

static HTAB *plans = NULL;
static dlist_head recent = DLIST_STATIC_INIT(recent);
static size_t texts = 0;		/* bytes of all kept texts */

static void
create_cache(void)
{
	HASHCTL		control = {
		.keysize = sizeof(PlanKey),
		.entrysize = sizeof(PlanEntry),
		.hcxt = TopMemoryContext,
	};

	plans = hash_create("orion plans", MAX_PLANS, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static bool
same(const PlanEntry *entry, const char *text, size_t len, int nargs, const Oid *types)
{
	return entry->text &&entry->len == len &&
		memcmp(entry->text, text, len) == 0 &&
		(nargs == 0 || memcmp(entry->types, types, nargs * sizeof(Oid)) == 0);
}

static void
forget(PlanEntry *entry)
{
	dlist_delete(&entry->node);
	texts -= entry->len;
	SPI_freeplan(entry->plan);
	pfree(entry->types);
	hash_search(plans, &entry->key, HASH_REMOVE, NULL);
}

static SPIPlanPtr
prepare(const char *text, int nargs, const Oid *types)
{
	SPIPlanPtr	plan = SPI_prepare_cursor(text, nargs, unconstify(Oid *, types), CURSOR_OPT_PARALLEL_OK);

	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	return plan;
}

static PlanEntry *
remember(const PlanKey *key, const char *text, size_t len, const Oid *types, SPIPlanPtr plan)
{
	Oid		   *memory = MemoryContextAlloc(TopMemoryContext, key->nargs * sizeof(Oid) + len + 1);
	PlanEntry  *entry;

	while (hash_get_num_entries(plans) >= MAX_PLANS || texts + len > MAX_TEXTS)
		forget(dlist_tail_element(PlanEntry, node, &recent));
	entry = hash_search(plans, key, HASH_ENTER, NULL);
	entry->types = memory;
	entry->text = (char *) (memory + key->nargs);
	entry->len = len;
	entry->plan = plan;
	memset(&entry->note, 0, sizeof(entry->note));
	if (key->nargs > 0)
		memcpy(entry->types, types, key->nargs * sizeof(Oid));
	memcpy(entry->text, text, len + 1);
	texts += len;
	dlist_push_head(&recent, &entry->node);
	SPI_keepplan(plan);
	return entry;
}

SPIPlanPtr
orion_plan_get(const char *text, size_t len, int nargs, const Oid *types)
{
	OrionPlanNote *note;

	return orion_plan_find(text, len, nargs, types, &note);
}

SPIPlanPtr
orion_plan_find(const char *text, size_t len, int nargs, const Oid *types, OrionPlanNote **note)
{
	PlanKey		key = {0};
	PlanEntry  *entry;
	SPIPlanPtr	plan;

	if (plans == NULL)
		create_cache();
	key.role = GetUserId();
	key.nargs = nargs;
	key.hash = hash_bytes_extended((const unsigned char *) text, len, 0);
	if (nargs > 0)
		key.hash ^= hash_bytes_extended((const unsigned char *) types, nargs * sizeof(Oid), 1);

	entry = hash_search(plans, &key, HASH_FIND, NULL);
	if (entry)
	{
		if (same(entry, text, len, nargs, types))
		{
			dlist_move_head(&recent, &entry->node);
			*note = &entry->note;
			return entry->plan;
		}
		forget(entry);			/* two texts of one hash: the newer one stays */
	}
	plan = prepare(text, nargs, types);
	*note = len <= MAX_TEXT ? &remember(&key, text, len, types, plan)->note : NULL;
	return plan;
}
