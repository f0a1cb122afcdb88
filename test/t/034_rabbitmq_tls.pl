# RabbitMQ over TLS, from orion-courier alone up to sink and consumer of a server: what
# arrives while the broker blocks and is killed, whose certificate is accepted, and what
# is said about those that are not.
use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;

use File::Temp ();
use JSON::PP ();
use OrionCourier;
use OrionServices;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

# ---- certificates ----

my $dir = File::Temp::tempdir('orion-XXXXXX', TMPDIR => 1, CLEANUP => 1);
my $new = 'req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes';

sub openssl
{
	system("cd $dir && openssl @_ >>openssl.log 2>&1") == 0 or die "openssl @_: " . OrionServices::slurp("$dir/openssl.log");
}

openssl("$new -x509 -days 2 -keyout $_.key -out $_.pem -subj /CN=$_") foreach qw(ca other);
foreach (
	[ 'server', 'subjectAltName=DNS:localhost,IP:127.0.0.1', 2 ],
	[ 'named', 'subjectAltName=DNS:rabbit.example', 2 ],
	[ 'expired', 'subjectAltName=DNS:localhost,IP:127.0.0.1', -1 ],
	[ 'client', 'extendedKeyUsage=clientAuth', 2 ])
{
	my ($name, $extension, $days) = @$_;
	OrionServices::write_file("$dir/$name.ext", "$extension\n");
	openssl("$new -keyout $name.key -out $name.csr -subj /CN=$name");
	openssl("x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days $days -extfile $name.ext -out $name.pem");
}

# ---- a broker that wants a certificate of ours ----

my $port = OrionServices::free_port();
my $rabbit = OrionServices->start_rabbitmq(conf => <<"CONF");
listeners.ssl.1 = 127.0.0.1:$port
ssl_options.cacertfile = $dir/ca.pem
ssl_options.certfile = $dir/server.pem
ssl_options.keyfile = $dir/server.key
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
CONF
$rabbit->ctl('add_user', 'secure', 'hush-hush');
$rabbit->ctl('set_permissions', 'secure', '.*', '.*', '.*');

my $url = "amqps://secure:hush-hush\@localhost:$port/";
my %ours = (cert => "$dir/client.pem", key => "$dir/client.key");
my %tls = (ca => "$dir/ca.pem", %ours);

sub config
{
	my (%more) = @_;
	return { sink => 'test', kind => 'rabbitmq', config => { url => $url, tls => {%tls}, exchanges => ['user.events'],
		queues => ['audit.queue'], bindings => [ { exchange => 'user.events', queue => 'audit.queue' } ], %more } };
}

sub leaves
{
	my ($courier) = @_;
	unlike($courier->words, qr/hush|BEGIN/, 'no secret');
	is($courier->leave, 0, 'exit status');
}

# Takes the messages away, doubles left out.
sub queue_has
{
	my ($count, $name) = @_;
	my %seen = map { $_->{message_id} => 1 } @{ $rabbit->drain('audit.queue', $count) };
	is(join(' ', sort keys %seen), join(' ', map { event($_)->[1] } 1 .. $count), $name);
}

subtest 'events' => sub {
	my $courier = Courier->new(config(hosts => ["127.0.0.1:$port"], url => 'amqps://secure:hush-hush@localhost:1/'));
	ok($courier->is_ready, 'by the second of two hosts') or diag($courier->words);
	my $begin = time;
	$courier->send_event(event($_)) foreach 1 .. 5000;
	ok($courier->all_acked, 'five thousand acknowledged') or diag($courier->words);
	note(sprintf('%.0f events/s', 5000 / (time - $begin)));
	like($rabbit->ctl('list_connections', 'user', 'ssl', 'ssl_protocol', 'client_properties'), qr/^secure\ttrue\ttlsv1\.[23]\t.*orion-courier/m, 'over TLS');
	queue_has(5000, 'and there');

	$rabbit->ctl('set_vm_memory_high_watermark', '0');
	$courier->send_event(event($_, event => 'x' x 4000)) foreach 1 .. 3000;
	ok($courier->until(sub { $_[0]->last_trouble =~ /blocks publishers/ }), 'a broker that stops reading: ' . $courier->last_trouble);
	cmp_ok($courier->{acked}, '<', $courier->{sent}, 'holds us up');
	$rabbit->ctl('set_vm_memory_high_watermark', '0.4');
	ok($courier->all_acked, 'until it goes on');
	$courier->send_event(event(1, event => 'x' x 10_000_000));
	ok($courier->all_acked, 'ten megabytes in one event');
	my $messages = $rabbit->drain('audit.queue', 3001);
	is(scalar @$messages . ' ' . $messages->[-1]{size}, '3001 10000000', 'all there');

	kill 'STOP', $rabbit->pid;
	$courier->send_event(event(2));
	ok($courier->until(sub { $_[0]->last_trouble =~ /does not confirm messages/ }, 40), 'a frozen broker shows long before it is given up');
	kill 'CONT', $rabbit->pid;
	ok($courier->all_acked, 'and goes on when it is not frozen any more');
	ok($courier->until(sub { $_[0]->last_trouble eq '' }), 'well again');
	is(scalar @{ $rabbit->drain('audit.queue', 1) }, 1, 'one message');

	$courier->send_event(event($_ - 8002)) foreach 8003 .. 18002;
	$courier->until(sub { $_[0]{acked} > 9001 });
	$rabbit->kill9;
	cmp_ok($courier->{acked}, '<', $courier->{sent}, "killed at $courier->{acked}");
	ok($courier->until(sub { $_[0]->last_trouble ne '' }), 'trouble: ' . $courier->last_trouble);
	$rabbit->start;
	ok($courier->all_acked, 'all acknowledged after the start') or diag($courier->words);
	ok($courier->until(sub { $_[0]->last_trouble eq '' }), 'well again');
	queue_has(10000, 'all there');
	is_deeply($courier->{rejected}, {}, 'nothing refused');
	leaves($courier);
};

