/*
 * check.c
 *	  Holds a value against an OrionSchema and says what is wrong with it.
 *
 * Runs in publishing transactions.  Allocates only for what is wrong.
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "contract/schema.h"
#include "core/compat.h"
#include "token/token.h"

#define SHOWN	64				/* bytes of a value that a message repeats */
#define SHOWN_LIST	200			/* of the values allowed */

static char *check(const OrionSchema *schema, JsonbValue *value, const OrionPath *path);

static int
type_of(const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvNull:
			return ORION_JSON_NULL;
		case jbvString:
			return ORION_JSON_STRING;
		case jbvNumeric:
			return ORION_JSON_NUMBER;
		case jbvBool:
			return ORION_JSON_BOOLEAN;
		default:
			return JsonContainerIsArray(value->val.binary.data) ? ORION_JSON_ARRAY : ORION_JSON_OBJECT;
	}
}

static bool
is_integer(Numeric number)
{
	return DatumGetBool(DirectFunctionCall2(numeric_eq, NumericGetDatum(number),
											DirectFunctionCall2(numeric_trunc, NumericGetDatum(number), Int32GetDatum(0))));
}

static const char *
article(int type)
{
	switch (type)
	{
		case ORION_JSON_OBJECT:
		case ORION_JSON_ARRAY:
		case ORION_JSON_INTEGER:
			return "an ";
		case ORION_JSON_NULL:
			return "";
		default:
			return "a ";
	}
}

/* "a string, an integer or null" */
static char *
expected_types(int types)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int bit = 1; bit <= ORION_JSON_NULL; bit <<= 1)
	{
		if (!(types & bit))
			continue;
		if (buf.len > 0)
			appendStringInfoString(&buf, (types & ~((bit << 1) - 1)) ? ", " : " or ");
		appendStringInfo(&buf, "%s%s", article(bit), orion_json_type_name(bit));
	}
	return buf.data;
}

/* What came, cut to a length that a message can bear. */
static char *
shown(JsonbValue *value)
{
	int			type = type_of(value);
	Jsonb	   *jsonb;
	char	   *text;
	int			len;

	if (type == ORION_JSON_OBJECT || type == ORION_JSON_ARRAY)
		return psprintf("%s%s", article(type), orion_json_type_name(type));
	jsonb = JsonbValueToJsonb(value);
	text = JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb));

	len = strlen(text);
	if (len <= SHOWN)
		return text;

	return psprintf("%.*s...", pg_mbcliplen(text, len, SHOWN), text);
}

static char *
violation(const OrionPath *path, const char *expected, const char *came)
{
	return psprintf("%s must %s, but %s", orion_path_text(path), expected, came);
}

static char *
check_type(const OrionSchema *schema, JsonbValue *value, const OrionPath *path)
{
	int			type = type_of(value);

	if (schema->types == 0 || (schema->types & type))
		return NULL;
	if (type == ORION_JSON_NUMBER && (schema->types & ORION_JSON_INTEGER))
		return is_integer(value->val.numeric) ? NULL :
			violation(path, psprintf("be %s", expected_types(schema->types)), psprintf("is %s", shown(value)));
	return violation(path, psprintf("be %s", expected_types(schema->types)),
					 psprintf("is %s%s", article(type), orion_json_type_name(type)));
}

static bool
is_among(JsonbContainer *values, JsonbValue *value)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;

	if (value->type != jbvBinary)
		return findJsonbValueFromContainer(values, JB_FARRAY, value) != NULL;
	it = JsonbIteratorInit(values);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
		if (token == WJB_ELEM && v.type == jbvBinary &&
			compareJsonbContainers(v.val.binary.data, value->val.binary.data) == 0)
			return true;
	return false;
}

static char *
check_values(const OrionSchema *schema, JsonbValue *value, const OrionPath *path)
{
	char	   *list;
	int			len;

	if (schema->values == NULL || is_among(schema->values, value))
		return NULL;
	list = JsonbToCString(NULL, schema->values, 0) + 1; /* without its brackets */
	len = strlen(list) - 1;
	return violation(path, psprintf("be %s%.*s%s", JsonContainerSize(schema->values) == 1 ? "" : "one of ",
									pg_mbcliplen(list, len, SHOWN_LIST), list, len > SHOWN_LIST ? "..." : ""),
					 psprintf("is %s", shown(value)));
}

static int
compare_numbers(Numeric a, Numeric b)
{
	return DatumGetInt32(DirectFunctionCall2(numeric_cmp, NumericGetDatum(a), NumericGetDatum(b)));
}

