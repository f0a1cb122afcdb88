-- Tokens forged in every way, and password hashes made by other programs.
SET client_min_messages = warning;
SELECT plan(44);

-- a forger's tools: base64url, HMAC-SHA256 (RFC 2104), compact JWS
CREATE FUNCTION b64(data bytea) RETURNS text LANGUAGE sql AS
	$$ SELECT rtrim(translate(encode(data, 'base64'), E'+/\n', '-_'), '=') $$;
CREATE FUNCTION xor_byte(key bytea, pad int) RETURNS bytea LANGUAGE sql AS
	$$ SELECT string_agg(set_byte('\x00', 0, (CASE WHEN i < length(key) THEN get_byte(key, i) ELSE 0 END) # pad), '' ORDER BY i) FROM generate_series(0, 63) AS i $$;
CREATE FUNCTION hmac(key bytea, data bytea) RETURNS bytea LANGUAGE sql AS
	$$ SELECT sha256(xor_byte(k, 92) || sha256(xor_byte(k, 54) || data)) FROM (SELECT CASE WHEN length(key) > 64 THEN sha256(key) ELSE key END) AS f (k) $$;
CREATE FUNCTION forge(header text, payload text, key bytea) RETURNS text LANGUAGE sql AS
	$$ SELECT s || '.' || b64(hmac(key, convert_to(s, 'UTF8'))) FROM (SELECT b64(convert_to(header, 'UTF8')) || '.' || b64(convert_to(payload, 'UTF8'))) AS f (s) $$;
CREATE FUNCTION refused(token text, why text, name text) RETURNS text LANGUAGE sql AS
	$$ SELECT throws_ok(format('SELECT orion_jwt_verify(%L)', token), 'PT401', 'token refused: ' || why, name) $$;

SELECT is(encode(hmac('Jefe', 'what do ya want for nothing?'), 'hex'), '5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843',
	'the forger''s HMAC is right (RFC 4231 4.3)');

SELECT orion_key_create('HS256') AS hs_kid \gset
SELECT orion_jwt_sign('{"sub": "hs", "role": "orion_user"}') AS hs \gset
SELECT orion_key_create('RS256') AS rs_kid \gset
SELECT orion_jwt_sign('{"sub": "rs", "role": "orion_user"}') AS rs \gset
SELECT orion_key_create('ES256') AS es_kid \gset
SELECT orion_jwt_sign('{"sub": "es", "role": "orion_user"}') AS es \gset
SELECT public_key AS rs_pem FROM orion_private.signing_keys WHERE kid = :'rs_kid' \gset
SELECT public_key AS es_pem FROM orion_private.signing_keys WHERE kid = :'es_kid' \gset

SELECT is(orion_jwt_verify(:'hs') ->> 'sub', 'hs', 'HS256 signed and verified');
SELECT is(orion_jwt_verify(:'rs') ->> 'sub', 'rs', 'RS256 signed and verified');
SELECT is(orion_jwt_verify(:'es') ->> 'sub', 'es', 'ES256 signed and verified');
SELECT is(orion_jwt_verify(:'es') ->> 'sub', 'es', 'and again, from the cache');

-- alg none (RFC 8725 2.1), with every spelling
SELECT refused(b64(convert_to(format('{"alg":"%s","kid":"%s"}', alg, :'hs_kid'), 'UTF8')) || '.' || b64('{"sub":"x"}') || '.' || signature,
	'the algorithm is not the one of the key', format('alg %s with a signature', alg))
	FROM unnest(ARRAY['none', 'None', 'NONE', 'nOnE', '']) AS alg, (VALUES ('AAAA')) AS v (signature);
SELECT refused(b64(convert_to(format('{"alg":"none","kid":"%s"}', :'hs_kid'), 'UTF8')) || '.' || b64('{"sub":"x"}') || '.', 'malformed token', 'alg none without a signature');

-- the public key as HMAC secret (RFC 8725 2.1)
SELECT refused(forge(format('{"alg":"HS256","typ":"JWT","kid":"%s"}', :'rs_kid'), '{"sub":"x"}', convert_to(:'rs_pem', 'UTF8')),
	'the algorithm is not the one of the key', 'HS256 with the RSA public key as secret');
SELECT refused(forge(format('{"alg":"HS256","typ":"JWT","kid":"%s"}', :'es_kid'), '{"sub":"x"}', convert_to(:'es_pem', 'UTF8')),
	'the algorithm is not the one of the key', 'HS256 with the EC public key as secret');
SELECT refused(forge(format('{"alg":"RS256","typ":"JWT","kid":"%s"}', :'rs_kid'), '{"sub":"x"}', convert_to(:'rs_pem', 'UTF8')),
	'wrong signature', 'RS256 in the header, an HMAC as signature');
SELECT refused(forge(format('{"alg":"ES256","typ":"JWT","kid":"%s"}', :'rs_kid'), '{"sub":"x"}', 'x'),
	'the algorithm is not the one of the key', 'ES256 for an RSA key');
SELECT refused(forge('{"alg":"HS256","typ":"JWT"}', '{"sub":"x"}', ''), 'unknown key', 'no kid and no shared secret: the empty secret');

-- which key
SELECT refused(forge('{"alg":"HS256","kid":"nobody"}', '{}', 'x'), 'unknown key', 'a kid that does not exist');
SELECT refused(forge('{"alg":"HS256","kid":7}', '{}', 'x'), 'malformed header', 'a kid that is no string');
SELECT refused(forge('{"alg":7}', '{}', 'x'), 'malformed header', 'an alg that is no string');
SELECT refused(forge(format('{"alg":"HS256","kid":"%s","crit":["exp"]}', :'hs_kid'), '{}', 'x'), 'critical header parameters are not supported', 'crit');
SELECT refused(forge(format('{"alg":"HS256","kid":"%s","jwk":{"kty":"oct","k":"eA"}}', :'hs_kid'), '{}', 'x'), 'wrong signature', 'a key that the token brings along');
SELECT refused(forge('["alg"]', '{}', 'x'), 'malformed token', 'a header that is no object');
SELECT refused(forge(repeat('[', 1500), '{}', 'x'), 'malformed token', 'a header of brackets');
SELECT refused(forge('{"alg":"HS256","x":"' || repeat('x', 2000) || '"}', '{}', 'x'), 'malformed token', 'a header over its limit');
SELECT refused(forge('{"alg":"HS256"}', repeat('x', 16384), 'x'), 'the token is too long', 'a token over its limit');
SELECT refused(b64('\xff') || '.' || b64('{}') || '.' || b64('x'), 'malformed token', 'a header that is no UTF-8');
SELECT refused('{"alg":"HS256"}.{}.x', 'malformed token', 'no base64url');

-- tampered
SELECT refused(split_part(:'hs', '.', 1) || '.' || b64('{"sub": "hs", "role": "orion_admin"}') || '.' || split_part(:'hs', '.', 3), 'wrong signature', 'another role');
SELECT throws_ok(format('SELECT orion_jwt_verify(%L)', left(:'es', -4)), 'PT401', NULL, 'a signature cut short');
SELECT refused(:'hs' || '=', 'malformed token', 'padding');
-- 32 bytes end in a character with two stray bits: another spelling of the same signature
SELECT refused(left(:'hs', -1) || translate(right(:'hs', 1), 'AEIMQUYcgkosw048', 'BFJNRVZdhlptx159'), 'malformed token', 'another spelling of the signature');

-- hashes of the argon2 program and of crypt(3)
SELECT is(orion_verify_password('correct horse battery', hash), matches, what) FROM (VALUES
	('$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0MTIzNA$McfjnuDazlq+xj4cXAVGpUg0zLxIcBa8UMk4NuX3lqU', true, 'argon2 -id, our parameters'),
	('$argon2id$v=19$m=8192,t=3,p=2$c2FsdHNhbHRzYWx0MTIzNA$xNYSvI91octH3M3p2pDx8WUISvnmns59ZhJm85pOX3c', true, 'argon2 -id, two lanes'),
	('$argon2id$v=19$m=16384,t=1,p=4$c2FsdHNhbHRzYWx0MTIzNA$/PhXjea2oPjpvVHpNdK1axfXbU0QViOK', true, 'argon2 -id, four lanes and 24 bytes'),
	('$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0MTIzNA$McfjnuDazlq+xj4cXAVGpUg0zLxIcBa8UMk4NuX3lqQ', false, 'one bit off'),
	('$argon2i$v=19$m=8192,t=3,p=1$c2FsdHNhbHRzYWx0MTIzNA$Mq/ZdAgmkhX+ahhOave73/jz+ppEUABEyDa9Mf/fW/U', false, 'argon2i is not accepted'),
	('$argon2id$v=16$m=8192,t=2,p=1$c2FsdHNhbHRzYWx0MTIzNA$9bLtAzSQXKNeVCq5d3cZihKfgSRY5JS3gb7bJvmngUo', false, 'version 1.0 is not accepted'),
	('$2b$05$abcdefghijklmnopqrstuuD3mHdCr44zlIZ.VZCaYRpfQhXMYnEo.', true, 'bcrypt $2b$'),
	('$2y$04$abcdefghijklmnopqrstuuqREtd3VJD2QVZbuFskFSLk6eRIrQoOS', true, 'bcrypt $2y$')) AS v (hash, matches, what);
-- the vectors that come with Openwall's crypt_blowfish
SELECT ok(orion_verify_password(password, hash) AND orion_verify_password(password || 'x', hash) = (octet_length(password) >= 72), 'bcrypt of "' || left(password, 20) || '"')
	FROM (VALUES ('$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW', 'U*U'), ('$2a$05$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK', 'U*U*'),
	('$2a$05$XXXXXXXXXXXXXXXXXXXXXOAcXxm9kjPGEMsLznoKqmqw7tc8WCx4a', 'U*U*U'), ('$2a$05$CCCCCCCCCCCCCCCCCCCCC.7uG0VCzI2bS7j6ymqJi9CdcdxiRTWNy', ''),
	('$2a$05$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui', '0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789chars after 72 are ignored')) AS v (hash, password);

SELECT * FROM finish();
