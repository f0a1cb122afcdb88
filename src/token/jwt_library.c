/*
 * jwt_library.c
 *	  Loads libjwt apart from everything else and signs and verifies with it.
 *
 * libjwt must not be linked: PostgreSQL exports a function json_object, and the
 * JSON library of libjwt one of the same name.  Linked, libjwt would call
 * PostgreSQL's and crash the server.  RTLD_DEEPBIND makes it look into its own
 * libraries first.  Loaded once a process, at first use; a server without the
 * library runs, and signing fails with ERRCODE_ORION_UNAVAILABLE.
 *
 * Only functions that 1.10 (soname 0) and 1.17 (soname 2) have are used, and
 * algorithms are numbered by the library itself, not by a header.
 */
#include "postgres.h"

#include <dlfcn.h>

#include "core/error.h"
#include "token/jwt_library.h"

typedef struct jwt jwt_t;

static struct
{
	int			(*new) (jwt_t **jwt);
	void		(*free) (jwt_t *jwt);
	int			(*decode) (jwt_t **jwt, const char *token, const unsigned char *key, int keylen);
	int			(*add_grants_json) (jwt_t *jwt, const char *json);
	int			(*add_header) (jwt_t *jwt, const char *header, const char *value);
	int			(*set_alg) (jwt_t *jwt, int alg, const unsigned char *key, int len);
	int			(*get_alg) (jwt_t *jwt);
	int			(*str_alg) (const char *alg);
	char	   *(*encode_str) (jwt_t *jwt);
	void		(*free_str) (char *str);	/* since 1.12; before it was
											 * free() */
}			jwt;
static bool loaded = false;

static const char *const sonames[] = {"libjwt.so.0", "libjwt.so.2", "libjwt.so.1"};

static void
load_symbol(void *library, const char *name, void *target, bool required)
{
	void	   *symbol = dlsym(library, name);

	if (!symbol && required)
		ereport(ERROR,
				(errcode(ERRCODE_ORION_UNAVAILABLE),
				 errmsg("libjwt has no function \"%s\"", name),
				 errhint("Install libjwt 1.10 to 1.17.")));
	memcpy(target, &symbol, sizeof(symbol));
}

static void
load_library(void)
{
	void	   *library = NULL;

	if (loaded)
		return;
	for (int i = 0; i < lengthof(sonames) && !library; i++)
		library = dlopen(sonames[i], RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
	if (!library)
		ereport(ERROR,
				(errcode(ERRCODE_ORION_UNAVAILABLE),
				 errmsg("could not load libjwt"),
				 errdetail("Tried libjwt.so.0, libjwt.so.2 and libjwt.so.1."),
				 errhint("Install the package libjwt0 (Debian 12) or libjwt2 (Debian 13).")));
	load_symbol(library, "jwt_new", &jwt.new, true);
	load_symbol(library, "jwt_free", &jwt.free, true);
	load_symbol(library, "jwt_decode", &jwt.decode, true);
	load_symbol(library, "jwt_add_grants_json", &jwt.add_grants_json, true);
	load_symbol(library, "jwt_add_header", &jwt.add_header, true);
	load_symbol(library, "jwt_set_alg", &jwt.set_alg, true);
	load_symbol(library, "jwt_get_alg", &jwt.get_alg, true);
	load_symbol(library, "jwt_str_alg", &jwt.str_alg, true);
	load_symbol(library, "jwt_encode_str", &jwt.encode_str, true);
	load_symbol(library, "jwt_free_str", &jwt.free_str, false);
	if (!jwt.free_str)
		jwt.free_str = (void (*) (char *)) free;
	loaded = true;
}

/* The encoded token in the library's memory, or NULL. */
static char *
encode(jwt_t *token, const char *alg, const char *kid, const char *claims,
	   const unsigned char *key, int keylen)
{
	if (jwt.add_grants_json(token, claims) != 0 ||
		jwt.add_header(token, "kid", kid) != 0 ||
		jwt.set_alg(token, jwt.str_alg(alg), key, keylen) != 0)
		return NULL;
	return jwt.encode_str(token);
}

char *
orion_jwt_library_sign(const char *alg, const char *kid, const char *claims,
					   const unsigned char *key, int keylen)
{
	jwt_t	   *token = NULL;
	char	   *encoded = NULL;
	char	   *copy = NULL;

	load_library();
	if (jwt.new(&token) != 0)
		return NULL;
	encoded = encode(token, alg, kid, claims, key, keylen);
	jwt.free(token);
	if (encoded)
	{
		/* no error between the library's malloc and its free */
		copy = MemoryContextAllocExtended(CurrentMemoryContext, strlen(encoded) + 1, MCXT_ALLOC_NO_OOM);
		if (copy)
			strcpy(copy, encoded);
		jwt.free_str(encoded);
	}
	return copy;
}

bool
orion_jwt_library_verify(const char *alg, const char *token,
						 const unsigned char *key, int keylen)
{
	jwt_t	   *decoded = NULL;
	bool		right;

	load_library();
	if (jwt.decode(&decoded, token, key, keylen) != 0)
		return false;
	right = jwt.get_alg(decoded) == jwt.str_alg(alg);
	jwt.free(decoded);
	return right;
}
