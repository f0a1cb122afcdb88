// uses: bgworkers/gateway/http.c bgworkers/gateway/queue.c
/*
 * test_gateway_http.c
 *	  What the gateway lets through, and its queue.
 */
#include <ctype.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "gateway/http.h"
#include "gateway/queue.h"

#define LIT(s) (s), sizeof(s) - 1

static void
test_utf8(void **state)
{
	assert_true(orion_http_utf8_valid(LIT("")));
	assert_true(orion_http_utf8_valid(LIT("plain")));
	assert_true(orion_http_utf8_valid(LIT("\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80")));
	assert_true(orion_http_utf8_valid(LIT("\xF4\x8F\xBF\xBF")));	/* U+10FFFF */
	assert_false(orion_http_utf8_valid(LIT("a\0b")));
	assert_false(orion_http_utf8_valid(LIT("\xC0\x80")));	/* overlong NUL */
	assert_false(orion_http_utf8_valid(LIT("\xC1\xBF")));
	assert_false(orion_http_utf8_valid(LIT("\xE0\x9F\xBF")));
	assert_false(orion_http_utf8_valid(LIT("\xF0\x8F\xBF\xBF")));
	assert_false(orion_http_utf8_valid(LIT("\xED\xA0\x80")));	/* surrogate */
	assert_false(orion_http_utf8_valid(LIT("\xF4\x90\x80\x80")));	/* over U+10FFFF */
	assert_false(orion_http_utf8_valid(LIT("\xE2\x82")));	/* cut off */
	assert_false(orion_http_utf8_valid(LIT("\x80")));
}

static bool
split(const char *target, size_t len, const char *path, const char *query)
{
	OrionHttpTarget out;

	return orion_http_target_split(target, len, &out) &&
		out.path_len == strlen(path) && memcmp(out.path, path, out.path_len) == 0 &&
		out.query_len == strlen(query) && memcmp(out.query, query, out.query_len) == 0;
}

static void
test_target(void **state)
{
	static const char *const bad[] = {
		"", "*", "foo", "?a", "http://", "http://host", "http:///x", "https", "/a b", "/a\tb", "/a#b", "/a\\b", "/a\\?b",
		"/%", "/%4", "/%zz", "/%00", "/?%00", "/?%%00", "/%?%", "/?%C3", "/?%C3%4", "/%C0%80", "/%ff", "/\xff", "/%ED%A0%80", "/a\x7f",
		"/%E2%82", "/%E2%82x"
	};
	OrionHttpTarget out;

	assert_true(split(LIT("/"), "/", ""));
	assert_true(split(LIT("/a/b?c=d&e=?"), "/a/b", "c=d&e=?"));
	assert_true(split(LIT("/a?"), "/a", ""));
	assert_true(split(LIT("/a?b=in.(\"c\\\"\")"), "/a", "b=in.(\"c\\\"\")"));
	assert_true(split(LIT("http://host:80/a?b"), "/a", "b"));
	assert_true(split(LIT("HTTP://h/"), "/", ""));
	assert_true(split(LIT("https://[::1]:8443/a"), "/a", ""));
	assert_true(split(LIT("/%C3%A9\xC3\xA9%e2\x82%ac"), "/%C3%A9\xC3\xA9%e2\x82%ac", ""));
	assert_true(split(LIT("/%41?a=%&b=%4%zz"), "/%41", "a=%&b=%4%zz"));
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (orion_http_target_split(bad[i], strlen(bad[i]), &out))
			fail_msg("\"%s\" was taken", bad[i]);
	assert_false(orion_http_target_split(LIT("/a\0b"), &out));
	for (int byte = 0; byte < 256; byte++)
	{
		char		target[12] = "/abc?defghij";

		target[10] = byte;		/* in the query; alone it is no UTF-8 */
		assert_int_equal(orion_http_target_split(target, sizeof(target), &out),
						 byte > 0x20 && byte < 0x7F && byte != '#');
		target[2] = byte;
		target[10] = 'x';
		assert_int_equal(orion_http_target_split(target, sizeof(target), &out),
						 byte > 0x20 && byte < 0x7F && strchr("#%\\", byte) == NULL);
	}
}

