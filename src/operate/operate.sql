-- Operating the outbox: what is going on, and what an administrator can do about it.
--
-- Whoever moves a cursor here counts up its epoch: the relay, which works by the cursor it
-- has read, then fails to store it and starts anew (see src/outbox/cursor.c).  Everything
-- here is on the audit log.

CREATE FUNCTION orion_private.topic_matches(pattern text, type text) RETURNS boolean
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_topic_matches';
COMMENT ON FUNCTION orion_private.topic_matches(text, text) IS 'True when the type of an event matches the pattern';
REVOKE ALL ON FUNCTION orion_private.topic_matches(text, text) FROM PUBLIC;

CREATE FUNCTION orion_private.sink_part(key text, workers int) RETURNS int
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'orion_sink_part';
COMMENT ON FUNCTION orion_private.sink_part(text, int) IS 'Which of the workers of a SQL handler has a key';
REVOKE ALL ON FUNCTION orion_private.sink_part(text, int) FROM PUBLIC;

-- The sink with this name, locked against the other functions here.
CREATE FUNCTION orion_private.sink_named(name text) RETURNS orion_private.sinks
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	sink orion_private.sinks;
BEGIN
	SELECT * INTO sink FROM orion_private.sinks s WHERE s.name = sink_named.name FOR UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no sink named "%"', name USING ERRCODE = 'undefined_object';
	END IF;
	RETURN sink;
END
$fn$;
COMMENT ON FUNCTION orion_private.sink_named(text) IS 'The sink with this name, locked; an error when there is none';
REVOKE ALL ON FUNCTION orion_private.sink_named(text) FROM PUBLIC;

-- The relays of a sink look at it anew after the commit.
CREATE FUNCTION orion_private.sink_touch(sink_id int) RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$ UPDATE orion_private.sinks SET paused = paused WHERE id = sink_id $fn$;
COMMENT ON FUNCTION orion_private.sink_touch(int) IS 'Has the relays of a sink look at it anew';
REVOKE ALL ON FUNCTION orion_private.sink_touch(int) FROM PUBLIC;

-- Of each key with parked events the first is called next, the others wait for it.
CREATE FUNCTION orion_private.parked_order(sink int, keys text[]) RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
	UPDATE orion_private.parked p SET next_try_at = CASE WHEN (p.window_no, p.seq) = (
			SELECT f.window_no, f.seq FROM orion_private.parked f
			WHERE f.sink_id = p.sink_id AND f.part = p.part AND f.key = p.key
			ORDER BY f.window_no, f.seq LIMIT 1) THEN now() END
		WHERE p.sink_id = sink AND p.key = ANY (keys)
	$fn$;
COMMENT ON FUNCTION orion_private.parked_order(int, text[]) IS 'Makes the first parked event of each of these keys due, and no other';
REVOKE ALL ON FUNCTION orion_private.parked_order(int, text[]) FROM PUBLIC;

-- As src/outbox/event.c makes it.
CREATE FUNCTION orion_private.outbox_envelope(o orion_private.outbox) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	SET timezone = 'UTC'
	AS $fn$
	SELECT jsonb_build_object('eventId', o.id, 'eventType', o.type, 'version', o.version, 'timestamp', o.occurred_at,
		'correlationId', o.correlation_id, 'causationId', o.causation_id,
		'aggregateType', o.aggregatetype, 'aggregateId', o.aggregateid, 'metadata', o.metadata, 'payload', o.payload)
	$fn$;
COMMENT ON FUNCTION orion_private.outbox_envelope(orion_private.outbox) IS 'What handlers and sinks get of an event';
REVOKE ALL ON FUNCTION orion_private.outbox_envelope(orion_private.outbox) FROM PUBLIC;

-- The event that a cursor would send next, as an envelope; null when there is none in its
-- window.  Relays that work meanwhile are ahead of what is stored.
CREATE FUNCTION orion_private.cursor_next(sink orion_private.sinks, c orion_private.cursors, OUT seq bigint, OUT event jsonb)
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	SET timezone = 'UTC'
	AS $fn$
BEGIN
	IF c.upto_snapshot IS NULL THEN
		RETURN;
	ELSIF c.kind = 2 THEN
		SELECT r.seq, r.event INTO cursor_next.seq, cursor_next.event FROM orion_private.redrives r
			WHERE r.sink_id = sink.id AND r.window_no = c.window_no AND r.seq > c.seq
			ORDER BY r.seq LIMIT 1;
		RETURN;
	END IF;
	SELECT o.seq, orion_private.outbox_envelope(o)
		INTO cursor_next.seq, cursor_next.event
		FROM orion_private.outbox o
		WHERE o.seq > c.seq AND (c.kind = 0 OR o.seq <= c.last_seq)
			AND (c.kind = 1 OR NOT pg_visible_in_snapshot(o.xid, c.from_snapshot))
			AND pg_visible_in_snapshot(o.xid, c.upto_snapshot)
			AND orion_private.topic_matches(sink.pattern, o.type)
			AND orion_private.sink_part(coalesce(o.aggregatetype || '/' || o.aggregateid, '/' || o.aggregateid, o.id::text),
				sink.workers) = c.part
			AND (c.kind = 0 OR EXISTS (SELECT FROM orion_private.replays r WHERE r.id = c.replay_id
				AND o.occurred_at >= r.from_time AND o.occurred_at < r.to_time
				AND orion_private.topic_matches(r.pattern, o.type)))
		ORDER BY o.seq LIMIT 1;
