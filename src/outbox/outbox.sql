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
	sealed_xid xid8,
	sealed_at timestamptz
);
COMMENT ON TABLE orion_private.outbox_state IS 'What each segment of the outbox holds';

CREATE TABLE orion_private.outbox_retained (
	since timestamptz
);
COMMENT ON TABLE orion_private.outbox_retained IS 'One row: all events published since then are in the outbox; null: all there were';
INSERT INTO orion_private.outbox_retained VALUES (NULL);

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

-- orion_publish() writes the rows without the executor and announces them itself. For all others, whatever
-- session_replication_role is: without a word before the commit relays would pass over them.
CREATE FUNCTION orion_private.outbox_inserted() RETURNS trigger
	LANGUAGE c
	AS 'MODULE_PATHNAME', 'orion_outbox_inserted';
COMMENT ON FUNCTION orion_private.outbox_inserted() IS 'Announces rows that are inserted by hand or restored to all relays';
REVOKE ALL ON FUNCTION orion_private.outbox_inserted() FROM PUBLIC;

DO $do$
DECLARE
	relation text;
BEGIN
	FOREACH relation IN ARRAY ARRAY['outbox', 'outbox_1', 'outbox_2', 'outbox_3', 'outbox_4', 'outbox_5', 'outbox_6', 'outbox_7', 'outbox_8'] LOOP
		EXECUTE pg_catalog.format('CREATE TRIGGER inserted BEFORE INSERT ON orion_private.%I'
			' FOR EACH STATEMENT EXECUTE FUNCTION orion_private.outbox_inserted()', relation);
		EXECUTE pg_catalog.format('ALTER TABLE ONLY orion_private.%I ENABLE ALWAYS TRIGGER inserted', relation);
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
	kind text NOT NULL CHECK (kind IN ('redis', 'rabbitmq', 'kafka', 'sql', 'webhook')),
	pattern text NOT NULL DEFAULT '#',
	paused bool NOT NULL DEFAULT false,
	config bytea,
	handler text,
	handler_role regrole,
	workers int NOT NULL DEFAULT 1 CHECK (workers BETWEEN 1 AND 16),
	batch int NOT NULL DEFAULT 100 CHECK (batch BETWEEN 1 AND 1000),
	max_attempts int CHECK (max_attempts BETWEEN 1 AND 100),
	timeout_ms int CHECK (timeout_ms >= 0),
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	CHECK (kind = 'sql' OR workers = 1),
	CHECK ((kind = 'sql') = (handler IS NOT NULL AND handler_role IS NOT NULL)),
	CHECK ((kind = 'sql') = (config IS NULL))
);
COMMENT ON TABLE orion_private.sinks IS 'Where events are sent to';
COMMENT ON COLUMN orion_private.sinks.config IS 'Sealed JSON: it holds passwords';
COMMENT ON COLUMN orion_private.sinks.handler IS 'kind sql: the function''s signature, qualified';
COMMENT ON COLUMN orion_private.sinks.handler_role IS 'kind sql: who subscribed, and as whom the function runs';

COMMENT ON COLUMN orion_private.sinks.workers IS 'kind sql: relays, each with a cursor of its own; they divide the keys among them';

