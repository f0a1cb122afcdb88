// Drives a server with postgrest-js and supabase-js, every method of their query builders.
// drive.mjs URL ANON_KEY API_KEY USER_TOKEN writes a line of JSON per check: {name, got, want}.
import { PostgrestClient, PostgrestError } from '@supabase/postgrest-js';
import { createClient } from '@supabase/supabase-js';

const [url, anonKey, apiKey, userToken] = process.argv.slice(2);
// before Node.js 22 createClient wants to be given a WebSocket, which nothing here opens
const options = { db: { schema: 'app' }, auth: { persistSession: false, autoRefreshToken: false }, realtime: { transport: class {} } };
const db = createClient(url, anonKey, options);
const bare = new PostgrestClient(`${url}/rest/v1`, { schema: 'app', retry: false });
const user = createClient(url, anonKey, { ...options, accessToken: async () => userToken });

const tell = (name, got, want) => console.log(JSON.stringify({ name, got: got === undefined ? null : got, want }));

// What a query gives, in a fixed form: an error as its code, rows as they are.
async function is(name, query, want, pick = (r) => r.data) {
	let got;
	try {
		const r = await query;
		got = r.error ? { status: r.status, ...JSON.parse(JSON.stringify(r.error)) } : pick(r);
	} catch (e) {
		got = `${e.name}: ${e.message}`;
	}
	tell(name, got, want);
}
const ids = (r) => r.data.map((row) => row.id);
// Errors: only the members named in want are compared.
async function fails(name, query, want) {
	const r = await query;
	const e = r.error ?? {};
	tell(name, Object.fromEntries(Object.keys(want).map((k) => [k, k === 'status' ? r.status : e[k] ?? null])), want);
}

// --- select: columns, aliases, casts, paths, computed columns, counts, heads
await is('select()', db.from('teams').select().order('id'), [{ id: 1, name: 'Core' }, { id: 2, name: 'Shop' }]);
await is('select of columns with white space', db.from('people').select(' id,\n name ').eq('id', 1), [{ id: 1, name: 'Ann' }]);
await is('alias and cast', db.from('products').select('number:id::text, price::int').eq('id', 1), [{ number: '1', price: 13 }]);
await is('a column with a space', db.from('projects').select('id,"due date"').eq('due date', '2026-12-01'), [{ id: 1, 'due date': '2026-12-01' }]);
await is('paths into JSON', db.from('people').select('theme:settings->>theme, mail:settings->alerts->mail').eq('id', 1), [{ theme: 'dark', mail: true }]);
await is('a computed column', db.from('products').select('id,label').eq('id', 1), [{ id: 1, label: 'Hammer for 12.50' }]);
await is('types as JavaScript sees them', db.from('people').select('*').eq('id', 2).single(),
	{ id: 2, name: 'Bob', mood: 'busy', tags: ['author'], settings: { theme: 'light' }, born: '1990-03-04', active: true, manager: 1 });
await is('a view', db.from('product_list').select('id').order('id'), [{ id: 1 }, { id: 2 }, { id: 4 }]);
for (const count of ['exact', 'planned', 'estimated']) {
	await is(`count ${count}`, db.from('products').select('*', { count }), count === 'planned' ? true : 4,
		(r) => count === 'planned' ? Number.isInteger(r.count) : r.count);
	await is(`count ${count}, head`, db.from('products').select('*', { count, head: true }), [null, true], (r) => [r.data, Number.isInteger(r.count)]);
}
await is('head', db.from('products').select('*', { head: true }), [null, 200, null], (r) => [r.data, r.status, r.count]);
await is('count of a part', db.from('products').select('id', { count: 'exact' }).order('id').range(1, 2), [[2, 3], 4, 206], (r) => [ids(r), r.count, r.status]);

// --- embedding
await is('to-one', db.from('posts').select('title,people(name)').eq('id', 2).single(), { title: 'On dogs', people: { name: 'Bob' } });
await is('to-many with alias', db.from('suppliers').select('name,goods:products(id)').order('id').order('id', { referencedTable: 'goods' }),
	[{ name: 'Acme', goods: [{ id: 1 }, { id: 2 }] }, { name: 'Zenith', goods: [{ id: 3 }] }]);