END
$fn$;
COMMENT ON FUNCTION orion_private.cursor_next(orion_private.sinks, orion_private.cursors) IS 'The event that a cursor would send next';
REVOKE ALL ON FUNCTION orion_private.cursor_next(orion_private.sinks, orion_private.cursors) FROM PUBLIC;

-- A failing event of a SQL handler that is parked: to the dead letters with it.
CREATE FUNCTION orion_private.skip_parked(sink orion_private.sinks) RETURNS uuid
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	head orion_private.parked;
BEGIN
	SELECT * INTO head FROM orion_private.parked p WHERE p.sink_id = sink.id AND p.next_try_at IS NOT NULL
		ORDER BY p.attempts DESC, p.window_no, p.seq LIMIT 1 FOR UPDATE;
	IF NOT FOUND THEN
		RETURN NULL;
	END IF;
	DELETE FROM orion_private.parked p
		WHERE p.sink_id = head.sink_id AND p.part = head.part AND p.window_no = head.window_no AND p.seq = head.seq;
	INSERT INTO orion_private.dead_letters (sink_id, part, position, key, event, attempts, error)
		VALUES (head.sink_id, head.part, format('%s:%s', head.window_no, head.seq), head.key, head.event, head.attempts,
			concat_ws(': ', 'skipped', head.last_error))
		ON CONFLICT (sink_id, part, position) DO UPDATE SET attempts = excluded.attempts, error = excluded.error;
	PERFORM orion_private.parked_order(head.sink_id, ARRAY[head.key]);
	RETURN head.event ->> 'eventId';
END
$fn$;
COMMENT ON FUNCTION orion_private.skip_parked(orion_private.sinks) IS 'Makes the parked event with the most attempts a dead letter; null when none is parked';
REVOKE ALL ON FUNCTION orion_private.skip_parked(orion_private.sinks) FROM PUBLIC;

-- The event that is next, in a sink that does not get on.
CREATE FUNCTION orion_private.skip_next(sink orion_private.sinks) RETURNS uuid
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	c orion_private.cursors;
	next record;
BEGIN
	IF NOT sink.paused AND NOT EXISTS (SELECT FROM orion_private.workers() w
			WHERE w.kind = 'relay' AND w.sink_id = sink.id AND (w.state <> 'running' OR w.attempts > 0 OR w.last_error IS NOT NULL)) THEN
		RAISE EXCEPTION 'no event of sink "%" is failing', sink.name
			USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'To skip the next event all the same, pause the sink first.';
	END IF;
	FOR c IN SELECT * FROM orion_private.cursors x WHERE x.sink_id = sink.id ORDER BY x.window_no, x.seq FOR UPDATE LOOP
		next := orion_private.cursor_next(sink, c);
		CONTINUE WHEN next.seq IS NULL;
		INSERT INTO orion_private.dead_letters (sink_id, part, position, key, event, attempts, error)
			VALUES (sink.id, c.part, format('%s:%s', c.window_no, next.seq),
				CASE WHEN sink.kind = 'sql' THEN coalesce(next.event ->> 'aggregateType', '') || '/' || (next.event ->> 'aggregateId') END,
				next.event, 0, 'skipped')
			ON CONFLICT (sink_id, part, position) DO NOTHING;
		UPDATE orion_private.cursors x SET seq = next.seq, epoch = epoch + 1, updated_at = now(),
			passed_seq = CASE WHEN c.kind = 0 THEN greatest(passed_seq, next.seq) ELSE passed_seq END
			WHERE x.sink_id = c.sink_id AND x.part = c.part;
		RETURN next.event ->> 'eventId';
	END LOOP;
	RAISE EXCEPTION 'sink "%" is sending nothing', sink.name USING ERRCODE = 'object_not_in_prerequisite_state',
		HINT = 'To leave out all that was published until now, give "now" as the position.';
END
$fn$;
COMMENT ON FUNCTION orion_private.skip_next(orion_private.sinks) IS 'Makes the next event of a sink that does not get on a dead letter';
REVOKE ALL ON FUNCTION orion_private.skip_next(orion_private.sinks) FROM PUBLIC;

CREATE FUNCTION orion_private.skip_to_now(sink orion_private.sinks) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	start pg_snapshot := orion_private.outbox_now();
	last_drawn bigint := (SELECT s.last_value FROM orion_private.outbox_seq s);
