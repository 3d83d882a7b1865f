"""Writes envelopes/*.json: ``python -m tests.vectors.make_envelopes``. One fault per file, one answer.

Every fault is made on purpose by someone who holds the sender's keys or the recipient's public receive key,
whatever ``protocol.sealing`` itself would refuse to make. ``recipient.json`` holds what the recipient knows.
"""

import base64
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keys import labels
from keys.card import parse_certificate_untrusted
from keys.primitives import labelled_hash
from protocol import limits, wire
from protocol.disclosures import (
    Disclosure,
    OfficerSignature,
    decode_core_untrusted,
    decode_disclosures_untrusted,
    encode_disclosures,
)
from protocol.items import (
    Acknowledgement,
    AudienceLeaves,
    AudienceOpening,
    HeartBeat,
    Item,
    KeyAnnouncement,
    ReceivedRange,
    UnknownKeyNotice,
    encode_items,
)
from protocol.message import MessageType, SignedMessage, certificate_core, parse_header_untrusted
from protocol.receipts import Receipt, ReceiptState, encode_receipts
from protocol.release import OfficerSigner, ReleasedAlert, ReleasePolicy, prepare, release_prepared
from tests.protocol.offices import (
    MAE_SAI,
    MYITKYINA,
    NOW_MS,
    TENGCHONG,
    an_opening,
    certificate_of,
    counting_random,
    forge,
    header_of,
    plaintext_of,
    released,
    sealed,
    seed,
    shared_opening,
    signed_alert,
    signed_message,
    signed_parts,
    signed_shared,
    vehicle_alert,
    victim_alert,
)

FOLDER = Path(__file__).parent / "envelopes"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One file. ``outcome`` is the result's type, or the family of junk; ``knows`` changes the desk."""

    name: str
    about: str
    outcome: str
    envelope: bytes
    code: str = ""
    knows: tuple[tuple[str, Any], ...] = ()

    def to_json(self) -> str:
        return json.dumps(
            {
                "about": self.about,
                "outcome": self.outcome,
                "code": self.code,
                "knows": dict(self.knows),
                "envelope": base64.b64encode(self.envelope).decode(),
            },
            indent=1,
        )


PLAIN = released(vehicle_alert())
SIGNED = signed_alert(PLAIN)
SEALED = sealed(SIGNED)
AUDIENCE = encode_items([AudienceOpening(opening=PLAIN.opening_for(TENGCHONG.id))])
CORE = decode_core_untrusted(PLAIN.core)
ANNOUNCEMENT = KeyAnnouncement(
    key_version=1, rk_gen=2, key_id=b"\x02" * 8, public=MYITKYINA.receive_key.public_bytes
)
ACKNOWLEDGEMENT = Acknowledgement(
    key_version=1,
    instance=MYITKYINA.instance,
    ranges=(ReceivedRange(instance=TENGCHONG.instance, contiguous_to=7, bitmap=0b10),),
)
ITEMS = encode_items([ACKNOWLEDGEMENT, ANNOUNCEMENT])
RECEIPTS = encode_receipts(
    [
        Receipt(
            alert_id=PLAIN.alert_id,
            hh=SIGNED.hh,
            state=ReceiptState.DELIVERED,
            at_ms=NOW_MS,
            log_index=12,
        )
    ]
)
SECOND = replace(MYITKYINA, key_version=2)
TO_TWO = released(vehicle_alert(), audience=[MAE_SAI.id, TENGCHONG.id], name="to two")
SHARED_SIGNED = signed_shared(TO_TWO, [MAE_SAI, TENGCHONG])
SHARED_OPENING = shared_opening(TO_TWO, TENGCHONG)
SHARED = sealed(SHARED_SIGNED, opening=SHARED_OPENING)
SHARED_HEADER = parse_header_untrusted(SHARED_SIGNED.header)


def message(
    core: bytes = PLAIN.core,
    disclosures: bytes = PLAIN.disclosures,
    piggyback: bytes = AUDIENCE,
    **header: Any,
) -> SignedMessage:
    """Really signed by Myitkyina, whatever it says."""
    return signed_parts(header_of(core, piggyback, **header).encode(), core, disclosures, piggyback)


def junk(name: str, about: str, family: str, code: str, envelope: bytes, **knows: Any) -> Case:
    return Case(
        name=name, about=about, outcome=family, code=code, envelope=envelope, knows=tuple(knows.items())
    )


