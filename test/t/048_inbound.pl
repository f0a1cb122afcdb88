# From a queue of a real RabbitMQ into SQL functions: what has effect, and how often, while
# handlers fail and courier, worker, broker and server are killed.
use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;

use OrionServices;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $rabbit = OrionServices->start_rabbitmq();
my $node = PostgreSQL::Test::Cluster->new('inbound');
$node->init;
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'orion'
max_worker_processes = 16
orion.http_port = 0
orion.inbound_max_attempts = 2
orion.inbound_handler_timeout = 1000
restart_after_crash = on
});
$node->start;

sub value { return $node->safe_psql('postgres', $_[0]); }
sub becomes { ok($node->poll_query_until('postgres', "SELECT $_[0]"), $_[1]); }
sub consumer { return value("SELECT $_[0] FROM orion.consumers WHERE name = 'orders'"); }
sub worker { return value("SELECT $_[0] FROM orion.workers WHERE kind = 'consumer' AND name = 'orders'"); }

# A publisher with confirms: what it says is there is on the broker's disk.
sub publish
{
	my ($queue, @messages) = @_;
	my $client = OrionServices::AMQP->new($rabbit->port);
	$client->publish($queue, @messages);
	$client->close;
}

my $url = $rabbit->url;
my $port = $rabbit->port;
value(qq{
CREATE EXTENSION orion;
CREATE ROLE app IN ROLE orion_admin;
GRANT ALL ON SCHEMA public TO app;
SET ROLE app;
CREATE TABLE effects (id text, what text, message jsonb);
CREATE FUNCTION handle(message jsonb) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	INSERT INTO effects VALUES (message ->> 'messageId', current_user, message);
	CASE message ->> 'type'
		WHEN 'fail' THEN RAISE EXCEPTION 'broken';
		WHEN 'once' THEN
			IF NOT (message ->> 'redelivered')::bool THEN RAISE EXCEPTION 'not yet'; END IF;
		WHEN 'sleep' THEN PERFORM pg_sleep(100);
		WHEN 'role' THEN RESET ROLE;
		ELSE NULL;
	END CASE;
END \$\$;
SELECT orion_consume('orders', '{"url": "$url", "queue": "orders", "declare": "classic", "max_body": 100000}', 'handle(jsonb)');
});
becomes("state = 'running' AND program_pid IS NOT NULL FROM orion.workers WHERE kind = 'consumer' AND name = 'orders'", 'the consumer runs a courier');
becomes("state = 'running' FROM orion.consumers WHERE name = 'orders'", 'and shows in orion.consumers');
is(value("SELECT count(*) FROM orion_private.consumers WHERE position('guest'::bytea IN config) > 0"), '0', 'its password is sealed');

# tables in tables in the headers, deeper than anybody reads them
my $nested = '';
$nested = "\x01hF" . pack('N/a', $nested) foreach 1 .. 5000;

# what a handler gets
publish('orders',
	{ message_id => 'm1', type => 'order.placed', content_type => 'application/json', correlation_id => 'c1',
		headers => { source => 'shop', n => 7 }, body => '{"total": 12.5}' },
	{ message_id => 'm1', body => '{"total": 12.5}' },
	{ message_id => 'text', body => 'hello, "world"' },
	{ message_id => 'bytes', body => "\x00\xff\xfe" },
	{ message_id => 'zero', body => '{"a": "\u0000"}' },
	{ message_id => "not \xff text", body => '[1]' },
	{ message_id => 'empty', body => '' },
	{ message_id => 'deep', body => '[' x 50000 },
	{ message_id => 'header', body => '1', headers => { bad => "\xff\xfe" } },
	{ message_id => 'nested', type => 'nested', body => '1', table => $nested },
	{ body => '"nobody"' }, { body => '"nobody"' });
