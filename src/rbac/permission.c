/*
 * permission.c
 *	  Whether the signed-in user has a permission, fast enough for a policy.
 *
 * Runs in any backend.  Who asks is in the verified claims, which no setting can
 * forge.  What users were granted is kept in the process by user; statement
 * triggers on the tables of roles and grants send a relcache invalidation for one
 * of them, which reaches every process with the commit of the change and drops it
 * all.  It is read as the owner of the tables, with the latest snapshot: what was
 * revoked is gone also for a transaction that began before.  No locks but the
 * tables'.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/uuid.h"

#include "core/compat.h"
#include "core/storage.h"
#include "token/token.h"

/* The table whose invalidation stands for all of them. */
#define GRANTS		"user_roles"
#define MAX_USERS	1024		/* kept; some kB each at the very most */

typedef struct Pattern
{
	const char *text;			/* "resource:action", either may be "*" */
	int			len;
} Pattern;

typedef struct Grants
{
	pg_uuid_t	user;			/* hash key, first */
	int			npatterns;
	Pattern    *patterns;
} Grants;

/* What a call site remembers from row to row. */
typedef struct LastAnswer
{
	uint64		claims_generation;
	uint64		invalidations;
	bool		answer;
	int			len;			/* -1: nothing yet */
	int			room;
	char	   *permission;
} LastAnswer;

static MemoryContext grants_context = NULL;
static HTAB *grants = NULL;		/* in grants_context */
static Oid	grants_relid = InvalidOid;
static bool grants_valid = false;
static uint64 invalidations = 0;

PG_FUNCTION_INFO_V1(orion_has_permission);
PG_FUNCTION_INFO_V1(orion_permissions_changed);

static void
relation_invalidated(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == grants_relid)
	{
		grants_valid = false;
		invalidations++;
	}
}

