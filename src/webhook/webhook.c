/*
 * webhook.c
 *	  Settings of webhooks, and what the SQL functions need of C: secrets, patterns.
 *
 * Secrets are made here and leave once, as the result of the function that made
 * them; the tables hold them sealed, with the endpoint as context.
 */
#include "postgres.h"

#include <limits.h>
#include <sodium.h>

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "codec/topic.h"
#include "core/wake.h"
#include "seal/seal.h"
#include "webhook/webhook.h"
#include "webhook/webhook_private.h"

#define SECRET_BYTES		32
#define SECRET_BYTES_MIN	24
#define SECRET_BYTES_MAX	64

PG_FUNCTION_INFO_V1(orion_webhook_wake);
PG_FUNCTION_INFO_V1(orion_webhook_seal);
PG_FUNCTION_INFO_V1(orion_webhook_secret_new);
PG_FUNCTION_INFO_V1(orion_webhook_secret_shown);
PG_FUNCTION_INFO_V1(orion_webhook_matches);

int			orion_webhook_timeout = 15000;
int			orion_webhook_disable_after = 432000;
int			orion_webhook_max_in_flight = 256;
int			orion_webhook_retention = 43200;
bool		orion_webhook_allow_http = false;
bool		orion_webhook_log_successes = true;
char	   *orion_webhook_allowed_networks = NULL;
char	   *orion_webhook_ca_file = NULL;

static char *retry_schedule = NULL;
static OrionSchedule schedule;

Datum
orion_webhook_wake(PG_FUNCTION_ARGS)
{
	orion_wake_at_commit(ORION_WAKE_SINKS);
	PG_RETURN_VOID();
}

char *
orion_webhook_seal_context(int32 endpoint)
{
	return psprintf("webhook:%d", endpoint);
}

Datum
orion_webhook_seal(PG_FUNCTION_ARGS)
{
	char	   *secret = text_to_cstring(PG_GETARG_TEXT_PP(0));
	size_t		len = strlen(secret);
	bytea	   *sealed = orion_seal(secret, len, orion_webhook_seal_context(PG_GETARG_INT32(1)));

	explicit_bzero(secret, len);
	PG_RETURN_BYTEA_P(sealed);
}

static text *
encode(const char *prefix, const unsigned char *bytes, size_t len)
{
	char		out[256];

	strcpy(out, prefix);
	sodium_bin2base64(out + strlen(prefix), sizeof(out) - strlen(prefix), bytes, len, sodium_base64_VARIANT_ORIGINAL);
	return cstring_to_text(out);
}

Datum
orion_webhook_secret_new(PG_FUNCTION_ARGS)
{
	unsigned char public[crypto_sign_PUBLICKEYBYTES];
	unsigned char secret[crypto_sign_SECRETKEYBYTES];
	char	   *signature = text_to_cstring(PG_GETARG_TEXT_PP(0));
	text	   *result;

	if (strcmp(signature, "v1a") == 0)
	{
		crypto_sign_keypair(public, secret);
		result = encode("whsk_", secret, sizeof(secret));
	}
	else
	{
		randombytes_buf(secret, SECRET_BYTES);
		result = encode("whsec_", secret, SECRET_BYTES);
	}
	sodium_memzero(secret, sizeof(secret));
	PG_RETURN_TEXT_P(result);
}

/* The bytes behind a prefix; 0 when it has another, or is not base64. */
static size_t
decode(const char *string, const char *prefix, unsigned char *bytes, size_t size)
{
	size_t		len = 0;

	if (strncmp(string, prefix, strlen(prefix)) != 0 ||
		sodium_base642bin(bytes, size, string + strlen(prefix), strlen(string) - strlen(prefix), NULL, &len, NULL,
						  sodium_base64_VARIANT_ORIGINAL) != 0)
		return 0;
	return len;
}

