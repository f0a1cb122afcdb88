/*
 * csv.h
 *	  Bodies of comma-separated values (RFC 4180).
 */
#ifndef ORION_REST_CSV_H
#define ORION_REST_CSV_H

/*
 * The lines below the first as a JSON array of objects of strings, named by the
 * first line; palloc'ed.  NULL as a value, without more, is null.  Refuses lines
 * of another number of fields.
 */
extern char *orion_csv_json(const char *csv);

#endif							/* ORION_REST_CSV_H */
