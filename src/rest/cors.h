/*
 * cors.h
 *	  Headers of every answer that are nobody's resource: CORS, timing, trace.
 */
#ifndef ORION_REST_CORS_H
#define ORION_REST_CORS_H

#include "rest/call.h"

/*
 * Answers the question a browser asks before it sends a request (Fetch standard,
 * CORS preflight); false when the request is none.
 */
extern bool orion_cors_preflight(OrionCall *call);

/* Access-Control-* of an answer to a request from another origin. */
extern void orion_cors_put(OrionCall *call);

/* Server-Timing of the stages that the call went through. */
extern void orion_timing_put(OrionCall *call);

/* Repeats the header that orion.http_trace_header names. */
extern void orion_trace_put(OrionCall *call);

#endif							/* ORION_REST_CORS_H */