def refused(name: str, about: str, code: str, envelope: bytes, **knows: Any) -> Case:
    return Case(
        name=name, about=about, outcome="Refused", code=code, envelope=envelope, knows=tuple(knows.items())
    )


def opened(name: str, about: str, outcome: str, envelope: bytes, code: str = "", **knows: Any) -> Case:
    return Case(
        name=name, about=about, outcome=outcome, envelope=envelope, code=code, knows=tuple(knows.items())
    )


def flipped(data: bytes, at: int, bit: int = 0) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1 << bit
    return bytes(changed)


def by(author: OfficerSigner, releaser: OfficerSigner | None = None) -> ReleasedAlert:
    """A vehicle alert, or with a releaser a victim alert, under any officers and no policy."""
    alert = vehicle_alert() if releaser is None else victim_alert()
    prepared = prepare(alert, author=author, audience=[TENGCHONG.id], random=counting_random("vector"))
    lenient = ReleasePolicy(supervisor_releases=False)
    return release_prepared(prepared, policy=lenient, now_ms=NOW_MS, releaser=releaser)


def good() -> Iterator[Case]:
    yield opened("alert", "one officer, 8 KiB", "OpenedAlert", SEALED)
    two = released(victim_alert(), releaser=3)
    yield opened(
        "alert-two-officers", "a victim, released by a supervisor", "OpenedAlert", sealed(signed_alert(two))
    )
    alone = released(victim_alert(), emergency_reason="boat leaves now, nobody else on duty")
    yield opened(
        "alert-emergency",
        "a victim, released by one officer",
        "OpenedAlert",
        sealed(signed_alert(alone)),
        "emergency",
    )
    with_items = signed_alert(PLAIN, items=[ANNOUNCEMENT, ACKNOWLEDGEMENT])
    yield opened(
        "alert-with-items",
        "key announcement and acknowledgement beside it",
        "OpenedAlert",
        sealed(with_items),
    )
    for kib, letters in ((16, 4_000), (32, 7_900), (64, 7_990)):
        # Three bytes a letter from 32 KiB on, as Burmese has.
        text = {"language": "my", "text": ("x" if kib == 16 else "\u1000") * letters}
        entities = [{"entity": "vehicle", "description": "y" * 1_000}] * (0 if kib < 64 else 10)
        large = released(vehicle_alert(text=text, entities=entities))
        yield opened(f"alert-{kib}-kib", "a longer alert", "OpenedAlert", sealed(signed_alert(large)))
    yield opened("shared", "one message to two offices, ours the second", "OpenedAlert", SHARED)
    yield opened(
        "shared-bodyless",
        "the same, expired before it arrived",
        "OpenedBodyless",
        sealed(SHARED_SIGNED, opening=SHARED_OPENING, bodyless=True),
    )
    late = NOW_MS + 8 * limits.DAY_MS
    yield opened("alert-stale", "arrives after expires_ms", "OpenedAlert", SEALED, "stale", now_ms=late)
    yield opened(
        "alert-erase-due",
        "arrives after erase_at_ms",
        "OpenedAlert",
        SEALED,
        "erase_due stale",
        now_ms=NOW_MS + 15 * limits.DAY_MS,
    )
    yield opened(
        "alert-from-the-future",
        "created 11 minutes ahead",
        "OpenedAlert",
        SEALED,
        "clock_suspect",
        now_ms=NOW_MS - 11 * limits.MINUTE_MS,
    )
    old = sealed(signed_alert(PLAIN, created_ms=1))
    yield opened("alert-from-1970", "the sender's clock stands at 1970", "OpenedAlert", old, "clock_suspect")
    far = NOW_MS + limits.DAY_MS * 366
    yield opened(
        "alert-certificate-expired",
        "the sender did not renew",
        "OpenedAlert",
        SEALED,
        "certificate_expired erase_due stale",
        now_ms=far,
    )
    yield opened(
        "bodyless",
        "expired before delivery: header and signature alone",
        "OpenedBodyless",
        sealed(SIGNED, bodyless=True),
    )
    control = signed_message(MessageType.CONTROL, ITEMS)
    yield opened("control", "acknowledgement and announcement", "OpenedMessage", sealed(control))
    cover = signed_message(MessageType.COVER, encode_items([HeartBeat(highest_seq=9, at_ms=NOW_MS)]))
    yield opened("cover", "a heartbeat", "OpenedMessage", sealed(cover))
    nack = signed_message(MessageType.NACK, encode_items([UnknownKeyNotice(envelope_hashes=(bytes(32),))]))
    yield opened("nack", "we named a key it never had", "OpenedMessage", sealed(nack))
    receipt = signed_message(MessageType.RECEIPT, RECEIPTS, items=[ACKNOWLEDGEMENT])
    yield opened("receipt", "delivered, with an acknowledgement beside it", "OpenedMessage", sealed(receipt))
    yield opened(
        "card",
        "brings the certificate of version 2 and is signed under it",
        "OpenedMessage",
        sealed(new_card()),
    )
    core = certificate_core(certificate_of(SECOND, revoked_below=2), [])
    reset = signed_message(MessageType.RESET, core, sender=SECOND)
    yield opened(
        "reset",
        "from an instance nobody announced",
        "OpenedMessage",
        sealed(reset),
        judgement="other_instance",
    )
    known = certificate_core(certificate_of(MYITKYINA), [])
    yield opened(
        "reset-not-newer",
        "under the version that is known already",
        "ResetNotNewer",
        sealed(signed_message(MessageType.RESET, known)),
        judgement="other_instance",
    )
    foreign = certificate_core(parse_certificate_untrusted(MAE_SAI.certificate(key_version=2)), [])
    yield junk(
        "reset-other-root",
        "a certificate of another office",
        "VerificationFailed",
        "office_id_mismatch",
        sealed(signed_message(MessageType.RESET, foreign, sender=SECOND)),
    )
    yield opened(
        "reset-while-suspended", "ends a suspension", "OpenedMessage", sealed(reset), state="suspended"
    )