-- How far a sink is, or a worker of a SQL handler that has several.  The window from_snapshot .. upto_snapshot is being delivered in
-- the order of seq, up to and including seq; upto_snapshot is null between windows.
-- What the sink last confirmed is kept besides: if it restarts with less, it has lost
-- something.  A low fillfactor keeps the updates in their page.
CREATE TABLE orion_private.cursors (
	sink_id int NOT NULL REFERENCES orion_private.sinks ON DELETE CASCADE,
	part int NOT NULL DEFAULT 0,
	epoch bigint NOT NULL DEFAULT 0,
	from_snapshot pg_snapshot NOT NULL,
	upto_snapshot pg_snapshot,
	window_no bigint NOT NULL DEFAULT 0,
	tag bigint NOT NULL DEFAULT 0,
	seq bigint NOT NULL DEFAULT 0,
	passed_seq bigint NOT NULL DEFAULT 0,
	kind int NOT NULL DEFAULT 0,
	first_seq bigint NOT NULL DEFAULT 0,
	last_seq bigint NOT NULL DEFAULT 0,
	replay_id bigint NOT NULL DEFAULT 0,
	confirmed_window bigint NOT NULL DEFAULT 0,
	confirmed_seq bigint NOT NULL DEFAULT 0,
	delivered bigint NOT NULL DEFAULT 0,
	updated_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	PRIMARY KEY (sink_id, part)
) WITH (fillfactor = 20, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE orion_private.cursors IS 'How far each sink is in the outbox';
COMMENT ON COLUMN orion_private.cursors.window_no IS 'Number of the window: milliseconds since 1970 when it was opened, or one more than the last';
COMMENT ON COLUMN orion_private.cursors.epoch IS 'Counted up by whoever moves the cursor for its relay';
COMMENT ON COLUMN orion_private.cursors.passed_seq IS 'The highest seq delivered, or how many numbers were passed over; late commits may be below it';
COMMENT ON COLUMN orion_private.cursors.kind IS 'Of the window: 0 what is new, 1 a part of a replay, 2 dead letters sent again; of 1 and 2 first_seq to last_seq';
COMMENT ON COLUMN orion_private.cursors.tag IS 'Random; tells the window from one of the same number in another life of this database';

-- The last windows of sinks that store their position, to go back to when such a sink
-- has lost what it had confirmed.  Not dumped: snapshots mean nothing elsewhere.
CREATE TABLE orion_private.cursor_windows (
	sink_id int NOT NULL REFERENCES orion_private.sinks ON DELETE CASCADE,
	window_no bigint NOT NULL,
	tag bigint NOT NULL,
	from_snapshot pg_snapshot NOT NULL,
	upto_snapshot pg_snapshot NOT NULL,
	kind int NOT NULL DEFAULT 0,
	first_seq bigint NOT NULL DEFAULT 0,
	last_seq bigint NOT NULL DEFAULT 0,
	replay_id bigint NOT NULL DEFAULT 0,
	opened_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	PRIMARY KEY (sink_id, window_no)
);
COMMENT ON TABLE orion_private.cursor_windows IS 'Windows delivered in the last minutes, to go back to';

-- Events that were handled and failed, and later ones of the same key, which wait for
-- them: those have no attempts and no time.  The order of a key is window_no, seq.
CREATE TABLE orion_private.parked (
	sink_id int NOT NULL REFERENCES orion_private.sinks ON DELETE CASCADE,
	part int NOT NULL,
	window_no bigint NOT NULL,
	seq bigint NOT NULL,
	key text,
	event jsonb NOT NULL,
	attempts int NOT NULL,
	next_try_at timestamptz,
	last_error text,
	PRIMARY KEY (sink_id, part, window_no, seq)
);
CREATE INDEX parked_next_try ON orion_private.parked (sink_id, part, next_try_at);
CREATE INDEX parked_key ON orion_private.parked (sink_id, part, key, window_no, seq) WHERE key IS NOT NULL;
COMMENT ON TABLE orion_private.parked IS 'Events whose SQL handler failed and will be called again';

CREATE TABLE orion_private.dead_letters (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	sink_id int NOT NULL REFERENCES orion_private.sinks ON DELETE CASCADE,
	part int NOT NULL DEFAULT 0,
	position text NOT NULL,
	key text,
	event jsonb NOT NULL,
	attempts int NOT NULL,
	error text NOT NULL,
	dead_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	UNIQUE (sink_id, part, position)
);
COMMENT ON TABLE orion_private.dead_letters IS 'Events that a sink refused for good';

-- Dead letters that a courier is to send once more.  Their numbers come after the window's
-- in their position.  What was sent is kept for as long as windows can be gone back to.
CREATE TABLE orion_private.redrives (
	seq bigint GENERATED ALWAYS AS IDENTITY,
	sink_id int NOT NULL REFERENCES orion_private.sinks ON DELETE CASCADE,
	window_no bigint,
	event jsonb NOT NULL,
	queued_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	PRIMARY KEY (sink_id, seq)
);
COMMENT ON TABLE orion_private.redrives IS 'Dead letters on their way to their sink once more';
COMMENT ON COLUMN orion_private.redrives.window_no IS 'The window in which they are sent; null: not yet';

-- What is to be sent again from the outbox: from next_seq to to_seq, a window of rows at a
-- time.  Segments are kept until that is done.
CREATE TABLE orion_private.replays (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	sink_id int NOT NULL REFERENCES orion_private.sinks ON DELETE CASCADE,
	part int NOT NULL,
	pattern text NOT NULL,
	from_time timestamptz NOT NULL,
	to_time timestamptz NOT NULL,
	from_seq bigint NOT NULL,
	next_seq bigint NOT NULL,
	to_seq bigint NOT NULL,
	upto_snapshot pg_snapshot NOT NULL,
	requested_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
CREATE INDEX replays_waiting ON orion_private.replays (sink_id, part, id) WHERE next_seq <= to_seq;
COMMENT ON TABLE orion_private.replays IS 'Ranges of the outbox that are sent to a sink again, or were lately';

DO $do$
DECLARE
	relation text;
BEGIN
	FOREACH relation IN ARRAY ARRAY['outbox_seq', 'system_origin', 'sinks', 'sinks_id_seq', 'cursors', 'parked', 'dead_letters', 'dead_letters_id_seq',
		'redrives', 'redrives_seq_seq', 'replays', 'replays_id_seq'] LOOP
		PERFORM pg_catalog.pg_extension_config_dump(pg_catalog.format('orion_private.%I', relation)::pg_catalog.regclass, '');
	END LOOP;
END
$do$;

-- The current snapshot with the own transaction counted as in progress, as it is for
-- everybody else.
CREATE FUNCTION orion_private.outbox_now() RETURNS pg_snapshot
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
	SELECT CASE WHEN own.xid IS NULL OR own.xid >= pg_snapshot_xmax(now.snapshot) THEN now.snapshot
		ELSE format('%s:%s:%s', least(own.xid, pg_snapshot_xmin(now.snapshot)), pg_snapshot_xmax(now.snapshot),
			(SELECT string_agg(x::text, ',' ORDER BY x)
				FROM (SELECT pg_snapshot_xip(now.snapshot) UNION SELECT own.xid) AS xips (x)))::pg_snapshot
		END
	FROM (SELECT pg_current_snapshot()) AS now (snapshot),
		(SELECT pg_current_xact_id_if_assigned()) AS own (xid)
	$fn$;
COMMENT ON FUNCTION orion_private.outbox_now() IS 'The snapshot that a new cursor starts at';
REVOKE ALL ON FUNCTION orion_private.outbox_now() FROM PUBLIC;

-- Transaction ids and snapshots mean nothing in another cluster.  When a dump was
-- restored, each row gets one of the numbers from 3 on, below any transaction's, by
-- the set of sinks that wait for it, and each cursor a snapshot in which the numbers it
-- waits for are in progress.  This is the only update of the outbox there is.
CREATE FUNCTION orion_private.outbox_adopt(own_system bigint) RETURNS boolean
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	now_snapshot pg_snapshot;
	waiting_sets text[];
BEGIN
	IF NOT EXISTS (SELECT FROM orion_private.system_origin WHERE system_identifier <> own_system) THEN
		IF NOT EXISTS (SELECT FROM orion_private.system_origin) THEN
			INSERT INTO orion_private.system_origin VALUES (own_system);
		END IF;
		RETURN false;
	END IF;
	LOCK TABLE orion_private.system_origin IN ACCESS EXCLUSIVE MODE;
	IF NOT EXISTS (SELECT FROM orion_private.system_origin WHERE system_identifier <> own_system) THEN
		RETURN false;
	END IF;
	LOCK TABLE orion_private.outbox, orion_private.cursors IN SHARE ROW EXCLUSIVE MODE;
	DELETE FROM orion_private.cursor_windows;
	now_snapshot := orion_private.outbox_now();

	CREATE TEMPORARY TABLE orion_adopted ON COMMIT DROP AS
		SELECT o.segment, o.seq, ARRAY(
			SELECT DISTINCT c.sink_id * 16 + c.part FROM orion_private.cursors c
			WHERE NOT pg_visible_in_snapshot(o.xid, c.from_snapshot)
				AND NOT (c.upto_snapshot IS NOT NULL AND c.kind = 0 AND o.seq <= c.seq AND pg_visible_in_snapshot(o.xid, c.upto_snapshot))
			ORDER BY 1) AS waiting
		FROM orion_private.outbox o;
	SELECT array_agg(DISTINCT a.waiting::text ORDER BY a.waiting::text) INTO waiting_sets FROM pg_temp.orion_adopted a;
	UPDATE orion_private.outbox o
		SET xid = (2 + array_position(waiting_sets, a.waiting::text))::text::xid8
		FROM pg_temp.orion_adopted a
		WHERE o.segment = a.segment AND o.seq = a.seq
			AND (a.waiting <> '{}' OR o.xid >= pg_snapshot_xmin(now_snapshot));
	UPDATE orion_private.replays r SET upto_snapshot = now_snapshot,
		next_seq = least(r.next_seq, (SELECT min(c.first_seq) FROM orion_private.cursors c
			WHERE c.kind = 1 AND c.upto_snapshot IS NOT NULL AND c.replay_id = r.id));
	UPDATE orion_private.redrives r SET window_no = NULL
		WHERE EXISTS (SELECT FROM orion_private.cursors c
			WHERE c.kind = 2 AND c.upto_snapshot IS NOT NULL AND c.sink_id = r.sink_id AND c.window_no = r.window_no);
	UPDATE orion_private.cursors c
		SET upto_snapshot = NULL, seq = 0, kind = 0, updated_at = now(),
			from_snapshot = coalesce((
				SELECT format('%s:%s:%s', min(x), pg_snapshot_xmax(now_snapshot), string_agg(x::text, ',' ORDER BY x))
				FROM (SELECT (2 + s.number)::text::xid8 FROM unnest(waiting_sets) WITH ORDINALITY AS s (sinks, number)
						WHERE c.sink_id * 16 + c.part = ANY (s.sinks::int[])
					UNION ALL SELECT pg_snapshot_xip(now_snapshot)) AS xips (x)
				HAVING count(*) > 0)::pg_snapshot, now_snapshot);
	UPDATE orion_private.outbox_state t
		SET opened_at = coalesce(t.opened_at, now()), closed_at = now(), sealed_xid = pg_snapshot_xmax(now_snapshot)
		WHERE (t.opened_at IS NULL OR t.closed_at IS NOT NULL)
			AND EXISTS (SELECT FROM pg_temp.orion_adopted a WHERE a.segment = t.segment);
	DELETE FROM orion_private.system_origin;
	INSERT INTO orion_private.system_origin VALUES (own_system);
	DROP TABLE pg_temp.orion_adopted;
	RETURN true;
END
$fn$;
COMMENT ON FUNCTION orion_private.outbox_adopt(bigint) IS 'Makes the outbox of a restored dump readable in this cluster; true if it was one';
REVOKE ALL ON FUNCTION orion_private.outbox_adopt(bigint) FROM PUBLIC;

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

CREATE FUNCTION @extschema@.orion_publish_batch(events jsonb) RETURNS uuid[]
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_publish_batch';
COMMENT ON FUNCTION @extschema@.orion_publish_batch(jsonb)
	IS 'Publishes an array of events, objects with the arguments of orion_publish as keys, all or none; returns their ids in order';
REVOKE ALL ON FUNCTION @extschema@.orion_publish_batch(jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_publish_batch(jsonb) TO orion_service, orion_admin;

-- For Orion's own functions, which call it with fewer arguments: in the schema of the
-- extension somebody may have put a function of that name that fits such a call better.
CREATE FUNCTION orion_private.publish(
	type text, payload jsonb,
	aggregatetype text DEFAULT NULL, aggregateid text DEFAULT NULL,
	correlation_id text DEFAULT NULL, causation_id text DEFAULT NULL,
	metadata jsonb DEFAULT NULL, version int DEFAULT 1)
	RETURNS uuid
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_publish';
COMMENT ON FUNCTION orion_private.publish(text, jsonb, text, text, text, text, jsonb, int) IS 'See orion_publish';
REVOKE ALL ON FUNCTION orion_private.publish(text, jsonb, text, text, text, text, jsonb, int) FROM PUBLIC;

CREATE FUNCTION orion_private.sinks_changed() RETURNS trigger
	LANGUAGE c
	AS 'MODULE_PATHNAME', 'orion_sinks_changed';
COMMENT ON FUNCTION orion_private.sinks_changed() IS 'Wakes the workers concerned at commit';
REVOKE ALL ON FUNCTION orion_private.sinks_changed() FROM PUBLIC;
CREATE TRIGGER sinks_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON orion_private.sinks
	FOR EACH STATEMENT EXECUTE FUNCTION orion_private.sinks_changed();

CREATE FUNCTION orion_private.sink_seal(config jsonb, name text) RETURNS bytea
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_sink_seal';
COMMENT ON FUNCTION orion_private.sink_seal(jsonb, text) IS 'Seals the configuration of a sink, which holds passwords';
REVOKE ALL ON FUNCTION orion_private.sink_seal(jsonb, text) FROM PUBLIC;

CREATE FUNCTION orion_private.topic_pattern_error(pattern text) RETURNS text
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_topic_pattern_error_sql';
COMMENT ON FUNCTION orion_private.topic_pattern_error(text) IS 'Why a text is no pattern of event types, or null';
REVOKE ALL ON FUNCTION orion_private.topic_pattern_error(text) FROM PUBLIC;

CREATE FUNCTION orion_private.pattern_check(pattern text) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	IF pattern IS NULL OR orion_private.topic_pattern_error(pattern) IS NOT NULL THEN
		RAISE EXCEPTION 'invalid pattern of event types: %', coalesce(orion_private.topic_pattern_error(pattern), 'it is null')
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Examples are user.created, user.* and #.';
	END IF;
END
$fn$;
COMMENT ON FUNCTION orion_private.pattern_check(text) IS 'Refuses what is no pattern of event types';
REVOKE ALL ON FUNCTION orion_private.pattern_check(text) FROM PUBLIC;

-- What is null is not looked at.
CREATE FUNCTION orion_private.subscription_check(workers int, batch int, max_attempts int, timeout interval) RETURNS void
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	IF workers NOT BETWEEN 1 AND 16 THEN
		RAISE EXCEPTION 'the number of workers must be from 1 to 16, not %', workers USING ERRCODE = 'invalid_parameter_value';
	ELSIF batch NOT BETWEEN 1 AND 1000 THEN
		RAISE EXCEPTION 'the size of a batch must be from 1 to 1000, not %', batch USING ERRCODE = 'invalid_parameter_value';
	ELSIF max_attempts NOT BETWEEN 1 AND 100 THEN
		RAISE EXCEPTION 'the number of attempts must be from 1 to 100, not %', max_attempts USING ERRCODE = 'invalid_parameter_value';
	ELSIF timeout NOT BETWEEN interval '0' AND interval '1 day' THEN
		RAISE EXCEPTION 'the timeout must be from 0 to one day, not %', timeout USING ERRCODE = 'invalid_parameter_value';
	END IF;
END
$fn$;
COMMENT ON FUNCTION orion_private.subscription_check(int, int, int, interval) IS 'Refuses numbers that a subscription cannot have';
REVOKE ALL ON FUNCTION orion_private.subscription_check(int, int, int, interval) FROM PUBLIC;

-- The table of sinks is locked.
CREATE FUNCTION orion_private.sinks_room(more int) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	IF (SELECT coalesce(sum(s.workers), 0) + more FROM orion_private.sinks s) > 64 THEN
		RAISE EXCEPTION 'there may be 64 sinks, or workers of them' USING ERRCODE = 'program_limit_exceeded';
	END IF;
END
$fn$;
COMMENT ON FUNCTION orion_private.sinks_room(int) IS 'Refuses more sinks, or workers of them, than shared memory has room for';
REVOKE ALL ON FUNCTION orion_private.sinks_room(int) FROM PUBLIC;

-- The row and the cursor of a new sink, for orion_sink_create and orion_subscribe.
CREATE FUNCTION orion_private.sink_add(name text, kind text, pattern text, config bytea, handler text, handler_role regrole,
	workers int DEFAULT 1, batch int DEFAULT 100, max_attempts int DEFAULT NULL, timeout interval DEFAULT NULL)
	RETURNS int
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	start pg_snapshot := orion_private.outbox_now();
	new_id int;
BEGIN
	IF name IS NULL OR name !~ '^[A-Za-z0-9_.-]{1,63}$' THEN
		RAISE EXCEPTION 'invalid name of a sink: "%"', name
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Use 1 to 63 letters, digits, dots, hyphens and underscores.';
	END IF;
	PERFORM orion_private.pattern_check(pattern);
	LOCK TABLE orion_private.sinks IN SHARE ROW EXCLUSIVE MODE;
	PERFORM orion_private.subscription_check(coalesce(workers, 0), coalesce(batch, 0), max_attempts, timeout);
	PERFORM orion_private.sinks_room(workers);
	IF EXISTS (SELECT FROM orion_private.sinks s WHERE s.name = sink_add.name) THEN
		RAISE EXCEPTION 'a sink named "%" already exists', name USING ERRCODE = 'duplicate_object';
	END IF;
	INSERT INTO orion_private.sinks (name, kind, pattern, config, handler, handler_role, workers, batch, max_attempts, timeout_ms)
		VALUES (name, kind, pattern, config, handler, handler_role, workers, batch, max_attempts, extract(epoch FROM timeout) * 1000)
		RETURNING id INTO new_id;
	INSERT INTO orion_private.cursors (sink_id, part, from_snapshot, seq, passed_seq)
		SELECT new_id, p.part, start, s.last_value, s.last_value
		FROM orion_private.outbox_seq s, generate_series(0, workers - 1) AS p (part);
	RETURN new_id;
END
$fn$;
COMMENT ON FUNCTION orion_private.sink_add(text, text, text, bytea, text, regrole, int, int, int, interval) IS 'Adds a sink that starts at the present';
REVOKE ALL ON FUNCTION orion_private.sink_add(text, text, text, bytea, text, regrole, int, int, int, interval) FROM PUBLIC;

-- Redis: its keys may be templates, whose placeholders the courier fills in.
CREATE FUNCTION orion_private.template_error(template text) RETURNS text
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_template_error';
COMMENT ON FUNCTION orion_private.template_error(text) IS 'Why a text is no template of keys, or null';
REVOKE ALL ON FUNCTION orion_private.template_error(text) FROM PUBLIC;

CREATE FUNCTION orion_private.template_check(key text, templates jsonb) RETURNS void
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	item jsonb;
BEGIN
	IF templates IS NULL THEN
		RETURN;
	ELSIF jsonb_typeof(templates) <> 'array' OR jsonb_array_length(templates) NOT BETWEEN 1 AND 64 THEN
		RAISE EXCEPTION 'config: key "%" must be an array of 1 to 64 strings', key USING ERRCODE = 'invalid_parameter_value';
	END IF;
	FOR item IN SELECT * FROM jsonb_array_elements(templates) LOOP
		IF jsonb_typeof(item) <> 'string' THEN
			RAISE EXCEPTION 'config: key "%" must hold strings', key USING ERRCODE = 'invalid_parameter_value';
		ELSIF orion_private.template_error(item #>> '{}') IS NOT NULL THEN
			RAISE EXCEPTION 'config: key "%": %', key, orion_private.template_error(item #>> '{}') USING ERRCODE = 'invalid_parameter_value';
		END IF;
	END LOOP;
END
$fn$;
COMMENT ON FUNCTION orion_private.template_check(text, jsonb) IS 'Refuses what is no list of templates under a key of a configuration';
REVOKE ALL ON FUNCTION orion_private.template_check(text, jsonb) FROM PUBLIC;

-- types: {"key": "type", ...} with the names of jsonb_typeof, or several with a bar between.
CREATE FUNCTION orion_private.config_check(config jsonb, types jsonb) RETURNS void
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	item record;
BEGIN
	FOR item IN SELECT c.key, c.value, t.value #>> '{}' AS wanted
		FROM jsonb_each(config) c LEFT JOIN jsonb_each(types) t ON t.key = c.key
	LOOP
		IF item.wanted IS NULL THEN
			RAISE EXCEPTION 'config: unknown key "%"', item.key
				USING ERRCODE = 'invalid_parameter_value',
					HINT = 'The keys are ' || (SELECT string_agg(k, ', ' ORDER BY k) FROM jsonb_object_keys(types) k) || '.';
		ELSIF jsonb_typeof(item.value) <> ALL (string_to_array(item.wanted, '|')) THEN
			RAISE EXCEPTION 'config: key "%" must be of type %, not %', item.key, replace(item.wanted, '|', ' or '), jsonb_typeof(item.value)
				USING ERRCODE = 'invalid_parameter_value';
		ELSIF item.value = '""' THEN
			RAISE EXCEPTION 'config: key "%" must not be empty', item.key USING ERRCODE = 'invalid_parameter_value';
		END IF;
	END LOOP;
END
$fn$;
COMMENT ON FUNCTION orion_private.config_check(jsonb, jsonb) IS 'Refuses unknown keys and values of the wrong type';
REVOKE ALL ON FUNCTION orion_private.config_check(jsonb, jsonb) FROM PUBLIC;

-- A cache rule without its pattern; see docs/redis.md.
CREATE FUNCTION orion_private.cache_rule_check(rule jsonb, with_function bool) RETURNS void
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	list text;
BEGIN
	IF rule IS NULL OR jsonb_typeof(rule) <> 'object' THEN
		RAISE EXCEPTION 'a cache rule must be an object' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'For example {"del": ["user:profile:{aggregateid}"]}.';
	END IF;
	PERFORM orion_private.config_check(rule, '{"del": "array", "tags": "array", "scan": "array", "flush": "array", "set": "object"}');
	FOREACH list IN ARRAY ARRAY['del', 'tags', 'scan', 'flush'] LOOP
		PERFORM orion_private.template_check(list, rule -> list);
	END LOOP;
	IF rule = '{}' THEN
		RAISE EXCEPTION 'a cache rule needs one of the keys del, tags, scan, flush, set' USING ERRCODE = 'invalid_parameter_value';
	ELSIF rule ? 'set' AND NOT with_function THEN
		RAISE EXCEPTION 'config: key "set" needs a function' USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Rules with a function are made with orion_cache_rule_create().';
	ELSIF with_function AND NOT rule ? 'set' THEN
		RAISE EXCEPTION 'a cache rule with a function needs the key "set"' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	IF rule ? 'set' THEN
		PERFORM orion_private.config_check(rule -> 'set', '{"key": "string", "ttl": "number", "tags": "array"}');
		IF NOT rule -> 'set' ? 'key' THEN
			RAISE EXCEPTION 'config: key "key" of "set" is missing' USING ERRCODE = 'invalid_parameter_value';
		ELSIF rule -> 'set' ? 'ttl' AND ((rule -> 'set' ->> 'ttl')::numeric NOT BETWEEN 1 AND 3153600000
				OR (rule -> 'set' ->> 'ttl') !~ '^[0-9]+$') THEN
			RAISE EXCEPTION 'config: key "ttl" must be a whole number of seconds' USING ERRCODE = 'invalid_parameter_value';
		END IF;
		PERFORM orion_private.template_check('key', jsonb_build_array(rule -> 'set' -> 'key'));
		PERFORM orion_private.template_check('tags', rule -> 'set' -> 'tags');
	END IF;
END
$fn$;
COMMENT ON FUNCTION orion_private.cache_rule_check(jsonb, bool) IS 'Refuses what is no cache rule';
REVOKE ALL ON FUNCTION orion_private.cache_rule_check(jsonb, bool) FROM PUBLIC;

-- edges: {"key": ["dependent", ...], ...}
CREATE FUNCTION orion_private.cache_dependencies_check(edges jsonb) RETURNS void
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	edge record;
	through text;
BEGIN
	FOR edge IN SELECT * FROM jsonb_each(edges) LOOP
		PERFORM orion_private.template_check('dependencies', jsonb_build_array(edge.key));
		PERFORM orion_private.template_check('dependencies', edge.value);
	END LOOP;
	WITH RECURSIVE e (key, dependent) AS (
		SELECT o.key, a.value FROM jsonb_each(edges) o, jsonb_array_elements_text(o.value) a
	), reach (key, dependent) AS (
		SELECT e.key, e.dependent FROM e
		UNION SELECT r.key, e.dependent FROM reach r JOIN e ON e.key = r.dependent
	) SELECT r.key INTO through FROM reach r WHERE r.key = r.dependent ORDER BY r.key LIMIT 1;
	IF through IS NOT NULL THEN
		RAISE EXCEPTION 'the dependencies of cache keys have a cycle through "%"', through
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
END
$fn$;
COMMENT ON FUNCTION orion_private.cache_dependencies_check(jsonb) IS 'Refuses dependencies that are malformed or have a cycle';
REVOKE ALL ON FUNCTION orion_private.cache_dependencies_check(jsonb) FROM PUBLIC;

-- The keys "url" and "tls", the same for all sinks with URLs: scheme:// is plain, schemes:// is TLS.
CREATE FUNCTION orion_private.tls_check(config jsonb, scheme text) RETURNS void
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	IF config ->> 'url' !~ ('^' || scheme || 's?://') THEN
		RAISE EXCEPTION 'config: key "url" must begin with %:// or %s://', scheme, scheme USING ERRCODE = 'invalid_parameter_value';
	ELSIF config ? 'tls' AND config ->> 'url' !~ ('^' || scheme || 's://') THEN
		RAISE EXCEPTION 'config: key "tls" needs a "url" that begins with %s://', scheme USING ERRCODE = 'invalid_parameter_value';
	ELSIF config ? 'tls' THEN
		PERFORM orion_private.config_check(config -> 'tls', '{"ca": "string", "cert": "string", "key": "string", "server_name": "string", "verify": "boolean"}');
		IF (config -> 'tls' ? 'cert') <> (config -> 'tls' ? 'key') THEN
			RAISE EXCEPTION 'config: keys "cert" and "key" go together' USING ERRCODE = 'invalid_parameter_value';
		END IF;
	END IF;
END
$fn$;
COMMENT ON FUNCTION orion_private.tls_check(jsonb, text) IS 'Refuses URLs of another scheme, and settings of TLS that cannot be right';
REVOKE ALL ON FUNCTION orion_private.tls_check(jsonb, text) FROM PUBLIC;

-- What the courier would refuse as well, said before anything is stored.
CREATE FUNCTION orion_private.redis_check(config jsonb) RETURNS void
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	item jsonb;
BEGIN
	PERFORM orion_private.config_check(config, '{"url": "string", "tls": "object", "cluster": "boolean", "nodes": "array",
		"stream": "string|boolean", "maxlen": "number", "channel": "string", "position_key": "string", "cache": "array",
		"dependencies": "object", "tag_prefix": "string", "namespace_prefix": "string"}');
	PERFORM orion_private.tls_check(config, 'redis');
	IF config ? 'nodes' AND config -> 'cluster' IS DISTINCT FROM 'true' THEN
		RAISE EXCEPTION 'config: key "nodes" needs "cluster": true' USING ERRCODE = 'invalid_parameter_value';
	ELSIF config -> 'stream' = 'true' THEN
		RAISE EXCEPTION 'config: key "stream" must be a name, or false for none' USING ERRCODE = 'invalid_parameter_value';
	ELSIF config ? 'maxlen' AND (config ->> 'maxlen' !~ '^[0-9]+$' OR (config ->> 'maxlen')::numeric NOT BETWEEN 1 AND 4503599627370496) THEN
		RAISE EXCEPTION 'config: key "maxlen" must be an integer between 1 and 4503599627370496' USING ERRCODE = 'invalid_parameter_value';
	ELSIF config ->> 'tag_prefix' ~ '[{}]' THEN
		RAISE EXCEPTION 'config: key "tag_prefix" must hold no braces' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	IF jsonb_typeof(config -> 'stream') = 'string' THEN
		PERFORM orion_private.template_check('stream', jsonb_build_array(config -> 'stream'));
	END IF;
	IF config ? 'channel' THEN
		PERFORM orion_private.template_check('channel', jsonb_build_array(config -> 'channel'));
	END IF;
	FOR item IN SELECT * FROM jsonb_array_elements(coalesce(config -> 'cache', '[]')) LOOP
		IF jsonb_typeof(item) <> 'object' OR jsonb_typeof(item -> 'pattern') IS DISTINCT FROM 'string' THEN
			RAISE EXCEPTION 'config: key "cache" must be an array of objects with a "pattern"' USING ERRCODE = 'invalid_parameter_value';
		END IF;
		PERFORM orion_private.pattern_check(item ->> 'pattern');
		PERFORM orion_private.cache_rule_check(item - 'pattern', false);
	END LOOP;
	PERFORM orion_private.cache_dependencies_check(coalesce(config -> 'dependencies', '{}'));
END
$fn$;
COMMENT ON FUNCTION orion_private.redis_check(jsonb) IS 'Refuses configurations of a Redis sink that cannot be right';
REVOKE ALL ON FUNCTION orion_private.redis_check(jsonb) FROM PUBLIC;

-- What can be said about a configuration without asking the sink.
CREATE FUNCTION orion_private.sink_check(kind text, config jsonb) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	address text;
BEGIN
	IF kind IS NULL OR kind NOT IN ('redis', 'rabbitmq', 'kafka') THEN
		RAISE EXCEPTION 'unknown kind of sink: "%"', kind
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'The kinds are redis, rabbitmq and kafka; SQL handlers are added with orion_subscribe(), webhooks with orion_webhook_create().';
	END IF;
	address := CASE kind WHEN 'kafka' THEN 'brokers' ELSE 'url' END;
	IF config IS NULL OR jsonb_typeof(config) <> 'object' OR jsonb_typeof(config -> address) IS DISTINCT FROM 'string' THEN
		RAISE EXCEPTION 'the configuration of a sink must be an object with a "%"', address
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'For example ' || CASE kind
					WHEN 'redis' THEN '{"url": "redis://localhost:6379/0"}.'
					WHEN 'rabbitmq' THEN '{"url": "amqp://user:password@localhost:5672/"}.'
					ELSE '{"brokers": "localhost:9092"}.' END;
	END IF;
	IF kind = 'redis' THEN
		PERFORM orion_private.redis_check(config);
	ELSIF kind = 'rabbitmq' THEN
		PERFORM orion_private.config_check(config, '{"url": "string", "hosts": "array", "tls": "object", "source": "string",
			"exchanges": "array", "queues": "array", "bindings": "array"}');
		PERFORM orion_private.tls_check(config, 'amqp');
	END IF;
END
$fn$;
COMMENT ON FUNCTION orion_private.sink_check(text, jsonb) IS 'Refuses kinds and configurations of sinks that cannot be right';
REVOKE ALL ON FUNCTION orion_private.sink_check(text, jsonb) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_sink_create(name text, kind text, config jsonb, pattern text DEFAULT '#')
	RETURNS int
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	id int;
BEGIN
	PERFORM orion_private.sink_check(kind, config);
	id := orion_private.sink_add(name, kind, pattern, orion_private.sink_seal(config, name), NULL, NULL);
	PERFORM orion_private.audit('sink.create', 'sink', name, new => jsonb_build_object('kind', kind, 'pattern', pattern));
	RETURN id;
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_sink_create(text, text, jsonb, text)
	IS 'Adds a sink (redis, rabbitmq, kafka) for the events from now on whose type matches the pattern; returns its id';

-- The relay reads the sink anew at commit: what it has not sent yet goes the new way.
CREATE FUNCTION @extschema@.orion_sink_alter(name text, pattern text DEFAULT NULL, config jsonb DEFAULT NULL)
	RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	sink orion_private.sinks;
BEGIN
	SELECT * INTO sink FROM orion_private.sinks s WHERE s.name = orion_sink_alter.name FOR UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no sink named "%"', name USING ERRCODE = 'undefined_object';
	END IF;
	IF pattern IS NOT NULL THEN
		PERFORM orion_private.pattern_check(pattern);
	END IF;
	IF config IS NOT NULL AND sink.kind = 'sql' THEN
		RAISE EXCEPTION 'a SQL handler has no configuration'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Subscriptions are changed with orion_subscribe_alter().';
	ELSIF config IS NOT NULL THEN
		PERFORM orion_private.sink_check(sink.kind, config);
	END IF;
	UPDATE orion_private.sinks s SET
		pattern = coalesce(orion_sink_alter.pattern, s.pattern),
		config = CASE WHEN orion_sink_alter.config IS NULL THEN s.config
			ELSE orion_private.sink_seal(orion_sink_alter.config, s.name) END
		WHERE s.id = sink.id;
	-- the configuration holds passwords: only that it changed is said
	PERFORM orion_private.audit('sink.alter', 'sink', name,
		old => jsonb_build_object('pattern', sink.pattern),
		new => jsonb_build_object('pattern', coalesce(pattern, sink.pattern), 'config', config IS NOT NULL));
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_sink_alter(text, text, jsonb)
	IS 'Gives a sink another pattern, another configuration, or both; it goes on from where it is';

CREATE FUNCTION @extschema@.orion_sink_pause(name text) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	UPDATE orion_private.sinks s SET paused = true WHERE s.name = orion_sink_pause.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no sink named "%"', name USING ERRCODE = 'undefined_object';
	END IF;
	PERFORM orion_private.audit('sink.pause', 'sink', name);
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_sink_pause(text) IS 'Stops sending events to a sink; they wait';

CREATE FUNCTION @extschema@.orion_sink_resume(name text) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	UPDATE orion_private.sinks s SET paused = false WHERE s.name = orion_sink_resume.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no sink named "%"', name USING ERRCODE = 'undefined_object';
	END IF;
	PERFORM orion_private.audit('sink.resume', 'sink', name);
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_sink_resume(text) IS 'Sends events to a paused sink again, from where it was';

CREATE FUNCTION @extschema@.orion_sink_drop(name text) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	DELETE FROM orion_private.sinks s WHERE s.name = orion_sink_drop.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no sink named "%"', name USING ERRCODE = 'undefined_object';
	END IF;
	PERFORM orion_private.audit('sink.drop', 'sink', name);
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_sink_drop(text) IS 'Removes a sink, its position and its dead letters';

-- In C, because only there the immediate caller is known: the handler runs as that role.
CREATE FUNCTION @extschema@.orion_subscribe(name text, pattern text, handler regprocedure,
	workers int DEFAULT 1, batch int DEFAULT 100, max_attempts int DEFAULT NULL, timeout interval DEFAULT NULL)
	RETURNS int
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_subscribe';
COMMENT ON FUNCTION @extschema@.orion_subscribe(text, text, regprocedure, int, int, int, interval)
	IS 'Calls handler(event jsonb) as the current role for each event from now on whose type matches the pattern, exactly once; returns the sink''s id';

CREATE FUNCTION @extschema@.orion_unsubscribe(name text) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_unsubscribe';
COMMENT ON FUNCTION @extschema@.orion_unsubscribe(text) IS 'Ends a subscription of one''s own, or of anybody for members of orion_admin';

REVOKE ALL ON FUNCTION
	@extschema@.orion_sink_create(text, text, jsonb, text),
	@extschema@.orion_sink_alter(text, text, jsonb),
	@extschema@.orion_sink_pause(text),
	@extschema@.orion_sink_resume(text),
	@extschema@.orion_sink_drop(text),
	@extschema@.orion_subscribe(text, text, regprocedure, int, int, int, interval),
	@extschema@.orion_unsubscribe(text)
	FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
	@extschema@.orion_sink_create(text, text, jsonb, text),
	@extschema@.orion_sink_alter(text, text, jsonb),
	@extschema@.orion_sink_pause(text),
	@extschema@.orion_sink_resume(text),
	@extschema@.orion_sink_drop(text)
	TO orion_admin;
GRANT EXECUTE ON FUNCTION
	@extschema@.orion_subscribe(text, text, regprocedure, int, int, int, interval),
	@extschema@.orion_unsubscribe(text)
	TO orion_admin, orion_service;
