/*
 * explain.c
 *	  The grammar of query strings once more, as rules, to explain why a text is
 *	  outside of it.
 *
 * query.c reads; this runs only when it has failed.  Clients compare these
 * messages, which PostgREST takes from its parser: so rules and how errors of
 * alternatives are merged follow that kind of parser.  A choice goes on to its next
 * alternative only while nothing was consumed; of two errors the one further to
 * the right counts, and at one place both do.
 *
 * Pure C over bytes of anybody, without a Postgres header.  Recursion is bounded by
 * MAX_DEPTH; no rule looks ahead further than over a name, so the work is linear in
 * the text for each level of nesting.
 */
#include "rest/explain.h"

#include <string.h>

#define MAX_DEPTH		400		/* of rules, about twenty a level of nesting */
#define MAX_MESSAGES	24

typedef enum Kind
{
	SEQUENCE,					/* all parts */
	CHOICE,						/* the first part that fits */
	TRY,						/* the part; when it fails nothing is consumed */
	MANY,						/* the part any number of times */
	LABEL,						/* the part, called text in messages */
	AHEAD,						/* the part, which is not consumed */
	NOT,						/* the part must not follow */
	WORD,						/* exactly text */
	CASELESS,					/* text in any case */
	ONE_OF,						/* a character of text */
	NONE_OF,					/* another one */
	LETTER,
	DIGIT,
	ANY,
	END,
	NOTHING,
	NO_COUNT,					/* a name that is not "count" */
} Kind;

typedef struct Rule
{
	Kind		kind;
	const char *text;
	const struct Rule *const *parts;	/* up to NULL */
} Rule;

/* In the order in which they are told. */
typedef enum MessageKind
{
	FOUND,						/* unexpected, by the parser itself */
	UNWANTED,					/* unexpected, because a rule says so */
	EXPECTED,
} MessageKind;

typedef struct Message
{
	MessageKind kind;
	const char *text;
} Message;

typedef struct Problem
{
	size_t		at;
	int			n;				/* 0: none is known */
	Message		messages[MAX_MESSAGES];
} Problem;

typedef struct Run
{
	const OrionArena *arena;
	const char *text;
	size_t		pos;
	int			depth;
	bool		gave_up;		/* too deep, or no memory */
} Run;

/* How it went: pos has moved when it consumed. */
typedef struct Outcome
{
	bool		ok;
	bool		consumed;
} Outcome;

static const Outcome taken = {true, true};
static const Outcome skipped = {true, false};
static const Outcome refused = {false, false};

#define PARTS(...)		(const Rule *const[]) {__VA_ARGS__, NULL}
#define RULE(...)		(&(const Rule) {__VA_ARGS__})
#define SEQ(...)		RULE(SEQUENCE, NULL, PARTS(__VA_ARGS__))
#define ALT(...)		RULE(CHOICE, NULL, PARTS(__VA_ARGS__))
#define ATTEMPT(...)	RULE(TRY, NULL, PARTS(SEQ(__VA_ARGS__)))
#define REPEAT(...)		RULE(MANY, NULL, PARTS(SEQ(__VA_ARGS__)))
#define NAMED(name, r)	RULE(LABEL, name, PARTS(r))
#define TEXT(t)			RULE(WORD, t, NULL)
#define TRY_TEXT(t)		ATTEMPT(TEXT(t))
#define TRY_CASELESS(t) ATTEMPT(RULE(CASELESS, t, NULL))
#define TRY_AHEAD(t)	ATTEMPT(RULE(AHEAD, NULL, PARTS(TEXT(t))))
#define TRY_END			ATTEMPT(RULE(END, NULL, NULL))
#define BEFORE(r)		RULE(NOT, NULL, PARTS(r))
#define EMPTY			RULE(NOTHING, NULL, NULL)
#define MAYBE(...)		ALT(SEQ(__VA_ARGS__), EMPTY)
#define SPACED(...)		SEQ(&spaces, __VA_ARGS__, &spaces)
#define LISTED(item, s) SEQ(item, REPEAT(s, item))

static const Rule select_list;
static const Rule logic_tree;

static const Rule spaces = {MANY, NULL, PARTS(RULE(ONE_OF, " \t", NULL))};
static const Rule comma = {SEQUENCE, NULL, PARTS(SPACED(TEXT(",")))};
static const Rule delimiter = {LABEL, "delimiter (.)", PARTS(TEXT("."))};

