# Idempotency-Key: what is sent again is not done again, whoever sends it and whenever.
use strict;
use warnings;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use OrionHttp;

my ($node, $port) = OrionHttp::server('idempotency', qq{
orion.executor_count = 3
orion.rest_schemas = 'public'
orion.idempotency_max_answer = 4kB
});
$node->safe_psql('postgres', q{
CREATE EXTENSION orion;
CREATE TABLE payments (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, amount int NOT NULL CHECK (amount > 0), who text DEFAULT orion_claims() ->> 'sub');
CREATE TABLE ticks (at timestamptz DEFAULT clock_timestamp());
GRANT SELECT, INSERT, UPDATE ON payments TO orion_anon, orion_user;
CREATE FUNCTION slow(wait float) RETURNS int LANGUAGE plpgsql VOLATILE SECURITY DEFINER AS $$ BEGIN PERFORM pg_sleep(wait); INSERT INTO ticks DEFAULT VALUES; RETURN (SELECT count(*) FROM ticks); END $$;
CREATE FUNCTION headers() RETURNS text LANGUAGE plpgsql VOLATILE AS $$
BEGIN
	PERFORM set_config('response.status', '202', true);
	PERFORM set_config('response.headers', '[{"X-Mine":"a, b"},{"Set-Cookie":"a=1"},{"Set-Cookie":"b=2"}]', true);
	RETURN 'the secret ' || md5(random()::text);
END $$;
CREATE FUNCTION smuggle() RETURNS int LANGUAGE plpgsql VOLATILE AS $$ BEGIN PERFORM set_config('response.headers', E'[{"X-Mine":"a\\\\r\\\\nX-Other: b"}]', true); RETURN 1; END $$;
CREATE FUNCTION large(n int) RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT repeat('x', n) $$;
CREATE FUNCTION still(n int) RETURNS int LANGUAGE sql STABLE AS $$ SELECT n $$;
CREATE FUNCTION order_thing(request jsonb) RETURNS jsonb LANGUAGE sql VOLATILE SECURITY DEFINER AS $$ INSERT INTO ticks DEFAULT VALUES; SELECT jsonb_build_object('n', (SELECT count(*) FROM ticks), 'r', random()) $$;
SELECT orion_route_add('POST', '/api/orders', 'order_thing(jsonb)');
});
ok(OrionHttp::await($port, '/ready', 200), 'ready');

sub sql { return $node->safe_psql('postgres', $_[0]); }
my $ann = sql(q{SELECT orion_jwt_sign('{"sub": "11111111-1111-1111-1111-111111111111", "role": "orion_user"}')});
my $ann_later = sql(q{SELECT orion_jwt_sign('{"sub": "11111111-1111-1111-1111-111111111111", "role": "orion_user", "iat": 1000, "exp": 4000000000, "jti": "x"}')});
my $ann_other = sql(q{SELECT orion_jwt_sign('{"sub": "11111111-1111-1111-1111-111111111111", "role": "orion_user", "tenant": 2}')});
my $bob = sql(q{SELECT orion_jwt_sign('{"sub": "22222222-2222-2222-2222-222222222222", "role": "orion_user"}')});
my ($some, $else) = map { sql(qq{SELECT orion_jwt_sign('{"role": "orion_user", "number": $_}')}) } 1, 2;
isnt($ann, $ann_later, 'two tokens of one user');

