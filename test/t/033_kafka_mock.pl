# The Kafka courier alone, against the mock of librdkafka: quick, and with errors that a real
# broker gives rarely. The real one: 033_kafka.pl.
use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;

use IPC::Open2;
use JSON::PP;
use OrionCourier;
use OrionServices;
use PostgreSQL::Test::Utils;
use Test::More;

my $dir = PostgreSQL::Test::Utils::tempdir_short();
system_or_bail('cc', '-o', "$dir/mock", "$FindBin::Bin/../peers/mock_kafka.c", '-lrdkafka');
my $pid = open2(my $said, my $say, "$dir/mock");
chomp(my $brokers = readline $said);
like($brokers, qr/:\d+$/, 'the mock is there');

my $tools = bless { dir => $dir }, "OrionServices::Kafka";
sub records { return @{ $tools->records_of($brokers, $_[0]) }; }
sub refuse_next { print $say "error $_[0]\n"; $say->flush; readline $said; }
sub courier { return Courier->new({ sink => 'test', kind => 'kafka', config => { brokers => $brokers, @_ } }); }

my $courier = courier();
ok($courier->is_ready, 'the courier is ready');
$courier->send_event(event($_)) foreach 1 .. 1000;
ok($courier->all_acked, 'a thousand events are confirmed');
my @records = records('orion.events');
is(scalar @records, 1000, 'and there');
my (%last, $wrong);
foreach my $record (@records)
{
	my $n = decode_json($record->{value})->{payload}{n};
	$wrong++ if ($last{ $record->{key} } // 0) >= $n;
	$last{ $record->{key} } = $n;
}
is($wrong // 0, 0, 'each aggregate in its order');
is(scalar keys %last, 97, 'by their keys');

# 6: not the leader of the partition, 7: timed out; the producer tries these again
my @codes = (6, 7, 19);
foreach my $code (@codes)
{
	refuse_next($code);
	$courier->send_event(event($courier->{sent} + 1)) foreach 1 .. 50;
	ok($courier->all_acked, "after error $code of the protocol all is confirmed");
}
my %ids = map { $_->{headers}{ce_id} => 1 } records('orion.events');
is(scalar keys %ids, 1000 + 50 * @codes, 'and nothing is missing');
is(scalar(records('orion.events')), scalar keys %ids, 'or there twice');

# 10: the message is too large for the broker
refuse_next(10);
$courier->send_event(event($courier->{sent} + 1));
my $large = $courier->{sent};
ok($courier->until(sub { $_[0]{rejected}{$large} || $_[0]{acked} >= $large }), 'an event that the broker refuses for good does not stay');
like($courier->{rejected}{$large} // '', qr/large/i, 'it is rejected, with the reason');
is($courier->leave, 0, 'the courier leaves');

close $say;
waitpid $pid, 0;
is($?, 0, 'and the mock');
done_testing();
