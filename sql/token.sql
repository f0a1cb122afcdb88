-- Tokens: signed and verified by libjwt inside a backend, keys, claims.
\pset null '(null)'

-- the first token makes the first key
SELECT count(*) FROM orion_private.signing_keys;
SELECT orion_jwt_sign('{"sub": "6f1c7a52-0b1d-4b3e-9d4e-0a1b2c3d4e5f", "role": "orion_user", "n": [1, "é"]}') AS hs256 \gset
-- libjwt, which signs with HS256, knows no larger ones
SELECT orion_jwt_sign('{"n": 123456789012345678901234567890}');
SELECT alg, status, public_key IS NULL AS no_public_key, length(secret) AS sealed_bytes FROM orion_private.signing_keys;
SELECT orion_jwt_verify(:'hs256');
SELECT convert_from(decode(translate(rpad(h, (length(h) + 3) / 4 * 4, '='), '-_', '+/'), 'base64'), 'UTF8')::jsonb - 'kid' AS header
	FROM split_part(:'hs256', '.', 1) AS h;

-- each algorithm; tokens of the former key stay valid
SELECT orion_key_create('RS256') AS rs256_kid \gset
SELECT orion_jwt_sign('{"sub": "rs"}') AS rs256 \gset
SELECT orion_key_create('ES256') AS es256_kid \gset
SELECT orion_jwt_sign('{"sub": "es"}') AS es256 \gset
SELECT orion_jwt_verify(:'rs256') AS rs256, orion_jwt_verify(:'es256') AS es256, orion_jwt_verify(:'hs256') ->> 'role' AS hs256;
SELECT alg, status FROM orion_private.signing_keys ORDER BY alg;
SELECT orion_key_create('none');
SELECT orion_key_create('HS512');

-- refused, with the reason
SELECT orion_jwt_verify('');
SELECT orion_jwt_verify('a.b');
SELECT orion_jwt_verify('a.b.c.d');
SELECT orion_jwt_verify('e30.e30.e30');
SELECT orion_jwt_verify(repeat('a', 16385));
SELECT orion_jwt_verify('eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.');
SELECT orion_jwt_verify('eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.AAAA');
SELECT orion_jwt_verify(:'es256' || '=');
SELECT orion_jwt_verify(:'es256' || 'AAAA');
SELECT orion_jwt_verify(split_part(:'es256', '.', 1) || '.' || split_part(:'rs256', '.', 2) || '.' || split_part(:'es256', '.', 3));
SELECT orion_jwt_verify(split_part(:'rs256', '.', 1) || '.' || split_part(:'es256', '.', 2) || '.' || split_part(:'es256', '.', 3));
SELECT orion_jwt_verify(orion_jwt_sign('{"exp": 1300819380}'));
SELECT orion_jwt_verify(orion_jwt_sign('{"exp": "tomorrow"}'));
SELECT orion_jwt_verify(orion_jwt_sign('{"exp": -1}'));
SELECT orion_jwt_verify(orion_jwt_sign('{"nbf": 32503680000}'));
SELECT orion_jwt_verify(orion_jwt_sign('{"iat": 32503680000}'));
SELECT orion_jwt_sign('[]');
-- what has no spaces between its members has those within its strings, and numbers of any size
SELECT orion_jwt_verify(t) = c AS same, convert_from(decode(translate(rpad(p, (length(p) + 3) / 4 * 4, '='), '-_', '+/'), 'base64'), 'UTF8') AS payload
	FROM (VALUES ('{"n": 123456789012345678901234567890, "r": 1e30, "s": "a \" b\\ : , c", "\\": [1, {"x y": " \\\" "}], "e": "é ü"}'::jsonb)) AS v (c),
		orion_jwt_sign(c) AS t, split_part(t, '.', 2) AS p;

