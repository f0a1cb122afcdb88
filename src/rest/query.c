/*
 * query.c
 *	  Parses the query string of the REST dialect (PostgREST's grammar).
 *
 * Runs in executors, before any privilege is checked, on bytes of anybody.
 * Recursion is bounded by ORION_QUERY_MAX_DEPTH, the number of parameters and
 * items by constants, all else is linear in the text.  Errors are returned.
 */
#include "rest/query.h"

#include <limits.h>
#include <string.h>

typedef struct Parser
{
	const OrionArena *arena;
	OrionQueryError *error;
	const char *what;
	const char *text;			/* terminated */
	size_t		pos;
	int			depth;
	int			items;
} Parser;

typedef struct OperatorName
{
	const char *name;
	OrionOperator op;
	bool		quantifiable;	/* takes (any) and (all) */
} OperatorName;

static const OperatorName operators[] = {
	{"eq", ORION_OP_EQ, true},
	{"neq", ORION_OP_NEQ, false},
	{"gt", ORION_OP_GT, true},
	{"gte", ORION_OP_GTE, true},
	{"lt", ORION_OP_LT, true},
	{"lte", ORION_OP_LTE, true},
	{"like", ORION_OP_LIKE, true},
	{"ilike", ORION_OP_ILIKE, true},
	{"match", ORION_OP_MATCH, true},
	{"imatch", ORION_OP_IMATCH, true},
	{"cs", ORION_OP_CS, false},
	{"cd", ORION_OP_CD, false},
	{"ov", ORION_OP_OV, false},
	{"sl", ORION_OP_SL, false},
	{"sr", ORION_OP_SR, false},
	{"nxr", ORION_OP_NXR, false},
	{"nxl", ORION_OP_NXL, false},
	{"adj", ORION_OP_ADJ, false},
	{"isdistinct", ORION_OP_ISDISTINCT, false},
	{"in", ORION_OP_IN, false},
	{"is", ORION_OP_IS, false},
};

static bool
fail(Parser *p, const char *problem)
{
	p->error->what = p->what;
	p->error->text = p->text;
	p->error->at = p->pos;
	p->error->problem = problem;
	return false;
}

static void *
make(Parser *p, size_t size)
{
	void	   *memory = p->arena->alloc(p->arena->context, size);

	if (memory)
		memset(memory, 0, size);
	else
		fail(p, "out of memory");
	return memory;
}

static char *
copy(Parser *p, const char *text, size_t len)
{
	char	   *result = make(p, len + 1);

	if (result)
		memcpy(result, text, len);
	return result;
}

static bool
accept(Parser *p, char c)
{
	if (p->text[p->pos] != c)
		return false;
	p->pos++;
	return true;
}

static bool
accept_text(Parser *p, const char *text)
{
	size_t		len = strlen(text);

	if (strncmp(p->text +p->pos, text, len) != 0)
		return false;
	p->pos += len;
	return true;
}

static bool
count_item(Parser *p)
{
	return ++p->items <= ORION_QUERY_MAX_ITEMS || fail(p, "too many items");
}

/* RFC 3629, table 3-7 of the Unicode standard: the length of the character at
 * text, 0 when there is none. */
static int
utf8_length(const unsigned char *text, size_t len)
{
	unsigned char a = text[0];
	unsigned char low = 0x80,
				high = 0xBF;
	int			need;

	if (a < 0x80)
		return a != 0;
	if (a < 0xC2 || a > 0xF4)
		return 0;
	need = a < 0xE0 ? 2 : a < 0xF0 ? 3 : 4;
	if (a == 0xE0)
		low = 0xA0;
	else if (a == 0xED)
		high = 0x9F;
	else if (a == 0xF0)
		low = 0x90;
	else if (a == 0xF4)
		high = 0x8F;
	if (len < (size_t) need || text[1] < low || text[1] > high)
		return 0;
	for (int i = 2; i < need; i++)
		if ((text[i] & 0xC0) !=0x80)
			return 0;
	return need;
}

bool
orion_utf8_valid(const char *text, size_t len)
{
	for (size_t i = 0; i < len;)
	{
		int			step = utf8_length((const unsigned char *) text +i, len - i);

		if (step == 0)
			return false;
		i += step;
	}
	return true;
}

static int
hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

