/*
 * session.c
 *	  The transaction of a request: token, role, settings, read-only mode.
 *
 * Everything is set through the C interface of the settings, local to the
 * transaction: no SQL text, no value in a log.  The role switches before
 * anything of the request's own runs.  What a function may leave in the session
 * (SET, advisory locks) the executor undoes after each request.
 *
 * Settings are a fifth of what a GET by key costs, and most such statements cannot ask
 * for them (closed.h).  So a read of a table becomes its role without them and tells
 * the settings only when something is about to run that could: orion_session_tell.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_db_role_setting.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "optimizer/planner.h"
#include "pgstat.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/fmgrprotos.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/regproc.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timeout.h"

#include "audit/audit.h"
#include "core/compat.h"
#include "core/shmem.h"
#include "core/plan.h"
#include "rest/error.h"
#include "rest/joint.h"
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
static uint64 role_changes = 0; /* of roles and memberships */
static OrionCall *untold = NULL;	/* the request whose settings wait */
static Oid	user_before;		/* who ran before it became its role */
static int	context_before;
static int	untold_timeout;		/* its role's statement_timeout; -1: none of
								 * its own */
static bool is_entered = false; /* SPI is connected for the request */
static bool path_is_kept = false;	/* search_path may be set for more than a
									 * request */
static ProcessUtility_hook_type prev_process_utility = NULL;
static planner_hook_type prev_planner = NULL;

static void
set_local(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
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

	if (untold && event == XACT_EVENT_PRE_COMMIT)
		SetUserIdAndSecContext(user_before, context_before);
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_ABORT)
		untold = NULL;
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

/* The role that ALTER ROLE ... SET, or ALTER ROLE, names; else NULL. */
static const RoleSpec *
altered_role(Node *statement)
{
	if (IsA(statement, AlterRoleSetStmt))
		return ((AlterRoleSetStmt *) statement)->role;
	return IsA(statement, AlterRoleStmt) ? ((AlterRoleStmt *) statement)->role : NULL;
}

/*
 * Each role may change its own settings and password.  That of a request is shared by
 * all users: one of them, who gets a function to run it, would set the time limits of
 * all, for good.
 */
static void
process_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *env, DestReceiver *dest, QueryCompletion *qc)
{
	const RoleSpec *altered = role_is_fixed ? altered_role(pstmt->utilityStmt) : NULL;

	if (altered && GetUserId() == GetCurrentRoleId() && get_rolespec_oid(altered, true) == GetUserId())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("a request cannot alter the role it runs as"),
				 errdetail("Others share the role.")));
	if (prev_process_utility)
		prev_process_utility(pstmt, query, read_only_tree, context, params, env, dest, qc);
	else
		standard_ProcessUtility(pstmt, query, read_only_tree, context, params, env, dest, qc);
}

/*
 * The role a request becomes.  check_role of the setting itself sees to it that the
 * session user is a member; "none", the session user and superusers are no roles for a
 * request however somebody granted them.
 */
static Oid
look_for_role(const char *role)
{
	Oid			oid = strlen(role) < NAMEDATALEN ? get_role_oid(role, true) : InvalidOid;

	if (!OidIsValid(oid) && strcmp(role, "none") != 0)
		orion_refuse(401, "22023", psprintf("role \"%s\" does not exist", role), NULL, NULL);
	if (strcmp(role, "none") == 0 || !OidIsValid(oid) || oid == GetSessionUserId() ||
		superuser_arg(oid) || !orion_may_set_role(GetSessionUserId(), oid))
		orion_refuse(403, "42501", psprintf("permission denied to set role \"%s\"", role), NULL, NULL);
	return oid;
}

static void
count_role_change(Datum arg, int cache, uint32 hash)
{
	role_changes++;
}