static void
test_authority(void **state)
{
	static const char *const good[] = {
		"", "x", "a.b-c_d~", "1.2.3.4:80", "x:", "x:65535", "%41", "[::1]", "[2001:db8::1%25eth0]:8080", "[v1.x]"
	};
	static const char *const bad[] = {
		"x/y", "x y", "u@x", "x?", "x#", "x\\", "x:1:2", "x:a", "x:123456", "::1", "[::1", "[]", "[::1]x", "[a/b]", "\xC3\xA9", "\"x\"", "<x>"
	};

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		if (!orion_http_authority_valid(good[i], strlen(good[i])))
			fail_msg("\"%s\" was refused", good[i]);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (orion_http_authority_valid(bad[i], strlen(bad[i])))
			fail_msg("\"%s\" was taken", bad[i]);
	assert_false(orion_http_authority_valid(LIT("a\0b")));
	for (int byte = 1; byte < 256; byte++)
	{
		char		plain[2] = {'a', byte};
		char		bracketed[4] = {'[', 'a', byte, ']'};
		bool		alphanumeric = byte < 0x80 && isalnum(byte);

		assert_int_equal(orion_http_authority_valid(plain, 2), alphanumeric || strchr("-._~!$&'()*+,;=%:", byte) != NULL);
		assert_int_equal(orion_http_authority_valid(bracketed, 4), alphanumeric || strchr(":.%-_~", byte) != NULL);
	}
}

static void
test_names_and_values(void **state)
{
	char		name[ORION_HTTP_MAX_NAME + 1];

	memset(name, 'a', sizeof(name));
	assert_true(orion_http_name_valid(name, ORION_HTTP_MAX_NAME));
	assert_false(orion_http_name_valid(name, ORION_HTTP_MAX_NAME + 1));
	assert_true(orion_http_name_valid(LIT("X-!#$%&'*+.^_`|~9")));
	assert_false(orion_http_name_valid(LIT("")));
	assert_false(orion_http_name_valid(LIT("a b")));
	assert_false(orion_http_name_valid(LIT("a:")));
	assert_false(orion_http_name_valid(LIT("a\0")));
	assert_false(orion_http_name_valid(LIT("\xC3\xA9")));
	assert_true(orion_http_value_valid(LIT("a\tb \xC3\xA9")));
	assert_true(orion_http_value_valid(LIT("")));
	assert_false(orion_http_value_valid(LIT("a\0b")));
	assert_false(orion_http_value_valid(LIT("a\rb")));
	assert_false(orion_http_value_valid(LIT("a\x7f")));
	assert_false(orion_http_value_valid(LIT("\xE9")));
	assert_true(orion_http_request_id_valid(LIT("aZ0-_.")));
	assert_false(orion_http_request_id_valid(LIT("")));
	assert_false(orion_http_request_id_valid(LIT("a b")));
	assert_false(orion_http_request_id_valid(name, ORION_HTTP_MAX_REQUEST_ID + 1));
}

static void
test_methods(void **state)
{
	assert_int_equal(orion_http_method("GET"), ORION_HTTP_METHOD_SERVED);
	assert_int_equal(orion_http_method("PATCH"), ORION_HTTP_METHOD_SERVED);
	assert_int_equal(orion_http_method("TRACE"), ORION_HTTP_METHOD_REFUSED);
	assert_int_equal(orion_http_method("get"), ORION_HTTP_METHOD_UNKNOWN);
	assert_int_equal(orion_http_method(""), ORION_HTTP_METHOD_UNKNOWN);
}

/* Status of the headers, given as name, value, ..., NULL; 0 when they are fine. */
static int
judge(const char *name,...)
{
	OrionHttpHead head = {0};
	const OrionHttpError *error;
	va_list		args;

	va_start(args, name);
	for (; name; name = va_arg(args, const char *))
	{
		const char *value = va_arg(args, const char *);

		orion_http_head_add(&head, name, strlen(name), value, strlen(value));
	}
	va_end(args);
	error = orion_http_head_check(&head, 1000);
	return error ? error->status : 0;
}

