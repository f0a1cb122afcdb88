#include "postgres.h"

#include "auth/auth.h"

void
orion_auth_init(void)
{
}
