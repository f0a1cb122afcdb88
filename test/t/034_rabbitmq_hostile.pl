# orion-courier and a broker that means ill: frames that make no sense, numbers that cannot
# be, properties nested without end. It must neither crash, nor believe, nor be kept busy
# for ever. The relay's and the consumer's part is played here, and RabbitMQ's.
use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;

use IO::Socket::INET;
use OrionCourier;
use OrionServices;
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

# --- AMQP 0-9-1, as far as it is needed

sub frame { my ($type, $channel, $payload) = @_; return pack('CnN', $type, $channel, length $payload) . $payload . "\xce"; }
sub method { my ($channel, $class, $method, $arguments) = @_; return frame(1, $channel, pack('nn', $class, $method) . ($arguments // '')); }
sub short { return pack('C/a', $_[0]); }
sub long { return pack('N/a', $_[0]); }
# Content header: flags are those of the properties given as bytes.
sub header { my ($size, $flags, $properties) = @_; return frame(2, 1, pack('nnQ>n', 60, 0, $size, $flags) . ($properties // '')); }
sub deliver { my ($tag) = @_; return method(1, 60, 60, short('c') . pack('NNC', 0, $tag, 0) . short('') . short('q')); }
sub message { my ($tag, $body) = @_; return deliver($tag) . header(length $body, 0) . frame(3, 1, $body); }

my %answers = (
	'10.11' => sub { return method(0, 10, 30, pack('nNn', 2047, 131072, 0)); },
	'10.40' => sub { return method(0, 10, 41, short('')); },
	'20.10' => sub { return method(1, 20, 11, long('')); },
	'40.10' => sub { return method(1, 40, 11); },
	'50.20' => sub { return method(1, 50, 21); },
	'50.10' => sub { return method(1, 50, 11, short('q') . pack('NN', 0, 0)); },
	'60.10' => sub { return method(1, 60, 11); },
	'60.20' => sub { return method(1, 60, 21, short('c')); },
	'85.10' => sub { return method(1, 85, 11); });

# A broker for every connection that comes. It is well-behaved up to the method "then"
# and sends "bytes" behind the answer to that, or instead of it; "more" for ever.
sub impostor
{
	my (%o) = @_;
	my $listener = IO::Socket::INET->new(Listen => 5, LocalAddr => '127.0.0.1', LocalPort => 0) or die "listen: $!";
	my $pid = fork // die "fork: $!";
	return ($pid, $listener->sockport) if $pid;
	$SIG{ALRM} = 'DEFAULT';
	alarm 120;
	my $start = $o{start} // method(0, 10, 10, pack('CC', 0, 9) . long($o{server} // '') . long('PLAIN') . long('en_US'));
	while (my $client = $listener->accept)
	{
		my $in = '';
		my $done;
		while (!$done && sysread($client, $in, 65536, length $in))
		{
			syswrite($client, $start) if $in =~ s/^AMQP\x00\x00\x09\x01//;
			while (length $in >= 7)
			{
				my ($type, $channel, $len) = unpack('CnN', $in);
				last if length $in < $len + 8;
				my ($class, $method) = unpack('nn', substr($in, 7, 4));
				substr($in, 0, $len + 8, '');
				next if $type != 1;
				my $what = "$class.$method";
				my $answer = $answers{$what} ? $answers{$what}->() : '';
				if ($what eq $o{then})
				{
					# so that the courier finds the connection good, and soon tries another
					if ($o{hang_up}) { syswrite($client, $answer); $answer = ''; sleep 0.05; }
					$answer .= ref $o{bytes} ? $o{bytes}->() : $o{bytes} // '';
				}
				while (length $answer) { my $n = syswrite($client, $answer) or last; substr($answer, 0, $n, ''); }
				$done ||= $o{hang_up} && $what eq $o{then};
				if ($o{more} && $what eq $o{then}) { while (syswrite($client, $o{more})) { } }
			}
		}
	}
	POSIX::_exit(0);
}

sub courier
{
	my ($kind, $port) = @_;
	return Courier->new({ sink => 'test', kind => $kind, config => { url => "amqp://orion:sesame\@127.0.0.1:$port/",
		$kind eq 'rabbitmq' ? () : (queue => 'q', declare => 'classic', max_body => 100000) } });
}

# The consumer's worker: MESSAGE frames.
my @messages;
{
	no warnings 'redefine';
	my $take = \&Courier::take;
	*Courier::take = sub {
		my ($self) = @_;
		my ($len, $type, $flags, $id) = unpack('LSSQ', $self->{in});
		return $take->($self) if $type < 24;
		push @messages, [ $id, unpack('(L/a)*', substr($self->{in}, 16 + 8, $len - 8)) ];
		substr($self->{in}, 0, 16 + $len, '');
	};
}

# What the broker does, whether the courier says so, and that it lives.
sub survives
{
	my ($kind, $name, $expected, %o) = @_;
	my ($pid, $port) = impostor(%o);
	my $courier = courier($kind, $port);
	@messages = ();
	$courier->send_event(event($_)) foreach $kind eq 'rabbitmq' ? (1 .. 3) : ();
	ok($courier->until(sub { grep { /$expected/ } @{ $_[0]{trouble} } }), "$kind: $name") or diag($courier->words);
	ok(!$courier->{eof}, '... and the courier lives') or diag($courier->words);
	is($courier->{acked}, 0, '... and believes nothing') if $kind eq 'rabbitmq';
	unlike($courier->words, qr/sesame/, '... and tells no secret');
	is($courier->leave, 0, 'exit status') or diag(OrionServices::slurp($courier->{log}->filename));
	kill 'KILL', $pid;
	waitpid $pid, 0;
}

my $lost = qr/rabbitmq/;
foreach my $kind ('rabbitmq', 'rabbitmq-consumer')
{
	my $then = $kind eq 'rabbitmq' ? '85.10' : '60.20';
	survives($kind, @$_, then => $then) foreach ([ 'HTTP', $lost, start => "HTTP/1.1 400 Bad Request\r\n\r\n" ],
		[ 'another protocol version', $lost, start => "AMQP\x00\x01\x00\x00" ],
		[ 'a frame longer than agreed', $lost, bytes => pack('CnN', 1, 1, 0x7fffffff) ],
		[ 'a frame of all bytes', $lost, bytes => pack('CnN', 1, 1, 0xffffffff) . 'x' x 100 ],
		[ 'a frame without its end', $lost, bytes => pack('CnN', 1, 1, 4) . 'xxxx' . "\x00" ],
		[ 'an unknown method', $lost, bytes => method(1, 999, 999, 'x' x 50) ],
		[ 'half a method', $lost, bytes => method(1, 60, 60, "\xff") ],
		[ 'an unknown frame', $lost, bytes => frame(77, 1, 'x') . method(1, 20, 40, pack('n', 404) . short('gone') . pack('nn', 0, 0)) ],
		[ 'an end of the channel', qr/closed the channel: gone/, bytes => method(1, 20, 40, pack('n', 404) . short('gone') . pack('nn', 0, 0)) ],
		[ 'an end that is no text', qr/closed the connection: /, bytes => method(0, 10, 50, pack('n', 320) . short("\xff\x00\r\n\e[2J") . pack('nn', 0, 0)) ]);
}
survives('rabbitmq', @$_, then => '85.10') foreach ([ 'a confirm of what was not sent', qr/never sent/, bytes => method(1, 60, 80, pack('NNC', 0xffffffff, 0xffffffff, 1)) ],
	[ 'a return without an end', $lost, bytes => method(1, 60, 50, pack('n', 312) . short('x') . short('') . short('')) . header(0x7fffffff, 0) . frame(3, 1, 'x' x 1000) . method(1, 999, 1) ]);
survives('rabbitmq-consumer', @$_, then => '60.20') foreach ([ 'a message within another', qr/within another/, bytes => deliver(1) . deliver(2) ],
	[ 'a header without a message', qr/header/, bytes => header(5, 0) ],
	[ 'a body without a message', qr/body|rabbitmq/, bytes => frame(3, 1, 'x') ],
	[ 'more body than announced', qr/longer than announced/, bytes => deliver(1) . header(5, 0) . frame(3, 1, 'x' x 6) ],
	[ 'a body beyond all memory', qr/closed the channel/, bytes => deliver(1) . header(~0, 0) . frame(3, 1, 'x' x 1000) . method(1, 20, 40, pack('n', 404) . short('gone') . pack('nn', 0, 0)) ],
	[ 'more messages than asked for', qr/more messages/, bytes => join('', map { message($_, 'x') } 1 .. 60) ],
	[ 'headers that end before they begin', $lost, bytes => deliver(1) . header(0, 0x2000, pack('N', 1000) . 'x') ]);

# --- nested without end: a publisher can send it by way of an honest broker
sub nested
{
	my ($kind, $depth) = @_;
	my $value = '';
	for (1 .. $depth) { $value = $kind eq 'A' ? 'A' . pack('N', length $value) . $value : "\x00F" . pack('N', length $value) . $value; }
	return $kind eq 'A' ? long("\x01n$value") : long($value);
}
foreach my $case ([ 'A', 26_000 ], [ 'F', 21_000 ])
{
	my ($kind, $depth) = @$case;
	my ($pid, $port) = impostor(then => '60.20', bytes => deliver(1) . header(2, 0x2000, nested($kind, $depth)) . frame(3, 1, '{}') . message(2, 'after'));
	my $courier = courier('rabbitmq-consumer', $port);
	@messages = ();
	ok($courier->until(sub { @messages == 2 }), "$depth levels of $kind: both messages come") or diag($courier->words);
	is($messages[1] && $messages[1][-1], 'after', '... and the one behind it is well');
	is($courier->leave, 0, 'exit status');
	kill 'KILL', $pid;
	waitpid $pid, 0;
}

# --- kept busy: it still hears the relay
my $endless = method(0, 10, 60, short('disk')) . method(0, 10, 61);
foreach my $kind ('rabbitmq', 'rabbitmq-consumer')
{
	my ($pid, $port) = impostor(then => $kind eq 'rabbitmq' ? '85.10' : '60.20', more => $endless x 2000);
	my $courier = courier($kind, $port);
	ok($courier->until(sub { defined $_[0]{ready} }), "$kind: connected to a broker that never stops") or diag($courier->words);
	is($courier->leave, 0, 'it leaves when the relay does');
	kill 'KILL', $pid;
	waitpid $pid, 0;
}

# --- bytes changed at random, on one connection after the other
srand 20261121;
my @conversation = (deliver(1), header(4, 0x2000 | 0x0080 | 0x8000, short('text/plain') . long("\x01aI" . pack('N', 5) . "\x01bS" . long('text') . "\x01cF" . long("\x01dt\x01") . "\x01eA" . long('I' . pack('N', 1) . 'D' . pack('CN', 2, 5))) . short('id')), frame(3, 1, 'body'), message(2, 'x' x 100));
foreach my $many (1, 4)
{
	my $changed = sub {
		my $bytes = join '', @conversation;
		substr($bytes, int rand length $bytes, 1) = chr int rand 256 foreach 1 .. $many;
		return $bytes . method(1, 20, 40, pack('n', 404) . short('gone') . pack('nn', 0, 0));
	};
	my ($pid, $port) = impostor(then => '60.20', bytes => $changed, hang_up => 1);
	my $courier = courier('rabbitmq-consumer', $port);
	@messages = ();
	$courier->until(sub { @messages > 8 }, 20);
	ok(!$courier->{eof}, "$many changed bytes: the courier lives") or diag($courier->words);
	cmp_ok(scalar @messages, '>', 0, '... and takes what makes sense');
	is($courier->leave, 0, 'exit status') or diag(OrionServices::slurp($courier->{log}->filename));
	kill 'KILL', $pid;
	waitpid $pid, 0;
}
done_testing();
