/*
 * openapi.h
 *	  The root path: OpenAPI 2.0, or the function that stands in for it.
 */
#ifndef ORION_REST_OPENAPI_H
#define ORION_REST_OPENAPI_H

#include "rest/call.h"

extern void orion_openapi_serve(OrionCall *call);

#endif							/* ORION_REST_OPENAPI_H */
