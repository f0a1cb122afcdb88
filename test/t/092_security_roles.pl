# Who may write a function must not become an administrator by it: neither through
# requests, whose session could take any role, nor through CREATE EXTENSION.
use strict;
use warnings;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use OrionHttp;

my ($node, $port) = OrionHttp::server('roles', qq{
orion.executor_count = 1
});

# Before the extension is there, a developer puts a function for every number of
# untyped arguments in the place of each of Orion's.
my $script = slurp_file(($ENV{ORION_TREE} // ".") . "/orion--1.0.sql");
my %names = map { $_ => 1 } $script =~ /CREATE FUNCTION \@extschema\@\.(\w+)/g;
cmp_ok(keys %names, '>', 20, 'the install script has functions');
my @hostile = map {
	my $name = $_;
	map { "CREATE FUNCTION public.$name(" . join(', ', ('text') x $_) . ') RETURNS void LANGUAGE plpgsql AS $$'
		  . " BEGIN ALTER ROLE developer SUPERUSER; END \$\$;" } 4 .. 9;
} sort keys %names;
$node->safe_psql('postgres', 'CREATE ROLE developer; GRANT CREATE ON SCHEMA public TO developer;');
$node->safe_psql('postgres', join("\n", 'SET ROLE developer;', @hostile));
$node->safe_psql('postgres', 'CREATE EXTENSION orion');
is($node->safe_psql('postgres', q{SELECT rolsuper FROM pg_roles WHERE rolname = 'developer'}), 'f',
	'CREATE EXTENSION calls no function that was there before');
$node->safe_psql('postgres', 'DROP OWNED BY developer; GRANT CREATE ON SCHEMA public TO developer;');

$node->safe_psql('postgres', q{
CREATE TABLE letters (id int);
ALTER TABLE letters OWNER TO developer;
SET ROLE developer;
GRANT INSERT ON letters TO orion_anon;
CREATE FUNCTION who() RETURNS json LANGUAGE sql AS 'SELECT json_build_array(current_user, current_setting(''role''))';
CREATE FUNCTION by_setting() RETURNS json LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('role', 'orion_admin', true); RETURN who(); END $$;
CREATE FUNCTION by_session() RETURNS json LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('role', 'orion_admin', false); RETURN who(); END $$;
CREATE FUNCTION by_set() RETURNS json LANGUAGE plpgsql AS $$ BEGIN SET ROLE orion_admin; RETURN who(); END $$;
CREATE FUNCTION by_reset() RETURNS json LANGUAGE plpgsql AS $$ BEGIN RESET ROLE; RETURN who(); END $$;
CREATE FUNCTION by_authorization() RETURNS json LANGUAGE plpgsql AS $$ BEGIN SET SESSION AUTHORIZATION orion_admin; RETURN who(); END $$;
CREATE FUNCTION alters(what text) RETURNS json LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'ALTER ROLE ' || what; RETURN who(); END $$;
CREATE FUNCTION by_clause() RETURNS json LANGUAGE plpgsql SET role = 'orion_admin' AS $$ BEGIN RETURN who(); END $$;
CREATE FUNCTION by_block() RETURNS json LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'DO $x$ BEGIN SET LOCAL ROLE orion_admin; END $x$'; RETURN who(); END $$;
CREATE FUNCTION after_error() RETURNS json LANGUAGE plpgsql AS $$
BEGIN
	BEGIN PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN NULL; END;
	SET ROLE orion_admin;
	RETURN who();
END $$;
CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN SET ROLE orion_admin; RAISE EXCEPTION 'now %', current_user USING ERRCODE = 'PT418'; END $$;
CREATE CONSTRAINT TRIGGER later AFTER INSERT ON letters DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION later();

});
$node->safe_psql('postgres', q{CREATE FUNCTION alters_as_owner() RETURNS json LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN ALTER ROLE orion_anon SET my.colour = 'red'; RETURN who(); END $$});
ok(OrionHttp::await($port, '/ready', 200), 'the gateway is ready');

sub post
{
	my ($path, $body) = @_;
	return OrionHttp::request($port, 'POST', $path, { 'Content-Type' => 'application/json' }, $body);
}

my $anon = encode_json(['orion_anon', 'orion_anon']);
is(post('/rest/v1/rpc/who', '{}')->{body} =~ s/\s//gr, $anon, 'a request runs as its role');
for my $how (qw(setting session set reset authorization clause block))
{
	my $answer = post("/rest/v1/rpc/by_$how", '{}');
	is($answer->{status}, 401, "a function cannot take another role: $how") or diag $answer->{body};
	is(post('/rest/v1/rpc/who', '{}')->{body} =~ s/\s//gr, $anon, '... nor leave it to the next request');
}
for my $what ('CURRENT_USER SET statement_timeout = 1', 'orion_anon SET work_mem = 64', 'orion_anon IN DATABASE postgres SET work_mem = 64', 'SESSION_USER RESET ALL', q{CURRENT_ROLE PASSWORD 'mine'})
{
	is(post('/rest/v1/rpc/alters', encode_json({ what => $what }))->{status}, 401, "a function cannot change the role for others: $what");
}
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_db_role_setting WHERE setrole IN ('orion_anon'::regrole, 'orion_authenticator'::regrole)}), 0, '... and has not');
is($node->safe_psql('postgres', q{SELECT rolpassword IS NULL FROM pg_authid WHERE rolname = 'orion_anon'}), 't', '... nor given it a password');
is(post('/rest/v1/rpc/alters_as_owner', '{}')->{status}, 200, 'a function of a superuser may');
is($node->safe_psql('postgres', q{SELECT setconfig FROM pg_db_role_setting WHERE setrole = 'orion_anon'::regrole}), '{my.colour=red}', '... and has');
is(post('/rest/v1/rpc/after_error', '{}')->{status}, 401, 'no other role behind an error it has caught');
is(post('/rest/v1/letters', '{"id":1}')->{status}, 401, '... nor in a deferred trigger');
is(post('/rest/v1/rpc/who', '{}')->{body} =~ s/\s//gr, $anon, 'and requests go on');

$node->stop;
done_testing();
