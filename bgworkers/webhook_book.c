/*
 * webhook_book.c
 *	  Endpoints and deliveries in the memory of the relay of webhooks.
 *
 * Plain bookkeeping: no queries but the reading of the endpoints, no waiting.
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "webhook_book.h"

#define SLOW_MS			2000	/* without an answer, or for one */

OrionBookEndpoint **orion_book_endpoints = NULL;
int			orion_book_nendpoints = 0;
int			orion_book_ndeliveries = 0;
size_t		orion_book_bytes = 0;
dlist_head	orion_book_window;
dlist_head	orion_book_settled;
int			orion_book_nsettled = 0;

static MemoryContext book = NULL;

void
orion_book_init(void)
{
	if (book)
		return;
	book = AllocSetContextCreate(TopMemoryContext, "orion webhook book", ALLOCSET_DEFAULT_SIZES);
	dlist_init(&orion_book_window);
	dlist_init(&orion_book_settled);
}

void
orion_book_text(const char **place, const char *value)
{
	const char *old = *place;

	*place = value && *value ? MemoryContextStrdup(book, value) : NULL;
	if (old)
		pfree(unconstify(char *, old));
}

OrionBody *
orion_book_body(const char *data, size_t len)
{
	OrionBody  *body = MemoryContextAllocHuge(book, offsetof(OrionBody, data) + len + 1);

	body->refs = 1;
	body->len = len;
	memcpy(body->data, data, len);
	body->data[len] = '\0';
	orion_book_bytes += len;
	return body;
}

void
orion_book_unref(OrionBody *body)
{
	if (body == NULL || --body->refs > 0)
		return;
	orion_book_bytes -= body->len;
	pfree(body);
}

OrionBookDelivery *
orion_book_add(OrionBookEndpoint *endpoint, int64 seq, const char *message_id, const char *type,
			   OrionBody *body, int attempts, bool stored)
{
	OrionBookDelivery *delivery = MemoryContextAllocZero(book, sizeof(OrionBookDelivery));

	delivery->endpoint = endpoint;
	delivery->seq = seq;
	strlcpy(delivery->message_id, message_id, sizeof(delivery->message_id));
	delivery->type = MemoryContextStrdup(book, type);
	delivery->body = body;
	body->refs++;
	delivery->attempts = attempts;
	delivery->stored = stored;
	delivery->since = GetCurrentTimestamp();
	dlist_push_tail(&endpoint->all, &delivery->in_all);
	dlist_push_tail(&endpoint->queue, &delivery->in_queue);
	delivery->queued = true;
	endpoint->queued++;
	endpoint->ndeliveries++;
	if (!stored)
	{
		delivery->of_window = true;
		dlist_push_tail(&orion_book_window, &delivery->in_window);
	}
	orion_book_ndeliveries++;
	return delivery;
}

void
orion_book_mark_stored(OrionBookDelivery *delivery)
{
	delivery->stored = true;
	if (delivery->of_window)
		dlist_delete(&delivery->in_window);
	delivery->of_window = false;
}

void
orion_book_unqueue(OrionBookDelivery *delivery)
{
	if (!delivery->queued)
		return;
	dlist_delete(&delivery->in_queue);
	delivery->queued = false;
	delivery->endpoint->queued--;
}

void
orion_book_requeue(OrionBookDelivery *delivery)
{
	delivery->number = 0;
	dlist_push_head(&delivery->endpoint->queue, &delivery->in_queue);
	delivery->queued = true;
	delivery->endpoint->queued++;
}

void
orion_book_settle(OrionBookDelivery *delivery, const char *error, const char *excerpt)
{
	orion_book_unqueue(delivery);
	orion_book_text(&delivery->attempt.error, error);
	orion_book_text(&delivery->attempt.excerpt, excerpt);
	delivery->number = 0;
	delivery->settled = true;
	dlist_push_tail(&orion_book_settled, &delivery->in_queue);
	orion_book_nsettled++;
}

void
orion_book_remove(OrionBookDelivery *delivery)
{
	orion_book_mark_stored(delivery);
	orion_book_unqueue(delivery);
	if (delivery->settled)
	{
		dlist_delete(&delivery->in_queue);
		orion_book_nsettled--;
	}
	dlist_delete(&delivery->in_all);
	delivery->endpoint->ndeliveries--;
	orion_book_ndeliveries--;
	orion_book_text(&delivery->attempt.error, NULL);
	orion_book_text(&delivery->attempt.excerpt, NULL);
	orion_book_unref(delivery->body);
	pfree(delivery->type);
	pfree(delivery);
}

