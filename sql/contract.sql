-- Contracts of event types: what can be registered, what is refused, who may.
\pset null '(null)'
\set SHOW_CONTEXT never
SET client_min_messages = warning;

-- every keyword, and what breaks it
SELECT orion_event_type_set('order.placed', '{
	"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "An order", "type": "object",
	"required": ["id", "customer", "items", "extra"], "additionalProperties": false,
	"properties": {
		"id": {"type": "string", "format": "uuid"},
		"extra": {},
		"state": {"enum": ["new", "paid", null, {"a": [1, 2]}]},
		"currency": {"const": "EUR"},
		"day": {"type": "string", "format": "date"},
		"at": {"type": ["string", "null"], "format": "date-time"},
		"note": {"type": "string", "minLength": 2, "maxLength": 5},
		"code": {"type": "string", "pattern": "^[A-Z]{2}[0-9]+$"},
		"customer": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "vip": {"type": "boolean"}},
			"additionalProperties": {"type": "integer"}},
		"items": {"type": "array", "minItems": 1, "maxItems": 3, "items": {"type": "object", "required": ["sku", "price"],
			"properties": {"sku": {"type": ["string", "integer", "null"]}, "count": {"type": "integer"},
				"price": {"type": "number", "minimum": 0, "maximum": 1000, "exclusiveMaximum": 1000.0},
				"discount": {"exclusiveMinimum": 0}}}},
		"odd key": {"type": "null"}, "gone": false}}', description => 'An order was placed');
CREATE TEMP VIEW good AS SELECT '{"id": "3f2504e0-4f89-11d3-9a0c-0305e82c3301", "extra": null, "state": {"a": [1, 2]}, "currency": "EUR",
	"day": "2024-02-29", "at": "2026-01-31T23:59:60.125+01:00", "note": "žluť", "code": "AB1", "customer": {"name": "Ada", "vip": true, "age": 36},
	"items": [{"sku": "a", "price": 0}, {"sku": 7, "price": 999.99, "count": 2.0, "discount": 0.1}, {"sku": null, "price": 1e2}], "odd key": null}'::jsonb AS doc;
SELECT orion_event_type_check('order.placed', doc) FROM good;
SELECT orion_event_type_check('order.placed', c) FROM good, LATERAL (VALUES
	(1, '[]'::jsonb), (2, '7'), (3, 'null'), (4, '{}'),
	(5, doc - 'id'), (6, doc - 'extra'), (7, doc || '{"id": 5}'), (8, doc || '{"id": "x"}'),
	(9, doc || '{"state": "lost"}'), (10, doc || '{"state": {"a": [2, 1]}}'), (11, doc || '{"state": false}'),
	(12, doc || '{"currency": "USD"}'),
	(13, doc || '{"day": "2026-02-29"}'), (14, doc || '{"day": "2026-13-01"}'), (15, doc || '{"day": "2026-01-01T"}'), (16, doc || '{"day": ""}'),
	(17, doc || '{"at": "2026-01-31"}'), (18, doc || '{"at": "2026-01-31T10:00:00"}'), (19, doc || '{"at": "2026-01-31T24:00:00Z"}'),
	(20, doc || '{"at": "2026-01-31T10:00:00.Z"}'), (21, doc || '{"at": true}'),
	(22, doc || '{"note": "ž"}'), (23, doc || '{"note": "123456"}'), (24, doc || '{"code": "ab"}'),
	(25, doc || '{"customer": {}}'), (26, doc || '{"customer": {"name": 1}}'), (27, doc || '{"customer": {"name": "x", "age": "old"}}'),
	(28, doc || '{"customer": {"name": "x", "vip": 0}}'), (29, doc || '{"customer": {"name": "x", "age": 1.5}}'),
	(30, doc || '{"items": []}'), (31, doc || '{"items": [{}, {}, {}, {}]}'), (32, doc || '{"items": [{"sku": "a", "price": 1}, {"sku": "b"}]}'),
	(33, doc || '{"items": [{"sku": "a", "price": -1}]}'), (34, doc || '{"items": [{"sku": "a", "price": 1000}]}'),
	(35, doc || '{"items": [{"sku": "a", "price": 1000.01}]}'), (36, doc || '{"items": [{"sku": 1.5, "price": 1}]}'),
	(37, doc || '{"items": [{"sku": "a", "price": 1, "discount": 0}]}'), (38, doc || '{"items": [{"sku": "a", "price": 1, "discount": "free"}]}'),
	(39, doc || '{"items": {"sku": "a"}}'), (40, doc || '{"items": ["a"]}'), (41, doc || '{"odd key": 1}'), (42, doc || '{"gone": 1}'), (43, doc || '{"more": 1}'),
	(45, doc || jsonb_build_object('note', repeat('é', 100))),
	(44, jsonb_set(doc, '{state}', to_jsonb(repeat('long ', 50))))) AS v (n, c) ORDER BY n;

