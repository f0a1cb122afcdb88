/*
 * batch.c
 *	  orion_publish_batch(): publishes many events with one call.
 *
 * The events are a JSON array of objects whose keys are the arguments of
 * orion_publish().  All are checked before the first is stored; the rows then go into
 * the segment a page at a time.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "core/compat.h"
#include "outbox/outbox.h"

PG_FUNCTION_INFO_V1(orion_publish_batch);

/* Keys of an event, by OrionEventField. */
static const char *const keys[ORION_EVENT_FIELDS] = {
	"type", "payload", "aggregatetype", "aggregateid", "correlation_id", "causation_id", "metadata", "version"
};

/* Which event an error is about. */
static void
name_event(void *arg)
{
	errcontext("event %d of orion_publish_batch", *(int *) arg + 1);
}

static OrionEventField
find_field(const JsonbValue *key)
{
	for (int i = 0; i < ORION_EVENT_FIELDS; i++)
		if (strlen(keys[i]) == key->val.string.len && memcmp(keys[i], key->val.string.val, key->val.string.len) == 0)
			return i;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown key of an event: \"%.*s\"", key->val.string.len, key->val.string.val),
			 errhint("The keys are type, payload, aggregatetype, aggregateid, correlation_id, causation_id, metadata and version.")));
}

static void
refuse_value(OrionEventField field, const char *expected)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s of an event must be %s", keys[field], expected)));
}

static Datum
version_from(const JsonbValue *value)
{
	Datum		version;

	if (value->type != jbvNumeric)
		refuse_value(ORION_EVENT_VERSION, "a whole number");
	version = DirectFunctionCall1(numeric_int4, NumericGetDatum(value->val.numeric));
	if (!DatumGetBool(DirectFunctionCall2(numeric_eq, DirectFunctionCall1(int4_numeric, version),
										  NumericGetDatum(value->val.numeric))))
		refuse_value(ORION_EVENT_VERSION, "a whole number");
	return version;
}

static void
set_field(OrionNewEvent *event, OrionEventField field, JsonbValue *value)
{
	NullableDatum *target = &event->field[field];

	/* the payload may be the JSON value null */
	if (value->type == jbvNull && field != ORION_EVENT_PAYLOAD && field != ORION_EVENT_VERSION)
		return;
	target->isnull = false;
	switch (field)
	{
		case ORION_EVENT_PAYLOAD:
		case ORION_EVENT_METADATA:
			target->value = JsonbPGetDatum(JsonbValueToJsonb(value));
			break;
		case ORION_EVENT_VERSION:
			target->value = version_from(value);
			break;
		default:
			if (value->type != jbvString)
				refuse_value(field, "a string");
			target->value = PointerGetDatum(cstring_to_text_with_len(value->val.string.val, value->val.string.len));
	}
}

static void
read_event(OrionNewEvent *event, const JsonbValue *element)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	OrionEventField field = ORION_EVENT_TYPE;

	for (int i = 0; i < ORION_EVENT_FIELDS; i++)
		event->field[i] = (NullableDatum)
	{
		.isnull = true
	};
	event->field[ORION_EVENT_VERSION].value = Int32GetDatum(1);
	event->field[ORION_EVENT_VERSION].isnull = false;
	if (element->type != jbvBinary || !JsonContainerIsObject(element->val.binary.data))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an event must be an object")));
	it = JsonbIteratorInit(element->val.binary.data);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			field = find_field(&v);
		else if (token == WJB_VALUE)
			set_field(event, field, &v);
	}
}

static ArrayType *
array_of_ids(pg_uuid_t *ids, int n)
{
	Datum	   *values = palloc(n * sizeof(Datum));

	for (int i = 0; i < n; i++)
		values[i] = UUIDPGetDatum(&ids[i]);
	return construct_array(values, n, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR);
}

Datum
orion_publish_batch(PG_FUNCTION_ARGS)
{
	Jsonb	   *batch = PG_GETARG_JSONB_P(0);
	int			n = 0;
	ErrorContextCallback context = {.callback = name_event,.arg = &n,.previous = error_context_stack};
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	OrionNewEvent *events;
	pg_uuid_t  *ids;

	PreventCommandIfReadOnly("orion_publish_batch()");
	PreventCommandIfParallelMode("orion_publish_batch()");
	if (!JB_ROOT_IS_ARRAY(batch) || JB_ROOT_IS_SCALAR(batch))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("events must be an array of objects")));
	if (JB_ROOT_COUNT(batch) == 0)
		PG_RETURN_ARRAYTYPE_P(construct_empty_array(UUIDOID));
	events = MemoryContextAllocHuge(CurrentMemoryContext, JB_ROOT_COUNT(batch) * sizeof(OrionNewEvent));
	ids = MemoryContextAllocHuge(CurrentMemoryContext, JB_ROOT_COUNT(batch) * sizeof(pg_uuid_t));
	it = JsonbIteratorInit(&batch->root);
	error_context_stack = &context;
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		CHECK_FOR_INTERRUPTS();
		read_event(&events[n], &v);
		orion_event_check(&events[n]);
		n++;
	}
	error_context_stack = context.previous;
	orion_events_append(events, n, ids);
	PG_RETURN_ARRAYTYPE_P(array_of_ids(ids, n));
}