# ---- whom it does not talk to ----

# openssl as a server with that certificate; on top of TLS it says what is written to its input.
sub s_server
{
	my ($name, @options) = @_;
	my $port = OrionServices::free_port();
	my $log = "$dir/s_server.$port";
	pipe(my $silence, my $held) or die "pipe: $!";	# it leaves at the end of its input
	my $pid = fork // die "fork: $!";
	if ($pid == 0)
	{
		open(STDIN, '<&', $silence);
		open(STDOUT, '>', $log);
		open(STDERR, '>&', \*STDOUT);
		exec('openssl', 's_server', '-accept', "127.0.0.1:$port", '-cert', "$dir/$name.pem", '-key', "$dir/$name.key", @options) or POSIX::_exit(127);
	}
	OrionServices::poll_until(sub { OrionServices::slurp($log) =~ /^ACCEPT/m }) or die 'openssl s_server: ' . OrionServices::slurp($log);
	return ($pid, $port, $held);
}

sub troubled
{
	my ($config, $expected, $name) = @_;
	my $begin = time;
	my $courier = Courier->new($config);
	ok($courier->until(sub { $_[0]->last_trouble ne '' }), $name);
	like($courier->last_trouble, $expected, $courier->last_trouble);
	leaves($courier);
}

subtest 'strangers' => sub {
	troubled(config(tls => {%ours}), qr/certificate is not accepted: .*(self.signed|unable to get)/, 'an authority that the system does not know');
	troubled(config(tls => { ca => "$dir/other.pem", %ours }), qr/certificate is not accepted/, 'another authority');
	troubled(config(tls => { ca => "$dir/ca.pem" }), qr/TLS|connection lost/, 'no certificate of ours');
	troubled(config(tls => { %tls, key => "$dir/server.key" }), qr/"key" does not belong to "cert"/, 'the wrong key');
	troubled(config(url => "amqp://secure:hush-hush\@localhost:$port/"), qr/"tls" needs a "url" that begins with amqps/, 'TLS for amqp://');
	my $plain = config(url => "amqp://secure:hush-hush\@localhost:$port/");
	delete $plain->{config}{tls};
	troubled($plain, qr/connection lost|broken answer|no answer/, 'no TLS where it is wanted');
	troubled(config(url => 'amqps://secure:hush-hush@localhost:' . $rabbit->port . '/'), qr/TLS with localhost/, 'TLS where it is not spoken');
	troubled(config(url => "amqps://secure:wrong-hush\@localhost:$port/"), qr/ACCESS_REFUSED/, 'the wrong password');

	foreach (
		[ 'expired', {}, qr/certificate is not accepted: certificate has expired/, 'an old certificate' ],
		[ 'named', {}, qr/certificate is not accepted: hostname mismatch/i, 'the certificate of another host' ],
		[ 'named', { server_name => 'rabbit2.example' }, qr/certificate is not accepted: hostname mismatch/i, 'the wrong name' ],
		[ 'server', {}, qr/TLS with localhost: /, 'TLS 1.1', '-tls1_1', '-cipher', 'DEFAULT@SECLEVEL=0' ],
		[ 'named', { server_name => 'rabbit.example' }, qr/broken answer/, 'the right name, and no broker behind it' ],
		[ 'expired', { verify => JSON::PP::false() }, qr/broken answer/, 'anybody, who is no broker' ])
	{
		my ($certificate, $tls, $expected, $name, @options) = @$_;
		my ($pid, $port, $held) = s_server($certificate, @options);
		syswrite($held, "nonsense\n");
		troubled(config(url => "amqps://secure:hush-hush\@localhost:$port/", tls => { ca => "$dir/ca.pem", %$tls }), $expected, $name);
		kill 'KILL', $pid;
		waitpid $pid, 0;
	}
};

