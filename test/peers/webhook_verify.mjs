// Checks webhooks with two other implementations. Reads a list of {secret, headers, body}
// from standard input, writes a list of {standardwebhooks, svix}: "ok" or the error.
import { createPublicKey, verify as verifySignature } from 'node:crypto';
import { Webhook as Standard } from 'standardwebhooks';
import { Webhook as Svix } from 'svix';

let text = '';
for await (const chunk of process.stdin) text += chunk;

const attempt = (check) => { try { check(); return 'ok'; } catch (error) { return String(error.message); } };

// Neither package knows v1a, so this follows the specification.
const asymmetric = ({ secret, headers, body }) => attempt(() => {
	const der = Buffer.concat([Buffer.from('302a300506032b6570032100', 'hex'), Buffer.from(secret.slice(5), 'base64')]);
	const key = createPublicKey({ key: der, format: 'der', type: 'spki' });
	const signed = Buffer.from(`${headers['webhook-id']}.${headers['webhook-timestamp']}.${body}`);
	const signatures = headers['webhook-signature'].split(' ').filter((s) => s.startsWith('v1a,'));
	if (!signatures.some((s) => verifySignature(null, signed, key, Buffer.from(s.slice(4), 'base64')))) throw new Error('no signature matches');
});

console.log(JSON.stringify(JSON.parse(text).map((one) => one.secret.startsWith('whpk_') ? { v1a: asymmetric(one) } : {
	standardwebhooks: attempt(() => new Standard(one.secret).verify(one.body, one.headers)),
	svix: attempt(() => new Svix(one.secret).verify(one.body, one.headers)),
})));
