# The life of the worker processes: what a DBA may do to them, and what they do then.
use strict;
use warnings;
use OrionPsql;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = PostgreSQL::Test::Cluster->new('workers');
$node->init;
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'orion'
max_worker_processes = 16
orion.database = 'app'
orion.http_port = 0
restart_after_crash = on
});
$node->start;

sub pids
{
	my ($type) = @_;
	return $node->safe_psql('postgres',
		"SELECT coalesce(string_agg(pid::text, ',' ORDER BY pid), '') FROM pg_stat_activity WHERE backend_type LIKE 'orion $type'");
}

sub becomes
{
	my ($type, $count, $what) = @_;
	ok($node->poll_query_until('postgres',
			"SELECT count(*) = $count FROM pg_stat_activity WHERE backend_type LIKE 'orion $type'"),
		$what);
}

# without the database, without the extension
becomes('launcher', 1, 'the launcher runs from server start');
$node->safe_psql('postgres', 'CREATE DATABASE app');
becomes('executor', 0, 'nobody serves requests before CREATE EXTENSION');

my $from = time;
$node->safe_psql('app', 'CREATE EXTENSION orion');
becomes('executor', 2, 'CREATE EXTENSION brings the executors');
cmp_ok(time - $from, '<', 20, 'and does so without waiting for a poll');
is($node->safe_psql('app', "SELECT string_agg(DISTINCT kind, ',' ORDER BY kind) FROM orion.workers WHERE state IN ('running', 'degraded')"),
	'executor,gateway,maintenance', 'orion.workers lists them');

# settings
$node->safe_psql('postgres', 'ALTER SYSTEM SET orion.executor_count = 4');
$node->reload;
becomes('executor', 4, 'a reload raises the number of executors');
$node->safe_psql('postgres', 'ALTER SYSTEM SET orion.executor_count = 1');
$node->reload;
becomes('executor', 1, 'and lowers it');

# pg_terminate_backend
my $executor = pids('executor');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($executor)");
ok($node->poll_query_until('app',
		"SELECT count(*) = 1 FROM orion.workers WHERE kind = 'executor' AND pid <> $executor AND restarts = 1 AND last_error LIKE '%administrator command%'"),
	'a terminated executor is replaced, and the view says why');

my $workers = pids('executor');
my $launcher = pids('launcher');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($launcher)");
ok($node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'orion launcher' AND pid <> $launcher"),
	'the launcher is replaced');
is(pids('executor'), $workers, 'its workers stay');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($workers)");
ok($node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'orion executor' AND pid <> $workers"),
	'and the next launcher looks after them');

# DROP and CREATE EXTENSION
$node->safe_psql('app', 'DROP EXTENSION orion CASCADE');
becomes('executor', 0, 'DROP EXTENSION sends the executors away');
becomes('maintenance', 0, 'and the maintenance worker');
$node->safe_psql('app', 'CREATE EXTENSION orion');
becomes('executor', 1, 'CREATE EXTENSION brings them back');

# commands that need the database for themselves
$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE app');
pass('the database can be a template while it is served');
becomes('executor', 1, 'the workers come back afterwards');
$node->safe_psql('postgres', 'ALTER DATABASE app RENAME TO app2');
$node->safe_psql('postgres', 'ALTER DATABASE app2 RENAME TO app');
becomes('executor', 1, 'a database renamed back and forth is served again');
$node->safe_psql('postgres', 'CREATE ROLE stranger LOGIN');
$workers = pids('executor');
my ($ret, $out, $err) = $node->psql('postgres', 'DROP DATABASE app', extra_params => [ '-U', 'stranger' ]);
like($err, qr/must be owner of database app/, 'a stranger may not drop the database');
is($workers, pids('executor'), 'and cannot make the workers leave by trying');
$node->safe_psql('postgres', 'DROP DATABASE app');
becomes('executor', 0, 'DROP DATABASE works');
$node->safe_psql('postgres', 'CREATE DATABASE app TEMPLATE copy');
becomes('executor', 1, 'a restored database is served');

# crash of a process attached to shared memory: Postgres restarts everything
$executor = pids('executor');
kill 9, $executor;
ok($node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'orion executor' AND pid <> $executor"),
	'the executors are back after a crash restart');

# too few worker slots
$node->safe_psql('postgres', 'ALTER SYSTEM SET max_worker_processes = 4');
$node->safe_psql('postgres', 'ALTER SYSTEM SET orion.executor_count = 4');
$node->restart;
ok($node->poll_query_until('app',
		"SELECT count(*) > 0 FROM orion.workers WHERE state = 'backoff' AND last_error LIKE '%max_worker_processes%'"),
	'running out of worker slots shows in the view');
my $log = slurp_file($node->logfile);
my $warnings = () = $log =~ /out of background worker slots for "orion/g;
is($warnings, 1, 'and is logged once, not in a loop');
like($log, qr/You might need to increase max_worker_processes/, 'with a hint');
is($node->safe_psql('app', "SELECT count(*) FROM orion.workers WHERE kind = 'maintenance' AND state = 'running'"), 1,
	'what found a slot runs');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET max_worker_processes');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET orion.executor_count');
$node->restart;
becomes('executor', 2, 'with enough slots all run');

# shutdown
$from = time;
$node->stop('fast');
cmp_ok(time - $from, '<', 20, 'a fast shutdown takes less than 20 s');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal 11/, 'no crash of our own in the log');

done_testing();
