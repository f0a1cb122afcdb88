# /api/user through real HTTP: each route with each of its answers.
use strict;
use warnings;
use JSON::PP;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use OrionHttp;

my ($node, $port) = OrionHttp::server('profile', qq{
orion.executor_count = 2
log_statement = all
log_min_error_statement = panic
});
$node->safe_psql('postgres', 'CREATE EXTENSION orion');
ok(OrionHttp::await($port, '/ready', 200), 'ready');

my $json = JSON::PP->new->allow_nonref->canonical->utf8;

sub http
{
	my ($method, $path, $token, $body) = @_;
	my %headers;
	$headers{Authorization} = "Bearer $token" if defined $token;
	$headers{'Content-Type'} = 'application/json' if defined $body;
	my $answer = OrionHttp::request($port, $method, $path, \%headers, defined $body ? ref $body ? $json->encode($body) : $body : undef);
	$answer->{json} = length $answer->{body} ? eval { $json->decode($answer->{body}) } : undef;
	return $answer;
}

sub sql { return $node->safe_psql('postgres', @_); }

# status, code and the fields complained about
sub is_error
{
	my ($answer, $status, $code, $fields, $name) = @_;
	my $seen = join ',', map { "$_->{field}:$_->{code}" } @{ $answer->{json}{errors} // [] };
	is("$answer->{status} $answer->{json}{code} $seen", "$status $code $fields", $name);
}

sub register
{
	my ($email, $name) = @_;
	my $answer = http('POST', '/api/auth/register', undef, { email => $email, password => 'correct horse battery', displayName => $name });
	is($answer->{status}, 201, "$email registers");
	return ($answer->{json}{accessToken}, $answer->{json}{user}{id});
}
my ($ann, $ann_id) = register('ann@example.com', 'Ann');
my ($bob, $bob_id) = register('bob@example.com');
my $narrow = sql("SELECT key FROM orion_api_key_create('$ann_id', 'narrow', '{docs:read}')");
my $wide = sql("SELECT key FROM orion_api_key_create('$ann_id', 'wide', '{profile:*,preferences:*,follows:*}')");
my $nobody = sql("SELECT orion_jwt_sign('{\"sub\": \"00000000-0000-0000-0000-000000000000\", \"role\": \"orion_user\"}')");
my $service = sql("SELECT orion_jwt_sign('{\"role\": \"orion_service\"}')");

# --- what all routes of a user refuse
for my $route ([ 'GET', 'profile' ], [ 'PATCH', 'profile', {} ], [ 'GET', 'preferences' ], [ 'PATCH', 'preferences', {} ],
	[ 'POST', "$bob_id/follow" ], [ 'DELETE', "$bob_id/follow" ])
{
	my ($method, $path, $body) = @$route;
	my $answer = http($method, "/api/user/$path", undef, $body);
	is_error($answer, 401, 'unauthorized', '', "$method $path without a token");
	is($answer->{headers}{'www-authenticate'}, 'Bearer', 'says how');
	is_error(http($method, "/api/user/$path", $narrow, $body), 403, 'insufficient_scope', '', 'with a key of another scope');
	is_error(http($method, "/api/user/$path", $nobody, $body), 404, 'not_found', '', 'of a user who is gone');
	is_error(http($method, "/api/user/$path", $service, $body), 401, 'unauthorized', '', 'of no user');
}

# --- profile: read
my $profile = http('GET', '/api/user/profile', $ann);
is($profile->{status}, 200, 'GET profile');
is(join(' ', sort keys %{ $profile->{json} }), 'avatarUrl createdAt displayName email emailVerified followers following id pendingEmail role updatedAt userMetadata version', 'its fields');
is($profile->{json}{email}, 'ann@example.com', 'the own');
is(http('GET', '/api/user/profile', $wide)->{json}{id}, $ann_id, 'with a key of the scope');

# --- profile: form (400) and rules (422), all at once
sub change { my ($body, $token) = @_; return http('PATCH', '/api/user/profile', $token // $ann, $body); }
is_error(change('[]'), 400, 'invalid_request', ':not_an_object', 'no object');
is_error(change('"x"'), 400, 'invalid_request', ':not_an_object', 'no object either');
is(change('{')->{status}, 400, 'no JSON');
is_error(change({}), 400, 'invalid_request', 'version:missing', 'no version');
is_error(change({ version => 1 }), 400, 'invalid_request', ':nothing_to_change', 'nothing to change');
is_error(change({ version => '1', displayName => 1, avatarUrl => [], userMetadata => 'x', email => undef, role => 'orion_admin' }), 400, 'invalid_request',
	'avatarUrl:wrong_type,displayName:wrong_type,email:wrong_type,role:unknown_field,userMetadata:wrong_type,version:wrong_type', 'each field, and no other');
is_error(change({ version => 1.5, displayName => 'x' }), 400, 'invalid_request', 'version:wrong_type', 'half a version');
is_error(change({ version => -1, displayName => 'x' }), 400, 'invalid_request', 'version:wrong_type', 'a negative one');
is_error(change({ version => 1, displayName => 'x' x 201, avatarUrl => 'javascript:alert(1)', userMetadata => { a => 'x' x 17000 }, email => 'ann' }), 422, 'validation_failed',
	'avatarUrl:invalid_url,displayName:invalid_display_name,email:invalid_email,userMetadata:too_large', 'rules');
is_error(change({ version => 1, displayName => "a\nb" }), 422, 'validation_failed', 'displayName:invalid_display_name', 'a line feed in a name');
is_error(change({ version => 1, avatarUrl => 'https://x/' . 'a' x 2048 }), 422, 'validation_failed', 'avatarUrl:invalid_url', 'a long URL');
is(http('GET', '/api/user/profile', $ann)->{json}{version}, 1, 'nothing was changed by any of them');

# --- profile: change, and a stale one
my $changed = change({ version => 1, displayName => "\x{C4}nn \x{1F600}", avatarUrl => 'https://example.com/a.png', userMetadata => { likes => ['tea'] } });
is($changed->{status}, 200, 'changed');
is($changed->{json}{version}, 2, 'the version counts');
is($changed->{json}{displayName}, "\x{C4}nn \x{1F600}", 'the name');
my $stale = change({ version => 1, displayName => 'Other' });
is_error($stale, 409, 'version_conflict', '', 'a stale version');
is($stale->{json}{currentVersion}, 2, 'says the current one');
is(change({ version => 2, displayName => undef })->{json}{displayName}, undef, 'null clears');
is(http('GET', '/api/user/profile', $ann)->{json}{avatarUrl}, 'https://example.com/a.png', 'what is not named stays');
is(sql("SELECT string_agg(concat_ws(' ', outcome, old, new), E'\\n' ORDER BY id) FROM orion.audit_log WHERE action = 'user.updated' AND actor = '$ann_id' AND target_id = '$ann_id'"),
	"ok {\"avatar_url\": null, \"display_name\": \"Ann\", \"user_metadata\": {}} {\"avatar_url\": \"https://example.com/a.png\", \"display_name\": \"\xC3\x84nn \xF0\x9F\x98\x80\", \"user_metadata\": {\"likes\": [\"tea\"]}}\n"
	. "version_conflict\nok {\"display_name\": \"\xC3\x84nn \xF0\x9F\x98\x80\"} {\"display_name\": null}", 'each on record, before and after, the refused one too');
is(sql("SELECT string_agg((payload ->> 'version') || (payload ->> 'changed'), ' ' ORDER BY seq) FROM orion_private.outbox WHERE type = 'user.updated'"),
	'2["display_name", "avatar_url", "user_metadata"] 3["display_name"]', 'events user.updated');

# two editors with the same version: exactly one wins
{
	my @pids;
	for my $n (1, 2)
	{
		my $pid = fork // die;
		POSIX::_exit(change({ version => 3, displayName => "editor $n" })->{status} == 200 ? 0 : 1) if $pid == 0;
		push @pids, $pid;
	}
	my $won = 0;
	for (@pids) { waitpid $_, 0; $won++ if $? == 0; }
	is($won, 1, 'of two editors one wins');
}

# --- a new mail address
sub pending { return http('GET', '/api/user/profile', $ann)->{json}{pendingEmail}; }
my $version = http('GET', '/api/user/profile', $ann)->{json}{version};
is_error(change({ version => $version, email => 'ann2@example.com' }, $wide), 403, 'session_required', '', 'not with a key');
sql(q{UPDATE orion_private.sessions SET amr = '[{"method": "password", "timestamp": 1}]'});
is_error(change({ version => $version, email => 'ann2@example.com', displayName => 'Thief' }), 403, 'password_required', '', 'not with a token that leaked, of an older sign-in');
is_error(change({ version => $version, email => 'ann2@example.com', displayName => 'Thief', password => 'a guess at the password' }), 403, 'invalid_credentials', '', 'nor with another password');
is(sql(q{SELECT display_name <> 'Thief' FROM orion_private.users WHERE email = 'ann@example.com'}), 't', '... and nothing is changed');
is(pending(), undef, '... or asked for');
my $asked = change({ version => $version, email => ' Ann2@Example.com ', password => 'correct horse battery' });
is("$asked->{status} $asked->{json}{email} $asked->{json}{pendingEmail}", '200 ann@example.com ann2@example.com', 'waits for its confirmation');

sql(q{UPDATE orion_private.sessions SET amr = jsonb_build_array(jsonb_build_object('method', 'password', 'timestamp', floor(extract(epoch FROM now()))))});

# The token of the last event, opened as who sends mail does.
sub token { return sql(q{SELECT orion_email_token_open((payload ->> 'id')::uuid, payload ->> 'sealedToken') FROM orion_private.outbox WHERE type = 'user.email_change_requested' ORDER BY seq DESC LIMIT 1}); }
my $first = token();
like($first, qr/^[A-Za-z0-9_-]{43}$/, 'the event has the token, sealed');
ok(index(sql("SELECT string_agg($_\::text, '') FROM orion_private.$_"), $first) < 0, "not as it is in $_") for 'outbox', 'email_changes', 'audit_log';
is(sql('SELECT payload - \'{id,sealedToken,expiresAt}\'::text[] FROM orion_private.outbox WHERE type = \'user.email_change_requested\''), '{"email": "ann@example.com", "newEmail": "ann2@example.com"}', 'but both addresses');
change({ version => $version, email => 'ann3@example.com' });
my $second = token();
sub confirm { return http('POST', '/api/user/email/confirm', undef, @_); }
is_error(confirm('[]'), 400, 'invalid_request', ':not_an_object', 'confirm: no object');
is_error(confirm({}), 400, 'invalid_request', 'token:missing', 'confirm: no token');
is_error(confirm({ token => 1 }), 400, 'invalid_request', 'token:wrong_type', 'confirm: a number');
is_error(confirm({ token => 'x' }), 400, 'invalid_token', '', 'confirm: another token');
is_error(confirm({ token => $first }), 400, 'invalid_token', '', 'confirm: a second request ends the first');
{
	my @pids;
	for (1, 2)
	{
		my $pid = fork // die;
		POSIX::_exit(confirm({ token => $second })->{status} == 200 ? 0 : 1) if $pid == 0;
		push @pids, $pid;
	}
	my $won = 0;
	for (@pids) { waitpid $_, 0; $won++ if $? == 0; }
	is($won, 1, 'of two confirmations at once one wins');
}
is_error(confirm({ token => $second }), 400, 'invalid_token', '', 'confirm: a token works once');
$profile = http('GET', '/api/user/profile', $ann)->{json};
is("$profile->{email} $profile->{emailVerified} " . ($profile->{pendingEmail} // 'none'), 'ann3@example.com 1 none', 'the new address counts and is verified');
is(http('POST', '/api/auth/login', undef, { email => 'ann3@example.com', password => 'correct horse battery' })->{status}, 200, 'and signs in');
is(http('POST', '/api/auth/login', undef, { email => 'ann@example.com', password => 'correct horse battery' })->{status}, 401, 'the former does not');
change({ version => $profile->{version}, email => 'ann4@example.com' });
sql('UPDATE orion_private.email_changes SET expires_at = now()');
is(pending(), undef, 'an expired request is none');
is_error(confirm({ token => token() }), 400, 'expired_token', '', 'confirm: too late');
is(change({ version => $profile->{version}, email => 'bob@example.com' })->{json}{pendingEmail}, 'bob@example.com', 'an address that somebody has is not told');
is_error(confirm({ token => token() }), 409, 'email_exists', '', 'confirm: unless one can read its mail');
change({ version => $profile->{version}, email => 'ann5@example.com' });
is(change({ version => $profile->{version}, email => 'ann3@example.com' })->{json}{pendingEmail}, undef, 'the own address again ends a request');
my $sixth = change({ version => $profile->{version}, email => 'stranger@example.com', displayName => 'Flood' });
is_error($sixth, 429, 'locked', '', 'a sixth address in 15 minutes gets no mail');
cmp_ok($sixth->{headers}{'retry-after'}, '>', 0, '... and the answer says when');
is(http('GET', '/api/user/profile', $ann)->{json}{version}, $profile->{version}, '... and nothing is changed');
is(sql("SELECT string_agg(DISTINCT outcome, ' ' ORDER BY outcome) FROM orion.audit_log WHERE action = 'user.email_changed'"), 'email_exists expired_token invalid_token ok', 'on record');

# --- preferences
my $preferences = http('GET', '/api/user/preferences', $ann);
is($preferences->{status}, 200, 'GET preferences');
is($json->encode($preferences->{json}{preferences}) . $preferences->{json}{version}, '{}1', 'made with the user');
sub prefer { my ($body, $token) = @_; return http('PATCH', '/api/user/preferences', $token // $ann, $body); }
is_error(prefer('1'), 400, 'invalid_request', ':not_an_object', 'no object');
is_error(prefer({}), 400, 'invalid_request', 'preferences:missing', 'no preferences');
is_error(prefer({ preferences => [], version => 'x', other => 1 }), 400, 'invalid_request', 'other:unknown_field,preferences:wrong_type,version:wrong_type', 'other types');
is_error(prefer({ preferences => { a => 'x' x 17000 } }), 422, 'validation_failed', 'preferences:preferences_too_large', 'too large');
is_error(prefer('{"preferences":' . '{"a":' x 1000 . '1' . '}' x 1001), 422, 'validation_failed', 'preferences:preferences_too_deep', 'too deep');
is($json->encode(prefer({ preferences => { theme => 'dark', mail => { news => JSON::PP::true, tips => JSON::PP::true } } })->{json}),
	'{"preferences":{"mail":{"news":true,"tips":true},"theme":"dark"},"version":2}', 'set');
is($json->encode(prefer({ preferences => { theme => undef, mail => { tips => JSON::PP::false } }, version => 2 }, $wide)->{json}),
	'{"preferences":{"mail":{"news":true,"tips":false}},"version":3}', 'merged; null removes');
is($json->encode(prefer({ preferences => { mail => { news => JSON::PP::true } }, version => 3 })->{json}{version}), '3', 'no change, no version');
$stale = prefer({ preferences => { x => 1 }, version => 2 });
is_error($stale, 409, 'version_conflict', '', 'a stale version');
is($stale->{json}{currentVersion}, 3, 'says the current one');
is(sql("SELECT string_agg(outcome || coalesce(old::text, '') || coalesce(new::text, ''), ' ' ORDER BY id) FROM orion.audit_log WHERE action = 'user.preferences_updated'"),
	'ok{}{"mail": {"news": true, "tips": true}, "theme": "dark"} ok{"mail": {"news": true, "tips": true}, "theme": "dark"}{"mail": {"news": true, "tips": false}} version_conflict', 'on record');
is(sql("SELECT count(*) FROM orion_private.outbox WHERE type = 'user.preferences_updated'"), 2, 'events');

my $cat_id = sql(q{INSERT INTO orion_private.users (email) VALUES ('imported@example.com') RETURNING id});
my $cat = sql("SELECT orion_jwt_sign(jsonb_build_object('sub', '$cat_id', 'role', 'orion_user'))");
is($json->encode(http('GET', '/api/user/preferences', $cat)->{json}{preferences}), '{}', 'a user who was imported has none');
is(prefer({ preferences => { x => 1 }, version => 1 }, $cat)->{json}{version}, 2, 'and can set some');
sql("SELECT orion_user_delete('$cat_id')");

# --- following
sub follow { my ($method, $who, $token) = @_; return http($method, "/api/user/$who/follow", $token // $ann); }
is_error(follow('POST', 'x'), 404, 'not_found', '', 'follow no id');
is_error(follow('POST', '00000000-0000-0000-0000-000000000000'), 404, 'not_found', '', 'follow nobody');
is_error(follow('POST', $ann_id), 422, 'validation_failed', 'id:self', 'follow oneself');
my $followed = follow('POST', $bob_id);
is("$followed->{status} $followed->{json}{followers}", '201 1', 'follow');
is(follow('POST', $bob_id)->{status}, 200, 'again');
is(http('GET', '/api/user/profile', $bob)->{json}{followers}, 1, 'has a follower');
is(http('GET', '/api/user/profile', $ann)->{json}{following}, 1, 'follows one');
is_error(follow('DELETE', $ann_id, $bob), 404, 'not_found', '', 'unfollow who is not followed');
is_error(follow('DELETE', 'x'), 404, 'not_found', '', 'unfollow no id');
$followed = follow('DELETE', $bob_id);
is("$followed->{status} [$followed->{body}]", '204 []', 'unfollow');
is_error(follow('DELETE', $bob_id), 404, 'not_found', '', 'again');
is(sql("SELECT string_agg(type, ' ' ORDER BY seq) FROM orion_private.outbox WHERE type ~ 'follow' AND payload ->> 'followerId' = '$ann_id' AND aggregateid = '$bob_id'"), 'user.followed user.unfollowed', 'events');
is(sql("SELECT string_agg(action, ' ' ORDER BY id) FROM orion.audit_log WHERE action ~ 'follow' AND actor = '$ann_id' AND target_id = '$bob_id'"), 'user.followed user.unfollowed', 'on record');

# --- the list
sub list { my ($query, $token) = @_; return http('GET', '/api/user/list' . ($query // ''), $token // $service); }
my $anonymous = http('GET', '/api/user/list');
is_error($anonymous, 401, 'unauthorized', '', 'list without a token');
is($anonymous->{headers}{'www-authenticate'}, 'Bearer', 'says how');
is_error(list('', $ann), 403, 'forbidden', '', 'list without the permission');
sql("SELECT orion_user_permission_grant('$ann_id', 'users:read')");
is(list('', $ann)->{status}, 200, 'with it');
is_error(list('', $narrow), 403, 'forbidden', '', 'but not beyond the scopes of a key');
is_error(list('?page=0&limit=101&sort=password'), 400, 'invalid_request', 'limit:out_of_range,page:out_of_range,sort:unknown', 'all that is wrong');
is_error(list('?page=x&limit=0'), 400, 'invalid_request', 'limit:out_of_range,page:out_of_range', 'no numbers');
is_error(list('?page=2&cursor=x'), 400, 'invalid_request', 'cursor:conflict', 'a page and a cursor');
is_error(list("?cursor=$_"), 400, 'invalid_request', 'cursor:invalid_cursor', "cursor \"$_\"") for '', 'x', '%27', 'W10', 'eyJhIjoxfQ', 'A' x 3000;
sql(q{INSERT INTO orion_private.users (email, display_name, created_at) SELECT 'user' || i || '@example.com', CASE WHEN i % 3 = 0 THEN 'name ' || i % 7 END,
	'2025-01-01'::timestamptz + (i / 4) * interval '1 day' FROM generate_series(1, 40) AS i});
my $page = list('?page=2&limit=10&sort=email')->{json};
is("$page->{total} $page->{page} $page->{limit} $page->{hasMore} " . scalar @{ $page->{users} }, '42 2 10 1 10', 'a page in the middle');
$page = list('?page=5&limit=10')->{json};
is("$page->{total} " . ($page->{hasMore} ? 'more' : 'end') . ' ' . @{ $page->{users} }, '42 end 2', 'the last page');
ok(!defined $page->{nextCursor}, 'has no cursor');
is(scalar @{ list('?page=6&limit=10')->{json}{users} }, 0, 'after the last page');
ok(!grep({ /hash|password/i } keys %{ $page->{users}[0] }), 'no hash in it');

my %order = (createdAt => 'created_at', email => 'email', displayName => "coalesce(display_name, '')", lastLoginAt => "coalesce(last_login_at, '-infinity')");
for my $sort (sort keys %order)
{
	for my $down ('', '-')
	{
		my $direction = $down ? 'DESC' : 'ASC';
		my $expected = sql("SELECT string_agg(email, ' ' ORDER BY $order{$sort} $direction, id $direction) FROM orion_private.users");
		my (@seen, $cursor);
		for (1 .. 20)
		{
			my $answer = list("?sort=$down$sort&limit=9" . (defined $cursor ? "&cursor=$cursor" : ''));
			last if $answer->{status} != 200;
			push @seen, map { $_->{email} } @{ $answer->{json}{users} };
			$cursor = $answer->{json}{nextCursor};
			last unless $answer->{json}{hasMore};
		}
		is("@seen", $expected, "each user once by cursor, by $down$sort");
		is(join(' ', map { map { $_->{email} } @{ list("?sort=$down$sort&limit=9&page=$_")->{json}{users} } } 1 .. 5), $expected, "and by page") unless $down;
	}
}
my $cursor = list('?sort=email&limit=5')->{json}{nextCursor};
is_error(list("?sort=-email&cursor=$cursor"), 400, 'invalid_request', 'cursor:invalid_cursor', 'a cursor of another order');
ok(!exists list("?sort=email&cursor=$cursor")->{json}{total}, 'no total with a cursor');

# --- health, other methods
my $health = http('GET', '/api/user/health');
is("$health->{status} $health->{json}{status} $health->{json}{writable}", '200 ok 1', 'health');
is(http('DELETE', '/api/user/profile', $ann)->{status}, 405, 'no such method');
is(http('GET', '/api/user/nothing', $ann)->{status}, 404, 'no such route');

$node->stop;
my $log = slurp_file($node->logfile);
ok(index($log, $_) < 0, 'no token in the log') for $first, $second, substr($wide, 10, 30);
unlike($log, qr/TRAP|PANIC|terminated by signal/, 'nothing has crashed');
done_testing();
