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


typedef struct Encoding
{
	const char *prefix;
	int			variant;
} Encoding;

static const Encoding encodings[] = {
	{"base64url:", sodium_base64_VARIANT_URLSAFE_NO_PADDING},
	{"base64:", sodium_base64_VARIANT_ORIGINAL},
};

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
	decoded->jwk = value[strspn(value, " \t\r\n")] == '{';
	for (int i = 0; i < lengthof(encodings); i++)
	{
		size_t		prefix = strlen(encodings[i].prefix);

		if (strncmp(value, encodings[i].prefix, prefix) != 0)
			continue;
		if (sodium_base642bin(decoded->bytes, size, value + prefix, size - prefix, "\n",
							  &len, NULL, encodings[i].variant) == 0)
		{
			decoded->len = len;
			return decoded;
		}
		orion_guc_free(decoded);
		GUC_check_errdetail("What follows \"%s\" is not of this encoding.", encodings[i].prefix);
		return NULL;
	}
	memcpy(decoded->bytes, value, size + 1);
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
	if (decoded->len < ORION_SECRET_MIN_LEN)
	{
		orion_guc_free(decoded);
		GUC_check_errdetail("The secret must have at least %d bytes.", ORION_SECRET_MIN_LEN);
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
							   "Secret, JSON Web Key or set of keys of another issuer of tokens.",
							   "A secret has at least 32 bytes; \"base64url:\" or \"base64:\" and the encoded bytes are allowed. Always shown empty.",
							   &shown, "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY | GUC_NO_SHOW_ALL,
							   check_secret, assign_secret, NULL);
}
