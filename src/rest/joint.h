/*
 * joint.h
 *	  Reads that arrived together share a transaction and the state of their statement.
 *
 * To begin and end a transaction, to take a snapshot and to start the executor is a third
 * of what a GET by key costs its executor.  A transaction may serve every request that had
 * arrived before it began: for each of them it is as new as one of its own.  So a read
 * without credentials, whose statement can neither look at the session nor change it
 * (closed.h), leaves its transaction open when others wait that had arrived by then
 * (OrionRequest.others_wait).  The next request goes on in it when it asks for the same with
 * other values; in all other cases it has a transaction of its own, and the open one ends
 * first.
 */
#ifndef ORION_REST_JOINT_H
#define ORION_REST_JOINT_H

#include "postgres.h"

#include "executor/execdesc.h"
#include "utils/plancache.h"

#include "rest/call.h"
#include "rest/json_row.h"
#include "rest/statement.h"

/* A statement that has run and may run again; all of it lives as long as the transaction. */
typedef struct OrionJointStatement
{
	QueryDesc  *query;			/* started, not finished */
	CachedPlan *plan;
	ParamListInfo params;		/* of the query */
	OrionJsonRow *row;
} OrionJointStatement;

/* Is a transaction open that was left to others? */
extern bool orion_joint_is_open(void);

/* When one is: does the request go on in it? */
extern bool orion_joint_join(const OrionCall *call);

/* Does the request at hand go on in a transaction left to it? */
extern bool orion_joint_is_joined(void);

/* The role that the transaction's statement runs as. */
extern Oid	orion_joint_role(void);

/* May the statement be kept for others?  Ask before it starts; it is to run without "once". */
extern bool orion_joint_may_keep(const OrionCall *call, const CachedPlanSource *source, const CachedPlan *plan);
extern void orion_joint_end_statement(OrionJointStatement *statement);	/* one not kept */
extern void orion_joint_keep(const OrionCall *call, const OrionStatement *st, const OrionJointStatement *statement);

/* The one kept when it is this one, with these values and wound back; else NULL. */
extern const OrionJointStatement *orion_joint_again(const OrionCall *call, const OrionStatement *st);

/*
 * The same before there is a statement: does the request differ from the one it joins in
 * nothing but a word that is the statement's one value, as in "id=eq.7"?  Everything that was
 * found out for that one is right for this one then.  Sets call->relid if so,
 * and orion_joint_repeat has the statement with that value, wound back.
 */
extern bool orion_joint_repeats(OrionCall *call);
extern const OrionJointStatement *orion_joint_repeat(const OrionCall *call);

/* After the request: does the transaction stay open?  If not, its statement has ended. */
extern bool orion_joint_leave(const OrionCall *call);

/* Before a transaction that was left open commits. */
extern void orion_joint_end(void);

/* Once, when the server starts. */
extern void orion_joint_init(void);

#endif							/* ORION_REST_JOINT_H */
