/*
 * claims.h
 *	  Start of claims.c; what others use of it is in token.h.
 */
#ifndef ORION_CLAIMS_H
#define ORION_CLAIMS_H

/* Registers the end of the transaction as the end of the claims. */
extern void orion_claims_init(void);
extern void orion_token_rules_init(void);

#endif							/* ORION_CLAIMS_H */
