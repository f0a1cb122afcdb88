# Events to a real Apache Kafka: what arrives, and in what order. What kills cost besides: 071_faults_sinks.pl.
#
# Its jars come from Maven Central, by test/peers/kafka/pom.xml, and are kept beside the
# results of the tests. Without a way there this test fails.
use strict;
use warnings;
use JSON::PP;
use OrionServices;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# --- the broker --------------------------------------------------------------------------------

my $jars = eval { OrionServices::kafka_jars() };
unless ($jars) { fail('maven fetches Apache Kafka'); diag($@); done_testing(); exit 1; }
my $dir = PostgreSQL::Test::Utils::tempdir_short();
system_or_bail('openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=localhost',
	'-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1', '-keyout', "$dir/key.pem", '-out', "$dir/cert.pem");
open my $keystore, '>', "$dir/keystore.pem" or die;
print $keystore slurp_file("$dir/key.pem"), slurp_file("$dir/cert.pem");
close $keystore;
my $secure_port = OrionServices::free_port();
my $kafka = OrionServices->start_kafka(jars => $jars, listeners => "SASL_SSL://localhost:$secure_port", conf => <<"CONF");
message.max.bytes=2000000
ssl.keystore.type=PEM
ssl.keystore.location=$dir/keystore.pem
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_orion="planted-secret";
CONF

# --- the server --------------------------------------------------------------------------------

my $node = PostgreSQL::Test::Cluster->new('kafka');
$node->init;
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'orion'
max_worker_processes = 16
orion.http_port = 0
orion.outbox_retry_min = '100ms'
orion.outbox_max_attempts = 2
restart_after_crash = on
});
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION orion');

