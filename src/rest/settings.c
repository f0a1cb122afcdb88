/*
 * settings.c
 *	  The settings of the REST module.
 *
 * All take effect at a reload: an executor reads them between two requests.
 * Lists are split once and again when their text differs.
 */
#include "postgres.h"

#include <limits.h>

#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/varlena.h"

#include "rest/batch.h"
#include "rest/compress.h"
#include "rest/etag.h"
#include "rest/settings.h"

char	   *orion_rest_prefix = NULL;
char	   *orion_rest_schemas = NULL;
char	   *orion_rest_extra_search_path = NULL;
char	   *orion_rest_anon_role = NULL;
char	   *orion_rest_pre_request = NULL;
char	   *orion_rest_pre_config = NULL;
char	   *orion_rest_root_spec = NULL;
int			orion_rest_max_rows = -1;
int			orion_rest_max_answer_size = 262144;
bool		orion_rest_aggregates_enabled = false;
bool		orion_rest_plan_enabled = false;
bool		orion_rest_prepared_statements = true;
bool		orion_rest_legacy_target_names = true;
int			orion_rest_tx_end = ORION_TX_COMMIT;
int			orion_rest_error_verbosity = ORION_ERRORS_VERBOSE;
int			orion_openapi_mode = ORION_OPENAPI_FOLLOW_PRIVILEGES;
bool		orion_openapi_security_active = false;
char	   *orion_openapi_server_proxy_uri = NULL;
char	   *orion_http_trace_header = NULL;
char	   *orion_http_cors_allowed_origins = NULL;
bool		orion_http_server_timing = false;

static const struct config_enum_entry tx_ends[] = {
	{"commit", ORION_TX_COMMIT, false},
	{"commit-allow-override", ORION_TX_COMMIT_ALLOW_OVERRIDE, false},
	{"rollback", ORION_TX_ROLLBACK, false},
	{"rollback-allow-override", ORION_TX_ROLLBACK_ALLOW_OVERRIDE, false},
	{NULL, 0, false}
};

static const struct config_enum_entry verbosities[] = {
	{"verbose", ORION_ERRORS_VERBOSE, false},
	{"minimal", ORION_ERRORS_MINIMAL, false},
	{NULL, 0, false}
};

static const struct config_enum_entry openapi_modes[] = {
	{"follow-privileges", ORION_OPENAPI_FOLLOW_PRIVILEGES, false},
	{"ignore-privileges", ORION_OPENAPI_IGNORE_PRIVILEGES, false},
	{"disabled", ORION_OPENAPI_DISABLED, false},
	{NULL, 0, false}
};

typedef struct NameList
{
	char	   *text;			/* the setting's value it was made from */
	char	   *split;			/* what the names point into */
	List	   *names;
} NameList;

static List *
split_names(NameList *list, const char *setting)
{
	MemoryContext old;

	if (list->text &&strcmp(list->text, setting) == 0)
		return list->names;
	old = MemoryContextSwitchTo(TopMemoryContext);
	list_free(list->names);
	list->names = NIL;
	if (list->text)
	{
		pfree(list->text);
		pfree(list->split);
	}
	list->text = pstrdup(setting);
	list->split = pstrdup(setting);
	if (!SplitIdentifierString(list->split, ',', &list->names))
		list->names = NIL;
	MemoryContextSwitchTo(old);
	return list->names;
}

List *
orion_rest_schema_list(void)
{
	static NameList list;

	return split_names(&list, orion_rest_schemas);
}

List *
orion_rest_extra_list(void)
{
	static NameList list;

	return split_names(&list, orion_rest_extra_search_path);
}

size_t
orion_rest_prefix_length(void)
{
	size_t		len = strlen(orion_rest_prefix);

	while (len > 0 && orion_rest_prefix[len - 1] == '/')
		len--;
	return len;
}

static void
define_string(const char *name, const char *what, const char *more, char **variable, const char *value)
{
	DefineCustomStringVariable(name, what, more, variable, value, PGC_SIGHUP, 0, NULL, NULL, NULL);
}

static void
define_bool(const char *name, const char *what, bool *variable, bool value)
{
	DefineCustomBoolVariable(name, what, NULL, variable, value, PGC_SIGHUP, 0, NULL, NULL, NULL);
}

static void
define_enum(const char *name, const char *what, int *variable, int value, const struct config_enum_entry *words)
{
	DefineCustomEnumVariable(name, what, NULL, variable, value, words, PGC_SIGHUP, 0, NULL, NULL, NULL);
}

