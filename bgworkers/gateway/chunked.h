/*
 * chunked.h
 *	  The grammar of chunked bodies, RFC 9112 section 7.1, byte by byte.
 *
 * It decides nothing but whether the bytes are in the grammar and where the body ends: the
 * HTTP library reads the same bytes, with more patience.  Whoever reads a body in
 * two ways lets its sender smuggle a request past the other reader.  So no line
 * feed alone, no blanks around sizes, no signs; extensions are passed over, and trailer
 * fields too, but those of RFC 9110 section 6.5.1 that say what a message is, where it
 * goes or who sends it.
 */
#ifndef ORION_GATEWAY_CHUNKED_H
#define ORION_GATEWAY_CHUNKED_H

#include <stddef.h>
#include <stdint.h>

#define ORION_CHUNKS_MAX_EXTRA	4096	/* bytes of all extensions and trailer
										 * fields */

typedef enum OrionChunksState
{
	CHUNKS_SIZE,				/* the first: zero-initialise */
	CHUNKS_EXTENSION,
	CHUNKS_SIZE_END,			/* line feed wanted, as in all that end so */
	CHUNKS_DATA,
	CHUNKS_DATA_CR,
	CHUNKS_DATA_END,
	CHUNKS_TRAILER,				/* a line begins */
	CHUNKS_TRAILER_NAME,
	CHUNKS_TRAILER_VALUE,
	CHUNKS_TRAILER_END,
	CHUNKS_LAST_END,
	CHUNKS_DONE,
	CHUNKS_BAD,
} OrionChunksState;

typedef struct OrionChunks
{
	OrionChunksState state;
	uint64_t	left;			/* of the chunk's data, or its size so far */
	uint32_t	name;			/* of the trailer field, hashed */
	uint16_t	extra;			/* bytes of extensions and trailer fields */
	uint8_t		digits;			/* of the size */
} OrionChunks;

/*
 * Looks at the next bytes; returns how many of them belong to the body and are good.  Fewer than
 * len: the state is CHUNKS_DONE, and the others are the next request's, or CHUNKS_BAD.
 */
extern size_t orion_chunks_check(OrionChunks *chunks, const char *bytes, size_t len);

#endif							/* ORION_GATEWAY_CHUNKED_H */
