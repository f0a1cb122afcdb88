/*
 * rules.c
 *	  What orion.jwt_audience and orion.jwt_role_claim_key ask of verified claims.
 *
 * Applies to tokens that come with requests, whoever issued them; a token is
 * verified before anything here looks at it.
 */
#include "postgres.h"

#include <limits.h>

#include "catalog/pg_collation.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/jsonb.h"

#include "token/cache.h"
#include "token/claims.h"
#include "token/token.h"

/* How a filter compares; all but the first two are of strings. */
typedef enum Comparison
{
	COMPARE_EQUAL,
	COMPARE_UNEQUAL,
	COMPARE_BEGIN,
	COMPARE_END,
	COMPARE_PART,
	COMPARE_SEARCH,				/* a regular expression finds something */
} Comparison;

/* One step of a path: a member, an element, the first of all, or the first that passes a filter. */
typedef struct Step
{
	const char *name;			/* of a member; NULL: an array is entered */
	int			len;
	int			index;			/* from the end when negative */
	bool		any;			/* * */
	bool		filter;
	Comparison	comparison;
	const char *below;			/* of the filter: the path behind @ */
	int			below_len;
	const char *value;
	int			value_len;
} Step;

int			orion_jwt_cache_entries = 1000;
static char *jwt_audience = NULL;
static char *jwt_role_claim_key = NULL;

/* What a quote at *text encloses, up to the same quote; false when it is not closed. */
static bool
quoted(const char **text, const char **start, int *len)
{
	char		quote = **text;
	const char *end = strchr(*text +1, quote);

	if ((quote != '\'' && quote != '"') || end == NULL)
		return false;
	*start = *text +1;
	*len = end - *start;
	*text = end + 1;
	return true;
}

static bool
operator(const char **text, Comparison *comparison)
{
	static const struct
	{
		const char *text;
		Comparison	comparison;
	}			operators[] = {
		{"==^", COMPARE_END},	/* this and ^==, *== are of PostgREST before
								 * 16 */
		{"==", COMPARE_EQUAL},
		{"!=", COMPARE_UNEQUAL},
		{"^==", COMPARE_BEGIN},
		{"*==", COMPARE_PART},
	};

	for (int i = 0; i < lengthof(operators); i++)
		if (strncmp(*text, operators[i].text, strlen(operators[i].text)) == 0)
		{
			*text +=strlen(operators[i].text);
			*comparison = operators[i].comparison;
			return true;
		}
	return false;
}

/* @ or @.name.name */
static bool
current(const char **text, Step *step)
{
	if (**text !='@')
		return false;
	step->below = ++*text;
	step->below_len = strcspn(*text, " =!^*,)]'\"");
	*text +=step->below_len;
	*text +=strspn(*text, " ");
	return step->below_len == 0 || (step->below_len > 1 && step->below[0] == '.');
}

static bool
comparison(const char **text, Step *step)
{
	bool		search = strncmp(*text, "search(", 7) == 0;

	if (search)
		*text +=7;
	if (!current(text, step) || (search ? *(*text) ++!= ',' : !operator(text, &step->comparison)))
		return false;
	if (search)
		step->comparison = COMPARE_SEARCH;
	*text +=strspn(*text, " ");
	if (!quoted(text, &step->value, &step->value_len))
		return false;
	return !search || *(*text) ++== ')';
}

/* ?@ == 'value', ?search(@, 'regular expression'), both also in parentheses */
static bool
filter(const char **text, Step *step)
{
	bool		parenthesis;

	step->filter = true;
	++*text;
	*text +=strspn(*text, " ");
	parenthesis = **text == '(';
	*text +=parenthesis;
	*text +=strspn(*text, " ");
	if (!comparison(text, step))
		return false;
	*text +=strspn(*text, " ");
	return !parenthesis || *(*text) ++== ')';
}

static bool
bracket(const char **text, Step *step)
{
	char	   *end;

	if (**text == '?')
		return filter(text, step);
	if (**text == '\'' || **text == '"')
		return quoted(text, &step->name, &step->len);
	if (**text == '*')
	{
		step->any = true;
		++*text;
		return true;
	}
	if ((*text)[**text == '-'] <'0' || (*text)[**text == '-'] >'9')
		return false;
	step->index = (int) Max(Min(strtol(*text, &end, 10), INT_MAX), -INT_MAX);
	*text = end;
	return true;
}

/*
 * Takes the next step of a path such as $.app.roles[0] (RFC 9535, in part): 1, at
 * the end 0, and -1 when it is malformed.
 */
static int
next_step(const char **text, Step *step)
{
	memset(step, 0, sizeof(Step));
	if (**text == '\0')
		return 0;
	if (**text == '[')
	{
		++*text;
		if (!bracket(text, step) || **text !=']')
			return -1;
		++*text;
		return 1;
	}
	if (**text !='.')
		return -1;
	++*text;
	if (**text == '"')
		return quoted(text, &step->name, &step->len) ? 1 : -1;
	step->name = *text;
	step->len = strcspn(*text, ".[");
	*text +=step->len;
	return step->len > 0 ? 1 : -1;
}

static bool
check_role_claim_key(char **newval, void **extra, GucSource source)
{
	const char *text = *newval + (**newval == '$');
	Step		step;
	int			result;

	while ((result = next_step(&text, &step)) > 0)
		;
	if (result < 0)
		GUC_check_errdetail("A path looks like $.role, $.app['my role'], $.roles[0] or $.roles[?search(@, '^app_')].");
	return result == 0;
}

static JsonbValue *follow(JsonbValue *value, const char *path);

