/*
 * password.c
 *	  Hashes and verifies passwords: Argon2id (RFC 9106) in the PHC string format
 *	  through libsodium, and bcrypt of imported users through libcrypt.
 *
 * Runs in any backend, allocates orion.auth_password_memory outside of memory
 * contexts for the time of one hash (all together orion.auth_hash_memory_limit), and
 * cannot be cancelled meanwhile.  A stored hash may come from elsewhere: what its parameters would
 * cost is checked before any work is done.
 */
#include "postgres.h"

#include <crypt.h>
#include <sodium.h>

#include "access/htup_details.h"
#include "access/xact.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "auth/auth.h"
#include "auth/throttle.h"
#include "core/compat.h"

#define PASSWORD_MAX_BYTES	1024	/* far above any passphrase; bounds the
									 * work */
#define PHC_MAX_LEN			256 /* salt and hash of more than 64 bytes serve
								 * nobody */

/* Bounds of stored Argon2id hashes: a second or two on current machines. */
#define ARGON2_MAX_MEMORY	1048576 /* kB */
#define ARGON2_MAX_TIME		20
#define ARGON2_MAX_LANES	16

#define BCRYPT_LEN			60
#define BCRYPT_MAX_COST		15	/* about 2 s */

/* attribute numbers of users, in the order of auth.sql */
#define USER_PASSWORD_HASH	3
#define USER_BANNED_UNTIL	11

/* Length of salt and hash that libsodium writes, in base64 without padding. */
#define DECOY_SALT_LEN		16
#define DECOY_HASH_LEN		32

typedef struct Argon2Costs
{
	unsigned long memory;		/* kB */
	unsigned long time;
	unsigned long lanes;
} Argon2Costs;

PG_FUNCTION_INFO_V1(orion_hash_password);
PG_FUNCTION_INFO_V1(orion_verify_password);
PG_FUNCTION_INFO_V1(orion_password_stale);
PG_FUNCTION_INFO_V1(orion_password_status);

/* The password in UTF-8, whatever the encoding of the database. */
static char *
password_bytes(text *password)
{
	char	   *bytes = text_to_cstring(password);

	return pg_server_to_any(bytes, strlen(bytes), PG_UTF8);
}

/* Reads "<name>=<number>" and the separator behind it. */
static bool
read_cost(const char **at, const char *name, char separator, unsigned long *cost)
{
	char	   *end;

	if (strncmp(*at, name, strlen(name)) != 0)
		return false;
	*at += strlen(name);
	if (!isdigit((unsigned char) **at))
		return false;
	errno = 0;
	*cost = strtoul(*at, &end, 10);
	if (errno != 0 || *end != separator)
		return false;
	*at = end + 1;
	return true;
}

/* "$argon2id$v=19$m=19456,t=2,p=1$salt$hash": version 1.3 and nothing else. */
static bool
read_argon2(const char *hash, Argon2Costs *costs)
{
	const char *prefix = "$argon2id$v=19$";
	const char *at = hash + strlen(prefix);

	return strlen(hash) <= PHC_MAX_LEN &&
		strncmp(hash, prefix, strlen(prefix)) == 0 &&
		read_cost(&at, "m=", ',', &costs->memory) &&
		read_cost(&at, "t=", ',', &costs->time) &&
		read_cost(&at, "p=", '$', &costs->lanes);
}

static bool
verify_argon2(const char *password, const char *hash)
{
	Argon2Costs costs;
	bool		right;
	int			problem;

	if (!read_argon2(hash, &costs) || costs.memory > ARGON2_MAX_MEMORY ||
		costs.time > ARGON2_MAX_TIME || costs.lanes > ARGON2_MAX_LANES)
		return false;
	orion_hash_memory_acquire((int) costs.memory);
	errno = 0;
	right = crypto_pwhash_str_verify(hash, password, strlen(password)) == 0;
	problem = errno;
	orion_hash_memory_release((int) costs.memory);
	if (!right && problem == ENOMEM)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory"),
				 errdetail("Hashing a password needs %lu kB.", costs.memory)));
	return right;
}

/* "$2b$12$" and 53 characters; $2a$ and $2y$ too. */
static bool
is_bcrypt(const char *hash)
{
	int			cost;

	if (strlen(hash) != BCRYPT_LEN || strncmp(hash, "$2", 2) != 0 ||
		!strchr("aby", hash[2]) || hash[3] != '$' || hash[6] != '$' ||
		!isdigit((unsigned char) hash[4]) || !isdigit((unsigned char) hash[5]))
		return false;
	cost = (hash[4] - '0') * 10 + hash[5] - '0';
	return cost >= 4 && cost <= BCRYPT_MAX_COST;
}

static bool
verify_bcrypt(const char *password, const char *hash)
{
	struct crypt_data *work = palloc0(sizeof(struct crypt_data));
	char	   *computed = crypt_r(password, hash, work);
	bool		same;

	same = computed && strlen(computed) == BCRYPT_LEN && sodium_memcmp(computed, hash, BCRYPT_LEN) == 0;
	explicit_bzero(work, sizeof(struct crypt_data));
	pfree(work);
	return same;
}

