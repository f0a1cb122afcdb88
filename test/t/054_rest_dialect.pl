# The dialect in its corners: what PostgREST's documentation says, and where it is
# silent does, of requests that seldom come. A case is [request, what it answers].
use strict;
use warnings;
use JSON::PP;
use OrionHttp;
use PostgreSQL::Test::Utils;
use Test::More;

my $secret = 'a secret of more than thirty-two bytes';
my ($node, $port) = OrionHttp::server('dialect', qq{
orion.executor_count = 1
orion.jwt_secret = '$secret'
orion.rest_schemas = 'api'
orion.rest_prefix = '/'
orion.rest_aggregates_enabled = on
orion.rest_plan_enabled = on
orion.rest_tx_end = 'commit-allow-override'
});
$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION orion;
CREATE SCHEMA api;
GRANT USAGE ON SCHEMA api TO PUBLIC;
ALTER DEFAULT PRIVILEGES IN SCHEMA api GRANT ALL ON TABLES TO orion_anon, orion_user;
SET search_path = api, public;
CREATE TABLE clients (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE projects (id int PRIMARY KEY, name text, client_id int REFERENCES clients, budget numeric);
CREATE TABLE moments (at timestamptz, day date, PRIMARY KEY (at, day));
CREATE TABLE lists (id int PRIMARY KEY, words text[], note text);
CREATE TABLE bare (a int, b text);
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TABLE kinds (id int PRIMARY KEY, net cidr, raw bytea, doc json, mood mood, words text[]);
INSERT INTO kinds VALUES (1, '10.0.0.0/24', 'abc', '{"a":1}', 'sad', '{a,b}'), (2, NULL, NULL, NULL, NULL, NULL);
INSERT INTO clients VALUES (1, 'Acme'), (2, 'Bolt');
INSERT INTO projects VALUES (1, 'one', 1, 10), (2, 'two', 1, 20), (3, 'three', 2, 30);
INSERT INTO lists VALUES (1, '{a,b}', '{a'), (2, '{c}', '100%a'), (3, '{}', 'x');
INSERT INTO bare VALUES (1, 'x'), (2, 'y');
CREATE DOMAIN tint AS int;
CREATE FUNCTION tint_out(tint) RETURNS json LANGUAGE sql IMMUTABLE AS $$ SELECT to_json('#' || to_hex($1)) $$;
CREATE CAST (tint AS json) WITH FUNCTION tint_out(tint) AS IMPLICIT;
CREATE TABLE paints (id int PRIMARY KEY, tint tint);
INSERT INTO paints VALUES (1, 10), (2, 255), (3, 10);
ANALYZE clients, projects;
CREATE TABLE parted (id int, note text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE part PARTITION OF parted FOR VALUES FROM (1) TO (10);
INSERT INTO parted VALUES (1, 'a\b');
CREATE TABLE closed (a int);
REVOKE ALL ON closed FROM orion_anon;
CREATE TYPE api.vector AS (v float8[]);
CREATE FUNCTION vector_add(vector, vector) RETURNS vector LANGUAGE sql IMMUTABLE AS 'SELECT ROW(array[$1.v[1] + $2.v[1]])::api.vector';
CREATE AGGREGATE sum(vector) (SFUNC = vector_add, STYPE = vector, INITCOND = '("{0}")');
CREATE TABLE vectors (id int PRIMARY KEY, v vector);
INSERT INTO vectors VALUES (1, ROW(array[1.5])), (2, ROW(array[2]));
CREATE FUNCTION nothing() RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION add(a int, b int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT a + b';
CREATE FUNCTION upto(n int) RETURNS SETOF int LANGUAGE sql IMMUTABLE AS 'SELECT generate_series(1, n)';
CREATE FUNCTION sum_of(VARIADIC v int[]) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT sum(x)::int FROM unnest(v) x';
CREATE FUNCTION doc() RETURNS json LANGUAGE sql IMMUTABLE AS $$ SELECT '{"a":null,"b":1}'::json $$;
CREATE FUNCTION raised(state text, message text) RETURNS int LANGUAGE plpgsql AS
	$$ BEGIN RAISE EXCEPTION USING errcode = state, message = message; END $$;
CREATE FUNCTION raised_whole(message text, detail text) RETURNS int LANGUAGE plpgsql AS
	$$ BEGIN RAISE EXCEPTION USING errcode = 'PGRST', message = message, detail = detail; END $$;
CREATE FUNCTION asked(name text) RETURNS text LANGUAGE sql STABLE AS 'SELECT current_setting(name, true)';
CREATE FUNCTION client_one() RETURNS clients LANGUAGE sql STABLE AS 'SELECT * FROM clients WHERE id = 1';
CREATE DOMAIN "text/plain" AS text;
CREATE FUNCTION plain() RETURNS "text/plain" LANGUAGE sql IMMUTABLE AS $$ SELECT 'plain'::text $$;
CREATE FUNCTION changed() RETURNS int LANGUAGE sql VOLATILE AS 'INSERT INTO api.bare VALUES (9) RETURNING 1';
CREATE FUNCTION changes() RETURNS void LANGUAGE sql VOLATILE AS 'INSERT INTO api.bare VALUES (8)';
CREATE FUNCTION cached() RETURNS int LANGUAGE sql VOLATILE AS
	$$ SELECT set_config('response.headers', '[{"Cache-Control": "public"}, {"Cache-Control": "max-age=259200"}, {"Content-Type": "text/x"}]', true); SELECT 1 $$;
SQL

sub call
{
	my ($method, $path, $headers, $body) = @_;
	$headers = { 'Content-Type' => 'application/json', %{ $headers // {} } } if defined $body;
	return OrionHttp::request($port, $method, $path, $headers, $body);
}

# The status, the code of an error or the body without what only lays it out.
sub got
{
	my $answer = call(@_);
	my $error = $answer->{body} =~ /^\{"code"/ ? decode_json($answer->{body})->{code} : undef;
	my $body = $error // $answer->{body};
	$body =~ s/, \n /,/g;
	return $answer->{status} . ($body eq '' ? '' : " $body");
}

sub header { my ($name, @request) = @_; return call(@request)->{headers}{ lc $name } // ''; }
sub field { my ($name, @request) = @_; return decode_json(call(@request)->{body})->{$name}; }

sub token { return { Authorization => 'Bearer ' . OrionHttp::token($_[0], $secret) }; }

my $back = { Prefer => 'return=representation, tx=rollback' };
ok(OrionHttp::await($port, '/ready', 200), 'ready');

# --- the query string

for my $case (
	[ '/clients?select=id&foo', '200 [{"id":1},{"id":2}]', 'a name without = says nothing' ],
	[ '/clients?select=id&limit=', '200 [{"id":1},{"id":2}]', 'no number is no limit' ],
	[ '/clients?select=id&limit=x&offset=1&order=id', '200 [{"id":2}]', '... beside one' ],
	[ '/clients?limit=-1', '416 PGRST103', 'a negative one' ],
	[ '/lists?select=id&note=like.100%a', '200 [{"id":2}]', 'a % that escapes nothing' ],
	[ '/lists?select=id&note=in.({a,b})', '200 [{"id":1}]', 'braces in a list are none of an array' ],
	[ '/lists?select=id&or=(words.cs.{a,b},id.eq.3)', '200 [{"id":1},{"id":3}]', 'but are in a group' ],
	[ '/lists?select=id&or=(note.eq.{a,id.eq.3)', '200 [{"id":1},{"id":3}]', 'unless they are not closed' ],
	[ "/lists?select=id&order=%09id.desc&limit=1", '200 [{"id":3}]', 'a tab is a space' ],
	[ '/projects?select=count()::text', '200 [{"count":"3"}]', 'a cast of count()' ],
	[ '/projects?select=client_id,n:count()::text&order=client_id', '200 [{"client_id":1,"n":"2"},{"client_id":2,"n":"1"}]', '... in groups' ],
	[ '/paints?select=tint,count()&order=tint', '200 [{"tint":"#a","count":2},{"tint":"#ff","count":1}]', 'groups of a domain that goes out by its cast' ],
	[ '/vectors?select=v.sum()', '200 [{"sum":{"v":[3.5]}}]', 'an aggregate of somebody else' ],
	[ '/projects?select=id,c:clients(name)&order=c(name).desc&limit=1', '200 [{"id":3,"c":{"name":"Bolt"}}]', 'ordered by what an alias names' ],
	[ '/projects?select=id,c:clients(name)&order=clients(name)', '400 PGRST108', '... not by the name behind it' ],
	[ '/clients?select=id,p:projects()&p=is.null', '200 []', 'an alias that is null' ],
	[ '/clients?select=id,projects(id)&not.projects.or=(id.eq.1,id.eq.3)&projects.order=id', '200 [{"id":1,"projects":[{"id":2}]},{"id":2,"projects":[]}]', 'a negation in front of the path' ],
	[ '/clients?select=id,projects(id)&projects.limit=-1', '400 2201W', 'a negative limit of what is embedded' ],
	[ '/clients?select=id,projects(id)&projects.offset=-1', '400 2201X', '... and an offset' ],
	[ '/parted?note=in.("a\\\\b")', '200 [{"id":1,"note":"a\\\\b"}]', 'a backslash as curl sends it' ],
	[ '/part', '404 PGRST205', 'a partition, whose policies are not those of the table' ],
	[ '/clients?select=id,p:projects()&projects=is.null', '400 42703', '... is not known by another name' ],
	[ '/clients?select=id&id[0]=gt.1&id[1]=lt.3', '200 [{"id":2}]', 'an index behind a name, as libraries write lists' ],
	[ '/clients?select=id&id=in.(' . join(',', 1 .. 2900) . ')', '200 [{"id":1},{"id":2}]', 'an address of 13 kB' ],
	[ '/clients?select=id&id=in.(' . join(',', 2 .. 1500) . ')', '200 [{"id":2}]', '... of 6 kB behind it' ],
	[ '/clients?select=id&id=in.(' . join(',', 1 .. 3900) . ')', '414 ORH414', 'one over orion.http_max_header_size' ],
  )
{
	is(got('GET', $case->[0]), $case->[1], $case->[2]);
}
for my $case (
	[ 'select=id&select=name', '[{"id":1},{"id":2}]', 'of two select= the first counts' ],
	[ 'select=&select=id&limit=1', '[{"id":1,"name":"Acme"}]', '... also an empty one' ],
	[ 'select=id&order=id.desc&order=id', '[{"id":2},{"id":1}]', 'of two order= the first' ],
	[ 'select=id&limit=1&limit=2', '[{"id":1},{"id":2}]', 'of two limits the last' ],
	[ 'select=id&limit=1&limit=x', '[{"id":1},{"id":2}]', '... also one that is no number' ],
	[ 'select=id,projects(id)&projects.order=id.desc&projects.order=id&id=eq.1', '[{"id":1,"projects":[{"id":2},{"id":1}]}]', 'the first order of what is embedded' ],
	[ 'select=id,projects(id)&projects.limit=1&projects.limit=2&projects.order=id&id=eq.1', '[{"id":1,"projects":[{"id":1},{"id":2}]}]', '... and the last limit' ],
  )
{
	is(got('GET', "/clients?$case->[0]"), "200 $case->[1]", $case->[2]);
}
for my $case (
	[ 'net=eq.10.0.0.1/24', '200 []', 'an address against a network' ],
	[ 'net=eq.10.0.0.0/24', '200 [{"id":1}]', '... and the network' ],
	[ 'net=in.(10.0.0.0/24,10.0.0.1)', '200 [{"id":1}]', '... in a list' ],
	[ 'net=isdistinct.10.0.0.1/24', '200 [{"id":1},{"id":2}]', '... distinct from' ],
	[ 'net=eq(any).{10.0.0.0/24,::1}', '200 [{"id":1}]', '... any of' ],
	[ 'raw=like.a*', '200 [{"id":1}]', 'bytes like a pattern' ],
	[ 'raw=like(any).{x,*c}', '200 [{"id":1}]', '... any of them' ],
	[ 'mood=in.(sad,glad)', '200 [{"id":1}]', 'words of an enum' ],
	[ 'mood=isdistinct.sad', '200 [{"id":2}]', '... distinct from' ],
	[ 'words=isdistinct.{a,b}', '200 [{"id":2}]', 'an array' ],
	[ 'doc->>a=in.(1,2)', '200 [{"id":1}]', 'a text in JSON' ],
  )
{
	is(got('GET', "/kinds?select=id&order=id&$case->[0]"), $case->[1], "$case->[2]: $case->[0]");
}
is(field('message', 'GET', "/kinds?$_->[0]"), "operator does not exist: $_->[1] unknown", "what PostgreSQL says of $_->[0]")
  for [ 'id=like.1*', 'integer ~~' ], [ 'doc=eq.{}', 'json =' ], [ 'doc->a=gt.1', 'json >' ], [ 'raw=match.a', 'bytea ~' ], [ 'mood=ilike.s*', 'mood ~~*' ];
is(got('GET', '/clients?order=id&order=)'), '400 PGRST100', 'an order that does not count must be one');
is(header('Warning', 'GET', '/clients?select=id,p:projects(id)&projects.id=eq.1&p.limit=1'),
	'299 Orion "Embedded resource was referenced by relation name even though it has an alias. This is deprecated and will stop '
	  . 'working in a future release. Update `projects` to `p` in query string filters, orders or limits."', 'a name in place of an alias is warned of');
is(header('Warning', 'GET', '/clients?select=id,p:projects(id)&p.id=eq.1'), '', 'an alias is not');
for my $shown ([ 'n:name', '{"n":"Bolt"}' ], [ '*', '{"id":2,"name":"Bolt"}' ], [ 'id', '{"id":2}' ], [ 'name:id', '{"name":2}' ],
	[ 'name:id,n:name', '{"name":2,"n":"Bolt"}' ], [ '*,name', '{"id":2,"name":"Bolt","name":"Bolt"}' ], [ 'name,name', '{"name":"Bolt","name":"Bolt"}' ])
{
	is(got('GET', "/projects?select=id,clients($shown->[0])&order=clients(name).desc,id&limit=1"), qq(200 [{"id":3,"clients":$shown->[1]}]), "ordered by a column of clients($shown->[0])");
}
is(header('Content-Location', 'GET', '/projects?name=in.(one,two)&client_id=eq.1&select=id,name'),
	'/projects?client_id=eq.1&name=in.%28one%2Ctwo%29&select=id%2Cname', 'the address is always escaped alike');
is(field('hint', 'GET', '/clients?select=id,project(*)'), "Perhaps you meant 'projects' instead of 'project'.", 'a relation that is meant');
is(field('hint', 'GET', '/clients?select=id,client(*)'), undef, 'none that leads back to where we are');

# --- ranges, counts, preferences

is(got('GET', '/projects?limit=1', { Range => '1-2' }), '416 PGRST103', 'a range and a limit that have nothing in common');
is(got('GET', '/projects?limit=0', { Range => $_ }), '200 []', "... unless nothing was asked for, range $_") for '1-2', '5-2';
is(header('Content-Range', 'GET', '/rpc/upto?n=5&limit=2', { Prefer => 'count=planned' }), '0-1/*', 'what a function gives is not planned');
is(header('Content-Range', 'GET', '/rpc/upto?n=5&limit=2', { Prefer => 'count=estimated' }), '0-1/5', '... but counted');
is(header('Content-Range', 'GET', '/rpc/upto?n=5', { Prefer => 'count=exact' }), '0-4/5', '... also where all are shown');
is(header('Content-Range', 'DELETE', '/bare?a=eq.1', { Prefer => 'count=estimated, tx=rollback' }), '*/1', 'so is what a change touches');
is(header('Content-Range', 'GET', '/rpc/nothing'), '0-0/*', 'a function of nothing gives one');
for my $case (
	[ 'add?a=1&b=2&limit=0', undef, undef, '200 null', '0-0/*', 'no value is asked for' ],
	[ 'add?a=1&b=2&limit=1', undef, 'count=exact', '200 3', '0-0/1', 'the one there is' ],
	[ 'add?a=1&b=2&offset=1', undef, undef, '200 null', '1-1/*', 'the one behind the value' ],
	[ 'add?a=1&b=2&offset=1', undef, 'count=exact', '200 null', '1-1/1', '... of one' ],
	[ 'add?a=1&b=2&offset=2', undef, undef, '200 null', '2-2/*', 'one further behind' ],
	[ 'add?a=1&b=2&offset=2', undef, 'count=exact', '416 PGRST103', '*/1', '... is behind the last' ],
	[ 'add?a=1&b=2&limit=0', 'application/vnd.pgrst.object+json', undef, '200 null', '0-0/*', 'no value as one object' ],
	[ 'client_one?limit=0', undef, undef, '200 null', '0-0/*', 'no row' ],
	[ 'client_one?limit=0', 'text/csv', undef, "200 \n", '0-0/*', '... as CSV' ],
	[ 'client_one?offset=1', undef, 'count=exact', '200 null', '1-1/1', 'the one behind the row' ],
	[ 'client_one?limit=1&id=eq.2', undef, 'count=exact', '200 null', '*/0', 'a row that a filter hides is not counted' ],
	[ 'plain', 'text/plain', undef, '200 plain', '0-0/*', 'a value as it is' ],
	[ 'plain?limit=0', 'text/plain', undef, '200', '*/0', '... not asked for' ],
	[ 'plain?offset=1', 'text/plain', undef, '416 PGRST103', '*/0', '... and behind it' ],
	[ 'nothing?offset=2', undef, undef, '204', '2-2/*', 'behind nothing' ],
  )
{
	my ($path, $accept, $prefer, $body, $range, $name) = @$case;
	my @request = ('GET', "/rpc/$path", { Accept => $accept // '*/*', $prefer ? (Prefer => $prefer) : () });
	is(got(@request) . ' ' . header('Content-Range', @request), "$body $range", $name);
}
is(got('GET', '/rpc/add?a=1&b=2', { Range => '1-2' }), '200 null', 'a range behind the value');
is(got('POST', '/rpc/changed?offset=2', { Prefer => 'count=exact' }), '416 PGRST103', 'who asks for what is behind the last');
is($node->safe_psql('postgres', 'SELECT count(*) FROM api.bare WHERE a = 9'), '0', '... has changed nothing');
is(got('PATCH', '/projects?id=lt.3&limit=1&select=id&order=id', $back, '{"name":"x"}'), '200 [{"id":1},{"id":2}]', 'a change and what is shown of it have no limit');
is(got('GET', '/nowhere', { Prefer => 'handling=strict, foo' }), '404 PGRST205', 'what is not there comes before what is not known');
is(got('GET', '/clients', { Prefer => 'handling=strict, count=none' }), '400 PGRST122', 'count=none is no preference');
is(got('GET', '/clients?select=id&id=eq.1', { Prefer => 'handling=strict, max-affected=x' }), '200 [{"id":1}]', 'max-affected that is no number is ignored');
is(got('DELETE', '/bare?a=eq.99', { Prefer => "$_->[0], tx=rollback" }), $_->[1], "$_->[0] of nothing")
  for [ 'handling=strict, max-affected=-1', '400 PGRST124' ], [ 'handling=strict, max-affected=0', '204' ], [ 'max-affected=-1', '204' ], [ 'handling=lenient, max-affected=-1', '204' ];
is(header('Preference-Applied', 'DELETE', '/bare', { Prefer => "handling=strict, max-affected=$_, tx=rollback" }), 'tx=rollback, handling=strict', "max-affected=$_ is no number")
  for '', '+5', '5x', '99999999999999999999';
is(got('POST', '/rpc/raised', { Prefer => 'handling=strict, max-affected=-1' }, '{"state":"P0001","message":"x"}'), '400 PGRST128', 'a function of one value is not called');
is(header('Preference-Applied', 'GET', $_->[0], { Prefer => 'count=exact', Accept => $_->[1] }), '', "nothing is preferred of $_->[1] at $_->[0]")
  for [ '/', '*/*' ], [ '/clients', 'application/vnd.pgrst.plan' ];
is(header('Preference-Applied', 'GET', '/clients', { Prefer => 'handling=strict, max-affected=1' }), 'handling=strict', 'a read affects nothing');
is(header('Preference-Applied', 'DELETE', '/bare', { Prefer => 'handling=strict, max-affected=5, tx=rollback' }), 'tx=rollback, handling=strict, max-affected=5', 'a change does');
is(header('Preference-Applied', 'PUT', '/clients?id=eq.1', { Prefer => 'resolution=ignore-duplicates, tx=rollback' }, '{"id":1,"name":"p"}'), 'tx=rollback', 'PUT knows one resolution only');

for my $case (
	[ 'exact', 'clients?select=id,projects!inner(id)&limit=1', '0-0/2' ],
	[ 'exact', 'clients?select=id,projects!inner(id)&projects.id=gt.2&limit=1', '0-0/1' ],
	[ 'exact', 'clients?select=id,projects!inner(id)&projects.offset=1&limit=1', '0-0/1' ],
	[ 'exact', 'clients?select=id,projects!inner(count())&projects.id=gt.9&limit=1', '0-0/2' ],
	[ 'exact', 'projects?select=id,clients!inner(id,p:projects!inner(id))&clients.p.id=eq.3&limit=1', '0-0/1' ],
	[ 'exact', 'clients?select=id,projects(id)&projects.id=gt.2&projects=is.null&limit=1', '0-0/1' ],
	[ 'exact', 'clients?select=id,projects(id)&projects.id=gt.2&not.or=(projects.not.is.null,id.eq.9)&limit=1', '0-0/1' ],
	[ 'planned', 'projects?select=id,clients(id)&clients=not.is.null&limit=1', '0-0/3' ],
	[ 'estimated', 'vectors', '0-1/*' ],
  )
{
	my ($count, $path, $range) = @$case;
	my $got = header('Content-Range', 'GET', "/$path", { Prefer => "count=$count" });
	$got =~ s{/(\d+)$}{$1 >= 2 ? '/*' : '/less'}e if $count eq 'estimated';
	is($got, $range, "$count of $path");
}

# --- writing

is(got('POST', '/bare', $back, $_), '201 []', "$_ is no rows") for '5', 'null', '"x"';
is(got('PATCH', '/bare', undef, 'true'), '204', '... and changes nothing');
is(got('POST', '/bare', { 'Content-Type' => 'image/png' }, '{}'), '400 PGRST102', 'a body that is a picture');
is(field('message', 'POST', '/bare', { 'Content-Type' => $_->[0] }, '{}'), "Content-Type not acceptable: $_->[1]", "a body of $_->[0]")
  for [ 'text/plain; charset=utf-8', 'text/plain' ], [ 'Text/XML', 'text/xml' ], [ 'image/png; q=1', 'image/png; q=1' ];
is(got('POST', '/bare', { 'Content-Type' => 'text/csv' }, "a,b\n5,$_\n"), '400 PGRST102', "CSV with the field $_") for 'x"y', 'x""', '"x"y', '" ';
is(got('POST', '/bare', { 'Content-Type' => 'application/json', Accept => 'image/png' }, $_), '406 PGRST107', "nothing to show $_ as, unasked") for '{"a":1}', '[]';
is(got('POST', '/bare?select=a', { %$back, 'Content-Type' => 'text/csv' }, "a,b\n5,x\n\n6,y\r\n\r\n"), '201 [{"a":5},{"a":6}]', 'empty lines of CSV');
is(got('POST', '/bare', { %$back, 'Content-Type' => 'application/x-www-form-urlencoded' }, ''), '201 [{"a":null,"b":null}]', 'a form of no fields');
is(got('POST', '/bare?columns=a,b,a', $back, '{"a":5,"b":"x","c":1}'), '201 [{"a":5,"b":"x"}]', 'a column named twice');
is(got('POST', '/bare?columns=a', undef, $_->[0]), "400 $_->[1]", "with columns PostgreSQL says what is wrong with $_->[0]")
  for [ '{"a"', '22P02' ], [ '"x"', '22023' ], [ '[1]', '22023' ];
is(got('POST', '/closed', undef, $_), '401 42501', "$_ is no row for a table that takes none") for '[]', '5', '{}';
is(got('PATCH', '/closed', undef, $_), '401 42501', "$_ changes nothing of a table that nobody may read") for '[]', '{}', '{"a":1}';
is(got('PATCH', "/clients?select=id,projects(id)", { %$back, Accept => 'application/vnd.pgrst.object+json' }, '{}'), '406 PGRST116', 'nothing is not one');
is(got('POST', '/bare', { %$back, Accept => 'text/csv' }, '[]'), "201 \n", 'no rows, shown as CSV');
is(got('POST', "/clients?columns=id,name", { Prefer => 'resolution=merge-duplicates, return=representation' }, '[]'), '200 []', '... merged with those there are');
is(got('PATCH', '/projects?clients.id=eq.1', undef, '{"name":"x"}'), '400 PGRST108', 'a filter of what is not embedded changes nothing');
is(got('DELETE', '/projects?select=id,clients(id)&clients.id=eq.9&id=eq.9'), '204', '... of what is, but not shown, neither');
is(got('POST', '/bare?select=nowhere(a)', undef, '{"a":1}'), '400 PGRST200', 'no relation, although nothing is shown');
is(got('POST', '/clients?on_conflict=', { Prefer => 'resolution=merge-duplicates' }, '{"id":1,"name":"x"}'), '400 PGRST100', 'on_conflict of nothing');
is(got('POST', '/clients?on_conflict=%22id%22', { Prefer => 'resolution=merge-duplicates, return=representation, tx=rollback' }, '{"id":1,"name":"x"}'), '200 [{"id":1,"name":"x"}]', '... of a quoted name');
for my $case (
	[ 'id=eq.1&offset=0', '200 [{"id":1,"name":"p"}]', 'an offset of none' ],
	[ 'id=eq.1&limit=1', '400 PGRST114', 'a limit' ],
	[ 'id=eq.1&id=eq.1', '200 [{"id":1,"name":"p"}]', 'the key twice' ],
	[ 'id=eq.1&id=eq.2', '400 PGRST115', '... and otherwise' ],
	[ 'id=foo', '400 PGRST100', 'a key that is no filter' ],
	[ 'id=eq(any).{1}', '405 PGRST105', 'any key' ],
	[ 'id=not.eq.1', '405 PGRST105', 'any other key' ],
	[ 'id=eq.1&name=eq.p', '405 PGRST105', 'more than the key' ],
	[ 'id=eq.1&or=(id.eq.1)', '405 PGRST105', 'the key and a group' ],
	[ 'id=eq.1&projects.id=eq.1&select=id,projects(id)', '405 PGRST105', 'a filter of what is embedded' ],
	[ 'id=eq.1&projects.limit=1&projects.order=id&select=id,projects(id)', '200 [{"id":1,"projects":[{"id":1}]}]', '... but not its limit' ],
  )
{
	is(got('PUT', "/clients?$case->[0]", $back, '{"id":1,"name":"p"}'), $case->[1], "PUT: $case->[2]");
}
is(got('PUT', '/clients', undef, $_), '405 PGRST105', "PUT without a key, body $_") for '{', '{"nope":1}';
is(got('PUT', '/clients?id=eq.9', { Prefer => 'tx=rollback' }, '{"id":9,"name":"p"}'), '204', 'PUT says nothing unasked');
is(got('PUT', '/clients?id=eq.9&columns=id', $back, '{"id":9,"name":"p"}'), '201 [{"id":9,"name":"p"}]', '... and takes all columns');
is(header('Location', 'POST', '/moments', { Prefer => 'return=headers-only, tx=rollback, timezone=UTC' }, '{"at":"2020-01-02 03:04:05","day":"2020-01-02"}'),
	'/moments?at=eq.2020-01-02T03%3A04%3A05%2B00%3A00&day=eq.2020-01-02', 'Location writes values as JSON does');

# --- where PostgREST answers otherwise (docs/rest.md)

for my $case (
	[ '/clients?id)=eq.1', '400 PGRST100', 'a name with something behind it' ],
	[ '/clients?limit=0&offset=5', '200 []', 'nothing behind the last row' ],
	[ '/lists?select=id&note=in.("")', '200 []', 'no empty text' ],
	[ '/lists?select=id&note=in.("",x)', '200 [{"id":3}]', '... or another' ],
	[ '/lists?select=id&words=eq.{}&note=not.in.("")', '200 [{"id":3}]', 'all but an empty text' ],
  )
{
	is(got('GET', $case->[0]), $case->[1], $case->[2]);
}
is(got('GET', '/clients', { Accept => 'application/json;q=0' }), '406 PGRST107', 'JSON that is not wanted');
is(got('POST', '/bare?columns=a', { %$back, 'Content-Type' => 'text/csv' }, "a,b\n5,x\n"), '201 [{"a":5,"b":null}]', 'columns of CSV');
is(got('POST', '/bare?columns=b', { %$back, 'Content-Type' => 'application/x-www-form-urlencoded' }, 'a=5&b=x'), '201 [{"a":null,"b":"x"}]', '... and of a form');
is(got('PATCH', '/clients?id=eq.1&select=id,projects(id)&projects.limit=1&projects.order=id.desc', $back, '{"name":"x"}'), '200 [{"id":1,"projects":[{"id":2}]}]', 'a limit of what a change shows');
my @inner = ('POST', '/projects?select=id,clients!inner(name)', { Prefer => 'return=representation, count=exact, tx=rollback' }, '[{"id":8,"client_id":1},{"id":9,"client_id":null}]');
is(got(@inner) . ' ' . header('Content-Range', @inner), '201 [{"id":8,"clients":{"name":"Acme"}}] */2', 'what is not shown is counted');
is(got('PATCH', '/projects?id=lt.3&select=count()', { Prefer => 'return=representation, handling=strict, max-affected=1, tx=rollback' }, '{"name":"x"}'), '400 PGRST124', '... and limited');

# --- functions

for my $case (
	[ '/rpc/upto?n=3&id=eq.1', '400 42703', 'a column that values do not have' ],
	[ '/rpc/upto?n=3&pgrst_scalar=gt.1&order=pgrst_scalar.desc', '200 [3, 2]', 'the one that they have' ],
	[ '/rpc/add?a=1&b=2&select=nope', '400 42703', '... of one value' ],
	[ '/rpc/add?a=1&b=2&select=nope(*)', '400 PGRST200', 'values are related to nothing' ],
	[ '/rpc/sum_of', '404 PGRST202', 'a variadic argument is one that is asked for' ],
	[ '/rpc/sum_of?v=1&v=2', '200 3', '... and may be given twice' ],
  )
{
	is(got('GET', $case->[0]), $case->[1], $case->[2]);
}
is(got('GET', '/rpc/nothing', { Accept => 'image/png' }), '406 PGRST107', 'nothing is no picture');
my $one = { Accept => 'application/vnd.pgrst.object+json' };
is(got('GET', '/rpc/add?a=1&b=2', $one), '200 3', 'one value as one object');
is(header('Content-Type', 'GET', '/rpc/add?a=1&b=2', $one), 'application/vnd.pgrst.object+json; charset=utf-8', '... is called one');
is(got('GET', '/rpc/upto?n=2', $one), '406 PGRST116', 'two values are not one');
is(got('GET', '/rpc/upto?n=1', $one), '200 {"pgrst_scalar":1}', 'one of a set is a row');
is(got('GET', '/rpc/doc', { Accept => 'application/vnd.pgrst.array+json;nulls=stripped' }), '200 {"b":1}', 'a value without its nulls');
is(got('GET', '/rpc/upto?n=2', { Accept => 'text/csv' }), "200 pgrst_scalar\n1\n2", 'values as CSV');
is(field('details', 'POST', '/rpc/none', undef, '{}'),
	'Searched for the function api.none without parameters or with a single unnamed json/jsonb parameter, but no matches were found in the schema cache.', 'what was looked for');

# --- media types

is(header('Content-Type', 'GET', '/clients', { Accept => '*/*, text/csv' }), 'text/csv; charset=utf-8', 'what is more specific comes first');
is(header('Content-Type', 'GET', '/clients', { Accept => 'application/json, application/vnd.pgrst.array+json;nulls=stripped' }),
	'application/vnd.pgrst.array+json;nulls=stripped; charset=utf-8', '... as does what has parameters');
is(field('message', 'GET', '/clients', { Accept => 'image/png;q=0.5, text/html; level=1, text/plain;charset=x' }),
	'None of these media types are available: text/html;level=1, text/plain, image/png', 'types that there are not, the best first');
is(header('Content-Type', 'GET', '/clients', { Accept => 'application/vnd.pgrst.plan+json; options=verbose|nope|analyze' }),
	'application/vnd.pgrst.plan+json; for="application/json"; options=analyze|verbose; charset=utf-8', 'options of a plan in order');
like(call($_->[0], $_->[1], { Accept => 'application/vnd.pgrst.plan' }, $_->[2])->{body}, qr/\(cost=/, "the plan of $_->[0] $_->[1] $_->[2]")
  for [ 'POST', '/rpc/changes', '{}' ], [ 'POST', '/rpc/changed', '{}' ], [ 'POST', '/bare', '{"a":8}' ], [ 'POST', '/bare', '[]' ], [ 'PATCH', '/bare', '{}' ], [ 'PATCH', '/bare', '{"a":8}' ], [ 'DELETE', '/bare', '' ];
is($node->safe_psql('postgres', 'SELECT count(*), count(*) FILTER (WHERE a > 7) FROM api.bare'), '2|0', '... which changes nothing');
is(call('GET', '/clients?id=eq.9', { Accept => 'text/csv' })->{body}, "\n", 'no rows as CSV');
is(got('GET', '/', { Accept => $_ }), '406 PGRST107', "the root is no $_") for 'text/csv', 'application/json-patch+json', 'application/json;q=0', 'application/vnd.pgrst.plan';
is(field('message', 'GET', '/', { Accept => 'text/csv;q=0.5, text/plain; charset=utf-8' }), 'None of these media types are available: text/plain, text/csv', '... the best first');
is(call('GET', '/', { Accept => $_ })->{status}, 200, "but it is $_") for 'text/csv, application/json;q=0.1', '*/*;q=0.1', 'application/*', 'Application/OpenAPI+json';
is(header('Content-Type', 'GET', '/', { Accept => 'application/json' }), 'application/openapi+json; charset=utf-8', 'the root is OpenAPI, also as JSON');

# --- errors, statuses, headers

for my $case (
	[ '21000', 'UPDATE requires a WHERE clause', 400 ], [ '21000', 'two rows', 500 ], [ '22023', 'role "x" does not exist', 401 ], [ '22023', 'other', 400 ],
	[ '42883', 'function xmlagg(int) does not exist', 406 ], [ '42883', 'function f() does not exist', 404 ],
  )
{
	is(got('POST', '/rpc/raised', undef, encode_json({ state => $case->[0], message => $case->[1] })), "$case->[2] $case->[0]", "$case->[0]: $case->[1]");
}
is(got('POST', '/rpc/raised_whole', undef, encode_json({ message => '{"code":"X","message":"m","details":5}', detail => '{"status":400,"headers":{}}' })), '500 PGRST121', 'details that are no text');
{
	my $answer = OrionHttp::raw($port, "POST /rpc/cached HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
	is(join(' ', $answer =~ /^Cache-Control: (\S+)\r$/mg), 'public max-age=259200', 'a header that is set twice is sent twice');
	is(join(' ', $answer =~ /^Content-Type: (\S+)\r$/mg), 'text/x', '... and one that Orion has is replaced');
}
is(got($_, '/clients'), '405 PGRST117', "$_ of a table") for 'TRACE', 'OTHER';
is(header('Vary', $_, '/clients?id=eq.99'), 'Accept, Prefer, Range', "what the answer of $_ may depend on") for 'GET', 'OPTIONS', 'DELETE';
is(got('OPTIONS', '/clients', { 'Accept-Profile' => 'nowhere' }), '406 PGRST106', 'OPTIONS of another schema');
is(got('OPTIONS', '/clients?order='), '400 PGRST100', '... of a bad query string');
is(header('Content-Profile', 'GET', '/clients', $_->[0]), $_->[1], 'the schema is named to who names it') for [ { 'Accept-Profile' => 'api' }, 'api' ], [ { 'Content-Profile' => 'api' }, '' ], [ {}, '' ];
is(got('OTHER', '/rpc/add'), '405 PGRST101', '... of a function');
is(got($_->[0], $_->[1], $_->[2]), $_->[3], "what is wrong first with $_->[0] $_->[1]")
  for [ 'GET', '/nowhere', { Accept => 'nothing' }, '404 PGRST205' ], [ 'GET', '/rpc/nowhere', { Accept => 'nothing' }, '404 PGRST202' ], [ 'PUT', '/rpc/add?select=a(', {}, '405 PGRST101' ],
  [ 'POST', '/?select=a(', {}, '405 PGRST117' ], [ 'OTHER', '/clients', { 'Accept-Profile' => 'nowhere' }, '406 PGRST106' ], [ 'OTHER', '/a/b', { 'Accept-Profile' => 'nowhere' }, '404 PGRST125' ],
  [ 'POST', '/', { 'Content-Profile' => 'nowhere' }, '406 PGRST106' ];
is(field('message', 'OTHER', '/clients'), 'Unsupported HTTP method: OTHER', 'the method is named');

# --- tokens

is(got('GET', '/rpc/asked?name=role', token($_->[0])), $_->[1], "claims $_->[0]")
  for [ '{"role":"nobody_there"}', '401 22023' ], [ '{"role":5}', '401 22023' ], [ '{"role":null}', '401 22023' ], [ '{}', '200 "orion_anon"' ],
  [ '{"role":"orion_user","exp":null}', '200 "orion_user"' ];
is(header('WWW-Authenticate', 'GET', '/clients', token('{"role":"nobody_there"}')), 'Bearer', 'who one is not');
is(got('GET', '/closed', token($_->[0])), "$_->[1] 42501", "what is closed to $_->[0]")
  for [ '{}', 401 ], [ '{"role":"orion_anon"}', 401 ], [ '{"role":"orion_service"}', 403 ];
is(field('message', 'GET', '/clients', token('{"exp":null,"nbf":"x"}')), "The JWT 'nbf' claim must be a number", 'which claim is no number');
is(decode_json(JSON::PP->new->allow_nonref->decode(call('GET', '/rpc/asked?name=request.jwt.claims', token($_))->{body}))->{role}, 'orion_anon', "the role in $_") for '{}', '{"sub":"x"}';
unlike(call('GET', '/rpc/asked?name=request.headers', { Cookie => 'a=b' })->{body}, qr/cookie/, 'cookies are no headers');
for my $case (
	[ q{$.roles[?search(@, '^orion_')]}, '["x","orion_user"]' ], [ q{$.roles[?(@ != 'x')]}, '["x","orion_user"]' ], [ q{.roles[?(@ ^== "orion_us")]}, '["orion_service","orion_user"]' ],
	[ q{.roles[?(@ ==^ "_user")]}, '["x","orion_user"]' ], [ q{.roles[?(@ *== "on_us")]}, '["x","orion_user"]' ], [ '$.roles[-1]', '["x","orion_user"]' ], [ '$.roles[*]', '["orion_user","x"]' ],
	[ q{$.roles[?@.of == 'here'].name}, '[{"of":"there","name":"x"},{"of":"here","name":"orion_user"}]' ],
  )
{
	(my $path = $case->[0]) =~ s/'/''/g;
	$node->safe_psql('postgres', "ALTER SYSTEM SET orion.jwt_role_claim_key = '$path'");
	$node->reload;
	my $answer = '';
	for (1 .. 600) { last if ($answer = got('GET', '/rpc/asked?name=role', token("{\"roles\":$case->[1]}"))) eq '200 "orion_user"'; select(undef, undef, undef, 0.1); }
	is($answer, '200 "orion_user"', "the role at $case->[0]");
}
isnt($node->psql('postgres', "ALTER SYSTEM SET orion.jwt_role_claim_key = '$_'"), 0, "no path: $_") for '$.a[?@ ~ "x"]', '$.a[?search(@ "x")]', '$.a[?(@ == "x"]', '$.a[?@x == "x"]', '$.a[-]';

$node->stop('fast');
done_testing();