def new_card(**certificate: Any) -> SignedMessage:
    core = certificate_core(certificate_of(SECOND, **certificate), [])
    return signed_message(MessageType.CARD, core, sender=SECOND)


def shared_with(items: Sequence[Item]) -> bytes:
    """The message to two offices with other items beside it, really signed."""
    beside = encode_items(items)
    header = replace(SHARED_HEADER, piggyback_hash=labelled_hash(labels.PIGGYBACK, beside))
    made = signed_parts(header.encode(), TO_TWO.core, TO_TWO.disclosures, beside)
    return sealed(made, opening=SHARED_OPENING)


def outside() -> Iterator[Case]:
    yield junk("size-short", "one byte short of 8 KiB", "MalformedInput", "envelope_size", SEALED[:-1])
    yield junk("size-long", "one byte more than 8 KiB", "MalformedInput", "envelope_size", SEALED + b"\x00")
    yield junk("version", "version 2", "MalformedInput", "envelope_version", b"\x02" + SEALED[1:])
    yield opened("key-unknown", "a receive key this office never had", "UnknownKey", flipped(SEALED, 1))
    yield opened("key-deleted", "a receive key deleted after use", "LateDuplicate", SEALED, deleted=True)
    yield junk(
        "wrap-flipped", "one bit of the wrap", "VerificationFailed", "unwrap_failed", flipped(SEALED, 700)
    )
    swapped = SEALED[: limits.BLOB_OFFSET_BYTES] + sealed(SIGNED, name="other")[limits.BLOB_OFFSET_BYTES :]
    yield junk(
        "blob-of-another",
        "the blob of another item under this wrap",
        "VerificationFailed",
        "unwrap_failed",
        swapped,
    )
    yield junk(
        "blob-flipped", "one bit of the blob", "VerificationFailed", "unwrap_failed", flipped(SEALED, 5000)
    )
    plaintext = plaintext_of(SIGNED)
    foreign = forge(plaintext, sender_id=MAE_SAI.id)
    yield junk(
        "info-other-sender",
        "wrapped as if from another office",
        "VerificationFailed",
        "unwrap_failed",
        foreign,
    )
    tail = forge(plaintext, info_tail=b"\x00")
    yield junk("info-longer", "wrapped under a longer info", "VerificationFailed", "unwrap_failed", tail)


