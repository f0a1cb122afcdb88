/*
 * segment.c
 *	  The ring of segments: which one is current, rotation, truncation.
 */
#include "postgres.h"

#include "executor/spi.h"

#include "core/shmem.h"
#include "outbox/outbox.h"
#include "outbox/outbox_private.h"

int
orion_segment_of_table(void)
{
	int			segment = 0;
	bool		isnull;

	SPI_connect();
	if (SPI_execute("SELECT segment FROM orion_private.outbox_state"
					" WHERE opened_at IS NOT NULL AND closed_at IS NULL"
					" ORDER BY opened_at DESC LIMIT 1", true, 1) != SPI_OK_SELECT ||
		SPI_processed != 1)
		elog(ERROR, "orion_private.outbox_state names no current segment");
	segment = DatumGetInt16(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();
	return segment;
}

void
orion_outbox_maintain(void)
{
}