static const Rule quoted = {SEQUENCE, NULL, PARTS(TEXT("\""),
												  REPEAT(ALT(RULE(NONE_OF, "\\\"", NULL), SEQ(TEXT("\\"), RULE(ANY, NULL, NULL)))),
												  TEXT("\""))};
static const Rule word_character = {CHOICE, NULL, PARTS(RULE(LETTER, NULL, NULL), RULE(DIGIT, NULL, NULL),
														RULE(ONE_OF, "_ $", NULL))};
static const Rule word = {SEQUENCE, NULL, PARTS(&word_character, REPEAT(&word_character))};
static const Rule dash = {TRY, NULL, PARTS(SEQ(TEXT("-"), BEFORE(TEXT(">"))))};
static const Rule name = {LABEL, "field name (* or [a..z0..9_$])", PARTS(ALT(&quoted, LISTED(&word, &dash)))};

/* Paths into JSON. */
static const Rule key_character = {NONE_OF, "(-:.,>)", NULL};
static const Rule key_word = {SEQUENCE, NULL, PARTS(&key_character, REPEAT(&key_character))};
static const Rule key = {LABEL, "any non reserved character different from: .,>()",
PARTS(ALT(&quoted, LISTED(&key_word, &dash)))};
static const Rule digits = {SEQUENCE, NULL, PARTS(RULE(DIGIT, NULL, NULL), REPEAT(RULE(DIGIT, NULL, NULL)))};
static const Rule element = {SEQUENCE, NULL, PARTS(MAYBE(TEXT("-")), &digits,
												   ALT(TRY_AHEAD("->"), TRY_AHEAD("::"), TRY_AHEAD("."), TRY_AHEAD(","), TRY_END))};
static const Rule path = {MANY, NULL, PARTS(SEQ(ALT(TRY_TEXT("->>"), TRY_TEXT("->")),
												ALT(ATTEMPT(&element), ATTEMPT(&key))))};
static const Rule field = {SEQUENCE, NULL, PARTS(SPACED(&name, MAYBE(&path)))};

/* select= */
static const Rule alias = {CHOICE, NULL, PARTS(ATTEMPT(&name, TEXT(":"), BEFORE(TEXT(":"))), EMPTY)};
static const Rule embed_word = {SEQUENCE, NULL, PARTS(TEXT("!"),
													  ALT(TRY_TEXT("left"), TRY_TEXT("inner"), ATTEMPT(&name)))};
static const Rule embed_words = {SEQUENCE, NULL, PARTS(MAYBE(&embed_word), MAYBE(&embed_word), TRY_AHEAD("("))};
static const Rule relation = {SEQUENCE, NULL, PARTS(SPACED(&alias, RULE(NO_COUNT, NULL, PARTS(&name)), &embed_words))};
static const Rule spread = {SEQUENCE, NULL, PARTS(SPACED(TEXT("..."), &name, &embed_words))};
static const Rule select_end = {CHOICE, NULL, PARTS(TRY_AHEAD(")"), TRY_AHEAD(","), TRY_END)};
static const Rule cast = {CHOICE, NULL, PARTS(SEQ(TEXT("::"), &word), EMPTY)};
static const Rule aggregate = {CHOICE, NULL, PARTS(ATTEMPT(TEXT("."),
														   ALT(TEXT("sum"), TEXT("avg"), TEXT("count"), TRY_TEXT("max"), TRY_TEXT("min")),
														   TEXT("()")), EMPTY)};
static const Rule select_field = {SEQUENCE, NULL, PARTS(SPACED(ALT(ATTEMPT(TEXT("*"), &select_end),
																   ATTEMPT(&alias, TEXT("count()"), &cast, &select_end),
																   SEQ(&alias, &field, &cast, &aggregate, &cast, &select_end))))};
static const Rule members = {SEQUENCE, NULL, PARTS(TEXT("("), &select_list, TEXT(")"))};
static const Rule select_item = {CHOICE, NULL, PARTS(SEQ(ATTEMPT(&spread), &members), SEQ(ATTEMPT(&relation), &members),
													 &select_field)};
static const Rule select_list = {CHOICE, NULL, PARTS(LISTED(&select_item, &comma), EMPTY)};