def wrapped() -> Iterator[Case]:
    plaintext = plaintext_of(SIGNED)
    opening = an_opening().encode()
    tail = forge(plaintext, wrapped_opening=opening + b"\x00\x00\x00\x01")
    yield junk("wrapped-tail", "the four last bytes are not zero", "MalformedInput", "leaf_opening", tail)
    unknown_flag = an_opening(flags=2).encode()
    yield junk(
        "wrapped-flag",
        "a flag nobody knows",
        "MalformedInput",
        "leaf_opening",
        forge(plaintext, wrapped_opening=unknown_flag + bytes(4)),
    )
    room_bytes = 6863 - len(plaintext)
    yield junk(
        "padding-unmarked",
        "zeros without a mark",
        "MalformedInput",
        "padding",
        forge(plaintext, padding=bytes(room_bytes)),
    )
    yield junk(
        "padding-not-zero",
        "a byte after the mark",
        "MalformedInput",
        "padding",
        forge(plaintext, padding=b"\x80" + bytes(room_bytes - 2) + b"\x01"),
    )
    yield junk(
        "padding-two-marks",
        "a second mark",
        "MalformedInput",
        "message_malformed",
        forge(plaintext, padding=b"\x80\x80" + bytes(room_bytes - 2)),
    )
    yield junk(
        "body-tail",
        "a byte after the body",
        "MalformedInput",
        "message_malformed",
        forge(plaintext + b"\x01"),
    )
    yield junk(
        "body-cut",
        "the body ends inside a part",
        "MalformedInput",
        "message_malformed",
        forge(plaintext[:-1]),
    )
    yield junk(
        "body-empty-core",
        "a body with an empty core",
        "MalformedInput",
        "message_malformed",
        forge(plaintext_of(SIGNED, with_body=False) + bytes(12)),
    )
    yield junk(
        "signature-cut",
        "the message ends inside its signature",
        "MalformedInput",
        "message_malformed",
        forge(plaintext[:2000]),
    )
    yield junk("message-empty", "nothing but padding", "MalformedInput", "message_malformed", forge(b""))
    marked = an_opening(flags=1).encode() + bytes(4)
    yield junk(
        "bodyless-with-body",
        "says it has no body and has one",
        "MalformedInput",
        "message_malformed",
        forge(plaintext, wrapped_opening=marked),
    )
    bare = plaintext_of(SIGNED, with_body=False)
    yield junk(
        "body-missing", "says it has a body and has none", "MalformedInput", "message_malformed", forge(bare)
    )


def headers() -> Iterator[Case]:
    fits = header_of(PLAIN.core, AUDIENCE)
    raw = fits.encode()

    def with_header(header: bytes) -> bytes:
        return forge(plaintext_of(signed_parts(header, PLAIN.core, PLAIN.disclosures, AUDIENCE)))

    def field(name: str, about: str, at: int, value: bytes) -> Case:
        changed = raw[:at] + value + raw[at + len(value) :]
        return junk(f"header-{name}", about, "MalformedInput", "header_malformed", with_header(changed))

    yield field("magic", "another magic", 0, b"SLW2")
    yield field("type-4", "type 4 does not exist", 4, b"\x04")
    yield field("type-0", "type 0 does not exist", 4, b"\x00")
    yield field("suite-0", "an older suite", 5, b"\x00")
    yield field("suite-2", "a newer suite", 5, b"\x02")
    yield field("flags", "a flag nobody knows", 6, b"\x00\x01")
    yield field("created", "created after the year 9999", 68, struct.pack(">Q", limits.TIME_MS_MAX + 1))
    yield field("expires", "expires at the end of 64 bits", 76, b"\xff" * 8)
    yield field(
        "core-length", "a core longer than any body", 116, struct.pack(">I", limits.BODY_BYTES_MAX + 1)
    )
    yield field("no-leaf", "no leaves", 152, b"\x00\x00")
    yield field("leaf-count", "more leaves than are there", 152, b"\x00\x02")
    three = replace(fits, leaves=fits.leaves * 3).encode()
    yield junk(
        "header-three-leaves", "not a power of two", "MalformedInput", "header_malformed", with_header(three)
    )
    for name, about, header in (
        ("control", "anything but an alert to two", replace(SHARED_HEADER, type=MessageType.CONTROL)),
        ("instance", "the instance of one pair, to two", replace(SHARED_HEADER, instance=b"\x01" * 8)),
        ("none", "no instance, to one", replace(fits, instance=bytes(8))),
    ):
        odd = with_header(header.encode())
        yield junk(f"header-shared-{name}", about, "MalformedInput", "header_malformed", odd)
    yield junk("header-cut", "one byte short", "MalformedInput", "header_malformed", with_header(raw[:-1]))
    yield junk(
        "header-tail", "one byte more", "MalformedInput", "header_malformed", with_header(raw + b"\x00")
    )
    yield junk("header-empty", "no header at all", "MalformedInput", "header_malformed", with_header(b""))
    other = message(sender=MAE_SAI.id)
    yield junk(
        "sender-other",
        "names an office this receive key was not given to",
        "VerificationFailed",
        "sender_mismatch",
        forge(plaintext_of(other)),
    )


