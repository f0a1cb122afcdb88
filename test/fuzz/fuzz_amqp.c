// uses: bgworkers/courier/amqp_frame.c -lrabbitmq
/*
 * fuzz_amqp.c
 *	  Frames from a hostile broker, or with properties of a hostile publisher.
 *
 * Besides memory errors it looks for a parser that contradicts itself: a frame is found
 * at its last byte, no earlier, and what it decodes lies inside it.
 */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "courier/amqp_frame.h"

#define FRAME_MAX	65536

int			LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
check(bool holds)
{
	if (!holds)
		abort();
}

static void
check_inside(amqp_bytes_t bytes, const uint8_t *begin, const uint8_t *end)
{
	check(bytes.len == 0 || ((uint8_t *) bytes.bytes >= begin && (uint8_t *) bytes.bytes + bytes.len <= end));
}

static void
check_properties(const amqp_basic_properties_t *properties, const uint8_t *begin, const uint8_t *end)
{
	if (properties->_flags & AMQP_BASIC_MESSAGE_ID_FLAG)
		check_inside(properties->message_id, begin, end);
	for (int i = 0; properties->_flags & AMQP_BASIC_HEADERS_FLAG && i < properties->headers.num_entries; i++)
		check_inside(properties->headers.entries[i].key, begin, end);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t    *copy = malloc(size);
	amqp_pool_t pool;
	amqp_frame_t frame;
	size_t		at = 0;

	init_amqp_pool(&pool, 4096);
	if (size > 0)
		memcpy(copy, data, size);
	while (at < size)
	{
		size_t		len = 1;
		long		taken;

		while ((taken = orion_amqp_frame_parse(copy + at, len, FRAME_MAX, &pool, &frame)) == 0 && at + len < size)
			len++;
		if (taken <= 0)
			break;
		check((size_t) taken == len);
		if (frame.frame_type == AMQP_FRAME_BODY)
			check_inside(frame.payload.body_fragment, copy + at, copy + at + taken);
		if (frame.frame_type == AMQP_FRAME_HEADER)
			check_properties(frame.payload.properties.decoded, copy + at, copy + at + taken);
		recycle_amqp_pool(&pool);
		at += taken;
	}
	empty_amqp_pool(&pool);
	free(copy);
	return 0;
}
