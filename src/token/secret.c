/*
 * secret.c
 *	  The setting orion.jwt_secret, kept where no view and no log shows it.
 *
 * PostgreSQL logs the new value of a changed setting at reload, and shows values
 * to members of pg_read_all_settings.  So the check hook takes the secret out of
 * the value: it travels as the "extra" of the setting, the value itself is always
 * empty.  Parallel workers therefore do not have it, and need not: functions that
 * verify tokens are not parallel safe.
 */
#include "postgres.h"

#include <sodium.h>

#include "utils/guc.h"

#include "core/compat.h"
#include "token/secret.h"

#define SECRET_MIN_LEN	32		/* RFC 7518 3.2: at least the size of the hash */
#define ENCODED_PREFIX	"base64url:"

static char *shown = NULL;		/* always empty */
static const OrionSecret *secret = NULL;
static uint64 generation = 0;

static OrionSecret *
decode_secret(const char *value)
{
	size_t		size = strlen(value);
	OrionSecret *decoded = orion_guc_malloc(offsetof(OrionSecret, bytes) + size + 1);
	size_t		len = size;

	if (!decoded)
		return NULL;
	if (strncmp(value, ENCODED_PREFIX, strlen(ENCODED_PREFIX)) != 0)
		memcpy(decoded->bytes, value, size);
	else if (sodium_base642bin(decoded->bytes, size, value + strlen(ENCODED_PREFIX),
							   size - strlen(ENCODED_PREFIX), NULL, &len, NULL,
							   sodium_base64_VARIANT_URLSAFE_NO_PADDING) != 0)
	{
		orion_guc_free(decoded);
		GUC_check_errdetail("What follows \"" ENCODED_PREFIX "\" is not base64url without padding.");
		return NULL;
	}
	decoded->len = len;
	return decoded;
}

static bool
check_secret(char **newval, void **extra, GucSource source)
{
	OrionSecret *decoded;

	if (**newval == '\0')
		return true;
	decoded = decode_secret(*newval);
	explicit_bzero(*newval, strlen(*newval));	/* the value is now the empty
												 * string */
	if (!decoded)
		return false;
	if (decoded->len < SECRET_MIN_LEN)
	{
		orion_guc_free(decoded);
		GUC_check_errdetail("The secret must have at least %d bytes.", SECRET_MIN_LEN);
		return false;
	}
	*extra = decoded;
	return true;
}

static void
assign_secret(const char *newval, void *extra)
{
	secret = extra;
	generation++;
}

const OrionSecret *
orion_secret_get(void)
{
	return secret;
}

uint64
orion_secret_generation(void)
{
	return generation;
}

void
orion_secret_init(void)
{
	DefineCustomStringVariable("orion.jwt_secret",
							   "HS256 secret shared with another issuer, for tokens without a key id.",
							   "At least 32 bytes, or \"base64url:\" and the encoded bytes. Always shown empty.",
							   &shown, "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY | GUC_NO_SHOW_ALL,
							   check_secret, assign_secret, NULL);
}
