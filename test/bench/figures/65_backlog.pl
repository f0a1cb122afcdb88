# What a backlog and many sinks cost: memory of relay and courier while they drain, dead rows
# of the outbox with a transaction held open, and publishing with 20 sinks against one.
# BACKLOG=1000000 make bench ONLY=backlog is the full size.
package Figure::Backlog;

use strict;
use warnings;
use OrionBench;
use OrionServices;

# Megabytes of memory of its own that a process has; 0 when it is gone.
sub private_mb
{
	my ($pid) = @_;
	open(my $file, '<', "/proc/$pid/status") or return 0;
	return (map { /^RssAnon:\s+(\d+)/ ? $1 / 1024 : () } <$file>)[0] // 0;
}

sub peak_while_draining
{
	my ($redis, $count) = @_;
	my ($relay, $courier) = (0, 0);
	my $want = $redis->command('XLEN', 'bench:backlog') + $count;
	$server->sql("SELECT orion_sink_pause('bench_backlog')",
		"SELECT count(orion_publish('backlog.row', jsonb_build_object('number', i, 'email', 'somebody\@bench.example'), 'user', i::text)) FROM generate_series(1, $count) i",
		"SELECT orion_sink_resume('bench_backlog')");
	poll_until(
		sub {
			my ($pid, $program) = split /\|/, $server->sql("SELECT coalesce(pid, 0), coalesce(program_pid, 0) FROM orion.workers WHERE name = 'bench_backlog'");
			my ($r, $c) = (private_mb($pid), private_mb($program));
			$relay = $r if $r > $relay;
			$courier = $c if $c > $courier;
			return $redis->command('XLEN', 'bench:backlog') >= $want;
		},
		600, "$count events");
	return ($relay, $courier);
}

# Rows of the outbox that are dead, or were made so.
sub dead_rows
{
	return $server->sql("SELECT pg_stat_force_next_flush(); SELECT sum(n_dead_tup + n_tup_upd + n_tup_del) FROM pg_stat_all_tables WHERE schemaname = 'orion_private' AND relname LIKE 'outbox\\__'") =~ s/.*\n//sr;
}

figure backlog => sub {
	$server->needs('orion_sink_create');
	my $count = $ENV{BACKLOG} // ($option{smoke} ? 5_000 : 100_000);
	my $redis = OrionServices->start_redis(conf => "appendonly no\n");
	my $size = $count >= 1_000_000 ? sprintf('%g million', $count / 1e6) : sprintf('%g thousand', $count / 1e3);

	$server->sql("SELECT orion_sink_create('bench_backlog', 'redis', jsonb_build_object('url', '" . $redis->url
		  . "', 'stream', 'bench:backlog', 'maxlen', 100000000), 'backlog.#')");
	# a transaction with an id, open for all of it
	$server->sql('CREATE TABLE IF NOT EXISTS public.bench_open (i int)');
	my $holder = open(my $in, '|-', "$option{bin}/psql", '-X', '-q', '-h', $option{work}, '-U', 'postgres', '-d', $server->{database}) || die "psql: $!\n";
	$in->autoflush(1);
	print $in "BEGIN; INSERT INTO public.bench_open VALUES (1);\n";
	poll_until(sub { $server->sql("SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND backend_xid IS NOT NULL") > 0 }, 60, 'the open transaction');
	my $before = dead_rows();	# of transactions that other figures broke off
	my ($relay, $courier) = peak_while_draining($redis, $count);
	poll_until(sub { $server->sql("SELECT lag_events FROM orion.sinks WHERE name = 'bench_backlog'") == 0 }, 60, 'the position');
	my $dead = dead_rows() - $before;
	print $in "ROLLBACK;\n";
	close $in;
	die "$dead dead rows in the outbox, not 0\n" if $dead != 0;
	OrionBench::report(what => "relay, $size waiting (0 dead rows)", values => [$relay], unit => 'MB', target => '<= 64');
	OrionBench::report(what => "courier, $size waiting", values => [$courier], unit => 'MB', target => '<= 64');
	$server->sql("SELECT orion_sink_drop('bench_backlog')");
	$redis->stop;
};

sub with_sinks
{
	my ($count, $script) = @_;
	$server->sql(map { "SELECT orion_subscribe('bench_fan_$_', 'nothing.#', 'public.bench_fan(jsonb)')" } 1 .. $count);
	poll_until(sub { $server->sql("SELECT count(*) FROM orion.sinks WHERE name LIKE 'bench_fan_%' AND state = 'running'") == $count }, 60, "$count relays");
	my @result = $server->pgbench($script, 8);
	$server->sql(map { "SELECT orion_unsubscribe('bench_fan_$_')" } 1 .. $count);
	return @result;
}

figure fanout => sub {
	$server->needs('orion_subscribe');
	$server->sql('CREATE OR REPLACE FUNCTION public.bench_fan(event jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN END $$');
	my $script = file('fanout.sql', "\\set id random(1, 100000)\nSELECT orion_publish('user.updated', '{\"a\": 1}', 'user', :id::text);\n");
	compare(
		what => 'publish with 20 sinks / with 1, 8 clients',
		ours => sub { with_sinks(20, $script) },
		other => sub { with_sinks(1, $script) },
		unit => '1/s',
		target => '>= 0.95');
};

1;
