/*
 * standby.c
 *	  What a hot standby answers to those who want to write.
 *
 * Most of it is refused before anything is done: by the method, and functions by their
 * volatility.  What tries all the same fails with the SQLSTATE of read-only transactions
 * and is answered alike.  Until the promotion is over, that is; each request
 * asks anew.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "utils/guc.h"

#include "rest/error.h"
#include "rest/response.h"
#include "rest/standby.h"

#define CODE		"25006"		/* SQLSTATE read_only_sql_transaction */
#define MESSAGE		"This server is a standby and cannot write"
#define HINT		"Send it to the primary."

typedef enum OrionStandbyWrites
{
	ORION_STANDBY_UNAVAILABLE,
	ORION_STANDBY_NOT_ALLOWED,
}			OrionStandbyWrites;

static int	standby_writes = ORION_STANDBY_UNAVAILABLE;
static char *primary_url = NULL;

static const struct config_enum_entry writes_options[] = {
	{"unavailable", ORION_STANDBY_UNAVAILABLE, false},
	{"not-allowed", ORION_STANDBY_NOT_ALLOWED, false},
	{NULL, 0, false}
};

static int
status(void)
{
	return standby_writes == ORION_STANDBY_NOT_ALLOWED ? 405 : 503;
}

void
orion_standby_refuse(void)
{
	if (RecoveryInProgress())
		orion_refuse_standby(status(), CODE, MESSAGE, HINT);
}

bool
orion_standby_has_no_writes(void)
{
	return standby_writes == ORION_STANDBY_NOT_ALLOWED && RecoveryInProgress();
}

void
orion_standby_answer(const OrionCall *call, OrionResponse *response)
{
	orion_response_error(response, status(), CODE, MESSAGE, NULL, HINT);
	orion_standby_headers(call, response);
}

/* The same target at the primary; NULL when its address is not known. */
static char *
location(const OrionRequest *request)
{
	int			len = strlen(primary_url);

	while (len > 0 && primary_url[len - 1] == '/')
		len--;
	if (len == 0 || request->path[0] != '/')
		return NULL;
	return psprintf("%.*s%s%s%s", len, primary_url, request->path, request->query[0] ? "?" : "", request->query);
}

void
orion_standby_headers(const OrionCall *call, OrionResponse *response)
{
	char	   *there = location(call->request);

	if (response->status == 405)
	{
		orion_response_header(response, "Allow", call->standby_allows ? call->standby_allows : "OPTIONS");
		return;
	}
	orion_response_header(response, "Retry-After", ORION_RETRY_SECONDS);
	if (there)
		orion_response_header(response, "Location", there);
}

/* It becomes a header, and clients send there what is meant for us. */
static bool
check_primary_url(char **newval, void **extra, GucSource source)
{
	const char *url = *newval;
	const char *host = strncmp(url, "http://", 7) == 0 ? url + 7 : strncmp(url, "https://", 8) == 0 ? url + 8 : NULL;

	if (url[0] == '\0')
		return true;
	if (host && host[0] != '/' && host[0] != '\0' && url[strcspn(url, " \"<>\\^`{|}?#@")] == '\0')
	{
		while (*host > ' ' && *host < 0x7F)
			host++;
		if (*host == '\0')
			return true;
	}
	GUC_check_errdetail("It must begin with \"http://\" or \"https://\" and a host, and have no query, fragment or user.");
	return false;
}

void
orion_standby_init(void)
{
	DefineCustomEnumVariable("orion.standby_writes",
							 "How a standby answers those who want to write.",
							 "\"unavailable\" is 503, with Location if orion.primary_url is set; \"not-allowed\" is 405.",
							 &standby_writes, ORION_STANDBY_UNAVAILABLE, writes_options,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("orion.primary_url",
							   "Address of the primary's HTTP server, for clients of a standby.",
							   "Empty: they are not told.",
							   &primary_url, "",
							   PGC_SIGHUP, 0, check_primary_url, NULL, NULL);
}
