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
#include "utils/lsyscache.h"

#include "rest/error.h"
#include "rest/media.h"
#include "rest/handler.h"
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
	const char *text;			/* as it stands, without spaces and quality */
	int			specific;		/* parameters less stars */
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

	text	  +=strspn(text, " \t\"");
	end = text +strlen(text);

	while (end > text &&strchr(" \t\"", end[-1]))
		*--end = '\0';
	return text;
}

/* The range up to its quality, without spaces. */
static char *
compact(const char *text)
{
	StringInfoData out;
	char	   *quality;

	initStringInfo(&out);
	for (; *text; text ++)
		if (*text !=' ')
			appendStringInfoChar(&out, *text);

	quality = strstr(out.data, ";q=");
	if (quality)
		*quality = '\0';
	return out.data;
}

static int
count_of(const char *text, char c)
{
	int			n = 0;

	for (; *text; text ++)
		n += *text == c;

	return n;
}

static Wanted
read_one(char *text)
{
	Wanted		wanted = {.quality = 1,.text = compact(text)};
	char	   *parameter;

	wanted.specific = count_of(wanted.text, ';') - count_of(wanted.text, '*');

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

static const char *const plan_known[] = {"analyze", "verbose", "settings", "buffers", "wal"};

/* Options of EXPLAIN in SQL; what is no option is left out. */
static const char *
plan_options(char *options)
{
	char	   *option;
	char	   *sql = "";

	while ((option = cut(&options, '|')) != NULL)
		for (int i = 0; i < lengthof(plan_known); i++)
			if (strcmp(option, plan_known[i]) == 0)
				sql = psprintf("%s, %s", sql, plan_known[i]);
	return sql;
}

/* Orion's own types. */
static const struct
{
	const char *name;
	OrionFormat format;
	bool		one;
	bool		strips;			/* knows nulls=stripped */
	const char *own;			/* what a domain is looked for as, if one may
								 * replace it */
}			types[] = {
	{"application/json", ORION_FORMAT_JSON, false, false, "application/json"},
	{"*/*", ORION_FORMAT_JSON, false, false, "*/*"},
	{"application/*", ORION_FORMAT_JSON, false, false, "application/json"},
	{"application/vnd.pgrst.object+json", ORION_FORMAT_JSON, true, true, NULL},
	{"application/vnd.pgrst.object", ORION_FORMAT_JSON, true, true, NULL},
	{"application/vnd.pgrst.array+json", ORION_FORMAT_JSON, false, true, "application/json"},
	{"application/vnd.pgrst.array", ORION_FORMAT_JSON, false, true, "application/json"},
	{"application/x-ndjson", ORION_FORMAT_NDJSON, false, false, NULL},
	{"application/ndjson", ORION_FORMAT_NDJSON, false, false, NULL},
	{"text/csv", ORION_FORMAT_CSV, false, false, "text/csv"},
	{"text/*", ORION_FORMAT_CSV, false, false, "text/csv"},
	{"application/geo+json", ORION_FORMAT_GEOJSON, false, false, "application/geo+json"},
};

/* The database is asked later, when it is known what for. */
static void
add_candidate(OrionCall *call, OrionCandidate candidate)
{
	if (call->media.ncandidates < ORION_MAX_CUSTOM && strlen(candidate.type) < NAMEDATALEN && strchr(candidate.type, '/'))
		call->media.candidates[call->media.ncandidates++] = candidate;
}

/* Takes a type of Orion's own, if it is one; then nothing behind it counts. */
static bool
take_own(OrionCall *call, const Wanted *wanted, OrionCandidate candidate)
{
	OrionMedia *media = &call->media;

	for (int i = 0; i < lengthof(types); i++)
	{
		bool		stripped = types[i].strips && wanted->stripped;

		if (pg_strcasecmp(wanted->type, types[i].name) != 0)
			continue;
		if (types[i].own && !stripped && orion_handler_overrides())
		{
			candidate.type = types[i].own;
			add_candidate(call, candidate);
		}
		if (types[i].format == ORION_FORMAT_GEOJSON && (media->handler = orion_handler_geojson()) == NULL)
			return false;
		media->format = types[i].format;
		media->stripped = stripped;
		call->one = types[i].one;
		media->unresolved = false;
		media->plan = candidate.plan;
		media->plan_json = candidate.plan_json;
		media->options = candidate.options;
		return true;
	}
	return false;
}

/* True: there is no need to look at types behind it. */
static bool
take(OrionCall *call, const Wanted *wanted)
{
	static const char *const plans[] = {
		"application/vnd.pgrst.plan", "application/vnd.pgrst.plan+text", "application/vnd.pgrst.plan+json",
	};
	Wanted		target = *wanted;
	OrionCandidate candidate = {.type = wanted->type};

	for (int i = 0; i < lengthof(plans); i++)
	{
		if (pg_strcasecmp(wanted->type, plans[i]) != 0)
			continue;
		if (!orion_rest_plan_enabled)
			return false;
		target = read_one(pstrdup(wanted->target ? wanted->target : "application/json"));
		candidate.type = target.type;
		candidate.plan = true;
		candidate.plan_json = i == 2;
		candidate.options = wanted->options;
	}
	if (take_own(call, &target, candidate))
		return true;
	if (pg_strncasecmp(target.type, plans[0], strlen(plans[0])) != 0)
		add_candidate(call, candidate);
	return false;
}

/* Options of a plan in the order in which they are always named, "" without any. */
static const char *
plan_names(const char *options)
{
	const char *names = "";

	for (int i = 0; options && i < lengthof(plan_known); i++)
	{
		char	   *rest = pstrdup(options);
		char	   *option;
		bool		named = false;

		while ((option = cut(&rest, '|')) != NULL)
			named |= strcmp(option, plan_known[i]) == 0;
		if (named)
			names = psprintf("%s%s%s", names, names[0] ? "|" : "", plan_known[i]);
	}
	return names;
}

static const char *
plan_type(bool json, const char *target, const char *options)
{
	const char *names = plan_names(options);

	return psprintf("application/vnd.pgrst.plan+%s; for=\"%s\"%s%s", json ? "json" : "text", target,
					names[0] ? "; options=" : "", names);
}

/* A range as messages name it. */
static const char *
name_of(const Wanted *wanted)
{
	static const char *const plain[] = {
		"application/json", "application/geo+json", "text/csv", "text/plain", "text/xml", "application/openapi+json",
		"application/x-www-form-urlencoded", "application/octet-stream", "*/*",
	};

	for (int i = 0; i < lengthof(plain); i++)
		if (pg_strcasecmp(wanted->type, plain[i]) == 0)
			return plain[i];
	if (pg_strncasecmp(wanted->type, "application/vnd.pgrst.plan", 26) == 0)
	{
		Wanted		target = read_one(pstrdup(wanted->target ? wanted->target : "application/json"));

		return plan_type(pg_strcasecmp(wanted->type + 26, "+json") == 0, name_of(&target), wanted->options);
	}
	return wanted->text;
}

const char *
orion_media_name(const char *type)
{
	Wanted		wanted = read_one(pstrdup(type));
	const char *name = name_of(&wanted);

	return name == wanted.text ? type : name;
}

/* The ranges of Accept, the best first; how many there are. */
static int
read_ranges(const char *header, Wanted wanted[MAX_TYPES])
{
	char	   *rest = pstrdup(header);
	char	   *one;
	int			n = 0;

	while (n < MAX_TYPES && (one = cut(&rest, ',')) != NULL)
	{
		Wanted		next = read_one(one);
		int			i = n++;

		/* of equals the more specific, then in the order given */
		for (; i > 0 && (wanted[i - 1].quality < next.quality ||
						 (wanted[i - 1].quality == next.quality && wanted[i - 1].specific < next.specific)); i--)
			wanted[i] = wanted[i - 1];
		wanted[i] = next;
	}
	return n;
}

bool
orion_media_wants(const OrionCall *call, const char *type)
{
	const char *header = orion_call_header(call, "accept");
	Wanted		wanted[MAX_TYPES];
	int			n = header ? read_ranges(header, wanted) : 0;

	for (int i = 0; i < n; i++)
		if (wanted[i].quality > 0 && pg_strcasecmp(wanted[i].type, type) == 0)
			return true;
	return header == NULL || header[0] == '\0';
}

void
orion_media_refuse(const OrionCall *call)
{
	Wanted		wanted[MAX_TYPES];
	int			n = read_ranges(orion_call_header(call, "accept"), wanted);
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < n; i++)
		appendStringInfo(&text, "%s%s", i > 0 ? ", " : "", name_of(&wanted[i]));
	orion_refuse(406, "PGRST107", psprintf("None of these media types are available: %s", text.data), NULL, NULL);
}

