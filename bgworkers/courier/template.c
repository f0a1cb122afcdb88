/*
 * template.c
 *	  Expands placeholders; see template.h.
 */
#include "template.h"

#include <stdio.h>
#include <string.h>

static const struct
{
	const char *name;
	size_t		offset;
}			placeholders[] = {
	{"{id}", offsetof(OrionEvent, id)},
	{"{type}", offsetof(OrionEvent, type)},
	{"{aggregatetype}", offsetof(OrionEvent, aggregatetype)},
	{"{aggregateid}", offsetof(OrionEvent, aggregateid)},
	{"{correlationid}", offsetof(OrionEvent, correlationid)},
};

/* The placeholder that text begins with, or -1. */
static int
placeholder_at(const char *string)
{
	for (size_t i = 0; i < sizeof(placeholders) / sizeof(placeholders[0]); i++)
	{
		if (strncmp(string, placeholders[i].name, strlen(placeholders[i].name)) == 0)
			return (int) i;
	}
	return -1;
}

bool
orion_template_check(const char *string, bool *fixed, char *err, size_t size)
{
	*fixed = true;
	for (const char *at = strchr(string, '{'); at; at = strchr(at + 1, '{'))
	{
		if (placeholder_at(at) < 0)
		{
			snprintf(err, size, "unknown placeholder at \"%.40s\" (known: {id} {type} {aggregatetype} {aggregateid} {correlationid})", at);
			return false;
		}
		*fixed = false;
	}
	return true;
}

static bool
append(OrionBuffer *out, const char *bytes, size_t len)
{
	if (len == 0)
		return true;
	if (!orion_buffer_reserve(out, len))
		return false;
	memcpy(out->data + out->end, bytes, len);
	out->end += len;
	return true;
}

bool
orion_template_expand(const char *string, const OrionEvent *event, OrionBuffer *out)
{
	while (*string)
	{
		size_t		plain = strcspn(string, "{");
		int			found;
		const OrionText *value;

		if (!append(out, string, plain))
			return false;
		string += plain;
		if (*string == '\0')
			break;
		found = placeholder_at(string);
		if (found < 0)
			return false;		/* orion_template_check was not asked */
		value = (const OrionText *) ((const char *) event + placeholders[found].offset);
		if (!append(out, value->str, value->len))
			return false;
		string += strlen(placeholders[found].name);
	}
	return true;
}
