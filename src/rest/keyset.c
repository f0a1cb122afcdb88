/*
 * keyset.c
 *	  Pages by position: the cursor is the place of the last row seen in a total order.
 *
 * A value without a dot can be no filter, so that "cursor=" does not take a column's
 * name away.  A cursor is sealed: it shows nothing of the columns that rows are ordered
 * by, and cannot be made or changed outside.  It is bound to the table, the query but
 * for limit, and the user.
 *
 * The position is compared column by column, as ORDER BY compares them.  Where
 * no column can be null and all go in one direction a row comparison says the same,
 * and walks an index.
 */
#include "postgres.h"

#include <ctype.h>
#include <sodium.h>

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "libpq/pqformat.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "core/compat.h"
#include "core/error.h"
#include "rest/error.h"
#include "rest/keyset.h"
#include "rest/response.h"
#include "rest/session.h"
#include "rest/settings.h"
#include "seal/seal.h"

#define MAX_CURSOR	4096		/* characters; it has to fit into an address */
#define CONTEXT		"rest cursor"

static void
refuse_cursor(const char *details, const char *hint)
{
	orion_refuse(400, "ORION400", "Invalid cursor", details, hint);
}

/* --- what a cursor belongs to ------------------------------------------------------- */

static bool
is_cursor(const OrionParam *param)
{
	return strcmp(param->name, "cursor") == 0 && strchr(param->value, '.') == NULL;
}

static int
compare_params(const void *a, const void *b)
{
	const OrionParam *x = *(const OrionParam *const *) a;
	const OrionParam *y = *(const OrionParam *const *) b;
	int			order = strcmp(x->name, y->name);

	return order ? order : strcmp(x->value, y->value);
}

static void
append_text(StringInfo out, const char *text)
{
	pq_sendint32(out, strlen(text));
	appendStringInfoString(out, text);
}

static char *
make_binding(const OrionCall *call, const OrionSource *source)
{
	OrionParam *params;
	OrionQueryError error;
	const OrionParam **sorted;
	int			n = 0;
	StringInfoData data;
	char	   *binding = palloc(ORION_SEAL_MAC_LEN);

	if (!orion_query_split(&call->arena, call->request->query, strlen(call->request->query), &params, &error))
		orion_refuse_query(&error);
	sorted = palloc(ORION_QUERY_MAX_PARAMS * sizeof(OrionParam *));
	for (const OrionParam *p = params; p; p = p->next)
		if (!is_cursor(p) && strcmp(p->name, "limit") != 0)
			sorted[n++] = p;
	qsort(sorted, n, sizeof(OrionParam *), compare_params);
	initStringInfo(&data);
	append_text(&data, orion_session_subject(call));
	append_text(&data, source->quoted);
	for (int i = 0; i < n; i++)
	{
		append_text(&data, sorted[i]->name);
		append_text(&data, sorted[i]->value);
	}
	orion_seal_mac(data.data, data.len, CONTEXT, (unsigned char *) binding);
	return binding;
}

/* --- the cursor as text ---------------------------------------------------------------- */

static char *
write_cursor(const OrionKeyset *keyset)
{
	StringInfoData data;
	bytea	   *sealed;
	size_t		size;
	char	   *text;

	initStringInfo(&data);
	appendBinaryStringInfo(&data, keyset->binding, ORION_SEAL_MAC_LEN);
	pq_sendbyte(&data, keyset->n);
	for (int i = 0; i < keyset->n; i++)
	{
		pq_sendbyte(&data, keyset->keys[i].value != NULL);
		append_text(&data, keyset->keys[i].value ? keyset->keys[i].value : "");
	}
	sealed = orion_seal(data.data, data.len, CONTEXT);
	size = sodium_base64_encoded_len(VARSIZE_ANY_EXHDR(sealed), sodium_base64_VARIANT_URLSAFE_NO_PADDING);
	if (size > MAX_CURSOR)
		refuse_cursor("The columns of the order are too long for a cursor.", NULL);
	text = palloc(size);

	sodium_bin2base64(text, size, (unsigned char *) VARDATA_ANY(sealed), VARSIZE_ANY_EXHDR(sealed),
					  sodium_base64_VARIANT_URLSAFE_NO_PADDING);
	return text;
}

