/*
 * queue.c
 *	  The queue of waiting requests; see queue.h.
 */
#include "gateway/queue.h"

bool
orion_queue_push(OrionQueue *queue, OrionQueueItem *item, int64_t deadline)
{
	if (queue->count >= queue->max)
		return false;
	item->deadline = deadline;
	item->queued = true;
	item->next = NULL;
	item->prev = queue->last;
	if (queue->last)
		queue->last->next = item;
	else
		queue->first = item;
	queue->last = item;
	queue->count++;
	return true;
}

void
orion_queue_push_front(OrionQueue *queue, OrionQueueItem *item)
{
	item->queued = true;
	item->prev = NULL;
	item->next = queue->first;
	if (queue->first)
		queue->first->prev = item;
	else
		queue->last = item;
	queue->first = item;
	queue->count++;
}

OrionQueueItem *
orion_queue_pop(OrionQueue *queue)
{
	OrionQueueItem *item = queue->first;

	if (item)
		orion_queue_remove(queue, item);
	return item;
}

void
orion_queue_remove(OrionQueue *queue, OrionQueueItem *item)
{
	if (!item->queued)
		return;
	if (item->prev)
		item->prev->next = item->next;
	else
		queue->first = item->next;
	if (item->next)
		item->next->prev = item->prev;
	else
		queue->last = item->prev;
	item->prev = item->next = NULL;
	item->queued = false;
	queue->count--;
}

OrionQueueItem *
orion_queue_pop_expired(OrionQueue *queue, int64_t now)
{
	if (queue->first == NULL || queue->first->deadline > now)
		return NULL;
	return orion_queue_pop(queue);
}