char	   *
orion_percent_decode(const OrionArena *arena, const char *text, size_t len, bool plus)
{
	char	   *result = arena->alloc(arena->context, len + 1);
	size_t		n = 0;

	if (!result)
		return NULL;
	for (size_t i = 0; i < len; i++)
	{
		if (text[i] == '%')
		{
			int			high = len - i > 2 ? hex(text[i + 1]) : -1;
			int			low = len - i > 2 ? hex(text[i + 2]) : -1;

			if (high < 0 || low < 0)
				return NULL;
			result[n++] = (char) (high << 4 | low);
			i += 2;
		}
		else
			result[n++] = plus && text[i] == '+' ? ' ' : text[i];
	}
	result[n] = '\0';
	return orion_utf8_valid(result, n) ? result : NULL;
}

static bool
split_one(Parser *p, const char *text, size_t len, OrionParam **param)
{
	const char *equals = memchr(text, '=', len);
	size_t		name_len = equals ? (size_t) (equals - text) : len;

	*param = make(p, sizeof(OrionParam));
	if (!*param)
		return false;
	(*param)->name = orion_percent_decode(p->arena, text, name_len, true);
	(*param)->value = equals ?
		orion_percent_decode(p->arena, equals + 1, len - name_len - 1, true) : "";
	if (!(*param)->name || !(*param)->value)
		return fail(p, "broken percent-encoding, a NUL byte or invalid UTF-8");
	return true;
}

bool
orion_query_split(const OrionArena *arena, const char *text, size_t len,
				  OrionParam **params, OrionQueryError *error)
{
	Parser		p = {.arena = arena,.error = error,.what = "query string"};
	OrionParam **tail = params;
	int			n = 0;

	*params = NULL;
	for (size_t start = 0; start < len;)
	{
		const char *ampersand = memchr(text +start, '&', len - start);
		size_t		end = ampersand ? (size_t) (ampersand - text) : len;

		p.pos = start;
		if (end > start)
		{
			if (++n > ORION_QUERY_MAX_PARAMS)
				return fail(&p, "too many parameters");
			if (!split_one(&p, text +start, end - start, tail))
				return false;
			tail = &(*tail)->next;
		}
		start = end + 1;
	}
	return true;
}

/* "..." with backslash escapes; the opening quote is at pos. */
static char *
quoted(Parser *p)
{
	size_t		start = ++p->pos;
	size_t		n = 0;
	char	   *result;

	while (p->text[p->pos] && p->text[p->pos] != '"')
		p->pos += p->text[p->pos] == '\\' && p->text[p->pos + 1] ? 2 : 1;
	if (!p->text[p->pos])
	{
		fail(p, "the quote is not closed");
		return NULL;
	}
	result = make(p, p->pos - start + 1);
	if (!result)
		return NULL;
	for (size_t i = start; i < p->pos; i++)
	{
		if (p->text[i] == '\\')
			i++;
		result[n++] = p->text[i];
	}
	p->pos++;
	return result;
}

/* A column or relation name: quoted, or up to a character of the grammar. */
static char *
name(Parser *p)
{
	size_t		start = p->pos;
	char	   *result;

	if (p->text[p->pos] == '"')
	{
		result = quoted(p);
		if (result && result[0] == '\0')
		{
			fail(p, "a name is empty");
			return NULL;
		}
		return result;
	}
	for (;; p->pos++)
	{
		char		c = p->text[p->pos];

		if (c == '\0' || strchr(",.:()!*\"", c) || (c == '-' && p->text[p->pos + 1] == '>'))
			break;
	}
	if (p->pos == start)
	{
		fail(p, "a name was expected");
		return NULL;
	}
	return copy(p, p->text +start, p->pos - start);
}

/* [relation.]column */
static bool
dotted_name(Parser *p, OrionName *result)
{
	result->column = name(p);
	if (!result->column)
		return false;
	if (p->text[p->pos] == '.')
	{
		p->pos++;
		result->embed = result->column;
		result->column = name(p);
	}
	return result->column != NULL;
}

static const OperatorName *
operator_name(Parser *p)
{
	for (size_t i = 0; i < sizeof(operators) / sizeof(operators[0]); i++)
	{
		size_t		len = strlen(operators[i].name);
		char		behind;

		if (strncmp(p->text +p->pos, operators[i].name, len) != 0)
			continue;
		behind = p->text[p->pos + len];
		if (behind != '.' && behind != '(')
			continue;
		p->pos += len;
		return &operators[i];
	}
	fail(p, "an operator such as eq. was expected");
	return NULL;
}

