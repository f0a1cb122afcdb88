# Cache rules from SQL to a real Redis: values made by functions, in whose name, how new
# they are, and what remains when a function fails.
use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;

use OrionServices;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $redis = OrionServices->start_redis(password => 'pass-word');
my $node = PostgreSQL::Test::Cluster->new('cache');
$node->init;
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'orion'
max_worker_processes = 16
orion.http_port = 0
orion.cache_function_timeout = 1000
});
$node->start;

sub value { return $node->safe_psql('postgres', $_[0]); }
sub key { return $redis->command('GET', $_[0]); }
sub becomes { my ($key, $wanted, $what) = @_; ok(OrionServices::poll_until(sub { key($key) eq $wanted }), $what) or diag(key($key)); }
sub delivered
{
	my ($what) = @_;
	value("SELECT orion_publish('mark.set', jsonb_build_object('mark', '$what'), 'mark', '$what')");
	becomes("mark:$what", $what, "delivered: $what");
}

value(q{
	CREATE EXTENSION orion;
	CREATE ROLE keeper LOGIN IN ROLE orion_admin;
	CREATE TABLE users (id text PRIMARY KEY, name text NOT NULL, secret text DEFAULT 'hidden');
	GRANT SELECT (id, name) ON users TO keeper;
	CREATE TABLE calls (n bigserial);
	GRANT ALL ON calls, calls_n_seq TO keeper;
	-- what the row is now, not what the event says
	CREATE FUNCTION user_value(event jsonb) RETURNS jsonb LANGUAGE sql AS
		$$ SELECT jsonb_build_object('name', u.name, 'by', current_user, 'only', current_setting('transaction_read_only'))
			FROM users u WHERE u.id = event ->> 'aggregateId' $$;
	CREATE FUNCTION mark_value(event jsonb) RETURNS text LANGUAGE sql AS $$ SELECT event -> 'payload' ->> 'mark' $$;
	CREATE FUNCTION secret_value(event jsonb) RETURNS text LANGUAGE sql AS $$ SELECT secret FROM users LIMIT 1 $$;
	CREATE FUNCTION writing_value(event jsonb) RETURNS text LANGUAGE sql AS $$ INSERT INTO calls DEFAULT VALUES RETURNING n::text $$;
	CREATE FUNCTION slow_value(event jsonb) RETURNS text LANGUAGE sql AS $$ SELECT pg_sleep(60)::text $$;
	CREATE FUNCTION stubborn_value(event jsonb) RETURNS text LANGUAGE plpgsql AS
		$$ BEGIN PERFORM set_config('transaction_read_only', 'off', true); RETURN 'written'; END $$;
	CREATE FUNCTION counted_value(event jsonb) RETURNS text LANGUAGE sql AS $$ SELECT count(*)::text FROM users $$});
my $config = '{"url": "' . $redis->url . '"}';
value("SELECT orion_sink_create('cache', 'redis', '$config')");
my $rules = q{
	SET ROLE keeper;
	SELECT orion_cache_rule_create('cache', 'user', 'user.*', '{"set": {"key": "user:{aggregateid}", "ttl": 600, "tags": ["users"]}}', 'user_value(jsonb)');
	SELECT orion_cache_rule_create('cache', 'mark', 'mark.set', '{"set": {"key": "mark:{aggregateid}"}}', 'mark_value(jsonb)');
	SELECT orion_cache_rule_create('cache', 'all', 'all.gone', '{"tags": ["users"], "flush": ["pages"]}');
	SELECT orion_cache_depend('cache', 'user:{aggregateid}', ARRAY['page:{aggregateid}'])};
value($rules);

delivered('first');
$redis->command('SET', 'page:1', 'old');
value(q{INSERT INTO users VALUES ('1', 'Ada'); SELECT orion_publish('user.created', '{}', 'user', '1')});
becomes('user:1', '{"by": "keeper", "name": "Ada", "only": "on"}', 'the value is made as the creator of the rule, read-only');
cmp_ok($redis->command('TTL', 'user:1'), '>', 500, 'with its time to live');
is($redis->command('EXISTS', 'page:1'), 0, 'what depends on it is removed');
is($redis->command('SMEMBERS', 'orion:tag:{users}'), 'user:1', 'and it has its tag');
is($redis->command('XLEN', 'orion:events'), 2, 'the events are in the stream, too');

# what an aborted transaction says is in no cache; a name that changes often ends as it is
value(qq{BEGIN; UPDATE users SET name = 'nobody'; SELECT orion_publish('user.renamed', '{}', 'user', '1'); ROLLBACK});
value(join ';', map { "UPDATE users SET name = 'Ada $_' WHERE id = '1'; SELECT orion_publish('user.renamed', '{}', 'user', '1')" } 1 .. 20);
becomes('user:1', '{"by": "keeper", "name": "Ada 20", "only": "on"}', 'the last of twenty names in one transaction');
my @writers = map { [ $node->background_psql('postgres'), $_ ] } 1 .. 3;
foreach my $n (1 .. 30)
{
	foreach (@writers)
	{
		my ($psql, $who) = @$_;
		$psql->query_safe("UPDATE users SET name = '$who-$n' WHERE id = '1'; SELECT orion_publish('user.renamed', '{}', 'user', '1')");
	}
	if ($n == 10) { kill 'KILL', value("SELECT program_pid FROM orion.workers WHERE kind = 'relay'") || die 'no courier' }
	if ($n == 20) { value("SELECT pg_terminate_backend(pid) FROM orion.workers WHERE kind = 'relay'") }
}
$_->[0]->quit foreach @writers;
delivered('writers');
is(key('user:1'), '{"by": "keeper", "name": "' . value("SELECT name FROM users") . '", "only": "on"}',
	'the cache agrees with the table, though courier and relay were killed');

