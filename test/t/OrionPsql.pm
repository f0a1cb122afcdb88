# For tests that kill servers: psql of a server that is away may be gone before it has read
# its statement. PostgreSQL::Test::Cluster's psql() then throws what the writing to it met;
# here that is an answer, 2 for "no connection", as when psql goes a moment later.
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

no warnings 'redefine';
*PostgreSQL::Test::Cluster::psql = sub { my @answer = answer(@_); return wantarray ? @answer : $answer[0]; };

1;
