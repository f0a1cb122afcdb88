# Pages of rows and the forms of an answer: Range, limits, the three counts, CSV, one
# object, nulls left out, plans, domains with a form of their own.
use strict;
use warnings;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use OrionHttp;

my ($node, $port) = OrionHttp::server('pages', qq{
orion.executor_count = 1
orion.rest_schemas = 'public'
});
$node->safe_psql('postgres', q{
CREATE EXTENSION orion;
CREATE TABLE rows (id int PRIMARY KEY, word text);
INSERT INTO rows SELECT i, 'w' || i FROM generate_series(1, 20) i;
CREATE TABLE few (id int PRIMARY KEY, "a,b" text, c text);
INSERT INTO few VALUES (1, 'say "x"', NULL), (2, E'two\nlines', 'c,d');
CREATE DOMAIN colour AS int;
CREATE FUNCTION colour_out(colour) RETURNS json LANGUAGE sql IMMUTABLE AS $$ SELECT to_json('#' || to_hex($1)) $$;
CREATE FUNCTION colour_in(text) RETURNS colour LANGUAGE sql IMMUTABLE AS $$ SELECT ('x' || lpad(ltrim($1, '#'), 8, '0'))::bit(32)::int::colour $$;
CREATE CAST (colour AS json) WITH FUNCTION colour_out(colour) AS IMPLICIT;
CREATE CAST (text AS colour) WITH FUNCTION colour_in(text) AS IMPLICIT;
CREATE TABLE paints (id int PRIMARY KEY, tint colour);
INSERT INTO paints VALUES (1, 255), (2, 4096);
CREATE FUNCTION some_rows(n int) RETURNS SETOF rows LANGUAGE sql STABLE AS $$ SELECT * FROM rows WHERE id <= n $$;
CREATE DOMAIN "text/x-lines" AS text;
CREATE FUNCTION add_line(state text, next anyelement) RETURNS "text/x-lines" LANGUAGE sql IMMUTABLE AS $$ SELECT (state || next::text || E'\\n')::"text/x-lines" $$;
CREATE AGGREGATE lines(anyelement) (SFUNC = add_line, STYPE = "text/x-lines", INITCOND = '');
CREATE DOMAIN "x/tinted" AS bytea;
CREATE FUNCTION add_tint(state "x/tinted", next paints) RETURNS "x/tinted" LANGUAGE sql IMMUTABLE AS $$ SELECT (state || int4send(next.tint))::"x/tinted" $$;
CREATE AGGREGATE tinted(paints) (SFUNC = add_tint, STYPE = "x/tinted", INITCOND = '');
GRANT SELECT ON rows, few, paints TO orion_anon;
ANALYZE;
});
OrionHttp::await($port, '/ready', 200);

