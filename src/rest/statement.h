/*
 * statement.h
 *	  Builds a statement from the parse tree and the catalog.
 *
 * Identifiers go through orion_statement_name and values become parameters:
 * there is no other way for a byte of a request into the text.
 */
#ifndef ORION_REST_STATEMENT_H
#define ORION_REST_STATEMENT_H

#include "postgres.h"

#include "lib/stringinfo.h"

#include "rest/relation.h"

typedef struct OrionStatement
{
	StringInfoData text;
	int			nparams;
	int			room;
	Oid		   *types;
	Datum	   *values;
	char	   *nulls;
} OrionStatement;

extern void orion_statement_init(OrionStatement *st);

/* Constant text of ours only. */
extern void orion_statement_add(OrionStatement *st, const char *constant);
extern void orion_statement_name(OrionStatement *st, const char *identifier);

/* Appends $n. The second reads a value by the type's own input function. */
extern void orion_statement_param(OrionStatement *st, Oid type, Datum value);
extern void orion_statement_input(OrionStatement *st, Oid type, const char *value);

/* Clauses over a source known as "t"; each begins with a space, or is empty. */
extern void orion_statement_where(OrionStatement *st, const OrionSource *source,
								  const OrionFilter *filters);
extern void orion_statement_limit(OrionStatement *st, const OrionQuery *query);

/* Appends the type of that name, qualified; refuses what names no type. */
extern void orion_statement_type(OrionStatement *st, const char *name);

/*
 * Runs it by its kept plan; the result is in SPI's globals.  read_only: with the snapshot
 * at hand, which may be older than the locks.
 */
extern void orion_statement_run(OrionStatement *st, bool read_only);

#endif							/* ORION_REST_STATEMENT_H */
