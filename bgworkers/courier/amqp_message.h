/*
 * amqp_message.h
 *	  What goes to a broker, as frames in a buffer (AMQP 0-9-1, section 4.2): methods,
 *	  and an event as one basic.publish.
 */
#ifndef ORION_COURIER_AMQP_MESSAGE_H
#define ORION_COURIER_AMQP_MESSAGE_H

#include "queue.h"

#define ORION_AMQP_SHORT	255 /* longest short string: exchange, routing
								 * key, ids */

/*
 * Appends the frames to out: mandatory, persistent, application/json, with the
 * CloudEvents 1.0 headers.  frame_max is what was negotiated (0: no limit).
 * Returns NULL, or why the event can never be a message; out is then unchanged.
 * When memory is out, out->failed is set.
 */
extern const char *orion_amqp_message(OrionBuffer *out, const OrionEvent *event, uint16_t channel,
									  const char *exchange, const char *source, size_t frame_max);

/*
 * Appends a method's frame; method is the library's struct for id.  False when it
 * cannot be encoded, or memory is out (out->failed).
 */
extern bool orion_amqp_method(OrionBuffer *out, uint16_t channel, uint32_t id, void *method);

extern void orion_amqp_heartbeat(OrionBuffer *out);

/* A delivery is done with: acknowledged, or given back for another try or for good. */
extern void orion_amqp_ack(OrionBuffer *out, uint16_t channel, uint64_t tag);
extern void orion_amqp_reject(OrionBuffer *out, uint16_t channel, uint64_t tag, bool requeue);

/* Seconds since 1970 of an RFC 3339 date and time; false when it is none. */
extern bool orion_rfc3339_seconds(OrionText string, uint64_t *seconds);

#endif							/* ORION_COURIER_AMQP_MESSAGE_H */
