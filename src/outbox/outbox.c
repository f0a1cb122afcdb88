#include "postgres.h"

#include "outbox/outbox.h"

void
orion_outbox_init(void)
{
}

void
orion_outbox_maintain(void)
{
}
