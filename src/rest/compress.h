/*
 * compress.h
 *	  Answers compressed with gzip (RFC 1952) for clients that take it.
 */
#ifndef ORION_REST_COMPRESS_H
#define ORION_REST_COMPRESS_H

#include "rest/call.h"

extern bool orion_http_compression; /* setting orion.http_compression */

/* What ends the entity tag of a compressed answer, inside its quotes. */
#define ORION_GZIP_TAG	"-gzip"

/* Compresses the body, once nothing will be added to it. */
extern void orion_compress(OrionCall *call);

#endif							/* ORION_REST_COMPRESS_H */
