/*
 * publish.c
 *	  orion_publish() and what its kin share: checks events and appends them to
 *	  the outbox.
 *
 * Runs in every backend, in the caller's transaction: the events exist if and
 * only if that commits.  Rows go straight into the current segment's heap
 * and indexes, without the executor: callers hold no privilege on the table, and
 * publishing must cost little more than a plain insert.
 *
 * Which segment: OrionShared.outbox_segment, an atomic.  The lock on the segment
 * is taken first and the atomic is read again: whoever rotates changes the
 * atomic, then waits for the locks of the old segment, and knows from then on
 * that no row will come (see segment.c).  0 means that no maintenance worker has
 * run in this server; then nobody rotates either, and the table tells.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/sequence.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"
#include "utils/xid8.h"

#include "codec/topic.h"
#include "contract/contract.h"
#include "core/compat.h"
#include "core/wake.h"
#include "outbox/outbox.h"
#include "outbox/outbox_private.h"

PG_FUNCTION_INFO_V1(orion_publish);

/* Rows that go into the heap with one call; a page has fewer. */
#define ROWS_AT_ONCE	64

#define RANDOM_WORDS	128		/* drawn at a time: a call of the generator
								 * costs as much as an index entry */

/* Columns of orion_private.outbox, from 0. */
enum
{
	COL_SEGMENT,
	COL_SEQ,
	COL_XID,
	COL_ID,
	COL_AGGREGATETYPE,
	COL_AGGREGATEID,
	COL_TYPE,
	COL_PAYLOAD,
	COL_VERSION,
	COL_CORRELATION_ID,
	COL_CAUSATION_ID,
	COL_METADATA,
	COL_OCCURRED_AT,
	COLUMNS,
};

static Oid	relations[1 + ORION_OUTBOX_SEGMENTS];	/* the sequence and the
													 * segments; 0: to be
													 * looked up */
static const Jsonb *cause = NULL;	/* envelope of the event being handled */

uint64
orion_outbox_random(void)
{
	static uint64 words[RANDOM_WORDS];
	static int	left = 0;

	if (left == 0)
	{
		if (!pg_strong_random(words, sizeof(words)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random values")));
		left = RANDOM_WORDS;
	}
	return words[--left];
}

/*
 * A UUID of version 7 (RFC 9562, section 5.7): 48 bits of milliseconds, 12 bits
 * of their fraction, 62 random bits.
 */
static void
make_event_id(pg_uuid_t *id, TimestampTz at)
{
	int64		us = at + (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
	uint64		ms = us / 1000;
	uint32		fraction = (uint32) (us % 1000) * 4096 / 1000;
	uint64		word = orion_outbox_random();

	for (int i = 0; i < 6; i++)
		id->data[i] = (ms >> (40 - 8 * i)) & 0xff;
	id->data[6] = 0x70 | (fraction >> 8);
	id->data[7] = fraction & 0xff;
	memcpy(&id->data[8], &word, sizeof(word));
	id->data[8] = (id->data[8] & 0x3f) | 0x80;
}

static void
check_type(const char *type)
{
	const char *error = orion_topic_type_error(type);

	if (error)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid event type: %s", error),
				 errhint("A type is a list of words with dots between them, for example user.created.")));
}

static void
check_attribute(const OrionNewEvent *event, OrionEventField field, const char *name)
{
	Size		size;

	if (event->field[field].isnull)
		return;
	size = toast_raw_datum_size(event->field[field].value) - VARHDRSZ;
	if (size > ORION_EVENT_MAX_ATTRIBUTE)
		ereport(ERROR,
				(errcode(ERRCODE_STRING_DATA_RIGHT_TRUNCATION),
				 errmsg("%s of an event is too long", name),
				 errdetail("It has %zu bytes, the limit is %d.", size, ORION_EVENT_MAX_ATTRIBUTE)));
}

static void
check_size(const OrionNewEvent *event)
{
	Size		size = toast_raw_datum_size(event->field[ORION_EVENT_PAYLOAD].value);

	if (!event->field[ORION_EVENT_METADATA].isnull)
		size += toast_raw_datum_size(event->field[ORION_EVENT_METADATA].value);
	if (size > (Size) orion_outbox_max_payload * 1024)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("event is too large"),
				 errdetail("Payload and metadata have %zu bytes, the limit is %zu.",
						   size, (Size) orion_outbox_max_payload * 1024),
				 errhint("Publish a reference to the data, or raise orion.outbox_max_payload.")));
}

void
orion_event_set_cause(const Jsonb *envelope)
{
	cause = envelope;
}

