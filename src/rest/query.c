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

#include "codec/hex.h"

typedef struct Parser
{
	const OrionArena *arena;
	OrionQueryError *error;
	OrionQueryRule rule;
	const char *before;
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
	{"fts", ORION_OP_FTS, false},
	{"plfts", ORION_OP_PLFTS, false},
	{"phfts", ORION_OP_PHFTS, false},
	{"wfts", ORION_OP_WFTS, false},
};

static bool
fail(Parser *p, const char *problem)
{
	p->error->rule = p->rule;
	p->error->before = p->before ? p->before : "";
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

/* What is read next, and how it is called in messages. */
static void
begin(Parser *p, OrionQueryRule rule, const char *what, const char *text)
{
	p->rule = rule;
	p->before = NULL;
	p->what = what;
	p->text = text;

	p->pos = 0;
	p->depth = 0;
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

/* With lenient, a % in front of no two hexadecimal digits stands for itself. */
static char *
percent_decode(const OrionArena *arena, const char *text, size_t len, bool plus, bool lenient)
{
	char	   *result = arena->alloc(arena->context, len + 1);
	size_t		n = 0;

	if (!result)
		return NULL;
	for (size_t i = 0; i < len; i++)
	{
		if (text[i] == '%')
		{
			int			high = len - i > 2 ? orion_hex_digit(text[i + 1]) : -1;
			int			low = len - i > 2 ? orion_hex_digit(text[i + 2]) : -1;

			if ((high < 0 || low < 0) && !lenient)
				return NULL;
			if (high >= 0 && low >= 0)
			{
				result[n++] = (char) (high << 4 | low);
				i += 2;
			}
			else
				result[n++] = '%';
		}
		else
			result[n++] = plus && text[i] == '+' ? ' ' : text[i];
	}
	result[n] = '\0';
	return orion_utf8_valid(result, n) ? result : NULL;
}

char *
orion_percent_decode(const OrionArena *arena, const char *text, size_t len, bool plus)
{
	return percent_decode(arena, text, len, plus, false);
}

static bool
split_one(Parser *p, const char *text, size_t len, OrionParam **param)
{
	const char *equals = memchr(text, '=', len);
	size_t		name_len = equals ? (size_t) (equals - text) : len;

	*param = make(p, sizeof(OrionParam));
	if (!*param)
		return false;
	(*param)->name = percent_decode(p->arena, text, name_len, true, true);
	(*param)->value = equals ? percent_decode(p->arena, equals + 1, len - name_len - 1, true, true) : "";
	(*param)->bare = equals == NULL;
	if (!(*param)->name || !(*param)->value)
		return fail(p, "a NUL byte or invalid UTF-8");
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

/* Part of a name that is not quoted; bytes of other alphabets are letters. */
static bool
in_name(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
		c == '_' || c == '$' || c == ' ' || c == '-' || (unsigned char) c >= 0x80;
}

/* Part of a key in a JSON path. */
static bool
in_key(char c)
{
	return c != '\0' && strchr("(:.,>)", c) == NULL;
}

static void
spaces(Parser *p)
{
	while (accept(p, ' ') || accept(p, '\t'))
		;
}

/* Up to a character that is no part, or an arrow; spaces around do not count. */
static char *
plain_name(Parser *p, bool (*part) (char c))
{
	size_t		start;
	size_t		end;

	spaces(p);
	start = p->pos;
	while (part(p->text[p->pos]) && !(p->text[p->pos] == '-' && p->text[p->pos + 1] == '>'))
		p->pos++;
	for (end = p->pos; end > start && p->text[end - 1] == ' ';)
		end--;
	if (end == start || p->text[start] == '-')
	{
		fail(p, "a name was expected");
		return NULL;
	}
	return copy(p, p->text +start, end - start);
}

/* A column or relation name, maybe quoted. */
static char *
name(Parser *p)
{
	char	   *result;

	if (p->text[p->pos] != '"')
		return plain_name(p, in_name);
	result = quoted(p);
	if (result && result[0] == '\0')
	{
		fail(p, "a name is empty");
		return NULL;
	}
	return result;
}

/* A key that is a number, maybe negative, counts elements. */
static void
read_index(OrionStep *step)
{
	const char *c = step->key + (step->key[0] == '-');
	size_t		digits = strspn(c, "0123456789");

	if (digits == 0 || digits > 9 || c[digits] != '\0')
		return;
	step->index = true;
	for (; *c; c++)
		step->number = step->number * 10 + (*c - '0');
	if (step->key[0] == '-')
		step->number = -step->number;
}

/* -2 */
static char *
negative_index(Parser *p)
{
	size_t		digits = strspn(p->text +p->pos + 1, "0123456789");
	char	   *result;

	if (digits == 0)
	{
		fail(p, "a digit was expected");
		return NULL;
	}
	result = copy(p, p->text +p->pos, digits + 1);
	p->pos += digits + 1;
	return result;
}

/* ->key, ->>key, ->2, any number of them */
static bool
steps(Parser *p, OrionStep **first)
{
	OrionStep **tail = first;

	while (accept_text(p, "->"))
	{
		bool		plain;

		*tail = make(p, sizeof(OrionStep));
		if (!*tail || !count_item(p))
			return false;
		(*tail)->text = accept(p, '>');
		plain = p->text[p->pos] != '"';
		if (!plain)
			(*tail)->key = quoted(p);
		else if (p->text[p->pos] == '-')
			(*tail)->key = negative_index(p);
		else
			(*tail)->key = plain_name(p, in_key);
		if (!(*tail)->key)
			return false;
		if (plain)
			read_index(*tail);
		tail = &(*tail)->next;
	}
	return true;
}

/* column, column->key */
static bool
field(Parser *p, OrionName *result)
{
	spaces(p);
	result->column = name(p);
	return result->column && steps(p, &result->steps);
}

/* [relation.[relation.]...]column; what is behind the column stays */
static bool
dotted_field(Parser *p, OrionPath **path, OrionName *result)
{
	OrionPath **tail = path;

	if (!field(p, result))
		return false;
	while (accept(p, '.'))
	{
		if (result->steps)
			return fail(p, "a path has a relation in front of the column");
		*tail = make(p, sizeof(OrionPath));
		if (!*tail || !count_item(p))
			return false;
		(*tail)->name = result->column;
		tail = &(*tail)->next;
		if (!field(p, result))
			return false;
	}
	return true;
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

/*
 * Between quotes, if the closing one ends the value; else quotes are characters.
 * False: there are no such quotes.
 */
static bool
quoted_value(Parser *p, char **result)
{
	size_t		end = p->pos + 1;

	if (p->text[p->pos] != '"')
		return false;
	while (p->text[end] && p->text[end] != '"')
		end += p->text[end] == '\\' && p->text[end + 1] ? 2 : 1;
	if (p->text[end] != '"' || (p->text[end + 1] && strchr(",)", p->text[end + 1]) == NULL))
		return false;
	*result = quoted(p);
	return true;
}

/* {a,b} keeps its commas; with braces inside it is no such literal */
static size_t
array_literal(const char *text)
{
	size_t		len = text[0] == '{' ? 1 + strcspn(text +1, "{}") : 0;

	return len > 0 && text[len] == '}' ? len + 1 : 0;
}

/* A value within parentheses ends at , or ), else at the end. */
static char *
value(Parser *p, bool inside, bool arrays)
{
	size_t		start = p->pos;
	char	   *result;

	if (!inside)
		p->pos += strlen(p->text +p->pos);
	else
	{
		if (quoted_value(p, &result))
			return result;
		if (arrays)
			p->pos += array_literal(p->text +p->pos);
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
	spaces(p);
	if (accept(p, ')'))
		return true;
	do
	{
		char	   *one = value(p, true, false);

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

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
	{
		size_t		j = 0;

		while (words[i][j] && (p->text[p->pos + j] | (words[i][j] == '_' ? 0 : 0x20)) == words[i][j])
			j++;
		if (words[i][j] == '\0')
		{
			p->pos += j;
			filter->value = words[i];
			return true;
		}
	}
	return fail(p, "null, not_null, true, false or unknown was expected");
}

static bool
plain_value(Parser *p, OrionFilter *filter, bool inside)
{
	char	   *text = value(p, inside, true);

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
	if (op->op >= ORION_OP_FTS)
	{
		p->pos++;
		filter->config = name(p);
		return filter->config && (accept(p, ')') || fail(p, ") was expected"));
	}
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

/* "and" in front of a parenthesis; moves only if it is there */
static bool
group_word(Parser *p, const char *word)
{
	size_t		start = p->pos;

	if (accept_text(p, word))
	{
		spaces(p);
		if (p->text[p->pos] == '(')
			return true;
	}
	p->pos = start;
	return false;
}

/* One member of a group: a group again, or column.operator.value */
static bool
member(Parser *p, OrionFilter *filter)
{
	size_t		start = p->pos;
	bool		negated = accept_text(p, "not.");

	if (group_word(p, "and"))
		filter->kind = ORION_FILTER_AND;
	else if (group_word(p, "or"))
		filter->kind = ORION_FILTER_OR;
	else
	{
		p->pos = start;
		return field(p, &filter->name) &&
			(accept(p, '.') || fail(p, ". was expected")) &&
			test(p, filter, true);
	}
	filter->negated = negated;
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
		spaces(p);
		*tail = make(p, sizeof(OrionFilter));
		if (!*tail || !count_item(p) || !member(p, *tail))
			return false;
		tail = &(*tail)->next;
		spaces(p);
	} while (accept(p, ','));
	p->depth--;
	return accept(p, ')') || fail(p, ") was expected");
}

static bool
at_end(Parser *p)
{
	return p->text[p->pos] == '\0' || fail(p, "unexpected text");
}

/* Behind the name, "[0]" or "[]": so clients write several filters of one column, and PostgREST takes no notice of it. */
static void
skip_index(Parser *p)
{
	const char *index = p->text +p->pos;
	size_t		n = index[0] == '[' ? 2 + strspn(index + 1, "0123456789") : 0;

	if (n > 0 && index[n - 1] == ']')
		p->pos += n;
}

/* Where a filter of this path belongs; a new scope for an embedded relation. */
static bool
filters_of(Parser *p, OrionQuery *query, OrionPath *path, OrionFilter ***tail)
{
	*tail = &query->filters;
	if (path)
	{
		OrionScope *scope = make(p, sizeof(OrionScope));

		if (!scope)
			return false;
		scope->path = path;
		scope->next = query->scopes;
		query->scopes = scope;
		*tail = &scope->filters;
	}
	while (**tail)
		*tail = &(**tail)->next;
	return true;
}

bool
orion_query_filter(const OrionArena *arena, const OrionParam *param,
				   OrionQuery *query, OrionQueryError *error)
{
	Parser		p = {.arena = arena,.error = error};
	OrionFilter *filter = make(&p, sizeof(OrionFilter));
	OrionFilter **tail;
	OrionPath  *path = NULL;

	begin(&p, ORION_RULE_PATH, "tree path", param->name);
	if (!filter || !dotted_field(&p, &path, &filter->name))
		return false;
	skip_index(&p);
	if (!at_end(&p))
		return false;
	begin(&p, ORION_RULE_FILTER, "filter", param->value);
	/* PostgREST takes no notice of what is behind a list or a word */
	if (!test(&p, filter, false) || !filters_of(&p, query, path, &tail))
		return false;
	*tail = filter;
	return true;
}

/* and=, or=, not.and=, not.or= */
static bool
group_param(Parser *p, const char *word, bool negated, OrionPath *path, OrionQuery *query)
{
	OrionFilter *filter = make(p, sizeof(OrionFilter));
	OrionFilter **tail;

	if (!filter)
		return false;
	filter->negated = negated;
	filter->kind = strcmp(word, "or") == 0 ? ORION_FILTER_OR : ORION_FILTER_AND;
	begin(p, ORION_RULE_LOGIC, "logic tree", p->text);
	p->before = filter->negated ? (word[0] == 'o' ? "not.or" : "not.and") : word;
	if (!members(p, filter) || !filters_of(p, query, path, &tail))
		return false;
	*tail = filter;
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

/* Behind a dot: sum() and the like; the position moves only when there is one. */
static OrionAggregate
aggregate(Parser *p)
{
	static const struct
	{
		const char *text;
		OrionAggregate aggregate;
	}			words[] = {
		{"count()", ORION_AGGREGATE_COUNT},
		{"sum()", ORION_AGGREGATE_SUM},
		{"avg()", ORION_AGGREGATE_AVG},
		{"max()", ORION_AGGREGATE_MAX},
		{"min()", ORION_AGGREGATE_MIN},
	};

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (accept_text(p, words[i].text))
			return words[i].aggregate;
	return ORION_AGGREGATE_NONE;
}

/* A dot in front of an aggregate ends a type's name, others are part of it. */
static bool
ends_cast(Parser *p)
{
	size_t		start = p->pos;
	bool		ends;

	if (p->text[start] == '\0' || strchr(",()", p->text[start]))
		return true;
	if (!accept(p, '.'))
		return false;
	ends = aggregate(p) != ORION_AGGREGATE_NONE;
	p->pos = start;
	return ends;
}

static bool
cast(Parser *p, const char **result)
{
	size_t		start = p->pos;

	/* a type name with its modifier: numeric(10,2), "Weird Type"[] */
	while (!ends_cast(p))
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
	*result = copy(p, p->text +start, p->pos - start);
	return *result != NULL;
}

/* What may be behind the column: ->path, ::type, .sum(), ::type of the sum */
static bool
select_field(Parser *p, OrionSelect *item)
{
	if (item->aggregate == ORION_AGGREGATE_NONE)
	{
		if (!steps(p, &item->steps))
			return false;
		if (accept_text(p, "::") && !cast(p, &item->cast))
			return false;
	}
	if (item->aggregate == ORION_AGGREGATE_NONE && accept(p, '.'))
	{
		item->aggregate = aggregate(p);
		if (item->aggregate == ORION_AGGREGATE_NONE)
			return fail(p, "an aggregate was expected");
	}
	if (item->aggregate != ORION_AGGREGATE_NONE && accept_text(p, "::"))
		return cast(p, &item->aggregate_cast);
	return true;
}

/* [alias:]name[::type], [alias:]name[!hint](...), [alias:]count(), ...name(...), * */
static bool
select_item(Parser *p, OrionSelect *item)
{
	spaces(p);
	if (accept(p, '*'))
	{
		item->name = "*";
		return true;
	}
	item->spread = accept_text(p, "...");
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
	if (strcmp(item->name, "count") == 0 && accept_text(p, "()"))
	{
		item->name = NULL;
		item->aggregate = ORION_AGGREGATE_COUNT;
	}
	else if (item->spread || p->text[p->pos] == '!' || p->text[p->pos] == '(')
		return embed(p, item);
	return select_field(p, item);
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
		spaces(p);
		if (!(*tail)->embed && p->text[p->pos] && strchr(",)", p->text[p->pos]) == NULL)
			return fail(p, "unexpected text");
		tail = &(*tail)->next;
	} while (accept(p, ','));
	p->depth--;
	return true;
}

/* column.desc.nullslast, relation(column).asc */
static bool
order_item(Parser *p, OrionOrder *item)
{
	if (!field(p, &item->name))
		return false;
	if (!item->name.steps && accept(p, '('))
	{
		item->name.embed = item->name.column;
		if (!field(p, &item->name))
			return false;
		if (!accept(p, ')'))
			return fail(p, ") was expected");
	}
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
order_list(Parser *p, OrionOrder **first)
{
	OrionOrder **tail = first;

	begin(p, ORION_RULE_ORDER, "order", p->text);
	*first = NULL;
	do
	{
		*tail = make(p, sizeof(OrionOrder));
		if (!*tail || !count_item(p) || !order_item(p, *tail))
			return false;
		tail = &(*tail)->next;
		spaces(p);
	} while (accept(p, ','));
	return at_end(p);
}

/* Each name once. */
static bool
column_list(Parser *p, OrionColumnName **first)
{
	*first = NULL;
	do
	{
		OrionColumnName **place = first;
		char	   *column;

		spaces(p);
		column = name(p);
		if (!column || !count_item(p))
			return false;
		while (*place && strcmp((*place)->name, column) != 0)
			place = &(*place)->next;
		if (!*place)
		{
			*place = make(p, sizeof(OrionColumnName));
			if (!*place)
				return false;
			(*place)->name = column;
		}
		spaces(p);
	} while (accept(p, ','));
	return true;
}

/* What is no number is as if it were not there; one beyond all rows is the largest. */
static bool
number(Parser *p, bool *has, int64_t *result)
{
	int64_t		n = 0;
	bool		negative;
	size_t		digits;

	*has = false;				/* the last mention counts */
	spaces(p);
	negative = accept(p, '-');
	digits = strspn(p->text +p->pos, "0123456789");
	if (digits == 0 || p->text[p->pos + digits + strspn(p->text +p->pos + digits, " \t")] != '\0')
		return true;
	for (size_t i = 0; i < digits; i++)
	{
		int			digit = p->text[p->pos + i] - '0';

		n = n > (INT64_MAX - digit) / 10 ? INT64_MAX : n * 10 + digit;
	}
	*has = true;
	*result = negative && n > 0 ? -1 : n;
	return true;
}

/* order, limit, offset, and, or: behind a path of embedded relations, or alone */
static bool
scoped_word(Parser *p, OrionPath *path, const char *word, bool negated, OrionQuery *query)
{
	OrionScope *scope;

	if (strcmp(word, "and") == 0 || strcmp(word, "or") == 0)
		return group_param(p, word, negated, path, query);
	scope = make(p, sizeof(OrionScope));
	if (!scope)
		return false;
	scope->path = path;
	scope->next = query->scopes;
	query->scopes = scope;
	p->what = word;
	if (strcmp(word, "order") == 0)
		return order_list(p, &scope->order);
	if (strcmp(word, "limit") == 0)
		return number(p, &scope->has_limit, &scope->limit);
	return number(p, &scope->has_offset, &scope->offset);
}

static bool
is_scoped_word(const char *word)
{
	return strcmp(word, "order") == 0 || strcmp(word, "limit") == 0 || strcmp(word, "offset") == 0 ||
		strcmp(word, "and") == 0 || strcmp(word, "or") == 0;
}

/*
 * clients.order=, projects.tasks.or=: *reserved tells whether the name is one.  A
 * name that is no path at all is left to who reads filters and arguments.
 */
static bool
scoped_param(Parser *p, const OrionParam *param, OrionQuery *query, bool *reserved)
{
	OrionPath  *path = NULL;
	OrionName	word = {0};
	OrionQueryError ignored;
	Parser		names = *p;
	bool		negated = false;

	names.error = &ignored;
	names.text = param->name;
	names.pos = 0;
	*reserved = strchr(param->name, '.') && dotted_field(&names, &path, &word) &&
		names.text[names.pos] == '\0' && path && !word.steps && is_scoped_word(word.column);
	if (!*reserved)
		return true;
	/* not.clients.or= is clients.not.or= */
	for (OrionPath **step = &path; *step && (word.column[0] == 'a' || strcmp(word.column, "or") == 0);)
	{
		bool		is_not = strcmp((*step)->name, "not") == 0;

		negated |= is_not;
		if (is_not)
			*step = (*step)->next;
		else
			step = &(*step)->next;
	}
	return scoped_word(p, path, word.column, negated, query);
}

/* select=; an empty one is all columns, and what is behind a list no error, as with PostgREST */
static bool
select_param(Parser *p, const OrionParam *param, OrionQuery *query)
{
	if (query->has_select)
		return true;
	query->has_select = true;
	begin(p, ORION_RULE_SELECT, "select parameter", param->value);
	return param->value[0] == '\0' || select_list(p, &query->select);
}

static bool
order_param(Parser *p, OrionQuery *query)
{
	OrionOrder *order;

	if (!order_list(p, &order))
		return false;
	if (query->order == NULL)
		query->order = order;
	return true;
}

static bool
names_param(Parser *p, const char *what, const OrionParam *param, OrionColumnName **names)
{
	if (*names)
		return true;
	begin(p, ORION_RULE_NAMES, what, param->value);
	return column_list(p, names);
}

/* Of limit and offset the last mention counts, of the others the first, as with PostgREST. */
static bool
reserved_param(Parser *p, const OrionParam *param, OrionQuery *query, bool *reserved)
{
	const char *word = param->name;

	*reserved = true;
	begin(p, ORION_RULE_NONE, word, param->value);
	if (strcmp(word, "select") == 0)
		return select_param(p, param, query);
	if (strcmp(word, "order") == 0)
		return order_param(p, query);
	if (strcmp(word, "limit") == 0)
		return number(p, &query->has_limit, &query->limit);
	if (strcmp(word, "offset") == 0)
		return number(p, &query->has_offset, &query->offset);
	if (strcmp(word, "columns") == 0)
		return names_param(p, "columns parameter", param, &query->columns);
	if (strcmp(word, "on_conflict") == 0)
		return names_param(p, "on_conflict parameter", param, &query->on_conflict);
	if (strcmp(word, "and") == 0 || strcmp(word, "or") == 0)
		return group_param(p, word, false, NULL, query);
	return scoped_param(p, param, query, reserved);
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
		if (param->bare)
			continue;			/* says nothing, as with PostgREST */
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
