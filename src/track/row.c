/*
 * row.c
 *	  The trigger of tracked tables: makes an event of a changed row.
 *
 * Runs in the writer's backend and transaction, after the change, for each row.  The
 * writer needs no right to publish and cannot say what is in the event: type and
 * columns are the trigger's, old and new values the table's, and who it was comes
 * from the verified claims and the database's roles.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/xid8.h"

#include "core/compat.h"
#include "outbox/outbox.h"
#include "token/token.h"
#include "track/track_private.h"

PG_FUNCTION_INFO_V1(orion_track_row);

static const char *const operations[ORION_TRACK_OPERATIONS] = {"insert", "update", "delete", "truncate"};

static bool
same_toast(Datum a, Datum b)
{
	struct varlena *x = (struct varlena *) DatumGetPointer(a);
	struct varlena *y = (struct varlena *) DatumGetPointer(b);

	return VARATT_IS_EXTERNAL_ONDISK(x) && VARATT_IS_EXTERNAL_ONDISK(y) &&
		memcmp(x, y, VARSIZE_EXTERNAL(x)) == 0;
}

static bool
has_changed(const OrionTrackedColumn *column, TupleTableSlot *old, TupleTableSlot *new)
{
	int			i = column->attnum - 1;

	if (old->tts_isnull[i] || new->tts_isnull[i])
		return old->tts_isnull[i] != new->tts_isnull[i];

	/*
	 * a large value that was not set is the same one: no need to fetch it
	 * twice
	 */
	if (column->len == -1 && same_toast(old->tts_values[i], new->tts_values[i]))
		return false;
	return !datum_image_eq(old->tts_values[i], new->tts_values[i], column->byval, column->len);
}

static void
push_row(JsonbParseState **state, const char *key, const OrionTracking *tracking, TupleTableSlot *slot)
{
	orion_track_push_key(state, key);
	pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < tracking->ncolumns; i++)
	{
		OrionTrackedColumn *column = &tracking->columns[i];

		if (column->private)
			continue;
		orion_track_push_key(state, column->name);
		orion_track_push_value(state, WJB_VALUE, column,
							   slot->tts_values[column->attnum - 1], slot->tts_isnull[column->attnum - 1]);
	}
	pushJsonbValue(state, WJB_END_OBJECT, NULL);
}

/* "changed": the names of changed columns, private ones too; false when there is none. */
static bool
push_changed(JsonbParseState **state, const OrionTracking *tracking, TupleTableSlot *old, TupleTableSlot *new)
{
	bool		any = false;

	orion_track_push_key(state, "changed");
	pushJsonbValue(state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < tracking->ncolumns; i++)
	{
		if (!has_changed(&tracking->columns[i], old, new))
			continue;
		orion_track_push_string(state, WJB_ELEM, tracking->columns[i].name);
		any = true;
	}
	pushJsonbValue(state, WJB_END_ARRAY, NULL);
	return any;
}

/* Old and new may be NULL.  NULL when an update has changed nothing that matters. */
static Jsonb *
make_payload(const OrionTracking *tracking, TupleTableSlot *old, TupleTableSlot *new)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	if (old && new && !push_changed(&state, tracking, old, new))
		return NULL;
	if (old)
		push_row(&state, "old", tracking, old);
	if (new)
		push_row(&state, "new", tracking, new);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/* For a key too long to be an aggregate's id. */
static char *
digest(const char *id)
{
	Datum		hash = DirectFunctionCall1(sha256_bytea, PointerGetDatum(cstring_to_text(id)));
	Datum		hex = DirectFunctionCall2(binary_encode, hash, PointerGetDatum(cstring_to_text("hex")));

	return psprintf("sha256:%s", TextDatumGetCString(hex));
}

/* The text of a key of one column, a JSON array of a longer one. */
static char *
key_text(const OrionTracking *tracking, TupleTableSlot *slot)
{
	JsonbParseState *state = NULL;
	Jsonb	   *array;

	if (tracking->nkeys == 1)
		return orion_track_value_text(&tracking->keys[0], slot->tts_values[tracking->keys[0].attnum - 1]);
	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < tracking->nkeys; i++)
		orion_track_push_value(&state, WJB_ELEM, &tracking->keys[i],
							   slot->tts_values[tracking->keys[i].attnum - 1], false);
	array = JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL));
	return JsonbToCString(NULL, &array->root, VARSIZE(array));
}

