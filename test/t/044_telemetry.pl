# What operators see of requests: /metrics, the access log.
use strict;
use warnings;
use lib '.';
use JSON::PP;
use OrionHttp;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

my ($node, $port) = OrionHttp::server('telemetry', qq{
orion.http_access_log = 'access.log'
orion.executor_count = 2
});
my $file = $node->data_dir . '/access.log';

sub request { return OrionHttp::request($port, @_); }
sub metrics { return request('GET', '/metrics', @_); }

# The sample's value, or undef.
sub sample
{
	my ($text, $name) = @_;
	return $text =~ /^\Q$name\E (\S+)$/m ? $1 : undef;
}

sub becomes_true
{
	my ($what) = @_;
	for (1 .. 1200)
	{
		return 1 if $what->();
		sleep 0.05;
	}
	return 0;
}

sub set
{
	my ($name, $value) = @_;
	$node->safe_psql('postgres', "ALTER SYSTEM SET $name = '$value'");
	$node->reload;
}

sub lines { return map { decode_json($_) } split /\n/, slurp_file($file); }

$node->safe_psql('postgres', q{
CREATE EXTENSION orion;
CREATE TABLE items (id int PRIMARY KEY, name text);
CREATE TABLE "odd ""name\ é" (id int);
GRANT ALL ON items, "odd ""name\ é" TO orion_anon;
CREATE FUNCTION add(a int, b int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT a + b';
CREATE FUNCTION slow(seconds float8) RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT 'slept' FROM pg_sleep(seconds) $$;
GRANT EXECUTE ON FUNCTION add(int, int), slow(float8) TO orion_anon;
SELECT orion_subscribe('nobody', 'no.such', 'add(int, int)'::regprocedure) WHERE false;
});
ok(becomes_true(sub { my $answer = eval { request('GET', '/ready') }; $answer && $answer->{status} == 200 }), 'the gateway is ready');

# --- /metrics ----------------------------------------------------------------------------------

request('GET', '/rest/v1/items') for 1 .. 3;
request('POST', '/rest/v1/items', { 'Content-Type' => 'application/json' }, '{"id":1,"name":"one"}');
request('POST', '/rest/v1/items', { 'Content-Type' => 'application/json' }, '{"id":1,"name":"two"}');
request('GET', '/rest/v1/rpc/add?a=1&b=2');
request('GET', '/rest/v1/odd%20%22name%5C%20%C3%A9');
request('GET', "/rest/v1/made_up_$_") for 1 .. 5;
request('POST', '/api/auth/login', { 'Content-Type' => 'application/json' }, '{"email":"a@example.com","password":"wrong wrong wrong"}');
my $answer;
becomes_true(sub { $answer = metrics(); (sample($answer->{body}, 'orion_executors_connected') // 0) == 2 && (sample($answer->{body}, 'orion_server_answers') // 0) == 1 });
is($answer->{status}, 200, '/metrics');
is($answer->{headers}{'content-type'}, 'text/plain; version=0.0.4; charset=utf-8', 'as Prometheus has it');
my $text = $answer->{body};
is(sample($text, 'orion_http_requests_total{route="/rest/v1/items",method="GET",status="200"}'), 3, 'requests by route and status');
is(sample($text, 'orion_http_requests_total{route="/rest/v1/items",method="POST",status="201"}'), 1, '... written');
is(sample($text, 'orion_http_requests_total{route="/rest/v1/items",method="POST",status="409"}'), 1, '... refused');
is(sample($text, 'orion_http_requests_total{route="/rest/v1/rpc/add",method="GET",status="200"}'), 1, '... functions');
is(sample($text, 'orion_http_requests_total{route="/api/auth/login",method="POST",status="401"}'), 1, '... routes');
is(sample($text, 'orion_http_requests_total{route="other",method="GET",status="404"}'), 5, 'what does not exist is one route, whatever clients call it');
unlike($text, qr/made_up/, '... and its names are nowhere');
is(sample($text, 'orion_http_requests_total{route="/rest/v1/odd \"name\\\\ é",method="GET",status="200"}'), 1, 'names are escaped');
is(sample($text, 'orion_http_request_duration_seconds_count{route="/rest/v1/items"}'), 5, 'a histogram by route');
is(sample($text, 'orion_http_request_duration_seconds_bucket{route="/rest/v1/items",le="+Inf"}'), 5, '... to its end');
cmp_ok(sample($text, 'orion_http_request_duration_seconds_sum{route="/rest/v1/items"}'), '>', 0, '... with a sum');
is(sample($text, 'orion_executors_connected'), 2, 'executors');
is(sample($text, 'orion_worker_state{kind="executor",name="0",state="running"}'), 1, 'workers, from the server');
is(sample($text, 'orion_server_answers'), 1, '... which has answered');
my %typed = map { $_ => 1 } $text =~ /^# TYPE (\S+) /mg;
my @untyped = grep { my $n = $_; !$typed{$n} && !$typed{ $n =~ s/_(bucket|sum|count)$//r } } $text =~ /^([a-z_]+)[ {]/mg;
is("@untyped", '', 'every sample has a type');
is(scalar(grep { !/^(#.*|[a-z_]+(\{.*\})? [-+0-9.eE]+)$/ } split /\n/, $text), 0, 'and every line its form');

my $busy = OrionHttp::connection($port);
syswrite($busy, "POST /rest/v1/rpc/slow HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{\"seconds\":600}");
ok(becomes_true(sub { (sample(metrics()->{body}, 'orion_executors_busy') // 0) == 1 }), 'a busy executor shows');
close $busy;
is(request('POST', '/metrics')->{status}, 405, 'they are only read');
is(request('HEAD', '/metrics')->{status}, 200, 'HEAD');
for my $name ('X-Forwarded-For', 'Forwarded', 'Via')
{
	is(metrics({ $name => 'for=203.0.113.1' })->{status}, 404, "not for others that a proxy speaks for: $name");
}
set('orion.http_metrics', 'on');
ok(becomes_true(sub { metrics({ Via => '1.1 proxy' })->{status} == 200 }), 'unless they are for everybody');
set('orion.http_metrics', 'off');
ok(becomes_true(sub { metrics()->{status} == 404 }), 'or for nobody');
set('orion.http_metrics', 'local');
ok(becomes_true(sub { metrics()->{status} == 200 }), 'and back');

# a worker that does not answer: the gateway's own part comes alone
my $worker = $node->safe_psql('postgres', "SELECT pid FROM orion.workers WHERE kind = 'gateway'");
kill STOP => $worker;
my $from = time;
$answer = metrics();
is(sample($answer->{body}, 'orion_server_answers'), 0, 'a server that does not answer costs its part only');
cmp_ok(time - $from, '<', 20, '... after a second');
my @gone = map { OrionHttp::connection($port) } 1 .. 20;
syswrite($_, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n") for @gone;
close $_ for @gone;
is(request('GET', '/health')->{status}, 200, 'clients that ask and leave do no harm');
kill CONT => $worker;
ok(becomes_true(sub { (sample(metrics()->{body}, 'orion_server_answers') // 0) == 1 }), 'it answers again');

# --- the access log ------------------------------------------------------------------------------

request('GET', '/rest/v1/items?id=eq.1&token=planted-query', { 'X-Request-Id' => 'find-me', Authorization => 'Bearer planted-token' });
request('PATCH', '/rest/v1/items?id=eq.1', { 'X-Request-Id' => 'written', 'Content-Type' => 'application/json' }, '{"name":"planted-body"}');
request('GET', '/rest/v1/a%22b%0Ac/%C3%A9"quoted', { 'X-Request-Id' => 'odd' });
request('GET', '/rest/v1/items?' . 'x' x 17000, { 'X-Request-Id' => 'long' });
OrionHttp::raw($port, "BREW / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-Id: brew\r\n\r\n");
ok(becomes_true(sub { slurp_file($file) =~ /"brew"/ }), 'lines are written');
my @lines = eval { lines() };
is($@, '', 'each is JSON');
my %line = map { $_->{requestId} => $_ } @lines;
is($line{written}{method} . $line{written}{path} . $line{written}{status}, 'PATCH/rest/v1/items204', 'what was asked and answered');
is($line{written}{role}, 'orion_anon', 'under which role');
is($line{written}{peer}, '127.0.0.1', 'by whom');
is($line{written}{bodyBytes}, 23, 'with how much');
like($line{written}{time}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/, 'when');
cmp_ok($line{written}{durationMs}, '>', 0, 'for how long');
is($line{'find-me'}{status}, 401, 'a refused token');
is($line{brew}{status}, 404, 'a method that is not known, of a path that is not');
is($line{odd}{path}, '/rest/v1/a%22b%0Ac/%C3%A9"quoted', 'odd bytes stay one line');
is($line{long}{path} . $line{long}{status}, '414', 'a path that was not kept is none of another request');
unlike(slurp_file($file), qr/planted/, 'queries, headers and bodies are not in it');
is((stat $file)[2] & 0777, 0600, 'it is for the server\'s user');

rename $file, "$file.1";
$node->reload;
ok(becomes_true(sub { request('GET', '/health'); -e $file }), 'a reload opens the file anew');
set('orion.http_access_log', 'no/such/directory');
ok($node->poll_query_until('postgres', "SELECT state = 'degraded' AND last_error LIKE 'could not open access log %' FROM orion.workers WHERE kind = 'gateway'"),
	'one that cannot be opened is reported');
my $size = -s $file;
request('GET', '/health');
ok(becomes_true(sub { -s $file > $size }), '... and the old one stays');
set('orion.http_access_log', 'stderr');
ok(becomes_true(sub { request('GET', '/health', { 'X-Request-Id' => 'in-server-log' }); slurp_file($node->logfile) =~ /"requestId":"in-server-log"/ }), 'the server log');
set('orion.http_access_log', '');
ok($node->poll_query_until('postgres', "SELECT state = 'running' FROM orion.workers WHERE kind = 'gateway'"), 'none');
SKIP:
{
	skip 'no /dev/full', 2 unless -e '/dev/full';
	set('orion.http_access_log', '/dev/full');
	ok(becomes_true(sub { (sample(metrics()->{body}, 'orion_access_log_lines_lost_total') // 0) > 0 }), 'a full disk costs lines');
	is(request('GET', '/rest/v1/items')->{status}, 200, '... and nothing else');
}
$node->stop('fast');
done_testing();
