# Events of ten megabytes, the largest there are by default, through every kind of sink, and
# from a queue into a function. They arrive whole, in order, with small ones between them, and
# relays, couriers and consumers have a few of them in memory at a time, however many wait.
use strict;
use warnings;

use Digest::SHA qw(sha256_hex);
use FindBin;
use HTTP::Tiny;
use lib $FindBin::Bin;
use OrionServices;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use POSIX ();
use Test::More;

my $large = 15;	# events of that size
my $most = 250_000;	# kB of a process: of the text of ten copies and more are made on the way
my $dir = PostgreSQL::Test::Utils::tempdir();
my $receiver = fork // die "fork: $!";
if ($receiver == 0)
{
	exec('node', ($ENV{ORION_TREE} // "$FindBin::Bin/../..") . '/test/peers/webhook_receiver.mjs', "$dir/log") or POSIX::_exit(127);
}
END { my $status = $?; kill 'KILL', $receiver if $receiver; $? = $status; }
sub requests { return split /\n/, OrionServices::slurp("$dir/log"); }
my $http;
ok(OrionServices::poll_until(sub { ($http) = join('', requests()) =~ /"http":(\d+)/; $http }), 'a receiver of webhooks') or BAIL_OUT('no receiver');

my $redis = OrionServices->start_redis();
my $rabbit = OrionServices::RabbitMQ->new->prepare->launch;
# it takes eleven megabytes, so ten go in and twelve do not
my $kafka = OrionServices::Kafka->new(jars => OrionServices::kafka_jars(), conf => "message.max.bytes=11000000\nreplica.fetch.max.bytes=11000000\n")->prepare->launch;
$_->await foreach $rabbit, $kafka;

my $node = PostgreSQL::Test::Cluster->new('large');
$node->init;
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'orion'
max_worker_processes = 20
shared_buffers = 16MB
orion.http_port = 0
orion.webhook_allowed_networks = '127.0.0.0/8'
orion.webhook_allow_http = on
orion.webhook_timeout = '60s'
orion.webhook_retry_schedule = '100ms} . ', 1s' x 60 . q{'
orion.outbox_retry_min = '100ms'
log_statement = none
log_min_duration_statement = -1
});
$node->start;
sub value { return $node->safe_psql('postgres', $_[0]); }
sub becomes
{
	my ($condition, $name) = @_;
	ok(OrionServices::poll_until(sub { value("SELECT $condition") eq 't' }, 120), $name) or diag(value('SELECT * FROM orion.sinks'), value('SELECT kind, name, state, last_error FROM orion.workers'));
}

my $queue = '"exchanges": ["large"], "queues": ["large"], "bindings": [{"exchange": "large", "queue": "large"}]';
value(qq{
CREATE EXTENSION orion;
CREATE ROLE app IN ROLE orion_admin;
GRANT ALL ON SCHEMA public TO app;
-- ten million bytes that do not compress to nothing, and lie out of line
CREATE TABLE texts (t text);
INSERT INTO texts SELECT left(string_agg(md5(i::text), ''), 10000000) FROM generate_series(1, 312501) i;
CREATE TABLE handled (place bigserial, n int, size int, digest bytea);
CREATE SEQUENCE calls;
CREATE FUNCTION handle(event jsonb) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	IF nextval('calls') = 2 THEN RAISE EXCEPTION 'not now'; END IF;
	INSERT INTO handled (n, size, digest) SELECT (p ->> 'n')::int, length(p ->> 'text'), sha256((p ->> 'text')::bytea) FROM (SELECT event -> 'payload') e(p);
END \$\$;
CREATE FUNCTION receive(message jsonb) RETURNS void LANGUAGE sql AS
	\$\$ INSERT INTO public.handled (n, size, digest) SELECT (b ->> 'n')::int, length(b ->> 'text'), sha256((b ->> 'text')::bytea) FROM (SELECT message -> 'body') m(b) \$\$;
SELECT orion_subscribe('handler', 'large.#', 'handle(jsonb)');
SELECT orion_sink_create('redis', 'redis', '{"url": "@{[ $redis->url ]}", "stream": "large"}', 'large.#');
SELECT orion_sink_create('rabbitmq', 'rabbitmq', '{"url": "@{[ $rabbit->url ]}", $queue}', 'large.#');
SELECT orion_sink_create('kafka', 'kafka', '{"brokers": "@{[ $kafka->brokers ]}", "topic": "large"}', '#');
SELECT orion_webhook_create('http://127.0.0.1:$http/ok/large', '{large.#}', concurrency => 1);
SELECT orion_webhook_create('http://127.0.0.1:$http/switched/large', '{large.#}');
});
becomes("count(*) = 5 AND bool_and(state = 'running') FROM orion.sinks", 'five sinks run');
my $text = value('SELECT t FROM texts');
my $digest = sha256_hex($text);
is(length $text, 10_000_000, 'a text of ten megabytes');

