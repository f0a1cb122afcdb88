/*
 * media.c
 *	  Accept: chooses the form of the answer.
 *
 * Every form is made by SQL, as one value; here the expression for it is written.
 */
#include "postgres.h"

#include <stdlib.h>

#include "executor/spi.h"
#include "utils/builtins.h"

#include "rest/error.h"
#include "rest/media.h"
#include "rest/response.h"
#include "rest/settings.h"

/* More than any client names; the rest is not looked at. */
#define MAX_TYPES	32

/* One media range of the header. */
typedef struct Wanted
{
	const char *type;
	double		quality;
	bool		stripped;		/* nulls=stripped */
	const char *target;			/* for= of a plan */
	char	   *options;		/* options= of a plan */
} Wanted;

/* Cuts text at the first separator outside of quotes; NULL at its end. */
static char *
cut(char **rest, char separator)
{
	char	   *start = *rest;
	bool		quoted = false;

	if (start == NULL)
		return NULL;
	for (char *c = start; *c; c++)
	{
		if (*c == '"')
			quoted = !quoted;
		else if (*c == separator && !quoted)
		{
			*c = '\0';
			*rest = c + 1;
			return start;
		}
	}
	*rest = NULL;
	return start;
}

static char *
trim(char *text)
{
	char	   *end;

	text += strspn(text, " \t\"");
	end = text + strlen(text);
	while (end > text && strchr(" \t\"", end[-1]))
		*--end = '\0';
	return text;
}

static Wanted
read_one(char *text)
{
	Wanted		wanted = {.quality = 1};
	char	   *parameter;

	wanted.type = trim(cut(&text, ';'));
	while ((parameter = cut(&text, ';')) != NULL)
	{
		char	   *name = trim(cut(&parameter, '='));

		if (parameter == NULL)
			continue;
		parameter = trim(parameter);
		if (strcmp(name, "q") == 0)
			wanted.quality = strtod(parameter, NULL);
		else if (strcmp(name, "nulls") == 0)
			wanted.stripped = strcmp(parameter, "stripped") == 0;
		else if (strcmp(name, "for") == 0)
			wanted.target = parameter;
		else if (strcmp(name, "options") == 0)
			wanted.options = parameter;
	}
	return wanted;
}

/* Options of EXPLAIN in SQL; what is no option is left out. */
static const char *
plan_options(char *options)
{
	static const char *const known[] = {"analyze", "verbose", "settings", "buffers", "wal"};
	char	   *option;
	char	   *sql = "";

	while ((option = cut(&options, '|')) != NULL)
		for (int i = 0; i < lengthof(known); i++)
			if (strcmp(option, known[i]) == 0)
				sql = psprintf("%s, %s", sql, known[i]);
	return sql;
}

static bool take(OrionCall *call, const Wanted *wanted);

static bool
take_plan(OrionCall *call, const Wanted *wanted)
{
	static const char *const names[] = {
		"application/vnd.pgrst.plan", "application/vnd.pgrst.plan+text", "application/vnd.pgrst.plan+json",
	};
	Wanted		target = {.type = wanted->target ? wanted->target : "application/json"};

	for (int i = 0; i < lengthof(names); i++)
	{
		if (pg_strcasecmp(wanted->type, names[i]) != 0)
			continue;
		if (!orion_rest_plan_enabled || pg_strncasecmp(target.type, names[0], strlen(names[0])) == 0 ||
			!take(call, &target))
			return false;
		call->media.plan_json = i == 2;
		call->media.target = pnstrdup(orion_media_type(call), strcspn(orion_media_type(call), ";"));
		call->media.options = wanted->options ? pstrdup(wanted->options) : NULL;
		call->media.plan = true;
		return true;
	}
	return false;
}

static bool
take(OrionCall *call, const Wanted *wanted)
{
	static const struct
	{
		const char *name;
		OrionFormat format;
		bool		one;
		bool		strips;		/* knows nulls=stripped */
	}			types[] = {
		{"application/json", ORION_FORMAT_JSON, false, false},
		{"*/*", ORION_FORMAT_JSON, false, false},
		{"application/*", ORION_FORMAT_JSON, false, false},
		{"application/vnd.pgrst.object+json", ORION_FORMAT_JSON, true, true},
		{"application/vnd.pgrst.object", ORION_FORMAT_JSON, true, true},
		{"application/vnd.pgrst.array+json", ORION_FORMAT_JSON, false, true},
		{"application/vnd.pgrst.array", ORION_FORMAT_JSON, false, true},
		{"text/csv", ORION_FORMAT_CSV, false, false},
		{"text/*", ORION_FORMAT_CSV, false, false},
	};

	for (int i = 0; i < lengthof(types); i++)
		if (pg_strcasecmp(wanted->type, types[i].name) == 0)
		{
			call->media.format = types[i].format;
			call->media.stripped = types[i].strips && wanted->stripped;
			call->one = types[i].one;
			return true;
		}
	return take_plan(call, wanted);
}

