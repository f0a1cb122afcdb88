# Webhooks to a real HTTP server: signatures that other implementations accept, retries,
# limits, refused addresses, and what arrives when the courier, the relay and the server
# are killed.
use strict;
use warnings;

use Encode ();
use File::Copy ();
use File::Temp ();
use FindBin;
use lib $FindBin::Bin;
use HTTP::Tiny;
use IPC::Open2 ();
use JSON::PP ();
use OrionServices;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

my $json = JSON::PP->new->utf8->canonical;
my $peers = ($ENV{ORION_TREE} // "$FindBin::Bin/../..") . '/test/peers';
my $dir = PostgreSQL::Test::Utils::tempdir();

# --- the receiver

system_or_bail('openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2',
	'-subj', '/CN=receiver', '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1', '-keyout', "$dir/key.pem", '-out', "$dir/cert.pem");
my $receiver = fork // die "fork: $!";
if ($receiver == 0)
{
	exec('node', "$peers/webhook_receiver.mjs", "$dir/log", "$dir/key.pem", "$dir/cert.pem") or POSIX::_exit(127);
}
END { my $status = $?; kill 'KILL', $receiver if $receiver; $? = $status; }

my (@got, %ports);
{
	my $at = 0;
	my $rest = '';

	# Takes over what the receiver has written.
	sub look
	{
		open(my $log, '<:raw', "$dir/log") or return;
		seek($log, $at, 0);
		local $/;
		my $more = <$log> // '';
		$at += length $more;
		$rest .= $more;
		while ($rest =~ s/^([^\n]*)\n//)
		{
			my $line = $json->decode($1);
			if ($line->{url}) { push @got, $line; }
			else { %ports = %$line; }
		}
	}
}
sub got { my ($url) = @_; look(); return grep { $_->{url} eq $url } @got; }
sub ids { my %seen = map { $_->{headers}{'webhook-id'} => 1 } @_; return scalar keys %seen; }
sub within { my ($seconds, $code) = @_; return OrionServices::poll_until($code, $seconds); }
sub soon { my ($code) = @_; return within(60, $code); }

ok(soon(sub { look(); $ports{https} }), 'the receiver listens') or BAIL_OUT('no receiver');
my $http = "http://127.0.0.1:$ports{http}";
my $https = "https://127.0.0.1:$ports{https}";
sub switch { HTTP::Tiny->new->get("$http/switch/$_[0]"); }

# --- the other implementations

File::Copy::copy("$peers/$_", "$dir/$_") or die "$_: $!" for qw(package.json package-lock.json webhook_verify.mjs);
my $installed = OrionServices::npm_ci($dir);
is($?, 0, 'npm installs standardwebhooks and svix (it needs a way to its registry)') or diag($installed);

sub verdicts
{
	my ($secret, @requests) = @_;
	my $pid = IPC::Open2::open2(my $out, my $in, 'node', "$dir/webhook_verify.mjs");
	print $in $json->encode([ map { { secret => $secret, headers => $_->{headers}, body => $_->{body} } } @requests ]);
	close $in;
	local $/;
	my $answer = $json->decode(<$out>);
	waitpid($pid, 0);
	return $answer;
}
sub verified
{
	my ($secret, $request, $name) = @_;
	is_deeply(verdicts($secret, $request), [ { standardwebhooks => 'ok', svix => 'ok' } ], $name);
}

# --- the server

my $node = PostgreSQL::Test::Cluster->new('webhooks');
$node->init;
$node->append_conf('postgresql.conf', qq{
shared_preload_libraries = 'orion'
max_worker_processes = 16
orion.http_port = 0
restart_after_crash = on
log_statement = 'none'
log_min_duration_statement = -1
orion.webhook_retry_schedule = '300ms, 600ms, 1s'
orion.webhook_timeout = 1500ms
orion.webhook_allowed_networks = '127.0.0.0/8, ::1/128'
orion.webhook_allow_http = on
orion.webhook_ca_file = '$dir/cert.pem'
});
$node->start;
sub value { return $node->safe_psql('postgres', $_[0]); }
sub becomes { my ($query, $name) = @_; ok(soon(sub { value("SELECT $query") eq 't' }), $name) or diag(value('SELECT * FROM orion.webhooks') . "\n" . value('SELECT * FROM orion.webhook_attempts')); }

value('CREATE EXTENSION orion');
value('CREATE TABLE published (what text, id uuid PRIMARY KEY)');

# Makes an endpoint; returns its id and secret.
sub endpoint
{
	my ($url, $pattern, $more) = @_;
	return split /\|/, value("SELECT * FROM orion_webhook_create('$url', '{$pattern}'" . ($more ? ", $more" : '') . ')');
}
sub publish
{
	my ($what, $count, $type) = @_;
	value(qq{INSERT INTO published (what, id)
		SELECT '$what', orion_publish('} . ($type // "$what.done") . qq{', jsonb_build_object('n', i), 'thing', i::text, metadata => '{"tenant": "acme"}') FROM generate_series(1, $count) i});
}
sub drop { value("SELECT orion_webhook_drop($_)") foreach @_; }
sub row { my ($columns, $id) = @_; return value("SELECT $columns FROM orion.webhooks WHERE id = $id"); }

subtest 'one event, signed' => sub {
	my ($id, $secret) = endpoint("$https/ok/signed", 'signed.*');
	like($secret, qr/^whsec_[A-Za-z0-9+\/]{43}=$/, 'the secret is told once');
	my $event = value(q{SELECT orion_publish('signed.well', '{"text": "h\u00e9, \"quoted\""}')});
	ok(soon(sub { got('/ok/signed') }), 'it arrives');
	my ($request) = got('/ok/signed');
	ok($request->{secure}, 'over TLS');
	is($request->{headers}{'webhook-id'}, $event, 'webhook-id is the id of the event');
	cmp_ok(abs($request->{headers}{'webhook-timestamp'} - time), '<', 10, 'the timestamp is now');
	like($request->{headers}{'webhook-signature'}, qr/^v1,[A-Za-z0-9+\/]{43}=$/, 'one signature');
	is($request->{headers}{'content-type'}, 'application/json', 'JSON');
	is_deeply([ sort keys %{ $request->{headers} } ],
		[ qw(accept content-length content-type host user-agent webhook-id webhook-signature webhook-timestamp) ], 'no other headers');
	my $body = $json->decode(Encode::encode_utf8($request->{body}));
	is($body->{type}, 'signed.well', 'type');
	like($body->{timestamp}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\+00:00$/, 'timestamp');
	is_deeply($body->{data}, { text => "h\x{e9}, \"quoted\"" }, 'data');
	is(join(' ', sort keys %$body), 'data timestamp type', 'and nothing else');
	verified($secret, $request, 'both implementations accept it');
	my %altered = (%$request, body => "$request->{body} ");
	my ($verdict) = @{ verdicts($secret, \%altered) };
	isnt($verdict->{svix}, 'ok', 'and not an altered one');
	becomes("state = 'working' AND delivered = 1 AND last_status = 200 AND last_excerpt = 'thanks' FROM orion.webhooks WHERE id = $id", 'the view tells');
	becomes("count(*) = 1 AND bool_and(status = 200 AND attempt = 1 AND duration_ms >= 0 AND error IS NULL) FROM orion.webhook_attempts WHERE endpoint_id = $id", 'the log, too');
	is(value('SELECT count(*) FROM orion_private.webhook_pending'), '0', 'nothing waits');

	my $test = value("SELECT orion_webhook_test($id)");
	ok(soon(sub { got('/ok/signed') == 2 }), 'a test arrives');
	$request = (got('/ok/signed'))[-1];
	is($request->{headers}{'webhook-id'}, $test, 'with its id');
	is($json->decode($request->{body})->{type}, 'webhook.test', 'and type');
	verified($secret, $request, 'signed');
	drop($id);
};

subtest 'rotation, v1a, own secrets' => sub {
	my ($id, $old) = endpoint("$http/ok/rotated", 'rotated.*', q{secret => 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'});
	is($old, 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', 'a secret from elsewhere');
	publish('rotated', 1);
	ok(soon(sub { got('/ok/rotated') == 1 }), 'it arrives');
	verified($old, (got('/ok/rotated'))[-1], 'signed with it');
	my $new = value("SELECT orion_webhook_rotate_secret($id, '5 s')");
	publish('rotated', 1);
	ok(soon(sub { got('/ok/rotated') == 2 }), 'another arrives');
	my $request = (got('/ok/rotated'))[-1];
	like($request->{headers}{'webhook-signature'}, qr/^v1,\S+ v1,\S+$/, 'two signatures');
	verified($old, $request, 'the old secret verifies');
	verified($new, $request, 'and the new one');
	my $after = value("SELECT expires_at FROM orion_private.webhook_secrets WHERE endpoint_id = $id AND expires_at IS NOT NULL");
	becomes("clock_timestamp() > '$after'", 'the old one expires');
	publish('rotated', 1);
	ok(soon(sub { got('/ok/rotated') == 3 }), 'a third arrives');
	$request = (got('/ok/rotated'))[-1];
	like($request->{headers}{'webhook-signature'}, qr/^v1,\S+$/, 'one signature');
	verified($new, $request, 'by the new secret');
	my $public = value("SELECT orion_webhook_rotate_secret($id, '1 hour', signature => 'v1a')");
	like($public, qr/^whpk_[A-Za-z0-9+\/]{43}=$/, 'a public key');
	publish('rotated', 1);
	ok(soon(sub { got('/ok/rotated') == 4 }), 'a fourth arrives');
	$request = (got('/ok/rotated'))[-1];
	is_deeply(verdicts($public, $request), [ { v1a => 'ok' } ], 'verified with it');
	verified($new, $request, 'and with the shared secret still');
	drop($id);
};

subtest 'who gets what' => sub {
	my ($one) = endpoint("$http/ok/acme", 'wanted.#,other.*', q{filter => '{"metadata": {"tenant": "acme"}}'});
	my ($two) = endpoint("$http/ok/other", 'wanted.#', q{filter => '{"metadata": {"tenant": "zenith"}}'});
	my ($three) = endpoint("$http/ok/envelope", 'wanted.*', q{format => 'envelope'});
	publish('wanted', 3);
	publish('unwanted', 3);
	ok(soon(sub { got('/ok/acme') == 3 && got('/ok/envelope') == 3 }), 'they arrive');
	is(scalar got('/ok/other'), 0, 'only where the filter holds');
	my $envelope = $json->decode((got('/ok/envelope'))[0]{body});
	is($envelope->{eventId}, (got('/ok/envelope'))[0]{headers}{'webhook-id'}, 'the envelope');
	is_deeply($envelope->{metadata}, { tenant => 'acme' }, 'with metadata');
	value("SELECT orion_webhook_alter($two, filter => '{}')");
	is(value("SELECT orion_webhook_replay($two, now() - interval '1 hour')"), '3', 'replay finds three');
	ok(soon(sub { ids(got('/ok/other')) == 3 }), 'and sends them');
	is((got('/ok/other'))[0]{body}, (got('/ok/acme'))[0]{body}, 'byte for byte as before');
	drop($one, $two, $three);
};

subtest 'retries' => sub {
	my ($id, $secret) = endpoint("$http/flaky/2", 'flaky.*');
	publish('flaky', 1);
	ok(soon(sub { got('/flaky/2') == 3 }), 'three attempts');
	my @requests = got('/flaky/2');
	is(ids(@requests), 1, 'with one webhook-id');
	my @pauses = map { $requests[$_]{at} - $requests[ $_ - 1 ]{at} } 1, 2;
	cmp_ok($pauses[0], '>=', 290, "first pause $pauses[0] ms");
	cmp_ok($pauses[1], '>=', 590, "second pause $pauses[1] ms");
	verified($secret, $_, 'signed') foreach @requests;
	becomes("count(*) = 0 FROM orion_private.webhook_pending WHERE endpoint_id = $id", 'then nothing waits');
	is(value("SELECT string_agg(attempt || ' ' || status, ', ' ORDER BY at) FROM orion.webhook_attempts WHERE endpoint_id = $id"), '1 500, 2 500, 3 200', 'the log');
	drop($id);

	($id) = endpoint("$http/status/500", 'broken.*');
	publish('broken', 1);
	becomes("count(*) = 1 AND bool_and(state = 'dead' AND attempts = 4 AND last_status = 500 AND last_excerpt = 'status 500') FROM orion.webhook_deliveries WHERE endpoint_id = $id", 'given up after four attempts');
	is(row('state', $id), 'failing', 'the endpoint fails');
	becomes("attempts = 4 FROM orion.sinks WHERE name = 'webhooks'", 'which the view of the sinks says, too');
	value("SELECT orion_webhook_alter($id, url => '$http/ok/mended')");
	is(value("SELECT orion_webhook_redrive($id)"), '1', 'redriven');
	ok(soon(sub { got('/ok/mended') == 1 }), 'and delivered');
	becomes("state = 'working' AND failing_since IS NULL FROM orion.webhooks WHERE id = $id", 'it works again');
	becomes("attempts = 0 AND rate > 0 FROM orion.sinks WHERE name = 'webhooks'", 'and so does the sink');
	drop($id);

	foreach my $kind ('seconds', 'date')
	{
		($id) = endpoint("$http/$kind/2", "$kind.*");
		publish($kind, 1);
		ok(soon(sub { got("/$kind/2") == 2 }), "Retry-After ($kind)");
		my @two = got("/$kind/2");
		cmp_ok($two[1]{at} - $two[0]{at}, '>=', $kind eq 'date' ? 1000 : 1990, 'is honoured');
		drop($id);
	}
};

subtest 'endpoints that are disabled' => sub {
	my ($id) = endpoint("$http/status/410", 'gone.*');
	publish('gone', 1);
	becomes("disabled_reason = 'gone' AND state = 'disabled' FROM orion.webhooks WHERE id = $id", '410 disables');
	publish('gone', 3);
	is(value("SELECT count(*) FROM orion_private.outbox WHERE type = 'webhook.endpoint.disabled' AND payload ->> 'reason' = 'gone' AND (payload ->> 'id')::int = $id"), '1', 'and publishes an event');
	value("SELECT orion_webhook_alter($id, url => '$http/ok/back')");
	value("SELECT orion_webhook_enable($id)");
	ok(soon(sub { got('/ok/back') }), 'enabled, it gets what waited');
	publish('gone', 1);
	ok(soon(sub { got('/ok/back') == 2 }), 'and what is new');
	is(scalar got('/status/410'), 1, 'nothing was sent meanwhile');
	drop($id);

	value("ALTER SYSTEM SET orion.webhook_disable_after = '1s'; SELECT pg_reload_conf()");
	($id) = endpoint("$http/status/503", 'failing.*');
	publish('failing', 1);
	becomes("disabled_reason = 'failing' FROM orion.webhooks WHERE id = $id", 'failing for too long disables');
	cmp_ok(scalar got('/status/503'), '>=', 2, 'after some attempts');
	value("ALTER SYSTEM RESET orion.webhook_disable_after; SELECT pg_reload_conf()");
	drop($id);

	($id) = endpoint("$http/ok/paused", 'paused.*');
	value("SELECT orion_webhook_disable($id)");
	is($node->psql('postgres', "SELECT orion_webhook_test($id)"), 3, 'a disabled one cannot be tested');
	drop($id);
};

subtest 'answers' => sub {
	my %expected = (
		redirect => "status = 302 AND error = 'redirects are not followed'",
		drip => "status = 200 AND error IS NULL AND excerpt LIKE 'xx%'",
		drip500 => "status = 500",
		huge => "status = 200 AND length(excerpt) = 1023",
		headers => "status IS NULL AND error = 'the headers of the answer are too long'",
		garbage => "status IS NULL AND error <> ''",
		reset => "status IS NULL AND error <> ''",
		hang => "status IS NULL AND error LIKE '%timed out%' AND duration_ms BETWEEN 1400 AND 10000",
		binary => "status = 500 AND excerpt LIKE E'caf\\u00e9 \\U0001F600 \\ufffd\\ufffd[31m\\ufffd\\ufffdqqq%' AND octet_length(excerpt) BETWEEN 1000 AND 1023");
	my %id;
	foreach my $kind (sort keys %expected)
	{
		($id{$kind}) = endpoint("$http/$kind/0", "answer.$kind");
		publish($kind, 1, "answer.$kind");
	}
	($id{refused}) = endpoint('http://127.0.0.1:' . OrionServices::free_port() . '/', 'answer.refused');
	$expected{refused} = "status IS NULL AND error ~ 'connect'";
	publish('refused', 1, 'answer.refused');
	becomes("(SELECT $expected{$_} FROM orion.webhook_attempts WHERE endpoint_id = $id{$_} ORDER BY at LIMIT 1)", "$_: $expected{$_}") foreach sort keys %expected;
	is(scalar got('/ok/redirected'), 0, 'the redirect was not followed');
	drop(values %id);
};

subtest 'addresses' => sub {
	value("ALTER SYSTEM SET orion.webhook_allowed_networks = ''; SELECT pg_reload_conf()");
	my ($allowed) = endpoint("$http/ok/allowed", 'address.*', q{networks => '{127.0.0.1/32}'});
	publish('address', 1);
	ok(soon(sub { got('/ok/allowed') == 1 }), 'the endpoint has an allowed network') or diag(value('SELECT * FROM orion.webhook_attempts ORDER BY at DESC LIMIT 3'));
	my $p = $ports{http};
	my %forms = (
		plain => "http://127.0.0.1:$p", decimal => "http://2130706433:$p", hexadecimal => "http://0x7f000001:$p", octal => "http://0177.0.0.1:$p",
		short => "http://127.1:$p", other => "http://127.8.9.10:$p", unspecified => "http://0.0.0.0:$p", name => "http://localhost:$p", v6 => "http://[::1]:$p",
		mapped => "http://[::ffff:127.0.0.1]:$p", mapped_hex => "http://[::ffff:7f00:1]:$p", any => "http://[::]:$p", private => 'http://10.0.0.1',
		metadata => 'http://169.254.169.254', cgnat => 'http://100.64.0.1', nat64 => 'http://[64:ff9b::7f00:1]', ula => 'http://[fd00::1]',
		multicast => 'http://224.0.0.1', broadcast => 'http://255.255.255.255', tls => "https://127.0.0.1:$ports{https}");
	my %id;
	($id{$_}) = endpoint("$forms{$_}/ok/secret", "address.*") foreach sort keys %forms;
	publish('address', 1);
	foreach my $form (sort keys %forms)
	{
		becomes("(SELECT status IS NULL AND error LIKE 'the address is not allowed: it is %' FROM orion.webhook_attempts WHERE endpoint_id = $id{$form} ORDER BY at LIMIT 1)", "$form: $forms{$form}");
	}
	is(scalar got('/ok/secret'), 0, 'nothing arrived');
	ok(soon(sub { got('/ok/allowed') == 2 }), 'but where it is allowed');
	drop(values %id);
	my ($ssh) = endpoint('http://127.0.0.1:22/', 'address.*', q{networks => '{127.0.0.1/32}'});
	publish('address', 1);
	becomes("(SELECT error = 'the port is not allowed' FROM orion.webhook_attempts WHERE endpoint_id = $ssh LIMIT 1)", 'port 22');
	drop($allowed, $ssh);
	value("ALTER SYSTEM SET orion.webhook_allowed_networks = 'nonsense'; SELECT pg_reload_conf()");
	becomes("state = 'degraded' AND last_error ~ 'orion.webhook_allowed_networks' FROM orion.workers WHERE kind = 'relay'", 'a setting that cannot be read is reported');
	value("ALTER SYSTEM SET orion.webhook_allowed_networks = ''; SELECT pg_reload_conf()");
	becomes("state = 'running' FROM orion.workers WHERE kind = 'relay'", 'and mended');
	value("ALTER SYSTEM SET orion.webhook_allow_http = off; SELECT pg_reload_conf()");
	my $forbidden = ($node->psql('postgres', "SELECT orion_webhook_create('http://example.com/')"))[2];
	like($forbidden, qr/over https only/, 'plain http is refused');
	value('CREATE ROLE app IN ROLE orion_service');
	foreach my $permission ("networks => '{10.0.0.0/8}'", 'plain_http => true')
	{
		my (undef, undef, $error) = $node->psql('postgres', "SET ROLE app; SELECT orion_webhook_create('https://example.com/', $permission)");
		like($error, qr/only members of orion_admin/, "a service may not say $permission");
	}
	value("ALTER SYSTEM RESET orion.webhook_allow_http; ALTER SYSTEM RESET orion.webhook_allowed_networks; SELECT pg_reload_conf()");
	value("ALTER SYSTEM SET orion.webhook_ca_file = ''; SELECT pg_reload_conf()");
	my ($untrusted) = endpoint("$https/ok/untrusted", 'untrusted.*');
	publish('untrusted', 1);
	becomes("(SELECT status IS NULL AND error ~ 'certificate' FROM orion.webhook_attempts WHERE endpoint_id = $untrusted LIMIT 1)", 'a certificate nobody has signed is refused');
	is(scalar got('/ok/untrusted'), 0, 'before anything is sent');
	value("ALTER SYSTEM RESET orion.webhook_ca_file; SELECT pg_reload_conf()");
	drop($untrusted);
};

subtest 'one slow endpoint, one fast' => sub {
	my ($hang) = endpoint("$http/hang", 'both.*');
	my ($dead) = endpoint('http://127.0.0.1:' . OrionServices::free_port() . '/', 'both.*');
	my ($slow) = endpoint("$http/slow/400", 'both.*', 'concurrency => 2');
	my ($fast) = endpoint("$http/ok/fast", 'both.*');
	publish('both', 1);
	ok(soon(sub { got('/ok/fast') == 1 }), 'a first one');
	my $begin = time;
	foreach (1 .. 10) { publish('both', 100); }
	ok(soon(sub { ids(got('/ok/fast')) == 1001 }), 'the fast one has everything');
	my $took = time - $begin;
	cmp_ok($took, '<', 15, sprintf('soon: %.1f s for a thousand', $took));
	# a receiver that stands still for as long as an attempt may take gets another
	ok(soon(sub { got('/ok/fast') == 1001 + value("SELECT count(*) FROM orion.webhook_attempts WHERE endpoint_id = $fast AND attempt > 1") }), 'once');
	# milliseconds from before the publishing to the arrival, in ascending order
	my $latencies = sub {
		my ($count) = @_;
		my @ms;
		foreach (1 .. $count)
		{
			my $before = got('/ok/fast');
			my $sent = time;
			publish('both', 1);
			soon(sub { got('/ok/fast') > $before });
			push @ms, ((got('/ok/fast'))[-1]{at} / 1000 - $sent) * 1000;
		}
		return sort { $a <=> $b } @ms;
	};
	# one time in four the machine may be busy with something else
	my @ms = $latencies->(8);
	cmp_ok($ms[5], '<', 500, 'and at once, with the publishing: ' . join(' ', map { int } @ms) . ' ms');
	my $most = 0;
	foreach (got('/slow/400')) { $most = $_->{together} if $_->{together} > $most; }
	is($most, 2, 'the slow one gets two at a time');
	cmp_ok(value("SELECT count(*) FROM orion_private.webhook_pending WHERE endpoint_id = $slow"), '>', 500, 'the rest waits in the table');
	cmp_ok(value("SELECT count(*) FROM orion_private.webhook_pending WHERE endpoint_id = $hang"), '>', 900, 'and that of the dead ones');
	becomes("lag_events < 50 FROM orion.sinks WHERE name = 'webhooks'", 'and the outbox for nobody');
	drop($hang, $dead, $slow);

	# more endpoints that hang than attempts may be under way
	value("ALTER SYSTEM SET orion.webhook_max_in_flight = 16; SELECT pg_reload_conf()");
	my @many = map { (endpoint("$http/hang", 'both.*'))[0] } 1 .. 40;
	@ms = $latencies->(8);
	cmp_ok($ms[5], '<', 800, 'forty that hang, sixteen attempts: ' . join(' ', map { int } @ms) . ' ms');
	value("ALTER SYSTEM RESET orion.webhook_max_in_flight; SELECT pg_reload_conf()");
	drop(@many, $fast);
};

subtest 'rate and order' => sub {
	my ($id) = endpoint("$http/ok/rated", 'rated.*', 'rate => 20');
	publish('rated', 30);
	ok(soon(sub { got('/ok/rated') == 30 }), 'all arrive');
	my @requests = got('/ok/rated');
	my $took = $requests[-1]{at} - $requests[0]{at};
	cmp_ok($took, '>=', 1200, "at the rate: $took ms");
	cmp_ok($took, '<', 15000, 'and not much slower');
	drop($id);
	($id) = endpoint("$http/ok/ordered", 'ordered.*', 'concurrency => 1');
	publish('ordered', 700) foreach 1 .. 2;
	ok(soon(sub { ids(got('/ok/ordered')) == 1400 }), 'one at a time');
	my %seen;
	is(join(' ', map { $json->decode($_->{body})->{data}{n} } grep { !$seen{ $_->{headers}{'webhook-id'} }++ } got('/ok/ordered')), join(' ', 1 .. 700, 1 .. 700), 'in order');
	drop($id);
};

subtest 'kills' => sub {
	my ($one) = endpoint("$http/ok/killed", 'killed.*');
	my ($two) = endpoint("$http/switched/killed", 'killed.*');
	my $worker = sub { return value("SELECT $_[0] FROM orion.workers WHERE kind = 'relay'"); };
	my $all = sub {
		my ($what) = @_;
		my $want = value("SELECT count(*) FROM published WHERE what = 'killed'");
		ok(soon(sub { ids(got('/ok/killed')) == $want && ids(got('/switched/killed')) == $want }), "$what: everything arrives")
		  or diag(ids(got('/ok/killed')) . ' and ' . ids(got('/switched/killed')) . " of $want");
		note(scalar(got('/ok/killed')) - $want, ' twice');
	};
	publish('killed', 100);
	$all->('first');
	foreach my $round (1 .. 3)
	{
		publish('killed', 1000);
		my $pid = $worker->('program_pid');
		my $some = got('/ok/killed') + 100;
		within(5, sub { got('/ok/killed') >= $some });
		kill 'KILL', $pid if $pid;
		$all->("the courier was killed ($round)");
	}
	switch(500);
	publish('killed', 500);
	becomes("count(*) >= 100 FROM orion_private.webhook_pending WHERE endpoint_id = $two", 'an outage');
	value("SELECT pg_terminate_backend(pid) FROM orion.workers WHERE kind = 'relay'");
	publish('killed', 500);
	$node->stop('immediate');
	$node->start;
	publish('killed', 500);
	switch(200);
	# without the lock it may deadlock with the relay, which updates rows in an order of its own
	value("BEGIN; LOCK TABLE orion_private.webhook_pending IN EXCLUSIVE MODE; UPDATE orion_private.webhook_pending SET dead_at = NULL, attempts = 0, next_at = now(); COMMIT");
	$all->('relay and server were killed in an outage');
	my $relay = $worker->('pid');
	publish('killed', 2000);
	kill 'KILL', $relay;
	# it may answer a moment before it knows
	ok(soon(sub { (($node->psql('postgres', "SELECT pid <> $relay AND state = 'running' FROM orion.workers WHERE kind = 'relay'"))[1] // '') eq 't' }), 'the server recovers');
	$all->('the relay was killed with -9');
	my $unknown = ids(got('/ok/killed')) - value("SELECT count(*) FROM published WHERE what = 'killed'");
	is($unknown, 0, 'nothing arrived that was not committed');
	becomes("count(*) = 0 FROM orion_private.webhook_pending WHERE endpoint_id IN ($one, $two)", 'nothing is left');
	drop($one, $two);
};

subtest 'secrets' => sub {
	my ($id, $secret) = endpoint("$http/status/500/hush-hush?token=hush-hush", 'secret.*');
	publish('secret', 1);
	becomes("count(*) >= 1 FROM orion.webhook_attempts WHERE endpoint_id = $id", 'an attempt fails');
	my $bare = $secret =~ s/^whsec_//r;
	my $views = value('SELECT (SELECT json_agg(w) FROM orion.webhooks w), (SELECT json_agg(w) FROM orion.webhook_deliveries w), (SELECT json_agg(w) FROM orion.webhook_attempts w), (SELECT json_agg(w) FROM orion.workers w), (SELECT json_agg(a) FROM pg_stat_activity a WHERE pid <> pg_backend_pid())');
	like($views, qr{"address":"\Q$http\E/\.\.\."}, 'the views show the host');
	foreach my $place ([ 'views', $views ], [ 'log', slurp_file($node->logfile) ])
	{
		unlike($place->[1], qr/hush-hush/, "$place->[0]: nothing of a URL behind the host");
		unlike($place->[1], qr/\Q$bare\E/, "$place->[0]: no secret");
	}
	is(value("SELECT count(*) FROM orion_private.webhook_endpoints WHERE position('hush-hush'::bytea IN url) > 0"), '0', 'the URL is sealed');
	is(value("SELECT count(*) FROM orion_private.webhook_secrets WHERE position('$bare'::bytea IN secret) > 0"), '0', 'the secret, too');
	drop($id);
};

is(value('SELECT count(*) FROM orion.webhooks'), '0', 'all endpoints are dropped');
$node->stop;
done_testing();
