// uses: bgworkers/gateway/proxy.c
/*
 * test_proxy.c
 *	  Who is believed to be a proxy, and whom it may speak for.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "gateway/proxy.h"

static OrionProxyList
list_of(const char *text)
{
	OrionProxyList list;
	const char *bad = NULL;

	assert_true(orion_proxy_parse(text, &list, &bad));
	return list;
}

static void
test_parse(void **state)
{
	static const char *const good[] = {
		"", " , ", "unix", "10.0.0.0/8", "10.0.0.0/0, ::/0", "192.0.2.1,2001:db8::/32 ::1", "0.0.0.0/32"
	};
	static const char *const wrong[] = {
		"localhost", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "10.0.0.0/ 8", "10.0.0", "::1/129", "::g",
		"10.0.0.0/8x", "/8", "unix/8", "Unix",
		"1111111111111111111111111111111111111111111111111111111111111111111111111111111111"
	};
	char		many[ORION_PROXY_MAX * 8 + 64] = "";

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		list_of(good[i]);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
	{
		OrionProxyList list;
		const char *bad = NULL;

		assert_false(orion_proxy_parse(wrong[i], &list, &bad));
		assert_non_null(bad);
	}
	for (int i = 0; i <= ORION_PROXY_MAX; i++)
	{
		OrionProxyList list;
		const char *bad;

		strcat(many, "1.2.3.4,");
		assert_int_equal(orion_proxy_parse(many, &list, &bad), i < ORION_PROXY_MAX);
	}
}

static void
test_trusts(void **state)
{
	static const struct
	{
		const char *list;
		const char *address;
		bool		trusted;
	}			cases[] = {
		{"", "127.0.0.1", false},
		{"", "", false},
		{"unix", "", true},
		{"unix", "127.0.0.1", false},
		{"127.0.0.1", "", false},
		{"127.0.0.1", "127.0.0.1", true},
		{"127.0.0.1", "127.0.0.2", false},
		{"10.0.0.0/8", "10.255.255.255", true},
		{"10.0.0.0/8", "11.0.0.0", false},
		{"10.0.0.0/9", "10.127.0.1", true},
		{"10.0.0.0/9", "10.128.0.1", false},
		{"0.0.0.0/0", "255.255.255.255", true},
		{"0.0.0.0/0", "2001:db8::1", false},
		{"0.0.0.0/0", "::ffff:1.2.3.4", true},
		{"::/0", "1.2.3.4", true},
		{"2001:db8::/33", "2001:db8:7fff::", true},
		{"2001:db8::/33", "2001:db8:8000::", false},
		{"::1", "::1", true},
		{"::1", "no address", false},
		{"192.0.2.1, 10.0.0.0/8", "10.1.1.1", true},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		OrionProxyList list = list_of(cases[i].list);

		if (orion_proxy_trusts(&list, cases[i].address) != cases[i].trusted)
			fail_msg("%s in %s", cases[i].address, cases[i].list);
	}
}

static void
test_origin(void **state)
{
	static const struct
	{
		const char *field;
		const char *origin;		/* NULL: not believed */
	}			cases[] = {
		{"203.0.113.7", "203.0.113.7"},
		{" 203.0.113.7\t", "203.0.113.7"},
		{"203.0.113.7:8080", "203.0.113.7"},
		{"[2001:db8::1]", "2001:db8::1"},
		{"[2001:db8::1]:443", "2001:db8::1"},
		{"2001:DB8:0::1", "2001:db8::1"},
		{"1.1.1.1, 203.0.113.7", "203.0.113.7"},
		{"1.1.1.1, 203.0.113.7, 10.0.0.1", "203.0.113.7"},
		{"10.0.0.1", "10.0.0.1"},
		{"10.0.0.1,10.0.0.2", "10.0.0.1"},
		{"nonsense, 203.0.113.7", "203.0.113.7"},
		{"nonsense, 10.0.0.1", NULL},
		{"", NULL},
		{",", NULL},
		{"203.0.113.7,", NULL},
		{",203.0.113.7", "203.0.113.7"},
		{"unknown", NULL},
		{"[2001:db8::1", NULL},
		{"203.0.113.7 203.0.113.8", NULL},
		{"2001:db8::1:2:3:4:5:6:7:8:9", NULL},
	};
	OrionProxyList list = list_of("10.0.0.0/8");
	char		out[64];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		bool		ok = orion_proxy_origin(&list, cases[i].field, strlen(cases[i].field), out, sizeof(out));

		if (ok != (cases[i].origin != NULL) || (ok && strcmp(out, cases[i].origin) != 0))
			fail_msg("%s: %s", cases[i].field, ok ? out : "not believed");
	}
	assert_false(orion_proxy_origin(&list, "203.0.113.7", 11, out, 5));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse),
		cmocka_unit_test(test_trusts),
		cmocka_unit_test(test_origin),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