/* Most requests have the role of the last one, and no role has changed since. */
static Oid
find_role(const char *role)
{
	static char last[NAMEDATALEN] = "";
	static Oid	oid = InvalidOid;
	static uint64 found_at;
	uint64		changes = role_changes; /* one noticed on the way counts */

	if (OidIsValid(oid) && found_at == changes && strcmp(last, role) == 0)
		return oid;
	oid = InvalidOid;
	oid = look_for_role(role);
	strlcpy(last, role, sizeof(last));
	found_at = changes;
	return oid;
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
		if (strcmp(call->request->headers[i].name, "cookie") != 0)
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

/* The claims as text, with the role that the request has. */
static const char *
claims_json(Jsonb *claims, const char *role)
{
	StringInfoData json;
	const char *named = claims ? orion_claims_string(claims, "role") : NULL;
	char	   *text;

	if (named && strcmp(named, role) == 0)
		return JsonbToCString(NULL, &claims->root, VARSIZE(claims));
	initStringInfo(&json);
	append_pair(&json, "role", role);
	if (claims == NULL)
		return close_object(&json);
	claims = DatumGetJsonbP(DirectFunctionCall2(jsonb_delete, JsonbPGetDatum(claims), CStringGetTextDatum("role")));
	text = JsonbToCString(NULL, &claims->root, VARSIZE(claims));

	if (strcmp(text, "{}") == 0)
		return close_object(&json);
	appendStringInfoString(&json, ", ");
	appendStringInfoString(&json, text +1);
	return json.data;
}

/* Settings that say who somebody is never come from a role's or function's own. */
static bool
harmless(const char *name)
{
	return pg_strcasecmp(name, "role") != 0 && pg_strcasecmp(name, "session_authorization") != 0;
}

static bool
hoistable(const char *name)
{
	return pg_strcasecmp(name, "statement_timeout") == 0 ||
		pg_strcasecmp(name, "default_transaction_isolation") == 0 ||
		pg_strcasecmp(name, "plan_filter.statement_cost_limit") == 0;
}

/* Applies {"name=value", ...}; what this session may not set is left alone. */
static void
apply_settings(ArrayType *array, bool (*allowed) (const char *name))
{
	Datum	   *elements;
	int			n;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elements, NULL, &n);
	for (int i = 0; i < n; i++)
	{
		char	   *name;
		char	   *value;

		ParseLongOption(TextDatumGetCString(elements[i]), &name, &value);
		if (value && allowed(name))
			(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
									 GUC_ACTION_LOCAL, true, DEBUG5, false);
		orion_free_option(name);
		if (value)
			orion_free_option(value);
	}
}

/* What ALTER ROLE ... SET said of a role, and of the role in this database; NULL: nothing. */
typedef struct RoleSettings
{
	Oid			role;
	uint32		generation;
	ArrayType  *config[2];
	bool		just_timeout;	/* nothing but statement_timeout */
	int			timeout;		/* that, in ms; -1: not said */
} RoleSettings;

/* Notes the setting; false when it is another one, or none that is valid. */
static bool
is_timeout(const char *setting, int *timeout)
{
	size_t		len = strlen("statement_timeout=");

	return pg_strncasecmp(setting, "statement_timeout=", len) == 0 &&
		parse_int(setting + len, timeout, GUC_UNIT_MS, NULL) && *timeout >= 0;
}

/* A time limit is what each role of strangers should have; it can be kept without being told. */
static void
note_timeout(RoleSettings *entry)
{
	Datum	   *elements;
	int			n;

	entry->just_timeout = true;
	entry->timeout = -1;
	for (int i = 0; i < lengthof(entry->config); i++)
	{
		if (entry->config[i] == NULL)
			continue;
		deconstruct_array(entry->config[i], TEXTOID, -1, false, TYPALIGN_INT, &elements, NULL, &n);
		for (int k = 0; k < n; k++)
			entry->just_timeout &= is_timeout(TextDatumGetCString(elements[k]), &entry->timeout);
	}
}

/* The array kept beyond the transaction, or NULL. */
static ArrayType *
read_role_setting(Relation settings, Oid database, Oid role)
{
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	ArrayType  *config = NULL;

	ScanKeyInit(&keys[0], Anum_pg_db_role_setting_setdatabase, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(database));
	ScanKeyInit(&keys[1], Anum_pg_db_role_setting_setrole, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(role));
	scan = systable_beginscan(settings, DbRoleSettingDatidRolidIndexId, true, NULL, 2, keys);
	if (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		Datum		value = heap_getattr(tuple, Anum_pg_db_role_setting_setconfig,
										 RelationGetDescr(settings), &isnull);
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		if (!isnull)
			config = DatumGetArrayTypePCopy(value);
		MemoryContextSwitchTo(old);
	}
	systable_endscan(scan);
	return config;
}

static void
read_role_settings(RoleSettings *entry, Oid role)
{
	/* before the look: a change that it does not see makes another generation */
	uint32		generation = pg_atomic_read_u32(&orion_shared->role_settings_generation);
	Relation	settings = table_open(DbRoleSettingRelationId, AccessShareLock);

	entry->role = InvalidOid;	/* should this fail half-way */
	for (int i = 0; i < lengthof(entry->config); i++)
	{
		if (entry->config[i])
			pfree(entry->config[i]);
		entry->config[i] = NULL;
	}
	entry->config[0] = read_role_setting(settings, InvalidOid, role);
	entry->config[1] = read_role_setting(settings, MyDatabaseId, role);
	table_close(settings, AccessShareLock);
	note_timeout(entry);
	entry->generation = generation;
	entry->role = role;
}