Datum
orion_webhook_secret_shown(PG_FUNCTION_ARGS)
{
	unsigned char bytes[SECRET_BYTES_MAX];
	unsigned char public[crypto_sign_PUBLICKEYBYTES];
	unsigned char secret[crypto_sign_SECRETKEYBYTES];
	char	   *given = text_to_cstring(PG_GETARG_TEXT_PP(0));
	size_t		len = decode(given, "whsec_", bytes, sizeof(bytes));
	text	   *result = NULL;

	if (len >= SECRET_BYTES_MIN)
		result = cstring_to_text(given);
	len = decode(given, "whsk_", bytes, sizeof(bytes));
	if (len == crypto_sign_SEEDBYTES || len == crypto_sign_SECRETKEYBYTES)
	{
		crypto_sign_seed_keypair(public, secret, bytes);
		result = encode("whpk_", public, sizeof(public));
	}
	sodium_memzero(bytes, sizeof(bytes));
	sodium_memzero(secret, sizeof(secret));
	if (result == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(result);
}

/* What endpoints themselves do is for their owner, not for other endpoints. */
bool
orion_webhook_is_internal(const char *type)
{
	return strncmp(type, "webhook.", 8) == 0;
}

Datum
orion_webhook_matches(PG_FUNCTION_ARGS)
{
	char	   *type = text_to_cstring(PG_GETARG_TEXT_PP(1));
	Datum	   *patterns;
	int			n;

	if (orion_webhook_is_internal(type))
		PG_RETURN_BOOL(false);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false, TYPALIGN_INT, &patterns, NULL, &n);
	for (int i = 0; i < n; i++)
	{
		if (orion_topic_match(TextDatumGetCString(patterns[i]), type))
			PG_RETURN_BOOL(true);
	}
	PG_RETURN_BOOL(false);
}

const OrionSchedule *
orion_webhook_schedule(void)
{
	return &schedule;
}

static bool
check_schedule(char **value, void **extra, GucSource source)
{
	OrionSchedule parsed;

	if (orion_schedule_parse(*value, &parsed))
		return true;
	GUC_check_errdetail("It is a list of at most %d pauses of up to 30 days, such as \"5s, 5min, 2h\".", ORION_SCHEDULE_MAX);
	return false;
}

static void
assign_schedule(const char *value, void *extra)
{
	(void) orion_schedule_parse(value, &schedule);
}

static void
init_limits(void)
{
	DefineCustomIntVariable("orion.webhook_timeout",
							"How long an attempt to send a webhook may take.",
							NULL,
							&orion_webhook_timeout, 15000, 100, 120000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("orion.webhook_disable_after",
							"After how long without a success a failing endpoint of webhooks is disabled.",
							"0 turns it off.",
							&orion_webhook_disable_after, 432000, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("orion.webhook_max_in_flight",
							"How many webhooks may be on their way at a time.",
							NULL,
							&orion_webhook_max_in_flight, 256, 2, 1000,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("orion.webhook_retention",
							"How long attempts to send webhooks, and those that were given up, are kept.",
							NULL,
							&orion_webhook_retention, 43200, 1, 5256000,
							PGC_SIGHUP, GUC_UNIT_MIN, NULL, NULL, NULL);
	DefineCustomBoolVariable("orion.webhook_log_successes",
							 "Keeps a row also of attempts to send a webhook that succeeded.",
							 NULL,
							 &orion_webhook_log_successes, true,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
}

void
orion_webhook_init(void)
{
	DefineCustomStringVariable("orion.webhook_retry_schedule",
							   "The pauses between attempts to send a webhook.",
							   "Each grows by up to a fifth at random. After the last one a delivery is given up.",
							   &retry_schedule, "5s, 5min, 30min, 2h, 5h, 10h, 14h, 20h, 24h",
							   PGC_SIGHUP, 0, check_schedule, assign_schedule, NULL);
	DefineCustomStringVariable("orion.webhook_allowed_networks",
							   "Networks besides the public Internet that webhooks may be sent to.",
							   "Addresses in CIDR notation, separated by commas.",
							   &orion_webhook_allowed_networks, "",
							   PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("orion.webhook_allow_http",
							 "Allows endpoints of webhooks without TLS.",
							 NULL,
							 &orion_webhook_allow_http, false,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("orion.webhook_ca_file",
							   "File with the certificates that endpoints of webhooks are checked with.",
							   "PEM. Empty: those of the system.",
							   &orion_webhook_ca_file, "",
							   PGC_SIGHUP, 0, NULL, NULL, NULL);
	init_limits();
}
