# Tokens made here are verified by the npm packages jose and jsonwebtoken, and theirs
# here: HS256, RS256, ES256. Confusions of algorithms are refused by all three.
#
# The packages come from npm, in the versions and with the digests of
# test/peers/package-lock.json, into a directory of this run. Without npm, or without a
# way to its registry, this test fails.
use strict;
use warnings;
use File::Copy ();
use IPC::Open2 ();
use JSON::PP ();
use MIME::Base64 qw(decode_base64url encode_base64url);
use OrionStack;
use PostgreSQL::Test::Utils;
use Test::More;

my $json = JSON::PP->new->utf8->canonical->allow_nonref;
my $peers = "$ENV{ORION_TREE}/test/peers";
my $dir = PostgreSQL::Test::Utils::tempdir();

# --- the peers

File::Copy::copy("$peers/$_", "$dir/$_") or die "$_: $!" for qw(package.json package-lock.json jwt.mjs);
my $installed = OrionServices::npm_ci($dir);
is($?, 0, 'npm installs jose and jsonwebtoken (it needs a way to its registry)')
  or give_up("npm could not install the packages that tokens are checked against:\n$installed");

sub give_up { my ($why) = @_; diag($why); done_testing(); exit 1; }

# Answers of the peers to a list of jobs.
sub ask
{
	my (@jobs) = @_;
	my $pid = IPC::Open2::open2(my $out, my $in, 'node', "$dir/jwt.mjs");
	print $in $json->encode(\@jobs);
	close $in;
	local $/;
	my $text = <$out>;
	waitpid($pid, 0);
	die "the peers ended with status $?" if $? != 0;
	return @{ $json->decode($text) };
}

