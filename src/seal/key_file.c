/*
 * key_file.c
 *	  Reads the master key file, and creates it at the first start.
 *
 * Runs in the postmaster while it loads libraries: one process, nothing shared
 * yet, the data directory is known and locked.  A file that is refused stops the
 * start with FATAL, because a server that came up without its key would answer
 * every login with an error instead.  pg_upgrade starts servers that need no
 * key: there the file is left alone.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "miscadmin.h"
#include "storage/fd.h"

#include "seal/key_file.h"

static char *
absolute_path(const char *path)
{
	return is_absolute_path(path) ? pstrdup(path) : psprintf("%s/%s", DataDir, path);
}

/* Writes beside the file and renames: a crash leaves no half key. */
static void
create_key_file(const char *path)
{
	unsigned char key[ORION_MASTER_KEY_LEN];
	char	   *temporary = psprintf("%s.tmp", path);
	int			fd;

	if (!pg_strong_random(key, sizeof(key)))
		ereport(FATAL, (errmsg("could not draw random bytes for the master key")));

	(void) unlink(temporary);
	fd = BasicOpenFilePerm(temporary, O_WRONLY | O_CREAT | O_EXCL | PG_BINARY, S_IRUSR | S_IWUSR);
	if (fd < 0)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not create master key file \"%s\": %m", temporary),
				 errhint("Check the setting orion.master_key_file and the permissions of the directory.")));
	errno = 0;
	if (write(fd, key, sizeof(key)) != sizeof(key) || pg_fsync(fd) != 0)
		ereport(FATAL,
				(errcode_for_file_access(),
				 errmsg("could not write master key file \"%s\": %m", temporary)));
	close(fd);
	explicit_bzero(key, sizeof(key));
	durable_rename(temporary, path, FATAL);
	ereport(LOG,
			(errmsg("created master key file \"%s\"", path),
			 errhint("Keep a copy apart from backups of the database: without it, sealed secrets are lost.")));
	pfree(temporary);
}

static void
check_key_file(const char *path, int fd, int elevel)
{
	struct stat st;

	if (fstat(fd, &st) != 0)
		ereport(elevel,
				(errcode_for_file_access(),
				 errmsg("could not stat master key file \"%s\": %m", path)));
	else if (!S_ISREG(st.st_mode))
		ereport(elevel,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("master key file \"%s\" is not a regular file", path)));
	else if (st.st_mode & (S_IRWXG | S_IRWXO))
		ereport(elevel,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("master key file \"%s\" has group or world access", path),
				 errdetail("Permissions are %04o.", (unsigned) (st.st_mode & 07777)),
				 errhint("Run chmod 0600 on the file, and consider whether others have read the key.")));
	else if (st.st_size != ORION_MASTER_KEY_LEN)
		ereport(elevel,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("master key file \"%s\" has %lld bytes, expected %d",
						path, (long long) st.st_size, ORION_MASTER_KEY_LEN),
				 errhint("Restore the file from its copy. If there is none, remove it: the next start makes a new key, and secrets sealed with the old one stay closed.")));
}

bool
orion_key_file_read(const char *setting, unsigned char *key)
{
	int			elevel = IsBinaryUpgrade ? LOG : FATAL;
	char	   *path = absolute_path(setting);
	int			fd;
	bool		complete;

	fd = BasicOpenFile(path, O_RDONLY | PG_BINARY);
	if (fd < 0 && errno == ENOENT && !IsBinaryUpgrade)
	{
		create_key_file(path);
		fd = BasicOpenFile(path, O_RDONLY | PG_BINARY);
	}
	if (fd < 0)
	{
		if (!(IsBinaryUpgrade && errno == ENOENT))
			ereport(elevel,
					(errcode_for_file_access(),
					 errmsg("could not open master key file \"%s\": %m", path)));
		return false;
	}
	check_key_file(path, fd, elevel);
	complete = read(fd, key, ORION_MASTER_KEY_LEN) == ORION_MASTER_KEY_LEN;
	close(fd);
	if (!complete)
		ereport(elevel,
				(errcode_for_file_access(),
				 errmsg("could not read master key file \"%s\"", path)));
	pfree(path);
	return complete;
}
