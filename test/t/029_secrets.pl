# No password, token or key is where somebody could read it: the server's log with all
# statements, plans and parameters in it, pg_stat_activity, pg_stat_statements, process
# titles, answers that are errors, and the tables themselves. Every route that takes or
# gives a secret is called, also so that it fails in the middle.
use strict;
use warnings;
use JSON::PP ();
use OrionStack;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;

my $stack = OrionStack->new('secrets', conf => q{
shared_preload_libraries = 'orion, pg_stat_statements, auto_explain'
pg_stat_statements.track = all
pg_stat_statements.track_utility = on
auto_explain.log_min_duration = 0
auto_explain.log_nested_statements = on
auto_explain.log_verbose = on
log_statement = all
log_min_duration_statement = 0
log_min_messages = debug1
log_min_error_statement = debug5
log_error_verbosity = verbose
log_parameter_max_length = -1
log_parameter_max_length_on_error = -1
track_activity_query_size = 65536
});
my $node = $stack->node;
$stack->sql('CREATE EXTENSION pg_stat_statements');
my %secret;    # what => the bytes that must be nowhere
my @errors;    # bodies of answers that are errors

sub call
{
	my ($method, $path, $json, $token) = @_;
	my $answer = $stack->http($method, $path, $json ? (json => $json) : (), token => $token);
	push @errors, "$method $path: $answer->{body}" if $answer->{status} >= 400;
	return $answer;
}
sub post { my ($path, @rest) = @_; return call('POST', "/api/auth/$path", @rest); }

# A token as who sends mails opens it: that statement is theirs, and its parameters too,
# so it is run where nothing is logged or kept.
sub mailed
{
	my ($type) = @_;
	return $stack->sql("SET log_statement = none; SET log_min_duration_statement = -1; SET auto_explain.log_min_duration = -1; SET pg_stat_statements.track = none;"
		. " SELECT orion_email_token_open((payload ->> 'id')::uuid, payload ->> 'sealedToken') FROM orion_private.outbox WHERE type = '$type' ORDER BY seq DESC LIMIT 1");
}

# --- somebody looks on: activity and titles, again and again

my $seen = $node->basedir . '/seen';
my $watcher = OrionStack::spawn(sub {
	open(my $file, '>', $seen) or die;
	my $postmaster = (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];
	for (;;)
	{
		my @pids = OrionStack::children_of($postmaster);
		print $file OrionServices::slurp("/proc/$_/cmdline") foreach @pids, OrionStack::children_of(@pids);
		print $file $stack->try_sql('SELECT row_to_json(a) FROM pg_stat_activity AS a') // '';
		$file->flush;
		select undef, undef, undef, 0.02;
	}
});

# --- every route with a secret, answered and refused

my ($email, $password, $second, $third) = ('ann@example.com', 'planted-Password-1', 'planted-Password-2', 'planted-Password-3');
@secret{qw(password second third wrong)} = ($password, $second, $third, 'planted-Wrong');
my $ann = post('register', { email => $email, password => $password, displayName => 'Ann' })->{json};
post('register', { email => $email, password => $password });
post('register', { email => 'bad', password => 'planted-Other' });
post('register', { email => 'planted-Mistyped', password => 'planted-Short' });
$secret{other} = 'planted-Other';
$secret{short} = 'planted-Short';
# a password in the field of the address
post('login', { email => 'planted-Mistyped', password => 'planted-Wrong' });
$secret{mistyped} = 'planted-Mistyped';
post('login', { email => $email, password => 'planted-Wrong' });
post('login', { email => 'nobody@example.com', password => 'planted-Wrong' });
post('login', { email => { a => 'planted-Nested' }, password => ['planted-Nested'] });
$secret{nested} = 'planted-Nested';
my $session = post('login', { email => $email, password => $password, deviceId => 'phone' })->{json};
@secret{qw(access refresh)} = @$session{qw(accessToken refreshToken)};
my $next = post('refresh', { refreshToken => $session->{refreshToken} })->{json};
@secret{qw(access2 refresh2)} = @$next{qw(accessToken refreshToken)};
my $last = post('refresh', { refreshToken => $next->{refreshToken} })->{json};
@secret{qw(access3 refresh3)} = @$last{qw(accessToken refreshToken)};
post('refresh', { refreshToken => 'planted-Refresh' });
$secret{junk} = 'planted-Refresh';
my $verify = mailed('user.created');
$secret{verify} = $verify;
post('verify-email', { token => 'planted-Verify' });
$secret{'junk verify'} = 'planted-Verify';
is(post('verify-email', { token => $verify })->{status}, 200, 'the address is confirmed');
post('verify-email', { token => $verify });
my $key = call('POST', '/api/user/api-keys', { name => 'k' }, $last->{accessToken})->{json};
$secret{'API key'} = $key->{key};
is(call('GET', '/api/user/profile', undef, $key->{key})->{status}, 200, 'an API key is used');
call('GET', '/api/user/profile', undef, 'ork_' . 'p' x 44);
call('GET', '/rest/v1/nothing', undef, $key->{key});
call('GET', '/rest/v1/nothing', undef, $last->{accessToken});
call('GET', '/api/user/profile', undef, 'planted.Access.Token');
$secret{'junk access'} = 'planted.Access.Token';
call('PATCH', '/api/user/profile', { version => $ann->{user}{version} + 1, email => 'ann2@example.com' }, $last->{accessToken});
my $change = mailed('user.email_change_requested');
$secret{'email change'} = $change;
call('POST', '/api/user/email/confirm', { token => 'planted-Confirm' });
$secret{'junk confirm'} = 'planted-Confirm';
is(call('POST', '/api/user/email/confirm', { token => $change })->{status}, 200, 'a new address is confirmed');
$email = 'ann2@example.com';
is(post('password-change', { currentPassword => $password, newPassword => $second }, $last->{accessToken})->{status}, 200, 'the password is changed');
post('password-change', { currentPassword => 'planted-Wrong', newPassword => $third }, $last->{accessToken});
post('password-reset', { email => $email });
my $reset = mailed('auth.password_reset_requested');
$secret{reset} = $reset;
post('password-reset/confirm', { token => $reset, newPassword => 'password' });
post('password-reset/confirm', { token => 'planted-Reset', newPassword => $third });
$secret{'junk reset'} = 'planted-Reset';
is(post('password-reset/confirm', { token => $reset, newPassword => $third })->{status}, 200, 'the password is reset');
post('refresh', { refreshToken => $session->{refreshToken} });
$session = post('login', { email => $email, password => $third })->{json};
@secret{qw(access4 refresh4)} = @$session{qw(accessToken refreshToken)};
post('logout', {}, $session->{accessToken});

