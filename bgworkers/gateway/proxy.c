/*
 * proxy.c
 *	  Networks of trusted proxies and the field X-Forwarded-For; see proxy.h.
 */
#include "gateway/proxy.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TEXT 64

static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF};

/* An IPv4 address becomes its mapped form; *v4 says that it was one. */
static bool
parse_address(const char *str, uint8_t out[16], bool *v4)
{
	*v4 = inet_pton(AF_INET, str, out + 12) == 1;
	if (*v4)
	{
		memcpy(out, mapped, sizeof(mapped));
		return true;
	}
	return inet_pton(AF_INET6, str, out) == 1;
}

static bool
parse_bits(const char *str, int max, int *bits)
{
	char	   *end;
	long		n = strtol(str, &end, 10);

	*bits = (int) n;
	return *str >= '0' && *str <= '9' && *end == '\0' && n >= 0 && n <= max;
}

static bool
parse_network(char *item, OrionProxyNetwork *out)
{
	char	   *slash = strchr(item, '/');
	bool		v4;

	if (slash)
		*slash = '\0';
	if (!parse_address(item, out->address, &v4))
		return false;
	out->bits = 128;
	if (slash && !parse_bits(slash + 1, v4 ? 32 : 128, &out->bits))
		return false;
	if (slash && v4)
		out->bits += 96;
	return true;
}

bool
orion_proxy_parse(const char *list, OrionProxyList *out, const char **bad)
{
	memset(out, 0, sizeof(*out));
	while (*(list += strspn(list, ", \t")))
	{
		size_t		len = strcspn(list, ", \t");
		char		item[MAX_TEXT];

		*bad = list;
		if (len >= sizeof(item))
			return false;
		memcpy(item, list, len);
		item[len] = '\0';
		list += len;
		if (strcmp(item, "unix") == 0)
			out->unix_socket = true;
		else if (out->n == ORION_PROXY_MAX || !parse_network(item, &out->networks[out->n++]))
			return false;
	}
	return true;
}

static bool
is_within(const uint8_t address[16], const OrionProxyNetwork *network)
{
	int			whole = network->bits / 8;
	int			rest = network->bits % 8;
	uint8_t		mask = rest ? (uint8_t) (0xFF << (8 - rest)) : 0;

	if (memcmp(address, network->address, whole) != 0)
		return false;
	return rest == 0 || ((address[whole] ^ network->address[whole]) & mask) == 0;
}

bool
orion_proxy_trusts(const OrionProxyList *list, const char *address)
{
	uint8_t		bytes[16];
	bool		v4;

	if (address[0] == '\0')
		return list->unix_socket;
	if (list->n == 0 || !parse_address(address, bytes, &v4))
		return false;
	for (int i = 0; i < list->n; i++)
	{
		if (is_within(bytes, &list->networks[i]))
			return true;
	}
	return false;
}

/* "192.0.2.1", "192.0.2.1:80", "2001:db8::1", "[2001:db8::1]:80", in text form. */
static bool
clean_address(const char *str, size_t len, char *out, size_t size)
{
	const char *colon = memchr(str, ':', len);
	uint8_t		bytes[16];
	bool		v4;

	if (len > 0 && str[0] == '[')
	{
		const char *end = memchr(str, ']', len);

		if (end == NULL)
			return false;
		str++;
		len = end - str;
	}
	else if (colon && memchr(colon + 1, ':', len - (colon + 1 - str)) == NULL)
		len = colon - str;
	if (len == 0 || len >= size)
		return false;
	memcpy(out, str, len);
	out[len] = '\0';
	return parse_address(out, bytes, &v4) &&
		inet_ntop(v4 ? AF_INET : AF_INET6, v4 ? bytes + 12 : bytes, out, size) != NULL;
}

bool
orion_proxy_origin(const OrionProxyList *list, const char *field, size_t len, char *out, size_t size)
{
	const char *end = field + len;
	char		found[MAX_TEXT] = "";

	for (;;)
	{
		const char *from = end;
		const char *to = end;

		while (from > field && from[-1] != ',')
			from--;
		end = from - 1;			/* the comma, when there is one */
		while (from < to && (*from == ' ' || *from == '\t'))
			from++;
		while (to > from && (to[-1] == ' ' || to[-1] == '\t'))
			to--;
		if (!clean_address(from, to - from, found, sizeof(found)))
			return false;
		if (end < field || !orion_proxy_trusts(list, found))
			break;
	}
	if (strlen(found) >= size)
		return false;
	strcpy(out, found);
	return true;
}