def signatures() -> Iterator[Case]:
    later = message(key_version=2)
    yield opened(
        "card-unknown", "a key version without a certificate here", "PendingCard", forge(plaintext_of(later))
    )
    yield junk(
        "key-revoked",
        "a revoked key version",
        "VerificationFailed",
        "key_version_revoked",
        SEALED,
        revoked_below=2,
    )
    certificate_only = new_card()
    wrong_version = signed_parts(
        header_of(certificate_only.core, encode_items([]), kind=MessageType.CARD).encode(),
        certificate_only.core,
        b"",
        encode_items([]),
    )
    yield junk(
        "card-other-version",
        "signed under version 1, brings version 2",
        "VerificationFailed",
        "certificate_mismatch",
        forge(plaintext_of(wrong_version)),
    )
    own_root = certificate_core(parse_certificate_untrusted(MAE_SAI.certificate(key_version=2)), [])
    foreign_card = signed_message(MessageType.CARD, own_root, sender=SECOND)
    yield junk(
        "card-other-root",
        "a certificate of another office",
        "VerificationFailed",
        "office_id_mismatch",
        sealed(foreign_card),
    )
    forged_certificate = flipped(certificate_only.core, 4000)
    forged_card = signed_message(MessageType.CARD, forged_certificate, sender=SECOND)
    yield junk(
        "card-forged",
        "one bit of the certificate",
        "VerificationFailed",
        "signature_invalid",
        sealed(forged_card),
    )
    short_card = signed_message(MessageType.CARD, certificate_only.core[:100], sender=SECOND)
    yield junk(
        "card-cut", "a certificate cut short", "MalformedInput", "certificate_malformed", sealed(short_card)
    )

    def with_signature(signature: bytes) -> bytes:
        return forge(plaintext_of(replace(SIGNED, signature=signature)))

    yield junk(
        "signature-mldsa",
        "one bit of the ML-DSA half",
        "VerificationFailed",
        "signature_invalid",
        with_signature(flipped(SIGNED.signature, 100)),
    )
    yield junk(
        "signature-ed25519",
        "one bit of the Ed25519 half",
        "VerificationFailed",
        "signature_invalid",
        with_signature(flipped(SIGNED.signature, 3320)),
    )
    other = signed_alert(PLAIN, created_ms=NOW_MS + 1)
    yield junk(
        "signature-of-another",
        "the signature of another message",
        "VerificationFailed",
        "signature_invalid",
        with_signature(other.signature),
    )
    halves = SIGNED.signature[:3309] + other.signature[3309:]
    yield junk(
        "signature-mixed",
        "halves of two signatures",
        "VerificationFailed",
        "signature_invalid",
        with_signature(halves),
    )
    labelled = MYITKYINA.operational.sign(b"salween/v1/officer-list", SIGNED.header)
    yield junk(
        "signature-other-label",
        "made for another purpose",
        "VerificationFailed",
        "signature_invalid",
        with_signature(labelled),
    )
    stranger = signed_parts(
        SIGNED.header, SIGNED.core, SIGNED.disclosures, SIGNED.piggyback, signer=MAE_SAI.operational
    )
    yield junk(
        "signature-other-key",
        "signed by another office",
        "VerificationFailed",
        "signature_invalid",
        forge(plaintext_of(stranger)),
    )


