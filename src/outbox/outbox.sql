-- The transactional outbox: events, segments, cursors, sinks, SQL handlers.
--
-- Events are rows of a ring of eight tables that only grow and are truncated:
-- no row is ever updated or deleted (but see orion_private.outbox_adopt).

CREATE SEQUENCE orion_private.outbox_seq AS bigint CACHE 1;

CREATE TABLE orion_private.outbox (
	segment int2 NOT NULL,
	seq bigint NOT NULL,
	xid xid8 NOT NULL,
	id uuid NOT NULL,
	aggregatetype text,
	aggregateid text,
	type text NOT NULL,
	payload jsonb NOT NULL,
	version int NOT NULL,
	correlation_id text,
	causation_id text,
	metadata jsonb,
	occurred_at timestamptz NOT NULL
) PARTITION BY LIST (segment);
COMMENT ON TABLE orion_private.outbox IS 'Published events, append-only; the columns that Debezium''s outbox router knows have its names';
COMMENT ON COLUMN orion_private.outbox.seq IS 'Order of publishing; not the order of commit';
COMMENT ON COLUMN orion_private.outbox.xid IS 'The publishing transaction: cursors find new events by it';

-- By xid a cursor finds what has become visible, by seq it reads that in order.
CREATE INDEX outbox_xid ON orion_private.outbox (xid);
CREATE INDEX outbox_seq_key ON orion_private.outbox (seq);

-- One row a segment, in the ring's order.  Empty: opened_at is null.  Open: rows may
-- still come while sealed_xid is null.  Sealed: sealed_xid is above every xid in it.
-- The current one was opened and not closed.
CREATE TABLE orion_private.outbox_state (
	segment int2 PRIMARY KEY,
	opened_at timestamptz,
	closed_at timestamptz,
	sealed_xid xid8
);
COMMENT ON TABLE orion_private.outbox_state IS 'What each segment of the outbox holds';

DO $do$
BEGIN
	FOR segment IN 1 .. 8 LOOP
		EXECUTE pg_catalog.format('CREATE TABLE orion_private.outbox_%s PARTITION OF orion_private.outbox FOR VALUES IN (%s)', segment, segment);
		PERFORM pg_catalog.pg_extension_config_dump(pg_catalog.format('orion_private.outbox_%s', segment)::pg_catalog.regclass, '');
		INSERT INTO orion_private.outbox_state (segment, opened_at)
			VALUES (segment, CASE WHEN segment OPERATOR(pg_catalog.=) 1 THEN pg_catalog.now() END);
	END LOOP;
END
$do$;

-- Which cluster the transaction ids in these tables belong to.  The name sorts
-- behind the other tables, so a restore fills it last.
CREATE TABLE orion_private.system_origin (
	system_identifier bigint NOT NULL
);
COMMENT ON TABLE orion_private.system_origin IS 'Whose transaction ids the outbox and the cursors hold; a second row appears when a dump is restored';

CREATE TABLE orion_private.sinks (
	id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name text NOT NULL UNIQUE CHECK (name ~ '^[A-Za-z0-9_.-]{1,63}$'),
	kind text NOT NULL CHECK (kind IN ('redis', 'rabbitmq', 'sql')),
	pattern text NOT NULL DEFAULT '#',
	paused bool NOT NULL DEFAULT false,
	config bytea,
	handler text,
	handler_role regrole,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	CHECK ((kind = 'sql') = (handler IS NOT NULL AND handler_role IS NOT NULL)),
	CHECK ((kind = 'sql') = (config IS NULL))
);
COMMENT ON TABLE orion_private.sinks IS 'Where events are sent to';
COMMENT ON COLUMN orion_private.sinks.config IS 'Sealed JSON: it holds passwords';
COMMENT ON COLUMN orion_private.sinks.handler IS 'kind sql: the function''s signature, qualified';
COMMENT ON COLUMN orion_private.sinks.handler_role IS 'kind sql: who subscribed, and as whom the function runs';

-- How far a sink is.  The window from_snapshot .. upto_snapshot is being delivered in
-- the order of seq, up to and including seq; upto_snapshot is null between windows.
-- A low fillfactor keeps the updates in their page.
CREATE TABLE orion_private.cursors (
	sink_id int PRIMARY KEY REFERENCES orion_private.sinks ON DELETE CASCADE,
	from_snapshot pg_snapshot NOT NULL,
	upto_snapshot pg_snapshot,
	window_no bigint NOT NULL DEFAULT 0,
	seq bigint NOT NULL DEFAULT 0,
	delivered bigint NOT NULL DEFAULT 0,
	updated_at timestamptz NOT NULL DEFAULT pg_catalog.now()
) WITH (fillfactor = 20, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE orion_private.cursors IS 'How far each sink is in the outbox';

CREATE TABLE orion_private.parked (
	sink_id int NOT NULL REFERENCES orion_private.sinks ON DELETE CASCADE,
	seq bigint NOT NULL,
	window_no bigint NOT NULL,
	event jsonb NOT NULL,
	attempts int NOT NULL,
	next_try_at timestamptz NOT NULL,
	last_error text,
	PRIMARY KEY (sink_id, seq)
);
CREATE INDEX parked_next_try ON orion_private.parked (sink_id, next_try_at);
COMMENT ON TABLE orion_private.parked IS 'Events whose SQL handler failed and will be called again';

CREATE TABLE orion_private.dead_letters (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	sink_id int NOT NULL REFERENCES orion_private.sinks ON DELETE CASCADE,
	position text NOT NULL,
	event jsonb NOT NULL,
	attempts int NOT NULL,
	error text NOT NULL,
	dead_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE orion_private.dead_letters IS 'Events that a sink refused for good';

DO $do$
DECLARE
	relation text;
BEGIN
	FOREACH relation IN ARRAY ARRAY['outbox_seq', 'system_origin', 'sinks', 'sinks_id_seq', 'cursors', 'parked', 'dead_letters', 'dead_letters_id_seq'] LOOP
		PERFORM pg_catalog.pg_extension_config_dump(pg_catalog.format('orion_private.%I', relation)::pg_catalog.regclass, '');
	END LOOP;
END
$do$;

-- No SET search_path: the C function resolves no name through it, and setting it
-- would be a fifth of the cost of a call.
CREATE FUNCTION @extschema@.orion_publish(
	type text, payload jsonb,
	aggregatetype text DEFAULT NULL, aggregateid text DEFAULT NULL,
	correlation_id text DEFAULT NULL, causation_id text DEFAULT NULL,
	metadata jsonb DEFAULT NULL, version int DEFAULT 1)
	RETURNS uuid
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_publish';
COMMENT ON FUNCTION @extschema@.orion_publish(text, jsonb, text, text, text, text, jsonb, int)
	IS 'Publishes an event in this transaction: every sink whose pattern matches the type receives it after commit; returns the event''s id';
REVOKE ALL ON FUNCTION @extschema@.orion_publish(text, jsonb, text, text, text, text, jsonb, int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_publish(text, jsonb, text, text, text, text, jsonb, int) TO orion_service, orion_admin;