BEGIN
	-- dead letters on their way go back to where they were
	WITH gone AS (
		DELETE FROM orion_private.redrives r USING orion_private.cursors c
			WHERE r.sink_id = sink.id AND c.sink_id = r.sink_id AND c.part = 0
				AND (r.window_no IS NULL OR r.window_no = c.window_no AND c.kind = 2 AND c.upto_snapshot IS NOT NULL AND r.seq > c.seq)
			RETURNING r.*)
	INSERT INTO orion_private.dead_letters (sink_id, position, event, attempts, error)
		SELECT g.sink_id, format('redrive:%s', g.seq), g.event, 1, 'skipped' FROM gone g;
	DELETE FROM orion_private.replays r WHERE r.sink_id = sink.id AND (r.next_seq <= r.to_seq
		OR EXISTS (SELECT FROM orion_private.cursors c WHERE c.replay_id = r.id AND c.kind = 1 AND c.upto_snapshot IS NOT NULL));
	UPDATE orion_private.cursors c SET from_snapshot = start, upto_snapshot = NULL, kind = 0, epoch = epoch + 1, updated_at = now(),
		seq = last_drawn, passed_seq = last_drawn
		WHERE c.sink_id = sink.id;
END
$fn$;
COMMENT ON FUNCTION orion_private.skip_to_now(orion_private.sinks) IS 'Leaves out all that was published until now';
REVOKE ALL ON FUNCTION orion_private.skip_to_now(orion_private.sinks) FROM PUBLIC;

CREATE FUNCTION orion_private.skip_to_position(sink orion_private.sinks, upto text) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	UPDATE orion_private.cursors c SET seq = split_part(upto, ':', 2)::bigint, epoch = epoch + 1, updated_at = now(),
		passed_seq = CASE WHEN c.kind = 0 THEN greatest(passed_seq, split_part(upto, ':', 2)::bigint) ELSE passed_seq END
		WHERE c.sink_id = sink.id AND c.upto_snapshot IS NOT NULL
			AND c.window_no = split_part(upto, ':', 1)::bigint AND c.seq < split_part(upto, ':', 2)::bigint
			AND split_part(upto, ':', 2)::bigint <= (SELECT s.last_value FROM orion_private.outbox_seq s);
	IF NOT FOUND THEN
		RAISE EXCEPTION 'position % is not ahead in what sink "%" is sending', upto, sink.name
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'orion.sinks.position tells where it is: a window and a number in it. Another form is "now".';
	END IF;
