"""Entries of the log: canonical JSON, one table of types.

Spec: docs/spec/log.md#entries. An entry is one JSON object in the only encoding a verifier accepts: keys
sorted, no spaces, printable ASCII without backslash, integers in [0, 2^53), arrays and objects; no floats,
booleans or null; at most 4096 bytes. Ids and hashes are lower-case hex.

One rule: no name, plate, officer number or free text is ever in an entry. So every field of a known type
has a closed kind (hex of one length, an integer, a word from a list, a code), and ``encode_entry`` refuses
the rest.

Each known type compiles to one regular expression over the encoded bytes. A match proves order, spacing,
kinds and required fields at once, which is what lets a verifier check half a million entries a second.

Does not: decide when entries are written (store) or what their order means (replay).
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from keys.errors import BrokenInvariant, MalformedInput

ENTRY_BYTES_MAX: Final = 4096
INT_LIMIT: Final = 2**53
"""Integers are below this, so that a reader in any language keeps them exact."""

ENTRY_VERSION: Final = 1

Json = int | str | Sequence["Json"] | Mapping[str, "Json"]
Whose = Literal["all", "node", "broker", "sender", "receiver", "both offices", "witness"]


def _int_pattern(limit: int) -> str:
    """Regular expression of the decimal integers in [0, limit), without leading zeroes, limit above 20."""
    digits = str(limit - 1)
    more = len(digits) - 1
    # Times have all the digits and come first; the possessive {}+ keeps shorter ones from being tried twice.
    patterns = [f"[1-{int(digits[0]) - 1}][0-9]{{{more}}}", f"[1-9][0-9]{{0,{more - 1}}}+", "0"]
    for place in range(1, len(digits)):
        if digits[place] > "0":
            patterns.append(f"{digits[:place]}[0-{int(digits[place]) - 1}][0-9]{{{more - place}}}")
    return f"(?:{'|'.join(patterns)}|{digits})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a field may hold: ``pattern`` is the regular expression of its JSON encoding."""

    pattern: str
    meaning: str

    def holds(self, value: Json) -> bool:
        """Whether ``value`` encodes to something of this kind."""
        return re.fullmatch(self.pattern, _dumps(value)) is not None


def _hex(size_bytes: int, meaning: str) -> Kind:
    return Kind(pattern=f'"[0-9a-f]{{{2 * size_bytes}}}"', meaning=f"{meaning}, {size_bytes} bytes in hex")


def _word(*words: str) -> Kind:
    return Kind(pattern='"(?:' + "|".join(map(re.escape, words)) + ')"', meaning=" | ".join(words))


def _list(item: Kind, count_max: int) -> Kind:
    return Kind(
        pattern=rf"\[(?:{item.pattern}(?:,{item.pattern}){{0,{count_max - 1}}})?\]",
        meaning=f"up to {count_max} of: {item.meaning}",
    )


INT: Final = Kind(pattern=_int_pattern(INT_LIMIT), meaning="integer in [0, 2^53)")
TIME_US: Final = Kind(pattern=INT.pattern, meaning="microseconds UTC")
TIME_MS: Final = Kind(pattern=INT.pattern, meaning="milliseconds UTC")
INDEX: Final = Kind(pattern=INT.pattern, meaning="leaf index")
ID8: Final = _hex(8, "identifier")
ID16: Final = _hex(16, "identifier")
HASH: Final = _hex(32, "SHA-256")
PSEUDONYM: Final = Kind(
    pattern='"(?:[0-9a-f]{16}|[0-9a-f]{32}|[0-9a-f]{64})"', meaning="pseudonym, 8, 16 or 32 bytes in hex"
)
ACTOR: Final = Kind(pattern=PSEUDONYM.pattern, meaning="officer: HMAC under a per-officer erasable key, hex")
CODE: Final = Kind(pattern='"[a-z][a-z0-9_-]{0,47}"', meaning="stable code, not text")
ORIGIN: Final = Kind(pattern='"[a-z0-9][a-z0-9._/-]{0,119}"', meaning="log origin or key name")
COMMITMENTS: Final = _list(HASH, 24)
VIA: Final = _word("broker", "usb", "qr")
STEP: Final = _word("delivered", "opened", "assigned", "outcome", "refused", "erased", "stale")
VERDICT: Final = _word("ok", "dup", "badsig", "stale", "gap", "refused", "pending")
CEREMONY: Final = _word("voice", "person")
ROLE: Final = _word("officer", "supervisor", "auditor", "operator")

