# Brokers for tests: real servers on private ports of the loopback interface, in
# directories of their own, run by whoever runs the test.
#
#   my $redis  = OrionServices->start_redis(password => 'x', db => 2);	# appendonly
#   my $rabbit = OrionServices->start_rabbitmq();	# takes ten seconds
#   $redis->url; $redis->port; $redis->log;
#   $redis->kill9; $redis->stop; $redis->start; $redis->restart;  # same port, same data
#   $redis->command('XLEN', 'orion:events');                      # redis-cli, raw output
#   $rabbit->ctl('list_queues', 'name', 'messages');              # rabbitmqctl -q
#   $rabbit->drain('audit.queue', 10000, 30);                     # takes the messages away
#   my $kafka = OrionServices->start_kafka(jars => $directory);   # one node, KRaft
#   $kafka->records('orion.events', 1000, 30);                    # kcat, from the beginning
#
# What was started is stopped when the test ends, also by die. Servers are known by
# their process id alone; nothing else is ever signalled.
package OrionServices;

use strict;
use warnings;

use File::Path ();
use File::Temp ();
use FindBin;
use IO::Socket::INET;
use POSIX ();
use Time::HiRes qw(sleep time);

# Benchmarks start brokers, too, where there is no PostgreSQL::Test.
BEGIN { require OrionPsql if grep { -e "$_/PostgreSQL/Test/Cluster.pm" } @INC; }

my @running;

# Below the range that the kernel gives to outgoing connections: such a port might be
# taken again before its server starts. None twice, nor one that a test has got for
# another server, which may not run yet.
my %given;

sub free_port
{
	return PostgreSQL::Test::Cluster::get_free_port() if PostgreSQL::Test::Cluster->can('get_free_port');
	for (1 .. 100)
	{
		my $port = 20000 + int(rand(12000));
		next if $given{$port}++;
		return $port if IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Proto => 'tcp', Listen => 1);
	}
	die "no free port: $!";
}