static void
test_framing(void **state)
{
	assert_int_equal(judge("Host", "a", NULL), 0);
	assert_int_equal(judge("Host", "a", "host", "b", NULL), 400);
	assert_int_equal(judge("Host", "", NULL), 0);
	assert_int_equal(judge("Host", "a, b", NULL), 400);
	assert_int_equal(judge("Content-Length", "1000", NULL), 0);
	assert_int_equal(judge("Content-Length", "1000 ", NULL), 0);
	assert_int_equal(judge("Content-Length", "1001", NULL), 413);
	assert_int_equal(judge("Content-Length", "999999999999999999", NULL), 413);
	assert_int_equal(judge("Content-Length", "9999999999999999999", NULL), 400);
	assert_int_equal(judge("Content-Length", "", NULL), 400);
	assert_int_equal(judge("Content-Length", "+1", NULL), 400);
	assert_int_equal(judge("Content-Length", "-1", NULL), 400);
	assert_int_equal(judge("Content-Length", "0x1", NULL), 400);
	assert_int_equal(judge("Content-Length", "1, 1", NULL), 400);
	assert_int_equal(judge("Content-Length", "1", "Content-Length", "1", NULL), 400);
	assert_int_equal(judge("Transfer-Encoding", "chunked", NULL), 0);
	assert_int_equal(judge("Transfer-Encoding", "Chunked", NULL), 0);
	assert_int_equal(judge("Transfer-Encoding", "gzip, chunked", NULL), 400);
	assert_int_equal(judge("Transfer-Encoding", "xchunked", NULL), 400);
	assert_int_equal(judge("Transfer-Encoding", "identity", NULL), 400);
	assert_int_equal(judge("Transfer-Encoding", "chunked", "Transfer-Encoding", "chunked", NULL), 400);
	assert_int_equal(judge("Transfer-Encoding", "chunked", "Content-Length", "3", NULL), 400);
	assert_int_equal(judge("Bad Name", "x", NULL), 400);
}

static void
test_header_count(void **state)
{
	OrionHttpHead head = {0};

	for (int i = 0; i < ORION_HTTP_MAX_HEADERS; i++)
		orion_http_head_add(&head, LIT("a"), LIT("b"));
	assert_null(orion_http_head_check(&head, 0));
	orion_http_head_add(&head, LIT("a"), LIT("b"));
	assert_int_equal(orion_http_head_check(&head, 0)->status, 431);
}

static void
test_request_id(void **state)
{
	OrionHttpHead head = {0};

	orion_http_head_add(&head, LIT("X-Request-Id"), LIT("bad id"));
	assert_null(head.request_id);
	orion_http_head_add(&head, LIT("X-Request-ID"), LIT("good-id "));
	assert_int_equal(head.request_id_len, 7);
}

static char line[ORION_HTTP_MAX_NAME + ORION_HTTP_MAX_VALUE + ORION_HTTP_HEADER_ROOM + 2];

static bool
is_sent(const char *name, size_t name_len, const char *value, size_t value_len)
{
	size_t		len;

	memset(line, '?', sizeof(line));
	len = orion_http_response_header(name, name_len, value, value_len, line);
	assert_true(len == 0 || len == name_len + value_len + ORION_HTTP_HEADER_ROOM);
	assert_int_equal(line[len], '?');
	line[len] = '\0';
	return len > 0;
}

