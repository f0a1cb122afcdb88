/*
 * reference.c
 *	  References of a batch's operation to the answers of earlier ones.
 *
 * A reference is a whole JSON string in a body that begins with "$", or the value of
 * a filter in a query string that begins with a bare "$" (one that is percent-encoded
 * is a dollar sign).  What it stands for comes from the database and so
 * perhaps from strangers: it is put in as one value and can become neither an
 * operator nor a second filter.  Therefore a query string takes references only
 * where the whole value of a comparison is expected, and never behind a quote.
 */
#include "postgres.h"

#include <ctype.h>

#include "utils/builtins.h"
#include "utils/json.h"

#include "rest/error.h"
#include "rest/json_text.h"
#include "rest/reference.h"

#define NAME_CHARACTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"

/* A value of an answer: JSON text. */
typedef struct Slice
{
	const char *start;
	const char *end;
} Slice;

static void
refuse_reference(const char *text, size_t len, const char *details)
{
	orion_refuse(400, "ORION400", psprintf("Invalid reference \"%s\"", pnstrdup(text, len)), details,
				 "A reference is \"$1.column\" or \"$id.column\"; text that begins with a dollar sign is written with two.");
}

/* How long the reference at text is: $ and names between dots. */
static size_t
length_of(const char *text)
{
	size_t		len = 1 + strspn(text +1, NAME_CHARACTERS);

	while (text[len] == '.' && strspn(text +len + 1, NAME_CHARACTERS) > 0)
		len += 1 + strspn(text +len + 1, NAME_CHARACTERS);
	return len;
}

/* The operation it is about, which must be one before "at". */
static int
operation_of(const OrionOperation *operations, int at, const char *text, size_t len)
{
	size_t		n = strspn(text +1, NAME_CHARACTERS);
	char	   *name = pnstrdup(text +1, n);

	if (n == 0 || length_of(text) != len)
		refuse_reference(text, len, NULL);
	if (strspn(name, "0123456789") == n && n < 6 && atoi(name) >= 1 && atoi(name) <= at)
		return atoi(name) - 1;
	for (int i = 0; i < at; i++)
		if (operations[i].id && strcmp(operations[i].id, name) == 0)
			return i;
	refuse_reference(text, len, "There is no such operation before this one.");
	pg_unreachable();
}

/* The n-th element of an array, or NULL. */
static const char *
element(const char *c, int n)
{
	c = orion_json_skip_space(c + 1);
	for (; *c != ']'; n--)
	{
		if (n == 0)
			return c;
		c = orion_json_skip_space(orion_json_skip_value(c));
		if (*c == ',')
			c = orion_json_skip_space(c + 1);
	}
	return NULL;
}

/* A member of an object, or NULL. */
static const char *
member(const char *c, const char *key)
{
	c = orion_json_skip_space(c + 1);
	while (*c != '}')
	{
		const char *end = orion_json_skip_string(c);
		char	   *name = orion_json_key_text(c, end);

		c = orion_json_skip_space(orion_json_skip_space(end) + 1);
		if (strcmp(name, key) == 0)
			return c;
		c = orion_json_skip_space(orion_json_skip_value(c));
		if (*c == ',')
			c = orion_json_skip_space(c + 1);
	}
	return NULL;
}

/* One step into a value; of an array without a number, into its first element. */
static const char *
step(const char *c, const char *key)
{
	if (*c == '[')
	{
		bool		number = strspn(key, "0123456789") == strlen(key) && strlen(key) < 8;

		c = element(c, number ? atoi(key) : 0);
		if (number || c == NULL)
			return c;
	}
	return *c == '{' ? member(c, key) : NULL;
}

static Slice
look_up(const OrionOperation *operations, int at, const char *text, size_t len)
{
	const OrionOperation *operation = &operations[operation_of(operations, at, text, len)];
	const char *key = text +1 + strspn(text +1, NAME_CHARACTERS);
	const char *c = operation->response.body.data;
	Slice		slice;

	if (!operation->json)
		refuse_reference(text, len, "That operation has no answer in JSON.");
	c = orion_json_skip_space(c);
	while (key < text +len)
	{
		size_t		n = strspn(++key, NAME_CHARACTERS);

		c = step(c, pnstrdup(key, n));
		if (c == NULL)
			refuse_reference(text, len, "Its answer has no such value.");
		key += n;
	}
	slice.start = c;
	slice.end = orion_json_skip_value(c);
	return slice;
}

/* --- bodies -------------------------------------------------------------------------- */

static bool
is_key(const char *end)
{
	return *orion_json_skip_space(end) == ':';
}

/* A string value that begins with $, from its opening to its closing quote. */
static void
append_string(StringInfo out, const OrionOperation *operations, int at, const char *start, const char *end)
{
	char	   *text = orion_json_key_text(start, end);
	Slice		value;

	if (text[1] == '$')
	{
		escape_json(out, text +1);
		return;
	}
	value = look_up(operations, at, text, strlen(text));
	appendBinaryStringInfo(out, value.start, value.end - value.start);
}

char *
orion_reference_body(const OrionOperation *operations, int at)
{
	const char *c = operations[at].body;
	StringInfoData out;

	if (c == NULL || operations[at].literal)
		return unconstify(char *, c);
	initStringInfo(&out);
	while (*c)
	{
		const char *end = c + strcspn(c, "\"");

		appendBinaryStringInfo(&out, c, end - c);
		if (*end == '\0')
			break;
		c = end;
		end = orion_json_skip_string(c);
		if (c[1] == '$' && !is_key(end))
			append_string(&out, operations, at, c, end);
		else
			appendBinaryStringInfo(&out, c, end - c);
		c = end;
	}
	return out.data;
}

