/*
 * revocation.c
 *	  Makes access tokens die at once: sessions that ended, and users that were
 *	  signed out everywhere, banned or deleted.
 *
 * The truth is the table orion_private.revocations; what tokens are checked
 * against is a hash table of the same rows in shared memory.  A transaction
 * that revokes notes it in this process and enters it into shared memory when it has
 * committed (a savepoint that rolls back takes its notes along), before its
 * client hears of the commit: the next request anywhere sees it.  An entry is
 * needed until the last access token it concerns has expired.
 *
 * Runs in any backend.  ORION_LOCK_REVOCATIONS guards the hash table and its
 * state; held for one operation, never across anything that may ereport.  The
 * commit callback cannot fail: without room for an entry it sets table_until
 * instead, and until then tokens are checked against the table.  So they are
 * after a (crash) restart until the maintenance worker has read the table, on
 * standbys, and in databases other than orion.database.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/skey.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "pgstat.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/storage.h"
#include "core/shmem.h"
#include "token/revocation.h"
#include "token/token.h"

/* Sign-outs within the life of an access token; beyond it the table is read: 3 MB */
#define MAX_ENTRIES		65536
#define EXPIRE_SECONDS	60		/* how often what has expired is removed */

/* attribute numbers of revocations, in the order of token.sql */
#define ATTR_ID			1
#define ATTR_EPOCH		2
#define ATTR_UNTIL		3

typedef struct Revocation
{
	pg_uuid_t	id;				/* of a session or user; hash key, first */
	TimestampTz epoch;			/* tokens issued before are dead; DT_NOEND:
								 * all */
	TimestampTz until;			/* forget it then */
} Revocation;

typedef struct RevocationState
{
	/* guarded by ORION_LOCK_REVOCATIONS */
	Oid			database;		/* whose rows are all in the hash table */
	TimestampTz table_until;	/* something did not fit: read the table until
								 * then */
} RevocationState;

/* A note of the running transaction. */
typedef struct Note
{
	SubTransactionId subid;
	bool		revoked;		/* false: the revocation was taken back */
	Revocation	revocation;
} Note;

static RevocationState *state = NULL;
static HTAB *revocations = NULL;
static List *notes = NIL;		/* in TopTransactionContext */
static Oid	index_oid = InvalidOid;

PG_FUNCTION_INFO_V1(orion_revocation_note);

static Size
needed_memory(void)
{
	return add_size(MAXALIGN(sizeof(RevocationState)), hash_estimate_size(MAX_ENTRIES, sizeof(Revocation)));
}

static void
startup(void)
{
	HASHCTL		control = {.keysize = UUID_LEN,.entrysize = sizeof(Revocation)};
	bool		found;

	state = ShmemInitStruct("orion revocation state", sizeof(RevocationState), &found);
	if (!found)
		memset(state, 0, sizeof(RevocationState));
	revocations = ShmemInitHash("orion revocations", MAX_ENTRIES, MAX_ENTRIES, &control, HASH_ELEM | HASH_BLOBS);
}

/* --- entering ------------------------------------------------------------------ */

/* Lock held exclusively. Does not fail. */
static void
enter(const Revocation *revocation)
{
	bool		found;
	Revocation *entry = NULL;

	if (hash_get_num_entries(revocations) < MAX_ENTRIES)
		entry = hash_search(revocations, &revocation->id, HASH_ENTER_NULL, &found);
	else
		entry = hash_search(revocations, &revocation->id, HASH_FIND, &found);
	if (entry)
	{
		entry->epoch = revocation->epoch;
		entry->until = revocation->until;
	}
	else if (revocation->until > state->table_until)
		state->table_until = revocation->until;
}

static void
enter_notes(void)
{
	ListCell   *lc;

	LWLockAcquire(orion_shmem_lock(ORION_LOCK_REVOCATIONS), LW_EXCLUSIVE);
	foreach(lc, notes)
	{
		const Note *note = lfirst(lc);

		if (note->revoked)
			enter(&note->revocation);
		else
			(void) hash_search(revocations, &note->revocation.id, HASH_REMOVE, NULL);
	}
	LWLockRelease(orion_shmem_lock(ORION_LOCK_REVOCATIONS));
}

static void
at_transaction_end(XactEvent event, void *arg)
{
	if (notes == NIL)
		return;
	switch (event)
	{
		case XACT_EVENT_PRE_PREPARE:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot PREPARE a transaction that has ended sessions")));
			break;
		case XACT_EVENT_COMMIT:
			enter_notes();
			notes = NIL;
			break;
		case XACT_EVENT_ABORT:
			notes = NIL;
			break;
		default:
			break;
	}
}

