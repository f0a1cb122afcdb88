# What the figures in test/bench/figures share: a private server, ways to make load,
# samples, and the table. Everything started here is stopped when the program ends.
#
# A figure is a sub that calls compare() or report() for each of its lines. Samples
# are taken in turn, one of each side a repetition, and the side that begins changes
# from repetition to repetition; a ratio is made within one repetition only.
package OrionBench;

use strict;
use warnings;

use Exporter 'import';
use HTTP::Tiny;
use IO::Socket::INET;
use POSIX ();
use Time::HiRes qw(sleep time);

our @EXPORT = qw($server %option figure compare median poll_until free_port file run_program);

# reps, seconds (of one sample), smoke, bin (PostgreSQL's programs), work (a directory
# for this run), out (a directory for the samples; raw/ holds
# the programs to compare with)
our %option;
our $server;

my @figures;
my @rows;
my $current;
my $broken = 0;
my $ticks = POSIX::sysconf(POSIX::_SC_CLK_TCK());

# figure NAME, SUB: the programs in figures/ call this.
sub figure { my ($name, $run) = @_; push @figures, [ $name, $run ]; }
sub figures { return @figures; }
sub broken { return $broken; }

sub median
{
	my @sorted = sort { $a <=> $b } @_;
	return @sorted ? ($sorted[ int($#sorted / 2) ] + $sorted[ int(@sorted / 2) ]) / 2 : 0;
}

sub poll_until
{
	my ($code, $seconds, $what) = @_;
	my $end = time + $seconds;
	until ($code->())
	{
		die "waited $seconds s for $what\n" if time > $end;
		sleep 0.01;
	}
}

# Below the range that the kernel gives to outgoing connections: such a port might be
# taken again before its server starts.
sub free_port
{
	for (1 .. 100)
	{
		my $port = 20000 + int(rand(12000));
		return $port if IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Proto => 'tcp', Listen => 1);
	}
	die "no free port: $!\n";
}

# file NAME, TEXT: a file of this run; returns its path.
sub file
{
	my ($name, $text) = @_;
	my $path = "$option{work}/$name";
	open(my $file, '>', $path) or die "$path: $!\n";
	print $file $text;
	close $file or die "$path: $!\n";
	return $path;
}

# run_program COMMAND...: its standard output; dies with both outputs when it fails.
sub run_program
{
	my @command = @_;
	my $errors = "$option{work}/stderr";
	my $pid = open(my $output, '-|') // die "fork: $!\n";
	if ($pid == 0)
	{
		open(STDIN, '<', '/dev/null');
		open(STDERR, '>', $errors);
		exec(@command) or POSIX::_exit(127);
	}
	local $/;
	my $text = <$output> // '';
	return $text if close $output;
	open(my $file, '<', $errors);
	die join(' ', @command) . " failed:\n$text" . (<$file> // '');
}

#---------------------------------------------------------------------------
# Processor time, from /proc

# Everything below this process, itself included, that has parents on the way up to it.
sub tree_of
{
	my ($root) = @_;
	my %children;
	foreach my $path (glob '/proc/[0-9]*/stat')
	{
		open(my $file, '<', $path) or next;
		my ($pid, $parent) = (<$file> // '') =~ /^(\d+) \(.*\) \S (\d+)/ or next;
		push @{ $children{$parent} }, $pid;
	}
	my @tree = ($root);
	for (my $i = 0; $i < @tree; $i++) { push @tree, @{ $children{ $tree[$i] } // [] }; }
	return @tree;
}

# cpu_of PID: seconds of processor time of it and all below it, those that ended included.
sub cpu_of
{
	my ($root) = @_;
	my $sum = 0;
	foreach my $pid (tree_of($root))
	{
		open(my $file, '<', "/proc/$pid/stat") or next;
		my @f = split ' ', ((<$file> // '') =~ s/^.*\) //r);
		$sum += $_ // 0 foreach @f[ 11 .. 14 ];
	}
	return $sum / $ticks;
}

# cpu_settled PID: the same once nothing starts or ends below it. A process that is being
# reaped is for a moment counted neither by itself nor by its parent.
sub cpu_settled
{
	my ($root) = @_;
	my $before = '';
	foreach (1 .. 100)
	{
		my $now = join ' ', tree_of($root);
		last if $now eq $before;
		$before = $now;
		sleep 0.02;
	}
	return cpu_of($root);
}

# (busy, all) seconds of processor time of the machine.
sub cpu_total
{
	open(my $file, '<', '/proc/stat') or return (0, 0);
	my (undef, @t) = split ' ', <$file>;
	my $all = 0;
	$all += $_ foreach @t[ 0 .. 7 ];
	return (($all - $t[3] - $t[4]) / $ticks, $all / $ticks);
}

# What the others used while code ran, as a share of the machine.
sub beside
{
	my ($code) = @_;
	my ($busy, $all, $own) = (cpu_total(), cpu_of($$));
	my @result = $code->();
	my ($busy2, $all2, $own2) = (cpu_total(), cpu_of($$));
	my $share = $all2 > $all ? (($busy2 - $busy) - ($own2 - $own)) / ($all2 - $all) : 0;
	return ($share < 0 ? 0 : $share, @result);
}

#---------------------------------------------------------------------------
# Samples and the table

sub number
{
	my ($n) = @_;
	return sprintf('%.2f', $n) if abs($n) < 10;
	return sprintf('%.1f', $n) if abs($n) < 100;
	my $text = sprintf('%.0f', $n);
	1 while $text =~ s/^(\d+)(\d{3})/$1,$2/;
	return $text;
}

my $format = "%-10s %-44s %8s %-16s %10s %10s %-8s %-8s %6s\n";

sub table_head
{
	printf $format, 'figure', 'what', 'value', '[min..max]', 'ours', 'other', 'unit', 'target', 'beside';
	printf $format, '-' x 10, '-' x 44, '-' x 8, '-' x 16, '-' x 10, '-' x 10, '-' x 8, '-' x 8, '-' x 6;
}

sub row
{
	my (%row) = @_;
	my @v = @{ $row{values} };
	my $value = median(@v);
	my ($min, $max) = (sort { $a <=> $b } @v)[ 0, -1 ];

	printf $format, $current, $row{what}, number($value), '[' . number($min) . '..' . number($max) . ']',
	  (map { defined $_ ? number($_) : '' } $row{ours}, $row{other}), $row{unit} // '', $row{target} // '',
	  sprintf('%.0f%%', 100 * ($row{beside} // 0));
	push @rows, { %row, figure => $current, value => $value };
	if (grep { !($_ > 0) } @v)
	{
		print "not a positive number: $current, $row{what}\n";
		$broken++;
	}
}

sub keep_samples
{
	my ($what, $rep, %sides) = @_;
	my $path = "$option{out}/$current.csv";
	my $new = !-e $path;
	open(my $file, '>>', $path) or die "$path: $!\n";
	print $file "what,repetition,side,value\n" if $new;
	print $file qq("$what",$rep,$_,$sides{$_}\n) foreach sort keys %sides;
	close $file;
}

# compare(what, ours => sub, other => sub, unit, target, cpu_target): both return a rate,
# and where the servers' processor time for one piece of work makes sense, how much
# work they did: then a second line tells it, in microseconds.
# Returns the medians of the ratio, of ours and of the other.
sub compare
{
	my (%c) = @_;
	my (@ratios, @cpu_ratios, %samples, %cpu);
	my ($share) = beside(
		sub {
			foreach my $rep (1 .. $option{reps})
			{
				my (%rate, %each);
				foreach my $side ($rep % 2 ? qw(ours other) : qw(other ours))
				{
					my $cpu = cpu_settled($server->{pid});
					($rate{$side}, my $count) = $c{$side}->();
					$each{"cpu_$side"} = (cpu_settled($server->{pid}) - $cpu) / $count * 1e6 if $count;
					push @{ $samples{$side} }, $rate{$side};
				}
				push @{ $cpu{$_} }, $each{$_} foreach keys %each;
				push @ratios, $rate{other} > 0 ? $rate{ours} / $rate{other} : 0;
				push @cpu_ratios, $each{cpu_ours} / ($each{cpu_other} || 1) if keys %each == 2;
				keep_samples($c{what}, $rep, %rate, %each);
			}
		});
	row(%c, values => \@ratios, ours => median(@{ $samples{ours} }), other => median(@{ $samples{other} }), beside => $share);
	row(what => '  processor time of the servers', values => \@cpu_ratios, unit => 'us', target => $c{cpu_target},
		map { $_ => median(@{ $cpu{"cpu_$_"} }) } qw(ours other))
	  if @cpu_ratios;
	return (median(@ratios), map { median(@{ $samples{$_} }) } qw(ours other));
}

# report(what, values => [...], unit, target): values that another line's samples gave.
sub report
{
	my (%c) = @_;
	keep_samples($c{what}, $_ + 1, value => $c{values}[$_]) foreach 0 .. $#{ $c{values} };
	row(%c);
}

# Runs a figure. One that dies is broken; the others still run.
sub run_figure
{
	my ($name, $code) = @_;
	$current = $name;
	unlink "$option{out}/$name.csv";
	return if eval { $code->(); 1 };
	my $why = $@;
	if ($why =~ /^skip: (.*)/) { printf "%-10s skipped: %s\n", $name, $1; return; }
	print "$name failed: $why";
	$broken++;
}

#---------------------------------------------------------------------------
# The server

sub start_server
{
	my ($class) = @_;
	my $self = bless {
		data => "$option{work}/data",
		http_port => free_port(),
		owner => $$,
		database => 'bench',
	}, $class;
	$server = $self;
	run_program("$option{bin}/initdb", '-D', $self->{data}, '-U', 'postgres', '-A', 'trust', '-E', 'UTF8', '--no-locale', '--no-sync');
	open(my $conf, '>>', "$self->{data}/postgresql.conf") or die "postgresql.conf: $!\n";
	print $conf <<"CONF";
listen_addresses = ''
unix_socket_directories = '$option{work}'
shared_preload_libraries = 'orion'
shared_buffers = 256MB
max_wal_size = 8GB	# no checkpoint inside a sample
checkpoint_timeout = 1h
max_worker_processes = 32
orion.database = '$self->{database}'
orion.http_listen_addresses = '127.0.0.1'
orion.http_port = $self->{http_port}
$option{conf}
CONF
	close $conf;
	my $pid = fork // die "fork: $!\n";
	if ($pid == 0)
	{
		POSIX::setsid();
		open(STDIN, '<', '/dev/null');
		open(STDOUT, '>', "$option{work}/postgres.log");
		open(STDERR, '>&', \*STDOUT);
		exec("$option{bin}/postgres", '-D', $self->{data}) or POSIX::_exit(127);
	}
	$self->{pid} = $pid;
	poll_until(
		sub {
			die "PostgreSQL did not start:\n" . $self->log if waitpid($pid, POSIX::WNOHANG()) != 0;
			return eval { $self->sql_in('postgres', 'SELECT 1') };
		},
		60, 'PostgreSQL');
	$self->sql_in('postgres', "CREATE DATABASE $self->{database}");
	$self->sql('CREATE EXTENSION orion');
	return $self;
}

sub stop
{
	my ($self) = @_;
	return unless $self->{pid} && $self->{owner} == $$;
	foreach my $signal ('INT', 'QUIT', 'KILL')
	{
		kill $signal, $self->{pid};
		return delete $self->{pid} if eval { poll_until(sub { waitpid($self->{pid}, POSIX::WNOHANG()) != 0 }, 30, ''); 1 };
	}
}

sub log
{
	open(my $file, '<', "$option{work}/postgres.log") or return '';
	local $/;
	return scalar(<$file>) // '';
}

sub sql_in
{
	my ($self, $database, @commands) = @_;
	my $text = run_program("$option{bin}/psql", '-XAtq', '-v', 'ON_ERROR_STOP=1', '-h', $option{work}, '-U', 'postgres',
		'-d', $database, map { ('-c', $_) } @commands);
	chomp $text;
	return $text;
}

# sql COMMAND...: each in a transaction of its own; the output.
sub sql { my ($self, @commands) = @_; return $self->sql_in($self->{database}, @commands); }

# needs NAME...: leaves the figure when a function or table of these is not there.
sub needs
{
	my ($self, @names) = @_;
	foreach my $name (@names)
	{
		my $found = $self->sql("SELECT count(*) FROM pg_catalog.pg_proc p FULL JOIN pg_catalog.pg_class c ON false"
			  . " WHERE '$name' IN (p.proname, c.relname)");
		die "skip: there is no $name yet\n" unless $found;
	}
}

# Waits until the gateway answers.
sub url
{
	my ($self) = @_;
	my $url = "http://127.0.0.1:$self->{http_port}";
	poll_until(sub { HTTP::Tiny->new(timeout => 2)->get("$url/ready")->{status} == 200 }, 60, "$url/ready");
	return $url;
}

# pgbench FILE, CLIENTS: transactions a second, and how many there were.
sub pgbench
{
	my ($self, $file, $clients, @options) = @_;
	my $text = run_program("$option{bin}/pgbench", '-n', '-M', 'prepared', '-c', $clients, '-j', $clients < 2 ? 1 : 2,
		'-T', $option{seconds}, '-f', $file, '-h', $option{work}, '-U', 'postgres', @options, $self->{database});
	my ($count) = $text =~ /transactions actually processed: (\d+)/;
	my ($failed) = $text =~ /failed transactions: (\d+)/;
	my ($rate) = $text =~ /^tps = ([\d.]+)/m;
	die "pgbench: $text" unless $rate && !$failed;
	return ($rate, $count);
}

# wrk SCRIPT, CONNECTIONS, URL, WORD...: { rate, requests, p50, p99 (ms) }.
sub wrk
{
	my ($self, $script, $connections, @words) = @_;
	my $text = run_program('wrk', '-t1', "-c$connections", '-d', "$option{seconds}s", '--timeout', '10s', '-s', $script, @words);
	my ($requests, $us, $errors, $p50, $p99) = $text =~ /^RESULT (\d+) (\d+) (\d+) ([\d.]+) ([\d.]+)$/m
	  or die "wrk: $text";
	die "wrk: $errors of $requests requests failed\n$text" if $errors;
	die "wrk: no request was answered\n" unless $requests;
	return { rate => $requests / $us * 1e6, requests => $requests, p50 => $p50 / 1000, p99 => $p99 / 1000 };
}

END
{
	my $status = $?;
	local ($SIG{INT}, $SIG{TERM}, $SIG{HUP}) = ('IGNORE') x 3;
	$server->stop if $server;
	$? = $status;
}

1;