await is('many-to-many', db.from('posts').select('id,tags(name)').eq('id', 3).single(), { id: 3, tags: [{ name: 'wild' }] });
await is('one-to-one', db.from('orders').select('id,payments(amount)').order('id'), [{ id: 1, payments: { amount: 45 } }, { id: 2, payments: null }, { id: 3, payments: { amount: 62.5 } }]);
await is('hint by column', db.from('orders').select('billing:addresses!billing(city),shipping:addresses!shipping(city)').eq('id', 1).single(), { billing: { city: 'Berne' }, shipping: { city: 'Celle' } });
await is('hint by constraint', db.from('orders').select('addresses!orders_shipping_fkey(city)').eq('id', 1).single(), { addresses: { city: 'Celle' } });
await fails('ambiguous', db.from('orders').select('addresses(city)'), { status: 300, code: 'PGRST201' });
await is('itself: to-one by column, to-many by table', db.from('people').select('name,boss:manager(name),reports:people!manager(name)').eq('id', 2).single(),
	{ name: 'Bob', boss: { name: 'Ann' }, reports: [{ name: 'Dee, the "4th"' }] });
await is('!inner with a filter', db.from('orders').select('id,people!inner(name)').eq('people.name', 'Ann'), [{ id: 3, people: { name: 'Ann' } }]);
await is('!left', db.from('products').select('id,suppliers!left(name)').eq('id', 4), [{ id: 4, suppliers: null }]);
await is('spread', db.from('posts').select('title,...people(author:name)').eq('id', 1).single(), { title: 'The fat cats', author: 'Ann' });
await is('spread of a to-many', db.from('suppliers').select('...products(names:name)').eq('id', 2).single(), { names: ['Robot'] });
await is('four levels', db.from('projects').select('name,milestones(name,tasks(title,people(name)))').eq('id', 2).single(),
	{ name: 'Paint', milestones: [{ name: 'Walls', tasks: [{ title: 'Paint', people: { name: 'Cyd' } }] }] });
await is('a view embeds', db.from('product_list').select('id,suppliers(name)').eq('id', 1), [{ id: 1, suppliers: { name: 'Acme' } }]);
await is('limit, order and filter of what is embedded', db.from('people').select('id,posts(id)').eq('id', 1).gte('posts.id', 1).order('id', { referencedTable: 'posts', ascending: false }).limit(1, { referencedTable: 'posts' }).single(),
	{ id: 1, posts: [{ id: 3 }] });
await is('range of what is embedded', db.from('people').select('posts(id)').eq('id', 1).order('id', { foreignTable: 'posts' }).range(1, 1, { referencedTable: 'posts' }).single(), { posts: [{ id: 3 }] });
await is('or within what is embedded', db.from('people').select('posts(id)').eq('id', 1).or('id.eq.3,title.eq.x', { referencedTable: 'posts' }).single(), { posts: [{ id: 3 }] });
await is('order by a column of what is embedded', db.from('posts').select('id,people(name)').order('people(name)', { ascending: false }).order('id').limit(2), [2, 1], ids);
await is('rows without', db.from('people').select('id,orders(id)').is('orders', null).order('id'), [2, 3], ids);
await is('rows with', db.from('people').select('id,orders(id)').not('orders', 'is', null).order('id'), [1, 4], ids);