static void
set_aggregate_id(OrionNewEvent *event, const OrionTracking *tracking, TupleTableSlot *slot)
{
	char	   *id;

	if (tracking->nkeys == 0 || slot == NULL)
		return;
	id = key_text(tracking, slot);
	if (strlen(id) > ORION_EVENT_MAX_ATTRIBUTE)
		id = digest(id);
	event->field[ORION_EVENT_AGGREGATEID].value = CStringGetTextDatum(id);
	event->field[ORION_EVENT_AGGREGATEID].isnull = false;
}

static void
push_member(JsonbParseState **state, const char *key, const char *value)
{
	if (value == NULL)
		return;
	orion_track_push_key(state, key);
	orion_track_push_string(state, WJB_VALUE, value);
}

static Jsonb *
make_metadata(const OrionTracking *tracking, OrionTrackOperation operation)
{
	JsonbParseState *state = NULL;
	const Jsonb *claims = orion_claims_get();
	char	   *name = get_rel_name(tracking->root);
	char	   *schema = get_namespace_name(get_rel_namespace(tracking->root));

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_member(&state, "table", name && schema ? quote_qualified_identifier(schema, name) : NULL);
	push_member(&state, "operation", operations[operation]);
	push_member(&state, "transaction", psprintf(UINT64_FORMAT, U64FromFullTransactionId(GetTopFullTransactionId())));
	push_member(&state, "role", GetUserNameFromId(GetUserId(), true));
	push_member(&state, "actor", claims ? orion_claims_string(claims, "sub") : NULL);
	push_member(&state, "session", claims ? orion_claims_string(claims, "session_id") : NULL);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

static void
set_field(OrionNewEvent *event, OrionEventField field, Datum value)
{
	event->field[field].value = value;
	event->field[field].isnull = false;
}

static void
publish(const OrionTracking *tracking, OrionTrackOperation operation, TupleTableSlot *old, TupleTableSlot *new)
{
	Jsonb	   *payload = make_payload(tracking, old, new);
	OrionNewEvent event;
	pg_uuid_t	id;

	if (payload == NULL)
		return;
	for (int i = 0; i < ORION_EVENT_FIELDS; i++)
		event.field[i].isnull = true;
	set_field(&event, ORION_EVENT_TYPE, tracking->types[operation]);
	set_field(&event, ORION_EVENT_PAYLOAD, JsonbPGetDatum(payload));
	set_field(&event, ORION_EVENT_AGGREGATETYPE, tracking->aggregatetype);
	set_aggregate_id(&event, tracking, new ? new : old);
	set_field(&event, ORION_EVENT_METADATA, JsonbPGetDatum(make_metadata(tracking, operation)));
	set_field(&event, ORION_EVENT_VERSION, Int32GetDatum(tracking->version));
	orion_event_check(&event);
	orion_events_append(&event, 1, &id);
}

static TupleTableSlot *
filled(TupleTableSlot *slot)
{
	slot_getallattrs(slot);
	return slot;
}

/* orion_private.track_row() */
Datum
orion_track_row(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	const OrionTracking *tracking;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(data->tg_event) ||
		TRIGGER_FIRED_FOR_ROW(data->tg_event) == TRIGGER_FIRED_BY_TRUNCATE(data->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("orion_track_row must be called as a trigger that orion_track made")));
	tracking = orion_tracking_find(data);
	if (TRIGGER_FIRED_BY_INSERT(data->tg_event))
		publish(tracking, ORION_TRACK_CREATED, NULL, filled(data->tg_trigslot));
	else if (TRIGGER_FIRED_BY_UPDATE(data->tg_event))
		publish(tracking, ORION_TRACK_UPDATED, filled(data->tg_trigslot), filled(data->tg_newslot));
	else if (TRIGGER_FIRED_BY_DELETE(data->tg_event))
		publish(tracking, ORION_TRACK_DELETED, filled(data->tg_trigslot), NULL);
	else
		publish(tracking, ORION_TRACK_TRUNCATED, NULL, NULL);
	return PointerGetDatum(NULL);
}
