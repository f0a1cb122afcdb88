/*
 * json_row.c
 *	  Rows of the executor as JSON objects, byte for byte as row_to_json writes them.
 *
 * What a value of PostgreSQL's own scalar types looks like is written here; whatever
 * has parts (arrays, composites) or may have a cast to json goes through to_json.
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "common/jsonapi.h"
#include "fmgr.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgroids.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"

#include "core/compat.h"
#include "rest/json_row.h"

typedef enum Form
{
	FORM_STRING,				/* its text, as a JSON string */
	FORM_BOOLEAN,
	FORM_INTEGER,
	FORM_NUMBER,				/* its text, a string only if that is no JSON
								 * number */
	FORM_TIME,					/* ISO 8601, as a string */
	FORM_TEXT_JSON,				/* is JSON already */
	FORM_BINARY_JSON,
	FORM_CALL,					/* whatever to_json makes of it */
} Form;

typedef struct Column
{
	char	   *key;			/* from what is in front of it to the colon */
	int			key_len;
	Oid			type;			/* below all domains */
	Form		form;
	FmgrInfo	function;		/* the type's output function, or to_json */
} Column;

struct OrionJsonRow
{
	int			n;
	Column		columns[FLEXIBLE_ARRAY_MEMBER];
};

static Form
form_of(Oid type)
{
	switch (type)
	{
		case BOOLOID:
			return FORM_BOOLEAN;
		case INT2OID:
		case INT4OID:
		case INT8OID:
			return FORM_INTEGER;
		case FLOAT4OID:
		case FLOAT8OID:
		case NUMERICOID:
			return FORM_NUMBER;
		case DATEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			return FORM_TIME;
		case JSONOID:
			return FORM_TEXT_JSON;
		case JSONBOID:
			return FORM_BINARY_JSON;
	}
	if (type >= FirstNormalObjectId || type_is_array(type) || type_is_rowtype(type) || get_typtype(type) != TYPTYPE_BASE)
		return FORM_CALL;
	return FORM_STRING;
}

/* to_json asks for the type of its argument's expression. */
static void
find_to_json(Column *column, Oid type)
{
	Node	   *argument = (Node *) makeNullConst(type, -1, InvalidOid);

	fmgr_info(F_TO_JSON, &column->function);
	fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSON, JSONOID, list_make1(argument), InvalidOid, InvalidOid,
											 COERCE_EXPLICIT_CALL), &column->function);
}

static void
describe(Column *column, const Form_pg_attribute att, bool first)
{
	StringInfoData key;
	Oid			output;
	bool		varlena;

	initStringInfo(&key);
	appendStringInfoChar(&key, first ? '{' : ',');
	escape_json(&key, NameStr(att->attname));
	appendStringInfoChar(&key, ':');
	column->key = key.data;
	column->key_len = key.len;
	column->type = att->atttypid < FirstUnpinnedObjectId ? att->atttypid : getBaseType(att->atttypid);
	column->form = form_of(column->type);
	if (column->form == FORM_CALL)
		find_to_json(column, att->atttypid);
	else if (column->form == FORM_STRING || column->form == FORM_NUMBER)
	{
		getTypeOutputInfo(column->type, &output, &varlena);
		fmgr_info(output, &column->function);
	}
}

OrionJsonRow *
orion_json_row_make(TupleDesc desc)
{
	OrionJsonRow *row = palloc(offsetof(OrionJsonRow, columns) + desc->natts * sizeof(Column));

	row->n = desc->natts;
	for (int i = 0; i < desc->natts; i++)
		describe(&row->columns[i], TupleDescAttr(desc, i), i == 0);
	return row;
}

static void
put_integer(Oid type, Datum value, StringInfo out)
{
	char		digits[MAXINT8LEN + 1];
	int			len;

	if (type == INT8OID)
		len = pg_lltoa(DatumGetInt64(value), digits);
	else
		len = pg_ltoa(type == INT4OID ? DatumGetInt32(value) : DatumGetInt16(value), digits);
	appendBinaryStringInfo(out, digits, len);
}

static void
put_time(Oid type, Datum value, StringInfo out)
{
	char		iso[MAXDATELEN + 1];

	JsonEncodeDateTime(iso, value, type, NULL);
	appendStringInfoChar(out, '"');
	appendStringInfoString(out, iso);
	appendStringInfoChar(out, '"');
}

/* NaN and the infinities are no JSON numbers. */
static void
put_number(char *text, StringInfo out)
{
	int			len = strlen(text);

	if (IsValidJsonNumber(text, len))
		appendBinaryStringInfo(out, text, len);
	else
		escape_json(out, text);
}

static void
put_text(Datum value, StringInfo out)
{
	struct varlena *text = PG_DETOAST_DATUM_PACKED(value);

	appendBinaryStringInfo(out, VARDATA_ANY(text), VARSIZE_ANY_EXHDR(text));
}

static void
put_value(const Column *column, Datum value, StringInfo out)
{
	FmgrInfo   *function = unconstify(FmgrInfo *, &column->function);

	switch (column->form)
	{
		case FORM_STRING:
			escape_json(out, OutputFunctionCall(function, value));
			break;
		case FORM_BOOLEAN:
			appendStringInfoString(out, DatumGetBool(value) ? "true" : "false");
			break;
		case FORM_INTEGER:
			put_integer(column->type, value, out);
			break;
		case FORM_NUMBER:
			put_number(OutputFunctionCall(function, value), out);
			break;
		case FORM_TIME:
			put_time(column->type, value, out);
			break;
		case FORM_TEXT_JSON:
			put_text(value, out);
			break;
		case FORM_BINARY_JSON:
			{
				Jsonb	   *json = DatumGetJsonbP(value);

				(void) JsonbToCString(out, &json->root, VARSIZE(json));
				break;
			}
		case FORM_CALL:
			put_text(FunctionCall1(function, value), out);
			break;
	}
}

void
orion_json_row_write(const OrionJsonRow *row, TupleTableSlot *slot, StringInfo out)
{
	if (row->n == 0)
		appendStringInfoChar(out, '{');
	slot_getallattrs(slot);
	for (int i = 0; i < row->n; i++)
	{
		const Column *column = &row->columns[i];

		appendBinaryStringInfo(out, column->key, column->key_len);
		if (slot->tts_isnull[i])
			appendStringInfoString(out, "null");
		else
			put_value(column, slot->tts_values[i], out);
	}
	appendStringInfoChar(out, '}');
}