value(q{DELETE FROM users WHERE id = '1'; SELECT orion_publish('user.deleted', '{}', 'user', '1')});
delivered('deleted');
is($redis->command('EXISTS', 'user:1'), 0, 'no row, no value, no key');

# tags and namespaces
value(qq{INSERT INTO users SELECT i::text, 'n' || i FROM generate_series(1, 1500) i;
	SELECT count(orion_publish('user.created', '{}', 'user', i::text)) FROM generate_series(1, 1500) i});
delivered('many');
is($redis->command('SCARD', 'orion:tag:{users}'), 1500, 'a tag of many keys');
value("SELECT orion_publish('all.gone', '{}')");
delivered('gone');
is(join(' ', grep { /^user/ } split /\n/, $redis->command('KEYS', '*')), '', 'all its keys are gone');
is(key('orion:namespace:pages'), 1, 'a new generation');

my $restarts = value("SELECT restarts FROM orion.workers WHERE kind = 'relay'");

# functions that fail: their keys go, the events do not
foreach ([ 'secret_value', qr/permission denied for table users/ ], [ 'writing_value', qr/read-only transaction/ ],
	[ 'stubborn_value', qr/read-write mode/ ], [ 'slow_value', qr/57014/ ])
{
	my ($function, $error) = @$_;
	my $before = $redis->command('XLEN', 'orion:events');
	$redis->command('SET', 'wrong:1', 'old');
	value(qq{SET ROLE keeper; SELECT orion_cache_rule_create('cache', '$function', 'wrong.*', '{"set": {"key": "wrong:{aggregateid}"}}', '$function(jsonb)')});
	value("SELECT orion_publish('wrong.one', '{}', 'wrong', '1')");
	delivered($function);
	is($redis->command('EXISTS', 'wrong:1'), 0, "$function: the key is removed");
	is($redis->command('XLEN', 'orion:events'), $before + 2, 'the event is delivered');
	my ($failures, $why) = split /\|/, value("SELECT failures, last_error FROM orion.cache_rules WHERE name = '$function'");
	is($failures, 1, 'the rule counts it');
	like($why, $error, "and says why: $why");
	value("SELECT orion_cache_rule_drop('cache', '$function')");
}
is(value("SELECT restarts FROM orion.workers WHERE kind = 'relay'"), $restarts, 'nor does the courier go with them');
is(value('SELECT count(*) FROM calls'), '0', 'nothing was written');
is(value("SELECT count(*) FROM orion.dead_letters"), '0', 'there are no dead letters');

# a right that is taken away, a function that is gone
$redis->command('SET', 'user:7', 'old');
value(q{REVOKE EXECUTE ON FUNCTION user_value(jsonb) FROM PUBLIC; SELECT orion_publish('user.renamed', '{}', 'user', '7')});
ok($node->poll_query_until('postgres', "SELECT failures > 0 AND last_error ~ 'may not execute|permission denied' FROM orion.cache_rules WHERE name = 'user'"), 'a right that was taken away');
ok(OrionServices::poll_until(sub { $redis->command('EXISTS', 'user:7') eq '0' }), 'the key is removed');
value('GRANT EXECUTE ON FUNCTION user_value(jsonb) TO keeper');
value('DROP FUNCTION user_value(jsonb)');
ok(OrionServices::poll_until(sub {
		value(q{SELECT orion_publish('user.renamed', '{}', 'user', '7')});
		return value("SELECT last_error ~ 'does not exist' FROM orion.cache_rules WHERE name = 'user'") eq 't' }), 'a function that is gone');

# an old dump has the rules
my ($dump, $errors) = run_command([ 'pg_dump', '-p', $node->port, '-h', $node->host, 'postgres' ]);
like($dump, qr/COPY orion_private\.cache_rules/, 'a dump has the rules');

# an event refused by Redis: dead letter and position agree, whoever dies
my $templated = '{"url": "' . $redis->url . '", "stream": "s:{aggregateid}"}';
value("SELECT orion_sink_create('templated', 'redis', '$templated', 'refused.*')");
$redis->command('SET', 's:bad', 'a string');
value(q{SELECT count(orion_publish('refused.some', '{}', 'x', CASE WHEN i % 100 = 50 THEN 'bad' ELSE 'good' END)) FROM generate_series(1, 3000) i});
foreach (1 .. 3)
{
	my $pid = value("SELECT program_pid FROM orion.workers WHERE kind = 'relay' AND name = 'templated'");
	kill 'KILL', $pid if $pid;
	select(undef, undef, undef, 0.1);
}
ok($node->poll_query_until('postgres', q{SELECT count(*) = 30 FROM orion.dead_letters WHERE sink = 'templated'}), 'every refused event is a dead letter')
	or diag(value('SELECT count(*) FROM orion.dead_letters'));
ok(OrionServices::poll_until(sub { $redis->command('XLEN', 's:good') >= 2970 }), 'and the others are delivered');
is($redis->command('XLEN', 's:good'), 2970, 'once');

# a server that freezes, seen from SQL
kill 'STOP', $redis->pid;
ok($node->poll_query_until('postgres', q{SELECT count(*) = 2 FROM orion.sinks WHERE state = 'degraded' AND last_error ~ 'does not answer|no answer'}), 'orion.sinks tells that Redis is frozen');
kill 'CONT', $redis->pid;
ok($node->poll_query_until('postgres', q{SELECT count(*) = 2 FROM orion.sinks WHERE state = 'running'}), 'and that it is not any more');
$node->stop;
done_testing();
