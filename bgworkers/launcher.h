/*
 * launcher.h
 *	  The one static worker; registered from _PG_init.
 */
#ifndef ORION_LAUNCHER_H
#define ORION_LAUNCHER_H

extern void orion_launcher_init(void);

#endif							/* ORION_LAUNCHER_H */