/* Empty, or http(s)://host[:port][/path] without a user, a query and a fragment. */
static bool
check_proxy_uri(char **value, void **extra, GucSource source)
{
	const char *uri = *value;
	const char *host;
	const char *end;
	const char *colon;

	if (uri[0] == '\0')
		return true;
	host = pg_strncasecmp(uri, "http://", 7) == 0 ? uri + 7 : pg_strncasecmp(uri, "https://", 8) == 0 ? uri + 8 : NULL;
	GUC_check_errdetail("It has to be http(s)://host, maybe with a port and a path.");
	if (host == NULL || strpbrk(uri, " ?#@"))
		return false;
	end = host + strcspn(host, "/");
	colon = host[0] == '[' ? strchr(host, ']') : host;
	if (colon == NULL || colon > end)
		return false;
	colon += strcspn(colon, ":/");
	if (*colon != ':')
		return colon > host;
	return colon > host && end - colon <= 6 && strspn(colon + 1, "0123456789") == end - colon - 1 &&
		atoi(colon + 1) > 0 && atoi(colon + 1) < 65536;
}

static void
define_schemas_and_roles(void)
{
	define_string("orion.rest_prefix", "Path in front of tables, views and functions.",
				  "A single slash leaves no prefix.", &orion_rest_prefix, "/rest/v1");
	define_string("orion.rest_schemas", "Schemas whose tables, views and functions are served.",
				  "The first is the default; clients choose with Accept-Profile and Content-Profile.",
				  &orion_rest_schemas, "public, orion");
	define_string("orion.rest_extra_search_path", "Schemas behind the served one in search_path.",
				  NULL, &orion_rest_extra_search_path, "public");
	define_string("orion.rest_anon_role", "Role of requests without a token.",
				  "Empty: they are refused.", &orion_rest_anon_role, "orion_anon");
	define_string("orion.rest_pre_request", "Function that is called before each request's own statement.",
				  "Its name, with or without a schema; no arguments.", &orion_rest_pre_request, "");
	define_string("orion.rest_pre_config", "Accepted for configurations of PostgREST; not called.",
				  NULL, &orion_rest_pre_config, "");
	define_string("orion.rest_root_spec", "Function that answers at the root path instead of OpenAPI.",
				  NULL, &orion_rest_root_spec, "");
}

void
orion_rest_settings_init(void)
{
	define_schemas_and_roles();
	DefineCustomIntVariable("orion.rest_max_rows", "Most rows in one answer.", "-1 sets no limit.",
							&orion_rest_max_rows, -1, -1, INT_MAX, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("orion.rest_max_answer_size", "Largest body of an answer.", NULL,
							&orion_rest_max_answer_size, 262144, 1, MaxAllocSize / 1024, PGC_SIGHUP, GUC_UNIT_KB,
							NULL, NULL, NULL);
	define_bool("orion.rest_aggregates_enabled", "Allows aggregate functions in select.",
				&orion_rest_aggregates_enabled, false);
	define_bool("orion.rest_plan_enabled", "Allows clients to ask for execution plans.",
				&orion_rest_plan_enabled, false);
	define_bool("orion.rest_prepared_statements", "Keeps the plans of requests' statements.",
				&orion_rest_prepared_statements, true);
	define_bool("orion.rest_legacy_target_names", "Filters on embedded rows may name the relation despite an alias.",
				&orion_rest_legacy_target_names, true);
	DefineCustomIntVariable("orion.batch_max_operations", "Most operations of a batch.", NULL,
							&orion_batch_max_operations, 100, 1, 10000, PGC_SIGHUP, 0, NULL, NULL, NULL);
	define_bool("orion.http_compression", "Compresses answers for clients that take gzip.",
				&orion_http_compression, true);
	define_bool("orion.rest_require_if_match", "Refuses changes of rows with a version that have no condition.",
				&orion_rest_require_if_match, false);
	define_enum("orion.rest_tx_end", "How transactions of requests end.",
				&orion_rest_tx_end, ORION_TX_COMMIT, tx_ends);
	define_enum("orion.rest_error_verbosity", "How much of an error the client is told.",
				&orion_rest_error_verbosity, ORION_ERRORS_VERBOSE, verbosities);
	define_enum("orion.openapi_mode", "What the OpenAPI description at the root path contains.",
				&orion_openapi_mode, ORION_OPENAPI_FOLLOW_PRIVILEGES, openapi_modes);
	define_bool("orion.openapi_security_active", "Puts bearer authentication into the OpenAPI description.",
				&orion_openapi_security_active, false);
	DefineCustomStringVariable("orion.openapi_server_proxy_uri", "Public address that the OpenAPI description names.",
							   NULL, &orion_openapi_server_proxy_uri, "", PGC_SIGHUP, 0, check_proxy_uri, NULL, NULL);
	define_string("orion.http_trace_header", "Request header that is repeated in the answer.",
				  NULL, &orion_http_trace_header, "");
	define_string("orion.http_cors_allowed_origins", "Origins that browsers may call from, separated by commas.",
				  "Empty: all.", &orion_http_cors_allowed_origins, "");
	define_bool("orion.http_server_timing", "Adds Server-Timing to answers.",
				&orion_http_server_timing, false);
}