/* Filters. */
static const Rule rest = {MANY, NULL, PARTS(RULE(ANY, NULL, NULL))};
static const Rule plain_element = {MANY, NULL, PARTS(RULE(NONE_OF, ",)", NULL))};
static const Rule quoted_element = {TRY, NULL, PARTS(SEQ(&quoted, BEFORE(RULE(NONE_OF, ",)", NULL))))};
static const Rule list_element = {CHOICE, NULL, PARTS(&quoted_element, &plain_element)};
static const Rule array = {TRY, NULL, PARTS(SEQ(TEXT("{"), REPEAT(RULE(NONE_OF, "{}", NULL)), TEXT("}")))};
static const Rule member_value = {CHOICE, NULL, PARTS(&quoted_element, &array, &plain_element)};
static const Rule in_test = {SEQUENCE, NULL, PARTS(ATTEMPT(TEXT("in"), &delimiter), SPACED(TEXT("(")),
												   LISTED(&list_element, TEXT(",")), SPACED(TEXT(")")))};
static const Rule is_test = {SEQUENCE, NULL, PARTS(ATTEMPT(TEXT("is"), &delimiter),
												   NAMED("isVal: (null, not_null, true, false, unknown)",
														 ALT(TRY_CASELESS("null"), TRY_CASELESS("not_null"), TRY_CASELESS("true"),
															 TRY_CASELESS("false"), TRY_CASELESS("unknown"))))};
static const Rule distinct_test = {TRY, NULL, PARTS(SEQ(TEXT("isdistinct"), &delimiter))};
static const Rule search_test = {TRY, NULL, PARTS(SEQ(ALT(TRY_TEXT("fts"), TRY_TEXT("plfts"), TRY_TEXT("phfts"), TRY_TEXT("wfts")),
													  MAYBE(ATTEMPT(TEXT("("), &word, TEXT(")"))), &delimiter))};
static const Rule simple_test = {TRY, NULL, PARTS(SEQ(NAMED("unknown single value operator",
															ALT(TRY_TEXT("neq"), TRY_TEXT("cs"), TRY_TEXT("cd"), TRY_TEXT("ov"), TRY_TEXT("sl"),
																TRY_TEXT("sr"), TRY_TEXT("nxr"), TRY_TEXT("nxl"), TRY_TEXT("adj"))),
													  &delimiter))};
static const Rule any_or_all = {CHOICE, NULL, PARTS(ATTEMPT(TEXT("("), ALT(TRY_TEXT("any"), TEXT("all")), TEXT(")")), EMPTY)};
static const Rule quantified_test = {TRY, NULL, PARTS(SEQ(NAMED("unknown single value operator",
																ALT(TRY_TEXT("eq"), TRY_TEXT("gte"), TRY_TEXT("gt"), TRY_TEXT("lte"), TRY_TEXT("lt"),
																	TRY_TEXT("like"), TRY_TEXT("ilike"), TRY_TEXT("match"), TRY_TEXT("imatch"))),
														  &any_or_all, &delimiter))};
static const Rule not_word = {TRY, NULL, PARTS(SEQ(TEXT("not"), &delimiter))};

#define TEST(value) \
	SEQ(ALT(&not_word, EMPTY), \
		NAMED("operator (eq, gt, ...)", \
			  ALT(&in_test, &is_test, SEQ(&distinct_test, value), SEQ(&search_test, value), \
				  SEQ(&simple_test, value), SEQ(&quantified_test, value))))

static const Rule filter = {SEQUENCE, NULL, PARTS(TEST(&rest))};
static const Rule member = {TRY, NULL, PARTS(SEQ(&field, &delimiter, TEST(&member_value)))};
static const Rule logic_tree = {CHOICE, NULL, PARTS(&member, SEQ(NAMED("negation operator (not)", ALT(&not_word, EMPTY)),
																 NAMED("logic operator (and, or)", ALT(TRY_TEXT("and"), TEXT("or"))),
																 SPACED(TEXT("(")), LISTED(&logic_tree, &comma), SPACED(TEXT(")"))))};

