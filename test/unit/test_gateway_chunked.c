// uses: bgworkers/gateway/chunked.c bgworkers/gateway/http.c
/*
 * test_gateway_chunked.c
 *	  Which chunked bodies are in the grammar, and where they end.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "gateway/chunked.h"

/* Fed so many bytes at a time; returns what was taken. */
static size_t
feed(const char *bytes, size_t len, size_t step, OrionChunksState *state)
{
	OrionChunks chunks = {0};
	size_t		at = 0;

	while (at < len && chunks.state < CHUNKS_DONE)
		at += orion_chunks_check(&chunks, bytes + at, len - at < step ? len - at : step);
	*state = chunks.state;
	return at;
}

static void
expect(const char *bytes, size_t len, OrionChunksState want, size_t end)
{
	for (size_t step = 1; step <= len; step++)
	{
		OrionChunksState state;
		size_t		at = feed(bytes, len, step, &state);

		if (state != want || at != end)
			fail_msg("\"%s\" by %zu: state %d at %zu, not %d at %zu", bytes, step, state, at, want, end);
	}
}

#define GOOD(s)			expect(s "GET", sizeof(s "GET") - 1, CHUNKS_DONE, sizeof(s) - 1)
#define BAD(good, s)	expect(good s, sizeof(good s) - 1, CHUNKS_BAD, sizeof(good) - 1)

static void
test_good(void **state)
{
	GOOD("0\r\n\r\n");
	GOOD("5\r\nhello\r\n0\r\n\r\n");
	GOOD("5\r\nhello\r\nA\r\n0123\r\n6789\r\n1\r\n\n\r\n000\r\n\r\n");
	GOOD("00000000000000a\r\n0123456789\r\n0\r\n\r\n");
	GOOD("1;a\r\nx\r\n1;a=b;c=\"d \t;\xC3\xA9\"\r\ny\r\n0;last\r\n\r\n");
	GOOD("0\r\nX-Digest: a b\r\nEmpty:\r\nY:\tz\r\n\r\n");
	GOOD("0\r\nContent-Lengths: 1\r\nContent: 2\r\n\r\n");
}

static void
test_lines(void **state)
{
	BAD("1", "\nx\r\n0\r\n\r\n");
	BAD("1\r", "x\r\n0\r\n\r\n");
	BAD("1\r", "\r\nx\r\n0\r\n\r\n");
	BAD("1\r\nx", "\n0\r\n\r\n");
	BAD("1\r\nx", "0\r\n\r\n");
	BAD("1\r\nx\r", "0\r\n\r\n");
	BAD("1\r\nx", "y\r\n0\r\n\r\n");
	BAD("0", "\n\r\n");
	BAD("0\r\n", "\n");
	BAD("0\r\n\r", "x");
	BAD("", "\r\n0\r\n\r\n");
	BAD("1\r\nx\r\n", "\r\n\r\n");
}

static void
test_sizes(void **state)
{
	BAD("", " 1\r\n");
	BAD("", "\t1\r\n");
	BAD("", "+1\r\n");
	BAD("", "-1\r\n");
	BAD("0", "x1\r\n");
	BAD("1", " \r\n");
	BAD("1", " ;a\r\n");
	BAD("1", "\0\r\n");
	BAD("", "g\r\n");
	BAD("", "\"1\"\r\n");
	BAD("1", ".0\r\n");
	BAD("1", ",1\r\n");
	BAD("FFFFFFFFFFFFFFF", "F\r\n");
	BAD("000000000000000", "1\r\n");
	expect("FFFFFFFFFFFFFFF\r\nabc", 20, CHUNKS_DATA, 20);
}

static void
test_extensions(void **state)
{
	OrionChunksState seen;
	static char long_one[2 * ORION_CHUNKS_MAX_EXTRA];

	BAD("1;a", "\nx\r\n");
	BAD("1;a\r", "b\r\nx\r\n");
	BAD("1;a", "\0\r\nx\r\n");
	BAD("1;a=\"", "\x1b\"\r\nx\r\n");
	BAD("1;", "\x7F\r\n");
	memset(long_one, 'a', sizeof(long_one));
	memcpy(long_one, "1;", 2);
	assert_int_equal(feed(long_one, sizeof(long_one), 100, &seen), 2 + ORION_CHUNKS_MAX_EXTRA);
	assert_int_equal(seen, CHUNKS_BAD);
}

/* Many small ones are no better than a long one. */
static void
test_many_extensions(void **state)
{
	OrionChunks chunks = {0};
	size_t		n = 0;

	while (chunks.state != CHUNKS_BAD && n < ORION_CHUNKS_MAX_EXTRA)
	{
		orion_chunks_check(&chunks, "1;abc\r\nx\r\n", 10);
		n += 3;
	}
	assert_in_range(n, ORION_CHUNKS_MAX_EXTRA - 6, ORION_CHUNKS_MAX_EXTRA + 6);
}

static void
test_trailers(void **state)
{
	BAD("0\r\nContent-Length", ": 5\r\n\r\n");
	BAD("0\r\ncONTENT-lENGTH", ":5\r\n\r\n");
	BAD("0\r\nTransfer-Encoding", ": chunked\r\n\r\n");
	BAD("0\r\nA: b\r\nHost", ": x\r\n\r\n");
	BAD("0\r\nAuthorization", ": Bearer x\r\n\r\n");
	BAD("0\r\nX", " : y\r\n\r\n");
	BAD("0\r\n", " X: y\r\n\r\n");
	BAD("0\r\nX: y\r\n", " folded\r\n\r\n");
	BAD("0\r\n", ": y\r\n\r\n");
	BAD("0\r\nno", "\r\n\r\n");
	BAD("0\r\nX: a", "\nY: b\r\n\r\n");
	BAD("0\r\nX: a\r", "Y: b\r\n\r\n");
	BAD("0\r\nX: ", "\0\r\n\r\n");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),
		cmocka_unit_test(test_lines),
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_extensions),
		cmocka_unit_test(test_many_extensions),
		cmocka_unit_test(test_trailers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
