# Events for sinks of every kind while whatever takes part is killed.
#
#   my $faults = OrionFaults->new(kinds => ['kafka'], events => 100_000, seed => 1);
#   $faults->run;	# writes, kills, waits until all is delivered
#   $faults->verdict($_) foreach $faults->sinks;	# tests
#
# Eight writers publish events of 200 keys, which they count: event number n of a key comes
# before number n + 1. In the same transaction they note what they have published, so the
# table "committed" holds exactly what has to arrive. They roll back, and back to savepoints;
# they prepare transactions, and those that a crash leaves in doubt are decided afterwards.
# One transaction stays open for the whole run (and is begun anew after a crash).
#
# Relays, couriers, brokers, the server's workers and the server are killed when so many
# events are committed as the seed says.
package OrionFaults;

use strict;
use warnings;

use File::Path ();
use OrionServices;
use OrionStack;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $keys = 200;
my $runs = 0;
my $tree = $ENV{ORION_TREE} // "$FindBin::Bin/../..";

my %classes = (
	redis => 'OrionFaults::RedisStream',
	redis_cluster => 'OrionFaults::RedisCluster',
	redis_pubsub => 'OrionFaults::RedisChannel',
	redis_cache => 'OrionFaults::RedisCache',
	rabbitmq => 'OrionFaults::RabbitMQ',
	rabbitmq_quorum => 'OrionFaults::RabbitMQ',
	kafka => 'OrionFaults::Kafka',
	webhooks => 'OrionFaults::Webhooks',
	handlers => 'OrionFaults::Handlers');

sub kinds { return sort keys %classes; }

