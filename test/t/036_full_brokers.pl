# Brokers that have no room left: RabbitMQ with a disk alarm, Redis that cannot save or has
# used its memory, Kafka that cannot write its log. The views say what it is, nothing is lost,
# no other sink waits, and delivery goes on by itself when there is room again.
use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;
use OrionServices;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = OrionServices::Kafka->new(jars => OrionServices::kafka_jars())->prepare->launch;
my $rabbit = OrionServices::RabbitMQ->new->prepare->launch;
my $redis = OrionServices->start_redis();
$_->await foreach $rabbit, $kafka;
my $node = PostgreSQL::Test::Cluster->new('full');
$node->init;
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'orion'
max_worker_processes = 16
orion.http_port = 0
});
$node->start;
sub value { return $node->safe_psql('postgres', $_[0]); }

my $queue = '"exchanges": ["full"], "queues": ["full"], "bindings": [{"exchange": "full", "queue": "full"}]';
value(qq{
CREATE EXTENSION orion;
CREATE TABLE published (id uuid);
CREATE TABLE handled (id uuid);
CREATE FUNCTION handle(event jsonb) RETURNS void LANGUAGE sql AS \$\$ INSERT INTO public.handled VALUES ((event ->> 'eventId')::uuid) \$\$;
SELECT orion_sink_create('rabbitmq', 'rabbitmq', '{"url": "@{[ $rabbit->url ]}", $queue}', 'full.#');
SELECT orion_sink_create('redis', 'redis', '{"url": "@{[ $redis->url ]}", "stream": "full"}', 'full.#');
SELECT orion_sink_create('kafka', 'kafka', '{"brokers": "@{[ $kafka->brokers ]}", "topic": "full"}', 'full.#');
SELECT orion_subscribe('handler', 'full.#', 'handle(jsonb)')});

sub becomes
{
	my ($condition, $name) = @_;
	ok(OrionServices::poll_until(sub { value("SELECT $condition") eq 't' }, 90), $name)
	  or diag(value('SELECT name, state, lag_events, last_error FROM orion.sinks'));
}
sub publish { my ($n) = @_; value("INSERT INTO published SELECT orion_publish('full.event', jsonb_build_object('text', repeat('x', 1000)), 'a', (i % 10)::text) FROM generate_series(1, $n) i"); }
becomes("bool_and(state = 'running') AND count(*) = 4 FROM orion.sinks", 'four sinks run');
publish(100);
becomes('bool_and(lag_events = 0) FROM orion.sinks', 'and deliver');

# fill makes that there is no room, free the opposite.
sub full
{
	my ($sink, $why, $fill, $free) = @_;
	$fill->();
	publish(3000);
	becomes("state = 'degraded' AND last_error ~* '$why' FROM orion.sinks WHERE name = '$sink'", "$sink: orion.sinks says what it is");
	diag("$sink: " . value("SELECT last_error FROM orion.sinks WHERE name = '$sink'"));
	is(value("SELECT state FROM orion.workers WHERE kind = 'relay' AND name = '$sink'"), 'degraded', 'and so does orion.workers');
	publish(100);
	becomes("lag_events >= 100 AND lag > '0 s' FROM orion.sinks WHERE name = '$sink'", 'how much waits, and for how long');
	becomes("bool_and(state = 'running' AND lag_events = 0 AND last_error IS NULL) FROM orion.sinks WHERE name <> '$sink'", 'the others have all of it');
	$free->();
	becomes("bool_and(state = 'running' AND lag_events = 0 AND last_error IS NULL) FROM orion.sinks", 'there is room again: all is delivered, and well');
}

full('rabbitmq', 'blocks publishers.*disk', sub { $rabbit->ctl('set_disk_free_limit', '900000GB'); }, sub { $rabbit->ctl('set_disk_free_limit', '10MB'); });

# it writes a file and gives it its name, which a directory has
sub saved { my ($how) = @_; $redis->command('BGSAVE'); return OrionServices::poll_until(sub { $redis->command('INFO', 'persistence') =~ /rdb_bgsave_in_progress:0.*rdb_last_bgsave_status:$how/s }); }
full('redis', 'MISCONF', sub {
	mkdir $redis->dir . '/dump.rdb' or die $!;
	$redis->command('CONFIG', 'SET', 'save', '3600 1');
	ok(saved('err'), 'Redis cannot save its data');
}, sub { rmdir $redis->dir . '/dump.rdb' or die $!; ok(saved('ok'), 'and now it can'); });

full('redis', 'OOM', sub { $redis->command('CONFIG', 'SET', 'maxmemory', '1'); }, sub { $redis->command('CONFIG', 'SET', 'maxmemory', '0'); });

# every write beyond this size fails as one to a full disk does: the broker ends itself
full('kafka', 'kafka: ', sub {
	system_or_bail('prlimit', '--pid', $kafka->pid, '--fsize=4096:unlimited');
	publish(1000);
	ok(OrionServices::poll_until(sub { !$kafka->alive }, 60), 'Kafka cannot write, and ends');
}, sub { $kafka->start; });

# --- the count of it all

my %wanted = map { $_ => 1 } split /\n/, value('SELECT id FROM published');
my %got = (
	handler => [ split /\n/, value('SELECT id FROM handled') ],
	redis => [ map { $_->{id} } @{ $redis->stream('full') } ],
	rabbitmq => [ map { $_->{message_id} } @{ $rabbit->drain('full', scalar keys %wanted) } ],
	kafka => [ map { $_->{headers}{ce_id} } @{ $kafka->records('full') } ]);
foreach my $sink (sort keys %got)
{
	my %seen;
	$seen{$_}++ foreach @{ $got{$sink} };
	is(scalar(grep { !$seen{$_} } keys %wanted) . ' lost, ' . scalar(grep { !$wanted{$_} } keys %seen) . ' strange', '0 lost, 0 strange', "$sink: " . keys(%wanted) . ' events');
	is(scalar(grep { $_ > 1 } values %seen), 0, 'none twice') if $sink ne 'kafka' && $sink ne 'rabbitmq';
}
is(value('SELECT count(*) FROM orion.dead_letters'), '0', 'no dead letters');
$node->stop;
done_testing();
