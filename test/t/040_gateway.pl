# The gateway and the executors: hostile clients, limits, and the death of either.
use strict;
use warnings;
use IO::Select;
use IO::Socket::INET;
use OrionPsql;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $port = PostgreSQL::Test::Cluster::get_free_port();
my $node = PostgreSQL::Test::Cluster->new('gateway');
$node->init;
$node->append_conf('postgresql.conf', qq{
shared_preload_libraries = 'orion'
max_worker_processes = 16
log_min_messages = info
orion.http_port = $port
orion.http_listen_addresses = '127.0.0.1'
orion.http_max_body_size = '64kB'
orion.http_max_header_size = '8kB'
orion.http_idle_timeout = '2s'
orion.http_queue_size = 2
orion.http_queue_timeout = '1s'
orion.executor_count = 2
restart_after_crash = on
});
$node->start;

# --- a client that sends any bytes ---------------------------------------------

sub dial
{
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Timeout => 20);
	binmode $socket if $socket;
	return $socket;
}

# Reads until the pattern is there, end of file, or the time is over.
sub hear
{
	my ($socket, $until, $seconds) = @_;
	my $heard = '';
	my $end = time + ($seconds // 30);

	while (time < $end && !(defined $until && $heard =~ $until))
	{
		next unless IO::Select->new($socket)->can_read(0.1);
		my $n = sysread($socket, $heard, 65536, length $heard);
		last unless $n;
	}
	return $heard;
}

# Everything the server says to these bytes on one connection, until it closes.
sub talk
{
	my ($bytes, $seconds) = @_;
	my $socket = dial() or return '';
	local $SIG{PIPE} = 'IGNORE';
	syswrite($socket, $bytes);
	return hear($socket, undef, $seconds);
}

sub status { return $_[0] =~ m{^HTTP/1\.1 (\d{3}) } ? $1 : "none: $_[0]"; }
sub body { return $_[0] =~ /\r\n\r\n(.*)\z/s ? $1 : ''; }

my $end = "Host: x\r\nConnection: close\r\n\r\n";

sub get
{
	my ($target, $headers) = @_;
	return talk("GET $target HTTP/1.1\r\n" . ($headers // '') . $end);
}

sub rpc_bytes
{
	my ($function, $json, $headers) = @_;
	return "POST /rest/v1/rpc/$function HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: "
		. length($json) . "\r\n" . ($headers // '') . "Host: x\r\n\r\n$json";
}

sub rpc { my ($function, $json) = @_; return talk(rpc_bytes($function, $json, "Connection: close\r\n")); }

# Polls a condition in Perl.
sub becomes_true
{
	my ($condition, $seconds) = @_;
	my $end = time + $seconds;
	until ($condition->())
	{
		return 0 if time > $end;
		select(undef, undef, undef, 0.02);
	}
	return 1;
}

sub is_ready { return status(get('/ready')) eq '200'; }

sub gateway_is
{
	my ($condition, $what) = @_;
	ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM orion.workers WHERE kind = 'gateway' AND $condition"), $what);
}

# --- CREATE EXTENSION --------------------------------------------------------------

ok(!dial(), 'nobody listens before CREATE EXTENSION');
$node->safe_psql('postgres', 'CREATE EXTENSION orion');
$node->safe_psql('postgres', q{
CREATE FUNCTION echo(v text) RETURNS text LANGUAGE sql VOLATILE RETURN v;
-- until the test lets go of the lock
CREATE FUNCTION held() RETURNS text LANGUAGE plpgsql VOLATILE AS
	$$BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN 'let go'; END$$;
CREATE FUNCTION slow(seconds float8) RETURNS text LANGUAGE plpgsql VOLATILE AS
	$$BEGIN PERFORM pg_sleep(seconds); RETURN 'slept'; END$$;
CREATE FUNCTION slow_read(seconds float8) RETURNS text LANGUAGE plpgsql STABLE AS
	$$BEGIN PERFORM pg_sleep(seconds); RETURN 'slept'; END$$;
CREATE FUNCTION leave_things() RETURNS text LANGUAGE plpgsql VOLATILE AS
	$$BEGIN
		PERFORM set_config('app.secret', 'mine', false), set_config('work_mem', '1234kB', false);
		PERFORM pg_advisory_lock(42);
		CREATE TEMP TABLE IF NOT EXISTS mine (secret text);
		EXECUTE 'PREPARE mine AS SELECT 1';
		EXECUTE 'DECLARE mine CURSOR WITH HOLD FOR SELECT 1';
		PERFORM nextval('numbers');
		RETURN 'left';
	END$$;
CREATE FUNCTION find_things() RETURNS text LANGUAGE plpgsql VOLATILE AS
	$$DECLARE found text := '';
	BEGIN
		IF coalesce(current_setting('app.secret', true), '') <> '' THEN found := found || ' setting'; END IF;
		IF current_setting('work_mem') = '1234kB' THEN found := found || ' work_mem'; END IF;
		IF EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()) THEN found := found || ' lock'; END IF;
		IF to_regclass('pg_temp.mine') IS NOT NULL THEN found := found || ' table'; END IF;
		IF EXISTS (SELECT FROM pg_prepared_statements) THEN found := found || ' statement'; END IF;
		IF EXISTS (SELECT FROM pg_cursors WHERE name = 'mine') THEN found := found || ' cursor'; END IF;
		BEGIN
			PERFORM lastval();
			found := found || ' lastval';
		EXCEPTION WHEN object_not_in_prerequisite_state THEN NULL;
		END;
		RETURN 'found' || found;
	END$$;
CREATE SEQUENCE numbers;
GRANT USAGE ON SEQUENCE numbers TO PUBLIC;
GRANT TEMP ON DATABASE postgres TO PUBLIC;
});
ok(becomes_true(\&is_ready, 60), 'the gateway and an executor are there after CREATE EXTENSION');
gateway_is("state = 'running' AND program_pid IS NOT NULL", 'orion.workers shows the program');
my $started = $node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()');

is((stat($node->data_dir . '/orion'))[2] & 07777, 0700, 'the socket lies in a directory of mode 0700');

# --- good requests -------------------------------------------------------------------

my $answer = get('/health');
is(status($answer), '200', '/health');
like(body($answer), qr/^\{"status":"ok","version":"[^"]+"\}$/, 'says ok and the version');
like($answer, qr/^X-Content-Type-Options: nosniff\r$/mi, 'nosniff');
unlike($answer, qr/^Server:/mi, 'no Server header');
like(rpc('echo', '{"v":"hello"}'), qr/"hello"\s*$/, 'an executor answers');
like(get('/nowhere', "X-Request-Id: abc-1\r\n"), qr/^X-Request-Id: abc-1\r$/mi, 'a sane request id is taken over');
like(get('/nowhere', "X-Request-Id: a b\r\n"), qr/^X-Request-Id: [0-9a-f-]+\r$/mi, 'another is replaced');
like(talk("HEAD /health HTTP/1.1\r\n$end"), qr/^Content-Length: [1-9].*\r\n\r\n\z/ms, 'HEAD has the length and no body');
like(talk("HEAD /nowhere HTTP/1.1\r\n$end"), qr/\r\n\r\n\z/s, 'HEAD of an executor has no body');
is(status(get("$_://x/health")), '200', "absolute form, $_") for 'http', 'https';
like(talk("POST /rest/v1/rpc/echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n$end"
		. "5\r\n{\"v\":\r\n6\r\n\"part\"\r\n1\r\n}\r\n0\r\n\r\n"),
	qr/"part"\s*/, 'a chunked body');
# libmicrohttpd 1.0 refuses extensions of chunks, which RFC 9112 7.1.1 lets a server ignore
like(talk("POST /rest/v1/rpc/echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n$end"
		. "5\r\n{\"v\":\r\n6;x=y\r\n\"part\"\r\n1\r\n}\r\n0\r\n\r\n"),
	qr/"part"\s*|^HTTP\/1\.1 400 /, 'an extension of a chunk');

my $socket = dial();
syswrite($socket, "POST /rest/v1/rpc/echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Type: application/json\r\nContent-Length: 11\r\n$end");
like(hear($socket, qr/\r\n\r\n/), qr{^HTTP/1\.1 100 }, '100-continue');
syswrite($socket, '{"v":"late"}');
like(hear($socket), qr/^HTTP/, 'and the answer after it');

# a thousand requests at once on one connection
$socket = dial();
my $sent = '';
$sent .= $_ % 2 ? "GET /health HTTP/1.1\r\nHost: x\r\n\r\n" : rpc_bytes('echo', "{\"v\":\"n$_\"}") for 1 .. 999;
$sent .= "GET /health HTTP/1.1\r\n$end";
my ($heard, $at) = ('', 0);
$socket->blocking(0);
my $deadline = time + 60;
while (time < $deadline)
{
	if ($at < length $sent)
	{
		my $n = syswrite($socket, $sent, length($sent) - $at, $at);
		$at += $n if $n;
	}
	next unless IO::Select->new($socket)->can_read($at < length $sent ? 0 : 1);
	my $n = sysread($socket, $heard, 65536, length $heard);
	last if defined $n && $n == 0;
}
my @statuses = $heard =~ m{HTTP/1\.1 (\d+) }g;
is(scalar(@statuses), 1000, '1000 pipelined requests get 1000 answers');
is(scalar(grep { $_ ne '200' } @statuses), 0, 'all of them good');
is(join(' ', $heard =~ /"n(\d+)"/g), join(' ', grep { $_ % 2 == 0 } 1 .. 999), 'in order');

# a request that comes at any moment while the one before it is underway
$socket = dial();
my $both = 0;
for my $n (1 .. 400)
{
	syswrite($socket, rpc_bytes('echo', qq({"v":"a$n"})));
	select(undef, undef, undef, rand(0.0015)) if $n % 4;
	syswrite($socket, rpc_bytes('echo', qq({"v":"b$n"})));
	$both += hear($socket, qr/"b$n"\s*\z/, 20) =~ /"a$n".*"b$n"/s or last;
}
is($both, 400, 'requests one behind the other');

# one who closes his sending side still gets the answer
$socket = dial();
syswrite($socket, rpc_bytes('slow', '{"seconds":0.2}'));
shutdown($socket, 1);
like(hear($socket), qr/slept/, 'a half-closed client gets its answer');

# --- bad requests ----------------------------------------------------------------------

sub refused
{
	my ($bytes, $want, $what) = @_;
	my $answer = talk($bytes);
	is(status($answer), $want, $what);
}

is(talk("\r\n\r\nnonsense\r\n\r\n"), '', 'nonsense gets no answer');
refused("GET /health HTTP/1.1\r\nConnection: close\r\n\r\n", '400', 'no Host');
refused("GET /health HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", '400', 'two Hosts');
refused("GET /health HTTP/1.1\r\nHost: x, y\r\nConnection: close\r\n\r\n", '400', 'a Host that is none');
refused("GET http://u\@x/health HTTP/1.1\r\n$end", '400', 'a user in the target');
refused("GET /a b HTTP/1.1\r\n$end", '400', 'a space in the target');
refused("GET health HTTP/1.1\r\n$end", '400', 'a target without a slash');
refused("GET /%00 HTTP/1.1\r\n$end", '400', 'an encoded NUL');
like(talk("GET /\0 HTTP/1.1\r\n$end"), qr{\A(?:HTTP/1\.1 400 |\z)}, 'a NUL in the target (libmicrohttpd 1.0 hangs up)');
refused("GET /?a=%ff HTTP/1.1\r\n$end", '400', 'invalid UTF-8 in the query, encoded');
refused("GET /\xff HTTP/1.1\r\n$end", '400', 'invalid UTF-8 in the target');
refused("GET /%zz HTTP/1.1\r\n$end", '400', 'a bad percent sign');
refused("GET /health HTTP/1.1\r\nX: a\0b\r\n$end", '400', 'a NUL in a header');
refused("GET /health HTTP/1.1\r\n${\ ($end =~ s/\r\n\r\n\z//r)}\0x\r\n\r\n", '400', 'a NUL in the last header');
refused("GET /health HTTP/1.1\r\nX: \xff\r\n$end", '400', 'invalid UTF-8 in a header');
refused("GET /health HTTP/1.1\r\nX : a\r\n$end", '400', 'a space before the colon');
refused("GET /health HTTP/1.1\r\nX: a\r\n folded\r\n$end", '400', 'a folded header');
refused("GET /health HTTP/1.1\r\nX: a\n$end", '400', 'a bare line feed');
like(talk("G\0T /health HTTP/1.1\r\n$end"), qr{\A(?:HTTP/1\.1 400 |\z)}, 'a NUL in the method (likewise)');
refused("BREW /health HTTP/1.1\r\n$end", '501', 'an unknown method');
refused("TRACE /health HTTP/1.1\r\n$end", '405', 'TRACE');
refused("DELETE /health HTTP/1.1\r\n$end", '405', 'DELETE of /health');
refused("POST /x HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\nHost: x\r\n\r\n0\r\n\r\n", '400', 'both lengths');
refused("POST /x HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\nHost: x\r\n\r\nabcd", '400', 'two lengths');
refused("POST /x HTTP/1.1\r\nContent-Length: -1\r\nHost: x\r\n\r\n", '400', 'a negative length');
refused("POST /x HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\nHost: x\r\n\r\n0\r\n\r\n", '400', 'another encoding');
refused("POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHost: x\r\n\r\nzz\r\n", '400', 'a bad chunk');
refused("POST /rest/v1/rpc/echo HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\nHost: x\r\n\r\n0\r\n\r\nGET /health HTTP/1.0\r\n\r\n", '400', 'chunks in HTTP/1.0');
refused("POST /x HTTP/1.1\r\nContent-Length: 65537\r\nHost: x\r\n\r\n", '413', 'a body over the limit, before it is sent');
refused("POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHost: x\r\n\r\n10001\r\n" . ('a' x 65537) . "\r\n0\r\n\r\n", '413', 'a chunked body over the limit');
refused("GET /" . ('a' x 9000) . " HTTP/1.1\r\n$end", '414', 'a target over the limit');
refused("GET /nowhere?" . join('&', ('a') x 3000) . " HTTP/1.1\r\n$end", '404', 'thousands of parameters');
refused("GET /health HTTP/1.1\r\n" . join('', map { "X-$_: " . ('a' x 1000) . "\r\n" } 1 .. 9) . $end, '431', 'headers over the limit');
refused("GET /health HTTP/1.1\r\n" . join('', map { "X-$_: a\r\n" } 1 .. 101) . $end, '431', 'too many headers');
is(status(talk(rpc_bytes('echo', '{"v":"' . ('a' x 65000) . '"}', "Connection: close\r\n"))), '200', 'a body just below the limit');
like(body(get('/%zz')), qr/^\{"code":"ORH400","message":"[^"]+","details":null,"hint":"[^"]+"\}$/, 'errors are JSON');
unlike(talk("POST /x HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\nHost: x\r\n\r\n0\r\n\r\nGET /health HTTP/1.1\r\n$end"),
	qr/"status":"ok"/, 'nothing is read after a request of doubtful length');

# browsers keep the status from their page without this
my $page = "Origin: https://a.example\r\n";
like($_->[0], qr/^HTTP\/1\.1 $_->[1] .*^Access-Control-Allow-Origin: \*\r$/ms, "of any origin a page may read: $_->[1]")
  for [get('/%zz', $page), 400], [get('/' . ('a' x 9000), $page), 414], [talk("POST /x HTTP/1.1\r\nContent-Length: 65537\r\n${page}Host: x\r\n\r\n"), 413];
unlike(get('/%zz'), qr/^Access-Control-/m, 'nothing of it without an origin');

# slow clients
$socket = dial();
my $from = time;
my $closed = becomes_true(sub {
		local $SIG{PIPE} = 'IGNORE';
		select(undef, undef, undef, 0.1);
		syswrite($socket, 'G');
		return IO::Select->new($socket)->can_read(0); }, 20);
cmp_ok(time - $from, '<', 20, 'who sends a request byte by byte is cut off');
ok($closed, 'by closing the connection');
is(status(talk("POST /x HTTP/1.1\r\nContent-Length: 100\r\nHost: x\r\n\r\nabc", 8)), 'none: ', 'so is who does not send the body');

# --- the queue ----------------------------------------------------------------------

my $lock = $node->background_psql('postgres');
$lock->query_safe('SELECT pg_advisory_lock(7)');
my $held = q{backend_type = 'orion executor' AND wait_event = 'advisory'};
my @sockets = map { dial() } 1 .. 4;
syswrite($_, rpc_bytes('held', '{}')) for @sockets[0, 1];
ok($node->poll_query_until('postgres', "SELECT count(*) = 2 FROM pg_stat_activity WHERE $held"), 'both executors are busy');
is($node->safe_psql('postgres', "SELECT string_agg(DISTINCT query, ',') FROM pg_stat_activity WHERE $held"),
	'orion: request', 'pg_stat_activity shows nothing of the request');
syswrite($_, rpc_bytes('echo', '{"v":"x"}', $page)) for @sockets[2, 3];
is(status(get('/health')), '200', '/health needs no executor');
ok(becomes_true(sub { return get('/nowhere') =~ m{^HTTP/1\.1 503 }; }, 20), 'a full queue is answered with 503');
like(get('/nowhere'), qr/^Retry-After: \d+\r$/mi, 'and Retry-After');
like(get('/nowhere', $page), qr/^Access-Control-Allow-Origin: \*\r\n.*^Access-Control-Expose-Headers: Retry-After\r$/ms, 'which pages may read');
$answer = hear($sockets[2], qr/\}\z/);
is(status($answer), '503', 'who waited too long gets 503');
like($answer, qr/^Access-Control-Allow-Origin: \*\r$/m, 'which a page may read, too');
$lock->query_safe('SELECT pg_advisory_unlock(7)');
like(hear($_, qr/let go/), qr/let go/, 'the slow ones are answered') for @sockets[0, 1];

# --- clients that leave ---------------------------------------------------------------

$socket = dial();
syswrite($socket, rpc_bytes('slow', '{"seconds":600}'));
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"), 'a long request runs');
$from = time;
close($socket);
ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"), 'it is cancelled when its client leaves');
cmp_ok(time - $from, '<', 20, 'soon');
like(rpc('echo', '{"v":"still"}'), qr/still/, 'the executor serves on') for 1 .. 4;

# --- the ring between gateway and executors ----------------------------------------------

# around the size of a slot, and beyond it over the socket; the head takes some of a slot
is(join(' ', map { my $v = 'x' x $_; body(rpc('echo', qq({"v":"$v"}))) =~ /^"$v"\s*$/ ? 'ok' : $_ } 1, (map { 15800 + 37 * $_ } 0 .. 20), 60000),
	join(' ', ('ok') x 23), 'bodies of any size, there and back');
is(status(talk('POST /rest/v1/rpc/echo HTTP/1.1' . "\r\nContent-Type: application/json\r\nContent-Length: 40000\r\n$end" . '{"v":1' . ' ' x 39993 . '}')), '200', 'long there, short back');

$socket = dial();
$lock->query_safe('SELECT pg_advisory_lock(7)');
syswrite($socket, rpc_bytes('held', '{}'));
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE $held"), 'one executor is busy');
is(scalar(grep { rpc('echo', '{"v":"fast"}') =~ /"fast"/ } 1 .. 40), 40, 'nobody waits behind it while the other one is free');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE $held"), '1', 'all that time');
$lock->query_safe('SELECT pg_advisory_unlock(7)');
like(hear($socket, qr/let go/), qr/let go/, 'it ends as well');
$lock->quit;

# clients that leave with a long request: one whose request runs, others whose requests wait
my $long = '"seconds":600' . ' ' x 40000;
@sockets = map { dial() } 1 .. 4;
syswrite($_, rpc_bytes('slow', "{$long}")) for @sockets;
ok($node->poll_query_until('postgres', "SELECT count(*) = 2 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"), 'long requests run');
close($_) for reverse @sockets;
ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"), 'they are cancelled');
like(rpc('echo', '{"v":"still"}'), qr/still/, 'the executors serve on') for 1 .. 4;

# many that close their sending side at once: each may still want its answer
$node->safe_psql('postgres', 'ALTER SYSTEM SET orion.http_queue_size = 100');
$node->reload;
ok(becomes_true(sub {
			@sockets = map { dial() } 1 .. 60;
			for my $s (@sockets) { syswrite($s, "GET /rest/v1/rpc/slow_read?seconds=0 HTTP/1.1\r\nHost: x\r\n\r\n"); shutdown($s, 1); }
			return 60 == grep { hear($_) =~ /slept/ } @sockets;
		}, 60),
	'half-closed connections are all answered');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET orion.http_queue_size');
$node->reload;
ok(becomes_true(\&is_ready, 60), 'ready');

# --- nothing is left for the next request ------------------------------------------------

for my $round (1 .. 4)
{
	like(rpc('leave_things', '{}'), qr/left/, 'a request leaves things in its session');
	like(rpc('find_things', '{}'), qr/"found"/, 'the next finds none of them');
}

# --- limits of connections -----------------------------------------------------------------

$node->safe_psql('postgres', 'ALTER SYSTEM SET orion.http_max_connections_per_address = 3');
$node->reload;
ok(becomes_true(sub {
			my @held = map { dial() } 1 .. 3;
			return 0 if grep { !defined } @held;
			syswrite($_, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n") for @held;
			return 0 if grep { hear($_, qr/ok/, 2) !~ /ok/ } @held;
			return talk("GET /health HTTP/1.1\r\n$end", 2) eq '';
		}, 60),
	'the fourth connection of one address is closed');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET orion.http_max_connections_per_address');
$node->reload;
ok(becomes_true(sub {
			my @held = map { dial() } 1 .. 6;
			return 0 if grep { !defined } @held;
			return status(get('/health')) eq '200';
		}, 60),
	'and served again without the limit');
ok(becomes_true(\&is_ready, 60), 'ready after the restarts');

# --- kill -9 of the gateway in mid-load -----------------------------------------------------

my $quickest;	# the machine may be busy with something else once
for my $round (1 .. 3)
{
	my @busy = map { dial() } 1 .. 8;
	syswrite($_, rpc_bytes('slow', '{"seconds":0.05}')) for grep { defined } @busy;
	my $pid = $node->safe_psql('postgres', "SELECT program_pid FROM orion.workers WHERE kind = 'gateway'");
	$from = time;
	kill 9, $pid;
	ok(becomes_true(sub { return status(get('/health')) eq '200' && is_ready(); }, 60), "kill -9 of the gateway, round $round: it comes back");
	my $took = time - $from;
	$quickest = $took if !defined $quickest || $took < $quickest;
}
cmp_ok($quickest, '<', 2, 'within 2 s');
gateway_is("state = 'running' AND restarts = 3", 'orion.workers counts the restarts');
is($node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()'), $started, 'PostgreSQL was not restarted');
unlike(slurp_file($node->logfile), qr/terminated by signal|terminating any other active server processes|PANIC|TRAP/, 'and no process of it crashed');

# --- the port is taken ----------------------------------------------------------------------

my $other = PostgreSQL::Test::Cluster::get_free_port();
my $squatter = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $other, Listen => 1, ReuseAddr => 1) or die "listen: $!";
$node->safe_psql('postgres', "ALTER SYSTEM SET orion.http_port = $other");
$node->reload;
gateway_is("state = 'degraded' AND last_error LIKE 'could not listen on address \"127.0.0.1\", port $other: %'", 'a port that is taken is reported');
like(slurp_file($node->logfile), qr/orion-gateway: could not listen on address "127\.0\.0\.1", port $other/, 'in the log too');
close($squatter);
gateway_is("state = 'running' AND last_error IS NULL", 'the gateway starts once the port is free');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET orion.http_port');
$node->reload;
ok(becomes_true(\&is_ready, 60), 'and goes back to the old port');

# --- an executor that is terminated ----------------------------------------------------------

my $terminate = q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'};
my $sleeping = q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'};
$socket = dial();
syswrite($socket, rpc_bytes('slow', '{"seconds":600}'));
$node->poll_query_until('postgres', $sleeping);
$node->safe_psql('postgres', $terminate);
$answer = hear($socket, qr/\}\z/);
is(status($answer), '503', 'POST is not repeated when its executor ends');
like($answer, qr/the process serving the request ended/, 'and the answer says so');
$socket = dial();
syswrite($socket, "GET /rest/v1/rpc/slow_read?seconds=1 HTTP/1.1\r\n$end");
$node->poll_query_until('postgres', $sleeping);
$node->safe_psql('postgres', $terminate);
like(hear($socket), qr/slept/, 'GET is, once');

# --- kill -9 of an executor -------------------------------------------------------------------

my $executor = $node->safe_psql('postgres', "SELECT min(pid) FROM orion.workers WHERE kind = 'executor'");
kill 9, $executor;
ok(becomes_true(sub {
			my ($rc, $out) = $node->psql('postgres', "SELECT count(*) FROM orion.workers WHERE kind = 'executor' AND state = 'running' AND pid <> $executor");
			return ($out // '') eq '2' && is_ready();
		}, 60),
	'after kill -9 of an executor all of it comes back');
like(rpc('echo', '{"v":"again"}'), qr/again/, 'and serves');

# --- DROP EXTENSION ------------------------------------------------------------------------------

my $pid = $node->safe_psql('postgres', "SELECT program_pid FROM orion.workers WHERE kind = 'gateway'");
$node->safe_psql('postgres', 'DROP EXTENSION orion');
ok(becomes_true(sub { return !dial() && !kill 0, $pid; }, 60), 'DROP EXTENSION ends the gateway');
$node->safe_psql('postgres', 'CREATE EXTENSION orion');
ok(becomes_true(\&is_ready, 60), 'CREATE EXTENSION brings it back');

$pid = $node->safe_psql('postgres', "SELECT program_pid FROM orion.workers WHERE kind = 'gateway'");
$from = time;
$node->stop('fast');
cmp_ok(time - $from, '<', 20, 'a fast shutdown is fast');
ok(becomes_true(sub { return !kill 0, $pid; }, 20), 'and leaves no gateway behind');

done_testing();