/* An unquoted value ends at , or ) where inside is set, else at the end. */
static char *
value(Parser *p, bool inside)
{
	size_t		start = p->pos;

	if (!inside)
		p->pos += strlen(p->text +p->pos);
	else
	{
		if (p->text[p->pos] == '"')
			return quoted(p);
		/* an array literal keeps its commas */
		if (p->text[p->pos] == '{')
			p->pos += strcspn(p->text +p->pos, "}");
		p->pos += strcspn(p->text +p->pos, ",)");
	}
	return copy(p, p->text +start, p->pos - start);
}

/* Room for one more in filter->values: full at every power of two, then doubled. */
static bool
grow_values(Parser *p, OrionFilter *filter)
{
	const char **larger;

	if (filter->nvalues & (filter->nvalues - 1))
		return true;
	larger = make(p, (filter->nvalues ? filter->nvalues * 2 : 1) * sizeof(char *));
	if (!larger)
		return false;
	if (filter->nvalues)
		memcpy(larger, filter->values, filter->nvalues * sizeof(char *));
	filter->values = larger;
	return true;
}

static bool
value_list(Parser *p, OrionFilter *filter)
{
	if (!accept(p, '('))
		return fail(p, "( was expected");
	if (accept(p, ')'))
		return true;
	do
	{
		char	   *one = value(p, true);

		if (!one || !count_item(p) || !grow_values(p, filter))
			return false;
		filter->values[filter->nvalues++] = one;
	} while (accept(p, ','));
	return accept(p, ')') || fail(p, ") was expected");
}

static bool
is_value(Parser *p, OrionFilter *filter)
{
	static const char *const words[] = {"null", "not_null", "true", "false", "unknown"};
	size_t		len = strcspn(p->text +p->pos, ",)");

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
	{
		size_t		j = 0;

		if (strlen(words[i]) != len)
			continue;
		while (j < len && (p->text[p->pos + j] | (words[i][j] == '_' ? 0 : 0x20)) == words[i][j])
			j++;
		if (j == len)
		{
			p->pos += len;
			filter->value = words[i];
			return true;
		}
	}
	return fail(p, "null, not_null, true, false or unknown was expected");
}

static bool
plain_value(Parser *p, OrionFilter *filter, bool inside)
{
	char	   *text = value(p, inside);

	if (!text)
		return false;
	if (filter->op == ORION_OP_LIKE || filter->op == ORION_OP_ILIKE)
		for (char *c = text; *c; c++)
			if (*c == '*')
				*c = '%';
	filter->value = text;

	return true;
}

static bool
quantifier(Parser *p, const OperatorName *op, OrionFilter *filter)
{
	if (p->text[p->pos] != '(')
		return true;
	if (!op->quantifiable)
		return fail(p, "the operator takes no (any) or (all)");
	if (accept_text(p, "(any)"))
		filter->quantifier = ORION_QUANTIFIER_ANY;
	else if (accept_text(p, "(all)"))
		filter->quantifier = ORION_QUANTIFIER_ALL;
	else
		return fail(p, "(any) or (all) was expected");
	return true;
}

/* [not.]operator.value */
static bool
test(Parser *p, OrionFilter *filter, bool inside)
{
	const OperatorName *op;

	filter->kind = ORION_FILTER_TEST;
	filter->negated = accept_text(p, "not.");
	op = operator_name(p);
	if (!op)
		return false;
	filter->op = op->op;
	if (!quantifier(p, op, filter))
		return false;
	if (!accept(p, '.'))
		return fail(p, ". was expected");
	if (op->op == ORION_OP_IN)
		return value_list(p, filter);
	if (op->op == ORION_OP_IS)
		return is_value(p, filter);
	return plain_value(p, filter, inside);
}

static bool members(Parser *p, OrionFilter *group);

/* One member of a group: a group again, or column.operator.value */
static bool
member(Parser *p, OrionFilter *filter)
{
	size_t		start = p->pos;
	bool		negated = accept_text(p, "not.");

	if (accept_text(p, "and("))
		filter->kind = ORION_FILTER_AND;
	else if (accept_text(p, "or("))
		filter->kind = ORION_FILTER_OR;
	else
	{
		p->pos = start;
		filter->name.column = name(p);
		return filter->name.column &&
			(accept(p, '.') || fail(p, ". was expected")) &&
			test(p, filter, true);
	}
	filter->negated = negated;
	p->pos--;
	return members(p, filter);
}

