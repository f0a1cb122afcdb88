/*
 * key.c
 *	  Keeps the signing keys of the database in the process, and makes new ones.
 *
 * Runs in any backend.  The table is read directly, not by SQL: whoever verifies
 * a token has no right on it.  A statement trigger on the table sends a relcache
 * invalidation, which reaches every process with the commit that changed a key
 * (also on standbys), so a retired key stops at the next look.  The callback only
 * marks: nothing in use is freed under a caller.  No locks but the table's.
 */
#include "postgres.h"

#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "core/compat.h"
#include "core/error.h"
#include "core/storage.h"
#include "seal/seal.h"
#include "token/key.h"

#define HMAC_KEY_LEN	32		/* RFC 7518 3.2: at least the size of the hash */
#define RSA_BITS		2048	/* RFC 7518 3.3: at least this */

/* attribute numbers of signing_keys, in the order of token.sql */
#define ATTR_KID		1
#define ATTR_ALG		2
#define ATTR_SECRET		3
#define ATTR_PUBLIC_KEY 4
#define ATTR_STATUS		5

static MemoryContext keys_context = NULL;
static List *keys = NIL;		/* of OrionKey, in keys_context */
static Oid	keys_relid = InvalidOid;
static bool keys_valid = false;
static uint64 invalidations = 0;

PG_FUNCTION_INFO_V1(orion_key_generate);
PG_FUNCTION_INFO_V1(orion_key_seal);
PG_FUNCTION_INFO_V1(orion_signing_keys_changed);

static void
relation_invalidated(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == keys_relid)
	{
		keys_valid = false;
		invalidations++;
	}
}

static char *
key_context(const char *kid)
{
	return psprintf("signing_key:%s", kid);
}

static void
forget_keys(void)
{
	ListCell   *lc;

	foreach(lc, keys)
	{
		OrionKey   *key = lfirst(lc);

		if (key->secret)
			explicit_bzero(VARDATA(key->secret), VARSIZE(key->secret) - VARHDRSZ);
		orion_signature_close(key->open_private);	/* which wipes it */
		orion_signature_close(key->open_public);
	}
	keys = NIL;
	if (keys_context)
		MemoryContextReset(keys_context);
	else
	{
		keys_context = AllocSetContextCreate(TopMemoryContext, "orion signing keys", ALLOCSET_SMALL_SIZES);
		CacheRegisterRelcacheCallback(relation_invalidated, (Datum) 0);
	}
}

static char *
text_or_null(HeapTuple tuple, int attribute, TupleDesc desc)
{
	bool		isnull;
	Datum		value = heap_getattr(tuple, attribute, desc, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

/* Appends the row's key to the list, unless it is retired. */
static void
remember_key(HeapTuple tuple, TupleDesc desc)
{
	char	   *status = text_or_null(tuple, ATTR_STATUS, desc);
	OrionKey   *key;
	bool		isnull;
	Datum		sealed;

	if (strcmp(status, "retired") == 0)
		return;
	key = palloc0(sizeof(OrionKey));
	key->kid = text_or_null(tuple, ATTR_KID, desc);
	key->alg = text_or_null(tuple, ATTR_ALG, desc);
	key->public_key = text_or_null(tuple, ATTR_PUBLIC_KEY, desc);
	key->active = strcmp(status, "active") == 0;
	sealed = heap_getattr(tuple, ATTR_SECRET, desc, &isnull);
	if (!isnull)
		key->sealed = DatumGetByteaPCopy(sealed);
	keys = lappend(keys, key);
}

bool
orion_keys_refresh(void)
{
	Relation	table;
	SysScanDesc scan;
	HeapTuple	tuple;
	MemoryContext caller;
	uint64		before;

	AcceptInvalidationMessages();
	if (keys_valid)
		return false;

	forget_keys();
	keys_relid = orion_storage_table("signing_keys");
	table = table_open(keys_relid, AccessShareLock);
	before = invalidations;
	caller = MemoryContextSwitchTo(keys_context);
	/* no snapshot given: what is committed now, also in REPEATABLE READ */
	scan = systable_beginscan(table, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		remember_key(tuple, RelationGetDescr(table));
	systable_endscan(scan);
	MemoryContextSwitchTo(caller);
	table_close(table, AccessShareLock);
	keys_valid = invalidations == before;	/* else the next look reads again */
	return true;
}

const OrionKey *
orion_key_find(const char *kid)
{
	ListCell   *lc;

	foreach(lc, keys)
	{
		const OrionKey *key = lfirst(lc);

		if (strcmp(key->kid, kid) == 0)
			return key;
	}
	return NULL;
}

const OrionKey *
orion_key_active(void)
{
	ListCell   *lc;

	foreach(lc, keys)
	{
		const OrionKey *key = lfirst(lc);

		if (key->active)
			return key;
	}
	return NULL;
}

const bytea *
orion_key_secret(const OrionKey *key)
{
	OrionKey   *own = unconstify(OrionKey *, key);

	if (!own->secret && own->sealed)
	{
		char	   *context = key_context(key->kid);
		MemoryContext caller = MemoryContextSwitchTo(keys_context);

		own->secret = orion_unseal(own->sealed, context);
		MemoryContextSwitchTo(caller);
	}
	return own->secret;
}

OrionOpenKey *
orion_key_private(const OrionKey *key)
{
	OrionKey   *own = unconstify(OrionKey *, key);
	const bytea *pem = own->open_private ? NULL : orion_key_secret(key);

	if (pem)
		own->open_private = orion_signature_open(key->alg, VARDATA_ANY(pem), VARSIZE_ANY_EXHDR(pem), true);
	return own->open_private;
}

OrionOpenKey *
orion_key_public(const OrionKey *key)
{
	OrionKey   *own = unconstify(OrionKey *, key);

	if (!own->open_public && key->public_key)
		own->open_public = orion_signature_open(key->alg, key->public_key, strlen(key->public_key), false);
	return own->open_public;
}

/*
 * Statement trigger of signing_keys: tells every process at commit.
 */
Datum
orion_signing_keys_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("orion_signing_keys_changed must be called as a trigger")));
	CacheInvalidateRelcache(((TriggerData *) fcinfo->context)->tg_relation);
	PG_RETURN_POINTER(NULL);
}