bool
orion_book_is_full(void)
{
	return orion_book_ndeliveries >= ORION_BOOK_DELIVERIES || orion_book_bytes >= ORION_BOOK_BYTES;
}

bool
orion_book_is_slow(const OrionBookEndpoint *endpoint, TimestampTz now)
{
	return endpoint->failing_since != 0 || endpoint->usual_ms > SLOW_MS ||
		(endpoint->in_flight > 0 && TimestampDifferenceExceeds(endpoint->progress_at, now, SLOW_MS));
}

void
orion_book_make_room(void)
{
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < orion_book_nendpoints; i++)
	{
		OrionBookEndpoint *endpoint = orion_book_endpoints[i];
		dlist_mutable_iter iter;

		if (endpoint->queued == 0 || (endpoint->proven && !orion_book_is_slow(endpoint, now)))
			continue;
		dlist_foreach_modify(iter, &endpoint->queue)
		{
			OrionBookDelivery *delivery = dlist_container(OrionBookDelivery, in_queue, iter.cur);

			if (!delivery->stored)
				continue;
			orion_book_remove(delivery);
			endpoint->spilled = true;
			endpoint->next_due = now;
			endpoint->loaded_at = 0;
		}
	}
}

static OrionBookEndpoint *
new_endpoint(const OrionWebhook *config)
{
	OrionBookEndpoint *endpoint = MemoryContextAllocZero(book, sizeof(OrionBookEndpoint));

	endpoint->id = config->id;
	dlist_init(&endpoint->all);
	dlist_init(&endpoint->queue);
	return endpoint;
}

/* An endpoint of which memory knows nothing, or that was enabled again. */
static void
begin_anew(OrionBookEndpoint *endpoint, const OrionWebhook *config)
{
	endpoint->window = 1;
	endpoint->failures = config->failing_since ? 1 : 0;
	endpoint->failing_since = config->failing_since;
	endpoint->hold_until = config->hold_until;
	endpoint->tokens = 1;
	endpoint->tokens_at = GetCurrentTimestamp();
	endpoint->usual_ms = 0;
	endpoint->proven = false;
	endpoint->spilled = config->next_at != DT_NOEND;
	endpoint->disable = NULL;
}

static void
lose_config(OrionBookEndpoint *endpoint)
{
	dlist_mutable_iter iter;

	orion_webhook_free(endpoint->config);
	endpoint->config = NULL;
	dlist_foreach_modify(iter, &endpoint->queue)
	{
		OrionBookDelivery *delivery = dlist_container(OrionBookDelivery, in_queue, iter.cur);

		if (delivery->stored)
			orion_book_remove(delivery);
		else
			orion_book_settle(delivery, NULL, NULL);	/* without an attempt */
	}
}

static void
take_config(OrionBookEndpoint *endpoint, OrionWebhook *config)
{
	if (endpoint->config == NULL)
		begin_anew(endpoint, config);
	orion_webhook_free(endpoint->config);
	endpoint->config = config;
	endpoint->next_due = config->next_at;
	endpoint->loaded_at = 0;
	endpoint->window = Min(endpoint->window, config->concurrency);
}

static void
free_endpoint(OrionBookEndpoint *endpoint)
{
	orion_book_text(&endpoint->state.last.error, NULL);
	orion_book_text(&endpoint->state.last.excerpt, NULL);
	pfree(endpoint);
}

/* Both lists are in the order of ids. */
void
orion_book_reload(void)
{
	OrionWebhook **configs;
	int			nconfigs = orion_webhook_load(&configs);
	OrionBookEndpoint **merged = MemoryContextAlloc(book, (nconfigs + orion_book_nendpoints + 1) * sizeof(OrionBookEndpoint *));
	int			n = 0;
	int			old = 0;

	for (int i = 0; i <= nconfigs; i++)
	{
		while (old < orion_book_nendpoints && (i == nconfigs || orion_book_endpoints[old]->id < configs[i]->id))
		{
			OrionBookEndpoint *gone = orion_book_endpoints[old++];

			lose_config(gone);
			if (gone->ndeliveries > 0 || gone->dirty)
				merged[n++] = gone;
			else
				free_endpoint(gone);
		}
		if (i == nconfigs)
			break;
		if (old < orion_book_nendpoints && orion_book_endpoints[old]->id == configs[i]->id)
			merged[n] = orion_book_endpoints[old++];
		else
			merged[n] = new_endpoint(configs[i]);
		take_config(merged[n++], configs[i]);
	}
	if (orion_book_endpoints)
		pfree(orion_book_endpoints);
	orion_book_endpoints = merged;
	orion_book_nendpoints = n;
}
