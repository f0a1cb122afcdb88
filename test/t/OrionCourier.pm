# The relay's part, played for orion-courier over a socketpair.
#
#   my $courier = Courier->new({ sink => 'test', kind => 'redis', config => { url => ... } });
#   $courier->is_ready; $courier->send_event(event(1)); $courier->all_acked;
#   $courier->{rejected}{$number}; $courier->last_trouble; $courier->leave;
package Courier;

use strict;
use warnings;

use FindBin;
use File::Temp ();
use IO::Select;
use JSON::PP ();
use OrionServices;
use POSIX ();
use Socket;
use Time::HiRes ();

my $program = $ENV{ORION_COURIER} // "$FindBin::Bin/../../orion-courier";

my %alive;

sub new
{
	my ($class, $config) = @_;
	socketpair(my $ours, my $theirs, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die "socketpair: $!";
	my $log = File::Temp->new;
	my $pid = fork // die "fork: $!";
	if ($pid == 0)
	{
		POSIX::dup2(fileno $theirs, 63);
		open(STDERR, '>&', $log);
		POSIX::dup2(63, 3);
		POSIX::close($_) foreach 4 .. 64;
		exec($program) or POSIX::_exit(127);
	}
	close $theirs;
	$ours->blocking(0);
	my $self = bless {
		pid => $pid, socket => $ours, out => '', in => '', sent => 0, acked => 0,
		trouble => [], rejected => {}, log => $log
	}, $class;
	$alive{$pid} = 1;
	$self->send_frame(1, 0, ref $config ? JSON::PP::encode_json($config) : $config);
	return $self;
}

# A courier may leave while it is written to; its end of file then tells.
$SIG{PIPE} = 'IGNORE';

sub send_frame
{
	my ($self, $type, $id, @fields) = @_;
	my $body = join '', map { pack('L/a', $_) } @fields;
	$self->{out} .= pack('LSSQ', length $body, $type, 0, $id) . $body;
}

# Numbers events 1, 2, ... as a relay does.
sub send_event
{
	my ($self, $event) = @_;
	$self->send_frame(24, ++$self->{sent}, @$event);
}

# Moves bytes both ways for at most that long.
sub turn
{
	my ($self, $seconds) = @_;
	my $select = IO::Select->new($self->{socket});
	if (length $self->{out})
	{
		my $n = syswrite($self->{socket}, $self->{out}, 1 << 18);
		substr($self->{out}, 0, $n, '') if $n;
		$seconds = 0.002 if length $self->{out};
	}
	return unless $select->can_read($seconds // 0.02);
	my $n = sysread($self->{socket}, $self->{in}, 1 << 18, length $self->{in});
	$self->{eof} = 1 if defined $n && $n == 0;
	$self->take while $self->whole_frame;
}

sub whole_frame
{
	my ($self) = @_;
	return length $self->{in} >= 16 && length $self->{in} >= 16 + unpack('L', $self->{in});
}

sub take
{
	my ($self) = @_;
	my ($len, $type, $flags, $id) = unpack('LSSQ', $self->{in});
	my @fields = unpack('(L/a)*', substr($self->{in}, 16, $len));
	substr($self->{in}, 0, 16 + $len, '');
	if ($type == 20) { $self->{ready} = $fields[0]; $self->{readies}++; }
	elsif ($type == 21) { die "ACK $id after $self->{acked}" if $id <= $self->{acked} || $id > $self->{sent}; $self->{acked} = $id; }
	elsif ($type == 22)
	{
		$self->{rejected}{$id} = $fields[0];
		$self->send_frame(25, $id) unless $self->{forgetful};	# it is stored
	}
	elsif ($type == 23) { push @{ $self->{trouble} }, $fields[0]; }
	else { die "unexpected frame $type"; }
}

# Turns until the condition holds; false when the time is over.
sub until
{
	my ($self, $code, $seconds) = @_;
	my $end = Time::HiRes::time() + ($seconds // 60);
	until ($code->($self))
	{
		return 0 if $self->{eof} || Time::HiRes::time() > $end;
		$self->turn;
	}
	return 1;
}

sub all_acked { my ($self, $seconds) = @_; return $self->until(sub { $_[0]{acked} == $_[0]{sent} }, $seconds); }
sub is_ready { my ($self) = @_; return $self->until(sub { defined $_[0]{ready} }); }
sub last_trouble { my ($self) = @_; return $self->{trouble}[-1] // ''; }
sub words { my ($self) = @_; return join("\n", @{ $self->{trouble} }, values %{ $self->{rejected} }, OrionServices::slurp($self->{log}->filename)); }

sub kill9 { my ($self) = @_; kill 'KILL', $self->{pid}; $self->reap; }

# Hangs up; returns the exit status.
sub leave { my ($self) = @_; close $self->{socket}; return $self->reap; }

sub reap
{
	my ($self) = @_;
	OrionServices::poll_until(sub { waitpid($self->{pid}, POSIX::WNOHANG()) != 0 }) or return -1;
	my $status = $?;
	delete $alive{ $self->{pid} };
	return $status;
}

END { my $status = $?; kill 'KILL', keys %alive if %alive; $? = $status; }

#---------------------------------------------------------------------------
package OrionCourier;

use strict;
use warnings;

use Exporter 'import';
our @EXPORT = qw($tag event);

our $tag = '00000000000000a1';

# Event number n of a run; the ids are unique, the positions rise.
sub event
{
	my ($n, %with) = @_;
	my $id = sprintf('00000000-0000-4000-8000-%012d', $n);
	my $type = $with{type} // 'user.created';
	my $aggregate = $with{aggregateid} // $n % 97;
	return [
		"1:$n:$tag", $id, $type, 'user', $aggregate, "corr-$n", '2026-01-02T03:04:05.678901+00:00',
		$with{event} // qq({"eventId":"$id","eventType":"$type","payload":{"n":$n}})
	];
}

1;
