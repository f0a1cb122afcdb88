# Embedding: relationships of every kind, hints, inner joins, spread, filters on what
# is embedded, computed relationships, aggregates; and DDL that the next request sees.
use strict;
use warnings;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use OrionHttp;

my ($node, $port) = OrionHttp::server('embed', qq{
orion.executor_count = 1
orion.rest_schemas = 'library'
});
$node->safe_psql('postgres', q{
CREATE EXTENSION orion;
CREATE SCHEMA library;
CREATE SCHEMA hidden;
CREATE TABLE library.towns (id int PRIMARY KEY, name text);
CREATE TABLE library.people (id int PRIMARY KEY, name text, boss int REFERENCES library.people, town int REFERENCES library.towns, doc jsonb);
CREATE TABLE library.books (id int PRIMARY KEY, title text, year int, writer int REFERENCES library.people, reader int REFERENCES library.people);
CREATE TABLE library.tags (id int PRIMARY KEY, word text);
CREATE TABLE library.book_tags (book int REFERENCES library.books, tag int REFERENCES library.tags, PRIMARY KEY (book, tag));
CREATE TABLE library.covers (book int PRIMARY KEY REFERENCES library.books, colour text);
CREATE TABLE hidden.base (id int PRIMARY KEY, label text, home int REFERENCES library.towns);
CREATE VIEW library.shown AS SELECT id AS number, label, home AS place FROM hidden.base;
CREATE VIEW library.twice AS SELECT s.number, s.place AS spot FROM library.shown s;
CREATE TABLE hidden.seen (person int REFERENCES library.people, tag int REFERENCES library.tags, PRIMARY KEY (person, tag));
CREATE VIEW library.likes AS SELECT person AS who, tag AS what FROM hidden.seen;
INSERT INTO library.towns VALUES (1, 'Ulm'), (2, 'Bonn'), (3, 'Empty');
INSERT INTO library.people VALUES (1, 'Ann', NULL, 1, '{"a":{"b":[10,20]}}'), (2, 'Bob', 1, 2, '{"a":{"b":[30]}}'), (3, 'Cem', 1, NULL, NULL);
INSERT INTO library.books VALUES (1, 'One', 2001, 1, 2), (2, 'Two', 2002, 1, NULL), (3, 'Three', 2001, 2, 1);
INSERT INTO library.tags VALUES (1, 'red'), (2, 'blue');
INSERT INTO library.book_tags VALUES (1, 1), (1, 2), (2, 2);
INSERT INTO library.covers VALUES (1, 'green');
INSERT INTO hidden.base VALUES (7, 'seven', 2);
INSERT INTO hidden.seen VALUES (1, 2), (1, 1);
CREATE FUNCTION library.fame(library.people) RETURNS text LANGUAGE sql STABLE AS $$ SELECT 'famous ' || $1.name $$;
CREATE FUNCTION library.neighbours(library.people) RETURNS SETOF library.people LANGUAGE sql STABLE AS $$ SELECT * FROM library.people p WHERE p.id <> $1.id $$;
CREATE FUNCTION library.first_book(library.people) RETURNS SETOF library.books ROWS 1 LANGUAGE sql STABLE AS $$ SELECT * FROM library.books WHERE writer = $1.id ORDER BY id LIMIT 1 $$;
GRANT USAGE ON SCHEMA library TO orion_anon;
GRANT SELECT ON ALL TABLES IN SCHEMA library TO orion_anon;
});
OrionHttp::await($port, '/ready', 200);

# The answer as "status body" of a path, spaces of json_agg aside.
sub get
{
	my ($path, %headers) = @_;
	my $answer = OrionHttp::request($port, 'GET', "/rest/v1/$path", \%headers);
	my $body = $answer->{body} =~ s/, \n /,/gr;
	return "$answer->{status} $body";
}

# "status code" of a refusal.
sub refusal
{
	my $answer = OrionHttp::request($port, 'GET', "/rest/v1/$_[0]", {});
	return "$answer->{status} " . decode_json($answer->{body})->{code};
}

# --- kinds of relationships
is(get('books?select=title,people!writer(name)&order=id&limit=2'),
	'200 [{"title":"One","people":{"name":"Ann"}},{"title":"Two","people":{"name":"Ann"}}]', 'to-one');
is(get('people?select=name,books!writer(title)&order=id&books.order=id.desc'),
	'200 [{"name":"Ann","books":[{"title":"Two"},{"title":"One"}]},{"name":"Bob","books":[{"title":"Three"}]},{"name":"Cem","books":[]}]', 'to-many, ordered');
