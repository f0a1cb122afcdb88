/*
 * webhook.h
 *	  The courier as a sender of webhooks.
 *
 * Unlike the brokers' drivers there is no one connection and no order: the relay
 * decides what is sent to whom and when, and says DELIVER for each attempt; here it is
 * resolved, checked, signed and sent, and answered with DELIVERED.
 */
#ifndef ORION_COURIER_WEBHOOK_H
#define ORION_COURIER_WEBHOOK_H

#include <jansson.h>

#include "frame.h"

/*
 * Runs until the relay hangs up; settings are the sink's "config".  Errors that a
 * restart may mend end the process.
 */
extern void orion_webhook_run(json_t *settings, OrionBuffer *in, OrionBuffer *out, int relay_fd);

#endif							/* ORION_COURIER_WEBHOOK_H */