static text *
pem_text(BIO *bio)
{
	char	   *data;
	long		len = BIO_get_mem_data(bio, &data);

	return cstring_to_text_with_len(data, len);
}

/* Writes both PEMs; false when OpenSSL cannot. */
static bool
write_pems(EVP_PKEY *pkey, BIO *private, BIO *public)
{
	return pkey && private && public &&
		PEM_write_bio_PKCS8PrivateKey(private, pkey, NULL, NULL, 0, NULL, NULL) == 1 &&
		PEM_write_bio_PUBKEY(public, pkey) == 1;
}

/* A key pair, which it frees: *public_key as PEM; returns the sealed private key. */
static bytea *
seal_pair(EVP_PKEY *pkey, const char *context, text **public_key)
{
	BIO		   *private = BIO_new(BIO_s_mem());
	BIO		   *public = BIO_new(BIO_s_mem());
	bytea	   *volatile sealed = NULL;

	PG_TRY();
	{
		char	   *data;
		long		len;

		if (!write_pems(pkey, private, public))
			ereport(ERROR,
					(errcode(ERRCODE_ORION_UNAVAILABLE),
					 errmsg("OpenSSL could not make a signing key")));
		len = BIO_get_mem_data(private, &data);
		sealed = orion_seal(data, len, context);
		explicit_bzero(data, len);
		*public_key = pem_text(public);
	}
	PG_FINALLY();
	{
		BIO_free(private);
		BIO_free(public);
		EVP_PKEY_free(pkey);
	}
	PG_END_TRY();
	return sealed;
}

static bytea *
generate_hmac(const char *context)
{
	unsigned char secret[HMAC_KEY_LEN];
	bytea	   *sealed;

	if (!pg_strong_random(secret, sizeof(secret)))
		ereport(ERROR, (errmsg("could not draw random bytes for a signing key")));
	sealed = orion_seal(secret, sizeof(secret), context);
	explicit_bzero(secret, sizeof(secret));
	return sealed;
}

static void
refuse_algorithm(const char *alg)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("algorithm \"%s\" is not supported", alg),
			 errhint("Use HS256, RS256 or ES256.")));
}

static Datum
key_row(FunctionCallInfo fcinfo, bytea *sealed, text *public_key)
{
	TupleDesc	desc;
	Datum		values[2] = {PointerGetDatum(sealed), PointerGetDatum(public_key)};
	bool		nulls[2] = {false, public_key == NULL};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

/*
 * orion_private.key_generate(kid text, alg text, OUT secret bytea, OUT public_key text)
 *
 * A new key, its secret sealed for the row with this kid.
 */
Datum
orion_key_generate(PG_FUNCTION_ARGS)
{
	char	   *context = key_context(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	char	   *alg = text_to_cstring(PG_GETARG_TEXT_PP(1));
	text	   *public_key = NULL;
	bytea	   *sealed = NULL;

	if (strcmp(alg, "HS256") == 0)
		sealed = generate_hmac(context);
	else if (strcmp(alg, "RS256") == 0)
		sealed = seal_pair(EVP_RSA_gen(RSA_BITS), context, &public_key);
	else if (strcmp(alg, "ES256") == 0)
		sealed = seal_pair(EVP_EC_gen("P-256"), context, &public_key);
	else
		refuse_algorithm(alg);
	PG_RETURN_DATUM(key_row(fcinfo, sealed, public_key));
}

/*
 * orion_private.key_seal(kid text, alg text, key bytea, OUT secret bytea, OUT public_key text)
 *
 * The same for a key that was made elsewhere.
 */
Datum
orion_key_seal(PG_FUNCTION_ARGS)
{
	char	   *context = key_context(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	char	   *alg = text_to_cstring(PG_GETARG_TEXT_PP(1));
	bytea	   *given = PG_GETARG_BYTEA_PP(2);
	text	   *public_key = NULL;
	bytea	   *sealed;

	if (strcmp(alg, "HS256") == 0)
	{
		if (VARSIZE_ANY_EXHDR(given) < HMAC_KEY_LEN)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("a key for HS256 has at least %d bytes", HMAC_KEY_LEN)));
		sealed = orion_seal(VARDATA_ANY(given), VARSIZE_ANY_EXHDR(given), context);
	}
	else
	{
		OrionOpenKey *pair;

		if (strcmp(alg, "RS256") != 0 && strcmp(alg, "ES256") != 0)
			refuse_algorithm(alg);
		pair = orion_signature_open(alg, VARDATA_ANY(given), VARSIZE_ANY_EXHDR(given), true);
		if (!pair)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("this is not a private key for %s", alg),
					 errhint("Give it as PEM without a passphrase: for RS256 an RSA key of 2048 bits or more, for ES256 one of the curve P-256.")));
		sealed = seal_pair(pair, context, &public_key);
	}
	PG_RETURN_DATUM(key_row(fcinfo, sealed, public_key));
}