// --- filters
const people = () => db.from('people').select('id').order('id');
const products = () => db.from('products').select('id').order('id');
const rooms = () => db.from('rooms').select('id').order('id');
const posts = () => db.from('posts').select('id').order('id');
const filters = [
	['eq', people().eq('name', 'Dee, the "4th"'), [4]], ['eq of an enum', people().eq('mood', 'busy'), [2]], ['eq of a path', people().eq('settings->>theme', 'dark'), [1]],
	['neq', people().neq('id', 1), [2, 3, 4]], ['gt', people().gt('id', 2), [3, 4]], ['gte', people().gte('id', 2), [2, 3, 4]], ['lt', people().lt('id', 2), [1]], ['lte', people().lte('born', '1990-03-04'), [1, 2]],
	['like', products().like('name', '%a%'), [1, 2]], ['like with an escape', products().like('name', '100\\%%'), [4]], ['ilike', products().ilike('name', 'h%'), [1]],
	['likeAllOf', products().likeAllOf('name', ['%a%', '%m%']), [1]], ['likeAnyOf', products().likeAnyOf('name', ['Ham%', 'Rob%']), [1, 3]],
	['ilikeAllOf', products().ilikeAllOf('name', ['%A%', 'S%']), [2]], ['ilikeAnyOf', products().ilikeAnyOf('name', ['ham%', 'rob%']), [1, 3]],
	['regexMatch', products().regexMatch('name', '^[HS]a'), [1, 2]], ['regexIMatch', products().regexIMatch('name', '^h'), [1]],
	['is null', people().is('born', null), [3]], ['is true', people().is('active', true), [1, 2]], ['is false', people().is('active', false), [3]],
	['is unknown', db.from('people').select('id').filter('active', 'is', 'unknown'), [4]], ['isDistinct', people().isDistinct('manager', 1), [1, 4]],
	['in', people().in('id', [1, 3, 3]), [1, 3]], ['in with reserved characters', products().in('name', ['100% Kite, (big)', 'Saw']), [2, 4]], ['in of nothing', people().in('id', []), []],
	['notIn', people().notIn('id', [1, 3]), [2, 4]],
	['contains an array', people().contains('tags', ['author']), [1, 2]], ['contains an object', people().contains('settings', { theme: 'dark' }), [1]], ['contains a range', rooms().contains('booked', '[6,7)'), [2]],
	['containedBy an array', products().containedBy('sizes', [1, 2, 3]), [1, 2, 3]], ['containedBy an object', people().containedBy('settings', { theme: 'light', x: 1 }), [2, 3, 4]], ['containedBy a range', rooms().containedBy('booked', '[1,12)'), [1, 2]],
	['rangeGt', rooms().rangeGt('booked', '[1,9)'), [3]], ['rangeGte', rooms().rangeGte('booked', '[5,6)'), [2, 3]], ['rangeLt', rooms().rangeLt('booked', '[6,9)'), [1]], ['rangeLte', rooms().rangeLte('booked', '[1,10)'), [1, 2]],
	['rangeAdjacent', rooms().rangeAdjacent('booked', '[10,20)'), [2, 3]], ['overlaps a range', rooms().overlaps('booked', '[4,6)'), [1, 2]], ['overlaps an array', products().overlaps('sizes', [3, 9]), [2, 4]],
	['overlaps a range of dates', products().overlaps('sold', '[2026-05-15,2026-05-16)'), [2, 4]],
	['textSearch', posts().textSearch('words', "'cat' & 'rat'"), [1]], ['textSearch with a configuration', posts().textSearch('words', 'barking', { config: 'english' }), [2]],
	['textSearch plain', posts().textSearch('words', 'fat cats', { type: 'plain', config: 'english' }), [1]], ['textSearch phrase', posts().textSearch('words', 'eating rats', { type: 'phrase', config: 'english' }), [1]],
	['textSearch websearch', posts().textSearch('words', 'cat -rats', { type: 'websearch', config: 'english' }), [2]], ['textSearch of a text', posts().textSearch('body', 'sing', { config: 'english' }), [3]],
	['match', people().match({ mood: 'calm', active: true }), [1]], ['not', people().not('id', 'in', '(1,2)'), [3, 4]], ['not is', people().not('born', 'is', null), [1, 2, 4]], ['not like', products().not('name', 'like', '%a%'), [3, 4]],
	['or', people().or('id.eq.1,name.eq.Bob'), [1, 2]], ['or with and', people().or('id.eq.4,and(id.gt.1,mood.eq.away)'), [3, 4]], ['or with not', people().or('not.and(id.gte.2,id.lte.3),name.eq."Dee, the \\"4th\\""'), [1, 4]],
	['filter', people().filter('id', 'gte', 3), [3, 4]], ['filter in', people().filter('name', 'in', '("Ann","Bob")'), [1, 2]], ['several of one column', people().gt('id', 1).lt('id', 4), [2, 3]],
];
for (const [name, query, want] of filters) await is(name, query, want, ids);