static void
forget_grants(void)
{
	HASHCTL		control = {0};

	if (grants_context)
		MemoryContextReset(grants_context);
	else
	{
		grants_context = AllocSetContextCreate(TopMemoryContext, "orion permissions", ALLOCSET_SMALL_SIZES);
		CacheRegisterRelcacheCallback(relation_invalidated, (Datum) 0);
	}
	grants = NULL;
	control.keysize = sizeof(pg_uuid_t);
	control.entrysize = sizeof(Grants);
	control.hcxt = grants_context;
	grants = hash_create("orion permissions", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* Copies a text[] into the cache. */
static void
keep(const pg_uuid_t *user, ArrayType *array)
{
	Datum	   *elements;
	int			n;
	Pattern    *patterns;
	Grants	   *entry;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elements, NULL, &n);
	patterns = MemoryContextAlloc(grants_context, Max(n, 1) * sizeof(Pattern));
	for (int i = 0; i < n; i++)
	{
		char	   *copy = TextDatumGetCString(elements[i]);

		patterns[i].text = MemoryContextStrdup(grants_context, copy);
		patterns[i].len = strlen(copy);
	}
	entry = hash_search(grants, user, HASH_ENTER, NULL);
	entry->npatterns = n;
	entry->patterns = patterns;
}

static void
read_grants(const pg_uuid_t *user)
{
	Oid			owner = orion_storage_owner(grants_relid);
	Oid			types[] = {UUIDOID};
	Datum		values[] = {UUIDPGetDatum(user)};
	Oid			caller;
	int			context;
	bool		isnull;
	Datum		array;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	PushActiveSnapshot(GetLatestSnapshot());
	GetUserIdAndSecContext(&caller, &context);
	SetUserIdAndSecContext(owner, context | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	if (SPI_execute_with_args("SELECT orion_private.permissions_of($1)", 1, types, values, NULL, true, 1) != SPI_OK_SELECT ||
		SPI_processed != 1)
		elog(ERROR, "could not read permissions");
	SetUserIdAndSecContext(caller, context);
	array = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	if (isnull)
		elog(ERROR, "permissions are null");
	keep(user, DatumGetArrayTypeP(array));
	PopActiveSnapshot();
	SPI_finish();
}

static const Grants *
grants_of(const pg_uuid_t *user)
{
	Grants	   *entry;
	uint64		before;

	if (!grants_valid || hash_get_num_entries(grants) >= MAX_USERS)
	{
		forget_grants();
		grants_relid = orion_storage_table(GRANTS);
		grants_valid = true;
	}
	entry = hash_search(grants, user, HASH_FIND, NULL);
	if (entry)
		return entry;
	before = invalidations;
	read_grants(user);
	/* changed while it was read: good for this answer, but not kept */
	if (invalidations != before)
		grants_valid = false;
	return hash_search(grants, user, HASH_FIND, NULL);
}

static bool
segment_covers(const char *pattern, int pattern_len, const char *wanted, int wanted_len)
{
	return (pattern_len == 1 && pattern[0] == '*') ||
		(pattern_len == wanted_len && memcmp(pattern, wanted, wanted_len) == 0);
}

/* Whether a grant of the pattern is a grant of the permission. */
static bool
covers(const char *pattern, int pattern_len, const char *wanted, int wanted_len)
{
	const char *pattern_colon = memchr(pattern, ':', pattern_len);
	const char *wanted_colon = memchr(wanted, ':', wanted_len);

	if (!pattern_colon || !wanted_colon)
		return false;
	return segment_covers(pattern, pattern_colon - pattern, wanted, wanted_colon - wanted) &&
		segment_covers(pattern_colon + 1, pattern + pattern_len - pattern_colon - 1,
					   wanted_colon + 1, wanted + wanted_len - wanted_colon - 1);
}

/* Claims with "scopes" allow no more than these; anything but a list allows nothing. */
static bool
in_scope(const Jsonb *claims, const char *wanted, int len)
{
	JsonbContainer *root = unconstify(JsonbContainer *, &claims->root);
	JsonbValue	buffer;
	JsonbValue *scopes = getKeyJsonValueFromContainer(root, "scopes", strlen("scopes"), &buffer);

	if (!scopes || scopes->type == jbvNull)
		return true;
	if (scopes->type != jbvBinary || !JsonContainerIsArray(scopes->val.binary.data))
		return false;
	for (uint32 i = 0; i < JsonContainerSize(scopes->val.binary.data); i++)
	{
		JsonbValue *scope = getIthJsonbValueFromContainer(scopes->val.binary.data, i);

		if (scope->type == jbvString && covers(scope->val.string.val, scope->val.string.len, wanted, len))
			return true;
	}
	return false;
}

static bool
has_permission(const char *wanted, int len)
{
	const Jsonb *claims = orion_claims_get();
	const Grants *granted;
	pg_uuid_t	user;

	if (!orion_claims_user(&user))
		return false;
	granted = grants_of(&user);
	for (int i = 0; i < granted->npatterns; i++)
	{
		if (covers(granted->patterns[i].text, granted->patterns[i].len, wanted, len))
			return in_scope(claims, wanted, len);
	}
	return false;
}

static void
remember(LastAnswer *last, const char *wanted, int len, bool answer)
{
	if (len > last->room)
	{
		last->permission = repalloc(last->permission, len);
		last->room = len;
	}
	memcpy(last->permission, wanted, len);
	last->len = len;
	last->answer = answer;
	last->claims_generation = orion_claims_generation();
}

/*
 * orion_has_permission(permission text): of the user in the verified claims.
 */
Datum
orion_has_permission(PG_FUNCTION_ARGS)
{
	text	   *permission = PG_GETARG_TEXT_PP(0);
	const char *wanted = VARDATA_ANY(permission);
	int			len = VARSIZE_ANY_EXHDR(permission);
	LastAnswer *last = fcinfo->flinfo->fn_extra;
	uint64		seen;

	AcceptInvalidationMessages();
	if (last && last->len == len && last->claims_generation == orion_claims_generation() &&
		last->invalidations == invalidations && memcmp(last->permission, wanted, len) == 0)
		PG_RETURN_BOOL(last->answer);

	if (!last)
	{
		last = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(LastAnswer));
		last->room = 64;
		last->permission = MemoryContextAlloc(fcinfo->flinfo->fn_mcxt, last->room);
		last->len = -1;
		fcinfo->flinfo->fn_extra = last;
	}
	last->len = -1;
	seen = invalidations;
	remember(last, wanted, len, has_permission(wanted, len));
	last->invalidations = seen;
	PG_RETURN_BOOL(last->answer);
}

/*
 * Statement trigger of the tables of roles and grants: tells every process at
 * commit.
 */
Datum
orion_permissions_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("orion_permissions_changed must be called as a trigger")));
	CacheInvalidateRelcacheByRelid(orion_storage_table(GRANTS));
	PG_RETURN_POINTER(NULL);
}
