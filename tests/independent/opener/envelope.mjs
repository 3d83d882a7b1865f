// Envelopes from docs/spec/envelope.md: opened in the order of the page, and made.

import {
  H, Refused, blobDecrypt, blobEncrypt, compositeSign, compositeVerify, equal, join, label, number, random, refuse, unwrap,
  wrap,
} from "./suite.mjs";
import { decode } from "./wire.mjs";

const SIZES = [8192, 16384, 32768, 65536];
const BLOB = 1257;
const SIGNATURE = 3373;
const CERTIFICATE = 5486;
const HEADER = 154;
const CORE_MOST = 59000;
const TIME_MOST = 253402300799999n;
const TYPES = { alert: 1, control: 2, receipt: 3, reset: 5, cover: 6, nack: 7, card: 8 };
const WITH_CERTIFICATE = [TYPES.reset, TYPES.card];

/** Reads forward; what is cut short is refused with one code. */
export class Reader {
  constructor(data, code) {
    this.data = data;
    this.code = code;
    this.at = 0;
  }

  take(size) {
    if (this.at + size > this.data.length) refuse(this.code);
    this.at += size;
    return this.data.slice(this.at - size, this.at);
  }

  big(size) {
    return this.take(size).reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
  }

  small(size) {
    return Number(this.big(size));
  }

  get left() {
    return this.data.length - this.at;
  }
}

const wrapInfo = (sender, recipient, keyId, blob) =>
  join(label("wrap"), number(1, 1), sender, recipient, keyId, H("hash-of-blob", blob));

function readHeader(bytes) {
  const bad = "header_malformed";
  if (bytes.length < HEADER) refuse(bad);
  const reader = new Reader(bytes, bad);
  const header = {
    magic: new TextDecoder("latin1").decode(reader.take(4)),
    type: reader.small(1),
    suite: reader.small(1),
    flags: reader.small(2),
    msgId: reader.take(16),
    sender: reader.take(32),
    keyVersion: reader.small(4),
    instance: reader.take(8),
    createdMs: reader.big(8),
    expiresMs: reader.big(8),
    coreHash: reader.take(32),
    coreBytes: reader.small(4),
    piggybackHash: reader.take(32),
    leafCount: reader.small(2),
  };
  const count = header.leafCount;
  const isCount = count >= 1 && count <= 256 && (count & (count - 1)) === 0;
  if (header.magic !== "SLW1" || !Object.values(TYPES).includes(header.type) || header.suite !== 1) refuse(bad);
  if (header.flags !== 0 || header.createdMs > TIME_MOST || header.expiresMs > TIME_MOST) refuse(bad);
  if (header.coreBytes > CORE_MOST || !isCount || reader.left !== 32 * count) refuse(bad);
  if (count > 1 && header.type !== TYPES.alert) refuse(bad);
  if (header.instance.every((byte) => byte === 0) !== count > 1) refuse(bad);
  header.leaves = Array.from({ length: count }, () => reader.take(32));
  return header;
}

function readCertificate(bytes) {
  const bad = "certificate_malformed";
  if (bytes.length !== CERTIFICATE) refuse(bad);
  const reader = new Reader(bytes, bad);
  if (new TextDecoder("latin1").decode(reader.take(4)) !== "SLWC" || reader.small(1) !== 1) refuse(bad);
  const certificate = { office: reader.take(32), keyVersion: reader.small(4), public: reader.take(1984) };
  const [from, until] = [reader.big(8), reader.big(8)];
  const revokedBelow = reader.small(4);
  if (certificate.keyVersion < 1 || revokedBelow > certificate.keyVersion || from >= until) refuse(bad);
  if (reader.small(1) < 1) refuse(bad);
  certificate.signed = bytes.slice(0, CERTIFICATE - SIGNATURE);
  certificate.signature = bytes.slice(CERTIFICATE - SIGNATURE);
  return certificate;
}

function verifyCertificate(certificate, peer) {
  if (!equal(certificate.office, peer.office)) refuse("office_id_mismatch");
  if (!equal(H("office-id", peer.root), peer.office)) refuse("office_id_mismatch");
  compositeVerify(peer.root, label("certificate"), certificate.signed, certificate.signature);
}