/* --- query strings ------------------------------------------------------------------- */

static const char *const comparisons[] = {"eq.", "neq.", "gt.", "gte.", "lt.", "lte.", "isdistinct."};

/* Does the text end in a comparison that begins at its start or behind a dot? */
static bool
ends_in_comparison(const char *start, const char *end, bool whole)
{
	if (whole && end - start > 4 && strncmp(start, "not.", 4) == 0)
		start += 4;
	for (int i = 0; i < lengthof(comparisons); i++)
	{
		const char *begin = end - strlen(comparisons[i]);

		if (begin < start || strncmp(begin, comparisons[i], strlen(comparisons[i])) != 0)
			continue;
		if (whole ? begin == start : begin > start && begin[-1] == '.')
			return true;
	}
	return false;
}

/* Where the innermost parenthesis that is open at the end was opened, or NULL. */
static const char *
open_parenthesis(const char *start, const char *end)
{
	int			closed = 0;

	while (end-- > start)
	{
		if (*end == ')')
			closed++;
		else if (*end == '(' && closed-- == 0)
			return end;
	}
	return NULL;
}

/* May a value stand here, and is it one of several, which need quotes? */
static bool
is_place(const char *start, const char *at, const char *behind, bool *quoted)
{
	const char *open = open_parenthesis(start, at);

	for (const char *c = start; c < at; c++)
		if (*c == '"' || *c == '\\' || *c == '%' || *c == '{' || *c == '[')
			return false;
	*quoted = open != NULL;
	if (open == NULL)
		return *behind == '\0' && ends_in_comparison(start, at, true);
	if (*behind != ',' && *behind != ')')
		return false;
	if (open - start >= 3 && strncmp(open - 3, "in.", 3) == 0)
		return at[-1] == '(' || at[-1] == ',';
	return ends_in_comparison(open, at, false);
}

static void
append_percent(StringInfo out, unsigned char c)
{
	if (c < 0x80 && isalnum(c))
		appendStringInfoChar(out, c);
	else
		appendStringInfo(out, "%%%02X", c);
}

static void
append_text(StringInfo out, const char *text, bool quoted)
{
	if (quoted)
		append_percent(out, '"');
	for (; *text; text ++)
	{
		if (quoted && (*text == '"' || *text == '\\'))
			append_percent(out, '\\');
		append_percent(out, *text);
	}
	if (quoted)
		append_percent(out, '"');
}

/* The text of a value for a filter: of a string, a number or a boolean. */
static char *
scalar_text(Slice value, const char *text, size_t len)
{
	if (*value.start == '"')
		return orion_json_key_text(value.start, value.end);
	if (*value.start == '{' || *value.start == '[' || *value.start == 'n')
		refuse_reference(text, len, "A filter takes a text, a number or a boolean.");
	return pnstrdup(value.start, value.end - value.start);
}

/* One parameter; look: with its references replaced, else only marked. */
static void
walk_parameter(OrionOperation *operations, int at, const char *parameter, StringInfo out)
{
	const char *value = strchr(parameter, '=');
	const char *c = parameter;
	const char *dollar;

	while ((dollar = strchr(c, '$')) != NULL)
	{
		size_t		len = length_of(dollar);
		bool		quoted;

		if (value == NULL || dollar < value || !is_place(value + 1, dollar, dollar + len, &quoted))
			refuse_reference(dollar, len, "A query string takes references as values of eq, neq, gt, gte, lt, lte, isdistinct and in only.");
		if (out)
		{
			appendBinaryStringInfo(out, c, dollar - c);
			append_text(out, scalar_text(look_up(operations, at, dollar, len), dollar, len), quoted);
		}
		else
			operations[operation_of(operations, at, dollar, len)].referred = true;
		c = dollar + len;
	}
	if (out)
		appendStringInfoString(out, c);
}

static void
walk_query(OrionOperation *operations, int at, const char *query, StringInfo out)
{
	char	   *rest = pstrdup(query);
	char	   *parameter;
	const char *joint = "";

	while ((parameter = strsep(&rest, "&")) != NULL)
	{
		if (out)
			appendStringInfoString(out, joint);
		walk_parameter(operations, at, parameter, out);
		joint = "&";
	}
}

char *
orion_reference_query(const OrionOperation *operations, int at, const char *query)
{
	StringInfoData out;

	initStringInfo(&out);
	walk_query(unconstify(OrionOperation *, operations), at, query, &out);
	return out.data;
}

static void
mark_body(OrionOperation *operations, int at)
{
	const char *c = operations[at].body;

	while (c && (c = strchr(c, '"')) != NULL)
	{
		const char *end = orion_json_skip_string(c);

		if (c[1] == '$' && c[2] != '$' && !is_key(end))
		{
			char	   *text = orion_json_key_text(c, end);

			operations[operation_of(operations, at, text, strlen(text))].referred = true;
		}
		c = end;
	}
}

void
orion_reference_mark(OrionOperation *operations, int at)
{
	const char *path = operations[at].path;
	const char *query = strchr(path, '?');
	const char *dollar = strchr(path, '$');

	if (dollar && (query == NULL || dollar < query))
		refuse_reference(dollar, length_of(dollar), "A path takes no references.");
	if (query)
		walk_query(operations, at, query + 1, NULL);
	if (!operations[at].literal)
		mark_body(operations, at);
}
