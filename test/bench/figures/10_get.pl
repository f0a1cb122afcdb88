# GET of one row by primary key over HTTP, against pgbench of the same query.
package Figure::Get;

use strict;
use warnings;
use IO::Socket::INET;
use OrionBench;

my $rows = 100_000;
my $table = '(id int PRIMARY KEY, owner uuid NOT NULL, name text NOT NULL, price numeric NOT NULL, created_at timestamptz NOT NULL DEFAULT now())';
my $uid = 'b16b00b5-0000-4000-8000-000000000001';

sub prepare
{
	foreach my $name ('bench_item', 'bench_own')
	{
		next if $server->sql("SELECT to_regclass('public.$name')");
		$server->sql("CREATE TABLE public.$name $table",
			"INSERT INTO public.$name SELECT i, '$uid', 'item number ' || i, i / 100.0 FROM generate_series(1, $rows) i",
			"VACUUM ANALYZE public.$name");
	}
	$server->sql('GRANT SELECT ON public.bench_item TO orion_anon',
		'ALTER TABLE public.bench_own ENABLE ROW LEVEL SECURITY',
		'DROP POLICY IF EXISTS own ON public.bench_own',
		'CREATE POLICY own ON public.bench_own TO orion_user USING (owner = (SELECT orion_uid()))',
		'GRANT SELECT ON public.bench_own TO orion_user',
		# as docs/rest.md wants it before strangers come
		"ALTER ROLE orion_anon SET statement_timeout = '2s'", "ALTER ROLE orion_user SET statement_timeout = '10s'");
	return file('get.sql', "\\set id random(1, $rows)\nSELECT row_to_json(t) FROM public.bench_item t WHERE id = :id;\n");
}

# The row must come, and nobody else's: an empty array would be quick as well.
sub check
{
	my ($url, $path, %headers) = @_;
	foreach my $id (1, int($rows / 2), $rows)
	{
		my $answer = HTTP::Tiny->new->get("$url$path$id", { headers => \%headers });
		die "GET $path$id: $answer->{status} $answer->{content}\n"
		  unless $answer->{status} == 200 && $answer->{content} =~ /"id": ?$id,.*"item number $id"/;
	}
}

sub line
{
	my ($what, $target, $cpu_target, $url, $script, @words) = @_;
	my @p99;
	compare(
		what => "GET by key, $what / pgbench",
		ours => sub {
			my $result = $server->wrk("$option{here}/get.lua", 32, $url, '--', @words);
			push @p99, $result->{p99};
			return ($result->{rate}, $result->{requests});
		},
		other => sub { $server->pgbench($script, 8) },
		unit => '1/s',
		target => $target,
		cpu_target => $cpu_target);
	OrionBench::report(what => '  p99', values => \@p99, unit => 'ms');
}

# The bytes of one answer, as they come.
sub answer_of
{
	my ($url, $path) = @_;
	my ($host) = $url =~ m{^http://(.*)$} or die "$url?\n";
	my $socket = IO::Socket::INET->new(PeerAddr => $host, Timeout => 10) or die "$url: $!\n";
	print $socket "GET $path HTTP/1.1\r\nHost: $host\r\nConnection: close\r\n\r\n";
	local $/;
	return <$socket> =~ s/^Connection: close\r\n//mir;
}

# What is there for a database and a program in front of it to take: the same client and
# the same bytes, with nothing behind them.
sub bare
{
	my ($url, $path, $script) = @_;
	my $pid = open(my $raw, '-|', "$option{out}/raw/raw_http", file('answer.http', answer_of($url, $path))) // die "raw_http: $!\n";
	chomp(my $port = <$raw>);
	compare(
		what => 'the same bytes from memory / pgbench',
		ours => sub { return $server->wrk("$option{here}/get.lua", 32, "http://127.0.0.1:$port", '--', $path, 1)->{rate} },
		other => sub { return ($server->pgbench($script, 8))[0] },
		unit => '1/s');
	kill 'TERM', $pid;
	close $raw;
}

figure get => sub {
	$server->needs('orion_route_add', 'orion_jwt_sign');
	my $script = prepare();
	my $url = $server->url;
	my $token = $server->sql("SELECT orion_jwt_sign(jsonb_build_object('sub', '$uid', 'role', 'orion_user',"
		  . " 'iss', current_setting('orion.auth_issuer'), 'aud', current_setting('orion.auth_audience'),"
		  . " 'exp', extract(epoch FROM now())::bigint + 3600))");
	my @paths = map { "/rest/v1/$_?id=eq." } 'bench_item', 'bench_own';

	check($url, $paths[0]);
	check($url, $paths[1], Authorization => "Bearer $token");
	line('anonymous', '>= 0.8', '<= 25 us', $url, $script, $paths[0], $rows);
	line('with token and RLS', '>= 0.5', '<= 40 us', $url, $script, $paths[1], $rows, $token);
	bare($url, "$paths[0]1", $script);
};

1;
