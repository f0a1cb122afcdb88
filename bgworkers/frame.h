/*
 * frame.h
 *	  Frames: how Orion's programs and the Postgres-side workers talk.
 *
 * Pure C over buffers; shared by the workers and the programs.  A frame is a
 * header of 16 bytes and a body of fields:
 *
 *	  u32 body length | u16 type | u16 flags | u64 id | { u32 length | bytes }*
 *
 * Both ends run on one machine and are built together, so integers are in host
 * order.  Each side still treats the other's bytes as hostile: lengths are
 * checked against the buffer and against a limit before anything is believed.
 */
#ifndef ORION_FRAME_H
#define ORION_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ORION_FRAME_HEADER	16
#define ORION_PROTOCOL		7	/* raised with any change of a frame's fields */

/*
 * Where executors find a gateway, below the data directory; the directory has mode
 * 0700.  The kinds of files: ".sock" is the socket.
 */
#define ORION_GATEWAY_DIRECTORY "orion"
extern void orion_gateway_path(int gateway, const char *kind, char *out, size_t size);

typedef enum OrionFrameType
{
	/* worker -> program, right after start */
	ORION_FRAME_CONFIG = 1,		/* fields: JSON text */

	/* executor -> gateway, right after connecting; id = pid */
	ORION_FRAME_HELLO = 10,		/* fields: u64 protocol */
	/* gateway -> executor; id = request number, given back in the answer */
	ORION_FRAME_REQUEST = 11,	/* fields: method, path, query, peer address,
								 * body, then pairs of header name (lower
								 * case) and value */
	ORION_FRAME_CANCEL = 12,	/* the client has gone: id will not come */
	/* executor -> gateway; either it or LATER */
	ORION_FRAME_RESPONSE = 13,	/* fields: u64 status, body, then pairs of
								 * header name and value; ":route" and ":role"
								 * are for metrics and the access log */
	/* instead of RESPONSE: an answer in parts, over the socket */
	ORION_FRAME_STREAM = 30,	/* fields: u64 status, then pairs of header
								 * name and value */
	ORION_FRAME_CHUNK = 31,		/* fields: bytes of the body */
	ORION_FRAME_STREAM_END = 32,	/* fields: u64 1 complete, 0 broken off;
									 * given back, without, once it was read */
	ORION_FRAME_LATER = 33,		/* to be sent again once the standby has
								 * replayed a position: u64 timeline, u64 LSN,
								 * u64 ms to wait at most */
	ORION_FRAME_WANT = 14,		/* send the claimed request id, too long for
								 * the ring */
	ORION_FRAME_GIVE_BACK = 37, /* the sender leaves and has not begun the
								 * request id that it wanted */
	/* gateway -> executor */
	ORION_FRAME_RING = 15,		/* the first: id = lane; brings the ring's
								 * memory and bell */
	ORION_FRAME_WAKE = 16,		/* there is something in the ring */

	/* gateway -> its worker, and the answer: /metrics */
	/* gateway -> another one, instead of HELLO, and the answer: likewise */
	ORION_FRAME_ASK = 17,
	ORION_FRAME_METRICS = 18,	/* fields: the other's part, Prometheus' text
								 * format */

	/*
	 * gateway -> its worker: a request waits for a standby's replay; and the
	 * answers, until ENOUGH says that none does any more
	 */
	ORION_FRAME_AWAIT = 34,
	ORION_FRAME_REPLAYED = 35,	/* fields: u64 timeline, u64 LSN */
	ORION_FRAME_ENOUGH = 36,

	/* courier -> relay, and the first and the last also gateway -> its worker */
	ORION_FRAME_READY = 20,		/* connected (gateway: listening); fields:
								 * position stored at the sink, or empty */
	ORION_FRAME_ACK = 21,		/* id = event number: it and all before it are
								 * settled */
	ORION_FRAME_REJECT = 22,	/* id = event number: refused for good;
								 * fields: reason */
	ORION_FRAME_TROUBLE = 23,	/* the sink is unreachable or slow; fields:
								 * text for operators, empty = all well again */
	/* relay -> courier */

	/*
	 * A position is "<window>:<seq>:<tag>": two decimal numbers, by which
	 * positions are ordered, and the window's tag of 16 hex digits.  With
	 * another tag it speaks of other events, whatever its numbers.
	 */
	ORION_FRAME_EVENT = 24,		/* id = event number (1, 2, ... per
								 * connection); fields: position, event id,
								 * type, aggregatetype, aggregateid,
								 * correlation id, occurred_at (RFC 3339),
								 * envelope JSON; then, any number of times,
								 * u64 number of a cache rule and its value
								 * behind '+', or '-' for none */
	ORION_FRAME_NOTED = 25,		/* id = event number: its REJECT is stored,
								 * and the event may be forgotten */

	/* the same two, for webhooks: attempts end in any order */
	ORION_FRAME_DELIVER = 30,	/* id = number of the attempt (1, 2, ... per
								 * connection); fields: message id, URL,
								 * secrets (separated by spaces), allowed
								 * networks (by commas), u64 1 = plain HTTP
								 * too, u64 timeout in ms, body */
	ORION_FRAME_DELIVERED = 31, /* the attempt is over; fields: u64 HTTP
								 * status (0: no answer), u64 Retry-After in
								 * s, u64 duration in ms, what went wrong,
								 * beginning of the answer's body (UTF-8) */

	/* courier -> consumer: a message of a queue, not acknowledged yet */
	ORION_FRAME_MESSAGE = 40,	/* id = number of the delivery (1, 2, ... per
								 * process); fields: u64 flags, message id,
								 * exchange, routing key, JSON of the other
								 * properties and headers, body */
	/* consumer -> courier */
	ORION_FRAME_DONE = 41,		/* id = number of the delivery: acknowledge it */
	ORION_FRAME_RETRY = 42,		/* back to the queue after a pause; fields:
								 * u64 ms */
	ORION_FRAME_REFUSE = 43,	/* the broker may do with it what it does with
								 * refused ones */
} OrionFrameType;

