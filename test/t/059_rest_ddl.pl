# There is no schema cache: what DDL changes, the very next request sees, on every executor.
use strict;
use warnings;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use OrionHttp;

my $executors = 3;
my ($node, $port) = OrionHttp::server('ddl', qq{
orion.executor_count = $executors
orion.rest_schemas = 'public'
});
$node->safe_psql('postgres', q{
CREATE EXTENSION orion;
CREATE TABLE things (id int PRIMARY KEY, name text);
CREATE TABLE owners (id int PRIMARY KEY);
INSERT INTO things VALUES (1, 'a');
INSERT INTO owners VALUES (7);
GRANT SELECT ON things, owners TO orion_anon;
});
ok(OrionHttp::await($port, '/ready', 200), 'ready');

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub start
{
	my ($path, $headers) = @_;
	my $s = OrionHttp::connection($port);
	syswrite($s, "GET /rest/v1/$path HTTP/1.1\r\nHost: h\r\nConnection: close\r\n" . ($headers ? "$headers\r\n" : '') . "\r\n");
	return $s;
}
sub finish { return OrionHttp::parse(OrionHttp::receive($_[0], sub { 0 })); }

# Errors do not say who answers; of them there are three times as many answers as executors.
# A request that holds an executor; none, one, ... all but one of them are held, so that every
# executor has to answer, in whatever order they are woken.
sub answers
{
	my ($path) = @_;
	my %seen;
	for my $round (1 .. 200)
	{
		my $long = $round < 10 ? 0.02 : 0.2;	# a busy machine
		my @held = map { start("rpc/hold?n=$long") } 1 .. ($round - 1) % $executors;
		my $answer = finish(start("$path"));
		$answer->{body} = "$answer->{status} " . ($answer->{body} =~ /"code":"(\w+)"/ ? $1 : $answer->{body});
		my $pid = $answer->{headers}{'x-pid'};
		finish($_) for @held;
		push @{ $seen{ $pid // 'none' } }, $answer->{body};
		last if keys %seen >= $executors || ($seen{none} && @{ $seen{none} } >= 3 * $executors);
	}
	return \%seen;
}
# What all executors say; more than one text when they differ.
sub everywhere
{
	my ($path) = @_;
	my $seen = answers($path);
	my %texts = map { map { $_ => 1 } @$_ } values %$seen;
	return ($seen->{none} || keys %$seen >= $executors ? '' : scalar(keys %$seen) . ' executors: ') . join ' | ', sort keys %texts;
}
sql(q{
CREATE FUNCTION hold(n float) RETURNS int LANGUAGE sql STABLE AS 'SELECT 1 FROM pg_sleep(n)';
CREATE FUNCTION tell() RETURNS void LANGUAGE sql AS $$ SELECT set_config('response.headers', '[{"X-Pid":"' || pg_backend_pid() || '"}]', true) $$;
});
$node->append_conf('postgresql.conf', "orion.rest_pre_request = 'public.tell'");
$node->reload;
$node->poll_query_until('postgres', q{SELECT current_setting('orion.rest_pre_request') = 'public.tell'});
for (1 .. 600) { last if finish(start('things'))->{headers}{'x-pid'}; select(undef, undef, undef, 0.05); }

is(everywhere('things'), '200 [{"id":1,"name":"a"}]', 'at first');
sql('ALTER TABLE things ADD COLUMN size int DEFAULT 5');
is(everywhere('things'), '200 [{"id":1,"name":"a","size":5}]', 'ADD COLUMN');
is(everywhere('things?size=gt.4&select=size'), '200 [{"size":5}]', '... in filters');
sql('ALTER TABLE things RENAME COLUMN size TO extent');
is(everywhere('things?select=extent'), '200 [{"extent":5}]', 'RENAME COLUMN');
sql(q{ALTER TABLE things ALTER COLUMN extent TYPE text USING 'x' || extent});
is(everywhere('things?extent=eq.x5&select=extent'), '200 [{"extent":"x5"}]', 'ALTER COLUMN TYPE');
sql('ALTER TABLE things DROP COLUMN extent');
is(everywhere('things'), '200 [{"id":1,"name":"a"}]', 'DROP COLUMN');
is(everywhere('later'), '404 PGRST205', 'a table that is not there yet');
sql('CREATE TABLE later (id int PRIMARY KEY); GRANT SELECT ON later TO orion_anon; INSERT INTO later VALUES (3)');
is(everywhere('later'), '200 [{"id":3}]', 'CREATE TABLE');
sql('REVOKE SELECT ON later FROM orion_anon');
is(everywhere('later'), '401 42501', 'REVOKE');
sql('GRANT SELECT ON later TO orion_anon');
is(everywhere('later'), '200 [{"id":3}]', 'GRANT');
sql(q{CREATE POLICY none ON later USING (false); ALTER TABLE later ENABLE ROW LEVEL SECURITY});
is(everywhere('later'), '200 []', 'a policy');
sql('DROP TABLE later');
is(everywhere('later'), '404 PGRST205', 'DROP TABLE');
is(everywhere('things?select=id,owners(id)'), '400 PGRST200', 'no relationship');
sql('ALTER TABLE things ADD COLUMN owner int DEFAULT 7 CONSTRAINT belongs REFERENCES owners');
is(everywhere('things?select=id,owners(id)'), '200 [{"id":1,"owners":{"id":7}}]', 'a foreign key');
is(everywhere('owners?select=id,things(id)'), '200 [{"id":7,"things":[{"id":1}]}]', '... from the other side');
sql('ALTER TABLE things DROP CONSTRAINT belongs');
is(everywhere('things?select=id,owners(id)'), '400 PGRST200', '... and gone');
is(everywhere('rpc/number'), '404 PGRST202', 'no function');
sql('CREATE FUNCTION number() RETURNS int LANGUAGE sql STABLE AS $$ SELECT 1 $$');
is(everywhere('rpc/number'), '200 1', 'CREATE FUNCTION');
sql('CREATE OR REPLACE FUNCTION number() RETURNS int LANGUAGE sql STABLE AS $$ SELECT 2 $$');
is(everywhere('rpc/number'), '200 2', 'CREATE OR REPLACE FUNCTION');
sql('CREATE VIEW seen AS SELECT id FROM things; GRANT SELECT ON seen TO orion_anon');
is(everywhere('seen'), '200 [{"id":1}]', 'CREATE VIEW');
sql('CREATE OR REPLACE VIEW seen AS SELECT id, name FROM things');
is(everywhere('seen'), '200 [{"id":1,"name":"a"}]', 'CREATE OR REPLACE VIEW');
sql(q{COMMENT ON TABLE things IS 'Things of the moment'});
my $openapi = answers('');
is(scalar(grep { grep { /Things of the moment/ } @$_ } values %$openapi), $executors, 'COMMENT, in every description');
sql(q{COMMENT ON TABLE things IS 'Other things'});
is(scalar(grep { grep { /Things of the moment/ } @$_ } values %{ answers('') }), 0, '... and the old one is nowhere');
sql('ALTER TABLE things RENAME TO objects');
is(everywhere('things'), '404 PGRST205', 'RENAME: the old name');
is(everywhere('objects?select=id'), '200 [{"id":1}]', '... and the new one');

# rows of a table that was rewritten while the request waited for it
my @forms = ([ 'Accept: application/json', '[{"id":7}]' ], [ 'Accept: text/csv', "id\n7" ], [ 'Accept: application/x-ndjson', "{\"id\":7}\n" ], [ "Prefer: count=exact\r\nRange: 0-0", '[{"id":7}]' ]);
my @types = ('bigint', 'int');
my $open = $node->background_psql('postgres');
foreach my $form (@forms, @forms)
{
	my ($header, $rows) = @$form;
	my ($type) = @types;
	$open->query_safe("BEGIN; ALTER TABLE owners ALTER id TYPE $type");
	my $waiting = start('owners', $header);
	ok($node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = 'owners'::regclass}), 'a request waits for a table');
	$open->query_safe('COMMIT');
	is(finish($waiting)->{body}, $rows, "... and finds its rows, which were written anew: $header");
	@types = reverse @types;
}

