/*
 * memory.c
 *	  Gives back the memory of connections that are idle.
 *
 * libmicrohttpd keeps a pool for each connection, as large as the largest headers,
 * and fills it with zeros after each request, so that all its pages stay: 32 kB for
 * every client that keeps its connection.  A pool of more than MAPPED it maps
 * (0.9.75 and 1.0.1 were read), and finds the functions below: the
 * dynamic linker prefers a program's functions to those of its libraries.  They
 * give it places in one mapping, the shelf, reserved for as many pools as there may be connections.
 *
 * Pages of zeros can be given back at any time and whatever the library does
 * with them, for they read as zeros afterwards.  Without a shelf, or
 * when it is full, pools are mapped as the library asked.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "gateway/gateway.h"

#define MAPPED		(32 * 1024)
#define KEEP_WARM	64			/* free places whose pages are kept */

typedef struct Shelf
{
	char	   *base;
	size_t		len;			/* of a place */
	int			n;				/* places */
	int			fresh;			/* places never taken, at the end */
	int			warm[KEEP_WARM];	/* free places with their pages */
	int			nwarm;
	int		   *cold;			/* and without */
	int			ncold;
	int			used;
	bool		retired;
	struct Shelf *next;
} Shelf;

static void *(*map) (void *, size_t, int, int, int, off_t);
static int	(*unmap) (void *, size_t);
static Shelf *shelves;			/* the first is in use; those that it replaced */
static GatewayPool last;		/* taken by the library, and not yet a
								 * connection's */

static bool
find_functions(void)
{
	map = (void *(*) (void *, size_t, int, int, int, off_t)) dlsym(RTLD_NEXT, "mmap");
	unmap = (int (*) (void *, size_t)) dlsym(RTLD_NEXT, "munmap");
	return map && unmap;
}

static void *
take_place(Shelf *shelf)
{
	int			place;

	if (shelf->nwarm > 0)
		place = shelf->warm[--shelf->nwarm];
	else if (shelf->ncold > 0)
		place = shelf->cold[--shelf->ncold];
	else if (shelf->fresh > 0)
		place = shelf->n - shelf->fresh--;
	else
		return NULL;
	shelf->used++;
	return shelf->base + place * shelf->len;
}

static void
drop_shelf(Shelf *shelf)
{
	Shelf	  **link = &shelves;

	while (*link != shelf)
		link = &(*link)->next;
	*link = shelf->next;
	unmap(shelf->base, shelf->len * shelf->n);
	free(shelf->cold);
	free(shelf);
}

static void
put_back(Shelf *shelf, char *base)
{
	int			place = (base - shelf->base) / shelf->len;

	if (shelf->nwarm < KEEP_WARM)
		shelf->warm[shelf->nwarm++] = place;
	else
	{
		madvise(base, shelf->len, MADV_DONTNEED);
		shelf->cold[shelf->ncold++] = place;
	}
	if (--shelf->used == 0 && shelf->retired)
		drop_shelf(shelf);
}

void *
mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
	bool		is_pool = flags == (MAP_PRIVATE | MAP_ANONYMOUS) && prot == (PROT_READ | PROT_WRITE);
	void	   *result = NULL;

	if (map == NULL && !find_functions())
		return MAP_FAILED;
	if (is_pool && shelves && !shelves->retired && len == shelves->len)
		result = take_place(shelves);
	if (result == NULL)
		result = map(addr, len, prot, flags, fd, offset);
	if (is_pool && result != MAP_FAILED)
		last = (GatewayPool)
	{
		result, len
	};
	return result;
}

int
munmap(void *addr, size_t len)
{
	if (unmap == NULL && !find_functions())
		return -1;
	if (addr == last.base)
		(void) orion_gateway_memory_take();
	for (Shelf *shelf = shelves; shelf; shelf = shelf->next)
	{
		if ((char *) addr < shelf->base || (char *) addr >= shelf->base + shelf->len * shelf->n)
			continue;
		put_back(shelf, addr);
		return 0;
	}
	return unmap(addr, len);
}

size_t
orion_gateway_memory_shelve(size_t wanted, int n)
{
	size_t		page = sysconf(_SC_PAGESIZE);
	size_t		len = wanted > MAPPED ? wanted : MAPPED + 1;
	Shelf	   *shelf;
	int		   *cold;
	char	   *base;

	if (!find_functions())
		return len;
	len = (len + page - 1) / page * page;
	if (shelves && !shelves->retired && shelves->len == len && shelves->n == n)
		return len;
	if (shelves)
		shelves->retired = true;
	if (shelves && shelves->used == 0)
		drop_shelf(shelves);
	shelf = calloc(1, sizeof(*shelf));
	cold = calloc(n, sizeof(int));
	base = map(NULL, len * n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (shelf == NULL || cold == NULL || base == MAP_FAILED)
	{
		if (base != MAP_FAILED)
			unmap(base, len * n);
		free(cold);
		free(shelf);
		return len;
	}
	*shelf = (Shelf)
	{
		.base = base,.len = len,.n = n,.fresh = n,.cold = cold,.next = shelves
	};
	madvise(base, len * n, MADV_NOHUGEPAGE);	/* a huge one is hardly ever
												 * all zeros */
	shelves = shelf;
	return len;
}

GatewayPool
orion_gateway_memory_take(void)
{
	GatewayPool pool = last;

	last = (GatewayPool)
	{
		NULL, 0
	};
	return pool;
}

static bool
is_zero(const char *page, size_t size)
{
	return page[0] == 0 && memcmp(page, page + 1, size - 1) == 0;
}

void
orion_gateway_memory_trim(GatewayPool pool)
{
	size_t		page = sysconf(_SC_PAGESIZE);
	size_t		to;

	for (size_t from = 0; from < pool.len; from = to + page)
	{
		for (to = from; to < pool.len && is_zero(pool.base + to, page);)
			to += page;
		if (to > from)
			madvise(pool.base + from, to - from, MADV_DONTNEED);
	}
}
