/*
 * topic.h
 *	  Event types and the patterns that select them, as AMQP topics (AMQP 0-9-1,
 *	  section 3.1.3.3).
 *
 * A type is a list of words with dots between them: user.created.  In a pattern
 * the word * stands for exactly one word and # for any number of words, also
 * none.  Pure C; shared by the relay and the courier.
 */
#ifndef ORION_TOPIC_H
#define ORION_TOPIC_H

#include <stdbool.h>

#define ORION_TOPIC_MAX		255 /* bytes; AMQP's limit for a routing key */

/*
 * True when the type matches the pattern.  Both are terminated by NUL and need
 * not be valid.  Takes at most length(pattern) * length(type) steps.
 */
extern bool orion_topic_match(const char *pattern, const char *type);

/*
 * Why this is no type (of an event) or pattern: a constant text that completes
 * "invalid event type: ...".  NULL when it is one.
 */
extern const char *orion_topic_type_error(const char *type);
extern const char *orion_topic_pattern_error(const char *pattern);

#endif							/* ORION_TOPIC_H */
