# The HTTP API beyond a GET by key: pages with embedded rows, bulk inserts, neighbours
# that sleep, many tables, idle connections.
package Figure::Api;

use strict;
use warnings;
use HTTP::Tiny;
use IO::Socket::INET;
use OrionBench;
use POSIX ();
use Time::HiRes qw(sleep time);

my $authors = 1000;

figure embed => sub {
	$server->needs('orion_route_add');
	$server->sql('CREATE TABLE IF NOT EXISTS public.bench_author (id int PRIMARY KEY, name text NOT NULL, born date NOT NULL)',
		'CREATE TABLE IF NOT EXISTS public.bench_book (id int PRIMARY KEY, author_id int NOT NULL REFERENCES public.bench_author, title text NOT NULL)',
		"INSERT INTO public.bench_author SELECT i, 'author number ' || i, date '1900-01-01' + i FROM generate_series(1, $authors) i ON CONFLICT DO NOTHING",
		"INSERT INTO public.bench_book SELECT i, 1 + i % $authors, 'title number ' || i FROM generate_series(1, 5 * $authors) i ON CONFLICT DO NOTHING",
		'CREATE INDEX IF NOT EXISTS bench_book_author ON public.bench_book (author_id)',
		'VACUUM ANALYZE public.bench_author', 'VACUUM ANALYZE public.bench_book',
		'GRANT SELECT ON public.bench_author, public.bench_book TO orion_anon');
	my $url = $server->url;
	my $path = '/rest/v1/bench_author?select=id,name,born,bench_book(id,title)&order=id&limit=100';
	my $answer = HTTP::Tiny->new->get("$url$path");
	die "GET $path: $answer->{status} $answer->{content}\n" unless $answer->{status} == 200 && $answer->{content} =~ /"bench_book":\s*\[\{"id"/;
	my $script = file('embed.sql', <<'SQL');
SELECT json_agg(row_to_json(t)) FROM (SELECT a.id, a.name, a.born, b.bench_book FROM public.bench_author a LEFT JOIN LATERAL (SELECT json_agg(row_to_json(b)) AS bench_book FROM (SELECT id, title FROM public.bench_book WHERE author_id = a.id) b) b ON true ORDER BY a.id LIMIT 100) t;
SQL
	compare(
		what => 'page of 100 rows with an embed / pgbench',
		ours => sub { my $r = $server->wrk("$option{here}/get_one.lua", 32, $url, '--', $path); return ($r->{rate}, $r->{requests}); },
		other => sub { $server->pgbench($script, 8) },
		unit => '1/s',
		target => '>= 0.7');
};

figure bulk => sub {
	$server->needs('orion_route_add');
	$server->sql('CREATE TABLE IF NOT EXISTS public.bench_bulk (id int, name text, price numeric, at timestamptz)',
		'GRANT SELECT, INSERT ON public.bench_bulk TO orion_anon');
	my $url = $server->url . '/rest/v1/bench_bulk';
	my $rows = '[' . join(',', map { qq({"id": $_, "name": "row number $_", "price": $_.5, "at": "2026-01-01T00 00 00Z"}) =~ s/T00 00 00Z//r } 1 .. 10_000) . ']';
	my $script = file('bulk.sql', "INSERT INTO public.bench_bulk SELECT * FROM json_populate_recordset(NULL::public.bench_bulk, '$rows');\n");
	my $client = HTTP::Tiny->new(timeout => 60);
	my $ours = sub {
		$server->sql('TRUNCATE public.bench_bulk');
		my ($n, $from) = (0, time);
		while (time - $from < $option{seconds})
		{
			my $answer = $client->post($url, { content => $rows, headers => { 'Content-Type' => 'application/json', Prefer => 'return=minimal' } });
			die "POST: $answer->{status} $answer->{content}\n" if $answer->{status} != 201;
			$n++;
		}
		my $rate = $n / (time - $from);
		die "not every row was written\n" if $server->sql('SELECT count(*) FROM public.bench_bulk') != $n * 10_000;
		return ($rate, $n);
	};
	compare(
		what => 'insert of 10,000 rows / json_populate_recordset',
		ours => $ours,
		other => sub { $server->sql('TRUNCATE public.bench_bulk'); $server->pgbench($script, 1, '-M', 'simple') },
		unit => '1/s',
		target => '>= 0.8');
};

# So many clients keep as many executors in pg_sleep(1); returns what ends them.
sub sleepers
{
	my ($url, $count) = @_;
	my @pids;
	for (1 .. $count)
	{
		my $pid = fork // die "fork: $!\n";
		if ($pid == 0)
		{
			my $client = HTTP::Tiny->new(timeout => 10);
			while (getppid() != 1) { $client->post("$url/rest/v1/rpc/bench_sleep", { content => '{}', headers => { 'Content-Type' => 'application/json' } }); }
			POSIX::_exit(0);
		}
		push @pids, $pid;
	}
	return sub { kill 'KILL', @pids; waitpid($_, 0) foreach @pids; };
}

figure sleep => sub {
	$server->needs('orion_route_add');
	$server->sql('CREATE TABLE IF NOT EXISTS public.bench_item (id int PRIMARY KEY, owner uuid, name text)',
		'CREATE OR REPLACE FUNCTION public.bench_sleep() RETURNS void LANGUAGE sql VOLATILE AS $$ SELECT pg_sleep(1) $$',
		'GRANT EXECUTE ON FUNCTION public.bench_sleep() TO orion_anon', 'GRANT SELECT ON public.bench_item TO orion_anon');
	my $url = $server->url;
	my $executors = $server->sql('SHOW orion.executor_count');
	my $p99 = sub { $server->wrk("$option{here}/get.lua", 32, $url, '--', '/rest/v1/bench_item?id=eq.', 100_000)->{p99} };
	my @ratios;
	for (1 .. $option{reps})
	{
		my $alone = $p99->();
		my $end = sleepers($url, $executors - 1);
		poll_until(sub { $server->sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == $executors - 1 }, 60, 'sleepers');
		push @ratios, $p99->() / $alone;
		$end->();
	}
	OrionBench::report(what => "p99 with all but one of $executors executors asleep", values => \@ratios, target => '<= 3');
};

figure ddl => sub {
	$server->needs('orion_route_add');
	my $tables = $option{smoke} ? 200 : 20_000;
	$server->sql('CREATE SCHEMA IF NOT EXISTS bench_many');
	for (my $i = 0; $i < $tables; $i += 200)
	{
		$server->sql("DO 'BEGIN FOR i IN " . ($i + 1) . '..' . ($i + 200) . " LOOP EXECUTE ''CREATE TABLE IF NOT EXISTS bench_many.t'' || i || '' (id int PRIMARY KEY, name text)''; END LOOP; END'");
	}
	$server->sql('CREATE TABLE IF NOT EXISTS public.bench_ddl (id int PRIMARY KEY, name text)', 'GRANT SELECT ON public.bench_ddl TO orion_anon');
	my $url = $server->url . '/rest/v1/bench_ddl?id=eq.1';
	my $client = HTTP::Tiny->new;
	my $one = sub {
		my $from = time;
		my $answer = $client->get($url);
		die "GET: $answer->{status} $answer->{content}\n" if $answer->{status} != 200;
		return (time - $from) * 1000;
	};
	my @more;
	for my $rep (1 .. 3 * $option{reps})
	{
		$one->() for 1 .. 20;
		my $before = median(map { $one->() } 1 .. 20);
		$server->sql("ALTER TABLE public.bench_ddl ADD COLUMN IF NOT EXISTS c$rep int");
		my $after = $one->() - $before;
		push @more, $after > 0 ? $after : 0.001;
	}
	OrionBench::report(what => "first request after ALTER TABLE, $tables tables", values => \@more, unit => 'ms more', target => '< 20');
	$server->sql('DROP TABLE public.bench_ddl');
};

# Private memory of a process, MB.
sub memory
{
	my ($pid) = @_;
	open(my $file, '<', "/proc/$pid/status") or die "/proc/$pid: $!\n";
	my ($kb) = join('', <$file>) =~ /^RssAnon:\s+(\d+) kB/m;
	return $kb / 1024;
}

figure idle => sub {
	$server->needs('orion_route_add');
	$server->url;
	my ($limit) = qx(sh -c 'ulimit -Hn') =~ /(\d+)/;
	my $count = $option{smoke} ? 200 : 5000;
	$count = $limit - 100 if defined $limit && $limit < $count + 100;
	$server->sql("ALTER SYSTEM SET orion.http_max_connections = 6000", 'SELECT pg_reload_conf()');
	my @sockets;
	my $pid;
	poll_until(
		sub {
			$pid = $server->sql("SELECT program_pid FROM orion.workers WHERE kind = 'gateway'");
			while (@sockets < $count)
			{
				my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $server->{http_port}) or return 0;
				push @sockets, $socket;
			}
			return 1;
		},
		60, "$count connections");
	for my $socket (@sockets)
	{
		syswrite($socket, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
		sysread($socket, my $answer, 4096) or die "a connection was closed\n";
	}
	# what it holds while they are busy is not asked here
	my $least = memory($pid);
	for (1 .. 50)
	{
		select(undef, undef, undef, 0.1);
		$least = memory($pid) if memory($pid) < $least;
	}
	OrionBench::report(what => "memory of the gateway, $count idle connections", values => [$least], unit => 'MB', target => '<= 60');
	for my $socket (@sockets)
	{
		syswrite($socket, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
		sysread($socket, my $answer, 4096) or die "an idle connection was closed\n";
	}
	close $_ foreach @sockets;
	$server->sql('ALTER SYSTEM RESET orion.http_max_connections', 'SELECT pg_reload_conf()');
};

1;
