/*
 * etag.c
 *	  ETag, If-Match and If-None-Match.
 *
 * Nothing here looks first and acts afterwards.  A version is compared in the
 * statement that writes, so that of two writers at a time the second finds another
 * one.  Other tags are compared with what GET of the same address would answer, with the
 * rows locked from before that answer is made; a row that joins them later
 * makes the number of rows written another one, which is refused.
 */
#include "postgres.h"

#include <ctype.h>
#include <sodium.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "record/record.h"
#include "rest/compress.h"
#include "rest/error.h"
#include "rest/etag.h"
#include "rest/json_text.h"
#include "rest/media.h"
#include "rest/read.h"
#include "rest/response.h"
#include "rest/result.h"

#define DIGEST_LEN	16
#define MAX_TAGS	100			/* of one request */

bool		orion_rest_require_if_match;

typedef struct Tag
{
	const char *text;			/* between the quotes */
	bool		weak;
} Tag;

typedef struct Tags
{
	bool		given;
	bool		any;			/* "*" */
	int			n;
	Tag			tags[MAX_TAGS];
} Tags;

/* --- reading conditions ------------------------------------------------------------ */

static void
refuse_header(const char *name)
{
	orion_refuse(400, "ORION400", psprintf("Invalid %s", name),
				 "It is \"*\" or a list of entity tags in double quotes.", NULL);
}

/* The tag of a compressed answer stands for the same state as that of the plain one. */
static const char *
plain_tag(const char *tag, size_t len)
{
	size_t		suffix = strlen(ORION_GZIP_TAG);

	if (len > suffix && memcmp(tag + len - suffix, ORION_GZIP_TAG, suffix) == 0)
		len -= suffix;
	return pnstrdup(tag, len);
}

/* [W/]"opaque": RFC 9110, section 8.8.3 */
static const char *
read_tag(const char *c, const char *name, Tags *tags)
{
	Tag		   *tag = &tags->tags[tags->n];
	const char *end;

	if (tags->n++ == MAX_TAGS)
		refuse_header(name);
	tag->weak = strncmp(c, "W/", 2) == 0;
	if (tag->weak)
		c += 2;
	end = *c == '"' ? strchr(c + 1, '"') : NULL;
	if (end == NULL)
		refuse_header(name);
	tag->text = plain_tag(c + 1, end - c - 1);
	return end + 1;
}

static void
read_list(const char *c, const char *name, Tags *tags)
{
	tags->given = true;
	c += strspn(c, " \t");
	if (*c == '*' && c[1 + strspn(c + 1, " \t")] == '\0')
	{
		tags->any = true;
		return;
	}
	while (*c)
	{
		if (*c != ',')
			c = read_tag(c, name, tags);
		c += strspn(c, " \t");
		if (*c != ',' && *c != '\0')
			refuse_header(name);
		c += strspn(c, ", \t");
	}
}

static void
read_tags(const OrionCall *call, const char *name, const char *lower, Tags *tags)
{
	tags->given = tags->any = false;
	tags->n = 0;
	for (int i = 0; i < call->request->nheaders; i++)
		if (strcmp(call->request->headers[i].name, lower) == 0)
			read_list(call->request->headers[i].value, name, tags);
}

static bool
has_conditions(const OrionCall *call)
{
	return orion_call_header(call, "if-match") || orion_call_header(call, "if-none-match");
}

/* The version in a tag, or -1. */
static int64
version_of(const char *tag)
{
	char	   *end;
	int64		version;

	if (tag[0] != 'v' || !isdigit((unsigned char) tag[1]))
		return -1;
	errno = 0;
	version = strtoi64(tag + 1, &end, 10);
	return *end == '.' && errno == 0 ? version : -1;
}

/* --- making tags ------------------------------------------------------------------- */

static bool
counts_versions(Oid relid)
{
	/*
	 * without the column, which is the usual case, this is one look into a
	 * cache
	 */
	return OidIsValid(relid) && get_attnum(relid, "version") > 0 &&
		orion_record_counts_versions(relid, orion_relation_extension_schema());
}

/* Does a member "version" of the answer have to be the column? */
static bool
selects_version(const OrionCall *call)
{
	bool		found = call->query.select == NULL;

	for (const OrionSelect *item = call->query.select; item; item = item->next)
	{
		if (item->spread || (item->alias && strcmp(item->alias, "version") == 0))
			return false;
		if (item->embed || item->name == NULL || item->steps || item->cast || item->alias ||
			item->aggregate != ORION_AGGREGATE_NONE)
			continue;
		found |= strcmp(item->name, "*") == 0 || strcmp(item->name, "version") == 0;
	}
	return found;
}

