/*
 * claims.c
 *	  The verified claims of the transaction, and the functions that read them.
 *
 * Kept in this process only and dropped at the end of the transaction, so that
 * nobody inherits the identity of the request before.  A subtransaction that rolls
 * back does not take them along: they say who asks, not what was done.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/uuid.h"

#include "core/compat.h"
#include "core/error.h"
#include "token/claims.h"
#include "token/token.h"

#define UUID_TEXT_LEN	36		/* RFC 4122 section 3 */

static MemoryContext claims_context = NULL;
static const Jsonb *current_claims = NULL;
static uint64 generation = 0;

PG_FUNCTION_INFO_V1(orion_claims);
PG_FUNCTION_INFO_V1(orion_role);
PG_FUNCTION_INFO_V1(orion_uid);

static void
at_transaction_end(XactEvent event, void *arg)
{
	if (!current_claims)
		return;
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
	{
		current_claims = NULL;
		generation++;
		MemoryContextReset(claims_context);
	}
}

void
orion_claims_set(const Jsonb *claims)
{
	Jsonb	   *copy = NULL;

	if (!claims_context)
		claims_context = AllocSetContextCreate(TopMemoryContext, "orion claims", ALLOCSET_SMALL_SIZES);
	if (claims)
	{
		copy = MemoryContextAlloc(claims_context, VARSIZE(claims));
		memcpy(copy, claims, VARSIZE(claims));
	}
	if (current_claims)
		pfree(unconstify(Jsonb *, current_claims));
	current_claims = copy;
	generation++;
}

uint64
orion_claims_generation(void)
{
	return generation;
}

const Jsonb *
orion_claims_get(void)
{
	return current_claims;
}

char *
orion_claims_string(const Jsonb *claims, const char *name)
{
	JsonbValue	buffer;
	JsonbValue *value;

	if (!JB_ROOT_IS_OBJECT(claims))
		return NULL;
	value = getKeyJsonValueFromContainer(unconstify(JsonbContainer *, &claims->root),
										 name, strlen(name), &buffer);
	if (!value || value->type != jbvString)
		return NULL;
	return pnstrdup(value->val.string.val, value->val.string.len);
}

Datum
orion_claims(PG_FUNCTION_ARGS)
{
	Jsonb	   *copy;

	if (!current_claims)
		PG_RETURN_NULL();
	copy = palloc(VARSIZE(current_claims));
	memcpy(copy, current_claims, VARSIZE(current_claims));
	PG_RETURN_JSONB_P(copy);
}

Datum
orion_role(PG_FUNCTION_ARGS)
{
	char	   *role = current_claims ? orion_claims_string(current_claims, "role") : NULL;

	if (!role)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(role));
}

/* Eight, four, four, four and twelve hex digits: what uuid_in takes without error. */
bool
orion_looks_like_uuid(const char *text)
{
	if (strlen(text) != UUID_TEXT_LEN)
		return false;
	for (int i = 0; i < UUID_TEXT_LEN; i++)
	{
		bool		dash = i == 8 || i == 13 || i == 18 || i == 23;

		if (dash ? text[i] != '-' : !isxdigit((unsigned char) text[i]))
			return false;
	}
	return true;
}

/* The claim "sub"; NULL also when it is no UUID (tokens of another issuer). */
Datum
orion_uid(PG_FUNCTION_ARGS)
{
	char	   *subject = current_claims ? orion_claims_string(current_claims, "sub") : NULL;

	if (!subject || !orion_looks_like_uuid(subject))
		PG_RETURN_NULL();
	PG_RETURN_DATUM(DirectFunctionCall1(uuid_in, CStringGetDatum(subject)));
}

bool
orion_claims_gives(PGFunction function)
{
	return function == orion_uid || function == orion_role || function == orion_claims;
}

bool
orion_claims_user(pg_uuid_t *user)
{
	LOCAL_FCINFO(asked, 0);
	Datum		found;

	InitFunctionCallInfoData(*asked, NULL, 0, InvalidOid, NULL, NULL);
	found = orion_uid(asked);
	if (!asked->isnull)
		*user = *DatumGetUUIDP(found);
	return !asked->isnull;
}

void
orion_claims_init(void)
{
	RegisterXactCallback(at_transaction_end, NULL);
}
