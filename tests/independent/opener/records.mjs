// Files, codes, entries, checkpoints, a broker's requests and both pairings, from docs/spec/keys.md, pairing.md, broker.md
// and log.md.

import { xchacha20poly1305 } from "@noble/ciphers/chacha.js";
import { ed25519, x25519 } from "@noble/curves/ed25519.js";
import { argon2id } from "@noble/hashes/argon2.js";
import { hkdf } from "@noble/hashes/hkdf.js";
import { hmac } from "@noble/hashes/hmac.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { shake256 } from "@noble/hashes/sha3.js";
import { ml_kem768 } from "@noble/post-quantum/ml-kem.js";

import { Reader } from "./envelope.mjs";
import { H, compositeVerify, equal, join, label, number, refuse, unwrap } from "./suite.mjs";
import { decode } from "./wire.mjs";

const NONE = new Uint8Array(0);
const SIZES = [8192, 16384, 32768, 65536];
const SIGNATURE = 3373;
const bytes = (text) => new TextEncoder().encode(text);
const text = (data) => new TextDecoder().decode(data);
const latin = (data) => new TextDecoder("latin1").decode(data);
const derive = (key, salt, info, length = 32) => hkdf(sha256, key, salt, info, length);

function aeadOpen(key, nonce, sealed, associated, code = "aead_invalid") {
  try {
    return xchacha20poly1305(key, nonce, associated).decrypt(sealed);
  } catch {
    return refuse(code);
  }
}

function readVar(reader) {
  return reader.take(reader.small(4));
}

function end(reader) {
  if (reader.left !== 0) refuse(reader.code);
}

function magic(reader, word, format = 1) {
  if (latin(reader.take(4)) !== word || reader.small(1) !== format) refuse(reader.code);
}

// --- keystore, backup, PIN ---

function readCost(reader) {
  const cost = { m: reader.small(4), t: reader.small(4), p: reader.small(1) };
  const fits = cost.p >= 1 && cost.p <= 8 && cost.m >= 8 * cost.p && cost.m <= 2 ** 20 && cost.t >= 1 && cost.t <= 16;
  if (!fits) refuse(reader.code);
  return cost;
}

const stretch = (secret, salt, cost) => argon2id(secret, salt, { ...cost, dkLen: 32 });

/** The header that keystore and backup share; `kind` is what labels and codes begin with. */
function openHeader(data, passphrase, kind, word, bodyLabel) {
  const reader = new Reader(data, `${kind}_damaged`);
  if (latin(reader.take(4)) !== word) refuse(reader.code);
  const [format, length] = [reader.small(1), reader.small(2)];
  if (length < 39 || data.length < length) refuse(reader.code);
  const header = data.slice(0, length);
  if (!equal(H(`${kind}-header`, header.slice(0, -32)), header.slice(-32))) refuse(reader.code);
  if (format > 1) refuse(`${kind}_newer_version`);
  if (format !== 1 || length !== 96) refuse(reader.code);
  const cost = readCost(reader);
  const stretched = stretch(passphrase, reader.take(16), cost);
  const check = hmac(sha256, derive(stretched, NONE, label(`${kind}-check`)), join(label(`${kind}-check`), header.slice(0, 32)));
  if (!equal(check, header.slice(32, 64))) refuse(`${kind}_wrong_passphrase`);
  return { header, key: derive(stretched, NONE, label(bodyLabel)) };
}

function keystore(data, { passphrase }) {
  const { header, key } = openHeader(data, passphrase, "keystore", "SLWS", "keystore-body");
  const damaged = "keystore_damaged";
  const sealed = data.slice(header.length + 24);
  const nonce = data.slice(header.length, header.length + 24);
  const reader = new Reader(aeadOpen(key, nonce, sealed, join(label("keystore-body"), header), damaged), damaged);
  const found = {};
  for (let left = reader.small(4); left > 0; left -= 1) found[latin(reader.take(reader.small(1)))] = readVar(reader);
  end(reader);
  return found;
}

function backup(data, { passphrase }) {
  const { header, key } = openHeader(data, passphrase, "backup", "SLWU", "backup-part");
  const reader = new Reader(data.slice(header.length), "backup_damaged");
  const parts = [];
  for (let last = 0; !last; ) {
    const size = reader.small(4);
    last = reader.small(1);
    if (last > 1 || size < 40 || size > 40 + 2 ** 20) refuse(reader.code);
    const [nonce, sealed] = [reader.take(24), reader.take(size - 24)];
    const place = join(label("backup-part"), header, number(parts.length, 4), number(last, 1));
    parts.push(aeadOpen(key, nonce, sealed, place, reader.code));
  }
  end(reader);
  return { content: join(...parts) };
}

