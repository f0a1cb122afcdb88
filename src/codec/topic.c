/*
 * topic.c
 *	  Matches event types against AMQP topic patterns; see topic.h.
 *
 * No Postgres header, no allocation, no recursion.
 */
#include "codec/topic.h"

#include <stddef.h>
#include <string.h>

static size_t
word_len(const char *at)
{
	return strcspn(at, ".");
}

static bool
word_is(const char *at, char wildcard)
{
	return at[0] == wildcard && (at[1] == '.' || at[1] == '\0');
}

static bool
words_match(const char *pattern, const char *type)
{
	size_t		len = word_len(pattern);

	return word_is(pattern, '*') ||
		(len == word_len(type) && memcmp(pattern, type, len) == 0);
}

/* The next word, NULL behind the last one. */
static const char *
next_word(const char *at)
{
	at += word_len(at);
	return *at == '.' ? at + 1 : NULL;
}

/*
 * Only the last # seen needs to be tried again: what an earlier one swallows
 * more, the later one can swallow as well.
 */
bool
orion_topic_match(const char *pattern, const char *type)
{
	const char *after_hash = NULL;	/* pattern behind the last #, to go on
									 * from */
	const char *hash_type = NULL;	/* the type's word that this # swallows
									 * next */
	bool		hash = false;

	while (type)
	{
		if (pattern && word_is(pattern, '#'))
		{
			hash = true;
			pattern = after_hash = next_word(pattern);
			hash_type = type;
		}
		else if (pattern && words_match(pattern, type))
		{
			pattern = next_word(pattern);
			type = next_word(type);
		}
		else if (hash)
		{
			pattern = after_hash;
			type = hash_type = next_word(hash_type);
		}
		else
			return false;
	}
	while (pattern && word_is(pattern, '#'))
		pattern = next_word(pattern);
	return pattern == NULL;
}

static const char *
text_error(const char *text)
{
	if (text[0] == '\0')
		return "it is empty";
	if (strlen(text) > ORION_TOPIC_MAX)
		return "it is longer than 255 bytes";
	for (const char *at = text; at; at = next_word(at))
	{
		if (word_len(at) == 0)
			return "a word between its dots is empty";
	}
	for (const char *at = text; *at; at++)
	{
		if ((unsigned char) *at <= ' ' || *at == 0x7f)
			return "it contains a space or a control character";
	}
	return NULL;
}

const char *
orion_topic_type_error(const char *type)
{
	if (strpbrk(type, "*#"))
		return "it contains * or #, which only patterns may";
	return text_error(type);
}

const char *
orion_topic_pattern_error(const char *pattern)
{
	const char *error = text_error(pattern);

	if (error)
		return error;
	for (const char *at = pattern; at; at = next_word(at))
	{
		size_t		len = word_len(at);

		if (len > 1 && strcspn(at, "*#") < len)
			return "* and # must be words of their own";
	}
	return NULL;
}
