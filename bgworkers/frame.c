/*
 * frame.c
 *	  Frames over byte buffers and non-blocking sockets; see frame.h.
 *
 * No Postgres header, no error but a return value.
 */
#include "frame.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_CHUNK	65536		/* a socket buffer's usual worth */

void
orion_buffer_free(OrionBuffer *buf)
{
	free(buf->data);
	memset(buf, 0, sizeof(*buf));
}

/* Makes room for that many bytes behind end; false when memory is out. */
bool
orion_buffer_reserve(OrionBuffer *buf, size_t room)
{
	size_t		cap;
	uint8_t    *data;

	if (buf->failed)
		return false;
	if (buf->start > 0 && buf->end + room > buf->cap)
	{
		memmove(buf->data, buf->data + buf->start, buf->end - buf->start);
		buf->end -= buf->start;
		buf->frame -= buf->frame >= buf->start ? buf->start : buf->frame;
		buf->start = 0;
	}
	if (buf->end + room <= buf->cap)
		return true;
	cap = buf->cap ? buf->cap : 4096;
	while (cap < buf->end + room)
		cap *= 2;
	data = realloc(buf->data, cap);
	if (data == NULL)
	{
		buf->failed = true;
		return false;
	}
	buf->data = data;
	buf->cap = cap;
	return true;
}

void
orion_buffer_consume(OrionBuffer *buf, size_t n)
{
	buf->start += n;
	if (buf->start == buf->end)
		buf->start = buf->end = 0;
}

static void
append(OrionBuffer *buf, const void *bytes, size_t len)
{
	if (len == 0)
		return;
	if ((buf->failed || buf->cap - buf->end < len) && !orion_buffer_reserve(buf, len))
		return;
	memcpy(buf->data + buf->end, bytes, len);
	buf->end += len;
}

void
orion_frame_begin(OrionBuffer *buf, OrionFrameType type, uint64_t id)
{
	uint32_t	len = 0;
	uint16_t	type16 = type;
	uint16_t	flags = 0;

	if (!orion_buffer_reserve(buf, ORION_FRAME_HEADER))
		return;
	buf->frame = buf->end;
	append(buf, &len, 4);
	append(buf, &type16, 2);
	append(buf, &flags, 2);
	append(buf, &id, 8);
}

void
orion_frame_put(OrionBuffer *buf, const void *bytes, size_t len)
{
	uint32_t	len32 = len;

	if (len > UINT32_MAX)
	{
		buf->failed = true;
		return;
	}
	append(buf, &len32, 4);
	append(buf, bytes, len);
}

void
orion_frame_put_str(OrionBuffer *buf, const char *str)
{
	orion_frame_put(buf, str, str ? strlen(str) : 0);
}

void
orion_frame_put_u64(OrionBuffer *buf, uint64_t value)
{
	orion_frame_put(buf, &value, sizeof(value));
}

void
orion_frame_end(OrionBuffer *buf)
{
	size_t		len;
	uint32_t	len32;

	if (buf->failed)
		return;
	len = buf->end - buf->frame - ORION_FRAME_HEADER;
	if (len > UINT32_MAX)
	{
		buf->failed = true;
		return;
	}
	len32 = len;
	memcpy(buf->data + buf->frame, &len32, 4);
}

long
orion_frame_parse(const uint8_t *data, size_t len, size_t max, OrionFrame *frame)
{
	if (len < ORION_FRAME_HEADER)
		return 0;
	memset(frame, 0, sizeof(*frame));
	memcpy(&frame->len, data, 4);
	memcpy(&frame->type, data + 4, 2);
	memcpy(&frame->flags, data + 6, 2);
	memcpy(&frame->id, data + 8, 8);
	if (frame->len > max)
		return -1;
	if (len - ORION_FRAME_HEADER < frame->len)
		return 0;
	frame->body = data + ORION_FRAME_HEADER;
	return (long) ORION_FRAME_HEADER + frame->len;
}

bool
orion_frame_get(OrionFrame *frame, const char **str, size_t *len)
{
	uint32_t	len32;

	if (frame->len - frame->at < 4)
		return false;
	memcpy(&len32, frame->body + frame->at, 4);
	if (frame->len - frame->at - 4 < len32)
		return false;
	*str = (const char *) frame->body + frame->at + 4;
	*len = len32;
	frame->at += 4 + len32;
	return true;
}

bool
orion_frame_get_u64(OrionFrame *frame, uint64_t *value)
{
	const char *str;
	size_t		len;

	if (!orion_frame_get(frame, &str, &len) || len != sizeof(*value))
		return false;
	memcpy(value, str, sizeof(*value));
	return true;
}

bool
orion_frame_done(const OrionFrame *frame)
{
	return frame->at == frame->len;
}

long
orion_buffer_fill(OrionBuffer *buf, int fd)
{
	ssize_t		n;

	if (!orion_buffer_reserve(buf, READ_CHUNK))
		return -2;
	do
		n = recv(fd, buf->data + buf->end, buf->cap - buf->end, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN || errno == EWOULDBLOCK ? -1 : -2;
	buf->end += n;
	return n;
}

bool
orion_buffer_flush(OrionBuffer *buf, int fd)
{
	while (orion_buffer_len(buf) > 0)
	{
		ssize_t		n = send(fd, buf->data + buf->start, orion_buffer_len(buf), MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n >= 0)
			orion_buffer_consume(buf, n);
		else if (errno == EAGAIN || errno == EWOULDBLOCK)
			return true;
		else if (errno != EINTR)
			return false;
	}
	return !buf->failed;
}

void
orion_gateway_path(int gateway, const char *kind, char *out, size_t size)
{
	if (gateway == 0)
		snprintf(out, size, ORION_GATEWAY_DIRECTORY "/gateway%s", kind);
	else
		snprintf(out, size, ORION_GATEWAY_DIRECTORY "/gateway-%d%s", gateway, kind);
}
