/*
 * track.h
 *	  Tracked tables: each change of a row becomes an event.
 *
 * SQL-callable but for the start; see track.sql.
 */
#ifndef ORION_TRACK_H
#define ORION_TRACK_H

extern void orion_track_init(void);

#endif							/* ORION_TRACK_H */
