#include "postgres.h"

#include "rest/rest.h"

void
orion_rest_serve(const OrionRequest *request, OrionResponse *response)
{
	response->status = 404;
	initStringInfo(&response->body);
	appendStringInfoString(&response->body,
						   "{\"code\":\"PGRST125\",\"message\":\"invalid path\",\"details\":null,\"hint\":null}");
	response->nheaders = 1;
	response->headers = palloc(sizeof(OrionHeader));
	response->headers[0] = (OrionHeader) {"content-type", "application/json; charset=utf-8"};
}

void
orion_rest_init(void)
{
}
