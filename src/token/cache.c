/*
 * cache.c
 *	  Remembers verified tokens in the process, because an RSA or EC signature
 *	  costs a hundred times a hash.
 *
 * Bounded by number and bytes: when full, all are forgotten and the ones in use
 * come back with their next request.  Only verified tokens enter, so nobody
 * without a key can fill it.  The caller clears it when any key changes.
 */
#include "postgres.h"

#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "token/cache.h"

#define CACHE_MAX_BYTES		(4 * 1024 * 1024)

static MemoryContext cache_context = NULL;
static HTAB *tokens = NULL;
static size_t cached_bytes = 0;

void
orion_token_cache_clear(void)
{
	if (cache_context)
		MemoryContextDelete(cache_context);
	cache_context = NULL;
	tokens = NULL;
	cached_bytes = 0;
}

static void
create_cache(void)
{
	HASHCTL		control = {0};

	cache_context = AllocSetContextCreate(TopMemoryContext, "orion verified tokens", ALLOCSET_DEFAULT_SIZES);
	control.keysize = ORION_TOKEN_DIGEST_LEN;
	control.entrysize = sizeof(OrionCachedToken);
	control.hcxt = cache_context;
	tokens = hash_create("orion verified tokens", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

const OrionCachedToken *
orion_token_cache_find(const unsigned char *digest)
{
	return tokens && orion_jwt_cache_entries > 0 ? hash_search(tokens, digest, HASH_FIND, NULL) : NULL;
}

void
orion_token_cache_add(const unsigned char *digest, int64 expires,
					  const OrionTokenSubject *subject, const Jsonb *claims)
{
	OrionCachedToken *entry;
	Jsonb	   *copy;
	bool		found;

	if (orion_jwt_cache_entries == 0)
	{
		orion_token_cache_clear();
		return;
	}
	if (tokens && (hash_get_num_entries(tokens) >= orion_jwt_cache_entries ||
				   cached_bytes + VARSIZE(claims) > CACHE_MAX_BYTES))
		orion_token_cache_clear();
	if (!tokens)
		create_cache();
	copy = MemoryContextAlloc(cache_context, VARSIZE(claims));
	memcpy(copy, claims, VARSIZE(claims));
	entry = hash_search(tokens, digest, HASH_ENTER, &found);
	entry->expires = expires;
	entry->subject = *subject;
	entry->claims = copy;
	cached_bytes += VARSIZE(claims);
}
