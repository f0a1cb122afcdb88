// uses: bgworkers/gateway/chunked.c bgworkers/gateway/http.c
/*
 * fuzz_gateway_chunked.c
 *	  Chunked bodies: however the bytes are cut, they are judged alike, and what is found
 *	  good reads alike by another way, which looks at the whole of it.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "codec/hex.h"
#include "gateway/chunked.h"

int			LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Behind the line's end; NULL when it has none, or one of another kind. */
static const char *
line_end(const char *from, const char *end)
{
	for (; end - from >= 2; from++)
	{
		if (*from == '\r')
			return from[1] == '\n' ? from + 2 : NULL;
		if (*from == '\n' || *from == '\0')
			return NULL;
	}
	return NULL;
}

/* Where the body ends, by a patient reader of whole lines; NULL when it does not. */
static const char *
read_whole(const char *at, const char *end)
{
	for (;;)
	{
		uint64_t	size = 0;
		const char *line = at;

		for (; at < end && orion_hex_digit(*at) >= 0; at++)
			size = size << 4 | orion_hex_digit(*at);
		if (at == line || at == end || (*at != '\r' && *at != ';') || (at = line_end(at, end)) == NULL)
			return NULL;
		if (size == 0)
			break;
		if (size > (uint64_t) (end - at) || end - at - size < 2 || memcmp(at + size, "\r\n", 2) != 0)
			return NULL;
		at += size + 2;
	}
	while (end - at >= 2 && memcmp(at, "\r\n", 2) != 0)
	{
		const char *next = line_end(at, end);

		if (next == NULL || memchr(at, ':', next - at) == NULL)
			return NULL;
		at = next;
	}
	return end - at >= 2 ? at + 2 : NULL;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char	   *bytes = malloc(size + 1);
	OrionChunks whole = {0};
	OrionChunks parts = {0};
	size_t		step = size ? data[0] % 7 + 1 : 1;
	size_t		at = 0;
	size_t		end;

	/* an exact copy, so that the sanitizer sees reads over the end */
	memcpy(bytes, data, size);
	bytes = realloc(bytes, size ? size : 1);
	end = orion_chunks_check(&whole, bytes, size);
	while (at < size && parts.state < CHUNKS_DONE)
		at += orion_chunks_check(&parts, bytes + at, size - at < step ? size - at : step);
	if (end != at || whole.state != parts.state || end > size || (end < size && whole.state < CHUNKS_DONE) ||
		(whole.state == CHUNKS_DONE && read_whole(bytes, bytes + size) != bytes + end))
		abort();
	free(bytes);
	return 0;
}
