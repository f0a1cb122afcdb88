/*
 * gateway_worker.h
 *	  The worker that runs orion-gateway, and the settings of HTTP.
 */
#ifndef ORION_GATEWAY_WORKER_H
#define ORION_GATEWAY_WORKER_H

extern int	orion_http_port;	/* 0: no HTTP */
extern int	orion_http_max_body_size;	/* kB */

/* Does this one of the gateways, counted from 0, listen anywhere? */
extern bool orion_gateway_is_on(int gateway);

/* Defines the settings orion.http_*. */
extern void orion_gateway_init(void);

#endif							/* ORION_GATEWAY_WORKER_H */
