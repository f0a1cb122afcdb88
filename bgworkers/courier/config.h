/*
 * config.h
 *	  Reading a sink's settings: JSON keys and URLs.
 *
 * Every reader leaves a text for the operator in sink->why that names the wrong
 * key and what was expected, and never the value: it may be a secret.
 */
#ifndef ORION_COURIER_CONFIG_H
#define ORION_COURIER_CONFIG_H

#include "sink.h"

/* Parts are percent-decoded, malloc'ed, never NULL but for user and password. */
typedef struct OrionUrl
{
	char	   *user;
	char	   *password;
	char	   *host;
	int			port;
	char	   *path;			/* without the leading slash */
	bool		has_path;		/* there was something behind the slash */
} OrionUrl;

/*
 * scheme://[user[:password]@]host[:port][/path]; the host may be an IPv6 literal
 * in brackets (RFC 3986).  A query or fragment is refused.  On failure err says
 * what is wrong without showing any of the text.
 */
extern bool orion_url_parse(const char *string, const char *scheme, int default_port,
							OrionUrl *url, char *err, size_t size);
extern void orion_url_free(OrionUrl *url);

/* False when object has a key that is not in the NULL-terminated list. */
extern bool orion_config_known(OrionSink *sink, json_t *object, const char *const *known);

/* dflt NULL: the key is required. The string lives as long as object. */
extern bool orion_config_string(OrionSink *sink, json_t *object, const char *key,
								const char *dflt, const char **value);
extern bool orion_config_integer(OrionSink *sink, json_t *object, const char *key,
								 long long min, long long max, long long dflt, long long *value);

/* *value is NULL when the key is missing. */
extern bool orion_config_optional(OrionSink *sink, json_t *object, const char *key, const char **value);
extern bool orion_config_bool(OrionSink *sink, json_t *object, const char *key, bool dflt, bool *value);

/* *value is NULL when the key is missing. */
extern bool orion_config_array(OrionSink *sink, json_t *object, const char *key, json_t **value);

/* Reads the required key "url". */
extern bool orion_config_url(OrionSink *sink, json_t *object, const char *scheme,
							 int default_port, OrionUrl *url);

#endif							/* ORION_COURIER_CONFIG_H */
