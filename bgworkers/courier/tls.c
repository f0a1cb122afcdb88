/*
 * tls.c
 *	  TLS by OpenSSL; see tls.h.
 *
 * hiredis has TLS from 1.0 on only, and Debian 12 has an older one, so TLS lies
 * below the drivers' own sockets.
 */
#include "tls.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <string.h>

#include "config.h"
#include "link.h"

/* The last word of OpenSSL on it; never of a key's contents. */
static const char *
ssl_reason(void)
{
	unsigned long code = ERR_peek_last_error();
	const char *reason = code ? ERR_reason_error_string(code) : NULL;

	ERR_clear_error();
	return reason ? reason : "no reason given";
}

static bool
is_pem(const char *string)
{
	return strncmp(string, "-----BEGIN ", 11) == 0;
}

/* A BIO over PEM text or a file; NULL: sink->why. */
static BIO *
open_pem(OrionSink *sink, const char *key, const char *value)
{
	BIO		   *bio;

	if (is_pem(value))
		bio = BIO_new_mem_buf(value, -1);
	else if (*value == '/')
		bio = BIO_new_file(value, "r");
	else
	{
		orion_sink_fail(sink, "config: key \"%s\" must be PEM text or the absolute path of a file", key);
		return NULL;
	}
	if (bio == NULL)
		orion_sink_fail(sink, "config: key \"%s\": the file cannot be read: %s", key, ssl_reason());
	return bio;
}

static bool
load_authorities(OrionSink *sink, SSL_CTX *context, const char *ca)
{
	BIO		   *bio;
	X509	   *cert;
	int			n = 0;

	if (*ca == '\0')
		return SSL_CTX_set_default_verify_paths(context) == 1 ||
			orion_sink_fail(sink, "config: the system's certificate authorities cannot be read: %s", ssl_reason());
	bio = open_pem(sink, "ca", ca);
	if (bio == NULL)
		return false;
	while ((cert = PEM_read_bio_X509(bio, NULL, NULL, NULL)) != NULL)
	{
		n += X509_STORE_add_cert(SSL_CTX_get_cert_store(context), cert) == 1;
		X509_free(cert);
	}
	BIO_free(bio);
	ERR_clear_error();			/* the end of the file is an error, too */
	return n > 0 || orion_sink_fail(sink, "config: key \"ca\" holds no certificate");
}

/* A certificate of ours, and those of authorities between it and a root, in that order. */
static bool
load_certificate(OrionSink *sink, SSL_CTX *context, const char *value)
{
	BIO		   *bio = open_pem(sink, "cert", value);
	X509	   *cert;
	bool		good;

	if (bio == NULL)
		return false;
	cert = PEM_read_bio_X509(bio, NULL, NULL, NULL);
	good = cert && SSL_CTX_use_certificate(context, cert) == 1;
	X509_free(cert);
	while (good && (cert = PEM_read_bio_X509(bio, NULL, NULL, NULL)) != NULL)
	{
		good = SSL_CTX_add1_chain_cert(context, cert) == 1;
		X509_free(cert);
	}
	BIO_free(bio);
	if (!good)
		return orion_sink_fail(sink, "config: key \"cert\": %s", ssl_reason());
	ERR_clear_error();
	return true;
}

/* No terminal to ask for a passphrase. */
static int
no_passphrase(char *buf, int size, int writing, void *data)
{
	return -1;
}

static bool
load_key(OrionSink *sink, SSL_CTX *context, const char *value)
{
	BIO		   *bio = open_pem(sink, "key", value);
	EVP_PKEY   *key;
	bool		good;

	if (bio == NULL)
		return false;
	key = PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL);
	BIO_free(bio);
	if (key == NULL)
		return orion_sink_fail(sink, "config: key \"key\" holds no private key without a passphrase: %s", ssl_reason());
	good = SSL_CTX_use_PrivateKey(context, key) == 1 && SSL_CTX_check_private_key(context) == 1;
	EVP_PKEY_free(key);
	return good || orion_sink_fail(sink, "config: key \"key\" does not belong to \"cert\": %s", ssl_reason());
}

