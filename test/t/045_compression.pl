# Compressed answers.
use strict;
use warnings;
use Compress::Zlib;
use JSON::PP;
use OrionHttp;
use PostgreSQL::Test::Utils;
use Test::More;

my ($node, $port) = OrionHttp::server('compression', qq{
orion.rest_schemas = 'public'
});
$node->safe_psql('postgres', q{
CREATE EXTENSION orion;
CREATE TABLE items AS SELECT i AS id, 'item ' || i AS name FROM generate_series(1, 20000) i;
ALTER TABLE items ADD PRIMARY KEY (id);
GRANT ALL ON items TO orion_anon;
CREATE FUNCTION noise(n int) RETURNS bytea LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('response.headers', '[{"Content-Type":"application/octet-stream"}]', true);
	RETURN convert_to(repeat('x', n), 'UTF8');
END $$;
CREATE FUNCTION own() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('response.headers', '[{"Content-Encoding":"identity"}]', true);
	RETURN repeat('x', 5000);
END $$;
CREATE FUNCTION random_text(n int) RETURNS text LANGUAGE sql AS $$ SELECT string_agg(encode(sha256(i::text::bytea), 'base64'), '') FROM generate_series(1, n) i $$;
GRANT EXECUTE ON FUNCTION noise(int), own(), random_text(int) TO orion_anon;
});
ok(OrionHttp::await($port, '/ready', 200), 'ready');

sub ask
{
	my ($path, $accept, %headers) = @_;
	$headers{'Accept-Encoding'} = $accept if defined $accept;
	return scalar OrionHttp::request($port, 'GET', "/rest/v1/$path", \%headers);
}
sub coding { return ask(@_)->{headers}{'content-encoding'} // 'none'; }

my $plain = ask('items?order=id');
my $packed = ask('items?order=id', 'gzip');
is($packed->{headers}{'content-encoding'}, 'gzip', 'a client that takes gzip gets it');
is(Compress::Zlib::memGunzip("$packed->{body}"), $plain->{body}, 'with the same bytes inside');
cmp_ok(length $packed->{body}, '<', length($plain->{body}) / 3, 'and fewer outside');
is($packed->{headers}{'content-length'}, length $packed->{body}, 'Content-Length is theirs');
like($_->{headers}{vary}, qr/Accept-Encoding/, 'caches are told') for $plain, $packed;
is($plain->{headers}{'content-encoding'}, undef, 'others get the plain answer');

my %codings = (
	'gzip' => 'gzip', 'GZIP' => 'gzip', 'x-gzip' => 'gzip', '*' => 'gzip', 'deflate, gzip' => 'gzip', 'br;q=1.0, gzip;q=0.8, *;q=0.1' => 'gzip',
	' gzip ; q=0.5' => 'gzip', 'gzip;q=0' => 'none', 'gzip;q=0.000' => 'none', 'gzip; Q=0, *' => 'none', '*;q=0' => 'none', 'identity' => 'none',
	'br' => 'none', '' => 'none', 'gzipped' => 'none', ',,,' => 'none', ';q=1' => 'none', 'gzip;q=0.001' => 'gzip', 'gzip;level=9;q=0' => 'none',
);
is(coding('items?limit=100', $_), $codings{$_}, "Accept-Encoding: $_") for sort keys %codings;

is(coding('items?limit=2', 'gzip'), 'none', 'short answers are not worth it');
is(coding('rpc/noise?n=5000', 'gzip'), 'none', '... nor is what is no text');
is(coding('rpc/own', 'gzip'), 'identity', 'a function that chose a coding keeps it');
is(coding('items?limit=100', 'gzip', Accept => 'text/csv'), 'gzip', 'CSV');
is(coding('', 'gzip', Accept => 'application/openapi+json'), 'gzip', 'the description of the API');
my $random = ask('rpc/random_text?n=2000', 'gzip');
is(length(decode_json('[' . Compress::Zlib::memGunzip("$random->{body}") . ']')->[0]), 2000 * 44, 'what hardly shrinks is whole');
is(scalar OrionHttp::request($port, 'HEAD', '/rest/v1/items', { 'Accept-Encoding' => 'gzip' })->{status}, 200, 'HEAD');

my $tag = ask('items?id=lt.100', 'gzip')->{headers}{etag};
like($tag, qr/-gzip"$/, 'the entity tag of a compressed answer is another one');
is(ask('items?id=lt.100', 'gzip', 'If-None-Match' => $tag)->{status}, 304, '... that If-None-Match knows');
is(ask('items?id=lt.100', undef, 'If-None-Match' => $tag)->{status}, 304, '... in either form');

$node->safe_psql('postgres', "ALTER SYSTEM SET orion.http_compression = off");
$node->reload;
ok($node->poll_query_until('postgres', 'SHOW orion.http_compression', 'off') && OrionHttp::await($port, '/ready', 200), 'switched off');
my $off = 0;
for (1 .. 600) { last if $off = coding('items?limit=100', 'gzip') eq 'none'; select undef, undef, undef, 0.05; }
ok($off, 'nothing is compressed');
done_testing();
