/*
 * test_frame.c
 *	  Frames over buffers: what is written is read back; what is hostile is refused.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "frame.h"

static void
write_event(OrionBuffer *buf, uint64_t id)
{
	orion_frame_begin(buf, ORION_FRAME_EVENT, id);
	orion_frame_put_str(buf, "hello");
	orion_frame_put_u64(buf, 42);
	orion_frame_put(buf, "a\0b", 3);
	orion_frame_put_str(buf, NULL);
	orion_frame_end(buf);
}

static void
test_round_trip(void **state)
{
	OrionBuffer buf = {0};
	OrionFrame	frame;
	const char *str;
	size_t		len;
	uint64_t	number;

	write_event(&buf, 7);
	assert_int_equal(orion_frame_parse(buf.data, buf.end, 1000, &frame), buf.end);
	assert_int_equal(frame.type, ORION_FRAME_EVENT);
	assert_int_equal(frame.id, 7);
	assert_true(orion_frame_get(&frame, &str, &len));
	assert_int_equal(len, 5);
	assert_memory_equal(str, "hello", 5);
	assert_true(orion_frame_get_u64(&frame, &number));
	assert_int_equal(number, 42);
	assert_true(orion_frame_get(&frame, &str, &len));
	assert_int_equal(len, 3);
	assert_memory_equal(str, "a\0b", 3);
	assert_true(orion_frame_get(&frame, &str, &len));
	assert_int_equal(len, 0);
	assert_true(orion_frame_done(&frame));
	assert_false(orion_frame_get(&frame, &str, &len));
	orion_buffer_free(&buf);
}

static void
test_every_prefix_is_incomplete(void **state)
{
	OrionBuffer buf = {0};
	OrionFrame	frame;

	write_event(&buf, 1);
	for (size_t n = 0; n < buf.end; n++)
	{
		uint8_t    *copy = malloc(n + 1);	/* so that an overrun shows under
											 * ASan */

		memcpy(copy, buf.data, n);
		assert_int_equal(orion_frame_parse(copy, n, 1000, &frame), 0);
		free(copy);
	}
	orion_buffer_free(&buf);
}

static void
test_body_limit(void **state)
{
	OrionBuffer buf = {0};
	OrionFrame	frame;
	size_t		body;

	write_event(&buf, 1);
	body = buf.end - ORION_FRAME_HEADER;
	assert_int_equal(orion_frame_parse(buf.data, buf.end, body, &frame), buf.end);
	assert_int_equal(orion_frame_parse(buf.data, buf.end, body - 1, &frame), -1);
	/* refused from the header alone, before anybody waits for 4 GiB */
	memset(buf.data, 0xff, 4);
	assert_int_equal(orion_frame_parse(buf.data, ORION_FRAME_HEADER, 1 << 20, &frame), -1);
	orion_buffer_free(&buf);
}

/* A body of one field that claims more than there is. */
static void
test_hostile_field_lengths(void **state)
{
	static const uint32_t lengths[] = {1, 2, 0x7fffffff, 0x80000000, 0xfffffffb, 0xfffffffc, 0xffffffff};
	OrionBuffer buf = {0};
	OrionFrame	frame;
	const char *str;
	size_t		len;
	uint64_t	number;

	orion_frame_begin(&buf, ORION_FRAME_ACK, 1);
	orion_frame_put_str(&buf, "");
	orion_frame_end(&buf);
	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++)
	{
		memcpy(buf.data + ORION_FRAME_HEADER, &lengths[i], 4);
		assert_true(orion_frame_parse(buf.data, buf.end, 1000, &frame) > 0);
		assert_false(orion_frame_get(&frame, &str, &len));
		assert_false(orion_frame_done(&frame));
		assert_false(orion_frame_get_u64(&frame, &number));
	}
	orion_buffer_free(&buf);
}

/* One to three bytes left over are not a field. */
static void
test_trailing_bytes(void **state)
{
	OrionBuffer buf = {0};
	OrionFrame	frame;
	const char *str;
	size_t		len;

	write_event(&buf, 1);
	for (uint32_t extra = 1; extra <= 3; extra++)
	{
		uint32_t	body = 4 + extra;
		uint8_t		bytes[ORION_FRAME_HEADER + 7] = {0};

		memcpy(bytes, &body, 4);
		assert_int_equal(orion_frame_parse(bytes, ORION_FRAME_HEADER + body, 1000, &frame), ORION_FRAME_HEADER + body);
		assert_true(orion_frame_get(&frame, &str, &len));
		assert_false(orion_frame_get(&frame, &str, &len));
		assert_false(orion_frame_done(&frame));
	}
	orion_buffer_free(&buf);
}

