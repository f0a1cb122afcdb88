/*
 * auth.c
 *	  The settings of identity, and what SQL needs to know of them.
 */
#include "postgres.h"

#include <limits.h>

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "auth/auth.h"
#include "auth/throttle.h"

int			orion_auth_access_token_ttl = 900;
int			orion_auth_refresh_token_ttl = 604800;
int			orion_auth_password_memory = 19456;
int			orion_auth_password_time = 2;
int			orion_auth_password_min_length = 8;

int			orion_auth_login_window = 900;
int			orion_auth_login_max_account = 5;
int			orion_auth_login_max_address = 50;
int			orion_auth_login_max_pair = 5;
int			orion_auth_hash_memory_limit = 262144;
int			orion_auth_hash_timeout = 10000;
int			orion_auth_attempt_retention = 129600;

static bool uniform_answers = false;
char	   *orion_auth_issuer = NULL;
char	   *orion_auth_audience = NULL;

PG_FUNCTION_INFO_V1(orion_auth_settings);

/*
 * orion_private.auth_settings(): one row.  current_setting() gives times as text
 * with units ("15min"), which SQL cannot count with.
 */
Datum
orion_auth_settings(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[10];
	bool		nulls[10] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = Int32GetDatum(orion_auth_access_token_ttl);
	values[1] = Int32GetDatum(orion_auth_refresh_token_ttl);
	values[2] = Int32GetDatum(orion_auth_password_min_length);
	values[3] = CStringGetTextDatum(orion_auth_issuer);
	values[4] = CStringGetTextDatum(orion_auth_audience);
	values[5] = BoolGetDatum(uniform_answers);
	values[6] = Int32GetDatum(orion_auth_login_window);
	values[7] = Int32GetDatum(orion_auth_login_max_account);
	values[8] = Int32GetDatum(orion_auth_login_max_address);
	values[9] = Int32GetDatum(orion_auth_login_max_pair);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

static void
define_limit(const char *name, const char *description, int *value, int standard)
{
	DefineCustomIntVariable(name, description, "0: no limit.",
							value, standard, 0, 10000,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
}

static void
define_limits(void)
{
	DefineCustomIntVariable("orion.auth_login_window",
							"How long a failed login counts.", NULL,
							&orion_auth_login_window, 900, 15, 86400,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	define_limit("orion.auth_login_max_account", "Failed logins of one account.",
				 &orion_auth_login_max_account, 5);
	define_limit("orion.auth_login_max_address", "Failed logins from one address or IPv6 /64 network.",
				 &orion_auth_login_max_address, 50);
	define_limit("orion.auth_login_max_pair", "Failed logins of one account from one address.",
				 &orion_auth_login_max_pair, 5);
	DefineCustomIntVariable("orion.auth_hash_memory_limit",
							"Memory of all password hashes at a time.", NULL,
							&orion_auth_hash_memory_limit, 262144, 7168, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("orion.auth_hash_timeout",
							"How long a login waits for that memory.", NULL,
							&orion_auth_hash_timeout, 10000, 0, 600000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("orion.auth_attempt_retention",
							"How long attempts to log in are kept.", NULL,
							&orion_auth_attempt_retention, 129600, 1440, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MIN, NULL, NULL, NULL);
	DefineCustomBoolVariable("orion.auth_uniform_answers",
							 "Registration does not tell whether an address is known.", NULL,
							 &uniform_answers, false,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
}

void
orion_auth_init(void)
{
	define_limits();
	orion_throttle_init();
	orion_attempt_init();
	orion_hash_memory_init();
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
							   &orion_auth_issuer, "orion",
							   PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("orion.auth_audience",
							   "The claim \"aud\" of access tokens.", NULL,
							   &orion_auth_audience, "authenticated",
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
