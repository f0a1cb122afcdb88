-- Inbound: messages of RabbitMQ queues, given to SQL functions; an inbox tells what was handled.
--
-- The consumer's worker takes a message, calls the function and commits, and only then
-- acknowledges.  The row in the inbox commits with the function's work, so a message that
-- comes again is known.  Failures are counted in a transaction of their own.

CREATE TABLE orion_private.consumers (
	id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name text NOT NULL UNIQUE CHECK (name ~ '^[A-Za-z0-9_.-]{1,63}$'),
	queue text NOT NULL,
	config bytea NOT NULL,
	no_message_id text NOT NULL CHECK (no_message_id IN ('process', 'hash', 'refuse')),
	max_body int NOT NULL,
	handler text NOT NULL,
	handler_role regrole NOT NULL,
	paused bool NOT NULL DEFAULT false,
	max_attempts int CHECK (max_attempts BETWEEN 1 AND 100),
	timeout_ms int CHECK (timeout_ms >= 0),
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE orion_private.consumers IS 'Queues whose messages are given to SQL functions';
COMMENT ON COLUMN orion_private.consumers.config IS 'Sealed JSON: it holds passwords';
COMMENT ON COLUMN orion_private.consumers.handler IS 'The function''s signature, qualified';
COMMENT ON COLUMN orion_private.consumers.handler_role IS 'Who made the consumer, and as whom the function runs';
COMMENT ON COLUMN orion_private.consumers.no_message_id IS 'What becomes of messages without an id';

CREATE TABLE orion_private.inbox (
	consumer_id int NOT NULL REFERENCES orion_private.consumers ON DELETE CASCADE,
	message_id text NOT NULL,
	handled_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	PRIMARY KEY (consumer_id, message_id)
);
CREATE INDEX inbox_handled_at ON orion_private.inbox (handled_at);
COMMENT ON TABLE orion_private.inbox IS 'Messages that were handled: they are not handled again';

CREATE TABLE orion_private.inbox_attempts (
	consumer_id int NOT NULL REFERENCES orion_private.consumers ON DELETE CASCADE,
	message_id text NOT NULL,
	attempts int NOT NULL,
	next_try_at timestamptz NOT NULL,
	last_error text NOT NULL,
	PRIMARY KEY (consumer_id, message_id)
);
CREATE INDEX inbox_attempts_next_try_at ON orion_private.inbox_attempts (next_try_at);
COMMENT ON TABLE orion_private.inbox_attempts IS 'Messages whose handler failed; they wait in their queue for the next attempt';

CREATE TABLE orion_private.inbox_dead_letters (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	consumer_id int NOT NULL REFERENCES orion_private.consumers ON DELETE CASCADE,
	message_id text NOT NULL,
	message jsonb NOT NULL,
	attempts int NOT NULL,
	error text NOT NULL,
	dead_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	redrive_at timestamptz,
	tries int NOT NULL DEFAULT 0
);
CREATE INDEX inbox_dead_letters_consumer ON orion_private.inbox_dead_letters (consumer_id, id);
CREATE INDEX inbox_dead_letters_redrive_at ON orion_private.inbox_dead_letters (consumer_id, redrive_at) WHERE redrive_at IS NOT NULL;
COMMENT ON TABLE orion_private.inbox_dead_letters IS 'Messages that were given up';
COMMENT ON COLUMN orion_private.inbox_dead_letters.redrive_at IS 'When it is given to the handler again; null: not at all';
COMMENT ON COLUMN orion_private.inbox_dead_letters.tries IS 'Attempts since somebody asked for that; an attempt is counted before it begins';

-- A low fillfactor keeps the updates, one a message, in their page.
CREATE TABLE orion_private.consumer_counts (
	consumer_id int PRIMARY KEY REFERENCES orion_private.consumers ON DELETE CASCADE,
	received bigint NOT NULL DEFAULT 0,
	handled bigint NOT NULL DEFAULT 0,
	duplicates bigint NOT NULL DEFAULT 0,
	failures bigint NOT NULL DEFAULT 0,
	dead bigint NOT NULL DEFAULT 0,
	last_message_at timestamptz,
	last_error text,
	last_error_at timestamptz
) WITH (fillfactor = 20, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE orion_private.consumer_counts IS 'What became of the messages of each consumer';

DO $do$
DECLARE
	relation text;
BEGIN
	FOREACH relation IN ARRAY ARRAY['consumers', 'consumers_id_seq', 'inbox', 'inbox_attempts', 'inbox_dead_letters',
		'inbox_dead_letters_id_seq', 'consumer_counts'] LOOP
		PERFORM pg_catalog.pg_extension_config_dump(pg_catalog.format('orion_private.%I', relation)::pg_catalog.regclass, '');
	END LOOP;
END
$do$;

CREATE TRIGGER consumers_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON orion_private.consumers
	FOR EACH STATEMENT EXECUTE FUNCTION orion_private.sinks_changed();

CREATE FUNCTION orion_private.consumer_seal(config jsonb, name text) RETURNS bytea
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_consumer_seal';
COMMENT ON FUNCTION orion_private.consumer_seal(jsonb, text) IS 'Seals the configuration of a consumer, which holds passwords';
REVOKE ALL ON FUNCTION orion_private.consumer_seal(jsonb, text) FROM PUBLIC;

-- What the courier would refuse as well, said before anything is stored.
CREATE FUNCTION orion_private.consumer_check(config jsonb) RETURNS void
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	IF config IS NULL OR jsonb_typeof(config) <> 'object' OR NOT config ?& ARRAY['url', 'queue'] THEN
		RAISE EXCEPTION 'the configuration of a consumer must be an object with a "url" and a "queue"'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'For example {"url": "amqp://user:password@localhost:5672/", "queue": "orders"}.';
	END IF;
	PERFORM orion_private.config_check(config, '{"url": "string", "hosts": "array", "tls": "object", "queue": "string", "prefetch": "number", "declare": "string",
		"max_body": "number", "no_message_id": "string"}');
	PERFORM orion_private.tls_check(config, 'amqp');
	IF octet_length(config ->> 'queue') > 255 THEN
		RAISE EXCEPTION 'config: key "queue" is longer than 255 bytes' USING ERRCODE = 'invalid_parameter_value';
	ELSIF config ? 'prefetch' AND (config ->> 'prefetch' !~ '^[0-9]{1,4}$' OR (config ->> 'prefetch')::int NOT BETWEEN 1 AND 1000) THEN
		RAISE EXCEPTION 'config: key "prefetch" must be an integer between 1 and 1000' USING ERRCODE = 'invalid_parameter_value';
	ELSIF config ? 'max_body' AND (config ->> 'max_body' !~ '^[0-9]{1,8}$' OR (config ->> 'max_body')::int NOT BETWEEN 1 AND 67108864) THEN
		RAISE EXCEPTION 'config: key "max_body" must be an integer between 1 and 67108864' USING ERRCODE = 'invalid_parameter_value';
	ELSIF config ->> 'declare' NOT IN ('classic', 'quorum') THEN
		RAISE EXCEPTION 'config: key "declare" must be classic or quorum' USING ERRCODE = 'invalid_parameter_value';
	ELSIF config ->> 'no_message_id' NOT IN ('process', 'hash', 'refuse') THEN
		RAISE EXCEPTION 'config: key "no_message_id" must be process, hash or refuse' USING ERRCODE = 'invalid_parameter_value';
	END IF;
END
$fn$;
COMMENT ON FUNCTION orion_private.consumer_check(jsonb) IS 'Refuses configurations of consumers that cannot be right';
REVOKE ALL ON FUNCTION orion_private.consumer_check(jsonb) FROM PUBLIC;

-- For orion_consume.
CREATE FUNCTION orion_private.consumer_add(name text, config jsonb, handler text, handler_role regrole, max_attempts int, timeout interval)
	RETURNS int
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	new_id int;
BEGIN
	IF name IS NULL OR name !~ '^[A-Za-z0-9_.-]{1,63}$' THEN
		RAISE EXCEPTION 'invalid name of a consumer: "%"', name
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Use 1 to 63 letters, digits, dots, hyphens and underscores.';
	END IF;
	PERFORM orion_private.consumer_check(config);
	IF max_attempts NOT BETWEEN 1 AND 100 THEN
		RAISE EXCEPTION 'the number of attempts must be from 1 to 100, not %', max_attempts USING ERRCODE = 'invalid_parameter_value';
	ELSIF timeout NOT BETWEEN interval '0' AND interval '1 day' THEN
		RAISE EXCEPTION 'the timeout must be from 0 to one day, not %', timeout USING ERRCODE = 'invalid_parameter_value';
	END IF;
	LOCK TABLE orion_private.consumers IN SHARE ROW EXCLUSIVE MODE;
	IF EXISTS (SELECT FROM orion_private.consumers c WHERE c.name = consumer_add.name) THEN
		RAISE EXCEPTION 'a consumer named "%" already exists', name USING ERRCODE = 'duplicate_object';
	ELSIF (SELECT count(*) >= 16 FROM orion_private.consumers) THEN
		RAISE EXCEPTION 'there may be 16 consumers' USING ERRCODE = 'program_limit_exceeded';
	END IF;
	INSERT INTO orion_private.consumers (name, queue, config, no_message_id, max_body, handler, handler_role, max_attempts, timeout_ms)
		VALUES (name, config ->> 'queue', orion_private.consumer_seal(config, name), coalesce(config ->> 'no_message_id', 'process'),
			coalesce((config ->> 'max_body')::int, 16777216), handler, handler_role, max_attempts, extract(epoch FROM timeout) * 1000)
		RETURNING id INTO new_id;
	INSERT INTO orion_private.consumer_counts (consumer_id) VALUES (new_id);
	PERFORM orion_private.audit('consumer.create', 'consumer', name,
		new => jsonb_build_object('queue', config -> 'queue', 'handler', handler, 'role', handler_role));
	RETURN new_id;
END
$fn$;
COMMENT ON FUNCTION orion_private.consumer_add(text, jsonb, text, regrole, int, interval) IS 'Adds a consumer';
REVOKE ALL ON FUNCTION orion_private.consumer_add(text, jsonb, text, regrole, int, interval) FROM PUBLIC;

-- In C, because only there the immediate caller is known: the handler runs as that role.
CREATE FUNCTION @extschema@.orion_consume(name text, config jsonb, handler regprocedure,
	max_attempts int DEFAULT NULL, timeout interval DEFAULT NULL)
	RETURNS int
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'orion_consume';
COMMENT ON FUNCTION @extschema@.orion_consume(text, jsonb, regprocedure, int, interval)
	IS 'Calls handler(message jsonb) as the current role for each message of a RabbitMQ queue, with effect once; returns the consumer''s id';

CREATE FUNCTION @extschema@.orion_consume_alter(name text, config jsonb) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	PERFORM orion_private.consumer_check(config);
	UPDATE orion_private.consumers c SET
		queue = orion_consume_alter.config ->> 'queue',
		config = orion_private.consumer_seal(orion_consume_alter.config, c.name),
		no_message_id = coalesce(orion_consume_alter.config ->> 'no_message_id', 'process'),
		max_body = coalesce((orion_consume_alter.config ->> 'max_body')::int, 16777216)
		WHERE c.name = orion_consume_alter.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no consumer named "%"', name USING ERRCODE = 'undefined_object';
	END IF;
	-- the configuration holds passwords: only that it changed is said
	PERFORM orion_private.audit('consumer.alter', 'consumer', name, new => jsonb_build_object('queue', config -> 'queue'));
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_consume_alter(text, jsonb) IS 'Gives a consumer another configuration; it keeps its inbox';

CREATE FUNCTION orion_private.consumer_pause(consumer text, pause bool) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	UPDATE orion_private.consumers c SET paused = pause WHERE c.name = consumer;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no consumer named "%"', consumer USING ERRCODE = 'undefined_object';
	END IF;
	PERFORM orion_private.audit(CASE WHEN pause THEN 'consumer.pause' ELSE 'consumer.resume' END, 'consumer', consumer);
END
$fn$;
COMMENT ON FUNCTION orion_private.consumer_pause(text, bool) IS 'Pauses a consumer, or has it go on';
REVOKE ALL ON FUNCTION orion_private.consumer_pause(text, bool) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_consume_pause(name text) RETURNS void
	LANGUAGE sql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$ SELECT orion_private.consumer_pause(name, true) $fn$;
COMMENT ON FUNCTION @extschema@.orion_consume_pause(text) IS 'Stops taking messages from a queue; they wait there';

CREATE FUNCTION @extschema@.orion_consume_resume(name text) RETURNS void
	LANGUAGE sql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$ SELECT orion_private.consumer_pause(name, false) $fn$;
COMMENT ON FUNCTION @extschema@.orion_consume_resume(text) IS 'Takes messages from the queue of a paused consumer again';

CREATE FUNCTION @extschema@.orion_consume_drop(name text) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	DELETE FROM orion_private.consumers c WHERE c.name = orion_consume_drop.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no consumer named "%"', name USING ERRCODE = 'undefined_object';
	END IF;
	PERFORM orion_private.audit('consumer.drop', 'consumer', name);
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_consume_drop(text) IS 'Removes a consumer, its inbox and its dead letters; the queue stays';

REVOKE ALL ON FUNCTION
	@extschema@.orion_consume(text, jsonb, regprocedure, int, interval),
	@extschema@.orion_consume_alter(text, jsonb),
	@extschema@.orion_consume_pause(text),
	@extschema@.orion_consume_resume(text),
	@extschema@.orion_consume_drop(text)
	FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
	@extschema@.orion_consume(text, jsonb, regprocedure, int, interval),
	@extschema@.orion_consume_alter(text, jsonb),
	@extschema@.orion_consume_pause(text),
	@extschema@.orion_consume_resume(text),
	@extschema@.orion_consume_drop(text)
	TO orion_admin;

-- ---- for the worker ----

-- UTF-8 as text, anything else as "\x" and hexadecimal digits.
CREATE FUNCTION orion_private.inbox_text(bytes bytea) RETURNS text
	LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
BEGIN
	RETURN convert_from(bytes, 'UTF8');
EXCEPTION WHEN OTHERS THEN
	RETURN '\x' || encode(bytes, 'hex');
END
$fn$;
COMMENT ON FUNCTION orion_private.inbox_text(bytea) IS 'A text of a message, whatever bytes it has';
REVOKE ALL ON FUNCTION orion_private.inbox_text(bytea) FROM PUBLIC;

-- JSON as it is, other text as a string, other bytes as base64.
CREATE FUNCTION orion_private.inbox_body(body bytea, OUT encoding text, OUT content jsonb)
	LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	string text;
BEGIN
	BEGIN
		string := convert_from(body, 'UTF8');
	EXCEPTION WHEN OTHERS THEN
		encoding := 'base64';
		content := to_jsonb(translate(encode(body, 'base64'), E'\n', ''));
		RETURN;
	END;
	BEGIN
		encoding := 'json';
		content := string::jsonb;
	EXCEPTION WHEN OTHERS THEN
		encoding := 'text';
		content := to_jsonb(string);
	END;
END
$fn$;
COMMENT ON FUNCTION orion_private.inbox_body(bytea) IS 'The body of a message as JSON, and how it is to be read';
REVOKE ALL ON FUNCTION orion_private.inbox_body(bytea) FROM PUBLIC;

CREATE TYPE orion_private.inbox_message AS (
	has_id bool,
	redelivered bool,
	id bytea,
	exchange bytea,
	routing_key bytea,
	properties bytea,
	body bytea
);
COMMENT ON TYPE orion_private.inbox_message IS 'A message as the courier has read it; body is null when it is too long';

-- What handlers get; also of a message that cannot be shown whole.
CREATE FUNCTION orion_private.inbox_json(m orion_private.inbox_message, queue text, message_id text) RETURNS jsonb
	LANGUAGE plpgsql IMMUTABLE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	properties jsonb;
	body record;
BEGIN
	BEGIN
		properties := convert_from(m.properties, 'UTF8')::jsonb;
	EXCEPTION WHEN OTHERS THEN
		properties := '{}';
	END;
	SELECT * INTO body FROM orion_private.inbox_body(m.body);
	RETURN properties || jsonb_build_object('messageId', CASE WHEN m.has_id THEN message_id END, 'queue', queue,
		'exchange', orion_private.inbox_text(m.exchange), 'routingKey', orion_private.inbox_text(m.routing_key),
		'redelivered', m.redelivered, 'encoding', body.encoding, 'body', body.content);
END
$fn$;
COMMENT ON FUNCTION orion_private.inbox_json(orion_private.inbox_message, text, text) IS 'A message as its handler gets it';
REVOKE ALL ON FUNCTION orion_private.inbox_json(orion_private.inbox_message, text, text) FROM PUBLIC;

-- By what a message is known: its id, else what it consists of, but for the headers,
-- where brokers count deliveries.
CREATE FUNCTION orion_private.inbox_key(m orion_private.inbox_message) RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
	SELECT CASE WHEN m.has_id THEN orion_private.inbox_text(m.id)
		ELSE 'sha256:' || encode(sha256(sha256(m.exchange) || sha256(m.routing_key) || coalesce(m.body, '')), 'hex') END
	$fn$;
COMMENT ON FUNCTION orion_private.inbox_key(orion_private.inbox_message) IS 'By what a message is known: its id, else a hash of exchange, routing key and body';
REVOKE ALL ON FUNCTION orion_private.inbox_key(orion_private.inbox_message) FROM PUBLIC;

-- Given up: whatever happens, a message that cannot even be shown must not come again for ever.
CREATE FUNCTION orion_private.inbox_bury(c orion_private.consumers, m orion_private.inbox_message, message_id text, attempts int, error text)
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	message jsonb;
BEGIN
	BEGIN
		message := orion_private.inbox_json(m, c.queue, message_id);
	EXCEPTION WHEN OTHERS THEN
		message := jsonb_build_object('messageId', message_id, 'queue', c.queue, 'body', NULL);
	END;
	INSERT INTO orion_private.inbox_dead_letters (consumer_id, message_id, message, attempts, error)
		VALUES (c.id, message_id, message, attempts, error);
	IF m.has_id OR c.no_message_id = 'hash' THEN
		INSERT INTO orion_private.inbox (consumer_id, message_id) VALUES (c.id, message_id) ON CONFLICT DO NOTHING;
	END IF;
	DELETE FROM orion_private.inbox_attempts a WHERE a.consumer_id = c.id AND a.message_id = inbox_bury.message_id;
	UPDATE orion_private.consumer_counts n SET dead = dead + 1, last_error = error, last_error_at = now(), last_message_at = now()
		WHERE n.consumer_id = c.id;
END
$fn$;
COMMENT ON FUNCTION orion_private.inbox_bury(orion_private.consumers, orion_private.inbox_message, text, int, text) IS 'Keeps a message as a dead letter';
REVOKE ALL ON FUNCTION orion_private.inbox_bury(orion_private.consumers, orion_private.inbox_message, text, int, text) FROM PUBLIC;

-- The beginning of the transaction in which a message is handled.  verdict: call (the
-- handler, with message), known (was handled before), wait (pause ms), dead, refuse.
CREATE FUNCTION orion_private.inbox_take(consumer int, m orion_private.inbox_message, OUT verdict text, OUT pause bigint, OUT message jsonb)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	c orion_private.consumers;
	known_as text := orion_private.inbox_key(m);
	attempt orion_private.inbox_attempts;
BEGIN
	SELECT * INTO c FROM orion_private.consumers x WHERE x.id = consumer FOR KEY SHARE;
	IF NOT FOUND THEN
		verdict := 'wait';
		pause := 1000;
		RETURN;
	END IF;
	SELECT * INTO attempt FROM orion_private.inbox_attempts a WHERE a.consumer_id = consumer AND a.message_id = known_as;
	IF attempt.next_try_at > clock_timestamp() THEN
		verdict := 'wait';
		pause := 1 + extract(epoch FROM attempt.next_try_at - clock_timestamp()) * 1000;
		RETURN;
	END IF;
	UPDATE orion_private.consumer_counts n SET received = received + 1, last_message_at = now() WHERE n.consumer_id = consumer;
	IF m.has_id OR c.no_message_id = 'hash' THEN
		INSERT INTO orion_private.inbox (consumer_id, message_id) VALUES (consumer, known_as) ON CONFLICT DO NOTHING;
		IF NOT FOUND THEN
			verdict := 'known';
			DELETE FROM orion_private.inbox_attempts a WHERE a.consumer_id = consumer AND a.message_id = known_as;
			UPDATE orion_private.consumer_counts n SET duplicates = duplicates + 1 WHERE n.consumer_id = consumer;
			RETURN;
		END IF;
	ELSIF c.no_message_id = 'refuse' THEN
		PERFORM orion_private.inbox_bury(c, m, known_as, 0, 'the message has no message id');
		verdict := 'dead';
		RETURN;
	END IF;
	IF m.body IS NULL THEN
		PERFORM orion_private.inbox_bury(c, m, known_as, 0, format('the body is longer than %s bytes', c.max_body));
		verdict := 'refuse';
		RETURN;
	END IF;
	IF attempt.attempts > 0 THEN
		DELETE FROM orion_private.inbox_attempts a WHERE a.consumer_id = consumer AND a.message_id = known_as;
	END IF;
	UPDATE orion_private.consumer_counts n SET handled = handled + 1 WHERE n.consumer_id = consumer;
	verdict := 'call';
	message := orion_private.inbox_json(m, c.queue, known_as);
END
$fn$;
COMMENT ON FUNCTION orion_private.inbox_take(int, orion_private.inbox_message) IS 'What to do with a message; all of it is undone when its handler fails';
REVOKE ALL ON FUNCTION orion_private.inbox_take(int, orion_private.inbox_message) FROM PUBLIC;

-- Counts a failed attempt; returns the pause in ms before the next one, -1 when there is none.
-- The pauses are 1 s, 2 s, 4 s, ... up to 5 minutes, each times 0.5 .. 1.5.
CREATE FUNCTION orion_private.inbox_fail(consumer int, m orion_private.inbox_message, error text, max_attempts int, count bool, pause bool)
	RETURNS bigint
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	c orion_private.consumers;
	known_as text := orion_private.inbox_key(m);
	attempt orion_private.inbox_attempts;
BEGIN
	SELECT * INTO c FROM orion_private.consumers x WHERE x.id = consumer FOR KEY SHARE;
	IF NOT FOUND THEN
		RETURN 1000;
	END IF;
	-- counted before it begins: it may be done already, and only its acknowledgement lost
	IF NOT pause AND EXISTS (SELECT FROM orion_private.inbox i WHERE i.consumer_id = consumer AND i.message_id = known_as) THEN
		RETURN 0;
	END IF;
	INSERT INTO orion_private.inbox_attempts AS a (consumer_id, message_id, attempts, next_try_at, last_error)
		VALUES (consumer, known_as, 1, now(), error)
		ON CONFLICT (consumer_id, message_id) DO UPDATE SET attempts = a.attempts + inbox_fail.count::int, last_error = excluded.last_error
			WHERE inbox_fail.pause OR a.next_try_at <= clock_timestamp()
		RETURNING * INTO attempt;
	IF pause THEN
		UPDATE orion_private.consumer_counts n SET received = received + 1, failures = failures + 1,
			last_error = error, last_error_at = now(), last_message_at = now() WHERE n.consumer_id = consumer;
		IF attempt.attempts >= max_attempts THEN
			PERFORM orion_private.inbox_bury(c, m, known_as, attempt.attempts, error);
			RETURN -1;
		END IF;
		UPDATE orion_private.inbox_attempts a SET next_try_at = clock_timestamp() + make_interval(secs =>
				least(300, power(2, attempt.attempts - 1)) * (0.5 + random()))
			WHERE a.consumer_id = consumer AND a.message_id = known_as
			RETURNING * INTO attempt;
	ELSIF attempt.attempts > max_attempts THEN
		PERFORM orion_private.inbox_bury(c, m, known_as, max_attempts, error);
		RETURN -1;
	END IF;
	RETURN greatest(0, 1 + extract(epoch FROM attempt.next_try_at - clock_timestamp()) * 1000);
END
$fn$;
COMMENT ON FUNCTION orion_private.inbox_fail(int, orion_private.inbox_message, text, int, bool, bool) IS 'Counts a failed attempt to handle a message; after the last one it is a dead letter';
REVOKE ALL ON FUNCTION orion_private.inbox_fail(int, orion_private.inbox_message, text, int, bool, bool) FROM PUBLIC;

-- ---- dead letters once more ----

-- Counts an attempt at the dead letter that is due, and returns it; 0 when none is.  Committed before
-- the attempt begins, so that one that ends the worker is not made for ever.
CREATE FUNCTION orion_private.inbox_redrive_next(consumer int, max_attempts int) RETURNS bigint
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	letter orion_private.inbox_dead_letters;
BEGIN
	LOOP
		SELECT * INTO letter FROM orion_private.inbox_dead_letters d WHERE d.consumer_id = consumer AND d.redrive_at <= now()
			ORDER BY d.redrive_at, d.id LIMIT 1 FOR UPDATE SKIP LOCKED;
		IF NOT FOUND THEN
			RETURN 0;
		END IF;
		EXIT WHEN letter.tries < max_attempts;
		UPDATE orion_private.inbox_dead_letters d SET redrive_at = NULL, error = 'the worker ended while it handled the message'
			WHERE d.id = letter.id;
	END LOOP;
	UPDATE orion_private.inbox_dead_letters d SET tries = tries + 1, attempts = attempts + 1,
		redrive_at = now() + make_interval(secs => least(300, power(2, letter.tries)) * (0.5 + random()))
		WHERE d.id = letter.id;
	RETURN letter.id;
END
$fn$;
COMMENT ON FUNCTION orion_private.inbox_redrive_next(int, int) IS 'The dead letter to be given to its handler now; 0 when there is none';
REVOKE ALL ON FUNCTION orion_private.inbox_redrive_next(int, int) FROM PUBLIC;

-- In the transaction in which the handler works; null when somebody has dropped it meanwhile.
CREATE FUNCTION orion_private.inbox_redrive_take(consumer int, letter bigint) RETURNS jsonb
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
	WITH gone AS (DELETE FROM orion_private.inbox_dead_letters d WHERE d.id = letter AND d.consumer_id = consumer RETURNING d.message),
	counted AS (UPDATE orion_private.consumer_counts n SET handled = handled + 1 WHERE n.consumer_id = consumer AND EXISTS (SELECT FROM gone))
	SELECT g.message FROM gone g
	$fn$;
COMMENT ON FUNCTION orion_private.inbox_redrive_take(int, bigint) IS 'Takes a dead letter away and returns its message; undone when the handler fails';
REVOKE ALL ON FUNCTION orion_private.inbox_redrive_take(int, bigint) FROM PUBLIC;

CREATE FUNCTION orion_private.inbox_redrive_fail(consumer int, letter bigint, error text, max_attempts int) RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
	UPDATE orion_private.inbox_dead_letters d SET error = inbox_redrive_fail.error,
		redrive_at = CASE WHEN d.tries < max_attempts THEN d.redrive_at END
		WHERE d.id = letter AND d.consumer_id = consumer;
	UPDATE orion_private.consumer_counts n SET failures = failures + 1, last_error = inbox_redrive_fail.error, last_error_at = now()
		WHERE n.consumer_id = consumer
	$fn$;
COMMENT ON FUNCTION orion_private.inbox_redrive_fail(int, bigint, text, int) IS 'Notes why a dead letter could not be handled; after the last attempt it rests again';
REVOKE ALL ON FUNCTION orion_private.inbox_redrive_fail(int, bigint, text, int) FROM PUBLIC;

CREATE FUNCTION orion_private.inbox_letter_consumer(letter bigint) RETURNS orion_private.consumers
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	c orion_private.consumers;
BEGIN
	SELECT x.* INTO c FROM orion_private.inbox_dead_letters d JOIN orion_private.consumers x ON x.id = d.consumer_id WHERE d.id = letter;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no dead letter % of a consumer', letter USING ERRCODE = 'undefined_object';
	END IF;
	RETURN c;
END
$fn$;
COMMENT ON FUNCTION orion_private.inbox_letter_consumer(bigint) IS 'The consumer of a dead letter; an error when there is none';
REVOKE ALL ON FUNCTION orion_private.inbox_letter_consumer(bigint) FROM PUBLIC;

CREATE FUNCTION orion_private.consumer_named(name text) RETURNS orion_private.consumers
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	c orion_private.consumers;
BEGIN
	SELECT * INTO c FROM orion_private.consumers x WHERE x.name = consumer_named.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no consumer named "%"', name USING ERRCODE = 'undefined_object';
	END IF;
	RETURN c;
END
$fn$;
COMMENT ON FUNCTION orion_private.consumer_named(text) IS 'The consumer with this name; an error when there is none';
REVOKE ALL ON FUNCTION orion_private.consumer_named(text) FROM PUBLIC;

-- A message without its body (it was too long) is not the message.
CREATE FUNCTION orion_private.inbox_redrive(c orion_private.consumers, letters bigint[]) RETURNS bigint
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	redriven bigint;
BEGIN
	UPDATE orion_private.inbox_dead_letters d SET redrive_at = now(), tries = 0
		WHERE d.consumer_id = c.id AND d.id = ANY (letters) AND d.message ->> 'encoding' IS NOT NULL;
	GET DIAGNOSTICS redriven = ROW_COUNT;
	-- the worker looks at it anew after the commit
	UPDATE orion_private.consumers x SET paused = paused WHERE x.id = c.id;
	PERFORM orion_private.audit('consumer.redrive', 'consumer', c.name,
		metadata => jsonb_build_object('role', orion_private.caller()::regrole, 'messages', redriven));
	RETURN redriven;
END
$fn$;
COMMENT ON FUNCTION orion_private.inbox_redrive(orion_private.consumers, bigint[]) IS 'Has dead letters given to their handler again; returns how many';
REVOKE ALL ON FUNCTION orion_private.inbox_redrive(orion_private.consumers, bigint[]) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_inbox_redrive(dead_letter bigint) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	redriven bigint := orion_private.inbox_redrive(orion_private.inbox_letter_consumer(dead_letter), ARRAY[dead_letter]);
BEGIN
	IF redriven = 0 THEN
		RAISE EXCEPTION 'the body of dead letter % was not kept', dead_letter USING ERRCODE = 'object_not_in_prerequisite_state',
			HINT = 'orion_inbox_drop() removes it.';
	END IF;
	RETURN redriven;
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_inbox_redrive(bigint) IS 'Gives a dead letter of a consumer to its handler again';

CREATE FUNCTION @extschema@.orion_inbox_redrive(consumer text, max int DEFAULT NULL) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	c orion_private.consumers := orion_private.consumer_named(consumer);
BEGIN
	RETURN orion_private.inbox_redrive(c, ARRAY(SELECT d.id FROM orion_private.inbox_dead_letters d
		WHERE d.consumer_id = c.id AND d.redrive_at IS NULL AND d.message ->> 'encoding' IS NOT NULL ORDER BY d.id LIMIT max));
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_inbox_redrive(text, int)
	IS 'Gives the dead letters of a consumer to its handler again, the oldest first and at most max; returns how many';

CREATE FUNCTION orion_private.inbox_drop(c orion_private.consumers, letters bigint[]) RETURNS bigint
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	dropped bigint;
BEGIN
	DELETE FROM orion_private.inbox_dead_letters d WHERE d.consumer_id = c.id AND d.id = ANY (letters);
	GET DIAGNOSTICS dropped = ROW_COUNT;
	PERFORM orion_private.audit('consumer.discard', 'consumer', c.name,
		metadata => jsonb_build_object('role', orion_private.caller()::regrole, 'messages', dropped));
	RETURN dropped;
END
$fn$;
COMMENT ON FUNCTION orion_private.inbox_drop(orion_private.consumers, bigint[]) IS 'Deletes dead letters; returns how many';
REVOKE ALL ON FUNCTION orion_private.inbox_drop(orion_private.consumers, bigint[]) FROM PUBLIC;

CREATE FUNCTION @extschema@.orion_inbox_drop(dead_letter bigint) RETURNS bigint
	LANGUAGE sql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$ SELECT orion_private.inbox_drop(orion_private.inbox_letter_consumer(dead_letter), ARRAY[dead_letter]) $fn$;
COMMENT ON FUNCTION @extschema@.orion_inbox_drop(bigint) IS 'Deletes a dead letter of a consumer; its message stays known as handled';

CREATE FUNCTION @extschema@.orion_inbox_drop(consumer text, max int DEFAULT NULL) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
DECLARE
	c orion_private.consumers := orion_private.consumer_named(consumer);
BEGIN
	RETURN orion_private.inbox_drop(c, ARRAY(SELECT d.id FROM orion_private.inbox_dead_letters d
		WHERE d.consumer_id = c.id ORDER BY d.id LIMIT max));
END
$fn$;
COMMENT ON FUNCTION @extschema@.orion_inbox_drop(text, int)
	IS 'Deletes the dead letters of a consumer, the oldest first and at most max; returns how many';

REVOKE ALL ON FUNCTION
	@extschema@.orion_inbox_redrive(bigint),
	@extschema@.orion_inbox_redrive(text, int),
	@extschema@.orion_inbox_drop(bigint),
	@extschema@.orion_inbox_drop(text, int)
	FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
	@extschema@.orion_inbox_redrive(bigint),
	@extschema@.orion_inbox_redrive(text, int),
	@extschema@.orion_inbox_drop(bigint),
	@extschema@.orion_inbox_drop(text, int)
	TO orion_admin;

CREATE FUNCTION orion_private.inbox_maintain(retention interval) RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	AS $fn$
	DELETE FROM orion_private.inbox WHERE ctid = ANY (ARRAY(
		SELECT i.ctid FROM orion_private.inbox i WHERE i.handled_at < now() - retention ORDER BY i.handled_at LIMIT 50000));
	-- of messages that somebody has taken out of their queue
	DELETE FROM orion_private.inbox_attempts WHERE next_try_at < now() - retention;
	$fn$;
COMMENT ON FUNCTION orion_private.inbox_maintain(interval) IS 'Forgets messages that were handled long ago';
REVOKE ALL ON FUNCTION orion_private.inbox_maintain(interval) FROM PUBLIC;

-- ---- to read ----

GRANT SELECT (id, name, queue, no_message_id, max_body, handler, handler_role, paused, max_attempts, timeout_ms, created_at)
	ON orion_private.consumers TO orion_admin, pg_monitor;
GRANT SELECT ON orion_private.consumer_counts TO orion_admin, pg_monitor;
GRANT SELECT (consumer_id) ON orion_private.inbox_attempts TO pg_monitor;
GRANT SELECT ON orion_private.inbox_attempts, orion_private.inbox_dead_letters TO orion_admin;

CREATE VIEW orion.consumers WITH (security_invoker = true) AS
	SELECT c.id, c.name, c.queue, c.handler, c.handler_role,
		CASE WHEN c.paused THEN 'paused' WHEN pg_catalog.pg_is_in_recovery() THEN 'standby'
			ELSE coalesce(w.state, 'stopped') END AS state,
		n.received, n.handled, n.duplicates, n.failures, n.dead,
		(SELECT pg_catalog.count(*) FROM (SELECT FROM orion_private.inbox_attempts a
			WHERE a.consumer_id OPERATOR(pg_catalog.=) c.id LIMIT 1000) x) AS waiting,
		n.last_message_at, coalesce(w.last_error, n.last_error) AS last_error, n.last_error_at
	FROM orion_private.consumers c
	JOIN orion_private.consumer_counts n ON n.consumer_id OPERATOR(pg_catalog.=) c.id
	LEFT JOIN orion_private.workers() w ON w.kind OPERATOR(pg_catalog.=) 'consumer' AND w.name OPERATOR(pg_catalog.=) c.name;
COMMENT ON VIEW orion.consumers IS 'Consumers of queues: state, messages received, handled, known already, failed, given up; those that wait for another attempt (counted up to 1,000); last error';
GRANT SELECT ON orion.consumers TO orion_admin, pg_monitor;

CREATE VIEW orion.inbox_dead_letters WITH (security_invoker = true) AS
	SELECT d.id, c.name AS consumer, d.message_id, d.message, d.attempts, d.error, d.dead_at, d.redrive_at
	FROM orion_private.inbox_dead_letters d
	JOIN orion_private.consumers c ON c.id OPERATOR(pg_catalog.=) d.consumer_id;
COMMENT ON VIEW orion.inbox_dead_letters IS 'Messages whose handler failed too often, or that could not be given to it, with the reason; redrive_at: it is given to the handler again, then';
GRANT SELECT ON orion.inbox_dead_letters TO orion_admin;
