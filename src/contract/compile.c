/*
 * compile.c
 *	  Makes an OrionSchema of a JSON document.
 *
 * Runs when a contract is registered, where errors are the administrator's, and
 * when a backend loads it.  One function for each keyword.
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "contract/schema.h"
#include "core/compat.h"

static OrionSchema *compile(JsonbValue *document, const OrionPath *path, int depth);

static const struct
{
	const char *name;
	int			type;
}			types[] = {
	{"object", ORION_JSON_OBJECT}, {"array", ORION_JSON_ARRAY}, {"string", ORION_JSON_STRING},
	{"number", ORION_JSON_NUMBER}, {"integer", ORION_JSON_INTEGER}, {"boolean", ORION_JSON_BOOLEAN},
	{"null", ORION_JSON_NULL},
};

/* They say something about the schema and nothing about values. */
static const char *const annotations[] = {
	"$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"
};

const char *
orion_json_type_name(int type)
{
	for (int i = 0; i < lengthof(types); i++)
		if (types[i].type == type)
			return types[i].name;
	return "nothing";
}

char *
orion_path_text(const OrionPath *path)
{
	if (path->up == NULL)
		return pnstrdup(path->key, path->len);
	if (path->key == NULL)
		return psprintf("%s[%d]", orion_path_text(path->up), path->index);
	for (int i = 0; i < path->len; i++)
		if (!isalnum((unsigned char) path->key[i]) && path->key[i] != '_')
			return psprintf("%s[\"%.*s\"]", orion_path_text(path->up), path->len, path->key);
	return psprintf("%s.%.*s", orion_path_text(path->up), path->len, path->key);
}

static void
refuse(const OrionPath *path, const char *problem)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid contract: %s %s", orion_path_text(path), problem)));
}

static bool
is_text(const JsonbValue *value, const char *expected)
{
	return value->type == jbvString && value->val.string.len == strlen(expected) &&
		memcmp(value->val.string.val, expected, strlen(expected)) == 0;
}

static JsonbContainer *
array_of(JsonbValue *value, const OrionPath *path)
{
	if (value->type != jbvBinary || !JsonContainerIsArray(value->val.binary.data))
		refuse(path, "must be an array");
	return value->val.binary.data;
}

static JsonbContainer *
object_of(JsonbValue *value, const OrionPath *path)
{
	if (value->type != jbvBinary || !JsonContainerIsObject(value->val.binary.data))
		refuse(path, "must be an object");
	return value->val.binary.data;
}

static int
type_bit(const JsonbValue *value, const OrionPath *path)
{
	for (int i = 0; i < lengthof(types); i++)
		if (is_text(value, types[i].name))
			return types[i].type;
	refuse(path, "must be object, array, string, number, integer, boolean or null, or an array of them");
	return 0;
}

static void
compile_type(OrionSchema *schema, JsonbValue *value, const OrionPath *path, int depth)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;

	if (value->type == jbvString)
	{
		schema->types = type_bit(value, path);
		return;
	}
	it = JsonbIteratorInit(array_of(value, path));
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
		if (token == WJB_ELEM)
			schema->types |= type_bit(&v, path);
	if (schema->types == 0)
		refuse(path, "must not be empty");
}

static void
set_values(OrionSchema *schema, JsonbContainer *values, const OrionPath *path)
{
	if (schema->values)
		refuse(path, "is one too many: enum and const exclude each other");
	schema->values = values;
}

static void
compile_enum(OrionSchema *schema, JsonbValue *value, const OrionPath *path, int depth)
{
	JsonbContainer *values = array_of(value, path);

	if (JsonContainerSize(values) == 0)
		refuse(path, "must not be empty");
	set_values(schema, values, path);
}

static void
compile_const(OrionSchema *schema, JsonbValue *value, const OrionPath *path, int depth)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	pushJsonbValue(&state, WJB_ELEM, value);
	set_values(schema, &JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL))->root, path);
}

/* The property of that key, added when it is not there. */
static OrionProperty *
property(OrionSchema *schema, const char *key, int len)
{
	OrionProperty *added;

	for (int i = 0; i < schema->nproperties; i++)
		if (schema->properties[i].len == len && memcmp(schema->properties[i].key, key, len) == 0)
			return &schema->properties[i];
	if (schema->properties == NULL)
		schema->properties = palloc(sizeof(OrionProperty));
	else
		schema->properties = repalloc(schema->properties, (schema->nproperties + 1) * sizeof(OrionProperty));
	added = &schema->properties[schema->nproperties++];
	memset(added, 0, sizeof(OrionProperty));
	added->key = pnstrdup(key, len);
	added->len = len;
	return added;
}

static void
compile_properties(OrionSchema *schema, JsonbValue *value, const OrionPath *path, int depth)
{
	JsonbIterator *it = JsonbIteratorInit(object_of(value, path));
	JsonbIteratorToken token;
	JsonbValue	v;
	OrionPath	inner = {.up = path};

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			inner.key = v.val.string.val;
			inner.len = v.val.string.len;
		}
		else if (token == WJB_VALUE)
		{
			OrionSchema *compiled = compile(&v, &inner, depth + 1);
			OrionProperty *declared = property(schema, inner.key, inner.len);

			declared->declared = true;
			declared->schema = compiled;
		}
	}
}

static void
compile_required(OrionSchema *schema, JsonbValue *value, const OrionPath *path, int depth)
{
	JsonbIterator *it = JsonbIteratorInit(array_of(value, path));
	JsonbIteratorToken token;
	JsonbValue	v;

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		if (v.type != jbvString)
			refuse(path, "must be an array of strings");
		property(schema, v.val.string.val, v.val.string.len)->required = true;
	}
}

