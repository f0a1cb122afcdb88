# The lines of "A walk with curl" in docs/identity.md work as they stand there.
use strict;
use warnings;
use OrionStack;
use PostgreSQL::Test::Utils;
use Test::More;

my $stack = OrionStack->new('identity_docs');
my ($walk) = slurp_file("$ENV{ORION_TREE}/docs/identity.md") =~ /^## A walk with curl\n(.*?)^## /ms;
my @lines = $walk =~ /^    (.*)$/mg;
cmp_ok(scalar(grep { /curl/ } @lines), '>', 15, 'there is a walk');

my $script = $stack->node->basedir . '/walk.sh';
OrionServices::write_file($script, join("\n",
	'set -e -o pipefail',
	'curl() { command curl --fail-with-body "$@"; }',
	# the one form of jq that the walk uses, where there is no jq
	q{command -v jq > /dev/null || jq() { perl -MJSON::PP -0777 -e 'my $v = decode_json(<STDIN>); $v = $v->{$_} foreach grep { length } split /[.]/, $ARGV[1]; print $v' -- "$@"; }},
	(map { /^API=/ ? "API=http://127.0.0.1:$stack->{http_port}" : ("echo; echo 'RUN " . ($_ =~ s/'/'\\''/gr) . "'", $_) } @lines),
	'echo; echo WALKED'));
local $ENV{PGHOST} = $stack->node->host;
local $ENV{PGPORT} = $stack->node->port;
local $ENV{PGDATABASE} = 'postgres';
my $out = qx(bash '$script' 2>&1);
like($out, qr/^WALKED$/m, 'each line ends well') or diag(substr($out, -1500));
like($out, qr/"accessToken": ?"/, 'the login answers with tokens');
like($out, qr/"displayName": ?"Ann B\."/, 'the profile was changed');
unlike($out, qr/"code": ?"/, 'no answer is an error');
is($stack->sql(q{SELECT email_verified_at IS NOT NULL FROM orion_private.users}), 't', 'the address is confirmed');
done_testing();
