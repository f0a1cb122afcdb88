/*
 * batch.c
 *	  POST /batch: several operations in one transaction.
 *
 * Token, role, claims, pre-request function and Idempotency-Key are those of the
 * batch.  Each operation is then served as a request of its own would be, with a
 * snapshot that shows what the ones before it did.  The first that fails ends
 * the transaction, unless the batch is not atomic: then every operation is a subtransaction.
 */
#include "postgres.h"

#include <ctype.h>

#include "access/xact.h"
#include "catalog/namespace.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/formatting.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "rest/batch.h"
#include "rest/body.h"
#include "rest/error.h"
#include "rest/json_text.h"
#include "rest/reference.h"
#include "rest/relation.h"
#include "rest/response.h"
#include "rest/settings.h"

#define MAX_OPERATION_HEADERS 16

int			orion_batch_max_operations;

typedef struct Batch
{
	OrionCall  *call;
	bool		atomic;
	int			n;
	OrionOperation *operations;
} Batch;

bool
orion_batch_asked(const OrionCall *call, const char *path)
{
	if (call->method != ORION_POST)
		return false;
	if (path == NULL)
		return strcmp(call->request->path, "/batch") == 0;
	return strcmp(path, "batch") == 0 &&
		!OidIsValid(get_relname_relid("batch", get_namespace_oid(orion_relation_schema(call), true)));
}

/* --- reading the batch --------------------------------------------------------------- */

static void
refuse_batch(const char *details)
{
	orion_refuse(400, "ORION400", "Invalid batch", details,
				 "A batch is an array of {\"method\", \"path\"} with \"id\", \"headers\" and \"body\" where needed.");
}

/* A string value as text; the name is for the message. */
static char *
string_value(const char *c, const char *name)
{
	if (*c != '"')
		refuse_batch(psprintf("\"%s\" must be a string.", name));
	return orion_json_key_text(c, orion_json_skip_string(c));
}

static bool
boolean_value(const char *c, const char *name)
{
	if (*c != 't' && *c != 'f')
		refuse_batch(psprintf("\"%s\" must be true or false.", name));
	return *c == 't';
}

/* The next member of an object, c behind its opening brace or the last value; NULL at the end. */
static const char *
next_member(const char *c, char **name, const char **value)
{
	const char *end;

	c = orion_json_skip_space(c);
	if (*c == ',')
		c = orion_json_skip_space(c + 1);
	if (*c == '}')
		return NULL;
	end = orion_json_skip_string(c);
	*name = orion_json_key_text(c, end);
	*value = orion_json_skip_space(orion_json_skip_space(end) + 1);
	return orion_json_skip_value(*value);
}

/* Those that say how one operation is done; who asks is said once, by the batch. */
static void
read_headers(const char *c, OrionOperation *operation)
{
	static const char *const allowed[] = {
		"accept", "accept-profile", "content-profile", "if-match", "if-none-match", "prefer", "range", "range-unit",
	};
	char	   *name;
	const char *value;

	if (*c != '{')
		refuse_batch("\"headers\" must be an object.");
	for (c++; (c = next_member(c, &name, &value)) != NULL;)
	{
		OrionHeader *header = &operation->headers[operation->nheaders];
		bool		known = false;

		for (int i = 0; i < lengthof(allowed); i++)
			known |= pg_strcasecmp(name, allowed[i]) == 0;
		if (!known || operation->nheaders++ == MAX_OPERATION_HEADERS)
			refuse_batch(psprintf("The header \"%s\" cannot be one of an operation.", name));
		header->name = asc_tolower(name, strlen(name));
		header->value = string_value(value, name);
	}
}

static void
read_operation(const char *c, OrionOperation *operation)
{
	char	   *name;
	const char *value;

	if (*c != '{')
		refuse_batch("An operation must be an object.");
	operation->headers = palloc0((MAX_OPERATION_HEADERS + 4) * sizeof(OrionHeader));
	for (c++; (c = next_member(c, &name, &value)) != NULL;)
	{
		if (strcmp(name, "id") == 0)
			operation->id = string_value(value, name);
		else if (strcmp(name, "method") == 0)
			operation->method = string_value(value, name);
		else if (strcmp(name, "path") == 0)
			operation->path = string_value(value, name);
		else if (strcmp(name, "headers") == 0)
			read_headers(value, operation);
		else if (strcmp(name, "literal") == 0)
			operation->literal = boolean_value(value, name);
		else if (strcmp(name, "body") == 0)
			operation->body = pnstrdup(value, c - value);
		else
			refuse_batch(psprintf("\"%s\" is no member of an operation.", name));
	}
	if (operation->method == NULL || operation->path == NULL)
		refuse_batch("An operation needs \"method\" and \"path\".");
}

static void
check_id(const Batch *batch, int at)
{
	const char *id = batch->operations[at].id;

	if (id == NULL)
		return;
	if (id[0] == '\0' || isdigit((unsigned char) id[0]))
		refuse_batch("An \"id\" must not be empty nor begin with a digit.");
	for (int i = 0; i < at; i++)
		if (batch->operations[i].id && strcmp(batch->operations[i].id, id) == 0)
			refuse_batch("Two operations have the same \"id\".");
}