/** Beside a message to several (`count` leaves): the leaves of its audience, as many, and nothing else. */
function checkBeside(items, count) {
  if (!count) return;
  const [one, ...others] = items;
  const leaves = one instanceof Map && one.get("k") === "auds" ? one.get("b") : undefined;
  if (others.length || leaves === undefined || leaves.length !== 32 * count) refuse("piggyback_shared");
}

/** The disclosures of an alert against the digests of its core, as docs/spec/alert.md says. */
function readAlert(core, disclosures) {
  const fields = decode(core);
  if (!(fields instanceof Map)) refuse("field_type");
  const listed = decode(disclosures);
  const digests = fields.get("digests");
  if (!(digests instanceof Uint8Array)) refuse("field_missing");
  if (digests.length % 32) refuse("core_digests");
  const split = [];
  for (let at = 0; at < digests.length; at += 32) split.push(Buffer.from(digests.slice(at, at + 32)).toString("hex"));
  if (split.some((digest, at) => at > 0 && split[at - 1] >= digest)) refuse("core_digests");
  const open = new Set(split);
  const values = {};
  for (const [path, salt, value] of listed) {
    const bytes = new TextEncoder();
    const digest = Buffer.from(H("disclosure", salt, bytes.encode(path), bytes.encode(value))).toString("hex");
    if (!open.delete(digest)) refuse("disclosure_unsigned");
    values[path] = value;
  }
  if (open.size) refuse("disclosure_missing");
  return { fields, values };
}

/** Open one envelope. `me`: office, keyId, seed. `peer`: office, root, certificates, instances. */
export async function open(envelope, me, peer) {
  // 1
  if (!SIZES.includes(envelope.length)) refuse("envelope_size");
  if (envelope[0] !== 1) refuse("envelope_version");
  // 2
  const keyId = envelope.slice(1, 9);
  if (!equal(keyId, me.keyId)) refuse("key_unknown");
  // 3
  const blob = envelope.slice(BLOB);
  const W = await unwrap(me.seed, envelope.slice(9, BLOB), wrapInfo(peer.office, me.office, keyId, blob));
  if (W.length !== 112) refuse("leaf_opening");
  const hint = W.slice(-4);
  const reader = new Reader(W, "leaf_opening");
  const contentKey = reader.take(32);
  const opening = { blind: reader.take(16), leafIndex: reader.small(2), flags: reader.small(2) };
  if (opening.flags > 1) refuse("leaf_opening");
  Object.assign(opening, { pairSeq: reader.take(8), rkFirst: reader.take(8), rkKnown: reader.take(8), pairPrev: reader.take(32) });
  // 4
  const padded = blobDecrypt(contentKey, label("blob"), blob);
  // 5
  let end = padded.length;
  while (end > 0 && padded[end - 1] === 0) end -= 1;
  if (end === 0 || padded[end - 1] !== 0x80) refuse("padding");
  const message = new Reader(padded.slice(0, end - 1), "message_malformed");
  const headerBytes = message.take(message.small(2));
  const signature = message.take(SIGNATURE);
  const hasBody = message.left > 0;
  const part = () => message.take(message.small(4));
  const [core, disclosures, piggyback] = hasBody ? [part(), part(), part()] : [];
  if (message.left !== 0 || (hasBody && core.length === 0) || hasBody === Boolean(opening.flags & 1)) {
    refuse("message_malformed");
  }
  // 6 and 7
  const header = readHeader(headerBytes);
  const isShared = header.leafCount > 1;
  if (!isShared && hint.some(Boolean)) refuse("leaf_opening");
  if (!equal(header.sender, peer.office)) refuse("sender_mismatch");
  // 8
  const known = peer.certificates.map(readCertificate);
  if (WITH_CERTIFICATE.includes(header.type) && hasBody) {
    const brought = readCertificate(core.slice(0, CERTIFICATE));
    if (brought.keyVersion !== header.keyVersion) refuse("certificate_mismatch");
    known.push(brought);
  }
  known.forEach((certificate) => verifyCertificate(certificate, peer));
  const certificate = known.find((one) => one.keyVersion === header.keyVersion);
  if (certificate === undefined) refuse("pending_card");
  // 9
  compositeVerify(certificate.public, label("message"), headerBytes, signature);
  // 10
  if (hasBody) {
    if (!equal(H("core", core), header.coreHash) || core.length !== header.coreBytes) refuse("core_mismatch");
    if (!equal(H("piggyback", piggyback), header.piggybackHash)) refuse("piggyback_mismatch");
  }
  // 11
  if (opening.leafIndex >= header.leafCount) refuse("not_for_me");
  const parts = [opening.blind, me.office, join(opening.pairSeq, opening.rkFirst), opening.rkKnown, opening.pairPrev];
  const stated = header.leaves[opening.leafIndex];
  let hh = H("header", headerBytes);
  if (isShared) {
    const known = peer.instances.filter((one) => equal(one.slice(0, 4), hint));
    if (known.length === 0) refuse("other_instance");
    const instance = known.find((one) => equal(H("shared-leaf", ...parts, one), stated));
    if (instance === undefined) refuse("not_for_me");
    // To each recipient the header is another one.
    hh = H("shared-header", headerBytes, stated);
    header.instance = instance;
    header.msgId = H("shared-message-id", header.msgId, stated).slice(0, 16);
  } else if (!equal(H("leaf", ...parts), stated)) refuse("not_for_me");

  const opened = { header, opening, hh, hasBody, core, disclosures, piggyback };
  // 14, as far as one alert and its form go: what fails here is the sender's own fault, and a value.
  if (hasBody) {
    try {
      checkBeside(decode(piggyback), isShared && header.leafCount);
      if (header.type === TYPES.alert) opened.alert = readAlert(core, disclosures);
      else if (disclosures.length) refuse("disclosures_unsigned");
      else opened.body = decode(WITH_CERTIFICATE.includes(header.type) ? core.slice(CERTIFICATE) : core);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      opened.bodyFault = error.code;
    }
  }
  return opened;
}

