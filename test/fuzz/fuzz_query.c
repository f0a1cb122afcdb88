// uses: src/rest/query.c src/rest/explain.c
/*
 * fuzz_query.c
 *	  Any bytes as a query string: no crash, no read outside, and only UTF-8 comes out.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "rest/explain.h"
#include "rest/query.h"

static void *memory[200000];
static size_t allocated;

static void *
alloc(void *context, size_t size)
{
	if (allocated == sizeof(memory) / sizeof(memory[0]))
		return NULL;
	return memory[allocated++] = malloc(size);
}

static void
check(const char *text)
{
	if (text &&!orion_utf8_valid(text, strlen(text)))
		abort();
}

static void
check_filters(const OrionFilter *filter)
{
	for (; filter; filter = filter->next)
	{
		check(filter->name.column);
		check(filter->name.embed);
		check(filter->value);
		for (int i = 0; i < filter->nvalues; i++)
			check(filter->values[i]);
		check_filters(filter->first);
	}
}

static void
check_select(const OrionSelect *item)
{
	for (; item; item = item->next)
	{
		check(item->name);
		check(item->alias);
		check(item->cast);
		check(item->hint);
		check_select(item->first);
	}
}

int			LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const OrionArena arena = {alloc, NULL};
	OrionQuery	query;
	OrionQueryError error = {0};
	int			column;
	char	   *details;
	bool		ok = orion_query_parse(&arena, (const char *) data, size, &query, &error);

	for (OrionParam *param = ok ? query.params : NULL; ok && param; param = param->next)
		ok = orion_query_filter(&arena, param, &query, &error);
	if (ok)
	{
		check_filters(query.filters);
		check_select(query.select);
	}
	else if (error.text &&orion_query_explain(&arena, error.rule, error.text, &column, &details) && column < 1)
		abort();
	else if (!error.what || !error.problem || (error.text &&error.at > strlen(error.text)))
		abort();
	while (allocated > 0)
		free(memory[--allocated]);
	return 0;
}
