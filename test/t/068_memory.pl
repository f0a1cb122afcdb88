# An executor's memory does not grow, whatever it is asked: reads, embeds, writes, functions,
# batches, errors of every kind, tokens good and bad, names that nobody has ever heard of, large
# bodies and answers, and DDL in between. Here some thousand requests; `make soak` sends a million
# (ORION_REQUESTS). Compared is what executors have of their own at most (RssAnon, which sees
# libraries too) in the second half of the run and before. ORION_SEED repeats a run.
use strict;
use warnings;
use IO::Socket::INET;
use JSON::PP ();
use OrionStack;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $requests = $ENV{ORION_REQUESTS} // 16000;
my $soak = $requests >= 500_000;
my $seed = $ENV{ORION_SEED} // 20261121;
my $clients = 4;
my $samples = $soak ? 50 : 12;
my $users = $soak ? 2000 : 60;
my $password = 'a quite secret horse';
note("ORION_SEED=$seed, $requests requests");

my $stack = OrionStack->new('memory', conf => qq{
orion.executor_count = 2
orion.auth_password_memory = '7168kB'
orion.auth_password_time = 1
orion.rest_aggregates_enabled = on
orion.jwt_cache_entries = 500
max_wal_size = 4GB
fsync = off
log_min_messages = log
log_checkpoints = off
log_min_error_statement = panic
});
my $json = JSON::PP->new->utf8->canonical->allow_nonref;
$stack->sql(q{
CREATE TABLE authors (id int PRIMARY KEY, name text NOT NULL, born date);
CREATE TABLE books (id bigserial PRIMARY KEY, author_id int REFERENCES authors, title text NOT NULL, price numeric(8,2) CHECK (price >= 0), tags text[] DEFAULT '{}', extra jsonb DEFAULT '{}', version int NOT NULL DEFAULT 1);
CREATE INDEX ON books (author_id);
CREATE TABLE notes (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), owner uuid DEFAULT orion_uid(), body text);
ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON notes USING (owner = orion_uid()) WITH CHECK (owner = orion_uid());
CREATE TABLE slots (k int PRIMARY KEY, v text, n int DEFAULT 0);
CREATE VIEW cheap AS SELECT * FROM books WHERE price < 10;
GRANT SELECT ON authors, books, cheap TO orion_anon, orion_user;
GRANT SELECT, INSERT, UPDATE, DELETE ON slots, books TO orion_anon, orion_user;
GRANT USAGE ON SEQUENCE books_id_seq TO orion_anon, orion_user;
GRANT SELECT, INSERT, UPDATE, DELETE ON notes TO orion_user;
INSERT INTO authors SELECT i, 'author ' || i, date '1900-01-01' + i FROM generate_series(1, 500) i;
INSERT INTO books (author_id, title, price) SELECT 1 + i % 500, 'title ' || i, i % 50 FROM generate_series(1, 5000) i;
INSERT INTO slots SELECT k, 'v' FROM generate_series(1, 1000) k;
CREATE FUNCTION add_up(a int, b int DEFAULT 1) RETURNS int LANGUAGE sql STABLE AS 'SELECT a + b';
CREATE FUNCTION some_books(n int) RETURNS SETOF books LANGUAGE sql STABLE AS 'SELECT * FROM books ORDER BY id LIMIT n';
CREATE FUNCTION long_text(n int) RETURNS text LANGUAGE sql STABLE AS $$ SELECT repeat('x', n) $$;
CREATE FUNCTION size_of(doc jsonb) RETURNS int LANGUAGE sql STABLE AS 'SELECT length(doc::text)';
CREATE FUNCTION whole(json) RETURNS int LANGUAGE sql STABLE AS 'SELECT length($1::text)';
CREATE FUNCTION fail(how text) RETURNS int LANGUAGE plpgsql VOLATILE AS $$
BEGIN
	CASE how
		WHEN 'teapot' THEN RAISE SQLSTATE 'PT418' USING MESSAGE = 'teapot', DETAIL = 'd', HINT = 'h';
		WHEN 'json' THEN RAISE SQLSTATE 'PGRST' USING MESSAGE = '{"code":"123","message":"m"}', DETAIL = '{"status":402,"headers":{"X-A":"b"}}';
		WHEN 'divide' THEN RETURN 1 / 0;
		WHEN 'deep' THEN
			FOR i IN 1..20 LOOP
				BEGIN RAISE EXCEPTION 'inner %', i; EXCEPTION WHEN OTHERS THEN NULL; END;
			END LOOP;
			RAISE EXCEPTION 'after all';
		ELSE RETURN 0;
	END CASE;
END $$;
CREATE FUNCTION leave() RETURNS text LANGUAGE plpgsql VOLATILE AS $$
BEGIN
	PERFORM set_config('app.mine', md5(random()::text), false), pg_advisory_lock(4711), set_config('response.headers', '[{"X-Mine":"1"}]', true);
	EXECUTE 'PREPARE mine AS SELECT 1';
	CREATE TEMP TABLE mine AS SELECT generate_series(1, 100) AS i;
	EXECUTE 'DECLARE mine CURSOR WITH HOLD FOR SELECT * FROM mine';
	RETURN 'left';
END $$;
GRANT TEMP ON DATABASE postgres TO PUBLIC;
});
my $user = $stack->http('POST', '/api/auth/register', json => { email => 'ann@example.com', password => $password });
is($user->{status}, 201, 'a user');
my $ann = $user->{json}{user}{id};
my $key = $stack->sql("SELECT (orion_private.api_key_create('$ann', 'soak', NULL, NULL, NULL)).key");
like($key, qr/^ork_/, 'with an API key');
my @tokens = split /\n/, $stack->sql("SELECT orion_jwt_sign(jsonb_build_object('sub', md5(i::text)::uuid, 'role', 'orion_user', 'exp', extract(epoch FROM now())::int + 86400)) FROM generate_series(1, $users) i");
my @dead = split /\n/, $stack->sql(q{SELECT orion_jwt_sign(jsonb_build_object('sub', md5(i::text)::uuid, 'role', 'orion_user', 'exp', extract(epoch FROM now())::int - 100)) FROM generate_series(1, 50) i});
is(scalar(@tokens), $users, 'tokens of others');