becomes("count(*) = 11 FROM effects", 'messages have effect');
is(value("SELECT what FROM effects WHERE id = 'm1'"), 'app', 'once, as who asked for them');
is(value("SELECT message - 'headers' FROM effects WHERE id = 'm1'"),
	'{"body": {"total": 12.5}, "type": "order.placed", "queue": "orders", "encoding": "json", "exchange": "", "messageId": "m1", "routingKey": "orders", "contentType": "application/json", "redelivered": false, "correlationId": "c1"}',
	'the handler gets the message');
is(value("SELECT message -> 'headers' FROM effects WHERE id = 'm1'"), '{"n": 7, "source": "shop"}', 'and its headers');
is(value("SELECT string_agg(id || ' ' || (message ->> 'encoding') || ' ' || left(message ->> 'body', 20), E'\\n' ORDER BY id COLLATE \"C\") FROM effects WHERE id <> 'm1'"),
	"\\x6e6f7420ff2074657874 json [1]\nbytes base64 AP/+\ndeep text [[[[[[[[[[[[[[[[[[[[\nempty text \nheader json 1\nnested json 1\ntext text hello, \"world\"\nzero text {\"a\": \"\\u0000\"}",
	'whatever its bytes are');
is(value("SELECT message -> 'headers' FROM effects WHERE id = 'header'"), '{"bad": {"hex": "fffe"}}', 'also those of headers');
is(value("SELECT message - 'queue' - 'exchange' - 'routingKey' - 'redelivered' FROM effects WHERE id = 'nested'"),
	'{"body": 1, "type": "nested", "encoding": "json", "messageId": "nested"}', 'headers nested too deep are left out');
is(value("SELECT count(*) FROM effects WHERE id IS NULL"), '2', 'messages without an id have effect each');
is(consumer("received || ' ' || handled || ' ' || duplicates || ' ' || failures || ' ' || dead"), '12 11 1 0 0', 'all is counted');

# handlers that fail
publish('orders', map { { message_id => $_, type => $_, body => '{}' } } qw(fail sleep role once));
publish('orders', { message_id => 'after', body => '{}' }, { message_id => 'long', body => 'x' x 100001 });
becomes("count(*) = 1 FROM effects WHERE id = 'after'", 'failing messages hold nobody up');
becomes("count(*) = 4 FROM orion.inbox_dead_letters", 'what cannot be done ends as a dead letter');
becomes("count(*) = 1 FROM effects WHERE id = 'once'", 'a failed message comes again');
is(value("SELECT string_agg(message_id || ' ' || attempts || ' ' || error, E'\\n' ORDER BY message_id) FROM orion.inbox_dead_letters"),
	"fail 2 P0001: broken\nlong 0 the body is longer than 100000 bytes\nrole 2 42501: cannot set parameter \"role\" within security-definer function\nsleep 2 57014: canceling statement due to statement timeout", 'with attempts and reason');
is(value("SELECT message ->> 'body' FROM orion.inbox_dead_letters WHERE message_id = 'fail'"), '{}', 'and the message');
is(value("SELECT count(*) FROM effects WHERE id IN ('fail', 'sleep', 'role', 'long')"), '0', 'without effect');
is(consumer("failures || ' ' || dead || ' ' || waiting"), '7 4 0', 'counted');
ok(OrionServices::poll_until(sub { return $rabbit->ctl('list_queues', 'name', 'messages') =~ /orders\t0/ }), 'the queue is empty');
publish('orders', { message_id => 'fail', type => 'fail', body => '{}' });
becomes("duplicates = 2 FROM orion.consumers WHERE name = 'orders'", 'a dead letter that comes again is known');