# Polls until code is true; false when the time is over.
sub poll_until
{
	my ($code, $seconds) = @_;
	my $end = time + ($seconds // 60);
	while (1)
	{
		my $result = $code->();
		return $result if $result;
		return 0 if time > $end;
		sleep 0.05;
	}
}

sub new
{
	my ($class, %options) = @_;
	my $self = bless {
		dir => File::Temp::tempdir('orion-XXXXXX', TMPDIR => 1),
		port => free_port(),
		owner => $$,
		%options
	}, $class;
	push @running, $self;
	return $self;
}

sub start_redis { my ($class, %options) = @_; return OrionServices::Redis->new(%options)->prepare->start; }
sub start_rabbitmq { my ($class, %options) = @_; return OrionServices::RabbitMQ->new(%options)->prepare->start; }

sub start_kafka { my ($class, %options) = @_; return OrionServices::Kafka->new(%options)->prepare->start; }

# Where Apache Kafka's jars lie. They come from Maven Central, by test/peers/kafka/pom.xml, and
# are kept beside the results of the tests. Dies where there is no way to get them.
sub kafka_jars
{
	my $cache = ($ENV{ORION_CACHE} // File::Temp::tempdir('orion-XXXXXX', TMPDIR => 1, CLEANUP => 1)) . '/kafka';
	my $pom = ($ENV{ORION_TREE} // "$FindBin::Bin/../..") . '/test/peers/kafka/pom.xml';
	unless (-e "$cache/complete")
	{
		File::Path::make_path($cache);
		my $said;
		foreach (1 .. 3)	# repositories are not always well
		{
			$said = qx(mvn -B -q -f '$pom' -Dmaven.repo.local='$cache/repository' dependency:copy-dependencies -DoutputDirectory='$cache/jars' -DincludeScope=runtime 2>&1);
			last if $? == 0;
		}
		die "maven does not fetch Apache Kafka (it needs a way to Maven Central): $said" if $? != 0;
		File::Path::remove_tree("$cache/repository");
		write_file("$cache/complete", '');
	}
	return "$cache/jars";
}

# Installs what package-lock.json there names; returns what npm says, with its status in $?.
# Registries are not always well: it tries again for a minute.
sub npm_ci
{
	my ($dir) = @_;
	local %ENV = (%ENV, npm_config_cache => "$dir/cache", npm_config_update_notifier => 'false',
		npm_config_fetch_retries => 6, npm_config_fetch_retry_mintimeout => 1000, npm_config_fetch_retry_maxtimeout => 20000);
	return scalar qx(cd '$dir' && npm ci --ignore-scripts --no-audit --no-fund 2>&1);
}

sub port { return $_[0]{port}; }
sub pid { return $_[0]{pid}; }
sub dir { return $_[0]{dir}; }

sub slurp
{
	my ($path) = @_;
	open(my $file, '<', $path) or return '';
	local $/;
	return scalar(<$file>) // '';
}

sub write_file
{
	my ($path, $text) = @_;
	open(my $file, '>', $path) or die "$path: $!";
	print $file $text;
	close $file or die "$path: $!";
}

sub log { return slurp("$_[0]{dir}/log"); }

sub start { my ($self) = @_; return $self->launch->await; }

# Starts the server in a process group of its own, output to the log; does not wait for it.
sub launch
{
	my ($self) = @_;
	die 'already running' if $self->{pid};
	my $pid = fork // die "fork: $!";
	if ($pid == 0)
	{
		POSIX::setsid();
		open(STDIN, '<', '/dev/null');
		open(STDOUT, '>>', "$self->{dir}/log");
		open(STDERR, '>&', \*STDOUT);
		POSIX::close($_) foreach 3 .. 63;
		%ENV = (%ENV, $self->environment);
		exec($self->command_line) or POSIX::_exit(127);
	}
	$self->{pid} = $pid;
	return $self;
}

# Waits until a server that was launched is ready.
sub await
{
	my ($self) = @_;
	poll_until(sub { $self->is_ready or !$self->alive }, 180);
	die ref($self) . " did not start:\n" . $self->log unless $self->alive && $self->is_ready;
	return $self;
}

sub alive
{
	my ($self) = @_;
	return 0 unless $self->{pid};
	return 1 if waitpid($self->{pid}, POSIX::WNOHANG()) == 0;
	$self->{pid} = undef;
	return 0;
}

sub signal
{
	my ($self, $signal, $seconds) = @_;
	return 1 unless $self->alive;
	kill $signal, $self->{pid};
	return poll_until(sub { !$self->alive }, $seconds // 60);
}

sub kill9 { my ($self) = @_; $self->signal('KILL'); return $self; }
sub stop { my ($self) = @_; $self->signal('TERM') or $self->signal('KILL'); return $self; }
sub restart { my ($self) = @_; return $self->stop->start; }
sub environment { return (); }
sub clean { }

sub destroy
{
	my ($self) = @_;
	return if $self->{owner} != $$;
	$self->stop;
	$self->clean;
	File::Path::remove_tree($self->{dir});
}

# Runs a program with the server's environment; returns its standard output.
sub run
{
	my ($self, @command) = @_;
	my $pid = open(my $output, '-|') // die "fork: $!";
	if ($pid == 0)
	{
		%ENV = (%ENV, $self->environment);
		open(STDERR, '>>', "$self->{dir}/tools.log");
		exec(@command) or POSIX::_exit(127);
	}
	local $/;
	my $text = <$output> // '';
	close $output;
	return $text;
}

END
{
	my $status = $?;
	$_->destroy foreach @running;
	$? = $status;
}

#---------------------------------------------------------------------------
package OrionServices::Redis;

use strict;
use warnings;

our @ISA = ('OrionServices');

sub prepare
{
	my ($self) = @_;
	my $password = defined $self->{password} ? "requirepass $self->{password}\n" : '';
	OrionServices::write_file("$self->{dir}/redis.conf", <<"CONF" . $password . ($self->{conf} // ''));
bind 127.0.0.1
port $self->{port}
dir $self->{dir}
daemonize no
save ""
appendonly yes
appendfsync everysec
CONF
	return $self;
}

sub command_line { return ('redis-server', "$_[0]{dir}/redis.conf"); }

sub url
{
	my ($self, $password) = @_;
	$password //= $self->{password};
	my $user = defined $password ? ":$password\@" : '';
	return "redis://${user}127.0.0.1:$self->{port}/" . ($self->{db} // 0);
}

sub is_ready { return ($_[0]->command('PING') =~ /PONG/); }

sub environment
{
	my ($self) = @_;
	return defined $self->{password} ? (REDISCLI_AUTH => $self->{password}) : ();
}

# redis-cli; the answer without its last line end.
sub command
{
	my ($self, @words) = @_;
	my $text = $self->run('redis-cli', '--raw', '-h', '127.0.0.1', '-p', $self->{port}, '-n', $self->{db} // 0, @words);
	chomp $text;
	return $text;
}

# Every entry of a stream, oldest first: [{ field => value, ... }, ...].
sub stream
{
	my ($self, $key, $fields) = @_;
	my (@entries, $from);
	$fields //= 7;
	while (1)
	{
		my @lines = split /\n/, $self->command('XRANGE', $key, $from // '-', '+', 'COUNT', 5000);
		last unless @lines;
		while (@lines)
		{
			my $id = shift @lines;
			push @entries, { splice(@lines, 0, 2 * $fields) };
			$from = "($id";
		}
	}
	return \@entries;
}

#---------------------------------------------------------------------------
package OrionServices::RabbitMQ;

use strict;
use warnings;

our @ISA = ('OrionServices');

my $bin = '/usr/lib/rabbitmq/bin';

sub prepare
{
	my ($self) = @_;
	my $dir = $self->{dir};
	$self->{epmd_port} = OrionServices::free_port();
	$self->{dist_port} = OrionServices::free_port();
	mkdir "$dir/$_" foreach qw(home mnesia logs plugins config);
	OrionServices::write_file("$dir/enabled_plugins", "[].\n");
	OrionServices::write_file("$dir/env.conf", "# none\n");
	OrionServices::write_file("$dir/config/rabbitmq.conf", <<"CONF" . ($self->{conf} // ''));
listeners.tcp.1 = 127.0.0.1:$self->{port}
disk_free_limit.absolute = 10MB
log.console = false
CONF
	return $self;
}

sub environment
{
	my ($self) = @_;
	my $dir = $self->{dir};
	return (
		HOME => "$dir/home",
		LANG => 'C.UTF-8',
		LC_ALL => 'C.UTF-8',
		ERL_EPMD_PORT => $self->{epmd_port},
		ERL_EPMD_ADDRESS => '127.0.0.1',
		RUNNING_UNDER_SYSTEMD => 'true',	# the script becomes the server, so our pid is its pid
		RABBITMQ_NODENAME => "orion$self->{port}\@localhost",
		RABBITMQ_DIST_PORT => $self->{dist_port},
		RABBITMQ_CONF_ENV_FILE => "$dir/env.conf",
		RABBITMQ_CONFIG_FILE => "$dir/config/rabbitmq.conf",
		RABBITMQ_GENERATED_CONFIG_DIR => "$dir/config",
		RABBITMQ_MNESIA_BASE => "$dir/mnesia",
		RABBITMQ_LOG_BASE => "$dir/logs",
		RABBITMQ_PID_FILE => "$dir/pid",
		RABBITMQ_ENABLED_PLUGINS_FILE => "$dir/enabled_plugins",
		RABBITMQ_PLUGINS_EXPAND_DIR => "$dir/plugins",
		RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS => '-kernel inet_dist_use_interface {127,0,0,1} +sbwt none',
		RABBITMQ_CTL_ERL_ARGS => '-kernel inet_dist_use_interface {127,0,0,1}');
}

sub command_line { return ("$bin/rabbitmq-server"); }

sub url
{
	my ($self, $user, $password) = @_;
	return sprintf('amqp://%s:%s@127.0.0.1:%d/', $user // 'guest', $password // 'guest', $self->{port});
}

# Ready when a whole login succeeds: the port opens a little before that.
sub is_ready
{
	my ($self) = @_;
	my $client = eval { OrionServices::AMQP->new($self->{port}) };
	return 0 unless $client;
	$client->close;
	return 1;
}

sub ctl { my ($self, @words) = @_; return $self->run("$bin/rabbitmqctl", '-q', @words); }

# The Erlang port mapper outlives its nodes.
sub clean { my ($self) = @_; $self->run('epmd', '-port', $self->{epmd_port}, '-kill'); }

# Empties a queue: [{ message_id, type, headers, body, ... }, ...]. It is done when no
# message has come for patience seconds, or when there are count of them and the queue is empty.
sub drain
{
	my ($self, $queue, $count, $patience) = @_;
	my $client = OrionServices::AMQP->new($self->{port});
	my $messages = $client->consume($queue, $count, $patience // 10);
	$client->close;
	return $messages;
}

#---------------------------------------------------------------------------
# Apache Kafka, broker and controller in one process. Options: jars (a directory),
# conf (more properties), listeners (more of them, "NAME://host:port").
package OrionServices::Kafka;

use strict;
use warnings;

our @ISA = ('OrionServices');

sub prepare
{
	my ($self) = @_;
	my $dir = $self->{dir};
	my $controller = OrionServices::free_port();
	my $more = $self->{listeners} ? ",$self->{listeners}" : '';
	OrionServices::write_file("$dir/server.properties", <<"CONF" . ($self->{conf} // ''));
process.roles=broker,controller
node.id=1
controller.quorum.voters=1\@127.0.0.1:$controller
listeners=PLAINTEXT://127.0.0.1:$self->{port},CONTROLLER://127.0.0.1:$controller$more
advertised.listeners=PLAINTEXT://127.0.0.1:$self->{port}$more
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL
log.dirs=$dir/data
num.partitions=3
offsets.topic.replication.factor=1
CONF
	my $id = $self->run('java', '-cp', "$self->{jars}/*", 'kafka.tools.StorageTool', 'random-uuid');
	chomp $id;
	$self->run('java', '-cp', "$self->{jars}/*", 'kafka.tools.StorageTool', 'format', '-t', $id, '-c', "$dir/server.properties");
	return $self;
}

sub command_line
{
	my ($self) = @_;
	return ('java', '-Xmx256m', '-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1', '-cp', "$self->{jars}/*", 'kafka.Kafka', "$self->{dir}/server.properties");
}

sub brokers { return "127.0.0.1:$_[0]{port}"; }

sub is_ready
{
	my ($self) = @_;
	return $self->run('kcat', '-b', $self->brokers, '-L', '-m', '2') =~ /1 brokers:/;
}

# Every record of a topic: [{ partition, key, headers => {...}, value }, ...], each
# partition in order. It is done at the end of all partitions.
sub records
{
	my ($self, $topic) = @_;
	return records_of($self, $self->brokers, $topic);
}

sub records_of
{
	my ($self, $brokers, $topic) = @_;
	my $text = $self->run('kcat', '-b', $brokers, '-C', '-t', $topic, '-o', 'beginning', '-e', '-q', '-u', '-f', "%p\x1f%k\x1f%h\x1f%s\x1e");
	my @records;
	foreach (split /\x1e/, $text)
	{
		my ($partition, $key, $headers, $value) = split /\x1f/, $_, 4;
		push @records, { partition => $partition, key => $key, value => $value, headers => { map { split /=/, $_, 2 } split /,/, $headers } };
	}
	return \@records;
}

#---------------------------------------------------------------------------
# As much of AMQP 0-9-1 as it takes to empty a queue.
package OrionServices::AMQP;

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;

sub shortstr { return pack('C/a', $_[0]); }
sub longstr { return pack('N/a', $_[0]); }

sub new
{
	my ($class, $port) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Timeout => 20)
	  or die "cannot connect: $!";
	my $self = bless { socket => $socket, buffer => '' }, $class;
	$socket->syswrite("AMQP\0\0\x09\x01");
	$self->expect(10, 10);
	$self->method(0, 10, 11, longstr('') . shortstr('PLAIN') . longstr("\0guest\0guest") . shortstr('en_US'));
	$self->expect(10, 30);
	$self->method(0, 10, 31, pack('nNn', 16, 131072, 0));
	$self->method(0, 10, 40, shortstr('/') . shortstr('') . "\0");
	$self->expect(10, 41);
	$self->method(1, 20, 10, shortstr(''));
	$self->expect(20, 11);
	return $self;
}

sub method
{
	my ($self, $channel, $class, $method, $arguments) = @_;
	my $body = pack('nn', $class, $method) . $arguments;
	$self->{socket}->syswrite(pack('CnN', 1, $channel, length $body) . $body . "\xCE");
}

# The next frame: (type, payload); empty when none comes in time.
sub frame
{
	my ($self, $seconds) = @_;
	while (1)
	{
		if (length $self->{buffer} >= 7)
		{
			my ($type, $channel, $len) = unpack('CnN', $self->{buffer});
			if (length $self->{buffer} >= $len + 8)
			{
				my $payload = substr($self->{buffer}, 7, $len);
				substr($self->{buffer}, 0, $len + 8, '');
				return ($type, $payload);
			}
		}
		return unless IO::Select->new($self->{socket})->can_read($seconds // 5);
		my $n = $self->{socket}->sysread($self->{buffer}, 1 << 17, length $self->{buffer});
		die 'connection closed by the broker' unless $n;
	}
}

sub expect
{
	my ($self, $class, $method) = @_;
	while (my ($type, $payload) = $self->frame(60))
	{
		next if $type != 1;
		my ($c, $m) = unpack('nn', $payload);
		return $payload if $c == $class && $m == $method;
		die "expected $class.$method, got $c.$m: " . ($payload =~ s/[^ -~]+/ /gr);
	}
	die "no answer, expected $class.$method";
}

# Field table: names to values; only what the tests look at is decoded.
sub table
{
	my ($bytes) = @_;
	my %table;
	while (length $bytes)
	{
		my $name = unpack('C/a', $bytes);
		substr($bytes, 0, 1 + length $name, '');
		my $kind = substr($bytes, 0, 1, '');
		if ($kind eq 'S') { $table{$name} = unpack('N/a', $bytes); substr($bytes, 0, 4 + length $table{$name}, ''); }
		elsif ($kind =~ /[lTL]/) { $table{$name} = unpack('q>', $bytes); substr($bytes, 0, 8, ''); }
		elsif ($kind =~ /[Ii]/) { $table{$name} = unpack('l>', $bytes); substr($bytes, 0, 4, ''); }
		else { last; }
	}
	return \%table;
}

# A content header's properties by name (AMQP 0-9-1, section 4.2.6.1).
sub properties
{
	my ($payload) = @_;
	my $size = unpack('x4 Q>', $payload);
	my $flags = unpack('x12 n', $payload);
	my $rest = substr($payload, 14);
	my %p = (size => $size);
	my @known = (
		[ 15, 'content_type', 's' ], [ 14, 'content_encoding', 's' ], [ 13, 'headers', 't' ],
		[ 12, 'delivery_mode', 'C' ], [ 11, 'priority', 'C' ], [ 10, 'correlation_id', 's' ],
		[ 9, 'reply_to', 's' ], [ 8, 'expiration', 's' ], [ 7, 'message_id', 's' ],
		[ 6, 'timestamp', 'q' ], [ 5, 'type', 's' ], [ 4, 'user_id', 's' ], [ 3, 'app_id', 's' ]);
	foreach (@known)
	{
		my ($bit, $name, $kind) = @$_;
		next unless $flags & 1 << $bit;
		if ($kind eq 's') { $p{$name} = unpack('C/a', $rest); substr($rest, 0, 1 + length $p{$name}, ''); }
		elsif ($kind eq 'C') { $p{$name} = unpack('C', $rest); substr($rest, 0, 1, ''); }
		elsif ($kind eq 'q') { $p{$name} = unpack('Q>', $rest); substr($rest, 0, 8, ''); }
		else { my $t = unpack('N/a', $rest); substr($rest, 0, 4 + length $t, ''); $p{$name} = table($t); }
	}
	return \%p;
}

# Properties of a message as they are on the wire, and their flags.
sub encode_properties
{
	my ($m) = @_;
	my ($flags, $bytes) = (1 << 12, '');
	if (defined $m->{content_type}) { $flags |= 1 << 15; $bytes .= shortstr($m->{content_type}); }
	if ($m->{table}) { $flags |= 1 << 13; $bytes .= longstr($m->{table}); }
	if ($m->{headers})
	{
		$flags |= 1 << 13;
		$bytes .= longstr(join '', map { my $v = $m->{headers}{$_}; shortstr($_) . ($v =~ /^[0-9]+$/ ? 'l' . pack('q>', $v) : 'S' . longstr($v)) } sort keys %{ $m->{headers} });
	}
	$bytes .= pack('C', 2);	# persistent
	if (defined $m->{correlation_id}) { $flags |= 1 << 10; $bytes .= shortstr($m->{correlation_id}); }
	if (defined $m->{message_id}) { $flags |= 1 << 7; $bytes .= shortstr($m->{message_id}); }
	if (defined $m->{type}) { $flags |= 1 << 5; $bytes .= shortstr($m->{type}); }
	return pack('n', $flags) . $bytes;
}

# Messages { message_id, type, correlation_id, content_type, headers, body } to a queue (or
# table, in place of headers: such a field table as it is on the wire);
# returns when the broker has confirmed all of them. Dies when there is no such queue.
sub publish
{
	my ($self, $queue, @messages) = @_;
	my $bytes = '';
	my $before = $self->{published} // 0;
	$self->{published} = $before + @messages;
	my %unconfirmed = map { $_ => 1 } $before + 1 .. $self->{published};    # a later one may be confirmed first
	$self->method(1, 85, 10, "\0");
	$self->expect(85, 11);
	foreach my $m (@messages)
	{
		my $method = pack('nn n', 60, 40, 0) . shortstr('') . shortstr($queue) . "\1";	# mandatory
		my $header = pack('nn Q>', 60, 0, length $m->{body}) . encode_properties($m);
		$bytes .= pack('CnN', 1, 1, length $method) . $method . "\xCE" . pack('CnN', 2, 1, length $header) . $header . "\xCE";
		for (my $at = 0; $at < length $m->{body}; $at += 100000)
		{
			my $part = substr($m->{body}, $at, 100000);
			$bytes .= pack('CnN', 3, 1, length $part) . $part . "\xCE";
		}
	}
	while (length $bytes)
	{
		my $n = $self->{socket}->syswrite($bytes, 65536) // die "cannot write: $!";
		substr($bytes, 0, $n, '');
	}
	while (%unconfirmed)
	{
		my ($tag, $multiple) = unpack('x4 Q> C', $self->expect(60, 80));
		delete @unconfirmed{ $multiple ? grep { $_ <= $tag } keys %unconfirmed : $tag };
	}
}

sub consume
{
	my ($self, $queue, $count, $patience) = @_;
	my (@messages, $message, $asked, $times);
	$self->method(1, 60, 20, pack('n', 0) . shortstr($queue) . shortstr('') . "\x02" . pack('N', 0));	# no-ack
	while (1)
	{
		my ($type, $payload) = $self->frame(@messages < $count ? $patience : $asked ? 60 : 0.5);
		if (!defined $type)
		{
			last if @messages < $count || $asked;
			# a busy broker may take a break: what it has sent before it answers is all there is
			$asked = 1;
			$self->method(1, 50, 10, pack('n', 0) . shortstr($queue) . "\x01" . pack('N', 0));
			next;
		}
		if ($type == 1)
		{
			my ($class, $method) = unpack('nn', $payload);
			if ($class == 50 && $method == 11)
			{
				last if (unpack('x4 C/a N', $payload))[1] == 0 || ++$times > 100;
				$asked = 0;
			}
			die 'broker closed the channel: ' . ($payload =~ s/[^ -~]+/ /gr) if $class == 20 || $class == 10;
			if ($class == 60 && $method == 60)
			{
				my ($tag, $delivery, $redelivered, $exchange, $key) = unpack('x4 C/a Q> C C/a C/a', $payload);
				$message = { exchange => $exchange, routing_key => $key, body => '' };
			}
		}
		elsif ($type == 2)
		{
			%$message = (%$message, %{ properties($payload) });
			push @messages, $message if $message->{size} == 0;
		}
		elsif ($type == 3)
		{
			$message->{body} .= $payload;
			push @messages, $message if length $message->{body} == $message->{size};
		}
	}
	return \@messages;
}

sub close
{
	my ($self) = @_;
	$self->method(0, 10, 50, pack('n', 200) . shortstr('') . pack('nn', 0, 0));
	eval { $self->expect(10, 51) };
	close $self->{socket};
}

1;
