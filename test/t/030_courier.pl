# orion-courier against real servers: counts, kills, restarts, secrets.
# The relay's part is played here, over a socketpair.
use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;

use IO::Select;
use IO::Socket::INET;
use JSON::PP ();
use OrionCourier;
use OrionServices;
use POSIX ();
use Socket;
use Test::More;
use Time::HiRes qw(sleep time);

my $program = $ENV{ORION_COURIER} // "$FindBin::Bin/../../orion-courier";

sub send_range { my ($courier, $from, $to) = @_; $courier->send_event(event($_)) foreach $from .. $to; }

# Nothing lost, nothing doubled, in order.
sub stream_is
{
	my ($redis, $count, $name) = @_;
	my @ids = map { $_->{id} } @{ $redis->stream('orion:events') };
	my @expected = map { event($_)->[1] } 1 .. $count;
	is("@ids", "@expected", $name) or diag(scalar(@ids) . " entries");
}

sub redis_config
{
	my ($redis, %more) = @_;
	return { sink => 'test', kind => 'redis', config => { url => $redis->url, %more } };
}

#---------------------------------------------------------------------------
my $redis = OrionServices->start_redis(password => 'hush-hush', db => 2);

subtest 'redis: ten thousand' => sub {
	my $courier = Courier->new(redis_config($redis, cache => [ { pattern => 'user.*', del => ['user:profile:{aggregateid}'] } ]));
	ok($courier->is_ready, 'ready');
	is($courier->{ready}, '', 'no position yet');
	$redis->command('SET', 'user:profile:5', 'old');
	$redis->command('SET', 'user:profile:other', 'stays');
	my $begin = time;
	send_range($courier, 1, 10000);
	ok($courier->all_acked, 'all acknowledged');
	note(sprintf('%.0f events/s', 10000 / (time - $begin)));
	stream_is($redis, 10000, 'the stream has each once, in order');
	is($redis->command('GET', 'orion:position:test'), "1:10000:$tag", 'position stored');
	is($redis->command('EXISTS', 'user:profile:5'), 0, 'cache key deleted');
	is($redis->command('EXISTS', 'user:profile:other'), 1, 'other key kept');
	my $entry = $redis->stream('orion:events')->[6];
	is_deeply($entry, {
		id => event(7)->[1], type => 'user.created', aggregatetype => 'user', aggregateid => 7,
		correlationid => 'corr-7', occurredat => event(7)->[6], event => event(7)->[7]
	}, 'fields');
	is($courier->{readies}, 1, 'ready once');
	is_deeply($courier->{trouble}, [], 'no trouble');
	is($courier->leave, 0, 'leaves at end of file');
};

subtest 'redis: courier killed in mid-stream' => sub {
	$redis->command('FLUSHALL');
	my ($from, $kills) = (1, 0);
	while ($from <= 20000 && $kills < 50)
	{
		my $courier = Courier->new(redis_config($redis));
		ok($courier->is_ready, 'ready') or last;
		$from = $1 + 1 if $courier->{ready} =~ /^1:(\d+):$tag$/;
		my $stop = $kills < 6 ? 1 + int rand 3000 : 20000;
		send_range($courier, $from, 20000);
		$courier->until(sub { $_[0]{acked} >= $stop || $_[0]{acked} == $_[0]{sent} });
		$from = 20001 if $courier->{acked} == $courier->{sent};
		$courier->kill9;
		$kills++;
	}
	cmp_ok($kills, '>=', 2, "killed $kills times");
	stream_is($redis, 20000, 'no loss, no duplicates');
};

