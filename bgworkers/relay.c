#include "postgres.h"

#include "pool.h"

PGDLLEXPORT void orion_relay_main(Datum arg);

static void
idle(void)
{
	while (orion_pool_continue())
		orion_pool_wait(-1, false, -1);
}

void
orion_relay_main(Datum arg)
{
	orion_pool_run(arg, NULL, idle);
}
