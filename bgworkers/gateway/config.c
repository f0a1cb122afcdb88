/*
 * config.c
 *	  Reads the JSON of the CONFIG frame.
 */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "gateway/gateway.h"

/* False when the text does not fit. */
static bool
copy(char *out, size_t size, const char *text)
{
	return snprintf(out, size, "%s", text) < (int) size;
}

static bool
unpack(json_t *root, GatewayConfig *config, const char **proxies)
{
	const char *version,
			   *addresses,
			   *cert,
			   *key,
			   *stamp,
			   *socket,
			   *access_log,
			   *cors_origins;
	json_int_t	max_body,
				max_header,
				idle_timeout,
				queue_timeout;
	int			tls_old,
				metrics;

	if (json_unpack(root, "{s:s, s:s, s:i, s:i, s:s, s:s, s:s, s:b, s:s, s:i, s:s, s:i, s:s, s:s, s:I, s:I, s:I, s:i, s:I, s:i, s:i, s:i, s:i, s:i}",
					"version", &version,
					"listen_addresses", &addresses,
					"port", &config->port,
					"tls_port", &config->tls_port,
					"tls_cert_file", &cert,
					"tls_key_file", &key,
					"tls_stamp", &stamp,
					"tls_old", &tls_old,
					"unix_socket", &socket,
					"unix_socket_mode", &config->unix_socket_mode,
					"trusted_proxies", proxies,
					"metrics", &metrics,
					"access_log", &access_log,
					"cors_origins", &cors_origins,
					"max_body_size", &max_body,
					"max_header_size", &max_header,
					"idle_timeout", &idle_timeout,
					"queue_size", &config->queue_size,
					"queue_timeout", &queue_timeout,
					"max_parked", &config->max_parked,
					"max_connections", &config->max_connections,
					"max_connections_per_address", &config->max_connections_per_address,
					"process", &config->process,
					"processes", &config->processes) != 0 ||
		config->process < 0 || config->process >= ORION_GATEWAY_MAX_PROCESSES ||
		config->processes < 1 || config->processes > ORION_GATEWAY_MAX_PROCESSES)
		return false;
	config->tls_old = tls_old;
	config->metrics = metrics;
	config->max_body = max_body;
	config->max_header = max_header;
	config->idle_timeout = idle_timeout;
	config->queue_timeout = queue_timeout;
	/* too many: the executors' answers name them, this program's errors none */
	if (!copy(config->cors_origins, sizeof(config->cors_origins), cors_origins))
		strcpy(config->cors_origins, ",");
	return copy(config->version, sizeof(config->version), version) &&
		copy(config->listen_addresses, sizeof(config->listen_addresses), addresses) &&
		copy(config->tls_cert_file, sizeof(config->tls_cert_file), cert) &&
		copy(config->tls_key_file, sizeof(config->tls_key_file), key) &&
		copy(config->tls_stamp, sizeof(config->tls_stamp), stamp) &&
		copy(config->unix_socket, sizeof(config->unix_socket), socket) &&
		copy(config->access_log, sizeof(config->access_log), access_log);
}

bool
orion_gateway_config_parse(const char *json, size_t len, GatewayConfig *config, char *why, size_t size)
{
	json_t	   *root = json_loadb(json, len, JSON_REJECT_DUPLICATES, NULL);
	const char *proxies;
	const char *bad;
	bool		ok = root && unpack(root, config, &proxies);

	if (ok && !orion_proxy_parse(proxies, &config->trusted_proxies, &bad))
	{
		snprintf(why, size, "orion.http_trusted_proxies: \"%.*s\" is no address, network or \"unix\", or there are too many",
				 (int) strcspn(bad, ", \t"), bad);
		ok = false;
	}
	json_decref(root);
	return ok;
}
