// A receiver of webhooks that fails at random: now and then, for a moment, it answers 500
// or 429, hangs, or breaks the connection, before or after it has taken the delivery.
//
//   node webhook_chaos.mjs LOG PORT SEED
//
// LOG gets a line for each delivery: "A id" when it is answered with 200, "D id" when it is
// taken and the sender does not hear of it. Paths that begin with /well never fail.
import fs from 'node:fs';
import http from 'node:http';

const [log, port, seed] = process.argv.slice(2);
const out = fs.openSync(log, 'a');
let state = Number(seed) >>> 0;
const random = () => { // mulberry32
	state = (state + 0x6d2b79f5) >>> 0;
	let t = Math.imul(state ^ (state >>> 15), state | 1);
	t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
	return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
};

const moods = {
	error: (res) => { res.statusCode = 500; res.end('not now'); },
	busy: (res) => { res.statusCode = 429; res.setHeader('Retry-After', '1'); res.end(); },
	hang: () => {},
	reset: (res) => res.socket.resetAndDestroy(),
	taken: (res, path, id) => { fs.writeSync(out, `D ${path} ${id}\n`); res.socket.resetAndDestroy(); },
};
let mood, until = 0;

http.createServer({ keepAliveTimeout: 60000 }, (req, res) => {
	req.resume();
	req.on('error', () => {});
	req.on('end', () => {
		const id = req.headers['webhook-id'];
		const now = Date.now();
		if (now > until && random() < 0.0005) {
			const names = Object.keys(moods);
			mood = names[Math.floor(random() * names.length)];
			until = now + 20 + random() * 200;
		}
		if (now <= until && !req.url.startsWith('/well')) return moods[mood](res, req.url, id);
		fs.writeSync(out, `A ${req.url} ${id}\n`);
		res.end('thanks');
	});
}).listen({ port: Number(port), host: '127.0.0.1' });
