# The gateway against masses and malice: 100,000 pipelined requests, half-closed
# and slow clients, lengths that two readers could read differently.
use strict;
use warnings;
use IO::Select;
use IO::Socket::INET;
use OrionStack;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $stack = OrionStack->new('robust', conf => "orion.http_idle_timeout = '120s'\n");
my $port = $stack->{http_port};
$stack->sql(q{CREATE FUNCTION echo(n int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT n'});
local $SIG{PIPE} = 'IGNORE';

sub dial { my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Timeout => 20); binmode $socket if $socket; return $socket; }
sub gateway { return $stack->sql("SELECT program_pid FROM orion.workers WHERE kind = 'gateway'"); }
my $pid = gateway();

# --- 100,000 pipelined requests on one connection, every tenth of them for an executor

my $n = 100_000;
my $socket = dial();
my $writer = OrionStack::spawn(sub {
	my $out = '';
	foreach my $i (1 .. $n)
	{
		$out .= $i % 10 ? "GET /health HTTP/1.1\r\nHost: x\r\n\r\n" : "GET /rest/v1/rpc/echo?n=$i HTTP/1.1\r\nHost: x\r\n\r\n";
		next if length $out < 65536 && $i < $n;
		while (length $out) { my $sent = syswrite($socket, $out) // last; substr($out, 0, $sent, ''); }
	}
	POSIX::_exit(0);
});
my ($heard, $got, $bad) = ('', 0, 0);
while ($got < $n && IO::Select->new($socket)->can_read(30))
{
	sysread($socket, $heard, 262144, length $heard) or last;
	my $at = 0;
	while ((my $end = index($heard, "\r\n\r\n", $at)) > 0)
	{
		my $head = substr($heard, $at, $end - $at);
		my ($length) = $head =~ /^Content-Length: (\d+)/m;
		last if length($heard) < $end + 4 + $length;
		$got++;
		$bad++ if $head !~ m{^HTTP/1\.1 200 } || ($got % 10 == 0 && substr($heard, $end + 4, $length) ne "$got");
		$at = $end + 4 + $length;
	}
	substr($heard, 0, $at, '');
}
waitpid($writer, 0);
is($got, $n, 'pipelined requests are all answered') or diag(substr($heard, 0, 300));
is($bad, 0, 'each with what it asked for, in order');
close $socket;

# --- clients that close their half

my $from = time;
my @half = map { dial() } 1 .. 200;
foreach my $i (0 .. $#half)
{
	syswrite($half[$i], "GET /rest/v1/rpc/echo?n=$i HT" . ($i % 4 == 3 ? '' : "TP/1.1\r\nHost: x\r\n\r\n"));	# one in four is never complete
	shutdown($half[$i], 1);
}
my @wrong;
foreach my $i (0 .. $#half)
{
	my $text = '';
	while (IO::Select->new($half[$i])->can_read(70)) { sysread($half[$i], $text, 65536, length $text) or last; }
	push @wrong, "$i: kept" if time - $from > 60;
	push @wrong, "$i: $text" if $i % 4 == 3 ? $text =~ m{^HTTP/1\.1 2} : $text !~ /\r\n\r\n$i\z/;
}
is("@wrong[0 .. ($#wrong < 3 ? $#wrong : 3)]", '', 'half-closed clients get the answers to what they have asked, and no others, and are let go');
@half = ();

# --- lengths of two meanings: the request behind is never taken for one

my $behind = "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
my $post = "POST /rest/v1/rpc/echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
my $chunked = "Transfer-Encoding: chunked\r\n";
my @forms = (
	[ 'a length and chunks', "Content-Length: 6\r\n$chunked\r\n0\r\n\r\n" ], [ 'chunks and a length', "${chunked}Content-Length: 6\r\n\r\n0\r\n\r\n" ],
	(map { [ "Transfer-Encoding:$_", "Content-Length: 5\r\nTransfer-Encoding:$_\r\n\r\n0\r\n\r\n" ] } "\x0bchunked", ' xchunked', ' chunked, identity', ' identity', ' chunked, chunked', ' "chunked"', "\tchunked\x00", ' gzip'),
	[ 'a space before the colon', "Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" ], [ 'a folded line', "Content-Length: 5\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" ],
	(map { [ "a length of $_", "Content-Length: $_\r\n\r\n{\"n\":1}" ] } '+7', '7,7', '7, 8', '0x7', '7 7', '-7', '7.0', '18446744073709551623', ''),
	[ 'two lengths', "Content-Length: 7\r\nContent-Length: 8\r\n\r\n{\"n\":1}" ],
	(map { [ 'a chunk of ' . substr($_, 0, 10), "$chunked\r\n$_" . "{\"n\":1}\r\n0\r\n\r\n" ] } "-7\r\n", "+7\r\n", "0x7\r\n", " 7\r\n", "7\r", "g\r\n", "\r\n", "FFFFFFFFFFFFFFFF7\r\n", "7\0\r\n"),
	[ 'a chunk that is longer', "$chunked\r\n5\r\n{\"n\":1}\r\n0\r\n\r\n" ]);
foreach my $form (@forms)
{
	my ($what, $rest) = @$form;
	my $text = $stack->talk("$post$rest$behind", 2) // '';
	my @statuses = $text =~ m{HTTP/1\.1 (\d+) }g;
	$what =~ s/[^ -~]/sprintf('\\x%02x', ord $&)/ge;
	ok(@statuses <= 1 && !grep({ $_ < 400 || $_ >= 502 } @statuses) && $text !~ /"status":"ok"/, "$what: " . (join(' ', @statuses) || 'hung up')) or diag($text);
}

# --- chunked bodies: to the letter, however they arrive and whatever was before them on the connection

my $head = "$post$chunked\r\n";
my $body = "7\r\n{\"n\":7}\r\n";
my $good = "${body}000\r\nX-Some: trailer\r\n\r\n";
@forms = (
	(map { [ $_, "7$_\{\"n\":7}\r\n0\r\n\r\n" ] } "\n", " \r\n", "\t\r\n", "\r\r\n", ";a\n", ";a\nb\r\n", ";a\rb\r\n", ";a\0\r\n", ";a\x1b\r\n", ';' . 'a' x 5000 . "\r\n"),
	(map { [ "0 is $_", "$body$_\r\n" ] } "0\n", "0\r", ' 0', '+0', '-0', '0x0', '0 '),
	(map { [ "the end of data is $_", "7\r\n{\"n\":7}${_}0\r\n\r\n" ] } '', "\n", "\r", "x\r\n", "\n\r\n"),
	(map { [ "trailer $_", "${body}0\r\n$_\r\n" ] } "Content-Length: 5\r\n", "transfer-ENCODING: chunked\r\n", "Host: y\r\n", "X: a\nY: b\r\n", "X: a\r\n b\r\n", "X : a\r\n", "none\r\n", "X: a\rb\r\n", "X: \0\r\n"),
	[ 'the last line', "${body}0\r\n\n" ], [ 'no last line', "${body}\r\n" ], [ 'a size of 16 digits', "0000000000000007\r\n{\"n\":7}\r\n0\r\n\r\n" ]);

# One connection: what is sent, in pieces of some bytes; the classes of the answers' statuses.
sub classes
{
	my ($bytes, $piece) = @_;
	my $socket = dial();
	setsockopt($socket, 6, 1, 1);	# TCP_NODELAY
	my $text = '';
	while (length $bytes)
	{
		syswrite($socket, substr($bytes, 0, $piece, '')) or last;
	}
	while (IO::Select->new($socket)->can_read(20)) { sysread($socket, $text, 65536, length $text) or last; }
	return join '', $text =~ m{HTTP/1\.1 (\d)}g;
}
foreach my $form (@forms)
{
	my ($what, $bytes) = @$form;
	my @seen = map { my $piece = $_; map { classes("$_$head$bytes$behind", $piece) } '', "\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n", "$head$good" } 1, 5, 10000;
	$what = substr($what, 0, 40) =~ s/[^ -~]/sprintf('\\x%02x', ord $&)/ger;
	is(join(' ', @seen), join(' ', ('4', '24', '24') x 3), "chunked, $what: 400, and nothing behind it");
}
like(OrionStack::parse($stack->talk("$head$good$behind", 20))->{body}, qr/^7HTTP/, 'chunks and trailers that are right');
is(OrionStack::parse($stack->talk("${head}7\n{\"n\":7}\r\n0\r\n\r\n", 20))->{json}{code}, 'ORH400', 'the error is one like others');

# what is right goes through, of any size and cut anywhere
sub in_chunks
{
	my ($text) = @_;
	my $out = '';
	while (length $text)
	{
		my $part = substr($text, 0, 1 + int rand(rand() < 0.3 ? 4 : 30_000), '');
		$out .= ('0' x int rand 4) . sprintf(rand() < 0.5 ? '%x' : '%X', length $part) . "\r\n$part\r\n";
	}
	return "${out}0\r\n" . (rand() < 0.3 ? "X: y\r\n" : '') . "\r\n";
}
my ($right, $count) = (0, 300);
srand(7);
$socket = dial();
foreach my $i (1 .. $count)
{
	my $json = '{"n":' . $i . ' ' x int(rand(rand() < 0.5 ? 30 : 60_000)) . '}';
	my $bytes = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n" . "${post}Content-Length: " . length($json) . "\r\n\r\n$json" . $head . in_chunks($json);
	my $piece = rand() < 0.2 ? 1 + int rand 3000 : length $bytes;
	while (length $bytes) { my $n = syswrite($socket, substr($bytes, 0, $piece)) or last; substr($bytes, 0, $n, ''); }
	my $text = '';
	while (3 > (() = $text =~ /\r\n\r\n(?:\{"status":"ok"[^}]*\}|$i(?=HTTP|\z))/g) && IO::Select->new($socket)->can_read(20)) { sysread($socket, $text, 65536, length $text) or last; }
	$right++ if 3 == (() = $text =~ m{HTTP/1\.1 200}g);
}
is($right, $count, 'requests of all kinds in turn on one connection');
close $socket;

# --- slow clients: heads and bodies byte by byte, while others are served

$stack->sql("ALTER SYSTEM SET orion.http_idle_timeout = '2s'");
$stack->sql('SELECT pg_reload_conf()');
ok($stack->until_true(sub { my $silent = dial(); IO::Select->new($silent)->can_read(10) }), 'a silent connection is closed');
my @slow = map { my $i = $_; my $s = dial(); syswrite($s, $i % 2 ? "GET /health HTTP/1.1\r\nX: " : "${post}Content-Length: 1000\r\n\r\n{") if $s; $s } 1 .. 200;
my ($served, $open) = (0, 200);
my $until = time + 90;
while ($open && time < $until)
{
	$served++ if $stack->http('POST', '/rest/v1/rpc/echo', json => { n => 7 })->{body} eq '7';
	$open = 0;
	foreach my $s (grep { defined } @slow)
	{
		if (IO::Select->new($s)->can_read(0) && !sysread($s, my $any, 4096)) { undef $s; next; }
		$open++ if defined(syswrite($s, 'x'));
	}
	select(undef, undef, undef, 0.1);
}
is($open, 0, 'who sends a byte now and then is cut off');
cmp_ok($served, '>', 3, 'others are served meanwhile');
is(gateway(), $pid, 'by the same gateway');
is($stack->sql('SELECT sum(restarts) FROM orion.workers'), 0, 'no worker was restarted');
done_testing();
