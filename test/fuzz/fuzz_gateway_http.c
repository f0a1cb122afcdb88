// uses: bgworkers/gateway/http.c
/*
 * fuzz_gateway_http.c
 *	  The gateway's checks on any bytes; what passes must be as promised.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/http.h"

int			LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
check_target(const char *bytes, size_t len)
{
	OrionHttpTarget target;

	if (!orion_http_target_split(bytes, len, &target))
		return;
	if (target.path_len == 0 || target.path[0] != '/' || memchr(target.path, '\0', target.path_len) ||
		target.path < bytes || target.query + target.query_len != bytes + len ||
		(memchr(target.path, '%', target.path_len) == NULL && !orion_http_utf8_valid(target.path, target.path_len)))
		abort();
}

static void
check_response_header(const char *name, size_t name_len, const char *value, size_t value_len)
{
	char	   *line = malloc(name_len + value_len + ORION_HTTP_HEADER_ROOM);
	size_t		len = orion_http_response_header(name, name_len, value, value_len, line);

	/* one line, with one colon behind the name */
	if (len > 0 && (len != name_len + value_len + ORION_HTTP_HEADER_ROOM || memcmp(line, name, name_len) != 0 ||
					memchr(line, ':', len) != line + name_len || line[len - 2] != '\r' || line[len - 1] != '\n' ||
					memchr(line, '\r', len - 2) || memchr(line, '\n', len - 2) || memchr(line, '\0', len)))
		abort();
	free(line);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* an exact copy, so that the sanitizer sees reads over the end */
	char	   *bytes = malloc(size + 1);
	OrionHttpHead head = {0};
	size_t		half;

	memcpy(bytes, data, size);
	bytes = realloc(bytes, size ? size : 1);
	half = size ? data[0] % (size + 1) : 0;
	check_target(bytes, size);
	check_response_header(bytes, half, bytes + half, size - half);
	orion_http_head_add(&head, bytes, half, bytes + half, size - half);
	orion_http_head_add(&head, "content-length", 14, bytes, size);
	orion_http_head_add(&head, "transfer-encoding", 17, bytes + half, size - half);
	orion_http_head_add(&head, "x-request-id", 12, bytes, size);
	orion_http_head_check(&head, half);
	free(bytes);
	return 0;
}
