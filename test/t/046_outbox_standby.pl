# Failover: relays do not run on a standby, start there by themselves when it is promoted,
# and go on from the replicated cursors. Real standby, real Redis, the primary killed.
use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;

use OrionServices;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();

my $redis = OrionServices->start_redis();
my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', q{
shared_preload_libraries = 'orion'
max_worker_processes = 20
orion.http_port = 0
});
$primary->start;
$primary->safe_psql('postgres', 'CREATE EXTENSION orion');
$primary->safe_psql('postgres', qq{
CREATE TABLE published (id uuid PRIMARY KEY);
CREATE TABLE seen (place bigserial, id uuid, k text, n int);
CREATE FUNCTION see(event jsonb) RETURNS void LANGUAGE sql AS \$\$
	INSERT INTO public.seen (id, k, n) VALUES ((event ->> 'eventId')::uuid, event ->> 'aggregateId', (event #>> '{payload,n}')::int) \$\$;
CREATE TABLE counters (k int PRIMARY KEY, n int NOT NULL);
INSERT INTO counters SELECT k, 0 FROM generate_series(1, 10) k;
SELECT orion_subscribe('seen', '#', 'see(jsonb)');
SELECT orion_sink_create('stream', 'redis', '{"url": "@{[ $redis->url ]}", "stream": "s"}');
});
$primary->backup('b');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'b', has_streaming => 1);
chmod 0600, $standby->data_dir . '/orion_master.key';	# pg_basebackup keeps the mode, the test's copy does not
$standby->start;
$primary->append_conf('postgresql.conf', "synchronous_standby_names = '*'\n");	# what is committed is on both
$primary->reload;
ok($primary->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'"), 'a synchronous standby');

sub on { my ($node, $sql) = @_; return $node->safe_psql('postgres', $sql); }

my $script = $primary->basedir . '/write.sql';
append_to_file($script, q{
\set k random(1, 10)
\set what random(1, 10)
BEGIN;
UPDATE counters SET n = n + 1 WHERE k = :k RETURNING n \gset
INSERT INTO published SELECT orion_publish('key.moved', jsonb_build_object('n', :n), 'key', (:k)::text);
\if :what = 1
ROLLBACK;
\else
COMMIT;
\endif
});
my $errors = '';
my $writers = IPC::Run::start([ 'pgbench', '-n', '-c', 4, '-T', 60, '-f', $script, $primary->connstr('postgres') ], '>', '/dev/null', '2>', \$errors);
ok($primary->poll_query_until('postgres', 'SELECT count(*) > 500 FROM seen'), 'events flow on the primary');
is(on($standby, "SELECT count(*) FROM orion.workers WHERE kind = 'relay'"), '0', 'no relay runs on the standby');
is(on($standby, "SELECT string_agg(DISTINCT state, ' ') FROM orion.sinks"), 'standby', 'the view says why');
ok($standby->poll_query_until('postgres', q{SELECT position ~ '^\d{13}:\d+$' FROM orion.sinks WHERE name = 'stream'}), 'and shows the replicated position');
ok($standby->poll_query_until('postgres', "SELECT state = 'running' FROM orion.workers WHERE kind = 'maintenance'"), 'the standby knows its part');

$primary->stop('immediate');
$writers->finish;
my $begin = Time::HiRes::time();
$standby->promote;
ok($standby->poll_query_until('postgres', "SELECT count(*) = 2 FROM orion.sinks WHERE state = 'running'"), 'relays start there by themselves');
my $seconds = Time::HiRes::time() - $begin;
cmp_ok($seconds, '<', 60, 'soon');
diag(sprintf('relays ran %.1f s after the promotion', $seconds));
on($standby, q{INSERT INTO published SELECT orion_publish('after.promotion', '{}')});
my $committed = on($standby, 'SELECT count(*) FROM published');
ok($standby->poll_query_until('postgres', "SELECT count(*) = $committed FROM seen"), "the handler has every one of $committed committed events");
is(on($standby, 'SELECT count(*) - count(DISTINCT id) FROM seen'), '0', 'none twice');
is(on($standby, 'SELECT count(*) FROM seen WHERE id NOT IN (SELECT id FROM published)'), '0', 'none that was rolled back');
is(on($standby, 'SELECT count(*) FROM (SELECT n, lag(n) OVER (PARTITION BY k ORDER BY place) AS before FROM seen WHERE n IS NOT NULL) s WHERE n <= before'), '0', 'each key in order');

ok(OrionServices::poll_until(sub { $redis->command('XLEN', 's') >= $committed }), 'Redis as well');
my %got;
$got{ $_->{id} }++ foreach @{ $redis->stream('s') };
my @wanted = split /\n/, on($standby, 'SELECT id FROM published');
is(scalar(grep { !$got{$_} } @wanted), 0, 'nothing is lost');
is(scalar(keys %got), scalar(@wanted), 'nothing came that is not in the database: the standby was synchronous');
is(scalar(grep { $_ > 1 } values %got), 0, 'and nothing came twice');
ok($standby->poll_query_until('postgres', "SELECT bool_and(lag_events = 0 AND last_error IS NULL) FROM orion.sinks"), 'all is well');

$standby->stop;
done_testing();
