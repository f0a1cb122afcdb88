/*
 * listen.c
 *	  Who listens for events, and who is about to commit some; see listen.h.
 *
 * A commit must not cost more the more sinks there are, nor may a sink that takes one
 * event in a million read the million.  So events of no interest wake nobody, and a relay
 * that was not woken may move its cursor over what came meanwhile, unread.  That is a
 * proof, not a guess; it rests on this order:
 *
 *	publisher: announce; commit (its rows become visible); clear the bits of listening
 *		relays that want them, and wake these; withdraw the announcement.
 *	relay: set its bit; take a snapshot and read all that is new in it; later take another
 *		snapshot, look at the announcements, then at its bit.
 *
 * A transaction that is visible in the second snapshot and not in the first has an
 * announcement that the relay sees, or has withdrawn it and cleared the bit before.  One
 * that is still in progress in the second snapshot does not matter now.
 *
 * The announcement comes before the numbers of the events are drawn from their sequence, and
 * says how many will be.  So who has read the sequence and then looks at the announcements knows
 * how many of the numbers may belong to transactions still open.  They stay when a subtransaction
 * or the insertion fails: too much of both is harmless.
 *
 * A publisher decides by the patterns that it has seen.  When a sink changes, what was
 * decided before counts for nothing: generation tells, in announcements and at commit.
 * Until the relay has read its sink again, it counts as wanting everything.
 *
 * The patterns are guarded by OrionShared.lock, all else is atomic.  An announcement is
 * written by its backend only, in a cache line of its own.  Nothing here errors or
 * allocates, as half of it runs after commits.
 */
#include "postgres.h"

#include "access/transam.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/shmem.h"
#include "utils/snapmgr.h"

#include "core/listen.h"

/* Of a backend; xid 0: none, then numbers is 0 too.  A set of slots that may be too large is harmless. */
typedef union Announcement
{
	struct
	{
		pg_atomic_uint64 xid;
		pg_atomic_uint64 generation;
		pg_atomic_uint64 wanting[ORION_LISTENING_WORDS];
		pg_atomic_uint64 numbers;
	}			is;
	char		pad[PG_CACHE_LINE_SIZE];
} Announcement;

static Announcement *announcements = NULL;	/* MaxBackends of them */

static bool announced = false;	/* by this backend, in this transaction */
static bool announced_anything = false;
static uint32 announced_generation = 0;
static OrionSlotSet announced_set;

static int	my_slot = -1;		/* of a relay */

Size
orion_listen_shmem_size(void)
{
	return mul_size(MaxBackends, sizeof(Announcement));
}

void
orion_listen_shmem_startup(void)
{
	bool		found;

	announcements = ShmemInitStruct("orion announcements", orion_listen_shmem_size(), &found);
	if (found)
		return;
	for (int i = 0; i < MaxBackends; i++)
	{
		pg_atomic_init_u64(&announcements[i].is.xid, 0);
		pg_atomic_init_u64(&announcements[i].is.generation, 0);
		pg_atomic_init_u64(&announcements[i].is.numbers, 0);
		for (int j = 0; j < ORION_LISTENING_WORDS; j++)
			pg_atomic_init_u64(&announcements[i].is.wanting[j], 0);
	}
}

/* ---- publishers ---- */

uint32
orion_listen_generation(void)
{
	uint32		generation = pg_atomic_read_u32(&orion_shared->patterns_generation);

	pg_memory_barrier();
	return generation;
}

int
orion_listen_patterns(OrionSlotPattern *patterns)
{
	int			n = 0;

	LWLockAcquire(orion_shared->lock, LW_SHARED);
	for (int i = 0; i < ORION_MAX_SLOTS && n < ORION_MAX_SINKS; i++)
	{
		OrionWorkerSlot *slot = &orion_shared->slots[i];

		if (!slot->in_use || slot->kind != ORION_WORKER_RELAY ||
			slot->pattern_as_of != pg_atomic_read_u32(&orion_shared->sinks_generation))
			continue;
		patterns[n].slot = i;
		memcpy(patterns[n++].pattern, slot->pattern, ORION_PATTERN_LEN);
	}
	LWLockRelease(orion_shared->lock);
	return n;
}

static Announcement *
my_announcement(void)
{
	ptrdiff_t	number = MyProc - ProcGlobal->allProcs;

	Assert(number >= 0 && number < MaxBackends);
	return &announcements[number];
}

static void
add_to_announcement(const OrionSlotSet *wanting)
{
	Announcement *mine = my_announcement();

	for (int i = 0; i < ORION_LISTENING_WORDS; i++)
	{
		announced_set.words[i] |= wanting->words[i];
		pg_atomic_write_u64(&mine->is.wanting[i], announced_set.words[i]);
	}
}

void
orion_announce(const OrionSlotSet *wanting, uint32 generation, FullTransactionId xid)
{
	Announcement *mine = my_announcement();

	if (!announced)
	{
		memset(&announced_set, 0, sizeof(announced_set));
		announced_generation = generation;
	}
	add_to_announcement(wanting);
	if (announced)
		return;
	pg_atomic_write_u64(&mine->is.generation, generation);
	pg_write_barrier();
	pg_atomic_write_u64(&mine->is.xid, U64FromFullTransactionId(xid));
	announced = true;
}