static bool
load_all(OrionSink *sink, json_t *tls, OrionTls *settings)
{
	const char *ca;
	const char *cert;
	const char *key;

	if (!orion_config_optional(sink, tls, "ca", &ca) ||
		!orion_config_optional(sink, tls, "cert", &cert) ||
		!orion_config_optional(sink, tls, "key", &key) ||
		!orion_config_optional(sink, tls, "server_name", &settings->server_name) ||
		!orion_config_bool(sink, tls, "verify", true, &settings->verify))
		return false;
	if ((cert == NULL) != (key == NULL))
		return orion_sink_fail(sink, "config: keys \"cert\" and \"key\" go together");
	if (!load_authorities(sink, settings->context, ca ? ca : ""))
		return false;
	return cert == NULL ||
		(load_certificate(sink, settings->context, cert) && load_key(sink, settings->context, key));
}

bool
orion_tls_configure(OrionSink *sink, json_t *tls, OrionTls *settings)
{
	static const char *const known[] = {"ca", "cert", "key", "server_name", "verify", NULL};

	if (tls && !json_is_object(tls))
		return orion_sink_fail(sink, "config: key \"tls\" must be an object");
	if (!orion_config_known(sink, tls, known))
		return false;
	settings->context = SSL_CTX_new(TLS_client_method());
	if (settings->context == NULL)
		return orion_sink_fail(sink, "TLS cannot be set up: %s", ssl_reason());
	SSL_CTX_set_min_proto_version(settings->context, TLS1_2_VERSION);
	SSL_CTX_set_mode(settings->context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	return load_all(sink, tls, settings);
}

static bool
is_address(const char *name)
{
	struct in6_addr scratch;

	return inet_pton(AF_INET, name, &scratch) == 1 || inet_pton(AF_INET6, name, &scratch) == 1;
}

/* Whom we want to talk to: announced where it is a name, verified in any case. */
static bool
expect_peer(const OrionTls *settings, SSL *ssl, const char *name)
{
	X509_VERIFY_PARAM *param = SSL_get0_param(ssl);

	SSL_set_verify(ssl, settings->verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
	if (is_address(name))
		return !settings->verify || X509_VERIFY_PARAM_set1_ip_asc(param, name) == 1;
	X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	return SSL_set_tlsext_host_name(ssl, name) == 1 &&
		(!settings->verify || X509_VERIFY_PARAM_set1_host(param, name, 0) == 1);
}

static bool
shake_hands(OrionSink *sink, SSL *ssl, int fd, const char *name, long deadline)
{
	for (;;)
	{
		int			result = SSL_connect(ssl);
		int			error = SSL_get_error(ssl, result);
		long		verified;

		if (result == 1)
			return true;
		if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE)
		{
			if (orion_link_wait(fd, error == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT, deadline))
				continue;
			return orion_sink_fail(sink, "TLS with %.100s: no answer in time", name);
		}
		verified = SSL_get_verify_result(ssl);
		if (verified != X509_V_OK)
			return orion_sink_fail(sink, "TLS with %.100s: the certificate is not accepted: %s", name,
								   X509_verify_cert_error_string(verified));
		return orion_sink_fail(sink, "TLS with %.100s: %s", name, ssl_reason());
	}
}

SSL *
orion_tls_connect(OrionSink *sink, const OrionTls *settings, int fd, const char *host, long deadline)
{
	const char *name = settings->server_name ? settings->server_name : host;
	SSL		   *ssl = SSL_new(settings->context);

	ERR_clear_error();
	if (ssl == NULL || SSL_set_fd(ssl, fd) != 1 || !expect_peer(settings, ssl, name))
		orion_sink_fail(sink, "TLS with %.100s cannot be set up: %s", name, ssl_reason());
	else if (shake_hands(sink, ssl, fd, name, deadline))
		return ssl;
	SSL_free(ssl);
	return NULL;
}
