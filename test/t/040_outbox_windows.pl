# The outbox's promise: each committed event reaches a sink once, in the order of its
# key, none of a rolled-back transaction does, and no open transaction holds others up.
use strict;
use warnings;
use OrionPsql;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('outbox');
$node->init;
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'orion'
max_worker_processes = 16
max_prepared_transactions = 10
orion.http_port = 0
restart_after_crash = on
});
$node->start;

$node->safe_psql('postgres', q{
CREATE EXTENSION orion;
CREATE TABLE counters (k int PRIMARY KEY, n int NOT NULL) WITH (fillfactor = 20);
INSERT INTO counters SELECT k, 0 FROM generate_series(1, 20) k;
CREATE TABLE published (id uuid PRIMARY KEY);
CREATE TABLE seen (place bigserial, id uuid, k int, n int);
CREATE FUNCTION see(event jsonb) RETURNS void LANGUAGE sql AS $$
	INSERT INTO public.seen (id, k, n)
	VALUES ((event ->> 'eventId')::uuid, (event #>> '{payload,k}')::int, (event #>> '{payload,n}')::int)
$$;
SELECT orion_subscribe('seen', '#', 'see(jsonb)');
});

sub value { return $node->safe_psql('postgres', $_[0]); }

sub all_seen
{
	my ($what) = @_;
	ok($node->poll_query_until('postgres',
			'SELECT NOT EXISTS (SELECT id FROM published EXCEPT SELECT id FROM seen)'), "$what: every committed event arrives");
	is(value('SELECT count(*) FROM seen WHERE id NOT IN (SELECT id FROM published)'), '0', "$what: none that was rolled back");
	is(value('SELECT count(*) - count(DISTINCT id) FROM seen'), '0', "$what: none twice");
	is(value(q{SELECT count(*) FROM (
			SELECT n, lag(n) OVER (PARTITION BY k ORDER BY place) AS before FROM seen WHERE k IS NOT NULL) s
			WHERE n <> before + 1}), '0', "$what: each key's events in order");
}

my $script = $node->basedir . '/write.sql';
PostgreSQL::Test::Utils::append_to_file($script, q{
\set k random(1, 20)
\set what random(1, 20)
\set pause random(0, 4000)
BEGIN;
UPDATE counters SET n = n + 1 WHERE k = :k RETURNING n \gset
SAVEPOINT a;
\if :what <= 6
SELECT orion_publish('key.undone', '{}');
ROLLBACK TO a;
\endif
INSERT INTO published SELECT orion_publish('key.moved', jsonb_build_object('k', :k, 'n', :n), 'key', (:k)::text);
\if :what % 2 = 0
\sleep :pause us
\endif
\if :what >= 18
ROLLBACK;
\else
COMMIT;
\endif
});

# one transaction is open throughout, with an event of its own
my $open = $node->background_psql('postgres');
$open->query_safe(q{BEGIN; INSERT INTO published SELECT orion_publish('late.one', '{}')});

sub write_for
{
	my ($seconds) = @_;
	return IPC::Run::start(
		[ 'pgbench', '-n', '-c', 8, '-j', 2, '-T', $seconds, '-f', $script, $node->connstr('postgres') ],
		'>', '/dev/null', '2>', \my $errors);
}

my $writers = write_for(5);
ok($writers->finish, 'eight writers ran');
cmp_ok(value('SELECT count(*) FROM published'), '>', 500, 'and committed events');
all_seen('one transaction still open');
is(value("SELECT count(*) FROM published"), value("SELECT count(*) FROM seen"), 'nothing else was seen');

# the relay is terminated while events flow
$writers = write_for(6);
for (1 .. 2)
{
	$node->poll_query_until('postgres', "SELECT state = 'running' FROM orion.sinks");
	my $pid = value("SELECT pid FROM orion.workers WHERE kind = 'relay'");
	value("SELECT pg_terminate_backend($pid)");
	$node->poll_query_until('postgres', "SELECT pid <> $pid FROM orion.workers WHERE kind = 'relay'");
}
$writers->finish;
all_seen('the relay was terminated');

$open->query_safe('COMMIT');
$open->quit;
all_seen('the late commit');
is(value("SELECT count(*) FROM published"), value("SELECT count(*) FROM seen"), 'it was one event');

# a prepared transaction wakes nobody when it commits, and is found by the poll
value(q{BEGIN; INSERT INTO published SELECT orion_publish('two.phase', '{}'); PREPARE TRANSACTION 'p'});
my $next = value(q{WITH e AS (SELECT orion_publish('after.it', '{}') AS id) INSERT INTO published SELECT id FROM e RETURNING id});
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM seen WHERE id = '$next'"), 'a prepared transaction holds nobody up');
value("COMMIT PREPARED 'p'");
all_seen('two-phase commit');

# a window larger than a batch, with holes
value(q{BEGIN; SELECT count(orion_publish('hole.one', '{}')) FROM generate_series(1, 3000); ROLLBACK});
value(q{INSERT INTO published SELECT orion_publish('bulk.one', jsonb_build_object('i', i)) FROM generate_series(1, 20000) i});
all_seen('a bulk of 20,000');

# crash of the whole server in mid-flow
my $before = value('SELECT max(place) FROM seen');
$writers = write_for(4);
$node->poll_query_until('postgres', "SELECT max(place) > $before + 300 FROM seen");
value(q{INSERT INTO published SELECT orion_publish('bulk.two', jsonb_build_object('i', i)) FROM generate_series(1, 20000) i});
$node->stop('immediate');
$writers->finish;
$node->start;
all_seen('a crash of the server');
is(value("SELECT count(*) FROM published"), value("SELECT count(*) FROM seen"), 'and exactly these');

$node->stop;
done_testing();