/*
 * The catalog has no cache of PostgreSQL's that would be told of changes; wake.c counts
 * them.  A standby replays them uncounted, so it looks each time.
 */
static const RoleSettings *
find_role_settings(Oid role)
{
	static RoleSettings cache[16];
	RoleSettings *entry = &cache[role % lengthof(cache)];

	if (entry->role != role || RecoveryInProgress() ||
		entry->generation != pg_atomic_read_u32(&orion_shared->role_settings_generation))
		read_role_settings(entry, role);
	return entry;
}

/* What settings named default_... and statement_timeout mean for a transaction that has begun. */
static void
apply_defaults(void)
{
	int			timeout = untold && untold_timeout >= 0 ? untold_timeout : StatementTimeout;

	if (!FirstSnapshotSet)
		XactIsoLevel = DefaultXactIsoLevel;
	XactReadOnly |= DefaultXactReadOnly;
	if (timeout > 0)
		enable_timeout_after(STATEMENT_TIMEOUT, timeout);
}

/* Routes have none. */
static bool
has_pre_request(const OrionCall *call)
{
	return call->schema && orion_rest_pre_request[0] != '\0';
}

/* The role that the request is to have. */
static Oid
choose_role(OrionCall *call)
{
	const char *role = call->role ? call->role : orion_rest_anon_role;
	Oid			oid;

	if (role[0] == '\0')
		orion_refuse(401, "PGRST302", "Anonymous access is disabled", NULL, NULL);
	oid = find_role(role);
	call->response->role = MemoryContextStrdup(call->arena.context, role);
	return oid;
}

static void
set_role(OrionCall *call)
{
	set_local("role", call->response->role);
	if (!has_pre_request(call))
		fix_role();
	set_local("request.jwt.claims", claims_json(call->claims, call->response->role));
}

static void
set_identity(OrionCall *call)
{
	const RoleSettings *settings = find_role_settings(choose_role(call));

	for (int i = 0; i < lengthof(settings->config); i++)
		if (settings->config[i])
			apply_settings(settings->config[i], harmless);
	if (call->prefer.timezone)
		set_local("timezone", call->prefer.timezone);
	if (call->claims)
		orion_claims_set(call->claims);
	set_role(call);
}

/* Quoted as PostgREST does: plans show it. */
static const char *
path_of(const char *schema)
{
	StringInfoData path;
	ListCell   *lc;

	initStringInfo(&path);
	orion_append_name(&path, schema);
	foreach(lc, orion_rest_extra_list())
	{
		if (strcmp(lfirst(lc), schema) == 0)
			continue;
		appendStringInfoString(&path, ", ");
		orion_append_name(&path, lfirst(lc));
	}
	return path.data;
}

/* The schema asked for, then those of orion.rest_extra_search_path. */
void
orion_session_schema(const char *schema)
{
	const char *path;

	if (schema == NULL)
		return;
	path = path_of(schema);
	if (namespace_search_path && strcmp(namespace_search_path, path) == 0)
		return;
	if (untold == NULL)
	{
		set_local("search_path", path);
		return;
	}
	path_is_kept = true;
	SetConfigOption("search_path", path, PGC_USERSET, PGC_S_SESSION);
}

/*
 * orion.rest_pre_request, a name of one or two parts, quoted where it must be.  The
 * administrator chose it, and it alone may change the role.
 */
void
orion_session_pre_request(OrionCall *call)
{
	StringInfoData text;
	List	   *names;
	SPIPlanPtr	plan;
	int			result;

	if (!has_pre_request(call))
		return;
	names = orion_parse_qualified_name(orion_rest_pre_request);
	initStringInfo(&text);
	appendStringInfo(&text, "SELECT %s()", NameListToQuotedString(names));
	plan = orion_plan_get(text.data, text.len, 0, NULL);
	result = SPI_execute_plan(plan, NULL, NULL, false, 0);
	if (result < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(result));
	fix_role();
}

static void
begin(const OrionCall *call)
{
	StartTransactionCommand();
	if (failures >= FORGET_AFTER)
	{
		failures = 0;
		ResetCatalogCaches();
	}
	pgstat_report_activity(STATE_RUNNING, debug_query_string);
	if (orion_call_reads(call))
		orion_session_read_only();
}

