/*
 * addresses.c
 *	  How many connections each address has, at all gateways of a server together.
 *
 * Each gateway counts its own in a file that all of them map, and reads the
 * others'.  Only its owner writes to a file, so there is no lock: a reader may miss
 * a connection that is opened or closed at this very moment.  What one that was
 * killed counted is forgotten when its successor starts.  An address is looked for in one
 * bucket; should that be full of others, it is not counted.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/gateway.h"

#define BUCKETS		32768		/* for 100,000 addresses */
#define PLACES		8
#define FILE_SIZE	(BUCKETS * PLACES * sizeof(Place))
#define RETRY_MS	1000		/* to read the file of one that had none */

typedef struct Place
{
	GatewayAddress address;
	uint32_t	n;
} Place;

static Place *tables[ORION_GATEWAY_MAX_PROCESSES];
static int64_t tried[ORION_GATEWAY_MAX_PROCESSES];

/* Where holes cannot be punched. */
static bool
empty_file(int fd)
{
	static const Place zeros[PLACES];
	bool		ok = true;

	for (int i = 0; i < BUCKETS && ok; i++)
		ok = pwrite(fd, zeros, sizeof(zeros), i * sizeof(zeros)) == sizeof(zeros);
	return ok;
}

static Place *
map_file(int process, bool own)
{
	char		path[64];
	struct stat st;
	void	   *table = MAP_FAILED;
	bool		ok;
	int			fd;

	orion_gateway_path(process, ".addresses", path, sizeof(path));
	fd = open(path, (own ? O_RDWR | O_CREAT : O_RDONLY) | O_CLOEXEC | O_NOFOLLOW, 0600);
	/* an older one is emptied, but keeps its size: others have mapped it */
	ok = fd >= 0 && (!own || ftruncate(fd, FILE_SIZE) == 0);
	if (ok && own && fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, FILE_SIZE) < 0)
		ok = empty_file(fd);
	if (ok && fstat(fd, &st) == 0 && st.st_size >= (off_t) FILE_SIZE)
		table = mmap(NULL, FILE_SIZE, own ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
	if (table == MAP_FAILED && own)
		table = mmap(NULL, FILE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (fd >= 0)
		close(fd);
	return table == MAP_FAILED ? NULL : table;
}

/* NULL when there is none. */
static Place *
table_of(int process)
{
	bool		own = process == orion_gateway.config.process;

	if (tables[process] || (tried[process] && orion_gateway.now - tried[process] < RETRY_MS))
		return tables[process];
	tried[process] = orion_gateway.now;
	tables[process] = map_file(process, own);
	return tables[process];
}

bool
orion_gateway_addresses_start(void)
{
	return table_of(orion_gateway.config.process) != NULL;
}

GatewayAddress
orion_gateway_address_of(const struct sockaddr *sa)
{
	GatewayAddress address = {{0}};

	if (sa->sa_family == AF_INET6)
	{
		const struct in6_addr *of = &((const struct sockaddr_in6 *) sa)->sin6_addr;

		/* who has one address of a network of 64 bits has them all */
		memcpy(address.bytes, of, IN6_IS_ADDR_V4MAPPED(of) ? 16 : 8);
	}
	else if (sa->sa_family == AF_INET)
	{
		address.bytes[10] = address.bytes[11] = 0xFF;
		memcpy(address.bytes + 12, &((const struct sockaddr_in *) sa)->sin_addr, 4);
	}
	return address;
}

/* Its place among the eight of its bucket; without one, a free one or NULL. */
static Place *
find(Place *table, const GatewayAddress *address)
{
	uint32_t	h = 2166136261u;
	Place	   *vacant = NULL;
	Place	   *bucket;

	for (size_t i = 0; i < sizeof(address->bytes); i++)
		h = (h ^ address->bytes[i]) * 16777619u;
	bucket = table + (h ^ h >> 15) % BUCKETS * PLACES;
	for (int i = 0; i < PLACES; i++)
	{
		if (bucket[i].n == 0)
			vacant = &bucket[i];
		else if (memcmp(&bucket[i].address, address, sizeof(*address)) == 0)
			return &bucket[i];
	}
	return vacant;
}

uint32_t
orion_gateway_addresses_enter(const GatewayAddress *address)
{
	Place	   *place = find(tables[orion_gateway.config.process], address);
	uint32_t	n = 0;

	if (place && place->n == 0)
		place->address = *address;
	if (place)
		__atomic_store_n(&place->n, place->n + 1, __ATOMIC_SEQ_CST);
	for (int i = 0; i < orion_gateway.config.processes; i++)
	{
		Place	   *table = table_of(i);

		place = table ? find(table, address) : NULL;
		n += place ? place->n : 0;
	}
	return n;
}

void
orion_gateway_addresses_leave(const GatewayAddress *address)
{
	Place	   *place = find(tables[orion_gateway.config.process], address);

	if (place && place->n > 0)
		place->n--;
}
