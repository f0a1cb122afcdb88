# Every kind of sink while writers roll back, prepare, and hold a transaction open, and
# while relays, couriers, brokers and the server are killed: see OrionFaults.pm.
#
# `make check` runs those beside each other that 070 and 080 leave out, with few events;
# `make check-faults` each alone with 100,000 (SINK="kafka webhooks" these only, EVENTS=,
# SEED=, RATE=).
use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;

use OrionFaults;
use Test::More;

my $events = $ENV{EVENTS} // 1500;
my $seed = $ENV{SEED} // int(rand(1_000_000));
my @runs = map { [ split /\+/ ] } split ' ', $ENV{SINK} // join('+', grep { !/^(redis|rabbitmq)$/ } OrionFaults::kinds());

foreach my $kinds (@runs)
{
	subtest "@$kinds" => sub {
		diag("@$kinds: $events events, SEED=$seed");
		my $faults = OrionFaults->new(kinds => $kinds, events => $events, seed => $seed, rate => $ENV{RATE} // 300);
		$faults->run;
		$faults->verdict($_) foreach $faults->sinks;
		$faults->node->stop;
		is($faults->try_sql('SELECT 1' . ' ' x 1_000_000), undef, 'a server that is away gives no answer');
		local $PostgreSQL::Test::Utils::timeout_default = 1;
		ok(!$faults->node->poll_query_until('postgres', 'SELECT true' . ' ' x 1_000_000), 'and does not end who polls');
		$_->{broker} && !$_->{nodes} && $_->{broker}->stop foreach $faults->sinks;
	};
}
done_testing();
