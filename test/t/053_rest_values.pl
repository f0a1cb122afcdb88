# Values of every kind in an answer: byte for byte what row_to_json makes of them.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use OrionHttp;

my ($node, $port) = OrionHttp::server('values', q{
orion.rest_schemas = 'public'
timezone = 'Asia/Kathmandu'
datestyle = 'German'
});
$node->safe_psql('postgres', q{
CREATE EXTENSION orion;
CREATE TYPE mood AS ENUM ('fine', 'so "so"');
CREATE TYPE pair AS (a int, "b""c" text, d date);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN day AS date;
CREATE DOMAIN pairs AS pair[];
CREATE TYPE span AS RANGE (subtype = float8);
CREATE TYPE coin AS ENUM ('head', 'tail');
CREATE FUNCTION coin_json(coin) RETURNS json LANGUAGE sql IMMUTABLE AS $$ SELECT json_build_object('coin', $1::text) $$;
CREATE CAST (coin AS json) WITH FUNCTION coin_json(coin);
});

# type => values, as literals
my @kinds = (
	boolean => ['true', 'false'],
	smallint => [-32768, 0, 32767],
	integer => [-2147483648, 7],
	bigint => ['-9223372036854775808', '9223372036854775807'],
	real => [1.5, 'NaN', 'Infinity', '-0', '1e30', '1e-30'],
	'double precision' => ['-Infinity', 0.1, '1e300', 'NaN'],
	numeric => ['NaN', 'Infinity', '-0.00', '1e40', '123.4500'],
	'numeric(10,2)' => [1],
	money => [12.5],
	text => ['', 'a "b" \\ c', "tab\there\nline\rfeed\x08\x0c\x01\x7f", "gr\xc3\xbc\xc3\x9fe \xe2\x82\xac \xf0\x9f\x98\x80"],
	'varchar(5)' => ['abc'],
	'char(5)' => ['ab'],
	'"char"' => ['x'],
	name => ['n"ame'],
	bytea => ['\\x00ff', ''],
	date => ['2026-11-21', 'infinity', '-infinity', '0044-03-15 BC', '99999-01-01'],
	timestamp => ['2026-11-21 12:34:56.789', 'infinity', '0044-03-15 12:00 BC'],
	timestamptz => ['2026-11-21 12:34:56.789+00', '-infinity', '1890-01-01 00:00:00+00', '99999-01-01'],
	time => ['12:34:56.7'],
	timetz => ['12:34:56+05:30'],
	interval => ['1 year 2 days 03:04:05.6', '-1 day'],
	uuid => ['b16b00b5-0000-4000-8000-000000000001'],
	json => ['{"a" : [1, 2.50 ,null],  "b":"\\u00e9"}', '3', 'null', '"s"'],
	jsonb => ['{"b":1,"a":[1.50,"x",null]}', '"s"', 'null', '[]'],
	jsonpath => ['$.a[*]'],
	xml => ['<a b="c">d</a>'],
	inet => ['10.0.0.1/8', '::1'],
	cidr => ['10.0.0.0/8'],
	macaddr => ['08:00:2b:01:02:03'],
	point => ['(1,2)'],
	box => ['(1,2),(3,4)'],
	polygon => ['((0,0),(1,1),(2,0))'],
	'bit(3)' => ['101'],
	'bit varying' => ['1'],
	oid => [4294967295],
	regclass => ['pg_class'],
	regtype => ['int'],
	pg_lsn => ['0/16B3748'],
	tid => ['(0,1)'],
	int2vector => ['1 2'],
	oidvector => ['1 2'],
	tsvector => ["'a' 'b':2A"],
	tsquery => ["'a' & 'b'"],
	int4range => ['[1,5)', 'empty'],
	int4multirange => ['{[1,3),[5,7)}'],
	tstzrange => ['[2026-01-01 00:00+00,)'],
	span => ['[1.5,2.5]'],
	mood => ['fine', 'so "so"'],
	coin => ['tail'],
	positive => [5],
	day => ['2026-11-21'],
	pair => ['(1,"x ""y""",2026-11-21)', '(,,)'],
	pairs => ['{"(1,a,)"}'],
	'int[]' => ['{1,NULL,3}', '{}', '{{1,2},{3,4}}', '[2:3]={1,2}'],
	'text[]' => ['{a,"b \\"c\\"",NULL}'],
	'timestamptz[]' => ['{2026-11-21 12:00+00}'],
	'jsonb[]' => ['{"{\\"a\\": 1}"}'],
	'mood[]' => ['{fine}'],
	'coin[]' => ['{head}'],
	'pair[]' => ['{"(1,b,)"}'],
	'information_schema.cardinal_number' => [3],
	'information_schema.yes_or_no' => ['YES'],
	'information_schema.time_stamp' => ['2026-11-21 00:00:00+00'],
);
my @columns;
my @rows;
while (my ($type, $values) = splice(@kinds, 0, 2))
{
	push @columns, [ 'c' . @columns . " \"$type\"", $type, $values ];
}
sub quoted { my ($name) = @_; $name =~ s/"/""/g; return qq("$name"); }
sub literal { my ($value) = @_; return 'NULL' unless defined $value; $value =~ s/'/''/g; return "'$value'"; }
$node->safe_psql('postgres', 'CREATE TABLE kinds (id int PRIMARY KEY, ' . join(', ', map { quoted($_->[0]) . " $_->[1]" } @columns) . ', dropped int); ALTER TABLE kinds DROP COLUMN dropped; GRANT SELECT ON kinds TO orion_anon');
my $most = 0;
foreach my $column (@columns) { $most = @{ $column->[2] } if @{ $column->[2] } > $most; }
foreach my $i (0 .. $most)    # the last one has nothing but nulls
{
	$node->safe_psql('postgres', "INSERT INTO kinds VALUES ($i, " . join(', ', map { literal($_->[2][$i]) } @columns) . ')');
}
$node->safe_psql('postgres', q{
CREATE VIEW large AS SELECT i AS id, repeat('x"', 20000) AS t, array_agg(i) OVER (ROWS 3 PRECEDING) AS a FROM generate_series(1, 30) i;
CREATE VIEW nothing AS SELECT FROM generate_series(1, 2);
CREATE TABLE toasted (id int PRIMARY KEY, t text, j json, b jsonb);
INSERT INTO toasted SELECT i, string_agg(md5(n::text), '"'), json_agg(md5(n::text)), jsonb_agg(md5(n::text)) FROM generate_series(1, 3) i, generate_series(1, 2000) n GROUP BY i;
GRANT SELECT ON large, nothing, toasted TO orion_anon;
});
ok(OrionHttp::await($port, '/ready', 200), 'ready');

sub body { return OrionHttp::request($port, 'GET', "/rest/v1/$_[0]", {})->{body}; }
# json_agg writes a row as row_to_json does.
sub expected { return $node->safe_psql('postgres', "SELECT coalesce(json_agg(whole), '[]') FROM ($_[0]) whole"); }
foreach my $i (0 .. $most)
{
	is(body("kinds?id=eq.$i"), expected("SELECT * FROM kinds WHERE id = $i"), "row $i");
}
is(body('kinds?order=id'), expected('SELECT * FROM kinds ORDER BY id'), 'all rows');
is(body('kinds?order=id.desc&select=a:id,id,id'), expected('SELECT id AS a, id, id FROM kinds ORDER BY id DESC'), 'a column more than once');
is(body('large'), expected('SELECT * FROM large'), 'long rows, and rows of a view');
is(body('toasted?order=id'), expected('SELECT * FROM toasted ORDER BY id'), 'values that are stored apart');
is(body('nothing'), expected('SELECT * FROM nothing'), 'rows without columns');
is(body('kinds?id=lt.0'), '[]', 'no rows');
done_testing();
