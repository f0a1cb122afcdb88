/*
 * tls.h
 *	  TLS towards a sink: the settings under the key "tls", and the handshake.
 *
 * The server's certificate is verified, chain and name, unless the settings say
 * otherwise in so many words.  Without "ca" the system's authorities are trusted.
 */
#ifndef ORION_COURIER_TLS_H
#define ORION_COURIER_TLS_H

#include <openssl/ssl.h>

#include "sink.h"

typedef struct OrionTls
{
	SSL_CTX    *context;		/* NULL: not configured */
	const char *server_name;	/* NULL: the host's name */
	bool		verify;
} OrionTls;

/*
 * Takes {"ca", "cert", "key", "server_name", "verify"}; tls may be NULL.  Each of the
 * first three is PEM text, or the path of a file with it.  False: sink->why.
 */
extern bool orion_tls_configure(OrionSink *sink, json_t *tls, OrionTls *settings);

/*
 * Shakes hands on a connected, non-blocking socket before the deadline (monotonic
 * ms).  NULL: sink->why says why, a certificate that does not verify among others.
 */
extern SSL *orion_tls_connect(OrionSink *sink, const OrionTls *settings, int fd, const char *host, long deadline);

#endif							/* ORION_COURIER_TLS_H */
