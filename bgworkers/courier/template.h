/*
 * template.h
 *	  Keys made of an event: "user:profile:{aggregateid}".
 *
 * Placeholders are {id}, {type}, {aggregatetype}, {aggregateid} and
 * {correlationid}; a brace that opens anything else is an error when the settings
 * are read, never later.
 */
#ifndef ORION_COURIER_TEMPLATE_H
#define ORION_COURIER_TEMPLATE_H

#include "queue.h"

/* False with the offending part in err. *fixed: it has no placeholder. */
extern bool orion_template_check(const char *string, bool *fixed, char *err, size_t size);

/* Appends the expansion to out; false when memory is out. */
extern bool orion_template_expand(const char *string, const OrionEvent *event, OrionBuffer *out);

/*
 * The same for a glob pattern: what the event brings in matches itself only,
 * whatever characters it holds.
 */
extern bool orion_template_expand_glob(const char *string, const OrionEvent *event, OrionBuffer *out);

#endif							/* ORION_COURIER_TEMPLATE_H */