#define ORION_REQUEST_WAITED		1	/* flag of a REQUEST: never LATER
										 * again */

#define ORION_MESSAGE_REDELIVERED	1	/* flags of a MESSAGE */
#define ORION_MESSAGE_HAS_ID		2
#define ORION_MESSAGE_TOO_LONG		4	/* its body was left out */

/* A received frame; body points into the buffer it was parsed from. */
typedef struct OrionFrame
{
	uint16_t	type;
	uint16_t	flags;
	uint64_t	id;
	const uint8_t *body;
	uint32_t	len;
	uint32_t	at;				/* read position of orion_frame_get */
} OrionFrame;

/* A growable byte queue; data[start .. end) is live. Zero-initialise. malloc'ed. */
typedef struct OrionBuffer
{
	uint8_t    *data;
	size_t		start;
	size_t		end;
	size_t		cap;
	size_t		frame;			/* start of the frame being written */
	bool		failed;			/* out of memory, or a frame over 4 GiB */
} OrionBuffer;

extern void orion_buffer_free(OrionBuffer *buf);
extern bool orion_buffer_reserve(OrionBuffer *buf, size_t room);
extern void orion_buffer_consume(OrionBuffer *buf, size_t n);

static inline size_t
orion_buffer_len(const OrionBuffer *buf)
{
	return buf->end - buf->start;
}

/* Writing: begin, put..., end. Errors are sticky in buf->failed. */
extern void orion_frame_begin(OrionBuffer *buf, OrionFrameType type, uint64_t id);
extern void orion_frame_put(OrionBuffer *buf, const void *bytes, size_t len);
extern void orion_frame_put_str(OrionBuffer *buf, const char *str);
extern void orion_frame_put_u64(OrionBuffer *buf, uint64_t value);
extern void orion_frame_end(OrionBuffer *buf);

/*
 * Parses the frame at data.  Returns the bytes it takes (> 0), 0 when more are
 * needed, -1 when its body is longer than max: the peer is broken, hang up.
 */
extern long orion_frame_parse(const uint8_t *data, size_t len, size_t max, OrionFrame *frame);

/*
 * The next field.  False at the end and on a length that overruns the body;
 * orion_frame_done tells the two apart.  str is not terminated.
 */
extern bool orion_frame_get(OrionFrame *frame, const char **str, size_t *len);
extern bool orion_frame_get_u64(OrionFrame *frame, uint64_t *value);
extern bool orion_frame_done(const OrionFrame *frame);

/*
 * Non-blocking socket I/O.  fill: bytes read, 0 at end of file, -1 when nothing
 * is there now, -2 on error.  flush: true when all is written or the socket is
 * full (see orion_buffer_len), false on error.
 */
extern long orion_buffer_fill(OrionBuffer *buf, int fd);
extern bool orion_buffer_flush(OrionBuffer *buf, int fd);

#endif							/* ORION_FRAME_H */
