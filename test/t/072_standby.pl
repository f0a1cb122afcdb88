# HTTP on a hot standby: it reads, for whom the primary would; what ends at the primary ends there;
# writes are refused as configured; a client may wait for its own writes; after a promotion
# everything is served, and nothing was restarted.
use strict;
use warnings;
use IO::Select;
use JSON::PP ();
use OrionStack;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $stack = OrionStack->new('primary', conf => q{
wal_level = replica
max_wal_senders = 4
hot_standby = on
orion.auth_password_memory = '7168kB'
orion.auth_password_time = 1
});
my $primary = $stack->node;
my $password = 'a quite secret horse';
$stack->sql(q{
CREATE TABLE things (id int PRIMARY KEY, v text);
CREATE TABLE mine (id serial PRIMARY KEY, owner uuid DEFAULT orion_uid(), v text);
ALTER TABLE mine ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON mine USING (owner = orion_uid()) WITH CHECK (owner = orion_uid());
GRANT SELECT, INSERT, UPDATE, DELETE ON things TO orion_anon, orion_user;
GRANT SELECT, INSERT ON mine TO orion_user;
GRANT USAGE ON SEQUENCE mine_id_seq TO orion_user;
INSERT INTO things SELECT i, 'v' || i FROM generate_series(1, 10) i;
CREATE FUNCTION how_many() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM things';
CREATE FUNCTION add_thing(id int) RETURNS void LANGUAGE sql VOLATILE AS $$ INSERT INTO things VALUES (id, 'f') $$;
CREATE FUNCTION sly(id int) RETURNS int LANGUAGE plpgsql STABLE AS $$ BEGIN PERFORM add_thing(id); RETURN 1; END $$;
CREATE FUNCTION route_read(request jsonb) RETURNS jsonb LANGUAGE sql STABLE AS $$ SELECT jsonb_build_object('things', (SELECT count(*) FROM things)) $$;
CREATE FUNCTION route_write(request jsonb) RETURNS jsonb LANGUAGE sql VOLATILE AS $$ INSERT INTO things VALUES ((request #>> '{body,id}')::int, 'r'); SELECT '{"done": true}'::jsonb $$;
INSERT INTO orion_private.routes (method, path, function) VALUES ('GET', '/both', 'public.route_read(jsonb)'), ('POST', '/both', 'public.route_write(jsonb)'), ('POST', '/ask', 'public.route_read(jsonb)');
});
my $ann = $stack->http('POST', '/api/auth/register', json => { email => 'ann@example.com', password => $password });
is($ann->{status}, 201, 'a user');
my $id = $ann->{json}{user}{id};
sub login { return $stack->http('POST', '/api/auth/login', json => { email => 'ann@example.com', password => $password })->{json}; }
my ($first, $second) = (login(), login());
my $key = $stack->http('POST', '/api/user/api-keys', json => { name => 'k' }, token => $first->{accessToken})->{json};
ok($key->{key}, 'with an API key') or diag(JSON::PP::encode_json($key));

# --- a standby

$primary->backup('base');
my $port = PostgreSQL::Test::Cluster::get_free_port();
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "orion.http_port = $port\norion.executor_count = 2\nhot_standby_feedback = on\n");
chmod 0600, $standby->data_dir . '/orion_master.key';	# pg_basebackup keeps the mode, the test's copy does not
$standby->start;
my $there = bless { %$stack, http_port => $port, node => $standby }, ref $stack;
my $here = $stack;
ok($stack->until_true(sub { $there->is_ready }), 'a standby is ready') or diag($there->workers);
sub caught_up { $primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush')); }
sub set { my ($node, %values) = @_; $node->safe_psql('postgres', "ALTER SYSTEM SET $_ = '$values{$_}'") foreach sort keys %values; $node->reload; }
sub seen { my ($answer) = @_; return join ' ', $answer->{status}, $answer->{json}{code} // (); }
my $rest = '/rest/v1';

# --- reading

is($there->http('GET', "$rest/things?id=eq.3&select=v")->{body}, '[{"v":"v3"}]', 'a table is read');
is($there->http('HEAD', "$rest/things")->{status}, 200, 'HEAD');
is($there->http('GET', "$rest/rpc/how_many")->{body}, '10', 'a stable function');
is($there->http('POST', "$rest/rpc/how_many", json => {})->{body}, '10', 'also with POST');
is($there->http('GET', '/both')->{body}, '{"things": 10}', 'a route');
is($there->http('POST', '/ask', json => {})->{body}, '{"things": 10}', 'also with POST, if its function only reads');
is($there->http('GET', "$rest/")->{json}{swagger}, '2.0', 'OpenAPI');
is($there->http('OPTIONS', "$rest/things")->{headers}{allow}, 'OPTIONS,GET,HEAD,POST,PUT,PATCH,DELETE', 'OPTIONS');
my $batch = $there->http('POST', '/batch', json => [ { method => 'GET', path => '/things?id=eq.1' }, { method => 'POST', path => '/rpc/how_many', body => {} } ]);
is("$batch->{status} $batch->{json}[1]{body}", '200 10', 'a batch that reads');
my $written = $here->http('POST', "$rest/mine", json => { v => 'hers' }, token => $first->{accessToken}, headers => { Prefer => 'return=representation' });
is($written->{status}, 201, 'written at the primary');
caught_up();
is($there->http('GET', "$rest/mine?select=v", token => $first->{accessToken})->{body}, '[{"v":"hers"}]', 'read by its owner at the standby');
is(seen($there->http('GET', "$rest/mine")), '401 42501', 'and by nobody else');
is($there->http('GET', '/api/user/profile', token => $key->{key})->{status}, 200, 'an API key is good');
is($there->http('GET', "$rest/things?limit=1", token => 'nonsense')->{status}, 401, 'nonsense is not');

my $metrics = $there->http('GET', '/metrics')->{body};
like($metrics, qr/^orion_standby 1$/m, 'metrics tell that it is a standby');
like($metrics, qr/^orion_standby_replayed_bytes [1-9]\d+$/m, 'and how far it is');
like($here->http('GET', '/metrics')->{body}, qr/^orion_standby 0$/m, 'the primary is none');

# --- what ends at the primary ends there, with the replay

my $out = $here->http('POST', '/api/auth/logout', json => {}, token => $second->{accessToken});
is($out->{json}{revoked}, 1, 'a session is ended at the primary');
like($out->{headers}{'orion-lsn'}, qr{^1-[0-9A-F]+/[0-9A-F]+$}, 'which has a position');
my %after = (headers => { Prefer => "wait-lsn=$out->{headers}{'orion-lsn'}" });
is($there->http('GET', '/api/user/profile', token => $second->{accessToken}, %after)->{status}, 401, 'its token is dead at the standby once that is replayed');
is($there->http('GET', '/api/user/profile', token => $first->{accessToken}, %after)->{status}, 200, 'another one is not');
$out = $here->http('DELETE', "/api/user/api-keys/$key->{id}", token => $first->{accessToken});
is($out->{status}, 204, 'the API key is revoked') or diag($out->{body});
is($there->http('GET', '/api/user/profile', token => $key->{key}, headers => { Prefer => "wait-lsn=$out->{headers}{'orion-lsn'}" })->{status}, 401, 'and dead there');
$here->sql(q{CREATE FUNCTION route_new(request jsonb) RETURNS jsonb LANGUAGE sql STABLE AS $$ SELECT '{"new": 1}'::jsonb $$; INSERT INTO orion_private.routes (method, path, function) VALUES ('GET', '/new', 'public.route_new(jsonb)')});
caught_up();
is($there->http('GET', '/new')->{status}, 200, 'a new route is there');
$here->sql(q{DELETE FROM orion_private.routes WHERE path = '/new'});
caught_up();
is($there->http('GET', '/new')->{status}, 404, 'one that is gone is gone');
$here->sql('CREATE TABLE later (a int); GRANT SELECT ON later TO orion_anon');
caught_up();
is($there->http('GET', "$rest/later")->{status}, 200, 'a new table, too');

# --- writing

my @writes = (
	[ 'POST', "$rest/things?select=id", json => { id => 100 } ],
	[ 'PATCH', "$rest/things?id=eq.1", json => { v => 'x' } ],
	[ 'PUT', "$rest/things?id=eq.1", json => { id => 1, v => 'x' } ],
	[ 'DELETE', "$rest/things?id=eq.1" ],
	[ 'POST', "$rest/rpc/add_thing", json => { id => 100 } ],
	[ 'POST', "$rest/rpc/sly", json => { id => 100 } ],
	[ 'POST', '/both', json => { id => 100 } ],
	[ 'POST', '/batch', json => [ { method => 'GET', path => '/things' }, { method => 'DELETE', path => '/things?id=eq.1' } ] ],
	[ 'POST', '/api/auth/login', json => { email => 'ann@example.com', password => $password } ],
);
for my $write (@writes)
{
	my $answer = $there->http(@$write);
	is(seen($answer), '503 25006', "$write->[0] $write->[1]: 503");
	is($answer->{headers}{'retry-after'}, '5', 'with Retry-After');
	is($answer->{headers}{location}, undef, 'without Location');
	is(join(',', sort grep { $_ ne 'operation' } keys %{ $answer->{json} }), 'code,details,hint,message', 'and four members');
}
is(seen($there->http('GET', "$rest/rpc/add_thing?id=100")), seen($here->http('GET', "$rest/rpc/add_thing?id=100")), 'GET of a function that writes is as wrong as at the primary');
my ($ok, $error, $said) = $standby->psql('postgres', "ALTER SYSTEM SET orion.primary_url = 'ftp://x'");
isnt($ok, 0, 'an address of another kind is refused');
for my $bad ('https://', 'https://a/?b', 'https://u@h', 'http://a b', "http://a\r\nX: y", 'javascript:1')
{
	($ok) = $standby->psql('postgres', "ALTER SYSTEM SET orion.primary_url = E'@{[ $bad =~ s/\r\n/\\r\\n/r ]}'");
	isnt($ok, 0, 'and so is ' . $bad =~ s/\r\n/ /r);
}
set($standby, 'orion.primary_url' => 'https://db1.example:8443/api/');
ok($stack->until_true(sub { $there->http(@{ $writes[0] })->{headers}{location} }), 'with orion.primary_url there is a Location');
is($there->http(@$_)->{headers}{location}, "https://db1.example:8443/api$_->[1]", "$_->[0] $_->[1]: there") for @writes;
is($there->http('POST', "$rest/things", json => { id => 1 }, headers => { Origin => 'https://a.example' })->{headers}{'access-control-expose-headers'} =~ /Retry-After/ ? 1 : 0, 1, 'scripts of other origins may see it');
set($standby, 'orion.standby_writes' => 'not-allowed');
ok($stack->until_true(sub { $there->http(@{ $writes[0] })->{status} == 405 }), 'orion.standby_writes = not-allowed: 405');
my %allow = ("$rest/things" => 'OPTIONS,GET,HEAD', '/both' => 'GET,HEAD', '/batch' => 'OPTIONS,POST');
for my $write (@writes)
{
	my $answer = $there->http(@$write);
	my ($path) = $write->[1] =~ /^([^?]*)/;
	is(seen($answer) . " $answer->{headers}{allow}", '405 25006 ' . ($allow{$path} // 'OPTIONS'), "$write->[0] $write->[1]: 405 with Allow");
}
is($there->http('OPTIONS', "$rest/things")->{headers}{allow}, 'OPTIONS,GET,HEAD', 'OPTIONS says so');
is($there->http('OPTIONS', "$rest/rpc/add_thing")->{headers}{allow}, 'OPTIONS', 'of functions as well');
set($standby, 'orion.standby_writes' => 'unavailable');
ok($stack->until_true(sub { $there->http(@{ $writes[0] })->{status} == 503 }), 'and back');
is($here->sql('SELECT count(*) FROM things'), '10', 'nothing was written');

# --- the position of a write

my $number = 1000;
sub write_here { my (@more) = @_; return $here->http('POST', "$rest/things", json => { id => ++$number, v => 'w' }, @more); }
my $answer = write_here();
my $lsn = $answer->{headers}{'orion-lsn'};
like($lsn, qr{^1-[0-9A-F]+/[0-9A-F]+$}, 'a write has a position');
is($here->sql("SELECT '" . $lsn =~ s/^1-//r . "'::pg_lsn <= pg_current_wal_flush_lsn()"), 't', 'which is on disk');
ok($here->http('POST', '/batch', json => [ { method => 'POST', path => '/things', body => { id => ++$number } } ])->{headers}{'orion-lsn'}, 'a batch has one');
ok($here->http('POST', '/both', json => { id => ++$number })->{headers}{'orion-lsn'}, 'a route has one');
is($here->http('GET', "$rest/things")->{headers}{'orion-lsn'}, undef, 'a read has none');
is($here->http('PATCH', "$rest/things?id=eq.-1", json => { v => 'x' })->{headers}{'orion-lsn'}, undef, 'what writes nothing has none');
is($here->http('POST', "$rest/things", json => { id => 1 })->{headers}{'orion-lsn'}, undef, 'what fails has none');
my %once = (headers => { 'Idempotency-Key' => 'a', Origin => 'https://a.example' });
my $once = $here->http('POST', "$rest/things", json => { id => ++$number }, %once);
like($once->{headers}{'access-control-expose-headers'}, qr/Orion-LSN/, 'scripts of other origins may see it');
my $again = $here->http('POST', "$rest/things", json => { id => $number }, %once);
is($again->{headers}{'idempotency-replayed'}, 'true', 'an answer that was kept');
is($here->sql("SELECT '" . $again->{headers}{'orion-lsn'} =~ s/^1-//r . "'::pg_lsn >= '" . $once->{headers}{'orion-lsn'} =~ s/^1-//r . "'"), 't', 'has a position that is no earlier');

# --- waiting for it

sub ask { my ($node, $prefer, $target) = @_; return $node->http('GET', $target // "$rest/things?id=eq.$number&select=id", headers => { Prefer => $prefer }); }
$lsn = write_here()->{headers}{'orion-lsn'};
$answer = ask($there, "count=exact, wait-lsn=$lsn, wait=9");
is($answer->{body}, "[{\"id\":$number}]", 'a write is read at once');
is($answer->{headers}{'preference-applied'}, "count=exact, wait-lsn=$lsn, wait=9", 'the preference was heeded');
is(ask($there, "handling=strict, wait-lsn=\"$lsn\"")->{status}, 200, 'also in quotes, and strictly');
is(ask($there, 'wait-lsn=' . $lsn =~ s/^1-//r)->{status}, 200, 'without the timeline');
is(ask($there, "wait-lsn=$lsn", '/both')->{headers}{'preference-applied'}, "wait-lsn=$lsn", 'routes do');
is(ask($here, "wait-lsn=$lsn")->{status}, 200, 'the primary has it');
for my $bad ('', 'x', '1', '0/', '/0', '1-', '0-0/1', '-1/2', '1-0/1x', '123456789/1', '0/123456789', '1-0/1/2', '99999999999-0/1', '" "', "0/1;a")
{
	is(seen(ask($_, "wait-lsn=$bad")), '400 ORION400', "\"$bad\" is no position") foreach $here, $there;
}
is(seen(ask($here, 'wait-lsn=FFFFFFFF/0')), '400 ORION400', 'the primary knows what it has not written');
is(seen(ask($here, 'wait-lsn=2-0/1')), '400 ORION400', 'nor on which timeline');
is($here->http('POST', '/batch', json => [ { method => 'GET', path => '/things', headers => { Prefer => "handling=strict, wait-lsn=$lsn" } } ])->{status}, 400, 'a part of a batch waits for nothing');

$standby->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
ok($standby->poll_query_until('postgres', "SELECT pg_get_wal_replay_pause_state() = 'paused'"), 'the replay pauses');
$lsn = write_here()->{headers}{'orion-lsn'};
my $from = time;
$answer = ask($there, "wait-lsn=$lsn, wait=1");
is(seen($answer), '504 ORION504', 'what does not come in time is 504');
cmp_ok(time - $from, '>=', 0.9, 'after the time that was given');
is($answer->{headers}{location}, "https://db1.example:8443/api$rest/things?id=eq.$number&select=id", 'and says where else');
ok($answer->{headers}{'retry-after'}, 'and when');
is(seen(ask($there, "wait-lsn=$lsn, wait=0")), '504 ORION504', 'wait=0 does not wait');
is($there->http('GET', "$rest/things?id=eq.$number", headers => {})->{body}, '[]', 'who does not ask reads what is there');
set($standby, 'orion.standby_wait_timeout' => '200ms');
ok($stack->until_true(sub { $from = time; seen(ask($there, "wait-lsn=$lsn, wait=60")) eq '504 ORION504' && time - $from < 20 }), 'nobody waits longer than orion.standby_wait_timeout');
set($standby, 'orion.standby_wait_timeout' => '61s', 'orion.standby_max_waiting' => '20');

sleep_until_set('61s');

sub sleep_until_set { my ($value) = @_; $standby->poll_query_until('postgres', "SELECT current_setting('orion.standby_wait_timeout') = '$value'") or die; }

sub begin
{
	my ($prefer) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) or die;
	syswrite($socket, OrionStack::request_bytes('GET', "$rest/things?id=eq.$number&select=id", headers => { Prefer => $prefer }));
	return $socket;
}
sub end
{
	my ($socket) = @_;
	my ($heard, $until) = ('', time + 60);
	while (time < $until)
	{
		next unless IO::Select->new($socket)->can_read(0.1);
		last unless sysread($socket, $heard, 65536, length $heard);
	}
	return OrionStack::parse($heard);
}
sub parked { my ($n) = $there->http('GET', '/metrics')->{body} =~ /^orion_http_requests_parked (\d+)/m; return $n; }
my @waiting;
ok($stack->until_true(sub {
	push @waiting, begin("wait-lsn=$lsn") while @waiting < 20;
	@waiting = grep { !IO::Select->new($_)->can_read(0.05) } @waiting;
	return parked() == 20;
}), 'twenty requests wait') or diag(parked());
is(seen(ask($there, "wait-lsn=$lsn")), '503 ORH503', 'one more may not');
$from = time;
is($there->http('GET', "$rest/things?id=eq.1&select=id")->{body}, '[{"id":1}]', 'others are served meanwhile');
cmp_ok(time - $from, '<', 20, 'at once');
ok($standby->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'orion executor' AND (state <> 'idle' OR backend_xmin IS NOT NULL)"), 'no executor is busy, and none holds a snapshot');
close($_) foreach splice @waiting, 0, 5;
ok($stack->until_true(sub { parked() == 15 }), 'who leaves waits no more') or diag(parked());
$standby->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
is(join(' ', map { end($_)->{body} } @waiting), join(' ', ("[{\"id\":$number}]") x 15), 'all others are answered when the replay goes on');
is(parked(), 0, 'nobody waits any more');

# --- promotion

$standby->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
ok($standby->poll_query_until('postgres', "SELECT pg_get_wal_replay_pause_state() = 'paused'"), 'the replay pauses');
my $lost = write_here()->{headers}{'orion-lsn'};
@waiting = map { begin("wait-lsn=$lost") } 1 .. 3;
ok($stack->until_true(sub { parked() == 3 }), 'three wait for a write that the failover will lose');
my $pids = $standby->safe_psql('postgres', "SELECT string_agg(pid::text, ' ' ORDER BY pid) FROM orion.workers WHERE kind IN ('executor', 'gateway')");
$standby->safe_psql('postgres', "ALTER SYSTEM SET primary_conninfo = ''");	# what comes from now on is lost
$standby->reload;
kill 'TERM', $standby->safe_psql('postgres', 'SELECT pid FROM pg_stat_wal_receiver');
ok($standby->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pg_stat_wal_receiver'), 'the standby is cut off');
$lost = write_here()->{headers}{'orion-lsn'};
push @waiting, begin("wait-lsn=$lost");
ok($stack->until_true(sub { parked() == 4 }), 'another one, that never arrived');
$standby->promote;
ok($stack->until_true(sub { $there->http('POST', "$rest/things", json => { id => ++$number, v => 'new' })->{status} == 201 }), 'after the promotion the same gateway writes');
is($standby->safe_psql('postgres', "SELECT string_agg(pid::text, ' ' ORDER BY pid) FROM orion.workers WHERE kind IN ('executor', 'gateway')"), $pids, 'in the same processes');
like(join(' ', map { end($_)->{status} } @waiting), qr/^(?:200 ){3}400$/, 'who waited is told what is there and what is lost');
is($there->http('POST', '/api/auth/login', json => { email => 'ann@example.com', password => $password })->{status}, 200, 'people sign in');
is($there->http('POST', '/both', json => { id => ++$number })->{status}, 200, 'routes write');
$answer = $there->http('POST', "$rest/things", json => { id => ++$number, v => 'new' });
like($answer->{headers}{'orion-lsn'}, qr{^2-}, 'positions have the new timeline');
is(ask($there, "wait-lsn=$answer->{headers}{'orion-lsn'}")->{status}, 200, 'which is known');
is(ask($there, "wait-lsn=$lsn")->{status}, 200, 'and so is what came before');
is(seen(ask($there, "wait-lsn=$lost")), '400 ORION400', 'but not what was lost');
is($there->http('POST', '/api/auth/logout', json => {}, token => $first->{accessToken})->{json}{revoked}, 1, 'sessions end');
is($there->http('GET', '/api/user/profile', token => $first->{accessToken})->{status}, 401, 'at once');
is($there->http('GET', '/api/user/profile', token => $second->{accessToken})->{status}, 401, 'and those from before stay dead');
$there->http('GET', "$rest/things?limit=1") for 1 .. 5;
unlike(slurp_file($standby->logfile), qr/PANIC|TRAP|is not understood/, 'nothing went wrong on the way');

$standby->stop;
$primary->stop;
done_testing();