static void
read_operations(Batch *batch, const char *c)
{
	if (*c != '[')
		refuse_batch("The operations must be an array.");
	batch->operations = palloc0(orion_batch_max_operations * sizeof(OrionOperation));
	for (c = orion_json_skip_space(c + 1); *c != ']';)
	{
		const char *end = orion_json_skip_value(c);

		batch->call->operation_number = batch->n + 1;
		if (batch->n == orion_batch_max_operations)
			orion_refuse(413, "ORION413", psprintf("A batch has at most %d operations", orion_batch_max_operations), NULL, NULL);
		read_operation(c, &batch->operations[batch->n]);
		check_id(batch, batch->n);
		orion_reference_mark(batch->operations, batch->n);
		batch->n++;
		c = orion_json_skip_space(end);
		if (*c == ',')
			c = orion_json_skip_space(c + 1);
	}
	batch->call->operation_number = 0;
}

/* [...], or {"operations": [...], "atomic": false} */
static void
read_batch(Batch *batch)
{
	const char *c = orion_body_json(batch->call);
	char	   *name;
	const char *value;
	const char *operations = NULL;

	if (c == NULL)
		refuse_batch("It is empty.");
	c = orion_json_skip_space(c);
	batch->atomic = true;
	if (*c != '{')
		operations = c;
	else
		for (c++; (c = next_member(c, &name, &value)) != NULL;)
		{
			if (strcmp(name, "operations") == 0)
				operations = value;
			else if (strcmp(name, "atomic") == 0)
				batch->atomic = boolean_value(value, name);
			else
				refuse_batch(psprintf("\"%s\" is no member of a batch.", name));
		}
	if (operations == NULL)
		refuse_batch("There are no \"operations\".");
	read_operations(batch, operations);
}

/* --- running ------------------------------------------------------------------------- */

/* With or without the prefix and a slash in front. */
static const char *
behind_prefix(const char *path)
{
	size_t		len = orion_rest_prefix_length();

	if (len > 0 && strncmp(path, orion_rest_prefix, len) == 0 && path[len] == '/')
		path += len;
	return path + (*path == '/');
}

static void
put_header(OrionOperation *operation, const char *name, const char *value)
{
	operation->headers[operation->nheaders++] = (OrionHeader)
	{
		name, value
	};
}

static const char *
own_header(const OrionOperation *operation, const char *name)
{
	for (int i = 0; i < operation->nheaders; i++)
		if (strcmp(operation->headers[i].name, name) == 0)
			return operation->headers[i].value;
	return NULL;
}

/* What the batch says for all, and what others need from it. */
static void
complete_headers(const Batch *batch, OrionOperation *operation)
{
	static const char *const inherited[] = {"accept-profile", "content-profile"};
	const char *prefer = own_header(operation, "prefer");

	for (int i = 0; i < lengthof(inherited); i++)
	{
		const char *value = orion_call_header(batch->call, inherited[i]);

		if (value && own_header(operation, inherited[i]) == NULL)
			put_header(operation, inherited[i], value);
	}
	if (operation->referred && (prefer == NULL || strstr(prefer, "return=") == NULL))
		put_header(operation, "prefer", "return=representation");
	if (operation->body)
		put_header(operation, "content-type", "application/json");
}

static OrionRequest *
make_request(const Batch *batch, int at)
{
	OrionOperation *operation = &batch->operations[at];
	OrionRequest *request = palloc0(sizeof(OrionRequest));
	const char *path = behind_prefix(operation->path);
	const char *query = strchr(path, '?');
	char	   *body = orion_reference_body(batch->operations, at);

	complete_headers(batch, operation);
	request->method = operation->method;
	request->path = psprintf("%.*s/%s", (int) orion_rest_prefix_length(), orion_rest_prefix,
							 query ? pnstrdup(path, query - path) : path);
	request->query = query ? orion_reference_query(batch->operations, at, query + 1) : "";
	request->peer = batch->call->request->peer;
	request->body = body;
	request->body_len = body ? strlen(body) : 0;
	request->nheaders = operation->nheaders;
	request->headers = operation->headers;
	return request;
}

static void
init_response(const Batch *batch, OrionResponse *response)
{
	MemoryContext old = MemoryContextSwitchTo(GetMemoryChunkContext(batch->call->response->body.data));

	memset(response, 0, sizeof(OrionResponse));
	initStringInfo(&response->body);
	response->status = 200;
	MemoryContextSwitchTo(old);
}