# Waits for all acknowledgements, as a relay does: when the courier leaves because Redis
# has lost what it confirmed, another one begins where Redis is. Returns the last courier.
sub delivered_by
{
	my ($redis, $courier, $to) = @_;
	foreach (1 .. 10)
	{
		return $courier if $courier->until(sub { $_[0]{acked} == $_[0]{sent} && $_[0]->last_trouble eq '' });
		last unless $courier->{eof};
		like($courier->words, qr/lost confirmed events/, 'the courier leaves and says why');
		is($courier->reap, 0, 'exit status');
		$courier = Courier->new(redis_config($redis));
		$courier->is_ready or last;
		send_range($courier, $courier->{ready} =~ /^1:(\d+):/ ? $1 + 1 : 1, $to);
	}
	fail('all acknowledged');
	return $courier;
}

# Under everysec Redis loses what it confirmed now and then, and its file may be torn:
# that shows when it is loaded another time.
foreach my $fsync ('always', 'everysec')
{
	subtest "redis: server killed in mid-stream, appendfsync $fsync" => sub {
		my $redis = OrionServices->start_redis(password => 'hush-hush', db => 2, conf => "appendfsync $fsync\n");
		my $courier = Courier->new(redis_config($redis));
		ok($courier->is_ready, 'ready');
		foreach my $part (1 .. 5)
		{
			my $before = $courier->{acked};
			send_range($courier, ($part - 1) * 10000 + 1, $part * 10000);
			$courier->until(sub { $_[0]{acked} > $before + 1500 * $part });
			$redis->kill9;
			ok($courier->until(sub { $_[0]->last_trouble ne '' }), 'trouble: ' . $courier->last_trouble);
			$redis->start;
			$courier = delivered_by($redis, $courier, $part * 10000);
			ok($courier->until(sub { $_[0]->last_trouble eq '' }), 'well again');
		}
		stream_is($redis, 50000, 'no loss, no duplicates');
		$redis->restart;
		stream_is($redis, 50000, 'nor after another restart');
		is($courier->leave, 0, 'exit status');
		$redis->stop;
	};
}

subtest 'redis: a file torn inside a transaction' => sub {
	my $redis = OrionServices->start_redis(password => 'hush-hush', db => 2);
	my $courier = Courier->new(redis_config($redis));
	ok($courier->is_ready, 'ready');
	foreach my $part (1 .. 3)
	{
		send_range($courier, $part * 5 - 4, $part * 5);
		ok($courier->all_acked, 'acknowledged');
	}
	$redis->stop;
	ok($courier->until(sub { $_[0]->last_trouble ne '' }), 'stopped');
	my ($path) = glob("$redis->{dir}/appendonlydir/*.incr.aof");
	truncate($path, rindex(OrionServices::slurp($path), 'XADD') + 2) or die "truncate: $!";
	$redis->start;
	like($redis->log, qr/Truncating the AOF/, 'Redis goes on with what is left');
	cmp_ok($redis->command('XLEN', 'orion:events'), '<', 15, 'which is not all');
	$courier = delivered_by($redis, $courier, 15);
	stream_is($redis, 15, 'what was lost is there again');
	$redis->restart;
	stream_is($redis, 15, 'once, also when the file is loaded another time');
	is($courier->leave, 0, 'exit status');
	$redis->stop;
};

subtest 'redis: a stream that others write to' => sub {
	$redis->command('FLUSHALL');
	my $courier = Courier->new(redis_config($redis));
	ok($courier->is_ready, 'ready');
	foreach my $part (1 .. 5)
	{
		send_range($courier, $part * 1000 - 999, $part * 1000);
		$redis->command('XADD', 'orion:events', '*', map { ($_, 'other') } qw(id a b c d e f));
		ok($courier->all_acked, 'acknowledged');
	}
	my @ids = grep { $_ ne 'other' } map { $_->{id} } @{ $redis->stream('orion:events') };
	is("@ids", join(' ', map { event($_)->[1] } 1 .. 5000), 'no loss, no duplicates');
	is_deeply($courier->{rejected}, {}, 'nothing refused');
	is($courier->leave, 0, 'exit status');
};

