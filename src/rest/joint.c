/*
 * joint.c
 *	  Reads that arrived together share a transaction and the state of their statement.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/plannodes.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "rest/joint.h"

#define MAX_AGE_US	5000		/* of a transaction that others may go on in */

typedef struct Joint
{
	bool		open;
	bool		joined;			/* the request at hand goes on in it */
	bool		used;			/* and has run its statement */

	/* what was asked for, and as whom */
	char	   *path;
	char	   *query;
	const char *schema;
	Oid			role;
	Oid			relid;
	char	   *accept;			/* NULL: the header was not there */

	char	   *text;
	int			nparams;
	Oid		   *types;
	OrionJointStatement statement;	/* query is NULL: none is kept */

	/* its one value, where that is a word behind "eq." in the query */
	size_t		before;			/* bytes up to it; 0: it is none */
	const char *after;			/* the rest of the query */
	FmgrInfo	input;
	Oid			input_param;
} Joint;

static Joint joint;

bool
orion_joint_is_open(void)
{
	return joint.open;
}

bool
orion_joint_is_joined(void)
{
	return joint.joined;
}

Oid
orion_joint_role(void)
{
	return joint.role;
}

/* --- who may ------------------------------------------------------------------------- */

static bool
is_plain(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '-' || c == '_' || c == '~';
}

static const char *
skip_plain(const char *text)
{
	while (is_plain(*text))
		text	  ++;

	return text;
}

/*
 * Do two queries differ in nothing but words in values?  What one names, relations above
 * all, the other does too, or it has another statement.
 */
static bool
has_same_shape(const char *a, const char *b)
{
	bool		in_value = false;

	for (; *a == *b || (in_value && (is_plain(*a) || is_plain(*b))); a++, b++)
	{
		if (in_value && *a != *b)
		{
			a = skip_plain(a);
			b = skip_plain(b);
			if (*a != *b)
				return false;
		}
		if (*a == '\0')
			return true;
		if (*a == '=')
			in_value = true;
		else if (*a == '&')
			in_value = false;
	}
	return false;
}

/* Nobody in particular, who wants nothing in particular. */
static bool
is_nobodys(const OrionCall *call)
{
	return orion_call_reads(call) && orion_call_header(call, "authorization") == NULL &&
		orion_call_header(call, "prefer") == NULL && orion_call_header(call, "range") == NULL;
}

bool
orion_joint_join(const OrionCall *call)
{
	joint.used = false;
	joint.joined = call->request->joins && is_nobodys(call) &&
		GetCurrentStatementStartTimestamp() - GetCurrentTransactionStartTimestamp() <= MAX_AGE_US &&
		strcmp(call->request->path, joint.path) == 0 && has_same_shape(call->request->query, joint.query);
	return joint.joined;
}

/* --- the statement --------------------------------------------------------------------- */

/* Somebody who counts or checks statements sees each of them. */
static bool
is_watched(void)
{
	return ExecutorStart_hook || ExecutorRun_hook || ExecutorFinish_hook || ExecutorEnd_hook || ExecutorCheckPerms_hook;
}

/*
 * Nodes that work out everything anew when they are wound back.  Others keep what does not
 * depend on a parameter of the executor's own: hash tables, sorted rows, results of
 * subqueries.  They take values of the statement for constants.
 */
static bool
can_run_again(const PlannedStmt *stmt)
{
	const Plan *plan = stmt->planTree;

	if (stmt->commandType != CMD_SELECT || stmt->hasModifyingCTE || stmt->rowMarks != NIL ||
		stmt->subplans != NIL || stmt->paramExecTypes != NIL || stmt->parallelModeNeeded)
		return false;
	if (IsA(plan, Limit))
		plan = plan->lefttree;
	return IsA(plan, IndexScan) || IsA(plan, IndexOnlyScan);
}

bool
orion_joint_may_keep(const OrionCall *call, const CachedPlanSource *source, const CachedPlan *plan)
{
	return call->request->others_wait && is_nobodys(call) && !joint.joined &&
		XactIsoLevel == XACT_READ_COMMITTED && GetCurrentTransactionNestLevel() == 1 && !RecoveryInProgress() &&
		plan == source->gplan && !is_watched() && can_run_again(linitial_node(PlannedStmt, plan->stmt_list));
}

/* The one filter of the query, if it is of that kind, has made the one value of the statement. */
static bool
compares_a_word(const OrionQuery *query)
{
	const OrionFilter *filter = query->filters;
	const OrionParam *param = query->params;

	return param && param->next == NULL && query->scopes == NULL &&
		filter && filter->next == NULL && filter->kind == ORION_FILTER_TEST &&
		strncmp(param->value, "eq.", 3) == 0 && param->value[3] != '\0' && *skip_plain(param->value + 3) == '\0';
}

