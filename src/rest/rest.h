/*
 * rest.h
 *	  HTTP requests over tables, views, functions and named routes.
 *
 * Knows nothing of sockets: an executor hands it a request and gets an answer.
 */
#ifndef ORION_REST_H
#define ORION_REST_H

#include "postgres.h"

#include "lib/stringinfo.h"

typedef struct OrionHeader
{
	const char *name;			/* lower case in requests */
	const char *value;
} OrionHeader;

struct OrionResponse;

/* Takes an answer in parts; both may end the request with an error. */
typedef struct OrionOutlet
{
	void		(*begin) (const struct OrionResponse *head);
	void		(*write) (const char *bytes, size_t len);
} OrionOutlet;

/* All strings are terminated, free of NUL bytes and valid UTF-8 except body,
 * which is length-counted and unchecked. */
typedef struct OrionRequest
{
	const char *method;
	const char *path;			/* as on the wire (percent-encoded), before
								 * the question mark */
	const char *query;			/* as on the wire, behind '?'; empty when none */
	const char *peer;			/* address of the client, text */
	const char *body;
	size_t		body_len;
	int			nheaders;
	const OrionHeader *headers;
	const OrionOutlet *sink;	/* NULL: answers are given in one piece */
	bool		waited;			/* was put aside for as long as it may be */
	bool		joins;			/* arrived before the transaction began that
								 * is open: may go on in it */
	bool		others_wait;	/* others do that will have arrived before the
								 * transaction of this one began */
} OrionRequest;

typedef struct OrionResponse
{
	int			status;
	StringInfoData body;
	int			nheaders;
	OrionHeader *headers;		/* palloc'ed */
	const char *route;			/* what was served, as "/rest/v1/items", for
								 * operators; NULL: nothing that exists */
	const char *role;			/* under which role; NULL: not known */
	bool		streamed;		/* the sink has it all */
	bool		broken;			/* an error came after that */
	bool		pristine;		/* nothing ran that could have left something
								 * in the session */
	int			wait_ms;		/* more than 0: this is no answer.  The
								 * request is to come again when the position
								 * below is replayed, or, as one that has
								 * waited, after that time. */
	uint32		wait_timeline;
	uint64		wait_lsn;
} OrionResponse;

/*
 * Serves one request in transactions of its own and never lets an error out: an
 * error is an answer.  Call outside of any transaction but one left open, in a memory context that
 * is reset afterwards; the response lives in it.
 */
extern void orion_rest_serve(const OrionRequest *request, OrionResponse *response);

/*
 * A request that others_wait for may leave its transaction open; it has been answered all
 * the same.  What is served next either joins it, or it is to be settled before.
 */
extern bool orion_rest_is_open(void);
extern void orion_rest_settle(void);

extern void orion_rest_init(void);

#endif							/* ORION_REST_H */