my %pair;
@pair{qw(RS256 ES256)} = map { $_->{ok} // die $_->{error} } ask({ op => 'pair', alg => 'RS256' }, { op => 'pair', alg => 'ES256' });
my $secret = 'a secret that three programs share, of enough bytes';

# --- the server: its shared secret is theirs, too

my $stack = OrionStack->new('token_peers', conf => "orion.jwt_secret = '$secret'\n");
my $node = $stack->node;
my $jwks = "http://127.0.0.1:$stack->{http_port}/.well-known/jwks.json";
my %shared = (key => { secret => encode_base64url($secret) });

sub sql { return $stack->sql(@_); }

sub verify_here
{
	my ($token) = @_;
	my ($status, $out, $err) = $node->psql('postgres', "SELECT orion_jwt_verify('$token')");
	return $status == 0 ? $out : $err =~ /token refused: (.*)/ ? $1 : $err;
}

# --- signed here, verified there

my $now = time;
my $claims = { sub => 'a', name => "\x{C4}nn \x{1F600}", iat => $now, exp => $now + 600, aud => 'authenticated', nested => { list => [ 1, 'x', undef ], 'a b' => 'c, d: e' } };
my $literal = $json->encode($claims);
my %kid = (
	HS256 => sql("SELECT orion_key_import('HS256', convert_to('$secret', 'UTF8'))"),
	RS256 => sql("SELECT orion_key_publish('RS256')"),
	ES256 => sql("SELECT orion_key_publish('ES256')"));
my %pem = map { $_ => sql("SELECT public_key FROM orion_private.signing_keys WHERE kid = '$kid{$_}'") } qw(RS256 ES256);
my %ours;
for my $alg (qw(HS256 RS256 ES256))
{
	sql("SELECT orion_key_activate('$kid{$alg}')");
	$ours{$alg} = sql("SELECT orion_jwt_sign(convert_from('\\x" . unpack('H*', $literal) . "', 'UTF8')::jsonb)");
	my $header = $json->decode(decode_base64url((split /\./, $ours{$alg})[0]));
	is_deeply($header, { alg => $alg, kid => $kid{$alg}, typ => 'JWT' }, "the header of a token with $alg");
	my %key = $alg eq 'HS256' ? %shared : (key => $pem{$alg});
	for my $lib ('jose', 'jsonwebtoken')
	{
		my ($answer) = ask({ op => 'verify', lib => $lib, algs => [$alg], token => $ours{$alg}, %key });
		is_deeply($answer->{ok}, $claims, "$lib verifies $alg") or diag($answer->{error});
	}
}
for my $alg (qw(RS256 ES256))
{
	my ($answer) = ask({ op => 'verify', lib => 'jose', algs => [ 'RS256', 'ES256' ], token => $ours{$alg}, jwks => $jwks });
	is_deeply($answer->{ok}, $claims, "jose finds the key for $alg in /.well-known/jwks.json") or diag($answer->{error});
}

# a whole sign-in, as another service of the application would check it
my $login = $stack->http('POST', '/api/auth/register', json => { email => 'ann@example.com', password => 'a quite secret horse' })->{json};
my ($seen) = ask({ op => 'verify', lib => 'jose', algs => ['ES256'], token => $login->{accessToken}, jwks => $jwks });
is($seen->{ok}{sub}, $login->{user}{id}, 'jose verifies the access token of a sign-in') or diag($seen->{error});
is(join(' ', sort keys %{ $seen->{ok} }), 'aal amr app_metadata aud email email_verified exp iat iss role session_id sub user_metadata', 'with the claims that policies know');

# rotation as they see it
sql("SELECT orion_key_retire('$kid{RS256}')");
my ($retired, $still) = ask(map { { op => 'verify', lib => 'jose', algs => [ 'RS256', 'ES256' ], token => $ours{$_}, jwks => $jwks } } qw(RS256 ES256));
like($retired->{error}, qr/ERR_JWKS_NO_MATCHING_KEY/, 'a retired key is not in the set');
is_deeply($still->{ok}, $claims, 'the other one is');

# --- signed there, verified here: HS256 by the shared secret, the others by their kid

for my $alg (qw(RS256 ES256))
{
	sql("INSERT INTO orion_private.signing_keys (kid, alg, public_key, status) VALUES ('peer-$alg', '$alg', '$pair{$alg}{public}', 'published')");
}
for my $lib ('jose', 'jsonwebtoken')
{
	for my $alg (qw(HS256 RS256 ES256))
	{
		my %key = $alg eq 'HS256' ? %shared : (key => $pair{$alg}{private}, header => { kid => "peer-$alg" });
		my ($answer) = ask({ op => 'sign', lib => $lib, alg => $alg, claims => $claims, %key });
		my $token = $answer->{ok} // die "$lib $alg: $answer->{error}";
		is_deeply($json->decode(verify_here($token)), $claims, "what $lib signs with $alg is verified here");
		my $forged = $token;
		$forged =~ s/^([^.]+)\.[^.]+/"$1." . encode_base64url($json->encode({ %$claims, sub => 'b' }))/e;
		is(verify_here($forged), 'wrong signature', 'with other claims it is not');
	}
}

# the same keys as a key set in orion.jwt_secret
my $set = $json->encode({ keys => [ map { { %{ $pair{$_}{jwk} }, kid => "set-$_", alg => $_ } } qw(RS256 ES256) ] });
my %signed = map { my ($answer) = ask({ op => 'sign', lib => 'jose', alg => $_, claims => $claims, key => $pair{$_}{private}, header => { kid => "set-$_" } }); $_ => $answer->{ok} } qw(RS256 ES256);
is(verify_here($signed{RS256}), 'unknown key', 'a kid that is not known');
$node->append_conf('postgresql.conf', "orion.jwt_secret = '$set'");
$node->reload;
for my $alg (qw(RS256 ES256))
{
	ok($stack->until_true(sub { verify_here($signed{$alg}) =~ /"sub"/ }), "jose's key set in orion.jwt_secret verifies $alg");
}

# --- confusions: the algorithm belongs to the key, here and there

my @confused;
for my $alg (qw(RS256 ES256))
{
	my %key = (key => { secret => encode_base64url($pair{$alg}{public}) });
	push @confused, [ "HS256 with the public key for $alg as secret", { lib => $_, alg => 'HS256', %key, header => { kid => "peer-$alg" } } ] for 'jose', 'jsonwebtoken';
	push @confused, [ "none with the kid of a key for $alg", { lib => 'jsonwebtoken', alg => 'none', header => { kid => "peer-$alg" } } ];
}
push @confused, [ 'RS256 with the kid of a key for ES256', { lib => 'jose', alg => 'RS256', key => $pair{RS256}{private}, header => { kid => 'peer-ES256' } } ];
push @confused, [ 'none', { lib => 'jose', alg => 'none' } ];
for my $case (@confused)
{
	my ($name, $job) = @$case;
	my ($answer) = ask({ op => 'sign', claims => $claims, %$job });
	defined $answer->{ok} or do { pass("$job->{lib} does not even sign: $name"); next; };
	my $said = verify_here($answer->{ok});
	ok($said eq 'the algorithm is not the one of the key' || $said eq 'malformed token' || $said eq 'unknown key', "$name, by $job->{lib}, is refused here") or diag($said);
}

my @there = (
	[ 'ours of ES256 where RS256 is wanted', { token => $ours{ES256}, algs => ['RS256'], key => $pem{ES256} } ],
	[ 'ours of ES256 where HS256 is wanted, with the public key as secret', { token => $ours{ES256}, algs => ['HS256'], key => { secret => encode_base64url($pem{ES256}) } } ],
	[ 'ours of HS256 where ES256 is wanted', { token => $ours{HS256}, algs => ['ES256'], key => $pem{ES256} } ],
	[ 'ours with another algorithm in the header', { token => encode_base64url('{"alg":"HS256","typ":"JWT"}') . ($ours{ES256} =~ s/^[^.]+//r), algs => [ 'HS256' ], key => { secret => encode_base64url($pem{ES256}) } } ],
	[ 'ours with a bit changed', { token => ($ours{ES256} =~ s/^(.*\.)(.)/$1 . ($2 eq 'A' ? 'B' : 'A')/er), algs => ['ES256'], key => $pem{ES256} } ]);
for my $case (@there)
{
	my ($name, $job) = @$case;
	my @answers = ask(map { { op => 'verify', lib => $_, %$job } } 'jose', 'jsonwebtoken');
	ok(defined $answers[0]{error}, "jose refuses $name");
	ok(defined $answers[1]{error}, "jsonwebtoken refuses $name");
}
my ($hidden) = ask({ op => 'verify', lib => 'jose', algs => ['HS256'], token => $ours{HS256}, jwks => $jwks });
like($hidden->{error} // '', qr/^ERR_/, 'a secret is in no key set');

done_testing();