/* A member of the event being handled, or NULL. */
static char *
cause_member(const char *key)
{
	JsonbValue	buffer;
	JsonbValue *value;

	if (cause == NULL || !JB_ROOT_IS_OBJECT(cause))
		return NULL;
	value = getKeyJsonValueFromContainer(unconstify(JsonbContainer *, &cause->root), key, strlen(key), &buffer);
	if (value == NULL || value->type != jbvString)
		return NULL;
	return pnstrdup(value->val.string.val, value->val.string.len);
}

static void
default_attribute(OrionNewEvent *event, OrionEventField field, const char *value)
{
	if (value == NULL)
		return;
	event->field[field].value = CStringGetTextDatum(value);
	event->field[field].isnull = false;
}

/* What the event belongs to, unless the publisher says: the transaction's settings, else the event being handled. */
static void
fill_origin(OrionNewEvent *event)
{
	bool		has_correlation = orion_outbox_correlation_id && orion_outbox_correlation_id[0];
	bool		has_causation = orion_outbox_causation_id && orion_outbox_causation_id[0];
	char	   *id;

	if (event->field[ORION_EVENT_CORRELATION_ID].isnull)
	{
		id = has_correlation ? orion_outbox_correlation_id : cause_member("correlationId");
		default_attribute(event, ORION_EVENT_CORRELATION_ID, id ? id : cause_member("eventId"));
	}
	if (event->field[ORION_EVENT_CAUSATION_ID].isnull)
		default_attribute(event, ORION_EVENT_CAUSATION_ID, has_causation ? orion_outbox_causation_id : cause_member("eventId"));
}

void
orion_event_check(OrionNewEvent *event)
{
	char	   *type;
	int32		version;

	if (event->field[ORION_EVENT_TYPE].isnull || event->field[ORION_EVENT_PAYLOAD].isnull ||
		event->field[ORION_EVENT_VERSION].isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("type, payload and version of an event must not be null")));
	fill_origin(event);
	type = TextDatumGetCString(event->field[ORION_EVENT_TYPE].value);
	check_type(type);
	check_attribute(event, ORION_EVENT_AGGREGATETYPE, "aggregatetype");
	check_attribute(event, ORION_EVENT_AGGREGATEID, "aggregateid");
	check_attribute(event, ORION_EVENT_CORRELATION_ID, "correlation_id");
	check_attribute(event, ORION_EVENT_CAUSATION_ID, "causation_id");
	check_size(event);
	version = DatumGetInt32(event->field[ORION_EVENT_VERSION].value);
	if (version < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("version of an event must be 1 or more, not %d", version)));
	orion_contract_check(type, version, event->field[ORION_EVENT_PAYLOAD].value);
	pfree(type);
}

static void
forget_relations(Datum arg, int cache, uint32 hash)
{
	memset(relations, 0, sizeof(relations));
}

static Oid
look_up(int number)
{
	char		name[NAMEDATALEN] = "outbox_seq";

	if (number > 0)
		snprintf(name, sizeof(name), "outbox_%d", number);
	relations[number] = get_relname_relid(name, get_namespace_oid("orion_private", false));
	if (!OidIsValid(relations[number]))
		elog(ERROR, "relation orion_private.%s does not exist", name);
	return relations[number];
}

/* A segment's table, 0 for the sequence. */
static Oid
relation_of(int number)
{
	static bool registered = false;

	if (!registered)
	{
		CacheRegisterSyscacheCallback(RELOID, forget_relations, (Datum) 0);
		CacheRegisterSyscacheCallback(NAMESPACEOID, forget_relations, (Datum) 0);
		registered = true;
	}
	return OidIsValid(relations[number]) ? relations[number] : look_up(number);
}

/* Opens and locks the segment that new events go to. */
static Relation
open_current_segment(int *segment)
{
	for (;;)
	{
		uint32		shared = pg_atomic_read_u32(&orion_shared->outbox_segment);
		Oid			relation;

		*segment = shared ? (int) shared : orion_segment_of_table();
		relation = relation_of(*segment);
		LockRelationOid(relation, RowExclusiveLock);
		if (pg_atomic_read_u32(&orion_shared->outbox_segment) == shared)
			return table_open(relation, NoLock);
		UnlockRelationOid(relation, RowExclusiveLock);
	}
}

static void
fill_column(const OrionNewEvent *event, TupleTableSlot *slot, int column, OrionEventField field)
{
	slot->tts_values[column] = event->field[field].value;
	slot->tts_isnull[column] = event->field[field].isnull;
}

