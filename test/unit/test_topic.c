/*
 * test_topic.c
 *	  AMQP topic patterns, against a table and against a plain recursive matcher.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "codec/topic.h"

static void
test_table(void **state)
{
	static const struct
	{
		const char *pattern;
		const char *type;
		bool		match;
	}			cases[] = {
		{"user.created", "user.created", true},
		{"user.created", "user.create", false},
		{"user.created", "user.created.v2", false},
		{"user.*", "user.created", true},
		{"user.*", "user", false},
		{"user.*", "user.created.v2", false},
		{"*", "user", true},
		{"*", "user.created", false},
		{"*.created", "user.created", true},
		{"*.*", "user.created", true},
		{"#", "user", true},
		{"#", "user.created.v2", true},
		{"user.#", "user", true},
		{"user.#", "user.created", true},
		{"user.#", "user.created.v2", true},
		{"user.#", "users.created", false},
		{"#.created", "created", true},
		{"#.created", "a.b.created", true},
		{"#.created", "a.created.b", false},
		{"a.#.z", "a.z", true},
		{"a.#.z", "a.b.c.z", true},
		{"a.#.z", "a.b.c", false},
		{"#.b.#", "a.b.c", true},
		{"#.b.#", "b", true},
		{"#.b.#", "a.c", false},
		{"#.*", "a", true},
		{"*.#", "a.b.c", true},
		{"#.*.*.#", "a", false},
		{"#.a.#.b", "a.a.c.b.b", true},
		{"#.#", "a", true},
		{"a*", "ab", false},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		if (orion_topic_match(cases[i].pattern, cases[i].type) != cases[i].match)
			fail_msg("%s against %s", cases[i].pattern, cases[i].type);
	}
}

/* The definition, in exponential time. */
static bool
defined_match(const char *pattern, const char *type)
{
	size_t		plen;
	size_t		tlen;
	const char *prest;
	const char *trest;

	if (pattern == NULL)
		return type == NULL;
	plen = strcspn(pattern, ".");
	prest = pattern[plen] ? pattern + plen + 1 : NULL;
	if (type == NULL)
		return plen == 1 && pattern[0] == '#' && defined_match(prest, NULL);
	tlen = strcspn(type, ".");
	trest = type[tlen] ? type + tlen + 1 : NULL;
	if (plen == 1 && pattern[0] == '#')
		return defined_match(prest, type) || defined_match(pattern, trest);
	if (plen == 1 && pattern[0] == '*')
		return defined_match(prest, trest);
	return plen == tlen && memcmp(pattern, type, plen) == 0 && defined_match(prest, trest);
}

static void
random_words(char *to, const char *alphabet)
{
	int			words = 1 + rand() % 6;

	for (int i = 0; i < words; i++)
	{
		if (i > 0)
			*to++ = '.';
		*to++ = alphabet[rand() % strlen(alphabet)];
	}
	*to = '\0';
}

static void
test_random(void **state)
{
	int			matched = 0;

	srand(20);
	for (int i = 0; i < 100000; i++)
	{
		char		pattern[16];
		char		type[16];
		bool		want;

		random_words(pattern, "ab*#");
		random_words(type, "ab");
		want = defined_match(pattern, type);
		matched += want;
		if (orion_topic_match(pattern, type) != want)
			fail_msg("%s against %s: wanted %d", pattern, type, want);
	}
	assert_in_range(matched, 1000, 99000);
}

static void
test_validity(void **state)
{
	char		long_type[ORION_TOPIC_MAX + 2];

	memset(long_type, 'a', sizeof(long_type));
	long_type[ORION_TOPIC_MAX] = '\0';
	assert_null(orion_topic_type_error(long_type));
	long_type[ORION_TOPIC_MAX] = 'a';
	long_type[ORION_TOPIC_MAX + 1] = '\0';
	assert_non_null(orion_topic_type_error(long_type));

	assert_null(orion_topic_type_error("user.created"));
	assert_null(orion_topic_type_error("user"));
	assert_non_null(orion_topic_type_error(""));
	assert_non_null(orion_topic_type_error(".user"));
	assert_non_null(orion_topic_type_error("user."));
	assert_non_null(orion_topic_type_error("user..created"));
	assert_non_null(orion_topic_type_error("user created"));
	assert_non_null(orion_topic_type_error("user\n"));
	assert_non_null(orion_topic_type_error("user.*"));
	assert_null(orion_topic_pattern_error("user.*"));
	assert_null(orion_topic_pattern_error("#"));
	assert_non_null(orion_topic_pattern_error("user.c*"));
	assert_non_null(orion_topic_pattern_error("##"));
	assert_non_null(orion_topic_pattern_error("user..#"));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table),
		cmocka_unit_test(test_random),
		cmocka_unit_test(test_validity),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
