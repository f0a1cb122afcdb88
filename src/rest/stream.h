/*
 * stream.h
 *	  Rows as lines (NDJSON, CSV), sent while they are read.
 */
#ifndef ORION_REST_STREAM_H
#define ORION_REST_STREAM_H

#include "rest/call.h"
#include "rest/read.h"

/* Is this an answer that may go in parts? */
extern bool orion_stream_wanted(const OrionCall *call);

/* Answers with these rows: in one piece if they are few, in parts otherwise. */
extern void orion_stream_rows(OrionCall *call, const OrionRead *read);

#endif							/* ORION_REST_STREAM_H */