static void
at_subtransaction_end(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg)
{
	ListCell   *lc;

	foreach(lc, notes)
	{
		Note	   *note = lfirst(lc);

		if (note->subid != mine)
			continue;
		if (event == SUBXACT_EVENT_COMMIT_SUB)
			note->subid = parent;
		else if (event == SUBXACT_EVENT_ABORT_SUB)
			notes = foreach_delete_current(notes, lc);
	}
}

/*
 * orion_private.revocation_note(id uuid, epoch timestamptz, until timestamptz):
 * for the transaction that changes the row; a null epoch takes the revocation back.
 */
Datum
orion_revocation_note(PG_FUNCTION_ARGS)
{
	MemoryContext caller = MemoryContextSwitchTo(TopTransactionContext);
	Note	   *note = palloc0(sizeof(Note));

	note->subid = GetCurrentSubTransactionId();
	note->revoked = !PG_ARGISNULL(1);
	note->revocation.id = *PG_GETARG_UUID_P(0);
	if (note->revoked)
	{
		note->revocation.epoch = PG_GETARG_TIMESTAMPTZ(1);
		note->revocation.until = PG_GETARG_TIMESTAMPTZ(2);
	}
	notes = lappend(notes, note);
	MemoryContextSwitchTo(caller);
	PG_RETURN_VOID();
}

/* --- checking ------------------------------------------------------------------ */

static bool
find_note(const pg_uuid_t *id, Revocation *found)
{
	ListCell   *lc;
	bool		any = false;

	foreach(lc, notes)
	{
		const Note *note = lfirst(lc);

		if (memcmp(note->revocation.id.data, id->data, UUID_LEN) != 0)
			continue;
		any = note->revoked;	/* the last one counts */
		*found = note->revocation;
	}
	return any;
}

static Relation
open_table(void)
{
	Oid			table = orion_storage_table("revocations");

	index_oid = get_relname_relid("revocations_pkey", get_rel_namespace(table));
	return table_open(table, AccessShareLock);
}

static void
read_row(HeapTuple tuple, TupleDesc desc, Revocation *revocation)
{
	bool		isnull;

	revocation->id = *DatumGetUUIDP(heap_getattr(tuple, ATTR_ID, desc, &isnull));
	revocation->epoch = DatumGetTimestampTz(heap_getattr(tuple, ATTR_EPOCH, desc, &isnull));
	revocation->until = DatumGetTimestampTz(heap_getattr(tuple, ATTR_UNTIL, desc, &isnull));
}

/* What is committed now, whatever the snapshot of the transaction. */
static bool
find_row(const pg_uuid_t *id, Revocation *found)
{
	Relation	table = open_table();
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		any;

	ScanKeyInit(&key, ATTR_ID, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(id));
	scan = systable_beginscan(table, index_oid, OidIsValid(index_oid), NULL, 1, &key);
	tuple = systable_getnext(scan);
	any = HeapTupleIsValid(tuple);
	if (any)
		read_row(tuple, RelationGetDescr(table), found);
	systable_endscan(scan);
	table_close(table, AccessShareLock);
	return any;
}

/* False when shared memory cannot tell. */
static bool
look_up(const pg_uuid_t *id, Revocation *found, bool *any)
{
	bool		complete;
	const Revocation *entry;

	LWLockAcquire(orion_shmem_lock(ORION_LOCK_REVOCATIONS), LW_SHARED);
	complete = state->database == MyDatabaseId;
	entry = hash_search(revocations, id, HASH_FIND, NULL);
	*any = entry != NULL;
	if (entry)
		*found = *entry;
	else if (state->table_until != 0)
		complete = complete && state->table_until < GetCurrentTimestamp();
	LWLockRelease(orion_shmem_lock(ORION_LOCK_REVOCATIONS));
	return complete || *any;
}

static bool
find(const pg_uuid_t *id, Revocation *found)
{
	bool		any = false;

	if (notes != NIL && find_note(id, found))
		return true;
	if (!RecoveryInProgress() && look_up(id, found, &any))
		return any;
	return find_row(id, found);
}

static bool
issued_until(const OrionTokenSubject *subject, TimestampTz epoch)
{
	return time_t_to_timestamptz((pg_time_t) subject->issued_at) <= epoch;
}

/*
 * A session's entry says that it ended, or with an epoch, that it proves a second
 * factor no more: then the tokens that claim one are dead.  A user's epoch counts for
 * tokens without a session; a session that ended has an entry of its own, and times of
 * whole seconds would not tell the tokens of a sign-in right after from those before.
 */