static char *
limit_violation(const OrionPath *path, const char *relation, Numeric limit, JsonbValue *value)
{
	return violation(path, psprintf("be %s %s", relation, DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(limit)))),
					 psprintf("is %s", shown(value)));
}

static char *
check_number(const OrionSchema *schema, JsonbValue *value, const OrionPath *path)
{
	Numeric		number = value->val.numeric;

	if (schema->minimum && compare_numbers(number, schema->minimum) < 0)
		return limit_violation(path, "at least", schema->minimum, value);
	if (schema->maximum && compare_numbers(number, schema->maximum) > 0)
		return limit_violation(path, "at most", schema->maximum, value);
	if (schema->above && compare_numbers(number, schema->above) <= 0)
		return limit_violation(path, "more than", schema->above, value);
	if (schema->below && compare_numbers(number, schema->below) >= 0)
		return limit_violation(path, "less than", schema->below, value);
	return NULL;
}

/* min or max may be -1: no limit */
static char *
check_count(const OrionPath *path, int64 count, int64 min, int64 max, const char *what)
{
	if (min >= 0 && count < min)
		return violation(path, psprintf("have at least " INT64_FORMAT " %s", min, what), psprintf("has " INT64_FORMAT, count));
	if (max >= 0 && count > max)
		return violation(path, psprintf("have at most " INT64_FORMAT " %s", max, what), psprintf("has " INT64_FORMAT, count));
	return NULL;
}

/* Two digits at most max, at text[0..1]. */
static bool
digits_up_to(const char *text, int min, int max)
{
	int			number;

	if (!isdigit((unsigned char) text[0]) || !isdigit((unsigned char) text[1]))
		return false;
	number = (text[0] - '0') *10 + text[1] - '0';

	return number >= min && number <= max;
}

/* RFC 3339, full-date: 2026-02-28 */
static bool
is_date(const char *text)
{
	static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	int			year;
	int			month;
	bool		leap;

	for (int i = 0; i < 4; i++)
		if (!isdigit((unsigned char) text[i]))
			return false;
	if (text[4] != '-' || !digits_up_to(text +5, 1, 12) || text[7] != '-')
		return false;
	year = atoi(pnstrdup(text, 4));
	month = atoi(pnstrdup(text +5, 2));
	leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
	return digits_up_to(text +8, 1, days[month - 1] + (month == 2 && leap));
}

/* RFC 3339, date-time: 2026-02-28T23:59:60.123+01:00 */
static bool
is_date_time(const char *text)
{
	if (strlen(text) < strlen("2026-02-28T23:59:60Z") || !is_date(text) || (text[10] != 'T' && text[10] != 't') ||
		!digits_up_to(text +11, 0, 23) || text[13] != ':' || !digits_up_to(text +14, 0, 59) ||
		text[16] != ':' || !digits_up_to(text +17, 0, 60))
		return false;
	text	  +=19;

	if (*text == '.')
	{
		if (!isdigit((unsigned char) *++text))
			return false;
		while (isdigit((unsigned char) *text))
			text	  ++;
	}
	if ((*text == 'Z' || *text == 'z') &&text[1] == '\0')
		return true;
	return (*text == '+' || *text == '-') &&strlen(text) == strlen("+01:00") &&
		digits_up_to(text +1, 0, 23) && text[3] == ':' && digits_up_to(text +4, 0, 59);
}

static char *
check_format(OrionFormat format, JsonbValue *value, const OrionPath *path)
{
	char	   *text;

	if (format == ORION_FORMAT_NONE)
		return NULL;
	text = pnstrdup(value->val.string.val, value->val.string.len);

	if (format == ORION_FORMAT_UUID && !orion_looks_like_uuid(text))
		return violation(path, "be a UUID", psprintf("is %s", shown(value)));
	if (format == ORION_FORMAT_DATE && (strlen(text) != strlen("2026-02-28") || !is_date(text)))
		return violation(path, "be a date (RFC 3339)", psprintf("is %s", shown(value)));
	if (format == ORION_FORMAT_DATE_TIME && !is_date_time(text))
		return violation(path, "be a date and time with offset (RFC 3339)", psprintf("is %s", shown(value)));
	pfree(text);
	return NULL;
}

