/*
 * workers.h
 *	  The workers as operators see them, beside the view orion.workers.
 */
#ifndef ORION_WORKERS_H
#define ORION_WORKERS_H

#include "postgres.h"

#include "lib/stringinfo.h"

/* Adds states, restarts and lags in Prometheus' text format 0.0.4. Needs no transaction. */
extern void orion_workers_metrics(StringInfo out);

#endif							/* ORION_WORKERS_H */
