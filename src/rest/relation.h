/*
 * relation.h
 *	  What the catalog says about the things a request names.
 *
 * Only Postgres' own caches are asked, so a change is seen by the next request.
 */
#ifndef ORION_REST_RELATION_H
#define ORION_REST_RELATION_H

#include "postgres.h"

#include "nodes/pg_list.h"

#include "rest/call.h"

typedef struct OrionColumn
{
	const char *name;
	Oid			type;
	int32		typmod;
} OrionColumn;

/* Where rows come from: a relation or composite type, or a function's columns. */
typedef struct OrionSource
{
	const char *name;			/* for messages */
	const char *quoted;			/* schema-qualified; relations only */
	Oid			relid;			/* InvalidOid: look into columns */
	char		relkind;
	int			ncolumns;
	OrionColumn *columns;
} OrionSource;

/* The header that asks for a schema, or NULL. */
extern const char *orion_relation_profile(const OrionCall *call);

/* The exposed schema that a request asks for; refuses others. */
extern const char *orion_relation_schema(const OrionCall *call);

/* Finds a table or view; refuses what is not there. */
extern void orion_relation_find(const char *schema, const char *name, OrionSource *source);

extern bool orion_source_find_column(const OrionSource *source, const char *name,
									 OrionColumn *column);

/* The same; unknown columns are an error (42703). */
extern void orion_source_column(const OrionSource *source, const char *name, OrionColumn *column);

/*
 * A domain may have a cast of its own to json, from json and from text, by functions:
 * the form its values have in an API.  The quoted function of the cast, or NULL.
 */
extern char *orion_type_cast_function(Oid from, Oid to);

/* Does any column of the relation go out through such a cast? */
extern bool orion_relation_represents(Oid relid);

/* Appends the identifier, always quoted: it is never mistaken for a key word or a function. */
extern void orion_append_name(StringInfo out, const char *name);

/* Names (char *) of the columns of the primary key, in order; NIL without one. */
extern List *orion_relation_primary_key(Oid relid);

/* Where Orion's public functions are; InvalidOid without the extension. */
extern Oid	orion_relation_extension_schema(void);

/* A type's name that means the same under any search_path. */
extern char *orion_type_name(Oid type, int32 typmod);

#endif							/* ORION_REST_RELATION_H */
