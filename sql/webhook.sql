-- Webhooks: endpoints, their properties and secrets, who may use them.  Sending is tested in test/t/045.
\pset null '(null)'
\set SHOW_CONTEXT never
SET client_min_messages = warning;

SELECT id, signing_secret ~ '^whsec_[A-Za-z0-9+/]{43}=$' AS secret
	FROM orion_webhook_create('https://example.com/hooks?token=hush', '{user.*,order.#}', 'first') \gset
SELECT :'secret' AS secret;
SELECT name, address, patterns, filter, format, concurrency, rate, networks, plain_http, state, delivered FROM orion.webhooks WHERE id = :id;
SELECT name, kind, pattern, paused FROM orion.sinks WHERE kind = 'webhook';
SELECT position('hush'::bytea IN url) AS url, (SELECT position('whsec'::bytea IN k.secret) FROM orion_private.webhook_secrets k WHERE k.endpoint_id = e.id) AS secret
	FROM orion_private.webhook_endpoints e WHERE e.id = :id;

-- what is wrong
SELECT orion_webhook_create(NULL);
SELECT orion_webhook_create('http://example.com/');
SELECT orion_webhook_create('ftp://example.com/');
SELECT orion_webhook_create('https://user:password@example.com/');
SELECT orion_webhook_create('https://example.com/#fragment');
SELECT orion_webhook_create('https://example.com\@elsewhere/');
SELECT orion_webhook_create(E'https://example.com/\r\nX: y');
SELECT orion_webhook_create('https://example.com/ x');
SELECT orion_webhook_create('https://');
SELECT orion_webhook_create('https://example.com/' || repeat('x', 2048));
SELECT orion_webhook_create('https://example.com/', '{}');
SELECT orion_webhook_create('https://example.com/', '{user..x}');
SELECT orion_webhook_create('https://example.com/', '{NULL}');
SELECT orion_webhook_create('https://example.com/', filter => '[]');
SELECT orion_webhook_create('https://example.com/', format => 'xml');
SELECT orion_webhook_create('https://example.com/', signature => 'v2');
SELECT orion_webhook_create('https://example.com/', concurrency => 0);
SELECT orion_webhook_create('https://example.com/', rate => -1);
SELECT orion_webhook_create('https://example.com/', secret => 'hush');
SELECT orion_webhook_create('https://example.com/', secret => 'whsec_c2hvcnQ=');
SELECT orion_webhook_alter(0, name => 'x');
SELECT orion_webhook_alter(:id, url => 'http://example.com/');
SELECT orion_webhook_rotate_secret(:id, '-1 s');
SELECT orion_webhook_test(NULL);

-- secrets: RFC 8032, 7.1, test 1 for v1a
SELECT orion_private.webhook_secret_shown('whsk_' || encode('\x9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60', 'base64'))
	= 'whpk_' || encode('\xd75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a', 'base64') AS public;
SELECT orion_webhook_rotate_secret(:id, secret => 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw');
SELECT orion_webhook_rotate_secret(:id, signature => 'v1a') ~ '^whpk_[A-Za-z0-9+/]{43}=$' AS public;
SELECT count(*), count(expires_at) FROM orion_private.webhook_secrets WHERE endpoint_id = :id;
SELECT orion_webhook_rotate_secret(:id, '0') IS NOT NULL AS alone;
SELECT count(*), count(expires_at) FROM orion_private.webhook_secrets WHERE endpoint_id = :id;

-- changes
SELECT orion_webhook_alter(:id, patterns => '{user.#}', concurrency => 2, url => 'https://example.org/new?x=1');
SELECT address, patterns, concurrency, name FROM orion.webhooks WHERE id = :id;
SELECT orion_private.webhook_matches('{user.#}', 'user.a.b') AS user, orion_private.webhook_matches('{user.#}', 'order.x') AS other,
	orion_private.webhook_matches('{#}', 'webhook.endpoint.disabled') AS internal;

-- disabled and enabled; replay
SELECT clock_timestamp() AS since \gset
SELECT orion_publish('user.created', '{"n": 1}') IS NOT NULL AS published;
SELECT orion_publish('order.created', '{"n": 1}') IS NOT NULL AS published;
SELECT orion_webhook_replay(:id, :'since');
SELECT type, body ~ '^\{"type":"user.created","timestamp":"[^"]+\+00:00","data":\{"n": 1\}\}$' AS body, attempts, state FROM orion.webhook_deliveries WHERE endpoint_id = :id;
SELECT orion_webhook_disable(:id);
SELECT state, disabled_reason FROM orion.webhooks WHERE id = :id;
SELECT orion_webhook_test(:id);
SELECT payload - 'id' FROM orion_private.outbox WHERE type = 'webhook.endpoint.disabled' ORDER BY seq DESC LIMIT 1;
SELECT orion_webhook_enable(:id);
SELECT orion_webhook_test(:id) IS NOT NULL AS sent;
SELECT count(*) FROM orion.webhook_deliveries WHERE endpoint_id = :id AND type = 'webhook.test';
SELECT orion_private.webhook_maintain('1 day');

-- who may
CREATE ROLE regress_webhook_nobody;
CREATE ROLE regress_webhook_app IN ROLE orion_service;
CREATE ROLE regress_webhook_boss IN ROLE orion_admin;
SET ROLE regress_webhook_nobody;
SELECT orion_webhook_create('https://example.com/');
SELECT count(*) FROM orion.webhooks;
SET ROLE regress_webhook_app;
SELECT id AS mine FROM orion_webhook_create('https://example.com/') \gset
SELECT count(*) FROM orion.webhooks WHERE id = :mine;
SELECT orion_webhook_create('https://example.com/', networks => '{10.0.0.0/8}');
SELECT orion_webhook_alter(:mine, plain_http => true);
SET ROLE regress_webhook_boss;
SELECT orion_webhook_alter(:mine, networks => '{10.0.0.0/8,fd00::/8}', plain_http => true);
SELECT orion_webhook_alter(:mine, url => 'http://10.0.0.1/');
SET ROLE regress_webhook_app;
SELECT orion_webhook_alter(:mine, url => 'http://10.0.0.2/');
SELECT orion_webhook_alter(:mine, url => 'https://10.0.0.2/');
SELECT orion_webhook_alter(:mine, name => 'renamed');
SELECT name, address, networks, plain_http FROM orion.webhooks WHERE id = :mine;
SELECT secret FROM orion_private.webhook_secrets;
SELECT orion_webhook_drop(:mine);
RESET ROLE;
SELECT orion_webhook_drop(:id);
SELECT (SELECT count(*) FROM orion_private.webhook_secrets) AS secrets, (SELECT count(*) FROM orion_private.webhook_pending) AS pending;
SELECT orion_sink_drop('webhooks');
DROP ROLE regress_webhook_nobody, regress_webhook_app, regress_webhook_boss;
