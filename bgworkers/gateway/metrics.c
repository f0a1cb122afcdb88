/*
 * metrics.c
 *	  Counters of requests and their text for Prometheus; see metrics.h.
 */
#include "gateway/metrics.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TABLE_SIZE	2048		/* of routes, a power of two; half full at
								 * most */
#define BOUNDS		((int) (sizeof(bounds) / sizeof(bounds[0])))

/* Upper bounds of the histogram, microseconds. */
static const int64_t bounds[] = {
	500, 1000, 2500, 5000, 10000, 25000, 50000, 100000, 250000, 500000, 1000000, 2500000, 10000000
};
static const char *const bound_texts[] = {
	"0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "10"
};

/* Answers of one method and status; few for each route. */
typedef struct Count
{
	char		method[8];
	int			status;
	uint64_t	n;
	struct Count *next;
} Count;

typedef struct Route
{
	char		name[ORION_METRICS_ROUTE_LEN + 1];
	Count	   *counts;
	uint64_t	buckets[sizeof(bounds) / sizeof(bounds[0])];	/* not cumulative */
	uint64_t	n;
	uint64_t	sum;			/* microseconds */
} Route;

static Route *table[TABLE_SIZE];
static int	nroutes;
static char alone[32];
static char label[32];

void
orion_metrics_set_process(int process, int processes)
{
	alone[0] = label[0] = '\0';
	if (processes < 2)
		return;
	snprintf(alone, sizeof(alone), "{process=\"%d\"}", process);
	snprintf(label, sizeof(label), "process=\"%d\",", process);
}

const char *
orion_metrics_alone(void)
{
	return alone;
}

const char *
orion_metrics_label(void)
{
	return label;
}

static uint32_t
hash(const char *name, size_t len)
{
	uint32_t	h = 2166136261u;

	for (size_t i = 0; i < len; i++)
		h = (h ^ (unsigned char) name[i]) * 16777619u;
	return h;
}

/* NULL when memory is out. */
static Route *
route_of(const char *name, size_t len)
{
	uint32_t	at;

	if (len > ORION_METRICS_ROUTE_LEN)
		len = ORION_METRICS_ROUTE_LEN;
	for (at = hash(name, len) % TABLE_SIZE; table[at]; at = (at + 1) % TABLE_SIZE)
	{
		if (strncmp(table[at]->name, name, len) == 0 && table[at]->name[len] == '\0')
			return table[at];
	}
	/* one place is kept for "other" */
	if (nroutes >= ORION_METRICS_ROUTES - 1 && !(len == 5 && memcmp(name, "other", 5) == 0))
		return route_of("other", 5);
	table[at] = calloc(1, sizeof(Route));
	if (table[at] == NULL)
		return NULL;
	memcpy(table[at]->name, name, len);
	nroutes++;
	return table[at];
}

static Count *
count_of(Route *route, const char *method, int status)
{
	Count	   *count = route->counts;

	while (count && (count->status != status || strcmp(count->method, method) != 0))
		count = count->next;
	if (count || (count = calloc(1, sizeof(*count))) == NULL)
		return count;
	snprintf(count->method, sizeof(count->method), "%s", method);
	count->status = status;
	count->next = route->counts;
	route->counts = count;
	return count;
}

void
orion_metrics_count(const char *name, size_t name_len, const char *method, int status, int64_t us)
{
	Route	   *route = route_of(name, name_len);
	Count	   *count = route ? count_of(route, method, status) : NULL;
	int			i = 0;

	if (count == NULL)
		return;
	count->n++;
	route->n++;
	route->sum += us;
	while (i < BOUNDS && us > bounds[i])
		i++;
	if (i < BOUNDS)
		route->buckets[i]++;
}

void
orion_metrics_add(OrionBuffer *out, const char *fmt,...)
{
	va_list		args;
	char		line[1024];
	int			len;

	va_start(args, fmt);
	len = vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	if (len < 0 || len >= (int) sizeof(line) || !orion_buffer_reserve(out, len))
		return;
	memcpy(out->data + out->end, line, len);
	out->end += len;
}

