// Suite 0x01 from docs/spec/suite.md, over libraries that Salween does not use. Test code, never shipped.

import { Chacha20Poly1305 } from "@hpke/chacha20poly1305";
import { CipherSuite, HkdfSha256 } from "@hpke/core";
import { XWing } from "@hpke/hybridkem-x-wing";
import { gcm } from "@noble/ciphers/aes.js";
import { ed25519 } from "@noble/curves/ed25519.js";
import { hmac } from "@noble/hashes/hmac.js";
import { sha256, sha512 } from "@noble/hashes/sha2.js";
import { concatBytes, randomBytes } from "@noble/hashes/utils.js";
import { ml_dsa65 } from "@noble/post-quantum/ml-dsa.js";

export { concatBytes as join, randomBytes as random };

export const equal = (a, b) => a.length === b.length && a.every((byte, at) => byte === b[at]);

const ascii = (text) => new TextEncoder().encode(text);

/** Why bytes were refused: `code` is the stable code of docs/spec/errors.md. */
export class Refused extends Error {
  constructor(code) {
    super(code);
    this.code = code;
  }
}

export function refuse(code) {
  throw new Refused(code);
}

export const label = (purpose) => ascii(`salween/v1/${purpose}`);

export function number(value, bytes) {
  const out = new Uint8Array(bytes);
  let left = BigInt(value);
  for (let at = bytes - 1; at >= 0; at -= 1, left >>= 8n) out[at] = Number(left & 255n);
  return out;
}

/** H(label, part, ...) of docs/spec/README.md. */
export function H(purpose, ...parts) {
  const name = label(purpose);
  return sha256(concatBytes(number(name.length, 1), name, ...parts.flatMap((part) => [number(part.length, 4), part])));
}

// --- composite ML-DSA-65 with Ed25519 ---

const MLDSA_PUBLIC = 1952;
const MLDSA_SIGNATURE = 3309;
const COMPOSITE = ascii("COMPSIG-MLDSA65-Ed25519-SHA512");

function represented(context, message) {
  const prefix = ascii("CompositeAlgorithmSignatures2025");
  return concatBytes(prefix, COMPOSITE, number(context.length, 1), context, sha512(message));
}

function checkPoint(key) {
  try {
    const point = ed25519.Point.fromBytes(key);
    if (!point.is0() && point.isTorsionFree() && equal(point.toBytes(), key)) return;
  } catch {
    // not a point
  }
  refuse("public_key_invalid");
}

export function compositePublic(seed) {
  return concatBytes(ml_dsa65.keygen(seed.slice(0, 32)).publicKey, ed25519.getPublicKey(seed.slice(32)));
}

export function compositeSign(seed, context, message) {
  const signed = represented(context, message);
  const { secretKey } = ml_dsa65.keygen(seed.slice(0, 32));
  return concatBytes(ml_dsa65.sign(signed, secretKey, { context: COMPOSITE }), ed25519.sign(signed, seed.slice(32)));
}

export function compositeVerify(key, context, message, signature) {
  if (key.length !== MLDSA_PUBLIC + 32) refuse("public_key_invalid");
  checkPoint(key.slice(MLDSA_PUBLIC));
  if (signature.length !== MLDSA_SIGNATURE + 64) refuse("signature_invalid");
  const signed = represented(context, message);
  const [lattice, curve] = [signature.slice(0, MLDSA_SIGNATURE), signature.slice(MLDSA_SIGNATURE)];
  try {
    if (
      ed25519.verify(curve, signed, key.slice(MLDSA_PUBLIC), { zip215: false }) &&
      ml_dsa65.verify(lattice, signed, key.slice(0, MLDSA_PUBLIC), { context: COMPOSITE })
    ) {
      return;
    }
  } catch {
    // a form the library does not take
  }
  refuse("signature_invalid");
}

// --- key wrap ---

const ENCAPSULATION = 1120;
const hpke = new CipherSuite({ kem: new XWing(), kdf: new HkdfSha256(), aead: new Chacha20Poly1305() });
// A plain ArrayBuffer of exactly these bytes: what Web Crypto style interfaces expect.
const buffer = (bytes) => new Uint8Array(bytes).buffer;

export async function wrap(publicKey, plaintext, info) {
  const recipientPublicKey = await hpke.kem.deserializePublicKey(buffer(publicKey));
  const sender = await hpke.createSenderContext({ recipientPublicKey, info: buffer(info) });
  return concatBytes(new Uint8Array(sender.enc), new Uint8Array(await sender.seal(buffer(plaintext))));
}

export async function unwrap(seed, wrapped, info) {
  try {
    const recipientKey = await hpke.kem.deserializePrivateKey(buffer(seed));
    const enc = buffer(wrapped.slice(0, ENCAPSULATION));
    const recipient = await hpke.createRecipientContext({ recipientKey, enc, info: buffer(info) });
    return new Uint8Array(await recipient.open(buffer(wrapped.slice(ENCAPSULATION))));
  } catch {
    return refuse("unwrap_failed");
  }
}

// --- content: C2SP chunked encryption, AES-256-GCM, derived with SHA-512 ---

const CHUNK = 16384;

/** HKDF-Expand of RFC 5869 with the content key as it is: 32 bytes, which a strict library finds too short for SHA-512. */
function expand(key, info, length) {
  let [out, block] = [new Uint8Array(0), new Uint8Array(0)];
  for (let counter = 1; out.length < length; counter += 1) {
    block = hmac(sha512, key, concatBytes(block, info, number(counter, 1)));
    out = concatBytes(out, block);
  }
  return out.slice(0, length);
}

function contentKeys(key, salt, context) {
  const name = ascii("c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0");
  const derived = expand(key, concatBytes(name, salt, context), 32 + 12 + 32);
  return { key: derived.slice(0, 32), nonce: derived.slice(32, 44), commitment: derived.slice(44) };
}

function chunkNonce(base, counter) {
  const nonce = base.slice();
  for (let at = 11, left = counter; left > 0; at -= 1, left = Math.floor(left / 256)) nonce[at] ^= left % 256;
  return nonce;
}

export function blobEncrypt(key, context, plaintext) {
  const salt = randomBytes(24);
  const derived = contentKeys(key, salt, context);
  const parts = [salt, derived.commitment];
  // The last chunk is always shorter than a whole one, and may be empty.
  for (let at = 0, counter = 0; at <= plaintext.length; at += CHUNK, counter += 1) {
    parts.push(gcm(derived.key, chunkNonce(derived.nonce, counter)).encrypt(plaintext.slice(at, at + CHUNK)));
  }
  return concatBytes(...parts);
}

export function blobDecrypt(key, context, blob) {
  if (blob.length < 56) refuse("blob_invalid");
  const derived = contentKeys(key, blob.slice(0, 24), context);
  if (!equal(derived.commitment, blob.slice(24, 56))) refuse("blob_invalid");
  const parts = [];
  for (let at = 56, counter = 0; ; counter += 1) {
    const chunk = blob.slice(at, at + CHUNK + 16);
    if (chunk.length < 16) refuse("blob_invalid");
    try {
      parts.push(gcm(derived.key, chunkNonce(derived.nonce, counter)).decrypt(chunk));
    } catch {
      refuse("blob_invalid");
    }
    if (chunk.length < CHUNK + 16) return concatBytes(...parts);
    at += chunk.length;
  }
}