/* What was sealed here; refuses everything else. */
static bytea *
open_cursor(const char *text)
{
	size_t		len = strlen(text);
	bytea	   *sealed = palloc(VARHDRSZ + len);
	bytea	   *volatile clear = NULL;
	size_t		written;

	if (len > MAX_CURSOR || sodium_base642bin((unsigned char *) VARDATA(sealed), len, text, len, NULL, &written, NULL,
											  sodium_base64_VARIANT_URLSAFE_NO_PADDING) != 0)
		refuse_cursor("It is not one that was given.", NULL);
	SET_VARSIZE(sealed, VARHDRSZ + written);
	PG_TRY();
	{
		clear = orion_unseal(sealed, CONTEXT);
	}
	PG_CATCH();
	{
		if (geterrcode() != ERRCODE_ORION_SEAL_BROKEN)
			PG_RE_THROW();
		FlushErrorState();
		refuse_cursor("It is not one that was given.", NULL);
	}
	PG_END_TRY();
	return clear;
}

static void
read_cursor(OrionKeyset *keyset, const char *text)
{
	bytea	   *clear = open_cursor(text);
	StringInfoData data = {.data = VARDATA_ANY(clear),.len = VARSIZE_ANY_EXHDR(clear)};

	if (memcmp(pq_getmsgbytes(&data, ORION_SEAL_MAC_LEN), keyset->binding, ORION_SEAL_MAC_LEN) != 0)
		refuse_cursor("It belongs to another query or another user.",
					  "Filters, order and select stay the same from page to page.");
	/* of a key that was changed meanwhile */
	if (pq_getmsgbyte(&data) != keyset->n)
		refuse_cursor("The order has other columns now.", NULL);
	for (int i = 0; i < keyset->n; i++)
	{
		bool		given = pq_getmsgbyte(&data);
		int			len = pq_getmsgint(&data, 4);
		char	   *value = pnstrdup(pq_getmsgbytes(&data, len), len);

		keyset->keys[i].value = given ? value : NULL;
	}
	keyset->started = true;
}

/* --- the order ------------------------------------------------------------------------- */

static bool
orders_by(const OrionOrder *order, const char *column)
{
	for (; order; order = order->next)
		if (order->name.steps == NULL && strcmp(order->name.column, column) == 0)
			return true;
	return false;
}

/* Behind what the query says comes the primary key, in the last direction. */
static void
complete_order(OrionCall *call, const OrionSource *source)
{
	OrionOrder **tail = &call->query.order;
	List	   *key = orion_relationship_key(source->relid);
	bool		descending = false;
	ListCell   *lc;

	if (key == NIL)
		refuse_cursor(psprintf("\"%s\" has no primary key.", source->name), "Use limit and offset.");
	for (; *tail; tail = &(*tail)->next)
	{
		if ((*tail)->name.embed)
			refuse_cursor("Rows cannot be ordered by an embedded relation.", NULL);
		descending = (*tail)->descending;
	}
	foreach(lc, key)
	{
		OrionOrder *order;

		if (orders_by(call->query.order, lfirst(lc)))
			continue;
		order = palloc0(sizeof(OrionOrder));
		order->name.column = lfirst(lc);
		order->descending = descending;
		*tail = order;
		tail = &order->next;
	}
}

static bool
is_never_null(const OrionSource *source, const OrionName *name)
{
	HeapTuple	tuple;
	bool		result;

	if (name->steps || (source->relkind != RELKIND_RELATION && source->relkind != RELKIND_PARTITIONED_TABLE))
		return false;
	tuple = SearchSysCacheAttName(source->relid, name->column);
	if (!HeapTupleIsValid(tuple))
		return false;
	result = ((Form_pg_attribute) GETSTRUCT(tuple))->attnotnull;
	ReleaseSysCache(tuple);
	return result;
}

/* The operator that ORDER BY goes by: smaller, equal or larger. */
static Oid
find_operator(Oid type, char which)
{
	TypeCacheEntry *cache = lookup_type_cache(getBaseType(type), TYPECACHE_LT_OPR | TYPECACHE_EQ_OPR | TYPECACHE_GT_OPR);
	Oid			found = which == '<' ? cache->lt_opr : which == '=' ? cache->eq_opr : cache->gt_opr;

	if (!OidIsValid(found))
		refuse_cursor(psprintf("Values of type %s have no order.", format_type_be(type)), NULL);
	return found;
}

static void
find_keys(OrionCall *call, const OrionSource *source, OrionKeyset *keyset)
{
	OrionRead	read = {.source = source,.alias = "t"};
	OrionStatement probe;

	for (const OrionOrder *order = call->query.order; order; order = order->next)
		keyset->n++;
	if (keyset->n > PG_UINT8_MAX)
		refuse_cursor("The order has too many columns.", NULL);
	keyset->keys = palloc0(keyset->n * sizeof(OrionKey));
	orion_statement_init(&probe);
	for (const OrionOrder *order = call->query.order; order; order = order->next)
	{
		OrionKey   *key = &keyset->keys[keyset->n - 1];

		for (const OrionOrder *later = order->next; later; later = later->next)
			key--;
		key->order = order;
		key->type = orion_filter_field(&probe, &read, &order->name);
		(void) find_operator(key->type, '<');
		key->never_null = is_never_null(source, &order->name);
	}
}