# Peak memory of everything that carries events, kB, by name.
sub peaks
{
	my %peaks;
	foreach (split /\n/, value("SELECT kind || ' ' || coalesce(name, ''), pid, coalesce(program_pid, 0) FROM orion.workers WHERE kind IN ('relay', 'consumer')"))
	{
		my ($name, $worker, $program) = split /\|/;
		foreach ([ $name, $worker ], [ "courier of $name", $program ])
		{
			($peaks{ $_->[0] }) = OrionServices::slurp("/proc/$_->[1]/status") =~ /^VmHWM:\s*(\d+) kB/m if $_->[1];
		}
	}
	return %peaks;
}

# Each large event with twenty small ones behind it, all of one aggregate.
my $n = 0;
sub publish
{
	my ($count) = @_;
	foreach (1 .. $count)
	{
		value("SELECT count(orion_publish('large.event', jsonb_build_object('n', $n + i, 'text', CASE WHEN i = 1 THEN t ELSE 'small' END), 'thing', 'one')) FROM generate_series(1, 21) i, texts");
		$n += 21;
	}
}
sub drained { becomes("bool_and(lag_events = 0 AND state = 'running') AND NOT EXISTS (SELECT FROM orion.parked_events) FROM orion.sinks", $_[0]); }

HTTP::Tiny->new->get("http://127.0.0.1:$http/switch/500");
publish(2);
drained('two large events are delivered');
value("SELECT orion_sink_pause(name) FROM orion.sinks WHERE name NOT IN ('webhooks')");	# so that they are all there at once
publish($large - 2);
value("SELECT orion_sink_resume(name) FROM orion.sinks WHERE paused");
drained("$large of them, with small ones between");
becomes("count(*) = $n FROM orion.webhook_deliveries WHERE endpoint_id = 2 AND NOT EXISTS (SELECT FROM orion.webhook_deliveries WHERE endpoint_id = 1)", 'an endpoint that fails has all before it');
HTTP::Tiny->new->get("http://127.0.0.1:$http/switch/200");
becomes('NOT EXISTS (SELECT FROM orion.webhook_deliveries)', 'and gets it when it is well');
my %peak = peaks();

# --- what has arrived ----------------------------------------------------------------------

