/*
 * response.h
 *	  Puts an answer together.
 */
#ifndef ORION_REST_RESPONSE_H
#define ORION_REST_RESPONSE_H

#include "utils/jsonb.h"

#include "rest/rest.h"

#define ORION_JSON		"application/json; charset=utf-8"
#define ORION_JSON_ONE	"application/vnd.pgrst.object+json; charset=utf-8"

/* The text as jsonb, or NULL when it is none.  Needs no transaction. */
extern Jsonb *orion_json_parse(const char *text);

/*
 * Puts a header that SQL wrote in place of Orion's own of that name, or adds it
 * (Set-Cookie always).  False when it would break the answer.
 */
extern bool orion_response_put(OrionResponse *response, const char *name, const char *value);

/* Empties the answer; keeps nothing of what was put in before. */
extern void orion_response_reset(OrionResponse *response);

/* Copies name and value into the memory context of response->body. */
extern void orion_response_header(OrionResponse *response, const char *name, const char *value);

/* Adds to the header Vary. */
extern void orion_response_vary(OrionResponse *response, const char *name);

/*
 * {"code","message","details","hint"}, the last two NULL or not, and Proxy-Status;
 * code is not empty.
 */
extern void orion_response_error(OrionResponse *response, int status, const char *code,
								 const char *message, const char *details, const char *hint);

/*
 * Applies the settings response.status and response.headers of this
 * transaction; refuses malformed ones.
 */
extern void orion_response_settings(OrionResponse *response);

#endif							/* ORION_REST_RESPONSE_H */