COMMON: Final[Mapping[str, Kind]] = {
    "v": Kind(pattern="1", meaning="entry version"),
    "t": Kind(pattern='"[a-z]{2,12}(?:\\.[a-z]+(?:-[a-z]+)*)"', meaning="entry type"),
    "seq": INDEX,
    "ts": TIME_US,
    "bt": ID8,
    "mo": Kind(pattern=INT.pattern, meaning="monotonic milliseconds since an arbitrary start, same bt only"),
    "z": ID16,
}
"""Fields of every entry: version, type, leaf index, time, boot id, monotonic time, 16 random bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryType:
    """One row of the table: in whose log, which fields must and which may be there."""

    whose: Whose
    required: Mapping[str, Kind]
    optional: Mapping[str, Kind]
    pattern: re.Pattern[bytes]


def _entry_type(
    name: str, whose: Whose, required: Mapping[str, Kind], optional: Mapping[str, Kind] | None = None
) -> tuple[str, EntryType]:
    optional = optional or {}
    kinds = {**COMMON, **required, **optional, "t": _word(name)}
    fields: list[str] = []
    for key in sorted(kinds):
        value = f"({kinds[key].pattern})" if key in {"seq", "ts"} else kinds[key].pattern
        # `z` is in every entry and sorts last: every other field is followed by a comma.
        field = f'"{re.escape(key)}":{value}' + ("" if key == "z" else ",")
        # Possessive: a field that is there is never tried without, since no other begins with its name.
        fields.append(f"(?:{field})?+" if key in optional else field)
    pattern = re.compile((r"\{" + "".join(fields) + r"\}").encode())
    return name, EntryType(whose=whose, required=required, optional=optional, pattern=pattern)


_ACCESS: Final[Mapping[str, Kind]] = {"alert": HASH, "actor": ACTOR, "purpose": CODE, "k": INT}
_ACCESS_OPTIONAL: Final[Mapping[str, Kind]] = {"actor2": ACTOR, "prev": INDEX, "code": CODE}
_BROKER: Final[Mapping[str, Kind]] = {"env": HASH, "box": PSEUDONYM}
_BROKER_OPTIONAL: Final[Mapping[str, Kind]] = {"bucket": INT, "in": INDEX, "code": CODE}

TYPES: Final[Mapping[str, EntryType]] = dict(
    (
        # every log
        _entry_type("log.start", "all", {"origin": ORIGIN, "key": HASH}, {"prior": ORIGIN}),
        _entry_type("log.freeze", "all", {"code": CODE}),
        _entry_type("log.prune", "all", {"below": INDEX, "root": HASH}),
        _entry_type(
            "key.rotate", "all", {"what": CODE, "new": HASH}, {"old": HASH, "ver": INT, "peer": PSEUDONYM}
        ),
        _entry_type("clk.step", "all", {"from": TIME_US, "to": TIME_US}),
        _entry_type("clk.off", "node", {"origin": ORIGIN, "at": TIME_MS}),
        _entry_type("cfg.change", "all", {"what": CODE, "digest": HASH}, {"actor": ACTOR}),
        _entry_type("backup.made", "all", {"size": INT, "root": HASH}),
        _entry_type("backup.loss", "node", {"peer": PSEUDONYM, "sent": INT, "gone": INT}),
        _entry_type("backup.refused", "node", {"peer": PSEUDONYM, "ver": INT, "known": INT}),
        _entry_type("backup.head", "node", {"peer": PSEUDONYM, "origin": ORIGIN, "size": INT, "root": HASH}),
        _entry_type("peer.reset", "node", {"peer": PSEUDONYM, "ver": INT, "inst": ID8, "n": INT}),
        _entry_type("backup.restore", "all", {"size": INT, "root": HASH}, {"code": CODE}),
        _entry_type("audit.export", "all", {"digest": HASH}, {"actor": ACTOR, "purpose": CODE}),
        # peers and officers
        _entry_type(
            "pair.begin", "node", {"peer": PSEUDONYM, "role": _word("invite", "join")}, {"how": CEREMONY}
        ),
        _entry_type(
            "pair.ok",
            "node",
            {"peer": PSEUDONYM, "transcript": HASH},
            {"origin": ORIGIN, "key": HASH, "how": CEREMONY, "ours": HASH, "theirs": HASH},
        ),
        _entry_type("peer.suspend", "node", {"peer": PSEUDONYM, "code": CODE}, {"actor": ACTOR}),
        _entry_type("peer.resume", "node", {"peer": PSEUDONYM}, {"actor": ACTOR}),
        _entry_type("peer.retire", "node", {"peer": PSEUDONYM}, {"actor": ACTOR, "next": PSEUDONYM}),
        _entry_type("peer.freeze", "node", {"peer": PSEUDONYM, "code": CODE, "hh": HASH}),
        _entry_type("peer.thaw", "node", {"peer": PSEUDONYM, "code": CODE}, {"actor": ACTOR}),
        _entry_type("peer.revoke", "node", {"peer": PSEUDONYM, "below": INT}),
        _entry_type("officer.add", "node", {"actor": ACTOR, "role": ROLE, "list": INT}, {"by": ACTOR}),
        _entry_type("officer.retire", "node", {"actor": ACTOR, "list": INT}, {"by": ACTOR}),
        _entry_type("officer.pin-reset", "node", {"actor": ACTOR}, {"by": ACTOR, "list": INT}),
        _entry_type("ses.login", "node", {"actor": ACTOR}, {"sid": PSEUDONYM}),
        _entry_type("ses.fail", "node", {"n": INT}, {"actor": ACTOR, "code": CODE}),
        _entry_type("ses.lock", "node", {"actor": ACTOR, "code": CODE}, {"sid": PSEUDONYM}),
        _entry_type("ses.logout", "node", {"actor": ACTOR}, {"sid": PSEUDONYM}),
        # one message, at its sender
        _entry_type(
            "msg.submit",
            "sender",
            {"msg": ID16, "peer": PSEUDONYM, "com": COMMITMENTS, "exp": TIME_MS},
            {"alert": HASH, "kind": CODE, "urgency": CODE, "erase": TIME_MS, "ref": HASH, "actor": ACTOR},
        ),
        _entry_type(
            "msg.seal",
            "sender",
            {"msg": ID16, "hh": HASH, "inst": ID8, "ps": INT, "att": INT, "env": HASH, "via": VIA},
            {"peer": PSEUDONYM, "bytes": INT},
        ),
        _entry_type(
            "msg.custody",
            "sender",
            {"msg": ID16, "env": HASH, "origin": ORIGIN, "idx": INDEX, "at": TIME_MS},
            {"note": HASH},
        ),
        _entry_type(
            "msg.receipt",
            "both offices",
            {"msg": ID16, "step": STEP, "at": TIME_MS},
            {"digest": HASH, "code": CODE, "env": HASH, "peer": PSEUDONYM},
        ),
        _entry_type("msg.expired", "sender", {"msg": ID16}, {"step": CODE}),
        _entry_type("msg.overdue", "sender", {"msg": ID16, "code": CODE}),
        _entry_type("msg.cancel", "sender", {"msg": ID16}, {"by": ID16, "actor": ACTOR, "code": CODE}),
        # one message, at its receiver
        _entry_type(
            "msg.recv",
            "receiver",
            {"env": HASH, "verdict": VERDICT},
            {
                "msg": ID16,
                "peer": PSEUDONYM,
                "hh": HASH,
                "inst": ID8,
                "ps": INT,
                "via": VIA,
                "com": COMMITMENTS,
                "alert": HASH,
                "kind": CODE,
                "code": CODE,
                "first": INDEX,
                "erase": TIME_MS,
                "exp": TIME_MS,
            },
        ),
        _entry_type(
            "att.end",
            "both offices",
            {"alert": HASH, "n": INT, "verdict": _word("ok", "refused", "ended")},
            {"peer": PSEUDONYM, "code": CODE},
        ),
        # carried by hand: counts, and the hash at the end of the file
        _entry_type(
            "stick.out",
            "node",
            {"peer": PSEUDONYM, "n": INT, "digest": HASH, "via": VIA, "actor": ACTOR},
        ),
        _entry_type(
            "stick.in",
            "node",
            {"n": INT, "fresh": INT, "known": INT, "via": VIA, "actor": ACTOR},
            {"digest": HASH, "alien": INT, "bad": INT, "refused": INT, "held": INT, "missing": INT},
        ),
        # who let it out, who saw it, what is gone
        _entry_type("rel.author", "sender", {"alert": HASH, "actor": ACTOR}, {"msg": ID16, "list": INT}),
        _entry_type(
            "rel.release", "sender", {"alert": HASH, "actor": ACTOR}, {"msg": ID16, "list": INT, "code": CODE}
        ),
        _entry_type("rel.refuse", "sender", {"alert": HASH, "actor": ACTOR, "code": CODE}),
        _entry_type("rel.emergency", "sender", {"alert": HASH, "actor": ACTOR, "code": CODE}, {"msg": ID16}),
        _entry_type("ans.given", "receiver", {"alert": HASH, "actor": ACTOR, "step": STEP}, {"code": CODE}),
        _entry_type("acc.read", "both offices", _ACCESS, _ACCESS_OPTIONAL),
        _entry_type("acc.print", "both offices", _ACCESS, _ACCESS_OPTIONAL),
        _entry_type("acc.export", "both offices", _ACCESS, _ACCESS_OPTIONAL),
        _entry_type(
            "acc.deny", "both offices", {"alert": HASH, "actor": ACTOR, "code": CODE}, {"purpose": CODE}
        ),
        _entry_type(
            "content.erased",
            "both offices",
            {"alert": HASH, "parts": _list(CODE, 32)},
            {"com": COMMITMENTS, "code": CODE, "actor": ACTOR},
        ),
        _entry_type(
            "content.held", "both offices", {"alert": HASH, "code": CODE}, {"actor": ACTOR, "until": TIME_MS}
        ),
        # watching another log
        _entry_type("wit.cosigned", "witness", {"origin": ORIGIN, "size": INT, "root": HASH}),
        _entry_type("wit.refused", "witness", {"origin": ORIGIN, "size": INT, "root": HASH, "code": CODE}),
        # the broker: envelope hash, mailbox pseudonym, size bucket, never an office
        _entry_type("bk.in", "broker", {**_BROKER, "bucket": INT}, {"code": CODE}),
        _entry_type("bk.out", "broker", _BROKER, _BROKER_OPTIONAL),
        _entry_type(
            "bk.ack", "broker", {**_BROKER, "by": _word("mailbox-key", "capability")}, _BROKER_OPTIONAL
        ),
        _entry_type("bk.expire", "broker", _BROKER, _BROKER_OPTIONAL),
        _entry_type("bk.purge", "broker", {"box": PSEUDONYM, "n": INT}, {"code": CODE}),
        _entry_type("bk.drop", "broker", {**_BROKER, "code": CODE}, {"bucket": INT, "in": INDEX}),
        _entry_type(
            "bk.part",
            "broker",
            {"box": PSEUDONYM, "step": _word("begun", "whole", "deleted", "expired"), "bytes": INT},
        ),
        _entry_type("bk.box", "broker", {"box": PSEUDONYM, "step": _word("made", "retired")}, {"code": CODE}),
    )
)
"""Every entry type of this version.

