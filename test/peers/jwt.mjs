// What jose and jsonwebtoken say about tokens: reads a list of jobs (JSON) from
// standard input and prints a list of { ok } or { error }. Run by test/t/027.
//
//   { op: 'pair', alg }                       jose: { private (PKCS #8), public (SPKI), jwk }
//   { op: 'sign', lib, alg, key, claims, header }
//   { op: 'verify', lib, algs, key | jwks, token }    jwks: the address of a key set
//
// key is PEM, or for HMAC { secret: base64url }.
import { createPrivateKey, createPublicKey } from 'node:crypto';
import * as jose from 'jose';
import jsonwebtoken from 'jsonwebtoken';

const bytes = (key) => (key.secret !== undefined ? Buffer.from(key.secret, 'base64url') : null);

const jobs = {
	async pair({ alg }) {
		const pair = await jose.generateKeyPair(alg, { modulusLength: 2048, extractable: true });
		return {
			private: await jose.exportPKCS8(pair.privateKey),
			public: await jose.exportSPKI(pair.publicKey),
			jwk: await jose.exportJWK(pair.publicKey),
		};
	},
	async sign({ lib, alg, key, claims, header = {} }) {
		if (lib === 'jsonwebtoken') {
			return jsonwebtoken.sign(claims, alg === 'none' ? '' : bytes(key) ?? createPrivateKey(key), { algorithm: alg, header: { alg, ...header } });
		}
		if (alg === 'none') return new jose.UnsecuredJWT(claims).encode();
		return new jose.SignJWT(claims).setProtectedHeader({ alg, ...header }).sign(bytes(key) ?? createPrivateKey(key));
	},
	async verify({ lib, algs, key, jwks, token }) {
		if (lib === 'jsonwebtoken') {
			return jsonwebtoken.verify(token, bytes(key) ?? key, { algorithms: algs });
		}
		const from = jwks ? jose.createRemoteJWKSet(new URL(jwks)) : (bytes(key) ?? createPublicKey(key));
		return (await jose.jwtVerify(token, from, { algorithms: algs })).payload;
	},
};

let text = '';
for await (const chunk of process.stdin) text += chunk;
const answers = [];
for (const job of JSON.parse(text)) {
	try {
		answers.push({ ok: await jobs[job.op](job) });
	} catch (error) {
		answers.push({ error: `${error.code ?? error.name}: ${error.message}` });
	}
}
console.log(JSON.stringify(answers));
