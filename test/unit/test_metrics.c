// uses: bgworkers/gateway/metrics.c
/*
 * test_metrics.c
 *	  Counting requests: the bound on routes, the histogram, escaping.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "gateway/metrics.h"

/* The value of the sample at the start of a line; -1 when there is none. */
static double
sample(const char *name)
{
	OrionBuffer out = {0};
	char	   *at;
	double		value = -1;

	orion_metrics_requests(&out);
	assert_true(orion_buffer_reserve(&out, 1));
	out.data[out.end] = '\0';
	at = strstr((char *) out.data, name);
	if (at && (at == (char *) out.data || at[-1] == '\n') && at[strlen(name)] == ' ')
		value = atof(at + strlen(name) + 1);
	orion_buffer_free(&out);
	return value;
}

static void
test_counts(void **state)
{
	orion_metrics_count("/a", 2, "GET", 200, 400);
	orion_metrics_count("/a", 2, "GET", 200, 500);
	orion_metrics_count("/a", 2, "GET", 404, 501);
	orion_metrics_count("/a", 2, "POST", 200, 20000000);
	assert_true(sample("orion_http_requests_total{route=\"/a\",method=\"GET\",status=\"200\"}") == 2);
	assert_true(sample("orion_http_requests_total{route=\"/a\",method=\"GET\",status=\"404\"}") == 1);
	assert_true(sample("orion_http_request_duration_seconds_bucket{route=\"/a\",le=\"0.0005\"}") == 2);
	assert_true(sample("orion_http_request_duration_seconds_bucket{route=\"/a\",le=\"0.001\"}") == 3);
	assert_true(sample("orion_http_request_duration_seconds_bucket{route=\"/a\",le=\"10\"}") == 3);
	assert_true(sample("orion_http_request_duration_seconds_bucket{route=\"/a\",le=\"+Inf\"}") == 4);
	assert_true(sample("orion_http_request_duration_seconds_sum{route=\"/a\"}") == 20.001401);
}

static void
test_names(void **state)
{
	char		longer[ORION_METRICS_ROUTE_LEN + 100];
	char		name[ORION_METRICS_ROUTE_LEN + 100];

	orion_metrics_count("/q\"\\\n", 5, "GET", 200, 1);
	assert_true(sample("orion_http_requests_total{route=\"/q\\\"\\\\ \",method=\"GET\",status=\"200\"}") == 1);
	memset(longer, 'x', sizeof(longer));
	orion_metrics_count(longer, sizeof(longer), "GET", 200, 1);
	orion_metrics_count(longer, sizeof(longer) - 1, "GET", 200, 1);
	snprintf(name, sizeof(name), "orion_http_requests_total{route=\"%.*s\",method=\"GET\",status=\"200\"}",
			 ORION_METRICS_ROUTE_LEN, longer);
	assert_true(sample(name) == 2);
}

static void
test_bound(void **state)
{
	char		name[32];

	for (int i = 0; i < 5 * ORION_METRICS_ROUTES; i++)
		orion_metrics_count(name, snprintf(name, sizeof(name), "/many/%d", i), "GET", 200, 1);
	assert_true(sample("orion_http_requests_total{route=\"/many/0\",method=\"GET\",status=\"200\"}") == 1);
	assert_true(sample("orion_http_requests_total{route=\"/many/4999\",method=\"GET\",status=\"200\"}") == -1);
	assert_true(sample("orion_http_requests_total{route=\"other\",method=\"GET\",status=\"200\"}") > 4 * ORION_METRICS_ROUTES - 10);
}

static OrionBuffer
text_of(const char *str)
{
	OrionBuffer text = {0};

	assert_true(orion_buffer_reserve(&text, strlen(str)));
	memcpy(text.data, str, strlen(str));
	text.		end = strlen(str);
	return text;
}

static void
check_merge(const char *one, const char *two, const char *want)
{
	OrionBuffer texts[] = {text_of(one), text_of(two)};
	OrionBuffer out = {0};

	orion_metrics_merge(&out, texts, 2);
	assert_int_equal(out.end, strlen(want));
	assert_memory_equal(out.data, want, out.end);
	orion_buffer_free(&texts[0]);
	orion_buffer_free(&texts[1]);
	orion_buffer_free(&out);
}

static void
test_merge(void **state)
{
	const char *one = "# HELP a A.\n# TYPE a counter\na{p=\"0\"} 1\n# HELP ab B.\n# TYPE ab gauge\nab{p=\"0\"} 2\n";

	check_merge(one, "# HELP a A.\n# TYPE a counter\na{p=\"1\"} 3\na{p=\"1\",q=\"\"} 4\n# HELP ab B.\n# TYPE ab gauge\nab{p=\"1\"} 5\n",
				"# HELP a A.\n# TYPE a counter\na{p=\"0\"} 1\na{p=\"1\"} 3\na{p=\"1\",q=\"\"} 4\n"
				"# HELP ab B.\n# TYPE ab gauge\nab{p=\"0\"} 2\nab{p=\"1\"} 5\n");
	/* names that the other lacks, or has in another order, or only has */
	check_merge(one, "# HELP c C.\nc 1\n# HELP ab B.\nab{p=\"1\"} 5\n",
				"# HELP a A.\n# TYPE a counter\na{p=\"0\"} 1\n# HELP ab B.\n# TYPE ab gauge\nab{p=\"0\"} 2\nab{p=\"1\"} 5\n");
	/* what is cut off, or nothing */
	check_merge(one, "# HELP a A.\na{p=\"1\"} 3\na{p=", "# HELP a A.\n# TYPE a counter\na{p=\"0\"} 1\na{p=\"1\"} 3\n# HELP ab B.\n# TYPE ab gauge\nab{p=\"0\"} 2\n");
	check_merge(one, "# HELP", one);
	check_merge(one, "# HELP ab", one);
}

static void
test_process(void **state)
{
	orion_metrics_set_process(3, 4);
	orion_metrics_count("/p", 2, "GET", 200, 400);
	assert_string_equal(orion_metrics_alone(), "{process=\"3\"}");
	assert_true(sample("orion_http_requests_total{process=\"3\",route=\"/p\",method=\"GET\",status=\"200\"}") == 1);
	assert_true(sample("orion_http_request_duration_seconds_count{process=\"3\",route=\"/p\"}") == 1);
	orion_metrics_set_process(0, 1);
	assert_string_equal(orion_metrics_alone(), "");
	assert_true(sample("orion_http_requests_total{route=\"/p\",method=\"GET\",status=\"200\"}") == 1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_counts),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_process),
		cmocka_unit_test(test_bound),
		cmocka_unit_test(test_merge),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
