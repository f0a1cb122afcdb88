# Reads that wait while an executor is busy share a transaction (src/rest/joint.h). Nobody may
# notice but by now(): each answer is the one that the request has alone, is as new as its
# arrival, and no lock of an answered request is held while another one waits.
# A function that waits for a lock keeps the only executor busy until all requests are queued,
# so they share as far as they may; a view with now() tells which did. They need not, on a
# machine so slow that 5 ms are over: what has to be shared is tried again, and what must not
# be is wrong whenever it is. ORION_SEED repeats a run.
use strict;
use warnings;
use IO::Select;
use IPC::Open2;
use JSON::PP ();
use OrionHttp;
use OrionStack;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

my $seed = $ENV{ORION_SEED} // int rand 1e6;
srand $seed;
note("ORION_SEED=$seed");
my $patience = 30;    # seconds for anything
my $secret = 'a secret of more than thirty-two bytes';
my $stack = OrionStack->new('together', conf => qq{
orion.executor_count = 1
orion.rest_schemas = 'public, other'
orion.jwt_secret = '$secret'
orion.http_compression = off
plan_cache_mode = force_generic_plan
enable_seqscan = off
enable_bitmapscan = off
autovacuum = off
wal_level = replica
max_wal_senders = 4
deadlock_timeout = 30s
auto_explain.log_min_duration = 0
});
my $node = $stack->node;
my $json = JSON::PP->new->utf8->canonical->allow_nonref;

# --- a session that stays: one statement takes as long as it takes, no pauses --------------

sub session
{
	my ($node) = @_;
	my $pid = open2(my $out, my $in, 'psql', '-XAtq', '-d', $node->connstr('postgres'));
	$in->autoflush(1);
	return { pid => $pid, in => $in, out => $out, heard => '' };
}

sub say_to { my ($session, $sql) = @_; print { $session->{in} } "$sql;\n\\echo :SQLSTATE <done>\n"; return; }

# What the statements print; the SQLSTATE of the last is left in the session.
sub hear
{
	my ($session) = @_;
	my $end = time + $patience;
	while ($session->{heard} !~ /^(.*?)^?(\w{5}) <done>\n/ms)
	{
		die 'a session does not answer' if time > $end;
		next unless IO::Select->new($session->{out})->can_read(1);
		sysread($session->{out}, $session->{heard}, 65536, length $session->{heard}) or die 'a session ended';
	}
	$session->{heard} =~ s/^(.*?)^?(\w{5}) <done>\n//ms;
	$session->{state} = $2;
	return $1 =~ s/\n\z//r;
}
sub sql { my ($session, $sql) = @_; say_to($session, $sql); return hear($session); }
sub end_session { my ($session) = @_; close $session->{in}; waitpid $session->{pid}, 0; return; }

