# orion-courier and Redis: cache rules, channels, a cluster, TLS, servers that freeze or
# talk nonsense. The relay's part is played here.
use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;

use File::Temp ();
use IO::Select;
use IO::Socket::INET;
use OrionCourier;
use OrionServices;
use POSIX ();
use Socket;
use Test::More;
use Time::HiRes qw(sleep time);

sub config { my ($url, %more) = @_; return { sink => 'test', kind => 'redis', config => { url => $url, %more } }; }

# A courier that is ready, with the rules as a relay sends them.
sub courier
{
	my ($config, %relay) = @_;
	$config->{relay} = \%relay if %relay;
	my $courier = Courier->new($config);
	ok($courier->is_ready, 'ready') or diag($courier->words);
	return $courier;
}

sub leaves { my ($courier) = @_; is($courier->leave, 0, 'exit status') or diag($courier->words); }

# The fields behind an event's own: what the functions of rules have returned.
sub values_of
{
	my (%values) = @_;
	return map { (pack('Q', $_), defined $values{$_} ? "+$values{$_}" : '-') } sort keys %values;
}

my $redis = OrionServices->start_redis(password => 'hush-hush', db => 2);

sub keys_of { my ($pattern) = @_; return join(' ', sort split(/\n/, $redis->command('KEYS', $pattern // '*'))); }

subtest 'keys, dependents, tags, patterns, namespaces' => sub {
	my $courier = courier(config($redis->url,
		dependencies => { 'user:profile:{aggregateid}' => ['user:permissions:{aggregateid}'], 'user:permissions:{aggregateid}' => ['menu:{aggregateid}'] },
		cache => [
			{ pattern => 'user.*', del => ['user:profile:{aggregateid}'] },
			{ pattern => 'team.*', tags => ['team:{aggregateid}'] },
			{ pattern => 'list.*', scan => ['list:{aggregateid}:*'] },
			{ pattern => 'price.*', flush => ['prices'] } ]));
	$redis->command('SET', $_, 1) foreach qw(user:profile:5 user:permissions:5 menu:5 user:profile:6 menu:6);
	$courier->send_event(event(1, type => 'user.created', aggregateid => 5));
	ok($courier->all_acked, 'acknowledged');
	is(keys_of('*:[56]'), 'menu:6 user:profile:6', 'the key and what depends on it, however far');

	# a tag of more keys than one step removes, and one key that is not there
	my $members = join ' ', map { "SADD orion:tag:{team:7} tagged:$_\nSET tagged:$_ 1\n" } 1 .. 3000;
	open(my $cli, '|-', "REDISCLI_AUTH=hush-hush redis-cli -p " . $redis->port . ' -n 2 >/dev/null') or die;
	print $cli $members, "SADD orion:tag:{team:7} tagged:gone\nSET tagged:other 1\n", map { "SET list:8:$_ 1\nSET list:9:$_ 1\n" } 1 .. 2000;
	close $cli;
	is($redis->command('SCARD', 'orion:tag:{team:7}'), 3001, 'a tag');
	$courier->send_event(event(2, type => 'team.renamed', aggregateid => 7));
	ok($courier->all_acked, 'acknowledged');
	is(keys_of('tagged:*'), 'tagged:other', 'all keys of the tag are gone');
	is(keys_of('orion:tag:*'), '', 'and the tag');
	# what a crash leaves behind: a set that was renamed and not emptied
	$redis->command('SET', $_, 1) foreach qw(tagged:a tagged:b);
	$redis->command('SADD', 'orion:tag:{team:7}:doomed:test', 'tagged:a');
	$redis->command('SADD', 'orion:tag:{team:7}', 'tagged:b');
	$courier->send_event(event(3, type => 'team.renamed', aggregateid => 7));
	ok($courier->all_acked, 'acknowledged');
	is(keys_of('*tag*'), 'tagged:other', 'is emptied, too');
	$redis->command('SET', 'tagged:a', 1);
	$redis->command('SADD', 'orion:tag:{team:7}:doomed:test', 'tagged:a');
	$courier->send_event(event(4, type => 'team.renamed', aggregateid => 7));
	ok($courier->all_acked, 'acknowledged');
	is(keys_of('*tag*'), 'tagged:other', 'also when the tag is empty');

	$courier->send_event(event(5, type => 'list.changed', aggregateid => 8));
	ok($courier->all_acked, 'acknowledged');
	is(keys_of('list:8:*'), '', 'all keys that match are gone');
	is(scalar(split / /, keys_of('list:9:*')), 2000, 'others not');
	$courier->send_event(event(6, type => 'list.changed', aggregateid => '*'));
	ok($courier->all_acked, 'acknowledged');
	is(scalar(split / /, keys_of('list:9:*')), 2000, 'an aggregate named "*" matches itself only');
	$courier->send_event(event($_, type => 'price.changed')) foreach 7 .. 8;
	ok($courier->all_acked, 'acknowledged');
	is($redis->command('GET', 'orion:namespace:prices'), 2, 'the generation is raised');
	is($redis->command('XLEN', 'orion:events'), 8, 'each event once');
	is_deeply($courier->{trouble}, [], 'no trouble');

	$redis->command('SET', 'orion:tag:{team:7}', 'a string');
	$courier->send_event(event(9, type => 'team.renamed', aggregateid => 7));
	$courier->send_event(event(10));
	ok($courier->all_acked, 'acknowledged');
	is_deeply([ keys %{ $courier->{rejected} } ], [9], 'a tag that is no set: refused') or diag($courier->words);
	is($redis->command('GET', 'orion:position:test'), "1:10:$tag", 'the position is behind both');
	leaves($courier);
};

subtest 'what a pattern never removes' => sub {
	$redis->command('FLUSHDB');
	my $courier = courier(config($redis->url, cache => [ { pattern => '#', scan => ['*'] } ]));
	$redis->command('SET', 'x', 1);
	foreach my $n (1 .. 3)
	{
		$courier->send_event(event($n));
		ok($courier->all_acked, 'acknowledged');
	}
	is(keys_of(), 'orion:events orion:position:test', 'stream and position stay');
	is($redis->command('XLEN', 'orion:events'), 3, 'with all entries');
	leaves($courier);
};

subtest 'values' => sub {
	$redis->command('FLUSHDB');
	my $courier = courier(config($redis->url, stream => JSON::PP::false(), dependencies => { 'user:{aggregateid}' => ['page:{aggregateid}'] }),
		rules => [
			{ pattern => 'user.*', value => 1, set => { key => 'user:{aggregateid}', ttl => 600, tags => ['team:1'] } },
			{ pattern => 'user.*', value => 2, set => { key => 'name:{aggregateid}' } } ]);
	$redis->command('SET', 'page:5', 1);
	$courier->send_event([ @{ event(1, aggregateid => 5) }, values_of(1 => '{"name": "Käthe"}', 2 => '') ]);
	ok($courier->all_acked, 'acknowledged');
	is($redis->command('GET', 'user:5'), '{"name": "Käthe"}', 'written');
	cmp_ok($redis->command('TTL', 'user:5'), '>', 590, 'it lives as long as said');
	is($redis->command('SMEMBERS', 'orion:tag:{team:1}'), 'user:5', 'it has its tag');
	is($redis->command('STRLEN', 'name:5') . $redis->command('EXISTS', 'name:5'), '01', 'an empty value is a value');
	is($redis->command('TTL', 'name:5'), -1, 'without an end');
	is(keys_of(), 'name:5 orion:position:test orion:tag:{team:1} user:5', 'dependents are removed, there is no stream');
	$courier->send_event([ @{ event(2, aggregateid => 5) }, values_of(1 => 'one', 2 => undef) ]);
	$courier->send_event([ @{ event(3, aggregateid => 5) }, values_of(1 => 'two') ]);
	ok($courier->all_acked, 'acknowledged');
	is($redis->command('GET', 'user:5'), 'two', 'the last value stays');
	is($redis->command('EXISTS', 'name:5'), 0, 'no value: the key is removed');
	leaves($courier);

	# the same key, changed a thousand times, with the courier killed now and then
	my ($from, $kills) = (4, 0);
	while ($from <= 4000 && $kills < 20)
	{
		my $courier = courier(config($redis->url, stream => JSON::PP::false()),
			rules => [ { pattern => '#', value => 1, set => { key => 'counter' } } ]);
		$from = $1 + 1 if $courier->{ready} =~ /^1:(\d+):/;
		$courier->send_event([ @{ event($_) }, values_of(1 => $_) ]) foreach $from .. 4000;
		my $before = $redis->command('GET', 'counter') || 0;
		my $stop = $kills++ < 5 ? 1 + int rand 800 : 4000;
		$courier->until(sub { $_[0]{acked} >= $stop || $_[0]{acked} == $_[0]{sent} });
		cmp_ok($redis->command('GET', 'counter'), '>=', $before, 'no older value comes back');
		$from = 4001 if $courier->{acked} == $courier->{sent};
		$courier->kill9;
	}
	is($redis->command('GET', 'counter'), 4000, "the newest value is there ($kills couriers)");
};

subtest 'channels' => sub {
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $redis->port) or die;
	syswrite($socket, "AUTH hush-hush\r\nPSUBSCRIBE events:*\r\n");
	my $seen = '';
	my $read = sub { sysread($socket, $seen, 65536, length $seen) if IO::Select->new($socket)->can_read(0.05); return $seen =~ $_[0] };
	ok(OrionServices::poll_until(sub { $read->(qr/psubscribe/) }), 'subscribed');
	$redis->command('FLUSHDB');
	my $courier = courier(config($redis->url, stream => JSON::PP::false(), channel => 'events:{aggregatetype}:{aggregateid}'));
	$courier->send_event(event($_)) foreach 1 .. 3;
	ok($courier->all_acked, 'acknowledged');
	ok(OrionServices::poll_until(sub { $read->(qr/events:user:3\r\n.*"n":3/s) }), 'they arrive');
	is(join(' ', $seen =~ /pmessage\r\n\S+\r\nevents:\*\r\n\S+\r\n(\S+)/g), 'events:user:1 events:user:2 events:user:3', 'each once, in order');
	leaves($courier);
};

subtest 'a refusal outlives the courier' => sub {
	$redis->command('FLUSHDB');
	$redis->command('SET', 'events:bad', 'a string');
	my $config = config($redis->url, stream => 'events:{aggregateid}');
	my $courier = courier($config);
	$courier->{forgetful} = 1;	# it dies before the relay has stored what it refused
	$courier->send_event(event($_, aggregateid => $_ == 3 ? 'bad' : 'good')) foreach 1 .. 5;
	ok($courier->until(sub { $_[0]{rejected}{3} && $_[0]{acked} == 2 }), 'the third is refused');
	is($redis->command('GET', 'orion:position:test'), "1:2:$tag", 'and holds the position back');
	is($redis->command('XLEN', 'events:good'), 2, 'and what comes behind');
	$courier->kill9;
	$courier = courier($config);
	is($courier->{ready}, "1:2:$tag", 'its successor begins there');
	$courier->send_event(event($_, aggregateid => $_ == 3 ? 'bad' : 'good')) foreach 3 .. 5;
	ok($courier->all_acked, 'acknowledged');
	is_deeply([ keys %{ $courier->{rejected} } ], [1], 'and refuses it again');
	is($redis->command('XLEN', 'events:good'), 4, 'the others are there once');
	is($redis->command('GET', 'orion:position:test'), "1:5:$tag", 'the position is behind them');
	leaves($courier);
};

subtest 'a server that freezes' => sub {
	$redis->command('FLUSHDB');
	my $courier = courier(config($redis->url));
	$courier->send_event(event(1));
	ok($courier->all_acked, 'acknowledged');
	foreach my $idle (0, 1)
	{
		kill 'STOP', $redis->pid;
		my $begin = time;
		$courier->send_event(event(2)) unless $idle;
		ok($courier->until(sub { $_[0]->last_trouble =~ /does not answer/ }), $idle ? 'told, though nothing is to be sent' : 'told');
		cmp_ok(time - $begin, '<', 30, 'soon');
		kill 'CONT', $redis->pid;
		ok($courier->until(sub { $_[0]->last_trouble eq '' && $_[0]{acked} == 2 }), 'and well again');
	}
	is($redis->command('XLEN', 'orion:events'), 2, 'nothing doubled');
	leaves($courier);
};

# A server that answers each command by a script: what it says to commands it knows.
sub impostor
{
	my (%answers) = @_;
	my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Proto => 'tcp', Listen => 16) or die "listen: $!";
	my $port = $listener->sockport;
	my $pid = fork // die "fork: $!";
	return ($pid, $port) if $pid;
	$SIG{PIPE} = 'IGNORE';
	while (my $client = $listener->accept)
	{
		my $in = '';
		while (sysread($client, $in, 65536, length $in))
		{
			# whole commands: *n, then n times $len and the bytes
			while ($in =~ /^\*(\d+)\r\n/)
			{
				my ($n, $at, @words) = ($1, length $&);
				while (@words < $n && substr($in, $at) =~ /^\$(\d+)\r\n/ && length($in) >= $at + length($&) + $1 + 2)
				{
					push @words, substr($in, $at + length $&, $1);
					$at += length($&) + $1 + 2;
				}
				last if @words < $n;
				substr($in, 0, $at, '');
				my $answer = $answers{ $words[0] } // '+OK';
				syswrite($client, ref $answer ? $$answer : "$answer\r\n");
			}
		}
	}
	POSIX::_exit(0);
}

subtest 'servers that talk nonsense' => sub {
	my %usual = (TYPE => '+stream', GET => '$-1', XINFO => '-ERR no such key', XADD => '+QUEUED', XTRIM => '+QUEUED', SET => '+QUEUED');
	my %cases = (
		'is loading' => [ { WATCH => '-LOADING Redis is loading the dataset in memory' }, qr/LOADING/ ],
		'lost its master' => [ { MULTI => "-MASTERDOWN Link with MASTER is down" }, qr/MASTERDOWN/ ],
		'wants a password' => [ { WATCH => '-NOAUTH Authentication required.' }, qr/NOAUTH/ ],
		'is read-only' => [ { XADD => "-READONLY You can't write against a read only replica." }, qr/READONLY/ ],
		'is out of memory' => [ { XADD => "-OOM command not allowed when used memory > 'maxmemory'." }, qr/OOM/ ],
		'aborts the transaction' => [ { EXEC => '-EXECABORT Transaction discarded because of: -OOM' }, qr/EXECABORT/ ],
		'answers a number to TYPE' => [ { TYPE => ':1' }, qr/not a stream/ ],
		'answers broken UTF-8' => [ { WATCH => "-ERR \xff\xfe\xc3(" }, qr/ERR \?\?\?\(/ ],
		'has a position of another type' => [ { GET => '*0' }, qr/does not hold a position/ ],
		'has half a position' => [ { GET => "\$3\r\n1:2" }, qr/does not hold a position/ ],
		'says no to EXEC' => [ { EXEC => ':0' }, qr/unexpected answer to EXEC/ ],
		'executes something else' => [ { EXEC => "*1\r\n+OK" }, qr/1 results for 3 commands/ ],
		'nests arrays' => [ { EXEC => \("*1\r\n" x 1000) }, qr/broken answer|1 results for 3 commands/ ],
		'announces a crowd' => [ { EXEC => \"*4294967296\r\n" }, qr/broken answer/ ],
		'speaks another protocol' => [ { WATCH => \"HTTP/1.1 400 Bad Request\r\n\r\n" }, qr/broken answer/ ],
		'is a cluster' => [ { GET => '-MOVED 5 127.0.0.1:1' }, qr/"cluster": true/ ],
		'asks elsewhere' => [ { XADD => '-MOVED 5 127.0.0.1:1' }, qr/MOVED/ ],
		'says too much' => [ { EXEC => "*3\r\n+1\r\n+2\r\n+3\r\n+OK\r\n-ERR no such key\r\n+more" }, qr/nobody asked for|refuses/ ]);
	foreach my $name (sort keys %cases)
	{
		my ($answers, $expected) = @{ $cases{$name} };
		my ($pid, $port) = impostor(%usual, %$answers);
		my $courier = Courier->new(config("redis://:sesame\@127.0.0.1:$port/"));
		$courier->send_event(event(1));
		ok($courier->until(sub { grep { /$expected/ } @{ $_[0]{trouble} } }), "a server that $name") or diag($courier->words);
		is_deeply($courier->{rejected}, {}, 'nothing is refused');
		is($courier->{acked}, 0, 'or acknowledged') unless $name eq 'says too much';
		is($courier->leave, 0, 'exit status');
		kill 'KILL', $pid;
		waitpid $pid, 0;
	}
};
$redis->stop;

#---------------------------------------------------------------------------
subtest 'TLS' => sub {
	my $dir = File::Temp::tempdir('orion-XXXXXX', TMPDIR => 1, CLEANUP => 1);
	my $openssl = sub { system("cd $dir && openssl @_ >>openssl.log 2>&1") == 0 or die "openssl @_: " . OrionServices::slurp("$dir/openssl.log") };
	my $new = 'req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes';
	foreach my $ca (qw(ca other))
	{
		$openssl->("$new -x509 -days 2 -keyout $ca.key -out $ca.pem -subj /CN=$ca");
	}
	foreach ([ 'server', 'subjectAltName=DNS:localhost,IP:127.0.0.1' ], [ 'named', 'subjectAltName=DNS:redis.example' ], [ 'client', 'extendedKeyUsage=clientAuth' ])
	{
		my ($name, $extension) = @$_;
		OrionServices::write_file("$dir/$name.ext", "$extension\n");
		$openssl->("$new -keyout $name.key -out $name.csr -subj /CN=$name");
		$openssl->("x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile $name.ext -out $name.pem");
	}
	my $secure = sub {
		my ($name, $auth) = @_;
		my $port = OrionServices::free_port();
		my $redis = OrionServices->start_redis(password => 'hush-hush', conf =>
			"tls-port $port\ntls-cert-file $dir/$name.pem\ntls-key-file $dir/$name.key\ntls-ca-cert-file $dir/ca.pem\ntls-auth-clients $auth\n");
		return ($redis, "rediss://:hush-hush\@localhost:$port/0");
	};
	my $troubled = sub {
		my ($config, $expected, $name) = @_;
		my $courier = Courier->new($config);
		ok($courier->until(sub { $_[0]->last_trouble ne '' }), $name);
		like($courier->last_trouble, $expected, $courier->last_trouble);
		unlike($courier->words, qr/hush|BEGIN/, 'no secret');
		is($courier->leave, 0, 'exit status');
	};

	my ($redis, $url) = $secure->('server', 'yes');
	my %client = (cert => "$dir/client.pem", key => "$dir/client.key");
	my $courier = courier(config($url, tls => { ca => "$dir/ca.pem", %client }, cache => [ { pattern => '#', tags => ['t'] } ]));
	$courier->send_event(event($_, event => 'x' x 20_000)) foreach 1 .. 1000;
	ok($courier->all_acked, 'twenty megabytes acknowledged');
	is($redis->command('XLEN', 'orion:events'), 1000, 'and there');
	$redis->restart;
	$courier->send_event(event(1001));
	ok($courier->all_acked, 'acknowledged after a restart of the server');
	leaves($courier);
	$courier = courier(config($url =~ s/localhost/127.0.0.1/r, tls => { ca => OrionServices::slurp("$dir/ca.pem"),
		cert => OrionServices::slurp("$dir/client.pem"), key => OrionServices::slurp("$dir/client.key") }));
	leaves($courier);

	$troubled->(config($url, tls => { %client }), qr/certificate is not accepted/, 'an authority that the system does not know');
	$troubled->(config($url, tls => { ca => "$dir/other.pem", %client }), qr/certificate is not accepted/, 'another authority');
	$troubled->(config($url, tls => { ca => "$dir/ca.pem" }), qr/TLS|connection lost/, 'no certificate of ours');
	$troubled->(config($url, tls => { ca => "$dir/ca.pem", cert => "$dir/client.pem", key => "$dir/server.key" }), qr/"key" does not belong to "cert"/, 'the wrong key');
	$troubled->(config($url =~ s/rediss/redis/r), qr/connection lost|broken answer|no answer/, 'no TLS where it is wanted');
	$troubled->(config($redis->url =~ s/redis:/rediss:/r, tls => { ca => "$dir/ca.pem" }), qr/TLS with/, 'TLS where it is not spoken');
	$redis->stop;

	($redis, $url) = $secure->('named', 'no');
	$troubled->(config($url, tls => { ca => "$dir/ca.pem" }), qr/certificate is not accepted: hostname mismatch/i, 'the certificate of another host');
	foreach my $tls ({ ca => "$dir/ca.pem", server_name => 'redis.example' }, { verify => JSON::PP::false() })
	{
		my $courier = courier(config($url, tls => $tls));
		leaves($courier);
	}
	$redis->stop;
};

#---------------------------------------------------------------------------
subtest 'a cluster' => sub {
	my @nodes;
	foreach my $n (0 .. 2)
	{
		my $bus = OrionServices::free_port();
		push @nodes, OrionServices->start_redis(password => 'hush-hush', bus => $bus, conf =>
			"cluster-enabled yes\ncluster-port $bus\ncluster-node-timeout 20000\nmasterauth hush-hush\n");
	}
	my @ranges = ([ 0, 5460 ], [ 5461, 10922 ], [ 10923, 16383 ]);
	$nodes[$_]->command('CLUSTER', 'ADDSLOTSRANGE', @{ $ranges[$_] }) foreach 0 .. 2;
	$nodes[0]->command('CLUSTER', 'MEET', '127.0.0.1', $_->port, $_->{bus}) foreach @nodes[ 1, 2 ];
	my $formed = sub { return !grep { $_->command('CLUSTER', 'INFO') !~ /cluster_state:ok.*cluster_known_nodes:3/s } @nodes };
	ok(OrionServices::poll_until($formed), 'the cluster is formed');
	# a command at the node that has the key
	my $at = sub { my (@words) = @_; return $nodes[0]->command('-c', @words) };
	my $config = sub {
		return config($nodes[0]->url, cluster => JSON::PP::true(), nodes => [ map { '127.0.0.1:' . $_->port } @nodes ], @_);
	};
	my %rules = (cache => [
		{ pattern => 'user.*', del => ['user:profile:{aggregateid}'] },
		{ pattern => 'team.*', tags => ['team:{aggregateid}'] },
		{ pattern => 'list.*', scan => ['list:*'] },
		{ pattern => 'price.*', flush => ['prices', 'fares', 'tolls'] } ]);
	my $courier = courier($config->(%rules),
		rules => [ { pattern => 'user.*', value => 1, set => { key => 'user:{aggregateid}', ttl => 600, tags => ['users'] } } ]);
	$at->('SET', "user:profile:$_", 1) foreach 1 .. 20;
	$courier->send_event([ @{ event($_, aggregateid => $_) }, values_of(1 => "value $_") ]) foreach 1 .. 20;
	ok($courier->all_acked, 'acknowledged') or diag($courier->words);
	is($at->('XLEN', '{orion}:events'), 20, 'in the stream');
	is($at->('GET', '{orion}:position:test'), "1:20:$tag", 'with the position');
	is(scalar(grep { $at->('EXISTS', "user:profile:$_") ne '0' } 1 .. 20), 0, 'keys on all nodes are gone');
	is(scalar(grep { $at->('GET', "user:$_") eq "value $_" } 1 .. 20), 20, 'values on all nodes are written');
	is($at->('SCARD', 'orion:tag:{users}'), 20, 'with their tag');

	foreach (1 .. 40)
	{
		$at->('SET', "tagged:$_", 1);
		$at->('SADD', 'orion:tag:{team:7}', "tagged:$_");
		$at->('SET', "list:$_", 1);
	}
	$courier->send_event(event(21, type => 'team.renamed', aggregateid => 7));
	$courier->send_event(event(22, type => 'list.changed'));
	$courier->send_event(event(23, type => 'price.changed'));
	ok($courier->all_acked, 'acknowledged') or diag($courier->words);
	is(scalar(grep { $at->('EXISTS', "tagged:$_") ne '0' || $at->('EXISTS', "list:$_") ne '0' } 1 .. 40), 0, 'tags and patterns reach all nodes');
	is(join(' ', map { $at->('GET', "orion:namespace:$_") } qw(prices fares tolls)), '1 1 1', 'namespaces');

	# a slot moves, keys and all, while the courier has the old map; first half way, then for good
	my $slot = $nodes[0]->command('CLUSTER', 'KEYSLOT', 'user:profile:1');
	my ($source) = grep { $slot >= $ranges[$_][0] && $slot <= $ranges[$_][1] } 0 .. 2;
	my $target = ($source + 1) % 3;
	my @id = map { $_->command('CLUSTER', 'MYID') } @nodes;
	$nodes[$target]->command('CLUSTER', 'SETSLOT', $slot, 'IMPORTING', $id[$source]);
	$nodes[$source]->command('CLUSTER', 'SETSLOT', $slot, 'MIGRATING', $id[$target]);
	$courier->send_event([ @{ event(24, aggregateid => 1) }, values_of(1 => 'new') ]);
	ok($courier->all_acked, 'acknowledged while a slot is being moved (ASK)') or diag($courier->words);
	$nodes[$_]->command('CLUSTER', 'SETSLOT', $slot, 'NODE', $id[$target]) foreach $target, $source, 3 - $source - $target;
	$at->('SET', 'user:profile:1', 1);
	$courier->send_event([ @{ event(25, aggregateid => 1) }, values_of(1 => 'newer') ]);
	ok($courier->all_acked, 'acknowledged when it has moved (MOVED)') or diag($courier->words);
	is($at->('EXISTS', 'user:profile:1'), 0, 'and the key is gone where it is now');
	is_deeply($courier->{trouble}, [], 'without trouble');

	# the slot of stream and position moves
	$slot = $nodes[0]->command('CLUSTER', 'KEYSLOT', '{orion}');
	($source) = grep { $slot >= $ranges[$_][0] && $slot <= $ranges[$_][1] } 0 .. 2;
	$target = ($source + 1) % 3;
	$nodes[$target]->command('CLUSTER', 'SETSLOT', $slot, 'IMPORTING', $id[$source]);
	$nodes[$source]->command('CLUSTER', 'SETSLOT', $slot, 'MIGRATING', $id[$target]);
	$nodes[$source]->command('MIGRATE', '127.0.0.1', $nodes[$target]->port, '', 0, 5000, 'AUTH', 'hush-hush', 'KEYS', '{orion}:events', '{orion}:position:test');
	$courier->send_event(event(26, aggregateid => 1));
	ok($courier->until(sub { $_[0]->last_trouble ne '' }), 'trouble while it is half way: ' . $courier->last_trouble);
	$nodes[$_]->command('CLUSTER', 'SETSLOT', $slot, 'NODE', $id[$target]) foreach $target, $source, 3 - $source - $target;
	ok($courier->all_acked, 'delivered when it has moved') or diag($courier->words);
	is($at->('XLEN', '{orion}:events'), 26, 'each event once');
	is_deeply($courier->{rejected}, {}, 'nothing refused');

	# a predecessor's connections are ended, with what they may still hold
	# (which stands still, for it would do the same to its successor)
	kill 'STOP', $courier->{pid};
	my $other = courier($config->(%rules), rules => [ { pattern => '#', value => 1, set => { key => 'x' } } ]);
	my $named = sub { return scalar grep { /name=orion:test / } map { split /\n/, $_->command('CLIENT', 'LIST') } @nodes };
	OrionServices::poll_until(sub { $named->() == 3 }, 20);
	is($named->(), 3, 'one courier writes values at each node');
	kill 'CONT', $courier->{pid};
	leaves($other);
	leaves($courier);

	# one address of the settings is gone
	$courier = Courier->new($config->(url => 'redis://:hush-hush@127.0.0.1:1'));
	ok($courier->is_ready, 'another node answers when the first does not') or diag($courier->words);
	leaves($courier);
	my ($elsewhere) = grep { $_->command('GET', '{y}position') =~ /MOVED/ } @nodes;
	$courier = Courier->new(config($elsewhere->url, stream => '{{y}events', position_key => '{y}position'));
	ok($courier->until(sub { $_[0]->last_trouble =~ /this is a cluster: the sink needs "cluster": true/ }), 'a cluster that was not expected: ' . $courier->last_trouble);
	leaves($courier);
	$_->stop foreach @nodes;
};

done_testing();
