# A tracked table against the same one without, and against a PL/pgSQL trigger that
# publishes the same event; orion_publish_batch() against as many calls of orion_publish().
package Figure::Track;

use strict;
use warnings;
use OrionBench;

my $rows = 10_000;
my $batch = 100;
my $payload = '{"userId": "0b5e7d0a-5ad1-4a8e-9a52-6a6b6b1f8c11", "email": "somebody@bench.example", "displayName": "Somebody With A Name"}';

sub make_table
{
	my ($name) = @_;
	$server->sql("DROP TABLE IF EXISTS public.$name",
		"CREATE TABLE public.$name (id int PRIMARY KEY, name text, email text, secret text, balance numeric(12,2), active bool, changed_at timestamptz) WITH (fillfactor = 50)",
		"INSERT INTO public.$name SELECT i, 'Somebody ' || i, 'somebody' || i || '\@bench.example', md5(i::text), i, true, now() FROM generate_series(1, $rows) i",
		"VACUUM ANALYZE public.$name");
	file("$name.sql", "\\set id random(1, $rows)\nUPDATE public.$name SET balance = balance + 1, changed_at = now() WHERE id = :id;\n");
	file("$name.many.sql", "UPDATE public.$name SET balance = balance + 1, changed_at = now() WHERE id <= 1000;\n");
}

sub prepare
{
	$server->sql('SET client_min_messages = warning');
	make_table($_) foreach qw(bench_untracked bench_tracked bench_plpgsql);
	$server->sql("SELECT orion_track('public.bench_tracked', private => '{secret}')",
		q{CREATE OR REPLACE FUNCTION public.bench_publish() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	o jsonb := to_jsonb(OLD) - 'secret';
	n jsonb := to_jsonb(NEW) - 'secret';
	changed jsonb := (SELECT jsonb_agg(a.key) FROM jsonb_each(n) a JOIN jsonb_each(o) b ON a.key = b.key AND a.value <> b.value);
BEGIN
	IF changed IS NOT NULL THEN
		PERFORM public.orion_publish('bench_plpgsql.updated', jsonb_build_object('old', o, 'new', n, 'changed', changed), 'bench_plpgsql', NEW.id::text,
			metadata => jsonb_build_object('table', TG_TABLE_NAME, 'operation', 'update', 'transaction', pg_current_xact_id()::text, 'role', current_user));
	END IF;
	RETURN NULL;
END $$},
		'CREATE TRIGGER publish AFTER UPDATE ON public.bench_plpgsql FOR EACH ROW EXECUTE FUNCTION public.bench_publish()');
}

sub count_events { return $server->sql('SELECT count(*) FROM orion_private.outbox'); }

# One sample; each transaction must have left so many events.
sub sample
{
	my ($script, $clients, $events, $work) = @_;
	my $before = count_events();
	my ($rate, $count) = $server->pgbench("$option{work}/$script", $clients);
	my $published = count_events() - $before;
	die "$published events after $count transactions of $script\n" if $published != $count * $events;
	return ($rate * $work, $count * $work);
}

sub against
{
	my ($what, $clients, $file, $work) = @_;
	foreach my $other ([ 'UPDATE without', 'bench_untracked', 0 ], [ 'PL/pgSQL trigger that publishes', 'bench_plpgsql', $work ])
	{
		$server->sql('TRUNCATE orion_private.outbox');
		compare(
			what => "$what / $other->[0]",
			ours => sub { sample("bench_tracked$file", $clients, $work, $work) },
			other => sub { sample("$other->[1]$file", $clients, $other->[2], $work) },
			unit => '1/s');
	}
}

sub batches
{
	my $one = "SELECT orion_publish('user.updated', '$payload', 'user', :id::text);\n";
	my $event = "{\"type\": \"user.updated\", \"payload\": $payload, \"aggregatetype\": \"user\", \"aggregateid\": \"%\"}";

	file('singles.sql', "\\set id random(1, 100000)\nBEGIN;\n" . $one x $batch . "COMMIT;\n");
	# the text is another each time, as a client's would be
	file('batch.sql', "\\set id random(1, 100000)\n" .
		"SELECT orion_publish_batch(replace('[" . join(', ', ($event) x $batch) . "]', '%', :id::text)::jsonb);\n");
	$server->sql('TRUNCATE orion_private.outbox');
	compare(
		what => "orion_publish_batch of $batch / as many calls in a transaction, 1 client",
		ours => sub { sample('batch.sql', 1, $batch, $batch) },
		other => sub { sample('singles.sql', 1, $batch, $batch) },
		unit => '1/s');
	$server->sql('TRUNCATE orion_private.outbox');
}

figure track => sub {
	$server->needs('orion_track', 'orion_publish_batch');
	prepare();
	against('tracked UPDATE, 8 clients', 8, '.sql', 1);
	against('tracked UPDATE of 1,000 rows, 1 client', 1, '.many.sql', 1000);
	batches();
	$server->sql('DROP TABLE public.bench_untracked, public.bench_tracked, public.bench_plpgsql');
};

1;
