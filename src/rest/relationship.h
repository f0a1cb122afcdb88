/*
 * relationship.h
 *	  How the rows of one relation belong to those of another.
 */
#ifndef ORION_REST_RELATIONSHIP_H
#define ORION_REST_RELATIONSHIP_H

#include "postgres.h"

#include "rest/relation.h"

typedef struct OrionRelationship
{
	bool		to_one;
	bool		from_key;		/* the foreign key is on the near side */
	bool		unique;			/* one row on either side */
	bool		legacy;			/* named by its constraint or column */
	Oid			target;			/* table or view at the far end */
	const char *constraint;
	int			n;				/* pairs of columns that are equal */
	const char **near;			/* of the origin */
	const char **far;			/* of the target; of the junction if there is
								 * one */
	/* many to many: the second half, from the junction to the target */
	Oid			junction;
	const char *second;			/* its constraint */
	int			m;
	const char **junction_columns;
	const char **target_columns;
	/* computed: a function of the origin's row */
	const char *function;		/* quoted */
} OrionRelationship;

/*
 * The relationship that select=target!hint(...) means (hint may be NULL).  Refuses
 * when there is none, or more than one.
 */
extern OrionRelationship *orion_relationship_find(const char *schema, const OrionSource *origin,
												  const char *target, const char *hint);

/* The columns (char *) that tell rows apart: the primary key, of a view those behind it. */
extern List *orion_relationship_key(Oid relid);

/* A foreign key of one column. */
typedef struct OrionLink
{
	const char *column;
	const char *target;			/* table, or view of it, in the same schema */
	const char *target_column;
} OrionLink;

/* Those (OrionLink *) of a table, or of the tables behind a view as far as it shows them. */
extern List *orion_relationship_links(Oid relid);

#endif							/* ORION_REST_RELATIONSHIP_H */
