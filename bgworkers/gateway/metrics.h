/*
 * metrics.h
 *	  Counters of requests and their text for Prometheus.
 *
 * No socket and no library.  Requests are counted by route, method and status,
 * times by route.  A route is what an executor says it served ("/rest/v1/items"),
 * never the client's bytes, and there are no more than ORION_METRICS_ROUTES of
 * them: what comes later counts as "other".
 */
#ifndef ORION_GATEWAY_METRICS_H
#define ORION_GATEWAY_METRICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "frame.h"

#define ORION_METRICS_ROUTES	1000
#define ORION_METRICS_ROUTE_LEN 160 /* longer names are cut */

/* One of several processes: its samples get the label process. */
extern void orion_metrics_set_process(int process, int processes);

/* That label for samples without others, and with a comma for those with some; or empty. */
extern const char *orion_metrics_alone(void);
extern const char *orion_metrics_label(void);

/*
 * Puts texts of several processes into one: the samples of one name stand together.
 * Every text has the same names; those that the first one lacks are left out.
 */
extern void orion_metrics_merge(OrionBuffer *out, const OrionBuffer *texts, int n);

/* Counts a request that was answered. method: one of http.h's; microseconds. */
extern void orion_metrics_count(const char *route, size_t route_len, const char *method, int status, int64_t us);

/* Adds "name{label="value"} number" and the like; see Prometheus' text format 0.0.4. */
extern void orion_metrics_type(OrionBuffer *out, const char *name, const char *type, const char *help);
extern void orion_metrics_add(OrionBuffer *out, const char *fmt,...) __attribute__((format(printf, 2, 3)));

/* Adds what orion_metrics_count has counted. */
extern void orion_metrics_requests(OrionBuffer *out);

#endif							/* ORION_GATEWAY_METRICS_H */
