# What follows a login: refreshing, checking tokens, asking for permissions in policies.
package Figure::Tokens;

use strict;
use warnings;
use OrionBench;

my $password = 'correct horse battery staple';

# One session refreshed again and again, against an UPDATE of one row: both commit.
sub refresh_line
{
	$server->sql('CREATE TABLE IF NOT EXISTS public.bench_counter (id int PRIMARY KEY, n bigint NOT NULL)',
		'INSERT INTO public.bench_counter VALUES (1, 0) ON CONFLICT DO NOTHING');
	my $plain = file('counter.sql', "UPDATE public.bench_counter SET n = n + 1 WHERE id = 1;\n");
	my $script = file('refresh.sql', "SELECT new_refresh_token AS token FROM orion_refresh(:token) \\gset\n");
	my $ours = sub {
		my $token = $server->sql("SELECT refresh_token FROM orion_login('tokens\@bench.example', '$password')");
		my ($rate, $count) = $server->pgbench($script, 1, '-D', "token=$token");
		my $counted = $server->sql('SELECT max(refresh_counter) - 1 FROM orion_private.sessions');
		die "$counted refreshes on record after $count\n" if $counted < $count;
		$server->sql('DELETE FROM orion_private.sessions');
		return ($rate, $count);
	};
	compare(what => 'refresh, SQL, 1 client / UPDATE of one row', ours => $ours, other => sub { $server->pgbench($plain, 1) }, unit => '1/s');
}

# Tokens that no process has seen are verified in full; those it has are in its cache.
sub sign_and_verify_lines
{
	my $n = $option{smoke} ? 200 : 2000;
	foreach my $alg ('HS256', 'RS256', 'ES256')
	{
		my (@sign, @verify);
		foreach my $rep (1 .. $option{reps})
		{
			my $script = file('tokens.sql', <<"SQL");
\\set ON_ERROR_STOP on
SELECT orion_key_create('$alg') \\g /dev/null
CREATE TEMP TABLE t AS SELECT i, jsonb_build_object('sub', gen_random_uuid(), 'role', 'orion_user', 'session_id', gen_random_uuid(), 'exp', extract(epoch FROM now())::bigint + 900, 'n', i) AS claims, NULL::text AS token FROM generate_series(1, $n) AS i;
SELECT orion_jwt_sign('{}') \\g /dev/null
SELECT clock_timestamp() AS began \\gset
CREATE TEMP TABLE s AS SELECT orion_jwt_sign(claims) AS token FROM t;
SELECT extract(epoch FROM clock_timestamp() - :'began') * 1e6 / $n;
SELECT clock_timestamp() AS began \\gset
SELECT count(orion_jwt_verify(token)) FROM s \\g /dev/null
SELECT extract(epoch FROM clock_timestamp() - :'began') * 1e6 / $n;
SQL
			my @us = split /\n/, run_program("$option{bin}/psql", '-XAtq', '-h', $option{work}, '-U', 'postgres', '-d', $server->{database}, '-f', $script);
			push @sign, $us[0];
			push @verify, $us[1];
		}
		OrionBench::report(what => "$alg: a signature", values => \@sign, unit => 'us');
		OrionBench::report(what => "$alg: a token seen for the first time", values => \@verify, unit => 'us');
	}
	$server->sql("SELECT orion_key_create('HS256')");
}

# The same row with and without a token: what checking a known token and its session costs.
sub request_line
{
	my $rows = 1000;
	$server->sql('CREATE TABLE IF NOT EXISTS public.bench_checked (id int PRIMARY KEY, name text NOT NULL)',
		"INSERT INTO public.bench_checked SELECT i, 'item number ' || i FROM generate_series(1, $rows) AS i ON CONFLICT DO NOTHING",
		'GRANT SELECT ON public.bench_checked TO orion_anon, orion_user', 'VACUUM ANALYZE public.bench_checked');
	my $url = $server->url;
	my $path = '/rest/v1/bench_checked?id=eq.';
	my $token = $server->sql("SELECT access_token FROM orion_login('tokens\@bench.example', '$password')");
	my $get = sub {
		my (@words) = @_;
		my $result = $server->wrk("$option{here}/get.lua", 32, $url, '--', $path, $rows, @words);
		return ($result->{rate}, $result->{requests});
	};
	my $answer = HTTP::Tiny->new->get("$url${path}7", { headers => { Authorization => "Bearer $token" } });
	die "GET ${path}7: $answer->{status} $answer->{content}\n" unless $answer->{status} == 200 && $answer->{content} =~ /item number 7"/;
	compare(what => 'GET by key with a token / without', ours => sub { $get->($token) }, other => sub { $get->() }, unit => '1/s');
}

# rls.sql: medians of 21 runs each, in turn.
sub policy_line
{
	my (@ratio, @plain, @asked, @once);
	foreach my $rep (1 .. $option{reps})
	{
		my $text = run_program("$option{bin}/psql", '-XAtq', '-h', $option{work}, '-U', 'postgres', '-d', $server->{database}, '-f', "$option{here}/rls.sql");
		my %ms = $text =~ /^([^|\n]+)\|([\d.]+)\|[\d.]+\|[\d.]+\|[\d.]+$/mg;
		die "rls.sql: $text" unless $ms{'plain column'} && $ms{'orion_has_permission(...)'};
		push @plain, $ms{'plain column'};
		push @asked, $ms{'orion_has_permission(...)'};
		push @ratio, $ms{'plain column'} / $ms{'orion_has_permission(...)'};
	}
	OrionBench::report(what => 'policy over 100,000 rows: plain column / permission', values => \@ratio,
		ours => median(@asked), other => median(@plain), unit => 'ms');
}

figure tokens => sub {
	$server->needs('orion_refresh', 'orion_has_permission', 'orion_route_add');
	$server->sql("SELECT orion_register('tokens\@bench.example', '$password')");
	refresh_line();
	sign_and_verify_lines();
	request_line();
	policy_line();
};

1;
