/*
 * wake.c
 *	  Sets the latches of workers after a commit, and gets workers out of the
 *	  way of DROP DATABASE and CREATE/DROP EXTENSION.
 *
 * Runs in every backend.  The transaction callback runs after the transaction
 * has left the proc array, so whoever is woken sees its rows; it must not error
 * or allocate.  OrionShared.lock is taken shared while latches are set: a slot's
 * proc cannot be detached meanwhile.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/latch.h"
#include "tcop/utility.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/listen.h"
#include "core/wake.h"

/* How long DROP DATABASE may keep the workers out, should its backend die. */
#define HOLD_MS		15000
/* How long it waits for them to be gone; they leave within milliseconds. */
#define LEAVE_MS	3000

static int	pending = 0;		/* OrionWakeReason bits of this transaction */
static ProcessUtility_hook_type prev_process_utility = NULL;

void
orion_wake_at_commit(OrionWakeReason reason)
{
	pending |= reason;
}

void
orion_wake_launcher(void)
{
	LWLockAcquire(orion_shared->lock, LW_SHARED);
	if (orion_shared->launcher)
		SetLatch(&orion_shared->launcher->procLatch);
	LWLockRelease(orion_shared->lock);
}

void
orion_wake_kind(OrionWorkerKind kind)
{
	LWLockAcquire(orion_shared->lock, LW_SHARED);
	for (int i = 0; i < ORION_MAX_SLOTS; i++)
	{
		OrionWorkerSlot *slot = &orion_shared->slots[i];

		if (slot->in_use && slot->kind == kind && slot->proc)
			SetLatch(&slot->proc->procLatch);
	}
	LWLockRelease(orion_shared->lock);
}

/* What stopped the workers may be mended now: let the launcher try at once. */
static void
forget_backoff(void)
{
	LWLockAcquire(orion_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < ORION_MAX_SLOTS; i++)
	{
		orion_shared->slots[i].not_before = 0;
		orion_shared->slots[i].failures = 0;
	}
	LWLockRelease(orion_shared->lock);
}

static void
ask_for_upkeep(void)
{
	pg_atomic_fetch_add_u32(&orion_shared->upkeep_asked, 1);
	orion_wake_kind(ORION_WORKER_MAINTENANCE);
}

static void
wake_for(int reasons)
{
	if (reasons & ORION_WAKE_ROUTES)
		pg_atomic_fetch_add_u32(&orion_shared->routes_generation, 1);
	if (reasons & ORION_WAKE_ROLES)
		pg_atomic_fetch_add_u32(&orion_shared->role_settings_generation, 1);
	if (reasons & ORION_WAKE_SINKS)
	{
		pg_atomic_fetch_add_u32(&orion_shared->sinks_generation, 1);
		pg_atomic_fetch_add_u32(&orion_shared->patterns_generation, 1);
		ask_for_upkeep();
		orion_wake_kind(ORION_WORKER_CONSUMER);
	}
	if (reasons & ORION_WAKE_EXTENSION)
	{
		forget_backoff();
		ask_for_upkeep();
		orion_wake_launcher();
	}
	if (reasons & ORION_WAKE_EVENTS)
		orion_announce_wake();
	if (reasons & ORION_WAKE_SINKS)
		orion_wake_kind(ORION_WORKER_RELAY);
}

static void
at_transaction_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT)
	{
		if (pending)
			wake_for(pending);
		pending = 0;
		orion_announce_end();
	}
	else if (event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
	{
		/* COMMIT PREPARED may have done its work before it failed */
		if (orion_announced_anything())
			orion_announce_wake();
		pending = 0;
		orion_announce_end();
	}
}

static bool
names_orion(List *objects)
{
	ListCell   *lc;

	foreach(lc, objects)
	{
		if (strcmp(strVal(lfirst(lc)), "orion") == 0)
			return true;
	}
	return false;
}

static bool
brings_or_takes_extension(Node *statement)
{
	if (IsA(statement, CreateExtensionStmt))
		return strcmp(((CreateExtensionStmt *) statement)->extname, "orion") == 0;
	if (IsA(statement, CreatedbStmt))
		return orion_database && strcmp(((CreatedbStmt *) statement)->dbname, orion_database) == 0;
	if (IsA(statement, RenameStmt) &&
		((RenameStmt *) statement)->renameType == OBJECT_DATABASE)
		return true;			/* perhaps to the name of our database */
	if (IsA(statement, DropStmt))
		return ((DropStmt *) statement)->removeType == OBJECT_EXTENSION &&
			names_orion(((DropStmt *) statement)->objects);
	return false;
}