/* order=, and lists and paths of names. */
static const Rule order_end = {CHOICE, NULL, PARTS(TRY_AHEAD(","), TRY_END)};
static const Rule direction = {CHOICE, NULL, PARTS(ATTEMPT(&delimiter, TEXT("asc")), ATTEMPT(&delimiter, TEXT("desc")), EMPTY)};
static const Rule nulls = {CHOICE, NULL, PARTS(ATTEMPT(&delimiter, TEXT("nullsfirst")), ATTEMPT(&delimiter, TEXT("nullslast")), EMPTY)};
static const Rule sorting = {SEQUENCE, NULL, PARTS(&direction, ALT(SEQ(&nulls, &order_end), &order_end))};
static const Rule related = {TRY, NULL, PARTS(SEQ(&name, TEXT("("), &field, TEXT(")"), &sorting))};
static const Rule order_item = {SEQUENCE, NULL, PARTS(SPACED(ALT(&related, SEQ(&field, &sorting))))};
static const Rule order = {SEQUENCE, NULL, PARTS(LISTED(&order_item, TEXT(",")))};
static const Rule names = {SEQUENCE, NULL, PARTS(LISTED(&name, &comma))};
static const Rule tree_path = {SEQUENCE, NULL, PARTS(LISTED(&name, &delimiter), MAYBE(&path))};

static const Rule *const rules[] = {
	[ORION_RULE_SELECT] = &select_list,
	[ORION_RULE_FILTER] = &filter,
	[ORION_RULE_LOGIC] = &logic_tree,
	[ORION_RULE_ORDER] = &order,
	[ORION_RULE_NAMES] = &names,
	[ORION_RULE_PATH] = &tree_path,
};

/* Every message of that kind gives way to this one. */
static void
set_message(Problem *problem, MessageKind kind, const char *text)
{
	int			n = 1;

	for (int i = 0; i < problem->n; i++)
		if (problem->messages[i].kind != kind && n < MAX_MESSAGES)
			n++;
	for (int i = problem->n - 1, to = n - 1; i >= 0 && to > 0; i--)
		if (problem->messages[i].kind != kind)
			problem->messages[to--] = problem->messages[i];
	problem->messages[0].kind = kind;
	problem->messages[0].text = text;

	problem->n = n;
}

/* *first becomes what is known of both. */
static void
merge(Problem *first, const Problem *second)
{
	if (second->n == 0 && first->n > 0)
		return;
	if ((first->n == 0 && second->n > 0) || second->at > first->at)
	{
		*first = *second;
		return;
	}
	if (second->at < first->at)
		return;
	for (int i = 0; i < second->n && first->n < MAX_MESSAGES; i++)
		first->messages[first->n++] = second->messages[i];
}

/* Bytes of the character at text. */
static size_t
character(const char *text)
{
	size_t		n = 1;

	while (((unsigned char) text[n] & 0xC0) == 0x80)
		n++;
	return n;
}

/* The character between such quotes, for a message. */
static const char *
show(Run *run, const char *text, char quote)
{
	size_t		len = character(text);
	char	   *shown = run->arena->alloc(run->arena->context, len + 4);
	char	   *out = shown;

	if (!shown)
	{
		run->gave_up = true;
		return "";
	}
	*out++ = quote;
	if (*text == quote || *text == '\\')
		*out++ = '\\';
	memcpy(out, text, len);
	out += len;
	*out++ = quote;
	*out = '\0';
	return shown;
}

/* Nothing fits here: at is the character that was found. */
static Outcome
unexpected(Run *run, Problem *problem, const char *at)
{
	problem->at = run->pos;
	problem->n = 0;
	set_message(problem, FOUND, *at ? show(run, at, '"') : "");
	return refused;
}

static Outcome
consume(Run *run, Problem *problem, size_t len)
{
	run->pos += len;
	problem->at = run->pos;
	problem->n = 0;
	return taken;
}

static bool
is_in(const char *set, const char *text)
{
	return strchr(set, *text) != NULL;
}

static bool
fits(Kind kind, const char *set, const char *text)
{
	unsigned char c = *text;

	if (c == '\0')
		return false;
	switch (kind)
	{
		case ONE_OF:
			return is_in(set, text);
		case NONE_OF:
			return !is_in(set, text);
		case LETTER:
			return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c >= 0x80;
		case DIGIT:
			return c >= '0' && c <= '9';
		default:
			return true;
	}
}

static Outcome
run_character(Run *run, const Rule *rule, Problem *problem)
{
	const char *text = run->text +run->pos;
	Outcome		outcome;

	if (fits(rule->kind, rule->text, text))
		return consume(run, problem, character(text));
	outcome = unexpected(run, problem, text);
	if (rule->kind == LETTER || rule->kind == DIGIT)
		set_message(problem, EXPECTED, rule->kind == DIGIT ? "digit" : "letter");
	return outcome;
}

