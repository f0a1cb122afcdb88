/*
 * config.c
 *	  JSON keys and URLs; see config.h.
 */
#define _GNU_SOURCE				/* memrchr */

#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codec/hex.h"

/* A decoded copy of len bytes; NULL on a bad escape, %00, or no memory. */
static char *
percent_decode(const char *string, size_t len)
{
	char	   *copy = malloc(len + 1);
	size_t		n = 0;

	if (copy == NULL)
		return NULL;
	for (size_t i = 0; i < len; i++)
	{
		int			high,
					low;

		if (string[i] != '%')
		{
			copy[n++] = string[i];
			continue;
		}
		high = i + 1 < len ? orion_hex_digit(string[i + 1]) : -1;
		low = i + 2 < len ? orion_hex_digit(string[i + 2]) : -1;
		if (high < 0 || low < 0 || (high | low) == 0)
		{
			explicit_bzero(copy, n);
			free(copy);
			return NULL;
		}
		copy[n++] = (char) (high << 4 | low);
		i += 2;
	}
	copy[n] = '\0';
	return copy;
}

static bool
parse_userinfo(const char *string, size_t len, OrionUrl *url)
{
	const char *colon = memchr(string, ':', len);
	size_t		user_len = colon ? (size_t) (colon - string) : len;

	url->user = percent_decode(string, user_len);
	if (url->user == NULL)
		return false;
	if (colon == NULL)
		return true;
	url->password = percent_decode(colon + 1, len - user_len - 1);
	return url->password != NULL;
}

/* host, host:port, [v6], [v6]:port. False: *what names the bad part. */
static bool
parse_host(const char *string, size_t len, OrionUrl *url, const char **what)
{
	const char *end = string + len;
	const char *host_end;
	char	   *stop;

	*what = "host";
	if (len > 0 && *string == '[')
	{
		host_end = memchr(string, ']', len);
		if (host_end == NULL)
			return false;
		url->host = percent_decode(string + 1, host_end - string - 1);
		host_end++;
	}
	else
	{
		host_end = memchr(string, ':', len);
		if (host_end == NULL)
			host_end = end;
		url->host = percent_decode(string, host_end - string);
	}
	if (url->host == NULL || *url->host == '\0')
		return false;
	if (host_end == end)
		return true;
	*what = "port";
	if (*host_end != ':' || host_end + 1 == end || host_end[1] < '0' || host_end[1] > '9')
		return false;
	url->port = (int) strtol(host_end + 1, &stop, 10);
	return stop == end && stop - host_end <= 6 && url->port >= 1 && url->port <= 65535;
}

static bool
parse_parts(const char *string, OrionUrl *url, const char **what)
{
	size_t		len = strcspn(string, "/");
	const char *at = memrchr(string, '@', len);
	const char *path = string[len] == '/' ? string + len + 1 : string + len;

	*what = "query or fragment: none is known";
	if (strpbrk(string, "?#"))
		return false;
	*what = "user or password: percent-encode special characters";
	if (at && !parse_userinfo(string, at - string, url))
		return false;
	if (at)
	{
		len -= at + 1 - string;
		string = at + 1;
	}
	if (!parse_host(string, len, url, what))
		return false;
	*what = "path";
	url->has_path = *path != '\0';
	url->path = percent_decode(path, strlen(path));
	return url->path != NULL;
}

bool
orion_url_parse(const char *string, const char *scheme, int default_port, OrionUrl *url,
				char *err, size_t size)
{
	size_t		len = strlen(scheme);
	const char *what;

	memset(url, 0, sizeof(*url));
	url->port = default_port;
	if (strncmp(string, scheme, len) != 0 || strncmp(string + len, "://", 3) != 0)
	{
		snprintf(err, size, "must begin with %s://", scheme);
		return false;
	}
	if (parse_parts(string + len + 3, url, &what))
		return true;
	snprintf(err, size, "has a bad %s", what);
	orion_url_free(url);
	return false;
}

void
orion_url_free(OrionUrl *url)
{
	if (url->password)
		explicit_bzero(url->password, strlen(url->password));
	free(url->user);
	free(url->password);
	free(url->host);
	free(url->path);
	memset(url, 0, sizeof(*url));
}

bool
orion_config_known(OrionSink *sink, json_t *object, const char *const *known)
{
	const char *key;
	json_t	   *value;

	json_object_foreach(object, key, value)
	{
		const char *const *name = known;

		while (*name && strcmp(*name, key) != 0)
			name++;
		if (*name == NULL)
			return orion_sink_fail(sink, "config: unknown key \"%.60s\"", key);
	}
	return true;
}

bool
orion_config_string(OrionSink *sink, json_t *object, const char *key, const char *dflt,
					const char **value)
{
	json_t	   *found = json_object_get(object, key);

	*value = dflt;
	if (found == NULL && dflt == NULL)
		return orion_sink_fail(sink, "config: key \"%s\" is missing", key);
	if (found == NULL)
		return true;
	if (!json_is_string(found) || json_string_length(found) == 0)
		return orion_sink_fail(sink, "config: key \"%s\" must be a string that is not empty", key);
	*value = json_string_value(found);
	return true;
}

bool
orion_config_optional(OrionSink *sink, json_t *object, const char *key, const char **value)
{
	*value = NULL;
	return json_object_get(object, key) == NULL || orion_config_string(sink, object, key, NULL, value);
}

bool
orion_config_bool(OrionSink *sink, json_t *object, const char *key, bool dflt, bool *value)
{
	json_t	   *found = json_object_get(object, key);

	*value = found ? json_is_true(found) : dflt;
	if (found && !json_is_boolean(found))
		return orion_sink_fail(sink, "config: key \"%s\" must be true or false", key);
	return true;
}

bool
orion_config_integer(OrionSink *sink, json_t *object, const char *key, long long min,
					 long long max, long long dflt, long long *value)
{
	json_t	   *found = json_object_get(object, key);

	*value = dflt;
	if (found == NULL)
		return true;
	if (!json_is_integer(found) || json_integer_value(found) < min || json_integer_value(found) > max)
		return orion_sink_fail(sink, "config: key \"%s\" must be an integer between %lld and %lld", key, min, max);
	*value = json_integer_value(found);
	return true;
}

bool
orion_config_array(OrionSink *sink, json_t *object, const char *key, json_t **value)
{
	*value = json_object_get(object, key);
	if (*value && !json_is_array(*value))
		return orion_sink_fail(sink, "config: key \"%s\" must be an array", key);
	return true;
}

bool
orion_config_url(OrionSink *sink, json_t *object, const char *scheme, int default_port, OrionUrl *url)
{
	const char *string;
	char		err[160];

	if (!orion_config_string(sink, object, "url", NULL, &string))
		return false;
	if (!orion_url_parse(string, scheme, default_port, url, err, sizeof(err)))
		return orion_sink_fail(sink, "config: key \"url\" %s", err);
	return true;
}