sub new
{
	my ($class, %options) = @_;
	my $self = bless { kills => {}, waits => 120 + $options{events} / 100, %options }, $class;
	my $node = $self->{node} = PostgreSQL::Test::Cluster->new('faults' . ++$runs);

	$self->{sinks} = [ map { ($classes{$_} // die "no such sink: $_")->new(name => $_, faults => $self) } @{ $options{kinds} } ];
	$node->init;
	$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'orion'
max_worker_processes = 40
max_connections = 60
max_prepared_transactions = 40
restart_after_crash = on
log_statement = none
log_min_duration_statement = -1
log_connections = off
log_disconnections = off
orion.http_port = 0
orion.outbox_max_attempts = 50
orion.webhook_retry_schedule = '200ms, 500ms} . ', 1s' x 30 . q{'
orion.webhook_timeout = '1s'
orion.webhook_allowed_networks = '127.0.0.0/8'
orion.webhook_allow_http = on
});
	$node->start;
	$self->sql(qq{
CREATE EXTENSION orion;
CREATE TABLE counters (k int PRIMARY KEY, n int NOT NULL) WITH (fillfactor = 20);
INSERT INTO counters SELECT k, 0 FROM generate_series(1, $keys + 1) k;
CREATE TABLE committed (id uuid NOT NULL, k int NOT NULL, n int NOT NULL);
CREATE FUNCTION say(type text, key int) RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE
	number int;
BEGIN
	UPDATE counters SET n = n + 1 WHERE k = key RETURNING n INTO number;
	INSERT INTO committed VALUES (orion_publish(type, jsonb_build_object('k', key, 'n', number), 'key', key::text), key, number);
END \$\$;
CREATE FUNCTION unsay(key int) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM say('fault.undone', key);
	RAISE division_by_zero;
EXCEPTION WHEN division_by_zero THEN NULL;
END \$\$;
});
	# brokers start beside each other
	$_->prepare foreach $self->sinks;
	foreach my $sink ($self->sinks)
	{
		$sink->{broker}->await if $sink->{broker};
		$self->sql($sink->sql);
	}
	$self->until_true(sub { $self->all_run }, 'the sinks run') or BAIL_OUT('no sinks');
	$self->{script} = $node->basedir . '/write.sql';
	OrionServices::write_file($self->{script}, write_script());
	return $self;
}

# Keys are locked in ascending order.
sub write_script
{
	return <<"SCRIPT";
\\set k random(1, $keys - 1)
\\set l random(:k + 1, $keys)
\\set what random(1, 100)
\\set place random(1, 9)
\\set gid random(1, 1000000000)
BEGIN;
SELECT say('fault.first', :k);
\\if :place = 1
SELECT unsay(:k);
\\endif
SAVEPOINT a;
SELECT say('fault.second', :l);
SAVEPOINT b;
SELECT say('fault.third', :l);
\\if :place <= 3
ROLLBACK TO a;
\\elif :place <= 5
ROLLBACK TO b;
\\else
RELEASE a;
\\endif
SELECT say('fault.last', :l);
\\if :what <= 10
ROLLBACK;
\\elif :what <= 13
PREPARE TRANSACTION 'fault :gid';
ROLLBACK PREPARED 'fault :gid';
\\elif :what <= 20
PREPARE TRANSACTION 'fault :gid';
COMMIT PREPARED 'fault :gid';
\\else
COMMIT;
\\endif
SCRIPT
}

sub node { return $_[0]{node}; }
sub sinks { return @{ $_[0]{sinks} }; }
sub sql { my ($self, $sql) = @_; return $self->{node}->safe_psql('postgres', $sql); }
sub try_sql { my ($self, $sql) = @_; return OrionStack::try_sql($self, $sql); }

sub until_true
{
	my ($self, $condition, $name, $seconds) = @_;
	my $true = OrionServices::poll_until($condition, $seconds // $self->{waits});
	ok($true, sprintf('%s (after %.0f s)', $name, time - $^T)) or diag($self->picture);
	return $true;
}

# What somebody would look at who could.
sub picture
{
	my ($self) = @_;
	return join "\n", map { "$_:\n" . ($self->try_sql("SELECT * FROM $_ LIMIT 20") // 'no answer') }
	  qw(orion.workers orion.sinks orion_private.cursors orion.parked_events orion.dead_letters orion.webhooks orion.webhook_deliveries pg_prepared_xacts);
}

sub all_run
{
	my ($self) = @_;
	return ($self->try_sql(q{SELECT bool_and(state = 'running' AND last_error IS NULL) FROM orion.sinks}) // '') eq 't';
}

# --- writers -----------------------------------------------------------------------

# Lets eight writers write, again after a crash: first what it has left in doubt is decided.
sub tend
{
	my ($self) = @_;
	return if $self->{writers} && $self->{writers}->alive;
	return unless $self->decide && $self->open_one;
	$self->{writers} = OrionFaults::Writers->new(faults => $self, turn => ++$self->{turns})->launch;
}

sub decide
{
	my ($self) = @_;
	my $names = $self->try_sql("SELECT gid FROM pg_prepared_xacts WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'pgbench')");
	return 0 unless defined $names;
	foreach (split /\n/, $names)
	{
		my $what = rand() < 0.5 ? 'COMMIT' : 'ROLLBACK';
		defined $self->try_sql("$what PREPARED '$_'") or return 0;
		$self->{decided}++;
	}
	return 1;
}

# The transaction that stays open, with an event of its own. False: not yet, for the server is
# away, or was just then taken away by a kill.
sub open_one
{
	my ($self) = @_;
	my $there = $self->try_sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'fault open'") // return 0;
	return 1 if $there ne '0';
	$self->{open}->stop if $self->{open};
	my $open = $self->{open} = OrionFaults::OpenTransaction->new(faults => $self)->launch;
	OrionServices::poll_until(sub { $open->is_ready || !$open->alive }, 90);
	return $open->is_ready && $open->alive;
}

# --- kills ---------------------------------------------------------------------------

# Numbers of committed events, and who is killed then. The server itself comes last.
sub kill_plan
{
	my ($self) = @_;
	my $events = $self->{events};
	my @who = (('relay', 'courier') x (2 + $events / 8000), ('crash') x ($events >= 20_000 ? 2 : 1));
	foreach my $sink (grep { $_->{broker} && !$_->{spared} } $self->sinks)
	{
		push @who, ($sink) x (1 + $events / 40_000);
	}
	my %at = map { $_ => int(rand($events * 0.85)) + 50 } 0 .. $#who;
	return ((map { [ $at{$_}, $who[$_] ] } sort { $at{$a} <=> $at{$b} } keys %at), [ int($events * (0.86 + rand() * 0.1)), 'server' ]);
}

# A number from a query, one of its rows.
sub one_of
{
	my ($self, $query) = @_;
	my @rows = grep { /^\d+$/ } split /\n/, $self->try_sql($query) // '';
	return @rows ? $rows[ rand @rows ] : undef;
}

# Kills; false when there was nothing to kill just now.
sub kill_one
{
	my ($self, $who) = @_;
	if (ref $who)
	{
		return 0 unless $who->broker_ready;
		$who->kill_broker;
		$self->{kills}{broker}++;
	}
	elsif ($who eq 'relay')
	{
		my $pid = $self->one_of(q{SELECT pid FROM orion.workers WHERE kind = 'relay' AND pid IS NOT NULL}) // return 0;
		return 0 unless ($self->try_sql("SELECT pg_terminate_backend($pid)") // '') eq 't';
		$self->{kills}{relay}++;
	}
	elsif ($who eq 'courier' || $who eq 'crash')
	{
		my $column = $who eq 'courier' ? 'program_pid' : 'pid';
		return 1 if $who eq 'courier' && !grep { !$_->{inside} } $self->sinks;
		my $pid = $self->one_of("SELECT $column FROM orion.workers WHERE kind = 'relay' AND $column IS NOT NULL") // return 0;
		return 0 unless kill 'KILL', $pid;
		$self->{kills}{ $who eq 'crash' ? 'relay -9' : $who }++;
	}
	else
	{
		OrionStack::kill_and_start($self->{node});
		$self->{kills}{server}++;
	}
	return 1;
}

# --- a run -----------------------------------------------------------------------------

sub run
{
	my ($self) = @_;
	my ($from, $committed) = (time, 0);
	srand($self->{seed});
	my @plan = $self->kill_plan;
	my $end = time + 10 * $self->{waits};

	while ((@plan || $committed < $self->{events}) && time < $end)
	{
		$self->tend if $committed < $self->{events};
		$self->look;
		$committed = $self->try_sql('SELECT count(*) FROM committed') // $committed;
		shift @plan if @plan && $committed >= $plan[0][0] && $self->kill_one($plan[0][1]);
		if ($committed >= $self->{events} && $self->{writers})
		{
			$self->{written} //= time - $from;
			(delete $self->{writers})->stop;
		}
	}
	cmp_ok($committed, '>=', $self->{events}, "$committed events are committed") or diag($self->picture);
	is(scalar @plan, 0, 'all kills were done: ' . $self->kills);
	$self->finish;
	$self->{seconds} = time - $from;
	note(sprintf('%d events written in %.0f s, all delivered after %.0f s', $committed, $self->{written} // 0, $self->{seconds}));
}

sub look { my ($self) = @_; $_->look foreach $self->sinks; }

sub kills { my ($self) = @_; return join ', ', map { "$_ $self->{kills}{$_}" } sort keys %{ $self->{kills} }; }

# Everything ends well: what is in doubt is decided, the open transaction commits.
sub finish
{
	my ($self) = @_;
	$self->until_true(sub { $self->decide && ($self->try_sql('SELECT count(*) FROM pg_prepared_xacts') // '') eq '0' }, 'nothing is left in doubt');
	foreach my $sink ($self->sinks)
	{
		next unless $sink->{broker};
		$self->until_true(sub { $sink->broker_ready }, "the broker of $sink->{name} is back", 90);
	}
	$self->until_true(sub { $self->open_one }, 'a transaction is open');	# the server was killed since
	my $open = $self->{open}->id;
	$self->until_true(sub { $self->look; $self->drained }, 'all is delivered but the open transaction');
	$_->{before_open} = $_->arrived_once($open) foreach $self->sinks;
	$self->{open}->commit;
	$self->until_true(sub { ($self->try_sql("SELECT count(*) FROM committed WHERE id = '$open'") // '') eq '1' }, 'it commits');
	$self->until_true(sub { $self->look; $self->drained }, 'and is delivered');
	$self->until_true(sub { $self->all_run && ($self->try_sql('SELECT sum(lag_events) FROM orion.sinks') // '') eq '0' }, 'the views say that all is well', 60);
	is($self->sql('SELECT count(*) FROM orion.dead_letters'), '0', 'no dead letters') or diag($self->picture);
	my $rows = $self->sql('SELECT id, k, n FROM committed');
	$self->{committed} = { map { my ($id, $k, $n) = split /\|/; $id => [ $k, $n ] } split /\n/, $rows };
	my $log = slurp_file($self->{node}->logfile);
	unlike($log, qr/PANIC|TRAP|terminated by signal (?!9\b)/, 'no crash of our own in the log');
}

# Publishes a last event; true when all sinks have been given that and so all before it.
sub drained
{
	my ($self) = @_;
	unless ($self->{mark})
	{
		my $said = $self->try_sql("BEGIN; SELECT say('fault.mark', $keys + 1); SELECT pg_current_xact_id(); COMMIT") // return 0;
		($self->{mark}) = $said =~ /(\d+)\s*$/;
	}
	my $given = $self->try_sql(qq{
SELECT bool_and(upto_snapshot IS NULL AND pg_visible_in_snapshot('$self->{mark}', from_snapshot)) AND
	NOT EXISTS (SELECT FROM orion.parked_events) AND NOT EXISTS (SELECT FROM orion.webhook_deliveries)
FROM orion_private.cursors}) // '';
	return 0 unless $given eq 't';
	delete $self->{mark};
	return 1;
}

# --- verdict ---------------------------------------------------------------------------

# Compares what arrived, in its order, with what was committed; the order of a key is that of
# first deliveries. furthest is how many events were delivered between an event and its double.
sub compare
{
	my ($self, $arrived) = @_;
	my (%seen, %last, $count);
	my %found = (lost => 0, strange => 0, twice => 0, disorder => 0, furthest => 0);

	foreach my $id (@$arrived)
	{
		my $known = $self->{committed}{$id};
		if (!$known) { $found{strange}++; next; }
		if (exists $seen{$id})
		{
			$found{twice}++;
			$found{furthest} = $count - $seen{$id} if $count - $seen{$id} > $found{furthest};
			next;
		}
		$seen{$id} = ++$count;
		my ($k, $n) = @$known;
		$found{disorder}++ if $n <= ($last{$k} // 0);
		$last{$k} = $n;
	}
	$found{lost} = keys(%{ $self->{committed} }) - keys %seen;
	$found{delivered} = keys %seen;
	return \%found;
}

sub verdict
{
	my ($self, $sink) = @_;
	my $name = $sink->{name};
	is($sink->{before_open}, 0, "$name: nothing of the open transaction came before its commit");
	foreach my $part ($sink->parts)
	{
		my ($what, $arrived, %promise) = @$part;
		my $found = $self->compare($arrived);
		is($found->{lost}, 0, "$what: none of @{[ scalar keys %{ $self->{committed} } ]} events is lost");
		is($found->{strange}, 0, "$what: none came that was rolled back");
		is($found->{disorder}, 0, "$what: each key in order") if $promise{order};
		my $most = $promise{once} ? 0 : ($sink->{in_flight} // 0) * $self->all_kills;
		cmp_ok($found->{twice}, '<=', $most, $promise{once} ? "$what: none twice" : "$what: $found->{twice} twice, no more than were in flight at kills");
		cmp_ok($found->{furthest}, '<=', 2 * $sink->{in_flight}, "$what: and not far apart") if $promise{order} && !$promise{once};
		$self->say_figures($what, $found, $promise{order});
	}
	$sink->more_tests;
}

sub all_kills { my ($self) = @_; my $sum = 0; $sum += $_ foreach values %{ $self->{kills} }; return $sum; }

sub say_figures
{
	my ($self, $what, $found, $order) = @_;
	diag(sprintf("%s: %d delivered, %d lost, %d rolled back, %d twice (%d apart), %s; kills: %s; %.0f s; seed %s",
		$what, @$found{qw(delivered lost strange twice furthest)}, $order ? "$found->{disorder} out of order" : 'order not promised',
		$self->kills, $self->{seconds}, $self->{seed}));
}

#---------------------------------------------------------------------------
# pgbench, known by its process id and ended with the test.
package OrionFaults::Writers;

use strict;
use warnings;
our @ISA = ('OrionServices');

sub is_ready { return 1; }

sub command_line
{
	my ($self) = @_;
	my $faults = $self->{faults};
	my $node = $faults->{node};
	return ('pgbench', '-n', '-h', $node->host, '-p', $node->port, '-c', 8, '-j', 2, '-T', 3600, '-R', $faults->{rate},
		'--random-seed', $faults->{seed} + $self->{turn}, '-f', $faults->{script}, 'postgres');
}

#---------------------------------------------------------------------------
package OrionFaults::OpenTransaction;

use strict;
use warnings;
our @ISA = ('OrionServices');

sub launch
{
	my ($self) = @_;
	my $node = $self->{faults}{node};
	local $ENV{PGAPPNAME} = 'fault open';
	$self->{pid} = open($self->{in}, '|-', 'psql', '-Xq', '-h', $node->host, '-p', $node->port, '-o', "$self->{dir}/id", '-d', 'postgres', '-At') or die "psql: $!";
	$self->{in}->autoflush(1);
	local $SIG{PIPE} = 'IGNORE';
	print { $self->{in} } "BEGIN;\nINSERT INTO committed VALUES (orion_publish('fault.open', '{}', 'key', '0'), 0, 1) RETURNING id;\n\\o\n";
	return $self;
}

sub id { return OrionServices::slurp("$_[0]{dir}/id") =~ /^([0-9a-f-]{36})$/m ? $1 : undef; }
sub is_ready { return defined $_[0]->id; }
sub commit { my ($self) = @_; local $SIG{PIPE} = 'IGNORE'; print { $self->{in} } "COMMIT;\n"; close $self->{in}; $self->{pid} = undef; }

#---------------------------------------------------------------------------
# What the sinks have in common. broker is a server of OrionServices; in_flight how many
# events may be on their way or confirmed without that being stored yet.
package OrionFaults::Sink;

use strict;
use warnings;

sub new
{
	my ($class, %self) = @_;
	return bless { in_flight => 8192, %self }, $class;
}

sub prepare { }
sub look { }
sub more_tests { }
sub broker_ready { my ($self) = @_; return $self->{broker} && $self->{broker}->alive && $self->{broker}->is_ready; }
sub kill_broker { my ($self) = @_; $self->{broker}->kill9->launch; }
sub arrived_once { my ($self, $id) = @_; return scalar grep { $_ eq $id } map { @{ $_->[1] } } $self->parts; }

sub create
{
	my ($self, $kind, $config) = @_;
	my $json = JSON::PP->new->canonical->encode($config);
	return "SELECT orion_sink_create('$self->{name}', '$kind', \$json\$$json\$json\$, 'fault.#')";
}

#---------------------------------------------------------------------------
package OrionFaults::RedisStream;

use strict;
use warnings;
our @ISA = ('OrionFaults::Sink');

my $lua = <<'LUA';
local found = {}
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) do
	for i = 1, #entry[2], 2 do
		if entry[2][i] == 'id' then found[#found + 1] = entry[2][i + 1] end
	end
end
return found
LUA

sub prepare { my ($self) = @_; $self->{broker} = OrionServices->start_redis(); }
sub sql { my ($self) = @_; return $self->create('redis', { url => $self->{broker}->url }); }
sub entries { my ($self, $redis, $key) = @_; return [ split /\n/, $redis->command('EVAL', $lua, 1, $key) ]; }
sub parts { my ($self) = @_; return [ 'redis', $self->entries($self->{broker}, 'orion:events'), order => 1, once => 1 ]; }

#---------------------------------------------------------------------------
# Three masters; any of them is killed.
package OrionFaults::RedisCluster;

use strict;
use warnings;
our @ISA = ('OrionFaults::RedisStream');

sub prepare
{
	my ($self) = @_;
	my @nodes;
	foreach (1 .. 3)
	{
		my $bus = OrionServices::free_port();
		push @nodes, OrionServices->start_redis(bus => $bus, conf => "cluster-enabled yes\ncluster-port $bus\ncluster-node-timeout 2000\n");
	}
	$nodes[0]->command('CLUSTER', 'ADDSLOTSRANGE', 0, 5460);
	$nodes[1]->command('CLUSTER', 'ADDSLOTSRANGE', 5461, 10922);
	$nodes[2]->command('CLUSTER', 'ADDSLOTSRANGE', 10923, 16383);
	$nodes[0]->command('CLUSTER', 'MEET', '127.0.0.1', $_->port, $_->{bus}) foreach @nodes[ 1, 2 ];
	$self->{nodes} = \@nodes;
	$self->{broker} = $nodes[0];
	OrionServices::poll_until(sub { $self->broker_ready }, 60) or die 'the cluster is not formed';
	($self->{home}) = grep { $_->command('EXISTS', '{orion}:events') =~ /^[01]$/ } @nodes;
}

sub broker_ready
{
	my ($self) = @_;
	return !grep { !$_->alive || $_->command('CLUSTER', 'INFO') !~ /cluster_state:ok.*cluster_known_nodes:3/s } @{ $self->{nodes} };
}

# The one that has the stream every other time.
sub kill_broker
{
	my ($self) = @_;
	my $victim = $self->{killed}++ % 2 ? $self->{nodes}[ rand 3 ] : $self->{home};
	$victim->kill9->launch;
}

sub sql
{
	my ($self) = @_;
	return $self->create('redis', { url => $self->{broker}->url, cluster => JSON::PP::true(), nodes => [ map { '127.0.0.1:' . $_->port } @{ $self->{nodes} } ] });
}

sub parts { my ($self) = @_; return [ 'redis_cluster', $self->entries($self->{home}, '{orion}:events'), order => 1, once => 1 ]; }

#---------------------------------------------------------------------------
# Pub/sub, with a subscriber that listens all the time. Redis itself is not killed: what it
# tells those who are not there nobody hears.
package OrionFaults::RedisChannel;

use strict;
use warnings;
our @ISA = ('OrionFaults::Sink');

sub prepare
{
	my ($self) = @_;
	$self->{broker} = OrionServices->start_redis(conf => "client-output-buffer-limit pubsub 0 0 0\n");
	$self->{spared} = 1;
	$self->{listener} = OrionFaults::Subscriber->new(redis => $self->{broker})->start;
}

sub sql { my ($self) = @_; return $self->create('redis', { url => $self->{broker}->url, stream => JSON::PP::false(), channel => 'faults' }); }

sub parts
{
	my ($self) = @_;
	return [ 'redis_pubsub', [ OrionServices::slurp("$self->{listener}{dir}/heard") =~ /"eventId": ?"([0-9a-f-]{36})"/g ], order => 1, once => 1 ];
}

#---------------------------------------------------------------------------
package OrionFaults::Subscriber;

use strict;
use warnings;
our @ISA = ('OrionServices');

sub is_ready { return OrionServices::slurp("$_[0]{dir}/heard") =~ /subscribe/; }

sub command_line
{
	my ($self) = @_;
	my $program = q{use IO::Socket::INET; my ($port, $file) = @ARGV; open(my $out, '>', $file) or die; $out->autoflush(1);
		my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) or die; $s->syswrite("SUBSCRIBE faults\r\n");
		while ($s->sysread(my $bytes, 1 << 18)) { print $out $bytes }};
	return ($^X, '-e', $program, $self->{redis}->port, "$self->{dir}/heard");
}

#---------------------------------------------------------------------------
# Values written through: each key's must never go back, and be the last one at the end.
package OrionFaults::RedisCache;

use strict;
use warnings;
use Test::More;
our @ISA = ('OrionFaults::Sink');

sub prepare
{
	my ($self) = @_;
	$self->{broker} = OrionServices->start_redis();
	$self->{went_back} = $self->{looks} = 0;
}

sub sql
{
	my ($self) = @_;
	return q{
CREATE FUNCTION fresh(event jsonb) RETURNS text STABLE LANGUAGE sql AS
	$$ SELECT n::text FROM counters WHERE k = (event ->> 'aggregateId')::int $$;
} . $self->create('redis', { url => $self->{broker}->url, stream => JSON::PP::false() }) . q{;
SELECT orion_cache_rule_create('redis_cache', 'fresh', 'fault.#', '{"set": {"key": "value:{aggregateid}", "ttl": 86400}}', 'fresh(jsonb)')};
}

sub look
{
	my ($self) = @_;
	return unless $self->broker_ready;
	my @values = split /\n/, $self->{broker}->command('MGET', map { "value:$_" } 1 .. $keys), -1;
	return unless @values == $keys;
	foreach (0 .. $#values)
	{
		next unless $values[$_] =~ /^\d+$/;
		$self->{went_back}++ if $values[$_] < ($self->{values}[$_] // 0);
		$self->{values}[$_] = $values[$_];
	}
	$self->{looks}++;
}

sub parts { return (); }

sub more_tests
{
	my ($self) = @_;
	my $faults = $self->{faults};
	$self->look;
	my @wanted = split /\n/, $faults->sql("SELECT n FROM counters WHERE k <= $keys ORDER BY k");
	is(scalar(grep { $wanted[$_] > 0 && ($self->{values}[$_] // -1) != $wanted[$_] } 0 .. $#wanted), 0, "redis_cache: each key has its last value");
	is($self->{went_back}, 0, "redis_cache: none was ever seen to go back");
	diag(sprintf('redis_cache: %d keys right of %d, %d gone back in %d looks; kills: %s; %.0f s; seed %s',
		scalar(grep { ($self->{values}[$_] // 0) == $wanted[$_] } 0 .. $#wanted), scalar @wanted, $self->{went_back}, $self->{looks}, $faults->kills, $faults->{seconds}, $faults->{seed}));
}

#---------------------------------------------------------------------------
package OrionFaults::RabbitMQ;

use strict;
use warnings;
our @ISA = ('OrionFaults::Sink');

sub prepare { my ($self) = @_; $self->{broker} = OrionServices::RabbitMQ->new->prepare->launch; }

sub sql
{
	my ($self) = @_;
	my $type = $self->{name} =~ /quorum/ ? 'quorum' : 'classic';
	return $self->create('rabbitmq', { url => $self->{broker}->url, exchanges => ['fault.events'],
		queues => [ { name => 'fault.queue', type => $type } ], bindings => [ { exchange => 'fault.events', queue => 'fault.queue' } ] });
}

sub parts
{
	my ($self) = @_;
	push @{ $self->{got} }, map { $_->{message_id} } @{ $self->{broker}->drain('fault.queue', 0) };
	return [ $self->{name}, $self->{got}, order => 1 ];
}

#---------------------------------------------------------------------------
package OrionFaults::Kafka;

use strict;
use warnings;
our @ISA = ('OrionFaults::Sink');

sub prepare { my ($self) = @_; $self->{broker} = OrionServices::Kafka->new(jars => OrionServices::kafka_jars())->prepare->launch; }
sub sql { my ($self) = @_; return $self->create('kafka', { brokers => $self->{broker}->brokers }); }

# One partition after the other: kcat takes what comes first, so that between two records of a
# partition there may be thousands of others that were written long before or after.
sub parts
{
	my ($self) = @_;
	my %partitions;
	push @{ $partitions{ $_->{partition} } }, $_->{headers}{ce_id} // '' foreach @{ $self->{broker}->records('orion.events') };
	return [ 'kafka', [ map { @{ $partitions{$_} } } sort keys %partitions ], order => 1 ];
}

#---------------------------------------------------------------------------
# Two endpoints: one that fails, hangs and is killed; and one that takes a delivery at a time
# and is always well, where the order of keys holds.
package OrionFaults::Webhooks;

use strict;
use warnings;
our @ISA = ('OrionFaults::Sink');

sub prepare
{
	my ($self) = @_;
	$self->{broker} = OrionFaults::Receiver->new(seed => $self->{faults}{seed})->start;
	$self->{steady} = OrionFaults::Receiver->new(seed => 1)->start;
}

sub sql
{
	my ($self) = @_;
	my ($wild, $steady) = map { 'http://127.0.0.1:' . $_->port } @$self{qw(broker steady)};
	return "SELECT orion_webhook_create('$wild/wild', '{fault.#}'), orion_webhook_create('$steady/well', '{fault.#}', concurrency => 1)";
}

sub parts
{
	my ($self) = @_;
	return ([ 'webhooks that fail', $self->{broker}->taken('A|D') ], [ 'webhooks one at a time', $self->{steady}->taken('A'), order => 1 ]);
}

#---------------------------------------------------------------------------
package OrionFaults::Receiver;

use strict;
use warnings;
use IO::Socket::INET;
our @ISA = ('OrionServices');

sub command_line { my ($self) = @_; return ('node', "$tree/test/peers/webhook_chaos.mjs", "$self->{dir}/taken", $self->port, $self->{seed} + $self->{starts}++); }
sub is_ready { return IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $_[0]->port) ? 1 : 0; }
sub taken { my ($self, $which) = @_; return [ OrionServices::slurp("$self->{dir}/taken") =~ /^(?:$which) \S+ ([0-9a-f-]{36})$/mg ]; }

#---------------------------------------------------------------------------
# A handler with four workers, one of whose calls in three hundred fails.
package OrionFaults::Handlers;

use strict;
use warnings;
our @ISA = ('OrionFaults::Sink');

sub new { my ($class, %self) = @_; return OrionFaults::Sink::new($class, %self, inside => 1); }

sub sql
{
	return q{
CREATE TABLE seen (place bigserial, id uuid);
CREATE SEQUENCE calls;
CREATE FUNCTION see(event jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.seen (id) VALUES ((event ->> 'eventId')::uuid);
	IF nextval('public.calls') % 300 = 0 THEN
		RAISE EXCEPTION 'not now';
	END IF;
END $$;
SELECT orion_subscribe('handlers', 'fault.#', 'see(jsonb)', workers => 4)};
}

sub parts
{
	my ($self) = @_;
	return [ 'handlers', [ split /\n/, $self->{faults}->sql('SELECT id FROM seen ORDER BY place') ], order => 1, once => 1 ];
}

1;
