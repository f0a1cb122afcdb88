/*
 * csv.c
 *	  Bodies of comma-separated values (RFC 4180), made into JSON.
 *
 * Linear in the text; the text is terminated and valid UTF-8.
 */
#include "postgres.h"

#include "access/htup.h"
#include "access/htup_details.h"
#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "utils/json.h"

#include "rest/csv.h"
#include "rest/error.h"

typedef struct Reader
{
	const char *at;
	StringInfoData field;		/* the last one read */
} Reader;

/* Reads a field up to its comma or the end of its line, which stays unread. */
static void
read_field(Reader *r)
{
	resetStringInfo(&r->field);
	if (*r->at != '"')
	{
		size_t		len = strcspn(r->at, "\",\r\n");

		appendBinaryStringInfo(&r->field, r->at, len);
		r->at += len;
		if (*r->at == '"')
			orion_refuse(400, "PGRST102", "A field with quotes in it is not quoted", NULL, NULL);
		return;
	}
	for (r->at++; *r->at; r->at++)
	{
		if (*r->at == '"' && r->at[1] != '"')
			break;
		if (*r->at == '"')
			r->at++;
		appendStringInfoChar(&r->field, *r->at);
	}
	if (*r->at != '"' || strchr(",\r\n", *++r->at) == NULL)
		orion_refuse(400, "PGRST102", "A quoted field does not end with its quote", NULL, NULL);
}

/* True when another field follows in the line; else the line's end is behind us. */
static bool
more_fields(Reader *r)
{
	if (*r->at == ',')
	{
		r->at++;
		return true;
	}
	if (*r->at == '\r')
		r->at++;
	if (*r->at == '\n')
		r->at++;
	return false;
}

static List *
read_names(Reader *r)
{
	List	   *names = NIL;

	do
	{
		read_field(r);
		names = lappend(names, pstrdup(r->field.data));
		if (list_length(names) > MaxTupleAttributeNumber)
			orion_refuse(400, "PGRST102", "A line has too many fields", NULL, NULL);
	} while (more_fields(r));
	return names;
}

static void
append_row(Reader *r, List *names, StringInfo json)
{
	ListCell   *lc;
	bool		more = true;

	appendStringInfoChar(json, '{');
	foreach(lc, names)
	{
		if (!more)
			break;
		read_field(r);
		if (foreach_current_index(lc) > 0)
			appendStringInfoChar(json, ',');
		escape_json(json, lfirst(lc));
		appendStringInfoChar(json, ':');
		if (strcmp(r->field.data, "NULL") == 0)
			appendStringInfoString(json, "null");
		else
			escape_json(json, r->field.data);
		more = more_fields(r);
		if (!more && foreach_current_index(lc) + 1 < list_length(names))
			orion_refuse(400, "PGRST102", "All lines must have same number of fields", NULL, NULL);
	}
	if (more)
		orion_refuse(400, "PGRST102", "All lines must have same number of fields", NULL, NULL);
	appendStringInfoChar(json, '}');
}

char *
orion_csv_json(const char *csv)
{
	Reader		r = {.at = csv};
	StringInfoData json;
	List	   *names;

	initStringInfo(&r.field);
	initStringInfo(&json);
	names = read_names(&r);
	appendStringInfoChar(&json, '[');
	for (;;)
	{
		r.at += strspn(r.at, "\r\n");	/* empty lines are none */
		if (*r.at == '\0')
			break;
		if (json.len > 1)
			appendStringInfoChar(&json, ',');
		append_row(&r, names, &json);
	}
	appendStringInfoChar(&json, ']');
	return json.data;
}
