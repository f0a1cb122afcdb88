/*
 * config.c
 *	  Reads the JSON of the CONFIG frame.
 */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "gateway/gateway.h"

bool
orion_gateway_config_parse(const char *json, size_t len, GatewayConfig *config)
{
	json_t	   *root = json_loadb(json, len, JSON_REJECT_DUPLICATES, NULL);
	const char *version;
	const char *addresses;
	json_int_t	max_body,
				max_header,
				idle_timeout,
				queue_timeout;
	bool		ok;

	ok = root && json_unpack(root, "{s:s, s:s, s:i, s:I, s:I, s:I, s:i, s:I, s:i, s:i}",
							 "version", &version,
							 "listen_addresses", &addresses,
							 "port", &config->port,
							 "max_body_size", &max_body,
							 "max_header_size", &max_header,
							 "idle_timeout", &idle_timeout,
							 "queue_size", &config->queue_size,
							 "queue_timeout", &queue_timeout,
							 "max_connections", &config->max_connections,
							 "max_connections_per_address", &config->max_connections_per_address) == 0;
	if (ok)
	{
		snprintf(config->version, sizeof(config->version), "%s", version);
		ok = snprintf(config->listen_addresses, sizeof(config->listen_addresses), "%s", addresses)
			< (int) sizeof(config->listen_addresses);
		config->max_body = max_body;
		config->max_header = max_header;
		config->idle_timeout = idle_timeout;
		config->queue_timeout = queue_timeout;
	}
	json_decref(root);
	return ok;
}
