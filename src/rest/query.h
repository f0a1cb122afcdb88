/*
 * query.h
 *	  The query string of the REST dialect as a tree: filters, select, order,
 *	  limit and offset.
 *
 * Pure C over the caller's memory, without a Postgres header, so that it is
 * unit-tested and fuzzed alone.  Nothing here knows a table: names are checked
 * against the catalog, and values against types, by whoever builds a statement.
 * Everything in the tree is percent-decoded, terminated, free of NUL bytes and
 * valid UTF-8.
 */
#ifndef ORION_QUERY_H
#define ORION_QUERY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Limits on one query string: against deep recursion and quadratic work. */
#define ORION_QUERY_MAX_PARAMS	1000
#define ORION_QUERY_MAX_DEPTH	20
#define ORION_QUERY_MAX_ITEMS	10000

/* Memory for the tree. alloc may longjmp or return NULL; NULL ends the parse. */
typedef struct OrionArena
{
	void	   *(*alloc) (void *context, size_t size);
	void	   *context;
} OrionArena;

typedef enum OrionOperator
{
	ORION_OP_EQ,
	ORION_OP_NEQ,
	ORION_OP_GT,
	ORION_OP_GTE,
	ORION_OP_LT,
	ORION_OP_LTE,
	ORION_OP_LIKE,				/* value: with '*' already turned into '%' */
	ORION_OP_ILIKE,
	ORION_OP_MATCH,
	ORION_OP_IMATCH,
	ORION_OP_CS,
	ORION_OP_CD,
	ORION_OP_OV,
	ORION_OP_SL,
	ORION_OP_SR,
	ORION_OP_NXR,
	ORION_OP_NXL,
	ORION_OP_ADJ,
	ORION_OP_ISDISTINCT,
	ORION_OP_IN,				/* value list instead of value */
	ORION_OP_IS,				/* value: null, not_null, true, false or
								 * unknown, lower case */
	ORION_OP_FTS,				/* config: text search configuration or NULL */
	ORION_OP_PLFTS,
	ORION_OP_PHFTS,
	ORION_OP_WFTS,
} OrionOperator;

typedef enum OrionQuantifier
{
	ORION_QUANTIFIER_NONE,
	ORION_QUANTIFIER_ANY,		/* value is an array literal */
	ORION_QUANTIFIER_ALL,
} OrionQuantifier;

/* A step of a JSON path: -> or ->>, a key or a number. */
typedef struct OrionStep
{
	bool text;					/* ->> */
	bool		index;			/* number instead of key */
	int32_t		number;
	const char *key;
	struct OrionStep *next;
} OrionStep;

/* A column and a path into it. */
typedef struct OrionName
{
	const char *column;
	const char *embed;			/* order: the to-one relation, or NULL */
	OrionStep  *steps;
} OrionName;

typedef enum OrionFilterKind
{
	ORION_FILTER_TEST,
	ORION_FILTER_AND,
	ORION_FILTER_OR,
} OrionFilterKind;

typedef struct OrionFilter
{
	OrionFilterKind kind;
	bool		negated;
	struct OrionFilter *next;	/* sibling */
	struct OrionFilter *first;	/* members of AND and OR */
	/* TEST */
	OrionName	name;
	OrionOperator op;
	OrionQuantifier quantifier;
	const char *config;
	const char *value;			/* NULL for ORION_OP_IN */
	int			nvalues;
	const char **values;
} OrionFilter;

typedef enum OrionAggregate
{
	ORION_AGGREGATE_NONE,
	ORION_AGGREGATE_COUNT,
	ORION_AGGREGATE_SUM,
	ORION_AGGREGATE_AVG,
	ORION_AGGREGATE_MAX,
	ORION_AGGREGATE_MIN,
} OrionAggregate;