-- public keys of others verify; one that does not fit its algorithm, or is short, verifies nothing
INSERT INTO orion_private.signing_keys (kid, alg, public_key, status) SELECT 'ec as rsa', 'RS256', public_key, 'published' FROM orion_private.signing_keys WHERE kid = :'es256_kid';
INSERT INTO orion_private.signing_keys (kid, alg, public_key, status) VALUES ('short', 'RS256', E'-----BEGIN PUBLIC KEY-----\nMIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDX/sMovw7DuPgXMkUphtyoKkfE\nowjehzM29T1a/LmJYz84g5EbdDZyCwz/Edcdd3OcQvPvS3Hq38QnEBiMHFfL6P6U\nrEBNyEWjyLztCY+X9bNCivn7XrktljQQ8ntjrZ07rGPyPdeQRvxUT8XtRi53Ky6V\nRy9TB9tLGvJ3CGvZAwIDAQAB\n-----END PUBLIC KEY-----\n', 'published'),
	('junk', 'ES256', 'no key', 'published');
CREATE FUNCTION pg_temp.refusal(token text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN orion_jwt_verify(token)::text; EXCEPTION WHEN SQLSTATE 'PT401' THEN RETURN SQLERRM; END $$;
SELECT kid, pg_temp.refusal(translate(encode(convert_to(format('{"alg":"%s","kid":"%s"}', alg, kid), 'UTF8'), 'base64'), E'+/=\n', '-_') || '.' || split_part(:'es256', '.', 2) || '.' || split_part(:'es256', '.', 3))
	FROM orion_private.signing_keys WHERE kid IN ('ec as rsa', 'short', 'junk') ORDER BY kid;
DELETE FROM orion_private.signing_keys WHERE kid IN ('ec as rsa', 'short', 'junk');

-- keys made elsewhere; refused: short, of another kind, not for the algorithm
SELECT orion_key_import('HS256', 'too short');
SELECT orion_key_import('RS256', 'no key');
SELECT orion_key_import('none', repeat('x', 32)::bytea);
SELECT orion_key_activate(orion_key_import('HS256', repeat('x', 32)::bytea));
SELECT orion_jwt_verify(orion_jwt_sign('{"sub": "imported"}'));
SELECT status FROM orion_private.signing_keys WHERE kid = :'es256_kid';
SELECT orion_key_activate(:'es256_kid');

-- a retired key stops at once, also for tokens verified before
SELECT orion_jwt_verify(:'rs256');
SELECT orion_key_retire(:'rs256_kid'), orion_key_retire('no such key');
SELECT orion_jwt_verify(:'rs256');
BEGIN;
SELECT orion_key_retire(:'es256_kid');
SELECT orion_jwt_verify(:'es256');
ROLLBACK;
SELECT orion_jwt_verify(:'es256');

-- claims belong to the transaction
SELECT orion_uid(), orion_role(), orion_claims();
BEGIN;
SELECT orion_authenticate(:'hs256') IS NOT NULL AS signed_in;
SAVEPOINT s;
SELECT 1 / 0;
ROLLBACK TO s;
SELECT orion_uid(), orion_role(), orion_claims() ->> 'n' AS n;
SELECT orion_authenticate(:'es256');
SELECT orion_uid(), orion_role(), orion_claims();
COMMIT;
SELECT orion_uid(), orion_role(), orion_claims();
BEGIN;
SELECT orion_authenticate(:'hs256') IS NOT NULL AS signed_in;
ROLLBACK;
SELECT orion_uid();

-- who may what
SET ROLE orion_user;
SELECT orion_jwt_verify(:'es256');
SELECT orion_jwt_sign('{"role": "orion_admin"}');
SELECT orion_key_create();
SELECT count(*) FROM orion_private.signing_keys;
RESET ROLE;
SELECT name, setting FROM pg_settings WHERE name IN ('orion.jwt_secret', 'orion.master_key_file') ORDER BY name;
SELECT action, outcome, target_id ~ '^[0-9a-f]{32}$' AS kid, new FROM orion_private.audit_log WHERE action ~ '^key\.' ORDER BY id;
DELETE FROM orion_private.signing_keys;
SELECT orion_jwt_verify(:'es256');
