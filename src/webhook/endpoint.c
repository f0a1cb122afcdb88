/*
 * endpoint.c
 *	  Reads the endpoints of webhooks for the relay.
 *
 * URL and secrets are unsealed here and live in the relay's memory from then on,
 * until the endpoints are read anew, which is when one of them changed.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "codec/topic.h"
#include "seal/seal.h"
#include "webhook/webhook.h"
#include "webhook/webhook_private.h"

#define ENDPOINTS_MAX	100000

static const char query[] =
"SELECT e.id, e.url, e.patterns, CASE WHEN e.filter <> '{}' THEN e.filter END, e.format = 'envelope',"
" e.concurrency, e.rate, array_to_string(e.networks, ','), e.plain_http, e.created_at,"
" s.failing_since, s.hold_until,"
" (SELECT p.next_at FROM orion_private.webhook_pending p WHERE p.endpoint_id = e.id AND p.dead_at IS NULL"
"  ORDER BY p.endpoint_id, p.next_at LIMIT 1),"
" ARRAY(SELECT k.secret FROM orion_private.webhook_secrets k WHERE k.endpoint_id = e.id ORDER BY k.id DESC LIMIT 8),"
" ARRAY(SELECT coalesce(k.expires_at, 'infinity') FROM orion_private.webhook_secrets k WHERE k.endpoint_id = e.id ORDER BY k.id DESC LIMIT 8)"
" FROM orion_private.webhook_endpoints e LEFT JOIN orion_private.webhook_states s ON s.endpoint_id = e.id"
" WHERE e.disabled_at IS NULL ORDER BY e.id";

enum
{
	COL_ID = 1,
	COL_URL,
	COL_PATTERNS,
	COL_FILTER,
	COL_ENVELOPE,
	COL_CONCURRENCY,
	COL_RATE,
	COL_NETWORKS,
	COL_PLAIN_HTTP,
	COL_CREATED_AT,
	COL_FAILING_SINCE,
	COL_HOLD_UNTIL,
	COL_NEXT_AT,
	COL_SECRETS,
	COL_EXPIRES,
};

/* A column of one row. */
static Datum
column(HeapTuple row, int number, bool *isnull)
{
	return SPI_getbinval(row, SPI_tuptable->tupdesc, number, isnull);
}

static TimestampTz
timestamp_column(HeapTuple row, int number, TimestampTz if_null)
{
	bool		isnull;
	Datum		value = column(row, number, &isnull);

	return isnull ? if_null : DatumGetTimestampTz(value);
}

/* In UTF-8 and in the endpoint's memory; NULL when a value was sealed as something else. */
static char *
unseal(OrionWebhook *webhook, Datum sealed)
{
	bytea	   *secret = orion_unseal(DatumGetByteaPP(sealed), orion_webhook_seal_context(webhook->id));
	size_t		len = VARSIZE_ANY_EXHDR(secret);
	char	   *server = palloc0(len + 1);
	char	   *copy;

	memcpy(server, VARDATA_ANY(secret), len);
	copy = MemoryContextStrdup(webhook->context, pg_server_to_any(server, len, PG_UTF8));
	explicit_bzero(VARDATA_ANY(secret), len);
	explicit_bzero(server, len);
	return copy;
}

static void
take_secrets(OrionWebhook *webhook, HeapTuple row)
{
	bool		isnull;
	Datum	   *secrets;
	Datum	   *expires;
	int			n;
	int			nexpires;

	deconstruct_array(DatumGetArrayTypeP(column(row, COL_SECRETS, &isnull)), BYTEAOID, -1, false, TYPALIGN_INT, &secrets, NULL, &n);
	deconstruct_array(DatumGetArrayTypeP(column(row, COL_EXPIRES, &isnull)), TIMESTAMPTZOID, 8, true, TYPALIGN_DOUBLE, &expires, NULL, &nexpires);
	for (int i = 0; i < Min(Min(n, nexpires), ORION_WEBHOOK_SECRETS); i++)
	{
		webhook->secrets[i] = unseal(webhook, secrets[i]);
		webhook->expires[i] = DatumGetTimestampTz(expires[i]);
		webhook->nsecrets++;
	}
}