sub get { my ($path, %headers) = @_; return OrionHttp::request($port, $headers{method} // 'GET', "/rest/v1/$path", \%headers); }

# "status Content-Range rows"
sub page
{
	my $answer = get(@_);
	my $rows = eval { decode_json($answer->{body}) };
	my $n = ref $rows eq 'ARRAY' ? scalar @$rows : ref $rows eq 'HASH' ? $rows->{code} : '-';
	return "$answer->{status} $answer->{headers}{'content-range'} $n";
}

# --- ranges
is(page('rows'), '200 0-19/* 20', 'all');
is(page('rows', Range => '0-4'), '200 0-4/* 5', 'a range');
is(page('rows', Range => '15-'), '200 15-19/* 5', 'an open range');
is(page('rows?limit=3&offset=2', Range => '0-3'), '200 2-3/* 2', 'range and limit: what is in both');
is(page('rows', Range => 'bytes'), '200 0-19/* 20', 'what is no range is ignored');
is(get('rows', Range => '5-2')->{status}, 416, 'an inverted one is refused');
is(get('rows?limit=-1')->{status}, 416, 'so is a negative limit');
is(page('rows?offset=-3'), '200 0-19/* 20', 'a negative offset is none');
is(page('rows?limit=0'), '200 */* 0', 'no rows wanted');
is(page('rpc/some_rows?n=9', Range => '2-3'), '200 2-3/* 2', 'of a function');

# --- counts
is(page('rows', Prefer => 'count=exact', Range => '0-4'), '206 0-4/20 5', 'exact');
is(page('rows', Prefer => 'count=exact'), '200 0-19/20 20', 'exact, all');
is(page('rows', Prefer => 'count=exact', Range => '30-40'), '416 */20 PGRST103', 'behind the end');
is(page('rows', Prefer => 'count=planned', Range => '0-4'), '206 0-4/20 5', 'planned');
is(page('rows', Prefer => 'count=estimated', Range => '0-4'), '206 0-4/20 5', 'estimated');
is(page('rpc/some_rows?n=9', Prefer => 'count=exact', Range => '0-1'), '206 0-1/9 2', 'of a function');
is(get('rows', method => 'HEAD', Prefer => 'count=exact')->{headers}{'content-range'}, '0-19/20', 'HEAD');
is(get('rows?word=eq.w1&id=eq.1')->{headers}{'content-location'}, '/rest/v1/rows?id=eq.1&word=eq.w1', 'the address with parameters in order');

# --- forms
my $answer = get('few?order=id', Accept => 'text/csv');
is($answer->{headers}{'content-type'}, 'text/csv; charset=utf-8', 'CSV');
is($answer->{body}, qq{id,"a,b",c\n1,"say ""x""",\n2,"two\nlines","c,d"}, 'with what has to be quoted');
is(get('few?id=eq.9', Accept => 'text/csv')->{body}, "\n", 'of no rows');
is(get('few', Accept => 'text/csv;q=0.5, application/json')->{headers}{'content-type'}, 'application/json; charset=utf-8', 'the better quality counts');
is(get('few', Accept => 'image/png, text/csv')->{headers}{'content-type'}, 'text/csv; charset=utf-8', 'the first that can be made');
is(get('few', Accept => 'application/json;q=0')->{status}, 406, 'none that is not wanted');
$answer = get('few?id=eq.1&select=id,c', Accept => 'application/vnd.pgrst.array+json;nulls=stripped');
is("$answer->{headers}{'content-type'} $answer->{body}", 'application/vnd.pgrst.array+json;nulls=stripped; charset=utf-8 [{"id":1}]', 'without nulls');
$answer = get('few?id=eq.1&select=id,c', Accept => 'application/vnd.pgrst.object+json;nulls=stripped');
is("$answer->{headers}{'content-type'} $answer->{body}", 'application/vnd.pgrst.object+json;nulls=stripped; charset=utf-8 {"id":1}', 'one object without nulls');

# --- forms that the database makes
$answer = get('rows?id=lte.2&order=id', Accept => 'text/x-lines');
is("$answer->{status} $answer->{headers}{'content-type'} $answer->{body}", "200 text/x-lines (1,w1)\n(2,w2)\n", 'an aggregate over any row');
is(get('rows?id=eq.3&select=word', Accept => 'text/x-lines, application/json')->{body}, "(w3)\n", 'of the columns selected, and before what comes later');
is(get('paints?order=id', Accept => 'x/tinted')->{body}, "\0\0\0\xff\0\0\x10\0", 'an aggregate over rows of one table');
is(get('rows', Accept => 'x/tinted')->{status}, 406, 'of that table only');
is(get('rows', Accept => q{x/"; DROP TABLE few; --})->{status}, 406, 'a name is a name');

# --- domains
is(get('paints?id=eq.1')->{body}, '[{"id":1,"tint":"#ff"}]', 'a domain goes out by its cast');
is(get('paints?tint=eq.%231000&select=id')->{body}, '[{"id":2}]', 'and comes in by it');
is(get('paints?tint=in.(ff)&select=tint')->{body}, '[{"tint":"#ff"}]', 'in a list as well');

# --- plans and limits of the operator
is(get('rows', Accept => 'application/vnd.pgrst.plan+json')->{status}, 406, 'no plan unless allowed');
$node->append_conf('postgresql.conf', "orion.rest_plan_enabled = on\norion.rest_max_rows = 7");
$node->reload;
for (1 .. 600) { last if get('rows', Accept => 'application/vnd.pgrst.plan+json')->{status} == 200; select undef, undef, undef, 0.05; }
$answer = get('rows?id=eq.1', Accept => 'application/vnd.pgrst.plan+json; options=analyze|verbose');
is($answer->{headers}{'content-type'}, 'application/vnd.pgrst.plan+json; for="application/json"; options=analyze|verbose; charset=utf-8', 'a plan');
ok(exists decode_json($answer->{body})->[0]{'Execution Time'}, 'of an execution');
like(get('rows?id=eq.1', Accept => 'application/vnd.pgrst.plan; options=costs off) SELECT 1 --|verbose')->{body}, qr/^Aggregate.*Output/s, 'only options that are known');
is(page('rows'), '200 0-6/* 7', 'the cap of rows');
is(page('rows?limit=100', Prefer => 'count=exact'), '206 0-6/20 7', 'counted all the same');
is(page('rows?id=lte.5', Prefer => 'count=estimated'), '200 0-4/5 5', 'an estimate is exact up to the cap');
$node->stop;
done_testing();
