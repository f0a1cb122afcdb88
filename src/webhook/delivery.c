/*
 * delivery.c
 *	  Rows of deliveries that wait, of attempts and of the endpoints' states.
 *
 * Called by the relay of webhooks, which does many of these in one transaction
 * together with its cursor: what is not in these tables is behind the cursor.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "webhook/webhook.h"


/* Prepares at the first call. */
static int
run(SPIPlanPtr *plan, const char *text, int nargs, Oid *types, Datum *values, const char *nulls, int max)
{
	int			result;

	if (*plan == NULL)
	{
		*plan = SPI_prepare(text, nargs, types);
		if (*plan == NULL || SPI_keepplan(*plan) != 0)
			elog(ERROR, "could not prepare a query of webhooks: %s", SPI_result_code_string(SPI_result));
	}
	result = SPI_execute_plan(*plan, values, nulls, false, max);
	if (result < 0)
		elog(ERROR, "could not run a query of webhooks: %s", SPI_result_code_string(result));
	return (int) SPI_processed;
}

static Datum
uuid_datum(const char *string)
{
	return DirectFunctionCall1(uuid_in, CStringGetDatum(string));
}

/* Texts of events are UTF-8, that of the table are in the database's encoding. */
static Datum
text_datum(const char *utf8, size_t len)
{
	char	   *server = pg_any_to_server(utf8, len, PG_UTF8);

	if (server == utf8)
		return PointerGetDatum(cstring_to_text_with_len(utf8, len));
	return CStringGetTextDatum(server);
}

void
orion_webhook_keep(const OrionWebhookDelivery *delivery)
{
	orion_webhook_keep_many(delivery, &delivery->endpoint, 1);
}

void
orion_webhook_keep_many(const OrionWebhookDelivery *delivery, const int32 *endpoints, int n)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {INT4ARRAYOID, INT8OID, UUIDOID, TEXTOID, TEXTOID, TIMESTAMPTZOID};
	Datum	   *ids = palloc(n * sizeof(Datum));
	Datum		values[] = {0, Int64GetDatum(delivery->seq), uuid_datum(delivery->message_id),
		text_datum(delivery->type, strlen(delivery->type)), text_datum(delivery->body, delivery->body_len),
	TimestampTzGetDatum(delivery->first_at)};

	for (int i = 0; i < n; i++)
		ids[i] = Int32GetDatum(endpoints[i]);
	values[0] = PointerGetDatum(construct_array(ids, n, INT4OID, 4, true, TYPALIGN_INT));
	run(&plan, "INSERT INTO orion_private.webhook_pending (endpoint_id, seq, message_id, type, body, attempts, next_at)"
		" SELECT e.id, $2, $3, $4, $5, 0, $6 FROM orion_private.webhook_endpoints e WHERE e.id = ANY ($1) FOR KEY SHARE"
		" ON CONFLICT (endpoint_id, seq) DO NOTHING", lengthof(types), types, values, NULL, 0);
}

void
orion_webhook_keep_failed(const OrionWebhookDelivery *delivery, const OrionWebhookAttempt *attempt, int64 pause_ms)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {INT4OID, INT8OID, UUIDOID, TEXTOID, TEXTOID, INT4OID, INT8OID, INT4OID, TEXTOID, TEXTOID};
	Datum		values[] = {Int32GetDatum(delivery->endpoint), Int64GetDatum(delivery->seq), uuid_datum(delivery->message_id),
		text_datum(delivery->type, strlen(delivery->type)), text_datum(delivery->body, delivery->body_len),
		Int32GetDatum(attempt->number), Int64GetDatum(pause_ms), Int32GetDatum(attempt->status),
	CStringGetTextDatum(attempt->error), CStringGetTextDatum(attempt->excerpt)};

	run(&plan, "INSERT INTO orion_private.webhook_pending AS p (endpoint_id, seq, message_id, type, body, attempts,"
		" next_at, dead_at, last_status, last_error, last_excerpt)"
		" SELECT e.id, $2, $3, $4, $5, $6,"
		" clock_timestamp() + greatest($7, 0) * interval '1 ms', CASE WHEN $7 < 0 THEN now() END,"
		" nullif($8, 0), nullif($9, ''), nullif($10, '')"
		" FROM orion_private.webhook_endpoints e WHERE e.id = $1 FOR KEY SHARE"
		" ON CONFLICT (endpoint_id, seq) DO UPDATE SET attempts = excluded.attempts, next_at = excluded.next_at,"
		" dead_at = excluded.dead_at, last_status = excluded.last_status, last_error = excluded.last_error,"
		" last_excerpt = excluded.last_excerpt", lengthof(types), types, values, NULL, 0);
}

void
orion_webhook_forget(int32 endpoint, int64 seq)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {INT4OID, INT8OID};
	Datum		values[] = {Int32GetDatum(endpoint), Int64GetDatum(seq)};

	run(&plan, "DELETE FROM orion_private.webhook_pending WHERE endpoint_id = $1 AND seq = $2",
		lengthof(types), types, values, NULL, 0);
}

void
orion_webhook_log(const OrionWebhookDelivery *delivery, const OrionWebhookAttempt *attempt, TimestampTz at)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {TIMESTAMPTZOID, INT4OID, UUIDOID, TEXTOID, INT4OID, INT4OID, INT4OID, TEXTOID, TEXTOID};
	Datum		values[] = {TimestampTzGetDatum(at), Int32GetDatum(delivery->endpoint), uuid_datum(delivery->message_id),
		text_datum(delivery->type, strlen(delivery->type)), Int32GetDatum(attempt->number), Int32GetDatum(attempt->status),
	Int32GetDatum(attempt->duration_ms), CStringGetTextDatum(attempt->error), CStringGetTextDatum(attempt->excerpt)};

	run(&plan, "INSERT INTO orion_private.webhook_attempts (at, endpoint_id, message_id, type, attempt, status, duration_ms, error, excerpt)"
		" VALUES ($1, $2, $3, $4, $5, nullif($6, 0), $7, nullif($8, ''), nullif($9, ''))",
		lengthof(types), types, values, NULL, 0);
}