/* (member,member,...) */
static bool
members(Parser *p, OrionFilter *group)
{
	OrionFilter **tail = &group->first;

	if (++p->depth > ORION_QUERY_MAX_DEPTH)
		return fail(p, "groups are nested too deeply");
	if (!accept(p, '('))
		return fail(p, "( was expected");
	do
	{
		while (accept(p, ' '))
			;
		*tail = make(p, sizeof(OrionFilter));
		if (!*tail || !count_item(p) || !member(p, *tail))
			return false;
		tail = &(*tail)->next;
	} while (accept(p, ','));
	p->depth--;
	return accept(p, ')') || fail(p, ") was expected");
}

static bool
at_end(Parser *p)
{
	return p->text[p->pos] == '\0' || fail(p, "unexpected text");
}

static void
add_filter(OrionQuery *query, OrionFilter *filter)
{
	OrionFilter **tail = &query->filters;

	while (*tail)
		tail = &(*tail)->next;
	*tail = filter;
}

bool
orion_query_filter(const OrionArena *arena, const OrionParam *param,
				   OrionQuery *query, OrionQueryError *error)
{
	Parser		p = {.arena = arena,.error = error,.what = "filter",.text = param->name};
	OrionFilter *filter = make(&p, sizeof(OrionFilter));

	if (!filter || !dotted_name(&p, &filter->name) || !at_end(&p))
		return false;
	p.text = param->value;
	p.pos = 0;
	if (!test(&p, filter, false) || !at_end(&p))
		return false;
	add_filter(query, filter);
	return true;
}

/* and=, or=, not.and=, not.or= */
static bool
group_param(Parser *p, const OrionParam *param, OrionQuery *query)
{
	OrionFilter *filter = make(p, sizeof(OrionFilter));
	const char *word = param->name;

	if (!filter)
		return false;
	if (strncmp(word, "not.", 4) == 0)
	{
		filter->negated = true;
		word += 4;
	}
	filter->kind = strcmp(word, "or") == 0 ? ORION_FILTER_OR : ORION_FILTER_AND;
	p->what = "logic tree";
	if (!members(p, filter) || !at_end(p))
		return false;
	add_filter(query, filter);
	return true;
}

static bool select_list(Parser *p, OrionSelect **first);

/* name!hint!inner(...) behind the name */
static bool
embed(Parser *p, OrionSelect *item)
{
	while (accept(p, '!'))
	{
		char	   *word = name(p);

		if (!word)
			return false;
		if (strcmp(word, "inner") == 0)
			item->inner = true;
		else if (strcmp(word, "left") != 0)
			item->hint = word;
	}
	if (!accept(p, '('))
		return fail(p, "( was expected");
	item->embed = true;
	if (accept(p, ')'))
		return true;
	return select_list(p, &item->first) &&
		(accept(p, ')') || fail(p, ") was expected"));
}

static bool
cast(Parser *p, OrionSelect *item)
{
	size_t		start = p->pos;

	/* a type name with its modifier: numeric(10,2), "Weird Type"[] */
	while (p->text[p->pos] && !strchr(",()", p->text[p->pos]))
		p->pos++;
	if (p->pos == start)
		return fail(p, "a type was expected");
	if (p->text[p->pos] == '(')
	{
		size_t		digits = strspn(p->text +p->pos + 1, "0123456789, ");

		if (p->text[p->pos + 1 + digits] != ')')
			return fail(p, "a type modifier was expected");
		p->pos += digits + 2;
		p->pos += strspn(p->text +p->pos, "[]");
	}
	item->cast = copy(p, p->text +start, p->pos - start);
	return item->cast != NULL;
}

/* [alias:]name[::type], [alias:]name[!hint](...), * */
static bool
select_item(Parser *p, OrionSelect *item)
{
	while (accept(p, ' '))
		;
	if (accept(p, '*'))
	{
		item->name = "*";
		return true;
	}
	item->name = name(p);
	if (!item->name)
		return false;
	if (p->text[p->pos] == ':' && p->text[p->pos + 1] != ':')
	{
		p->pos++;
		item->alias = item->name;
		item->name = name(p);
		if (!item->name)
			return false;
	}
	if (p->text[p->pos] == '!' || p->text[p->pos] == '(')
		return embed(p, item);
	if (accept_text(p, "::"))
		return cast(p, item);
	return true;
}

