/*
 * cache.c
 *	  The contracts that this backend has used, and their check.
 *
 * A trigger on orion_private.event_types sends a relcache invalidation of the table
 * with each change: it reaches the other backends when the change commits, this one
 * with the next command, and again when the change is rolled back.  Whoever publishes
 * takes what has come first, so a contract holds for everybody from its commit on.
 * Contracts are read with the latest snapshot, as the catalog is: with that of
 * a REPEATABLE READ transaction an old one would be kept for the transactions after it.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "codec/topic.h"
#include "contract/contract.h"
#include "contract/schema.h"
#include "core/compat.h"

#define TYPES_KEPT	1000		/* also those without a contract; then all are
								 * forgotten */

/* Columns of orion_private.event_types. */
#define COL_TYPE	1
#define COL_VERSION	2
#define COL_SCHEMA	3

PG_FUNCTION_INFO_V1(orion_event_types_changed);
PG_FUNCTION_INFO_V1(orion_event_schema_check);
PG_FUNCTION_INFO_V1(orion_event_type_check);

typedef struct Contract
{
	struct Contract *next;
	int32		version;
	OrionSchema *schema;
} Contract;

typedef struct TypeEntry
{
	char		type[ORION_TOPIC_MAX + 1];	/* hash key */
	Contract   *contracts;		/* NULL: the type has none */
} TypeEntry;

static char *required_types = NULL; /* setting orion.contract_required_types */
static const char *required_patterns = "";	/* of it: each ends with NUL, the
											 * list with another */

static MemoryContext cache_context = NULL;
static HTAB *cache = NULL;		/* NULL: nothing is kept */
static Oid	table_oid = InvalidOid; /* of event_types, as the cache was made */
static bool stale = false;		/* what is kept must not be used */
static uint64 changes = 0;		/* invalidations seen */

/*
 * Only takes note: a schema may be in use further up.
 */
static void
on_invalidation(Datum arg, Oid relation)
{
	if (relation != InvalidOid && relation != table_oid)
		return;
	stale = true;
	changes++;
}

static void
forget(void)
{
	if (cache_context)
		MemoryContextReset(cache_context);
	cache = NULL;
	table_oid = InvalidOid;
	stale = false;
}

static void
make_cache(void)
{
	HASHCTL		ctl = {.keysize = ORION_TOPIC_MAX + 1,.entrysize = sizeof(TypeEntry)};

	if (!cache_context)
	{
		cache_context = AllocSetContextCreate(CacheMemoryContext, "orion contracts", ALLOCSET_DEFAULT_SIZES);
		CacheRegisterRelcacheCallback(on_invalidation, (Datum) 0);
	}
	ctl.hcxt = cache_context;
	cache = hash_create("orion contracts", 64, &ctl, HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	table_oid = get_relname_relid("event_types", get_namespace_oid("orion_private", false));
	if (!OidIsValid(table_oid))
		elog(ERROR, "relation orion_private.event_types does not exist");
}

/* In cache_context. */
static Contract *
read_contract(HeapTuple row, TupleDesc desc, Contract *next)
{
	Contract   *contract = palloc(sizeof(Contract));
	bool		isnull;

	contract->next = next;
	contract->version = DatumGetInt32(heap_getattr(row, COL_VERSION, desc, &isnull));
	contract->schema = orion_schema_compile(DatumGetJsonbPCopy(heap_getattr(row, COL_SCHEMA, desc, &isnull)));
	return contract;
}

static Contract *
read_contracts(const char *type)
{
	Relation	table = table_open(table_oid, AccessShareLock);
	Oid			index = get_relname_relid("event_types_pkey", RelationGetNamespace(table));
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	Contract   *contracts = NULL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	row;

	/* the column has the collation C, which is that of this key */
	ScanKeyInit(&key, COL_TYPE, BTEqualStrategyNumber, F_TEXTEQ, CStringGetTextDatum(type));
	scan = systable_beginscan(table, index, OidIsValid(index), snapshot, 1, &key);
	while (HeapTupleIsValid(row = systable_getnext(scan)))
	{
		MemoryContext old = MemoryContextSwitchTo(cache_context);

		contracts = read_contract(row, RelationGetDescr(table), contracts);
		MemoryContextSwitchTo(old);
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(table, AccessShareLock);
	return contracts;
}

/* The contracts of the type, NULL when it has none.  Valid until the next call. */
static Contract *
find_contracts(const char *type)
{
	TypeEntry  *entry;
	Contract   *contracts;
	uint64		seen;

	AcceptInvalidationMessages();
	for (;;)
	{
		if (stale || (cache && hash_get_num_entries(cache) >= TYPES_KEPT))
			forget();
		if (!cache)
			make_cache();
		entry = hash_search(cache, type, HASH_FIND, NULL);
		if (entry)
			return entry->contracts;
		seen = changes;
		contracts = read_contracts(type);
		if (seen == changes)
			break;
	}
	entry = hash_search(cache, type, HASH_ENTER, NULL);
	entry->contracts = contracts;
	return contracts;
}

static bool
is_required(const char *type)
{
	for (const char *pattern = required_patterns; *pattern; pattern += strlen(pattern) + 1)
		if (orion_topic_match(pattern, type))
			return true;
	return false;
}

static void
refuse_unregistered(const char *type)
{
	ereport(ERROR,
			(errcode(ERRCODE_CHECK_VIOLATION),
			 errmsg("event type \"%s\" has no contract", type),
			 errdetail("orion.contract_required_types asks for one."),
			 errhint("Register it with orion_event_type_set().")));
}

static void
refuse_version(const char *type, int32 version, const Contract *contracts)
{
	StringInfoData versions;

	initStringInfo(&versions);
	for (; contracts; contracts = contracts->next)	/* the last one is first */
	{
		char	   *rest = pstrdup(versions.data);

		resetStringInfo(&versions);
		appendStringInfo(&versions, "%d%s%s", contracts->version, *rest ? ", " : "", rest);
	}
	ereport(ERROR,
			(errcode(ERRCODE_CHECK_VIOLATION),
			 errmsg("event type \"%s\" has no version %d", type, version),
			 errdetail("It has contracts of version %s.", versions.data)));
}

/* The schema of that version, or NULL when none is needed. */
static const OrionSchema *
find_schema(const char *type, int32 version)
{
	const Contract *contracts = find_contracts(type);

	if (contracts == NULL)
	{
		if (*required_patterns && is_required(type))
			refuse_unregistered(type);
		return NULL;
	}
	for (const Contract *contract = contracts; contract; contract = contract->next)
		if (contract->version == version)
			return contract->schema;
	refuse_version(type, version, contracts);
	return NULL;
}

void
orion_contract_check(const char *type, int32 version, Datum payload)
{
	const OrionSchema *schema = find_schema(type, version);
	char	   *wrong;

	if (schema == NULL)
		return;
	wrong = orion_schema_violation(schema, DatumGetJsonbP(payload), "payload");
	if (wrong)
		ereport(ERROR,
				(errcode(ERRCODE_CHECK_VIOLATION),
				 errmsg("event \"%s\" breaks its contract: %s", type, wrong),
				 errhint("orion.event_types has the contract, version %d.", version)));
}

/* orion_private.event_types_changed() */
Datum
orion_event_types_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("orion_event_types_changed must be called as a trigger")));
	CacheInvalidateRelcache(((TriggerData *) fcinfo->context)->tg_relation);
	return PointerGetDatum(NULL);
}

