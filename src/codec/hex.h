/*
 * hex.h
 *	  Hexadecimal digits, as percent-encoding has them.  Pure C.
 */
#ifndef ORION_HEX_H
#define ORION_HEX_H

/* 0 .. 15, or -1: no such digit. */
static inline int
orion_hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

#endif							/* ORION_HEX_H */
