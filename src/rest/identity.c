/*
 * identity.c
 *	  The bearer token or API key of a request: verified claims, or a refusal that says why in
 *	  the words clients of PostgREST know.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"

#include "apikey/apikey.h"
#include "rest/error.h"
#include "rest/session.h"
#include "rest/settings.h"
#include "token/token.h"

/* What a client is told; NULL details stay null. */
static const struct
{
	const char *code;
	const char *message;
	const char *details;
}			refusals[] = {
	[ORION_TOKEN_EXPIRED] = {"PGRST303", "JWT expired", NULL},
	[ORION_TOKEN_NOT_YET] = {"PGRST303", "JWT not yet valid", NULL},
	[ORION_TOKEN_FROM_FUTURE] = {"PGRST303", "JWT issued at future", NULL},
	[ORION_TOKEN_BAD_TIME] = {"PGRST303", NULL, NULL},
	[ORION_TOKEN_BAD_AUDIENCE] = {"PGRST303", "The JWT 'aud' claim must be a string or an array of strings", NULL},
	[ORION_TOKEN_OTHER_AUDIENCE] = {"PGRST303", "JWT not in audience", NULL},
	[ORION_TOKEN_BAD_CLAIMS] = {"PGRST303", "Parsing claims failed", NULL},
	[ORION_TOKEN_ENDED] = {"PGRST301", "The session has ended", NULL},
	[ORION_TOKEN_MALFORMED] = {"PGRST301", NULL, NULL},
	[ORION_TOKEN_UNREADABLE] = {"PGRST301", "JWT cryptographic operation failed", NULL},
	[ORION_TOKEN_UNSECURED] = {"PGRST301", "Wrong or unsupported encoding algorithm",
	"JWT is unsecured but expected 'alg' was not 'none'"},
	[ORION_TOKEN_UNKNOWN_KEY] = {"PGRST301", "No suitable key or wrong key type",
	"None of the keys was able to decode the JWT"},
};

static int
count_parts(const char *token)
{
	int			n = 1;

	for (; *token; token++)
		n += *token == '.';
	return n;
}

/* The first of the three times that is no number. */
static const char *
bad_time(const char *token)
{
	static const char *const times[] = {"exp", "nbf", "iat"};
	Jsonb	   *claims = orion_token_peek(token, strlen(token));
	JsonbValue	buffer;

	for (int i = 0; claims && i < lengthof(times); i++)
	{
		JsonbValue *value = getKeyJsonValueFromContainer(&claims->root, times[i], 3, &buffer);

		if (value && value->type != jbvNumeric && value->type != jbvNull)
			return times[i];
	}
	return "exp";
}

static void
refuse_token(OrionTokenStatus status, const char *token, const char *why)
{
	const char *message = refusals[status].message;

	if (status == ORION_TOKEN_BAD_TIME)
		message = psprintf("The JWT '%s' claim must be a number", bad_time(token));
	else if (status == ORION_TOKEN_MALFORMED)
		message = count_parts(token) == 3 ? why :
			psprintf("Expected 3 parts in JWT; got %d", count_parts(token));
	orion_refuse_token(refusals[status].code, message, refusals[status].details);
}

/* The claims that an API key stands for; Orion made them itself. */
static void
identify_by_key(OrionCall *call, const char *key)
{
	const char *why = NULL;
	int			retry_after = 0;

	switch (orion_api_key_verify(key, &call->claims, &why, &retry_after))
	{
		case ORION_API_KEY_INVALID:
			orion_refuse(401, "api_key_invalid", why, NULL, NULL);
		case ORION_API_KEY_LIMITED:
			orion_refuse_for_now("api_key_rate_limited", "The API key was used too often", retry_after);
		case ORION_API_KEY_VALID:
			break;
	}
	call->role = orion_claims_string(call->claims, "role");
	call->authenticated = true;
}

char *
orion_session_claims(const OrionCall *call)
{
	static const char *const passing[] = {"exp", "iat", "nbf", "jti"};
	Jsonb	   *claims = call->claims;

	if (claims == NULL)
		return "{}";
	for (int i = 0; i < lengthof(passing); i++)
		claims = DatumGetJsonbP(DirectFunctionCall2(jsonb_delete, JsonbPGetDatum(claims),
													CStringGetTextDatum(passing[i])));
	return JsonbToCString(NULL, &claims->root, VARSIZE(claims));
}

char *
orion_session_subject(const OrionCall *call)
{
	char	   *subject = call->claims ? orion_claims_string(call->claims, "sub") : NULL;
	char	   *issuer = call->claims ? orion_claims_string(call->claims, "iss") : NULL;
	StringInfoData text;

	initStringInfo(&text);
	escape_json(&text, call->role ? call->role : orion_rest_anon_role);
	appendStringInfoChar(&text, ' ');
	if (subject == NULL || subject[0] == '\0')
	{
		appendStringInfoString(&text, orion_session_claims(call));
		return text.data;
	}
	escape_json(&text, issuer ? issuer : "");
	appendStringInfoChar(&text, ' ');
	escape_json(&text, subject);
	return text.data;
}

void
orion_session_identify(OrionCall *call)
{
	const char *header = orion_call_header(call, "authorization");
	Jsonb	   *claims = NULL;
	const char *why = NULL;
	OrionTokenStatus status;

	if (header == NULL || pg_strncasecmp(header, "bearer", 6) != 0 ||
		(header[6] != ' ' && header[6] != '\0'))
		return;
	header += 6;
	header += strspn(header, " ");
	if (*header == '\0')
		orion_refuse_token("PGRST301", "Empty JWT is sent in Authorization header", NULL);
	if (orion_api_key_looks(header))
	{
		identify_by_key(call, header);
		return;
	}
	status = orion_token_verify(header, strlen(header), &claims, &why);
	if (status == ORION_TOKEN_VALID)
		status = orion_claims_audience(claims);
	if (status != ORION_TOKEN_VALID)
		refuse_token(status, header, why);
	call->claims = claims;
	call->role = orion_claims_role(claims);
	call->authenticated = call->role != NULL && strcmp(call->role, orion_rest_anon_role) != 0;
}
