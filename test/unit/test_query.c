// uses: src/rest/query.c src/rest/explain.c
/*
 * test_query.c
 *	  The grammar of query strings: what a text means, and which texts mean nothing.
 *
 * A tree is written down as text and compared; every string that the parser hands
 * out is checked to be UTF-8.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "rest/explain.h"
#include "rest/query.h"

/* Allocations are kept in a list, so that the sanitizers see each one's borders. */
typedef struct Block
{
	struct Block *next;
	char		data[];
}			Block;

static Block * blocks = NULL;
static size_t fail_after = SIZE_MAX;
static char out[65536];
static size_t used;

static void *
alloc(void *context, size_t size)
{
	Block	   *block;

	if (fail_after == 0)
		return NULL;
	fail_after--;
	block = malloc(sizeof(Block) + size);
	block->next = blocks;
	blocks = block;
	return block->data;
}

static const OrionArena arena = {alloc, NULL};

static void
release(void)
{
	while (blocks)
	{
		Block	   *next = blocks->next;

		free(blocks);
		blocks = next;
	}
	fail_after = SIZE_MAX;
}

static void
put(const char *text)
{
	assert_true(orion_utf8_valid(text, strlen(text)));
	used += snprintf(out + used, sizeof(out) - used, "%s", text);
	assert_true(used < sizeof(out));
}

static void
put_steps(const OrionStep *step)
{
	for (; step; step = step->next)
	{
		put(step->text ? "->>" : "->");
		put(step->index ? "#" : "");
		put(step->key);
	}
}

static void
put_filter(const OrionFilter *filter)
{
	static const char *const names[] = {
		"eq", "neq", "gt", "gte", "lt", "lte", "like", "ilike", "match", "imatch", "cs", "cd", "ov",
		"sl", "sr", "nxr", "nxl", "adj", "isdistinct", "in", "is", "fts", "plfts", "phfts", "wfts"
	};

	for (; filter; filter = filter->next)
	{
		put(filter->negated ? "!" : "");
		if (filter->kind != ORION_FILTER_TEST)
		{
			put(filter->kind == ORION_FILTER_AND ? "AND[" : "OR[");
			put_filter(filter->first);
			put("]");
		}
		else
		{
			put("<");
			put(filter->name.column);
			put(">");
			put_steps(filter->name.steps);
			put(" ");
			put(names[filter->op]);
			put(filter->config ? " in " : "");
			put(filter->config ? filter->config : "");
			put(filter->quantifier == ORION_QUANTIFIER_ANY ? " any" : filter->quantifier == ORION_QUANTIFIER_ALL ? " all" : "");
			for (int i = 0; i < filter->nvalues; i++)
			{
				put(" <");
				put(filter->values[i]);
				put(">");
			}
			if (filter->value)
			{
				put(" <");
				put(filter->value);
				put(">");
			}
		}
		put(";");
	}
}

static void
put_select(const OrionSelect *item)
{
	static const char *const aggregates[] = {"", " count", " sum", " avg", " max", " min"};

	for (; item; item = item->next)
	{
		put(item->spread ? "..." : "");
		put("<");
		put(item->name ? item->name : "");
		put(">");
		put_steps(item->steps);
		if (item->alias)
		{
			put(" as <");
			put(item->alias);
			put(">");
		}
		if (item->cast)
		{
			put(" cast <");
			put(item->cast);
			put(">");
		}
		put(aggregates[item->aggregate]);
		if (item->aggregate_cast)
		{
			put(" then <");
			put(item->aggregate_cast);
			put(">");
		}
		if (item->hint)
		{
			put(" hint <");
			put(item->hint);
			put(">");
		}
		put(item->inner ? " inner" : "");
		if (item->embed)
		{
			put(" {");
			put_select(item->first);
			put("}");
		}
		put(";");
	}
}

static void
put_order(const OrionOrder *order)
{
	for (; order; order = order->next)
	{
		put(" order <");
		put(order->name.embed ? order->name.embed : "");
		put(order->name.embed ? "/" : "");
		put(order->name.column);
		put_steps(order->name.steps);
		put(order->descending ? "> desc" : ">");
		put(order->nulls == ORION_NULLS_FIRST ? " first" : order->nulls == ORION_NULLS_LAST ? " last" : "");
	}
}

