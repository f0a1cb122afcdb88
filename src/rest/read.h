/*
 * read.h
 *	  A request to read as a tree of relations, and the statement made of it.
 *
 * The root is any source of rows: a table, a function's call, the CTE of a write.
 * Its rows are known as "t" in the statement, those of embedded relations as "t1",
 * "t2", ...; what a child adds to a row of its parent is known as "e1", "e2", ....
 */
#ifndef ORION_REST_READ_H
#define ORION_REST_READ_H

#include "postgres.h"

#include "rest/relationship.h"
#include "rest/statement.h"

typedef struct OrionRead
{
	const OrionSource *source;
	const char *alias;			/* of its rows */
	const char *lateral;		/* of what it adds to the parent; not the root */
	const char *key;			/* name in the answer */
	const char *relation;		/* name asked for */
	const OrionSelect *select;
	List	   *filters;		/* const OrionFilter *, each with its siblings */
	const OrionOrder *order;
	bool		typed;			/* rows keep the types of their columns */
	bool		as_text;		/* rows go out as text: what is embedded as
								 * jsonb */
	bool		uncapped;		/* rest_max_rows does not count */
	bool		counting;		/* its rows are only to be counted */
	bool		has_limit;
	bool		has_offset;
	int64		limit;
	int64		offset;
	struct OrionKeyset *keyset; /* of the root: where its page begins */
	OrionRelationship *link;	/* to the parent; not the root */
	bool		inner;
	bool		spread;
	bool		misnamed;		/* parameters name the relation instead of its
								 * alias */
	List	   *hidden;			/* const OrionOrder *: columns the parent
								 * sorts by */
	struct OrionRead *parent;
	struct OrionRead *first;	/* children, in the order of select */
	struct OrionRead *next;
} OrionRead;

/* Finds every relation and relationship that the query names; refuses the unknown. */
extern OrionRead *orion_read_make(const OrionCall *call, const OrionSource *source);

/*
 * The statement: begin writes "SELECT ... FROM ", the caller then writes where the
 * root's rows come from, and end writes the rest.
 */
extern void orion_read_begin(OrionStatement *st, const OrionRead *read);
extern void orion_read_end(OrionStatement *st, const OrionRead *read);

/* The same rows without their columns and without order and limit: to be counted. */
extern void orion_read_begin_count(OrionStatement *st);
extern void orion_read_end_count(OrionStatement *st, const OrionRead *read);

/* In select.c, for what is counted: whether EXISTS can tell that there are rows of a
 * child, and that test. */
extern bool orion_read_by_exists(const OrionRead *child);
extern void orion_read_exists(OrionStatement *st, const OrionRead *child);

/*
 * The columns (char *) of the root that the statement reads, also computed ones;
 * *all is set when it takes the whole row.
 */
extern List *orion_read_columns(const OrionRead *read, bool *all);

/* In select.c: number of the column of a spread child that goes by the name, or -1. */
extern int	orion_read_position(const OrionRead *read, const char *name);

/* The same for a child that is not spread: the name of what shows the column as it is, or NULL. */
extern const char *orion_read_shown(const OrionRead *child, const OrionName *name);

/* filter.c: " WHERE ...", " ORDER BY ..." over read->alias; nothing when empty. */
extern void orion_filter_where(OrionStatement *st, const OrionRead *read);
extern void orion_filter_order(OrionStatement *st, const OrionRead *read);

/* alias."column"->..., and the type it has */
extern Oid	orion_filter_field(OrionStatement *st, const OrionRead *read, const OrionName *name);

/* The embedded relation that goes by the name in the answer; NULL if there is none. */
extern OrionRead *orion_read_named(const OrionRead *read, const char *name);

/* The same, or by its own name although it has an alias (orion.rest_legacy_target_names). */
extern OrionRead *orion_read_child(const OrionRead *read, const char *name);

#endif							/* ORION_REST_READ_H */
