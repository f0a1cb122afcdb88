/*
 * call.c
 *	  Calls a user's function of one jsonb argument on behalf of a role.
 *
 * The callers are relays, connected as the bootstrap superuser.  The function must
 * not become more than its role.  It runs as that role in a security-restricted
 * operation: it cannot change the role, make temporary objects, or leave behind a
 * trigger that would fire at commit, when the process is a superuser again.
 * Constraints are made immediate for that reason by whoever lets it write.  Its
 * settings are undone after the call.
 *
 * Each call has a subtransaction, so that an error undoes this call's work only.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

#include "outbox/outbox.h"

#define PATIENCE_MS		5000	/* for a function that was told to stop */
#define MAX_MESSAGE		1000	/* bytes kept of its error */

static TimeoutId last_timeout = STATEMENT_TIMEOUT;	/* until it is registered */

/* In a signal handler. A function may catch a cancelled statement, but not this. */
static void
end_process(void)
{
	ProcDiePending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
}

static void
start_timeout(int ms)
{
	if (ms == 0)
		return;
	if (last_timeout == STATEMENT_TIMEOUT)
		last_timeout = RegisterTimeout(USER_TIMEOUT, end_process);
	enable_timeout_after(STATEMENT_TIMEOUT, ms);
	enable_timeout_after(last_timeout, ms + PATIENCE_MS);
}

static void
stop_timeout(void)
{
	disable_timeout(STATEMENT_TIMEOUT, false);
	if (last_timeout != STATEMENT_TIMEOUT)
		disable_timeout(last_timeout, false);
	QueryCancelPending = false;
}

/* What the relay sets for its own queries (see relay.c) is not for users' functions. */
static void
restore_settings(void)
{
	static const char *const names[] = {"search_path", "enable_seqscan", "enable_sort", "jit"};

	for (int i = 0; i < lengthof(names); i++)
	{
		const char *value = GetConfigOptionResetString(names[i]);

		(void) set_config_option(names[i], value ? value : "", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	}
}

static void
call_function(const OrionHandlerCall *what, Datum event, char **result)
{
	Oid			save_user;
	int			save_context;
	int			nest_level = NewGUCNestLevel();
	FmgrInfo	function;
	Datum		value;

	LOCAL_FCINFO(call, 1);

	GetUserIdAndSecContext(&save_user, &save_context);
	restore_settings();
	SetUserIdAndSecContext(what->role, save_context |
						   SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	PushActiveSnapshot(GetTransactionSnapshot());
	start_timeout(what->timeout_ms);
	orion_event_set_cause(DatumGetJsonbP(event));
	fmgr_info(what->function, &function);
	InitFunctionCallInfoData(*call, &function, 1, InvalidOid, NULL, NULL);
	call->args[0].value = event;
	call->args[0].isnull = false;
	value = FunctionCallInvoke(call);
	if (result && !call->isnull)
	{
		Oid			output;
		bool		varlena;

		getTypeOutputInfo(get_func_rettype(what->function), &output, &varlena);
		*result = OidOutputFunctionCall(output, value);
	}
	orion_event_set_cause(NULL);
	stop_timeout();
	PopActiveSnapshot();
	AtEOXact_GUC(false, nest_level);
	SetUserIdAndSecContext(save_user, save_context);
}

char *
orion_handler_call(const OrionHandlerCall *what, Datum event, char **result)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	char	   *volatile error = NULL;

	if (result)
		*result = NULL;
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	if (what->read_only)
		XactReadOnly = true;	/* the end of the subtransaction restores it */
	PG_TRY();
	{
		call_function(what, event, result);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		orion_event_set_cause(NULL);
		stop_timeout();
		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		error = psprintf("%s: %.*s", unpack_sql_state(edata->sqlerrcode),
						 pg_mbcliplen(edata->message, strlen(edata->message), MAX_MESSAGE), edata->message);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return error;
}
