# Nothing of a request is left for the next one on the same executor, whoever asks: eight
# connections of two users and of nobody send requests in a random order to one executor.
# Half of them leave things in the session in every way a function can; the others look for
# such things. ORION_SEED repeats a run.
use strict;
use warnings;
use IO::Select;
use IO::Socket::INET;
use JSON::PP ();
use OrionStack;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $seed = $ENV{ORION_SEED} // 20261121;
my $requests = 4000;
srand $seed;
note("ORION_SEED=$seed");

my $stack = OrionStack->new('isolation', conf => "orion.executor_count = 1\n");
my $json = JSON::PP->new->utf8->canonical->allow_nonref;
$stack->sql(q{
GRANT TEMP ON DATABASE postgres TO PUBLIC;
CREATE SEQUENCE numbers;
GRANT USAGE ON SEQUENCE numbers TO PUBLIC;
CREATE SCHEMA evil;
GRANT USAGE ON SCHEMA evil TO PUBLIC;
CREATE TABLE mine (owner uuid DEFAULT orion_uid(), v int);
ALTER TABLE mine ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON mine USING (owner IS NOT DISTINCT FROM orion_uid()) WITH CHECK (owner IS NOT DISTINCT FROM orion_uid());
CREATE VIEW evil.mine AS SELECT NULL::uuid AS owner, 666 AS v;
GRANT SELECT, INSERT ON mine TO orion_anon, orion_user;
GRANT SELECT ON evil.mine TO PUBLIC;

-- what of others, or of an earlier request, can be seen; {} when nothing
CREATE FUNCTION probe() RETURNS jsonb LANGUAGE plpgsql VOLATILE AS $$
DECLARE
	found text[] := '{}';
	one text;
BEGIN
	FOR one IN SELECT s || '=' || current_setting(s, true) FROM unnest(ARRAY['app.secret', 'app.other', 'response.status', 'response.headers']) s WHERE coalesce(current_setting(s, true), '') <> ''
		UNION ALL SELECT g.name || '=' || g.setting FROM pg_settings g WHERE source = 'session' AND name IN ('work_mem', 'DateStyle', 'statement_timeout', 'lock_timeout', 'row_security', 'client_min_messages', 'default_transaction_isolation', 'enable_seqscan', 'extra_float_digits', 'bytea_output', 'IntervalStyle', 'TimeZone', 'default_transaction_read_only')
	LOOP found := found || one; END LOOP;
	found := found || ARRAY(SELECT 'lock ' || objid FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid());
	found := found || ARRAY(SELECT 'temp ' || relname FROM pg_class WHERE relnamespace = pg_my_temp_schema());
	found := found || ARRAY(SELECT 'temp function ' || proname FROM pg_proc WHERE pronamespace = pg_my_temp_schema());
	found := found || ARRAY(SELECT 'statement ' || name FROM pg_prepared_statements WHERE from_sql);
	found := found || ARRAY(SELECT 'cursor ' || name FROM pg_cursors WHERE name LIKE 'left%');
	found := found || ARRAY(SELECT 'listens ' || c FROM pg_listening_channels() c);
	BEGIN
		PERFORM lastval();
		found := found || 'lastval'::text;
	EXCEPTION WHEN object_not_in_prerequisite_state THEN NULL; END;
	BEGIN
		PERFORM currval('numbers');
		found := found || 'currval'::text;
	EXCEPTION WHEN object_not_in_prerequisite_state THEN NULL; END;
	IF current_setting('transaction_isolation') <> 'read committed' THEN found := found || 'isolation'::text; END IF;
	IF current_setting('search_path') <> 'public' AND current_setting('search_path') <> '"public"' THEN found := found || ('search_path ' || current_setting('search_path')); END IF;
	IF EXISTS (SELECT FROM mine WHERE owner IS DISTINCT FROM orion_uid()) THEN found := found || 'rows of others'::text; END IF;
	RETURN jsonb_build_object('found', to_jsonb(found), 'role', current_user, 'uid', orion_uid(), 'sub', current_setting('request.jwt.claims', true)::jsonb ->> 'sub',
		'header', current_setting('request.headers', true)::jsonb ->> 'x-mark', 'path', current_setting('request.path', true), 'plan', (SELECT count(*) FILTER (WHERE v = 666) FROM mine));
END $$;

CREATE FUNCTION leave(what text, then_fail boolean) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
BEGIN
	CASE what
		WHEN 'settings' THEN PERFORM set_config('app.secret', 'of ' || coalesce(orion_uid()::text, 'nobody'), false), set_config('app.other', 'x', false), set_config('work_mem', '1234kB', false), set_config('DateStyle', 'German', false);
		WHEN 'set' THEN SET enable_seqscan = off; SET extra_float_digits = 0; SET bytea_output = 'escape'; SET TimeZone = 'Asia/Tokyo'; SET IntervalStyle = 'iso_8601';
		WHEN 'timeouts' THEN PERFORM set_config('statement_timeout', '1', false), set_config('lock_timeout', '1', false);
		WHEN 'read only' THEN SET default_transaction_read_only = on; SET default_transaction_isolation = 'serializable';
		WHEN 'row security' THEN SET row_security = off;
		WHEN 'path' THEN PERFORM set_config('search_path', 'evil, pg_temp, public', false);
		WHEN 'claims' THEN PERFORM set_config('request.jwt.claims', '{"sub":"00000000-0000-4000-8000-000000000666","role":"orion_admin"}', false), set_config('request.headers', '{"x-mark":"forged"}', false);
		WHEN 'answer' THEN PERFORM set_config('response.status', '418', false), set_config('response.headers', '[{"X-Left":"yes"}]', false);
		WHEN 'table' THEN CREATE TEMP TABLE IF NOT EXISTS mine (owner uuid, v int); INSERT INTO pg_temp.mine VALUES (orion_uid(), 666);
		WHEN 'function' THEN CREATE OR REPLACE FUNCTION pg_temp.orion_uid() RETURNS uuid LANGUAGE sql AS 'SELECT NULL::uuid';
		WHEN 'statement' THEN EXECUTE 'PREPARE left_one AS SELECT * FROM mine';
		WHEN 'cursor' THEN EXECUTE 'DECLARE left_one CURSOR WITH HOLD FOR SELECT * FROM mine';
		WHEN 'locks' THEN PERFORM pg_advisory_lock(42), pg_advisory_lock_shared(43);
		WHEN 'sequence' THEN PERFORM nextval('numbers');
		WHEN 'listen' THEN LISTEN left_channel;
		WHEN 'role' THEN PERFORM set_config('role', 'orion_admin', false);
		WHEN 'set role' THEN SET ROLE orion_admin;
		WHEN 'authorization' THEN SET SESSION AUTHORIZATION orion_admin;
		WHEN 'reset' THEN RESET ROLE;
		WHEN 'caught' THEN BEGIN PERFORM set_config('app.secret', 'caught', false); SET ROLE orion_admin; EXCEPTION WHEN OTHERS THEN PERFORM set_config('app.other', SQLSTATE, false); END;
		WHEN 'row' THEN INSERT INTO mine (v) VALUES (1);
	END CASE;
	IF then_fail THEN RAISE EXCEPTION 'failed' USING ERRCODE = 'PT409'; END IF;
	RETURN 'left';
END $$;
});
my @things = $stack->sql("SELECT prosrc FROM pg_proc WHERE proname = 'leave'") =~ /WHEN '([a-z ]+)' THEN/g;
cmp_ok(scalar(@things), '>=', 20, 'ways to leave something');