static void
put_rest(const OrionQuery *query)
{
	char		number[64];

	put_order(query->order);
	for (const OrionColumnName *column = query->columns; column; column = column->next)
	{
		put(" column <");
		put(column->name);
		put(">");
	}
	if (query->has_limit)
	{
		snprintf(number, sizeof(number), " limit %lld", (long long) query->limit);
		put(number);
	}
	if (query->has_offset)
	{
		snprintf(number, sizeof(number), " offset %lld", (long long) query->offset);
		put(number);
	}
}

static void
put_scopes(const OrionScope *scope)
{
	char		number[64];

	for (; scope; scope = scope->next)
	{
		for (const OrionPath *step = scope->path; step; step = step->next)
		{
			put(step->name);
			put("/");
		}
		put_filter(scope->filters);
		put_order(scope->order);
		snprintf(number, sizeof(number), " %lld %lld", (long long) scope->limit, (long long) scope->offset);
		put(scope->has_limit || scope->has_offset ? number : "");
	}
}

/* The tree as text, or the reason why there is none. */
static const char *
parse_bytes(const char *text, size_t len)
{
	OrionQuery	query;
	OrionQueryError error;
	bool		ok;

	used = 0;
	out[0] = '\0';
	ok = orion_query_parse(&arena, text, len, &query, &error);
	for (OrionParam *param = ok ? query.params : NULL; ok && param; param = param->next)
		ok = orion_query_filter(&arena, param, &query, &error);
	if (ok)
	{
		put_select(query.select);
		put_filter(query.filters);
		put_rest(&query);
		put_scopes(query.scopes);
	}
	else
		snprintf(out, sizeof(out), "%s at %zu: %s", error.what, error.at, error.problem);
	release();
	return out;
}

typedef struct Case
{
	const char *text;
	const char *tree;
}			Case;

static void
check(const Case * cases, size_t n)
{
	for (size_t i = 0; i < n; i++)
	{
		const char *tree = parse_bytes(cases[i].text, strlen(cases[i].text));

		if (strcmp(tree, cases[i].tree) != 0)
			fail_msg("%s\n got      %s\n expected %s", cases[i].text, tree, cases[i].tree);
	}
}

#define CHECK(cases) check(cases, sizeof(cases) / sizeof((cases)[0]))

