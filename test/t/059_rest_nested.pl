# POST of rows with others in them, in the shape of an embed.
use strict;
use warnings;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use OrionHttp;

my ($node, $port) = OrionHttp::server('nested', qq{
orion.executor_count = 1
orion.rest_schemas = 'public'
});
$node->safe_psql('postgres', q{
CREATE EXTENSION orion;
CREATE TABLE clients (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL);
CREATE TABLE projects (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, client bigint REFERENCES clients, meta jsonb, kind text DEFAULT 'plain', unexpected text);
CREATE TABLE tasks (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, project bigint NOT NULL REFERENCES projects, title text CHECK (title <> 'bad'));
CREATE TABLE steps (task bigint REFERENCES tasks, n int, "odd ""name" text, PRIMARY KEY (task, n));
CREATE TABLE plans (project bigint PRIMARY KEY REFERENCES projects, "text" text);
CREATE TABLE tags (code text PRIMARY KEY, label text);
CREATE TABLE project_tags (project bigint REFERENCES projects, tag text REFERENCES tags, PRIMARY KEY (project, tag));
CREATE TABLE nodes (id int PRIMARY KEY, parent int REFERENCES nodes, name text);
CREATE TABLE keyless (a int UNIQUE);
CREATE TABLE of_keyless (id int PRIMARY KEY, k int REFERENCES keyless (a));
CREATE TABLE letters (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, sender bigint REFERENCES clients, receiver bigint REFERENCES clients);
CREATE VIEW project_view AS SELECT id, name, client FROM projects;
CREATE TABLE orders (a int, b int, PRIMARY KEY (a, b));
CREATE TABLE lines (id int PRIMARY KEY, oa int, ob int, FOREIGN KEY (oa, ob) REFERENCES orders);
CREATE TABLE guarded (id int PRIMARY KEY, project bigint REFERENCES projects, owner text DEFAULT orion_claims() ->> 'sub');
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON guarded USING (owner = orion_claims() ->> 'sub') WITH CHECK (owner = orion_claims() ->> 'sub' AND id < 100);
CREATE TABLE forbidden (id int PRIMARY KEY, project bigint REFERENCES projects);
CREATE FUNCTION open_tasks(projects) RETURNS SETOF tasks LANGUAGE sql STABLE AS 'SELECT * FROM tasks WHERE project = $1.id';
GRANT ALL ON clients, projects, tasks, steps, plans, tags, project_tags, nodes, keyless, of_keyless, letters, project_view, orders, lines TO orion_anon, orion_user;
GRANT ALL ON guarded TO orion_user;
GRANT SELECT ON forbidden TO orion_anon, orion_user;
});
ok(OrionHttp::await($port, '/ready', 200), 'ready');

my $json = JSON::PP->new->canonical;
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub reset_all { sql('TRUNCATE clients, projects, tasks, steps, plans, tags, project_tags, nodes, keyless, of_keyless, letters, orders, lines, guarded RESTART IDENTITY CASCADE'); }
sub ask
{
	my ($path, $body, %headers) = @_;
	return scalar OrionHttp::request($port, 'POST', "/rest/v1/$path", { 'Content-Type' => 'application/json', %headers }, ref $body ? $json->encode($body) : $body);
}
sub got
{
	my ($path, $body, %headers) = @_;
	my $answer = ask($path, $body, Prefer => 'return=representation', %headers);
	return "$answer->{status} $1" if $answer->{status} >= 300 && $answer->{body} =~ /"code":"(\w+)"/;
	return "$answer->{status} " . $json->encode($json->decode($answer->{body}));
}