static char *
check_string(const OrionSchema *schema, JsonbValue *value, const OrionPath *path)
{
	const char *string = value->val.string.val;
	int			len = value->val.string.len;
	char	   *wrong;

	if (schema->min_length >= 0 || schema->max_length >= 0)
	{
		wrong = check_count(path, pg_mbstrlen_with_len(string, len), schema->min_length, schema->max_length, "characters");
		if (wrong)
			return wrong;
	}
	if (schema->pattern &&
		!DatumGetBool(DirectFunctionCall2Coll(textregexeq, C_COLLATION_OID,
											  PointerGetDatum(cstring_to_text_with_len(string, len)),
											  PointerGetDatum(schema->pattern))))
		return violation(path, psprintf("match \"%s\"", text_to_cstring(schema->pattern)), psprintf("is %s", shown(value)));
	return check_format(schema->format, value, path);
}

static char *
check_array(const OrionSchema *schema, JsonbContainer *array, const OrionPath *path)
{
	char	   *wrong = check_count(path, JsonContainerSize(array), schema->min_items, schema->max_items, "elements");
	OrionPath	inner = {.up = path};
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;

	if (wrong || schema->items == NULL)
		return wrong;
	it = JsonbIteratorInit(array);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		wrong = check(schema->items, &v, &inner);
		if (wrong)
			return wrong;
		inner.index++;
	}
	return NULL;
}

static bool
is_declared(const OrionSchema *schema, const JsonbValue *key)
{
	for (int i = 0; i < schema->nproperties; i++)
		if (schema->properties[i].declared && schema->properties[i].len == key->val.string.len &&
			memcmp(schema->properties[i].key, key->val.string.val, key->val.string.len) == 0)
			return true;
	return false;
}

static char *
check_additional(const OrionSchema *schema, JsonbContainer *object, const OrionPath *path)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	OrionPath	inner = {.up = path};
	bool		declared = false;
	char	   *wrong;

	if (!schema->closed && schema->additional == NULL)
		return NULL;
	it = JsonbIteratorInit(object);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			declared = is_declared(schema, &v);
			inner.key = v.val.string.val;
			inner.len = v.val.string.len;
			if (!declared && schema->closed)
				return psprintf("%s is not allowed", orion_path_text(&inner));
		}
		else if (token == WJB_VALUE && !declared)
		{
			wrong = check(schema->additional, &v, &inner);
			if (wrong)
				return wrong;
		}
	}
	return NULL;
}

static char *
missing(const OrionProperty *property, const OrionPath *path)
{
	if (property->schema && property->schema->types)
		return violation(path, psprintf("be %s", expected_types(property->schema->types)), "is missing");
	return psprintf("%s is missing", orion_path_text(path));
}

static char *
check_object(const OrionSchema *schema, JsonbContainer *object, const OrionPath *path)
{
	for (int i = 0; i < schema->nproperties; i++)
	{
		OrionProperty *property = &schema->properties[i];
		OrionPath	inner = {.up = path,.key = property->key,.len = property->len};
		JsonbValue	buffer;
		JsonbValue *value = getKeyJsonValueFromContainer(object, property->key, property->len, &buffer);
		char	   *wrong = NULL;

		if (value == NULL && property->required)
			return missing(property, &inner);
		if (value && property->schema)
			wrong = check(property->schema, value, &inner);
		if (wrong)
			return wrong;
	}
	return check_additional(schema, object, path);
}

static char *
check(const OrionSchema *schema, JsonbValue *value, const OrionPath *path)
{
	char	   *wrong;

	check_stack_depth();
	if (schema->never)
		return psprintf("%s is not allowed", orion_path_text(path));
	if ((wrong = check_type(schema, value, path)) != NULL || (wrong = check_values(schema, value, path)) != NULL)
		return wrong;
	switch (type_of(value))
	{
		case ORION_JSON_OBJECT:
			return check_object(schema, value->val.binary.data, path);
		case ORION_JSON_ARRAY:
			return check_array(schema, value->val.binary.data, path);
		case ORION_JSON_STRING:
			return check_string(schema, value, path);
		case ORION_JSON_NUMBER:
			return check_number(schema, value, path);
		default:
			return NULL;
	}
}

char *
orion_schema_violation(const OrionSchema *schema, Jsonb *document, const char *name)
{
	OrionPath	root = {.key = name,.len = strlen(name)};
	JsonbValue	value = {.type = jbvBinary,.val.binary = {.data = &document->root,.len = VARSIZE(document) - VARHDRSZ}};

	if (JB_ROOT_IS_SCALAR(document))
		(void) JsonbExtractScalar(&document->root, &value);
	return check(schema, &value, &root);
}