/* What functions of one operation set is not for the next. */
static void
reset_settings(void)
{
	static const char *const names[] = {"response.status", "response.headers", "request.updated"};

	for (int i = 0; i < lengthof(names); i++)
	{
		const char *value = GetConfigOption(names[i], true, false);

		if (value && value[0])
			(void) set_config_option(names[i], "", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	}
}

static void
see_what_was_done(void)
{
	CommandCounterIncrement();
	PopActiveSnapshot();
	PushActiveSnapshot(GetTransactionSnapshot());
}

/*
 * Whether the answer goes into others as it is: what is read without a check there, and
 * would forge the answers beside it, is looked at and not believed to be what its
 * Content-Type says.  A function chooses both; and lines of JSON are not one text.
 */
static bool
is_json(const OrionResponse *response)
{
	const char *type = NULL;

	for (int i = 0; i < response->nheaders; i++)
		if (pg_strcasecmp(response->headers[i].name, "Content-Type") == 0)
			type = response->headers[i].value;
	return response->body.len > 0 && type && strstr(type, "json") && strstr(type, "ndjson") == NULL &&
		orion_body_is_json(response->body.data, response->body.len);
}

static void
perform(const Batch *batch, int at)
{
	OrionOperation *operation = &batch->operations[at];
	const OrionCall *call = batch->call;
	bool		read_only = XactReadOnly;
	OrionCall	part = {
		.response = &operation->response,
		.arena = call->arena,
		.operation = true,
		.authenticated = call->authenticated,
		.role = call->role,
		.claims = call->claims,
	};

	part.request = make_request(batch, at);
	orion_call_operation(&part, behind_prefix(part.request->path));
	orion_response_settings(&operation->response);
	if (part.method == ORION_HEAD || operation->response.status == 204)
		resetStringInfo(&operation->response.body);
	operation->json = is_json(&operation->response);
	XactReadOnly = read_only;
	SPI_freetuptable(SPI_tuptable);
}

/* Failed without an error: the answer says so, and nothing of it may stay. */
static void
refuse_status(const OrionOperation *operation)
{
	const OrionResponse *response = &operation->response;

	if (response->status < 400)
		return;
	orion_refuse(response->status, "ORION424", psprintf("The operation was answered with %d", response->status),
				 response->body.data, NULL);
}

/* As a subtransaction, whose failure is its answer. */
static void
perform_alone(const Batch *batch, int at)
{
	OrionOperation *operation = &batch->operations[at];
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		perform(batch, at);
		refuse_status(operation);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		/* the client has left, or the time is over: of the whole batch */
		if (geterrcode() == ERRCODE_QUERY_CANCELED)
			PG_RE_THROW();
		orion_error_answer_part(batch->call, &operation->response, context);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	operation->json = is_json(&operation->response);
}

/* --- answering ----------------------------------------------------------------------- */

static void
append_answer(StringInfo out, const OrionOperation *operation)
{
	const OrionResponse *response = &operation->response;

	appendStringInfoChar(out, '{');
	if (operation->id)
	{
		appendStringInfoString(out, "\"id\":");
		escape_json(out, operation->id);
		appendStringInfoChar(out, ',');
	}
	appendStringInfo(out, "\"status\":%d,\"headers\":{", response->status);
	for (int i = 0; i < response->nheaders; i++)
	{
		appendStringInfoString(out, i > 0 ? "," : "");
		escape_json(out, response->headers[i].name);
		appendStringInfoChar(out, ':');
		escape_json(out, response->headers[i].value);
	}
	appendStringInfoString(out, "},\"body\":");
	if (response->body.len == 0)
		appendStringInfoString(out, "null");
	else if (operation->json)
		appendBinaryStringInfo(out, response->body.data, response->body.len);
	else if (pg_verify_mbstr(PG_UTF8, response->body.data, response->body.len, true) &&
			 memchr(response->body.data, '\0', response->body.len) == NULL)
		escape_json(out, response->body.data);
	else
		orion_refuse(406, "PGRST107", "The answer of an operation must be text", NULL, NULL);
	appendStringInfoChar(out, '}');
	if (out->len > (int64) orion_rest_max_answer_size * 1024)
		orion_refuse(500, "54000", psprintf("the answer has more than %d kB", orion_rest_max_answer_size), NULL,
					 "Ask for less, or raise orion.rest_max_answer_size.");
}

void
orion_batch_serve(OrionCall *call)
{
	Batch		batch = {.call = call};
	StringInfo	out = &call->response->body;

	read_batch(&batch);
	/* what the pre-request function has set is for the whole answer */
	orion_response_settings(call->response);
	reset_settings();
	orion_response_header(call->response, "Content-Type", ORION_JSON);
	appendStringInfoChar(out, '[');
	for (int i = 0; i < batch.n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		call->operation_number = i + 1;
		init_response(&batch, &batch.operations[i].response);
		see_what_was_done();
		if (batch.atomic)
		{
			perform(&batch, i);
			refuse_status(&batch.operations[i]);
		}
		else
			perform_alone(&batch, i);
		reset_settings();
		appendStringInfoString(out, i > 0 ? "," : "");
		append_answer(out, &batch.operations[i]);
	}
	appendStringInfoChar(out, ']');
	call->operation_number = 0;
}

void
orion_batch_blame(OrionCall *call)
{
	StringInfo	body = &call->response->body;

	if (call->operation_number == 0 || body->len < 2 || body->data[body->len - 1] != '}')
		return;
	body->data[--body->len] = '\0';
	appendStringInfo(body, ",\"operation\":%d}", call->operation_number);
}