void
orion_announce_numbers(uint64 n)
{
	Announcement *mine = my_announcement();

	pg_atomic_write_u64(&mine->is.numbers, pg_atomic_read_u64(&mine->is.numbers) + n);
	pg_memory_barrier();
}

/* No snapshot has this xid in progress, so the announcement counts until it is withdrawn. */
void
orion_announce_anything(void)
{
	OrionSlotSet all;

	memset(&all, 0xff, sizeof(all));
	orion_announce(&all, orion_listen_generation(), FullTransactionIdFromU64(FrozenTransactionId));
	announced_anything = true;
	pg_memory_barrier();
}

bool
orion_announced_anything(void)
{
	return announced_anything;
}

/* After the commit. Who is busy or pauses has no bit set, and costs the committer nothing. */
void
orion_announce_wake(void)
{
	bool		all;

	pg_memory_barrier();
	all = !announced || announced_generation != pg_atomic_read_u32(&orion_shared->patterns_generation);
	for (int i = 0; i < ORION_LISTENING_WORDS; i++)
	{
		uint64		wanting = all ? ~UINT64CONST(0) : announced_set.words[i];
		uint64		bits;

		if ((pg_atomic_read_u64(&orion_shared->listening[i]) & wanting) == 0)
			continue;
		bits = pg_atomic_fetch_and_u64(&orion_shared->listening[i], ~wanting) & wanting;
		LWLockAcquire(orion_shared->lock, LW_SHARED);
		for (int j = 0; j < 64 && i * 64 + j < ORION_MAX_SLOTS; j++)
		{
			OrionWorkerSlot *slot = &orion_shared->slots[i * 64 + j];

			if ((bits & (UINT64CONST(1) << j)) && slot->in_use && slot->proc)
				SetLatch(&slot->proc->procLatch);
		}
		LWLockRelease(orion_shared->lock);
	}
}

void
orion_announce_end(void)
{
	if (!announced)
		return;
	pg_memory_barrier();
	pg_atomic_write_u64(&my_announcement()->is.numbers, 0);
	pg_atomic_write_u64(&my_announcement()->is.xid, 0);
	announced = announced_anything = false;
}

/* ---- relays ---- */

static uint64
bit_of(int slot)
{
	return UINT64CONST(1) << (slot % 64);
}

static bool
is_listening(int slot)
{
	return (pg_atomic_read_u64(&orion_shared->listening[slot / 64]) & bit_of(slot)) != 0;
}

void
orion_listen_as(int slot)
{
	my_slot = slot;
	orion_listen_idle(false);
}

void
orion_listen_declare(const char *pattern, uint32 sinks_generation)
{
	OrionWorkerSlot *slot = &orion_shared->slots[my_slot];

	if (slot->pattern_as_of == sinks_generation && strcmp(slot->pattern, pattern) == 0)
		return;
	LWLockAcquire(orion_shared->lock, LW_EXCLUSIVE);
	strlcpy(slot->pattern, pattern, ORION_PATTERN_LEN);
	slot->pattern_as_of = sinks_generation;
	LWLockRelease(orion_shared->lock);
	pg_atomic_fetch_add_u32(&orion_shared->patterns_generation, 1);
}

/*
 * The bit is set before the look: a commit that the look does not see finds it.  Both
 * sides have a full barrier between their write and their read.
 */
void
orion_listen(void)
{
	if (my_slot < 0)
		return;
	orion_listen_idle(false);
	pg_atomic_fetch_or_u64(&orion_shared->listening[my_slot / 64], bit_of(my_slot));
}

/* Has this backend's transaction, if it has one, nothing for us that the snapshot shows? */
static bool
is_harmless(Announcement *announcement, uint32 generation, Snapshot snapshot)
{
	uint64		xid = pg_atomic_read_u64(&announcement->is.xid);

	if (xid == 0)
		return true;
	pg_read_barrier();
	if (xid >= FirstNormalTransactionId && XidInMVCCSnapshot((TransactionId) xid, snapshot))
		return true;
	return pg_atomic_read_u64(&announcement->is.generation) == generation &&
		(pg_atomic_read_u64(&announcement->is.wanting[my_slot / 64]) & bit_of(my_slot)) == 0;
}

bool
orion_listen_is_quiet(Snapshot snapshot)
{
	uint32		generation;

	if (my_slot < 0 || !is_listening(my_slot))
		return false;
	pg_memory_barrier();
	generation = orion_listen_generation();
	for (int i = 0; i < MaxBackends; i++)
	{
		if (!is_harmless(&announcements[i], generation, snapshot))
			return false;
	}
	pg_memory_barrier();
	return is_listening(my_slot);
}

/*
 * A number that was seen drawn was announced before, so its transaction is counted here or has
 * withdrawn the announcement: it has ended, or was prepared, whose events are late commits.  If
 * the backend is in its next transaction meanwhile, that one's count is too much.
 */
uint64
orion_listen_undecided(void)
{
	uint64		sum = 0;

	pg_memory_barrier();
	for (int i = 0; i < MaxBackends; i++)
		sum += pg_atomic_read_u64(&announcements[i].is.numbers);
	return sum;
}

void
orion_listen_idle(bool idle)
{
	if (my_slot >= 0)
		pg_atomic_write_u32(&orion_shared->slots[my_slot].idle, idle);
}

bool
orion_slot_is_caught_up(int slot)
{
	return pg_atomic_read_u32(&orion_shared->slots[slot].idle) && is_listening(slot);
}