# --- shapes
is(got('projects?select=id,name,tasks(title)', { name => 'p', tasks => [ { title => 'a' }, { title => 'b' } ] }), '201 [{"id":1,"name":"p","tasks":[{"title":"a"},{"title":"b"}]}]', 'to-many');
is(got('projects?select=name,clients(name)', { name => 'p', clients => { name => 'c' } }), '201 [{"clients":{"name":"c"},"name":"p"}]', 'to-one, which goes first');
is(got('projects?select=name,plans(text)', { name => 'p', plans => { text => 't' } }), '201 [{"name":"p","plans":{"text":"t"}}]', 'one-to-one, which goes behind');
is(got('projects?select=name,tags(code)', { name => 'p', tags => [ { code => 'x' }, { code => 'y' } ] }), '201 [{"name":"p","tags":[{"code":"x"},{"code":"y"}]}]', 'many-to-many, over the junction');
is(sql('SELECT count(*) FROM project_tags'), 2, '... which has its rows');
is(got('projects?select=name,jobs:tasks(title,steps(n,"odd \"name"))' =~ s/"odd \\"name"/%22odd%20%5C%22name%22/r, { name => 'p', jobs => [ { title => 'a', steps => [ { n => 1, 'odd "name' => 'x' }, { n => 2, 'odd "name' => undef } ] }, { title => 'b', steps => [] } ] }),
	'201 [{"jobs":[{"steps":[{"n":1,"odd \"name":"x"},{"n":2,"odd \"name":null}],"title":"a"},{"steps":[],"title":"b"}],"name":"p"}]', 'as deep as the embedding, by an alias');
is(got('projects?select=id,name,clients(name),tasks(title)&order=name.desc', [ map { { name => "n$_", clients => { name => "c$_" }, tasks => [ map { { title => "t$_" } } 1 .. $_ ] } } 1 .. 3 ]),
	'201 ' . $json->encode([ map { { id => $_ + 5, name => "n$_", clients => { name => "c$_" }, tasks => [ map { { title => "t$_" } } 1 .. $_ ] } } 3, 2, 1 ]), 'several, in the order asked for');
is(got('tasks?select=title,projects(name,clients(name))', { title => 't', projects => { name => 'p', clients => { name => 'c' } } }), '201 [{"projects":{"clients":{"name":"c"},"name":"p"},"title":"t"}]', 'upwards');
is(got('nodes?select=id,children:nodes(id,parent)', { id => 1, children => [ { id => 2 }, { id => 3 } ] }), '201 [{"children":[{"id":2,"parent":1},{"id":3,"parent":1}],"id":1}]', 'a table that refers to itself');
is(got('letters?select=sender:clients!letters_sender_fkey(name),receiver:clients!letters_receiver_fkey(name)', { receiver => { name => 'r' } }) =~ s/ .*//r, '400', 'a key that is a column stays one');
is(got('letters?select=von:clients!letters_sender_fkey(name),an:clients!receiver(name)', { von => { name => 's' }, an => { name => 'r' } }), '201 [{"an":{"name":"r"},"von":{"name":"s"}}]', 'hints choose the relationship');
is(got('orders?select=a,b,lines(id,oa,ob)', { a => 1, b => 2, lines => [ { id => 5 } ] }), '201 [{"a":1,"b":2,"lines":[{"id":5,"oa":1,"ob":2}]}]', 'a key of two columns');
is(got('project_view?select=name,tasks(title)', { name => 'v', tasks => [ { title => 'a' } ] }), '201 [{"name":"v","tasks":[{"title":"a"}]}]', 'through a view');
is(got('projects?select=name,clients(name),tasks(title),plans(text)', { name => 'p', clients => undef, tasks => [], plans => undef }), '201 [{"clients":null,"name":"p","plans":null,"tasks":[]}]', 'nothing in them');
is(got('projects?select=name,kind,meta,tasks(title)', { name => 'p', meta => { tasks => [1] }, tasks => [ { title => 't' } ] }), '201 [{"kind":"plain","meta":{"tasks":[1]},"name":"p","tasks":[{"title":"t"}]}]', 'defaults, and JSON that is data');
is(got('projects?select=name,tasks(title)', '{"name":"p","tasks":[{"title":"x"}],"tasks":[{"title":"y"}],"t\u0061sks":[{"title":"z"}]}'), '201 [{"name":"p","tasks":[{"title":"z"}]}]', 'of a key that is there twice the last counts');
is(got('projects?select=name,tasks(title)', [ { name => 'p', tasks => [] } ], Accept => 'application/vnd.pgrst.object+json'), '201 {"name":"p","tasks":[]}', 'as one object');
is(got('projects?select=name,tasks(title)', { name => 'unseen', tasks => [] }, Accept => 'image/png', Prefer => $_), '406 PGRST107', "not as a picture, $_") for 'return=minimal', 'return=representation';

# --- what is returned
my $answer = ask('projects?select=tasks(*)', { name => 'p', tasks => [ { title => 'm' } ] });
is("$answer->{status} $answer->{body}", '201 ', 'without a representation');
$answer = ask('projects?select=tasks(*)', { name => 'p', tasks => [ { title => 'm' } ] }, Prefer => 'return=headers-only');
like($answer->{headers}{location}, qr{^/rest/v1/projects\?id=eq\.\d+$}, 'the address of the row');
is(ask('keyless?select=of_keyless(id)', { a => 1, of_keyless => [ { id => 1 } ] })->{status}, 201, 'a table without a primary key');
is(got('keyless?select=of_keyless(id)', { a => 2, of_keyless => [ { id => 2 } ] }), '400 ORION400', '... cannot be represented');

# --- plain insertion is what it was
reset_all();
is(got('projects', { name => 'p', tasks => [] }), '400 PGRST204', 'without select a key that is no column is refused');
is(got('projects?select=name,tasks(title)', { name => 'p', other => [] }), '400 PGRST204', '... also one that select does not name');
is(got('projects?select=name,tasks(title)', { name => 'p', tasks => [ { title => 'x', other => 1 } ] }), '400 PGRST204', '... and deeper down');
is(got('projects?select=name,...clients(name)', { name => 'p', clients => { name => 'x' } }), '400 PGRST204', '... and one that is spread');
is(got('projects?columns=name&select=name,tasks(title)', { name => 'p', tasks => [ { title => 'x' } ] }), '201 [{"name":"p","tasks":[]}]', 'columns= takes what it names');
is(got('projects?select=name,tasks(title)', { name => 'p' }), '201 [{"name":"p","tasks":[]}]', 'embedding alone is no insertion');

# --- refused, and nothing is kept
reset_all();
is(got(@$_[ 1 .. 2 ], @{ $_->[4] // [] }), $_->[3], "refused: $_->[0]")
  for ['no such relation', 'projects?select=nothing(x)', { name => 'p', nothing => [] }, '400 PGRST200'],
  ['more than one way', 'clients?select=letters(id)', { name => 'c', letters => [ {} ] }, '300 PGRST201'],
  ['an object for many', 'projects?select=tasks(*)', { name => 'p', tasks => { title => 'x' } }, '400 PGRST102'],
  ['a number for many', 'projects?select=tasks(*)', { name => 'p', tasks => [1] }, '400 PGRST102'],
  ['null for many', 'projects?select=tasks(*)', { name => 'p', tasks => undef }, '400 PGRST102'],
  ['an array for one', 'projects?select=clients(*)', { name => 'p', clients => [ { name => 'x' } ] }, '400 PGRST102'],
  ['a text for one', 'projects?select=plans(*)', { name => 'p', plans => 'null' }, '400 PGRST102'],
  ['the key itself', 'projects?select=tasks(*)', { name => 'p', tasks => [ { title => 'x', project => 1 } ] }, '400 PGRST102'],
  ['both ways', 'projects?select=clients(*)', { name => 'p', client => 1, clients => { name => 'x' } }, '400 PGRST102'],
  ['a computed relationship', 'projects?select=open_tasks(*)', { name => 'p', open_tasks => [ { title => 'x' } ] }, '400 PGRST102'],
  ['a constraint further down', 'projects?select=tasks(*)', { name => 'p', tasks => [ { title => 'x' }, { title => 'bad' } ] }, '400 23514'],
  ['a key that is there', 'projects?select=tags(*)', [ { name => 'p', tags => [ { code => 'a' } ] }, { name => 'q', tags => [ { code => 'a' } ] } ], '409 23505'],
  ['a table that may only be read', 'projects?select=forbidden(*)', { name => 'p', forbidden => [ { id => 1 } ] }, '401 42501'],
  ['an upsert', 'projects?select=tasks(*)', { name => 'p', tasks => [] }, '400 ORION400', [ Prefer => 'resolution=merge-duplicates' ]],
  ['a value of another type', 'projects?select=tags(*),tasks(steps(*))', { name => 'p', tasks => [ { steps => [ { n => 'x' } ] } ] }, '400 22P02'],
  ['SQL in a name', 'projects?select=tasks(*)', { name => 'p', tasks => [ { q{title") VALUES (1); --} => 'x' } ] }, '400 PGRST204'];
is(sql('SELECT (SELECT count(*) FROM projects) + (SELECT count(*) FROM clients) + (SELECT count(*) FROM tasks) + (SELECT count(*) FROM tags)'), 0, 'nothing is left of any');
is(got('projects?select=tasks(title)', { name => q{'); DROP TABLE tasks; --}, tasks => [ { title => q{"\\'$1} } ] }), '201 [{"tasks":[{"title":"\"\\\\\'$1"}]}]', 'values are values');

# --- policies, triggers, the transaction
my $ann = sql(q{SELECT orion_jwt_sign('{"sub": "ann", "role": "orion_user"}')});
is(got('projects?select=guarded(id,owner)', { name => 'p', guarded => [ { id => 1 } ] }, Authorization => "Bearer $ann"), '201 [{"guarded":[{"id":1,"owner":"ann"}]}]', 'under the policies of the inner table');
is(got('projects?select=guarded(id,owner)', { name => 'p', guarded => [ { id => 2, owner => 'bob' } ] }, Authorization => "Bearer $ann"), '403 42501', '... which refuse');
is(got('projects?select=guarded(id)', { name => 'p', guarded => [ { id => 3 } ] }), '401 42501', '... and nobody may');
sql('CREATE FUNCTION keep_out() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$; CREATE TRIGGER keep_out BEFORE INSERT ON plans FOR EACH ROW EXECUTE FUNCTION keep_out()');
is(got('projects?select=plans(*)', { name => 'p', plans => { text => 'x' } }), '409 ORION409', 'a trigger that keeps a row out');
is(got('projects?select=name,kind,tasks(title)', [ { name => 'd', tasks => [ { title => 'x' } ] } ], Prefer => 'return=representation, missing=default'), '201 [{"kind":"plain","name":"d","tasks":[{"title":"x"}]}]', 'missing=default');
my $many = ask('projects?select=tasks(*)', [ map { { name => "m$_", tasks => [ map { { title => $_ } } 1 .. 5 ] } } 1 .. 400 ]);
is($many->{status} . ' ' . sql(q{SELECT count(*) FROM tasks t JOIN projects p ON p.id = t.project WHERE p.name LIKE 'm%'}), '201 2000', 'four hundred with five each');
my $select = 'nodes(id)';
my $body = '{"id":130}';
for my $n (reverse 1 .. 12) { $select = "nodes(id,$select)"; $body = '{"id":' . (100 + $n) . ',"nodes":[' . $body . ']}'; }
is(ask("nodes?select=$select", '{"id":99,"nodes":[' . $body . ']}')->{status}, 201, 'twelve levels');

$node->stop;
done_testing();
