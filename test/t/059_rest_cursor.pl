# ?cursor=: pages by position in any order, opaque and bound to query and user.
use strict;
use warnings;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use OrionHttp;

my ($node, $port) = OrionHttp::server('cursor', qq{
orion.executor_count = 1
orion.rest_schemas = 'public'
});
$node->safe_psql('postgres', q{
CREATE EXTENSION orion;
CREATE TYPE mood AS ENUM ('sad', 'fine', 'happy');
CREATE DOMAIN small AS int;
CREATE TABLE items (id int PRIMARY KEY, a int, b text, c timestamptz, d float8, m mood, n numeric, s small, tags text[], doc jsonb, j json, secret text NOT NULL, v varchar(10), p char(4));
INSERT INTO items SELECT i, CASE WHEN i % 4 > 0 THEN i % 5 END, CASE WHEN i % 3 > 0 THEN chr(97 + i % 7) || '"''\,;é' END, '2026-01-01'::timestamptz + (i % 6) * interval '1.000001 s',
  CASE i % 5 WHEN 0 THEN 'NaN' WHEN 1 THEN '-Infinity' ELSE (i % 3) / 3.0::float8 END, (ARRAY['sad', 'fine', 'happy', NULL])[1 + i % 4]::mood, i % 3 * 1.10, i % 2, CASE WHEN i % 2 = 0 THEN ARRAY[(i % 3)::text, NULL] END,
  jsonb_build_object('k', CASE WHEN i % 3 > 0 THEN i % 4 END), '1', 'top-' || i % 4, i % 3, 'x' || i % 2 FROM generate_series(1, 41) i;
CREATE TABLE pairs (x int, y int, PRIMARY KEY (y, x));
INSERT INTO pairs SELECT i % 3, i / 3 FROM generate_series(0, 20) i;
CREATE TABLE items_too (LIKE items INCLUDING ALL);
CREATE TABLE keyless (id int);
CREATE TABLE "cursor" (id int PRIMARY KEY, cursor text);
INSERT INTO "cursor" VALUES (1, 'a'), (2, 'b');
CREATE TABLE parts (id int PRIMARY KEY, item int REFERENCES items);
INSERT INTO parts SELECT i, i FROM generate_series(2, 40, 2) i;
CREATE TABLE mine (id int PRIMARY KEY, owner text);
ALTER TABLE mine ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON mine USING (owner = orion_claims() ->> 'sub');
INSERT INTO mine SELECT i, CASE WHEN i % 2 = 0 THEN 'ann' ELSE 'bob' END FROM generate_series(1, 20) i;
CREATE FUNCTION initial(items) RETURNS text LANGUAGE sql STABLE AS $$ SELECT left($1.b, 1) $$;
CREATE FUNCTION listing() RETURNS SETOF items LANGUAGE sql STABLE AS 'SELECT * FROM items';
GRANT SELECT ON items, items_too, pairs, keyless, "cursor", parts TO orion_anon, orion_user;
GRANT SELECT ON mine TO orion_user;
ANALYZE;
});
ok(OrionHttp::await($port, '/ready', 200), 'ready');

