#include "postgres.h"

#include "token/token.h"

void
orion_token_init(void)
{
}