is(get('books?select=title,tags(word)&order=id&tags.order=word'),
	'200 [{"title":"One","tags":[{"word":"blue"},{"word":"red"}]},{"title":"Two","tags":[{"word":"blue"}]},{"title":"Three","tags":[]}]', 'many-to-many');
is(get('books?select=id,covers(colour)&order=id&limit=2'), '200 [{"id":1,"covers":{"colour":"green"}},{"id":2,"covers":null}]', 'one-to-one');
is(get('people?select=name,people(name)&id=eq.1&people.order=id'), '200 [{"name":"Ann","people":[{"name":"Bob"},{"name":"Cem"}]}]', 'itself, to-many');
is(get('people?select=name,boss(name)&id=eq.2'), '200 [{"name":"Bob","boss":{"name":"Ann"}}]', 'itself, to-one by column');
is(get('shown?select=number,towns(name)'), '200 [{"number":7,"towns":{"name":"Bonn"}}]', 'from a view of a hidden table');
is(get('towns?select=name,twice(number)&id=eq.2'), '200 [{"name":"Bonn","twice":[{"number":7}]}]', 'to a view of a view');
is(get('people?select=name,neighbours(id)&id=eq.1&neighbours.order=id'), '200 [{"name":"Ann","neighbours":[{"id":2},{"id":3}]}]', 'computed, to-many');
is(get('people?select=name,first_book(title)&order=id.desc&limit=2'), '200 [{"name":"Cem","first_book":null},{"name":"Bob","first_book":{"title":"Three"}}]', 'computed, to-one');
is(get('people?select=name,fame&fame=like.*Ann'), '200 [{"name":"Ann","fame":"famous Ann"}]', 'a computed column');

is(get('people?select=name,tags!likes(word)&id=eq.1&tags.order=word'), '200 [{"name":"Ann","tags":[{"word":"blue"},{"word":"red"}]}]', 'many-to-many over a view');

# --- names
is(get('books?select=by:books_writer_fkey(name),reader(name)&id=eq.1'), '200 [{"by":{"name":"Ann"},"reader":{"name":"Bob"}}]', 'by constraint and by column, with an alias');
is(get('towns?select=name,people(name,books!reader(title,tags(word)))&id=eq.2'),
	'200 [{"name":"Bonn","people":[{"name":"Bob","books":[{"title":"One","tags":[{"word":"red"},{"word":"blue"}]}]}]}]', 'nested');
is(refusal('books?select=people(name)'), '300 PGRST201', 'two relationships are too many');
is(refusal('towns?select=tags(word)'), '400 PGRST200', 'none are too few');
is(refusal('books?select=id&people.name=eq.x'), '400 PGRST108', 'a filter of what is not embedded');

# --- what is embedded decides
is(get('people?select=name,books!writer!inner(title)&order=id'), '200 [{"name":"Ann","books":[{"title":"One"},{"title":"Two"}]},{"name":"Bob","books":[{"title":"Three"}]}]', 'inner');
is(get('people?select=name,books!writer!inner(title)&books.year=eq.2002'), '200 [{"name":"Ann","books":[{"title":"Two"}]}]', 'inner with a filter');
is(get('people?select=name,books!writer()&books=is.null'), '200 [{"name":"Cem"}]', 'those without');
is(get('people?select=name,books!writer(),towns()&or=(books.is.null,towns.not.is.null)&order=id'), '200 [{"name":"Ann"},{"name":"Bob"},{"name":"Cem"}]', 'in a group');
is(get('people?select=name,books!writer(title)&books.or=(year.eq.2002,title.eq.Three)&order=id&limit=1'), '200 [{"name":"Ann","books":[{"title":"Two"}]}]', 'a group inside');
is(get('people?select=name,books!writer(title)&id=eq.1&books.order=id&books.limit=1&books.offset=1'), '200 [{"name":"Ann","books":[{"title":"Two"}]}]', 'limit and offset inside');
is(get('books?select=title,writer:people!writer(id)&order=writer(name).desc,id'), '200 [{"title":"Three","writer":{"id":2}},{"title":"One","writer":{"id":1}},{"title":"Two","writer":{"id":1}}]', 'sorted by a to-one column that is not shown');
is(refusal('people?select=books!writer(id)&order=books(title)'), '400 PGRST118', 'not by a to-many one');

