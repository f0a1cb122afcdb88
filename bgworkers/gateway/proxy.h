/*
 * proxy.h
 *	  Proxies that are believed when they say whom they speak for: pure functions.
 */
#ifndef ORION_GATEWAY_PROXY_H
#define ORION_GATEWAY_PROXY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ORION_PROXY_MAX 64

/* A network; IPv4 as its mapped form in IPv6 (RFC 4291 section 2.5.5.2). */
typedef struct OrionProxyNetwork
{
	uint8_t		address[16];
	int			bits;			/* of the prefix: 0 .. 128 */
} OrionProxyNetwork;

typedef struct OrionProxyList
{
	int			n;
	bool		unix_socket;	/* whoever comes over the Unix socket */
	OrionProxyNetwork networks[ORION_PROXY_MAX];
} OrionProxyList;

/*
 * Reads "10.0.0.0/8, 192.0.2.1, ::1, unix".  False when an item is no address,
 * network or the word unix, or there are too many; *bad then points at it.
 */
extern bool orion_proxy_parse(const char *list, OrionProxyList *out, const char **bad);

/* Is the address, as text, in the list?  An empty address is the Unix socket. */
extern bool orion_proxy_trusts(const OrionProxyList *list, const char *address);

/*
 * Whom a trusted proxy speaks for: the last address of X-Forwarded-For that is not
 * a trusted proxy itself; the first, when all are.  False when the field names
 * no address there: a proxy that writes nonsense is believed nothing.  Ports and
 * brackets are left out.
 */
extern bool orion_proxy_origin(const OrionProxyList *list, const char *field, size_t len, char *out, size_t size);

#endif							/* ORION_GATEWAY_PROXY_H */