my $base = '/rest/v1/';
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub ask
{
	my ($path, %headers) = @_;
	return scalar OrionHttp::request($port, 'GET', $path =~ m{^/} ? $path : $base . $path, \%headers);
}
sub code { my $a = ask(@_); return $a->{body} =~ /"code":"(\w+)"/ ? "$a->{status} $1" : $a->{status}; }
sub next_of { my ($answer) = @_; return ($answer->{headers}{link} // '') =~ /^<(\S+)>; rel="next"$/ ? $1 : undef; }
# All rows' ids, page by page; how many pages.
sub walk
{
	my ($path, %headers) = @_;
	my (@ids, $pages);
	while (defined $path && $pages++ < 100)
	{
		my $answer = ask($path, %headers);
		return $answer->{status} . $answer->{body} if $answer->{status} >= 300;
		push @ids, map { $_->{id} // "$_->{x}:$_->{y}" } @{ decode_json($answer->{body}) };
		$path = next_of($answer);
	}
	return wantarray ? (join(' ', @ids), $pages) : join(' ', @ids);
}
sub is_walk
{
	my ($query, $order, $filter) = @_;
	my $ids = sql("SELECT string_agg(id::text, ' ' ORDER BY $order) FROM items" . ($filter // ''));
	is(scalar walk("items?select=id&limit=3&cursor=&$query"), $ids, "$query, three at a time");
	is(scalar walk("items?select=id&limit=1&cursor=&$query"), $ids, '... one at a time') if $query =~ /^order=[ab]/;
}

# --- every order
is_walk('', 'id');
is_walk("order=$_->[0]", $_->[1]) for ['id.desc', 'id DESC'], ['a', 'a, id'], ['a.desc', 'a DESC, id DESC'], ['a.nullsfirst', 'a NULLS FIRST, id'], ['a.desc.nullslast', 'a DESC NULLS LAST, id DESC'],
  ['a.asc,b.desc', 'a, b DESC, id DESC'], ['a.desc.nullsfirst,b.nullsfirst,c.desc', 'a DESC, b NULLS FIRST, c DESC, id DESC'], ['b.desc.nullslast,id', 'b DESC NULLS LAST, id'], ['b,a.desc', 'b, a DESC, id DESC'],
  ['c', 'c, id'], ['d.desc', 'd DESC, id DESC'], ['m.nullsfirst', 'm NULLS FIRST, id'], ['n.desc,id.asc', 'n DESC, id'], ['s,secret.desc', 's, secret DESC, id DESC'], ['tags', 'tags, id'],
  ['doc->k', "doc->'k', id"], ['doc->>k.desc.nullslast', "doc->>'k' DESC NULLS LAST, id DESC"], ['v,p', 'v, p, id'], ['secret', 'secret, id'], ['secret.desc', 'secret DESC, id DESC'], ['initial', 'left(b, 1), id'];
is_walk('order=a&b=not.is.null&or=(a.gt.1,c.lt.2026-02-01)', 'a, id', ' WHERE b IS NOT NULL');
is(scalar walk('pairs?limit=4&cursor=&order=x.desc'), sql(q{SELECT string_agg(x || ':' || y, ' ' ORDER BY x DESC, y DESC) FROM pairs}), 'a key of two columns');
is(scalar walk('items?select=id,parts!inner(id)&limit=4&cursor='), join(' ', map { 2 * $_ } 1 .. 20), 'with an inner join');
is(scalar walk('items?select=id,parts()&parts=is.null&limit=4&cursor='), join(' ', map { 2 * $_ + 1 } 0 .. 20), 'without a related row');
is((walk('items?select=id&limit=41&cursor='))[1], 1, 'the last page has no next one');
is((walk('items?select=id&limit=40&cursor='))[1], 2, '... and is not empty');
is(next_of(ask('items?select=id&cursor=')), undef, 'without a limit there is one page');
is(next_of(ask('items?select=id&limit=5')), undef, 'without a cursor no Link');

# --- what changes meanwhile
my $first = ask('items?select=id&order=a.desc.nullslast&limit=5&cursor=');
my @seen = map { $_->{id} } @{ decode_json($first->{body}) };
sql("INSERT INTO items (id, a, secret) VALUES (100, 99, ''), (101, 3, '')");
sql("DELETE FROM parts WHERE item = $seen[4]; DELETE FROM items WHERE id = $seen[4]");
my $rest = walk(next_of($first));
unlike($rest, qr/\b(100|@{[ join '|', @seen ]})\b/, 'what comes in before the position is not shown, nothing twice');
like($rest, qr/\b101\b/, '... what comes in behind it is');
is(scalar(split / /, $rest), 36 + 1, '... and nothing is left out, though the row at the position is gone');
sql('DELETE FROM items WHERE id >= 100');

# --- opaque
my $link = next_of(ask('items?select=id&order=secret&limit=3&cursor='));
my ($token) = $link =~ /cursor=([^&]+)/;
unlike(pack('H*', unpack('H*', $token)), qr/top-/, 'a cursor does not show values');
require MIME::Base64;
unlike(MIME::Base64::decode_base64($token =~ tr{-_}{+/}r), qr/top-/, '... nor when it is decoded');
is(code($link), 200, 'it is good');
is(code($link =~ s/limit=3/limit=7/r), 200, '... with another limit');
is(code($link =~ s/select=id&order=secret/order=secret&select=id/r), 200, '... and its parameters in another order');
is(code($link =~ s/$_->[0]/$_->[1]/r), '400 ORION400', "refused with $_->[1]")
  for ['order=secret', 'order=id'], ['order=secret', 'order=secret.desc'], ['select=id', 'select=id&a=eq.1'], ['select=id', 'select=id,a'], ['/items', '/items_too'], ['order=secret&', ''];
my $wrong = $token;
substr($wrong, 60, 1) = substr($wrong, 60, 1) eq 'A' ? 'B' : 'A';
is(code("items?select=id&order=secret&limit=3&cursor=$_"), '400 ORION400', 'refused: ' . substr($_, 0, 30))
  for $wrong, substr($token, 0, 60), $token . 'AAAA', 'abc', '0', '%00' x 0 . 'x', 'A' x 6000, '%27', 'ä', $token . '&cursor=' . $token;
is(code("items?select=id&limit=3&cursor=$token"), '400 ORION400', 'refused: without the order');
my $log = slurp_file($node->logfile);
unlike($log, qr/sealed value does not open/, 'what strangers try is not logged');

# --- whose it is
my $ann = sql(q{SELECT orion_jwt_sign('{"sub": "ann", "role": "orion_user"}')});
my $bob = sql(q{SELECT orion_jwt_sign('{"sub": "bob", "role": "orion_user"}')});
my $hers = next_of(ask('mine?limit=3&cursor=', Authorization => "Bearer $ann"));
is(scalar walk('mine?limit=3&cursor=', Authorization => "Bearer $ann"), join(' ', map { 2 * $_ } 1 .. 10), 'policies decide what is on the pages');
is(code($hers, Authorization => "Bearer $ann"), 200, "a user's cursor");
is(code($hers, Authorization => "Bearer $bob"), '400 ORION400', "... is no other user's");

# --- what cannot be
is(code("items?$_"), '400 ORION400', "refused: $_") for 'cursor=&offset=3', 'cursor=&limit=0', 'cursor=&order=j', 'cursor=&cursor=';
is(code('keyless?cursor='), '400 ORION400', 'no primary key');
is(code('parts?cursor=&select=id,items(a)&order=items(a)'), '400 ORION400', 'ordered by another relation');
is(code('items?cursor=&order=none'), '400 42703', 'ordered by nothing');
is(code('items?cursor=eq.1'), '400 42703', 'a filter stays a filter');
is(ask('cursor?cursor=eq.b&select=id')->{body}, '[{"id":2}]', '... on a column of that name');
is(scalar walk('cursor?cursor=&limit=1&cursor=neq.c'), '1 2', '... also beside a cursor');
is(code('rpc/listing?cursor='), '404 PGRST202', 'not of functions');
is(ask('items?select=id&limit=3&cursor=', Prefer => 'count=exact')->{headers}{'content-range'}, '0-2/40', 'counted is everything');
is(ask(next_of(ask('items?select=id&limit=3&cursor=')), Prefer => 'count=exact')->{headers}{'content-range'}, '0-2/40', '... on every page');
my $odd = ask(q{items?select=id&limit=3&b=neq.<">,x&cursor=});
like($odd->{headers}{link}, qr/b=neq\.%3C%22%3E,x&cursor=[\w-]+>; rel="next"$/, 'the address in Link ends where it should') if $odd->{status} == 200;

# --- the index is walked
sql(q{CREATE TABLE long (id int PRIMARY KEY, t int NOT NULL); INSERT INTO long SELECT i, i % 1000 FROM generate_series(1, 50000) i; CREATE INDEX ON long (t, id); ANALYZE long; GRANT SELECT ON long TO orion_anon});
$node->append_conf('postgresql.conf', "orion.rest_plan_enabled = on\norion.rest_max_rows = 10");
$node->reload;
my $deep = next_of(ask('long?order=t&limit=5&cursor='));
my $plan;
for (1 .. 300)
{
	$plan = ask($deep, Accept => 'application/vnd.pgrst.plan+text');
	last if $plan->{status} == 200;
	select(undef, undef, undef, 0.1);
}
like($plan->{body}, qr/Index Cond: \(ROW\(t/, 'a page further down is one range of an index');
is(scalar(@{ decode_json(ask(next_of(ask('long?cursor=')))->{body}) }), 10, 'orion.rest_max_rows is a page as well');

$node->stop;
done_testing();
