/*
 * auth.c
 *	  The settings of identity, and what SQL needs to know of them.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "auth/auth.h"

int			orion_auth_access_token_ttl = 900;
int			orion_auth_refresh_token_ttl = 604800;
int			orion_auth_password_memory = 19456;
int			orion_auth_password_time = 2;
int			orion_auth_password_min_length = 8;

static char *issuer = NULL;
static char *audience = NULL;

PG_FUNCTION_INFO_V1(orion_auth_settings);

/*
 * orion_private.auth_settings(): one row.  current_setting() gives times as text
 * with units ("15min"), which SQL cannot count with.
 */
Datum
orion_auth_settings(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[5];
	bool		nulls[5] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = Int32GetDatum(orion_auth_access_token_ttl);
	values[1] = Int32GetDatum(orion_auth_refresh_token_ttl);
	values[2] = Int32GetDatum(orion_auth_password_min_length);
	values[3] = CStringGetTextDatum(issuer);
	values[4] = CStringGetTextDatum(audience);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

void
orion_auth_init(void)
{
	DefineCustomIntVariable("orion.auth_access_token_ttl",
							"How long an access token is valid.", NULL,
							&orion_auth_access_token_ttl, 900, 10, 86400,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("orion.auth_refresh_token_ttl",
							"How long a session can be refreshed.", NULL,
							&orion_auth_refresh_token_ttl, 604800, 60, 366 * 86400,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomStringVariable("orion.auth_issuer",
							   "The claim \"iss\" of access tokens.", NULL,
							   &issuer, "orion",
							   PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("orion.auth_audience",
							   "The claim \"aud\" of access tokens.", NULL,
							   &audience, "authenticated",
							   PGC_SIGHUP, 0, NULL, NULL, NULL);
	/* defaults and lowest memory: OWASP password storage cheat sheet */
	DefineCustomIntVariable("orion.auth_password_memory",
							"Memory of one password hash (Argon2id m).", NULL,
							&orion_auth_password_memory, 19456, 7168, 1048576,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("orion.auth_password_time",
							"Passes of one password hash (Argon2id t).", NULL,
							&orion_auth_password_time, 2, 1, 20,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("orion.auth_password_min_length",
							"Characters a new password must have.", NULL,
							&orion_auth_password_min_length, 8, 1, 128,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
}
