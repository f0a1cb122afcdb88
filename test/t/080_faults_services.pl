# Brokers stopped, Postgres killed with -9 while it delivers, transactions that are
# prepared, left open, or rolled back in part: events wait, and none is lost or made up.
use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;

use OrionStack;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $stack = OrionStack->new('services', redis => {},
	rabbitmq => { exchanges => ['load.events'], queues => ['load.queue'], bindings => [ { exchange => 'load.events', queue => 'load.queue' } ] },
	conf => "max_prepared_transactions = 10\n");
my $node = $stack->node;
my ($redis, $rabbit) = ($stack->redis, $stack->rabbit);
$stack->prepare_load;
$stack->sql(q{
CREATE PROCEDURE fill(n int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. n LOOP
		PERFORM load_publish('load.fill', i);
		BEGIN
			PERFORM load_publish('load.fill', i);
			IF i % 3 = 0 THEN
				RAISE EXCEPTION 'undone';
			END IF;
		EXCEPTION WHEN raise_exception THEN NULL;
		END;
		IF i % 7 = 0 THEN ROLLBACK; ELSE COMMIT; END IF;
	END LOOP;
END $$;
});

sub publish { my ($type, $count) = @_; return $stack->sql("SELECT count(load_publish('$type', i)) FROM generate_series(1, $count) i"); }

# How many events of a type the Redis stream has.
sub arrived { my ($type) = @_; return scalar grep { $_ eq $type } @{ $stack->redis_field('type') }; }

# --- one transaction stays open from here on
my $open = $node->background_psql('postgres');
$open->query_safe("BEGIN; SELECT load_publish('load.open')");
publish('load.beside', 100);
ok($stack->until_true(sub { $stack->redis_count >= 100 && $stack->rabbit_count('load.queue') >= 100 }),
	'events are delivered beside an open transaction that has published');

# --- a broker stops for a while
foreach my $case ([ 'redis', $redis, sub { $stack->rabbit_count('load.queue') } ], [ 'rabbitmq', $rabbit, sub { $stack->redis_count } ])
{
	my ($sink, $server, $count_of_other) = @$case;
	my $other = $sink eq 'redis' ? 'rabbitmq' : 'redis';

	$sink eq 'redis' ? $server->kill9 : $server->stop;
	my $before = $count_of_other->();
	publish('load.waiting', 500) for 1 .. 4;
	ok($stack->until_true(sub { $stack->worker('state', 'relay', $sink) =~ /^(degraded|backoff)$/ }), "$sink stops: its relay is " . $stack->worker('state', 'relay', $sink));
	ok($stack->until_true(sub { ($stack->worker('lag_events', 'relay', $sink) || 0) >= 2000 }), 'orion.workers shows the events that wait') or diag($stack->workers);
	is($stack->worker("lag > '0 s' AND lag < '1 min'", 'relay', $sink), 't', 'and for how long') or diag($stack->workers);
	my $error = $stack->worker('last_error', 'relay', $sink);
	like($error, qr/connect|refused|closed|reach/i, "and why: $error");
	unlike($error, qr/password|guest/, 'without a password');
	ok($stack->until_true(sub { $count_of_other->() >= $before + 2000 }), "$other has got them");
	is($stack->worker('state', 'relay', $other), 'running', "the relay of $other runs");
	my $from = time;
	$server->start;
	note(sprintf('%s took %.1f s to start', $sink, time - $from));
	$from = time;
	ok($stack->drained, "$sink is back: all arrive");
	note(sprintf('%.2f s later', time - $from));
	ok($stack->until_true(sub { $stack->worker("state || coalesce(last_error, '') || lag_events", 'relay', $sink) eq 'running0' }), 'its relay runs, without error and lag')
	  or diag($stack->workers);
}

# --- the open transaction commits
is(arrived('load.open'), 0, 'nothing of the open transaction was seen meanwhile');
$open->query_safe('COMMIT');
ok($stack->until_true(sub { arrived('load.open') == 1 }), 'its event arrives when it commits');
eval { $open->quit };

# --- prepared transactions
$stack->sql("BEGIN; SELECT load_publish('load.prepared', $_); PREPARE TRANSACTION 'p$_'") for 1 .. 4;
ok($stack->drained, 'others are delivered beside prepared transactions');
is(arrived('load.prepared'), 0, 'whose events are not');
$stack->sql("COMMIT PREPARED 'p1'");
my $time = $stack->time_until(sub { arrived('load.prepared') == 1 });
ok(defined $time, 'COMMIT PREPARED: its event arrives') and note(sprintf('after %.2f s', $time));
$stack->sql("ROLLBACK PREPARED 'p2'");
ok($stack->drained, 'ROLLBACK PREPARED: later events arrive');
is(arrived('load.prepared'), 1, 'and not its own');

# --- parts of transactions
$stack->sql(q{
BEGIN;
SELECT load_publish('load.kept', 1);
SAVEPOINT a;
SELECT load_publish('load.undone', 1);
SAVEPOINT b;
SELECT load_publish('load.undone', 2);
RELEASE b;
ROLLBACK TO a;
SELECT load_publish('load.kept', 2);
COMMIT;
});
ok($stack->drained, 'a transaction with subtransactions commits');
is(arrived('load.kept') . arrived('load.undone'), '20', 'what was rolled back in it is not seen, the rest is');

# --- Postgres is killed while it delivers

# Fills the outbox and kills the server when the first events arrive; how many had, of how many.
# On a busy machine all may have, before anybody notices.
sub kill_while_delivering
{
	$stack->sql("SELECT orion_sink_pause(name) FROM orion_private.sinks");
	$stack->sql('CALL fill(2000)');
	publish('load.bulk', 20000);
	ok($stack->until_true(sub { $stack->sql("SELECT count(*) FROM orion.workers WHERE state = 'paused'") eq '2' }), 'both sinks are paused');
	my @old = split /\n/, $stack->sql('SELECT pid FROM orion.workers');
	my $before = $stack->redis_count;
	$stack->sql("SELECT orion_sink_resume(name) FROM orion_private.sinks");
	my $end = time + 60;
	1 until $stack->redis_count > $before + 1000 || time > $end;
	push @old, OrionStack::children_of(@old);
	OrionStack::kill_server($node);
	my $time = $stack->time_until(sub { !grep { /\d/ && !OrionStack::is_gone($_) } @old });
	cmp_ok(scalar @old, '>=', 9, scalar(@old) . ' workers and programs have run');
	ok(defined $time, 'kill -9 of the server: no worker and no program is left') and note(sprintf('after %.2f s', $time));
	cmp_ok(my $got = $stack->redis_count - $before, '>', 1000, 'it delivered');
	my $from = time;
	$node->start;
	ok($stack->until_true(sub { $stack->is_ready && $stack->sinks_run }), 'gateway and relays are back');
	note(sprintf('after %.2f s', time - $from));
	return ($got, $stack->committed_count - $before);
}

foreach my $round (1, 2)
{
	my ($got, $all);
	foreach (1 .. 5)
	{
		($got, $all) = kill_while_delivering();
		last if $got < $all;
		ok($stack->drained, 'everything had arrived: once more');
	}
	cmp_ok($got, '<', $all, "it was killed in the middle: $got of $all had arrived");
	ok($stack->drained, 'the rest arrives');
	if ($round == 1)
	{
		is($stack->sql('SELECT count(*) FROM pg_prepared_xacts'), 2, 'prepared transactions are still there');
		$stack->sql("COMMIT PREPARED 'p3'");
		$stack->sql("ROLLBACK PREPARED 'p4'");
		ok($stack->until_true(sub { arrived('load.prepared') == 2 }), 'and one that commits now is delivered');
	}
}

# --- the count of it all
my $committed = $stack->committed;
my ($lost, $strange, $doubled) = OrionStack::compare($committed, $stack->redis_field('id'));
is("$lost lost, $strange never committed, $doubled twice", '0 lost, 0 never committed, 0 twice', 'redis has each of ' . @$committed . ' events once');
my $messages = $rabbit->drain('load.queue', scalar @$committed, 5);
($lost, $strange, $doubled) = OrionStack::compare($committed, [ map { $_->{message_id} } @$messages ]);
is("$lost lost, $strange never committed", '0 lost, 0 never committed', 'rabbitmq has each of them');
note("$doubled of them again");
is($stack->sql('SELECT count(*) FROM orion_private.dead_letters'), 0, 'no dead letters');
ok($stack->all_run, 'all workers run') or diag($stack->workers);
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'no crash of our own in the log');
done_testing();
