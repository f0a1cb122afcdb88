# kill -9 of the gateway, of a courier, of a relay and of an executor under load: each
# comes back, and every committed event is delivered and no other.
use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;

use OrionStack;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $wanted_events = 10_000;
my $limit = 2;	# seconds until it is back

my $stack = OrionStack->new('processes', redis => {},
	rabbitmq => { exchanges => ['load.events'], queues => ['load.queue'], bindings => [ { exchange => 'load.events', queue => 'load.queue' } ] });
my $node = $stack->node;
$stack->prepare_load;

sub count_of { my ($sink) = @_; return $sink eq 'redis' ? $stack->redis_count : $stack->rabbit_count('load.queue'); }

# Writers go on meanwhile.
sub until_committed
{
	my ($count) = @_;
	ok($stack->until_true(sub { $stack->tend_writers; $stack->committed_count >= $count }, 120), "$count events are committed");
}

sub log_has { my ($pattern, $from) = @_; return slurp_file($node->logfile, $from) =~ $pattern; }

sub all_pids { return $stack->sql("SELECT string_agg(kind || name || ' ' || pid, ', ' ORDER BY kind, name) FROM orion.workers"); }

# Kills a process, of which which() tells the id, and returns how long each of the conditions took
# from then on; conditions() makes them. Every machine is busy with something else for a moment:
# up to three kills, until the first so many times are below the limit; with their number before.
sub kill_and_time
{
	my ($which, $limited, $conditions) = @_;
	my ($kills, @times) = (0);
	do
	{
		my $pid = $which->();
		my $from = time;
		die 'no such process' unless $pid =~ /^\d+$/ && kill 'KILL', $pid;
		$kills++;
		$stack->until_true(sub { OrionStack::is_gone($pid) }, 30) or die "$pid does not die";
		@times = map { $stack->until_true($_, 60) ? time - $from : undef } $conditions->($pid);
	} while ($kills < 3 && grep { defined && $_ >= $limit } @times[ 0 .. $limited - 1 ]);
	return ($kills, @times);
}

sub is_soon
{
	my ($time, $what) = @_;
	ok(defined $time && $time < $limit, "$what within $limit s" . (defined $time ? sprintf(': %.2f s', $time) : ': never'))
	  or diag($stack->workers . "\n" . $node->log_content_tail);
}

$stack->tend_writers(300);
$stack->start_http_writer;

# --- the programs: Postgres does not notice
my $witness = $node->background_psql('postgres');
my $backend = $witness->query('SELECT pg_backend_pid()');
my $started = $stack->sql('SELECT pg_postmaster_start_time()');
my $pids = all_pids();
my $log_begin = -s $node->logfile;

until_committed(1000);
my $program = $stack->worker('program_pid', 'gateway');
my ($kills, $back) = kill_and_time(sub { $stack->worker('program_pid', 'gateway') }, 1, sub { return sub { $stack->is_ready } });
is_soon($back, 'the gateway answers again');
isnt($stack->worker('program_pid', 'gateway'), $program, 'as another process');
is($stack->worker('restarts', 'gateway'), $kills, 'orion.workers counts it');

foreach my $case ([ 'redis', 2500 ], [ 'rabbitmq', 4000 ])
{
	my ($sink, $count) = @$case;
	until_committed($count);
	$program = $stack->worker('program_pid', 'relay', $sink);
	($kills, $back) = kill_and_time(sub { $stack->worker('program_pid', 'relay', $sink) }, 1,
		sub { my $before; return sub { $stack->tend_writers; $before //= count_of($sink); count_of($sink) > $before } });
	is_soon($back, "the courier of $sink delivers again");
	isnt($stack->worker('program_pid', 'relay', $sink), $program, 'as another process');
	is($stack->worker('restarts', 'relay', $sink), $kills, 'orion.workers counts it');
}

is($stack->sql('SELECT pg_postmaster_start_time()'), $started, 'the server was not restarted');
is($witness->query('SELECT pg_backend_pid()'), $backend, 'its connections stayed');
is(all_pids(), $pids, 'and so did all workers');
ok(!log_has(qr/terminating any other active server processes|terminated by signal|PANIC/, $log_begin), 'no crash in the log');
eval { $witness->quit };

# --- processes of Postgres: it restarts all, and so are we
foreach my $case ([ 'relay', 'redis', 5500 ], [ 'executor', '0', 7500 ])
{
	my ($kind, $name, $count) = @$case;
	until_committed($count);
	my ($crashes, $runs, $ready, $delivers) = kill_and_time(sub { $stack->worker('pid', $kind, $name) }, 2, sub {
			my ($pid) = @_;
			my $before;
			return (
				sub {
					my $seen = $stack->worker("pid || state || (kind <> 'relay' OR program_pid IS NOT NULL)", $kind, $name);
					$before = $stack->redis_count;
					$seen =~ /^(\d+)runningtrue$/ && $1 != $pid;
				},
				sub { $stack->is_ready },
				sub { $stack->tend_writers; $stack->redis_count > $before });
		});
	note("crashes of $kind $name: $crashes");
	is_soon($runs, "$kind $name runs again");
	is_soon($ready, 'requests are served again');
	ok(defined $delivers, 'events are delivered again') and note(sprintf('after %.2f s', $delivers));
	ok($stack->all_run, 'all workers run') or diag($stack->workers);
}

# --- the count
until_committed($wanted_events);
my $told = $stack->stop_writers;
ok($stack->drained, 'all sinks have been given everything') or diag($stack->workers);
my $committed = $stack->committed;
cmp_ok(scalar @$committed, '>=', $wanted_events, scalar(@$committed) . ' events were committed');
cmp_ok(scalar @$told, '>', 100, scalar(@$told) . ' of them over HTTP');
is((OrionStack::compare($committed, $told))[1], 0, 'what a client was told is committed is');

my $in_redis = $stack->redis_field('id');
my ($lost, $strange, $doubled) = OrionStack::compare($committed, $in_redis);
is($lost, 0, 'redis: none is lost');
is($strange, 0, 'redis: none is from a rolled back transaction');
is($doubled, 0, 'redis: none is there twice');

my $messages = $stack->rabbit->drain('load.queue', scalar @$committed, 5);
($lost, $strange, $doubled) = OrionStack::compare($committed, [ map { $_->{message_id} } @$messages ]);
is($lost, 0, 'rabbitmq: none is lost');
is($strange, 0, 'rabbitmq: none is from a rolled back transaction');
note(scalar(@$messages) . " messages in RabbitMQ, $doubled of them again");
is($stack->sql('SELECT count(*) FROM orion_private.dead_letters'), 0, 'no dead letters');

$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal (?!9\b)/, 'no crash of our own in the log');
done_testing();