void
orion_webhook_store_state(int32 endpoint, const OrionWebhookState *state)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID, TEXTOID, TEXTOID, INT8OID, INT8OID};
	Datum		values[] = {Int32GetDatum(endpoint), TimestampTzGetDatum(state->failing_since), TimestampTzGetDatum(state->hold_until),
		TimestampTzGetDatum(state->last_attempt_at), TimestampTzGetDatum(state->last_success_at), Int32GetDatum(state->last.status),
		CStringGetTextDatum(state->last.error), CStringGetTextDatum(state->last.excerpt),
	Int64GetDatum(state->delivered), Int64GetDatum(state->failed)};
	char		nulls[] = {' ', state->failing_since ? ' ' : 'n', state->hold_until ? ' ' : 'n', ' ',
	state->last_success_at ? ' ' : 'n', ' ', ' ', ' ', ' ', ' '};

	run(&plan, "INSERT INTO orion_private.webhook_states AS s (endpoint_id, failing_since, hold_until, last_attempt_at,"
		" last_success_at, last_status, last_error, last_excerpt, delivered, failed)"
		" SELECT e.id, $2, $3, $4, $5, nullif($6, 0), nullif($7, ''), nullif($8, ''), $9, $10"
		" FROM orion_private.webhook_endpoints e WHERE e.id = $1 FOR KEY SHARE"
		" ON CONFLICT (endpoint_id) DO UPDATE SET failing_since = excluded.failing_since, hold_until = excluded.hold_until,"
		" last_attempt_at = excluded.last_attempt_at, last_success_at = coalesce(excluded.last_success_at, s.last_success_at),"
		" last_status = excluded.last_status, last_error = excluded.last_error, last_excerpt = excluded.last_excerpt,"
		" delivered = s.delivered + excluded.delivered, failed = s.failed + excluded.failed",
		lengthof(types), types, values, nulls, 0);
}

void
orion_webhook_disable(int32 endpoint, const char *reason)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {INT4OID, TEXTOID};
	Datum		values[] = {Int32GetDatum(endpoint), CStringGetTextDatum(reason)};

	run(&plan, "SELECT orion_private.webhook_disable($1, $2)", lengthof(types), types, values, NULL, 0);
}

/*
 * Rows that are gone stay in the index for as long as some transaction is open; a scan
 * from the beginning would pass all of them each time.
 */
int
orion_webhook_due(int32 endpoint, int max, TimestampTz behind, int64 behind_seq, const int64 *except, int nexcept)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {INT4OID, INT8ARRAYOID, INT4OID, TIMESTAMPTZOID, INT8OID};
	Datum	   *elements = palloc(Max(nexcept, 1) * sizeof(Datum));
	Datum		values[5];

	for (int i = 0; i < nexcept; i++)
		elements[i] = Int64GetDatum(except[i]);
	values[0] = Int32GetDatum(endpoint);
	values[1] = PointerGetDatum(construct_array(elements, nexcept, INT8OID, 8, true, TYPALIGN_DOUBLE));
	values[2] = Int32GetDatum(max);
	values[3] = TimestampTzGetDatum(behind ? behind : DT_NOBEGIN);
	values[4] = Int64GetDatum(behind_seq);
	return run(&plan, "SELECT seq, message_id::text, type, body, attempts, next_at FROM orion_private.webhook_pending"
			   " WHERE endpoint_id = $1 AND dead_at IS NULL AND (next_at, seq) > ($4, $5)"
			   " AND next_at <= clock_timestamp() AND seq <> ALL ($2)"
			   " ORDER BY endpoint_id, next_at, seq LIMIT $3", lengthof(types), types, values, NULL, max);
}

TimestampTz
orion_webhook_next(int32 endpoint)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(endpoint)};
	bool		isnull;

	if (run(&plan, "SELECT next_at FROM orion_private.webhook_pending"
			" WHERE endpoint_id = $1 AND dead_at IS NULL AND next_at > now() ORDER BY endpoint_id, next_at LIMIT 1",
			lengthof(types), types, values, NULL, 1) == 0)
		return DT_NOEND;
	return DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

int64
orion_webhook_last_of(TimestampTz first_at)
{
	Oid			types[] = {TIMESTAMPTZOID};
	Datum		values[] = {TimestampTzGetDatum(first_at)};
	bool		isnull;
	Datum		seq;

	if (SPI_execute_with_args("SELECT max(p.seq) FROM orion_private.webhook_endpoints e CROSS JOIN LATERAL"
							  " (SELECT w.seq FROM orion_private.webhook_pending w WHERE w.endpoint_id = e.id AND w.dead_at IS NULL"
							  "  AND w.next_at = $1 ORDER BY w.seq DESC LIMIT 1) p",
							  1, types, values, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look for webhooks that wait");
	seq = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	return isnull ? 0 : DatumGetInt64(seq);
}

/* In batches, so that no transaction is long; the next round is a minute away. */
void
orion_webhook_maintain(void)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(orion_webhook_retention)};

	if (SPI_execute_with_args("SELECT orion_private.webhook_maintain(pg_catalog.make_interval(mins => $1))",
							  1, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not look after the webhooks");
}