END
$fn$;
COMMENT ON FUNCTION orion_private.skip_to_position(orion_private.sinks, text) IS 'Leaves out what comes before a position of the open window, and that itself';
REVOKE ALL ON FUNCTION orion_private.skip_to_position(orion_private.sinks, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_skip(sink text, upto text DEFAULT NULL) RETURNS uuid
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	target orion_private.sinks := orion_private.sink_named(sink);
	skipped uuid;
BEGIN
	IF upto IS NULL THEN
		IF target.kind = 'sql' THEN
			skipped := orion_private.skip_parked(target);
		END IF;
		skipped := coalesce(skipped, orion_private.skip_next(target));
	ELSIF upto = 'now' THEN
		PERFORM orion_private.skip_to_now(target);
	ELSIF upto ~ '^\d{1,18}:\d{1,18}(:[0-9a-f]{16})?$' THEN
		PERFORM orion_private.skip_to_position(target, upto);
	ELSE
		RAISE EXCEPTION 'invalid position: "%"', upto
			USING ERRCODE = 'invalid_parameter_value', HINT = 'A position is <window>:<seq>, as in orion.sinks, or "now".';
	END IF;
	PERFORM orion_private.sink_touch(target.id);
	PERFORM orion_private.audit('sink.skip', 'sink', sink,
		metadata => jsonb_build_object('role', orion_private.caller()::regrole, 'event', skipped, 'upto', upto));
	RETURN skipped;
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_skip(text, text)
	IS 'Skips the event that holds up a sink, which becomes a dead letter, and returns its id; or skips all up to a position, or up to "now"';

-- Another number of workers for a SQL handler; its cursors are locked, and nobody replays.
-- Snapshots of one server lie in one another, so the largest one that any of the cursors has
-- takes in all that any of them has delivered.  It is where the new cursors begin.  What a
-- worker has not handled before it is parked, in its order, with the worker that has the key
-- now.  One cursor alone is just copied: nobody is behind it.
CREATE FUNCTION orion_private.sink_divide(sink orion_private.sinks, new_workers int) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	SET timezone = 'UTC'
	AS $fn$
DECLARE
	target pg_snapshot;
	keys text[];
BEGIN
	IF sink.workers > 1 THEN
		SELECT x.s INTO target
			FROM orion_private.cursors c, LATERAL (SELECT coalesce(c.upto_snapshot, c.from_snapshot) AS s) x
			WHERE c.sink_id = sink.id
			ORDER BY pg_snapshot_xmax(x.s) DESC, (SELECT count(*) FROM pg_snapshot_xip(x.s)) LIMIT 1;
		INSERT INTO orion_private.parked (sink_id, part, window_no, seq, key, event, attempts)
			SELECT c.sink_id, c.part, CASE WHEN pg_visible_in_snapshot(o.xid, c.upto_snapshot) THEN c.window_no ELSE c.window_no + 1 END,
				o.seq, k.key, orion_private.outbox_envelope(o), 0
			FROM orion_private.cursors c
			JOIN orion_private.outbox o ON o.xid >= pg_snapshot_xmin(c.from_snapshot) AND NOT pg_visible_in_snapshot(o.xid, c.from_snapshot)
			CROSS JOIN LATERAL (SELECT coalesce(o.aggregatetype || '/' || o.aggregateid, '/' || o.aggregateid) AS key) k
			WHERE c.sink_id = sink.id AND pg_visible_in_snapshot(o.xid, target)
				AND NOT coalesce(o.seq <= c.seq AND pg_visible_in_snapshot(o.xid, c.upto_snapshot), false)
				AND orion_private.topic_matches(sink.pattern, o.type)
				AND orion_private.sink_part(coalesce(k.key, o.id::text), sink.workers) = c.part;
	END IF;
	UPDATE orion_private.parked p SET part = orion_private.sink_part(coalesce(p.key, p.event ->> 'eventId'), new_workers),
		next_try_at = CASE WHEN p.key IS NULL THEN coalesce(p.next_try_at, now()) ELSE p.next_try_at END
		WHERE p.sink_id = sink.id;
	UPDATE orion_private.dead_letters d SET part = orion_private.sink_part(coalesce(d.key, d.event ->> 'eventId'), new_workers)
		WHERE d.sink_id = sink.id;
	-- a key whose first event waits for nothing but its turn
	SELECT array_agg(DISTINCT p.key) INTO keys FROM orion_private.parked p WHERE p.sink_id = sink.id AND p.key IS NOT NULL
		AND NOT EXISTS (SELECT FROM orion_private.parked f WHERE f.sink_id = p.sink_id AND f.key = p.key AND f.next_try_at IS NOT NULL);
	PERFORM orion_private.parked_order(sink.id, keys);
	WITH old AS (DELETE FROM orion_private.cursors c WHERE c.sink_id = sink.id RETURNING c.*)
	INSERT INTO orion_private.cursors (sink_id, part, epoch, from_snapshot, upto_snapshot, window_no, tag, seq, passed_seq, delivered)
		SELECT sink.id, p.part, max(o.epoch) + 1,
			coalesce(target, (array_agg(o.from_snapshot))[1]),
			CASE WHEN target IS NULL THEN (array_agg(o.upto_snapshot))[1] END,
			max(o.window_no) + CASE WHEN target IS NULL THEN 0 ELSE 1 END,
			max(o.tag), max(o.seq), max(o.passed_seq), CASE WHEN p.part = 0 THEN sum(o.delivered) ELSE 0 END
		FROM old o, generate_series(0, new_workers - 1) AS p (part)
		GROUP BY p.part;
END
$fn$;
COMMENT ON FUNCTION orion_private.sink_divide(orion_private.sinks, int) IS 'Divides the keys of a SQL handler among another number of workers';
REVOKE ALL ON FUNCTION orion_private.sink_divide(orion_private.sinks, int) FROM PUBLIC;

-- For orion_subscribe_alter; what is null stays.  A relay holds its cursor's row when it parks an event, which
-- refers to the sink: so no stronger lock than NO KEY UPDATE on the sink while the cursors are waited for.
CREATE FUNCTION orion_private.subscription_alter(sink_id int, pattern text, handler text, handler_role regrole,
	workers int, batch int, max_attempts int, timeout interval)
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	old orion_private.sinks;
	new orion_private.sinks;
BEGIN
	IF pattern IS NOT NULL THEN
		PERFORM orion_private.pattern_check(pattern);
	END IF;
	PERFORM orion_private.subscription_check(workers, batch, max_attempts, timeout);
	SELECT * INTO STRICT old FROM orion_private.sinks s WHERE s.id = subscription_alter.sink_id FOR NO KEY UPDATE;
	IF workers <> old.workers THEN
		PERFORM FROM orion_private.cursors c WHERE c.sink_id = old.id ORDER BY c.part FOR UPDATE;
		LOCK TABLE orion_private.sinks IN SHARE ROW EXCLUSIVE MODE;
		PERFORM orion_private.sinks_room(workers - old.workers);
		IF EXISTS (SELECT FROM orion_private.replays r WHERE r.sink_id = old.id AND r.next_seq <= r.to_seq)
			OR EXISTS (SELECT FROM orion_private.cursors c WHERE c.sink_id = old.id AND c.kind <> 0 AND c.upto_snapshot IS NOT NULL) THEN
			RAISE EXCEPTION 'a replay of "%" is under way', old.name USING ERRCODE = 'object_not_in_prerequisite_state',
				HINT = 'The number of workers can be changed when it is over; see orion.replays.';
		END IF;
	END IF;
	UPDATE orion_private.sinks s SET
		pattern = coalesce(subscription_alter.pattern, s.pattern),
		handler = coalesce(subscription_alter.handler, s.handler),
		handler_role = CASE WHEN subscription_alter.handler IS NULL THEN s.handler_role ELSE subscription_alter.handler_role END,
		workers = coalesce(subscription_alter.workers, s.workers),
		batch = coalesce(subscription_alter.batch, s.batch),
		max_attempts = coalesce(subscription_alter.max_attempts, s.max_attempts),
		timeout_ms = coalesce(extract(epoch FROM timeout) * 1000, s.timeout_ms)
		WHERE s.id = old.id
		RETURNING * INTO new;
	IF new.workers <> old.workers THEN
		-- by the new pattern, with the old division
		new.workers := old.workers;
		PERFORM orion_private.sink_divide(new, workers);
		new.workers := workers;
	END IF;
	PERFORM orion_private.audit('sink.alter', 'sink', old.name,
		old => jsonb_build_object('pattern', old.pattern, 'handler', old.handler, 'role', old.handler_role, 'workers', old.workers,
			'batch', old.batch, 'maxAttempts', old.max_attempts, 'timeoutMs', old.timeout_ms),
		new => jsonb_build_object('pattern', new.pattern, 'handler', new.handler, 'role', new.handler_role, 'workers', new.workers,
			'batch', new.batch, 'maxAttempts', new.max_attempts, 'timeoutMs', new.timeout_ms));
END
$fn$;
COMMENT ON FUNCTION orion_private.subscription_alter(int, text, text, regrole, int, int, int, interval) IS 'Changes a subscription';
REVOKE ALL ON FUNCTION orion_private.subscription_alter(int, text, text, regrole, int, int, int, interval) FROM PUBLIC;

-- In C, because only there the immediate caller is known: a new handler runs as that role.
CREATE FUNCTION @extschema@.orion_subscribe_alter(name text, pattern text DEFAULT NULL, handler regprocedure DEFAULT NULL,
	workers int DEFAULT NULL, batch int DEFAULT NULL, max_attempts int DEFAULT NULL, timeout interval DEFAULT NULL)
	RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_subscribe_alter';
COMMENT ON FUNCTION @extschema@.orion_subscribe_alter(text, text, regprocedure, int, int, int, interval)
	IS 'Changes what is given of a subscription of one''s own, or of anybody for members of orion_admin; it goes on from where it is. A new handler runs as the current role';
REVOKE ALL ON FUNCTION @extschema@.orion_subscribe_alter(text, text, regprocedure, int, int, int, interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.orion_subscribe_alter(text, text, regprocedure, int, int, int, interval) TO orion_admin, orion_service;

-- Dead letters, in the order in which they died, to their handlers or couriers.
CREATE FUNCTION orion_private.redrive(sink orion_private.sinks, letters bigint[]) RETURNS bigint
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	redriven bigint;
	touched_keys text[];
BEGIN
	IF sink.kind = 'sql' THEN
		WITH gone AS (DELETE FROM orion_private.dead_letters d WHERE d.sink_id = sink.id AND d.id = ANY (letters) RETURNING d.*),
		back AS (INSERT INTO orion_private.parked (sink_id, part, window_no, seq, key, event, attempts, next_try_at)
			SELECT g.sink_id, g.part, split_part(g.position, ':', 1)::bigint, split_part(g.position, ':', 2)::bigint, g.key, g.event, 0, now()
			FROM gone g
			ON CONFLICT DO NOTHING
			RETURNING key)
		SELECT count(*), array_agg(DISTINCT b.key) FILTER (WHERE b.key IS NOT NULL) INTO redriven, touched_keys FROM back b;
		PERFORM orion_private.parked_order(sink.id, touched_keys);
	ELSE
		WITH gone AS (DELETE FROM orion_private.dead_letters d WHERE d.sink_id = sink.id AND d.id = ANY (letters) RETURNING d.*),
		back AS (INSERT INTO orion_private.redrives (sink_id, event)
			SELECT g.sink_id, g.event FROM (SELECT * FROM gone ORDER BY id) g RETURNING 1)
		SELECT count(*) INTO redriven FROM back;
		DELETE FROM orion_private.redrives r USING orion_private.cursors c
			WHERE r.sink_id = sink.id AND c.sink_id = r.sink_id AND r.window_no < c.window_no AND r.queued_at < now() - interval '1 hour';
	END IF;
	PERFORM orion_private.sink_touch(sink.id);
	RETURN redriven;
END
$fn$;
COMMENT ON FUNCTION orion_private.redrive(orion_private.sinks, bigint[]) IS 'Sends dead letters of a sink again; returns how many';
REVOKE ALL ON FUNCTION orion_private.redrive(orion_private.sinks, bigint[]) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_redrive(dead_letter bigint) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	sink text;
	redriven bigint;
BEGIN
	SELECT s.name INTO sink FROM orion_private.dead_letters d JOIN orion_private.sinks s ON s.id = d.sink_id WHERE d.id = dead_letter;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no dead letter %', dead_letter USING ERRCODE = 'undefined_object';
	END IF;
	redriven := orion_private.redrive(orion_private.sink_named(sink), ARRAY[dead_letter]);
	PERFORM orion_private.audit('sink.redrive', 'sink', sink,
		metadata => jsonb_build_object('role', orion_private.caller()::regrole, 'dead_letter', dead_letter, 'events', redriven));
	RETURN redriven;
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_redrive(bigint) IS 'Sends a dead letter to its sink again';

CREATE FUNCTION @extschema@.orion_redrive(sink text, pattern text DEFAULT '#', max int DEFAULT NULL) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	target orion_private.sinks := orion_private.sink_named(sink);
	redriven bigint;
BEGIN
	PERFORM orion_private.pattern_check(pattern);
	redriven := orion_private.redrive(target, ARRAY(SELECT d.id FROM orion_private.dead_letters d
		WHERE d.sink_id = target.id AND orion_private.topic_matches(pattern, d.event ->> 'eventType')
		ORDER BY d.id LIMIT max));
	PERFORM orion_private.audit('sink.redrive', 'sink', sink,
		metadata => jsonb_build_object('role', orion_private.caller()::regrole, 'pattern', pattern, 'events', redriven));
	RETURN redriven;
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_redrive(text, text, int)
	IS 'Sends the dead letters of a sink again whose type matches the pattern, the oldest first and at most max; returns how many';

-- Only what the sink was given before: what it waits for comes anyway.  The segments are
-- locked by the scan until the replay is there, which keeps them from being truncated.
CREATE FUNCTION @extschema@.orion_replay(sink text, "from" timestamptz, "to" timestamptz DEFAULT 'infinity', pattern text DEFAULT '#')
	RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	target orion_private.sinks := orion_private.sink_named(sink);
	retained timestamptz;
	c orion_private.cursors;
	range record;
	replayed bigint := 0;
BEGIN
	PERFORM orion_private.pattern_check(pattern);
	IF "from" IS NULL OR "to" IS NULL OR "from" >= "to" THEN
		RAISE EXCEPTION 'a replay goes from an earlier to a later time' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	FOR c IN SELECT * FROM orion_private.cursors x WHERE x.sink_id = target.id ORDER BY x.part LOOP
		SELECT count(*) AS events, min(o.seq) AS first, max(o.seq) AS last INTO range
			FROM orion_private.outbox o
			WHERE o.occurred_at >= "from" AND o.occurred_at < "to" AND pg_visible_in_snapshot(o.xid, c.from_snapshot)
				AND orion_private.topic_matches(target.pattern, o.type) AND orion_private.topic_matches(orion_replay.pattern, o.type)
				AND orion_private.sink_part(coalesce(o.aggregatetype || '/' || o.aggregateid, '/' || o.aggregateid, o.id::text),
					target.workers) = c.part;
		CONTINUE WHEN range.events = 0;
		INSERT INTO orion_private.replays (sink_id, part, pattern, from_time, to_time, from_seq, next_seq, to_seq, upto_snapshot)
			VALUES (target.id, c.part, pattern, "from", "to", range.first, range.first, range.last, c.from_snapshot);
		replayed := replayed + range.events;
	END LOOP;
	SELECT r.since INTO retained FROM orion_private.outbox_retained r;
	IF "from" < retained THEN
		RAISE EXCEPTION 'events of that time are no longer retained' USING ERRCODE = 'invalid_parameter_value',
			DETAIL = format('The outbox has all events since %s.', retained),
			HINT = 'orion.outbox_retention says how long events are kept.';
	END IF;
	DELETE FROM orion_private.replays r WHERE r.next_seq > r.to_seq AND r.requested_at < now() - interval '1 day'
		AND NOT EXISTS (SELECT FROM orion_private.cursors x WHERE x.replay_id = r.id);
	PERFORM orion_private.sink_touch(target.id);
	PERFORM orion_private.audit('sink.replay', 'sink', sink, metadata => jsonb_build_object(
		'role', orion_private.caller()::regrole, 'from', "from", 'to', "to", 'pattern', pattern, 'events', replayed));
	RETURN replayed;
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_replay(text, timestamptz, timestamptz, text)
	IS 'Sends events of a time to a sink once more, marked with metadata.replayed, beside what is new; returns how many';

REVOKE ALL ON FUNCTION
	@extschema@.orion_skip(text, text),
	@extschema@.orion_redrive(bigint),
	@extschema@.orion_redrive(text, text, int),
	@extschema@.orion_replay(text, timestamptz, timestamptz, text)
	FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
	@extschema@.orion_skip(text, text),
	@extschema@.orion_redrive(bigint),
	@extschema@.orion_redrive(text, text, int),
	@extschema@.orion_replay(text, timestamptz, timestamptz, text)
	TO orion_admin;

-- What administrators read.  The configuration is not in it: it holds passwords.
GRANT SELECT (id, name, kind, pattern, paused, handler, handler_role, workers, created_at) ON orion_private.sinks TO orion_admin, pg_monitor;
GRANT SELECT (sink_id, part, from_snapshot, upto_snapshot, window_no, seq, passed_seq, delivered, updated_at)
	ON orion_private.cursors TO orion_admin, pg_monitor;
GRANT SELECT (seq, occurred_at) ON orion_private.outbox TO orion_admin, pg_monitor;
GRANT SELECT ON orion_private.outbox_seq, orion_private.outbox_state, orion_private.outbox_retained TO orion_admin, pg_monitor;
GRANT SELECT ON orion_private.dead_letters, orion_private.replays TO orion_admin;
GRANT SELECT (sink_id) ON orion_private.dead_letters TO pg_monitor;
GRANT SELECT (sink_id, part, seq, window_no, key, attempts, next_try_at, last_error, event) ON orion_private.parked TO orion_admin;
GRANT SELECT (sink_id) ON orion_private.parked TO pg_monitor;

-- Positions and lag come from the tables, so that they are right when no relay runs; a running
-- relay knows more about a window in which late commits are, and whether what came since its
-- position was stored is of interest to its sink at all.  Reading this costs a few index
-- look-ups a sink: numbers are drawn, not counted, and at most 1,000 rows are.  When no segment
-- is free, those who hold some of them are not well, whatever their relay says.
CREATE VIEW orion.sinks WITH (security_invoker = true) AS
	SELECT s.id, s.name, s.kind, s.pattern, s.paused, s.handler, s.handler_role, s.workers,
		CASE WHEN s.paused THEN 'paused' WHEN pg_catalog.pg_is_in_recovery() THEN 'standby'
			WHEN h.alarm IS NOT NULL AND w.state OPERATOR(pg_catalog.=) 'running' THEN 'degraded'
			ELSE coalesce(w.state, 'stopped') END AS state,
		pg_catalog.format('%s:%s', c.window_no, c.seq) AS position, c.window_no, c.seq, c.delivered, c.updated_at,
		CASE WHEN o.seq IS NOT NULL AND w.caught_up IS NOT TRUE THEN greatest(w.lag_events, n.last_value OPERATOR(pg_catalog.-) c.passed_seq)
			ELSE coalesce(w.lag_events, 0) END AS lag_events,
		greatest(coalesce(CASE WHEN w.caught_up IS NOT TRUE THEN pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) o.occurred_at END,
				w.lag, pg_catalog.make_interval()),
			pg_catalog.make_interval()) AS lag,
		coalesce(w.rate, 0) AS rate, coalesce(w.attempts, 0) AS attempts,
		coalesce(h.alarm OPERATOR(pg_catalog.||) '; ' OPERATOR(pg_catalog.||) w.last_error, h.alarm, w.last_error) AS last_error,
		(SELECT pg_catalog.count(*) FROM (SELECT FROM orion_private.parked p
			WHERE p.sink_id OPERATOR(pg_catalog.=) s.id LIMIT 1000) x) AS parked,
		(SELECT pg_catalog.count(*) FROM (SELECT FROM orion_private.dead_letters d
			WHERE d.sink_id OPERATOR(pg_catalog.=) s.id LIMIT 1000) x) AS dead_letters,
		h.segments AS segments_held
	FROM orion_private.sinks s
	CROSS JOIN orion_private.outbox_seq n
	JOIN LATERAL (SELECT pg_catalog.sum(x.delivered) AS delivered, pg_catalog.max(x.updated_at) AS updated_at,
			pg_catalog.min(x.passed_seq) AS passed_seq,
			(pg_catalog.array_agg(x.window_no ORDER BY x.window_no, x.seq))[1] AS window_no,
			(pg_catalog.array_agg(x.seq ORDER BY x.window_no, x.seq))[1] AS seq
		FROM orion_private.cursors x WHERE x.sink_id OPERATOR(pg_catalog.=) s.id) c ON true
	JOIN LATERAL (SELECT x.from_snapshot FROM orion_private.cursors x WHERE x.sink_id OPERATOR(pg_catalog.=) s.id
		ORDER BY pg_catalog.pg_snapshot_xmin(x.from_snapshot) LIMIT 1) f ON true
	JOIN LATERAL (SELECT x.segments, CASE WHEN x.segments OPERATOR(pg_catalog.>) 0 AND x.free OPERATOR(pg_catalog.=) 0
				THEN pg_catalog.format('holds %s of the %s segments of the outbox, and none is free', x.segments, x.total) END AS alarm
			FROM (SELECT pg_catalog.count(*) FILTER (WHERE t.sealed_xid OPERATOR(pg_catalog.>) pg_catalog.pg_snapshot_xmin(f.from_snapshot)) AS segments,
				pg_catalog.count(*) FILTER (WHERE t.opened_at IS NULL) AS free, pg_catalog.count(*) AS total
				FROM orion_private.outbox_state t) x) h ON true
	LEFT JOIN LATERAL (SELECT e.seq, e.occurred_at FROM orion_private.outbox e
		WHERE e.seq OPERATOR(pg_catalog.>) c.passed_seq ORDER BY e.seq LIMIT 1) o ON true
	-- of several workers the one that is worst off
	LEFT JOIN LATERAL (SELECT
			(pg_catalog.array_agg(x.state ORDER BY x.state OPERATOR(pg_catalog.=) 'running',
				x.state OPERATOR(pg_catalog.=) 'starting', x.part))[1] AS state,
			(pg_catalog.array_agg(x.last_error ORDER BY x.state OPERATOR(pg_catalog.=) 'running', x.part)
				FILTER (WHERE x.last_error IS NOT NULL))[1] AS last_error,
			pg_catalog.max(x.lag_events) FILTER (WHERE x.pid IS NOT NULL) AS lag_events,
			pg_catalog.max(x.lag) FILTER (WHERE x.pid IS NOT NULL AND x.lag_events OPERATOR(pg_catalog.>) 0) AS lag,
			pg_catalog.round(pg_catalog.sum(x.rate)::numeric, 2)::double precision AS rate, pg_catalog.max(x.attempts) AS attempts,
			pg_catalog.bool_and(x.pid IS NOT NULL AND x.caught_up)
				AND pg_catalog.count(*) OPERATOR(pg_catalog.=) s.workers AS caught_up
		FROM orion_private.workers() x
		WHERE x.kind OPERATOR(pg_catalog.=) 'relay' AND x.sink_id OPERATOR(pg_catalog.=) s.id) w ON true;
COMMENT ON VIEW orion.sinks IS 'Sinks: state, position (<window>:<seq>), how far behind (numbers drawn, age of the oldest event), rate, failures in a row, events parked and dead (counted up to 1,000), segments held';
GRANT SELECT ON orion.sinks TO orion_admin, pg_monitor;

CREATE VIEW orion.outbox WITH (security_invoker = true) AS
	SELECT t.segment,
		CASE WHEN t.opened_at IS NULL THEN 'empty' WHEN t.closed_at IS NULL THEN 'current'
			WHEN t.sealed_xid IS NULL THEN 'closed' ELSE 'sealed' END AS state,
		t.opened_at, t.closed_at, pg_catalog.pg_total_relation_size(r.oid) AS bytes,
		ARRAY(SELECT DISTINCT s.name FROM orion_private.sinks s
			JOIN orion_private.cursors c ON c.sink_id OPERATOR(pg_catalog.=) s.id
			WHERE t.sealed_xid OPERATOR(pg_catalog.>) pg_catalog.pg_snapshot_xmin(c.from_snapshot) ORDER BY s.name) AS held_by,
		(SELECT x.since FROM orion_private.outbox_retained x) AS retained_since
	FROM orion_private.outbox_state t
	JOIN pg_catalog.pg_namespace n ON n.nspname OPERATOR(pg_catalog.=) 'orion_private'
	JOIN pg_catalog.pg_class r ON r.relnamespace OPERATOR(pg_catalog.=) n.oid
		AND r.relname OPERATOR(pg_catalog.=) pg_catalog.format('outbox_%s', t.segment);
COMMENT ON VIEW orion.outbox IS 'The segments of the outbox: state, size, the sinks that have not passed a sealed one, since when all events are retained (null: since the beginning)';
GRANT SELECT ON orion.outbox TO orion_admin, pg_monitor;

CREATE VIEW orion.dead_letters WITH (security_invoker = true) AS
	SELECT d.id, s.name AS sink, d.position, d.event, d.attempts, d.error, d.dead_at
	FROM orion_private.dead_letters d
	JOIN orion_private.sinks s ON s.id OPERATOR(pg_catalog.=) d.sink_id;
COMMENT ON VIEW orion.dead_letters IS 'Events that a sink refused for good, or that were skipped, with the reason';
GRANT SELECT ON orion.dead_letters TO orion_admin;

CREATE VIEW orion.parked_events WITH (security_invoker = true) AS
	SELECT s.name AS sink, p.window_no, p.seq, p.key, p.event, p.attempts, p.next_try_at, p.last_error
	FROM orion_private.parked p
	JOIN orion_private.sinks s ON s.id OPERATOR(pg_catalog.=) p.sink_id;
COMMENT ON VIEW orion.parked_events IS 'Events whose SQL handler failed and will be called again, and, without a time, later ones of the same key that wait for them';
GRANT SELECT ON orion.parked_events TO orion_admin;

CREATE VIEW orion.replays WITH (security_invoker = true) AS
	SELECT r.id, s.name AS sink, r.pattern, r.from_time, r.to_time, r.requested_at,
		CASE WHEN r.next_seq OPERATOR(pg_catalog.>) r.to_seq THEN 1.0
			ELSE pg_catalog.round((r.next_seq OPERATOR(pg_catalog.-) r.from_seq)
				OPERATOR(pg_catalog./) (r.to_seq OPERATOR(pg_catalog.-) r.from_seq OPERATOR(pg_catalog.+) 1)::pg_catalog.numeric, 3)
			END AS progress
	FROM orion_private.replays r
	JOIN orion_private.sinks s ON s.id OPERATOR(pg_catalog.=) r.sink_id;
COMMENT ON VIEW orion.replays IS 'Replays under way or done lately, and how much of their range was read; one row for each worker of a handler';
GRANT SELECT ON orion.replays TO orion_admin;
