# bench.pl: runs the figures and prints the table. Started by dev/bench, which has
# built what is measured; see docs/benchmarks.md.
#
# From the environment: ORION_BIN (PostgreSQL's programs, with Orion installed), BENCH_DIR
# (raw/*; samples go there), BENCH_WORK (a
# directory for this run), SMOKE, ONLY, REPS, SECONDS,
# CONF (lines for postgresql.conf).
use strict;
use warnings;

use Cwd ();
use File::Basename ();
use POSIX ();

my $here;
BEGIN { $here = File::Basename::dirname(Cwd::abs_path(__FILE__)); }
use lib $here, "$here/../t";
use OrionBench;

$SIG{$_} = sub { exit 130 }
  foreach qw(INT TERM HUP);
$| = 1;

my $smoke = $ENV{SMOKE} ? 1 : 0;
%option = (
	smoke => $smoke,
	reps => $ENV{REPS} || ($smoke ? 1 : 3),
	seconds => $ENV{SECONDS} || ($smoke ? 1 : 5),
	here => $here,
	conf => $ENV{CONF} // '',
	cores => POSIX::sysconf(84),	# _SC_NPROCESSORS_ONLN of Linux
	bin => $ENV{ORION_BIN} // die("ORION_BIN is not set; run dev/bench\n"),
	out => $ENV{BENCH_DIR} // die("BENCH_DIR is not set; run dev/bench\n"),
	work => $ENV{BENCH_WORK} // die("BENCH_WORK is not set; run dev/bench\n"));
file('driver.pid', $$);

sub first_line
{
	my ($path) = @_;
	open(my $file, '<', $path) or return '';
	return scalar(<$file>) // '';
}

do $_ or die "$_: " . ($@ || $!) foreach sort glob "$here/figures/*.pl";

my %only = map { $_ => 1 } split /[\s,]+/, $ENV{ONLY} // '';
my %known = map { $_->[0] => 1 } OrionBench::figures();
$known{$_} or die "ONLY knows " . join(' ', sort keys %known) . ", not \"$_\"\n" foreach keys %only;

my $load = join ' ', (split ' ', first_line('/proc/loadavg'))[ 0 .. 2 ];
OrionBench->start_server;
printf "%s; %d cores; load average before: %s\n", $server->sql(q{SELECT 'PostgreSQL ' || current_setting('server_version')}), $option{cores}, $load;
printf "%d repetition%s of %s s each; ratios are made within a repetition; beside = processor time that others took\n",
  $option{reps}, $option{reps} == 1 ? '' : 's', $option{seconds};
print "with $option{conf}\n" if $option{conf};
print "SMOKE: too short to mean anything, only that every figure comes out\n" if $smoke;
print "\n";
OrionBench::table_head();
OrionBench::run_figure(@$_) foreach grep { !%only || $only{ $_->[0] } } OrionBench::figures();
print "\nsamples: $option{out}/*.csv\n";
exit(OrionBench::broken() ? 1 : 0);
