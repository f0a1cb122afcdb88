# orion_publish() in a transaction of its own, against INSERT of the same row into a
# plain table that has the outbox's columns and indexes, filled by its defaults.
package Figure::Publish;

use strict;
use warnings;
use OrionBench;
use OrionServices;

my $payload = '{"userId": "0b5e7d0a-5ad1-4a8e-9a52-6a6b6b1f8c11", "email": "somebody@bench.example", "displayName": "Somebody With A Name",'
  . ' "changed": ["email", "display_name"], "before": {"email": "old@bench.example", "display_name": "Somebody"},'
  . ' "address": "192.0.2.17", "agent": "Mozilla/5.0 (X11; Linux x86_64)"}';

sub prepare
{
	$server->sql('SET client_min_messages = warning', 'CREATE SCHEMA IF NOT EXISTS plain', 'CREATE SEQUENCE IF NOT EXISTS plain.event_seq',
		'DROP TABLE IF EXISTS plain.event',
		'CREATE TABLE plain.event (LIKE orion_private.outbox_1 INCLUDING INDEXES)',
		'ALTER TABLE plain.event ALTER segment SET DEFAULT 1, ALTER seq SET DEFAULT nextval(\'plain.event_seq\'),'
		  . ' ALTER xid SET DEFAULT pg_current_xact_id(), ALTER id SET DEFAULT gen_random_uuid(), ALTER version SET DEFAULT 1,'
		  . ' ALTER occurred_at SET DEFAULT clock_timestamp()');
	file('insert.sql', "\\set id random(1, 100000)\n"
		  . "INSERT INTO plain.event (type, payload, aggregatetype, aggregateid) VALUES ('user.updated', '$payload', 'user', :id);\n");
	file('publish.sql', "\\set id random(1, 100000)\nSELECT orion_publish('user.updated', '$payload', 'user', :id::text);\n");
}

sub count_rows { return $server->sql("SELECT count(*) FROM $_[0]"); }

# One sample of one side; every transaction must have left one row.
sub sample
{
	my ($script, $table, $clients) = @_;
	my $before = count_rows($table);
	my ($rate, $count) = $server->pgbench("$option{work}/$script", $clients);
	my $rows = count_rows($table) - $before;
	die "$rows rows in $table after $count transactions\n" if $rows != $count;
	return ($rate, $count);
}

sub clients
{
	my ($clients, $with, $target) = @_;
	$server->sql('TRUNCATE plain.event');
	compare(
		what => sprintf('publish / insert, %d client%s, %s', $clients, $clients == 1 ? '' : 's', $with),
		ours => sub { sample('publish.sql', 'orion_private.outbox', $clients) },
		other => sub { sample('insert.sql', 'plain.event', $clients) },
		unit => '1/s',
		target => $target);
}

# The relay is awake all the time: each event goes to Redis, at the cost of the same cores.
figure publish => sub {
	$server->needs('orion_publish', 'orion_sink_create');
	prepare();
	clients(8, 'no sink', '');
	my $redis = OrionServices->start_redis(conf => "appendonly no\n");
	$server->sql("SELECT orion_sink_create('bench_publish', 'redis', jsonb_build_object('url', '" . $redis->url . "', 'maxlen', 10000), 'user.#')");
	clients($_, 'a Redis sink', $_ == 1 ? '' : '>= 0.90') foreach 1, 8, 32;
	$server->sql("SELECT orion_sink_drop('bench_publish')");
	$redis->stop;
};

1;