def bound() -> Iterator[Case]:
    other = released(vehicle_alert(tlp="green"), name="other")
    swapped = replace(SIGNED, core=other.core)
    yield junk(
        "core-swapped",
        "the core of another alert",
        "VerificationFailed",
        "core_mismatch",
        forge(plaintext_of(swapped)),
    )
    length = message(core_bytes=len(PLAIN.core) + 1)
    yield junk(
        "core-length",
        "one byte longer than the header says",
        "VerificationFailed",
        "core_mismatch",
        forge(plaintext_of(length)),
    )
    beside = replace(SIGNED, piggyback=ITEMS)
    yield junk(
        "piggyback-swapped",
        "items nobody signed",
        "VerificationFailed",
        "piggyback_mismatch",
        forge(plaintext_of(beside)),
    )
    passed_on = signed_alert(released(vehicle_alert(), audience=[MAE_SAI.id]), recipient=MAE_SAI)
    yield junk(
        "passed-on",
        "sent to Mae Sai, passed on as if to us",
        "VerificationFailed",
        "not_for_me",
        sealed(passed_on),
    )
    for name, about, change in (
        ("leaf-index", "a leaf the header does not have", {"leaf_index": 1}),
        ("leaf-blind", "another blind", {"blind": bytes(16)}),
        ("leaf-number", "another number in our order", {"pair_seq": 2}),
        ("leaf-key-first", "another first number under the key", {"rk_first": 2}),
        ("leaf-key-known", "another key acknowledged", {"rk_known": bytes(8)}),
        ("leaf-previous", "another predecessor", {"pair_prev": b"\x01" * 32}),
    ):
        opening = replace(an_opening(), **change) if name != "leaf-index" else an_opening(leaf_index=1)
        yield junk(name, about, "VerificationFailed", "not_for_me", sealed(SIGNED, opening=opening))
    of_another = replace(SHARED_OPENING, leaf_index=1 - SHARED_OPENING.leaf_index)
    yield junk(
        "shared-leaf-of-another",
        "to two, the leaf of the other one",
        "VerificationFailed",
        "not_for_me",
        sealed(SHARED_SIGNED, opening=of_another),
    )
    yield junk(
        "instance-hint",
        "four bytes of an instance, to one",
        "MalformedInput",
        "leaf_opening",
        forge(plaintext_of(SIGNED), wrapped_opening=an_opening().encode() + MYITKYINA.instance[:4]),
    )


def placed() -> Iterator[Case]:
    yield refused(
        "suite-below-minimum",
        "the peer asked for a later suite",
        "suite_below_minimum",
        SEALED,
        minimum_suite=2,
    )
    yield opened(
        "pair-half",
        "the peer has not confirmed the pairing",
        "PendingPair",
        SEALED,
        "pair_half",
        state="half",
    )
    yield opened(
        "pair-suspended", "a key was revoked", "PendingPair", SEALED, "pair_suspended", state="suspended"
    )
    elsewhere = forge(plaintext_of(SHARED_SIGNED), wrapped_opening=SHARED_OPENING.encode() + b"\xff" * 4)
    yield opened(
        "shared-instance-other",
        "to two, numbered in an instance nobody announced",
        "PendingPair",
        elsewhere,
        "other_instance",
    )
    yield opened(
        "instance-other",
        "an instance nobody announced",
        "PendingPair",
        SEALED,
        "other_instance",
        judgement="other_instance",
    )
    yield opened("duplicate", "taken in before", "Duplicate", SEALED, judgement="duplicate")
    yield opened(
        "equivocation",
        "another message stands in its place",
        "Equivocation",
        SEALED,
        judgement="equivocation",
    )
    yield junk(
        "beyond-window",
        "a number far ahead",
        "VerificationFailed",
        "beyond_window",
        SEALED,
        judgement="beyond_window",
    )


