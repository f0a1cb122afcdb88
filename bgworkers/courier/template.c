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

/* "{{" and "}}" stand for one brace each. */
static bool
is_escape(const char *string)
{
	return (string[0] == '{' || string[0] == '}') && string[1] == string[0];
}

bool
orion_template_check(const char *string, bool *fixed, char *err, size_t size)
{
	*fixed = true;
	while (*string)
	{
		int			found = *string == '{' ? placeholder_at(string) : -1;

		if (is_escape(string))
			string += 2;
		else if (found >= 0)
		{
			string += strlen(placeholders[found].name);
			*fixed = false;
		}
		else if (*string == '{')
		{
			snprintf(err, size, "unknown placeholder at \"%.40s\" (known: {id} {type} {aggregatetype} {aggregateid} {correlationid}; {{ and }} are braces)", string);
			return false;
		}
		else
			string++;
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

/* Glob characters of Redis get a backslash. */
static bool
append_value(OrionBuffer *out, const OrionText *value, bool glob)
{
	if (!glob)
		return append(out, value->str, value->len);
	for (size_t i = 0; i < value->len; i++)
	{
		const char *at = value->str + i;

		if (*at != '\0' && strchr("*?[]^-\\", *at) && !append(out, "\\", 1))
			return false;
		if (!append(out, at, 1))
			return false;
	}
	return true;
}

static bool
expand(const char *string, const OrionEvent *event, OrionBuffer *out, bool glob)
{
	while (*string)
	{
		size_t		plain = strcspn(string, "{}");
		int			found;
		const OrionText *value;

		if (!append(out, string, plain))
			return false;
		string += plain;
		if (*string == '\0')
			break;
		if (is_escape(string) || *string == '}')
		{
			if (!append(out, string, 1))
				return false;
			string += is_escape(string) ? 2 : 1;
			continue;
		}
		found = placeholder_at(string);
		if (found < 0)
			return false;		/* orion_template_check was not asked */
		value = (const OrionText *) ((const char *) event + placeholders[found].offset);
		if (!append_value(out, value, glob))
			return false;
		string += strlen(placeholders[found].name);
	}
	return true;
}

bool
orion_template_expand(const char *string, const OrionEvent *event, OrionBuffer *out)
{
	return expand(string, event, out, false);
}

bool
orion_template_expand_glob(const char *string, const OrionEvent *event, OrionBuffer *out)
{
	return expand(string, event, out, true);
}
