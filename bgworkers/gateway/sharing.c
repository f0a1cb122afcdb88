/*
 * sharing.c
 *	  Which of the gateways of a server listens where.
 *
 * With SO_REUSEPORT the kernel lets all sockets of one user share a port, also those
 * of another server that got the same port by mistake, whose clients would then be
 * ours now and then.  So the first gateway on a port binds it alone, and others join
 * only where one of the same server listens.  Each writes its addresses to a file,
 * which it holds locked as long as it lives: what a dead one wrote counts for nothing.
 * Opening addresses is done by one gateway at a time.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/gateway.h"

#define WAIT_MS		2000		/* for a gateway that opens addresses */
#define STEP_MS		10

/* An address in the file. */
typedef struct Entry
{
	struct sockaddr_storage addr;
	socklen_t	len;
	bool		tls;
} Entry;

static int	file = -1;			/* this gateway's, locked */

/* Should another one have hung up meanwhile, the kernel still refuses what cannot be. */
static int
take_turn(void)
{
	int			fd = open(ORION_GATEWAY_DIRECTORY, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	for (int waited = 0; fd >= 0 && waited < WAIT_MS && flock(fd, LOCK_EX | LOCK_NB) < 0; waited += STEP_MS)
		usleep(STEP_MS * 1000);
	return fd;
}

static bool
open_own(int process)
{
	char		path[64];

	if (file >= 0)
		return true;
	orion_gateway_path(process, ".listens", path, sizeof(path));
	file = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (file >= 0 && flock(file, LOCK_EX | LOCK_NB) < 0)
	{
		close(file);
		file = -1;
	}
	return file >= 0;
}

int
orion_gateway_sharing_begin(const GatewayConfig *config)
{
	(void) open_own(config->process);
	return take_turn();
}

/* Writes down where this gateway listens now. */
void
orion_gateway_sharing_end(int turn)
{
	if (file >= 0 && ftruncate(file, 0) == 0)
	{
		for (int i = 0; i < orion_gateway.nlisteners; i++)
		{
			const Listener *listener = &orion_gateway.listeners[i];
			Entry		entry = {.len = listener->len,.tls = listener->tls};

			memcpy(&entry.addr, &listener->addr, listener->len);
			if (pwrite(file, &entry, sizeof(entry), i * sizeof(entry)) != sizeof(entry))
				break;
		}
	}
	if (turn >= 0)
		close(turn);
}

static bool
file_names(int fd, const Listener *listener)
{
	Entry		entry;

	for (off_t at = 0; pread(fd, &entry, sizeof(entry), at) == sizeof(entry); at += sizeof(entry))
	{
		if (entry.tls == listener->tls && entry.len == listener->len &&
			memcmp(&entry.addr, &listener->addr, listener->len) == 0)
			return true;
	}
	return false;
}

/* Does another gateway of this server listen there? */
bool
orion_gateway_sharing_with(const GatewayConfig *config, const Listener *listener)
{
	bool		found = false;

	for (int i = 0; i < config->processes && !found; i++)
	{
		char		path[64];
		int			fd;

		orion_gateway_path(i, ".listens", path, sizeof(path));
		fd = i == config->process ? -1 : open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		if (fd < 0)
			continue;
		/* only a living one keeps it locked */
		found = flock(fd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK && file_names(fd, listener);
		close(fd);
	}
	return found;
}