static void
test_filters(void **state)
{
	static const Case cases[] = {
		{"", ""},
		{"&&&", ""},
		{"id=eq.1", "<id> eq <1>;"},
		{"id=eq.1&id=neq.2", "<id> eq <1>;<id> neq <2>;"},
		{"id=eq.", "<id> eq <>;"},
		{"a=eq.1,2)", "<a> eq <1,2)>;"},
		{"a=eq.\"x\"", "<a> eq <\"x\">;"},
		{"a=not.eq.1", "!<a> eq <1>;"},
		{"a=gte.1&b=gt.1&c=lt.1&d=lte.1", "<a> gte <1>;<b> gt <1>;<c> lt <1>;<d> lte <1>;"},
		{"a=like.*x*", "<a> like <%x%>;"},
		{"a=not.ilike.x%25*", "!<a> ilike <x%%>;"},
		{"a=eq.*", "<a> eq <*>;"},
		{"a=match.^x.*", "<a> match <^x.*>;"},
		{"a=is.null", "<a> is <null>;"},
		{"a=is.NULL", "<a> is <null>;"},
		{"a=is.Not_Null", "<a> is <not_null>;"},
		{"a=not.is.true", "!<a> is <true>;"},
		{"a=in.(1,2,3)", "<a> in <1> <2> <3>;"},
		{"a=in.()", "<a> in;"},
		{"a=in.(,)", "<a> in <> <>;"},
		{"a=in.(\"a,b\",\"c)\",\"d\\\"e\\\\\")", "<a> in <a,b> <c)> <d\"e\\>;"},
		{"a=not.in.(x%2Cy)", "!<a> in <x> <y>;"},
		{"a=eq(any).{1,2}", "<a> eq any <{1,2}>;"},
		{"a=like(all).{*a,b*}", "<a> like all <{%a,b%}>;"},
		{"a=cs.{1,2}", "<a> cs <{1,2}>;"},
		{"a=isdistinct.x", "<a> isdistinct <x>;"},
		{"first+name=eq.a+b", "<first name> eq <a b>;"},
		{"%22a.b%22=eq.1", "<a.b> eq <1>;"},
		{"client.name=eq.x", "client/<name> eq <x>;"},
		{"a.b.name=eq.x", "a/b/<name> eq <x>;"},
		{"a.or=(x.eq.1,y.eq.2)", "a/OR[<x> eq <1>;<y> eq <2>;];"},
		{"a.b.not.and=(x.eq.1)", "a/b/!AND[<x> eq <1>;];"},
		{"a.limit=3&a.offset=2", "a/ 0 2a/ 3 0"},
		{"a.order=x.desc,y->z", "a/ order <x> desc order <y->z>"},
		{"doc->a->>b=eq.1", "<doc>->a->>b eq <1>;"},
		{"doc->0->-1->>\"2\"=eq.1", "<doc>->#0->#-1->>2 eq <1>;"},
		{"doc->>--1=eq.1", "tree path at 6: a digit was expected"},
		{"a=fts.x", "<a> fts <x>;"},
		{"a=not.wfts(english).the%20x", "!<a> wfts in english <the x>;"},
		{"a=plfts(x.y", "filter at 7: ) was expected"},
		{"a=in.( 1, 2 )", "<a> in <1> < 2 >;"},
		{"a=in.(   )", "<a> in;"},
		{"%C3%A9=eq.%F0%9F%98%80", "<é> eq <\xF0\x9F\x98\x80>;"},
		{"id=eq.1'; DROP TABLE x; --", "<id> eq <1'; DROP TABLE x; -->;"},
		{"a[0]=eq.1&a%5B12%5D=lt.3&b.x[]=is.null", "<a> eq <1>;<a> lt <3>;b/<x> is <null>;"},
		{"a[x]=eq.1", "tree path at 1: unexpected text"},
		{"a[0=eq.1", "tree path at 1: unexpected text"},
		{"a[0]b=eq.1", "tree path at 4: unexpected text"},
		{"a[0][1]=eq.1", "tree path at 4: unexpected text"},
		{"a\"b=eq.1", "tree path at 1: unexpected text"},
		{"a'b;--=eq.1", "tree path at 1: unexpected text"},
		{"\"a'b;--\"=eq.1", "<a'b;--> eq <1>;"},
		{"a=b=eq.1", "filter at 0: an operator such as eq. was expected"},
	};

	CHECK(cases);
}

static void
test_groups(void **state)
{
	static const Case cases[] = {
		{"or=(a.eq.1,b.eq.2)", "OR[<a> eq <1>;<b> eq <2>;];"},
		{"and=(a.eq.1)", "AND[<a> eq <1>;];"},
		{"not.and=(a.eq.1)", "!AND[<a> eq <1>;];"},
		{"or=(a.not.eq.1,not.and(b.is.null,c.in.(1,\"2,3\")))", "OR[!<a> eq <1>;!AND[<b> is <null>;<c> in <1> <2,3>;];];"},
		{"or=(a.eq.\"x,y)\",b.like.*z)", "OR[<a> eq <x,y)>;<b> like <%z>;];"},
		{"or=(a.cs.{1,2},b.eq.3)", "OR[<a> cs <{1,2}>;<b> eq <3>;];"},
		{"or=(\"a.b\".eq.1)", "OR[<a.b> eq <1>;];"},
		{"or=(and.eq.1,or.eq.2,not.eq.3)", "OR[<and> eq <1>;<or> eq <2>;<not> eq <3>;];"},
		{"or=( a.eq.1, b.eq.2)", "OR[<a> eq <1>;<b> eq <2>;];"},
		{"or=( and ( a.eq.1 , b.eq.2 ) , c.eq.3 )", "OR[AND[<a> eq <1 >;<b> eq <2 >;];<c> eq <3 >;];"},
		{"or=(a->>b.eq.1)", "OR[<a>->>b eq <1>;];"},
		{"or=()", "logic tree at 1: a name was expected"},
		{"or=(a.eq.1", "logic tree at 7: ) was expected"},
		{"or=a.eq.1", "logic tree at 0: ( was expected"},
		{"or=(a.eq.1))", "OR[<a> eq <1>;];"},
		{"or=(a)", "logic tree at 2: . was expected"},
		{"or=(a.eq.\"x)", "OR[<a> eq <\"x>;];"},
		{"or=(a.is.no)", "logic tree at 6: null, not_null, true, false or unknown was expected"},
	};

	CHECK(cases);
}