static bool
passes(JsonbValue *value, const Step *step)
{
	const char *have;
	int			len;
	int			want = step->value_len;

	value = follow(value, pnstrdup(step->below, step->below_len));
	if (value == NULL || value->type != jbvString)
		return false;
	have = value->val.string.val;
	len = value->val.string.len;
	switch (step->comparison)
	{
		case COMPARE_EQUAL:
			return len == want && memcmp(have, step->value, want) == 0;
		case COMPARE_UNEQUAL:
			return len != want || memcmp(have, step->value, want) != 0;
		case COMPARE_BEGIN:
			return len >= want && memcmp(have, step->value, want) == 0;
		case COMPARE_END:
			return len >= want && memcmp(have + len - want, step->value, want) == 0;
		case COMPARE_PART:
			return want == 0 || memmem(have, len, step->value, want) != NULL;
		case COMPARE_SEARCH:
			return DatumGetBool(DirectFunctionCall2Coll(textregexeq, C_COLLATION_OID,
														PointerGetDatum(cstring_to_text_with_len(have, len)),
														PointerGetDatum(cstring_to_text_with_len(step->value, want))));
	}
	return false;
}

static JsonbValue *
take_element(JsonbContainer *array, const Step *step)
{
	uint32		n = JsonContainerSize(array);

	if (step->any)
		return n > 0 ? getIthJsonbValueFromContainer(array, 0) : NULL;
	if (!step->filter && step->index < 0)
		return (uint32) -step->index <= n ? getIthJsonbValueFromContainer(array, n + step->index) : NULL;
	if (!step->filter)
		return getIthJsonbValueFromContainer(array, step->index);
	for (uint32 i = 0; i < n; i++)
	{
		JsonbValue *value = getIthJsonbValueFromContainer(array, i);

		if (passes(value, step))
			return value;
	}
	return NULL;
}

/* The first value that the path leads to, or NULL. */
static JsonbValue *
follow(JsonbValue *value, const char *path)
{
	Step		step;

	while (value && next_step(&path, &step) > 0)
	{
		JsonbContainer *container;

		if (value->type != jbvBinary)
			return NULL;
		container = value->val.binary.data;
		if (step.name ? !JsonContainerIsObject(container) : !JsonContainerIsArray(container))
			return NULL;
		value = step.name ? getKeyJsonValueFromContainer(container, step.name, step.len, NULL) :
			take_element(container, &step);
	}
	return value;
}

char *
orion_claims_role(const Jsonb *claims)
{
	JsonbValue	all = {.type = jbvBinary};
	JsonbValue *value;
	Jsonb	   *other;

	all.val.binary.data = unconstify(JsonbContainer *, &claims->root);
	all.val.binary.len = VARSIZE(claims) - VARHDRSZ;
	value = follow(&all, jwt_role_claim_key + (jwt_role_claim_key[0] == '$'));
	if (value == NULL)
		return NULL;
	if (value->type == jbvString)
		return pnstrdup(value->val.string.val, value->val.string.len);
	/* no name of a role, so not anonymous either */
	other = JsonbValueToJsonb(value);
	return JsonbToCString(NULL, &other->root, VARSIZE(other));
}

static bool
is_audience(const JsonbValue *value)
{
	return value->val.string.len == strlen(jwt_audience) &&
		memcmp(value->val.string.val, jwt_audience, value->val.string.len) == 0;
}

static OrionTokenStatus
among_audiences(JsonbContainer *array)
{
	bool		found = JsonContainerSize(array) == 0 || jwt_audience[0] == '\0';

	for (uint32 i = 0; i < JsonContainerSize(array); i++)
	{
		JsonbValue *value = getIthJsonbValueFromContainer(array, i);

		if (value->type != jbvString)
			return ORION_TOKEN_BAD_AUDIENCE;
		found |= is_audience(value);
	}
	return found ? ORION_TOKEN_VALID : ORION_TOKEN_OTHER_AUDIENCE;
}

/* RFC 7519, section 4.1.3; a token without an audience is for all. */
OrionTokenStatus
orion_claims_audience(const Jsonb *claims)
{
	JsonbValue	buffer;
	JsonbValue *aud = getKeyJsonValueFromContainer(unconstify(JsonbContainer *, &claims->root),
												   "aud", 3, &buffer);

	if (aud == NULL || aud->type == jbvNull)
		return ORION_TOKEN_VALID;
	if (aud->type == jbvString)
		return jwt_audience[0] == '\0' || is_audience(aud) ? ORION_TOKEN_VALID : ORION_TOKEN_OTHER_AUDIENCE;
	if (aud->type != jbvBinary || !JsonContainerIsArray(aud->val.binary.data))
		return ORION_TOKEN_BAD_AUDIENCE;
	return among_audiences(aud->val.binary.data);
}

void
orion_token_rules_init(void)
{
	DefineCustomStringVariable("orion.jwt_audience",
							   "Audience that tokens must be for.",
							   "Empty: tokens for any audience are taken. A token without an audience is for all.",
							   &jwt_audience, "",
							   PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("orion.jwt_role_claim_key",
							   "Where a token's claims name the role.",
							   "A path such as $.role, $.app['my role'] or $.roles[0].",
							   &jwt_role_claim_key, "$.role",
							   PGC_SIGHUP, 0, check_role_claim_key, NULL, NULL);
	DefineCustomIntVariable("orion.jwt_cache_entries",
							"Verified tokens that each process remembers.",
							"0 verifies each token each time.",
							&orion_jwt_cache_entries, 1000, 0, 1000000,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
}
