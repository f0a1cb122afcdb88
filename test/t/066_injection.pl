# Every place where a name or a value enters the REST API, with everything that could end
# a literal or an identifier there. Each request is refused (4xx) or takes the bytes for
# what they are; no answer is 5xx, a table that anonymous callers may change stays as it
# is, and the server's SQL parser never sees a thing that it cannot read.
use strict;
use warnings;
use Encode ();
use IO::Select;
use IO::Socket::INET;
use JSON::PP ();
use OrionStack;
use PostgreSQL::Test::Utils;
use Test::More;

my $stack = OrionStack->new('injection', conf => q{
orion.rest_schemas = 'public, other'
orion.rest_aggregates_enabled = on
orion.rest_plan_enabled = on
orion.rest_tx_end = 'commit-allow-override'
log_min_messages = info
log_min_error_statement = error
});
$stack->sql(q{
CREATE TABLE canary (id int PRIMARY KEY, v text);
INSERT INTO canary SELECT i, 'bird ' || i FROM generate_series(1, 3) i;
CREATE TABLE owners (id int PRIMARY KEY, v text);
CREATE TABLE things (id int PRIMARY KEY, v text, n int, list text[], doc jsonb, span int4range, owner int REFERENCES owners, words tsvector);
INSERT INTO things VALUES (1, 'one', 1, '{a}', '{"a":{"b":1}}', '[1,5)', NULL, to_tsvector('one'));
CREATE TABLE kept (id int GENERATED ALWAYS AS IDENTITY, v text);
CREATE SCHEMA other;
GRANT USAGE ON SCHEMA other TO orion_anon;
GRANT ALL ON canary, things, owners, kept TO orion_anon;
CREATE FUNCTION echo(v text) RETURNS text LANGUAGE sql VOLATILE AS 'SELECT v';
CREATE FUNCTION echo_read(v text) RETURNS text LANGUAGE sql STABLE AS 'SELECT v';
CREATE FUNCTION rows() RETURNS SETOF things LANGUAGE sql STABLE AS 'SELECT * FROM public.things';
});