-- in the publishing transaction
SELECT orion_publish('order.placed', doc) IS NOT NULL AS published FROM good;
SELECT orion_publish('order.placed', '{"id": 1}');
SELECT orion_publish('order.placed', '7');
SELECT orion_publish_batch(jsonb_build_array(jsonb_build_object('type', 'order.placed', 'payload', doc), '{"type": "order.placed", "payload": {}}'::jsonb)) FROM good;
SELECT count(*) FROM orion_private.outbox WHERE type = 'order.placed';
-- of other types nothing is asked, unless the setting says so
SELECT orion_publish('order.shipped', '7') IS NOT NULL AS published;
SET orion.contract_required_types = ' order.* , billing.#';
SELECT orion_publish('order.shipped', '7');
SELECT orion_publish('billing', '7');
SELECT orion_publish('orders.shipped', '7') IS NOT NULL AS published;
SELECT orion_publish('order.placed', doc) IS NOT NULL AS published FROM good;
SET orion.contract_required_types = 'order.*, a..b';
SET orion.contract_required_types = 'order.*, ';
SET orion.contract_required_types = 'order*';
RESET orion.contract_required_types;

-- versions
SELECT orion_publish('order.placed', doc, version => 2) FROM good;
SELECT orion_event_type_set('order.placed', '{"type": ["object", "string"]}', 2);
SELECT orion_publish('order.placed', '"short"', version => 2) IS NOT NULL AS published;
SELECT orion_publish('order.placed', '"short"');
SELECT orion_publish('order.placed', '"short"', version => 3);

-- changes: at once here, undone with the transaction and the savepoint
SELECT orion_event_type_set('t.changes', '{"type": "string"}');
SELECT orion_publish('t.changes', '1');
BEGIN;
SELECT orion_event_type_set('t.changes', '{"type": "number"}');
SELECT orion_publish('t.changes', '1') IS NOT NULL AS published;
SAVEPOINT s;
SELECT orion_event_type_set('t.changes', 'false');
SELECT orion_event_type_check('t.changes', '1');
ROLLBACK TO s;
SELECT orion_event_type_check('t.changes', '1');
ROLLBACK;
SELECT orion_event_type_check('t.changes', '1');
SELECT orion_event_type_drop('t.changes');
SELECT orion_publish('t.changes', '1') IS NOT NULL AS published;
SELECT orion_event_type_drop('t.changes');
SELECT orion_event_type_drop('order.placed', 3);
-- many types: the cache begins anew
SELECT count(orion_event_type_check('many.t' || i, '1')) FROM generate_series(1, 1500) i;
SELECT orion_event_type_check('order.placed', '1', 2);

SELECT type, version, description, schema FROM orion.event_types WHERE version = 2;
SELECT action, target_id, old, new FROM orion.audit_log WHERE action LIKE 'event_type.%' AND target_id LIKE 't.%' ORDER BY id;

