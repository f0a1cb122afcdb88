# ETag, If-Match and If-None-Match: reading what changed, and writing only what was seen.
use strict;
use warnings;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use OrionHttp;
use OrionServices;

my ($node, $port) = OrionHttp::server('etag', qq{
orion.executor_count = 3
orion.rest_schemas = 'public'
});
$node->safe_psql('postgres', q{
CREATE EXTENSION orion;
CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.4) WHERE NEW.name LIKE 'slow%'; RETURN NEW; END $$;
CREATE TABLE docs (id int PRIMARY KEY, name text, version bigint NOT NULL DEFAULT 1);
CREATE TRIGGER a BEFORE UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION slowly();
CREATE TRIGGER bump BEFORE UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION orion_version_bump();
CREATE VIEW docs_view AS SELECT * FROM docs;
CREATE TABLE notes (id int PRIMARY KEY, name text, doc int REFERENCES docs);
CREATE TRIGGER a BEFORE UPDATE ON notes FOR EACH ROW EXECUTE FUNCTION slowly();
CREATE TABLE bare (id int PRIMARY KEY, name text, version bigint NOT NULL DEFAULT 1);
CREATE TABLE odd (id int PRIMARY KEY, version text);
INSERT INTO docs VALUES (1, 'a'), (2, 'b');
INSERT INTO notes VALUES (1, 'x', 1), (2, 'y', 1);
INSERT INTO bare VALUES (1, 'a');
INSERT INTO odd VALUES (1, '7');
GRANT ALL ON docs, docs_view, notes, bare, odd TO orion_anon;
CREATE FUNCTION kept() RETURNS int LANGUAGE sql STABLE AS $$ SELECT set_config('response.headers', '[{"Cache-Control": "max-age=60"}]', true); SELECT 1 $$;
CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql STABLE AS 'SELECT n * 2';
});
ok(OrionHttp::await($port, '/ready', 200), 'ready');

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub ask
{
	my ($method, $path, $body, %headers) = @_;
	$headers{'Content-Type'} = 'application/json' if defined $body;
	return scalar OrionHttp::request($port, $method, "/rest/v1/$path", { map { $_ => $headers{$_} } grep { defined $headers{$_} } keys %headers }, $body);
}
sub tag { return ask('GET', $_[0], undef, @_[1 .. $#_])->{headers}{etag}; }
sub status { return ask(@_)->{status}; }
sub code { my $a = ask(@_); return $a->{body} =~ /"code":"(\w+)"/ ? "$a->{status} $1" : $a->{status}; }
my $one = 'application/vnd.pgrst.object+json';

# --- reading
my $row = tag('docs?id=eq.1');
like($row, qr/^"v1\.[0-9a-f]{32}"$/, 'the tag of a row has its version');
is(tag('docs?id=eq.1'), $row, '... and stays');
like(tag('docs?id=eq.1', Accept => $one), qr/^"v1\.[0-9a-f]{32}"$/, 'of an object too');
isnt(tag('docs?id=eq.1', Accept => $one), $row, '... but it is another one');
like(tag('docs_view?id=eq.1'), qr/^"v1\./, 'of a view');
like(tag('docs'), qr/^"[0-9a-f]{32}"$/, 'a list has none');
like(tag($_), qr/^"[0-9a-f]{32}"$/, "no version: $_")
  for 'docs?id=eq.1&select=name', 'docs?id=eq.1&select=version:name', 'docs?id=eq.1&select=id,version:id', 'notes?id=eq.1', 'bare?id=eq.1', 'odd?id=eq.1', 'rpc/twice?n=2';
like(tag('docs?id=eq.1', Accept => 'text/csv'), qr/^"[0-9a-f]{32}"$/, 'no version: CSV');
isnt(tag('docs?id=eq.9', Accept => 'text/csv'), tag('docs?id=eq.9'), 'forms of nothing differ');
is(ask('HEAD', 'docs?id=eq.1')->{headers}{etag}, $row, 'HEAD has the tag of GET');

my $not = ask('GET', 'docs?id=eq.1', undef, 'If-None-Match' => $row);
is("$not->{status} $not->{body} $not->{headers}{etag}", "304  $row", 'If-None-Match with the tag: 304 without a body');
is(status('GET', 'docs?id=eq.1', undef, 'If-None-Match' => $_->[0]), $_->[1], "If-None-Match: $_->[0]")
  for ["W/$row", 304], ['*', 304], ["\"x\", W/\"y\" ,$row", 304], ['"x"', 200], ['"v1.x"', 200], ['', 200], ['nonsense', 400], ['"open', 400], ['"a" "b"', 400], ['w/"a"', 400], [join(',', ('"a"') x 101), 400];
is(ask(@$_)->{headers}{'cache-control'}, 'no-cache', "caches are to ask again, not to reuse what has a tag: $_->[0] $_->[1]")
  for ['GET', 'docs?id=eq.1'], ['HEAD', 'docs?id=eq.1'], ['GET', 'docs'], ['GET', 'rpc/twice?n=2'], ['GET', ''];
is($not->{headers}{'cache-control'}, 'no-cache', '... and a 304 says so again');
is(ask('GET', 'rpc/kept')->{headers}{'cache-control'}, 'max-age=60', '... unless SQL says otherwise');
is(status('HEAD', 'docs?id=eq.1', undef, 'If-None-Match' => $row), 304, 'HEAD too');
is(status('GET', 'docs?id=eq.1', undef, 'If-Match' => $row), 200, 'GET with If-Match');
is(code('GET', 'docs?id=eq.1', undef, 'If-Match' => "W/$row"), '412 ORION412', '... is strong');
is(code('GET', 'docs?id=eq.1', undef, 'If-Match' => '"x"', 'If-None-Match' => $row), '412 ORION412', '... and goes first');
my $embedded = tag('docs?id=eq.1&select=*,notes(name)');
sql("UPDATE notes SET name = 'z' WHERE id = 1");
is(status('GET', 'docs?id=eq.1&select=*,notes(name)', undef, 'If-None-Match' => $embedded), 200, 'what is embedded is a part of the tag');
sql("INSERT INTO docs VALUES (3, 'c')");
is(code('GET', 'docs?id=eq.99', undef, Accept => $one, 'If-None-Match' => '*'), '406 PGRST116', 'errors have no tag');

# --- writing by version
is(status('PATCH', 'docs?id=eq.1', '{"name":"b"}', 'If-Match' => $row), 204, 'PATCH with the tag');
is(code('PATCH', 'docs?id=eq.1', '{"name":"c"}', 'If-Match' => $row), '412 ORION412', '... once');
is(code('DELETE', 'docs?id=eq.1', undef, 'If-Match' => $row), '412 ORION412', 'nor DELETE');
is(sql('SELECT name, version FROM docs WHERE id = 1'), 'b|2', '... which do nothing');
my $answer = ask('PATCH', 'docs?id=eq.1', '{"name":"c"}', 'If-Match' => tag('docs?id=eq.1&select=id,version'), Prefer => 'return=representation');
is($answer->{status}, 200, 'the tag of another selection of the row is as good');
is($answer->{headers}{etag}, tag('docs?id=eq.1'), 'the representation comes with its new tag');
is(code('PATCH', 'docs?id=eq.1', '{"name":"d"}', 'If-Match' => $_), '412 ORION412', "If-Match: $_") for 'W/' . tag('docs?id=eq.1'), '"v2.x"', '"3"', '"v3"', '"v-3.x"', '"v99999999999999999999.x"', '';
is(status('PATCH', 'docs?id=eq.1', '{"name":"d"}', 'If-Match' => '"v1.a", "v3.b"'), 204, 'one of a list');
is(status('PATCH', 'docs_view?id=eq.1', '{"name":"e"}', 'If-Match' => '"v4.b"'), 204, 'through a view');
is(code('PATCH', 'docs_view?id=eq.1', '{"name":"e"}', 'If-Match' => '"v4.b"'), '412 ORION412', '... once');
is(code('PATCH', 'docs?id=lt.9', '{"name":"e"}', 'If-Match' => '"v5.b"'), '412 ORION412', 'the tag of a row is no condition on several');
is(code('PATCH', 'docs?id=eq.99', '{"name":"e"}', 'If-Match' => '"v5.b"'), '412 ORION412', '... nor on none');
is(code('PATCH', 'docs?id=eq.99', '{"name":"e"}', 'If-Match' => '*'), '412 ORION412', 'If-Match: * needs a row');
is(status('PATCH', 'docs?id=eq.1', '{"name":"f"}', 'If-Match' => '*'), 204, '... and any will do');
is(code('PATCH', 'docs?id=eq.1', '{"name":"e"}', 'If-Match' => 'v6'), '400 ORION400', 'what is no tag is refused');
is(code('PATCH', 'docs?id=eq.1', '{"name":"e"}', 'If-Match' => '"v6.\'); DROP TABLE docs; --"'), 204, 'a tag is never SQL');
is(status('DELETE', 'docs?id=eq.2', undef, 'If-Match' => tag('docs?id=eq.2')), 204, 'DELETE');
is(status('PATCH', 'docs?id=eq.1', '{"name":"g"}', 'If-Match' => tag('docs?id=eq.1'), Prefer => 'tx=rollback,return=representation,max-affected=1,handling=strict'), 200, 'with preferences');

# --- PUT
is(code('PUT', 'docs?id=eq.1', '{"id":1,"name":"p"}', 'If-Match' => '"v1.x"'), '412 ORION412', 'PUT with an old tag');
is(status('PUT', 'docs?id=eq.1', '{"id":1,"name":"p"}', 'If-Match' => tag('docs?id=eq.1')), 204, 'PUT with the tag');
is(code('PUT', 'docs?id=eq.50', '{"id":50,"name":"p"}', 'If-Match' => $_), '412 ORION412', "PUT of a new row with If-Match: $_") for '*', '"v1.x"', '"x"';
is(sql('SELECT count(*) FROM docs WHERE id = 50'), 0, '... makes none');
is(status('PUT', 'docs?id=eq.50', '{"id":50,"name":"p"}', 'If-None-Match' => '*'), 204, 'PUT of a new row with If-None-Match: *');
is(code('PUT', 'docs?id=eq.50', '{"id":50,"name":"q"}', 'If-None-Match' => '*'), '412 ORION412', '... only once');
is(sql('SELECT name FROM docs WHERE id = 50'), 'p', '... and it stays');
is(status('PUT', 'notes?id=eq.2', '{"id":2,"name":"p"}', 'If-Match' => tag('notes?id=eq.2')), 204, 'PUT without a version');
is(code('PUT', 'notes?id=eq.2', '{"id":2,"name":"p"}', 'If-Match' => '"x"'), '412 ORION412', '... with another tag');

# --- writing by content
$row = tag('notes?id=eq.1');
is(status('PATCH', 'notes?id=eq.1', '{"name":"n1"}', 'If-Match' => $row), 204, 'without a version the content counts');
is(code('PATCH', 'notes?id=eq.1', '{"name":"n2"}', 'If-Match' => $row), '412 ORION412', '... and it has changed');
is(status('PATCH', 'notes?id=eq.1', '{"name":"n2"}', 'If-Match' => tag('notes?id=eq.1', Accept => $one)), 204, 'the tag of the object will do');
is(status('PATCH', 'notes?id=eq.1&select=name', '{"name":"n3"}', 'If-Match' => tag('notes?id=eq.1&select=name')), 204, 'of the same selection');
is(code('PATCH', 'notes?id=eq.1', '{"name":"n4"}', 'If-Match' => tag('notes?id=eq.1&select=name')), '412 ORION412', '... but of no other');
my $list = tag('notes?id=gt.0');
is(status('PATCH', 'notes?id=gt.0', '{"name":"all"}', 'If-Match' => $list), 204, 'a list');
is(code('DELETE', 'notes?id=gt.0', undef, 'If-Match' => $list), '412 ORION412', '... that has changed');
is(code('PATCH', 'notes?id=eq.1', '{"name":"n"}', 'If-None-Match' => tag('notes?id=eq.1')), '412 ORION412', 'If-None-Match of a write');
is(code('PATCH', 'notes?id=eq.1', '{"name":"n"}', 'If-None-Match' => '*'), '412 ORION412', '... with *');
my $versioned = tag('bare?id=eq.1');
is(status('PATCH', 'bare?id=eq.1', '{"name":"b"}', 'If-Match' => $versioned), 204, 'a version that nothing counts');
is(code('PATCH', 'bare?id=eq.1', '{"name":"c"}', 'If-Match' => $versioned), '412 ORION412', '... is not relied on');
is(code('PATCH', 'bare?id=eq.1', '{"name":"c"}', 'If-Match' => '"v1.x"'), '412 ORION412', '... nor taken from a tag');

# --- at the same time
sub start
{
	my ($method, $path, $body, %headers) = @_;
	my $s = OrionHttp::connection($port);
	syswrite($s, "$method /rest/v1/$path HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Type: application/json\r\n" . join('', map { "$_: $headers{$_}\r\n" } keys %headers) . 'Content-Length: ' . length($body) . "\r\n\r\n$body");
	return $s;
}
sub statuses { return join ' ', sort map { OrionHttp::parse(OrionHttp::receive($_, sub { 0 }))->{status} } @_; }
for my $table ('docs', 'notes')
{
	my $tag = tag("$table?id=eq.1");
	is(statuses(map { start('PATCH', "$table?id=eq.1", "{\"name\":\"slow $_\"}", 'If-Match' => $tag) } 1 .. 3), '204 412 412', "$table: of three writers with one tag one wins");
	$tag = tag("$table?id=eq.1");
	my $plain = start('PATCH', "$table?id=eq.1", '{"name":"slow a"}');
	$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'});
	is(code('PATCH', "$table?id=eq.1", '{"name":"b"}', 'If-Match' => $tag), '412 ORION412', "$table: one that comes while another without a condition is writing");
	is(statuses($plain), '204', '... which was not disturbed');
}
is(statuses(map { start('PUT', 'docs?id=eq.60', "{\"id\":60,\"name\":\"$_\"}", 'If-None-Match' => '*') } 1 .. 3), '204 412 412', 'of three that make a row one does');

# --- 428
$node->append_conf('postgresql.conf', 'orion.rest_require_if_match = on');
$node->reload;
$node->poll_query_until('postgres', q{SELECT current_setting('orion.rest_require_if_match') = 'on'});
OrionServices::poll_until(sub { status('PATCH', 'docs?id=eq.60', '{"name":"u"}') == 428 });
is(code(@$_), '428 ORION428', "$_->[0] needs a condition") for ['PATCH', 'docs?id=eq.60', '{"name":"u"}'], ['PUT', 'docs?id=eq.60', '{"id":60,"name":"u"}'], ['DELETE', 'docs?id=eq.60'];
is(status('PATCH', 'docs?id=eq.60', '{"name":"u"}', 'If-Match' => tag('docs?id=eq.60')), 204, '... and has one');
is(status('PATCH', 'notes?id=eq.1', '{"name":"u"}'), 204, 'not where no version is counted');
is(status('POST', 'docs', '{"id":70,"name":"u"}'), 201, 'nor a POST');

$node->stop;
done_testing();