// --- order, pages, forms of the answer
await is('order descending, nulls first', db.from('people').select('id').order('born', { ascending: false, nullsFirst: true }), [3, 4, 2, 1], ids);
await is('order ascending, nulls last', db.from('people').select('id').order('born', { nullsFirst: false }), [1, 2, 4, 3], ids);
await is('order by two', db.from('people').select('id').order('mood').order('id', { ascending: false }), [4, 1, 2, 3], ids);
await is('order by a path', db.from('products').select('id').not('data->weight', 'is', null).order('data->weight'), [2, 1], ids);
await is('limit', people().limit(2), [1, 2], ids);
await is('range', people().range(2, 9), [3, 4], ids);
await is('range behind the end', people().range(20, 29), [], ids);
await fails('range behind the end, counted', db.from('people').select('id', { count: 'exact' }).range(20, 29), { status: 416, code: 'PGRST103' });
await is('single', people().eq('id', 1).single(), { id: 1 });
await fails('single of none', people().eq('id', 9).single(), { status: 406, code: 'PGRST116', details: 'The result contains 0 rows', message: 'Cannot coerce the result to a single JSON object' });
await fails('single of many', people().single(), { status: 406, code: 'PGRST116', details: 'The result contains 4 rows' });
await is('maybeSingle', people().eq('id', 1).maybeSingle(), { id: 1 });
await is('maybeSingle of none', people().eq('id', 9).maybeSingle(), [null, 200], (r) => [r.data, r.status]);
await fails('maybeSingle of many', people().maybeSingle(), { status: 406, code: 'PGRST116' });
await is('csv', db.from('people').select('id,name').order('id').gte('id', 3).csv(), 'id,name\n3,Cyd\n4,"Dee, the ""4th"""');
await is('stripNulls', db.from('people').select('id,born').eq('id', 3).stripNulls(), [{ id: 3 }]);
await is('stripNulls of one', db.from('people').select('id,born').eq('id', 3).stripNulls().single(), { id: 3 });
await is('explain', db.from('people').select('id').eq('id', 1).explain(), true, (r) => /cost=.*rows=/.test(r.data));
await is('explain as JSON, analyzed', db.from('people').select('id').eq('id', 1).explain({ analyze: true, verbose: true, settings: true, buffers: true, wal: true, format: 'json' }), true,
	(r) => r.data[0].Plan['Actual Rows'] >= 1 && 'Execution Time' in r.data[0]);
await is('explain of single()', db.from('people').select('id').eq('id', 1).single().explain(), true, (r) => /cost=/.test(r.data));
await fails('geojson without PostGIS', people().geojson(), { status: 406, code: 'PGRST107' });
await is('overrideTypes, returns, retry, setHeader', people().eq('id', 1).overrideTypes().returns().retry(false).setHeader('Prefer', 'count=exact'), 1, (r) => r.count);
const abort = new AbortController();
const slow = db.rpc('sleeps', { seconds: 60 }).abortSignal(abort.signal);
setTimeout(() => abort.abort(), 200);
await slow.then((r) => tell('abortSignal', [r.status, /^AbortError/.test(r.error.message)], [0, true]));
await is('after it', people().eq('id', 1), [1], ids);

// --- writing
await is('insert', db.from('teams').insert({ id: 3, name: 'New' }), [null, 201], (r) => [r.data, r.status]);
await is('insert with select', db.from('teams').insert({ id: 4, name: 'Four' }).select(), [{ id: 4, name: 'Four' }]);
await is('insert with select of columns and one row', db.from('teams').insert({ id: 5, name: 'Five' }).select('name').single(), { name: 'Five' });
await is('insert of many', db.from('teams').insert([{ id: 6, name: 'a' }, { id: 7, name: 'b' }], { count: 'exact' }).select('id'), [[6, 7], 2], (r) => [ids(r), r.count]);
await is('insert with an embed', db.from('comments').insert({ post: 2, author: 1, text: 'hi' }).select('text,posts(title),people(name)').single(), { text: 'hi', posts: { title: 'On dogs' }, people: { name: 'Ann' } });
await is('insert of differing rows takes null', db.from('stock').insert([{ product: 1, pieces: 1, shelf: 'B' }, { product: 2, pieces: 2 }]).select('product,shelf').order('product'), [{ product: 1, shelf: 'B' }, { product: 2, shelf: null }]);
await is('insert with defaultToNull false', db.from('stock').insert([{ product: 3, pieces: 1, shelf: 'B' }, { product: 4, note: 'x' }], { defaultToNull: false }).select('product,pieces,shelf').order('product'),
	[{ product: 3, pieces: 1, shelf: 'B' }, { product: 4, pieces: 7, shelf: 'A' }]);
