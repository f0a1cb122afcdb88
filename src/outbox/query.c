/*
 * query.c
 *	  The queries by which cursors find and read rows of the outbox.
 *
 * Each names the segments that can hold the rows, not the parent table (see cursor.c), so
 * there is one for each set of segments that was ever needed.
 *
 * Runs in the relays.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"

#include "outbox/outbox.h"
#include "outbox/outbox_private.h"

static SPIPlanPtr plans[ORION_QUERY_KINDS][1 << ORION_OUTBOX_SEGMENTS];

#define ROW_COLUMNS \
	"seq, id, aggregatetype, aggregateid, type, payload, version," \
	" correlation_id, causation_id, metadata, occurred_at"
#define IS_IN_WINDOW "NOT pg_visible_in_snapshot(xid, $1) AND pg_visible_in_snapshot(xid, $2)"
#define MAY_BE_NEW "(xid = ANY (ARRAY(SELECT pg_snapshot_xip($1))) OR xid >= pg_snapshot_xmax($1))"

static const char *const arms[ORION_QUERY_KINDS] = {
	"SELECT seq FROM orion_private.outbox_%d WHERE " MAY_BE_NEW " AND " IS_IN_WINDOW " AND seq + 0 > $3",
	"SELECT " ROW_COLUMNS " FROM orion_private.outbox_%d WHERE seq >= $3 AND seq <= $4 AND " IS_IN_WINDOW,
	"SELECT seq FROM orion_private.outbox_%d WHERE seq >= $3 AND seq <= $4",
	"SELECT " ROW_COLUMNS " FROM orion_private.outbox_%d WHERE " MAY_BE_NEW " AND " IS_IN_WINDOW,
};

static const int nparameters[ORION_QUERY_KINDS] = {3, 4, 4, 2};

/* seq + 0: not through the index on seq, which would walk all that is not new. */
static const char *const tails[ORION_QUERY_KINDS] = {" ORDER BY seq + 0", " ORDER BY seq", " ORDER BY seq", ""};

SPIPlanPtr
orion_outbox_query(OrionOutboxQuery kind, int mask)
{
	Oid			types[] = {PG_SNAPSHOTOID, PG_SNAPSHOTOID, INT8OID, INT8OID};
	StringInfoData text;
	bool		first = true;

	if (plans[kind][mask])
		return plans[kind][mask];
	initStringInfo(&text);
	appendStringInfoString(&text, "SELECT * FROM (");
	for (int i = 0; i < ORION_OUTBOX_SEGMENTS; i++)
	{
		if (!(mask & (1 << i)))
			continue;
		if (!first)
			appendStringInfoString(&text, " UNION ALL ");
		appendStringInfo(&text, arms[kind], i + 1);
		first = false;
	}
	appendStringInfo(&text, ") e%s", tails[kind]);

	/*
	 * planning for the values took a sixth of a relay's time, and changed
	 * nothing
	 */
	plans[kind][mask] = SPI_prepare_cursor(text.data, nparameters[kind], types, CURSOR_OPT_GENERIC_PLAN);
	if (plans[kind][mask] == NULL || SPI_keepplan(plans[kind][mask]) != 0)
		elog(ERROR, "could not prepare a query of the outbox: %s", SPI_result_code_string(SPI_result));
	pfree(text.data);
	return plans[kind][mask];
}