sub value { return $node->safe_psql('postgres', $_[0]); }
sub becomes
{
	my ($condition, $name, $seconds) = @_;
	my $true = OrionServices::poll_until(sub { (value("SELECT $condition") // '') eq 't' }, $seconds // 90);
	ok($true, $name) or diag(value('SELECT * FROM orion.sinks'), value('SELECT * FROM orion.dead_letters'));
}
sub arrived { my ($topic, $count) = @_; my $records = []; OrionServices::poll_until(sub { $records = $kafka->records($topic); @$records >= $count }, 90); return $records; }
sub create { my ($name, $config, $pattern) = @_; $config->{brokers} //= $kafka->brokers; my $json = encode_json($config); return value("SELECT orion_sink_create('$name', 'kafka', '$json', '$pattern')"); }

# --- what arrives --------------------------------------------------------------------------------

create('main', {}, 'order.#');
create('templated', { topic => 'events.{aggregatetype}', key => '{type}:{aggregateid}', compression => 'gzip', linger_ms => 5 }, 'typed.#');
value(q{SELECT orion_publish('order.placed', jsonb_build_object('i', i, 'text', 'ä"' || chr(9)), 'order', (i % 20)::text, 'corr-' || i) FROM generate_series(1, 500) i});
my $records = arrived('orion.events', 500);
is(scalar @$records, 500, 'every event arrives');
my %by_key;
push @{ $by_key{ $_->{key} }{ $_->{partition} } }, decode_json($_->{value})->{payload}{i} for @$records;
is(join(' ', sort { $a <=> $b } keys %by_key), join(' ', 0 .. 19), 'the key is the aggregate id');
is(scalar(grep { keys %$_ != 1 } values %by_key), 0, 'an aggregate has one partition');
is(scalar(grep { my ($list) = values %$_; "@$list" ne "@{[ sort { $a <=> $b } @$list ]}" } values %by_key), 0, 'and keeps its order');
my ($one) = grep { decode_json($_->{value})->{payload}{i} == 7 } @$records;
my $envelope = decode_json($one->{value});
is($envelope->{eventType}, 'order.placed', 'the value is the envelope');
is($envelope->{payload}{text}, "\x{e4}\"\t", 'any text survives');
is($one->{headers}{ce_id}, $envelope->{eventId}, 'CloudEvents: id');
is("$one->{headers}{ce_type} $one->{headers}{ce_specversion} $one->{headers}{ce_source} $one->{headers}{ce_subject} $one->{headers}{ce_correlationid}",
	'order.placed 1.0 /orion/main 7 corr-7', '... type, version, source, subject, correlation id');
is($one->{headers}{'content-type'}, 'application/json', '... content type');

value(q{SELECT orion_publish('typed.a', '{}', 'user', '1'), orion_publish('typed.a', '{}', 'invoice', '2'), orion_publish('typed.a', '{}', 'not a topic!', '3'), orion_publish('typed.b', '{}', 'user', NULL)});
is(join(' ', sort map { $_->{key} } @{ arrived('events.user', 2) }), 'typed.a:1 typed.b:', 'topics and keys by template');
is(scalar @{ arrived('events.invoice', 1) }, 1, '... each its own');
becomes(q{count(*) = 1 FROM orion.dead_letters WHERE event ->> 'aggregateType' = 'not a topic!' AND error LIKE '%no name of a Kafka topic%'}, 'what makes no topic ends as a dead letter');

value(q{SELECT orion_publish('order.big', to_jsonb(repeat('x', 3000000)), 'order', 'big'), orion_publish('order.after', '{}', 'order', 'big')});
becomes(q{count(*) = 1 FROM orion.dead_letters WHERE event ->> 'eventType' = 'order.big'}, 'what is too large for the broker ends as a dead letter');
is(scalar(grep { $_->{headers}{ce_type} eq 'order.after' } @{ arrived('orion.events', 501) }), 1, 'and holds nobody up');

# --- settings ------------------------------------------------------------------------------------

sub refused
{
	my ($config, $pattern, $name) = @_;
	my $sink = 'wrong';
	my ($status, $out, $err) = $node->psql('postgres', "SELECT orion_sink_create('$sink', 'kafka', '$config', 'none')");
	if ($status != 0) { like($err, qr/\Q$pattern\E/, $name); return; }
	becomes("state = 'degraded' AND last_error LIKE '%$pattern%' FROM orion.sinks WHERE name = '$sink'", $name);
	value("SELECT orion_sink_drop('$sink')");
}
refused('{"url":"x"}', '"brokers"', 'brokers must be named');
refused('{"brokers":"127.0.0.1:1","topic":"no topic"}', 'topic', 'a topic that is none');
refused('{"brokers":"127.0.0.1:1","topic":"{nothing}"}', 'topic', 'a placeholder that is none');
refused('{"brokers":"127.0.0.1:1","compression":"squeeze"}', 'compression', 'a compression that is none');
refused('{"brokers":"127.0.0.1:1","acks":"0"}', 'acks', 'what the sink promises is no setting');
refused('{"brokers":"127.0.0.1:1"}', 'kafka: ', 'no broker there');

my %secure = (brokers => "localhost:$secure_port", topic => 'secure', tls => { ca => "$dir/cert.pem" }, sasl => { mechanism => 'PLAIN', username => 'orion', password => 'planted-secret' });
create('secure', \%secure, 'secret.#');
value(q{SELECT orion_publish('secret.event', '{}', 's', '1')});
is(scalar @{ arrived('secure', 1) }, 1, 'TLS and SASL');
create('distrust', { %secure, tls => {} }, 'never.#');
becomes(q{state = 'degraded' AND last_error LIKE 'kafka: %' FROM orion.sinks WHERE name = 'distrust'}, 'a broker that cannot be verified is not trusted');
create('stranger', { %secure, sasl => { %{ $secure{sasl} }, password => 'planted-wrong' } }, 'never.#');
becomes(q{state = 'degraded' AND last_error LIKE 'kafka: %' FROM orion.sinks WHERE name = 'stranger'}, 'a wrong password');
unlike(value('SELECT string_agg(s::text, chr(10)) FROM orion.sinks s') . value('SELECT string_agg(w::text, chr(10)) FROM orion.workers w') . join('', grep { !/statement: / } split /^/, slurp_file($node->logfile)), qr/planted/, 'passwords show nowhere');
value("SELECT orion_sink_drop(name) FROM unnest(ARRAY['distrust', 'stranger', 'secure']) name");

# --- a broker that is away (what kills cost is in 071) ---------------------------------------------

$kafka->kill9;
becomes(q{state = 'degraded' FROM orion.sinks WHERE name = 'main'}, 'a broker that is away shows');
value(q{SELECT orion_publish('order.waits', '{}', 'order', '1')});
$kafka->start;
becomes(q{state = 'running' AND lag_events = 0 FROM orion.sinks WHERE name = 'main'}, 'it comes back and all is delivered');
is(scalar(grep { $_->{headers}{ce_type} eq 'order.waits' } @{ $kafka->records('orion.events') }), 1, 'also what was published meanwhile');

# --- kills in the middle of a backlog: what comes twice is bounded by numbers, however fast Kafka is ---

create('backlog', { topic => 'backlog' }, 'backlog.#');
value(q{SELECT orion_sink_pause('backlog')});
becomes(q{state = 'paused' FROM orion.workers WHERE kind = 'relay' AND name = 'backlog'}, 'a sink is paused');
my $events = 80000;
value(qq{SELECT count(orion_publish('backlog.event', '{}', 'a', (i % 1000)::text)) FROM generate_series(1, $events) i});
value(q{SELECT orion_sink_resume('backlog')});
foreach my $quarter (1 .. 3)
{
	OrionServices::poll_until(sub { ($node->psql('postgres', "SELECT delivered > $events * $quarter / 4 FROM orion.sinks WHERE name = 'backlog'"))[1] eq 't' }, 60);
	kill 'KILL', ($node->psql('postgres', q{SELECT pid FROM orion.workers WHERE kind = 'relay' AND name = 'backlog'}))[1] || next;
	OrionServices::poll_until(sub { ($node->psql('postgres', 'SELECT 1'))[0] == 0 }, 60);
}
OrionServices::poll_until(sub { (($node->psql('postgres', q{SELECT state = 'running' AND lag_events = 0 FROM orion.sinks WHERE name = 'backlog'}))[1] // '') eq 't' }, 90);
$records = arrived('backlog', $events);
my %distinct = map { $_->{headers}{ce_id} => 1 } @$records;
is(scalar keys %distinct, $events, 'a relay was killed three times in a backlog: all arrives');
my $twice = @$records - $events;
cmp_ok($twice, '<=', 3 * 6144, "$twice twice, which is no more than are in flight and not stored");
$node->stop('fast');
done_testing();
