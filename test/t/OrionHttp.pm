# OrionHttp: a server with HTTP, and requests over a plain socket, for tests that want
# every byte.  (OrionStack has brokers and a ready database beside it.)
#
#   my ($node, $port) = OrionHttp::server('name', "orion.executor_count = 1\n");	# a Cluster, without the extension
#   my $answer = OrionHttp::request($port, 'POST', '/rest/v1/items', {'Content-Type' => 'application/json'}, '{"a":1}');
#   $answer->{status}, $answer->{headers}{lower-case name}, $answer->{body}
#
# In list context: (status, headers, body). One connection a request; the path is
# sent as it is. raw() sends bytes and returns what comes back until the end.
package OrionHttp;
use strict;
use warnings;
use Digest::SHA qw(hmac_sha256);
use IO::Select;
use IO::Socket::INET;
use MIME::Base64 qw(encode_base64url);
use PostgreSQL::Test::Cluster;
use Time::HiRes qw(time sleep);

our $timeout = 60;    # seconds for a whole answer

sub server
{
	my ($name, $settings) = @_;
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my $node = PostgreSQL::Test::Cluster->new($name);
	$node->init;
	$node->append_conf('postgresql.conf', qq{
shared_preload_libraries = 'orion'
max_worker_processes = 16
orion.http_port = $port
orion.http_listen_addresses = '127.0.0.1'
} . ($settings // ''));
	$node->start;
	return ($node, $port);
}

# A token of another issuer; claims and header as JSON.
sub token
{
	my ($claims, $secret, $header) = @_;
	my $text = encode_base64url($header // '{"alg":"HS256","typ":"JWT"}') . '.' . encode_base64url($claims);
	return "$text." . encode_base64url(hmac_sha256($text, $secret));
}

sub connection
{
	my ($port) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Proto => 'tcp', Timeout => 20);
	binmode $socket if $socket;
	return $socket;
}

# Everything the server sends until it closes, or until complete($bytes) is true.
sub receive
{
	my ($socket, $complete) = @_;
	my $bytes = '';
	my $deadline = time + $timeout;
	my $select = IO::Select->new($socket);
	while ((my $left = $deadline - time) > 0)
	{
		next unless $select->can_read($left);
		my $n = sysread($socket, $bytes, 65536, length $bytes);
		return $bytes if !$n || $complete->($bytes);
	}
	die "no complete answer within $timeout s";
}

sub raw
{
	my ($port, $bytes) = @_;
	my $socket = connection($port) or die "cannot connect to port $port: $@";
	syswrite($socket, $bytes);
	return receive($socket, sub { 0 });
}

sub parse
{
	my ($bytes) = @_;
	my ($head, $body) = split /\r\n\r\n/, $bytes, 2;
	my ($first, @lines) = split /\r\n/, $head // '';
	my ($status) = ($first // '') =~ m{^HTTP/1\.[01] (\d{3})} or die 'not an answer: ' . substr($bytes, 0, 200);
	my %headers;
	for my $line (@lines)
	{
		my ($name, $value) = split /:\s*/, $line, 2;
		$name = lc $name;
		$headers{$name} = exists $headers{$name} ? "$headers{$name}, $value" : $value;
	}
	$body = join '', map { s/^[0-9a-fA-F]+\r\n//r } split /\r\n(?=[0-9a-fA-F]+\r\n)/, $body
		if ($headers{'transfer-encoding'} // '') eq 'chunked';
	return { status => $status, headers => \%headers, body => $body // '' };
}

sub request
{
	my ($port, $method, $path, $headers, $body) = @_;
	my $socket = connection($port) or die "cannot connect to port $port: $@";
	my $text = "$method $path HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
	$text .= "$_: $headers->{$_}\r\n" for sort keys %{ $headers // {} };
	$text .= 'Content-Length: ' . length($body) . "\r\n" if defined $body;
	$text .= "\r\n" . ($body // '');
	local $SIG{PIPE} = 'IGNORE';
	while (length $text)
	{
		my $n = syswrite($socket, $text) or last;
		substr($text, 0, $n) = '';
	}
	my $answer = parse(receive($socket, sub { 0 }));
	return wantarray ? @$answer{qw(status headers body)} : $answer;
}

# Waits until GET path answers with the status.
sub await
{
	my ($port, $path, $status, $seconds) = @_;
	my $deadline = time + ($seconds // 60);
	while (time < $deadline)
	{
		my $answer = eval { request($port, 'GET', $path) };
		return 1 if $answer && $answer->{status} == $status;
		sleep 0.05;
	}
	return 0;
}

1;
