/*
 * seal.c
 *	  Seals and opens secrets with the master key (libsodium AEAD).
 *
 * The key is read once in the postmaster and inherited by fork; it is never in
 * shared memory, never in a table and never in a setting.  No locks.  Fails with
 * ERRCODE_ORION_UNAVAILABLE when there is no key (only during pg_upgrade), with
 * ERRCODE_ORION_SEAL_BROKEN when a value was sealed with another key, for another
 * place, or was altered.
 */
#include "postgres.h"

#include <sodium.h>

#include "miscadmin.h"
#include "utils/guc.h"

#include "core/compat.h"
#include "core/error.h"
#include "seal/key_file.h"
#include "seal/seal.h"

#define SEAL_VERSION	1
#define KEY_ID_LEN		8
#define NONCE_LEN		crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
#define TAG_LEN			crypto_aead_xchacha20poly1305_ietf_ABYTES
#define HEAD_LEN		(1 + KEY_ID_LEN + NONCE_LEN)

static char *master_key_file = NULL;
static bool have_key = false;
static unsigned char master_key[ORION_MASTER_KEY_LEN];
static unsigned char key_id[KEY_ID_LEN];	/* first bytes of BLAKE2b of the
											 * key */

static void
set_key_id(void)
{
	unsigned char digest[crypto_generichash_BYTES];

	crypto_generichash(digest, sizeof(digest), master_key, sizeof(master_key), NULL, 0);
	memcpy(key_id, digest, KEY_ID_LEN);
}

static void
require_key(void)
{
	if (!have_key)
		ereport(ERROR,
				(errcode(ERRCODE_ORION_UNAVAILABLE),
				 errmsg("there is no master key"),
				 errhint("Check the setting orion.master_key_file and restart the server.")));
}

bytea *
orion_seal(const void *secret, size_t len, const char *context)
{
	size_t		size = VARHDRSZ + HEAD_LEN + len + TAG_LEN;
	bytea	   *sealed;
	unsigned char *out;
	unsigned long long written;

	require_key();
	sealed = palloc(size);
	SET_VARSIZE(sealed, size);
	out = (unsigned char *) VARDATA(sealed);
	out[0] = SEAL_VERSION;
	memcpy(out + 1, key_id, KEY_ID_LEN);
	randombytes_buf(out + 1 + KEY_ID_LEN, NONCE_LEN);
	crypto_aead_xchacha20poly1305_ietf_encrypt(out + HEAD_LEN, &written, secret, len,
											   (const unsigned char *) context, strlen(context),
											   NULL, out + 1 + KEY_ID_LEN, master_key);
	Assert(written == len + TAG_LEN);
	return sealed;
}

static void seal_broken(const char *detail) pg_attribute_noreturn();

static void
seal_broken(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_ORION_SEAL_BROKEN),
			 errmsg("sealed value does not open"),
			 errdetail_internal("%s", detail),
			 errhint("Restore the master key file (orion.master_key_file) that belongs to these data and restart the server.")));
}

bytea *
orion_unseal(const bytea *sealed, const char *context)
{
	const unsigned char *in = (const unsigned char *) VARDATA_ANY(sealed);
	size_t		len = VARSIZE_ANY_EXHDR(sealed);
	bytea	   *secret;
	unsigned long long written;

	require_key();
	if (len < HEAD_LEN + TAG_LEN || in[0] != SEAL_VERSION)
		seal_broken("The value has not the form of a sealed secret.");
	if (memcmp(in + 1, key_id, KEY_ID_LEN) != 0)
		seal_broken("The value was sealed with another master key.");

	secret = palloc(VARHDRSZ + len - HEAD_LEN - TAG_LEN);
	SET_VARSIZE(secret, VARHDRSZ + len - HEAD_LEN - TAG_LEN);
	if (crypto_aead_xchacha20poly1305_ietf_decrypt((unsigned char *) VARDATA(secret), &written, NULL,
												   in + HEAD_LEN, len - HEAD_LEN,
												   (const unsigned char *) context, strlen(context),
												   in + 1 + KEY_ID_LEN, master_key) != 0)
		seal_broken("The value was altered, or belongs to another row.");
	return secret;
}

void
orion_seal_mac(const void *data, size_t len, const char *context, unsigned char *mac)
{
	unsigned char key[crypto_generichash_KEYBYTES];

	require_key();
	crypto_generichash(key, sizeof(key), (const unsigned char *) context, strlen(context),
					   master_key, sizeof(master_key));
	crypto_generichash(mac, ORION_SEAL_MAC_LEN, data, len, key, sizeof(key));
	explicit_bzero(key, sizeof(key));
}

void
orion_seal_init(void)
{
	DefineCustomStringVariable("orion.master_key_file",
							   "File with the 32-byte key that seals secrets in tables.",
							   "A relative path starts at the data directory. Created at the first start.",
							   &master_key_file, "orion_master.key",
							   PGC_POSTMASTER, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);

	if (sodium_init() < 0)
		ereport(FATAL,
				(errcode(ERRCODE_ORION_UNAVAILABLE),
				 errmsg("could not initialize libsodium")));
	have_key = orion_key_file_read(master_key_file, master_key);
	if (have_key)
		set_key_id();
}