static void
test_select(void **state)
{
	static const Case cases[] = {
		{"select=", ""},
		{"select=*", "<*>;"},
		{"select=id,name", "<id>;<name>;"},
		{"select=nm:name", "<name> as <nm>;"},
		{"select=id::text", "<id> cast <text>;"},
		{"select=x:id::numeric(10,2)", "<id> as <x> cast <numeric(10,2)>;"},
		{"select=id::int[],b", "<id> cast <int[]>;<b>;"},
		{"select=\"a,b\"", "<a,b>;"},
		{"select=\"a:b\":\"c::d\"::text", "<c::d> as <a:b> cast <text>;"},
		{"select=id,client(name,town(*))", "<id>;<client> {<name>;<town> {<*>;};};"},
		{"select=c:client!fk!inner(name)", "<client> as <c> hint <fk> inner {<name>;};"},
		{"select=client()", "<client> {};"},
		{"select=...client(name)", "...<client> {<name>;};"},
		{"select=...x", "select parameter at 4: ( was expected"},
		{"select=a->b,c:d->>0::int", "<a>->b;<d>->>#0 as <c> cast <int>;"},
		{"select=count(),n:count()", "<> count;<> as <n> count;"},
		{"select=a.sum(),b::int.avg()::text", "<a> sum;<b> cast <int> avg then <text>;"},
		{"select=a.median()", "select parameter at 2: an aggregate was expected"},
		{"select=id,", "select parameter at 3: a name was expected"},
		{"select=id::", "select parameter at 4: a type was expected"},
		{"select=id::x(1); DROP", "select parameter at 8: unexpected text"},
		{"select=id::x(a)", "select parameter at 5: a type modifier was expected"},
		{"select=a(b", "select parameter at 3: ) was expected"},
		{"select=\"\"", "select parameter at 2: a name is empty"},
		{"select=a'b\\", "select parameter at 1: unexpected text"},
		{"select=id&select=name", "<id>;"},
	};

	CHECK(cases);
}

static void
test_order_and_limits(void **state)
{
	static const Case cases[] = {
		{"order=a", " order <a>"},
		{"order=a.desc,b.asc", " order <a> desc order <b>"},
		{"order=a.desc.nullslast,b.nullsfirst", " order <a> desc last order <b> first"},
		{"order=\"a.desc\"", " order <a.desc>"},
		{"order=a.up", "order at 1: unexpected text"},
		{"order=", "order at 0: a name was expected"},
		{"order=a;b", "order at 1: unexpected text"},
		{"limit=10&offset=20", " limit 10 offset 20"},
		{"limit=0", " limit 0"},
		{"limit=9223372036854775807", " limit 9223372036854775807"},
		{"limit=9223372036854775808", " limit 9223372036854775807"},
		{"limit=-1", " limit -1"},
		{"limit=1e3", ""},
		{"limit= 7 ", " limit 7"},
		{"limit=", ""},
		{"offset=%2B1", ""},
		{"columns=a,\"b,c\"", " column <a> column <b,c>"},
	};

	CHECK(cases);
}