/* The number that is the member "version" of the only object of a JSON text, or -1. */
static int64
member_version(const char *c)
{
	bool		array = *c == '[';
	int64		version = -1;

	c = array ? orion_json_skip_space(c + 1) : c;
	if (*c != '{')
		return -1;
	for (c = orion_json_skip_space(c + 1); *c != '}';)
	{
		const char *key = c;
		const char *end = orion_json_skip_string(c);

		c = orion_json_skip_space(orion_json_skip_space(end) + 1);
		if (strncmp(key, "\"version\"", 9) == 0 && isdigit((unsigned char) *c))
			version = strtoi64(c, NULL, 10);
		c = orion_json_skip_space(orion_json_skip_value(c));
		if (*c == ',')
			c = orion_json_skip_space(c + 1);
	}
	if (array && *orion_json_skip_space(c + 1) != ']')
		return -1;
	return version;
}

/* The version of the one row of the answer, or -1. */
static int64
shown_version(const OrionCall *call, const char *body)
{
	if (call->media.format != ORION_FORMAT_JSON || call->media.plan || !counts_versions(call->relid) ||
		!selects_version(call))
		return -1;
	return member_version(body);
}

/* Between the quotes. The form is part of it: the same bytes may be different things. */
static char *
make_tag(const OrionCall *call, const char *body, size_t len)
{
	crypto_generichash_state state;
	unsigned char digest[DIGEST_LEN];
	unsigned char form = call->media.format * 2 + call->media.stripped;
	char		hex[2 * DIGEST_LEN + 1];
	int64		version = shown_version(call, body);

	crypto_generichash_init(&state, NULL, 0, sizeof(digest));
	crypto_generichash_update(&state, &form, 1);
	crypto_generichash_update(&state, (const unsigned char *) body, len);
	crypto_generichash_final(&state, digest, sizeof(digest));
	sodium_bin2hex(hex, sizeof(hex), digest, sizeof(digest));
	return version < 0 ? pstrdup(hex) : psprintf("v" INT64_FORMAT ".%s", version, hex);
}

/* --- reading ------------------------------------------------------------------------ */

static bool
lists(const Tags *tags, const char *tag, bool strong)
{
	for (int i = 0; i < tags->n; i++)
		if (!(strong && tags->tags[i].weak) && strcmp(tags->tags[i].text, tag) == 0)
			return true;
	return tags->any;
}

static void
refuse_precondition(const char *details)
{
	orion_refuse(412, "ORION412", "Precondition failed", details, NULL);
}

void
orion_etag_put(OrionCall *call)
{
	const StringInfo body = &call->response->body;

	if (!call->media.plan)
		orion_response_header(call->response, "ETag", psprintf("\"%s\"", make_tag(call, body->data, body->len)));
}

void
orion_etag_answer(OrionCall *call)
{
	OrionResponse *response = call->response;
	Tags	   *tags;
	char	   *tag;

	if ((response->status != 200 && response->status != 206) || call->media.plan)
		return;
	tag = make_tag(call, response->body.data, response->body.len);
	if (has_conditions(call))
	{
		tags = palloc(sizeof(Tags));
		read_tags(call, "If-Match", "if-match", tags);
		if (tags->given && !lists(tags, tag, true))
			refuse_precondition("The resource has another entity tag.");
		read_tags(call, "If-None-Match", "if-none-match", tags);
		if (tags->given && lists(tags, tag, false))
		{
			response->status = 304;
			resetStringInfo(&response->body);
		}
	}
	orion_response_header(response, "ETag", psprintf("\"%s\"", tag));

	/*
	 * a tag alone lets caches reuse the answer without asking (RFC 9111,
	 * section 4.2.2)
	 */
	if (!call->operation)
		orion_response_header(response, "Cache-Control", "no-cache");
}

/* --- writing ------------------------------------------------------------------------ */

/* Locks the rows of the filters; how many they are. */
static int64
lock_rows(const OrionCall *call, const OrionSource *source)
{
	OrionStatement st;

	orion_statement_init(&st);
	orion_statement_add(&st, "SELECT pg_catalog.count(*) FROM (SELECT 1 FROM ");
	orion_statement_add(&st, source->quoted);
	orion_statement_add(&st, " AS t");
	orion_statement_where(&st, source, call->query.filters);
	orion_statement_add(&st, " FOR UPDATE OF t) AS l");
	orion_statement_run(&st, false);
	return orion_result_int(0, 0);
}

/* What GET would answer, as text; how many rows it has. */
static char *
current_body(const OrionCall *call, const OrionSource *source, int64 *rows)
{
	OrionRead  *read = orion_read_make(call, source);
	OrionStatement st;
	char	   *body;

	read->uncapped = true;
	read->has_limit = read->has_offset = false;
	orion_statement_init(&st);
	orion_statement_add(&st, "SELECT pg_catalog.count(*), ");
	orion_media_body(&st, call);
	orion_statement_add(&st, " FROM (");
	orion_read_begin(&st, read);
	orion_statement_add(&st, source->quoted);
	orion_read_end(&st, read);
	orion_statement_add(&st, ") AS w");
	orion_statement_run(&st, false);
	*rows = orion_result_int(0, 0);
	body = orion_result_text(1);
	return body ? body : pstrdup(orion_media_empty(call));
}

