/*
 * address.c
 *	  Mail addresses and network addresses as sign-in compares and counts them.
 *
 * In C because each sign-in asks for all of it.  A mail address of ASCII characters
 * only, as nearly all are, is checked here; for others the regular expression decides,
 * for what a letter is depends on the locale of the database.
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <sys/socket.h>

#include "catalog/pg_collation.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/inet.h"
#include "utils/jsonb.h"

#include "audit/audit.h"
#include "core/compat.h"

#define EMAIL_MAX_LEN	254		/* RFC 5321 4.5.3.1.3 */
#define LOCAL_MAX_LEN	64		/* RFC 5321 4.5.3.1.1 */
#define LABEL_MAX_LEN	63		/* RFC 1035 2.3.4 */
#define NETWORK_BITS	64		/* of IPv6, from which one client may choose */

/* The same as the code below, and for all characters. */
#define EMAIL_PATTERN \
	"^[^@[:space:][:cntrl:]\"(),:;<>\\\\[\\]]{1,64}@([[:alnum:]]([[:alnum:]-]{0,61}[[:alnum:]])?\\.)+" \
	"[[:alnum:]]([[:alnum:]-]{0,61}[[:alnum:]])$"

PG_FUNCTION_INFO_V1(orion_email_normalize);
PG_FUNCTION_INFO_V1(orion_email_valid);
PG_FUNCTION_INFO_V1(orion_address_network);
PG_FUNCTION_INFO_V1(orion_request_address);

/*
 * orion_private.email_normalize(email text): lower case (ASCII, whatever the locale)
 * without spaces around; NULL when it is too long.
 */
Datum
orion_email_normalize(PG_FUNCTION_ARGS)
{
	text	   *email = PG_GETARG_TEXT_PP(0);
	const char *from = VARDATA_ANY(email);
	size_t		len = VARSIZE_ANY_EXHDR(email);
	text	   *normal;

	if (len > EMAIL_MAX_LEN)
		PG_RETURN_NULL();
	for (; len > 0 && from[len - 1] == ' '; len--)
		;
	for (; len > 0 && from[0] == ' '; from++, len--)
		;
	normal = cstring_to_text_with_len(from, len);
	for (size_t i = 0; i < len; i++)
		VARDATA(normal)[i] = pg_ascii_tolower((unsigned char) from[i]);
	PG_RETURN_TEXT_P(normal);
}

static bool
is_ascii_alnum(unsigned char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool
local_part_valid(const char *local, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if ((unsigned char) local[i] <= ' ' || local[i] == 0x7f || strchr("\"(),:;<>\\[]", local[i]))
			return false;
	return len >= 1 && len <= LOCAL_MAX_LEN;
}

static bool
label_valid(const char *label, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (!is_ascii_alnum(label[i]) && label[i] != '-')
			return false;
	return len >= 1 && len <= LABEL_MAX_LEN && label[0] != '-' && label[len - 1] != '-';
}

/* Two labels at least, the last one of two characters at least. */
static bool
domain_valid(const char *domain, size_t len)
{
	const char *end = domain + len;
	int			labels = 0;

	for (;;)
	{
		const char *dot = memchr(domain, '.', end - domain);
		size_t		label = (dot ? dot : end) - domain;

		if (!label_valid(domain, label))
			return false;
		if (!dot)
			return labels > 0 && label >= 2;
		labels++;
		domain = dot + 1;
	}
}

/*
 * orion_private.email_valid(email text): whether this has the form of a mail address;
 * false for null.
 */
Datum
orion_email_valid(PG_FUNCTION_ARGS)
{
	text	   *email;
	const char *bytes;
	const char *at;
	size_t		len;
	Oid			collation = OidIsValid(PG_GET_COLLATION()) ? PG_GET_COLLATION() : DEFAULT_COLLATION_OID;

	if (PG_ARGISNULL(0))
		PG_RETURN_BOOL(false);
	email = PG_GETARG_TEXT_PP(0);
	bytes = VARDATA_ANY(email);
	len = VARSIZE_ANY_EXHDR(email);
	if (len > EMAIL_MAX_LEN)
		PG_RETURN_BOOL(false);
	for (size_t i = 0; i < len; i++)
		if (IS_HIGHBIT_SET(bytes[i]))
			PG_RETURN_DATUM(DirectFunctionCall2Coll(textregexeq, collation, PointerGetDatum(email),
													CStringGetTextDatum(EMAIL_PATTERN)));
	at = memchr(bytes, '@', len);
	PG_RETURN_BOOL(at && local_part_valid(bytes, at - bytes) &&
				   domain_valid(at + 1, bytes + len - (at + 1)));
}

/* The IPv4 addresses within IPv6, ::ffff:0:0/96 (RFC 4291 2.5.5.2). */
static bool
is_mapped(const inet *address)
{
	static const unsigned char prefix[12] = {[10] = 0xff,[11] = 0xff};

	return ip_bits(address) >= 96 && memcmp(ip_addr(address), prefix, sizeof(prefix)) == 0;
}

/*
 * orion_private.address_network(address inet): what one client may choose from, the
 * address itself, or the /64 of an IPv6 address.
 */
Datum
orion_address_network(PG_FUNCTION_ARGS)
{
	inet	   *address = PG_GETARG_INET_PP(0);
	inet	   *network = palloc0(sizeof(inet));

	ip_family(network) = ip_family(address);
	memcpy(ip_addr(network), ip_addr(address), ip_addrsize(address));
	ip_bits(network) = ip_maxbits(address);
	if (ip_family(address) == PGSQL_AF_INET6 && !is_mapped(address))
	{
		ip_bits(network) = NETWORK_BITS;
		memset(ip_addr(network) + NETWORK_BITS / 8, 0, ip_addrsize(address) - NETWORK_BITS / 8);
	}
	SET_INET_VARSIZE(network);
	PG_RETURN_INET_P(network);
}

/*
 * orion_private.request_address(request jsonb): the address a request came from, of its
 * member peer; NULL when there is none.
 */
Datum
orion_request_address(PG_FUNCTION_ARGS)
{
	char		address[INET6_ADDRSTRLEN];
	Jsonb	   *request;
	JsonbValue	buffer;
	JsonbValue *peer;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	request = PG_GETARG_JSONB_P(0);
	peer = JB_ROOT_IS_OBJECT(request) ? getKeyJsonValueFromContainer(&request->root, "peer", strlen("peer"), &buffer) : NULL;
	if (!peer || peer->type != jbvString ||
		!orion_audit_peer_address(peer->val.string.val, peer->val.string.len, address))
		PG_RETURN_NULL();
	PG_RETURN_DATUM(DirectFunctionCall1(inet_in, CStringGetDatum(address)));
}