/** Sign a message of any type to one recipient, and seal it: the other direction. */
export async function make(given) {
  const { opening, core, disclosures, piggyback, recipient } = given;
  const order = join(number(opening.pairSeq, 8), number(opening.rkFirst, 8));
  const leaf = H("leaf", opening.blind, recipient.office, order, opening.rkKnown, opening.pairPrev);
  const header = join(
    new TextEncoder().encode("SLW1"), number(TYPES[given.type], 1), number(1, 1), number(0, 2), random(16), given.sender,
    number(given.keyVersion, 4), given.instance, number(given.createdMs, 8), number(given.expiresMs, 8), H("core", core),
    number(core.length, 4), H("piggyback", piggyback), number(1, 2), leaf,
  );
  const signature = compositeSign(given.signer, label("message"), header);
  const body = [core, disclosures, piggyback].flatMap((part) => [number(part.length, 4), part]);
  const message = join(number(header.length, 2), header, signature, ...(given.bodyless ? [] : body));
  // Outside 1,257; in front of the blob 56; a tag of 16 for each chunk of 16 KiB, a last chunk always.
  const size = SIZES.find((one) => message.length < roomIn(one));
  const padded = new Uint8Array(roomIn(size));
  padded.set(message);
  padded[message.length] = 0x80;
  const contentKey = random(32);
  const blob = blobEncrypt(contentKey, label("blob"), padded);
  const W = join(
    contentKey, opening.blind, number(0, 2), number(given.bodyless ? 1 : 0, 2), order, opening.rkKnown, opening.pairPrev,
    number(0, 4),
  );
  const wrapped = await wrap(recipient.public, W, wrapInfo(given.sender, recipient.office, recipient.keyId, blob));
  return { envelope: join(number(1, 1), recipient.keyId, wrapped, blob), hh: H("header", header), coreHash: H("core", core) };
}

function roomIn(size) {
  const inside = size - BLOB - 56;
  for (let chunks = 1; ; chunks += 1) {
    const room = inside - 16 * chunks;
    if (room < chunks * 16384) return room;
  }
}
