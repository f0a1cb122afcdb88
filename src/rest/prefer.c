/*
 * prefer.c
 *	  What a client prefers: reads Prefer, writes Preference-Applied.
 *
 * The first mention of a preference counts (RFC 7240, section 2); what is not
 * known is ignored unless handling=strict asks otherwise.
 */
#include "postgres.h"

#include "rest/call.h"
#include "rest/error.h"
#include "rest/position.h"
#include "rest/prefer.h"
#include "rest/response.h"
#include "rest/settings.h"

typedef struct Word
{
	const char *text;
	size_t		field;			/* of an int in OrionPrefer */
	int			value;
} Word;

/* In the order in which Preference-Applied names them. */
static const Word words[] = {
	{"resolution=merge-duplicates", offsetof(OrionPrefer, resolution), ORION_RESOLUTION_MERGE},
	{"resolution=ignore-duplicates", offsetof(OrionPrefer, resolution), ORION_RESOLUTION_IGNORE},
	{"missing=default", offsetof(OrionPrefer, missing), ORION_MISSING_DEFAULT},
	{"missing=null", offsetof(OrionPrefer, missing), ORION_MISSING_NULL},
	{"return=minimal", offsetof(OrionPrefer, returns), ORION_RETURN_MINIMAL},
	{"return=headers-only", offsetof(OrionPrefer, returns), ORION_RETURN_HEADERS},
	{"return=representation", offsetof(OrionPrefer, returns), ORION_RETURN_REPRESENTATION},
	{"count=exact", offsetof(OrionPrefer, count), ORION_COUNT_EXACT},
	{"count=planned", offsetof(OrionPrefer, count), ORION_COUNT_PLANNED},
	{"count=estimated", offsetof(OrionPrefer, count), ORION_COUNT_ESTIMATED},
	{"tx=commit", offsetof(OrionPrefer, tx), ORION_TX_WANT_COMMIT},
	{"tx=rollback", offsetof(OrionPrefer, tx), ORION_TX_WANT_ROLLBACK},
	{"handling=strict", offsetof(OrionPrefer, handling), ORION_HANDLING_STRICT},
	{"handling=lenient", offsetof(OrionPrefer, handling), ORION_HANDLING_LENIENT},
};

static int *
field_of(OrionPrefer *prefer, const Word *word)
{
	return (int *) ((char *) prefer + word->field);
}

static bool
read_word(OrionPrefer *prefer, const char *text)
{
	for (int i = 0; i < lengthof(words); i++)
		if (strcmp(words[i].text, text) == 0)
		{
			if (*field_of(prefer, &words[i]) == 0)
				*field_of(prefer, &words[i]) = words[i].value;
			return true;
		}
	return false;
}

/* The first mention counts, also when it is no number and so no limit. */
static void
read_max_affected(OrionPrefer *prefer, const char *text)
{
	char	   *end;

	if (prefer->max_affected_seen)
		return;
	prefer->max_affected_seen = true;
	errno = 0;
	prefer->max_affected = strtoi64(text, &end, 10);
	prefer->limits_affected = end != text &&*end == '\0' && errno == 0 && strchr(text, '+') == NULL;
}

static void
read_one(OrionCall *call, StringInfo unknown, char *text)
{
	OrionPrefer *prefer = &call->prefer;

	text	  +=strspn(text, " \t");

	for (size_t len = strlen(text); len > 0 && strchr(" \t", text[len - 1]); len--)
		text[		len - 1] = '\0';

	if (text[0] == '\0' || read_word(prefer, text) ||
		(!call->operation && orion_position_is_preference(text)))
		return;
	if (strncmp(text, "timezone=", 9) == 0)
	{
		if (prefer->timezone == NULL)
			prefer->timezone = text +9;

		return;
	}
	if (strncmp(text, "max-affected=", 13) == 0)
	{
		read_max_affected(prefer, text +13);
		return;
	}
	appendStringInfo(unknown, "%s%s", unknown->len > 0 ? ", " : "", text);
}