# --- what is asked ------------------------------------------------------------------

my $number = 0;    # of the request, different in each client
sub below { return int rand $_[0]; }
sub token { return $tokens[ below(scalar @tokens) ]; }
# a name that is new each time; in the short run one of a hundred, since PostgreSQL remembers
# what does not exist and forgets it after some thousand of them only
sub strange { return 'strange_' . ($soak ? $number : $number % 100); }
my $large = $json->encode({ doc => { text => 'y' x 900_000 } });

my @kinds = (
	# weight, statuses, request
	[ 120, '200', sub { [ GET => '/rest/v1/authors?id=eq.' . (1 + below(500)) ] } ],
	[ 60, '200', sub { [ GET => '/rest/v1/books?select=id,title,price&price=lt.' . below(50) . '&order=id.desc&limit=' . (1 + below(40)) ] } ],
	[ 40, '200', sub { [ GET => '/rest/v1/authors?select=name,books(title,price)&limit=10&offset=' . below(400) ] } ],
	[ 30, '200', sub { [ GET => '/rest/v1/books?select=title,authors!inner(name)&authors.id=lt.' . below(500) . '&limit=5' ] } ],
	[ 20, '20[06]', sub { [ GET => '/rest/v1/cheap?limit=3', { Prefer => 'count=' . qw(exact planned estimated)[ below(3) ] } ] } ],
	[ 15, '200', sub { [ GET => '/rest/v1/books?limit=50', { Accept => qw(text/csv application/x-ndjson)[ below(2) ] } ] } ],
	[ 10, '200|406', sub { [ GET => '/rest/v1/authors?id=eq.' . below(600), { Accept => 'application/vnd.pgrst.object+json' } ] } ],
	[ 20, '200', sub { [ GET => '/rest/v1/books?select=a' . below($soak ? 1e6 : 40) . ':title,b:price&limit=1' ] } ],
	[ 10, '200', sub { [ GET => '/rest/v1/books?id=in.(' . join(',', map { below(5000) } 0 .. below(100)) . ')' ] } ],
	[ 10, '200', sub { [ GET => '/rest/v1/books?select=author_id,price.sum()&author_id=lt.' . below(20) ] } ],
	[ 10, '200', sub { [ HEAD => '/rest/v1/books?limit=1' ] } ],
	[ 5, '200', sub { [ OPTIONS => '/rest/v1/books' ] } ],
	[ 5, '200', sub { [ OPTIONS => '/rest/v1/books', { Origin => 'https://a.example', 'Access-Control-Request-Method' => 'POST' } ] } ],
	[ 1, '200', sub { [ GET => '/rest/v1/' ] } ],
	[ 60, '200', sub { [ GET => '/rest/v1/notes?select=id,body', { Authorization => 'Bearer ' . token() } ] } ],
	[ 30, '201', sub { [ POST => '/rest/v1/notes', { Authorization => 'Bearer ' . token(), Prefer => 'return=representation' }, '{"body":"n' . $number . '"}' ] } ],
	[ 10, '204', sub { [ DELETE => '/rest/v1/notes?body=like.n*', { Authorization => 'Bearer ' . token() } ] } ],
	[ 20, '200', sub { [ GET => '/api/user/profile', { Authorization => "Bearer $key" } ] } ],
	[ 20, '200', sub { [ GET => '/rest/v1/authors?limit=1', { Authorization => "Bearer $key" } ] } ],
	[ 30, '401', sub { [ GET => '/rest/v1/notes', { Authorization => 'Bearer ' . (token() =~ s/.{6}$/sprintf '%06d', below(1e6)/er) } ] } ],
	[ 10, '401', sub { [ GET => '/rest/v1/notes', { Authorization => 'Bearer ' . $dead[ below(50) ] } ] } ],
	[ 10, '401', sub { [ GET => '/rest/v1/notes', { Authorization => 'Bearer ork_' . join('', map { chr(97 + below(26)) } 1 .. 44) } ] } ],
	[ 10, '401', sub { [ GET => '/rest/v1/notes', { Authorization => 'Bearer x.' . $number . '.y' } ] } ],
	[ 10, '401', sub { [ GET => '/rest/v1/notes' ] } ],
	[ 30, '201|409', sub { [ POST => '/rest/v1/slots', {}, '{"k":' . (1000 + below(2000)) . ',"v":"a"}' ] } ],
	[ 20, '20[01]', sub { [ POST => '/rest/v1/slots', { Prefer => 'resolution=merge-duplicates,return=representation' }, '[' . join(',', map { '{"k":' . (3000 + $_) . ",\"v\":\"$number\"}" } 1 .. 1 + below(100)) . ']' ] } ],
	[ 10, '20[01]', sub { [ POST => '/rest/v1/slots', { 'Content-Type' => 'text/csv', Prefer => 'resolution=merge-duplicates' }, "k,v\n" . join('', map { (4000 + $_) . ",v\n" } 1 .. 50) ] } ],
	[ 30, '204', sub { [ PATCH => '/rest/v1/slots?k=eq.' . below(1000), {}, "{\"n\":$number}" ] } ],
	[ 10, '204', sub { [ DELETE => '/rest/v1/slots?k=eq.' . (1000 + below(2000)) ] } ],
	[ 5, '20[14]', sub { my $k = 5000 + below(100); [ PUT => "/rest/v1/slots?k=eq.$k", {}, "{\"k\":$k,\"v\":\"p\",\"n\":1}" ] } ],
	[ 10, '400', sub { [ POST => '/rest/v1/books', {}, '{"author_id":1,"title":"t","price":-1}' ] } ],
	[ 10, '409', sub { [ POST => '/rest/v1/books', {}, '{"author_id":100000,"title":"t"}' ] } ],
	[ 40, '200', sub { [ GET => '/rest/v1/rpc/add_up?a=' . below(100) ] } ],
	[ 20, '200', sub { [ POST => '/rest/v1/rpc/add_up', {}, '{"a":1,"b":' . below(100) . '}' ] } ],
	[ 10, '20[06]', sub { [ GET => '/rest/v1/rpc/some_books?n=20&select=title,authors(name)&price=gt.' . below(50), { Prefer => 'count=exact' } ] } ],
	[ 30, '4(18|02|00)', sub { [ POST => '/rest/v1/rpc/fail', {}, '{"how":"' . qw(teapot json divide deep)[ below(4) ] . '"}' ] } ],
	[ 5, '200', sub { [ POST => '/rest/v1/rpc/leave', {}, '{}' ] } ],
	[ 2, '200', sub { [ POST => '/rest/v1/rpc/size_of', {}, $large ] } ],
	[ 20, '200', sub { [ POST => '/rest/v1/rpc/size_of', {}, '{"doc":"' . 'z' x (16_000 + below(8_000)) . '"}' ] } ],
	[ 2, '200', sub { [ GET => '/rest/v1/rpc/long_text?n=' . (1 + below(1_000_000)), below(2) ? { 'Accept-Encoding' => 'gzip' } : {} ] } ],
	[ 20, '404', sub { [ GET => '/rest/v1/' . strange() ] } ],
	[ 10, '404', sub { [ POST => '/rest/v1/rpc/' . strange(), {}, '{"a":1}' ] } ],
	[ 10, '400', sub { [ GET => '/rest/v1/books?select=' . strange() ] } ],
	[ 10, '400', sub { [ GET => '/rest/v1/books?' . strange() . '=eq.1' ] } ],
	[ 5, '400', sub { [ GET => '/rest/v1/books?select=title,' . strange() . '(*)' ] } ],
	[ 5, '406', sub { [ GET => '/rest/v1/books', { 'Accept-Profile' => strange() } ] } ],
	[ 10, '400', sub { [ GET => '/rest/v1/books?price=xx.' . $number ] } ],
	[ 10, '400', sub { [ POST => '/rest/v1/slots', {}, '{"k":' . $number . ',' ] } ],
	[ 5, '404', sub { [ GET => '/nowhere/' . $number ] } ],
	[ 10, '201', sub { [ POST => '/rest/v1/books', { 'Idempotency-Key' => "$$-$number", Prefer => 'return=representation' }, '{"author_id":1,"title":"once","price":1}' ] } ],
	[ 10, '200', sub { [ POST => '/batch', {}, '[{"id":"b","method":"POST","path":"/books","body":{"author_id":2,"title":"batch"}},{"method":"PATCH","path":"/books?id=eq.$b.id","body":{"price":3}},{"method":"DELETE","path":"/books?id=eq.$b.id"}]' ] } ],
	[ 5, '4\d\d', sub { [ POST => '/batch', {}, '[{"method":"GET","path":"/books?limit=1"},{"method":"GET","path":"/' . strange() . '"}]' ] } ],
	[ 5, '200', sub { [ POST => '/batch', {}, '{"atomic":false,"operations":[{"method":"GET","path":"/books?limit=1"},{"method":"GET","path":"/books?nothing=eq.1"}]}' ] } ],
	[ 5, '200|412', sub { [ PATCH => '/rest/v1/books?id=eq.' . (1 + below(100)), { 'If-Match' => '"' . (1 + below(3)) . '"', Prefer => 'return=representation' }, '{"title":"e"}' ] } ],
	[ 1, '401|429', sub { [ POST => '/api/auth/login', {}, "{\"email\":\"nobody$number\@example.com\",\"password\":\"$password\"}" ] } ],
);
my @wheel = map { ($_) x $_->[0] } @kinds;

