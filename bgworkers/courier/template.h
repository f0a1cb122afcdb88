/*
 * template.h
 *	  Expands templates of keys (codec/placeholder.h), which were checked when the settings
 *	  were read.
 */
#ifndef ORION_COURIER_TEMPLATE_H
#define ORION_COURIER_TEMPLATE_H

#include "codec/placeholder.h"
#include "queue.h"

/* Appends the expansion to out; false when memory is out. */
extern bool orion_template_expand(const char *string, const OrionEvent *event, OrionBuffer *out);

/*
 * The same for a glob pattern: what the event brings in matches itself only,
 * whatever characters it holds.
 */
extern bool orion_template_expand_glob(const char *string, const OrionEvent *event, OrionBuffer *out);

#endif							/* ORION_COURIER_TEMPLATE_H */
