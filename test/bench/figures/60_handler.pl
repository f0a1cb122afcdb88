# Events through a SQL handler that does nothing, against calling that function in a loop.
package Figure::Handler;

use strict;
use warnings;
use OrionBench;

my $payload = q{jsonb_build_object('number', i, 'email', 'somebody@bench.example', 'displayName', 'Somebody With A Name')};

sub delivered
{
	return $server->sql("SELECT delivered FROM orion_private.cursors c JOIN orion_private.sinks s ON s.id = c.sink_id WHERE s.name = 'bench_handler'");
}

# From the commit of count events to the cursor behind the last of them.
sub handled
{
	my ($count) = @_;
	my $before = delivered();
	my ($published, $begin) = split /\|/,
	  $server->sql("SELECT count(orion_publish('handler.row', $payload, 'user', i::text)), extract(epoch FROM clock_timestamp()) FROM generate_series(1, $count) i");
	my $end;
	poll_until(sub { $end = Time::HiRes::time(); delivered() - $before >= $count }, 120, "$count events");
	die delivered() - $before . " events delivered, not $count\n" if delivered() - $before != $count;
	return ($count / ($end - $begin), $count);
}

# The same number of calls from a loop in the server, a transaction a hundred.
sub called
{
	my ($count) = @_;
	my $seconds = $server->sql('SELECT set_config(\'bench.t\', extract(epoch FROM clock_timestamp())::text, false)',
		"DO \$\$ DECLARE event jsonb; BEGIN SELECT $payload INTO event FROM generate_series(1, 1) i;"
		  . " FOR i IN 1 .. $count LOOP PERFORM public.bench_handler(event); IF i % 100 = 0 THEN COMMIT; END IF; END LOOP; END \$\$",
		q{SELECT extract(epoch FROM clock_timestamp()) - current_setting('bench.t')::numeric}) =~ s/.*\n//sr;
	return ($count / $seconds, $count);
}

figure handler => sub {
	$server->needs('orion_subscribe');
	my $count = $option{smoke} ? 5_000 : 20_000 * $option{seconds};

	$server->sql('CREATE OR REPLACE FUNCTION public.bench_handler(event jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN END $$',
		"SELECT orion_subscribe('bench_handler', 'handler.#', 'public.bench_handler(jsonb)')");
	my $select = file('select.sql', "SELECT public.bench_handler('{\"number\": 1, \"email\": \"somebody\@bench.example\"}');\n");
	compare(
		what => 'SQL handler / loop of PERFORM f(event)',
		ours => sub { handled($count) },
		other => sub { called($count) },
		unit => '1/s');
	compare(
		what => 'SQL handler / pgbench of SELECT f(), 1 client',
		ours => sub { handled($count) },
		other => sub { $server->pgbench($select, 1) },
		unit => '1/s',
		target => '>= 0.5');
	$server->sql("SELECT orion_unsubscribe('bench_handler')");
};

1;