bool
orion_token_revoked(const OrionTokenSubject *subject)
{
	Revocation	found;

	if (subject->has_session && find(&subject->session, &found) &&
		(TIMESTAMP_IS_NOEND(found.epoch) || (subject->raised && issued_until(subject, found.epoch))))
		return true;
	if (!subject->has_user || !find(&subject->user, &found))
		return false;
	return TIMESTAMP_IS_NOEND(found.epoch) ||
		(!subject->has_session && issued_until(subject, found.epoch));
}

static bool
claim_uuid(const Jsonb *claims, const char *name, pg_uuid_t *id)
{
	char	   *text = orion_claims_string(claims, name);

	if (!text ||!orion_looks_like_uuid(text))
		return false;
	*id = *DatumGetUUIDP(DirectFunctionCall1(uuid_in, CStringGetDatum(text)));
	return true;
}

void
orion_token_subject(const Jsonb *claims, OrionTokenSubject *subject)
{
	char	   *level = orion_claims_string(claims, "aal");

	memset(subject, 0, sizeof(OrionTokenSubject));
	subject->raised = level && strcmp(level, "aal2") == 0;
	subject->has_session = claim_uuid(claims, "session_id", &subject->session);
	subject->has_user = claim_uuid(claims, "sub", &subject->user);
}

/* --- maintenance ---------------------------------------------------------------- */

/*
 * Whatever commits while the table is read enters itself, and is either in the
 * snapshot or later than it: nothing is missed, and the later one wins.
 */
static void
load(void)
{
	Relation	table = open_table();
	SysScanDesc scan = systable_beginscan(table, InvalidOid, false, NULL, 0, NULL);
	TimestampTz now = GetCurrentTimestamp();
	HeapTuple	tuple;
	Revocation	revocation;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		read_row(tuple, RelationGetDescr(table), &revocation);
		if (revocation.until < now)
			continue;
		LWLockAcquire(orion_shmem_lock(ORION_LOCK_REVOCATIONS), LW_EXCLUSIVE);
		if (!hash_search(revocations, &revocation.id, HASH_FIND, NULL))
			enter(&revocation);
		LWLockRelease(orion_shmem_lock(ORION_LOCK_REVOCATIONS));
	}
	systable_endscan(scan);
	table_close(table, AccessShareLock);
	LWLockAcquire(orion_shmem_lock(ORION_LOCK_REVOCATIONS), LW_EXCLUSIVE);
	state->database = MyDatabaseId;
	LWLockRelease(orion_shmem_lock(ORION_LOCK_REVOCATIONS));
}

static void
expire(void)
{
	TimestampTz now = GetCurrentTimestamp();
	HASH_SEQ_STATUS walk;
	Revocation *entry;

	LWLockAcquire(orion_shmem_lock(ORION_LOCK_REVOCATIONS), LW_EXCLUSIVE);
	hash_seq_init(&walk, revocations);
	while ((entry = hash_seq_search(&walk)) != NULL)
	{
		if (entry->until < now)
			(void) hash_search(revocations, &entry->id, HASH_REMOVE, NULL);
	}
	if (state->table_until < now)
		state->table_until = 0;
	LWLockRelease(orion_shmem_lock(ORION_LOCK_REVOCATIONS));
	if (SPI_execute("DELETE FROM orion_private.revocations WHERE until OPERATOR(pg_catalog.<) pg_catalog.now()", false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not delete old revocations");
}

void
orion_token_maintain(void)
{
	static TimestampTz next = 0;
	TimestampTz now = GetCurrentTimestamp();
	bool		loaded;

	LWLockAcquire(orion_shmem_lock(ORION_LOCK_REVOCATIONS), LW_SHARED);
	loaded = state->database == MyDatabaseId;
	LWLockRelease(orion_shmem_lock(ORION_LOCK_REVOCATIONS));
	if (loaded && now < next)
		return;
	next = TimestampTzPlusMilliseconds(now, EXPIRE_SECONDS * 1000);
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	PushActiveSnapshot(GetTransactionSnapshot());
	pgstat_report_activity(STATE_RUNNING, "orion: forgetting revocations");
	if (!loaded)
		load();
	expire();
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
	pgstat_report_activity(STATE_IDLE, NULL);
}

void
orion_revocation_init(void)
{
	orion_shmem_add(needed_memory(), startup);
	RegisterXactCallback(at_transaction_end, NULL);
	RegisterSubXactCallback(at_subtransaction_end, NULL);
}