sub until_true
{
	my ($condition, $what, $seconds) = @_;
	my $end = time + ($seconds // $patience);
	while (!$condition->())
	{
		if (time > $end) { diag("waited in vain: $what"); return 0; }
		sleep 0.0005;
	}
	return 1;
}

# --- requests -------------------------------------------------------------------------------

my $keeper = session($node);

sub send_request
{
	my ($there, $method, $target, %options) = @_;
	my $socket = OrionHttp::connection($there->{http_port}) or die "connect: $@";
	syswrite $socket, OrionStack::request_bytes($method, $target =~ m{^/} ? $target : "/rest/v1/$target", %options);
	return $socket;
}

sub answer
{
	my ($socket) = @_;
	return OrionStack::parse(OrionHttp::receive($socket, sub { 0 }));
}

sub dial { return OrionHttp::connection($stack->{http_port}); }
sub ask { my (@request) = @_; return answer(send_request($stack, @request)); }

# The executor is busy until the gate is opened; all requests are in its queue by then, in their order.
sub queue_up
{
	my ($there, $sql, @requests) = @_;
	sql($sql, 'SELECT pg_advisory_lock(1)');
	my $gate = send_request($there, 'GET', 'rpc/gate');
	until_true(sub { sql($sql, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted") eq '1' }, 'gate');
	my @sockets;
	foreach my $request (@requests)
	{
		push @sockets, send_request($there, @$request);
		# the gateway refuses some itself
		until_true(sub {
			my $answered = () = IO::Select->new(@sockets)->can_read(0);
			return $there->http('GET', '/metrics')->{body} =~ /^orion_http_queue_length (\d+)$/m && $1 + $answered == @sockets;
		}, 'queue of ' . @sockets);
	}
	return ($gate, @sockets);
}

sub let_go
{
	my ($sql, $gate, @sockets) = @_;
	sql($sql, 'SELECT pg_advisory_unlock(1)');
	return (map { answer($_) } $gate, @sockets)[ 1 .. @sockets ];
}

sub together { my (@requests) = @_; return let_go($keeper, queue_up($stack, $keeper, @requests)); }

# An answer but for what is another one each time.
sub seen
{
	my ($answer) = @_;
	my %headers = %{ $answer->{headers} };
	my $body = $answer->{body} =~ s/\\"[0-9a-f]{32}\\"/tag/gr;
	delete $headers{etag} if $body eq '';
	$headers{link} =~ s/cursor=[\w-]+/cursor=c/ if $headers{link};
	delete @headers{qw(date orion-lsn x-request-id)};
	delete @headers{qw(etag content-length)} if $body =~ s/\b20\d\d-\d\d-\d\d[T ][\d:.]+\+\d\d(?::\d\d)?/now/g;
	return join "\n", $answer->{status}, (map { "$_: $headers{$_}" } sort keys %headers), '', $body;
}

# The time that the transaction of an answer began.
sub began { my ($answer) = @_; return $answer->{body} =~ /"at":"([^"]+)"/ ? $1 : "none: $answer->{status} $answer->{body}"; }
sub transactions { my (@answers) = @_; my %times = map { began($_) => 1 } @answers; return scalar keys %times; }

sub token { my ($claims) = @_; return OrionHttp::token($json->encode($claims), $secret); }

# --- what there is to read --------------------------------------------------------------------

$stack->sql(q{
CREATE ROLE member;
GRANT member TO orion_authenticator;
GRANT EXECUTE ON FUNCTION orion_uid(), orion_claims() TO PUBLIC;
GRANT TEMP ON DATABASE postgres TO PUBLIC;
CREATE SCHEMA other;
GRANT USAGE ON SCHEMA other TO PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC;
CREATE FUNCTION flush() RETURNS void LANGUAGE sql VOLATILE AS 'SELECT pg_stat_force_next_flush()';
CREATE FUNCTION gate() RETURNS int LANGUAGE plpgsql VOLATILE SET statement_timeout = 0 AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN 1; END $$;

CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE DOMAIN small AS int CHECK (VALUE < 1000000);
CREATE TABLE a (id int PRIMARY KEY, v text, grp int, n numeric, u uuid UNIQUE, j jsonb UNIQUE, list int[] UNIQUE, t text UNIQUE, m mood, long text);
INSERT INTO a SELECT g, 'v' || g, g % 10, g + 0.5, ('00000000-0000-4000-8000-' || lpad(g::text, 12, '0'))::uuid, jsonb_build_object('k', g),
	ARRAY[g, g + 1], 't' || repeat('x', CASE g % 3 WHEN 0 THEN 900 ELSE g % 7 END) || g, CASE WHEN g % 2 = 0 THEN 'glad' ELSE 'sad' END::mood, repeat('l', 20 * (g % 5)) FROM generate_series(1, 200) g;
CREATE INDEX ON a (n); CREATE INDEX ON a (m); CREATE INDEX ON a (grp); CREATE INDEX ON a (v);
UPDATE a SET v = NULL, grp = NULL WHERE id IN (5, 6);
CREATE VIEW timed AS SELECT *, now() AS at FROM a;
CREATE TABLE checked (id small PRIMARY KEY, v text);
INSERT INTO checked SELECT g, 'd' || g FROM generate_series(1, 20) g;
CREATE VIEW checked_timed AS SELECT *, now() AS at FROM checked;
CREATE TABLE b (id int PRIMARY KEY, a_id int REFERENCES a, v text);
INSERT INTO b SELECT g, g, 'b' || g FROM generate_series(1, 50) g;
CREATE INDEX ON b (a_id);
CREATE TABLE c (id int PRIMARY KEY REFERENCES a, v text);
INSERT INTO c SELECT g, 'c' || g FROM generate_series(1, 50) g;
CREATE TABLE other.a (id int PRIMARY KEY, v text);
INSERT INTO other.a SELECT g, 'other' || g FROM generate_series(1, 50) g;
CREATE VIEW other.timed AS SELECT *, now() AS at FROM other.a;
CREATE TABLE secrets (id int PRIMARY KEY, owner uuid, v text);
INSERT INTO secrets SELECT g, CASE g % 3 WHEN 0 THEN NULL ELSE ('00000000-0000-4000-8000-00000000000' || g % 3)::uuid END, 's' || g FROM generate_series(1, 30) g;
ALTER TABLE secrets ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON secrets USING (owner IS NOT DISTINCT FROM orion_uid());
CREATE VIEW mine AS SELECT a.id, orion_uid() AS uid, current_user::text AS who, now() AS at FROM a;
CREATE TABLE parts (id int, part int, v text, PRIMARY KEY (part, id)) PARTITION BY LIST (part);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN (2);
INSERT INTO parts SELECT g, g % 2 + 1, 'p' || g FROM generate_series(1, 40) g;
CREATE TABLE one_part (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE one_part_1 PARTITION OF one_part FOR VALUES FROM (1) TO (20);
INSERT INTO one_part SELECT g, 'o' || g FROM generate_series(1, 19) g;
CREATE TABLE denied (id int PRIMARY KEY);
REVOKE ALL ON denied FROM PUBLIC;
CREATE TABLE broken (id int PRIMARY KEY, zero int);
INSERT INTO broken SELECT g, g % 2 FROM generate_series(1, 20) g;
CREATE VIEW divided AS SELECT id, 1 / zero AS x, now() AS at FROM broken;
CREATE TABLE w (id int PRIMARY KEY, v text, version int);
GRANT ALL ON w TO PUBLIC;
CREATE VIEW w_timed AS SELECT *, now() AS at FROM w;
CREATE TABLE versions (id int PRIMARY KEY, v text, version int NOT NULL DEFAULT 1);
INSERT INTO versions SELECT g, 'v' || g, g FROM generate_series(1, 20) g;

-- plans that keep something from one run to the next
CREATE VIEW counted AS SELECT grp AS id, count(*) AS n, now() AS at FROM a GROUP BY grp;
CREATE VIEW distinct_rows AS SELECT DISTINCT id, v, now() AS at FROM a;
CREATE VIEW with_one AS SELECT a.id, (SELECT max(b.id) FROM b WHERE b.id <= a.id) AS x, now() AS at FROM a;
CREATE VIEW with_b AS SELECT a.id, b.v, now() AS at FROM a JOIN b ON b.a_id = a.id;
CREATE VIEW with_none AS SELECT id, v, now() AS at FROM a WHERE id NOT IN (SELECT b.id FROM b WHERE b.id % 2 = 0);
CREATE VIEW with_sorted AS SELECT id, v, grp, now() AS at FROM a ORDER BY grp DESC, v, id;
CREATE VIEW with_window AS SELECT id, row_number() OVER (ORDER BY id) AS r, now() AS at FROM a;
CREATE VIEW with_union AS SELECT id, v, now() AS at FROM a UNION ALL SELECT id, v, now() FROM b;
CREATE VIEW with_cte AS WITH x AS MATERIALIZED (SELECT id, v FROM a) SELECT *, now() AS at FROM x;
CREATE VIEW with_material AS SELECT a.id, (SELECT count(*) FROM c WHERE c.id < a.id) AS n, now() AS at FROM a;
CREATE VIEW with_cross AS SELECT a.id, b.id AS other, now() AS at FROM a, b;

-- what of others is left, and what leaves it
CREATE FUNCTION look() RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
	RETURN concat_ws(' ', current_user, current_setting('role'), current_setting('search_path'), current_setting('request.path', true), coalesce(orion_uid()::text, '-'),
		coalesce(nullif(current_setting('my.left', true), ''), '-'), current_setting('TimeZone'), (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()));
END $$;
CREATE FUNCTION leave() RETURNS text LANGUAGE plpgsql VOLATILE AS $$
BEGIN
	PERFORM set_config('my.left', 'x', false), set_config('search_path', 'other, public', false), set_config('TimeZone', 'Asia/Tokyo', false), pg_advisory_lock(7);
	CREATE TEMP TABLE IF NOT EXISTS a (id int, v text);
	INSERT INTO pg_temp.a VALUES (1, 'left');
	RETURN 'left';
END $$;
});
my $reset = q{TRUNCATE w; INSERT INTO w SELECT g, 'w' || g, 1 FROM generate_series(1, 20) g};
sql($keeper, $reset);
is(ask('GET', 'rpc/look')->{status}, 200, 'the executor answers');

# --- all of them share: each has its own row, and each is counted -----------------------------

# The fewest and the most transactions in which these were answered together, of some attempts
# (no more once all shared one). Whatever is shared, each answer is the one that it has alone.
my %wrong;
sub attempt
{
	my ($name, $attempts, @requests) = @_;
	my @alone = map { seen(ask(@$_)) } @requests, @requests;    # the second time the plan is there
	my ($least, $most) = (scalar @requests, 1);
	for my $attempt (1 .. $attempts)
	{
		my @answers = together(@requests);
		foreach my $i (0 .. $#requests)
		{
			my $got = seen($answers[$i]);
			$wrong{"$name: $requests[$i][1]"} //= "alone $alone[ $i + @requests ]\ntogether $got" if $got ne $alone[ $i + @requests ];
		}
		my $n = transactions(@answers);
		$least = $n if $n < $least;
		$most = $n if $n > $most;
		last if $least == 1;
	}
	return ($least, $most);
}
sub shares { return (attempt(@_))[0]; }
sub is_right { my ($name) = @_; ok(!%wrong, $name) or diag(map { "$_\n$wrong{$_}\n" } (sort keys %wrong)[ 0 .. 2 ]); %wrong = (); return; }

my $index_scans = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'a_pkey'";
my @eight = map { [ 'GET', "timed?id=eq.$_" ] } 1 .. 8;
is(shares('by key', 60, @eight), 1, 'eight reads by key share a transaction');
is_right('... and each has its own row');
{
	my $scans = 0;
	ask('POST', 'rpc/flush', json => {});
	until_true(sub { my $before = $scans; $scans = sql($keeper, $index_scans); sleep 0.2; $before == $scans }, 'statistics');
	together(@eight);
	ask('POST', 'rpc/flush', json => {});
	ok(until_true(sub { sql($keeper, $index_scans) == $scans + 8 }, 'statistics'), '... and is counted');
}
my %forms = (
	'by uuid' => [ map { "timed?u=eq.00000000-0000-4000-8000-00000000000$_" } 1, 3, 9, 4 ],
	'by text' => [ map { my $g = $_; 'timed?select=id,at&t=eq.t' . ('x' x ($g % 3 ? $g % 7 : 900)) . $g } 6, 1, 9, 2 ],
	'by jsonb' => [ map { "timed?select=id,at&j=eq.%7B%22k%22:$_%7D" } 1, 7, 100, 3 ],
	'by array' => [ map { "timed?select=id,at&list=eq.%7B$_," . ($_ + 1) . '%7D' } 4, 1, 9, 3 ],
	'by numeric' => [ map { "timed?select=id,n,at&n=eq.$_.5" } 4, 1, 9, 3 ],
	'by an enum' => [ map { "timed?select=id,m,at&m=eq.$_&limit=1" } qw(sad glad sad glad) ],
	'by in' => [ map { "timed?select=id,at&id=in.($_)" } '1,2', '3,4', '9,8', '7,7' ],
	'by limit' => [ map { "timed?select=id,at&id=gt.$_&limit=" . ($_ % 3 + 1) } 1 .. 4 ],
	'by offset' => [ map { "timed?select=id,at&id=gt.10&limit=1&offset=$_" } 1 .. 4 ],
	'sorted' => [ map { "timed?select=id,at&id=gte.$_&order=id.desc&limit=2" } 1 .. 4 ],
	'one partition' => [ map { "one_part?id=eq.$_&select=id,v" } 1 .. 4 ],
);
foreach my $name (sort keys %forms)
{
	my $n = shares($name, 8, map { [ 'GET', $_ ] } @{ $forms{$name} });
	cmp_ok($n, '<', 4, "$name: some share") if $name ne 'one partition';
}
is_right('... and are right in all these forms');

# --- what must not share -----------------------------------------------------------------------

# Each has its own transaction, every time.
sub is_apart
{
	my ($name, @requests) = @_;
	is(shares($name, 3, @requests), scalar @requests, "nothing is shared: $name");
	return is_right("... and all is right: $name");
}
my ($ann, $bob) = map { token({ role => 'orion_anon', sub => "00000000-0000-4000-8000-00000000000$_" }) } 1, 2;
is_apart('tokens of the same role', [ 'GET', 'mine?id=eq.1' ], [ 'GET', 'mine?id=eq.2', token => $ann ], [ 'GET', 'mine?id=eq.3' ], [ 'GET', 'mine?id=eq.4', token => $bob ], [ 'GET', 'mine?id=eq.5' ]);
is_apart('an Authorization that is no token', [ 'GET', 'timed?id=eq.1' ], [ 'GET', 'timed?id=eq.2', headers => { Authorization => 'Basic eDp5' } ]);
is_apart('a domain', map { [ 'GET', "checked_timed?select=v,at&id=eq.$_" ] } 4, 1, 9, 3);
is_apart('Prefer', [ 'GET', 'timed?id=eq.1' ], [ 'GET', 'timed?id=eq.2', headers => { Prefer => 'timezone=Asia/Tokyo' } ], [ 'GET', 'timed?id=eq.3', headers => { Prefer => 'count=exact' } ],
	[ 'GET', 'timed?id=eq.1', headers => { Prefer => 'handling=lenient' } ], [ 'GET', 'timed?id=eq.2', headers => { Prefer => 'handling=lenient' } ]);
foreach my $view (qw(counted distinct_rows with_one with_b with_none with_sorted with_window with_union with_cte with_material))
{
	my @requests = map { [ 'GET', "$view?id=eq.$_" ] } 4, 2, 5, 1, 8;
	$view =~ /^(?:counted|with_b|distinct_rows)$/ ? is_apart("a plan of $view", @requests) : shares("a plan of $view", 3, @requests);
	shares("a plan of $view with limit", 2, map { [ 'GET', "$view?id=gte.$_&limit=3&order=id" ] } 4, 2, 5, 1, 8);
}
shares('a cross join', 3, map { [ 'GET', "with_cross?id=eq.$_&other=lt.4" ] } 4, 2, 5, 1, 8);
shares('a sort', 3, map { [ 'GET', "timed?select=id,v,at&grp=eq.$_&order=v.desc" ] } 4, 2, 5, 1, 8);
shares('embedded rows', 3, map { [ 'GET', "a?select=id,b(id,v)&id=eq.$_" ] } 4, 2, 5, 1, 8);
shares('other columns', 3, map { [ 'GET', "timed?select=$_,at&id=eq.1" ] } qw(v id grp u m));
shares('other operators', 3, map { [ 'GET', "timed?select=id,at&id=$_.3&limit=2" ] } qw(eq gt lt gte neq));
is_right('plans that keep something are right');
shares('another key, and other columns', 8, map { [ 'GET', "timed?id=eq.$_->[0]&select=$_->[1],at" ] } [ 1, 'id' ], [ 2, 'v' ], [ 3, 'id' ], [ 4, 'grp' ]);
shares('another key, in another form', 8, [ 'GET', 'timed?id=eq.1' ], map { ([ 'GET', "timed?id=eq.$_->[0]", headers => { Accept => $_->[1] } ], [ 'GET', "timed?id=eq.$_->[0]" ]) }
	  [ 2, 'text/csv' ], [ 3, 'application/vnd.pgrst.object+json' ], [ 4, 'text/nonsense' ], [ 5, 'application/vnd.pgrst.array+json;nulls=stripped' ], [ 6, '*/*' ]);
shares('another key, in a range', 8, map { ([ 'GET', "timed?id=eq.$_" ], [ 'GET', "timed?id=eq.$_", headers => { Range => '1-1' } ]) } 1 .. 4);
is_right('what differs in more than its key is right');
is_apart('another schema', [ 'GET', 'timed?id=eq.1&select=id,v,at' ], [ 'GET', 'timed?id=eq.1&select=id,v,at', headers => { 'Accept-Profile' => 'other' } ], [ 'GET', 'timed?id=eq.2&select=id,v,at' ]);

# a statement that takes longer than a transaction may be old
sql($keeper, q{
CREATE TABLE large (id int PRIMARY KEY, x int, n int);
INSERT INTO large SELECT g, g % 1000, 0 FROM generate_series(1, 200000) g;
CREATE VIEW large_timed AS SELECT *, now() AS at FROM large;
VACUUM ANALYZE large});
is_apart('what takes long', map { [ 'GET', "large_timed?id=gt.$_&x=eq.5&select=at&limit=1&offset=198" ] } 1 .. 3);

# --- all kinds, in random order ------------------------------------------------------------------

my $etag = ask('GET', 'a?id=eq.1&select=id,v')->{headers}{etag};
my $member = token({ role => 'member', sub => '00000000-0000-4000-8000-000000000002' });
my @rows = (1 .. 9, 40, 41, 300);
sub one { return $_[ int rand @_ ]; }
my @kinds = (
	(sub { [ 'GET', 'timed?id=eq.' . one(@rows) ] }) x 12,
	(sub { [ 'GET', 'w_timed?id=eq.' . one(1 .. 3) ] }) x 8,
	(sub { [ 'HEAD', 'timed?id=eq.' . one(@rows) ] }) x 2,
	sub { [ 'GET', 'timed?id=eq.' . one(@rows), headers => { Accept => one('text/csv', 'application/vnd.pgrst.object+json', 'application/vnd.pgrst.array+json;nulls=stripped', 'application/x-ndjson', 'text/nonsense') } ] },
	sub { [ 'GET', 'timed?id=' . one(qw(gt lt gte neq is in like nonsense)) . '.' . one('3', 'null', '(1, 2)', '()', 'x') =~ s/ //r . '&order=id&limit=3' ] },
	sub { [ 'GET', 'timed?id=eq.' . one('x', '', '99999999999', '1.5', '%00', '1;', '-1', 'null') ] },
	sub { [ 'GET', 'timed?id=eq.1&select=' . one('nothing', 'id,v', 'v,id', 'v::int', 'id:v', 'long') ] },
	sub { [ 'GET', one(qw(nothing?id=eq.1 denied?id=eq.1 divided?id=eq.1 divided?id=eq.2 mine?id=eq.3 secrets?id=eq.3 rpc/nothing timed/1)) ] },
	(sub { [ 'GET', 'mine?id=eq.' . one(1 .. 3), one({}, {}, { token => one($ann, $bob, $member, 'nonsense') })->%* ] }) x 4,
	(sub { [ 'GET', 'secrets?id=eq.' . one(1 .. 6), one({}, {}, { token => one($ann, $bob, $member) })->%* ] }) x 4,
	(sub { [ 'GET', 'timed?select=id,v,at&id=eq.' . one(1 .. 4), headers => one({}, {}, { 'Accept-Profile' => 'other' }, { 'Accept-Profile' => 'nothing' }) ] }) x 3,
	sub { [ 'GET', 'a?id=eq.1&select=id,v', headers => { 'If-None-Match' => one($etag, '"x"', '*', 'x') } ] },
	sub { [ 'GET', 'timed?id=lt.6', headers => { Range => one('0-0', '1-2', '5-1', '9-9', 'x') } ] },
	sub { [ 'GET', 'timed?id=lt.6&order=id&limit=' . one(0, 1, 2, 'x') . '&offset=' . one(0, 1, 7, -1) ] },
	sub { [ 'GET', 'timed?select=id,at&cursor=&limit=2&id=lt.' . one(2, 3, 9) ] },
	sub { [ 'GET', 'timed?id=lt.' . one(2, 5), headers => { Prefer => one('count=exact', 'count=planned', 'count=estimated', 'tx=rollback', 'timezone=Asia/Tokyo', 'handling=strict, nonsense') } ] },
	sub { [ 'GET', 'timed?u=eq.00000000-0000-4000-8000-00000000000' . one(1 .. 9, 'x') ] },
	sub { my $g = one(1 .. 9); [ 'GET', 'timed?select=id,at&t=eq.t' . ('x' x ($g % 3 ? $g % 7 : 900)) . $g ] },
	sub { [ 'GET', 'timed?n=eq.' . one('1.5', '2.50', 'NaN', '1e2', 'x') ] },
	sub { [ 'GET', 'timed?list=eq.%7B' . one('1,2', '2,3', '', '1,NULL', 'x') . '%7D' ] },
	sub { [ 'GET', 'timed?m=eq.' . one(qw(sad glad mad)) . '&order=id&limit=1' ] },
	sub { [ 'GET', 'timed?grp=is.' . one(qw(null not_null true)) . '&order=id&limit=2' ] },
	sub { [ 'GET', 'checked_timed?id=eq.' . one(1, 2, 5000000) ] },
	sub { [ 'GET', 'versions?id=eq.' . one(1 .. 5) ] },
	sub { [ 'GET', one('parts?part=eq.1&id=eq.', 'parts?id=eq.', 'one_part?id=eq.', 'with_one?id=eq.', 'with_b?id=eq.', 'counted?id=eq.') . one(1 .. 9) ] },
	sub { [ 'GET', 'a?select=id,b(id,v)&id=eq.' . one(1 .. 9, 60) ] },
	sub { [ 'GET', 'timed?or=(id.eq.' . one(1 .. 9) . ',id.eq.2)&order=id' ] },
	(sub { my $i = one(1 .. 3); [ one([ 'PATCH', "w?id=eq.$i", json => { v => 'p' . int rand 1000 } ], [ 'DELETE', "w?id=eq.$i" ], [ 'POST', 'w', json => { id => $i, v => 'n' } ],
			[ 'PATCH', "w?id=eq.$i", json => { v => 'undone' }, headers => { Prefer => 'tx=rollback' } ])->@* ] }) x 6,
	sub { [ 'POST', 'rpc/leave', json => {} ] },
	(sub { [ 'GET', 'rpc/look', one({}, { token => $ann })->%* ] }) x 2,
	sub { [ 'POST', '/batch', json => [ map { { method => 'GET', path => "/timed?id=eq.$_" } } 1, 2 ] ] },
	sub { [ 'OPTIONS', one('timed', 'nothing'), one({}, { headers => { Origin => 'http://x', 'Access-Control-Request-Method' => 'GET' } })->%* ] },
	sub { [ 'GET', one('', '/elsewhere', 'timed?id=eq.1%ff', 'timed?id=eq.' . ('9' x 9000)) ] },
	sub { [ 'PATCH', 'w?id=eq.1', json => { v => 'long' x one(10, 5000) } ] },    # the longer one comes over the socket
);
my ($asked, $begun) = (0, 0);
foreach my $round (1 .. 6)
{
	my $kind;
	my @requests = map { $kind = one(@kinds) unless $kind && rand() < 0.6; $kind->() } 1 .. 24;    # in runs
	sql($keeper, $reset);
	my @alone = map { seen(ask(@$_)) } @requests;
	sql($keeper, $reset);
	my @answers = together(@requests);
	for my $i (0 .. $#requests)
	{
		my $got = seen($answers[$i]);
		$wrong{"round $round, request $i: " . $json->encode($requests[$i])} = "alone $alone[$i]\ntogether $got" if $got ne $alone[$i];
	}
	my @timed = grep { /"at":/ } map { $_->{body} } @answers;
	my %times = map { /"at":"([^"]+)"/ ? ($1 => 1) : () } @timed;
	$asked += @timed;
	$begun += keys %times;
}
is_right('all kinds of requests, mixed, are answered as alone');
note("$asked answers with a time in $begun transactions");

# --- no lock of an answered request while another waits -------------------------------------------

sub waits_for_lock { return sql($keeper, "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity USING (pid) WHERE NOT granted AND locktype = 'relation' AND backend_type = 'orion executor'") ne '0'; }
my $locker = session($node);
my %waiting = (
	'another table' => [ 'b?id=eq.1', 'a?id=eq.1', 'a?id=eq.2' ],
	'another table, as another role' => [ 'b?id=eq.1', 'a?id=eq.1', 'a?id=eq.2' ],
	'an embedded table' => [ 'a?id=eq.1&select=id,b(id)', 'a?id=eq.1&select=id', 'a?id=eq.2&select=id' ],
	'another embedded table' => [ 'a?id=eq.1&select=id,b()', 'a?id=eq.1&select=id,c()', 'a?id=eq.2&select=id,c()' ],
);
foreach my $name (sort keys %waiting)
{
	my ($last, @first) = map { [ 'GET', $_ ] } @{ $waiting{$name} };
	push @$last, token => $member if $name =~ /role/;
	my @alone = map { seen(ask(@$_)) } @first, $last, @first, $last;
	for (1 .. 3)
	{
		my ($gate, @sockets) = queue_up($stack, $keeper, @first, $last);
		sql($locker, 'BEGIN; LOCK TABLE b IN ACCESS EXCLUSIVE MODE');
		say_to($keeper, 'SELECT pg_advisory_unlock(1)');
		hear($keeper);
		my $waits = until_true(\&waits_for_lock, 'the executor');
		ok($waits, "a request waits for $name") if $_ == 1 || !$waits;
		sql($locker, 'LOCK TABLE a, c IN ACCESS EXCLUSIVE MODE NOWAIT');
		is($locker->{state}, '00000', "those before it have let go: $name") if $_ == 1 || $locker->{state} ne '00000';
		sql($locker, 'ROLLBACK');
		answer($gate);
		my @answers = map { seen(answer($_)) } @sockets;
		$wrong{"$name: $_"} //= "alone $alone[$_]\ntogether $answers[$_]" foreach grep { $alone[$_] ne $answers[$_] } 0 .. $#answers;
	}
}
is_right('answers after waiting for a lock');

# --- settings and extensions that want each request by itself ---------------------------------------

sub configure
{
	my ($settings, $done) = @_;
	sql($keeper, "ALTER SYSTEM SET $_") foreach @$settings;
	sql($keeper, 'SELECT pg_reload_conf()');
	return until_true($done, "@$settings");
}
sub shown { my ($name) = @_; return ask('GET', "rpc/shown?name=$name")->{body} =~ s/"//gr; }
sql($keeper, q{CREATE FUNCTION shown(name text) RETURNS text LANGUAGE sql STABLE AS 'SELECT current_setting(name)';
CREATE FUNCTION before() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('my.left', 'before', true); END $$});
my @five = map { [ 'GET', "timed?id=eq.$_" ] } 4, 2, 5, 1, 8;
foreach my $setting ([ 'default_transaction_isolation', 'serializable' ], [ 'default_transaction_isolation', 'repeatable read' ], [ 'plan_cache_mode', 'force_custom_plan' ], [ 'orion.rest_prepared_statements', 'off' ], [ 'orion.rest_pre_request', 'before' ])
{
	my ($name, $value) = @$setting;
	ok(configure([ "$name = '$value'" ], sub { shown($name) eq $value }), "$name = $value");
	is_apart("$name = $value", @five);
	configure([ $name eq 'plan_cache_mode' ? "$name = force_generic_plan" : "$name = DEFAULT" ], sub { shown($name) ne $value });
}
ok(configure([ "statement_timeout = '200ms'" ], sub { shown('statement_timeout') eq '200ms' }), 'a time limit');
sql($keeper, q{CREATE VIEW slow AS SELECT a.id, count(*) AS x, now() AS at FROM a, generate_series(1, 3000000) g GROUP BY a.id});
my @limited = map { [ 'GET', "$_" ] } 'timed?id=eq.1', 'timed?id=eq.2', 'slow?id=eq.1', 'timed?id=eq.3', 'timed?id=eq.4';
is(join(' ', map { $_->{status} } together(@limited)), '200 200 500 200 200', '... is for each request alone') for 1 .. 2;
configure([ 'statement_timeout = DEFAULT' ], sub { shown('statement_timeout') eq '0' });

# an extension that sees statements sees each, also one that comes later
sub new_executor
{
	my $old = sql($keeper, q{SELECT pid FROM orion.workers WHERE kind = 'executor'});
	sql($keeper, "SELECT pg_terminate_backend($old)");
	return until_true(sub { my $pid = sql($keeper, q{SELECT pid FROM orion.workers WHERE kind = 'executor' AND state = 'running'}); $pid ne '' && $pid ne $old && ask('GET', 'rpc/look')->{status} == 200 }, 'a new executor');
}
sql($keeper, q{CREATE FUNCTION explain() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN LOAD 'auto_explain'; END $$});
is(ask('POST', 'rpc/explain', json => {})->{status}, 204, 'auto_explain');
ask(@$_) foreach @five, @five;
{
	my $offset = -s $node->logfile;
	is_apart('auto_explain', @five);
	my $logged = () = slurp_file($node->logfile, $offset) =~ /Query Text: SELECT t\.\* FROM "public"\."timed"/g;
	is($logged, 5 * 5, '... and each statement is logged');    # twice alone, three times together
}
ok(new_executor(), 'an executor without it');

# --- what is asked after a change sees it -----------------------------------------------------------

# A statement that runs for some milliseconds is under way, and one that was queued with it has left:
# what comes meanwhile came after its transaction had begun.
sql($keeper, 'CREATE TABLE counter (id int PRIMARY KEY, x int); INSERT INTO counter VALUES (1, 0); CREATE VIEW late AS SELECT l.id, l.n, now() AS at FROM large l');
sub late { my ($n) = @_; return [ 'GET', "late?select=n,at&id=gt.$_[0]&n=gte.0&order=id&limit=1&offset=$_[1]" ]; }
sub fastest { my (@request) = @_; my $best = 1; for (1 .. 4) { my $from = time; ask(@request); my $took = time - $from; $best = $took if $took < $best; } return $best; }
my $length = 5000;
{
	my $base = fastest(@{ late(0, 10) });
	$length *= 1.3 while $length < 150000 && fastest(@{ late(0, int $length) }) - $base < 0.002;
}
my $stale = 0;
foreach my $round (1 .. 6)
{
	my ($gate, $first, $left) = queue_up($stack, $keeper, late(0, int $length), late(0, int $length));
	close $left;
	until_true(sub { $stack->http('GET', '/metrics')->{body} =~ /^orion_http_queue_length 1$/m }, 'one has left');
	my $socket = dial();
	my $bytes = OrionStack::request_bytes('GET', '/rest/v1/' . late(1, int $length)->[1]);
	say_to($keeper, 'SELECT pg_advisory_unlock(1)');
	sleep 0.0003 * $round;
	sql($locker, "UPDATE large SET n = $round WHERE id = " . (int($length) + 2));
	syswrite $socket, $bytes;
	$stale++ if answer($socket)->{body} !~ /"n":$round,/;
	hear($keeper);
	answer($_) foreach $gate, $first;
}
is($stale, 0, 'one that comes later sees what was written before it came');
# --- the executor itself ------------------------------------------------------------------------------

is_apart('an answer between them after which the session is put back', [ 'GET', 'timed?id=eq.1' ],
	[ 'OPTIONS', 'timed', headers => { Origin => 'http://x', 'Access-Control-Request-Method' => 'GET' } ], [ 'GET', 'timed?id=eq.2' ]);

# one that is old leaves at its next look at itself, every 16 requests, however they were served
sub executor_pid { return sql($keeper, q{SELECT coalesce(min(pid), 0) FROM orion.workers WHERE kind = 'executor' AND state = 'running'}); }
sql($keeper, q{CREATE FUNCTION grow() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	r record;
BEGIN
	FOR i IN 0 .. 2100 LOOP
		EXECUTE 'SELECT ROW(' || (SELECT string_agg(CASE WHEN (i >> b) & 1 = 1 THEN '1' ELSE '''x''::text' END, ',') FROM generate_series(0, 11) b) || ') AS x' INTO r;
	END LOOP;
END $$});
{
	my $stayed = 0;
	for (1 .. 4)
	{
		shares('by key', 1, @eight);
		my $pid = executor_pid();
		ask('POST', 'rpc/grow', json => {});
		together(@eight) for 1 .. 2;
		$stayed++ unless until_true(sub { my $other = executor_pid(); $other ne $pid && $other ne '0' }, 'another executor', 3);
		last if $stayed;
	}
	is($stayed, 0, 'an old executor leaves');
}

# what is to be done between two requests is done between those that share as well
shares('by key', 1, [ 'GET', 'a?id=lt.3' ], [ 'GET', 'a?id=lt.4' ], [ 'GET', 'b?id=eq.1' ], [ 'GET', 'b?id=eq.2' ]);
{
	my ($gate, @sockets) = queue_up($stack, $keeper, map { [ 'GET', $_ ] } 'a?id=lt.3', 'b?id=eq.1', 'b?id=eq.2', 'a?id=lt.3', 'a?id=lt.4');
	sql($locker, 'BEGIN; LOCK TABLE b IN ACCESS EXCLUSIVE MODE');
	sql($keeper, 'SELECT pg_advisory_unlock(1)');
	until_true(\&waits_for_lock, 'the executor');
	ok(configure([ 'orion.rest_max_rows = 1' ], sub { sql($keeper, 'SHOW orion.rest_max_rows') eq '1' }), 'settings are changed');
	sql($locker, 'ROLLBACK');
	my @answers = map { answer($_) } $gate, @sockets;
	is(join(' ', map { $_->{headers}{'content-range'} } @answers[ 1, 4, 5 ]), '0-1/* 0-0/* 0-0/*', 'settings are read before what waits is served');
	configure([ 'orion.rest_max_rows = DEFAULT' ], sub { shown('orion.rest_max_rows') eq '-1' });
}
is_right('... and all was right');
end_session($locker);

# --- under load: what was written is read, and never less than before ------------------------------------

# What the code says, in a process of its own.
sub in_background
{
	my ($code) = @_;
	my $pid = open(my $pipe, '-|') // die "fork: $!";
	return $pipe if $pid;
	my $text = eval { $code->() } // "died: $@";
	print $text;
	close STDOUT;
	POSIX::_exit(0);
}
sub said { my ($pipe) = @_; local $/; my $text = <$pipe>; close $pipe; return $text; }

# One answer of a connection that goes on; status 0 when there is none.
sub exchange
{
	my ($socket, @request) = @_;
	syswrite $socket, OrionStack::request_bytes(@request, headers => { Connection => 'keep-alive' }) if @request;
	my $text = eval { local $OrionHttp::timeout = 60; OrionHttp::receive($socket, sub { $_[0] =~ /\r\n\r\n/ && ($_[0] =~ m{^HTTP/1.1 204} || ($_[0] =~ /^content-length: (\d+)\r/mi && length($_[0]) >= index($_[0], "\r\n\r\n") + 4 + $1)) }) };
	return OrionStack::parse($text);
}
sub version { my ($answer) = @_; return $answer->{body} =~ /"version":(\d+)/ ? $1 : "$answer->{status} $answer->{body}"; }

sub write_and_read
{
	my ($id, $end) = @_;
	my ($one, $other) = (dial(), dial());
	for (my $n = 100; time < $end; $n++)
	{
		my $written = exchange($one, 'PATCH', "/rest/v1/w?id=eq.$id", json => { version => $n })->{status};
		my $read = version(exchange($other, 'GET', "/rest/v1/w_timed?id=eq.$id"));
		return "wrote $n ($written), read $read" if $written != 204 || $read ne $n;
	}
	return 'right';
}

sub read_on
{
	my ($end) = @_;
	my @sockets = map { dial() } 1 .. 6;
	my (%last, $shared);
	while (time < $end)
	{
		my @ids = map { 1 + int rand 3 } @sockets;
		my (%times, %next);
		syswrite $sockets[$_], OrionStack::request_bytes('GET', "/rest/v1/w_timed?id=eq.$ids[$_]", headers => { Connection => 'keep-alive' }) foreach 0 .. $#sockets;
		foreach my $i (0 .. $#sockets)
		{
			my $answer = exchange($sockets[$i]);
			my ($id, $version) = ($ids[$i], version($answer));
			return "read $answer->{status} $answer->{body} of $id" if $answer->{body} !~ /"id":$id,/;
			return "read $version after $last{$id}" if $version < ($last{$id} // 0);
			$next{$id} = $version if $version > ($next{$id} // 0);
			$shared++ if $times{ began($answer) }++;
		}
		$last{$_} = $next{$_} foreach keys %next;
	}
	return $shared ? 'right, and shares' : 'right';
}

sub load
{
	my ($name, $seconds) = @_;
	sql($keeper, $reset);
	my $end = time + $seconds;
	my @processes = ((map { my $id = $_; in_background(sub { write_and_read($id, $end) }) } 1, 2), map { in_background(sub { read_on($end) }) } 1 .. 3);
	my $wrong = 0;
	for (my $n = 100; time < $end; $n++)
	{
		sql($keeper, "UPDATE w SET version = $n WHERE id = 3");
		$wrong++ if version(ask('GET', 'w_timed?id=eq.3')) ne $n;
	}
	is($wrong, 0, "what SQL has committed is read: $name");
	my @said = map { said($_) } @processes;
	is(join(', ', grep { !/^right/ } @said), '', "what was written is read, and never less than before: $name");
	return scalar grep { /shares/ } @said;
}
my $sharing = 0;
for (1 .. 5) { last if $sharing; $sharing = load('one executor', 1.5); }
ok($sharing, 'reads share a transaction under load');

# --- changes while it is read -----------------------------------------------------------------------------

sub hammer
{
	my ($end, @targets) = @_;
	my %statuses;
	my @sockets = map { dial() } 1 .. 4;
	while (time < $end)
	{
		foreach my $socket (@sockets)
		{
			$socket = dial() unless $socket && $socket->connected;
			syswrite $socket, OrionStack::request_bytes('GET', '/rest/v1/' . one(@targets) . one(1, 2), headers => { Connection => 'keep-alive' });
		}
		foreach my $socket (@sockets)
		{
			my $answer = exchange($socket);
			$statuses{ $answer->{status} . ($answer->{status} >= 500 ? " $answer->{body}" : '') }++;
			undef $socket if !$answer->{status} || ($answer->{headers}{connection} // '') eq 'close';
		}
	}
	return join "\n", sort keys %statuses;
}
my $ddl = 'CREATE TABLE ddl (id int PRIMARY KEY, v text); INSERT INTO ddl SELECT g, $$v$$ || g FROM generate_series(1, 20) g; CREATE INDEX ddl_v ON ddl (v)';
my @changes = (
	[ 'REVOKE SELECT ON ddl FROM PUBLIC', qr/^401/ ],
	[ 'GRANT SELECT ON ddl TO PUBLIC', qr/^200 \[\{"id":1,"v":"v1"\}\]$/ ],
	[ 'ALTER TABLE ddl ADD more int DEFAULT 7', qr/"more":7/ ],
	[ 'ALTER TABLE ddl DROP more', qr/^200 \[\{"id":1,"v":"v1"\}\]$/ ],
	[ 'ALTER TABLE ddl ALTER id TYPE bigint', qr/^200 \[\{"id":1,"v":"v1"\}\]$/ ],
	[ 'ALTER TABLE ddl ENABLE ROW LEVEL SECURITY', qr/^200 \[\]$/ ],
	[ 'CREATE POLICY p ON ddl USING (id = 1 AND orion_uid() IS NULL)', qr/"v1"/ ],
	[ 'ALTER POLICY p ON ddl USING (id = 2)', qr/^200 \[\]$/ ],
	[ 'DROP POLICY p ON ddl; ALTER TABLE ddl DISABLE ROW LEVEL SECURITY; DROP INDEX ddl_v', qr/"v1"/ ],
	[ 'ALTER TABLE ddl DROP CONSTRAINT ddl_pkey', qr/"v1"/ ],
	[ 'TRUNCATE ddl', qr/^200 \[\]$/ ],
	[ q{INSERT INTO ddl VALUES (1, 'new')}, qr/"new"/ ],
	[ 'DROP TABLE ddl', qr/^404/ ],
	[ $ddl, qr/"v1"/ ],
	[ "ALTER TABLE ddl RENAME TO ddl_old; CREATE VIEW ddl AS SELECT id, 'view'::text AS v FROM ddl_old", qr/"view"/ ],
	[ 'DROP VIEW ddl; ALTER TABLE ddl_old RENAME TO ddl', qr/"v1"/ ],
	[ q{ALTER ROLE orion_anon SET statement_timeout = '77s'}, qr/"v1"/ ],
	[ 'ALTER ROLE orion_anon RESET statement_timeout', qr/"v1"/ ],
);
{
	sql($keeper, $ddl);
	my $end = time + 3;
	my @processes = map { in_background(sub { hammer($end, 'ddl?id=eq.', 'ddl?id=eq.', 'ddl?v=eq.v', 'timed?id=eq.') }) } 1 .. 2;
	my %unseen;
	while (time < $end)
	{
		foreach my $change (@changes)
		{
			sql($keeper, "BEGIN; $change->[0]; COMMIT");
			my $answer = ask('GET', 'ddl?id=eq.1');
			$unseen{"$keeper->{state} $change->[0]"} = $answer->{body} if "$answer->{status} $answer->{body}" !~ $change->[1];
		}
	}
	is(join(', ', map { "$_: $unseen{$_}" } sort keys %unseen), '', 'changes are seen by what is asked after them');
	my %said = map { $_ => 1 } map { split /\n/, said($_) } @processes;
	is(join(' ', grep { !/^(?:200|401|404|400)$/ } sort keys %said), '', 'and nothing fails meanwhile');
}
{
	my @processes = map { in_background(sub { hammer(time + 1.5, 'mine?id=eq.', 'timed?select=id,v,at&id=eq.') }) } 1 .. 2;
	ok(configure([ "orion.rest_anon_role = 'member'" ], sub { ask('GET', 'mine?id=eq.1')->{body} =~ /"who":"member"/ }), 'another role of nobody');
	ok(configure([ "orion.rest_schemas = 'other, public'" ], sub { ask('GET', 'timed?select=id,v,at&id=eq.1')->{body} =~ /"other1"/ }), 'another schema');
	configure([ 'orion.rest_anon_role = DEFAULT', "orion.rest_schemas = 'public, other'" ], sub { ask('GET', 'mine?id=eq.1')->{body} =~ /"who":"orion_anon"/ });
	my %said = map { $_ => 1 } map { split /\n/, said($_) } @processes;
	is(join(' ', grep { !/^(?:200|404)$/ } sort keys %said), '', 'nothing fails meanwhile, either');    # only one schema has the view
}

# --- ends of executors, clients that leave -----------------------------------------------------------------

{
	my @alone = map { seen(ask(@$_)) } @eight, @eight;
	my ($gate, @sockets) = queue_up($stack, $keeper, @eight);
	close $sockets[$_] foreach 1, 5;
	until_true(sub { $stack->http('GET', '/metrics')->{body} =~ /^orion_http_queue_length 6$/m }, 'two have left');
	sql($keeper, 'SELECT pg_advisory_unlock(1)');
	answer($gate);
	is(join(' ', grep { seen(answer($sockets[$_])) ne $alone[$_] } 0, 2, 3, 4, 6, 7), '', 'clients that leave take nothing from others');

	($gate, @sockets) = queue_up($stack, $keeper, @eight);
	my $pid = executor_pid();
	sql($keeper, "SELECT pg_terminate_backend($pid)");
	ok(until_true(sub { my $other = executor_pid(); $other ne $pid && $other ne '0' }, 'another executor'), 'an executor is terminated');
	sql($keeper, 'SELECT pg_advisory_unlock(1)');
	answer($gate);
	is(join(' ', grep { seen(answer($sockets[$_])) ne $alone[$_] } 0 .. 7), '', 'the next one serves what waits');

	my @processes = map { in_background(sub { hammer(time + 1.5, 'timed?id=eq.', 'large_timed?x=eq.5&limit=1&offset=20&id=gt.') }) } 1 .. 2;
	for my $n (1 .. 12) { sql($keeper, ($n % 6 ? 'SELECT pg_cancel_backend(' : 'SELECT pg_terminate_backend(') . executor_pid() . ')'); sleep rand 0.1; }
	my %said = map { $_ => 1 } map { split /\n/, said($_) } @processes;
	is(join(' ', grep { !/^(?:0$|200$|50[023])/ } sort keys %said), '', 'cancelled and terminated at any time');
	ok(until_true(sub { executor_pid() }, 'an executor'), 'there is an executor again');
	shares('by key', 1, @eight);
	is_right('... and answers are right');
}

# --- several executors and gateways, a standby ---------------------------------------------------------------

configure([ 'orion.executor_count = 2', 'orion.gateway_count = 2' ], sub { sql($keeper, q{SELECT count(*) FROM orion.workers WHERE kind IN ('executor', 'gateway') AND state = 'running'}) eq '4' });
load('two executors, two gateways', 1.5);
configure([ 'orion.executor_count = 1', 'orion.gateway_count = 1' ], sub { sql($keeper, q{SELECT count(*) FROM orion.workers WHERE kind IN ('executor', 'gateway')}) eq '2' });
is_right('all was right');

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
my $standby_port = PostgreSQL::Test::Cluster::get_free_port();
$standby->append_conf('postgresql.conf', "orion.http_port = $standby_port\n");
chmod 0600, $standby->data_dir . '/orion_master.key';
$standby->start;
my $there = bless { %$stack, http_port => $standby_port, node => $standby }, ref $stack;
ok($stack->until_true(sub { $there->is_ready }, 60), 'a standby is ready');
my $standby_keeper = session($standby);
answer(send_request($there, @$_)) foreach @eight, @eight;
is(transactions(let_go($standby_keeper, queue_up($there, $standby_keeper, @eight))), 8, 'nothing is shared on a standby') for 1 .. 3;
end_session($standby_keeper);
$standby->stop('immediate');

# --- a crash ---------------------------------------------------------------------------------------------------

{
	my @alone = map { seen(ask(@$_)) } @eight, @eight;
	my ($gate, @sockets) = queue_up($stack, $keeper, @eight);
	kill KILL => executor_pid();
	eval { answer($_) } foreach $gate, @sockets;
	close $keeper->{in};
	waitpid $keeper->{pid}, 0;
	ok($stack->until_true(sub { $stack->is_ready }, 60), 'the server is back after a crash');
	$keeper = session($node);
	ask(@$_) foreach @eight;
	my @answers = together(@eight);
	is(join(' ', grep { seen($answers[$_]) ne $alone[$_] } 0 .. 7), '', '... and answers are right');
}
my @warnings = grep { /WARNING:|TRAP|PANIC|planned in a transaction|left its transaction open/ && !/because of crash|067_reads_together\.pl/ } split /\n/, slurp_file($node->logfile);
is(join("\n", @warnings), '', 'nothing is warned of');
end_session($keeper);
done_testing();
