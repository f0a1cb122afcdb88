# From COMMIT to the moment a consumer of the Redis stream has the event, on an idle system.
package Figure::Latency;

use strict;
use warnings;
use OrionBench;
use OrionServices;

figure latency => sub {
	$server->needs('orion_sink_create');
	my $redis = OrionServices->start_redis(conf => "appendonly no\n");
	my (@p50, @p99, @max);

	$server->sql("SELECT orion_sink_create('bench_latency', 'redis', jsonb_build_object('url', '" . $redis->url
		  . "', 'stream', 'bench:latency'), 'latency.#')",
		"SELECT orion_publish('latency.first', '{}')");
	poll_until(sub { $redis->command('XLEN', 'bench:latency') eq '1' }, 30, 'the first event');
	my ($share) = OrionBench::beside(
		sub {
			foreach (1 .. $option{reps})
			{
				my $text = run_program("$option{out}/raw/latency", "host=$option{work} user=postgres dbname=$server->{database}",
					$redis->port, 'bench:latency', 'latency.one', 50 * $option{seconds});
				my ($p50, $p99, $max) = split ' ', $text;
				push @p50, $p50 / 1000;
				push @p99, $p99 / 1000;
				push @max, $max / 1000;
			}
		});
	OrionBench::report(what => 'COMMIT sent to seen in Redis, p50', values => \@p50, unit => 'ms', target => '< 2', beside => $share);
	OrionBench::report(what => 'COMMIT sent to seen in Redis, p99', values => \@p99, unit => 'ms', target => '< 10', beside => $share);
	OrionBench::report(what => 'COMMIT sent to seen in Redis, largest', values => \@max, unit => 'ms', beside => $share);
	$server->sql("SELECT orion_sink_drop('bench_latency')");
	$redis->stop;
};

1;
