"""What an officer can hand over: one event of an alert, proved by one small file and a policy.

Spec: docs/spec/log.md#receipts. A C2SP tlog-proof whose ``extra`` line is the entry itself, packed so that
the file fits one QR code. One rule: what a receipt says is read from its entry alone, and counts only once
the entry's place, the log's signature and the policy's quorum hold.

Does not: hold content, a name or a key. Whoever finds it learns pseudonyms and times.
"""

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from audit.entry import ENTRY_BYTES_MAX, decode_entry_untrusted
from audit.note import Note, Signature, parse_note_untrusted
from audit.policy import Policy, SignedHead
from audit.proof import parse_proof_untrusted, prove, verify_proof
from audit.tree import ReadTile
from keys.errors import MalformedInput, VerificationFailed
from keys.primitives import ED25519_SIGNATURE_BYTES

RECEIPT_BYTES_MAX: Final = 2000
"""Of a log below 2^20 entries; each doubling beyond adds 45, a broker's long name up to 48."""
COSIGNERS_MAX: Final = 3
_COSIGNATURE_BYTES: Final = 8 + ED25519_SIGNATURE_BYTES
_BROKER: Final = "/broker/"
"""In the name of a broker's witness. A policy may ask for a partner and a broker."""

# A run of hex digits costs half as a run of bytes: 8, 16 or 32 of them stand behind the text, a mark in it.
_MARKS: Final = {8: "\x01", 16: "\x02", 32: "\x03"}
_SIZES: Final = {mark: size for size, mark in _MARKS.items()}
_HEX: Final = re.compile('"(?:[0-9a-f]{16}|[0-9a-f]{32}|[0-9a-f]{64})"')
_ANY_MARK: Final = re.compile("[\x01\x02\x03]")
DICTIONARY: Final = (
    b',"code":"due","parts":["content","bodies","envelopes","carried","photos"],"seq":,"t":"content.erased"'
    b'{"actor":\x03,"alert":\x03,"bt":\x01,"k":,"mo":,"prev":,"purpose":"duty","seq":,"t":"acc.read","ts":1'
    b'{"at":1,"bt":\x01,"mo":,"msg":\x02,"peer":\x01,"seq":,"step":"delivered","t":"msg.receipt","ts":1'
    b'{"alert":\x03,"bt":\x01,"com":[\x03,\x03],"erase":1,"exp":1,"kind":"person","mo":,"msg":\x02,"peer":\x01'
    b',"seq":,"t":"msg.submit","ts":1,"urgency":"immediate'
    b'{"alert":\x03,"bt":\x01,"com":[\x03,\x03],"env":\x03,"hh":\x03,"inst":\x01,"mo":,"msg":\x02,"peer":\x01'
    b',"ps":,"seq":,"t":"msg.recv","ts":1,"v":1,"verdict":"ok","via":"broker","z":\x02}'
)
"""Preset dictionary of the packing; its bytes are part of the format."""


class Event(Enum):
    """What can have happened to an alert that somebody may want on paper."""

    SUBMITTED = "submitted"
    WITNESSED = "witnessed"
    DELIVERED = "delivered"
    READ = "read"
    ERASED = "erased"


_STEPS: Final = {"delivered": Event.DELIVERED, "opened": Event.READ, "erased": Event.ERASED}
_TYPES: Final = {
    "msg.submit": Event.SUBMITTED,
    "acc.read": Event.READ,
    "acc.print": Event.READ,
    "acc.export": Event.READ,
    "content.erased": Event.ERASED,
}


TYPES: Final = frozenset({*_TYPES, "msg.recv", "msg.receipt"})
"""Types of all entries that some receipt is made of."""
BEGINNINGS: Final = ("msg.submit", "msg.recv")
"""Types of those that name both a message and the alert in it."""


def event_of(entry: Mapping[str, Any]) -> Event | None:
    """What an entry of an office's log is about, or None for one that no receipt is made of.

    WITNESSED is no entry: it is any of them under a checkpoint that a witness cosigned.
    """
    if entry["t"] == "msg.receipt":
        return _STEPS.get(entry["step"])
    if entry["t"] == "msg.recv":
        return Event.DELIVERED if entry["verdict"] == "ok" and "alert" in entry else None
    return _TYPES.get(entry["t"])


def events_of(entries: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Event, Mapping[str, Any]]]:
    """(alert id in hex, event, entry) of all that a receipt can be made of; ``entries`` in the log's order.

    A partner's word about a message is about the alert that went to it, or came from it, as that message; no
    later message under the same number, of the same partner or another, takes it away.
    """
    alert_of: dict[tuple[str, str], str] = {}
    for entry in entries:
        message = (entry.get("msg", ""), entry.get("peer", ""))
        event, alert_id = event_of(entry), entry.get("alert", alert_of.get(message))
        if event is None or alert_id is None:
            continue
        if entry["t"] in BEGINNINGS:
            alert_of.setdefault(message, alert_id)
        yield alert_id, event, entry