/** What the parts of a backup begin with, behind its length: canonical msgpack, every field, nothing else. */
function manifest(data) {
  const damaged = (holds) => holds || refuse("backup_damaged");
  let fields;
  try {
    fields = decode(data);
  } catch {
    refuse("backup_damaged");
  }
  damaged(fields instanceof Map);
  const within = (value, most) => damaged(typeof value === "bigint" && value >= 0n && value <= most) && `${value}`;
  const raw = (value) => damaged(value instanceof Uint8Array && value.length === 32) && value;
  const written = (value, most) => damaged(typeof value === "string" && bytes(value).length <= most) && bytes(value);
  const most = 2n ** 53n - 1n;
  const limit = [2n ** 22n, 2n ** 22n, 2n ** 22n, most];
  const readers = {
    office: raw,
    root: raw,
    name: (value) => written(value, 480),
    country: (value) => written(value, 2),
    origin: (value) => written(value, 120),
    made: (value) => bytes(within(value, 253402300799999n)),
    version: (value) => bytes(within(value, 2n ** 32n - 1n)),
    size: (value) => bytes(within(value, most)),
    operational: (value) => bytes(within(value, 1n)),
    sizes: (value) =>
      damaged(Array.isArray(value) && value.length === 4) && bytes(value.map((one, at) => within(one, limit[at])).join(" ")),
  };
  damaged([...fields.keys()].sort().join() === Object.keys(readers).sort().join());
  return Object.fromEntries(Object.entries(readers).map(([name, read]) => [name, read(fields.get(name))]));
}

function pin(data, { pin: typed, subject }) {
  const reader = new Reader(data, "pin_seal_malformed");
  magic(reader, "SLWN");
  const cost = readCost(reader);
  const [salt, nonce] = [reader.take(16), reader.take(24)];
  const [head, sealed] = [data.slice(0, 54), data.slice(54)];
  const associated = join(label("officer-seed"), head, subject);
  return { seed: aeadOpen(stretch(typed, salt, cost), nonce, sealed, associated, "pin_wrong") };
}

// --- rendezvous ---

function mailboxes(root) {
  const found = {};
  for (const direction of ["to-joiner", "to-inviter"]) {
    const secrets = derive(root, NONE, join(label("rendezvous-expand"), bytes(`|${direction}`)), 96);
    ["put", "get", "seed"].forEach((part, at) => (found[`${direction} ${part}`] = secrets.slice(32 * at, 32 * at + 32)));
  }
  return found;
}

const rendezvous = (data, { card }) =>
  mailboxes(stretch(data, H("rendezvous-salt", card).slice(0, 16), { m: 65536, t: 3, p: 1 }));

function item(data) {
  const reader = new Reader(data, "pairing_item_malformed");
  if (!SIZES.includes(data.length) || reader.small(1) !== 1) refuse(reader.code);
  const message = readVar(reader);
  const smallest = SIZES.find((size) => size >= message.length + 5);
  if (smallest !== data.length || reader.take(reader.left).some((byte) => byte !== 0)) refuse(reader.code);
  return { message };
}

// --- log ---

const leaf = (entry) => sha256(join(Uint8Array.of(0), entry));

function rootOf(leaves) {
  if (leaves.length === 1) return leaves[0];
  let half = 1;
  while (2 * half < leaves.length) half *= 2;
  return sha256(join(Uint8Array.of(1), rootOf(leaves.slice(0, half)), rootOf(leaves.slice(half))));
}

function bundleOfEntries(data) {
  const reader = new Reader(data, "bad_bundle");
  const leaves = [];
  while (reader.left > 0) leaves.push(leaf(reader.take(reader.small(2))));
  if (leaves.length < 1 || leaves.length > 256) refuse(reader.code);
  return Object.fromEntries(leaves.map((_, at) => [`${at + 1}`, rootOf(leaves.slice(0, at + 1))]));
}

const sorted = (value) =>
  Array.isArray(value) || typeof value !== "object"
    ? value
    : Object.fromEntries(Object.keys(value).sort().map((key) => [key, sorted(value[key])]));

const plain = (value) =>
  typeof value === "string" ||
  (typeof value === "number" && Number.isSafeInteger(value) && value >= 0) ||
  (typeof value === "object" && value !== null && Object.values(value).every(plain));

