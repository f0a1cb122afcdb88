/*
 * amqp_frame.h
 *	  Frames of AMQP 0-9-1 from a broker: found in a buffer, checked, decoded.
 *
 * Pure C over buffers; librabbitmq decodes what is inside of a frame.
 */
#ifndef ORION_COURIER_AMQP_FRAME_H
#define ORION_COURIER_AMQP_FRAME_H

#include <stddef.h>
#include <stdint.h>

#include "rabbitmq_c.h"

/*
 * Decodes the frame at data (len > 0), which is at most max bytes long, memory from
 * pool; strings point into data.  Returns the bytes it takes, 0 when more are needed,
 * -1 when no broker would send such a thing.  May write within the frame: parse it once.
 *
 * A message's headers that are nested too deep, or are no table, are left out: whoever
 * may publish may have made them, and one such message must not end the connection
 * again and again.
 */
extern long orion_amqp_frame_parse(uint8_t *data, size_t len, size_t max, amqp_pool_t *pool, amqp_frame_t *frame);

#endif							/* ORION_COURIER_AMQP_FRAME_H */
