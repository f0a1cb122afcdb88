# Where the gateway listens: TLS, a Unix socket, proxies; and changes of settings that cut nobody off.
use strict;
use warnings;
use IO::Select;
use IO::Socket::INET;
use IO::Socket::UNIX;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $port = PostgreSQL::Test::Cluster::get_free_port();
my $tls_port = PostgreSQL::Test::Cluster::get_free_port();
my $dir = PostgreSQL::Test::Utils::tempdir_short();
my $node = PostgreSQL::Test::Cluster->new('addresses');

# A certificate authority's worth of one: what it signs is itself.
sub certificate
{
	my ($name) = @_;
	system_or_bail('openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2',
		'-subj', "/CN=$name", '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1', '-keyout', "$dir/$name.key", '-out', "$dir/$name.crt");
	chmod 0600, "$dir/$name.key";
}

sub curl
{
	my ($stdout, $stderr) = ('', '');
	IPC::Run::run([ 'curl', '-sS', '-i', '-m', '30', '--noproxy', '*', @_ ], '>', \$stdout, '2>', \$stderr);
	return $stdout . $stderr;
}

sub becomes_true
{
	my ($what, $seconds) = @_;
	my $end = time + ($seconds // 60);
	while (time < $end)
	{
		return 1 if $what->();
		select undef, undef, undef, 0.05;
	}
	return 0;
}

sub dial { return IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $_[0] // $port, Timeout => 20); }

sub hear
{
	my ($socket, $until, $seconds) = @_;
	my $heard = '';
	my $end = time + ($seconds // 30);

	while (time < $end && !(defined $until && $heard =~ $until))
	{
		next unless IO::Select->new($socket)->can_read(0.1);
		last unless sysread($socket, $heard, 65536, length $heard);
	}
	return $heard;
}

sub ask { my ($socket, $path, $headers) = @_; syswrite($socket, "GET $path HTTP/1.1\r\nHost: x\r\n" . ($headers // '') . "\r\n"); }

sub set
{
	my %settings = @_;
	$node->safe_psql('postgres', join "\n", map { "ALTER SYSTEM SET $_ = '$settings{$_}';" } sort keys %settings);
	$node->reload;
}

sub gateway_is
{
	my ($condition, $name) = @_;
	ok($node->poll_query_until('postgres', "SELECT $condition FROM orion.workers WHERE kind = 'gateway'"), $name)
		or diag($node->safe_psql('postgres', "SELECT * FROM orion.workers WHERE kind = 'gateway'"));
}

certificate($_) for qw(first second);
$node->init;
$node->append_conf('postgresql.conf', qq{
shared_preload_libraries = 'orion'
max_worker_processes = 16
orion.http_port = $port
orion.http_listen_addresses = '127.0.0.1'
orion.http_tls_port = $tls_port
orion.http_tls_cert_file = '$dir/first.crt'
orion.http_tls_key_file = '$dir/first.key'
orion.http_unix_socket = '$dir/http.sock'
orion.http_unix_socket_permissions = 0700
orion.http_max_header_size = '8kB'
});
$node->start;
$node->safe_psql('postgres', q{
CREATE EXTENSION orion;
CREATE FUNCTION peer() RETURNS text LANGUAGE sql STABLE SECURITY DEFINER AS
	$$ SELECT coalesce(host(address), 'nowhere') FROM orion_private.request_origin() $$;
CREATE FUNCTION slow(seconds float8) RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT 'slept' FROM pg_sleep(seconds) $$;
CREATE FUNCTION echo(v text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT v $$;
CREATE FUNCTION held() RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT 'let go' FROM pg_advisory_xact_lock_shared(7) $$;
GRANT EXECUTE ON FUNCTION peer(), slow(float8), echo(text), held() TO orion_anon;
});
my $http = "http://127.0.0.1:$port";
my $https = "https://localhost:$tls_port";
ok(becomes_true(sub { curl("$http/ready") =~ m{^HTTP/1.1 200} }), 'the gateway is ready');

# --- TLS ---------------------------------------------------------------------------------------

my @first = ('--cacert', "$dir/first.crt");
like(curl(@first, "$https/ready"), qr{^HTTP/1.1 200}, 'TLS, with a certificate that the client trusts');
like(curl("$https/ready"), qr/certificate/, 'a client that does not trust it is told so');
like(curl(@first, '-v', "$https/ready"), qr/TLSv1\.3/, 'TLS 1.3');
like(curl(@first, '--tls-max', '1.2', "$https/ready"), qr{HTTP/1.1 200}, 'and 1.2');
unlike(curl(@first, '--tls-max', '1.1', '--ciphers', 'DEFAULT@SECLEVEL=0', "$https/ready"), qr{HTTP/1.1}, 'but nothing older');
my $body = 'x' x 50_000;
like(curl(@first, '-d', $body, '-H', 'Content-Type: text/plain', "$https/rest/v1/rpc/echo"), qr{^HTTP/1.1 (404|415)}, 'a body over TLS');
open my $file, '>', "$dir/body" or die;
print $file qq({"v":"$body"});
close $file;
like(curl(@first, '-H', 'Content-Type: application/json', '--data-binary', "\@$dir/body", "$https/rest/v1/rpc/echo"), qr{"x{50000}"}, 'and a long answer');
my $socket = dial($tls_port);
ask($socket, '/health');
unlike(hear($socket, undef, 3), qr/HTTP/, 'plain HTTP on the TLS port gets no answer');
like(curl("http://127.0.0.1:$tls_port/health"), qr/curl: /, '... and is hung up on');
$socket = dial($tls_port);
syswrite($socket, pack('H*', '16030100ff') . join '', map { chr rand 256 } 1 .. 255);
ok(defined hear($socket, undef, 3), 'neither does noise');
my $post = "POST /rest/v1/rpc/echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
my $health = "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
foreach my $case ([ "9\r\n{\"v\":\"a\"}\r\n0\r\n\r\n", '200 200 200' ], [ "9\n{\"v\":\"a\"}\r\n0\r\n\r\n", '200 400' ])
{
	open $file, '>:raw', "$dir/bytes" or die;
	print $file "${post}9\r\n{\"v\":\"b\"}\r\n0\r\n\r\n$post$case->[0]$health";
	close $file;
	my $said = qx(openssl s_client -quiet -connect 127.0.0.1:$tls_port < $dir/bytes 2> $dir/openssl.log);
	is(join(' ', $said =~ m{HTTP/1\.1 (\d+)}g), $case->[1], 'chunked bodies over TLS');
}
like(curl(@first, '-H', 'X-Long: ' . 'y' x 9000, "$https/health"), qr{^HTTP/1.1 431}, 'a refusal of the HTTP library is readable over TLS');
like(curl(@first, '-X', 'BAD METHOD', "$https/health"), qr{^HTTP/1.1 (400|501)|curl: }, '... as is that of a bad request line');
like(curl(@first, "$https/ready"), qr{^HTTP/1.1 200}, 'the server goes on');

set('orion.http_tls_min_version' => 'TLSv1.3');
ok(becomes_true(sub { curl(@first, '--tls-max', '1.2', "$https/ready") !~ /HTTP/ }), 'TLS 1.2 can be switched off');
like(curl(@first, "$https/ready"), qr{^HTTP/1.1 200}, '... and 1.3 stays');

# a renewed certificate: same names, new contents
copy_file("$dir/second.$_", "$dir/first.$_") for qw(key crt);
sub copy_file { my ($from, $to) = @_; my $data = slurp_file($from); open my $f, '>', $to or die; print $f $data; close $f; }
$node->reload;
ok(becomes_true(sub { curl('--cacert', "$dir/second.crt", "$https/ready") =~ m{^HTTP/1.1 200} }), 'a renewed certificate is used after a reload');

# one that does not fit its key: the old one stays
my $good = slurp_file("$dir/first.key");
certificate('third');
copy_file("$dir/third.key", "$dir/first.key");
$node->reload;
gateway_is("state = 'degraded' AND last_error LIKE 'could not use certificate %'", 'a key that does not fit is reported');
like(curl('--cacert', "$dir/second.crt", "$https/ready"), qr{^HTTP/1.1 200}, 'and the old one stays in use');
open $file, '>', "$dir/first.key" or die;
print $file $good;
close $file;
gateway_is("state = 'running' AND last_error IS NULL", 'until it fits');
chmod 0644, "$dir/first.key";
$node->reload;
set('orion.http_tls_min_version' => 'TLSv1.2');
gateway_is("state = 'degraded' AND last_error LIKE '%is accessible to everybody'", 'a key that everybody may read is refused');
chmod 0600, "$dir/first.key";
gateway_is("state = 'running' AND last_error IS NULL", 'and taken when they may not');
is($node->safe_psql('postgres', "SELECT restarts FROM orion.workers WHERE kind = 'gateway'"), '0', 'all that without a restart');

# --- the Unix socket ---------------------------------------------------------------------------

like(curl('--unix-socket', "$dir/http.sock", 'http://x/ready'), qr{^HTTP/1.1 200}, 'a Unix socket');
is((stat "$dir/http.sock")[2] & 0777, 0700, 'with the permissions that were asked for');
like(curl('--unix-socket', "$dir/http.sock", 'http://x/rest/v1/rpc/peer'), qr/"nowhere"/, 'its clients have no address');

# --- proxies -----------------------------------------------------------------------------------

sub peer { my ($forwarded, @how) = @_; return curl((defined $forwarded ? ('-H', "X-Forwarded-For: $forwarded") : ()), @how, "$http/rest/v1/rpc/peer") =~ /"([^"]*)"\s*$/ ? $1 : 'no answer'; }
is(peer('203.0.113.7'), '127.0.0.1', 'nobody is believed at first');
set('orion.http_trusted_proxies' => '127.0.0.1, 10.0.0.0/8');
ok(becomes_true(sub { peer('203.0.113.7') eq '203.0.113.7' }), 'a trusted proxy is');
is(peer('203.0.113.7, 198.51.100.2, 10.1.2.3'), '198.51.100.2', 'the last address that is no proxy counts: what stands before it may be made up');
is(peer('10.0.0.1, 10.1.2.3'), '10.0.0.1', 'the first, when all are proxies');
is(peer('[2001:db8::1]:443'), '2001:db8::1', 'brackets and ports are left out');
is(peer("203.0.113.7'; DROP TABLE x; --"), '127.0.0.1', 'nonsense is not believed');
is(peer('unknown'), '127.0.0.1', '... nor what is no address');
is(peer(join ', ', ('203.0.113.7') x 200), '127.0.0.1', '... nor a very long list');
is(peer(undef), '127.0.0.1', 'and without the field it is the proxy');
is(peer('203.0.113.7', '--unix-socket', "$dir/http.sock"), 'nowhere', 'the Unix socket is another matter');
set('orion.http_trusted_proxies' => 'unix');
ok(becomes_true(sub { peer('203.0.113.7', '--unix-socket', "$dir/http.sock") eq '203.0.113.7' }), '... and can be trusted');
is(peer('203.0.113.7'), '127.0.0.1', '... alone');
set('orion.http_trusted_proxies' => '10.0.0.0/99');
gateway_is("state = 'degraded' AND last_error LIKE 'orion.http_trusted_proxies: \"10.0.0.0/99\"%'", 'a list that cannot be read is reported');
set('orion.http_trusted_proxies' => '');
gateway_is("state = 'running'", 'and put right');

# --- changes of settings -----------------------------------------------------------------------

my $busy = dial();
my $idle = dial();
ask($idle, '/health');
like(hear($idle, qr/ok/), qr/ok/, 'a connection that is kept');
my $lock = $node->background_psql('postgres');
$lock->query_safe('SELECT pg_advisory_lock(7)');
syswrite($busy, "POST /rest/v1/rpc/held HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}");
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'orion executor' AND wait_event = 'advisory'"), 'a request that runs');
set('orion.http_idle_timeout' => '30s', 'orion.http_max_connections' => '500', 'orion.http_max_body_size' => '20kB');
ok(becomes_true(sub { curl('-d', 'x' x 30_000, "$http/rest/v1/rpc/echo") =~ m{^HTTP/1.1 413} }), 'settings are changed');
$lock->query_safe('SELECT pg_advisory_unlock(7)');
$lock->quit;
my $answer = hear($busy, qr/let go/);
like($answer, qr/let go/, 'the request is answered nevertheless');
like($answer, qr/^Connection: close\r$/mi, 'and its connection closed, since the limits of connections are others now');
ask($idle, '/health');
like(hear($idle, qr/ok/), qr/"ok".*/s, 'the kept connection serves once more');
set('orion.http_listen_addresses' => '127.0.0.1, ::1');
ok(becomes_true(sub { curl("http://[::1]:$port/ready") =~ m{^HTTP/1.1 200} }) || !IO::Socket::INET->can('new'), 'an address is added') if -e '/proc/net/if_inet6';

# --- leaving -------------------------------------------------------------------------------------

$busy = dial();
$idle = dial();
ok(becomes_true(sub {
			syswrite($busy, "POST /rest/v1/rpc/slow HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{\"seconds\":1}");
			my $until = time + 1;
			while (time < $until) { return 1 if $node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") eq '1'; }
			hear($busy, qr/slept/);	# it was over before anybody looked
			return 0; }), 'a request that runs');
my $from = time;
set('orion.http_port' => '0', 'orion.http_tls_port' => '0', 'orion.http_unix_socket' => '');
like(hear($busy, qr/slept/), qr/slept/, 'HTTP is switched off: the request is answered first');
cmp_ok(time - $from, '<', 20, '... in time');
is(hear($idle), '', 'others are let go');
ok(becomes_true(sub { !dial() }), 'and nobody listens any more');
ok(!-e "$dir/http.sock", 'the socket file is gone');
set('orion.http_port' => $port, 'orion.http_unix_socket' => "$dir/http.sock");
ok(becomes_true(sub { curl("$http/ready") =~ m{^HTTP/1.1 200} }), 'switched on again');
kill 9, $node->safe_psql('postgres', "SELECT program_pid FROM orion.workers WHERE kind = 'gateway'");
ok(becomes_true(sub { curl('--unix-socket', "$dir/http.sock", 'http://x/ready') =~ m{^HTTP/1.1 200} }), 'the socket file of a killed gateway is in nobody\'s way');

$busy = dial();
syswrite($busy, "POST /rest/v1/rpc/slow HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n{\"seconds\":60}");
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"), 'a request that runs');
$from = time;
$node->stop('fast');
cmp_ok(time - $from, '<', 20, 'a fast shutdown is fast');
like(hear($busy), qr{^HTTP/1.1 503}, '... and tells who waits');
done_testing();
