/*
 * placeholder.h
 *	  Templates of keys, made of an event: "user:profile:{aggregateid}".
 *
 * Placeholders are {id}, {type}, {aggregatetype}, {aggregateid} and
 * {correlationid}; "{{" and "}}" stand for one brace each, and a single "}" for itself.
 * Pure C; shared by the functions that take a sink's settings and the courier.
 */
#ifndef ORION_PLACEHOLDER_H
#define ORION_PLACEHOLDER_H

#include <stdbool.h>
#include <stddef.h>

typedef enum OrionPlaceholder
{
	ORION_PLACEHOLDER_NONE = -1,
	ORION_PLACEHOLDER_ID,
	ORION_PLACEHOLDER_TYPE,
	ORION_PLACEHOLDER_AGGREGATETYPE,
	ORION_PLACEHOLDER_AGGREGATEID,
	ORION_PLACEHOLDER_CORRELATIONID,
} OrionPlaceholder;

/* The placeholder that the text begins with, and its length. */
extern OrionPlaceholder orion_placeholder_at(const char *string, size_t *len);

/* Does the text begin with a doubled brace? */
extern bool orion_placeholder_is_escape(const char *string);

/* False with the offending part in err. *fixed: it has no placeholder. */
extern bool orion_template_check(const char *string, bool *fixed, char *err, size_t size);

#endif							/* ORION_PLACEHOLDER_H */
