/*
 * chunked.c
 *	  The grammar of chunked bodies; see chunked.h.
 *
 * A function a state, each of which says what comes after the byte.
 */
#include "gateway/chunked.h"

#include <stdbool.h>
#include <string.h>

#include "codec/hex.h"
#include "gateway/http.h"

#define MAX_DIGITS	15			/* of a size: no arithmetic overflows */
#define HASH_START	2166136261u /* FNV-1a */
#define HASH_FACTOR	16777619u

static uint32_t
hash_more(uint32_t hash, char c)
{
	return (hash ^ (uint8_t) (c >= 'A' && c <= 'Z' ? c + 32 : c)) * HASH_FACTOR;
}

static uint32_t
hash_name(const char *name)
{
	uint32_t	hash = HASH_START;

	for (; *name; name++)
		hash = hash_more(hash, *name);
	return hash;
}

/* Of two names that hash alike the innocent one is refused too, which nobody will see. */
static bool
is_forbidden(uint32_t name)
{
	static const char *const forbidden[] = {
		"content-length", "transfer-encoding", "trailer", "te", "connection", "upgrade", "host",
		"content-encoding", "content-type", "content-range", "expect", "range", "max-forwards",
		"authorization", "proxy-authorization", "cookie", "forwarded", "x-forwarded-for", "via"
	};

	for (size_t i = 0; i < sizeof(forbidden) / sizeof(forbidden[0]); i++)
	{
		if (hash_name(forbidden[i]) == name)
			return true;
	}
	return false;
}

static bool
is_text(char c)
{
	return c == '\t' || ((unsigned char) c >= 0x20 && c != 0x7F);
}

static OrionChunksState
after_size(OrionChunks *chunks, char c)
{
	int			digit = orion_hex_digit(c);

	if (digit >= 0 && chunks->digits < MAX_DIGITS)
	{
		chunks->digits++;
		chunks->left = chunks->left << 4 | digit;
		return CHUNKS_SIZE;
	}
	if (digit >= 0 || chunks->digits == 0)
		return CHUNKS_BAD;
	return c == '\r' ? CHUNKS_SIZE_END : c == ';' ? CHUNKS_EXTENSION : CHUNKS_BAD;
}

static OrionChunksState
after_size_end(OrionChunks *chunks, char c)
{
	chunks->digits = 0;
	if (c != '\n')
		return CHUNKS_BAD;
	return chunks->left > 0 ? CHUNKS_DATA : CHUNKS_TRAILER;
}

static OrionChunksState
after_trailer(OrionChunks *chunks, char c)
{
	if (c == '\r')
		return CHUNKS_LAST_END;
	chunks->name = hash_more(HASH_START, c);
	return orion_http_name_valid(&c, 1) ? CHUNKS_TRAILER_NAME : CHUNKS_BAD;
}

static OrionChunksState
after_trailer_name(OrionChunks *chunks, char c)
{
	if (c == ':')
		return is_forbidden(chunks->name) ? CHUNKS_BAD : CHUNKS_TRAILER_VALUE;
	chunks->name = hash_more(chunks->name, c);
	return orion_http_name_valid(&c, 1) ? CHUNKS_TRAILER_NAME : CHUNKS_BAD;
}

/* Extensions and trailer fields are nobody's: some will do. */
static OrionChunksState
count_extra(OrionChunks *chunks, OrionChunksState next)
{
	return ++chunks->extra > ORION_CHUNKS_MAX_EXTRA ? CHUNKS_BAD : next;
}

static OrionChunksState
next_state(OrionChunks *chunks, char c)
{
	switch (chunks->state)
	{
		case CHUNKS_SIZE:
			return after_size(chunks, c);
		case CHUNKS_EXTENSION:
			return c == '\r' ? CHUNKS_SIZE_END : count_extra(chunks, is_text(c) ? CHUNKS_EXTENSION : CHUNKS_BAD);
		case CHUNKS_SIZE_END:
			return after_size_end(chunks, c);
		case CHUNKS_DATA_CR:
			return c == '\r' ? CHUNKS_DATA_END : CHUNKS_BAD;
		case CHUNKS_DATA_END:
			return c == '\n' ? CHUNKS_SIZE : CHUNKS_BAD;
		case CHUNKS_TRAILER:
			return count_extra(chunks, after_trailer(chunks, c));
		case CHUNKS_TRAILER_NAME:
			return count_extra(chunks, after_trailer_name(chunks, c));
		case CHUNKS_TRAILER_VALUE:
			return c == '\r' ? CHUNKS_TRAILER_END : count_extra(chunks, is_text(c) ? CHUNKS_TRAILER_VALUE : CHUNKS_BAD);
		case CHUNKS_TRAILER_END:
			return c == '\n' ? CHUNKS_TRAILER : CHUNKS_BAD;
		case CHUNKS_LAST_END:
			return c == '\n' ? CHUNKS_DONE : CHUNKS_BAD;
		case CHUNKS_DATA:
		case CHUNKS_DONE:
		case CHUNKS_BAD:
			break;
	}
	return CHUNKS_BAD;
}

size_t
orion_chunks_check(OrionChunks *chunks, const char *bytes, size_t len)
{
	size_t		at = 0;

	while (at < len && chunks->state < CHUNKS_DONE)
	{
		if (chunks->state == CHUNKS_DATA)
		{
			size_t		n = chunks->left < len - at ? chunks->left : len - at;

			chunks->left -= n;
			at += n;
			if (chunks->left == 0)
				chunks->state = CHUNKS_DATA_CR;
			continue;
		}
		chunks->state = next_state(chunks, bytes[at]);
		if (chunks->state != CHUNKS_BAD)
			at++;
	}
	return at;
}
