# One request goes all the way through: HTTP, identity, a view under row level
# security, an optimistic update, and its events in Redis and RabbitMQ.
use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;

use JSON::PP ();
use OrionStack;
use Test::More;

my $stack = OrionStack->new('demonstration',
	redis => { cache => [ { pattern => 'user.*', del => ['user:profile:{aggregateid}'] } ] },
	rabbitmq => {},
	conf => "orion.rest_schemas = 'public, orion'\n");
my ($node, $redis) = ($stack->node, $stack->redis);

sub register
{
	my ($name) = @_;
	return $stack->http('POST', '/api/auth/register',
		json => { email => "$name\@example.com", password => "the password of $name", displayName => $name });
}

sub login
{
	my ($name, $password) = @_;
	return $stack->http('POST', '/api/auth/login',
		json => { email => "$name\@example.com", password => $password // "the password of $name" });
}

sub profile
{
	my ($token) = @_;
	return $stack->http('GET', '/rest/v1/profile', token => $token, headers => { 'Accept-Profile' => 'orion' });
}

sub update
{
	my ($token, $id, $version, $changes) = @_;
	return $stack->http('POST', '/rest/v1/rpc/orion_update', token => $token,
		json => { relation => 'orion.profile', id => $id, expected_version => $version, changes => $changes });
}

# --- register, log in
my $ann = register('ann');
is($ann->{status}, 201, 'ann registers');
my $ann_id = $ann->{json}{user}{id};
like($ann_id // '', qr/^[0-9a-f-]{36}$/, 'and has an id');
is($ann->{json}{user}{version}, 1, 'and version 1');
my $bob = register('bob');
is($bob->{status}, 201, 'bob registers');
my $bob_id = $bob->{json}{user}{id};
is(register('ann')->{status}, 409, 'nobody registers twice');
is(login('ann', 'not the password')->{status}, 401, 'a wrong password is refused');
my $login = login('ann');
is($login->{status}, 200, 'ann logs in');
my $token = $login->{json}{accessToken};
is(lc($login->{json}{tokenType} // ''), 'bearer', 'and gets a bearer token');

# --- read
my $seen = profile($token);
is($seen->{status}, 200, 'ann reads the view of profiles');
is_deeply([ map { "$_->{id} $_->{display_name} $_->{version}" } @{ $seen->{json} // [] } ], ["$ann_id ann 1"], 'and sees the own row only');
is_deeply([ map { $_->{id} } @{ profile($bob->{json}{accessToken})->{json} // [] } ], [$bob_id], 'as bob sees the own');
my $nobody = profile(undef);
is($nobody->{status}, 401, 'without a token the view is refused');
is(ref $nobody->{json} eq 'HASH' ? $nobody->{json}{code} : '', '42501', 'with the SQLSTATE of it');
is($stack->http('GET', "/rest/v1/profile?id=eq.$bob_id", token => $token, headers => { 'Accept-Profile' => 'orion' })->{body}, '[]',
	"asked for, bob's row is not there for ann");

# --- update
$redis->command('SET', "user:profile:$ann_id", 'cached');
$redis->command('SET', "user:profile:$bob_id", 'cached');
is($redis->command('EXISTS', "user:profile:$ann_id"), 1, 'the profile is cached');
my $updated = update($token, $ann_id, 1, { display_name => 'Ann' });
is($updated->{status}, 200, 'ann updates version 1') or diag($updated->{body});
is(ref $updated->{json} eq 'HASH' ? "$updated->{json}{display_name} $updated->{json}{version}" : $updated->{body}, 'Ann 2', 'the answer is the new row, version 2');
my $stale = update($token, $ann_id, 1, { display_name => 'Annie' });
is($stale->{status}, 409, 'a second update of version 1 is refused');
is_deeply([ sort keys %{ ref $stale->{json} eq 'HASH' ? $stale->{json} : {} } ], [qw(code details hint message)], 'with an error of four fields');
is(update($token, $bob_id, 1, { display_name => 'Ann was here' })->{status}, 404, "bob's row cannot be updated by ann");
is(update($token, $ann_id, 2, { email => 'root@example.com' })->{status}, 403, 'nor a column without the privilege');
is(update(undef, $ann_id, 2, { display_name => 'x' })->{status}, 401, 'nor anything without a token');
is(profile($token)->{json}[0]{display_name}, 'Ann', 'the row is what the first update made it');
ok($stack->until_true(sub { $redis->command('EXISTS', "user:profile:$ann_id") eq '0' }), 'the cached profile is gone');

# --- rolled back: what is published and rolled back first would arrive first
$stack->sql(qq{
BEGIN;
UPDATE orion_private.users SET display_name = 'rolled back' WHERE id = '$bob_id';
ROLLBACK;
BEGIN;
SAVEPOINT s;
UPDATE orion_private.users SET display_name = 'rolled back to a savepoint' WHERE id = '$bob_id';
ROLLBACK TO s;
COMMIT;
SELECT orion_publish('user.marker', '{}', 'user', 'marker');
});
is($redis->command('EXISTS', "user:profile:$bob_id"), 1, 'the cached profile of bob stays');

# --- the events, in both sinks
my @expected = (
	[ 'user.created', $ann_id ], [ 'user.created', $bob_id ], [ 'user.login', $ann_id ],
	[ 'user.updated', $ann_id ], [ 'user.marker', 'marker' ]);

sub check_envelopes
{
	my ($sink, @envelopes) = @_;
	my %by_type;

	is_deeply([ map { "$_->{eventType} $_->{aggregateId}" } @envelopes ], [ map { "@$_" } @expected ],
		"$sink: each event once, in the order of the commits, none of what was rolled back");
	foreach my $envelope (@envelopes)
	{
		is_deeply([ sort keys %$envelope ],
			[qw(aggregateId aggregateType causationId correlationId eventId eventType metadata payload timestamp version)],
			"$sink: the envelope of $envelope->{eventType}");
		like($envelope->{eventId}, qr/^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/, "$sink: its id");
		like($envelope->{timestamp}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(Z|\+00:00)$/, "$sink: its time");
		is("$envelope->{version} $envelope->{aggregateType}", '1 user', "$sink: its version and aggregate");
		$by_type{ $envelope->{eventType} } //= $envelope->{payload};
	}
	is($by_type{'user.created'}{email}, 'ann@example.com', "$sink: the payload of user.created");
	is($by_type{'user.login'}{id}, $ann_id, "$sink: the payload of user.login");
	is("$by_type{'user.updated'}{version} @{ $by_type{'user.updated'}{changed} // [] }", '2 display_name', "$sink: the payload of user.updated");
}

ok($stack->until_true(sub { grep { $_ eq 'user.marker' } @{ $stack->redis_field('type') } }), 'the marker is in the Redis stream');
my @from_redis = map { JSON::PP::decode_json($_) } @{ $stack->redis_field('event') };
check_envelopes('redis', @from_redis);

ok($stack->until_true(sub { $stack->rabbit_count('user.queue') >= @expected }), 'the marker is in the RabbitMQ queue');
my $messages = $stack->rabbit->drain('user.queue', scalar @expected, 10);
my @from_rabbit = map { JSON::PP::decode_json($_->{body}) } @$messages;
check_envelopes('rabbitmq', @from_rabbit);
is_deeply([ map { $_->{routing_key} } @$messages ], [ map { $_->[0] } @expected ], 'rabbitmq: routing keys are the types');
is_deeply(\@from_rabbit, \@from_redis, 'both sinks got the same envelopes');
is($redis->command('EXISTS', "user:profile:$bob_id"), 1, 'the rolled back updates have not touched the cache');

# --- and nothing of it is a secret in the events or the log
my $told = join "\n", (map { JSON::PP::encode_json($_) } @from_redis), PostgreSQL::Test::Utils::slurp_file($node->logfile);
unlike($told, qr/the password of|argon2|\Q$token\E/, 'no password, hash or token in an event or in the log');
is($stack->sql("SELECT count(*) FROM orion.workers WHERE restarts > 0 OR state <> 'running'"), 0, 'no worker was restarted');
$node->stop;
unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'no crash in the log');
done_testing();