# ask(method, path, key, body, token => ..., header => value ...)
sub ask
{
	my ($method, $path, $key, $body, %headers) = @_;
	my $token = delete $headers{token};
	$headers{'Content-Type'} //= 'application/json';
	$headers{'Idempotency-Key'} = $key if defined $key;
	$headers{Authorization} = "Bearer $token" if $token;
	return scalar OrionHttp::request($port, $method, $path =~ m{^/api} ? $path : "/rest/v1/$path", \%headers, $body);
}
sub replayed { return $_[0]{headers}{'idempotency-replayed'} // 'none'; }
sub code { return $_[0]{body} =~ /"code":"(\w+)"/ ? "$_[0]{status} $1" : $_[0]{status}; }
my %rep = (Prefer => 'return=representation');

# --- the same again
my $first = ask('POST', 'payments', 'k1', '{"amount":5}', token => $ann, %rep);
my $again = ask('POST', 'payments', 'k1', '{"amount":5}', token => $ann, %rep);
is($first->{status}, 201, 'the first is done');
is(replayed($first), 'false', '... and says that its answer is kept');
is(replayed($again), 'true', 'the second is answered from what was kept');
is($again->{status}, 201, '... with its status');
is($again->{body}, $first->{body}, '... its body');
delete @{ $_->{headers} }{qw(date idempotency-replayed x-request-id)} for $first, $again;
is_deeply($again->{headers}, $first->{headers}, '... and its headers');
is(sql('SELECT count(*) FROM payments'), 1, 'one payment');
is(replayed(ask('POST', 'payments', '"k1"', '{"amount":5}', token => $ann, %rep)), 'true', 'a key in quotes is the same key');
is(replayed(ask('POST', 'payments', 'k1', '{"amount":5}', token => $ann_later, %rep)), 'true', 'a newer token of the same user does not matter');
is(replayed(ask('POST', 'payments', undef, '{"amount":5}', token => $ann)), 'none', 'without a key nothing is kept');

# --- not the same
my @others = (
	['another body', 'POST', 'payments', '{"amount":6}'],
	['another path', 'POST', 'rpc/large', '{"amount":5}', 'n/a'],
	['another query', 'POST', 'payments?select=id', '{"amount":5}'],
	['another method', 'PATCH', 'payments', '{"amount":5}'],
);
is(code(ask($_->[1], $_->[2], 'k1', $_->[3], token => $ann, %rep)), $_->[4] ? '404 PGRST202' : '422 ORION422', "the key with $_->[0]") for @others;
is(code(ask('POST', 'rpc/large', 'k1', '{"n":5}', token => $ann, %rep)), '422 ORION422', 'the key with another function');
is(code(ask('POST', 'payments', 'k1', '{"amount":5}', token => $ann)), '422 ORION422', 'the key with another preference');
is(code(ask('POST', 'payments', 'k1', '{"amount":5}', token => $ann_other, %rep)), '422 ORION422', 'the key of the same user with other claims');
is(sql('SELECT count(*) FROM payments'), 2, 'none of them did anything');

# --- whose key it is
my $other = ask('POST', 'payments', 'k1', '{"amount":5}', token => $bob, %rep);
is(replayed($other), 'false', "another user's key of the same name is another key");
is(decode_json($other->{body})->[0]{who}, '22222222-2222-2222-2222-222222222222', '... whose answer is his own');
is(replayed(ask('POST', 'payments', 'k1', '{"amount":5}', %rep)), 'false', "nobody's is another one");
ask('POST', 'payments', 'k2', '{"amount":5}', token => $some, %rep);
is(replayed(ask('POST', 'payments', 'k2', '{"amount":5}', token => $else, %rep)), 'false', 'tokens without a subject are told apart by their claims');
is(replayed(ask('POST', 'payments', 'k2', '{"amount":5}', token => $some, %rep)), 'true', '... and known again by them');

# --- bad keys
is(code(ask('POST', 'payments', $_->[0], '{"amount":1}', token => $ann)), '400 ORION400', "refused: $_->[1]")
  for ['', 'an empty key'], ['""', 'a quoted empty one'], ['a b', 'a blank'], ["a\xc3\xa4", 'not ASCII'], ['a"b', 'a quote'], ['x' x 256, 'a long one'];
is(code(ask('POST', 'payments', 'x' x 255, '{"amount":1}', token => $ann)), 201, '255 characters');
is(code(ask('POST', 'payments', q{'); DROP TABLE payments;--} =~ s/ /_/gr, '{"amount":1}', token => $ann)), 201, 'a key is a value');
my $socket = OrionHttp::connection($port);
syswrite($socket, "POST /rest/v1/payments HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: Bearer $ann\r\nContent-Type: application/json\r\nIdempotency-Key: a1\r\nIdempotency-Key: a2\r\nContent-Length: 12\r\n\r\n{\"amount\":1}");
is(code(OrionHttp::parse(OrionHttp::receive($socket, sub { 0 }))), '400 ORION400', 'two keys');

# --- failures are not kept
is(code(ask('POST', 'payments', 'k3', '{"amount":-1}', token => $ann)), '400 23514', 'a request that fails');
is(replayed(ask('POST', 'payments', 'k3', '{"amount":1}', token => $ann)), 'false', '... leaves its key unused');
is(replayed(ask('GET', 'payments', 'k3', undef, token => $ann)), 'none', 'reading takes no key');
is(replayed(ask('POST', 'rpc/still', 'k3', '{"n":1}', token => $ann)), 'none', '... nor does a function that only reads');

# --- functions and routes
my $one = ask('POST', 'rpc/headers', 'k4', '{}', token => $ann);
my $two = ask('POST', 'rpc/headers', 'k4', '{}', token => $ann);
is("$two->{status} $two->{body} $two->{headers}{'x-mine'} $two->{headers}{'set-cookie'}", "202 $one->{body} a, b a=1, b=2", 'status, body and headers of a function');
is(code(ask('POST', 'rpc/smuggle', 'k5', '{}', token => $ann)), '500 PGRST111', 'a header with a line break is neither sent');
is(code(ask('POST', 'rpc/smuggle', 'k5', '{}', token => $ann)), '500 PGRST111', '... nor kept');
is(code(ask('POST', 'rpc/large', 'k6', '{"n":5000}', token => $ann)), '413 ORION413', 'an answer over orion.idempotency_max_answer');
is(code(ask('POST', 'rpc/large', 'k6', '{"n":4000}', token => $ann)), 200, '... leaves the key unused');
my $route = ask('POST', '/api/orders', 'k7', '{}', token => $ann);
is(ask('POST', '/api/orders', 'k7', '{}', token => $ann)->{body}, $route->{body}, 'a route');
is(code(ask('POST', '/api/orders', 'k7', '{"x":1}', token => $ann)), '422 ORION422', '... with another body');

# --- what carries secrets is not kept
my $account = '{"email":"cat@example.org","password":"a long enough password"}';
is(ask('POST', '/api/auth/register', 'k8', $account)->{status}, 201, 'registered with a key');
my @logins = map { ask('POST', '/api/auth/login', 'k9', $account) } 1, 2;
is(replayed($_), 'none', 'a login takes no key') for @logins;
is($logins[1]{status}, 200, '... and succeeds') or diag $logins[1]{body};
isnt(decode_json($logins[0]{body})->{data}{access_token} // $logins[0]{body}, decode_json($logins[1]{body})->{data}{access_token} // $logins[1]{body}, '... with tokens of its own');
is(replayed(ask('POST', 'rpc/orion_login', 'k10', '{"email":"cat@example.org","password":"wrong"}')), 'none', 'nor does the function');
my $dump = sql(q{SELECT string_agg(encode(answer, 'escape') || encode(request, 'escape') || encode(id, 'escape'), ' ') FROM orion_private.idempotency_keys});
unlike($dump, qr/secret|amount|example/, 'the table shows neither keys nor requests nor answers');
cmp_ok(length $dump, '>', 500, '... and has some');

# --- at the same time
sub start
{
	my ($path, $key, $body) = @_;
	my $s = OrionHttp::connection($port);
	syswrite($s, "POST /rest/v1/$path HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: Bearer $ann\r\nContent-Type: application/json\r\nIdempotency-Key: $key\r\nContent-Length: " . length($body) . "\r\n\r\n$body");
	return $s;
}
sub finish { return OrionHttp::parse(OrionHttp::receive($_[0], sub { 0 })); }
sql('TRUNCATE ticks');
my @pair = map { start('rpc/slow', 'race', '{"wait":0.7}') } 1, 2;
my @answers = map { finish($_) } @pair;
is(join(' ', sort map { $_->{status} . ' ' . $_->{body} . ' ' . replayed($_) } @answers), '200 1 false 200 1 true', 'of two at once one runs, the other waits for its answer');
is(sql('SELECT count(*) FROM ticks'), 1, '... which was worked out once');
$node->append_conf('postgresql.conf', 'orion.idempotency_wait = 300ms');
$node->reload;
$node->poll_query_until('postgres', q{SELECT current_setting('orion.idempotency_wait') = '300ms'});
@pair = map { start('rpc/slow', 'race2', '{"wait":2}') } 1, 2;
@answers = sort { $a->{status} <=> $b->{status} } map { finish($_) } @pair;
is(join(' ', map { $_->{status} } @answers), '200 409', 'one that waits too long is told to come again');
is($answers[1]{headers}{'retry-after'}, 1, '... when');
is(replayed(ask('POST', 'rpc/slow', 'race2', '{"wait":2}', token => $ann)), 'true', '... and then gets the answer');
$node->append_conf('postgresql.conf', 'orion.idempotency_wait = 30s');
$node->reload;
$node->poll_query_until('postgres', q{SELECT current_setting('orion.idempotency_wait') = '30s'});
@pair = (start('rpc/slow', 'race3', '{"wait":0.2}'), start('rpc/slow', 'race3', '{"wait":0.1}'));
is(join(' ', sort map { code(finish($_)) } @pair), '200 422 ORION422', 'of two different ones at once the second is refused');

# a client that goes away takes its transaction along, and the key with it
$socket = start('rpc/slow', 'gone', '{"wait":20}');
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'});
close($socket);
$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE wait_event = 'PgSleep'});
is(replayed(ask('POST', 'rpc/slow', 'gone', '{"wait":0}', token => $ann)), 'false', 'a client that left can use its key again');

# --- in the end
sql(q{UPDATE orion_private.idempotency_keys SET expires_at = now() - interval '1 s'});
is(replayed(ask('POST', 'rpc/slow', 'race', '{"wait":0.1}', token => $ann)), 'false', 'an expired key can be used for something else');
is(replayed(ask('POST', 'rpc/slow', 'race', '{"wait":0.1}', token => $ann)), 'true', '... and is kept again');
ok($node->poll_query_until('postgres', 'SELECT count(*) = 1 FROM orion_private.idempotency_keys'), 'maintenance deletes the expired ones and no other');
sql(q{UPDATE orion_private.idempotency_keys SET answer = set_byte(answer, 60, 255 - get_byte(answer, 60))});
is(code(ask('POST', 'rpc/slow', 'race', '{"wait":0.1}', token => $ann)), '500 OR002', 'an answer that was altered is not given');

$node->stop;
done_testing();