/** Form and common fields; the table of types is for a verifier of logs. */
function entry(data) {
  const bad = "bad_entry";
  if (data.length > 4096 || data.some((byte) => byte < 32 || byte > 126 || byte === 92)) refuse(bad);
  let read;
  try {
    read = JSON.parse(text(data));
  } catch {
    return refuse(bad);
  }
  if (!plain(read) || Array.isArray(read) || JSON.stringify(sorted(read)) !== text(data)) refuse(bad);
  return { leaf: leaf(data) };
}

const base64 = (letters, code) => {
  const data = Buffer.from(letters, "base64");
  if (data.toString("base64") !== letters) refuse(code);
  return new Uint8Array(data);
};

function checkpoint(data, { keys }) {
  const whole = text(data);
  const at = whole.lastIndexOf("\n\n");
  if (at < 1 || !whole.endsWith("\n") || at + 2 === whole.length) refuse("bad_note");
  const signed = whole.slice(0, at + 1);
  const lines = whole.slice(at + 2, -1).split("\n").map((line) => {
    const [dash, name, letters, ...more] = line.split(" ");
    if (dash !== "\u2014" || !letters || more.length > 0) refuse("bad_note");
    const blob = base64(letters, "bad_note");
    return { name, id: blob.slice(0, 4), signature: blob.slice(4) };
  });
  const parts = signed.split("\n");
  if (parts.length !== 4 || !/^(0|[1-9][0-9]{0,15})$/.test(parts[1])) refuse("bad_checkpoint");
  const root = base64(parts[2], "bad_checkpoint");
  if (root.length !== 32) refuse("bad_checkpoint");
  const known = text(keys).split("\n").map((line) => {
    const [name, letters] = splitKey(line);
    const material = base64(letters, "bad_vkey");
    return { name, type: material[0], id: sha256(join(bytes(`${name}\n`), material)).slice(0, 4), key: material.slice(1) };
  });
  const found = { origin: bytes(parts[0]), size: bytes(parts[1]), root };
  const signers = [];
  for (const line of lines) {
    const key = known.find(({ name, id }) => name === line.name && equal(id, line.id));
    if (!key) continue;
    const time = key.type === 4 ? new DataView(line.signature.slice(0, 8).buffer).getBigUint64(0) : null;
    const message = time === null ? bytes(signed) : bytes(`cosignature/v1\ntime ${time}\n${signed}`);
    if (!ed25519.verify(line.signature.slice(time === null ? 0 : 8), message, key.key, { zip215: false })) {
      refuse("bad_signature");
    }
    if (time !== null) found[`time ${key.name}`] = bytes(`${time}`);
    signers.push(key.name);
  }
  return { ...found, signers: bytes(signers.join("\n")) };
}

/** Name and key of a vkey, whose base64 may hold a plus. */
function splitKey(line) {
  const [first, second] = [line.indexOf("+"), line.indexOf("+", line.indexOf("+") + 1)];
  return [line.slice(0, first), line.slice(second + 1)];
}

// --- broker ---

const TOP = 2 ** 20;
const quarters = (least) => {
  const sizes = [];
  for (let size = least; size < TOP; size *= 2) sizes.push(size, 1.25 * size, 1.5 * size, 1.75 * size);
  return [...sizes, TOP];
};
const REQUEST_SIZES = [1280, 1536, ...quarters(2048)];
const ANSWER_SIZES = [128, ...quarters(1024)];

function unpad(padded) {
  let end = padded.length;
  while (end > 0 && padded[end - 1] === 0) end -= 1;
  if (end === 0 || padded[end - 1] !== 0x80) refuse("padding");
  return decode(padded.slice(0, end - 1));
}

async function openRequest(data, seed) {
  if (!REQUEST_SIZES.includes(data.length)) refuse("request_size");
  if (data[0] !== 1) refuse("request_version");
  const read = unpad(await unwrap(seed, data.slice(1), label("broker-request")));
  return { key: read.get("r"), enc: data.slice(1, 1121), ops: read.get("o") };
}

async function request(data, { seed }) {
  return { kinds: bytes((await openRequest(data, seed)).ops.map((op) => op.get("k")).join(" ")) };
}

