# For tests that kill servers: psql of a server that is away may be gone before it has read
# its statement. PostgreSQL::Test::Cluster's psql() and poll_query_until() then throw what the
# writing to it met; here that is an answer, 2 for "no connection", as when psql goes a moment
# later, and a reason to ask again.
package OrionPsql;

use strict;
use warnings;

use PostgreSQL::Test::Cluster;

my $psql = \&PostgreSQL::Test::Cluster::psql;

sub answer
{
	my ($node, $database, $sql, %options) = @_;
	my @answer = eval { $psql->(@_) };
	return @answer unless $@;
	die $@ if $@ !~ /^ack Broken pipe/ || $options{on_error_die};
	return (2, '', $@);
}

my $poll = \&PostgreSQL::Test::Cluster::poll_query_until;

sub poll
{
	my @arguments = @_;
	my $end = time + $PostgreSQL::Test::Utils::timeout_default;
	while (1)
	{
		my $true = eval { $poll->(@arguments) };
		return $true unless $@;
		die $@ if $@ !~ /^ack Broken pipe/;
		return 0 if time > $end;
	}
}

no warnings 'redefine';
*PostgreSQL::Test::Cluster::psql = sub { my @answer = answer(@_); return wantarray ? @answer : $answer[0]; };
*PostgreSQL::Test::Cluster::poll_query_until = \&poll;

1;
