/*
 * compat.h
 *	  The differences between PostgreSQL 15 and 18 that Orion meets.
 *
 * The only file with PG_VERSION_NUM in it.
 */
#ifndef ORION_COMPAT_H
#define ORION_COMPAT_H

#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/acl.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* 16 hides symbols by default; worker entry points must stay visible. */
#if PG_VERSION_NUM >= 180000
#define ORION_WAIT_SET(n) CreateWaitEventSet(NULL, (n))
#elif PG_VERSION_NUM >= 170000
#include "utils/resowner.h"
#define ORION_WAIT_SET(n) CreateWaitEventSet(NULL, (n))
#else
#define ORION_WAIT_SET(n) CreateWaitEventSet(TopMemoryContext, (n))
#endif

#if PG_VERSION_NUM >= 160000
#include "catalog/pg_database.h"
#include "catalog/pg_class.h"
#define orion_owns_database(oid) object_ownercheck(DatabaseRelationId, (oid), GetUserId())
#define orion_owns_relation(oid) object_ownercheck(RelationRelationId, (oid), GetUserId())
#else
#define orion_owns_database(oid) pg_database_ownercheck((oid), GetUserId())
#define orion_owns_relation(oid) pg_class_ownercheck((oid), GetUserId())
#endif

/* Runs a query to its end; once: it is not run again. */
#if PG_VERSION_NUM >= 180000
#define orion_executor_run(query, once) ExecutorRun((query), ForwardScanDirection, 0)
#else
#define orion_executor_run(query, once) ExecutorRun((query), ForwardScanDirection, 0, (once))
#endif

#if PG_VERSION_NUM >= 180000
#define orion_main_loop_interrupts() ProcessMainLoopInterrupts()
#else
#define orion_main_loop_interrupts() HandleMainLoopInterrupts()
#endif

#if PG_VERSION_NUM >= 160000
#define orion_insert_index_tuples(target, slot, estate) \
	ExecInsertIndexTuples((target), (slot), (estate), false, false, NULL, NIL, false)
#else
#define orion_insert_index_tuples(target, slot, estate) \
	ExecInsertIndexTuples((target), (slot), (estate), false, false, NULL, NIL)
#endif

/* 16 can give back an error instead of raising it. */
#if PG_VERSION_NUM >= 160000
#define orion_parse_qualified_name(text) stringToQualifiedNameList((text), NULL)
#else
#define orion_parse_qualified_name(text) stringToQualifiedNameList(text)
#endif

/* What ParseLongOption() gives is malloc'ed in 15, palloc'ed since. */
#if PG_VERSION_NUM >= 160000
#define orion_free_option(text) pfree(text)
#else
#define orion_free_option(text) free(text)
#endif

/* 17 can skip the LOGIN check of the role a worker connects as. */
#if PG_VERSION_NUM >= 170000
#define ORION_WORKER_CONNECT_FLAGS BGWORKER_BYPASS_ROLELOGINCHECK
#else
#define ORION_WORKER_CONNECT_FLAGS 0
#endif

/* What a setting's check hook gives to guc.c must come from guc.c's allocator. */
#if PG_VERSION_NUM >= 160000
#define orion_guc_malloc(size) guc_malloc(LOG, (size))
#define orion_guc_free(pointer) guc_free(pointer)
#else
#define orion_guc_malloc(size) malloc(size)
#define orion_guc_free(pointer) free(pointer)
#endif

/* May the user execute the function? */
#if PG_VERSION_NUM >= 160000
#include "catalog/pg_proc.h"
#define orion_acl_function(oid, user) object_aclcheck(ProcedureRelationId, (oid), (user), ACL_EXECUTE)
#else
#define orion_acl_function(oid, user) pg_proc_aclcheck((oid), (user), ACL_EXECUTE)
#endif

/* 16 made SET ROLE an option of membership. */
#if PG_VERSION_NUM >= 160000
#define orion_may_set_role(member, role) member_can_set_role((member), (role))
#else
#define orion_may_set_role(member, role) is_member_of_role_nosuper((member), (role))
#endif

/* 16 gave parseTypeString an error context instead of a flag. */
#include "parser/parse_type.h"
#if PG_VERSION_NUM >= 160000
#define orion_parse_type(name, type, typmod) ((void) parseTypeString((name), (type), (typmod), NULL))
#else
#define orion_parse_type(name, type, typmod) parseTypeString((name), (type), (typmod), false)
#endif

#endif							/* ORION_COMPAT_H */