/* Takes the parameter out. */
static const char *
take_parameter(OrionCall *call)
{
	const char *cursor = NULL;

	for (OrionParam **p = &call->query.params; *p;)
	{
		if (!is_cursor(*p))
		{
			p = &(*p)->next;
			continue;
		}
		if (cursor)
			refuse_cursor("There is more than one.", NULL);
		cursor = (*p)->value;
		*p = (*p)->next;
	}
	return cursor;
}

static int64
page_size(const OrionCall *call)
{
	int64		size = call->query.has_limit ? call->query.limit : -1;

	if (orion_rest_max_rows >= 0 && (size < 0 || size > orion_rest_max_rows))
		size = orion_rest_max_rows;
	if (size == 0)
		refuse_cursor("A page has at least one row.", NULL);
	return size;
}

OrionKeyset *
orion_keyset_begin(OrionCall *call, const OrionSource *source)
{
	const char *cursor = take_parameter(call);
	OrionKeyset *keyset;

	if (cursor == NULL)
		return NULL;
	if (call->query.offset > 0)
		refuse_cursor("There can be no offset beside it.", NULL);
	for (const OrionSelect *item = call->query.select; item; item = item->next)
		if (item->aggregate != ORION_AGGREGATE_NONE)
			refuse_cursor("There can be no aggregates beside it.", NULL);
	keyset = palloc0(sizeof(OrionKeyset));
	keyset->page = page_size(call);
	keyset->binding = make_binding(call, source);
	complete_order(call, source);
	find_keys(call, source, keyset);
	if (cursor[0])
		read_cursor(keyset, cursor);
	return keyset;
}

/* --- the condition --------------------------------------------------------------------- */

static bool
nulls_first(const OrionKey *key)
{
	return key->order->nulls == ORION_NULLS_DEFAULT ? key->order->descending : key->order->nulls == ORION_NULLS_FIRST;
}

static Oid
operator_schema(Oid operator)
{
	HeapTuple	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(operator));
	Oid			schema;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator %u", operator);
	schema = ((Form_pg_operator) GETSTRUCT(tuple))->oprnamespace;
	ReleaseSysCache(tuple);
	return schema;
}

/* field OPERATOR(schema.op) $n */
static void
add_comparison(OrionStatement *st, const OrionRead *read, const OrionKey *key, char which)
{
	Oid			operator = find_operator(key->type, which);

	orion_filter_field(st, read, &key->order->name);
	orion_statement_add(st, " OPERATOR(");
	orion_statement_name(st, get_namespace_name(operator_schema(operator)));
	orion_statement_add(st, psprintf(".%s) ", get_opname(operator)));
	orion_statement_input(st, key->type, key->value);
}

static void
add_null_test(OrionStatement *st, const OrionRead *read, const OrionKey *key, const char *test)
{
	orion_filter_field(st, read, &key->order->name);
	orion_statement_add(st, test);
}

static void
add_equal(OrionStatement *st, const OrionRead *read, const OrionKey *key)
{
	if (key->value)
		add_comparison(st, read, key, '=');
	else
		add_null_test(st, read, key, " IS NULL");
}

static bool
has_rows_behind(const OrionKey *key)
{
	return key->value || nulls_first(key);
}

/* Only where has_rows_behind. */
static void
add_behind(OrionStatement *st, const OrionRead *read, const OrionKey *key)
{
	if (key->value == NULL)
	{
		add_null_test(st, read, key, " IS NOT NULL");
		return;
	}
	add_comparison(st, read, key, key->order->descending ? '<' : '>');
	if (!nulls_first(key) && !key->never_null)
	{
		orion_statement_add(st, " OR ");
		add_null_test(st, read, key, " IS NULL");
	}
}

static bool
is_one_range(const OrionKeyset *keyset)
{
	for (int i = 0; i < keyset->n; i++)
	{
		const OrionKey *key = &keyset->keys[i];

		if (!key->never_null || key->value == NULL || key->order->descending != keyset->keys[0].order->descending ||
			operator_schema(find_operator(key->type, '<')) != PG_CATALOG_NAMESPACE)
			return false;
	}
	return true;
}

