/*
 * publish.c
 *	  orion_publish(): appends an event to the outbox.
 *
 * Runs in every backend, in the caller's transaction: the event exists if and
 * only if that commits.  The row goes straight into the current segment's heap
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

#include <sys/time.h>

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
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"
#include "utils/xid8.h"

#include "codec/topic.h"
#include "core/compat.h"
#include "core/wake.h"
#include "outbox/outbox.h"
#include "outbox/outbox_private.h"

PG_FUNCTION_INFO_V1(orion_publish);

/* AMQP carries these as short strings. */
#define MAX_ATTRIBUTE	255

/* Arguments of orion_publish. */
enum
{
	ARG_TYPE,
	ARG_PAYLOAD,
	ARG_AGGREGATETYPE,
	ARG_AGGREGATEID,
	ARG_CORRELATION_ID,
	ARG_CAUSATION_ID,
	ARG_METADATA,
	ARG_VERSION,
};

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

/*
 * A UUID of version 7 (RFC 9562, section 5.7): 48 bits of milliseconds, 12 bits
 * of their fraction, 62 random bits.
 */
static pg_uuid_t *
make_event_id(void)
{
	pg_uuid_t  *id = palloc(sizeof(pg_uuid_t));
	struct timeval now;
	uint64		ms;
	uint32		fraction;

	if (!pg_strong_random(id->data, UUID_LEN))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
	gettimeofday(&now, NULL);
	ms = (uint64) now.tv_sec * 1000 + now.tv_usec / 1000;
	fraction = (uint32) (now.tv_usec % 1000) * 4096 / 1000;
	for (int i = 0; i < 6; i++)
		id->data[i] = (ms >> (40 - 8 * i)) & 0xff;
	id->data[6] = 0x70 | (fraction >> 8);
	id->data[7] = fraction & 0xff;
	id->data[8] = (id->data[8] & 0x3f) | 0x80;
	return id;
}

static void
check_type(const text *type)
{
	char	   *str = text_to_cstring(type);
	const char *error = orion_topic_type_error(str);

	if (error)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid event type: %s", error),
				 errhint("A type is a list of words with dots between them, for example user.created.")));
	pfree(str);
}

static void
check_attribute(FunctionCallInfo fcinfo, int arg, const char *name)
{
	Size		size;

	if (PG_ARGISNULL(arg))
		return;
	size = toast_raw_datum_size(PG_GETARG_DATUM(arg)) - VARHDRSZ;
	if (size > MAX_ATTRIBUTE)
		ereport(ERROR,
				(errcode(ERRCODE_STRING_DATA_RIGHT_TRUNCATION),
				 errmsg("%s of an event is too long", name),
				 errdetail("It has %zu bytes, the limit is %d.", size, MAX_ATTRIBUTE)));
}

static void
check_size(FunctionCallInfo fcinfo)
{
	Size		size = toast_raw_datum_size(PG_GETARG_DATUM(ARG_PAYLOAD));

	if (!PG_ARGISNULL(ARG_METADATA))
		size += toast_raw_datum_size(PG_GETARG_DATUM(ARG_METADATA));
	if (size > (Size) orion_outbox_max_payload * 1024)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("event is too large"),
				 errdetail("Payload and metadata have %zu bytes, the limit is %zu.",
						   size, (Size) orion_outbox_max_payload * 1024),
				 errhint("Publish a reference to the data, or raise orion.outbox_max_payload.")));
}

static void
check_arguments(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(ARG_TYPE) || PG_ARGISNULL(ARG_PAYLOAD) || PG_ARGISNULL(ARG_VERSION))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("type, payload and version of an event must not be null")));
	check_type(PG_GETARG_TEXT_PP(ARG_TYPE));
	check_attribute(fcinfo, ARG_AGGREGATETYPE, "aggregatetype");
	check_attribute(fcinfo, ARG_AGGREGATEID, "aggregateid");
	check_attribute(fcinfo, ARG_CORRELATION_ID, "correlation_id");
	check_attribute(fcinfo, ARG_CAUSATION_ID, "causation_id");
	check_size(fcinfo);
	if (PG_GETARG_INT32(ARG_VERSION) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("version of an event must be 1 or more, not %d", PG_GETARG_INT32(ARG_VERSION))));
}

