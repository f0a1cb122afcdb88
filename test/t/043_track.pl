# Tracked tables outside of one session: written over HTTP, changed by others meanwhile,
# dumped and restored, replicated; contracts are dumped, too.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use OrionStack;

my $stack = OrionStack->new('track', conf => "wal_level = logical\nmax_wal_senders = 5\n");
my $node = $stack->node;

sub sql { my ($database, $sql) = @_; return $node->safe_psql($database, $sql); }

# Type, payload and what is asked for of the events there, which are then forgotten.
sub events
{
	my ($database, $what) = @_;
	my $events = sql($database, 'SELECT type, aggregateid, ' . ($what // 'payload') . ' FROM orion_private.outbox ORDER BY seq');
	sql($database, 'TRUNCATE orion_private.outbox');
	return $events;
}

sql('postgres', q{
CREATE TABLE public.orders (gone int, id int PRIMARY KEY, owner uuid DEFAULT orion_uid(), secret text, total numeric);
ALTER TABLE public.orders DROP gone;
GRANT ALL ON public.orders TO orion_user;
ALTER TABLE public.orders ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON public.orders TO orion_user USING (owner = (SELECT orion_uid()));
SELECT orion_track('public.orders', private => '{secret}', prefix => 'order');
});

# over HTTP
my $ann = $stack->http('POST', '/api/auth/register', json => { email => 'ann@example.com', password => 'correct horse battery' })->{json};
ok($ann->{accessToken}, 'Ann is here');
sql('postgres', 'TRUNCATE orion_private.outbox');
is($stack->http('POST', '/rest/v1/orders', token => $ann->{accessToken}, json => { id => 1, secret => 'hush', total => 1.5 })->{status}, 201, 'she writes');
my $user = sql('postgres', 'SELECT owner FROM public.orders');
is(events('postgres', "metadata ->> 'actor' = '$user', metadata ->> 'role', metadata ? 'session', payload ? 'secret' OR payload -> 'new' ? 'secret', payload #>> '{new,owner}' = '$user'"),
	'order.created|1|t|orion_user|t|f|t', 'and the event tells who, and no secret');
isnt($stack->http('POST', '/rest/v1/rpc/orion_publish', token => $ann->{accessToken}, json => { type => 'order.created', payload => {} })->{status}, 200,
	'she cannot publish one of her own');
is($stack->http('PATCH', '/rest/v1/orders?id=eq.1', token => $ann->{accessToken}, json => { total => 1.5 })->{status}, 204, 'a change that is none');
is($stack->http('PATCH', '/rest/v1/orders?id=eq.1', token => $ann->{accessToken}, json => { total => 2, secret => 'shh' })->{status}, 204, 'and one');
is(events('postgres', "payload ->> 'changed'"), 'order.updated|1|["secret", "total"]', 'one event');

# what another session changes holds for this one at its next statement
my $session = $node->background_psql('postgres', on_error_stop => 1);
$session->query_safe('UPDATE public.orders SET total = 3');
sql('postgres', 'ALTER TABLE public.orders RENAME secret TO hidden');
$session->query_safe("UPDATE public.orders SET hidden = 'a'");
sql('postgres', "SECURITY LABEL FOR orion ON COLUMN public.orders.owner IS 'private'");
$session->query_safe('UPDATE public.orders SET total = 4');
sql('postgres', "SELECT orion_track('public.orders', columns => '{id}', private => '{hidden}', prefix => 'purchase', version => 2)");
$session->query_safe("UPDATE public.orders SET total = 5, hidden = 'b'");
is(events('postgres', "version, array(SELECT jsonb_object_keys(payload -> 'new') ORDER BY 1), payload ->> 'changed'"),
	"order.updated|1|1|{id,owner,total}|[\"total\"]\norder.updated|1|1|{id,owner,total}|[\"hidden\"]\n"
	  . "order.updated|1|1|{id,total}|[\"total\"]\npurchase.updated|1|2|{id}|[\"hidden\"]", 'each takes effect at once');
$session->quit;

# a dump has the triggers, the private columns under their new names, and the contracts
sql('postgres', q{
SELECT orion_track('public.orders', private => '{hidden}', prefix => 'order');
ALTER TABLE public.orders RENAME hidden TO concealed;
CREATE TABLE public.parted (id int, part int, v text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
CREATE TABLE public.parted_1 PARTITION OF public.parted FOR VALUES IN (1);
SELECT orion_track('public.parted', private => '{v}');
SELECT orion_event_type_set('order.deleted', '{"required": ["reason"]}', description => 'Never');
SET client_min_messages = error;
});
sql('postgres', "INSERT INTO public.parted VALUES (1, 1, 'x')");
my $tracked = 'SELECT relation, prefix, version, operations, columns, private, enabled FROM orion.tracked_tables ORDER BY prefix';
my $dump = $node->data_dir . '/../dump.sql';
$node->command_ok([ 'pg_dump', '-d', $node->connstr('postgres'), '-f', $dump ], 'dumped');
sql('postgres', 'CREATE DATABASE restored');
sql('postgres', 'CREATE DATABASE unlabelled');
my $before = sql('postgres', 'SELECT count(*) FROM orion_private.outbox');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('restored'), '-f', $dump ], 'restored without an error');
is(sql('restored', $tracked), sql('postgres', $tracked), 'the tracked tables are the same');
is(sql('restored', 'SELECT count(*) FROM orion_private.outbox'), $before, 'restoring rows made no events');
sql('restored', q{
TRUNCATE orion_private.outbox;
UPDATE public.orders SET concealed = 'c';
UPDATE public.parted SET v = 'y';
});
is(events('restored', "array(SELECT jsonb_object_keys(payload -> 'new') ORDER BY 1)"), "order.updated|1|{id,owner,total}\nparted.updated|[1, 1]|{id,part}",
	'they publish, and what is private stays so');
my ($status, $out, $error) = $node->psql('restored', 'DELETE FROM public.orders');
like($error, qr/event "order\.deleted" breaks its contract: payload\.reason is missing/, 'the contract is there');

# without labels the names still tell
sql('postgres', 'ALTER TABLE public.orders RENAME concealed TO hidden');
$node->command_ok([ 'pg_dump', '--no-security-labels', '-d', $node->connstr('postgres'), '-f', $dump ], 'dumped without labels');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('unlabelled'), '-f', $dump ], 'restored');
is(sql('unlabelled', $tracked), sql('postgres', $tracked), 'the private columns are known by their names');

