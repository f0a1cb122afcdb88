/*
 * schema.h
 *	  A part of JSON Schema (draft 2020-12): compiled once, checked often.
 *
 * Keywords: type, enum, const; properties, required, additionalProperties;
 * items, minItems, maxItems; minLength, maxLength, pattern, format (uuid, date,
 * date-time); minimum, maximum, exclusiveMinimum, exclusiveMaximum.  Annotations are
 * ignored.  Others are refused, so that nobody relies on what is not checked.
 */
#ifndef ORION_CONTRACT_SCHEMA_H
#define ORION_CONTRACT_SCHEMA_H

#include "postgres.h"

#include "utils/jsonb.h"
#include "utils/numeric.h"

#define ORION_SCHEMA_DEPTH	32	/* schemas within schemas */

/* Where in a document, from the inside out; lives on the stack. */
typedef struct OrionPath
{
	const struct OrionPath *up; /* NULL at the root */
	const char *key;			/* of an object, not terminated; the root's
								 * name */
	int			len;
	int			index;			/* in an array, when key is NULL */
} OrionPath;

typedef enum OrionJsonType
{
	ORION_JSON_OBJECT = 1 << 0,
	ORION_JSON_ARRAY = 1 << 1,
	ORION_JSON_STRING = 1 << 2,
	ORION_JSON_NUMBER = 1 << 3,
	ORION_JSON_INTEGER = 1 << 4,
	ORION_JSON_BOOLEAN = 1 << 5,
	ORION_JSON_NULL = 1 << 6,
}			OrionJsonType;

typedef enum OrionFormat
{
	ORION_FORMAT_NONE,
	ORION_FORMAT_UUID,
	ORION_FORMAT_DATE,
	ORION_FORMAT_DATE_TIME,
} OrionFormat;

typedef struct OrionSchema OrionSchema;

typedef struct OrionProperty
{
	char	   *key;			/* not terminated */
	int			len;
	bool		required;
	bool		declared;		/* named by properties, not by required alone */
	OrionSchema *schema;		/* NULL when not declared */
} OrionProperty;

struct OrionSchema
{
	bool		never;			/* the schema false: nothing is allowed */
	int			types;			/* OrionJsonType bits; 0: any */
	JsonbContainer *values;		/* enum or const: an array; NULL: any */
	/* objects */
	int			nproperties;
	OrionProperty *properties;
	bool		closed;			/* additionalProperties: false */
	OrionSchema *additional;	/* or a schema for them, or NULL */
	/* arrays */
	OrionSchema *items;
	int64		min_items;		/* -1: no limit, here and below */
	int64		max_items;
	/* strings */
	int64		min_length;		/* characters */
	int64		max_length;
	text	   *pattern;
	OrionFormat format;
	/* numbers; NULL: no limit */
	Numeric		minimum;
	Numeric		maximum;
	Numeric		above;
	Numeric		below;
};

/*
 * Compiles in the current memory context.  The document must stay as long as
 * the schema does.  Errors name the place.
 */
extern OrionSchema *orion_schema_compile(Jsonb *document);

/* NULL when the value keeps to the schema; else what is wrong, palloc'ed. */
extern char *orion_schema_violation(const OrionSchema *schema, Jsonb *value, const char *root);

/* "payload.items[0].price", palloc'ed */
extern char *orion_path_text(const OrionPath *path);

extern const char *orion_json_type_name(int type);

#endif							/* ORION_CONTRACT_SCHEMA_H */