my $json = JSON::PP->new->utf8->canonical->allow_nonref;
my $canary = canary();
sub canary { return $stack->sql('SELECT md5(string_agg(c::text, \',\' ORDER BY id)) FROM canary c'); }
sub is_good { my ($bytes) = @_; return $bytes !~ /\0/ && defined eval { Encode::decode('UTF-8', $bytes, Encode::FB_CROAK) }; }
sub pct { my ($bytes) = @_; return $bytes =~ s/([^A-Za-z0-9])/sprintf('%%%02X', ord $1)/ger; }
# As the dialect and CSV quote.
sub quoted { my ($bytes) = @_; return '"' . ($bytes =~ s/(["\\])/\\$1/gr) . '"'; }
sub csv { my ($bytes) = @_; return '"' . ($bytes =~ s/"/""/gr) . '"'; }
# A JSON text whose bytes need not be UTF-8.
sub text { my ($bytes) = @_; return '"' . ($bytes =~ s/(["\\\x01-\x1f])/sprintf('\\u%04x', ord $1)/ger) . '"'; }

my @poison = (
	"'", '"', '\\', "''", '""', "\\'", "';DELETE FROM canary;--", '";DELETE FROM canary;--', "x') OR 1=1--", 'x")) OR 1=1--', "1;DELETE FROM canary", "/*", "*/", "--",
	"' OR ''='", '$$;DELETE FROM canary;$$', "\$1", "\\\\';DELETE FROM canary;--", "E'\\'", 'U&"\\0063anary"', "id) FROM canary; DELETE FROM canary; --", "\x{0}", "a\0';DELETE FROM canary;--",
	"\xff", "\xbf\x27;DELETE FROM canary;--", "\xc0\xa7", "\xed\xa0\x80", "%s%n%%", "\t\x0b\x0c", "\xe2\x80\x99;--", 'x' x 2500, "'" x 1000, '"' x 1000, '(' x 500, '{' x 500);

# place => sub (poison) -> method, target, options of OrionStack::request_bytes
my %place = (
	(map { my $m = $_; ("$_ of a table" => sub { ($m, '/rest/v1/' . pct($_[0]), $m eq 'GET' || $m eq 'DELETE' ? () : (body => '{"id":1}')) }) } qw(GET POST PATCH PUT DELETE)),
	'function' => sub { ('POST', '/rest/v1/rpc/' . pct($_[0]), body => '{}') },
	'function, GET' => sub { ('GET', '/rest/v1/rpc/' . pct($_[0])) },
	'argument of GET' => sub { ('GET', '/rest/v1/rpc/echo_read?' . pct($_[0]) . '=x') },
	'argument of POST' => sub { ('POST', '/rest/v1/rpc/echo', body => '{' . text($_[0]) . ':1}') },
	'filter of a function' => sub { ('GET', '/rest/v1/rpc/rows?' . pct($_[0]) . '=eq.1') },
	'column of a filter' => sub { ('GET', '/rest/v1/things?' . pct($_[0]) . '=eq.1') },
	'column of a delete' => sub { ('DELETE', '/rest/v1/things?' . pct($_[0]) . '=eq.1') },
	'key of PUT' => sub { ('PUT', '/rest/v1/things?id=eq.' . pct($_[0]), body => '{"id":1}') },
	'order' => sub { ('GET', '/rest/v1/things?order=' . pct($_[0])) },
	(map { my $form = $_; ("select=$form" => sub { ('GET', '/rest/v1/things?select=' . pct($form =~ s/P/$_[0]/r)) }, "select=$form, quoted" => sub { my $q = quoted($_[0]); ('GET', '/rest/v1/things?select=' . pct($form =~ s/P/$q/r)) }) }
		'P', 'P:id', 'id::P', 'doc->P', 'doc->>P', 'doc->a->P', 'a:doc->P', 'owners!P(id)', 'P(id)', '...P(id)', 'owners(P)', 'o:owners(P:id)', 'id.P()', 'id.sum()::P', 'P.sum()', 'owners!inner(id::P)'),
	(map { my $form = $_; ("order=$form" => sub { ('GET', '/rest/v1/things?order=' . pct($form =~ s/P/$_[0]/r)) }, "order=$form, quoted" => sub { my $q = quoted($_[0]); ('GET', '/rest/v1/things?order=' . pct($form =~ s/P/$q/r)) }) }
		'P', 'id.P', 'id.desc.P', 'doc->P', 'owners(P)', 'P(id)'),
	(map { my $form = $_; ("v=$form" => sub { ('GET', '/rest/v1/things?v=' . pct($form =~ s/P/$_[0]/r)) }) }
		'P', 'eq.P', 'neq.P', 'gt.P', 'lt.P', 'like.P', 'ilike.P', 'match.P', 'imatch.P', 'in.(P)', 'in.("P")', 'in.P', 'is.P', 'isdistinct.P', 'not.P', 'not.eq.P', 'eq(P).x', 'eq(any).P', 'eq(any).{P}', 'like(all).{P}',
		'fts.P', 'plfts.P', 'phfts.P', 'wfts.P', 'fts(P).x', 'plfts(P).x', 'P.x'),
	(map { my $form = $_; ("words=$form" => sub { ('GET', '/rest/v1/things?words=' . pct($form =~ s/P/$_[0]/r)) }) } 'fts.P', 'wfts(english).P', 'fts(P).x'),
	(map { my $form = $_; ("list=$form" => sub { ('GET', '/rest/v1/things?list=' . pct($form =~ s/P/$_[0]/r)) }) } 'cs.P', 'cs.{P}', 'cd.{P}', 'ov.{"P"}', 'ov.(P)'),
	(map { my $form = $_; ("span=$form" => sub { ('GET', '/rest/v1/things?span=' . pct($form =~ s/P/$_[0]/r)) }) } 'sl.P', 'sr.P', 'nxl.P', 'nxr.P', 'adj.P', 'cs.P'),
	(map { my $form = $_; ("$form" => sub { my ($k, $v) = split /=/, $form; $k =~ s/P/pct($_[0])/e; $v =~ s/P/$_[0]/; ('GET', "/rest/v1/things?$k=" . pct($v)) }) }
		'doc->P=eq.1', 'doc->>P=eq.1', 'doc->>a=eq.P', 'doc=cs.P', 'n=eq.P', 'n=in.(P)', 'or=(v.eq.P)', 'or=(P.eq.1)', 'or=(v.P.1)', 'or=P', 'and=(n.eq.1,or(v.in.(P)))', 'not.or=(v.eq.P)', 'P.or=(id.eq.1)', 'owners.P=eq.1',
		'limit=P', 'offset=P', 'P.limit=1', 'P.order=id', 'cursor=P', 'select=P'),
	'or with a quoted value' => sub { ('GET', '/rest/v1/things?or=' . pct('(v.eq.' . quoted($_[0]) . ')')) },
	'in with a quoted value' => sub { ('GET', '/rest/v1/things?v=in.' . pct('(' . quoted($_[0]) . ')')) },
	'on_conflict' => sub { ('POST', '/rest/v1/things?on_conflict=' . pct($_[0]), body => '{"id":1}', headers => { Prefer => 'resolution=merge-duplicates,tx=rollback' }) },
	'columns' => sub { ('POST', '/rest/v1/things?columns=' . pct($_[0]), body => '{"id":1}') },
	'columns, quoted' => sub { ('POST', '/rest/v1/things?columns=' . pct(quoted($_[0])), body => '{"id":1}') },
	'key of a body' => sub { ('POST', '/rest/v1/things', body => '{"id":2,' . text($_[0]) . ':1}') },
	'key of a change' => sub { ('PATCH', '/rest/v1/things?id=eq.1', body => '{' . text($_[0]) . ':1}') },
	'key of a nested row' => sub { ('POST', '/rest/v1/things?select=' . pct('id,owners(id)'), body => '{"id":2,"owners":{' . text($_[0]) . ':1}}') },
	'number of a body' => sub { ('POST', '/rest/v1/things', body => '{"id":' . text($_[0]) . '}') },
	'array of a body' => sub { ('PATCH', '/rest/v1/things?id=eq.1', body => '{"list":' . text($_[0]) . '}') },
	'no JSON' => sub { ('POST', '/rest/v1/things', body => $_[0]) },
	'names of CSV' => sub { ('POST', '/rest/v1/things', body => 'id,' . csv($_[0]) . "\n2,x\n", headers => { 'Content-Type' => 'text/csv' }) },
	'number of CSV' => sub { ('POST', '/rest/v1/things', body => "id\n" . csv($_[0]) . "\n", headers => { 'Content-Type' => 'text/csv' }) },
	'key of a form' => sub { ('POST', '/rest/v1/things', body => 'id=2&' . pct($_[0]) . '=1', headers => { 'Content-Type' => 'application/x-www-form-urlencoded' }) },
	'number of a form' => sub { ('POST', '/rest/v1/things', body => 'id=' . pct($_[0]), headers => { 'Content-Type' => 'application/x-www-form-urlencoded' }) },
	'relation of orion_update' => sub { ('POST', '/rest/v1/rpc/orion_update', body => '{"relation":' . text($_[0]) . ',"id":"1","expected_version":1,"changes":{"v":"x"}}') },
	'column of orion_update' => sub { ('POST', '/rest/v1/rpc/orion_update', body => '{"relation":"things","id":"1","expected_version":1,"changes":{' . text($_[0]) . ':"x"}}') },
	(map { my $form = $_; ("batch: $form" => sub { my $p = text($_[0]); my ($in) = $p =~ /^"(.*)"$/s; ('POST', '/rest/v1/batch', body => "{\"operations\":[" . ($form =~ s/\bP\b/$in/r) . ']}') }) }
		'{"method":"GET","path":"/P"}', '{"method":"P","path":"/things"}', '{"method":"GET","path":"/things?P=eq.1"}', '{"method":"GET","path":"/things?v=eq.P"}', '{"id":"P","method":"GET","path":"/things"}',
		'{"method":"GET","path":"/things"},{"method":"GET","path":"/things?id=eq.$1.P"}', '{"method":"GET","path":"/things"},{"method":"PATCH","path":"/things?id=eq.1","body":{"v":"$P.id"}}', '{"method":"GET","path":"/things","headers":{"Prefer":"P"}}'),
	(map { my ($name, $form) = @$_; ("header $name: $form" => sub { my $value = $form =~ s/P/$_[0]/r; ('GET', '/rest/v1/things', headers => { $name => $value }) }) }
		[ 'Prefer', 'P' ], [ 'Prefer', 'count=P' ], [ 'Prefer', 'timezone=P' ], [ 'Prefer', 'handling=strict, P' ], [ 'Range', 'P' ], [ 'Range', '0-P' ], [ 'Range-Unit', 'P' ], [ 'Accept', 'P' ], [ 'Accept', 'application/P' ],
		[ 'Accept', 'application/vnd.pgrst.plan+json; for="P"' ], [ 'Accept-Profile', 'P' ], [ 'Authorization', 'P' ], [ 'Authorization', 'Bearer P' ], [ 'Authorization', 'Bearer orion_P' ], [ 'X-Request-Id', 'P' ],
		[ 'If-None-Match', 'P' ], [ 'If-None-Match', '"P"' ], [ 'Cookie', 'P' ], [ 'Cookie', 'a=P' ], [ 'Origin', 'P' ], [ 'User-Agent', 'P' ], [ 'X-Forwarded-For', 'P' ], [ 'X-Other', 'P' ]),
	(map { my ($name, $form) = @$_; ("header $name: $form, of a write" => sub { my $value = $form =~ s/P/$_[0]/r; ('PATCH', '/rest/v1/things?id=eq.1', body => '{"n":1}', headers => { $name => $value }) }) }
		[ 'Content-Profile', 'P' ], [ 'Content-Type', 'P' ], [ 'Content-Type', 'application/json; charset=P' ], [ 'Idempotency-Key', 'P' ], [ 'If-Match', '"P"' ], [ 'Prefer', 'max-affected=P' ], [ 'Prefer', 'return=P' ], [ 'Prefer', 'resolution=P' ]));

# One connection for as long as the server keeps it: the answer, or undef.
my $line;
sub ask
{
	my ($bytes) = @_;
	my $answer;
	local $SIG{PIPE} = 'IGNORE';
	for my $try (1, 2)
	{
		$line //= IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $stack->{http_port}, Timeout => 20) or die "connect: $!";
		my $heard = '';
		syswrite($line, $bytes);
		while (IO::Select->new($line)->can_read(10))
		{
			my $n = sysread($line, $heard, 65536, length $heard);
			last unless $n;
			last if $heard =~ /^(.*?\r\n)\r\n/s && $1 =~ /^Content-Length: (\d+)\r\n/mi && length($heard) >= $+[0] && length($heard) - index($heard, "\r\n\r\n") - 4 >= ($heard =~ /^Content-Length: (\d+)\r$/mi)[0];
			last if $heard =~ m{^HTTP/1\.1 (?:204|304) .*\r\n\r\n\z}s || $heard =~ /\r\n0\r\n\r\n\z/;
		}
		$answer = OrionStack::parse($heard);
		undef $line if !$answer->{status} || ($answer->{headers}{connection} // '') =~ /close/i;
		return $answer if $answer->{status};
	}
	return $answer;
}

my $requests = 0;
foreach my $name (sort keys %place)
{
	my @bad;
	foreach my $poison (@poison)
	{
		next if $name =~ /^header/ && $poison =~ /[\r\n]/;
		my ($method, $target, %options) = $place{$name}->($poison);
		$options{headers}{Connection} = 'keep-alive';
		my $answer = ask(OrionStack::request_bytes($method, $target, %options));
		$requests++;
		next if $answer->{status} >= 200 && $answer->{status} < 500;
		# too many brackets for an array: class 54 is 500 in PostgREST's table, which is ours
		next if $poison =~ /^\{+$/ && ($answer->{json}{code} // '') eq '54000';
		push @bad, sprintf('%s: %s %s', substr($poison, 0, 40) =~ s/[^ -~]/sprintf('\\x%02x', ord $&)/ger, $answer->{status}, substr($answer->{body}, 0, 200));
	}
	is(join("\n", @bad), '', "$name: no fault of the server's");
	my $now = canary();
	is($now, $canary, "$name: the canary lives") if $now ne $canary;
}
is(canary(), $canary, 'the canary lives');
note("$requests requests");

# --- taken for what they are: what is stored and what is found are the same bytes
my ($stored, $found, $refused) = (0, 0, 0);
foreach my $poison (@poison)
{
	my $good = is_good($poison);
	my $hex = unpack 'H*', $poison;
	foreach my $way ([ body => '[{"v":' . text($poison) . '}]' ], [ body => "v\n" . csv($poison) . "\n", headers => { 'Content-Type' => 'text/csv' } ],
		[ body => 'v=' . pct($poison), headers => { 'Content-Type' => 'application/x-www-form-urlencoded' } ])
	{
		my $answer = $stack->http('POST', '/rest/v1/kept', @$way);
		if (!$good) { $refused++ if $answer->{status} == 400; next; }
		$stored++ if $answer->{status} == 201;
	}
	foreach my $filter ('v=eq.' . pct($poison), 'v=in.' . pct('(' . quoted($poison) . ')'), 'or=' . pct('(v.eq.' . quoted($poison) . ')'))
	{
		my $answer = $stack->http('GET', "/rest/v1/kept?select=v&$filter");
		if (!$good) { $refused++ if $answer->{status} == 400; next; }
		$found++ if ref $answer->{json} eq 'ARRAY' && @{ $answer->{json} } == 3;
		diag("$filter: $answer->{status} $answer->{body}") unless ref $answer->{json} eq 'ARRAY' && @{ $answer->{json} } == 3;
	}
	is($stack->sql("SELECT count(*) FROM kept WHERE v = convert_from('\\x$hex', 'UTF8')"), 3, 'stored as it is: ' . substr($poison, 0, 20)) if $good;
	if ($good)
	{
		my $answer = $stack->http('POST', '/rest/v1/rpc/echo', body => '{"v":' . text($poison) . '}');
		my $text = $poison;
		utf8::decode($text);
		is($answer->{json}, $text, 'and echoed');
	}
}
my $bad = grep { !is_good($_) } @poison;
is($refused, 6 * $bad, 'NUL and what is no UTF-8 are refused everywhere');
is($stored, 3 * (@poison - $bad), 'all others are stored');
is($found, 3 * (@poison - $bad), 'and found');

my $log = slurp_file($stack->node->logfile);
my @wrong = grep { /syntax error at|unterminated|zero-length delimited|PANIC|TRAP|terminated by signal/ } split /\n/, $log;
is(join("\n", splice @wrong, 0, 5), '', 'the SQL parser was never at a loss');
is($stack->sql('SELECT sum(restarts) FROM orion.workers'), 0, 'no worker was restarted');
done_testing();
