# Failover with webhooks under way: an endpoint fails and others are disabled when the primary
# is killed with -9 and the standby promoted. Then the same where the standby lacks the last
# events (asynchronous), with a Redis stream beside.
use strict;
use warnings;

use Digest::SHA ();
use FindBin;
use HTTP::Tiny;
use JSON::PP ();
use lib $FindBin::Bin;
use MIME::Base64 ();
use OrionServices;
use OrionStack;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use POSIX ();
use Test::More;
use Time::HiRes qw(time);

my $json = JSON::PP->new->utf8;
my $dir = PostgreSQL::Test::Utils::tempdir();
my $receiver = fork // die "fork: $!";
if ($receiver == 0)
{
	exec('node', ($ENV{ORION_TREE} // "$FindBin::Bin/../..") . '/test/peers/webhook_receiver.mjs', "$dir/log") or POSIX::_exit(127);
}
END { my $status = $?; kill 'KILL', $receiver if $receiver; $? = $status; }

# What has arrived: lines of the receiver's log, by path; port is in the first.
my ($at, $rest, $port, %got) = (0, '');
sub look
{
	open(my $log, '<:raw', "$dir/log") or return;
	seek($log, $at, 0);
	local $/;
	my $more = <$log> // '';
	$at += length $more;
	$rest .= $more;
	while ($rest =~ s/^([^\n]*)\n//)
	{
		my $line = $json->decode($1);
		$line->{url} ? push @{ $got{ $line->{url} } }, $line : ($port = $line->{http});
	}
}
sub got { my ($url) = @_; look(); return @{ $got{$url} // [] }; }
sub id { return $_[0]{headers}{'webhook-id'}; }
sub taken { my ($url) = @_; return grep { $url !~ /switched/ || $_->{switched} == 200 } got($url); }	# and not only refused
sub ids { my %seen = map { id($_) => 1 } @_; return \%seen; }
sub within { my ($seconds, $code) = @_; return OrionServices::poll_until($code, $seconds); }
ok(within(60, sub { look(); $port }), 'the receiver listens') or BAIL_OUT('no receiver');
my $http = "http://127.0.0.1:$port";
sub switch { HTTP::Tiny->new->get("$http/switch/$_[0]"); }

sub on { my ($node, $sql) = @_; return $node->safe_psql('postgres', $sql); }
sub rows { my ($node, $sql) = @_; return map { [ split /\|/, $_, -1 ] } split /\n/, on($node, $sql); }
sub becomes
{
	my ($node, $condition, $name) = @_;
	ok(within(60, sub { on($node, "SELECT $condition") eq 't' }), $name)
	  or diag(join "\n", map { on($node, "SELECT * FROM $_ LIMIT 10") } qw(orion.sinks orion.webhooks orion.webhook_deliveries));
}

my $redis = OrionServices->start_redis();
my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', q{
shared_preload_libraries = 'orion'
max_worker_processes = 20
orion.http_port = 0
orion.webhook_retry_schedule = '300ms, 8s, 8s, 8s, 8s, 8s'
orion.webhook_allowed_networks = '127.0.0.0/8'
orion.webhook_allow_http = on
});
$primary->start;
on($primary, 'CREATE EXTENSION orion');
on($primary, q{
CREATE TABLE published (id uuid PRIMARY KEY, type text, k int, n int);
CREATE TABLE counters (k int PRIMARY KEY, n int NOT NULL);
INSERT INTO counters SELECT k, 0 FROM generate_series(1, 10) k;
CREATE FUNCTION say(what text, key int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	number int;
BEGIN
	UPDATE counters SET n = n + 1 WHERE k = key RETURNING n INTO number;
	INSERT INTO published VALUES (orion_publish(what, jsonb_build_object('k', key, 'n', number), 'key', key::text), what, key, number);
END $$;
});
my %endpoint;
sub endpoint
{
	my ($name, $path, $pattern, $more) = @_;
	my ($id, $secret) = split /\|/, on($primary, "SELECT * FROM orion_webhook_create('$http$path', '{$pattern}', name => '$name'" . ($more // '') . ')');
	$endpoint{$name} = { id => $id, url => $path, key => MIME::Base64::decode_base64($secret =~ s/^whsec_//r) };
}
endpoint('well', '/ok/well', 'key.*', ', concurrency => 1');
endpoint('wild', '/switched/wild', 'key.*');
endpoint('retried', '/switched/retried', 'retry.*');
endpoint('gone', '/status/410', 'key.*');
endpoint('stopped', '/ok/stopped', 'key.*');
on($primary, "SELECT orion_webhook_disable($endpoint{stopped}{id})");

# Makes a standby of a node; wait: commits wait for it.
sub standby_of
{
	my ($node, $name, $wait) = @_;
	$node->backup($name);
	my $standby = PostgreSQL::Test::Cluster->new($name);
	$standby->init_from_backup($node, $name, has_streaming => 1);
	chmod 0600, $standby->data_dir . '/orion_master.key';	# pg_basebackup keeps the mode, the test's copy does not
	$standby->start;
	$node->append_conf('postgresql.conf', "synchronous_standby_names = '*'\n") if $wait;
	$node->reload;
	ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = '" . ($wait ? 'sync' : 'async') . "'"), "$name: a standby");
	ok($standby->poll_query_until('postgres', "SELECT state = 'running' FROM orion.workers WHERE kind = 'maintenance'"), 'it knows its part');
	return $standby;
}

# Deliveries that wait, as the standby knows them: "endpoint id" => { attempts, due }.
sub waiting
{
	my ($node) = @_;
	return map { ("$_->[0] $_->[1]" => { attempts => $_->[2], due => $_->[3] }) }
	  rows($node, q{SELECT endpoint_id, message_id, attempts, extract(epoch FROM next_at) FROM orion.webhook_deliveries WHERE state = 'waiting'});
}

# Kills the primary; returns what the standby knew to wait when it had replayed all that it has.
sub fail_over
{
	my ($from, $to) = @_;
	OrionStack::kill_server($from);
	# it may have got the beginning of a record more, so positions do not tell
	ok($to->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'startup' AND wait_event = 'RecoveryRetrieveRetryInterval'"), 'the standby has replayed all');
	my %waited = waiting($to);
	my %before = map { $_ => scalar got($endpoint{$_}{url}) } keys %endpoint;
	my $begin = time;
	$to->promote;
	ok($to->poll_query_until('postgres', "SELECT bool_and(state = 'running') FROM orion.sinks"), 'relays start there by themselves');
	diag(sprintf('relays ran %.1f s after the promotion', time - $begin));
	return (\%waited, \%before);
}

sub all_arrive
{
	my ($node) = @_;
	foreach my $name ('well', 'wild', 'retried')
	{
		my $pattern = $name eq 'retried' ? 'retry.%' : 'key.%';
		my @wanted = map { $_->[0] } rows($node, "SELECT id FROM published WHERE type LIKE '$pattern'");
		my $ids;
		ok(within(90, sub { $ids = ids(taken($endpoint{$name}{url})); !grep { !$ids->{$_} } @wanted }), "$name: all " . @wanted . ' committed events are delivered')
		  or diag(join "\n", scalar(grep { !$ids->{$_} } @wanted) . ' are not', map { on($node, "SELECT * FROM $_ LIMIT 10") } qw(orion.sinks orion.webhooks orion.webhook_deliveries));
	}
}

# Every attempt has the same body and a good signature; those that waited go on where they were.
sub attempts_go_on
{
	my ($node, $waited, $before) = @_;
	my %known = map { $_->[0] => "$_->[1] $_->[2]" } rows($node, 'SELECT id, k, n FROM published');
	foreach my $name (sort keys %endpoint)
	{
		my (%body, %last, $differ, $unsigned, $mixed, $disorder);
		foreach my $request (got($endpoint{$name}{url}))
		{
			my ($id, $body) = (id($request), $request->{body});
			my $event = $json->decode($body)->{data};
			my ($k, $n) = @$event{qw(k n)};
			my $mac = MIME::Base64::encode_base64(Digest::SHA::hmac_sha256("$id.$request->{headers}{'webhook-timestamp'}.$body", $endpoint{$name}{key}), '');
			$unsigned++ if $request->{headers}{'webhook-signature'} ne "v1,$mac";
			$mixed++ if ($known{$id} // "$k $n") ne "$k $n";
			if (defined $body{$id}) { $differ++ if $body{$id} ne $body; next; }
			$body{$id} = $body;
			next unless $known{$id};	# one that the standby never had
			$disorder++ if $n <= ($last{$k} // 0);
			$last{$k} = $n;
		}
		is($unsigned // 0, 0, "$name: every attempt is signed");
		is($differ // 0, 0, "$name: and has the bytes of the first one with its webhook-id");
		is($mixed // 0, 0, "$name: which is that of its event");
		is($disorder // 0, 0, 'each key in order, across the failover') if $name eq 'well';
		my %first;
		my @after = got($endpoint{$name}{url});
		foreach (@after[ $before->{$name} .. $#after ]) { $first{ id($_) } //= $_->{at} / 1000; }
		my @early = grep { my ($e, $id) = split / /; $e == $endpoint{$name}{id} && $first{$id} && $first{$id} < $waited->{$_}{due} - 0.002 } keys %$waited;
		is(scalar @early, 0, "$name: nothing that waited was sent before its time") or diag("@early");
	}
	my $list = join ', ', map { my ($e, $id) = split / /; "($e, '$id'::uuid, $waited->{$_}{attempts})" } grep { $waited->{$_}{attempts} > 0 } keys %$waited;
	becomes($node, "bool_and((SELECT count(*) = 1 FROM orion.webhook_attempts WHERE endpoint_id = e AND message_id = id AND attempt = k + 1)) FROM (VALUES $list) v(e, id, k)
		WHERE NOT EXISTS (SELECT FROM orion.webhooks w WHERE w.id = e AND state = 'disabled')", 'attempts are counted on from what they were');
}

# --- a synchronous standby -------------------------------------------------------------------

my $standby = standby_of($primary, 'second', 1);
switch(500);
my $script = $primary->basedir . '/write.sql';
append_to_file($script, q{
\set k random(1, 10)
\set what random(1, 10)
BEGIN;
SELECT say('key.moved', :k);
\if :what = 1
ROLLBACK;
\else
COMMIT;
\endif
});
my $errors = '';
my $writers = IPC::Run::start([ 'pgbench', '-n', '-c', 4, '-T', 120, '-R', 400, '-f', $script, $primary->connstr('postgres') ], '>', '/dev/null', '2>', \$errors);
ok(within(60, sub { got('/ok/well') > 300 }), 'events flow');
on($primary, "SELECT say('retry.one', 1), say('retry.two', 2)");
becomes($standby, "count(*) = 2 AND bool_and(attempts = 2 AND next_at > now() + interval '3 s') FROM orion.webhook_deliveries WHERE endpoint_id = $endpoint{retried}{id}",
	'an endpoint is between its second and its third attempt');
becomes($standby, "count(*) > 50 FROM orion.webhook_deliveries WHERE endpoint_id = $endpoint{wild}{id}", 'another one fails with much behind it');
is(on($standby, "SELECT count(*) FROM orion.workers WHERE kind = 'relay'"), '0', 'no relay runs on the standby');

my ($waited, $before) = fail_over($primary, $standby);
$writers->finish;
is(scalar(grep { /^$endpoint{retried}{id} / && $waited->{$_}{attempts} == 2 } keys %$waited), 2, 'the standby knew of both attempts');
my $known = ids(map { { headers => { 'webhook-id' => $_->[0] } } } rows($standby, 'SELECT id FROM published'));
is(scalar(grep { !$known->{$_} } keys %{ ids(got('/ok/well')) }), 0, 'nothing was delivered that the promoted server does not have');
on($standby, "SELECT say('key.after', k) FROM generate_series(1, 10) k");
switch(200);
all_arrive($standby);
$known = ids(map { { headers => { 'webhook-id' => $_->[0] } } } rows($standby, 'SELECT id FROM published'));
is(scalar(grep { !$known->{$_} } map { keys %{ ids(got($_)) } } qw(/ok/well /switched/wild /switched/retried)), 0, 'and nothing that was rolled back');
attempts_go_on($standby, $waited, $before);
my $twice = got('/ok/well') - keys %{ ids(got('/ok/well')) };
cmp_ok($twice, '<=', 2000, "the endpoint that is well got $twice of " . got('/ok/well') . ' twice');
is(join(' ', map { "@$_" } rows($standby, "SELECT name, state, disabled_reason FROM orion.webhooks WHERE name IN ('gone', 'stopped') ORDER BY name")),
	'gone disabled gone stopped disabled disabled', 'disabled endpoints stay disabled');
is(got('/ok/stopped') . ' ' . got('/status/410'), '0 ' . $before->{gone}, 'and get nothing');
becomes($standby, "bool_and(lag_events = 0 AND last_error IS NULL) FROM orion.sinks", 'all is well');
my @gone = map { (split / /)[1] } grep { /^$endpoint{gone}{id} / } keys %$waited;
cmp_ok(scalar @gone, '>=', 1, 'something waits for one of them');
on($standby, "SELECT orion_webhook_alter($endpoint{gone}{id}, url => '$http/ok/back'), orion_webhook_enable($endpoint{gone}{id})");
ok(within(60, sub { join(' ', sort keys %{ ids(got('/ok/back')) }) eq join(' ', sort @gone) }), 'enabled there, it gets that');
on($standby, "SELECT orion_webhook_drop($endpoint{$_}{id})") foreach 'gone', 'stopped';
delete @endpoint{ 'gone', 'stopped' };

# --- a standby that lacks the last events -------------------------------------------------------

on($standby, qq{SELECT orion_sink_create('stream', 'redis', '{"url": "@{[ $redis->url ]}", "stream": "s"}', 'key.*')});
my $third = standby_of($standby, 'third');
switch(500);
on($standby, "SELECT say('retry.three', 3); SELECT say('key.both', k) FROM generate_series(1, 10) k");
becomes($third, "count(*) = 1 AND bool_and(attempts = 2) FROM orion.webhook_deliveries WHERE endpoint_id = $endpoint{retried}{id}", 'an endpoint is between two attempts');
$third->append_conf('postgresql.conf', "primary_conninfo = ''\n");
$third->reload;
ok($standby->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pg_stat_replication'), 'the standby is cut off');
on($standby, "SELECT say('key.lost', k) FROM generate_series(1, 10) k") foreach 1 .. 20;
my %lost = map { $_->[0] => 1 } rows($standby, "SELECT id FROM published WHERE type = 'key.lost'");
is(scalar keys %lost, 200, 'it misses 200 events');
ok(within(60, sub { my $ids = ids(got('/ok/well')); !grep { !$ids->{$_} } keys %lost }), 'which are delivered');
my $entries = $redis->command('XLEN', 's');
cmp_ok($entries, '>=', 200, 'to Redis as well');

($waited, $before) = fail_over($standby, $third);
is(on($third, "SELECT count(*) FROM published WHERE type = 'key.lost'"), '0', 'the promoted server does not have them');
on($third, "SELECT say('key.again', k) FROM generate_series(1, 10) k") foreach 1 .. 30;
switch(200);
all_arrive($third);
attempts_go_on($third, $waited, $before);
foreach my $name ('well', 'wild')
{
	my @after = got($endpoint{$name}{url});
	is(scalar(grep { $lost{ id($_) } } @after[ $before->{$name} .. $#after ]), 0, "$name: what was lost is not sent again");
}
my @wanted = map { $_->[0] } rows($third, "SELECT id FROM published WHERE type IN ('key.both', 'key.again')");
my %stream;
ok(within(60, sub { %stream = (); $stream{ $_->{id} }++ foreach @{ $redis->stream('s') }; !grep { !$stream{$_} } @wanted }), 'Redis has every event of the promoted server')
  or diag(on($third, 'SELECT * FROM orion.sinks'));
is(scalar(grep { $_ > 1 } @stream{@wanted}), 0, 'once');
becomes($third, "bool_and(lag_events = 0 AND state = 'running') FROM orion.sinks", 'all is well');

$third->stop;
done_testing();
