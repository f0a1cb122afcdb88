/*
 * call.c
 *	  Calls a user's function of one jsonb argument on behalf of a role.
 *
 * The callers are relays and consumers, connected as the bootstrap superuser.  The function must
 * not become more than its role.  It runs as that role in a security-restricted
 * operation: it cannot change the role, make temporary objects, or leave behind a
 * trigger that would fire at commit, when the process is a superuser again.
 * Constraints are made immediate for that reason by whoever lets it write.  Its
 * settings are undone after the call.
 *
 * Calls have a subtransaction, one each or one for a batch, so that an error undoes
 * their work only.
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

#include "core/caller.h"
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

void
orion_handler_invoke(const OrionHandlerCall *what, FmgrInfo *function, Datum event, char **result)
{
	Oid			save_user;
	int			save_context;
	int			nest_level = NewGUCNestLevel();
	Datum		value;

	LOCAL_FCINFO(call, 1);

	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(what->role, save_context |
						   SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	PushActiveSnapshot(GetTransactionSnapshot());
	start_timeout(what->timeout_ms);
	orion_event_set_cause(DatumGetJsonbP(event));
	orion_caller_set(what->role);
	InitFunctionCallInfoData(*call, function, 1, InvalidOid, NULL, NULL);
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
	orion_caller_set(InvalidOid);
	orion_event_set_cause(NULL);
	stop_timeout();
	PopActiveSnapshot();
	AtEOXact_GUC(false, nest_level);
	SetUserIdAndSecContext(save_user, save_context);
}

char *
orion_handler_try(void (*work) (void *arg), void *arg, bool read_only)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	char	   *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	if (read_only)
		XactReadOnly = true;	/* the end of the subtransaction restores it */
	PG_TRY();
	{
		int			nest_level = NewGUCNestLevel();

		restore_settings();
		work(arg);
		AtEOXact_GUC(false, nest_level);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		orion_caller_set(InvalidOid);
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

/* A call that has a subtransaction to itself. */
typedef struct OneCall
{
	const OrionHandlerCall *what;
	Datum		event;
	char	  **result;
} OneCall;

static void
call_once(void *arg)
{
	OneCall    *one = arg;
	FmgrInfo	function;

	fmgr_info(one->what->function, &function);
	orion_handler_invoke(one->what, &function, one->event, one->result);
}

char *
orion_handler_call(const OrionHandlerCall *what, Datum event, char **result)
{
	OneCall		one = {what, event, result};

	if (result)
		*result = NULL;
	return orion_handler_try(call_once, &one, what->read_only);
}
