# Through PgBouncer in transaction mode: what one client does in a session is not seen by
# the next one that gets it, and everything that is made for applications works.
use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;

use OrionServices;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $program = (grep { -x $_ } map { "$_/pgbouncer" } '/usr/sbin', split /:/, $ENV{PATH})[0];
plan skip_all => 'no pgbouncer' unless $program;

my $node = PostgreSQL::Test::Cluster->new('bouncer');
$node->init;
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'orion'
max_worker_processes = 16
max_prepared_transactions = 5
orion.http_port = 0
});
$node->start;
$node->safe_psql('postgres', q{
CREATE EXTENSION orion;
CREATE ROLE web LOGIN IN ROLE orion_service, orion_user;
GRANT CREATE ON SCHEMA public TO web;
CREATE TABLE seen (type text, cause text);
CREATE FUNCTION see(event jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO public.seen VALUES (event ->> 'eventType', event ->> 'correlationId') $$;
SELECT orion_register('ann@example.com', 'correct horse battery');
SELECT orion_subscribe('seen', '#', 'see(jsonb)');
});

# one connection to the server for all clients
package Bouncer;
our @ISA = ('OrionServices');
sub prepare
{
	my ($self) = @_;
	OrionServices::write_file("$self->{dir}/users", qq{"web" ""\n});
	OrionServices::write_file("$self->{dir}/pgbouncer.ini", <<"INI");
[databases]
postgres = host=$self->{host} port=$self->{server} dbname=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $self->{port}
unix_socket_dir =
auth_type = trust
auth_file = $self->{dir}/users
pool_mode = transaction
default_pool_size = 1
ignore_startup_parameters = extra_float_digits,options
INI
	return $self;
}
sub command_line { return ($program, "$_[0]{dir}/pgbouncer.ini"); }
sub is_ready { return defined IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $_[0]{port}, Proto => 'tcp'); }

package main;

my $bouncer = Bouncer->new(host => $node->host, server => $node->port)->prepare->start;
my $connstr = 'host=127.0.0.1 port=' . $bouncer->port . ' dbname=postgres user=web';

sub client { my ($sql) = @_; my ($out, $err) = ('', ''); IPC::Run::run([ 'psql', '-X', '-A', '-t', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $connstr ], '<', \$sql, '>', \$out, '2>', \$err); chomp $out; return $err ne '' ? "ERROR $err" : $out; }

my $pid = client('SELECT pg_backend_pid()');
like($pid, qr/^\d+$/, 'connected');
is(client('SELECT pg_backend_pid()'), $pid, 'the next client has the same session of the server');

# publishing
like(client(q{SELECT orion_publish('a.published', '{}')}), qr/^[0-9a-f-]{36}$/, 'publish');
client(q{BEGIN; SELECT orion_publish('a.undone', '{}'); ROLLBACK});
client(q{BEGIN; SAVEPOINT s; SELECT orion_publish('a.undone', '{}'); ROLLBACK TO s; SELECT orion_publish('a.kept', '{}'); COMMIT});
client(q{BEGIN; SET LOCAL orion.outbox_correlation_id = 'of one transaction'; SELECT orion_publish('a.correlated', '{}'); COMMIT});
client(q{SELECT orion_publish('a.plain', '{}')});
ok($node->poll_query_until('postgres', "SELECT count(*) = 4 FROM seen"), 'committed events arrive');
is($node->safe_psql('postgres', "SELECT string_agg(concat_ws('=', type, cause), ' ' ORDER BY type) FROM seen"),
	'a.correlated=of one transaction a.kept a.plain a.published', 'these, and a correlation id is of one transaction');

# signing in, and who one is
my $token = client(q{SELECT access_token FROM orion_login('ann@example.com', 'correct horse battery')});
like($token, qr/^ey/, 'login');
is(client(q{SELECT status FROM orion_login('ann@example.com', 'wrong')}), 'invalid_credentials', 'and its refusal');
like(client("BEGIN; SELECT orion_authenticate('$token') ->> 'sub'; SELECT orion_uid(); COMMIT"), qr/^([0-9a-f-]{36})\n\1$/, 'claims of a transaction');
is(client('SELECT orion_uid() IS NULL AND orion_claims() IS NULL'), 't', 'the next client is nobody');
is(client("SELECT orion_authenticate('$token') IS NOT NULL; SELECT orion_uid() IS NULL"), "t\nt", 'nor is the same one in its next transaction');
client("\\set ON_ERROR_STOP off\nBEGIN; SELECT orion_authenticate('$token'); SELECT 1/0; ROLLBACK");
is(client('SELECT orion_uid() IS NULL'), 't', 'nor after an error');
client("BEGIN; SAVEPOINT s; SELECT orion_authenticate('$token'); ROLLBACK TO s; COMMIT");
is(client('SELECT orion_uid() IS NULL'), 't', 'nor after a rollback to a savepoint');
is(client(q{SELECT coalesce(nullif(current_setting('request.jwt.claims', true), ''), 'none')}), 'none', 'no setting stays');

# a tracked table
like(client(q{CREATE TABLE things (id int PRIMARY KEY, t text); SELECT orion_track('things')}), qr/^$/, 'tracking');
client("BEGIN; SELECT orion_authenticate('$token'); INSERT INTO things VALUES (1, 'by ann'); COMMIT");
client("INSERT INTO things VALUES (2, 'by nobody')");
ok($node->poll_query_until('postgres', "SELECT count(*) = 2 FROM orion_private.outbox WHERE type = 'things.created'"), 'changes are published');
is($node->safe_psql('postgres', "SELECT string_agg((metadata::text ~ (SELECT id::text FROM orion_private.users))::text, ' ' ORDER BY seq) FROM orion_private.outbox WHERE type = 'things.created'"),
	'true false', 'who made them is said of the first, and not carried over to the second');

# two clients in turn: one waits while the other has its transaction, neither sees the other
my @both = map { IPC::Run::start([ 'pgbench', '-n', '-c', 4, '-t', 25, '-M', 'simple', '-f', $_, $connstr ], '>', \my $o, '2>', \my $e) } map {
	my $file = $node->basedir . "/$_->[0].sql"; append_to_file($file, $_->[1]); $file }
  [ ann => "BEGIN;\nSELECT orion_authenticate('$token');\nSELECT 1 / (orion_uid() IS NOT NULL)::int;\nCOMMIT;\n" ],
  [ nobody => "BEGIN;\nSELECT 1 / (orion_uid() IS NULL)::int;\nSELECT orion_publish('b.nobody', '{}');\nCOMMIT;\n" ];
is(join(' ', map { $_->finish ? 'ok' : 'failed' } @both), 'ok ok', 'clients take turns in one session');
ok($node->poll_query_until('postgres', "SELECT count(*) = 100 FROM seen WHERE type = 'b.nobody'"), 'and what they publish arrives');
is(client('SELECT pg_backend_pid()'), $pid, 'it was one session all the time');

$bouncer->stop;
$node->stop;
done_testing();
