/*
 * track_private.h
 *	  What the files of the module share: settings of a tracked table, JSON of values.
 *
 * The settings of a tracked table are the arguments of its trigger: the prefix of the
 * event types, and an object with "columns" (absent: all), "private" and "version".  Names go
 * stale when a column is renamed, so the columns carry security labels besides,
 * which stay with them: "tracked" and "private".  A column is private when its label or
 * its name says so.
 */
#ifndef ORION_TRACK_PRIVATE_H
#define ORION_TRACK_PRIVATE_H

#include "postgres.h"

#include "access/htup.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "utils/jsonb.h"
#include "utils/relcache.h"

#define ORION_TRACK_FUNCTION	"track_row"
#define ORION_TRACK_PROVIDER	"orion" /* of the labels */
#define ORION_TRACK_PRIVATE		"private"
#define ORION_TRACK_TRACKED		"tracked"

/* A column whose changes matter. */
typedef struct OrionTrackedColumn
{
	AttrNumber	attnum;
	char	   *name;
	bool		private;		/* its values are in no event */
	bool		canonical;		/* of a key: equal values look the same in
								 * every session */
	bool		byval;
	int16		len;
	Oid			type;			/* of a domain the base type */
	FmgrInfo	to_jsonb;		/* for types that json.c does not know */
} OrionTrackedColumn;

typedef enum OrionTrackOperation
{
	ORION_TRACK_CREATED,
	ORION_TRACK_UPDATED,
	ORION_TRACK_DELETED,
	ORION_TRACK_TRUNCATED,
	ORION_TRACK_OPERATIONS,
} OrionTrackOperation;

typedef struct OrionTracking
{
	MemoryContext context;
	Oid			root;			/* the table that orion_track was called with */
	Datum		types[ORION_TRACK_OPERATIONS];	/* text */
	Datum		aggregatetype;	/* text: the prefix */
	int32		version;
	int			ncolumns;
	OrionTrackedColumn *columns;
	int			nkeys;			/* 0: no key, or it has a private column */
	OrionTrackedColumn *keys;
} OrionTracking;

/*
 * The settings for a trigger's relation, kept until something of it changes.
 * Valid until the end of the transaction.
 */
extern const OrionTracking *orion_tracking_find(const TriggerData *trigger);

/* Appends a value as to_jsonb() makes it. */
extern void orion_track_push_value(JsonbParseState **state, JsonbIteratorToken place,
								   OrionTrackedColumn *column, Datum value, bool isnull);

/* The same as text: a string without its quotes. */
extern char *orion_track_value_text(OrionTrackedColumn *column, Datum value);

/* Prepares a column for them; the FmgrInfo lives in the current context. */
extern void orion_track_prepare_column(OrionTrackedColumn *column);

extern void orion_track_push_key(JsonbParseState **state, const char *key);
extern void orion_track_push_string(JsonbParseState **state, JsonbIteratorToken place, const char *value);

extern void orion_tracking_init(void);

#endif							/* ORION_TRACK_PRIVATE_H */
