/*
 * qr.c
 *	  QR codes (ISO/IEC 18004) by libqrencode, as SVG that needs nothing else.
 *
 * Runs in any backend.  What the library makes is malloc'ed, so nothing that may raise
 * happens while it is held but under PG_TRY.
 */
#include "postgres.h"

#include <errno.h>
#include <qrencode.h>

#include "lib/stringinfo.h"

#include "mfa/qr.h"

#define QUIET_MODULES	4		/* ISO/IEC 18004, 6.3.8 */

/* Dark modules next to each other are one rectangle. */
static void
append_modules(StringInfo svg, const QRcode *code)
{
	for (int y = 0; y < code->width; y++)
	{
		const unsigned char *row = code->data + y * code->width;

		for (int x = 0; x < code->width; x++)
		{
			int			run = 0;

			while (x + run < code->width && (row[x + run] & 1))
				run++;
			if (run > 0)
				appendStringInfo(svg, "M%d %dh%dv1h-%dz", x + QUIET_MODULES, y + QUIET_MODULES, run, run);
			x += run;
		}
	}
}

char *
orion_qr_svg(const char *content)
{
	QRcode	   *code = QRcode_encodeString8bit(content, 0, QR_ECLEVEL_M);
	StringInfoData svg;
	int			width;

	if (!code && errno == ERANGE)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too long for a QR code: %zu bytes", strlen(content))));
	if (!code)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("could not make a QR code: %m")));
	width = code->width + 2 * QUIET_MODULES;
	PG_TRY();
	{
		initStringInfo(&svg);
		appendStringInfo(&svg, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" shape-rendering=\"crispEdges\">"
						 "<path fill=\"white\" d=\"M0 0h%dv%dH0z\"/><path d=\"", width, width, width, width);
		append_modules(&svg, code);
		appendStringInfoString(&svg, "\"/></svg>");
	}
	PG_FINALLY();
	{
		QRcode_free(code);
	}
	PG_END_TRY();
	return svg.data;
}