sub bytes
{
	my ($method, $path, $headers, $body) = @_;
	my $text = "$method $path HTTP/1.1\r\nHost: a\r\n" . join('', map { "$_: $headers->{$_}\r\n" } keys %{ $headers // {} });
	return "$text\r\n" unless defined $body;
	$text .= "Content-Type: application/json\r\n" unless $headers->{'Content-Type'};
	return "${text}Content-Length: " . length($body) . "\r\n\r\n$body";
}

# Reads one answer from the socket's buffer; returns its status, and its body unless it came in parts.
sub answer
{
	my ($socket, $buffer, $head_only) = @_;
	my $more = sub { sysread($socket, $$buffer, 262144, length $$buffer) or die "the connection ended: $!"; };
	$more->() while index($$buffer, "\r\n\r\n") < 0;
	my $end = index($$buffer, "\r\n\r\n") + 4;
	my $head = substr($$buffer, 0, $end, '');
	my ($status) = $head =~ m{^HTTP/1\.1 (\d{3})};
	my $body = '';
	if ($head =~ /^Transfer-Encoding: chunked/mi && !$head_only)
	{
		for (;;)
		{
			$more->() while index($$buffer, "\r\n") < 0;
			$$buffer =~ s/^([0-9a-fA-F]+)\r\n// or die 'no chunk';
			my $size = hex $1;
			$more->() while length $$buffer < $size + 2;
			substr($$buffer, 0, $size + 2, '');
			last if $size == 0;
		}
	}
	elsif (!$head_only && $head =~ /^Content-Length: (\d+)/mi)
	{
		my $size = $1;
		$more->() while length $$buffer < $size;
		$body = substr($$buffer, 0, $size, '');
	}
	return wantarray ? ($status, $body) : $status;
}

# Sends so many requests, four at a time; returns the number of answers that were not expected.
sub send_some
{
	my ($count, $client) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $stack->{http_port}) or die "cannot connect: $@";
	my ($buffer, $odd) = ('', 0);
	while ($count > 0)
	{
		my $n = $count < 4 ? $count : 4;
		my @sent;
		for (1 .. $n)
		{
			my $kind = $wheel[ below(scalar @wheel) ];
			$number += $clients;
			push @sent, [ $kind, $kind->[2]->() ];
		}
		my $text = join '', map { bytes(@{ $_->[1] }) } @sent;
		while (length $text)
		{
			my $done = syswrite($socket, $text) or die "cannot send: $!";
			substr($text, 0, $done, '');
		}
		for my $one (@sent)
		{
			my ($status, $body) = answer($socket, \$buffer, $one->[1][0] eq 'HEAD');
			next if $status =~ /^(?:$one->[0][1])$/;
			print STDERR "# $one->[1][0] $one->[1][1]: $status instead of $one->[0][1]: @{[ substr($body, 0, 200) ]}\n" if $odd++ < 3;
		}
		$count -= $n;
	}
	return $odd;
}

# --- the run ---------------------------------------------------------------------------

sub executors { return sort { $a <=> $b } split /\n/, $stack->sql("SELECT pid FROM orion.workers WHERE kind = 'executor'"); }
sub memory { return map { slurp_file("/proc/$_/status") =~ /^RssAnon:\s+(\d+) kB/m ? $1 : 0 } @_; }

my %pids = map { $_ => 1 } executors();
is(scalar(keys %pids), 2, 'two executors');
my @seen;    # the larger one's, each time
my $begin = time;
for my $sample (0 .. $samples - 1)
{
	my @children;
	for my $client (0 .. $clients - 1)
	{
		push @children, OrionStack::spawn(sub {
			srand($seed + $sample * $clients + $client);
			$number = int($sample * $requests / $samples) * $clients + $client;
			my $odd = send_some(int($requests / $samples / $clients), $client);
			POSIX::_exit($odd ? 3 : 0);
		});
	}
	my $bad = 0;
	for my $child (@children) { waitpid($child, 0); $bad ||= $?; }
	is($bad, 0, "part $sample: every answer was one that was to be expected");
	$stack->sql("CREATE TABLE ddl_$sample (a int); DROP TABLE ddl_$sample; COMMENT ON TABLE books IS '$sample'; TRUNCATE notes; DELETE FROM books WHERE id > 5000; ANALYZE");
	my @now = memory(executors());
	$pids{$_} = 1 foreach executors();
	push @seen, (sort { $b <=> $a } @now)[0];
	note(sprintf '%d requests, %.0f s: %s kB', ($sample + 1) * int($requests / $samples), time - $begin, join ' ', @now);
}
sub most { return (sort { $b <=> $a } @_)[0]; }
my ($early, $late) = (most(@seen[ @seen / 8 .. @seen / 2 - 1 ]), most(@seen[ @seen / 2 .. $#seen ]));
diag(sprintf 'executors have at most %.1f MB in the first half, %.1f MB in the second', $early / 1024, $late / 1024);
# which executor gets what is chance: one may see its first login or large answer late in a short run
cmp_ok($late, '<=', $early * 1.05 + ($soak ? 2048 : 4096), 'no executor grows') or diag("RssAnon in kB: @seen");
is(slurp_file($stack->node->logfile) =~ /is not understood|PANIC|FATAL/ ? $& : '', '', 'gateway and executors understood each other');

# --- what a process cannot forget: shapes of rows that PostgreSQL makes a record of, which clients
# choose; plain answers need none, those without nulls do. The million has seen many

# Asks for rows of ever new shapes until all executors are others; the number of requests, or 0.
sub replaced_after
{
	my ($mark, $columns, $most) = @_;
	my %before = map { $_ => 1 } executors();
	my $wide = join ',', map { "%s$_:k" } 1 .. $columns;
	my @sockets = map { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $stack->{http_port}) // die } 1 .. $clients;
	my @buffers = ('') x $clients;
	for (my $n = 0; $n < $most;)
	{
		for my $socket (@sockets)
		{
			my $name = $mark . $n++ . '_';
			syswrite($socket, bytes(GET => '/rest/v1/slots?limit=1&select=' . ($wide =~ s/%s/$name/gr),
				{ Accept => 'application/vnd.pgrst.array+json;nulls=stripped' }));
		}
		for my $i (0 .. $#sockets)
		{
			my $status = answer($sockets[$i], \$buffers[$i]);
			is($status, 200, "$columns columns: the request is answered") if $status != 200;
		}
		return $n if $n % 100 == 0 && !grep { $before{$_} } executors();
	}
	return 0;
}
if (!$soak)
{
	my $after = replaced_after('a', 5, 12000);
	cmp_ok($after, '>', 2000, "an executor that has seen many shapes of rows is replaced ($after)");
	$stack->sql('ALTER SYSTEM SET orion.executor_max_memory = 32768');
	$stack->sql('SELECT pg_reload_conf()');
	$after = replaced_after('b', 700, 3000);
	cmp_ok($after, '>', 0, "and so is one with much memory ($after)");
	cmp_ok($after, '<', 1900, 'whatever it is of');
}
is($stack->sql("SELECT sum(restarts) FROM orion.workers WHERE kind = 'executor'"), '0', 'which is no failure');

$stack->node->stop;
done_testing();
