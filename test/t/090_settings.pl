# docs/configuration.md names every setting with its default, unit and moment of effect.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $tree = $ENV{ORION_TREE} // '.';
my $node = PostgreSQL::Test::Cluster->new('settings');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'orion'");
$node->append_conf('postgresql.conf', "orion.database = ''");
$node->start;

my %documented;
for my $line (split /\n/, slurp_file("$tree/docs/configuration.md"))
{
	my (undef, $name, $default, $unit, $effect) = map { s/^\s+|[\s]+$//gr } split /\|/, $line;
	next unless defined $name && $name =~ s/^`(orion\.\w+)`$/$1/;
	$default =~ s/`//g;
	$documented{$name} = { default => $default eq 'empty' ? '' : $default, unit => $unit, effect => $effect };
}

# orion.jwt_secret is in no listing, so it is asked for by name.
my @settings = split /\n/, $node->safe_psql('postgres',
	q{SELECT name || '|' || boot_val || '|' || coalesce(unit, '') || '|' || context FROM pg_settings WHERE name LIKE 'orion.%'});
push @settings, 'orion.jwt_secret|||sighup' unless grep { /^orion\.jwt_secret/ } @settings;
my %word = (postmaster => qr/^restart/, sighup => qr/^reload/, superuser => qr/^at once/, user => qr/^at once/);

for my $setting (@settings)
{
	my ($name, $default, $unit, $context) = split /\|/, $setting, -1;
	my $said = delete $documented{$name};
	$default = sprintf '%04o', $default if $name =~ /_permissions$/;	# as SHOW has it
	ok($said, "$name is documented") or next;
	is($said->{default}, $default, "$name: the default");
	is($said->{unit}, $unit, "$name: the unit");
	like($said->{effect}, $word{$context}, "$name: when it takes effect");
}
is(join(' ', keys %documented), '', 'no setting is documented that does not exist');
is($node->safe_psql('postgres', 'SHOW orion.jwt_secret'), '', 'orion.jwt_secret exists and shows nothing');

$node->stop;
done_testing();
