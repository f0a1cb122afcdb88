/*
 * template.c
 *	  Expands placeholders; see template.h.
 */
#include "template.h"

#include <string.h>

static const size_t offsets[] = {
	[ORION_PLACEHOLDER_ID] = offsetof(OrionEvent, id),
	[ORION_PLACEHOLDER_TYPE] = offsetof(OrionEvent, type),
	[ORION_PLACEHOLDER_AGGREGATETYPE] = offsetof(OrionEvent, aggregatetype),
	[ORION_PLACEHOLDER_AGGREGATEID] = offsetof(OrionEvent, aggregateid),
	[ORION_PLACEHOLDER_CORRELATIONID] = offsetof(OrionEvent, correlationid),
};

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
		size_t		len;
		OrionPlaceholder found;
		const OrionText *value;

		if (!append(out, string, plain))
			return false;
		string += plain;
		if (*string == '\0')
			break;
		if (orion_placeholder_is_escape(string) || *string == '}')
		{
			if (!append(out, string, 1))
				return false;
			string += orion_placeholder_is_escape(string) ? 2 : 1;
			continue;
		}
		found = orion_placeholder_at(string, &len);
		if (found == ORION_PLACEHOLDER_NONE)
			return false;		/* orion_template_check was not asked */
		value = (const OrionText *) ((const char *) event + offsets[found]);
		if (!append_value(out, value, glob))
			return false;
		string += len;
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
