/*
 * settings.h
 *	  The settings of the REST module, as last loaded.
 *
 * Strings are never NULL; an empty one means "not set".
 */
#ifndef ORION_REST_SETTINGS_H
#define ORION_REST_SETTINGS_H

#include "postgres.h"

#include "nodes/pg_list.h"

typedef enum OrionTxEnd
{
	ORION_TX_COMMIT,
	ORION_TX_COMMIT_ALLOW_OVERRIDE,
	ORION_TX_ROLLBACK,
	ORION_TX_ROLLBACK_ALLOW_OVERRIDE,
}			OrionTxEnd;

typedef enum OrionVerbosity
{
	ORION_ERRORS_VERBOSE,
	ORION_ERRORS_MINIMAL,
}			OrionVerbosity;

typedef enum OrionOpenApiMode
{
	ORION_OPENAPI_FOLLOW_PRIVILEGES,
	ORION_OPENAPI_IGNORE_PRIVILEGES,
	ORION_OPENAPI_DISABLED,
}			OrionOpenApiMode;

extern char *orion_rest_prefix;
extern char *orion_rest_schemas;
extern char *orion_rest_extra_search_path;
extern char *orion_rest_anon_role;
extern char *orion_rest_pre_request;
extern char *orion_rest_pre_config;
extern char *orion_rest_root_spec;
extern int	orion_rest_max_rows;	/* -1: no limit */
extern int	orion_rest_max_answer_size; /* kB */
extern bool orion_rest_aggregates_enabled;
extern bool orion_rest_plan_enabled;
extern bool orion_rest_prepared_statements;
extern bool orion_rest_legacy_target_names;
extern int	orion_rest_tx_end;	/* OrionTxEnd */
extern int	orion_rest_error_verbosity; /* OrionVerbosity */
extern int	orion_openapi_mode; /* OrionOpenApiMode */
extern bool orion_openapi_security_active;
extern char *orion_openapi_server_proxy_uri;
extern char *orion_http_trace_header;
extern char *orion_http_cors_allowed_origins;
extern bool orion_http_server_timing;

/* Bytes of orion_rest_prefix without trailing slashes. */
extern size_t orion_rest_prefix_length(void);

/* The names in rest_schemas and rest_extra_search_path; NIL when malformed. */
extern List *orion_rest_schema_list(void);
extern List *orion_rest_extra_list(void);

extern void orion_rest_settings_init(void);

#endif							/* ORION_REST_SETTINGS_H */