# dead letters once more
my ($status, $out, $error) = $node->psql('postgres', "SET ROLE app; SELECT orion_inbox_redrive(id) FROM orion.inbox_dead_letters WHERE message_id = 'long'");
like($error, qr/the body of dead letter \d+ was not kept/, 'a message that is not whole is not given to anybody');
my $messages = value("SELECT md5(string_agg(message::text, '' ORDER BY message_id)) FROM orion.inbox_dead_letters WHERE message_id <> 'long'");
is(value("SET ROLE app; SELECT orion_inbox_redrive('orders')"), '3', 'the others are, again');
becomes("count(*) = 3 FROM orion.inbox_dead_letters WHERE attempts = 4 AND redrive_at IS NULL", 'and rest when they have failed as often as before');
is(value("SELECT error FROM orion.inbox_dead_letters WHERE message_id = 'fail'"), 'P0001: broken', 'with the reason');
is(value("SELECT count(*) FROM effects WHERE id IN ('fail', 'sleep', 'role', 'long')"), '0', 'without effect');
is(consumer("dead || ' ' || failures"), '4 13', 'counted');
value('ALTER FUNCTION handle(jsonb) RENAME TO handle_badly; CREATE FUNCTION handle(message jsonb) RETURNS void LANGUAGE sql AS
	$$ INSERT INTO public.effects VALUES (message ->> \'messageId\', current_user, message) $$; GRANT EXECUTE ON FUNCTION handle(jsonb) TO app');
is(value("SET ROLE app; SELECT orion_inbox_redrive('orders', 1)"), '1', 'the oldest first');
becomes("count(*) = 1 FROM effects WHERE id = (SELECT id FROM effects WHERE id IN ('fail', 'sleep', 'role') LIMIT 1)", 'when the function is mended it has effect');
is(value("SET ROLE app; SELECT orion_inbox_redrive('orders')"), '2', 'and the rest');
becomes("count(*) = 3 FROM effects WHERE id IN ('fail', 'sleep', 'role')", 'have effect');
is(value("SELECT md5(string_agg(message::text, '' ORDER BY id)) FROM effects WHERE id IN ('fail', 'sleep', 'role')"),
	$messages, 'with the same messages, as who made the consumer');
publish('orders', map { { message_id => $_, type => $_, body => '{}' } } qw(fail sleep role));
becomes("duplicates = 5 FROM orion.consumers WHERE name = 'orders'", 'once: they are still known');
is(value("SELECT string_agg(message_id, ' ') FROM orion.inbox_dead_letters"), 'long', 'and dead letters no more');
is(value("SET ROLE app; SELECT orion_inbox_drop(id) FROM orion.inbox_dead_letters"), '1', 'one is dropped');
is(value("SET ROLE app; SELECT orion_inbox_drop('orders')"), '0', 'and all that are left');
is(value("SELECT string_agg(action || ' ' || (metadata ->> 'messages'), ', ' ORDER BY id) FROM orion_private.audit_log WHERE action IN ('consumer.redrive', 'consumer.discard')"),
	'consumer.redrive 3, consumer.redrive 1, consumer.redrive 2, consumer.discard 1, consumer.discard 0', 'all of it is on record');
value('DROP FUNCTION handle(jsonb); ALTER FUNCTION handle_badly(jsonb) RENAME TO handle');

# pause and resume
value("SELECT orion_consume_pause('orders')");
becomes("state = 'paused' AND program_pid IS NULL FROM orion.workers WHERE kind = 'consumer' AND name = 'orders'", 'a paused consumer has no courier');
publish('orders', { message_id => 'paused', body => '{}' });
is(value("SELECT count(*) FROM effects WHERE id = 'paused'"), '0', 'its messages wait');
value("SELECT orion_consume_resume('orders')");
becomes("count(*) = 1 FROM effects WHERE id = 'paused'", 'until it is resumed');

# A function that does not let itself be stopped ends its worker, again and again.
value(qq{SET ROLE app;
CREATE FUNCTION stubborn(message jsonb) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	INSERT INTO stubborn_effects VALUES (message ->> 'messageId');
	WHILE message ->> 'type' = 'stubborn' LOOP
		BEGIN PERFORM pg_sleep(100); EXCEPTION WHEN query_canceled THEN NULL; END;
	END LOOP;
END \$\$;
CREATE TABLE stubborn_effects (id text);
SELECT orion_consume('stubborn', '{"url": "amqp://guest:guest\@127.0.0.1:1/", "hosts": ["127.0.0.1:$port"], "queue": "stubborn", "declare": "quorum"}', 'stubborn(jsonb)', max_attempts => 1);
});
becomes("state = 'running' FROM orion.consumers WHERE name = 'stubborn'", 'a consumer of a quorum queue, by the second of two hosts');
publish('stubborn', map { { message_id => "s$_", type => $_ == 1 ? 'stubborn' : 'plain', body => '{}' } } 1 .. 5);

becomes("count(*) = 1 FROM orion.inbox_dead_letters WHERE consumer = 'stubborn' AND message_id = 's1' AND error LIKE 'the worker ended%'",
	'a function that ends its worker is given up');
becomes("string_agg(id, ' ' ORDER BY id) = 's2 s3 s4 s5' FROM stubborn_effects", 'and the messages behind it have effect, once');

# killed at any moment: each message has effect once
sub thousand
{
	my ($name, $kill) = @_;
	value('SET ROLE app; TRUNCATE effects');
	publish('orders', map { { message_id => "$name$_", body => "{\"n\": $_}" } } 1 .. 1000);
	ok($node->poll_query_until('postgres', "SELECT count(*) > 100 FROM effects"), "$name: under way");
	$kill->();
	ok($node->poll_query_until('postgres', "SELECT count(*) >= 1000 FROM effects"), "$name: all have effect");
	ok(OrionServices::poll_until(sub { return $rabbit->ctl('list_queues', 'name', 'messages') =~ /orders\t0/ }), "$name: the queue is empty");
	is(value("SELECT count(*) || ' ' || count(DISTINCT id) FROM effects"), '1000 1000', "$name: each once");
}

thousand('courier', sub { kill 'KILL', worker('program_pid') || die 'no courier'; });
thousand('worker', sub { value("SELECT pg_terminate_backend(pid) FROM orion.workers WHERE kind = 'consumer' AND name = 'orders'"); });
thousand('broker', sub { $rabbit->kill9; $rabbit->start; });
thousand('server', sub { $node->stop('immediate'); $node->start; });
is(consumer("dead || ' ' || waiting"), '4 0', 'none was given up, none waits');

# the broker is away
$rabbit->stop;
becomes("state = 'degraded' AND last_error LIKE 'rabbitmq%' FROM orion.consumers WHERE name = 'orders'", 'orion.consumers says that the broker is gone');
unlike(consumer('last_error'), qr/guest/, 'without the password');
$rabbit->start;
becomes("state = 'running' FROM orion.consumers WHERE name = 'orders'", 'and that all is well again');
value("SET ROLE app; SELECT orion_inbox_redrive('stubborn')");
becomes("count(*) = 1 FROM orion.inbox_dead_letters WHERE consumer = 'stubborn' AND attempts = 2 AND redrive_at IS NULL AND error LIKE 'the worker ended%'",
	'also when it is given to it again');

# retention and the end
value("UPDATE orion_private.inbox SET handled_at = handled_at - interval '8 days' WHERE message_id LIKE 'courier%'");
value("SELECT orion_private.inbox_maintain('7 days')");
is(value("SELECT count(*) FROM orion_private.inbox WHERE message_id LIKE 'courier%'") . ' '
	. value("SELECT count(*) FROM orion_private.inbox WHERE message_id LIKE 'worker%'"), '0 1000', 'the inbox forgets what is old');
value("SELECT orion_consume_drop('orders'), orion_consume_drop('stubborn')");
becomes("NOT EXISTS (SELECT FROM orion.workers WHERE kind = 'consumer')", 'a dropped consumer has no worker');
unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/TRAP:|panic/i, 'nothing crashed');

done_testing();