subtest 'redis: trimmed' => sub {
	$redis->command('FLUSHALL');
	my $courier = Courier->new(redis_config($redis, maxlen => 500));
	ok($courier->is_ready, 'ready');
	send_range($courier, 1, 5000);
	ok($courier->all_acked, 'acknowledged');
	my $length = $redis->command('XLEN', 'orion:events');
	cmp_ok($length, '>=', 500, "$length entries: enough");
	cmp_ok($length, '<', 800, 'and not many more');
	is($courier->leave, 0, 'exit status');
};

subtest 'redis: a server that forgets' => sub {
	$redis->command('FLUSHALL');
	my $courier = Courier->new(redis_config($redis));
	ok($courier->is_ready, 'ready');
	send_range($courier, 1, 10);
	ok($courier->all_acked, 'acknowledged');
	$redis->command('SET', 'orion:position:test', "1:4:$tag");
	send_range($courier, 11, 12);
	ok($courier->until(sub { $_[0]{eof} }) || $courier->{eof}, 'the courier leaves');
	like($courier->words, qr/lost confirmed events: its position went back from 1:10:$tag to 1:4:$tag/, 'the log tells');
	is($courier->reap, 0, 'exit status');
	is($courier->{acked}, 10, 'nothing acknowledged that is not there');
	is($redis->command('XLEN', 'orion:events'), 10, 'nothing written meanwhile');
	$courier = Courier->new(redis_config($redis));
	ok($courier->is_ready, 'the next one is ready');
	is($courier->{ready}, "1:4:$tag", 'and tells where Redis is');
	is($courier->leave, 0, 'exit status');
};

subtest 'redis: the position of another database' => sub {
	$redis->command('FLUSHALL');
	my $other = '1:9:00000000000000a2';
	$redis->command('SET', 'orion:position:test', $other);
	my $courier = Courier->new(redis_config($redis));
	ok($courier->is_ready, 'ready');
	is($courier->{ready}, $other, 'it is told');
	send_range($courier, 1, 10);
	ok($courier->all_acked, 'acknowledged');
	stream_is($redis, 10, 'nothing is taken for delivered');
	is($courier->leave, 0, 'exit status');
};

subtest 'redis: refusals' => sub {
	$redis->command('FLUSHALL');
	$redis->command('SET', 'events:bad', 'a string');
	my $courier = Courier->new(redis_config($redis, stream => 'events:{aggregateid}'));
	ok($courier->is_ready, 'ready');
	$courier->send_event(event($_, aggregateid => $_ == 3 ? 'bad' : 'good')) foreach 1 .. 5;
	ok($courier->all_acked, 'acknowledged');
	is_deeply([ keys %{ $courier->{rejected} } ], [3], 'the third refused');
	like($courier->{rejected}{3}, qr/WRONGTYPE/, 'reason');
	is($redis->command('XLEN', 'events:good'), 4, 'the others delivered');
	is($courier->leave, 0, 'exit status');

	$redis->command('SET', 'orion:events', 'a string');
	$courier = Courier->new(redis_config($redis));
	ok($courier->until(sub { $_[0]->last_trouble =~ /not a stream/ }), 'a stream key of another type is trouble');
	$courier->send_event(event(6));
	$redis->command('DEL', 'orion:events');
	ok($courier->all_acked, 'delivered when it is gone');
	$redis->command('SET', 'orion:events', 'a string again');
	$courier->send_event(event(7));
	ok($courier->until(sub { $_[0]->last_trouble =~ /not a stream/ }), 'the same when it becomes one later');
	$redis->command('DEL', 'orion:events');
	ok($courier->all_acked, 'delivered when it is gone');
	is($redis->command('XLEN', 'orion:events'), 1, 'once');
	is_deeply($courier->{rejected}, {}, 'nothing refused');
	is($courier->leave, 0, 'exit status');
};

