# Logins against bare hashes of the same parameters, in as many processes as cores are busy.
package Figure::Login;

use strict;
use warnings;
use OrionBench;

my $password = 'correct horse battery staple';

sub ok_attempts { return $server->sql(q{SELECT count(*) FROM orion_private.login_attempts WHERE outcome = 'ok'}); }

# Each login must have left its row; over HTTP some may be under way when wrk stops counting,
# this time and the time before.
sub counted
{
	my ($code, $slack) = @_;
	my $before = ok_attempts();
	my ($rate, $count) = $code->();
	# the maintenance worker writes them, a moment later
	my $more;
	eval { OrionBench::poll_until(sub { ($more = ok_attempts() - $before) >= $count }, 30, '') };
	die "$more logins on record after $count\n" if $more < $count || $more > $count + $slack;
	return ($rate, $count);
}

sub line
{
	my ($how, $clients, $code, $slack) = @_;
	my ($memory, $time) = map { $server->sql("SELECT setting FROM pg_settings WHERE name = 'orion.auth_password_$_'") } qw(memory time);
	my $processes = $clients < $option{cores} ? $clients : $option{cores};
	my (@login, @bare);
	compare(
		what => "login, $how, $clients clients / bare hashes",
		ours => sub {
			my $cpu = OrionBench::cpu_settled($server->{pid});
			my ($rate, $count) = counted($code, $slack);
			push @login, (OrionBench::cpu_settled($server->{pid}) - $cpu) / $count * 1e6;
			return $rate;
		},
		other => sub {
			my ($rate, $us) = split ' ', run_program("$option{out}/raw/raw_pwhash", $memory, $time, $processes, $option{seconds});
			push @bare, $us;
			return $rate;
		},
		unit => '1/s',
		target => '>= 0.9');
	# a rate on a busy machine tells about the neighbours; this less so
	OrionBench::report(what => '  processor time of a bare hash / of a login', values => [ map { $bare[$_] / $login[$_] } 0 .. $#bare ],
		ours => median(@login), other => median(@bare), unit => 'us', target => '>= 0.9');
}

figure login => sub {
	$server->needs('orion_login');
	my $users = $option{smoke} ? 4 : 100;
	$server->sql("SELECT orion_register('u' || i || '\@bench.example', '$password') FROM generate_series(1, $users) i");
	my $script = file('login.sql', "\\set id random(1, $users)\nSELECT status FROM orion_login('u' || :id || '\@bench.example', '$password');\n");

	foreach my $clients (2, 8)
	{
		line('SQL', $clients, sub { $server->pgbench($script, $clients) }, 0);
	}
	$server->needs('orion_route_add');
	my $url = $server->url;
	line('HTTP', 8,
		sub {
			my $result = $server->wrk("$option{here}/login.lua", 8, $url, '--', $users, $password);
			return ($result->{rate}, $result->{requests});
		}, 16);
};

1;
