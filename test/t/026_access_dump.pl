# A dump restores roles, keys, preferences and the audit log with its partitions, in a
# database that some other month made.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('access_dump');
$node->init;
$node->append_conf('postgresql.conf', qq{
shared_preload_libraries = 'orion'
orion.database = ''
});
$node->start;

sub sql { my ($database, $sql) = @_; return $node->safe_psql($database, $sql); }

$node->safe_psql('postgres', 'CREATE DATABASE before');
$node->safe_psql('postgres', 'CREATE DATABASE after');
sql('before', 'CREATE EXTENSION orion');
sql('before', q{SELECT orion_private.audit_partitions(2)});
my $ann = sql('before', q{SELECT user_id FROM orion_register('ann@example.com', 'correct horse battery')});
sql('before', qq{
SELECT orion_role_create('reader', is_default => true), orion_permission_grant('reader', 'docs:*'), orion_role_create('chief'),
	orion_role_inherit('chief', 'reader'), orion_role_grant('$ann', 'chief'), orion_user_permission_grant('$ann', 'x:y');
UPDATE orion_private.preferences SET preferences = '{"theme": "dark"}';
INSERT INTO orion_private.audit_log (occurred_at, action) VALUES (now() + interval '1 year', 'test.default');
});
sql('before', q{SELECT orion_login('ann@example.com', 'wrong', '192.0.2.7')});
my $key = sql('before', "SELECT key FROM orion_api_key_create('$ann', 'kept')");
my $follower = sql('before', q{SELECT user_id FROM orion_register('bob@example.com', 'correct horse battery')});
sql('before', qq{
INSERT INTO orion_private.two_factors (user_id, secret, confirmed_at, last_step) SELECT '$ann', sealed, now(), 7 FROM orion_private.totp_setup('$ann', 'ann');
SELECT orion_private.backup_codes_make('$ann');
INSERT INTO orion_private.trusted_devices (user_id, device_id, digest, expires_at) SELECT user_id, id, sha256('x'), now() + interval '1 day' FROM orion_private.devices WHERE user_id = '$ann';
SELECT orion_private.pending_session_open('$ann', 'password', NULL)});
sql('before', "INSERT INTO orion_private.follows VALUES ('$follower', '$ann')");

# routes below Orion's own paths: added, put in the place of one of Orion's, removed, and added again
sql('before', q{CREATE FUNCTION app(request jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT request';
SELECT orion_route_add('GET', '/api/user/settings', 'app(jsonb)', comment => 'of the application'), orion_route_add('GET', '/app', 'app(jsonb)'),
	orion_route_add('GET', '/api/auth/sessions', 'app(jsonb)'), orion_route_add('POST', '/api/auth/logout', 'app(jsonb)');});
is(sql('before', q{SELECT orion_route_remove('POST', '/api/auth/register'), orion_route_remove('POST', '/api/auth/register'), orion_route_remove('POST', '/api/auth/logout'),
	orion_route_remove('post', '/api/auth/refresh'), orion_route_remove('GET', '/api/auth/nothing')}), 't|f|t|t|f', 'routes are removed once');
sql('before', q{SELECT orion_route_add('POST', '/api/auth/refresh', 'app(jsonb)')});

my $dump = $node->data_dir . '/../dump.sql';
$node->command_ok([ 'pg_dump', '-d', $node->connstr('before'), '-f', $dump ], 'dumped');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('after'), '-f', $dump ], 'restored without an error');

for my $what ('SELECT orion_roles(id), orion_permissions(id) FROM orion_private.users ORDER BY email',
	'SELECT preferences, version FROM orion_private.preferences ORDER BY user_id', 'SELECT follower_id, user_id FROM orion_private.follows',
	'SELECT id, tableoid::regclass, action, actor, new FROM orion_private.audit_log ORDER BY id',
	'SELECT * FROM orion_private.two_factors', 'SELECT * FROM orion_private.backup_codes ORDER BY digest', 'SELECT * FROM orion_private.trusted_devices',
	"SELECT * FROM orion_private.routes WHERE to_regprocedure(function) IS NOT NULL ORDER BY path, method",
	'SELECT * FROM orion_private.pending_sessions', "SELECT orion_api_key_authenticate('$key')", 'SELECT count(*) FROM orion_private.user_roles')
{
	is(sql('after', $what), sql('before', $what), "the same: $what" =~ s/ork_\w+/.../r);
}
is(sql('after', q{SELECT string_agg(method || ' ' || path || ' ' || function, ', ' ORDER BY path) FROM orion_private.routes WHERE function !~ '^orion_private.route_'}),
	'POST /api/auth/logout orion_private.removed(jsonb), POST /api/auth/refresh public.app(jsonb), POST /api/auth/register orion_private.removed(jsonb), GET /api/auth/sessions public.app(jsonb), GET /api/user/settings public.app(jsonb), GET /app public.app(jsonb)',
	'what was removed has not come back');
like(sql('after', q{SELECT string_agg(DISTINCT tableoid::regclass::text, ' ') FROM orion_private.audit_log}), qr/audit_log_\d{4}_\d\d orion_private.audit_log_default/, 'in a month and in the default');
for my $statement ('DELETE FROM orion_private.audit_log', 'TRUNCATE orion_private.audit_log_default', 'TRUNCATE orion_private.audit_log_' . sql('after', q{SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')}))
{
	my ($status, undef, $err) = $node->psql('after', "SET session_replication_role = replica; $statement");
	like($err, qr/the audit log is append-only/, "and still refused: $statement");
}
sql('after', q{SELECT orion_audit('test.after')});
is(sql('after', q{SELECT count(*) FROM orion_private.audit_log WHERE action = 'test.after' AND id > (SELECT max(id) FROM orion_private.audit_log WHERE action <> 'test.after')}), 1, 'ids go on');
sql('after', 'DROP EXTENSION orion');
is(sql('after', q{SELECT count(*) FROM pg_class WHERE relname LIKE 'audit_log%'}), 0, 'DROP EXTENSION takes the months along');
$node->stop;
done_testing();
