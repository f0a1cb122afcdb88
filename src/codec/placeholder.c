/*
 * placeholder.c
 *	  Recognises placeholders and checks templates; see placeholder.h.
 */
#include "codec/placeholder.h"

#include <stdio.h>
#include <string.h>

#define SHOWN		40			/* bytes of what is wrong */

/* By their numbers. */
static const char *const placeholders[] = {
	"{id}", "{type}", "{aggregatetype}", "{aggregateid}", "{correlationid}",
};

OrionPlaceholder
orion_placeholder_at(const char *string, size_t *len)
{
	for (size_t i = 0; i < sizeof(placeholders) / sizeof(placeholders[0]); i++)
	{
		*len = strlen(placeholders[i]);
		if (strncmp(string, placeholders[i], *len) == 0)
			return (OrionPlaceholder) i;
	}
	return ORION_PLACEHOLDER_NONE;
}

bool
orion_placeholder_is_escape(const char *string)
{
	return (string[0] == '{' || string[0] == '}') && string[1] == string[0];
}

/* The beginning of a text, without a part of a character (UTF-8) at its end. */
static int
shown(const char *string)
{
	size_t		len = strnlen(string, SHOWN);

	while (len > 0 && ((unsigned char) string[len] & 0xc0) == 0x80)
		len--;
	return (int) len;
}

bool
orion_template_check(const char *string, bool *fixed, char *err, size_t size)
{
	*fixed = true;
	while (*string)
	{
		size_t		len;

		if (orion_placeholder_is_escape(string))
			string += 2;
		else if (*string != '{')
			string++;
		else if (orion_placeholder_at(string, &len) != ORION_PLACEHOLDER_NONE)
		{
			string += len;
			*fixed = false;
		}
		else
		{
			snprintf(err, size, "unknown placeholder at \"%.*s\" (known: {id} {type} {aggregatetype} {aggregateid} {correlationid}; {{ and }} are braces)",
					 shown(string), string);
			return false;
		}
	}
	return true;
}
