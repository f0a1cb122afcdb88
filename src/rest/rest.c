#include "postgres.h"

#include "rest/rest.h"

void
orion_rest_init(void)
{
}
