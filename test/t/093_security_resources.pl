# Answers must not take all memory: neither one that is large nor many that nobody takes.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use OrionHttp;

my ($node, $port) = OrionHttp::server('resources', qq{
orion.executor_count = 1
});
$node->safe_psql('postgres', q{
CREATE EXTENSION orion;
CREATE FUNCTION large(mb int) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT repeat('x', mb * 1048576) $$;
CREATE TABLE notes (id int PRIMARY KEY, body text);
INSERT INTO notes VALUES (1, repeat('x', 1000000));
GRANT SELECT, INSERT, UPDATE ON notes TO orion_anon;
});
ok(OrionHttp::await($port, '/ready', 200), 'the gateway is ready');

# Columns may be named many times, so no row is small.
is(OrionHttp::request($port, 'GET', '/rest/v1/notes?select=' . join(',', map { "c$_:body" } 1 .. 300))->{status}, 500,
	'an answer of more than orion.rest_max_answer_size');
$node->append_conf('postgresql.conf', 'orion.rest_max_answer_size = 900kB');
$node->reload;
my %json = ('Content-Type' => 'application/json', Prefer => 'return=representation');
$node->poll_query_until('postgres', q{SELECT current_setting('orion.rest_max_answer_size') = '900kB'});
my $large = OrionHttp::request($port, 'PATCH', '/rest/v1/notes?id=eq.1', \%json, '{"id":2}');
is($large->{status}, 500, 'a write whose answer is too large');
like($large->{body}, qr/"54000"/, '... says so');
is($node->safe_psql('postgres', 'SELECT id FROM notes'), 1, '... and writes nothing');
$node->append_conf('postgresql.conf', 'orion.rest_max_answer_size = 256MB');
$node->reload;
OrionHttp::await($port, '/rest/v1/rpc/large?mb=2', 200) for 1 .. 8;	# every executor has seen it

# Clients that ask and do not read.
my @clients = map {
	my $client = OrionHttp::connection($port);
	syswrite($client, "GET /rest/v1/rpc/large?mb=90 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
	$client;
} 1 .. 4;
my @statuses;
for my $client (@clients)
{
	my $head = OrionHttp::receive($client, sub { $_[0] =~ /\r\n\r\n/ });
	push @statuses, $head =~ m{^HTTP/1\.1 (\d+)};
}
is("@statuses", '200 200 503 503', 'large answers that nobody takes are held up to a limit');
is(OrionHttp::request($port, 'GET', '/rest/v1/rpc/large?mb=0')->{status}, 200, 'small ones go on');
close $_ for @clients;
ok(OrionHttp::await($port, '/rest/v1/rpc/large?mb=90', 200), 'and large ones do when the clients have gone');

# Connections that are kept and idle cost next to nothing, and lose nothing of what they have sent.
sub resident { return OrionHttp::request($port, 'GET', '/metrics')->{body} =~ /^orion_gateway_resident_memory_bytes (\d+)$/m ? $1 / 1048576 : die 'no figure'; }
sub answers
{
	my ($client, $n) = @_;
	return OrionHttp::receive($client, sub { (() = $_[0] =~ /\{"status":"ok"[^}]*\}/g) >= $n });
}
my $before = resident();
my $get = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
my $long = "GET /health HTTP/1.1\r\nHost: x\r\n" . join('', map { "X-$_: " . ('y' x 1000) . "\r\n" } 1 .. 10) . "X-Last: ";
my %odd = (
	'half a request' => [ substr($get, 0, 20), substr($get, 20), 1 ],
	'a request and a half' => [ $get . substr($get, 0, 20), substr($get, 20), 2 ],
	'most of long headers' => [ $long, "z\r\n\r\n", 1 ],
	'a request, and most of long headers' => [ $get . $long, "z\r\n\r\n", 2 ],
	'part of a body' => [ "GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345", '67890', 1 ]);
my %clients = map { $_ => OrionHttp::connection($port) } sort keys %odd;
syswrite($clients{$_}, $odd{$_}[0]) for sort keys %odd;
my @idle = map { OrionHttp::connection($port) } 1 .. 500;
# what a request leaves in the library's memory: here much, at both of its ends
my $cookies = 'Cookie: ' . join('; ', map { "c$_=1" } 1 .. 150) . "\r\n";
for my $client (@idle)
{
	syswrite($client, "$long$cookies\r\n" =~ s/X-Last: //r);
	answers($client, 1);
}
my $resident;
for (1 .. 600)
{
	last if ($resident = resident()) < $before + 6;
	select(undef, undef, undef, 0.1);
}
cmp_ok($resident, '<', $before + 6, '500 idle connections: megabytes of the gateway');
for my $what (sort keys %odd)
{
	syswrite($clients{$what}, $odd{$what}[1]);
	like(eval { answers($clients{$what}, $odd{$what}[2]) } // $@, qr{^HTTP/1\.1 200 .*\}\z}s, "... in the middle of it, $what");
}
my $served = 0;
for my $client (@idle)
{
	syswrite($client, $get);
	$served += answers($client, 1) =~ m{^HTTP/1\.1 200 };
}
is($served, 500, '... and serve on');
close $_ for @idle, values %clients;

$node->stop;
done_testing();