static void
take_patterns(OrionWebhook *webhook, HeapTuple row)
{
	bool		isnull;
	Datum	   *patterns;

	deconstruct_array(DatumGetArrayTypeP(column(row, COL_PATTERNS, &isnull)), TEXTOID, -1, false, TYPALIGN_INT,
					  &patterns, NULL, &webhook->npatterns);
	webhook->patterns = MemoryContextAlloc(webhook->context, Max(webhook->npatterns, 1) * sizeof(char *));
	for (int i = 0; i < webhook->npatterns; i++)
		webhook->patterns[i] = MemoryContextStrdup(webhook->context, TextDatumGetCString(patterns[i]));
}

static OrionWebhook *
take_row(HeapTuple row)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "orion webhook", ALLOCSET_SMALL_SIZES);
	OrionWebhook *webhook = MemoryContextAllocZero(context, sizeof(OrionWebhook));
	bool		isnull;
	Datum		filter;

	webhook->context = context;
	webhook->id = DatumGetInt32(column(row, COL_ID, &isnull));
	webhook->url = unseal(webhook, column(row, COL_URL, &isnull));
	take_patterns(webhook, row);
	filter = column(row, COL_FILTER, &isnull);
	if (!isnull)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		webhook->filter = DatumGetJsonbPCopy(filter);
		MemoryContextSwitchTo(old);
	}
	webhook->envelope = DatumGetBool(column(row, COL_ENVELOPE, &isnull));
	webhook->concurrency = DatumGetInt32(column(row, COL_CONCURRENCY, &isnull));
	webhook->rate = DatumGetInt32(column(row, COL_RATE, &isnull));
	webhook->networks = MemoryContextStrdup(context, TextDatumGetCString(column(row, COL_NETWORKS, &isnull)));
	webhook->plain_http = DatumGetBool(column(row, COL_PLAIN_HTTP, &isnull));
	webhook->created_at = timestamp_column(row, COL_CREATED_AT, 0);
	webhook->failing_since = timestamp_column(row, COL_FAILING_SINCE, 0);
	webhook->hold_until = timestamp_column(row, COL_HOLD_UNTIL, 0);
	webhook->next_at = timestamp_column(row, COL_NEXT_AT, DT_NOEND);
	take_secrets(webhook, row);
	return webhook;
}

int
orion_webhook_load(OrionWebhook ***endpoints)
{
	static SPIPlanPtr plan = NULL;
	int			n;

	if (plan == NULL)
	{
		plan = SPI_prepare(query, 0, NULL);
		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare the reading of webhooks: %s", SPI_result_code_string(SPI_result));
	}
	if (SPI_execute_plan(plan, NULL, NULL, true, ENDPOINTS_MAX) != SPI_OK_SELECT)
		elog(ERROR, "could not read the webhooks");
	n = (int) SPI_processed;
	*endpoints = palloc(Max(n, 1) * sizeof(OrionWebhook *));
	for (int i = 0; i < n; i++)
		(*endpoints)[i] = take_row(SPI_tuptable->vals[i]);
	SPI_freetuptable(SPI_tuptable);
	return n;
}

void
orion_webhook_free(OrionWebhook *webhook)
{
	if (webhook == NULL)
		return;
	for (int i = 0; i < webhook->nsecrets; i++)
		explicit_bzero(webhook->secrets[i], strlen(webhook->secrets[i]));
	explicit_bzero(webhook->url, strlen(webhook->url));
	MemoryContextDelete(webhook->context);
}

bool
orion_webhook_wants(const OrionWebhook *webhook, const char *type)
{
	if (orion_webhook_is_internal(type))
		return false;
	for (int i = 0; i < webhook->npatterns; i++)
	{
		if (orion_topic_match(webhook->patterns[i], type))
			return true;
	}
	return false;
}
