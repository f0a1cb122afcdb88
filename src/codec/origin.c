/*
 * origin.c
 *	  Lists of origins.
 */
#include <string.h>

#include "codec/origin.h"

bool
orion_origin_listed(const char *list, const char *origin)
{
	size_t		len = strlen(origin);

	while (*list)
	{
		size_t		n;

		list += strspn(list, ", \t");
		n = strcspn(list, ", \t");
		if (n == len && n > 0 && memcmp(list, origin, len) == 0)
			return true;
		list += n;
	}
	return false;
}