# in one session, where all of it is left, the probe does see it
my $seen = $json->decode((split /\n/, $stack->sql('BEGIN;' . join('', map { "SELECT public.leave('$_', false);" } grep { !/^(?:role|set role|authorization|timeouts|path|caught)$/ } @things) . 'SELECT public.probe(); COMMIT'))[-1]);
foreach my $kind ('app\.secret', 'app\.other', 'response\.status', 'work_mem', 'DateStyle', 'enable_seqscan', 'row_security', 'lock 42', 'lock 43', 'temp mine', 'temp function', 'statement left', 'cursor left', 'lastval', 'currval')
{
	ok(scalar(grep { /^$kind/ } @{ $seen->{found} }), "the probe sees $kind");
}
$stack->sql('TRUNCATE mine');

my @users = ({ role => 'orion_anon', uid => undef });
foreach my $name ('ann', 'bob')
{
	my $made = $stack->http('POST', '/api/auth/register', json => { email => "$name\@example.com", password => 'a quite secret horse' })->{json};
	push @users, { role => 'orion_user', uid => $made->{user}{id}, token => $made->{accessToken} };
}

# --- the connections: each has one request under way, of a user who changes

my ($sent, $answered, %count, %wrong, %refused, @connections) = (0, 0);
my $select = IO::Select->new;

