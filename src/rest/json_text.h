/*
 * json_text.h
 *	  Steps over JSON text that json_in has found valid, without taking it apart.
 */
#ifndef ORION_REST_JSON_TEXT_H
#define ORION_REST_JSON_TEXT_H

#include "postgres.h"

#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"

static inline const char *
orion_json_skip_space(const char *c)
{
	return c + strspn(c, " \t\r\n");
}

/* c is at a quote; the result is behind the closing one. */
static inline const char *
orion_json_skip_string(const char *c)
{
	for (c++; *c != '"'; c++)
		if (*c == '\\')
			c++;
	return c + 1;
}

static inline const char *
orion_json_skip_value(const char *c)
{
	int			depth = 0;

	do
	{
		if (*c == '"')
			c = orion_json_skip_string(c);
		else if (*c == '{' || *c == '[')
		{
			depth++;
			c++;
		}
		else if (*c == '}' || *c == ']')
		{
			depth--;
			c++;
		}
		else if (depth == 0)
			return c + strcspn(c, ",]} \t\r\n");
		else
			c++;
	} while (depth > 0);
	return c;
}

/* The string from its opening to its closing quote. */
static inline char *
orion_json_key_text(const char *start, const char *end)
{
	Jsonb	   *scalar;
	JsonbValue	v;

	if (memchr(start, '\\', end - start) == NULL)
		return pnstrdup(start + 1, end - start - 2);
	scalar = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(pnstrdup(start, end - start))));
	JsonbExtractScalar(&scalar->root, &v);
	return pnstrdup(v.val.string.val, v.val.string.len);
}

#endif							/* ORION_REST_JSON_TEXT_H */
