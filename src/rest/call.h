/*
 * call.h
 *	  What the parts of the REST module know of the request at hand.
 *
 * A call lives on the stack of orion_rest_serve, its memory in the caller's context
 * (arena) or in the transaction's.
 */
#ifndef ORION_REST_CALL_H
#define ORION_REST_CALL_H

#include "portability/instr_time.h"
#include "utils/jsonb.h"

#include "rest/prefer.h"
#include "rest/query.h"
#include "rest/rest.h"
#include "rest/settings.h"

struct OrionSource;
struct ArrayType;

/* What Server-Timing tells about, in order. */
typedef enum OrionStage
{
	ORION_STAGE_JWT,
	ORION_STAGE_PARSE,
	ORION_STAGE_PLAN,
	ORION_STAGE_TRANSACTION,
	ORION_STAGE_RESPONSE,
	ORION_STAGES,
} OrionStage;

typedef enum OrionMethod
{
	ORION_GET,
	ORION_HEAD,
	ORION_POST,
	ORION_PATCH,
	ORION_PUT,
	ORION_DELETE,
	ORION_OTHER,
} OrionMethod;

/* Types in Accept that the database is asked for; more are not looked at. */
#define ORION_MAX_CUSTOM	8

typedef enum OrionFormat
{
	ORION_FORMAT_JSON,
	ORION_FORMAT_CSV,
	ORION_FORMAT_NDJSON,		/* a row a line */
	ORION_FORMAT_GEOJSON,
	ORION_FORMAT_CUSTOM,		/* made by an aggregate of the database */
	ORION_FORMAT_RAW,			/* the scalar of a function as it is */
} OrionFormat;

/* A type in Accept that the database is asked for, or its plan. */
typedef struct OrionCandidate
{
	const char *type;
	bool		plan;
	bool		plan_json;
	const char *options;
} OrionCandidate;

/* The form of the answer; see media.h. */
typedef struct OrionMedia
{
	OrionFormat format;
	bool		stripped;		/* members that are null are left out */
	bool		plan;			/* the plan of the statement instead */
	bool		plan_json;
	OrionCandidate candidates[ORION_MAX_CUSTOM];	/* best first; all are
													 * better than what is set
													 * here */
	int			ncandidates;
	bool		unresolved;		/* there is no other type to fall back on */
	const char *type;			/* of CUSTOM and RAW */
	const char *handler;		/* the aggregate, quoted; of GEOJSON its
								 * function */
	const char *row;			/* the row type it takes, quoted; NULL: any */
	const char *cast;			/* what makes text or bytea of CUSTOM and RAW */
	const char *cast_end;
	const char *options;		/* of the plan, as given */
} OrionMedia;

/* What a client prefers to wait for; see position.h. */
typedef struct OrionPosition
{
	const char *text;			/* as given; NULL: nothing */
	uint32		timeline;		/* 0: not said */
	uint64		lsn;
	int			seconds;		/* no longer than that; -1: not said */
} OrionPosition;

typedef struct OrionCall
{
	const OrionRequest *request;
	OrionResponse *response;
	OrionArena	arena;
	OrionMethod method;
	OrionPrefer prefer;			/* not for routes */
	OrionPosition position;
	const char *standby_allows; /* Allow of a standby that refuses this; NULL:
								 * just OPTIONS */
	const char *rpc;			/* name of the function called, or NULL */
	bool		preflight;		/* a browser asks whether it may ask */
	bool		upserts;		/* a row that exists already is no error */
	OrionMedia	media;
	bool		one;			/* Accept: one object instead of an array */
	const char *schema;			/* exposed schema of this request, once known */
	bool		authenticated;	/* its token names a role, and not the
								 * anonymous one */
	const char *role;			/* that its claims name; NULL: none */
	Jsonb	   *claims;			/* of that token; else NULL */
	Oid			relid;			/* table or view asked for, or InvalidOid */
	Oid			function;		/* that is called by name, or InvalidOid */
	bool		unkeyed;		/* does not take an Idempotency-Key */
	bytea	   *idempotency;	/* id of the key it has taken, or NULL */
	bool		operation;		/* is a part of a batch */
	int			operation_number;	/* of a batch: the one at hand, from 1; or
									 * 0 */
	instr_time	marks[ORION_STAGES];	/* when each stage began; zero: not at
										 * all */
	OrionQuery	query;			/* not for routes */
} OrionCall;

/* The value of a header (name in lower case), or NULL. */
extern const char *orion_call_header(const OrionCall *call, const char *name);

static inline bool
orion_call_reads(const OrionCall *call)
{
	return call->method == ORION_GET || call->method == ORION_HEAD;
}

/* Begins a stage, for Server-Timing. */
static inline void
orion_call_mark(OrionCall *call, OrionStage stage)
{
	if (orion_http_server_timing)
		INSTR_TIME_SET_CURRENT(call->marks[stage]);
}

/*
 * Between the plan and the transaction's own work: takes the snapshot and calls the
 * pre-request function.  hoisted: the settings of the function to be called, or NULL.
 */
extern void orion_call_enter(OrionCall *call, struct ArrayType *hoisted);

/* Notes what is served, for metrics and the access log: call once it is known to exist. */
extern void orion_call_serves(OrionCall *call, const char *prefix, const char *middle, const char *name);

/* The head of an answer in parts is complete: gives it to the sink. */
extern void orion_call_begin_stream(OrionCall *call);

/* Serves an operation of a batch; path: behind the prefix. */
extern void orion_call_operation(OrionCall *call, const char *path);

/* The resources; each answers within the transaction of the session. */
extern void orion_table_serve(OrionCall *call, const char *name);
extern void orion_write_serve(OrionCall *call, const struct OrionSource *source);
extern void orion_rpc_serve(OrionCall *call, const char *name);

/* OPTIONS: which methods there are. */
extern void orion_table_options(OrionCall *call, const char *name);
extern void orion_rpc_options(OrionCall *call, const char *name);

#endif							/* ORION_REST_CALL_H */