# the cursor of a page is of what the page shows, whatever is deleted meanwhile
sql(q{CREATE TABLE pages (id int PRIMARY KEY); INSERT INTO pages SELECT generate_series(1, 9); GRANT SELECT ON pages TO orion_anon;
	CREATE FUNCTION waits(pages) RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN PERFORM pg_advisory_xact_lock_shared(99); RETURN 0; END'});
foreach my $form ([ 1, 'Accept: application/json', '[{"id":1,"waits":0},{"id":2,"waits":0}]' ], [ 3, 'Accept: text/csv', 'id,waits3,04,0' ])
{
	my ($first, $header, $rows) = @$form;
	$open->query_safe('SELECT pg_advisory_lock(99)');
	my $waiting = start('pages?select=id,waits&order=id&limit=2&cursor=', $header);
	ok($node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND locktype = 'advisory'}), 'a page is read');
	$open->query_safe("DELETE FROM pages WHERE id = $first");
	$open->query_safe('SELECT pg_advisory_unlock(99)');
	my $page = finish($waiting);
	is($page->{body} =~ s{\s}{}gr, $rows, "it shows what was deleted then: $header");
	my ($next) = ($page->{headers}{link} // '') =~ m{</rest/v1/(.*?)>};
	is(finish(start($next // 'none'))->{body} =~ /"id":(\d)/ ? $1 : '', $first + 2, '... and the next goes on behind it');
	sql("DELETE FROM pages WHERE id <= $first + 1");
}
$open->quit;

$node->stop;
done_testing();
