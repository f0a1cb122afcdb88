/*
 * qr.h
 *	  QR codes as SVG.
 */
#ifndef ORION_QR_H
#define ORION_QR_H

/*
 * An SVG document of the QR code of this text, with its quiet zone, one unit a
 * module; palloc'ed.  ERRCODE_PROGRAM_LIMIT_EXCEEDED over about 2,300 bytes.
 */
extern char *orion_qr_svg(const char *content);

#endif							/* ORION_QR_H */