void
orion_media_read(OrionCall *call)
{
	const char *header = orion_call_header(call, "accept");
	Wanted		wanted[MAX_TYPES];
	int			n = 0;
	char	   *rest;
	char	   *one;

	if (header == NULL || header[0] == '\0' || strcmp(header, "*/*") == 0)
		return;
	rest = pstrdup(header);
	while (n < MAX_TYPES && (one = cut(&rest, ',')) != NULL)
	{
		Wanted		next = read_one(one);
		int			i = n++;

		/* the best first, equals in the order given */
		for (; i > 0 && wanted[i - 1].quality < next.quality; i--)
			wanted[i] = wanted[i - 1];
		wanted[i] = next;
	}
	for (int i = 0; i < n; i++)
		if (wanted[i].quality > 0 && take(call, &wanted[i]))
			return;
	orion_refuse(406, "PGRST107", psprintf("None of these media types are available: %s", header),
				 NULL, NULL);
}

const char *
orion_media_type(const OrionCall *call)
{
	const OrionMedia *media = &call->media;

	if (media->plan)
		return psprintf("application/vnd.pgrst.plan+%s; for=\"%s\"%s%s; charset=utf-8",
						media->plan_json ? "json" : "text", media->target,
						media->options ? "; options=" : "", media->options ? media->options : "");
	if (media->format == ORION_FORMAT_CSV)
		return "text/csv; charset=utf-8";
	if (media->stripped)
		return call->one ? "application/vnd.pgrst.object+json;nulls=stripped; charset=utf-8" :
			"application/vnd.pgrst.array+json;nulls=stripped; charset=utf-8";
	return call->one ? ORION_JSON_ONE : ORION_JSON;
}

const char *
orion_media_empty(const OrionCall *call)
{
	return call->media.format == ORION_FORMAT_CSV ? "" : call->one ? "null" : "[]";
}

/* The names of the columns, then each row as its text form without parentheses. */
static const char csv_body[] =
	"(SELECT pg_catalog.string_agg(CASE WHEN k ~ '[\",\\n\\r]' THEN '\"' || pg_catalog.replace(k, '\"', '\"\"') || '\"' ELSE k END, ',')"
	" FROM pg_catalog.json_object_keys(pg_catalog.row_to_json((pg_catalog.array_agg(w.*))[1])) AS k)"
	" || E'\\n' || pg_catalog.string_agg(pg_catalog.substr(w.*::pg_catalog.text, 2, pg_catalog.length(w.*::pg_catalog.text) - 2), E'\\n')";

void
orion_media_body(OrionStatement *st, const OrionCall *call)
{
	if (call->media.format == ORION_FORMAT_CSV)
	{
		orion_statement_add(st, csv_body);
		return;
	}
	if (call->media.stripped)
		orion_statement_add(st, "pg_catalog.json_strip_nulls(");
	orion_statement_add(st, call->one ? "pg_catalog.json_agg(w.*) OPERATOR(pg_catalog.->) 0" : "pg_catalog.json_agg(w.*)");
	if (call->media.stripped)
		orion_statement_add(st, ")");
}

void
orion_media_explain(OrionCall *call, const OrionStatement *st)
{
	const OrionMedia *media = &call->media;
	char	   *text = psprintf("EXPLAIN (FORMAT %s%s) %s", media->plan_json ? "JSON" : "TEXT",
								plan_options(media->options ? pstrdup(media->options) : NULL), st->text.data);
	int			result = SPI_execute_with_args(text, st->nparams, st->types, st->values, st->nulls, false, 0);

	if (result < 0)
		elog(ERROR, "SPI_execute_with_args failed: %s", SPI_result_code_string(result));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		appendStringInfoString(&call->response->body, i > 0 ? "\n" : "");
		appendStringInfoString(&call->response->body,
							   SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1));
	}
	call->response->status = 200;
	orion_response_header(call->response, "Content-Type", orion_media_type(call));
}
