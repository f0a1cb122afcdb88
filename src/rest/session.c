/*
 * session.c
 *	  The transaction of a request: token, role, settings, read-only mode.
 *
 * Everything is set through the C interface of the settings, local to the
 * transaction: no SQL text, no value in a log.  The role switches before
 * anything of the request's own runs.  What a function may leave in the session
 * (SET, advisory locks) the executor undoes after each request.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

#include "apikey/apikey.h"
#include "audit/audit.h"
#include "core/compat.h"
#include "rest/error.h"
#include "rest/relation.h"
#include "rest/response.h"
#include "rest/session.h"
#include "rest/settings.h"
#include "token/token.h"

/*
 * Postgres remembers names that do not exist, for ever.  Names come from
 * strangers, so now and then they are forgotten.
 */
#define FORGET_AFTER	10000	/* failed requests: some megabytes */

static int	failures = 0;
static bool role_is_fixed = false;

static void
set_local(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
}

/* The claims that an API key stands for. */
static Jsonb *
verify_api_key(OrionCall *call, const char *key)
{
	Jsonb	   *claims = NULL;
	const char *why = NULL;
	int			retry_after = 0;

	switch (orion_api_key_verify(key, &claims, &why, &retry_after))
	{
		case ORION_API_KEY_INVALID:
			orion_refuse(401, "api_key_invalid", why, NULL, NULL);
		case ORION_API_KEY_LIMITED:
			orion_refuse_for_now("api_key_rate_limited", "The API key was used too often", retry_after);
		case ORION_API_KEY_VALID:
			break;
	}
	call->authenticated = true;
	return claims;
}

static void
refuse_token(OrionTokenStatus status, const char *why)
{
	if (status == ORION_TOKEN_EXPIRED)
		orion_refuse(401, "PGRST303", "JWT expired", why, NULL);
	orion_refuse(401, "PGRST301", why ? why : "the token is not valid", NULL, NULL);
}

/* The verified claims of the bearer token; NULL when there is none. */
static Jsonb *
verify_token(OrionCall *call)
{
	const char *header = orion_call_header(call, "authorization");
	Jsonb	   *claims = NULL;
	const char *why = NULL;
	OrionTokenStatus status;

	if (header == NULL || pg_strncasecmp(header, "bearer", 6) != 0 ||
		(header[6] != ' ' && header[6] != '\0'))
		return NULL;
	header += 6;
	header += strspn(header, " ");
	if (*header == '\0')
		refuse_token(ORION_TOKEN_INVALID, "Empty JWT is sent in Authorization header");
	if (orion_api_key_looks(header))
		return verify_api_key(call, header);
	status = orion_token_verify(header, strlen(header), &claims, &why);
	if (status != ORION_TOKEN_VALID)
		refuse_token(status, why);
	call->authenticated = true;
	return claims;
}

/*
 * The session user may become any role of a request, and so could each function,
 * trigger or policy that a request calls, whoever wrote it.  In this context SET
 * ROLE is refused, as in a SECURITY DEFINER function.
 */
static void
fix_role(void)
{
	Oid			user;
	int			context;

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(user, context | SECURITY_LOCAL_USERID_CHANGE);
	role_is_fixed = true;
}

/*
 * Deferred triggers have run before the first event; what is left of a commit puts
 * the role back.  An abort has done so by itself.
 */
static void
at_transaction_end(XactEvent event, void *arg)
{
	Oid			user;
	int			context;

	if (!role_is_fixed)
		return;
	if (event == XACT_EVENT_PRE_COMMIT)
	{
		GetUserIdAndSecContext(&user, &context);
		SetUserIdAndSecContext(user, context & ~SECURITY_LOCAL_USERID_CHANGE);
	}
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_ABORT)
		role_is_fixed = false;
}

/*
 * Becomes the role.  check_role of the setting itself sees to it that the
 * session user is a member; "none", the session user and superusers are no roles for a
 * request however somebody granted them.  One answer for all: which roles exist
 * is nobody's business.
 */
static void
become(const char *role)
{
	Oid			oid = strlen(role) < NAMEDATALEN ? get_role_oid(role, true) : InvalidOid;

	if (strcmp(role, "none") == 0 || !OidIsValid(oid) || oid == GetSessionUserId() ||
		superuser_arg(oid) || !orion_may_set_role(GetSessionUserId(), oid))
		orion_refuse(403, "42501", psprintf("permission denied to set role \"%s\"", role), NULL, NULL);
	set_local("role", role);
	fix_role();
}

