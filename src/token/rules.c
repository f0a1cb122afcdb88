/*
 * rules.c
 *	  What orion.jwt_audience and orion.jwt_role_claim_key ask of verified claims.
 *
 * Applies to tokens that come with requests, whoever issued them; a token is
 * verified before anything here looks at it.
 */
#include "postgres.h"

#include <limits.h>

#include "utils/guc.h"
#include "utils/jsonb.h"

#include "token/cache.h"
#include "token/claims.h"
#include "token/token.h"

/* One step of a path: a member, an element, or the element of a value. */
typedef struct Step
{
	const char *name;			/* of a member; NULL: an array is entered */
	int			len;
	int			index;			/* -1: the first element equal to value */
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

/* [?(@ == 'value')] behind the bracket */
static bool
equality(const char **text, Step *step)
{
	const char *at = *text +1;
	bool		parenthesis = *at == '(';

	at += parenthesis;
	if (*at++ != '@')
		return false;
	at += strspn(at, " ");
	if (strncmp(at, "==", 2) != 0)
		return false;
	at += 2;
	at += strspn(at, " ");
	step->index = -1;
	if (!quoted(&at, &step->value, &step->value_len) || (parenthesis && *at++ != ')'))
		return false;
	*text = at;
	return true;
}

static bool
bracket(const char **text, Step *step)
{
	char	   *end;

	if (**text == '?')
		return equality(text, step);
	if (**text == '\'' || **text == '"')
		return quoted(text, &step->name, &step->len);
	if (**text <'0' || **text >'9')
		return false;
	step->index = (int) Min(strtol(*text, &end, 10), INT_MAX);
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
		GUC_check_errdetail("A path looks like $.role, $.app['my role'] or $.roles[0].");
	return result == 0;
}

static JsonbValue *
take_element(JsonbContainer *array, const Step *step)
{
	if (step->index >= 0)
		return getIthJsonbValueFromContainer(array, step->index);
	for (uint32 i = 0; i < JsonContainerSize(array); i++)
	{
		JsonbValue *value = getIthJsonbValueFromContainer(array, i);

		if (value->type == jbvString && value->val.string.len == step->value_len &&
			memcmp(value->val.string.val, step->value, step->value_len) == 0)
			return value;
	}
	return NULL;
}

char *
orion_claims_role(const Jsonb *claims)
{
	const char *text = jwt_role_claim_key + (jwt_role_claim_key[0] == '$');
	JsonbContainer *container = unconstify(JsonbContainer *, &claims->root);
	JsonbValue *value = NULL;
	Step		step;

	while (next_step(&text, &step) > 0)
	{
		if (value && value->type != jbvBinary)
			return NULL;
		if (value)
			container = value->val.binary.data;
		if (step.name ? !JsonContainerIsObject(container) : !JsonContainerIsArray(container))
			return NULL;
		value = step.name ? getKeyJsonValueFromContainer(container, step.name, step.len, NULL) :
			take_element(container, &step);
		if (value == NULL)
			return NULL;
	}
	if (value == NULL || value->type != jbvString)
		return NULL;
	return pnstrdup(value->val.string.val, value->val.string.len);
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