void
orion_prefer_read(OrionCall *call)
{
	OrionPrefer *prefer = &call->prefer;
	StringInfoData unknown;

	initStringInfo(&unknown);
	for (int i = 0; i < call->request->nheaders; i++)
	{
		char	   *rest;
		char	   *one;

		if (strcmp(call->request->headers[i].name, "prefer") != 0)
			continue;
		rest = pstrdup(call->request->headers[i].value);
		while ((one = strsep(&rest, ",")) != NULL)
			read_one(call, &unknown, one);
	}
	prefer->unknown = unknown.len > 0 ? unknown.data : NULL;
}

void
orion_prefer_check(const OrionCall *call)
{
	if (call->prefer.handling == ORION_HANDLING_STRICT && call->prefer.unknown)
		orion_refuse(400, "PGRST122", "Invalid preferences given with handling=strict",
					 psprintf("Invalid preferences: %s", call->prefer.unknown), NULL);
}

static bool
may_override(void)
{
	return orion_rest_tx_end == ORION_TX_COMMIT_ALLOW_OVERRIDE ||
		orion_rest_tx_end == ORION_TX_ROLLBACK_ALLOW_OVERRIDE;
}

bool
orion_prefer_rolls_back(const OrionCall *call)
{
	if (may_override() && call->prefer.tx != ORION_TX_DEFAULT)
		return call->prefer.tx == ORION_TX_WANT_ROLLBACK;
	return orion_rest_tx_end == ORION_TX_ROLLBACK || orion_rest_tx_end == ORION_TX_ROLLBACK_ALLOW_OVERRIDE;
}

bool
orion_prefer_limits_affected(const OrionCall *call)
{
	return call->prefer.handling == ORION_HANDLING_STRICT && call->prefer.limits_affected;
}

void
orion_prefer_check_affected(const OrionCall *call, int64 rows)
{
	if (orion_prefer_limits_affected(call) && rows > call->prefer.max_affected)
		orion_refuse(400, "PGRST124", "Query result exceeds max-affected preference constraint",
					 psprintf("The query affects " INT64_FORMAT " rows", rows), NULL);
}

bool
orion_prefer_counts(const OrionCall *call)
{
	return call->prefer.count == ORION_COUNT_EXACT || call->prefer.count == ORION_COUNT_ESTIMATED;
}

/* Whether a request of this kind takes heed of what the word is about. */
static bool
heeds(const OrionCall *call, const Word *word)
{
	if (word->field == offsetof(OrionPrefer, tx))
		return may_override();
	if (word->field == offsetof(OrionPrefer, resolution))
		return call->upserts && call->method == ORION_POST;
	if (word->field == offsetof(OrionPrefer, missing))
		return call->rpc == NULL && (call->method == ORION_POST || call->method == ORION_PATCH);
	if (word->field == offsetof(OrionPrefer, returns))
		return call->rpc == NULL && !orion_call_reads(call);
	return true;
}

void
orion_prefer_applied(OrionCall *call)
{
	OrionPrefer *prefer = &call->prefer;
	const char *position = orion_position_preference(call);
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < lengthof(words); i++)
		if (words[i].value != 0 && *field_of(prefer, &words[i]) == words[i].value && heeds(call, &words[i]))
			appendStringInfo(&text, "%s%s", text.len > 0 ? ", " : "", words[i].text);
	if (prefer->timezone)
		appendStringInfo(&text, "%stimezone=%s", text.len > 0 ? ", " : "", prefer->timezone);
	if (orion_prefer_limits_affected(call) &&
		(call->rpc || call->method == ORION_PATCH || call->method == ORION_DELETE))
		appendStringInfo(&text, "%smax-affected=" INT64_FORMAT, text.len > 0 ? ", " : "", prefer->max_affected);
	if (position)
		appendStringInfo(&text, "%s%s", text.len > 0 ? ", " : "", position);
	if (text.len > 0)
		orion_response_header(call->response, "Preference-Applied", text.data);
}
