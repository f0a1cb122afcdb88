// A receiver of webhooks that behaves as its paths say. Writes a line of JSON for each
// request, and one with its ports first, to the file named by its argument:
//
//   node webhook_receiver.mjs LOG [KEY CERTIFICATE]
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';

const [log, key, cert] = process.argv.slice(2);
const out = fs.openSync(log, 'a');
const say = (what) => fs.writeSync(out, JSON.stringify(what) + '\n');
const seen = new Map(); // path and id -> requests so far
const busy = new Map(); // path -> requests under way
let switched = 200;

// Answers of some kinds go past the HTTP library, byte for byte.
const raw = (res, text, more) => {
	const socket = res.socket;
	res.detachSocket(socket);
	socket.write(text);
	if (!more) return socket.end();
	const timer = setInterval(() => more(socket), 5);
	socket.on('close', () => clearInterval(timer));
	socket.on('error', () => clearInterval(timer));
};

const behaviours = {
	ok: (res) => res.end('thanks'),
	status: (res, n) => { res.statusCode = n; res.end(`status ${n}`); },
	switched: (res) => { res.statusCode = switched; res.end(); },
	flaky: (res, n, count) => { res.statusCode = count > n ? 200 : 500; res.end(`request ${count}`); },
	seconds: (res, n, count) => { if (count === 1) { res.statusCode = 429; res.setHeader('Retry-After', String(n)); } res.end(); },
	date: (res, n, count) => {
		if (count === 1) { res.statusCode = 503; res.setHeader('Retry-After', new Date(Date.now() + n * 1000).toUTCString()); }
		res.end();
	},
	redirect: (res) => { res.statusCode = 302; res.setHeader('Location', '/ok/redirected'); res.end(); },
	slow: (res, ms) => setTimeout(() => res.end('slow'), ms),
	hang: () => {},
	drip: (res) => { res.write('x'); const timer = setInterval(() => res.write('x'), 50); res.on('close', () => clearInterval(timer)); },
	drip500: (res) => { res.statusCode = 500; behaviours.drip(res); },
	huge: (res) => raw(res, 'HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n', (socket) => socket.write('y'.repeat(65536))),
	headers: (res) => raw(res, 'HTTP/1.1 200 OK\r\n', (socket) => socket.write(`X-Header: ${'z'.repeat(8192)}\r\n`)),
	garbage: (res) => raw(res, '\x00\xff this is not HTTP\r\n\r\n'),
	binary: (res) => { res.statusCode = 500; res.end(Buffer.concat([Buffer.from('caf\u00e9 \u{1F600} \0\x1b[31m'), Buffer.from([0xff, 0xc3]), Buffer.from('q'.repeat(5000))])); },
	reset: (res) => res.socket.resetAndDestroy(),
};

const serve = (req, res) => {
	const chunks = [];
	busy.set(req.url, (busy.get(req.url) ?? 0) + 1);
	const together = busy.get(req.url);
	res.on('close', () => busy.set(req.url, busy.get(req.url) - 1));
	req.on('data', (chunk) => chunks.push(chunk));
	req.on('error', () => {});
	req.on('end', () => {
		const [, what, value] = new URL(req.url, 'http://x').pathname.split('/');
		if (req.method === 'GET') { switched = Number(value); return res.end(); }
		const id = req.headers['webhook-id'];
		const count = (seen.get(req.url + id) ?? 0) + 1;
		seen.set(req.url + id, count);
		const body = Buffer.concat(chunks);
		// of a large one only what it takes to know it
		const told = body.length < 1e6 ? { body: body.toString() } : { size: body.length, sha256: createHash('sha256').update(body).digest('hex') };
		say({ url: req.url, at: Date.now(), together, switched, secure: !!req.socket.encrypted, port: req.socket.remotePort, headers: req.headers, ...told });
		(behaviours[what] ?? behaviours.ok)(res, Number(value), count);
	});
};

const listen = (server, host) => new Promise((done) => server.listen({ port: 0, host }, () => done(server.address().port)));
const ports = { http: await listen(http.createServer({ keepAliveTimeout: 60000 }, serve), '::') };
if (key) ports.https = await listen(https.createServer({ key: fs.readFileSync(key), cert: fs.readFileSync(cert) }, serve), '127.0.0.1');
say(ports);
