/*
 * auth.h
 *	  Identity: passwords, users, sessions, login.
 */
#ifndef ORION_AUTH_H
#define ORION_AUTH_H

extern void orion_auth_init(void);

#endif							/* ORION_AUTH_H */