# --- spread
is(get('books?select=title,...people!writer(who:name,...towns(town:name))&id=eq.3'), '200 [{"title":"Three","who":"Bob","town":"Bonn"}]', 'spread to-one, twice');
is(get('people?select=name,...books!writer(titles:title)&order=id&books.order=id.desc'), '200 [{"name":"Ann","titles":["Two", "One"]},{"name":"Bob","titles":["Three"]},{"name":"Cem","titles":[]}]', 'spread to-many');
is(get('books?select=id,...people!writer(*)&id=eq.3'), '200 [{"id":3,"id":2,"name":"Bob","boss":1,"town":2,"doc":{"a": {"b": [30]}}}]', 'spread of all columns');

# --- paths into JSON
is(get('people?select=doc->a->b->0,last:doc->a->b->>-1&doc->a->b->>0=eq.10'), '200 [{"b":10,"last":"20"}]', 'paths');
is(get('people?select=id&order=doc->a->b->0.desc.nullslast'), '200 [{"id":2},{"id":1},{"id":3}]', 'order by a path');
is(get('people?select=id,books!writer(id)&books.title=fts.three&id=eq.2'), '200 [{"id":2,"books":[{"id":3}]}]', 'text search');
is(get('books?select=id&title=wfts(english).one%20or%20two&order=id'), '200 [{"id":1},{"id":2}]', 'text search with a language');

# --- aggregates
is(refusal('books?select=count()'), '400 PGRST123', 'off by default');
$node->append_conf('postgresql.conf', 'orion.rest_aggregates_enabled = on');
$node->reload;
$node->poll_query_until('postgres', "SELECT current_setting('orion.rest_aggregates_enabled')::bool");
for (1 .. 600) { last if get('books?select=count()') =~ /^200/; select undef, undef, undef, 0.05; }
is(get('books?select=count()'), '200 [{"count":3}]', 'count');
is(get('books?select=year,n:id.count(),id.sum()::text&order=year'), '200 [{"year":2001,"n":2,"sum":"4"},{"year":2002,"n":1,"sum":"2"}]', 'groups');
is(get('people?select=name,books!writer(year.max())&order=id&limit=1'), '200 [{"name":"Ann","books":[{"max":2002}]}]', 'inside');
is(get('books?select=n:count(),...people!writer(name)&order=people(name)'), '200 [{"n":2,"name":"Ann"},{"n":1,"name":"Bob"}]', 'by a spread column');
is(get('book_tags?select=tag,...books(last:year.max())&order=tag'), '200 [{"tag":1,"last":2001},{"tag":2,"last":2002}]', 'of a spread column');

# --- DDL is visible at once
is(refusal('towns?select=tags(word)'), '400 PGRST200', 'not related');
$node->safe_psql('postgres', 'ALTER TABLE library.tags ADD town int REFERENCES library.towns DEFAULT 3');
is(get('towns?select=tags(word)&id=eq.3&tags.order=id'), '200 [{"tags":[{"word":"red"},{"word":"blue"}]}]', 'related to the very next request');
$node->safe_psql('postgres', 'ALTER TABLE library.tags DROP COLUMN town');
is(refusal('towns?select=tags(word)'), '400 PGRST200', 'and no more');

# --- everything that wants to be SQL
for my $nasty (q{x" FROM pg_authid --}, q{'; DROP TABLE library.tags; --}, q{a\\"b}, q{/* */}, q{$1})
{
	my $text = $nasty =~ s/([^A-Za-z0-9])/sprintf('%%%02X', ord $1)/ger;
	my $quoted = $nasty =~ s/(["\\\\])/\\$1/gr =~ s/([^A-Za-z0-9])/sprintf('%%%02X', ord $1)/ger;

	like(get("people?select=%22$quoted%22(id)"), qr/^400 .*PGRST200/, "no relation [$nasty]");
	like(get("people?select=id,t:towns!%22$quoted%22(id)"), qr/^400 .*PGRST200/, "no hint [$nasty]");
	is(get("people?select=%22$quoted%22:towns(id)&id=eq.1"), '200 ' . JSON::PP->new->canonical->encode([{$nasty => {id => 1}}]), "an alias [$nasty]");
	is(get("people?select=v:doc->%22$quoted%22&id=eq.1"), '200 [{"v":null}]', "a key [$nasty]");
	like(get("books?select=id&title=fts(%22$quoted%22).x"), qr/^40[04] /, "no configuration [$nasty]");
}
is($node->safe_psql('postgres', 'SELECT count(*) FROM library.tags'), '2', 'nothing is lost');
$node->stop;
done_testing();