# a subscriber repeats rows, not events, unless the trigger is told so
sql('restored', 'TRUNCATE public.parted');
sql('restored', 'TRUNCATE orion_private.outbox');
sql('postgres', q{
CREATE PUBLICATION parted FOR TABLE public.parted;
});
sql('postgres', q{SELECT pg_create_logical_replication_slot('parted', 'pgoutput')});
my $connstr = $node->connstr('postgres');
sql('restored', qq{CREATE SUBSCRIPTION parted CONNECTION \$c\$$connstr\$c\$ PUBLICATION parted WITH (create_slot = false, slot_name = 'parted', copy_data = false)});
sql('postgres', "INSERT INTO public.parted VALUES (2, 1, 'quiet')");
ok($node->poll_query_until('restored', 'SELECT count(*) = 1 FROM public.parted'), 'a row is replicated');
is(events('restored'), '', 'without an event');
sql('restored', 'ALTER TABLE public.parted_1 ENABLE REPLICA TRIGGER orion_track');
sql('postgres', "INSERT INTO public.parted VALUES (3, 1, 'loud')");
ok($node->poll_query_until('restored', 'SELECT count(*) = 2 FROM public.parted'), 'another one is replicated');
is(events('restored'), 'parted.created|[3, 1]|{"new": {"id": 3, "part": 1}}', 'with one, where the trigger is for replicas');
sql('restored', 'ALTER SUBSCRIPTION parted DISABLE');
sql('restored', 'DROP SUBSCRIPTION parted');

done_testing();
