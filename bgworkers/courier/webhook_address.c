/*
 * webhook_address.c
 *	  Judges addresses; see webhook_address.h.
 *
 * The ranges are those of IANA's special-purpose registries (RFC 6890 and its
 * updates) that are not globally reachable, multicast, what is reserved, and 168.63.129.16,
 * which is in no registry: Azure's hosts answer their machines there.  Of
 * IPv6 only 2000::/3 is given out at all, so everything else is refused.
 */
#include "webhook_address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

typedef struct Range
{
	uint8_t		bytes[16];
	unsigned	bits;
	const char *what;
} Range;

static const Range ranges4[] = {
	{{0}, 8, "this network"},
	{{10}, 8, "private"},
	{{100, 64}, 10, "shared by carriers (CGNAT)"},
	{{127}, 8, "loopback"},
	{{169, 254}, 16, "link-local"},
	{{168, 63, 129, 16}, 32, "of the cloud's host"},
	{{172, 16}, 12, "private"},
	{{192, 0, 0}, 24, "reserved"},
	{{192, 0, 2}, 24, "for documentation"},
	{{192, 88, 99}, 24, "reserved"},
	{{192, 168}, 16, "private"},
	{{198, 18}, 15, "for benchmarks"},
	{{198, 51, 100}, 24, "for documentation"},
	{{203, 0, 113}, 24, "for documentation"},
	{{224}, 4, "multicast"},
	{{240}, 4, "reserved"},
};

/* Looked at first in their order; what is left must be in 2000::/3. */
static const Range ranges6[] = {
	{{[15] = 1}, 128, "loopback"},
	{{0}, 128, "unspecified"},
	{{0xfe, 0x80}, 10, "link-local"},
	{{0xfc}, 7, "private"},
	{{0xff}, 8, "multicast"},
	{{0x20, 0x01, 0x0d, 0xb8}, 32, "for documentation"},
	{{0x20, 0x01}, 23, "reserved"},
	{{0x20, 0x02}, 16, "6to4"},
	{{0x3f, 0xff}, 20, "for documentation"},
};

static const Range global6 = {{0x20}, 3, ""};
static const Range mapped = {{[10] = 0xff,[11] = 0xff}, 96, ""};
static const Range nat64 = {{0, 0x64, 0xff, 0x9b}, 96, ""};

static bool
in_range(const uint8_t *bytes, const uint8_t *range, unsigned bits)
{
	unsigned	whole = bits / 8;
	unsigned	rest = bits % 8;

	if (memcmp(bytes, range, whole) != 0)
		return false;
	return rest == 0 || (bytes[whole] ^ range[whole]) >> (8 - rest) == 0;
}

static bool
is_allowed(int family, const uint8_t *bytes, const OrionNetworks *allowed)
{
	for (size_t i = 0; allowed && i < allowed->count; i++)
	{
		if (allowed->list[i].family == family && in_range(bytes, allowed->list[i].bytes, allowed->list[i].bits))
			return true;
	}
	return false;
}

static const char *
refusal4(const uint8_t *bytes, const OrionNetworks *allowed)
{
	if (is_allowed(AF_INET, bytes, allowed))
		return NULL;
	for (size_t i = 0; i < sizeof(ranges4) / sizeof(ranges4[0]); i++)
	{
		if (in_range(bytes, ranges4[i].bytes, ranges4[i].bits))
			return ranges4[i].what;
	}
	return NULL;
}

static const char *
refusal6(const uint8_t *bytes, const OrionNetworks *allowed)
{
	if (is_allowed(AF_INET6, bytes, allowed))
		return NULL;
	if (in_range(bytes, mapped.bytes, mapped.bits) || in_range(bytes, nat64.bytes, nat64.bits))
		return refusal4(bytes + 12, allowed);
	for (size_t i = 0; i < sizeof(ranges6) / sizeof(ranges6[0]); i++)
	{
		if (in_range(bytes, ranges6[i].bytes, ranges6[i].bits))
			return ranges6[i].what;
	}
	return in_range(bytes, global6.bytes, global6.bits) ? NULL : "reserved";
}

const char *
orion_address_refusal(const struct sockaddr *address, const OrionNetworks *allowed)
{
	if (address->sa_family == AF_INET)
		return refusal4((const uint8_t *) &((const struct sockaddr_in *) address)->sin_addr, allowed);
	if (address->sa_family == AF_INET6)
		return refusal6((const uint8_t *) &((const struct sockaddr_in6 *) address)->sin6_addr, allowed);
	return "not of the Internet";
}

const char *
orion_address_text_refusal(const char *address, const OrionNetworks *allowed)
{
	struct sockaddr_in v4 = {.sin_family = AF_INET};
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};

	if (inet_pton(AF_INET, address, &v4.sin_addr) == 1)
		return orion_address_refusal((struct sockaddr *) &v4, allowed);
	if (inet_pton(AF_INET6, address, &v6.sin6_addr) == 1)
		return orion_address_refusal((struct sockaddr *) &v6, allowed);
	return "not readable";
}

bool
orion_port_is_allowed(long port)
{
	return port == 80 || port == 443 || (port >= 1024 && port <= 65535);
}

static bool
add_network(OrionNetworks *networks, const char *string, size_t len)
{
	char		copy[64];
	OrionNetwork *network = &networks->list[networks->count];
	unsigned	most;
	char	   *slash;

	if (len >= sizeof(copy) || networks->count == ORION_NETWORKS_MAX)
		return false;
	memcpy(copy, string, len);
	copy[len] = '\0';
	slash = strchr(copy, '/');
	if (slash)
		*slash++ = '\0';
	memset(network, 0, sizeof(*network));
	network->family = strchr(copy, ':') ? AF_INET6 : AF_INET;
	most = network->family == AF_INET ? 32 : 128;
	if (inet_pton(network->family, copy, network->bytes) != 1)
		return false;
	network->bits = most;
	if (slash)
	{
		char	   *end;
		unsigned long bits = strtoul(slash, &end, 10);

		if (*slash < '0' || *slash > '9' || *end != '\0' || bits > most)
			return false;
		network->bits = (unsigned) bits;
	}
	networks->count++;
	return true;
}

bool
orion_networks_add(OrionNetworks *networks, const char *string, size_t len)
{
	size_t		at = 0;

	while (at < len)
	{
		size_t		begin;

		while (at < len && (string[at] == ',' || string[at] == ' '))
			at++;
		begin = at;
		while (at < len && string[at] != ',' && string[at] != ' ')
			at++;
		if (at > begin && !add_network(networks, string + begin, at - begin))
			return false;
	}
	return true;
}
