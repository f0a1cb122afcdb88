/*
 * webhook_private.h
 *	  What the files of this module share among themselves.
 */
#ifndef ORION_WEBHOOK_PRIVATE_H
#define ORION_WEBHOOK_PRIVATE_H

#include "postgres.h"

/* The context that the URL and the secrets of an endpoint are sealed with. */
extern char *orion_webhook_seal_context(int32 endpoint);

/* Events about webhooks are not sent as webhooks. */
extern bool orion_webhook_is_internal(const char *type);

#endif							/* ORION_WEBHOOK_PRIVATE_H */
