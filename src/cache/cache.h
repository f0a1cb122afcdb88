/*
 * cache.h
 *	  Cache rules as the relay of a Redis sink needs them.
 *
 * The rules themselves are the courier's to carry out (bgworkers/courier); here are
 * their rows, and the functions that make fresh values.  A value is computed when
 * the relay reads the event: after its commit, and after all of its window, so it
 * is at least as new as what the event says.  Relay and courier keep the order of
 * events, so an older value never follows a newer one.
 */
#ifndef ORION_CACHE_H
#define ORION_CACHE_H

#include "outbox/outbox.h"

typedef struct OrionCacheRules OrionCacheRules;

typedef struct OrionCacheValue
{
	int64		rule;
	char	   *value;			/* UTF-8; NULL: the key is to be removed */
} OrionCacheValue;

extern int	orion_cache_function_timeout;	/* ms, 0 = none */

/* Reads the rules of a sink. In a transaction with SPI; lives until freed. */
extern OrionCacheRules *orion_cache_load(int32 sink_id);
extern void orion_cache_free(OrionCacheRules *rules);

/* {"rules": [...], "dependencies": {...}}, for the courier, in UTF-8. */
extern const char *orion_cache_json(const OrionCacheRules *rules);
extern bool orion_cache_has_functions(const OrionCacheRules *rules);	/* rules may be NULL */

/*
 * Calls the functions of the rules that match the event; returns how many, with
 * their values palloc'ed.  What fails has no value.  In a transaction with SPI.
 */
extern int	orion_cache_values(OrionCacheRules *rules, const OrionEvent *event, OrionCacheValue **values);

/* Stores the failures since the last call, and logs them. The same transaction will do. */
extern void orion_cache_store_failures(OrionCacheRules *rules);

extern void orion_cache_init(void);

#endif							/* ORION_CACHE_H */