static void
compile_additional(OrionSchema *schema, JsonbValue *value, const OrionPath *path, int depth)
{
	if (value->type == jbvBool)
		schema->closed = !value->val.boolean;
	else
		schema->additional = compile(value, path, depth + 1);
}

static void
compile_items(OrionSchema *schema, JsonbValue *value, const OrionPath *path, int depth)
{
	schema->items = compile(value, path, depth + 1);
}

static int64
count_of(const JsonbValue *value, const OrionPath *path)
{
	int64		count;

	if (value->type != jbvNumeric || numeric_is_nan(value->val.numeric))
		refuse(path, "must be a number");
	count = DatumGetInt64(DirectFunctionCall1(numeric_int8, NumericGetDatum(value->val.numeric)));
	if (count < 0 || !DatumGetBool(DirectFunctionCall2(numeric_eq, NumericGetDatum(int64_to_numeric(count)),
													   NumericGetDatum(value->val.numeric))))
		refuse(path, "must be a whole number of 0 or more");
	return count;
}

static void
compile_count(OrionSchema *schema, JsonbValue *value, const OrionPath *path, int depth)
{
	int64		count = count_of(value, path);

	if (strncmp(path->key, "minItems", path->len) == 0)
		schema->min_items = count;
	else if (strncmp(path->key, "maxItems", path->len) == 0)
		schema->max_items = count;
	else if (strncmp(path->key, "minLength", path->len) == 0)
		schema->min_length = count;
	else
		schema->max_length = count;
}

static void
compile_limit(OrionSchema *schema, JsonbValue *value, const OrionPath *path, int depth)
{
	if (value->type != jbvNumeric)
		refuse(path, "must be a number");
	if (strncmp(path->key, "minimum", path->len) == 0)
		schema->minimum = value->val.numeric;
	else if (strncmp(path->key, "maximum", path->len) == 0)
		schema->maximum = value->val.numeric;
	else if (strncmp(path->key, "exclusiveMinimum", path->len) == 0)
		schema->above = value->val.numeric;
	else
		schema->below = value->val.numeric;
}

static void
compile_pattern(OrionSchema *schema, JsonbValue *value, const OrionPath *path, int depth)
{
	if (value->type != jbvString)
		refuse(path, "must be a string");
	schema->pattern = cstring_to_text_with_len(value->val.string.val, value->val.string.len);
	/* an invalid expression is refused here, not when the first event comes */
	(void) DirectFunctionCall2Coll(textregexeq, C_COLLATION_OID, PointerGetDatum(cstring_to_text("")),
								   PointerGetDatum(schema->pattern));
}

static void
compile_format(OrionSchema *schema, JsonbValue *value, const OrionPath *path, int depth)
{
	if (is_text(value, "uuid"))
		schema->format = ORION_FORMAT_UUID;
	else if (is_text(value, "date"))
		schema->format = ORION_FORMAT_DATE;
	else if (is_text(value, "date-time"))
		schema->format = ORION_FORMAT_DATE_TIME;
	else
		refuse(path, "must be uuid, date or date-time");
}

static const struct
{
	const char *name;
	void		(*compile) (OrionSchema *schema, JsonbValue *value, const OrionPath *path, int depth);
}			keywords[] = {
	{"type", compile_type}, {"enum", compile_enum}, {"const", compile_const},
	{"properties", compile_properties}, {"required", compile_required}, {"additionalProperties", compile_additional},
	{"items", compile_items}, {"minItems", compile_count}, {"maxItems", compile_count},
	{"minLength", compile_count}, {"maxLength", compile_count}, {"pattern", compile_pattern}, {"format", compile_format},
	{"minimum", compile_limit}, {"maximum", compile_limit},
	{"exclusiveMinimum", compile_limit}, {"exclusiveMaximum", compile_limit},
};

static void
compile_keyword(OrionSchema *schema, const JsonbValue *key, JsonbValue *value, const OrionPath *path, int depth)
{
	OrionPath	inner = {.up = path,.key = key->val.string.val,.len = key->val.string.len};

	for (int i = 0; i < lengthof(keywords); i++)
		if (is_text(key, keywords[i].name))
		{
			keywords[i].compile(schema, value, &inner, depth);
			return;
		}
	for (int i = 0; i < lengthof(annotations); i++)
		if (is_text(key, annotations[i]))
			return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("invalid contract: %s is no keyword that is checked", orion_path_text(&inner)),
			 errhint("The keywords are type, enum, const, properties, required, additionalProperties, items, minItems,"
					 " maxItems, minLength, maxLength, pattern, format, minimum, maximum, exclusiveMinimum and exclusiveMaximum.")));
}

static OrionSchema *
compile(JsonbValue *document, const OrionPath *path, int depth)
{
	OrionSchema *schema = palloc0(sizeof(OrionSchema));
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	JsonbValue	key = {0};

	if (depth > ORION_SCHEMA_DEPTH)
		refuse(path, "is nested too deeply");
	schema->min_items = schema->max_items = schema->min_length = schema->max_length = -1;
	if (document->type == jbvBool)
	{
		schema->never = !document->val.boolean;
		return schema;
	}
	it = JsonbIteratorInit(object_of(document, path));
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			key = v;
		else if (token == WJB_VALUE)
			compile_keyword(schema, &key, &v, path, depth);
	}
	return schema;
}

OrionSchema *
orion_schema_compile(Jsonb *document)
{
	OrionPath	root = {.key = "schema",.len = strlen("schema")};
	JsonbValue	value = {.type = jbvBinary,.val.binary = {.data = &document->root,.len = VARSIZE(document) - VARHDRSZ}};

	if (JB_ROOT_IS_SCALAR(document))
		(void) JsonbExtractScalar(&document->root, &value);
	return compile(&value, &root, 1);
}