/* The slot points to the event's values and to id. */
static void
fill_row(const OrionNewEvent *event, TupleTableSlot *slot, int segment, pg_uuid_t *id)
{
	TimestampTz now = GetCurrentTimestamp();

	make_event_id(id, now);
	ExecClearTuple(slot);
	memset(slot->tts_isnull, 0, COLUMNS * sizeof(bool));
	slot->tts_values[COL_SEGMENT] = Int16GetDatum(segment);
	slot->tts_values[COL_SEQ] = Int64GetDatum(nextval_internal(relation_of(0), false));
	slot->tts_values[COL_XID] = FullTransactionIdGetDatum(GetTopFullTransactionId());
	slot->tts_values[COL_ID] = UUIDPGetDatum(id);
	slot->tts_values[COL_OCCURRED_AT] = TimestampTzGetDatum(now);
	fill_column(event, slot, COL_TYPE, ORION_EVENT_TYPE);
	fill_column(event, slot, COL_PAYLOAD, ORION_EVENT_PAYLOAD);
	fill_column(event, slot, COL_AGGREGATETYPE, ORION_EVENT_AGGREGATETYPE);
	fill_column(event, slot, COL_AGGREGATEID, ORION_EVENT_AGGREGATEID);
	fill_column(event, slot, COL_CORRELATION_ID, ORION_EVENT_CORRELATION_ID);
	fill_column(event, slot, COL_CAUSATION_ID, ORION_EVENT_CAUSATION_ID);
	fill_column(event, slot, COL_METADATA, ORION_EVENT_METADATA);
	fill_column(event, slot, COL_VERSION, ORION_EVENT_VERSION);
	ExecStoreVirtualTuple(slot);
}

/* Stores the rows, then their index entries; the partition's bound holds by construction. */
static void
insert_rows(ResultRelInfo *target, EState *estate, TupleTableSlot **slots, int n)
{
	Relation	relation = target->ri_RelationDesc;

	if (n == 1)
		table_tuple_insert(relation, slots[0], GetCurrentCommandId(true), 0, NULL);
	else
		table_multi_insert(relation, slots, n, GetCurrentCommandId(true), 0, NULL);
	for (int i = 0; i < n; i++)
		orion_insert_index_tuples(target, slots[i], estate);
}

void
orion_events_append(const OrionNewEvent *events, int n, pg_uuid_t *ids)
{
	TupleTableSlot *slots[ROWS_AT_ONCE];
	int			nslots = Min(n, ROWS_AT_ONCE);
	int			segment;
	Relation	relation = open_current_segment(&segment);
	EState	   *estate = CreateExecutorState();
	ResultRelInfo *target = makeNode(ResultRelInfo);
	MemoryContext caller = CurrentMemoryContext;

	if (RelationGetNumberOfAttributes(relation) != COLUMNS)
		elog(ERROR, "orion_private.outbox does not have %d columns", COLUMNS);
	/* before a number is drawn: of each it is known that it may be pending */
	orion_outbox_announce(events, n);

	/*
	 * InitResultRelInfo() would copy the triggers, which are for other ways
	 * to insert
	 */
	target->ri_RangeTableIndex = 1;
	target->ri_RelationDesc = relation;
	ExecOpenIndices(target, false);
	for (int i = 0; i < nslots; i++)
		slots[i] = MakeSingleTupleTableSlot(RelationGetDescr(relation), &TTSOpsVirtual);
	for (int done = 0; done < n; done += nslots)
	{
		nslots = Min(n - done, nslots);
		for (int i = 0; i < nslots; i++)
			fill_row(&events[done + i], slots[i], segment, &ids[done + i]);
		MemoryContextSwitchTo(GetPerTupleMemoryContext(estate));
		insert_rows(target, estate, slots, nslots);
		MemoryContextSwitchTo(caller);
		ResetPerTupleExprContext(estate);
	}
	for (int i = 0; i < Min(n, ROWS_AT_ONCE); i++)
		ExecDropSingleTupleTableSlot(slots[i]);
	ExecCloseIndices(target);
	FreeExecutorState(estate);
	table_close(relation, NoLock);
	CommandCounterIncrement();
}

Datum
orion_publish(PG_FUNCTION_ARGS)
{
	OrionNewEvent event;
	pg_uuid_t  *id = palloc(sizeof(pg_uuid_t));

	PreventCommandIfReadOnly("orion_publish()");
	PreventCommandIfParallelMode("orion_publish()");
	memcpy(event.field, fcinfo->args, sizeof(event.field));
	orion_event_check(&event);
	orion_events_append(&event, 1, id);
	PG_RETURN_UUID_P(id);
}