sub dial { return IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $stack->{http_port}, Timeout => 20) || die "connect: $!"; }

sub send_one
{
	my ($connection) = @_;
	my $user = $users[ int rand @users ];
	my $probe = rand() < 0.5;
	my $what = $probe ? 'probe' : $things[ int rand @things ];
	my $mark = 'm' . ++$sent;
	my ($function, $arguments) = $probe ? ('probe', {}) : ('leave', { what => $what, then_fail => rand() < 0.3 ? \1 : \0 });
	my %options = (json => $arguments, headers => { Connection => 'keep-alive', 'X-Mark' => $mark });
	$options{token} = $user->{token} if $user->{token};
	@$connection{qw(user what mark heard)} = ($user, $what, $mark, '');
	syswrite($connection->{socket}, OrionStack::request_bytes('POST', "/rest/v1/rpc/$function", %options));
	$count{$what}++;
}

sub judge
{
	my ($connection, $answer) = @_;
	my ($user, $what) = @$connection{qw(user what)};
	my $left = ($answer->{headers}{'x-left'} // '') ne '' && $what ne 'answer';
	$wrong{"$what got a header of another"}++ if $left;
	if ($what ne 'probe')
	{
		$refused{$what}++ if $answer->{status} == 403 || $answer->{status} == 401;
		$wrong{"$what was answered with $answer->{status} $answer->{body}"}++ unless $answer->{status} =~ /^(?:200|400|401|403|409)$/ || $what eq 'answer' && $answer->{status} == 418;
		return;
	}
	my $seen = $answer->{json};
	return $wrong{"a probe was answered with $answer->{status} $answer->{body}"}++ unless $answer->{status} == 200 && ref $seen eq 'HASH';
	$wrong{"found $_"}++ foreach @{ $seen->{found} };
	my %want = (role => $user->{role}, uid => $user->{uid}, sub => $user->{uid}, header => $connection->{mark}, path => '/rest/v1/rpc/probe', plan => 0);
	foreach (sort keys %want) { $wrong{"$_ is " . ($seen->{$_} // 'null')}++ if ($seen->{$_} // '') ne ($want{$_} // ''); }
}

for (1 .. 8)
{
	my $connection = { socket => dial() };
	push @connections, $connection;
	$select->add($connection->{socket});
	send_one($connection);
}
my $end = time + 120;
while ($answered < $requests && time < $end)
{
	foreach my $socket ($select->can_read(1))
	{
		my ($connection) = grep { $_->{socket} == $socket } @connections;
		my $n = sysread($socket, $connection->{heard}, 65536, length $connection->{heard});
		die "the connection ended: $connection->{what}" unless $n;
		my $heard = $connection->{heard};
		next unless $heard =~ /^(.*?)\r\n\r\n(.*)\z/s;
		my ($head, $body) = ($1, $2);
		next if $head =~ /^Content-Length: (\d+)/mi && length $body < $1;
		$answered++;
		judge($connection, OrionStack::parse($heard));
		send_one($connection) if $sent < $requests;
	}
}
is($answered, $requests, "$requests requests are answered");
is($json->encode(\%wrong), '{}', 'no probe has seen anything') or diag("repeat it with ORION_SEED=$seed");
cmp_ok($count{probe}, '>', $requests / 3, "$count{probe} probes");
is(join(', ', grep { ($count{$_} // 0) < 20 } @things), '', 'each thing was left often');
is(join(', ', grep { !$refused{$_} } 'role', 'set role', 'authorization'), '', 'other roles were refused');
is($stack->sql("SELECT count(*) FROM mine WHERE v = 666"), 0, 'rows of temporary tables stay there');
cmp_ok($stack->sql('SELECT count(*) FROM mine'), '>', 20, 'and good rows were written');
is($stack->sql("SELECT count(*) FROM orion.workers WHERE kind = 'executor'"), 1, 'by one executor');
is($stack->sql('SELECT sum(restarts) FROM orion.workers'), 0, 'which was never restarted');
done_testing();
