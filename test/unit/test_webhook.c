// uses: bgworkers/courier/webhook_address.c bgworkers/courier/webhook_message.c -lsodium
/*
 * test_webhook.c
 *	  Webhooks: signatures, which addresses are taken, texts of answers, schedules.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include <sodium.h>

#include "codec/backoff.h"
#include "courier/webhook_address.h"
#include "courier/webhook_message.h"

#define SECRET	"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
#define ID		"msg_p5jXN8AQM9LWM0D4loKWxJek"
#define BODY	"{\"test\": 2432232314}"
#define SIGNATURE "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

static bool
sign(const char *secrets, const char *id, char *out, size_t size)
{
	return orion_webhook_sign(secrets, strlen(secrets), id, 1614265330, BODY, strlen(BODY), out, size);
}

/* The vector that the libraries of Standard Webhooks are tested with. */
static void
test_signature(void **state)
{
	char		out[ORION_WEBHOOK_SIGNATURE_MAX];
	char		many[1024] = SECRET;

	assert_true(sign(SECRET, ID, out, sizeof(out)));
	assert_string_equal(out, SIGNATURE);
	assert_true(sign(SECRET " " SECRET, ID, out, sizeof(out)));
	assert_string_equal(out, SIGNATURE " " SIGNATURE);
	assert_false(sign(SECRET, "a.b", out, sizeof(out)));
	assert_false(sign(SECRET, "", out, sizeof(out)));
	assert_false(sign("", ID, out, sizeof(out)));
	assert_false(sign("whsec_", ID, out, sizeof(out)));
	assert_false(sign("whsec_!!!!", ID, out, sizeof(out)));
	assert_false(sign("hush", ID, out, sizeof(out)));
	assert_false(sign(SECRET " hush", ID, out, sizeof(out)));
	assert_false(sign(SECRET, ID, out, 20));
	for (int i = 1; i < ORION_WEBHOOK_SECRETS_MAX; i++)
		strcat(many, " " SECRET);
	assert_true(sign(many, ID, out, sizeof(out)));
	strcat(many, " " SECRET);
	assert_false(sign(many, ID, out, sizeof(out)));
}

static void
test_asymmetric(void **state)
{
	unsigned char public[crypto_sign_PUBLICKEYBYTES];
	unsigned char secret[crypto_sign_SECRETKEYBYTES];
	unsigned char signature[crypto_sign_BYTES];
	char		encoded[128] = "whsk_";
	char		out[ORION_WEBHOOK_SIGNATURE_MAX];
	char		message[256];
	size_t		len;

	crypto_sign_keypair(public, secret);
	snprintf(message, sizeof(message), "%s.1614265330.%s", ID, BODY);
	for (int i = 0; i < 2; i++)
	{
		sodium_bin2base64(encoded + 5, sizeof(encoded) - 5, secret, i ? 32 : 64, sodium_base64_VARIANT_ORIGINAL);
		assert_true(sign(encoded, ID, out, sizeof(out)));
		assert_memory_equal(out, "v1a,", 4);
		assert_int_equal(sodium_base642bin(signature, sizeof(signature), out + 4, strlen(out + 4), NULL, &len, NULL,
										   sodium_base64_VARIANT_ORIGINAL), 0);
		assert_int_equal(len, sizeof(signature));
		assert_int_equal(crypto_sign_verify_detached(signature, (unsigned char *) message, strlen(message), public), 0);
	}
}

static void
test_refused(void **state)
{
	static const char *const refused[] = {
		"0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.254",
		"168.63.129.16", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1", "192.168.1.1",
		"198.18.0.1", "198.19.255.255", "198.51.100.7", "203.0.113.7", "224.0.0.1", "239.255.255.255", "240.0.0.1",
		"255.255.255.255", "::", "::1", "::2", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1",
		"64:ff9b::a00:1", "64:ff9b:1::7f00:1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::", "3fff::1", "fc00::1", "fd12::1",
		"fe80::1", "febf::1", "fec0::1", "ff02::1", "4000::1", "nonsense", ""
	};
	static const char *const taken[] = {
		"1.1.1.1", "9.255.255.255", "11.0.0.1", "100.63.255.255", "100.128.0.1", "126.0.0.1", "128.0.0.1", "169.253.0.1",
		"172.15.0.1", "172.32.0.1", "192.167.0.1", "198.17.0.1", "198.20.0.1", "223.255.255.255", "::ffff:1.1.1.1", "64:ff9b::101:101",
		"2606:4700::1111", "2a00::1", "2001:4860:4860::8888", "3ffe::1"
	};

	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
	{
		if (orion_address_text_refusal(refused[i], NULL) == NULL)
			fail_msg("%s was not refused", refused[i]);
	}
	for (size_t i = 0; i < sizeof(taken) / sizeof(taken[0]); i++)
	{
		if (orion_address_text_refusal(taken[i], NULL) != NULL)
			fail_msg("%s was refused", taken[i]);
	}
	assert_string_equal(orion_address_text_refusal("::1", NULL), "loopback");
	assert_true(orion_port_is_allowed(443) && orion_port_is_allowed(80) && orion_port_is_allowed(8443));
	assert_false(orion_port_is_allowed(22) || orion_port_is_allowed(25) || orion_port_is_allowed(0) || orion_port_is_allowed(65536));
}