/* ALTER ROLE or DATABASE ... SET; a role's settings go with it. */
static bool
changes_role_settings(Node *statement)
{
	return IsA(statement, AlterRoleSetStmt) || IsA(statement, AlterDatabaseSetStmt) || IsA(statement, DropRoleStmt);
}

static bool
commits_prepared(Node *statement)
{
	return IsA(statement, TransactionStmt) &&
		((TransactionStmt *) statement)->kind == TRANS_STMT_COMMIT_PREPARED;
}

/* The database that a command needs to itself, or NULL. */
static const char *
exclusive_database(Node *statement)
{
	ListCell   *lc;

	if (IsA(statement, DropdbStmt))
		return ((DropdbStmt *) statement)->dbname;
	if (IsA(statement, RenameStmt) &&
		((RenameStmt *) statement)->renameType == OBJECT_DATABASE)
		return ((RenameStmt *) statement)->subname;
	if (!IsA(statement, CreatedbStmt))
		return NULL;
	foreach(lc, ((CreatedbStmt *) statement)->options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, "template") == 0 && option->arg && IsA(option->arg, String))
			return strVal(option->arg);
	}
	return NULL;
}

/* Only who may run the command may send the workers away for it. */
static bool
may_clear(const char *database)
{
	Oid			oid = get_database_oid(database, true);

	return OidIsValid(oid) && (superuser() || orion_owns_database(oid));
}

static bool
any_worker_attached(void)
{
	bool		found = false;

	LWLockAcquire(orion_shared->lock, LW_SHARED);
	for (int i = 0; i < ORION_MAX_SLOTS && !found; i++)
		found = orion_shared->slots[i].in_use && orion_shared->slots[i].proc;
	LWLockRelease(orion_shared->lock);
	return found;
}

static void
set_hold(TimestampTz until)
{
	LWLockAcquire(orion_shared->lock, LW_EXCLUSIVE);
	orion_shared->hold_until = until;
	orion_shared->extension_ready = false;	/* until maintenance has looked
											 * again */
	LWLockRelease(orion_shared->lock);
	orion_wake_launcher();
}

/* Asks the workers to leave the database and waits until they have. */
static void
clear_database(void)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LEAVE_MS);

	set_hold(TimestampTzPlusMilliseconds(GetCurrentTimestamp(), HOLD_MS));
	while (any_worker_attached() && GetCurrentTimestamp() < deadline)
	{
		CHECK_FOR_INTERRUPTS();
		pg_usleep(5000L);
	}
}

static void
next_process_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
					 ProcessUtilityContext context, ParamListInfo params,
					 QueryEnvironment *env, DestReceiver *dest, QueryCompletion *qc)
{
	if (prev_process_utility)
		prev_process_utility(pstmt, query, read_only_tree, context, params, env, dest, qc);
	else
		standard_ProcessUtility(pstmt, query, read_only_tree, context, params, env, dest, qc);
}

static void
process_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *env, DestReceiver *dest, QueryCompletion *qc)
{
	Node	   *statement = pstmt->utilityStmt;
	const char *database = exclusive_database(statement);

	if (brings_or_takes_extension(statement))
		orion_wake_at_commit(ORION_WAKE_EXTENSION);
	if (changes_role_settings(statement))
		orion_wake_at_commit(ORION_WAKE_ROLES);
	if (commits_prepared(statement))
	{
		orion_announce_anything();
		orion_wake_at_commit(ORION_WAKE_EVENTS | ORION_WAKE_SINKS | ORION_WAKE_ROUTES | ORION_WAKE_ROLES);
	}

	if (database && orion_database && strcmp(database, orion_database) == 0 && may_clear(database))
	{
		clear_database();
		PG_TRY();
		{
			next_process_utility(pstmt, query, read_only_tree, context, params, env, dest, qc);
		}
		PG_FINALLY();
		{
			set_hold(0);
		}
		PG_END_TRY();
	}
	else
		next_process_utility(pstmt, query, read_only_tree, context, params, env, dest, qc);
}

void
orion_wake_init(void)
{
	RegisterXactCallback(at_transaction_end, NULL);
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
}
