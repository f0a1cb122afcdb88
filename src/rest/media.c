/*
 * media.c
 *	  Accept: chooses the form of the answer.
 *
 * Every form is made by SQL, as one value; here the expression for it is written.
 */
#include "postgres.h"

#include <stdlib.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "rest/error.h"
#include "rest/media.h"
#include "rest/relation.h"
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

	text	  +=strspn(text, " \t\"");
	end = text +strlen(text);

	while (end > text &&strchr(" \t\"", end[-1]))
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
			call->media.unresolved = false;
			return true;
		}
	return take_plan(call, wanted);
}

static void
refuse(const OrionCall *call)
{
	orion_refuse(406, "PGRST107", psprintf("None of these media types are available: %s", orion_call_header(call, "accept")),
				 NULL, NULL);
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
	call->media.unresolved = true;
	for (int i = 0; i < n && call->media.unresolved; i++)
	{
		if (wanted[i].quality <= 0)
			continue;
		if (!take(call, &wanted[i]) && call->media.ncustom < ORION_MAX_CUSTOM && strlen(wanted[i].type) < NAMEDATALEN && strchr(wanted[i].type, '/'))
			call->media.custom[call->media.ncustom++] = wanted[i].type;
	}
	if (call->media.unresolved && call->media.ncustom == 0)
		refuse(call);
}

/* Is the scalar of a domain of that name, or of the one that stands for all of them? */
static bool
take_scalar(OrionCall *call, Oid type, const char *name)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	Form_pg_type form;
	bool		any;

	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_type) GETSTRUCT(tuple);
	any = strcmp(NameStr(form->typname), "*/*") == 0;
	if (form->typtype != TYPTYPE_DOMAIN || (!any && pg_strcasecmp(NameStr(form->typname), name) != 0))
	{
		ReleaseSysCache(tuple);
		return false;
	}
	ReleaseSysCache(tuple);
	call->media.format = ORION_FORMAT_RAW;
	call->media.type = any ? "application/octet-stream" : name;
	return true;
}

/* An aggregate that returns the type, over that row type or any; the former is better. */
static bool
find_handler(OrionCall *call, Oid type, Oid row)
{
	Relation	depend = table_open(DependRelationId, AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			found = InvalidOid;
	bool		exact = false;

	ScanKeyInit(&keys[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(TypeRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(type));
	scan = systable_beginscan(depend, DependReferenceIndexId, true, NULL, 2, keys);
	while (!exact && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend entry = (Form_pg_depend) GETSTRUCT(tuple);
		HeapTuple	function;
		Form_pg_proc proc;

		if (entry->classid != ProcedureRelationId)
			continue;
		function = SearchSysCache1(PROCOID, ObjectIdGetDatum(entry->objid));
		if (!HeapTupleIsValid(function))
			continue;
		proc = (Form_pg_proc) GETSTRUCT(function);
		if (proc->prokind == PROKIND_AGGREGATE && proc->prorettype == type && proc->pronargs == 1 &&
			(proc->proargtypes.values[0] == row || proc->proargtypes.values[0] == ANYELEMENTOID))
		{
			exact = proc->proargtypes.values[0] == row;
			found = entry->objid;
		}
		ReleaseSysCache(function);
	}
	systable_endscan(scan);
	table_close(depend, AccessShareLock);
	if (!OidIsValid(found))
		return false;
	call->media.handler = quote_qualified_identifier(get_namespace_name(get_func_namespace(found)), get_func_name(found));
	call->media.row = exact ? orion_type_name(row, -1) : NULL;
	return true;
}

static bool
take_rows(OrionCall *call, Oid relid, const char *name)
{
	Oid			namespace = get_namespace_oid(call->schema, true);
	Oid			type = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum(name), ObjectIdGetDatum(namespace));
	bool		any = !OidIsValid(type);

	if (any)
		type = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum("*/*"), ObjectIdGetDatum(namespace));
	if (!OidIsValid(type) || get_typtype(type) != TYPTYPE_DOMAIN ||
		!find_handler(call, type, OidIsValid(relid) ? get_rel_type_id(relid) : InvalidOid))
		return false;
	call->media.format = ORION_FORMAT_CUSTOM;
	call->media.type = any ? "application/octet-stream" : name;
	return true;
}

void
orion_media_resolve(OrionCall *call, Oid relid, Oid scalar)
{
	for (int i = 0; i < call->media.ncustom; i++)
		if (OidIsValid(scalar) ? take_scalar(call, scalar, call->media.custom[i]) :
			take_rows(call, relid, call->media.custom[i]))
		{
			call->one = false;
			call->media.plan = call->media.stripped = call->media.unresolved = false;
			return;
		}
	if (call->media.unresolved)
		refuse(call);
}

/* Text is in UTF-8, and only plain text and XML would be taken for something else. */
static const char *
custom_type(const char *type)
{
	return strcmp(type, "text/plain") == 0 || strcmp(type, "text/xml") == 0 ? psprintf("%s; charset=utf-8", type) : type;
}

const char *
orion_media_type(const OrionCall *call)
{
	const OrionMedia *media = &call->media;

	if (media->unresolved)
		refuse(call);
	if (media->format == ORION_FORMAT_CUSTOM || media->format == ORION_FORMAT_RAW)
		return custom_type(media->type);
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
	if (call->media.format == ORION_FORMAT_CUSTOM)
	{
		orion_statement_add(st, call->media.handler);
		orion_statement_add(st, call->media.row ? "(w::" : "(w");
		orion_statement_add(st, call->media.row ? call->media.row : "");
		orion_statement_add(st, ")");
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