void
orion_metrics_type(OrionBuffer *out, const char *name, const char *type, const char *help)
{
	orion_metrics_add(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* A label's value; names of tables may have anything in them. */
static const char *
escaped(const char *name)
{
	static char text[ORION_METRICS_ROUTE_LEN * 2 + 1];
	char	   *out = text;

	for (; *name; name++)
	{
		if (*name == '"' || *name == '\\')
			*out++ = '\\';
		*out++ = (unsigned char) *name < 0x20 ? ' ' : *name;
	}
	*out = '\0';
	return text;
}

static void
add_times(OrionBuffer *out, const Route *route)
{
	const char *name = escaped(route->name);
	uint64_t	n = 0;

	for (int i = 0; i < BOUNDS; i++)
	{
		n += route->buckets[i];
		orion_metrics_add(out, "orion_http_request_duration_seconds_bucket{%sroute=\"%s\",le=\"%s\"} %" PRIu64 "\n",
						  label, name, bound_texts[i], n);
	}
	orion_metrics_add(out, "orion_http_request_duration_seconds_bucket{%sroute=\"%s\",le=\"+Inf\"} %" PRIu64 "\n", label, name, route->n);
	orion_metrics_add(out, "orion_http_request_duration_seconds_sum{%sroute=\"%s\"} %" PRIu64 ".%06" PRIu64 "\n",
					  label, name, route->sum / 1000000, route->sum % 1000000);
	orion_metrics_add(out, "orion_http_request_duration_seconds_count{%sroute=\"%s\"} %" PRIu64 "\n", label, name, route->n);
}

void
orion_metrics_requests(OrionBuffer *out)
{
	orion_metrics_type(out, "orion_http_requests_total", "counter", "Requests answered.");
	for (int i = 0; i < TABLE_SIZE; i++)
	{
		for (const Count *count = table[i] ? table[i]->counts : NULL; count; count = count->next)
			orion_metrics_add(out, "orion_http_requests_total{%sroute=\"%s\",method=\"%s\",status=\"%d\"} %" PRIu64 "\n",
							  label, escaped(table[i]->name), count->method, count->status, count->n);
	}
	orion_metrics_type(out, "orion_http_request_duration_seconds", "histogram",
					   "From the request line to the end of the answer.");
	for (int i = 0; i < TABLE_SIZE; i++)
	{
		if (table[i])
			add_times(out, table[i]);
	}
}

static void
put(OrionBuffer *out, const char *bytes, size_t len)
{
	if (!orion_buffer_reserve(out, len))
		return;
	memcpy(out->data + out->end, bytes, len);
	out->end += len;
}

/* The rest of the text from where the next "# HELP" begins; its end when there is none. */
static const char *
next_family(const char *at, const char *end)
{
	while (at < end && !(end - at > 7 && memcmp(at, "# HELP ", 7) == 0))
	{
		const char *line = memchr(at, '\n', end - at);

		at = line ? line + 1 : end;
	}
	return at;
}

/* Adds the samples of the family that begins at head in another text, if it is there. */
static void
add_samples(OrionBuffer *out, const OrionBuffer *text, const char *head)
{
	const char *at = (const char *) text->data + text->start;
	const char *end = (const char *) text->data + text->end;
	size_t		len = strcspn(head + 7, " ") + 8;	/* "# HELP name " */

	for (at = next_family(at, end); at < end; at = next_family(at + 7, end))
	{
		if ((size_t) (end - at) > len && memcmp(at, head, len) == 0)
			break;
	}
	end = at < end ? next_family(at + 7, end) : end;
	for (const char *line; at < end && (line = memchr(at, '\n', end - at)) != NULL; at = line + 1)
	{
		if (at[0] != '#')
			put(out, at, line + 1 - at);
	}
}

void
orion_metrics_merge(OrionBuffer *out, const OrionBuffer *texts, int n)
{
	const char *at = (const char *) texts[0].data + texts[0].start;
	const char *end = (const char *) texts[0].data + texts[0].end;

	for (at = next_family(at, end); at < end;)
	{
		const char *next = next_family(at + 7, end);

		put(out, at, next - at);
		for (int i = 1; i < n; i++)
			add_samples(out, &texts[i], at);
		at = next;
	}
}