my $expected = join ' ', map { $_ % 21 == 1 ? "$_:$digest" : "$_:" . sha256_hex('small') } 1 .. $n;
sub content { my ($json) = @_; my ($k) = $json =~ /"n": ?(\d+)/; my ($t) = $json =~ /"text": ?"(\w*)"/; return "$k:" . sha256_hex($t // ''); }

is(value("SELECT string_agg(n || ':' || encode(digest, 'hex'), ' ' ORDER BY place) FROM handled"), $expected, 'SQL handler: each in order, whole, though one failed first');
is(join(' ', map { content($_->{event}) } @{ $redis->stream('large') }), $expected, 'Redis: each in order, whole');
is(join(' ', map { content($_->{body}) } @{ $rabbit->drain('large', $n) }), $expected, 'RabbitMQ: each in order, whole');
is(join(' ', map { content($_->{value}) } @{ $kafka->records('large') }), $expected, 'Kafka: each in order, whole');
my (%seen, @hooks);
my %mended;
foreach (grep { /"url":/ } requests())
{
	if (m{"url":"/switched}) { /"switched":200/ and /"webhook-id":"([0-9a-f-]+)"/ and $mended{$1}++; next; }
	my ($id) = /"webhook-id":"([0-9a-f-]+)"/;
	next if $seen{$id}++;
	push @hooks, /"sha256":"(\w+)"/ ? $1 : /\\"n\\": ?(\d+)/ ? $1 : '?';
}
my @bodies = map { $_ % 21 == 1 ? value(qq{SELECT encode(sha256(convert_to(format('{"type":"large.event","timestamp":"%s","data":%s}', replace((to_json(occurred_at AT TIME ZONE 'UTC') #>> '{}'), ' ', 'T') || '+00:00', payload), 'UTF8')), 'hex') FROM orion_private.outbox WHERE (payload ->> 'n')::int = $_}) : $_ } 1 .. $n;
is(join(' ', @hooks), join(' ', @bodies), 'webhooks: each in order, whole');
is(scalar keys %mended, $n, 'also where they had to wait');
is(value('SELECT count(*) FROM orion.dead_letters'), '0', 'none is a dead letter');

# --- memory --------------------------------------------------------------------------------

sub bounded
{
	my (%peak) = @_;
	cmp_ok($peak{$_}, '<', $most, "$_: bounded memory") foreach sort keys %peak;
	diag(join ', ', map { sprintf '%s %d MB', $_, $peak{$_} / 1024 } sort keys %peak);
}
bounded(%peak);

# --- what a broker does not take -----------------------------------------------------------

value("SET orion.outbox_max_payload = '20MB'; SELECT orion_publish('toolarge.event', jsonb_build_object('text', t || left(t, 2000000)), 'thing', 'one') FROM texts;
	SELECT orion_publish('toolarge.after', '{}', 'thing', 'one')");
becomes("count(*) = 1 FROM orion.dead_letters WHERE sink = 'kafka' AND event ->> 'eventType' = 'toolarge.event' AND error ~* 'too large'", 'an event that Kafka refuses by its limits is a dead letter, with the reason');
becomes("dead_letters = 1 AND state = 'running' AND lag_events = 0 AND last_error IS NULL FROM orion.sinks WHERE name = 'kafka'", 'which the view counts; the sink runs');
ok(OrionServices::poll_until(sub { (map { $_->{headers}{ce_type} } @{ $kafka->records('large') })[-1] eq 'toolarge.after' }), 'the next event of the aggregate has arrived');

# --- inbound -------------------------------------------------------------------------------

value(qq{SET ROLE app; SELECT orion_consume('inbound', '{"url": "@{[ $rabbit->url ]}", "queue": "inbound", "declare": "classic"}', 'receive(jsonb)')});
value('TRUNCATE handled; GRANT ALL ON handled, handled_place_seq TO app');
becomes("state = 'running' FROM orion.consumers WHERE name = 'inbound'", 'a consumer runs');
sub send_in
{
	my ($from, $to) = @_;
	my $client = OrionServices::AMQP->new($rabbit->port);
	$client->publish('inbound', { message_id => "in$_", body => qq({"n": $_, "text": ") . ($_ % 2 ? $text : 'small') . '"}' }) foreach $from .. $to;
	$client->close;
}
send_in(1, 4);
becomes('count(*) = 4 FROM handled', 'two messages of ten megabytes, and two small ones');
value("SELECT orion_consume_pause('inbound')");
send_in(5, 2 * $large);
value("SELECT orion_consume_resume('inbound')");
becomes("count(*) = 2 * $large FROM handled", 'and all the others');
is(value("SELECT count(*) FROM handled WHERE encode(digest, 'hex') = '$digest' AND n % 2 = 1"), $large, 'whole');
%peak = peaks();
bounded(map { ($_ => $peak{$_}) } grep { /consumer/ } keys %peak);
$node->stop;
done_testing();