-- a description alone, and the same again
BEGIN;
SELECT orion_event_type_set('order.placed', '{"type": ["object", "string"]}', 2, 'Short');
SELECT orion_event_type_set('order.placed', '{"type": ["object", "string"]}', 2);
SELECT description FROM orion.event_types WHERE version = 2;
ROLLBACK;

SELECT orion_event_type_set('t.long', jsonb_build_object('enum', (SELECT jsonb_agg('value ' || i) FROM generate_series(1, 100) i)));
SELECT orion_event_type_check('t.long', '"other"');
SELECT orion_event_type_drop('t.long');

-- what is no contract
SELECT orion_event_type_set('a..b', '{}');
SELECT orion_event_type_set('a.*', '{}');
SELECT orion_event_type_set('a.b', NULL);
SELECT orion_event_type_set('a.b', '{}', 0);
SELECT orion_event_type_set('a.b', '7');
SELECT orion_event_type_set('a.b', '[]');
SELECT orion_event_type_set('a.b', '{"oneOf": [{"type": "string"}]}');
SELECT orion_event_type_set('a.b', '{"properties": {"x": {"items": {"tpye": "string"}}}}');
SELECT orion_event_type_set('a.b', '{"properties": {"x y": {"type": "decimal"}}}');
SELECT orion_event_type_set('a.b', '{"type": []}');
SELECT orion_event_type_set('a.b', '{"type": [1]}');
SELECT orion_event_type_set('a.b', '{"enum": []}');
SELECT orion_event_type_set('a.b', '{"enum": "x"}');
SELECT orion_event_type_set('a.b', '{"enum": [1], "const": 1}');
SELECT orion_event_type_set('a.b', '{"properties": []}');
SELECT orion_event_type_set('a.b', '{"properties": {"x": null}}');
SELECT orion_event_type_set('a.b', '{"required": "x"}');
SELECT orion_event_type_set('a.b', '{"required": [1]}');
SELECT orion_event_type_set('a.b', '{"additionalProperties": "no"}');
SELECT orion_event_type_set('a.b', '{"items": [{}]}');
SELECT orion_event_type_set('a.b', '{"minItems": -1}');
SELECT orion_event_type_set('a.b', '{"maxLength": 1.5}');
SELECT orion_event_type_set('a.b', '{"minLength": "1"}');
SELECT orion_event_type_set('a.b', '{"minimum": "1"}');
SELECT orion_event_type_set('a.b', '{"pattern": "("}');
SELECT orion_event_type_set('a.b', '{"format": "email"}');
SELECT orion_event_type_set('a.b', (repeat('{"items": ', 32) || '{}' || repeat('}', 32))::jsonb);
SELECT orion_event_type_set('a.b', (repeat('{"items": ', 31) || '{"type": "null"}' || repeat('}', 31))::jsonb);
SELECT orion_event_type_check('a.b', (repeat('[', 31) || '7' || repeat(']', 31))::jsonb);

-- who may
CREATE ROLE regress_contract_app IN ROLE orion_service;
CREATE ROLE regress_contract_admin IN ROLE orion_admin;
SET ROLE regress_contract_app;
SELECT orion_event_type_set('a.c', '{}');
SELECT orion_event_type_drop('a.b');
SELECT orion_event_type_check('order.placed', '7', 2);
SELECT type, version FROM orion.event_types ORDER BY 1, 2;
SET ROLE regress_contract_admin;
SELECT orion_event_type_set('a.c', 'true');
SELECT orion_event_type_drop('a.c');
SELECT orion_event_type_drop('a.b');
SET ROLE orion_user;
SELECT orion_event_type_check('order.placed', '7', 2);
SELECT * FROM orion.event_types;
RESET ROLE;
SELECT orion_event_type_drop('order.placed');
DROP ROLE regress_contract_app, regress_contract_admin;