subtest 'redis: out of memory is trouble, not refusal' => sub {
	$redis->command('FLUSHALL');
	my $courier = Courier->new(redis_config($redis));
	ok($courier->is_ready, 'ready');
	$redis->command('CONFIG', 'SET', 'maxmemory', '1');
	send_range($courier, 1, 2500);
	ok($courier->until(sub { $_[0]->last_trouble =~ /OOM/ }), 'trouble');
	$redis->command('CONFIG', 'SET', 'maxmemory', '0');
	ok($courier->all_acked, 'delivered later');
	is_deeply($courier->{rejected}, {}, 'nothing refused');
	stream_is($redis, 2500, 'each once, in order');
	is($courier->leave, 0, 'exit status');
};

subtest 'redis: a straggler of a killed courier' => sub {
	$redis->command('FLUSHALL');
	my $courier = Courier->new(redis_config($redis));
	ok($courier->is_ready, 'ready');
	# what a predecessor had in its socket buffer arrives now
	$redis->command('XADD', 'orion:events', '*', 'id', event(1)->[1], map { ($_, '') } 1 .. 6);
	$redis->command('XADD', 'orion:events', '*', 'id', event(2)->[1], map { ($_, '') } 1 .. 6);
	$redis->command('SET', 'orion:position:test', "1:2:$tag");
	send_range($courier, 1, 1);
	ok($courier->all_acked, 'first acknowledged');
	send_range($courier, 2, 4);
	ok($courier->all_acked, 'all acknowledged');
	stream_is($redis, 4, 'none doubled');
	is($courier->leave, 0, 'exit status');
};

subtest 'secrets stay inside' => sub {
	my $config = redis_config($redis);
	$config->{config}{url} = $redis->url('wrong%20secret');
	my $courier = Courier->new($config);
	ok($courier->until(sub { $_[0]->last_trouble ne '' }), 'trouble: ' . $courier->last_trouble);
	unlike($courier->words, qr/wrong|secret/, 'no password in it');
	is(OrionServices::slurp("/proc/$courier->{pid}/cmdline") =~ s/\0.*//sr, $program, 'arguments');
	unlike(OrionServices::slurp("/proc/$courier->{pid}/environ"), qr/secret/, 'environment');
	is($courier->leave, 0, 'exit status');
};

subtest 'wrong settings' => sub {
	my @wrong = (
		[ '{"sink": "x"', qr/JSON object/ ],
		[ { sink => 'x', kind => 'tape', config => {} }, qr/unknown "kind"/ ],
		[ redis_config($redis, maxlne => 5), qr/unknown key "maxlne"/ ],
		[ redis_config($redis, maxlen => 'many'), qr/"maxlen" must be an integer/ ],
		[ redis_config($redis, stream => 'a{nobody}'), qr/"stream": unknown placeholder/ ],
		[ redis_config($redis, url => 'http://u:hush-hush@h/'), qr/"url" must begin with redis:/ ],
		[ redis_config($redis, url => 'redis://u:hush-hush%zz@h/'), qr/"url" has a bad user or password/ ],
		[ redis_config($redis, cache => [ { pattern => 'a', del => [7] } ]), qr/"del" must hold strings/ ]);
	foreach (@wrong)
	{
		my ($config, $expected) = @$_;
		my $courier = Courier->new($config);
		ok($courier->until(sub { $_[0]->last_trouble ne '' }), 'told');
		like($courier->last_trouble, $expected, $courier->last_trouble);
		unlike($courier->words, qr/hush/, 'no password');
		is($courier->leave, 0, 'waits for the end of file');
	}
};

# A listener that accepts and then does what code says with each connection.
sub impostor
{
	my ($code) = @_;
	my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Proto => 'tcp', Listen => 16) or die "listen: $!";
	my $pid = fork // die "fork: $!";
	if ($pid == 0)
	{
		my @kept;
		$SIG{PIPE} = 'IGNORE';
		while (my $client = $listener->accept)
		{
			$code->($client);
			push @kept, $client;
		}
		POSIX::_exit(0);
	}
	my $port = $listener->sockport;
	close $listener;
	return ($pid, $port);
}

