# A read of a table tells its settings (request.*, role) only where a statement could ask
# for them. One executor serves it all, and each question is asked so often that its kept
# plan, and what was found out about it, is in use: whoever asks has an answer of this very
# request, after changes of what the statement is made of as well, and nothing is left for
# the next one.
use strict;
use warnings;
use JSON::PP;
use OrionHttp;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

my $secret = 'a secret of more than thirty-two bytes';
my ($ann, $bob) = map { "00000000-0000-4000-8000-00000000000$_" } 1, 2;
my $times = 10;    # the first five plans with parameters are made for their values, the sixth is kept
my ($node, $port) = OrionHttp::server('settings_told', qq{
orion.executor_count = 1
orion.rest_schemas = 'public, other'
orion.rest_extra_search_path = 'extra'
orion.rest_root_spec = 'look'
orion.rest_aggregates_enabled = on
orion.jwt_secret = '$secret'
});

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub ask { my ($path, $headers, $method, $body) = @_; return scalar OrionHttp::request($port, $method // 'GET', $path =~ m{^/} ? $path : "/rest/v1/$path", $headers // {}, $body); }

my %tokens;
sub as
{
	my ($who, %headers) = @_;
	my ($role, $sub) = @{ { ann => [ 'member', $ann ], bob => [ 'member', $bob ], guest => ['guest'], slow => ['slow'] }->{$who} };
	my $claims = encode_json({ role => $role, $sub ? (sub => $sub) : () });
	return { %headers, Authorization => 'Bearer ' . ($tokens{$who} //= OrionHttp::token($claims, $secret)) };
}

# What an answer says: its value if it is one row of one column, else the body, or the error's code.
sub gist
{
	my ($answer) = @_;
	my $json = eval { JSON::PP->new->utf8->canonical->allow_nonref->decode($answer->{body}) };
	return "$answer->{status} $json->{code}" if ref $json eq 'HASH' && $answer->{status} >= 300;
	return $answer->{body} unless ref $json eq 'ARRAY' && @$json == 1 && ref $json->[0] eq 'HASH' && keys %{ $json->[0] } == 1;
	my ($value) = values %{ $json->[0] };
	return ref $value || !defined $value ? $answer->{body} : $value;
}

# Asked again and again, with the answer wanted each time.
sub always
{
	my ($want, $name, @request) = @_;
	my %got;
	$got{ gist(ask(@request)) }++ for 1 .. $times;
	return is(join(' | ', sort keys %got), $want, $name);
}

sub reload
{
	my ($settings, $done) = @_;
	sql("ALTER SYSTEM SET $_") foreach @$settings;
	$node->reload;
	my $end = time + 60;
	while (!$done->() && time < $end) { sleep 0.05; }
	return;
}

sql(q{
CREATE EXTENSION orion;
CREATE ROLE guest; CREATE ROLE member; CREATE ROLE slow;
GRANT guest, member, slow TO orion_authenticator;
GRANT EXECUTE ON FUNCTION orion_uid(), orion_claims() TO PUBLIC;
CREATE SCHEMA other; CREATE SCHEMA extra; CREATE SCHEMA plain;
GRANT USAGE ON SCHEMA other, extra, plain TO PUBLIC;

-- what a request says of itself, for whoever asks in its statement
CREATE FUNCTION setting(name text) RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN current_setting(name, true); END $$;
CREATE FUNCTION sub() RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN nullif(current_setting('request.jwt.claims', true), '')::json ->> 'sub'; END $$;
CREATE FUNCTION mark() RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN nullif(current_setting('request.headers', true), '')::json ->> 'x-mark'; END $$;
CREATE FUNCTION whole() RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
	RETURN concat_ws(',', current_user, current_setting('role'), coalesce(right(sub(), 1), '-'), coalesce(right(orion_uid()::text, 1), '-'),
		coalesce(mark(), '-'), current_setting('request.method', true), current_setting('search_path'));
END $$;
-- what of it is there in a request of nobody's, marked n, or is left of another; {} when nothing
CREATE FUNCTION look() RETURNS text[] LANGUAGE sql STABLE AS $$
	SELECT array_remove(ARRAY[
		'user ' || nullif(current_user, 'orion_anon'), 'role ' || nullif(current_setting('role'), 'orion_anon'),
		'claims ' || nullif(current_setting('request.jwt.claims', true), '{"role":"orion_anon"}'), 'uid ' || orion_uid(),
		'mark ' || nullif(mark(), 'n'), 'path ' || nullif(current_setting('search_path'), '"public", "extra"')], NULL)
		|| ARRAY(SELECT name || ' ' || setting FROM pg_settings WHERE source = 'session' AND name IN ('TimeZone', 'statement_timeout', 'work_mem', 'DateStyle', 'row_security', 'default_transaction_read_only'))
		|| ARRAY(SELECT 'left ' || current_setting('my.left', true) WHERE current_setting('my.left', true) <> '')
		|| ARRAY(SELECT 'lock ' || objid FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())
$$;
CREATE FUNCTION leave() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('my.left', 'x', false), set_config('request.jwt.claims', '{"sub":"forged"}', false), set_config('request.headers', '{"x-mark":"forged"}', false),
		set_config('search_path', 'other', false), set_config('TimeZone', 'Asia/Tokyo', false), pg_advisory_lock(7), set_config('DateStyle', 'German', false),
		set_config('response.headers', '[{"X-Left": "yes"}]', false);
	RETURN 'left';
END $$;

CREATE TABLE t (id int PRIMARY KEY, owner text, note text, at timestamptz DEFAULT '2026-01-01 00:00Z', zero int DEFAULT 0);
INSERT INTO t VALUES (1, '00000000-0000-4000-8000-000000000001', 'ann''s'), (2, '00000000-0000-4000-8000-000000000002', 'bob''s'), (3, 'nobody', 'nobody''s');
INSERT INTO t SELECT g, 'others', 'other' FROM generate_series(10, 200) g;
ANALYZE t;
ALTER TABLE t ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON t USING (true);
CREATE TABLE other.t AS SELECT 1 AS id, 'other'::text AS note;
CREATE TABLE extra.e (id int);
CREATE FUNCTION other.here() RETURNS text LANGUAGE sql STABLE AS 'SELECT current_setting($$search_path$$)';
CREATE FUNCTION here() RETURNS text LANGUAGE sql STABLE AS 'SELECT current_setting($$search_path$$)';
CREATE TABLE denied (id int);
CREATE VIEW v AS SELECT 1 AS id, 'closed'::text AS x;
CREATE VIEW asked AS SELECT 1 AS id, whole() AS whole;
CREATE VIEW who AS SELECT 1 AS id, current_user::text AS x;
CREATE VIEW broken AS SELECT id, 1 / zero AS x FROM t;
CREATE VIEW leaves AS SELECT 1 AS id, leave() AS x;
GRANT SELECT ON t, other.t, v, asked, who, broken, leaves TO PUBLIC;
});
ok(OrionHttp::await($port, '/ready', 200), 'ready');

# Nothing is to be found by nobody, in a function and in a table's view
sub nothing_left
{
	my ($after) = @_;
	my $answer = ask('rpc/look', { 'X-Mark' => 'n' });
	my $seen = gist($answer);
	my $whole = gist(ask('asked?select=whole', { 'X-Mark' => 'n' }));
	my $kept = gist(ask('who?select=x', {}));
	my $header = $answer->{headers}{'x-left'} // '-';
	return is("$seen $header $whole $kept", '[] - orion_anon,orion_anon,-,-,n,GET,"public", "extra" orion_anon', "nothing is left after $after");
}

# --- policies: who asks in them; without a parameter the first plan is kept
sub policy { sql("ALTER POLICY p ON t USING ($_[0])"); }
sub sees
{
	my ($what) = @_;
	always($what->[1], "$what->[0]: ann", 't?select=note', as('ann', 'X-Mark' => 'ann'));
	always($what->[2], "$what->[0]: bob", 't?select=note', as('bob', 'X-Mark' => 'bob'));
	always($what->[3], "$what->[0]: nobody", 't?select=note', { 'X-Mark' => 'nobody' });
	my %wrong;    # and by turns, over the same two plans
	for my $turn (1 .. $times)
	{
		foreach my $who (1 .. 3)
		{
			my $got = gist(ask('t?select=note', ($who < 3 ? as((qw(ann bob))[ $who - 1 ], 'X-Mark' => (qw(ann bob))[ $who - 1 ]) : { 'X-Mark' => 'nobody' })));
			$wrong{"$who: $got"}++ if $got ne $what->[$who];
		}
	}
	is(join(', ', sort keys %wrong), '', "$what->[0]: by turns");
	return nothing_left("a policy with $what->[0]");
}
my %policies = (
	claims => [ q{owner = coalesce(current_setting('request.jwt.claims')::json ->> 'sub', 'nobody')}, "ann's", "bob's", "nobody's" ],
	'a function that reads claims' => [ q{owner = coalesce(sub(), 'nobody')}, "ann's", "bob's", "nobody's" ],
	'a header' => [ q{note = (current_setting('request.headers')::json ->> 'x-mark') || $$'s$$}, "ann's", "bob's", "nobody's" ],
	'orion_uid' => [ q{owner = coalesce(orion_uid()::text, 'nobody')}, "ann's", "bob's", "nobody's" ],
	'orion_claims' => [ q{owner = coalesce(orion_claims() ->> 'sub', 'nobody')}, "ann's", "bob's", "nobody's" ],
	'current_user' => [ q{id = CASE current_user WHEN 'member' THEN 1 WHEN 'orion_anon' THEN 3 END AND now() > '2000-01-01'}, "ann's", "ann's", "nobody's" ],
	'the setting of the role' => [ q{id = CASE current_setting('role') WHEN 'member' THEN 1 WHEN 'orion_anon' THEN 3 END}, "ann's", "ann's", "nobody's" ],
	'a query of another table' => [ q{EXISTS (SELECT FROM asked WHERE whole LIKE '%,ann,%' AND t.id = 1 OR whole LIKE '%,bob,%' AND t.id = 2 OR whole LIKE '%,nobody,%' AND t.id = 3)}, "ann's", "bob's", "nobody's" ],
);
my @order = ('claims', 'orion_uid', 'a function that reads claims', 'current_user', 'a header', 'orion_claims', 'a query of another table', 'current_user', 'the setting of the role', 'orion_uid', 'claims');
foreach my $name (@order)
{
	policy($policies{$name}[0]);
	sees([ $name, @{ $policies{$name} }[ 1 .. 3 ] ]);
}
policy('id < 4');

# --- the same plan when its policy asks all of a sudden, and not any more
foreach my $round (1 .. 2)
{
	policy('true');
	always("ann's", "closed ($round)", 't?select=note&id=eq.1', as('ann'));
	policy(q{owner = current_setting('request.jwt.claims')::json ->> 'sub'});
	is(gist(ask('t?select=note&id=eq.1', as('ann'))), "ann's", "the first request after it asks ($round)");
	always("ann's", "it asks ($round)", 't?select=note&id=eq.1', as('ann'));
	always('[]', "as another ($round)", 't?select=note&id=eq.1', as('bob'));
	nothing_left("a policy that was altered ($round)");
}
policy('true');

# --- views that are replaced
foreach my $round (1 .. 2)
{
	sql(q{CREATE OR REPLACE VIEW v AS SELECT 1 AS id, 'closed'::text AS x});
	always('closed', "a view ($round)", 'v?select=x', as('ann', 'X-Mark' => 'm'));
	sql(q{CREATE OR REPLACE VIEW v AS SELECT 1 AS id, whole() AS x});
	always('member,member,1,1,m,GET,"public", "extra"', "... over a function ($round)", 'v?select=x', as('ann', 'X-Mark' => 'm'));
	always('guest,guest,-,-,k,GET,"public", "extra"', "... as another role ($round)", 'v?select=x', as('guest', 'X-Mark' => 'k'));
	nothing_left("a view over a function ($round)");
}
sql(q{CREATE OR REPLACE VIEW v AS SELECT 1 AS id, current_setting('request.path') AS x});
always('/rest/v1/v', 'a view over a setting', 'v?select=x', as('ann'));

# --- functions in other places than the statement's text
sql(q{
CREATE FUNCTION marked(t) RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN mark(); END $$;
CREATE FUNCTION related(t) RETURNS SETOF other.t LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN QUERY SELECT 1, mark(); END $$;
CREATE FUNCTION is_marked(anyelement) RETURNS boolean LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN session_user <> 'orion_authenticator' OR coalesce(mark(), '') = 'yes'; END $$;
CREATE DOMAIN marked_text AS text CHECK (is_marked(VALUE));
CREATE DOMAIN marked_json AS jsonb CHECK (is_marked(VALUE));
CREATE TYPE pair AS (a marked_text, b int);
CREATE TABLE d (id int PRIMARY KEY, x marked_text, list marked_text[], p pair, j marked_json, plain text);
INSERT INTO d VALUES (1, 'x', '{x}', '(x,1)', '{"a":1}', 'x');
CREATE FUNCTION shown(marked_json) RETURNS json LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN to_json(mark()); END $$;
CREATE FUNCTION is_same(text, text) RETURNS boolean LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN $1 = $2 AND mark() = 'yes'; END $$;
CREATE OPERATOR === (LEFTARG = text, RIGHTARG = text, FUNCTION = is_same);
CREATE FUNCTION keep_mark(text, text) RETURNS text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN mark(); END $$;
CREATE AGGREGATE last_mark(text) (SFUNC = keep_mark, STYPE = text);
CREATE VIEW by_operator AS SELECT 'same'::text AS x WHERE 'a'::text === 'a'::text;
CREATE VIEW by_aggregate AS SELECT last_mark(plain) AS x FROM d;
CREATE VIEW by_lateral AS SELECT m AS x FROM d, LATERAL (SELECT mark() AS m OFFSET 0) s;
CREATE VIEW by_cte AS WITH RECURSIVE c AS (SELECT 1 AS n, mark() AS m UNION ALL SELECT n + 1, m FROM c WHERE n < 3) SELECT m AS x FROM c WHERE n = 3;
CREATE VIEW by_row AS SELECT (ROW(1, mark())).f2 COLLATE "C" AS x;
CREATE VIEW by_values AS SELECT column1 AS x FROM (VALUES (mark())) AS w;
CREATE VIEW by_xml AS SELECT (xpath('//f/text()', query_to_xml('SELECT mark() AS f', true, true, '')))[1]::text AS x;
CREATE VIEW by_limit AS SELECT id AS x FROM t WHERE id < 4 ORDER BY id DESC LIMIT CASE mark() WHEN 'yes' THEN 1 END;
CREATE VIEW by_io AS SELECT plain::marked_text::text AS x FROM d;
GRANT SELECT ON d, by_operator, by_aggregate, by_lateral, by_cte, by_row, by_values, by_xml, by_limit, by_io TO PUBLIC;
});
my %yes = ('X-Mark' => 'yes');
my %no = ('X-Mark' => 'no');
foreach my $round (1 .. 2)
{
	always('yes', "a computed column ($round)", 't?select=marked&id=eq.1', \%yes);
	always('no', '... for another', 't?select=marked&id=eq.1', \%no);
	always('[{"related":[{"note":"yes"}]}]', "a computed relationship ($round)", 't?select=related(note)&id=eq.1', \%yes);
	always('yes', "... spread, by a filter on a computed column ($round)", 't?select=marked&id=eq.1&marked=eq.yes&order=marked', \%yes);
	always('[]', '... of another', 't?select=marked&id=eq.1&marked=eq.yes&order=marked', \%no);
	foreach my $filter ('x=eq.x', 'x=in.(x,y)', 'list=eq.{x}', 'list=cs.{x}', 'p=eq.(x,1)', 'p=in.("(x,1)","(y,1)")', 'x=eq(any).{x,y}', 'list->>0=eq.x')
	{
		always(1, "a domain's check: $filter ($round)", "d?select=id&$filter", \%yes);
	}
	always(1, "$_ ($round)", "d?select=id&$_", as('ann', %yes)) foreach 'j->>a=eq.1', 'j->a=eq.1', 'j=eq.{"a":1}', 'j=in.("{\"a\":1}")';
	always('400 23514', "a check is not met: $_ ($round)", "d?select=id&$_", \%no) foreach 'list=eq.{x}', 'p=eq.(x,1)', 'p=in.("(x,1)")';
	always('x', "a cast to a domain ($round)", 'd?select=plain::marked_text', \%yes);
	always('400 23514', '... for another', 'd?select=plain::marked_text', \%no);
	always('400 23514', '... in a view', 'by_io?select=x', \%no);
	always('same', "an operator ($round)", 'by_operator?select=x', \%yes);
	always('[]', '... for another', 'by_operator?select=x', \%no);
	always('no', "$_ for one ($round)", "$_?select=x", \%no), always('yes', "$_ for another ($round)", "$_?select=x", \%yes) foreach qw(by_aggregate by_lateral by_cte by_row by_values by_xml);
	always(3, "a limit ($round)", 'by_limit?select=x', \%yes);
	nothing_left("functions everywhere ($round)");
}

# --- what is made of JSON, after the plan is kept
sql(q{
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TABLE moods (id int PRIMARY KEY, m mood);
INSERT INTO moods VALUES (1, 'glad');
CREATE FUNCTION mood_json(mood) RETURNS json LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN to_json($1 || ' ' || coalesce(mark(), 'unmarked')); END $$;
CREATE VIEW mood_rows AS SELECT 1 AS id, row_to_json(ROW(m)) AS m FROM moods;
CREATE TABLE many_moods AS SELECT 'glad'::mood AS m FROM generate_series(1, 10);
ANALYZE many_moods;
CREATE VIEW mood_statistics AS SELECT to_json(stavalues1) AS m FROM pg_statistic WHERE starelid = 'many_moods'::regclass;
GRANT SELECT ON moods, mood_rows, mood_statistics TO PUBLIC;
});
foreach my $round (1 .. 2)
{
	always('glad', "an enum ($round)", 'moods?select=m&m=eq.glad', { 'X-Mark' => $round });
	always('[{"m":{"f1":"glad"}}]', "... in a row ($round)", 'mood_rows?select=m', { 'X-Mark' => $round });
	always('glad', "... of all ($round)", 'moods?select=m', { 'X-Mark' => $round });
	always('[{"m":["glad"]}]', "... in statistics ($round)", 'mood_statistics?select=m', { 'X-Mark' => $round });
	sql('CREATE CAST (mood AS json) WITH FUNCTION mood_json(mood)');
	always("glad $round", "... with a cast to json, made later ($round)", 'moods?select=m&m=eq.glad', { 'X-Mark' => $round });
	always("[{\"m\":{\"f1\":\"glad $round\"}}]", "... in a row ($round)", 'mood_rows?select=m', { 'X-Mark' => $round });
	nothing_left("a cast ($round)");
	always("[{\"m\":[\"glad $round\"]}]", "... in statistics ($round)", 'mood_statistics?select=m', { 'X-Mark' => $round });
	always("glad $round", "... of all ($round)", 'moods?select=m', { 'X-Mark' => $round });
	sql('DROP CAST (mood AS json)');
}
is(ask('d?select=j', \%yes)->{body}, '[{"j":{"a": 1}}]', 'a domain over jsonb') for 1 .. $times;
sql('CREATE CAST (marked_json AS json) WITH FUNCTION shown(marked_json)');
always('yes', 'a cast of a domain, made later', 'd?select=j', \%yes);
sql('DROP CAST (marked_json AS json)');

# --- a function that pretends to ask for nothing is called while a plan is made
sql(q{
CREATE FUNCTION five() RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF session_user = 'orion_authenticator' AND coalesce(current_setting('request.method', true), '') <> 'GET' THEN
		RAISE 'asked for nothing';
	END IF;
	RETURN 5;
END $$;
CREATE TABLE indexed (id int PRIMARY KEY, x int);
INSERT INTO indexed SELECT g, g FROM generate_series(1, 100) g;
CREATE INDEX ON indexed (x) WHERE x > five();
GRANT SELECT ON indexed TO PUBLIC;
});
foreach my $round (1 .. 3)
{
	always(7, "an index with a function in its condition ($round)", 'indexed?select=id&x=eq.7', \%yes);
	sql('ANALYZE indexed; ALTER TABLE indexed SET (fillfactor = 9' . $round . ')');
}

# --- what roles are given, and requests of others do not have
my $utc = '"2026-01-01T00:00:00+00:00"';
sql('ALTER DATABASE postgres SET timezone = $$UTC$$');
sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'orion executor%'});
ok(OrionHttp::await($port, '/rest/v1/v', 200), 'another executor');
foreach my $round (1 .. 2)
{
	always('2026-01-01T00:00:00+00:00', "the time, as guest ($round)", 't?select=at&id=eq.1', as('guest'));
	sql(q{ALTER ROLE guest SET timezone = 'Asia/Tokyo'});
	always('2026-01-01T09:00:00+09:00', "... who lives elsewhere ($round)", 't?select=at&id=eq.1', as('guest'));
	always('2026-01-01T00:00:00+00:00', "... as another ($round)", 't?select=at&id=eq.1', as('ann'));
	always('2026-01-01T01:00:00+01:00', "... who prefers to ($round)", 't?select=at&id=eq.1', as('ann', Prefer => 'timezone=Europe/Vienna'));
	always('2026-01-01T00:00:00+00:00', "... and does not any more ($round)", 't?select=at&id=eq.1', as('ann'));
	nothing_left("a role's time zone ($round)");
	sql('ALTER ROLE guest RESET timezone');
}
sql('CREATE VIEW long AS SELECT count(*) AS x FROM generate_series(1, 100000000) a; CREATE VIEW short AS SELECT count(*) AS x FROM generate_series(1, 1000) a; GRANT SELECT ON long, short TO PUBLIC');
always(1000, 'no time limit', 'short?select=x', as('slow'));
sql(q{ALTER ROLE slow SET statement_timeout = '50ms'});
is(gist(ask('long?select=x', as('slow'))), '500 57014', 'a time limit of a role') for 1 .. 2;
nothing_left('a time limit');
sql('CREATE VIEW limited AS SELECT current_setting($$statement_timeout$$) AS x; GRANT SELECT ON limited TO PUBLIC');
always('50ms', '... that who asks is told', 'limited?select=x', as('slow'));
sql(q{ALTER ROLE slow IN DATABASE postgres SET statement_timeout = 0});
sql('CREATE VIEW middling AS SELECT count(*) AS x FROM generate_series(1, 3000000) a; GRANT SELECT ON middling TO PUBLIC');
always(3000000, '... and that the database lifts', 'middling?select=x', as('slow'));
always('0', '... which it says', 'limited?select=x', as('slow'));
sql(q{ALTER ROLE slow IN DATABASE postgres RESET statement_timeout});
is(gist(ask('long?select=x', as('slow'))), '500 57014', '... for a while');
sql(q{ALTER ROLE slow RESET statement_timeout; ALTER ROLE slow SET search_path = 'plain'});
always('slow,slow,-,-,-,GET,"public", "extra"', 'the search path is the request\'s, not the role\'s', 'asked?select=whole', as('slow'));
nothing_left('a role with a search path');

# --- a role that is taken away, and given back
foreach my $round (1 .. 2)
{
	always('member', "a role ($round)", 'who?select=x', as('ann'));
	sql('REVOKE member FROM orion_authenticator');
	always('403 42501', "... that is no more to be had ($round)", 'who?select=x', as('ann'));
	sql('GRANT member TO orion_authenticator');
	always('member', "... and is again ($round)", 'who?select=x', as('ann'));
	sql('ALTER ROLE member RENAME TO other_member');
	always('401 22023', "... has another name ($round)", 'who?select=x', as('ann'));
	sql('ALTER ROLE other_member RENAME TO member');
	always('member', "... and its own again ($round)", 'who?select=x', as('ann'));
	nothing_left("changes of a role ($round)");
}

# --- failures in between
sub who_is { always('member', "a closed statement after $_[0]", 'who?select=x', as('bob')); return nothing_left($_[0]); }
is(gist(ask('who?select=x', as('ann'))), 'member', 'as ann') for 1 .. $times;
is(gist(ask('denied?select=id', as('ann'))), '403 42501', 'denied') for 1 .. $times;
who_is('one that is denied');
is(gist(ask('broken?select=x&id=eq.1', as('ann'))), '400 22012', 'divided by zero') for 1 .. $times;
who_is('a division by zero');
is(gist(ask('t?select=id&id=eq.x', as('ann'))), '400 22P02', 'no number') for 1 .. 3;
who_is('a bad value');
is(gist(ask('nothing', as('ann'))), '404 PGRST205', 'no table');
who_is('one without a table');
is(gist(ask('t?select=nothing', as('ann'))), '400 42703', 'no column');
who_is('one without a column');
is(ask('t?select=id&id=lt.3', as('ann', Accept => 'application/vnd.pgrst.object+json'))->{status}, 406, 'too many') for 1 .. $times;
who_is('one with too many rows');
{
	my $socket = OrionHttp::connection($port);
	my $token = as('ann')->{Authorization};
	syswrite $socket, "GET /rest/v1/long?select=x HTTP/1.1\r\nHost: localhost\r\nAuthorization: $token\r\nConnection: close\r\n\r\n";
	ok($node->poll_query_until('postgres', q{SELECT count(pg_cancel_backend(pid)) > 0 FROM pg_stat_activity WHERE backend_type LIKE 'orion executor%' AND state = 'active' AND now() - xact_start > interval '0.1 s'}), 'cancelled');
	is(gist(OrionHttp::parse(OrionHttp::receive($socket, sub { 0 }))), '500 57014', '... it is');
	who_is('one that was cancelled');
}

# --- functions that set things
foreach my $round (1 .. 2)
{
	is(gist(ask('who?select=x', as('ann'))), 'member', "closed before it ($round)") for 1 .. $times;
	is(gist(ask('leaves?select=x', as('ann'))), 'left', "something is left by a view ($round)") for 1 .. $times;
	who_is("a view that leaves something ($round)");
	is(gist(ask('leaves?select=x', as('ann', Prefer => 'tx=rollback'))), 'left', "... and rolls back ($round)");
	who_is("a view that rolls back ($round)");
	is(gist(ask('rpc/leave', as('ann'), 'POST', '')), '"left"', "... by a function ($round)");
	who_is("a function that leaves something ($round)");
}

# --- the search path stays for tables of one schema only
my $public = '"public", "extra"';
foreach my $round (1 .. 2)
{
	is(gist(ask('t?select=note&id=eq.1')), "ann's", 'a table') for 1 .. $times;
	is(gist(ask('rpc/here')), "\"\\\"public\\\", \\\"extra\\\"\"", "a function's own ($round)");
	is(gist(ask('t?select=note', { 'Accept-Profile' => 'other' })), 'other', 'a table of another schema') for 1 .. $times;
	is(gist(ask('rpc/here', { 'Accept-Profile' => 'other' })), "\"\\\"other\\\", \\\"extra\\\"\"", "a function's of another schema ($round)");
	is(gist(ask('t?select=note', { 'Accept-Profile' => 'other' })), 'other', 'a table of another schema again');
	nothing_left("another schema ($round)");
	is(gist(ask('t?select=note', { 'Accept-Profile' => 'other' })), 'other', 'and again');
	is(gist(ask('', { 'X-Mark' => 'n' })), '[]', "the root ($round)");
	is(gist(ask('t?select=note', { 'Accept-Profile' => 'other' })), 'other', 'and again');
	is(gist(ask('v?select=x', { 'Accept-Profile' => 'other' })), '404 PGRST205', 'no view there');
	nothing_left("a failure in another schema ($round)");
}
sql(q{
CREATE FUNCTION plain.answer(request jsonb) RETURNS jsonb LANGUAGE sql STABLE AS $$ SELECT jsonb_build_object('path', current_setting('search_path'), 'user', current_user, 'mark', request -> 'headers' ->> 'x-mark', 'claims', orion_uid()) $$;
SELECT orion_route_add('GET', '/routed', 'plain.answer(jsonb)');
});
my $routed = '{"mark": "n", "path": "\"$user\", public", "user": "orion_anon", "claims": null}';
ok(OrionHttp::await($port, '/routed', 200), 'a route');
foreach my $prefix ('/rest/v1', '')
{
	reload(["orion.rest_prefix = '$prefix'"], sub { ask("$prefix/who")->{status} == 200 });
	for my $round (1 .. 2)
	{
		is(gist(ask("$prefix/t?select=note&id=eq.1", as('ann'))), "ann's", "a table below '$prefix'") for 1 .. $times;
		is(ask('/routed', { 'X-Mark' => 'n' })->{body}, $routed, "a route has the path of the database ($round)");
		is(gist(ask("$prefix/t?select=note", as('ann', 'Accept-Profile' => 'other'))), 'other', "a table of another schema below '$prefix'") for 1 .. $times;
		is(ask('/routed', { 'X-Mark' => 'n' })->{body}, $routed, "... after another schema, too ($round)");
	}
}
reload(['orion.rest_prefix = DEFAULT'], sub { ask('/rest/v1/who')->{status} == 200 });

# --- other forms of answers and ways to them
policy($policies{claims}[0]);
my $path = 't?select=note';
foreach my $who ([ 'ann', "ann's" ], [ 'bob', "bob's" ])
{
	my ($name, $note) = @$who;
	my $seen = sub { my ($want, $title, $headers, $method) = @_; my %got = map { ask($path, as($name, %$headers), $method)->{body} => 1 } 1 .. $times; is(join(' | ', sort keys %got), $want, "$title: $name"); };
	$seen->("note\n$note", 'CSV', { Accept => 'text/csv' });
	$seen->("{\"note\":\"$note\"}\n", 'NDJSON', { Accept => 'application/x-ndjson' });
	$seen->("{\"note\":\"$note\"}", 'an object', { Accept => 'application/vnd.pgrst.object+json' });
	$seen->("[{\"note\":\"$note\"}]", 'counted', { Prefer => 'count=exact', Range => '0-0' });
	$seen->("[{\"note\":\"$note\"}]", 'rolled back', { Prefer => 'tx=rollback' });
	is(ask($path, as($name, Prefer => 'count=exact'), 'HEAD')->{headers}{'content-range'}, '0-0/1', "HEAD: $name") for 1 .. $times;
	my $batch = encode_json({ operations => [ map { { method => 'GET', path => "/$path" } } 1 .. $times ] });
	my $answer = ask('batch', as($name, 'Content-Type' => 'application/json'), 'POST', $batch);
	is(() = $answer->{body} =~ /"note": ?"$note"/g, $times, "a batch: $name") or diag($answer->{body});
	nothing_left("other forms: $name");
}
my $parallel = sql('SHOW server_version_num') >= 160000 ? 'debug_parallel_query' : 'force_parallel_mode';
reload(["$parallel = on"], sub { gist(ask('rpc/setting?name=' . $parallel)) eq '"on"' });
foreach my $name ('current_user', 'claims', 'orion_uid')
{
	policy($policies{$name}[0]);
	sees([ "$name, in parallel", @{ $policies{$name} }[ 1 .. 3 ] ]);
}
reload([ "$parallel = DEFAULT", 'orion.rest_prepared_statements = off' ], sub { gist(ask('rpc/setting?name=orion.rest_prepared_statements')) eq '"off"' });
foreach my $name ('current_user', 'claims', 'orion_uid')
{
	policy($policies{$name}[0]);
	sees([ "$name, without kept plans", @{ $policies{$name} }[ 1 .. 3 ] ]);
}
is(sql(q{SELECT string_agg(kind, ',') FROM orion.workers WHERE kind = 'executor'}), 'executor', 'one executor has answered');
my $log = slurp_file($node->logfile);
unlike($log, qr/WARNING:  (?!cast will be ignored)|TRAP|PANIC|terminated by signal/, 'nothing is warned of');
done_testing();