static void
test_hostile(void **state)
{
	static const Case cases[] = {
		{"a=eq.%00", "query string at 0: a NUL byte or invalid UTF-8"},
		{"%00=eq.1", "query string at 0: a NUL byte or invalid UTF-8"},
		{"a=eq.1&b=eq.%f", "<a> eq <1>;<b> eq <%f>;"},
		{"a=eq.%", "<a> eq <%>;"},
		{"a=eq.%zz%4", "<a> eq <%zz%4>;"},
		{"a=eq.%FF", "query string at 0: a NUL byte or invalid UTF-8"},
		{"a=eq.%C0%80", "query string at 0: a NUL byte or invalid UTF-8"},
		{"a=eq.%ED%A0%80", "query string at 0: a NUL byte or invalid UTF-8"},
		{"a=eq.%F4%90%80%80", "query string at 0: a NUL byte or invalid UTF-8"},
		{"a=eq.%E2%82", "query string at 0: a NUL byte or invalid UTF-8"},
		{"a=eq.\xFF", "query string at 0: a NUL byte or invalid UTF-8"},
		{"a=eq.%2500", "<a> eq <%00>;"},
		{"=eq.1", "tree path at 0: a name was expected"},
		{"a&select&limit&b=eq.1", "<b> eq <1>;"},
		{"a=", "filter at 0: an operator such as eq. was expected"},
		{"a=eq", "filter at 0: an operator such as eq. was expected"},
		{"a=equ.1", "filter at 0: an operator such as eq. was expected"},
		{"a=not.not.eq.1", "filter at 4: an operator such as eq. was expected"},
		{"a=eq(some).1", "filter at 2: (any) or (all) was expected"},
		{"a=is(any).null", "filter at 2: the operator takes no (any) or (all)"},
		{"a=in.1", "filter at 3: ( was expected"},
		{"a=in.(1", "filter at 5: ) was expected"},
		{"a=in.(1)x", "<a> in <1>;"},
		{"a=in.(\"1)", "<a> in <\"1>;"},
		{"a=in.(\"1\\", "filter at 7: ) was expected"},
		{"a=is.nul", "filter at 3: null, not_null, true, false or unknown was expected"},
		{"a=is.null'--", "<a> is <null>;"},
		{"a=is.not\x7fnull", "filter at 3: null, not_null, true, false or unknown was expected"},
		{"\"a=eq.1", "tree path at 2: the quote is not closed"},
	};

	CHECK(cases);
	/* a NUL byte as it is, with the length saying so */
	assert_string_equal(parse_bytes("a=eq.\0x", 7), cases[0].tree);
}

/* Deep, wide and repeated texts end in an error or a tree, never in a crash. */
static void
test_limits(void **state)
{
	size_t		size = 400000;
	char	   *text = malloc(size + 1);

	memset(text, '(', size);
	memcpy(text, "or=", 3);
	text[		size] = '\0';

	assert_non_null(strstr(parse_bytes(text, size), "a name was expected"));

	for (size_t i = 3; i + 3 <= size; i += 3)
		memcpy(text +i, i == 3 ? "(or" : "(or", 3);
	assert_non_null(strstr(parse_bytes(text, size), "nested too deeply"));

	memcpy(text, "select=", 7);
	for (size_t i = 7; i + 2 <= size; i += 2)
		memcpy(text +i, "a(", 2);
	assert_non_null(strstr(parse_bytes(text, size), "too deeply"));

	for (size_t i = 7; i + 2 <= size; i += 2)
		memcpy(text +i, "a,", 2);
	assert_non_null(strstr(parse_bytes(text, size), "too many items"));

	for (size_t i = 0; i + 2 <= size; i += 2)
		memcpy(text +i, "a&", 2);
	assert_non_null(strstr(parse_bytes(text, size), "too many parameters"));
	free(text);
}

/* Each allocation may be the one that fails. */
static void
test_out_of_memory(void **state)
{
	const char *text = "select=a:b::c,d(e)&or=(a.in.(1,2),b.eq.1)&order=x&columns=q&z=eq.1";
	int			failed = 0;

	for (size_t n = 0; n < 60; n++)
	{
		OrionQuery	query;
		OrionQueryError error;

		fail_after = n;
		failed += !orion_query_parse(&arena, text, strlen(text), &query, &error);
		release();
	}
	assert_true(failed > 20 && failed < 60);
}

