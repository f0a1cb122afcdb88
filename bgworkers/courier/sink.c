/*
 * sink.c
 *	  What all drivers share: words for operators, refusals.
 */
#include "sink.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

bool
orion_sink_fail(OrionSink *sink, const char *format,...)
{
	va_list		args;

	va_start(args, format);
	vsnprintf(sink->why, sizeof(sink->why), format, args);
	va_end(args);
	return false;
}

void
orion_sink_blot(const char *string, const char *secret, char *out, size_t size)
{
	size_t		n = 0;
	size_t		secret_len = secret ? strlen(secret) : 0;

	while (*string && n + 4 < size)
	{
		if (secret_len > 0 && strncmp(string, secret, secret_len) == 0)
		{
			memcpy(out + n, "***", 3);
			n += 3;
			string += secret_len;
			continue;
		}
		out[n++] = *string >= 0x20 && *string < 0x7f ? *string : '?';
		string++;
	}
	out[n] = '\0';
}

static void
say_reject(OrionSink *sink, const OrionEvent *event, const char *reason)
{
	char		words[512];

	orion_sink_blot(reason, sink->secret, words, sizeof(words));
	orion_frame_begin(sink->out, ORION_FRAME_REJECT, event->number);
	orion_frame_put_str(sink->out, words);
	orion_frame_end(sink->out);
}

void
orion_sink_reject(OrionSink *sink, OrionEvent *event, const char *reason)
{
	if (event == NULL || event->settled)
		return;
	say_reject(sink, event, reason);
	event->settled = true;
}

void
orion_sink_refuse(OrionSink *sink, OrionEvent *event, const char *reason)
{
	if (event == NULL || event->settled || event->refused)
		return;
	say_reject(sink, event, reason);
	event->refused = true;
	sink->refusals++;
}

void
orion_sink_noted(OrionSink *sink, uint64_t number)
{
	OrionEvent *event = orion_queue_at(&sink->queue, number);

	if (event == NULL || !event->refused || event->noted)
		return;
	event->noted = true;
	sink->refusals--;
}

void
orion_sink_log(OrionSink *sink, const char *string)
{
	char		words[512];
	char		name[128];

	orion_sink_blot(string, sink->secret, words, sizeof(words));
	orion_sink_blot(sink->name ? sink->name : "", NULL, name, sizeof(name));
	fprintf(stderr, "orion-courier: sink \"%s\": %s\n", name, words);
}