def bodies() -> Iterator[Case]:
    fields = wire.decode_untrusted(PLAIN.core, bytes_max=limits.BODY_BYTES_MAX)
    assert isinstance(fields, dict)

    def core(name: str, about: str, code: str, data: bytes) -> Case:
        return refused(f"core-{name}", about, code, forge(plaintext_of(message(core=data))))

    yield core("keys-unsorted", "keys out of order", "wire_not_canonical", b"\x82\xa1b\x01\xa1a\x01")
    version = PLAIN.core.index(b"\xa1v\x01")
    long_one = PLAIN.core[: version + 2] + b"\xcc\x01" + PLAIN.core[version + 3 :]
    yield core("long-integer", "version 1 in two bytes", "wire_not_canonical", long_one)
    yield core("key-twice", "one key twice", "wire_not_canonical", b"\x82\xa1v\x01\xa1v\x01")
    yield core("true-for-1", "version true", "field_type", wire.encode({**fields, "v": True}))
    yield core("float", "a float", "wire_type", b"\x81\xa1v\xcb\x3f\xf0" + bytes(6))
    yield core("deep", "2,000 lists in each other", "wire_depth", b"\x91" * 2000 + b"\x90")
    yield core("huge-map", "a map of 2^28", "wire_items", b"\xdf\x10\x00\x00\x00")
    yield core("many-maps", "4,000 empty maps, then more", "wire_items", b"\xdc\x10\x01" + b"\x80" * 4097)
    yield core("not-a-map", "a list", "field_type", wire.encode([]))
    yield core(
        "field-missing",
        "no salt",
        "field_missing",
        wire.encode({k: v for k, v in fields.items() if k != "salt"}),
    )
    yield core(
        "critical",
        "a field of a later version that may not be ignored",
        "core_critical",
        wire.encode({**fields, "!x": 1}),
    )
    yield core(
        "digests-unsorted",
        "digests out of order",
        "core_digests",
        replace(CORE, digests=CORE.digests[::-1]).encode(),
    )
    dire = wire.encode({**fields, "severity": "dire"})
    yield core("severity", "a severity outside the list", "alert_invalid", dire)

    def beside(name: str, about: str, code: str, data: bytes) -> Case:
        return refused(f"disclosures-{name}", about, code, forge(plaintext_of(message(disclosures=data))))

    values = decode_disclosures_untrusted(PLAIN.disclosures)
    changed = [replace(d, value="5C-1235") if d.path == "e0/plate" else d for d in values]
    yield beside("changed", "another plate", "disclosure_unsigned", encode_disclosures(changed))
    yield beside("missing", "one value left out", "disclosure_missing", encode_disclosures(values[1:]))
    more = [*values, Disclosure(path="e0/year", salt=bytes(16), value="1999")]
    yield beside("more", "one value too many", "disclosure_unsigned", encode_disclosures(more))
    yield beside("malformed", "not a list", "disclosures", b"\x80")
    yield beside("empty", "no bytes at all", "wire_truncated", b"")

    bidi = released_values({"e0/entity": "vehicle", "e0/plate": "1\u202e2"})
    yield refused("text-bidi", "a plate that turns around", "alert_invalid", bidi)
    roleless = released_values({"e0/entity": "person", "e0/name": "Person One"})
    yield refused("person-without-role", "who may be victim or suspect", "alert_invalid", roleless)

    def piggyback(name: str, about: str, code: str, data: bytes) -> Case:
        return refused(f"piggyback-{name}", about, code, forge(plaintext_of(message(piggyback=data))))

    yield piggyback("malformed", "not msgpack", "wire_type", b"\xc1")
    yield piggyback(
        "critical",
        "an item of a later version that may not be ignored",
        "critical_item_unknown",
        wire.encode([{"k": "!new"}]),
    )
    leaves = AudienceLeaves(leaves=TO_TWO.audience_leaves)
    yield refused(
        "shared-items",
        "items for one pair on a message to two",
        "piggyback_shared",
        shared_with([leaves, ACKNOWLEDGEMENT]),
    )
    yield refused(
        "shared-opening",
        "the audience opening of one office on a message to two",
        "piggyback_shared",
        shared_with([AudienceOpening(opening=TO_TWO.opening_for(TENGCHONG.id))]),
    )
    yield refused("shared-nothing", "no leaves of its audience", "piggyback_shared", shared_with([]))
    yield refused(
        "shared-audience-of-another",
        "the leaves of an audience to which its officers did not release it",
        "not_in_audience",
        shared_with([AudienceLeaves(leaves=(bytes(32), TO_TWO.audience_leaves[1]))]),
    )
    yield refused(
        "shared-audience-wider",
        "more leaves of an audience than of the header",
        "piggyback_shared",
        shared_with([AudienceLeaves(leaves=TO_TWO.audience_leaves * 2)]),
    )

    control = header_of(ITEMS, encode_items([]), kind=MessageType.CONTROL).encode()
    with_disclosures = signed_parts(control, ITEMS, PLAIN.disclosures, encode_items([]))
    yield refused(
        "control-disclosures",
        "values nobody signed on a control message",
        "disclosures_unsigned",
        forge(plaintext_of(with_disclosures)),
    )
    malformed = signed_message(MessageType.CONTROL, b"\xc1")
    yield refused("control-malformed", "items that are not msgpack", "wire_type", sealed(malformed))
    empty = signed_message(MessageType.RECEIPT, encode_items([]))
    yield refused("receipt-empty", "a receipt of nothing", "receipts_wrong", sealed(empty))


def released_values(values: dict[str, str]) -> bytes:
    """A core officer 1 really signed over values the form would refuse."""
    disclosures = [
        Disclosure(path=p, salt=bytes([n]) * 16, value=v) for n, (p, v) in enumerate(values.items())
    ]
    unsigned = replace(CORE, digests=tuple(sorted(d.digest for d in disclosures)), signatures=())
    signature = MYITKYINA.officer(1).sign(
        b"salween/v1/officer-author", unsigned.unsigned_id + unsigned.audience_root
    )
    signed = OfficerSignature(role="author", officer_number=1, list_version=1, signature=signature)
    core = replace(unsigned, signatures=(signed,)).encode()
    return forge(plaintext_of(message(core=core, disclosures=encode_disclosures(disclosures))))


