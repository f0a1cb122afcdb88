/*
 * webhook_address.h
 *	  Which addresses webhooks may be sent to.
 *
 * Who registers an endpoint chooses where this machine connects to, so only
 * addresses of the public Internet are taken, and those that an administrator has
 * allowed.  What is judged is the address of the socket, after the name was
 * resolved: a name that is resolved anew cannot get around it.
 */
#ifndef ORION_COURIER_WEBHOOK_ADDRESS_H
#define ORION_COURIER_WEBHOOK_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/* 10.0.0.0/8 or fc00::/7; bytes behind the first four are zero for IPv4 */
typedef struct OrionNetwork
{
	int			family;			/* AF_INET, AF_INET6 */
	unsigned	bits;
	uint8_t		bytes[16];
} OrionNetwork;

#define ORION_NETWORKS_MAX	64

typedef struct OrionNetworks
{
	size_t		count;
	OrionNetwork list[ORION_NETWORKS_MAX];
} OrionNetworks;

/*
 * Adds networks separated by commas or spaces; a lone address is a network of
 * itself.  False when one is none, or there are too many.
 */
extern bool orion_networks_add(OrionNetworks *networks, const char *string, size_t len);

/*
 * Why the address may not be connected to, in a word or two ("loopback",
 * "private"), or NULL.  IPv4 addresses inside of IPv6 ones (mapped, NAT64) are judged as
 * what they are.
 */
extern const char *orion_address_refusal(const struct sockaddr *address, const OrionNetworks *allowed);

/* The same for an address as text; one that cannot be read is refused. */
extern const char *orion_address_text_refusal(const char *address, const OrionNetworks *allowed);

/* Web ports, and those that any user may open: not SSH, mail and the like. */
extern bool orion_port_is_allowed(long port);

#endif							/* ORION_COURIER_WEBHOOK_ADDRESS_H */
