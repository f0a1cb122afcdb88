# GeoJSON of a real PostGIS, where its package is installed (dev/packages leaves it
# out: it brings half a hundred others).  Skipped otherwise.
use strict;
use warnings;
use JSON::PP;
use OrionStack;
use Test::More;

my $stack = OrionStack->new('postgis', conf => "orion.rest_schemas = 'maps'\norion.rest_plan_enabled = on\n");
plan skip_all => 'PostGIS is not installed' if $stack->sql(q{SELECT count(*) FROM pg_available_extensions WHERE name = 'postgis'}) == 0;
$stack->sql(q{
CREATE SCHEMA geography_of_others;
CREATE EXTENSION postgis SCHEMA geography_of_others;
CREATE SCHEMA maps;
GRANT USAGE ON SCHEMA geography_of_others, maps TO PUBLIC;
SET search_path = maps, geography_of_others;
CREATE TABLE places (id int PRIMARY KEY, name text, spot geometry(Point, 4326), way geometry);
INSERT INTO places VALUES (1, 'a', 'SRID=4326;POINT(1 2)', NULL), (2, 'b', NULL, NULL), (3, 'c', 'SRID=4326;POINT(3 4)', 'SRID=4326;LINESTRING(0 0,1 1)');
CREATE TABLE people (id int PRIMARY KEY, place int REFERENCES places);
INSERT INTO people VALUES (1, 1);
CREATE VIEW spots AS SELECT id, spot FROM places;
CREATE FUNCTION west_of(x float8) RETURNS SETOF places LANGUAGE sql STABLE SET search_path = maps, geography_of_others
	AS 'SELECT * FROM places WHERE st_x(spot) <= x';
GRANT ALL ON places, spots, people TO orion_anon;
});

my $geo = { Accept => 'application/geo+json' };

# Of each feature its id and the coordinates.
sub features
{
	my $answer = $stack->http('GET', "/rest/v1/$_[0]", headers => { %$geo, %{ $_[1] // {} } });
	return "$answer->{status} $answer->{json}{code}" if $answer->{status} >= 400;
	is($answer->{headers}{'content-type'}, 'application/geo+json; charset=utf-8', "$_[0] is GeoJSON");
	is($answer->{json}{type}, 'FeatureCollection', '... a collection');
	return join(' ', $answer->{status}, map { ($_->{properties}{id} // '-') . ':' . JSON::PP->new->encode($_->{geometry}{coordinates} // []) } @{ $answer->{json}{features} });
}

is(features('places?order=id'), '200 1:[1,2] 2:[] 3:[3,4]', 'rows of a table');
is(features('places?id=eq.9'), '200', 'no rows');
is(features('places?select=id,way,spot&id=eq.3'), '200 3:[[0,0],[1,1]]', 'the first geometry is that of the feature');
is(features('spots?id=eq.1'), '200 1:[1,2]', 'of a view');
is(features('rpc/west_of?x=1'), '200 1:[1,2]', 'of a function');
is(features('places?order=id&limit=1', { Prefer => 'count=exact' }), '206 1:[1,2]', 'a page');
is(features('people?select=id'), '400 22023', 'without a geometry');
my $answer = $stack->http('GET', '/rest/v1/places?select=spot,kind:spot->>type&id=eq.1');
is($answer->{body}, '[{"spot":{"type":"Point","crs":{"type":"name","properties":{"name":"EPSG:4326"}},"coordinates":[1,2]},"kind":"Point"}]', 'in JSON a geometry is GeoJSON');
$answer = $stack->http('POST', '/rest/v1/places?select=id,spot', json => { id => 4, spot => { type => 'Point', coordinates => [ 7, 8 ] } },
	headers => { %$geo, Prefer => 'return=representation' });
is("$answer->{status} $answer->{json}{features}[0]{geometry}{coordinates}[1]", '201 8', 'GeoJSON is written and comes back');
$answer = $stack->http('GET', '/rest/v1/people?select=places(spot)');
is($answer->{json}[0]{places}{spot}{type}, 'Point', 'within what is embedded');
like($stack->http('GET', '/rest/v1/places', headers => { Accept => 'application/vnd.pgrst.plan+json; for="application/geo+json"' })->{headers}{'content-type'},
	qr{^application/vnd\.pgrst\.plan\+json; for="application/geo\+json"}, 'its plan');

# operators are found where PostGIS is, as PostgREST's db-extra-search-path has it
$stack->sql(q{ALTER SYSTEM SET orion.rest_extra_search_path = 'geography_of_others'});
$stack->sql('SELECT pg_reload_conf()');
my $filter = '/rest/v1/places?spot=eq.SRID%3D4326%3BPOINT(1%202)&select=id';
ok($stack->until_true(sub { $stack->http('GET', $filter)->{body} eq '[{"id":1}]' }), 'a filter reads a geometry as text')
  or diag($stack->http('GET', $filter)->{body});
done_testing();