/* A word fails at its beginning, even if it was the right one for a while. */
static Outcome
run_word(Run *run, const Rule *rule, Problem *problem)
{
	const char *text = run->text +run->pos;
	size_t		len = strlen(rule->text);
	size_t		same = 0;
	Outcome		outcome;
	char	   *shown;

	while (same < len && text[same] == rule->text[same])
		same++;
	if (same == len)
		return consume(run, problem, len);
	outcome = unexpected(run, problem, text +same);
	shown = run->arena->alloc(run->arena->context, len * 2 + 3);
	if (!shown)
	{
		run->gave_up = true;
		return outcome;
	}
	set_message(problem, EXPECTED, shown);
	*shown++ = '"';
	for (const char *c = rule->text; *c; c++)
	{
		if (*c == '"' || *c == '\\')
			*shown++ = '\\';
		*shown++ = *c;
	}
	strcpy(shown, "\"");
	outcome.consumed = same > 0;
	run->pos += same;
	return outcome;
}

/* Letter by letter, each in either case. */
static Outcome
run_caseless(Run *run, const Rule *rule, Problem *problem)
{
	size_t		start = run->pos;
	char		letter[2] = {0};
	Rule		one = {WORD, letter, NULL};

	for (const char *c = rule->text; *c; c++)
	{
		Problem		lower;
		Outcome		outcome;

		letter[0] = *c;
		outcome = run_word(run, &one, &lower);
		if (!outcome.ok && *c >= 'a' && *c <= 'z')
		{
			letter[0] = *c - 'a' + 'A';
			outcome = run_word(run, &one, problem);
			merge(&lower, problem);
		}
		*problem = lower;
		outcome.consumed |= run->pos > start;
		if (!outcome.ok)
			return outcome;
	}
	return taken;
}

static Outcome run_rule(Run *run, const Rule *rule, Problem *problem);

static Outcome
run_sequence(Run *run, const Rule *rule, Problem *problem)
{
	Outcome		all = {true, false};

	problem->at = run->pos;
	problem->n = 0;
	for (const Rule *const *part = rule->parts; *part && all.ok; part++)
	{
		Problem		next;
		Outcome		outcome = run_rule(run, *part, &next);

		if (outcome.consumed)
			*problem = next;
		else
			merge(problem, &next);
		all.ok = outcome.ok;
		all.consumed |= outcome.consumed;
	}
	return all;
}

static Outcome
run_choice(Run *run, const Rule *rule, Problem *problem)
{
	Outcome		outcome = {false, false};

	problem->at = run->pos;
	problem->n = 0;
	for (const Rule *const *part = rule->parts; *part; part++)
	{
		Problem		next;

		outcome = run_rule(run, *part, &next);
		if (outcome.consumed)
		{
			*problem = next;
			return outcome;
		}
		merge(problem, &next);
		if (outcome.ok)
			return outcome;
	}
	return outcome;
}

static Outcome
run_many(Run *run, const Rule *rule, Problem *problem)
{
	Outcome		all = {true, false};

	for (;;)
	{
		size_t		start = run->pos;
		Outcome		outcome = run_rule(run, rule->parts[0], problem);

		all.consumed |= outcome.consumed;
		if (!outcome.ok && !outcome.consumed)
			return all;
		all.ok = outcome.ok;
		if (!outcome.ok || run->pos == start)
			return all;
	}
}

static Outcome
run_end(Run *run, Problem *problem)
{
	Outcome		outcome = unexpected(run, problem, run->text +run->pos);

	outcome.ok = run->text[run->pos] == '\0';
	if (!outcome.ok)
	{
		problem->n = 0;
		set_message(problem, UNWANTED, show(run, run->text +run->pos, '\''));
	}
	set_message(problem, EXPECTED, "end of input");
	return outcome;
}

/* When the part does follow, the message is about what is behind it. */
static Outcome
run_not(Run *run, const Rule *rule, Problem *problem)
{
	size_t		start = run->pos;
	Outcome		outcome = run_rule(run, rule->parts[0], problem);

	if (!outcome.ok)
	{
		run->pos = start;
		return skipped;
	}
	problem->at = run->pos;
	problem->n = 0;
	set_message(problem, UNWANTED, show(run, run->text +start, '\''));
	run->pos = start;
	return refused;
}