static void
test_u64_of_another_length(void **state)
{
	OrionBuffer buf = {0};
	OrionFrame	frame;
	uint64_t	number;

	orion_frame_begin(&buf, ORION_FRAME_HELLO, 1);
	orion_frame_put(&buf, "1234567", 7);
	orion_frame_end(&buf);
	assert_true(orion_frame_parse(buf.data, buf.end, 1000, &frame) > 0);
	assert_false(orion_frame_get_u64(&frame, &number));
	orion_buffer_free(&buf);
}

/* Frames written behind a half-consumed queue keep their place when it moves. */
static void
test_consume_while_writing(void **state)
{
	OrionBuffer buf = {0};
	OrionFrame	frame;
	uint64_t	read = 0;

	for (uint64_t n = 1; n <= 5000; n++)
	{
		write_event(&buf, n);
		while (orion_buffer_len(&buf) > 3000)
		{
			long		size = orion_frame_parse(buf.data + buf.start, orion_buffer_len(&buf), 1000, &frame);

			assert_true(size > 0);
			assert_int_equal(frame.id, ++read);
			orion_buffer_consume(&buf, size);
		}
	}
	assert_true(buf.cap < 16384);
	orion_buffer_free(&buf);
}

/* A frame begun in front of a move is still closed in the right place. */
static void
test_move_within_a_frame(void **state)
{
	OrionBuffer buf = {0};
	OrionFrame	frame;
	char	   *big = calloc(1, 100000);
	const char *str;
	size_t		len;

	write_event(&buf, 1);
	write_event(&buf, 2);
	orion_buffer_consume(&buf, orion_buffer_len(&buf) / 2);
	orion_frame_begin(&buf, ORION_FRAME_EVENT, 3);
	orion_frame_put(&buf, big, 100000);
	orion_frame_end(&buf);
	assert_int_equal(orion_frame_parse(buf.data + buf.start, orion_buffer_len(&buf), 1000, &frame), orion_buffer_len(&buf) - 100000 - 4 - ORION_FRAME_HEADER);
	assert_int_equal(frame.id, 2);
	orion_buffer_consume(&buf, ORION_FRAME_HEADER + frame.len);
	assert_int_equal(orion_frame_parse(buf.data + buf.start, orion_buffer_len(&buf), 200000, &frame), orion_buffer_len(&buf));
	assert_true(orion_frame_get(&frame, &str, &len));
	assert_int_equal(len, 100000);
	free(big);
	orion_buffer_free(&buf);
}

static void
test_overlong_field_fails(void **state)
{
	OrionBuffer buf = {0};

	orion_frame_begin(&buf, ORION_FRAME_EVENT, 1);
	orion_frame_put(&buf, "", (size_t) UINT32_MAX + 1); /* refused before it is
														 * read */
	assert_true(buf.failed);
	orion_frame_end(&buf);
	assert_true(buf.failed);
	orion_buffer_free(&buf);
}

static void
test_sockets(void **state)
{
	OrionBuffer out = {0};
	OrionBuffer in = {0};
	OrionFrame	frame;
	int			fds[2];
	long		size;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	assert_int_equal(orion_buffer_fill(&in, fds[1]), -1);
	write_event(&out, 9);
	size = orion_buffer_len(&out);
	assert_true(orion_buffer_flush(&out, fds[0]));
	assert_int_equal(orion_buffer_len(&out), 0);
	assert_int_equal(orion_buffer_fill(&in, fds[1]), size);
	assert_int_equal(orion_frame_parse(in.data, in.end, 1000, &frame), size);
	assert_int_equal(frame.id, 9);
	close(fds[0]);
	assert_int_equal(orion_buffer_fill(&in, fds[1]), 0);
	write_event(&out, 10);
	assert_false(orion_buffer_flush(&out, fds[1]));
	close(fds[1]);
	orion_buffer_free(&out);
	orion_buffer_free(&in);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_every_prefix_is_incomplete),
		cmocka_unit_test(test_body_limit),
		cmocka_unit_test(test_hostile_field_lengths),
		cmocka_unit_test(test_trailing_bytes),
		cmocka_unit_test(test_u64_of_another_length),
		cmocka_unit_test(test_consume_while_writing),
		cmocka_unit_test(test_move_within_a_frame),
		cmocka_unit_test(test_overlong_field_fails),
		cmocka_unit_test(test_sockets),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
