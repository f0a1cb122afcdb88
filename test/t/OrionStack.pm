# All of Orion for a test: a server with the extension and its gateway, and sinks on
# real brokers.
#
#   my $stack = OrionStack->new('name', redis => {...}, rabbitmq => {...}, conf => '...');
#   $stack->node; $stack->redis; $stack->rabbit;	# Cluster, OrionServices
#   my $answer = $stack->http('POST', '/rest/v1/rpc/f', json => {...}, token => $token);
#   $answer->{status}; $answer->{json}; $answer->{headers}{allow};
#   $stack->talk("GET / HTTP/1.1\r\n...");	# any bytes
#
# redis and rabbitmq: what the sink's configuration holds beside its url; a sink exists
# where it is given.  The sinks are named redis and rabbitmq.
package OrionStack;

use strict;
use warnings;

use IO::Handle;
use IO::Select;
use IO::Socket::INET;
use JSON::PP ();
use OrionServices;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(time);

my @stacks;
my $json = JSON::PP->new->utf8->canonical->allow_nonref;

sub new
{
	my ($class, $name, %options) = @_;
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my $node = PostgreSQL::Test::Cluster->new($name);
	my $self = bless { http_port => $port, node => $node, owner => $$ }, $class;

	push @stacks, $self;
	$self->{redis} = OrionServices->start_redis(password => 'the-password-of-redis') if $options{redis};
	$self->{rabbit} = OrionServices->start_rabbitmq() if $options{rabbitmq};
	$node->init;
	$node->append_conf('postgresql.conf', qq{
shared_preload_libraries = 'orion'
max_worker_processes = 16
max_connections = 50
restart_after_crash = on
orion.http_port = $port
orion.http_listen_addresses = '127.0.0.1'
orion.executor_count = 2
} . ($options{conf} // ''));
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION orion');
	$self->add_sink('redis', { url => $self->{redis}->url, %{ $options{redis} } }) if $options{redis};
	$self->add_sink('rabbitmq', { url => $self->{rabbit}->url, %{ $options{rabbitmq} } }) if $options{rabbitmq};
	$self->until_true(sub { $self->is_ready && $self->sinks_run })
	  or die "not ready: " . $self->workers . $node->log_content_tail;
	return $self;
}

sub PostgreSQL::Test::Cluster::log_content_tail { return substr(slurp_file($_[0]->logfile), -2000); }

sub node { return $_[0]{node}; }
sub redis { return $_[0]{redis}; }
sub rabbit { return $_[0]{rabbit}; }

sub sql { my ($self, $sql) = @_; return $self->{node}->safe_psql('postgres', $sql); }

# As sql, but undef while the server does not answer.
sub try_sql
{
	my ($self, $sql) = @_;
	my ($status, $out) = $self->{node}->psql('postgres', $sql);
	return defined $status && $status == 0 ? $out : undef;
}

sub add_sink
{
	my ($self, $kind, $config) = @_;
	$self->sql("SELECT orion_sink_create('$kind', '$kind', \$json\$" . $json->encode($config) . "\$json\$)");
}

sub workers { return $_[0]->try_sql('SELECT * FROM orion.workers ORDER BY kind, name') // 'no server'; }

# A column of a worker's row; the empty text when there is none.
sub worker
{
	my ($self, $column, $kind, $name) = @_;
	my $where = defined $name ? " AND name = '$name'" : '';
	return $self->try_sql("SELECT $column FROM orion.workers WHERE kind = '$kind'$where LIMIT 1") // '';
}

sub sinks_run
{
	my ($self) = @_;
	return ($self->try_sql(q{
SELECT count(*) = (SELECT count(*) FROM orion_private.sinks) FROM orion.workers
WHERE kind = 'relay' AND state = 'running' AND program_pid IS NOT NULL}) // '') eq 't';
}

# Do all workers run, or will they in a moment?
sub all_run
{
	my ($self) = @_;
	return $self->until_true(sub { ($self->try_sql("SELECT count(*) FROM orion.workers WHERE state <> 'running'") // '') eq '0' });
}

# --- polling ---------------------------------------------------------------------

sub until_true
{
	my ($self, $condition, $seconds) = @_;
	return OrionServices::poll_until($condition, $seconds // 60);
}

# How long a condition took to come true; undef when it did not.
sub time_until
{
	my ($self, $condition, $seconds) = @_;
	my $from = time;
	return $self->until_true($condition, $seconds) ? time - $from : undef;
}

# What the code prints in so many processes at once; it is given their numbers, from 1.
sub at_once
{
	my ($n, $code) = @_;
	my @pipes;
	for my $i (1 .. $n)
	{
		my $pid = open(my $pipe, '-|') // die "fork: $!";
		if ($pid == 0)
		{
			print $code->($i);
			close STDOUT;
			POSIX::_exit(0);
		}
		push @pipes, $pipe;
	}
	return map { local $/; my $text = <$_>; close $_; $text } @pipes;
}

# Is this process over? One that nobody has waited for yet is.
sub is_gone
{
	my ($pid) = @_;
	open(my $status, '<', "/proc/$pid/status") or return 1;
	local $/;
	return <$status> =~ /^State:\s+[ZX]/m ? 1 : 0;
}

# The processes that these have started.
sub children_of
{
	my %parents = map { $_ => 1 } @_;
	my @children;

	foreach my $dir (glob '/proc/[0-9]*')
	{
		my ($pid, $parent) = OrionServices::slurp("$dir/stat") =~ /^(\d+) \(.*\) \S (\d+) /s or next;
		push @children, $pid if $parents{$parent};
	}
	return @children;
}

# Kills a server with -9 and waits until all its processes are gone, so that it can be
# started again; returns its process id.
sub kill_server
{
	my ($node) = @_;
	my ($server) = OrionServices::slurp($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
	my @children = children_of($server);
	$node->kill9;
	OrionServices::poll_until(sub { !grep { !is_gone($_) } $server, @children }, 30) or die 'the server does not die';
	# The next one asks whether a process has this number. A zombie has, and where
	# process 1 takes no notice of zombies, as in some containers, it stays one.
	unlink $node->data_dir . '/postmaster.pid', $node->host . '/.s.PGSQL.' . $node->port . '.lock'
	  unless OrionServices::poll_until(sub { !kill(0, $server) }, 2);
	return $server;
}

sub kill_and_start
{
	my ($node) = @_;
	kill_server($node);
	$node->start;
}

# --- HTTP ------------------------------------------------------------------------

# All that is answered to these bytes; undef when nobody listens.
sub talk
{
	my ($self, $bytes, $seconds) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->{http_port}, Timeout => 20) or return undef;
	my ($heard, $end) = ('', time + ($seconds // 60));
	local $SIG{PIPE} = 'IGNORE';

	binmode $socket;
	while (length $bytes)
	{
		my $n = syswrite($socket, $bytes);
		last unless $n;	# refused early: the answer is there already
		substr($bytes, 0, $n, '');
	}
	while (time < $end)
	{
		next unless IO::Select->new($socket)->can_read(0.1);
		last unless sysread($socket, $heard, 65536, length $heard);
	}
	return $heard;
}

# The parts of an answer; status 0 when there is none.
sub parse
{
	my ($text) = @_;
	my %answer = (status => 0, headers => {}, body => '');
	return \%answer unless defined $text && $text =~ s{^HTTP/1\.1 (\d{3})[^\r]*\r\n}{};
	$answer{status} = $1;
	$answer{headers}{ lc $1 } = $2 while $text =~ s/^([^:\r\n]+):[ \t]*([^\r\n]*)\r\n//;
	$text =~ s/^\r\n//;
	$answer{body} = $text;
	$answer{json} = eval { $json->decode($text) } if ($answer{headers}{'content-type'} // '') =~ /json/;
	return \%answer;
}

# Options: json or body, token, headers => { name => value }.
sub request_bytes
{
	my ($method, $target, %options) = @_;
	my %headers = (Host => 'localhost', Connection => 'close', %{ $options{headers} // {} });
	my $body = exists $options{json} ? $json->encode($options{json}) : $options{body};

	$headers{Authorization} = "Bearer $options{token}" if defined $options{token};
	if (defined $body)
	{
		$headers{'Content-Type'} //= 'application/json';
		$headers{'Content-Length'} //= length $body;
	}
	return "$method $target HTTP/1.1\r\n" . join('', map { "$_: $headers{$_}\r\n" } sort keys %headers) . "\r\n" . ($body // '');
}

sub http { my ($self, @request) = @_; return parse($self->talk(request_bytes(@request))); }

sub is_ready { return $_[0]->http('GET', '/ready')->{status} == 200; }

# --- load ------------------------------------------------------------------------
#
# Writers publish events and note each event's id in the table "committed", in the
# same transaction: whatever happens to it, the table holds exactly what was committed.

my $publish = 'SELECT load_publish';

sub prepare_load
{
	my ($self) = @_;
	$self->sql(q{
CREATE TABLE committed (id uuid NOT NULL, type text NOT NULL);
CREATE FUNCTION load_publish(type text, n int DEFAULT 0) RETURNS uuid LANGUAGE plpgsql VOLATILE SECURITY DEFINER AS $$
DECLARE
	event uuid := public.orion_publish(type, pg_catalog.jsonb_build_object('n', n), 'thing', n::text, 'correlation');
BEGIN
	INSERT INTO public.committed VALUES (event, type);
	RETURN event;
END $$;
CREATE FUNCTION write_one(n int, undo boolean) RETURNS uuid LANGUAGE plpgsql VOLATILE SECURITY DEFINER AS $$
DECLARE
	event uuid := public.load_publish('load.http', n);
BEGIN
	IF undo THEN
		RAISE EXCEPTION 'undone';
	END IF;
	RETURN event;
END $$;
});
	$self->{script} = $self->{node}->basedir . '/load.sql';
	OrionServices::write_file($self->{script}, <<"SCRIPT");
\\set n random(1, 1000)
BEGIN;
$publish('load.first', :n);
SAVEPOINT a;
$publish('load.second', :n);
\\if :n <= 300
ROLLBACK TO a;
\\else
RELEASE a;
\\endif
\\if :n % 10 = 0
ROLLBACK;
\\else
COMMIT;
\\endif
SCRIPT
}

# Starts a process in which code runs, or which the code becomes; it must not return.
sub spawn
{
	my ($code) = @_;
	my $pid = fork // die "fork: $!";
	if ($pid == 0)
	{
		eval { $code->() };
		POSIX::_exit(1);
	}
	return $pid;
}

# pgbench with rollbacks and savepoints, that many transactions a second; started again
# when the server has broken its connections.
sub tend_writers
{
	my ($self, $rate) = @_;
	$self->{rate} = $rate // $self->{rate};
	return if $self->{writers} && waitpid($self->{writers}, POSIX::WNOHANG()) == 0;
	my $node = $self->{node};
	$self->{writers} = spawn(sub {
		open(STDOUT, '>>', "$self->{script}.log");
		open(STDERR, '>&', \*STDOUT);
		exec('pgbench', '-n', '-h', $node->host, '-p', $node->port, '-c', 4, '-T', 600, '-R', $self->{rate}, '-f', $self->{script}, 'postgres');
	});
}

# Requests over HTTP, every fifth of which fails; the ids of those answered with 200 go to a file.
sub start_http_writer
{
	my ($self) = @_;
	$self->{answers} = $self->{node}->basedir . '/answers';
	$self->{http_writer} = spawn(sub {
		open(my $answers, '>', $self->{answers});
		$answers->autoflush(1);
		for (my $n = 1;; $n++)
		{
			my $answer = $self->http('POST', '/rest/v1/rpc/write_one', json => { n => $n, undo => $n % 5 ? \0 : \1 });
			print $answers "$answer->{status} $answer->{body}\n";
			select(undef, undef, undef, 0.01);
		}
	});
}

# Ends the writers; returns the ids that clients over HTTP were told are committed.
sub stop_writers
{
	my ($self) = @_;
	foreach my $pid (grep { $_ } delete @$self{qw(writers http_writer)})
	{
		kill 'KILL', $pid;
		waitpid($pid, 0);
	}
	# a statement of a killed client may go on for a moment
	$self->until_true(sub { ($self->try_sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench' OR backend_type = 'orion executor' AND state = 'active'") // '') eq '0' }, 30);
	return [ OrionServices::slurp($self->{answers} // '') =~ /^200 "([0-9a-f-]{36})"$/mg ];
}

sub committed { return [ split /\n/, $_[0]->sql('SELECT id FROM committed') ]; }
sub committed_count { return $_[0]->try_sql('SELECT count(*) FROM committed') || 0; }

# --- what has arrived --------------------------------------------------------------

my $lua = <<'LUA';
local found = {}
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) do
	for i = 1, #entry[2], 2 do
		if entry[2][i] == ARGV[1] then found[#found + 1] = entry[2][i + 1] end
	end
end
return found
LUA

# One field of every entry of a stream, in order.
sub redis_field
{
	my ($self, $field, $stream) = @_;
	return [ split /\n/, $self->{redis}->command('EVAL', $lua, 1, $stream // 'orion:events', $field) ];
}

sub redis_count
{
	my ($self) = @_;
	my $count = $self->{redis}->command('XLEN', 'orion:events');
	return $count =~ /^\d+$/ ? $count : 0;
}

# Messages ready in a queue; -1 when there is no such queue, or no broker.
sub rabbit_count
{
	my ($self, $queue) = @_;
	my $count = eval {
		my $client = OrionServices::AMQP->new($self->{rabbit}->port);
		$client->method(1, 50, 10, pack('n', 0) . OrionServices::AMQP::shortstr($queue) . "\x01" . pack('N', 0));
		my $answer = $client->expect(50, 11);
		$client->close;
		(unpack('x4 C/a N', $answer))[1];
	};
	return $count // -1;
}

# Publishes a last event and waits until every sink has been given all up to it.
sub drained
{
	my ($self, $seconds) = @_;
	my $out = $self->sql("BEGIN; $publish('load.last'); SELECT pg_current_xact_id(); COMMIT");
	my ($xid) = $out =~ /(\d+)\s*$/;
	return $self->until_true(sub {
		($self->try_sql("SELECT bool_and(upto_snapshot IS NULL AND pg_visible_in_snapshot('$xid', from_snapshot)) FROM orion_private.cursors") // '') eq 't';
	}, $seconds // 60);
}

# Compares what arrived with what was committed: (lost, never committed, extra copies).
sub compare
{
	my ($committed, $arrived) = @_;
	my %wanted = map { $_ => 1 } @$committed;
	my (%seen, $strange, $doubled);

	($strange, $doubled) = (0, 0);
	foreach (@$arrived)
	{
		$strange++ unless $wanted{$_};
		$doubled++ if $seen{$_}++;
	}
	return (scalar(grep { !$seen{$_} } @$committed), $strange, $doubled);
}

END
{
	my $status = $?;
	foreach my $stack (@stacks)
	{
		next if $stack->{owner} != $$;
		kill 'KILL', $_ foreach grep { $_ } @$stack{qw(writers http_writer)};
	}
	$? = $status;
}

1;