static bool
add(OrionNetworks *networks, const char *string)
{
	return orion_networks_add(networks, string, strlen(string));
}

static void
test_allowed(void **state)
{
	OrionNetworks networks = {0};
	OrionNetworks many = {0};

	assert_true(add(&networks, ""));
	assert_true(add(&networks, "10.1.2.0/23, 127.0.0.1,::1/128"));
	assert_int_equal(networks.count, 3);
	assert_null(orion_address_text_refusal("10.1.3.255", &networks));
	assert_non_null(orion_address_text_refusal("10.1.4.0", &networks));
	assert_null(orion_address_text_refusal("127.0.0.1", &networks));
	assert_null(orion_address_text_refusal("::ffff:127.0.0.1", &networks));
	assert_non_null(orion_address_text_refusal("127.0.0.2", &networks));
	assert_null(orion_address_text_refusal("::1", &networks));
	assert_true(add(&networks, "0.0.0.0/0"));
	assert_null(orion_address_text_refusal("127.0.0.2", &networks));
	assert_non_null(orion_address_text_refusal("fd00::1", &networks));
	assert_false(add(&networks, "10.0.0.0/33"));
	assert_false(add(&networks, "10.0.0/8"));
	assert_false(add(&networks, "10.0.0.0/"));
	assert_false(add(&networks, "10.0.0.0/-1"));
	assert_false(add(&networks, "10.0.0.0/8x"));
	assert_false(add(&networks, "fd00::/129"));
	assert_false(add(&networks, "example.com"));
	for (int i = 0; i < ORION_NETWORKS_MAX; i++)
		assert_true(add(&many, "10.0.0.0/8"));
	assert_false(add(&many, "10.0.0.0/8"));
}

static void
clean_is(const char *in, size_t len, size_t size, const char *expected)
{
	char		out[256];

	assert_int_equal(orion_webhook_clean(in, len, out, size), strlen(expected));
	assert_string_equal(out, expected);
}

static void
test_clean(void **state)
{
	clean_is("hello\tworld\r\n", 13, 256, "hello\tworld\n");
	clean_is("caf\xc3\xa9", 5, 256, "caf\xc3\xa9");
	clean_is("caf\xc3", 4, 256, "caf\xef\xbf\xbd");
	clean_is("\xc0\xaf\xff", 3, 256, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
	clean_is("\xed\xa0\x80", 3, 256, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");	/* a surrogate */
	clean_is("\xf4\x90\x80\x80", 4, 256, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
	clean_is("a\0b\x1b", 4, 256, "a\xef\xbf\xbd" "b\xef\xbf\xbd");
	clean_is("abc\xc3\xa9", 5, 5, "abc");	/* cut between characters */
	clean_is("abcdef", 6, 4, "abc");
	clean_is("", 0, 1, "");
}

static void
test_schedule(void **state)
{
	OrionSchedule schedule;

	assert_true(orion_schedule_parse("5s, 5min,30 min , 2h,1d,10ms", &schedule));
	assert_int_equal(schedule.count, 6);
	assert_int_equal(schedule.pauses[0], 5000);
	assert_int_equal(schedule.pauses[1], 300000);
	assert_int_equal(schedule.pauses[2], 1800000);
	assert_int_equal(schedule.pauses[3], 7200000);
	assert_int_equal(schedule.pauses[4], 86400000);
	assert_int_equal(schedule.pauses[5], 10);
	assert_int_equal(orion_schedule_pause(&schedule, 1, 0, 0), 5000);
	assert_in_range(orion_schedule_pause(&schedule, 1, 999, 0), 5900, 6000);
	for (uint32_t random = 0; random < 5000; random += 7)
		assert_in_range(orion_schedule_pause(&schedule, 2, random, 0), 300000, 360000);
	assert_int_equal(orion_schedule_pause(&schedule, 1, 0, 60), 60000);
	assert_int_equal(orion_schedule_pause(&schedule, 2, 0, 60), 300000);
	assert_int_equal(orion_schedule_pause(&schedule, 1, 0, INT64_MAX), 86400000);
	assert_true(orion_schedule_pause(&schedule, 7, 0, 0) == -1);
	assert_true(orion_schedule_pause(&schedule, 7, 0, 60) == -1);
	assert_true(orion_schedule_pause(&schedule, 0, 0, 0) == -1);
	assert_true(orion_schedule_parse(" ", &schedule));
	assert_true(orion_schedule_pause(&schedule, 1, 0, 0) == -1);
	assert_false(orion_schedule_parse("5", &schedule));
	assert_false(orion_schedule_parse("5s,", &schedule));
	assert_false(orion_schedule_parse("5s 5s", &schedule));
	assert_false(orion_schedule_parse("-5s", &schedule));
	assert_false(orion_schedule_parse("5 parsecs", &schedule));
	assert_false(orion_schedule_parse("31d", &schedule));
	assert_false(orion_schedule_parse("99999999999999999999d", &schedule));
	assert_false(orion_schedule_parse("1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s", &schedule));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_signature),
		cmocka_unit_test(test_asymmetric),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_allowed),
		cmocka_unit_test(test_clean),
		cmocka_unit_test(test_schedule),
	};

	if (sodium_init() < 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