/* orion_private.event_schema_check(type text, schema jsonb): errors when one of them is invalid */
Datum
orion_event_schema_check(PG_FUNCTION_ARGS)
{
	const char *error = orion_topic_type_error(text_to_cstring(PG_GETARG_TEXT_PP(0)));

	if (error)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid event type: %s", error),
				 errhint("A type is a list of words with dots between them, for example user.created.")));
	(void) orion_schema_compile(PG_GETARG_JSONB_P(1));
	PG_RETURN_VOID();
}

/* orion_event_type_check(type text, payload jsonb, version int) */
Datum
orion_event_type_check(PG_FUNCTION_ARGS)
{
	const OrionSchema *schema = find_schema(text_to_cstring(PG_GETARG_TEXT_PP(0)), PG_GETARG_INT32(2));
	char	   *wrong = NULL;

	if (schema)
		wrong = orion_schema_violation(schema, PG_GETARG_JSONB_P(1), "payload");
	if (wrong == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(wrong));
}

/* Splits a list at its commas into patterns, each with its NUL; false when one is none. */
static bool
split_patterns(const char *list, char *patterns)
{
	while (*list)
	{
		size_t		len = strcspn(list, ",");
		const char *end = list + len;
		const char *error;

		while (list < end && isspace((unsigned char) *list))
			list++;
		len = end - list;
		while (len > 0 && isspace((unsigned char) list[len - 1]))
			len--;
		memcpy(patterns, list, len);
		patterns[len] = '\0';
		error = orion_topic_pattern_error(patterns);
		if (error)
		{
			GUC_check_errdetail("\"%s\" is no pattern of event types: %s.", patterns, error);
			return false;
		}
		patterns += len + 1;
		list = *end ? end + 1 : end;
	}
	*patterns = '\0';
	return true;
}

static bool
check_required(char **value, void **extra, GucSource source)
{
	/* a NUL takes the place of each comma, and two end the list */
	char	   *patterns = orion_guc_malloc(strlen(*value) + 2);

	if (patterns == NULL)
		return false;
	if (!split_patterns(*value, patterns))
	{
		orion_guc_free(patterns);
		return false;
	}
	*extra = patterns;
	return true;
}

static void
assign_required(const char *value, void *extra)
{
	required_patterns = extra;
}

void
orion_contract_init(void)
{
	DefineCustomStringVariable("orion.contract_required_types",
							   "Patterns, with commas between them, of event types that must have a contract.",
							   NULL,
							   &required_types, "",
							   PGC_SUSET, 0, check_required, assign_required, NULL);
}