static bool
select_list(Parser *p, OrionSelect **first)
{
	OrionSelect **tail = first;

	if (++p->depth > ORION_QUERY_MAX_DEPTH)
		return fail(p, "embedded too deeply");
	do
	{
		*tail = make(p, sizeof(OrionSelect));
		if (!*tail || !count_item(p) || !select_item(p, *tail))
			return false;
		tail = &(*tail)->next;
	} while (accept(p, ','));
	p->depth--;
	return true;
}

static bool
order_item(Parser *p, OrionOrder *item)
{
	item->name.column = name(p);
	if (!item->name.column)
		return false;
	if (accept_text(p, ".desc"))
		item->descending = true;
	else
		accept_text(p, ".asc");
	if (accept_text(p, ".nullsfirst"))
		item->nulls = ORION_NULLS_FIRST;
	else if (accept_text(p, ".nullslast"))
		item->nulls = ORION_NULLS_LAST;
	return true;
}

static bool
order_list(Parser *p, OrionQuery *query)
{
	OrionOrder **tail = &query->order;

	query->order = NULL;
	do
	{
		*tail = make(p, sizeof(OrionOrder));
		if (!*tail || !count_item(p) || !order_item(p, *tail))
			return false;
		tail = &(*tail)->next;
	} while (accept(p, ','));
	return at_end(p);
}

static bool
column_list(Parser *p, OrionQuery *query)
{
	OrionColumnName **tail = &query->columns;

	query->columns = NULL;
	do
	{
		*tail = make(p, sizeof(OrionColumnName));
		if (!*tail || !count_item(p))
			return false;
		(*tail)->name = name(p);
		if (!(*tail)->name)
			return false;
		tail = &(*tail)->next;
	} while (accept(p, ','));
	return at_end(p);
}

static bool
number(Parser *p, bool *has, int64_t *result)
{
	int64_t		n = 0;

	if (p->text[0] == '\0')
		return fail(p, "a number was expected");
	for (; p->text[p->pos]; p->pos++)
	{
		int			digit = p->text[p->pos] - '0';

		if (digit < 0 || digit > 9)
			return fail(p, "a number was expected");
		if (n > (INT64_MAX - digit) / 10)
			return fail(p, "the number is too large");
		n = n * 10 + digit;
	}
	*has = true;
	*result = n;
	return true;
}

static bool
reserved_param(Parser *p, const OrionParam *param, OrionQuery *query, bool *reserved)
{
	const char *word = param->name;

	*reserved = true;
	p->text = param->value;
	p->pos = 0;
	p->depth = 0;
	if (strcmp(word, "select") == 0)
	{
		p->what = "select parameter";
		query->select = NULL;
		/* PostgREST: an empty select is all columns */
		return param->value[0] == '\0' ||
			(select_list(p, &query->select) && at_end(p));
	}
	if (strcmp(word, "order") == 0)
	{
		p->what = "order";
		return order_list(p, query);
	}
	if (strcmp(word, "limit") == 0)
	{
		p->what = "limit";
		return number(p, &query->has_limit, &query->limit);
	}
	if (strcmp(word, "offset") == 0)
	{
		p->what = "offset";
		return number(p, &query->has_offset, &query->offset);
	}
	if (strcmp(word, "columns") == 0)
	{
		p->what = "columns parameter";
		return column_list(p, query);
	}
	if (strcmp(word, "on_conflict") == 0)
	{
		query->on_conflict = param->value;
		return true;
	}
	if (strcmp(word, "and") == 0 || strcmp(word, "or") == 0 ||
		strcmp(word, "not.and") == 0 || strcmp(word, "not.or") == 0)
		return group_param(p, param, query);
	*reserved = false;
	return true;
}

bool
orion_query_parse(const OrionArena *arena, const char *text, size_t len,
				  OrionQuery *query, OrionQueryError *error)
{
	Parser		p = {.arena = arena,.error = error};
	OrionParam *param;
	OrionParam **tail = &query->params;

	memset(query, 0, sizeof(OrionQuery));
	if (!orion_query_split(arena, text, len, &param, error))
		return false;
	for (OrionParam *next; param; param = next)
	{
		bool		reserved;

		next = param->next;
		if (!reserved_param(&p, param, query, &reserved))
			return false;
		if (reserved)
			continue;
		param->next = NULL;
		*tail = param;
		tail = &param->next;
	}
	return true;
}