/* ROW(a, b) > ROW($1, $2) */
static void
add_range(OrionStatement *st, const OrionRead *read, const OrionKeyset *keyset)
{
	orion_statement_add(st, "ROW(");
	for (int i = 0; i < keyset->n; i++)
	{
		orion_statement_add(st, i > 0 ? ", " : "");
		orion_filter_field(st, read, &keyset->keys[i].order->name);
	}
	orion_statement_add(st, keyset->keys[0].order->descending ? ") OPERATOR(pg_catalog.<) ROW(" :
						") OPERATOR(pg_catalog.>) ROW(");
	for (int i = 0; i < keyset->n; i++)
	{
		orion_statement_add(st, i > 0 ? ", " : "");
		orion_statement_input(st, keyset->keys[i].type, keyset->keys[i].value);
	}
	orion_statement_add(st, ")");
}

/* false OR (behind 1) OR (equal 1 AND (behind 2)) OR ... */
static void
add_alternatives(OrionStatement *st, const OrionRead *read, const OrionKeyset *keyset)
{
	orion_statement_add(st, "(false");
	for (int i = 0; i < keyset->n; i++)
	{
		if (!has_rows_behind(&keyset->keys[i]))
			continue;
		orion_statement_add(st, " OR (");
		for (int j = 0; j < i; j++)
		{
			add_equal(st, read, &keyset->keys[j]);
			orion_statement_add(st, " AND ");
		}
		orion_statement_add(st, "(");
		add_behind(st, read, &keyset->keys[i]);
		orion_statement_add(st, "))");
	}
	orion_statement_add(st, ")");
}

void
orion_keyset_where(OrionStatement *st, const OrionRead *read, const char *joint)
{
	const OrionKeyset *keyset = read->keyset;

	if (keyset == NULL || !keyset->started)
		return;
	orion_statement_add(st, joint);
	if (is_one_range(keyset))
		add_range(st, read, keyset);
	else
		add_alternatives(st, read, keyset);
}

/* --- the next page ---------------------------------------------------------------------- */

/* The keys of the last row of the page; false when it is the last page. */
static bool
find_last(const OrionRead *read, OrionKeyset *keyset)
{
	OrionStatement st;

	orion_statement_init(&st);
	orion_statement_add(&st, "SELECT ");
	for (int i = 0; i < keyset->n; i++)
	{
		orion_statement_add(&st, i > 0 ? ", " : "");
		orion_filter_field(&st, read, &keyset->keys[i].order->name);
	}
	orion_statement_add(&st, " FROM ");
	orion_statement_add(&st, read->source->quoted);
	orion_read_end_count(&st, read);
	orion_filter_order(&st, read);
	orion_statement_add(&st, " LIMIT 2 OFFSET ");
	orion_statement_param(&st, INT8OID, Int64GetDatum(keyset->page - 1));
	orion_statement_run(&st, true);
	if (SPI_processed < 2)
		return false;
	for (int i = 0; i < keyset->n; i++)
		keyset->keys[i].value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1);
	return true;
}

/* Of an address as it came: what could end the header's value early is encoded. */
static void
append_address(StringInfo out, const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
	{
		unsigned char c = text[i];

		if (c <= ' ' || c >= 0x7f || c == '<' || c == '>' || c == '"')
			appendStringInfo(out, "%%%02X", c);
		else
			appendStringInfoChar(out, c);
	}
}

/* Is this part of a query string the parameter "cursor"? */
static bool
names_cursor(const OrionCall *call, const char *part, size_t len)
{
	OrionParam *param;
	OrionQueryError error;

	return orion_query_split(&call->arena, part, len, &param, &error) && param && is_cursor(param);
}

void
orion_keyset_link(OrionCall *call, const OrionRead *read, int64 rows)
{
	OrionKeyset *keyset = read->keyset;
	StringInfoData link;

	if (keyset == NULL || keyset->page < 0 || rows < keyset->page || !find_last(read, keyset))
		return;
	initStringInfo(&link);
	appendStringInfoChar(&link, '<');
	append_address(&link, call->request->path, strlen(call->request->path));
	appendStringInfoChar(&link, '?');
	for (const char *part = call->request->query; *part;)
	{
		size_t		len = strcspn(part, "&");

		if (len > 0 && !names_cursor(call, part, len))
		{
			append_address(&link, part, len);
			appendStringInfoChar(&link, '&');
		}
		part += len + (part[len] == '&');
	}
	appendStringInfo(&link, "cursor=%s>; rel=\"next\"", write_cursor(keyset));
	orion_response_header(call->response, "Link", link.data);
}
