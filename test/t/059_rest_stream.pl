# Large answers in lines (NDJSON, CSV): sent while they are read, in bounded memory.
use strict;
use warnings;
use IO::Select;
use IO::Socket::UNIX;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);
use OrionHttp;
use OrionServices;

my ($node, $port) = OrionHttp::server('stream', qq{
orion.executor_count = 2
orion.rest_schemas = 'public'
orion.http_idle_timeout = 3s
});
$node->safe_psql('postgres', q{
CREATE EXTENSION orion;
CREATE TABLE few (id int PRIMARY KEY, "a,""b" text, n numeric);
INSERT INTO few VALUES (1, 'x', 1.5), (2, NULL, NULL), (3, E'q"u,\n', 3);
CREATE VIEW many AS SELECT i AS id, 'row number ' || i AS name, CASE WHEN i % 2 = 0 THEN i END AS even FROM generate_series(1, 1000000) i;
CREATE VIEW breaks AS SELECT i AS id, 100 / (50000 - i) AS q, repeat('x', 50) AS pad FROM generate_series(1, 100000) i;
CREATE FUNCTION three() RETURNS SETOF few LANGUAGE sql STABLE AS 'SELECT * FROM few';
GRANT ALL ON few, many, breaks TO orion_anon;
});
ok(OrionHttp::await($port, '/ready', 200), 'ready');

my %ndjson = (Accept => 'application/x-ndjson');
my %csv = (Accept => 'text/csv');
sub get { return scalar OrionHttp::request($port, 'GET', "/rest/v1/$_[0]", { @_[1 .. $#_] }); }

# --- few rows: an answer like any other
my $answer = get('few?order=id', %ndjson);
is("$answer->{status} $answer->{headers}{'content-type'} $answer->{headers}{'content-range'}", '200 application/x-ndjson; charset=utf-8 0-2/*', 'few rows: status, type and range');
is($answer->{body}, qq({"id":1,"a,\\"b":"x","n":1.5}\n{"id":2,"a,\\"b":null,"n":null}\n{"id":3,"a,\\"b":"q\\"u,\\n","n":3}\n), 'a row a line');
like($answer->{headers}{etag}, qr/^"/, 'with a tag');
is(get('few?order=id', %csv)->{body}, get('few?order=id', %csv, Prefer => 'count=exact')->{body}, 'CSV is what it is when it is made in one piece');
is(get('few?id=lt.0', %ndjson)->{body}, '', 'no rows: nothing');
is(get('few?id=lt.0', %csv)->{body}, get('few?id=lt.0', %csv, Prefer => 'count=exact')->{body}, '... also as CSV');
is(get('rpc/three?order=id.desc&select=id', %ndjson)->{body}, qq({"id":3}\n{"id":2}\n{"id":1}\n), 'of a function');
is(get('few?select=none', %ndjson)->{status}, 400, 'an error before the first row');
my $post = OrionHttp::request($port, 'POST', '/rest/v1/few?select=id', { %ndjson, 'Content-Type' => 'application/json', Prefer => 'return=representation' }, '{"id":9}');
is($post->{body}, qq({"id":9}\n), 'a representation');
is(OrionHttp::request($port, 'HEAD', '/rest/v1/few', { %ndjson })->{status}, 200, 'HEAD');

# --- many
sub rss { my ($pid) = @_; return slurp_file("/proc/$pid/status") =~ /^VmRSS:\s+(\d+) kB/m ? $1 : 0; }
sub anon { my ($pid) = @_; return slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+) kB/m ? $1 : 0; }
my ($gateway) = split /\n/, $node->safe_psql('postgres', q{SELECT program_pid FROM orion.workers WHERE kind = 'gateway'});
my @executors = split /\n/, $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'orion executor'});
get('many?limit=20000', %ndjson) for 1 .. 4;
sub open_stream
{
	my ($path, %headers) = @_;
	my $s = OrionHttp::connection($port);
	syswrite($s, "GET /rest/v1/$path HTTP/1.1\r\nHost: h\r\n" . join('', map { "$_: $headers{$_}\r\n" } keys %headers) . "\r\n");
	return $s;
}
# Reads to the end of the answer: (head, bytes of the body, lines, last line, whether it ended properly)
sub read_stream
{
	my ($s, $look) = @_;
	my ($raw, $head, $lines, $last, $bytes, $left, $tail) = ('', '', 0, '', 0, 0, '');
	while (1)
	{
		my $n = sysread($s, $raw, 262144, length $raw);
		last if !$n;
		$bytes += $n;
		$lines += substr($raw, length($raw) - $n) =~ tr/\n//;
		$look->() if $look;
		$tail = substr($tail . substr($raw, length($raw) - $n), -400);
		$head = $1 if !$head && $raw =~ /^(.*?\r\n\r\n)/s;
		$raw = '' if $head;
		return ($head, $bytes, $lines, $tail, 1) if $tail =~ /\r\n0\r\n\r\n\z/;
	}
	return ($head, $bytes, $lines, $tail, 0);
}
my %before = map { $_ => anon($_) } $gateway, @executors;
my %most = %before;
my $looks = 0;
my ($head, $bytes, $lines, $tail, $whole) = read_stream(open_stream('many', %ndjson), sub {
	return if $looks++ % 20;
	for my $pid (keys %most) { my $now = anon($pid); $most{$pid} = $now if $now > $most{$pid}; }
});
like($head, qr{^HTTP/1.1 200 .*Transfer-Encoding: chunked}si, 'a million rows come in chunks');
ok($whole, '... to the end');
like($tail, qr/\{"id":1000000,"name":"row number 1000000","even":1000000\}\n\r\n0\r\n\r\n\z/, '... the last one last');
cmp_ok($bytes, '>', 50_000_000, '... many megabytes');
for my $pid (sort keys %most)
{
	my $grown = $most{$pid} - $before{$pid};
	cmp_ok($grown, '<', 8192, ($pid == $gateway ? 'the gateway' : 'an executor') . " has grown by $grown kB meanwhile");
}
($head, $bytes, $lines, $tail, $whole) = read_stream(open_stream('many', %csv));
ok($whole && $tail =~ /1000000,"row number 1000000",1000000\r\n0\r\n\r\n\z/, 'a million rows of CSV') or diag $tail;

# --- it breaks off
($head, $bytes, $lines, $tail, $whole) = read_stream(open_stream('breaks', %ndjson));
like($head, qr{^HTTP/1.1 200 }, 'an error further on');
ok(!$whole, '... ends the connection without an end of the answer');
unlike($tail, qr/"code"/, '... and is no row');
cmp_ok($lines, '>', 1000, '... behind many');
is(get('few?id=eq.1&select=id')->{body}, '[{"id":1}]', 'the next request is served');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'orion executor'}), 2, 'by the executors there were') ;

