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
	event->rest = orion_text((const char *) frame->body + frame->at, frame->len - frame->at);
	while (!orion_frame_done(frame))
	{
		OrionText	scratch;
		uint64_t	number;

		if (!orion_frame_get_u64(frame, &number) || !orion_frame_get(frame, &scratch.str, &scratch.len))
			return false;
	}
	return event->type.len > 0;
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

static bool
is_tag(OrionText string)
{
	for (size_t i = 0; i < string.len; i++)
	{
		char		c = string.str[i];

		if (!(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'f'))
			return false;
	}
	return string.len == 16;
}

static bool
same_tag(const OrionPosition *a, const OrionPosition *b)
{
	return memcmp(a->tag.str, b->tag.str, a->tag.len) == 0;
}

bool
orion_position_parse(OrionText string, OrionPosition *position)
{
	if (!parse_part(&string, ':', &position->window) || !parse_part(&string, ':', &position->seq))
		return false;
	position->tag = string;
	return is_tag(string);
}

bool
orion_position_compare(OrionText a, OrionText b, int *order)
{
	OrionPosition x;
	OrionPosition y;

	if (!orion_position_parse(a, &x) || !orion_position_parse(b, &y))
		return false;
	if (x.window != y.window)
		*order = x.window < y.window ? -1 : 1;
	else if (same_tag(&x, &y))
		*order = x.seq < y.seq ? -1 : x.seq > y.seq;
	else
		return false;
	return true;
}

bool
orion_position_covers(OrionText a, OrionText b)
{
	OrionPosition x;
	OrionPosition y;

	return orion_position_parse(a, &x) && orion_position_parse(b, &y) &&
		x.window == y.window && same_tag(&x, &y) && y.seq <= x.seq;
}