void
orion_media_read(OrionCall *call)
{
	const char *header = orion_call_header(call, "accept");
	OrionCandidate anything = {.type = "*/*"};
	Wanted		wanted[MAX_TYPES];
	int			n;

	if (header == NULL || header[0] == '\0' || strcmp(header, "*/*") == 0)
	{
		if (orion_handler_overrides())
			add_candidate(call, anything);
		return;
	}
	n = read_ranges(header, wanted);
	call->media.unresolved = true;
	for (int i = 0; i < n && call->media.unresolved; i++)
		if (wanted[i].quality > 0)
			(void) take(call, &wanted[i]);
}

/* All columns and nothing else: the rows are those of the relation. */
static bool
selects_all(const OrionSelect *select)
{
	return select == NULL || (select->next == NULL && select->name && strcmp(select->name, "*") == 0);
}

/* Sets what was found for a candidate as the form of the answer. */
static void
settle(OrionCall *call, const OrionCandidate *candidate, const OrionHandler *handler)
{
	OrionMedia *media = &call->media;

	media->format = handler->function ? ORION_FORMAT_CUSTOM : ORION_FORMAT_RAW;
	media->type = handler->media;
	media->handler = handler->function;
	media->row = handler->row;
	media->cast = handler->cast;
	media->cast_end = handler->cast_end;
	media->plan = candidate->plan;
	media->plan_json = candidate->plan_json;
	media->options = candidate->options;
	media->stripped = media->unresolved = false;
	call->one = false;
}

