/*
 * call.h
 *	  What the parts of the REST module know of the request at hand.
 *
 * A call lives on the stack of orion_rest_serve, its memory in the caller's context
 * (arena) or in the transaction's.
 */
#ifndef ORION_REST_CALL_H
#define ORION_REST_CALL_H

#include "rest/prefer.h"
#include "rest/query.h"
#include "rest/rest.h"

struct OrionSource;

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

typedef struct OrionCall
{
	const OrionRequest *request;
	OrionResponse *response;
	OrionArena	arena;
	OrionMethod method;
	OrionPrefer prefer;			/* not for routes */
	const char *rpc;			/* name of the function called, or NULL */
	bool		upserts;		/* a row that exists already is no error */
	bool		one;			/* Accept: one object instead of an array */
	const char *schema;			/* exposed schema of this request, once known */
	bool		authenticated;	/* came with a valid token */
	OrionQuery	query;			/* not for routes */
} OrionCall;

/* The value of a header (name in lower case), or NULL. */
extern const char *orion_call_header(const OrionCall *call, const char *name);

static inline bool
orion_call_reads(const OrionCall *call)
{
	return call->method == ORION_GET || call->method == ORION_HEAD;
}

/* The resources; each answers within the transaction of the session. */
extern void orion_table_serve(OrionCall *call, const char *name);
extern void orion_write_serve(OrionCall *call, const struct OrionSource *source);
extern void orion_rpc_serve(OrionCall *call, const char *name);

#endif							/* ORION_REST_CALL_H */
