/*
 * key_file.h
 *	  The master key file: the one secret that is not in the database.
 */
#ifndef ORION_KEY_FILE_H
#define ORION_KEY_FILE_H

#define ORION_MASTER_KEY_LEN	32	/* crypto_aead_xchacha20poly1305_ietf_KEYBYTES */

/*
 * Fills key from the file, which is created with random bytes when it does not
 * exist.  A relative path starts at the data directory.  Errors are FATAL: the
 * server does not start with a key file that others can read or of another size.
 * During pg_upgrade nothing is created and nothing is fatal.  False: no key.
 */
extern bool orion_key_file_read(const char *path, unsigned char *key);

#endif							/* ORION_KEY_FILE_H */
