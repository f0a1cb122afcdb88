/*
 * stream.c
 *	  Answers that are sent while an executor still makes them.
 *
 * Their bytes come in frames over the executor's socket.  Beyond HIGH bytes that a client
 * has not taken, nothing more is read from that socket, so that the executor
 * waits; the memory of an answer of any length is bounded by HIGH and one read.  An answer that
 * breaks off ends with the connection, without the last chunk (RFC 9112, section
 * 8): nobody takes it for a whole one.  A client that leaves, or takes less than
 * MIN_RATE, has its statement cancelled.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "gateway/stream.h"

#define HIGH		(256 * 1024)
#define LOW			(64 * 1024)
#define BLOCK		(32 * 1024)
#define MIN_RATE	4			/* bytes per millisecond */

static Stream *streams;

int
orion_gateway_stream_count(void)
{
	int			n = 0;

	for (Stream *stream = streams; stream; stream = stream->next)
		n += stream->slot >= 0;
	return n;
}

static void
wake(Stream *stream)
{
	if (!stream->waiting)
		return;
	stream->waiting = false;
	orion_gateway_server_resume(stream->client);
}

static ssize_t
read_stream(void *cls, uint64_t pos, char *buf, size_t max)
{
	Stream	   *stream = cls;
	size_t		len = orion_buffer_len(&stream->data);

	if (len == 0 && stream->ended)
		return stream->broken ? MHD_CONTENT_READER_END_WITH_ERROR : MHD_CONTENT_READER_END_OF_STREAM;
	if (len == 0)
	{
		stream->waiting = true;
		orion_gateway_library_suspend(stream->client->connection, stream->client->source.fd);
		return 0;
	}
	if (len > max)
		len = max;
	memcpy(buf, stream->data.data + stream->data.start, len);
	orion_buffer_consume(&stream->data, len);
	stream->taken += len;
	if (stream->executor && orion_buffer_len(&stream->data) < LOW)
		orion_gateway_handoff_pause(stream->executor, false);
	return (ssize_t) len;
}

/* The response goes: the client has it all, or is gone. */
static void
free_stream(void *cls)
{
	Stream	   *stream = cls;

	if (stream->slot >= 0)
		orion_gateway_handoff_stream_lost(stream->slot, stream->executor);
	if (stream->request)
		stream->request->stream = NULL;
	if (stream->prev)
		stream->prev->next = stream->next;
	else
		streams = stream->next;
	if (stream->next)
		stream->next->prev = stream->prev;
	orion_buffer_free(&stream->data);
	free(stream);
}

struct MHD_Response *
orion_gateway_stream_begin(Request *request, Executor *executor, int slot, Stream **made)
{
	Stream	   *stream = calloc(1, sizeof(*stream));
	struct MHD_Response *response;

	if (stream == NULL)
		return NULL;
	response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, read_stream, stream, free_stream);
	if (response == NULL)
	{
		free(stream);
		return NULL;
	}
	stream->request = request;
	stream->client = request->client;
	stream->executor = executor;
	stream->slot = slot;
	stream->since = orion_gateway.now;
	stream->next = streams;
	if (streams)
		streams->prev = stream;
	streams = stream;
	request->stream = stream;
	*made = stream;
	return response;
}

bool
orion_gateway_stream_add(Stream *stream, const char *bytes, size_t len)
{
	if (!orion_buffer_reserve(&stream->data, len))
		return false;
	memcpy(stream->data.data + stream->data.end, bytes, len);
	stream->data.end += len;
	if (stream->request)
		stream->request->answer_len += len;
	if (orion_buffer_len(&stream->data) > HIGH)
		orion_gateway_handoff_pause(stream->executor, true);
	wake(stream);
	return true;
}

void
orion_gateway_stream_end(Stream *stream, bool complete)
{
	stream->ended = true;
	stream->broken = !complete;
	stream->slot = -1;
	stream->executor = NULL;
	wake(stream);
}

void
orion_gateway_stream_abandon(Stream *stream)
{
	orion_buffer_consume(&stream->data, orion_buffer_len(&stream->data));
	stream->ended = stream->broken = true;
	wake(stream);
}

void
orion_gateway_stream_sweep(void)
{
	for (Stream *stream = streams; stream; stream = stream->next)
	{
		int64_t		elapsed = orion_gateway.now - stream->since;

		if (elapsed < orion_gateway.config.idle_timeout)
			continue;
		if (!stream->waiting && stream->taken < (uint64_t) elapsed * MIN_RATE)
			shutdown(stream->client->source.fd, SHUT_RDWR);
		stream->since = orion_gateway.now;
		stream->taken = 0;
	}
}
