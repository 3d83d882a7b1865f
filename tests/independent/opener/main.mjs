// One JSON object a line in, one a line out. Bytes travel as {"hex": "..."}; numbers beyond 2^53 as text.

import { createInterface } from "node:readline";

import { make, open } from "./envelope.mjs";
import { byVoice, inPerson, read } from "./records.mjs";
import { Refused, compositePublic, compositeSign, compositeVerify, label } from "./suite.mjs";
import { decode, encode } from "./wire.mjs";

const COMMANDS = {
  open: ({ envelope, me, peer }) => open(envelope, me, peer),
  make: (given) => make(given),
  public: ({ seed }) => ({ public: compositePublic(seed) }),
  sign: ({ seed, purpose, message }) => ({ signature: compositeSign(seed, label(purpose), message) }),
  verify: ({ key, purpose, message, signature }) => {
    compositeVerify(key, label(purpose), message, signature);
    return {};
  },
  read,
  byVoice,
  inPerson,
  canonical: ({ data }) => ({ encoded: encode(decode(data)) }),
};

const fromJson = (_, value) =>
  value !== null && typeof value === "object" && typeof value.hex === "string"
    ? new Uint8Array(Buffer.from(value.hex, "hex"))
    : value;

function toJson(value) {
  if (value instanceof Uint8Array) return { hex: Buffer.from(value).toString("hex") };
  if (typeof value === "bigint") return value.toString();
  if (value instanceof Map) return Object.fromEntries([...value].map(([key, inner]) => [key, toJson(inner)]));
  if (Array.isArray(value)) return value.map(toJson);
  if (value !== null && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, toJson(inner)]));
  }
  return value;
}

for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    const { command, ...given } = JSON.parse(line, fromJson);
    answer = { ok: true, ...toJson(await COMMANDS[command](given)) };
  } catch (error) {
    // A refusal has a code; anything else is a fault of this program and says where.
    answer = error instanceof Refused ? { ok: false, code: error.code } : { ok: false, crash: error.stack };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
