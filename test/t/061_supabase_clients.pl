# The clients postgrest-js and supabase-js, as npm has them, drive a schema of 25 tables:
# test/peers/supabase/drive.mjs calls every method of their query builders, and this test
# compares what they say with what PostgREST would have them say.
#
# The packages come from npm, in the versions and with the digests of the lock file, into
# a directory of this run. Without npm, or without a way to its registry, this test fails.
use strict;
use warnings;
use File::Copy ();
use JSON::PP ();
use OrionStack;
use PostgreSQL::Test::Utils;
use Test::More;

my $json = JSON::PP->new->utf8->canonical->allow_nonref;
my $peers = "$ENV{ORION_TREE}/test/peers/supabase";
my $dir = PostgreSQL::Test::Utils::tempdir();

File::Copy::copy("$peers/$_", "$dir/$_") or die "$_: $!" for qw(package.json package-lock.json drive.mjs);
my $installed = OrionServices::npm_ci($dir);
if ($? != 0)
{
	fail('npm installs postgrest-js and supabase-js (it needs a way to its registry)');
	diag($installed);
	done_testing();
	exit 1;
}

my $stack = OrionStack->new('supabase', conf => q{
orion.rest_schemas = 'app, reports'
orion.rest_plan_enabled = on
orion.rest_tx_end = 'commit-allow-override'
});
$stack->sql(slurp_file("$peers/schema.sql"));
$stack->sql('ANALYZE');

my $anon_key = $stack->sql(q{SELECT orion_jwt_sign('{"role":"orion_anon"}')});
my $login = $stack->http('POST', '/api/auth/register', json => { email => 'ann@example.com', password => 'a quite secret horse' })->{json};
my $token = $login->{accessToken} // die 'ann cannot register';
my $made = $stack->http('POST', '/api/user/api-keys', token => $token, json => { name => 'supabase' });
my ($api_key) = $made->{body} =~ /"key"\s*:\s*"([^"]+)"/ or die "no API key: $made->{body}";

my $count = 0;
open(my $out, '-|', 'node', "$dir/drive.mjs", "http://127.0.0.1:$stack->{http_port}", $anon_key, $api_key, $token) or die "node: $!";
while (my $line = <$out>)
{
	my $check = eval { $json->decode($line) } or do { diag($line); next; };
	is($json->encode($check->{got}), $json->encode($check->{want}), $check->{name});
	$count++;
}
close $out;
is($?, 0, 'the clients came to their end');
cmp_ok($count, '>=', 186, "$count checks");
is($stack->sql('SELECT count(*) FROM app.notes'), 2, 'the policy has kept one note a person');
is($stack->sql('SELECT sum(restarts) FROM orion.workers'), 0, 'no worker was restarted');
unlike(slurp_file($stack->node->logfile), qr/syntax error|PANIC|TRAP/, 'nothing of it in the log');
done_testing();