Datum
orion_hash_password(PG_FUNCTION_ARGS)
{
	char	   *password = password_bytes(PG_GETARG_TEXT_PP(0));
	char		hash[crypto_pwhash_STRBYTES];
	int			memory = orion_auth_password_memory;
	int			result;

	if (strlen(password) > PASSWORD_MAX_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("password is longer than %d bytes", PASSWORD_MAX_BYTES)));
	orion_hash_memory_acquire(memory);
	result = crypto_pwhash_str_alg(hash, password, strlen(password), orion_auth_password_time,
								   (size_t) memory * 1024,
								   crypto_pwhash_ALG_ARGON2ID13);
	orion_hash_memory_release(memory);
	explicit_bzero(password, strlen(password));
	if (result != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory"),
				 errdetail("Hashing a password needs %d kB.", orion_auth_password_memory)));
	PG_RETURN_TEXT_P(cstring_to_text(hash));
}

/*
 * False also for hashes of a kind or cost that is not accepted: the caller can do
 * nothing else about them, and a login must not fail in another way.
 */
static bool
verify(text *given, const char *hash)
{
	char	   *password = password_bytes(given);
	bool		right = false;

	if (strlen(password) <= PASSWORD_MAX_BYTES)
		right = is_bcrypt(hash) ? verify_bcrypt(password, hash) : verify_argon2(password, hash);
	explicit_bzero(password, strlen(password));
	return right;
}

Datum
orion_verify_password(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(verify(PG_GETARG_TEXT_PP(0), text_to_cstring(PG_GETARG_TEXT_PP(1))));
}

/* Whether a hash has other parameters than a new one would get. */
Datum
orion_password_stale(PG_FUNCTION_ARGS)
{
	char	   *hash = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Argon2Costs costs;

	PG_RETURN_BOOL(!read_argon2(hash, &costs) ||
				   costs.memory != orion_auth_password_memory ||
				   costs.time != orion_auth_password_time || costs.lanes != 1);
}

/*
 * A hash no password has, with the parameters of new ones: verifying against it
 * costs an unknown user as much as a known one.
 */
static char *
decoy(void)
{
	unsigned char random[DECOY_SALT_LEN + DECOY_HASH_LEN];
	char		salt[sodium_base64_ENCODED_LEN(DECOY_SALT_LEN, sodium_base64_VARIANT_ORIGINAL_NO_PADDING)];
	char		hash[sodium_base64_ENCODED_LEN(DECOY_HASH_LEN, sodium_base64_VARIANT_ORIGINAL_NO_PADDING)];

	randombytes_buf(random, sizeof(random));
	sodium_bin2base64(salt, sizeof(salt), random, DECOY_SALT_LEN, sodium_base64_VARIANT_ORIGINAL_NO_PADDING);
	sodium_bin2base64(hash, sizeof(hash), random + DECOY_SALT_LEN, DECOY_HASH_LEN, sodium_base64_VARIANT_ORIGINAL_NO_PADDING);
	return psprintf("$argon2id$v=19$m=%d,t=%d,p=1$%s$%s",
					orion_auth_password_memory, orion_auth_password_time, salt, hash);
}

/* Of a row of users, which may be all nulls. */
static Datum
user_column(HeapTupleHeader row, AttrNumber column, bool *isnull)
{
	HeapTupleData tuple = {.t_len = HeapTupleHeaderGetDatumLength(row),.t_data = row};
	TupleDesc	desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(row), HeapTupleHeaderGetTypMod(row));
	Datum		value = heap_getattr(&tuple, column, desc, isnull);

	ReleaseTupleDesc(desc);
	return value;
}

/*
 * orion_private.password_status(u users, password text): ok, invalid_credentials, or
 * banned, which only who knows the password is told.  Unknown users and those without
 * a password cost one hash as well.
 */
Datum
orion_password_status(PG_FUNCTION_ARGS)
{
	HeapTupleHeader user = PG_ARGISNULL(0) ? NULL : PG_GETARG_HEAPTUPLEHEADER(0);
	text	   *password = PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1);
	bool		usable = password && VARSIZE_ANY_EXHDR(password) <= PASSWORD_MAX_BYTES;
	bool		no_hash = true;
	bool		never = true;
	Datum		hash = (Datum) 0;
	TimestampTz banned_until = 0;
	bool		right;

	if (user)
	{
		hash = user_column(user, USER_PASSWORD_HASH, &no_hash);
		banned_until = DatumGetTimestampTz(user_column(user, USER_BANNED_UNTIL, &never));
	}
	right = verify(usable ? password : cstring_to_text(""), no_hash ? decoy() : TextDatumGetCString(hash));
	if (!right || no_hash || !usable)
		PG_RETURN_TEXT_P(cstring_to_text("invalid_credentials"));
	if (!never && banned_until > GetCurrentTransactionStartTimestamp())
		PG_RETURN_TEXT_P(cstring_to_text("banned"));
	PG_RETURN_TEXT_P(cstring_to_text("ok"));
}
