/*
 * prefer.h
 *	  What a client prefers (RFC 7240): the Prefer and Preference-Applied headers.
 */
#ifndef ORION_REST_PREFER_H
#define ORION_REST_PREFER_H

#include "postgres.h"

typedef enum OrionReturn
{
	ORION_RETURN_DEFAULT,
	ORION_RETURN_MINIMAL,
	ORION_RETURN_HEADERS,
	ORION_RETURN_REPRESENTATION,
} OrionReturn;

typedef enum OrionCount
{
	ORION_COUNT_NONE,
	ORION_COUNT_EXACT,
	ORION_COUNT_PLANNED,
	ORION_COUNT_ESTIMATED,
} OrionCount;

typedef enum OrionResolution
{
	ORION_RESOLUTION_DEFAULT,
	ORION_RESOLUTION_MERGE,
	ORION_RESOLUTION_IGNORE,
} OrionResolution;

typedef enum OrionHandling
{
	ORION_HANDLING_DEFAULT,
	ORION_HANDLING_STRICT,
	ORION_HANDLING_LENIENT,
} OrionHandling;

typedef enum OrionMissing
{
	ORION_MISSING_UNSAID,		/* the same as null */
	ORION_MISSING_DEFAULT,
	ORION_MISSING_NULL,
} OrionMissing;

typedef enum OrionTxPrefer
{
	ORION_TX_DEFAULT,
	ORION_TX_WANT_COMMIT,
	ORION_TX_WANT_ROLLBACK,
} OrionTxPrefer;

typedef struct OrionPrefer
{
	OrionReturn returns;
	OrionCount	count;
	OrionResolution resolution;
	OrionHandling handling;
	OrionTxPrefer tx;
	OrionMissing missing;
	bool		limits_affected;
	bool		max_affected_seen;	/* a number or not */
	int64		max_affected;	/* may be less than zero: whatever it affects
								 * is too much */
	const char *unknown;		/* preferences that are none, or NULL */
	const char *timezone;		/* or NULL */
} OrionPrefer;

struct OrionCall;

/* Reads all Prefer headers. */
extern void orion_prefer_read(struct OrionCall *call);

/* Refuses unknown ones where handling=strict is among them. */
extern void orion_prefer_check(const struct OrionCall *call);

/* Whether the client limits how many rows a request may change. */
extern bool orion_prefer_limits_affected(const struct OrionCall *call);

/* Refuses (400) that many rows where the client wants fewer. */
extern void orion_prefer_check_affected(const struct OrionCall *call, int64 rows);

/* Whether rows are counted for the client, and not guessed only. */
extern bool orion_prefer_counts(const struct OrionCall *call);

/* Preference-Applied, of what the kind of request takes heed of. */
extern void orion_prefer_applied(struct OrionCall *call);

/* Whether the transaction ends in a rollback. */
extern bool orion_prefer_rolls_back(const struct OrionCall *call);

#endif							/* ORION_REST_PREFER_H */