# --- clients that leave, wait, or dawdle
sub busy { return $node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'orion executor' AND state <> 'idle'}); }
sub idle { return OrionServices::poll_until(sub { busy() == 0 }, $_[0]); }
ok(idle(60), 'nobody is busy');
my $s = open_stream('many', %ndjson);
sysread($s, my $some, 1000);
ok(OrionServices::poll_until(sub { busy() == 1 }), 'one is, while a client does not read');
is(get('few?id=eq.1&select=id', %ndjson)->{status}, 200, '... others are served meanwhile');
my $second = get('many', %ndjson);
is("$second->{status} $second->{headers}{'retry-after'}", '503 1', '... but no second stream takes the last executor');
my $held = anon($gateway);
cmp_ok($held - $before{$gateway}, '<', 4096, '... and the gateway does not fill up');
close $s;
ok(idle(60), 'a client that leaves ends its statement');
$s = open_stream('many', %ndjson);
my $from = time;
ok(OrionServices::poll_until(sub { busy() == 1 }), 'a client that never reads');
ok(idle(60), '... is given up') and note sprintf('after %.1f s', time - $from);
close $s;
is(get('few?id=eq.1&select=id')->{body}, '[{"id":1}]', 'and all is well');
$s = open_stream('many', %ndjson);
sysread($s, $some, 1000);
OrionServices::poll_until(sub { busy() == 1 });
is($node->safe_psql('postgres', q{SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'orion executor' AND state <> 'idle'}), 1, 'an executor that ends in the middle');
(undef, undef, undef, undef, $whole) = read_stream($s);
ok(!$whole, '... leaves no answer that looks complete');
ok(OrionHttp::await($port, '/rest/v1/few?id=eq.1', 200), '... and others serve on');

# --- a client that takes nothing, when its answer is made already but lies between executor and
# gateway: the executor is not free yet, for answers of others would lie behind it
$node->safe_psql('postgres', "ALTER SYSTEM SET $_") foreach "orion.http_idle_timeout = '120s'", "orion.http_unix_socket = 'http.sock'";
$node->reload;
chdir $node->data_dir or die;	# the path may be too long for a socket's name
my $unix;
ok(OrionServices::poll_until(sub { $unix = IO::Socket::UNIX->new(Peer => 'http.sock') }, 30), 'a socket that holds little');
my $slowest = 0;
for (my $rows = 6000; $rows < 26_000 && $slowest < 30; $rows += 1500)
{
	$unix = IO::Socket::UNIX->new(Peer => 'http.sock') // die;
	syswrite($unix, "GET /rest/v1/many?limit=$rows HTTP/1.1\r\nHost: h\r\nAccept: application/x-ndjson\r\n\r\n");
	IO::Select->new($unix)->can_read(60) or die 'no answer';
	OrionServices::poll_until(sub { $node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'orion executor' AND wait_event_type = 'Extension'") == 2 }, 30);
	foreach (1 .. 6)
	{
		my $from = time;
		is(get('many?limit=1000')->{status}, 200, 'a long answer') if $slowest < 20;
		$slowest = time - $from if time - $from > $slowest;
	}
	close $unix;
}
cmp_ok($slowest, '<', 20, 'nobody waits behind it');
unlike(slurp_file($node->logfile), qr/is not understood|PANIC|TRAP/, 'gateway and executors understood each other');

$node->stop;
done_testing();