subtest 'a handshake that stalls' => sub {
	my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 5) or die;
	my $begin = time;
	troubled(config(url => 'amqps://secure:hush-hush@127.0.0.1:' . $listener->sockport . '/'), qr/TLS with 127\.0\.0\.1: no answer in time/, 'nobody answers');
	cmp_ok(time - $begin, '<', 30, 'and nobody waits long');
	my $courier = Courier->new(config(url => 'amqps://secure:hush-hush@127.0.0.1:' . $listener->sockport . '/', hosts => ["localhost:$port"]));
	ok($courier->is_ready, 'the next host is tried');
	leaves($courier);
};

# ---- sink and consumer of a server ----

my $node = PostgreSQL::Test::Cluster->new('tls');
$node->init;
$node->append_conf('postgresql.conf', q{
shared_preload_libraries = 'orion'
max_worker_processes = 16
orion.http_port = 0
restart_after_crash = on
log_statement = none
});
$node->start;

sub value { return $node->safe_psql('postgres', $_[0]); }

sub becomes
{
	my ($condition, $name) = @_;
	ok($node->poll_query_until('postgres', "SELECT $condition"), $name) or diag(value('SELECT name, state, last_error FROM orion.workers')
		. "\n" . value('SELECT * FROM orion.consumers'));
}

sub quoted { return "'" . (JSON::PP->new->encode($_[0]) =~ s/'/''/gr) . "'"; }

# the certificates themselves, for the sink; their paths, for the consumer
my %text = map { $_ => OrionServices::slurp($tls{$_}) } keys %tls;
my $sink = quoted({ url => $url, tls => \%text, exchanges => ['order.events'], queues => ['orders'], bindings => [ { exchange => 'order.events', queue => 'orders' } ] });
my $consumer = quoted({ url => $url, tls => \%tls, queue => 'orders' });
value(qq{
CREATE EXTENSION orion;
CREATE TABLE effects (id text, body jsonb);
CREATE FUNCTION handle(message jsonb) RETURNS void LANGUAGE sql AS
	\$\$ INSERT INTO effects VALUES (message ->> 'messageId', message -> 'body') \$\$;
SELECT orion_sink_create('rabbit', 'rabbitmq', $sink, 'order.#');
});
becomes("state = 'running' FROM orion.sinks WHERE name = 'rabbit'", 'the sink runs');
value("SELECT orion_consume('orders', $consumer, 'handle(jsonb)')");
becomes("state = 'running' FROM orion.consumers WHERE name = 'orders'", 'the consumer runs');
is(value("SELECT count(*) FROM orion_private.sinks WHERE position('PRIVATE KEY'::bytea IN config) > 0"), '0', 'the key is sealed');

sub publish { value("SELECT count(orion_publish('order.placed', jsonb_build_object('n', n))) FROM generate_series($_[0], $_[1]) n"); }

publish(1, 2000);
becomes("count(*) > 100 FROM effects", 'on the way there and back');
$rabbit->kill9;
publish(2001, 3000);
becomes("state = 'degraded' AND last_error LIKE 'rabbitmq localhost:%' FROM orion.consumers WHERE name = 'orders'", 'the broker is killed');
becomes("state = 'degraded' AND last_error LIKE 'rabbitmq localhost:%' FROM orion.sinks WHERE name = 'rabbit'", 'and both views say so');
$rabbit->start;
becomes("count(DISTINCT body #>> '{payload,n}') = 3000 FROM effects", 'all arrive');
is(value('SELECT count(*) - count(DISTINCT id) FROM effects'), '0', 'with effect once');
becomes("count(*) = 2 FROM (SELECT state FROM orion.sinks WHERE name = 'rabbit' UNION ALL SELECT state FROM orion.consumers) s WHERE state = 'running'", 'well again');

my $distrust = quoted({ url => $url, tls => { %tls, ca => "$dir/other.pem" }, queue => 'orders' });
value("SELECT orion_consume_alter('orders', $distrust)");
becomes("state = 'degraded' AND last_error LIKE '%certificate is not accepted%' FROM orion.consumers WHERE name = 'orders'", 'another authority');
value("SELECT orion_consume_alter('orders', $consumer)");
becomes("state = 'running' FROM orion.consumers WHERE name = 'orders'", 'the right one again');
publish(3001, 3010);
becomes("count(DISTINCT body #>> '{payload,n}') = 3010 FROM effects", 'and messages');
unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/TRAP:|panic|hush|PRIVATE/i, 'nothing crashed, no secret in the log');

done_testing();
