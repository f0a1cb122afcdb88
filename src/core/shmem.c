/*
 * shmem.c
 *	  Allocates Orion's shared memory and defines the settings of the core.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/guc.h"

#include "core/listen.h"
#include "core/shmem.h"

OrionShared *orion_shared = NULL;
char	   *orion_database = NULL;
int			orion_gateway_count = 1;
int			orion_executor_count = 2;
int			orion_executor_max_memory = 131072;

#define MAX_PARTS	8			/* modules with shared memory of their own */

static struct
{
	Size		size;
	void		(*startup) (void);
}			parts[MAX_PARTS];
static int	nparts = 0;

static shmem_request_hook_type prev_shmem_request = NULL;
static shmem_startup_hook_type prev_shmem_startup = NULL;

static void
request_shmem(void)
{
	if (prev_shmem_request)
		prev_shmem_request();
	RequestAddinShmemSpace(MAXALIGN(sizeof(OrionShared)));
	RequestAddinShmemSpace(orion_listen_shmem_size());
	for (int i = 0; i < nparts; i++)
		RequestAddinShmemSpace(parts[i].size);
	RequestNamedLWLockTranche("orion", ORION_LOCK_COUNT);
}

static void
init_shared(void)
{
	memset(orion_shared, 0, sizeof(OrionShared));
	orion_shared->lock = orion_shmem_lock(ORION_LOCK_CORE);
	pg_atomic_init_u32(&orion_shared->sinks_generation, 1);
	pg_atomic_init_u32(&orion_shared->upkeep_asked, 0);
	pg_atomic_init_u32(&orion_shared->routes_generation, 1);
	pg_atomic_init_u32(&orion_shared->role_settings_generation, 0);
	pg_atomic_init_u32(&orion_shared->patterns_generation, 1);
	for (int i = 0; i < ORION_LISTENING_WORDS; i++)
		pg_atomic_init_u64(&orion_shared->listening[i], 0);
	pg_atomic_init_u32(&orion_shared->outbox_segment, 0);
	for (int i = 0; i < ORION_MAX_SLOTS; i++)
	{
		pg_atomic_init_u64(&orion_shared->slots[i].lag_events, 0);
		pg_atomic_init_u64(&orion_shared->slots[i].lag_since, 0);
		pg_atomic_init_u64(&orion_shared->slots[i].attempts, 0);
		pg_atomic_init_u64(&orion_shared->slots[i].rate, 0);
		pg_atomic_init_u64(&orion_shared->slots[i].rate_at, 0);
		pg_atomic_init_u32(&orion_shared->slots[i].idle, 0);
	}
}

static void
startup_shmem(void)
{
	bool		found;

	if (prev_shmem_startup)
		prev_shmem_startup();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	orion_shared = ShmemInitStruct("orion", sizeof(OrionShared), &found);
	if (!found)
		init_shared();
	orion_listen_shmem_startup();
	for (int i = 0; i < nparts; i++)
		parts[i].startup();
	LWLockRelease(AddinShmemInitLock);
}

void
orion_shmem_add(Size size, void (*startup) (void))
{
	if (nparts == MAX_PARTS)
		elog(ERROR, "too many modules with shared memory");
	parts[nparts].size = size;
	parts[nparts++].startup = startup;
}

LWLock *
orion_shmem_lock(OrionLock lock)
{
	static LWLockPadded *locks = NULL;

	if (!locks)
		locks = GetNamedLWLockTranche("orion");
	return &locks[lock].lock;
}

void
orion_shmem_init(void)
{
	DefineCustomStringVariable("orion.database",
							   "The database that Orion serves.",
							   "Empty: no worker is started.",
							   &orion_database, "postgres",
							   PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("orion.gateway_count",
							"Processes that serve HTTP clients, which the kernel spreads over them.",
							NULL,
							&orion_gateway_count, 1, 1, ORION_MAX_GATEWAYS,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("orion.executor_count",
							"Processes that run HTTP requests, one request at a time each.",
							NULL,
							&orion_executor_count, 2, 1, ORION_MAX_EXECUTORS,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("orion.executor_max_memory",
							"Memory that an executor may have between two requests; one with more is replaced.",
							NULL,
							&orion_executor_max_memory, 131072, 32768, MAX_KILOBYTES,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);

	prev_shmem_request = shmem_request_hook;
	shmem_request_hook = request_shmem;
	prev_shmem_startup = shmem_startup_hook;
	shmem_startup_hook = startup_shmem;
}