static Oid
private_relation(const char *name)
{
	Oid			schema = get_namespace_oid("orion_private", false);
	Oid			relation = get_relname_relid(name, schema);

	if (!OidIsValid(relation))
		elog(ERROR, "relation orion_private.%s does not exist", name);
	return relation;
}

/* Opens and locks the segment that new events go to. */
static Relation
open_current_segment(int *segment)
{
	for (;;)
	{
		char		name[NAMEDATALEN];
		uint32		shared = pg_atomic_read_u32(&orion_shared->outbox_segment);
		Oid			relation;

		*segment = shared ? (int) shared : orion_segment_of_table();
		snprintf(name, sizeof(name), "outbox_%d", *segment);
		relation = private_relation(name);
		LockRelationOid(relation, RowExclusiveLock);
		if (pg_atomic_read_u32(&orion_shared->outbox_segment) == shared)
			return table_open(relation, NoLock);
		UnlockRelationOid(relation, RowExclusiveLock);
	}
}

static void
fill_argument(FunctionCallInfo fcinfo, TupleTableSlot *slot, int column, int arg)
{
	slot->tts_values[column] = PG_GETARG_DATUM(arg);
	slot->tts_isnull[column] = PG_ARGISNULL(arg);
}

static void
fill_row(FunctionCallInfo fcinfo, TupleTableSlot *slot, int segment, pg_uuid_t *id)
{
	memset(slot->tts_isnull, 0, COLUMNS * sizeof(bool));
	slot->tts_values[COL_SEGMENT] = Int16GetDatum(segment);
	slot->tts_values[COL_SEQ] = Int64GetDatum(nextval_internal(private_relation("outbox_seq"), false));
	slot->tts_values[COL_XID] = FullTransactionIdGetDatum(GetTopFullTransactionId());
	slot->tts_values[COL_ID] = UUIDPGetDatum(id);
	slot->tts_values[COL_OCCURRED_AT] = TimestampTzGetDatum(GetCurrentTimestamp());
	fill_argument(fcinfo, slot, COL_TYPE, ARG_TYPE);
	fill_argument(fcinfo, slot, COL_PAYLOAD, ARG_PAYLOAD);
	fill_argument(fcinfo, slot, COL_AGGREGATETYPE, ARG_AGGREGATETYPE);
	fill_argument(fcinfo, slot, COL_AGGREGATEID, ARG_AGGREGATEID);
	fill_argument(fcinfo, slot, COL_CORRELATION_ID, ARG_CORRELATION_ID);
	fill_argument(fcinfo, slot, COL_CAUSATION_ID, ARG_CAUSATION_ID);
	fill_argument(fcinfo, slot, COL_METADATA, ARG_METADATA);
	fill_argument(fcinfo, slot, COL_VERSION, ARG_VERSION);
	ExecStoreVirtualTuple(slot);
}

/* Stores the row and its index entries; the partition's bound holds by construction. */
static void
insert_row(Relation relation, TupleTableSlot *slot)
{
	EState	   *estate = CreateExecutorState();
	ResultRelInfo *target = makeNode(ResultRelInfo);

	InitResultRelInfo(target, relation, 1, NULL, 0);
	ExecOpenIndices(target, false);
	table_tuple_insert(relation, slot, GetCurrentCommandId(true), 0, NULL);
	orion_insert_index_tuples(target, slot, estate);
	ExecCloseIndices(target);
	FreeExecutorState(estate);
	CommandCounterIncrement();
}

Datum
orion_publish(PG_FUNCTION_ARGS)
{
	pg_uuid_t  *id;
	Relation	relation;
	TupleTableSlot *slot;
	int			segment;

	PreventCommandIfReadOnly("orion_publish()");
	PreventCommandIfParallelMode("orion_publish()");
	check_arguments(fcinfo);

	id = make_event_id();
	relation = open_current_segment(&segment);
	if (RelationGetNumberOfAttributes(relation) != COLUMNS)
		elog(ERROR, "orion_private.outbox does not have %d columns", COLUMNS);
	slot = MakeSingleTupleTableSlot(RelationGetDescr(relation), &TTSOpsVirtual);
	fill_row(fcinfo, slot, segment, id);
	insert_row(relation, slot);
	ExecDropSingleTupleTableSlot(slot);
	table_close(relation, NoLock);

	orion_wake_at_commit(ORION_WAKE_EVENTS);
	PG_RETURN_UUID_P(id);
}