/* A strong tag that is listed, or another one of the same version. */
static bool
lists_row(const Tags *tags, const char *tag, bool strong)
{
	int64		version = version_of(tag);

	for (int i = 0; i < tags->n && version >= 0; i++)
		if (!(strong && tags->tags[i].weak) && version_of(tags->tags[i].text) == version)
			return true;
	return lists(tags, tag, strong);
}

/* One row has two forms, the object and the array around it: a tag of either will do. */
static bool
lists_content(const OrionCall *call, const Tags *tags, const char *body, bool strong)
{
	size_t		len = strlen(body);
	char	   *other = NULL;

	if (lists_row(tags, make_tag(call, body, len), strong))
		return true;
	if (call->media.format != ORION_FORMAT_JSON || len < 2)
		return false;
	if (body[0] == '[')
		other = pnstrdup(body + 1, len - 2);
	else if (body[0] == '{')
		other = psprintf("[%s]", body);
	return other && lists_row(tags, make_tag(call, other, strlen(other)), strong);
}

static void
compare_content(const OrionCall *given, const OrionSource *source, const Tags *match, const Tags *none, OrionMatch *result)
{
	OrionCall	call = *given;
	int64		rows;
	char	   *body;

	if (call.method == ORION_PUT)
		orion_call_filters(&call, NULL, NULL);
	result->rows = lock_rows(&call, source);
	body = current_body(&call, source, &rows);
	if (rows != result->rows)
		refuse_precondition("The rows are being changed.");
	if (match->given && (rows == 0 || !lists_content(&call, match, body, true)))
		refuse_precondition("The resource has another entity tag.");
	if (none->given && rows > 0 && lists_content(&call, none, body, false))
		refuse_precondition("The resource has this entity tag.");
	if (call.method == ORION_PUT)
		result->rows = -1;		/* it writes one row, old or new */
	result->any |= match->given;
}

/* True when every strong tag has a version. */
static bool
take_versions(const Tags *tags, OrionMatch *match)
{
	match->versions = palloc(Max(tags->n, 1) * sizeof(int64));
	for (int i = 0; i < tags->n; i++)
	{
		int64		version = version_of(tags->tags[i].text);

		if (tags->tags[i].weak)
			continue;
		if (version < 0)
		{
			match->nversions = 0;
			return false;
		}
		match->versions[match->nversions++] = version;
	}
	return true;
}

/* A tag of one row is no condition on several. */
static void
check_single(const OrionCall *call, const OrionSource *source)
{
	OrionStatement st;

	if (call->method == ORION_PUT)
		return;
	orion_statement_init(&st);
	orion_statement_add(&st, "SELECT pg_catalog.count(*) FROM (SELECT 1 FROM ");
	orion_statement_add(&st, source->quoted);
	orion_statement_add(&st, " AS t");
	orion_statement_where(&st, source, call->query.filters);
	orion_statement_add(&st, " LIMIT 2) AS c");
	orion_statement_run(&st, false);
	if (orion_result_int(0, 0) != 1)
		refuse_precondition("The entity tag is one of a single row.");
}

void
orion_etag_before(const OrionCall *call, const OrionSource *source, OrionMatch *match)
{
	Tags	   *tags;
	Tags	   *none;

	match->rows = -1;
	if (!has_conditions(call))
	{
		if (orion_rest_require_if_match && counts_versions(source->relid))
			orion_refuse(428, "ORION428", "This request needs a condition", NULL,
						 "Send If-Match with the ETag of the row.");
		return;
	}
	tags = palloc(sizeof(Tags));
	none = palloc(sizeof(Tags));
	read_tags(call, "If-Match", "if-match", tags);
	read_tags(call, "If-None-Match", "if-none-match", none);
	match->any = tags->any;
	match->none = none->any;
	if (tags->given && !tags->any && counts_versions(source->relid) && take_versions(tags, match))
	{
		if (match->nversions == 0)
			refuse_precondition("There is no strong entity tag.");
		check_single(call, source);
		match->rows = 1;
		match->any = true;
		tags->given = false;
	}
	tags->given &= !tags->any;
	none->given &= !none->any;
	if (tags->given || none->given)
		compare_content(call, source, tags, none, match);
}

void
orion_etag_where(OrionStatement *st, const OrionMatch *match, const char *joint)
{
	Datum	   *values = palloc(Max(match->nversions, 1) * sizeof(Datum));
	ArrayType  *array;

	if (match->nversions == 0)
		return;
	for (int i = 0; i < match->nversions; i++)
		values[i] = Int64GetDatum(match->versions[i]);
	array = construct_array(values, match->nversions, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);
	orion_statement_add(st, joint);
	orion_statement_add(st, "t.\"version\" OPERATOR(pg_catalog.=) ANY (");
	orion_statement_param(st, INT8ARRAYOID, PointerGetDatum(array));
	orion_statement_add(st, ")");
}

void
orion_etag_after(const OrionMatch *match, int64 rows, int64 existed)
{
	if (match->any && existed == 0)
		refuse_precondition("There is no such row, or it was changed.");
	if (match->none && existed > 0)
		refuse_precondition("There is such a row.");
	if (match->rows >= 0 && rows != match->rows)
		refuse_precondition("The rows were changed.");
}
