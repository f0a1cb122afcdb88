/*
 * memory.c
 *	  Gives back the memory of connections that are idle, and spares filling it with
 *	  zeros.
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
 *
 * The zeros were a twelfth of the work for a small request: half of the pool when an answer begins and
 * all of it behind it, though most requests touch little more than a page.  The library
 * needs none of them (a small pool comes from malloc), so what lies beyond the bytes received
 * and the places that a small request uses is left as it is.  Between two requests it can be
 * given back, and it is filled before a request that does not come in one piece.
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
#define MUCH		4096		/* zeros that are put off */
#define HEAD		1024		/* but not where an answer's head usually is, */
#define TAIL		2048		/* and the lists of headers and cookies */

typedef struct Place
{
	uint32_t	filled;			/* behind it nothing received lies that is
								 * still to be read */
	bool		stale;			/* but there may be what is not zero */
} Place;

typedef struct Shelf
{
	char	   *base;
	char	   *end;
	size_t		len;			/* of a place */
	int			n;				/* places */
	Place	   *places;
	int			fresh;			/* places never taken, at the end */
	int			warm[KEEP_WARM];	/* free places with their pages */
	int			nwarm;
	int		   *cold;			/* and without */
	int			ncold;
	int			used;
	bool		retired;
	struct Shelf *next;
} Shelf;

/* memset by a name that is not taken here, nor known to the compiler */
extern void *fill(void *, int, size_t, size_t) __asm__("__memset_chk");

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
	shelf->places[place].filled = 0;
	return shelf->base + place * shelf->len;
}

static void
drop_shelf(Shelf *shelf)
{
	Shelf	  **link = &shelves;

	while (*link != shelf)
		link = &(*link)->next;
	*link = shelf->next;
	unmap(shelf->base, shelf->end - shelf->base);
	free(shelf->cold);
	free(shelf->places);
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
		shelf->places[place].stale = false;
		shelf->cold[shelf->ncold++] = place;
	}
	if (--shelf->used == 0 && shelf->retired)
		drop_shelf(shelf);
}

/* The shelf that an address is on, or NULL. */
static Shelf *
find_shelf(const char *at)
{
	Shelf	   *shelf = shelves;

	while (shelf && (at < shelf->base || at >= shelf->end))
		shelf = shelf->next;
	return shelf;
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
	Shelf	   *shelf;

	if (unmap == NULL && !find_functions())
		return -1;
	if (addr == last.base)
		(void) orion_gateway_memory_take();
	shelf = find_shelf(addr);
	if (shelf == NULL)
		return unmap(addr, len);
	put_back(shelf, addr);
	return 0;
}

/*
 * Of the zeros wanted only those over what was received, and over the places that a small
 * request uses.  None are put off where something received lies behind them.
 */
static void
fill_partly(Shelf *shelf, char *at, size_t len)
{
	size_t		number = (at - shelf->base) / shelf->len;
	Place	   *place = &shelf->places[number];
	char	   *base = shelf->base + number * shelf->len;
	size_t		from = at - base;
	size_t		to = from + len;
	size_t		near = place->filled > from + HEAD ? place->filled : from + HEAD;

	if (near + TAIL > to)
		fill(at, 0, len, len);
	else
	{
		fill(at, 0, near - from, len);
		if (to == shelf->len)
			fill(base + to - TAIL, 0, TAIL, TAIL);
		place->stale = true;
	}
	if (place->filled > from && place->filled <= to)
		place->filled = from;
}

/* Stands in for the C library's, for libmicrohttpd. */
void *
memset(void *at, int c, size_t len)
{
	Shelf	   *shelf = len >= MUCH && c == 0 ? find_shelf(at) : NULL;

	if (shelf)
		fill_partly(shelf, at, len);
	else
		fill(at, c, len, len);
	return at;
}

/* The library has read these bytes, into a pool perhaps. */
void
orion_gateway_memory_received(const char *bytes, size_t len)
{
	Shelf	   *shelf = find_shelf(bytes);
	Place	   *place;
	size_t		number;
	size_t		filled;

	if (shelf == NULL)
		return;
	number = (bytes - shelf->base) / shelf->len;
	place = &shelf->places[number];
	filled = bytes + len - (shelf->base + number * shelf->len);
	if (place->filled < filled)
		place->filled = filled;
}

static Place *
find_place(GatewayPool pool)
{
	Shelf	   *shelf = find_shelf(pool.base);

	return shelf ? &shelf->places[(pool.base - shelf->base) / shelf->len] : NULL;
}

void
orion_gateway_memory_begin(GatewayPool pool)
{
	static const char end[4] = "\r\n\r\n";
	Place	   *place = find_place(pool);

	if (place == NULL || !place->stale)
		return;
	if (place->filled >= sizeof(end) && memcmp(pool.base + place->filled - sizeof(end), end, sizeof(end)) == 0)
		return;
	if (memmem(pool.base, place->filled, end, sizeof(end)) != NULL)
		return;
	fill(pool.base + place->filled, 0, pool.len - place->filled, pool.len);
	place->stale = false;
}

size_t
orion_gateway_memory_shelve(size_t wanted, int n)
{
	size_t		page = sysconf(_SC_PAGESIZE);
	size_t		len = wanted > MAPPED ? wanted : MAPPED + 1;
	Shelf	   *shelf;
	Place	   *places;
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
	places = calloc(n, sizeof(Place));
	base = map(NULL, len * n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (shelf == NULL || cold == NULL || places == NULL || base == MAP_FAILED)
	{
		if (base != MAP_FAILED)
			unmap(base, len * n);
		free(places);
		free(cold);
		free(shelf);
		return len;
	}
	*shelf = (Shelf)
	{
		.base = base,.end = base + len * n,.len = len,.n = n,.places = places,.fresh = n,.cold = cold,.next = shelves
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

/* What lies behind the bytes received goes, zero or not; the length of the pages that stay. */
static size_t
drop_rest(GatewayPool pool, Place *place, size_t page)
{
	size_t		end = (place->filled + page - 1) / page * page;

	fill(pool.base + place->filled, 0, end - place->filled, pool.len);
	if (end < pool.len)
		madvise(pool.base + end, pool.len - end, MADV_DONTNEED);
	place->stale = false;
	return end;
}

void
orion_gateway_memory_trim(GatewayPool pool, bool between)
{
	size_t		page = sysconf(_SC_PAGESIZE);
	Place	   *place = between ? find_place(pool) : NULL;
	size_t		end = place ? drop_rest(pool, place, page) : pool.len;
	size_t		to;

	for (size_t from = 0; from < end; from = to + page)
	{
		for (to = from; to < end && is_zero(pool.base + to, page);)
			to += page;
		if (to > from)
			madvise(pool.base + from, to - from, MADV_DONTNEED);
	}
}
