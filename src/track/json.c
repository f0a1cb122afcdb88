/*
 * json.c
 *	  Values of columns as JSON: what to_jsonb() makes of them, without looking the
 *	  type up for each.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"

#include "core/compat.h"
#include "track/track_private.h"

void
orion_track_prepare_column(OrionTrackedColumn *column)
{
	/* to_jsonb looks at the expression for the type of its argument */
	List	   *arguments = list_make1(makeNullConst(column->type, -1, InvalidOid));
	FuncExpr   *call = makeFuncExpr(F_TO_JSONB, JSONBOID, arguments, InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);

	fmgr_info(F_TO_JSONB, &column->to_jsonb);
	fmgr_info_set_expr((Node *) call, &column->to_jsonb);
}

void
orion_track_push_key(JsonbParseState **state, const char *key)
{
	JsonbValue	v = {.type = jbvString,.val.string = {.len = strlen(key),.val = unconstify(char *, key)}};

	pushJsonbValue(state, WJB_KEY, &v);
}

void
orion_track_push_string(JsonbParseState **state, JsonbIteratorToken place, const char *value)
{
	JsonbValue	v = {.type = jbvString,.val.string = {.len = strlen(value),.val = unconstify(char *, value)}};

	pushJsonbValue(state, place, &v);
}

static void
set_string(JsonbValue *v, char *value)
{
	v->type = jbvString;
	v->val.string.val = value;
	v->val.string.len = strlen(value);
}

static void
set_number(JsonbValue *v, Numeric value)
{
	/* JSON has no NaN and no infinity */
	if (numeric_is_nan(value) || numeric_is_inf(value))
		set_string(v, DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value))));
	else
	{
		v->type = jbvNumeric;
		v->val.numeric = value;
	}
}

static void
set_jsonb(JsonbValue *v, Jsonb *value)
{
	v->type = jbvBinary;
	v->val.binary.data = &value->root;
	v->val.binary.len = VARSIZE(value) - VARHDRSZ;
}

static void
set_value(JsonbValue *v, OrionTrackedColumn *column, Datum value)
{
	text	   *packed;
	int			utc = 0;

	switch (column->type)
	{
		case BOOLOID:
			v->type = jbvBool;
			v->val.boolean = DatumGetBool(value);
			break;
		case INT2OID:
			set_number(v, int64_to_numeric(DatumGetInt16(value)));
			break;
		case INT4OID:
			set_number(v, int64_to_numeric(DatumGetInt32(value)));
			break;
		case INT8OID:
			set_number(v, int64_to_numeric(DatumGetInt64(value)));
			break;
		case NUMERICOID:
			if (column->canonical)
				value = DirectFunctionCall1(numeric_trim_scale, value);
			set_number(v, DatumGetNumeric(value));
			break;
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
			packed = DatumGetTextPP(value);
			v->type = jbvString;
			v->val.string.val = VARDATA_ANY(packed);
			v->val.string.len = VARSIZE_ANY_EXHDR(packed);
			break;
		case UUIDOID:
			set_string(v, DatumGetCString(DirectFunctionCall1(uuid_out, value)));
			break;
		case DATEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			set_string(v, JsonEncodeDateTime(palloc(MAXDATELEN + 1), value, column->type, column->canonical ? &utc : NULL));
			break;
		case JSONBOID:
			set_jsonb(v, DatumGetJsonbP(value));
			break;
		default:
			set_jsonb(v, DatumGetJsonbP(FunctionCall1(&column->to_jsonb, value)));
	}
}

void
orion_track_push_value(JsonbParseState **state, JsonbIteratorToken place, OrionTrackedColumn *column, Datum value, bool isnull)
{
	JsonbValue	v = {.type = jbvNull};

	if (!isnull)
		set_value(&v, column, value);
	pushJsonbValue(state, place, &v);
}

char *
orion_track_value_text(OrionTrackedColumn *column, Datum value)
{
	JsonbValue	v;
	Jsonb	   *jsonb;

	set_value(&v, column, value);
	if (v.type == jbvBinary && JsonContainerIsScalar(v.val.binary.data))
		(void) JsonbExtractScalar(v.val.binary.data, &v);
	if (v.type == jbvString)
		return pnstrdup(v.val.string.val, v.val.string.len);
	if (v.type == jbvNumeric)
		return DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(v.val.numeric)));
	jsonb = JsonbValueToJsonb(&v);
	return JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb));
}
