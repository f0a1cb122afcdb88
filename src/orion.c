/*
 * orion.c
 *	  Loads Orion: a list of calls in module order and nothing else.
 *
 * Runs in the postmaster (shared_preload_libraries) and is inherited by every
 * backend.  Each module defines its own settings, hooks and shared memory.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/guc.h"

#include "cache/cache.h"
#include "core/shmem.h"
#include "core/wake.h"
#include "inbound/inbound.h"
#include "outbox/outbox.h"
#include "rest/rest.h"
#include "seal/seal.h"
#include "token/token.h"
#include "track/track.h"
#include "webhook/webhook.h"
#include "audit/audit.h"
#include "auth/auth.h"
#include "apikey/apikey.h"
#include "mfa/mfa.h"
#include "contract/contract.h"
#include "gateway_worker.h"
#include "launcher.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("orion must be loaded at server start"),
				 errhint("Add orion to shared_preload_libraries in postgresql.conf and restart the server.")));

	orion_shmem_init();
	orion_wake_init();
	orion_seal_init();
	orion_token_init();
	orion_audit_init();
	orion_auth_init();
	orion_api_key_init();
	orion_mfa_init();
	orion_contract_init();
	orion_outbox_init();
	orion_cache_init();
	orion_track_init();
	orion_webhook_init();
	orion_inbound_init();
	orion_rest_init();
	orion_gateway_init();
	orion_launcher_init();
	MarkGUCPrefixReserved("orion");
}