static void
append_pair(StringInfo json, const char *name, const char *value)
{
	appendStringInfoChar(json, json->len > 1 ? ',' : '{');
	escape_json(json, name);
	appendStringInfoChar(json, ':');
	escape_json(json, value);
}

static const char *
close_object(StringInfo json)
{
	appendStringInfoString(json, json->len > 0 ? "}" : "{}");
	return json->data;
}

static const char *
headers_json(const OrionCall *call)
{
	StringInfoData json;

	initStringInfo(&json);
	for (int i = 0; i < call->request->nheaders; i++)
		append_pair(&json, call->request->headers[i].name, call->request->headers[i].value);
	return close_object(&json);
}

/* RFC 6265, section 4.2.1 */
static const char *
cookies_json(const char *header)
{
	StringInfoData json;
	char	   *rest = pstrdup(header);
	char	   *cookie;

	initStringInfo(&json);
	while ((cookie = strsep(&rest, ";")) != NULL)
	{
		char	   *name = cookie + strspn(cookie, " \t");
		char	   *value = strchr(name, '=');

		if (value == NULL)
			continue;
		*value++ = '\0';
		append_pair(&json, name, value);
	}
	return close_object(&json);
}

static void
set_request(OrionCall *call)
{
	const char *cookies = orion_call_header(call, "cookie");

	orion_audit_origin_set(call->request->peer, orion_call_header(call, "user-agent"));
	set_local("request.method", call->request->method);
	set_local("request.path", call->request->path);
	set_local("request.headers", headers_json(call));
	if (cookies)
		set_local("request.cookies", cookies_json(cookies));
}

static void
set_identity(OrionCall *call)
{
	Jsonb	   *claims = verify_token(call);
	char	   *role = claims ? orion_claims_string(claims, "role") : NULL;
	StringInfoData json;

	if (role == NULL)
		role = orion_rest_anon_role;
	if (role[0] == '\0')
		orion_refuse(401, "PGRST302", "Anonymous access is disabled", NULL, NULL);
	become(role);
	if (claims)
	{
		orion_claims_set(claims);
		set_local("request.jwt.claims", JsonbToCString(NULL, &claims->root, VARSIZE(claims)));
		return;
	}
	initStringInfo(&json);
	append_pair(&json, "role", role);
	set_local("request.jwt.claims", close_object(&json));
}

static void
set_search_path(const char *schema)
{
	const char *wanted;

	if (schema == NULL)
		return;
	wanted = strcmp(schema, "public") == 0 ? "public" :
		psprintf("%s, public", quote_identifier(schema));
	if (namespace_search_path == NULL || strcmp(namespace_search_path, wanted) != 0)
		set_local("search_path", wanted);
}

void
orion_session_begin(OrionCall *call)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	if (failures >= FORGET_AFTER)
	{
		failures = 0;
		ResetCatalogCaches();
	}
	debug_query_string = "orion: request";
	pgstat_report_activity(STATE_RUNNING, "orion: request");
	if (orion_call_reads(call))
		orion_session_read_only();
	if (StatementTimeout > 0)
		enable_timeout_after(STATEMENT_TIMEOUT, StatementTimeout);
}

void
orion_session_enter(OrionCall *call, const char *search_schema)
{
	set_identity(call);
	set_request(call);
	set_search_path(search_schema);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	PushActiveSnapshot(GetTransactionSnapshot());
}

void
orion_session_read_only(void)
{
	XactReadOnly = true;
}

void
orion_session_commit(bool roll_back)
{
	PopActiveSnapshot();
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "SPI_finish failed");
	if (roll_back)
	{
		/* what would have failed at the commit fails here as well */
		ConstraintsSetStmt all = {.type = T_ConstraintsSetStmt};

		AfterTriggerSetState(&all);
		AbortCurrentTransaction();
	}
	else
		CommitTransactionCommand();
}

void
orion_session_end(bool failed)
{
	failures += failed;
	if (get_timeout_active(STATEMENT_TIMEOUT))
		disable_timeout(STATEMENT_TIMEOUT, false);
	debug_query_string = NULL;
}

void
orion_session_init(void)
{
	RegisterXactCallback(at_transaction_end, NULL);
}
