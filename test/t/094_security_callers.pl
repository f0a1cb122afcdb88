# Functions that run as Orion's owner ask who calls them. A session whose user is a
# superuser may be calling somebody else's function on somebody else's behalf: it must not
# lend its rights to that.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('callers');
$node->init;
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'orion'
max_worker_processes = 16
orion.http_port = 0
});
$node->start;
sub value { return $node->safe_psql('postgres', $_[0]); }
sub becomes { my ($query, $name) = @_; ok($node->poll_query_until('postgres', "SELECT $query"), $name) or diag(value('SELECT * FROM effects') . "\n" . value('SELECT * FROM orion.workers')); }

my $open = q{orion_webhook_create('http://127.0.0.1:8080/', networks => '{127.0.0.0/8}', plain_http => true)};
value(qq{
CREATE EXTENSION orion;
CREATE ROLE app IN ROLE orion_service;
CREATE ROLE boss IN ROLE orion_admin;
CREATE ROLE former IN ROLE orion_service;
GRANT ALL ON SCHEMA public TO app, boss, former;
CREATE TABLE effects (who text, what text);
GRANT ALL ON effects TO app, boss, former;
CREATE FUNCTION attempt() RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM public.$open;
	INSERT INTO public.effects VALUES (current_user, 'opened a network');
EXCEPTION WHEN insufficient_privilege THEN
	INSERT INTO public.effects VALUES (current_user, sqlerrm);
END \$\$;
CREATE FUNCTION look_up() RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	INSERT INTO public.effects SELECT current_user, public.orion_roles(gen_random_uuid())::text;
EXCEPTION WHEN insufficient_privilege THEN
	INSERT INTO public.effects VALUES (current_user, sqlerrm);
END \$\$;
CREATE FUNCTION handle(event jsonb) RETURNS void LANGUAGE sql AS 'SELECT public.attempt(); SELECT public.look_up();';
});
for my $role (qw(app boss former))
{
	value("SET ROLE $role; SELECT orion_subscribe('$role', '$role.*', 'handle(jsonb)')");
}
value('REVOKE orion_service FROM former');
value('GRANT orion_anon TO former');
value("SELECT orion_publish(r || '.asks', '{}') FROM unnest('{app,boss,former}'::text[]) r");

my $no = 'only members of orion_admin may allow networks or plain http';
becomes('count(*) = 6 FROM effects', 'the handlers were called');
is(value("SELECT what FROM effects WHERE who = 'app' AND what !~ '[{}]'"), $no, 'a handler of a service opens no network');
is(value("SELECT what FROM effects WHERE who = 'app' AND what ~ '[{}]'"), '{}', '... and sees roles as a service does');
is(value("SELECT string_agg(what, ',' ORDER BY what COLLATE \"C\") FROM effects WHERE who = 'boss'"), 'opened a network,{}', 'a handler of an administrator may do both');
is(value("SELECT string_agg(what, ',' ORDER BY what COLLATE \"C\") FROM effects WHERE who = 'former'"),
	'permission denied for function orion_webhook_create,permission denied to see the roles of other users', 'a handler of somebody who was a service may do neither');

# what a superuser's maintenance runs as the owner of a table
value(q{
TRUNCATE effects;
SET ROLE app;
CREATE FUNCTION trap(i int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF i > 1 THEN PERFORM public.attempt(); END IF;
	RETURN i;
END $$;
CREATE TABLE traps (i int);
CREATE INDEX traps_i ON traps (trap(i));
INSERT INTO traps VALUES (1);
RESET ROLE;
SET session_replication_role = replica;
});
value('SET ROLE app; INSERT INTO traps VALUES (2)');
value('REINDEX TABLE traps');
value('ANALYZE traps');
is(value("SELECT string_agg(DISTINCT who || ': ' || what, ',') FROM effects"), "app: $no", 'nor does an index that a superuser builds or analyzes');
cmp_ok(value('SELECT count(*) FROM effects'), '>=', 3, '... which has tried');
is(value('SELECT count(*) FROM orion.webhooks'), '1', "there is the administrator's endpoint only");

# a session itself
my ($status, $out, $err) = $node->psql('postgres', "SET ROLE app; SELECT $open");
like($err, qr/\Q$no\E/, 'a superuser as the service opens none');
is(value("SET ROLE boss; SELECT signing_secret ~ '^whsec_' FROM $open"), 't', 'an administrator does');
is(value("SELECT signing_secret ~ '^whsec_' FROM $open"), 't', 'a superuser does');

# functions of temporary schemas, whose names other sessions get
for my $call (q{orion_subscribe('temporary', '#', 'pg_temp.h(jsonb)')}, q{orion_cache_rule_create('redis', 'r', '#', '{"set": {"key": "k"}}', 'pg_temp.h(jsonb)')},
	q{orion_consume('temporary', '{"url": "amqp://127.0.0.1", "queue": "q"}', 'pg_temp.h(jsonb)')}, q{orion_route_add('GET', '/app', 'pg_temp.h(jsonb)')})
{
	($status, $out, $err) = $node->psql('postgres', "CREATE FUNCTION pg_temp.h(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT \$1'; SELECT $call");
	like($err, qr/is temporary/, 'no temporary function: ' . substr($call, 0, 20));
}

$node->stop;
done_testing();