/* Every prefix of a long and valid text, and every byte of it changed. */
static void
test_mutations(void **state)
{
	const char *valid = "select=a:b::numeric(1,2),c!d(e,f(*))&or=(a.in.(1,\"2\\\"\"),not.and(b.eq(any).{1},c.is.null))&order=x.desc.nullslast&limit=1&z.y=not.like.*%41";
	size_t		len = strlen(valid);
	char	   *text = malloc(len);

	for (size_t n = 0; n <= len; n++)
	{
		/* exactly as long as the text, so that a byte too far is seen */
		char	   *prefix = malloc(n ? n : 1);

		memcpy(prefix, valid, n);
		parse_bytes(prefix, n);
		free(prefix);
	}
	for (size_t i = 0; i < len; i++)
		for (int c = 0; c < 256; c++)
		{
			memcpy(text, valid, len);
			text[		i] = (char) c;

			parse_bytes(text, len);
		}
	free(text);
}

/* What is said of a text that a rule does not read. */
static void
test_explain(void **state)
{
	static const struct
	{
		OrionQueryRule rule;
		const char *text;
		int			column;
		const char *details;
	}			cases[] = {
		{ORION_RULE_FILTER, "noop.0", 1, "unexpected \"o\" expecting \"not\" or operator (eq, gt, ...)"},
		{ORION_RULE_FILTER, "", 1, "unexpected end of input expecting \"not\" or operator (eq, gt, ...)"},
		{ORION_RULE_FILTER, "is.nil", 5, "unexpected \"i\" expecting isVal: (null, not_null, true, false, unknown)"},
		{ORION_RULE_FILTER, "in.1", 4, "unexpected \"1\" expecting \"(\""},
		{ORION_RULE_LOGIC, "or()", 4, "unexpected \")\" expecting field name (* or [a..z0..9_$]), negation operator (not) or logic operator (and, or)"},
		{ORION_RULE_NAMES, "", 1, "unexpected end of input expecting field name (* or [a..z0..9_$])"},
		{ORION_RULE_SELECT, "data->>--34", 9, "unexpected \"-\" expecting digit"},
		{ORION_RULE_SELECT, "data->(!x", 7, "unexpected \"(\" expecting \"-\", digit or any non reserved character different from: .,>()"},
		{ORION_RULE_SELECT, "\xc3\xa9->>--1", 6, "unexpected \"-\" expecting digit"},
		{ORION_RULE_SELECT, "a,b(c)", 0, NULL},
		{ORION_RULE_NONE, "a", 0, NULL},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		int			column = 0;
		char	   *details = NULL;
		bool		wrong = orion_query_explain(&arena, cases[i].rule, cases[i].text, &column, &details);

		if (wrong != (cases[i].details != NULL))
			fail_msg("%s: %s", cases[i].text, wrong ? details : "nothing is wrong");
		if (!wrong)
			continue;
		assert_string_equal(details, cases[i].details);
		assert_int_equal(column, cases[i].column);
	}
	release();
}

/* Any text ends somewhere, however deep it goes; it is only ever not explained. */
static void
test_explain_deep(void **state)
{
	char text[	20001];
	int			column;
	char	   *details;

	for (int rule = ORION_RULE_SELECT; rule <= ORION_RULE_PATH; rule++)
	{
		memset(text, '(', 20000);
		text[		20000] = '\0';

		(void) orion_query_explain(&arena, rule, text, &column, &details);
		for (int i = 0; i + 2 < 20000; i += 2)
			memcpy(text +i, "a(", 3);
		(void) orion_query_explain(&arena, rule, text, &column, &details);
		release();
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_filters),
		cmocka_unit_test(test_groups),
		cmocka_unit_test(test_select),
		cmocka_unit_test(test_order_and_limits),
		cmocka_unit_test(test_hostile),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_out_of_memory),
		cmocka_unit_test(test_mutations),
		cmocka_unit_test(test_explain),
		cmocka_unit_test(test_explain_deep),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
