// Canonical msgpack from docs/spec/wire.md: one value, one encoding. A map comes back as a Map.

import { equal, join, number, refuse } from "./suite.mjs";

const DEPTH = 8;
const VALUES = 4096;
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

const less = (a, b) => {
  for (let at = 0; at < Math.min(a.length, b.length); at += 1) if (a[at] !== b[at]) return a[at] < b[at];
  return a.length < b.length;
};

function head(data, at) {
  const type = data[at];
  const sized = (kind, bytes, per = 1) => {
    if (at + 1 + bytes > data.length) refuse("wire_truncated");
    let length = 0;
    for (let i = 1; i <= bytes; i += 1) length = length * 256 + data[at + i];
    return { kind, length: length * per, start: at + 1 + bytes };
  };
  const fixed = (kind, length) => ({ kind, length, start: at + 1 });
  if (type < 0x80 || type >= 0xe0) return fixed("number", 0);
  if (type < 0x90) return fixed("map", 2 * (type & 15));
  if (type < 0xa0) return fixed("list", type & 15);
  if (type < 0xc0) return fixed("text", type & 31);
  switch (type) {
    case 0xc0: case 0xc2: case 0xc3: return fixed("constant", 0);
    case 0xc4: case 0xc5: case 0xc6: return sized("bytes", 2 ** (type - 0xc4));
    case 0xcc: case 0xcd: case 0xce: case 0xcf: return fixed("number", 2 ** (type - 0xcc));
    case 0xd0: case 0xd1: case 0xd2: case 0xd3: return fixed("number", 2 ** (type - 0xd0));
    case 0xd9: case 0xda: case 0xdb: return sized("text", 2 ** (type - 0xd9));
    case 0xdc: case 0xdd: return sized("list", 2 ** (type - 0xdb));
    case 0xde: case 0xdf: return sized("map", 2 ** (type - 0xdd), 2);
    default: return refuse("wire_type");
  }
}

/** Walks the type bytes alone: types, bounds, counts, depth, order of keys. Builds nothing. */
function scan(data) {
  let [at, values] = [0, 0];
  const open = [];
  let frame = { left: 1, isMap: false, key: null };
  for (;;) {
    if (frame.left === 0) {
      if (open.length === 0) break;
      frame = open.pop();
      continue;
    }
    const isKey = frame.isMap && frame.left % 2 === 0;
    frame.left -= 1;
    values += 1;
    if (at >= data.length) refuse("wire_truncated");
    if (isKey && !((data[at] >= 0xa0 && data[at] < 0xc0) || (data[at] >= 0xd9 && data[at] <= 0xdb))) refuse("wire_key");
    const { kind, length, start } = head(data, at);
    const nests = kind === "map" || kind === "list";
    at = nests ? start : start + length;
    if (at > data.length) refuse("wire_truncated");
    if (isKey) {
      const key = data.slice(start, at);
      if (frame.key !== null && !less(frame.key, key)) refuse("wire_not_canonical");
      frame.key = key;
    }
    if (values + (nests ? length : 0) > VALUES) refuse("wire_items");
    if (nests) {
      if (open.length >= DEPTH) refuse("wire_depth");
      open.push(frame);
      frame = { left: length, isMap: kind === "map", key: null };
    }
  }
  if (at !== data.length) refuse("wire_trailing");
}

function build(data, at) {
  const type = data[at];
  const { kind, length, start } = head(data, at);
  if (kind === "constant") return [{ 0xc0: null, 0xc2: false, 0xc3: true }[type], start];
  if (kind === "number") {
    if (type < 0x80) return [BigInt(type), start];
    if (type >= 0xe0) return [BigInt(type) - 256n, start];
    const unsigned = data.slice(start, start + length).reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
    return [type >= 0xd0 ? BigInt.asIntN(8 * length, unsigned) : unsigned, start + length];
  }
  const end = start + length;
  if (kind === "bytes") return [data.slice(start, end), end];
  if (kind === "text") {
    try {
      return [utf8.decode(data.slice(start, end)), end];
    } catch {
      return refuse("wire_text");
    }
  }
  const values = [];
  let next = start;
  for (let i = 0; i < length; i += 1) {
    let value;
    [value, next] = build(data, next);
    values.push(value);
  }
  if (kind === "list") return [values, next];
  return [new Map(values.flatMap((key, i) => (i % 2 ? [] : [[key, values[i + 1]]]))), next];
}

export function encode(value) {
  if (value === null || value === undefined) return Uint8Array.of(0xc0);
  if (typeof value === "boolean") return Uint8Array.of(value ? 0xc3 : 0xc2);
  if (typeof value === "bigint" || typeof value === "number") return encodeNumber(BigInt(value));
  if (typeof value === "string") {
    const bytes = new TextEncoder().encode(value);
    if (bytes.length < 32) return join(Uint8Array.of(0xa0 | bytes.length), bytes);
    return join(length([[0xd9, 1], [0xda, 2], [0xdb, 4]], bytes.length), bytes);
  }
  if (value instanceof Uint8Array) return join(length([[0xc4, 1], [0xc5, 2], [0xc6, 4]], value.length), value);
  if (Array.isArray(value)) {
    const front = value.length < 16 ? Uint8Array.of(0x90 | value.length) : length([[0xdc, 2], [0xdd, 4]], value.length);
    return join(front, ...value.map(encode));
  }
  const keys = [...value.keys()].map((key) => [new TextEncoder().encode(key), key]);
  keys.sort(([a], [b]) => (less(a, b) ? -1 : 1));
  const front = keys.length < 16 ? Uint8Array.of(0x80 | keys.length) : length([[0xde, 2], [0xdf, 4]], keys.length);
  return join(front, ...keys.flatMap(([, key]) => [encode(key), encode(value.get(key))]));
}

function length(forms, size) {
  const [type, bytes] = forms.find(([, width]) => size < 2 ** (8 * width));
  return join(Uint8Array.of(type), number(size, bytes));
}

function encodeNumber(value) {
  if (value >= 0n && value < 128n) return Uint8Array.of(Number(value));
  if (value < 0n && value >= -32n) return Uint8Array.of(Number(value + 256n));
  for (let power = 0, bits = 8n; power < 4; power += 1, bits *= 2n) {
    const [front, bytes] = [Uint8Array.of((value >= 0n ? 0xcc : 0xd0) + power), Number(bits / 8n)];
    if (value >= 0n ? value < 1n << bits : value >= -(1n << (bits - 1n))) {
      return join(front, number(BigInt.asUintN(Number(bits), value), bytes));
    }
  }
  return refuse("wire_type");
}

/** The one value that fills `data`, or a refusal. */
export function decode(data) {
  scan(data);
  const [value] = build(data, 0);
  if (!equal(encode(value), data)) refuse("wire_not_canonical");
  return value;
}