void
orion_media_resolve(OrionCall *call, Oid relid, Oid scalar)
{
	Oid			row = OidIsValid(relid) && selects_all(call->query.select) ? get_rel_type_id(relid) : InvalidOid;

	for (int i = 0; i < call->media.ncandidates; i++)
	{
		const OrionCandidate *candidate = &call->media.candidates[i];
		OrionHandler handler;

		if ((OidIsValid(scalar) && orion_handler_scalar(scalar, candidate->type, &handler)) ||
			orion_handler_rows(row, candidate->type, &handler))
		{
			settle(call, candidate, &handler);
			return;
		}
	}
	if (call->media.unresolved)
		orion_media_refuse(call);
}

/* What the body is, without what a charset or a plan adds. */
static const char *
plain_type(const OrionCall *call)
{
	const OrionMedia *media = &call->media;

	if (media->format == ORION_FORMAT_CUSTOM || media->format == ORION_FORMAT_RAW)
		return media->type;
	if (media->format == ORION_FORMAT_CSV)
		return "text/csv";
	if (media->format == ORION_FORMAT_NDJSON)
		return "application/x-ndjson";
	if (media->format == ORION_FORMAT_GEOJSON)
		return "application/geo+json";
	if (media->stripped)
		return call->one ? "application/vnd.pgrst.object+json;nulls=stripped" :
			"application/vnd.pgrst.array+json;nulls=stripped";
	return call->one ? "application/vnd.pgrst.object+json" : "application/json";
}

/* Text is in UTF-8; who made a type of their own knows best what it is. */
static bool
has_charset(const OrionMedia *media)
{
	static const char *const known[] = {
		"text/plain", "text/xml", "text/csv", "application/json", "application/geo+json", "application/openapi+json",
		"application/x-www-form-urlencoded",
	};

	if (media->format != ORION_FORMAT_CUSTOM && media->format != ORION_FORMAT_RAW)
		return true;
	for (int i = 0; i < lengthof(known); i++)
		if (strcmp(media->type, known[i]) == 0)
			return true;
	return false;
}

const char *
orion_media_type(const OrionCall *call)
{
	const OrionMedia *media = &call->media;

	if (media->unresolved)
		orion_media_refuse(call);
	if (media->plan)
		return psprintf("%s; charset=utf-8", plan_type(media->plan_json, plain_type(call), media->options));
	if (media->format == ORION_FORMAT_JSON && !media->stripped)
		return call->one ? ORION_JSON_ONE : ORION_JSON;
	return has_charset(media) ? psprintf("%s; charset=utf-8", plain_type(call)) : media->type;
}

const char *
orion_media_empty(const OrionCall *call)
{
	if (call->media.format == ORION_FORMAT_GEOJSON)
		return "{\"type\": \"FeatureCollection\", \"features\": []}";
	if (call->media.format == ORION_FORMAT_CSV)
		return "\n";
	return call->media.format != ORION_FORMAT_JSON ? "" : call->one ? "null" : "[]";
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
	if (call->media.format == ORION_FORMAT_NDJSON)
	{
		orion_statement_add(st, "pg_catalog.string_agg(pg_catalog.row_to_json(w.*)::pg_catalog.text || E'\\n', '')");
		return;
	}
	if (call->media.format == ORION_FORMAT_CUSTOM)
	{
		orion_statement_add(st, call->media.cast);
		orion_statement_add(st, call->media.handler);
		orion_statement_add(st, call->media.row ? "(w::" : "(w");
		orion_statement_add(st, call->media.row ? call->media.row : "");
		orion_statement_add(st, ")");
		orion_statement_add(st, call->media.cast_end);
		return;
	}
	if (call->media.format == ORION_FORMAT_GEOJSON)
	{
		orion_statement_add(st, "pg_catalog.json_build_object('type', 'FeatureCollection', 'features', "
							"COALESCE(pg_catalog.json_agg(");
		orion_statement_add(st, call->media.handler);
		orion_statement_add(st, "(w)::pg_catalog.json), '[]'))");
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