subtest 'impostors' => sub {
	my %settings = (redis => 'redis://:sesame@127.0.0.1:%d/', rabbitmq => 'amqp://guest:sesame@127.0.0.1:%d/');
	my @impostors = (
		[ 'says nothing', sub { } ],
		[ 'hangs up', sub { close $_[0] } ],
		[ 'repeats the password', sub { sysread($_[0], my $words, 100); syswrite($_[0], "-ERR sesame sesame\r\n"); } ],
		[ 'talks another protocol', sub { syswrite($_[0], "HTTP/1.1 400 Bad Request\r\n\r\n"); } ],
		[ 'announces a giant', sub { syswrite($_[0], "\$2147483647\r\n"); } ],
		[ 'announces a crowd', sub { syswrite($_[0], "*100000000\r\n*100000000\r\n"); } ],
		[ 'sends a giant frame', sub { syswrite($_[0], "\x01\0\0\xff\xff\xff\xff" . 'x' x 1000); } ],
		[ 'sends a frame without end', sub { syswrite($_[0], "\x01\0\0\0\0\0\x04\0\x0a\0\x0a\0"); } ]);
	foreach my $kind (sort keys %settings)
	{
		foreach (@impostors)
		{
			my ($name, $code) = @$_;
			my ($pid, $port) = impostor($code);
			my $courier = Courier->new({ sink => 'x', kind => $kind, config => { url => sprintf($settings{$kind}, $port) } });
			$courier->send_event(event(1));
			ok($courier->until(sub { $_[0]->last_trouble ne '' }), "$kind that $name: " . $courier->last_trouble);
			unlike($courier->words, qr/sesame/, 'no password');
			is($courier->{acked}, 0, 'nothing acknowledged');
			is($courier->leave, 0, 'exit status');
			kill 'KILL', $pid;
			waitpid $pid, 0;
		}
	}
};

subtest 'broken relay' => sub {
	my $courier = Courier->new(redis_config($redis));
	ok($courier->is_ready, 'ready');
	$courier->send_frame(24, 77, @{ event(1) });
	ok($courier->until(sub { $_[0]{eof} }) || $courier->{eof}, 'hangs up on a number out of sequence');
	isnt($courier->reap, 0, 'exit status');
};

$redis->stop;

#---------------------------------------------------------------------------
my $rabbit = OrionServices->start_rabbitmq;

sub rabbit_config
{
	my (%more) = @_;
	return { sink => 'test', kind => 'rabbitmq', config => { url => $rabbit->url, %more } };
}

# Takes the messages of a queue and compares their ids, doubles left out.
sub queue_has
{
	my ($queue, $count, $name) = @_;
	my (%seen, @ids);
	my $messages = $rabbit->drain($queue, $count);
	foreach (@$messages) { push @ids, $_->{message_id} unless $seen{ $_->{message_id} }++; }
	my @expected = map { event($_)->[1] } 1 .. $count;
	is(join(' ', sort @ids), "@expected", "$name (" . @$messages . ' messages)');
	return $messages;
}

