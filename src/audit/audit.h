/*
 * audit.h
 *	  The audit log: where a request comes from, and the log's upkeep.
 */
#ifndef ORION_AUDIT_H
#define ORION_AUDIT_H

#include "postgres.h"

/*
 * Where the request of this transaction comes from, for the audit log: the peer
 * as text, with or without a port, and the user agent (either may be NULL).
 * Copied; gone at the end of the transaction.
 */
extern void orion_audit_origin_set(const char *peer, const char *user_agent);

/*
 * The address in what the gateway calls a peer: "192.0.2.1", "192.0.2.1:4000", "2001:db8::1"
 * or "[2001:db8::1]:4000".  found has INET6_ADDRSTRLEN bytes; false, and empty, when it is
 * none of these.
 */
extern bool orion_audit_peer_address(const char *peer, size_t len, char *found);

/*
 * For the maintenance worker, outside of any transaction: makes the coming
 * months' partitions.  Looks at the tables once an hour only.
 */
extern void orion_audit_maintain(void);

extern void orion_audit_init(void);

#endif							/* ORION_AUDIT_H */
