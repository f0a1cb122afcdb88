/*
 * password_common.c
 *	  Whether a password is among those that are tried first.
 *
 * Runs in any backend, asks nobody outside.  Upper case, and up to four characters
 * behind that are no letters, do not make a common password a good one, nor do
 * repetitions of a character or a row of neighbours ("abcdefgh", "98765432").
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"

#include "auth/common_passwords.h"

#define DECORATION_MAX	4		/* "2024", "123!" */

PG_FUNCTION_INFO_V1(orion_password_common);

static int
compare(const void *key, const void *element)
{
	return strcmp(key, *(const char *const *) element);
}

static bool
listed(const char *word)
{
	return bsearch(word, common_passwords, lengthof(common_passwords), sizeof(char *), compare) != NULL;
}

/* All characters the same distance apart, which is -1, 0 or 1. */
static bool
is_row(const char *word)
{
	int			step = word[0] ? word[1] - word[0] : 0;

	for (const char *c = word; c[0] && c[1]; c++)
		if (c[1] - c[0] != step)
			return false;
	return step >= -1 && step <= 1;
}

/* orion_private.password_common(password text) */
Datum
orion_password_common(PG_FUNCTION_ARGS)
{
	char	   *word = text_to_cstring(PG_GETARG_TEXT_PP(0));
	size_t		size = strlen(word);
	size_t		len = size;
	bool		common;

	for (size_t i = 0; i < len; i++)
		word[i] = pg_ascii_tolower((unsigned char) word[i]);
	common = is_row(word) || listed(word);
	for (int i = 0; i < DECORATION_MAX && len > 0 && !common; i++)
	{
		unsigned char last = word[--len];

		if (IS_HIGHBIT_SET(last) || (last >= 'a' && last <= 'z'))
			break;
		word[len] = '\0';
		common = listed(word);
	}
	explicit_bzero(word, size);
	PG_RETURN_BOOL(common);
}
