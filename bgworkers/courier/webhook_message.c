/*
 * webhook_message.c
 *	  Signing and cleaning; see webhook_message.h.
 */
#include "webhook_message.h"

#include <sodium.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECRET_BYTES_MAX	64

typedef struct Signed
{
	char		head[256];		/* "<id>.<timestamp>." */
	size_t		head_len;
	const char *body;
	size_t		body_len;
} Signed;

static size_t
sign_v1(const Signed *what, const unsigned char *key, size_t key_len, unsigned char *signature)
{
	crypto_auth_hmacsha256_state state;

	crypto_auth_hmacsha256_init(&state, key, key_len);
	crypto_auth_hmacsha256_update(&state, (const unsigned char *) what->head, what->head_len);
	crypto_auth_hmacsha256_update(&state, (const unsigned char *) what->body, what->body_len);
	crypto_auth_hmacsha256_final(&state, signature);
	sodium_memzero(&state, sizeof(state));
	return crypto_auth_hmacsha256_BYTES;
}

/* Ed25519 reads its message twice, so it needs it in one piece. */
static size_t
sign_v1a(const Signed *what, const unsigned char *key, size_t key_len, unsigned char *signature)
{
	unsigned char secret[crypto_sign_SECRETKEYBYTES];
	unsigned char public[crypto_sign_PUBLICKEYBYTES];
	unsigned char *message = malloc(what->head_len + what->body_len);

	if (message == NULL)
		return 0;
	crypto_sign_seed_keypair(public, secret, key);
	memcpy(message, what->head, what->head_len);
	memcpy(message + what->head_len, what->body, what->body_len);
	crypto_sign_detached(signature, NULL, message, what->head_len + what->body_len, secret);
	sodium_memzero(secret, sizeof(secret));
	free(message);
	return crypto_sign_BYTES;
}

/* Appends one signature; 0 when the secret is none. */
static size_t
sign_with(const char *secret, size_t len, const Signed *what, char *out, size_t size)
{
	bool		symmetric = len > 6 && memcmp(secret, "whsec_", 6) == 0;
	bool		asymmetric = len > 5 && memcmp(secret, "whsk_", 5) == 0;
	size_t		prefix = symmetric ? 6 : 5;
	const char *version = symmetric ? "v1," : "v1a,";
	unsigned char key[SECRET_BYTES_MAX];
	unsigned char signature[crypto_sign_BYTES];
	size_t		key_len;
	size_t		n = 0;

	if (!symmetric && !asymmetric)
		return 0;
	if (sodium_base642bin(key, sizeof(key), secret + prefix, len - prefix, NULL, &key_len, NULL,
						  sodium_base64_VARIANT_ORIGINAL) != 0)
		return 0;
	if (symmetric && key_len >= 16)
		n = sign_v1(what, key, key_len, signature);
	else if (asymmetric && (key_len == crypto_sign_SEEDBYTES || key_len == crypto_sign_SECRETKEYBYTES))
		n = sign_v1a(what, key, key_len, signature);
	sodium_memzero(key, sizeof(key));
	if (n == 0 || size < strlen(version) + sodium_base64_ENCODED_LEN(n, sodium_base64_VARIANT_ORIGINAL))
		return 0;
	strcpy(out, version);
	sodium_bin2base64(out + strlen(version), size - strlen(version), signature, n, sodium_base64_VARIANT_ORIGINAL);
	return strlen(out);
}

bool
orion_webhook_sign(const char *secrets, size_t secrets_len, const char *id, long long timestamp,
				   const char *body, size_t body_len, char *out, size_t size)
{
	Signed		what = {.body = body,.body_len = body_len};
	const char *end = secrets + secrets_len;
	size_t		n = 0;
	int			count = 0;

	what.head_len = (size_t) snprintf(what.head, sizeof(what.head), "%s.%lld.", id, timestamp);
	if (*id == '\0' || strchr(id, '.') || what.head_len >= sizeof(what.head))
		return false;
	while (secrets < end)
	{
		const char *space = memchr(secrets, ' ', end - secrets);
		size_t		len = (size_t) ((space ? space : end) - secrets);
		size_t		written;

		if (count++ == ORION_WEBHOOK_SECRETS_MAX || n + 1 >= size)
			return false;
		if (n > 0)
			out[n++] = ' ';
		written = sign_with(secrets, len, &what, out + n, size - n);
		if (written == 0)
			return false;
		n += written;
		secrets += len + (space ? 1 : 0);
	}
	return n > 0;
}

/* Length of the well-formed character there (RFC 3629), 0 when there is none. */
static size_t
character(const unsigned char *s, size_t len)
{
	unsigned	low = 0x80;
	unsigned	high = 0xbf;
	size_t		n;

	if (s[0] < 0x80)
		return 1;
	if (s[0] < 0xc2 || s[0] > 0xf4)
		return 0;
	n = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
	if (len < n)
		return 0;
	if (s[0] == 0xe0)
		low = 0xa0;
	else if (s[0] == 0xed)
		high = 0x9f;
	else if (s[0] == 0xf0)
		low = 0x90;
	else if (s[0] == 0xf4)
		high = 0x8f;
	if (s[1] < low || s[1] > high)
		return 0;
	for (size_t i = 2; i < n; i++)
	{
		if (s[i] < 0x80 || s[i] > 0xbf)
			return 0;
	}
	return n;
}

size_t
orion_webhook_clean(const char *bytes, size_t len, char *out, size_t size)
{
	size_t		n = 0;
	size_t		at = 0;

	while (at < len)
	{
		const unsigned char *s = (const unsigned char *) bytes + at;
		size_t		width = character(s, len - at);
		bool		good = width > 1 || (width == 1 && ((s[0] >= 0x20 && s[0] != 0x7f) || s[0] == '\t' || s[0] == '\n'));
		const char *source = good ? (const char *) s : "\xef\xbf\xbd";
		size_t		take = good ? width : 3;

		at += width > 0 ? width : 1;
		if (!good && width == 1 && s[0] == '\r')
			continue;
		if (n + take + 1 > size)
			break;
		memcpy(out + n, source, take);
		n += take;
	}
	out[n] = '\0';
	return n;
}
