# How fast a backlog of one transaction reaches Redis, RabbitMQ and an endpoint of webhooks,
# against a plain client that sends the same message as often.
package Figure::Drain;

use strict;
use warnings;
use OrionBench;
use OrionServices;
use POSIX ();

my $payload = q{jsonb_build_object('number', i, 'email', 'somebody@bench.example', 'displayName', 'Somebody With A Name',}
  . q{ 'address', '192.0.2.17', 'agent', 'Mozilla/5.0 (X11; Linux x86_64)')};

# Publishes count events in one transaction; returns the time of day just before its commit.
sub publish
{
	my ($type, $count) = @_;
	my $result = $server->sql("SELECT count(orion_publish('$type', $payload, 'user', i::text)),"
		  . " extract(epoch FROM clock_timestamp()) FROM generate_series(1, $count) i");
	my ($published, $at) = split /\|/, $result;
	die "$published events published, not $count\n" if $published != $count;
	return $at;
}

# One sample: rate of the events from commit to the last one's arrival.
sub drain
{
	my ($type, $count, @await) = @_;
	my $begin = publish($type, $count);
	return ($count / (run_program(@await, $count, 120) - $begin), $count);
}

sub redis
{
	my ($count) = @_;
	my $redis = OrionServices->start_redis(conf => "appendonly no\n");
	my @raw = ("$option{out}/raw/raw_redis", $redis->port);

	$server->sql("SELECT orion_sink_create('bench_redis', 'redis', jsonb_build_object('url', '" . $redis->url
		  . "', 'stream', 'bench:events'), 'stream.#')");
	drain('stream.row', 1, @raw, 'await', 'bench:events');
	$redis->command('COPY', 'bench:events', 'bench:sample');
	compare(
		what => 'outbox to Redis stream / plain XADD',
		ours => sub { $redis->command('DEL', 'bench:events'); return drain('stream.row', $count, @raw, 'await', 'bench:events') },
		other => sub { return run_program(@raw, 'copy', 'bench:sample', 'bench:copies', $count) + 0 },
		unit => '1/s',
		target => '>= 0.40');
	$server->sql("SELECT orion_sink_drop('bench_redis')");
	$redis->stop;
}

sub rabbitmq
{
	my ($rabbitmq, $kind, $count) = @_;
	my @raw = ("$option{out}/raw/raw_amqp", $rabbitmq->port);
	my $queue = "bench.$kind";

	my $config = <<"JSON";
{"url": "${\ $rabbitmq->url}", "exchanges": ["$kind.events"], "queues": [{"name": "$queue", "type": "$kind"}],
 "bindings": [{"exchange": "$kind.events", "queue": "$queue"}]}
JSON
	$server->sql("SELECT orion_sink_create('bench_$kind', 'rabbitmq', '$config', '$kind.#')");
	poll_until(sub { eval { run_program(@raw, 'purge', $queue, 0, 0); 1 } }, 30, "the queue $queue");
	compare(
		what => "outbox to RabbitMQ, $kind / plain publish",
		ours => sub { run_program(@raw, 'purge', $queue, 0, 0); return drain("$kind.row", $count, @raw, 'await', $queue) },
		other => sub { return run_program(@raw, 'copy', "$kind.events", $queue, $count) + 0 },
		unit => '1/s',
		target => '>= 0.80');
	$server->sql("SELECT orion_sink_drop('bench_$kind')");
}

# As many requests at a time on both sides.
sub webhooks
{
	my ($count) = @_;
	my $together = 32;
	my $port = free_port();
	my @raw = ("$option{out}/raw/raw_webhook", $port);

	my $receiver = fork // die "fork: $!\n";
	if ($receiver == 0)
	{
		exec(@raw, 'serve') or POSIX::_exit(127);
	}
	my $well = eval {
		poll_until(sub { eval { run_program(@raw, 'reset'); 1 } }, 30, 'the receiver');
		my $id = $server->sql("SELECT id FROM orion_webhook_create('http://127.0.0.1:$port/bench', '{hook.#}', concurrency => $together,"
			  . " networks => '{127.0.0.1/32}', plain_http => true)");
		drain('hook.row', 1, @raw, 'await');
		compare(
			what => "outbox to a webhook / libcurl, $together at a time",
			ours => sub { run_program(@raw, 'reset'); return drain('hook.row', $count, @raw, 'await') },
			other => sub { return run_program(@raw, 'copy', $together, $count) + 0 },
			unit => '1/s');
		$server->sql("SELECT orion_webhook_drop($id)", "SELECT orion_sink_drop('webhooks')");
		1;
	};
	my $why = $@;
	kill 'KILL', $receiver;
	waitpid $receiver, 0;
	die $why unless $well;
}

figure drain => sub {
	$server->needs('orion_sink_create');
	redis($option{smoke} ? 5_000 : 40_000 * $option{seconds});
	my $rabbitmq = OrionServices->start_rabbitmq;
	rabbitmq($rabbitmq, $_, $option{smoke} ? 2_000 : 10_000 * $option{seconds}) foreach 'classic', 'quorum';
	$rabbitmq->stop;
	webhooks($option{smoke} ? 500 : 4_000 * $option{seconds});
};

1;