def releases() -> Iterator[Case]:
    def alert(name: str, about: str, code: str, one: ReleasedAlert, *, keep: int | None = None) -> Case:
        core = decode_core_untrusted(one.core)
        encoded = replace(core, signatures=core.signatures[:keep]).encode()
        opening = encode_items([AudienceOpening(opening=one.opening_for(TENGCHONG.id))])
        return refused(name, about, code, forge(plaintext_of(message(encoded, one.disclosures, opening))))

    first, second, supervisor, former = (MYITKYINA.officer(number) for number in (1, 2, 3, 4))
    victim = by(first, supervisor)
    yield alert("author-missing", "no officer signed", "author_missing", victim, keep=0)
    yield alert(
        "second-officer-missing", "a victim, released by one", "second_officer_missing", victim, keep=1
    )
    yield alert(
        "supervisor-needed",
        "released by an officer who is no supervisor",
        "supervisor_needed",
        by(first, second),
    )
    yield alert("officer-unknown", "an officer not on the list", "officer_unknown", by(MYITKYINA.officer(9)))
    yield alert("officer-not-valid", "an officer who had left", "officer_not_valid", by(former))
    yield alert(
        "officer-forged", "officer 1 by another key", "signature_invalid", by(replace(second, number=1))
    )
    twice = by(first, replace(first, number=3))
    yield alert(
        "officer-forged-twice", "one key signs as author and as supervisor", "signature_invalid", twice
    )
    newer = by(replace(first, list_version=2))
    waits = forge(
        plaintext_of(
            message(
                newer.core,
                newer.disclosures,
                encode_items([AudienceOpening(opening=newer.opening_for(TENGCHONG.id))]),
            )
        )
    )
    yield opened(
        "officer-list-unknown", "signed under a list that has not arrived", "PendingOfficerList", waits
    )

    yield refused(
        "audience-missing",
        "nothing shows that it was released to us",
        "audience_opening_missing",
        forge(plaintext_of(message(piggyback=encode_items([])))),
    )
    elsewhere = released(vehicle_alert(), audience=[MAE_SAI.id], name="elsewhere")
    borrowed = encode_items([AudienceOpening(opening=elsewhere.opening_for(MAE_SAI.id))])
    redirected = message(elsewhere.core, elsewhere.disclosures, borrowed)
    yield refused(
        "redirected",
        "released to Mae Sai, sent to us by the node",
        "not_in_audience",
        forge(plaintext_of(redirected)),
    )
    malformed = encode_items([AudienceOpening(opening=bytes(17))])
    yield refused(
        "audience-malformed",
        "an opening of impossible length",
        "audience_opening",
        forge(plaintext_of(message(piggyback=malformed))),
    )
    longer = message(expires_ms=NOW_MS + 8 * limits.DAY_MS)
    yield refused(
        "expiry-differs",
        "the header expires later than the alert",
        "expiry_differs",
        forge(plaintext_of(longer)),
    )
    lone = released(victim_alert(), emergency_reason="nobody else on duty")
    yield replace(
        alert("emergency-refused", "one officer, and we take no emergencies", "emergency_not_allowed", lone),
        knows=(("emergency_allowed", False),),
    )


def cases() -> list[Case]:
    """All of them, in the order of the steps they fail at."""
    groups = (good, outside, wrapped, headers, signatures, bound, placed, bodies, releases)
    return [case for group in groups for case in group()]


def recipient() -> dict[str, Any]:
    """What Tengchong knows: enough for another implementation to open every file."""
    return {
        "office_id": TENGCHONG.id.hex(),
        "receive_key_id": TENGCHONG.receive_key_id.hex(),
        "receive_key_seed": seed("Tengchong BLO receive", 32).reveal().hex(),
        "peer_office_id": MYITKYINA.id.hex(),
        "peer_instance": MYITKYINA.instance.hex(),
        "peer_root_public": MYITKYINA.root.public_bytes.hex(),
        "peer_certificate": MYITKYINA.certificate().hex(),
        "peer_officer_list": MYITKYINA.officer_list().hex(),
        "now_ms": NOW_MS + limits.MINUTE_MS,
    }


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for stale in FOLDER.glob("*.json"):
        stale.unlink()
    for case in cases():
        (FOLDER / f"{case.name}.json").write_text(case.to_json() + "\n", encoding="utf-8")
    known = json.dumps(recipient(), indent=1)
    (FOLDER / "recipient.json").write_text(known + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
