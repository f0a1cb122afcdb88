/*
 * body.c
 *	  The body of a request: encoding, media type, JSON, the keys in it.
 *
 * Postgres' own json type says whether the text is JSON; what walks over it
 * afterwards relies on that and never on the client.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "rest/body.h"
#include "rest/csv.h"
#include "rest/error.h"
#include "rest/json_text.h"
#include "rest/media.h"

static void
refuse_json(const char *details)
{
	orion_refuse(400, "PGRST102", "Empty or invalid json", details, NULL);
}

/* Compares the media type in front of any parameter. */
static bool
is_type(const char *header, const char *type)
{
	size_t		len = strlen(type);

	return pg_strncasecmp(header, type, len) == 0 && strchr("; \t", header[len]) != NULL;
}

/* name=value&... as {"name":"value",...} */
static char *
form_json(const OrionCall *call, const char *text)
{
	OrionParam *param;
	OrionQueryError error;
	StringInfoData json;

	if (!orion_query_split(&call->arena, text, strlen(text), &param, &error))
		orion_refuse(400, "PGRST102", "invalid form data", error.problem, NULL);
	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	for (; param; param = param->next)
	{
		escape_json(&json, param->name);
		appendStringInfoChar(&json, ':');
		escape_json(&json, param->value);
		if (param->next)
			appendStringInfoChar(&json, ',');
	}
	appendStringInfoChar(&json, '}');
	return json.data;
}

/* What is wrong with the text, which ends in a NUL byte; or NULL. */
static char *
json_problem(const char *text)
{
	MemoryContext context = CurrentMemoryContext;
	char	   *volatile problem = NULL;

	PG_TRY();
	{
		pfree(DatumGetPointer(DirectFunctionCall1(json_in, CStringGetDatum(text))));
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		/* invalid, or nested deeper than the stack allows */
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_TO_CATEGORY(ERRCODE_INVALID_TEXT_REPRESENTATION) &&
			error->sqlerrcode != ERRCODE_STATEMENT_TOO_COMPLEX)
			PG_RE_THROW();
		FlushErrorState();
		problem = error->message;
	}
	PG_END_TRY();
	/* json_in holds no resource, so there is nothing to clean up */
	return problem;
}

/* With columns= PostgREST does not look into the body: PostgreSQL says what is wrong with it. */
static void
check_json(const OrionCall *call, const char *text)
{
	if (call->query.columns)
		pfree(DatumGetPointer(DirectFunctionCall1(json_in, CStringGetDatum(text))));
	else if (json_problem(text))
		refuse_json(NULL);
}

static void
refuse_kind(const OrionCall *call, const char *problem, const char *otherwise, const char *details)
{
	if (call->query.columns)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg_internal("%s", problem)));
	orion_refuse(400, "PGRST102", otherwise, details, NULL);
}

bool
orion_body_is_json(const char *text, size_t len)
{
	return strlen(text) == len && pg_verify_mbstr(PG_UTF8, text, len, true) && json_problem(text) == NULL;
}

bool
orion_body_is(const OrionCall *call, const char *type)
{
	const char *header = orion_call_header(call, "content-type");

	return header && is_type(header, type);
}

char *
orion_body_text(const OrionCall *call)
{
	size_t		len = call->request->body_len;

	if (len == 0)
		return NULL;
	if (memchr(call->request->body, '\0', len) ||
		!pg_verify_mbstr(PG_UTF8, call->request->body, len, true))
		refuse_json("The body is not valid UTF-8.");
	return pnstrdup(call->request->body, len);
}

char *
orion_body_json(const OrionCall *call)
{
	const char *type = orion_call_header(call, "content-type");
	char	   *text = orion_body_text(call);

	/* a form of no fields is an object of no keys */
	if (type && is_type(type, "application/x-www-form-urlencoded"))
		return form_json(call, text ? text : "");
	if (type && is_type(type, "text/csv"))
	{
		if (text == NULL)
			orion_refuse(400, "PGRST102", "There is no line of names", NULL, NULL);
		return orion_csv_json(text);
	}
	if (type && !is_type(type, "application/json") && !is_type(type, "application/vnd.pgrst.object+json") &&
		!is_type(type, "application/vnd.pgrst.array+json"))
		orion_refuse(400, "PGRST102", psprintf("Content-Type not acceptable: %s", orion_media_name(type)), NULL, NULL);
	if (text)
		check_json(call, text);
	return text;
}