await is('insert of an array and JSON', db.from('people').insert({ id: 5, name: 'Eve', tags: ['a,b', 'c"d'], settings: { deep: [1, { x: null }] } }).select('tags,settings').single(), { tags: ['a,b', 'c"d'], settings: { deep: [1, { x: null }] } });
await is('a bigint', db.from('projects').insert({ id: 9, name: 'big', budget: 9007199254740993n }).select('budget::text').single(), { budget: '9007199254740993' });
await is('a column with a space', db.from('projects').insert([{ id: 10, name: 'spaced', 'due date': '2027-01-01' }]).select('"due date"').single(), { 'due date': '2027-01-01' });
await is('upsert', db.from('teams').upsert({ id: 7, name: 'seven' }).select(), [{ id: 7, name: 'seven' }]);
await is('upsert of old and new', db.from('teams').upsert([{ id: 7, name: '7' }, { id: 8, name: '8' }], { count: 'exact' }).select('name'), [['7', '8'], 2], (r) => [r.data.map((t) => t.name), r.count]);
await is('upsert with onConflict', db.from('people').upsert({ id: 5, name: 'Eve', mood: 'busy' }, { onConflict: 'name' }).select('mood').single(), { mood: 'busy' });
await is('upsert with onConflict on two columns', db.from('memberships').upsert({ team: 1, person: 1, since: '2024-01-01' }, { onConflict: 'team,person' }).select('since'), [{ since: '2024-01-01' }]);
await is('upsert with ignoreDuplicates', db.from('teams').upsert([{ id: 8, name: 'ignored' }, { id: 9, name: '9' }], { ignoreDuplicates: true }).select('id'), [9], ids);
await is('upsert with defaultToNull false', db.from('stock').upsert([{ product: 4, shelf: 'Z' }], { defaultToNull: false }).select('pieces,shelf').single(), { pieces: 7, shelf: 'Z' });
await is('update', db.from('teams').update({ name: 'x' }).eq('id', 9), [null, 204], (r) => [r.data, r.status]);
await is('update with select and count', db.from('teams').update({ name: 'y' }, { count: 'exact' }).in('id', [8, 9]).select('name'), [[{ name: 'y' }, { name: 'y' }], 2], (r) => [r.data, r.count]);
await is('update of none', db.from('teams').update({ name: 'y' }).eq('id', 999).select(), []);
await is('maxAffected', bare.from('teams').update({ name: 'z' }).eq('id', 9).maxAffected(1).select('name'), [{ name: 'z' }]);
await fails('maxAffected exceeded', bare.from('teams').update({ name: 'never' }).gt('id', 0).maxAffected(2), { status: 400, code: 'PGRST124' });
await is('rollback', db.from('teams').delete().eq('id', 9).rollback().select('id'), [9], ids);
await is('it is there', db.from('teams').select('id').eq('id', 9), [9], ids);
await is('delete', db.from('teams').delete().eq('id', 9), [null, 204], (r) => [r.data, r.status]);
await is('delete with select and count', db.from('teams').delete({ count: 'exact' }).in('id', [7, 8]).select('id'), [[7, 8], 2], (r) => [ids(r).sort(), r.count]);

// --- functions
await is('rpc', db.rpc('add_them', { a: 1, b: 2 }), 3);
await is('rpc with a default', db.rpc('add_them', { a: 1 }), 11);
await is('rpc with an undefined argument', db.rpc('add_them', { a: 1, b: undefined }), 11);
await is('rpc get', db.rpc('add_them', { a: 1, b: 2 }, { get: true }), 3);
await is('rpc get with a list of numbers', db.rpc('total', { list: [1, 2, 3] }, { get: true }), 6);
await is('rpc of a variadic function', db.rpc('total_of', { v: [1, 2, 3] }), 6);
await is('rpc of a list', db.rpc('echo_list', { list: ['a,b', 'c"d', ''] }), ['a,b', 'c"d', '']);
await is('rpc get of a list', db.rpc('echo_list', { list: ['a', 'b'] }, { get: true }), ['a', 'b']);
await is('rpc of a document', db.rpc('echo_doc', { doc: { a: [1, null, 'x'] } }), { a: [1, null, 'x'] });
await is('rpc head', db.rpc('cheap_products', { below: 100 }, { head: true, count: 'exact' }), [null, 3], (r) => [r.data, r.count]);
// becomes a POST with return=minimal, which PostgREST does not heed for functions either
await is('rpc head with an object', db.rpc('echo_doc', { doc: { a: 1 } }, { head: true }), [{ a: 1 }, 200], (r) => [r.data, r.status]);
await is('rpc of rows, filtered, ordered, embedded', db.rpc('cheap_products', { below: 100 }).select('id,suppliers(name)').not('supplier', 'is', null).order('id', { ascending: false }).limit(1), [{ id: 2, suppliers: { name: 'Acme' } }]);
await is('rpc of rows, counted', db.rpc('cheap_products', { below: 100 }, { count: 'exact' }).select('id').order('id').range(0, 1), [[1, 2], 3], (r) => [ids(r), r.count]);
await is('rpc of rows, one', db.rpc('cheap_products', { below: 9 }).select('id').single(), { id: 4 });
await is('rpc of rows, csv', db.rpc('cheap_products', { below: 9 }).select('id,price').csv(), 'id,price\n4,8.00');
await is('rpc of nothing', db.rpc('nothing'), [null, 204], (r) => [r.data, r.status]);

