# What identity does across processes, restarts and reloads: the master key file, the
# shared secret, retired keys, and what the server's log must not show.
use strict;
use warnings;
use Digest::SHA qw(hmac_sha256);
use IPC::Run ();
use MIME::Base64 qw(encode_base64url decode_base64url);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $secret = 'a secret of more than thirty-two bytes';
my $node = PostgreSQL::Test::Cluster->new('auth');
$node->init;
$node->append_conf('postgresql.conf', qq{
shared_preload_libraries = 'orion'
orion.database = ''
orion.http_port = 0
orion.jwt_secret = '$secret'
log_statement = none
log_min_error_statement = panic
});
my $key_file = $node->data_dir . '/orion_master.key';

sub slurp_key { return PostgreSQL::Test::Utils::slurp_file($key_file); }

sub write_key
{
	my ($bytes, $mode) = @_;
	open(my $file, '>:raw', $key_file) or die $!;
	print $file $bytes;
	close $file;
	chmod $mode, $key_file;
}

sub token
{
	my ($header, $payload, $key) = @_;
	my $signed = encode_base64url($header) . '.' . encode_base64url($payload);
	return "$signed." . encode_base64url(hmac_sha256($signed, $key // $secret));
}

# The claims, or why not.
sub verify
{
	my ($token) = @_;
	my ($status, $out, $err) = $node->psql('postgres', "SELECT orion_jwt_verify('$token')");
	return $status == 0 ? $out : $err =~ /token refused: (.*)/ ? $1 : $err;
}

sub hs { return verify(token('{"alg":"HS256","typ":"JWT"}', @_)); }

# --- the master key file
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION orion');
is((stat $key_file)[2] & 07777, 0600, 'the first start makes a key file for the owner only');
is(-s $key_file, 32, 'of 32 bytes');
my $key = slurp_key();
my $token = $node->safe_psql('postgres', q{SELECT orion_jwt_sign('{"sub": "a"}')});
$node->restart;
is(slurp_key(), $key, 'a restart keeps the key');
is(verify($token), '{"sub": "a"}', 'and what was sealed with it opens');

$node->stop;
for my $case ([ $key, 0640, 'has group or world access' ], [ $key, 0604, 'has group or world access' ],
	[ substr($key, 1), 0600, 'has 31 bytes, expected 32' ], [ '', 0600, 'has 0 bytes' ])
{
	my ($bytes, $mode, $message) = @$case;
	write_key($bytes, $mode);
	my $from = -s $node->logfile;
	ok(!$node->start(fail_ok => 1), sprintf('no start with a key file of mode %o and %d bytes', $mode, length $bytes));
	like(PostgreSQL::Test::Utils::slurp_file($node->logfile, $from), qr/FATAL: .*\Q$message\E/, 'the log says why');
}
unlink $key_file;
$node->start;
my ($status, $out, $err) = $node->psql('postgres', q{\set VERBOSITY verbose} . "\nSELECT orion_jwt_verify('$token')");
like($err, qr/OR002: .*sealed value does not open.*another master key/s, 'with another key sealed values do not open, and the error says so');
$node->stop;
write_key($key, 0600);
$node->start;
is(verify($token), '{"sub": "a"}', 'with the right key they open again');

# --- the shared secret
my $now = time;
is(hs('{"sub":"b"}'), '{"sub": "b"}', 'a token without kid is verified with orion.jwt_secret');
is(hs('{"sub":"b"}', 'another secret of more than thirty-two bytes'), 'wrong signature', 'and only with it');
is(hs("{\"exp\":@{[$now - 15]}}"), "{\"exp\": @{[$now - 15]}}", 'expired 15 s ago: within the leeway');
is(hs("{\"exp\":@{[$now - 40]}}"), 'the token has expired', 'expired 40 s ago');
is(hs("{\"nbf\":@{[$now + 300]}}"), 'the token is not valid yet', 'nbf in five minutes');
is(hs("{\"iat\":@{[$now + 300]}}"), 'the token is not valid yet', 'issued in five minutes');
is(hs('{"exp":"1"}'), 'malformed times', 'exp as a string');
is(hs('{"exp":1e300}'), 'malformed times', 'exp beyond all calendars');
is(hs('{"exp":1e400}'), 'wrong signature', 'exp beyond all numbers (libjwt cannot read it)');
is(hs('[]'), 'malformed claims', 'claims that are no object');
is(hs('{"a":"\u0000"}'), 'wrong signature', 'claims with a NUL (libjwt cannot read them)');
is(verify(token('{"alg":"HS256","crit":["x"]}', '{}')), 'critical header parameters are not supported', 'crit in a well signed token');
is(verify(token('{"alg":"HS384"}', '{}')), 'the algorithm is not the one of the key', 'another HMAC than the key has');
is(verify(token("{\"alg\":\"HS256\",\"kid\":\"x\"}", '{}')), 'unknown key', 'the shared secret has no kid');

# --- retired keys, seen by a session that has the token in its cache
my $session = $node->background_psql('postgres', on_error_stop => 0) if $node->can('background_psql');
SKIP:
{
	skip 'this PostgreSQL has no background session for tests', 2 unless $session && $session->can('query');
	is($session->query("SELECT orion_jwt_verify('$token')"), '{"sub": "a"}', 'another session verifies');
	$node->safe_psql('postgres', 'SELECT orion_key_retire(kid) FROM orion_private.signing_keys');
	$session->query("SELECT orion_jwt_verify('$token')");
	like($session->{stderr}, qr/unknown key/, 'and refuses after the key was retired elsewhere');
	$session->quit;
}

# --- reload: RFC 7515 A.1 with its key, whose "exp" lies in 2011
my $rfc = 'eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.';
my $rfc_key = 'AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow';
is(verify($rfc . 'dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk'), 'wrong signature', 'RFC 7515 A.1 with another key');
$node->append_conf('postgresql.conf', "orion.jwt_secret = 'base64url:$rfc_key'");
$node->reload;
my $seen;
for (1 .. 600) { $seen = verify($rfc . 'dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk'); last if $seen ne 'wrong signature'; select undef, undef, undef, 0.1; }
is($seen, 'the token has expired', 'RFC 7515 A.1: the signature is right');
is(verify($rfc . 'dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXg'), 'wrong signature', 'RFC 7515 A.1 with one bit changed');
is(hs('{"sub":"b"}'), 'wrong signature', 'the former secret is forgotten');

# --- RFC 7515 A.2 and A.3, and RFC 7519 6.1, which nobody has signed
my ($payload) = $rfc =~ /\.(.*)\./;
my %vector = (
	RS256 => [ '{"kty":"RSA","e":"AQAB","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}',
		'cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw' ],
	ES256 => [ '{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}',
		'DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q' ]);
$node->append_conf('postgresql.conf', 'orion.jwt_secret = \'{"keys":[' . join(',', map { $_->[0] } values %vector) . ']}\'');
$node->reload;
for my $alg ('RS256', 'ES256')
{
	my $start = encode_base64url(qq({"alg":"$alg"})) . ".$payload.";
	for (1 .. 600) { $seen = verify($start . $vector{$alg}[1]); last if $seen eq 'the token has expired'; select undef, undef, undef, 0.1; }
	is($seen, 'the token has expired', "RFC 7515 A." . ($alg eq 'RS256' ? 2 : 3) . ": the signature with $alg is right");
	is(verify($start . ($vector{$alg}[1] =~ s/^(.)/$1 eq 'c' ? 'd' : 'c'/er)), 'wrong signature', 'with some bits changed it is not');
}
like(verify("eyJhbGciOiJub25lIn0.$payload."), qr/^malformed token/, 'RFC 7519 6.1: what nobody has signed is refused');

# --- hashes that the reference program makes, with other parameters each
for my $case ([ 8192, 1, 1, 32 ], [ 19456, 2, 1, 32 ], [ 12288, 3, 4, 16 ], [ 65536, 1, 2, 64 ])
{
	my ($memory, $time, $lanes, $length) = @$case;
	my $pass = 'the horse of ' . rand;
	my ($made, $told);
	IPC::Run::run([ 'argon2', 'a salt ' . int(rand(1e9)), '-id', '-k', $memory, '-t', $time, '-p', $lanes, '-l', $length, '-e' ], '<', \$pass, '>', \$made, '2>', \$told)
	  or diag("argon2: $told");
	chomp $made;
	like($made, qr/^\$argon2id\$v=19\$m=$memory,t=$time,p=$lanes\$/, "argon2 -id, $memory kB, $time passes, $lanes lanes, $length bytes");
	is($node->safe_psql('postgres', "SELECT orion_verify_password('$pass', '$made'), orion_verify_password('$pass ', '$made')"), 't|f', 'is verified');
}

my $from = -s $node->logfile;
$node->append_conf('postgresql.conf', "orion.jwt_secret = 'base64url:$rfc_key'");
$node->reload;
for (1 .. 600) { last if hs('{"sub":"b"}', decode_base64url($rfc_key)) eq '{"sub": "b"}'; select undef, undef, undef, 0.1; }
$node->append_conf('postgresql.conf', "orion.jwt_secret = 'too-short-a-secret'");
$node->reload;
$node->wait_for_log(qr/must have at least 32 bytes/, $from);
is(hs('{"sub":"b"}', decode_base64url($rfc_key)), '{"sub": "b"}', 'a secret that is too short is refused, the former stays');
is($node->safe_psql('postgres', 'SHOW orion.jwt_secret'), '', 'SHOW does not show the secret');

# --- a failed login stays on record; errors inside show no secret
$node->safe_psql('postgres', q{SELECT orion_register('ann@example.com', 'the secret of ann')});
$node->safe_psql('postgres', q{SELECT orion_login('ann@example.com', 'not the secret of ann')});
is($node->safe_psql('postgres', q{SELECT string_agg(outcome, ',') FROM orion_private.login_attempts}), 'invalid_credentials',
	'a failed login is on record after its commit');
$node->safe_psql('postgres', q{
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'failed on purpose'; END $$;
CREATE TRIGGER fail BEFORE INSERT ON orion_private.sessions FOR EACH ROW EXECUTE FUNCTION fail();});
($status, $out, $err) = $node->psql('postgres', q{SELECT orion_login('ann@example.com', 'the secret of ann')});
like($err, qr/failed on purpose.*INSERT INTO orion_private\.sessions/s, 'an error inside of a login has its context');
unlike($err, qr/secret of ann|argon2/, 'without password or hash');

$node->stop;
my $log = PostgreSQL::Test::Utils::slurp_file($node->logfile);
for my $hidden ($secret, $rfc_key, 'too-short-a-secret', 'secret of ann', 'argon2', $token, 'PRIVATE KEY')
{
	ok(index($log, $hidden) < 0, 'the log does not hold ' . (length $hidden > 20 ? substr($hidden, 0, 12) . '...' : $hidden));
}
done_testing();