# --- and so that they fail in the middle, with an error that has a context

$stack->sql(q{
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'failed on purpose' USING DETAIL = row_to_json(NEW) ->> 'id'; END $$;
CREATE TRIGGER fail BEFORE INSERT OR UPDATE ON orion_private.sessions FOR EACH ROW EXECUTE FUNCTION fail();
CREATE TRIGGER fail BEFORE INSERT ON orion_private.api_keys FOR EACH ROW EXECUTE FUNCTION fail();});
my $failed = post('login', { email => $email, password => $third });
is($failed->{status}, 400, 'a login fails in the middle') or diag($failed->{body});
post('register', { email => 'eve@example.com', password => $third });
post('refresh', { refreshToken => $ann->{refreshToken} });
@secret{qw(access0 refresh0)} = @$ann{qw(accessToken refreshToken)};
call('POST', '/api/user/api-keys', { name => 'k2' }, $session->{accessToken});
$stack->sql('ALTER TABLE orion_private.sessions DISABLE TRIGGER fail; ALTER TABLE orion_private.users ADD CONSTRAINT refuse CHECK (email <> \'no@example.com\')');
my $refused = post('register', { email => 'no@example.com', password => $third });
is("$refused->{status} $refused->{json}{code}", '400 23514', 'a registration fails in the table');
ok(!defined $refused->{json}{details}, 'and the row that failed is not shown');
# no JSON at all, with a secret in it; and one that is too deep for the parser
$stack->http('POST', '/api/auth/login', body => '{"email":"a@example.com","password":"planted-Broken');
$stack->http('POST', '/api/auth/login', body => '{"password":"planted-Broken",}');
$secret{broken} = 'planted-Broken';
# in the path and the query, where they do not belong
$stack->http('GET', '/api/auth/sessions?token=planted-Query');

# --- where they could be read

kill 'KILL', $watcher;
waitpid($watcher, 0);
my %place = (
	'what is seen of processes and in pg_stat_activity' => slurp_file($seen),
	'pg_stat_statements' => $stack->sql('SET log_statement = none; SET log_min_duration_statement = -1; SET auto_explain.log_min_duration = -1; SELECT query FROM pg_stat_statements'),
	'an answer that is an error' => join("\n", @errors));
like($place{'pg_stat_statements'}, qr/orion_private/, 'pg_stat_statements has statements of the functions');
like($place{'what is seen of processes and in pg_stat_activity'}, qr/orion executor/, 'the executors were seen');
my $dump = $node->basedir . '/dump.sql';
$node->run_log([ 'pg_dump', '-f', $dump, '-d', $node->connstr('postgres') ]);
$place{'a dump of the database'} = slurp_file($dump);
like($place{'a dump of the database'}, qr/ann2\@example\.com/, 'the dump has the user');
$node->stop;
$place{'the log'} = slurp_file($node->logfile);
like($place{'the log'}, qr/failed on purpose/, 'the log has the errors');
like($place{'the log'}, qr/Query Text: .*orion_private/, 'and the plans of nested statements');

foreach my $where (sort keys %place)
{
	my @found = grep { index($place{$where}, $secret{$_}) >= 0 } sort keys %secret;
	is("@found", '', "none of " . keys(%secret) . " secrets is in $where");
	# plans of nested statements, which nobody logs who does not ask for it, may show a hash
	unlike($place{$where}, qr/\$argon2id\$/, "nor a hash in $where") unless $where =~ /dump|log/;
}
unlike($place{'the log'}, qr/TRAP|PANIC|terminated by signal/, 'nothing has crashed');
done_testing();