subtest 'rabbitmq: ten thousand' => sub {
	my $courier = Courier->new(rabbit_config());
	ok($courier->is_ready, 'ready');
	is($courier->{ready}, '', 'no position');
	my $begin = time;
	send_range($courier, 1, 10000);
	ok($courier->all_acked, 'all acknowledged') or diag($courier->words);
	note(sprintf('%.0f events/s into five queues', 10000 / (time - $begin)));
	is_deeply($courier->{trouble}, [], 'no trouble');
	my $message = queue_has('user.queue', 10000, 'user.queue')->[6];
	queue_has("$_.queue", 10000, "$_.queue") foreach qw(notification audit analytics webhook);
	my $event = event(7);
	is_deeply($message, {
		exchange => 'user.events', routing_key => 'user.created', body => $event->[7], size => length $event->[7],
		content_type => 'application/json', delivery_mode => 2, correlation_id => 'corr-7',
		message_id => $event->[1], timestamp => 1767323045, type => 'user.created',
		headers => {
			'cloudEvents:specversion' => '1.0', 'cloudEvents:id' => $event->[1], 'cloudEvents:type' => 'user.created',
			'cloudEvents:source' => '/orion/test', 'cloudEvents:time' => $event->[6],
			'cloudEvents:subject' => 7, 'x-orion-position' => "1:7:$tag"
		}
	}, 'a message');

	my %types = ('auth.login' => 'auth', 'notification.sent' => 'notification', 'order.paid' => 'system');
	my %queues = (auth => [qw(analytics audit notification)], notification => [qw(analytics audit)], system => [qw(analytics audit)]);
	foreach my $type (sort keys %types)
	{
		$courier->send_event(event($courier->{sent} + 1, type => $type, event => 'x' x 300_000));
		ok($courier->all_acked, "$type acknowledged");
		foreach my $queue (qw(user notification analytics audit webhook))
		{
			my $expected = grep { $_ eq $queue } @{ $queues{ $types{$type} } };
			my $got = $rabbit->drain("$queue.queue", 1, $expected ? 10 : 0.2);
			is(scalar @$got, $expected, "$type in $queue.queue: $expected");
			is($got->[0]{size}, 300_000, 'whole') if $expected;
		}
	}
	is($courier->leave, 0, 'exit status');
};

my $one_queue = { exchanges => ['user.events'], queues => ['audit.queue'], bindings => [ { exchange => 'user.events', queue => 'audit.queue' } ] };

subtest 'rabbitmq: courier killed in mid-stream' => sub {
	my $from = 1;
	foreach my $round (1 .. 5)
	{
		my $courier = Courier->new(rabbit_config(%$one_queue));
		ok($courier->is_ready, 'ready');
		send_range($courier, $from, 10000);
		$courier->until(sub { $round == 5 ? $_[0]{acked} == $_[0]{sent} : $_[0]{acked} > 500 });
		$courier->kill9;
		$from += $courier->{acked};
	}
	is($from, 10001, 'all acknowledged');
	queue_has('audit.queue', 10000, 'all there');
};

subtest 'rabbitmq: stopped, killed and started in mid-stream' => sub {
	my $courier = Courier->new(rabbit_config(%$one_queue));
	ok($courier->is_ready, 'ready');
	foreach my $way ('stop', 'kill9')
	{
		my $from = $courier->{sent};
		send_range($courier, $from + 1, $from + 20000);
		$courier->until(sub { $_[0]{acked} > $from + 3000 });
		$rabbit->$way;
		cmp_ok($courier->{acked}, '<', $courier->{sent}, "$way at $courier->{acked}");
		ok($courier->until(sub { $_[0]->last_trouble ne '' }), 'trouble: ' . $courier->last_trouble);
		$rabbit->start;
		ok($courier->all_acked, 'all acknowledged after the start');
		ok($courier->until(sub { $_[0]->last_trouble eq '' }), 'well again');
	}
	queue_has('audit.queue', 40000, 'all there');
	is($courier->leave, 0, 'exit status');
};

subtest 'rabbitmq: resource alarm' => sub {
	my $courier = Courier->new(rabbit_config(%$one_queue));
	ok($courier->is_ready, 'ready');
	$rabbit->ctl('set_vm_memory_high_watermark', '0');
	my $padding = 'x' x 4000;
	$courier->send_event(event($_, event => $padding)) foreach 1 .. 5000;
	ok($courier->until(sub { $_[0]->last_trouble =~ /blocks publishers/ }), 'trouble: ' . $courier->last_trouble);
	cmp_ok($courier->{acked}, '<', 5000, "held up at $courier->{acked}");
	$rabbit->ctl('set_vm_memory_high_watermark', '0.4');
	ok($courier->all_acked, 'all acknowledged when it is over');
	ok($courier->until(sub { $_[0]->last_trouble eq '' }), 'well again');
	queue_has('audit.queue', 5000, 'all there');
	is_deeply($courier->{rejected}, {}, 'nothing refused');
	is($courier->leave, 0, 'exit status');
};