/* Rules around one part. */
static Outcome
run_around(Run *run, const Rule *rule, Problem *problem)
{
	size_t		start = run->pos;
	Outcome		outcome = run_rule(run, rule->parts[0], problem);

	switch (rule->kind)
	{
		case TRY:
			if (!outcome.ok)
			{
				run->pos = start;
				outcome.consumed = false;
			}
			break;
		case LABEL:
			if (!outcome.consumed && (!outcome.ok || problem->n > 0))
				set_message(problem, EXPECTED, rule->text);
			break;
		case AHEAD:
			if (outcome.ok)
			{
				run->pos = problem->at = start;
				problem->n = 0;
				outcome.consumed = false;
			}
			break;
		default:				/* NO_COUNT: an aggregate is no relation */
			if (outcome.ok && run->pos - start == 5 && memcmp(run->text +start, "count", 5) == 0)
				outcome.ok = false;
			break;
	}
	return outcome;
}

static Outcome
run_rule(Run *run, const Rule *rule, Problem *problem)
{
	Outcome		outcome = {false, true};

	problem->at = run->pos;
	problem->n = 0;
	if (run->gave_up || run->depth >= MAX_DEPTH)
	{
		run->gave_up = true;
		return outcome;			/* as consumed, so that nothing else is tried */
	}
	run->depth++;
	switch (rule->kind)
	{
		case SEQUENCE:
			outcome = run_sequence(run, rule, problem);
			break;
		case CHOICE:
			outcome = run_choice(run, rule, problem);
			break;
		case MANY:
			outcome = run_many(run, rule, problem);
			break;
		case WORD:
			outcome = run_word(run, rule, problem);
			break;
		case CASELESS:
			outcome = run_caseless(run, rule, problem);
			break;
		case END:
			outcome = run_end(run, problem);
			break;
		case NOT:
			outcome = run_not(run, rule, problem);
			break;
		case NOTHING:
			outcome = skipped;
			break;
		case TRY:
		case LABEL:
		case AHEAD:
		case NO_COUNT:
			outcome = run_around(run, rule, problem);
			break;
		default:
			outcome = run_character(run, rule, problem);
			break;
	}
	run->depth--;
	return outcome;
}

/* Appends "expecting a, b or c": the messages of a kind, each once; nothing when there is none. */
static void
list_messages(char *out, const Problem *problem, MessageKind kind, const char *what)
{
	const char *texts[MAX_MESSAGES];
	int			n = 0;

	for (int i = 0; i < problem->n; i++)
	{
		bool		again = problem->messages[i].kind != kind || problem->messages[i].text[0] == '\0';

		for (int k = 0; k < n; k++)
			again |= strcmp(texts[k], problem->messages[i].text) == 0;
		if (!again)
			texts[n++] = problem->messages[i].text;
	}
	if (n > 0)
	{
		strcat(out, out[0] ? " " : "");
		strcat(out, what);
	}
	for (int i = 0; i < n; i++)
	{
		strcat(out, i == 0 ? " " : i + 1 == n ? " or " : ", ");
		strcat(out, texts[i]);
	}
}

static char *
tell(Run *run, const Problem *problem)
{
	size_t		size = 64;
	char	   *out;
	const char *found = NULL;
	bool		unwanted = false;

	for (int i = problem->n - 1; i >= 0; i--)
	{
		size += strlen(problem->messages[i].text) + 8;
		unwanted |= problem->messages[i].kind == UNWANTED;
		if (problem->messages[i].kind == FOUND)
			found = problem->messages[i].text;
	}
	out = run->arena->alloc(run->arena->context, size);
	if (!out)
		return NULL;
	out[0] = '\0';
	if (problem->n == 0)
		strcat(out, "unknown parse error");
	if (found && !unwanted)
	{
		strcat(out, "unexpected ");
		strcat(out, found[0] ? found : "end of input");
	}
	list_messages(out, problem, UNWANTED, "unexpected");
	list_messages(out, problem, EXPECTED, "expecting");
	return out;
}

bool
orion_query_explain(const OrionArena *arena, OrionQueryRule rule, const char *text, int *column, char **details)
{
	Run			run = {.arena = arena};
	Problem		problem;
	size_t		at = 0;

	run.text = text;

	if (rule == ORION_RULE_NONE || run_rule(&run, rules[rule], &problem).ok || run.gave_up)
		return false;
	for (*column = 1; at < problem.at; (*column)++)
		at += character(run.text +at);
	*details = tell(&run, &problem);
	return *details != NULL;
}
