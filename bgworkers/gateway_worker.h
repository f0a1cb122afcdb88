/*
 * gateway_worker.h
 *	  The worker that runs orion-gateway, and the settings of HTTP.
 */
#ifndef ORION_GATEWAY_WORKER_H
#define ORION_GATEWAY_WORKER_H

extern int	orion_http_port;	/* 0: no HTTP */
extern int	orion_http_max_body_size;	/* kB */

/* Does the gateway listen anywhere? */
extern bool orion_http_is_on(void);

/* Defines the settings orion.http_*. */
extern void orion_gateway_init(void);

#endif							/* ORION_GATEWAY_WORKER_H */
