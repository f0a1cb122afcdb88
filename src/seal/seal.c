#include "postgres.h"

#include "seal/seal.h"

void
orion_seal_init(void)
{
}