typedef struct OrionSelect
{
	const char *name;			/* "*" for all columns; NULL for count() */
	OrionStep  *steps;
	OrionAggregate aggregate;
	const char *aggregate_cast; /* of its result, or NULL */
	const char *alias;			/* or NULL */
	const char *cast;			/* type name, unchecked, or NULL */
	const char *hint;			/* embeds: foreign key or column, or NULL */
	bool		inner;
	bool		spread;
	bool		embed;			/* name is a relation; first may be NULL */
	struct OrionSelect *first;
	struct OrionSelect *next;
} OrionSelect;

typedef enum OrionNulls
{
	ORION_NULLS_DEFAULT,
	ORION_NULLS_FIRST,
	ORION_NULLS_LAST,
} OrionNulls;

typedef struct OrionOrder
{
	OrionName	name;
	bool		descending;
	OrionNulls	nulls;
	struct OrionOrder *next;
} OrionOrder;

/* A parameter that is none of the reserved words: a filter or an argument. */
typedef struct OrionParam
{
	const char *name;
	const char *value;
	bool		bare;			/* no = behind the name */
	struct OrionParam *next;
} OrionParam;

typedef struct OrionColumnName
{
	const char *name;
	struct OrionColumnName *next;
} OrionColumnName;

/* Names of embedded relations, from the outermost. */
typedef struct OrionPath
{
	const char *name;
	struct OrionPath *next;
} OrionPath;

/* What a query says of one embedded relation, as far as said in one parameter. */
typedef struct OrionScope
{
	OrionPath  *path;
	OrionFilter *filters;
	OrionOrder *order;
	bool		has_limit;
	bool		has_offset;
	int64_t		limit;
	int64_t		offset;
	struct OrionScope *next;
} OrionScope;

typedef struct OrionQuery
{
	OrionSelect *select;		/* NULL: all columns */
	bool		has_select;
	OrionFilter *filters;		/* and/or groups; params are added by
								 * orion_query_filter */
	OrionOrder *order;
	OrionColumnName *columns;	/* columns=, NULL when not given */
	OrionColumnName *on_conflict;
	OrionParam *params;			/* in the order given */
	OrionScope *scopes;			/* of embedded relations */
	bool		has_limit;
	bool		has_offset;
	int64_t		limit;			/* -1: less than zero was asked for */
	int64_t		offset;
} OrionQuery;

/* Which part of the grammar a text belongs to; see explain.h. */
typedef enum OrionQueryRule
{
	ORION_RULE_NONE,
	ORION_RULE_SELECT,
	ORION_RULE_FILTER,			/* operator and value */
	ORION_RULE_LOGIC,
	ORION_RULE_ORDER,
	ORION_RULE_NAMES,
	ORION_RULE_PATH,			/* the column of a filter */
} OrionQueryRule;

typedef struct OrionQueryError
{
	OrionQueryRule rule;
	const char *before;			/* what the rule reads in front of text */
	const char *what;			/* "filter", "select parameter", ... constant */
	const char *text;			/* decoded text that was parsed; may be NULL */
	size_t		at;				/* byte in it */
	const char *problem;		/* constant */
} OrionQueryError;

/*
 * Parses what is behind '?' (len bytes).  False with *error on text outside of
 * the grammar; *query is then undefined.
 */
extern bool orion_query_parse(const OrionArena *arena, const char *text, size_t len,
							  OrionQuery *query, OrionQueryError *error);

/* Parses a parameter as a filter ("age", "gte.18") and adds it to the query. */
extern bool orion_query_filter(const OrionArena *arena, const OrionParam *param,
							   OrionQuery *query, OrionQueryError *error);

/* Splits name=value&... only: form bodies, arguments of routes. */
extern bool orion_query_split(const OrionArena *arena, const char *text, size_t len,
							  OrionParam **params, OrionQueryError *error);

/*
 * Percent-decodes (plus: '+' is a space) into arena memory.  NULL on a broken
 * escape, a NUL byte or invalid UTF-8.
 */
extern char *orion_percent_decode(const OrionArena *arena, const char *text, size_t len,
								  bool plus);

/* Valid UTF-8 (RFC 3629) without NUL. */
extern bool orion_utf8_valid(const char *text, size_t len);

#endif							/* ORION_QUERY_H */