async function answer(data, { seed, request: asked, custody: key }) {
  const { key: responseKey, enc, ops } = await openRequest(asked, seed);
  if (!ANSWER_SIZES.includes(data.length)) refuse("answer_size");
  const derived = derive(responseKey, data.slice(0, 32), join(label("broker-response"), enc));
  const read = unpad(aeadOpen(derived, new Uint8Array(24), data.slice(32), NONE));
  const results = read.get("r");
  if (results.length > 0 && results.length !== ops.length) refuse("answer_count");
  const notes = results.filter((result) => result.get("k") === "cus");
  const whole = notes.map((note) => new Map([...note, ["o", read.get("o")]]));
  if (notes.length > 0) verifySigned(key, "custody-note", rowRoot(whole.map(custodyLeaf)), read.get("s"));
  return { kinds: bytes(results.map((result) => result.get("k")).join(" ")) };
}

const custodyLeaf = (note) =>
  H("custody-leaf", bytes(note.get("o")), note.get("p"), note.get("h"), number(note.get("z"), 4), number(note.get("i"), 8),
    number(note.get("t"), 8));

function rowRoot(row) {
  if (row.length === 1) return row[0];
  const above = [];
  for (let at = 0; at < row.length; at += 2) {
    above.push(at + 1 < row.length ? H("custody-tree", row[at], row[at + 1]) : row[at]);
  }
  return rowRoot(above);
}

/** Ed25519 over H(label, message). */
function verifySigned(key, purpose, message, signature) {
  if (!ed25519.verify(signature, H(purpose, message), key, { zip215: false })) refuse("signature_invalid");
}

function custody(data, { custody: key }) {
  const note = decode(data);
  let [at, width, node] = [Number(note.get("bi")), Number(note.get("bn")), custodyLeaf(note)];
  if (at >= width) refuse("custody_path");
  const path = new Reader(note.get("bp"), "custody_path");
  for (; width > 1; at = Math.floor(at / 2), width = Math.ceil(width / 2)) {
    if (at % 2 === 1) node = H("custody-tree", path.take(32), node);
    else if (at + 1 < width) node = H("custody-tree", node, path.take(32));
  }
  end(path);
  verifySigned(key, "custody-note", node, note.get("s"));
  return { index: bytes(`${note.get("i")}`) };
}

const FORMS = {
  request,
  answer,
  custody,
  keystore,
  backup,
  "backup-manifest": manifest,
  pin,
  rendezvous,
  item,
  entry,
  checkpoint,
  "bundle-of-entries": bundleOfEntries,
};

export const read = async ({ form, data, needs }) => ({ found: await FORMS[form](data, needs) });

// --- pairing ---

const xwingPublic = (seed) => {
  const expanded = shake256(seed, { dkLen: 96 });
  return join(ml_kem768.keygen(expanded.slice(0, 64)).publicKey, x25519.getPublicKey(expanded.slice(64)));
};

function readBundle(data) {
  const reader = new Reader(data, "bundle_malformed");
  const body = readVar(reader);
  const [peer, nonce, peerNonce, signature] = [32, 32, 32, SIGNATURE].map((size) => reader.take(size));
  end(reader);
  const rootKey = body.slice(5, 5 + 1984);
  const certificate = new Reader(body.slice(1989), reader.code);
  certificate.take(37);
  const [version, operational] = [certificate.small(4), certificate.take(1984)];
  return { office: H("office-id", rootKey), version, operational, body, peer, nonce, peerNonce, signature };
}

function verifyBundle(bundle) {
  const signed = join(bundle.office, bundle.peer, bundle.nonce, bundle.peerNonce, bundle.body);
  compositeVerify(bundle.operational, label("pairing-bundle"), signed, bundle.signature);
}

function message(data, word) {
  const reader = new Reader(data, "pairing_item_malformed");
  magic(reader, word);
  return reader;
}

function sealed(data, word, key, associated) {
  const reader = message(data, word);
  const [nonce, inside] = [reader.take(24), readVar(reader)];
  end(reader);
  return aeadOpen(key, nonce, inside, associated);
}

async function wrapped(data, word, seed, info) {
  const reader = message(data, word);
  const inside = readVar(reader);
  end(reader);
  const opened = new Reader(await unwrap(seed, inside, info), "pairing_item_malformed");
  const [bundle, k] = [readVar(opened), opened.take(32)];
  end(opened);
  return { bundle, k };
}

