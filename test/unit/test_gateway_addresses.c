// uses: bgworkers/gateway/addresses.c
/*
 * test_gateway_addresses.c
 *	  Which addresses are counted as one.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <arpa/inet.h>
#include <cmocka.h>

#include "gateway/gateway.h"

Gateway		orion_gateway;		/* of a process that shares its counts with
								 * none */

static GatewayAddress
address(const char *text)
{
	struct sockaddr_in four = {.sin_family = AF_INET};
	struct sockaddr_in6 six = {.sin6_family = AF_INET6};

	if (inet_pton(AF_INET, text, &four.sin_addr) == 1)
		return orion_gateway_address_of((struct sockaddr *) &four);
	assert_int_equal(inet_pton(AF_INET6, text, &six.sin6_addr), 1);
	return orion_gateway_address_of((struct sockaddr *) &six);
}

static uint32_t
enter(const char *text)
{
	GatewayAddress a = address(text);

	return orion_gateway_addresses_enter(&a);
}

static void
leave(const char *text)
{
	GatewayAddress a = address(text);

	orion_gateway_addresses_leave(&a);
}

static void
test_networks(void **state)
{
	orion_gateway.config.processes = 1;
	assert_true(orion_gateway_addresses_start());
	assert_int_equal(enter("203.0.113.7"), 1);
	assert_int_equal(enter("203.0.113.8"), 1);
	assert_int_equal(enter("203.0.113.7"), 2);
	assert_int_equal(enter("::ffff:203.0.113.7"), 3);
	assert_int_equal(enter("2001:db8:0:1::1"), 1);
	assert_int_equal(enter("2001:db8:0:1:ffff:ffff:ffff:ffff"), 2);
	assert_int_equal(enter("2001:db8:0:2::1"), 1);
	assert_int_equal(enter("::1"), 1);
	leave("2001:db8:0:1::1");
	assert_int_equal(enter("2001:db8:0:1::2"), 2);
	leave("203.0.113.8");
	assert_int_equal(enter("203.0.113.8"), 1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_networks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
