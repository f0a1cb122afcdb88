/*
 * queue.c
 *	  The ring of unconfirmed events; see queue.h.
 */
#include "queue.h"

#include <stdlib.h>
#include <string.h>

void
orion_queue_init(OrionQueue *queue)
{
	memset(queue, 0, sizeof(*queue));
	queue->head = queue->next = queue->tail = 1;
}

bool
orion_queue_has_room(const OrionQueue *queue)
{
	return queue->tail - queue->head < ORION_QUEUE_EVENTS && queue->bytes < ORION_QUEUE_BYTES;
}

OrionEvent *
orion_queue_at(const OrionQueue *queue, uint64_t number)
{
	if (number < queue->head || number >= queue->tail)
		return NULL;
	return queue->ring[number & (ORION_QUEUE_EVENTS - 1)];
}

static bool
take_fields(OrionFrame *frame, OrionEvent *event)
{
	OrionText  *fields[] = {
		&event->position, &event->id, &event->type, &event->aggregatetype, &event->aggregateid,
		&event->correlationid, &event->occurredat, &event->envelope
	};

	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
	{
		if (!orion_frame_get(frame, &fields[i]->str, &fields[i]->len))
			return false;
	}
	return orion_frame_done(frame) && event->type.len > 0;
}

bool
orion_queue_add(OrionQueue *queue, OrionFrame *frame)
{
	OrionEvent *event;
	OrionFrame	copy = *frame;

	if (frame->id != queue->tail || !orion_queue_has_room(queue))
		return false;
	event = calloc(1, sizeof(*event) + frame->len);
	if (event == NULL)
		return false;
	if (frame->len > 0)
		memcpy(event->data, frame->body, frame->len);
	copy.body = (uint8_t *) event->data;
	if (!take_fields(&copy, event))
	{
		free(event);
		return false;
	}
	event->number = frame->id;
	event->size = frame->len;
	queue->ring[queue->tail & (ORION_QUEUE_EVENTS - 1)] = event;
	queue->tail++;
	queue->bytes += event->size + sizeof(*event);
	return true;
}

uint64_t
orion_queue_drop_settled(OrionQueue *queue)
{
	uint64_t	before = queue->head;

	while (queue->head < queue->tail)
	{
		OrionEvent *event = orion_queue_at(queue, queue->head);

		if (!event->settled)
			break;
		queue->ring[queue->head & (ORION_QUEUE_EVENTS - 1)] = NULL;
		queue->bytes -= event->size + sizeof(*event);
		free(event);
		queue->head++;
	}
	if (queue->next < queue->head)
		queue->next = queue->head;
	return queue->head - before;
}

void
orion_queue_rewind(OrionQueue *queue)
{
	queue->next = queue->head;
}

/* One numeric part up to (not including) stop, or to the end when stop is 0. */
static bool
parse_part(OrionText *string, char stop, uint64_t *value)
{
	size_t		i;

	*value = 0;
	for (i = 0; i < string->len && string->str[i] != stop; i++)
	{
		unsigned	digit = (unsigned char) string->str[i] - '0';

		if (digit > 9 || *value > (UINT64_MAX - digit) / 10)
			return false;
		*value = *value * 10 + digit;
	}
	if (i == 0 || (stop != 0) != (i < string->len))
		return false;
	string->str += i + (stop != 0);
	string->len -= i + (stop != 0);
	return true;
}

bool
orion_position_compare(OrionText a, OrionText b, int *order)
{
	uint64_t	window_a,
				window_b,
				seq_a,
				seq_b;

	if (!parse_part(&a, ':', &window_a) || !parse_part(&a, 0, &seq_a) ||
		!parse_part(&b, ':', &window_b) || !parse_part(&b, 0, &seq_b))
		return false;
	if (window_a != window_b)
		*order = window_a < window_b ? -1 : 1;
	else
		*order = seq_a < seq_b ? -1 : seq_a > seq_b;
	return true;
}