static void
test_response_headers(void **state)
{
	char		longest[ORION_HTTP_MAX_VALUE + 1];

	memset(longest, 'x', sizeof(longest));
	assert_true(is_sent(LIT("Location"), LIT("/a?b")));
	assert_string_equal(line, "Location: /a?b\r\n");
	assert_true(is_sent(LIT("x"), LIT("a\r\nb: c\0d\t")));
	assert_string_equal(line, "x: a  b: c d \r\n");
	assert_false(is_sent(LIT("x\r\ny"), LIT("a")));
	assert_false(is_sent(LIT(""), LIT("a")));
	assert_false(is_sent(LIT("x"), LIT("")));
	assert_false(is_sent(LIT("x"), longest, ORION_HTTP_MAX_VALUE + 1));
	assert_true(is_sent(LIT("x"), longest, ORION_HTTP_MAX_VALUE));
	assert_false(is_sent(longest, ORION_HTTP_MAX_NAME + 1, LIT("a")));
	assert_true(is_sent(longest, ORION_HTTP_MAX_NAME, LIT("a")));
	assert_false(is_sent(LIT("Connection"), LIT("close")));
	assert_false(is_sent(LIT("transfer-encoding"), LIT("chunked")));
	assert_false(is_sent(LIT("Content-Length"), LIT("1")));
	assert_false(is_sent(LIT("SERVER"), LIT("x")));
	assert_false(is_sent(LIT("date"), LIT("x")));
}

/* Any byte at any place of a value, whose bytes are looked at several at a time. */
static void
test_every_byte(void **state)
{
	char		value[20];
	char		sent[64];

	for (int byte = 0; byte < 256; byte++)
	{
		for (size_t at = 0; at < sizeof(value); at++)
		{
			bool		control = byte < 0x20 || byte == 0x7F;

			memset(value, 'v', sizeof(value));
			value[at] = byte;
			assert_int_equal(orion_http_value_valid(value, sizeof(value)), byte == '\t' || (!control && byte < 0x80));
			assert_true(is_sent(LIT("n"), value, sizeof(value)));
			value[at] = control ? ' ' : byte;
			snprintf(sent, sizeof(sent), "n: %.*s\r\n", (int) sizeof(value), value);
			assert_string_equal(line, sent);
		}
	}
}

static void
test_error_body(void **state)
{
	char		body[512];

	orion_http_error_body(&orion_http_queue_full, NULL, body, sizeof(body));
	assert_string_equal(body, "{\"code\":\"ORH503\",\"message\":\"too many requests are waiting\","
						"\"details\":null,\"hint\":\"Try again later.\"}");
	orion_http_error_body(&orion_http_method_refused, "why", body, sizeof(body));
	assert_string_equal(body, "{\"code\":\"ORH405\",\"message\":\"the method is not allowed\","
						"\"details\":\"why\",\"hint\":null}");
}

static void
test_queue(void **state)
{
	OrionQueue	queue = {.max = 3};
	OrionQueueItem items[4] = {0};

	assert_null(orion_queue_pop(&queue));
	for (int i = 0; i < 3; i++)
		assert_true(orion_queue_push(&queue, &items[i], 100 + i));
	assert_false(orion_queue_push(&queue, &items[3], 103));
	orion_queue_remove(&queue, &items[1]);
	orion_queue_remove(&queue, &items[1]);	/* harmless */
	assert_int_equal(queue.count, 2);
	assert_null(orion_queue_pop_expired(&queue, 99));
	assert_ptr_equal(orion_queue_pop_expired(&queue, 100), &items[0]);
	assert_ptr_equal(orion_queue_pop(&queue), &items[2]);
	assert_null(orion_queue_pop(&queue));
	assert_true(orion_queue_push(&queue, &items[0], 1));
	orion_queue_push_front(&queue, &items[1]);
	assert_ptr_equal(orion_queue_pop(&queue), &items[1]);
	assert_ptr_equal(orion_queue_pop(&queue), &items[0]);
	assert_int_equal(queue.count, 0);
	assert_null(queue.first);
	assert_null(queue.last);
	queue.max = 0;
	assert_false(orion_queue_push(&queue, &items[0], 1));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_utf8),
		cmocka_unit_test(test_target),
		cmocka_unit_test(test_authority),
		cmocka_unit_test(test_names_and_values),
		cmocka_unit_test(test_methods),
		cmocka_unit_test(test_framing),
		cmocka_unit_test(test_header_count),
		cmocka_unit_test(test_request_id),
		cmocka_unit_test(test_response_headers),
		cmocka_unit_test(test_every_byte),
		cmocka_unit_test(test_error_body),
		cmocka_unit_test(test_queue),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