``prev`` and ``k``: index of the previous access to the same alert, and the count of accesses so far, from 1;
``prev`` is absent on the first. ``idx`` of msg.custody is the broker's leaf index, ``in`` of bk.* the index
of the envelope's bk.in, ``first`` of msg.recv the index of the copy that was accepted.
"""

_BY_NAME: Final = {name.encode(): (name, known.pattern.fullmatch) for name, known in TYPES.items()}


_dumps: Final[Callable[[Json], str]] = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
).encode


def encode_entry(entry: Mapping[str, Json]) -> bytes:
    """The canonical bytes of an entry of a known type, common fields included.

    BrokenInvariant ``bad_entry`` names the first field that is missing, unknown or not of its kind: an
    entry is made by our own code, and one that a verifier would refuse must never be committed.
    """
    name = entry.get("t")
    known = TYPES.get(name) if isinstance(name, str) else None
    if known is None:
        raise BrokenInvariant("bad_entry", f"unknown entry type {name!r}")
    encoded = _dumps(entry).encode()
    if known.pattern.fullmatch(encoded) is None:
        raise BrokenInvariant("bad_entry", _first_fault(name, known, entry))
    if len(encoded) > ENTRY_BYTES_MAX:
        raise BrokenInvariant("bad_entry", f"{name} takes {len(encoded)} bytes, more than {ENTRY_BYTES_MAX}")
    return encoded


def _first_fault(name: object, known: EntryType, entry: Mapping[str, Json]) -> str:
    kinds = {**COMMON, **known.required, **known.optional}
    for key in {**COMMON, **known.required}:
        if key not in entry:
            return f"{name} lacks {key}: {kinds[key].meaning}"
    for key, value in entry.items():
        if key not in kinds:
            return f"{name} has no field {key}"
        if isinstance(value, bool) or not kinds[key].holds(value):
            return f"{name}.{key} must be: {kinds[key].meaning}"
    return f"{name} is not canonical"


def glance_untrusted(data: bytes) -> tuple[int, int, str]:
    """(seq, ts in microseconds, type) of a canonical entry, without building a dict: 2 microseconds each.

    MalformedInput ``bad_entry`` as decode_entry_untrusted.
    """
    at = data.find(b'"t":"') + 5
    known = _BY_NAME.get(data[at : data.find(b'"', at)])
    if known is not None and (match := known[1](data)) is not None and len(data) <= ENTRY_BYTES_MAX:
        seq, ts_us = match.group(1, 2)  # the only two groups; by number, which is faster
        return int(seq), int(ts_us), known[0]
    entry = _decode_any_untrusted(data)
    return entry["seq"], entry["ts"], entry["t"]


def decode_entry_untrusted(data: bytes) -> dict[str, Any]:
    """The fields of one entry.

    Accepts exactly the bytes ``encode_entry`` can make for known types. An unknown type (a later version's)
    is accepted when it is canonical and its common fields hold, so that an old verifier can still check a
    new log. MalformedInput ``bad_entry``.
    """
    glance_untrusted(data)
    entry: dict[str, Any] = json.loads(data)
    return entry


def _decode_any_untrusted(data: bytes) -> dict[str, Any]:
    """The same, slower, for what no pattern of the table matches; says what is wrong."""
    if len(data) > ENTRY_BYTES_MAX:
        raise MalformedInput("bad_entry", f"{len(data)} bytes, more than {ENTRY_BYTES_MAX}")
    if b"\\" in data or not data.isascii() or not data.decode("ascii").isprintable():
        raise MalformedInput("bad_entry", "bytes outside printable ASCII, or a backslash")
    try:
        entry = json.loads(data, parse_float=_refuse_token, parse_constant=_refuse_token)
    except MalformedInput:
        raise
    except (ValueError, RecursionError) as error:
        raise MalformedInput("bad_entry", "not JSON") from error
    if not isinstance(entry, dict):
        raise MalformedInput("bad_entry", "not an object")
    _check_plain(entry)
    if _dumps(entry).encode() != data:
        raise MalformedInput("bad_entry", "not in canonical form")
    for key, kind in COMMON.items():
        if key not in entry or not kind.holds(entry[key]):
            raise MalformedInput("bad_entry", f"{key} must be: {kind.meaning}")
    known = TYPES.get(entry["t"])
    if known is not None and known.pattern.fullmatch(data) is None:
        raise MalformedInput("bad_entry", _first_fault(entry["t"], known, entry))
    return entry


def _refuse_token(token: str) -> Json:
    raise MalformedInput("bad_entry", f"number {token[:24]!r} is not an integer")


def _check_plain(value: object) -> None:
    """Only integers in [0, 2^53), strings, arrays and objects; no booleans or null, at any depth."""
    # A stack, not recursion: 4096 bytes hold two thousand brackets.
    waiting: list[object] = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, bool) or not isinstance(item, int | str):
            raise MalformedInput("bad_entry", "only integers, strings, arrays and objects are allowed")
        elif isinstance(item, int) and not 0 <= item < INT_LIMIT:
            raise MalformedInput("bad_entry", "integer out of range")
