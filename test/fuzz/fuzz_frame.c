/*
 * fuzz_frame.c
 *	  Frames from a hostile peer: parsed in arbitrary pieces, fields read to the end.
 *
 * Besides memory errors it looks for a parser that contradicts itself: a frame
 * found in a prefix must be the same in the whole, and fields must lie inside it.
 */
#include <stdlib.h>
#include <string.h>

#include "frame.h"

#define MAX_BODY	4096

int			LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
check(bool holds)
{
	if (!holds)
		abort();
}

static void
read_fields(OrionFrame *frame)
{
	const char *str;
	size_t		len;
	uint64_t	number;
	OrionFrame	again = *frame;

	while (orion_frame_get(frame, &str, &len))
	{
		check((const uint8_t *) str >= frame->body);
		check((const uint8_t *) str + len <= frame->body + frame->len);
		if (len > 0)
			check(memchr(str, str[len - 1], len) != NULL);
	}
	check(frame->at <= frame->len);
	while (orion_frame_get_u64(&again, &number))
		;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t		at = 0;

	while (at < size)
	{
		OrionFrame	frame;
		OrionFrame	prefix;
		long		taken = orion_frame_parse(data + at, size - at, MAX_BODY, &frame);

		if (taken <= 0)
			break;
		check((size_t) taken <= size - at);
		check(frame.len <= MAX_BODY);
		check(orion_frame_parse(data + at, taken - 1, MAX_BODY, &prefix) == 0);
		check(orion_frame_parse(data + at, taken, MAX_BODY, &prefix) == taken);
		read_fields(&frame);
		at += taken;
	}
	return 0;
}