static bool
has_key(List *keys, const char *key)
{
	ListCell   *lc;

	foreach(lc, keys)
		if (strcmp(lfirst(lc), key) == 0)
		return true;
	return false;
}

/* The keys of the object at *c, each once; *c ends up behind it. */
static List *
object_keys(const char **c)
{
	List	   *keys = NIL;
	const char *at = orion_json_skip_space(*c + 1);

	while (*at != '}')
	{
		const char *end = orion_json_skip_string(at);
		char	   *key = orion_json_key_text(at, end);

		if (!has_key(keys, key))
			keys = lappend(keys, key);
		if (list_length(keys) > MaxTupleAttributeNumber)
			orion_refuse(400, "PGRST102", "An object has too many keys", NULL, NULL);
		at = orion_json_skip_space(orion_json_skip_value(orion_json_skip_space(orion_json_skip_space(end) + 1)));
		if (*at == ',')
			at = orion_json_skip_space(at + 1);
	}
	*c = at + 1;
	return keys;
}

static bool
same_keys(List *a, List *b)
{
	ListCell   *lc;

	if (list_length(a) != list_length(b))
		return false;
	foreach(lc, a)
	{
		const char *key = lfirst(lc);

		/* objects nearly always name their keys in the same order */
		if (strcmp(key, list_nth(b, foreach_current_index(lc))) != 0 && !has_key(b, key))
			return false;
	}
	return true;
}

/* [{...},...] with the same keys each; others are fine when columns= was given */
static void
read_array(const OrionCall *call, const char *c, OrionBody *body)
{
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "orion body", ALLOCSET_DEFAULT_SIZES);
	bool		first = true;

	c = orion_json_skip_space(c + 1);
	while (*c != ']')
	{
		MemoryContext old;
		List	   *keys;
		const char *start = c;

		if (*c != '{')
			refuse_kind(call, "argument of json_to_recordset must be an array of objects", "All object keys must match", NULL);
		if (!first)
			old = MemoryContextSwitchTo(scratch);
		keys = object_keys(&c);
		if (first)
		{
			body->keys = keys;
			body->first = pnstrdup(start, c - start);
		}
		else
		{
			if (call->query.columns == NULL && !same_keys(body->keys, keys))
				orion_refuse(400, "PGRST102", "All object keys must match", NULL, NULL);
			MemoryContextSwitchTo(old);
			MemoryContextReset(scratch);
		}
		first = false;
		c = orion_json_skip_space(c);
		if (*c == ',')
			c = orion_json_skip_space(c + 1);
	}
	body->array = true;
	body->object = !first;
	MemoryContextDelete(scratch);
}

void
orion_body_check_kind(const OrionCall *call, const char *text)
{
	const char *c = text ? orion_json_skip_space(text) : "";

	if (*c == '\0')
		refuse_json(NULL);
	if (*c != '{' && *c != '[')
		refuse_kind(call, "cannot call json_to_recordset on a scalar", "Empty or invalid json", "An object was expected.");
}

void
orion_body_check_objects(const OrionCall *call, const char *text)
{
	const char *c = orion_json_skip_space(text);
	OrionBody	body;

	if (*c == '[')
		read_array(call, c, &body);
}

void
orion_body_read(const OrionCall *call, bool arrays, bool optional, OrionBody *body)
{
	const char *c;

	memset(body, 0, sizeof(OrionBody));
	body->text = orion_body_json(call);
	if (body->text == NULL)
	{
		if (!optional)
			refuse_json(NULL);
		body->text = "{}";
	}
	c = orion_json_skip_space(body->text);
	if (*c == '{')
	{
		body->object = true;
		body->keys = object_keys(&c);
	}
	else if (*c == '[' && arrays)
		read_array(call, c, body);
	else if (arrays && call->query.columns == NULL)
	{
		/* PostgREST: any other JSON is no rows */
		body->text = "[]";
		body->array = true;
	}
	else
		refuse_kind(call, "cannot call json_to_recordset on a scalar", "Empty or invalid json",
					arrays ? "An object or an array of objects was expected." : "An object was expected.");
}

void
orion_body_first(char *text, OrionBody *body)
{
	const char *c = orion_json_skip_space(text);
	const char *start;

	memset(body, 0, sizeof(OrionBody));
	body->text = text;

	if (*c == '[')
	{
		body->array = true;
		c = orion_json_skip_space(c + 1);
	}
	if (*c != '{')
		return;
	start = c;
	body->object = true;
	body->keys = object_keys(&c);
	body->first = body->array ? pnstrdup(start, c - start) : text;
}
