# Media types that the schema makes itself, and the description of the schema.
use strict;
use warnings;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use OrionHttp;

my ($node, $port) = OrionHttp::server('media', qq{
orion.executor_count = 1
orion.rest_schemas = 'public'
});
$node->safe_psql('postgres', q{
CREATE EXTENSION orion;
COMMENT ON SCHEMA public IS E'Pets\nAll about them';
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TABLE owner (id int PRIMARY KEY, name varchar(40) NOT NULL DEFAULT 'nobody');
CREATE TABLE pet (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, owner int REFERENCES owner, mood mood, tags text[], doc jsonb);
COMMENT ON TABLE pet IS E'A pet\n\nthat somebody has';
COMMENT ON COLUMN pet.mood IS 'How it feels';
INSERT INTO owner VALUES (1, 'ann'), (2, 'bob');
CREATE VIEW kept AS SELECT p.id AS pet_id, p.owner AS who, o.id AS owner_id, o.name FROM pet p JOIN owner o ON o.id = p.owner;
CREATE VIEW owners AS SELECT id AS number, name FROM owner;
CREATE VIEW circle AS SELECT id, name FROM owner;
CREATE OR REPLACE VIEW circle AS SELECT id, name FROM circle;
CREATE TABLE "odd name" (a int);
GRANT ALL ON owner, owners, "odd name" TO orion_anon;
GRANT SELECT ON pet, kept TO orion_anon;
CREATE TABLE secret_pets (a int);
CREATE DOMAIN dose AS int DEFAULT 3;
CREATE DOMAIN small_dose AS dose CHECK (value < 9);
CREATE DOMAIN humour AS mood;
CREATE DOMAIN since AS timestamptz DEFAULT date '2020-01-01';
CREATE TYPE pair AS (a int, b int);
CREATE DOMAIN even AS pair;
CREATE TABLE kinds (dose small_dose, humour humour, since since, code varchar(5) DEFAULT 'x', bits bit(5), made text GENERATED ALWAYS AS ('made') STORED, pair even);
GRANT SELECT ON kinds TO orion_anon;
CREATE FUNCTION nameless(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION nameless_two(json, json) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE FUNCTION whole(json) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE FUNCTION all_of(VARIADIC those int[]) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';

CREATE DOMAIN "text/html" AS text;
CREATE DOMAIN "image/x-dot" AS bytea;
CREATE DOMAIN "text/number" AS int;
CREATE DOMAIN "application/openapi+json" AS json;
CREATE FUNCTION described() RETURNS "application/openapi+json" LANGUAGE sql IMMUTABLE AS $$ SELECT '{}'::json $$;
CREATE DOMAIN "application/x-any" AS text;
CREATE FUNCTION page() RETURNS "text/html" LANGUAGE sql IMMUTABLE AS $$ SELECT '<p>"x"</p>'::"text/html" $$;
CREATE FUNCTION dot() RETURNS "image/x-dot" LANGUAGE sql IMMUTABLE AS $$ SELECT '\x00ff01'::"image/x-dot" $$;
CREATE FUNCTION seven() RETURNS "text/number" LANGUAGE sql IMMUTABLE AS $$ SELECT 7::"text/number" $$;
CREATE FUNCTION count_step(state "text/number", item anyelement) RETURNS "text/number" LANGUAGE sql IMMUTABLE AS 'SELECT (coalesce(state::int, 0) + 1)::"text/number"';
CREATE AGGREGATE numbered(anyelement) (SFUNC = count_step, STYPE = "text/number");
CREATE FUNCTION owner_step(state text, item owner) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT state || item.name || ';' $$;
CREATE FUNCTION owner_end(state text) RETURNS "application/x-any" LANGUAGE sql IMMUTABLE AS 'SELECT state::"application/x-any"';
CREATE AGGREGATE owner_list(owner) (SFUNC = owner_step, STYPE = text, INITCOND = '', FINALFUNC = owner_end);
CREATE FUNCTION add_up(a int, b numeric DEFAULT 2, VARIADIC more text[] DEFAULT '{}') RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT a';
CREATE FUNCTION upto(n int) RETURNS SETOF int LANGUAGE sql IMMUTABLE AS 'SELECT generate_series(1, n)';
CREATE DOMAIN "text/seen" AS text;
CREATE FUNCTION seen_step(state "text/seen", item anyelement) RETURNS "text/seen" LANGUAGE sql IMMUTABLE AS $$ SELECT (coalesce(state, '') || item::text || ';')::"text/seen" $$;
CREATE AGGREGATE seen(anyelement) (SFUNC = seen_step, STYPE = "text/seen");
COMMENT ON FUNCTION add_up IS E'Adds\nnumbers up';
CREATE FUNCTION hidden_sum(a int) RETURNS int LANGUAGE sql AS 'SELECT a';
REVOKE ALL ON FUNCTION hidden_sum FROM PUBLIC;
});
ok(OrionHttp::await($port, '/ready', 200), 'ready');

sub get
{
	my ($path, $accept, $method) = @_;
	return OrionHttp::request($port, $method // 'GET', "/rest/v1/$path", { $accept ? (Accept => $accept) : () });
}

sub got
{
	my $answer = get(@_);
	(my $type = $answer->{headers}{'content-type'} // '') =~ s/; charset=utf-8//;
	return "$answer->{status} $type $answer->{body}";
}

# --- functions that return such a domain
is(got('rpc/page', 'text/html'), '200 text/html <p>"x"</p>', 'a domain over text, as it is');
is(got('rpc/page', 'image/png, text/html;q=0.1'), '200 text/html <p>"x"</p>', 'the only one there is');
is(got('rpc/page'), '200 application/json "<p>\"x\"</p>"', 'JSON when nothing was asked for');
is(got('rpc/page', 'text/html;q=0.1, application/json'), '200 application/json "<p>\"x\"</p>"', 'the better one');
is(got('rpc/dot', 'image/x-dot'), "200 image/x-dot \x00\xff\x01", 'a domain over bytea, byte by byte');
is(got('rpc/seven', 'text/number'), '200 text/number 7', 'a domain over a number');
like(got('rpc/page', 'image/png'), qr/^406 .*PGRST107/, 'none that fits');

# --- aggregates over rows
is(got('owner?order=id', 'application/x-any'), '200 application/x-any ann;bob;', 'rows of one table');
is(got('rpc/upto?n=2', 'text/seen'), '200 text/seen (1);(2);', 'values of a set are rows to an aggregate of any');
is(got('rpc/seven', 'text/seen'), '200 text/seen 7;', '... and one value is itself');
is(got('owner', 'text/number'), '200 text/number 2', 'rows of any; a number');
is(got('pet', 'text/number'), '200 text/number ', 'no rows');
like(got('owner?select=id', 'application/x-any'), qr/^406 /, 'chosen columns are no rows of the table');
is(got('owner?select=id', 'text/number'), '200 text/number 2', 'but some rows');
like(got('pet', 'application/x-any'), qr/^406 /, 'another table');
like(got('owner?select=name,pet(id)&limit=1', 'text/csv'), qr/^200 text\/csv name,pet\nann,\[\]/, 'CSV of what is embedded');

# --- overriding Orion's own: seen at once, and gone at once
$node->safe_psql('postgres', q{
CREATE DOMAIN "application/json" AS text;
CREATE FUNCTION json_end(state text) RETURNS "application/json" LANGUAGE sql IMMUTABLE AS $$ SELECT ('"mine"')::"application/json" $$;
CREATE AGGREGATE my_json(owner) (SFUNC = owner_step, STYPE = text, INITCOND = '', FINALFUNC = json_end);
});
is(got('owner', 'application/json'), '200 application/json "mine"', 'a handler for JSON itself');
like(got('pet', 'application/json'), qr/^200 application\/json \[/, 'of one table only');
$node->safe_psql('postgres', q{DROP DOMAIN "application/json" CASCADE; CREATE DOMAIN "*/*" AS bytea;
CREATE FUNCTION all_end(state text) RETURNS "*/*" LANGUAGE sql IMMUTABLE AS $$ SELECT convert_to(state, 'UTF8')::"*/*" $$;
CREATE AGGREGATE my_all(owner) (SFUNC = owner_step, STYPE = text, INITCOND = '', FINALFUNC = all_end)});
is(got('owner?order=id', 'whatever/it-is'), '200 application/octet-stream ann;bob;', 'a handler for everything');
is(got('owner?order=id'), '200 application/octet-stream ann;bob;', 'also where nothing was asked for');
$node->safe_psql('postgres', 'DROP DOMAIN "*/*" CASCADE');
like(got('owner'), qr/^200 application\/json \[/, 'JSON again');
like(got('owner', 'application/geo+json'), qr/^406 /, 'no GeoJSON without PostGIS');
$node->safe_psql('postgres', q{CREATE FUNCTION st_asgeojson(r record, g text DEFAULT '') RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN '{"type":"Feature"}'; END $$});
is(got('owner', 'application/geo+json'), '200 application/geo+json {"type" : "FeatureCollection", "features" : [{"type":"Feature"}, {"type":"Feature"}]}', 'GeoJSON by its function');

# --- keys of views, and a view that shows itself
is(get('owners', undef, 'OPTIONS')->{headers}{allow}, 'OPTIONS,GET,HEAD,POST,PUT,PATCH,DELETE', 'a view has the key of its table');
my $made = OrionHttp::request($port, 'POST', '/rest/v1/owners',
	{ 'Content-Type' => 'application/json', Prefer => 'return=headers-only' }, '{"number":7,"name":"eve"}');
is("$made->{status} $made->{headers}{location}", '201 /rest/v1/owners?number=eq.7', 'Location of a row of a view');
is(get('circle', undef, 'OPTIONS')->{status}, 200, 'a view that shows itself ends');

# --- hints
sub hint { return decode_json(get(@_)->{body})->{hint} // '' }
is(hint('owmer'), "Perhaps you meant the table 'public.owner'", 'a table misspelt');
is(hint('secret_pet'), '', 'what the role may not see is not told');
is(hint('rpc/add_upp'), 'Perhaps you meant to call the function public.add_up', 'a function misspelt');
is(hint('rpc/hidden_summ'), '', 'nor a function');
is(hint('rpc/add_up?a=1&b=2&mor=x'), 'Perhaps you meant to call the function public.add_up(a, b, more)', 'arguments misspelt');
is(hint('pet?select=ovner(id)'), "Perhaps you meant 'owner' instead of 'ovner'.", 'a relation misspelt');

# --- OpenAPI
my $two = decode_json(get('')->{body});
is($two->{swagger}, '2.0', 'OpenAPI 2.0');
is("$two->{info}{title}|$two->{info}{description}", 'Pets|All about them', 'title and description');
is($two->{paths}{'/pet'}{get}{summary}, 'A pet', 'summary');
ok(!$two->{paths}{'/pet'}{post}{x} && !exists $two->{paths}{'/secret_pets'} && !exists $two->{paths}{'/rpc/hidden_sum'}, 'what the role may not use is left out');
my $args = $two->{paths}{'/rpc/add_up'};
is(join(' ', map { "$_->{name}:$_->{type}:" . ($_->{required} ? 1 : 0) } @{ $args->{get}{parameters} }), 'a:integer:1 b:number:0 more:array:0', 'arguments');
is_deeply($args->{post}{parameters}[0]{schema}{required}, ['a'], 'those that are required');
like($two->{definitions}{kept}{properties}{pet_id}{description}, qr/Primary Key/, 'keys of views');
like($two->{definitions}{kept}{properties}{who}{description}, qr/Foreign Key to `owner\.id`/, 'also foreign ones');
is($two->{definitions}{owner}{properties}{name}{default}, 'nobody', 'a default');
is_deeply($two->{definitions}{kinds}{properties}, {
	dose => { type => 'integer', format => 'int32', default => 3 },
	humour => { type => 'string', format => 'public.humour', enum => [ 'good', 'bad' ] },
	since => { type => 'string', format => 'timestamp with time zone', default => q{'2020-01-01'::date} },
	code => { type => 'string', format => 'character varying', maxLength => 5, default => 'x' },
	bits => { type => 'string', format => 'bit', maxLength => 5 },
	made => { type => 'string', format => 'text' },
	pair => { type => 'string', format => 'public.even' },
}, 'domains are what they are made of, also in turn, and bring their defaults');
is(join(' ', map { exists $two->{paths}{"/rpc/$_"} ? 1 : 0 } 'nameless', 'nameless_two', 'whole'), '0 0 1', 'functions that nobody can call are left out');
ok($two->{paths}{'/rpc/all_of'}{get}{parameters}[0]{required}, 'a variadic argument without a default is asked for');

my $answer = get('rpc/described', 'application/openapi+json');
is("$answer->{headers}{'content-type'} $answer->{body}", 'application/openapi+json; charset=utf-8 {}', 'a description by a function');
$answer = get('', 'application/openapi+json;version=3.1');
is($answer->{headers}{'content-type'}, 'application/openapi+json;version=3.1; charset=utf-8', 'the type of 3.1');
my $three = decode_json($answer->{body});
is($three->{openapi}, '3.1.0', 'OpenAPI 3.1');
is_deeply($three->{components}{schemas}{pet}{properties}{mood}{type}, [ 'string', 'null' ], 'a column that may be null');
ok($three->{components}{schemas}{pet}{properties}{id}{readOnly}, 'a column that is made');
is_deeply([ grep { !/^[A-Za-z0-9._-]+$/ } keys %{ $three->{components}{schemas} } ], [], 'names of components are those that are allowed');
is(decode_json(get('', 'application/vnd.oai.openapi+json')->{body})->{openapi}, '3.1.0', 'by the registered type');

# every reference leads somewhere, every operation has responses, every parameter what it needs
sub check
{
	my ($document, $node, $where, $bad) = @_;
	if (ref $node eq 'ARRAY') { check($document, $_, "$where\[]", $bad) foreach @$node; return; }
	return if ref $node ne 'HASH';
	if (defined $node->{'$ref'} && !ref $node->{'$ref'})
	{
		my $at = $document;
		$at = ref $at eq 'HASH' ? $at->{$_} : undef foreach grep { $_ ne '#' } split m{/}, $node->{'$ref'};
		push @$bad, "$where: $node->{'$ref'}" unless defined $at;
	}
	push @$bad, "$where: no description" if $where =~ m{/responses/[^/]+$} && !$node->{'$ref'} && !exists $node->{description};
	if (defined $node->{in} && !ref $node->{in} && defined $node->{name})
	{
		push @$bad, "$where: no type" unless $node->{schema} || $node->{type};
		push @$bad, "$where: no items" if ($node->{type} // '') eq 'array' && !$node->{items};
	}
	check($document, $node->{$_}, "$where/$_", $bad) foreach sort keys %$node;
}
foreach ([ 'OpenAPI 2.0', $two ], [ 'OpenAPI 3.1', $three ])
{
	my ($name, $document) = @$_;
	my @bad;
	check($document, $document, '', \@bad);
	foreach my $path (sort keys %{ $document->{paths} })
	{
		push @bad, "$path: no slash" unless $path =~ m{^/};
		push @bad, "$path $_: no responses" foreach grep { !%{ $document->{paths}{$path}{$_}{responses} // {} } } keys %{ $document->{paths}{$path} };
	}
	is("@bad", '', "$name: sound in itself");
}
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'no crash in the log');
done_testing();