/* Where the parameter stands in the query, written without escapes; NULL: nowhere. */
static const char *
find_param(const char *query, const OrionParam *param)
{
	size_t		name = strlen(param->name);
	size_t		value = strlen(param->value);

	for (const char *at = query; at; at = strchr(at, '&'))
	{
		const char *end;

		at += *at == '&';
		if (strncmp(at, param->name, name) != 0 || at[name] != '=' || strncmp(at + name + 1, param->value, value) != 0)
			continue;
		end = at + name + 1 + value;
		if (*end == '\0' || *end == '&')
			return at;
	}
	return NULL;
}

static void
note_word(const OrionQuery *query, const OrionStatement *st)
{
	const OrionParam *param = query->params;
	const char *at = st->nparams == 1 && compares_a_word(query) ? find_param(joint.query, param) : NULL;
	Oid			input;

	joint.before = 0;
	if (at == NULL)
		return;
	joint.before = at + strlen(param->name) + strlen("=eq.") - joint.query;
	joint.after = skip_plain(joint.query + joint.before);
	getTypeInputInfo(st->types[0], &input, &joint.input_param);
	fmgr_info_cxt(input, &joint.input, TopTransactionContext);
}

void
orion_joint_keep(const OrionCall *call, const OrionStatement *st, const OrionJointStatement *statement)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	const char *accept = orion_call_header(call, "accept");

	joint.path = pstrdup(call->request->path);
	joint.query = pstrdup(call->request->query);
	joint.schema = call->schema;
	joint.role = GetUserId();
	joint.relid = call->relid;
	joint.accept = accept ? pstrdup(accept) : NULL;
	joint.text = pstrdup(st->text.data);
	joint.nparams = st->nparams;
	joint.types = palloc(Max(st->nparams, 1) * sizeof(Oid));
	memcpy(joint.types, st->types, st->nparams * sizeof(Oid));
	joint.statement = *statement;
	note_word(&call->query, st);
	MemoryContextSwitchTo(old);
}

static bool
is_for(const OrionCall *call)
{
	return joint.joined && joint.schema == call->schema && joint.role == GetUserId();
}

static bool
is_same(const OrionStatement *st)
{
	return joint.nparams == st->nparams && strcmp(joint.text, st->text.data) == 0 &&
		memcmp(joint.types, st->types, st->nparams * sizeof(Oid)) == 0;
}

static const OrionJointStatement *
wind_back(void)
{
	ExecutorRewind(joint.statement.query);
	joint.used = true;
	return &joint.statement;
}

static bool
accepts_the_same(const OrionCall *call)
{
	const char *accept = orion_call_header(call, "accept");

	return accept && joint.accept ? strcmp(accept, joint.accept) == 0 : accept == joint.accept;
}

bool
orion_joint_repeats(OrionCall *call)
{
	const char *query = call->request->query;
	const char *end;

	if (!is_for(call) || !accepts_the_same(call) || joint.before == 0 || strncmp(query, joint.query, joint.before) != 0)
		return false;
	end = skip_plain(query + joint.before);
	if (end == query + joint.before || strcmp(end, joint.after) != 0)
		return false;
	call->relid = joint.relid;
	return true;
}

const OrionJointStatement *
orion_joint_repeat(const OrionCall *call)
{
	const char *word = call->request->query + joint.before;
	ParamExternData *param = &joint.statement.params->params[0];

	param->value = InputFunctionCall(&joint.input, pnstrdup(word, skip_plain(word) - word), joint.input_param, -1);
	param->isnull = false;
	return wind_back();
}

const OrionJointStatement *
orion_joint_again(const OrionCall *call, const OrionStatement *st)
{
	if (!is_for(call) || !is_same(st))
		return NULL;
	for (int i = 0; i < st->nparams; i++)
	{
		joint.statement.params->params[i].value = st->values[i];
		joint.statement.params->params[i].isnull = st->nulls[i] != ' ';
	}
	return wind_back();
}

void
orion_joint_end_statement(OrionJointStatement *statement)
{
	ExecutorFinish(statement->query);
	ExecutorEnd(statement->query);
	FreeQueryDesc(statement->query);
	ReleaseCachedPlan(statement->plan, CurrentResourceOwner);
}

void
orion_joint_end(void)
{
	OrionJointStatement statement = joint.statement;

	memset(&joint, 0, sizeof(joint));
	if (statement.query)
		orion_joint_end_statement(&statement);
}

bool
orion_joint_leave(const OrionCall *call)
{
	joint.open = joint.statement.query != NULL && call->request->others_wait && (!joint.joined || joint.used);
	joint.joined = false;
	if (!joint.open)
		orion_joint_end();
	return joint.open;
}

/* An abort has freed it all. */
static void
at_transaction_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT)
		memset(&joint, 0, sizeof(joint));
}

void
orion_joint_init(void)
{
	RegisterXactCallback(at_transaction_end, NULL);
}