/** Both P4, each verified as the other side does. */
function confirmed(P4, k, T, sides) {
  const found = {};
  for (const [role, other] of [["inviter", "joiner"], ["joiner", "inviter"]]) {
    const info = join(label("pairing-confirmation"), bytes(`|${role}`));
    const pairOk = sealed(P4[role], "SLP4", derive(k, T, info), T);
    const reader = new Reader(pairOk, "pair_ok_malformed");
    magic(reader, "SLWK", 2);
    const [transcript, own, peer] = [32, 32, 32].map((size) => reader.take(size));
    const version = reader.small(4);
    reader.take(8);
    reader.take(4 * reader.small(2));
    reader.take(8 + 1216);
    const signed = pairOk.slice(0, reader.at);
    const signature = reader.take(SIGNATURE);
    end(reader);
    const side = sides[role];
    const fits = equal(transcript, T) && equal(peer, sides[other].office) && equal(own, side.office);
    if (!fits || version !== side.version) refuse("pair_ok_foreign");
    compositeVerify(side.operational, label("pairing-ok"), signed, signature);
    found[role] = pairOk;
  }
  return found;
}

function code(T, role) {
  const digest = H("pairing-code", T, bytes(role)).reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
  return (digest % 10n ** 12n).toString().padStart(12, "0");
}

/** A whole ceremony by voice, read with the secrets of the inviter. */
export async function byVoice({ seed, bundleInviter, P1, P2, P3, P4 }) {
  const inviter = readBundle(bundleInviter);
  const offer = message(P1, "SLP1");
  const [key, commitment] = [offer.take(1216), offer.take(32)];
  end(offer);
  const hash1 = H("pairing-message", P1);
  const { bundle, k } = await wrapped(P2, "SLP2", seed, join(label("pairing-reply"), hash1));
  const joiner = readBundle(bundle);
  const zeros = new Uint8Array(32);
  if (!equal(joiner.peer, zeros) || !equal(joiner.peerNonce, zeros)) refuse("pairing_bundle_foreign");
  if (equal(joiner.office, inviter.office) || equal(joiner.nonce, inviter.nonce)) refuse("pairing_with_self");
  verifyBundle(joiner);
  const revealed = sealed(P3, "SLP3", derive(k, hash1, label("pairing-reveal")), H("pairing-message", P2));
  verifyBundle(readBundle(revealed));
  if (!equal(H("pairing-commitment", revealed, readBundle(revealed).nonce), commitment)) refuse("pairing_commitment_broken");
  const T = H("pairing-transcript", P1, P2, revealed, inviter.nonce, bundle, joiner.nonce);
  return {
    key: equal(key, xwingPublic(seed)),
    transcript: T,
    codes: { inviter: code(T, "inviter"), joiner: code(T, "joiner") },
    pairOk: confirmed(P4, k, T, { inviter, joiner }),
  };
}

/** A whole ceremony in person, read with the secrets of the joiner. */
export async function inPerson({ seed, codeInviter, codeJoiner, M1, M2, M3, P4 }) {
  const office = (shown) => shown.slice(6, 38);
  const secret = (shown) => shown.slice(38, 54);
  const both = H("meeting-both", codeInviter, codeJoiner);
  const first = message(M1, "SLM1");
  const key = first.take(1216);
  end(first);
  if (!equal(H("meeting-key", key), codeJoiner.slice(86, 118))) refuse("meeting_key_foreign");
  const [nonceI, nonceJ] = [H("meeting-code", codeInviter), H("meeting-code", codeJoiner)];
  const check = (bundle, own, peer, nonce, peerNonce) => {
    const fits =
      equal(bundle.office, office(own)) && equal(bundle.peer, office(peer)) && equal(bundle.nonce, nonce) &&
      equal(bundle.peerNonce, peerNonce);
    if (!fits) refuse("pairing_bundle_foreign");
    verifyBundle(bundle);
  };
  const { bundle, k } = await wrapped(M2, "SLM2", seed, join(label("meeting-bundle"), both));
  const inviter = readBundle(bundle);
  check(inviter, codeInviter, codeJoiner, nonceI, nonceJ);
  const reply = sealed(M3, "SLM3", derive(k, both, label("meeting-reply")), both);
  const joiner = readBundle(reply);
  check(joiner, codeJoiner, codeInviter, nonceJ, nonceI);
  const T = H("meeting-transcript", codeInviter, codeJoiner, bundle, reply);
  const root = derive(join(secret(codeInviter), secret(codeJoiner)), both, label("meeting-rendezvous"));
  return {
    key: equal(key, xwingPublic(seed)),
    transcript: T,
    mailboxes: mailboxes(root),
    pairOk: confirmed(P4, k, T, { inviter, joiner }),
  };
}
