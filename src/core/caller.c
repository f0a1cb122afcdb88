/*
 * caller.c
 *	  Who calls, for functions that run as their owner.
 *
 * Inside a SECURITY DEFINER function the current user is its owner; who called it is
 * known from the session only: its user, or the role it has taken, which nobody
 * can set to one that is not theirs.  That does not hold where a session runs somebody
 * else's function as somebody else: a relay or consumer, whose session user is a superuser,
 * says for whom it calls a handler.  In any other security-restricted operation (an
 * expression of an index under REINDEX, ANALYZE, a materialized view) nobody is the caller.
 */
#include "core/caller.h"

#include "fmgr.h"
#include "miscadmin.h"

static Oid	on_behalf_of = InvalidOid;

PG_FUNCTION_INFO_V1(orion_caller);

void
orion_caller_set(Oid role)
{
	on_behalf_of = role;
}

/* orion_private.caller() */
Datum
orion_caller(PG_FUNCTION_ARGS)
{
	Oid			role = GetCurrentRoleId();

	if (OidIsValid(on_behalf_of))
		PG_RETURN_OID(on_behalf_of);
	if (InSecurityRestrictedOperation())
		PG_RETURN_NULL();
	PG_RETURN_OID(OidIsValid(role) ? role : GetSessionUserId());
}