// --- schemas
await is('schema()', db.schema('reports').from('sales').select('pieces').eq('product', 1), [{ pieces: 7 }]);
await is('schema() for writing', db.schema('reports').from('runs').insert({ id: 1, name: 'r' }).select(), [{ id: 1, name: 'r' }]);
await fails('a schema that is not served', db.schema('orion_private').from('users').select(), { status: 406, code: 'PGRST106' });

// --- errors
await fails('no such table', db.from('peple').select(), { status: 404, code: 'PGRST205', hint: "Perhaps you meant the table 'app.people'" });
await fails('no such column', db.from('people').select('nome'), { status: 400, code: '42703', message: 'column people.nome does not exist' });
await fails('no such function', db.rpc('add_then', { a: 1 }), { status: 404, code: 'PGRST202', hint: 'Perhaps you meant to call the function app.add_them' });
await fails('no such relationship', db.from('people').select('rooms(*)'), { status: 400, code: 'PGRST200' });
await fails('a bad query', db.from('people').select('id').filter('id', 'zz', 1), { status: 400, code: 'PGRST100' });
await fails('unique', db.from('people').insert({ id: 1, name: 'x' }), { status: 409, code: '23505', details: 'Key (id)=(1) already exists.', message: 'duplicate key value violates unique constraint "people_pkey"', hint: null });
await fails('foreign key', db.from('posts').insert({ id: 50, author: 99, title: 'x', body: 'y' }), { status: 409, code: '23503', details: 'Key (author)=(99) is not present in table "people".' });
await fails('check', db.from('products').update({ price: -1 }).eq('id', 1), { status: 400, code: '23514' });
await fails('not null', db.from('teams').insert({ id: 70 }), { status: 400, code: '23502' });
await fails('a value of the wrong type', db.from('people').select('id').eq('id', 'x'), { status: 400, code: '22P02', message: 'invalid input syntax for type integer: "x"' });
await fails('a function that raises', db.rpc('raises', { state: 'P0001' }), { status: 400, code: 'P0001', message: 'said so', details: 'the detail', hint: 'the hint' });
await fails('a function that chooses its status', db.rpc('raises', { state: 'PT402' }), { status: 402, code: 'PT402', message: 'said so', details: 'the detail', hint: 'the hint' });
await fails('without the privilege', bare.from('secrets').select(), { status: 401, code: '42501' });
tell('throwOnError', await db.from('peple').select().throwOnError().then(() => 'none', (e) => [e.name, e.code, e instanceof Error]), ['PostgrestError', 'PGRST205', true]);
tell('an error is serialized', JSON.stringify(new PostgrestError({ message: 'm', details: 'd', hint: 'h', code: 'c' }).toJSON()).includes('"code":"c"'), true);

// --- who one is: the anonymous key is a token of orion_anon, or none, or an API key; a user's token by accessToken
await is('the anonymous key', db.rpc('who'), { role: 'orion_anon', uid: null });
await is('no key at all', bare.rpc('who'), { role: 'orion_anon', uid: null });
await is('a user by accessToken', user.rpc('who'), ['orion_user', true], (r) => [r.data.role, typeof r.data.uid === 'string']);
await is('an API key as the key', createClient(url, apiKey, options).rpc('who'), ['orion_user', true], (r) => [r.data.role, typeof r.data.uid === 'string']);
await fails('anonymous callers see no notes', db.from('notes').select(), { code: '42501' });
await is('a user sees none of another', user.from('notes').select(), []);
await is('a user writes one', user.from('notes').insert({ text: 'mine' }).select('text').single(), { text: 'mine' });
await is('and sees it', user.from('notes').select('text'), [{ text: 'mine' }]);
await fails('a user writes none for another', user.from('notes').insert({ owner: '00000000-0000-4000-8000-000000000001', text: 'forged' }), { status: 403, code: '42501' });
await is('a user changes none of another', user.from('notes').update({ text: 'changed' }, { count: 'exact' }).eq('text', 'of another'), 0, (r) => r.count);
await fails('a forged key', createClient(url, anonKey.slice(0, -6) + 'AAAAAA', options).from('people').select(), { status: 401, code: 'PGRST301' });
process.exit(0);