def receipt_name(alert_id: str, event: Event, index: int) -> str:
    """Of the file that holds a receipt, in a dossier."""
    return f"{alert_id}-{event.value}-{index}.tlog-proof"


def pack_entry(entry: bytes) -> bytes:
    """The entry's text without its hex, raw DEFLATE with DICTIONARY; then the bytes of that hex, in order."""
    found = [bytes.fromhex(match[0][1:-1]) for match in _HEX.finditer(entry.decode("ascii"))]
    text = _HEX.sub(lambda match: _MARKS[(len(match[0]) - 2) // 2], entry.decode("ascii"))
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_DEFAULT_STRATEGY, DICTIONARY)
    return packer.compress(text.encode()) + packer.flush() + b"".join(found)


def unpack_entry_untrusted(data: bytes) -> bytes:
    """The inverse of ``pack_entry``. MalformedInput ``bad_receipt``."""
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS, DICTIONARY)
    try:
        text = unpacker.decompress(data, ENTRY_BYTES_MAX + 1).decode("ascii")
    except (zlib.error, UnicodeDecodeError) as error:
        raise MalformedInput("bad_receipt", "the packed entry cannot be read") from error
    if not unpacker.eof or len(text) > ENTRY_BYTES_MAX:
        raise MalformedInput("bad_receipt", "the packed entry is cut short or too long")
    rest, parts, at = unpacker.unused_data, [], 0
    for match in _ANY_MARK.finditer(text):
        size = _SIZES[match[0]]
        parts += [text[at : match.start()], f'"{rest[:size].hex()}"']
        if len(rest) < size:
            raise MalformedInput("bad_receipt", "the packed entry is cut short or too long")
        rest, at = rest[size:], match.end()
    if rest:
        raise MalformedInput("bad_receipt", "bytes behind the packed entry")
    return "".join([*parts, text[at:]]).encode()


def _cosigners(signatures: Sequence[Signature]) -> tuple[list[Signature], list[Signature]]:
    """Three Ed25519 cosignatures at most: of offices, and of brokers, which have one if there is any."""
    short = [line for line in signatures if len(line.blob) == _COSIGNATURE_BYTES]
    brokers = [line for line in short if _BROKER in line.name]
    offices = [line for line in short if _BROKER not in line.name][: COSIGNERS_MAX - bool(brokers)]
    return offices, brokers[: COSIGNERS_MAX - len(offices)]


def for_paper(note: bytes) -> tuple[bytes, int]:
    """A signed checkpoint with its log's line and three Ed25519 cosignatures at most; how many these are.

    Longer, post-quantum lines stay in the published log: they would not fit.
    """
    parsed = parse_note_untrusted(note)
    own, *others = parsed.signatures
    offices, brokers = _cosigners(others)
    return Note(text=parsed.text, signatures=(own, *offices, *brokers)).encode(), len(offices) + len(brokers)


def worth(note: bytes) -> tuple[int, int]:
    """What a signed checkpoint proves on paper, the more the larger: kinds of witnesses, then how many."""
    kinds = _cosigners(parse_note_untrusted(note).signatures[1:])
    return sum(map(bool, kinds)), sum(map(len, kinds))


def make_receipt(entry: bytes, index: int, note: bytes, read_tile: ReadTile) -> bytes:
    """The file that proves ``entry``, leaf ``index``, under a checkpoint of the log ``read_tile`` reads."""
    return prove(index, for_paper(note)[0], read_tile).with_extra(pack_entry(entry)).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A receipt that holds under a policy."""

    entry: Mapping[str, Any]
    head: SignedHead
    event: Event

    def says(self, event: Event) -> bool:
        """Whether it proves this event; each one that a witness cosigned proves that it was witnessed."""
        return event is self.event or (event is Event.WITNESSED and bool(self.head.cosigners))


def as_written(saved: bytes) -> bytes:
    """The file of a receipt as it left the office, out of a text that was read from paper and saved.

    Programs of telephones and of Windows put a mark in front, end lines with two bytes, drop the last end.
    """
    return saved.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").rstrip(b"\n") + b"\n"


def open_receipt_untrusted(data: bytes, policy: Policy, expected: Event | None = None) -> Receipt:
    """Read and verify a receipt.

    MalformedInput ``bad_receipt`` or ``bad_entry`` and as parse_proof_untrusted; VerificationFailed as
    verify_proof, and ``wrong_event`` where it proves another event than ``expected``.
    """
    proof = parse_proof_untrusted(data)
    if proof.extra is None:
        raise MalformedInput("bad_receipt", "a proof without the entry that it is about")
    packed = unpack_entry_untrusted(proof.extra)
    head = verify_proof(proof, packed, policy)
    entry = decode_entry_untrusted(packed)
    event = event_of(entry)
    if event is None or entry["seq"] != proof.index:
        raise MalformedInput("bad_receipt", f"entry {proof.index} ({entry['t']}) is no event of an alert")
    receipt = Receipt(entry=entry, head=head, event=event)
    if expected is not None and not receipt.says(expected):
        raise VerificationFailed("wrong_event", f"it proves '{event.value}', not '{expected.value}'")
    return receipt
