/*
 * route.h
 *	  Named routes: a method, a path pattern, a function.
 */
#ifndef ORION_REST_ROUTE_H
#define ORION_REST_ROUTE_H

#include "rest/call.h"

/* Serves the request if a route matches its path; false, with nothing done, if none does. */
extern bool orion_route_serve(OrionCall *call);

#endif							/* ORION_REST_ROUTE_H */