subtest 'rabbitmq: refusals' => sub {
	my $courier = Courier->new(rabbit_config(%$one_queue));
	ok($courier->is_ready, 'ready');
	$courier->send_event(event(1));
	$courier->send_event(event(2, type => 'user.' . 'x' x 300));
	$courier->send_event(event(3));
	ok($courier->all_acked, 'acknowledged');
	is_deeply([ keys %{ $courier->{rejected} } ], [2], 'the second refused');
	like($courier->{rejected}{2}, qr/longer than 255/, 'reason');
	is(scalar @{ $rabbit->drain('audit.queue', 2) }, 2, 'the others delivered');
	is($courier->leave, 0, 'exit status');

	my %full = (exchanges => ['user.events'], queues => [ { name => 'audit.queue', ttl => 5 } ]);
	$courier = Courier->new(rabbit_config(%full));
	ok($courier->until(sub { $_[0]->last_trouble ne '' }), 'trouble: ' . $courier->last_trouble);
	like($courier->last_trouble, qr/queue "audit.queue" exists with other properties/, 'names the queue');
	is($courier->leave, 0, 'exit status');

	$courier = Courier->new(rabbit_config(exchanges => ['user.events', 'lonely.events']));
	ok($courier->is_ready, 'ready');
	$courier->send_event(event(1, type => 'lonely.one'));
	$courier->send_event(event(2, type => 'lonely.two'));
	ok($courier->all_acked, 'events nobody listens to count as delivered');
	is(() = $courier->words =~ /no queue is bound for/g, 1, 'one line in the log');
	is($courier->leave, 0, 'exit status');
};

subtest 'rabbitmq: a message larger than the broker takes' => sub {
	# RabbitMQ 4 looks at the setting only while it starts, and keeps it as a term
	$rabbit->ctl('eval', 'application:set_env(rabbit, max_message_size, 100000), persistent_term:put(max_message_size, 100000).');
	my $courier = Courier->new(rabbit_config(%$one_queue));
	ok($courier->is_ready, 'ready');
	$courier->send_event(event($_, $_ == 50 ? (event => 'x' x 200_000) : ())) foreach 1 .. 100;
	ok($courier->all_acked, 'all settled');
	is_deeply([ keys %{ $courier->{rejected} } ], [50], 'the large one refused') or diag($courier->words);
	my %seen = map { $_->{message_id} => 1 } @{ $rabbit->drain('audit.queue', 1 << 30, 2) };
	is(scalar keys %seen, 99, 'the others delivered');
	is($courier->leave, 0, 'exit status');
};

subtest 'rabbitmq: secrets and settings' => sub {
	my $config = rabbit_config();
	$config->{config}{url} = $rabbit->url('guest', 'wrong%20secret');
	my $courier = Courier->new($config);
	ok($courier->until(sub { $_[0]->last_trouble ne '' }), 'trouble: ' . $courier->last_trouble);
	like($courier->last_trouble, qr/ACCESS_REFUSED/, 'says why');
	unlike($courier->words, qr/wrong|secret/, 'no password in it');
	is($courier->leave, 0, 'exit status');
	my @wrong = (
		[ rabbit_config(exchanges => []), qr/at least one exchange/ ],
		[ rabbit_config(exchanges => [5]), qr/"exchanges" must hold names or objects/ ],
		[ rabbit_config(exchanges => [ { name => 'a', type => 'b' } ]), qr/"type" has an unknown value/ ],
		[ rabbit_config(%$one_queue, bindings => [ { queue => 'a' } ]), qr/"exchange" is missing/ ]);
	foreach (@wrong)
	{
		my ($wrong, $expected) = @$_;
		$courier = Courier->new($wrong);
		ok($courier->until(sub { $_[0]->last_trouble ne '' }), 'told');
		like($courier->last_trouble, $expected, $courier->last_trouble);
		is($courier->leave, 0, 'exit status');
	}
};

done_testing();
