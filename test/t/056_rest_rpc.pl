# Functions through the REST dialect: which one is called, with what, and what its
# answer may change.
use strict;
use warnings;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use OrionHttp;

my ($node, $port) = OrionHttp::server('rpc', qq{
orion.executor_count = 1
orion.rest_schemas = 'public'
});
$node->safe_psql('postgres', q{
CREATE EXTENSION orion;
CREATE TABLE owner (id int PRIMARY KEY, name text);
CREATE TABLE pet (id int PRIMARY KEY, name text, owner int REFERENCES owner);
INSERT INTO owner VALUES (1, 'ann'), (2, 'bob');
INSERT INTO pet VALUES (1, 'rex', 1), (2, 'tom', 1), (3, 'kit', 2);
GRANT SELECT, DELETE ON owner, pet TO orion_anon;
CREATE FUNCTION area(w int, h int DEFAULT 2) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT w * h';
CREATE FUNCTION shape(side int) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'square' $$;
CREATE FUNCTION shape(a int, b int) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'rectangle' $$;
CREATE FUNCTION same(x int) RETURNS text LANGUAGE sql AS $$ SELECT 'int' $$;
CREATE FUNCTION same(x text) RETURNS text LANGUAGE sql AS $$ SELECT 'text' $$;
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE FUNCTION alike(x text DEFAULT '', y int DEFAULT 1) RETURNS text LANGUAGE sql AS $$ SELECT 'text' $$;
CREATE FUNCTION alike(x mood DEFAULT 'bad') RETURNS text LANGUAGE sql AS $$ SELECT 'mood' $$;
CREATE FUNCTION joined(sep text, VARIADIC parts text[]) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT array_to_string(parts, sep)';
CREATE FUNCTION sum_of(VARIADIC n int[]) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT sum(i) FROM unnest(n) i';
CREATE FUNCTION as_text(text) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT length($1)';
CREATE FUNCTION as_bytes(bytea) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT length($1)';
CREATE FUNCTION as_xml(xml) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT xmlserialize(CONTENT $1 AS text) $$;
CREATE FUNCTION as_json(json) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT json_typeof($1) $$;
CREATE FUNCTION turn() RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT 'none' $$;
CREATE FUNCTION turn(a int) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'a' $$;
CREATE FUNCTION turn(a int, b int) RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT 'ab' $$;
CREATE FUNCTION either(a int) RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT 'a' $$;
CREATE FUNCTION either(b text) RETURNS text LANGUAGE sql STABLE AS $$ SELECT 'b' $$;
CREATE FUNCTION filled(a int DEFAULT 1, b int DEFAULT 2) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT a * 10 + b';
CREATE FUNCTION raw(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'whole' $$;
CREATE FUNCTION raw(a int DEFAULT 1) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'default' $$;
CREATE FUNCTION nought() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 0';
CREATE FUNCTION mixed() RETURNS text LANGUAGE sql AS $$ SELECT 'nothing' $$;
CREATE FUNCTION mixed(int DEFAULT 1) RETURNS text LANGUAGE sql AS $$ SELECT 'int' $$;
CREATE FUNCTION mixed(text DEFAULT 'x') RETURNS text LANGUAGE sql AS $$ SELECT 'text ' || $1 $$;
CREATE FUNCTION unnamed_int(int DEFAULT 1) RETURNS int LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION pets(low int DEFAULT 0) RETURNS SETOF pet LANGUAGE sql STABLE AS 'SELECT * FROM pet WHERE id >= low';
CREATE SEQUENCE calls;
GRANT USAGE ON calls TO orion_anon;
CREATE FUNCTION counted() RETURNS TABLE (n bigint) LANGUAGE sql AS $$ SELECT nextval('calls') FROM generate_series(1, 3) $$;
CREATE FUNCTION drop_pets() RETURNS SETOF pet LANGUAGE sql AS 'DELETE FROM pet RETURNING *';
CREATE FUNCTION secret_area(wide int) RETURNS int LANGUAGE sql AS 'SELECT 1';
REVOKE ALL ON FUNCTION secret_area FROM PUBLIC;
CREATE FUNCTION raises(m text, d text DEFAULT NULL) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF d IS NULL THEN RAISE SQLSTATE 'PGRST' USING MESSAGE = m; END IF;
	RAISE SQLSTATE 'PGRST' USING MESSAGE = m, DETAIL = d;
END $$;
CREATE FUNCTION fails(state text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION USING ERRCODE = state, MESSAGE = 'm'; END $$;
CREATE FUNCTION isolation() RETURNS text LANGUAGE sql SET default_transaction_isolation = 'serializable' AS $$ SELECT current_setting('transaction_isolation') $$;
CREATE FUNCTION hurried() RETURNS void LANGUAGE sql SET statement_timeout = '200ms' AS $$ SELECT pg_sleep(20) $$;
});
ok(OrionHttp::await($port, '/ready', 200), 'ready');

sub call
{
	my ($method, $path, $body, %headers) = @_;
	$headers{'Content-Type'} //= 'application/json' if defined $body;
	return OrionHttp::request($port, $method, "/rest/v1/rpc/$path", \%headers, $body);
}

sub got
{
	my $answer = call(@_);
	my $body = $answer->{body} =~ /^\s*[\[{]/ ? JSON::PP->new->canonical->encode(decode_json($answer->{body})) : $answer->{body};
	$body = $1 if $answer->{status} >= 300 && $body =~ /"code":"(\w+)"/;
	return $body eq '' ? $answer->{status} : "$answer->{status} $body";
}

sub told { my $answer = decode_json(call(@_)->{body}); return join ' | ', map { $_ // '' } @$answer{qw(message details hint)}; }

# --- arguments
is(got('GET', 'area?w=3'), '200 6', 'a default');
is(got('GET', 'area?w=1&w=4'), '200 8', 'the last of a name counts');
is(got('POST', 'area', '{"w":3,"h":5}'), '200 15', 'JSON');
is(got('POST', 'area', '[{"w":3},{"w":9}]'), '200 6', 'the first of an array');
is(got('POST', 'area?columns=w', '{"w":3,"z":5}'), '200 6', 'columns= picks');
is(got('POST', 'area', "w,h\n3,7\n", 'Content-Type' => 'text/csv'), '200 21', 'CSV');
is(got('POST', 'area', 'w=3&h=8', 'Content-Type' => 'application/x-www-form-urlencoded'), '200 24', 'a form');
is(got('GET', 'joined?sep=-&parts=a&parts=b%2Cc'), '200 "a-b,c"', 'variadic by GET');
is(got('POST', 'joined', '{"sep":"+","parts":["a","b"]}'), '200 "a+b"', 'variadic in JSON');
is(got('GET', "sum_of?$_"), '200 42', "... as $_") for 'n[]=1&n[]=2&n[]=39', 'n%5B0%5D=1&n%5B1%5D=41', 'n[]=1&n=41';
is(got('GET', "area?$_"), '404 PGRST202', "no argument: $_") for 'w[x]=1', 'w[0=1', 'w[0]x=1', '[0]=1';
is(got('POST', 'sum_of', 'n=1&n=2&n=39', 'Content-Type' => 'application/x-www-form-urlencoded'), '200 42', 'variadic in a form');
is(got('GET', 'sum_of?n=1&n=x'), '400 22P02', 'a variadic value of another type');
is(got('POST', 'as_text', "two\nlines", 'Content-Type' => 'text/plain'), '200 9', 'the body as text');
is(got('POST', 'as_bytes', "\x00\xff\x01", 'Content-Type' => 'application/octet-stream'), '200 3', 'the body as bytes');
is(got('POST', 'as_xml', '<a/>', 'Content-Type' => 'text/xml'), '200 "<a/>"', 'the body as XML');
is(got('POST', 'as_xml', '<a>', 'Content-Type' => 'text/xml'), '400 2200N', 'the body as broken XML');
is(got('POST', 'as_json', '[1,2]'), '200 "array"', 'the body as JSON');
is(got('POST', 'as_json', '{"a":1}'), '200 "object"', 'the body as a JSON object');
is(got('POST', 'as_text', "\x00", 'Content-Type' => 'text/plain'), '400 PGRST102', 'text with a NUL');

# --- which function
is(got('GET', 'shape?side=1'), '200 "square"', 'an overload');
is(got('GET', 'shape?a=1&b=2'), '200 "rectangle"', 'the other one');
is(told('GET', 'same?x=1'), 'Could not choose the best candidate function between: public.same(x => integer), public.same(x => text) |  | '
	. 'Try renaming the parameters or the function itself in the database so function overloading can be resolved', 'two that fit');
like(told('GET', 'alike'), qr/between: public\.alike\(x => public\.mood\), public\.alike\(x => text, y => integer\) /, '... with the schemas of types, the shorter first');
is(told('GET', 'area?w=1&hh=2'), 'Could not find the function public.area(hh, w) in the schema cache | Searched for the function public.area'
	. ' with parameters hh, w, but no matches were found in the schema cache. | Perhaps you meant to call the function public.area(h, w)', 'a hint');
is(told('GET', 'secret_area?widen=1') =~ /\| $/ ? 'none' : 'some', 'none', 'no hint of what the role may not call');
is(got('GET', 'secret_area?wide=1'), '401 42501', 'which Postgres refuses');
is(got('POST', 'as_text', '{"a":1}'), '404 PGRST202', 'text is not JSON');
is(got('POST', 'as_text', '{"":"a"}'), '200 8', 'an argument without a name, as generated clients write it: the whole body, as PostgREST has it');
is(got('POST', 'as_bytes', '{"":"ab"}'), '200 9', '... as bytes');
is(got('POST', 'as_json', '{"":1}'), '200 "object"', '... as JSON');
is(got('POST', 'mixed', '{"":1}'), '200 "text {\"\":1}"', '... of overloads the one that takes a body');
is(got('POST', 'mixed', '{"":1,"a":2}'), '404 PGRST202', '... and no other key');
is(got('GET', 'as_text?=a'), '404 PGRST202', '... and no query string');
is(got('POST', 'as_text', "\"\"\na\n", 'Content-Type' => 'text/csv'), '404 PGRST202', '... and no CSV');
is(got('POST', 'area', '{"":1}'), '404 PGRST202', '... to a function whose arguments have names');
is(got('POST', 'unnamed_int', '{"":1}'), '404 PGRST202', '... to one that takes no body');
is(got('POST', 'unnamed_int', '{}'), '200 1', 'which is called by its default');
is(told('POST', 'mixed', '{}'), 'Could not choose the best candidate function between: public.mixed(), public.mixed( => text) |  | '
	. 'Try renaming the parameters or the function itself in the database so function overloading can be resolved', 'but is no candidate beside others');
is(got('DELETE', 'area'), '405 PGRST101', 'another method');
is(call('OPTIONS', 'area')->{headers}{allow}, 'OPTIONS,GET,HEAD,POST', 'OPTIONS');
is(call('OPTIONS', 'counted')->{headers}{allow}, 'OPTIONS,POST', 'OPTIONS of a volatile one');
for my $case ([ 'turn', 'POST' ], [ 'turn?a=1', 'GET,HEAD,POST' ], [ 'turn?a=1&b=2', 'POST' ], [ 'turn?b=2', '404' ], [ 'either?a=1', 'POST' ],
	[ 'either?b=1', 'GET,HEAD,POST' ], [ 'either', 'GET,HEAD,POST' ], [ 'as_text', 'GET,HEAD,POST' ], [ 'same?x=1', '300' ], [ 'alike', '300' ], [ 'nowhere', '404' ], [ 'pets?id=eq.1&low=1', 'GET,HEAD,POST' ],
	[ 'orion_uid', 'GET,HEAD,POST' ])
{
	my $options = call('OPTIONS', $case->[0]);
	is($options->{status} == 200 ? $options->{headers}{allow} =~ s/^OPTIONS,//r : $options->{status}, $case->[1], "OPTIONS $case->[0]");
}

# --- bodies without names of arguments, and several objects
for my $type ('text/plain', 'application/octet-stream', 'text/xml')
{
	is(got('POST', 'filled', 'x', 'Content-Type' => $type), '200 12', "$type is nothing to a function that needs nothing");
	is(got('POST', $_, 'x', 'Content-Type' => $type), '404 PGRST202', "... nor does $_ take it") for 'area', 'nought';
}
is(got('POST', 'raw', 'x', 'Content-Type' => 'text/plain'), '200 "whole"', 'who takes the whole body comes first');
is(got('POST', 'raw', 'x', 'Content-Type' => 'text/xml'), '200 "default"', '... if it is the kind of body');
is(got('POST', 'area', '[{"w":3},{"w":4,"h":1}]'), '400 PGRST102', 'objects of different keys');
is(got('POST', 'area', '[{"w":3},4]'), '400 PGRST102', 'an object and a number');
is(got('POST', 'nought', '[4]'), '400 PGRST102', 'an array of no objects');
is(got('POST', 'nought', $_), '200 0', "no arguments: $_") for '[]', '4', '[{},{}]';
is(got('POST', 'area?columns=w', '[{"w":3},{"h":1}]'), '200 6', '... which columns= allows');
is(got('POST', 'raises?columns=m', '[]'), '204', 'no object is no call');
is(got('POST', 'area?columns=w', '[]'), '200 null', '... and no value');
is(got('POST', 'area?columns=w', '{}'), '200 null', 'an object without the key is one');
is(got('POST', 'area?columns=w', $_->[0]), "400 $_->[1]", "columns= of $_->[0]") for [ '5', '22023' ], [ '', 'PGRST102' ];
is(got('POST', 'area?columns=w', '{"w":2}', 'Content-Type' => 'application/vnd.pgrst.object+json'), '200 4', 'an object by its own media type');
is(got('POST', 'nought', '', 'Content-Type' => $_), '400 PGRST102', "nothing as $_") for 'image/png', 'text/csv';
is(got('GET', "joined?sep=-&parts=$_"), qq(200 "$_"), "an argument $_") for 'not.yet', 'in.5', 'is.it';

# --- rows
is(got('GET', 'pets?low=2&id=lt.3&select=name,owner(name)'), '200 [{"name":"tom","owner":{"name":"ann"}}]', 'filters and embedding');
is(got('GET', 'pets?id=gt.1&id=lt.3&select=id'), '200 [{"id":2}]', 'filters of one name');
is(got('POST', 'pets?order=id.desc&limit=1&select=id', '{}'), '200 [{"id":3}]', 'order and limit');
my $answer = call('POST', 'counted?limit=2&order=n', undef, Prefer => 'count=exact');
is("$answer->{status} $answer->{headers}{'content-range'}", '206 0-1/3', 'rows are counted');
is($node->safe_psql('postgres', 'SELECT last_value FROM calls'), '3', 'by one call');
is(call('GET', 'area?w=1', undef, Prefer => 'count=exact')->{headers}{'content-range'}, '0-0/1', 'one value counts as one');
is(got('GET', 'counted'), '405 25006', 'GET does not write');
is(got('POST', 'drop_pets', undef, Prefer => 'handling=strict, max-affected=2'), '400 PGRST124', 'max-affected');
is(got('POST', 'area', '{"w":1}', Prefer => 'handling=strict, max-affected=2'), '400 PGRST128', 'max-affected without a set');
is($node->safe_psql('postgres', 'SELECT count(*) FROM pet'), '3', 'nothing went');

# --- errors
$answer = call('POST', 'raises', '{"m":"{\"code\":\"7\",\"message\":\"no\",\"hint\":\"h\"}","d":"{\"status\":418,\"headers\":{\"X-Tea\":\"pot\"}}"}');
is("$answer->{status} $answer->{headers}{'x-tea'} $answer->{headers}{'proxy-status'} $answer->{body}",
	'418 pot PostgREST; error=7 {"code":"7","details":null,"hint":"h","message":"no"}', 'a whole answer raised');
is(got('POST', 'raises', $_), '500 PGRST121', "not an answer: $_")
	for '{"m":"x","d":"{}"}', '{"m":"{\"code\":\"7\",\"message\":\"no\"}","d":"x"}', '{"m":"{\"code\":\"7\",\"message\":\"no\"}"}',
	'{"m":"{\"code\":\"7\"}","d":"{\"status\":418,\"headers\":{}}"}', '{"m":"{\"code\":\"7\",\"message\":\"no\"}","d":"{\"status\":99,\"headers\":{}}"}',
	'{"m":"{\"code\":\"7\",\"message\":\"no\"}","d":"{\"status\":418,\"headers\":{\"X\":\"a\\\\r\\\\nSet-Cookie: b\"}}"}';
my %status = ('08000' => 503, '09000' => 500, '0L000' => 403, '0P000' => 403, '23503' => 409, '23505' => 409, '23502' => 400, '25006' => 405,
	'25001' => 500, '28000' => 403, '2D000' => 500, '38000' => 500, '39000' => 500, '3B000' => 500, '40001' => 500, '42883' => 404, '42P01' => 404,
	'42P17' => 500, '42501' => 401, '42601' => 400, '53400' => 500, '53100' => 503, '54000' => 500, '55000' => 500, '57014' => 500, '58000' => 500,
	'F0000' => 500, 'HV000' => 500, 'P0001' => 400, 'P0002' => 500, 'XX000' => 500, 'PT499' => 499, 'PT999' => 500, '22000' => 400);
for my $state (sort keys %status)
{
	$answer = call('POST', 'fails', qq({"state":"$state"}));
	is("$answer->{status} $answer->{headers}{'proxy-status'}", "$status{$state} PostgREST; error=$state", "SQLSTATE $state");
}

# --- settings of the function count for the transaction
is(got('POST', 'isolation'), '200 "serializable"', 'isolation');
is(got('POST', 'hurried'), '500 57014', 'statement_timeout');
is(got('GET', 'area?w=1'), '200 2', 'and for no other');

$node->stop;
done_testing();