void
orion_session_begin(OrionCall *call, bool may_keep_path)
{
	SetCurrentStatementStartTimestamp();
	debug_query_string = "orion: request";
	is_entered = false;
	if (orion_joint_is_open() && may_keep_path && orion_joint_join(call))
		return;
	orion_session_settle();
	if (path_is_kept && !may_keep_path)
	{
		path_is_kept = false;
		SetConfigOption("search_path", NULL, PGC_USERSET, PGC_S_SESSION);
	}
	begin(call);
}

void
orion_session_assume(OrionCall *call, const char *search_schema)
{
	set_identity(call);
	set_request(call);
	orion_session_schema(search_schema);
}

/* Nothing but the request itself is to be set, and how long it may take. */
static bool
may_wait(const OrionCall *call, const RoleSettings *settings)
{
	return !has_pre_request(call) && call->prefer.timezone == NULL && settings->just_timeout;
}

void
orion_session_assume_untold(OrionCall *call, const char *search_schema)
{
	Oid			role = choose_role(call);
	const RoleSettings *settings = find_role_settings(role);
	bool		waits = may_wait(call, settings);
	int			timeout = settings->timeout;

	if (orion_joint_is_joined() && (!waits || role != orion_joint_role()))
		orion_session_part(call);
	if (!waits)
	{
		orion_session_assume(call, search_schema);
		return;
	}
	GetUserIdAndSecContext(&user_before, &context_before);
	SetUserIdAndSecContext(role, context_before | SECURITY_LOCAL_USERID_CHANGE);
	untold = call;
	untold_timeout = timeout;
	if (call->claims)
		orion_claims_set(call->claims);
	orion_session_schema(search_schema);
}

void
orion_session_tell(void)
{
	OrionCall  *call = untold;

	if (call == NULL)
		return;
	untold = NULL;
	SetUserIdAndSecContext(user_before, context_before);
	if (orion_joint_is_joined())
		orion_session_part(call);
	if (untold_timeout >= 0)
		set_local("statement_timeout", psprintf("%d", untold_timeout));
	set_role(call);
	set_request(call);
}

/*
 * The planner calls functions for their estimates and folds those of constants, of
 * policies, indexes and constraints as well: what looks closed may have been altered.
 */
static PlannedStmt *
plan_told(Query *query, const char *text, int options, ParamListInfo params)
{
	if (orion_joint_is_joined())
		elog(ERROR, "a statement is planned in a transaction that others share");
	orion_session_tell();
	return prev_planner ? prev_planner(query, text, options, params) :
		standard_planner(query, text, options, params);
}

bool
orion_session_is_untold(void)
{
	return untold != NULL;
}

static void
connect_spi(void)
{
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	PushActiveSnapshot(GetTransactionSnapshot());
}

void
orion_session_enter(ArrayType *hoisted)
{
	if (hoisted)
		apply_settings(hoisted, hoistable);
	apply_defaults();
	if (!orion_joint_is_joined())
		connect_spi();
	is_entered = true;
}

void
orion_session_read_only(void)
{
	XactReadOnly = true;
}

static void
disconnect_spi(void)
{
	PopActiveSnapshot();
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "SPI_finish failed");
}

void
orion_session_settle(void)
{
	if (!orion_joint_is_open())
		return;
	orion_joint_end();
	disconnect_spi();
	CommitTransactionCommand();
}

/* What it has found out so far lies in memory that outlives the transaction. */
void
orion_session_part(OrionCall *call)
{
	MemoryContext context = CurrentMemoryContext;
	bool		was_untold = untold != NULL;

	if (was_untold)
		SetUserIdAndSecContext(user_before, context_before);
	untold = NULL;
	orion_session_settle();
	begin(call);
	if (was_untold)
		orion_session_assume_untold(call, call->schema);
	if (is_entered)
	{
		apply_defaults();
		connect_spi();
	}
	MemoryContextSwitchTo(context);
}

void
orion_session_commit(OrionCall *call, bool roll_back)
{
	if (orion_session_is_untold() && orion_joint_leave(call))
	{
		SetUserIdAndSecContext(user_before, context_before);
		untold = NULL;
		return;
	}
	orion_joint_end();
	disconnect_spi();
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
	CacheRegisterSyscacheCallback(AUTHOID, count_role_change, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, count_role_change, (Datum) 0);
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
	prev_planner = planner_hook;
	planner_hook = plan_told;
}
